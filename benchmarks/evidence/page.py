"""Write README.md and its plots from what the runs have left in results/."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from benchmarks.evidence.methods import BASELINE, CONTROL
from benchmarks.evidence.run import (
    BATCH,
    FOLDS,
    FROM_SCRATCH,
    POST_PROCESSING,
    RESULTS,
    STAGES,
    finished,
    results_file,
)
from benchmarks.evidence.timing import NETWORK

HERE = Path(__file__).parent
MARK = "<!-- results -->"
RESAMPLES = 2000

Array = NDArray[np.float64]
Sums = dict[str, Array]

METRICS: dict[str, Callable[[Sums], Array]] = {
    "Dice, all slices": lambda s: s["dice"] / s["slices"],
    "Dice, tumour": lambda s: s["dice_tumour"] / s["tumour_slices"],
    "Dice, pooled": lambda s: 2 * s["overlap"] / (s["predicted"] + s["true"]),
    "IoU, pooled": lambda s: s["overlap"] / (s["predicted"] + s["true"] - s["overlap"]),
    "HD95, px": lambda s: s["hd95"] / s["tumour_slices"],
    "lesion-wise Dice": lambda s: s["lesion_dice"] / s["slices"],
    "spurious": lambda s: 100 * s["spurious"] / s["slices"],
    "noise": lambda s: 100 * s["noise"] / s["slices"],
    "holes": lambda s: 100 * s["holes"] / s["slices"],
    "missed, %": lambda s: 100 * s["missed"] / s["true_regions"],
    "missed small, %": lambda s: 100 * s["missed_small"] / s["true_small"],
}


def read(folds: Iterable[int], seeds: Iterable[int]) -> pd.DataFrame:
    """Return the sums of every run: a row for each method, threshold, seed and patient."""
    rows = [
        {"method": method, "threshold": float(at), "seed": seed, "patient": int(patient)} | sums
        for fold in folds
        for seed in seeds
        for method, scores in finished(results_file(fold, seed)).items()
        for at, patients in scores.items()
        for patient, sums in patients.items()
    ]
    return pd.DataFrame(rows).set_index(["method", "threshold", "seed", "patient"]).sort_index()


class Bootstrap:
    """Metrics of all patients, and of resampled ones: the same samples for every method."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table
        self.patients = table.index.unique("patient")
        count = len(self.patients)
        draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
        self.weights = np.vstack([np.ones(count), draws])  # the first is the data itself

    def metric(self, name: str, method: str, threshold: float = 0.5) -> Array:
        """Return a metric, averaged over seeds, of the data and of every resample."""
        runs = self.table.xs((method, threshold))
        values = []
        for seed in runs.index.unique("seed"):
            sums = runs.loc[seed].reindex(self.patients)
            totals = {key: self.weights @ sums[key].to_numpy() for key in sums}
            with np.errstate(invalid="ignore"):  # a sample may hold no small region
                values.append(METRICS[name](totals))
        return np.asarray(np.mean(values, 0))

    def above_curve(self, method: str) -> Array:
        """Return spurious regions in excess of the baseline's at a threshold that misses as many.

        Below what the lowest threshold misses, the baseline's spurious regions there count.
        """
        thresholds = sorted(self.table.loc[BASELINE].index.unique("threshold"))
        curve = [
            [self.metric(name, BASELINE, threshold) for threshold in thresholds]
            for name in ("missed, %", "spurious")
        ]
        missed, spurious = np.transpose(curve, (0, 2, 1))
        mine = self.metric("missed, %", method), self.metric("spurious", method)
        order = np.argsort(missed, 1)
        at_equal_missed = [
            np.interp(point, xs[o], ys[o])
            for point, xs, ys, o in zip(mine[0], missed, spurious, order, strict=True)
        ]
        return np.subtract(mine[1], at_equal_missed)


def interval(values: Array) -> tuple[float, float, float]:
    """Return the value of the data, and its 95 % interval."""
    low, high = np.nanquantile(values[1:], (0.025, 0.975))
    return float(values[0]), float(low), float(high)


def shown(values: Array, digits: int, sign: str = "") -> str:
    value, low, high = (f"{number:{sign}.{digits}f}" for number in interval(values))
    return f"{value} ({low} to {high})"


