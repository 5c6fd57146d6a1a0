"""The paper's region density against the float64 reference, and by hand."""

import pytest
import torch

from gliomaseg_layers.functional import density_map
from gliomaseg_layers.functional._scores import Scores
from gliomaseg_layers.functional.region_density import density_of
from tests.support import references
from tests.support.cases import (
    DENSITY,
    F32,
    F64,
    HALVES,
    MODES,
    case,
    check,
    every_mode,
    masks,
    outside_of,
    random,
)

SMALL = DENSITY.small
CASES = [
    ((2, 19, 23), SMALL),
    ((1, 37, 41), {}),
    ((1, 1, 1), {}),
    ((2, 5, 4), {}),  # smaller than both windows
    ((1, 17, 13), {"inner": (3, 5), "outer": (5, 5)}),
    ((0, 7, 5), SMALL),
    ((1, 7, 9, 11), SMALL),
    ((2, 3, 23, 25), {"inner": (1, 7, 7), "outer": (1, 21, 21)}),
    ((1, 19, 23), {**SMALL, "threshold": 2.0}),
    ((1, 19, 23), {**SMALL, "threshold": 0}),
]


def check_density(x, **settings):
    return check(density_map, references.density_map, x, **settings)[0]


@every_mode
@pytest.mark.parametrize(("shape", "settings"), CASES)
def test_match_reference(shape, settings, mode, channels):
    x = case(shape[1:], mode, channels, False, batch=shape[0])[0]
    d = check_density(x, mode=mode, smooth=0.5, **settings)
    if shape == (2, 19, 23):  # the scene shows something of everything
        assert (d > 0).any()
        assert (d == 0).any()


@pytest.mark.parametrize(
    ("mode", "channels", "which"),
    [(*mode, which) for mode in MODES for which in range(2 if mode[0] == "multiclass" else 3)],
)
@pytest.mark.parametrize("shape", [(2, 19, 23), (1, 7, 9, 11)])
def test_pixels_outside_the_image(shape, mode, channels, which):
    x = case(shape[1:], mode, channels, False, batch=shape[0])[0]
    valid = masks(x, mode)[which]
    check_density(x, mode=mode, valid=valid, **SMALL)
    # What an invalid pixel holds does not matter, and it receives exactly nothing.
    inside = references.valid_pixels(x.shape, None, mode=mode, mask=valid)
    outside = outside_of(inside, x)
    broken = x.masked_fill(outside, torch.nan).requires_grad_()
    got = density_map(broken, mode=mode, valid=valid, **SMALL)
    assert torch.equal(got, density_map(x, mode=mode, valid=valid, **SMALL))
    assert (got[torch.from_numpy(~inside).to(got.device)] == 0).all()
    got.sum().backward()
    assert broken.grad.isfinite().all()
    assert (broken.grad[outside] == 0).all()
    assert (broken.grad[~outside] != 0).any()


@every_mode
def test_gradient_where_no_other_class_is_near(mode, channels):
    """The difference of the counts is exactly 0 there, and its derivative is not."""
    x = torch.zeros(1, channels, 5, 4, dtype=F64)
    x[:, 0] = 1
    assert check(density_map, references.density_map, x, mode=mode, threshold=49, **SMALL)[1].any()


@every_mode
@pytest.mark.parametrize("dtype", [F32, *HALVES])
def test_smaller_dtypes(dtype, mode, channels):
    x = case((19, 23), mode, channels, False, batch=2)[0].to(dtype)
    check_density(x, mode=mode, **SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        check_density(x, mode=mode, **SMALL)


@pytest.mark.parametrize("layout", ["channels_last", "strided", "transposed"])
def test_memory_layout_does_not_matter(layout):
    x = case((38, 46), "multiclass", 3, False, batch=2)[0]
    x = {
        "channels_last": x.to(memory_format=torch.channels_last),
        "strided": x[:, :, ::2, 1::2],
        "transposed": x.transpose(2, 3),
    }[layout]
    check_density(x, mode="multiclass", **SMALL)


def island(size, side, value=1.0, background=0.0):
    x = torch.full((1, 1, size, size), background, dtype=F64)
    start = (size - side) // 2
    x[..., start : start + side, start : start + side] = value
    return x


def test_figure_5():
    """At the corner of a lone 7 x 7 region 16 of its pixels are near and 33 in the gap."""
    d = density_map(island(63, 7))[0, 0]
    assert d[31, 31].item() == pytest.approx(50 / 393)
    assert d[28, 28].item() == pytest.approx(17 / (392 - 33 + 1))
    assert density_map(island(63, 7), threshold=32)[0, 0, 28, 28] == 0
    lone = island(63, 1)
    assert density_map(lone)[0, 0, 31, 31].item() == pytest.approx(2 / 393)


def test_half_a_pixel_of_soft_tails_keeps_the_corner():
    # The gap around the corner holds 33 pixels of the region and 392 - 33 of the background.
    for tails, kept in ((0.49, True), (0.51, False)):
        x = island(63, 7, background=tails / (392 - 33))
        assert (density_map(x)[0, 0, 28, 28] > 0) == kept


def test_ties_go_to_the_lower_class():
    half = torch.full((1, 1, 9, 9), 0.5, dtype=F64)
    black = density_map(half, threshold=1000)
    assert torch.equal(
        black, density_map(half.expand(-1, 2, -1, -1), mode="multiclass", threshold=1000)[:, None]
    )


@pytest.mark.parametrize("settings", [SMALL, {}])
def test_binary_is_multiclass_with_two_classes(settings):
    q = case((29, 31), "binary", 1, False, batch=2)[0]
    pair = torch.cat([1 - q, q], 1)
    torch.testing.assert_close(
        density_map(q, **settings)[:, 0], density_map(pair, mode="multiclass", **settings)
    )


@pytest.mark.parametrize(("mode", "channels"), [("binary", 1), ("multiclass", 3)])
def test_density_derivatives_of_both_orders(mode, channels):
    x = case((6, 5), mode, channels, False, batch=1)[0].clamp(0.05, 0.95).requires_grad_()
    settings = {"mode": mode, "inner": 3, "outer": 5, "threshold": 6}
    assert (density_map(x, **settings) > 0).any()
    assert torch.autograd.gradcheck(lambda x: density_map(x, **settings), (x,))
    assert torch.autograd.gradgradcheck(lambda x: density_map(x, **settings), (x,))


def test_tiny_smooth_survives_rounding():
    # A gap wholly of the pixel's class: gap - gap_c is 0, or a difference of roundings.
    x = torch.ones(64, 1, 9, 9)
    x[..., 1:8, 1:8] = 0.6 + 0.4 * random((64, 1, 7, 7)).float()
    for q in (x, 1 - x):
        d = density_map(q, smooth=1e-7)
        assert d.isfinite().all()
        assert (d[..., 4, 4] > 0).all()


@every_mode
def test_numbers_may_be_tensors(mode, channels):
    """As an exported program has them, whose inputs they are."""
    x, _ = case((19, 23), mode, channels, from_logits=False)
    scores, threshold, smooth = Scores(x, mode, False, None), torch.tensor(4.5), torch.tensor(0.5)
    density = density_of(scores, 3, 7, smooth, threshold)
    assert torch.equal(density, density_map(x, mode=mode, smooth=0.5, threshold=4.5, **SMALL))
    assert density.any()
