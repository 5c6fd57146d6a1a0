"""The weighted sum of cross-entropy, Dice and outlier term, computed where it is fastest."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gliomaseg_layers._capture import is_transformed, is_watched, runs_eagerly
from gliomaseg_layers._checks import check_beside, check_windows
from gliomaseg_layers._reduction import reduce
from gliomaseg_layers.functional import outlier_region_cpu
from gliomaseg_layers.functional._operator import fused_loss, kernels
from gliomaseg_layers.functional._outlier_terms import outlier_terms
from gliomaseg_layers.functional._plan import Maps, Plan, make_plan, read_maps
from gliomaseg_layers.functional._scores import check_input
from gliomaseg_layers.functional.dice import dice_of

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's own switch, read as it does
NO_TRITON = None if importlib.util.find_spec("triton") else "Triton is not installed"
if torch.__version__ < "2.8":  # as versions; its Triton, 3.3, has no tuples of constants
    NO_TRITON = f"its kernels need torch 2.8 or later, got {torch.__version__}"
LARGEST_WINDOW = 63  # a row of it lies in three words of the kernels' bits
MOST_LEVELS = 8


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
    ``weights`` are (1, 0, 1) or three tensors. Without ``dice_smooth`` there is no Dice term; with
    reduction "none" the loss is a map.
    """
    check_input("input", input, settings["mode"])
    check_beside("target", target, input)
    defined = partial(
        definition,
        target=target,
        mask=mask,
        weights=weights,
        dice_smooth=dice_smooth,
        reduction=reduction,
        settings=settings,
    )
    no_closed_form = _no_closed_form(target, settings)
    no_kernels = no_closed_form or _no_kernels(input, settings, backend)
    if backend == "triton" and no_kernels:
        raise RuntimeError(f"`backend` 'triton' cannot run: {no_kernels}; use 'auto' or 'eager'")
    plain = runs_eagerly() and not is_watched()
    if no_kernels and (no_closed_form or not (input.is_cpu and plain)):
        return defined(input)
    maps = read_maps(input, target, mask, settings)
    plan = make_plan(input.dim() - 2, settings, reduction, dice_smooth)
    # Torch takes a scalar of the CPU anywhere, a kernel only on its own device.
    near = [w.to(input.device, non_blocking=True) if isinstance(w, Tensor) else w for w in weights]
    if no_kernels:
        module: Any = outlier_region_cpu
    elif plain:
        module = kernels(plan)
    else:
        given = [w if isinstance(w, Tensor) else None for w in near]
        loss, terms, *_ = fused_loss(*maps, *plan, *given)
        return loss, terms.detach()
    loss, terms = ClosedForm.apply(input, maps, plan, near, module, defined)
    return loss, terms


class ClosedForm(torch.autograd.Function):
    """The loss, a scalar or a map, and its terms, by a module that knows the gradient too.

    Second derivatives are those of the definition.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        maps: Maps,
        plan: Plan,
        weights: Sequence[float | Tensor],
        module: Any,
        defined: Callable[[Tensor], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """Keep what the gradient needs."""
        loss, terms, ctx.kept = module.forward(maps, plan, weights)
        ctx.save_for_backward(*maps._replace(ignore_index=None))
        ctx.ignore_index, ctx.plan, ctx.module = maps.ignore_index, plan, module
        ctx.defined = defined
        ctx.mark_non_differentiable(terms)
        return loss, terms

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient by the logits alone."""
        maps = Maps(*ctx.saved_tensors)._replace(ignore_index=ctx.ignore_index)
        if torch.is_grad_enabled():  # somebody wants a second derivative
            loss, _ = ctx.defined(maps.logits)
            gradient = torch.autograd.grad(loss, maps.logits, grads[0], create_graph=True)[0]
        else:
            gradient = ctx.module.backward(grads[0], maps, ctx.plan, ctx.kept)
        return gradient, *[None] * 5


def definition(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weights: Sequence[float | Tensor],
    dice_smooth: float | None,
    reduction: str,
    settings: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Compute ``weighted_loss`` by torch's own operations and gradients, on any device."""
    maps = outlier_terms(input, target, mask=mask, **settings)
    ce = reduce(maps.cross_entropy, maps.scores.valid, reduction)
    term = reduce(maps.extra, maps.scores.valid, reduction)
    alpha, beta, gamma = (w.to(ce.dtype) if isinstance(w, Tensor) else w for w in weights)
    if dice_smooth is None:
        return alpha * ce + gamma * term, ce.new_empty((0,))
    dice = dice_of(maps.scores, maps.target, dice_smooth, False, reduction)
    loss = alpha * ce + beta * dice + gamma * term
    return loss, torch.stack([ce, dice, term]).detach()


def _no_closed_form(target: Tensor, settings: dict[str, Any]) -> str | None:
    """Say why torch's own gradients are needed, if they are."""
    if settings["mode"] == "multiclass":
        return "mode 'multiclass' has no closed form"
    if not settings["from_logits"]:
        return "probabilities have no closed form, only logits"
    others = (target, settings["pos_weight"], settings["class_weights"])
    if any(isinstance(other, Tensor) and other.requires_grad for other in others):
        return "it gives a gradient to `input` alone"
    if is_transformed():
        return "torch.func transforms the definition"
    return None


def _no_kernels(input: Tensor, settings: dict[str, Any], backend: str) -> str | None:
    """Say why the kernels cannot run, if they cannot."""
    if backend == "eager":
        return "it is not asked for"
    if input.dim() != 4:
        return f"its kernels are for two dimensions, got `input` of shape {tuple(input.shape)}"
    if input.dtype == torch.float64:
        return "its kernels compute in float32, got `input` of torch.float64"
    if not input.numel():
        return "`input` is empty"
    _, outer = check_windows(settings["inner"], settings["outer"], 2)
    if max(outer) > LARGEST_WINDOW:
        return f"its windows are at most {LARGEST_WINDOW} pixels wide, got `outer` {outer}"
    if settings["levels"] is not None and len(settings["levels"]) > MOST_LEVELS:
        return f"it has at most {MOST_LEVELS} levels, got {len(settings['levels'])}"
    interpreted = INTERPRETED and backend == "triton" and input.is_cpu
    if not (input.is_cuda or interpreted):
        return f"Triton does not serve the device {input.device}"
    if NO_TRITON:
        return NO_TRITON
    if interpreted or torch.version.hip:
        return None
    served = torch.cuda.get_device_capability(input.device) >= (8, 0)
    return None if served else "Triton needs a GPU of compute capability 8.0 or later"
