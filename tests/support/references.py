"""Slow float64 definitions in NumPy and SciPy, with gradients worked out by hand.

Every function takes arrays (or CPU tensors) and returns arrays. "Images" are ``(M, K, *spatial)``:
M single images with K class probabilities each, which is what the density and the weight are
defined on: binary and multilabel channels are images of two classes, (black, white).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import convolve
from scipy.special import expit, log_expit, log_softmax, softmax

Array = NDArray[Any]
LOG_CLAMP = -100.0


def array(value: ArrayLike | torch.Tensor) -> Array:
    """Return a float64 copy: every smaller dtype, bool and integers included, is exact in it."""
    if isinstance(value, torch.Tensor):
        value = value.detach().to("cpu", torch.float64).numpy()
    return np.array(value, dtype=np.float64)


def sides(window: int | Sequence[int], axes: int) -> tuple[int, ...]:
    return (window,) * axes if isinstance(window, int) else tuple(window)


def box_sum(x: ArrayLike | torch.Tensor, window: int | Sequence[int]) -> Array:
    """Sum over the centred window of ``x``, ``(N, C, *spatial)``, zero outside."""
    x = array(x)
    seen = zip(sides(window, x.ndim - 2), x.shape[2:], strict=True)
    kernel = np.ones((1, 1, *(min(side, max(2 * size - 1, 1)) for side, size in seen)))
    return convolve(x, kernel, mode="constant", cval=0.0) if x.size else x


# --- what the arguments mean ------------------------------------------------------------------


def valid_pixels(
    shape: tuple[int, ...],
    target: ArrayLike | torch.Tensor | None,
    *,
    mode: str,
    ignore_index: int | None = None,
    mask: ArrayLike | torch.Tensor | None = None,
) -> Array:
    """Return which entries of the map are inside the image, as booleans of the map's shape."""
    n, c, *spatial = shape
    channels = 1 if mode == "multiclass" else c
    valid = np.ones((n, channels, *spatial), bool)
    if ignore_index is not None and target is not None:
        valid &= array(target).reshape(valid.shape) != ignore_index
    if mask is not None:
        mask = array(mask)
        valid &= (mask if mask.ndim == len(shape) else mask[:, None]) != 0
    return valid[:, 0] if mode == "multiclass" else valid


def dense_target(
    shape: tuple[int, ...], target: ArrayLike | torch.Tensor, valid: Array, *, mode: str
) -> Array:
    """Return the target as ``(N, C, *spatial)``, 0 at pixels outside the image."""
    target, (n, c, *spatial) = array(target), shape
    if mode != "multiclass":
        return np.where(valid, target.reshape(shape), 0.0)
    if target.shape != tuple(shape):
        target = np.stack([target.reshape(n, *spatial) == k for k in range(c)], 1)
    return np.where(valid[:, None], target, 0.0)


def per_channel(weight: Any, axes: int) -> Array:
    """Return a scalar or ``(C,)`` weight so that it multiplies channels."""
    weight = array(1.0 if weight is None else weight)
    return weight.reshape(1, -1, *(1,) * (axes - 2))


def images(q: Array, mode: str) -> Array:
    if mode == "multiclass":
        return q
    flat = q.reshape(-1, *q.shape[2:])
    return np.stack([1 - flat, flat], 1)


def winners(x: Array, mode: str, from_logits: bool, level: float = 0.5) -> Array:
    """Return the predicted class of every pixel of every image.

    Ties go to the lower class, and a pixel with a NaN is of class 0.
    """
    if mode != "multiclass":
        at = np.log(level) - np.log1p(-level) if from_logits and level != 0.5 else level
        white = x > (0.0 if from_logits and level == 0.5 else at)
        return white.reshape(-1, *x.shape[2:]).astype(int)
    if level != 0.5 and x.size:
        with np.errstate(divide="ignore"):
            x = x if from_logits else np.log(x)
        odds = np.where(np.arange(x.shape[1]) == 0, np.log(level) - np.log1p(-level), 0.0)
        x = x + odds.reshape(1, -1, *(1,) * (x.ndim - 2))
    return np.where(np.isnan(x).any(1), 0, np.argmax(x, axis=1))


