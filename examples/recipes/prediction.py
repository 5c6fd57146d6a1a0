"""Predict new images with a checkpoint: masks in their format, probabilities, overlays."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from monai.inferers.utils import sliding_window_inference
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from examples.brats import data as brats_data
from examples.folder.data import find_images, stem
from examples.folder.stacks import is_nifti, is_npz, read_images, write_stack
from examples.lgg.data import FILE_NAME, DataError, patient_key, read_attributes
from examples.lgg.report import PREDICTION, outline
from examples.recipes.cached import pick
from examples.recipes.checkpoints import load_checkpoint
from examples.recipes.data import normalisation
from examples.recipes.sources import encode_attributes
from examples.recipes.systems import Segmenter
from examples.saving.whole_files import replacing
from gliomaseg_layers.networks import GatedSegmenter

LOSSLESS = (".tif", ".tiff", ".png", ".bmp")


def load_predictor(checkpoint: Path, gate: Path | None) -> Segmenter:
    """Load a segmenter, behind its gate if one is given."""
    system: Segmenter = load_checkpoint(checkpoint, "segmenter")
    if gate is not None:
        classifier = load_checkpoint(gate, "presence")
        if classifier.recipe["channels"] != system.recipe["channels"]:
            raise DataError(f"a gate for {classifier.recipe['channels']} channels: {gate}")
        system.network = GatedSegmenter(classifier, system.network, mode=system.output.mode).eval()
    return system


def predict(
    system: Segmenter, source: Path, output: Path, *, tiles: bool = False, force: bool = False
) -> list[Path]:
    """Predict an image, a folder of images, a case or a folder of cases; return what was written.

    Images are resized as in training; with ``tiles`` a window of the training size slides over them
    at their own scale. It always does over BraTS slices, which are never resized.
    """
    inputs: list[Any]
    if system.settings["data"] == "brats":
        inputs = brats_data.find_cases(source, labelled=False)
        names = [
            (f"{case.name}_seg.nii.gz", f"{case.name}_probabilities.nii.gz", case.name)
            for case in inputs
        ]
    else:
        images = find_images(source)
        inputs = list(images.values())
        names = [written_names(name, paths[0]) for name, paths in images.items()]
    targets = [
        (output / mask, output / probability, output / f"{name}_overlay.png")
        for mask, probability, name in names
    ]
    for path in [path for paths in targets for path in paths]:
        if path.exists() and not force:
            raise DataError(f"exists already: {path} (--force writes over it)")
    output.mkdir(parents=True, exist_ok=True)
    table = attribute_table(source, system)
    work = list(zip(inputs, targets, strict=True))
    bar: tqdm[Any] = tqdm(work, "predicting", leave=False, delay=1)
    for each, paths in bar:
        with ExitStack() as stack:
            parts = [stack.enter_context(replacing(path)) for path in paths]
            if system.settings["data"] == "brats":
                _predict_case(system, each, *parts)
            else:
                # The position comes last: a network that was trained without it takes the others.
                known = attributes_of(each[0], table)[:, : len(system.recipe["columns"])]
                _predict_image(system, each, known, *parts, tiles=tiles)
    return [path for paths in targets for path in paths]


def written_names(name: str, path: Path) -> tuple[str, str, str]:
    """Return the names of mask and probability, in the image's format unless it is a lossy one.

    >>> written_names("a", Path("a.jpg")), written_names("b", Path("b.nii.gz"))
    (('a_mask.png', 'a_probability.tif', 'a'), ('b_mask.nii.gz', 'b_probability.nii.gz', 'b'))
    """
    ending = path.name.removeprefix(stem(path))
    if is_nifti(path) or is_npz(path):
        return f"{name}_mask{ending}", f"{name}_probability{ending}", name
    ending = ending if ending.lower() in LOSSLESS else ".png"
    return f"{name}_mask{ending}", f"{name}_probability.tif", name


def attribute_table(source: Path, system: Segmenter) -> pd.DataFrame:
    """Encode the data.csv of the folder or of the two above it; without one all is unknown."""
    homes = [home for home in (source, *source.absolute().parents[:2]) if home.is_dir()]
    home = next((home for home in homes if (home / "data.csv").is_file()), homes[0])
    return encode_attributes(read_attributes(home), system.recipe["columns"])


def attributes_of(path: Path, table: pd.DataFrame) -> Tensor:
    """Return a row of the table and the slice's position; NaN where that is unknown."""
    matches = [FILE_NAME.fullmatch(other.name) for other in path.parent.iterdir()]
    match = FILE_NAME.fullmatch(path.name)
    last = max([int(match["number"]) for match in matches if match], default=0)
    position = int(match["number"]) / max(last, 1) if match else np.nan
    known = table.reindex([patient_key(path.stem)]).to_numpy(np.float32)[0]
    return torch.tensor([[*known, position]], dtype=torch.float32)


