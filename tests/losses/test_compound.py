import copy
import inspect
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from gliomaseg_layers import CompoundLoss, OutlierRegionLoss, WeightRamp
from gliomaseg_layers.functional import dice_loss, outlier_region_loss
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
    either_input,
    every_formulation,
    every_mode,
    outside_of,
    random,
)
from tests.support.references import array
from tests.support.tolerances import TOLERANCES

WEIGHTS = {"alpha": 0.3, "beta": 0.7, "gamma": 1.9}


def compound_loss(x, target, mask=None, **settings):
    return CompoundLoss(**settings)(x, target, mask=mask)


def check_loss(x, target, **settings):
    return check(compound_loss, references.compound_loss, x, target, **settings)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@either_input
@every_formulation
@every_mode
def test_matches_reference(mode, channels, formulation, from_logits, reduction):
    settings = {"mode": mode, "formulation": formulation, "from_logits": from_logits, **SMALL}
    settings["reduction"] = reduction
    x, target = case((13, 17), mode, channels, from_logits)
    for weights in ({}, WEIGHTS, {"gamma": 0.0}, {"alpha": 0.0, "beta": 0.0}):
        check_loss(x, target, **weights, **settings)
    check_loss(x.float(), target, **WEIGHTS, **settings)
    criterion = CompoundLoss(**WEIGHTS, **settings)
    loss, terms = criterion(x.clone().requires_grad_(), target, return_terms=True)
    expected, _, parts = references.compound_loss(x, target, **WEIGHTS, **settings)
    np.testing.assert_allclose(array(loss), expected, **TOLERANCES[F64])
    assert list(terms) == ["ce", "dice", "outlier"]
    for name, term in terms.items():
        assert not term.requires_grad
        np.testing.assert_allclose(array(term), parts[name], **TOLERANCES[F64])


@pytest.mark.parametrize("formulation", ["balanced", "suppress"])
def test_an_infinite_logit_leaves_the_terms_of_other_images(formulation):
    x, target = case((7, 9), "binary", 1, batch=3)
    criterion = CompoundLoss(formulation=formulation, reduction="sum", **SMALL)
    others = torch.tensor([0, 2])
    _, expected = criterion(x[others], target[others], return_terms=True)
    x[1, 0, 3, 4], target[1, 0, 3, 4] = torch.inf, 0
    _, terms = criterion(x, target, return_terms=True)
    torch.testing.assert_close(terms["outlier"], expected["outlier"], **TOLERANCES[F64])
    assert terms["ce"] == torch.inf


@either_input
@every_formulation
@every_mode
def test_host_and_device_stay_apart(mode, channels, formulation, from_logits):
    """The compound loss runs every part of the other losses."""
    settings = {"mode": mode, "formulation": formulation, "from_logits": from_logits}
    x, target = case((13, 17), mode, channels, from_logits)
    weights = {"class_weights": torch.ones(channels), "ignore_index": 1}
    loss = CompoundLoss(**settings, **weights)
    with NoHostSynchronisation():
        loss(x.requires_grad_(), target, mask=random((2, 13, 17)) > 0.2).backward()
        loss(x, target, return_terms=True)


@every_formulation
@pytest.mark.parametrize(("mode", "channels"), [MODES[1], MODES[3]])
def test_settings_reach_their_terms(mode, channels, formulation):
    x, target = case((7, 13, 11), mode, channels)
    given = {"mode": mode, "formulation": formulation, **WEIGHTS, **SMALL}
    settings = [{"dice_smooth": 0.1}, {"smooth": 0.1}, {"threshold": 3}, {"strength": 2.0}]
    settings += [{"inner": (1, 3, 3), "outer": (1, 9, 9)}, {"ignore_index": 1}]
    settings.append({"class_weights": torch.arange(1.0, channels + 1)})
    if mode != "multiclass":
        settings.append({"pos_weight": torch.arange(1.0, channels + 1)})
    for setting in settings:
        check_loss(x, target, **{**given, **setting})


@every_formulation
@every_mode
def test_is_made_of_the_functions(mode, channels, formulation):
    x, target = case((37, 41), mode, channels)
    settings = {"mode": mode, "formulation": formulation}
    ce = outlier_region_loss(x, target, mode=mode, strength=0)
    outlier = outlier_region_loss(x, target, **settings) - (0 if formulation == "paper" else ce)
    expected = 0.5 * ce + 2 * dice_loss(x, target, mode=mode) + 3 * outlier
    loss = CompoundLoss(0.5, 2.0, 3.0, **settings)(x, target)
    torch.testing.assert_close(loss, expected, **TOLERANCES[F64])


def test_arguments_and_defaults_are_the_outlier_losss():
    own = {"self", "alpha", "beta", "gamma", "dice_smooth"}
    parameters = dict(inspect.signature(CompoundLoss.__init__).parameters)
    shared = {name: parameter for name, parameter in parameters.items() if name not in own}
    others = dict(inspect.signature(OutlierRegionLoss.__init__).parameters)
    assert shared == {name: others[name] for name in others if name != "self"}
    assert [parameters[name].default for name in sorted(own - {"self"})] == [1.0] * 4


