"""Run one training on Lightning, from its last checkpoint if there is one."""

import argparse
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only

from examples.lgg.pixels import DataError
from examples.recipes.checkpoints import Checkpoint, History, Patience, WholeFiles, check_resumable
from examples.recipes.data import RecipeData
from examples.recipes.sources import Source
from examples.recipes.splits import Parts
from examples.recipes.systems import System


def make_trainer(options: argparse.Namespace, **more: Any) -> L.Trainer:
    try:
        return L.Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            strategy=options.strategy,
            precision=options.precision,
            limit_train_batches=2 if options.smoke else None,
            limit_val_batches=2 if options.smoke else None,
            plugins=[WholeFiles()],
            logger=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **more,
        )
    except ValueError as error:  # its own of --precision and --strategy
        raise DataError(str(error)) from error


def fit(
    system: System,
    source: Source,
    parts: Parts,
    options: argparse.Namespace,
    folder: Path,
    name: str,
) -> torch.device:
    """Train to the end, from the last checkpoint if there is one; return where it ran."""
    system.to(memory_format=torch.channels_last)  # convolutions are faster so
    last = folder / "last.ckpt"
    settings = system.settings
    keep: dict[str, Any] = {
        "dirpath": folder,
        "enable_version_counter": False,
        "save_on_train_epoch_end": True,
    }
    callbacks: list[L.Callback] = [
        History(folder / "metrics.csv"),
        Checkpoint(
            filename="best", monitor=system.monitor, mode="max", save_weights_only=True, **keep
        ),
        Checkpoint(filename="last", **keep),
    ]
    if settings["patience"]:
        callbacks.insert(1, Patience(system.monitor, patience=settings["patience"], mode="max"))
    trainer = make_trainer(options, max_epochs=settings["epochs"], callbacks=callbacks)
    data = RecipeData(source, parts[0], parts[1], settings, options.workers)
    resume = None
    if last.exists():
        check_resumable(last, system)
        resume = last
    if first_process():
        print(f"{name}: {f'going on from {last}' if resume else 'training'}", flush=True)
    trainer.fit(system, datamodule=data, ckpt_path=resume, weights_only=True)
    return trainer.strategy.root_device


def first_process() -> bool:
    return bool(getattr(rank_zero_only, "rank", 0) == 0)
