"""What a map would take: clear sky against numpy on every scene, over real HTTP, with files that fail."""

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Transformer

from geomap import aoi, grid
from geomap.catalog.search import search
from geomap.run import plan as plans
from geomap.run.plan import plan_request
from geomap.run.prepare import months_expected
from geomap.run.request import Request
from geomap.sentinel2 import SCL, SCL_NOT_CLEAR
from geomap.types import Grid, Period
from tests.support.archive import Series
from tests.support.runner import geomap, refused
from tests.support.server import Answer, Server

AREA = "4.0588,50.7434,4.0640,50.7480"
"""Inside the patch."""
PERIOD = Period(2018, 8, 6)
DATES = 19
"""Scenes, August to November 2018: December and January have none."""


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture(scope="module")
def api(served, archive, stac_server) -> str:
    """The archive behind a real STAC API, its files behind a real range server."""
    source = archive(base_url=f"{served.base}/cogs", dates=DATES)
    (served.folder / "cogs").symlink_to(source / "cogs")
    address: str = stac_server(source)
    return address


@pytest.fixture(scope="module")
def local(api, served, archive, tmp_path_factory) -> Path:
    """The same items with their files' paths."""
    source = archive(base_url=f"{served.base}/cogs", dates=DATES)
    items = tmp_path_factory.mktemp("local") / "items.json"
    items.write_text((source / "items.json").read_text().replace(served.base, str(served.folder)))
    return items


@pytest.fixture(scope="session")
def asking(asking) -> Callable[..., Request]:
    """No map of a half year, unless changed."""
    return functools.partial(asking, area=AREA, period=PERIOD, legends=(), allow_hosts=("127.0.0.1",))


@pytest.fixture(scope="module")
def truth(series: Series) -> dict[datetime, float]:
    """Share of the area that is clear at each date: the pixel centres inside, by pyproj and numpy alone."""
    scl, times = series.layers[SCL][:DATES], series.times[:DATES]
    rows, cols = np.mgrid[:32, :32] + 0.5
    lon, lat = Transformer.from_crs(32631, 4326, always_xy=True).transform(
        series.west + 20 * cols, series.north - 20 * rows
    )
    left, bottom, right, top = map(float, AREA.split(","))
    inside = (lon > left) & (lon < right) & (lat > bottom) & (lat < top)
    assert inside.sum() > 200
    clear = ~np.isin(scl, SCL_NOT_CLEAR)
    return {time.astype(datetime): float(clear[i][inside].mean()) for i, time in enumerate(times)}


def expected(truth: dict[datetime, float], month: int) -> list[float]:
    return [share for time, share in truth.items() if (time.year, time.month) == (2018, month)]


def test_clear_sky_equals_numpy_on_every_scene(api, asking, truth):
    made = plan_request(asking(api))
    assert (made.scenes, made.measured, made.failed) == (DATES, DATES, 0)
    for m in made.months:
        shares = expected(truth, m.month) if m.year == 2018 else []
        assert (m.scenes, m.passes, m.measured) == (len(shares),) * 3
        assert m.observations == pytest.approx(sum(shares))
        assert m.clear == (pytest.approx(np.mean(shares)) if shares else None)
    assert [(m.year, m.month) for m in made.months if m.empty] == [
        (m.year, m.month) for m in made.months if m.observations < 0.5
    ]
    assert {(2018, 12), (2019, 1)} <= {(m.year, m.month) for m in made.months if m.empty}
    clear = sum(share > 0 for share in truth.values())
    assert made.reads == pytest.approx(DATES + 10 * clear, abs=1)  # one tile: every SCL, and the bands of clear scenes
    (tile,) = grid.tiles(aoi.parse_area(AREA))
    pixels = tile.grid.width * tile.grid.height
    assert made.read_bytes == pytest.approx(pixels * (DATES / 4 + clear * (4 * 2 + 6 * 2 / 4)), abs=1)
    assert made.tiles == 1
    assert made.read_seconds is not None
    assert made.encode_seconds > 0


