"""The recipes' Lightning modules: a segmenter and a classifier of presence, and their checkpoints.

A checkpoint holds tensors and plain types only, so that ``torch.load(weights_only=True)`` reads it.
"""

from typing import Any

import lightning as L
import timm
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassJaccardIndex,
)

from examples.recipes.networks import make_network, with_weights
from examples.recipes.outputs import Output
from examples.recipes.settings import Settings
from examples.recipes.sources import Batch, Item
from gliomaseg_layers import CompoundLoss, DensityLoss, OutlierRegionLoss, WeightRamp


def make_loss(settings: Settings, mode: str, pos_weight: float | None) -> CompoundLoss:
    window = settings["window"]
    shared: dict[str, Any] = {"mode": mode, "pos_weight": pos_weight if mode == "binary" else None}
    outlier: OutlierRegionLoss | DensityLoss = OutlierRegionLoss(window=window, **shared)
    if settings["outlier"] == "density":
        outlier = DensityLoss(inner=window // 6 * 2 + 1, outer=window, **shared)  # 7 of 21, odd
    weights = {name: settings[name] for name in ("alpha", "beta", "gamma")}
    return CompoundLoss(outlier, scnp=settings["scnp"] or None, **weights)


class System(L.LightningModule):
    """What both modules share: the optimiser, its schedule, and what a checkpoint holds.

    ``recipe`` holds the ``settings``, and what follows from the data: ``channels``, ``classes``,
    ``regions``, ``values`` (of the labels), ``columns`` (of the attributes) and ``pos_weight``.
    """

    kind: str
    monitor: str
    network: nn.Module
    parts: dict[str, set[Item]]  # the data's split, if it was loaded from a checkpoint

    def __init__(self, recipe: dict[str, Any]) -> None:
        super().__init__()
        self.recipe = recipe
        self.settings = recipe["settings"]
        self.validation_loss = MeanMetric()

    def on_train_epoch_start(self) -> None:
        # A resumed run draws the same random numbers as one that was never broken off.
        torch.manual_seed(self.settings["seed"] + 1000 * self.current_epoch + self.global_rank)

    def configure_optimizers(self) -> Any:
        rate = self.settings["learning_rate"]
        if self.settings["optimizer"] == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(self.parameters(), rate, 0.9)
        else:
            optimizer = torch.optim.Adam(self.parameters(), rate)
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = round(self.settings["warmup"] * steps)
        schedule: Any = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        if self.settings["cosine"]:
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
                optimizer, max(steps - warmup, 1), self.settings["cosine_end"]
            )
        if warmup:
            rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (warmup + 1), 1.0, warmup)
            schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, schedule], [warmup])
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    @property
    def described(self) -> dict[str, Any]:
        """The recipe as a checkpoint holds it."""
        return self.recipe | {"kind": self.kind}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["recipe"] = self.described

    def record(self, **values: Any) -> None:
        self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True)


