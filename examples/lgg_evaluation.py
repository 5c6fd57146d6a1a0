"""Score the predictions for held-out slices: overlap, and noise regions counted one by one."""

from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_f1_score,
    binary_jaccard_index,
    binary_stat_scores,
)

Array = np.ndarray[Any, Any]

MAX_NOISE_SIZE = 49  # pixels, as large as [WAN23]'s inner window
EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)


def score(probs: Tensor, masks: Tensor) -> dict[str, float]:
    """Score predictions ``(N, H, W)`` in [0, 1] against masks of 0 and 1.

    Overlaps are of probabilities above 0.5; counts are per 100 slices.
    """
    dice = slice_dice(probs, masks)
    tumour = masks.flatten(1).any(1)
    counts = np.sum(
        [count_regions(p, m) for p, m in zip(probs.numpy() > 0.5, masks.numpy() > 0, strict=True)],
        axis=0,
    )
    per_100 = counts * 100 / len(probs)
    names = ("regions", "spurious", "noise", "holes", "missed")
    return {
        "dice_all": float(dice.mean()),
        "dice_tumour": float(dice[tumour].mean()) if tumour.any() else float("nan"),
        "dice_pooled": float(binary_f1_score(probs, masks)),
        "iou_pooled": float(binary_jaccard_index(probs, masks)),
    } | {name: float(count) for name, count in zip(names, per_100, strict=True)}


def slice_dice(probs: Tensor, masks: Tensor) -> Tensor:
    """Return the Dice score of every slice; 1 where prediction and mask are both empty."""
    tp, fp, _, fn, _ = binary_stat_scores(probs, masks, multidim_average="samplewise").unbind(1)
    return torch.where(tp + fp + fn > 0, 2 * tp / (2 * tp + fp + fn).clamp(min=1), 1.0)


def count_regions(predicted: Array, truth: Array) -> tuple[int, int, int, int, int]:
    """Count regions, spurious ones, noise, holes, and missed true regions of one slice.

    Regions are 8-connected. A region is spurious where it touches no true pixel, and noise where
    it is also at most 49 pixels large; a hole is background that predicted pixels enclose; a true
    region is missed where no predicted pixel touches it.
    """
    labels, regions = ndimage.label(predicted, EIGHT_CONNECTED)
    sizes = np.bincount(labels.ravel(), minlength=regions + 1)
    touching = np.bincount(labels[truth], minlength=regions + 1) > 0
    spurious = ~touching[1:]
    noise = spurious & (sizes[1:] <= MAX_NOISE_SIZE)
    filled = ndimage.binary_fill_holes(predicted)
    _, holes = ndimage.label(filled & ~predicted)
    true_labels, true_regions = ndimage.label(truth, EIGHT_CONNECTED)
    hit = np.unique(true_labels[predicted & truth]).size
    return regions, int(spurious.sum()), int(noise.sum()), holes, true_regions - hit
