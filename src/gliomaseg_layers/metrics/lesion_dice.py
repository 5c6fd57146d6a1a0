"""Dice of every lesion by itself, as the BraTS challenge scores since 2023."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import ndimage
from torch import Tensor

from gliomaseg_layers._checks import check_int, check_not_negative, check_number
from gliomaseg_layers.metrics._masks import mask_pairs
from gliomaseg_layers.metrics._totals import Totals
from gliomaseg_layers.metrics.regions import label_regions, pixel_size, read_pair

__all__ = ["LesionScore", "LesionWiseDice", "lesion_wise_dice"]


class LesionScore(NamedTuple):
    """Lesion-wise score of one image."""

    dice: float
    found: int
    missed: int
    spurious: int


def lesion_wise_dice(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    dilation: int = 3,
    min_size: float = 50,
    spacing: Sequence[float] | None = None,
) -> LesionScore:
    r"""Score every lesion of the target by itself, and every spurious region with 0.

    .. math:: \frac{\sum_{l} \mathrm{Dice}(l)}{\#\text{lesions} + \#\text{spurious regions}}

    Target regions that touch when dilated are one lesion. Predicted regions that touch the dilated
    lesion are its prediction, together; a missed lesion scores 0, and so does a predicted region
    that belongs to no lesion. Lesions of at most ``min_size`` do not count, found or missed, nor do
    the regions that found them. Regions are connected by corners. With nothing to score it is 1.

    Args:
        prediction: mask ``(H, W)`` or ``(D, H, W)``; what is not 0 is foreground.
        target: mask of the same shape.
        dilation: steps of the dilation, in pixels; BraTS takes 3 for gliomas, 1 for metastases.
        min_size: largest size of a lesion that is left out; in pixels, or in the unit of
            ``spacing`` to the power of the number of axes.
        spacing: size of a pixel along each axis, usually in mm; None counts pixels.

    Returns:
        The score, and how many lesions were found and missed, and how many regions are spurious.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: shapes differ, or an argument is out of its range.

    Source: BraTS 2023, lesion-wise Dice.

    Example:
        >>> import numpy as np
        >>> target = np.zeros((40, 40))
        >>> target[5:15, 5:15] = 1
        >>> prediction = target.copy()
        >>> prediction[30, 30] = 1  # perfect, but for one false pixel
        >>> lesion_wise_dice(prediction, target)
        LesionScore(dice=0.5, found=1, missed=0, spurious=1)
    """
    check_int("dilation", dilation)
    check_not_negative("dilation", dilation)
    check_not_negative("min_size", min_size)
    predicted, truth = read_pair(prediction, target)
    regions, count = label_regions(predicted, predicted.ndim)
    sizes = np.bincount(regions.ravel())
    lesions, number = label_regions(_dilate(truth, dilation), truth.ndim)
    volume = pixel_size(spacing, truth.ndim)
    owned = np.zeros(count + 1, bool)
    owned[0] = True  # background
    scores, found = [], 0
    for lesion in range(1, number + 1):
        mine = truth & (lesions == lesion)
        near = np.unique(regions[_dilate(mine, dilation)])
        near = near[near > 0]
        owned[near] = True
        if mine.sum() * volume > min_size:
            overlap = np.isin(regions[mine], near).sum()
            scores.append(2 * overlap / (mine.sum() + sizes[near].sum()))
            found += near.size > 0
    spurious = int((~owned).sum())
    entries = len(scores) + spurious
    dice = float(sum(scores) / entries) if entries else 1.0
    return LesionScore(dice, found, len(scores) - found, spurious)


class LesionWiseDice(Totals):
    """Lesion-wise Dice over a data set, as a torchmetrics metric.

    ``update(preds, target)`` takes maps ``(N, C, H, W)`` or ``(N, C, D, H, W)``, of which every
    channel is an image of its own: floating predictions are thresholded, bool and integer ones are
    foreground where not 0. ``compute()`` returns a dict of ``dice``, the mean over images of
    :func:`lesion_wise_dice`, and of the totals ``images``, ``found``, ``missed`` and ``spurious``.
    Synchronises between processes as every torchmetrics metric does.

    Args:
        dilation, min_size, spacing: as in :func:`lesion_wise_dice`.
        threshold: floating predictions above it are foreground.
        kwargs: of torchmetrics.Metric.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: shapes do not fit, or an argument is out of its range.

    Source: BraTS 2023, lesion-wise Dice.

    Example:
        >>> import torch
        >>> metric = LesionWiseDice()
        >>> target = torch.zeros(1, 1, 40, 40)
        >>> target[..., 5:15, 5:15] = 1
        >>> metric.update(target, target)
        >>> float(metric.compute()["dice"])
        1.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    images: Tensor
    total: Tensor
    found: Tensor
    missed: Tensor
    spurious: Tensor

    def __init__(
        self,
        dilation: int = 3,
        min_size: float = 50,
        *,
        spacing: Sequence[float] | None = None,
        threshold: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_number("threshold", threshold)
        empty = np.zeros((1,) * (2 if np.asarray(spacing).size == 2 else 3))
        lesion_wise_dice(empty, empty, dilation=dilation, min_size=min_size, spacing=spacing)
        self.dilation = dilation
        self.min_size = min_size
        self.spacing = spacing
        self.threshold = threshold
        self.tell_apart(dilation=dilation, min_size=min_size, spacing=spacing, threshold=threshold)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("images", "found", "missed", "spurious"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Score every image of a batch."""
        for predicted, truth in mask_pairs(preds, target, self.threshold):
            score = lesion_wise_dice(
                predicted,
                truth,
                dilation=self.dilation,
                min_size=self.min_size,
                spacing=self.spacing,
            )
            self.images += 1
            self.total += score.dice
            self.found += score.found
            self.missed += score.missed
            self.spurious += score.spurious

    def compute(self) -> dict[str, Tensor]:
        """Return the figures of all images since the last reset."""
        return {
            "dice": (self.total / self.images).float(),
            "images": self.images,
            "found": self.found,
            "missed": self.missed,
            "spurious": self.spurious,
        }


def _dilate(mask: Any, steps: int) -> Any:
    if steps == 0:
        return mask
    structure = ndimage.generate_binary_structure(mask.ndim, 2)
    return ndimage.binary_dilation(mask, structure, iterations=steps)
