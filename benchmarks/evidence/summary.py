"""Sum up the runs of runs/ in the tables of results/, from which ``page.py`` writes the page.

patients.csv: what does not depend on a method, a row for each patient. scores.csv: the finalists, a
row for each method, seed and patient. curve.csv: the baseline at every threshold. screening.csv:
what was screened, over all patients of its fold. Only seeds that every fold has finished count.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from benchmarks.evidence.methods import BASELINE, CONTROL
from benchmarks.evidence.run import POST_PROCESSING, STAGES, finished, results_file

RESULTS = Path(__file__).parent / "results"
OF_PATIENT = ["slices", "tumour_slices", "true", "true_regions", "true_small"]
OF_RUN = ["overlap", "predicted", "dice", "dice_tumour", "lesion_dice", "hd95"]
OF_RUN += ["spurious", "noise", "holes", "missed", "missed_small"]
CURVE = ["spurious", "missed"]


def read(stage: str) -> pd.DataFrame:
    """Return the sums of every run of a stage: by method, threshold, seed, fold and patient."""
    folds, seeds, names = STAGES[stage]
    cleaned = [name for name in (BASELINE, CONTROL) if name in names]
    wanted = [*names, *(f"{name}, {post}" for name in cleaned for post in POST_PROCESSING)]
    required = set(cleaned) if stage == "screen" else set(names)
    rows = []
    for seed in seeds:
        runs = {fold: finished(results_file(fold, seed)) for fold in folds}
        if not all(required <= found.keys() for found in runs.values()):
            continue
        rows += [
            {"method": name, "threshold": float(at), "seed": seed, "fold": fold}
            | {"patient": int(patient)}
            | sums
            for name in wanted
            for fold, found in runs.items()
            for at, patients in found.get(name, {}).items()
            for patient, sums in patients.items()
        ]
    return pd.DataFrame(rows)


def everywhere(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the methods that every seed has."""
    seeds = table.groupby("method")["seed"].transform("nunique")
    return table[seeds == table["seed"].nunique()]


def write(stages: Iterable[str] = STAGES) -> None:
    """Write the tables of the stages that have a finished seed."""
    RESULTS.mkdir(exist_ok=True)
    tables = {stage: table for stage in stages if len(table := read(stage))}
    if (final := tables.pop("final", None)) is not None:
        at_half = final[final["threshold"] == 0.5]
        first = at_half[at_half["method"] == BASELINE].drop_duplicates("patient")
        patients = first.sort_values("patient")[["patient", "fold", *OF_PATIENT]]
        patients.to_csv(RESULTS / "patients.csv", index=False)
        scores = at_half[["method", "seed", "patient", *OF_RUN]]
        scores.to_csv(RESULTS / "scores.csv", index=False)
        curve = final[final["method"] == BASELINE][["threshold", "seed", "patient", *CURVE]]
        curve.to_csv(RESULTS / "curve.csv", index=False)
    if tables:
        screened = pd.concat(map(everywhere, tables.values()))
        screened = screened[screened["threshold"] == 0.5]
        sums = screened.groupby(["method", "seed"], sort=False)[OF_RUN].sum().round(4)
        sums.reset_index().to_csv(RESULTS / "screening.csv", index=False)


if __name__ == "__main__":
    write()
