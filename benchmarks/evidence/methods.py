"""What is compared: losses of logits and labels.

Every one is cross-entropy + Dice (CE + Dice) with something added or replaced.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gliomaseg_layers.functional import (
    density_loss,
    dice_loss,
    outlier_penalty,
    outlier_region_loss,
    outlier_weight,
)


class Batch(NamedTuple):
    """Labels ``(N, *spatial)``, integer, and the number of every true region, 0 for background."""

    labels: Tensor
    regions: Tensor


class Setting(NamedTuple):
    """What a data set tells the losses."""

    mode: str
    window: int
    max_noise_size: int
    most_regions: int  # of an image
    labelled: slice  # the images of a batch that have labels


Method = Callable[[Tensor, Batch, Setting], Tensor]
LEVELS = (0.1, 0.3, 0.5)
STRENGTH = 1000.0


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the map of it, ``(N, *spatial)``."""
    if logits.shape[1] == 1:
        target = labels.unsqueeze(1).to(logits)
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").squeeze(1)
    return F.cross_entropy(logits, labels, reduction="none")


def ce_dice(
    logits: Tensor, batch: Batch, setting: Setting, *, times: float | Tensor = 1.0
) -> Tensor:
    """Return the cross-entropy, counted so many times, + Dice."""
    cost = times * cross_entropy(logits, batch.labels)
    return cost.mean() + dice_loss(logits, batch.labels, mode=setting.mode)


def emphasis(logits: Tensor, setting: Setting, share: float | None) -> Tensor:
    """Return k w of ``outlier_region_loss``, ``(N, *spatial)``."""
    weight = outlier_weight(
        logits.detach(),
        mode=setting.mode,
        from_logits=True,
        window=setting.window,
        max_noise_size=setting.max_noise_size,
        levels=LEVELS,
    )
    if logits.shape[1] == 1:
        weight = weight.squeeze(1)
    if share is None:
        return STRENGTH * weight
    axes = tuple(range(1, weight.dim()))
    total = weight.sum(axes, keepdim=True).clamp(min=1e-30)
    pixels = math.prod(weight.shape[1:])
    return (share * pixels / total).clamp(max=STRENGTH) * weight


def ours(logits: Tensor, batch: Batch, setting: Setting, *, share: float | None) -> Tensor:
    """Return the loss of the library: CE + Dice, the CE under the weight of outlier regions."""
    windows = {"window": setting.window, "max_noise_size": setting.max_noise_size}
    weighed = outlier_region_loss(logits, batch.labels, mode=setting.mode, share=share, **windows)
    return weighed + dice_loss(logits, batch.labels, mode=setting.mode)


def density(logits: Tensor, batch: Batch, setting: Setting) -> Tensor:
    """Return equation 13 of [WAN23], its windows scaled."""
    inner = setting.window // 3 // 2 * 2 + 1
    settings = {"mode": setting.mode, "inner": inner, "outer": setting.window}
    return ce_dice(logits, batch, setting) + density_loss(logits, batch.labels, **settings)


