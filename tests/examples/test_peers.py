"""The losses inside other libraries' own training code."""

from collections.abc import Callable

import pytest
import torch
from monai.losses import DeepSupervisionLoss, DiceCELoss
from torch import Tensor, nn
from torch.nn import functional as F

from gliomaseg_layers import CompoundLoss, DiceLoss, OutlierRegionLoss


@pytest.mark.parametrize(("mode", "channels"), [("binary", 1), ("multiclass", 3)])
@pytest.mark.parametrize(
    "make", [lambda mode: CompoundLoss(OutlierRegionLoss(mode)), OutlierRegionLoss, DiceLoss]
)
def test_monai_deep_supervision(make: Callable[[str], nn.Module], mode: str, channels: int) -> None:
    """MONAI resizes float labels (N, 1, H, W) to every head's size."""
    loss = DeepSupervisionLoss(make(mode))
    heads = [torch.randn(2, channels, side, side, requires_grad=True) for side in (32, 16, 8)]
    target = torch.randint(max(channels, 2), (2, 1, 32, 32)).float()
    total = loss(heads, target)
    total.backward()
    parts = [
        make(mode)(head, F.interpolate(target, head.shape[2:], mode="nearest-exact")) / 2**level
        for level, head in enumerate(heads)
    ]
    torch.testing.assert_close(total, sum(parts))
    assert all(head.grad is not None and head.grad.abs().sum() > 0 for head in heads)


def test_dice_and_cross_entropy_are_monais() -> None:
    logits, target = torch.randn(2, 3, 16, 16), torch.randint(3, (2, 1, 16, 16))
    ours = CompoundLoss(OutlierRegionLoss("multiclass"), gamma=0.0)
    theirs = DiceCELoss(to_onehot_y=True, softmax=True, smooth_nr=1.0, smooth_dr=1.0)
    torch.testing.assert_close(ours(logits, target), theirs(logits, target))


def test_cross_entropy_and_its_weights_are_torchs() -> None:
    logits, target = torch.randn(2, 3, 16, 16), torch.randint(3, (2, 16, 16))
    weight = torch.tensor([0.5, 2.0, 1.0])

    def plain(**settings: object) -> Tensor:
        loss: Tensor = OutlierRegionLoss(strength=0.0, reduction="none", **settings)(logits, labels)
        return loss

    labels = target
    theirs = F.cross_entropy(logits, target, weight, reduction="none", ignore_index=2)
    ours = plain(mode="multiclass", class_weights=weight, ignore_index=2)
    torch.testing.assert_close(ours, theirs)
    labels = (torch.rand(2, 3, 16, 16) > 0.5).float()
    theirs = F.binary_cross_entropy_with_logits(
        logits, labels, pos_weight=weight.view(3, 1, 1), reduction="none"
    )
    torch.testing.assert_close(plain(mode="multilabel", pos_weight=weight), theirs)
