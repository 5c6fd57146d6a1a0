"""The loss on a GPU: Triton kernels for "paper" in two dimensions.

``_outlier_terms.py`` holds the definition.

1. ``_column_kernel`` walks down the image with the sums of every column's two windows. They are of
   whole numbers, probabilities in steps so fine that a full window just fits: what is added is
   taken away exactly, and every backend finds the same.
2. ``_density_kernel`` adds the windows' columns, and finds D, the loss's sums and D's slopes by its
   two counts (or the map, with reduction "none").
3. ``_adjoint_kernel`` sums the slopes over the columns of the windows, which are symmetric.
4. ``_gradient_kernel`` adds those columns and writes the gradient.
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
    strides,
)
from gliomaseg_layers.functional._plan import Maps, Plan

__all__ = ["backward", "forward"]

WALKED_ROWS = 32
ROWS = 4


@triton.jit
def _row_of_probs(
    logits, target, mask, row, column, height, width, ignore,
    z_h, z_w, y_h, y_w, m_h, m_w, SCALE: tl.constexpr,
    HAS_MASK: tl.constexpr, HAS_IGNORE: tl.constexpr,
):  # fmt: skip
    """Return a row's probabilities in whole steps, and its valid pixels; 0 outside the image."""
    rows = row + tl.zeros_like(column)
    z, _, valid = read(
        logits, target, mask,
        rows * z_h + column * z_w, rows * y_h + column * y_w, rows * m_h + column * m_w,
        (rows >= 0) & (rows < height) & (column < width), ignore, HAS_MASK, HAS_IGNORE,
    )  # fmt: skip
    return tl.where(valid, sigmoid(z) * SCALE + 0.5, 0.0).to(tl.int32), valid.to(tl.int32)


