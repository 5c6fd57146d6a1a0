"""Split a source's slices into training, validation and test, by groups or as a file says."""

import argparse
import json
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path, PurePath
from typing import Any

from sklearn.model_selection import GroupKFold, GroupShuffleSplit

from examples.lgg.groups import describe_split, find_groups
from examples.lgg.pixels import DataError
from examples.recipes.settings import Settings
from examples.recipes.sources import Item, Source

PARTS = ("training", "validation", "test")
Parts = tuple[list[Item], list[Item], list[Item]]


def choose_folds(shared: Settings, source: Source, options: argparse.Namespace) -> dict[int, Parts]:
    items = list(source.tumour_part)
    known = find_groups(sorted({item.case for item in items}), options.groups)
    groups = [known[item.case] for item in items]
    if options.split == "slice":
        groups = [f"{item.case} {item.number}" for item in items]
    if options.split_file:
        folds = split_by_file(options.split_file, items, groups, shared["parts"], shared["seed"])
    else:
        folds = split(items, groups, shared["parts"], shared["folds"], shared["seed"])
    if options.fold is not None:
        if options.fold not in folds:
            raise DataError(f"no fold {options.fold}: there are {', '.join(map(str, folds))}")
        return {options.fold: folds[options.fold]}
    return dict(list(folds.items())[: 2 if options.smoke else None])


def say_split(folds: dict[int, Parts], table: Path | None) -> str:
    """Say whether any fold has a group in two of its parts."""
    cases = {item.case for parts in folds.values() for part in parts for item in part}
    groups = find_groups(sorted(cases), table)
    said = [
        describe_split([{item.case for item in part} for part in parts], groups, table)
        for parts in folds.values()
    ]
    return next((text for text in said if "LEAKY" in text), said[0])


def say_folds(folds: dict[int, Parts], options: argparse.Namespace) -> str:
    if options.fold is not None:
        return f"fold {options.fold} alone"
    if options.split_file:
        return f"{len(folds)} folds of {options.split_file.name}"
    return f"{len(folds)} folds, each the test set once" if len(folds) > 1 else "one split"


def split(
    items: Sequence[Item], groups: Sequence[str], parts: Sequence[float], folds: int, seed: int
) -> dict[int, Parts]:
    """Split once or into folds, numbered from 1; items of one group stay together."""
    count, needed = len(set(groups)), max(3, folds)
    if count < needed:
        raise DataError(f"a split needs {needed} patients or groups or more, found {count}")
    if folds > 1:
        splitter: Any = GroupKFold(folds, shuffle=True, random_state=seed)
    else:
        size = min(max(round(parts[2] * count), 1), count - 2)
        splitter = GroupShuffleSplit(1, test_size=size, random_state=seed)
    found = {}
    for number, (rest, test) in enumerate(splitter.split(items, groups=groups), 1):
        training, validation = _hold_out(
            [items[i] for i in rest], [groups[i] for i in rest], parts, seed
        )
        found[number] = training, validation, [items[i] for i in test]
    return found


def _hold_out(
    items: Sequence[Item], groups: Sequence[str], parts: Sequence[float], seed: int
) -> tuple[list[Item], list[Item]]:
    """Take the validation part out of what is not for testing."""
    count = len(set(groups))
    size = min(max(round(parts[1] / (parts[0] + parts[1]) * count), 1), count - 1)
    splitter = GroupShuffleSplit(1, test_size=size, random_state=seed)
    training, validation = next(splitter.split(items, groups=groups))
    return [items[i] for i in training], [items[i] for i in validation]


def split_by_file(
    path: Path, items: Sequence[Item], groups: Sequence[str], parts: Sequence[float], seed: int
) -> dict[int, Parts]:
    """Split by the folds of a file, under its own numbers: what it validates on is the test part.

    The validation part, which chooses the epoch, is taken out of what it trains on.
    """
    cases = {item.case for item in items}
    found: dict[int, Parts] = {}
    for number, (training, test) in read_split_file(path, cases).items():
        rest = [i for i, item in enumerate(items) if item.case in training]
        if len({groups[i] for i in rest}) < 2 or not test:
            raise DataError(
                f"fold {number} of {path} has too few cases of the data: "
                f"{len(training)} to train on and {len(test)} to test on"
            )
        kept = [items[i] for i in rest], [groups[i] for i in rest]
        tested = [item for item in items if item.case in test]
        found[number] = (*_hold_out(*kept, parts, seed), tested)
    return found


def read_split_file(path: Path, cases: Collection[str]) -> dict[int, tuple[set[str], set[str]]]:
    """Read for every fold the cases to train on and the others, in either of two formats.

    nnU-Net's splits_final.json: ``[{"train": ["a", "b"], "val": ["c"]}, ...]``. MONAI's datalist:
    ``{"training": [{"image": "a/a_t1.nii.gz", "label": "a/a_seg.nii.gz", "fold": 0}, ...]}``.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, list):
            named = {
                number: (set(fold["train"]), set(fold["val"]))
                for number, fold in enumerate(content)
            }
        else:
            rows = [(_files(row), int(row["fold"])) for row in content["training"]]
            named = {
                number: (
                    {files for files, fold in rows if fold != number},
                    {files for files, fold in rows if fold == number},
                )
                for number in sorted({fold for _, fold in rows})
            }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"no splits_final.json of nnU-Net, no datalist of MONAI with folds: {path} ({error!r})"
        ) from error
    every = set().union(*(part for fold in named.values() for part in fold))
    known = {name: _case(name, cases) for name in every}
    if strange := sorted(str(name) for name in every if known[name] is None):
        _warn(path, f"{len(strange)} of its cases are not in the data", strange[0])
    if lacking := sorted(set(cases) - set(known.values())):
        _warn(path, f"{len(lacking)} cases of the data are not in it, and left out", lacking[0])
    folds = {}
    for number, fold in named.items():
        training, test = ({case for name in part if (case := known[name])} for part in fold)
        if both := sorted(training & test):
            raise DataError(f"case {both[0]} is on both sides of fold {number} of {path}")
        folds[number] = training, test
    return folds


def _files(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the paths of an entry of MONAI's, the label first."""
    images = row["image"] if isinstance(row["image"], list) else [row["image"]]
    return tuple(str(name) for name in [row.get("label"), *images] if name)


def _case(name: str | tuple[str, ...], cases: Collection[str]) -> str | None:
    """Return the case that a name or the paths of its files are of: their name, or a folder's."""
    for path in (name,) if isinstance(name, str) else name:
        *folders, file = PurePath(path.replace("\\", "/")).parts
        stem = re.sub(r"(\.nii)?\.\w+$", "", file)
        joined = ["_".join([*folders[i:], stem]) for i in range(len(folders))]
        for candidate in (file, stem, re.sub(r"_\d{4}$", "", stem), *joined, *reversed(folders)):
            if candidate in cases:
                return candidate
    return None


def _warn(path: Path, what: str, which: str) -> None:
    warnings.warn(f"{path}: {what}, as {which}", stacklevel=4)
