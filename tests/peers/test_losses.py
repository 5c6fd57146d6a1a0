"""The Dice loss against those of MONAI, segmentation_models.pytorch and nnU-Net, made equal."""

import pytest
import segmentation_models_pytorch as smp
import torch
from monai.losses.dice import DiceLoss as MonaiDice
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn

from gliomaseg_layers import DiceLoss
from tests.support.cases import MODES, case, every_mode, random

SMOOTH = 0.5
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def one_hot(target: Tensor, mode: str, channels: int) -> Tensor:
    if mode != "multiclass":
        return target.float()
    return nn.functional.one_hot(target, channels).movedim(-1, 1).float()


def same(ours: nn.Module, theirs: nn.Module, x: Tensor, target: Tensor, given: Tensor) -> None:
    """Compare value and gradient; ``given`` is the target in the peer's form."""
    results = []
    for loss, labels in ((ours, target), (theirs, given)):
        leaf = x.clone().requires_grad_()
        value = loss(leaf, labels).mean()
        results.append((value.float(), *torch.autograd.grad(value, leaf)))
    torch.testing.assert_close(*results, **CLOSE)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("soft_label", [False, True])
@pytest.mark.parametrize(
    ("mode", "channels", "background"), [*((*mode, True) for mode in MODES), (*MODES[3], False)]
)
def test_monai(mode: str, channels: int, batch: bool, soft_label: bool, background: bool) -> None:
    x, target = case((13, 17), mode, channels)
    x = x.float()
    given = one_hot(target, mode, channels)
    if soft_label:
        given = random(x.shape, 1).float()
        given = given / given.sum(1, keepdim=True) if mode == "multiclass" else given
        target = given
    theirs = MonaiDice(
        include_background=background,
        sigmoid=mode != "multiclass",
        softmax=mode == "multiclass",
        batch=batch,
        soft_label=soft_label,
        smooth_nr=SMOOTH,
        smooth_dr=SMOOTH,
    )
    settings = {"batch": batch, "soft_label": soft_label, "include_background": background}
    same(DiceLoss(mode, smooth=SMOOTH, **settings), theirs, x, target, given)


def test_monais_weights_are_ours_without_the_division() -> None:
    """MONAI divides the weighed sum by the number of classes, ours by the sum of the weights."""
    x, target = case((13, 17), "multiclass", 4)
    weights = torch.tensor([0.5, 1.0, 3.0, 2.0])
    theirs = MonaiDice(softmax=True, weight=weights, smooth_nr=SMOOTH, smooth_dr=SMOOTH)
    ours = DiceLoss("multiclass", smooth=SMOOTH, class_weights=weights, reduction="none")
    same(ours, theirs, x.float(), target, one_hot(target, "multiclass", 4))


@pytest.mark.parametrize("ignore_index", [None, 255])
@every_mode
def test_segmentation_models(mode: str, channels: int, ignore_index: int | None) -> None:
    """It pools the batch, adds ``smooth`` to half the counts, and skips classes of no target."""
    x, target = case((13, 17), mode, channels)
    assert one_hot(target, mode, channels).sum((0, 2, 3)).all()
    if ignore_index is not None:
        target = target.masked_fill(random(target.shape) > 0.8, ignore_index)
    theirs = smp.losses.DiceLoss(mode, smooth=SMOOTH, ignore_index=ignore_index)
    ours = DiceLoss(mode, smooth=2 * SMOOTH, batch=True, ignore_index=ignore_index)
    same(ours, theirs, x.float(), target, target)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_nnunet(batch: bool, background: bool) -> None:
    x, target = case((13, 17), "multiclass", 4)
    theirs = MemoryEfficientSoftDiceLoss(
        lambda logits: logits.softmax(1), batch, background, SMOOTH, ddp=False
    )
    settings = {"batch": batch, "include_background": background}
    ours = DiceLoss("multiclass", smooth=SMOOTH, **settings)
    # Theirs is minus the Dice coefficient.
    x = x.float()
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    values = ours(leaves[0], target) - 1, theirs(leaves[1], target[:, None])
    torch.testing.assert_close(*values, **CLOSE)
    grads = (torch.autograd.grad(v, leaf)[0] for v, leaf in zip(values, leaves, strict=True))
    torch.testing.assert_close(*grads, **CLOSE)
