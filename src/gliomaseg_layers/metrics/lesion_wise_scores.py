"""Lesion-wise scores over a data set, as a torchmetrics metric."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from gliomaseg_layers.metrics._cases import CaseMetric
from gliomaseg_layers.metrics.lesions import LesionScores, lesion_wise_scores

__all__ = ["LesionWiseScores"]


class LesionWiseScores(CaseMetric):
    """Lesion-wise Dice, HD95, F1, precision and recall over a data set.

    ``update(preds, target)`` takes the same maps as :class:`RegionCounts`, with or without
    ``num_classes``. ``compute()`` returns a dict of the means over images of ``dice``, ``hd95``,
    ``f1``, ``precision`` and ``recall`` (see :func:`lesion_wise_scores`), and of the totals
    ``images``, ``found``, ``missed`` and ``spurious``. Synchronises between processes as every
    torchmetrics metric does.

    Args:
        dilation, min_size, penalty: as in :func:`lesion_wise_scores`.
        spacing, threshold, num_classes, include_background: as in :class:`RegionCounts`.
        reduction: as in MONAI. ``"mean"`` is over images and channels, ``"mean_batch"`` over
            images, ``(C,)``; ``"none"`` gives the scores of every image and channel, ``(N, C)``.
        ignore_empty: leave out of totals and means the images (channels) whose target is empty;
            with ``reduction="none"`` their scores are NaN.
        kwargs: of torchmetrics.Metric.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: shapes do not fit, or an argument is out of its range.

    Source: BraTS 2023, lesion-wise Dice and HD95.

    Example:
        >>> import torch
        >>> target = torch.zeros(1, 40, 40, dtype=torch.long)
        >>> target[0, 5:15, 5:15] = 1
        >>> target[0, 25:35, 25:35] = 2
        >>> metric = LesionWiseScores(num_classes=3, reduction="mean_batch")
        >>> metric.update(target.where(target < 2, 1), target)
        >>> metric.compute()["dice"]  # of classes 1 and 2
        tensor([0.5000, 0.0000])
    """

    def __init__(
        self,
        dilation: int = 3,
        min_size: float = 50,
        *,
        penalty: float = 374.0,
        spacing: Sequence[float] | None = None,
        threshold: float = 0.5,
        num_classes: int | None = None,
        include_background: bool = False,
        reduction: str = "mean",
        ignore_empty: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            partial(lesion_wise_scores, dilation=dilation, min_size=min_size, penalty=penalty),
            LesionScores,
            spacing=spacing,
            threshold=threshold,
            num_classes=num_classes,
            include_background=include_background,
            reduction=reduction,
            ignore_empty=ignore_empty,
            **kwargs,
        )
