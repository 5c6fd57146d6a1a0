"""The cost that each layer's documentation states, computed."""

import re

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import gliomaseg_layers
from gliomaseg_layers import layers

SIDE = 32
STATED = re.compile(
    r"Cost of ``(?P<call>.+?)`` on 32 x 32: (?P<parameters>[\d,]+) parameters,"
    r" (?P<products>[\d,]+) multiply-adds, receptive field (?P<field>[^.]+)\."
)


def inputs(layer: nn.Module) -> list[torch.Tensor]:
    if isinstance(layer, layers.AttributeEncoder):
        return [torch.rand(1, layer.in_features)]
    if isinstance(layer, layers.MultiScaleFusion):
        return [torch.rand(1, layer.channels, SIDE, SIDE) for _ in range(2)]
    channels = getattr(layer, "in_channels", getattr(layer, "channels", 64))
    return [torch.rand(1, channels, SIDE, SIDE)]


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


@pytest.mark.parametrize("name", layers.__all__)
def test_stated_cost(name: str) -> None:
    documentation = " ".join((getattr(layers, name).__doc__ or "").split())
    stated = STATED.search(documentation)
    assert stated, f"{name} states no cost"
    torch.manual_seed(0)
    layer = eval(stated["call"], vars(gliomaseg_layers)).eval()
    given = inputs(layer)
    count = sum(parameter.numel() for parameter in layer.parameters())
    assert stated["parameters"] == f"{count:,}"
    assert stated["products"] == f"{products(layer, given):,}"
    if name == "AttributeEncoder":
        assert stated["field"] == "every attribute"
    else:
        assert stated["field"] == receptive_field(layer, given)