@pytest.mark.parametrize("mode", ["binary", "multiclass"])
def test_one_forward_computes_everything_once(mode):
    x, target = case((13, 17), mode, 1 if mode == "binary" else 3)
    counted = ["sigmoid", "softmax", "log_softmax", "exp", "binary_cross_entropy_with_logits"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        CompoundLoss(mode=mode)(x, target)
    calls = {event.key: event.count for event in profile.key_averages()}
    calls = {name: calls.get(f"aten::{name}", 0) for name in counted}
    assert max(calls.values()) == 1
    assert calls["sigmoid"] + calls["softmax"] + calls["exp"] == 1


@either_input
@every_formulation
@every_mode
def test_ignored_pixels(mode, channels, formulation, from_logits):
    settings = {"mode": mode, "formulation": formulation, "from_logits": from_logits, **SMALL}
    x, target = case((9, 11), mode, channels, from_logits)
    target = target.masked_fill(random(target.shape) > 0.8, 255)
    outside = {"ignore_index": 255, "mask": random((2, 1, 9, 11), 2) > 0.2}
    loss, grad = check_loss(x, target, **settings, **outside)
    out = outside_of(references.valid_pixels(x.shape, target, mode=mode, **outside), x)
    for junk in (torch.nan, torch.inf):
        again = check_loss(x.masked_fill(out, junk), target, **settings, **outside)
        assert torch.equal(again[0], loss)
        assert torch.equal(again[1], grad)
    assert (grad[out] == 0).all()
    for samples, ignored in ((2, torch.full_like(target, 255)), (0, target)):
        x = x.detach()[:samples].fill_(torch.nan).requires_grad_()
        nothing = CompoundLoss(ignore_index=255, **settings)(x, ignored[:samples])
        nothing.backward()
        assert nothing == 0
        assert (x.grad == 0).all()


@every_formulation
@every_mode
def test_images_of_none_one_and_many_pixels(mode, channels, formulation):
    """An image without pixels is not in the mean; one with a single pixel is."""
    x, target = case((9, 11), mode, channels, batch=3)
    mask = torch.zeros(3, 9, 11, dtype=torch.bool)
    mask[1, 4, 5], mask[2, :6] = True, True
    for reduction in ("mean", "sum"):
        settings = {"mode": mode, "formulation": formulation, "reduction": reduction, **SMALL}
        check_loss(x, target, mask=mask, **settings)
        check_loss(x[2:], target[2:], **settings)


@every_formulation
@every_mode
def test_settings_may_come_from_a_file(mode, channels, formulation):
    x, target = case((9, 11), mode, channels)
    settings = {"mode": mode, "formulation": formulation, "reduction": "sum", **SMALL}
    losses = [
        CompoundLoss(**WEIGHTS, **given)(x, target, return_terms=True)
        for given in (settings, json.loads(json.dumps(settings)))
    ]
    torch.testing.assert_close(*losses, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [F32, *HALVES])
@every_formulation
def test_smaller_dtypes_under_autocast_or_not(formulation, dtype):
    x, target = case((13, 17), "multiclass", 3)
    settings = {"mode": "multiclass", "formulation": formulation, "reduction": "sum", **SMALL}
    got = check_loss(x.to(dtype), target, **settings)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = check_loss(x.to(dtype), target, **settings)
        check_loss(x, target, **settings)
    assert all(torch.equal(a, b) for a, b in zip(got, under_autocast, strict=True))


@every_formulation
@pytest.mark.parametrize("from_logits", [True, False])
def test_a_full_fp16_mask_is_finite(formulation, from_logits):
    x = torch.ones(1, 1, 512, 512, dtype=torch.float16, requires_grad=True)
    loss = CompoundLoss(formulation=formulation, from_logits=from_logits)(x, torch.ones_like(x))
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()


@every_formulation
def test_huge_logits_are_finite(formulation):
    x = (2e30 * random((1, 3, 9, 11)) - 1e30).float()
    for mode in ("multilabel", "multiclass"):
        target = torch.ones(x.shape if mode == "multilabel" else (1, 9, 11)).long()
        check_loss(x, target, mode=mode, formulation=formulation)


def test_weights_keep_their_precision():
    x, target = case((13, 17), "binary", 1)
    expected = CompoundLoss(**WEIGHTS)(x, target)
    for cast in (
        lambda loss: loss.half(),
        lambda loss: loss.to(torch.float16),
        lambda loss: loss.bfloat16().double(),
        lambda loss: torch.nn.Sequential(loss).half()[0],
        copy.deepcopy,
        lambda loss: pickle.loads(pickle.dumps(loss)),
    ):
        loss = cast(CompoundLoss(**WEIGHTS))
        assert {name: float(getattr(loss, name)) for name in WEIGHTS} == WEIGHTS
        assert torch.equal(loss(x, target), expected)
    assert all(w.is_meta for w in CompoundLoss(pos_weight=torch.ones(1)).to("meta").buffers())
    with torch.device("meta"):
        loss = torch.nn.Sequential(CompoundLoss(**WEIGHTS), torch.nn.BatchNorm2d(1))
    assert torch.equal(loss.to_empty(device="cpu")[0](x, target), expected)


@pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@every_formulation
@pytest.mark.parametrize(("mode", "channels"), MODES[::2])
def test_traced(mode, channels, formulation):
    settings = {"mode": mode, "formulation": formulation, **SMALL}
    traced = torch.jit.trace(CompoundLoss(**settings), case((9, 11), mode, channels))
    x, target = case((13, 6), mode, channels, batch=3)
    torch.testing.assert_close(traced(x, target), CompoundLoss(**settings)(x, target))


def test_weights_move_as_fp32():
    """Apple's GPUs hold no float64."""
    moved = []
    CompoundLoss()._apply(lambda weight: moved.append(weight.dtype) or weight)
    assert moved == [F32] * 3


def test_a_move_that_fails_changes_nothing():
    def fail(weight):
        raise RuntimeError("no such device")

    loss = CompoundLoss(**WEIGHTS)
    with pytest.raises(RuntimeError, match="no such device"):
        loss._apply(fail)
    assert all(weight.dtype == F64 for weight in loss.buffers())


def test_state_and_repr():
    loss = CompoundLoss(**WEIGHTS, mode="multiclass", formulation="penalty", dice_smooth=0.5)
    assert loss.state_dict() == {}
    assert list(loss.parameters()) == []
    assert {name for name, _ in loss.named_buffers()} == set(WEIGHTS)
    loss.load_state_dict(CompoundLoss().state_dict(), strict=True)
    settings = ["alpha=0.3", "beta=0.7", "gamma=1.9", "dice_smooth=0.5", "mode='multiclass'"]
    assert all(setting in repr(loss) for setting in [*settings, "formulation='penalty'"])


@every_formulation
def test_training_step_under_autocast(formulation):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Conv2d(4, 3, 1))
    criterion = CompoundLoss(mode="multiclass", formulation=formulation, **SMALL)
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    image = torch.randn(2, 2, 21, 23)
    target, values = (image[:, 0] > 0.5).long() + (image[:, 0] > 1.0).long(), []
    for _ in range(8):
        with torch.autocast("cpu", torch.bfloat16):
            loss = criterion(net(image), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
        assert all(p.grad.isfinite().all() for p in net.parameters())
    assert values[-1] < values[0]


def compare_compiled(backend, mode, channels, formulation, dynamic, sizes):
    """Compile a loss whose weight is ramped, compare it with eager, and count the programs."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    loss = CompoundLoss(mode=mode, formulation=formulation, inner=3, outer=5)
    ramp = WeightRamp(loss, "gamma", total_steps=5)
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend=counter)
    programs, values = set(), set()
    for batch, spatial in sizes:
        x, target = case(spatial, mode, channels, batch=batch)
        results = []
        for function in (compiled, loss):
            x = x.detach().requires_grad_()
            value, terms = function(x, target, return_terms=True)
            results.append((value, terms, *torch.autograd.grad(value, x)))
        torch.testing.assert_close(*results, **TOLERANCES[F64])
        programs.add(counter.frame_count)
        values.add(results[0][0].item())
        ramp.step()
    assert len(programs) == 1
    assert len(values) == len(sizes)


compiles = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@compiles
@every_formulation
@pytest.mark.parametrize(("mode", "channels"), [MODES[0], MODES[3]])
def test_a_ramp_does_not_recompile(mode, channels, formulation):
    compare_compiled("aot_eager", mode, channels, formulation, False, [(2, (12, 17))] * 4)


@compiles
def test_a_ramp_does_not_recompile_with_dynamic_shapes():
    sizes = [(2, (12, 17)), (3, (15, 13)), (2, (9, 40))]
    compare_compiled("aot_eager", "multilabel", 3, "suppress", True, sizes)


@compiles
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch 2.13's own import
@pytest.mark.filterwarnings("ignore:Skipping serialization of skipfiles:UserWarning")  # torch 2.6's
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
def test_compiled_by_inductor_equals_eager():
    compare_compiled("inductor", "multiclass", 3, "paper", False, [(2, (12, 17))] * 2)


def test_a_mask_in_the_place_of_return_terms_is_refused():
    x, target = case((9, 11), "binary", 1)
    with pytest.raises(TypeError, match="`return_terms` must be True or False"):
        CompoundLoss()(x, target, torch.ones(2, 9, 11, dtype=torch.bool))


def test_settings_that_cannot_work_fail_at_construction():
    with pytest.raises(ValueError, match=r"`pos_weight` .* use `class_weights`"):
        CompoundLoss(mode="multiclass", pos_weight=2.0)


def test_shows_its_weights_without_values_too():
    assert "gamma=0.5" in repr(CompoundLoss(gamma=0.5))
    assert "gamma=?" in repr(CompoundLoss(gamma=0.5).to("meta"))
