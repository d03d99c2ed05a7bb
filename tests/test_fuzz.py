"""Whatever stands in a file or an answer: geomap's own errors or a good result, in bounded time and memory."""

import copy
import json
import tomllib
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geomap import legends
from geomap.catalog import stac
from geomap.catalog.search import search
from geomap.encode.card import Card, read_card
from geomap.errors import GeomapError
from geomap.run import directory, record, status
from geomap.run.stores import read_made_from
from geomap.store import store
from geomap.types import Grid, Period, Tile
from tests.support.server import Answer, Server
from tests.support.stac_items import WORLD, granule, month_of

MOST = 150 * 2**20
"""Bytes that one reading may take: far above what a good file of these sizes needs."""
ODD: list[Any] = [
    None, True, -1, 0, 1, 2**63, -(2**63) - 1, 10**400, 1e308, -1e308, float("nan"), float("inf"), "", "0", "nan", "x",
    "9" * 5000, "\0", "\ud800", "../../x", "/etc/passwd", "/vsicurl/http://x/y.tif", [], {}, [[]], [None], [1, "x"],
    {"": None}, {"a": {"b": [{}]}}, [10**18] * 6, "https://x/" + "a" * 5000,
]  # fmt: skip
VALUES = st.sampled_from(ODD) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FEW = settings(max_examples=40, suppress_health_check=list(HealthCheck))
"""So many examples of each kind: `make soak` draws others."""


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside JSON."""
    if here:
        yield here
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*here, key))


@st.composite
def changed(draw: st.DrawFn, good: Any) -> Any:
    """JSON with one to three values replaced or left out."""
    made = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        way = draw(st.sampled_from(sorted(places(made), key=str)))
        inner = made
        for key in way[:-1]:
            inner = inner[key]
        if draw(st.booleans()) or isinstance(inner, list):
            inner[way[-1]] = copy.deepcopy(draw(VALUES))
        else:
            del inner[way[-1]]
        if not isinstance(made, dict) or not made:
            break
    return made


@contextmanager
def bounded() -> Iterator[None]:
    """Errors of geomap end a reading; any other exception, or more memory than MOST, fails the test."""
    tracemalloc.start()
    try:
        with suppress(GeomapError):
            yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST


ITEM = granule("planetary-computer", "24XWR", "2022-06-12T18:29:19.024000Z", "04.00", "b", cloud=30.5)
EARTH = granule("earth-search-c1", "32TPS", "2022-06-12T10:00:00Z")


@FEW
@given(item=changed(ITEM) | changed(EARTH))
def test_any_item(item: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [item, ITEM]}))
    with bounded():
        search(WORLD, month_of(ITEM), str(path))


@pytest.mark.parametrize("text", ["[" * 300_000, '{"a":' * 100_000 + "1" + "}" * 100_000, "9" * 5_000, "\udcff", ""])
def test_any_item_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "items.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with bounded(), pytest.raises(GeomapError):
        search(WORLD, month_of(ITEM), str(path))


LANDING: dict[str, Any] = {
    "type": "Catalog", "id": "fuzz", "description": "fuzz", "stac_version": "1.0.0",
    "conformsTo": ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"],
}  # fmt: skip
COLLECTION: dict[str, Any] = {
    "type": "Collection", "id": EARTH["collection"], "description": "fuzz", "stac_version": "1.0.0", "license": "x",
    "links": [], "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}},
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@settings(FEW, max_examples=25)
@given(data=st.data())
def test_any_answer_of_an_api(data: st.DataObject, server: Server) -> None:
    links = [
        {"rel": "self", "href": server.base}, {"rel": "root", "href": server.base},
        {"rel": "search", "href": f"{server.base}/search", "type": "application/geo+json", "method": "POST"},
        {"rel": "data", "href": f"{server.base}/collections"},
    ]  # fmt: skip
    pages: dict[str, Any] = {
        "/": LANDING | {"links": links},
        f"/collections/{COLLECTION['id']}": COLLECTION,
        "/search": {"type": "FeatureCollection", "features": [EARTH], "links": []},
    }
    which = data.draw(st.sampled_from(sorted(pages)))
    body = data.draw(changed(pages[which]) | VALUES)
    server.always = {
        end: Answer(body=json.dumps(body if end == which else page).encode(), headers={"Content-Type": "x/json"})
        for end, page in sorted(pages.items(), key=lambda p: -len(p[0]))
    }
    with bounded(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(stac, "PATIENCE", 0.0)
        search(WORLD, month_of(EARTH), server.base, collection=str(COLLECTION["id"]))


@FEW
@given(data=st.data())
def test_any_card(data: st.DataObject, untrained: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = data.draw(changed(json.loads((Path(untrained) / "card.json").read_text())))
    folder = tmp_path_factory.getbasetemp() / "fuzz_card"
    folder.mkdir(exist_ok=True)
    (folder / "card.json").write_text(json.dumps(content))
    with bounded():
        card: Card = read_card(folder)
        card.config()


LEGEND = tomllib.loads(legends.source("landcover"))


@FEW
@given(fields=changed(LEGEND))
def test_any_legend(fields: Any) -> None:
    with bounded():
        legends.Legend(**fields)


@settings(FEW, max_examples=15)
@given(at=st.integers(0, len(legends.source("scenicness")) - 1), text=st.text("[]{}=.,'\"\\#\n0_xeE\0é", max_size=6))
def test_any_text_in_a_legend(at: int, text: str) -> None:
    good = legends.source("scenicness")
    with bounded():
        legends.parse((good[:at] + text + good[at + len(text) :]).encode(), "fuzz.toml")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A small store of composites and its metadata."""
    tile = Tile("31UES_02_01", Grid(32631, 520_460, 5_689_760, 32, 32))
    path = tmp_path_factory.mktemp("fuzz_store") / store.COMPOSITES
    kept = store.create(path, [tile], 32, Period(2018, 12, 1), {"weights": {"name": "x"}})
    kept.write(tile, {"composite": np.ones((1, 10, 32, 32), np.uint16), "clear": np.ones((1, 32, 32), np.uint8)})
    return path, json.loads((path / "zarr.json").read_text())


