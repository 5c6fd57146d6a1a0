"""Record, while a loss trains, what it flags and on which pixels its gradient lies."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from benchmarks.evidence.methods import MAIN, METHODS, Batch, emphasis
from benchmarks.evidence.run import JOBS, METHOD_STEPS, RUNS, Evidence
from benchmarks.evidence.scoring import Truth, find_spurious
from benchmarks.evidence.sets import read_set
from benchmarks.evidence.summary import RESULTS

EVERY, IMAGES = 200, 128  # steps, and images of the test
BORDER = 2  # pixels on both sides of it
Masks = NDArray[np.bool_]


def wheres(found: NDArray[Any], labels: NDArray[Any]) -> dict[str, Masks]:
    """Return the pixels of false islands, of false holes and beside true borders, no pixel twice.

    ``found`` and ``labels`` are label maps ``(N, *spatial)``.
    """
    islands, holes, border = (np.zeros(labels.shape, bool) for _ in range(3))
    near = np.ones((1, *[3] * (labels.ndim - 1)), bool)
    for index in range(1, int(max(found.max(), labels.max())) + 1):
        masks, truth = found == index, labels == index
        regions, _, spurious = find_spurious(masks, truth)
        islands |= spurious[regions]
        background, _, false = Truth(truth, 0).find_false_holes(masks)
        holes |= false[background] & truth
        wide = ndimage.binary_dilation(truth, near, BORDER)
        border |= wide & ~ndimage.binary_erosion(truth, near, BORDER, border_value=1)
    holes &= ~islands
    border &= ~islands & ~holes
    return {"islands": islands, "holes": holes, "borders": border}


def gradient(logits: Tensor, batch: Batch, evidence: Evidence, method: str) -> NDArray[Any]:
    """Return the size of the gradient at every pixel, summed over the channels."""
    leaf = logits.clone().requires_grad_()
    loss = METHODS[method](leaf, batch, evidence.setting)
    (grad,) = torch.autograd.grad(loss, leaf)
    return grad.abs().sum(1).cpu().numpy()


def observe(network: torch.nn.Module, evidence: Evidence, method: str) -> dict[str, float]:
    """Return, in percent: pixels, gradient and flags, by where they are."""
    test = evidence.split(JOBS[0]).test
    chosen = np.random.default_rng(0).permutation(test)[:IMAGES]
    images, labels, regions = (values[torch.from_numpy(chosen)] for values in evidence.data)
    with torch.no_grad():
        logits = network(images.float() / 255)
    binary = logits.shape[1] == 1
    found = (logits[:, 0] > 0).long() if binary else logits.argmax(1)
    truth = labels.cpu().numpy()
    places = wheres(found.cpu().numpy(), truth)
    batch = Batch(labels.long(), regions.long())
    flagged = (emphasis(logits, evidence.setting, 0.1) > 0).cpu().numpy()
    size = gradient(logits, batch, evidence, method)
    row = {"flagged": 100 * flagged.mean()}
    wrong = flagged & (found.cpu().numpy() != truth)
    row["flagged and wrong"] = 100 * wrong.mean()
    for name, where in places.items():
        row[f"pixels, {name}"] = 100 * where.mean()
        row[f"gradient, {name}"] = 100 * size[where].sum() / size.sum()
        row[f"flagged, {name}"] = 100 * flagged[where].mean() if where.any() else 0.0
    return row


def watch(name: str) -> pd.DataFrame:
    """Train the main methods on a set's first fold, and look every so many steps."""
    cases = read_set(name, [], RUNS / "cases")
    evidence, job, rows = Evidence(name, cases, JOBS[:1], MAIN, 1), JOBS[0], []
    saved = torch.load(evidence.warm_file(job), map_location="cpu", weights_only=True)
    for method in MAIN:
        group = evidence.group((method,))
        (member,) = group.members
        member.restart(saved["state"])
        evidence.start(evidence.stream, job, METHOD_STEPS, 1000 + job.seed)
        rows.append({"method": method, "step": 0} | observe(member.network, evidence, method))
        for step in group.train(METHOD_STEPS, falling=True):
            if step % EVERY == 0:
                seen = observe(member.network, evidence, method)
                rows.append({"method": method, "step": step} | seen)
    return pd.DataFrame(rows)


def main(names: Sequence[str]) -> None:
    for name in names:
        watch(name).to_csv(RESULTS / f"{name}-gradients.csv", index=False, float_format="%.3g")


if __name__ == "__main__":
    main(sys.argv[1:])
