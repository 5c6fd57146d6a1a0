"""Losses, layers and networks for tumour segmentation in PyTorch."""

from gliomaseg_layers import functional
from gliomaseg_layers.layers import (
    ASPP,
    AttributeEncoder,
    ChannelAttention,
    DepthwiseSeparableConv,
    MultiScaleConv,
    MultiScaleFusion,
    SpatialAttention,
    SpatialPyramidPooling,
)
from gliomaseg_layers.losses import (
    CompoundLoss,
    DensityLoss,
    DiceLoss,
    OutlierRegionLoss,
    WeightRamp,
)
from gliomaseg_layers.networks import MSFEN, AttributeDeepLab, GatedSegmenter, MUNet, UNet

__version__ = "0.3.0"

__all__ = [
    "ASPP",
    "MSFEN",
    "AttributeDeepLab",
    "AttributeEncoder",
    "ChannelAttention",
    "CompoundLoss",
    "DensityLoss",
    "DepthwiseSeparableConv",
    "DiceLoss",
    "GatedSegmenter",
    "MUNet",
    "MultiScaleConv",
    "MultiScaleFusion",
    "OutlierRegionLoss",
    "SpatialAttention",
    "SpatialPyramidPooling",
    "UNet",
    "WeightRamp",
    "__version__",
    "functional",
]
