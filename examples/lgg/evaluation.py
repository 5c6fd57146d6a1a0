"""Score the predictions for held-out slices: islands, holes and misses counted, and Dice."""

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_f1_score, binary_stat_scores

from gliomaseg_layers.metrics import RegionCounts

COUNTS = ("spurious", "noise", "holes", "missed")


def score(probs: Tensor, masks: Tensor) -> dict[str, float]:
    """Score predictions ``(N, H, W)`` in [0, 1] against masks of 0 and 1.

    Predicted is what has a probability above 0.5; counts are per 100 slices.
    """
    dice = slice_dice(probs, masks)
    tumour = masks.flatten(1).any(1)
    counts = RegionCounts()
    counts.update(probs.unsqueeze(1), masks.unsqueeze(1))
    per_slice = counts.compute()
    return {name: 100 * float(per_slice[f"{name}_per_image"]) for name in COUNTS} | {
        "dice_tumour": float(dice[tumour].mean()) if tumour.any() else float("nan"),
        "dice_all": float(dice.mean()),
        "dice_pooled": float(binary_f1_score(probs, masks)),
    }


def slice_dice(probs: Tensor, masks: Tensor) -> Tensor:
    """Return the Dice score of every slice; 1 where prediction and mask are both empty."""
    tp, fp, _, fn, _ = binary_stat_scores(probs, masks, multidim_average="samplewise").unbind(1)
    return torch.where(tp + fp + fn > 0, 2 * tp / (2 * tp + fp + fn).clamp(min=1), 1.0)
