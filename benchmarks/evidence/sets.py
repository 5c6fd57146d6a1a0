"""The data sets, each read once into arrays: images, labels, and which cases belong together."""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
FOLDS = 3


class Cases(NamedTuple):
    """Images ``(N, C, *spatial)`` and labels ``(N, *spatial)``, uint8; groups ``(N,)``, strings.

    Cases of one group (a patient, near copies, tiles of one mosaic) are never split.
    """

    images: Array
    labels: Array
    groups: Array


@dataclass(frozen=True)
class DataSet:
    """How a set is read, and what the loss is told about it.

    Attributes:
        read: from the set's folders to its cases.
        window: of the loss: that of ``python -m gliomaseg_layers.windows``.
        max_noise_size: likewise; what cleaning removes, too.
        classes: labels, background included; 2 is trained as binary.
        flips: spatial axes that may be flipped.
        labelled: how many training groups keep their labels; None for all.
        warm_steps: of the network all methods go on from.
    """

    read: Callable[[Sequence[Path]], Cases]
    window: int
    max_noise_size: int
    classes: int = 2
    flips: tuple[int, ...] = (0, 1)
    axes: int = 2
    batch: int = 16
    labelled: int | None = None
    warm_steps: int = 3000

    @property
    def mode(self) -> str:
        return "binary" if self.classes == 2 else "multiclass"


def read_lgg(folders: Sequence[Path]) -> Cases:
    """Read slices at 128 x 128: three channels, every patient a group."""
    from examples.lgg.data import find_slices, read_image, read_mask

    size = (128, 128)
    slices = [piece for folder in folders for piece in find_slices(folder)]
    images = np.stack([read_image(piece.image, size) for piece in slices])
    labels = np.stack([read_mask(piece.mask, size) for piece in slices])
    groups = np.array([piece.patient for piece in slices])
    return Cases(np.moveaxis(images, -1, 1), labels.astype(np.uint8), groups)


def read_busi(folders: Sequence[Path]) -> Cases:
    """Read images with the longer side at 128, padded to a square; groups of near copies."""
    images, labels, groups = [], [], []
    for row in table(folders[0]):
        name = f"{row['case']}.png"
        image, mask = (Image.open(folders[0] / kind / name) for kind in ("images", "masks"))
        size = [math.ceil(side * 128 / max(image.size)) for side in image.size]
        smaller = [one.convert("L").resize(size, Image.Resampling.BOX) for one in (image, mask)]
        images.append(fit(np.asarray(smaller[0]), (128, 128))[None])
        labels.append(fit(np.asarray(smaller[1]) > 127, (128, 128)))
        groups.append(row["group"])
    return Cases(np.stack(images), np.stack(labels).astype(np.uint8), np.array(groups))


def read_acdc(folders: Sequence[Path]) -> Cases:
    """Read slices, cropped or padded to 128 x 128; every patient a group, but for a double one."""
    images, labels, groups = [], [], []
    for path in sorted((folders[0] / "half").glob("*.npz")):
        patient = path.name.split("_")[0]
        if patient == "patient076":  # the images of patient074 once more
            continue
        with np.load(path) as stack:
            for image, label in zip(stack["image"], stack["label"], strict=True):
                images.append(fit(image, (128, 128))[None])
                labels.append(fit(label, (128, 128)))
                groups.append(patient)
    return Cases(np.stack(images), np.stack(labels), np.array(groups))


