"""Find the masks of a folder; read, slice, resize and cut them.

Masks are the files with a word such as mask, seg or label in their path below the folder, and all
files where none has one.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from gliomaseg_layers.windows._values import (
    ENDINGS,
    WORD,
    CallError,
    FileError,
    foreground,
    read_values,
)

Part = tuple[NDArray[np.bool_], tuple[float, ...] | None]  # and its spacing


class Mask(NamedTuple):
    """The box around a mask's foreground, and how much of the image lies before and behind it."""

    crop: NDArray[np.bool_]
    before: tuple[int, ...]
    behind: tuple[int, ...]
    spacing: tuple[float, ...] | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole mask."""
        return tuple(map(sum, zip(self.before, self.crop.shape, self.behind, strict=True)))


def find_masks(folder: Path, pattern: str | None) -> list[Path]:
    if not folder.is_dir():
        raise CallError(f"{'not a' if folder.exists() else 'no such'} folder: {folder}")
    found = [
        path
        for path in sorted(folder.rglob(pattern or "*"))
        if path.name.lower().endswith(ENDINGS) and path.is_file()
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not found:
        named = f" named {pattern}" if pattern else ""
        kinds = ", ".join(ending[1:] for ending in ENDINGS)
        raise CallError(f"no masks{named} in {folder} (looked for {kinds})")
    masks = [path for path in found if WORD.search(str(path.relative_to(folder)))]
    return found if pattern or not masks else masks


def read_masks(
    paths: Iterable[Path],
    labels: Sequence[int] | None,
    axis: int | None,
    size: Sequence[int] | None,
) -> tuple[list[Mask], list[str], int]:
    """Read masks, sliced along an axis and resized where asked for.

    Labels are those that are foreground; an empty list takes all but 0, and None expects masks of
    two values. Returned are the masks, what there is to say of single files, and how many files
    could not be read.
    """
    masks: list[Mask] = []
    said: list[str] = []
    bad = 0
    for path in paths:
        try:
            values, spacing = read_values(path, labels)
            mask, remark = foreground(values, labels, path)
            parts = [(mask, spacing)] if axis is None else _slices(mask, spacing, axis, path)
            if masks and parts[0][0].ndim != masks[0].crop.ndim:
                raise FileError(
                    f"masks of 2 and of 3 axes: {path} has {parts[0][0].ndim}, "
                    f"those before it have {masks[0].crop.ndim}"
                )
        except FileError as error:
            said.append(" ".join(str(error).split()))
            bad += 1
            continue
        said += remark
        cuts = [_cut(*_resize(*part, size)) for part in parts]
        if mask.any() and not any(cut.crop.size for cut in cuts):
            said.append(f"no foreground is left at this size: {path}")
        masks += cuts
    return masks, said, bad


def _slices(
    mask: NDArray[np.bool_], spacing: tuple[float, ...] | None, axis: int, path: Path
) -> list[Part]:
    if mask.ndim != 3:
        raise FileError(f"--slices is for volumes: {path} has 2 axes")
    sides = None if spacing is None else spacing[:axis] + spacing[axis + 1 :]
    return [(plane, sides) for plane in np.moveaxis(mask, axis, 0)]


def _resize(
    mask: NDArray[np.bool_], spacing: tuple[float, ...] | None, size: Sequence[int] | None
) -> Part:
    """Resize by the nearest neighbour, as most programs do with masks, and the examples."""
    if size is None:
        return mask, spacing
    new = tuple(size) * mask.ndim if len(size) == 1 else tuple(size)
    if len(new) != mask.ndim:
        raise CallError(
            f"--resize must be one number, or {mask.ndim}, as masks have axes, got {(*size,)}"
        )
    if spacing is not None:
        sides = zip(spacing, mask.shape, new, strict=True)
        spacing = tuple(side * old / now for side, old, now in sides)
    values = torch.from_numpy(np.ascontiguousarray(mask, np.uint8))[None, None]
    return interpolate(values, new, mode="nearest-exact")[0, 0].numpy() > 0, spacing


def _cut(mask: NDArray[np.bool_], spacing: tuple[float, ...] | None) -> Mask:
    """Keep the box around the foreground: volumes are large, and most of them is empty."""
    axes = range(mask.ndim)
    inside = [
        np.flatnonzero(mask.any(tuple(other for other in axes if other != axis))) for axis in axes
    ]
    before = tuple(int(line[0]) if line.size else 0 for line in inside)
    ends = tuple(int(line[-1]) + 1 if line.size else 0 for line in inside)
    crop = mask[tuple(map(slice, before, ends))].copy()
    behind = tuple(side - end for side, end in zip(mask.shape, ends, strict=True))
    return Mask(crop, before, behind, spacing)
