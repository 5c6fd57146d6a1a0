"""The BraTS reader takes both naming schemes, and says what is wrong with which file."""

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from examples.brats import data as brats_data
from examples.brats.data import LPS, MODALITIES, find_cases, read_volumes
from examples.brats.standin import write_cases
from examples.lgg.data import DataError
from examples.recipes.cached import BratsSource
from examples.recipes.settings import read_recipe
from examples.recipes.sources import Item

AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_cases(tmp_path / "cases", cases=2, size=24, slices=6)
    return tmp_path / "cases"


def save(values: np.ndarray, path: Path, affine: np.ndarray = AFFINE) -> None:
    nib.save(nib.Nifti1Image(values, affine), path)


def the_file(folder: Path, kind: str) -> Path:
    return min(folder.rglob(f"*_{kind}.nii.gz"))


def values_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("year", [2021, 2023])
def test_both_naming_schemes_read_alike(tmp_path: Path, year: int) -> None:
    write_cases(tmp_path / "a", cases=2, year=2021)
    write_cases(tmp_path / "b" / "deeper", cases=2, year=year)
    one, two = (find_cases(tmp_path / name, labelled=True) for name in "ab")
    for a, b in zip(one, two, strict=True):
        first, second = read_volumes(a), read_volumes(b)
        np.testing.assert_array_equal(first.images, second.images)
        np.testing.assert_array_equal(first.labels, second.labels)
        assert set(np.unique(first.labels)) == {0, 1, 2, 3}
        native = values_of(b.labels)
        assert set(np.unique(native)) == {0, 1, 2, 4 if year == 2021 else 3}
        np.testing.assert_array_equal(b.native_labels(second.labels), np.moveaxis(native, 2, 0))
    dtypes = {nib.load(case.labels).get_data_dtype() for case in two}
    assert dtypes == {np.dtype(np.int16), np.dtype(np.uint8)}


def test_z_scores_are_of_each_modalitys_own_brain(folder: Path) -> None:
    case = find_cases(folder, labelled=True)[0]
    images = read_volumes(case).images
    for path, scores in zip(case.images, images, strict=True):
        raw = np.moveaxis(values_of(path), 2, 0).astype(np.float64)
        inside = raw != 0
        expected = np.where(inside, (raw - raw[inside].mean()) / raw[inside].std(), 0)
        np.testing.assert_allclose(scores, expected, atol=1e-5)
    save(np.full(values_of(case.images[0]).shape, 7, np.int16), case.images[0])
    save(np.zeros(values_of(case.images[1]).shape, np.int16), case.images[1])
    constant = read_volumes(case).images
    assert (constant[:2] == 0).all()
    assert np.isfinite(constant).all()


def test_what_a_folder_may_hold_besides(folder: Path) -> None:
    home = next(path for path in folder.iterdir() if path.is_dir())
    flair = the_file(folder, "flair")
    (home / f"._{flair.name}").write_bytes(b"left by another system")
    (home / "notes.txt").write_text("x")
    save(values_of(flair), home / f"{home.name}_t1_bias_field.nii.gz")
    save(values_of(flair).astype(np.float64)[..., None], home / f"{home.name}_flair.nii")
    flair.unlink()
    (folder / "empty").mkdir()
    found = find_cases(folder, labelled=True)
    assert len(found) == 2
    assert read_volumes(found[0]).images.shape == (len(MODALITIES), 6, 24, 24)
    assert find_cases(home, labelled=True) == found[:1]
    for path in home.glob("*.nii.gz"):
        path.rename(home / path.name.replace(".nii.gz", ".NII.GZ"))
    assert find_cases(home, labelled=True)[0].labels.suffixes == [".NII", ".GZ"]
    # An earlier prediction is no case, and no second segmentation.
    (folder / "masks").mkdir()
    for mask in (folder / "masks" / "a_seg.nii.gz", home / f"{home.name}-seg.nii.gz"):
        shutil.copyfile(the_file(folder, "seg"), mask)
    assert [case.labels for case in find_cases(folder, labelled=False)] == [None, None]


def test_missing_and_double_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder: .*nowhere"):
        find_cases(tmp_path / "nowhere", labelled=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"not a folder: .*file"):
        find_cases(tmp_path / "file", labelled=True)
    with pytest.raises(DataError, match=r"no <case>_flair\.nii\.gz or .* in .*empty"):
        find_cases(tmp_path / "empty", labelled=True)
    the_file(folder, "seg").unlink()
    with pytest.raises(DataError, match=r"no seg among the images of .*Training_000"):
        find_cases(folder, labelled=True)
    assert len(find_cases(folder, labelled=False)) == 2
    the_file(folder, "t1ce").unlink()
    with pytest.raises(DataError, match=r"no t1ce or t1c among the images of .*Training_000"):
        find_cases(folder, labelled=False)
    flair = the_file(folder, "flair")
    save(values_of(flair), flair.with_name(flair.name.replace("_flair", "-t2f")))
    with pytest.raises(DataError, match=r"the same image twice: .*t2f.* and .*_flair"):
        find_cases(folder, labelled=False)


