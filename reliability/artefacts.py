"""Build the sdist and the wheel twice, and say what is wrong with them."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_SHIPPED = ".ci/"
WRITTEN_BY_THE_BUILD = ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")


def output(*command: str | Path, cwd: Path) -> str:
    """Return what a command prints; raise with its own words where it fails."""
    run = subprocess.run(command, cwd=cwd, stdout=-1, stderr=-2, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{run.stdout}")
    return run.stdout


def tracked(root: Path) -> set[str]:
    """Return the names of the files that git tracks."""
    return set(output("git", "ls-files", "-z", cwd=root).split("\0")) - {""}


def build(source: Path, out: Path) -> list[Path]:
    """Build the sdist, and from it the wheel, with the installed hatchling."""
    output(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=source)
    return sorted(out.glob("*.whl")) + sorted(out.glob("*.tar.gz"))


def copy(root: Path, folder: Path) -> None:
    """Copy what git tracks, as of now and readable by nobody else."""
    for name in tracked(root):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target)
        target.chmod(0o700 if os.access(root / name, os.X_OK) else 0o600)


def faults(root: Path, out: Path) -> Iterator[str]:
    """Build into the empty folder `out`; yield a line for each thing that is wrong."""
    wheel, sdist = build(root, out)
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = Path(folder, "source")
        copy(root, elsewhere)
        for first, second in zip((wheel, sdist), build(elsewhere, Path(folder)), strict=True):
            if first.read_bytes() != second.read_bytes():
                yield f"{first.name} differs from one built in another folder"
    if not wheel.name.endswith("-py3-none-any.whl"):
        yield f"{wheel.name} is not for every machine"

    ours = {name for name in tracked(root) if not name.startswith(NOT_SHIPPED)}
    stem = sdist.name.removesuffix(".tar.gz")
    package = {name.removeprefix("src/") for name in ours if name.startswith("src/")}
    yield from differences(
        wheel.name,
        set(zipfile.ZipFile(wheel).namelist()),
        package | {f"{stem}.dist-info/{name}" for name in WRITTEN_BY_THE_BUILD},
    )
    with tarfile.open(sdist) as archive:
        held = set(archive.getnames())
    yield from differences(sdist.name, held, {f"{stem}/{name}" for name in ours | {"PKG-INFO"}})

    for tool in (("check_wheel_contents", wheel), ("twine", "check", "--strict", wheel, sdist)):
        try:
            output(sys.executable, "-m", *tool, cwd=root)
        except RuntimeError as error:
            yield " ".join(str(error).split())


def differences(name: str, held: set[str], expected: set[str]) -> Iterator[str]:
    """Yield a line for each file that is missing from an artefact, or should not be in it."""
    yield from (f"{name} lacks {file}" for file in sorted(expected - held))
    yield from (
        f"{name} holds {file}, which git does not track" for file in sorted(held - expected)
    )
