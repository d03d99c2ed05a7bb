"""What neighbouring tiles share is read once, and every tile is what it would be alone."""

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

import geomap
from geomap import aoi, grid, pipeline
from geomap.catalog.over import over, rank
from geomap.catalog.search import search
from geomap.composite.mask import Mask, clear_np, first_np
from geomap.read.blocks import Kept
from geomap.read.header import Headers
from geomap.run.plan import plan_request
from geomap.run.request import Request
from geomap.sentinel2 import BANDS
from geomap.store import store
from geomap.types import Composite, Grid, Period, Scene, Tile
from tests.support.archive import PATCH, served
from tests.support.requests import tiles_of
from tests.support.server import Server

PERIOD = Period(2018, 8, 4)
DATES = 9
Archive = Callable[..., Path]


@pytest.fixture(scope="module")
def scenes(archive: Archive) -> tuple[Scene, ...]:
    return search(aoi.parse_area(PATCH).geometry, PERIOD, str(archive(dates=DATES) / "items.json")).scenes


def in_pairs(scenes: tuple[Scene, ...]) -> list[list[tuple[Grid, list[Scene], tuple[int, ...]]]]:
    """The tiles of the patch, ragged at its edges, in the groups that are read together."""
    tiles = grid.tiles(aoi.parse_area(PATCH))
    groups = grid.in_pairs(tiles, lambda tile: tile.grid).values()
    return [[(tile.grid, over(scenes, tile.grid), ()) for tile in near] for near in groups]


def assert_equal(one: Composite, other: Composite) -> None:
    np.testing.assert_array_equal(one.dn, other.dn)
    np.testing.assert_array_equal(one.clear, other.clear)
    assert (one.dark, one.gave, one.missed) == (other.dark, other.gave, other.missed)


@pytest.mark.parametrize("mask", [Mask(), Mask(dilation=2)])
def test_tiles_read_together_are_those_read_alone(scenes: tuple[Scene, ...], mask: Mask) -> None:
    with tiles_of(20):
        groups, seen = in_pairs(scenes), False
        assert 4 in {len(near) for near in groups}
        for number, near in enumerate(groups):
            steps = (1,) if number % 2 else ()  # an update skips months
            near = [(where, members, steps if i else ()) for i, (where, members, _) in enumerate(near)]
            together = pipeline.read_together(near, PERIOD, mask)
            for where, members, skip in near:
                alone = pipeline.compose(members, where, PERIOD, mask, skip=skip)
                assert_equal(pipeline.compose(members, where, PERIOD, mask, skip=skip, together=together), alone)
                seen = seen or bool(alone.dn.any())
        assert seen


def test_a_damaged_file_costs_the_tiles_that_need_it_and_no_other(scenes: tuple[Scene, ...], tmp_path: Path) -> None:
    """Tiles are then read as if they were alone, so what is missed does not depend on the neighbours."""
    with tiles_of(32):
        near = max(in_pairs(scenes), key=len)
        broken = tmp_path / "B05.tif"
        broken.write_bytes(Path(scenes[0].assets["B05"].href).read_bytes()[:900])
        asset = replace(scenes[0].assets["B05"], href=str(broken))
        odd = replace(scenes[0], assets={**scenes[0].assets, "B05": asset})
        near = [(where, [odd if s.id == odd.id else s for s in members], skip) for where, members, skip in near]
        assert pipeline.read_together(near, PERIOD) is None
        made = [pipeline.compose(members, where, PERIOD) for where, members, _ in near]
        assert [m.scene for one in made for m in one.missed] == [odd.id] * len(made)


def test_each_file_is_opened_and_fetched_once_for_four_tiles(archive: Archive, tmp_path: Path) -> None:
    folder = archive(dates=6)
    with Server(folder) as server, tiles_of(32):
        items = served(folder, server.base, tmp_path / "items.json")
        found = search(aoi.parse_area(PATCH).geometry, PERIOD, str(items), allow_hosts=["127.0.0.1"]).scenes
        near = max(in_pairs(found), key=len)
        assert len(near) == 4
        with Headers() as kept:
            together = pipeline.read_together(near, PERIOD, kept=kept)
            assert together is not None
            made = [
                pipeline.compose(members, where, PERIOD, together=together, kept=kept) for where, members, _ in near
            ]
        clear = [scene for scene in found if any(one.gave.get(scene.id) == "clear" for one in made)]
        asked = Counter((seen.method, seen.path) for seen in server.seen)
        for scene in clear:
            for band in (*BANDS, "SCL"):
                name = scene.assets[band].href.partition(server.base)[2]
                assert asked["HEAD", name] == asked["GET", name] == 1  # the header's request has all of a small file


