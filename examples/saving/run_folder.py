"""Keep a folder to one run at a time, and to the plan that it was begun with."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from examples.lgg.data import DataError
from examples.saving.whole_files import read_json

LOCK = ".lock"
RESULTS = "results"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; the system frees the lock when a run is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise DataError(f"another run is at work in {folder}") from error
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # before the release: a run that waits for it then locks a new file
            folder.rmdir()  # fails, as it should, unless the run has left nothing in it
        lock.release()


def check_plan(folder: Path, plan: dict[str, Any], *, resume: bool, kept: str = LOCK) -> None:
    """Refuse a folder that holds results, unless ``resume``, or that another plan was begun in.

    The lock and ``kept`` are no results.
    """
    if {each.name for each in folder.iterdir()} - {LOCK, kept} and not resume:
        raise DataError(f"results exist already: {folder} (--resume goes on; or choose another)")
    path = folder / "run.json"
    if path.exists():
        before = read_json(path)
        for key in plan:
            if before.get(key) != plan[key]:
                raise DataError(f"{folder} was begun with another {key!r}: see {path}")


@contextmanager
def results_folder(target: Path, plan: dict[str, Any], *, resume: bool) -> Iterator[Path]:
    """Give a folder to work in; its ``results`` become ``target`` once all is written."""
    if target.exists():
        raise DataError(f"results exist already: {target} (choose another --name)")
    part = target.with_name(f".part-{target.name}")
    with alone_in(part):
        check_plan(part, plan, resume=resume)
        yield part
        (part / RESULTS).rename(target)
        shutil.rmtree(part, ignore_errors=True)
