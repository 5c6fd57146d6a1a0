"""Files that are there whole or not at all, whenever a run is killed or its disk is full."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from examples.lgg.data import DataError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, beside the target; at the end it takes the target's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{path.name}")
    try:
        yield part
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)
        raise


def write_whole(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"not JSON, or cut off: {path} ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"not a JSON object: {path}")
    return content


def save_whole(path: Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()  # torch's own message about a full disk does not say so
    torch.save(content, buffer)
    with replacing(path) as part:
        part.write_bytes(buffer.getbuffer())


def read_saved(path: Path) -> dict[str, Any]:
    """Read tensors and plain types; refuse a file that holds anything else, and run none of it."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise DataError(f"unreadable checkpoint: {path} ({error.strerror})") from error
    except Exception as error:  # a broken file can raise anything
        # torch's own message would advise to load it unsafely.
        raise DataError(f"not a checkpoint, or one that is cut off: {path}") from error
    if not isinstance(content, dict):
        raise DataError(f"not a checkpoint of these examples: {path}")
    return content
