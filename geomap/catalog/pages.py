"""The pages of a search: asked in the way that the server knows, and checked for progress and completeness."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urljoin

from pystac_client.exceptions import APIError
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from geomap.catalog.http import LATER, CatalogIO, LargeAnswerError, next_link
from geomap.errors import CatalogUnavailableError, InputError
from geomap.sources.hrefs import without_secrets
from geomap.types import Period

log = logging.getLogger(__name__)

MAX_ITEMS: Final = 200_000
"""Most items of a search: more than any catalogue has for an area that geomap takes."""

MAX_PAGES: Final = 5_000
"""Most pages of a search."""

IDLE_PAGES: Final = 3
"""Pages in a row without a new item after which a search does not go on."""

EMPTY_PAGES: Final = 50
"""The same, if the last one is empty and it is not known that all items came: servers that filter after they cut their
pages send empty ones in between."""

TRIES: Final = 2
"""Searches until a number of items that is too small is believed."""

PAUSE: float = 2.0
"""Seconds between them."""

ESTIMATED_FROM: Final = 100_000
"""Numbers of items from which servers estimate them (pgstac, `context_estimated_count`)."""

TOO_MANY: Final = 1_000
"""Items beyond twice the server's own number after which a search is endless."""

SMALLER: Final = (50, 20, 10, 5, 1)
"""Items a page that are tried where a server refuses more and does not say how many it takes."""

Item = dict[str, Any]

