"""Sums over a window around every pixel, clipped at the image border."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gliomaseg_layers._capture import is_traced, is_transformed
from gliomaseg_layers._checks import check_image, check_window

__all__ = ["axis_count", "box_count", "box_sum", "image_count", "narrowest_integer", "sign_sum"]


def box_sum(input: Tensor, window: int | Sequence[int]) -> Tensor:
    r"""Sum the values in a window centred on each pixel.

    .. math:: y(p) = \sum_{r \in N(p)} x(r)

    where :math:`N(p)` is the window around :math:`p`, clipped at the image border (which equals
    padding with zeros). The operation is linear and self-adjoint,
    :math:`\langle Bx, y \rangle = \langle x, By \rangle`, so its gradient, and the gradient of
    that, are box sums too. Its cost per pixel grows with the logarithm of the window: every axis
    is summed by adding runs whose length doubles, which also keeps the rounding error of the
    fp32 result within :math:`10^{-6}` of the window's volume for values in [-1, 1].

    Args:
        input: ``(N, C, *spatial)`` with two or three spatial axes, floating or integer. fp16 and
            bf16 are summed in fp32; integers wrap around where their type overflows.
        window: side of the window in pixels, odd; one int, or one for each spatial axis.

    Returns:
        The sums, with the shape and dtype of ``input``.

    Raises:
        TypeError: ``input`` is boolean or complex, or ``window`` is not made of ints.
        ValueError: ``input`` has another number of axes, or ``window`` is even, not positive, or
            does not fit the number of spatial axes.

    Source: CountWhite and CountGapWhite of [WAN23], eq. 4-5, are differences of such sums.

    Example:
        >>> import torch
        >>> box_sum(torch.ones(1, 1, 3, 4), 3)[0, 0]
        tensor([[4., 6., 6., 4.],
                [6., 9., 9., 6.],
                [4., 6., 6., 4.]])
    """
    check_image("input", input, integers=True)
    window = check_window("window", window, input.dim() - 2)
    wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    # The node has no rule for forward-mode derivatives: torch.compile refuses nodes with one.
    sums = _window_sums if is_transformed() else _BoxSum.apply
    summed: Tensor = sums(wide, window)
    return summed.to(input.dtype)


def box_count(
    spatial: Sequence[int],
    window: int | Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Count the pixels of the image that the window around each pixel holds.

    Equals ``box_sum`` of ones, but is the outer product of one count per axis,
    :math:`\min(p + r, n - 1) - \max(p - r, 0) + 1` for a window of side :math:`2 r + 1` and an
    axis of :math:`n` pixels, so that no box sum runs.

    Args:
        spatial: size of the image, ``(H, W)`` or ``(D, H, W)``.
        window: side of the window in pixels, odd; one int, or one for each spatial axis.
        dtype: dtype of the result.
        device: device of the result.

    Returns:
        The counts, ``(1, 1, *spatial)``.

    Raises:
        TypeError: ``spatial`` or ``window`` is not made of ints.
        ValueError: ``spatial`` has not two or three entries, or ``window`` is even, not positive
            or of another length.

    Source: :math:`|N_k(p)|` of [WAN23], eq. 4-7.

    Example:
        >>> box_count((1, 5), (1, 3))
        tensor([[[[2., 3., 3., 3., 2.]]]])
    """
    if not (
        isinstance(spatial, Sequence)
        and all(
            isinstance(size, (Integral, torch.SymInt)) or (isinstance(size, Tensor) and is_traced())
            for size in spatial
        )
    ):
        raise TypeError(f"`spatial` must be a sequence of ints, got {spatial!r}")
    if len(spatial) not in (2, 3):
        raise ValueError(f"`spatial` must have 2 or 3 entries, got {tuple(spatial)}")
    window = check_window("window", window, len(spatial))
    count = torch.ones((1, 1) + (1,) * len(spatial), dtype=dtype, device=device)
    for axis, (size, side) in enumerate(zip(spatial, window, strict=True)):
        inside = axis_count(size, side, device).to(dtype)
        count = count * inside.view([-1] + [1] * (len(spatial) - 1 - axis))
    return count


