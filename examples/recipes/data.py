"""The recipes' slices, augmented and put into batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import kornia.augmentation as K
import lightning as L
import torch
from kornia.constants import DataKey, Resample
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from examples.lgg.data import Standardise
from examples.recipes.sources import Batch, Item, Source


class Samples(Dataset[Batch]):
    """Items of a source, read when asked for."""

    def __init__(self, source: Source, items: Sequence[Item]) -> None:
        self.source = source
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Batch:
        return self.source.read(self.items[index])


class RecipeData(L.LightningDataModule):
    """Training and validation slices; augmentation runs on whole batches, on their device."""

    def __init__(
        self,
        source: Source,
        training: Sequence[Item],
        validation: Sequence[Item],
        settings: Mapping[str, Any],
        workers: int,
    ) -> None:
        super().__init__()
        self.training = Samples(source, training)
        self.validation = Samples(source, validation)
        self.batch_size = settings["batch_size"]
        self.seed = settings["seed"]
        self.workers = workers
        self.augment = augmentation(settings)
        self.normalise = normalisation(settings)
        self.next_epoch = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, asked for at the end of an epoch."""
        return {"next_epoch": self.trainer.current_epoch + 1 if self.trainer else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.next_epoch = state_dict["next_epoch"]

    def train_dataloader(self) -> DataLoader[Batch]:
        # The order depends on the epoch alone, so that a resumed run has the same one.
        sampler: Any = DistributedSampler(self.training, *self._processes(), seed=self.seed)
        # Lightning sets the epoch too, but in a resumed run only after the workers have read ahead.
        sampler.set_epoch(self.next_epoch)
        # Batch norm cannot train on a last batch of one slice.
        return self._loader(sampler, drop_last=len(sampler) > self.batch_size)

    def val_dataloader(self) -> DataLoader[Batch]:
        # No slice is repeated to give every process equally many: it would count twice.
        sampler = UnrepeatedDistributedSampler(self.validation, *self._processes(), shuffle=False)
        return self._loader(sampler)

    def _processes(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _loader(self, sampler: Any, **more: Any) -> DataLoader[Batch]:
        return DataLoader(
            sampler.dataset,
            sampler=sampler,
            batch_size=self.batch_size,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            generator=torch.Generator(),  # or loading would change the random numbers of all else
            **more,
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        images, labels, attributes = batch
        if self.trainer is not None and self.trainer.training and len(self.augment):
            images, masks = self.augment(images, labels.unsqueeze(1).float())
            labels = masks.squeeze(1).long()
        return self.normalise(images), labels, attributes


def normalisation(settings: Mapping[str, Any]) -> torch.nn.Module:
    """Slices are standardised one by one; BraTS cases have been, as whole volumes."""
    return torch.nn.Identity() if settings["data"] == "brats" else Standardise()


def augmentation(settings: Mapping[str, Any]) -> K.AugmentationSequential:
    amount = dict(settings)
    steps: list[Any] = []
    if amount["flip"]:
        steps += [K.RandomHorizontalFlip(p=0.5), K.RandomVerticalFlip(p=0.5)]
    if amount["degrees"] or amount["translate"] or amount["scale"]:
        shift, zoom = amount["translate"], amount["scale"]
        steps.append(K.RandomAffine(amount["degrees"], (shift, shift), (1 - zoom, 1 + zoom), p=0.7))
    for name, kind in (
        ("brightness", K.RandomBrightness),
        ("contrast", K.RandomContrast),
        ("saturation", K.RandomSaturation),
    ):
        if amount[name]:
            steps.append(kind((1 - amount[name], 1 + amount[name]), p=0.7))
    if amount["channel_deletion"]:
        steps.append(K.RandomChannelDropout(num_drop_channels=1, p=amount["channel_deletion"]))
    return K.AugmentationSequential(
        *steps,
        data_keys=["input", "mask"],
        extra_args={DataKey.MASK: {"resample": Resample.NEAREST, "align_corners": None}},
    )
