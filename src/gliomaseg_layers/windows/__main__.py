"""Say how large the true regions and holes of your masks are, and which window suits the loss."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

MOST_LINES = 10  # about single files


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 where a file could not be read, or none."""
    options = _parse(arguments)
    try:
        return _run(options)
    except ModuleNotFoundError as error:
        hint = "pip install 'gliomaseg_layers[metrics]'"
        return _fail(f"this needs {error.name}, which is not installed: {hint}")


def _run(options: argparse.Namespace) -> int:
    from gliomaseg_layers.windows import _masks, _measure, _report, _values

    try:
        paths = _masks.find_masks(options.folder, options.pattern)
        masks, said, bad = _masks.read_masks(
            _progress(paths, "reading"), options.label, options.slices, options.resize
        )
    except _values.CallError as error:
        return _fail(str(error))
    for line in said[:MOST_LINES]:
        _fail(line)
    if len(said) > MOST_LINES:
        _fail(f"... and {len(said) - MOST_LINES} files more")
    if not masks:
        return _fail(f"no mask could be read in {options.folder}")
    full = [mask for mask in masks if mask.crop.size]
    if not full:
        return _fail(f"no foreground in any of the {len(masks)} masks")
    sizes = _measure.measure(_progress(full, "measuring"))
    tried = _measure.settings_to_try(masks)
    default = _measure.default_setting(masks)
    settings = list(dict.fromkeys([*tried, default]))
    flags = _measure.flag_all(_progress(full, "flagging"), settings)
    default_flags = flags[settings.index(default)]
    print(_report.describe(masks, sizes), end="\n\n")
    print(_report.show_flags(flags, sizes), end="\n\n")
    print(_report.advise(flags[: len(tried)], default_flags, sizes, options.part))
    if options.figure:
        chosen = _report.suggest(flags[: len(tried)], sizes, options.part)
        drawn = {"the default": default}
        if chosen not in (None, default):
            drawn = {"suggested": chosen} | drawn
        try:
            _report.draw(options.figure, sizes, masks[0].crop.ndim, drawn)
        except (OSError, ValueError) as error:
            return _fail(f"could not write {options.figure} ({error})")
    return 1 if bad else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m gliomaseg_layers.windows", description=__doc__)
    parser.add_argument(
        "folder",
        type=Path,
        help="masks, in this folder and below: png, tif, bmp, jpg, npy, npz, nii, nii.gz. If some "
        "have mask, seg, label or gt in their path, only these are read",
    )
    parser.add_argument(
        "--pattern", metavar="GLOB", help="read what is named so instead, such as '*_seg.nii.gz'"
    )
    parser.add_argument(
        "--label",
        nargs="+",
        metavar="L",
        help="which labels are foreground, or 'any' (default: the larger of two values)",
    )
    parser.add_argument(
        "--slices",
        type=int,
        choices=(0, 1, 2),
        metavar="AXIS",
        help="look at the slices of volumes along this axis, 0 to 2 (default: at volumes)",
    )
    parser.add_argument(
        "--resize",
        type=int,
        nargs="+",
        metavar="N",
        help="look at masks of this size, one number or one for each axis (nearest neighbour)",
    )
    parser.add_argument(
        "--part",
        type=float,
        default=0.05,
        help="of the truth that may count as noise (default: 0.05)",
    )
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the sizes too")
    options = parser.parse_args(arguments)
    if options.label == ["any"]:
        options.label = []
    elif options.label:
        if not all(label.isdecimal() for label in options.label):
            parser.error(f"--label must be whole numbers, or any, got {' '.join(options.label)}")
        options.label = [int(label) for label in options.label]
    if options.resize and min(options.resize) < 1:
        parser.error(f"--resize must be 1 or more, got {min(options.resize)}")
    if not 0 <= options.part < 1:
        parser.error(f"--part must be at least 0 and below 1, got {options.part:g}")
    if options.figure and not options.figure.resolve().parent.is_dir():
        parser.error(f"--figure must be in a folder that is there, got {options.figure}")
    return options


def _progress(items: Sequence[Any], word: str) -> Any:
    from tqdm import tqdm

    return tqdm(items, word, leave=False, delay=1)


def _fail(message: str) -> int:
    print(f"windows: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    torch.set_num_threads(1)  # masks are small: sharing one among threads takes longer
    sys.exit(main())
