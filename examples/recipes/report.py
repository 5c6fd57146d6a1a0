"""Write a run's report.md and its pictures: scores, curves, ROC, overlays, what was tested."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

from examples.lgg.report import PREDICTION, TRUTH, markdown_table, outline
from examples.recipes.evaluation import ISLANDS, OVERLAPS, by_size, compare, predict_items
from examples.recipes.settings import Recipe
from examples.recipes.sources import Item, Source
from examples.recipes.systems import Segmenter
from examples.saving.whole_files import write_whole

SHOWN = 4
CURVES = {
    "train_loss": "Loss, training",
    "val_loss": "Loss, validation",
    "val_accuracy": "Overall accuracy",
    "val_macc": "Mean accuracy",
    "val_miou": "Mean IoU",
}
HEADINGS = {
    "dice": "Dice (= F1)",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "hd95": "HD95",
    "spurious": "spurious regions",
    "holes": "holes",
    "missed": "missed regions",
}


def write_report(
    output: Path,
    recipe: Recipe,
    facts: dict[str, Any],
    results: dict[str, dict[str, Any]],
    trainings: dict[str, dict[str, Any]],
    texts: dict[str, str],
) -> None:
    """Write report.md; ``trainings`` hold each variant's facts, ``texts`` sections as they are."""
    cases = {name: pd.DataFrame(result["cases"]) for name, result in results.items()}
    unit = "mm" if facts["spacing"] else "px"
    slices = {name: pd.DataFrame(result["slices"]) for name, result in results.items()}
    for file, frames in (("scores.csv", cases), ("slices.csv", slices)):
        table = pd.concat({name: frame.assign(variant=name) for name, frame in frames.items()})
        write_whole(output / file, table.to_csv(index=False))
    sections = [
        f"# {recipe.title}",
        f"{facts['data']}, {facts['size']} x {facts['size']} px; {facts['sizes']}; "
        f"{facts['split']}; {facts['folds']}; seeds: {facts['seed']}."
        + (" A smoke test: the figures mean nothing." if facts["smoke"] else ""),
        "## Test cases",
        markdown_table(_scores(cases, results), {}),
        f"Means over cases. HD95 is in {unit}"
        + ("" if facts["spacing"] else ", of slices with the region, as resized")
        + "; where one of prediction and truth is empty it is the image's diagonal. AUROC is of "
        "all test slices' pixels. Spurious regions (which touch no true one), holes and missed "
        "regions are per slice. Where both are empty Dice is 1. The papers' own figures are not "
        "repeated here.",
        "## Training",
        markdown_table(pd.DataFrame(trainings).T, {"seconds": 1, "best epoch": 0}),
        "Validation figures are of the epoch whose checkpoint was kept, over all pixels together. "
        "The change of mIoU is the mean from one epoch to the next, without its sign. Dice in "
        "equal time is the best within the seconds of the fastest training of the fold.",
        "## Dice with smoothing",
        markdown_table(_smoothed(results), {}),
        "(2 |XY| + 1) / (|X| + |Y| + 1) of every slice, all labels as one.",
        "## Dice by size of the region",
        markdown_table(_sizes(results, unit), {}),
        "Of slices, by the diameter of a disc of their area.",
    ]
    if len(cases) > 1:
        tests = compare(cases)
        sections += [
            "## Paired tests",
            markdown_table(tests.set_index("variants"), {"p": 4}),
            "Means of the differences between the same cases, their 95 % intervals by bootstrap "
            "over cases, and Wilcoxon's signed-rank test, two-sided, not corrected for their "
            "number. The loss is cross-entropy + Dice loss of the region; accuracy, mAcc and mIoU "
            "are of region and background.",
        ]
    for title, text in texts.items():
        sections += [f"## {title}", text]
    sections += ["## Pictures", "![Training curves](curves.png)", "![ROC](roc.png)"]
    sections += [f"![{title}]({name})" for name, title in facts["pictures"].items()]
    _draw_roc(output / "roc.png", results)
    write_whole(output / "report.md", "\n\n".join(sections) + "\n")


def _scores(cases: dict[str, pd.DataFrame], results: dict[str, dict[str, Any]]) -> pd.DataFrame:
    rows = {}
    for name, frame in cases.items():
        for region, mine in frame.groupby("region", sort=False):
            means = mine[[*OVERLAPS, "hd95", *ISLANDS]].mean().rename(HEADINGS).to_dict()
            areas = [roc["area"] for roc in results[name]["roc"][region]]
            rows[f"{name}, {region}"] = means | {
                "AUROC": sum(areas) / len(areas),
                "cases": len(mine),
            }
    return pd.DataFrame.from_dict(rows, orient="index").astype({"cases": object})


def _smoothed(results: dict[str, dict[str, Any]]) -> pd.DataFrame:
    rows = {}
    for name, result in results.items():
        frame = pd.DataFrame(result["smoothed"])
        filled = frame.loc[frame["tumour"] > 0, "dice"].mean()
        rows[name] = {"all slices": frame["dice"].mean(), "slices with foreground": filled}
    return pd.DataFrame.from_dict(rows, orient="index")


