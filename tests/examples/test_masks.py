"""A mask is read by one rule, whatever it was saved as, and a file that strays from it is named."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.lgg.data import DataError, read_mask

SIDE = 64
Y, X = np.mgrid[:SIDE, :SIDE]
DISC = (Y - 30) ** 2 + (X - 34) ** 2 < 15**2
GREY = DISC.astype(np.uint8) * 255


def clear(colour: int) -> Image.Image:
    """A mask that is in the transparency alone."""
    flat = np.full_like(GREY, colour)
    return Image.fromarray(np.stack([flat, flat, flat, GREY], -1))


def palette(*colours: int) -> Image.Image:
    image = Image.fromarray(DISC.astype(np.uint8)).convert("P")
    image.putpalette(colours)
    return image


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("bits.png", Image.fromarray(DISC)),
        ("ones.png", Image.fromarray(DISC.astype(np.uint8))),
        ("deep.png", Image.fromarray(DISC.astype(np.uint16) * 65535)),
        ("half.tif", Image.fromarray(DISC.astype(np.float32) / 2)),
        ("alpha.png", clear(0)),
        ("white.png", clear(255)),
        ("dark.png", palette(0, 0, 0, 1, 0, 0)),
        ("black.png", palette(0, 0, 0, 0, 0, 0)),
        ("red.png", Image.merge("RGB", [Image.fromarray(GREY)] + 2 * [Image.new("L", (64, 64))])),
    ],
)
def test_two_values_are_read_without_a_word(tmp_path: Path, name: str, image: Image.Image) -> None:
    image.save(tmp_path / name)
    np.testing.assert_array_equal(read_mask(tmp_path / name), DISC)


@pytest.mark.parametrize("name", ["smooth.png", "lossy.jpg"])
def test_greys_are_halved_and_named(tmp_path: Path, name: str) -> None:
    large = np.kron(GREY, np.ones((4, 4), np.uint8))
    image = Image.fromarray(large).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.save(tmp_path / name, **({"quality": 30} if name == "lossy.jpg" else {}))
    with pytest.warns(UserWarning, match=rf"a mask of \d+ values, .*{name}"):
        mask = read_mask(tmp_path / name)
    assert mask.sum() == pytest.approx(DISC.sum(), rel=0.02)


@pytest.mark.parametrize("name", ["labels.png", "colours.png", "cells.tif", "floats.tif"])
def test_labels_are_no_mask(tmp_path: Path, name: str) -> None:
    labels = DISC.astype(np.uint8) + (X > 34) * DISC
    image = Image.fromarray(labels)
    if name == "colours.png":
        image = image.convert("P")
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    if name == "cells.tif":
        image = Image.fromarray(labels.astype(np.uint16) * 300)
    if name == "floats.tif":
        image = Image.fromarray(labels.astype(np.float32))
    image.save(tmp_path / name)
    expected = f"labels where a mask of two values was expected: {tmp_path / name} has 0, "
    with pytest.raises(DataError, match=re.escape(expected)):
        read_mask(tmp_path / name)


def test_one_value_is_nothing_or_all(tmp_path: Path) -> None:
    Image.new("L", (8, 6), 255).save(tmp_path / "all.png")
    assert read_mask(tmp_path / "all.png").all()
    for number, image in enumerate((Image.new("RGBA", (8, 6)), Image.new("RGB", (8, 6)))):
        image.save(tmp_path / f"{number}.png")
        assert not read_mask(tmp_path / f"{number}.png").any()
