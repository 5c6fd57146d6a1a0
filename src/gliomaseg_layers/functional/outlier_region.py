"""The losses of outlier regions: one formula each, in torch's own operations."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gliomaseg_layers._checks import check_settings
from gliomaseg_layers._reduction import reduce
from gliomaseg_layers.functional._cross_entropy import labelled_cross_entropy
from gliomaseg_layers.functional._scores import Scores
from gliomaseg_layers.functional.outlier_weight import outlier_weight_of
from gliomaseg_layers.functional.region_density import density_of

__all__ = ["balance", "density_loss", "outlier_region_loss", "outlier_term"]


def outlier_region_loss(
    input: Tensor,
    target: Tensor,
    *,
    mode: str = "binary",
    window: int | Sequence[int] = 21,
    max_noise_size: float | None = None,
    levels: Sequence[float] = (0.1, 0.3, 0.5),
    strength: float = 1000.0,
    share: float | None = 0.1,
    from_logits: bool = True,
    pos_weight: float | Tensor | None = None,
    class_weights: float | Tensor | None = None,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross-entropy that counts more inside outlier regions: islands too small to be believed.

    With CE the pixel's cross-entropy and w the weight of ``outlier_weight``,

    .. math::
        L = CE \, (1 + k w), \qquad k = \min(\mathrm{strength}, \mathrm{share} \cdot N / W)

    where N is the number of pixels of the image and W the sum of w over it: an error inside an
    island costs up to ``1 + strength`` times as much, and all flagged pixels of an image together
    weigh at most ``share`` of it. Every image, and every channel of a multilabel map, has a k of
    its own. With ``share=None`` k is ``strength``.

    The loss follows the label: a false island is pushed away, a true small region up. The weight is
    constant in the gradient, so that both derivatives are those of the cross-entropy, weighed.

    Limits: an island nearer to a large region of its class than half the window is not flagged; a
    line one or two pixels wide is flagged at any length.

    Args:
        input: logits, or probabilities with ``from_logits=False``, ``(N, C, H, W)`` or
            ``(N, C, D, H, W)``. fp16 and bf16 are computed in fp32.
        target: binary and multilabel: the shape of ``input`` (binary also ``(N, *spatial)``),
            bool, integer or floating in [0, 1]; multiclass: class indices ``(N, *spatial)`` or
            ``(N, 1, *spatial)``, or one-hot or soft, floating, ``(N, C, *spatial)``.
        mode: "binary" (C = 1), "multilabel" (C >= 1, independent sigmoid channels) or
            "multiclass" (C >= 2, softmax).
        window: side of the window in pixels, odd; one int, or one per spatial axis. Thick slices
            want ``(1, 21, 21)``.
        max_noise_size: the largest number of pixels that counts as noise; None for
            ``prod(ceil(window / 3))``, 49 for a window of 21.
        levels: probabilities between 0 and 1 at which outlier regions are looked for. In
            multiclass mode levels other than 0.5 take class 0 for the background.
        strength: the largest weight of a flagged pixel, >= 0; at 0 the loss is the cross-entropy.
        share: the most that k w may add up to over an image, as a part of its pixels; > 0. None for
            no such limit.
        from_logits: False where ``input`` holds probabilities in [0, 1] (others are clamped); their
            logarithms are clamped at -100, with zero gradient where a clamp acts, and their
            gradient saturates at the largest number of their dtype.
        pos_weight: weight of the positives' cross-entropy, one number or ``(C,)``; not in
            multiclass mode.
        class_weights: weight of each channel's cross-entropy, one number or ``(C,)``. The mean
            still divides by the number of valid pixels.
        ignore_index: pixels whose target has this value are outside the image: they enter no
            count and no loss and get no gradient. Not with floating multiclass targets.
        mask: boolean, False for pixels outside the image; the shape of the map, ``(N, *spatial)``
            or ``(N, 1, *spatial)``.
        reduction: "none", "mean" (over valid entries; 0 where there are none) or "sum".

    Returns:
        The loss, a scalar; with ``reduction="none"`` a map ``(N, C, *spatial)``, or
        ``(N, *spatial)`` in multiclass mode. fp32, or fp64 for fp64 input.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument is out of its range, or shapes or devices do not fit.
        RuntimeError: a class index is out of range (is it ``ignore_index``?).

    Source: after the aim of [WAN23] 3.4.3; ``density_loss`` has its equation 12.

    Example:
        >>> import torch
        >>> logits = torch.full((1, 1, 64, 64), -3.0)
        >>> logits[..., 20:23, 20:23] = 3.0  # a false island
        >>> target = torch.zeros(1, 1, 64, 64)
        >>> plain = outlier_region_loss(logits, target, strength=0, reduction="none")
        >>> loss = outlier_region_loss(logits, target, reduction="none")
        >>> round(float((loss / plain)[0, 0, 21, 21]), 2)  # 1 + 0.1 * 4096 / 9: a tenth of all
        46.51
    """
    check_settings(
        window=window,
        max_noise_size=max_noise_size,
        levels=levels,
        strength=strength,
        share=share,
    )
    scores, cross_entropy = labelled_cross_entropy(
        input, target, mode, from_logits, pos_weight, class_weights, ignore_index, mask
    )
    weight = _balanced_weight(scores, window, max_noise_size, levels, strength, share)
    return reduce(cross_entropy * (1 + weight), scores.valid, reduction)


