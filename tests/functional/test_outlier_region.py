import json
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from gliomaseg_layers.functional import _bands, _pieces, outlier_region_loss
from gliomaseg_layers.functional._bands import Memory
from tests.support import references
from tests.support.cases import (
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
    every_formulation,
    every_mode,
    random,
)
from tests.support.tolerances import TOLERANCES

check_loss = partial(check, outlier_region_loss, references.outlier_region_loss)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@either_input
@every_formulation
@every_mode
def test_matches_reference(mode, channels, formulation, from_logits, reduction):
    settings = {"mode": mode, "formulation": formulation, "from_logits": from_logits, **SMALL}
    x, target = case((19, 23), mode, channels, from_logits)
    loss, grad = check_loss(x, target, reduction=reduction, **settings)
    ce = check_loss(x, target, reduction=reduction, mode=mode, from_logits=from_logits, strength=0)
    assert not torch.allclose(loss, ce[0])
    assert not torch.allclose(grad, ce[1])
    shape = (2, 19, 23) if mode == "multiclass" else (2, channels, 19, 23)
    assert loss.shape == (shape if reduction == "none" else ())


@pytest.mark.parametrize("reduction", ["none", "mean"])
@every_formulation
@pytest.mark.parametrize(("mode", "channels"), MODES[:2])
def test_the_definition_matches_too(mode, channels, formulation, reduction):
    """What a GPU without kernels runs, and what is captured: a mode that looks on has it here."""
    x, target = case((19, 23), mode, channels)
    settings = {"mode": mode, "formulation": formulation, "reduction": reduction, **SMALL}
    with NoHostSynchronisation():
        given = check_loss(x, target, **settings)
    for defined, closed in zip(given, check_loss(x, target, **settings), strict=True):
        torch.testing.assert_close(defined, closed, **TOLERANCES[F64])


@pytest.mark.parametrize("spatial", [(19, 23), (110, 2), (9, 7, 5)])
@every_formulation
def test_bands_do_not_show(formulation, spatial, monkeypatch):
    """Pieces of some rows, of an image, and of several: with masks, and gradients of maps."""
    x, target = case(spatial, "multilabel", 2, batch=5)
    settings = {"mode": "multilabel", "formulation": formulation, **SMALL}
    outside = {"mask": random((5, *spatial)) > 0.2, "ignore_index": 255}
    ignoring = target.masked_fill(random(target.shape, 3) > 0.9, 255)
    for pixels in (1, 100, 1000):
        monkeypatch.setattr(_pieces, "PIXELS", pixels)
        check_loss(x, target, **settings)
        check_loss(x, target, **settings | {"inner": 3, "outer": 9})  # made of the inner one's sums
        check_loss(x, ignoring, reduction="none", **settings, **outside)


@pytest.mark.parametrize(
    ("inner", "outer"),
    [((3, 3), (9, 9)), ((3, 1), (9, 1)), ((3, 1), (7, 1)), ((3, 1), (7, 5)), ((1, 1), (9, 3))],
)
@every_formulation
def test_slopes_from_around_a_band(formulation, inner, outer, monkeypatch):
    """Where as many pixels are flagged as can be, and rows end where the next begin."""
    monkeypatch.setattr(_pieces, "PIXELS", 1)
    x, target = case((20, 8), "binary", 1, batch=1)
    check_loss(x, target, formulation=formulation, inner=inner, outer=outer, threshold=1000.0)


@pytest.mark.parametrize("strength", [0.0, None])
@every_formulation
def test_infinite_logits_propagate_as_in_torch(formulation, strength):
    """Into the loss of their own pixel, flagged or not."""
    x, target = case((7, 9), "binary", 1, batch=3)
    settings = {"formulation": formulation, "strength": strength, **SMALL}
    check_infinite_logits(x, target, **settings)
    x[1, 0, 3, 4], target[1, 0, 3, 4] = torch.inf, 0
    for threshold in (0.0, 9.0):  # none is flagged, and a few are
        loss = outlier_region_loss(x, target, reduction="none", threshold=threshold, **settings)
        assert loss[1, 0, 3, 4] == torch.inf
        assert loss.isfinite().sum() == loss.numel() - 1


@every_formulation
def test_logits_between_the_classes(formulation):
    """Of 0, whose class is 0."""
    x, target = case((9, 11), "binary", 1)
    x = torch.where(random(x.shape) < 0.1, 0.0, x.abs())
    check_loss(x, target, formulation=formulation, levels=(0.5,), **SMALL)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@every_formulation
