"""The log of a run, with times: `tiles/run.log` in its directory, beside the state and no part of the result.

It holds what geomap decided, warnings of libraries, and why a run stopped; every run and resume adds to it. Addresses
lose what may be secret. What workers of a cluster log stays with them.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from geomap import __version__, files
from geomap.sources.hrefs import redacted

FILE: Final = "run.log"
FORM: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
TIME: Final = "%Y-%m-%dT%H:%M:%S%z"
MOST: Final = 5_000_000
"""Bytes from which on a log begins anew."""

log = logging.getLogger(__name__)


class Redacted(logging.Formatter):
    """A formatter that removes from every address what may be secret."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


class Early(logging.Handler):
    """Keeps what is logged before a run has a directory: the search comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.records: deque[logging.LogRecord] = deque(maxlen=1000)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


EARLY: Final = Early()
"""Installed by the command line; without it, a run logs at the levels that its Python program has set."""


class _Quiet(logging.FileHandler):
    """A log file that fails no run: what a full disk does not take is not logged."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing."""


@contextmanager
def kept(directory: Path) -> Iterator[None]:
    """Add to the log of the run in a directory what is logged inside, and the error that ends it."""
    handler = _opened(directory / files.STATE / FILE)
    if handler is None:
        yield
        return
    root, own = logging.getLogger(), logging.getLogger("geomap")
    before = own.level
    for record in EARLY.records:
        handler.handle(record)
    root.addHandler(handler)
    if EARLY in root.handlers:
        own.setLevel(logging.INFO)
    try:
        log.info("geomap %s", __version__)
        yield
    except BaseException as e:
        text = f"stopped: {type(e).__name__}: {e}"
        handler.handle(log.makeRecord(log.name, logging.ERROR, "", 0, text, (), None))
        raise
    finally:
        own.setLevel(before)
        root.removeHandler(handler)
        handler.close()
        EARLY.records.clear()


def _opened(path: Path) -> logging.Handler | None:
    """The log file, empty if it has grown large; None if it cannot be written."""
    try:
        mode = "w" if path.is_file() and path.stat().st_size > MOST else "a"
        handler = _Quiet(path, mode, encoding="utf-8", errors="backslashreplace")
    except OSError:
        return None
    handler.setFormatter(Redacted(FORM, TIME))
    return handler
