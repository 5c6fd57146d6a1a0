"""Values that would make a loss silently wrong: clamped, or found by ``check_values``."""

import pytest
import torch

from gliomaseg_layers import CompoundLoss, DensityLoss, DiceLoss, OutlierRegionLoss
from gliomaseg_layers.functional import dice_loss
from tests.support import references
from tests.support.cases import (
    BF16,
    F16,
    F32,
    F64,
    HALVES,
    case,
    check,
    every_formula,
    every_mode,
    random,
)

LOSSES = [OutlierRegionLoss, DensityLoss, DiceLoss, CompoundLoss]
MULTICLASS = {"mode": "multiclass"}
PROBS = {"from_logits": False}


def make(module, **settings):
    if module is CompoundLoss:
        return CompoundLoss(OutlierRegionLoss(**settings))
    return module(**settings)


def labels(*values, shape=(2, 6, 8)):
    """Return labels of these values, each of them somewhere."""
    values = torch.tensor(values)
    return values[torch.arange(torch.Size(shape).numel()) % len(values)].view(shape)


def placed(x, value, place=(1, 0, 2, 3)):
    x = x.clone()
    x[place] = value
    return x


BINARY = labels(0, 1, shape=(2, 1, 6, 8))
INDICES = labels(0, 1, 2, 3)
ONE_HOT = torch.eye(4)[INDICES].movedim(-1, 1)
LOGITS, CLASSES = (3 * random(shape).float() - 1 for shape in ((2, 1, 6, 8), (2, 4, 6, 8)))
MASK = torch.ones(2, 6, 8, dtype=torch.bool)
MASK[1, 2, 3] = False