def test_a_file_that_changes_between_two_tiles_is_opened_again(archive: Archive, tmp_path: Path) -> None:
    folder = shutil.copytree(archive(dates=6), tmp_path / "archive")
    items = served(folder, str(folder), tmp_path / "items.json", "")
    found = search(aoi.parse_area(PATCH).geometry, PERIOD, str(items)).scenes
    with tiles_of(32), Headers() as kept:
        first, second, *_ = grid.tiles(aoi.parse_area(PATCH))
        pipeline.compose(over(found, first.grid), first.grid, PERIOD, kept=kept)
        for file in folder.rglob("*.tif"):
            with rasterio.open(file) as f:
                pixels, profile = f.read(), f.profile
            with rasterio.open(file, "w", **{**profile, "zlevel": 1, "blockxsize": 16, "blockysize": 16}) as out:
                out.write(pixels)
        there = over(found, second.grid)
        made = pipeline.compose(there, second.grid, PERIOD, kept=kept)
        assert_equal(made, pipeline.compose(there, second.grid, PERIOD))
        assert not made.missed


def test_the_header_that_was_not_used_for_the_longest_time_is_dropped() -> None:
    kept: Kept[int] = Kept(most=2)
    kept.put("a", 1)
    kept.put("b", 2)
    assert kept.get("a") == 1
    kept.put("c", 3)
    assert [kept.get(name) for name in "abc"] == [1, None, 3]


def test_the_plan_counts_requests_and_bytes_as_the_server_does(archive: Archive, tmp_path: Path) -> None:
    folder = archive(dates=DATES)
    with Server(folder) as server:
        items = served(folder, server.base, tmp_path / "items.json")
        asked = Request(
            area=PATCH, period=PERIOD, stac=str(items), legends="landcover", device="cpu", allow_hosts=("127.0.0.1",)
        )
        plan = plan_request(asked)
        assert plan.requests is not None
        assert plan.download_bytes is not None
        server.seen.clear()
        server.sent = 0
        found = search(asked.area.geometry, PERIOD, str(items), allow_hosts=["127.0.0.1"]).scenes
        for tile in grid.tiles(asked.area):
            pipeline.compose(over(found, tile.grid), tile.grid, PERIOD)
        assert plan.requests == pytest.approx(len(server.seen), rel=0.1)


def test_of_one_pass_the_granule_whose_blocks_are_the_tiles_comes_first(scenes: tuple[Scene, ...]) -> None:
    tile = Grid(32631, 499_980 + 20_480, 5_700_000 - 10_240, 64, 64)

    def at(west: float, north: float, name: str) -> Scene:
        assets = {b: replace(a, transform=(10, 0, west, 0, -10, north)) for b, a in scenes[0].assets.items()}
        return replace(scenes[0], id=name, assets=assets)

    own, other = at(499_980, 5_700_000, "b"), at(399_960, 5_700_000, "a")
    assert sorted([other, own], key=lambda scene: rank(scene, tile)) == [own, other]
    newer = replace(other, baseline="05.10")
    assert min([own, newer], key=lambda scene: rank(scene, tile)) == newer


def test_of_a_pass_only_what_earlier_scenes_have_not_seen_is_needed() -> None:
    """Vegetation (4), a cloud (9), a defective pixel (1) and no data (0)."""
    scl = np.array([[[4, 9, 1, 0, 0]], [[4, 4, 4, 9, 0]], [[4, 4, 9, 4, 4]], [[9, 4, 4, 4, 4]]], np.uint8)
    first = first_np(clear_np(scl), scl, ["p", "p", "q", "p"])
    assert first[:, 0].astype(int).tolist() == [[1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [1, 1, 0, 1, 1], [0, 0, 0, 0, 1]]


def test_a_store_over_two_squares_opens_as_one_array(tmp_path: Path) -> None:
    """Each square of 100 km counts its tiles from its own corner; `geomap.open_store` puts them side by side."""
    area = aoi.parse_area("4.42,51.20,4.435,51.205")  # 600 km east, the border of 31UES and 31UFS, at 4.43 degrees
    with tiles_of(32):
        tiles = grid.tiles(area)
        assert {tile.name.partition("_")[0] for tile in tiles} == {"31UES", "31UFS"}
        made = store.create(tmp_path / store.COMPOSITES, tiles, 32, Period(2018, 12, 1), {})
    whole = grid.mosaic_grid(tuple(tile.grid for tile in tiles))
    truth = np.random.default_rng(0).integers(1, 9000, (1, len(BANDS), *whole.shape)).astype(np.uint16)
    for tile in tiles:
        write(made, tile, truth, whole)
    opened = geomap.open_store(tmp_path)["composite"]
    np.testing.assert_array_equal(opened.values, truth)
    assert opened.rio.crs.to_epsg() == 32631
    assert tuple(opened.rio.transform())[:6] == whole.transform
    assert opened["x"].values[0] == whole.west + 5


def write(made: store.Store, tile: Tile, truth: np.ndarray, whole: Grid) -> None:
    row, column = tile.grid.offset_in(whole)
    part: Any = (..., slice(row, row + tile.grid.height), slice(column, column + tile.grid.width))
    made.write(tile, {"composite": truth[part], "clear": np.ones((1, *tile.grid.shape), np.uint8)})
