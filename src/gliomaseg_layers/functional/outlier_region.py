"""The outlier-region loss: cross-entropy with a term for regions too small to be believed."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gliomaseg_layers._checks import (
    BACKENDS,
    FORMULATIONS,
    MODES,
    REDUCTIONS,
    check_bool,
    check_choice,
    check_int,
    check_levels,
    check_not_negative,
    check_positive,
    check_windows,
)
from gliomaseg_layers.functional._cross_entropy import check_weight
from gliomaseg_layers.functional._weighted_loss import weighted_loss

__all__ = ["check_outlier_settings", "outlier_region_loss"]


def outlier_region_loss(
    input: Tensor,
    target: Tensor,
    *,
    mode: str = "binary",
    formulation: str = "balanced",
    inner: int | Sequence[int] = 7,
    outer: int | Sequence[int] = 21,
    smooth: float = 1.0,
    threshold: float | None = None,
    strength: float | None = None,
    levels: Sequence[float] | None = None,
    share: float = 0.1,
    from_logits: bool = True,
    pos_weight: float | Tensor | None = None,
    class_weights: float | Tensor | None = None,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    r"""Cross-entropy with a term for outlier regions: islands too small to be believed.

    With CE the pixel's cross-entropy, :math:`w_t` the weight of ``outlier_weight`` at level t,
    :math:`c_t` the class predicted at the pixel at that level, the mean over the levels, and D the
    density of ``density_map``:

    .. math::
        \text{balanced:} \quad L &= CE \, (1 + k \cdot \mathrm{mean}_t w_t), \quad
            k = \min(\mathrm{strength}, \mathrm{share} \cdot N / W) \\
        \text{suppress:} \quad L &= CE \, (1 + \mathrm{strength} \cdot \mathrm{mean}_t w_t) \\
        \text{penalty:} \quad L &=
            CE - \mathrm{strength} \cdot \mathrm{mean}_t [w_t \log(1 - q_{c_t})] \\
        \text{paper:} \quad L &= CE - D

    - "balanced" and "suppress" follow the label: the cross-entropy inside an outlier region counts
      up to ``1 + strength`` times, which pushes a false island away and a true small region up.
      In "balanced", N is the number of pixels of the image and W the sum of the weights over it:
      the flagged pixels of an image together weigh at most ``share`` of it, however many they are.
      Every image, and every channel of a multilabel map, is balanced by itself.
    - "penalty" needs no label: it pushes every pixel of an outlier region towards the other
      classes, a true small region too.
    - "paper" is eq. 12 of [WAN23] to the letter, for those who reproduce it. D is 0 until
      predictions are nearly binary, wherever the windows lie within the image (a background at
      0.18 has 71 pixels in the gap, more than the threshold of 33), so the term does next to
      nothing early in training; at the border, and on maps of under 10 pixels, it acts sooner.
      Where it acts it rewards noise: the loss falls as an island's density rises, and descent on
      -D alone removes none of the four noise regions of a test image after the paper's figure 9
      (``examples/paper_formulation.py`` shows it).

    Weights are constant in the gradient, so that all but "paper" add pointwise gradients only.
    Their second derivatives are those of the cross-entropy; "paper" is twice differentiable too.
    A program captured with kernels in it (torch.compile, torch.export) has first ones only.

    Known limits of w: an island nearer to a large region of its class than half the outer window
    is not flagged; lines one or two pixels wide are flagged at any length.

    Args:
        input: logits, or probabilities with ``from_logits=False``, ``(N, C, H, W)`` or
            ``(N, C, D, H, W)``. fp16 and bf16 are computed in fp32.
        target: binary and multilabel: the shape of ``input`` (binary also ``(N, *spatial)``),
            bool, integer or floating in [0, 1]; multiclass: class indices ``(N, *spatial)`` or
            ``(N, 1, *spatial)``, or one-hot or soft, floating, ``(N, C, *spatial)``.
        mode: "binary" (C = 1), "multilabel" (C >= 1, independent sigmoid channels) or
            "multiclass" (C >= 2, softmax).
        formulation: "balanced", "suppress", "penalty" or "paper".
        inner: side of the inner window in pixels, odd; one int, or one per spatial axis. Its
            product is the largest area that counts as noise.
        outer: side of the outer window in pixels, likewise; at least ``inner`` on every axis and
            larger on one. Thick slices want ``inner=(1, 7, 7), outer=(1, 21, 21)``.
        smooth: added to both counts of D, in pixels, > 0; "paper" only.
        threshold: pixels; overrides S of ``outlier_weight``, or T of ``density_map`` in "paper".
        strength: weight of the term, >= 0; None for 1000 ("balanced"), 4 ("suppress") or 0.1
            ("penalty"). At 0 all three equal the cross-entropy. "paper" has none.
        levels: probabilities between 0 and 1 at which outlier regions are looked for; None for 0.1,
            0.3 and 0.5 ("balanced"), else 0.5. In multiclass mode levels other than 0.5 take class
            0 for the background. "paper" has none.
        share: what flagged pixels weigh together, of all pixels of their image, at most; > 0.
            "balanced" only.
        from_logits: False where ``input`` holds probabilities in [0, 1]; their logarithms are
            clamped at -100, with zero gradient where the clamp acts, and their gradient saturates
            at the largest number of their dtype.
        pos_weight: weight of the positives' cross-entropy, one number or ``(C,)``; not in
            multiclass mode.
        class_weights: weight of each channel's cross-entropy, one number or ``(C,)``. The mean
            still divides by the number of valid pixels.
        ignore_index: pixels whose target has this value are outside the image: they enter no
            count and no loss and get no gradient. Not with floating multiclass targets.
        mask: boolean, False for pixels outside the image; the shape of the map, ``(N, *spatial)``
            or ``(N, 1, *spatial)``.
        reduction: "none", "mean" (over valid entries; 0 where there are none) or "sum".
        backend: "triton" for its kernels: in 2-D, for logits in fp32, bf16 or fp16, binary and
            multilabel, windows of up to 63 pixels and 8 levels, on a GPU that Triton serves.
            "eager" for torch's operations alone. "auto" takes the kernels where they serve, and
            falls back where they do not. On a CPU binary and multilabel logits have a closed form
            of their own, 2-D and 3-D, which keeps one map for backward, for "paper" two.

    Returns:
        The loss, a scalar; with ``reduction="none"`` a map ``(N, C, *spatial)``, or
        ``(N, *spatial)`` in multiclass mode. fp32, or fp64 for fp64 input.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument is out of its range, or shapes or devices do not fit.
        RuntimeError: ``backend="triton"`` where its kernels cannot run, with the reason; or a class
            index out of range (is it `ignore_index`?).

    Source: [WAN23] eq. 12 ("paper"); the others give its aim a gradient that does it.
    What each does on data, and why the defaults are as they are: docs/outlier_region_loss.md.

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
    settings: dict[str, Any] = {
        "mode": mode,
        "formulation": formulation,
        "inner": inner,
        "outer": outer,
        "smooth": smooth,
        "threshold": threshold,
        "strength": strength,
        "levels": levels,
        "share": share,
        "from_logits": from_logits,
        "pos_weight": pos_weight,
        "class_weights": class_weights,
        "ignore_index": ignore_index,
    }
    check_outlier_settings(**settings, reduction=reduction, backend=backend)
    loss, _ = weighted_loss(
        input,
        target,
        mask=mask,
        weights=(1.0, 0.0, 1.0),
        dice_smooth=None,
        reduction=reduction,
        backend=backend,
        settings=settings,
    )
    return loss


