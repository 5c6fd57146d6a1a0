"""Measure true regions and holes, and count what the loss would take for noise among them."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gliomaseg_layers.functional import outlier_weight
from gliomaseg_layers.metrics import RegionSizes, label_regions, region_sizes
from gliomaseg_layers.metrics.labels import label_holes
from gliomaseg_layers.windows._masks import Mask

DEFAULT = 21  # the loss's window, for images of 256 pixels
SMALLEST = 9  # window
SIDES = (2, 3, 4, 5, 7, 9, 11, 15, 21)  # of the largest square of noise, a third of the window


class Setting(NamedTuple):
    """What to pass to the loss."""

    window: tuple[int, ...]
    max_noise_size: int


class Sizes(NamedTuple):
    """Regions and holes of all masks, and each region's pixel in mm2 or mm3, NaN if not known."""

    all: RegionSizes
    pixel: NDArray[np.float64]


class Flags(NamedTuple):
    """How much of the truth the loss takes for noise with a setting."""

    setting: Setting
    regions: int  # whole ones
    holes: int
    pixels: int  # of the foreground


def measure(masks: Iterable[Mask]) -> Sizes:
    """Measure the regions and holes of every mask."""
    # In the box around the foreground regions and holes are those of the whole mask.
    each = [(region_sizes([mask.crop]), mask.spacing) for mask in masks]
    columns = zip(*(sizes for sizes, _ in each), strict=True)
    pixels = [
        np.full(len(sizes.areas), math.prod(spacing) if spacing else np.nan)
        for sizes, spacing in each
    ]
    return Sizes(RegionSizes(*map(np.concatenate, columns)), np.concatenate(pixels))


def thick_axis(masks: Sequence[Mask]) -> int | None:
    """Return the axis along which slices are thick: a window should not reach across them.

    Its spacing is three times that of the others or more. Where no spacing is known, it has less
    than a quarter of the others' pixels.
    """
    shape = np.median([mask.shape for mask in masks], axis=0)
    if len(shape) == 2:
        return None
    if any(mask.spacing is None for mask in masks):
        ratio = shape.max() / shape / (4 + 1e-9)
    else:
        spacing = np.median([mask.spacing for mask in masks if mask.spacing], axis=0)
        ratio = spacing / spacing.min() / (3 - 1e-9)
    return int(ratio.argmax()) if ratio.max() >= 1 else None


def settings_to_try(masks: Sequence[Mask]) -> list[Setting]:
    """Return settings up to the default, scaled from images of 256 pixels to these.

    No window is wider than a third of the image, for it would hardly see an island that is alone.
    """
    shape = np.median([mask.shape for mask in masks], axis=0)
    thick = thick_axis(masks)
    thin = [side for axis, side in enumerate(shape) if axis != thick]
    largest = max(SMALLEST, DEFAULT / 256 * max(thin) + 1.5)
    settings = []
    for side in SIDES:
        window = max(SMALLEST, 3 * side - (side + 1) % 2)  # odd
        if window == SMALLEST or window <= min(largest, min(thin) / 3):
            sides = tuple(1 if axis == thick else window for axis in range(len(shape)))
            settings.append(Setting(sides, side ** len(thin)))
    return settings


def default_setting(masks: Sequence[Mask]) -> Setting:
    """Return what the loss takes if nothing is passed."""
    axes = masks[0].crop.ndim
    return Setting((DEFAULT,) * axes, math.ceil(DEFAULT / 3) ** axes)


def flag_all(masks: Iterable[Mask], settings: Sequence[Setting]) -> list[Flags]:
    """Count what ``outlier_weight`` flags in the masks themselves, with every setting."""
    counts = np.zeros((len(settings), 3), np.int64)
    for mask in masks:
        regions, holes = label_regions(mask.crop)[0], label_holes(mask.crop, 2)[0]
        for row, setting in enumerate(settings):
            flagged = _flagged(mask, setting)
            counts[row] += (
                _count_whole(regions, flagged),
                _count_whole(holes, flagged),
                np.count_nonzero(flagged & mask.crop),
            )
    return [Flags(*row) for row in zip(settings, *counts.T.tolist(), strict=True)]


def _flagged(mask: Mask, setting: Setting) -> NDArray[np.bool_]:
    """Return what is flagged inside the box; a window sees some of the image around it."""
    ends = zip(mask.before, mask.behind, setting.window, strict=True)
    margins = [(min(before, side // 2), min(behind, side // 2)) for before, behind, side in ends]
    probabilities = torch.from_numpy(np.pad(mask.crop, margins)).float()[None, None]
    weight = outlier_weight(probabilities, **setting._asdict(), levels=(0.5,))
    inside = zip(margins, mask.crop.shape, strict=True)
    box = tuple(slice(before, before + side) for (before, _), side in inside)
    return weight[0, 0].numpy()[box] > 0


def _count_whole(labels: NDArray[np.int32], flagged: NDArray[np.bool_]) -> int:
    """Count the regions of which every pixel is flagged."""
    left = np.bincount(labels[~flagged], minlength=int(labels.max()) + 1)[1:]
    return int(np.count_nonzero(left == 0))
