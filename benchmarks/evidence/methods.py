"""What is compared: functions of logits and mask ``(N, 1, H, W)`` that return the loss.

Every one is BCE + Dice with something added or replaced. The window is that of [WAN23]
(21 pixels on slices of 256) at half the scale: 11, and regions of at most 12 pixels for 49.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from gliomaseg_layers import CompoundLoss, DensityLoss, OutlierRegionLoss, WeightRamp
from gliomaseg_layers.functional import dice_loss, outlier_penalty, outlier_weight

Method = Callable[[Tensor, Tensor], Tensor]
Flag = Callable[[Tensor, Tensor], Tensor]  # logits, shifted to a level, and mask: to weights

STEPS = 200  # of every method after the warm start
NOISE = 12  # pixels
WINDOW = 11
LEVELS = (0.1, 0.3, 0.5)


def ours(
    strength: float = 1000.0, *, share: float | None = None, levels: Sequence[float] = LEVELS
) -> CompoundLoss:
    """Return a CompoundLoss of the library with the scaled window."""
    outlier = OutlierRegionLoss(
        window=WINDOW, max_noise_size=NOISE, levels=levels, strength=strength, share=share
    )
    return CompoundLoss(outlier)


def bce_dice(logits: Tensor, mask: Tensor, *, times: float = 1.0) -> Tensor:
    """Return BCE, counted so many times, + Dice, computed without the term of ours at weight 0."""
    bce = F.binary_cross_entropy_with_logits(logits, mask)
    return times * bce + dice_loss(logits, mask)


def penalised(strength: float, levels: Sequence[float] = (0.5,)) -> Method:
    """Return BCE + Dice + strength x the penalty that needs no label."""
    penalty = partial(outlier_penalty, window=WINDOW, max_noise_size=NOISE, levels=levels)
    return lambda logits, mask: bce_dice(logits, mask) + strength * penalty(logits)


def ramped(loss: CompoundLoss) -> Method:
    """Return the loss with its outlier term coming in over a run, and over the next run anew."""
    ramp = WeightRamp(loss, "gamma", total_steps=STEPS)

    def step(logits: Tensor, mask: Tensor) -> Tensor:
        nonlocal ramp
        if ramp.last_step == STEPS:
            ramp = WeightRamp(loss, "gamma", total_steps=STEPS)
        value: Tensor = loss(logits, mask)
        ramp.step()
        return value

    return step


def dense_flag(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the library's outlier weight at the level 0.5."""
    return outlier_weight(
        logits, from_logits=True, window=WINDOW, max_noise_size=NOISE, levels=(0.5,)
    )


def shifted(logits: Tensor, level: float) -> Tensor:
    """Return logits, without gradient, above 0 where the probability is above a level."""
    return logits.detach() - math.log(level / (1 - level))


def component_flag(logits: Tensor, mask: Tensor) -> Tensor:
    """Flag the pixels of connected components of at most NOISE pixels, islands and holes."""
    white = (logits[:, 0] > 0).numpy(force=True)
    flags = np.zeros(white.shape, np.float32)
    for region, connectivity in ((white, 2), (~white, 1)):
        labels = label_batch(region, connectivity)
        sizes = np.bincount(labels.ravel())
        flags += region & (sizes <= NOISE)[labels]
    return torch.from_numpy(flags).unsqueeze(1).to(logits)


def label_batch(masks: NDArray[np.bool_], connectivity: int) -> NDArray[np.int32]:
    """Number the regions of a batch of masks ``(N, H, W)`` from 1 on."""
    structure = np.zeros((3, 3, 3), bool)
    structure[1] = ndimage.generate_binary_structure(2, connectivity)
    labels: NDArray[np.int32] = ndimage.label(masks, structure)[0]
    return labels


def flagged(strength: float, levels: Sequence[float] = (0.5,), flag: Flag = dense_flag) -> Method:
    """Return BCE + Dice + strength x the mean cross-entropy of flagged pixels.

    Flags at several levels, probabilities that split the classes, are averaged.
    """

    def loss(logits: Tensor, mask: Tensor) -> Tensor:
        weight = torch.stack([flag(shifted(logits, level), mask) for level in levels]).mean(0)
        cost = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
        extra = (weight * cost).sum() / weight.sum().clamp(min=1)
        return bce_dice(logits, mask) + strength * extra

    return loss


def scnp(logits: Tensor, mask: Tensor) -> Tensor:
    """Replace every logit by the worst one of its class in a 3 x 3 window (arXiv 2603.18671)."""
    lowest = -F.max_pool2d(torch.where(mask > 0.5, -logits, -torch.inf), 3, 1, 1)
    highest = F.max_pool2d(torch.where(mask > 0.5, -torch.inf, logits), 3, 1, 1)
    return torch.where(mask > 0.5, lowest, highest)


def scnp_loss(logits: Tensor, mask: Tensor, *, with_plain: bool = False) -> Tensor:
    loss = bce_dice(scnp(logits, mask), mask)
    return loss + bce_dice(logits, mask) if with_plain else loss


