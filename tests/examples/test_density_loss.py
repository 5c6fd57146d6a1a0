"""The program that shows what equation 12 does to noise."""

from pathlib import Path

import numpy as np
from PIL import Image

from examples.density_loss import main


def test_prints_the_findings(capsys, tmp_path: Path) -> None:
    picture = tmp_path / "new" / "noise_test.png"
    main(["--figure", str(picture)])
    lines = capsys.readouterr().out.splitlines()
    found = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("     ")}
    assert found["60%:"] == found["80%:"] == ["0.0000"]
    assert found["density_loss"] == ["4", "and", "4"]
    assert found["outlier_region_loss"] == ["0", "and", "0"]
    eight = next(line for line in lines if "8 x 8" in line)
    assert eight.split()[-3:] == ["24", "and", "0"]
    slopes = [line.split() for line in lines if line.startswith("     ") and "." in line]
    rewarded = {row[0]: float(row[1]) < 0 for row in slopes if row[0].endswith("_loss")}
    assert rewarded == {"density_loss": True, "outlier_region_loss": False}
    with Image.open(picture) as file:
        assert np.asarray(file.convert("L")).std() > 5
