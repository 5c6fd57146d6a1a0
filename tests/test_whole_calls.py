"""Whole calls against the references: an equal, finite result, or an error that names an argument.

A few examples each here; `make fuzz` runs as many as it is told.
"""

import inspect
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from gliomaseg_layers import CompoundLoss, DensityLoss, DiceLoss, OutlierRegionLoss
from gliomaseg_layers.functional import (
    box_count,
    box_sum,
    density_loss,
    density_map,
    dice_loss,
    outlier_region_loss,
    outlier_weight,
    remove_outlier_regions,
    scnp,
)
from tests.support import references
from tests.support.calls import Call, calls
from tests.support.cases import DENSITY, F32, F64, FORMULAS, Formula, random
from tests.support.references import Array, array
from tests.support.tolerances import TOLERANCES

WEIGHT = st.sampled_from([0.0, 1, 0.7, 2.5])
weights = st.fixed_dictionaries(dict.fromkeys(("alpha", "beta", "gamma"), WEIGHT))
weights = weights.filter(lambda drawn: any(drawn.values()))
# What each of them takes, of the settings that `calls` draws.
REGION = ("mode", "window", "max_noise_size")
PAPER = ("mode", "inner", "outer", "smooth", "threshold")
LABELLED = ("mode", "from_logits", "mask", "reduction", "class_weights", "ignore_index")
OUTLIER_LOSS = (*LABELLED, *REGION, "levels", "strength", "share", "pos_weight")
DENSITY_LOSS = (*LABELLED, *PAPER, "pos_weight")
DICE = ("smooth", "batch", "soft_label", "class_weights")
formulas = st.sampled_from([FORMULAS["outlier"], DENSITY])
STEEP = 1e-30  # probabilities below have slopes that no dtype but fp64 holds, or that are cut off


def agree(
    function: Callable[..., Tensor],
    reference: Callable[..., tuple[Array, ...]],
    call: Call,
    *args: Tensor,
    **settings: Any,
) -> None:
    """Check that value and gradient are finite, of the right dtype, and the reference's."""
    x = call.input.detach().requires_grad_()
    value = function(x, *args, **settings)
    upstream = (7 * random(value.shape, seed=1) - 2).to(value)
    (grad,) = torch.autograd.grad(value, x, upstream)
    assert value.dtype == (F64 if x.dtype == F64 else F32)
    assert grad.dtype == x.dtype
    assert value.isfinite().all()
    assert grad.isfinite().all()
    expected, slope = reference(x, *args, upstream=upstream, **settings)[:2]
    largest, allowed = torch.finfo(x.dtype).max, dict(TOLERANCES[x.dtype])
    # Sums of slopes round by the largest of them, which a small `smooth` makes large.
    allowed["atol"] *= np.abs(slope).max(initial=1).clip(max=1e3)
    try:
        np.testing.assert_allclose(array(value), expected, **TOLERANCES[value.dtype])
        if call.settings["from_logits"] or not ((x > 0) & (x <= STEEP)).any():
            slope = slope.clip(-largest, largest)  # where `input` are probabilities it saturates
            np.testing.assert_allclose(array(grad), slope, **allowed)
    except AssertionError:
        if not decided_by_rounding(reference, x, *args, **settings):
            raise


