"""Read and write NIfTI files, and name the one that cannot be read."""

import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from examples.lgg.pixels import DataError

Array = np.ndarray[Any, Any]


def open_nifti(path: Path) -> Any:
    """Read the header of a file of real numbers."""
    try:
        file: Any = nib.load(path)
    except (OSError, ValueError, EOFError, nib.filebasedimages.ImageFileError) as error:
        raise DataError(f"unreadable image file: {path} ({error})") from error
    if file.get_data_dtype().kind not in "iuf":
        raise DataError(f"not a volume of real numbers: {path} is {file.get_data_dtype()}")
    return file


def read_array(path: Path, file: Any) -> Array:
    """Read the numbers, all of which must be finite."""
    try:
        array = np.asarray(file.dataobj, dtype=np.float32)
    except (OSError, ValueError, EOFError, zlib.error) as error:  # cut off
        raise DataError(f"unreadable image file: {path} ({error})") from error
    if not np.isfinite(array).all():
        raise DataError(f"{int((~np.isfinite(array)).sum())} voxels that are no number in {path}")
    return array


def write_like(values: Array, file: Any, path: Path) -> None:
    """Write values on the grid of a file that was opened: its affine, spacing and units."""
    image = nib.Nifti1Image(values, file.affine, file.header)  # type: ignore[no-untyped-call]
    image.set_data_dtype(values.dtype)  # type: ignore[no-untyped-call]
    image.header.set_slope_inter(1, 0)  # type: ignore[no-untyped-call]
    nib.save(image, path)