FAULTS = {
    "mask of 0 and 255": ({}, LOGITS, 255 * BINARY, "from 0 to 255; .* `mask > 0`"),
    "uint8 mask": ({}, LOGITS, (255 * BINARY).byte(), "from 0 to 255; .* `mask > 0`"),
    "float mask": ({}, LOGITS, 255.0 * BINARY, "from 0 to 255; .* `mask > 0`"),
    "labels of 1 and 2": ({}, LOGITS, BINARY + 1, "`target` must lie .* from 1 to 2"),
    "labels of -1 and 1": ({}, LOGITS, 2 * BINARY - 1, "`target` must lie .* from -1 to 1"),
    "multilabel mask of 0 and 255": (
        {"mode": "multilabel"},
        CLASSES,
        255 * ONE_HOT,
        "`target` must lie .* from 0 to 255",
    ),
    "NaN in the target": ({}, LOGITS, placed(BINARY.float(), torch.nan), "`target` must lie"),
    "logits for probabilities": (PROBS, LOGITS, BINARY, r"`input` .* from -\S+ to \S+; are they"),
    "one logit above 1": (PROBS, placed(LOGITS.sigmoid(), 1.5), BINARY, "`input` .* to 1.5; are"),
    "multiclass logits for probabilities": (
        PROBS | MULTICLASS,
        CLASSES,
        INDICES,
        "`input` must hold probabilities, .* are they logits",
    ),
    "sigmoids for softmax": (
        PROBS | MULTICLASS,
        CLASSES.sigmoid(),
        INDICES,
        "`input` must hold probabilities that add up to 1 .* got sums from",
    ),
    "softmax for logits": (
        MULTICLASS,
        CLASSES.softmax(1),
        INDICES,
        "`input` must hold logits .* are they probabilities",
    ),
    "softmax in bf16 for logits": (
        MULTICLASS,
        CLASSES.softmax(1).bfloat16(),
        INDICES,
        "are they probabilities",
    ),
    "class 9 of 4": (
        MULTICLASS,
        CLASSES,
        placed(INDICES, 9, (1, 2, 3)),
        "`target` must hold class indices from 0 to 3, got 0 to 9; .* `ignore_index`",
    ),
    "class 4 of 4": (MULTICLASS, CLASSES, labels(0, 4), "from 0 to 3, got 0 to 4"),
    "class -1": (MULTICLASS, CLASSES, labels(0, -1), "from 0 to 3, got -1 to 0"),
    "class 255 of uint8": (MULTICLASS, CLASSES, labels(0, 255).byte(), "got 0 to 255"),
    "class -100 beside another ignore_index": (
        MULTICLASS | {"ignore_index": 255},
        CLASSES,
        labels(0, 255, -100),
        "got -100 to 0",
    ),
    "-1 in a uint8 mask": (
        {"ignore_index": -1},
        LOGITS,
        (255 * BINARY).byte(),
        "from 0 to 255; torch.uint8 cannot hold ignore_index=-1",
    ),
    "-1 in uint8 labels": (
        MULTICLASS | {"ignore_index": -1},
        CLASSES,
        labels(0, 255).byte(),
        "got 0 to 255; torch.uint8 cannot hold ignore_index=-1",
    ),
    "class 9 as a float": (MULTICLASS, CLASSES, labels(0.0, 9.0), "got 0 to 9"),
    "labels of 1.5": (MULTICLASS, CLASSES, labels(0.0, 1.5), "whole class indices, got fractions"),
    "labels of 1.9": (MULTICLASS, CLASSES, labels(0.0, 1.9), "whole class indices"),
    "NaN labels": (MULTICLASS, CLASSES, labels(0.0, torch.nan), "whole class indices, got .* NaN"),
    "infinite labels": (MULTICLASS, CLASSES, labels(0.0, torch.inf), "whole class indices"),
    "soft target of other sums": (
        MULTICLASS,
        CLASSES,
        0.9 * ONE_HOT,
        "`target` must add up to 1 over the classes, got sums from 0.9 to 0.9",
    ),
    "several labels for softmax": (MULTICLASS, CLASSES, 1 - ONE_HOT, "got sums from 3 to 3"),
    "soft target of 0 and 255": (MULTICLASS, CLASSES, 255 * ONE_HOT, "from 0 to 255"),
    **{
        f"{value} in the input": (
            settings,
            placed(x, value),
            target,
            "`input` must be finite, got NaN or infinities",
        )
        for value in (torch.nan, torch.inf, -torch.inf)
        for settings, x, target in ((MULTICLASS, CLASSES, INDICES),)
    },
    "NaN in probabilities": (PROBS, placed(LOGITS.sigmoid(), torch.nan), BINARY, "must be finite"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("module", LOSSES)
def test_faults_are_found(module, fault):
    settings, x, target, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        make(module, **settings).check_values(x, target)


@pytest.mark.parametrize("weight", [torch.inf, torch.nan, -1.0])
@pytest.mark.parametrize("name", ["class_weights", "pos_weight"])
@pytest.mark.parametrize("module", LOSSES)
def test_weights_are_looked_at(module, name, weight):
    """1 / frequency of a class that is nowhere, for instance."""
    if module is DiceLoss and name == "pos_weight":
        pytest.skip("Dice has no such weight")
    settings = {"mode": "multilabel", name: torch.tensor([1.0, 2.0, 0.0, weight])}
    with pytest.raises(ValueError, match=f"`{name}` must be finite and >= 0, got .*{weight:g}"):
        make(module, **settings).check_values(CLASSES, ONE_HOT)
    settings[name][3] = 0.5
    make(module, **settings).check_values(CLASSES, ONE_HOT)


def test_weights_of_the_dice_loss_in_a_compound_are_looked_at():
    for weights, message in (
        (torch.tensor([1.0, 2.0, 0.0, torch.inf]), "must be finite and >= 0"),
        (torch.ones(3), "must have shape"),
    ):
        dice = DiceLoss("multiclass", class_weights=weights)
        with pytest.raises(ValueError, match=f"`class_weights` {message}"):
            CompoundLoss(OutlierRegionLoss("multiclass"), dice).check_values(CLASSES, INDICES)


OUTSIDE = {
    "NaN in the input": (MULTICLASS, placed(CLASSES, torch.nan), INDICES),
    "infinity in the input": (PROBS, placed(LOGITS.sigmoid(), torch.inf), BINARY),
    "a logit among probabilities": (PROBS, placed(LOGITS.sigmoid(), 7.0), BINARY),
    "255 in a mask": ({}, LOGITS, placed(BINARY, 255)),
    "NaN in a target": ({}, LOGITS, placed(BINARY.float(), torch.nan)),
    "class 9": (MULTICLASS, CLASSES, placed(INDICES, 9, (1, 2, 3))),
    "label 1.5": (MULTICLASS, CLASSES, placed(INDICES.float(), 1.5, (1, 2, 3))),
    "a sum": (MULTICLASS, CLASSES, placed(ONE_HOT, 5.0)),
}


@pytest.mark.parametrize("fault", OUTSIDE)
@pytest.mark.parametrize("module", LOSSES)
def test_outside_the_image_anything_goes(module, fault):
    settings, x, target = OUTSIDE[fault]
    loss = make(module, **settings)
    for mask in (MASK, MASK[:, None], torch.zeros_like(MASK)):
        loss.check_values(x, target, mask)
        assert loss(x, target, mask).isfinite()
    with pytest.raises(ValueError, match="must"):
        loss.check_values(x, target)


def good_batches():
    for dtype in (F32, F64, *HALVES):
        x, classes = LOGITS.to(dtype), CLASSES.to(dtype)
        for target in (BINARY, BINARY.bool(), BINARY.byte(), BINARY.to(dtype), BINARY[:, 0]):
            yield {}, x, target
            yield PROBS, x.sigmoid(), target
        yield {}, x, random(x.shape, 1).to(dtype)
        yield {}, x.sigmoid(), BINARY  # which might be logits
        yield PROBS, BINARY.to(dtype), BINARY
        yield PROBS, x.sigmoid() + 1e-3, BINARY
        yield {"mode": "multilabel"}, classes, CLASSES > 0
        yield {"mode": "multilabel"}, classes.softmax(1), CLASSES > 0
        soft = random(classes.shape, 2)
        soft = (soft / soft.sum(1, keepdim=True)).to(dtype)
        for target in (INDICES, INDICES[:, None], INDICES.byte(), INDICES.to(dtype), ONE_HOT, soft):
            yield MULTICLASS, classes, target
            yield MULTICLASS | PROBS, classes.softmax(1), target
        yield MULTICLASS, torch.zeros_like(classes), INDICES
        yield MULTICLASS, classes.clamp(0, 1), INDICES  # of other sums than 1
    yield MULTICLASS, CLASSES[:, :2], BINARY[:, 0].bool()
    yield MULTICLASS, CLASSES, labels(0.0, 1.9999, 2.0001)
    for value in (255, -100):
        settings = {"ignore_index": value}
        yield settings, LOGITS, BINARY.masked_fill(BINARY == 0, value)
        yield settings, LOGITS, torch.full_like(BINARY, value)
        yield settings | MULTICLASS, CLASSES, INDICES.masked_fill(INDICES == 3, value)
        yield settings | MULTICLASS, CLASSES, INDICES.masked_fill(INDICES == 3, value).float()
    for x, target in ((LOGITS[:0], BINARY[:0]), (LOGITS[..., :0], BINARY[..., :0])):
        yield {}, x, target
    yield MULTICLASS, CLASSES[:0], INDICES[:0]
    yield {}, torch.rand(1, 1, 3, 4, 5), torch.ones(1, 1, 3, 4, 5)


@pytest.mark.parametrize("module", LOSSES)
def test_good_batches_pass_and_nothing_is_changed(module):
    for settings, x, target in good_batches():
        x = x.detach().clone().requires_grad_()
        given = x.detach().clone(), target.clone()
        loss = make(module, **settings)
        before = repr(loss)
        assert loss.check_values(x, target) is None
        assert loss.check_values(x, target, mask=torch.ones(x[:, 0].shape).bool()) is None
        assert torch.equal(x, given[0])
        assert torch.equal(target, given[1])
        assert x.grad is None
        assert repr(loss) == before
        assert loss(x, target).isfinite()


@pytest.mark.parametrize("module", LOSSES)
def test_shapes_are_errors_as_in_a_forward(module):
    with pytest.raises(ValueError, match="`target` must have shape"):
        make(module).check_values(LOGITS, BINARY[..., 1:])
    with pytest.raises(TypeError, match="`mask` must have dtype"):
        make(module).check_values(LOGITS, BINARY, BINARY)


@pytest.mark.parametrize("module", LOSSES)
def test_labels_that_were_resized_are_rounded(module):
    loss = make(module, **MULTICLASS, ignore_index=3)
    expected = loss(CLASSES, INDICES)
    for label in (0.0001, -0.0001):
        assert loss(CLASSES, INDICES + label) == expected


BESIDE = [1 + 2**-23, -1e-8, 1.5, -0.25, 0.0, 1.0]


def with_values_beside(mode, channels):
    """Return probabilities of which some are a rounding error, or more, outside [0, 1]."""
    x, target = case((9, 11), mode, channels, from_logits=False)
    x = x.float()
    for index, value in enumerate(BESIDE):
        x[..., index, :] = value
    return x, target


@every_formula
@every_mode
def test_probabilities_beside_0_and_1_are_clamped(mode, channels, formula):
    """With the clamp's gradient: 0 outside, kept at 0 and 1 themselves."""
    x, target = with_values_beside(mode, channels)
    settings = {"mode": mode, "from_logits": False, "reduction": "sum"}
    soft = random(x.shape)
    targets = [target, soft / soft.sum(1, keepdim=True) if mode == "multiclass" else soft]
    for labels in targets:
        for function, reference, more in (
            (formula.function, formula.reference, formula.small),
            (dice_loss, references.dice_loss, {}),
        ):
            loss, grad = check(function, reference, x, labels, **settings, **more)
            clamped = function(x.clamp(0, 1), labels, **settings, **more)
            assert torch.equal(loss, clamped)
            assert grad.isfinite().all()
            assert (grad[(x < 0) | (x > 1)] == 0).all()
    for value in (0.0, 1.0):
        assert (grad[x == value] != 0).all()  # of Dice: the logarithms have a clamp of their own
    small = {"mode": mode, "from_logits": False, **formula.small}
    leaf = x.clone().requires_grad_()
    loss = CompoundLoss(formula.module(**small))(leaf, target)
    (grad,) = torch.autograd.grad(loss, leaf)
    assert loss.isfinite()
    assert grad.isfinite().all()
    assert (grad[(x < 0) | (x > 1)] == 0).all()


@pytest.mark.parametrize("dtype", [F64, BF16, F16])
@pytest.mark.parametrize("module", LOSSES)
def test_the_next_number_beside_1_in_every_dtype(module, dtype):
    above = torch.nextafter(torch.ones((), dtype=dtype), torch.full((), 2.0, dtype=dtype))
    x = above.expand(1, 1, 9, 11).clone().requires_grad_()
    for target in (torch.ones(1, 1, 9, 11), torch.zeros(1, 1, 9, 11)):
        loss = make(module, **PROBS)(x, target)
        assert loss == make(module, **PROBS)(torch.ones_like(x), target)
        assert (torch.autograd.grad(loss, x)[0] == 0).all()
