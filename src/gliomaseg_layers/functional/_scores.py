"""The input, target and mask of every loss, checked and in the one form the formulas read."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gliomaseg_layers._checks import (
    MODES,
    check_beside,
    check_bool,
    check_choice,
    check_image,
    check_int,
)
from gliomaseg_layers._reduction import keep

Shape = tuple[int, ...]


class Scores:
    """A network's output for every pixel, with its probabilities computed at most once.

    Attributes:
        input: the output as it came.
        values: logits or probabilities, as ``input`` holds them, in fp32 or fp64; 0 outside the
            image, and probabilities clamped to [0, 1].
        mode: "binary", "multilabel" or "multiclass".
        from_logits: whether ``values`` are logits.
        valid: None where the whole image is used, else True inside the image: ``(N, *spatial)``
            in multiclass mode, else ``(N, C, *spatial)`` or ``(N, 1, *spatial)``.
    """

    def __init__(self, input: Tensor, mode: str, from_logits: bool, valid: Tensor | None) -> None:
        self.input = input
        self.mode = mode
        self.from_logits = from_logits
        self.valid = valid
        wide = arithmetic_dtype(input)
        if from_logits:
            values = input.to(wide)
        else:
            values = input if input.dtype == wide else _Widen.apply(input, wide)
            # Resizing may leave probabilities a rounding error outside [0, 1]. Not by `clamp`:
            # whether that passes a gradient at 0 and 1 themselves depends on the version of torch.
            values = values.masked_fill(values < 0, 0.0).masked_fill(values > 1, 1.0)
        self.values: Tensor = keep(values, self.inside)
        self._log_probs: Tensor | None = None
        self._probs: Tensor | None = None
        self._foreground: tuple[Tensor, Tensor] | None = None

    @property
    def multiclass(self) -> bool:
        return self.mode == "multiclass"

    @property
    def inside(self) -> Tensor | None:
        """Return ``valid`` in a shape that broadcasts to ``values``."""
        if self.valid is None or not self.multiclass:
            return self.valid
        return self.valid.unsqueeze(1)

    def log_probs(self) -> Tensor:
        """Return log q_c of every class, for multiclass scores."""
        if self._log_probs is None:
            self._log_probs = (
                F.log_softmax(self.values, 1) if self.from_logits else clamped_log(self.values)
            )
        return self._log_probs

    def probs(self) -> Tensor:
        """Return q_c of every class, or q_1 of every channel; 0 outside the image."""
        if self._probs is None:
            probs = self.values
            if self.from_logits:
                probs = self.log_probs().exp() if self.multiclass else probs.sigmoid()
                probs = keep(probs, self.inside)
            self._probs = probs
        return self._probs

    def predicted(self, level: float = 0.5) -> Tensor:
        """Return the class predicted at a level: its index, or True where a channel is white.

        Decided on logits where there are logits, so that every dtype and mode agrees.
        """
        log_odds = math.log(level / (1 - level))
        if not self.multiclass:
            return self.values > (log_odds if self.from_logits else level)
        if self._foreground is None:
            # On a CPU torch's `argmax` over classes takes several times as long as its `max`.
            self._foreground = torch.max(self.values[:, 1:].detach(), 1)
        background, (top, best) = self.values[:, 0], self._foreground
        if self.from_logits:
            found = top > background + log_odds
        else:  # twice both sides, so that a level of a half rounds nothing
            found = top * (2 - 2 * level) > background * (2 * level)
        return (best + 1) * found


def read_scores(
    input: Tensor,
    mode: str,
    from_logits: bool,
    mask: Tensor | None,
    *,
    name: str = "input",
    mask_name: str = "mask",
) -> Scores:
    """Check a network's output and the mask of its image."""
    check_bool("from_logits", from_logits)
    check_input(name, input, mode)
    return Scores(input, mode, from_logits, arrange_mask(mask_name, mask, input, mode))


def read_labelled(
    input: Tensor,
    target: Tensor,
    mode: str,
    from_logits: bool,
    ignore_index: int | None,
    mask: Tensor | None,
) -> tuple[Scores, Tensor]:
    """Check a network's output with its target, and take what is ignored out of the image.

    Returns the scores, and the target: class indices ``(N, *spatial)``, or ``(N, C, *spatial)`` of
    the scores' dtype.
    """
    check_bool("from_logits", from_logits)
    check_input("input", input, mode)
    valid = arrange_mask("mask", mask, input, mode)
    target = arrange_target(input, target, mode, ignore_index)
    indices = mode == "multiclass" and target.dim() < input.dim()
    if indices and target.is_floating_point():
        target = target.round()  # a label of 1.9999 is 2
    if ignore_index is not None and can_hold(target.dtype, ignore_index):
        kept = target != ignore_index
        valid = kept if valid is None else valid & kept
    scores = Scores(input, mode, from_logits, valid)
    if indices:
        return scores, keep(target, scores.valid).long()
    return scores, keep(target, scores.inside).to(scores.values.dtype)


