"""A real HTTP server on loopback whose answers can be scripted: refusals, cuts, tokens, pauses."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote


@dataclass(frozen=True)
class Answer:
    """What a server says in place of a file."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None  # None: the file
    sent: float = 1.0  # share of the body that is sent, whatever its length is said to be
    head: float = 1.0  # share of the length that HEAD states


class Server:
    """The files of a folder over HTTP; tells each request what `script` holds for its path, then what `always` does."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.script: dict[str, list[Answer]] = {}  # by the path's end; used up in order
        self.always: dict[str, Answer] = {}
        self.sign: Callable[[str], str] | None = None  # path of a request to a signing service -> the token it gives
        self.token: str | None = None  # the only query that gets files
        self.seen: list[tuple[float, str]] = []  # time.monotonic and path of every request
        self.open = self.most_open = 0  # connections, idle ones included
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"server_": self, "folder": folder})
        self.http = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.http.daemon_threads = True
        self.base = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, path: str, query: str) -> Answer:
        for end, planned in self.script.items():
            if path.endswith(end) and planned:
                return planned.pop(0)
        if self.token is not None and query != self.token:
            return Answer(403, body=b"")
        return next((a for end, a in self.always.items() if path.endswith(end)), Answer())

    def times(self, end: str) -> list[float]:
        """When requests came for paths with this end."""
        return [when for when, path in self.seen if path.partition("?")[0].endswith(end)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_: Server
    folder: Path

    def setup(self) -> None:
        super().setup()
        with self.server_.lock:
            self.server_.open += 1
            self.server_.most_open = max(self.server_.open, self.server_.most_open)

    def finish(self) -> None:
        super().finish()
        with self.server_.lock:
            self.server_.open -= 1

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.server_.seen.append((time.monotonic(), self.path))
        if path.startswith(("/sign", "/token")) and self.server_.sign:
            return self._signed(path, unquote(query.removeprefix("href=")), self.server_.sign(path))
        answer = self.server_.answer(path, query)
        file = self.folder / path.lstrip("/")
        body = answer.body
        if body is None:
            body = file.read_bytes() if answer.status == 200 and file.is_file() else b""
        status = 404 if answer.status == 200 and not file.is_file() else answer.status
        headers = dict(answer.headers)
        if status == 200 and answer.body is None and (asked := self.headers.get("Range")):
            first, last = (int(v) for v in asked.removeprefix("bytes=").split("-"))
            last = min(last, len(body) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            body, status = body[first : last + 1], 206
        self.send_response(status)
        length = int(len(body) * (answer.head if self.command == "HEAD" else 1))
        for name, value in (headers | {"Content-Length": str(length)}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.close_connection = answer.sent < 1
            self.wfile.write(body[: int(len(body) * answer.sent)])

    def _signed(self, path: str, href: str, token: str) -> None:
        known = {"href": f"{href}?{token}"} if path.startswith("/sign") else {"token": token}
        body = json.dumps(known | {"msft:expiry": "2999-01-01T00:00:00Z"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass
