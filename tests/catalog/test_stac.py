import json
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from shapely.geometry import MultiPolygon, box

from geomap.catalog import search as catalog
from geomap.catalog import stac
from geomap.errors import CatalogUnavailableError, GeomapError, HrefError, InputError, NoScenesError
from geomap.types import Period, Scene
from tests.support.server import Answer, Server
from tests.support.stac_items import WORLD, granule, month_of

# --- a real STAC API


@pytest.fixture(scope="session")
def served(archive: Callable[..., Path], stac_server: Callable[[Path], str]) -> tuple[str, Path]:
    folder = archive(base_url="http://127.0.0.1:9/cogs", dates=10)
    return stac_server(folder), folder


def test_an_api_gives_the_same_scenes_as_its_items_in_a_file(served: tuple[str, Path]) -> None:
    url, folder = served
    area = box(4.06, 50.745, 4.065, 50.747)
    for period, count in ((Period(2018, 8), 10), (Period(2018, 9, 1), 5)):
        from_file = catalog.search(area, period, str(folder / "items.json")).scenes
        assert len(from_file) == count
        for address in (url, f"{url}/", f"{url}/search"):
            assert catalog.search(area, period, address).scenes == from_file
    clear = catalog.search(
        area, Period(2018, 8), url, max_cloud=10
    ).scenes  # rustac itself does not filter by cloud cover
    assert clear == tuple(s for s in catalog.search(area, Period(2018, 8), url).scenes if (s.cloud_cover or 0) <= 10)
    assert [f"{s.time:%m-%d}" for s in clear] == ["08-04", "09-18"]


def test_paging_misses_nothing(served: tuple[str, Path]) -> None:
    url, folder = served
    expected = [item["id"] for item in json.loads((folder / "items.json").read_text())["features"]]
    for size in (1, 7, 10, 100):
        pages = stac.search_items(
            url, WORLD, Period(2018, 8), collections=["sentinel-2-l2a"], required=True, page_size=size
        )
        assert sorted(item["id"] for item in pages) == sorted(expected)


def test_an_api_is_asked_on_both_sides_of_the_antimeridian(served: tuple[str, Path]) -> None:
    url, _ = served
    area = MultiPolygon([box(179, 50, 180, 51), box(-180, 50, -179, 51)])
    with pytest.raises(NoScenesError, match="longitude 179 to -179"):
        catalog.search(area, Period(2018, 8), url)
    around = MultiPolygon([box(4, 50, 180, 51), box(-180, 50, -179, 51)])
    assert len(catalog.search(around, Period(2018, 8), url).scenes) == 10


def test_a_detailed_outline_is_sent_simplified_but_checked_exactly(served: tuple[str, Path]) -> None:
    url, _ = served
    ring = box(4, 50, 5, 51).buffer(1, quad_segs=500).difference(box(4, 50, 4.2, 51))  # the archive lies in the hole
    with pytest.raises(NoScenesError):
        catalog.search(ring, Period(2018, 8), url)
    assert len(catalog.search(ring.union(box(4.06, 50.745, 4.065, 50.747)), Period(2018, 8), url).scenes) == 10


def test_collections_of_an_api(
    served: tuple[str, Path], archive: Callable[..., Path], stac_server: Callable[[Path], str], tmp_path: Path
) -> None:
    url, _ = served
    assert len(catalog.search(WORLD, Period(2018, 8), url, collection="sentinel-2-l2a").scenes) == 10
    with pytest.raises(InputError, match="no collection sentinel-2-c1-l2a; type --collection with one of: sentinel-2-"):
        catalog.search(WORLD, Period(2018, 8), url, collection="sentinel-2-c1-l2a")
    for name in ("collection.json", "items.json"):
        text = (served[1] / name).read_text().replace('"sentinel-2-l2a"', '"mine"')
        (tmp_path / name).write_text(text)
    other = stac_server(tmp_path)
    with pytest.raises(InputError, match=r"type --collection with one of: mine"):
        catalog.search(WORLD, Period(2018, 8), other)
    # its items carry the flag of earth-search, so the conventions are still told
    assert len(catalog.search(WORLD, Period(2018, 8), other, collection="mine").scenes) == 10