def _sizes(results: dict[str, dict[str, Any]], unit: str) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    for name, result in results.items():
        table = by_size(pd.DataFrame(result["slices"], columns=["region", "diameter", "dice"]))
        table.index = pd.Index(
            [f"{region}, {size.left:g} to {size.right:g} {unit}" for region, size in table.index]
        )
        columns.setdefault("slices", table["count"].astype(object))
        columns[name] = table["mean"]
    return pd.DataFrame(columns)


def draw_curves(path: Path, histories: dict[str, list[pd.DataFrame]]) -> None:
    """Loss, overall accuracy, mean accuracy and mean IoU by epoch; a line for every fold."""
    matplotlib.use("Agg")
    figure, axes = plt.subplots(1, len(CURVES), figsize=(15, 3.4), layout="constrained")
    for axis, (column, title) in zip(axes, CURVES.items(), strict=True):
        for number, (name, folds) in enumerate(histories.items()):
            for fold, history in enumerate(folds):
                label = None if fold else name
                axis.plot(history["epoch"], history[column], f"C{number}.-", label=label)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=max(len(labels), 1))
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _draw_roc(path: Path, results: dict[str, dict[str, Any]]) -> None:
    matplotlib.use("Agg")
    regions = list(next(iter(results.values()))["roc"])
    figure, axes = plt.subplots(
        1, len(regions), figsize=(4 * len(regions), 4), squeeze=False, layout="constrained"
    )
    for axis, region in zip(axes[0], regions, strict=True):
        for number, (name, result) in enumerate(results.items()):
            for fold, roc in enumerate(result["roc"][region]):
                label = None if fold else name
                axis.plot(roc["false"], roc["true"], color=f"C{number}", label=label)
        axis.plot([0, 1], [0, 1], color="gray", linestyle=":", linewidth=1)
        axis.set_xlabel("false positive rate")
        axis.set_ylabel("true positive rate")
        axis.set_title(f"ROC, {region}", fontsize=10)
        axis.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def choose_slices(source: Source, items: Sequence[Item]) -> list[Item]:
    """The slice with most tumour of each case, as far as so many are shown."""
    most: dict[str, Item] = {}
    for item in items:
        best = most.setdefault(item.case, item)
        if source.tumour_part[item] > source.tumour_part[best]:
            most[item.case] = item
    return sorted(most.values())[:SHOWN]


def draw_slices(
    path: Path,
    source: Source,
    items: Sequence[Item],
    systems: dict[str, Segmenter],
    *,
    heat: bool = False,
) -> None:
    """Outline truth and prediction, all labels as one, on the last channel of the chosen slices.

    With ``heat`` the probability of any label is drawn in the place of the slice.
    """
    matplotlib.use("Agg")
    figure, axes = plt.subplots(
        len(items),
        len(systems),
        figsize=(2.8 * len(systems) + 1, 2.8 * len(items) + 0.8),
        squeeze=False,
        layout="constrained",
    )
    for column, (name, system) in enumerate(systems.items()):
        probs, labels = predict_items(system, source.variant(system.settings), items)
        found = system.output.labels(probs)
        for row, item in enumerate(items):
            axis = axes[row][column]
            if heat:
                heats = system.output.foreground(probs).numpy()
                shown = axis.imshow(heats[row], "inferno", vmin=0, vmax=1)
            else:
                axis.imshow(source.read(item)[0][-1].numpy(), cmap="gray")
            outline(axis, labels[row] > 0, TRUTH)
            outline(axis, found[row] > 0, PREDICTION)
            axis.set_xticks([])
            axis.set_yticks([])
            if column == 0:
                axis.set_ylabel(f"{item.case}\nslice {item.number}", fontsize=7)
            if row == 0:
                axis.set_title(name, fontsize=9)
    if heat:
        figure.colorbar(shown, ax=axes, label="probability", shrink=0.6)
    lines = [Line2D([], [], color=colour) for colour in (TRUTH, PREDICTION)]
    figure.legend(lines, ["truth", "prediction"], loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def pool(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the folds' results together; every fold keeps its own ROC curve."""
    pooled: dict[str, Any] = {
        name: [row for result in results for row in result[name]]
        for name in ("cases", "slices", "smoothed")
    }
    pooled["roc"] = {
        region: [result["roc"][region] for result in results] for region in results[0]["roc"]
    }
    return pooled


def training_facts(history: pd.DataFrame, network: torch.nn.Module, weights: str) -> dict[str, Any]:
    """What the report says of one variant's training."""
    best = history.iloc[int(history["val_dice"].argmax())]
    return {
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "weights at the start": weights,
        "epochs": len(history),
        "best epoch": int(best["epoch"]),
        "loss": float(best["val_loss"]),
        "accuracy": float(best["val_accuracy"]),
        "mAcc": float(best["val_macc"]),
        "mIoU": float(best["val_miou"]),
        "change of mIoU": float(history["val_miou"].diff().abs().mean()),
        "Dice": float(best["val_dice"]),
        "seconds": float(history["seconds"].sum()),
    }


def dice_within(history: pd.DataFrame, seconds: float) -> float:
    """Return the best validation Dice that a training had after so many seconds."""
    return float(history.loc[history["seconds"].cumsum() <= seconds, "val_dice"].max())
