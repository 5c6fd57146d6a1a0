"""The losses of outlier regions against the float64 references, and what holds for all of them."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from gliomaseg_layers.functional import outlier_region_loss
from tests.support import references
from tests.support.cases import (
    DENSITY,
    F32,
    F64,
    HALVES,
    MODES,
    SMALL,
    NoHostSynchronisation,
    case,
    check,
    check_infinite_logits,
    either_input,
    every_formula,
    every_mode,
    random,
)
from tests.support.tolerances import TOLERANCES


def check_loss(formula, x, target, **settings):
    return check(formula.function, formula.reference, x, target, **settings)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@either_input
@every_formula
@every_mode
def test_matches_reference(mode, channels, formula, from_logits, reduction):
    settings = {"mode": mode, "from_logits": from_logits, "reduction": reduction}
    x, target = case((19, 23), mode, channels, from_logits)
    loss, grad = check_loss(formula, x, target, **settings, **formula.small)
    ce = check(
        outlier_region_loss,
        references.outlier_region_loss,
        x,
        target,
        strength=0,
        **settings,
    )
    assert not torch.allclose(loss, ce[0])
    assert not torch.allclose(grad, ce[1])
    shape = (2, 19, 23) if mode == "multiclass" else (2, channels, 19, 23)
    assert loss.shape == (shape if reduction == "none" else ())


@every_formula
@every_mode
def test_nothing_waits_for_the_device(mode, channels, formula):
    x, target = case((13, 17), mode, channels)
    weights = {"class_weights": torch.ones(channels), "ignore_index": 1}
    mask = random((2, 13, 17)) > 0.2
    with NoHostSynchronisation():
        formula.function(x.requires_grad_(), target, mode=mode, mask=mask, **weights).backward()


@every_formula
def test_infinite_logits_propagate_as_in_torch(formula):
    """Into the loss of their own pixel, flagged or not."""
    x, target = case((7, 9), "binary", 1, batch=3)
    check_infinite_logits(formula, x, target, **formula.small)
    x[1, 0, 3, 4], target[1, 0, 3, 4] = torch.inf, 0
    name = "threshold" if formula is DENSITY else "max_noise_size"
    for most in (0.0, 9.0):  # none is flagged, and a few are
        settings = formula.small | {name: most}
        loss = formula.function(x, target, reduction="none", **settings)
        assert loss[1, 0, 3, 4] == torch.inf
        assert loss.isfinite().sum() == loss.numel() - 1


@pytest.mark.parametrize("reduction", ["mean", "none"])
@every_formula
def test_the_default_device_does_not_matter(formula, reduction):
    def run(x, target):
        x = x.clone().requires_grad_()
        loss = formula.function(x, target, reduction=reduction, **formula.small)
        return loss, torch.autograd.grad(loss.sum(), x)[0]

    x, target = case((9, 11), "binary", 1)
    expected = run(x, target)
    with torch.device("meta"):  # as under torch.set_default_device("cuda")
        assert all(map(torch.equal, run(x, target), expected))
        assert run(x[:0], target[:0])[1].shape == (0, 1, 9, 11)


@pytest.mark.parametrize(
    ("batch", "spatial", "outlier", "density"),
    [
        (2, (37, 41), {}, {}),
        (1, (1, 1), {}, {}),
        (2, (5, 4), {}, {}),
        (2, (40, 37), {"window": (15, 31)}, {"inner": 3, "outer": (15, 31)}),
        (1, (1, 70), {"window": 63}, {"inner": 15, "outer": 63}),
        (1, (9, 3, 17), {"window": (15, 3, 15)}, {"inner": 3, "outer": (15, 3, 15)}),
        (1, (19, 23), {"window": (5, 7)}, {"inner": (3, 1), "outer": (5, 7), "smooth": 0.1}),
        (1, (7, 9, 11), SMALL, DENSITY.small),
        (1, (1, 1, 1), {}, {}),
        (1, (3, 23, 25), {"window": (1, 21, 21)}, {"inner": (1, 7, 7), "outer": (1, 21, 21)}),
        (1, (19, 23), {**SMALL, "max_noise_size": 4}, {**DENSITY.small, "threshold": 4}),
    ],
)
@every_formula
@pytest.mark.parametrize(("mode", "channels"), [MODES[0], MODES[1], MODES[3]])
def test_shapes_and_windows(mode, channels, formula, batch, spatial, outlier, density):
    x, target = case(spatial, mode, channels, batch=batch)
    settings = formula.own | (density if formula is DENSITY else outlier)
    check_loss(formula, x, target, mode=mode, reduction="none", **settings)


@pytest.mark.parametrize(("mode", "channels"), [MODES[1], MODES[3]])
def test_balance_of_a_pixel_flagged_at_one_of_many_levels(mode, channels):
    x = torch.full((1, channels, 33, 35), -4.0)
    x[:, :, 16, 17] = -2.2
    if mode == "multiclass":
        x[:, 0] = 0.0
    target = torch.zeros((1, 33, 35) if mode == "multiclass" else x.shape)
    levels = [0.05 * level for level in range(1, 20)]
    check_outlier = partial(check, outlier_region_loss, references.outlier_region_loss)
    for strength in (1000.0, 1e6):
        check_outlier(x, target.long(), mode=mode, levels=levels, strength=strength)


@pytest.mark.parametrize("dtype", [F32, *HALVES])
@either_input
@every_formula
@every_mode
def test_smaller_dtypes(mode, channels, formula, from_logits, dtype):
    settings = {"mode": mode, "from_logits": from_logits, "reduction": "sum", **formula.small}
    x, target = case((19, 23), mode, channels, from_logits)
    got = check_loss(formula, x.to(dtype), target, **settings)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = check_loss(formula, x.to(dtype), target, **settings)
        check_loss(formula, x, target, **settings)
    assert all(torch.equal(a, b) for a, b in zip(got, under_autocast, strict=True))


@pytest.mark.parametrize("wide", [False, True])
@every_formula
@pytest.mark.parametrize(("mode", "channels"), MODES)
def test_what_is_not_finite_stays_in_its_image(mode, channels, formula, wide):
    x, target = case((37, 41), mode, channels, batch=3)
    settings = {"mode": mode, "reduction": "none", **formula.own}
    if wide:
        settings |= {"inner": 31, "outer": 63} if formula is DENSITY else {"window": 63}

    def of_others(x):
        x = x.clone().requires_grad_()
        loss = formula.function(x, target, **settings)
        loss.sum().backward()
        return torch.cat(
            [values[i].flatten() for values in (loss.detach(), x.grad) for i in (0, 2)]
        )

    expected = of_others(x)
    for value in (torch.nan, torch.inf, -torch.inf):
        for edge in (slice(0, 3), slice(-3, None)):
            broken = x.clone()
            broken[1, :, edge] = value
            broken[1, ..., edge] = value
            torch.testing.assert_close(of_others(broken), expected, **TOLERANCES[F64])


def test_a_nan_spoils_its_own_pixel_alone():
    """Though it lies in the windows of many: the counts are whole numbers."""
    x, target = case((19, 23), "binary", 1)
    x[1, 0, 9, 11] = torch.nan
    leaf = x.clone().requires_grad_()
    loss = outlier_region_loss(leaf, target, reduction="none", max_noise_size=1000, window=7)
    for found in (loss, *torch.autograd.grad(loss.sum(), leaf)):
        assert found.isnan().nonzero().tolist() == [[1, 0, 9, 11]]


@pytest.mark.parametrize("layout", ["channels_last", "strided", "transposed", "expanded"])
@every_formula
@pytest.mark.parametrize(("mode", "channels"), [MODES[1], MODES[3]])
def test_memory_layout_does_not_matter(mode, channels, formula, layout):
    def change(x):
        if layout == "channels_last" and x.dim() == 4:
            return x.to(memory_format=torch.channels_last)
        if layout == "expanded":
            return x[:1].expand(2, *x.shape[1:])
        return {"strided": x[..., 1::2, ::2], "transposed": x.transpose(-1, -2)}.get(layout, x)

    x, target = (change(tensor) for tensor in case((26, 34), mode, channels))
    check_loss(formula, x, target, mode=mode, reduction="none", **formula.small)


@every_formula
def test_a_mask_of_another_layout(formula):
    x, target = case((9, 11), "multilabel", 3)
    mask = (random((2, 11, 9)) > 0.2).mT
    check_loss(formula, x, target, mode="multilabel", mask=mask, **formula.small)


@either_input
@every_mode
def test_levels_match_reference(mode, channels, from_logits):
    settings = {"mode": mode, "from_logits": from_logits, "share": None, **SMALL}
    x, target = case((19, 23), mode, channels, from_logits, sharpness=0.5)
    check_outlier = partial(check, outlier_region_loss, references.outlier_region_loss)
    values = []
    for levels in ((0.5,), (0.05,), (0.95,), (0.05, 0.3, 0.95)):
        loss, _ = check_outlier(x, target, levels=levels, reduction="none", **settings)
        values.append(loss)
    assert not torch.allclose(values[0], values[1])
    assert not torch.allclose(values[0], values[2])
    alone = outlier_region_loss(x, target, levels=[0.3], reduction="none", **settings)
    torch.testing.assert_close(3 * values[3], values[1] + values[2] + alone, **TOLERANCES[F64])


@pytest.mark.parametrize("settings", [{"share": 0.02}, {"share": 10.0}, {"strength": 3.0}])
@every_mode
def test_balance(mode, channels, settings):
    """Flagged pixels weigh a share of their own image at most, and no more than the strength."""
    x, target = case((19, 23), mode, channels)
    x[1] *= 3  # the images differ
    check_outlier = partial(check, outlier_region_loss, references.outlier_region_loss)
    check_outlier(x, target, mode=mode, reduction="none", **settings, **SMALL)
    halves = [
        outlier_region_loss(x[i : i + 1], target[i : i + 1], mode=mode, **settings, **SMALL)
        for i in range(2)
    ]
    whole = outlier_region_loss(x, target, mode=mode, **settings, **SMALL)
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_balance_by_hand():
    logits, target = torch.full((1, 1, 64, 64), -3.0), torch.zeros(1, 1, 64, 64)
    logits[..., 20:23, 20:23] = 3.0
    w = 1 - 9 / 441
    for settings, strength in (
        ({}, 0.1 * 4096 / (9 * w)),
        ({"share": 0.5}, 0.5 * 4096 / (9 * w)),
        ({"share": 5.0}, 1000.0),
        ({"share": None}, 1000.0),
        ({"strength": 7.0}, 7.0),
        ({"mask": torch.arange(64).expand(1, 64, 64) < 48}, 0.1 * 3072 / (9 * w)),
    ):
        loss, plain = (
            outlier_region_loss(logits, target, reduction="none", **(settings | more))
            for more in ({}, {"strength": 0})
        )
        assert float((loss / plain)[0, 0, 21, 21]) == pytest.approx(1 + strength * w)


@either_input
@every_formula
@every_mode
def test_derivatives_of_both_orders(mode, channels, formula, from_logits):
    settings = {"mode": mode, "from_logits": from_logits, "reduction": "none", **formula.own}
    density = {"inner": 3, "outer": 5, "threshold": 6}
    settings |= density if formula is DENSITY else {"window": 5, "max_noise_size": 9}
    x, target = case((5, 4), mode, channels, from_logits, batch=1)
    x = (x / 2 if from_logits else x.clamp(0.05, 0.95)).requires_grad_()
    loss = partial(formula.function, target=target, **settings)
    plain = outlier_region_loss(
        x, target, mode=mode, from_logits=from_logits, strength=0, reduction="none"
    )
    assert not torch.allclose(loss(x), plain)
    assert torch.autograd.gradcheck(loss, (x,))
    assert torch.autograd.gradgradcheck(loss, (x,))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@every_formula
@every_mode
def test_compiled_equals_eager(mode, channels, formula, dynamic):
    torch._dynamo.reset()
    counter, frames = CompileCounterWithBackend("aot_eager"), None
    compiled = torch.compile(formula.function, fullgraph=True, dynamic=dynamic, backend=counter)
    for batch, spatial in [(5, (12, 17)), (6, (15, 13))][: 2 if dynamic else 1]:
        x, target = case(spatial, mode, channels, batch=batch)
        results = []
        for function in (compiled, formula.function):
            x = x.detach().requires_grad_()
            loss = function(x, target, mode=mode, ignore_index=255, **formula.small)
            results.append((loss, *torch.autograd.grad(loss, x)))
        torch.testing.assert_close(*results, **TOLERANCES[F64])
        frames = frames or counter.frame_count
        assert counter.frame_count == frames  # one program serves every size


@every_formula
def test_one_program_serves_every_size_below_the_window(formula):
    torch._dynamo.reset()
    counter, frames = CompileCounterWithBackend("aot_eager"), set()
    compiled = torch.compile(formula.function, fullgraph=True, dynamic=True, backend=counter)
    for spatial in [(30, 40), (17, 12), (9, 14), (6, 5), (4, 3)]:
        x, target = case(spatial, "binary", 1)
        expected = formula.function(x, target, **formula.own)
        torch.testing.assert_close(compiled(x, target, **formula.own), expected, **TOLERANCES[F64])
        frames.add(counter.frame_count)
    assert len(frames) == 1


@pytest.mark.parametrize("spatial", [(0, 5), (5, 0), (3, 0, 4)])
@every_formula
def test_images_without_extent(formula, spatial):
    x = torch.zeros(2, 1, *spatial, requires_grad=True)
    for reduction, shape in (("none", x.shape), ("mean", ()), ("sum", ())):
        loss = formula.function(x, x.detach(), reduction=reduction, **formula.own)
        assert loss.shape == shape
        assert torch.autograd.grad(loss.sum(), x)[0].shape == x.shape
        assert loss.sum() == 0


def test_tiny_smooth_survives_rounding():
    # A gap wholly of the pixel's class: gap - gap_c is 0, or a difference of roundings.
    logits = torch.full((64, 1, 9, 9), 30.0)
    logits[..., 1:8, 1:8] = 4 * random((64, 1, 7, 7)).float()
    for x in (logits, -logits):
        x.requires_grad_()
        loss = DENSITY.function(x, torch.zeros_like(x), smooth=1e-7, reduction="none")
        assert (loss[..., 4, 4] < 0).all()
        assert torch.autograd.grad(loss.sum(), x)[0].isfinite().all()


@every_formula
@every_mode
def test_settings_may_come_from_a_file(mode, channels, formula):
    x, target = case((9, 11), mode, channels)
    given = {"mode": mode, "reduction": "sum", **formula.small}
    results = []
    for settings in (given, json.loads(json.dumps(given))):
        leaf = x.clone().requires_grad_()
        loss = formula.function(leaf, target, **settings)
        results.append((loss, *torch.autograd.grad(loss, leaf)))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_numpy_numbers_are_numbers():
    x, target = case((19, 23), "binary", 1)
    given = {"window": np.array([5, 7]).tolist(), "strength": np.float32(2)}
    given["max_noise_size"] = np.int64(3)
    same = {"window": (5, 7), "strength": 2.0, "max_noise_size": 3}
    assert torch.equal(
        outlier_region_loss(x, target, **given), outlier_region_loss(x, target, **same)
    )


@every_formula
def test_transformed_by_torch_func(formula):
    def loss(x, target):
        return formula.function(x[None], target[None], **formula.small)

    x, target = case((9, 11), "binary", 1, batch=3)
    found = torch.func.vmap(torch.func.grad(loss))(x, target)
    for image, label, grad in zip(x, target, found, strict=True):
        leaf = image.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(leaf, label), leaf)
        torch.testing.assert_close(grad, expected, **TOLERANCES[F64])