@torch.no_grad()
def slide(system: Segmenter, images: Tensor, attributes: Tensor) -> Tensor:
    """Return probabilities ``(N, K, H, W)``, on the CPU, by windows of the training size."""
    side = system.settings["size"]
    result = sliding_window_inference(
        images,
        (side, side),
        sw_batch_size=system.settings["batch_size"],
        predictor=lambda windows: system.probabilities(
            windows.to(system.device), attributes.expand(len(windows), -1).to(system.device)
        ).cpu(),
        overlap=0.5,
        mode="gaussian",
    )
    return torch.as_tensor(result)


def _predict_image(
    system: Segmenter,
    paths: list[Path],
    attributes: Tensor,
    mask: Path,
    probability: Path,
    overlay: Path,
    *,
    tiles: bool,
) -> None:
    side = system.settings["size"]
    stack, (_, height, width) = read_images(paths, None if tiles else (side, side))
    images = torch.from_numpy(pick(stack, system.settings["channels"], paths[0]))
    size = (height, width)
    labels, probs = [], []
    for part in torch.split(images, system.settings["batch_size"]):
        found = slide(system, normalisation(system.settings)(part), attributes)
        found = F.interpolate(found, size, mode="bilinear", align_corners=False)
        labels.append(system.output.labels(found))
        probs.append(found if system.output.mode == "multilabel" else found[:, 1:])
    decided = torch.cat(labels)
    values = np.array(system.recipe["values"], np.uint8)[decided.numpy()]
    write_stack(values[:, None], paths[0], mask, "label")
    write_stack(torch.cat(probs).numpy(), paths[0], probability, "probability")
    most = int((decided > 0).flatten(1).sum(1).argmax())
    shown = F.interpolate(images[most : most + 1, -1:], size, mode="bilinear")[0, 0].numpy()
    _draw(overlay, shown, decided[most] > 0)


def _predict_case(
    system: Segmenter, case: brats_data.Case, mask: Path, probability: Path, overlay: Path
) -> None:
    volumes = brats_data.read_volumes(case)
    images = torch.from_numpy(volumes.images).swapaxes(0, 1)
    nothing = torch.empty(1, 0)
    size = system.settings["batch_size"]
    probs = torch.cat([slide(system, part, nothing) for part in torch.split(images, size)])
    # Where there is no brain there is no tumour.
    probs[~images.flatten(1).any(1)] = system.output.nothing()
    labels = system.output.labels(probs)
    case.save(case.native_labels(labels.numpy(), system.recipe["values"][3]), mask)
    case.save(probs.movedim(1, -1).numpy(), probability)
    most = int((labels > 0).flatten(1).sum(1).argmax())
    _draw(overlay, volumes.images[-1][most], labels[most] > 0)


def _draw(path: Path, image: Any, mask: Tensor) -> None:
    matplotlib.use("Agg")
    figure, axis = plt.subplots(figsize=(5, 5), layout="constrained")
    axis.imshow(image, cmap="gray")
    outline(axis, mask, PREDICTION)
    axis.set_axis_off()
    figure.savefig(path, dpi=120)
    plt.close(figure)
