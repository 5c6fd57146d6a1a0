"""The fusion in an eager program: two passes over its maps, for less memory and time.

Of two maps x and y, :class:`MultiScaleFusion` computes ::

    m = p1 x + p2 y + p3        g = sigmoid(c + s)        out = m + g x + (1 - g) y

where c are the logits of m's channels and s those of its pixels. Written in plain operations, m and
g are whole maps that autograd keeps for backward. Here the first pass, :class:`Statistics`,
computes what the attentions need of m, and the second, :class:`Choice`, the output. Both read x and
y alone. Backward computes g a second time.

x and y have the same shape, dtype and memory format, contiguous or channels_last.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# How many values of a map a block has. On a CPU it fits the cache. Elsewhere each call costs more,
# and blocks only limit the memory.
CPU_BLOCK, OTHER_BLOCK = 2**18, 2**24


class Statistics(torch.autograd.Function):
    """Return x and y, their means over the pixels, and each pooled over its channels.

    Pooled over the channels are ``(N, 2, *spatial)``: the mean, and the value in that channel where
    ``p1 x + p2 y`` is largest.

    x and y are returned so that their gradients from :class:`Choice`, which nobody else holds,
    arrive in ``backward``. It adds to them in place, where autograd would need new memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, p1: Tensor, p2: Tensor) -> tuple[Tensor, ...]:
        channel = largest_channel((x * p1).addcmul_(y, p2))
        ctx.save_for_backward(channel)
        spatial = tuple(range(2, x.dim()))
        means = [maps.mean(spatial, True) for maps in (x, y)]
        pooled = [torch.cat([maps.mean(1, True), maps.gather(1, channel)], 1) for maps in (x, y)]
        return x, y, *means, *pooled

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (channel,) = ctx.saved_tensors
        for of_maps, of_mean, of_pooled in (grads[0::2], grads[1::2]):
            of_maps += of_mean / of_maps.shape[2:].numel()
            of_maps += of_pooled[:, :1] / of_maps.shape[1]
            of_maps.scatter_add_(1, channel, of_pooled[:, 1:])
        return *grads[:2], None, None


class Choice(torch.autograd.Function):
    """Return ``out`` of x, y, c, s, p1, p2 and p3. The last three are numbers, tensors of no axis.

    Temporary results are as large as a block of the maps.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        *maps, p1, p2, p3 = inputs
        result = torch.empty_like(maps[0])
        for x, y, c, s, out in blocks(*maps, result):
            torch.lerp(y, x, (c + s).sigmoid_(), out=out)
            out.addcmul_(x, p1).addcmul_(y, p2).add_(p3)
        return result

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        *maps, p1, p2, _ = ctx.saved_tensors
        wide = torch.promote_types(upstream.dtype, torch.float32)
        grads = [torch.empty_like(values) for values in maps[:2]]
        grads += [torch.zeros_like(values, dtype=wide) for values in maps[2:]]
        of_numbers = upstream.new_zeros(3, dtype=wide)
        # For second derivatives autograd follows these steps, so that none may use `out=`.
        for x, y, c, s, up, of_x, of_y, of_c, of_s in blocks(*maps, upstream, *grads):
            g = (c + s).sigmoid_()
            of_x.copy_(up).mul_(g + p1)
            of_y.copy_(up).mul_(1 + p2 - g)
            of_logits = (x - y).mul_(up)
            of_logits = torch.ops.aten.sigmoid_backward(of_logits, g)  # times g (1 - g)
            of_c += of_logits.sum_to_size(of_c.shape)
            of_s += of_logits.sum_to_size(of_s.shape)
            up, x, y = (values.reshape(-1) for values in (up, x, y))
            of_numbers += torch.stack([up.dot(x), up.dot(y), up.sum()])
        return *(grad.to(upstream.dtype) for grad in grads), *of_numbers.to(p1.dtype).unbind()


def largest_channel(maps: Tensor) -> Tensor:
    """Return in which channel each pixel is largest, ``(N, 1, *spatial)``."""
    if not maps.is_cpu or maps.stride(1) == 1:  # channels_last
        return maps.max(1, True).indices
    # A max pool takes less than a tenth of the time on a CPU. What it takes for channels, in
    # channels_last format, are the pixels, so that it compares many of them at once.
    rows = maps.flatten(2).unsqueeze(2).permute(0, 3, 1, 2)
    channel = F.max_pool2d(rows, (maps.shape[1], 1), return_indices=True)[1]
    return channel.reshape(maps.shape[0], 1, *maps.shape[2:])


def blocks(*maps: Tensor) -> Iterator[list[Tensor]]:
    """Cut all maps at the same places, into blocks that are contiguous in memory.

    A map is not cut along an axis of length 1: its values there go with every block.
    """
    size = CPU_BLOCK if maps[0].is_cpu else OTHER_BLOCK
    channels_last = maps[0].stride(1) == 1
    flat = [values.flatten(2).mT if channels_last else values.flatten(2) for values in maps]
    shape = flat[0].shape
    steps = [max(size // max(shape[axis + 1 :].numel(), 1), 1) for axis in range(3)]
    ranges = [range(0, length, step) for length, step in zip(shape, steps, strict=True)]
    for starts in product(*ranges):
        block = flat
        for axis, (start, step) in enumerate(zip(starts, steps, strict=True)):
            length = min(step, shape[axis] - start)
            block = [v if v.shape[axis] == 1 else v.narrow(axis, start, length) for v in block]
        yield block
