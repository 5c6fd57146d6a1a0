"""Sphinx builds the API reference into /api/ of the site; the guides are MkDocs's."""

import importlib
import re
import zlib
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.typing import stringify_annotation

import gliomaseg_layers

project = "gliomaseg_layers"
author = "The gliomaseg_layers authors"
copyright = f"{author}, Apache-2.0. For research only, not a medical device"
version = release = gliomaseg_layers.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.coverage",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # forward() is documented by its class, not by torch's
# What print() shows of a module, and what CompoundLoss asks of its parts.
INTERNAL = ("extra_repr", "of", "settings", "term")
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "exclude-members": ",".join(INTERNAL),
}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Shape"]
napoleon_use_ivar = True
python_maximum_signature_line_length = 88

exclude_patterns = ["_build"]
# A name is documented, and counted by the coverage, where users import it from.
PUBLIC = ["gliomaseg_layers.functional", "gliomaseg_layers.metrics", "gliomaseg_layers"]
for home in PUBLIC:
    module = importlib.import_module(home)
    for name in module.__all__:
        if hasattr(getattr(module, name), "__module__"):
            getattr(module, name).__module__ = home
# With its home moved, autodoc would take a Sequential of ours to be built as torch's are.
torch_containers = ModuleAnalyzer.for_module("torch.nn.modules.container")
torch_containers.analyze()
torch_containers.overloads.clear()

coverage_modules = PUBLIC
coverage_ignore_modules = [r"^(?!(" + "|".join(map(re.escape, PUBLIC)) + r")$)"]
coverage_ignore_pyobjects = [rf"\.({'|'.join(INTERNAL)})$"]
coverage_show_missing_items = True
doctest_global_setup = "\n".join(f"from {home} import *" for home in PUBLIC)
doctest_test_doctest_blocks = "default"

# What we link to in other projects: a list of ours, so that the build needs no network.
OTHERS = {
    "python": (
        "https://docs.python.org/3",
        {
            "library/exceptions.html": "exception RuntimeError TypeError ValueError",
            "library/functions.html": "class bool dict float int list object str tuple",
            "library/collections.abc.html": "class collections.abc.Iterable "
            "collections.abc.Mapping collections.abc.Sequence",
            "library/typing.html": "class typing.Any typing.NamedTuple",
        },
    ),
    "torch": (
        "https://docs.pytorch.org/docs/stable",
        {
            "tensors.html": "class torch.Tensor",
            "generated/torch.nn.Module.html": "class torch.nn.Module "
            "torch.nn.modules.module.Module",
            "tensor_attributes.html": "class torch.dtype torch.device",
        },
    ),
    "numpy": (
        "https://numpy.org/doc/stable",
        {
            "reference/generated/numpy.ndarray.html": "class numpy.ndarray",
            "reference/generated/numpy.dtype.html": "class numpy.dtype",
            "reference/arrays.scalars.html": "class numpy.int32 numpy.int64",
            "reference/typing.html": "class numpy.typing.ArrayLike",
        },
    ),
}
INVENTORIES = Path(__file__).parent / "_build" / "inventories"
INVENTORIES.mkdir(parents=True, exist_ok=True)
intersphinx_mapping = {}
for other, (address, pages) in OTHERS.items():
    lines = [
        f"{name} py:{kind} 1 {page}#$ -\n"
        for page, (kind, *names) in ((page, text.split()) for page, text in pages.items())
        for name in names
    ]
    inventory = INVENTORIES / f"{other}.inv"
    head = f"# Sphinx inventory version 2\n# Project: {other}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    inventory.write_bytes(head.encode() + zlib.compress("".join(lines).encode()))
    intersphinx_mapping[other] = (address, str(inventory))

html_theme = "furo"
html_title = f"gliomaseg_layers {release}"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#3f51b5", "color-brand-content": "#3f51b5"},
    "dark_css_variables": {"color-brand-primary": "#9fa8da", "color-brand-content": "#9fa8da"},
}
html_copy_source = False
html_favicon = "../images/icon.svg"
mathjax_path = "../../generated/mathjax/es5/tex-svg.js"


def name_array_like(
    app: Any,
    what: str,
    name: str,
    obj: object,
    options: Any,
    signature: str | None,
    result: str | None,
) -> tuple[str | None, str | None]:
    """Write ArrayLike where autodoc writes the union that it is."""
    union = stringify_annotation(ArrayLike, "smart")
    return signature and signature.replace(union, "~numpy.typing.ArrayLike"), result


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", name_array_like)
