"""The training examples in a process that ends where anything asks for a network."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from tests.support import offline
sys.addaudithook(offline.refuse)
from {0}.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
SMALL = ["--patients", "4", "--size", "32", "--warm-epochs", "1", "--epochs", "1", "--name", "a"]


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("examples.lgg", [*SMALL, "--runs"]),
        ("examples.recipes", ["train", "attribute-deeplab", "--smoke", "--output"]),
    ],
)
def test_trains_without_a_network(
    standin: Path, tmp_path: Path, module: str, arguments: list[str]
) -> None:
    more = [str(tmp_path / "a"), "--data", str(standin), "--workers", "0", "--accelerator", "cpu"]
    command = [sys.executable, "-c", PROGRAM.format(module), *arguments, *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Results: " in done.stdout