def arithmetic_dtype(input: Tensor) -> torch.dtype:
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def check_input(name: str, input: Tensor, mode: str) -> None:
    check_choice("mode", mode, MODES)
    check_image(name, input)
    channels = input.shape[1]
    if mode == "binary" and channels != 1:
        raise ValueError(f"`{name}` must have 1 channel in binary mode, got {channels}")
    if mode == "multiclass" and channels < 2:
        raise ValueError(
            f"`{name}` must have 2 or more channels in multiclass mode, got {channels}"
        )


def arrange_mask(name: str, mask: Tensor | None, input: Tensor, mode: str) -> Tensor | None:
    """Check the mask; return a view ``(N, *spatial)`` if multiclass, else ``(N, C or 1, ...)``."""
    if mask is None:
        return None
    check_beside(name, mask, input)
    if mask.dtype != torch.bool:
        raise TypeError(f"`{name}` must have dtype torch.bool, got {mask.dtype}")
    full, flat, one_channel = _shapes(input)
    multiclass = mode == "multiclass"
    check_shape(name, mask, [flat, one_channel] if multiclass else [flat, one_channel, full])
    if mask.dim() == len(flat):
        return mask if multiclass else mask.unsqueeze(1)
    return mask.squeeze(1) if multiclass else mask


def arrange_target(input: Tensor, target: Tensor, mode: str, ignore_index: int | None) -> Tensor:
    """Check the target; return a view ``(N, C, *spatial)``, or class indices ``(N, *spatial)``."""
    check_beside("target", target, input)
    if ignore_index is not None:
        check_int("ignore_index", ignore_index)
    if target.is_complex():
        raise TypeError(f"`target` must be bool, integer or floating, got {target.dtype}")
    full, flat, one_channel = _shapes(input)
    if mode != "multiclass":
        check_shape("target", target, [flat, one_channel] if mode == "binary" else [full])
        return target if target.dim() == len(full) else target.unsqueeze(1)
    if target.is_floating_point() and target.shape == full:
        if ignore_index is not None:
            raise ValueError(
                "`ignore_index` needs a target of class indices in multiclass mode, "
                f"got a floating target with ignore_index={ignore_index}; use `mask`"
            )
        return target
    if target.shape not in (flat, one_channel):
        raise ValueError(
            f"`target` must be class indices of shape {flat} or {one_channel}, "
            f"or floating of shape {full}, "
            f"got shape {tuple(target.shape)} of {target.dtype}"
        )
    return target.squeeze(1) if target.dim() == len(full) else target


def check_shape(name: str, tensor: Tensor, shapes: list[Shape]) -> None:
    if all(tensor.shape != shape for shape in shapes):
        expected = " or ".join(map(str, shapes))
        raise ValueError(f"`{name}` must have shape {expected}, got {tuple(tensor.shape)}")


def clamped_log(probs: Tensor) -> Tensor:
    """Return log q, at least -100 and finite with a finite gradient for every q in [0, 1].

    The gradient is 0 where the clamp acts, and below a million times the smallest normal number,
    where 1 / q, times the weights and the gradient that arrives, might overflow.
    """
    normal = probs >= 2**20 * torch.finfo(probs.dtype).tiny
    log = torch.where(normal, probs.where(normal, 1.0).log(), probs.detach().log())
    return log.clamp(min=-100.0)


class _Widen(torch.autograd.Function):
    """Cast probabilities for the arithmetic; their gradient comes back saturated, never infinite.

    The derivative 1 / q of a logarithm exceeds what fp16 can hold from q = 1.5e-5 down.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, dtype: torch.dtype) -> Tensor:
        return input.to(dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, torch.dtype], output: Tensor) -> None:
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        limit = torch.finfo(ctx.dtype).max
        return grad.clamp(-limit, limit).to(ctx.dtype), None


def _shapes(input: Tensor) -> tuple[Shape, Shape, Shape]:
    """Return ``(N, C, *spatial)``, ``(N, *spatial)`` and ``(N, 1, *spatial)``."""
    # Tuples, because torch 2.6 captures no torch.Size of symbols.
    batch, channels, *spatial = input.shape
    return (batch, channels, *spatial), (batch, *spatial), (batch, 1, *spatial)


def can_hold(dtype: torch.dtype, value: int) -> bool:
    """Tell whether a value exists in a dtype: comparing uint8 with -100 would find 156."""
    if dtype.is_floating_point or dtype == torch.bool:
        dtype = torch.int64
    return torch.iinfo(dtype).min <= value <= torch.iinfo(dtype).max
