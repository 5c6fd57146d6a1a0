"""One small instance of every layer on feature maps and of every network, and inputs for it."""

import importlib.util
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gliomaseg_layers import (
    ASPP,
    MSFEN,
    AttributeDeepLab,
    ChannelAttention,
    DepthwiseSeparableConv,
    MultiScaleConv,
    MultiScaleFusion,
    MUNet,
    SpatialAttention,
    SpatialPyramidPooling,
    UNet,
)

CHANNELS, ATTRIBUTES = 6, 5
LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "ChannelAttention": lambda d: ChannelAttention(CHANNELS, 2, ("avg", "max"), spatial_dims=d),
    "SpatialAttention": lambda d: SpatialAttention(5, spatial_dims=d),
    "MultiScaleFusion": lambda d: MultiScaleFusion(CHANNELS, kernel_size=3, spatial_dims=d),
    "MultiScaleFusion, coarser": lambda d: MultiScaleFusion(CHANNELS, 4, spatial_dims=d),
    "ASPP": lambda d: ASPP(CHANNELS, 8, (2, 5), spatial_dims=d),
    "ASPP, separable, group": lambda d: ASPP(
        CHANNELS, 8, (2, 5), separable=True, norm="group", spatial_dims=d
    ),
    "ASPP, instance": lambda d: ASPP(CHANNELS, 8, (2,), norm="instance", spatial_dims=d),
    "SpatialPyramidPooling": lambda d: SpatialPyramidPooling(
        CHANNELS, 8, (1, 2, 3), spatial_dims=d
    ),
    "DepthwiseSeparableConv": lambda d: DepthwiseSeparableConv(CHANNELS, 8, 5, spatial_dims=d),
    "MultiScaleConv": lambda d: MultiScaleConv(CHANNELS, 8, spatial_dims=d),
    "MultiScaleConv, plain": lambda d: MultiScaleConv(
        CHANNELS, CHANNELS, (1, 3), separable=False, spatial_dims=d
    ),
}
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "UNet": lambda _: UNet(CHANNELS, 2, (4, 6, 8)),
    "MUNet": lambda _: MUNet(CHANNELS, 2, (4, 6, 8)),
    "MSFEN": lambda _: MSFEN(CHANNELS, 2, (4, 6, 8)),
}
if importlib.util.find_spec("timm"):
    NETWORKS["AttributeDeepLab"] = lambda _: AttributeDeepLab(
        "lcnet_035", 2, ATTRIBUTES, in_channels=CHANNELS
    )
MODULES = LAYERS | NETWORKS
SIZES = {2: (9, 12), 3: (5, 7, 6)}

every_dims = pytest.mark.parametrize("dims", [2, 3])
every_name = pytest.mark.parametrize("name", MODULES)
every_module = pytest.mark.parametrize(
    ("name", "dims"),
    [(name, dims) for dims in (2, 3) for name in (MODULES if dims == 2 else LAYERS)],
)


def inputs(
    name: str, dims: int, batch: int = 2, size: tuple[int, ...] | None = None
) -> list[Tensor]:
    size = size or SIZES[dims]
    first = torch.randn(batch, CHANNELS, *size)
    if name == "AttributeDeepLab":
        return [first, torch.rand(batch, ATTRIBUTES)]
    if not name.startswith("MultiScaleFusion"):
        return [first]
    if "coarser" in name:
        return [first, torch.randn(batch, 4, *(-(-side // 2) for side in size))]
    return [first, torch.randn_like(first)]


def make(name: str, dims: int) -> nn.Module:
    torch.manual_seed(0)
    return MODULES[name](dims)


def literal_fusion(layer: MultiScaleFusion, x: Tensor, y: Tensor) -> Tensor:
    """[ZHANG-MSF] eq. 1-2, word for word."""
    merged = layer.shallow_weight * x + layer.deep_weight * y + layer.bias
    attentions = (layer.channel_attention, layer.spatial_attention)
    channel, pixel = (attention(merged, return_logits=True) for attention in attentions)
    weight = torch.sigmoid(channel + pixel)
    return merged + weight * x + (1 - weight) * y
