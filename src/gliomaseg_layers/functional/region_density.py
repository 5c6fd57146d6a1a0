"""How dense a pixel's class is around it: the paper's soft density and the exact outlier weight."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gliomaseg_layers._checks import (
    check_bool,
    check_levels,
    check_not_negative,
    check_positive,
    check_windows,
)
from gliomaseg_layers._reduction import keep
from gliomaseg_layers.functional._scores import Scores
from gliomaseg_layers.functional.box_filter import box_count, box_sum

__all__ = [
    "default_threshold",
    "density_map",
    "density_of",
    "outlier_weight",
    "outlier_weights_of",
]


def density_map(
    probs: Tensor,
    *,
    mode: str = "binary",
    inner: int | Sequence[int] = 7,
    outer: int | Sequence[int] = 21,
    smooth: float = 1.0,
    threshold: float | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Compute the region density D of [WAN23], of the class predicted at each pixel.

    With :math:`N_i, N_j` the inner and outer window around :math:`p`, clipped at the border of
    the image :math:`\Omega`, and :math:`q_c` the probability of class :math:`c`,

    .. math::
        A_c &= \sum_{N_i \cap \Omega} q_c, \qquad
        \mathrm{gap}_c = \sum_{N_j \cap \Omega} q_c - A_c, \qquad
        \mathrm{gap} = |N_j \cap \Omega| - |N_i \cap \Omega| \\
        D(p) &= \frac{A_{c^*} + \mathrm{smooth}}
                     {\mathrm{gap} - \mathrm{gap}_{c^*} + \mathrm{smooth}}
        \; [\mathrm{gap}_{c^*} \le T + 0.5]

    where :math:`c^*` is the class predicted at :math:`p` (argmax, ties to the lower class; white
    where :math:`q > 0.5` in binary and multilabel mode, whose channels are two classes each). D is
    differentiable in ``probs`` through the sums; :math:`c^*` and the bracket are piecewise
    constant, so second derivatives exist wherever first ones do.

    T defaults to ``prod(inner) - prod(ceil(inner / 2))``, the count at the corner of an isolated
    region as large as the inner window: 33 for 7 x 7. (The paper's text calls Ceil "a round-down
    operation", which would give 40; its figure 5 shows 33.) The half added to T keeps a corner
    whose gap is exactly T from depending on rounding.

    Args:
        probs: probabilities ``(N, C, *spatial)``; fp16 and bf16 are computed in fp32.
        mode: "binary" (C = 1), "multilabel" (C independent channels) or "multiclass" (C >= 2).
        inner: side of the inner window in pixels, odd; one int, or one per spatial axis.
        outer: side of the outer window in pixels, likewise; at least ``inner`` on every axis and
            larger on one. Thick slices want ``(1, 7, 7)`` and ``(1, 21, 21)``.
        smooth: added to both counts, in pixels; > 0.
        threshold: T, in pixels; None for the default.
        valid: boolean, True for pixels of the image; the shape of the result, ``(N, *spatial)`` or
            ``(N, 1, *spatial)``. Others enter no count, and D is 0 there.

    Returns:
        D, ``(N, C, *spatial)``, or ``(N, *spatial)`` in multiclass mode; fp32, or fp64 for fp64.

    Raises:
        TypeError: ``probs`` is not floating, or an argument has the wrong type.
        ValueError: an argument is out of its range, or a shape does not fit.

    Source: [WAN23] eq. 4-11 (eq. 9 and 10 are both headed MaskBlack; the first is MaskWhite).

    Example:
        >>> import torch
        >>> image = torch.zeros(1, 1, 64, 64)
        >>> image[..., 28:35, 28:35] = 1  # an island as large as the inner window
        >>> density = density_map(image)[0, 0]
        >>> float(density[31, 31]), float(density[10, 10])  # (49 + 1) / (392 + 1), background
        (0.12722645699977875, 0.0)
    """
    check_positive("smooth", smooth)
    if threshold is not None:
        check_not_negative("threshold", threshold)
    scores = Scores(probs, mode, False, valid, name="probs", mask_name="valid")
    return density_of(scores, inner, outer, smooth, threshold)