_NO_SUCH_METHOD: Final = frozenset({400, 403, 404, 405, 406, 411, 413, 414, 415, 422, 501})
"""Statuses with which servers refuse a search by POST, or by GET, that they do not know."""
_TOO_LARGE: Final = frozenset({400, 413, 422})
_LIMIT: Final = re.compile(
    r"limit|page.?size|max_?records|too (?:large|many|big)|less than or equal|exceed", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Query:
    """What a search asks for."""

    collections: Sequence[str]
    outline: BaseGeometry  # EPSG:4326, on one side of the antimeridian
    period: Period
    page_size: int
    max_cloud: float | None = None  # percent; sent by POST alone

    def parameters(self, method: str, limit: int) -> dict[str, Any]:
        """As a method sends them. GET sends a box: an outline may be longer than an address can be."""
        dates = "/".join(f"{day:%Y-%m-%dT%H:%M:%SZ}" for day in (self.period.start, self.period.end))
        if method == "GET":
            box = ",".join(f"{v:.9g}" for v in self.outline.bounds)
            return {"collections": ",".join(self.collections), "bbox": box, "datetime": dates, "limit": limit}
        body = {"collections": [*self.collections], "intersects": mapping(self.outline), "datetime": dates}
        cloud = {} if self.max_cloud is None else {"query": {"eo:cloud_cover": {"lte": self.max_cloud}}}
        return {**body, "limit": limit, **cloud}


def items(io: CatalogIO, ways: Sequence[tuple[str, str]], query: Query) -> Iterator[Item]:
    """The items of a search; one may come twice.

    Args:
        io: sends the requests.
        ways: (method, address) by which the server may be searched, in order; the first that works is kept.
        query: what to ask.

    Raises:
        CatalogUnavailableError: pages that repeat, do not end, or hold fewer items than the server counts.
        APIError: the server refuses every way.
        InputError: more than MAX_ITEMS.
    """
    tally = _Tally(io.name)
    for attempt in range(TRIES):
        if attempt:
            log.info("%s: %d items of %d; the search is repeated", io.name, tally.came, tally.expected)
            time.sleep(PAUSE)
        tally.begin()
        for page in _pages(io, ways, query, tally):
            for item in _features(page):
                if tally.is_new(item) or not attempt:
                    yield item
        if not tally.missing:
            return
    said = f"the catalogue {io.name} counts {tally.came + tally.missing:,} items and gives {tally.came:,}"
    if tally.came + tally.missing < ESTIMATED_FROM:
        raise CatalogUnavailableError(f"{said}: months may be missing; {LATER}")
    log.warning("%s: such large numbers are estimates, but if this one is right, scenes are missing", said)


@dataclass(slots=True)
class _Tally:
    """What came of a search, and what the server says that there is."""

    name: str
    expected: int = 0  # the server's number of items, 0 if it gives none
    seen: set[int] = field(default_factory=set)  # hashes of collections and ids, of all attempts
    nameless: int = 0  # items without an id
    short: int = 0  # items that pages counted and did not hold
    pages: int = 0
    idle: int = 0  # pages in a row without a new item
    _fresh: int = 0  # new items of this page
    _pass: set[int] = field(default_factory=set)

    def begin(self) -> None:
        """Begin an attempt."""
        self.expected = self.nameless = self.short = self.pages = self.idle = self._fresh = 0
        self._pass.clear()

    @property
    def came(self) -> int:
        return len(self.seen) + self.nameless

    @property
    def missing(self) -> int:
        """Items that the server counts and did not give."""
        return max(self.expected - self.came, self.short, 0)

    @property
    def complete(self) -> bool:
        """Whether the server says how many items there are, and they came."""
        return self.expected > 0 and not self.missing

    def page(self, page: Any, address: str) -> None:
        """Note a page before its items. Raises CatalogUnavailableError, InputError if the pages do not end."""
        if not isinstance(page, dict) or not isinstance(page.get("features"), list):
            raise self.garbage(address, "has no list of items")
        if not isinstance(page.get("links") or [], list):
            raise self.garbage(address, "has links that are no list")
        self.pages += 1
        self.expected = max(self.expected, _matched(page))
        held = sum(1 for _ in _features(page))
        self.short += max(len(page["features"]), _number(page.get("numberReturned"))) - held
        if self.pages > MAX_PAGES:
            raise InputError(f"{self.name} has over {MAX_PAGES} pages: type a smaller area or fewer months")

    def is_new(self, item: Item) -> bool:
        """Count an item: whether none of its name came before. Raises InputError beyond MAX_ITEMS."""
        if self.came >= MAX_ITEMS:
            raise InputError(f"{self.name} returned over {MAX_ITEMS} items: type a smaller area")
        if not item.get("id"):
            self.nameless += 1
            self._fresh += 1
            return True
        key = hash((str(item.get("collection")), str(item["id"])))
        new = key not in self.seen
        self._fresh += key not in self._pass
        self.seen.add(key)
        self._pass.add(key)
        return new

    def goes_on(self, empty: bool) -> bool:
        """After a page's items, or an empty page: whether the next page may bring more.

        Raises CatalogUnavailableError if pages only repeat what came, or the items exceed the server's number by far.
        """
        self.idle = 0 if self._fresh else self.idle + 1
        self._fresh = 0
        most = EMPTY_PAGES if empty and not self.complete else IDLE_PAGES
        if self.expected and self.came > 2 * self.expected + TOO_MANY:
            raise self.endless(f"counts {self.expected:,} items and goes on after {self.came:,}")
        return self.idle < most

    def garbage(self, address: str, what: str) -> CatalogUnavailableError:
        return CatalogUnavailableError(
            f"the catalogue {self.name} answers garbage: {without_secrets(address)} {what}; {LATER}"
        )

    def endless(self, what: str) -> CatalogUnavailableError:
        return CatalogUnavailableError(f"the catalogue {self.name} {what}: its pages do not end; {LATER}")


def _pages(io: CatalogIO, ways: Sequence[tuple[str, str]], query: Query, tally: _Tally) -> Iterator[Any]:
    """One page after another, until there is no next one."""
    method, address, limit, page = _first(io, ways, query)
    asked, parameters = set[str](), query.parameters(method, limit)
    while True:
        tally.page(page, address)
        yield page
        held = len(page["features"])
        went_on, link = tally.goes_on(not held), next_link(page)
        if link is None:
            if held >= limit > 1 and not tally.expected:
                log.warning(
                    "%s gives %d items, just what was asked for at once, and names no next page: there may be more",
                    io.name,
                    held,
                )
            elif page.get("next") and not tally.expected:
                log.warning("%s names a next page outside its links, where STAC has it: there may be more", io.name)
            return
        if not (isinstance(link.get("href"), str) and link["href"]):
            raise tally.garbage(address, "names a next page without its address")
        method, address, parameters, headers = _follow(link, address, parameters)
        key = json.dumps([method, address, parameters if method == "POST" else None], sort_keys=True)
        if not went_on or key in asked:
            if tally.complete:
                return
            if not tally.expected and not held:  # a server that names a next page even after the last one
                if key not in asked:
                    told = "%s sends %d pages without new items and names one more, which is not asked for: there may "
                    log.warning(told + "be more items", io.name, tally.idle)
                return
            raise tally.endless("sends pages without new items again and again")
        asked.add(key)
        try:
            page = io.read_json(address, method=method, headers=headers, parameters=parameters)
        except APIError as error:
            status = getattr(error, "status_code", None)
            if status is None:
                raise
            raise CatalogUnavailableError(
                f"the catalogue {io.name} answers HTTP {status} after {tally.came:,} items; try again later"
            ) from error


def _first(io: CatalogIO, ways: Sequence[tuple[str, str]], query: Query) -> tuple[str, str, int, Any]:
    """(method, address, items a page, page) of the first way, and number of items a page, that the server takes."""
    refusal: APIError | None = None
    for method, address in ways:
        try:
            limit, page = _fitting(io, method, address, query)
            return method, address, limit, page
        except APIError as error:
            if getattr(error, "status_code", None) not in _NO_SUCH_METHOD:
                raise
            refusal = refusal or error
    raise refusal or APIError("no way to search")


def _fitting(io: CatalogIO, method: str, address: str, query: Query) -> tuple[int, Any]:
    """The number of items a page that the server takes, and the first page. Raises APIError, LargeAnswerError."""
    limit, silent = query.page_size, False
    while True:
        try:
            return limit, io.read_json(address, method=method, parameters=query.parameters(method, limit))
        except (APIError, LargeAnswerError) as error:
            smaller = _smaller(error, limit)
            if smaller is None or (silent and not _says(error)):
                raise
            limit, silent = smaller, not _says(error)
            log.info("%s: %s; asking for %d items a page", io.name, error, limit)


def _smaller(error: Exception, limit: int) -> int | None:
    """Items a page to try after a refusal; None if their number cannot be its cause, or is 1.

    A server that does not say why it refuses is asked for a few, once.
    """
    if not isinstance(error, LargeAnswerError) and getattr(error, "status_code", None) not in _TOO_LARGE:
        return None
    fewer = [number for number in SMALLER if number < limit]
    if not _says(error):
        return 10 if limit > 10 else None
    numbers = [int(n) for n in re.findall(r"(?<![\d.])\d{1,6}(?![\d.])", str(error))]
    return max((n for n in numbers if 0 < n < limit), default=fewer[0] if fewer else None)


def _says(error: Exception) -> bool:
    """Whether a refusal speaks of the number of items."""
    is_size = isinstance(error, LargeAnswerError) or getattr(error, "status_code", None) == 413
    return is_size or bool(_LIMIT.search(str(error)))


def _features(page: Any) -> Iterator[Item]:
    """The items of a page; what is no object is left out."""
    for item in page["features"]:
        if isinstance(item, dict):
            yield item


def _matched(page: Any) -> int:
    """The number of items that a page says the whole search has; 0 if it says none."""
    context, metadata = page.get("context"), page.get("search:metadata")
    inner = [fields.get("matched") for fields in (context, metadata) if isinstance(fields, dict)]
    return max(_number(page.get("numberMatched")), *map(_number, [*inner, None]))


def _number(value: Any) -> int:
    """A count as servers write it; 0 for what is none."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0
    return max(0, min(int(value), 10**15))


def _follow(
    link: dict[str, Any], address: str, before: dict[str, Any]
) -> tuple[str, str, dict[str, Any], dict[str, str] | None]:
    """(method, address, parameters, headers) of a link to the next page (STAC API, "Paging")."""
    method = str(link.get("method") or "GET").upper()
    if method not in ("GET", "POST"):
        raise ValueError(f"a next page by {method[:20]}")
    body: Any = link.get("body") or {}
    merged = {**before, **body} if link.get("merge") else {**body}
    headers = link.get("headers")
    sent = {str(k): str(v) for k, v in headers.items()} if isinstance(headers, dict) else None
    return method, urljoin(address, link["href"]), merged if method == "POST" else {}, sent