def test_the_misnamed_segmentation_of_2020_is_found(folder: Path) -> None:
    home = the_file(folder, "seg").parent
    for path in home.iterdir():
        kind = path.name.removeprefix(home.name)
        path.rename(home / f"BraTS20_Training_355{kind}")
    expected = find_cases(home, labelled=True)[0]
    path = expected.labels.rename(home / "W39_1998.09.19_Segm.nii.gz")
    (case,) = find_cases(home, labelled=True)
    assert case.labels == path
    assert case.images == expected.images


@pytest.mark.parametrize("kind", ["flair", "seg"])
def test_images_of_two_cases_in_a_folder_are_refused(folder: Path, kind: str) -> None:
    one, two = sorted(folder.iterdir())
    the_file(one, kind).unlink()
    shutil.copy(the_file(two, kind), one)
    expected = f"^each case needs its own folder: {one.name} and {two.name} are in {one}$"
    with pytest.raises(DataError, match=expected):
        find_cases(folder, labelled=True)


def relabel(folder: Path, old: int, new: int) -> None:
    for path in folder.rglob("*seg.nii.gz"):
        labels = values_of(path)
        save(np.where(labels == old, new, labels).astype(np.uint8), path)


def test_a_resection_cavity_is_no_tumour(tmp_path: Path) -> None:
    write_cases(tmp_path / "cases", cases=2, size=24, slices=6, year=2024)
    settings = read_recipe("msfen", changes=["size=24"]).shared
    assert BratsSource(tmp_path / "cases", settings, tmp_path / "cache").classes == 4
    relabel(tmp_path / "cases", 1, 4)
    source = BratsSource(tmp_path / "cases", settings, tmp_path / "cache")
    assert source.classes == 5
    assert source.regions["whole tumour"] == [1, 2, 3]
    assert source.regions["resection cavity"] == [4]
    case = find_cases(tmp_path / "cases", labelled=True)[0]
    found = read_volumes(case).labels
    assert (found == 4).any()
    native = np.moveaxis(values_of(case.labels), 2, 0)
    np.testing.assert_array_equal(case.native_labels(found, source.values[3]), native)
    save(values_of(case.labels) + 1, case.labels)
    with pytest.raises(DataError, match=r"labels must be 0, 1, 2, 3 and 4: .*seg.* has .*5"):
        read_volumes(case)


@pytest.mark.parametrize(
    ("trained", "label", "used", "written"),
    [
        *((2021, 4, 2021, 4), (2021, 3, 2021, 3), (2023, 3, 2021, 4)),
        *((2021, 4, 2023, 3), (2021, 3, 2023, 3), (2023, 3, 2023, 3)),
    ],
)
def test_predictions_have_the_labels_of_their_names(
    tmp_path: Path, trained: int, label: int, used: int, written: int
) -> None:
    """Enhancing tumour is 3 in the newer names, and in the older what it was in training."""
    settings = read_recipe("msfen", changes=["size=24"]).shared
    write_cases(tmp_path / "a", cases=2, size=24, slices=6, year=trained)
    relabel(tmp_path / "a", 4, label)
    values = BratsSource(tmp_path / "a", settings, tmp_path / "cache").values
    write_cases(tmp_path / "b", cases=1, size=24, slices=6, year=used)
    (case,) = find_cases(tmp_path / "b", labelled=False)
    classes = np.array([0, 1, 2, 3])
    assert case.native_labels(classes, values[3]).tolist() == [0, 1, 2, written]


def nan_voxel(path: Path) -> None:
    values = values_of(path).astype(np.float32)
    values[3, 3, 3] = np.nan
    save(values, path)


RGB = np.dtype([(name, np.uint8) for name in "RGB"])


def flat_affine(path: Path) -> None:
    file = nib.load(path)
    file.header["srow_x"] = file.header["srow_y"] = 0
    path.write_bytes(gzip.compress(nib.Nifti1Image(file.dataobj, None, file.header).to_bytes()))


def short(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-500]))


