"""The loss on a GPU: Triton kernels for "balanced", "suppress" and "penalty" in two dimensions.

``_outlier_terms.py`` holds the definition. Logits and target are read as they are, once forward and
once backward; what is kept between is a bit per pixel and level.

1. ``_pack_kernel`` reads the maps, sums cross-entropy and Dice, and packs the predicted colours, 32
   pixels to a word, between words of zeros.
2. ``_walk_kernel`` walks down the image with the count of every column's window: a row's part of it
   is a population count. Forward it reads the maps only where a pixel is flagged, and sums the
   term; backward it reads them all and writes the gradient (or the map, with reduction "none").
3. ``_finish_kernel`` makes the loss and the slopes of the sums, in one program.

Every sum is added in one order: results are equal from run to run.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from gliomaseg_layers.functional._kernels import (
    arguments,
    channel_weight,
    columns_of,
    cross_entropy,
    finish,
    on_device_of_maps,
    read,
    sigmoid,
    slope,
    softplus,
    strides,
)
from gliomaseg_layers.functional._plan import Maps, Plan

__all__ = ["backward", "forward"]

# What `_walk_kernel` makes: sums over the flagged pixels, the gradient, or the map of the loss.
SUMS, GRADIENT, MAP = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
WORDS = 64  # that a program packs
ROWS = 32  # that a program walks down


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
    logits, target, mask, pos_weight, class_weights, planes, sums,
    channels, height, width, words, tiles,
    z_n, z_c, z_h, z_w, y_n, y_c, y_h, y_w, m_n, m_c, m_h, m_w, ignore,
    LOG_ODDS: tl.constexpr, LEVELS: tl.constexpr, DICE: tl.constexpr,
    HAS_MASK: tl.constexpr, HAS_IGNORE: tl.constexpr,
    POS: tl.constexpr, POS_COMMON: tl.constexpr, CLASS: tl.constexpr, CLASS_COMMON: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    image = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    batch, channel = image // channels, image % channels
    place = tile * BLOCK + tl.arange(0, BLOCK)
    row = (place // words).to(tl.int64)[:, None]
    lanes = tl.arange(0, 32)[None, :]
    column = ((place % words - 1)[:, None] * 32 + lanes).to(tl.int64)
    inside = (row < height) & (column >= 0) & (column < width)
    z, y, valid = read(
        logits + batch * z_n + channel * z_c,
        target + batch * y_n + channel * y_c,
        mask + batch * m_n + channel * m_c,
        row * z_h + column * z_w,
        row * y_h + column * y_w,
        row * m_h + column * m_w,
        inside, ignore, HAS_MASK, HAS_IGNORE,
    )  # fmt: skip
    plane_count: tl.constexpr = LEVELS + (HAS_MASK or HAS_IGNORE)
    plane = planes + image * plane_count * height * words + place
    for level in tl.static_range(LEVELS):
        white = (z > LOG_ODDS[level]) & valid
        bits = tl.sum(white.to(tl.int32) << lanes, axis=1)
        tl.store(plane + level * height * words, bits, mask=place < height * words)
    if HAS_MASK or HAS_IGNORE:
        bits = tl.sum(valid.to(tl.int32) << lanes, axis=1)
        tl.store(plane + LEVELS * height * words, bits, mask=place < height * words)
    at = sums + image * tiles + tile
    step = (tl.num_programs(0)).to(tl.int64)
    cost = cross_entropy(z, y, channel_weight(pos_weight, channel, POS, POS_COMMON))
    cost *= channel_weight(class_weights, channel, CLASS, CLASS_COMMON)
    tl.store(at, tl.sum(tl.where(valid, cost, 0.0)))
    tl.store(at + step, tl.sum(valid.to(tl.float32)))
    if DICE:
        q = tl.where(valid, sigmoid(z), 0.0)
        tl.store(at + 2 * step, tl.sum(q))
        tl.store(at + 3 * step, tl.sum(q * y))
        tl.store(at + 4 * step, tl.sum(y))


@triton.jit
def _row_count(
    plane, row, height, words, column, inside, RADIUS: tl.constexpr, NATIVE: tl.constexpr
):  # fmt: skip
    """Count the ones of a row that the windows around some columns hold."""
    first = column - RADIUS + 32  # a row begins with a word of zeros
    at = plane + row * words + (first >> 5)
    shift = (first & 31).to(tl.uint32)
    rows = row + tl.zeros_like(column)  # the interpreter takes no scalar for a mask
    inside = inside & (rows >= 0) & (rows < height)
    low = tl.load(at, mask=inside, other=0).to(tl.uint32, bitcast=True)
    middle = tl.load(at + 1, mask=inside, other=0).to(tl.uint32, bitcast=True)
    bits = (low >> shift) | ((middle << 1) << (31 - shift))
    if 2 * RADIUS + 1 < 32:
        count = _popcount(bits & ((1 << (2 * RADIUS + 1)) - 1), NATIVE)
    else:
        high = tl.load(at + 2, mask=inside, other=0).to(tl.uint32, bitcast=True)
        more = (middle >> shift) | ((high << 1) << (31 - shift))
        more = more & ((1 << (2 * RADIUS + 1 - 32)) - 1)
        count = _popcount(bits, NATIVE) + _popcount(more, NATIVE)
    return count


@triton.jit
def _bit(plane, row, words, column, inside):
    word = tl.load(plane + row * words + (column >> 5) + 1, mask=inside, other=0)
    return ((word >> (column & 31)) & 1) != 0


@triton.jit
def _walk_kernel(
    logits, target, mask, pos_weight, class_weights, planes, out, slopes, scales, grad,
    channels, height, width, words, row_tiles, column_tiles, images, largest,
    z_n, z_c, z_h, z_w, y_n, y_c, y_h, y_w, m_n, m_c, m_h, m_w, ignore,
    o_n, o_c, o_h, o_w, g_n, g_c, g_h, g_w,
    STAGE: tl.constexpr, PENALTY: tl.constexpr, DICE: tl.constexpr, GRAD_IS_MAP: tl.constexpr,
    LEVELS: tl.constexpr, LEVELS_BLOCK: tl.constexpr,
    RADIUS_Y: tl.constexpr, RADIUS_X: tl.constexpr, NATIVE: tl.constexpr,
    HAS_MASK: tl.constexpr, HAS_IGNORE: tl.constexpr,
    POS: tl.constexpr, POS_COMMON: tl.constexpr, CLASS: tl.constexpr, CLASS_COMMON: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column_tile = tl.program_id(0) % column_tiles
    row_tile = tl.program_id(0) // column_tiles % row_tiles
    image = (tl.program_id(0) // (column_tiles * row_tiles)).to(tl.int64)
    batch, channel = image // channels, image % channels
    column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    level = tl.arange(0, LEVELS_BLOCK)[:, None]
    inside = (column < width)[None, :] & (level < LEVELS)
    plane_count: tl.constexpr = LEVELS + (HAS_MASK or HAS_IGNORE)
    plane = planes + (image * plane_count + level) * height * words
    valid_plane = planes + (image * plane_count + LEVELS) * height * words
    logits += batch * z_n + channel * z_c
    target += batch * y_n + channel * y_c
    mask += batch * m_n + channel * m_c
    if STAGE != SUMS:
        out += batch * o_n + channel * o_c
        grad += batch * g_n + channel * g_c
    positive = channel_weight(pos_weight, channel, POS, POS_COMMON)
    weighed = channel_weight(class_weights, channel, CLASS, CLASS_COMMON)

    across = tl.minimum(column + RADIUS_X, width - 1) - tl.maximum(column - RADIUS_X, 0) + 1
    columns, on_map = column[None, :], (column < width)[None, :]
    count = tl.zeros([LEVELS_BLOCK, COLUMNS], tl.int32)
    pixels = tl.zeros([1, COLUMNS], tl.int32)
    term = tl.zeros([COLUMNS], tl.float32)
    weight = tl.zeros([COLUMNS], tl.float32)
    first = row_tile * ROWS
    for step in range(-RADIUS_Y, RADIUS_Y):
        row = first + step
        count += _row_count(plane, row, height, words, columns, inside, RADIUS_X, NATIVE)
        if HAS_MASK or HAS_IGNORE:
            pixels += _row_count(valid_plane, row, height, words, columns, on_map, RADIUS_X, NATIVE)
    for step in range(tl.minimum(ROWS, height - first)):
        row = first + step
        count += _row_count(plane, row + RADIUS_Y, height, words, columns, inside, RADIUS_X, NATIVE)
        flagged = inside
        if HAS_MASK or HAS_IGNORE:
            below = row + RADIUS_Y
            pixels += _row_count(
                valid_plane, below, height, words, columns, on_map, RADIUS_X, NATIVE
            )
            flagged = flagged & _bit(valid_plane, row, words, columns, on_map)
        else:
            down = tl.minimum(row + RADIUS_Y, height - 1) - tl.maximum(row - RADIUS_Y, 0) + 1
            pixels = (across * down)[None, :]
        white = _bit(plane, row, words, columns, inside)
        same = tl.where(white, count, pixels - count)
        flagged = flagged & (same <= largest) & (2 * same <= pixels)
        share = same.to(tl.float32) / tl.maximum(pixels, 1).to(tl.float32)
        w = tl.where(flagged, 1.0 - share, 0.0) / LEVELS
        seen = column < width
        if STAGE == SUMS:
            seen = seen & (tl.max(flagged.to(tl.int32), 0) != 0)
        tall, broad = row.to(tl.int64), column.to(tl.int64)
        z, y, valid = read(
            logits, target, mask,
            tall * z_h + broad * z_w, tall * y_h + broad * y_w, tall * m_h + broad * m_w,
            seen, ignore, HAS_MASK, HAS_IGNORE,
        )  # fmt: skip
        towards = tl.where(white, z[None, :], -z[None, :])  # the colour that a pixel has
        if STAGE == GRADIENT:
            by_logit = slope(z, y, positive) * weighed
            if PENALTY:
                signed = sigmoid(towards)
                by_term = tl.sum(w * tl.where(white, signed, -signed), 0)
            else:
                by_term = tl.sum(w, 0) * by_logit
            by_logit = by_logit * tl.load(scales)
            by_logit += by_term * tl.load(slopes + image) * tl.load(scales + 1)
            if DICE:
                q = sigmoid(z)
                by_probs = tl.load(slopes + images + image)
                by_overlap = tl.load(slopes + 2 * images + image)
                by_logit += q * (1.0 - q) * (by_probs + by_overlap * y) * tl.load(scales + 2)
            if GRAD_IS_MAP:
                by_logit *= tl.load(grad + tall * g_h + broad * g_w, mask=seen, other=0.0)
            else:
                by_logit *= tl.load(grad)
            tl.store(out + tall * o_h + broad * o_w, tl.where(valid, by_logit, 0.0), mask=seen)
        else:
            cost = cross_entropy(z, y, positive) * weighed
            if PENALTY:
                of_term = tl.sum(w * softplus(towards), 0)
            else:
                of_term = tl.sum(w, 0) * cost
            if STAGE == SUMS:
                term += of_term
                weight += tl.sum(w, 0)
            else:
                cost += of_term * tl.load(slopes + image)
                tl.store(out + tall * o_h + broad * o_w, tl.where(valid, cost, 0.0), mask=seen)
        above = row - RADIUS_Y
        count -= _row_count(plane, above, height, words, columns, inside, RADIUS_X, NATIVE)
        if HAS_MASK or HAS_IGNORE:
            pixels -= _row_count(
                valid_plane, above, height, words, columns, on_map, RADIUS_X, NATIVE
            )
    if STAGE == SUMS:
        tl.store(out + tl.program_id(0), tl.sum(term))
        tl.store(out + tl.num_programs(0).to(tl.int64) + tl.program_id(0), tl.sum(weight))


@on_device_of_maps
def forward(
    maps: Maps, plan: Plan, weights: Sequence[float | Tensor]
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Return the loss, a scalar or a map, with its terms, and what backward needs."""
    logits, given = maps.logits, arguments(maps)
    batch, channels, height, width = logits.shape
    images, levels = batch * channels, len(plan.levels)
    words = triton.cdiv(width, 32) + 3  # one of zeros before every row, two after it
    tiles = triton.cdiv(height * words, WORDS)
    masked = given["HAS_MASK"] or given["HAS_IGNORE"]
    new = partial(torch.empty, dtype=torch.float32, device=logits.device)
    planes = torch.empty(
        (images, levels + masked, height, words), dtype=torch.int32, device=logits.device
    )
    packed = new((5, images, tiles))
    _pack_kernel[(images * tiles,)](
        planes=planes,
        sums=packed,
        words=words,
        tiles=tiles,
        LOG_ODDS=plan.log_odds,
        LEVELS=levels,
        DICE=plan.dice_smooth is not None,
        BLOCK=WORDS,
        **given,
    )
    walked = new((2, images, math.prod(_tiles(logits))))
    _walk(SUMS, maps, plan, planes, walked)
    loss, terms, slopes, scales = finish(packed, walked, plan, weights)
    if plan.reduction == "none":
        loss = new(logits.shape)
        _walk(MAP, maps, plan, planes, loss, slopes)
    return loss, terms, (planes, slopes, scales)


