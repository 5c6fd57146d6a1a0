"""Score a system on its test slices: by case, region and tumour size, with ROC curves."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from numpy.typing import NDArray
from scipy.stats import bootstrap, wilcoxon
from sklearn.metrics import auc, classification_report, roc_curve
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_stat_scores

from examples.recipes.data import Samples, normalisation
from examples.recipes.sources import POSITION, Item, Source
from examples.recipes.systems import PresenceClassifier, Segmenter
from gliomaseg_layers.functional import dice_loss
from gliomaseg_layers.metrics import count_regions

SIZES = (0.0, 5.0, 20.0, 50.0, np.inf)  # tumour's diameters, in mm or pixels
LEVELS = 1001  # of probability, for the ROC curve
OVERLAPS = ("dice", "iou", "precision", "recall")
ISLANDS = ("spurious", "holes", "missed")
TESTED = ("dice", "iou", "loss", "accuracy", "macc", "miou", *ISLANDS)


def evaluate(system: Segmenter, source: Source, items: Sequence[Item]) -> dict[str, Any]:
    """Score every case's slices together; several processes share the cases among them.

    Returns:
        ``cases``: rows of case, region and figures; ``slices``: rows of single slices with
        tumour; ``smoothed``: Dice with smoothing of every slice, and whether it has tumour;
        ``roc``: for every region its curve.
    """
    many = dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if many else (0, 1)
    whole = {case: list(group) for case, group in groupby(sorted(items), lambda item: item.case)}
    result: dict[str, Any] = {"cases": [], "slices": [], "smoothed": [], "levels": []}
    for case in sorted(whole)[rank::world]:
        probs, labels = predict_items(system, source, whole[case])
        found = system.output.labels(probs)
        numbers = [item.number for item in whole[case]]
        gaps = source.spacing is not None and numbers[-1] - numbers[0] >= len(numbers)
        for region, members in source.regions.items():
            inside = torch.tensor(members)
            predicted, true = torch.isin(found, inside), torch.isin(labels, inside)
            row = {"case": case, "region": region} | overlaps(predicted, true)
            row |= accuracies(predicted, true) | islands(predicted, true)
            row["loss"] = _loss(system.output.region(probs, members), true)
            row["hd95"] = float("nan") if gaps else hausdorff(predicted, true, source.spacing)
            result["cases"].append(row)
            rows = _slice_rows(whole[case], region, predicted, true, source.spacing)
            result["slices"] += list(rows)
            result["levels"].append((region, _levels(system.output.region(probs, members), true)))
        result["smoothed"] += _smoothed(found > 0, labels > 0)
    if world > 1:
        parts: list[Any] = [None] * world
        dist.all_gather_object(parts, result)
        result = {name: [row for part in parts for row in part[name]] for name in result}
    levels = result.pop("levels")
    result["roc"] = {
        region: _curve(sum(counts for name, counts in levels if name == region))
        for region in source.regions
    }
    return result


def _levels(probs: Tensor, true: Tensor) -> Tensor:
    """Count the pixels of every level of probability, ``(2, LEVELS)``: outside, inside."""
    bins = (probs.clamp(0, 1) * (LEVELS - 1)).round().long() + LEVELS * true
    return torch.bincount(bins.flatten(), minlength=2 * LEVELS).view(2, LEVELS)


def _curve(counts: Any) -> dict[str, Any]:
    """ROC curve of counted pixels; a case of 155 slices has too many to hold every one."""
    if not counts.sum(1).all():
        return {"false": [], "true": [], "area": float("nan")}
    is_true = np.repeat([0, 1], LEVELS)
    level = np.tile(np.arange(LEVELS), 2)
    false, true, _ = roc_curve(is_true, level, sample_weight=counts.flatten().numpy())
    return {"false": false.tolist(), "true": true.tolist(), "area": float(auc(false, true))}


@torch.no_grad()
def predict_items(
    system: Segmenter, source: Source, items: Sequence[Item]
) -> tuple[Tensor, Tensor]:
    """Return probabilities ``(N, K, H, W)`` and true labels ``(N, H, W)``."""
    pairs = [
        (system.probabilities(images, attributes).cpu(), labels)
        for images, labels, attributes in batches(system, source, items)
    ]
    probs, labels = zip(*pairs, strict=True)
    return torch.cat(probs), torch.cat(labels)


def batches(
    system: Segmenter | PresenceClassifier, source: Source, items: Sequence[Item]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Give batches as a system takes them, on its device, and their labels."""
    normalise = normalisation(system.settings)
    loader = torch.utils.data.DataLoader(
        Samples(source, items), batch_size=system.settings["batch_size"]
    )
    for images, labels, attributes in loader:
        yield normalise(images.to(system.device)), labels, attributes.to(system.device)


