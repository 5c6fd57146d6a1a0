"""The recipes' data in one form, and the slices of LGG patients.

A sample is an image ``(C, H, W)``, its labels ``(H, W)`` and attributes ``(K,)``, where K may be 0.
"""

import copy
import math
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from examples.lgg.data import (
    DataError,
    find_slices,
    patient_key,
    read_attributes,
    read_image,
    read_mask,
)
from examples.recipes.settings import Settings

Batch = tuple[Tensor, Tensor, Tensor]
POSITION = "slice position"


class Item(NamedTuple):
    """One slice of a case: a patient's exam, or an image."""

    case: str
    number: int


class Source(Protocol):
    """A data set: its items, and what they look like."""

    channels: int
    classes: int  # with the background; 1 is a mask
    columns: list[str]  # of the attributes
    regions: dict[str, list[int]]  # the labels that make up a region
    values: list[int]  # what predictions write for the labels, as the data do
    tumour_part: dict[Item, float]  # of every item's pixels; in order
    spacing: tuple[float, ...] | None  # mm; None where the data do not tell

    def read(self, item: Item) -> Batch: ...

    def variant(self, settings: Settings) -> Self:
        """Return the source with the attributes that these settings name."""
        ...


class LggSource:
    """Slices of a ``kaggle_3m`` folder."""

    classes = 1
    regions: dict[str, list[int]] = {"tumour": [1]}  # noqa: RUF012
    values: list[int] = [0, 255]  # noqa: RUF012
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
        self.keys = {case: patient_key(case) for case in last}
        self.missing = ""
        if not any(key in table.index for key in self.keys.values()):
            key = min(self.keys.values())
            self.missing = f"no data.csv in {folder}, or none of its patients in it, as {key}"
        wanted = settings["attributes"] and not self.missing
        self.table = encode_attributes(table, columns if wanted else [])
        self._choose(settings)

    def variant(self, settings: Settings) -> Self:
        other = copy.copy(self)
        other._choose(settings)
        return other

    def _choose(self, settings: Settings) -> None:
        """Choose from the table the attributes that settings name."""
        wanted = settings["attribute_set"]
        if self.missing and settings["attributes"] and wanted != "position":
            raise DataError(self.missing)
        self.columns = [
            name
            for name in [*self.table.columns, POSITION]
            if settings["attributes"] and wanted in ("all", attribute_kind(name))
        ]
        patients = sorted(set(self.keys.values()))
        owners = dict(zip(patients, patients, strict=True))
        if settings["attribute_shuffle"]:  # around a circle, so that nobody keeps his own
            circle = np.random.default_rng(settings["seed"]).permutation(patients).tolist()
            owners = dict(zip(circle, [*circle[1:], circle[0]], strict=True))
        table = self.table[[name for name in self.columns if name != POSITION]]
        self.known = {
            case: table.reindex([owners[key]]).to_numpy(np.float32)[0]
            for case, key in self.keys.items()
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


def attribute_kind(column: str) -> str:
    """Say what an encoded column holds: a genomic cluster, the position, or what is clinical.

    >>> [attribute_kind(name) for name in ("miRNACluster=2", "gender=1", POSITION)]
    ['genomics', 'clinical', 'position']
    """
    if column == POSITION:
        return "position"
    return "genomics" if "Cluster=" in column else "clinical"


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
