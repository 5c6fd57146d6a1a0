import itertools
from functools import partial

import pytest
import torch

from gliomaseg_layers.functional import outlier_region_loss
from gliomaseg_layers.functional._scores import clamped_log
from tests.support import references
from tests.support.cases import (
    BF16,
    DENSITY,
    F16,
    F32,
    F64,
    FORMULAS,
    HALVES,
    MODES,
    case,
    check,
    either_input,
    every_formula,
    every_mode,
    random,
)

check_loss = partial(check, outlier_region_loss, references.outlier_region_loss)


@every_formula
@every_mode
def test_soft_targets_and_weights(mode, channels, formula):
    x, _ = case((9, 11), mode, channels)
    target = random(x.shape)
    settings = {"mode": mode, "reduction": "mean", **formula.small}
    check_formula = partial(check, formula.function, formula.reference)
    if mode == "multiclass":
        check_formula(x, target / target.sum(1, keepdim=True), class_weights=2.5, **settings)
    else:
        check_formula(x, target, pos_weight=3, class_weights=2.5, **settings)
        check_formula(x.sigmoid(), target, pos_weight=3, from_logits=False, **settings)


@pytest.mark.parametrize("name", ["pos_weight", "class_weights"])
@either_input
@every_mode
def test_weights_mean_channels(mode, channels, from_logits, name):
    if mode == "multiclass" and name == "pos_weight":
        name = "class_weights"
    # The width is the number of channels: torch's BCE would broadcast over it.
    x, target = case((9, channels), mode, channels, from_logits)
    per_channel = torch.arange(1.0, channels + 1) / 2
    for weight in (0.5, 3, 0, torch.tensor(2.5), torch.tensor(2.5, dtype=F64), per_channel):
        settings = {name: weight, "mode": mode, "from_logits": from_logits, "reduction": "mean"}
        check_loss(x, target, **settings)
        check_loss(x.float(), target, **settings)


@every_mode
def test_mean_of_class_weights_divides_by_the_pixels(mode, channels):
    x, target = case((9, 11), mode, channels)
    one, two = (outlier_region_loss(x, target, mode=mode, class_weights=w) for w in (1.0, 2.0))
    torch.testing.assert_close(two, 2 * one)


@either_input
@every_formula
def test_the_weight_of_a_class_that_no_pixel_has_does_not_matter(formula, from_logits):
    """As in torch: 1 / frequency of a class that is not there is infinite."""
    x, target = case((9, 11), "multiclass", 3, from_logits)
    target = target.masked_fill(target == 2, 0)
    settings = {"mode": "multiclass", "from_logits": from_logits, **formula.small}
    found = []
    for weight in (7.0, torch.inf):
        leaf = x.detach().clone().requires_grad_()
        weights = torch.tensor([1.0, 2.0, weight])
        loss = formula.function(leaf, target, class_weights=weights, **settings)
        found.append((loss, *torch.autograd.grad(loss, leaf)))
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [F32, F64, *HALVES])
@every_formula
@every_mode
def test_huge_logits_are_finite(mode, channels, formula, dtype):
    top = min(1e30, torch.finfo(dtype).max)
    levels = torch.tensor([-top, -100, -1, 0, 1, 100, top], dtype=dtype)
    x = torch.zeros(1, channels, 6 * channels, 49, dtype=dtype)
    for channel in range(channels):  # every pair of levels meets in neighbouring channels
        runs, times = ((1, 7), (7, 1))[channel % 2]
        x[0, channel] = levels.repeat_interleave(runs).repeat(times)
    x[..., ::3, :] *= -1
    for value, reduction in itertools.product((0, 1), ("mean", "sum")):
        target = torch.full((1, *x.shape[2:]) if mode == "multiclass" else x.shape, value)
        for weights in ({}, {"class_weights" if mode == "multiclass" else "pos_weight": 3.0}):
            settings = {"mode": mode, "reduction": reduction, **formula.own, **weights}
            check(formula.function, formula.reference, x, target, **settings)


EXACT = {"from_logits": False, "reduction": "sum"}


