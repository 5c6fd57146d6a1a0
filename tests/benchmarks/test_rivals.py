"""The rivals that are written out are what their packages compute."""

import pytest
import segmentation_models_pytorch as smp
import torch
from monai.losses.dice import DiceCELoss

from benchmarks.rivals import monai_dice_bce, smp_dice_bce


@pytest.mark.parametrize("empty", [False, True])
def test_dice_and_bce_of_peers(empty: bool) -> None:
    logits = 3 * torch.randn(3, 1, 17, 19)
    mask = (torch.rand(3, 1, 17, 19) > 0.8).float() * (not empty)
    mask[1] = 0
    monai, dice = DiceCELoss(sigmoid=True), smp.losses.DiceLoss("binary")
    bce = smp.losses.SoftBCEWithLogitsLoss()
    torch.testing.assert_close(monai_dice_bce(logits, mask), monai(logits, mask))
    torch.testing.assert_close(smp_dice_bce(logits, mask), dice(logits, mask) + bce(logits, mask))