def decided_by_rounding(reference: Callable[..., Any], *args: Any, **settings: Any) -> bool:
    """Tell whether a probability lies at a level, or a sum at the threshold, but for rounding."""
    found = []
    for nudge in (-1e-4, 1e-4):
        moved = dict(settings)
        if "inner" in settings:
            threshold = settings.get("threshold")
            if threshold is None:
                inner = references.sides(settings["inner"], args[0].dim() - 2)
                threshold = math.prod(inner) - math.prod(side // 2 + 1 for side in inner)
            moved["threshold"] = max(threshold + nudge, 0.0)
        if "levels" in settings:
            moved["levels"] = [level + nudge * (level != 0.5) for level in settings["levels"]]
        found.append(reference(*args, **moved)[:2])
    pairs = zip(*found, strict=True)
    return not all(np.allclose(*pair, rtol=1e-9, atol=0.0) for pair in pairs)


@given(calls())
def test_outlier_region_loss(call: Call) -> None:
    settings = call.only(*OUTLIER_LOSS)
    agree(outlier_region_loss, references.outlier_region_loss, call, call.target, **settings)


@given(calls())
def test_density_loss(call: Call) -> None:
    settings = call.only(*DENSITY_LOSS)
    agree(density_loss, references.density_loss, call, call.target, **settings)


def names_of(formula: Formula) -> tuple[str, ...]:
    return DENSITY_LOSS if formula is DENSITY else OUTLIER_LOSS


@given(calls(), formulas)
def test_modules(call: Call, formula: Formula) -> None:
    settings = call.only(*names_of(formula))
    expected = formula.function(call.input, call.target, **settings)
    mask = settings.pop("mask")
    assert torch.equal(formula.module(**settings)(call.input, call.target, mask), expected)


@given(calls(), weights, formulas)
def test_compound_loss(call: Call, weights: dict[str, float], formula: Formula) -> None:
    settings, dice = call.only(*names_of(formula)), call.only(*DICE)
    if settings["reduction"] == "none":
        settings["reduction"] = "mean"

    def compound_loss(x: Tensor, target: Tensor, **settings: Any) -> Any:
        mask = settings.pop("mask")
        outlier = formula.module(**settings)
        beside = DiceLoss(outlier.mode, ignore_index=outlier.ignore_index, **dice)
        return CompoundLoss(outlier, beside, **weights)(x, target, mask)

    def reference(x: Tensor, target: Tensor, **settings: Any) -> tuple[Array, ...]:
        parts = {"outlier": formula.reference, "dice": dice, **weights}
        return references.compound_loss(x, target, **parts, **settings)

    agree(compound_loss, reference, call, call.target, **settings)


@given(calls(), st.booleans())
def test_dice_loss(call: Call, background: bool) -> None:
    settings = call.only(*LABELLED, *DICE)
    settings["include_background"] = background or settings["mode"] != "multiclass"
    agree(dice_loss, references.dice_loss, call, call.target, **settings)


@given(calls(), formulas)
def test_check_values_takes_what_a_loss_takes(call: Call, formula: Formula) -> None:
    """A batch is in order, or its fault is named; and the loss is as before."""
    settings = call.only(*names_of(formula))
    mask = settings.pop("mask")
    loss = formula.module(**settings)
    expected = loss(call.input, call.target, mask)
    # Of what is drawn only this can look wrong: probabilities that were replaced.
    found = "`input` must hold"
    try:
        loss.check_values(call.input, call.target, mask)
    except ValueError as error:
        found = str(error)
    assert found.startswith("`input` must hold")
    assert torch.equal(loss(call.input, call.target, mask), expected)


def probabilities(call: Call) -> Call:
    """Return the call with probabilities for logits, and its mask under another name."""
    x = call.input
    if call.settings["from_logits"]:
        x = x.double().softmax(1) if call.settings["mode"] == "multiclass" else x.double().sigmoid()
        x = x.to(call.input.dtype)
    valid = {"valid": call.settings["mask"], "from_logits": False}
    return Call(x, call.target, call.settings | valid)


@given(calls(junk=False))
def test_density_map(call: Call) -> None:
    call = probabilities(call)
    agree(density_map, references.density_map, call, **call.only(*PAPER, "valid"))


@given(calls(junk=False))
def test_outlier_weight(call: Call) -> None:
    settings = call.only(*REGION, "from_logits", "levels") | {"valid": call.settings["mask"]}
    weight = outlier_weight(call.input.requires_grad_(), **settings)
    assert not weight.requires_grad
    expected = references.outlier_weight(call.input, **settings)
    if not np.allclose(array(weight), expected, **TOLERANCES[weight.dtype]):
        assert decided_by_rounding(
            lambda *args, **moved: (references.outlier_weight(*args, **moved),),
            call.input,
            **settings,
        )


@given(calls(junk=False), st.booleans())
def test_remove_outlier_regions(call: Call, mask: bool) -> None:
    """Flagged pixels change sides, as does the probability; in multiclass the rest is shared."""
    call = probabilities(call)
    settings, x = call.only(*REGION, "valid"), call.input
    multiclass = settings["mode"] == "multiclass"
    weight = references.outlier_weight(x, levels=(0.5,), **settings)
    flagged = torch.from_numpy(weight > 0).to(x.device)
    if mask and not multiclass:
        assert torch.equal(remove_outlier_regions(x > 0.5, **settings), (x > 0.5) ^ flagged)
    clean = remove_outlier_regions(x, **settings)
    assert clean.dtype == x.dtype
    assert clean.isfinite().all()
    if multiclass:
        kept = ~flagged.unsqueeze(1).expand_as(x)
        assert torch.equal(clean[kept], x[kept])
        assert (clean.argmax(1) != x.argmax(1))[flagged].all()
        total = clean.double().sum(1)[flagged]
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0.02, atol=0.0)
    else:
        assert torch.equal(clean, torch.where(flagged, 1 - x, x))