def density_of(
    scores: Scores,
    inner: int | Sequence[int],
    outer: int | Sequence[int],
    smooth: float | Tensor,
    threshold: float | Tensor | None,
) -> Tensor:
    """Compute ``density_map`` of scores that were read already; its numbers were checked.

    They may be 0-d tensors here, so that an exported program can take them as inputs.
    """
    spatial = scores.values.shape[2:]
    inner, outer = check_windows(inner, outer, len(spatial))
    if threshold is None:
        threshold = default_threshold(inner)
    probs, predicted = scores.probs(), scores.predicted()
    near = box_sum(probs, inner)
    gap_near = box_sum(probs, outer) - near
    near_size = _window_size(scores, inner, probs.dtype)
    gap_size = _window_size(scores, outer, probs.dtype) - near_size
    if scores.multiclass:
        predicted = predicted.unsqueeze(1)
        near, gap_near = near.gather(1, predicted), gap_near.gather(1, predicted)
    else:
        near = near.where(predicted, near_size - near)
        gap_near = gap_near.where(predicted, gap_size - gap_near)
    # Rounding may leave the difference a hair below 0, which a small `smooth` would not absorb.
    # Not `clamp`: whether it passes a gradient at 0 itself depends on the version of torch.
    others = gap_size - gap_near
    density = (near + smooth) / (others.where(others >= 0, 0.0) + smooth)
    density = density.where(gap_near <= threshold + 0.5, 0.0)
    return keep(density.squeeze(1) if scores.multiclass else density, scores.valid)


