"""The recipes' checkpoints: written whole, read safely, with the history of the training.

They hold tensors and plain types only, so that ``torch.load(weights_only=True)`` reads them.
"""

import time
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from examples.lgg.data import DataError
from examples.recipes.data import PARTS
from examples.recipes.settings import check
from examples.recipes.sources import Item
from examples.recipes.systems import PresenceClassifier, Segmenter, System
from examples.saving.whole_files import read_saved, save_whole, write_whole

KINDS: dict[str, type[System]] = {"segmenter": Segmenter, "presence": PresenceClassifier}


def load_checkpoint(path: Path, kind: str) -> Any:
    """Rebuild a system from its checkpoint; what is no such file is refused."""
    checkpoint = read_checkpoint(path)
    recipe = checkpoint["recipe"]
    if recipe.get("kind") != kind:
        raise DataError(f"not a checkpoint of a {kind} but of a {recipe.get('kind')}: {path}")
    try:
        # Its own weights follow: none are to be downloaded.
        settings = check(recipe["settings"] | {"pretrained": False})
        system = KINDS[kind](recipe | {"settings": settings})
        system.load_state_dict(checkpoint["state_dict"])
        system.parts = {name: {Item(*pair) for pair in recipe["parts"][name]} for name in PARTS}
    except Exception as error:  # whatever a recipe that is none can raise
        line = str(error).partition("\n")[0]
        raise DataError(f"a checkpoint that does not fit its recipe: {path} ({line})") from error
    system.recipe = recipe
    return system.eval()


def read_checkpoint(path: Path) -> dict[str, Any]:
    checkpoint = read_saved(path)
    if not isinstance(checkpoint.get("recipe"), dict):
        raise DataError(f"not a checkpoint of these recipes: {path}")
    return checkpoint


def check_resumable(path: Path, system: System) -> None:
    """Check that a checkpoint is one of this training, and holds all that it needs to go on."""
    checkpoint = read_checkpoint(path)
    # The weights that it began with are in it, wherever it goes on.
    before, now = (
        {**recipe, "weights": None} for recipe in (checkpoint["recipe"], system.described)
    )
    if before != now or "loops" not in checkpoint or not checkpoint.get("optimizer_states"):
        raise DataError(f"not the last checkpoint of this training: {path}")


class WholeFiles(TorchCheckpointIO):
    """Lightning's own goes through the system's temporary folder, from where a checkpoint is copied
    piece by piece if that is another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        save_whole(Path(path), checkpoint)


class Checkpoint(ModelCheckpoint):
    """Lightning's own forgets which epoch was the best where the folder has another name now."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"dirpath": self.dirpath})


class Patience(EarlyStopping):
    """Lightning's own trains on where a run was broken off after it had lost its patience."""

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.should_stop = self.wait_count >= self.patience


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
