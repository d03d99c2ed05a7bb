import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, box, mapping, shape

from geomap.catalog.place import granule_bounds, outline
from geomap.catalog.search import Found, search
from geomap.errors import InputError, NoScenesError
from geomap.types import Period
from tests.support.stac_items import WORLD, Item, changed, granule, month_of, placeless


@pytest.fixture
def search_items(tmp_path: Path) -> Callable[..., Found]:
    """Searches STAC items of the month of the first one, all over the world: all that is found, and left out."""

    def look(items: list[Item], **options: Any) -> Found:
        path = tmp_path / "items.json"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
        return search(WORLD, month_of(items[0]), str(path), **options)

    return look


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


@pytest.mark.parametrize("stated", ["rasters", "tile"])
def test_a_geometry_a_little_off_hides_no_scene(find: Callable[..., Any], stated: str) -> None:
    """Off by 15 % of its width, where 20 % would be a contradiction: the scene lies over all that it may show."""
    item = granule("earth-search-c1", "32TPS", "2023-06-02T10:18:03Z")
    bounds = granule_bounds("32TPS")
    assert bounds
    ground = outline(32632, bounds)
    off = translate(ground, 0.15 * (ground.bounds[2] - ground.bounds[0]))
    if stated == "tile":
        item = placeless(item, "32TPS")
    west, south, _, north = ground.bounds
    edge = box(west + 0.04, (south + north) / 2, west + 0.05, (south + north) / 2 + 0.01)
    assert edge.within(ground)
    assert edge.disjoint(off)
    (scene,) = find([changed(item, geometry=mapping(off), bbox=list(off.bounds))], area=edge)
    assert scene.bbox == pytest.approx((west, south, off.bounds[2], north))
    right = changed(item, geometry=mapping(ground), bbox=list(ground.bounds))
    assert find([right])[0].bbox == pytest.approx(ground.bounds)
    half = box(west + 0.5, south + 0.1, *ground.bounds[2:]).intersection(ground)  # at the edge of a swath
    swath = changed(item, geometry=mapping(half), bbox=list(half.bounds))
    with pytest.raises(NoScenesError):
        find([swath], area=edge)


# --- copies


