"""Sum up the runs of a set: every curve, and what each method saves at the baseline's misses."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.evidence.methods import BASELINE
from benchmarks.evidence.run import JOBS, RUNS, Job
from benchmarks.evidence.scoring import HALF, MEASURES, THRESHOLDS, Sums

RESULTS = Path(__file__).parent / "results"
DRAWS = 1000  # of the bootstrap
WAYS = ("as predicted", "cleaned")
Array = NDArray[Any]


def read_runs(home: Path) -> dict[str, dict[Job, Sums]]:
    """Return the sums of every method, by job."""
    runs: dict[str, dict[Job, Sums]] = {}
    for job in JOBS:
        for path in sorted((home / str(job)).glob("*.npy")):
            if path.suffixes[-2:] == [".part", ".npy"]:  # left by a run that was killed
                continue
            runs.setdefault(path.stem, {})[job] = np.load(path).astype(float)
    return runs


def rates(sums: Sums) -> dict[str, Array]:
    """Return the figures of a page, of sums ``(..., measures)``."""
    of = dict(zip(MEASURES, np.moveaxis(sums, -1, 0), strict=True))
    hit, wrong = of["true"] - of["missed"], of["spurious"] + of["missed"]
    with np.errstate(invalid="ignore"):  # HD95 is measured at one threshold
        return {
            "spurious": 100 * of["spurious"] / of["images"],
            "holes": 100 * of["holes"] / of["images"],
            "islands": 100 * (of["spurious"] + of["holes"]) / of["images"],
            "missed": 100 * of["missed"] / of["true"],
            "missed_small": 100 * of["missed_small"] / of["true_small"],
            "f1": 2 * hit / (2 * hit + wrong),
            "dice": of["dice"] / of["dice_of"],
            "hd95": of["hd95"] / of["hd95_of"],
        }


def at_misses(islands: Array, missed: Array, limit: float) -> float:
    """Return the fewest islands of a curve over thresholds where so many regions are missed.

    Between thresholds it is a straight line.
    """
    places = np.unique(missed)
    fewest = [islands[missed <= place].min() for place in places]
    return float(np.interp(limit, places, fewest))


def saved(sums: Sums, baseline: Sums, way: int) -> tuple[float, float]:
    """Return how many islands a method saves at the cleaned baseline's misses, and of how many.

    Both are per 100 images; the sums are over all groups, ``(thresholds, 2, measures)``.
    """
    theirs, mine = rates(baseline[:, 1]), rates(sums[:, way])
    limit = float(theirs["missed"][HALF])
    left = at_misses(theirs["islands"], theirs["missed"], limit)
    return left - at_misses(mine["islands"], mine["missed"], limit), left


def summarise(name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the curves of all methods of a set, and what they save, with intervals.

    A method is compared with the baseline on the jobs that both have done. Intervals are of 95 %,
    over groups drawn anew, the same for both.
    """
    runs = read_runs(RUNS / name)
    curves, savings = [], []
    for method, mine in runs.items():
        both = [job for job in mine if job in runs[BASELINE]]
        own, base = (np.concatenate([of[job] for job in both]) for of in (mine, runs[BASELINE]))
        jobs = len(both)
        for way, cleaned in enumerate(WAYS):
            figures = pd.DataFrame(rates(own.sum(0)[:, way]))
            figures.insert(0, "threshold", THRESHOLDS)
            curves.append(figures.assign(method=method, mask=cleaned, jobs=jobs))
        draws = np.random.default_rng(0).integers(0, len(own), (DRAWS, len(own)))
        for way, cleaned in enumerate(WAYS):
            found = np.array([
                compare(own[draw].sum(0), base[draw].sum(0), way)
                for draw in (slice(None), *draws)
            ])  # fmt: skip
            low, high = np.percentile(found[1:], [2.5, 97.5], axis=0)
            columns = {"method": method, "mask": cleaned, "jobs": jobs, "groups": len(own)}
            for place, what in enumerate(("saved", "part", "dice", "missed_small")):
                columns |= {what: found[0, place], f"{what}_low": low[place]}
                columns |= {f"{what}_high": high[place]}
            savings.append(columns)
    return pd.concat(curves), pd.DataFrame(savings)


def compare(own: Sums, base: Sums, way: int) -> tuple[float, float, float, float]:
    """Return what is saved, as a number and as a part, and more Dice and small misses at 0.5."""
    count, left = saved(own, base, way)
    mine, theirs = rates(own[HALF, way]), rates(base[HALF, 1])
    part = count / left if left else 0.0
    more = [float(mine[what] - theirs[what]) for what in ("dice", "missed_small")]
    return count, part, more[0], more[1]


def main(names: Sequence[str]) -> None:
    for name in names:
        for kind, table in zip(("curves", "savings"), summarise(name), strict=True):
            table.to_csv(RESULTS / f"{name}-{kind}.csv", index=False, float_format="%.5g")


if __name__ == "__main__":
    main(sys.argv[1:])
