"""Hugging Face: our loss in the `Trainer` of transformers, and in a plain loop of accelerate."""

import itertools
import tempfile
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import (
    PrinterCallback,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    Trainer,
    TrainingArguments,
)

from examples.integrations.toy_data import tumours
from gliomaseg_layers import CompoundLoss, OutlierRegionLoss, WeightRamp


class SegmentationTrainer(Trainer):
    """The `Trainer` with our loss."""

    # Ours is a mean over the batch: the Trainer divides it where it accumulates gradients.
    loss_is_scaled_for_ga = False  # gliomaseg_layers
    criterion = CompoundLoss(OutlierRegionLoss("multiclass", ignore_index=255))  # gliomaseg_layers

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        labels = inputs["labels"]
        outputs = model(pixel_values=inputs["pixel_values"])
        loss = self.criterion(full_size(outputs.logits, labels), labels)  # gliomaseg_layers
        return (loss, outputs) if return_outputs else loss


def full_size(logits: Tensor, labels: Tensor) -> Tensor:
    """Resize logits to the labels, as Segformer's own loss does: it predicts at a quarter."""
    return F.interpolate(logits, labels.shape[1:], mode="bilinear")


class Cases(Dataset[dict[str, Tensor]]):
    """Toy slices under the names that the models of transformers give their inputs."""

    def __init__(self) -> None:
        self.images, self.labels = tumours(8, 64, 64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def small_segformer() -> SegformerForSemanticSegmentation:
    return SegformerForSemanticSegmentation(
        SegformerConfig(
            num_channels=1,
            id2label={0: "background", 1: "rim", 2: "core"},
            depths=[1, 1, 1, 1],
            hidden_sizes=[8, 16, 32, 32],
            num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=32,
        )
    )


def train(folder: str, steps: int, batch_size: int = 4, accumulate: int = 1) -> SegmentationTrainer:
    """Train by the `Trainer`, which leaves its record in `state.log_history`."""
    torch.manual_seed(0)
    trainer = SegmentationTrainer(
        model=small_segformer(),
        args=TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulate,
            learning_rate=1e-2,
            logging_steps=1,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        ),
        train_dataset=Cases(),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


def train_plainly(
    criterion: CompoundLoss, folder: str, steps: int, resume: bool = False
) -> list[float]:
    """Train in a loop of one's own, and return the weight of the outlier term at every step."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    ramp = WeightRamp(criterion, "gamma", total_steps=8)  # gliomaseg_layers
    accelerator.register_for_checkpointing(ramp)  # gliomaseg_layers
    model = small_segformer()
    model, optimizer, loader = accelerator.prepare(
        model, torch.optim.Adam(model.parameters(), lr=1e-2), DataLoader(Cases(), batch_size=2)
    )
    if resume:
        accelerator.load_state(folder)
    weights = []
    for batch in itertools.islice(itertools.cycle(loader), steps):
        weights.append(ramp.last_value)
        logits = full_size(model(batch["pixel_values"]).logits, batch["labels"])
        accelerator.backward(criterion(logits, batch["labels"]))
        optimizer.step()
        optimizer.zero_grad()
        ramp.step()  # gliomaseg_layers
    accelerator.save_state(folder)
    return weights


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        history = train(folder, steps=5).state.log_history
        losses = [entry["loss"] for entry in history if "loss" in entry]
        print(f"Trainer: loss {losses[0]:.3f} -> {losses[-1]:.3f}")
        criterion = CompoundLoss(OutlierRegionLoss("multiclass"))  # gliomaseg_layers
        weights = train_plainly(criterion, folder, steps=4)
        weights += train_plainly(criterion, folder, steps=4, resume=True)
        print("accelerate, gamma over a checkpoint at step 4:", weights)


if __name__ == "__main__":
    main()