def test_the_default_device_does_not_matter(formulation, reduction):
    def run(x, target):
        x = x.clone().requires_grad_()
        loss = outlier_region_loss(x, target, formulation=formulation, reduction=reduction, **SMALL)
        return loss, torch.autograd.grad(loss.sum(), x)[0]

    x, target = case((9, 11), "binary", 1)
    expected = run(x, target)
    with torch.device("meta"):  # as under torch.set_default_device("cuda")
        assert all(map(torch.equal, run(x, target), expected))
        assert run(x[:0], target[:0])[1].shape == (0, 1, 9, 11)


@every_formulation
def test_images_of_later_channels(formulation):
    x, target = case((9, 11), "multilabel", 2, batch=3)
    check_loss(x, target, mode="multilabel", formulation=formulation, **SMALL)


@pytest.mark.parametrize(
    ("batch", "spatial", "settings"),
    [
        (2, (37, 41), {}),
        (1, (1, 1), {}),
        (2, (5, 4), {}),
        (2, (40, 37), {"inner": 3, "outer": (15, 31)}),
        (1, (1, 70), {"inner": 15, "outer": 63}),
        (1, (9, 3, 17), {"inner": 3, "outer": (15, 3, 15)}),
        (1, (19, 23), {"inner": (3, 1), "outer": (5, 7), "smooth": 0.1}),
        (1, (7, 9, 11), SMALL),
        (1, (1, 1, 1), {}),
        (1, (3, 23, 25), {"inner": (1, 7, 7), "outer": (1, 21, 21)}),
        (1, (19, 23), {**SMALL, "threshold": 4, "strength": 2.5}),
        (1, (19, 23), {"inner": 3, "outer": 21, "threshold": 90}),  # seven of the inner window
    ],
)
@every_formulation
@pytest.mark.parametrize(("mode", "channels"), [MODES[0], MODES[1], MODES[3]])
def test_shapes_and_windows(mode, channels, formulation, batch, spatial, settings):
    x, target = case(spatial, mode, channels, batch=batch)
    check_loss(x, target, mode=mode, formulation=formulation, reduction="none", **settings)


@pytest.mark.parametrize(("mode", "channels"), [MODES[1], MODES[3]])
def test_balance_of_a_pixel_flagged_at_one_of_many_levels(mode, channels):
    x = torch.full((1, channels, 33, 35), -4.0)
    x[:, :, 16, 17] = -2.2
    if mode == "multiclass":
        x[:, 0] = 0.0
    target = torch.zeros((1, 33, 35) if mode == "multiclass" else x.shape)
    levels = [0.05 * level for level in range(1, 20)]
    for strength in (1000.0, 1e6):
        check_loss(x, target.long(), mode=mode, levels=levels, strength=strength)


@pytest.mark.parametrize("dtype", [F32, *HALVES])
@either_input
@every_formulation
@every_mode
def test_smaller_dtypes(mode, channels, formulation, from_logits, dtype):
    settings = {"mode": mode, "formulation": formulation, "from_logits": from_logits, **SMALL}
    x, target = case((19, 23), mode, channels, from_logits)
    got = check_loss(x.to(dtype), target, reduction="sum", **settings)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = check_loss(x.to(dtype), target, reduction="sum", **settings)
        check_loss(x, target, **settings)
    assert all(torch.equal(a, b) for a, b in zip(got, under_autocast, strict=True))


@pytest.mark.parametrize("windows", [(7, 21), (7, 15), (31, 63)])
@every_formulation
@pytest.mark.parametrize(("mode", "channels"), MODES)
def test_what_is_not_finite_stays_in_its_image(mode, channels, formulation, windows):
    x, target = case((37, 41), mode, channels, batch=3)
    windows = dict(zip(("inner", "outer"), windows, strict=True))
    settings = {"mode": mode, "formulation": formulation, "reduction": "none", **windows}

    def of_others(x):
        x = x.clone().requires_grad_()
        loss = outlier_region_loss(x, target, **settings)
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


@every_formulation
def test_a_nan_spoils_what_it_spoils_in_the_definition(formulation):
    """Its own pixel, and no other, though it lies in the windows of many."""
    x, target = case((19, 23), "binary", 1)
    x[1, 0, 9, 11] = torch.nan
    settings = {"formulation": formulation, "threshold": 1000.0, **SMALL}
    found = []
    for which in (nullcontext(), NoHostSynchronisation()):  # which has the definition
        leaf = x.clone().requires_grad_()
        with which:
            loss = outlier_region_loss(leaf, target, reduction="none", **settings)
            found.append((loss.detach(), *torch.autograd.grad(loss.sum(), leaf)))
    for closed, defined in zip(*found, strict=True):
        assert closed.isnan().nonzero().tolist() == [[1, 0, 9, 11]]
        torch.testing.assert_close(closed, defined, equal_nan=True, **TOLERANCES[F64])


