"""Areas of interest and the tiles that cover them.

Every UTM zone has one fixed grid of tiles, TILE_PX x TILE_PX pixels of 10 m counted from the zone's origin, so a tile
keeps its name whatever the area. A tile is cut to the area's bounds, snapped outward to 20 m, the coarsest pixel read.
Each place on Earth belongs to exactly one zone (the MGRS rule, with its exceptions for Norway and Svalbard), so maps of
neighbouring zones neither overlap nor leave a gap.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Geod, Transformer
from shapely.geometry import MultiPolygon, Polygon, box
from shapely.geometry.base import BaseGeometry

from geomap.errors import AoiError
from geomap.types import Grid, Tile

if TYPE_CHECKING:
    import geopandas

RESOLUTION: Final = 10  # m
TILE_PX: Final = 1024  # pixels per side of a tile
SNAP: Final = 20  # m; Sentinel-2's 10 m and 20 m grids both start at multiples of 20 m in every zone
MAX_AREA_KM2: Final = 5_000_000  # about half of Europe; beyond it an AOI is more likely a mistake
MAX_LATITUDE: Final = 84.0  # degrees; UTM ends at 84 N and 80 S
MIN_LATITUDE: Final = -80.0

_TILE_M = TILE_PX * RESOLUTION
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_BBOX = re.compile(rf"^\s*{_NUMBER}\s*(?:,\s*{_NUMBER}\s*){{3}}$")
_WKT = re.compile(r"^\s*(?:SRID=\d+;)?\s*(?:MULTI)?POLYGON\b|^\s*GEOMETRYCOLLECTION\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Area:
    """An area of interest: polygons in EPSG:4326 (longitude, latitude), cut at the antimeridian."""

    geometry: MultiPolygon

    @property
    def square_km(self) -> float:
        """Geodesic area on WGS 84."""
        return sum(abs(_GEOD.geometry_area_perimeter(p)[0]) for p in self.geometry.geoms) / 1e6


_GEOD = Geod(ellps="WGS84")
_LAST_LONGITUDE = np.nextafter(180, 0)  # 180 itself is zone 1, as -180


def parse_area(text: str) -> Area:
    """An AOI from "minx,miny,maxx,maxy", WKT, or the path of a GeoJSON, GPKG or Shapefile.

    Raises:
        AoiError: the text is none of these, or the area is empty, crosses itself, lies outside UTM or is too large.
    """
    if _BBOX.match(text):
        geometry = _from_bbox([float(v) for v in text.split(",")])
    elif _WKT.match(text):
        geometry = _from_wkt(text)
    elif Path(text).exists():
        geometry = _from_file(Path(text))
    else:
        raise AoiError(
            f"cannot read the area {text!r}: give minx,miny,maxx,maxy in degrees, WKT, "
            "or the path of a .geojson, .gpkg or .shp file"
        )
    return _checked(geometry)


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
    """Tiles that hold pixels of the area, ordered by zone, then north to south, west to east."""
    found = []
    for epsg in _zones(area):
        region = _in_zone(area, epsg)
        if region.is_empty:
            continue
        outer = _snap(region.bounds)
        shapely.prepare(region)
        for row in range(math.floor(outer[1] / _TILE_M), math.ceil(outer[3] / _TILE_M)):
            for col in range(math.floor(outer[0] / _TILE_M), math.ceil(outer[2] / _TILE_M)):
                tile = _cut(epsg, col, row, outer)
                if tile and region.intersects(box(*tile.grid.bounds)) and inside(area, tile.grid).any():
                    found.append(tile)
    if not found:
        raise AoiError("the area holds no 10 m pixel; give a larger one")
    return tuple(sorted(found, key=lambda t: (t.grid.epsg, -t.grid.north, t.grid.west)))


def mosaic_grid(parts: tuple[Grid, ...]) -> Grid:
    """The smallest grid that covers grids of one zone."""
    west, north = min(g.west for g in parts), max(g.north for g in parts)
    east, south = max(g.east for g in parts), min(g.bounds[1] for g in parts)
    first = parts[0]
    step = first.resolution
    return Grid(first.epsg, west, north, (east - west) // step, (north - south) // step, step)


def inside(area: Area, grid: Grid) -> NDArray[np.bool_]:
    """(y, x) True where a pixel's centre lies in the area and belongs to the grid's zone."""
    if _wholly_inside(area, grid):
        return np.ones(grid.shape, bool)
    step = grid.resolution
    x = grid.west + step * (np.arange(grid.width) + 0.5)
    y = grid.north - step * (np.arange(grid.height) + 0.5)
    xx, yy = np.meshgrid(x, y)
    lon, lat = Transformer.from_crs(grid.epsg, 4326, always_xy=True).transform(xx, yy)
    shapely.prepare(area.geometry)
    mine = zone_epsg(lon, lat) == grid.epsg
    mask: NDArray[np.bool_] = mine & shapely.contains_xy(area.geometry, lon, lat)
    return mask


def lonlat_box(grid: Grid) -> tuple[float, float, float, float]:
    """(west, south, east, north) in degrees around a grid; west > east where it crosses the antimeridian."""
    to_lonlat = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    west, south, east, north = to_lonlat.transform_bounds(*grid.bounds, densify_pts=21)
    return west, south, east, north


def _wholly_inside(area: Area, grid: Grid) -> bool:
    """Whether a glance shows that every pixel is inside: the area holds the grid's box and one zone owns it."""
    west, south, east, north = lonlat_box(grid)
    owners = zone_epsg(np.array([west, west, east, east]), np.array([south, north, south, north]))
    one_degree = math.floor(west) == math.floor(east) and math.floor(south) == math.floor(north)
    return one_degree and bool((owners == grid.epsg).all()) and area.geometry.contains(box(west, south, east, north))


