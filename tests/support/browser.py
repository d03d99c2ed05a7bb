"""A page in a real browser: headless Chromium or Firefox by Playwright, with what it asked for and complained of."""

import base64
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from geomap.errors import install_hint

CHROMIUM, FIREFOX = "chromium", "firefox"
PROGRAMS = {
    CHROMIUM: ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    FIREFOX: ("firefox-esr", "firefox"),
}
"""Packages of Debian and Ubuntu, by what Playwright calls the browser."""
PLAYWRIGHTS = base64.b64encode(hashlib.sha256(b"body {}").digest()).decode()
"""In a complaint of Firefox, the style that Playwright adds for a screenshot, and that the page forbids."""


@dataclass
class Seen:
    """A page in the browser."""

    page: Any
    requests: list[str] = field(default_factory=list)  # but for the page itself
    complaints: list[str] = field(default_factory=list)  # of the console, and uncaught errors
    dialogs: list[str] = field(default_factory=list)


@contextmanager
def started(name: str = CHROMIUM) -> Iterator[Any]:
    """The browser; skips where there is none, or one that Playwright does not suit: 1.58 does not suit Firefox 140."""
    playwright = pytest.importorskip("playwright.sync_api", reason=f"no Playwright; type: {install_hint('playwright')}")
    program = next(filter(None, map(shutil.which, PROGRAMS[name])), None)
    if program is None:
        pytest.skip(f"no {name} is installed: apt-get install --no-install-recommends {PROGRAMS[name][0]}")
    with playwright.sync_playwright() as p:
        if name == CHROMIUM:
            browser = p.chromium.launch(executable_path=program, args=["--no-sandbox"])  # root has no sandbox
        else:  # the channel speaks WebDriver BiDi, as every Firefox does; Playwright's own builds have another protocol
            try:
                browser = p.firefox.launch(channel="moz-firefox", executable_path=program, timeout=120_000)
            except playwright.Error as e:
                if "unknown command" not in str(e):
                    raise
                pytest.skip(f"Playwright asks {program} for a command that it lacks: {str(e).splitlines()[0]}")
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
    assert [text for text in seen.complaints if PLAYWRIGHTS not in text] == []
    assert seen.dialogs == []
