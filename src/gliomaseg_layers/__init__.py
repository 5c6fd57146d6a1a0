"""Losses and layers for tumour segmentation in PyTorch."""

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
from gliomaseg_layers.losses import CompoundLoss, DiceLoss, OutlierRegionLoss, WeightRamp

__version__ = "0.2.0"

__all__ = [
    "ASPP",
    "AttributeEncoder",
    "ChannelAttention",
    "CompoundLoss",
    "DepthwiseSeparableConv",
    "DiceLoss",
    "MultiScaleConv",
    "MultiScaleFusion",
    "OutlierRegionLoss",
    "SpatialAttention",
    "SpatialPyramidPooling",
    "WeightRamp",
    "__version__",
    "functional",
]
