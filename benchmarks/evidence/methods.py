"""What is compared: losses of logits and labels.

Every one is cross-entropy + Dice (CE + Dice) with something added or replaced.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gliomaseg_layers import OutlierRegionLoss
from gliomaseg_layers.functional import (
    density_loss,
    dice_loss,
    outlier_region_loss,
    outlier_weight,
    scnp,
)
from gliomaseg_layers.functional._scores import read_scores


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
    """Return k w of ``outlier_region_loss``, ``(N, *spatial)``: its term where the CE is 1."""
    loss = OutlierRegionLoss(
        setting.mode,
        window=setting.window,
        max_noise_size=setting.max_noise_size,
        share=share,
    )
    scores = read_scores(logits.detach(), setting.mode, True, None)
    if setting.mode == "multiclass":
        return loss.term(scores, torch.ones_like(logits[:, 0]))
    return loss.term(scores, torch.ones_like(logits)).squeeze(1)


def ours(logits: Tensor, batch: Batch, setting: Setting, *, share: float | None) -> Tensor:
    """Return the loss of the library: CE + Dice, the CE under the weight of outlier regions."""
    weighed = outlier_region_loss(
        logits,
        batch.labels,
        mode=setting.mode,
        window=setting.window,
        max_noise_size=setting.max_noise_size,
        share=share,
    )
    return weighed + dice_loss(logits, batch.labels, mode=setting.mode)


def density(logits: Tensor, batch: Batch, setting: Setting) -> Tensor:
    """Return equation 13 of [WAN23], its windows scaled."""
    inner = setting.window // 3 // 2 * 2 + 1
    return ce_dice(logits, batch, setting) + density_loss(
        logits, batch.labels, mode=setting.mode, inner=inner, outer=setting.window
    )


def worst(logits: Tensor, batch: Batch, setting: Setting, size: int) -> Tensor:
    """Return SCNP's logits."""
    return scnp(logits, batch.labels, mode=setting.mode, size=size)


def scnp_loss(logits: Tensor, batch: Batch, setting: Setting, *, size: int = 3) -> Tensor:
    return ce_dice(worst(logits, batch, setting, size), batch, setting)


def crossing(
    logits: Tensor, batch: Batch, setting: Setting, *, share: float, size: int = 3
) -> Tensor:
    """Return CE + Dice of SCNP's logits, the CE under the weight of the plain ones."""
    weight = 1 + emphasis(logits, setting, share)
    return ce_dice(worst(logits, batch, setting, size), batch, setting, times=weight)


def flagged_neighbours(logits: Tensor, batch: Batch, setting: Setting) -> Tensor:
    """Return CE + Dice of SCNP's logits inside outlier regions, of the plain ones elsewhere."""
    flagged = (emphasis(logits, setting, 1.0) > 0).unsqueeze(1)
    chosen = torch.where(flagged, worst(logits, batch, setting, 3), logits)
    return ce_dice(chosen, batch, setting)


