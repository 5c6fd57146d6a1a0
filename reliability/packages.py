"""Build what would be released, and install, run and type-check it in empty environments.

python reliability/packages.py [PYTHON/TORCH/NUMPY ...], such as 3.11/2.6.0/1.26.4
"""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from artefacts import ROOT, faults, output

# torch's lowest, a CPU build and the newest, with the oldest and the newest numpy that fit.
ENVIRONMENTS = (
    "3.11/2.6.0/1.23.5",
    "3.11/2.13.0/2.4.6",
    "3.11/2.15.0/2.4.6",
    "3.12/2.6.0/1.26.4",
    "3.12/2.15.0/2.5.5",
    "3.13/2.6.0/2.1.3",
    "3.13/2.15.0/2.5.5",
)
CONSUMER = ROOT / "tests" / "packaging" / "consumer.py"


def example() -> str:
    """Return the first program of README."""
    return (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]


def verdict(*command: str | Path, cwd: Path) -> str:
    """Run a command; say "passes", or show what it prints and say "fails"."""
    try:
        output(*command, cwd=cwd)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return "**fails**"
    return "passes"


def tried(wheel: Path, names: str, folder: Path) -> str:
    """Install a wheel with the versions named into an empty environment; return a row of the table."""
    python, torch, numpy = names.split("/")
    interpreter = shutil.which(f"python{python}")
    if not interpreter or subprocess.run([interpreter, "-V"], stderr=-3, stdout=-3).returncode:
        return f"| {python} | {torch} | {numpy} | no such interpreter | | |"
    output(interpreter, "-m", "venv", folder / "env", cwd=folder)
    inner = folder / "env" / "bin" / "python"
    empty = folder / "empty"
    empty.mkdir()
    wanted = [wheel, f"torch=={torch}", f"numpy=={numpy}"]
    output(inner, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *wanted, cwd=empty)
    installed = output(
        *(inner, "-c", "import platform, torch, numpy"),
        *("print(platform.python_version(), torch.__version__, numpy.__version__, sep=' | ')"),
        cwd=empty,
    )
    smoke = example() + Path(__file__).with_name("smoke.py").read_text()
    shutil.copy(CONSUMER, empty)
    verdicts = (
        verdict(inner, "-I", "-W", "error", "-c", smoke, cwd=empty),
        verdict(
            *(sys.executable, "-m", "mypy", "--strict", "--config-file="),
            *("--cache-dir", folder, "--python-executable", inner, CONSUMER.name),
            cwd=empty,
        ),
        verdict(sys.executable, "-m", "pyright", "--pythonpath", inner, CONSUMER.name, cwd=empty),
    )
    return f"| {installed.strip()} | {' | '.join(verdicts)} |"
