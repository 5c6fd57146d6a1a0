"""The costs that the documentation of layers and networks states, computed."""

import re

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import gliomaseg_layers
from gliomaseg_layers import AttributeDeepLab, layers
from tests.support.module_cases import NETWORKS

STATED = re.compile(
    r"Cost of ``(?P<call>.+?)`` on (?P<side>\d+) x (?P=side): (?P<parameters>[\d,]+) parameters,"
    r" (?P<products>[\d,]+) multiply-adds(?:, receptive field (?P<field>[^.]+))?\."
)


SIDE = 32  # of the layers' maps


def inputs(layer: nn.Module) -> list[torch.Tensor]:
    if isinstance(layer, layers.AttributeEncoder):
        return [torch.rand(1, layer.in_features)]
    if isinstance(layer, layers.MultiScaleFusion):
        return [torch.rand(1, layer.channels, SIDE, SIDE) for _ in range(2)]
    channels = getattr(layer, "in_channels", getattr(layer, "channels", 64))
    return [torch.rand(1, channels, SIDE, SIDE)]


def parameters(layer: nn.Module) -> int:
    return sum(parameter.numel() for parameter in layer.parameters())


def products(layer: nn.Module, given: list[torch.Tensor]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(*given)
    return counter.get_total_flops() // 2


def receptive_field(layer: nn.Module, given: list[torch.Tensor]) -> str:
    """Return the box of the input that the output's middle pixel depends on."""
    x = given[0].requires_grad_()
    (grad,) = torch.autograd.grad(layer(*given)[..., SIDE // 2, SIDE // 2].sum(), x)
    rows, columns = grad[0].abs().sum(0).nonzero(as_tuple=True)
    height, width = (int(places.max() - places.min()) + 1 for places in (rows, columns))
    return "the image" if (height, width) == (SIDE, SIDE) else f"{height} x {width}"


def stated(name: str) -> list[re.Match[str]]:
    documentation = " ".join((getattr(gliomaseg_layers, name).__doc__ or "").split())
    found = list(STATED.finditer(documentation))
    assert found, f"{name} states no cost"
    return found


@pytest.mark.parametrize("name", layers.__all__)
def test_layers(name: str) -> None:
    (cost,) = stated(name)
    torch.manual_seed(0)
    layer = eval(cost["call"], vars(gliomaseg_layers)).eval()
    given = inputs(layer)
    assert int(cost["side"]) == SIDE
    assert cost["parameters"] == f"{parameters(layer):,}"
    assert cost["products"] == f"{products(layer, given):,}"
    if name == "AttributeEncoder":
        assert cost["field"] == "every attribute"
    else:
        assert cost["field"] == receptive_field(layer, given)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str) -> None:
    """Counted without computing anything."""
    for cost in stated(name):
        network = eval(cost["call"], vars(gliomaseg_layers)).eval().to("meta")
        side = int(cost["side"])
        given = [torch.empty(1, network.in_channels, side, side, device="meta")]
        if isinstance(network, AttributeDeepLab):
            given.append(torch.empty(1, network.attribute_encoder.in_features, device="meta"))
        assert cost["parameters"] == f"{parameters(network):,}"
        assert cost["products"] == f"{products(network, given):,}"
