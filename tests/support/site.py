"""The built documentation, and a browser to look at it with."""

import shutil
from pathlib import Path

SITE = Path(__file__).parents[2] / "site"


def browser() -> str | None:
    """Find a Chromium to look at the site with."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)
