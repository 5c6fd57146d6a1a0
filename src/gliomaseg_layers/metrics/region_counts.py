"""Count noise regions over a data set, as a torchmetrics metric."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gliomaseg_layers._checks import check_number
from gliomaseg_layers.metrics._masks import mask_pairs
from gliomaseg_layers.metrics._totals import Totals
from gliomaseg_layers.metrics.regions import RegionCount, count_regions

__all__ = ["RegionCounts"]


class RegionCounts(Totals):
    """Count predicted, spurious, noise and missed regions, and holes, over a data set.

    ``update(preds, target)`` takes maps ``(N, C, H, W)`` or ``(N, C, D, H, W)``, of which every
    channel is an image of its own: floating predictions are thresholded, bool and integer ones are
    foreground where not 0. ``compute()`` returns a dict of totals, ``images``, ``regions``,
    ``spurious``, ``noise``, ``holes`` and ``missed`` (see :func:`count_regions`), and of each per
    image as ``<name>_per_image``. Synchronises between processes as every torchmetrics metric does.

    Args:
        max_noise_size: largest size of noise, inclusive; in pixels, or in the unit of ``spacing``
            to the power of the number of axes.
        connectivity: as in scikit-image; 2 connects pixels of a plane by their corners too.
        spacing: size of a pixel along each axis, usually in mm; None counts pixels.
        threshold: floating predictions above it are foreground.
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

    is_differentiable = False
    full_state_update = False

    images: Tensor

    def __init__(
        self,
        max_noise_size: float = 49,
        connectivity: int = 2,
        *,
        spacing: Sequence[float] | None = None,
        threshold: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.settings: dict[str, Any] = {
            "max_noise_size": max_noise_size,
            "connectivity": connectivity,
            "spacing": spacing,
        }
        check_number("threshold", threshold)
        empty = np.zeros((1,) * (2 if np.asarray(spacing).size == 2 else 3))
        count_regions(empty, empty, **self.settings)  # a bad setting fails here
        self.threshold = threshold
        self.tell_apart(**self.settings, threshold=threshold)
        for name in ("images", *RegionCount._fields):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count the regions of every image of a batch."""
        for predicted, truth in mask_pairs(preds, target, self.threshold):
            counts = count_regions(predicted, truth, **self.settings)
            self.images += 1
            for name, count in counts._asdict().items():
                setattr(self, name, getattr(self, name) + count)

    def compute(self) -> dict[str, Tensor]:
        """Return the figures of all images since the last reset."""
        totals = {name: getattr(self, name) for name in RegionCount._fields}
        per_image = {f"{name}_per_image": total / self.images for name, total in totals.items()}
        return {"images": self.images} | totals | per_image
