"""Reads STAC items from an API or a file, as plain dicts; knows no catalogue's conventions.

Items stay the JSON that was served: pystac would migrate them (proj:epsg becomes proj:code, fields move to `bands`).
"""

from __future__ import annotations

import re
import socket
import ssl
import warnings
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import shapely
from pystac.errors import RequiredPropertyMissing, STACError, STACTypeError
from pystac_client import Client
from pystac_client.conformance import ConformanceClasses
from pystac_client.exceptions import APIError
from pystac_client.warnings import PystacClientWarning
from requests import RequestException
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from geomap.catalog.http import CatalogIO, next_link
from geomap.catalog.pages import Item, Query, items
from geomap.errors import CatalogUnavailableError, GeomapError, InputError, NetworkError
from geomap.files import read_json
from geomap.lonlat import sides
from geomap.sources import network
from geomap.sources.hrefs import HrefPolicy, named, redacted, without_secrets
from geomap.sources.retry_after import TEMPORARY
from geomap.types import Period

CONNECT_TIMEOUT: Final = 6.0  # s
READ_TIMEOUT: Final = 20.0  # s without a byte
PATIENCE: float = 15.0  # s of retries after a request's first failure: a dead catalogue is reported within a minute
PAGE_SIZE: Final = 100  # items; some catalogues time out on larger pages
MAX_VERTICES: Final = 500  # of the outline sent; the exact area is checked on this side
MAX_COLLECTIONS: Final = 1_000  # looked at to say which there are
MAX_FILE: Final = 2**30  # bytes of an item file

_GARBAGE: Final = (ValueError, KeyError, TypeError, AttributeError, STACTypeError, RequiredPropertyMissing)
_CAUSES: Final[tuple[tuple[type[OSError], str], ...]] = (
    (socket.gaierror, "name cannot be resolved"),
    (ConnectionRefusedError, "connection refused"),
    (ConnectionError, "connection closed"),
    (TimeoutError, "timed out"),
    (ssl.SSLCertVerificationError, "TLS certificate not accepted"),
    (ssl.SSLError, "TLS handshake failed"),
)


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
    io = CatalogIO(url, policy, (CONNECT_TIMEOUT, READ_TIMEOUT), PATIENCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PystacClientWarning)  # an API without some link or class, which is no fault
            client = _open(address, io)
            present = _present(client, url, collections, required)
            ways = _ways(client, address)
        clouds = max_cloud if max_cloud < 100 and client.conforms_to(ConformanceClasses.QUERY) else None
        for outline in map(_simple, sides(area)):
            yield from items(io, ways, Query(present, outline, period, page_size, clouds))
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
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"the item file {path} is no regular file; give a STAC ItemCollection or Item")
    try:
        content = read_json(path, MAX_FILE)
    except OSError as error:
        raise InputError(f"cannot read the item file {path}: {error.strerror or error}") from None
    except ValueError as error:
        why = f" ({error})" if str(error).startswith("more than") else ""
        raise InputError(f"{path} is not JSON{why}; give a STAC ItemCollection or Item") from None
    kind = content.get("type") if isinstance(content, dict) else type(content).__name__
    if kind == "FeatureCollection" and isinstance(content.get("features"), list):
        _refuse_page(content, path)
        return [item for item in content["features"] if isinstance(item, dict)]
    if kind == "Feature":
        return [content]
    raise InputError(f"{path} holds a {kind}; give a STAC ItemCollection (FeatureCollection) or Item (Feature)")


def _refuse_page(content: dict[str, Any], path: Path) -> None:
    """Raise InputError for one page of a search: a map of it would lack scenes without a word."""
    count, matched = len(content["features"]), content.get("numberMatched")
    more = isinstance(matched, int) and matched > count
    if more or next_link(content):
        raise InputError(
            f"{path} is one page of a search, with {count}{f' of {matched}' if more else ''} items, and more follow: "
            "save all of them (pystac-client: item_collection().save_object), or type the catalogue's address"
        )


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


def _open(address: str, io: CatalogIO) -> Client:
    url = io.name
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
    there: list[str] = []
    with suppress(CatalogUnavailableError, APIError):  # a list that is endless or refused: what came of it is enough
        there += (collection.id for collection in islice(client.get_collections(), MAX_COLLECTIONS))
    there = sorted(set(there))
    shown = ", ".join(there[:40]) + (f" and {len(there) - 40} more" if len(there) > 40 else "")
    raise InputError(f"{url} has no collection {missing}; type --collection with one of: {shown or '(none)'}")


def _ways(client: Client, address: str) -> list[tuple[str, str]]:
    """(method, address) by which the API says that it can be searched, in the order to try them.

    Where it does not name a method, POST comes first: it takes the outline of the area, and GET a box around it.
    """
    told = [(str(link.extra_fields.get("method") or ""), link) for link in client.links if link.rel == "search"]
    default = client._search_href()
    by_method = {method.upper(): urljoin(f"{address}/", link.get_absolute_href() or link.href) for method, link in told}
    methods = ("GET", "POST") if "GET" in by_method and "POST" not in by_method else ("POST", "GET")
    return [(method, by_method.get(method, default)) for method in methods]


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
        proxy = network.of_proxy(network.texts(error), url)
        return CatalogUnavailableError(f"the catalogue {url} does not answer{proxy} ({_cause(error)}); try again later")
    if status == 407 and (setting := network.proxy_of(urlsplit(url).scheme)):
        name, proxy = setting
        return NetworkError(f"the proxy {proxy} wants a user and password: set {name}=http://USER:PASSWORD@HOST:PORT")
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
