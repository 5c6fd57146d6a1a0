"""Pure functions on tensors: the mathematics of the library."""

from gliomaseg_layers.functional.box_filter import box_count, box_sum
from gliomaseg_layers.functional.dice import dice_loss
from gliomaseg_layers.functional.outlier_region import (
    density_loss,
    outlier_region_loss,
)
from gliomaseg_layers.functional.outlier_removal import remove_outlier_regions
from gliomaseg_layers.functional.outlier_report import OutlierReport, outlier_report
from gliomaseg_layers.functional.outlier_weight import outlier_weight, outlier_weight_backend
from gliomaseg_layers.functional.region_density import density_map
from gliomaseg_layers.functional.scnp import scnp

__all__ = [
    "OutlierReport",
    "box_count",
    "box_sum",
    "density_loss",
    "density_map",
    "dice_loss",
    "outlier_region_loss",
    "outlier_report",
    "outlier_weight",
    "outlier_weight_backend",
    "remove_outlier_regions",
    "scnp",
]
