"""Train a U-Net on LGG slices with and without the outlier term, and report what the term does.

A first training, with BCE + Dice, gives a network that is nearly there. From it two others go on,
on the same batches: one with BCE + Dice, one with BCE + Dice + outlier term. Writes metrics.csv,
report.md and pictures to runs/<name>/. Of a run that was broken off, the finished trainings are
kept; --resume goes on with the next.
"""

import argparse
import copy
import json
import logging
import sys
import tempfile
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from tqdm import tqdm

from examples.lgg.data import (
    DataError,
    Slice,
    SliceData,
    find_slices,
    read_attributes,
    split_by_patient,
)
from examples.lgg.evaluation import score
from examples.lgg.groups import describe_split, find_groups
from examples.lgg.report import write_report
from examples.lgg.segmenter import Record, Segmenter
from examples.lgg.standin import write_standin
from examples.saving.run_folder import RESULTS, results_folder
from examples.saving.whole_files import read_saved, save_whole, write_whole
from gliomaseg_layers import CompoundLoss, OutlierRegionLoss, UNet

WARM_START = "warm start (BCE + Dice)"
WIDTHS = (8, 16, 32, 64)  # a small U-Net, so that the demo takes minutes without a GPU
# Options that say where and with what, but not what is computed.
MACHINE = ("accelerator", "name", "resume", "runs", "workers")


def variants(options: argparse.Namespace) -> dict[str, CompoundLoss]:
    """Return the losses that are compared: a name more is a training more."""
    outlier = OutlierRegionLoss(
        window=options.window, strength=options.strength, share=options.share
    )
    return {
        "BCE + Dice": CompoundLoss(gamma=0.0),
        "BCE + Dice + outlier": CompoundLoss(outlier),
    }


