"""The drawings show what the networks are."""

import re
from pathlib import Path

import torch

from docs import network_drawings


def test_every_network_is_drawn(tmp_path: Path) -> None:
    network_drawings.draw_all(tmp_path)
    drawn = {path.stem: path.read_text() for path in tmp_path.glob("*.svg")}
    assert set(drawn) == {"UNet", "MUNet", "MSFEN", "AttributeDeepLab", "GatedSegmenter"}
    for drawing in drawn.values():
        words = re.findall(r"<text [^>]*>([^<]+)", drawing)
        assert "image" in words
        assert any("256" in word for word in words)


def test_skip_connections_are_drawn() -> None:
    network, shapes = network_drawings.networks()["UNet()"]
    given = {name: torch.empty(1, *shape, device="meta") for name, shape in shapes.items()}
    blocks = {block.name: block for block in network_drawings.walk(network.to("meta"), given)}
    assert len(blocks) == 12
    for level in range(4):
        above = f"decoder {2 - level}" if level < 3 else "bottleneck"
        assert blocks[f"decoder {3 - level}"].sources == {
            f"encoder {level}": {"concatenate"},
            above: {"transposed convolution", "concatenate"},
        }
    assert blocks["encoder 1"].sources == {"encoder 0": {"max pool"}}
