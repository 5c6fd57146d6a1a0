"""Regions of masks: counted against a target, measured over a data set."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gliomaseg_layers._checks import check_not_negative
from gliomaseg_layers.metrics.labels import (
    boxes,
    label_holes,
    label_regions,
    pixel_size,
    read_mask,
    read_pair,
)

__all__ = ["RegionCount", "RegionSizes", "count_regions", "region_sizes"]


class RegionCount(NamedTuple):
    """Regions of one predicted mask, held against its target."""

    regions: int
    spurious: int
    noise: int
    holes: int
    missed: int


def count_regions(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    max_noise_size: float = 49,
    connectivity: int = 2,
    spacing: Sequence[float] | None = None,
) -> RegionCount:
    """Count the regions of a prediction, and which of them are noise.

    - ``regions``: connected regions of the prediction.
    - ``spurious``: regions that touch (overlap) no target pixel.
    - ``noise``: spurious regions of at most ``max_noise_size``.
    - ``holes``: regions of background that the prediction encloses; background is connected the
      other way round (by edges where the foreground is connected by corners), and a gap that is
      open to the border of the image is no hole.
    - ``missed``: connected regions of the target that touch no predicted pixel.

    A region that touches two targets is one region and misses neither; empty masks count nothing.

    Args:
        prediction: mask ``(H, W)`` or ``(D, H, W)``; what is not 0 is foreground.
        target: mask of the same shape.
        max_noise_size: largest size of noise, inclusive; in pixels, or in the unit of ``spacing``
            to the power of the number of axes (mm^2, mm^3).
        connectivity: as in scikit-image, 1 to the number of axes.
        spacing: size of a pixel along each axis, usually in mm; None counts pixels.

    Returns:
        The five counts.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: shapes differ, or an argument is out of its range.

    Source: [WAN23] section 5 asks for "an evaluation function that can detect the number of noise
    points"; 49 pixels is its 7 x 7 square.

    Example:
        >>> prediction = [[1, 1, 0, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
        >>> target = [[0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
        >>> count_regions(prediction, target)
        RegionCount(regions=2, spurious=1, noise=1, holes=0, missed=1)
    """
    predicted, truth = read_pair(prediction, target)
    check_not_negative("max_noise_size", max_noise_size)
    labels, regions = label_regions(predicted, connectivity)
    spurious = np.bincount(labels[truth], minlength=regions + 1)[1:] == 0
    sizes = np.bincount(labels.ravel())[1:]
    noise = spurious & (sizes * pixel_size(spacing, predicted.ndim) <= max_noise_size)
    true_labels, true_regions = label_regions(truth, connectivity)
    hit = np.unique(true_labels[predicted & truth]).size
    _, holes = label_holes(predicted, connectivity)
    return RegionCount(regions, int(spurious.sum()), int(noise.sum()), holes, true_regions - hit)


class RegionSizes(NamedTuple):
    """Sizes of all regions and holes of a data set's masks.

    Attributes:
        areas: size of every region, ``(R,)``, in pixels.
        boxes: sides of every region's bounding box, ``(R, axes)``, in pixels.
        hole_areas: size of every hole, ``(K,)``, in pixels.
        hole_boxes: sides of every hole's bounding box, ``(K, axes)``, in pixels.
    """

    areas: NDArray[np.int64]
    boxes: NDArray[np.int64]
    hole_areas: NDArray[np.int64]
    hole_boxes: NDArray[np.int64]

    def suggest_windows(self, part: float = 0.02) -> tuple[int, int]:
        """Return the side of the largest square of noise, and three times it, the loss's window.

        At most ``part`` of the regions fit the square; its side is odd, and 3 at least. The loss
        takes regions that fit it for noise, so the fewer true regions fit, the less it disturbs:
        [WAN23] 4.1.3 chose 7 because hardly any did. The loss goes by area, ``areas <= side**2``.
        Thin regions that are longer than the square are noise too. They are not counted here.

        Raises:
            ValueError: ``part`` is not at least 0 and below 1.
        """
        if not 0 <= part < 1:
            raise ValueError(f"`part` must be at least 0 and below 1, got {part}")
        longest = self.boxes.max(1)
        side = 3
        while longest.size and np.mean(longest <= side + 2) <= part:
            side += 2
        return side, 3 * side


def region_sizes(masks: Iterable[ArrayLike], *, connectivity: int = 2) -> RegionSizes:
    """Measure all regions and holes of a data set's masks.

    Args:
        masks: masks ``(H, W)`` or ``(D, H, W)``, all with the same number of axes, one after the
            other: a generator is read once, so the masks need not fit in memory together.
        connectivity: as in scikit-image, 1 to the number of axes.

    Returns:
        Areas and bounding boxes, in the order of the masks.

    Raises:
        TypeError: ``connectivity`` is not an int.
        ValueError: a mask has not two or three axes, or another number than the first.

    Source: [WAN23] 4.1.3, which chose its windows by such a count.

    Example:
        >>> sizes = region_sizes([[[1, 1, 0], [1, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 1]]])
        >>> sizes.areas.tolist(), sizes.boxes.tolist()
        ([4, 1], [[2, 2], [1, 1]])
    """
    found: list[tuple[NDArray[Any], NDArray[Any]]] = []
    holes: list[tuple[NDArray[Any], NDArray[Any]]] = []
    axes = None
    for number, values in enumerate(masks):
        mask = read_mask(f"masks[{number}]", values)
        if axes not in (None, mask.ndim):
            raise ValueError(f"`masks[{number}]` must have {axes} axes, got shape {mask.shape}")
        axes = mask.ndim
        found.append(_measure(label_regions(mask, connectivity)[0]))
        holes.append(_measure(label_holes(mask, connectivity)[0]))
    none = np.empty((0, axes or 2), np.int64)
    return RegionSizes(
        np.concatenate([none[:, 0], *(areas for areas, _ in found)]),
        np.concatenate([none, *(boxes for _, boxes in found)]),
        np.concatenate([none[:, 0], *(areas for areas, _ in holes)]),
        np.concatenate([none, *(boxes for _, boxes in holes)]),
    )


def _measure(labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    sides = [[side.stop - side.start for side in box] for box in boxes(labels)]
    return np.bincount(labels.ravel())[1:], np.array(sides, np.int64).reshape(-1, labels.ndim)
