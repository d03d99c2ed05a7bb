"""A page in a real browser: headless Chromium through Playwright, with what it asked for and complained of."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from geomap.errors import install_hint

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass
class Seen:
    """A page in the browser."""

    page: Any
    requests: list[str] = field(default_factory=list)  # but for the page itself
    complaints: list[str] = field(default_factory=list)  # of the console, and uncaught errors
    dialogs: list[str] = field(default_factory=list)


@contextmanager
def started() -> Iterator[Any]:
    """The browser; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason=f"no Playwright; type: {install_hint('playwright')}")
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        pytest.skip("no Chromium is installed: apt-get install --no-install-recommends chromium")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=program, args=["--no-sandbox"])  # root has no sandbox
        yield browser
        browser.close()


@contextmanager
def shown(browser: Any, path: Path, width: int = 1280, height: int = 900, locale: str = "en-GB") -> Iterator[Seen]:
    """A page from file://, ready: its maps are drawn."""
    context = browser.new_context(viewport={"width": width, "height": height}, locale=locale, accept_downloads=True)
    seen = Seen(context.new_page())
    address = path.resolve().as_uri()
    seen.page.on("request", lambda r: seen.requests.append(r.url) if r.url != address else None)
    seen.page.on("console", lambda m: seen.complaints.append(m.text) if m.type in ("error", "warning") else None)
    seen.page.on("pageerror", lambda e: seen.complaints.append(str(e)))
    seen.page.on("dialog", lambda d: (seen.dialogs.append(d.message), d.dismiss()))
    seen.page.goto(address)
    seen.page.wait_for_selector("html[data-ready]", timeout=20_000)
    try:
        yield seen
    finally:
        context.close()
    assert seen.requests == []
    assert seen.complaints == []
    assert seen.dialogs == []
