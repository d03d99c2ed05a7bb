"""Requests to a catalogue: addresses checked, retries, and answers of bounded size and time."""

from __future__ import annotations

import io
import json
import logging
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from types import TracebackType
from typing import Any, Final
from urllib.parse import urljoin

from pystac import Link
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from requests import PreparedRequest, Request, RequestException, Response, Session
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Retry
from urllib3.connectionpool import ConnectionPool
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError, ResponseError

from geomap.errors import CatalogUnavailableError, GeomapError
from geomap.files import MAX_DEPTH, parse_json
from geomap.sources import network
from geomap.sources.hrefs import HrefPolicy, check_url, without_secrets
from geomap.sources.retry_after import TEMPORARY

ANSWER_BYTES: Final = 32 * 2**20
"""Most bytes of one answer, unpacked: a hundred items of the wordiest catalogue have 7 MB."""

ANSWER_LISTS: Final = 2_000_000
"""Most lists and objects in one answer: each takes 56 bytes and more, however short its text is."""

ANSWER_SECONDS: float = 120.0
"""Most seconds for one answer, retries included, however steadily it comes."""

SEARCH_BYTES: Final = 16 * 2**30
SEARCH_REQUESTS: Final = 10_000
SEARCH_SECONDS: float = 1800.0
"""The most that all answers of a search may have, be and take."""

LISTING_PAGES: Final = 50
"""Most pages of a list of collections that are looked at."""

REDIRECTS: Final = 10

LATER: Final = "try again later, or save the items that you need to a file and type its path"
"""What to do about a catalogue that answers, but not as it should."""

_SAID: Final = 1000
"""Characters kept of an answer that refuses."""


def next_link(page: Any) -> dict[str, Any] | None:
    """The link of a page to the next one. Relations are compared without regard to case (RFC 8288, section 2.1.1)."""
    links = page.get("links")
    found = (link for link in links if isinstance(link, dict)) if isinstance(links, list) else ()
    return next((link for link in found if str(link.get("rel")).lower() == "next"), None)


class LargeAnswerError(CatalogUnavailableError):
    """An answer has more bytes, lists or levels than any page of items: fewer items a page may help."""


