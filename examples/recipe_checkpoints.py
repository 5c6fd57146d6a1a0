"""The recipes' checkpoints: written whole, read safely, with the history of the training.

They hold tensors and plain types only, so that ``torch.load(weights_only=True)`` reads them.
"""

import pickle
import time
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lgg_data import DataError
from recipe_systems import PresenceClassifier, Segmenter, System
from whole_files import replacing, write_whole

KINDS: dict[str, type[System]] = {"segmenter": Segmenter, "presence": PresenceClassifier}


def load_checkpoint(path: Path, kind: str) -> Any:
    """Rebuild a system from its checkpoint; what is no such file is refused."""
    checkpoint = read_checkpoint(path)
    recipe = checkpoint["recipe"]
    if recipe["kind"] != kind:
        raise DataError(
            f"a checkpoint of a {recipe['kind']} where a {kind}'s was asked for: {path}"
        )
    try:
        # Its own weights follow: none are to be downloaded.
        system = KINDS[kind](recipe | {"settings": recipe["settings"] | {"pretrained": False}})
        system.load_state_dict(checkpoint["state_dict"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        line = str(error).splitlines()[0]
        raise DataError(f"a checkpoint that does not fit its recipe: {path} ({line})") from error
    system.recipe = recipe
    return system.eval()


def read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"unreadable checkpoint: {path} ({error.strerror})") from error
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        # torch would advise to load it unsafely.
        raise DataError(f"not a checkpoint, or one that is cut off: {path}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("recipe"), dict):
        raise DataError(f"not a checkpoint of these recipes: {path}")
    return checkpoint


class WholeFiles(TorchCheckpointIO):
    """Lightning's own goes through the system's temporary folder, from where a checkpoint is copied
    piece by piece if that is another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        with replacing(Path(path)) as part:
            torch.save(checkpoint, part)


class History(L.Callback):
    """The figures of every epoch, in metrics.csv and in the checkpoint, from where it goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self.began = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self.began = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        seconds = time.perf_counter() - self.began
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        row = {"epoch": trainer.current_epoch + 1, "seconds": seconds, "learning_rate": rate}
        self.rows.append(row | figures)
        if trainer.is_global_zero:
            write_whole(self.path, pd.DataFrame(self.rows).to_csv(index=False))

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
