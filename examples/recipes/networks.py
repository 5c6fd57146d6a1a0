"""The networks that a recipe's settings name."""

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchvision.models.segmentation import fcn_resnet50

from gliomaseg_layers import networks


class FCN(nn.Module):
    """torchvision's, for any number of channels."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.network = fcn_resnet50(weights=None, weights_backbone=None, num_classes=classes)
        self.network.backbone.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)["out"]  # type: ignore[no-any-return]


def make_network(
    settings: Mapping[str, Any], channels: int, classes: int, attributes: int
) -> nn.Module:
    widths = {"widths": settings["widths"]} if settings["widths"] else {}
    match settings["network"]:
        case "u-net":
            return networks.UNet(channels, classes, **widths)
        case "mu-net":
            return networks.MUNet(channels, classes, **widths)
        case "u-net-mini":
            return networks.UNet.mini(channels, classes)
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