def results_table(
    sample: Bootstrap, methods: Iterable[str], intervals: bool, milliseconds: dict[str, float]
) -> str:
    lines = [f"| | {' | '.join(METRICS)} | loss, ms |", "| --- |" + " ---: |" * (len(METRICS) + 1)]
    for method in methods:
        cells = []
        for name in METRICS:
            values = sample.metric(name, method)
            digits = 3 if "Dice" in name or "IoU" in name else 1
            cells.append(shown(values, digits) if intervals else f"{values[0]:.{digits}f}")
        time = milliseconds.get(method.removeprefix(FROM_SCRATCH))
        cells.append("" if time is None else f"{time:.1f}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def difference_table(sample: Bootstrap, methods: Iterable[str]) -> str:
    names = ("Dice, all slices", "Dice, tumour", "spurious", "noise", "holes", "missed, %")
    lines = [
        f"| | against | {' | '.join(names)} | spurious above the baseline's curve |",
        "| --- | --- |" + " ---: |" * (len(names) + 1),
    ]
    for method in methods:
        for other in (BASELINE, CONTROL):
            if method == other:
                continue
            cells = [
                shown(
                    sample.metric(name, method) - sample.metric(name, other),
                    3 if "Dice" in name else 1,
                    "+",
                )
                for name in names
            ]
            above = shown(sample.above_curve(method), 1, "+") if other == BASELINE else ""
            lines.append(f"| {method} | {other} | {' | '.join(cells)} | {above} |")
    return "\n".join(lines)


def plot_trade(sample: Bootstrap, methods: list[str], path: Path) -> None:
    """Draw spurious against missed regions, with the baseline's curve over thresholds."""
    names = ("missed, %", "spurious")
    height = max(6.5, 0.19 * (len(methods) + 2))  # of the legend
    figure, axes = plt.subplots(figsize=(10, height), layout="constrained")
    thresholds = sorted(sample.table.loc[BASELINE].index.unique("threshold"))
    curve = [[sample.metric(name, BASELINE, at)[0] for at in thresholds] for name in names]
    label = f"{BASELINE} at thresholds {thresholds[0]:g} to {thresholds[-1]:g}"
    axes.plot(*curve, color="0.6", marker=".", zorder=1, label=label)
    farthest = 2 * max(curve[0])
    colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
    for number, method in enumerate(methods, 1):
        missed, spurious = (sample.metric(name, method)[0] for name in names)
        label = f"{number}  {method}"
        if missed > farthest:
            axes.plot([], [], " ", label=f"{label}: misses {missed:.0f} %, not shown")
            continue
        axes.plot(missed, spurious, "o", color=colours[number % 10], label=label)
        axes.annotate(str(number), (missed, spurious), (4, 3), textcoords="offset points")
    axes.set(xlabel="missed true regions, %", ylabel="spurious regions per 100 slices")
    figure.legend(loc="outside right upper", fontsize=8)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_differences(sample: Bootstrap, methods: list[str], path: Path) -> None:
    """Draw paired differences to the control with their intervals."""
    names = ("Dice, tumour", "spurious", "noise", "holes", "missed, %")
    figure, panels = plt.subplots(
        1, len(names), figsize=(12, 1 + 0.35 * len(methods)), sharey=True, layout="constrained"
    )
    for axes, name in zip(panels, names, strict=True):
        for row, method in enumerate(methods):
            difference = sample.metric(name, method) - sample.metric(name, CONTROL)
            value, low, high = interval(difference)
            axes.plot([low, high], [row, row], color="0.4")
            axes.plot(value, row, "o", color="tab:blue")
        axes.axvline(0, color="0.7", zorder=0)
        axes.set(title=name, yticks=range(len(methods)), yticklabels=methods)
    panels[0].invert_yaxis()
    figure.suptitle(f"difference to {CONTROL}")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def time_part(times: dict[str, Any]) -> str:
    return (
        f"Loss, ms: forward and backward of the loss alone, a batch of {BATCH}, median, on "
        f"{times['device']}, {times['threads']} threads, torch {times['torch']}; the network's own "
        f"forward and backward took {times['ms'][NETWORK]:.0f} ms in the same run."
    )


def stage_part(stage: str, title: str, times: dict[str, Any]) -> str:
    """Return a stage's tables and plots, of the seeds that every fold has finished."""
    folds, all_seeds, names = STAGES[stage]
    done = {
        seed: [finished(results_file(fold, seed)).keys() for fold in folds] for seed in all_seeds
    }
    required = set(names if stage == "final" else (BASELINE, CONTROL))
    seeds = [seed for seed in all_seeds if all(required <= found for found in done[seed])]
    names = tuple(
        name for name in names if all(name in found for seed in seeds for found in done[seed])
    )
    if not seeds:
        return f"## {title}\n\nNo seed is finished yet."
    sample = Bootstrap(read(folds, seeds))
    slices = sample.table.xs((BASELINE, 0.5, seeds[0]))["slices"].sum()
    post = [f"{name}, {clean}" for name in (BASELINE, CONTROL) for clean in POST_PROCESSING]
    methods = [*names, *(name for name in post if name.split(", ")[0] in names)]
    figure = HERE / "images" / f"{stage}-trade.png"
    parts = [
        f"## {title}",
        f"{len(folds)} of {len(FOLDS)} folds: {len(sample.patients)} patients, {slices} slices; "
        f"seeds: {', '.join(map(str, seeds))}.",
        results_table(sample, methods, stage == "final", times["ms"]),
    ]
    if stage != "scratch":
        parts.append(f"![Spurious against missed regions](images/{figure.name})")
        plot_trade(sample, methods, figure)
    if stage == "final":
        parts += [
            "### Paired differences",
            difference_table(sample, methods[1:]),
            f"![Differences to {CONTROL}](images/differences.png)",
        ]
        plot_differences(sample, methods, HERE / "images" / "differences.png")
    return "\n\n".join(parts)


def main() -> None:
    readme = HERE / "README.md"
    introduction = readme.read_text().split(MARK)[0].rstrip()
    times = json.loads((RESULTS / "time.json").read_text())
    titles = {"final": "Finalists", "screen": "Screening", "scratch": "Without a warm start"}
    parts = [stage_part(stage, title, times) for stage, title in titles.items()]
    readme.write_text("\n\n".join([introduction, MARK, time_part(times), *parts]) + "\n")


if __name__ == "__main__":
    main()
