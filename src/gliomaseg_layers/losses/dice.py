"""The module of ``functional.dice_loss``."""

from torch import Tensor

from gliomaseg_layers.functional import dice_loss
from gliomaseg_layers.functional._scores import Scores
from gliomaseg_layers.functional.dice import dice_of
from gliomaseg_layers.losses._segmentation_loss import SegmentationLoss

__all__ = ["DiceLoss"]


class DiceLoss(SegmentationLoss):
    """Soft Dice loss of every sample and class.

    The module of :func:`gliomaseg_layers.functional.dice_loss`, which has the formula and says
    what the arguments mean. For soft targets take ``soft_label=True``: the plain loss is not least
    where prediction and soft target agree. ``check_values(input, target, mask)`` looks once for
    values that would make the loss silently wrong.

    Shapes: ``input`` ``(N, C, *spatial)``; ``target`` like it, or class indices ``(N, *spatial)``
    in multiclass mode; the result is a scalar; with ``reduction="none"`` ``(N, C)``, or
    ``(C,)`` with ``batch``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range.
        RuntimeError: a class index is out of range.

    Source: [WAN23] eq. 3.

    Example:
        >>> import torch
        >>> target = torch.ones(1, 1, 8, 8)
        >>> DiceLoss(from_logits=False)(target, target)
        tensor(0.)
    """

    def __init__(
        self,
        mode: str = "binary",
        *,
        smooth: float = 1.0,
        batch: bool = False,
        include_background: bool = True,
        class_weights: float | Tensor | None = None,
        soft_label: bool = False,
        from_logits: bool = True,
        ignore_index: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            mode=mode,
            smooth=smooth,
            batch=batch,
            include_background=include_background,
            class_weights=class_weights,
            soft_label=soft_label,
            from_logits=from_logits,
            ignore_index=ignore_index,
            reduction=reduction,
        )

    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return dice_loss(input, target, mask=mask, **self.settings())

    def of(self, scores: Scores, target: Tensor, reduction: str) -> Tensor:
        """Return the loss of scores and a target that were read already, for ``CompoundLoss``."""
        names = ("smooth", "batch", "include_background", "class_weights", "soft_label")
        return dice_of(scores, target, reduction=reduction, **self.settings(*names))
