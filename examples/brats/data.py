"""Read BraTS cases (NIfTI, four modalities, either naming scheme) and check them before training.

<anything>/<case>/<case>_{t1,t1ce,t2,flair,seg}.nii.gz        until 2021; enhancing tumour is 4
<anything>/<case>/<case>-{t1n,t1c,t2w,t2f,seg}.nii.gz         from 2023 on; enhancing tumour is 3,
                                                              and 4 the resection cavity of 2024
Older names with enhancing tumour 3, as some copies have it, are read too.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from examples.brats.nifti import open_nifti, read_array, write_like
from examples.lgg.pixels import DataError, check_folder

Array = np.ndarray[Any, Any]

# How the release stores its volumes.
LPS = nib.orientations.axcodes2ornt("LPS")  # type: ignore[no-untyped-call]
SEGMENTATION = "seg"
MODALITIES = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}  # the older name: the newer
MISNAMED = ("W39_1998.09.19_Segm", "BraTS20_Training_355_seg")  # so in the release of 2020
FILE_NAME = re.compile(
    rf"(?P<case>.+)[_-](?P<kind>{'|'.join([*MODALITIES, *MODALITIES.values(), SEGMENTATION])})"
    r"\.nii(\.gz)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Case:
    """The files of one patient: the modalities in the order of ``MODALITIES``, and the labels."""

    name: str
    images: tuple[Path, ...]
    labels: Path | None
    newer: bool  # the names are those from 2023 on

    @property
    def files(self) -> list[Path]:
        return [*self.images, *([self.labels] if self.labels else [])]

    def save(self, values: Array, path: Path) -> None:
        """Write ``(slices, H, W)`` as NIfTI on the grid of the case's first modality."""
        file = open_nifti(self.images[0])
        write_like(_reorient(np.moveaxis(values, 0, 2), LPS, _orientation(file)), file, path)

    def native_labels(self, labels: Array, enhancing: int = 4) -> Array:
        """Turn classes into the labels of the case's names: enhancing tumour is 3 in the newer.

        In the older it is ``enhancing``, which is what these names' labels had in training.
        """
        return np.where((labels == 3) & (not self.newer), enhancing, labels).astype(np.uint8)


@dataclass(frozen=True)
class Volumes:
    """A case in memory: axial slices, however the files store them, in one orientation."""

    images: Array  # (4, slices, H, W) float32, z-scores inside the brain, 0 outside
    # (slices, H, W) uint8: 0 nothing, 1 necrosis, 2 oedema, 3 enhancing, 4 resection cavity
    labels: Array | None
    enhancing: int  # what the file calls enhancing tumour; 0 where it has none
    spacing: tuple[float, ...]  # mm, in the order of the axes


def find_cases(folder: Path, *, labelled: bool, cases: int | None = None) -> list[Case]:
    """Find the first ``cases`` cases (None: all) below a folder, or the one that it is."""
    check_folder(folder)
    homes: dict[Path, dict[str, Path]] = {}
    prefixes: dict[Path, str] = {}
    for path in sorted(folder.rglob("*")):
        match = FILE_NAME.fullmatch(path.name.replace(*MISNAMED))
        if match is None or path.name.startswith("."):
            continue
        kind = match["kind"].lower()
        kind = {new: old for old, new in MODALITIES.items()}.get(kind, kind)
        if kind == SEGMENTATION and not labelled:  # it may be an earlier prediction
            continue
        prefix = prefixes.setdefault(path.parent, match["case"])
        if match["case"] != prefix:
            raise DataError(
                f"each case needs its own folder: {prefix} and {match['case']} are in {path.parent}"
            )
        other = homes.setdefault(path.parent, {}).setdefault(kind, path)
        if other != path:
            raise DataError(f"the same image twice: {other} and {path}")
    if not homes:
        raise DataError(f"no <case>_flair.nii.gz or <case>-t2f.nii.gz in {folder} or below it")
    needed = [*MODALITIES, SEGMENTATION] if labelled else [*MODALITIES]
    found = []
    for home, files in list(homes.items())[:cases]:
        for kind in needed:
            if kind not in files:
                both = " or ".join(dict.fromkeys([kind, MODALITIES.get(kind, kind)]))
                raise DataError(f"no {both} among the images of {home}")
        images = tuple(files[kind] for kind in MODALITIES)
        newer = FILE_NAME.fullmatch(images[1].name)["kind"].lower() == "t1c"  # type: ignore[index]
        found.append(Case(home.name, images, files.get(SEGMENTATION), newer))
    names = [case.name for case in found]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"two cases of the name {name} below {folder}")
    return found


