"""Train a small U-Net on LGG slices by every method from shared warm starts, and score it.

Five folds by patient, so that every patient is tested once per seed. Every run is appended to
runs/fold<f>-seed<s>.jsonl as it ends, and one that stands there is not repeated: interrupt and
start again at will. ``summary.py`` sums them up in results/.
"""

import argparse
import json
import logging
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from monai.networks.nets.unet import UNet
from numpy.typing import NDArray
from skimage.morphology import remove_small_objects
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

from benchmarks.evidence.methods import (
    BASELINE,
    CONTROL,
    METHODS,
    NOISE,
    STEPS,
    WINDOW,
    Method,
)
from benchmarks.evidence.scoring import THRESHOLDS, Masks, score_patients
from examples.lgg.data import SliceData, find_slices, read_image, read_mask
from gliomaseg_layers.functional import remove_outlier_regions
from gliomaseg_layers.metrics import label_regions

RUNS = Path(__file__).parent / "runs"  # untracked
SIDE, BATCH = 128, 16
WARM_STEPS, LEARNING_RATE = 600, 2e-3
FOLDS, SEEDS = range(5), range(3)
FINALISTS = (
    BASELINE,
    CONTROL,
    "density",
    "one level, strength 4",
    "one level, strength 1000",
    "strength 1000",
    "share 0.1",
    "SCNP",
    "blob loss",
)
EXPECTED_WARNINGS = (
    ".*have no `validation_step`",
    ".*does not have many workers",
    ".*LeafSpec.* is deprecated",
    ".*always_return_as_numpy",  # MONAI's own use of it
)
# Trained by the method from the first step on, for as many steps as warm start and method together.
FROM_SCRATCH = "from scratch, "
UNPREPARED = (BASELINE, "strength 1000", "share 0.1")
STAGES = {
    "screen": (FOLDS[1:2], SEEDS[:2], tuple(METHODS)),
    "scratch": (FOLDS[1:2], SEEDS[:2], tuple(FROM_SCRATCH + name for name in UNPREPARED)),
    "final": (FOLDS, SEEDS, FINALISTS),
}


def keep_largest(masks: Masks) -> Masks:
    kept = np.zeros_like(masks)
    for index, mask in enumerate(masks):
        labels = label_regions(mask)[0]
        if mask.any():
            kept[index] = labels == np.bincount(labels[mask]).argmax()
    return kept


def remove_small(masks: Masks) -> Masks:
    return np.stack([remove_small_objects(mask, max_size=NOISE, connectivity=2) for mask in masks])


def remove_outliers(masks: Masks) -> Masks:
    clean = remove_outlier_regions(
        torch.from_numpy(masks).unsqueeze(1), window=WINDOW, max_noise_size=NOISE
    )
    return clean.squeeze(1).numpy()


POST_PROCESSING: dict[str, Callable[[Masks], Masks]] = {
    "remove_small_objects": remove_small,
    "keep largest": keep_largest,
    "remove_outlier_regions": remove_outliers,
}


class Slices(SliceData):
    """Slices that lie in memory, augmented as the demo augments them."""

    def __init__(self, training: Dataset[Any], held_out: Dataset[Any]) -> None:
        super().__init__([], [], (SIDE, SIDE), BATCH, 0)
        self.training, self.held_out = training, held_out  # type: ignore[assignment]


class Training(L.LightningModule):
    """A network and a loss; the learning rate falls to 0 over some steps, or is constant."""

    def __init__(self, network: nn.Module, loss: Method, falling_over: int | None) -> None:
        super().__init__()
        self.network, self.loss, self.falling_over = network, loss, falling_over

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, masks = batch
        return self.loss(self.network(images), masks)

    def predict_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return self.network(batch[0]).sigmoid().squeeze(1).cpu()  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)
        if self.falling_over is None:
            return optimizer
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.falling_over)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def load(folder: Path) -> tuple[TensorDataset, NDArray[np.int64]]:
    """Read all slices into memory, and number their patients."""
    slices = find_slices(folder)
    size = (SIDE, SIDE)
    images = torch.stack([torch.tensor(read_image(piece.image, size)) for piece in slices])
    masks = torch.stack([torch.tensor(read_mask(piece.mask, size)) for piece in slices])
    patients = np.unique([piece.patient for piece in slices], return_inverse=True)[1]
    data = TensorDataset(images.movedim(-1, 1).float() / 255, masks.unsqueeze(1).float())
    return data, patients


