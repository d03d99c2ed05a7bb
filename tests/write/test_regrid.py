"""Maps on a grid of the user's own, against counts of every pixel by pyproj and numpy, and against GDAL's warp."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.warp import Resampling, reproject

from geomap import aoi, grid, legends
from geomap.errors import InputError
from geomap.types import Grid, OwnGrid
from geomap.write import regrid
from geomap.write.cog import write_map
from geomap.write.layer import Layer, Statistics
from geomap.write.own_grid import grid_in, grid_like, placed
from geomap.write.stac import MapFile

CLASSES = Layer("landcover", "Land cover", "classes", legends.load("landcover"))
SURE = Layer("landcover_confidence", "confidence", "percent")
SCORE = Layer("scenicness", "Scenicness", "score", legends.load("scenicness"))
HOME = Grid(32631, 600_000, 5_640_000, 300, 240)  # west of 4.5 E, where EPSG:3035 is turned by some degrees

DATE_LINE = [Grid(32760, 818_000, 8_120_000, 140, 60), Grid(32701, 180_600, 8_120_000, 140, 60)]
OVER_180 = [Grid(32760, 818_000, 8_120_000, 300, 60)]


def patches(shape: tuple[int, int], side: int, low: int, high: int) -> NDArray[np.uint8]:
    few = np.random.default_rng(0).integers(low, high, (shape[0] // side + 1, shape[1] // side + 1))
    return np.kron(few, np.ones((side, side), int))[: shape[0], : shape[1]].astype(np.uint8)


def written(folder: Path, layer: Layer, pixels: NDArray[Any], where: Grid = HOME) -> tuple[list[MapFile], Statistics]:
    path = folder / f"{layer.stem}_{where.epsg}.tif"
    return [MapFile(path, layer, where)], write_map(path, layer, where, [(where, pixels)], {})


def on(own: OwnGrid, folder: Path, layer: Layer, pixels: NDArray[Any]) -> NDArray[Any]:
    """The pixels of a map on another grid."""
    maps, found = written(folder, layer, pixels)
    made = regrid.write_own(folder, maps, placed(own, [HOME]), found, {})
    with rasterio.open(made.path) as source:
        assert source.shape == made.grid.shape
        assert tuple(source.transform)[:6] == made.grid.transform
        values: NDArray[Any] = source.read(1)
    return values


def test_coarse_cells_hold_the_commonest_class_of_the_pixels_whose_centres_they_contain(tmp_path: Path) -> None:
    ids = patches(HOME.shape, 7, 0, 9)
    own = placed(grid_in("3035", 90), [HOME])
    made = on(own, tmp_path, CLASSES, ids)
    x = HOME.west + 10 * (np.arange(-50, HOME.width + 50) + 0.5)  # pixels beyond the map are nodata, and count
    y = HOME.north - 10 * (np.arange(-50, HOME.height + 50) + 0.5)
    px, py = Transformer.from_crs(32631, 3035, always_xy=True).transform(*np.meshgrid(x, y))
    row, column = (own.north - py) // 90, (px - own.west) // 90
    votes = np.zeros((*own.shape, 9), int)
    inside = (row >= 0) & (row < own.height) & (column >= 0) & (column < own.width)
    np.add.at(votes, (row[inside].astype(int), column[inside].astype(int), np.pad(ids, 50)[inside]), 1)
    mapped = 2 * votes[..., 1:].sum(-1) >= votes.sum(-1)
    first, second = np.sort(votes[..., 1:], axis=-1)[..., :-3:-1].transpose(2, 0, 1)
    clear = np.abs(2 * votes[..., 1:].sum(-1) - votes.sum(-1)) > 2  # a centre within 2 mm of a border may go either way
    sure = clear & mapped & (first - second > 2)
    assert sure.mean() > 0.5
    np.testing.assert_array_equal(made[sure], (votes[..., 1:].argmax(-1) + 1)[sure])
    assert (made[clear & ~mapped] == 0).all()
    assert (made[clear & mapped] > 0).all()
    assert (mapped & (votes[..., 0] > 0)).any()
    chosen = np.take_along_axis(votes, made[..., None].astype(int), -1)[..., 0][clear & mapped]
    assert (chosen >= first[clear & mapped] - 2).all()


def test_cells_of_whole_pixels_are_exact(tmp_path: Path) -> None:
    """2 x 2 pixels: means and majorities by numpy; a tie is the class further to the north-west."""
    own = grid_in("EPSG:32631", 20)
    ids, sure = patches(HOME.shape, 3, 0, 4), patches(HOME.shape, 1, 1, 100)
    sure[ids == 0] = 255
    blocks = ids.reshape(HOME.height // 2, 2, -1, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
    percents = np.where(ids == 0, np.nan, sure).reshape(HOME.height // 2, 2, -1, 2)
    held = np.isfinite(percents).sum(axis=(1, 3))
    mean = np.floor(np.nansum(percents, axis=(1, 3)) / np.maximum(held, 1) + 0.5)
    kept = held >= 2
    made = on(own, tmp_path, SURE, sure)
    np.testing.assert_array_equal(made, np.where(kept, mean, 255))
    classes = on(own, tmp_path, CLASSES, ids).ravel()
    counts = np.stack([(blocks == c).sum(axis=1) for c in range(1, 4)], axis=1)
    assert (classes[~kept.ravel()] == 0).all()
    assert (counts[np.arange(len(counts)), classes.astype(int) - 1] == counts.max(axis=1))[kept.ravel()].all()
    tied = kept.ravel() & (blocks[:, 0] > 0) & ((blocks == blocks[:, :1]).sum(axis=1) == counts.max(axis=1))
    assert (classes[tied] == blocks[tied, 0]).all()


def test_crops_within_cropland_do_not_grow_in_coarse_cells(tmp_path: Path) -> None:
    ids = np.zeros(HOME.shape, np.uint8)
    ids[::10, ::10] = 2  # one pixel of each cell
    ids[:10, :10] = 3
    ids[:4, :10] = 0  # three fifths of a cell
    made = on(grid_in("32631", 100), tmp_path, CLASSES, ids)
    assert made[0, 0] == 3
    assert (made.ravel()[1:] == 0).all()


@pytest.mark.parametrize("own", [("4326", 0.0001), ("3035", None), ("ESRI:54009", 5)])
def test_fine_cells_are_the_pixels_that_contain_their_centres(tmp_path: Path, own: tuple[str, float | None]) -> None:
    values = patches(HOME.shape, 2, 0, 9)
    to = placed(grid_in(*own), [HOME])
    made = on(to, tmp_path, CLASSES, values)
    wanted = np.zeros(to.shape, np.uint8)
    reproject(
        values,
        wanted,
        src_transform=rasterio.Affine(*HOME.transform),
        src_crs=HOME.crs,
        dst_transform=rasterio.Affine(*to.transform),
        dst_crs=to.crs,
        resampling=Resampling.nearest,
    )
    assert (made == wanted).mean() > 0.99  # GDAL's places are off by up to an eighth of a pixel
    x, y = to.west + to.step_x * (np.arange(to.width) + 0.5), to.north - to.step_y * (np.arange(to.height) + 0.5)
    px, py = Transformer.from_crs(to.crs, 32631, always_xy=True).transform(*np.meshgrid(x, y))
    row, column = ((HOME.north - py) // 10).astype(int), ((px - HOME.west) // 10).astype(int)
    inside = (row >= 0) & (row < HOME.height) & (column >= 0) & (column < HOME.width)
    exact = np.where(inside, values[row.clip(0, HOME.height - 1), column.clip(0, HOME.width - 1)], 0)
    assert (made == exact).mean() > 0.9999  # centres within some millimetres of a border
    assert set(np.unique(made)) == set(range(9))


def stripes(lon: NDArray[Any], lat: NDArray[Any]) -> NDArray[np.uint8]:
    """Classes that depend on the place alone, in fields of about 1 km."""
    return (1 + (np.floor(lon * 70) + 3 * np.floor(lat * 100)) % 8).astype(np.uint8)


def lonlats(crs: str, west: float, north: float, step: tuple[float, float], shape: tuple[int, int]) -> Any:
    x, y = west + step[0] * (np.arange(shape[1]) + 0.5), north - step[1] * (np.arange(shape[0]) + 0.5)
    return Transformer.from_crs(crs, 4326, always_xy=True).transform(*np.meshgrid(x, y))


@pytest.mark.parametrize(
    ("bbox", "own"),
    [
        ("5.95,50.0,6.05,50.03", ("3035", 10)),
        ("5.95,50.0,6.05,50.03", ("3035", 100)),
        ("5.95,50.0,6.05,50.03", ("4326", 0.0001)),
        ("5.98,-0.02,6.02,0.02", ("ESRI:54009", 60)),  # two zones of two hemispheres
        ("179.97,-17.0,-179.97,-16.95", ("3832", 10)),
    ],
)
def test_one_map_over_zones_has_no_seam_and_no_hole(bbox: str, own: tuple[str, float], tmp_path: Path) -> None:
    area = aoi.parse_area(bbox)
    tiles, maps, found = grid.tiles(area), [], Statistics(0)
    for epsg in sorted({t.grid.epsg for t in tiles}):
        where = grid.mosaic_grid(tuple(t.grid for t in tiles if t.grid.epsg == epsg))
        values = stripes(*lonlats(where.crs, where.west, where.north, (10, 10), where.shape))
        more, found = written(tmp_path, CLASSES, np.where(grid.inside(area, where), values, 0).astype(np.uint8), where)
        maps += more
    assert len(maps) > 1
    to = placed(grid_in(*own), [m.grid for m in maps])
    found = Statistics(1, dict.fromkeys(range(1, 9), 1))
    made = regrid.write_own(tmp_path, maps, to, found, {})
    with rasterio.open(made.path) as source:
        values = source.read(1)
    lon, lat = lonlats(to.crs, to.west, to.north, (to.step_x, to.step_y), to.shape)
    apart = 1.5 * regrid.shortest_side(to, maps[0].grid) / 111_320  # degrees; further inside than a cell
    parts = [g.bounds for g in area.geometry.geoms]  # two, on both sides of the antimeridian
    wide, east = sum(b[2] - b[0] for b in parts), (lon - max(b[0] for b in parts)) % 360
    inner = (east > apart) & (east < wide - apart)
    inner &= (lat > area.geometry.bounds[1] + apart) & (lat < area.geometry.bounds[3] - apart)
    assert inner.mean() > 0.4
    assert (values[inner] > 0).all()
    u, v = lon * 70, lat * 100
    one = inner & (np.abs(u - np.round(u)) > 70 * apart) & (np.abs(v - np.round(v)) > 100 * apart)  # one field around
    assert one.any()
    np.testing.assert_array_equal(values[one], stripes(lon, lat)[one])


def test_nodata_beside_a_border_of_zones_stays_nodata(tmp_path: Path) -> None:
    """As of crops, which are mapped within cropland alone: a cell is the pixel of its own zone that contains it."""
    area, maps, pixels = aoi.parse_area("5.97,50.0,6.03,50.02"), [], {}
    for epsg in (32631, 32632):
        where = grid.mosaic_grid(tuple(t.grid for t in grid.tiles(area) if t.grid.epsg == epsg))
        crops = np.where(grid.inside(area, where), patches(where.shape, 3, 0, 3), 0).astype(np.uint8)
        more, _ = written(tmp_path, CLASSES, crops, where)
        maps += more
        pixels[epsg] = where, crops
    to = placed(grid_in("4326", 0.0001), [m.grid for m in maps])
    made = regrid.write_own(tmp_path, maps, to, Statistics(1, dict.fromkeys(range(1, 3), 1)), {})
    with rasterio.open(made.path) as source:
        values = source.read(1)
    lon, lat = lonlats(to.crs, to.west, to.north, (to.step_x, to.step_y), to.shape)
    for epsg, (where, crops) in pixels.items():
        to_lonlat = Transformer.from_crs(epsg, 4326, always_xy=True)
        x, y = to_lonlat.transform(lon, lat, direction="INVERSE")
        column, row = np.floor((x - where.west) / 10), np.floor((where.north - y) / 10)
        centre, _ = to_lonlat.transform(where.west + 10 * column + 5, where.north - 10 * row - 5)
        own = ((lon < 6) == (epsg == 32631)) & ((centre < 6) == (epsg == 32631)) & (np.abs(lon - 6) < 0.01)
        own &= (row >= 0) & (row < where.height) & (column >= 0) & (column < where.width)
        truth = crops[row[own].astype(int), column[own].astype(int)]
        assert (truth == 0).any()
        assert (values[own] == truth).mean() > 0.999  # centres within some millimetres of a border


def cells(own: OwnGrid, maps: Sequence[MapFile]) -> dict[tuple[int, int], int]:
    """The classes of cells by row and column, of a grid that is never held as a whole."""
    found = Statistics(1, dict.fromkeys(range(1, 10), 1))
    made = {}
    for part, values in regrid.regridded(maps, own, found, near=False):
        row, column = part.offset_in(own)
        made |= {(row + i, column + j): int(values[i, j]) for i, j in np.argwhere(values > 0).tolist()}
    return made


@pytest.mark.parametrize(
    ("crs", "step", "continent"), [("3035", 1000, (900, 5500, 6600, 4600)), ("4326", 0.01, (-2500, 7200, 7000, 4000))]
)
def test_of_a_grid_like_a_continent_only_the_cells_around_a_map_are_made(
    crs: str, step: float, continent: tuple[int, int, int, int], tmp_path: Path
) -> None:
    maps, _ = written(tmp_path, CLASSES, patches(HOME.shape, 7, 1, 9))
    near = placed(grid_in(crs, step), [HOME])
    column, row, width, height = continent
    wide = OwnGrid(near.crs, near.unit, step, step, column * step, row * step, width, height)
    assert sum(part.width * part.height for part in regrid._parts(wide, [HOME])) < 100
    first, start = round((wide.north - near.north) / step), round((near.west - wide.west) / step)
    made = cells(wide, maps)
    assert made == {(first + i, start + j): v for (i, j), v in cells(near, maps).items()}
    assert len(made) >= 4


def test_maps_far_apart_are_made_without_the_cells_between_them(tmp_path: Path) -> None:
    hawaii = Grid(32605, 230_000, 2_200_000, 300, 240)
    here, _ = written(tmp_path, CLASSES, patches(HOME.shape, 7, 1, 9))
    there, _ = written(tmp_path, CLASSES, patches(HOME.shape, 9, 1, 9), hawaii)
    own = placed(grid_in("4326", 0.005), [HOME, hawaii])
    assert own.width > 30_000
    assert sum(part.width * part.height for part in regrid._parts(own, [HOME, hawaii])) < 200
    made = cells(own, [*here, *there])
    assert made == cells(own, here) | cells(own, there)
    assert len(made) > 60


def test_cells_beyond_the_edge_of_an_elliptic_world_are_nodata(tmp_path: Path) -> None:
    """The column east of the map lies beyond Mollweide's edge, in a part of its own."""
    fiji = Grid(32760, 817_000, 8_120_000, 200, 200)
    maps, _ = written(tmp_path, CLASSES, np.full(fiji.shape, 3, np.uint8), fiji)
    to = Transformer.from_crs(32760, "ESRI:54009", always_xy=True)
    _, _, east, north = to.transform_bounds(*fiji.bounds)
    own = OwnGrid("ESRI:54009", "m", 1000, 1000, east + 600 - regrid.CELLS * 1000, north + 100, 300, 3)
    parts = list(regrid._parts(own, [fiji]))
    assert [part.offset_in(own)[1] + part.width for part in parts] == [regrid.CELLS, regrid.CELLS + 1]
    back = to.transform_bounds(*parts[1].bounds, direction="INVERSE")
    assert not np.isfinite(back).any()
    assert set(cells(own, maps).values()) == {3}


