"""The recipes' data: slices of LGG patients or of BraTS cases, in one form.

A sample is an image ``(C, H, W)``, its labels ``(H, W)`` and attributes ``(K,)``, where K may be 0.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from examples.brats import data as brats_data
from examples.lgg.data import (
    DataError,
    find_slices,
    patient_key,
    read_attributes,
    read_image,
    read_mask,
)
from examples.recipes.settings import Settings
from examples.saving.whole_files import replacing

Batch = tuple[Tensor, Tensor, Tensor]
POSITION = "slice position"


class Item(NamedTuple):
    """One slice of a patient."""

    case: str
    number: int


class Source(Protocol):
    """A data set: its items, and what they look like."""

    channels: int
    classes: int  # channels of a network's output: 1 is binary
    columns: list[str]  # of the attributes
    regions: dict[str, tuple[int, ...]]  # the labels that make up a region
    tumour_part: dict[Item, float]  # of every item's pixels; in order
    spacing: tuple[float, ...] | None  # mm; None where the data do not tell

    def read(self, item: Item) -> Batch: ...


class LggSource:
    """Slices of a ``kaggle_3m`` folder."""

    classes = 1
    regions: dict[str, tuple[int, ...]] = {"tumour": (1,)}  # noqa: RUF012
    spacing: tuple[float, ...] | None = None

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        patients: int | None = None,
        columns: list[str] | None = None,
    ) -> None:
        found = find_slices(folder, patients=patients)
        self.size = (settings["size"], settings["size"])
        self.picked = settings["channels"]
        self.channels = len(self.picked)
        self.slices = {Item(piece.patient, piece.number): piece for piece in found}
        if len(self.slices) < len(found):
            raise DataError(f"a patient in {folder} has two slices of one number")
        self.tumour_part = {
            item: piece.tumour_pixels / math.prod(piece.size)
            for item, piece in self.slices.items()
            if piece.tumour_pixels or not settings["tumour_only"]
        }
        last = {item.case: item.number for item in sorted(self.slices)}
        self.position = {item: item.number / max(last[item.case], 1) for item in self.slices}
        table = read_attributes(folder)
        if settings["attributes"] and not any(patient_key(case) in table.index for case in last):
            key = patient_key(min(last))
            raise DataError(f"no data.csv in {folder}, or none of its patients in it, as {key}")
        table = encode_attributes(table, columns if settings["attributes"] else [])
        self.columns = [*table.columns, POSITION] if settings["attributes"] else []
        self.known = {
            case: table.reindex([patient_key(case)]).to_numpy(np.float32)[0] for case in last
        }

    def read(self, item: Item) -> Batch:
        piece = self.slices[item]
        image = read_image(piece.image, self.size)[..., self.picked]
        label = read_mask(piece.mask, self.size)
        attributes = np.append(self.known[item.case], np.float32(self.position[item]))
        return (
            torch.tensor(image).movedim(-1, 0).float() / 255,
            torch.tensor(label).long(),
            torch.tensor(attributes[: len(self.columns)]).float(),
        )


def encode_attributes(table: pd.DataFrame, columns: list[str] | None = None) -> pd.DataFrame:
    """One-hot encode ``data.csv``, age by decades; what is missing is 0 in all of its columns.

    A patient of whom nothing is known has NaN in all. ``columns`` are those of the encoding that a
    network was trained with.
    """
    if columns is not None:
        table = table.loc[:, table.columns.isin([name.rpartition("=")[0] for name in columns])]
    filled = table.notna().any()
    table = table.apply(pd.to_numeric, errors="coerce")
    lost = table.columns[filled & table.isna().all()]
    if len(lost):
        raise DataError(f"columns of data.csv must hold numbers, not so: {', '.join(lost)}")
    if "age_at_initial_pathologic" in table:
        table["age_at_initial_pathologic"] //= 10
    names = [
        (name, value) for name in table.columns for value in sorted(table[name].dropna().unique())
    ]
    hot = pd.DataFrame(
        {f"{name}={int(value)}": (table[name] == value) for name, value in names},
        index=table.index,
    )
    hot = hot.fillna(value=False).astype(float)
    if columns is not None:
        hot = hot.reindex(columns=[name for name in columns if name != POSITION], fill_value=0.0)
    return hot.where(table.notna().any(axis=1), np.nan).astype(np.float32)


class BratsSource:
    """Axial slices of BraTS cases, kept uncompressed in ``cache`` after they have been checked."""

    channels = len(brats_data.MODALITIES)
    classes = 4
    columns: list[str] = []  # noqa: RUF012
    regions: dict[str, tuple[int, ...]] = {  # noqa: RUF012
        "whole tumour": (1, 2, 3),
        "tumour core": (1, 3),
        "enhancing tumour": (3,),
    }

    def __init__(
        self, folder: Path, settings: Settings, cache: Path, cases: int | None = None
    ) -> None:
        self.side = settings["size"]
        self.cache = cache / str(self.side)
        self.cache.mkdir(parents=True, exist_ok=True)
        self.tumour_part: dict[Item, float] = {}
        found = brats_data.find_cases(folder, labelled=True, cases=cases)
        # With a digest, so that another case of this name, or changed files, are read anew.
        self.stems = {case.name: f"{case.name}-{case.digest}" for case in found}
        spacings = set()
        for case in tqdm(found, "reading cases", leave=False, delay=1):
            spacings.add(self._keep(case))
            labels = _open(self._path(case.name, "labels"))
            images = _open(self._path(case.name, "images"))
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                if image.any() and (label.any() or not settings["tumour_only"]):
                    self.tumour_part[Item(case.name, number)] = float((label > 0).mean())
        if len(spacings) > 1:
            raise DataError(f"cases of several spacings in {folder}: {sorted(spacings)} mm")
        self.spacing: tuple[float, ...] | None = spacings.pop()

    def _path(self, case: str, kind: str) -> Path:
        return self.cache / f"{self.stems[case]}-{kind}.npy"

    def _keep(self, case: brats_data.Case) -> tuple[float, ...]:
        """Write the case to the cache unless it is there; return its spacing."""
        path = self._path(case.name, "spacing")
        if not path.exists():
            volumes = brats_data.read_volumes(case)
            images = fit(volumes.images.swapaxes(0, 1), self.side).astype(np.float16)
            _save(self._path(case.name, "images"), images)
            _save(self._path(case.name, "labels"), fit(volumes.labels, self.side))
            _save(
                path, np.round(volumes.spacing, 3)
            )  # written last: where it is, the others are whole
        return tuple(_open(path).tolist())

    def read(self, item: Item) -> Batch:
        image, label = (
            _open(self._path(item.case, kind))[item.number] for kind in ("images", "labels")
        )
        return torch.tensor(image).float(), torch.tensor(label).long(), torch.empty(0)


def _open(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise DataError(f"no array, or one that is cut off: {path} (delete its folder)") from error


def _save(path: Path, array: Any) -> None:
    with replacing(path) as part:
        np.save(part, array)


def fit(array: Any, height: int, width: int | None = None) -> Any:
    """Pad with 0 or cut the last two axes to a size, about their centre.

    >>> fit(np.ones((1, 2)), 3).sum(), fit(fit(np.ones((2, 5)), 3), 2, 5).tolist()
    (np.float64(2.0), [[0.0, 1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 1.0, 0.0]])
    """
    for axis, side in ((-2, height), (-1, width or height)):
        more = side - array.shape[axis]
        # Rounded so that padding and cutting back puts every pixel in its old place.
        before = more // 2 if more > 0 else -(-more // 2)
        array = np.moveaxis(array, axis, 0)
        if more < 0:
            array = array[-before : -before + side]
        else:
            array = np.pad(array, [(before, more - before)] + [(0, 0)] * (array.ndim - 1))
        array = np.moveaxis(array, 0, axis)
    return array