def _from_bbox(values: list[float]) -> BaseGeometry:
    west, south, east, north = values
    swapped = ",".join(f"{v:g}" for v in (south, west, north, east))
    if max(abs(south), abs(north)) > 90:
        raise AoiError(
            f"latitudes {south:g} and {north:g} are out of range; the order is minx,miny,maxx,maxy "
            f"(longitude first): did you mean {swapped}?"
        )
    if max(abs(west), abs(east)) > 180:
        raise AoiError(f"longitudes {west:g} and {east:g} are out of range -180..180")
    if south >= north or west == east:
        raise AoiError(f"the box {','.join(f'{v:g}' for v in values)} is empty; the order is minx,miny,maxx,maxy")
    if west < east:
        return box(west, south, east, north)
    if west - east < 180:
        raise AoiError(f"minx {west:g} is east of maxx {east:g}; the order is minx,miny,maxx,maxy")
    return MultiPolygon([box(west, south, 180, north), box(-180, south, east, north)])  # over the antimeridian


def _from_wkt(text: str) -> BaseGeometry:
    try:
        return shapely.from_wkt(re.sub(r"^\s*SRID=\d+;", "", text))
    except shapely.errors.ShapelyError as e:
        raise AoiError(f"the area is not valid WKT: {e}") from e


def _from_file(path: Path) -> BaseGeometry:
    import geopandas

    try:
        table: geopandas.GeoDataFrame = geopandas.read_file(path)
    except Exception as e:  # pyogrio and GDAL raise many kinds
        raise AoiError(f"cannot read the area file {path}: {e}; give a GeoJSON, GPKG or Shapefile") from e
    if table.crs is None:
        raise AoiError(f"the area file {path} has no coordinate system; set one, for example EPSG:4326")
    shapes = table.geometry.dropna()
    if shapes.empty:
        raise AoiError(f"the area file {path} holds no polygon")
    for shape in shapes:
        _require_valid(shape, str(path))
    return shapely.union_all(shapes.to_crs(4326).to_numpy())


def _require_valid(shape: BaseGeometry, where: str) -> None:
    if not shape.is_valid:
        raise AoiError(f"the polygon of {where} is not valid: {shapely.is_valid_reason(shape)}; repair it first")


def _checked(geometry: BaseGeometry) -> Area:
    _require_valid(geometry, "the area")
    polygons = [g for g in shapely.get_parts(geometry, return_index=False) if isinstance(g, Polygon) and not g.is_empty]
    if not polygons:
        raise AoiError(f"the area must be a polygon, not {'empty' if geometry.is_empty else geometry.geom_type}")
    west, south, east, north = shapely.total_bounds(np.array(polygons))
    if not all(map(math.isfinite, (west, south, east, north))):
        raise AoiError("the area has coordinates that are not numbers")
    if west < -180 or east > 180 or south < -90 or north > 90:
        raise AoiError(
            f"the area spans {west:g}..{east:g}, {south:g}..{north:g}, which are not degrees of longitude and "
            "latitude; give it in EPSG:4326, longitude first"
        )
    if south < MIN_LATITUDE or north > MAX_LATITUDE:
        raise AoiError(f"the area reaches latitude {south:g}..{north:g}; UTM grids end at 80 S and 84 N")
    area = Area(MultiPolygon(polygons))
    if area.square_km > MAX_AREA_KM2:
        raise AoiError(f"the area has {area.square_km:,.0f} km2, more than {MAX_AREA_KM2:,}; cut it into regions")
    return area


def _zones(area: Area) -> tuple[int, ...]:
    """EPSG codes of zones that may hold pixels of the area: those of a fine lattice over its bounds."""
    codes: set[int] = set()
    for polygon in area.geometry.geoms:
        west, south, east, north = polygon.bounds
        lons = np.append(np.arange(math.ceil(west), east, 1.0), [west, min(east, _LAST_LONGITUDE)])
        lats = np.append(np.arange(math.ceil(south), north, 1.0), [south, north])
        # ^ every border between zones lies on whole degrees
        codes.update(int(c) for c in np.unique(zone_epsg(*np.meshgrid(lons, lats))))
    return tuple(sorted(codes))


def _in_zone(area: Area, epsg: int) -> BaseGeometry:
    """The area's part near a zone, densified, in the zone's CRS; `inside` decides pixel by pixel."""
    zone, south_half = epsg % 100, epsg > 32700
    west, east = 6 * zone - 186 - 6, 6 * zone - 180 + 6  # a zone's width to either side holds MGRS's widened zones
    bottom, top = (-80.0, 0.0) if south_half else (0.0, 84.0)
    frames = [box(max(west, -180), bottom, min(east, 180), top)]
    near = shapely.intersection(area.geometry, shapely.union_all(frames))
    if near.is_empty:
        return near
    near = shapely.segmentize(near, 0.05)  # degrees; straight in longitude and latitude, curved in UTM
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


def _cut(epsg: int, col: int, row: int, outer: tuple[int, int, int, int]) -> Tile | None:
    """The zone's tile (col, row), cut to bounds; None where nothing is left."""
    west, south = max(col * _TILE_M, outer[0]), max(row * _TILE_M, outer[1])
    east, north = min((col + 1) * _TILE_M, outer[2]), min((row + 1) * _TILE_M, outer[3])
    if west >= east or south >= north:
        return None
    grid = Grid(epsg, west, north, (east - west) // RESOLUTION, (north - south) // RESOLUTION)
    return Tile(f"{epsg}_{col:03d}_{row:04d}", grid)
