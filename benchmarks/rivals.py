"""What ours is measured against, in torch alone: losses of peers, and the paper word by word."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def box_sum_by_convolution(input: Tensor, window: int) -> Tensor:
    """Convolve a one-channel image with a kernel of ones."""
    kernel = torch.ones(1, 1, window, window, dtype=input.dtype, device=input.device)
    return F.conv2d(input, kernel, padding=window // 2)


def box_sum_by_pooling(input: Tensor, window: int) -> Tensor:
    """Undo the mean of an average pooling."""
    return F.avg_pool2d(input, window, stride=1, padding=window // 2, divisor_override=1)


def paper_loss(
    logits: Tensor, target: Tensor, *, box_sum: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Return the mean of CE - D ([WAN23] eq. 12), binary, windows 7 and 21, colour by colour."""
    white = logits.sigmoid()
    predicted = logits > 0
    density = torch.zeros_like(white)
    inside = torch.ones_like(white)
    gap = box_sum(inside, 21) - box_sum(inside, 7)
    for probs, chosen in ((white, predicted), (1 - white, ~predicted)):
        near = box_sum(probs, 7)
        gap_near = box_sum(probs, 21) - near
        mask = (gap_near <= 33.5) & chosen
        density = density + (near + 1) / (gap - gap_near + 1) * mask
    return (F.binary_cross_entropy_with_logits(logits, target, reduction="none") - density).mean()


def monai_dice_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Return MONAI's ``DiceCELoss(sigmoid=True)``: a Dice for each image and channel."""
    probs, axes = logits.sigmoid(), tuple(range(2, logits.dim()))
    overlap = (probs * target).sum(axes)
    total = probs.sum(axes) + target.sum(axes)
    dice = 1 - (2 * overlap + 1e-5) / (total + 1e-5)
    return dice.mean() + F.binary_cross_entropy_with_logits(logits, target)


def smp_dice_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Return smp's ``DiceLoss("binary")`` and ``SoftBCEWithLogitsLoss()``: one Dice for a batch."""
    probs = F.logsigmoid(logits).exp()
    score = 2 * (probs * target).sum() / (probs + target).sum().clamp(min=1e-7)
    dice = (1 - score) * (target.sum() > 0)
    return dice + F.binary_cross_entropy_with_logits(logits, target)
