"""Every scene of a search is used or left out for a reason; bad items and files never stop a run; holes are told."""

import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from geomap import aoi, grid, pipeline
from geomap.catalog import offset_check
from geomap.catalog.search import search
from geomap.errors import InputError, NoScenesError, OffsetError, ReadError
from geomap.run import account
from geomap.run.map import Result, map_area
from geomap.run.prepare import find_scenes
from geomap.run.request import Request
from geomap.run.tile_file import Seen
from geomap.sentinel2 import BANDS
from geomap.types import Composite, Dark, Period, Scene, SceneAsset, silent
from tests.support.archive import items_of, write_items
from tests.support.outputs import digests
from tests.support.requests import request_for, tiles_of
from tests.support.runner import geomap, refused

AREA = aoi.parse_area("4.0588,50.7434,4.0664,50.7480")
PERIOD = Period(2018, 8, 2)
DATES = 7
"""Scenes of August and September 2018: the first, the third and the last are clear, wholly or in part."""

Item = dict[str, Any]
Archive = Callable[..., Path]


@pytest.fixture
def items(archive: Archive) -> list[Item]:
    """Seven scenes, of which tests spoil some."""
    return items_of(archive("earth-search-c1", "05.10", dates=DATES))


@pytest.fixture
def run(untrained: str, tmp_path: Path) -> Callable[..., tuple[Result, dict[str, Any]]]:
    """Map items: run(items, out="out", ...) -> the result and run.json."""

    def run(items: list[Item], out: str = "out", **changes: Any) -> tuple[Result, dict[str, Any]]:
        result = map_area(asked(items, untrained, tmp_path, out, **changes), tmp_path / out)
        return result, json.loads((tmp_path / out / "run.json").read_text())

    return run


def asked(items: list[Item], weights: str, folder: Path, name: str = "out", **changes: Any) -> Request:
    path = write_items(items, folder / f"{name}.json")
    return request_for(path, weights, **({"area": AREA, "period": PERIOD} | changes))


def adds_up(told: dict[str, Any]) -> dict[str, int]:
    """The reasons for which items are left out, after a check that every item is counted once."""
    found = told["account"]
    assert found["used"] + found["in_part"] + sum(found["left_out"].values()) == found["items"]
    uses = [scene["fate"]["use"] for scene in told["scenes"]]
    assert (uses.count("used"), uses.count("in part")) == (found["used"], found["in_part"])
    reasons: dict[str, int] = found["left_out"]
    named = len(told["left_out"]) + uses.count("left out")
    assert named == sum(n for reason, n in reasons.items() if reason not in ("elsewhere", "of other days", "repeated"))
    return reasons


def shifted(item: Item, east: float) -> None:
    for asset in item["assets"].values():
        asset["proj:transform"][2] += east


# --- items that contradict themselves or cannot be read


def all_assets(**fields: Any) -> Callable[[Item], None]:
    def spoil(item: Item) -> None:
        for asset in item["assets"].values():
            asset.update(fields)

    return spoil


def properties(**fields: Any) -> Callable[[Item], None]:
    return lambda item: item["properties"].update(fields)