def train(options: argparse.Namespace, folder: Path, folder_of_run: Path) -> None:
    """Run the whole job on a ``kaggle_3m`` folder; leave the results in the run's folder.

    What each training leaves is kept there, and read instead of trained again.
    """
    slices = find_slices(folder, patients=options.patients)
    training, held_out = split_by_patient(slices, options.held_out, options.seed, options.groups)
    if not any(piece.tumour_pixels for piece in training):
        raise DataError(f"no tumour in the {len(training)} training slices of {folder}")
    attributes = read_attributes(folder)
    size = (options.size, options.size) if options.size else slices[0].size
    losses = variants(options)
    print(
        f"{len(training)} training and {len(held_out)} held-out slices of "
        f"{size[1]} x {size[0]} px; {say_split(training, held_out, options.groups)}",
        flush=True,
    )

    L.seed_everything(options.seed, workers=True, verbose=False)
    network = UNet(in_channels=3, classes=1, widths=WIDTHS)
    print(f"After a break, --name {options.name} --resume goes on", flush=True)
    steps_per_epoch = -(-len(training) // options.batch_size)
    steps = steps_per_epoch * (options.warm_epochs + len(losses) * options.epochs)
    rows: list[dict[str, Any]] = []
    predictions: dict[str, Tensor] = {}
    masks = torch.empty(0)
    with tqdm(total=steps, unit="step", dynamic_ncols=True) as bar:
        data = SliceData(training, held_out, size, options.batch_size, options.workers)
        runs = {WARM_START: CompoundLoss(gamma=0.0)} | losses
        for number, (name, loss) in enumerate(runs.items()):
            bar.set_description(name)
            kept = folder_of_run / f"{number}.ckpt"
            # The same seed gives every variant the same slices in the same order, augmented alike.
            L.seed_everything(options.seed + (name != WARM_START), workers=True, verbose=False)
            variant = network if name == WARM_START else copy.deepcopy(network)
            module = Segmenter(variant, loss, options.learning_rate)
            record = Record(name, bar)
            epochs = options.warm_epochs if name == WARM_START else options.epochs
            trainer = L.Trainer(
                max_epochs=epochs,
                accelerator=options.accelerator,
                devices=1,
                callbacks=[record],
                deterministic=True,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
            if kept.exists():
                record.rows = _read_training(kept, variant)
                bar.update(epochs * steps_per_epoch)
            else:
                trainer.fit(module, datamodule=data)
                write_whole(folder_of_run / "run.json", json.dumps(plan(options), indent=1))
                save_whole(kept, {"network": variant.state_dict(), "rows": record.rows})
            batches = trainer.predict(module, datamodule=data)
            predictions[name] = torch.cat([probs for probs, _ in batches or []])
            masks = torch.cat([mask for _, mask in batches or []])
            rows += record.rows

    output = folder_of_run / RESULTS
    output.mkdir(exist_ok=True)
    history = pd.DataFrame(rows)
    history.to_csv(output / "metrics.csv", index=False)
    scores = pd.DataFrame({name: score(probs, masks) for name, probs in predictions.items()}).T
    write_report(
        output,
        scores,
        history,
        held_out,
        attributes,
        predictions,
        masks,
        size,
        options,
    )


def say_split(training: list[Slice], held_out: list[Slice], table: Path | None) -> str:
    parts = [{piece.patient for piece in part} for part in (training, held_out)]
    return describe_split(parts, find_groups(set.union(*parts), table), table)


def _read_training(path: Path, network: nn.Module) -> list[dict[str, Any]]:
    """Give the network the weights of a finished training; return its figures."""
    saved = read_saved(path)
    try:
        network.load_state_dict(saved["network"])
        return list(saved["rows"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise DataError(f"not a training of this run: {path}") from error


def plan(options: argparse.Namespace) -> dict[str, Any]:
    """Return what decides the results."""
    chosen = {name: value for name, value in vars(options).items() if name not in MACHINE}
    paths = {name: getattr(options, name) for name in ("data", "groups")}
    return chosen | {name: str(path.resolve()) if path else None for name, path in paths.items()}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.lgg",
        description=__doc__.splitlines()[0] if __doc__ else None,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, help="kaggle_3m folder; without it slices are generated")
    add("--groups", type=Path, help="csv of case (a folder's name) and group; the names' if unset")
    add("--window", type=int, default=21, help="of the outlier term, in pixels, odd")
    add("--strength", type=float, default=1000.0, help="largest weight of a pixel in an island")
    add("--share", type=float, default=0.1, help="of an image that its islands weigh at most")
    add("--warm-epochs", type=int, help="epochs of the warm start; 10 on generated slices, else 5")
    add("--epochs", type=int, help="further epochs with each loss; 5 on generated slices, else 3")
    add("--batch-size", type=int, default=8, help="slices a step")
    add("--learning-rate", type=float, default=5e-3, help="of Adam, falling to 0 in each training")
    add("--size", type=int, help="side that slices are resized to, in pixels; their own if unset")
    add("--patients", type=int, help="use only so many patients, for a quick look")
    add("--held-out", type=float, default=0.3, help="part of the patients held out for the report")
    add("--seed", type=int, default=23, help="of the split, the network and the augmentation")
    add("--workers", type=int, default=0, help="processes that load slices beside the training")
    add(
        "--accelerator",
        default="auto",
        choices=["auto", "cpu", "gpu", "mps"],
        help="where to train",
    )
    add("--runs", type=Path, default=Path("runs"), help="folder of the results")
    add("--name", help="of the results' folder; data set and time if unset")
    add("--resume", action="store_true", help="go on with the run that was begun by this --name")
    options = parser.parse_args(arguments)
    if options.resume and options.name is None:
        parser.error("--resume needs --name")
    for name, generated, real in (("warm_epochs", 10, 5), ("epochs", 5, 3)):
        if getattr(options, name) is None:
            setattr(options, name, real if options.data else generated)
    for name in ("warm_epochs", "epochs", "batch_size", "size", "patients"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be 1 or more")
    if options.seed < 0 or options.workers < 0:
        parser.error("--seed and --workers must be 0 or more")
    if not options.learning_rate > 0:
        parser.error("--learning-rate must be above 0")
    if not 0 < options.held_out < 1:
        parser.error("--held-out must lie between 0 and 1")
    if options.name is None:
        source = "kaggle_3m" if options.data else "generated"
        options.name = f"{source}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        variants(options)
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Lightning advises more loading processes than the machine has cores, and asks torch's pytree
    # in a way that torch has deprecated.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")
    # Lightning's `deterministic` would also fill memory that nothing reads before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    target = options.runs / options.name
    try:
        with (
            results_folder(target, plan(options), resume=options.resume) as run,
            tempfile.TemporaryDirectory() as scratch,
        ):
            folder = options.data
            if folder is None:
                folder = Path(scratch) / "kaggle_3m"
                write_standin(folder, seed=options.seed)
            train(options, folder, run)
    except (DataError, MisconfigurationException, OSError) as error:
        print(f"lgg: {error}", file=sys.stderr)
        return 1
    print((target / "report.md").read_text())
    print(f"Results: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
