"""What the outlier-region loss sees in a batch, in numbers to be logged."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gliomaseg_layers._checks import check_settings
from gliomaseg_layers._reduction import keep
from gliomaseg_layers.functional._cross_entropy import labelled_cross_entropy
from gliomaseg_layers.functional._scores import read_scores
from gliomaseg_layers.functional.outlier_region import balance
from gliomaseg_layers.functional.outlier_weight import outlier_weight_of

__all__ = ["OutlierReport", "outlier_report"]


class OutlierReport(NamedTuple):
    """What ``outlier_report`` returns.

    Attributes:
        pixels: the flagged part of the pixels, ``(C, levels)``.
        cross_entropy: the part of the cross-entropy that lies on them, ``(C, levels)``; None
            without a target.
        k: the balance of every image, ``(N, C)``, or ``(N,)`` in multiclass mode.
    """

    pixels: Tensor
    cross_entropy: Tensor | None
    k: Tensor


@torch.no_grad()
def outlier_report(
    input: Tensor,
    target: Tensor | None = None,
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
) -> OutlierReport:
    r"""Say how much of a batch the outlier-region loss flags, and how hard it would push.

    With the weight :math:`w_t` of ``outlier_weight`` at each level t, and CE the pixel's
    cross-entropy, sums being over the valid pixels of the batch,

    .. math::
        \mathrm{pixels}_{c,t} = \frac{\sum_p [w_t(p) > 0, \, p \in c]}{\sum_p 1} \qquad
        \mathrm{cross\_entropy}_{c,t} = \frac{\sum_p CE(p) [w_t(p) > 0, \, p \in c]}{\sum_p CE(p)}

    and k as in ``outlier_region_loss``. In multiclass mode :math:`p \in c` are the pixels predicted
    as class c, so that a row's parts add up over the classes to all that is flagged. In binary and
    multilabel mode c is a channel, with sums of its own; islands and holes are flagged alike.

    Nothing has a gradient. The loss computes none of it: call this now and then.

    Args:
        input: as for ``outlier_region_loss``, and so are all others.
        target: likewise; None leaves the part of the cross-entropy out.
        mode: "binary", "multilabel" or "multiclass".
        window: side of the window in pixels, odd; one int, or one per spatial axis.
        max_noise_size: the largest number of pixels that counts as noise.
        levels: probabilities at which outlier regions are looked for.
        strength: the largest k.
        share: the most that k w may add up to over an image, as a part of its pixels.
        from_logits: False where ``input`` holds probabilities.
        pos_weight: weight of the positives' cross-entropy.
        class_weights: weight of each channel's cross-entropy.
        ignore_index: pixels whose target has this value are outside the image.
        mask: boolean, False for pixels outside the image.

    Returns:
        An :class:`OutlierReport`. A part of nothing is 0.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument is out of its range, or shapes or devices do not fit.
        RuntimeError: a class index is out of range.

    Source: of this library.

    Example:
        >>> import torch
        >>> logits = torch.full((1, 1, 64, 64), -3.0)
        >>> logits[..., 20:24, 20:24] = 3.0  # a false island
        >>> report = outlier_report(logits, torch.zeros(1, 1, 64, 64))
        >>> [round(part, 4) for part in report.pixels[0].tolist()]  # 16 of 4096 pixels
        [0.0039, 0.0039, 0.0039]
        >>> [round(part, 2) for part in report.cross_entropy[0].tolist()]
        [0.2, 0.2, 0.2]
    """
    check_settings(
        window=window,
        max_noise_size=max_noise_size,
        levels=levels,
        strength=strength,
        share=share,
    )
    cross_entropy: Tensor | None = None
    if target is None:
        scores = read_scores(input, mode, from_logits, mask)
    else:
        scores, cross_entropy = labelled_cross_entropy(
            input, target, mode, from_logits, pos_weight, class_weights, ignore_index, mask
        )
    weights = [outlier_weight_of(scores, window, max_noise_size, (level,)) for level in levels]
    weight = torch.stack(weights).mean(0)
    images = weight.shape[: 1 if scores.multiclass else 2]
    k = torch.as_tensor(balance(weight, scores, strength, share)).to(weight)
    k = k.reshape(images) if k.dim() else k.expand(images)

    def flagged_part(amount: Tensor) -> Tensor:
        """Return the part of an amount that lies on flagged pixels, ``(C, levels)``."""
        counted = keep(amount, scores.valid)
        total = counted.sum() if scores.multiclass else _sum_by_channel(counted).unsqueeze(1)
        parts = []
        for level, flag in zip(levels, [each > 0 for each in weights], strict=True):
            if scores.multiclass:
                predicted = scores.predicted(level)
                classes = range(input.shape[1])
                part = torch.stack([keep(amount, flag & (predicted == c)).sum() for c in classes])
            else:
                part = _sum_by_channel(keep(amount, flag))
            parts.append(part)
        return torch.stack(parts, 1) / total.clamp(min=torch.finfo(total.dtype).tiny)

    return OutlierReport(
        flagged_part(torch.ones_like(weight)),
        None if cross_entropy is None else flagged_part(cross_entropy),
        k,
    )


def _sum_by_channel(values: Tensor) -> Tensor:
    return values.transpose(0, 1).flatten(1).sum(1)
