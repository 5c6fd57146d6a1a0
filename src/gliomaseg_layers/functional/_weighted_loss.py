"""The weighted sum of cross-entropy, Dice and outlier term, computed where it is fastest."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gliomaseg_layers._capture import runs_eagerly
from gliomaseg_layers._reduction import reduce
from gliomaseg_layers.functional._outlier_terms import outlier_terms
from gliomaseg_layers.functional._plan import make_plan, read_maps
from gliomaseg_layers.functional.dice import dice_of
from gliomaseg_layers.functional.outlier_region_cpu import ClosedForm


def weighted_loss(
    input: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None,
    weights: Sequence[float | Tensor],
    dice_smooth: float | None,
    reduction: str,
    backend: str,
    settings: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Return the loss and its terms: cross-entropy, Dice, and what the formulation adds.

    ``settings`` are the checked arguments of ``outlier_region_loss`` up to ``ignore_index``.
    Without ``dice_smooth`` there is no Dice term; with reduction "none" the loss is a map.
    """
    definition = partial(
        _definition,
        target=target,
        mask=mask,
        weights=weights,
        dice_smooth=dice_smooth,
        reduction=reduction,
        settings=settings,
    )
    if not _has_closed_form(input, target, settings):
        return definition(input)
    maps = read_maps(input, target, mask, settings)
    plan = make_plan(input.dim() - 2, settings, reduction, dice_smooth)
    return ClosedForm.apply(input, maps, plan, weights, lambda logits: definition(logits)[0])


def _definition(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weights: Sequence[float | Tensor],
    dice_smooth: float | None,
    reduction: str,
    settings: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    maps = outlier_terms(input, target, mask=mask, **settings)
    ce = reduce(maps.cross_entropy, maps.scores.valid, reduction)
    term = reduce(maps.extra, maps.scores.valid, reduction)
    alpha, beta, gamma = (w.to(ce.dtype) if isinstance(w, Tensor) else w for w in weights)
    if dice_smooth is None:
        return alpha * ce + gamma * term, torch.empty(0)
    dice = dice_of(maps.scores, maps.target, dice_smooth, False, reduction)
    loss = alpha * ce + beta * dice + gamma * term
    return loss, torch.stack([ce, dice, term]).detach()


def _has_closed_form(input: Tensor, target: Tensor, settings: dict[str, Any]) -> bool:
    tensors = (input, target, settings["pos_weight"], settings["class_weights"])
    return (
        runs_eagerly()
        and settings["mode"] != "multiclass"
        and settings["from_logits"]
        # Checks come with the definition; so do gradients of anything but the logits.
        and all(type(tensor) is Tensor for tensor in (input, target))
        and input.is_cpu
        and not any(isinstance(t, Tensor) and t.requires_grad for t in tensors[1:])
    )
