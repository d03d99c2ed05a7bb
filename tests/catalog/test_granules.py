from collections.abc import Callable
from typing import Any

import pytest
from shapely.geometry import MultiPolygon, box, mapping

from geomap.catalog.place import granule_bounds, outline
from geomap.errors import NoScenesError
from geomap.types import Period
from tests.support.stac_items import Item, changed, granule, month_of, placeless

SIBERIA: list[list[float]] = [[179.0, 67], [181, 67], [181, 68], [179, 68], [179, 67]]


@pytest.mark.parametrize(
    "geometry",
    [
        mapping(MultiPolygon([box(179, 67, 180, 68), box(-180, 67, -179, 68)])),
        {"type": "Polygon", "coordinates": [[[x - 360 if x > 180 else x, y] for x, y in SIBERIA]]},  # -179 .. 179
        {"type": "Polygon", "coordinates": [SIBERIA]},
        {"type": "Polygon", "coordinates": [[[x - 360, y] for x, y in SIBERIA]]},
        None,  # bbox alone
    ],
    ids=["cut", "around the globe", "beyond 180", "beyond -180", "bbox"],
)
def test_antimeridian(find: Callable[..., Any], geometry: Any) -> None:
    plain = placeless(granule("cdse", "36NYH", "2026-05-27T01:46:51.025000Z"))
    item = changed(plain, geometry=geometry, bbox=[179, 67, -179, 68])
    both = MultiPolygon([box(179.9, 67.4, 180, 67.6), box(-180, 67.4, -179.9, 67.6)])
    for area in (both, *both.geoms):
        (scene,) = find([item], area=area)
        assert scene.bbox == pytest.approx((179, 67, -179, 68))
    with pytest.raises(NoScenesError):  # no footprint goes around the globe
        find([item], area=box(0, 67, 1, 68))
    with pytest.raises(NoScenesError, match=r"longitude 179.9 to -179.9"):
        find([item], area=both, period=Period(2020, 1))


# --- copies


def reprocessed(item: Item, baseline: str, generated: str) -> Item:
    """The same acquisition, as a later baseline of the archive would list it."""
    old = item["properties"]["s2:processing_baseline"]
    return changed(
        item,
        {
            "s2:processing_baseline": baseline,
            "s2:generation_time": generated,
            "s2:datatake_id": item["properties"]["s2:datatake_id"].replace(old, baseline),
        },
        id=f"{item['id'][:-15]}{generated.replace('-', '').replace(':', '')[:15]}",
    )


def test_the_highest_baseline_of_an_acquisition_is_kept(pc: Item, find: Callable[..., Any]) -> None:
    newer = reprocessed(pc, "05.10", "2024-01-01T00:00:00Z")
    latest = reprocessed(pc, "05.10", "2024-02-01T00:00:00Z")
    for items in ([pc, newer, latest, pc], [latest, newer, pc]):
        (scene,) = find(items)
        assert (scene.id, scene.baseline) == (latest["id"], "05.10")
    assert find([pc])[0].acquisition == find([latest])[0].acquisition


def with_own_files(item: Item) -> Item:
    """The item with files of its own, named after it."""
    assets = {key: asset | {"href": f"{asset['href']}/{item['id']}.tif"} for key, asset in item["assets"].items()}
    return changed(item, assets=assets)


def test_another_tile_pass_or_satellite_is_no_copy(pc: Item, find: Callable[..., Any]) -> None:
    bounds = granule_bounds("24XWQ")
    assert bounds
    there = outline(32624, bounds)
    others = [
        changed(placeless(pc, "24XWQ"), id="tile", geometry=mapping(there), bbox=list(there.bounds)),
        with_own_files(changed(pc, {"s2:datatake_id": "GS2B_20220613T182919_027523_N04.00"}, id="pass")),
        with_own_files(changed(pc, {"platform": "Sentinel-2A"}, id="satellite")),
    ]
    assert len(find([pc, *others])) == 4


def test_two_days_cannot_have_the_same_files(pc: Item, find: Callable[..., Any], caplog: Any) -> None:
    """One observation would count twice in the medians. The other bands' files do not matter: one is enough."""
    later = changed(pc, {"datetime": "2022-06-22T18:29:19Z", "s2:datatake_id": "GS2B_20220622T182919_0_N04.00"}, id="l")
    for key, asset in later["assets"].items():
        if key != "B08":
            asset["href"] = asset["href"].replace("20220612", "20220622")
    kept = find([later, pc], max_missed=0.5)
    assert [scene.id for scene in kept] == [pc["id"]]
    assert f"left out scene l: its file {kept[0].assets['B08'].href} is also that of {pc['id']}" in caplog.text