def image_count(
    inside: Tensor | None, like: Tensor, window: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """Count the pixels of the image in every window, over the grid of ``like``.

    ``inside`` is True for pixels of the image, None where all are. The counts broadcast to the
    maps: ``(N or 1, C or 1, *spatial)``.
    """
    if inside is None:
        return box_count(like.shape[2:], window, dtype=dtype, device=like.device)
    return sign_sum(inside.to(torch.int8), window).to(dtype)


def axis_count(size: int, side: int, device: torch.device | str | None = None) -> Tensor:
    """Count the pixels in the window around each pixel of one axis."""
    place = torch.arange(size, device=device)
    return (place + side // 2).clamp(max=size - 1) - (place - side // 2).clamp(min=0) + 1


class _BoxSum(torch.autograd.Function):
    """The box sum over the last axes as one node of the graph, whose derivative is itself."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, window: tuple[int, ...]) -> Tensor:
        ctx.window = window
        return _window_sums(input, window)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _BoxSum.apply(grad, ctx.window), None


def sign_sum(signs: Tensor, window: tuple[int, ...]) -> Tensor:
    """Sum values of -1, 0 and 1 over a window, in the narrowest integers that hold the sums.

    Sums of integers are exact, and several times cheaper to add than floats. Every axis widens
    the integers no more than it has to.
    """
    volume = 1
    for axis, side in enumerate(window, start=signs.dim() - len(window)):
        volume *= side
        signs = _sum_line(signs.to(narrowest_integer(volume)), axis, side)
    return signs


def narrowest_integer(largest: int) -> torch.dtype:
    """Return the smallest signed integer dtype that holds a number and its negative."""
    for dtype in (torch.int8, torch.int16, torch.int32):
        if largest <= torch.iinfo(dtype).max:
            return dtype
    return torch.int64


def _window_sums(input: Tensor, window: tuple[int, ...]) -> Tensor:
    for axis, side in enumerate(window, start=input.dim() - len(window)):
        input = _sum_line(input, axis, side)
    return input


def _sum_line(input: Tensor, axis: int, side: int) -> Tensor:
    """Sum ``side`` neighbours along one axis from runs of 1, 2, 4, ... of them."""
    size = input.shape[axis]
    radius = side // 2
    if not torch.compiler.is_compiling():  # which would compile every size below the window anew
        radius = max(min(radius, size - 1), 0)  # farther neighbours lie outside the image
        if not (radius and input.numel()):  # nothing to add; and torch 2.6 pads nothing empty
            return input.clone()
    side = 2 * radius + 1
    margins = [0, 0] * (input.dim() - 1 - axis) + [radius, radius]
    runs = F.pad(input, margins)  # runs[p] = sum of `length` entries from p on
    total, taken, length = runs.narrow(axis, 0, size).clone(), 1, 1
    spare = torch.empty_like(runs)
    while taken < side:
        kept = runs.shape[axis] - length
        longer = _add(
            runs.narrow(axis, 0, kept),
            runs.narrow(axis, length, kept),
            spare.narrow(axis, 0, kept),
        )
        runs, spare, length = longer, runs, 2 * length
        if side & length:
            total = _add(total, runs.narrow(axis, taken, size), total)
            taken += length
    return total


def _add(first: Tensor, second: Tensor, out: Tensor) -> Tensor:
    """Add into memory that is there: for large images, allocating costs more than adding."""
    # A compiler plans memory itself, and refuses strided `out`. With torch 2.11, compiled gradients
    # are 0 where a node of the graph adds in place. A transform refuses any `out`.
    if torch.compiler.is_compiling() or is_transformed():
        return first + second
    return torch.add(first, second, out=out)
