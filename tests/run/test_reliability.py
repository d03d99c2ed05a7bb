"""Whole runs under what goes wrong around them: refusing servers, limits, cloud, another order; the bytes stay."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from geomap import files
from geomap.run.map import map_area
from geomap.run.request import Request
from geomap.types import Period
from tests.support import places
from tests.support.archive import items_of, served, write_items
from tests.support.outputs import digests, problems
from tests.support.requests import request_for
from tests.support.server import Answer, Server

Archive = Callable[..., Path]
PART = "4.0600,50.7440,4.0630,50.7460"


@pytest.fixture(scope="module")
def quiet(archive: Archive, asking: Callable[..., Request], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The maps of two months, from local files in their order."""
    out = tmp_path_factory.mktemp("quiet") / "out"
    map_area(asking(archive(dates=9) / "items.json"), out)
    return out


def maps(folder: Path) -> dict[str, str]:
    """Digests of the maps alone: which scenes there were, and from where, is told beside them."""
    return {name: digest for name, digest in digests(folder).items() if name.endswith(".tif")}


def pixels(path: Path) -> Any:
    with rasterio.open(path) as m:
        return m.read(1)


# --- servers


class Unsteady(Server):
    """Refuses a share of all requests, those of a seeded draw."""

    share = 0.3

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.draw = random.Random(5)
        self.refused = 0

    def answer(self, path: str, query: str) -> Answer:
        with self.lock:
            if self.draw.random() < self.share:
                self.refused += 1
                return Answer(503, body=b"")
        return super().answer(path, query)


def test_a_server_that_refuses_every_third_request_costs_time_and_no_byte(archive, asking, quiet, tmp_path):
    folder = archive(dates=9)
    with Unsteady(folder) as server:
        result = map_area(asking(served(folder, server.base, tmp_path / "items.json")), tmp_path / "out")
    assert server.refused > 0.2 * len(server.seen) > 20
    assert result.missed == 0
    assert maps(tmp_path / "out") == maps(quiet)


class Limited(Server):
    """Refuses requests beyond a number in hand at once, each for 20 ms."""

    def __init__(self, folder: Path, limit: int) -> None:
        super().__init__(folder)
        self.limit = limit
        self.refused = 0

    def answer(self, path: str, query: str) -> Answer:
        with self.lock:
            over = self.in_hand > self.limit
            self.refused += over
        given = Answer(429, {"Retry-After": "1"}, b"") if over else super().answer(path, query)
        return replace(given, wait=0.02)


@pytest.mark.parametrize(("provider", "limit", "known"), [("cdse", 4, True), ("earth-search", 6, False)])
def test_a_limit_of_connections_is_kept_where_it_is_known_and_survived_where_it_is_not(
    archive, asking, quiet, tmp_path, provider, limit, known
):
    folder = archive(provider, dates=9)
    with Limited(folder, limit) as server:
        map_area(asking(served(folder, server.base, tmp_path / "items.json")), tmp_path / "out")
    if known:
        assert server.most_in_hand == server.most_open == server.limit
        assert not server.refused
    else:
        assert server.most_in_hand > server.limit
        assert server.refused
    assert maps(tmp_path / "out") == maps(quiet)


# --- clouds


def clouded(items: list[dict[str, Any]], month: str, folder: Path) -> list[dict[str, Any]]:
    """The items, with every pixel of one month's scenes called cloud."""
    folder.mkdir()
    made = json.loads(json.dumps(items))
    for item in made:
        if item["properties"]["datetime"].startswith(month):
            asset = item["assets"]["scl"]
            with rasterio.open(asset["href"]) as f:
                cloud, profile = np.full(f.shape, 9, np.uint8), f.profile
            asset["href"] = str(folder / f"{item['id']}.tif")
            with rasterio.open(asset["href"], "w", **profile) as out:
                out.write(cloud, 1)
    return made