@given(calls(), st.booleans())
def test_scnp(call: Call, volume: bool) -> None:
    """Drawn values are often equal, so that of gradients the sums are compared."""
    settings = call.only("mode", "from_logits", "ignore_index", "mask")
    settings["size"] = call.settings["inner" if volume else "window"]
    x = call.input.detach().requires_grad_()
    worst = scnp(x, call.target, **settings)
    assert worst.dtype == x.dtype
    (grad,) = torch.autograd.grad(worst, x, torch.ones_like(x))
    expected, slope = references.scnp(x, call.target, **settings)
    np.testing.assert_array_equal(array(worst), expected)
    np.testing.assert_allclose(array(grad).sum(), slope.sum(), **TOLERANCES[x.dtype])


@given(calls(junk=False), st.booleans())
def test_box_sum(call: Call, integer: bool) -> None:
    x, window = call.input, call.settings["outer"]
    if integer:
        whole = call.target if call.target.dim() == x.dim() else x
        whole = (whole.double().clamp(-9, 9)).to(torch.int64)
        np.testing.assert_array_equal(
            array(box_sum(whole, window)), references.box_sum(whole, window)
        )
        return
    x = x.detach().requires_grad_()
    total = box_sum(x, window)
    upstream = random(total.shape, seed=1).to(x)
    (grad,) = torch.autograd.grad(total, x, upstream)
    for got, of in ((total, x), (grad, upstream)):
        assert got.dtype == x.dtype
        expected = references.box_sum(of, window)
        allowed = 4 * torch.finfo(x.dtype).eps * references.box_sum(of.abs(), window)
        allowed += torch.finfo(torch.float32).tiny
        limit = torch.finfo(x.dtype).max
        inside = np.abs(expected) + allowed < limit  # of the dtype's range
        assert (np.abs(array(got) - expected) <= allowed)[inside].all()
    count = box_count(x.shape[2:], window)
    np.testing.assert_array_equal(array(count), references.box_sum(np.ones(count.shape), window))


@given(calls(), st.sampled_from([torch.nan, torch.inf, -torch.inf]), st.integers(0, 9))
def test_what_is_not_finite_stays_where_it_is(call: Call, value: float, seed: int) -> None:
    """A pixel's loss is finite where torch's cross-entropy is, and the other pixels' is right.

    The paper's term, which reads the neighbours' values, is left out.
    """
    settings = call.only(*OUTLIER_LOSS) | {"reduction": "none", "from_logits": True}
    mode = settings["mode"]
    plainly = {"strength": 0, "pos_weight": None, "class_weights": None}
    broken = random(call.input.shape, seed).to(call.input.device) < 0.1
    x = call.input.masked_fill(broken, value)
    with np.errstate(all="ignore"):
        expected, ce = (
            torch.from_numpy(references.outlier_region_loss(x, call.target, **each)[0])
            for each in (settings, settings | {"strength": 0})
        )
    got = outlier_region_loss(x, call.target, **settings).cpu()
    right = ~(broken.any(1) if mode == "multiclass" else broken).cpu()
    # The weight multiplies torch's rounding of the cross-entropy, so it is divided out.
    weight = (expected / ce).nan_to_num(1.0).clamp(min=1.0)
    tolerance = TOLERANCES[got.dtype]
    torch.testing.assert_close((got / weight)[right], (expected / weight)[right], **tolerance)

    plain = outlier_region_loss(x, call.target, **settings | plainly)
    inside = references.valid_pixels(
        x.shape, call.target, **call.only("mode", "ignore_index", "mask")
    )
    target = references.dense_target(x.shape, call.target, inside, mode=mode)
    target = torch.from_numpy(target).to(plain)
    if mode == "multiclass":
        if call.target.shape != x.shape:
            target = target.argmax(1)  # torch, too, makes NaN of soft targets of 0
        theirs = F.cross_entropy(x.to(plain), target, reduction="none")
    else:
        theirs = F.binary_cross_entropy_with_logits(x.to(plain), target, reduction="none")
    theirs = theirs.where(torch.from_numpy(inside).to(x.device), 0.0)
    assert torch.equal(plain.isfinite(), theirs.isfinite())
    finite = theirs.isfinite()
    torch.testing.assert_close(plain[finite], theirs[finite], **tolerance)


