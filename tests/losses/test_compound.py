import copy
import pickle
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gliomaseg_layers import CompoundLoss, DensityLoss, DiceLoss, OutlierRegionLoss, WeightRamp
from gliomaseg_layers.functional import density_map, dice_loss, outlier_region_loss, scnp
from tests.support import references
from tests.support.cases import (
    DENSITY,
    F32,
    F64,
    FORMULAS,
    HALVES,
    MODES,
    SMALL,
    NoHostSynchronisation,
    case,
    check,
    either_input,
    every_formula,
    every_mode,
    outside_of,
    random,
)
from tests.support.references import array
from tests.support.tolerances import TOLERANCES

WEIGHTS = {"alpha": 0.3, "beta": 0.7, "gamma": 1.9}
TERMS = {"alpha": "ce", "beta": "dice", "gamma": "outlier"}


def make(formula, *, dice=None, **settings):
    weights = {name: settings.pop(name) for name in (*WEIGHTS, "scnp") if name in settings}
    outlier = formula.module(**settings)
    if dice is not None:
        dice = DiceLoss(outlier.mode, ignore_index=outlier.ignore_index, **dice)
    return CompoundLoss(outlier, dice, **weights)


def check_loss(formula, x, target, **settings):
    def loss(x, target, mask=None, **settings):
        return make(formula, **settings)(x, target, mask)

    reference = partial(references.compound_loss, outlier=formula.reference)
    return check(loss, reference, x, target, **settings)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@either_input
@every_formula
@every_mode
def test_matches_reference(mode, channels, formula, from_logits, reduction):
    settings = {"mode": mode, "from_logits": from_logits, "reduction": reduction, **formula.small}
    x, target = case((13, 17), mode, channels, from_logits)
    check_loss(formula, x.float(), target, **WEIGHTS, **settings)
    for off in (set(), {"alpha"}, {"beta"}, {"gamma"}, {"alpha", "beta"}, {"beta", "gamma"}):
        weights = {name: 0 if name in off else weight for name, weight in WEIGHTS.items()}
        check_loss(formula, x, target, **weights, **settings)
        loss, terms = make(formula, **weights, **settings)(
            x.clone().requires_grad_(), target, return_terms=True
        )
        expected, _, parts = references.compound_loss(
            x, target, outlier=formula.reference, **weights, **settings
        )
        np.testing.assert_allclose(array(loss), expected, **TOLERANCES[F64])
        assert list(terms) == ["ce", "dice", "outlier"]
        for name, term in terms.items():
            assert not term.requires_grad
            np.testing.assert_allclose(array(term), parts[name], **TOLERANCES[F64])
        assert {name for name in WEIGHTS if terms[TERMS[name]] == 0} == off


@every_formula
@pytest.mark.parametrize(("mode", "channels"), [MODES[1], MODES[3]])
def test_settings_reach_their_terms(mode, channels, formula):
    x, target = case((7, 13, 11), mode, channels, sharpness=0.5)
    each = torch.arange(1.0, channels + 1)
    settings = [{"ignore_index": 1}, {"class_weights": each}]
    if mode != "multiclass":
        settings.append({"pos_weight": each})
    if formula is DENSITY:
        settings += [{"inner": (1, 3, 3), "outer": (1, 9, 9)}, {"smooth": 0.1}, {"threshold": 3}]
    else:
        settings += [{"window": (1, 9, 9)}, {"max_noise_size": 3}, {"levels": [0.5]}]
        settings += [{"strength": 2.0}, {"share": 0.01}]
    settings += [{"dice": {name: True}} for name in ("batch", "soft_label")]
    settings += [{"dice": {"smooth": 0.1}}, {"dice": {"class_weights": each}}]
    if mode == "multiclass":
        settings.append({"dice": {"include_background": False}})
    base = {"mode": mode, **WEIGHTS, **formula.small}
    soft = random(x.shape)
    plain = {}
    for setting in settings:
        labels = target
        if "soft_label" in setting.get("dice", {}):
            labels = soft / soft.sum(1, keepdim=True) if mode == "multiclass" else soft
        if id(labels) not in plain:
            plain[id(labels)], _ = check_loss(formula, x, labels, **base)
        loss, _ = check_loss(formula, x, labels, **{**base, **setting})
        assert not torch.equal(loss, plain[id(labels)]), setting


