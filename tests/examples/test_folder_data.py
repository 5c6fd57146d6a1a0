"""A user's own images: found in the common layouts, read alike, and named if they do not serve."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from examples.folder.data import find_images, find_pairs, read_pair
from examples.folder.stacks import read_images, write_stack
from examples.lgg.data import DataError
from examples.recipes.cached import FolderSource
from examples.recipes.settings import read_recipe
from examples.recipes.sources import Item

AFFINE = np.diag([0.5, 0.7, 3.0, 1.0])
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
MASK = np.zeros((24, 30), np.uint8)
MASK[4:15, 5:22] = 255


def picture(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def volume(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, AFFINE), path)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["images/a.png", "masks/a.png", "images/b.jpg", "masks/b.png"], ["a", "b"]),
        (["images/p/1.png", "labels/p/1.png", "images/q/1.png", "labels/q/1.png"], ["p_1", "q_1"]),
        (["imagesTr/a_0000.png", "imagesTr/a_0001.png", "labelsTr/a.png"], ["a"]),
        (["a.png", "a_mask.png", "a_mask_1.png", "a_overlay.png"], ["a"]),
        (["p/scan_0001.png", "p/scan_0001_mask.png"], ["p_scan_0001"]),
        (["images/a.png", "masks/a_mask.png", "cases.csv", "images/._a.png"], ["a"]),
    ],
)
def test_common_layouts_are_found(tmp_path: Path, files: list[str], names: list[str]) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    pairs = find_pairs(tmp_path)
    assert [pair.name for pair in pairs] == names
    images = [path for pair in pairs for path in pair.images]
    assert sorted(itertools.chain(*find_images(tmp_path).values())) == sorted(images)
    assert not any("mask" in path.name for path in images)


def test_three_kinds_of_files_are_read_alike(tmp_path: Path) -> None:
    """The same two slices as volume and as arrays, and the first of them as a picture."""
    grey = np.stack([PIXELS[..., 0], PIXELS[..., 1]])
    labels = np.stack([MASK, MASK.T.reshape(MASK.shape)]) > 0
    volume(tmp_path / "images" / "v.nii.gz", grey.T)
    volume(tmp_path / "masks" / "v.nii.gz", labels.T.astype(np.float32))
    np.savez(tmp_path / "images" / "n.npz", image=grey, label=labels)
    one, two = find_pairs(tmp_path)
    for size in (32, 16):
        first, second = read_pair(one, 1, size), read_pair(two, 1, size)
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1] > 0, second[1] > 0)
    picture(tmp_path / "images" / "p.png", PIXELS)
    picture(tmp_path / "masks" / "p.png", MASK)
    pair = find_pairs(tmp_path)[1]
    assert pair.name == "p"
    images, found = read_pair(pair, 1, 24)
    assert images.shape == (1, 3, 24, 24)
    assert set(np.unique(found)) == {0, 255}
    assert found.shape == (1, 24, 24)
    np.testing.assert_array_equal(found[0, :, :2], 0)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.npz", "a.png", "a.tif"])
def test_what_is_written_is_as_the_image_is(tmp_path: Path, name: str) -> None:
    path, out = tmp_path / name, tmp_path / f"out_{name}"
    stack = np.arange(3 * 5 * 7, dtype=np.uint8).reshape(3, 5, 7)
    if name.endswith("nii.gz"):
        volume(path, stack.T.astype(np.int16))
    elif name.endswith("npz"):
        np.savez(path, image=stack)
    else:
        stack = stack[:1]
        picture(path, stack[0])
    write_stack(stack[:, None], path, out, "label")
    if name.endswith("nii.gz"):
        file = nib.load(out)
        np.testing.assert_allclose(file.affine, AFFINE)
        np.testing.assert_allclose(file.header.get_zooms(), (0.5, 0.7, 3.0))
        assert file.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asarray(file.dataobj).T, stack)
    elif name.endswith("npz"):
        with np.load(out) as file:
            np.testing.assert_array_equal(file["label"], stack)
    else:
        np.testing.assert_array_equal(np.asarray(Image.open(out)), stack[0])


def test_channels_are_stacked_or_repeated(tmp_path: Path) -> None:
    for channel, values in enumerate((PIXELS[..., 0], PIXELS[..., 1])):
        volume(tmp_path / "imagesTr" / f"a_000{channel}.nii.gz", values.T[..., None])
    volume(tmp_path / "labelsTr" / "a.nii.gz", MASK.T[..., None])
    settings = read_recipe("mu-net", changes=["data=folder", "channels=[1,0,1]", "size=24"])
    source = FolderSource(tmp_path, settings.shared, tmp_path / "cache")
    image, label, _ = source.read(Item("a", 0))
    torch.testing.assert_close(image[0], image[2])
    assert not torch.equal(image[0], image[1])
    assert label.unique().tolist() == [0, 1]
    assert source.values == [0, 255]
    four = read_recipe("mu-net", changes=["data=folder", "channels=[0,2]", "size=24"])
    with pytest.raises(DataError, match=r"channels \[0, 2\] of .*a_0000.nii.gz, which has 2"):
        FolderSource(tmp_path, four.shared, tmp_path / "cache")
    (tmp_path / "imagesTr" / "a_0001.nii.gz").unlink()
    image, _, _ = FolderSource(tmp_path, settings.shared, tmp_path / "cache").read(Item("a", 0))
    torch.testing.assert_close(image[0], image[1])


def spoil(name: str) -> Callable[[Path], None]:
    def broken(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:60])

    return broken


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f: (f / "masks" / "a.png").unlink(), "no mask for .*images/a.png"),
        (lambda f: (f / "images" / "a.png").unlink(), "no image for .*masks/a.png"),
        (lambda f: picture(f / "images" / "a.tif", PIXELS), "two images of the name a: .*a.png"),
        (lambda f: picture(f / "masks" / "a.png", MASK[1:]), "mask of another size: .*masks/a.png"),
        (lambda f: picture(f / "masks" / "a.png", MASK // 255 + (MASK.cumsum(0) > 999)), "labels"),
        (spoil("images/a.png"), "unreadable image file: .*images/a.png"),
        (spoil("masks/a.png"), "unreadable image file: .*masks/a.png"),
        (spoil("images/v.nii.gz"), "unreadable image file: .*images/v.nii.gz"),
        (spoil("images/n.npz"), 'no npz with the array "(image|label)": .*images/n.npz'),
        (
            lambda f: np.savez(f / "images" / "n.npz", image=MASK),
            'no npz with the array "label": .*n.npz',
        ),
        (
            lambda f: volume(f / "images" / "v.nii.gz", np.full((30, 24, 1), np.nan, np.float32)),
            "720 voxels that are no number in .*v.nii.gz",
        ),
        (
            lambda f: volume(f / "masks" / "v.nii.gz", np.arange(720.0).reshape(30, 24, 1) % 3),
            "labels where a mask of two values was expected: .*v.nii.gz has 0, 1, 2",
        ),
    ],
)
def test_what_does_not_serve_is_named(
    tmp_path: Path, change: Callable[[Path], None], expected: str
) -> None:
    folder = tmp_path / "own"
    picture(folder / "images" / "a.png", PIXELS)
    picture(folder / "masks" / "a.png", MASK)
    volume(folder / "images" / "v.nii.gz", PIXELS[..., :1].transpose(1, 0, 2))
    volume(folder / "masks" / "v.nii.gz", MASK.T[..., None])
    np.savez(folder / "images" / "n.npz", image=MASK, label=MASK > 0)
    settings = read_recipe("mu-net", changes=["data=folder", "channels=[0]", "size=24"]).shared
    assert len(FolderSource(folder, settings, tmp_path / "cache").tumour_part) == 3
    change(folder)
    with pytest.raises(DataError, match=expected) as error:
        FolderSource(folder, settings, tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_labels_are_those_that_were_announced(tmp_path: Path) -> None:
    labels = np.zeros((24, 30), np.uint8)
    labels[3:9, 3:9], labels[12:20, 4:20] = 1, 3
    picture(tmp_path / "a.png", PIXELS)
    picture(tmp_path / "a_mask.png", labels)
    recipe = ["data=folder", "channels=[0]", "size=24"]
    settings = read_recipe("mu-net", changes=[*recipe, "classes=4"]).shared
    source = FolderSource(tmp_path, settings, tmp_path / "cache")
    assert source.values == [0, 1, 2, 3]
    assert source.read(Item("a", 0))[1].unique().tolist() == [0, 1, 3]
    assert source.regions == {"label 1": [1], "label 2": [2], "label 3": [3]}
    settings = read_recipe("mu-net", changes=[*recipe, "classes=3"]).shared
    with pytest.raises(DataError, match=r"labels must be 0 to 2 for .*: .*a_mask.png has 3"):
        FolderSource(tmp_path, settings, tmp_path / "cache")
    volume(tmp_path / "v.nii", np.zeros((30, 24, 1), np.float32))
    volume(tmp_path / "v_mask.nii", np.full((30, 24, 1), 0.5, np.float32))
    with pytest.raises(DataError, match=r"labels must be whole numbers .*v_mask.nii has 0.5"):
        FolderSource(tmp_path, settings, tmp_path / "cache")
    with pytest.raises(DataError, match=f"no images .* in {re.escape(str(tmp_path / 'cache'))}"):
        find_pairs(tmp_path / "cache")


def test_intensities_have_no_unit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).gamma(2.0, 1.0, (9, 8, 4)).astype(np.float32)
    volume(tmp_path / "a.nii.gz", values)
    volume(tmp_path / "b.nii.gz", 40000 * values + 7)
    one, two = (read_images([tmp_path / f"{name}.nii.gz"], None)[0] for name in "ab")
    np.testing.assert_allclose(one, two, atol=1e-5)
    assert one.min() == 0
    assert one.max() == 1
    volume(tmp_path / "c.nii.gz", np.full((9, 8, 4), 5, np.int16))
    assert not read_images([tmp_path / "c.nii.gz"], None)[0].any()
