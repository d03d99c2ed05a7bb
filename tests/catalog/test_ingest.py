"""From catalogue to composite: one surface in every dialect, each pass counted once, decisions told."""

import copy
import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from geomap import aoi, grid, pipeline
from geomap.catalog import offset_check
from geomap.catalog.search import search
from geomap.errors import OffsetError, ReadError
from geomap.run import record
from geomap.run.map import map_area
from geomap.sentinel2 import BANDS, BANDS_10M, SCL_NOT_CLEAR
from geomap.types import Composite, Dark, Grid, Period
from tests.support.archive import Series, items_of
from tests.support.requests import request_for
from tests.support.runner import geomap, refused

AREA = aoi.parse_area("4.0588,50.7434,4.0664,50.7480")
"""Inside the patch."""
PERIOD = Period(2018, 8, 2)
DATES = 7
"""Scenes of August and September 2018: the first, the third and the last are clear, wholly or in part."""

Item = dict[str, Any]
Archive = Callable[..., Path]


def composed(items: list[Item], folder: Path, **options: Any) -> tuple[Composite, tuple[Any, ...]]:
    """The composite over AREA of an item file, and its scenes."""
    path = folder / "changed.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    scenes = search(AREA.geometry, PERIOD, str(path), **options).scenes
    (tile,) = grid.tiles(AREA)
    return pipeline.compose(scenes, tile.grid, PERIOD), scenes


def assert_equal(one: Composite, other: Composite) -> None:
    np.testing.assert_array_equal(one.dn, other.dn)
    np.testing.assert_array_equal(one.clear, other.clear)


# --- one surface, eight ways


@pytest.fixture(scope="module")
def truth(series: Series) -> Composite:
    """Medians and counts by numpy alone, from the series itself."""
    (tile,) = grid.tiles(AREA)
    seen = series.first(DATES)
    month = seen.times.astype("datetime64[M]").astype(int) % 12 - 7
    row, col = tile.grid.offset_in(Grid(seen.epsg, seen.west, seen.north, 64, 64))
    clear = ~np.isin(seen.layers["SCL"], SCL_NOT_CLEAR)
    here = np.s_[:, row : row + tile.grid.height, col : col + tile.grid.width]
    dn = np.zeros((2, 10, *tile.grid.shape), np.uint16)
    count = np.stack([twice(clear[month == m].sum(axis=0)[None])[here][0] for m in (0, 1)]).astype(np.uint8)
    for m in (0, 1):
        for b, band in enumerate(BANDS):
            values = seen.layers[band][month == m]
            mask = twice(clear[month == m]) if band in BANDS_10M else clear[month == m]
            median = np.ma.median(np.ma.masked_where(~mask | (values == 0), values.astype(float)), axis=0)
            median = np.floor(np.ma.filled(median, 0)).astype(np.uint16)[None]
            dn[m, b] = (median if band in BANDS_10M else twice(median))[here][0]
    assert count.max() == 2
    return Composite(dn, count)


