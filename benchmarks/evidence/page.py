"""Write README.md's tables and its plots from what ``summary.py`` has left in results/."""

from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from benchmarks.evidence.methods import BASELINE, CONTROL
from benchmarks.evidence.run import BATCH, FOLDS, FROM_SCRATCH, STAGES
from benchmarks.evidence.summary import OF_PATIENT, RESULTS
from benchmarks.evidence.timing import NETWORK

HERE = Path(__file__).parent
MARK = "<!-- results -->"
RESAMPLES = 2000
INDEX = ["method", "threshold", "seed", "patient"]

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


def read_final() -> pd.DataFrame:
    """Return the finalists' sums: a row for each method, threshold, seed and patient."""
    patients = pd.read_csv(RESULTS / "patients.csv").drop(columns="fold")
    scores = pd.read_csv(RESULTS / "scores.csv").assign(threshold=0.5)
    curve = pd.read_csv(RESULTS / "curve.csv").assign(method=BASELINE)
    rows = pd.concat([scores, curve[curve["threshold"] != 0.5]]).merge(patients, on="patient")
    return rows.set_index(INDEX).sort_index()


def read_screening() -> pd.DataFrame:
    """Return what was screened: the sums over all patients of its fold, as of one patient."""
    patients = pd.read_csv(RESULTS / "patients.csv")
    sums = patients[patients["fold"].isin(STAGES["screen"][0])][OF_PATIENT].sum()
    rows = pd.read_csv(RESULTS / "screening.csv").assign(threshold=0.5, patient=0, **sums)
    return rows.set_index(INDEX).sort_index()


def named(table: str) -> list[str]:
    """Return the methods of a table, in its order."""
    return list(pd.read_csv(RESULTS / table)["method"].unique())


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
    sample: Bootstrap, methods: Iterable[str], intervals: bool, milliseconds: pd.Series
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
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "evidence"}):
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def time_part(times: pd.DataFrame) -> str:
    device, threads, torch = times.iloc[0][["device", "threads", "torch"]]
    return (
        f"Loss, ms: forward and backward of the loss alone, a batch of {BATCH}, median, on "
        f"{device}, {threads} threads, torch {torch}; the network's own forward and backward took "
        f"{times['ms'][NETWORK]:.0f} ms in the same run."
    )


def heading(title: str, table: pd.DataFrame, folds: int, patients: pd.DataFrame) -> str:
    seeds = ", ".join(map(str, sorted(table.index.unique("seed"))))
    return (
        f"## {title}\n\n{folds} of {len(FOLDS)} folds: {len(patients)} patients, "
        f"{patients['slices'].sum()} slices; seeds: {seeds}."
    )


def parts(milliseconds: pd.Series) -> Iterable[str]:
    """Yield the page's parts, and draw its plots."""
    patients = pd.read_csv(RESULTS / "patients.csv")
    images = HERE / "images"
    images.mkdir(exist_ok=True)
    sample = Bootstrap(read_final())
    methods = named("scores.csv")
    yield heading("Finalists", sample.table, patients["fold"].nunique(), patients)
    yield results_table(sample, methods, True, milliseconds)
    yield "![Spurious against missed regions](images/final-trade.svg)"
    plot_trade(sample, methods, images / "final-trade.svg")
    yield "### Paired differences"
    yield difference_table(sample, methods[1:])

    if not (RESULTS / "screening.csv").exists():
        return
    folds = STAGES["screen"][0]
    patients = patients[patients["fold"].isin(folds)]
    sample = Bootstrap(read_screening())
    every = named("screening.csv")
    scratch = [name for name in every if name.startswith(FROM_SCRATCH)]
    screened = [name for name in every if name not in scratch]
    for title, names in (("Screening", screened), ("Without a warm start", scratch)):
        yield heading(title, sample.table.loc[names], len(folds), patients)
        yield results_table(sample, names, False, milliseconds)


def main() -> None:
    readme = HERE / "README.md"
    introduction = readme.read_text().split(MARK)[0].rstrip()
    times = pd.read_csv(RESULTS / "times.csv", index_col="method")
    written = [introduction, MARK, time_part(times), *parts(times["ms"])]
    readme.write_text("\n\n".join(written) + "\n")


if __name__ == "__main__":
    main()
