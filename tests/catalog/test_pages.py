"""Whether a search is complete and ends: counts, pages, methods, and answers without an end, over real HTTP."""

import gzip
import itertools
import json
import logging
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from shapely.geometry import box

from geomap.catalog import http, pages, stac
from geomap.errors import CatalogUnavailableError, HrefError, InputError
from geomap.types import Period
from tests.support.stac_api import COLLECTION, Reply, Request, Search, StacApi, collections, page

AREA = box(4, 50, 5, 51)
Start = Callable[..., StacApi]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stac, "PATIENCE", 0.0)
    monkeypatch.setattr(pages, "PAUSE", 0.0)


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as running:
        yield lambda search, links=None: running.enter_context(StacApi(search, links))


def ask(api: StacApi, page_size: int = 100, collection: str = COLLECTION) -> list[str]:
    found = stac.search_items(
        api.url, AREA, Period(2018, 8), collections=[collection], required=True, page_size=page_size
    )
    return [str(item.get("id")) for item in found]


def some(first: int, count: int) -> list[dict[str, Any]]:
    return [{"type": "Feature", "id": f"i{n}", "collection": COLLECTION} for n in range(first, first + count)]


def names(count: int) -> list[str]:
    return [f"i{n}" for n in range(count)]


# --- complete


@pytest.mark.parametrize(
    "number",
    [
        {"numberMatched": 53},
        {"numberMatched": "53"},
        {"numberMatched": 53.0},
        {"context": {"matched": 53, "returned": 20}},
        {"search:metadata": {"matched": 53}},
        {"numberReturned": 53},
    ],
    ids=str,
)
def test_fewer_items_than_the_server_counts_are_no_search(start: Start, number: dict[str, Any]) -> None:
    api = start(lambda request: page(some(0, 20), **number))
    with pytest.raises(CatalogUnavailableError, match=r"counts 53 items and gives 20: months may be missing; try") as e:
        ask(api)
    assert e.value.exit_code == 75
    assert len(api.searches) == pages.TRIES


def test_a_count_on_one_page_of_several_is_enough(start: Start) -> None:
    def search(request: Request) -> Reply:
        if "after" not in request.query:
            return page(some(0, 5), "/search?after=5", numberMatched=12)
        return page(some(5, 3))

    with pytest.raises(CatalogUnavailableError, match="counts 12 items and gives 8"):
        ask(start(search))


def test_what_a_second_search_completes_is_complete_and_comes_once(start: Start) -> None:
    api = start(lambda request: page(some(0, 3) if request.number == 0 else some(0, 8), numberMatched=8))
    assert ask(api) == names(8)
    assert len(api.searches) == 2


@pytest.mark.parametrize(
    "number",
    [
        {}, {"numberMatched": 8}, {"numberMatched": 3}, {"numberMatched": None}, {"numberMatched": True},
        {"numberMatched": -1}, {"numberMatched": [9]}, {"numberMatched": "many"}, {"context": None}, {"context": 7},
    ],
    ids=str,
)  # fmt: skip
def test_a_count_that_is_met_or_none_is_no_fault(start: Start, number: dict[str, Any]) -> None:
    api = start(lambda request: page(some(0, 8), **number))
    assert ask(api) == names(8)
    assert len(api.searches) == 1


def test_a_number_that_servers_estimate_is_said_loudly(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pages, "ESTIMATED_FROM", 50)
    assert ask(start(lambda request: page(some(0, 20), numberMatched=53))) == names(20)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "counts 53 items and gives 20: such large numbers are estimates" in warning


