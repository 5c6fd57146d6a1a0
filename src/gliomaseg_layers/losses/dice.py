"""Module face of ``functional.dice_loss``."""

from collections.abc import Callable

from torch import Tensor, nn

from gliomaseg_layers._checks import (
    MODES,
    REDUCTIONS,
    check_bool,
    check_choice,
    check_int,
    check_positive,
)
from gliomaseg_layers.functional import dice_loss

__all__ = ["DiceLoss"]


class DiceLoss(nn.Module):
    """Soft Dice loss of every sample and class.

    The module of :func:`gliomaseg_layers.functional.dice_loss`, which has the formula and says
    what the arguments mean and what is raised.

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

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        *,
        mode: str = "binary",
        smooth: float = 1.0,
        from_logits: bool = True,
        batch: bool = False,
        ignore_index: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_choice("mode", mode, MODES)
        check_choice("reduction", reduction, REDUCTIONS)
        check_positive("smooth", smooth)
        check_bool("from_logits", from_logits)
        check_bool("batch", batch)
        if ignore_index is not None:
            check_int("ignore_index", ignore_index)
        self.mode = mode
        self.smooth = smooth
        self.from_logits = from_logits
        self.batch = batch
        self.ignore_index = ignore_index
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return dice_loss(
            input,
            target,
            mode=self.mode,
            smooth=self.smooth,
            from_logits=self.from_logits,
            batch=self.batch,
            ignore_index=self.ignore_index,
            mask=mask,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        return (
            f"mode={self.mode!r}, smooth={self.smooth}, from_logits={self.from_logits}, "
            f"batch={self.batch}, ignore_index={self.ignore_index}, reduction={self.reduction!r}"
        )
