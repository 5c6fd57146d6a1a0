"""The modules of the functional losses, their weighted sum, and a ramp for its weights."""

from gliomaseg_layers.losses.compound import CompoundLoss
from gliomaseg_layers.losses.dice import DiceLoss
from gliomaseg_layers.losses.outlier_region import DensityLoss, OutlierRegionLoss
from gliomaseg_layers.losses.weight_ramp import WeightRamp

__all__ = ["CompoundLoss", "DensityLoss", "DiceLoss", "OutlierRegionLoss", "WeightRamp"]
