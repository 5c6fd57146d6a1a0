"""The house: arrows point down, names are exact, versions agree, nothing heavy is imported."""

import ast
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gliomaseg_layers

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "gliomaseg_layers"

# What each part may import of the package, besides itself; `__init__` gathers them all.
ALLOWED = {
    "_checks": set(),
    "_capture": set(),
    "_reduction": {"_checks"},
    "functional": {"_checks", "_capture", "_reduction"},
    "losses": {"_checks", "_reduction", "functional"},
    "layers": {"_checks", "_capture", "functional"},
    "networks": {"_checks", "functional", "layers"},
    "metrics": {"_checks", "functional"},
    "windows": {"functional", "metrics"},
}
HEAVY = ("triton", "scipy", "timm", "torchmetrics", "matplotlib", "monai", "lightning")


def imported_parts(source: str) -> set[str]:
    """Return the parts of the package that a module imports, wherever in it."""
    parts = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that this walk sees them"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        own = [name.split(".") for name in names if name.split(".")[0] == "gliomaseg_layers"]
        parts |= {name[1] for name in own if len(name) > 1}
    return parts


def upward_arrows(part: str, source: str) -> set[str]:
    return imported_parts(source) - ALLOWED[part] - {part}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_arrows_point_down(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part != "__init__":
        assert not upward_arrows(part, path.read_text())


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("functional", "from gliomaseg_layers.losses import DiceLoss"),
        ("functional", "def late():\n    import gliomaseg_layers.losses.dice"),
        ("losses", "from gliomaseg_layers import layers"),
        ("layers", "import gliomaseg_layers.networks as n"),
        ("networks", "from gliomaseg_layers.losses import DiceLoss"),
        ("networks", "def late():\n    from gliomaseg_layers import metrics"),
    ],
)
def test_the_walk_sees_upward_arrows(part: str, source: str) -> None:
    assert upward_arrows(part, source)


def modules() -> list[str]:
    """Name the package's modules; those of an extra only where it is installed."""
    found = pkgutil.walk_packages(gliomaseg_layers.__path__, "gliomaseg_layers.", onerror=str)
    names = ["gliomaseg_layers", *(module.name for module in found)]
    if importlib.util.find_spec("torchmetrics") is None:
        names = [name for name in names if name.split(".")[1:2] not in (["metrics"], ["windows"])]
    if importlib.util.find_spec("triton") is None:
        names = [name for name in names if not name.endswith(("_kernels", "_triton"))]
    return names


@pytest.mark.parametrize("name", [name for name in modules() if "._" not in name])
def test_all_is_exact(name: str) -> None:
    """``__all__`` lists what a module defines for others, or what a package gathers: no less."""
    module = importlib.import_module(name)
    names = module.__all__
    if hasattr(module, "__path__"):
        tree = ast.parse(Path(module.__file__).read_text())
        gathered = {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        extra = {"__version__"} if name == "gliomaseg_layers" else set()
        assert set(names) == gathered | extra
    else:
        public = {
            member
            for member, value in vars(module).items()
            if inspect.isroutine(value) or inspect.isclass(value)
            if value.__module__ == name and not member.startswith("_")
        }
        assert set(names) == public


def test_version_is_the_changelogs_newest() -> None:
    headings = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert gliomaseg_layers.__version__ == headings[0]
    assert f"version: {headings[0]}" in (ROOT / "CITATION.cff").read_text()


def test_import_loads_nothing_heavy() -> None:
    """torch itself may load what it likes: only what our import adds counts."""
    program = (
        "import sys, torch; before = set(sys.modules); import gliomaseg_layers; "
        f"added = set(sys.modules) - before; print([n for n in {HEAVY} if n in added])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stdout + run.stderr


def test_no_junk_drawers() -> None:
    stems = {path.stem for path in PACKAGE.rglob("*.py")}
    assert not stems & {"utils", "helpers", "misc", "common"}
