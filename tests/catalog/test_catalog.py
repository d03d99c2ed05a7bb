import json
import os
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from shapely.geometry import box

from geomap.catalog import search
from geomap.catalog.place import mgrs_tile, zone_of
from geomap.errors import HrefError, InputError, NoScenesError, OffsetError
from geomap.sentinel2 import BANDS, BANDS_10M, SCL
from geomap.sources.hrefs import check_href
from geomap.sources.providers import PRESETS, PROVIDERS
from geomap.types import Period
from tests.support.archive import Series
from tests.support.stac_items import WORLD, Item, changed, granule, real_items

YEAR_2019 = Period(2018, 12)

FLAGGED = "earthsearch:boa_offset_applied is true: already taken off"
AGREED = "baseline {} and the stated offset of -1000 DN agree: in the data"
NEVER = "baseline {} is before 04.00: never added"
SINCE = "baseline {} is from 04.00 on: in the data"

# file, collection -> items, provider, offset of the pixels' true state (data/stac/README.md), reason
TRUTH = {
    ("earth_search_l2a_2020", "sentinel-2-l2a"): (24, "earth-search-l2a", 0, NEVER),
    ("earth_search_l2a_2023", "sentinel-2-l2a"): (1, "earth-search-l2a", 0, FLAGGED),
    ("earth_search_l2a_and_c1_2025", "sentinel-2-l2a"): (7, "earth-search-l2a", 0, FLAGGED),
    ("earth_search_l2a_and_c1_2025", "sentinel-2-c1-l2a"): (6, "earth-search-c1", -1000, AGREED),
    ("earth_search_c1_2024", "sentinel-2-c1-l2a"): (10, "earth-search-c1", -1000, AGREED),
    ("planetary_computer_2020", "sentinel-2-l2a"): (13, "planetary-computer", 0, NEVER),
    ("planetary_computer_2022", "sentinel-2-l2a"): (1, "planetary-computer", -1000, SINCE),
    ("planetary_computer_2024", "sentinel-2-l2a"): (4, "planetary-computer", -1000, SINCE),
    ("cdse_2020_n0500", "sentinel-2-l2a"): (1, "cdse", -1000, AGREED),
    ("cdse_2026_s2c", "sentinel-2-l2a"): (1, "cdse", -1000, AGREED),
}


# --- real items


def test_every_real_item_gets_its_convention_and_true_offset(shared: Path, find: Callable[..., Any]) -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for path in sorted((shared / "data/stac").glob("*.json")):
        for item in real_items(shared, path.stem):
            if item["collection"] == "sentinel-2-l1c":
                continue
            (scene,) = find([item])
            _, provider, offset, reason = TRUTH[path.stem, item["collection"]]
            assert scene.provider == provider, item["id"]
            assert tuple(scene.assets) == (*BANDS, SCL)
            told = {(scene.assets[band].offset, scene.assets[band].reason) for band in BANDS}
            assert told == {(offset, reason.format(scene.baseline))}, item["id"]
            assert scene.assets[SCL].offset == 0
            seen[path.stem, item["collection"]] += 1
    assert seen == {key: items for key, (items, *_) in TRUTH.items()}


def test_what_is_left_out_is_told(shared: Path, tmp_path: Path) -> None:
    items = real_items(shared, "earth_search_l2a_and_c1_2025")
    path = tmp_path / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items * 2}))  # pages repeat themselves
    found = search.search(WORLD, Period(2025, 7, 1), str(path))
    assert [scene.collection for scene in found.scenes] == ["sentinel-2-c1-l2a"] * 6
    july = [i for i in items if i["properties"]["datetime"].startswith("2025-07")]
    ids = {
        cause: sorted(i["id"] for i in july if i["collection"] == name)
        for cause, name in (("copy", "sentinel-2-l2a"), ("foreign", "sentinel-2-l1c"))
    }
    assert list(map(len, ids.values())) == [6, 5]
    for cause, expected in ids.items():
        assert [item.id for item in found.left_out if item.cause == cause] == expected
    assert len(found.left_out) == sum(map(len, ids.values()))
    assert found.scenes == search.search(WORLD, Period(2025, 7, 1), str(path)).scenes
    clear = search.search(WORLD, Period(2025, 7, 1), str(path), collection="sentinel-2-c1-l2a", max_cloud=30)
    cloudy = {i["id"] for i in items if i["collection"].endswith("c1-l2a") and i["properties"]["eo:cloud_cover"] > 30}
    assert {item.id for item in clear.left_out if item.cause == "cloudy"} == cloudy
    assert not cloudy & {scene.id for scene in clear.scenes}


