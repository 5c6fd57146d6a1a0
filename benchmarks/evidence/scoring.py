"""Score predictions: sums for every patient, so that every metric is a ratio of two sums."""

import math
from typing import Any

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from numpy.typing import NDArray

from benchmarks.evidence.methods import NOISE
from gliomaseg_layers.metrics import count_regions, label_regions, lesion_wise_scores

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SMALL = 49  # pixels; 196 on slices of 256
LESION: dict[str, Any] = {"dilation": 1, "min_size": 0}  # small regions count too

Masks = NDArray[np.bool_]


def score_patients(
    predictions: Masks, masks: Masks, patients: NDArray[np.int64], *, whole: bool
) -> dict[str, dict[str, float]]:
    """Return the sums of each patient; those that take long only if ``whole``."""
    return {
        str(patient): _sums(predictions[patients == patient], masks[patients == patient], whole)
        for patient in np.unique(patients)
    }


def _sums(predictions: Masks, masks: Masks, whole: bool) -> dict[str, float]:
    tumour = masks.any((1, 2))
    both = (predictions & masks).sum((1, 2))
    sizes = predictions.sum((1, 2)) + masks.sum((1, 2))
    dice = np.where(sizes > 0, 2 * both / np.maximum(sizes, 1), 1.0)
    sums: dict[str, float] = {
        "slices": len(masks),
        "tumour_slices": int(tumour.sum()),
        "overlap": int(both.sum()),
        "predicted": int(predictions.sum()),
        "true": int(masks.sum()),
        "dice": float(dice.sum()),
        "dice_tumour": float(dice[tumour].sum()),
    }
    counts = [
        count_regions(prediction, mask, max_noise_size=NOISE)
        for prediction, mask in zip(predictions, masks, strict=True)
    ]
    for name in ("regions", "spurious", "noise", "holes", "missed"):
        sums[name] = sum(getattr(count, name) for count in counts)
    sums |= _true_regions(predictions, masks)
    if whole:
        pairs = zip(predictions, masks, strict=True)
        sums["lesion_dice"] = sum(lesion_wise_scores(*pair, **LESION).dice for pair in pairs)
        sums["hd95"] = _hd95(predictions[tumour], masks[tumour])
    return {name: round(value, 4) for name, value in sums.items()}


def _true_regions(predictions: Masks, masks: Masks) -> dict[str, int]:
    found: dict[str, int] = {"true_regions": 0, "true_small": 0, "missed_small": 0}
    for prediction, mask in zip(predictions, masks, strict=True):
        labels, count = label_regions(mask)
        small = np.bincount(labels.ravel(), minlength=count + 1)[1:] <= SMALL
        missed = np.bincount(labels[prediction], minlength=count + 1)[1:] == 0
        found["true_regions"] += count
        found["true_small"] += int(small.sum())
        found["missed_small"] += int((small & missed).sum())
    return found


def _hd95(predictions: Masks, masks: Masks) -> float:
    """Sum HD95 over slices with tumour; one where nothing was predicted has the diagonal."""
    total = 0.0
    for prediction, mask in zip(predictions, masks, strict=True):
        if prediction.any():
            first, second = (torch.from_numpy(one)[None, None] for one in (prediction, mask))
            total += compute_hausdorff_distance(
                first, second, include_background=True, percentile=95
            ).item()
        else:
            total += math.hypot(*mask.shape)
    return total
