"""Measure how much of the cross-entropy the flagged pixels hold after the warm starts of seed 0.

Prints a table: over the training slices of all folds, by probability level, flagged pixels per 100
slices and their part of the whole cross-entropy.
"""

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.evidence.methods import LEVELS, dense_flag, shifted
from benchmarks.evidence.run import FOLDS, quiet, split, warm_start


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="kaggle_3m folder")
    options = parser.parse_args()
    quiet()
    slices, total = 0, 0.0
    pixels, held = dict.fromkeys(LEVELS, 0), dict.fromkeys(LEVELS, 0.0)
    for fold in FOLDS:
        data, _, _ = split(options.data, fold)
        network = warm_start(data, fold, seed=0).train()
        for images, masks in data.train_dataloader():
            logits = network(data.standardise(images))
            cost = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
            slices, total = slices + len(images), total + float(cost.sum())
            for level in LEVELS:
                flagged = dense_flag(shifted(logits, level), masks) > 0
                pixels[level] += int(flagged.sum())
                held[level] += float(cost[flagged].sum())
    print(
        "| level | flagged pixels per 100 slices | of the cross-entropy |",
        "| ---: | ---: | ---: |",
        sep="\n",
    )
    for level in LEVELS:
        print(f"| {level} | {100 * pixels[level] / slices:.1f} | {held[level] / total:.2%} |")


if __name__ == "__main__":
    main()
