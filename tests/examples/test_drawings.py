"""The drawings of the networks are what the networks are today."""

import re
import runpy
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "images"


def words(drawing: Path) -> list[str]:
    return re.findall(r"<text [^>]*>([^<]+)", drawing.read_text())


def test_drawings_are_up_to_date(tmp_path: Path) -> None:
    runpy.run_path(str(FOLDER / "networks.py"))["main"](tmp_path)
    drawn = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert drawn == sorted(path.name for path in FOLDER.glob("*.svg"))
    for name in drawn:
        assert words(tmp_path / name) == words(FOLDER / name)
        assert "image" in words(FOLDER / name)


def test_skip_connections_are_drawn() -> None:
    script = runpy.run_path(str(FOLDER / "networks.py"))
    network, shapes = script["networks"]()["UNet()"]
    given = {name: torch.empty(1, *shape, device="meta") for name, shape in shapes.items()}
    blocks = {block.name: block for block in script["walk"](network.to("meta"), given)}
    assert len(blocks) == 12
    for level in range(4):
        above = f"decoder {2 - level}" if level < 3 else "bottleneck"
        assert blocks[f"decoder {3 - level}"].sources == {
            f"encoder {level}": {"concatenate"},
            above: {"transposed convolution", "concatenate"},
        }
    assert blocks["encoder 1"].sources == {"encoder 0": {"max pool"}}
