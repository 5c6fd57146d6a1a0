"""Counts of noise regions and lesion-wise scores (extra ``metrics``)."""

from gliomaseg_layers.metrics.labels import label_regions
from gliomaseg_layers.metrics.lesion_wise_scores import LesionWiseScores
from gliomaseg_layers.metrics.lesions import LesionScores, lesion_wise_scores
from gliomaseg_layers.metrics.region_counts import RegionCounts
from gliomaseg_layers.metrics.regions import (
    RegionCount,
    RegionSizes,
    count_regions,
    region_sizes,
)

__all__ = [
    "LesionScores",
    "LesionWiseScores",
    "RegionCount",
    "RegionCounts",
    "RegionSizes",
    "count_regions",
    "label_regions",
    "lesion_wise_scores",
    "region_sizes",
]
