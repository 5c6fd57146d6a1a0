"""The report of a GPU's first day: valid at any moment, and right only where all checks are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_report.__main__ import PARTS
from benchmarks.gpu_report.report import Found, Report, append

ROOT = Path(__file__).parents[2]
PASSED: Found = {"test": "a.py::b", "outcome": "passed"}
SKIPPED: Found = {"test": "a.py::c", "outcome": "skipped", "why": "needs a GPU"}
FAILED: Found = {"test": "a.py::d", "outcome": "failed", "why": "assert 1 == 2"}
WHOLE: Found = {"ended": "whole"}


@pytest.mark.parametrize(
    ("found", "right"),
    [
        ([PASSED, SKIPPED, WHOLE], True),
        ([PASSED, FAILED, WHOLE], False),
        ([PASSED, {"ended": "out of time"}], False),
        ([PASSED, {"ended": "with -11"}], False),
        ([PASSED], False),
        ([SKIPPED, WHOLE], False),
        ([], False),
    ],
)
def test_right_is_what_was_checked_whole(found: list[Found], right: bool, tmp_path: Path) -> None:
    report = Report(tmp_path, tmp_path, list(PARTS), rehearse=False)
    for line in found:
        append(tmp_path, "right", line)
    assert report.is_right() == right


def test_the_page_shows_goals_failures_and_errors(tmp_path: Path) -> None:
    report = Report(tmp_path, tmp_path, list(PARTS), rehearse=False)
    append(tmp_path, "machine", {"fact": "device", "value": "Some GPU, 80 GB"})
    for line in (PASSED, SKIPPED, FAILED):
        append(tmp_path, "right", line)
    case = {"table": "Losses", "over": "Over BCE", "low": 1.0, "high": 2.0, "ms": 1.0}
    for row, more in {
        "slow": {"ratio": 1.7, "at_most": 1.6},
        "fast": {"ratio": 1.5, "at_most": 1.6},
        "far": {"ratio": 0.5, "at_least": 0.6},
        "broken": {"error": "RuntimeError: no kernel"},
    }.items():
        append(tmp_path, "fast", case | {"row": row, **more})
    with (tmp_path / "fast.jsonl").open("a") as lines:
        lines.write('{"table": "half wri')
    report.write()
    page = (tmp_path / "report.md").read_text()
    assert "| Losses: slow  | at most 1.6 | 1.7 | NO |" in page
    assert "| Losses: fast  | at most 1.6 | 1.5 | yes |" in page
    assert "| Losses: far  | at least 0.6 | 0.5 | NO |" in page
    assert "fast: 3 found, 1 failed; ended not ended." in page
    assert "RuntimeError: no kernel" in page
    assert "assert 1 == 2" in page
    assert "needs a GPU" in page
    assert "a.py | 1 | 1 | 1" in page
    assert len(json.loads((tmp_path / "results.json").read_text())["fast"]) == 4
    rows = (tmp_path / "some-gpu-80-gb.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows] == ["row", "slow", "fast", "far"]
    short = (tmp_path / "some-gpu-80-gb.md").read_text()
    assert short.startswith("# Measured on Some GPU, 80 GB\n")
    assert "| Losses: slow  | at most 1.6 | 1.7 | NO |" in short
    assert "a.py | 1 | 1 | 1" in short
    assert "assert 1 == 2" not in short


def test_a_run_out_of_time_leaves_a_report_and_is_not_right(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_report", "--rehearse", "--seconds", "3"]
    run = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 1, run.stderr
    page = (tmp_path / "report.md").read_text()
    assert "rehearsed on a CPU" in page
    assert "ended out of time" in page
    assert len(list(tmp_path.iterdir())) <= len(PARTS) + 4  # the logs, and the report in four forms


@pytest.mark.skipif(torch.cuda.is_available(), reason="looks for the message where there is no GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_report", "--out", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2
    assert "torch sees none here; --rehearse runs it on a CPU" in run.stderr


def test_a_failing_test_and_a_file_that_does_not_load_are_found(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("def test_a(): pass\ndef test_b(): assert 1 == 2\n")
    (tmp_path / "test_two.py").write_text("import nothing_of_this_name\n")
    script = (
        "import sys; from benchmarks.gpu_report.checks import run; "
        "found = []; run(found.append, *sys.argv[1:]); "
        "print('|', *sorted(line['outcome'] for line in found))"
    )
    files = [str(tmp_path / name) for name in ("test_one.py", "test_two.py")]
    command = [sys.executable, "-c", script, *files, "--continue-on-collection-errors"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.split("|")[-1].split() == ["failed", "failed", "passed"], run.stderr
