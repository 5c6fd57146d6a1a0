"""Read images and masks, by one stated rule for masks, and say in one line what cannot be read.

A mask has two values, and the larger one is foreground. Where it has more, as after JPEG or
resampling, foreground is what lies above half of the largest, and a warning names the file. A file
of one value is foreground throughout, or background if that value is 0. Whole numbers up to 32, or
below half of what more than 8 bits can hold, are labels of several classes, and refused.

In a colour picture the value of a pixel is its brightest channel, or its number in the palette
where two of these are equally bright. Where that is the same everywhere, it is the transparency.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gliomaseg_layers.windows.pictures import holds_numbers, pixel_values

Array = np.ndarray[Any, Any]


class DataError(Exception):
    """What is wrong with the data, and where, in one line."""

    def __str__(self) -> str:
        return " ".join(
            super().__str__().splitlines()
        )  # messages of other libraries may have several


def check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"{'not a' if folder.exists() else 'no such'} folder: {folder}")


def read_image(path: Path, size: tuple[int, int] | None = None) -> Array:
    """Read a slice as ``(H, W, 3)`` uint8."""
    image = _open(path)
    if image.mode[0] in "IF":  # which convert() would clip at 255
        raise DataError(f"an image must have 8 bits a channel: {path} is {image.mode}")
    return np.asarray(_resize(image.convert("RGB"), size, Image.Resampling.BILINEAR))


def read_mask(path: Path, size: tuple[int, int] | None = None) -> Array:
    """Read a mask as ``(H, W)`` bool; resizing may leave nothing of a small one."""
    mask = Image.fromarray(foreground(read_values(path), path))
    return np.asarray(_resize(mask, size, Image.Resampling.NEAREST))


def read_values(path: Path) -> Array:
    """Return the number ``(H, W)`` that stands for each pixel of a mask."""
    return pixel_values(_open(path))


def read_numbers(path: Path) -> Array:
    """Return a map of several labels ``(H, W)``: its grey values, or the palette's numbers."""
    image = _open(path)
    if image.mode != "P" and not holds_numbers(image):
        raise DataError(f"labels must be grey or of a palette: {path} is {image.mode}")
    return np.asarray(image)


def foreground(values: Array, path: Path) -> Array:
    """Return where a mask has its foreground, by the rule above; ``path`` is for what is said."""
    found = np.unique(values)
    largest = found[-1]
    if found[0] < 0 or not np.isfinite(largest):
        raise DataError(f"a mask must hold numbers from 0 on: {path} has {found[0]} to {largest}")
    if len(found) <= 2:
        return np.asarray((values == largest) & (largest > 0))
    deep = values.dtype.kind in "iu" and values.dtype.itemsize > 1
    most = np.iinfo(values.dtype).max // 2 if deep else 32
    if largest <= most and (found % 1 == 0).all():
        shown = ", ".join(f"{value:g}" for value in found[:5])
        more = ", ..." if len(found) > 5 else ""
        raise DataError(f"labels where a mask of two values was expected: {path} has {shown}{more}")
    warnings.warn(
        f"a mask of {len(found)} values, read as what lies above half of the largest: {path}",
        stacklevel=2,
    )
    return np.asarray(values > largest / 2)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            if (count := getattr(file, "n_frames", 1)) > 1:
                raise DataError(f"a file must hold one image: {path} has {count}")
            file.load()
            return file.copy()
    # All that Pillow raises on broken and on huge files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"unreadable image file: {path} ({error})") from error


def _resize(
    image: Image.Image, size: tuple[int, int] | None, resampling: Image.Resampling
) -> Image.Image:
    if size is None or image.size == size[::-1]:
        return image
    return image.resize(size[::-1], resampling)
