"""What the loss's Triton kernels share: cross-entropy, reading maps, from sums to the loss."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import wraps
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gliomaseg_layers.functional._plan import Maps, Plan


@triton.jit
def _log1p(x):
    """Return log(1 + x) for x in [0, 1]: the series of 2 artanh(x / (2 + x)), to 2e-8."""
    s = x / (2.0 + x)
    t = s * s
    series = 1.0 / 13
    series = series * t + 1.0 / 11
    series = series * t + 1.0 / 9
    series = series * t + 1.0 / 7
    series = series * t + 1.0 / 5
    series = series * t + 1.0 / 3
    return 2.0 * s * (series * t + 1.0)


@triton.jit
def softplus(z):
    return tl.where(z > 0, z, 0.0) + _log1p(tl.exp(-tl.abs(z)))


@triton.jit
def sigmoid(z):
    small = tl.exp(-tl.abs(z))
    return tl.where(z >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def cross_entropy(z, y, pos_weight):
    """As torch has it, infinities included."""
    return (1.0 - y) * z + (1.0 + (pos_weight - 1.0) * y) * softplus(-z)


@triton.jit
def slope(z, y, pos_weight):
    """Return the derivative of the cross-entropy by the logits."""
    q = sigmoid(z)
    return q * (1.0 - y + pos_weight * y) - pos_weight * y


@triton.jit
def read(
    logits, target, mask, z_at, y_at, mask_at, inside, ignore,
    HAS_MASK: tl.constexpr, HAS_IGNORE: tl.constexpr,
):  # fmt: skip
    """Return logits and target in fp32, 0 where not valid, and what is valid."""
    valid = inside
    if HAS_MASK:
        valid = valid & (tl.load(mask + mask_at, mask=valid, other=0) != 0)
    y = tl.load(target + y_at, mask=inside, other=0)
    if HAS_IGNORE:
        valid = valid & (y != ignore)
    z = tl.load(logits + z_at, mask=valid, other=0.0).to(tl.float32)
    return z, tl.where(valid, y.to(tl.float32), 0.0), valid


@triton.jit
def channel_weight(weights, channel, HAS_WEIGHT: tl.constexpr, COMMON: tl.constexpr):
    weight = 1.0
    if HAS_WEIGHT:
        weight = tl.load(weights + (0 if COMMON else channel)).to(tl.float32)
    return weight


@triton.jit
def _tile_sums(sums, image, images, tiles, TILES: tl.constexpr):
    """Add up what the tiles of each image found, ``(images, tiles)``."""
    total = tl.zeros_like(image).to(tl.float32)
    for start in range(0, tiles, TILES):
        tile = start + tl.arange(0, TILES)[None, :]
        inside = (image < images)[:, None] & (tile < tiles)
        at = image.to(tl.int64)[:, None] * tiles + tile
        total += tl.sum(tl.load(sums + at, mask=inside, other=0.0), 1)
    return total


@triton.jit
def finish_kernel(
    packed, walked, alpha, beta, gamma, loss, terms, slopes, scales,
    images, packed_tiles, walked_tiles, strength, share, dice_smooth,
    BALANCED: tl.constexpr, DICE: tl.constexpr, WEIGHTED: tl.constexpr, MEAN: tl.constexpr,
    IMAGES: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Make the loss and its terms of the sums over tiles, and the slopes of each image's sums."""
    a, b, c = 1.0, 0.0, 1.0
    if WEIGHTED:
        a = tl.load(alpha).to(tl.float32)
        b = tl.load(beta).to(tl.float32)
        c = tl.load(gamma).to(tl.float32)
    cross_entropy, term, dice, count, counted = 0.0, 0.0, 0.0, 0.0, 0.0
    step = tl.cast(images, tl.int64) * packed_tiles
    for start in range(0, images, IMAGES):
        image = start + tl.arange(0, IMAGES)
        pixels = _tile_sums(packed + step, image, images, packed_tiles, TILES)
        cross_entropy += tl.sum(_tile_sums(packed, image, images, packed_tiles, TILES))
        count += tl.sum(pixels)
        k = tl.full([IMAGES], strength, tl.float32)
        if BALANCED:
            found = walked + tl.cast(images, tl.int64) * walked_tiles
            weight = _tile_sums(found, image, images, walked_tiles, TILES)
            # The floor acts where nothing is flagged.
            k = tl.minimum(share * pixels / tl.maximum(weight, 1e-30), strength)
        term += tl.sum(k * _tile_sums(walked, image, images, walked_tiles, TILES))
        by_probs, by_overlap = tl.zeros_like(k), tl.zeros_like(k)
        if DICE:
            probs = _tile_sums(packed + 2 * step, image, images, packed_tiles, TILES)
            overlap = _tile_sums(packed + 3 * step, image, images, packed_tiles, TILES)
            target = _tile_sums(packed + 4 * step, image, images, packed_tiles, TILES)
            above, below = 2 * overlap + dice_smooth, probs + target + dice_smooth
            dice += tl.sum(tl.where(pixels > 0, 1.0 - above / below, 0.0))
            counted += tl.sum((pixels > 0).to(tl.float32))
            by_probs, by_overlap = above / (below * below), -2.0 / below
        tl.store(slopes + image, c * k, mask=image < images)
        tl.store(slopes + images + image, by_probs, mask=image < images)
        tl.store(slopes + 2 * images + image, by_overlap, mask=image < images)
    per_pixel, per_image = 1.0, 1.0
    if MEAN:
        per_pixel, per_image = 1.0 / tl.maximum(count, 1.0), 1.0 / tl.maximum(counted, 1.0)
    cross_entropy, term, dice = cross_entropy * per_pixel, term * per_pixel, dice * per_image
    tl.store(loss, a * cross_entropy + b * dice + c * term)
    tl.store(terms, cross_entropy)
    tl.store(terms + 1, dice)
    tl.store(terms + 2, term)
    tl.store(scales, a * per_pixel)
    tl.store(scales + 1, per_pixel)
    tl.store(scales + 2, b * per_image)


