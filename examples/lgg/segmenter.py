"""The network that the demo trains, as a Lightning module, and the record of its epochs."""

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics.classification import BinaryF1Score
from tqdm import tqdm

from gliomaseg_layers import CompoundLoss


class Segmenter(L.LightningModule):
    """A network, its loss, and Dice pooled over the held-out slices after every epoch."""

    def __init__(self, network: nn.Module, loss: CompoundLoss, learning_rate: float) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.learning_rate = learning_rate
        self.dice = BinaryF1Score()

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, masks = batch
        loss, terms = self.loss(self.network(images), masks, return_terms=True)
        values = {f"train_{name}": value for name, value in terms.items()}
        self.log_dict({"train_loss": loss.detach()} | values, on_step=False, on_epoch=True)
        return loss  # type: ignore[no-any-return]

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, masks = batch
        self.dice.update(self.network(images).sigmoid(), masks.int())
        self.log("held_out_dice", self.dice, on_step=False, on_epoch=True)

    def predict_step(self, batch: tuple[Tensor, Tensor], index: int) -> tuple[Tensor, Tensor]:
        images, masks = batch
        return self.network(images).sigmoid().squeeze(1).cpu(), masks.squeeze(1).int().cpu()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        # Down to 0, so that batch norm's running statistics are those of the final weights.
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Record(L.Callback):
    """Keep the figures of every epoch, and move the one progress bar of the whole job."""

    def __init__(self, variant: str, bar: "tqdm[Any]") -> None:
        self.variant = variant
        self.bar = bar
        self.rows: list[dict[str, Any]] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.bar.update()

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append({"variant": self.variant, "epoch": trainer.current_epoch + 1} | figures)