def test_an_api_may_not_point_to_local_files(archive: Callable[..., Path], stac_server: Callable[[Path], str]) -> None:
    with pytest.raises(HrefError, match="only https, s3 and http"):
        catalog.search(WORLD, Period(2018, 8), stac_server(_with_href(archive(dates=2), "file:///etc/a.tif")))


def _with_href(folder: Path, href: str) -> Path:
    other = folder / "other"
    other.mkdir(exist_ok=True)
    content = json.loads((folder / "items.json").read_text())
    for item in content["features"]:
        item["assets"]["blue"]["href"] = href
    (other / "items.json").write_text(json.dumps(content))
    (other / "collection.json").write_bytes((folder / "collection.json").read_bytes())
    return other


# --- catalogues that fail


Reply = tuple[int, dict[str, str], str]
Scripted = Callable[..., tuple[str, Server]]


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """A server that answers with the given replies in turn, the last one for ever; {url} in them is its address.

    Returns the address and the server.
    """
    with ExitStack() as running:

        def start(*replies: Reply, host: str = "127.0.0.1") -> tuple[str, Server]:
            server = running.enter_context(Server(host=host))
            for status, headers, body in replies:
                content = body.replace("{url}", server.base).encode()
                server.replies.append(Answer(status, {"Content-Type": "application/json"} | headers, content))
            return server.base, server

        yield start


def landing(search: str = "{url}/search", item_search: bool = True, root: str = "{url}") -> Reply:
    conforms = ["core", "collections", "ogcapi-features"] + ["item-search"] * item_search
    content = {
        "type": "Catalog",
        "stac_version": "1.0.0",
        "id": "scripted",
        "description": "scripted",
        "conformsTo": [f"https://api.stacspec.org/v1.0.0/{c}" for c in conforms],
        "links": [
            {"rel": "self", "href": "{url}"},
            {"rel": "root", "href": root},
            {"rel": "data", "href": "{url}/collections"},
            {"rel": "search", "href": search, "method": "POST", "type": "application/geo+json"},
        ],
    }
    return 200, {}, json.dumps(content)


COLLECTION: Reply = (
    200,
    {},
    json.dumps(
        {
            "type": "Collection",
            "stac_version": "1.0.0",
            "id": "sentinel-2-l2a",
            "description": "",
            "license": "other",
            "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}},
            "links": [],
        }
    ),
)
BUSY: Reply = (503, {}, "busy")


def ask(url: str) -> tuple[Scene, ...]:
    return catalog.search(WORLD, Period(2018, 8), url, collection="sentinel-2-l2a").scenes


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(stac, "PATIENCE", 0.5)
    with pytest.raises(CatalogUnavailableError) as error:
        ask("http://127.0.0.1:1/v1?token=secret")
    assert error.value.exit_code == 75
    assert (
        str(error.value) == "the catalogue http://127.0.0.1:1/v1 does not answer (connection refused); try again later"
    )
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stac, "PATIENCE", 0)
    with pytest.raises(CatalogUnavailableError, match=r"does not answer \(name cannot be resolved\); try"):
        ask("https://stac.invalid/v1")  # RFC 2606: never there


def test_a_busy_catalogue_is_given_up_when_patience_ends(monkeypatch: pytest.MonkeyPatch, scripted: Scripted) -> None:
    monkeypatch.setattr(stac, "PATIENCE", 1.5)  # of the longest wait, 0 + 1 + 2 ... s between tries
    url, server = scripted(BUSY)
    with pytest.raises(CatalogUnavailableError, match=rf"{url} answers HTTP 503; try"):
        ask(url)
    assert len(server.log()) == 3


def test_a_catalogue_is_not_asked_before_the_time_it_names(scripted: Scripted) -> None:
    url, server = scripted((429, {"Retry-After": "3600"}, "slow down"))
    with pytest.raises(CatalogUnavailableError, match="answers HTTP 429"):
        ask(url)
    assert len(server.log()) == 1


@pytest.mark.parametrize("wait", ["soon", "1.5", "-1"])
def test_a_wait_that_cannot_be_read_is_no_wait(scripted: Scripted, wait: str) -> None:
    item = granule("earth-search-l2a", "32TPS", "2023-06-02T10:18:03.169000Z")
    page: Reply = (200, {}, json.dumps({"type": "FeatureCollection", "features": [item], "links": []}))
    url, _ = scripted(landing(), COLLECTION, (503, {"Retry-After": wait}, "busy"), page)
    (scene,) = catalog.search(WORLD, month_of(item), url, collection="sentinel-2-l2a").scenes
    assert scene.id == item["id"]


