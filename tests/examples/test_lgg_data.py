"""The reader takes what the real release holds, and says in one line what it cannot take."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from examples.lgg.data import (
    DataError,
    SliceData,
    SliceDataset,
    Standardise,
    find_slices,
    patient_key,
    read_attributes,
    read_image,
    read_mask,
    split_by_patient,
)


def test_finds_every_slice_in_order(lgg_folder: Path) -> None:
    slices = find_slices(lgg_folder)
    assert len(slices) == len(list(lgg_folder.glob("*/*_mask.tif")))
    assert any(piece.tumour_pixels for piece in slices)
    for patient in {piece.patient for piece in slices}:
        numbers = [piece.number for piece in slices if piece.patient == patient]
        assert numbers == sorted(set(numbers))
    for piece in slices[:: max(len(slices) // 20, 1)]:
        assert piece.mask.name == piece.image.name.replace(".tif", "_mask.tif")
        assert int(re.findall(r"_(\d+)\.tif$", piece.image.name)[0]) == piece.number
        with Image.open(piece.mask) as file:
            assert int((np.asarray(file) == 255).sum()) == piece.tumour_pixels


def test_patients_limits_the_read(lgg_folder: Path) -> None:
    assert len({piece.patient for piece in find_slices(lgg_folder, patients=2)}) == 2


def test_a_folder_around_the_folder_is_taken(standin: Path) -> None:
    assert find_slices(standin.parent) == find_slices(standin)
    assert read_attributes(standin.parent).equals(read_attributes(standin))


def test_other_files_are_passed_over(broken: Path) -> None:
    expected = len(find_slices(broken))
    (broken / "notes").mkdir()
    (broken / "notes" / "todo.txt").write_text("x")
    home = next(path for path in broken.iterdir() if path.name.startswith("TCGA"))
    (home / f"._{home.name}_1.tif").write_bytes(b"left by another system")
    (home / "Thumbs.db").write_bytes(b"x")
    assert len(find_slices(broken)) == expected


def test_split_keeps_patients_apart(lgg_folder: Path) -> None:
    slices = find_slices(lgg_folder)
    training, held_out = split_by_patient(slices, 0.3, seed=23)
    assert len(training) + len(held_out) == len(slices)
    assert not {p.patient for p in training} & {p.patient for p in held_out}
    assert split_by_patient(slices, 0.3, seed=23) == (training, held_out)
    assert split_by_patient(slices, 0.3, seed=24) != (training, held_out)
    one = [piece for piece in slices if piece.patient == slices[0].patient]
    with pytest.raises(DataError, match="needs 2 patients or more, found 1"):
        split_by_patient(one, 0.3, seed=23)


def test_attributes_join_on_three_parts(lgg_folder: Path) -> None:
    table = read_attributes(lgg_folder)
    patients = {patient_key(piece.patient) for piece in find_slices(lgg_folder)}
    assert patients <= set(table.index)
    assert len(table.columns) == 17
    ages = table["age_at_initial_pathologic"]
    assert table.isna().any().any()
    assert ages.dropna().between(20, 75).all()


def test_the_copy_with_semicolons_reads_alike(standin: Path, broken: Path) -> None:
    text = (broken / "data.csv").read_text().replace(",", ";").replace("\n", "\r\n")
    (broken / "data.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    pd.testing.assert_frame_equal(read_attributes(broken), read_attributes(standin))
    (broken / "data.csv").unlink()
    assert read_attributes(broken).empty
    (broken / "data.csv").write_bytes(b"\x00\xff\xfe")
    with pytest.raises(DataError, match=r"unreadable table: .*data\.csv"):
        read_attributes(broken)


@pytest.mark.parametrize(
    "change",
    [lambda text: text + 2 * (17 * "," + "\n"), lambda text: text.replace("TCGA", " TCGA")],
)
def test_what_a_spreadsheet_adds_to_the_table(standin: Path, broken: Path, change) -> None:
    path = broken / "data.csv"
    path.write_text(change(path.read_text()))
    pd.testing.assert_frame_equal(read_attributes(broken), read_attributes(standin))


@pytest.mark.parametrize("ages", ["inf", "1.5,inf"])
def test_infinite_numbers_are_refused(tmp_path: Path, ages: str) -> None:
    rows = [f"{number},{age}\n" for number, age in enumerate(ages.split(","))]
    (tmp_path / "data.csv").write_text("Patient,age\n" + "".join(rows))
    with pytest.raises(DataError, match=r"unreadable table: .*data\.csv \(.*infinite"):
        read_attributes(tmp_path)


def test_loads_lazily_and_in_one_form(lgg_folder: Path) -> None:
    slices = find_slices(lgg_folder, patients=3)
    data = SliceDataset(slices, (64, 48))
    image, mask = data[len(data) // 2]
    assert image.shape == (3, 64, 48)
    assert mask.shape == (1, 64, 48)
    assert 0 <= image.min() <= image.max() <= 1
    assert set(mask.unique().tolist()) <= {0.0, 1.0}


def test_standardise_survives_constant_and_dark_channels() -> None:
    images = torch.rand(2, 3, 16, 16)
    images[0, 1] = 0.3
    images[1] *= 0.05
    result = Standardise()(images)
    assert result.isfinite().all()
    torch.testing.assert_close(result[0, 1], torch.zeros(16, 16))
    torch.testing.assert_close(result[1].std(dim=(1, 2)), torch.ones(3))
    assert (Standardise()(torch.rand(2, 3, 1, 1)) == 0).all()


def test_augmentation_moves_image_and_mask_together(standin: Path) -> None:
    """A mask that is a copy of a channel stays one through flips, rotation and scaling."""
    data = SliceData(find_slices(standin), [], (48, 48), batch_size=8, workers=0)
    square = torch.zeros(8, 1, 48, 48)
    square[..., 8:30, 12:24] = 1
    images, masks = data.augment(square.repeat(1, 3, 1, 1), square)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(masks, square)
    lit = images.max(1, keepdim=True).values > 0.5
    assert ((lit != masks.bool()).float().mean(dim=(1, 2, 3)) < 0.03).all()


def test_resizing_may_empty_a_mask(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[1, 1] = 255
    Image.fromarray(mask).save(tmp_path / "mask.tif")
    assert read_mask(tmp_path / "mask.tif").sum() == 1
    assert read_mask(tmp_path / "mask.tif", (16, 16)).sum() == 0


def first_pair(folder: Path) -> tuple[Path, Path]:
    mask = min(folder.glob("*/*_mask.tif"))
    return mask.with_name(mask.name.replace("_mask", "")), mask


def test_what_is_broken_is_named(broken: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder: .*nowhere"):
        find_slices(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no pairs .* in the folders of .*empty"):
        find_slices(tmp_path / "empty")

    image, mask = first_pair(broken)
    original = mask.read_bytes()
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(mask)
    with pytest.raises(DataError, match=f"mask of another size: .*{mask.name} is 30 x 20"):
        find_slices(broken)
    mask.write_bytes(original[: len(original) // 2])
    with pytest.raises(DataError, match=f"unreadable image file: .*{mask.name}"):
        find_slices(broken)
    mask.write_bytes(original)
    image.write_bytes(b"no picture")
    with pytest.raises(DataError, match=f"unreadable image file: .*{image.name}"):
        find_slices(broken)
    image.unlink()
    with pytest.raises(DataError, match=f"no image beside .*{mask.name}"):
        find_slices(broken)
    mask.unlink()
    find_slices(broken)


@pytest.mark.parametrize("change", [(r"_(\d+)(_mask)?\.tif", r"_0\1\2.tif"), (".tif", ".tiff")])
@pytest.mark.parametrize("which", [0, 1])
def test_two_files_of_one_slice_are_refused(
    broken: Path, which: int, change: tuple[str, str]
) -> None:
    path = first_pair(broken)[which]
    other = path.with_name(re.sub(*change, path.name))
    other.write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="the same slice twice: ") as error:
        find_slices(broken)
    assert str(path) in str(error.value)
    assert str(other) in str(error.value)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_images_are_refused(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.full((6, 8), 1, dtype)).save(path)
    with pytest.raises(DataError, match=f"must have 8 bits a channel: {path} is [IF]"):
        read_image(path)
    assert read_mask(path).all()


def test_an_image_of_several_pages_is_refused(tmp_path: Path) -> None:
    page = Image.new("L", (8, 6))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page, page])
    for read in (read_image, read_mask):
        with pytest.raises(DataError, match=r"a file must hold one image: .*a\.tif has 3"):
            read(tmp_path / "a.tif")


def test_a_huge_image_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    Image.new("L", (8, 6)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"unreadable image file: .*a\.png .*exceeds limit"):
        read_image(tmp_path / "a.png")


def test_read_image_takes_grey_and_alpha(tmp_path: Path) -> None:
    Image.new("L", (8, 6), 7).save(tmp_path / "grey.tif")
    Image.new("RGBA", (8, 6), (1, 2, 3, 4)).save(tmp_path / "alpha.tif")
    assert read_image(tmp_path / "grey.tif").shape == (6, 8, 3)
    assert (read_image(tmp_path / "alpha.tif") == (1, 2, 3)).all()