@pytest.mark.parametrize("layout", ["channels_last", "strided", "transposed", "expanded"])
@every_formulation
@pytest.mark.parametrize(("mode", "channels"), [MODES[1], MODES[3]])
def test_memory_layout_does_not_matter(mode, channels, formulation, layout):
    def change(x):
        if layout == "channels_last" and x.dim() == 4:
            return x.to(memory_format=torch.channels_last)
        if layout == "expanded":
            return x[:1].expand(2, *x.shape[1:])
        return {"strided": x[..., 1::2, ::2], "transposed": x.transpose(-1, -2)}.get(layout, x)

    x, target = (change(tensor) for tensor in case((26, 34), mode, channels))
    check_loss(x, target, mode=mode, formulation=formulation, reduction="none", **SMALL)


@pytest.mark.parametrize("formulation", ["balanced", "paper"])
def test_a_mask_of_another_layout(formulation):
    x, target = case((9, 11), "multilabel", 3)
    mask = (random((2, 11, 9)) > 0.2).mT
    check_loss(x, target, mode="multilabel", formulation=formulation, mask=mask, **SMALL)


@every_formulation
def test_a_window_costs_no_more_than_the_image(formulation, monkeypatch):
    taken = []

    class Recorded(Memory):
        def take(self, name, count, dtype):
            taken.append(count)
            return super().take(name, count, dtype)

    monkeypatch.setattr(_bands, "Memory", Recorded)
    x, target = case((9, 7), "binary", 1)
    check_loss(x, target, formulation=formulation, outer=2001)
    assert 9 * 7 < max(taken) < 100 * 9 * 7


@either_input
@pytest.mark.parametrize("formulation", ["balanced", "suppress", "penalty"])
@every_mode
def test_levels_match_reference(mode, channels, formulation, from_logits):
    settings = {"mode": mode, "formulation": formulation, "from_logits": from_logits, **SMALL}
    x, target = case((19, 23), mode, channels, from_logits, sharpness=0.5)
    values = []
    for levels in ((0.5,), (0.05,), (0.95,), (0.05, 0.3, 0.95)):
        loss, _ = check_loss(x, target, levels=levels, reduction="none", **settings)
        values.append(loss)
    assert not torch.allclose(values[0], values[1])
    assert not torch.allclose(values[0], values[2])
    if formulation == "balanced":  # whose strength depends on all levels
        return
    torch.testing.assert_close(
        values[3] * 3,
        values[1]
        + values[2]
        + outlier_region_loss(x, target, levels=[0.3], reduction="none", **settings),
        **TOLERANCES[F64],
    )


@pytest.mark.parametrize("settings", [{"share": 0.02}, {"share": 10.0}, {"strength": 3.0}])
@every_mode
def test_balance(mode, channels, settings):
    """Flagged pixels weigh a share of their own image at most, and no more than the strength."""
    x, target = case((19, 23), mode, channels)
    x[1] *= 3  # the images differ
    check_loss(x, target, mode=mode, reduction="none", **settings, **SMALL)
    halves = [
        outlier_region_loss(x[i : i + 1], target[i : i + 1], mode=mode, **settings, **SMALL)
        for i in range(2)
    ]
    whole = outlier_region_loss(x, target, mode=mode, **settings, **SMALL)
    torch.testing.assert_close(sum(halves) / 2, whole)


@pytest.mark.parametrize("formulation", ["suppress", "penalty", "paper"])
def test_only_balanced_reads_the_share(formulation):
    x, target = case((19, 23), "binary", 1)
    settings = {"formulation": formulation, **SMALL}
    for backend in ("auto", "eager"):
        shared = outlier_region_loss(x, target, share=1e-6, backend=backend, **settings)
        assert shared == outlier_region_loss(x, target, backend=backend, **settings)


