"""Areas over two UTM zones and over the antimeridian: whole, each place once, and the same map as in one zone.

The ground is simulated (fields of 16 to 44 pixels with their noise, woods, water, roads), seen by granules of one zone,
or by granules of both zones as Sentinel-2 delivers it near a border of zones: the neighbour's granules show the same
looks on their own grid, their 20 m pixels made anew from the pixels of 10 m beneath them. Maps are compared with a
rendering wholly in one zone, each pixel with the one in which its centre lies.

Granules of one zone: every pixel has the same label (asserted: 99.9 %). Granules of both zones are two samples of the
ground, up to half a pixel apart; pixels at the edge of a field have another mixture in each. Measured over 256 x 256
pixels at 6 E and at 180 E: 97.9 and 98.2 % of all land cover labels agree (in the second zone 95.8 and 96.5 %), and
99.8 and 99.9 % of those further than two pixels (one of 20 m) from an edge between classes of the one-zone map.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from scipy.ndimage import maximum_filter, minimum_filter

from geomap import aoi, files, grid, legends, pipeline
from geomap.catalog.search import search
from geomap.encode.engine import Engine
from geomap.run.map import map_area
from geomap.run.plan import plan_request
from geomap.run.prepare import prepare
from geomap.run.request import Request
from geomap.run.tiles import label_tile
from geomap.sentinel2 import SCL_NOT_CLEAR
from geomap.simulate import archive
from geomap.simulate.growth import reflectance
from geomap.simulate.landscape import landscape, noise
from geomap.types import Grid, Period
from tests.support.outputs import problems

SIZE = 96  # pixels a side of a granule, which lies with its middle on the seam
YEAR = Period(2023, 1)
COVER = "landcover"


@dataclass(frozen=True)
class Seam:
    """A place on the border of two zones, and the MGRS tiles that lie there."""

    lon: float
    lat: float
    zones: tuple[int, int]
    tiles: tuple[str, str]


LAND = Seam(6.0, 50.9, (32631, 32632), ("31UGS", "32UKB"))
DATE_LINE = Seam(180.0, -17.0, (32760, 32701), ("60KZG", "01KAB"))


@dataclass(frozen=True)
class Mapped:
    """A run over a seam, and the same ground mapped wholly in the first zone."""

    seam: Seam
    area: aoi.Area
    folder: Path
    one: NDArray[Any]  # (y, x) land cover on `home`
    home: Grid


def home_grid(seam: Seam) -> Grid:
    x, y = Transformer.from_crs(4326, seam.zones[0], always_xy=True).transform(seam.lon, seam.lat)
    return Grid(seam.zones[0], int(x // 20) * 20 - 5 * SIZE, int(y // 20) * 20 + 5 * SIZE, SIZE, SIZE)


def resampled(look: archive._Look, home: Grid, other: Grid) -> archive._Look:
    """The look as a granule on another grid shows it, nodata outside `home`."""
    rows, cols = grid.pixels_under(other, home)
    outside = (rows < 0) | (cols < 0) | (rows >= SIZE) | (cols >= SIZE)
    rows, cols = rows.clip(0, SIZE - 1), cols.clip(0, SIZE - 1)
    coarse = (np.clip(v, 0, SIZE // 2 - 1) for v in grid.pixels_under(other.at(20), home.at(20)))
    edge = outside | look.edge[rows, cols]
    unseen = edge.reshape(other.height // 2, 2, -1, 2).any((1, 3))
    scl = np.where(unseen, 0, look.scl[tuple(coarse)]).astype(np.uint8)
    return replace(look, reflectance=look.reflectance[:, rows, cols], scl=scl, edge=edge)


def write_scenes(folder: Path, seam: Seam, both: bool) -> Path:
    """An archive of every fourth look of a year, in granules of the first zone or of both."""
    home = home_grid(seam)
    land = replace(landscape(1, SIZE), grid=home)
    rng = np.random.default_rng(0)
    days = np.tile(np.arange(1, 366, dtype=np.float32), (len(land.pixels.cover), 1))
    clean, texture = reflectance(land.pixels, days), np.stack([noise(rng, SIZE, 24) for _ in range(2)])
    grids = (home, grid.covering(home, seam.zones[1]))[: 1 + both]
    features = []
    with pytest.MonkeyPatch.context() as patch:
        for number, when in enumerate(archive.acquisition_times(rng, 2023, ())[::4]):
            look = archive._look(rng, land, clean, texture, when, number, False)
            for where, name in zip(grids, seam.tiles, strict=False):
                patch.setattr(archive, "TILE", name)
                features.append(
                    archive._write_item(folder, where, look if where == home else resampled(look, home, where))
                )
    items = folder / "items.json"
    items.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return items


def map_seam(folder: Path, seam: Seam, both: bool) -> Mapped:
    items = write_scenes(folder / "scenes", seam, both)
    high = 10 * SIZE * 0.4 / 111_320  # degrees
    wide = high / np.cos(np.radians(seam.lat))
    west, east = seam.lon - wide, (seam.lon + wide + 180) % 360 - 180
    area = aoi.parse_area(f"{west:.7f},{seam.lat - high:.7f},{east:.7f},{seam.lat + high:.7f}")
    request = Request(area=area, period=YEAR, stac=str(items), legends=(legends.load(COVER),))
    map_area(request, folder / "out")
    job, home = prepare(request), home_grid(seam)
    scenes = search(area.geometry, YEAR, str(items)).scenes
    made = pipeline.compose(scenes, home, YEAR)
    one = label_tile(job, Engine(job.weights.encoder), made, np.ones(home.shape, bool)).layers[COVER]
    return Mapped(seam, area, folder / "out", one, home)


@pytest.fixture(scope="module")
def land(tmp_path_factory: pytest.TempPathFactory) -> Mapped:
    return map_seam(tmp_path_factory.mktemp("land"), LAND, both=True)


@pytest.fixture(scope="module")
def date_line(tmp_path_factory: pytest.TempPathFactory) -> Mapped:
    return map_seam(tmp_path_factory.mktemp("date_line"), DATE_LINE, both=False)


@pytest.fixture(params=["land", "date_line"])
def mapped(request: pytest.FixtureRequest) -> Mapped:
    found: Mapped = request.getfixturevalue(request.param)
    return found


def read(path: Path) -> tuple[NDArray[Any], Grid]:
    with rasterio.open(path) as source:
        place = source.transform
        where = Grid(source.crs.to_epsg(), int(place.c), int(place.f), source.width, source.height)
        return source.read(1), where


def test_each_place_of_the_area_lies_in_one_map(mapped: Mapped) -> None:
    """Against every 10 m pixel of both zones around the area, and against random places."""
    rng = np.random.default_rng(0)
    lons = (mapped.seam.lon + rng.uniform(-0.02, 0.02, 40_000) + 180) % 360 - 180
    lats = mapped.seam.lat + rng.uniform(-0.01, 0.01, 40_000)
    within = shapely.contains_xy(mapped.area.geometry.buffer(-2e-4), lons, lats)  # 15 m and more
    within |= np.abs((lons - mapped.seam.lon + 180) % 360 - 180) < 1e-9
    lons, lats = lons[within], lats[within]
    held = np.zeros(len(lons), int)
    for epsg in mapped.seam.zones:
        months, where = read(mapped.folder / f"clear_months_{epsg}.tif")
        to_lonlat = Transformer.from_crs(epsg, 4326, always_xy=True)
        wide = replace(
            where, west=where.west - 300, north=where.north + 300, width=where.width + 60, height=where.height + 60
        )
        x, y = np.meshgrid(wide.west + 5 + 10 * np.arange(wide.width), wide.north - 5 - 10 * np.arange(wide.height))
        lon, lat = to_lonlat.transform(x, y)
        mine = shapely.contains_xy(mapped.area.geometry, lon, lat) & (grid.zone_epsg(lon, lat) == epsg)
        found = np.zeros(wide.shape, bool)
        found[30:-30, 30:-30] = months != 255
        np.testing.assert_array_equal(found, mine)  # no pixel outside, none missing
        px, py = to_lonlat.transform(lons, lats, direction="INVERSE")
        row, col = ((where.north - py) // 10).astype(int), ((px - where.west) // 10).astype(int)
        inside = (row >= 0) & (col >= 0) & (row < where.height) & (col < where.width)
        held[inside] += months[row[inside], col[inside]] != 255
    metres = np.abs((lons - mapped.seam.lon + 180) % 360 - 180) * 111_320 * np.cos(np.radians(lats))
    assert (held[metres > 7.1] == 1).all()  # half the diagonal of a pixel
    assert set(held[metres <= 7.1]) <= {0, 1, 2}  # borders of pixels of two zones do not meet
    assert held.mean() == pytest.approx(1, abs=2e-3)


def test_no_map_is_wider_than_its_part_of_the_area(mapped: Mapped) -> None:
    for path in mapped.folder.glob("*.tif"):
        _, where = read(path)
        bounds = shapely.total_bounds([grid._in_zone(mapped.area, where.epsg, grid._neighbourhood(where.epsg))])
        assert where.west >= bounds[0] - 20
        assert where.east <= bounds[2] + 20
        assert max(where.shape) < SIZE + 20


def test_labels_are_those_of_one_zone(mapped: Mapped) -> None:
    spread = maximum_filter(mapped.one, 5) == minimum_filter(mapped.one, 5)  # one class within two pixels
    same, off_edges = [], []
    for epsg in mapped.seam.zones:
        labels, where = read(mapped.folder / f"{COVER}_{epsg}.tif")
        rows, cols = (v[labels > 0] for v in grid.pixels_under(where, mapped.home))
        agrees = labels[labels > 0] == mapped.one[rows, cols]
        if epsg == mapped.home.epsg:
            assert agrees.all()
        same.append(agrees)
        off_edges.append(agrees[spread[rows, cols]])
    everywhere, inner = np.concatenate(same), np.concatenate(off_edges)
    assert len(everywhere) > 0.6 * SIZE**2
    assert len(inner) > 0.2 * SIZE**2
    assert inner.mean() >= (0.995 if mapped.seam == LAND else 0.999)
    assert everywhere.mean() >= (0.95 if mapped.seam == LAND else 0.999)


def test_one_virtual_raster_shows_both_zones_without_a_hole(mapped: Mapped) -> None:
    assert problems(mapped.folder) == ()
    sums = (mapped.folder / files.SUMS).read_text()
    for name in (f"{COVER}.vrt", f"{COVER}.qml", "clear_months.vrt", f"{COVER}_confidence.vrt"):
        assert f"  {name}\n" in sums
    shown, where = read(mapped.folder / f"{COVER}.vrt")
    to_lonlat = Transformer.from_crs(where.epsg, 4326, always_xy=True)
    x, y = np.meshgrid(where.west + 5 + 10 * np.arange(where.width), where.north - 5 - 10 * np.arange(where.height))
    inside = shapely.contains_xy(mapped.area.geometry, *to_lonlat.transform(x, y))
    assert (shown[minimum_filter(inside, 3) > 0] > 0).all()  # at the outer edge to a pixel: centres differ by zone
    assert (shown[maximum_filter(inside, 3) == 0] == 0).all()
    by_zone = []
    for epsg in mapped.seam.zones:
        labels, part = read(mapped.folder / f"{COVER}_{epsg}.tif")
        rows, cols = grid.pixels_under(where, part)
        there = (rows >= 0) & (cols >= 0) & (rows < part.height) & (cols < part.width)
        by_zone.append(np.where(there, labels[rows.clip(0, part.height - 1), cols.clip(0, part.width - 1)], 0))
    one, other = by_zone
    for value, none in ((one, other == 0), (other, one == 0)):  # each zone's pixels are its map's
        assert (shown == value)[(value > 0) & none].all()
    both = (one > 0) & (other > 0)  # places of the seam that lie in a pixel of each
    assert both.sum() < 0.03 * inside.sum()
    assert ((shown == one) | (shown == other))[both].all()


def test_a_plan_looks_at_every_zone_alike(mapped: Mapped) -> None:
    """Its clear share is that of the whole area, not of the zone with the most tiles, on each date."""
    items = mapped.folder.parent / "scenes/items.json"
    made = plan_request(Request(area=mapped.area, period=YEAR, stac=str(items), legends=()))
    home = [s for s in search(mapped.area.geometry, YEAR, str(items)).scenes if s.epsg == mapped.home.epsg]
    coarse = mapped.home.at(20)
    to_lonlat = Transformer.from_crs(coarse.epsg, 4326, always_xy=True)
    x, y = np.meshgrid(
        coarse.west + 10 + 20 * np.arange(coarse.width), coarse.north - 10 - 20 * np.arange(coarse.height)
    )
    lon, lat = to_lonlat.transform(x, y)
    inside = shapely.contains_xy(mapped.area.geometry, lon, lat)
    first = inside & (grid.zone_epsg(lon, lat) == coarse.epsg)
    whole, half = np.zeros(12), np.zeros(12)
    for scene in home:
        with rasterio.open(scene.assets["SCL"].href) as source:
            clear = ~np.isin(source.read(1), SCL_NOT_CLEAR)
        whole[scene.time.month - 1] += clear[inside].mean()
        half[scene.time.month - 1] += clear[first].mean()
    planned = np.array([m.observations for m in made.months])
    assert np.abs(half - whole).max() > 0.05
    np.testing.assert_allclose(planned, whole, atol=0.025)


def test_qgis_opens_both_zones_as_one_layer(
    date_line: Mapped, tmp_path: Path, qgis: Callable[..., dict[str, Any]]
) -> None:
    out = tmp_path / "moved"  # paths are relative
    date_line.folder.rename(out)
    try:
        report = qgis(out / f"{COVER}.vrt")
        known = {c.id: (f"{c.code} {c.name}", c.colour.lower()) for c in legends.load(COVER).classes}
        assert report["renderer"] == "paletted"
        shown = {int(c["value"]): (c["label"], c["color"]) for c in report["classes"]}  # those that occur
        assert len(shown) > 3
        assert shown.items() <= known.items()
        assert report["crs"] in {f"EPSG:{epsg}" for epsg in date_line.seam.zones}
        assert report["width"] < SIZE + 20
        assert len(report["distinct_colours"]) > 3
        assert set(report["distinct_colours"]) <= {colour for _, colour in known.values()} | {"#ff00ff"}
    finally:
        out.rename(date_line.folder)