@pytest.mark.parametrize("crs", ["3832", "3460", "8859", "2193"])
@pytest.mark.parametrize("maps", [DATE_LINE, OVER_180])
def test_a_system_that_goes_on_over_180_holds_both_sides(crs: str, maps: list[Grid]) -> None:
    made = placed(grid_in(crs, 50), maps)
    assert made.width * made.height * 50**2 < 1e7


def test_a_grid_like_a_raster_is_that_of_the_raster(tmp_path: Path) -> None:
    path, size = tmp_path / "like.tif", {"width": 40, "height": 30, "count": 1, "dtype": "uint8", "driver": "GTiff"}
    place = rasterio.Affine(25.5, 0, 600_111.5, 0, -30, 5_639_777)
    with rasterio.open(path, "w", **size, crs="EPSG:32631", transform=place) as source:
        source.write(np.zeros((1, 30, 40), np.uint8))
    own = grid_like(path)
    assert own == OwnGrid("EPSG:32631", "m", 25.5, 30, 600_111.5, 5_639_777, 40, 30)
    assert own.name == "32631_25p5x30m"
    assert placed(own, [HOME]) == own
    made = on(own, tmp_path, SCORE, np.full(HOME.shape, 2.5, np.float32))
    assert made.shape == (30, 40)
    assert (made == 2.5).all()