def test_balance_by_hand():
    logits, target = torch.full((1, 1, 64, 64), -3.0), torch.zeros(1, 1, 64, 64)
    logits[..., 20:23, 20:23] = 3.0
    w = 1 - 9 / 441
    for settings, strength in (
        ({}, 0.1 * 4096 / (9 * w)),
        ({"share": 0.5}, 0.5 * 4096 / (9 * w)),
        ({"share": 5.0}, 1000.0),
        ({"strength": 7.0}, 7.0),
        ({"mask": torch.arange(64).expand(1, 64, 64) < 48}, 0.1 * 3072 / (9 * w)),
    ):
        loss, plain = (
            outlier_region_loss(logits, target, reduction="none", **(settings | more))
            for more in ({}, {"strength": 0})
        )
        assert float((loss / plain)[0, 0, 21, 21]) == pytest.approx(1 + strength * w)


def test_penalty_pushes_the_class_of_each_level():
    """A doubtful island is white at level 0.1, and pushed down; black at 0.5, and left alone."""
    logits = torch.full((1, 1, 40, 40), -6.0)
    logits[..., 10:13, 10:13] = -1.0
    logits.requires_grad_()
    target = torch.zeros_like(logits)
    for levels, pushed in (((0.1,), 9), ((0.5,), 0)):
        terms = [
            outlier_region_loss(
                logits, target, formulation="penalty", levels=levels, strength=s, reduction="sum"
            )
            for s in (1.0, 0.0)
        ]
        (slope,) = torch.autograd.grad(terms[0] - terms[1], logits)
        assert (slope > 0).sum() == pushed
        assert (slope < 0).sum() == 0


@either_input
@every_formulation
@every_mode
def test_derivatives_of_both_orders(mode, channels, formulation, from_logits):
    settings = {"mode": mode, "formulation": formulation, "from_logits": from_logits}
    settings |= {"inner": 3, "outer": 5, "threshold": 6, "reduction": "none"}
    x, target = case((5, 4), mode, channels, from_logits, batch=1)
    x = (x / 2 if from_logits else x.clamp(0.05, 0.95)).requires_grad_()
    plain = outlier_region_loss(x, target, **{**settings, "formulation": "suppress", "strength": 0})
    assert not torch.allclose(outlier_region_loss(x, target, **settings), plain)
    assert torch.autograd.gradcheck(lambda x: outlier_region_loss(x, target, **settings), (x,))
    assert torch.autograd.gradgradcheck(lambda x: outlier_region_loss(x, target, **settings), (x,))


@pytest.mark.parametrize("settings", [{}, SMALL])
@every_formulation
def test_binary_is_multiclass_with_two_classes(formulation, settings):
    z, target = case((29, 31), "binary", 1)
    results = []
    for mode in ("binary", "multiclass"):
        x = z.clone().requires_grad_()
        given = x if mode == "binary" else torch.cat([torch.zeros_like(x), x], 1)
        loss = outlier_region_loss(
            given, target, mode=mode, formulation=formulation, reduction="none", **settings
        ).view(z.shape)
        results.append((loss, *torch.autograd.grad(loss, x, random(loss.shape))))
    torch.testing.assert_close(*results, **TOLERANCES[F64])


@pytest.mark.parametrize("top", [1.0, 1e3, 1e30])
@every_formulation
def test_every_order_of_three_classes(formulation, top):
    levels = torch.cartesian_prod(*[torch.tensor([-top, 0.0, top], dtype=F64)] * 3)
    x = levels.T.reshape(1, 3, 3, 9)
    for label in range(3):
        target = torch.full((1, 3, 9), label)
        check_loss(x, target, mode="multiclass", formulation=formulation, strength=1, inner=5)