def test_a_full_page_without_a_next_one_is_said_loudly(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    ask(start(lambda request: page(some(0, 20))), page_size=20)
    assert "gives 20 items, just what was asked for at once, and names no next page" in caplog.text
    caplog.clear()
    ask(start(lambda request: page(some(0, 20), numberMatched=20)), page_size=20)
    ask(start(lambda request: page(some(0, 19))), page_size=20)
    assert caplog.text == ""


def test_a_page_without_items_is_not_the_end(start: Start) -> None:
    def search(request: Request) -> Reply:
        at = int(request.query.get("at", 0))
        held = [some(0, 2), [], [], some(2, 1)][at]
        return page(held, f"/search?at={at + 1}" if at < 3 else None)

    assert ask(start(search)) == names(3)


def test_many_pages_without_items_are_not_the_end_either(start: Start) -> None:
    def search(request: Request) -> Reply:
        at = int(request.query.get("at", 0))
        return page(some(at // 5, 1) if at % 5 == 0 else [], f"/search?at={at + 1}" if at < 10 else None)

    assert ask(start(search)) == names(3)


def test_a_server_that_always_names_a_next_page_is_finished_when_pages_are_empty(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    def search(request: Request, last: int = 1000, **number: int) -> Reply:
        at = int(request.query.get("at", 0))
        return page(some(2 * at, 2) if at < 2 else [], f"/search?at={min(at + 1, last)}", **number)

    api = start(search)
    assert ask(api) == names(4)
    assert len(api.searches) == 2 + pages.EMPTY_PAGES
    assert "sends 50 pages without new items and names one more, which is not asked for" in caplog.text
    caplog.clear()
    api = start(lambda request: search(request, numberMatched=4))
    assert ask(api) == names(4)
    assert len(api.searches) == 2 + pages.IDLE_PAGES
    api = start(lambda request: search(request, last=5))
    assert ask(api) == names(4)
    assert len(api.searches) == 6
    assert caplog.text == ""


@pytest.mark.parametrize("rel", ["next", "NEXT"])
def test_relations_of_links_have_no_case(start: Start, rel: str) -> None:
    link = {"rel": rel, "href": "/search?at=1"}
    assert ask(start(lambda request: page(some(2, 1)) if request.query else page(some(0, 2), link))) == names(3)


def test_a_next_page_that_is_not_named_in_a_link_is_said_loudly(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    assert ask(start(lambda request: page(some(0, 2), next="/search?at=1"))) == names(2)
    assert "names a next page outside its links, where STAC has it: there may be more" in caplog.text
    caplog.clear()
    ask(start(lambda request: page(some(0, 2), next=None)))
    ask(start(lambda request: page(some(0, 2), next="token", numberMatched=2)))
    assert caplog.text == ""


def test_what_is_no_item_on_a_page_is_missing(start: Start) -> None:
    api = start(lambda request: page([*some(0, 3), None, "i4"]))
    with pytest.raises(CatalogUnavailableError, match=r"counts 5 items and gives 3: months may be missing"):
        ask(api)
    api = start(lambda request: page([*some(0, 3), None] if request.number == 0 else some(0, 4)))
    assert ask(api) == names(4)


@pytest.mark.parametrize("href", ["{url}/search?at=1", "/search?at=1", "?at=1", "search?at=1"])
def test_a_next_page_may_be_named_relative_to_this_one(start: Start, href: str) -> None:
    api: StacApi

    def search(request: Request) -> Reply:
        return page(some(2, 1)) if request.query else page(some(0, 2), href.replace("{url}", api.url))

    api = start(search)
    assert ask(api) == names(3)


@pytest.mark.parametrize("merge", [True, False])
def test_a_next_page_by_post_has_the_body_that_the_server_wants(start: Start, merge: bool) -> None:
    def search(request: Request) -> Reply:
        if "token" in request.body:
            return page(some(2, 1))
        return page(some(0, 2), {"href": "/search", "method": "POST", "merge": merge, "body": {"token": "x"}})

    api = start(search)
    assert ask(api) == names(3)
    assert ("intersects" in api.searches[-1].body) is merge


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_a_refusal_after_the_first_page_is_temporary(start: Start, status: int) -> None:
    api = start(lambda request: Reply({}, status) if request.query else page(some(0, 2), "/search?token=gone"))
    with pytest.raises(CatalogUnavailableError, match=f"answers HTTP {status} after 2 items; try again later"):
        ask(api)


# --- ends


def same_link(request: Request) -> Reply:
    return page(some(0, 2) if request.number == 0 else some(2, 2), "/search?token=1")


def same_body(request: Request) -> Reply:
    return page(some(request.number, 1), {"href": "/search", "method": "POST", "body": {"token": "1"}, "merge": True})


def ring(request: Request) -> Reply:
    return page(some(request.number % 3, 1), f"/search?at={request.number % 3}")


def same_items(request: Request) -> Reply:
    return page(some(0, 2), f"/search?at={request.number}")


def beyond_the_count(request: Request) -> Reply:
    return page(some(request.number * 100, 100), f"/search?at={request.number}", numberMatched=53)


def empty_but_counted(request: Request) -> Reply:
    return page(some(0, 2) if request.number == 0 else [], f"/search?at={request.number}", numberMatched=53)


@pytest.mark.parametrize("search", [same_link, same_body, ring, same_items, beyond_the_count, empty_but_counted])
def test_pages_that_only_repeat_end_in_one_line(start: Start, search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "EMPTY_PAGES", 9)
    api = start(search)
    with pytest.raises(CatalogUnavailableError, match=r"its pages do not end; try again later") as e:
        ask(api)
    assert e.value.exit_code == 75
    assert len(api.searches) < 20


def test_pages_that_repeat_once_all_is_there_are_no_fault(start: Start) -> None:
    api = start(lambda request: page(some(0, 2), "/search?token=1", numberMatched=2))
    assert ask(api) == names(2) * 2
    assert len(api.searches) == 2


@pytest.mark.parametrize(
    ("where", "constant", "most", "error", "says"),
    [
        (pages, "MAX_PAGES", 9, InputError, "has over 9 pages: type a smaller area"),
        (pages, "MAX_ITEMS", 9, InputError, "returned over 9 items: type a smaller area"),
        (http, "SEARCH_REQUESTS", 9, CatalogUnavailableError, "does not end within 9 requests: type a smaller area"),
        (http, "SEARCH_BYTES", 2000, CatalogUnavailableError, "does not end within 2,000 bytes"),
        (http, "SEARCH_SECONDS", 0.2, CatalogUnavailableError, "does not end within 0 seconds"),
    ],
)
def test_items_without_an_end(
    start: Start, monkeypatch: pytest.MonkeyPatch, where: Any, constant: str, most: float, error: Any, says: str
) -> None:
    monkeypatch.setattr(where, constant, most)
    with pytest.raises(error, match=says):
        ask(start(lambda request: page(some(request.number * 2, 2), f"/search?at={request.number}")))


def test_items_without_an_id_are_counted_too(start: Start) -> None:
    api = start(lambda request: page([{"type": "Feature"}] * 3, numberMatched=3))
    assert ask(api) == ["None"] * 3


def endless_collections(request: Request) -> Reply:
    return collections(f"c{request.number}", links=[{"rel": "next", "href": f"/collections?at={request.number}"}])


def repeated_collections(request: Request) -> Reply:
    return collections("c1", links=[{"rel": "next", "href": "/collections?at=1"}])


@pytest.mark.parametrize("listing", [endless_collections, repeated_collections])
def test_a_list_of_collections_without_an_end(start: Start, listing: Search) -> None:
    api = start(lambda request: Reply({}, 404))
    api.special["/collections"] = listing
    with pytest.raises(InputError, match=r"has no collection mine; type --collection with one of: c"):
        ask(api, collection="mine")
    assert len(api.asked) < 2 * http.LISTING_PAGES


# --- methods and page sizes


@pytest.mark.parametrize("status", [400, 403, 404, 405, 415, 422, 501])
def test_an_api_that_takes_get_alone(start: Start, status: int) -> None:
    def search(request: Request) -> Reply:
        if request.method == "POST":
            return Reply({"description": "no"}, status)
        at = int(request.query.get("at", 0))
        return page(some(at, 2), f"/search?at={at + 2}" if at < 4 else None)

    for links in (None, [{"method": "GET"}], [{}], []):
        api = start(search, links)
        assert ask(api) == names(6)
        sent = next(request for request in api.searches if request.method == "GET").query
        assert sent["bbox"] == "4,50,5,51"
        assert sent["collections"] == COLLECTION
        assert sent["datetime"] == "2018-08-01T00:00:00Z/2019-08-01T00:00:00Z"


def test_the_method_that_the_landing_page_names_comes_first(start: Start) -> None:
    for links, methods in (([{"method": "GET"}], {"GET"}), ([{"method": "GET"}, {"method": "POST"}], {"POST"})):
        api = start(lambda request: page(some(0, 2)), links)
        ask(api)
        assert {request.method for request in api.searches} == methods


def test_an_api_that_takes_no_method_is_refused_with_its_own_words(start: Start) -> None:
    with pytest.raises(InputError, match=r"answers HTTP 405 .*closed for repair"):
        ask(start(lambda request: Reply({"description": "closed for repair"}, 405)))


LIMITS = [
    (400, "limit must be between 1 and 20"),
    (422, '[{"loc": ["body", "limit"], "msg": "Input should be less than or equal to 20", "input": "100"}]'),
    (400, "The limit is too large."),
    (413, ""),
    (400, "Invalid request"),
    (422, "page_size exceeds the maximum (code 1042)"),
]


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize(("status", "words"), LIMITS)
def test_a_page_limit_below_ours_is_kept(start: Start, status: int, words: str, method: str) -> None:
    def search(request: Request) -> Reply:
        asked = request.query if request.method == "GET" else request.body
        at, limit = int(asked.get("at", 0)), int(asked["limit"])
        if request.method != method:
            return Reply({}, 405)
        if limit > 20:
            return Reply({"description": words}, status)
        last = at + limit >= 45
        link = {"href": f"/search?at={at + limit}&limit={limit}"}
        if method == "POST":
            link = {"href": "/search", "method": "POST", "merge": True, "body": {"at": at + limit}}  # type: ignore[dict-item]
        return page(some(at, min(limit, 45 - at)), None if last else link, numberMatched=45)

    api = start(search)
    assert ask(api) == names(45)
    assert len(api.searches) < 14


def test_a_server_that_hands_out_fewer_than_asked_for_is_followed(start: Start) -> None:
    def search(request: Request) -> Reply:
        at = int(request.query.get("at", 0))
        return page(some(at, 7), f"/search?at={at + 7}" if at < 14 else None, numberMatched=21)

    assert ask(start(search)) == names(21)


# --- answers without an end


def drip(text: bytes, seconds: float = 0.05) -> Iterator[bytes]:
    for at in itertools.count():
        time.sleep(seconds)
        yield text[at % len(text) :][:1]


def test_an_answer_that_comes_byte_by_byte(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ANSWER_SECONDS", 0.4)
    monkeypatch.setattr(stac, "PATIENCE", 15.0)
    redirect = {"Location": "/elsewhere"}
    chunked = {"Transfer-Encoding": "chunked"}
    slow = [Reply(drip(b" ")), Reply(drip(b" "), 302, redirect), Reply(drip(b"1\r\n \r\n"), headers=chunked)]
    for reply in [*slow, Reply(drip(b"no "), 404)]:
        began = time.monotonic()
        with pytest.raises(CatalogUnavailableError, match=r"does not finish an answer in 0\.4 s; try again later"):
            ask(start(lambda request, reply=reply: reply))
        assert time.monotonic() - began < 3
    for where in ("/", f"/collections/{COLLECTION}"):
        api = start(lambda request: page([]))
        api.special[where] = lambda request: Reply(drip(b" "))
        with pytest.raises(CatalogUnavailableError, match="does not finish an answer"):
            ask(api)


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\nX-", b"HTTP/1.1 100 Continue\r\n\r\n", b""])
def test_headers_that_come_byte_by_byte(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(http, "ANSWER_SECONDS", 0.4)

    def talk(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            for at in itertools.count():
                try:
                    connection.sendall(said if at == 0 or b"Continue" in said else b"H"[: at % 2])
                except OSError:
                    return
                time.sleep(0.02)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=talk, args=(listening,), daemon=True).start()
        began = time.monotonic()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(CatalogUnavailableError, match="does not finish an answer"):
            list(stac.search_items(url, AREA, Period(2018, 8), collections=[COLLECTION], required=True))
        assert time.monotonic() - began < 3


BOMB = gzip.compress(b" " * 100_000_000, 9)


@pytest.mark.parametrize("kind", ["endless", "said", "gzip", "gzip twice", "refused", "redirect"])
def test_an_answer_without_an_end_takes_no_memory(start: Start, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(http, "ANSWER_BYTES", 2**20)
    reply = {
        "endless": lambda: Reply(itertools.repeat(b" " * 65536)),
        "said": lambda: Reply(itertools.repeat(b" " * 65536), headers={"Content-Length": str(10**12)}),
        "gzip": lambda: Reply(BOMB, headers={"Content-Encoding": "gzip"}),
        "gzip twice": lambda: Reply(gzip.compress(BOMB), headers={"Content-Encoding": "gzip, gzip"}),
        "refused": lambda: Reply(itertools.repeat(b" " * 65536), 404),
        "redirect": lambda: Reply(itertools.repeat(b" " * 65536), 302, {"Location": "/elsewhere"}),
    }[kind]
    api = start(lambda request: reply())
    tracemalloc.start()
    try:
        with pytest.raises(CatalogUnavailableError, match="sends an answer of over 1 MB; try again later"):
            ask(api)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()
    assert len(api.searches) <= 1 + len(pages.SMALLER)


def test_a_page_that_is_too_large_is_asked_for_in_smaller_ones(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ANSWER_BYTES", 2**16)

    def search(request: Request) -> Reply:
        at, limit = int(request.body.get("at", 0)), request.body["limit"]
        items = [item | {"text": "x" * 2000} for item in some(at, min(limit, 45 - at))]
        link = {"href": "/search", "method": "POST", "merge": True, "body": {"at": at + limit}}
        return page(items, link if at + limit < 45 else None, numberMatched=45)

    assert ask(start(search)) == names(45)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"[" * 200_000, "JSON of over 64 levels"),
        (b'{"features": [' + b'{"a":' * 80 + b"1" + b"}" * 80 + b"]}", "JSON of over 64 levels"),
        (b'{"features": [' + b"[]," * 3_000_000 + b"1]}", "over 2,000,000 lists"),
        (b'{"features": [\xff\xfe]}', r"answers garbage \(no text in UTF-8: http://\S+/search\)"),
        (b'{"features": {"a": 1}}', "answers garbage: http://\\S+/search has no list of items"),
        (b'{"message": "a proxy says that all is well"}', "/search has no list of items"),
        (b"[]", "/search has no list of items"),
        (b'{"features": [], "links": 5}', "/search has links that are no list"),
        (b'{"features": [], "links": {"next": "/search?at=1"}}', "/search has links that are no list"),
        (b'{"features": [], "links": [{"rel": "next"}]}', "/search names a next page without its address"),
        (b'{"features": [], "links": [{"rel": "next", "href": null}]}', "names a next page without its address"),
        (b'{"features": [], "links": [{"rel": "next", "href": 5}]}', "names a next page without its address"),
        (b" <html>Log in</html>", r"answers garbage \(a web page, perhaps of a login .*: http://\S+/search\)"),
        (b'{"features": [', r"JSON that is broken at character 14 of 14: http://\S+/search"),
        (b"busy", "no JSON but 'busy': http"),
        (b"", "nothing, and no JSON: http"),
        (b'{"features": [], "links": [{"rel": "next", "href": "/a", "method": "DELETE"}]}', "answers garbage"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_answers_that_are_no_pages(start: Start, body: bytes, says: str) -> None:
    api = start(lambda request: Reply(body))
    with pytest.raises(CatalogUnavailableError, match=says):
        ask(api)
    api = start(lambda request: Reply(body) if request.query else page(some(0, 1), "/search?at=1"))
    with pytest.raises(CatalogUnavailableError, match=says):
        ask(api)


def test_a_number_of_many_digits_spoils_its_item_alone(start: Start) -> None:
    body = json.dumps({"type": "FeatureCollection", "features": some(0, 2)}).replace('"i0"', '"i0", "n": ' + "9" * 5000)
    assert ask(start(lambda request: Reply(body.encode()))) == names(2)


def test_an_answer_that_is_cut_is_asked_for_again(start: Start) -> None:
    whole = json.dumps({"type": "FeatureCollection", "features": some(0, 2)}).encode()
    cut = Reply(whole[:50], headers={"Content-Length": str(len(whole))})
    api = start(lambda request: cut if request.number == 0 else Reply(whole))
    assert ask(api) == names(2)
    with pytest.raises(CatalogUnavailableError, match=r"does not answer"):
        ask(start(lambda request: cut))


@pytest.mark.parametrize("href", ["file:///etc/passwd", "//10.0.0.1/search", "ftp://127.0.0.1/search"])
def test_a_next_page_is_no_file_and_on_no_other_host(start: Start, href: str) -> None:
    with pytest.raises(HrefError, match="refuse to open"):
        ask(start(lambda request: page(some(0, 1), href)))


@pytest.mark.parametrize("href", ["/etc/passwd", "etc/passwd", "file:///etc/passwd"])
def test_links_of_a_landing_page_open_no_file(start: Start, href: str) -> None:
    api = start(lambda request: page(some(0, 1)), [{"method": "POST", "href": href}])
    with suppress(HrefError):
        assert ask(api) == names(1)  # of the server, whatever the path
