"""A real HTTP server on loopback whose answers can be scripted: refusals, cuts, tokens, pauses, redirects."""

import json
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote


@dataclass(frozen=True)
class Answer:
    """What a server says in place of a file."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None  # None: the file, where the status is 200
    sent: float = 1.0  # share of the body that is sent, whatever its length is said to be
    part: float = 1.0  # share of a range that it brings, with a length to match
    told: bool = False  # whether Content-Range names that share alone
    head: float = 1.0  # share of the length that HEAD states
    none: bool = False  # the connection is closed without a word
    wait: float = 0.0  # seconds before it
    rate: int | None = None  # bytes a second; None: as fast as it goes


class Seen(NamedTuple):
    """A request that came."""

    when: float  # time.monotonic()
    method: str
    path: str  # with the query


class Server:
    """The files of a folder over HTTP, whole or in ranges; a context that ends with the server.

    Each request gets the first that there is: the next of `replies`, the next that `script` holds for its path, what
    `always` holds for its path, the file, 404.
    """

    def __init__(
        self,
        folder: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.folder = folder
        self.replies: list[Answer] = []  # to all requests in turn, the last one for ever
        self.script: dict[str, list[Answer]] = {}  # by the path's end; used up in order
        self.always: dict[str, Answer] = {}  # by the path's end
        self.sign: Callable[[str], str] | None = None  # path of a request to a signing service -> the token it gives
        self.token: str | None = None  # the only query that gets files
        self.seen: list[Seen] = []
        self.posted: list[bytes] = []  # bodies of requests by POST
        self.sent = 0  # bytes of bodies
        self.open = self.most_open = 0  # connections, idle ones included
        self.in_hand = self.most_in_hand = 0  # requests
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"server_": self})
        self._http = ThreadingHTTPServer((host, port), handler)
        self._http.daemon_threads = True
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.base = f"http{'s' if tls else ''}://{host}:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """From here on, connections are refused."""
        self._http.shutdown()
        self._http.server_close()

    @property
    def port(self) -> int:
        return self._http.server_port

    def answer(self, path: str, query: str) -> Answer:
        with self.lock:
            if self.replies:
                return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            for end, planned in self.script.items():
                if path.endswith(end) and planned:
                    return planned.pop(0)
        if self.token is not None and query != self.token:
            return Answer(403, body=b"")
        return next((a for end, a in self.always.items() if path.endswith(end)), Answer())

    def log(self) -> list[str]:
        """Method and path of all requests."""
        return [f"{seen.method} {seen.path}" for seen in self.seen]

    def paths(self) -> list[str]:
        """Of all requests, with their queries."""
        return [seen.path for seen in self.seen]

    def times(self, end: str) -> list[float]:
        """When requests came for paths with this end."""
        return [seen.when for seen in self.seen if seen.path.partition("?")[0].endswith(end)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_: Server

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

    def do_POST(self) -> None:
        self.server_.posted.append(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        self.do_GET()

    def do_GET(self) -> None:
        server = self.server_
        with server.lock:
            server.seen.append(Seen(time.monotonic(), self.command, self.path))
            server.in_hand += 1
            server.most_in_hand = max(server.in_hand, server.most_in_hand)
        try:
            path, _, query = self.path.partition("?")
            if path.startswith(("/sign", "/token")) and server.sign:
                answer = _signed(path, unquote(query.removeprefix("href=")), server.sign(path))
            else:
                answer = server.answer(path, query)
            time.sleep(answer.wait)
        finally:
            with server.lock:
                server.in_hand -= 1
        if answer.none:
            self.close_connection = True
        else:
            self._say(answer, path)

    def _say(self, answer: Answer, path: str) -> None:
        file = self.server_.folder / path.lstrip("/") if self.server_.folder else None
        body, status, headers = answer.body, answer.status, dict(answer.headers)
        if body is None:
            body = b""
            if status == 200 and file and file.is_file():
                body, status = self._part(file.read_bytes(), headers, answer)
            elif status == 200:
                status = 404
        self.send_response(status)
        length = int(len(body) * (answer.head if self.command == "HEAD" else 1))
        for name, value in (headers | {"Content-Length": str(length)}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.close_connection = answer.sent < 1
            self._send(body[: int(len(body) * answer.sent)], answer.rate)
            self.server_.sent += len(body)

    def _send(self, body: bytes, rate: int | None) -> None:
        """Send at once, or ten times a second a tenth of what a second may bring."""
        if rate is None:
            self.wfile.write(body)
            return
        with suppress(OSError):  # the client may give up
            for start in range(0, len(body), max(1, rate // 10)):
                self.wfile.write(body[start : start + max(1, rate // 10)])
                time.sleep(0.1)

    def _part(self, content: bytes, headers: dict[str, str], answer: Answer) -> tuple[bytes, int]:
        """The range that was asked for and its status."""
        asked = self.headers.get("Range")
        if not asked:
            return content, 200
        first, last = (int(v) for v in asked.removeprefix("bytes=").split("-"))
        if first >= len(content):
            return b"", 416
        last = min(last, len(content) - 1)
        end = first + int((last + 1 - first) * answer.part)
        headers["Content-Range"] = f"bytes {first}-{end - 1 if answer.told else last}/{len(content)}"
        return content[first:end], 206

    def log_message(self, *args: Any) -> None:
        pass


def _signed(path: str, href: str, token: str) -> Answer:
    known = {"href": f"{href}?{token}"} if path.startswith("/sign") else {"token": token}
    return Answer(body=json.dumps(known | {"msft:expiry": "2999-01-01T00:00:00Z"}).encode())
