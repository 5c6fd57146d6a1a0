"""Count regions and measure overlap of many predictions at once, at every threshold."""

from typing import Any

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from numpy.typing import NDArray
from scipy import ndimage

THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
HALF = THRESHOLDS.index(0.5)
# Sums over the images of a group, and over the classes but the background. A spurious region
# touches no true one of its class, a false hole no true hole, a missed region no predicted one.
MEASURES = (
    "images", "spurious", "holes", "missed", "missed_small", "true", "true_small",
    "dice", "dice_of", "hd95", "hd95_of",
)  # fmt: skip

Masks = NDArray[np.bool_]
Sums = NDArray[np.float64]  # (groups, thresholds, 2, measures): as predicted, and cleaned


def score(
    ranks: NDArray[np.uint8],
    best: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    groups: NDArray[Any],
    noise: int,
) -> Sums:
    """Score predictions ``(N, *spatial)``.

    ``ranks`` says how many thresholds the probability of foreground is above, ``best`` which class
    a pixel of the foreground has. Regions of at most ``noise`` pixels are cleaned away.
    """
    numbers = np.unique(groups, return_inverse=True)[1]
    sums = np.zeros((numbers.max() + 1, len(THRESHOLDS), 2, len(MEASURES)))
    np.add.at(sums[..., MEASURES.index("images")], numbers, 1)
    for index in range(1, int(max(best.max(), labels.max())) + 1):
        truth = Truth(labels == index, 4 * noise)
        for place in range(len(THRESHOLDS)):
            raw = (ranks > place) & (best == index)
            for way, masks in enumerate((raw, remove_small(raw, noise))):
                found = truth.compare(masks)
                if place == HALF:
                    found |= truth.distances(masks)
                for name, values in found.items():
                    np.add.at(sums[:, place, way, MEASURES.index(name)], numbers, values)
    return sums


def label(masks: Masks, *, corners: bool) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Number the regions of images ``(N, *spatial)`` from 1 on; return also the image of each.

    The image of 0, which is no region, is -1.
    """
    axes = masks.ndim - 1
    near = np.zeros((3,) * masks.ndim, bool)
    near[1] = ndimage.generate_binary_structure(axes, axes if corners else 1)
    labels, count = ndimage.label(masks, near)
    # They are numbered in the order of the images.
    last = np.maximum.accumulate(labels.reshape(len(masks), -1).max(1))
    images = np.searchsorted(last, np.arange(count + 1))
    images[0] = -1
    return labels, images


def remove_small(masks: Masks, size: int) -> Masks:
    """Remove the regions of at most so many pixels: ``skimage.morphology.remove_small_objects``."""
    labels, _ = label(masks, corners=True)
    large = np.bincount(labels.ravel()) > size
    kept: Masks = large[labels] & masks
    return kept


def find_holes(masks: Masks) -> tuple[NDArray[np.int32], NDArray[np.int64], Masks]:
    """Number the regions of background; say of each in which image it is, and if it is enclosed."""
    labels, images = label(~masks, corners=False)
    enclosed = np.ones(len(images), bool)
    enclosed[0] = False
    for axis in range(1, masks.ndim):
        layers = labels.swapaxes(0, axis)
        enclosed[layers[0]] = enclosed[layers[-1]] = False
    return labels, images, enclosed


def find_spurious(masks: Masks, truth: Masks) -> tuple[NDArray[np.int32], NDArray[np.int64], Masks]:
    """Number the regions; say of each in which image it is, and if it touches no true pixel."""
    labels, images = label(masks, corners=True)
    spurious = np.ones(len(images), bool)
    spurious[0] = False
    spurious[labels[truth]] = False
    return labels, images, spurious


class Truth:
    """True masks ``(N, *spatial)`` of a class, and their regions and holes."""

    def __init__(self, masks: Masks, small: int) -> None:
        self.masks = masks
        self.labels, self.images = label(masks, corners=True)
        self.small = np.bincount(self.labels.ravel()) <= small
        background, _, enclosed = find_holes(masks)
        self.holes = enclosed[background]
        self.sizes = masks.reshape(len(masks), -1).sum(1)

    def compare(self, masks: Masks) -> dict[str, NDArray[Any]]:
        """Return the counts and the Dice of every image."""

        def count(images: NDArray[np.int64]) -> NDArray[np.int64]:
            return np.bincount(images[images >= 0], minlength=len(masks))

        _, images, spurious = find_spurious(masks, self.masks)
        _, places, false = self.find_false_holes(masks)
        missed = np.ones(len(self.images), bool)
        missed[self.labels[masks]] = False
        both = (masks & self.masks).reshape(len(masks), -1).sum(1)
        sizes = masks.reshape(len(masks), -1).sum(1) + self.sizes
        there = self.sizes > 0
        return {
            "spurious": count(images[spurious]),
            "holes": count(places[false]),
            "missed": count(self.images[missed]),
            "missed_small": count(self.images[missed & self.small]),
            "true": count(self.images),
            "true_small": count(self.images[self.small]),
            "dice": np.where(there, 2 * both / np.maximum(sizes, 1), 0),
            "dice_of": there,
        }

    def find_false_holes(self, masks: Masks) -> tuple[NDArray[np.int32], NDArray[np.int64], Masks]:
        """Number the regions of background, and say which are holes that touch no true one."""
        background, images, false = find_holes(masks)
        false[background[self.holes & ~masks]] = False
        return background, images, false

    def distances(self, masks: Masks) -> dict[str, NDArray[Any]]:
        """Return HD95 in pixels where the class is; the image's diagonal if none was predicted."""
        found = np.zeros(len(masks))
        for index in np.flatnonzero(self.sizes):
            if masks[index].any():
                predicted, true = (
                    torch.from_numpy(of[index])[None, None] for of in (masks, self.masks)
                )
                found[index] = compute_hausdorff_distance(
                    predicted, true, include_background=True, percentile=95
                ).item()
            else:
                found[index] = np.linalg.norm(masks.shape[1:])
        return {"hd95": found, "hd95_of": self.sizes > 0}
