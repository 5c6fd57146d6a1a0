"""A fusion's two passes over its maps, in pieces that stay in the processor's cache.

``MultiScaleFusion.forward`` holds the definition. Here x and y are read once for the statistics
that the attention needs and once for the output; nothing of their size is kept but themselves, and
backward computes the gate anew. Each backward is made of differentiable steps, so that it has one
too. Both maps have one dtype and one dense memory format: ``flatten(2)`` is a view of them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def cut(maps: Sequence[Tensor], axis: int, step: int) -> Iterator[list[Tensor]]:
    """Cut all maps alike along an axis; those with a single entry there go with every piece."""
    length = maps[0].shape[axis]
    if 0 < length <= step:
        yield list(maps)
        return
    for start in range(0, length, step):
        yield [  # not by split, whose views a graph lets nobody write to
            values
            if values.shape[axis] == 1
            else values.narrow(axis, start, min(step, length - start))
            for values in maps
        ]


def piece_size(maps: Tensor) -> int:
    """Return how many numbers of a map to take at once."""
    # On a CPU, what keeps the arrays of a step near the processor. Elsewhere every launch costs,
    # and this only bounds the memory.
    return 2**18 if maps.is_cpu else 2**24


def images(maps: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut maps like ``(N, C, pixels)`` into images, or runs of small ones."""
    return cut(maps, 0, max(piece_size(maps[0]) // max(maps[0].shape[1:].numel(), 1), 1))


def pieces(maps: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut the images further, into pieces that each lie in one block of memory."""
    if not maps[0].numel():
        return
    _, channels, pixels = maps[0].shape
    size = piece_size(maps[0])
    if maps[0].stride(1) == 1:  # channels_last
        channel_step, pixel_step = channels, max(size // channels, 1)
    else:
        channel_step, pixel_step = max(size // pixels, 1), size
    for image in images(maps):
        for part in cut(image, 1, channel_step):
            yield from cut(part, 2, pixel_step)


def largest_channel(maps: Tensor) -> Tensor:
    """Return which channel of ``(N, C, pixels)`` is largest, as ``(N, 1, pixels)``."""
    if not maps.is_cpu:
        return maps.max(1, True).indices
    # A max pool over the rows of an image whose channels are our pixels finds the same in a fifth
    # of the time: it takes many pixels at once.
    rows = maps.contiguous().unsqueeze(2).permute(0, 3, 1, 2)
    indices = F.max_pool2d(rows, (maps.shape[1], 1), return_indices=True)[1]
    return indices.flatten(1).unsqueeze(1)


def as_lines(*maps: Tensor) -> list[Tensor]:
    """Return all numbers of each, in the order in which the last has them in memory."""
    turned = maps[-1].stride(1) == 1  # channels_last
    return [(values.mT if turned else values).reshape(-1) for values in maps]


def computed(operation: Callable[..., Tensor], *given: Tensor, out: Tensor) -> Tensor:
    """Compute into memory that is there, or where a graph has to see it into new memory."""
    return operation(*given) if torch.is_grad_enabled() else operation(*given, out=out)


def store(into: Tensor, operation: Callable[..., Tensor], *given: Tensor) -> None:
    """Write a result where it belongs, by way of a copy where a graph has to see it."""
    result = computed(operation, *given, out=into)
    if result is not into:
        into.copy_(result)


def by_logits(upstream: Tensor, gate: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return ``upstream * gate * (1 - gate)``."""
    room = {} if out is None else {"grad_input": out}
    slope: Tensor = torch.ops.aten.sigmoid_backward(upstream, gate, **room)
    return slope


class Scratch:
    """Memory for what is computed of a piece, the same for all pieces: it stays in the cache."""

    def __init__(self) -> None:
        self.held: dict[tuple[object, ...], Tensor] = {}

    def like(self, name: str, piece: Tensor) -> Tensor:
        """Return memory of a name for numbers like these."""
        key = name, piece.shape, piece.stride()
        if key not in self.held:
            self.held[key] = torch.empty_like(piece)
        return self.held[key]


class Statistics(torch.autograd.Function):
    """Return x and y, their means over the pixels, and two planes of each.

    The planes are the mean over the channels, and the value in that channel where
    ``shallow_weight * x + deep_weight * y`` is largest. x and y are passed on so that backward
    receives their other gradients and can add to them in place.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, shallow_weight: Tensor, deep_weight: Tensor
    ) -> tuple[Tensor, ...]:
        maps = [x.flatten(2), y.flatten(2)]
        count, channels, pixels = maps[0].shape
        means = [x.new_empty((count, channels, 1)) for _ in maps]
        planes = [x.new_empty((count, 2, pixels)) for _ in maps]
        index, scratch = x.new_empty((count, 1, pixels), dtype=torch.long), Scratch()
        for a, b, largest, *rest in images([*maps, index, *means, *planes]):
            merged = torch.mul(a, shallow_weight, out=scratch.like("merged", a))
            merged.addcmul_(b, deep_weight)
            largest.copy_(largest_channel(merged))
            for part, mean, plane in zip((a, b), rest[:2], rest[2:], strict=True):
                mean.copy_(part.mean(2, True))
                plane[:, :1] = part.mean(1, True)
                plane[:, 1:] = part.gather(1, largest)
        ctx.save_for_backward(index)
        needed = zip((x, y), ctx.needs_input_grad, strict=False)
        ctx.mark_non_differentiable(*(values for values, needs in needed if not needs))
        grid = x.shape[2:]
        return (
            x,
            y,
            *(mean.view(count, channels, *(1 for _ in grid)) for mean in means),
            *(plane.view(count, 2, *grid) for plane in planes),
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        found: list[Tensor | None] = [None] * 4
        for which in (0, 1):
            if not ctx.needs_input_grad[which]:
                continue
            grad, mean, plane = grads[which::2]
            # `Choice` made it, and we alone have it: what we add needs no map of its own.
            found[which] = grad
            maps, mean, plane = grad.flatten(2), mean.flatten(2), plane.flatten(2)
            _, channels, pixels = maps.shape
            for part, of_mean, of_average in pieces([maps, mean / pixels, plane[:, :1] / channels]):
                part.add_(of_mean).add_(of_average)
            maps.scatter_add_(1, index, plane[:, 1:])
        return tuple(found)


class Choice(torch.autograd.Function):
    """Return ``m + g x + (1 - g) y`` of ``m = p1 x + p2 y + p3`` and ``g = sigmoid(c + s)``.

    c are the logits of the channels, s those of the pixels, and p1, p2, p3 numbers.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        p1, p2, p3 = inputs[4:]
        out, scratch = torch.empty_like(inputs[0]), Scratch()
        for x, y, c, s, chosen in pieces([values.flatten(2) for values in (*inputs[:4], out)]):
            gate = torch.add(c, s, out=scratch.like("gate", x)).sigmoid_()
            torch.lerp(y, x, gate, out=chosen).addcmul_(x, p1).addcmul_(y, p2).add_(p3)
        return out

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        inputs, needed = ctx.saved_tensors, ctx.needs_input_grad
        p1, p2, _ = inputs[4:]
        both, scratch = p1 + p2 + 1, Scratch()
        wide = torch.promote_types(upstream.dtype, torch.float32)
        grads = [
            torch.empty_like(values) if needs else values.new_empty((1,) * values.dim())
            for values, needs in zip(inputs[:2], needed, strict=False)
        ]
        grads += [torch.zeros_like(values, dtype=wide) for values in inputs[2:4]]
        sums = [upstream.new_zeros(3, dtype=wide)]
        for x, y, c, s, up, of_x, of_y, of_c, of_s in pieces(
            [values.flatten(2) for values in (*inputs[:4], upstream, *grads)]
        ):
            gate = computed(torch.add, c, s, out=scratch.like("gate", x)).sigmoid_()
            of_logits = computed(torch.sub, x, y, out=scratch.like("logits", x))
            of_logits.mul_(computed(by_logits, up, gate, out=scratch.like("slope", x)))
            of_c += of_logits.sum(2, True, dtype=wide)
            of_s += of_logits.sum(1, True, dtype=wide)
            gate = computed(torch.add, gate, p1, out=gate)
            if needed[0]:
                store(of_x, torch.mul, up, gate)
            if needed[1]:
                store(of_y, torch.mul, up, computed(torch.sub, both, gate, out=gate))
            if any(needed[4:]):
                line, *lines = as_lines(up, x, y)
                dots = [line.dot(other) for other in lines]
                sums.append(
                    torch.stack([*(value.to(wide) for value in dots), line.sum(dtype=wide)])
                )
        of_numbers = torch.stack(sums).sum(0)
        found = [*(g.to(upstream.dtype) for g in grads), *of_numbers.to(p1.dtype).unbind()]
        return tuple(g if needs else None for g, needs in zip(found, needed, strict=True))
