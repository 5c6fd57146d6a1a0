"""Generate a small data set in the layout of ``kaggle_3m``, for machines without the real one.

Heads with a textured brain, skull and ventricles; irregular tumours on a third of the slices, and
small bright spots that are no tumour; missing sequences, constant channels, a dark patient and gaps
in ``data.csv``, as the real release has them.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter

Array = np.ndarray[Any, Any]

COLUMNS = (
    *("RNASeqCluster", "MethylationCluster", "miRNACluster", "CNCluster", "RPPACluster"),
    *("OncosignCluster", "COCCluster", "histological_type", "neoplasm_histologic_grade"),
    *("tumor_tissue_site", "laterality", "tumor_location", "gender"),
    *("age_at_initial_pathologic", "race", "ethnicity", "death01"),
)
CLASSES = (4, 5, 4, 3, 4, 3, 3, 3, 2, 1, 3, 6, 2, 0, 3, 2, 2)  # 0: age, in years


def write_standin(
    folder: Path, *, patients: int = 12, slices: int = 16, size: int = 96, seed: int = 23
) -> None:
    """Write ``patients`` folders of ``slices`` slices of ``size`` pixels, and ``data.csv``."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        # Patient numbers may hold letters.
        number = "A61B" if patient == 1 else f"{5000 + patient}"
        key = f"TCGA_{('CS', 'HT', 'DU', 'FG')[patient % 4]}_{number}"
        name = f"{key}_{1995 + patient % 10}0101"
        home = folder / name
        home.mkdir(parents=True)
        volume, masks = _draw_patient(rng, slices, size)
        if patient % 5 == 3:
            volume[..., 2] = volume[..., 1]  # post-contrast missing: a copy of FLAIR
        if patient % 5 == 4:
            volume *= 0.25  # a dark patient
        volume[0, ..., 0] = 0  # a slice with a constant channel
        pixels = np.clip(volume * 255, 0, 255).astype(np.uint8)
        for index in range(slices):
            stem = home / f"{name}_{index + 1}"
            Image.fromarray(pixels[index]).save(f"{stem}.tif")
            mask = masks[index].astype(np.uint8) * 255
            Image.fromarray(mask).save(f"{stem}_mask.tif")
        values = [rng.integers(1, n + 1) if n else rng.integers(20, 76) for n in CLASSES]
        gaps = rng.random(len(values)) < (1.0 if patient == 2 else 0.1)
        rows.append(
            [key, *(None if gap else value for gap, value in zip(gaps, values, strict=True))]
        )
    table = pd.DataFrame(rows, columns=["Patient", *COLUMNS]).set_index("Patient")
    table.astype("Int64").to_csv(folder / "data.csv")
    (folder / "README.md").write_text("Generated: no patient's data.\n")


def _draw_patient(rng: np.random.Generator, slices: int, size: int) -> tuple[Array, Array]:
    """Return ``(slices, size, size, 3)`` in [0, 1] and the tumour ``(slices, size, size)``."""
    z, y, x = np.meshgrid(
        np.linspace(-1, 1, slices), *[np.linspace(-1, 1, size)] * 2, indexing="ij"
    )
    radius = np.sqrt((x / 0.75) ** 2 + (y / 0.9) ** 2 + (z / 1.3) ** 2)
    brain, skull = radius < 0.85, (radius > 0.9) & (radius < 1.0)
    ventricles = ((np.abs(x) - 0.15) / 0.1) ** 2 + (y / 0.35) ** 2 + (z / 0.6) ** 2 < 1

    centre = rng.uniform((-0.3, -0.4, -0.35), (0.3, 0.4, 0.35))
    reach = rng.uniform((0.25, 0.18, 0.18), (0.4, 0.32, 0.32))
    ragged = _smooth_noise(rng, (slices, size, size), 0.05 * size)
    distance = sum(
        ((axis - c) / r) ** 2 for axis, c, r in zip((z, y, x), centre, reach, strict=True)
    )
    tumour = (distance + 0.35 * ragged < 1) & brain & ~ventricles

    # Spots as bright as a tumour, a few pixels wide, that a network takes for small tumours.
    spots = np.zeros_like(brain)
    for k, i, j in rng.integers(0, (slices, size - 6, size - 6), (6 * slices, 3)):
        side = rng.integers(2, 7)
        spots[k, i : i + side, j : j + side] = True
    spots &= brain & ~tumour

    texture = 0.06 * _smooth_noise(rng, (slices, size, size), 0.015 * size)
    channels = []
    for tissue, bright, spot in ((0.45, -0.05, 0.00), (0.40, 0.15, 0.15), (0.50, 0.05, 0.05)):
        image = np.where(brain, tissue + texture, 0.03)
        image[skull] = 0.75
        image[ventricles & brain] -= 0.2
        image += bright * gaussian_filter(tumour.astype(float), (0, 1.2, 1.2))
        image += spot * gaussian_filter(spots.astype(float), (0, 0.7, 0.7))
        channels.append(image + 0.025 * rng.standard_normal(image.shape))
    return np.stack(channels, -1), tumour


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], width: float) -> Array:
    noise = gaussian_filter(rng.standard_normal(shape), (1.0, width, width))
    return np.asarray(noise / noise.std())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Generate a stand-in for the kaggle_3m folder.")
    parser.add_argument("folder", type=Path, help="folder to write; must not exist")
    parser.add_argument("--patients", type=int, default=12, help="patients (default: 12)")
    parser.add_argument("--slices", type=int, default=16, help="slices a patient (default: 16)")
    parser.add_argument("--size", type=int, default=96, help="side in pixels (default: 96)")
    parser.add_argument("--seed", type=int, default=23, help="seed (default: 23)")
    options = parser.parse_args(arguments)
    if options.folder.exists():
        parser.error(f"{options.folder} exists already")
    write_standin(
        options.folder,
        patients=options.patients,
        slices=options.slices,
        size=options.size,
        seed=options.seed,
    )


if __name__ == "__main__":
    main()
