"""Say where spurious regions lie: beside true ones, in images without foreground, or elsewhere."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.evidence.run import JOBS, RUNS
from benchmarks.evidence.scoring import HALF, label
from benchmarks.evidence.sets import SETS, read_set, split
from benchmarks.evidence.summary import RESULTS

BESIDE = 5  # pixels from a true region


def places(masks: NDArray[np.bool_], truth: NDArray[np.bool_], noise: int) -> dict[str, int]:
    """Count the spurious regions of masks ``(N, *spatial)`` by where they lie, and small ones."""
    labels, images = label(masks, corners=True)
    spurious = np.ones(len(images), bool)
    spurious[0] = False
    spurious[labels[truth]] = False
    there = truth.reshape(len(truth), -1).sum(1) > 0
    beside = np.zeros(len(images), bool)
    for index in np.flatnonzero(there):
        near = ndimage.distance_transform_edt(~truth[index]) <= BESIDE
        beside[labels[index][near]] = True
    small = np.bincount(labels.ravel(), minlength=len(images)) <= noise
    empty = ~there[images]
    counted = {
        "in images without foreground": spurious & empty,
        "beside true regions": spurious & beside,
        "elsewhere": spurious & ~empty & ~beside,
        "small": spurious & small,
        "all": spurious,
    }
    return {name: int(which.sum()) for name, which in counted.items()}


def count(name: str) -> pd.DataFrame:
    """Count the islands of every method of a set, all classes together, at a threshold of 0.5."""
    cases, rows = read_set(name, [], RUNS / "cases"), []
    for job in JOBS:
        test = split(cases.groups, job.fold, SETS[name].labelled).test
        for path in sorted((RUNS / name / str(job)).glob("*.npz")):
            with np.load(path) as stored:
                found: Any = stored["best"] * (stored["ranks"] > HALF)
            row: dict[str, Any] = {"method": path.stem, "images": len(test)}
            for index in range(1, SETS[name].classes):
                masks, truth = found == index, cases.labels[test] == index
                for place, number in places(masks, truth, SETS[name].max_noise_size).items():
                    row[place] = row.get(place, 0) + number
            rows.append(row)
    return pd.DataFrame(rows).groupby("method").sum().reset_index()


def main(names: Sequence[str]) -> None:
    for name in names:
        count(name).to_csv(RESULTS / f"{name}-islands.csv", index=False)


if __name__ == "__main__":
    main(sys.argv[1:])