def check_outlier_settings(
    *,
    mode: str,
    formulation: str,
    inner: int | Sequence[int],
    outer: int | Sequence[int],
    smooth: float,
    threshold: float | None,
    strength: float | None,
    levels: Sequence[float] | None,
    share: float,
    from_logits: bool,
    pos_weight: float | Tensor | None,
    class_weights: float | Tensor | None,
    ignore_index: int | None,
    reduction: str,
    backend: str,
) -> None:
    """Check all that needs no input, so that a module fails where it is built."""
    check_choice("mode", mode, MODES)
    check_choice("formulation", formulation, FORMULATIONS)
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("backend", backend, BACKENDS)
    check_windows(inner, outer)
    check_positive("smooth", smooth)
    if threshold is not None:
        check_not_negative("threshold", threshold)
    if strength is not None:
        check_not_negative("strength", strength)
    if levels is not None:
        check_levels("levels", levels)
    check_positive("share", share)
    check_bool("from_logits", from_logits)
    check_weight("pos_weight", pos_weight)
    check_weight("class_weights", class_weights)
    if mode == "multiclass" and pos_weight is not None:
        raise ValueError(
            "`pos_weight` weighs the positives of binary and multilabel channels, "
            "got it with mode='multiclass'; use `class_weights`"
        )
    if ignore_index is not None:
        check_int("ignore_index", ignore_index)