def test_a_month_of_clouds_is_a_month_without_scenes_and_never_a_month_of_zeros(archive, asking, tmp_path):
    """Three ways for a September to be missing: cloud, no scene, not asked for."""
    folder = archive(dates=14)
    items, september = items_of(folder), "2018-09"
    kept = [item for item in items if not item["properties"]["datetime"].startswith(september)]
    assert 0 < len(kept) < len(items)
    three = Period(2018, 8, 3)
    for name, found in {"whole": items, "empty": kept, "cloudy": clouded(items, september, tmp_path / "scl")}.items():
        map_area(asking(write_items(found, tmp_path / f"{name}.json"), period=three), tmp_path / name)
    assert maps(tmp_path / "cloudy") == maps(tmp_path / "empty")
    clear, less = (pixels(tmp_path / name / "clear_months.tif") for name in ("whole", "cloudy"))
    assert clear[clear != 255].max() == 3
    assert less[less != 255].max() == 2
    labels = pixels(tmp_path / "cloudy/landcover.tif")
    np.testing.assert_array_equal(labels > 0, (less > 0) & (less != 255))
    assert (labels != pixels(tmp_path / "whole/landcover.tif")).any()  # September told something


def test_nothing_but_clouds_is_a_map_without_a_class(archive, asking, tmp_path):
    items = clouded(items_of(archive(dates=4)), "2018-08", tmp_path / "scl")
    result = map_area(asking(write_items(items, tmp_path / "items.json"), period=Period(2018, 8, 1)), tmp_path / "out")
    assert not result.quarantined
    assert not pixels(tmp_path / "out/landcover.tif").any()
    assert (pixels(tmp_path / "out/landcover_confidence.tif") == 255).all()
    assert set(np.unique(pixels(tmp_path / "out/clear_months.tif"))) == {0, 255}
    assert problems(tmp_path / "out") == ()


def test_fewer_months_mean_less_confidence(archive, asking, tmp_path):
    """Of the default weights, on real pixels; of a single pixel it need not hold."""
    folder, spring = archive(), ("2019-04", "2019-05")
    four = asking(folder / "items.json", period=Period(2019, 3, 4), weights="default", area=PART)
    map_area(four, tmp_path / "four")
    kept = [item for item in items_of(folder) if not item["properties"]["datetime"].startswith(spring)]
    map_area(replace(four, stac=str(write_items(kept, tmp_path / "less.json"))), tmp_path / "less")
    one, other = (pixels(tmp_path / name / "landcover_confidence.tif").astype(float) for name in ("four", "less"))
    both = (one != 255) & (other != 255)
    assert both.sum() > 100
    assert other[both].mean() < one[both].mean()


# --- files that come back


@pytest.fixture
def two(archive, untrained, tmp_path) -> tuple[Request, Path]:
    """A request for two tiles, and a file of a scene of the first, which can be taken away."""
    items = places.more_places(archive(dates=9), tmp_path, 2, ())
    request = request_for(items, untrained, area=places.area(), period=Period(2018, 9, 1))
    first = next(item for item in json.loads(items.read_text())["features"] if "201809" in item["id"])
    return request, Path(first["assets"]["scl"]["href"])  # read whatever the sky was


def test_a_refresh_reads_again_what_could_not_be_read(two, tmp_path):
    request, file = two
    out, kept = tmp_path / "out", tmp_path / "kept"
    file.rename(kept)
    assert map_area(request, out, refresh=True).missed == 1
    gaps = digests(out)
    assert map_area(request, out).seconds == {}  # without being told to look again, the finished map stays
    again = map_area(request, out, refresh=True)
    assert (again.resumed, again.tiles, again.missed) == (1, 2, 1)  # that tile alone, which still lacks the scene
    assert digests(out) == gaps
    kept.rename(file)
    last = map_area(request, out, refresh=True)
    assert (last.resumed, last.missed) == (1, 0)
    map_area(request, tmp_path / "fresh")
    assert digests(out) == digests(tmp_path / "fresh") != gaps
    assert map_area(request, out, refresh=True).seconds == {}  # nothing is missing, so nothing is made


# --- order


def test_the_order_of_items_does_not_show(archive, asking, quiet, tmp_path):
    items = items_of(archive(dates=9))
    random.Random(1).shuffle(items)
    assert items != items_of(archive(dates=9))
    map_area(asking(write_items(items, tmp_path / "items.json")), tmp_path / "out")
    one, other = digests(quiet), digests(tmp_path / "out")
    assert one.keys() == other.keys()
    named = {"run.json", files.PAGE, files.SUMS}  # they name the item file by its sha256
    assert {n for n in one if one[n] != other[n]} == named
