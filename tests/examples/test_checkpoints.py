"""Checkpoints that are cut off, foreign, of another version or hostile: refused, and never run."""

import os
import pickle
import random
import re
import resource
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from examples.lgg.data import DataError
from examples.recipes.__main__ import main
from examples.recipes.cached import _open
from examples.recipes.checkpoints import load_checkpoint
from examples.recipes.settings import LATER, read_recipe
from examples.recipes.splits import PARTS
from examples.recipes.systems import Segmenter
from examples.saving.whole_files import read_saved, save_whole


def described(**changes: Any) -> dict[str, Any]:
    settings = read_recipe("mu-net", smoke=True, changes=["widths=[2,2]"]).shared
    recipe = {"settings": settings, "channels": 2, "classes": 1, "columns": [], "pos_weight": None}
    recipe |= {"regions": [[1]], "values": [0, 255]}
    return recipe | {"parts": {name: [["a patient", 1]] for name in PARTS}} | changes


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "best.ckpt"
    system = Segmenter(described())
    save_whole(path, {"recipe": system.described, "state_dict": system.state_dict()})
    assert load_checkpoint(path, "segmenter").parts == {name: {("a patient", 1)} for name in PARTS}
    return path


def refused(path: Path) -> str:
    with pytest.raises(DataError) as raised:
        load_checkpoint(path, "segmenter")
    (line,) = str(raised.value).splitlines()
    assert str(path) in line
    return line


def test_cut_off_anywhere(good: Path, tmp_path: Path) -> None:
    save_whole(tmp_path / "small", {"recipe": {"kind": "segmenter"}, "weights": torch.arange(3)})
    path = tmp_path / "cut.ckpt"
    small, large = (tmp_path / "small").read_bytes(), good.read_bytes()
    lengths = random.Random(0).sample(range(len(large)), 200)
    for whole, some in ((small, range(len(small))), (large, lengths)):
        for length in some:
            path.write_bytes(whole[:length])
            assert "cut off" in refused(path), length


