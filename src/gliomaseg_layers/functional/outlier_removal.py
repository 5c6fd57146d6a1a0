"""The outlier weight at inference: take small islands and holes out of a prediction."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gliomaseg_layers._checks import check_tensor
from gliomaseg_layers.functional._scores import arithmetic_dtype
from gliomaseg_layers.functional.outlier_weight import outlier_weight

__all__ = ["remove_outlier_regions"]


def remove_outlier_regions(
    input: Tensor,
    *,
    mode: str = "binary",
    window: int | Sequence[int] = 21,
    max_noise_size: float | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Flip the predicted class of every pixel that ``outlier_weight`` flags.

    .. math:: q'(p) = \begin{cases} 1 - q(p) & \text{if } w(p) > 0 \\ q(p) & \text{else} \end{cases}

    A small island becomes background, and a small hole is filled. A pixel whose q is exactly 0.5
    stays black. In multiclass mode the predicted class of a flagged pixel gets probability 0, and
    the others are scaled up to 1, so that the runner-up is predicted. No label and no connected
    components are needed. The flips are not differentiable.

    Limits: those of ``outlier_weight``. An island nearer to a large region of its class than half
    the window stays, a line one or two pixels wide goes at any length, and a true region as
    small as noise goes too. Where components can be computed (on a CPU, after training),
    ``skimage.morphology.remove_small_objects`` has none of the first two.

    Args:
        input: a boolean mask, or probabilities, ``(N, C, *spatial)``; probabilities alone in
            multiclass mode. (Of labels such as 0 and 255 write ``mask > 0``.)
        mode: "binary" (C = 1), "multilabel" (C independent channels) or "multiclass" (C >= 2).
        window: side of the window in pixels, odd; one int, or one per spatial axis.
        max_noise_size: the largest number of pixels that counts as noise; None for
            ``prod(ceil(window / 3))``.
        valid: boolean, True for pixels of the image, as for ``outlier_weight``; others stay.

    Returns:
        The input with flagged pixels flipped, with its shape and dtype.

    Raises:
        TypeError: an argument has the wrong type or dtype, or a mask came in multiclass mode.
        ValueError: an argument is out of its range, or a shape does not fit.

    Source: the density of [WAN23], as exact counts, applied after the network instead of in the
    loss.

    Example:
        >>> import torch
        >>> mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
        >>> mask[..., 5:8, 5:8] = True  # noise
        >>> mask[..., 20:50, 20:50] = True
        >>> mask[..., 35, 35] = False  # a hole
        >>> clean = remove_outlier_regions(mask)
        >>> int(mask.sum()), int(clean.sum())
        (908, 900)
    """
    check_tensor("input", input)
    is_mask = input.dtype == torch.bool
    if is_mask and mode == "multiclass":
        raise TypeError(f"`input` must be probabilities in multiclass mode, got {input.dtype}")
    weight = outlier_weight(
        input.float() if is_mask else input,
        mode=mode,
        window=window,
        max_noise_size=max_noise_size,
        levels=(0.5,),
        valid=valid,
    )
    flagged = weight > 0
    if is_mask:
        return input ^ flagged
    if mode != "multiclass":
        return torch.where(flagged, 1 - input, input)
    # Where the winner had probability 1 the others sum to 0. The tiny number avoids 0 / 0, and they
    # get equal parts.
    wide = arithmetic_dtype(input)
    others = input.to(wide) + torch.finfo(wide).tiny
    others = others.scatter(1, input.max(1, keepdim=True).indices, 0.0)
    shared = (others / others.sum(1, keepdim=True)).to(input.dtype)
    return torch.where(flagged.unsqueeze(1), shared, input)
