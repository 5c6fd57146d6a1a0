"""The soft Dice loss."""

import torch
from torch import Tensor

from gliomaseg_layers._checks import check_settings
from gliomaseg_layers._reduction import keep, reduce
from gliomaseg_layers.functional._cross_entropy import per_channel
from gliomaseg_layers.functional._scores import Scores, read_labelled

__all__ = ["dice_loss", "dice_of"]


def dice_loss(
    input: Tensor,
    target: Tensor,
    *,
    mode: str = "binary",
    smooth: float = 1.0,
    batch: bool = False,
    include_background: bool = True,
    class_weights: float | Tensor | None = None,
    soft_label: bool = False,
    from_logits: bool = True,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Soft Dice loss of every sample and class.

    .. math:: d = 1 - \frac{2 |X Y| + s}{|X| + |Y| + s}

    with X the probabilities, Y the target, and sums over the pixels of the image. With a soft
    target, a blurred mask for instance, this is not least where X = Y: with Y = 0.2 everywhere it
    falls until X = 1. ``soft_label=True`` is for such targets: it takes
    :math:`|X| + |Y| - |X - Y|` for :math:`2 |X Y|`, which is the same for a target of 0 and 1, and
    is least where X = Y.

    The mean over samples and classes is :math:`\sum w_c d_c / \sum w_c` with ``class_weights`` w.
    Sums are at least fp32, so that a full fp16 mask of any size stays finite.

    Args:
        input: logits, or probabilities with ``from_logits=False``, ``(N, C, H, W)`` or
            ``(N, C, D, H, W)``. fp16 and bf16 are computed in fp32.
        target: binary and multilabel: the shape of ``input`` (binary also ``(N, *spatial)``),
            bool, integer or floating in [0, 1]; multiclass: class indices ``(N, *spatial)`` or
            ``(N, 1, *spatial)``, or one-hot or soft, floating, ``(N, C, *spatial)``.
        mode: "binary" (C = 1), "multilabel" (C >= 1, independent sigmoid channels) or
            "multiclass" (C >= 2, softmax).
        smooth: s, in pixels, > 0.
        batch: pool the pixels of the whole batch before the ratio, as nnU-Net's batch Dice does.
        include_background: False leaves class 0 of a multiclass map out.
        class_weights: weight of each class, one number or ``(C,)``, class 0 included. The sum and
            the entries of "none" are weighed too.
        soft_label: for targets between 0 and 1, see above.
        from_logits: False where ``input`` holds probabilities in [0, 1].
        ignore_index: pixels whose target has this value are outside the image. Not with floating
            multiclass targets.
        mask: boolean, False for pixels outside the image; ``(N, *spatial)``, ``(N, 1, *spatial)``,
            or the shape of ``input`` in binary and multilabel mode.
        reduction: "none", "mean" or "sum". The mean is over the samples and classes that have any
            pixel in the image; it is 0 where none has.

    Returns:
        The loss, a scalar; with ``reduction="none"`` one entry per sample and class, ``(N, C)``,
        or ``(C,)`` with ``batch=True``; ``C - 1`` entries without the background. fp32, or fp64
        for fp64 input.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument is out of its range, or shapes or devices do not fit.
        RuntimeError: a class index is out of range (is it ``ignore_index``?).

    Source: [WAN23] eq. 3.

    Example:
        >>> import torch
        >>> target = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
        >>> probs = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
        >>> dice_loss(probs, target, from_logits=False)  # 1 - (2 * 1 + 1) / (1 + 2 + 1)
        tensor(0.2500)
    """
    check_settings(
        mode=mode,
        smooth=smooth,
        batch=batch,
        include_background=include_background,
        class_weights=class_weights,
        soft_label=soft_label,
    )
    scores, target = read_labelled(input, target, mode, from_logits, ignore_index, mask)
    return dice_of(
        scores, target, smooth, batch, include_background, class_weights, soft_label, reduction
    )


def dice_of(
    scores: Scores,
    target: Tensor,
    smooth: float,
    batch: bool,
    include_background: bool,
    class_weights: float | Tensor | None,
    soft_label: bool,
    reduction: str,
) -> Tensor:
    """Compute ``dice_loss`` of scores and a target already read; its settings were checked."""
    probs = scores.probs()
    if scores.multiclass and not target.is_floating_point():
        target = torch.zeros_like(probs).scatter(1, target.unsqueeze(1), 1.0)
        target = keep(target, scores.inside)
    first = 0 if include_background else 1
    if first:
        probs, target = probs[:, first:], target[:, first:]
    pooled = [axis for axis in range(probs.dim()) if axis > 1 or (batch and axis == 0)]
    both = probs.sum(pooled) + target.sum(pooled)
    if soft_label:
        apart = (probs - target).abs().sum(pooled)
    else:
        apart = both - 2 * (probs * target).sum(pooled)
    loss = apart / (both + smooth)
    valid = None
    if scores.inside is not None:
        valid = scores.inside.expand_as(probs).sum(pooled) > 0
    weights = None
    if class_weights is not None:
        each = per_channel("class_weights", class_weights, scores.values).view(-1)
        weights = each.expand(scores.values.shape[1])[first:]
    return reduce(loss, valid, reduction, weights)