@every_formula
@every_mode
def test_is_made_of_the_functions(mode, channels, formula):
    x, target = case((37, 41), mode, channels)
    ce = outlier_region_loss(x, target, mode=mode, strength=0)
    outlier = formula.function(x, target, mode=mode, **formula.own) - ce
    expected = 0.5 * ce + 2 * dice_loss(x, target, mode=mode) + 3 * outlier
    loss = CompoundLoss(formula.module(mode, **formula.own), alpha=0.5, beta=2.0, gamma=3.0)
    torch.testing.assert_close(loss(x, target), expected, **TOLERANCES[F64])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@either_input
@every_formula
@every_mode
def test_scnp_is_made_of_the_functions(mode, channels, formula, from_logits, reduction):
    """CE and Dice are those of the worst logits, the outlier term is that of the plain ones."""
    x, target = case((9, 11), mode, channels, from_logits)
    target = target.masked_fill(random(target.shape) > 0.9, 255)
    mask = random((2, 9, 11), 2) > 0.1
    given = {"mode": mode, "from_logits": from_logits, "ignore_index": 255}
    outside = {**given, "reduction": reduction}
    for size in (3, (1, 5)):
        plain, worst = x.clone().requires_grad_(), x.clone().requires_grad_()
        near = scnp(worst, target, mask=mask, size=size, **given)
        outside["mask"] = mask
        ce, own = (outlier_region_loss(z, target, strength=0, **outside) for z in (near, worst))
        term = formula.function(worst, target, **outside, **formula.small) - own
        parts = {"ce": ce, "dice": dice_loss(near, target, **outside), "outlier": term}
        del outside["mask"]
        for off in (set(), {"alpha"}, {"beta"}, {"gamma"}, {"alpha", "beta"}, {"alpha", "gamma"}):
            weights = {name: 0 if name in off else weight for name, weight in WEIGHTS.items()}
            criterion = make(formula, scnp=size, **weights, **outside, **formula.small)
            loss, terms = criterion(plain, target, mask, return_terms=True)
            expected = sum(weight * parts[TERMS[name]] for name, weight in weights.items())
            results = [
                (value, torch.autograd.grad(value, z, retain_graph=True)[0])
                for value, z in ((loss, plain), (expected, worst))
            ]
            torch.testing.assert_close(*results, **TOLERANCES[F64])
            for name, key in TERMS.items():
                assert not terms[key].requires_grad
                true = 0 * parts[key] if name in off else parts[key]
                torch.testing.assert_close(terms[key], true.detach(), **TOLERANCES[F64])


@every_formula
@every_mode
def test_scnp_of_one_pixel_changes_nothing(mode, channels, formula):
    results = []
    for size in (None, 1, 3):
        x, target = case((9, 11), mode, channels)
        loss = make(formula, mode=mode, scnp=size, **formula.small)(x.requires_grad_(), target)
        results.append((loss, *torch.autograd.grad(loss, x)))
    plain, one, three = results
    torch.testing.assert_close(one, plain, **TOLERANCES[F64])
    assert one[0] == plain[0]
    assert three[0] > plain[0]


@every_mode
def test_equation_13(mode, channels):
    """Its three weights are 1, and its third term is the whole of equation 12."""
    x, target = case((37, 41), mode, channels)
    if mode == "multiclass":
        ce, probs = F.cross_entropy(x, target), x.softmax(1)
    else:
        ce, probs = F.binary_cross_entropy_with_logits(x, target.double()), x.sigmoid()
    density = density_map(probs, mode=mode).mean()
    assert density > 0
    expected = ce + dice_loss(x, target, mode=mode) + (ce - density)
    loss = CompoundLoss(DensityLoss(mode), alpha=2.0)(x, target)
    torch.testing.assert_close(loss, expected, **TOLERANCES[F64])


def test_defaults():
    x, target = case((37, 41), "binary", 1)
    expected = outlier_region_loss(x, target) + dice_loss(x, target)
    torch.testing.assert_close(CompoundLoss()(x, target), expected, **TOLERANCES[F64])
    loss = CompoundLoss(OutlierRegionLoss("multiclass", ignore_index=255))
    assert (loss.dice.mode, loss.dice.ignore_index) == ("multiclass", 255)


def test_the_dice_loss_takes_from_logits_and_reduction_from_the_outlier_loss():
    x, target = case((13, 17), "binary", 1, from_logits=False)
    outlier = OutlierRegionLoss(from_logits=False, reduction="sum")
    losses = [
        CompoundLoss(outlier, dice)(x, target)
        for dice in (None, DiceLoss(), DiceLoss(from_logits=True, reduction="none"))
    ]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