def trainer(steps: int) -> L.Trainer:
    return L.Trainer(
        max_steps=steps,
        devices=1,
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def run(folder: Path, fold: int, seed: int, methods: Sequence[str]) -> str:
    """Do what is missing of one fold and seed, one method after the other."""
    results = results_file(fold, seed)
    methods = [name for name in methods if name not in finished(results)]
    if not methods:
        return f"{results.name}: nothing to do"
    data, masks, patients = split(folder, fold)
    for name in methods:
        start = time.perf_counter()
        method = METHODS[name.removeprefix(FROM_SCRATCH)]
        if name.startswith(FROM_SCRATCH):
            L.seed_everything(seed, workers=True, verbose=False)
            model, steps = network(), WARM_STEPS + STEPS
        else:
            model, steps = warm_start(data, fold, seed), STEPS
            # The same seed gives every method the same slices in the same order, augmented alike.
            L.seed_everything(1000 + seed, workers=True, verbose=False)
        module = Training(model, method, falling_over=steps)
        trainer(steps).fit(module, data)
        batches: Any = trainer(1).predict(module, datamodule=data)
        record(results, name, torch.cat(batches).numpy(), masks, patients)
        print(f"{results.stem}: {name}, {time.perf_counter() - start:.0f} s", flush=True)
    return f"{results.name}: done"


def split(folder: Path, fold: int) -> tuple[Slices, Masks, NDArray[np.int64]]:
    """Return a fold's slices, and the masks and patients of those held out."""
    everything, patients = load(folder)
    tested = np.random.default_rng(23).permutation(patients.max() + 1) % len(FOLDS) == fold
    held_out = tested[patients]
    data = Slices(
        Subset(everything, np.flatnonzero(~held_out).tolist()),
        Subset(everything, np.flatnonzero(held_out).tolist()),
    )
    masks = everything.tensors[1][held_out].squeeze(1).numpy() > 0
    return data, masks, patients[held_out]


def network() -> nn.Module:
    unet = UNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=8,
        channels=(16, 32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        act="RELU",
    )
    # Its last layer is a transposed convolution, which draws a checkerboard unless one smooths it.
    model = nn.Sequential(unet, nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    return model.to(memory_format=torch.channels_last)


def warm_start(data: Slices, fold: int, seed: int) -> nn.Module:
    """Train, or read, the network that all methods of a fold and seed go on from."""
    L.seed_everything(seed, workers=True, verbose=False)
    model = network()
    path = RUNS / "warm" / f"fold{fold}-seed{seed}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
    trainer(WARM_STEPS).fit(Training(model, METHODS[BASELINE], falling_over=None), data)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)
    return model


def record(
    results: Path,
    name: str,
    probs: NDArray[np.float32],
    masks: Masks,
    patients: NDArray[np.int64],
) -> None:
    """Append the scores of one run at every threshold, and of its post-processed masks."""
    at = {
        f"{threshold:g}": score_patients(probs > threshold, masks, patients, whole=threshold == 0.5)
        for threshold in THRESHOLDS
    }
    lines = [{"method": name, "scores": at}]
    if name in (BASELINE, CONTROL):
        for post, clean in POST_PROCESSING.items():
            scores = score_patients(clean(probs > 0.5), masks, patients, whole=True)
            lines.append({"method": f"{name}, {post}", "scores": {"0.5": scores}})
    with results.open("a") as file:  # one write, so that an interrupted run leaves no half line
        file.write("".join(json.dumps(line) + "\n" for line in reversed(lines)))


def results_file(fold: int, seed: int) -> Path:
    return RUNS / f"fold{fold}-seed{seed}.jsonl"


def finished(results: Path) -> dict[str, Any]:
    """Read what a results file holds: method to scores."""
    if not results.exists():
        return {}
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    return {line["method"]: line["scores"] for line in lines}


def quiet() -> None:
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="kaggle_3m folder")
    parser.add_argument("--stage", choices=STAGES, default="final")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    options = parser.parse_args()
    folds, seeds, methods = STAGES[options.stage]
    RUNS.mkdir(exist_ok=True)
    # Keep freed memory: fetching it anew for every feature map took half of the time.
    os.environ |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34)}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, context, quiet) as pool:
        jobs = [pool.submit(run, options.data, f, s, methods) for s in seeds for f in folds]
        for job in as_completed(jobs):
            print(job.result(), flush=True)


if __name__ == "__main__":
    main()
