"""A real Chromium for tests of pages: headless, offline, without a profile.

``conftest.py`` offers both fixtures to all tests. Without Playwright's Python package or a Chromium on the path,
tests that ask for them are skipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
)

OpenPage = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start Chromium once a module.

    Not once a session: Playwright's event loop runs as long as the browser does, and ``asyncio.run`` in another
    module's tests would stumble over it.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on the path (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[OpenPage]:
    """Return a factory: ``open_page(url, width=1440, dark=False)`` gives Playwright's page, loaded.

    At the end of the test none of its pages may have had an error on its console or an exception in a script.
    """
    opened: list[Any] = []
    errors: list[str] = []

    def make(url: str, width: int = 1440, height: int = 900, dark: bool = False) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        opened.append(context)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        return page

    yield make
    for context in opened:
        context.close()
    assert errors == []


def overflow(page: Any) -> int:
    """Return by how many pixels a page is wider than its window (0: nobody has to scroll sideways)."""
    width: int = page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth")
    return max(0, width)
