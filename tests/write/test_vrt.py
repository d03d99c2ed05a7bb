"""Virtual rasters over zones, read by GDAL: values, holes, bytes. test_seam.py has whole runs and QGIS."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from scipy import ndimage

from geomap import aoi, files, grid, legends
from geomap.types import Grid
from geomap.write import vrt
from geomap.write.cog import write_map
from geomap.write.layer import Layer
from geomap.write.stac import MapFile

CLASSES = Layer("landcover", "Land cover", "classes", legends.load("landcover"))
SCORE = Layer("scenicness", "Scenicness", "score", legends.load("scenicness"))


def centres(where: Grid) -> tuple[NDArray[Any], NDArray[Any]]:
    """(y, x) longitude and latitude of the pixels' centres."""
    x = where.west + 10 * (np.arange(where.width) + 0.5)
    y = where.north - 10 * (np.arange(where.height) + 0.5)
    lon, lat = Transformer.from_crs(where.epsg, 4326, always_xy=True).transform(*np.meshgrid(x, y))
    return lon, lat


def ground(where: Grid, layer: Layer) -> NDArray[Any]:
    """Values that depend on the place alone: stripes of about 1 km in longitude and latitude."""
    lon, lat = centres(where)
    stripes = 1 + (np.floor(lon * 70) + 3 * np.floor(lat * 100)) % 8
    return np.asarray(stripes, layer.dtype)


def write_maps(folder: Path, layer: Layer, area: aoi.Area) -> list[MapFile]:
    tiles, maps = grid.tiles(area), []
    for epsg in sorted({t.grid.epsg for t in tiles}):
        members = [t.grid for t in tiles if t.grid.epsg == epsg]
        whole = grid.mosaic_grid(tuple(members))
        path = folder / f"{layer.stem}_{epsg}.tif"
        parts = (
            (g, np.where(grid.inside(area, g), ground(g, layer), layer.nodata).astype(layer.dtype)) for g in members
        )
        write_map(path, layer, whole, parts, {})
        maps.append(MapFile(path, layer, whole))
    return maps


