"""Read the LGG Segmentation Dataset's ``kaggle_3m`` layout, split it by patient, load it lazily.

kaggle_3m/
  data.csv
  TCGA_<institution>_<patient>_<date>/
    TCGA_<institution>_<patient>_<date>_<slice>.tif         pre-contrast, FLAIR, post-contrast
    TCGA_<institution>_<patient>_<date>_<slice>_mask.tif    0 or 255
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import torch
from kornia import augmentation as K
from kornia.constants import DataKey, Resample
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from examples.lgg.groups import find_groups, read_table
from examples.lgg.pixels import DataError as DataError
from examples.lgg.pixels import check_folder as check_folder
from examples.lgg.pixels import read_image as read_image
from examples.lgg.pixels import read_mask as read_mask

FILE_NAME = re.compile(r"(?P<stem>.+)_(?P<number>\d+)(?P<mask>_mask)?\.tiff?", re.IGNORECASE)


@dataclass(frozen=True)
class Slice:
    """One axial slice and its mask, on disk."""

    patient: str
    number: int
    image: Path
    mask: Path
    size: tuple[int, int]  # height, width
    tumour_pixels: int


def find_slices(folder: Path, *, patients: int | None = None) -> list[Slice]:
    """Find the slices of the first ``patients`` patients (None: all), in order, and check each."""
    check_folder(folder)
    if (folder / "kaggle_3m").is_dir():
        folder = folder / "kaggle_3m"
    pairs: list[tuple[str, int, Path, Path]] = []
    homes = [home for home in sorted(folder.iterdir()) if home.is_dir() and _pair_up(home)]
    if not homes:
        raise DataError(
            f"no pairs <name>_<slice>.tif and <name>_<slice>_mask.tif in the folders of {folder}"
        )
    for home in homes[:patients]:
        for (number, _), (image, mask) in sorted(_pair_up(home).items()):
            if image is None or mask is None:
                raise DataError(f"no {'image' if image is None else 'mask'} beside {image or mask}")
            pairs.append((home.name, number, image, mask))
    with tqdm(pairs, "checking slices", leave=False, delay=1) as bar:
        return [_check_pair(*pair) for pair in bar]


def _pair_up(home: Path) -> dict[tuple[int, str], tuple[Path | None, Path | None]]:
    """Map slices, by number (they are not zero-padded) and stem, to image and mask."""
    pairs: dict[tuple[int, str], tuple[Path | None, Path | None]] = {}
    for path in home.iterdir():
        match = FILE_NAME.fullmatch(path.name)
        if match is None or path.name.startswith("."):
            continue
        key = (int(match["number"]), match["stem"])
        image, mask = pairs.get(key, (None, None))
        if other := mask if match["mask"] else image:
            raise DataError(f"the same slice twice: {other} and {path}")
        pairs[key] = (image, path) if match["mask"] else (path, mask)
    return pairs


def _check_pair(patient: str, number: int, image: Path, mask: Path) -> Slice:
    pixels, tumour = read_image(image), read_mask(mask)
    if pixels.shape[:2] != tumour.shape:
        raise DataError(
            f"mask of another size: {mask} is {tumour.shape[1]} x {tumour.shape[0]}, "
            f"its image {pixels.shape[1]} x {pixels.shape[0]}"
        )
    return Slice(patient, number, image, mask, tumour.shape, int(tumour.sum()))


def read_attributes(folder: Path) -> pd.DataFrame:
    """Read ``data.csv``, indexed by the first three parts of a patient folder's name.

    Takes the comma-separated release and the copy with semicolons; an empty cell is missing. A
    folder without the file gives an empty table.
    """
    folder = folder / "kaggle_3m" if (folder / "kaggle_3m").is_dir() else folder
    path = folder / "data.csv"
    if not path.is_file():
        return pd.DataFrame(index=pd.Index([], name="Patient"))
    try:
        table = read_table(path, {"Patient": str})
        table = table.dropna(how="all").set_index("Patient")  # spreadsheets leave empty rows
        table.index = table.index.str.strip()
        if table.index.has_duplicates:
            raise ValueError(f"patient {table.index[table.index.duplicated()][0]} comes twice")
        if np.isinf(table.select_dtypes("number")).any(axis=None):
            raise ValueError("it holds infinite numbers")
    except (ValueError, KeyError, OSError) as error:
        raise DataError(f"unreadable table: {path} ({error})") from error
    return table.astype("Int64", errors="ignore")


def patient_key(folder_name: str) -> str:
    """Return the part of a patient folder's name that ``data.csv`` knows it by."""
    return "_".join(folder_name.split("_")[:3])