def twice(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels.repeat(2, 1).repeat(2, 2)


def flagged(items: list[Item], flag: bool) -> list[Item]:
    """As Earth Search's sentinel-2-l2a serves them, with its flag."""
    for item in items:
        item["collection"] = "sentinel-2-l2a"
        item["properties"]["earthsearch:boa_offset_applied"] = flag
    return items


@pytest.mark.parametrize(
    ("provider", "baseline", "flag", "policy", "offset"),
    [
        pytest.param("earth-search", "05.10", True, "auto", 0, id="earth-search, taken off"),
        pytest.param("earth-search-c1", "05.10", False, "auto", -1000, id="earth-search, still in the data"),
        pytest.param("earth-search", "05.10", False, "applied", 0, id="earth-search, flag wrongly false"),
        pytest.param("earth-search-c1", "05.10", None, "auto", -1000, id="earth-search-c1"),
        pytest.param("planetary-computer", "02.12", None, "auto", 0, id="planetary-computer 02.12"),
        pytest.param("planetary-computer", "04.00", None, "auto", -1000, id="planetary-computer 04.00"),
        pytest.param("planetary-computer", "05.10", None, "auto", -1000, id="planetary-computer 05.10, of 2018"),
        pytest.param("cdse", "05.10", None, "auto", -1000, id="cdse, raster:offset"),
    ],
)
def test_one_surface_served_eight_ways_is_one_composite(
    archive: Archive,
    truth: Composite,
    tmp_path: Path,
    provider: str,
    baseline: str,
    flag: Any,
    policy: Any,
    offset: int,
) -> None:
    items = items_of(archive(provider, baseline, dates=DATES))
    if flag is not None:
        items = flagged(items, flag)
    made, scenes = composed(items, tmp_path, offset_policy=policy)
    assert {scene.assets[band].offset for scene in scenes for band in BANDS} == {offset}
    assert_equal(made, truth)
    assert offset_check.check(scenes, made.dark) == {}
    says = {scene.id[10:18]: offset_check.judge(scene, made.dark.get(scene.id, Dark())) for scene in scenes}
    asked = {day: said for day, said in says.items() if said != "not asked"}
    assert asked == {"20180804": "agrees", "20180918": "agrees"}


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(
    ("provider", "flag", "policy"),
    [("earth-search", False, "auto"), ("earth-search-c1", True, "auto"), ("earth-search-c1", False, "applied")],
)
def test_a_wrong_flag_stops_the_run_and_names_the_item(
    archive: Archive, untrained: str, tmp_path: Path, provider: str, flag: bool, policy: Any
) -> None:
    """Flags as in Element84/earth-search issues 66 and 71; and the user's own word, wrong."""
    path = tmp_path / "items.json"
    features = flagged(items_of(archive(provider, "05.10", dates=DATES)), flag)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    asked = request_for(path, untrained, area=AREA, period=PERIOD, offset=policy)
    help_ = {(False, "auto"): "type --offset applied", (False, "applied"): "type --offset unapplied"}
    advice = help_.get((flag, policy), "map from an item file without this scene")
    with pytest.raises(OffsetError, match=rf"item S2A_31UES_2018\d+_\d_L2A, B02: offset .*{advice}"):
        map_area(asked, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"tiles"}
    assert not record.inputs(tmp_path / "out").finished
    told = geomap("explain", tmp_path / "out", columns=220)
    assert told.exit_code == 0
    assert "7 scenes, not finished" in told.stdout
    assert ("--offset applied" if policy == "applied" else f"boa_offset_applied is {str(flag).lower()}") in told.stdout


# --- each pass counts once


@pytest.fixture(scope="module")
def plain(archive: Archive) -> list[Item]:
    """Without the offset, as the Planetary Computer serves them."""
    return items_of(archive("planetary-computer", "02.12", dates=DATES))


def rewritten(item: Item, folder: Path, columns: tuple[int, int] = (0, 64), add: int = 0, **changes: Any) -> Item:
    """A copy of an item whose files hold some columns (of 10 m) of the original's, with DNs added to the bands."""
    made = copy.deepcopy(item) | {"id": changes.pop("id")}
    made["properties"] |= changes
    for band, asset in made["assets"].items():
        with rasterio.open(asset["href"]) as source:
            scale = 64 // source.width
            left, right = (c // scale for c in columns)
            pixels = source.read(1, window=Window(left, 0, right - left, source.height))
            if band != "SCL":
                pixels = np.where(pixels > 0, pixels + add, 0).astype(np.uint16)
            lies = source.transform @ rasterio.Affine.translation(left, 0)
            path = folder / f"{made['id']}_{band}.tif"
            profile = source.profile | {"driver": "GTiff", "width": right - left, "transform": lies, "tiled": False}
            with rasterio.open(path, "w", **{k: v for k, v in profile.items() if "block" not in k}) as out:
                out.write(pixels, 1)
        asset |= {"href": str(path), "proj:shape": list(pixels.shape), "proj:transform": list(lies)[:6]}
    west, south, east, north = made["bbox"]
    west, east = (west + (east - west) * c / 64 for c in columns)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return made | {"bbox": [west, south, east, north], "geometry": {"type": "Polygon", "coordinates": [ring]}}


def test_what_pages_repeat_counts_once(plain: list[Item], tmp_path: Path) -> None:
    alone, _ = composed(plain, tmp_path)
    again, scenes = composed([*plain, plain[0], *plain], tmp_path)
    assert len(scenes) == DATES
    assert_equal(again, alone)


def test_a_reprocessed_version_takes_the_old_ones_place(plain: list[Item], tmp_path: Path) -> None:
    """One date of August comes again, brighter: with both, the month's medians would lie between."""
    newer = rewritten(plain[0], tmp_path, add=1300, id="newer", **{"s2:processing_baseline": "05.10"})
    both, scenes = composed([*plain, newer], tmp_path)
    only, _ = composed([newer, *plain[1:]], tmp_path)
    old, _ = composed(plain, tmp_path)
    assert "newer" in {scene.id for scene in scenes}
    assert len(scenes) == DATES
    assert_equal(both, only)
    assert (both.dn != old.dn).any()
    np.testing.assert_array_equal(both.clear, old.clear)


def test_a_better_copy_that_cannot_be_read_names_the_one_to_use(
    plain: list[Item], untrained: str, tmp_path: Path
) -> None:
    """--exclude of the better one gives the same pixels as if it had not been there; nothing else hides the copy."""
    better = rewritten(plain[0], tmp_path, id="better", **{"s2:processing_baseline": "05.10"})
    Path(better["assets"]["B04"]["href"]).unlink()
    items, says = [*plain, better], f"--exclude better uses its copy {plain[0]['id']}"
    made, scenes = composed(items, tmp_path)
    (missed,) = made.missed
    assert missed.scene == "better"
    assert missed.detail.endswith(says)
    assert {scene.id: scene.copy for scene in scenes if scene.copy} == {"better": plain[0]["id"]}
    (tile,) = grid.tiles(AREA)
    with pytest.raises(ReadError, match="; 1 have a copy, which is used with --exclude better; the first: "):
        pipeline.compose(scenes, tile.grid, PERIOD, max_missed=0)
    assert_equal(composed(items, tmp_path, exclude=["better"])[0], composed(plain, tmp_path)[0])

    composed(items, tmp_path)
    asked = request_for(tmp_path / "changed.json", untrained, area=AREA, period=PERIOD, min_clear_months=1)
    map_area(asked, out := tmp_path / "out")
    assert says in re.sub(r"[\s│]+", " ", geomap("explain", out).stdout)
    assert any(m["detail"].endswith(says) for m in json.loads((out / "run.json").read_text())["missed"])


def test_the_overlap_of_neighbouring_granules_is_one_observation(plain: list[Item], tmp_path: Path) -> None:
    """The neighbour's eastern half of one pass, 500 DN brighter; then the same as a pass of its own."""
    alone, _ = composed(plain, tmp_path)
    neighbour = rewritten(plain[0], tmp_path, columns=(32, 64), add=500, id="neighbour", **{"grid:code": None})
    fused, scenes = composed([*plain, neighbour], tmp_path)
    assert len(scenes) == DATES + 1
    assert_equal(fused, alone)
    later = copy.deepcopy(neighbour)
    later["properties"]["datetime"] = plain[0]["properties"]["datetime"].replace("Z", ".5Z")
    assert_equal(composed([*plain, later], tmp_path)[0], alone)  # the same second
    when = scenes[0].time + timedelta(minutes=90)
    later["properties"]["datetime"] = when.isoformat()
    counted, _ = composed([*plain, later], tmp_path)
    (tile,) = grid.tiles(AREA)
    east = np.arange(tile.grid.width) + (tile.grid.west - 574680) // 10 >= 32
    assert (counted.clear[0, :, east] == alone.clear[0, :, east] + 1).all()
    assert (counted.clear[0, :, ~east] == alone.clear[0, :, ~east]).all()
    assert (counted.dn[0, :, :, east] != alone.dn[0, :, :, east]).any()


def test_a_split_datastrip_fills_the_tile(plain: list[Item], tmp_path: Path) -> None:
    """Two items of one granule, each with its half and a little more; together they are the whole."""
    whole, _ = composed(plain, tmp_path)
    west = rewritten(plain[0], tmp_path, columns=(0, 34), id="west")
    east = rewritten(plain[0], tmp_path, columns=(32, 64), id="east")
    split, scenes = composed([west, *plain[1:], east], tmp_path)
    assert {"west", "east"} < {scene.id for scene in scenes}
    assert_equal(split, whole)
    half, _ = composed([west, *plain[1:]], tmp_path)
    assert half.clear.sum() < whole.clear.sum()


# --- what was decided is told


@pytest.mark.usefixtures("wide")
def test_run_json_the_item_and_explain_tell_every_decision(archive: Archive, untrained: str, tmp_path: Path) -> None:
    features = items_of(archive("earth-search-c1", "05.10", dates=DATES))
    old = items_of(archive("earth-search", "05.10", dates=DATES))
    overcast = next(f for f in features[1:] if f["properties"]["eo:cloud_cover"] > 90)
    incomplete = copy.deepcopy(features[0]) | {"id": "incomplete"}
    incomplete["properties"]["datetime"] = "2018-08-05T11:00:00Z"
    del incomplete["assets"]["nir08"]
    items = tmp_path / "items.json"
    gap = features.pop()  # of the last date there is only the other collection's copy
    old_last = next(f for f in old if f["id"] == gap["id"])
    copies = [{**old[0], "id": "copy"}, old_last]
    items.write_text(json.dumps({"type": "FeatureCollection", "features": [*features, *copies, incomplete]}))
    asked = request_for(items, untrained, area=AREA, period=PERIOD, max_cloud=90)
    map_area(asked, tmp_path / "out")
    run = json.loads((tmp_path / "out/run.json").read_text())
    by_id = {scene["id"]: scene for scene in run["scenes"]}
    first, last = by_id[features[0]["id"]], by_id[gap["id"]]
    assert first["offsets"] == [
        {
            "dn": -1000,
            "reason": "baseline 05.10 and the stated offset of -1000 DN agree: in the data",
            "bands": [*BANDS],
        }
    ]
    assert last["offsets"][0]["reason"] == "earthsearch:boa_offset_applied is true: already taken off"
    assert first["vegetation"]["offset"] == last["vegetation"]["offset"] == "agrees"
    assert first["vegetation"]["dark"] == 0
    assert last["vegetation"]["dark"] > 0.5 * last["vegetation"]["values"] > 300
    unused = {item["id"]: item for item in run["left_out"]}
    assert unused["copy"]["cause"] == "copy"
    assert features[0]["id"] in unused["copy"]["detail"]
    assert unused["incomplete"] == {"id": "incomplete", "cause": "incomplete", "detail": "no asset for B8A"}
    assert unused[overcast["id"]]["cause"] == "cloudy"

    (item,) = (tmp_path / "out/stac").glob("geomap-*.json")
    groups = json.loads(item.read_text())["properties"]["geomap:offsets"]
    assert [(g["provider"], g["dn"], g["scenes"]) for g in groups] == [
        ("earth-search-c1", -1000, len(by_id) - 1),
        ("earth-search-l2a", 0, 1),
    ]
    told = geomap("explain", tmp_path / "out", columns=240)
    assert told.exit_code == 0
    for text in (
        "earth-search-c1", "sentinel-2a", "2018-09-18", "05.10", "-1000", "already taken off", "1 agrees",
        "copy", "no asset for B8A", "cloudy",
    ):  # fmt: skip
        assert text in told.stdout
    assert "not finished" not in told.stdout


def test_explain_of_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    refused(geomap("explain", tmp_path), 2)
    (tmp_path / "run.json").write_text('{"scenes": []}')
    refused(geomap("explain", tmp_path), 2, "is damaged or of another version")