@on_device_of_maps
def backward(grad: Tensor, maps: Maps, plan: Plan, kept: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the gradient of the loss by the logits."""
    planes, slopes, scales = kept
    out = torch.empty_like(maps.logits)
    _walk(GRADIENT, maps, plan, planes, out, slopes, scales, grad)
    return out


def _walk(
    stage: tl.constexpr,
    maps: Maps,
    plan: Plan,
    planes: Tensor,
    out: Tensor,
    slopes: Tensor | None = None,
    scales: Tensor | None = None,
    grad: Tensor | None = None,
) -> None:
    row_tiles, column_tiles = _tiles(maps.logits)
    levels = len(plan.levels)
    upstream = out if grad is None else grad
    _walk_kernel[(planes.shape[0] * row_tiles * column_tiles,)](
        planes=planes,
        out=out,
        slopes=planes if slopes is None else slopes,
        scales=planes if scales is None else scales,
        grad=upstream,
        words=planes.shape[3],
        row_tiles=row_tiles,
        column_tiles=column_tiles,
        images=planes.shape[0],
        largest=plan.largest_count,
        **strides("o", out),
        **strides("g", upstream),
        STAGE=stage,
        PENALTY=plan.formulation == "penalty",
        DICE=plan.dice_smooth is not None,
        GRAD_IS_MAP=upstream.dim() == 4,
        LEVELS=levels,
        LEVELS_BLOCK=triton.next_power_of_2(levels),
        RADIUS_Y=plan.outer[0] // 2,
        RADIUS_X=plan.outer[1] // 2,
        NATIVE=planes.is_cuda and torch.version.hip is None,
        ROWS=ROWS,
        COLUMNS=columns_of(maps.logits.shape[3]),
        **arguments(maps),
    )


def _tiles(logits: Tensor) -> tuple[int, int]:
    height, width = logits.shape[2:]
    return triton.cdiv(height, ROWS), triton.cdiv(width, columns_of(width))
