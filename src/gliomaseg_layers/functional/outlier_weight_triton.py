"""The outlier weight on a GPU: the twin of ``counted_weight`` in ``outlier_weight.py``.

1. ``_pack_kernel`` reads the logits once and packs the colours of every level to bits: 32 pixels to
   a word, and a row between words of zeros. A mask is packed likewise.
2. ``_count_kernel`` walks down the image and keeps, for every level, the count of white pixels in
   every column's window: a row enters below and one leaves above, each by a population count of its
   bits.

The counts are exact, so the weight is that of the definition, bit for bit.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from math import log

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["launch"]

WORDS = 32  # that a program packs
COLUMNS = 128  # that it walks down at most
ROWS = 128  # and how far at most: before its first row it counts a whole window
PROGRAMS = 512  # that there should be, if that leaves it 8 rows: an H100 runs 132 and more at once


@triton.jit
def _popcount(bits, NATIVE: tl.constexpr):
    """Count the ones of words: by NVIDIA's instruction, or by halves, bytes and nibbles."""
    if NATIVE:  # pragma: no cover - an instruction of GPUs; a test finds it in the machine code
        count = tl.inline_asm_elementwise(
            "popc.b32 $0, $1;", "=r,r", [bits], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        bits = bits - ((bits >> 1) & 0x55555555)
        bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
        bits = (bits + (bits >> 4)) & 0x0F0F0F0F
        count = ((bits * 0x01010101) >> 24).to(tl.int32)
    return count


@triton.jit
def _pack_kernel(
    logits, valid, planes, channels, height, width, words, area, tiles,
    z_n, z_c, z_h, z_w, v_n, v_c, v_h, v_w,
    LOG_ODDS: tl.constexpr, LEVELS: tl.constexpr, MASKED: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    image = (tl.program_id(0) // tiles).to(tl.int64)
    batch, channel = image // channels, image % channels
    place = (tl.program_id(0) % tiles).to(tl.int64) * WORDS + tl.arange(0, WORDS)
    row = (place // words)[:, None]
    lanes = tl.arange(0, 32)[None, :]
    column = (place % words - 1)[:, None] * 32 + lanes
    inside = (row < height) & (column >= 0) & (column < width)
    if MASKED:
        at = batch * v_n + channel * v_c + row * v_h + column * v_w
        inside = inside & (tl.load(valid + at, mask=inside, other=0) != 0)
    at = batch * z_n + channel * z_c + row * z_h + column * z_w
    z = tl.load(logits + at, mask=inside, other=0.0).to(tl.float32)
    plane = planes + image * (LEVELS + MASKED) * area + place
    for level in tl.static_range(LEVELS):
        white = (z > LOG_ODDS[level]) & inside
        bits = tl.sum(white.to(tl.int32) << lanes, axis=1)
        tl.store(plane + level * area, bits, mask=place < area)
    if MASKED:
        bits = tl.sum(inside.to(tl.int32) << lanes, axis=1)
        tl.store(plane + LEVELS * area, bits, mask=place < area)


@triton.jit
def _row_count(plane, row, height, words, column, seen, RADIUS: tl.constexpr, NATIVE: tl.constexpr):
    """Count the ones of a row that the windows around some columns hold."""
    first = column - RADIUS + 32  # a row begins with a word of zeros
    at = plane + row.to(tl.int64) * words + (first >> 5)
    shift = (first & 31).to(tl.uint32)
    rows = row + tl.zeros_like(column)  # the interpreter takes no scalar for a mask
    seen = seen & (rows >= 0) & (rows < height)
    low = tl.load(at, mask=seen, other=0).to(tl.uint32, bitcast=True)
    middle = tl.load(at + 1, mask=seen, other=0).to(tl.uint32, bitcast=True)
    bits = (low >> shift) | ((middle << 1) << (31 - shift))
    if 2 * RADIUS + 1 < 32:
        count = _popcount(bits & ((1 << (2 * RADIUS + 1)) - 1), NATIVE)
    else:
        high = tl.load(at + 2, mask=seen, other=0).to(tl.uint32, bitcast=True)
        more = (middle >> shift) | ((high << 1) << (31 - shift))
        more = more & ((1 << (2 * RADIUS + 1 - 32)) - 1)
        count = _popcount(bits, NATIVE) + _popcount(more, NATIVE)
    return count


@triton.jit
def _move(
    counts, plane, area, row, height, words, column, seen,
    SIGN: tl.constexpr, RADIUS: tl.constexpr, NATIVE: tl.constexpr,
):  # fmt: skip
    """Let a row enter the windows around some columns, or leave them, in every plane."""
    moved = ()
    for i in tl.static_range(len(counts)):
        count = _row_count(plane, row, height, words, column, seen, RADIUS, NATIVE)
        moved += (counts[i] + SIGN * count,)  # type: ignore[assignment]
        plane = plane + area  # a product might not fit in 32 bits
    return moved


@triton.jit
def _bit(plane, row, words, column, seen):
    word = tl.load(plane + row.to(tl.int64) * words + (column >> 5) + 1, mask=seen, other=0)
    return ((word >> (column & 31)) & 1) != 0


@triton.jit
def _count_kernel(
    planes, weight, height, width, words, area, row_tiles, column_tiles, largest,
    LEVELS: tl.constexpr, MASKED: tl.constexpr,
    RADIUS_Y: tl.constexpr, RADIUS_X: tl.constexpr, NATIVE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    column = tile % column_tiles * COLUMNS + tl.arange(0, COLUMNS)
    first = tile // column_tiles % row_tiles * ROWS
    image = (tile // (column_tiles * row_tiles)).to(tl.int64)
    nought = tl.zeros_like(column)
    seen = column < width
    plane = planes + image * (LEVELS + MASKED) * area
    valid = planes + (image * (LEVELS + MASKED) + LEVELS) * area
    across = tl.minimum(column + RADIUS_X, width - 1) - tl.maximum(column - RADIUS_X, 0) + 1
    counts = ()  # of the ones in the window: white pixels at every level, then those of the image
    for _ in tl.static_range(LEVELS + MASKED):
        counts += (nought,)  # type: ignore[assignment]
    for step in range(-RADIUS_Y, RADIUS_Y):
        row = first + step
        counts = _move(counts, plane, area, row, height, words, column, seen, 1, RADIUS_X, NATIVE)
    for step in range(ROWS):
        row = first + step
        below, above = row + RADIUS_Y, row - RADIUS_Y
        counts = _move(counts, plane, area, below, height, words, column, seen, 1, RADIUS_X, NATIVE)
        here = seen & (row + nought < height)
        if MASKED:
            size = counts[LEVELS]
            inside = _bit(valid, row, words, column, here)
        else:
            size = across * (tl.minimum(below, height - 1) - tl.maximum(above, 0) + 1)
            inside = here
        # As the definition: integers over all levels, then one division, rounded correctly.
        others, level = nought, plane
        for i in tl.static_range(LEVELS):
            same = tl.where(_bit(level, row, words, column, here), counts[i], size - counts[i])
            flagged = inside & (same <= largest) & (2 * same <= size)
            others += tl.where(flagged, size - same, 0)
            level = level + area
        share = tl.math.div_rn(others.to(tl.float32), (LEVELS * tl.maximum(size, 1)).to(tl.float32))
        tl.store(weight + (image * height + row) * width + column, share, mask=here)
        counts = _move(
            counts, plane, area, above, height, words, column, seen, -1, RADIUS_X, NATIVE
        )


def launch(
    logits: Tensor,
    valid: Tensor | None,
    window: Sequence[int],
    max_noise_size: int,
    levels: Sequence[float],
) -> Tensor:
    """Return the outlier weight of logits ``(N, C, H, W)``, fp32.

    ``valid`` is boolean, ``(N, C or 1, H, W)``; at most 8 levels, windows of at most 63 pixels.
    """
    batch, channels, height, width = logits.shape
    images, masked = batch * channels, valid is not None
    mask = logits if valid is None else valid.expand(logits.shape).view(torch.uint8)
    words = triton.cdiv(width, 32) + 3
    area = height * words
    planes = torch.empty(
        (images, len(levels) + masked, area), dtype=torch.int32, device=logits.device
    )
    weight = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    tiles = triton.cdiv(area, WORDS)
    columns = min(max(triton.next_power_of_2(width), 32), COLUMNS)
    rows = max(triton.next_power_of_2(logits.numel() // (PROGRAMS * columns)), 8)
    rows = min(rows, ROWS, triton.next_power_of_2(height))
    row_tiles, column_tiles = triton.cdiv(height, rows), triton.cdiv(width, columns)
    # Triton launches on the current device.
    with torch.cuda.device(logits.device) if logits.is_cuda else nullcontext():
        _pack_kernel[(images * tiles,)](
            logits, mask, planes, channels, height, width, words, area, tiles,
            *logits.stride(), *mask.stride(),
            LOG_ODDS=tuple(log(level / (1 - level)) for level in levels),
            LEVELS=len(levels), MASKED=masked, WORDS=WORDS,
        )  # fmt: skip
        _count_kernel[(images * row_tiles * column_tiles,)](
            planes, weight, height, width, words, area, row_tiles, column_tiles, max_noise_size,
            LEVELS=len(levels), MASKED=masked,
            RADIUS_Y=window[0] // 2, RADIUS_X=window[1] // 2,
            NATIVE=logits.is_cuda and torch.version.hip is None,
            ROWS=rows, COLUMNS=columns,
        )  # fmt: skip
    return weight
