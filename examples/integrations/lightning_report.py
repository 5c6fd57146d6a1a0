"""Lightning: log now and then how much the outlier-region loss flags, class by class."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from examples.integrations.toy_data import tumours
from gliomaseg_layers import CompoundLoss, OutlierRegionLoss


class LogFlagged(L.Callback):
    """Logs the flagged part of the pixels and of the cross-entropy, every so many batches.

    The module's ``training_step`` returns its logits and labels beside its loss.
    """

    def __init__(self, loss: OutlierRegionLoss, every: int = 50) -> None:
        self.loss, self.every = loss, every

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if index % self.every == 0:
            report = self.loss.report(outputs["logits"], outputs["labels"])  # gliomaseg_layers
            for name in ("pixels", "cross_entropy"):
                for c, part in enumerate(getattr(report, name).mean(1)):
                    module.log(f"flagged_{name}/class_{c}", part)
            module.log("flagged_k", report.k.mean())


class Segmenter(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)
        )
        self.outlier = OutlierRegionLoss("multiclass")  # gliomaseg_layers
        self.criterion = CompoundLoss(self.outlier)  # gliomaseg_layers

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Mapping[str, Tensor]:
        images, labels = batch
        logits = self.network(images)
        loss = self.criterion(logits, labels)
        self.log("loss", loss)
        return {"loss": loss, "logits": logits.detach(), "labels": labels}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def train(epochs: int) -> dict[str, float]:
    """Train on toy data, and return what was logged last."""
    L.seed_everything(0, verbose=False)
    module = Segmenter()
    trainer = L.Trainer(
        max_epochs=epochs,
        callbacks=[LogFlagged(module.outlier, every=2)],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(*tumours(8, 48, 48)), batch_size=2))
    return {name: float(value) for name, value in trainer.logged_metrics.items()}


def main() -> None:
    first, last = train(1), train(8)
    for name in first:
        print(f"{name} {first[name]:.4f} -> {last[name]:.4f}")


if __name__ == "__main__":
    main()
