"""Losses and layers for tumour segmentation in PyTorch."""

from gliomaseg_layers import functional
from gliomaseg_layers.losses import CompoundLoss, DiceLoss, OutlierRegionLoss, WeightRamp

__version__ = "0.1.0"

__all__ = [
    "CompoundLoss",
    "DiceLoss",
    "OutlierRegionLoss",
    "WeightRamp",
    "__version__",
    "functional",
]
