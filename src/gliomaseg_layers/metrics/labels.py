"""Connected regions of a mask, numbered."""

from collections.abc import Sequence
from typing import Any

import cc3d
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from gliomaseg_layers._checks import check_int

__all__ = ["boxes", "label_holes", "label_regions", "pixel_size", "read_mask", "read_pair"]

NEIGHBOURS: dict[int, Any] = {2: (6, 26), 3: (6, 18, 26)}  # in a volume


def label_regions(mask: ArrayLike, connectivity: int = 2) -> tuple[NDArray[np.int32], int]:
    """Number the connected regions of a mask from 1 on.

    Args:
        mask: ``(H, W)`` or ``(D, H, W)``; what is not 0 is foreground.
        connectivity: as in scikit-image: how many axes a neighbour may differ in, 1 (edges) to the
            number of axes (corners).

    Returns:
        The labels, 0 for background, and how many regions there are.

    Raises:
        TypeError: ``connectivity`` is not an int.
        ValueError: ``mask`` has not two or three axes, or ``connectivity`` does not fit them.

    Example:
        >>> label_regions([[1, 0, 0], [0, 1, 0], [0, 0, 0]])[1]
        1
        >>> label_regions([[1, 0, 0], [0, 1, 0], [0, 0, 0]], connectivity=1)[1]
        2
    """
    mask = read_mask("mask", mask)
    return _label(mask, connectivity)


def boxes(labels: NDArray[np.int32]) -> list[tuple[slice, ...]]:
    """Return the bounding box of every region."""
    return list(ndimage.find_objects(labels)) if labels.size else []  # scipy takes no empty image


def label_holes(mask: NDArray[np.bool_], connectivity: int) -> tuple[NDArray[np.int32], int]:
    """Number the holes: background, connected the other way round, that the mask encloses."""
    if mask.ndim == 3 and 1 in mask.shape:  # a plane, which lies at the border of its volume whole
        labels, count = label_holes(mask.squeeze(mask.shape.index(1)), connectivity)
        return labels.reshape(mask.shape), count
    labels, count = _label(~mask, mask.ndim if connectivity == 1 else 1)
    closed = np.ones(count + 1, bool)
    closed[0] = False
    for axis in range(mask.ndim):
        layers = labels.swapaxes(0, axis)
        closed[layers[:1]] = closed[layers[-1:]] = False  # open to the border of the image
    numbers = np.cumsum(closed, dtype=np.int32) * closed
    return numbers[labels], int(closed.sum())


def read_pair(
    prediction: ArrayLike, target: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Check a prediction and its target, and return both as masks."""
    predicted, truth = read_mask("prediction", prediction), read_mask("target", target)
    if predicted.shape != truth.shape:
        raise ValueError(
            f"`target` must have the shape of `prediction`, {predicted.shape}, got {truth.shape}"
        )
    return predicted, truth


def pixel_size(spacing: Sequence[float] | None, axes: int) -> float:
    """Return the area or volume of a pixel, 1 without a spacing."""
    if spacing is None:
        return 1.0
    sides = np.asarray(spacing, float)
    if sides.shape != (axes,) or not ((sides > 0) & (sides < np.inf)).all():
        raise ValueError(f"`spacing` must have {axes} positive entries, got {spacing!r}")
    return float(sides.prod())


def _label(mask: NDArray[np.bool_], connectivity: int) -> tuple[NDArray[np.int32], int]:
    check_int("connectivity", connectivity)
    if not 1 <= connectivity <= mask.ndim:
        raise ValueError(f"`connectivity` must be 1 to {mask.ndim}, got {connectivity}")
    # As a volume of one slice: the labels that cc3d 3.29 gives to planes can be wrong (connected by
    # corners) or too many for it (a checkerboard), and of other layouts it reads what is not there.
    volume = np.ascontiguousarray(mask).reshape((1,) * (3 - mask.ndim) + mask.shape)
    neighbours = NEIGHBOURS[mask.ndim][connectivity - 1]
    labels, count = cc3d.connected_components(volume, connectivity=neighbours, return_N=True)
    return labels.astype(np.int32).reshape(mask.shape), count  # 3.x flattens an empty mask


def read_mask(name: str, mask: ArrayLike) -> NDArray[np.bool_]:
    """Return what is not 0, of two or three axes."""
    values: NDArray[Any] = np.asarray(mask)
    if values.ndim not in (2, 3):
        raise ValueError(f"`{name}` must be (H, W) or (D, H, W), got shape {values.shape}")
    if np.issubdtype(values.dtype, np.inexact) and np.isnan(values).any():
        raise ValueError(f"`{name}` must hold no NaN")
    foreground: NDArray[np.bool_] = values != 0
    return foreground