HEADS = [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04\x95", b"ustar", b"\x93NUMPY\x01\x00"]


@given(head=st.sampled_from(HEADS), content=st.binary(max_size=300))
def test_random_bytes(good: Path, head: bytes, content: bytes) -> None:
    path = good.with_name("random")
    path.write_bytes(head + content)
    refused(path)


@given(data=st.data())
def test_changed_bytes(good: Path, data: st.DataObject) -> None:
    """What can still be read is a dictionary, with other numbers at worst."""
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = good.with_name("changed")
    path.write_bytes(content)
    with suppress(DataError):
        assert isinstance(read_saved(path), dict)
        load_checkpoint(path, "segmenter")


def test_a_disk_that_fills_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    old, new = {"epoch": 1}, {"epoch": 2, "weights": torch.rand(3000)}
    save_whole(tmp_path / "whole", new)
    size = (tmp_path / "whole").stat().st_size
    save_whole(path, old)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in [*range(0, size, 199), size - 1]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            with pytest.raises(OSError, match=re.escape(f"File too large: '{path}'")):
                save_whole(path, new)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert read_saved(path) == old
        assert {each.name for each in tmp_path.iterdir()} == {"last.ckpt", "whole"}
    save_whole(path, new)
    assert read_saved(path)["epoch"] == 2


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def write_bomb(form: str, good: Path, path: Path, bomb: Bomb) -> None:
    match form:
        case "pickle":
            path.write_bytes(pickle.dumps(bomb))
        case "legacy":
            torch.save({"recipe": bomb}, path, _use_new_zipfile_serialization=False)
        case "object":
            torch.save(bomb, path)
        case "entry":
            saved = torch.load(good, weights_only=True)
            torch.save(saved | {"recipe": saved["recipe"] | {"columns": bomb}}, path)
        case "swapped":
            with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
                for name in old.namelist():
                    swap = name.endswith("data.pkl")
                    new.writestr(name, pickle.dumps(bomb, 2) if swap else old.read(name))


@pytest.mark.parametrize("form", ["pickle", "legacy", "object", "entry", "swapped"])
def test_pickle_bombs_are_not_run(good: Path, tmp_path: Path, capsys, form: str) -> None:
    path, folder = tmp_path / "bomb.ckpt", tmp_path / "gone off"
    write_bomb(form, good, path, Bomb(folder))
    assert "not a checkpoint" in refused(path)
    for command in (
        ["predict", str(path), str(tmp_path), "--output", str(tmp_path / "out")],
        ["predict", str(good), str(tmp_path), "--gate", str(path), "--output", str(tmp_path / "o")],
        ["evaluate", str(path), "--workers", "0"],
    ):
        assert main([*command, "--accelerator", "cpu"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert str(path) in line
    assert not folder.exists()
    with suppress(Exception):  # it is a live one
        torch.load(path, weights_only=False) if form != "pickle" else pickle.loads(
            path.read_bytes()
        )
    assert folder.exists()


def test_arrays_with_pickles_are_not_run(tmp_path: Path) -> None:
    path, folder = tmp_path / "labels.npy", tmp_path / "gone off"
    np.save(path, np.array([Bomb(folder)], dtype=object))
    with pytest.raises(DataError, match=re.escape(str(path))):
        _open(path)
    assert not folder.exists()


SETTINGS = described()["settings"]


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({"kind": None}, "not a checkpoint of a segmenter but of a None"),
        ({"kind": "presence"}, "not a checkpoint of a segmenter but of a presence"),
        ({"settings": None}, "does not fit"),
        ({"settings": {}}, "does not fit"),
        ({"settings": SETTINGS | {"depth": 3}}, "no setting 'depth'"),
        ({"settings": {k: v for k, v in SETTINGS.items() if k != "alpha"}}, "does not fit"),
        ({"settings": SETTINGS | {"widths": "wide"}}, "'widths' must be list"),
        ({"settings": SETTINGS | {"encoder": "hf-hub:some/one"}}, "'encoder' must be a name of"),
        ({"settings": SETTINGS | {"gate": "local-dir:/"}}, "'gate' must be a name of"),
        ({"classes": "two"}, "does not fit"),
        ({"channels": 3}, "does not fit"),
        ({"parts": {}}, "does not fit"),
        ({"parts": {name: [3] for name in PARTS}}, "does not fit"),
    ],
)
def test_recipes_of_another_form(
    good: Path, tmp_path: Path, recipe: dict[str, Any], expected: str
) -> None:
    saved = torch.load(good, weights_only=True)
    path = tmp_path / "other.ckpt"
    save_whole(path, saved | {"recipe": saved["recipe"] | recipe})
    assert expected in refused(path)


def test_a_checkpoint_of_an_earlier_version_is_read(good: Path, tmp_path: Path) -> None:
    saved = torch.load(good, weights_only=True)
    settings = {key: value for key, value in SETTINGS.items() if key not in LATER}
    path = tmp_path / "older.ckpt"
    save_whole(path, saved | {"recipe": saved["recipe"] | {"settings": settings}})
    defaults = {key: read_recipe("mu-net").shared[key] for key in LATER}
    assert load_checkpoint(path, "segmenter").settings == SETTINGS | defaults


@pytest.mark.parametrize(
    "weights",
    [
        None,
        3,
        [],
        {},
        {"network": 1},
        {3: torch.ones(2)},
    ],
)
def test_weights_of_another_form(good: Path, tmp_path: Path, weights: Any) -> None:
    saved = torch.load(good, weights_only=True)
    path = tmp_path / "other.ckpt"
    save_whole(path, saved | {"state_dict": weights})
    assert "does not fit its recipe" in refused(path)
    name, first = next(iter(saved["state_dict"].items()))
    for change in (first[:1, :1], 3, "x"):
        save_whole(path, saved | {"state_dict": saved["state_dict"] | {name: change}})
        assert "does not fit its recipe" in refused(path)
    for content in ([], "text", torch.ones(3), {}, {"recipe": []}):
        torch.save(content, path)
        assert "not a checkpoint of these" in refused(path)
