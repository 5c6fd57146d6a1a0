"""Refuse what must not be released; build what may be into dist/. Nothing is uploaded.

python -m reliability.release [--check]
"""

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from reliability.artefacts import ROOT, faults, output

# Where a version is written, and the date beside it.
VERSIONS = {
    "src/gliomaseg_layers/__init__.py": r'^__version__ = "(.+)"$',
    "CHANGELOG.md": r"^## \[?([^\]\s]+)",
    "CITATION.cff": r"^version: (.+)$",
    "mkdocs.yml": r"^copyright: gliomaseg_layers ([^,]+),",
}
DATES = {
    "CHANGELOG.md": r"^## \[.+\] - (.+)$",
    "CITATION.cff": r"^date-released: (.+)$",
}


def written(root: Path, places: dict[str, str]) -> dict[str, str]:
    """Return what each file says, at the first place that matches."""
    found = {
        name: re.search(place, (root / name).read_text(), re.M) for name, place in places.items()
    }
    return {name: match[1] if match else "nothing" for name, match in found.items()}


def refusals(root: Path) -> Iterator[str]:
    """Yield a line for each reason not to release what is checked out."""
    versions = written(root, VERSIONS)
    version = versions["src/gliomaseg_layers/__init__.py"]
    for kind, said in (("version", versions), ("date", written(root, DATES))):
        if len(set(said.values())) > 1:
            yield f"the {kind}s differ: " + ", ".join(f"{v} in {name}" for name, v in said.items())
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        yield f"the version must be MAJOR.MINOR.PATCH, got {version}"
    if changed := output("git", "status", "--porcelain", cwd=root).splitlines():
        yield f"not committed: {', '.join(line[3:] for line in changed)}"
    if output("git", "tag", "--list", f"v{version}", cwd=root):
        tagged, head = output(
            "git", "rev-parse", f"v{version}^{{commit}}", "HEAD", cwd=root
        ).split()
        if tagged != head:
            yield f"the tag v{version} is on {tagged[:12]}, HEAD is {head[:12]}"


def release(root: Path, *, check: bool = False) -> list[str]:
    """Return the refusals; where there are none, put the artefacts into dist/."""
    refused = list(refusals(root))
    if check or refused:
        return refused
    with tempfile.TemporaryDirectory() as folder:
        refused = list(faults(root, Path(folder)))
        if not refused:
            shutil.rmtree(root / "dist", ignore_errors=True)
            shutil.copytree(folder, root / "dist")
    return refused


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="refuse, but build nothing")
    refused = release(ROOT, check=parser.parse_args().check)
    for line in refused:
        print(f"not released: {line}", file=sys.stderr)
    sys.exit(bool(refused))
