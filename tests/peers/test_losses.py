"""The Dice loss against those of MONAI, segmentation_models.pytorch and nnU-Net, made equal."""

from collections.abc import Callable

import pytest
import segmentation_models_pytorch as smp
import torch
from monai.losses.dice import DiceLoss as MonaiDice
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import Tensor, nn

from gliomaseg_layers import DiceLoss
from tests.support.cases import MODES, case, every_mode, random

SMOOTH = 0.5
CLOSE = {"rtol": 1e-5, "atol": 1e-6}

every_size = pytest.mark.parametrize("size", [(13, 17), (5, 7, 11)], ids=["2-D", "3-D"])


def one_hot(target: Tensor, mode: str, channels: int) -> Tensor:
    if mode != "multiclass":
        return target.float()
    return nn.functional.one_hot(target, channels).movedim(-1, 1).float()


Loss = Callable[[Tensor, Tensor], Tensor]


def same(ours: Loss, theirs: Loss, x: Tensor, target: Tensor, given: Tensor) -> None:
    """Compare values and gradients; ``given`` is the target in the peer's form."""
    results = []
    for loss, labels in ((ours, target), (theirs, given)):
        leaf = x.clone().requires_grad_()
        values = loss(leaf, labels).flatten()
        # Each entry of "none" counts differently, so that none can stand for another.
        value = values @ torch.arange(1.0, len(values) + 1)
        results.append((values, *torch.autograd.grad(value, leaf)))
    torch.testing.assert_close(*results, **CLOSE)


@every_size
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("soft_label", [False, True])
@pytest.mark.parametrize(
    ("mode", "channels", "background"), [*((*mode, True) for mode in MODES), (*MODES[3], False)]
)
def test_monai(
    size: tuple[int, ...],
    mode: str,
    channels: int,
    batch: bool,
    soft_label: bool,
    background: bool,
) -> None:
    x, target = case(size, mode, channels)
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


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@every_mode
def test_monai_of_probabilities_in_every_reduction(
    mode: str, channels: int, reduction: str
) -> None:
    x, target = case((13, 17), mode, channels, from_logits=False)
    settings = {"smooth_nr": SMOOTH, "smooth_dr": SMOOTH, "reduction": reduction}
    ours = DiceLoss(mode, smooth=SMOOTH, from_logits=False, reduction=reduction)
    same(ours, MonaiDice(**settings), x.float(), target, one_hot(target, mode, channels))


@pytest.mark.parametrize("ignore_index", [None, 255])
def test_monai_takes_labels_with_a_channel_as_ours_does(ignore_index: int | None) -> None:
    x, target = case((13, 17), "multiclass", 4)
    labels = target.unsqueeze(1).float()
    if ignore_index is not None:
        labels = labels.masked_fill(random(labels.shape) > 0.8, ignore_index)
    settings = {"smooth_nr": SMOOTH, "smooth_dr": SMOOTH, "ignore_index": ignore_index}
    theirs = MonaiDice(softmax=True, to_onehot_y=True, **settings)
    ours = DiceLoss("multiclass", smooth=SMOOTH, ignore_index=ignore_index)
    same(ours, theirs, x.float(), labels, labels)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("background", [False, True])
def test_monais_weights(background: bool, reduction: str) -> None:
    """MONAI's mean divides by the number of classes, ours by the sum of their weights.

    So the two are equal where the weights have a mean of 1.
    """
    x, target = case((13, 17), "multiclass", 4)
    weights = torch.tensor([0.5, 1.0, 3.0, 2.0])
    first = 0 if background else 1
    weights = weights / weights[first:].mean()
    settings = {"include_background": background, "reduction": reduction}
    theirs = MonaiDice(
        softmax=True, weight=weights[first:], smooth_nr=SMOOTH, smooth_dr=SMOOTH, **settings
    )
    ours = DiceLoss("multiclass", smooth=SMOOTH, class_weights=weights, **settings)
    same(ours, theirs, x.float(), target, one_hot(target, "multiclass", 4))