def split_by_patient(
    slices: Sequence[Slice], held_out: float, seed: int, table: Path | None = None
) -> tuple[list[Slice], list[Slice]]:
    """Split into training and held-out slices, by patient: neighbouring slices are near copies.

    Two exams of one patient stay together. ``table`` says whose they are; without it the names do.
    """
    groups = find_groups(sorted({piece.patient for piece in slices}), table)
    patients = sorted(set(groups.values()))
    if len(patients) < 2:
        raise DataError(f"a split by patient needs 2 patients or more, found {len(patients)}")
    order = np.random.default_rng(seed).permutation(len(patients))
    count = min(max(round(held_out * len(patients)), 1), len(patients) - 1)
    chosen = {patients[index] for index in order[:count]}
    training = [piece for piece in slices if groups[piece.patient] not in chosen]
    return training, [piece for piece in slices if groups[piece.patient] in chosen]


class SliceDataset(Dataset[tuple[Tensor, Tensor]]):
    """Slices, read when asked for: image ``(3, H, W)`` in [0, 1], mask ``(1, H, W)`` of 0 and 1."""

    def __init__(self, slices: Sequence[Slice], size: tuple[int, int]) -> None:
        self.slices = slices
        self.size = size

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        piece = self.slices[index]
        image = torch.tensor(read_image(piece.image, self.size)).movedim(-1, 0).float() / 255
        mask = torch.tensor(read_mask(piece.mask, self.size)).unsqueeze(0).float()
        return image, mask


class Standardise(nn.Module):
    """Bring every channel of every slice to mean 0 and standard deviation 1.

    A constant channel becomes 0: the data set has some. The scale is the slice's own, because some
    patients are dark throughout.
    """

    def forward(self, images: Tensor) -> Tensor:
        correction = int(images.shape[2:].numel() > 1)  # a single pixel has no n - 1
        spread, mean = torch.std_mean(images, dim=(2, 3), correction=correction, keepdim=True)
        return (images - mean) / spread.clamp(min=1e-3)


class SliceData(L.LightningDataModule):
    """Training and held-out slices; augmentation runs on whole batches, on the training device."""

    def __init__(
        self,
        training: Sequence[Slice],
        held_out: Sequence[Slice],
        size: tuple[int, int],
        batch_size: int,
        workers: int,
    ) -> None:
        super().__init__()
        self.training = SliceDataset(training, size)
        self.held_out = SliceDataset(held_out, size)
        self.batch_size = batch_size
        self.workers = workers
        self.standardise = Standardise()
        self.augment = K.AugmentationSequential(
            K.RandomHorizontalFlip(p=0.5),
            K.RandomVerticalFlip(p=0.5),
            K.RandomAffine(degrees=15.0, scale=(0.9, 1.1), p=0.7),
            K.ColorJiggle(brightness=0.1, contrast=0.1, saturation=0.1, p=0.7),
            K.RandomChannelDropout(num_drop_channels=1, p=0.1),
            data_keys=["input", "mask"],
            extra_args={DataKey.MASK: {"resample": Resample.NEAREST, "align_corners": None}},
        )

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return self._loader(self.training, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return self._loader(self.held_out, shuffle=False)

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return self.val_dataloader()

    def _loader(self, data: SliceDataset, *, shuffle: bool) -> DataLoader[tuple[Tensor, Tensor]]:
        return DataLoader(
            data,
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor], dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        images, masks = batch
        if self.trainer is not None and self.trainer.training:
            images, masks = self.augment(images, masks)
        return self.standardise(images), masks