def overlaps(predicted: Tensor, true: Tensor) -> dict[str, float]:
    """Return Dice (which is F1), IoU, precision and recall; what is 0 / 0 is 1."""
    tp, fp, _, fn = _counts(predicted, true)
    return {
        "dice": _ratio(2 * tp, 2 * tp + fp + fn),
        "iou": _ratio(tp, tp + fp + fn),
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
    }


def accuracies(predicted: Tensor, true: Tensor) -> dict[str, float]:
    """Return overall accuracy, and the means of accuracy and IoU over region and background."""
    tp, fp, tn, fn = _counts(predicted, true)
    return {
        "accuracy": _ratio(tp + tn, tp + fp + tn + fn),
        "macc": (_ratio(tp, tp + fn) + _ratio(tn, tn + fp)) / 2,
        "miou": (_ratio(tp, tp + fp + fn) + _ratio(tn, tn + fp + fn)) / 2,
    }


def islands(predicted: Tensor, true: Tensor) -> dict[str, float]:
    """Return spurious regions, holes and missed regions, per slice; see ``count_regions``."""
    counts = [count_regions(one, two) for one, two in zip(predicted, true, strict=True)]
    return {name: float(np.mean([getattr(count, name) for count in counts])) for name in ISLANDS}


def _loss(probs: Tensor, true: Tensor) -> float:
    """Return the cross-entropy of a region's probability + its Dice loss, all slices as one."""
    flat, target = probs.flatten().double().clamp(0, 1), true.flatten().double()
    dice = dice_loss(flat.view(1, 1, 1, -1), target.view(1, 1, 1, -1), from_logits=False)
    return float(F.binary_cross_entropy(flat, target) + dice)


def _counts(predicted: Tensor, true: Tensor) -> list[int]:
    """Return the numbers of true and false positives, and of true and false negatives."""
    flat = predicted.int().flatten(), true.int().flatten()
    return binary_stat_scores(*flat, validate_args=False).tolist()[:4]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def hausdorff(predicted: Tensor, true: Tensor, spacing: Sequence[float] | None) -> float:
    """Return the 95 % Hausdorff distance: of the volume in mm, or of slices in pixels.

    Without a spacing it is the mean over the slices that have tumour. Where only one of the two is
    empty it is the diagonal of the image, as the BraTS challenge has it; where both are, 0.
    """
    if spacing is None:
        rows = [
            hausdorff(one[None], two[None], (1.0, 1.0, 1.0))
            for one, two in zip(predicted, true, strict=True)
            if two.any()
        ]
        return float(np.mean(rows)) if rows else float("nan")
    if not predicted.any() and not true.any():
        return 0.0
    sides = [side * step for side, step in zip(true.shape, spacing, strict=True) if side > 1]
    if not predicted.any() or not true.any():
        return float(np.hypot.reduce(sides))
    flat = true.shape[0] == 1
    one, two = ((mask[0] if flat else mask)[None, None] for mask in (predicted, true))
    distance = compute_hausdorff_distance(
        one, two, include_background=True, percentile=95, spacing=list(spacing)[flat:]
    )
    return float(distance)


def _slice_rows(
    items: Sequence[Item],
    region: str,
    predicted: Tensor,
    true: Tensor,
    spacing: Sequence[float] | None,
) -> Iterator[dict[str, Any]]:
    pixel = float(np.prod(spacing[1:])) if spacing else 1.0
    for item, one, two in zip(items, predicted, true, strict=True):
        if two.any():
            diameter = 2 * math.sqrt(int(two.sum()) * pixel / math.pi)  # of a disc of this area
            dice = overlaps(one, two)["dice"]
            of = {"case": item.case, "slice": item.number, "region": region}
            yield of | {"diameter": diameter, "dice": dice}


def _smoothed(predicted: Tensor, true: Tensor) -> list[dict[str, float]]:
    """[LGG-GATE]'s Dice, (2 |XY| + 1) / (|X| + |Y| + 1), of every slice; its constant: ours."""
    losses = dice_loss(
        predicted.unsqueeze(1).float(), true.unsqueeze(1), from_logits=False, reduction="none"
    )
    present = true.flatten(1).any(1)
    return [
        {"dice": 1 - loss, "tumour": float(tumour)}
        for loss, tumour in zip(losses[:, 0].tolist(), present.tolist(), strict=True)
    ]


