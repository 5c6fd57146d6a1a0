"""The loss on a GPU as one registered operator, for programs that are captured.

Registered without Triton, so that an exported program loads anywhere; the body imports the kernels.
"""

import importlib
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gliomaseg_layers.functional._plan import Maps, Plan

MAPS = "Tensor input, Tensor target, Tensor? mask, int? ignore_index, Tensor? pos_weight, "
MAPS += "Tensor? class_weights"
PLAN = "str formulation, int[] inner, int[] outer, float smooth, float threshold, float strength, "
PLAN += "float[] levels, float share, str reduction, float? dice_smooth"
WEIGHTS = "Tensor? alpha, Tensor? beta, Tensor? gamma"
KEPT = "Tensor planes, Tensor slopes, Tensor scales"


@torch.library.custom_op(
    "gliomaseg_layers::outlier_region_loss",
    mutates_args=(),
    schema=f"({MAPS}, {PLAN}, {WEIGHTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def fused_loss(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the loss, its terms, and the three tensors that its gradient needs."""
    maps, plan = _read(args)
    weights = (1.0, 0.0, 1.0) if args[-1] is None else args[-3:]
    loss, terms, kept = kernels(plan).forward(maps, plan, weights)
    return loss, terms, *kept


@fused_loss.register_fake
def _(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    maps, plan = _read(args)
    logits = maps.logits
    batch, channels, height, width = logits.shape
    images = batch * channels
    planes: tuple[int, ...] = (2, images, height, width)
    if plan.formulation != "paper":
        masked = maps.mask is not None or maps.ignore_index is not None
        planes = (images, len(plan.levels) + masked, height, (width + 31) // 32 + 3)
    new = partial(logits.new_empty, dtype=torch.float32)
    return (
        new(logits.shape if plan.reduction == "none" else ()),
        new(3),
        new(planes) if plan.formulation == "paper" else new(planes, dtype=torch.int32),
        new((3, images)),
        new(3),
    )


@torch.library.custom_op(
    "gliomaseg_layers::outlier_region_loss_backward",
    mutates_args=(),
    schema=f"(Tensor grad, {KEPT}, {MAPS}, {PLAN}) -> Tensor",
)
def fused_backward(grad: Tensor, *args: Any) -> Tensor:
    """Return the gradient of the loss by the logits."""
    maps, plan = _read(args[3:])
    gradient: Tensor = kernels(plan).backward(grad, maps, plan, args[:3])
    return gradient


@fused_backward.register_fake
def _(grad: Tensor, *args: Any) -> Tensor:
    return torch.empty_like(args[3])


def kernels(plan: Plan) -> Any:
    """Return the module whose kernels compute a formulation."""
    name = "outlier_region_paper_triton" if plan.formulation == "paper" else "outlier_region_triton"
    return importlib.import_module(f"gliomaseg_layers.functional.{name}")


def _read(args: tuple[Any, ...]) -> tuple[Maps, Plan]:
    count = len(Maps._fields)
    formulation, inner, outer, *rest = args[count : count + len(Plan._fields)]
    return Maps(*args[:count]), Plan(formulation, tuple(inner), tuple(outer), *rest)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    maps, ctx.plan = _read(inputs)
    ctx.ignore_index = maps.ignore_index
    ctx.save_for_backward(*maps._replace(ignore_index=None), *output[2:])


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    *maps, planes, slopes, scales = ctx.saved_tensors
    maps[Maps._fields.index("ignore_index")] = ctx.ignore_index
    gradient = fused_backward(grad, planes, slopes, scales, *maps, *ctx.plan)
    return gradient, *[None] * (len(Maps._fields) + len(Plan._fields) + 2)


fused_loss.register_autograd(_backward, setup_context=_keep)
