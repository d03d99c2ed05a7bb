"""Reads STAC items from an API or a file, as plain dicts; knows no catalogue's conventions.

Items stay the JSON that was served: pystac would migrate them (proj:epsg becomes proj:code, fields move to `bands`).
"""

from __future__ import annotations

import json
import logging
import re
import socket
import ssl
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

import shapely
from pystac.errors import RequiredPropertyMissing, STACError, STACTypeError
from pystac_client import Client
from pystac_client.conformance import ConformanceClasses
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from pystac_client.warnings import PystacClientWarning
from requests import PreparedRequest, RequestException, Response, Session
from requests.adapters import HTTPAdapter
from shapely.geometry import MultiPolygon, mapping
from shapely.geometry.base import BaseGeometry
from urllib3 import BaseHTTPResponse, Retry
from urllib3.connectionpool import ConnectionPool
from urllib3.exceptions import MaxRetryError, ResponseError

from geomap.errors import CatalogUnavailableError, GeomapError, HrefError, InputError
from geomap.lonlat import sides
from geomap.sources.hrefs import HrefPolicy, check_url, named, redacted, without_secrets
from geomap.sources.retry_after import TEMPORARY
from geomap.types import Period

log = logging.getLogger(__name__)

CONNECT_TIMEOUT: Final = 6.0  # s
READ_TIMEOUT: Final = 20.0  # s without a byte
PATIENCE: float = 15.0  # s of retries after a request's first failure: a dead catalogue is reported within a minute
PAGE_SIZE: Final = 100  # items; some catalogues time out on larger pages
MAX_ITEMS: Final = 200_000  # more than any catalogue has for an area that geomap takes; stops endless paging
MAX_VERTICES: Final = 500  # of the outline sent; the exact area is checked on this side

Item = dict[str, Any]

_GARBAGE: Final = (ValueError, KeyError, TypeError, AttributeError, STACTypeError, RequiredPropertyMissing)
_CAUSES: Final[tuple[tuple[type[OSError], str], ...]] = (
    (socket.gaierror, "name cannot be resolved"),
    (ConnectionRefusedError, "connection refused"),
    (ConnectionError, "connection closed"),
    (TimeoutError, "timed out"),
    (ssl.SSLCertVerificationError, "TLS certificate not accepted"),
    (ssl.SSLError, "TLS handshake failed"),
)


class _Retry(Retry):
    """Retries for PATIENCE seconds; a longer `Retry-After` ends them at once."""

    deadline: float | None = None

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
        following.deadline = self.deadline or now + PATIENCE
        wait = (response and following.get_retry_after(response)) or following.get_backoff_time()
        if now + wait > following.deadline:
            raise MaxRetryError(_pool, url or "", error or ResponseError("no success in time"))  # type: ignore[arg-type]
        return following


class _Session(Session):
    """Sends a request, and each redirect of it, only where the policy allows."""

    def __init__(self, policy: HrefPolicy) -> None:
        super().__init__()
        self.policy = policy

    def send(self, request: PreparedRequest, **kwargs: Any) -> Response:  # requests calls it for every hop
        check_url(request.url or "", self.policy)
        return super().send(request, **kwargs)


