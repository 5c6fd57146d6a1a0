"""The first example: it learns, with torch and the library alone."""

import re
import runpy
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "train_minimal.py"


def test_learns(capsys) -> None:
    runpy.run_path(str(PROGRAM), run_name="__main__")
    printed = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", printed)]
    assert losses[-1] < 0.3 * losses[0]
    assert float(re.findall(r"Dice on new slices: ([\d.]+)", printed)[0]) > 0.9


def test_needs_torch_and_the_library_alone() -> None:
    lines = PROGRAM.read_text().splitlines()
    imports = [line.split()[1] for line in lines if re.match(r" *(import|from) ", line)]
    assert set(imports) == {"torch", "gliomaseg_layers"}
