"""The networks that a recipe's settings name."""

import warnings
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torchvision.models.segmentation import fcn_resnet50

from gliomaseg_layers import MultiScaleConv, networks


class FCN(nn.Module):
    """torchvision's, for any number of channels."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.network = fcn_resnet50(weights=None, weights_backbone=None, num_classes=classes)
        self.network.backbone.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)["out"]  # type: ignore[no-any-return]


class Nothing(nn.Module):
    """Return 0: in the place of an attention its logits, in that of a shortcut nothing to add."""

    def forward(self, maps: Tensor, return_logits: bool = False) -> Tensor:
        return maps.new_zeros(1)


def make_network(
    settings: Mapping[str, Any], channels: int, classes: int, attributes: int
) -> nn.Module:
    network = _make(settings, channels, classes, attributes)
    if isinstance(network, networks.MSFEN):
        take_from_msfen(network, settings["without"])
    elif isinstance(network, networks.MUNet):
        take_from_fusion(network, settings["without"])
    return network


def take_from_fusion(network: networks.MUNet, part: str) -> None:
    """Set an attention's logits to 0, or both's: then the gate is 1/2 everywhere."""
    for fusion in network.fusions:
        for name in ("channel_attention", "spatial_attention"):
            if part in ("attention", name.replace("_", "-")):
                setattr(fusion, name, Nothing())


def take_from_msfen(network: networks.MSFEN, part: str) -> None:
    if part == "modality-attention":
        network.modality_attention = nn.Identity()  # type: ignore[assignment]
    if part == "pyramid":
        bottleneck: Any = network.bottleneck
        bottleneck[-1] = nn.Identity()
    if part in ("scales", "separable"):
        sizes, separable = ((3, 3, 3), True) if part == "scales" else ((3, 5, 7), False)
        network.encoder = nn.ModuleList(
            MultiScaleConv(before, after, sizes, separable=separable)
            for before, after in pairwise([network.in_channels, *network.widths[:-1]])
        )
    for block in network.encoder:
        if part == "residual":
            block.shortcut = Nothing()
        if part in ("channel-attention", "spatial-attention"):
            setattr(block, part.replace("-", "_"), nn.Identity())


def _make(settings: Mapping[str, Any], channels: int, classes: int, attributes: int) -> nn.Module:
    widths = {"widths": settings["widths"]} if settings["widths"] else {}
    match settings["network"]:
        case "u-net":
            return networks.UNet(channels, classes, **widths)
        case "mu-net":
            return networks.MUNet(channels, classes, **widths)
        case "u-net-mini":
            return networks.UNet.mini(channels, classes)
        case "mu-net-mini":
            return networks.MUNet.mini(channels, classes)
        case "msfen":
            return networks.MSFEN(channels, classes, **widths)
        case "fcn":
            return FCN(channels, classes)
    return with_weights(
        settings["pretrained"],
        lambda pretrained: networks.AttributeDeepLab(
            settings["encoder"], classes, attributes, in_channels=channels, pretrained=pretrained
        ),
    )


def with_weights(pretrained: bool, make: Any) -> nn.Module:
    """Make a network with timm's weights, or with random ones where they cannot be had."""
    try:
        network: nn.Module = make(pretrained)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        warnings.warn(f"no pretrained weights: random ones instead ({error})", stacklevel=2)
        network, pretrained = make(False), False
    network.weights = "pretrained" if pretrained else "random"  # type: ignore[assignment]
    return network
