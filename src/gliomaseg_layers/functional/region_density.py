"""The region density of [WAN23]: how much of a pixel's class there is around it, softly counted."""

import math
from collections.abc import Sequence

from torch import Tensor

from gliomaseg_layers._checks import check_settings, check_windows
from gliomaseg_layers._reduction import keep
from gliomaseg_layers.functional._scores import Scores, read_scores
from gliomaseg_layers.functional.box_filter import box_sum, image_count

__all__ = ["default_threshold", "density_map", "density_of"]


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
    check_settings(inner=inner, outer=outer, smooth=smooth, threshold=threshold)
    scores = read_scores(probs, mode, False, valid, name="probs", mask_name="valid")
    return density_of(scores, inner, outer, smooth, threshold)


def density_of(
    scores: Scores,
    inner: int | Sequence[int],
    outer: int | Sequence[int],
    smooth: float | Tensor,
    threshold: float | Tensor | None,
) -> Tensor:
    """Compute ``density_map`` of scores that were read already, with settings that were checked.

    ``smooth`` and ``threshold`` may be 0-d tensors here, so that an exported program can take them
    as inputs.
    """
    spatial = scores.values.shape[2:]
    inner, outer = check_windows(inner, outer, len(spatial))
    if threshold is None:
        threshold = default_threshold(inner)
    probs, predicted = scores.probs(), scores.predicted()
    near = box_sum(probs, inner)
    gap_near = box_sum(probs, outer) - near
    near_size = image_count(scores.inside, probs, inner, probs.dtype)
    gap_size = image_count(scores.inside, probs, outer, probs.dtype) - near_size
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
