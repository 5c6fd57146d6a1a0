"""Count noise regions over a data set, as a torchmetrics metric."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from gliomaseg_layers.metrics._cases import CaseMetric
from gliomaseg_layers.metrics.regions import RegionCount, count_regions

__all__ = ["RegionCounts"]


class RegionCounts(CaseMetric):
    """Count predicted, spurious, noise and missed regions, and holes, over a data set.

    ``update(preds, target)`` takes maps ``(N, C, H, W)`` or ``(N, C, D, H, W)``, of which every
    channel is an image of its own. Both are read alike: floating maps are foreground above
    ``threshold``, bool and integer ones where not 0. With ``num_classes`` it takes label maps
    ``(N, *spatial)`` or ``(N, 1, *spatial)``, or a channel for every class: bool or integer one-hot
    maps, or floating scores, of which the largest says the class.

    ``compute()`` returns a dict of totals, ``images``, ``regions``, ``spurious``, ``noise``,
    ``holes`` and ``missed`` (see :func:`count_regions`), and of each per image as
    ``<name>_per_image``. Synchronises between processes as every torchmetrics metric does.

    Args:
        max_noise_size: largest size of noise, inclusive; in pixels, or in the unit of ``spacing``
            to the power of the number of axes.
        connectivity: as in scikit-image; 2 connects pixels of a plane by their corners too.
        spacing: size of a pixel along each axis, usually in mm; None counts pixels.
            ``update(preds, target, spacing)`` takes that of a batch, or a row of it for each image.
        threshold: floating maps are foreground above it, without ``num_classes``.
        num_classes: number of classes, background included; None takes channels.
        include_background: count the regions of class 0 too.
        reduction: as in MONAI. ``"mean"`` is over images and channels, ``"mean_batch"`` over
            images, ``(C,)``; ``"none"`` gives the counts of every image and channel, ``(N, C)``.
        ignore_empty: leave out of totals and means the images (channels) whose target is empty.
        kwargs: of torchmetrics.Metric.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: shapes do not fit, or an argument is out of its range.

    Source: [WAN23] section 5 asks for "an evaluation function that can detect the number of noise
    points".

    Example:
        >>> import torch
        >>> counts = RegionCounts()
        >>> target = torch.zeros(2, 1, 16, 16)
        >>> preds = target.clone()
        >>> preds[0, 0, 3:5, 3:5] = 0.9
        >>> counts.update(preds, target)
        >>> int(counts.compute()["noise"]), float(counts.compute()["noise_per_image"])
        (1, 0.5)
    """

    def __init__(
        self,
        max_noise_size: float = 49,
        connectivity: int = 2,
        *,
        spacing: Sequence[float] | None = None,
        threshold: float = 0.5,
        num_classes: int | None = None,
        include_background: bool = False,
        reduction: str = "mean",
        ignore_empty: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            partial(count_regions, max_noise_size=max_noise_size, connectivity=connectivity),
            RegionCount,
            spacing=spacing,
            threshold=threshold,
            num_classes=num_classes,
            include_background=include_background,
            reduction=reduction,
            ignore_empty=ignore_empty,
            **kwargs,
        )

    def compute(self) -> dict[str, Tensor]:
        """Return the figures of all images since the last reset."""
        figures = super().compute()
        if self.reduction == "none":
            return figures
        rates = {
            f"{name}_per_image": figures[name] / figures["images"] for name in RegionCount._fields
        }
        return figures | rates
