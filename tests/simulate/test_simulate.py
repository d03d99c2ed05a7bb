"""Simulated series and scenes: repeatable, plausible through the year, and an archive that reads like a catalogue's."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geomap import legends
from geomap.sentinel2 import BANDS, SCL_NOT_CLEAR
from geomap.simulate import landscape, series, simulate, write_archive
from geomap.simulate.archive import ASSETS, Archive
from geomap.simulate.covers import CoverTable, table
from geomap.simulate.growth import REGROWTH_DAYS, SUN_ZENITHS, _cutting, light, reflectance, sun_zenith
from geomap.simulate.pixels import draw_pixels
from geomap.simulate.series import monthly_median_np
from geomap.simulate.spectra import PARAMETERS, SURFACES, Emulator

SMALL = {"seed": 4, "size": 64, "missing": (1, 3, 5, 6, 9, 11, 12), "overcast": (2,)}  # five months of scenes: quick
GREEN, RED, NIR, SWIR = BANDS.index("B03"), BANDS.index("B04"), BANDS.index("B08"), BANDS.index("B11")


def yearly_ndvi(key: str, climate: str, n: int = 300) -> np.ndarray:
    """Median NDVI on the middle day of each month, clear sky."""
    cover = np.full(n, table().index(key))
    where = np.full(n, list(table().climate).index(climate))
    days = np.tile(np.arange(12, dtype=np.float32) * 30.4 + 15, (n, 1))
    r = reflectance(draw_pixels(np.random.default_rng(3), cover, where), days)
    return np.median((r[..., NIR] - r[..., RED]) / (r[..., NIR] + r[..., RED]), axis=0)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return write_archive(tmp_path_factory.mktemp("archive"), **SMALL)


def read(archive: Archive, item: dict, key: str) -> np.ndarray:
    with rasterio.open(archive.items.parent / item["assets"][key]["href"]) as f:
        return f.read(1)


def items_of(archive: Archive) -> list[dict]:
    return json.loads(archive.items.read_text())["features"]


def test_series_repeat_for_a_seed_and_differ_between_seeds() -> None:
    a, b, c = (simulate(np.random.default_rng(s), 50) for s in (1, 1, 2))
    assert np.array_equal(a.dn, b.dn)
    assert np.array_equal(a.valid, b.valid)
    assert not np.array_equal(a.dn, c.dn)


def test_series_have_the_layout_of_composites() -> None:
    s = simulate(np.random.default_rng(0), 600)
    assert s.dn.shape == (600, 12, 10)
    assert s.dn.dtype == np.uint16
    assert np.array_equal(s.valid, (s.dn > 0).all(-1))  # 0 is nodata and only nodata, in all bands at once
    assert s.valid.any(1).all()
    assert 0.5 < s.valid.mean() < 0.95  # some months are missing


def test_every_cover_names_classes_that_the_legends_have() -> None:
    for name, attribute in (
        ("landcover", "landcover"),
        ("crops", "crop"),
        ("landuse", "landuse"),
        ("habitat", "habitat"),
    ):
        ids = {c.id for c in legends.load(name).classes} | {0}
        assert {getattr(c, attribute) for c in table().cover} <= ids
    assert {c.landcover for c in table().cover} >= set(range(1, 9))
    assert all(c.crop == 0 for c in table().cover if c.landcover in (1, 3, 4, 5, 6, 7, 8))


@pytest.mark.parametrize(
    ("key", "climate", "peak", "dip"),
    [
        ("maize", "atlantic", {7, 8, 9}, {4, 5}),
        ("winter_wheat", "atlantic", {4, 5, 6}, {7, 8}),
        ("winter_barley", "atlantic", {3, 4, 5}, {7, 8}),
        ("sugar_beet", "atlantic", {7, 8, 9}, {4, 5}),
        ("broadleaved_forest", "continental", {6, 7, 8, 9}, {1, 2, 12}),
        ("dry_grassland", "mediterranean", {1, 2, 3, 4, 5, 12}, {8, 9}),
        ("rice", "mediterranean", {7, 8}, {4, 5}),
        ("sorghum", "tropical", {7, 8, 9}, {1, 2, 3}),
        ("maize_south", "subtropical", {6, 7}, {4, 9}),
        ("maize_grain", "humid_continental", {7, 8}, {5, 10}),
        ("soya", "humid_continental", {8}, {5, 6, 10}),
        ("soya_after_wheat", "subtropical", {4, 5, 8, 9}, {6, 11}),
        ("soya_savanna", "tropical", {6, 7}, {2, 3}),
        ("cotton", "arid", {8}, {5, 11}),
        ("rice", "subtropical", {8}, {4, 5, 11}),
        ("wheat_irrigated", "arid", {2, 3}, {5, 6}),
        ("berseem", "arid", {1, 2, 3, 4, 12}, {6}),
        ("winter_wheat_steppe", "steppe", {5, 6}, {1, 8}),
        ("millet_sahel", "sahel", {8, 9}, {2, 3, 4}),
        ("pistachio_orchard", "arid", {5, 6, 7, 8, 9}, {1, 3}),
        ("rubber", "monsoon", {5, 6, 7, 8, 9, 10, 11, 12}, {2}),
    ],
)
def test_greenness_follows_the_calendar(key: str, climate: str, peak: set[int], dip: set[int]) -> None:
    ndvi = yearly_ndvi(key, climate)
    assert ndvi.argmax() + 1 in peak
    assert ndvi[[m - 1 for m in dip]].max() < ndvi.max() - 0.25


def test_winter_barley_ripens_before_winter_wheat() -> None:
    barley, wheat = yearly_ndvi("winter_barley", "atlantic"), yearly_ndvi("winter_wheat", "atlantic")
    assert barley[5] < wheat[5] - 0.15


def test_stubble_stays_bare_where_summers_are_dry() -> None:
    wet, dry = yearly_ndvi("winter_barley", "atlantic"), yearly_ndvi("winter_barley", "mediterranean")
    assert wet[8:11].mean() > dry[8:11].mean() + 0.2  # September to November: catch crops against stubble


def test_winter_crops_come_up_late_where_spring_is_early() -> None:
    north, south = (yearly_ndvi("winter_wheat", c) for c in ("continental", "mediterranean"))
    assert south[5] < north[5] - 0.2  # ripe in June, and yet
    assert south[11] < north[11]  # less green in December


def test_rough_ground_darkens_under_a_low_sun_and_slopes_follow_the_cosine_law() -> None:
    n = 4
    pixels = draw_pixels(np.random.default_rng(0), np.full(n, table().index("maquis")))
    rough = np.array([0.1, 0.1, 0, 0], np.float32)
    tilt = np.array([0, 0, 0.2, -0.2], np.float32)
    sun = np.array([[SUN_ZENITHS[0]], [60], [45], [45]], np.float32)
    factor = light(replace(pixels, rough=rough, tilt=tilt), sun)[:, 0]
    darker = 1 - 0.1 * (np.sqrt(3) - np.tan(np.deg2rad(SUN_ZENITHS[0])))  # tan 60 = sqrt 3
    assert factor == pytest.approx([1, darker, 1.2, 0.8], abs=1e-4)  # tan 45 = 1


def test_pigments_take_green_light_from_closed_canopies_alone() -> None:
    n = 200
    days = np.full((n, 1), 150, np.float32)
    for key, lost in (("winter_wheat", 0.2), ("quarry", 0.0)):
        pixels = draw_pixels(np.random.default_rng(1), np.full(n, table().index(key)), np.zeros(n, np.intp))
        none, much = (reflectance(replace(pixels, pigment=np.full(n, p, np.float32)), days) for p in (0, 0.25))
        ratio = np.median(much / none, axis=(0, 1))
        assert np.delete(ratio, GREEN) == pytest.approx(1, abs=1e-5)
        assert ratio[GREEN] == pytest.approx(1 - lost, abs=0.05)


def test_maize_of_warm_lands_is_dry_when_soya_is_green() -> None:
    maize, soya = yearly_ndvi("maize_south", "subtropical"), yearly_ndvi("soya_south", "subtropical")
    assert maize[4] > soya[4] + 0.2  # May
    assert soya[7] > maize[7] + 0.2  # August


def test_rice_stands_in_water_before_it_is_green() -> None:
    days = np.full((300, 1), 140, np.float32)  # mid May
    seen = {}
    for key in ("rice", "soya_south"):
        cover = np.full(300, table().index(key))
        where = np.full(300, list(table().climate).index("subtropical"))
        seen[key] = np.median(reflectance(draw_pixels(np.random.default_rng(3), cover, where), days)[:, 0], axis=0)
    assert seen["rice"][SWIR] < 0.12 < seen["soya_south"][SWIR]


def test_cut_fields_lose_leaves_at_every_cut_until_cutting_ends() -> None:
    cuts = np.array([[30, 10, 366], [30, 10, 150], [0, 0, 366]], np.float32)
    factor = _cutting(cuts, np.tile(np.array([10, 39.9, 130, 160], np.float32), (3, 1)))
    low, high = 0.25, 1 - 0.75 * np.exp(-29.9 / REGROWTH_DAYS)
    assert factor[0] == pytest.approx([low, high, low, low], abs=1e-3)  # cut on days 10, 40, ..., 130, 160
    assert factor[1] == pytest.approx([low, high, low, 1], abs=1e-3)
    assert (factor[2] == 1).all()


def test_lucerne_of_dry_lands_is_green_all_year() -> None:
    assert yearly_ndvi("lucerne_irrigated", "arid").min() > 0.5


def test_rice_of_the_equator_is_planted_in_any_month() -> None:
    cover = np.full(600, table().index("rice_equatorial"))
    days = np.tile(np.arange(12, dtype=np.float32) * 30.4 + 15, (600, 1))
    r = reflectance(draw_pixels(np.random.default_rng(3), cover), days)
    greenest = ((r[..., NIR] - r[..., RED]) / (r[..., NIR] + r[..., RED])).argmax(1)
    assert np.bincount(greenest, minlength=12).min() > 600 / 12 / 3


def test_tropical_shrubs_are_brighter_than_woods_and_dry_sooner() -> None:
    forest, shrub = (yearly_ndvi(k, "tropical") for k in ("tropical_forest", "tropical_shrub"))
    trees = yearly_ndvi("savanna_trees", "tropical")
    assert (forest > shrub + 0.1).all()
    assert shrub[10] < trees[10] - 0.04  # the rains end in October


def test_a_cover_may_lie_elsewhere_than_its_climate() -> None:
    soya, sorghum = (table().index(k) for k in ("soya_savanna", "sorghum"))
    pixels = draw_pixels(np.random.default_rng(0), np.array([soya, sorghum]))
    expected = [table().cover[soya].south, series.climates()[pixels.climate[1]].south]
    assert series.southern(pixels) == pytest.approx(expected)


def test_hazy_climates_are_bluer() -> None:
    names = list(table().climate)
    clean, days = np.full((2000, 36, 10), 0.1, np.float32), np.tile(np.arange(36, dtype=np.float32) * 10, (2000, 1))
    blue = {}
    for climate in ("atlantic", "equatorial"):
        where = np.full(2000, names.index(climate))
        r, clear = series.observe(np.random.default_rng(0), clean, days, where)
        blue[climate] = np.median(r[clear][:, 0])
    assert blue["equatorial"] > blue["atlantic"] + 0.003


def test_water_roofs_and_evergreens_keep_their_sign_all_year() -> None:
    assert (yearly_ndvi("sea", "atlantic") < 0).all()
    assert (yearly_ndvi("industry", "atlantic") < 0.35).all()
    assert np.ptp(yearly_ndvi("coniferous_forest", "atlantic")) < 0.12


def test_emulator_grows_leaves_over_any_ground() -> None:
    canopy = np.array([p.low + (p.high - p.low) * 0.4 for p in PARAMETERS.values()], np.float32)
    bare, leafy = canopy.copy(), canopy.copy()
    bare[0], leafy[0] = 0.0, 6.0
    emulator = Emulator.load()
    for name in ("field_corsica", "snow", "clear_water"):
        ground = np.array(SURFACES[name], np.float32)
        assert np.allclose(emulator.reflectance(bare, ground), ground, atol=0.03)  # no leaves: the ground itself
        over = emulator.reflectance(leafy, ground)
        assert over[NIR] > 0.25
        assert over[RED] < 0.06
        assert over[SWIR] < over[NIR]


def test_sun_stands_at_textbook_heights() -> None:
    # declination 23.45 on 21 June (day 172), hour angle 22.5 degrees: zenith from the cosine formula by hand
    assert sun_zenith(np.float32(50), np.float32(172)) == pytest.approx(31.9, abs=0.5)
    assert sun_zenith(np.float32(0), np.float32(81)) == pytest.approx(22.5, abs=0.5)


def test_monthly_median_takes_the_clear_looks_alone() -> None:
    seen = np.zeros((1, 36, 1), np.float32)
    seen[0, :, 0] = np.tile([0.1, 0.3, 0.2], 12)
    clear = np.zeros((1, 36), bool)
    clear[0, [0, 1, 2, 3, 4, 8]] = True  # all of January, two of February, one of March
    dn, valid = monthly_median_np(seen, clear)
    assert dn[0, :4, 0].tolist() == [2000, 2000, 2000, 0]
    assert valid[0].tolist() == [True, True, True] + [False] * 9


def test_table_refuses_unknown_keys_and_surfaces() -> None:
    raw = table().model_dump()
    raw["cover"][0]["surface"] = {"marble": (0, 1)}
    with pytest.raises(ValueError, match="marble"):
        CoverTable.model_validate(raw)
    raw["cover"][0]["surface"] = {}
    raw["cover"][0]["colour"] = "red"
    with pytest.raises(ValueError, match="colour"):
        CoverTable.model_validate(raw)


def test_landscape_holds_what_the_demo_needs() -> None:
    land = landscape(0)
    assert land.grid.shape == (256, 256)
    assert set(np.unique(land.ids("landcover"))) >= {1, 2, 3, 5, 6, 7}
    assert set(np.unique(land.ids("crop"))) >= {0, 1, 3, 6}  # wheat, barley, maize
    share = np.bincount(land.ids("landcover").ravel(), minlength=9) / land.cover.size
    assert (share[[1, 3, 5, 7]] > 0.01).all()
    with pytest.raises(ValueError, match="even"):
        landscape(0, 65)


def test_archive_repeats_to_the_byte(archive: Archive, tmp_path: Path) -> None:
    again = write_archive(tmp_path, **SMALL)
    files = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert len(files) == 11 * len(again.dates) + 3
    for f in files:
        one, two = (hashlib.sha256((root / f).read_bytes()).digest() for root in (tmp_path, archive.items.parent))
        assert one == two, f


def test_archive_metadata_agree_with_the_pixels(archive: Archive) -> None:
    items = items_of(archive)
    months = [int(i["properties"]["datetime"][5:7]) for i in items]
    assert set(months) == {2, 4, 7, 8, 10}
    assert all(months.count(m) >= 4 for m in set(months))
    for item in (items[0], items[-1]):
        assert set(item["assets"]) == set(ASSETS)
        for key, asset in item["assets"].items():
            with rasterio.open(archive.items.parent / asset["href"]) as f:
                assert list(f.shape) == asset["proj:shape"]
                assert list(f.transform)[:6] == asset["proj:transform"]
                assert f.crs.to_epsg() == item["properties"]["proj:epsg"]
                assert f.dtypes[0] == asset["raster:bands"][0]["data_type"]
                assert f.nodata == 0
                assert f.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                assert f.res[0] == (20 if key in ("rededge1", "scl", "swir16") else f.res[0])
        west, south, east, north = item["bbox"]
        assert 4.4 < west < east < 4.5
        assert 50.8 < south < north < 51.0


def test_pixels_carry_the_offset_that_the_metadata_state(archive: Archive) -> None:
    clear = min(items_of(archive), key=lambda i: i["properties"]["eo:cloud_cover"])
    band = clear["assets"]["swir16"]["raster:bands"][0]
    assert band["offset"] / band["scale"] == -1000
    assert clear["properties"]["s2:processing_baseline"] == "05.09"
    scl, dn = read(archive, clear, "scl"), read(archive, clear, "swir16").astype(int)
    water = (scl == 6) & (dn > 0)
    assert water.any()
    assert 0 <= np.median(dn[water] - 1000) < 400  # water is dark once the offset is off


def test_scene_classes_match_the_clouds(archive: Archive) -> None:
    items = items_of(archive)
    bright, dark = [], []
    for item in items:
        scl = read(archive, item, "scl")
        blue = read(archive, item, "blue")[::2, ::2].astype(int)  # every second pixel lies in the SCL pixel
        assert np.array_equal(scl == 0, read(archive, item, "swir22") == 0)
        assert item["properties"]["eo:cloud_cover"] == pytest.approx(100 * np.isin(scl, (8, 9, 10)).mean(), abs=0.01)
        bright += blue[scl == 9].tolist()
        dark += blue[np.isin(scl, (4, 6))].tolist()
    assert np.percentile(bright, 5) > np.percentile(dark, 99)
    overcast = [read(archive, i, "scl") for i in items if i["properties"]["datetime"][5:7] == "02"]
    assert all(np.isin(scl, SCL_NOT_CLEAR).all() for scl in overcast)


def test_truth_rasters_lie_on_the_scenes_grid(archive: Archive) -> None:
    land = landscape(4, 64)
    for path, attribute in ((archive.truth_landcover, "landcover"), (archive.truth_crops, "crop")):
        with rasterio.open(path) as f:
            assert np.array_equal(f.read(1), land.ids(attribute))
            assert f.bounds == (land.grid.west, land.grid.north - 640, land.grid.east, land.grid.north)


def test_southern_pixels_live_half_a_year_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meadows of the south are greenest in the north's winter; drawn with every pixel on one side of the equator."""
    cover = np.full(400, table().index("meadow"))
    peak = {}
    for side, share in (("north", 0.0), ("south", 1.0)):
        moved = {k: c.model_copy(update={"south": share}) for k, c in table().climate.items()}
        monkeypatch.setattr(series, "climates", lambda moved=moved: tuple(moved.values()))
        s = series.simulate(np.random.default_rng(5), 400, cover)
        x = np.ma.masked_where(~np.broadcast_to(s.valid[..., None], s.dn.shape), s.dn.astype(float))
        peak[side] = np.ma.median((x[..., NIR] - x[..., RED]) / (x[..., NIR] + x[..., RED]), axis=0)
    assert peak["north"].argmax() + 1 in (4, 5, 6)
    assert peak["south"].argmax() + 1 in (10, 11, 12)
    assert np.abs(np.roll(peak["north"], 6) - peak["south"]).max() < 0.08