def scnp(logits: Tensor, labels: Tensor, size: int = 3) -> Tensor:
    """Replace every logit by the worst one of its class in a small window (arXiv 2603.18671)."""
    if logits.shape[1] == 1:
        inside = labels.unsqueeze(1) > 0
    else:
        classes = torch.arange(logits.shape[1], device=logits.device)
        inside = labels.unsqueeze(1) == classes.view(-1, *[1] * (labels.dim() - 1))
    pool = partial(F.max_pool2d if logits.dim() == 4 else F.max_pool3d, kernel_size=size)
    lowest = -pool(torch.where(inside, -logits, -torch.inf), stride=1, padding=size // 2)
    highest = pool(torch.where(inside, -torch.inf, logits), stride=1, padding=size // 2)
    return torch.where(inside, lowest, highest)


def scnp_loss(logits: Tensor, batch: Batch, setting: Setting, *, size: int = 3) -> Tensor:
    return ce_dice(scnp(logits, batch.labels, size), batch, setting)


def crossing(
    logits: Tensor, batch: Batch, setting: Setting, *, share: float, size: int = 3
) -> Tensor:
    """Return CE + Dice of the worst neighbours, the CE under the weight of the plain logits."""
    worst = scnp(logits, batch.labels, size)
    return ce_dice(worst, batch, setting, times=1 + emphasis(logits, setting, share))


def crossing_plain_dice(logits: Tensor, batch: Batch, setting: Setting, *, share: float) -> Tensor:
    """Return the same, but Dice of the plain logits."""
    cost = cross_entropy(scnp(logits, batch.labels), batch.labels)
    weighed = (cost * (1 + emphasis(logits, setting, share))).mean()
    return weighed + dice_loss(logits, batch.labels, mode=setting.mode)


def flagged_neighbours(logits: Tensor, batch: Batch, setting: Setting) -> Tensor:
    """Return CE + Dice of the worst neighbours, which are taken inside outlier regions alone."""
    flagged = (emphasis(logits, setting, 1.0) > 0).unsqueeze(1)
    return ce_dice(torch.where(flagged, scnp(logits, batch.labels), logits), batch, setting)


def added(logits: Tensor, batch: Batch, setting: Setting, *, share: float) -> Tensor:
    """Return CE + Dice of the worst neighbours + our term of the plain logits."""
    extra = emphasis(logits, setting, share) * cross_entropy(logits, batch.labels)
    return scnp_loss(logits, batch, setting) + extra.mean()


def blob(logits: Tensor, batch: Batch, setting: Setting) -> Tensor:
    """Return 2 x the loss + the mean over true regions, others masked out (Kofler et al., 2023)."""
    regions = batch.regions.flatten(1).long()

    def sums(values: Tensor) -> Tensor:
        found = values.new_zeros(len(values), setting.most_regions + 1)
        return found.scatter_add(1, regions, values)

    cost, probs = cross_entropy(logits, batch.labels).flatten(1), logits.flatten(1).sigmoid()
    costs, sizes, found = sums(cost), sums(torch.ones_like(cost)), sums(probs)
    ce = (costs[:, :1] + costs[:, 1:]) / (sizes[:, :1] + sizes[:, 1:]).clamp(min=1)
    both = found[:, :1] + found[:, 1:] + sizes[:, 1:]
    dice = 1 - (2 * found[:, 1:] + 1) / (both + 1)
    there = sizes[:, 1:] > 0
    each = ((ce + dice) * there).sum(1) / there.sum(1).clamp(min=1)
    return 2 * ce_dice(logits, batch, setting) + each.mean()


def top_k(logits: Tensor, batch: Batch, setting: Setting, *, part: float = 0.1) -> Tensor:
    """Return Dice + the mean of the tenth of the pixels with the highest CE (as nnU-Net's)."""
    cost = cross_entropy(logits, batch.labels).flatten()
    hardest = cost.topk(int(part * cost.numel()), sorted=False).values
    return hardest.mean() + dice_loss(logits, batch.labels, mode=setting.mode)


def supervised(logits: Tensor, batch: Batch, setting: Setting) -> Tensor:
    """Return CE + Dice of the images that have labels."""
    labels, regions = (values[setting.labelled] for values in batch)
    return ce_dice(logits[setting.labelled], Batch(labels, regions), setting)


def penalised(logits: Tensor, batch: Batch, setting: Setting, *, strength: float) -> Tensor:
    """Return CE + Dice of images with labels + the penalty of those without."""
    penalty = outlier_penalty(
        logits[setting.labelled.stop :],
        mode=setting.mode,
        window=setting.window,
        max_noise_size=setting.max_noise_size,
    )
    return supervised(logits, batch, setting) + strength * penalty


BASELINE = "CE + Dice"
SHARES = (0.03, 0.1, 0.3)

METHODS: dict[str, Method] = {
    BASELINE: ce_dice,
    "CE twice + Dice": partial(ce_dice, times=2.0),
    "ours, share 0.1": partial(ours, share=0.1),
    "SCNP": scnp_loss,
    **{f"crossing, share {s:g}": partial(crossing, share=s) for s in SHARES},
    "crossing 5, share 0.1": partial(crossing, share=0.1, size=5),
    "crossing, share 0.1, Dice of plain logits": partial(crossing_plain_dice, share=0.1),
    "SCNP 5": partial(scnp_loss, size=5),
    "SCNP in outlier regions": flagged_neighbours,
    "SCNP + ours, share 0.1": partial(added, share=0.1),
    "ours, share 0.3": partial(ours, share=0.3),
    "ours, share 1": partial(ours, share=1.0),
    "ours, no share": partial(ours, share=None),
    "density": density,
    "top 10 %": top_k,
    "blob loss": blob,
}
# With some labelled patients, and the others without labels.
FEW_LABELS: dict[str, Method] = {
    BASELINE: supervised,
    **{f"penalty {s:g}": partial(penalised, strength=s) for s in (0.03, 0.1, 0.3, 1.0, 10.0)},
}
