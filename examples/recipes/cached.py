"""Sources that read whole cases once and keep their slices uncompressed in a cache.

BraTS cases are padded or cut to a size, and a user's own images resized.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from tqdm import tqdm

from examples.brats import data as brats_data
from examples.folder import data as folder_data
from examples.lgg.pixels import DataError
from examples.recipes.settings import Settings
from examples.recipes.sources import Batch, Item
from examples.saving.whole_files import replacing


class CachedSource:
    """Slices of cases, each of which is checked and then kept as arrays."""

    columns: list[str] = []  # noqa: RUF012
    spacing: tuple[float, ...] | None = None

    def __init__(self, cases: Sequence[Any], cache: Path, settings: Settings) -> None:
        self.cache = cache
        self.cache.mkdir(parents=True, exist_ok=True)
        # With a digest, so that another case of this name, or changed files, are read anew.
        self.stems = {case.name: f"{case.name}-{_digest(case.files)}" for case in cases}
        self.tumour_part: dict[Item, float] = {}
        self.facts: dict[str, list[float]] = {}
        for case in tqdm(cases, "reading cases", leave=False, delay=1):
            path = self._path(case.name, "facts")
            if not path.exists():
                images, labels, facts = self.load(case)
                _save(self._path(case.name, "images"), images.astype(np.float16))
                _save(self._path(case.name, "labels"), labels.astype(np.uint8))
                _save(path, np.array(facts))  # last: where it is, the others are whole
            self.facts[case.name] = _open(path).tolist()
            images, labels = (_open(self._path(case.name, name)) for name in ("images", "labels"))
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                if image.any() and (label.any() or not settings["tumour_only"]):
                    self.tumour_part[Item(case.name, number)] = float((label > 0).mean())

    def load(self, case: Any) -> tuple[Any, Any, Sequence[float]]:
        """Read images ``(slices, C, H, W)``, labels ``(slices, H, W)`` and what else to keep."""
        raise NotImplementedError

    def read(self, item: Item) -> Batch:
        image, label = (
            _open(self._path(item.case, kind))[item.number] for kind in ("images", "labels")
        )
        return torch.tensor(image).float(), torch.tensor(label).long(), torch.empty(0)

    def variant(self, settings: Settings) -> Self:
        return self  # there are no attributes

    def _path(self, case: str, kind: str) -> Path:
        return self.cache / f"{self.stems[case]}-{kind}.npy"


class BratsSource(CachedSource):
    """Axial slices of BraTS cases, padded with 0 or cut to a square."""

    channels = len(brats_data.MODALITIES)

    def __init__(
        self, folder: Path, settings: Settings, cache: Path, cases: int | None = None
    ) -> None:
        found = brats_data.find_cases(folder, labelled=True, cases=cases)
        self.side = settings["size"]
        super().__init__(found, cache / str(self.side), settings)
        spacings = {tuple(facts[:3]) for facts in self.facts.values()}
        if len(spacings) > 1:
            raise DataError(f"cases of several spacings in {folder}: {sorted(spacings)} mm")
        self.spacing = spacings.pop()
        cavity = any(facts[4] for facts in self.facts.values())
        self.classes = 5 if cavity else 4
        self.regions: dict[str, list[int]] = {
            "whole tumour": [1, 2, 3],
            "tumour core": [1, 3],
            "enhancing tumour": [3],
        } | ({"resection cavity": [4]} if cavity else {})
        older = {self.facts[case.name][3] for case in found if not case.newer}
        # What predictions call enhancing tumour where the names are the older ones.
        enhancing = 3 if cavity or (3 in older and 4 not in older) else 4
        self.values = [0, 1, 2, enhancing, 4][: self.classes]

    def load(self, case: brats_data.Case) -> tuple[Any, Any, Sequence[float]]:
        volumes = brats_data.read_volumes(case)
        images = fit(volumes.images.swapaxes(0, 1), self.side)
        labels: Any = volumes.labels
        facts = [*np.round(volumes.spacing, 3), volumes.enhancing, (labels == 4).any()]
        return images, fit(labels, self.side), facts


class FolderSource(CachedSource):
    """Slices of a user's own images, resized to a square; one mask, or labels of classes."""

    def __init__(
        self, folder: Path, settings: Settings, cache: Path, cases: int | None = None
    ) -> None:
        found = folder_data.find_pairs(folder, cases)
        self.side, self.classes = settings["size"], settings["classes"]
        self.picked = settings["channels"]
        self.channels = len(self.picked)
        super().__init__(found, cache / f"{self.side}-{self.classes}", settings)
        for case in found:
            pick(np.empty((1, int(self.facts[case.name][0]))), self.picked, case.images[0])
        every = {case.name: self.facts[case.name][1:] for case in found}
        if self.classes == 1:
            largest = max(max(values) for values in every.values())
            # Others, as the 0.5 of a picture of fractions, no file of 8 bits can hold.
            self.values = [0, int(largest) if largest in range(1, 256) else 255]
            self.regions: dict[str, list[int]] = {"foreground": [1]}
            return
        self.values = list(range(self.classes))
        for case in found:
            if wrong := set(every[case.name]) - set(self.values):
                raise DataError(
                    f"labels must be 0 to {self.classes - 1} for 'classes' {self.classes}: "
                    f"{case.masks[0]} has {max(wrong):g}"
                )
        self.regions = {f"label {label}": [label] for label in self.values[1:]}

    def load(self, case: folder_data.Pair) -> tuple[Any, Any, Sequence[float]]:
        images, labels = folder_data.read_pair(case, self.classes, self.side)
        values = np.unique(labels)
        return images, labels > 0 if self.classes == 1 else labels, [images.shape[1], *values]

    def read(self, item: Item) -> Batch:
        image, label, attributes = super().read(item)
        return pick(image[None], self.picked, Path(item.case))[0], label, attributes


def pick(images: Any, channels: list[int], path: Path) -> Any:
    """Take the channels of ``(N, C, ...)`` that the settings name; in a grey image all are one."""
    count = images.shape[1]
    if count > 1 and max(channels) >= count:
        raise DataError(f"channels {channels} of {path}, which has {count} (--set channels=[0])")
    return images[:, [0 if count == 1 else channel for channel in channels]]


def _digest(paths: Sequence[Path]) -> str:
    """Make a key of these very files: other files of these names, or a change, have another."""
    stats = [(str(path.resolve()), path.stat()) for path in paths]
    facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


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
