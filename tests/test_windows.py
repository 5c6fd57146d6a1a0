"""The command that suggests a window from a folder of masks."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gliomaseg_layers.windows.__main__ import main

Image = pytest.importorskip("PIL.Image")
nib = pytest.importorskip("nibabel")


def squares(shape: tuple[int, ...], *sides: int, gap: int = 40) -> np.ndarray:
    """Draw squares, or cubes, along the last axis."""
    mask = np.zeros(shape, np.uint8)
    for number, side in enumerate(sides):
        start = 4 + number * gap
        mask[(*(slice(4, 4 + side),) * (len(shape) - 1), slice(start, start + side))] = 1
    return mask


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, list[str]]:
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, [line for line in err.splitlines() if line.startswith("windows:")]


def row(out: str, *begin: object) -> list[str]:
    """Return the numbers of the line that begins so."""
    start = r"\s+".join(re.escape(str(word)) for word in begin)
    (line,) = re.findall(rf"^ +{start} +(.*)$", out, re.M)
    return re.findall(r"[\d.]+%?", line)


def suggestion(out: str) -> str:
    (line,) = re.findall(r"^    (OutlierRegionLoss\(.*\))$", out, re.M)
    return line


MASK = squares((100, 200), 5, 7, 8, 30)
MASK[18:20, 138:140] = 0  # a hole in the largest


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez_compressed(path, image=np.ones(3), label=values)
    elif ".nii" in path.name:
        nib.save(nib.Nifti1Image(values, np.diag([0.5, 2.0, 3.0, 1.0])), path)
    else:
        Image.fromarray(values).save(path)


@pytest.mark.parametrize(
    "name", ["a.png", "a.tif", "a.TIFF", "a.bmp", "a.npy", "a.npz", "a.nii", "a.nii.gz"]
)
@pytest.mark.parametrize("value", [1, 255])
def test_every_file_type_gives_the_same(tmp_path: Path, capsys, name: str, value: int) -> None:
    write(tmp_path / "deep" / name, MASK * np.uint8(value))
    status, out, said = run(capsys, tmp_path)
    assert (status, said) == (0, [])
    assert out.startswith(
        "1 masks of 100 x 200 pixels, 1 of them with foreground.\n4 regions and 1"
    )
    counts = [row(out, *words)[-4:] for words in (("10 to 25",), ("26 to 49",), ("50 to 121",))]
    assert [count[0] for count in counts] == ["1", "1", "1"]
    # Of the squares of 5, 7, 8 and 30, two are flagged whole at 21, and 25 + 49 pixels.
    flagged = row(out, "21 x 21", 49)
    assert flagged == ["2", "50.0%", "1", "100.0%", f"{74 / (74 + 64 + 896):.1%}"]


def test_flags_are_those_of_the_whole_masks(tmp_path: Path, capsys) -> None:
    """Masks are cut to the box around their foreground; that changes no count."""
    import torch
    from skimage.measure import label

    from gliomaseg_layers.functional import outlier_weight

    generator = np.random.default_rng(23)
    whole = pixels = total = regions = 0
    for number in range(6):
        coarse = generator.random((13, 17)) > 0.8
        mask = np.kron(coarse, np.ones((5, 4), bool)) & (generator.random((65, 68)) > 0.02)
        mask[:, : 12 * number] = False
        write(tmp_path / f"{number}.png", mask)
        weight = outlier_weight(torch.tensor(mask)[None, None].float(), levels=(0.5,))[0, 0]
        flagged, labels = weight.cpu().numpy() > 0, label(mask, connectivity=2)
        pixels += int((flagged & mask).sum())
        total += int(mask.sum())
        regions += labels.max()
        whole += sum(flagged[labels == name].all() for name in range(1, labels.max() + 1))
    _, out, _ = run(capsys, tmp_path)
    assert whole > 0
    flagged_row = row(out, "21 x 21", 49)
    assert flagged_row[0] == str(whole)
    assert flagged_row[1] == f"{whole / regions:.1%}"
    assert flagged_row[-1] == f"{pixels / total:.1%}"


def test_spacing_gives_millimetres(tmp_path: Path, capsys) -> None:
    write(tmp_path / "a.nii.gz", squares((30, 40, 50), 10, gap=60))
    out = run(capsys, tmp_path)[1]
    assert "Half of the regions have at most 1000 voxels, 3000 mm3." in out
    assert row(out, "1 to 27")[0] == "81"
    # Slices along axis 1 have pixels of 0.5 x 3 mm.
    out = run(capsys, tmp_path, "--slices", 1)[1]
    assert out.startswith("40 masks of 30 x 50 pixels, 10 of them with foreground.\n10 regions")
    assert "100 pixels, 150 mm2." in out
    # At half the size in both directions, a pixel is four times as large.
    out = run(capsys, tmp_path, "--slices", 1, "--resize", 15, 25)[1]
    assert "masks of 15 x 25 pixels" in out
    assert "25 pixels, 150 mm2." in out


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_are_chosen(tmp_path: Path, capsys, dtype: type) -> None:
    labels = squares((64, 64), 20).astype(dtype)
    labels[8:12, 8:12] = 2
    labels[50:53, 50:53] = 4
    write(tmp_path / "a.png", labels)
    status, out, (said,) = run(capsys, tmp_path)
    assert (status, out) == (1, "")
    assert said.startswith("windows: labels where a mask of two values was expected: ")
    assert said.endswith("a.png has 0, 1, 2, 4; choose with --label 1, --label 1 2 or --label any")
    assert "1 regions and 1 holes" in run(capsys, tmp_path, "--label", 1)[1]
    assert "1 regions and 0 holes" in run(capsys, tmp_path, "--label", 1, 2)[1]
    assert "2 regions and 0 holes" in run(capsys, tmp_path, "--label", "any")[1]
    status, _, (said,) = run(capsys, tmp_path, "--label", 7)
    assert (status, said) == (1, "windows: no foreground in any of the 1 masks")
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--label", "all"])
    assert "--label must be whole numbers, or any, got all" in capsys.readouterr().err


def test_masks_are_found_by_their_names(tmp_path: Path, capsys) -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    for mask in ("x_mask.tif", "masks/x.png", "labelsTr/x.png", "x-seg.png", "X_GT.png"):
        folder = tmp_path / mask.replace("/", "_")
        write(folder / "image.png", image)
        write(folder / "unlabelled.png", image)
        write(folder / ".hidden_mask.png", image)
        write(folder / mask, squares((64, 64), 20))
        status, out, said = run(capsys, folder)
        assert (status, said) == (0, [])
        assert out.startswith("1 masks of 64 x 64 pixels")
        assert run(capsys, folder, "--pattern", "image.*")[0] == 1


def test_pictures_in_colour_and_of_a_palette(tmp_path: Path, capsys) -> None:
    mask = squares((64, 64), 20)
    palette = Image.fromarray(mask + squares((64, 64), 5)).convert("P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])  # equally bright
    palette.save(tmp_path / "a.png")
    assert "1 regions and 1 holes" not in run(capsys, tmp_path, "--label", 2)[1]
    assert "at most 25 pixels" in run(capsys, tmp_path, "--label", 2)[1]
    Image.fromarray(np.stack([mask * 255, 0 * mask, 0 * mask], -1)).save(tmp_path / "a.png")
    assert "at most 400 pixels" in run(capsys, tmp_path)[1]
    assert "at most 400 pixels" in run(capsys, tmp_path, "--label", "any")[1]
    _, _, said = run(capsys, tmp_path, "--label", 1)
    assert said[0].endswith("a.png is RGB")
    clear = np.stack([np.zeros_like(mask)] * 3 + [mask * 255], -1)  # black where it is not clear
    Image.fromarray(clear).save(tmp_path / "a.png")
    assert "at most 400 pixels" in run(capsys, tmp_path)[1]
    palette = Image.fromarray(mask).convert("P")
    palette.putpalette([0, 0, 0, 0, 0, 0])  # nothing is seen of either
    palette.save(tmp_path / "a.png")
    assert "at most 400 pixels" in run(capsys, tmp_path)[1]


def test_a_mask_saved_as_jpeg_is_read_and_named(tmp_path: Path, capsys) -> None:
    Image.fromarray(squares((64, 64), 20) * np.uint8(255)).save(tmp_path / "a.jpg", quality=80)
    status, out, (said,) = run(capsys, tmp_path)
    assert status == 0
    assert "at most 400 pixels" in out
    assert re.search(r"a mask of \d+ values, read as what lies above half of the largest", said)


def fractions(path: Path) -> None:
    nib.save(nib.Nifti1Image(np.linspace(0, 1, 512).reshape(8, 8, 8), np.eye(4)), path)


BAD = {
    "broken.png": (lambda path: path.write_bytes(b"no picture"), "unreadable: "),
    "broken.npy": (lambda path: path.write_bytes(b""), "unreadable: "),
    "broken.npz": (lambda path: path.write_bytes(b"PK"), "unreadable: "),
    "broken.nii.gz": (lambda path: path.write_bytes(b"\x1f\x8b"), "unreadable: "),
    "pickle.npy": (lambda path: np.save(path, np.array([{}]), allow_pickle=True), "unreadable: "),
    "image.nii": (fractions, "a mask must hold whole numbers: "),
    "image.png": (
        lambda path: write(path, np.arange(4096, dtype=np.uint8).reshape(64, 64)),
        "a mask must have two values: ",
    ),
    "negative.npy": (lambda path: np.save(path, np.eye(9) - 1), "a mask must hold numbers from 0"),
    "nan.npy": (
        lambda path: np.save(path, np.array([[0, 1, np.nan], [0, 0, np.inf]])),
        "a mask must hold whole numbers: ",
    ),
    "line.npy": (lambda path: np.save(path, np.ones(5)), "a mask must have 2 or 3 axes"),
    "many.npy": (lambda path: np.save(path, np.ones((2, 2, 2, 2))), "a mask must have 2 or 3 axes"),
    "words.npy": (lambda path: np.save(path, np.array([["a"]])), "a mask must have 2 or 3 axes"),
    "two.npz": (lambda path: np.savez(path, a=np.ones(3), b=np.ones(3)), "an npz file must hold"),
    "frames.tif": (
        lambda path: Image.new("L", (9, 9)).save(
            path, save_all=True, append_images=[Image.new("L", (9, 9), 1)]
        ),
        "a file must hold one mask: ",
    ),
    "volume.npy": (lambda path: np.save(path, np.ones((4, 5, 6))), "masks of 2 and of 3 axes: "),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_and_left_out(tmp_path: Path, capsys, name: str) -> None:
    write(tmp_path / "a.npy", MASK)
    make, message = BAD[name]
    make(tmp_path / name)
    status, out, (said,) = run(capsys, tmp_path)
    assert status == 1
    assert said.startswith(f"windows: {message}")
    assert str(tmp_path / name) in said
    assert out.startswith("1 masks of 100 x 200")


def test_many_bad_files_are_counted(tmp_path: Path, capsys) -> None:
    for number in range(14):
        (tmp_path / f"{number}.png").touch()
    status, out, said = run(capsys, tmp_path)
    assert (status, out, len(said)) == (1, "", 12)
    assert said[-2:] == [
        "windows: ... and 4 files more",
        f"windows: no mask could be read in {tmp_path}",
    ]


def test_bad_folders_end_with_one_line(tmp_path: Path, capsys) -> None:
    assert run(capsys, tmp_path)[2][0].startswith(
        f"windows: no masks in {tmp_path} (looked for png"
    )
    (tmp_path / "a.txt").touch()
    assert run(capsys, tmp_path)[0] == 1
    assert run(capsys, tmp_path / "b")[2] == [f"windows: no such folder: {tmp_path / 'b'}"]
    assert run(capsys, tmp_path / "a.txt")[2] == [f"windows: not a folder: {tmp_path / 'a.txt'}"]
    write(tmp_path / "a.png", 0 * MASK)
    assert run(capsys, tmp_path)[2] == ["windows: no foreground in any of the 1 masks"]


@pytest.mark.parametrize(
    "options",
    [("--resize", 0), ("--part", 1), ("--slices", 3), ("--figure", "nowhere/a.png")],
)
def test_bad_options_are_refused(tmp_path: Path, options: tuple[object, ...]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), *map(str, options)])


def test_resize_counts_axes_and_names_what_it_empties(tmp_path: Path, capsys) -> None:
    write(tmp_path / "a.png", MASK)
    write(tmp_path / "b.png", squares((100, 200), 1))
    status, out, (said,) = run(capsys, tmp_path, "--resize", 25, 50)
    assert (status, said) == (
        0,
        f"windows: no foreground is left at this size: {tmp_path / 'b.png'}",
    )
    assert out.startswith("2 masks of 25 x 50 pixels, 1 of them with foreground.")
    status, _, (said,) = run(capsys, tmp_path, "--resize", 9, 9, 9)
    assert (status, said) == (
        1,
        "windows: --resize must be one number, or 2, as masks have axes, got (9, 9, 9)",
    )


def test_sizes_that_differ_are_told(tmp_path: Path, capsys) -> None:
    write(tmp_path / "a.png", MASK)
    write(tmp_path / "b.png", MASK.T)
    assert "The sizes differ." in run(capsys, tmp_path)[1]
    assert "The sizes differ." not in run(capsys, tmp_path, "--resize", 100)[1]


def test_advice_is_the_default_scaled(tmp_path: Path, capsys) -> None:
    for number in range(30):
        write(tmp_path / f"{number}.png", squares((256, 256), 60))
    lines = {
        256: "OutlierRegionLoss(window=21, max_noise_size=49)",
        128: "OutlierRegionLoss(window=11, max_noise_size=16)",
        64: "OutlierRegionLoss(window=9, max_noise_size=9)",
        512: "OutlierRegionLoss(window=33, max_noise_size=121)",
        1024: "OutlierRegionLoss(window=63, max_noise_size=441)",
    }
    for size, line in lines.items():
        out = run(capsys, tmp_path, "--resize", size)[1]
        assert suggestion(out) == line
        assert ("Suggested, the default:" in out) == (size == 256)
        assert "Do not take the default" not in out
        assert "few regions" not in out


def test_no_window_is_wider_than_a_third_of_the_image(tmp_path: Path, capsys) -> None:
    write(tmp_path / "a.png", squares((40, 256), 20))
    assert suggestion(run(capsys, tmp_path)[1]).startswith("OutlierRegionLoss(window=11, ")


def test_advice_keeps_true_small_regions(tmp_path: Path, capsys) -> None:
    sides = [3] * 1 + [5] * 9 + [30] * 20
    for number, side in enumerate(sides):
        write(tmp_path / f"{number}.png", squares((256, 256), side))
    out = run(capsys, tmp_path)[1]
    assert suggestion(out) == "OutlierRegionLoss(window=11, max_noise_size=16)"
    assert "the largest that takes at most 5% of the truth for noise" in out
    assert "Do not take the default: it takes 33% of the truth for noise." in out
    out = run(capsys, tmp_path, "--part", 0.02)[1]
    assert suggestion(out) == "OutlierRegionLoss(window=9, max_noise_size=4)"
    out = run(capsys, tmp_path, "--part", 0.4)[1]
    assert suggestion(out) == "OutlierRegionLoss(window=21, max_noise_size=49)"


def test_no_setting_suits_where_the_truth_is_tiny(tmp_path: Path, capsys) -> None:
    """Lesions of multiple sclerosis in slices are so: most have less than 50 pixels."""
    write(tmp_path / "a.png", squares((200, 200), 2, 2, 2, 40))
    out = run(capsys, tmp_path)[1]
    assert "OutlierRegionLoss" not in out
    assert "No setting suits: even the smallest takes 75% of the truth for noise." in out
    assert "as volumes" in out
    assert "few regions" in out


def test_pixels_count_as_regions_do(tmp_path: Path, capsys) -> None:
    """A line is never flagged whole where its ends touch something large, but its pixels are."""
    mask = squares((200, 200), 30, gap=0)
    mask[10, 34:] = 1
    write(tmp_path / "a.png", mask)
    out = run(capsys, tmp_path)[1]
    assert row(out, "21 x 21", 49)[:2] == ["0", "0.0%"]
    assert suggestion(out) == "OutlierRegionLoss(window=9, max_noise_size=4)"
    assert "Do not take the default: it takes 15% of the truth for noise." in out


def test_thick_slices_get_flat_windows(tmp_path: Path, capsys) -> None:
    volume = squares((8, 128, 128), 60)
    volume[2:5, 4:64, 4:64] = 1
    write(tmp_path / "npy" / "a.npy", volume)  # by its shape
    out = run(capsys, tmp_path / "npy")[1]
    assert suggestion(out) == "OutlierRegionLoss(window=(1, 11, 11), max_noise_size=16)"
    assert row(out, "21 x 21 x 21", 343)
    (tmp_path / "nii").mkdir()
    affine = np.diag([1.0, 1.0, 4.0, 1.0])  # by its spacing
    nib.save(nib.Nifti1Image(np.moveaxis(volume, 0, 2), affine), tmp_path / "nii" / "a.nii")
    out = run(capsys, tmp_path / "nii")[1]
    assert suggestion(out) == "OutlierRegionLoss(window=(11, 11, 1), max_noise_size=16)"
    nib.save(nib.Nifti1Image(np.moveaxis(volume, 0, 2), np.eye(4)), tmp_path / "nii" / "a.nii")
    out = run(capsys, tmp_path / "nii")[1]
    assert suggestion(out) == "OutlierRegionLoss(window=9, max_noise_size=27)"
    tiny = np.zeros((40, 40, 40), np.uint8)
    tiny[20, 20, 20] = 1
    write(tmp_path / "tiny" / "a.npy", tiny)
    out = run(capsys, tmp_path / "tiny")[1]
    assert "No setting suits: even the smallest takes 100% of the truth for noise." in out
    assert "as volumes" not in out


def test_slices_are_of_volumes(tmp_path: Path, capsys) -> None:
    write(tmp_path / "a.png", MASK)
    _, _, said = run(capsys, tmp_path, "--slices", 0)
    assert said[0].startswith("windows: --slices is for volumes: ")


def test_draws(tmp_path: Path, capsys) -> None:
    write(tmp_path / "large" / "a.npy", squares((256, 256), 40))  # the default suits
    assert run(capsys, tmp_path / "large", "--figure", tmp_path / "large.png")[0] == 0
    write(tmp_path / "masks" / "a.nii", np.stack([squares((40, 200), 3, 5, 20)] * 30, -1))
    for options in ((), ("--slices", 2)):
        figure = tmp_path / f"{len(options)}.png"
        assert run(capsys, tmp_path / "masks", "--figure", figure, *options)[0] == 0
        with Image.open(figure) as image:
            assert image.width > 800
    status, out, (said,) = run(capsys, tmp_path / "masks", "--figure", tmp_path / "a.words")
    assert status == 1
    assert suggestion(out)
    assert said.startswith(f"windows: could not write {tmp_path / 'a.words'} (")


@pytest.mark.parametrize(
    ("module", "file"),
    [("PIL", "a.png"), ("nibabel", "a.nii.gz"), ("matplotlib.figure", "a.npy")],
)
def test_what_is_not_installed_is_named(
    tmp_path: Path, capsys, monkeypatch, module: str, file: str
) -> None:
    write(tmp_path / file, MASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    status, _, (said,) = run(capsys, tmp_path, "--figure", "sizes.png")
    assert status == 1
    assert said.startswith(f"windows: this needs {module}, which is not installed: pip install")


def test_runs_as_a_command_and_says_that_it_needs_metrics(tmp_path: Path) -> None:
    write(tmp_path / "a.npy", MASK)
    command = [sys.executable, "-m", "gliomaseg_layers.windows", str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert suggestion(finished.stdout)
    program = (
        "import sys; sys.modules['torchmetrics'] = None; "
        "from gliomaseg_layers.windows.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == (
        "windows: this needs torchmetrics, which is not installed: "
        "pip install 'gliomaseg_layers[metrics]'\n"
    )
