"""The folders of slices that the examples are tried on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.lgg.standin import write_standin


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("standin") / "kaggle_3m"
    write_standin(folder, patients=5, slices=12, size=48, seed=1)
    return folder


@pytest.fixture(scope="session")
def lgg_folder(standin: Path) -> Path:
    """Real slices where LGG_DATA names them, else the stand-in."""
    return Path(os.environ.get("LGG_DATA", standin))


@pytest.fixture
def broken(standin: Path, tmp_path: Path) -> Path:
    """Return a copy of the stand-in for a test to break."""
    return Path(shutil.copytree(standin, tmp_path / "kaggle_3m"))


@pytest.fixture
def kill() -> Callable[..., None]:
    """Start a program, stop it when a file is there, look at it, and kill it."""

    def kill(program: list[object], appears: Path, look: Callable[[], None]) -> None:
        running = subprocess.Popen(
            [sys.executable, *map(str, program)],
            cwd=Path(__file__).resolve().parents[2],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not appears.exists() and running.poll() is None:
            time.sleep(0.01)
        running.send_signal(signal.SIGSTOP)
        look()
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL

    return kill
