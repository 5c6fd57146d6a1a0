"""Scores of every lesion by itself, as the BraTS challenge scores since 2023."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from gliomaseg_layers._checks import check_int, check_not_negative
from gliomaseg_layers.metrics.labels import boxes, label_regions, pixel_size, read_pair

__all__ = ["LesionScores", "lesion_wise_scores"]


class LesionScores(NamedTuple):
    """Lesion-wise scores of one image.

    Attributes:
        dice: mean Dice, 0 for a missed lesion and a spurious region.
        hd95: mean 95 % Hausdorff distance, ``penalty`` for a missed lesion and a spurious region.
        f1: F1 score of the detection.
        precision: share of what was detected that is a lesion.
        recall: share of the lesions that were found.
        found: lesions that were found.
        missed: lesions that were not.
        spurious: predicted regions that belong to no lesion.
    """

    dice: float
    hd95: float
    f1: float
    precision: float
    recall: float
    found: int
    missed: int
    spurious: int


def lesion_wise_scores(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    dilation: int = 3,
    min_size: float = 50,
    spacing: Sequence[float] | None = None,
    penalty: float = 374.0,
) -> LesionScores:
    r"""Score every lesion of the target by itself, and every spurious region as a failure.

    Target regions that touch when dilated are one lesion :math:`l`. Predicted regions that touch
    the dilated lesion are its prediction :math:`P_l`, together: it is found. Without any it is
    missed. A predicted region that belongs to no lesion is spurious. Lesions of at most
    ``min_size`` do not count, found or missed, nor do the regions that found them. Regions are
    connected by corners.

    .. math::
        \mathrm{dice} &= \frac{1}{n} \sum_{l\ \text{found}} \frac{2 |l \cap P_l|}{|l| + |P_l|},
        \qquad n = \text{found} + \text{missed} + \text{spurious} \\
        \mathrm{hd95} &= \frac{1}{n} \Big( \sum_{l\ \text{found}} \mathrm{HD}_{95}(l, P_l)
        + \mathrm{penalty} \cdot (\text{missed} + \text{spurious}) \Big) \\
        \mathrm{precision} &= \frac{\text{found}}{\text{found} + \text{spurious}}, \quad
        \mathrm{recall} = \frac{\text{found}}{\text{found} + \text{missed}}, \quad
        \mathrm{F1} = \frac{2\ \text{found}}{2\ \text{found} + \text{missed} + \text{spurious}}

    :math:`\mathrm{HD}_{95}` is the larger of two percentiles: the 95th of the distances from the
    edge pixels of :math:`l` to those of :math:`P_l`, and of those back. A share 0 / 0 is 1, so
    that with nothing to score all scores are 1 and ``hd95`` is 0.

    Args:
        prediction: mask ``(H, W)`` or ``(D, H, W)``; what is not 0 is foreground.
        target: mask of the same shape.
        dilation: steps of the dilation, in pixels; BraTS takes 3 for gliomas, 1 for metastases.
        min_size: largest size of a lesion that is left out; in pixels, or in the unit of
            ``spacing`` to the power of the number of axes.
        spacing: size of a pixel along each axis, usually in mm; None counts pixels.
        penalty: distance that stands for a missed lesion and a spurious region, in the unit of
            ``spacing``. 374 mm is the diagonal of a BraTS volume, 240 x 240 x 155, rounded up.

    Returns:
        The scores, and how many lesions were found and missed, and how many regions are spurious.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: shapes differ, or an argument is out of its range.

    Source: BraTS 2023, lesion-wise Dice and HD95. BraTS weighs the distances by the area of the
    surface; here every edge pixel counts once, as in MONAI.

    Example:
        >>> import numpy as np
        >>> target = np.zeros((40, 40))
        >>> target[5:15, 5:15] = 1
        >>> prediction = target.copy()
        >>> prediction[30, 30] = 1  # perfect, but for one false pixel
        >>> scores = lesion_wise_scores(prediction, target)
        >>> scores.dice, scores.hd95, scores.precision, scores.recall, scores.spurious
        (0.5, 187.0, 0.5, 1.0, 1)
    """
    check_int("dilation", dilation)
    check_not_negative("dilation", dilation)
    check_not_negative("min_size", min_size)
    check_not_negative("penalty", penalty)
    predicted, truth = read_pair(prediction, target)
    volume = pixel_size(spacing, truth.ndim)
    regions, parts = _Regions(predicted, spacing), _Regions(truth, spacing)
    owner, near = _group(parts, regions, dilation)
    overlaps = np.bincount(owner[parts.labels[predicted & truth]], minlength=len(near))
    dice, hd95, missed = [], [], 0
    for lesion in range(1, len(near)):
        members, hits = np.flatnonzero(owner == lesion), sorted(near[lesion])
        size = int(parts.sizes[members].sum())
        if size * volume <= min_size:
            continue
        if hits:
            both = size + int(regions.sizes[hits].sum())
            dice.append(2 * int(overlaps[lesion]) / both)
            hd95.append(_hausdorff95(parts.edge(members), regions.edge(hits)))
        else:
            missed += 1
    found, spurious = len(dice), regions.count - len(set().union(*near))
    entries = found + missed + spurious
    return LesionScores(
        _share(sum(dice), entries),
        (sum(hd95) + penalty * (missed + spurious)) / max(entries, 1),
        _share(2 * found, found + entries),
        _share(found, found + spurious),
        _share(found, found + missed),
        found,
        missed,
        spurious,
    )


class _Regions:
    """The regions of a mask, with what is needed of each to stay within its bounding box."""

    def __init__(self, mask: NDArray[np.bool_], spacing: Sequence[float] | None) -> None:
        self.labels, self.count = label_regions(mask, mask.ndim)
        self.boxes = boxes(self.labels)
        self.sizes = np.bincount(self.labels[mask], minlength=self.count + 1)
        self.sides = np.ones(mask.ndim) if spacing is None else np.asarray(spacing, float)

    def edge(self, numbers: Any) -> NDArray[np.float64]:
        """Return where the edge pixels of regions lie, in the unit of the spacing."""
        found = []
        for number in numbers:
            box = self.boxes[number - 1]
            mask = self.labels[box] == number
            edge = np.argwhere(mask & ~ndimage.binary_erosion(mask))
            found.append(edge + [side.start for side in box])
        places: NDArray[np.float64] = np.concatenate(found) * self.sides
        return places


def _group(
    parts: _Regions, regions: _Regions, dilation: int
) -> tuple[NDArray[np.int64], list[set[int]]]:
    """Return the lesion of every part of the target, and the regions near every lesion.

    Each part is dilated within its bounding box: the dilation of a lesion is the union of these.
    """
    structure = ndimage.generate_binary_structure(parts.labels.ndim, 2)
    dilated = np.zeros(parts.labels.shape, bool)
    near_part: list[set[int]] = [set()]
    for number, box in enumerate(parts.boxes, 1):
        wide = tuple(slice(max(side.start - dilation, 0), side.stop + dilation) for side in box)
        mask = parts.labels[wide] == number
        if dilation:
            mask = ndimage.binary_dilation(mask, structure, iterations=dilation)
        dilated[wide] |= mask
        near_part.append(set(np.unique(regions.labels[wide][mask]).tolist()) - {0})
    lesions, count = label_regions(dilated, dilated.ndim)
    owner = np.zeros(parts.count + 1, np.int64)
    inside = parts.labels > 0
    owner[parts.labels[inside]] = lesions[inside]
    near: list[set[int]] = [set() for _ in range(count + 1)]
    for lesion, hits in zip(owner, near_part, strict=True):
        near[lesion] |= hits
    return owner, near


def _hausdorff95(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    there, back = KDTree(other).query(one)[0], KDTree(one).query(other)[0]
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def _share(part: float, whole: int) -> float:
    return part / whole if whole else 1.0