@pytest.mark.parametrize("mode", ["binary", "multiclass"])
def test_one_forward_computes_everything_once(mode):
    x, target = case((13, 17), mode, 1 if mode == "binary" else 3)
    counted = ["sigmoid", "softmax", "log_softmax", "exp", "binary_cross_entropy_with_logits"]
    for formula in FORMULAS.values():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            CompoundLoss(formula.module(mode))(x, target)
        calls = {event.key: event.count for event in profile.key_averages()}
        calls = {name: calls.get(f"aten::{name}", 0) for name in counted}
        assert max(calls.values()) == 1
        assert calls["sigmoid"] + calls["softmax"] + calls["exp"] == 1


class Operations(TorchDispatchMode):
    """Counts what is computed."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@every_formula
@every_mode
def test_a_term_of_weight_0_is_not_computed(mode, channels, formula):
    x, target = case((13, 17), mode, channels)

    def operations(**weights):
        loss = make(formula, mode=mode, **weights, **formula.small)
        with Operations() as counted:
            loss(x, target)
        return counted.count

    everything = operations()
    without = {name: everything - operations(**{name: 0}) for name in WEIGHTS}
    assert all(saved > 0 for saved in without.values()), without
    # The cross-entropy itself, where no other term needs it; Dice alone is left.
    assert operations(alpha=0, gamma=0) < everything - without["alpha"] - without["gamma"]


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_term_of_weight_0_spoils_nothing(name):
    """It could, were it computed: 0 times infinity is NaN."""
    x, target = case((7, 9), "binary", 1)
    x[0, 0, 3, 4], target[0, 0, 3, 4] = torch.inf, 0
    weights = dict.fromkeys(WEIGHTS, 0) | {name: 1.0}
    loss, terms = CompoundLoss(**weights)(x, target, return_terms=True)
    assert (loss == torch.inf) == (name == "alpha")
    assert not loss.isnan()
    assert all(term == 0 for key, term in terms.items() if key != TERMS[name])


@pytest.mark.parametrize("formula", list(FORMULAS.values())[:2], ids=list(FORMULAS)[:2])
def test_an_infinite_logit_leaves_the_terms_of_other_images(formula):
    x, target = case((7, 9), "binary", 1, batch=3)
    criterion = make(formula, reduction="sum", **formula.small)
    others = torch.tensor([0, 2])
    _, expected = criterion(x[others], target[others], return_terms=True)
    x[1] = -3.0  # an image without an island
    x[1, 0, 3, 4], target[1, 0, 3, 4] = torch.inf, 0
    x[1, 0, 4:, 4:] = 3.0
    target[1, 0] = 0
    _, terms = criterion(x, target, return_terms=True)
    assert terms["ce"] == torch.inf
    assert not terms["outlier"].isnan()
    assert terms["outlier"] >= expected["outlier"]


@either_input
@every_formula
@every_mode
def test_nothing_waits_for_the_device(mode, channels, formula, from_logits):
    """The compound loss runs every part of the other losses."""
    x, target = case((13, 17), mode, channels, from_logits)
    weights = {"class_weights": torch.ones(channels), "ignore_index": 1}
    settings = {"mode": mode, "from_logits": from_logits, **formula.own, **weights}
    dice = {"class_weights": torch.ones(channels), "batch": True, "soft_label": True}
    for size in (None, 3):
        loss = make(formula, dice=dice, scnp=size, **settings)
        with NoHostSynchronisation():
            loss(x.requires_grad_(), target, random((2, 13, 17)) > 0.2).backward()
            loss(x, target, return_terms=True)


@either_input
@every_formula
@every_mode
def test_ignored_pixels(mode, channels, formula, from_logits):
    settings = {"mode": mode, "from_logits": from_logits, **formula.small}
    x, target = case((9, 11), mode, channels, from_logits)
    target = target.masked_fill(random(target.shape) > 0.8, 255)
    outside = {"ignore_index": 255, "mask": random((2, 1, 9, 11), 2) > 0.2}
    loss, grad = check_loss(formula, x, target, **settings, **outside)
    out = outside_of(references.valid_pixels(x.shape, target, mode=mode, **outside), x)
    for junk in (torch.nan, torch.inf):
        again = check_loss(formula, x.masked_fill(out, junk), target, **settings, **outside)
        assert torch.equal(again[0], loss)
        assert torch.equal(again[1], grad)
    assert (grad[out] == 0).all()
    for samples, ignored in ((2, torch.full_like(target, 255)), (0, target)):
        x = x.detach()[:samples].fill_(torch.nan).requires_grad_()
        nothing = make(formula, ignore_index=255, **settings)(x, ignored[:samples])
        nothing.backward()
        assert nothing == 0
        assert (x.grad == 0).all()


@every_formula
@every_mode
def test_images_of_none_one_and_many_pixels(mode, channels, formula):
    """An image without pixels is not in the mean; one with a single pixel is."""
    x, target = case((9, 11), mode, channels, batch=3)
    mask = torch.zeros(3, 9, 11, dtype=torch.bool)
    mask[1, 4, 5], mask[2, :6] = True, True
    for reduction in ("mean", "sum"):
        settings = {"mode": mode, "reduction": reduction, **formula.small}
        check_loss(formula, x, target, mask=mask, **settings)
        check_loss(formula, x[2:], target[2:], **settings)


@pytest.mark.parametrize("dtype", [F32, *HALVES])
@every_formula
def test_smaller_dtypes_under_autocast_or_not(formula, dtype):
    x, target = case((13, 17), "multiclass", 3)
    settings = {"mode": "multiclass", "reduction": "sum", **formula.small}
    got = check_loss(formula, x.to(dtype), target, **settings)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = check_loss(formula, x.to(dtype), target, **settings)
        check_loss(formula, x, target, **settings)
    assert all(torch.equal(a, b) for a, b in zip(got, under_autocast, strict=True))


@every_formula
@pytest.mark.parametrize("from_logits", [True, False])
def test_a_full_fp16_mask_is_finite(formula, from_logits):
    x = torch.ones(1, 1, 512, 512, dtype=torch.float16, requires_grad=True)
    loss = make(formula, from_logits=from_logits, **formula.own)(x, torch.ones_like(x))
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()


@every_formula
def test_huge_logits_are_finite(formula):
    x = (2e30 * random((1, 3, 9, 11)) - 1e30).float()
    for mode in ("multilabel", "multiclass"):
        target = torch.ones(x.shape if mode == "multilabel" else (1, 9, 11)).long()
        check_loss(formula, x, target, mode=mode, **formula.own)


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
    moved = CompoundLoss(OutlierRegionLoss(pos_weight=torch.ones(1))).to("meta")
    assert len(list(moved.buffers())) == 4
    assert all(weight.is_meta for weight in moved.buffers())
    with torch.device("meta"):
        loss = torch.nn.Sequential(CompoundLoss(**WEIGHTS), torch.nn.BatchNorm2d(1))
    assert torch.equal(loss.to_empty(device="cpu")[0](x, target), expected)


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
    assert {name: float(getattr(loss, name)) for name in WEIGHTS} == WEIGHTS


def test_state_and_repr():
    dice = DiceLoss("multiclass", smooth=0.5)
    loss = CompoundLoss(DensityLoss("multiclass", inner=3), dice, **WEIGHTS, scnp=(1, 3))
    assert loss.state_dict() == {}
    assert list(loss.parameters()) == []
    assert {name for name, _ in loss.named_buffers()} == set(WEIGHTS)
    loss.load_state_dict(CompoundLoss().state_dict(), strict=True)
    shown = [
        "alpha=0.3",
        "beta=0.7",
        "gamma=1.9, scnp=(1, 3)",
        "(outlier): DensityLoss(mode='multiclass', ",
    ]
    shown += ["inner=3", "(dice): DiceLoss(mode='multiclass', smooth=0.5"]
    assert all(setting in repr(loss) for setting in shown)
    assert "scnp" not in repr(CompoundLoss())
    assert repr(pickle.loads(pickle.dumps(loss))) == repr(copy.deepcopy(loss)) == repr(loss)


def test_shows_its_weights_without_values_too():
    assert "gamma=0.5" in repr(CompoundLoss(gamma=0.5))
    assert "gamma=?" in repr(CompoundLoss(gamma=0.5).to("meta"))


@pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@every_formula
@pytest.mark.parametrize(("mode", "channels"), MODES[::2])
def test_traced(mode, channels, formula):
    loss = make(formula, mode=mode, **formula.small)
    traced = torch.jit.trace(loss, case((9, 11), mode, channels))
    x, target = case((13, 6), mode, channels, batch=3)
    torch.testing.assert_close(traced(x, target), loss(x, target))


@every_formula
def test_training_step_under_autocast(formula):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Conv2d(4, 3, 1))
    criterion = make(formula, mode="multiclass", **formula.small)
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


def compare_compiled(backend, mode, channels, formula, dynamic, sizes, **more):
    """Compile a loss whose weight is ramped, compare it with eager, and count the programs."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    loss = make(formula, mode=mode, alpha=np.float32(0.5), **formula.small, **more)
    ramp = WeightRamp(loss, "gamma", total_steps=5)
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend=counter)
    programs, values = set(), set()
    for batch, spatial in sizes:
        x, target = case(spatial, mode, channels, batch=batch)
        mask = random((batch, *spatial)) > 0.2
        results = []
        for function in (compiled, loss):
            x = x.detach().requires_grad_()
            value, terms = function(x, target, mask, return_terms=True)
            results.append((value, terms, *torch.autograd.grad(value, x)))
        torch.testing.assert_close(*results, **TOLERANCES[F64])
        programs.add(counter.frame_count)
        values.add(results[0][0].item())
        ramp.step()
    assert len(programs) == 1
    assert len(values) == len(sizes)


