"""Nobody is on both sides of a split, and the report states no more than what was looked at."""

import re
from pathlib import Path

import numpy as np
import pytest

from examples.lgg.data import DataError, Slice, split_by_patient
from examples.lgg.groups import describe_split, find_groups, named_group


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001", True),
        ("BraTS-MET-00001-000", "BraTS-GLI-00001-000", False),
        ("BraTS20_Training_001", "BraTS20_Training_002", False),
        ("BraTS2021_00001", "BraTS2021_00002", False),
        ("Brats18_2013_10_1", "Brats18_2013_10_2", True),
        ("TCGA_HT_A61B_19960101", "TCGA_HT_A61B_19970101", True),
        ("patient003_frame01", "patient003_frame12", True),
        ("scan_1", "scan_2", False),
    ],
)
def test_names_tell_patients(one: str, two: str, same: bool) -> None:
    assert (named_group(one) == named_group(two)) == same


def slices(names: list[str]) -> list[Slice]:
    return [Slice(name, 1, Path(name), Path(name), (8, 8), 1) for name in names]


def test_two_exams_of_a_patient_stay_together() -> None:
    found = slices([f"TCGA_CS_494{n}_19{year}0909" for n in range(4) for year in (96, 97)])
    for seed in range(10):
        sides = split_by_patient(found, 0.5, seed)
        one, two = ({piece.patient[:12] for piece in side} for side in sides)
        assert not one & two


def test_a_table_has_the_last_word(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_text("case;group;age\na;x;1\nb;x;2\nc;y;3\nz;z;4\n")
    assert find_groups(["a", "b", "c"], path) == {"a": "x", "b": "x", "c": "y"}
    for text, expected in (
        ("case,group\na,x\n", f"no group of b in {path}"),
        ("case,group\na,x\na,y\nb,x\n", f"case a has two groups in {path}"),
        ("case,patient\na,x\n", f"no table of the columns case and group: {path}"),
        ("", f"no table of the columns case and group: {path}"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=re.escape(expected)):
            find_groups(["a", "b"], path)


def test_only_what_was_looked_at_is_said(tmp_path: Path) -> None:
    visits = ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000"]
    groups = find_groups(visits, None)
    assert describe_split([visits[:1], visits[1:]], groups, None).startswith(
        "**LEAKY: 1 of 2 groups are in more than one part**, as BraTS-GLI-00001 is"
    )
    apart = describe_split([visits[:2], visits[2:]], groups, None)
    assert apart == "no patient is in more than one part, as far as the names of the cases tell"
    silent = describe_split(["a", "b"], {"a": "a", "b": "b"}, None)
    assert silent == f"{apart} (2 of 2 names tell none, and count as one each)"
    table = describe_split(["a", "b"], {"a": "x", "b": "y"}, tmp_path / "own.csv")
    assert table == "none of the 2 groups of own.csv is in more than one part"
    assert np.all(["LEAKY" not in text for text in (apart, table)])