def probabilities_around(value, mode, channels, dtype, fill):
    """Return images of ``fill`` with one pixel, an outlier where they differ, of ``value``."""
    x = torch.full((1, channels, 9, 9), fill, dtype=dtype)
    x[0, 0, 4, 4] = value
    if mode == "multiclass":
        x[:, 1:] = (1 - x[:, :1]) / (channels - 1)
    return x


@pytest.mark.parametrize("fill", [0.0, 1.0])
@every_formula
@every_mode
def test_probabilities_of_zero_and_one(mode, channels, formula, fill):
    for value, dtype, label in itertools.product((0.0, 1.0), (F64, F32, *HALVES), (0, 1)):
        x = probabilities_around(value, mode, channels, dtype, fill)
        target = torch.full((1, 9, 9) if mode == "multiclass" else x.shape, label)
        settings = {"mode": mode, **formula.small, **EXACT}
        loss, grad = check(formula.function, formula.reference, x, target, **settings)
        if mode == "binary" and formula is not DENSITY:
            right = x == label  # else the clamp acts: 100 a pixel, and no gradient
            wrong = (~right).sum()
            assert loss >= 100 * wrong
            assert (grad[~right] == 0).all()


def assert_finite(values, mode, channels, formula, dtype):
    infinite = []
    for value, fill, label in itertools.product(values, (0.0, 1.0), (0, 1)):
        x = probabilities_around(value, mode, channels, dtype, fill).requires_grad_()
        target = torch.full((1, 9, 9) if mode == "multiclass" else x.shape, label)
        loss = formula.function(x, target, mode=mode, **formula.small, **EXACT)
        (grad,) = torch.autograd.grad(1000 * loss, x)  # as weights, or a scaler of them, would
        if not (loss.isfinite() and grad.isfinite().all()):
            infinite.append({"probability": value, "among": fill, "target": label})
    assert not infinite


@every_formula
@every_mode
def test_denormal_probabilities_are_finite(mode, channels, formula):
    for dtype in (F32, F64, BF16):
        tiny = torch.finfo(dtype).smallest_normal
        denormal = [tiny * factor for factor in (2**-7, 0.25, 0.5, 0.99)]
        assert_finite(denormal, mode, channels, formula, dtype)


@pytest.mark.parametrize("dtype", [F32, F64, *HALVES], ids=str)
def test_gradients_at_tiny_probabilities_fit_their_dtype(dtype):
    """1 / q, times what weighs it, does not overflow, not even at the smallest q."""
    tiny = torch.finfo(dtype).smallest_normal
    probabilities = [tiny * factor for factor in (2**-7, 0.25, 1.0, 1.1, 2.0, 50.0)]
    for (mode, channels), formula in itertools.product(MODES, FORMULAS.values()):
        assert_finite(probabilities, mode, channels, formula, dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_probabilities_of_halves_under_vmap(dtype):
    x, target = random((3, 1, 1, 4, 5)).to(dtype), torch.ones(1, 1, 4, 5)
    found = torch.func.vmap(lambda probs: outlier_region_loss(probs, target, **EXACT))(x)
    torch.testing.assert_close(
        found, torch.stack([outlier_region_loss(p, target, **EXACT) for p in x])
    )


def test_gradients_of_halves_saturate():
    x = torch.full((1, 1, 1, 1), 1e-5, dtype=F16, requires_grad=True)
    (grad,) = torch.autograd.grad(outlier_region_loss(x, torch.ones(1, 1, 1, 1), **EXACT), x)
    assert grad == -torch.finfo(F16).max


def test_the_logarithm_has_a_slope_from_a_million_times_the_smallest_number_on():
    least = 2**20 * torch.finfo(F32).tiny
    probs = torch.tensor([0.0, least * (1 - 1e-6), least]).requires_grad_()
    with torch.autograd.set_detect_anomaly(True):  # which raises for a NaN that is not used, too
        clamped_log(probs).sum().backward()
    torch.testing.assert_close(probs.grad, torch.tensor([0.0, 0.0, 1 / least]))