@pytest.mark.parametrize(
    ("kind", "break_it", "expected"),
    [
        ("t2", lambda p: save(values_of(p).astype(RGB), p), "not a volume of real numbers: "),
        ("t2", lambda p: save(1j * values_of(p), p), "not a volume of real numbers: "),
        ("t1", flat_affine, "no orientation: "),
        ("t2", short, "unreadable image file: "),
        ("t2", nan_voxel, "1 voxels that are no number in "),
        ("t2", lambda p: save(values_of(p)[:-1], p), "image of another shape: "),
        ("t2", lambda p: save(values_of(p), p, 2 * AFFINE), "image of another place: "),
        ("seg", lambda p: save(values_of(p)[..., :-1], p), "image of another shape: "),
        ("seg", lambda p: save(values_of(p) + 5, p), "labels must be 0, 1, 2 and 4 (or 3): "),
        ("t1", lambda p: save(values_of(p)[..., 0], p), "not a volume: "),
        ("t2", lambda p: p.write_bytes(p.read_bytes()[:-500]), "unreadable image file: "),
        ("t2", lambda p: p.write_bytes(b"no image"), "unreadable image file: "),
        ("t2", lambda p: p.write_bytes(b""), "unreadable image file: "),
    ],
)
def test_what_is_broken_is_said_before_training(
    folder: Path, tmp_path: Path, kind: str, break_it, expected: str
) -> None:
    path = the_file(folder, kind)
    break_it(path)
    with pytest.raises(DataError) as error:
        BratsSource(folder, read_recipe("msfen").shared, tmp_path / "cache")
    assert str(error.value).startswith(expected)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stored", ["LPS", "RAS", "SLP", "AIR"])
def test_volumes_are_alike_however_they_are_stored(
    folder: Path, tmp_path: Path, stored: str
) -> None:
    case = find_cases(folder, labelled=True)[0]
    expected = read_volumes(case)
    turn = nib.orientations.ornt_transform(LPS, nib.orientations.axcodes2ornt(stored))
    for path in case.files:
        file = nib.Nifti1Image(values_of(path), AFFINE @ np.diag([1, 2, 3, 1]))
        nib.save(file.as_reoriented(turn), path)
    volumes = read_volumes(case)
    np.testing.assert_array_equal(volumes.images, expected.images)
    np.testing.assert_array_equal(volumes.labels, expected.labels)
    assert volumes.spacing == (3.0, 1.0, 2.0)
    case.save(case.native_labels(volumes.labels), tmp_path / "again.nii.gz")
    again = nib.load(tmp_path / "again.nii.gz")
    np.testing.assert_array_equal(again.dataobj, values_of(case.labels))
    np.testing.assert_array_equal(again.affine, nib.load(case.labels).affine)
    assert again.get_data_dtype() == np.uint8


def test_the_source_pads_and_keeps_slices_with_brain(
    folder: Path, tmp_path: Path, monkeypatch
) -> None:
    settings = read_recipe("msfen", changes=["size=32"]).shared
    home = next(path for path in sorted(folder.iterdir()))
    for kind in MODALITIES:
        values = values_of(the_file(folder, kind))
        values[..., 0] = 0
        save(values, the_file(folder, kind))
    source = BratsSource(folder, settings, tmp_path / "cache")
    assert Item(home.name, 0) not in source.tumour_part
    item = Item(home.name, 3)
    volumes = read_volumes(find_cases(folder, labelled=True)[0])
    image, label, attributes = source.read(item)
    assert image.shape == (4, 32, 32)
    np.testing.assert_allclose(image[:, 4:28, 4:28], volumes.images[:, 3], atol=2e-3)
    np.testing.assert_array_equal(label[4:28, 4:28], volumes.labels[3])
    assert source.tumour_part[item] == pytest.approx((label > 0).float().mean().item())
    assert attributes.shape == (0,)
    assert source.spacing == (1.0, 1.0, 1.0)
    # What the cache holds is not read again, unless its file is another now.
    monkeypatch.setattr(brats_data, "read_volumes", None)
    assert BratsSource(folder, settings, tmp_path / "cache").tumour_part == source.tumour_part
    monkeypatch.undo()
    flair = the_file(folder, "flair")
    flair.write_bytes(bytes(flair.stat().st_size))
    with pytest.raises(DataError, match="unreadable image file"):
        BratsSource(folder, settings, tmp_path / "cache")


def test_a_cache_keeps_cases_of_one_name_apart(tmp_path: Path) -> None:
    settings = read_recipe("msfen", changes=["size=24"]).shared
    for name, seed in (("a", 1), ("b", 2)):
        write_cases(tmp_path / name, cases=1, size=24, slices=6, seed=seed)
        source = BratsSource(tmp_path / name, settings, tmp_path / "cache")
        (case,) = find_cases(tmp_path / name, labelled=True)
        labels = np.stack([source.read(item)[1] for item in source.tumour_part])
        kept = [item.number for item in source.tumour_part]
        np.testing.assert_array_equal(labels, read_volumes(case).labels[kept])
