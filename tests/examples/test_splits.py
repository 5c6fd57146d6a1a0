"""Folds of nnU-Net's and MONAI's files, and two visits of a patient, on one side of each split."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest

from examples.lgg.data import DataError
from examples.recipes.settings import read_recipe
from examples.recipes.sources import Item
from examples.recipes.splits import choose_folds, read_split_file, say_split

CASES = [f"BraTS-GLI-{patient:05d}-{visit:03d}" for patient in range(4) for visit in range(2)]


class Visits:
    """Four patients with two visits each."""

    tumour_part = {Item(case, 0): 0.5 for case in CASES}  # noqa: RUF012


def folds_of(**options: Any) -> Any:
    given = {"split": "patient", "groups": None, "split_file": None, "fold": None, "smoke": False}
    shared = read_recipe("mu-net", changes=options.pop("changes", [])).shared
    return choose_folds(shared, Visits(), argparse.Namespace(**given | options))


@pytest.mark.parametrize("changes", [["seed=1"], ["seed=2"], ["folds=4"]])
def test_two_visits_of_a_patient_stay_together(changes: list[str]) -> None:
    folds = folds_of(changes=changes)
    for parts in folds.values():
        sides = [{item.case[:15] for item in part} for part in parts]
        assert sum(map(len, sides)) == len(set.union(*sides)) == 4
    assert say_split(folds, None).startswith("no patient is in more than one part, as far as")
    assert "LEAKY" in say_split(folds_of(split="slice"), None)
    assert list(folds_of(changes=["folds=4"], fold=3)) == [3]
    with pytest.raises(DataError, match="no fold 5: there are 1, 2, 3, 4"):
        folds_of(changes=["folds=4"], fold=5)


def test_a_table_of_groups_is_followed_and_named(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("case,group\n" + "".join(f"{case},{case[-3:]}\n" for case in CASES[:6]))
    with pytest.raises(DataError, match=f"no group of {CASES[6]} in {re.escape(str(path))}"):
        folds_of(groups=path)
    groups = {case: f"{int(case[10:15]) // 2} {case[-3:]}" for case in CASES}
    path.write_text("case,group\n" + "".join(f"{case},{group}\n" for case, group in groups.items()))
    folds = folds_of(groups=path)
    sides = [{groups[item.case] for item in part} for part in folds[1]]
    assert sum(map(len, sides)) == 4
    assert say_split(folds, path) == "none of the 4 groups of own.csv is in more than one part"


def write_nnunet(path: Path, folds: list[list[str]]) -> None:
    every = [case for fold in folds for case in fold]
    rows = [{"train": [c for c in every if c not in fold], "val": fold} for fold in folds]
    path.write_text(json.dumps(rows))


def write_monai(path: Path, folds: list[list[str]]) -> None:
    rows = [
        {
            "fold": number,
            "image": [f"TrainingData/{case}/{case}-{kind}.nii.gz" for kind in ("t2f", "t1c")],
            "label": f"TrainingData/{case}/{case}-seg.nii.gz",
        }
        for number, fold in enumerate(folds)
        for case in fold
    ]
    path.write_text(json.dumps({"training": rows, "testing": [{"image": "x.nii.gz"}]}))


@pytest.mark.parametrize("write", [write_nnunet, write_monai])
def test_the_folds_of_a_file_are_its_own(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "folds.json"
    write(path, [CASES[:4], CASES[4:]])
    folds = folds_of(split_file=path)
    assert list(folds) == [0, 1]
    for number, test in enumerate((CASES[:4], CASES[4:])):
        sides = [{item.case for item in part} for part in folds[number]]
        assert sides[2] == set(test)
        assert sorted(set.union(*sides)) == CASES
        assert len({case[:15] for case in sides[0]} & {case[:15] for case in sides[1]}) == 0
    assert "LEAKY" not in say_split(folds, None)
    # A file that tears patients apart is followed, and the report says so.
    write(path, [CASES[::2], CASES[1::2]])
    assert say_split(folds_of(split_file=path, fold=1), None).startswith("**LEAKY: 4 of 4 groups")


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("a", "a"),
        (("masks/a.png",), "a"),
        (("labelsTr/a.nii.gz",), "a"),
        (("imagesTr/a_0000.nii.gz",), "a"),
        (("TCGA_1/TCGA_1_7_mask.tif",), "TCGA_1"),
        (("all/b/c.png",), "b_c"),
    ],
)
def test_names_of_a_file_are_those_of_cases(tmp_path: Path, name: Any, case: str) -> None:
    cases = ["a", "TCGA_1", "b_c", "z"]
    rows = [{"image": (["?"] if isinstance(name, str) else name)[0], "fold": 0}]
    content: Any = {"training": [*rows, {"image": "z.png", "fold": 1}]}
    if isinstance(name, str):
        content = [{"train": ["z"], "val": [name]}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=r"a\.json: 2 cases of the data are not in it"):
        folds = read_split_file(tmp_path / "a.json", cases)
    assert folds[0] == ({"z"}, {case})


def test_split_files_that_do_not_serve_are_named(tmp_path: Path) -> None:
    path = tmp_path / "folds.json"
    for content in ("", "{}", "[3]", '{"training": [{"image": "a"}]}', '[{"train": []}]'):
        path.write_text(content)
        with pytest.raises(DataError, match=re.escape(f"with folds: {path}")):
            read_split_file(path, CASES)
    write_nnunet(path, [["x"], CASES])
    with pytest.warns(UserWarning, match="1 of its cases are not in the data, as x"):
        assert read_split_file(path, CASES)[0] == (set(CASES), set())
    write_nnunet(path, [[], CASES])
    with pytest.raises(DataError, match=f"fold 0 of {re.escape(str(path))} has too few cases"):
        folds_of(split_file=path)
    path.write_text(json.dumps([{"train": CASES, "val": CASES[:1]}]))
    with pytest.raises(DataError, match=f"case {CASES[0]} is on both sides of fold 0"):
        read_split_file(path, CASES)