def test_defaults():
    x, target = case((37, 41), "binary", 1)
    for formulation, given in (
        ("balanced", {"strength": 1000.0, "levels": (0.1, 0.3, 0.5), "share": 0.1}),
        ("suppress", {"strength": 4.0, "levels": (0.5,)}),
        ("penalty", {"strength": 0.1, "levels": (0.5,)}),
    ):
        plain = outlier_region_loss(x, target, formulation=formulation, reduction="none")
        given |= {"inner": 7, "outer": 21, "backend": "eager"}
        said = outlier_region_loss(x, target, formulation=formulation, reduction="none", **given)
        assert torch.equal(plain, said)
    assert torch.equal(
        outlier_region_loss(x, target),
        outlier_region_loss(x, target, formulation="balanced", mode="binary", reduction="mean"),
    )


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@every_formulation
@pytest.mark.parametrize(("mode", "channels"), [MODES[0], MODES[1], MODES[3]])
def test_compiled_equals_eager(mode, channels, formulation, dynamic):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(outlier_region_loss, fullgraph=True, dynamic=dynamic, backend=counter)
    settings = {"mode": mode, "formulation": formulation, "inner": 3, "outer": 5}
    frames = None
    for batch, spatial in [(2, (12, 17)), (3, (15, 13)), (2, (9, 40))][: 3 if dynamic else 1]:
        x, target = case(spatial, mode, channels, batch=batch)
        mask, results = random((batch, *spatial)) > 0.2, []
        for function in (compiled, outlier_region_loss):
            x = x.detach().requires_grad_()
            loss = function(x, target, mask=mask, ignore_index=255, **settings)
            results.append((loss, *torch.autograd.grad(loss, x, torch.tensor(7.0, dtype=F64))))
        torch.testing.assert_close(*results, **TOLERANCES[F64])
        frames = frames or counter.frame_count
        assert counter.frame_count == frames  # one program serves every size


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@every_formulation
def test_one_program_serves_every_size_below_the_window(formulation):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(outlier_region_loss, fullgraph=True, dynamic=True, backend=counter)
    frames = set()
    for spatial in [(30, 40), (17, 12), (9, 14), (6, 5), (4, 3)]:
        x, target = case(spatial, "binary", 1)
        loss = compiled(x, target, formulation=formulation)
        expected = outlier_region_loss(x, target, formulation=formulation)
        torch.testing.assert_close(loss, expected, **TOLERANCES[F64])
        frames.add(counter.frame_count)
    assert len(frames) == 1


@pytest.mark.parametrize("spatial", [(0, 5), (5, 0), (3, 0, 4)])
@every_formulation
def test_images_without_extent(formulation, spatial):
    x = torch.zeros(2, 1, *spatial, requires_grad=True)
    for reduction, shape in (("none", x.shape), ("mean", ()), ("sum", ())):
        loss = outlier_region_loss(x, x.detach(), formulation=formulation, reduction=reduction)
        assert loss.shape == shape
        assert torch.autograd.grad(loss.sum(), x)[0].shape == x.shape
        assert loss.sum() == 0


@pytest.mark.parametrize("outer", [(1, 127), (3, 43), 181, 183])
@every_formulation
def test_counts_do_not_overflow(formulation, outer):
    """Windows of just under and over what 8 and 16 bits can count, all of one colour."""
    x = torch.full((1, 1, 190, 190), 3.0)
    settings = {"formulation": formulation, "inner": (1, 7), "outer": outer, "reduction": "none"}
    for logits in (x, -x):
        expected = outlier_region_loss(logits, x, backend="eager", **settings)
        torch.testing.assert_close(outlier_region_loss(logits, x, **settings), expected)


def test_tiny_smooth_survives_rounding():
    # A gap wholly of the pixel's class: gap - gap_c is 0, or a difference of roundings.
    logits = torch.full((64, 1, 9, 9), 30.0)
    logits[..., 1:8, 1:8] = 4 * random((64, 1, 7, 7)).float()
    settings = {"formulation": "paper", "smooth": 1e-7, "reduction": "none"}
    for x in (logits, -logits):
        x.requires_grad_()
        loss = outlier_region_loss(x, torch.zeros_like(x), **settings)
        assert (loss[..., 4, 4] < 0).all()
        assert torch.autograd.grad(loss.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@every_formulation
@every_mode
def test_settings_may_come_from_a_file(mode, channels, formulation, reduction):
    x, target = case((9, 11), mode, channels)
    given = {"mode": mode, "formulation": formulation, "reduction": reduction, **SMALL}
    results = []
    for settings in (given, json.loads(json.dumps(given | {"backend": "auto"}))):
        leaf = x.clone().requires_grad_()
        loss = outlier_region_loss(leaf, target, **settings)
        results.append((loss, *torch.autograd.grad(loss.sum(), leaf)))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("spatial", [(9, 11), (5, 7, 6)])
@every_mode
def test_the_closed_form_serves_logits_of_channels(mode, channels, spatial):
    x, target = case(spatial, mode, channels)
    for from_logits in (True, False):
        given = x if from_logits else x.sigmoid()
        loss = outlier_region_loss(
            given.requires_grad_(), target, mode=mode, from_logits=from_logits
        )
        closed = from_logits and mode != "multiclass"
        assert (loss.grad_fn.name() == "ClosedFormBackward") == closed


def test_numpy_numbers_are_numbers():
    x, target = case((19, 23), "binary", 1)
    given = {"inner": np.int64(3), "outer": np.array([5, 7]).tolist(), "strength": np.float32(2)}
    same = {"inner": 3, "outer": (5, 7), "strength": 2.0}
    assert torch.equal(
        outlier_region_loss(x, target, **given), outlier_region_loss(x, target, **same)
    )
