"""The command that shows how large the true regions of a data set are."""

from pathlib import Path

from skimage.measure import label

from examples.lgg.data import find_slices, read_mask
from examples.lgg.region_sizes import main


def test_prints_the_distribution(lgg_folder: Path, capsys) -> None:
    assert main([str(lgg_folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    slices = [piece for piece in find_slices(lgg_folder) if piece.tumour_pixels]
    regions = sum(label(read_mask(piece.mask), connectivity=2).max() for piece in slices)
    assert lines[0].startswith(f"{regions} regions and ")
    assert lines[0].endswith(f" on {len(slices)} slices")
    assert lines[-1].startswith("Suggested window: ")


def test_bad_folder_ends_with_one_line(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith("region_sizes: no such folder")
