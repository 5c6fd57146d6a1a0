"""Find a user's own images and their masks, in the layouts that are common.

images/<any>.png  masks/<any>.png      or labels/, or nnU-Net's imagesTr/ and labelsTr/, where
                                       <any>_0000 and <any>_0001 are channels of one image
<any>.png  <any>_mask.png              in one folder; <any>_mask_1.png is united with it
<any>.npz                              with the arrays "image" and "label"

The ending may be png, tif, bmp, jpg, nii, nii.gz or npz. What is in subfolders is found too.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from examples.folder.stacks import (
    Array,
    is_npz,
    read_images,
    read_labels,
    resize_labels,
)
from examples.lgg.pixels import DataError, check_folder

LAYOUTS = (("images", "masks"), ("images", "labels"), ("imagesTr", "labelsTr"))
SPLIT_CHANNELS = ("imagesTr", "imagesTs")
ENDINGS = re.compile(r"\.(png|tiff?|bmp|jpe?g|nii(\.gz)?|npz)$", re.IGNORECASE)
MASK = re.compile(r"_mask(_\d+)?$", re.IGNORECASE)
WRITTEN = re.compile(r"_(mask(_\d+)?|probability|overlay)$", re.IGNORECASE)  # by a prediction too


@dataclass(frozen=True)
class Pair:
    """An image, in one file or a file a channel, and its masks."""

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]

    @property
    def files(self) -> list[Path]:
        return [*self.images, *self.masks]


def stem(path: Path) -> str:
    """Return a file's name without its ending.

    >>> stem(Path("a.b.nii.gz")), stem(Path("a.PNG"))
    ('a.b', 'a')
    """
    return ENDINGS.sub("", path.name) if ENDINGS.search(path.name) else path.stem


def find_pairs(folder: Path, cases: int | None = None) -> list[Pair]:
    """Find the first ``cases`` images (None: all) and their masks, in the order of their names."""
    check_folder(folder)
    for one, two in LAYOUTS:
        if (folder / one).is_dir() and (folder / two).is_dir():
            images, masks = _by_name(folder / one), _by_name(folder / two)
            break
    else:
        files = _files(folder)
        masks = _by_name(folder, [path for path in files if MASK.search(stem(path))])
        images = _by_name(folder, [path for path in files if not WRITTEN.search(stem(path))])
    masks = {name: paths for name, paths in images.items() if is_npz(paths[0])} | masks
    if not images:
        raise DataError(f"no images (png, tif, bmp, jpg, nii, nii.gz, npz) in {folder}")
    for name in sorted(images.keys() ^ masks.keys()):
        lone, other = (images, "mask") if name in images else (masks, "image")
        raise DataError(f"no {other} for {lone[name][0]}")
    _refuse_twins(images)
    return [Pair(name, tuple(images[name]), tuple(masks[name])) for name in sorted(images)[:cases]]


def find_images(source: Path) -> dict[str, list[Path]]:
    """Map names to the images in a folder and below it, without masks and predictions.

    The subfolders' names are part of them where the files' own would come twice.
    """
    if source.is_file():
        return {_name(source): [source]}
    if not source.is_dir():
        raise DataError(f"no such file or folder: {source}")
    for one, two in LAYOUTS:
        if (source / one).is_dir() and (source / two).is_dir():
            source = source / one
    files = [path for path in _files(source) if not WRITTEN.search(stem(path))]
    if not files:
        raise DataError(f"no images (png, tif, bmp, jpg, nii, nii.gz, npz) in {source}")
    homes = {(_name(path), path.parent) for path in files}
    twice = len({name for name, _ in homes}) < len(homes)
    images = _by_name(source, files) if twice else _group(map(_name, files), files)
    _refuse_twins(images)
    return images


def read_pair(pair: Pair, classes: int, side: int) -> tuple[Array, Array]:
    """Return images ``(slices, C, side, side)`` and labels, in the values of their files."""
    labels = read_labels(pair.masks, classes)
    images, shape = read_images(pair.images, (side, side))
    if labels.shape != shape:
        mask, image = (" x ".join(map(str, sides)) for sides in (labels.shape, shape))
        raise DataError(f"mask of another size: {pair.masks[0]} is {mask}, its image {image}")
    return images, resize_labels(labels, (side, side))


def _files(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if ENDINGS.search(path.name) and not path.name.startswith(".")
    ]


def _name(path: Path) -> str:
    """Return what the files of one image have in common."""
    name = MASK.sub("", stem(path))
    return re.sub(r"_\d{4}$", "", name) if path.parent.name in SPLIT_CHANNELS else name


def _by_name(folder: Path, files: list[Path] | None = None) -> dict[str, list[Path]]:
    """Map names, with the subfolders' before them, to files."""
    files = _files(folder) if files is None else files
    folders = [path.relative_to(folder).parent.parts for path in files]
    names = ["_".join([*parts, _name(path)]) for parts, path in zip(folders, files, strict=True)]
    return _group(names, files)


def _group(names: Iterable[str], files: Iterable[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for name, path in zip(names, files, strict=True):
        found[name].append(path)
    return found


def _refuse_twins(images: dict[str, list[Path]]) -> None:
    for name, paths in images.items():
        if len(paths) > 1 and paths[0].parent.name not in SPLIT_CHANNELS:
            raise DataError(f"two images of the name {name}: {paths[0]} and {paths[1]}")