def probabilities(x: Array, mode: str, from_logits: bool) -> Array:
    if not from_logits:
        return x
    return softmax(x, axis=1) if mode == "multiclass" and x.size else expit(x)


def through_probabilities(grad: Array, q: Array, mode: str, from_logits: bool) -> Array:
    """Carry a gradient from the probabilities to the input."""
    if not from_logits:
        return grad
    if mode == "multiclass":
        return q * (grad - (grad * q).sum(1, keepdims=True))
    return grad * q * (1 - q)


# --- cross-entropy: (map, its derivative by the pixel's own inputs) -----------------------------


def clamped_log(p: Array) -> tuple[Array, Array]:
    with np.errstate(divide="ignore"):
        log = np.log(p)
        acts = log <= LOG_CLAMP
        return np.where(acts, LOG_CLAMP, log), np.where(acts, 0.0, 1 / p)


def cross_entropy(
    x: Array, y: Array, *, mode: str, from_logits: bool, pos_weight: Any, class_weights: Any
) -> tuple[Array, Array]:
    weight = per_channel(class_weights, x.ndim)
    if mode == "multiclass":
        v = weight * y
        if from_logits:
            log_q = log_softmax(x, axis=1) if x.size else x
            return -(v * log_q).sum(1), v.sum(1, keepdims=True) * np.exp(log_q) - v
        log_q, slope = clamped_log(x)
        return -(v * log_q).sum(1), -v * slope
    on, off = per_channel(pos_weight, x.ndim) * y * weight, (1 - y) * weight
    if from_logits:
        return -on * log_expit(x) - off * log_expit(-x), -on * expit(-x) + off * expit(x)
    (log_q, slope), (log_p, slope_p) = clamped_log(x), clamped_log(1 - x)
    return -on * log_q - off * log_p, -on * slope + off * slope_p


# --- region density and outlier weight ----------------------------------------------------------


