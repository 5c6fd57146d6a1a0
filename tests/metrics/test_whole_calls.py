"""Masks of any size, dtype and layout against counts by scipy."""

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from gliomaseg_layers.metrics import (
    LesionWiseScores,
    RegionCounts,
    count_regions,
    lesion_wise_scores,
)
from tests.support.calls import INDICES, LAYOUTS, dtypes, lay_out, seeds, spatials

parts = st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0])


def counted(predicted: Any, truth: Any, connectivity: int, most: float) -> list[int]:
    dims = predicted.ndim
    structure = ndimage.generate_binary_structure(dims, connectivity)
    labels, regions = ndimage.label(predicted, structure)
    spurious = [k for k in range(1, regions + 1) if not truth[labels == k].any()]
    noise = [k for k in spurious if (labels == k).sum() <= most]
    other = ndimage.generate_binary_structure(dims, dims if connectivity == 1 else 1)
    holes = ndimage.label(np.pad(~predicted, 1, constant_values=True), other)[1] - 1
    lesions, count = ndimage.label(truth, structure)
    missed = [k for k in range(1, count + 1) if not predicted[lesions == k].any()]
    return [regions, len(spurious), len(noise), holes, len(missed)]


@given(
    spatials(12),
    st.integers(0, 2),
    parts,
    parts,
    st.integers(1, 3),
    st.sampled_from([0, 1, 3.5, 49]),
    st.one_of(dtypes, st.sampled_from([torch.bool, *INDICES])),
    st.sampled_from(LAYOUTS),
    seeds,
)
def test_counts_and_scores(
    size: tuple[int, ...],
    batch: int,
    part: float,
    true_part: float,
    connectivity: int,
    most: float,
    dtype: torch.dtype,
    layout: str,
    seed: int,
) -> None:
    rng, connectivity = np.random.default_rng(seed), min(connectivity, len(size))
    predicted, truth = (rng.random((batch, 2, *size)) < p for p in (part, true_part))
    total = np.zeros(5, int)
    for mask, target in zip(predicted.reshape(-1, *size), truth.reshape(-1, *size), strict=True):
        expected = counted(mask, target, connectivity, most)
        found = count_regions(mask, target, max_noise_size=most, connectivity=connectivity)
        assert list(found) == expected
        total += expected
        score = lesion_wise_scores(mask, target, dilation=1, min_size=most)
        assert 0 <= score.dice <= 1
        perfect = lesion_wise_scores(target, target, dilation=1, min_size=most)
        assert perfect.dice == 1
        assert perfect.missed == perfect.spurious == 0
    preds, target = (
        lay_out(torch.from_numpy(mask).to(dtype), layout) for mask in (predicted, truth)
    )
    metric, scores = RegionCounts(most, connectivity), LesionWiseScores(1, most)
    metric.update(preds, target)
    assert int(metric.compute()["images"]) == 2 * batch
    assert [int(metric.compute()[name]) for name in found._fields] == list(total) if batch else True
    scores.update(preds, target)
    assert int(scores.compute()["images"]) == 2 * batch
