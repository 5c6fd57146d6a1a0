"""Build what would be released, and install, run and type-check it in empty environments.

python -m reliability.packages [PYTHON/TORCH/NUMPY ...], such as 3.11/2.6.0/1.26.4
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from reliability.artefacts import ROOT, faults, output

# torch's lowest, a CPU build and the newest, with an old numpy and a new one.
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
SMOKE = ROOT / "reliability" / "smoke.py"
TABLE = """
| Python | torch | numpy | smoke test | `mypy --strict` | pyright, strict |
| --- | --- | --- | --- | --- | --- |"""


def passes(*command: str | Path, cwd: Path) -> bool:
    """Tell whether a command succeeds; show what it prints where it does not."""
    try:
        output(*command, cwd=cwd)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return False
    return True


def results(wheel: Path, names: str, folder: Path) -> list[bool]:
    """Install a wheel with the versions named; say which of the three programs pass there."""
    python, torch, numpy = names.split("/")
    inner = folder / "env" / "bin" / "python"
    empty = folder / "empty"
    empty.mkdir()
    output(f"python{python}", "-m", "venv", folder / "env", cwd=empty)
    wanted = (wheel, f"torch=={torch}", f"numpy=={numpy}")
    output(inner, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *wanted, cwd=empty)

    readme = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    smoke = readme + SMOKE.read_text()
    mypy = (sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", folder)
    pyright = (sys.executable, "-m", "pyright", "--pythonpath", inner)
    return [
        passes(inner, "-I", "-W", "error", "-c", smoke, cwd=empty),
        passes(*mypy, "--python-executable", inner, CONSUMER, cwd=empty),
        passes(*pyright, CONSUMER, cwd=empty),
    ]


def main(environments: tuple[str, ...]) -> bool:
    """Print what is wrong and the table; tell whether all is well."""
    for name in ("PYTHONPATH", "MYPYPATH"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "dist")
        found = list(faults(ROOT, out))
        (wheel,) = out.glob("*.whl")
        print("\n".join(found) or "The artefacts are reproducible and hold what they should.")
        print(TABLE, flush=True)
        for names in environments:
            here = Path(folder, "here")  # one at a time: torch is large
            here.mkdir()
            try:
                good = results(wheel, names, here)
                said = ["passes" if each else "**fails**" for each in good]
            except (OSError, RuntimeError) as error:
                print(error, file=sys.stderr)
                said = ["**not installed**", "", ""]
            found += [word for word in said if word != "passes"]
            print(f"| {' | '.join([*names.split('/'), *said])} |", flush=True)
            shutil.rmtree(here)
    return not found


if __name__ == "__main__":
    sys.exit(not main(tuple(sys.argv[1:]) or ENVIRONMENTS))
