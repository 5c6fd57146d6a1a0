"""What a user's mypy says of programs that use the library, without the library's settings."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def mypy(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", *arguments]
    cache = HERE.parents[1] / ".mypy_cache" / "user"
    run = subprocess.run([*command, f"--cache-dir={cache}"], capture_output=True, text=True)
    return run.stdout + run.stderr


def test_a_strict_user_has_nothing_to_complain_of() -> None:
    said = mypy(HERE / "consumer.py", HERE / "metrics_consumer.py")
    assert said.startswith("Success: no issues found in 2 source files"), said


def test_a_wrong_program_is_refused() -> None:
    """Were the package untyped, it would pass as well."""
    said = mypy("-c", "from gliomaseg_layers import DiceLoss; DiceLoss(smooth='1')")
    assert '"smooth" to "DiceLoss" has incompatible type "str"' in said