def test_the_longest_wait_is_under_a_minute() -> None:
    assert stac.READ_TIMEOUT + stac.PATIENCE + stac.READ_TIMEOUT < 60
    assert stac.CONNECT_TIMEOUT + stac.PATIENCE + stac.CONNECT_TIMEOUT < 60


def test_a_silent_catalogue_is_given_up(monkeypatch: pytest.MonkeyPatch, scripted: Scripted) -> None:
    monkeypatch.setattr(stac, "READ_TIMEOUT", 0.2)
    monkeypatch.setattr(stac, "PATIENCE", 0.5)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(CatalogUnavailableError, match=r"does not answer \(timed out\); try"),
    ):
        ask(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_a_search_survives_a_hiccup(scripted: Scripted) -> None:
    item = granule("earth-search-l2a", "32TPS", "2023-06-02T10:18:03.169000Z")
    page: Reply = (200, {}, json.dumps({"type": "FeatureCollection", "features": [item], "links": []}))
    url, server = scripted(BUSY, landing(), BUSY, COLLECTION, BUSY, page)
    (scene,) = catalog.search(WORLD, month_of(item), url, collection="sentinel-2-l2a").scenes
    assert scene.id == item["id"]
    assert server.log()[-2:] == ["POST /search"] * 2  # a search changes nothing and is repeated


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((404, {}, "not found"), "answers HTTP 404"),
        ((403, {}, "forbidden"), "answers HTTP 403"),
        ((200, {"Content-Type": "text/html"}, "<html>Welcome</html>"), "is not a STAC API"),
        ((200, {}, '{"hello": "world"}'), "is not a STAC API"),
        ((200, {}, "[]"), "is not a STAC API"),
        (COLLECTION, "is not a STAC API"),
        (landing(item_search=False), "has no item search"),
    ],
)
def test_what_is_no_stac_api(scripted: Scripted, reply: Reply, message: str) -> None:
    url, server = scripted(reply)
    with pytest.raises(InputError, match=f"{url}.*{message}"):
        ask(url)
    assert len(server.log()) == 1


def test_garbage_in_the_middle_is_temporary(scripted: Scripted) -> None:
    for body in ("<html>proxy error</html>", '{"features": 1}'):
        url, _ = scripted(landing(), COLLECTION, (200, {}, body))
        with pytest.raises(CatalogUnavailableError, match="answers garbage"):
            ask(url)
    for body in ('{"hello": "world"}', '{"type": "Catalog"}', "[]", "1"):  # in place of the collection
        url, _ = scripted(landing(), (200, {}, body))
        with pytest.raises(CatalogUnavailableError, match="answers garbage"):
            ask(url)


def test_a_catalogue_may_not_send_requests_elsewhere(scripted: Scripted) -> None:
    url, server = scripted(landing(search="http://169.254.169.254/latest"), COLLECTION)
    with pytest.raises(HrefError, match=r"169\.254\.169\.254"):
        ask(url)
    page = {
        "type": "FeatureCollection",
        "features": [{"type": "Feature", "id": "a"}],
        "links": [{"rel": "next", "href": "http://10.0.0.5/search"}],
    }
    url, server = scripted(landing(), COLLECTION, (200, {}, json.dumps(page)))
    with pytest.raises(HrefError, match=r"10\.0\.0\.5"):
        ask(url)
    assert len(server.log()) == 3


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_catalogue_may_not_redirect_elsewhere(scripted: Scripted, status: int) -> None:
    item = granule("earth-search-l2a", "32TPS", "2023-06-02T10:18:03.169000Z")
    page: Reply = (200, {}, json.dumps({"type": "FeatureCollection", "features": [item], "links": []}))
    other, asked = scripted(page, host="127.0.0.2")
    away: Reply = (status, {"Location": f"{other}/search"}, "")
    for replies in ((away,), (landing(), away), (landing(), COLLECTION, away)):
        url, server = scripted(*replies)
        with pytest.raises(HrefError, match=r"refuse to open 'http://127\.0\.0\.2:.*type --allow-host 127\.0\.0\.2"):
            ask(url)
        assert len(server.log()) == len(replies)
    assert asked.seen == []
    hop: Reply = (status, {"Location": "/elsewhere"}, "")  # on the same host
    url, server = scripted(landing(), COLLECTION, hop, away)
    with pytest.raises(HrefError, match=r"127\.0\.0\.2"):
        ask(url)
    assert server.log()[-1].endswith(" /elsewhere")
    assert asked.seen == []
    url, _ = scripted(landing(), COLLECTION, away)
    scenes = catalog.search(WORLD, month_of(item), url, collection="sentinel-2-l2a", allow_hosts=["127.0.0.2"]).scenes
    assert [scene.id for scene in scenes] == [item["id"]]
    assert len(asked.seen) == 1


