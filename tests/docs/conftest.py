"""The built site, served, and a browser that complains of whatever a visitor's would."""

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.support.site import SITE, browser


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    handler = functools.partial(QuietHandler, directory=str(SITE))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """Open a page; fail on anything that its console or the network complains of."""
    playwright = pytest.importorskip("playwright.sync_api")
    if browser() is None:
        pytest.skip("no browser: Debian's is `apt install chromium`")
    complaints: list[str] = []
    with playwright.sync_playwright() as tool:
        chromium = tool.chromium.launch(executable_path=browser(), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 1000})
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        # Aborted is what a slow icon is when the test goes on to the next page; missing is 404.
        page.on(
            "requestfailed",
            lambda request: (
                request.failure == "net::ERR_ABORTED"
                or complaints.append(f"{request.failure}: {request.url}")
            ),
        )
        page.on(
            "request",
            lambda request: (
                request.url.startswith((address, "data:", "blob:"))
                or complaints.append(f"from outside: {request.url}")
            ),
        )
        yield page
        chromium.close()
    assert complaints == []
