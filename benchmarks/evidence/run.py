"""Train small networks by every method from shared warm starts, and score them.

Of every set a third of the groups is tested at a time, by three seeds. What ended stands in
``runs/evidence/<set>``, and is not repeated: interrupt and start again at will.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.evidence.methods import BASELINE, FEW_LABELS, METHODS, Setting
from benchmarks.evidence.scoring import THRESHOLDS, label, score
from benchmarks.evidence.sets import FOLDS, SETS, Array, Cases, DataSet, Split, read_set, split
from benchmarks.evidence.training import DEVICE, Member, Stream, Together, bind, predict

RUNS = Path("runs/evidence")
SEEDS = 3
LOOK_EVERY, METHOD_STEPS = 250, 800
# A GPU trains all of them at the same time. On a CPU one after the other loses less when stopped.
ALL_FOLDS, ALL_METHODS = (FOLDS, len(METHODS)) if DEVICE.type == "cuda" else (1, 1)


class Job(NamedTuple):
    """A fold and a seed."""

    fold: int
    seed: int

    def __str__(self) -> str:
        return f"fold{self.fold}-seed{self.seed}"


# Every group is tested once, with three seeds, before any is tested again.
JOBS = [Job(fold, (fold + turn) % SEEDS) for turn in range(SEEDS) for fold in range(FOLDS)]


class Evidence:
    """The runs of one set."""

    def __init__(
        self, name: str, cases: Cases, jobs: Sequence[Job], names: Sequence[str], side_by_side: int
    ) -> None:
        self.set: DataSet = SETS[name]
        self.cases, self.jobs = cases, jobs
        self.home = RUNS / name
        self.methods = FEW_LABELS if self.set.labelled else METHODS
        wanted = {method: self.methods[method] for method in names or self.methods}
        if self.set.mode == "multiclass" or self.set.axes == 3:
            wanted.pop("blob loss", None)  # it is for two classes
        self.wanted = wanted
        regions, images = label(cases.labels > 0, corners=True)
        first = np.searchsorted(images[1:], np.arange(len(cases.labels)))
        inner = np.where(regions > 0, regions - first.reshape(-1, *[1] * self.set.axes), 0)
        self.data = [torch.from_numpy(each).to(DEVICE) for each in (cases.images, cases.labels)]
        self.data.append(torch.from_numpy(inner.astype(np.int16)).to(DEVICE))
        self.stream, self.side_by_side = Stream(*self.data), side_by_side
        self.named: tuple[str, ...] = ()
        half = self.set.batch // 2
        self.setting = Setting(
            self.set.mode,
            self.set.window,
            self.set.max_noise_size,
            int(inner.max()),
            slice(half if self.set.labelled else None),
        )

    def member(self, stream: Stream) -> Member:
        return Member(stream, self.set.axes, self.cases.images.shape[1], self.set.classes)

    def split(self, job: Job) -> Split:
        return split(self.cases.groups, job.fold, self.set.labelled)

    def start(self, stream: Stream, job: Job, steps: int, seed: int) -> None:
        """Draw a job's batches: where few cases have labels, half of each is of them."""
        parts, size = self.split(job), self.set.batch
        cases, sizes = [parts.training], [size]
        if self.set.labelled:
            cases, sizes = [parts.labelled, parts.training], [size // 2, size - size // 2]
        stream.start(cases, sizes, steps, self.set.flips, seed)

    def warm(self, jobs: Sequence[Job]) -> None:
        """Train the networks all methods go on from: the steps after which validation is best."""
        jobs = [job for job in jobs if not self.warm_file(job).exists()]
        if not jobs:
            return
        members = []
        best: list[tuple[float, int, dict[str, Tensor]]] = [(-1.0, 0, {}) for _ in jobs]
        curves: list[list[float]] = [[] for _ in jobs]
        method = self.methods[BASELINE]
        for job in jobs:
            torch.manual_seed(job.seed)
            stream = Stream(*self.data)
            self.start(stream, job, self.set.warm_steps, job.seed)
            members.append(self.member(stream))
            members[-1].loss = bind(method, self.setting)
        for step in Together(members).train(self.set.warm_steps):
            if step % LOOK_EVERY == 0:
                for index, (job, member) in enumerate(zip(jobs, members, strict=True)):
                    dice = self.validate(member, self.split(job).validation)
                    curves[index].append(round(dice, 4))
                    if dice > best[index][0]:
                        best[index] = dice, step, member.state()
        self.home.mkdir(parents=True, exist_ok=True)
        for job, (dice, step, state), curve in zip(jobs, best, curves, strict=True):
            path = self.warm_file(job)
            halves = {key: value.half() for key, value in state.items()}
            saved = {"state": halves, "step": step, "dice": dice, "curve": curve}
            torch.save(saved, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
            print(f"{self.home.name} {job}: warm start of {step} steps, Dice {curve}", flush=True)

    def warm_file(self, job: Job) -> Path:
        return self.home / f"{job}.pt"

    def validate(self, member: Member, cases: Array) -> float:
        """Return the mean Dice over images and classes, where the class is."""
        foreground, best = predict(member.network, self.data[0][cases])
        labels = self.data[1][cases]
        classes = torch.arange(1, self.set.classes, device=DEVICE).view(-1, *[1] * labels.dim())
        truth, found = labels == classes, (best * (foreground > 0.5)) == classes
        both, true, predicted = (masks.flatten(2).sum(2) for masks in (truth & found, truth, found))
        dice = 2 * both / (true + predicted).clamp(min=1)
        return float(dice[true > 0].mean())

    def compare(self, job: Job) -> Iterator[Path]:
        """Train the methods of a job side by side, and write down what they predict."""
        names = [name for name in self.wanted if not self.file(job, name).exists()]
        saved = torch.load(self.warm_file(job), map_location=DEVICE, weights_only=True)
        for first in range(0, len(names), self.side_by_side):
            began = time.perf_counter()
            group = self.group(tuple(names[first : first + self.side_by_side]))
            for member in group.members:
                member.restart(saved["state"])
            # Every method has the same images in the same order, turned alike.
            self.start(self.stream, job, METHOD_STEPS, 1000 + job.seed)
            for _ in group.train(METHOD_STEPS, falling=True):
                pass
            images = self.data[0][torch.from_numpy(self.split(job).test).to(DEVICE)]
            for name, member in zip(self.named, group.members, strict=True):
                yield self.write(self.file(job, name), *predict(member.network, images))
            took = time.perf_counter() - began
            print(f"{self.home.name} {job}: {len(self.named)} methods, {took:.0f} s", flush=True)

    def group(self, names: tuple[str, ...]) -> Together:
        """Return members of these methods: those of the last time, if they are the same."""
        if names != self.named:
            members = [self.member(self.stream) for _ in names]
            for name, member in zip(names, members, strict=True):
                member.loss = bind(self.wanted[name], self.setting)
            self.named, self.together = names, Together(members)
        return self.together

    def write(self, path: Path, foreground: Tensor, best: Tensor) -> Path:
        levels = torch.tensor(THRESHOLDS, device=DEVICE)
        ranks = torch.bucketize(foreground, levels).to("cpu", torch.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez_compressed(part, ranks=ranks.numpy(), best=best.cpu().numpy())
        part.rename(path)
        return path

    def file(self, job: Job, method: str) -> Path:
        return self.home / str(job) / f"{method}.npz"

    def unscored(self) -> Iterator[tuple[Job, Path]]:
        """Find the predictions that have no scores yet."""
        for job in self.jobs:
            for path in sorted((self.home / str(job)).glob("*.npz")):
                if not path.with_suffix(".npy").exists() and ".part" not in path.suffixes:
                    yield job, path

    def truth(self, job: Job) -> tuple[Array, Array, int]:
        """Return the labels and groups of a job's test, and the size of noise."""
        test = self.split(job).test
        return self.cases.labels[test], self.cases.groups[test], self.set.max_noise_size


def finish(path: Path, labels: Array, groups: Array, noise: int) -> None:
    """Score one run and keep the sums."""
    with np.load(path) as predicted:
        sums = score(predicted["ranks"], predicted["best"], labels, groups, noise)
    part = path.with_suffix(".part.npy")
    np.save(part, sums.astype(np.float32))
    part.rename(path.with_suffix(".npy"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", choices=SETS, required=True)
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="the set's folders")
    parser.add_argument("--jobs", type=int, default=len(JOBS), help="how many folds and seeds")
    parser.add_argument("--methods", nargs="*", default=[], help="some of them only")
    parser.add_argument("--side-by-side", type=int, default=ALL_METHODS, help="methods at a time")
    parser.add_argument("--workers", type=int, default=1, help="processes that score")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    cases = read_set(options.set, options.data, RUNS / "cases")
    evidence = Evidence(
        options.set, cases, JOBS[: options.jobs], options.methods, options.side_by_side
    )
    spawn = get_context("spawn")
    with ProcessPoolExecutor(options.workers, spawn, torch.set_num_threads, (1,)) as pool:
        scored = [
            pool.submit(finish, path, *evidence.truth(job)) for job, path in evidence.unscored()
        ]
        for first in range(0, options.jobs, ALL_FOLDS):
            jobs = evidence.jobs[first : first + ALL_FOLDS]
            evidence.warm(jobs)
            for job in jobs:
                for path in evidence.compare(job):
                    scored.append(pool.submit(finish, path, *evidence.truth(job)))
        for future in scored:
            future.result()


if __name__ == "__main__":
    main()
