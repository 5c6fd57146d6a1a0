"""Counts of noise regions and lesion-wise scores (extra ``metrics``)."""

from gliomaseg_layers.metrics.lesion_dice import LesionScore, LesionWiseDice, lesion_wise_dice
from gliomaseg_layers.metrics.region_counts import RegionCounts
from gliomaseg_layers.metrics.regions import (
    RegionCount,
    RegionSizes,
    count_regions,
    label_regions,
    region_sizes,
)

__all__ = [
    "LesionScore",
    "LesionWiseDice",
    "RegionCount",
    "RegionCounts",
    "RegionSizes",
    "count_regions",
    "label_regions",
    "lesion_wise_dice",
    "region_sizes",
]