def test_scenes_that_are_not_measured_are_taken_at_their_word(api, asking, truth, monkeypatch):
    monkeypatch.setattr(plans, "SAMPLE_SCENES", 7)
    made = plan_request(asking(api))
    assert made.measured == 7
    assert all(m.measured >= 1 for m in made.months if m.passes)  # drawn from every month
    scenes = search(aoi.parse_area(AREA).geometry, PERIOD, api, allow_hosts=["127.0.0.1"]).scenes
    looked = set(plans.choose({s.acquisition: [s] for s in scenes}, 7))
    for m in made.months:
        shares = [
            truth[s.time.replace(tzinfo=None)] if s.acquisition in looked else 1 - s.cloud_cover / 100
            for s in scenes
            if (s.time.year, s.time.month) == (m.year, m.month)
        ]
        assert m.observations == pytest.approx(sum(shares))


def test_files_that_fail_are_counted_and_the_rest_is_measured(local, served, asking, truth, tmp_path):
    folder = served.folder
    (folder / "again").symlink_to(folder)  # addresses that GDAL has not read yet
    items = tmp_path / "items.json"
    items.write_text(local.read_text().replace(str(folder), f"{served.base}/again"))
    scenes = search(aoi.parse_area(AREA).geometry, PERIOD, str(items)).scenes
    broken = scenes[3]
    served.always[f"/{broken.id}/scl.tif"] = Answer(404, body=b"")
    try:
        made = plan_request(asking(items))
    finally:
        served.always.clear()
    assert (made.measured, made.failed) == (DATES - 1, 1)
    assert f"{broken.id}/scl.tif cannot be read (HTTP 404)" in str(made.failure)
    shares = expected(truth, broken.time.month)
    here = next(m for m in made.months if m.month == broken.time.month)
    assert here.measured == len(shares) - 1
    stated = 1 - (broken.cloud_cover or 0) / 100
    assert here.observations == pytest.approx(sum(shares) - truth[broken.time.replace(tzinfo=None)] + stated)


def test_where_no_file_can_be_read_there_is_a_plan_without_a_rate(local, asking, tmp_path):
    content = json.loads(local.read_text())
    for item in content["features"]:
        item["assets"]["scl"]["href"] = str(tmp_path / f"{item['id']}.tif")
    august = [1 - f["properties"]["eo:cloud_cover"] / 100 for f in content["features"][:4]]
    for item in content["features"][4:]:
        del item["properties"]["eo:cloud_cover"]
    (tmp_path / "items.json").write_text(json.dumps(content))
    made = plan_request(asking(tmp_path / "items.json"))
    assert (made.measured, made.failed, made.read_seconds, made.requests) == (0, DATES, None, 0)
    assert made.download_bytes is None
    assert made.months[0].observations == pytest.approx(sum(august))
    unknown = made.months[2]
    assert (unknown.clear, unknown.empty) == (None, False)  # nothing known is not the same as nothing there


def test_granules_of_one_pass_count_once(local, asking, truth, tmp_path):
    content = json.loads(local.read_text())
    content["features"] += [
        json.loads(json.dumps(item).replace("_31UES", "_next").replace("MGRS-31UES", ""))
        | {"assets": item["assets"]}  # the neighbour's overlap shows the same pixels
        for item in content["features"]
    ]
    (tmp_path / "items.json").write_text(json.dumps(content))
    made = plan_request(asking(tmp_path / "items.json"))
    assert made.scenes == 2 * DATES
    assert sum(m.passes for m in made.months) == DATES
    assert sum(m.observations for m in made.months) == pytest.approx(sum(truth.values()))


