"""The definition of the outlier-region loss, as maps: the formula, for any device and graph."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gliomaseg_layers.functional._cross_entropy import cross_entropy_map
from gliomaseg_layers.functional._scores import Scores, clamped_log, read_target
from gliomaseg_layers.functional.region_density import density_of, outlier_weights_of

DEFAULT_STRENGTH = {"balanced": 1000.0, "suppress": 4.0, "penalty": 0.1}
DEFAULT_LEVELS = {"balanced": (0.1, 0.3, 0.5), "suppress": (0.5,), "penalty": (0.5,)}


class OutlierTerms(NamedTuple):
    """The two maps that add up to the loss, L = CE + extra, and what they were computed from."""

    cross_entropy: Tensor
    extra: Tensor
    scores: Scores
    target: Tensor


def outlier_terms(
    input: Tensor,
    target: Tensor,
    *,
    mode: str,
    formulation: str,
    inner: int | Sequence[int],
    outer: int | Sequence[int],
    smooth: float | Tensor,
    threshold: float | Tensor | None,
    strength: float | Tensor | None,
    levels: Sequence[float] | None,
    share: float | Tensor,
    from_logits: bool,
    pos_weight: float | Tensor | None,
    class_weights: float | Tensor | None,
    ignore_index: int | None,
    mask: Tensor | None,
) -> OutlierTerms:
    """Compute the terms of ``outlier_region_loss``; its arguments were checked.

    Its numbers may be 0-d tensors here, so that an exported program can take them as inputs.
    """
    scores = Scores(input, mode, from_logits, mask)
    target = read_target(scores, target, ignore_index)
    cross_entropy = cross_entropy_map(scores, target, pos_weight, class_weights)
    if formulation == "paper":
        extra = -density_of(scores, inner, outer, smooth, threshold)
    else:
        levels = DEFAULT_LEVELS[formulation] if levels is None else levels
        strength = DEFAULT_STRENGTH[formulation] if strength is None else strength
        weights = outlier_weights_of(scores, inner, outer, threshold, levels)
        if formulation == "penalty":
            weights = [
                weight * _confidence_cost(scores, scores.predicted(level))
                for weight, level in zip(weights, levels, strict=True)
            ]
        extra = torch.stack(weights).mean(0)
        if formulation == "balanced":
            extra = extra * _balanced_strength(extra, scores, strength, share)
        else:
            extra = extra * strength
        if formulation != "penalty":
            extra = extra * cross_entropy
    return OutlierTerms(cross_entropy, extra, scores, target)


def _balanced_strength(
    weight: Tensor, scores: Scores, strength: float | Tensor, share: float | Tensor
) -> Tensor:
    """Return the strength at which flagged pixels weigh a share of their image, or the given one.

    Every image and channel is balanced by itself, so that no batch or process sees another.
    """
    axes = tuple(range(1 if scores.multiclass else 2, weight.dim()))
    valid = torch.ones_like(weight[:1]) if scores.valid is None else scores.valid.to(weight.dtype)
    # The floor acts where nothing is flagged.
    total = weight.sum(axes, keepdim=True).clamp(min=1e-30)
    return (share * valid.sum(axes, keepdim=True) / total).clamp(max=strength)


def _confidence_cost(scores: Scores, predicted: Tensor) -> Tensor:
    """Return -log(1 - q_c*), which pushes a confident pixel as hard as a doubtful one."""
    values = scores.values
    if scores.multiclass:
        predicted = predicted.unsqueeze(1)
        chosen = values.gather(1, predicted)
        if not scores.from_logits:
            return -clamped_log(1 - chosen).squeeze(1)
        others = values.scatter(1, predicted, float("-inf"))
        top = others.detach().amax(1, keepdim=True)  # apart, or log k drowns beside huge logits
        margin = (others - top).logsumexp(1, keepdim=True) + (top - chosen)
        return -F.logsigmoid(margin).squeeze(1)
    if scores.from_logits:
        return -F.logsigmoid((-values).where(predicted, values))
    return -clamped_log((1 - values).where(predicted, values))
