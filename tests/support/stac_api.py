"""A STAC API on loopback whose search is a function of the test; bodies may have no end, or come byte by byte."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs

COLLECTION = "sentinel-2-l2a"


class Request(NamedTuple):
    """What was asked."""

    method: str
    path: str
    query: dict[str, str]
    body: dict[str, Any]
    number: int  # of the requests for a search, from 0


class Reply(NamedTuple):
    """What is answered; a body of parts is sent without a length until the client has gone."""

    body: Any = None  # JSON, bytes, or parts of bytes
    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


Search = Callable[[Request], Reply]


class StacApi:
    """An API with one collection; a context that ends with the server."""

    def __init__(self, search: Search, links: list[dict[str, Any]] | None = None, tls: ssl.SSLContext | None = None):
        self.search, self.links = search, links
        self.special: dict[str, Search] = {}  # by path: in place of the landing page or the collection
        self.asked: list[Request] = []
        self.sent = 0  # bytes of bodies
        handler = type("Handler", (_Handler,), {"api": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> "StacApi":
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def searches(self) -> list[Request]:
        return [request for request in self.asked if request.path not in ("/", f"/collections/{COLLECTION}")]

    def answer(self, request: Request) -> Reply:
        if request.path in self.special:
            return self.special[request.path](request)
        if request.path == "/":
            return Reply(self._landing())
        if request.path == f"/collections/{COLLECTION}":
            return Reply(_collection(COLLECTION))
        return self.search(request)

    def _landing(self) -> dict[str, Any]:
        search = {"rel": "search", "href": f"{self.url}/search", "type": "application/geo+json"}
        links = [search | {"method": "POST"}] if self.links is None else [search | link for link in self.links]
        parts = ["core", "collections", "ogcapi-features", "item-search"]
        return {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": "scripted",
            "description": "scripted",
            "conformsTo": [f"https://api.stacspec.org/v1.0.0/{part}" for part in parts],
            "links": [{"rel": "self", "href": self.url}, {"rel": "data", "href": f"{self.url}/collections"}, *links],
        }


def collections(*names: str, **more: Any) -> Reply:
    """A page of `/collections`."""
    return Reply({"collections": [_collection(name) for name in names], "links": [], **more})


def page(items: list[Any], following: dict[str, Any] | str | None = None, **fields: Any) -> Reply:
    """A page of items, with a link to the next one."""
    link = {"href": following} if isinstance(following, str) else following
    links = [] if link is None else [{"rel": "next", **link}]
    return Reply({"type": "FeatureCollection", "features": items, "links": links, **fields})


def _collection(name: str) -> dict[str, Any]:
    extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
    about = {"type": "Collection", "stac_version": "1.0.0", "id": name, "description": "", "license": "other"}
    return {**about, "extent": extent, "links": []}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms
    api: StacApi

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pairs = {name: values[0] for name, values in parse_qs(query).items()}
        body = json.loads(sent) if sent else {}
        request = Request(self.command, path, pairs, body, len(self.api.searches))
        self.api.asked.append(request)
        self._say(self.api.answer(request))

    def _say(self, reply: Reply) -> None:
        body = reply.body
        parts: Iterator[bytes] = iter([body if isinstance(body, bytes) else b""])
        endless = not isinstance(body, bytes | dict | list | str | int | None)
        if endless:
            parts = iter(body)
        elif not isinstance(body, bytes):
            parts = iter([json.dumps(body).encode()])
        whole = b"" if endless else next(parts)
        self.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        if not endless and "Content-Length" not in reply.headers:
            self.send_header("Content-Length", str(len(whole)))
        self.end_headers()
        self.close_connection = self.close_connection or endless or "Content-Length" in reply.headers
        try:
            for part in parts if endless else [whole]:
                self.wfile.write(part)
                self.wfile.flush()
                self.api.sent += len(part)
        except OSError:  # the client has gone
            self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass
