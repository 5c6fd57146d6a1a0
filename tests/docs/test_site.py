"""The built site: links and anchors, alternative texts, nothing from outside, one version."""

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import gliomaseg_layers
from tests.support.site import SITE

ROOT = SITE.parent
needs_site = pytest.mark.skipif(not (SITE / "api").exists(), reason="no site: run `make docs`")
PAGES = [path for path in sorted(SITE.rglob("*.html")) if path.name != "404.html"]
every_page = pytest.mark.parametrize(
    "path", PAGES, ids=[str(path.relative_to(SITE)) for path in PAGES]
)


class Page(HTMLParser):
    """What a page links to, loads, shows and can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.unspoken: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("img", "script", "source", "iframe") and "src" in found:
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(found["href"])
        if tag == "img" and not found.get("alt"):
            self.unspoken.append(found.get("src", ""))


@cache
def page_at(path: Path) -> Page:
    return Page(path.read_text())


def target_of(path: Path, link: str) -> Path:
    place = unquote(urlsplit(link).path)
    target = (path.parent / place).resolve() if place else path
    return target / "index.html" if target.is_dir() else target


@needs_site
@every_page
def test_links_and_anchors_lead_somewhere(path: Path) -> None:
    page = page_at(path)
    broken = []
    for link in page.links + page.loads:
        if urlsplit(link).scheme in ("http", "https", "mailto", "data"):
            continue
        target, anchor = target_of(path, link), unquote(urlsplit(link).fragment)
        known = target.exists() and target.is_relative_to(SITE)
        if not known or (anchor and link in page.links and anchor not in page_at(target).anchors):
            broken.append(link)
    assert broken == []


@needs_site
@every_page
def test_nothing_is_loaded_from_outside_and_pictures_have_words(path: Path) -> None:
    page = page_at(path)
    assert [load for load in page.loads if urlsplit(load).netloc] == []
    assert page.unspoken == []


@needs_site
def test_no_page_complains_or_scrolls_sideways_on_a_phone(page: Any, address: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    wide = []
    for path in PAGES:
        page.goto(f"{address}/{path.relative_to(SITE)}", wait_until="networkidle")
        if page.evaluate("document.documentElement.scrollWidth") > 360:
            wide.append(str(path.relative_to(SITE)))
    assert wide == []


@needs_site
def test_the_inventory_names_what_users_import() -> None:
    text = (SITE / "api" / "objects.inv").read_bytes()
    assert b"# Sphinx inventory version 2" in text
    pages = [page_at(SITE / "api" / f"{part}.html") for part in ("losses", "layers", "networks")]
    anchors = set().union(*(page.anchors for page in pages))
    for name in gliomaseg_layers.__all__:
        if name[0].isupper():
            assert f"gliomaseg_layers.{name}" in anchors


def test_the_guides_state_the_version_and_the_citation_is_the_cff_files() -> None:
    version = gliomaseg_layers.__version__
    cff = dict(re.findall(r"^([a-z-]+): (.+)$", (ROOT / "CITATION.cff").read_text(), re.M))
    author = re.search(r"^authors:\n  - name: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    page = (ROOT / "docs" / "index.md").read_text()
    fields = dict(re.findall(r"^  (\w+) = \{+(.+?)\}+,?$", page, re.M))
    assert author is not None
    assert fields == {
        "title": cff["title"],
        "author": author[1],
        "version": cff["version"],
        "date": cff["date-released"],
        "license": cff["license"],
    }
    assert f"documentation of version {version}" in page
    assert f"gliomaseg_layers {version}" in (ROOT / "mkdocs.yml").read_text()
