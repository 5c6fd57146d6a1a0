"""What type checkers say of a user's programs, without the library's settings."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROGRAMS = [HERE / "consumer.py", HERE / "metrics_consumer.py"]


def said(*command: str | Path) -> str:
    run = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    return run.stdout + run.stderr


def mypy(*arguments: str | Path) -> str:
    cache = HERE.parents[1] / ".mypy_cache" / "user"
    return said("mypy", "--strict", "--config-file=", f"--cache-dir={cache}", *arguments)


def test_a_strict_user_of_mypy_has_nothing_to_complain_of() -> None:
    assert mypy(*PROGRAMS).startswith("Success: no issues found in 2 source files")


@pytest.mark.skipif(not shutil.which("node"), reason="pyright needs node, which npm brings")
def test_a_strict_user_of_pyright_has_nothing_to_complain_of() -> None:
    assert "0 errors, 0 warnings" in said(
        *("pyright", "--pythonpath", sys.executable, "--warnings"), *PROGRAMS
    )


def test_a_wrong_program_is_refused() -> None:
    """Were the package untyped, it would pass as well."""
    message = mypy("-c", "from gliomaseg_layers import DiceLoss; DiceLoss(smooth='1')")
    assert '"smooth" to "DiceLoss" has incompatible type "str"' in message
