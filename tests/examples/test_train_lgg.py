"""The main job, whole and small: results that are complete, repeatable, or not there at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from examples.lgg import __main__ as lgg_program
from examples.lgg import report as lgg_report
from examples.lgg.__main__ import main
from examples.lgg.evaluation import score, slice_dice
from examples.saving.whole_files import read_saved, save_whole

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    *("--patients", "4", "--size", "32", "--warm-epochs", "2", "--epochs", "1"),
    *("--workers", "0", "--accelerator", "cpu"),
]
FILES = {"metrics.csv", "report.md"} | {
    f"{name}.png" for name in ("noise_test", "overlays", "heat_maps", "curves")
}


def run(folder: Path, runs: Path, *more: str) -> int:
    return main(["--data", str(folder), "--runs", str(runs), *SMALL, *more])


def test_leaves_a_whole_report(lgg_folder: Path, tmp_path: Path, capsys) -> None:
    assert run(lgg_folder, tmp_path, "--name", "a") == 0
    assert {path.name for path in (tmp_path / "a").iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    report = (tmp_path / "a" / "report.md").read_text()
    assert report in capsys.readouterr().out
    for name in ("warm start", "| BCE + Dice |", "| BCE + Dice + outlier |"):
        assert name in report
    for name in FILES - {"metrics.csv", "report.md"}:
        assert f"]({name})" in report
        with Image.open(tmp_path / "a" / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5
    history = pd.read_csv(tmp_path / "a" / "metrics.csv")
    assert list(history["epoch"]) == [1, 2, 1, 1]
    assert history.notna().all().all()


def test_is_repeatable_and_keeps_older_results(standin: Path, tmp_path: Path, capsys) -> None:
    for name in "ab":
        assert run(standin, tmp_path, "--name", name) == 0
    first, second = (pd.read_csv(tmp_path / name / "metrics.csv") for name in "ab")
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert run(standin, tmp_path, "--name", "c", "--seed", "24") == 0
    assert not first.equals(pd.read_csv(tmp_path / "c" / "metrics.csv"))
    assert run(standin, tmp_path, "--name", "a") == 1
    assert "results exist already" in capsys.readouterr().err


def test_bad_folders_end_with_one_line(broken: Path, tmp_path: Path, capsys) -> None:
    mask = min(broken.glob("*/*_mask.tif"))
    mask.write_bytes(b"no picture")
    for folder, expected in ((tmp_path / "nowhere", "no such folder"), (broken, mask.name)):
        assert run(folder, tmp_path / "runs") == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert expected in line
        assert list((tmp_path / "runs").iterdir()) == []


def test_what_does_not_suit_is_said_before_training(broken: Path, tmp_path: Path, capsys) -> None:
    rows = (broken / "data.csv").read_text().splitlines()
    for table, expected in (
        (["a,b", "1,2"], "unreadable table"),
        ([*rows, rows[-1]], "comes twice"),
    ):
        (broken / "data.csv").write_text("\n".join(table))
        assert run(broken, tmp_path / "runs") == 1
        output = capsys.readouterr()
        assert expected in output.err
        assert "training" not in output.out


def test_an_accelerator_that_is_not_there(standin: Path, tmp_path: Path, capsys) -> None:
    missing = "gpu" if torch.backends.mps.is_available() else "mps"
    assert run(standin, tmp_path, "--accelerator", missing) == 1
    assert "Accelerator" in capsys.readouterr().err.splitlines()[-1]


def test_a_full_disk_leaves_no_results_but_what_was_trained(
    standin: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "curves.png")

    with monkeypatch.context() as patch:
        patch.setattr(lgg_report, "_draw_curves", full)
        assert run(standin, tmp_path, "--name", "a") == 1
    assert "No space left on device: 'curves.png'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".part-a"]
    for more, expected in (
        ([], "results exist already"),
        (["--resume", "--seed", "24"], "begun with another 'seed'"),
    ):
        assert run(standin, tmp_path, "--name", "a", *more) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert expected in line
    monkeypatch.delattr(lgg_program.L.Trainer, "fit")  # all is trained
    assert run(standin, tmp_path, "--name", "a", "--resume") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert {path.name for path in (tmp_path / "a").iterdir()} == FILES


@pytest.mark.parametrize("full", ["0.ckpt", "1.ckpt", "run.json"])
def test_a_full_disk_while_training(standin: Path, tmp_path: Path, capsys, full: str) -> None:
    state = tmp_path / ".part-a"
    state.mkdir()
    (state / f".part-{full}").symlink_to("/dev/full")
    assert run(standin, tmp_path, "--name", "a", "--resume") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"lgg: [Errno 28] No space left on device: '{state / full}'"
    for path in state.glob("*.ckpt"):
        assert len(read_saved(path)["rows"]) == 2
    assert len([*state.glob("*.ckpt")]) == (full == "1.ckpt")


def test_resumes_where_it_was_killed(standin: Path, tmp_path: Path, capsys, kill) -> None:
    """Killed in the middle, a run goes on to what it would have come to; no other meanwhile."""
    assert run(standin, tmp_path, "--name", "whole") == 0
    capsys.readouterr()

    def try_another() -> None:
        for go_on in ([], ["--resume"]):
            assert run(standin, tmp_path, "--name", "killed", *go_on) == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert line == f"lgg: another run is at work in {state}"

    state = tmp_path / ".part-killed"
    command = ["-m", "examples.lgg", "--data", standin, "--runs", tmp_path, *SMALL]
    kill([*command, "--name", "killed"], state / "1.ckpt", try_another)
    assert len(read_saved(state / "0.ckpt")["rows"]) == 2
    for content in (b"", (state / "0.ckpt").read_bytes()[:-9]):
        (state / "2.ckpt").write_bytes(content)
        assert run(standin, tmp_path, "--name", "killed", "--resume") == 1
        assert f"cut off: {state / '2.ckpt'}" in capsys.readouterr().err.splitlines()[-1]
    for foreign in ({}, {"network": {}, "rows": []}, {"network": 3, "rows": 3}):
        save_whole(state / "2.ckpt", foreign)
        assert run(standin, tmp_path, "--name", "killed", "--resume") == 1
        assert f"not a training of this run: {state / '2.ckpt'}" in capsys.readouterr().err
    (state / "2.ckpt").unlink()
    assert run(standin, tmp_path, "--name", "killed", "--resume") == 0
    for name in ("metrics.csv", "report.md"):
        whole, killed = ((tmp_path / folder / name).read_text() for folder in ("whole", "killed"))
        assert whole == killed


def test_output_that_cannot_be_written(standin: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    assert run(standin, tmp_path / "runs") == 1
    assert "runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--window", "6"], "`window` must be odd and positive"),
        (["--share", "0"], "`share` must be finite and > 0"),
        (["--strength", "-1"], "`strength` must be finite and >= 0"),
        (["--resume"], "--resume needs --name"),
        (["--epochs", "0"], "--epochs must be 1 or more"),
        (["--seed", "-1"], "--seed and --workers must be 0 or more"),
        (["--learning-rate", "0"], "--learning-rate must be above 0"),
        (["--held-out", "1"], "--held-out must lie between 0 and 1"),
    ],
)
def test_bad_options_are_refused(arguments: list[str], expected: str, capsys) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(arguments)
    assert exit_code.value.code == 2
    assert expected in capsys.readouterr().err


def test_runs_as_a_program_with_workers(standin: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.lgg", "--data", standin, "--runs", tmp_path]
    options = [*SMALL, "--workers", "1", "--name", "a"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    assert "Results: " in done.stdout


def test_scores_by_hand() -> None:
    masks = torch.zeros(3, 4, 4, dtype=torch.int)
    masks[0, :2] = 1
    probs = torch.zeros(3, 4, 4)
    probs[0, 0] = 0.9  # half of the truth: Dice 2 * 4 / (4 + 8)
    probs[1, 0, 0] = 0.9  # a false pixel: Dice 0; the third slice is empty twice: 1
    torch.testing.assert_close(slice_dice(probs, masks), torch.tensor([2 / 3, 0.0, 1.0]))
    figures = score(probs, masks)
    assert figures["dice_all"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert figures["dice_tumour"] == pytest.approx(2 / 3)
    assert figures["dice_pooled"] == pytest.approx(8 / 13)
    assert figures["spurious"] == figures["noise"] == pytest.approx(100 / 3)