@settings(FEW, max_examples=40)
@given(data=st.data())
def test_any_metadata_of_a_store(data: st.DataObject, made: tuple[Path, Any]) -> None:
    path, good = made
    about = data.draw(changed(good["attributes"]["geomap"]))
    content = good | {"attributes": {"geomap": about}}
    (path / "zarr.json").write_text(json.dumps(content))
    with bounded():
        kept = store.open_store(path)
        for tile in kept.tiles[:1]:
            kept.has(tile)


BEGUN: Any = {
    "request": {"geomap": "x", "bounds": [1, 2, 3, 4]},
    "tiles": {"31UES_02_01": {"pixels": 4, "fingerprint": "f"}},
    "left_out": [{"id": "a", "cause": "cloudy", "detail": "x"}],
    "finished": False,
}
READERS: dict[str, tuple[str, Any, Callable[[Path], object]]] = {
    "request": ("tiles/request.json", BEGUN, lambda p: (status.status(p), directory.open_directory(p, {}))),
    "quarantine": ("tiles/quarantine.json", {"a": {"cause": "x: y", "fingerprint": "f"}}, status.status),
    "running": ("tiles/running.json", {"started": 1.0, "running": {"a": 1.0}, "failed": {}}, status.status),
    "record": (
        "run.json",
        {"request": {}, "scenes": [], "left_out": [], "missed": [], "tiles": [], "quarantined": {}, "maps": {}},
        record.inputs,
    ),
    "made from": (
        "composites_from/31UES_02_01.json",
        {"months": {"2023-04": "x"}, "dark": {"a": [1, 2]}},
        lambda p: read_made_from(p, Tile("31UES_02_01", Grid(32631, 520_460, 5_689_760, 2, 2))),
    ),
}


@pytest.mark.parametrize("kind", READERS)
@settings(FEW, max_examples=25)
@given(data=st.data())
def test_any_state_of_a_run(kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    name, good, read = READERS[kind]
    home = tmp_path_factory.mktemp("fuzz_run")
    for folder in ("tiles", "composites_from"):
        (home / folder).mkdir()
    (home / "tiles/request.json").write_text(json.dumps(BEGUN))
    (home / name).write_text(json.dumps(data.draw(changed(good) | VALUES)))
    with bounded():
        try:
            read(home)
        except (OSError, ValueError):
            assert kind == "made from"  # its readers take these for a tile to be made again