def test_fields_of_a_real_scene(shared: Path, find: Callable[..., Any]) -> None:
    (scene,) = find(real_items(shared, "earth_search_l2a_2023"))
    assert scene.id == "S2A_32TPS_20230602_0_L2A"
    assert scene.time == datetime(2023, 6, 2, 10, 18, 3, 169000, tzinfo=UTC)
    assert scene.acquisition == "sentinel-2a_GS2A_20230602T100601_041489"
    assert (scene.epsg, scene.baseline, scene.cloud_cover) == (32632, "05.09", 31.735489)
    assert scene.bbox == pytest.approx((10.2905, 45.9335, 11.7556, 46.9462), abs=1e-4)
    asset = scene.assets["B11"]
    assert asset.href.endswith("/S2A_32TPS_20230602_0_L2A/B11.tif")
    assert asset.transform == (20, 0, 600000, 0, -20, 5200020)
    assert asset.shape == (5490, 5490)


def test_granules_of_one_pass_share_their_acquisition(shared: Path, find: Callable[..., Any]) -> None:
    scenes = find(real_items(shared, "earth_search_l2a_2020"))
    assert len(scenes) == 24
    by_day: dict[str, set[str]] = {}
    for scene in scenes:
        by_day.setdefault(f"{scene.time:%Y-%m-%d}", set()).add(scene.acquisition)
    assert {len(acquisitions) for acquisitions in by_day.values()} == {1}
    assert len(set.union(*by_day.values())) == len(by_day) == 6
    assert list(scenes) == sorted(scenes, key=lambda s: (s.time, s.id))


def test_epsg_from_code_number_asset_or_tile(pc: Item, find: Callable[..., Any]) -> None:
    cdse = granule("cdse", "36NYH", "2020-03-22T07:46:09.024Z", "05.00")  # proj:code on the assets
    assert "proj:code" not in cdse["properties"]
    assert find([cdse])[0].epsg == 32636
    del pc["properties"]["proj:epsg"]
    assert find([pc])[0].epsg == 32624  # s2:mgrs_tile 24XWR
    assert zone_of(mgrs_tile("5CMH")) == 32705


