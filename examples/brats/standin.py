"""Generate small BraTS cases, for machines without real ones: heads in four modalities, labels.

As in the real release, the images are int16, the labels int16 or uint8 by case, and the mask of the
brain differs a little between modalities.
"""

import argparse
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

# Brightness of oedema, necrosis and enhancing tumour in every modality, after the release's names.
CONTRASTS = {
    "t1": (-0.1, -0.2, -0.1),
    "t1ce": (-0.1, -0.2, 0.4),
    "t2": (0.3, 0.4, 0.2),
    "flair": (0.4, 0.1, 0.3),
}
NEWER = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}


def write_cases(
    folder: Path,
    *,
    cases: int = 6,
    size: int = 48,
    slices: int = 12,
    seed: int = 23,
    year: int = 2021,
) -> None:
    """Write ``cases`` cases of ``slices`` axial slices of ``size`` pixels, in a year's names."""
    rng = np.random.default_rng(seed)
    for number in range(cases):
        name = f"BraTS-GLI-{number:05d}-000" if year >= 2023 else f"BraTS20_Training_{number:03d}"
        home = folder / name
        home.mkdir(parents=True)
        brain, labels = _draw_labels(rng, size, slices)
        for modality, contrast in CONTRASTS.items():
            image = 0.5 + 0.03 * rng.standard_normal(brain.shape)
            for label, brightness in zip((2, 1, 3), contrast, strict=True):
                image += brightness * gaussian_filter((labels == label).astype(float), 0.7)
            seen = brain & (rng.random(brain.shape) > 0.001)
            values = np.where(seen, np.clip(1000 * image, 1, None), 0)
            kind = f"-{NEWER[modality]}" if year >= 2023 else f"_{modality}"
            _save(values.astype(np.int16), home / f"{name}{kind}.nii.gz")
        native = np.where(labels == 3, 3 if year >= 2023 else 4, labels)
        dtype = (np.int16, np.uint8)[number % 2]
        separator = "-" if year >= 2023 else "_"
        _save(native.astype(dtype), home / f"{name}{separator}seg.nii.gz")


def _save(values: np.ndarray[Any, Any], path: Path) -> None:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    nib.save(nib.Nifti1Image(values, affine), path)  # type: ignore[no-untyped-call]


def _draw_labels(rng: np.random.Generator, size: int, slices: int) -> tuple[Any, Any]:
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in (size, size, slices)], indexing="ij")
    brain = (x / 0.75) ** 2 + (y / 0.9) ** 2 + (z / 0.95) ** 2 < 1
    centre = rng.uniform(-0.3, 0.3, 3)
    distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip((x, y, z), centre, strict=True)))
    distance += 0.03 * rng.standard_normal(distance.shape)
    reach = rng.uniform(0.3, 0.45)
    labels = np.select(
        [distance < 0.35 * reach, distance < 0.65 * reach, distance < reach], [1, 3, 2]
    )
    return brain, labels * brain


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Generate a stand-in for a folder of BraTS cases.")
    parser.add_argument("folder", type=Path, help="folder to write; must not exist")
    parser.add_argument("--cases", type=int, default=6, help="cases (default: 6)")
    parser.add_argument("--slices", type=int, default=12, help="axial slices a case (default: 12)")
    parser.add_argument("--size", type=int, default=48, help="side in pixels (default: 48)")
    parser.add_argument("--seed", type=int, default=23, help="seed (default: 23)")
    parser.add_argument("--year", type=int, default=2021, help="whose names (default: 2021)")
    options = parser.parse_args(arguments)
    if options.folder.exists():
        parser.error(f"{options.folder} exists already")
    write_cases(**vars(options))


if __name__ == "__main__":
    main()
