"""Write report.md and its pictures: what each loss left on the held-out slices."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from torch import Tensor

from examples.density_loss import draw_noise_test
from examples.lgg.data import Slice, patient_key, read_image
from examples.lgg.evaluation import slice_dice

HEADINGS = {
    "spurious": "spurious regions",
    "noise": "of them noise",
    "holes": "holes",
    "missed": "missed regions",
    "dice_tumour": "Dice, slices with tumour",
    "dice_all": "Dice, all slices",
    "dice_pooled": "Dice, pooled",
}
SHOWN_SLICES = 4
TRUTH, PREDICTION = "red", "lime"


def write_report(
    output: Path,
    scores: pd.DataFrame,
    history: pd.DataFrame,
    held_out: Sequence[Slice],
    attributes: pd.DataFrame,
    predictions: dict[str, Tensor],
    masks: Tensor,
    size: tuple[int, int],
    options: argparse.Namespace,
) -> None:
    """Write report.md, noise_test.png, overlays.png, heat_maps.png and curves.png."""
    matplotlib.use("Agg")
    draw_noise_test(output / "noise_test.png")
    continued = {name: probs for name, probs in predictions.items() if name != scores.index[0]}
    chosen = _most_different(continued, masks, held_out)
    _draw_slices(output / "overlays.png", chosen, held_out, continued, masks, size, heat=False)
    _draw_slices(output / "heat_maps.png", chosen, held_out, continued, masks, size, heat=True)
    _draw_curves(output / "curves.png", history)

    table = scores.rename(columns=HEADINGS)
    decimals = {name: 3 if "Dice" in name else 1 for name in table.columns}
    text = f"""# What the outlier term did

{"The LGG Segmentation Dataset" if options.data else "Generated slices, no patient's data"}, \
{size[1]} x {size[0]} px; {len(masks)} held-out slices of \
{len({piece.patient for piece in held_out})} patients, {int(masks.flatten(1).any(1).sum())} with \
tumour. {options.warm_epochs} epochs of warm start with BCE + Dice; from there {options.epochs} \
more with each loss, on the same batches; seed {options.seed}.

{markdown_table(table, decimals)}

Counts are per 100 slices, of regions where the probability is above 0.5, connected by edges or \
corners. *Spurious* regions touch no true pixel, and are *noise* if they have at most 49 px; \
*holes* are background that a predicted region encloses; *missed* regions are true and touch no \
predicted pixel. Dice is 1 where prediction and truth are both empty; *pooled*, it is of the \
pixels of all slices together.

One split and one seed: this table cannot tell an effect of the loss from the luck of the seed.

## Pictures

What the losses make of noise, on the test image of the paper's figure 9:

![Noise test](noise_test.png)

Held-out slices on which the two losses differ most (red: truth, green: prediction):

![Overlays](overlays.png)

The probabilities behind them:

![Probability heat maps](heat_maps.png)

Training:

![Training curves](curves.png)

## Held-out patients

Dice over the patient's slices with tumour.