def raster(path: Path, transform: Any, crs: str | None = "EPSG:32631", side: int = 8) -> OwnGrid:
    size: dict[str, Any] = {"width": side, "height": side, "count": 1, "dtype": "uint8", "driver": "GTiff"}
    with rasterio.open(path, "w", **size, crs=crs, transform=transform, SPARSE_OK="TRUE"):
        pass
    return grid_like(path)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda p: grid_in("EPSG:99999", 10), "no coordinate system 'EPSG:99999' is known"),
        (lambda p: grid_in("4326", None), "counts in degrees: give --resolution in degrees, for example 0.0001"),
        (lambda p: grid_in("4326", 100), "counts in degrees, and 100 is too many"),
        (lambda p: grid_in("EPSG:4978", 10), "not a coordinate system of flat maps"),
        (lambda p: grid_in("EPSG:2263", None), "US survey foot: give --resolution in that unit"),
        (lambda p: grid_in("3035", 0.5), "pixels of 0.5 are too small"),
        (lambda p: grid_like(p / "none.tif"), "no file .*none.tif"),
        (lambda p: raster(p / "a.tif", rasterio.Affine(8, 2, 6e5, 2, -8, 5.6e6)), "rotated or not north-up"),
        (lambda p: raster(p / "a.tif", rasterio.Affine(8, 0, 6e5, 0, 8, 5.6e6)), "rotated or not north-up"),
        (lambda p: raster(p / "a.tif", rasterio.Affine(8, 0, 6e5, 0, -8, 5.6e6), None), "has no coordinate system"),
        (lambda p: placed(raster(p / "a.tif", rasterio.Affine(8, 0, 7e5, 0, -8, 5e6)), [HOME]), "does not touch the"),
        *[
            (lambda p, own=own, maps=maps: placed(grid_in(*own), maps), "both sides of the antimeridian, .* is cut")
            for own in (("4326", 0.001), ("3857", 50), ("6933", 50), ("8857", 50), ("ESRI:54009", 50))
            for maps in (DATE_LINE, OVER_180)
        ],
    ],
)  # fmt: skip
def test_what_is_no_grid_is_one_clear_line(ask: Callable[[Path], Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says) as found:
        ask(tmp_path)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("crs", "step", "name"),
    [
        ("EPSG:3035", (100, 100), "3035_100m"),
        ("EPSG:4326", (0.0001, 0.0001), "4326_0p0001deg"),
        ("ESRI:54009", (1000, 1000), "esri54009_1000m"),
        ('LOCAL_CS["a:b/../c"]', (30, 30), "own_30m"),
    ],
)
def test_names_of_grids_are_plain(crs: str, step: Sequence[float], name: str) -> None:
    assert OwnGrid(crs, "deg" if "4326" in crs else "m", *step).name == name
