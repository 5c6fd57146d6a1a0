# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""A user's program with the extra `metrics`, for type checkers alone."""

from typing import assert_type

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gliomaseg_layers import metrics

mask = np.zeros((8, 8), bool)
preds = torch.zeros(2, 1, 8, 8)


def results() -> None:
    assert_type(metrics.label_regions(mask), tuple[NDArray[np.int32], int])
    assert_type(metrics.count_regions(mask, mask).noise, int)
    assert_type(metrics.region_sizes([mask, mask]).areas, NDArray[np.int64])
    assert_type(metrics.region_sizes([mask]).suggest_windows(), tuple[int, int])
    assert_type(metrics.lesion_wise_scores(mask, mask).dice, float)
    assert_type(metrics.lesion_wise_scores(mask, mask, spacing=(1, 2)).found, int)
    for metric in (metrics.RegionCounts(), metrics.LesionWiseScores(num_classes=4)):
        metric.update(preds, preds, spacing=[(1.0, 0.5), (1.0, 1.0)])
        assert_type(metric.compute(), dict[str, Tensor])


def mistakes() -> None:
    metrics.count_regions(mask)  # type: ignore[call-arg]
    metrics.region_sizes(mask, connectivity="2")  # type: ignore[arg-type]
    metrics.LesionWiseScores(reduction=None)  # type: ignore[arg-type]
    metrics.RegionCounts(num_classes="4")  # type: ignore[arg-type]
