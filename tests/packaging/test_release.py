"""What is released is whole and the same wherever it is built; the rest is refused."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from reliability.artefacts import ROOT, copy, faults
from reliability.release import refusals, release

PROJECT = {
    "src/gliomaseg_layers/__init__.py": '"""A package."""\n\n__version__ = "1.2.0"\n',
    "src/gliomaseg_layers/py.typed": "",
    "CHANGELOG.md": "# Changelog\n\n## [1.2.0] - 2026-01-31\n\n## [1.1.0] - 2025-12-01\n",
    "CITATION.cff": "cff-version: 1.0.0\nversion: 1.2.0\ndate-released: 2026-01-31\n",
    "mkdocs.yml": "copyright: gliomaseg_layers 1.2.0, Apache-2.0.\n",
    "README.md": "# A project\n",
}


def git(folder: Path, *arguments: str) -> None:
    author = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.org")
    subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> Path:
    git(folder, "init")
    git(folder, "add", "--all")
    git(folder, "commit", "--message", "All")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a small project that can be released, built as this one is."""
    for name in ("pyproject.toml", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return commit(tmp_path)


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_nothing_to_refuse(project: Path) -> None:
    assert not list(refusals(project))
    git(project, "tag", "v1.2.0")
    assert not list(refusals(project))
    git(project, "tag", "--annotate", "--force", "--message", "A release", "v1.2.0")
    assert not list(refusals(project))


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("src/gliomaseg_layers/__init__.py", "1.2.0", "1.3.0", "the versions differ: 1.3.0 in src"),
        ("CHANGELOG.md", "## [1.2.0]", "## [Unreleased]\n\n## [1.2.0]", "Unreleased in CHANGELOG"),
        ("CHANGELOG.md", "2026-01-31", "2026-02-01", "the dates differ: 2026-02-01 in CHANGELOG"),
        ("CITATION.cff", "\nversion: 1.2.0", "\nversion: 1.1.0", "1.1.0 in CITATION.cff"),
        ("CITATION.cff", "date-released: 2026-01-31\n", "", "nothing in CITATION.cff"),
        ("mkdocs.yml", "1.2.0", "1.1.0", "1.1.0 in mkdocs.yml"),
    ],
)
def test_disagreements(project: Path, name: str, old: str, new: str, reason: str) -> None:
    edit(project / name, old, new)
    git(project, "commit", "--all", "--message", "Disagree")
    (refusal,) = refusals(project)
    assert reason in refusal


def test_versions_that_are_not_for_release(project: Path) -> None:
    for name in PROJECT:
        path = project / name
        path.write_text(path.read_text().replace("1.2.0", "1.2.0rc1"))
    git(project, "commit", "--all", "--message", "A candidate")
    assert list(refusals(project)) == ["the version must be MAJOR.MINOR.PATCH, got 1.2.0rc1"]


def test_what_is_not_committed(project: Path) -> None:
    (project / "new.txt").touch()
    edit(project / "README.md", "A", "The")
    assert list(refusals(project)) == ["not committed: README.md, new.txt"]


def test_a_tag_elsewhere(project: Path) -> None:
    git(project, "tag", "v1.2.0")
    git(project, "commit", "--allow-empty", "--message", "More")
    (refusal,) = refusals(project)
    assert refusal.startswith("the tag v1.2.0 is on ")


def test_release(project: Path) -> None:
    stale = project / "dist" / "gliomaseg_layers-1.1.0-py3-none-any.whl"
    stale.parent.mkdir()
    stale.touch()
    assert not release(project, check=True)
    assert stale.exists()
    assert not release(project)
    assert {path.name for path in stale.parent.iterdir()} == {
        "gliomaseg_layers-1.2.0-py3-none-any.whl",
        "gliomaseg_layers-1.2.0.tar.gz",
    }


def test_faults(project: Path) -> None:
    """Every check of the artefacts sees what it is for, and then nothing is left in dist/."""
    edit(project / "pyproject.toml", 'core-metadata-version = "2.4"', 'core-metadata-version="2.5"')
    edit(
        project / "pyproject.toml",
        'packages = ["src/gliomaseg_layers"]',
        'packages = ["src/gliomaseg_layers"]\nexclude = ["py.typed"]\nreproducible = false',
    )
    git(project, "commit", "--all", "--message", "Break the build")
    (project / "src" / "gliomaseg_layers" / "stray.txt").touch()
    os.utime(project / "README.md", (1e9, 1e9))
    os.utime(project / "src" / "gliomaseg_layers" / "__init__.py", (1e9, 1e9))
    found = "\n".join(faults(project, project / "dist"))
    wheel, sdist = "gliomaseg_layers-1.2.0-py3-none-any.whl", "gliomaseg_layers-1.2.0.tar.gz"
    assert f"{wheel} differs from one built in another folder" in found
    assert f"{wheel} lacks gliomaseg_layers/py.typed" in found
    assert f"{wheel} holds gliomaseg_layers/stray.txt, which git does not track" in found
    assert f"{sdist} holds gliomaseg_layers-1.2.0/src/gliomaseg_layers/stray.txt" in found
    assert "'2.5' is not a valid metadata version" in found
    assert release(project)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="names are compared with git's")
def test_the_library_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    copy(ROOT, tmp_path / "source")
    assert not list(faults(commit(tmp_path / "source"), tmp_path / "dist"))
    (wheel,) = (tmp_path / "dist").glob("*-py3-none-any.whl")
    assert {info.date_time for info in zipfile.ZipFile(wheel).infolist()} == {
        (2023, 11, 14, 22, 13, 20)
    }
