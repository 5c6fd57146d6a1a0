"""Read and write pictures, NIfTI volumes and npz arrays as stacks of slices.

A picture is one slice of three channels. A NIfTI volume has its slices along the third axis, and
channels, if any, along the fourth. An npz array is ``(slices, H, W)``, or ``(H, W)``.
"""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from examples.brats.nifti import open_nifti, read_array, write_like
from examples.lgg.pixels import DataError, foreground, read_image, read_numbers, read_values

Array = np.ndarray[Any, Any]
Size = tuple[int, int]


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def is_npz(path: Path) -> bool:
    return path.suffix.lower() == ".npz"


def read_images(paths: Sequence[Path], size: Size | None) -> tuple[Array, tuple[int, ...]]:
    """Read an image as ``(slices, C, H, W)`` float32 in [0, 1]; return it resized, and its shape.

    A volume's channel is scaled from its 0.5 to its 99.5 percentile: MRI has no scale of its own.
    """
    parts: list[Array] = []
    shapes: list[tuple[int, ...]] = []
    for path in paths:
        if is_nifti(path) or is_npz(path):
            part = _scale(_read_volume(path, "image"))
            shapes.append((part.shape[0], *part.shape[2:]))
            parts.append(_resize(part, size, "bilinear"))
        else:
            shapes.append((1, *read_image(path).shape[:2]))
            parts.append(read_image(path, size).transpose(2, 0, 1)[None] / np.float32(255))
        if shapes[-1] != shapes[0]:
            raise DataError(f"channels of two sizes: {path} and {paths[0]}")
    return np.concatenate(parts, axis=1), shapes[0]


def read_labels(paths: Sequence[Path], classes: int) -> Array:
    """Read ``(slices, H, W)``: of one class masks, as 0 and their larger value, else labels."""
    if classes > 1 and len(paths) > 1:
        raise DataError(f"two label maps of one image: {paths[0]} and {paths[1]}")
    parts: list[Array] = []
    for path in paths:
        if is_nifti(path) or is_npz(path):
            values = _read_volume(path, "label")
            if values.shape[1] > 1:
                raise DataError(f"labels of {values.shape[1]} channels, not one: {path}")
            values = values[:, 0]
        else:
            values = (read_values if classes == 1 else read_numbers)(path)[None]
        if classes == 1:
            # A picture of bits is shown in black and white.
            largest = 255 if values.dtype == bool else values.max()
            values = foreground(values, path) * np.float32(largest)
        elif (values % 1 != 0).any() or values.min() < 0 or values.max() > 255:
            least, most = values.min(), values.max()
            raise DataError(
                f"labels must be whole numbers from 0 to 255: {path} has {least:g} to {most:g}"
            )
        if parts and values.shape != parts[0].shape:
            raise DataError(f"masks of two sizes: {path} and {paths[0]}")
        parts.append(values)
    return np.asarray(np.maximum.reduce(parts), np.float32)


def resize_labels(labels: Array, size: Size) -> Array:
    return _resize(labels[:, None], size, "nearest-exact")[:, 0]


def write_stack(values: Array, like: Path, path: Path, key: str) -> None:
    """Write ``(slices, K, H, W)`` as the kind of file that ``like`` is, and on its grid."""
    if is_nifti(like):
        file = open_nifti(like)
        whole = np.moveaxis(values.T, 2, 3).reshape(*file.shape[:3], -1)
        write_like(whole[..., 0] if whole.shape[-1] == 1 else whole, file, path)
    elif is_npz(like):
        with path.open("wb") as target:
            array = values[:, 0] if values.shape[1] == 1 else values
            np.savez_compressed(target, allow_pickle=False, **{key: array})
    else:
        first, *others = [Image.fromarray(page) for page in values[0]]
        if others:
            first.save(path, save_all=True, append_images=others)
        else:
            first.save(path)


def _read_volume(path: Path, key: str) -> Array:
    """Return ``(slices, C, H, W)``."""
    if is_nifti(path):
        array = read_array(path, open_nifti(path)).T  # (C, slices, H, W)
        array = array.swapaxes(0, 1) if array.ndim == 4 else array
    else:
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                array = file[key].astype(np.float32)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f'no npz with the array "{key}": {path} ({error})') from error
    if array.ndim == 2:
        array = array[None]
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or not array.size:
        raise DataError(f"not slices of height and width: {path} has the shape {array.shape}")
    if not np.isfinite(array).all():
        raise DataError(f"{int((~np.isfinite(array)).sum())} pixels that are no number in {path}")
    return np.ascontiguousarray(array, np.float32)


def _scale(array: Array) -> Array:
    low, high = np.percentile(array, (0.5, 99.5), axis=(0, 2, 3), keepdims=True)
    return np.asarray(np.clip((array - low) / np.maximum(high - low, 1e-6), 0, 1), np.float32)


def _resize(array: Array, size: Size | None, mode: str) -> Array:
    if size is None or array.shape[2:] == size:
        return array
    return F.interpolate(
        torch.from_numpy(array), size, mode=mode, antialias=mode == "bilinear"
    ).numpy()
