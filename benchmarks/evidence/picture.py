"""Draw a tile of nuclei (CC0) as two methods see it.

It is the tile in which the second saves most, of those with as many nuclei as half of the tiles
have, and as much Dice.
"""

import sys
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from benchmarks.evidence.methods import BASELINE
from benchmarks.evidence.page import HERE
from benchmarks.evidence.run import JOBS, RUNS
from benchmarks.evidence.scoring import HALF, Truth
from benchmarks.evidence.sets import SETS, read_set, split

COLOURS = {"right": (0.35, 0.7, 0.35), "spurious": (0.9, 0.2, 0.2), "missed": (0.25, 0.45, 0.95)}


def main(method: str) -> None:
    name, job = "nuclei", JOBS[0]
    cases = read_set(name, [], RUNS / "cases")
    test = split(cases.groups, job.fold, None).test
    truth = Truth(cases.labels[test] > 0, 4 * SETS[name].max_noise_size)
    masks, islands, dice = {}, {}, {}
    for each in (BASELINE, method):
        with np.load(RUNS / name / str(job) / f"{each}.npz") as stored:
            masks[each] = stored["ranks"] > HALF
        counts = truth.compare(masks[each])
        islands[each], dice[each] = counts["spurious"] + counts["holes"], counts["dice"]
    typical = (counts["true"] >= np.median(counts["true"])) & (dice[method] >= dice[BASELINE])
    tile = int(np.argmax(np.where(typical, islands[BASELINE] - islands[method], -1)))
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
    image: Any = cases.images[test[tile], 0]
    axes[0].imshow(image, cmap="gray")
    axes[0].contour(truth.masks[tile], [0.5], colors="gold", linewidths=1)
    axes[0].set_title("image, true nuclei outlined", fontsize=10)
    for axis, each in zip(axes[1:], masks, strict=True):
        axis.imshow(colour(masks[each][tile], truth.masks[tile]))
        axis.contour(truth.masks[tile], [0.5], colors="gold", linewidths=1)
        axis.set_title(f"{each}: {islands[each][tile]} islands and holes", fontsize=10)
    for axis in axes:
        axis.axis("off")
    figure.savefig(HERE / "images" / "nuclei.png", dpi=110)


def colour(mask: Any, truth: Any) -> Any:
    """Paint right, wrong and missed pixels."""
    drawn = np.full((*mask.shape, 3), 0.08)
    drawn[mask & truth], drawn[mask & ~truth] = COLOURS["right"], COLOURS["spurious"]
    drawn[~mask & truth] = COLOURS["missed"]
    return drawn


if __name__ == "__main__":
    main(sys.argv[1])
