"""The tiles that cover an area of interest, and the zone that owns each pixel.

Sentinel-2's granules are the squares of 100 km that MGRS names, each with some ground of its neighbours, and the blocks
of their files are counted from a granule's north-west corner (`corner`). So are the tiles, TILE_PX x TILE_PX pixels of
10 m: the blocks of 512 or 1024 pixels that archives write lie inside one tile, or inside PAIR x PAIR of them. A tile is
cut to its square, so that each pixel lies in exactly one, and to the bounds of the area, snapped outward to 20 m, the
coarsest pixel size read. Its name, such as 31UES_03_02, is that of the square, with the column from the west and the
row from the north, and is the same whatever the area.

Each place on Earth belongs to exactly one zone (the MGRS rule, with its exceptions for Norway and Svalbard), so maps of
neighbouring zones neither overlap nor leave a gap.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from shapely.geometry import MultiPolygon, Polygon, box
from shapely.geometry.base import BaseGeometry

from geomap.aoi import Area, polygons_of
from geomap.errors import AoiError
from geomap.lonlat import Box, continuous
from geomap.types import Grid, Tile

T = TypeVar("T")

RESOLUTION: Final = 10  # m
TILE_PX: Final = 1024  # pixels per side of a tile
PAIR: Final = 2  # tiles per side of what is read together: blocks of 1024 pixels of 20 m reach over so many
SQUARE_M: Final = 100_000  # side of the squares that MGRS names
SNAP: Final = 20  # m; Sentinel-2's 10 m and 20 m grids both start at multiples of 20 m in every zone

COLUMNS: Final = ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")
"""Letters of the squares' columns, from 100 km on, of zones whose number modulo 3 is 0, 1, 2 (NGA.STND.0037, B-2)."""
ROWS: Final = "ABCDEFGHJKLMNPQRSTUV"  # of every 2,000 km from the equator; in even zones F is the first
BANDS: Final = "CDEFGHJKLMNPQRSTUVWX"  # of 8 degrees of latitude from 80 S on; X has 12
FALSE_NORTHING: Final = 10_000_000  # m, of the southern hemisphere
_CORNER_M = 60  # granules start at multiples of the largest pixel, counted from the equator
_LATITUDES = (-80, 0, 56, 64, 72, 84)  # degrees; zones change at these and at multiples of 3 degrees of longitude
_EDGE_POINTS = 65  # points along each edge of a grid seen from another zone, where the edge is curved
_STRIDE = 32  # pixels between the first samples of a tile on a border
_LAST_LONGITUDE = np.nextafter(180, 0)  # 180 itself belongs to zone 1, like -180


def zone_epsg(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.int32]:
    """EPSG code of the UTM zone that owns each place: 326zz north of the equator, 327zz south of it.

    MGRS (NGA.STND.0037, section 3-1): six-degree zones, 32 widened to 3..12 E between 56 and 64 N, and in 72..84 N
    the zones 31, 33, 35 and 37 widened over 32, 34 and 36.
    """
    lon = np.asarray(lon, np.float64)
    lat = np.asarray(lat, np.float64)
    zone = (np.floor((lon + 180) / 6).astype(np.int32) % 60) + 1
    zone = np.where((lat >= 56) & (lat < 64) & (lon >= 3) & (lon < 12), 32, zone)
    svalbard = (lat >= 72) & (lon >= 0) & (lon < 42)
    zone = np.where(svalbard, np.select([lon < 9, lon < 21, lon < 33], [31, 33, 35], 37), zone)
    return np.where(lat >= 0, 32600, 32700).astype(np.int32) + zone.astype(np.int32)


def tiles(area: Area) -> tuple[Tile, ...]:
    """Tiles that contain pixels of the area, ordered by zone, then north to south, west to east."""
    found = []
    for epsg in _zones(area):
        region = MultiPolygon(polygons_of(_in_zone(area, epsg, territory(epsg))))
        if region.is_empty:
            continue
        outer = _snap(_in_zone(area, epsg, _neighbourhood(epsg)).bounds)  # a tile is cut to the area, not the zone
        shapely.prepare(region)
        for square in _squares(region.bounds):
            near = _tiles_in(epsg, square, region.bounds, outer)
            found += [tile for tile in near if _holds_pixels(area, region, tile.grid)]
    if not found:
        raise AoiError("the area holds no 10 m pixel; give a larger one")
    return tuple(sorted(found, key=_place))