def default_threshold(inner: tuple[int, ...]) -> int:
    """Return T: what a corner pixel of a region as large as the inner window has in its gap."""
    return math.prod(inner) - math.prod([(side + 1) // 2 for side in inner])


def outlier_weight(
    input: Tensor,
    *,
    mode: str = "binary",
    from_logits: bool = False,
    inner: int | Sequence[int] = 7,
    outer: int | Sequence[int] = 21,
    threshold: float | None = None,
    levels: Sequence[float] = (0.5,),
    valid: Tensor | None = None,
) -> Tensor:
    r"""Flag the pixels of outlier regions, and weigh them by how much of an outlier they are.

    With :math:`J(p)` the number of pixels in the outer window around :math:`p` whose predicted
    class is that of :math:`p`, and :math:`n(p)` the number of all pixels of the image in it,

    .. math::
        w(p) = \begin{cases}
            1 - J / n & \text{if } J \le S \text{ and } 2 J \le n \\
            0 & \text{else}
        \end{cases}

    so a pixel is flagged when its class fills at most S pixels of its outer window. S is the
    largest area that counts as noise, ``prod(inner)`` by default: every pixel of a lone region of
    at most 7 x 7 is flagged, no pixel of a lone 8 x 8. The counts are exact integers, w lies in
    [0.5, 1) where it is not 0, and it carries no gradient.

    At a level t other than 0.5 the class is the argmax of :math:`t q_0` and of :math:`(1 - t) q_c`
    of the other classes, class 0 being the background: white where :math:`q > t` in binary and
    multilabel mode. A low level sees islands that are about to appear. Of several levels w is the
    mean.

    Limits: an island nearer to a large region of its class than half the outer window is not
    flagged, and a line one or two pixels wide is flagged at any length.

    Args:
        input: probabilities, or logits with ``from_logits``, ``(N, C, *spatial)``.
        mode: "binary" (C = 1), "multilabel" (C independent channels) or "multiclass" (C >= 2).
        from_logits: whether ``input`` are logits.
        inner: side of the largest square (cube) that counts as noise, in pixels, odd; one int, or
            one per spatial axis. Only its product matters here.
        outer: side of the outer window in pixels, likewise; at least ``inner`` on every axis and
            larger on one.
        threshold: S, in pixels; None for ``prod(inner)``.
        levels: probabilities between 0 and 1 at which the predicted class is taken.
        valid: boolean, True for pixels of the image; the shape of the result, ``(N, *spatial)`` or
            ``(N, 1, *spatial)``. Others enter no count, and w is 0 there.

    Returns:
        w, ``(N, C, *spatial)``, or ``(N, *spatial)`` in multiclass mode; fp32, or fp64 for fp64.

    Raises:
        TypeError: ``input`` is not floating, or an argument has the wrong type.
        ValueError: an argument is out of its range, or a shape does not fit.

    Source: after the aim of [WAN23] 3.3 ("the lower the density, the greater the need to assign a
    greater loss value"); one window and hard counts replace its eq. 4-11.

    Example:
        >>> import torch
        >>> image = torch.zeros(1, 1, 64, 64)
        >>> image[..., 8:15, 8:15] = 1  # 7 x 7: noise
        >>> image[..., 40:48, 40:48] = 1  # 8 x 8: a region
        >>> weight = outlier_weight(image)[0, 0]
        >>> float(weight[11, 11]), float(weight[44, 44]), int((weight > 0).sum())
        (0.8888888955116272, 0.0, 49)
    """
    check_bool("from_logits", from_logits)
    check_levels("levels", levels)
    if threshold is not None:
        check_not_negative("threshold", threshold)
    scores = Scores(input, mode, from_logits, valid, mask_name="valid")
    weights = outlier_weights_of(scores, inner, outer, threshold, levels)
    return torch.stack(weights).mean(0)


def outlier_weights_of(
    scores: Scores,
    inner: int | Sequence[int],
    outer: int | Sequence[int],
    threshold: float | Tensor | None,
    levels: Sequence[float],
) -> list[Tensor]:
    """Compute ``outlier_weight`` of scores that were read already, one for each level.

    Its numbers were checked; ``threshold`` may be a 0-d tensor, as in ``density_of``.
    """
    inner, outer = check_windows(inner, outer, scores.values.dim() - 2)
    volume = math.prod(outer)
    if threshold is None:
        threshold = math.prod(inner)
    if not isinstance(threshold, Tensor):
        threshold = min(threshold, volume)  # which cannot overflow the narrow integers below
    # Narrow integers are exact here and several times cheaper to add than floats.
    dtype = torch.int16 if volume < 2**15 else torch.int32
    size = _window_size(scores, outer, dtype)
    if scores.multiclass:
        size = size.squeeze(1)
    weights = []
    for level in levels:
        same = _same_class(scores, scores.predicted(level), size, outer)
        # J <= n - J instead of 2 J <= n, which could overflow.
        flagged = (same <= threshold) & (same <= size - same)
        floating = scores.values.dtype
        weight = 1 - same.to(floating) / size.clamp(min=1).to(floating)
        weights.append(keep(weight.where(flagged, 0.0), scores.valid))
    return weights


def _same_class(scores: Scores, predicted: Tensor, size: Tensor, window: tuple[int, ...]) -> Tensor:
    """Count the pixels in every window whose class is that of the pixel in its centre."""
    if not scores.multiclass:
        white = box_sum(keep(predicted.to(size.dtype), scores.inside), window)
        return white.where(predicted, size - white)
    classes = torch.arange(scores.values.shape[1], device=predicted.device)
    classes = classes.view([-1] + [1] * len(window))
    predicted = predicted.unsqueeze(1)
    count = box_sum(keep((predicted == classes).to(size.dtype), scores.inside), window)
    return count.gather(1, predicted).squeeze(1)


def _window_size(scores: Scores, window: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Count the pixels of the image in every window: ``(N or 1, C or 1, *spatial)``."""
    if scores.inside is None:
        spatial = scores.values.shape[2:]
        return box_count(spatial, window, dtype=dtype, device=scores.values.device)
    return box_sum(scores.inside.to(dtype), window)