@pytest.mark.parametrize("layer", [CLASSES, SCORE], ids=["classes", "score"])
@pytest.mark.parametrize(
    "bbox",
    [
        "5.95,50.0,6.05,50.03",  # two zones
        "4.98,-0.02,5.02,0.02",  # two hemispheres of a zone
        "5.98,-0.02,6.02,0.02",  # two of each
        "4.9,55.98,5.1,56.02",  # a border from west to east: zone 32 over Norway
        "8.95,71.99,9.05,72.01",  # three zones meet
        "179.97,-17.0,-179.97,-16.95",
    ],
)
def test_a_virtual_raster_shows_every_zone_and_no_hole(tmp_path: Path, layer: Layer, bbox: str) -> None:
    area = aoi.parse_area(bbox)
    maps = write_maps(tmp_path, layer, area)
    (path,) = vrt.write_vrts(tmp_path, maps)
    with rasterio.open(path) as source:
        assert source.driver == "VRT"
        assert source.descriptions == (layer.description,)
        assert np.isnan(source.nodata) if layer is SCORE else source.nodata == 0
        if layer is CLASSES:
            with rasterio.open(maps[0].path) as first:
                shown, wanted = source.colormap(1), first.colormap(1)
            assert all(shown[c.value] == wanted[c.value] for c in layer.classes)
            assert shown[0][3] == 0
        values = source.read(1)
        where = Grid(
            source.crs.to_epsg(), int(source.transform.c), int(source.transform.f), source.width, source.height
        )
        small = source.read(1, out_shape=(where.height // 8, where.width // 8))
    assert where.epsg in {m.grid.epsg for m in maps}
    lon, lat = centres(where)
    west, south, east, north = (float(v) for v in bbox.split(","))
    inside = ((lon - west) % 360 <= (east - west) % 360) & (lat > south) & (lat < north)
    filled = ~np.isnan(values) if layer is SCORE else values != 0
    assert filled[ndimage.minimum_filter(inside, 3)].all()  # at the outer edge to a pixel: centres differ by zone
    assert not filled[~ndimage.maximum_filter(inside, 3)].any()
    assert (values == ground(where, layer))[inside].mean() > 0.98  # others: the edges of stripes
    assert (~np.isnan(small) if layer is SCORE else small != 0).any()


@pytest.mark.parametrize("bbox", ["5.97,50.0,6.03,50.03", "4.95,55.99,5.05,56.01", "179.98,-17.0,-179.98,-16.97"])
def test_nodata_stays_nodata(tmp_path: Path, bbox: str) -> None:
    """Holes of 1 to 3 pixels in every map; a place shows the map pixel that holds its centre, or nothing."""
    rng = np.random.default_rng(0)
    maps = write_maps(tmp_path, CLASSES, aoi.parse_area(bbox))
    for m in maps:
        with rasterio.open(m.path) as source:
            pixels = source.read(1)
        holes = rng.random(pixels.shape) < 0.02
        pixels[holes | ndimage.maximum_filter(rng.random(pixels.shape) < 0.005, 3)] = 0
        write_map(m.path, CLASSES, m.grid, [(m.grid, pixels)], {})
    (path,) = vrt.write_vrts(tmp_path, maps)
    with rasterio.open(path) as source:
        shown = source.read(1)
        where = Grid(source.crs.to_epsg(), *(int(source.transform[i]) for i in (2, 5)), source.width, source.height)
    wanted, sure = np.zeros(where.shape, np.uint8), np.ones(where.shape, bool)
    for m in maps:
        with rasterio.open(m.path) as source:
            pixels = np.pad(source.read(1), 1)
        fine = replace(m.grid, resolution=1)  # metres
        rows, columns = grid.pixels_under(where, fine)
        sure &= (rows % 10 % 8 > 1) & (columns % 10 % 8 > 1)  # GDAL warps to an eighth of a pixel
        at = ((rows // 10 + 1).clip(0, m.grid.height + 1), (columns // 10 + 1).clip(0, m.grid.width + 1))
        wanted = np.where(pixels[at] > 0, pixels[at], wanted)
    owner = grid.zone_epsg(*centres(where))
    seam = ndimage.maximum_filter(owner, 3) != ndimage.minimum_filter(owner, 3)
    np.testing.assert_array_equal(shown[sure & ~seam], wanted[sure & ~seam])
    assert (sure & ~seam & (wanted == 0)).sum() > 1000
    assert seam.mean() < 0.03


def test_each_band_is_shown_over_all_zones(tmp_path: Path) -> None:
    """A map of two bands, of which the second is one more than the first, beside a map of the first alone."""
    layer = Layer("landcover_probabilities", "Probabilities", "percent", bands=("Cropland", "Water"))
    area = aoi.parse_area("5.95,50.0,6.05,50.03")
    plain = Layer("plain", "Plain", "percent")
    maps = []
    for m in write_maps(tmp_path, plain, area):
        with rasterio.open(m.path) as source:
            one = source.read(1)
        both = np.stack([one, np.where(one == 255, 255, one + 1)]).astype(np.uint8)
        path = tmp_path / f"{layer.stem}_{m.grid.epsg}.tif"
        write_map(path, layer, m.grid, [(m.grid, both)], {})
        maps += [m, MapFile(path, layer, m.grid)]
    one, several = vrt.write_vrts(tmp_path, maps)
    with rasterio.open(one) as a, rasterio.open(several) as b:
        assert b.descriptions == layer.bands
        assert b.nodatavals == (255, 255)
        first, second = b.read()
        assert (first != a.read(1)).mean() < 1e-4  # which the other tests know; GDAL warps to an eighth of a pixel
    known = first != 255
    np.testing.assert_array_equal(second != 255, known)
    np.testing.assert_array_equal(second[known], first[known] + 1)
    assert known.sum() > 10_000


def test_bytes_depend_on_the_maps_alone_and_paths_are_relative(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        folder = tmp_path / name
        maps = write_maps(folder, CLASSES, aoi.parse_area("5.99,50.0,6.01,50.01"))
        vrt.write_vrts(folder, maps if name == "one" else maps[::-1])
        digests.append({p.relative_to(folder).as_posix(): files.sha256(p) for p in folder.rglob("*") if p.is_file()})
        assert not any(str(tmp_path) in p.read_text() for p in folder.rglob("*.vrt"))
    assert digests[0] == digests[1]
    assert {"landcover.vrt", "landcover.qml"} <= digests[0].keys()
    views = sorted(name.partition("_326")[2][2:] for name in digests[0] if name.startswith("zones/landcover_326"))
    assert views == [".vrt", "_beside.vrt", "_seam.vrt"]  # of one zone


def test_one_zone_needs_none(tmp_path: Path) -> None:
    assert vrt.write_vrts(tmp_path, write_maps(tmp_path, CLASSES, aoi.parse_area("5.0,50.0,5.01,50.01"))) == ()


def test_a_virtual_raster_has_the_bands_of_its_maps(tmp_path: Path) -> None:
    layer = Layer("ndvi", "NDVI by month", "ndvi", bands=("2023-06", "2023-07"))
    maps = []
    for epsg, west in ((32631, 705_000), (32632, 295_000)):  # on both sides of 6 E
        where = Grid(epsg, west, 5_540_000, 60, 50)
        pixels = np.stack([np.full(where.shape, 10 * (epsg - 32_600) + band, np.int16) for band in (1, 2)])
        maps.append(MapFile(tmp_path / f"ndvi_{epsg}.tif", layer, where))
        write_map(maps[-1].path, layer, where, [(where, pixels)], {})
    (path,) = vrt.write_vrts(tmp_path, maps)
    with rasterio.open(path) as source:
        assert source.descriptions == layer.bands
        assert (source.nodata, source.scales) == (-32768, (1e-4, 1e-4))
        first, second = source.read()
    assert {*np.unique(first)} == {-32768, 311, 321}
    np.testing.assert_array_equal(second[first > 0] - first[first > 0], 1)