class _CatalogIO(StacApiIO):
    """Requests with retries and timeouts, and only to places that the user's catalogue may name."""

    def __init__(self, policy: HrefPolicy) -> None:
        retry = _Retry(
            total=10,
            backoff_factor=0.5,
            status_forcelist=TEMPORARY,
            allowed_methods=None,  # a search by POST changes nothing: repeating it is safe
            raise_on_status=False,
        )
        super().__init__(timeout=(CONNECT_TIMEOUT, READ_TIMEOUT), max_retries=None)
        self.policy = policy
        self.session = _Session(policy)
        for scheme in ("https://", "http://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=retry))

    def request(self, href: str, *args: Any, **kwargs: Any) -> str:
        check_url(href, self.policy)  # `next` and `search` links come from the server
        try:
            with _untold_retries():
                return super().request(href, *args, **kwargs)
        except APIError as error:
            if isinstance(error.__context__, HrefError):  # of a redirect
                raise error.__context__ from None
            raise


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


def search_items(
    url: str,
    area: BaseGeometry,
    period: Period,
    *,
    collections: Collection[str],
    required: bool,
    max_cloud: float = 100,
    allow_hosts: Collection[str] = (),
    page_size: int = PAGE_SIZE,
) -> Iterator[Item]:
    """Items of a STAC API over `area` in `period`, page by page; an item may come twice.

    Args:
        url: landing page; a trailing `/` or `/search` is cut off.
        area: polygons in EPSG:4326, cut at the antimeridian.
        period: the months asked for.
        collections: ids to search.
        required: whether all of `collections` must exist; if not, those that exist are searched.
        max_cloud: percent; sent only to servers that know the query extension. Filter again on this side.
        allow_hosts: further hosts that the API's links may name.
        page_size: items a page.

    Raises:
        CatalogUnavailableError: no answer, or a server error, after all retries.
        InputError: not a STAC API with item search, or it lacks a collection.
        HrefError: the API's links or redirects lead to a host that may not be contacted.
    """
    address = landing_page(url)
    url = without_secrets(address)  # as messages show it
    policy = HrefPolicy(named=named([address, *allow_hosts]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PystacClientWarning)  # an API without some link or class, which is no fault
            client = _open(address, policy)
            present = _present(client, url, collections, required)
        options: dict[str, Any] = {}
        if max_cloud < 100 and client.conforms_to(ConformanceClasses.QUERY):
            options["query"] = {"eo:cloud_cover": {"lte": max_cloud}}
        count = 0
        for outline in map(_simple, sides(area)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PystacClientWarning)
                found = client.search(
                    method="POST",
                    collections=present,
                    intersects=mapping(outline),
                    datetime=[period.start, period.end],
                    limit=page_size,
                    **options,
                )
            for item in found.items_as_dicts():
                count += 1
                if count > MAX_ITEMS:
                    raise InputError(f"{url} returned over {MAX_ITEMS} items: type a smaller area")
                if isinstance(item, dict):
                    yield item
        log.info("%s: %d items in %s", url, count, ", ".join(present))
    except APIError as error:
        raise _api_error(url, error) from error
    except STACError as error:
        raise _link_error(url, error) from error
    except _GARBAGE as error:  # the landing page was STAC, this page is not
        raise CatalogUnavailableError(f"the catalogue {url} answers garbage ({_short(error)}); try later") from error


def read_items(path: Path) -> list[Item]:
    """The items of a local ItemCollection (GeoJSON FeatureCollection) or of a single Item.

    Raises:
        InputError: no such file, or its content is neither.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the item file {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not JSON; give a STAC ItemCollection or Item") from None
    kind = content.get("type") if isinstance(content, dict) else type(content).__name__
    if kind == "FeatureCollection" and isinstance(content.get("features"), list):
        return [item for item in content["features"] if isinstance(item, dict)]
    if kind == "Feature":
        return [content]
    raise InputError(f"{path} holds a {kind}; give a STAC ItemCollection (FeatureCollection) or Item (Feature)")


def landing_page(url: str) -> str:
    """`url` without a trailing `/` or `/search`; a query stays.

    Raises:
        InputError: no host, or a password in the URL.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0 or "@" in parts.netloc:
        shown = without_secrets(url).rpartition("@")[2]
        raise InputError(f"{shown!r} is not the address of a STAC API: type https://HOST/PATH")
    return parts._replace(path=parts.path.rstrip("/").removesuffix("/search").rstrip("/")).geturl()


def _open(address: str, policy: HrefPolicy) -> Client:
    io, url = _CatalogIO(policy), without_secrets(address)
    try:
        client = Client.open(address, stac_io=io, timeout=io.timeout)
    except (APIError, STACError, GeomapError):
        raise
    except Exception as error:  # pystac raises many types on JSON that is no catalogue
        raise InputError(f"{url} is not a STAC API ({_short(error)}); type the address of its landing page") from error
    if not client.conforms_to(ConformanceClasses.ITEM_SEARCH):
        raise InputError(f"{url} has no item search; save the items you need to a file and type its path")
    return client


def _present(client: Client, url: str, wanted: Collection[str], required: bool) -> list[str]:
    """The collections to search. Raises InputError, with a list of those there are, if one is missing."""
    present = [name for name in wanted if client.get_collection(name) is not None]
    if present and (len(present) == len(wanted) or not required):
        return present
    missing = ", ".join(sorted(set(wanted) - set(present)))
    there = sorted(collection.id for collection in client.get_collections())
    shown = ", ".join(there[:40]) + (f" and {len(there) - 40} more" if len(there) > 40 else "")
    raise InputError(f"{url} has no collection {missing}; type --collection with one of: {shown or '(none)'}")


def _simple(parts: list[BaseGeometry]) -> BaseGeometry:
    """An outline around all parts, of at most MAX_VERTICES if a hull of each part is enough for that."""
    outline = parts[0] if len(parts) == 1 else MultiPolygon(parts)
    if shapely.get_num_coordinates(outline) <= MAX_VERTICES:
        return outline
    hulls = shapely.union_all([part.convex_hull for part in parts])
    return hulls if shapely.get_num_coordinates(hulls) <= MAX_VERTICES else outline.convex_hull


def _api_error(url: str, error: APIError) -> GeomapError:
    """What a failed request means for the user."""
    status = getattr(error, "status_code", None)  # absent where no response came
    if status is None:
        return CatalogUnavailableError(f"the catalogue {url} does not answer ({_cause(error)}); try again later")
    if status in TEMPORARY:
        return CatalogUnavailableError(f"the catalogue {url} answers HTTP {status}; try again later")
    return InputError(f"{url} answers HTTP {status} ({_short(error)}); type the landing page of a STAC API")


def _link_error(url: str, error: STACError) -> GeomapError:
    """Why a link of the API cannot be followed: pystac wraps the cause."""
    match error.__cause__:
        case GeomapError() as cause:
            return cause
        case APIError() as cause:
            return _api_error(url, cause)
    return InputError(f"{url} has a link to what is no STAC object ({_short(error)}); type another catalogue")


def _cause(error: APIError) -> str:
    """Why no response came, in a few words: the first system error beneath those of the HTTP libraries."""
    cause = error.__context__
    while cause is not None:
        if isinstance(cause, OSError) and not isinstance(cause, RequestException):
            return next((words for kind, words in _CAUSES if isinstance(cause, kind)), cause.strerror or str(cause))
        cause = cause.__cause__ or cause.__context__
    name = type(error.__context__ or error).__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()  # such as too many redirects


def _short(error: Exception) -> str:
    """An error's text on one line, without control characters and what may be secret in addresses."""
    text = redacted(" ".join(str(error).split())) or type(error).__name__
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 160 else text[:157] + "..."