def read_hippocampus(folders: Sequence[Path]) -> Cases:
    """Read volumes, padded to 48 x 64 x 48; both sides of a person are one group."""
    import nibabel as nib

    images, labels, groups = [], [], []
    for path in sorted((folders[0] / "images").glob("*.nii.gz")):
        values = np.asarray(nib.load(path).dataobj, np.float32)  # type: ignore[attr-defined]
        label = np.asarray(nib.load(folders[0] / "labels" / path.name).dataobj)  # type: ignore[attr-defined]
        scaled = 255 * np.clip(values / np.percentile(values, 99.9), 0, 1)
        images.append(fit(scaled.round().astype(np.uint8), (48, 64, 48))[None])
        labels.append(fit(label.astype(np.uint8), (48, 64, 48)))
        groups.append(str((int(path.name[12:15]) + 1) // 2))
    return Cases(np.stack(images), np.stack(labels), np.array(groups))


def read_hippocampus_slices(folders: Sequence[Path]) -> Cases:
    """Read the slices of the volumes along their last axis."""
    volumes = read_hippocampus(folders)
    images = np.moveaxis(volumes.images, -1, 1).reshape(-1, 1, 48, 64)
    labels = np.moveaxis(volumes.labels, -1, 1).reshape(-1, 48, 64)
    there = images.any((1, 2, 3))  # the others were padded
    return Cases(images[there], labels[there], np.repeat(volumes.groups, 48)[there])


def read_nuclei(folders: Sequence[Path]) -> Cases:
    """Read tiles of 128 x 128 at native resolution, four an image; every mosaic a group."""
    images, labels, groups = [], [], []
    for row in table(folders[0]):
        name = f"{row['case']}.png"
        image = np.asarray(Image.open(folders[0] / "images" / name).convert("L"))
        label = np.asarray(Image.open(folders[0] / "labels" / name)) > 0
        for top in (0, 128):
            for left in (0, 128):
                tile = slice(top, top + 128), slice(left, left + 128)
                images.append(image[tile][None])
                labels.append(label[tile])
                groups.append(row["mosaic_group"])
    return Cases(np.stack(images), np.stack(labels).astype(np.uint8), np.array(groups))


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def fit(values: Array, shape: Sequence[int]) -> Array:
    """Cut out the middle, or pad with 0 around it."""
    for axis, side in enumerate(shape):
        extra = values.shape[axis] - side
        if extra > 0:
            values = values.take(range(extra // 2, extra // 2 + side), axis)
        elif extra < 0:
            margins = [(0, 0)] * values.ndim
            margins[axis] = (-extra // 2, -extra - -extra // 2)
            values = np.pad(values, margins)
    return values


SETS: dict[str, DataSet] = {
    "lgg": DataSet(read_lgg, window=11, max_noise_size=16),
    "acdc": DataSet(read_acdc, window=11, max_noise_size=16, classes=4),
    "busi": DataSet(read_busi, window=11, max_noise_size=16, flips=(1,)),
    "hippocampus": DataSet(
        read_hippocampus_slices, window=9, max_noise_size=4, classes=3, flips=(0,), batch=32
    ),
    "nuclei": DataSet(read_nuclei, window=11, max_noise_size=16),
    "hippocampus-3d": DataSet(
        read_hippocampus, window=9, max_noise_size=27, classes=3, flips=(0,), axes=3, batch=4
    ),
    # Eight labelled patients, and a good or a weak network.
    "lgg-few": DataSet(read_lgg, window=11, max_noise_size=16, labelled=8, warm_steps=1500),
    "lgg-few-weak": DataSet(read_lgg, window=11, max_noise_size=16, labelled=8, warm_steps=250),
    "acdc-few": DataSet(
        read_acdc, window=11, max_noise_size=16, classes=4, labelled=8, warm_steps=1500
    ),
    "acdc-few-weak": DataSet(
        read_acdc, window=11, max_noise_size=16, classes=4, labelled=8, warm_steps=250
    ),
}


def read_set(name: str, folders: Sequence[Path], cache: Path) -> Cases:
    """Read a set's cases, from the cache where they were read before."""
    path = cache / f"{name.split('-few')[0]}.npz"
    if not path.exists():
        cases = SETS[name].read(folders)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path.with_suffix(".part.npz"), **cases._asdict())
        path.with_suffix(".part.npz").rename(path)
    with np.load(path) as stored:
        return Cases(**stored)


class Split(NamedTuple):
    """Which cases train, which of them have labels, which choose the warm start, which test."""

    training: Array
    labelled: Array
    validation: Array
    test: Array


def split(groups: Array, fold: int, labelled: int | None) -> Split:
    """Give a third of the groups to the test, an eighth of the others to validation."""
    names, numbers = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(23).permutation(len(names))
    test, rest = order[fold::FOLDS], np.delete(order, np.s_[fold::FOLDS])
    validation, training = np.split(rest, [len(rest) // 8])
    chosen = (training, training[:labelled], validation, test)
    return Split(*(np.flatnonzero(np.isin(numbers, of)) for of in chosen))
