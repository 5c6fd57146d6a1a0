"""The recipes' checkpoints: written whole, read safely, with the figures of every epoch.

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
from examples.recipes.settings import check
from examples.recipes.sources import Item
from examples.recipes.splits import PARTS
from examples.recipes.systems import PresenceClassifier, Segmenter, System
from examples.saving.whole_files import read_saved, save_whole, write_whole

KINDS: dict[str, type[System]] = {"segmenter": Segmenter, "presence": PresenceClassifier}


def load_checkpoint(path: Path, kind: str) -> Any:
    """Rebuild a system from its checkpoint, and refuse any other file."""
    checkpoint = read_checkpoint(path)
    recipe = checkpoint["recipe"]
    if recipe.get("kind") != kind:
        raise DataError(f"not a checkpoint of a {kind} but of a {recipe.get('kind')}: {path}")
    try:
        # The checkpoint's weights are loaded below: none are downloaded.
        settings = check(recipe["settings"] | {"pretrained": False})
        system = KINDS[kind](recipe | {"settings": settings})
        system.load_state_dict(checkpoint["state_dict"])
        system.parts = {name: {Item(*pair) for pair in recipe["parts"][name]} for name in PARTS}
    except Exception as error:  # a broken recipe can raise anything
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
    # Where its first weights came from does not matter: the checkpoint holds the present ones.
    before, now = (
        {**recipe, "weights": None} for recipe in (checkpoint["recipe"], system.described)
    )
    if before != now or "loops" not in checkpoint or not checkpoint.get("optimizer_states"):
        raise DataError(f"not the last checkpoint of this training: {path}")


class WholeFiles(TorchCheckpointIO):
    """Write a checkpoint whole or not at all.

    Lightning's own writer copies it from the system's temporary folder where that is on another
    disk: a kill in between leaves half a file.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        save_whole(Path(path), checkpoint)


class Checkpoint(ModelCheckpoint):
    """Remember the best epoch after the folder was renamed, which Lightning's own does not."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"dirpath": self.dirpath})


class Patience(EarlyStopping):
    """Stay stopped after a resume; Lightning's own would train on."""

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.should_stop = self.wait_count >= self.patience


class History(L.Callback):
    """Write every epoch's figures to metrics.csv; the checkpoint keeps them for a resumed run."""

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