@every_size
@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("ignore_index", [None, 255])
@every_mode
def test_segmentation_models(
    size: tuple[int, ...], mode: str, channels: int, ignore_index: int | None, from_logits: bool
) -> None:
    """It pools the batch, adds ``smooth`` to half the counts, and skips classes of no target."""
    x, target = case(size, mode, channels, from_logits)
    hot = one_hot(target, mode, channels)
    assert hot.sum([axis for axis in range(hot.dim()) if axis != 1]).all()
    if ignore_index is not None:
        target = target.masked_fill(random(target.shape) > 0.8, ignore_index)
    settings = {"ignore_index": ignore_index, "from_logits": from_logits}
    theirs = smp.losses.DiceLoss(mode, smooth=SMOOTH, **settings)
    ours = DiceLoss(mode, smooth=2 * SMOOTH, batch=True, **settings)
    same(ours, theirs, x.float(), target, target)


@pytest.mark.parametrize("mode", ["multilabel", "multiclass"])
@pytest.mark.parametrize("classes", [None, [0, 2]])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 3.0, 2.0]])
def test_segmentation_models_classes_are_weights_of_ours(
    mode: str, classes: list[int] | None, weights: list[float] | None
) -> None:
    """A class that is not among its ``classes`` has the weight 0; both divide by the sum."""
    x, target = case((13, 17), mode, 4)
    theirs = smp.losses.DiceLoss(mode, classes, smooth=SMOOTH, class_weights=weights)
    ours = torch.ones(4) if weights is None else torch.tensor(weights)
    if classes is not None:
        ours = ours * nn.functional.one_hot(torch.tensor(classes), 4).sum(0)
    loss = DiceLoss(mode, smooth=2 * SMOOTH, batch=True, class_weights=ours)
    same(loss, theirs, x.float(), target, target)


@every_mode
def test_segmentation_models_default_is_as_good_as_ours_of_a_small_number(
    mode: str, channels: int
) -> None:
    x, target = case((13, 17), mode, channels)
    ours = DiceLoss(mode, smooth=1e-6, batch=True)
    same(ours, smp.losses.DiceLoss(mode), x.float(), target, target)


@every_size
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("mode", "background"), [("multilabel", True), ("multiclass", True), ("multiclass", False)]
)
def test_nnunet(
    size: tuple[int, ...], mode: str, masked: bool, background: bool, batch: bool
) -> None:
    """Its regions are sigmoid channels; it leaves the background out of labels only."""
    x, target = case(size, mode, 4)
    activation = torch.sigmoid if mode == "multilabel" else softmax_helper_dim1
    theirs = MemoryEfficientSoftDiceLoss(activation, batch, background, SMOOTH, ddp=False)
    settings = {"batch": batch, "include_background": background}
    ours = DiceLoss(mode, smooth=SMOOTH, **settings)
    mask = random((2, 1, *size)) > 0.2 if masked else None
    given = target if mode == "multilabel" else target.unsqueeze(1)
    # Theirs is minus the Dice coefficient, ours 1 minus it.
    same(
        lambda x, labels: ours(x, labels, mask),
        lambda x, labels: 1 + theirs(x, labels, loss_mask=mask),
        x.float(),
        target,
        given,
    )


def test_a_sample_without_a_pixel_is_left_out_of_our_mean_alone() -> None:
    x, target = case((13, 17), "multiclass", 4)
    x, labels = x.float(), target.unsqueeze(1)
    mask = torch.tensor([True, False]).view(2, 1, 1, 1).expand_as(labels)
    ours = DiceLoss("multiclass", smooth=SMOOTH)(x, target, mask)
    nnunet = MemoryEfficientSoftDiceLoss(softmax_helper_dim1, False, True, SMOOTH, ddp=False)
    torch.testing.assert_close(1 + nnunet(x, labels, loss_mask=mask), ours / 2)
    monai = MonaiDice(
        softmax=True, to_onehot_y=True, ignore_index=255, smooth_nr=SMOOTH, smooth_dr=SMOOTH
    )
    torch.testing.assert_close(monai(x, labels.masked_fill(~mask, 255)), ours / 2)


def test_segmentation_models_counts_no_false_positives_of_an_absent_class() -> None:
    x, target = case((13, 17), "multiclass", 4)
    target = target.masked_fill(target == 3, 0)
    theirs = smp.losses.DiceLoss("multiclass", smooth=SMOOTH)(x, target)
    ours = DiceLoss("multiclass", smooth=2 * SMOOTH, batch=True, reduction="none")(x, target)
    assert ours[3] > 0
    torch.testing.assert_close(theirs, ours[:3].sum() / 4)
