"""Layers of the four papers, in 2-D and 3-D; import them from ``gliomaseg_layers``.

The costs in the documentation count the multiply-adds of convolutions and matrix products.
"""

from gliomaseg_layers.layers.aspp import ASPP
from gliomaseg_layers.layers.attention import ChannelAttention, SpatialAttention
from gliomaseg_layers.layers.attributes import AttributeEncoder
from gliomaseg_layers.layers.convolution import DepthwiseSeparableConv, MultiScaleConv
from gliomaseg_layers.layers.fusion import MultiScaleFusion
from gliomaseg_layers.layers.pyramid import SpatialPyramidPooling

__all__ = [
    "ASPP",
    "AttributeEncoder",
    "ChannelAttention",
    "DepthwiseSeparableConv",
    "MultiScaleConv",
    "MultiScaleFusion",
    "SpatialAttention",
    "SpatialPyramidPooling",
]
