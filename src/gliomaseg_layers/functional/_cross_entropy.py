"""The pixel's cross-entropy, in every mode."""

from torch import Tensor
from torch.nn import functional as F

from gliomaseg_layers._checks import check_beside, check_settings
from gliomaseg_layers.functional._scores import (
    Scores,
    arithmetic_dtype,
    check_shape,
    clamped_log,
    read_labelled,
)


def labelled_cross_entropy(
    input: Tensor,
    target: Tensor,
    mode: str,
    from_logits: bool,
    pos_weight: float | Tensor | None,
    class_weights: float | Tensor | None,
    ignore_index: int | None,
    mask: Tensor | None,
) -> tuple[Scores, Tensor]:
    """Read an output and its target; return the scores, and the cross-entropy of every pixel."""
    check_settings(mode=mode, pos_weight=pos_weight, class_weights=class_weights)
    scores, target = read_labelled(input, target, mode, from_logits, ignore_index, mask)
    return scores, cross_entropy_map(scores, target, pos_weight, class_weights)


def cross_entropy_map(
    scores: Scores,
    target: Tensor,
    pos_weight: float | Tensor | None,
    class_weights: float | Tensor | None,
) -> Tensor:
    """Return the cross-entropy of every pixel, or of every pixel and channel, unreduced.

    ``target`` is what ``read_labelled`` returned; the weights are one number or one per channel.
    """
    if scores.multiclass:
        return _softmax_cross_entropy(scores.log_probs(), target, class_weights)
    loss = _binary_cross_entropy(scores, target, pos_weight)
    if class_weights is None:
        return loss
    return loss * per_channel("class_weights", class_weights, loss)


def _binary_cross_entropy(
    scores: Scores, target: Tensor, pos_weight: float | Tensor | None
) -> Tensor:
    weight = None
    if pos_weight is not None:
        weight = per_channel("pos_weight", pos_weight, scores.values)
    if scores.from_logits:
        return F.binary_cross_entropy_with_logits(
            scores.values, target, pos_weight=weight, reduction="none"
        )
    positive = target * clamped_log(scores.values)
    if weight is not None:
        positive = positive * weight
    return -positive - (1 - target) * clamped_log(1 - scores.values)


def _softmax_cross_entropy(
    log_probs: Tensor, target: Tensor, class_weights: float | Tensor | None
) -> Tensor:
    weight = None
    if class_weights is not None:
        weight = per_channel("class_weights", class_weights, log_probs)
    if target.is_floating_point():
        weighted = log_probs if weight is None else log_probs * weight
        return -(target * weighted).sum(1)
    loss = -log_probs.gather(1, target.unsqueeze(1)).squeeze(1)
    if weight is None:
        return loss
    # Only the weight of the label's class: that of a class which no pixel has may be infinite.
    return loss * weight.view(-1).expand(log_probs.shape[1])[target]


def per_channel(name: str, weight: float | Tensor, input: Tensor) -> Tensor:
    """Return the weight in a shape that broadcasts over channels, never over the width."""
    dtype = arithmetic_dtype(input)
    if not isinstance(weight, Tensor):
        return input.new_full((), weight, dtype=dtype)
    check_beside(name, weight, input)
    check_shape(name, weight, [(), (input.shape[1],)])
    return weight.to(dtype).view([-1] + [1] * (input.dim() - 2))