def test_other_collections_are_ignored_with_a_log_line(
    shared: Path, find: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    items = real_items(shared, "earth_search_l2a_and_c1_2025")
    scenes = find(items, period=Period(2025, 7, 1))
    assert "ignored 5 items of collection sentinel-2-l1c" in caplog.text
    # the same six scenes in two collections: the one that tells its offset reliably is kept
    assert [scene.collection for scene in scenes] == ["sentinel-2-c1-l2a"] * 6
    only = find(items, period=Period(2025, 7, 1), collection="sentinel-2-l2a")
    assert [scene.provider for scene in only] == ["earth-search-l2a"] * 6


def test_a_copy_in_a_renamed_collection_needs_items_that_tell_their_offset(pc: Item, find: Callable[..., Any]) -> None:
    for provider in ("earth-search-l2a", "cdse"):
        copied = changed(granule(provider, "32TPS", "2023-06-02T10:18:03Z"), collection="mine")
        assert find([copied])[0].provider == provider
    for item in (pc, granule("earth-search-c1", "32TPS", "2023-06-02T10:18:03Z")):
        with pytest.raises(InputError, match=r"looked for .*sentinel-2-l2a.*B8A_20m"):
            find([changed(item, collection="mine")])


# --- the request


def test_period_and_area_are_exact(find: Callable[..., Any]) -> None:
    days = [f"2020-0{month}-{day:02d}" for month, last in ((6, 26), (7, 31)) for day in range(1, last + 1, 5)]
    items = [granule("planetary-computer", "35MNM", f"{day}T08:06:11.024000Z") for day in days]
    assert len(find(items, period=Period(2020, 6, 1))) == 6
    assert len(find(items, period=Period(2020, 7, 1))) == 7
    assert len(find(items, period=Period(2020, 1, 12))) == 13
    last = changed(items[0], {"datetime": "2020-06-30T23:59:59.999Z", "s2:datatake_id": None})
    first = changed(items[0], {"datetime": "2020-07-01T01:00:00+01:00", "s2:datatake_id": None})  # midnight UTC
    assert [s.time.month for s in find([last], period=Period(2020, 6, 1))] == [6]
    assert [s.time.hour for s in find([first], period=Period(2020, 7, 1))] == [0]
    with pytest.raises(NoScenesError):
        find([first], period=Period(2020, 6, 1))
    with pytest.raises(NoScenesError):
        find(items, area=box(28.1, -8, 28.2, -7))  # 10 km east of the tile


def spring() -> list[Item]:
    """Ten scenes of March and April 2024, with all kinds of sky."""
    sky = (81.344962, 99.9, 4.2, 30.0, 0.8, 95.0, 62.1, 100.0, 29.9, 12.3)
    days = [f"2024-{day}T17:53:02.036000Z" for day in ("03-31", *(f"04-{d:02d}" for d in range(2, 20, 2)))]
    return [granule("earth-search-c1", "13TDE", day, cloud=share) for day, share in zip(days, sky, strict=True)]


def test_no_scene_says_what_was_understood(find: Callable[..., Any]) -> None:
    items = spring()
    with pytest.raises(NoScenesError) as nothing:
        find(items, area=box(40, 50, 41, 51), period=Period(2024, 3, 2))
    message = str(nothing.value)
    assert "longitude 40 to 41, latitude 50 to 51" in message
    assert "2024-03-01 to 2024-04-30" in message
    assert "items.json" in message
    assert "if longitude and latitude were swapped, type 50,40,51,41" in message
    with pytest.raises(NoScenesError) as nothing:
        find(items, area=box(-105.3, 39.7, -105, 40), period=Period(2024, 3, 12), max_cloud=0)
    assert "10 are cloudier" in str(nothing.value)
    assert "swapped" not in str(nothing.value)  # -105.3 is no latitude
    there = granule("earth-search-c1", "32TPS", "2024-04-01T10:50:00Z")
    with pytest.raises(NoScenesError, match="left out by --exclude: 1") as nothing:
        find([there], area=box(11, 46, 11.1, 46.1), period=Period(2024, 4, 1), exclude={there["id"]})
    assert "swapped" not in str(nothing.value)
    with pytest.raises(NoScenesError, match=r"it has 10 of 2024-03-31 to 2024-04-18 there: ask for another period"):
        find(items, area=box(-105.3, 39.7, -105, 40), period=Period(2023, 3, 2))


def test_cloud_limit(find: Callable[..., Any]) -> None:
    items = spring()
    for limit in (30.0, 81.344962, 95.0):
        expected = sorted(i["id"] for i in items if i["properties"]["eo:cloud_cover"] <= limit)
        assert sorted(s.id for s in find(items, period=Period(2024, 3, 2), max_cloud=limit)) == expected
    unstated = changed(items[0])
    del unstated["properties"]["eo:cloud_cover"]
    assert find([unstated], max_cloud=0)[0].cloud_cover is None


@pytest.mark.parametrize("item", [{}, {"type": "Feature", "assets": [], "properties": {}}, {"assets": {}}])
def test_items_of_no_known_convention(find: Callable[..., Any], item: Item) -> None:
    with pytest.raises(InputError, match="looked for"):
        find([item], period=YEAR_2019)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<html></html>", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "holds a list"),
        ('{"type": "Collection"}', "holds a Collection"),
        ('{"type": "FeatureCollection", "features": 3}', "holds a FeatureCollection"),
        ('{"type": "FeatureCollection", "features": [3, null]}', "no Sentinel-2 scene"),
        (
            '{"type": "FeatureCollection", "features": [{}], "numberMatched": 72}',
            "one page of a search, with 1 of 72 items",
        ),
        ('{"type": "FeatureCollection", "features": [], "links": [{"rel": "next"}]}', "with 0 items, and more follow"),
        ('{"type": "FeatureCollection", "features": [], "links": [{"rel": "NEXT"}]}', "with 0 items, and more follow"),
        ('{"type": "FeatureCollection", "features": [], "links": 3}', "no Sentinel-2 scene"),
    ],
)
def test_a_file_that_holds_no_items(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        search.search(WORLD, YEAR_2019, str(path))


def test_what_stac_may_be(tmp_path: Path) -> None:
    for text in ("earth-serch", str(tmp_path / "none.json"), "s3://bucket/items.json"):
        with pytest.raises(InputError, match="earth-search, cdse, planetary-computer, the http"):
            search.search(WORLD, YEAR_2019, text)
    with pytest.raises(InputError, match="cannot read the item file"):
        search.search(WORLD, YEAR_2019, str(tmp_path))
    for text in ("http://", "https://user:secret@example.org/v1", "http://host:port", "https://u@h/v1?token=secret"):
        with pytest.raises(InputError, match="not the address of a STAC API") as refused:
            search.search(WORLD, YEAR_2019, text)
        assert "secret" not in str(refused.value)


def test_a_name_too_long_and_an_address_of_no_known_scheme(tmp_path: Path) -> None:
    for text in ("x" * 300, str(tmp_path / ("x" * 300))):
        with pytest.raises(InputError, match=r"cannot read the item file .*File name too long"):
            search.search(WORLD, YEAR_2019, text)
    with pytest.raises(InputError, match="no catalogue or file") as refused:
        search.search(WORLD, YEAR_2019, "ftp://example.org/items.json?token=secret")
    assert "secret" not in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_an_item_file_below_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o000)
    with pytest.raises(InputError, match=r"cannot read the item file .*Permission denied"):
        search.search(WORLD, YEAR_2019, str(folder / "items.json"))