ANYTHING = [
    *(None, True, False, 0, 1, 2, 3, 7, -1, 10**6 + 1, 10**400, 0.0, 0.5, 1.0, -0.5, 1e300, 1e-300),
    *(
        math.nan,
        math.inf,
        -math.inf,
        "",
        "x",
        "mean",
        "multiclass",
        b"xx",
        (),
        (3,),
        [3, 5],
        [3, 5, 7],
    ),
    *((0.5,), (0.1, None), (math.nan,), {}, {3}, {"a": 1}, range(3, 6), 1j, object(), int, len),
    *(Fraction(1, 3), Decimal(1), np.int64(3), np.float32(0.5), np.array(3), np.array([3, 5])),
    *(np.array([]), torch.tensor(2), torch.tensor(0.5), torch.tensor([1.0, 2.0]), torch.tensor([])),
    *(torch.ones(1, 1, 4, 5), torch.ones(1, 2, 4, 5), torch.ones(1, 4, 5), torch.ones(4, 5)),
    *(torch.ones(1, 1, 4, 5).bool(), torch.ones(1, 4, 5).long(), torch.ones(1, 1, 0, 5)),
    *(
        torch.ones(1, 1, 2, 4, 5),
        torch.ones(1, 1, 4, 5, device="meta"),
        torch.ones(1, 1, 4, 5).cfloat(),
    ),
    torch.ones(1, 1, 4, 5).to_sparse(),
]
TORCHS_OWN = {"dtype", "device"}  # whose errors are
IMAGE, LABELS = torch.full((1, 1, 4, 5), 0.75), torch.ones(1, 1, 4, 5)
FUNCTIONS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "outlier_region_loss": (outlier_region_loss, {"input": IMAGE, "target": LABELS}),
    "density_loss": (density_loss, {"input": IMAGE, "target": LABELS}),
    "dice_loss": (dice_loss, {"input": IMAGE, "target": LABELS}),
    "density_map": (density_map, {"probs": IMAGE}),
    "outlier_weight": (outlier_weight, {"input": IMAGE}),
    "remove_outlier_regions": (remove_outlier_regions, {"input": IMAGE}),
    "scnp": (scnp, {"input": IMAGE, "target": LABELS}),
    "box_sum": (box_sum, {"input": IMAGE, "window": 3}),
    "box_count": (box_count, {"spatial": (4, 5), "window": 3}),
    "OutlierRegionLoss": (OutlierRegionLoss, {}),
    "DensityLoss": (DensityLoss, {}),
    "CompoundLoss": (CompoundLoss, {}),
    "DiceLoss": (DiceLoss, {}),
}


@given(st.data())
def test_anything_in_the_place_of_an_argument(data: st.DataObject) -> None:
    """It is an error that names an argument, or it works."""
    function, given = FUNCTIONS[data.draw(st.sampled_from(sorted(FUNCTIONS)))]
    names = [name for name in inspect.signature(function).parameters if name not in TORCHS_OWN]
    changed = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    given = given | {name: data.draw(st.sampled_from(ANYTHING)) for name in changed}
    try:
        result = function(**given)
        if isinstance(result, torch.nn.Module):
            result = result(IMAGE, LABELS)
    except (TypeError, ValueError, RuntimeError) as error:
        message = str(error)
    else:
        message = "`input`" if result.is_meta or result.isfinite().all() else "not finite"
    assert any(f"`{name}`" in message for name in [*names, "input"]), message