def tversky(false_positives: float, gamma: float = 1.0) -> Method:
    """Return BCE + (focal) Tversky; focal as Abraham and Khan (2019), power 3/4."""

    def loss(logits: Tensor, mask: Tensor) -> Tensor:
        import segmentation_models_pytorch as smp  # here, as the others serve without it

        tversky = smp.losses.TverskyLoss(
            "binary", alpha=false_positives, beta=1 - false_positives, gamma=gamma
        )
        extra: Tensor = tversky(logits, mask)
        return F.binary_cross_entropy_with_logits(logits, mask) + extra

    return loss


def hausdorff(logits: Tensor, mask: Tensor) -> Tensor:
    """Add MONAI's distance-transform loss at the weight that makes both halves equal (Karimi)."""
    from monai.losses.hausdorff_loss import HausdorffDTLoss  # likewise

    base = bce_dice(logits, mask)
    distance: Tensor = HausdorffDTLoss(sigmoid=True, include_background=True)(logits, mask)
    return base + distance * (base / distance.clamp(min=1e-6)).detach()


def boundary(logits: Tensor, mask: Tensor, *, weight: float = 0.01) -> Tensor:
    """Add the mean of probability x signed distance to the boundary (Kervadec et al., 2019)."""
    distances = np.zeros(mask.shape, np.float32)
    for index, truth in enumerate(mask[:, 0].numpy(force=True) > 0.5):
        if truth.any():
            inside = ndimage.distance_transform_edt(truth)
            distances[index, 0] = ndimage.distance_transform_edt(~truth) - inside
    signed = torch.from_numpy(distances).to(logits)
    return bce_dice(logits, mask) + weight * (logits.sigmoid() * signed).mean()


def blob(logits: Tensor, mask: Tensor) -> Tensor:
    """Return 2 x the loss + the mean over true regions, others masked out (Kofler et al., 2023)."""
    images = []
    for image, truth in zip(logits, mask, strict=True):
        labels, count = ndimage.label(truth[0].numpy(force=True) > 0.5, np.ones((3, 3)))
        regions = torch.from_numpy(labels).to(logits.device)
        losses = []
        for number in range(1, count + 1):
            one = (regions == number)[None, None]
            use = one | (regions == 0)
            cost = F.binary_cross_entropy_with_logits(image[None], one.float(), reduction="none")
            ce = (cost * use).sum() / use.sum()
            losses.append(ce + dice_loss(image[None], one, mask=use))
        if losses:
            images.append(torch.stack(losses).mean())
    extra = torch.stack(images).sum() / len(logits) if images else 0.0
    return 2 * bce_dice(logits, mask) + extra


def top_k(logits: Tensor, mask: Tensor, *, part: float = 0.1) -> Tensor:
    """Return Dice + the mean of the tenth of the pixels with the highest BCE (as nnU-Net's)."""
    cost = F.binary_cross_entropy_with_logits(logits, mask, reduction="none").flatten()
    hardest = cost.topk(int(part * cost.numel()), sorted=False).values
    return hardest.mean() + dice_loss(logits, mask)


BASELINE = "BCE + Dice"
CONTROL = "BCE twice + Dice"

METHODS: dict[str, Method] = {
    BASELINE: bce_dice,
    CONTROL: partial(bce_dice, times=2.0),
    # Equation 13; the paper's threshold scales as an area does: 33 / 4.
    "density": CompoundLoss(DensityLoss(inner=3, outer=WINDOW, threshold=8), alpha=2.0),
    **{f"one level, strength {s:g}": ours(s, levels=(0.5,)) for s in (1.0, 4.0, 16.0, 1000.0)},
    **{f"strength {s:g}": ours(s) for s in (250.0, 1000.0, 4000.0)},
    "strength 1000, ramped": ramped(ours()),
    **{f"share {s:g}": ours(share=s) for s in (0.03, 0.1, 0.3, 1.0)},
    **{f"penalty {s:g}": penalised(s) for s in (0.03, 0.1, 0.3)},
    **{f"levels, penalty {s:g}": penalised(s, LEVELS) for s in (10.0, 100.0)},
    "mean over flagged 0.5": flagged(0.5),
    **{f"levels, mean over flagged {s:g}": flagged(s, LEVELS) for s in (0.1, 0.5, 1.0)},
    "components, mean over flagged 0.5": flagged(0.5, flag=component_flag),
    "components, levels, mean over flagged 0.5": flagged(0.5, LEVELS, component_flag),
    "Tversky .3/.7": tversky(0.3),
    "Tversky .7/.3": tversky(0.7),
    "focal Tversky": tversky(0.3, 0.75),
    "Hausdorff": hausdorff,
    "boundary": boundary,
    "blob loss": blob,
    "top 10 %": top_k,
    "SCNP": scnp_loss,
    "SCNP + plain": partial(scnp_loss, with_plain=True),
}