def within_one_class(logits: Tensor, batch: Batch, setting: Setting, *, size: int = 5) -> Tensor:
    """Return CE + Dice of SCNP's logits, but of the plain ones where a window holds two classes."""
    pool = F.max_pool2d if logits.dim() == 4 else F.max_pool3d
    classes = torch.arange(logits.shape[1], device=logits.device) + (logits.shape[1] == 1)
    member = batch.labels.unsqueeze(1) == classes.view(-1, *[1] * (logits.dim() - 2))
    most, least = (
        sign * pool(sign * member.float(), size, stride=1, padding=size // 2) for sign in (1, -1)
    )
    chosen = torch.where(most == least, worst(logits, batch, setting, size), logits)
    return ce_dice(chosen, batch, setting)


def apart(logits: Tensor, batch: Batch, setting: Setting, *, ce: int, dice: int) -> Tensor:
    """Return CE and Dice, each of SCNP's logits in a window of its own; 1 takes the plain ones."""
    cost = cross_entropy(worst(logits, batch, setting, ce), batch.labels).mean()
    return cost + dice_loss(worst(logits, batch, setting, dice), batch.labels, mode=setting.mode)


def weighed_apart(logits: Tensor, batch: Batch, setting: Setting, *, share: float) -> Tensor:
    """Return CE of SCNP's logits under the weight of the plain ones + Dice of the plain ones."""
    cost = cross_entropy(worst(logits, batch, setting, 3), batch.labels)
    weighed = (cost * (1 + emphasis(logits, setting, share))).mean()
    return weighed + dice_loss(logits, batch.labels, mode=setting.mode)


def mixed(
    logits: Tensor,
    batch: Batch,
    setting: Setting,
    *,
    size: int,
    plain: float = 0.5,
    share: float | None = None,
) -> Tensor:
    """Return CE + Dice, a part of the plain logits, the rest of SCNP's; maybe + our term."""
    loss = plain * ce_dice(logits, batch, setting)
    loss = loss + (1 - plain) * scnp_loss(logits, batch, setting, size=size)
    if share is None:
        return loss
    return loss + (emphasis(logits, setting, share) * cross_entropy(logits, batch.labels)).mean()


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
    """Return CE + Dice of images with labels + the mean of -w log(1 - q) of those without.

    q is of the predicted class, so that every island is pushed towards the others.
    """
    unlabelled = logits[setting.labelled.stop :]
    weight = outlier_weight(
        unlabelled.detach(),
        mode=setting.mode,
        from_logits=True,
        window=setting.window,
        max_noise_size=setting.max_noise_size,
        levels=(0.5,),
    )
    if setting.mode == "binary":
        cost = -F.logsigmoid(-unlabelled.abs())
    else:
        log_q = F.log_softmax(unlabelled, 1)
        predicted = log_q.argmax(1, keepdim=True)
        cost = -log_q.scatter(1, predicted, -torch.inf).logsumexp(1)
    return supervised(logits, batch, setting) + strength * (weight * cost).mean()


BASELINE = "CE + Dice"

METHODS: dict[str, Method] = {
    BASELINE: ce_dice,
    "CE twice + Dice": partial(ce_dice, times=2.0),
    **{f"ours, share {share:g}": partial(ours, share=share) for share in (0.1, 0.3, 1.0)},
    "ours, no share": partial(ours, share=None),
    "density": density,
    "top 10 %": top_k,
    "blob loss": blob,
    "SCNP": scnp_loss,
    "SCNP 5": partial(scnp_loss, size=5),
    **{f"plain and SCNP {size}": partial(mixed, size=size) for size in (3, 5, 7)},
    # SCNP and our weight, crossed.
    "plain and SCNP 5 + ours, share 0.1": partial(mixed, size=5, share=0.1),
    "SCNP + ours, share 0.1": partial(mixed, size=3, plain=0.0, share=0.1),
    **{f"crossing, share {share:g}": partial(crossing, share=share) for share in (0.03, 0.1, 0.3)},
    "crossing 5, share 0.1": partial(crossing, share=0.1, size=5),
    "crossing, share 0.1, Dice of plain logits": partial(weighed_apart, share=0.1),
    "SCNP in outlier regions": flagged_neighbours,
    # Where SCNP acts.
    "CE of SCNP 5": partial(apart, ce=5, dice=1),
    "Dice of SCNP 5": partial(apart, ce=1, dice=5),
    "within 5": within_one_class,
}
MAIN = (BASELINE, "ours, share 0.1", "SCNP")  # in all folds of all sets but volumes
# With some labelled patients, and the others without labels.
FEW_LABELS: dict[str, Method] = {
    BASELINE: supervised,
    **{f"penalty {s:g}": partial(penalised, strength=s) for s in (0.03, 0.1, 0.3, 1.0, 10.0)},
}
