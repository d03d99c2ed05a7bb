"""Tells of the end of a job's run, as its job file says: JSON by POST, or to a command.

Nothing here fails a run: what cannot be told is one line in the log. Addresses may be secret (a path can hold a token),
so the log names their keys and at most their hosts; what a command prints is not kept.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

import requests

from geomap import __version__
from geomap.errors import GeomapError, TemporaryError
from geomap.jobs.file import JobNotice, MapJob, notice_address
from geomap.sources import network
from geomap.sources.hrefs import redacted

if TYPE_CHECKING:
    from geomap.run.map import Result

Event = Literal["failure", "success"]

log = logging.getLogger(__name__)

POST_SECONDS: float = 20.0
"""Most seconds for a POST, from its name's resolution to the head of the answer."""
COMMAND_SECONDS: float = 300.0
"""Most seconds for a command; then it is killed, with all that it started in its session."""
_WAITS: Final = (5.0, 10.0)
"""Most seconds to connect, and without a byte of the answer."""


@contextmanager
def telling(job: MapJob) -> Iterator[list[Result]]:
    """Tell of the end of what is done inside, where the results of the job's maps are to be collected.

    A run in which every map was complete already is not told of, nor are temporary failures unless the job says so.
    """
    done: list[Result] = []
    try:
        yield done
    except GeomapError as e:
        if job.keys.notify.temporary or not isinstance(e, TemporaryError):
            tell(job, "failure", e.exit_code, str(e), done)
        raise
    except Exception as e:
        tell(job, "failure", 1, f"unexpected error: {type(e).__name__}", done)
        raise
    if any(result.seconds for result in done):
        tell(job, "success", 0, "complete", done)


def tell(job: MapJob, event: Event, exit_code: int, message: str, done: Sequence[Result]) -> None:
    """Tell of an event those whom the job file names. `done`: the maps that the run finished, or found finished."""
    asked: JobNotice = getattr(job.keys.notify, event)
    said = redacted(" ".join(message.split()))
    content = {
        "text": f"geomap, {job.keys.name}: {said}",
        "geomap": __version__,
        "job": job.keys.name,
        "event": event,
        "exit_code": exit_code,
        "message": said,
        "maps": [str(result.directory) for result in done if result.seconds],
    }
    body = json.dumps(content, ensure_ascii=True).encode()
    where = f"{job.path}: notify.{event}"
    if asked.url is not None:
        _log(f"{where}.url", _posted(asked.url, body), f" ({urlsplit(asked.url).hostname})")
    if asked.url_from is not None:
        url = os.environ.get(asked.url_from)
        why = f"the environment has no {asked.url_from}" if not url else _posted(url, body)
        _log(f"{where}.url_from", why)
    if asked.command:
        _log(f"{where}.command", _ran(asked.command, body, str(job.path.parent)))


def _log(where: str, why: str, detail: str = "") -> None:
    if why:
        log.warning("nobody was told by %s%s: %s", where, detail, why)
    else:
        log.info("told by %s", where)


def _posted(url: str, body: bytes) -> str:
    """Send JSON to an address; no redirect is followed. Returns why that failed, without the address, or nothing."""
    said: list[str] = []

    def send() -> None:
        said.append(_answer(url, body))

    thread = threading.Thread(target=send, name="notice", daemon=True)  # a slow answer cannot hold the process
    thread.start()
    thread.join(POST_SECONDS)
    return said[0] if said else f"no answer in {POST_SECONDS:g} s"


def _answer(url: str, body: bytes) -> str:
    """Why an address did not take JSON; nothing if it did."""
    try:
        notice_address(url)
    except ValueError:
        return "not an http or https address without a user"
    try:
        found = network.authorities() if url.startswith("https:") else None
        with requests.Session() as session:
            session.auth = lambda request: request  # nor credentials from ~/.netrc
            response = session.post(
                url,
                data=body,
                headers={"Content-Type": "application/json", "User-Agent": f"geomap/{__version__}"},
                timeout=_WAITS,
                allow_redirects=False,
                stream=True,  # the body of the answer is not read
                verify=found[1] if found else True,
            )
            response.close()
    except requests.Timeout:
        return "no answer in time"
    except (requests.RequestException, GeomapError, ValueError) as e:  # their texts may hold the address
        return f"not reached ({type(e).__name__})"
    return "" if 200 <= response.status_code < 300 else f"it answered {response.status_code}"


def _ran(command: Sequence[str], body: bytes, folder: str) -> str:
    """Run a command in a folder, with JSON as its input. Returns why that failed, or nothing."""
    try:
        child = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as e:
        return f"{command[0]} cannot be started ({getattr(e, 'strerror', None) or type(e).__name__})"
    try:
        child.communicate(body, COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return f"{command[0]} took over {COMMAND_SECONDS:g} s and was killed"
    return "" if child.returncode == 0 else f"{command[0]} ended with exit code {child.returncode}"