def test_a_large_area_is_read_from_the_overviews(served, local):
    """A classification of noise cannot be compressed: what is sent tells what was read."""
    rng = np.random.default_rng(0)
    field = rng.random((2048, 2048)) < np.linspace(0.1, 0.9, 2048)
    classes = np.where(field, rng.choice([4, 5, 6, 7], field.shape), rng.choice([3, 8, 9, 10], field.shape))
    path = served.folder / "noise.tif"
    lies = rasterio.Affine(20, 0, 500_000, 0, -20, 5_600_000)
    profile = {"width": 2048, "height": 2048, "count": 1, "dtype": "uint8", "crs": 32631, "transform": lies}
    with rasterio.open(path, "w", driver="COG", compress="DEFLATE", overview_resampling="NEAREST", **profile) as out:
        out.write(classes.astype(np.uint8), 1)
    scene = search(aoi.parse_area(AREA).geometry, Period(2018, 8, 1), str(local)).scenes[0]
    asset = replace(scene.assets["SCL"], href=f"{served.base}/noise.tif")
    scene = replace(scene, assets={**scene.assets, "SCL": asset})
    where = Grid(32631, 500_000, 5_600_000, 128, 128, 320)
    before = served.sent
    seen = plans.clear_sky(scene, where)
    assert 0 < served.sent - before < path.stat().st_size / 8
    np.testing.assert_allclose(seen.mean(axis=0), np.linspace(0.1, 0.9, 128), atol=0.2)
    assert abs(seen.mean() - field.mean()) < 0.02
    shifted = plans.clear_sky(scene, replace(where, west=500_000 + 64 * 320))  # half of it outside the file
    np.testing.assert_array_equal(shifted[:, :64], seen[:, 64:])
    assert not shifted[:, 64:].any()
    assert not plans.clear_sky(scene, replace(where, west=700_000)).any()


def test_the_sample_grid_covers_every_tile():
    area = aoi.parse_area("4.0,50.6,4.6,50.9")
    parts = grid.tiles(area)
    (where,) = plans.sample_grids(parts)
    assert max(where.shape) <= plans.SAMPLE_PX
    assert where.resolution % 20 == 0
    west, south, east, north = where.bounds
    for tile in parts:
        w, s, e, n = tile.grid.bounds
        assert min(w - west, s - south, east - e, north - n) >= 0
    share = grid.inside(area, where).sum() * where.resolution**2 / 1e6 / area.square_km
    assert share == pytest.approx(1, abs=0.01)


def test_the_command_prints_a_table_and_writes_nothing(local, untrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--start", "2018-08", "--months", "6", "--stac", str(local), "--weights", untrained, "--max-cloud", "99"]
    done = geomap("plan", AREA, *options, columns=200)
    assert done.exit_code == 0, done.stderr
    for text in ("2018-08", "2019-01", "clear share", "of local files", "encoding", "cloudy"):
        assert text in done.stdout
    assert "expected to be empty: " in done.stderr
    assert "2018-12 (no scenes), 2019-01 (no scenes)" in done.stderr
    assert list(tmp_path.iterdir()) == []
    done = geomap("plan", AREA, "--start", "2030-01", "--stac", local, "--weights", untrained)
    refused(done, 2, "no Sentinel-2 scene over")


def test_months_that_clouds_leave(local):
    """Each month: one less the chance that all its passes are cloudy, by cloud cover or by what was measured."""
    scenes = search(aoi.parse_area(AREA).geometry, PERIOD, str(local)).scenes
    cloudy = dict.fromkeys(range(12), 1.0)
    for scene in scenes:
        cloudy[PERIOD.step(scene.time)] *= scene.cloud_cover / 100
    assert months_expected(PERIOD, scenes) == round(sum(1 - share for share in cloudy.values()))
    clear = {scene.acquisition: float(PERIOD.step(scene.time) < 3) for scene in scenes}
    assert months_expected(PERIOD, scenes, clear) == len({PERIOD.step(s.time) for s in scenes} & {0, 1, 2})
    assert months_expected(PERIOD, ()) == PERIOD.months  # of saved composites nothing is known
