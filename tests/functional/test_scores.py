from functools import partial

import numpy as np
import pytest
import torch

from gliomaseg_layers.functional import dice_loss, outlier_region_loss
from tests.support import references
from tests.support.cases import (
    F32,
    F64,
    HALVES,
    SMALL,
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

check_loss = partial(check, outlier_region_loss, references.outlier_region_loss)


INDEX = [torch.uint8, torch.int16, torch.int32, torch.int64]


@pytest.mark.parametrize("dtype", [torch.bool, *INDEX, F32, F64, *HALVES])
@pytest.mark.parametrize(
    ("mode", "channels"), [("binary", 1), ("multilabel", 3), ("multiclass", 3)]
)
def test_target_dtypes_and_shapes(mode, channels, dtype):
    x, target = case((9, 11), mode, channels)
    if mode == "multiclass":
        if dtype in INDEX:
            shapes = [target, target.unsqueeze(1)]
        elif dtype == torch.bool:
            shapes, target = [target > 0], (target > 0).long()
        else:
            shapes = [torch.nn.functional.one_hot(target, channels).movedim(-1, 1)]
    else:
        shapes = [target] if mode == "multilabel" else [target, target.squeeze(1)]
    expected = references.outlier_region_loss(x, target, mode=mode, reduction="none")[0]
    for shape in shapes:
        loss, _ = check_loss(x, shape.to(dtype), mode=mode, reduction="none")
        np.testing.assert_allclose(array(loss), expected, **TOLERANCES[F64])


def ignoring(mode, channels, from_logits=True):
    """Yield input, target, ``ignore_index`` and mask, of every accepted kind."""
    x, clean = case((9, 11), mode, channels, from_logits)
    ignored = random(clean.shape, 2) > 0.8
    masks: list[torch.Tensor | None] = [None]
    masks += [random(s, 3) > 0.3 for s in ((2, 9, 11), (2, 1, 9, 11))]
    if mode == "multilabel":
        masks.append(random(x.shape, 4) > 0.3)
    for dtype, index in ((torch.uint8, 255), (torch.int64, -100), (torch.int64, 1), (F32, 255)):
        if mode != "multiclass" or dtype != F32:
            target = clean.to(dtype).masked_fill(ignored, index)
            yield from ((x, target, index, mask) for mask in masks)
    yield from ((x, clean, None, mask) for mask in masks[1:])


@every_formula
@either_input
@every_mode
def test_ignored_pixels(mode, channels, from_logits, formula):
    settings = {"mode": mode, "from_logits": from_logits, **formula.small}
    check_formula = partial(check, formula.function, formula.reference)
    for x, target, index, mask in ignoring(mode, channels, from_logits):
        outside = {"ignore_index": index, "mask": mask}
        loss, grad = check_formula(x, target, **settings, **outside)
        inside = references.valid_pixels(x.shape, target, mode=mode, **outside)
        none = formula.function(x, target, reduction="none", **settings, **outside)
        torch.testing.assert_close(none.sum() / inside.sum(), loss, **TOLERANCES[F64])
        total = formula.function(x, target, reduction="sum", **settings, **outside)
        torch.testing.assert_close(none.sum(), total, **TOLERANCES[F64])
        assert (none[~torch.from_numpy(inside).to(none.device)] == 0).all()
        # What lies outside changes nothing and gets exactly nothing, whatever it is.
        full = outside_of(inside, x)
        for junk in (torch.nan, torch.inf, -torch.inf):
            again = check_formula(x.masked_fill(full, junk), target, **settings, **outside)
            assert torch.equal(again[0], loss)
            assert torch.equal(again[1], grad)
        assert (grad[full] == 0).all()
        assert (grad[~full] != 0).any()


@every_mode
def test_junk_in_the_target_outside_the_mask(mode, channels):
    x, target = case((9, 11), mode, channels)
    mask = random((2, 9, 11)) > 0.3
    out = ~mask if mode == "multiclass" else ~mask.unsqueeze(1)
    junk = target.masked_fill(out, 200) if mode == "multiclass" else target.double()
    junk = junk if mode == "multiclass" else junk.masked_fill(out, torch.nan)
    expected = outlier_region_loss(x, target, mode=mode, mask=mask)
    assert torch.equal(outlier_region_loss(x, junk, mode=mode, mask=mask), expected)


@pytest.mark.parametrize(("mode", "channels"), [("multiclass", 200), ("binary", 1)])
def test_an_index_the_target_cannot_hold_ignores_nothing(mode, channels):
    x = torch.randn(1, channels, 6, 7)
    target = torch.full((1, 6, 7), 156, dtype=torch.uint8)
    settings = {"mode": mode, "reduction": "sum"}
    loss = outlier_region_loss(x, target, ignore_index=-100, **settings)
    assert loss.abs() > 1
    assert loss == outlier_region_loss(x, target, **settings)
    for beyond in (2**63, -(10**400)):
        assert loss == outlier_region_loss(x, target.float(), ignore_index=beyond, **settings)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
@every_mode
def test_an_index_at_either_end_of_the_targets_type_is_ignored(mode, channels, dtype):
    x, target = case((9, 11), mode, channels)
    for index in (torch.iinfo(dtype).min, torch.iinfo(dtype).max):
        given = target.to(dtype).masked_fill(random(target.shape) > 0.8, index)
        check_loss(x, given, mode=mode, ignore_index=index)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@every_formula
@every_mode
def test_nothing_to_look_at(mode, channels, formula, reduction):
    settings = {"mode": mode, "reduction": reduction, **formula.own}
    x, target = case((9, 11), mode, channels)
    nothing = torch.zeros(2, 9, 11, dtype=torch.bool)
    for batch, outside in ((2, {"mask": nothing}), (2, {"ignore_index": 7}), (0, {})):
        given = torch.full_like(target, 7) if "ignore_index" in outside else target
        x = x.detach()[:batch].fill_(torch.nan).requires_grad_()
        loss = formula.function(x, given[:batch], **settings, **outside)
        loss.sum().backward()
        assert (loss == 0).all()
        assert x.grad.shape == x.shape
        assert (x.grad == 0).all()


@pytest.mark.parametrize("channel", [False, True])
def test_floating_class_indices_are_indices(channel):
    """As MONAI loads them; beside ignored pixels, NaN too."""
    x, target = case((9, 11), "multiclass", 3)
    floating = target.unsqueeze(1).float() if channel else target.float()
    mask = torch.ones(2, 9, 11, dtype=torch.bool)
    mask[:, 4] = False
    floating[..., 4, :] = torch.nan
    for loss in (outlier_region_loss, dice_loss):
        expected = loss(x, target, mode="multiclass", mask=mask)
        assert torch.equal(loss(x, floating, mode="multiclass", mask=mask), expected)
        assert torch.equal(
            loss(x, floating.nan_to_num(255.0), mode="multiclass", ignore_index=255), expected
        )


def test_fractions_of_a_class_index_are_rounded():
    x, target = case((9, 11), "multiclass", 3)
    for shift in (-1e-4, 1e-4):  # as resampling leaves them
        for loss in (outlier_region_loss, dice_loss):
            found = loss(x, target + shift, mode="multiclass")
            assert torch.equal(found, loss(x, target, mode="multiclass"))


def test_a_tie_is_background():
    x = torch.tensor([0.75, 0.25]).view(1, 2, 1, 1).repeat(1, 1, 9, 9)
    x[..., 4, 4] = 0.5  # of the other class it would be an island
    target = torch.zeros(1, 9, 9, dtype=torch.long)
    for given in ({}, {"from_logits": False}):
        loss, _ = check_loss(x, target, mode="multiclass", levels=(0.5,), **given, **SMALL)
        assert loss == check_loss(x, target, mode="multiclass", strength=0.0, **given, **SMALL)[0]


def test_one_channel_of_multilabel_is_binary():
    x, target = case((9, 11), "binary", 1)
    losses = [outlier_region_loss(x, target, mode=mode) for mode in ("binary", "multilabel")]
    assert torch.equal(*losses)