def test_without_a_datatake_the_second_tells_the_pass(pc: Item, find: Callable[..., Any]) -> None:
    del pc["properties"]["s2:datatake_id"]
    same = changed(pc, {"datetime": "2022-06-12T18:29:19.999000Z"}, id="same")
    other = changed(pc, {"datetime": "2022-06-12T18:29:20.024000Z"}, id="other")
    assert [s.acquisition for s in find([pc, same, with_own_files(other)])] == [
        "sentinel-2b_20220612T182919",
        "sentinel-2b_20220612T182920",
    ]
    assert [s.acquisition for s in find([pc, other])] == ["sentinel-2b_20220612T182919"]  # the same files once more


def test_both_halves_of_a_datastrip_split_are_kept(pc: Item, find: Callable[..., Any]) -> None:
    west, south, east, north = pc["bbox"]
    middle = (west + east) / 2
    halves = [
        changed(pc, id="west", geometry=mapping(box(west, south, middle + 0.1, north))),  # they overlap a little
        changed(pc, id="east", geometry=mapping(box(middle, south, east, north))),
    ]
    scenes = find(halves)
    assert {s.id for s in scenes} == {"west", "east"}
    assert len({s.acquisition for s in scenes}) == 1
    whole = reprocessed(changed(pc, geometry=mapping(box(west, south, east, north))), "05.10", "2024-01-01T00:00:00Z")
    assert [s.id for s in find([*halves, whole])] == [whole["id"]]
    new_halves = [reprocessed(half, "05.10", f"2024-01-0{day}T00:00:00Z") for day, half in enumerate(halves, 1)]
    assert {s.baseline for s in find([*halves, *new_halves])} == {"05.10"}
    assert len(find([*halves, *new_halves])) == 2


# --- items that cannot be used


def test_a_scene_without_an_asset_is_left_out_with_a_warning(
    pc: Item, find: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    broken = reprocessed(pc, "05.10", "2024-01-01T00:00:00Z")
    del broken["assets"]["B8A"], broken["assets"]["SCL"]
    assert [s.id for s in find([pc, broken])] == [pc["id"]]  # an incomplete copy does not displace a complete one
    assert f"left out scene {broken['id']}: no asset for B8A, SCL" in caplog.text
    with pytest.raises(NoScenesError, match="1 lack a band"):
        find([broken])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", 7),
        ("id", "two\nlines"),
        ("geometry", {"type": "Polygon", "coordinates": "none"}),
        ("geometry", {"type": "Circle"}),
        ("geometry", {"type": "Polygon", "coordinates": [[[0, float("nan")], [1, 1], [1, 0], [0, float("nan")]]]}),
        ("geometry", {"type": "Polygon", "coordinates": []}),
        ("links", [7]),
        ("properties:datetime", "yesterday"),
        ("properties:datetime", 2022),
        ("properties:datetime", None),
        ("properties:eo:cloud_cover", "much"),
        ("properties:proj:epsg", "UTM"),
        ("properties:proj:epsg", 4326),
        ("properties:s2:generation_time", 12),
        ("assets:B02", "https://sentinel2l2a01.blob.core.windows.net/B02.tif"),
        ("assets:B02:raster:bands", {"offset": 0}),
        ("assets:B02:raster:bands", [{"offset": "nan"}]),
        ("assets:B02:proj:transform", ["a"] * 6),
        ("assets:B02:proj:shape", 10980),
    ],
)
def test_a_malformed_item_is_left_out_with_a_warning(
    pc: Item, find: Callable[..., Any], caplog: pytest.LogCaptureFixture, field: str, value: object
) -> None:
    bad = changed(pc, {"s2:datatake_id": "GS2B_20220613T182919_027523_N04.00"}, id="bad")
    where: Any = bad
    *parents, last = field.split(":", {"properties": 1, "assets": 2}.get(field.split(":")[0], 0))
    for parent in parents:
        where = where[parent]
    where[last] = value
    assert [s.id for s in find([bad, pc], period=month_of(pc))] == [pc["id"]]
    assert "not a valid STAC item" in caplog.text
