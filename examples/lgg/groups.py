"""Which cases belong together, so that no patient is in two parts of a split.

The names of four data sets tell it. Of all others a table does, ``--groups file.csv``, with the
columns case and group.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from examples.lgg.pixels import DataError

PATIENTS = re.compile(
    r"(BraTS-\w+-\d+)-\d{3}"  # BraTS from 2023 on: patient, visit
    r"|(BraTS1[789]_\w+)_\d+"  # BraTS of 2017 to 2019 likewise
    r"|(TCGA[_-]\w{2}[_-]\w{4})[_-]\d{8}"  # LGG: patient, day of the exam
    r"|(patient\d+)_frame\d+",  # ACDC: patient, phase of the heart
    re.IGNORECASE,
)


def read_table(path: Path, dtype: Any = None) -> pd.DataFrame:
    """Read a table with commas or, as spreadsheets of many countries write it, semicolons."""
    with path.open(encoding="utf-8-sig") as file:
        separator = ";" if ";" in file.readline() else ","
    return pd.read_csv(path, sep=separator, encoding="utf-8-sig", dtype=dtype)


def named_group(case: str) -> str:
    """Return the patient that a case's name tells; where it tells none, the case.

    >>> named_group("BraTS-GLI-00001-001"), named_group("BraTS20_Training_001")
    ('BraTS-GLI-00001', 'BraTS20_Training_001')
    """
    match = PATIENTS.fullmatch(case)
    return next(filter(None, match.groups())) if match else case


def find_groups(cases: Collection[str], table: Path | None) -> dict[str, str]:
    """Return every case's group: by the table if there is one, else by the names."""
    if table is None:
        return {case: named_group(case) for case in cases}
    try:
        known = read_table(table, dtype=str)[["case", "group"]].dropna().drop_duplicates()
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"no table of the columns case and group: {table} ({error})") from error
    if known["case"].duplicated().any():
        twice = known["case"][known["case"].duplicated()].iloc[0]
        raise DataError(f"case {twice} has two groups in {table}")
    groups = dict(zip(known["case"], known["group"], strict=True))
    if missing := [case for case in cases if case not in groups]:
        raise DataError(f"no group of {missing[0]} in {table}, nor of {len(missing) - 1} others")
    return {case: groups[case] for case in cases}


def describe_split(
    parts: Collection[Collection[str]], groups: Mapping[str, str], table: Path | None
) -> str:
    """Say whether a group is in more than one part, and no more than that was looked at."""
    inside = [{groups[case] for case in part} for part in parts]
    every = set().union(*inside)
    torn = sorted(group for group in every if sum(group in part for part in inside) > 1)
    if torn:
        return (
            f"**LEAKY: {len(torn)} of {len(every)} groups are in more than one part**, as "
            f"{torn[0]} is: images of one patient are near copies, and these figures are too good"
        )
    if table is not None:
        return f"none of the {len(every)} groups of {table.name} is in more than one part"
    silent = sum(PATIENTS.fullmatch(case) is None for case in groups)
    return "no patient is in more than one part, as far as the names of the cases tell" + (
        f" ({silent} of {len(groups)} names tell none, and count as one each)" if silent else ""
    )