class CatalogIO(StacApiIO):
    """Requests with retries and timeouts, and only to places that the user's catalogue may name."""

    def __init__(self, name: str, policy: HrefPolicy, timeout: tuple[float, float], patience: float) -> None:
        """`name` is the catalogue as messages show it; `timeout` (s) is for connecting and for a read without a byte.

        After a request's first failure it is retried for `patience` seconds.
        """
        super().__init__(timeout=timeout, max_retries=None)
        self.name, self.policy = name, policy
        self.session = _Session(policy)
        self.session.max_redirects = REDIRECTS
        self._bytes = self._requests = 0
        self._start = time.monotonic()
        for scheme in ("https://", "http://"):
            self.session.mount(scheme, _Adapter(name, patience))

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """The text of an answer.

        Raises:
            APIError: no answer, or one that refuses; it then has a `status_code`.
            CatalogUnavailableError: an answer, or all of a search, is larger or slower than a catalogue's ever is.
            HrefError, NetworkError: the address is refused; a certificate or a proxy lets nothing through.
        """
        check_url(href, self.policy)  # `next` and `search` links come from the server
        self._count()
        with _untold_retries():
            response = self._send(href, (method or "GET").upper(), headers, parameters)
        content = response.content
        self._bytes += len(content)
        if not 200 <= response.status_code < 300:
            refused = APIError(content[: 4 * _SAID].decode("utf-8", "replace")[:_SAID])
            refused.status_code = response.status_code
            raise refused
        if content.count(b"[") + content.count(b"{") > ANSWER_LISTS:
            raise LargeAnswerError(f"the catalogue {self.name} sends an answer of over {ANSWER_LISTS:,} lists; {LATER}")
        return content.decode("utf-8")

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        """Never a local file, whatever a link says."""
        if isinstance(source, Link):
            return super().read_text(source, *args, **kwargs)
        return self.request(str(source), *args, **kwargs)

    def get_pages(
        self, url: str, method: str | None = None, parameters: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The pages of a list of collections, each once, and at most LISTING_PAGES."""
        asked = set[str]()
        while url not in asked and len(asked) < LISTING_PAGES:
            asked.add(url)
            page = self.read_json(url)
            yield page
            url = urljoin(url, str((next_link(page) or {}).get("href", url)))

    def read_json(self, source: Any, *args: Any, **kwargs: Any) -> Any:
        """Raises as `request` and `json_loads`; ValueError names the address and what it sent instead."""
        try:
            return super().read_json(source, *args, **kwargs)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            address = source.get_absolute_href() if isinstance(source, Link) else source
            raise ValueError(f"{_instead(error)}: {without_secrets(str(address))}") from None

    def json_loads(self, txt: str, *args: Any, **kwargs: Any) -> Any:
        """Raises LargeAnswerError if it nests too deep, ValueError if it is no JSON."""
        try:
            return parse_json(txt)
        except ValueError as error:
            if "levels" not in str(error):
                raise
        raise LargeAnswerError(f"the catalogue {self.name} sends JSON of over {MAX_DEPTH} levels; {LATER}")

    def _send(self, href: str, method: str, headers: Any, parameters: Any) -> Response:
        body = {"json": parameters} if method in ("POST", "PUT", "PATCH") else {"params": parameters or {}}
        try:
            found = network.authorities() if href.startswith("https:") else None
            request = self.session.prepare_request(Request(method, href, headers, **body))
            settings = self.session.merge_environment_settings(
                request.url or href, {}, True, found[1] if found else True, None
            )
            return self.session.send(request, timeout=self.timeout, **settings)
        except GeomapError:
            raise
        except (RequestException, HTTPError, OSError, ValueError) as error:
            if lasting := network.lasting(network.texts(error), href):
                raise lasting from error
            raise APIError(str(error)) from error

    def _count(self) -> None:
        """Raises CatalogUnavailableError if a search does not end."""
        self._requests += 1
        for spent, most, unit in (
            (self._requests, SEARCH_REQUESTS, "requests"),
            (self._bytes, SEARCH_BYTES, "bytes"),
            (time.monotonic() - self._start, SEARCH_SECONDS, "seconds"),
        ):
            if spent > most:
                raise CatalogUnavailableError(
                    f"the search of {self.name} does not end within {most:,.0f} {unit}: type a smaller area or fewer "
                    "months, or try another catalogue"
                )


class _Session(Session):
    """Sends a request, and each redirect of it, only where the policy allows."""

    def __init__(self, policy: HrefPolicy) -> None:
        super().__init__()
        self.policy = policy

    def send(self, request: PreparedRequest, **kwargs: Any) -> Response:  # requests calls it for every hop
        check_url(request.url or "", self.policy)
        return super().send(request, **kwargs)


class _Adapter(HTTPAdapter):
    """Reads each answer, those of redirects included, whole and within the limits of bytes and seconds."""

    def __init__(self, name: str, patience: float) -> None:
        self.name, self.expired = name, False
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()  # connections and their sockets
        retry = _Retry(
            total=10,
            backoff_factor=0.5,
            status_forcelist=TEMPORARY - {501},  # 501: the method is not there, and a retry brings none
            allowed_methods=None,  # a search by POST changes nothing: repeating it is safe
            raise_on_status=False,
        )
        retry.patience, retry.adapter = patience, weakref.ref(self)
        super().__init__(max_retries=retry)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            self._watch(manager)
        return manager

    def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        kwargs["stream"] = True
        with self._clock():
            try:
                for last in (False, True):
                    response = super().send(request, *args, **kwargs)
                    try:
                        body = self._body(response)
                        break
                    except HTTPError:  # cut on the way
                        if last or self.expired:
                            raise
            except (RequestException, HTTPError, OSError) as error:
                if self.expired:
                    raise self._slow() from error
                raise
        if self.expired:  # the end that came was ours
            raise self._slow()
        response.raw = io.BytesIO(body)
        return response

    def _body(self, response: Response) -> bytes:
        parts, size = [], 0
        with closing(response.raw):
            for part in response.raw.stream(2**16, decode_content=True):
                parts.append(part)
                size += len(part)
                if size > ANSWER_BYTES:
                    raise LargeAnswerError(
                        f"the catalogue {self.name} sends an answer of over {ANSWER_BYTES >> 20} MB; {LATER}"
                    )
        return b"".join(parts)

    def _slow(self) -> CatalogUnavailableError:
        return CatalogUnavailableError(
            f"the catalogue {self.name} does not finish an answer in {ANSWER_SECONDS:g} s; {LATER}"
        )

    @contextmanager
    def _clock(self) -> Iterator[None]:
        """Cut all connections when the time is over: a timeout of a socket begins anew with each byte."""
        self.expired = False
        timer = threading.Timer(ANSWER_SECONDS, self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _cut(self) -> None:
        self.expired = True
        for one in list(self._open):
            found = one if isinstance(one, socket.socket) else one.sock
            if isinstance(found, socket.socket):
                with suppress(OSError):
                    socket.socket.shutdown(found, socket.SHUT_RDWR)  # not that of TLS, which would end its reads badly

    def _watch(self, manager: PoolManager) -> None:
        """Let the connections of a pool be known to `_cut`."""
        seen = self._open

        def watched(pool: type[ConnectionPool]) -> Any:
            class Connection(pool.ConnectionCls):  # type: ignore[misc, name-defined]
                def connect(self) -> None:
                    seen.add(self)  # until its socket is there
                    super().connect()
                    if self.sock is not None:
                        seen.add(self.sock)  # stays open for an answer after which the server closes

            return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

        manager.pool_classes_by_scheme = {"http": watched(HTTPConnectionPool), "https": watched(HTTPSConnectionPool)}


class _Retry(Retry):
    """Retries for `patience` seconds; a longer `Retry-After` ends them at once, and so does what stays as it is."""

    patience: float
    adapter: weakref.ref[_Adapter]
    deadline: float | None = None

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        """Seconds that the server asks for; None for a header that is neither a number nor a date."""
        try:
            return super().get_retry_after(response)
        except InvalidHeader:
            return None

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> _Retry:
        following = super().increment(method, url, response, error, _pool, _stacktrace)
        now = time.monotonic()
        following.patience, following.adapter = self.patience, self.adapter
        following.deadline = self.deadline or now + self.patience
        wait = (response and following.get_retry_after(response)) or following.get_backoff_time()
        adapter = self.adapter()
        stays = error is not None and network.lasting(network.texts(error), _address(_pool)) is not None
        hopeless = stays or (adapter is not None and adapter.expired)
        if hopeless or now + wait > following.deadline:
            raise MaxRetryError(_pool, url or "", error or ResponseError("no success in time"))  # type: ignore[arg-type]
        return following


def _instead(error: json.JSONDecodeError | UnicodeDecodeError) -> str:
    """What an answer is that is no JSON, in plain words."""
    if isinstance(error, UnicodeDecodeError):
        return "no text in UTF-8"
    start = error.doc.lstrip()[:20]
    if start.startswith("<"):
        return "a web page, perhaps of a login or a proxy, and no JSON"
    if start.startswith(("{", "[")):
        return f"JSON that is broken at character {error.pos:,} of {len(error.doc):,}"
    return f"no JSON but {start!r}" if start else "nothing, and no JSON"


def _address(pool: ConnectionPool | None) -> str:
    return f"{getattr(pool, 'scheme', None) or 'https'}://{getattr(pool, 'host', None) or ''}"


@contextmanager
def _untold_retries() -> Iterator[None]:
    """Keep urllib3's warning about each retry out of the log: the outcome is reported once, at the end."""
    talker = logging.getLogger("urllib3.connectionpool")

    def untold(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Retrying (")

    talker.addFilter(untold)
    try:
        yield
    finally:
        talker.removeFilter(untold)