def in_zone(west: int, south: int, east: int, north: int) -> bool:
    """Whether bounds in metres lie where a UTM zone has squares of 100 km, and are not empty."""
    return SQUARE_M <= west < east <= 9 * SQUARE_M and 0 <= south < north <= FALSE_NORTHING


def corner(epsg: int, x: float, y: float) -> tuple[int, int]:
    """(west, north) of the granule to whose square of 100 km a place belongs, all in metres of the zone.

    Measured: all corners of real items are the square's, moved outward to multiples of 60 m, and in the southern
    hemisphere these are counted from the equator, before the false northing.
    """
    zero = FALSE_NORTHING if epsg > 32700 else 0
    west, north = (math.floor(v / SQUARE_M) * SQUARE_M for v in (x, y - zero))
    return west // _CORNER_M * _CORNER_M, -(-(north + SQUARE_M) // _CORNER_M) * _CORNER_M + zero


def square_name(epsg: int, x: float, y: float) -> str:
    """MGRS name of the square of 100 km to which a place in metres belongs, such as 31UES.

    A square over two bands of latitude has the letter of the band in which its middle lies.
    """
    zone, column, row = epsg % 100, math.floor(x / SQUARE_M), math.floor(y / SQUARE_M)
    middle = ((column + 0.5) * SQUARE_M, (row + 0.5) * SQUARE_M)
    _, latitude = _to_lonlat(epsg).transform(*middle)
    band = BANDS[min(max(math.floor((latitude + 80) / 8), 0), len(BANDS) - 1)]
    return f"{zone:02d}{band}{COLUMNS[zone % 3][column - 1]}{ROWS[(row + (0 if zone % 2 else 5)) % len(ROWS)]}"


def pair(grid: Grid) -> tuple[int, int, int]:
    """What is read together with a tile's grid, which shares blocks with it: the zone, and a corner in metres."""
    around = whole(replace(grid, width=1, height=1), PAIR * TILE_PX)
    return grid.epsg, around.west, around.north


def in_pairs(found: Iterable[T], grid_of: Callable[[T], Grid]) -> dict[tuple[int, int, int], list[T]]:
    """Tiles, or what has their grids, by what is read together (`pair`)."""
    groups: dict[tuple[int, int, int], list[T]] = {}
    for one in found:
        groups.setdefault(pair(grid_of(one)), []).append(one)
    return groups


