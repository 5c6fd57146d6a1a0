"""What a run of the tests looks at and what it leaves out, said in its header."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.support.site import SITE, browser

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# What is tested only where more than torch and the extra `test` is installed: of a folder's needs
# the one that says most.
NEEDS = {
    "src/gliomaseg_layers/functional/outlier_weight_triton.py": "triton",
    "src/gliomaseg_layers/metrics": "torchmetrics",
    "src/gliomaseg_layers/networks/attribute_deeplab.py": "timm",
    "src/gliomaseg_layers/windows": "torchmetrics",
    "tests/benchmarks": "monai",
    "tests/docs": "mkdocs",
    "tests/examples": "monai",
    "tests/metrics": "torchmetrics",
    "tests/networks/test_attribute_deeplab.py": "timm",
    "tests/packaging": "pyright",
    "tests/peers": "monai",
    "tests/test_windows.py": "torchmetrics",
}
LEFT_OUT = {path: f"needs {package}" for path, package in NEEDS.items() if not find_spec(package)}
if not (torch.cuda.is_available() or INTERPRETED):
    LEFT_OUT["tests/kernels"] = "needs a GPU, or TRITON_INTERPRET=1"
collect_ignore = list(LEFT_OUT)

# The same examples in every run; `make fuzz` draws others.
settings.register_profile("suite", derandomize=True, max_examples=60, deadline=None, database=None)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default="cpu", help="where the tests' tensors are: cpu, cuda, or pretend"
    )


def pytest_configure(config: pytest.Config) -> None:
    device = config.getoption("--device")
    if device == "pretend":
        from tests.support.pretend_device import register

        register().__enter__()
    if device != "cpu":  # a default that is set changes how every tensor is made
        torch.set_default_device(device)


def pytest_report_header() -> list[str]:
    folder = os.environ.get("LGG_DATA")
    slices = "a generated stand-in (set LGG_DATA to a kaggle_3m folder for real ones)"
    missing = []
    if not (SITE / "api").exists():
        missing.append("the site (`make docs`)")
    if browser() is None:
        missing.append("a browser (Debian: `apt-get install chromium`)")
    site = f"its tests are SKIPPED without {' and '.join(missing)}" if missing else "site/"
    return [
        f"LGG slices: {slices if folder is None else Path(folder).name + ' from LGG_DATA'}",
        f"documentation site: {site}",
        *(f"LEFT OUT: {path} {reason}" for path, reason in LEFT_OUT.items()),
    ]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(23)