class Segmenter(System):
    """A network and its loss; overall accuracy, mean accuracy, mean IoU and Dice in validation."""

    kind = "segmenter"
    monitor = "val_dice"

    def __init__(self, recipe: dict[str, Any]) -> None:
        super().__init__(recipe)
        settings = self.settings
        self.output = Output.of(recipe)
        self.network = make_network(
            settings, recipe["channels"], self.output.channels, len(recipe["columns"])
        )
        self.recipe = recipe | {"weights": getattr(self.network, "weights", "random")}
        self.loss = make_loss(settings, self.output.mode, recipe["pos_weight"])
        self.ramp: WeightRamp | None = None
        self.ramp_state: dict[str, Any] | None = None
        count = self.output.classes
        self.metrics = MetricCollection(
            {
                "val_accuracy": MulticlassAccuracy(count, average="micro"),
                "val_macc": MulticlassAccuracy(count, average="macro"),
                "val_miou": MulticlassJaccardIndex(count, average="macro"),
            }
        )
        self.dice = MulticlassF1Score(count, average="none")

    def forward(self, images: Tensor, attributes: Tensor) -> Tensor:
        """Return logits ``(N, C, H, W)``."""
        if self.recipe["columns"]:
            return self.network(images, attributes)  # type: ignore[no-any-return]
        return self.network(images)  # type: ignore[no-any-return]

    def probabilities(self, images: Tensor, attributes: Tensor) -> Tensor:
        """Return the classes' or regions' probabilities, as ``output`` reads them."""
        return self.output.probabilities(self(images, attributes).float())

    def on_fit_start(self) -> None:
        if self.settings["ramp"]:
            steps = int(self.trainer.estimated_stepping_batches)
            first, last = (round(part * steps) for part in self.settings["ramp"])
            end = self.settings["gamma"]
            self.ramp = WeightRamp(
                self.loss, "gamma", end=end, warmup_steps=first, total_steps=max(last, first + 1)
            )
            if self.ramp_state:
                self.ramp.load_state_dict(self.ramp_state)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        images, labels, attributes = batch
        logits = self(images, attributes)
        loss, terms = self.loss(logits, self.output.target(labels), return_terms=True)
        if self.ramp is not None:
            self.ramp.step()
        self.record(train_loss=loss.detach(), **{f"train_{k}": v for k, v in terms.items()})
        return loss  # type: ignore[no-any-return]

    def validation_step(self, batch: Batch, index: int) -> None:
        images, labels, attributes = batch
        logits = self(images, attributes)
        self.validation_loss.update(self.loss(logits, self.output.target(labels)), len(images))
        found = self.output.labels(self.output.probabilities(logits))
        self.metrics.update(found, labels)
        self.dice.update(found, labels)

    def on_validation_epoch_end(self) -> None:
        figures = {"val_loss": self.validation_loss.compute()} | self.metrics.compute()
        # The first class is the background. torchmetrics has summed over the processes.
        self.record(**figures, val_dice=self.dice.compute()[1:].mean())
        for metric in (self.validation_loss, self.metrics, self.dice):
            metric.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.ramp is not None:
            checkpoint["ramp"] = self.ramp.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.ramp_state = checkpoint.get("ramp")


class PresenceClassifier(System):
    """A classifier that says whether a slice holds any tumour: [LGG-GATE]'s gate."""

    kind = "presence"
    monitor = "val_f1"

    def __init__(self, recipe: dict[str, Any]) -> None:
        super().__init__(recipe)
        settings = self.settings
        self.network = with_weights(
            settings["pretrained"],
            lambda pretrained: timm.create_model(
                settings["gate"],
                pretrained=pretrained,
                in_chans=recipe["channels"],
                num_classes=1,
            ),
        )
        self.recipe = recipe | {"weights": self.network.weights}
        weight = recipe["gate_pos_weight"]
        self.loss = nn.BCEWithLogitsLoss(
            pos_weight=None if weight is None else torch.tensor(float(weight))
        )
        self.metrics = MetricCollection(
            {"val_accuracy": BinaryAccuracy(), "val_f1": BinaryF1Score()}
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).squeeze(1)  # type: ignore[no-any-return]

    def training_step(self, batch: Batch, index: int) -> Tensor:
        images, labels, _ = batch
        loss = self.loss(self(images), labels.flatten(1).any(1).float())
        self.record(train_loss=loss.detach())
        return loss  # type: ignore[no-any-return]

    def validation_step(self, batch: Batch, index: int) -> None:
        images, labels, _ = batch
        logits, present = self(images), labels.flatten(1).any(1)
        self.validation_loss.update(self.loss(logits, present.float()), len(images))
        self.metrics.update(logits, present.int())

    def on_validation_epoch_end(self) -> None:
        self.record(val_loss=self.validation_loss.compute(), **self.metrics.compute())
        self.validation_loss.reset()
        self.metrics.reset()