def test_an_item_file_may_name_its_pixels_by_file_url(archive: Callable[..., Path], tmp_path: Path) -> None:
    folder = archive(dates=2)
    (tmp_path / "items.json").write_text((folder / "items.json").read_text().replace('"/', '"file:///'))
    plain, by_url = (search.search(WORLD, Period(2018, 8), str(f / "items.json")).scenes for f in (folder, tmp_path))
    assert len(plain) == 2
    assert by_url == plain


def test_an_undecided_scene_stops_the_search(pc: Item, find: Callable[..., Any]) -> None:
    del pc["properties"]["s2:processing_baseline"]
    with pytest.raises(OffsetError, match=pc["id"]):
        find([pc])
    assert find([pc], offset_policy="unapplied")[0].assets["B02"].offset == -1000


# --- providers and addresses


def test_provider_table() -> None:
    for key, provider in PROVIDERS.items():
        assert provider.key == key
        assert tuple(provider.assets) == (*BANDS, SCL)
        assert provider in PRESETS[provider.catalog]
        assert provider.hosts or provider.buckets
    assert [p.collection for p in PRESETS["earth-search"]] == ["sentinel-2-c1-l2a", "sentinel-2-l2a"]
    assert PROVIDERS["cdse"].assets["B8A"] == "B8A_20m"
    assert PROVIDERS["earth-search-c1"].assets["B8A"] == "nir08"
    assert PROVIDERS["cdse"].max_connections == 4


def test_presets_open_the_hrefs_of_their_real_items_and_no_others(shared: Path, find: Callable[..., Any]) -> None:
    for stem, collection in TRUTH:
        for item in [i for i in real_items(shared, stem) if i["collection"] == collection]:
            (scene,) = find([item])
            provider = PROVIDERS[scene.provider]
            policy = search._source(provider.catalog, None, ()).policy(provider)
            for asset in scene.assets.values():
                assert check_href(asset.href, policy) == asset.href
                assert provider.owns(asset.href)
                assert not provider.owns(asset.href.replace("://", "://x"))
                with pytest.raises(HrefError):
                    check_href(asset.href.replace("://", "://x"), policy)


def test_a_refused_href_names_item_and_band(pc: Item, find: Callable[..., Any]) -> None:
    pc["assets"]["B05"]["href"] = "/vsicurl/https://evil.example/a.tif"
    with pytest.raises(HrefError, match=rf"item {pc['id']}, B05: refuse to open"):
        find([pc])


def test_hrefs_are_stored_unsigned(pc: Item, find: Callable[..., Any]) -> None:
    unsigned = pc["assets"]["B02"]["href"]
    pc["assets"]["B02"]["href"] += "?se=2024-01-01&sig=secret"
    assert find([pc])[0].assets["B02"].href == unsigned


# --- archives in every dialect


@pytest.mark.parametrize(
    ("provider", "baseline"),
    [
        ("earth-search", "02.12"),
        ("earth-search", "05.10"),
        ("earth-search-c1", "05.10"),
        ("planetary-computer", "05.10"),
        ("cdse", "02.12"),
        ("cdse", "05.10"),
    ],
)
def test_every_dialect_gives_the_same_reflectance(
    series: Series, archive: Callable[..., Path], provider: str, baseline: str
) -> None:
    folder = archive(provider, baseline, dates=2)
    scenes = search.search(WORLD, Period(2018, 8), str(folder / "items.json")).scenes
    assert [s.provider for s in scenes] == [{"earth-search": "earth-search-l2a"}.get(provider, provider)] * 2
    for index, scene in enumerate(scenes):
        for band in (*BANDS, SCL):
            asset = scene.assets[band]
            assert asset.href.startswith(str(folder))
            with rasterio.open(asset.href) as source:
                dn = source.read(1).astype(int)
                assert asset.shape == source.shape
                assert asset.transform == source.transform[:6]
                assert source.crs.to_epsg() == scene.epsg
            expected = series.layers[band][index].astype(int)
            assert np.array_equal(np.where(dn > 0, dn + asset.offset, 0), expected), (scene.id, band)
            assert dn.shape == ((64, 64) if band in BANDS_10M else (32, 32))
