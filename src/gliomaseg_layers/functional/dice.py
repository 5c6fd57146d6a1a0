"""The soft Dice loss."""

import torch
from torch import Tensor

from gliomaseg_layers._checks import REDUCTIONS, check_bool, check_choice, check_positive
from gliomaseg_layers._reduction import keep, reduce
from gliomaseg_layers.functional._scores import Scores, read_target

__all__ = ["dice_loss", "dice_of"]


def dice_loss(
    input: Tensor,
    target: Tensor,
    *,
    mode: str = "binary",
    smooth: float = 1.0,
    from_logits: bool = True,
    batch: bool = False,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Soft Dice loss of every sample and class.

    .. math:: L = 1 - \frac{2 |X Y| + s}{|X| + |Y| + s}

    with X the probabilities, Y the target, and sums over the pixels of the image. Twice
    differentiable. Sums are at least fp32, so that a full fp16 mask of any size stays finite.

    Args:
        input: logits, or probabilities with ``from_logits=False``, ``(N, C, H, W)`` or
            ``(N, C, D, H, W)``. fp16 and bf16 are computed in fp32.
        target: binary and multilabel: the shape of ``input`` (binary also ``(N, *spatial)``),
            bool, integer or floating in [0, 1]; multiclass: class indices ``(N, *spatial)`` or
            ``(N, 1, *spatial)``, or one-hot or soft, floating, ``(N, C, *spatial)``.
        mode: "binary" (C = 1), "multilabel" (C >= 1, independent sigmoid channels) or
            "multiclass" (C >= 2, softmax; every class counts, the first too).
        smooth: s, in pixels, > 0.
        from_logits: False where ``input`` holds probabilities in [0, 1].
        batch: pool the pixels of the whole batch before the ratio.
        ignore_index: pixels whose target has this value are outside the image. Not with floating
            multiclass targets.
        mask: boolean, False for pixels outside the image; ``(N, *spatial)``, ``(N, 1, *spatial)``,
            or the shape of ``input`` in binary and multilabel mode.
        reduction: "none", "mean" or "sum". The mean is over the samples and classes that have any
            pixel in the image; it is 0 where none has.

    Returns:
        The loss, a scalar; with ``reduction="none"`` one entry per sample and class, ``(N, C)``,
        or ``(C,)`` with ``batch=True``. fp32, or fp64 for fp64 input.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument is out of its range, or shapes or devices do not fit.
        RuntimeError: a class index is out of range (is it `ignore_index`?).

    Source: [WAN23] eq. 3.

    Example:
        >>> import torch
        >>> target = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
        >>> probs = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
        >>> dice_loss(probs, target, from_logits=False)  # 1 - (2 * 1 + 1) / (1 + 2 + 1)
        tensor(0.2500)
    """
    check_choice("reduction", reduction, REDUCTIONS)
    check_positive("smooth", smooth)
    check_bool("from_logits", from_logits)
    check_bool("batch", batch)
    scores = Scores(input, mode, from_logits, mask)
    target = read_target(scores, target, ignore_index)
    return dice_of(scores, target, smooth, batch, reduction)


def dice_of(scores: Scores, target: Tensor, smooth: float, batch: bool, reduction: str) -> Tensor:
    """Compute ``dice_loss`` of scores and target that were read already."""
    probs = scores.probs()
    if scores.multiclass and not target.is_floating_point():
        target = torch.zeros_like(probs).scatter(1, target.unsqueeze(1), 1.0)
        target = keep(target, scores.inside)
    pooled = [axis for axis in range(probs.dim()) if axis > 1 or (batch and axis == 0)]
    overlap = (probs * target).sum(pooled)
    loss = 1 - (2 * overlap + smooth) / (probs.sum(pooled) + target.sum(pooled) + smooth)
    valid = None
    if scores.inside is not None:
        valid = scores.inside.expand_as(probs).sum(pooled) > 0
    return reduce(loss, valid, reduction)
