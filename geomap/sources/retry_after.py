"""Notes what servers answer to GDAL, per thread: the last status, and how long to wait.

GDAL 3.10 retries a refused request but ignores Retry-After, and its errors do not always hold the status: "not
recognized as being in a supported file format" may be a 503. Its debug messages hold the headers of every response;
rasterio passes them to its loggers `rasterio._env` and `rasterio._err` in the requesting thread, while GDAL waits. Here
they are read and kept out of the log. A thread that is told to retry later sleeps before GDAL can send its next
request. GDAL also only warns of parts of a header that it could not read, and takes what came of a transfer that broke
off for all that there is; that is noted too.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from geomap import process
from geomap.sources.hrefs import redacted

HEADER_OPTIONS: Final = {"CPL_CURL_VERBOSE": "YES", "CPL_DEBUG": "CURL_INFO_HEADER_IN,VSICURL,S3"}
"""GDAL reports the headers of responses, and how they ended (cpl_vsil_curl.cpp). Of headers only those of responses:
those of requests would hold tokens (cpl_http.cpp)."""

TEMPORARY: Final = frozenset({408, 425, 429, *range(500, 600)})
"""Statuses worth a retry: the server's own errors, and requests that came too slowly, too early or too often (RFC 9110,
6585, 8470). All others are final."""

_MARK: Final = "CURL_INFO_HEADER_IN: "
_ENDED: Final = re.compile(r" in (?:VSICURL|S3): (?:.*response_code=(?:(206), (?:curl error )?|0, )msg=(.+))?")
"""GDAL's own words on a request; with `msg`, those of curl on an answer that did not come, or not whole."""
_RANGE: Final = re.compile(r"\s*bytes (\d+)-(\d+)/")
_CUT: Final = "IO error during reading"
"""GDAL's warning (libtiff's) that a part of the header is not there; it goes on without that part."""
_here = threading.local()
_hold: dict[str, float] = {}
"""By host, the time (time.monotonic) before which it wants no request."""


@dataclass
class Answers:
    """The answers of one host to one thread."""

    host: str
    deadline: float  # time.monotonic at which waiting ends
    stopped: threading.Event  # set: waiting ends
    status: int = 0  # of the last response; 0: none yet
    since: float = 0.0  # time.monotonic when it began
    cut: str = ""  # what GDAL could not read of the file's header
    broken: str = ""  # how a transfer broke off, of which GDAL uses what came
    silent: str = ""  # why no answer came to the last request
    range: int = 0  # bytes of which the last response says that it holds them
    length: int = 0  # bytes that it brings

    def see(self, header: str) -> None:
        """Note one line of a response; sleep where it says Retry-After."""
        name, _, value = header.partition(":")
        if name.startswith("HTTP/"):
            self.status, self.since, self.silent = int(name.split()[1]), time.monotonic(), ""
            self.range = self.length = 0
        elif name.lower() == "retry-after" and self.status in TEMPORARY:
            _hold[self.host] = max(_hold.get(self.host, 0.0), time.monotonic() + seconds(value.strip()))
            self.wait()
        elif name.lower() == "content-range" and (found := _RANGE.match(value)):
            self.range = int(found[2]) - int(found[1]) + 1
        elif name.lower() == "content-length" and value.strip().isdigit():
            self.length = int(value)
        elif not header.strip() and self.status == 206 and 0 < self.length < self.range:
            self.broken = f"the transfer broke off after {self.length} of {self.range} bytes"

    def end(self, began: bool, why: str) -> None:
        """Note that an answer came in part, or not at all."""
        if began:
            self.broken = f"the transfer broke off: {why}"
        else:
            self.silent = f"the transfer broke off before it began: {why}"

    def wait(self) -> None:
        """Sleep until the host wants requests again, or to the deadline."""
        self.stopped.wait(max(0.0, min(_hold.get(self.host, 0.0), self.deadline) - time.monotonic()))


def seconds(retry_after: str) -> float:
    """Seconds from now that a Retry-After header names: a number or a date (RFC 9110, 10.2.3); 0 if it is neither."""
    if retry_after.isdigit():
        return float(retry_after)
    try:
        when = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


@contextmanager
def watched(href: str, deadline: float, stopped: threading.Event) -> Iterator[Answers]:
    """Wait until the file's host accepts requests, then watch this thread's; GDAL_OPTIONS must be set."""
    answers = Answers(urlsplit(href).netloc, deadline, stopped)
    level = logging.DEBUG if answers.host else logging.WARNING  # a local file has no answers, and messages take time
    if answers.host:
        answers.wait()
    _here.answers = answers
    try:
        with _opening.at(level), _reading.at(level):
            yield answers
    finally:
        _here.answers = None


def _note(record: logging.LogRecord) -> bool:
    """Take headers out of rasterio's log, and secrets out of its addresses."""
    text = record.getMessage()
    _, mark, header = text.partition(_MARK)
    answers = getattr(_here, "answers", None)
    if mark:
        if answers is not None:
            answers.see(header)
        return False
    if ended := _ENDED.search(text):
        if answers is not None and ended[2]:
            answers.end(bool(ended[1]), redacted(ended[2]))
        return False
    if answers is not None and record.levelno >= logging.WARNING and _CUT in text:
        answers.cut = redacted(text)
    record.msg, record.args = redacted(text), None
    return True


_opening: Final = process.Overhearing("rasterio._env", _note)
_reading: Final = process.Overhearing("rasterio._err", _note)
