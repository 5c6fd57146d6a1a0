"""The recipes on own images and on BraTS 2024: trained, scored, and written as they came."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from examples.brats.standin import write_cases
from examples.recipes.__main__ import main
from examples.recipes.checkpoints import load_checkpoint
from examples.recipes.outputs import Output
from examples.recipes.prediction import load_predictor, predict

CPU = ["--workers", "0", "--accelerator", "cpu"]


def smoke(output: Path, data: Path, *more: str, recipe: str = "mu-net") -> Path:
    options = ["--smoke", *CPU, "--output", str(output), "--data", str(data), *more]
    assert main(["train", recipe, *options]) == 0
    variant = "msfen" if recipe == "msfen" else "mu-net"
    return next(output.glob(f"fold-*/{variant}/best.ckpt"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four patients with two pictures each, masks of 0 and 1, and the table that says whose."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "own"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(8):
        mask = np.zeros((40, 50), np.uint8)
        mask[10:30, 12 + number : 30 + number] = 1
        image = np.clip(90 * mask[..., None] + rng.integers(0, 90, (40, 50, 3)), 0, 255)
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    rows = "".join(f"{number},patient {number // 2}\n" for number in range(8))
    (folder / "patients.csv").write_text("case,group\n" + rows)
    return folder


def test_pictures_are_trained_on_and_written_as_their_masks(
    pictures: Path, tmp_path: Path, capsys
) -> None:
    table = str(pictures / "patients.csv")
    best = smoke(tmp_path / "a", pictures, "--set", "data=folder", "--groups", table)
    report = (tmp_path / "a" / "report.md").read_text()
    assert "none of the 4 groups of patients.csv is in more than one part" in report
    assert report.startswith("# MU-Net")
    parts = load_checkpoint(best, "segmenter").parts
    sides = [{int(item.case) // 2 for item in part} for part in parts.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 4
    scores = pd.read_csv(tmp_path / "a" / "scores.csv")
    assert set(scores["region"]) == {"foreground"}

    masks = predict(load_predictor(best, None), pictures, tmp_path / "out")[::3]
    assert [path.name for path in masks] == [f"{number}_mask.png" for number in range(8)]
    for path in masks:
        values = np.asarray(Image.open(path))
        assert values.shape == (40, 50)
        assert set(np.unique(values)) <= {0, 1}

    names = [str(number) for number in range(8)]
    folds = [{"train": names[:6], "val": names[6:]}, {"train": names[2:], "val": names[:2]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    more = ["--split-file", str(tmp_path / "splits_final.json"), "--fold", "0"]
    best = smoke(tmp_path / "b", pictures, "--set", "data=folder", *more, "--groups", table)
    assert best.parts[-3] == "fold-0"
    assert {item.case for item in load_checkpoint(best, "segmenter").parts["test"]} == {"6", "7"}
    assert "fold 0 alone" in (tmp_path / "b" / "report.md").read_text()

    (pictures / "masks" / "3.png").unlink()
    for more in (["--set", "data=folder"], ["--set", "data=brats"]):
        options = ["--data", str(pictures), *CPU, "--output", str(tmp_path / "c"), *more]
        capsys.readouterr()
        assert main(["train", "mu-net", "--smoke", *options]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("recipes: no ")
        assert str(pictures) in line


@pytest.mark.parametrize("kind", ["nii.gz", "npz"])
def test_volumes_of_labels_are_written_on_their_grid(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    affine = np.diag([-0.5, -0.5, 3.0, 1.0])
    for number in range(1, 5):
        labels = np.zeros((5, 20, 26), np.uint8)
        labels[1:4, 4:12, 5:20], labels[2, 8:16, 3:9] = 1, 2
        image = 900 * labels.astype(np.int16) + rng.integers(0, 500, labels.shape, np.int16)
        name = f"patient{number:03d}_frame01"
        for sub in ("images", "labels"):
            (tmp_path / "own" / sub).mkdir(parents=True, exist_ok=True)
        if kind == "npz":
            np.savez(tmp_path / "own" / f"{name}.npz", image=image, label=labels)
        else:
            for sub, values in (("images", image), ("labels", labels)):
                path = tmp_path / "own" / sub / f"{name}.nii.gz"
                nib.save(nib.Nifti1Image(values.T, affine), path)
    if kind == "npz":
        for sub in ("images", "labels"):
            (tmp_path / "own" / sub).rmdir()
    best = smoke(
        tmp_path / "a", tmp_path / "own", "--set", "data=folder", "classes=3", "channels=[0]"
    )
    assert "names of the cases tell;" in (tmp_path / "a" / "report.md").read_text()
    mask, probability, _ = predict(load_predictor(best, None), tmp_path / "own", tmp_path / "b")[:3]
    if kind == "npz":
        with np.load(mask) as one, np.load(probability) as two:
            found, probs = one["label"], two["probability"].swapaxes(0, 1)
    else:
        file = nib.load(mask)
        np.testing.assert_allclose(file.affine, affine)
        assert file.get_data_dtype() == np.uint8
        found = np.asarray(file.dataobj).T
        probs = np.asarray(nib.load(probability).dataobj).T
    assert found.shape == (5, 20, 26)
    assert probs.shape == (2, 5, 20, 26)
    assert set(np.unique(found)) <= {0, 1, 2}
    whole = np.concatenate([1 - probs.sum(0, keepdims=True), probs])
    np.testing.assert_array_equal(found, whole.argmax(0))


def test_overlapping_regions_of_brats_2024(tmp_path: Path) -> None:
    write_cases(tmp_path / "cases", cases=6, size=28, slices=5, year=2024)
    for path in sorted(tmp_path.rglob("*seg.nii.gz"))[::2]:
        file = nib.load(path)
        labels = np.asarray(file.dataobj)
        labels = np.where(labels == 3, 4, labels).astype(np.uint8)
        nib.save(nib.Nifti1Image(labels, file.affine), path)
    best = smoke(tmp_path / "a", tmp_path / "cases", "--set", "mode=multilabel", recipe="msfen")
    system = load_predictor(best, None)
    assert system.recipe["classes"] == 5
    assert system.network(torch.zeros(1, 4, 32, 32)).shape[1] == 4
    scores = pd.read_csv(tmp_path / "a" / "scores.csv")
    assert set(scores["region"]) == {
        *("whole tumour", "tumour core", "enhancing tumour", "resection cavity")
    }
    mask, probability, _ = predict(system, tmp_path / "cases", tmp_path / "b")[:3]
    probs = np.asarray(nib.load(probability).dataobj)
    found = np.asarray(nib.load(mask).dataobj)
    assert set(np.unique(found)) <= {0, 1, 2, 3, 4}
    for region, label in enumerate((2, 1, 3, 4)):
        assert (probs[found == label][:, region] > 0.5).all()
    np.testing.assert_array_equal(found == 4, probs[..., 3] > 0.5)


def test_regions_are_read_back_as_they_were_laid() -> None:
    regions = [[1, 2, 3], [1, 3], [3], [4]]
    output = Output("multilabel", 5, regions)
    labels = torch.randint(5, (2, 6, 7))
    target = output.target(labels)
    assert target.shape == (2, 4, 6, 7)
    torch.testing.assert_close(output.labels(target), labels)
    torch.testing.assert_close(
        output.region(target, [1, 3]) > 0, torch.isin(labels, torch.tensor([1, 3]))
    )
    assert output.labels(output.nothing()[None]).item() == 0
    for mode, classes in (("binary", 2), ("multiclass", 5)):
        assert (
            Output(mode, classes, regions)
            .labels(Output(mode, classes, regions).nothing()[None])
            .item()
            == 0
        )
