"""Monthly medians and clear counts: kernels against numpy, whole tiles bit for bit against plain rasterio reads."""

import json
import multiprocessing
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geomap import aoi, grid, pipeline
from geomap.catalog.search import search
from geomap.composite import median, monthly
from geomap.composite.mask import Mask, clear_np
from geomap.read import stack as read
from geomap.read.access import Access
from geomap.sentinel2 import BANDS, BANDS_10M, BANDS_20M, SCL_NOT_CLEAR
from geomap.types import Grid, Period
from tests.support.archive import PATCH

PERIOD = Period(2018, 12)
ASSETS = ("blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22")
CLOUDY, EMPTY = (2019, 5), (2019, 3)


def floor_median(values: np.ndarray) -> np.ndarray:
    """(n, ...) with 0 as missing -> median rounded down, 0 where nothing is left: numpy's own masked median."""
    median = np.ma.median(np.ma.masked_equal(values, 0).astype(np.float64), axis=0)
    return np.floor(np.ma.filled(median, 0)).astype(np.uint16)


@settings(max_examples=60)
@given(
    hnp.arrays(
        np.uint16,
        hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9),
        elements=st.sampled_from([0, 0, 1, 2, 3, 999, 1000, 32768, 65534, 65535]),
    )
)
def test_median_equals_numpy(values):
    before = values.copy()
    np.testing.assert_array_equal(median.median_np(list(values)), floor_median(values))
    np.testing.assert_array_equal(values, before)  # the caller's slices stay as they are


def test_even_counts_round_down_and_nodata_does_not_count():
    column = np.array([[3], [0], [4]], np.uint16)
    assert median.median_np(list(column)).item() == 3
    assert median.median_np([np.array([65535], np.uint16), np.array([65534], np.uint16)]).item() == 65534


def test_the_offset_spares_nodata_and_stops_at_one():
    dn = np.array([0, 1, 999, 1000, 1001, 1002, 65535], np.uint16)
    np.testing.assert_array_equal(median.shifted_np(dn, -1000), [0, 1, 1, 1, 1, 2, 64535])
    np.testing.assert_array_equal(median.shifted_np(dn, 0), dn)


