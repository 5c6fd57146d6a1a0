"""Which data and site the run used, said in its header: nothing is skipped silently."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

SITE = Path(__file__).parents[1] / "site"

# The same examples in every run; `make fuzz` draws others.
settings.register_profile("suite", derandomize=True, max_examples=60, deadline=None, database=None)
settings.load_profile("suite")


def browser() -> str | None:
    """Find a Chromium to look at the site with."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


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
    ]


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    torch.manual_seed(23)