def reprocessed(item: Item, baseline: str, generated: str, **fields: Any) -> Item:
    """The same acquisition, as a later baseline of the archive would list it."""
    old, taken = item["properties"]["s2:processing_baseline"], item["properties"]["s2:datatake_id"]
    made = f"{item['id'][:-15]}{generated.replace('-', '').replace(':', '')[:15]}"
    return changed(
        item,
        {
            "s2:processing_baseline": baseline,
            "s2:generation_time": generated,
            "s2:datatake_id": taken and taken.replace(old, baseline),
        },
        **{"id": made} | fields,
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


def at(item: Item, time: str, datatake: object = None, **fields: Any) -> Item:
    """The item at another time, of another datatake; by default it names none."""
    return changed(item, {"datetime": time, "s2:datatake_id": datatake}, **fields)


def test_another_tile_pass_or_satellite_is_no_copy(pc: Item, find: Callable[..., Any]) -> None:
    bounds = granule_bounds("24XWQ")
    assert bounds
    there = outline(32624, bounds)
    others = [
        changed(placeless(pc, "24XWQ"), id="tile", geometry=mapping(there), bbox=list(there.bounds)),
        with_own_files(at(pc, "2022-06-13T18:29:19", "GS2B_20220613T182919_027523_N04.00", id="pass")),
        with_own_files(at(pc, "2022-06-12T18:29:19", "GS2A_20220612T182919_027509_N04.00", id="satellite")),
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
    with pytest.raises(InputError, match="1 of 2 scenes have a mistake"):
        find([later, pc], max_missed=0)


@pytest.mark.parametrize(
    "others",
    [
        {"platform": "S2B"},
        {"platform": "Sentinel 2B"},
        {"platform": "sentinel-2"},
        {"platform": None},
        {"s2:datatake_id": "gs2b_20220612t182919_027509_n04.00"},
        {"s2:datatake_id": None},
        {"s2:datatake_id": "N/A"},
        {"s2:datatake_id": None, "platform": None},
        {"s2:datatake_id": None, "datetime": "2022-06-12T18:29:18.999Z"},
        {"s2:datatake_id": None, "datetime": "2022-06-12T18:29:33Z"},
    ],
)
def test_a_copy_counts_once_however_it_names_its_pass(pc: Item, find: Callable[..., Any], others: Item) -> None:
    """Both as a copy of an item that names everything, and of one that is written like the copy itself."""
    for one, text in ((pc, "named"), (changed(pc, others), "unnamed")):
        copy = with_own_files(reprocessed(changed(pc, others), "05.10", "2024-01-01T00:00:00Z", id="copy"))
        found = find([one, copy]), find([copy, one])
        assert [scene.id for scene in found[0]] == ["copy"], text
        assert found[0] == found[1]


def test_without_a_datatake_a_pass_ends_where_no_item_follows_for_minutes(pc: Item, find: Callable[..., Any]) -> None:
    """Neighbouring tiles of one pass share it; another satellite ten minutes later has its own."""
    bounds = granule_bounds("24XWQ")
    assert bounds
    there = outline(32624, bounds)
    first = at(pc, "2022-06-12T18:29:19.024Z")
    next_tile = at(placeless(pc, "24XWQ"), "2022-06-12T18:29:37Z", geometry=mapping(there), bbox=list(there.bounds))
    later = with_own_files(at(pc, "2022-06-12T18:39:19Z", id="later"))
    other = with_own_files(changed(at(pc, "2022-06-12T18:30:19Z", id="other"), {"platform": "Sentinel-2A"}))
    items = [first, next_tile, later, other]
    passes = {
        pc["id"]: "sentinel-2b_20220612T182919",
        "placeless": "sentinel-2b_20220612T182919",
        "later": "sentinel-2b_20220612T183919",
        "other": "sentinel-2a_20220612T183019",
    }
    for order in (items, items[::-1]):
        assert {scene.id: scene.acquisition for scene in find(order)} == passes


@pytest.mark.parametrize("datatake", ["N/A", ["a"], "unknown"])
def test_what_is_no_datatake_tells_no_pass(pc: Item, find: Callable[..., Any], datatake: object) -> None:
    days = [f"2022-06-{day}T18:29:19Z" for day in (12, 17, 22)]
    items = [with_own_files(at(pc, day, datatake, id=day)) for day in days]
    assert [scene.id for scene in find(items)] == days


def test_an_item_of_another_day_than_its_datatake_is_left_out_by_name(
    pc: Item, search_items: Callable[..., Found], caplog: pytest.LogCaptureFixture
) -> None:
    """The id was copied with the item: taken for a copy, the later day would vanish."""
    taken = pc["properties"]["s2:datatake_id"]
    later = with_own_files(at(pc, "2022-06-22T18:29:19Z", taken, id="later"))
    found = search_items([pc, later], max_missed=0.5)
    assert [scene.id for scene in found.scenes] == [pc["id"]]
    assert [(item.id, item.cause) for item in found.left_out] == [("later", "contradiction")]
    assert "its datetime is 2022-06-22 18:29:19, but its datatake began at 2022-06-12 18:29:19" in caplog.text
    with pytest.raises(InputError, match="1 of 2 scenes have a mistake"):
        search_items([pc, later], max_missed=0)
    day_alone = at(pc, "2022-06-12T00:00:00Z", taken, id="day")
    assert [scene.id for scene in search_items([day_alone]).scenes] == ["day"]


def test_two_items_with_one_id_are_not_mixed_up(pc: Item, search_items: Callable[..., Found]) -> None:
    """Ids are unique only within a collection, and a run knows scenes by their ids."""
    other = with_own_files(at(pc, "2022-06-22T18:29:19Z", collection="sentinel-2-c1-l2a"))
    other["assets"] = granule("earth-search-c1", "24XWR", "2022-06-22T18:29:19Z")["assets"]
    for items in ([pc, other], [other, pc]):
        found = search_items(items, max_missed=0.5)
        assert [scene.time.day for scene in found.scenes] == [12]
        (left,) = found.left_out
        assert (left.id, left.cause) == (pc["id"], "contradiction")
        assert (
            "it is of 2022-06-22 18:29:19 in sentinel-2-c1-l2a and has the id of an item of 2022-06-12" in left.detail
        )
        with pytest.raises(InputError, match=f"1 of 2 scenes have a mistake.*{pc['id']}.*an id of its own"):
            search_items(items, max_missed=0)
    assert len(search_items([pc, pc, changed(pc)]).scenes) == 1  # the same item again


@pytest.mark.parametrize("day", [11, 13])
def test_an_item_given_again_with_the_files_of_another_displaces_none(
    pc: Item, search_items: Callable[..., Found], caplog: pytest.LogCaptureFixture, day: int
) -> None:
    """Taken for the true one, it would show another day's ground, and that day's scene would be lost."""
    pc = with_own_files(pc)
    other = with_own_files(at(pc, f"2022-06-{day}T18:29:19Z", id=f"{day}"))
    again = changed(pc, assets=other["assets"])
    for items in ([pc, other, again], [again, other, pc]):
        caplog.clear()
        found = search_items(items, max_missed=0)
        days = {scene.time.day: scene.assets["B02"].href for scene in found.scenes}
        assert days == {12: pc["assets"]["B02"]["href"], day: other["assets"]["B02"]["href"]}
        assert [(item.id, item.cause) for item in found.left_out] == [(pc["id"], "contradiction")]
        assert f"left out scene {pc['id']}: it comes again with other files, such as https://" in caplog.text
    signed = {key: asset | {"href": f"{asset['href']}?sig=1"} for key, asset in pc["assets"].items()}
    assert search_items([pc, changed(pc, assets=signed)]).left_out == ()  # the same files


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
    ("assets", "cause"),
    [({}, "incomplete"), ([], "incomplete"), ({"thumbnail": {"href": "a.png"}}, "incomplete"), (None, "invalid")],
)
def test_items_that_lack_most_assets_are_faults_too(
    pc: Item, search_items: Callable[..., Found], assets: object, cause: str
) -> None:
    """Their collection says what they are, and a map of the few others is not what was asked for."""
    days = [with_own_files(at(pc, f"2022-06-{day}T18:29:19Z", id=f"day{day}")) for day in range(10, 20)]
    faulty = [changed(item, assets=assets) for item in days[2:]]
    with pytest.raises(InputError, match=f"8 of 10 scenes have a mistake.*the first: day12: {cause}"):
        search_items([*days[:2], *faulty])
    found = search_items([*days[:9], faulty[-1]])
    assert len(found.scenes) == 9
    assert [(item.id, item.cause) for item in found.left_out] == [("day19", cause)]
    other = changed(faulty[-1], collection="sentinel-2-l1c")
    assert [item.cause for item in search_items([*days[:2], other]).left_out] == ["foreign"]
    if cause == "incomplete":
        assert [s.id for s in search_items([changed(days[0], assets=assets, id="empty"), days[0]]).scenes] == ["day10"]
    with pytest.raises(InputError, match=r"looked for .*sentinel-2-l2a"):
        search_items(faulty)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", 7),
        ("id", "two\nlines"),
        ("id", ["two", "ids"]),
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


@pytest.mark.parametrize("broken", [{"eo:cloud_cover": -1}, {"proj:epsg": "UTM"}], ids=str)
def test_mistakes_of_items_that_were_not_asked_for_are_no_faults(
    pc: Item, tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: dict[str, Any]
) -> None:
    """One item is asked for; a dozen of other days and a dozen of another place cannot be read."""
    later = {"datetime": "2023-06-13T18:29:19Z", "s2:datatake_id": None}
    others = [changed(pc, broken | later, id=f"later {n}") for n in range(12)]
    away = {"bbox": [16, 48, 16.1, 48.1], "geometry": None}
    others += [changed(pc, broken, id=f"away {n}", **away) for n in range(12)]
    path = tmp_path / "items.json"

    def look(items: list[Item]) -> Found:
        path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
        return search(shape(pc["geometry"]), month_of(pc), str(path), max_missed=0)

    found = look([pc, *others])
    assert [scene.id for scene in found.scenes] == [pc["id"]]
    assert (found.left_out, found.searched.elsewhere, found.searched.other_days) == ((), 12, 12)
    assert "not a valid STAC item" not in caplog.text
    with pytest.raises(InputError, match="1 of 2 scenes have a mistake"):
        look([pc, changed(pc, broken, id="here"), *others])


def test_where_all_scenes_have_a_mistake_nobody_swapped_coordinates(find: Callable[..., Any]) -> None:
    item = granule("earth-search-c1", "32TPS", "2023-06-13T10:50:31Z", cloud=3)
    with pytest.raises(NoScenesError) as nothing:
        find([changed(item, {"eo:cloud_cover": -1}, id="bad")], period=month_of(item), area=shape(item["geometry"]))
    assert "1 lack a band or valid metadata, the first: bad: invalid" in str(nothing.value)
    assert "swapped" not in str(nothing.value)