def outlier_term(scores: Scores, cross_entropy: Tensor, **settings: Any) -> Tensor:
    """Return k w CE, what ``outlier_region_loss`` adds to the cross-entropy of every pixel."""
    # 0 times infinity is NaN: a pixel of infinite cross-entropy and weight 0 has a term of 0.
    largest = torch.finfo(cross_entropy.dtype).max
    return _balanced_weight(scores, **settings) * cross_entropy.clamp(max=largest)


def _balanced_weight(
    scores: Scores,
    window: int | Sequence[int],
    max_noise_size: float | Tensor | None,
    levels: Sequence[float],
    strength: float | Tensor,
    share: float | Tensor | None,
) -> Tensor:
    """Return k w of every pixel.

    The settings were checked. Numbers may be 0-d tensors here, so that an exported program can take
    them as inputs.
    """
    weight = outlier_weight_of(scores, window, max_noise_size, levels)
    return balance(weight, scores, strength, share) * weight


def balance(
    weight: Tensor, scores: Scores, strength: float | Tensor, share: float | Tensor | None
) -> float | Tensor:
    """Return k of every image and channel, whatever else is in the batch."""
    if share is None:
        return strength
    axes = tuple(range(1 if scores.multiclass else 2, weight.dim()))
    pixels: int | Tensor = math.prod([weight.shape[axis] for axis in axes])
    total = weight.sum(axes, keepdim=True)  # where it is 0, k is the strength
    if scores.valid is not None:
        pixels = scores.valid.sum(axes, keepdim=True).to(weight.dtype)
        total = total.clamp(min=1e-30)  # 0 / 0 is NaN: k is 0 where no pixel is valid
    return (share * pixels / total).clamp(max=strength)


def density_loss(
    input: Tensor,
    target: Tensor,
    *,
    mode: str = "binary",
    inner: int | Sequence[int] = 7,
    outer: int | Sequence[int] = 21,
    smooth: float = 1.0,
    threshold: float | None = None,
    from_logits: bool = True,
    pos_weight: float | Tensor | None = None,
    class_weights: float | Tensor | None = None,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross-entropy less the region density: equation 12 of [WAN23], to the letter.

    .. math:: L = CE - D

    with CE the pixel's cross-entropy and D the density of ``density_map``. For those who reproduce
    the paper. Two things were measured:

    - D is 0 until predictions are nearly binary, wherever the windows lie within the image: a
      background at 0.18 has 71 pixels in the gap, more than the threshold of 33. So the term does
      next to nothing early in training. At the border, and on maps of under 10 pixels, it acts
      sooner.
    - Where it acts it rewards noise: the loss falls as an island's density rises. Descent on -D
      alone removes none of the four noise regions of a test image after the paper's figure 9.

    The density has a gradient through its sums, and is twice differentiable.

    Args:
        input: this and the other arguments that are not named here: as for
            ``outlier_region_loss``.
        target: likewise.
        mode: likewise.
        inner: side of the inner window in pixels, odd; one int, or one per spatial axis.
        outer: side of the outer window in pixels, likewise; at least ``inner`` on every axis and
            larger on one. Thick slices want ``inner=(1, 7, 7), outer=(1, 21, 21)``.
        smooth: added to both counts of D, in pixels, > 0.
        threshold: T of ``density_map``, in pixels; None for its default, 33 for 7 x 7.
        from_logits: as for ``outlier_region_loss``.
        pos_weight: likewise.
        class_weights: likewise.
        ignore_index: likewise.
        mask: likewise.
        reduction: likewise.

    Returns:
        The loss, a scalar; with ``reduction="none"`` a map ``(N, C, *spatial)``, or
        ``(N, *spatial)`` in multiclass mode. fp32, or fp64 for fp64 input.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument is out of its range, or shapes or devices do not fit.
        RuntimeError: a class index is out of range (is it ``ignore_index``?).

    Source: [WAN23] eq. 12.

    Example:
        >>> import torch
        >>> logits = torch.full((1, 1, 64, 64), -9.0)
        >>> logits[..., 20:23, 20:23] = 9.0  # a false island, which the density rewards
        >>> loss = density_loss(logits, torch.zeros(1, 1, 64, 64), reduction="none")
        >>> bool(loss[0, 0, 21, 21] < torch.nn.functional.softplus(torch.tensor(9.0)))
        True
    """
    check_settings(inner=inner, outer=outer, smooth=smooth, threshold=threshold)
    scores, cross_entropy = labelled_cross_entropy(
        input, target, mode, from_logits, pos_weight, class_weights, ignore_index, mask
    )
    density = density_of(scores, inner, outer, smooth, threshold)
    return reduce(cross_entropy - density, scores.valid, reduction)
