"""The noise test of [WAN23]'s figure 9, and the findings about the paper's formulation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt, label
from torch import Tensor

from examples.noise_image import REGION, descend, noise_areas, noise_test
from gliomaseg_layers.functional import (
    density_loss,
    density_map,
    outlier_region_loss,
    outlier_weight,
)

IMAGE, TARGET = noise_test()
AREAS = noise_areas()
NOISE = torch.stack(AREAS).any(0)


def added(loss: Callable[..., Tensor], logits: Tensor, **settings: Any) -> Tensor:
    """Return what a loss adds to the cross-entropy."""
    plain = outlier_region_loss(logits, TARGET, strength=0.0, reduction="sum")
    return loss(logits, TARGET, reduction="sum", **settings) - plain


TERMS: dict[str, Callable[[Tensor], Tensor]] = {
    "outlier": partial(added, outlier_region_loss),
    "outlier without a share": partial(added, outlier_region_loss, share=None, strength=4.0),
}


def lone_square(side: int) -> Tensor:
    image = torch.zeros(1, 1, 80, 80)
    image[..., 24 : 24 + side, 24 : 24 + side] = 1.0
    return image


def count_regions(mask: Tensor) -> int:
    return int(label(mask.numpy(force=True), np.ones((3, 3)))[1])


def test_the_image_is_the_one_described() -> None:
    everything = [*AREAS, TARGET[0, 0] > 0]
    assert [int(area.sum()) for area in everything] == [49, 13, 13, 24, 784]
    for number, area in enumerate(everything):
        assert count_regions(area) == 1
        others = torch.stack([a for k, a in enumerate(everything) if k != number]).any(0)
        assert distance_transform_edt(~others.numpy(force=True))[area.numpy(force=True)].min() > 21
        rows, columns = torch.where(area)
        span = max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) + 1
        assert span <= 7 or number == 4
    assert torch.equal(IMAGE[0, 0] > 0, torch.stack(everything).any(0))


@pytest.mark.parametrize("measure", [density_map, outlier_weight])
def test_noise_is_marked_whole_and_alone(measure) -> None:
    marked = measure(IMAGE)[0, 0]
    assert (marked[NOISE] > 0).all()
    assert (marked[~NOISE] == 0).all()


def test_density_follows_how_full_an_area_is() -> None:
    density = density_map(IMAGE)[0, 0]
    means = [float(density[area].mean()) for area in AREAS]
    assert max(means) == means[0]
    assert min(means) == means[1]
    first = density[8:15, 8:15]
    assert first.argmax() == 3 * 7 + 3
    assert (first.flatten().sort().values[-2:].diff() > 0).all(), "the centre alone is highest"


def test_papers_loss_map() -> None:
    loss = density_loss(IMAGE, TARGET, from_logits=False, reduction="none")[0, 0]
    assert (loss[~NOISE] == 0).all()
    means = [float(loss[area].mean()) for area in AREAS]
    assert max(means) == means[1]
    assert min(means) == means[0]
    assert loss[8, 8] > loss[11, 11]
    # All noise pixels have the same cross-entropy, so the loss orders them against the density.
    density = density_map(IMAGE)[0, 0]
    torch.testing.assert_close(loss[NOISE], 100 - density[NOISE])


@pytest.mark.parametrize("scale", [3.0, 10.0])
@pytest.mark.parametrize("term", TERMS)
def test_descent_leaves_the_region_alone(term: str, scale: float) -> None:
    left = descend(TERMS[term], (2 * IMAGE - 1) * scale)[0, 0] > 0
    assert count_regions(left) == 1
    assert torch.equal(left, TARGET[0, 0] > 0)
    assert int(left[REGION].sum()) == 784


@pytest.mark.parametrize("scale", [3.0, 10.0])
def test_descent_on_the_papers_term_removes_no_noise(scale: float) -> None:
    left = descend(partial(added, density_loss), (2 * IMAGE - 1) * scale)[0, 0] > 0
    assert all(left[area].all() for area in AREAS)


def test_papers_term_is_inert_until_predictions_are_nearly_binary() -> None:
    """A background at 0.18 has 0.18 (441 - 49) = 71 pixels in the gap, more than 33."""
    for background in (0.18, 0.5, 0.82):
        assert (density_map(torch.full((1, 1, 64, 64), background)) == 0).all()
    doubtful = 0.82 * IMAGE + 0.18 * (1 - IMAGE)
    assert (density_map(doubtful) == 0).all()
    assert (density_map(0.97 * IMAGE + 0.03 * (1 - IMAGE)) > 0).any()


def test_papers_term_acts_sooner_where_windows_are_clipped() -> None:
    """At the border, and on maps smaller than the window, the gap holds fewer pixels."""
    corner = torch.full((1, 1, 64, 64), 0.18)
    corner[..., :3, :3] = 0.82
    assert (density_map(corner)[..., :3, :3] > 0).all()
    for side, active in ((4, True), (9, True), (10, False)):
        assert bool((density_map(torch.full((1, 1, side, side), 0.3)) > 0).any()) == active


def test_papers_term_rewards_noise() -> None:
    """The term falls as a noise pixel's logit rises: its gradient pushes noise up."""
    logits = ((2 * IMAGE - 1) * 6).requires_grad_()
    (slope,) = torch.autograd.grad(added(density_loss, logits), logits)
    assert (slope[0, 0][NOISE] < 0).all()
    for term in TERMS.values():
        (slope,) = torch.autograd.grad(term(logits), logits)
        assert (slope[0, 0][NOISE] > 0).all()
        assert (slope[0, 0][~NOISE] == 0).all()


def test_density_of_noise_grows_with_its_certainty() -> None:
    """Eq. 12 falls as a noise region becomes surer, where descent should make it rise."""
    sums = [
        float(density_map(torch.sigmoid((2 * IMAGE - 1) * z))[0, 0][NOISE].sum()) for z in (4, 8)
    ]
    assert 0 < sums[0] < sums[1]


@pytest.mark.parametrize(("side", "flagged"), [(7, 49), (8, 24), (9, 9)])
def test_eq_9_flags_a_part_of_larger_squares(side: int, flagged: int) -> None:
    assert int((density_map(lone_square(side)) > 0).sum()) == flagged


def test_eq_9_flags_all_of_an_empty_image_smaller_than_the_window() -> None:
    assert (density_map(torch.zeros(1, 1, 7, 7)) > 0).all()
    assert (outlier_weight(torch.zeros(1, 1, 7, 7)) == 0).all()


@pytest.mark.parametrize("side", range(1, 29))
def test_lone_squares_are_flagged_whole_or_not_at_all(side: int) -> None:
    image = lone_square(side)
    expected = image > 0 if side <= 7 else torch.zeros_like(image, dtype=torch.bool)
    for colour in (image, 1 - image):  # a black square on white is a hole
        assert torch.equal(outlier_weight(colour) > 0, expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 5), (7, 7), (21, 20), (64, 64), (3, 5, 7)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_images_are_not_flagged(size: tuple[int, ...], value: float) -> None:
    assert (outlier_weight(torch.full((1, 1, *size), value)) == 0).all()


def test_size_of_the_weight() -> None:
    weight = outlier_weight(lone_square(7)).max()
    torch.testing.assert_close(weight, torch.tensor(1 - 49 / 441))
    torch.testing.assert_close(outlier_weight(lone_square(1)).max(), torch.tensor(1 - 1 / 441))