def density(
    q: Array,
    winner: Array,
    valid: Array,
    *,
    inner: int | Sequence[int] = 7,
    outer: int | Sequence[int] = 21,
    smooth: float = 1.0,
    threshold: float | None = None,
    upstream: Array | None = None,
) -> tuple[Array, Array]:
    """Return D of images ``q``, ``(M, K, *spatial)``, and <upstream, D>'s gradient by ``q``."""
    i = sides(inner, q.ndim - 2)
    if threshold is None:
        threshold = np.prod(i) - np.prod([side // 2 + 1 for side in i])
    inside = np.broadcast_to(valid[:, None], q.shape).astype(float)
    q = np.where(inside, q, 0.0)
    a = box_sum(q, inner)
    gap_c = box_sum(q, outer) - a
    gap = box_sum(inside, outer) - box_sum(inside, inner)
    below = gap - gap_c + smooth
    active = (gap_c <= threshold + 0.5) * inside
    active *= np.stack([winner == k for k in range(q.shape[1])], 1)
    d = (active * (a + smooth) / below).sum(1)
    if upstream is None:
        return d, np.zeros_like(q)
    by_a = upstream[:, None] * active / below
    by_gap = upstream[:, None] * active * (a + smooth) / below**2
    return d, inside * (box_sum(by_a - by_gap, inner) + box_sum(by_gap, outer))


def density_map(
    probs: ArrayLike | torch.Tensor,
    *,
    mode: str = "binary",
    valid: ArrayLike | torch.Tensor | None = None,
    upstream: ArrayLike | torch.Tensor | None = None,
    **settings: Any,
) -> tuple[Array, Array]:
    """Return D of probabilities, and <upstream, D>'s gradient by them."""
    x = array(probs)
    inside = valid_pixels(x.shape, None, mode=mode, mask=valid)
    x = np.where(inside[:, None] if mode == "multiclass" else inside, x, 0.0)
    q, winner = images(x, mode), winners(x, mode, from_logits=False)
    flat = None if upstream is None else array(upstream).reshape(winner.shape)
    d, grad = density(q, winner, inside.reshape(winner.shape), upstream=flat, **settings)
    if mode != "multiclass":
        grad = (grad[:, 1] - grad[:, 0]).reshape(x.shape)
    return d.reshape(inside.shape), grad


def outlier_weight(
    x: ArrayLike | torch.Tensor,
    *,
    mode: str = "binary",
    from_logits: bool = False,
    window: int | Sequence[int] = 21,
    max_noise_size: float | None = None,
    levels: Sequence[float] = (0.1, 0.3, 0.5),
    valid: ArrayLike | torch.Tensor | None = None,
) -> Array:
    x = array(x)
    inside = valid_pixels(x.shape, None, mode=mode, mask=valid)
    x = np.where(inside[:, None] if mode == "multiclass" else inside, x, 0.0)
    x = x if from_logits else np.clip(x, 0.0, 1.0)
    each = [_weight_at(x, t, inside, mode, from_logits, window, max_noise_size) for t in levels]
    return np.mean(each, 0)


def _weight_at(
    x: Array,
    level: float,
    inside: Array,
    mode: str,
    from_logits: bool,
    window: int | Sequence[int],
    max_noise_size: float | None,
) -> Array:
    window = sides(window, x.ndim - 2)
    winner = winners(x, mode, from_logits, level)
    omega = inside.reshape(winner.shape)
    same = np.zeros(winner.shape)
    for k in range(x.shape[1] if mode == "multiclass" else 2):
        member = (winner == k) & omega
        same += member * np.rint(box_sum(member[:, None], window)[:, 0])
    n = np.rint(box_sum(omega[:, None], window)[:, 0])
    if max_noise_size is None:
        max_noise_size = np.prod([np.ceil(side / 3) for side in window])
    flagged = omega & (same <= max_noise_size) & (2 * same <= n)
    return np.where(flagged, 1 - same / np.maximum(n, 1), 0.0).reshape(inside.shape)


# --- losses: (value, gradient of <upstream, value>) ---------------------------------------------


def reduced(
    loss: Array, valid: Array, reduction: str, upstream: ArrayLike | torch.Tensor
) -> tuple[Array, Array]:
    """Return the reduced map, and <upstream, it>'s gradient by the map."""
    loss, upstream = np.where(valid, loss, 0.0), array(upstream)
    count = max(valid.sum(), 1) if reduction == "mean" else 1
    value = loss if reduction == "none" else np.asarray(loss.sum() / count)
    return value, np.where(valid, upstream / count, 0.0)


def _read(
    input: ArrayLike | torch.Tensor,
    target: ArrayLike | torch.Tensor,
    mode: str,
    from_logits: bool,
    ignore_index: int | None,
    mask: ArrayLike | torch.Tensor | None,
) -> tuple[Array, Array, Array]:
    """Return the input, 0 outside the image, whether its entries count, and the valid pixels."""
    x = array(input)
    valid = valid_pixels(x.shape, target, mode=mode, ignore_index=ignore_index, mask=mask)
    channels = np.broadcast_to(valid[:, None] if mode == "multiclass" else valid, x.shape)
    x = np.where(channels, x, 0.0)
    counted = channels if from_logits else channels & (x >= 0) & (x <= 1)
    return x if from_logits else np.clip(x, 0.0, 1.0), counted, valid


def outlier_region_loss(
    input: ArrayLike | torch.Tensor,
    target: ArrayLike | torch.Tensor,
    *,
    mode: str = "binary",
    window: int | Sequence[int] = 21,
    max_noise_size: float | None = None,
    levels: Sequence[float] = (0.1, 0.3, 0.5),
    strength: float = 1000.0,
    share: float | None = 0.1,
    from_logits: bool = True,
    pos_weight: Any = None,
    class_weights: Any = None,
    ignore_index: int | None = None,
    mask: ArrayLike | torch.Tensor | None = None,
    reduction: str = "mean",
    upstream: ArrayLike | torch.Tensor = 1.0,
    term: str = "whole",
) -> tuple[Array, Array]:
    """``term`` is "whole", "ce" alone, or "extra": what is added to CE."""
    x, counted, valid = _read(input, target, mode, from_logits, ignore_index, mask)
    y = dense_target(x.shape, target, valid, mode=mode)
    ce, by_x = cross_entropy(
        x, y, mode=mode, from_logits=from_logits, pos_weight=pos_weight, class_weights=class_weights
    )
    weight = outlier_weight(
        x,
        mode=mode,
        from_logits=from_logits,
        window=window,
        max_noise_size=max_noise_size,
        levels=levels,
        valid=valid,
    )
    for image in np.ndindex(ce.shape[: 1 if mode == "multiclass" else 2]):
        total, k = weight[image].sum(), strength
        if share is not None and total:
            k = min(strength, share * np.broadcast_to(valid, ce.shape)[image].sum() / total)
        weight[image] *= k
    factor = {"ce": np.ones_like(weight), "extra": weight, "whole": 1 + weight}[term]
    value, by_map = reduced(factor * ce, valid, reduction, upstream)
    by_map = by_map * factor
    grad = (by_map[:, None] if mode == "multiclass" else by_map) * by_x
    return value, np.where(counted, grad, 0.0)


def density_loss(
    input: ArrayLike | torch.Tensor,
    target: ArrayLike | torch.Tensor,
    *,
    mode: str = "binary",
    inner: int | Sequence[int] = 7,
    outer: int | Sequence[int] = 21,
    smooth: float = 1.0,
    threshold: float | None = None,
    from_logits: bool = True,
    pos_weight: Any = None,
    class_weights: Any = None,
    ignore_index: int | None = None,
    mask: ArrayLike | torch.Tensor | None = None,
    reduction: str = "mean",
    upstream: ArrayLike | torch.Tensor = 1.0,
    term: str = "whole",
) -> tuple[Array, Array]:
    """``term`` is "whole", "ce" alone, or "extra": what is added to CE."""
    x, counted, valid = _read(input, target, mode, from_logits, ignore_index, mask)
    y = dense_target(x.shape, target, valid, mode=mode)
    ce, by_x = cross_entropy(
        x, y, mode=mode, from_logits=from_logits, pos_weight=pos_weight, class_weights=class_weights
    )
    winner = winners(x, mode, from_logits)
    q = probabilities(x, mode, from_logits)
    given = images(q, mode), winner, valid.reshape(winner.shape)
    windows: Any = {"inner": inner, "outer": outer, "smooth": smooth, "threshold": threshold}
    extra = -density(*given, **windows)[0].reshape(ce.shape)
    loss = {"ce": ce, "extra": extra, "whole": ce + extra}[term]
    value, by_map = reduced(loss, valid, reduction, upstream)
    grad = np.zeros_like(x)
    if term != "extra":
        grad += (by_map[:, None] if mode == "multiclass" else by_map) * by_x
    if term != "ce":
        _, by_q = density(*given, upstream=-by_map.reshape(winner.shape), **windows)
        if mode != "multiclass":
            by_q = (by_q[:, 1] - by_q[:, 0]).reshape(x.shape)
        grad += through_probabilities(by_q, q, mode, from_logits)
    return value, np.where(counted, grad, 0.0)


def dice_loss(
    input: ArrayLike | torch.Tensor,
    target: ArrayLike | torch.Tensor,
    *,
    mode: str = "binary",
    smooth: float = 1.0,
    batch: bool = False,
    include_background: bool = True,
    class_weights: Any = None,
    soft_label: bool = False,
    from_logits: bool = True,
    ignore_index: int | None = None,
    mask: ArrayLike | torch.Tensor | None = None,
    reduction: str = "mean",
    upstream: ArrayLike | torch.Tensor = 1.0,
) -> tuple[Array, Array]:
    """The mean is over the entries (samples and classes) that have a pixel in the image."""
    x, counted, valid = _read(input, target, mode, from_logits, ignore_index, mask)
    inside = np.broadcast_to(valid[:, None] if mode == "multiclass" else valid, x.shape)
    y = dense_target(x.shape, target, valid, mode=mode)
    q = probabilities(x, mode, from_logits)
    pixels = tuple(range(2, x.ndim)) + ((0,) if batch else ())

    def total(values: Array) -> Array:
        return (values * inside).sum(pixels, keepdims=True)

    overlap, by_overlap = 2 * total(q * y), 2 * y
    if soft_label:
        overlap, by_overlap = total(q + y - np.abs(q - y)), 1 - np.sign(q - y)
    above, below = overlap + smooth, total(q) + total(y) + smooth
    loss, weight = 1 - above / below, per_channel(class_weights, x.ndim) + np.zeros_like(below)
    weight = weight * (total(np.ones_like(q)) > 0)
    if not include_background:
        weight[:, 0] = 0
    value = weight * loss
    count = max(weight.sum(), 1e-300) if reduction == "mean" else 1
    if reduction == "none":
        first = 0 if include_background else 1
        value = value.reshape(x.shape[1:2] if batch else x.shape[:2])[..., first:]
        by_entry = np.zeros_like(loss)
        by_entry.reshape(x.shape[1:2] if batch else x.shape[:2])[..., first:] = array(upstream)
    else:
        value, by_entry = np.asarray(value.sum() / count), array(upstream) / count
    by_q = by_entry * weight * inside * (above / below**2 - by_overlap / below)
    grad = through_probabilities(by_q, q, mode, from_logits)
    return value, np.where(counted, grad, 0.0)


def scnp(
    input: ArrayLike | torch.Tensor,
    target: ArrayLike | torch.Tensor,
    *,
    mode: str = "binary",
    size: int | Sequence[int] = 3,
    from_logits: bool = True,
    ignore_index: int | None = None,
    mask: ArrayLike | torch.Tensor | None = None,
    upstream: ArrayLike | torch.Tensor = 1.0,
) -> tuple[Array, Array]:
    """Return the worst values nearby; the whole gradient of each goes to the first such pixel."""
    x, counted, valid = _read(input, target, mode, from_logits, ignore_index, mask)
    inside = np.broadcast_to(valid[:, None] if mode == "multiclass" else valid, x.shape)
    y = dense_target(x.shape, target, valid, mode=mode) > 0.5
    upstream = np.broadcast_to(array(upstream), x.shape)
    worst, grad = np.zeros_like(x), np.zeros_like(x)
    reach = [side // 2 for side in sides(size, x.ndim - 2)]
    for place in zip(*np.nonzero(inside), strict=True):
        window = (slice(max(i - r, 0), i + r + 1) for i, r in zip(place[2:], reach, strict=True))
        near = (*place[:2], *window)
        peers = inside[near] & (y[near] == y[place])
        pick, least = (np.argmin, np.inf) if y[place] else (np.argmax, -np.inf)
        seen = np.where(peers, x[near], least)
        found = np.unravel_index(pick(seen), seen.shape)
        worst[place] = seen[found]
        grad[near][found] += upstream[place]
    return worst, np.where(counted, grad, 0.0)


def compound_loss(
    input: ArrayLike | torch.Tensor,
    target: ArrayLike | torch.Tensor,
    *,
    outlier: Callable[..., tuple[Array, Array]] = outlier_region_loss,
    dice: dict[str, Any] | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    upstream: ArrayLike | torch.Tensor = 1.0,
    **settings: Any,
) -> tuple[Array, Array, dict[str, Array]]:
    """Return value, gradient, and the unweighted terms."""
    passed = ("mode", "from_logits", "ignore_index", "mask", "reduction")
    shared = {name: settings[name] for name in passed if name in settings}
    parts = {
        "ce": (alpha, outlier(input, target, term="ce", **settings)),
        "dice": (beta, dice_loss(input, target, **shared, **(dice or {}))),
        "outlier": (gamma, outlier(input, target, term="extra", **settings)),
    }
    value = sum(weight * part[0] for weight, part in parts.values())
    grad = array(upstream) * sum(weight * part[1] for weight, part in parts.values())
    return value, grad, {name: part[0] * (weight > 0) for name, (weight, part) in parts.items()}