def read_volumes(case: Case) -> Volumes:
    """Read a case whole; an image that does not suit is named."""
    paths = case.files
    files = [_open(path) for path in paths]
    for path, file in zip(paths[1:], files[1:], strict=True):
        if file.shape[:3] != files[0].shape[:3]:
            raise DataError(
                f"image of another shape: {path} is {file.shape}, {paths[0].name} {files[0].shape}"
            )
        if not np.allclose(file.affine, files[0].affine, atol=1e-3):
            raise DataError(f"image of another place: {path} has not the affine of {paths[0].name}")
    arrays = [_read(path, file) for path, file in zip(paths, files, strict=True)]
    labels, enhancing = _classes(case, arrays[-1]) if case.labels else (None, 0)
    sides = np.take(files[0].header.get_zooms(), np.argsort(_orientation(files[0])[:, 0]))
    images = np.stack([_standardise(array) for array in arrays[:4]])
    return Volumes(images, labels, enhancing, tuple(np.roll(sides, 1).tolist()))


def _open(path: Path) -> Any:
    file = open_nifti(path)
    shape = file.shape[:3] if all(side == 1 for side in file.shape[3:]) else file.shape
    if len(shape) != 3 or 0 in shape:
        raise DataError(f"not a volume: {path} is {file.shape}")
    if np.isnan(_orientation(file)).any():
        raise DataError(f"no orientation: {path} has the affine {file.affine.tolist()}")
    return file


def _orientation(file: Any) -> Array:
    """Return which axis of the body, and which way, each axis of the file runs along."""
    return nib.orientations.io_orientation(file.affine)  # type: ignore[no-any-return,no-untyped-call]


def _reorient(array: Array, start: Array, end: Array) -> Array:
    turn = nib.orientations.ornt_transform(start, end)  # type: ignore[no-untyped-call]
    return nib.orientations.apply_orientation(array, turn)  # type: ignore[no-any-return,no-untyped-call]


def _read(path: Path, file: Any) -> Array:
    array = read_array(path, file).reshape(file.shape[:3])
    return np.moveaxis(_reorient(array, _orientation(file), LPS), 2, 0)


def _standardise(array: Array) -> Array:
    """Return z-scores over the brain, the pixels that are not 0; elsewhere 0.

    A brain of a single value becomes 0 too.
    """
    brain = array != 0
    if not brain.any():
        return array
    inside = array[brain].astype(np.float64)
    scores = (array - inside.mean()) / max(inside.std(), 1e-6 * max(abs(inside.mean()), 1.0))
    return np.where(brain, scores, 0).astype(np.float32)


def _classes(case: Case, array: Array) -> tuple[Array, int]:
    """Return the labels as classes, and which of them was enhancing tumour."""
    values = set(np.unique(array).tolist())
    if case.newer:
        if not values <= {0, 1, 2, 3, 4}:
            raise DataError(f"labels must be 0, 1, 2, 3 and 4: {case.labels} has {sorted(values)}")
        return array.astype(np.uint8), 3 * (3 in values)
    if not (values <= {0, 1, 2, 4} or values <= {0, 1, 2, 3}):
        raise DataError(f"labels must be 0, 1, 2 and 4 (or 3): {case.labels} has {sorted(values)}")
    return np.where(array == 4, 3, array).astype(np.uint8), int(max(values & {3, 4}, default=0))