def whole(grid: Grid, side: int) -> Grid:
    """The whole tiles of `side` pixels, counted from a granule's corner, that hold a grid inside one square."""
    west, north = corner(grid.epsg, grid.west, grid.north - 1)
    step = side * grid.resolution
    left = west + (grid.west - west) // step * step
    top = north - (north - grid.north) // step * step
    columns, rows = -(-(grid.east - left) // step), -(-(top - grid.bounds[1]) // step)
    return replace(grid, west=left, north=top, width=columns * side, height=rows * side)


def by_square(grid: Grid) -> dict[str, Grid]:
    """A grid cut at the borders of the squares of 100 km, by their names."""
    parts = {}
    for west, south in _squares(grid.bounds):
        square = west, south, west + SQUARE_M, south + SQUARE_M
        parts[square_name(grid.epsg, west, south)] = _meet(grid.epsg, grid.bounds, square)
    return parts


def mosaic_grid(parts: tuple[Grid, ...]) -> Grid:
    """The smallest grid that covers several grids of one zone."""
    west, north = min(g.west for g in parts), max(g.north for g in parts)
    east, south = max(g.east for g in parts), min(g.bounds[1] for g in parts)
    first = parts[0]
    step = first.resolution
    return Grid(first.epsg, west, north, (east - west) // step, (north - south) // step, step)


def by_zone(tiles: Iterable[Tile]) -> list[list[Grid]]:
    """The grids of tiles, a list for each zone."""
    zones: dict[int, list[Grid]] = {}
    for tile in tiles:
        zones.setdefault(tile.grid.epsg, []).append(tile.grid)
    return [zones[epsg] for epsg in sorted(zones)]


def inside(area: Area, grid: Grid) -> NDArray[np.bool_]:
    """(y, x) True where the centre of a pixel lies in the area and belongs to the grid's zone."""
    shapely.prepare(area.geometry)
    if _wholly_inside(area, grid):
        return np.ones(grid.shape, bool)
    return _inside_every(1, area, grid)


@functools.lru_cache(maxsize=1 << 14)
def lonlat_box(grid: Grid) -> Box:
    """The box in degrees around a grid."""
    to_lonlat = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    return Box(*to_lonlat.transform_bounds(*grid.bounds, densify_pts=21))


@functools.lru_cache(maxsize=4096)
def outline(crs: int | str, bounds: tuple[float, float, float, float]) -> Polygon:
    """A box in metres, (west, south, east, north), as a polygon in degrees, maybe beyond 180.

    `crs` is an EPSG code or WKT. Raises ValueError if the box lies outside what the CRS can describe.
    """
    ring = shapely.segmentize(box(*bounds).exterior, max(bounds[2] - bounds[0], bounds[3] - bounds[1]) / 8)
    x, y = shapely.get_coordinates(ring).T
    lon, lat = Transformer.from_crs(crs, 4326, always_xy=True).transform(x, y)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        raise ValueError(f"{bounds} lies outside {crs}")
    return Polygon(np.column_stack([continuous(lon), lat]))


def covering(grid: Grid, epsg: int) -> Grid:
    """The grid in another zone that covers `grid`, with the same pixel size, snapped outward like tiles."""
    west, south, east, north = grid.bounds
    x, y = np.linspace(west, east, _EDGE_POINTS), np.linspace(south, north, _EDGE_POINTS)
    xs = np.concatenate([x, x, np.full_like(y, west), np.full_like(y, east)])
    ys = np.concatenate([np.full_like(x, south), np.full_like(x, north), y, y])
    xs, ys = Transformer.from_crs(grid.epsg, epsg, always_xy=True).transform(xs, ys)
    left, bottom, right, top = _snap((min(xs), min(ys), max(xs), max(ys)))
    step = grid.resolution
    return Grid(epsg, left, top, (right - left) // step, (top - bottom) // step, step)


def centres(grid: Grid, stride: int = 1) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Centres of every stride-th pixel in metres: x (columns,) and y (rows,)."""
    x = grid.west + grid.resolution * (np.arange(0, grid.width, stride) + 0.5)
    y = grid.north - grid.resolution * (np.arange(0, grid.height, stride) + 0.5)
    return x, y


def pixels_under(grid: Grid, other: Grid) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(rows, columns), each (y, x): for each pixel of `grid`, the pixel of `other` that contains its centre.

    Outside `other` they are negative or beyond its size.
    """
    project = Transformer.from_crs(grid.epsg, other.epsg, always_xy=True)
    xx, yy = project.transform(*np.meshgrid(*centres(grid)))
    rows, columns = (other.north - yy) / other.resolution, (xx - other.west) / other.resolution
    return np.floor(rows).astype(np.intp), np.floor(columns).astype(np.intp)


def _wholly_inside(area: Area, grid: Grid) -> bool:
    """Whether every pixel is clearly inside: both the area and the zone's territory contain the grid's box."""
    around = lonlat_box(grid)
    frame = around.polygons
    return len(around.parts) == 1 and bool(territory(grid.epsg).contains(frame) and area.geometry.contains(frame))


def _inside_every(stride: int, area: Area, grid: Grid) -> NDArray[np.bool_]:
    """(ceil(y / stride), ceil(x / stride)) `inside` at every stride-th pixel of a grid."""
    xx, yy = np.meshgrid(*centres(grid, stride))
    lon, lat = Transformer.from_crs(grid.epsg, 4326, always_xy=True).transform(xx, yy)
    mine = zone_epsg(lon, lat) == grid.epsg
    mask: NDArray[np.bool_] = mine & shapely.contains_xy(area.geometry, lon, lat)
    return mask


def _holds_pixels(area: Area, region: MultiPolygon, grid: Grid) -> bool:
    """Whether any pixel of a 10 m grid is inside, given the area's part in the grid's zone, in its CRS.

    Pixel centres lie 5 m inside the grid's box, and the densified region is accurate to 1 m. So if the box is disjoint
    from the region, or inside it, the pixels need not be tested.
    """
    frame = box(*grid.bounds)
    if not region.intersects(frame):
        return False
    if region.contains(frame):
        return True
    shapely.prepare(area.geometry)
    return bool(_inside_every(_STRIDE, area, grid).any() or inside(area, grid).any())


def _zones(area: Area) -> tuple[int, ...]:
    """EPSG codes of zones that may contain pixels of the area, from a fine lattice over its bounds."""
    codes: set[int] = set()
    for polygon in area.geometry.geoms:
        west, south, east, north = polygon.bounds
        lons = np.append(np.arange(math.ceil(west), east, 1.0), [west, min(east, _LAST_LONGITUDE)])
        lats = np.append(np.arange(math.ceil(south), north, 1.0), [south, north])
        # ^ every border between zones lies on whole degrees
        codes.update(int(c) for c in np.unique(zone_epsg(*np.meshgrid(lons, lats))))
    return tuple(sorted(codes))


@functools.cache
def territory(epsg: int) -> BaseGeometry:
    """The places a zone owns, in degrees: all cells between zone borders that `zone_epsg` assigns to it."""
    west = 6 * (epsg % 100) - 186
    cells = [
        box(lon, south, lon + 3, north)
        for south, north in itertools.pairwise(_LATITUDES)
        for lon in range(west - 3, west + 9, 3)  # MGRS widens a zone by 3 degrees to a side
        if zone_epsg(np.array(lon + 1.5), np.array((south + north) / 2)) == epsg
    ]
    whole = shapely.union_all(cells)
    shapely.prepare(whole)
    return whole


def _neighbourhood(epsg: int) -> BaseGeometry:
    """A zone's half of the globe, extended by one zone on either side, in degrees."""
    west = 6 * (epsg % 100) - 186
    bottom, top = (-80.0, 0.0) if epsg > 32700 else (0.0, 84.0)
    return box(max(west - 6, -180), bottom, min(west + 12, 180), top)


def _in_zone(area: Area, epsg: int, frame: BaseGeometry) -> BaseGeometry:
    """The area's part inside a frame in degrees, densified, in the zone's CRS."""
    near = shapely.segmentize(shapely.intersection(area.geometry, frame), 0.05)
    # ^ degrees; straight in longitude and latitude, curved in UTM
    to_zone = Transformer.from_crs(4326, epsg, always_xy=True)
    return shapely.transform(near, lambda xy: np.column_stack(to_zone.transform(xy[:, 0], xy[:, 1])))


def _snap(bounds: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """Bounds moved outward to multiples of SNAP, metres."""
    west, south, east, north = bounds
    return (
        math.floor(west / SNAP) * SNAP,
        math.floor(south / SNAP) * SNAP,
        math.ceil(east / SNAP) * SNAP,
        math.ceil(north / SNAP) * SNAP,
    )


def _place(tile: Tile) -> tuple[int, ...]:
    """Where a tile comes in the order of work: tiles that are read together follow each other."""
    epsg, west, north = pair(tile.grid)
    return epsg, -north, west, -tile.grid.north, tile.grid.west


def _squares(bounds: tuple[float, float, float, float]) -> Iterator[tuple[int, int]]:
    """(west, south) of the squares of 100 km in bounds of one zone, in metres."""
    west, south, east, north = (v / SQUARE_M for v in bounds)
    for row in range(math.floor(south), math.ceil(north)):
        for column in range(math.floor(west), math.ceil(east)):
            yield column * SQUARE_M, row * SQUARE_M


def _tiles_in(
    epsg: int, square: tuple[int, int], region: tuple[float, float, float, float], outer: tuple[int, int, int, int]
) -> Iterator[Tile]:
    """The tiles of a square, (west, south), that touch a region, cut to the square and to the outer bounds."""
    left, bottom = square
    right, top = left + SQUARE_M, bottom + SQUARE_M
    west, north = corner(epsg, left, bottom)
    side, name = TILE_PX * RESOLUTION, square_name(epsg, left, bottom)
    first, last = (max(left, region[0]) - west) / side, (min(right, region[2]) - west) / side
    upper, lower = (north - min(top, region[3])) / side, (north - max(bottom, region[1])) / side
    for row in range(math.floor(upper), math.ceil(lower)):
        for column in range(math.floor(first), math.ceil(last)):
            x, y = west + column * side, north - row * side
            within = max(left, outer[0]), max(bottom, outer[1]), min(right, outer[2]), min(top, outer[3])
            grid = _meet(epsg, (x, y - side, x + side, y), within)
            if grid.width > 0 and grid.height > 0:
                yield Tile(f"{name}_{column:02d}_{row:02d}", grid)


def _meet(epsg: int, one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> Grid:
    """What two boxes in metres share, as a grid; its size is not positive if that is nothing."""
    west, south = max(one[0], other[0]), max(one[1], other[1])
    east, north = min(one[2], other[2]), min(one[3], other[3])
    return Grid(epsg, west, north, (east - west) // RESOLUTION, (north - south) // RESOLUTION)


@functools.cache
def _to_lonlat(epsg: int) -> Transformer:
    return Transformer.from_crs(epsg, 4326, always_xy=True)