def arguments(maps: Maps) -> dict[str, Any]:
    """Return what every kernel that reads the maps is given of them."""
    logits = maps.logits
    mask = logits if maps.mask is None else maps.mask
    weights = {"pos_weight": maps.pos_weight, "class_weights": maps.class_weights}
    pointers = {name: logits if w is None else w for name, w in weights.items()}
    positive, per_class = weights.values()
    return {
        "logits": logits,
        "target": _readable(maps.target),
        "mask": _readable(mask),
        **pointers,
        "channels": logits.shape[1],
        "height": logits.shape[2],
        "width": logits.shape[3],
        **strides("z", logits),
        **strides("y", maps.target),
        **strides("m", mask),
        "ignore": maps.ignore_index or 0,
        "HAS_MASK": maps.mask is not None,
        "HAS_IGNORE": maps.ignore_index is not None,
        "POS": positive is not None,
        "POS_COMMON": positive is not None and len(positive) == 1,
        "CLASS": per_class is not None,
        "CLASS_COMMON": per_class is not None and len(per_class) == 1,
    }


def finish(
    packed: Tensor, walked: Tensor, plan: Plan, weights: Sequence[float | Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss, its terms, the slopes ``(3, images)`` of its sums, and their scales."""
    images = packed.shape[1]
    loss, terms, slopes, scales = (packed.new_empty(s) for s in ((), 3, (3, images), 3))
    weighted = isinstance(weights[0], Tensor)
    finish_kernel[(1,)](
        packed,
        walked,
        *(weights if weighted else [terms] * 3),
        loss,
        terms,
        slopes,
        scales,
        images,
        packed.shape[2],
        walked.shape[2],
        plan.strength,
        plan.share,
        plan.dice_smooth or 1.0,
        BALANCED=plan.formulation == "balanced",
        DICE=plan.dice_smooth is not None,
        WEIGHTED=weighted,
        MEAN=plan.reduction == "mean",
        IMAGES=16,
        TILES=64,
    )
    return loss, terms, slopes, scales


def on_device_of_maps(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make the maps' device the one that kernels are launched on: Triton takes the current one."""

    @wraps(function)
    def launch(*args: Any) -> Any:
        device = next(value for value in args if isinstance(value, Maps)).logits.device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            return function(*args)

    return launch


def strides(prefix: str, tensor: Tensor) -> dict[str, int]:
    """Return a map's strides by the names that kernels give them; 0 of what is no map."""
    steps = tensor.stride() if tensor.dim() == 4 else (0, 0, 0, 0)
    return {f"{prefix}_{axis}": step for axis, step in zip("nchw", steps, strict=True)}


def columns_of(width: int) -> int:
    return min(max(triton.next_power_of_2(width), 32), 256)


def _readable(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