# The functions' own tests compile every formula in every mode.
@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize(("name", "mode"), [("outlier", MODES[0]), ("density", MODES[3])])
def test_a_ramp_does_not_recompile(name, mode, size):
    compare_compiled("aot_eager", *mode, FORMULAS[name], False, [(2, (12, 17))] * 4, scnp=size)


@pytest.mark.parametrize("size", [None, 3])
def test_a_ramp_does_not_recompile_with_dynamic_shapes(size):
    sizes = [(2, (12, 17)), (3, (15, 13)), (2, (9, 40))]
    compare_compiled("aot_eager", "multilabel", 3, FORMULAS["outlier"], True, sizes, scnp=size)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch 2.13's own import
@pytest.mark.filterwarnings("ignore:Skipping serialization of skipfiles:UserWarning")  # torch 2.6's
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
@pytest.mark.parametrize("size", [None, 3])
def test_compiled_by_inductor_equals_eager(size):
    sizes = [(2, (12, 17))] * 2
    compare_compiled("inductor", "binary", 1, FORMULAS["outlier"], False, sizes, scnp=size)


def test_the_mask_is_the_third_argument():
    x, target = case((9, 11), "binary", 1)
    mask = random((2, 9, 11)) > 0.4
    loss = CompoundLoss(OutlierRegionLoss(**SMALL))
    assert torch.equal(loss(x, target, mask), loss(x, target, mask=mask))
    assert loss(x, target, mask) != loss(x, target)
    with pytest.raises(TypeError, match="positional"):
        loss(x, target, mask, True)


