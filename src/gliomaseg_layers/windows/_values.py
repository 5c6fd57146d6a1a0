"""Read the foreground of one file, by one rule.

A mask has two values, and the larger one is foreground. A file of one value is foreground
throughout, or background if that value is 0. Labels of several classes need ``--label``. A picture
of more grey values, as after JPEG, is read as what lies above half of the largest, if nearly all of
it is close to either end.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gliomaseg_layers.windows.pictures import holds_numbers, pixel_values

Array = NDArray[Any]
PICTURES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")
ENDINGS = (*PICTURES, ".npy", ".npz", ".nii", ".nii.gz")
# "x_mask.png", "masks/x.png", "labelsTr/x.nii.gz", "x-seg.nii.gz", but not "unlabelled/x.png".
WORD = re.compile(r"(?<![A-Za-z])(?i:masks?|seg|segmentations?|labels?|gt)(?![a-z])")


class CallError(Exception):
    """What is wrong with the call, in one line."""


class FileError(Exception):
    """What is wrong with one file, in one line."""


def read_values(path: Path, labels: Sequence[int] | None) -> tuple[Array, tuple[float, ...] | None]:
    """Return a file's numbers, of two or three axes, and the spacing of their grid if it says."""
    name = path.name.lower()
    kind = name[name.rindex(".nii" if name.endswith(".nii.gz") else ".") :]
    spacing = None
    try:
        if kind in PICTURES:
            values = _read_picture(path, labels)
        elif kind.startswith(".nii"):
            import nibabel

            file: Any = nibabel.load(path)
            values, spacing = np.asanyarray(file.dataobj), file.header.get_zooms()
        else:
            values = np.load(path, allow_pickle=False)
            if kind == ".npz":
                with values:
                    values = values[_array_name(list(values), path)]
    except (CallError, FileError, ModuleNotFoundError):
        raise
    except Exception as error:  # the readers raise a dozen kinds
        raise FileError(f"unreadable: {path} ({error})") from error
    shape = values.shape
    kept = [axis for axis in range(values.ndim) if shape[axis] != 1 or values.ndim <= 2]
    values = values.reshape([shape[axis] for axis in kept])
    if values.ndim not in (2, 3) or not values.size or values.dtype.kind not in "biuf":
        raise FileError(
            f"a mask must have 2 or 3 axes of numbers: {path} has the shape {shape} of "
            f"{values.dtype}"
        )
    if spacing is None or len(spacing) != len(shape) or not all(side > 0 for side in spacing):
        return values, None
    return values, tuple(float(spacing[axis]) for axis in kept)


def foreground(
    values: Array, labels: Sequence[int] | None, path: Path
) -> tuple[NDArray[np.bool_], list[str]]:
    """Return where a mask has its foreground, and what there is to say of it."""
    found = np.unique(values)
    if len(found) > 2 and (found != np.trunc(found)).any():  # or NaN
        raise FileError(
            f"a mask must hold whole numbers: {path} has {found[0]:g} to {found[-1]:g} "
            f"in {values.dtype}: an image, or probabilities?"
        )
    if labels is not None:
        return np.isin(values, labels) if labels else np.asarray(values != 0), []
    least, largest = float(found[0]), float(found[-1])
    if least < 0 or not np.isfinite(largest):
        raise FileError(f"a mask must hold numbers from 0 on: {path} has {least:g} to {largest:g}")
    if len(found) <= 2:
        return np.asarray((values == largest) & (largest > 0)), []
    if not path.name.lower().endswith(PICTURES) or values.dtype.itemsize > 1 or largest <= 32:
        shown = ", ".join(f"{value:g}" for value in found[:5]) + " and more" * (len(found) > 5)
        one, two = (f"{value:g}" for value in found[found > 0][:2])
        raise CallError(
            f"labels where a mask of two values was expected: {path} has {shown}; "
            f"choose with --label {one}, --label {one} {two} or --label any"
        )
    if np.mean((values > largest / 8) & (values < largest * 7 / 8)) > 0.1:
        raise FileError(f"a mask must have two values: {path} has {len(found)}: an image?")
    return np.asarray(values > largest / 2), [
        f"a mask of {len(found)} values, read as what lies above half of the largest: {path}"
    ]


def _read_picture(path: Path, labels: Sequence[int] | None) -> Array:
    from PIL import Image

    with Image.open(path) as image:
        if (count := getattr(image, "n_frames", 1)) > 1:
            raise FileError(f"a file must hold one mask: {path} has {count} images")
        image.load()
        if labels is not None and (image.mode == "P" or holds_numbers(image)):
            return np.asarray(image)
        if labels:
            raise FileError(f"labels must be grey or of a palette: {path} is {image.mode}")
        return pixel_values(image)


def _array_name(names: list[str], path: Path) -> str:
    named = names if len(names) == 1 else [name for name in names if WORD.search(name)]
    if len(named) != 1:
        raise FileError(
            f"an npz file must hold one array, or one that is named mask, seg or label: {path} "
            f"has {', '.join(names) or 'none'}"
        )
    return named[0]