@pytest.mark.parametrize("offset", [0, -1000])
def test_a_saturated_value_is_no_observation(offset):
    dn = [np.array([[65535, 65534, 2000]], np.uint16), np.array([[65535, 3000, 65535]], np.uint16)]
    made = median.month_median_np(dn, [np.ones((1, 3), bool)] * 2, [offset] * 2, (1, 2))
    assert made.tolist() == [[0, (65534 + 3000) // 2 + offset, 2000 + offset]]


def test_scl_classes_that_are_clear():
    scl = np.arange(256, dtype=np.uint8)
    assert np.flatnonzero(clear_np(scl)).tolist() == [2, 4, 5, 6, 7]
    assert np.flatnonzero(clear_np(scl, Mask((0,)))).tolist() == list(range(1, 12))


def test_one_pass_counts_once_and_its_first_clear_granule_wins():
    dn = [np.full((1, 2), value, np.uint16) for value in (10, 20, 90)]  # two granules of one pass, one scene of another
    clear = [np.ones((1, 2), bool) for _ in dn]
    one_pass = (7, 7, 8)

    def merged(acquisition):
        return median.month_median_np(dn, clear, (0, 0, 0), acquisition).tolist()

    assert merged(one_pass) == [[50, 50]]  # of 10 and 90
    assert median.clear_count_np(clear, (0, 0, 0), one_pass, 1).tolist() == [[[2, 2]]]
    assert median.clear_count_np(clear, (1, 0, 1), one_pass, 2).tolist() == [[[1, 1]], [[2, 2]]]
    clear[0][0, 0] = False
    assert merged(one_pass) == [[55, 50]]  # of 20 and 90
    assert merged((7, 8, 9)) == [[55, 20]]


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.sampled_from([1, 2]), st.integers(1, 40))
def test_a_month_of_scenes_equals_numpy(seed, scenes, scale, rows):
    """Masks on the pixels' own grid or on one of 20 m, offsets, nodata, strips of several heights."""
    rng = np.random.default_rng(seed)
    shape = rows * scale, 6 * scale
    dn = rng.integers(0, 1100, (scenes, *shape)).astype(np.uint16) * (rng.random((scenes, *shape)) < 0.8)
    dn[0] = np.broadcast_to(np.uint16(dn[0, 0, 0]), shape)
    blocks = [np.broadcast_to(dn[0, 0, 0], shape), *dn[1:]]  # as an empty read comes: one value in memory
    clear = rng.random((scenes, rows, 6)) < 0.6
    offset = rng.choice([0, -1000], scenes)
    surface = np.where(dn == 0, 0, np.maximum(dn.astype(int) + offset[:, None, None], 1))
    surface = np.where(clear.repeat(scale, 1).repeat(scale, 2), surface, 0).astype(np.uint16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(median, "STRIP_BYTES", int(rng.integers(1, 400)))
        made = median.month_median_np(blocks, list(clear), offset.tolist(), range(scenes))
    np.testing.assert_array_equal(made, floor_median(surface))


def test_more_than_255_observations_saturate_the_count():
    assert median.clear_count_np(np.ones((300, 1, 1), bool), (0,) * 300, tuple(range(300)), 1).item() == 255


@pytest.fixture(scope="module")
def hard_archive(archive, tmp_path_factory) -> Path:
    """The real series with one month made all cloud, one month without scenes, and a corner never clear."""
    source = archive()
    folder = tmp_path_factory.mktemp("hard") / "archive"
    shutil.copytree(source, folder)
    collection = json.loads((folder / "items.json").read_text())
    kept = []
    for item in collection["features"]:
        when = datetime.fromisoformat(item["properties"]["datetime"])
        if (when.year, when.month) == EMPTY:
            continue
        for asset in item["assets"].values():
            asset["href"] = asset["href"].replace(str(source.resolve()), str(folder.resolve()))
        with rasterio.open(item["assets"]["scl"]["href"], "r+", IGNORE_COG_LAYOUT_BREAK="YES") as scl:
            values = scl.read(1)
            values[:3, :5] = 9
            if (when.year, when.month) == CLOUDY:
                values[:] = 8
            scl.write(values, 1)
        kept.append(item)
    collection["features"] = kept
    (folder / "items.json").write_text(json.dumps(collection))
    return folder


def independent(folder: Path, area: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Medians and counts of a grid by plain rasterio window reads and numpy."""
    features = json.loads((folder / "items.json").read_text())["features"]
    months = [(2018, 12), *((2019, m) for m in range(1, 12))]
    dn = np.zeros((12, 10, *area.shape), np.uint16)
    count = np.zeros((12, *area.shape), np.uint8)
    for i, month in enumerate(months):
        items = [f for f in features if datetime.fromisoformat(f["properties"]["datetime"]).timetuple()[:2] == month]
        if not items:
            continue
        clear = np.stack([~np.isin(window(f, "scl", area.at(20)), SCL_NOT_CLEAR) for f in items])
        count[i] = clear.sum(axis=0).repeat(2, 0).repeat(2, 1)
        for b, key in enumerate(ASSETS):
            fine = BANDS[b] in BANDS_10M
            values = np.stack([window(f, key, area if fine else area.at(20)) for f in items])
            values = np.where(clear.repeat(2, 1).repeat(2, 2) if fine else clear, values, 0)
            median = floor_median(values)
            dn[i, b] = median if fine else median.repeat(2, 0).repeat(2, 1)
    return dn, count


def window(item: dict, key: str, area: Grid) -> np.ndarray:
    with rasterio.open(item["assets"][key]["href"]) as source:
        wanted = rasterio.windows.from_bounds(*area.bounds, source.transform)
        return source.read(1, window=wanted, boundless=True, fill_value=0)


def test_tiles_equal_plain_rasterio_and_numpy_bit_for_bit(hard_archive):
    area = aoi.parse_area(PATCH)
    (tile,) = grid.tiles(area)  # larger than the scenes: some pixels have none
    scenes = search(area.geometry, PERIOD, str(hard_archive / "items.json")).scenes
    made = pipeline.compose(scenes, tile.grid, PERIOD)
    dn, count = independent(hard_archive, tile.grid)
    np.testing.assert_array_equal(made.dn, dn)
    np.testing.assert_array_equal(made.clear, count)
    assert not made.dn[3].any()  # March 2019: no scenes
    assert not made.dn[5].any()  # May 2019: all cloud
    assert not made.dn[:, :, :6, 2:10].any()  # the corner that is never clear
    inside = made.clear[:, 2:-2, 2:-2]
    assert {1, 2, 3, 4} <= set(np.unique(inside))  # odd and even counts occur


def test_the_grid_does_not_depend_on_how_items_state_their_crs(hard_archive, tmp_path):
    """STAC 1.1 items carry proj:code instead of proj:epsg; some carry neither a transform nor a shape."""
    area, period = aoi.parse_area(PATCH), Period(2019, 1, 2)
    (tile,) = grid.tiles(area)
    plain = pipeline.compose(search(area.geometry, period, str(hard_archive / "items.json")).scenes, tile.grid, period)
    collection = json.loads((hard_archive / "items.json").read_text())
    for item in collection["features"]:
        item["properties"]["proj:code"] = f"EPSG:{item['properties'].pop('proj:epsg')}"
        for asset in item["assets"].values():
            del asset["proj:transform"], asset["proj:shape"]
    other = tmp_path / "items.json"
    other.write_text(json.dumps(collection))
    coded = pipeline.compose(search(area.geometry, period, str(other)).scenes, tile.grid, period)
    np.testing.assert_array_equal(coded.dn, plain.dn)
    np.testing.assert_array_equal(coded.clear, plain.clear)


def test_chunks_do_not_show(hard_archive, monkeypatch):
    """Chunks with ragged edges give the values of one large chunk, with any number of threads."""
    area, period = aoi.parse_area(PATCH), Period(2019, 1, 2)
    scenes = search(area.geometry, period, str(hard_archive / "items.json")).scenes
    (tile,) = grid.tiles(area)
    whole = pipeline.compose(scenes, tile.grid, period)
    monkeypatch.setattr("geomap.read.stack.chunk_px", lambda scenes: 48)
    clear = clear_np(monthly.read_classes(read.scene_classes(scenes, tile.grid, Access())))
    stack = read.stack(scenes, tile.grid, period, Access(), clear)
    assert stack.fine.dn.chunks[2] == (48, 20)
    parts = monthly.compute(stack, 2, workers=4)
    np.testing.assert_array_equal(parts.dn, whole.dn)
    np.testing.assert_array_equal(parts.clear, whole.clear)
    for fused in (False, True):
        for bands, expected in ((BANDS_10M, whole.held), (BANDS_20M, whole.coarse)):
            np.testing.assert_array_equal(monthly.monthly(stack, 2, bands, fused=fused).compute(), expected)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_forked_process_reads_too(hard_archive):
    """It has the pools of dask without their threads: a task for them would wait for ever."""
    area, period = aoi.parse_area(PATCH), Period(2019, 1, 1)
    scenes = search(area.geometry, period, str(hard_archive / "items.json")).scenes
    (tile,) = grid.tiles(area)
    whole = pipeline.compose(scenes, tile.grid, period)

    def child() -> None:
        np.testing.assert_array_equal(pipeline.compose(scenes, tile.grid, period).dn, whole.dn)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    hangs = process.is_alive()
    process.kill()
    process.join()
    assert (hangs, process.exitcode) == (False, 0)


def test_scenes_without_a_clear_pixel_cost_no_band_read(hard_archive, tmp_path):
    """May is all cloud: its band files may go, its scene classification may not."""
    area = aoi.parse_area(PATCH)
    (tile,) = grid.tiles(area)
    folder = tmp_path / "archive"
    shutil.copytree(hard_archive, folder)
    text = (folder / "items.json").read_text().replace(str(hard_archive.resolve()), str(folder.resolve()))
    (folder / "items.json").write_text(text)
    period = Period(2019, 4, 2)
    scenes = search(area.geometry, period, str(folder / "items.json")).scenes
    whole = pipeline.compose(scenes, tile.grid, period)
    may = [scene for scene in scenes if scene.time.month == CLOUDY[1]]
    assert may
    for scene in may:
        for band in BANDS:
            Path(scene.assets[band].href).unlink()
    np.testing.assert_array_equal(pipeline.compose(scenes, tile.grid, period).dn, whole.dn)
    assert not pipeline.compose(may, tile.grid, period).dn.any()
    Path(may[0].assets["SCL"].href).unlink()
    without = pipeline.compose(scenes, tile.grid, period)
    assert [(m.scene, m.band, m.cause) for m in without.missed] == [(may[0].id, "SCL", "missing")]
    np.testing.assert_array_equal(without.dn, whole.dn)
