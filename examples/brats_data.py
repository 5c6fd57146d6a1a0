"""Read BraTS cases (NIfTI, four modalities, either naming scheme) and check them before training.

<anything>/<case>/<case>_{t1,t1ce,t2,flair,seg}.nii.gz        until 2021; enhancing tumour is 4
<anything>/<case>/<case>-{t1n,t1c,t2w,t2f,seg}.nii.gz         from 2023 on; enhancing tumour is 3
"""

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from lgg_data import DataError

Array = np.ndarray[Any, Any]

SEGMENTATION = "seg"
MODALITIES = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}  # the older name: the newer
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
    enhancing: int  # the label of enhancing tumour in this naming scheme's years

    def save(self, values: Array, path: Path) -> None:
        """Write ``(slices, H, W)`` as NIfTI on the grid of the case's first modality."""
        file: Any = nib.load(self.images[0])
        values = np.moveaxis(values, 0, _axial(file))
        image = nib.Nifti1Image(values, file.affine, file.header)  # type: ignore[no-untyped-call]
        image.set_data_dtype(values.dtype)  # type: ignore[no-untyped-call]
        image.header.set_slope_inter(1, 0)  # type: ignore[no-untyped-call]
        nib.save(image, path)

    def native_labels(self, labels: Array) -> Array:
        """Turn classes 0 to 3 into the labels of the case's years."""
        return np.where(labels == 3, self.enhancing, labels).astype(np.uint8)


@dataclass(frozen=True)
class Volumes:
    """A case in memory; axial slices come first."""

    images: Array  # (4, slices, H, W) float32, z-scores inside the brain, 0 outside
    labels: Array | None  # (slices, H, W) uint8: 0 nothing, 1 necrosis, 2 oedema, 3 enhancing
    spacing: tuple[float, ...]  # mm, in the order of the axes


def find_cases(folder: Path, *, labelled: bool, cases: int | None = None) -> list[Case]:
    """Find the first ``cases`` cases (None: all) below a folder, or the one that it is."""
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}")
    homes: dict[Path, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*.nii*")):
        match = FILE_NAME.fullmatch(path.name)
        if match is None or path.name.startswith("."):
            continue
        kind = match["kind"].lower()
        kind = {new: old for old, new in MODALITIES.items()}.get(kind, kind)
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
        found.append(Case(home.name, images, files.get(SEGMENTATION), 3 if newer else 4))
    names = [case.name for case in found]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"two cases of the name {name} below {folder}")
    return found


def read_volumes(case: Case) -> Volumes:
    """Read a case whole; an image that does not suit is named."""
    paths = [*case.images, *([case.labels] if case.labels else [])]
    files = [_open(path) for path in paths]
    for path, file in zip(paths[1:], files[1:], strict=True):
        if file.shape[:3] != files[0].shape[:3]:
            raise DataError(
                f"image of another shape: {path} is {file.shape}, {paths[0].name} {files[0].shape}"
            )
        if not np.allclose(file.affine, files[0].affine, atol=1e-3):
            raise DataError(f"image of another place: {path} has not the affine of {paths[0].name}")
    arrays = [_read(path, file) for path, file in zip(paths, files, strict=True)]
    labels = _classes(case.labels, arrays[-1]) if case.labels else None
    spacing = [float(side) for side in files[0].header.get_zooms()[:3]]
    spacing.insert(0, spacing.pop(_axial(files[0])))
    images = np.stack([_standardise(array) for array in arrays[:4]])
    return Volumes(images, labels, tuple(spacing))


def _open(path: Path) -> Any:
    try:
        file: Any = nib.load(path)
    except (OSError, ValueError, EOFError, nib.filebasedimages.ImageFileError) as error:
        raise DataError(f"unreadable image file: {path} ({error})") from error
    shape = file.shape[:3] if all(side == 1 for side in file.shape[3:]) else file.shape
    if len(shape) != 3 or 0 in shape:
        raise DataError(f"not a volume: {path} is {file.shape}")
    return file


def _axial(file: Any) -> int:
    """Return the axis that runs from foot to head, however the file stores it."""
    return int(np.argmax(nib.orientations.io_orientation(file.affine)[:, 0] == 2))  # type: ignore[no-untyped-call]


def _read(path: Path, file: Any) -> Array:
    try:
        array = np.asarray(file.dataobj, dtype=np.float32).reshape(file.shape[:3])
    except (OSError, ValueError, EOFError, zlib.error) as error:  # cut off
        raise DataError(f"unreadable image file: {path} ({error})") from error
    if not np.isfinite(array).all():
        raise DataError(f"{int((~np.isfinite(array)).sum())} voxels that are no number in {path}")
    return np.moveaxis(array, _axial(file), 0)


def _standardise(array: Array) -> Array:
    """Return z-scores over the modality's own brain; 0 outside, and where all is alike."""
    brain = array != 0
    if not brain.any():
        return array
    inside = array[brain].astype(np.float64)
    scores = (array - inside.mean()) / max(inside.std(), 1e-6 * max(abs(inside.mean()), 1.0))
    return np.where(brain, scores, 0).astype(np.float32)


def _classes(path: Path | None, array: Array) -> Array:
    values = set(np.unique(array).tolist())
    if not (values <= {0, 1, 2, 4} or values <= {0, 1, 2, 3}):
        raise DataError(f"labels must be 0, 1, 2 and 4 (or 3): {path} has {sorted(values)}")
    return np.where(array == 4, 3, array).astype(np.uint8)