{markdown_table(_by_patient(held_out, attributes, continued, masks), {})}
"""
    (output / "report.md").write_text(text, encoding="utf-8")


def markdown_table(table: pd.DataFrame, decimals: dict[str, int]) -> str:
    def cell(value: Any, column: Any) -> str:
        if pd.isna(value):
            return "-"
        return f"{value:.{decimals.get(column, 3)}f}" if isinstance(value, float) else str(value)

    rows = [
        [str(name), *(cell(value, column) for column, value in row.items())]
        for name, row in table.iterrows()
    ]
    header = ["", *table.columns]
    lines = [header, ["---", *["---:"] * len(table.columns)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _by_patient(
    held_out: Sequence[Slice],
    attributes: pd.DataFrame,
    predictions: dict[str, Tensor],
    masks: Tensor,
) -> pd.DataFrame:
    dice = {name: slice_dice(probs, masks) for name, probs in predictions.items()}
    tumour = masks.flatten(1).any(1)
    rows = {}
    for patient in dict.fromkeys(piece.patient for piece in held_out):
        mine = torch.tensor([piece.patient == patient for piece in held_out])
        known = attributes.reindex([patient_key(patient)]).iloc[0]
        rows[patient] = {
            "age": known.get("age_at_initial_pathologic", pd.NA),
            "grade": known.get("neoplasm_histologic_grade", pd.NA),
            "slices": int(mine.sum()),
            "with tumour": int((mine & tumour).sum()),
        } | {
            name: float(values[mine & tumour].mean()) if (mine & tumour).any() else None
            for name, values in dice.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index").astype(object)


def _most_different(
    predictions: dict[str, Tensor], masks: Tensor, held_out: Sequence[Slice]
) -> list[int]:
    """Choose the slices where most pixels are predicted differently, half of them with tumour.

    They are of different patients as far as there is a difference to see.
    """
    found = torch.stack([probs > 0.5 for probs in predictions.values()])
    disputed = (found.any(0) & ~found.all(0)).flatten(1).sum(1).tolist()
    order = sorted(range(len(disputed)), key=lambda index: -disputed[index])
    chosen: list[int] = []
    for tumour in (True, False):
        mine = [index for index in order if bool(masks[index].any()) == tumour]
        first = {held_out[index].patient: index for index in reversed(mine)}.values()
        mine.sort(key=lambda index: (disputed[index] == 0, index not in first))
        chosen += mine[: SHOWN_SLICES // 2]
    return chosen


def _draw_slices(
    path: Path,
    chosen: Sequence[int],
    held_out: Sequence[Slice],
    predictions: dict[str, Tensor],
    masks: Tensor,
    size: tuple[int, int],
    *,
    heat: bool,
) -> None:
    columns = 1 + len(predictions)
    figure, axes = plt.subplots(
        len(chosen),
        columns,
        figsize=(2.6 * columns, 2.6 * len(chosen) + 1.1),
        squeeze=False,
        layout="constrained",
    )
    shown = None
    for row, index in zip(axes, chosen, strict=True):
        piece = held_out[index]
        flair = read_image(piece.image, size)[..., 1]
        row[0].set_ylabel(f"{patient_key(piece.patient)}\nslice {piece.number}", fontsize=8)
        row[0].imshow(flair, cmap="gray")
        outline(row[0], masks[index], TRUTH)
        for axis, probs in zip(row[1:], predictions.values(), strict=True):
            if heat:
                shown = axis.imshow(probs[index].numpy(), cmap="magma", vmin=0, vmax=1)
            else:
                axis.imshow(flair, cmap="gray")
                outline(axis, probs[index] > 0.5, PREDICTION)
            outline(axis, masks[index], "cyan" if heat else TRUTH)
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, title in zip(axes[0], ["FLAIR and truth", *predictions], strict=True):
        axis.set_title(title.replace(" + outlier", "\n+ outlier"), fontsize=9)
    figure.suptitle("Held-out slices on which the losses differ most")
    if shown is not None:
        label = "probability of tumour (outlined: truth)"
        figure.colorbar(shown, ax=axes, location="bottom", shrink=0.5, aspect=40, label=label)
    else:
        lines = [Line2D([], [], color=TRUTH), Line2D([], [], color=PREDICTION)]
        figure.legend(lines, ["truth", "prediction"], loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def outline(axis: Any, mask: Tensor, colour: str) -> None:
    if mask.any():
        axis.contour(mask.float().numpy(), levels=[0.5], colors=colour, linewidths=0.9)


def _draw_curves(path: Path, history: pd.DataFrame) -> None:
    panels = {
        "train_ce": "Cross-entropy, training",
        "train_dice": "Dice loss, training",
        "held_out_dice": "Dice pooled over held-out slices",
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 3.9), layout="constrained")
    names = list(dict.fromkeys(history["variant"]))
    warm = history[history["variant"] == names[0]]
    for axis, (column, title) in zip(axes, panels.items(), strict=True):
        axis.plot(warm["epoch"], warm[column], color="gray", label=names[0])
        for name in names[1:]:
            mine = history[history["variant"] == name]
            # Each loss goes on from the last epoch of the warm start.
            epochs = [len(warm), *(mine["epoch"] + len(warm))]
            axis.plot(epochs, [warm[column].iloc[-1], *mine[column]], label=name, marker=".")
        axis.axvline(len(warm), color="gray", linestyle=":", linewidth=1)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_yscale("log")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)
