"""A look at a batch's values, for faults that the losses could only see by waiting for them."""

import math

import torch
from torch import Tensor

from gliomaseg_layers.functional._cross_entropy import per_channel
from gliomaseg_layers.functional._scores import can_hold, read_labelled

TOLERANCE = 1e-2  # of what resizing, or rounding to bf16, does to numbers that were whole


def check_values(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    mode: str,
    from_logits: bool,
    ignore_index: int | None,
) -> None:
    """Raise ValueError for values, within the image, that would make a loss silently wrong."""
    scores, labels = read_labelled(input, target, mode, from_logits, ignore_index, mask)
    inside = torch.ones_like(input, dtype=torch.bool)
    if scores.inside is not None:
        inside = scores.inside.expand_as(inside)
    if not inside.any():
        return
    values = input.detach().to(scores.values.dtype)
    given = values[inside]
    if not given.isfinite().all():
        raise ValueError("`input` must be finite, got NaN or infinities")
    least, largest = given.min().item(), given.max().item()
    in_range = least >= -TOLERANCE and largest <= 1 + TOLERANCE
    if not (from_logits or in_range):
        raise ValueError(
            "`input` must hold probabilities, between 0 and 1, with from_logits=False, "
            f"got values from {least:g} to {largest:g}; are they logits?"
        )
    if scores.multiclass and in_range:
        sums = values.sum(1)[inside[:, 0]]
        are_probs = (sums - 1).abs().max().item() <= TOLERANCE
        if from_logits and are_probs:
            raise ValueError(
                "`input` must hold logits with from_logits=True, got values between 0 and 1 that "
                "add up to 1; are they probabilities?"
            )
        if not from_logits:
            _check_sums("input", "hold probabilities that ", sums)
    unheld = None
    if ignore_index is not None and not can_hold(target.dtype, ignore_index):
        unheld = f"{target.dtype} cannot hold ignore_index={ignore_index}"
    if scores.multiclass and not labels.is_floating_point():
        _check_classes(target, labels, inside[:, 0], input.shape[1], unheld)
    else:
        _check_parts(labels, inside, scores.multiclass, unheld)


def check_weights(input: Tensor, **weights: float | Tensor | None) -> None:
    """Raise ValueError for weights of channels that would make a loss silently wrong."""
    for name, weight in weights.items():
        if not isinstance(weight, Tensor):  # a number was checked where the loss was built
            continue
        given = per_channel(name, weight, input)
        least, largest = given.min().item(), given.max().item()
        if not 0 <= least <= largest < math.inf:  # nor NaN
            raise ValueError(
                f"`{name}` must be finite and >= 0, got values from {least:g} to {largest:g}"
            )


def _check_classes(
    target: Tensor, labels: Tensor, inside: Tensor, classes: int, unheld: str | None
) -> None:
    """Check class indices, of which ``labels`` are those of ``target`` in one form."""
    if target.is_floating_point():
        raw = target.reshape(labels.shape)[inside]
        if not (raw - raw.round()).abs().max().item() <= TOLERANCE:
            raise ValueError("`target` must hold whole class indices, got fractions or NaN")
    given = labels[inside]
    least, largest = given.min().item(), given.max().item()
    if least < 0 or largest >= classes:
        raise ValueError(
            f"`target` must hold class indices from 0 to {classes - 1}, "
            f"got {least} to {largest}; {unheld or 'is one of them `ignore_index`?'}"
        )


def _check_parts(labels: Tensor, inside: Tensor, multiclass: bool, unheld: str | None) -> None:
    """Check labels that are parts of pixels, 0 to 1."""
    given = labels[inside]
    least, largest = given.min().item(), given.max().item()
    if not (least >= -TOLERANCE and largest <= 1 + TOLERANCE):  # NaN is neither
        raise ValueError(
            f"`target` must lie between 0 and 1, got values from {least:g} to {largest:g}; "
            f"{unheld or 'of a mask of 0 and 255 write `mask > 0`'}"
        )
    if multiclass:
        _check_sums("target", "", labels.sum(1)[inside[:, 0]])


def _check_sums(name: str, probabilities: str, sums: Tensor) -> None:
    least, largest = sums.min().item(), sums.max().item()
    if least < 1 - TOLERANCE or largest > 1 + TOLERANCE:
        raise ValueError(
            f"`{name}` must {probabilities}add up to 1 over the classes, "
            f"got sums from {least:g} to {largest:g}"
        )