@triton.jit
def _column_kernel(
    logits, target, mask, pos_weight, class_weights, sums, sizes,
    channels, height, width, row_tiles, column_tiles,
    z_n, z_c, z_h, z_w, y_n, y_c, y_h, y_w, m_n, m_c, m_h, m_w, ignore,
    RADIUS: tl.constexpr, SCALE: tl.constexpr,
    HAS_MASK: tl.constexpr, HAS_IGNORE: tl.constexpr,
    POS: tl.constexpr, POS_COMMON: tl.constexpr, CLASS: tl.constexpr, CLASS_COMMON: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column_tile = tl.program_id(0) % column_tiles
    first = tl.program_id(0) // column_tiles % row_tiles * ROWS
    image = (tl.program_id(0) // (column_tiles * row_tiles)).to(tl.int64)
    batch, channel = image // channels, image % channels
    column = (column_tile * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    logits += batch * z_n + channel * z_c
    target += batch * y_n + channel * y_c
    mask += batch * m_n + channel * m_c
    probs = tl.zeros([COLUMNS], tl.int32)
    pixels = tl.zeros([COLUMNS], tl.int32)
    for step in range(-RADIUS, RADIUS):
        entering, valid = _row_of_probs(
            logits, target, mask, first + step, column, height, width, ignore,
            z_h, z_w, y_h, y_w, m_h, m_w, SCALE, HAS_MASK, HAS_IGNORE,
        )  # fmt: skip
        probs += entering
        pixels += valid
    for step in range(tl.minimum(ROWS, height - first)):
        row = first + step
        entering, valid = _row_of_probs(
            logits, target, mask, row + RADIUS, column, height, width, ignore,
            z_h, z_w, y_h, y_w, m_h, m_w, SCALE, HAS_MASK, HAS_IGNORE,
        )  # fmt: skip
        probs += entering
        pixels += valid
        at = (image * height + row) * width + column
        tl.store(sums + at, probs, mask=column < width)
        if HAS_MASK or HAS_IGNORE:
            tl.store(sizes + at, pixels, mask=column < width)
        leaving, valid = _row_of_probs(
            logits, target, mask, row - RADIUS, column, height, width, ignore,
            z_h, z_w, y_h, y_w, m_h, m_w, SCALE, HAS_MASK, HAS_IGNORE,
        )  # fmt: skip
        probs -= leaving
        pixels -= valid


@triton.jit
def _across(sums, at, column, width, inside, RADIUS: tl.constexpr):
    """Add up a window's columns: ``sums`` at places of an image, and their neighbours in a row."""
    total = tl.load(sums + at, mask=inside, other=0)
    for step in range(1, RADIUS + 1):
        total += tl.load(sums + at - step, mask=inside & (column >= step), other=0)
        total += tl.load(sums + at + step, mask=inside & (column + step < width), other=0)
    return total


@triton.jit
def _tile(row_tiles, column_tiles, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the image of this program, and the rows and columns of its tile."""
    column = tl.program_id(0) % column_tiles * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(0) // column_tiles % row_tiles * ROWS + tl.arange(0, ROWS)
    image = tl.program_id(0) // (column_tiles * row_tiles)
    return image.to(tl.int64), row.to(tl.int64)[:, None], column.to(tl.int64)[None, :]


@triton.jit
def _density_kernel(
    logits, target, mask, pos_weight, class_weights,
    near, wide, near_sizes, wide_sizes, by_near, by_wide, packed, walked, out,
    channels, height, width, row_tiles, column_tiles, smooth, bound,
    z_n, z_c, z_h, z_w, y_n, y_c, y_h, y_w, m_n, m_c, m_h, m_w, ignore,
    NEAR_Y: tl.constexpr, NEAR_X: tl.constexpr, WIDE_Y: tl.constexpr, WIDE_X: tl.constexpr,
    SCALE: tl.constexpr, MAP: tl.constexpr, DICE: tl.constexpr,
    HAS_MASK: tl.constexpr, HAS_IGNORE: tl.constexpr,
    POS: tl.constexpr, POS_COMMON: tl.constexpr, CLASS: tl.constexpr, CLASS_COMMON: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, row, column = _tile(row_tiles, column_tiles, ROWS, COLUMNS)
    batch, channel = image // channels, image % channels
    inside = (row < height) & (column < width)
    z, y, valid = read(
        logits + batch * z_n + channel * z_c,
        target + batch * y_n + channel * y_c,
        mask + batch * m_n + channel * m_c,
        row * z_h + column * z_w, row * y_h + column * y_w, row * m_h + column * m_w,
        inside, ignore, HAS_MASK, HAS_IGNORE,
    )  # fmt: skip
    at = (image * height + row) * width + column
    if HAS_MASK or HAS_IGNORE:
        near_size = _across(near_sizes, at, column, width, inside, NEAR_X)
        gap_size = _across(wide_sizes, at, column, width, inside, WIDE_X) - near_size
    else:
        near_size = (tl.minimum(row + NEAR_Y, height - 1) - tl.maximum(row - NEAR_Y, 0) + 1) * (
            tl.minimum(column + NEAR_X, width - 1) - tl.maximum(column - NEAR_X, 0) + 1
        )
        gap_size = (tl.minimum(row + WIDE_Y, height - 1) - tl.maximum(row - WIDE_Y, 0) + 1) * (
            tl.minimum(column + WIDE_X, width - 1) - tl.maximum(column - WIDE_X, 0) + 1
        )
        gap_size -= near_size
    in_near = _across(near, at, column, width, inside, NEAR_X)
    in_gap = _across(wide, at, column, width, inside, WIDE_X) - in_near
    near_size, gap_size = near_size.to(tl.float32), gap_size.to(tl.float32)
    in_near, in_gap = in_near.to(tl.float32) / SCALE, in_gap.to(tl.float32) / SCALE
    white = z > 0
    in_near = tl.where(white, in_near, near_size - in_near)
    in_gap = tl.where(white, in_gap, gap_size - in_gap)
    kept = valid & (in_gap <= bound)
    below = gap_size - in_gap + smooth  # sums of whole numbers: no count is negative
    density = tl.where(kept, (in_near + smooth) / below, 0.0)
    cost = cross_entropy(z, y, channel_weight(pos_weight, channel, POS, POS_COMMON))
    cost *= channel_weight(class_weights, channel, CLASS, CLASS_COMMON)
    cost = tl.where(valid, cost, 0.0)
    if MAP:
        tl.store(out + at, cost - density, mask=inside)
    sign = tl.where(white, 1.0, -1.0)
    of_wide = density / below
    of_near = tl.where(kept, of_wide - 1.0 / below, 0.0)
    tl.store(by_near + at, of_near * sign, mask=inside)
    tl.store(by_wide + at, -of_wide * sign, mask=inside)
    step = tl.num_programs(0).to(tl.int64)
    tl.store(walked + tl.program_id(0), -tl.sum(density))
    packed += tl.program_id(0)
    tl.store(packed, tl.sum(cost))
    tl.store(packed + step, tl.sum(valid.to(tl.float32)))
    if DICE:
        q = tl.where(valid, sigmoid(z), 0.0)
        tl.store(packed + 2 * step, tl.sum(q))
        tl.store(packed + 3 * step, tl.sum(q * y))
        tl.store(packed + 4 * step, tl.sum(y))


@triton.jit
def _adjoint_kernel(
    by_count, out, grad, channels, height, width, row_tiles, column_tiles, g_n, g_c, g_h, g_w,
    RADIUS: tl.constexpr, GRAD_IS_MAP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, row, column = _tile(row_tiles, column_tiles, ROWS, COLUMNS)
    grad += image // channels * g_n + image % channels * g_c
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for step in range(-RADIUS, RADIUS + 1):
        seen = row + step
        inside = (seen >= 0) & (seen < height) & (column < width)
        value = tl.load(by_count + (image * height + seen) * width + column, mask=inside, other=0.0)
        if GRAD_IS_MAP:
            value *= tl.load(grad + seen * g_h + column * g_w, mask=inside, other=0.0)
        total += value
    inside = (row < height) & (column < width)
    tl.store(out + (image * height + row) * width + column, total, mask=inside)


@triton.jit
def _gradient_kernel(
    logits, target, mask, pos_weight, class_weights, near, wide, out, slopes, scales, grad,
    channels, height, width, row_tiles, column_tiles, images,
    z_n, z_c, z_h, z_w, y_n, y_c, y_h, y_w, m_n, m_c, m_h, m_w, ignore,
    o_n, o_c, o_h, o_w, g_n, g_c, g_h, g_w,
    NEAR_X: tl.constexpr, WIDE_X: tl.constexpr, DICE: tl.constexpr, GRAD_IS_MAP: tl.constexpr,
    HAS_MASK: tl.constexpr, HAS_IGNORE: tl.constexpr,
    POS: tl.constexpr, POS_COMMON: tl.constexpr, CLASS: tl.constexpr, CLASS_COMMON: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, row, column = _tile(row_tiles, column_tiles, ROWS, COLUMNS)
    batch, channel = image // channels, image % channels
    inside = (row < height) & (column < width)
    z, y, valid = read(
        logits + batch * z_n + channel * z_c,
        target + batch * y_n + channel * y_c,
        mask + batch * m_n + channel * m_c,
        row * z_h + column * z_w, row * y_h + column * y_w, row * m_h + column * m_w,
        inside, ignore, HAS_MASK, HAS_IGNORE,
    )  # fmt: skip
    at = (image * height + row) * width + column
    by_probs = _across(near, at, column, width, inside, NEAR_X)
    by_probs += _across(wide, at, column, width, inside, WIDE_X)
    by_probs *= tl.load(slopes + image) * tl.load(scales + 1)
    by_logit = slope(z, y, channel_weight(pos_weight, channel, POS, POS_COMMON))
    by_logit *= channel_weight(class_weights, channel, CLASS, CLASS_COMMON) * tl.load(scales)
    if DICE:
        by_overlap = tl.load(slopes + 2 * images + image)
        of_dice = tl.load(slopes + images + image) + by_overlap * y
        by_probs += of_dice * tl.load(scales + 2)
    q = sigmoid(z)
    if GRAD_IS_MAP:
        grad += batch * g_n + channel * g_c
        by_logit *= tl.load(grad + row * g_h + column * g_w, mask=inside, other=0.0)
        by_logit += by_probs * q * (1.0 - q)
    else:
        by_logit = (by_logit + by_probs * q * (1.0 - q)) * tl.load(grad)
    out += batch * o_n + channel * o_c
    tl.store(out + row * o_h + column * o_w, tl.where(valid, by_logit, 0.0), mask=inside)


@on_device_of_maps
def forward(
    maps: Maps, plan: Plan, weights: Sequence[float | Tensor]
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Return the loss, a scalar or a map, with its terms, and what backward needs."""
    logits, given = maps.logits, arguments(maps)
    images = logits.shape[0] * logits.shape[1]
    spatial = logits.shape[2:]
    masked = given["HAS_MASK"] or given["HAS_IGNORE"]
    # The sum of a full window is below 2^31.
    scale = 2 ** (31 - math.prod(plan.outer).bit_length())
    columns = logits.new_empty((2 + 2 * masked, images, *spatial), dtype=torch.int32)
    for index, window in enumerate((plan.inner, plan.outer)):
        tiles = _tiles(logits, WALKED_ROWS)
        _column_kernel[(images * tiles["row_tiles"] * tiles["column_tiles"],)](
            sums=columns[index],
            sizes=columns[index + 2 * masked],
            RADIUS=window[0] // 2,
            SCALE=scale,
            ROWS=WALKED_ROWS,
            **tiles,
            **given,
        )
    new = partial(torch.empty, dtype=torch.float32, device=logits.device)
    by_counts = new((2, images, *spatial))
    tiles = _tiles(logits, ROWS)
    packed = new((5, images, tiles["row_tiles"] * tiles["column_tiles"]))
    walked = torch.empty_like(packed[:1])
    is_map = plan.reduction == "none"
    loss_map = new(logits.shape if is_map else 0)
    _density_kernel[(images * tiles["row_tiles"] * tiles["column_tiles"],)](
        near=columns[0],
        wide=columns[1],
        near_sizes=columns[2 * masked],
        wide_sizes=columns[1 + 2 * masked],
        by_near=by_counts[0],
        by_wide=by_counts[1],
        packed=packed,
        walked=walked,
        out=loss_map,
        smooth=plan.smooth,
        bound=plan.threshold + 0.5,
        NEAR_Y=plan.inner[0] // 2,
        NEAR_X=plan.inner[1] // 2,
        WIDE_Y=plan.outer[0] // 2,
        WIDE_X=plan.outer[1] // 2,
        SCALE=scale,
        MAP=is_map,
        DICE=plan.dice_smooth is not None,
        ROWS=ROWS,
        **tiles,
        **given,
    )
    loss, terms, slopes, scales = finish(packed, walked, plan, weights)
    return loss_map if is_map else loss, terms, (by_counts, slopes, scales)


@on_device_of_maps
def backward(grad: Tensor, maps: Maps, plan: Plan, kept: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the gradient of the loss by the logits."""
    by_counts, slopes, scales = kept
    logits = maps.logits
    images, tiles = by_counts.shape[1], _tiles(logits, ROWS)
    given = {"grad": grad, "GRAD_IS_MAP": grad.dim() > 0, **strides("g", grad), **tiles}
    grid = (images * tiles["row_tiles"] * tiles["column_tiles"],)
    columns, out = torch.empty_like(by_counts), torch.empty_like(logits)
    for index, window in enumerate((plan.inner, plan.outer)):
        _adjoint_kernel[grid](
            by_count=by_counts[index],
            out=columns[index],
            channels=logits.shape[1],
            height=logits.shape[2],
            width=logits.shape[3],
            RADIUS=window[0] // 2,
            ROWS=ROWS,
            **given,
        )
    _gradient_kernel[grid](
        near=columns[0],
        wide=columns[1],
        out=out,
        slopes=slopes,
        scales=scales,
        images=images,
        **strides("o", out),
        NEAR_X=plan.inner[1] // 2,
        WIDE_X=plan.outer[1] // 2,
        DICE=plan.dice_smooth is not None,
        ROWS=ROWS,
        **given,
        **arguments(maps),
    )
    return out


def _tiles(logits: Tensor, rows: int) -> dict[str, int]:
    height, width = logits.shape[2:]
    columns = columns_of(width)
    return {
        "row_tiles": triton.cdiv(height, rows),
        "column_tiles": triton.cdiv(width, columns),
        "COLUMNS": columns,
    }
