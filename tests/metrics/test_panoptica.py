"""Lesion-wise scores against panoptica, where the two rules mean the same.

Without dilation and size limit they do, while no predicted region touches two lesions: panoptica
gives it to one of them, BraTS to both.
"""

from typing import Any

import numpy as np
import pytest
from panoptica import (
    ConnectedComponentsInstanceApproximator,
    InputType,
    Metric,
    NaiveThresholdMatching,
    Panoptica_Evaluator,
)
from scipy import ndimage

from gliomaseg_layers.metrics import label_regions, lesion_wise_scores

EVALUATOR = Panoptica_Evaluator(
    expected_input=InputType.SEMANTIC,
    instance_approximator=ConnectedComponentsInstanceApproximator(),
    instance_matcher=NaiveThresholdMatching(
        allow_many_to_one=True, matching_metric=Metric.IOU, matching_threshold=1e-9
    ),
    instance_metrics=[Metric.DSC],
    global_metrics=[],
)


def blobs(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Return a prediction and a truth of some twenty regions that mostly agree."""
    truth = ndimage.gaussian_filter(rng.random(shape), 2)
    noise = 0.08 * rng.random() * ndimage.gaussian_filter(rng.random(shape), 1)
    predicted = truth + noise
    return predicted > np.quantile(predicted, 0.85), truth > np.quantile(truth, 0.85)


def regions(mask: Any, connectivity: int) -> int:
    return label_regions(mask, connectivity)[1]


def comparable(predicted: Any, truth: Any) -> bool:
    """Tell whether no region touches two lesions, and no 2-D one hangs together by a corner.

    (panoptica connects by edges in 2-D, by corners in 3-D.)
    """
    axes = truth.ndim
    if axes == 2 and any(regions(mask, 1) != regions(mask, 2) for mask in (predicted, truth)):
        return False
    labels, count = label_regions(predicted, axes)
    lesions = label_regions(truth, axes)[0]
    touched = [np.unique(lesions[(labels == n) & truth]) for n in range(1, count + 1)]
    return max(map(len, touched)) < 2


@pytest.mark.parametrize("shape", [(60, 60), (20, 24, 24)])
def test_lesion_wise_scores_agrees_with_panoptica(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    compared = missed = spurious = 0
    for _ in range(60):
        predicted, truth = blobs(rng, shape)
        if not comparable(predicted, truth):
            continue
        theirs: Any = EVALUATOR.evaluate(
            predicted.astype(np.uint8), truth.astype(np.uint8), verbose=False
        )["ungrouped"]
        ours = lesion_wise_scores(predicted, truth, dilation=0, min_size=0)
        assert ours[5:] == (theirs.tp, theirs.fn, theirs.fp)
        total = theirs.sq_dsc * theirs.tp
        assert ours.dice == pytest.approx(total / (theirs.tp + theirs.fn + theirs.fp))
        assert ours.f1 == pytest.approx(theirs.rq)
        assert ours.precision == pytest.approx(theirs.prec)
        assert ours.recall == pytest.approx(theirs.rec)
        compared, missed, spurious = compared + 1, missed + ours.missed, spurious + ours.spurious
    assert min(compared, missed, spurious) >= 3