@pytest.mark.parametrize(
    ("arguments", "error", "expected"),
    [
        ({"outlier": DiceLoss()}, TypeError, "`outlier` must be an OutlierRegionLoss or a Dens"),
        ({"outlier": OutlierRegionLoss}, TypeError, "`outlier` must be .*, got <class"),
        ({"outlier": "multiclass"}, TypeError, "`outlier` must be .*, got 'multiclass'"),
        ({"outlier": CompoundLoss()}, TypeError, "`outlier` must be"),
        ({"dice": OutlierRegionLoss()}, TypeError, "`dice` must be a DiceLoss, got Outl"),
        ({"dice": True}, TypeError, "`dice` must be a DiceLoss, got True"),
        (
            {"outlier": DensityLoss(reduction="none")},
            ValueError,
            "`outlier` must have reduction 'mean' or 'sum', .*, got reduction='none'",
        ),
        (
            {"dice": DiceLoss("multiclass")},
            ValueError,
            "`dice` must have the mode of `outlier`, 'binary', got 'multiclass'",
        ),
        (
            {"outlier": DensityLoss("multilabel"), "dice": DiceLoss()},
            ValueError,
            "`dice` must have the mode of `outlier`, 'multilabel', got 'binary'",
        ),
        (
            {"outlier": OutlierRegionLoss(ignore_index=255), "dice": DiceLoss()},
            ValueError,
            "`dice` must have the ignore_index of `outlier`, 255, got None",
        ),
        (
            {"dice": DiceLoss(ignore_index=0)},
            ValueError,
            "`dice` must have the ignore_index of `outlier`, None, got 0",
        ),
        (
            dict.fromkeys(WEIGHTS, 0),
            ValueError,
            "`alpha`, `beta` and `gamma` must not all be 0, .*, got 0, 0 and 0",
        ),
    ],
)
def test_losses_that_do_not_fit(arguments, error, expected):
    with pytest.raises(error, match=expected):
        CompoundLoss(**arguments)
