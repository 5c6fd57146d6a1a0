"""Lesion-wise scores by hand, against a slow definition, and HD95 as MONAI has it."""

from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from scipy import ndimage

from gliomaseg_layers.metrics import lesion_wise_scores


def square(image: np.ndarray, row: int, column: int, side: int) -> None:
    image[row : row + side, column : column + side] = 1


def test_dice_by_hand() -> None:
    truth, predicted = np.zeros((60, 80)), np.zeros((60, 80))
    square(truth, 5, 5, 10)  # found with Dice 2 * 50 / (100 + 50)
    square(predicted, 5, 5, 10)
    predicted[10:15, 5:15] = 0
    square(truth, 40, 5, 10)  # missed
    square(truth, 5, 40, 4)  # 16 px: left out, and what finds it is not spurious
    square(predicted, 5, 40, 4)
    square(truth, 30, 40, 10)  # two parts 5 px apart: one lesion of 200 px
    square(truth, 30, 55, 10)
    square(predicted, 30, 40, 10)  # Dice 2 * 100 / (200 + 100)
    square(predicted, 50, 70, 2)  # spurious
    score = lesion_wise_scores(predicted, truth)
    assert score.dice == pytest.approx((2 / 3 + 0 + 2 / 3) / 4)
    assert score[5:] == (2, 1, 1)
    apart = lesion_wise_scores(predicted, truth, dilation=1)
    assert apart.dice == pytest.approx((2 / 3 + 0 + 1 + 0) / 5)
    assert apart[5:] == (2, 2, 1)
    counted = lesion_wise_scores(predicted, truth, min_size=15)
    assert counted.dice == pytest.approx((2 / 3 + 0 + 2 / 3 + 1) / 5)
    assert lesion_wise_scores(predicted, truth, min_size=16) == score  # at most so many go
    in_mm = lesion_wise_scores(predicted, truth, min_size=50, spacing=(2, 2), penalty=2 * 374)
    assert in_mm == counted._replace(hd95=2 * counted.hd95)


def test_scores_of_nothing() -> None:
    none, some = np.zeros((9, 9, 9)), np.ones((9, 9, 9))
    assert lesion_wise_scores(none, none) == (1, 0, 1, 1, 1, 0, 0, 0)
    assert lesion_wise_scores(some, none) == (0, 374, 0, 0, 1, 0, 0, 1)
    assert lesion_wise_scores(none, some) == (0, 374, 0, 1, 0, 0, 1, 0)
    assert lesion_wise_scores(some, some) == (1, 0, 1, 1, 1, 1, 0, 0)


def test_a_near_region_finds_a_lesion_that_it_does_not_touch() -> None:
    truth, predicted = np.zeros((30, 30)), np.zeros((30, 30))
    square(truth, 5, 5, 10)
    square(predicted, 5, 17, 5)  # 2 px beside it: its own, with Dice 0
    assert lesion_wise_scores(predicted, truth)[5:] == (1, 0, 0)
    assert lesion_wise_scores(predicted, truth).dice == 0
    assert lesion_wise_scores(predicted, truth, dilation=0) == (0, 374, 0, 0, 0, 0, 1, 1)


def test_hd95_by_hand() -> None:
    truth, predicted = np.zeros((60, 60)), np.zeros((60, 60))
    truth[10, 10] = predicted[13, 14] = 1  # 5 px apart
    truth[10, 50] = truth[50, 50] = 1  # missed
    predicted[50, 10] = 1  # spurious
    settings = {"min_size": 0, "dilation": 4}
    assert lesion_wise_scores(predicted, truth, penalty=9, **settings) == (
        *(0, (5 + 9 + 9 + 9) / 4, 0.4, 0.5, 1 / 3),
        *(1, 2, 1),
    )
    in_mm = lesion_wise_scores(predicted, truth, spacing=(4, 3), **settings)
    assert in_mm.hd95 == (np.hypot(3 * 4, 4 * 3) + 3 * 374) / 4
    line, longer = np.zeros((9, 40)), np.zeros((9, 40))
    line[4, 10:30] = longer[4, 10:32] = 1
    distance = lesion_wise_scores(longer, line, min_size=0).hd95
    assert distance == pytest.approx(
        np.percentile([0] * 20 + [1, 2], 95)
    )  # not that of the way back


def slow(predicted: Any, truth: Any, spacing: Any, dilation: int, least: float) -> list[float]:
    """Score lesion by lesion on whole masks, with MONAI's distance."""
    corners = np.ones((3,) * truth.ndim)
    structure = ndimage.generate_binary_structure(truth.ndim, 2)

    def dilate(mask: Any) -> Any:
        return ndimage.binary_dilation(mask, structure, iterations=dilation) if dilation else mask

    regions, count = ndimage.label(predicted, corners)
    lesions, number = ndimage.label(dilate(truth), corners)
    dice, distances, owned, found = [], [], set(), 0
    for lesion in range(1, number + 1):
        mask = truth & (lesions == lesion)
        near = set(np.unique(regions[dilate(mask)])) - {0}
        owned |= near
        if mask.sum() * np.prod(spacing) <= least:
            continue
        hits = np.isin(regions, list(near))
        found += bool(near)
        dice.append(2 * (mask & hits).sum() / (mask.sum() + hits.sum()))
        pair = [torch.from_numpy(one)[None, None] for one in (hits, mask)]
        distances.append(
            float(compute_hausdorff_distance(*pair, True, percentile=95, spacing=spacing))
            if near
            else 374.0
        )
    spurious = count - len(owned)
    entries = len(dice) + spurious
    if not entries:
        return [1, 0, 1, 0, 0, 0]
    f1 = 2 * found / (found + entries)
    sums = sum(dice), sum(distances) + 374 * spurious
    return [*(total / entries for total in sums), f1, found, len(dice) - found, spurious]


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((60, 50), (1, 1)), ((60, 50), (0.5, 2.0)), ((12, 24, 30), (3.0, 1.0, 1.5))],
)
@pytest.mark.parametrize("dilation", [0, 1, 3])
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy")
def test_scores_against_a_slow_definition(shape, spacing, dilation: int) -> None:
    rng = np.random.default_rng(dilation)
    seen = np.zeros(3)
    for part in (0.02, 0.05, 0.1, 0.3):
        truth = ndimage.gaussian_filter(rng.random(shape), 1.5)
        predicted = truth + rng.random() * ndimage.gaussian_filter(rng.random(shape), 1.5)
        predicted, truth = (x > np.quantile(x, 1 - part) for x in (predicted, truth))
        scores = lesion_wise_scores(
            predicted, truth, spacing=spacing, dilation=dilation, min_size=4
        )
        assert [*scores[:3], *scores[5:]] == pytest.approx(
            slow(predicted, truth, spacing, dilation, 4)
        )
        assert scores.precision == scores.found / max(scores.found + scores.spurious, 1)
        assert scores.recall == scores.found / max(scores.found + scores.missed, 1)
        seen += scores[5:]
    assert seen[0] > 0
    assert dilation > 0 or seen.all()


def test_a_volume_with_many_lesions() -> None:
    truth = np.zeros((155, 240, 240), bool)
    for number in range(60):
        z, row, column = np.unravel_index(number, (3, 4, 5))
        truth[50 * z + 5 :, 60 * row + 5 :, 48 * column + 5 :][:20, :24, :18] = True
    predicted = np.roll(truth, 2, 1)
    scores = lesion_wise_scores(predicted, truth)
    assert scores.dice == pytest.approx(22 / 24)
    assert scores.hd95 == 2
    assert scores[5:] == (60, 0, 0)