def test_an_endless_redirect(scripted: Scripted) -> None:
    url, _ = scripted((302, {"Location": "/again"}, ""))
    with pytest.raises(CatalogUnavailableError, match=r"does not answer \(too many redirects\)"):
        ask(url)


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("http://127.0.0.2:9/", "type --allow-host 127.0.0.2"),
        ("https://127.0.0.2:9/", "type --allow-host 127.0.0.2"),
        ("{url}/no-catalogue", "has a link to what is no STAC object"),
    ],
)
def test_an_api_whose_root_is_elsewhere(scripted: Scripted, root: str, message: str) -> None:
    url, _ = scripted(landing(root=root), (200, {}, '{"hello": "world"}'))
    with pytest.raises(InputError, match=message) as refused:
        ask(url)
    assert "\n" not in str(refused.value)


def test_an_odd_api_is_searched_without_warnings(scripted: Scripted, recwarn: pytest.WarningsRecorder) -> None:
    item = granule("earth-search-l2a", "32TPS", "2023-06-02T10:18:03.169000Z")
    page: Reply = (200, {}, json.dumps({"type": "FeatureCollection", "features": [item], "links": []}))
    content = json.loads(landing()[2])
    content["links"] = [link for link in content["links"] if link["rel"] not in ("data", "search")]
    url, _ = scripted((200, {}, json.dumps(content)), COLLECTION, page)
    assert catalog.search(WORLD, month_of(item), url, collection="sentinel-2-l2a").scenes
    del content["conformsTo"]
    url, _ = scripted((200, {}, json.dumps(content)))
    with pytest.raises(InputError, match="has no item search"):
        ask(url)
    assert [str(warning.message) for warning in recwarn] == []


def test_no_message_shows_the_query_of_the_address(scripted: Scripted) -> None:
    empty: Reply = (200, {}, '{"type": "FeatureCollection", "features": [], "links": []}')
    scripts: list[tuple[Reply, ...]] = [
        (landing(), COLLECTION, empty),
        (landing(), COLLECTION, (200, {}, "<html>")),
        (landing(), (404, {}, ""), (200, {}, '{"collections": []}')),
        (landing(item_search=False),),
        (landing(root="{url}/other?token=secret"), (200, {}, "{}")),
        ((200, {}, "{}"),),
        ((400, {}, "GET {url}/v1?token=secret is no good \x1b[31m"),),
        ((501, {}, "no"),),
    ]
    for replies in scripts:
        url, server = scripted(*replies)
        with pytest.raises(GeomapError, match=f"{url}") as error:
            ask(f"{url}/v1/search?token=secret")
        assert server.log()[0] == "GET /v1?token=secret"
        assert "secret" not in str(error.value)
        assert str(error.value).isprintable()


def test_the_cloud_limit_is_sent_only_where_it_is_understood(scripted: Scripted) -> None:
    item = granule("earth-search-l2a", "32TPS", "2023-06-02T10:18:03.169000Z")
    page: Reply = (200, {}, json.dumps({"type": "FeatureCollection", "features": [item], "links": []}))
    plain = landing()
    knows: Reply = (
        200,
        {},
        plain[2].replace('item-search"', 'item-search", "https://api.stacspec.org/v1.0.0/item-search#query"'),
    )
    for reply, sent in ((plain, False), (knows, True)):
        url, server = scripted(reply, COLLECTION, page)
        catalog.search(WORLD, month_of(item), url, collection="sentinel-2-l2a", max_cloud=40)
        assert json.loads(server.posted[0]).get("query") == ({"eo:cloud_cover": {"lte": 40}} if sent else None)
