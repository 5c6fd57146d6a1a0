"""The modules of ``functional.outlier_region_loss`` and ``functional.density_loss``."""

from collections.abc import Sequence

from torch import Tensor

from gliomaseg_layers.functional import (
    OutlierReport,
    density_loss,
    outlier_region_loss,
    outlier_report,
)
from gliomaseg_layers.functional._scores import Scores
from gliomaseg_layers.functional.outlier_region import outlier_term
from gliomaseg_layers.functional.region_density import density_of
from gliomaseg_layers.losses._segmentation_loss import SegmentationLoss

__all__ = ["DensityLoss", "OutlierRegionLoss"]


class OutlierRegionLoss(SegmentationLoss):
    """Cross-entropy that counts more inside outlier regions: islands too small to be believed.

    The module of :func:`gliomaseg_layers.functional.outlier_region_loss`, which has the formula
    and says what the arguments mean. Weights given as tensors move with ``.to()``; a loss learns
    nothing, so its ``state_dict`` is empty. ``check_values(input, target, mask)`` looks once for
    values that would make it silently wrong.

    Shapes: ``input`` ``(N, C, *spatial)``; ``target`` like it, or class indices ``(N, *spatial)``
    in multiclass mode; the result is a scalar, or a map with ``reduction="none"``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range.
        RuntimeError: a class index is out of range.

    Source: after the aim of [WAN23] 3.4.3.

    Example:
        >>> import torch
        >>> loss = OutlierRegionLoss("multiclass")
        >>> logits = torch.randn(2, 4, 32, 32, requires_grad=True)
        >>> target = torch.randint(4, (2, 32, 32))
        >>> loss(logits, target).backward()
        >>> loss(logits, target, mask=target != 3).shape
        torch.Size([])
    """

    def __init__(
        self,
        mode: str = "binary",
        *,
        window: int | Sequence[int] = 21,
        max_noise_size: float | None = None,
        levels: Sequence[float] = (0.1, 0.3, 0.5),
        strength: float = 1000.0,
        share: float | None = 0.1,
        from_logits: bool = True,
        pos_weight: float | Tensor | None = None,
        class_weights: float | Tensor | None = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            mode=mode,
            window=window,
            max_noise_size=max_noise_size,
            levels=levels,
            strength=strength,
            share=share,
            from_logits=from_logits,
            pos_weight=pos_weight,
            class_weights=class_weights,
            ignore_index=ignore_index,
            reduction=reduction,
        )

    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return outlier_region_loss(input, target, mask=mask, **self.settings())

    def report(
        self, input: Tensor, target: Tensor | None = None, mask: Tensor | None = None
    ) -> OutlierReport:
        """Say how much the loss flags: :func:`gliomaseg_layers.functional.outlier_report`."""
        settings = self.settings()
        del settings["reduction"]
        return outlier_report(input, target, mask=mask, **settings)

    def term(self, scores: Scores, cross_entropy: Tensor) -> Tensor:
        """Return what the loss adds to the cross-entropy of every pixel, for ``CompoundLoss``."""
        settings = self.settings("window", "max_noise_size", "levels", "strength", "share")
        return outlier_term(scores, cross_entropy, **settings)


class DensityLoss(SegmentationLoss):
    """Cross-entropy less the region density: equation 12 of [WAN23], to the letter.

    The module of :func:`gliomaseg_layers.functional.density_loss`, which has the formula, says what
    the arguments mean, and what was measured: where the density acts it rewards noise. Everything
    else is as in :class:`OutlierRegionLoss`.

    Equation 13, with its three weights of 1, is ``CompoundLoss(DensityLoss(), alpha=2.0)``: its
    third term, the whole of equation 12, holds the cross-entropy a second time.

    Shapes: as for :class:`OutlierRegionLoss`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range.
        RuntimeError: a class index is out of range.

    Source: [WAN23] eq. 12.

    Example:
        >>> import torch
        >>> loss = DensityLoss(inner=3, outer=9)
        >>> loss(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)).shape
        torch.Size([])
    """

    def __init__(
        self,
        mode: str = "binary",
        *,
        inner: int | Sequence[int] = 7,
        outer: int | Sequence[int] = 21,
        smooth: float = 1.0,
        threshold: float | None = None,
        from_logits: bool = True,
        pos_weight: float | Tensor | None = None,
        class_weights: float | Tensor | None = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            mode=mode,
            inner=inner,
            outer=outer,
            smooth=smooth,
            threshold=threshold,
            from_logits=from_logits,
            pos_weight=pos_weight,
            class_weights=class_weights,
            ignore_index=ignore_index,
            reduction=reduction,
        )

    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return density_loss(input, target, mask=mask, **self.settings())

    def term(self, scores: Scores, cross_entropy: Tensor) -> Tensor:
        """Return what the loss adds to the cross-entropy of every pixel, for ``CompoundLoss``."""
        return -density_of(scores, **self.settings("inner", "outer", "smooth", "threshold"))
