"""Lightning: the outlier term comes in during training, and goes on where a checkpoint left it."""

import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from examples.integrations.toy_data import tumours
from gliomaseg_layers import CompoundLoss, OutlierRegionLoss, WeightRamp


class RampWeight(L.Callback):
    """Steps a ramp with the optimiser, and keeps it in every checkpoint."""

    def __init__(self, ramp: WeightRamp) -> None:
        self.ramp = ramp
        self.weights: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.weights.append(self.ramp.last_value)
        # A batch is no step of the optimiser where gradients are accumulated.
        if trainer.global_step > self.ramp.last_step:
            self.ramp.step()  # gliomaseg_layers

    def state_dict(self) -> dict[str, Any]:
        return self.ramp.state_dict()  # gliomaseg_layers

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.ramp.load_state_dict(state_dict)  # gliomaseg_layers


class Segmenter(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)
        )
        self.criterion = CompoundLoss(OutlierRegionLoss("multiclass"))  # gliomaseg_layers

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        logits = self.network(images)
        loss, terms = self.criterion(logits, labels, return_terms=True)  # gliomaseg_layers
        self.log_dict(terms)
        return loss  # type: ignore[no-any-return]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def train(
    epochs: int, *, accumulate: int = 1, resume: Path | None = None
) -> tuple[L.Trainer, RampWeight]:
    """Train to a number of epochs, of two batches each, from the start or from a checkpoint."""
    L.seed_everything(0, verbose=False)
    module = Segmenter()
    callback = RampWeight(WeightRamp(module.criterion, "gamma", total_steps=8))  # gliomaseg_layers
    trainer = L.Trainer(
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        callbacks=[callback],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = DataLoader(TensorDataset(*tumours(4, 32, 32)), batch_size=2)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return trainer, callback


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "half.ckpt"
        trainer, first = train(2)
        trainer.save_checkpoint(checkpoint)
        _, second = train(4, resume=checkpoint)
    print("gamma, before the checkpoint:", first.weights)
    print("gamma, after it:", second.weights)


if __name__ == "__main__":
    main()