SPOILT: dict[str, tuple[Callable[[Item], None], str]] = {
    "transform 30 km off": (lambda item: shifted(item, 30_000), "contradiction"),
    "transform 300 km off": (lambda item: shifted(item, 300_000), "contradiction"),
    "zone next door": (properties(**{"proj:epsg": 32632}), "contradiction"),
    "other hemisphere": (properties(**{"proj:epsg": 32731}), "contradiction"),
    "two codes": (all_assets(**{"proj:code": "EPSG:32632"}), "contradiction"),
    "another tile": (properties(**{"grid:code": "MGRS-31UFS"}), "contradiction"),
    "proj:bbox elsewhere": (properties(**{"proj:bbox": [200000, 5500000, 309800, 5609800]}), "contradiction"),
    "bbox elsewhere": (lambda item: item.update(bbox=[5.05, 50.74, 5.06, 50.75]), "contradiction"),
    "transform of nan": (all_assets(**{"proj:transform": [10, 0, float("nan"), 0, -10, 5622440]}), "invalid"),
    "transform of 1e300": (all_assets(**{"proj:transform": [10, 0, 1e300, 0, -10, 5622440]}), "invalid"),
    "transform of zeros": (all_assets(**{"proj:transform": [0, 0, 0, 0, 0, 0]}), "invalid"),
    "transform of two": (all_assets(**{"proj:transform": [10, 0]}), "invalid"),
    "shape of nan": (all_assets(**{"proj:shape": [float("nan"), 64]}), "invalid"),
    "shape of nothing": (all_assets(**{"proj:shape": [0, -64]}), "invalid"),
    "cloud nan": (properties(**{"eo:cloud_cover": float("nan")}), "invalid"),
    "cloud inf": (properties(**{"eo:cloud_cover": float("inf")}), "invalid"),
    "cloud -1e308": (properties(**{"eo:cloud_cover": -1e308}), "invalid"),
    "scale 0": (all_assets(**{"raster:bands": [{"scale": "0", "offset": -0.1}]}), "invalid"),
    "scale nan": (all_assets(**{"raster:bands": [{"scale": float("nan"), "offset": -0.1}]}), "invalid"),
    "offset 1e308": (all_assets(**{"raster:bands": [{"scale": 0.0001, "offset": 1e308}]}), "invalid"),
    "bbox of 1e308": (lambda item: item.update(geometry=None, bbox=[-1e308, -1e308, 1e308, 1e308]), "invalid"),
    "no href": (lambda item: item["assets"]["blue"].pop("href"), "unopenable"),
    "href null": (all_assets(href=None), "unopenable"),
    "href of a number": (all_assets(href=7), "unopenable"),
    "href ftp": (lambda item: item["assets"]["blue"].update(href="ftp://example.org/a.tif"), "unopenable"),
    "href vsi": (lambda item: item["assets"]["blue"].update(href="/vsizip//etc/a.zip/b.tif"), "unopenable"),
    "one file twice": (lambda item: item["assets"]["blue"].update(href=item["assets"]["nir"]["href"]), "contradiction"),
    "no asset": (lambda item: item["assets"].pop("scl"), "incomplete"),
    "no baseline": (properties(**{"s2:processing_baseline": None}), "undecided"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_one_bad_item_is_left_out_by_name_and_the_others_are_searched(
    items: list[Item], untrained: str, tmp_path: Path, name: str
) -> None:
    spoil, cause = SPOILT[name]
    spoil(items[2])
    request = asked(items, untrained, tmp_path)
    found = find_scenes(request, silent)
    assert [(item.id, item.cause) for item in found.left_out] == [(items[2]["id"], cause)]
    assert len(found.scenes) == DATES - 1
    assert found.searched.items == DATES
    with pytest.raises(InputError, match=items[2]["id"]):  # HrefError and OffsetError are InputErrors
        find_scenes(replace(request, max_missed=0), silent)
    found = find_scenes(replace(request, max_missed=0, exclude=(items[2]["id"],)), silent)
    assert [item.cause for item in found.left_out] == ["excluded"]


def test_more_bad_items_than_may_be_missed_are_refused_and_named(
    items: list[Item], untrained: str, tmp_path: Path
) -> None:
    for item in items[::3]:
        shifted(item, 30_000)
    with pytest.raises(
        InputError, match=rf"3 of 7 scenes .* 1 may have one \(--max-missed 10\): .*{items[0]['id']}"
    ) as e:
        map_area(asked(items, untrained, tmp_path), tmp_path / "out")
    assert "outside its MGRS tile" in str(e.value) or "away from its geometry" in str(e.value)
    assert not (tmp_path / "out").exists()
    for item in items:
        item["properties"]["proj:epsg"] = 32632
    with pytest.raises(NoScenesError, match="states EPSG:32632, but its MGRS tile 31UES lies in EPSG:32631"):
        map_area(asked(items, untrained, tmp_path), tmp_path / "out")


def test_a_good_copy_takes_the_place_of_a_bad_one(items: list[Item], untrained: str, tmp_path: Path) -> None:
    better = copy.deepcopy(items[2]) | {"id": "better"}
    better["properties"]["s2:processing_baseline"] = "05.11"
    better["assets"]["blue"]["href"] = None
    found = find_scenes(asked([*items, better], untrained, tmp_path, max_missed=0), silent)
    assert len(found.scenes) == DATES
    assert [item.cause for item in found.left_out] == ["unopenable"]


# --- files that are not what their item says


def rewritten(item: Item, key: str, folder: Path, made: int | None = None, **changes: Any) -> None:
    """Point an asset to a copy of its file with another profile, or with one value everywhere."""
    with rasterio.open(item["assets"][key]["href"]) as source:
        profile = {**source.profile, "driver": "GTiff", "tiled": False, **changes}
        kept = {k: v for k, v in profile.items() if "block" not in k and v is not None}
        path = folder / f"{item['id']}_{key}.tif"
        with rasterio.open(path, "w", **kept) as out:
            pixels = source.read(1)[: kept["height"], : kept["width"]]
            out.write(pixels if made is None else np.full_like(pixels, made), 1)
    item["assets"][key]["href"] = str(path)


FILES: dict[str, dict[str, Any]] = {
    "web mercator": {"crs": "EPSG:3857"},
    "zone next door": {"crs": "EPSG:32632"},
    "30 km off": {"transform": rasterio.Affine(20, 0, 604_680, 0, -20, 5_622_440)},
    "transform of nan": {"transform": rasterio.Affine(20, 0, float("nan"), 0, -20, 5_622_440)},
    "smaller": {"height": 4, "width": 4},
    "turned": {"transform": rasterio.Affine(20, 0, 574_680, 0, -20, 5_622_440) @ rasterio.Affine.rotation(2)},
    "sheared": {"transform": rasterio.Affine(20, 1, 574_680, 1, -20, 5_622_440)},
    "no place at all": {"crs": None, "transform": rasterio.Affine(20, 0, 0, 0, -20, 60)},
}


def composed(items: list[Item], folder: Path) -> Composite:
    """The composite over AREA of items."""
    path = write_items(items, folder / "composed.json")
    scenes = search(AREA.geometry, PERIOD, str(path)).scenes
    (tile,) = grid.tiles(AREA)
    return pipeline.compose(scenes, tile.grid, PERIOD)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("stated", [True, False], ids=["item says where", "item says nothing"])
def test_a_file_that_lies_elsewhere_than_its_item_says_is_left_out_and_named(
    items: list[Item], tmp_path: Path, name: str, stated: bool
) -> None:
    rewritten(items[0], "scl", tmp_path, **FILES[name])
    if not stated:
        for asset in items[0]["assets"].values():
            del asset["proj:transform"], asset["proj:shape"]
    made = composed(items, tmp_path)
    if name in ("smaller", "turned", "sheared") and not stated:
        assert made.missed == ()  # such a file in the right place is no contradiction
        return
    assert [(m.scene, m.cause) for m in made.missed] == [(items[0]["id"], "contradiction")]
    without = composed(items[1:], tmp_path)
    np.testing.assert_array_equal(made.dn, without.dn)
    np.testing.assert_array_equal(made.clear, without.clear)


def test_a_shape_that_is_not_its_files_is_a_contradiction(items: list[Item], tmp_path: Path) -> None:
    for asset in items[0]["assets"].values():
        asset["proj:shape"] = [4, 4]
    assert [(m.scene, m.cause) for m in composed(items, tmp_path).missed] == [(items[0]["id"], "contradiction")]
    for item in items:
        for asset in item["assets"].values():
            asset["proj:shape"] = [4, 4]
    with pytest.raises(ReadError, match=r"7 of 7 scenes .*but its item says"):
        composed(items, tmp_path)


def test_a_file_without_a_coordinate_system_takes_that_of_its_item(items: list[Item], tmp_path: Path) -> None:
    healthy = composed(items, tmp_path)
    for key in ("scl", "blue", "swir16"):
        rewritten(items[0], key, tmp_path, crs=None)
    made = composed(items, tmp_path)
    assert made.missed == ()
    np.testing.assert_array_equal(made.dn, healthy.dn)


@pytest.mark.parametrize("change", [{"dtype": "float32"}, {"count": 2}])
def test_a_file_of_another_kind_is_left_out_and_named(
    items: list[Item], tmp_path: Path, change: dict[str, Any]
) -> None:
    rewritten(items[0], "red", tmp_path, predictor=1, **change)
    (missed,) = composed(items, tmp_path).missed
    assert (missed.scene, missed.band, missed.cause) == (items[0]["id"], "B04", "contradiction")


@pytest.mark.parametrize("value", [12, 99, 255])
def test_classes_that_are_none_are_no_clouds(items: list[Item], tmp_path: Path, value: int) -> None:
    rewritten(items[0], "scl", tmp_path)
    with rasterio.open(items[0]["assets"]["scl"]["href"], "r+") as f:
        classes = f.read(1)
        classes[::3, ::3] = value
        f.write(classes, 1)
    (missed,) = composed(items, tmp_path).missed
    assert (missed.scene, missed.band, missed.cause) == (items[0]["id"], "SCL", "contradiction")
    assert str(value) in missed.detail


@pytest.mark.parametrize("compress", ["deflate", "lzw", None])
def test_classes_in_two_bytes_may_have_any_nodata_value(
    items: list[Item], tmp_path: Path, compress: str | None
) -> None:
    made = []
    for dtype, nodata in (("uint8", 0), ("uint16", 65_535)):
        changed, folder = copy.deepcopy(items), tmp_path / dtype
        folder.mkdir()
        rewritten(changed[0], "scl", folder, dtype=dtype, nodata=nodata, compress=compress)
        with rasterio.open(changed[0]["assets"]["scl"]["href"], "r+") as f:
            classes = f.read(1)
            classes[:, ::3] = nodata
            f.write(classes, 1)
        made.append(composed(changed, folder))
    assert made[1].missed == ()
    np.testing.assert_array_equal(made[1].clear, made[0].clear)
    assert (made[0].clear < composed(items, tmp_path).clear).any()


def test_a_pipe_in_place_of_a_file_is_not_waited_for(items: list[Item], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tif")
    items[0]["assets"]["red"]["href"] = str(tmp_path / "pipe.tif")
    (missed,) = composed(items, tmp_path).missed
    assert (missed.scene, missed.band, missed.cause) == (items[0]["id"], "B04", "damaged")


# --- offsets


def darkened(item: Item, folder: Path) -> None:
    """Leaves slightly below zero reflectance: DN 900 and more where the offset of 1000 is in the data."""
    for key in ("blue", "red"):
        with rasterio.open(item["assets"][key]["href"]) as source:
            pixels, profile = source.read(1), {**source.profile, "driver": "GTiff", "tiled": False}
        path = folder / f"{item['id']}_{key}.tif"
        with rasterio.open(path, "w", **{k: v for k, v in profile.items() if "block" not in k}) as out:
            out.write(np.where(pixels > 0, np.minimum(pixels, 950), 0).astype(pixels.dtype), 1)
        item["assets"][key]["href"] = str(path)


def test_a_scene_below_zero_over_leaves_is_weighed_against_the_others(
    items: list[Item], run: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    darkened(items[0], tmp_path)
    _, told = run(items)
    (left,) = told["left_out"]
    assert (left["id"], left["cause"]) == (items[0]["id"], "contradiction")
    assert "of clear vegetation" in left["detail"]
    assert f"left out: item {items[0]['id']}" in caplog.text
    assert adds_up(told)["contradiction"] == 1
    run(items, "without", exclude=(items[0]["id"],))
    for name in ("landcover.tif", "clear_months.tif"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()


def of(name: str, values: int, dark: int) -> tuple[Scene, dict[str, Dark]]:
    """A scene whose offset is in the data, and what its leaves show."""
    assets = {band: SceneAsset(band, f"/{band}.tif", -1000, "because") for band in BANDS}
    box = (4.0, 50.0, 5.0, 51.0)
    scene = Scene(name, "c", "earth-search-c1", PERIOD.start, "sentinel-2a", name, 32631, box, assets, "05.10")
    return scene, {name: Dark(values, dark)}


def test_an_offset_that_is_wrong_in_general_stops_and_one_odd_scene_does_not() -> None:
    right, wrong = [of(f"right{i}", 9000, 0) for i in range(9)], [of(f"wrong{i}", 9000, 6000) for i in range(3)]

    def weigh(*given: tuple[Scene, dict[str, Dark]], allowed: int = 1, so_far: bool = False) -> set[str]:
        counts = offset_check.total(count for _, count in given)
        return {*offset_check.weigh([scene for scene, _ in given], counts, allowed, so_far).wrong}

    assert weigh(*right) == set()
    assert weigh(*right, wrong[0]) == {"wrong0"}
    assert weigh(wrong[0], so_far=True) == {"wrong0"}  # the others may come
    for given, allowed in ((wrong[:1], 1), (wrong, 9), ([*right, wrong[0]], 0), ([*right, *wrong], 2), (wrong[:2], 1)):
        with pytest.raises(OffsetError, match="item wrong0"):
            weigh(*given, allowed=allowed)
    with pytest.raises(OffsetError):
        weigh(*wrong, so_far=True)


# --- what became of the scenes


def test_every_item_of_a_search_is_accounted_for(items: list[Item], run: Callable[..., Any], tmp_path: Path) -> None:
    def another(name: str, **fields: Any) -> Item:
        made = copy.deepcopy(items[0]) | {"id": name}
        made["properties"] |= fields
        return made

    away = another("away", datetime="2018-08-06T11:00:00Z")
    away["bbox"] = [6.05, 50.74, 6.06, 50.75]
    away["geometry"] = None
    for asset in away["assets"].values():
        del asset["proj:transform"], asset["proj:shape"]
    del away["properties"]["grid:code"]
    late = another("late", datetime="2019-08-06T11:00:00Z")
    older = another("older", **{"s2:processing_baseline": "05.09"})
    foreign = another("foreign", datetime="2018-08-07T11:00:00Z") | {"collection": "landsat"}
    nan = another("nan", datetime="2018-08-08T11:00:00Z", **{"eo:cloud_cover": float("nan")})
    given = [*items, away, late, older, foreign, nan, items[0]]
    _, told = run(given, exclude=(items[6]["id"],))
    assert told["account"]["items"] == len(given)
    reasons = adds_up(told)
    clouds = reasons.pop("no clear pixel")
    assert reasons == dict.fromkeys(
        ("copy", "elsewhere", "excluded", "foreign", "invalid", "of other days", "repeated"), 1
    )
    assert clouds + told["account"]["used"] == DATES - 1
    shown = geomap("explain", tmp_path / "out", columns=240)
    used, lost = told["account"]["used"], 13 - told["account"]["used"]
    line = f"13 items of the search: {used} used, {lost} left out ({clouds} no clear pixel, 1 copy, 1 elsewhere"
    assert line in " ".join(shown.stdout.split())  # wherever the line is broken
    for text in ("excluded", "invalid", "no clear pixel", "of the area's", "pixels are mapped"):
        assert text in shown.stdout
    assert "left out by the search and not named: 1 elsewhere, 1 of other days, 1 repeated" in shown.stdout
    for item in json.loads((tmp_path / "out/run.json").read_text())["left_out"]:
        assert item["id"] in shown.stdout


class StoppedError(Exception):
    """A run is stopped by a test."""


def stop(stage: str, done: int, total: int) -> None:
    """A progress callback that stops a run before its maps are written."""
    if stage == "write":
        raise StoppedError


def test_accounts_add_up_over_tiles_and_after_a_resume(
    items: list[Item], run: Callable[..., Any], untrained: str, tmp_path: Path
) -> None:
    rewritten(items[0], "blue", tmp_path)
    Path(items[0]["assets"]["blue"]["href"]).write_bytes(b"not a file")
    few = items[:3]
    with tiles_of(32):
        with pytest.raises(StoppedError):
            map_area(asked(few, untrained, tmp_path), tmp_path / "out", stop)
        result, told = run(few)
    assert result.resumed == len(told["tiles"]) > 1
    assert adds_up(told)["damaged"] == 1
    first = next(scene for scene in told["scenes"] if scene["id"] == few[0]["id"])
    assert first["fate"]["tiles"]["damaged"] == len(told["tiles"])


def test_what_was_asked_to_be_left_out_can_change_until_a_run_is_finished(
    items: list[Item], untrained: str, tmp_path: Path
) -> None:
    request = asked(items[:3], untrained, tmp_path)
    stopped = tmp_path / "out"

    with pytest.raises(StoppedError):
        map_area(request, stopped, stop)
    result = map_area(replace(request, exclude=(items[0]["id"],)), stopped)
    assert items[0]["id"] not in {scene.id for scene in result.scenes}
    map_area(replace(request, exclude=(items[0]["id"],)), tmp_path / "fresh")
    assert digests(stopped) == digests(tmp_path / "fresh")
    with pytest.raises(InputError, match="differs in: exclude"):
        map_area(request, stopped)


def test_an_id_to_exclude_that_is_not_there_is_told(
    items: list[Item], untrained: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    find_scenes(asked(items, untrained, tmp_path, exclude=("S2A_nowhere",)), silent)
    assert "no item has the id S2A_nowhere" in caplog.text


# --- what is mapped


def command(items: list[Item], weights: str, folder: Path, *more: str) -> list[str]:
    path = write_items(items, folder / "typed.json")
    area = ",".join(map(str, AREA.geometry.bounds))
    told = ["map", area, "--start", "2018-08", "--months", "2", "--stac", str(path), "--weights", weights]
    return [*told, "--device", "cpu", "--out", str(folder / "typed"), *more]


def test_nothing_mapped_is_told_loudly_and_by_the_exit_code(items: list[Item], untrained: str, tmp_path: Path) -> None:
    cloudy = items[:3]
    for item in cloudy:
        rewritten(item, "scl", tmp_path, made=9)
    typed = command(cloudy, untrained, tmp_path)
    for _ in range(2):  # the second finds the maps finished
        done = geomap(*typed, columns=4000)
        assert done.exit_code == 3
        assert (
            f"no pixel of the area is mapped: no scene gave a clear pixel ({len(cloudy)} no clear pixel)" in done.stderr
        )
        assert done.stderr.count("WARNING") == 1
    assert (tmp_path / "typed/landcover.tif").is_file()
    assert geomap("verify", tmp_path / "typed").exit_code == 0
    told = json.loads((tmp_path / "typed/run.json").read_text())
    assert (told["mapped"]["mapped"], told["mapped"]["share"], told["mapped"]["months"]) == (0, 0, [])
    assert told["mapped"]["pixels"] > 1000
    adds_up(told)
    assert "no pixel of the area is mapped" in geomap("explain", tmp_path / "typed", columns=4000).stdout


def test_a_healthy_map_says_nothing_loud(items: list[Item], untrained: str, tmp_path: Path) -> None:
    done = geomap(*command(items, untrained, tmp_path, "--min-clear-months", "1"), columns=4000)
    assert done.exit_code == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert f"{DATES} items of the search: " in done.stdout
    told = json.loads((tmp_path / "typed/run.json").read_text())["mapped"]
    assert told["months"] == ["2018-08", "2018-09"]
    assert told["share"] > 0.9
    assert told["note"] == ""


def test_exclude_is_an_option_and_a_refusal_tells_it(items: list[Item], untrained: str, tmp_path: Path) -> None:
    for item in items[:2]:
        shifted(item, 30_000)
    refused(geomap(*command(items, untrained, tmp_path), columns=4000), 2, "--exclude ID")
    names = [word for item in items[:2] for word in ("--exclude", item["id"])]
    done = geomap(*command(items, untrained, tmp_path, *names, "--min-clear-months", "1"), columns=4000)
    assert done.exit_code == 0, done.stderr
    assert "2 excluded" in done.stdout


@pytest.mark.parametrize(
    ("seen", "not_made", "says"),
    [
        (Seen(100, 51, ("2018-08", "2018-09")), 0, ""),
        (Seen(100, 49, ("2018-08", "2018-09")), 0, "only 49.0 % of the area's pixels are mapped"),
        (Seen(100, 90, ("2018-08", "2018-09")), 100, "only 45.0 % of the area's pixels are mapped"),
        (Seen(100, 90, ("2018-08",)), 0, "only 1 of 6 months have a clear observation"),
        (Seen(100, 0, ("2018-08", "2018-09", "2018-10")), 0, r"no pixel has 2 clear months (--min-clear-months)"),
        (Seen(0, 0), 0, "no pixel of the area is mapped"),
    ],
)
def test_what_is_loud(seen: Seen, not_made: int, says: str) -> None:
    period = Period(2018, 8, 6 if "of 6" in says else 3)
    note = account.mapped([seen], not_made, period, 2, None).note
    assert says in note
    assert bool(says) == bool(note)