def by_size(slices: pd.DataFrame) -> pd.DataFrame:
    """Mean Dice and number of slices by the diameter of the tumour's section."""
    bins = pd.cut(slices["diameter"], SIZES, right=False)
    return slices.groupby(["region", bins], observed=True)["dice"].agg(["mean", "count"])


def compare(cases: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Compare the first variant with each other, paired over cases.

    The interval of the mean difference is of 95 %, by 10 000 draws of the cases; p is that of
    Wilcoxon's signed-rank test.
    """
    # Several folds test a case where slices are split; it counts once.
    (first, own), *others = (
        (name, frame.groupby(["case", "region"], sort=False)[list(TESTED)].mean().reset_index())
        for name, frame in cases.items()
    )
    rows = []
    for name, its in others:
        both = own.merge(its, on=["case", "region"])
        for region, pair in both.groupby("region", sort=False):
            for figure in TESTED:
                difference = pair[f"{figure}_x"] - pair[f"{figure}_y"]
                low, high = _interval(difference.to_numpy())
                rows.append(
                    {
                        "variants": f"{first} - {name}",
                        "region": region,
                        "figure": figure,
                        "difference": difference.mean(),
                        "from": low,
                        "to": high,
                        "cases": len(pair),
                        "p": float(wilcoxon(difference).pvalue) if difference.any() else 1.0,
                    }
                )
    return pd.DataFrame(rows)


def _interval(values: NDArray[Any]) -> tuple[float, float]:
    if len(values) < 2:
        return math.nan, math.nan
    found = bootstrap([values], np.mean, n_resamples=9999, method="percentile", rng=0)
    low, high = found.confidence_interval
    return float(low), float(high)


@torch.no_grad()
def presence_report(system: PresenceClassifier, source: Source, items: Sequence[Item]) -> str:
    """scikit-learn's classification report of the gate."""
    true, found = [], []
    for images, labels, _ in batches(system, source, items):
        found += (system(images) > 0).tolist()
        true += labels.flatten(1).any(1).tolist()
    return str(
        classification_report(
            true, found, labels=[False, True], target_names=["no tumour", "tumour"], zero_division=0
        )
    )


def importance(
    system: Segmenter, source: Source, items: Sequence[Item], *, repeats: int, seed: int
) -> pd.DataFrame:
    """Return how much pooled Dice falls when an attribute's values are shuffled among the cases."""
    rng = np.random.default_rng(seed)
    known = torch.stack([source.read(item)[2] for item in items])
    names = [column.split("=")[0] for column in source.columns]
    cases = sorted({item.case for item in items})
    rank = torch.tensor([cases.index(item.case) for item in items])
    first = torch.stack([known[rank == i][0] for i in range(len(cases))])
    whole = _pooled_dice(system, source, items, known)
    rows = []
    for name in dict.fromkeys(names):
        mine = torch.tensor([other == name for other in names])
        falls = []
        for _ in range(repeats):
            shuffled = known.clone()
            if name == POSITION:  # it belongs to the slice, not to the patient
                shuffled[:, mine] = known[rng.permutation(len(items))][:, mine]
            else:
                shuffled[:, mine] = first[rng.permutation(len(cases))][rank][:, mine]
            # A patient without attributes keeps none, and passes no NaN on to others.
            unknown = known.isnan().any(1, keepdim=True)
            shuffled = torch.where(unknown, known, shuffled.nan_to_num(0.0))
            falls.append(whole - _pooled_dice(system, source, items, shuffled))
        rows.append({"attribute": name, "fall": np.mean(falls), "spread": np.std(falls)})
    return pd.DataFrame(rows).sort_values("fall", ascending=False)


@torch.no_grad()
def _pooled_dice(
    system: Segmenter, source: Source, items: Sequence[Item], attributes: Tensor
) -> float:
    both = total = 0
    rows: Iterable[Tensor] = torch.split(attributes, system.settings["batch_size"])
    for (images, labels, _), known in zip(batches(system, source, items), rows, strict=True):
        probs = system.probabilities(images, known.to(system.device)).cpu()
        found = system.output.labels(probs) > 0
        both += int((found & (labels > 0)).sum())
        total += int(found.sum() + (labels > 0).sum())
    return 2 * both / total if total else 1.0
