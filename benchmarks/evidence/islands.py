"""Say where spurious regions lie, and how many lesions the cleaned masks find and miss."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.evidence.methods import MAIN, METHODS
from benchmarks.evidence.run import JOBS, RUNS
from benchmarks.evidence.scoring import HALF, find_spurious, remove_small
from benchmarks.evidence.sets import SETS, read_set, split
from benchmarks.evidence.summary import RESULTS
from gliomaseg_layers.metrics import lesion_wise_scores

BESIDE = 5  # pixels from a true region


def places(masks: NDArray[np.bool_], truth: NDArray[np.bool_], noise: int) -> dict[str, int]:
    """Count the spurious regions of masks ``(N, *spatial)`` by where they lie, and small ones."""
    labels, images, spurious = find_spurious(masks, truth)
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


def lesions(masks: NDArray[np.bool_], truth: NDArray[np.bool_], noise: int) -> dict[str, int]:
    """Count the lesions that cleaned masks find and miss, and the regions that are none."""
    counts = {"lesions": 0, "lesions missed": 0, "lesions spurious": 0}
    for mask, true in zip(remove_small(masks, noise), truth, strict=True):
        if mask.any() or true.any():
            scores = lesion_wise_scores(mask, true, min_size=0)
            numbers = scores.found, scores.missed, scores.spurious
            for name, number in zip(counts, numbers, strict=True):
                counts[name] += number
    return counts


def count(name: str) -> pd.DataFrame:
    """Count for the main methods of a set, all classes together, at a threshold of 0.5."""
    cases, rows = read_set(name, [], RUNS / "cases"), []
    for job in JOBS:
        test = split(cases.groups, job.fold, SETS[name].labelled).test
        for path in sorted((RUNS / name / str(job)).glob("*.npz")):
            if path.stem in METHODS and path.stem not in MAIN:
                continue
            with np.load(path) as stored:
                found: Any = stored["best"] * (stored["ranks"] > HALF)
            row: dict[str, Any] = {"method": path.stem, "images": len(test)}
            for index in range(1, SETS[name].classes):
                masks, truth = found == index, cases.labels[test] == index
                noise = SETS[name].max_noise_size
                for counts in (places(masks, truth, noise), lesions(masks, truth, noise)):
                    for place, number in counts.items():
                        row[place] = row.get(place, 0) + number
            rows.append(row)
    return pd.DataFrame(rows).groupby("method").sum().reset_index()


def main(names: Sequence[str]) -> None:
    for name in names:
        count(name).to_csv(RESULTS / f"{name}-islands.csv", index=False)


if __name__ == "__main__":
    main(sys.argv[1:])
