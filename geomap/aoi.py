"""Reads areas of interest (boxes, WKT, area files) as checked polygons in longitude and latitude."""

from __future__ import annotations

import io
import itertools
import json
import logging
import math
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import shapely
from pyproj import CRS, Geod, Proj
from pyproj.exceptions import ProjError
from shapely.geometry import GeometryCollection, MultiPolygon
from shapely.geometry.base import BaseGeometry
from shapely.geometry.polygon import orient

from geomap.errors import AoiError, install_hint
from geomap.lonlat import Box, cut, followed, turns, wrapped
from geomap.paths import PARQUET, file_and_layer, there

if TYPE_CHECKING:
    import geopandas

MAX_AREA_KM2: Final = 5_000_000  # about half of Europe; beyond it an AOI is more likely a mistake
MAX_LATITUDE: Final = 84.0  # degrees; UTM ends at 84 N and 80 S
MIN_LATITUDE: Final = -80.0

log = logging.getLogger(__name__)

_ODD = re.compile("[!|;&\udc80-\udcff]")
_GEOD = Geod(ellps="WGS84")
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"  # digits match in one way: no backtracking
_FILE: Final = re.compile(r"\.(geojson|json|gpkg|shp|(?:geo)?parquet|fgb|kml|zip)(:[^/:]*)?$", re.IGNORECASE)
"""The end of what can only be meant for the path of a file."""
_BBOX = re.compile(rf"^\s*{_NUMBER}\s*(?:,\s*{_NUMBER}\s*){{3}}$")
_WKT = re.compile(r"^\s*(?:SRID=(\d+);)?\s*((?:(?:MULTI)?POLYGON|GEOMETRYCOLLECTION)\b.*)$", re.IGNORECASE | re.DOTALL)
_GEOJSON_TYPES = ("Polygon", "MultiPolygon", "GeometryCollection", "Feature", "FeatureCollection")
_UNCLOSED: Final = "do not form a closed linestring"  # GEOS, of a ring
_EDGE_M = 1000.0  # m; a straight edge this long and its image in degrees differ by 0.02 m at 45 N, 0.1 m at 78 N
_FARTHEST_M = 1e8  # m; no projected coordinate is larger, zone numbers in false eastings included
_MAX_DEPTH: Final = 20  # brackets of WKT inside each other
_FROM_USE: Final = 20.0  # degrees of a great circle outside the area for which a projected CRS is made
_SCALES: Final = 2000  # corners of an area whose scale is looked at
_AS_LARGE: Final = 1.5  # how much an area may grow or shrink beyond what the scale at its corners tells


@dataclass(frozen=True, slots=True, init=False)
class Area:
    """An area of interest: polygons in EPSG:4326 (longitude, latitude), cut at the antimeridian."""

    geometry: MultiPolygon

    def __init__(
        self,
        geometry: str | Path | BaseGeometry | Sequence[float] | geopandas.GeoSeries | geopandas.GeoDataFrame,
    ) -> None:
        """Takes what `parse_area` takes, (west, south, east, north) in degrees, or shapes.

        These are a GeoSeries or GeoDataFrame that names its CRS, or shapely polygons in EPSG:4326, of which a
        MultiPolygon is kept as it is.

        Raises:
            AoiError: as `parse_area`, or for anything else.
        """
        made = _made(geometry)
        _require_polygons(made)
        object.__setattr__(self, "geometry", made if isinstance(made, MultiPolygon) else _united(made))

    @property
    def square_km(self) -> float:
        """Geodesic area on WGS 84."""
        return _square_km(self.geometry)


def parse_area(text: str, folder: Path = Path()) -> Area:
    """An AOI from "minx,miny,maxx,maxy", WKT, GeoJSON text, or the path of an area file in `folder`.

    That is a GeoJSON, GPKG, Shapefile or GeoParquet; FILE:LAYER names one of several layers.

    Raises:
        AoiError: the text is none of these, or the area is empty, crosses itself, lies outside UTM or is too large.
    """
    return Area(_read(text, folder))


def require_area(text: str, folder: Path = Path()) -> None:
    """Refuse what `parse_area` refuses, as far as possible without GDAL: files must exist but are not opened.

    Raises AoiError.
    """
    if (geometry := _typed(text, folder)) is not None:
        _require_polygons(_cut(geometry))


def _made(given: Any) -> BaseGeometry:
    """The polygons that a caller gives. Raises AoiError."""
    if isinstance(given, BaseGeometry):
        return _cut(given)
    if isinstance(given, str | Path):
        return _read(str(given), Path())
    if isinstance(given, tuple | list | np.ndarray) and len(given) == 4 and all(map(_is_number, given)):
        return GeometryCollection([_cut(_from_bbox([float(v) for v in given]))])
    import geopandas

    if isinstance(given, geopandas.GeoSeries):
        return _from_shapes(given, "the GeoSeries of the area")
    if isinstance(given, geopandas.GeoDataFrame) and given.active_geometry_name is not None:
        return _from_shapes(given.geometry, "the GeoDataFrame of the area")
    raise AoiError(
        f"cannot read an area from {type(given).__name__}: give (west, south, east, north) in degrees, shapely "
        "polygons, a GeoDataFrame with its geometry, WKT or GeoJSON as text, or the path of an area file"
    )


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    return math.isfinite(value)


def _read(text: str, folder: Path) -> GeometryCollection:
    if (geometry := _typed(text, folder)) is not None:
        return GeometryCollection([_cut(geometry)])
    if _is_json(text) and not there(folder / text):
        return _from_table(io.BytesIO(text.strip().encode(errors="replace")), "the GeoJSON area")
    path, layer = file_and_layer(text, folder)
    if not (path.is_file() or path.is_dir()):
        raise AoiError(f"the area {_shown(path)} is no regular file; give a GeoJSON, GPKG or Shapefile")
    name = f"the area file {_shown(path)}"
    if path.suffix.casefold() in PARQUET:
        return _from_shapes(_from_parquet(path, name), name)
    with plainly_named(path) as plain:
        return _from_table(plain, name, layer)


def _typed(text: str, folder: Path) -> BaseGeometry | None:
    """The polygons of a box or WKT; None for GeoJSON and for a file that exists."""
    if _BBOX.match(text):
        return _from_bbox([float(v) for v in text.split(",")])
    if there(folder / text) and text.strip():
        return None  # whatever its name looks like
    if wkt := _WKT.match(text):
        return _from_wkt(wkt[2], srid=wkt[1])
    if _is_json(text):
        _require_geojson(text)
    elif not text.strip() or not _exists(str(file_and_layer(text, folder)[0])):
        if _FILE.search(text):
            raise AoiError(f"there is no file {_short(text)}; give the path of a file with the area's polygons")
        raise AoiError(
            f"cannot read the area {_short(text)}: give minx,miny,maxx,maxy in degrees, WKT or GeoJSON polygons, "
            "or the path of a .geojson, .gpkg, .shp or .parquet file"
        )
    return None


def _is_json(text: str) -> bool:
    return text.lstrip().startswith("{")


def _from_bbox(values: list[float]) -> BaseGeometry:
    west, south, east, north = values
    if max(map(abs, values)) > 1000:
        raise AoiError(
            f"the box {','.join(f'{v:.12g}' for v in values)} looks like metres; give degrees, longitude first, such "
            "as 4.40,50.85,4.45,50.88, or a GPKG or GeoJSON file that names its coordinate system"
        )
    swapped = ",".join(f"{v:g}" for v in (south, west, north, east))
    if max(abs(south), abs(north)) > 90:
        raise AoiError(
            f"latitudes {south:g} and {north:g} are out of range; the order is minx,miny,maxx,maxy "
            f"(longitude first): did you mean {swapped}?"
        )
    if max(abs(west), abs(east)) > 180:
        meant = ",".join(f"{v:g}" for v in (wrapped(west), south, wrapped(east), north))
        hint = f"; did you mean {meant}, across 180?" if max(abs(west), abs(east)) <= 360 else ""
        raise AoiError(f"longitudes {west:g} and {east:g} are out of range -180..180{hint}")
    if south >= north or west == east:
        raise AoiError(f"the box {','.join(f'{v:g}' for v in values)} is empty; the order is minx,miny,maxx,maxy")
    if 0 < west - east < 180:
        raise AoiError(f"minx {west:g} is east of maxx {east:g}; the order is minx,miny,maxx,maxy")
    if east - west > 180:
        raise AoiError(
            f"the box from {west:g} to {east:g} goes round more than half the globe; cut it into regions, or, "
            f"if it is meant across 180 degrees, type {east:g},{south:g},{west:g},{north:g}"
        )
    return Box(west, south, east, north).polygons


def _from_wkt(wkt: str, srid: str | None) -> BaseGeometry:
    if srid is not None and srid.lstrip("0") != "4326":
        raise AoiError(f"the area is in SRID {srid[:12]}; give it in EPSG:4326, longitude first")
    if _depth(wkt) > _MAX_DEPTH:
        raise AoiError(f"the area is WKT with more than {_MAX_DEPTH} levels; give one POLYGON or MULTIPOLYGON")
    try:
        return shapely.from_wkt(wkt)
    except shapely.errors.ShapelyError as e:
        raise AoiError(f"the area is not valid WKT: {_line(e)}") from e


def _depth(wkt: str) -> int:
    return max(itertools.accumulate((c == "(") - (c == ")") for c in wkt), default=0)


def _require_geojson(text: str) -> None:
    try:
        kind = json.loads(text).get("type")
    except (ValueError, RecursionError) as e:
        raise AoiError(f"the area {_short(text)} is not valid GeoJSON: {_line(e)}") from e
    if kind not in _GEOJSON_TYPES:
        raise AoiError(f"the area is GeoJSON of type {kind!r}; give one of {', '.join(_GEOJSON_TYPES)}")


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError as e:  # a name too long, a folder that may not be read
        raise AoiError(
            f"cannot read the area {_short(text)}: {e.strerror}; give minx,miny,maxx,maxy in degrees, "
            "WKT or GeoJSON polygons, or the path of a file that you may read"
        ) from e


@contextmanager
def plainly_named(path: Path) -> Iterator[Path]:
    """The path of a vector file under a name that GDAL takes for a file's: `!`, `|` and others mean more to it."""
    path = path.absolute()  # http:a.geojson and ~a.geojson mean more at the start
    if path.is_dir() or not _ODD.search(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="geomap-") as folder:
        for beside in path.parent.iterdir():
            if beside.stem == path.stem:  # the parts of a Shapefile
                (Path(folder) / f"area{beside.suffix}").symlink_to(beside)
        yield Path(folder) / f"area{path.suffix}"


@contextmanager
def plainly_placed(path: Path) -> Iterator[Path]:
    """The path of a file to write in a folder under a name that pyogrio takes for a folder's, as `plainly_named`."""
    if not _ODD.search(str(path.parent.absolute())):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="geomap-") as folder:
        (Path(folder) / "here").symlink_to(path.parent.absolute())
        yield Path(folder) / "here" / path.name


def _shown(path: Path) -> str:
    return str(path).encode("utf-8", "backslashreplace").decode()


def _from_table(source: Path | io.BytesIO, name: str, layer: str | None = None) -> GeometryCollection:
    """The shapes of a vector file with one layer, or of the layer named, in EPSG:4326. Raises AoiError."""
    import geopandas

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # what GDAL says is in the error
            listed = geopandas.list_layers(source)
            layers = listed.name[listed.geometry_type.notna()]  # other layers are plain tables
            chosen = layers if layer is None else layers[layers == layer]
            table = geopandas.read_file(source, layer=int(chosen.index[0])) if len(chosen) == 1 else None
    except Exception as e:  # pyogrio and GDAL raise many kinds
        if _UNCLOSED in str(e):
            raise AoiError(f"{name} has a ring that is not closed; repeat its first corner as its last one") from e
        raise AoiError(f"cannot read {name}: {_line(e)}; give a GeoJSON, GPKG or Shapefile") from e
    if layer is not None and chosen.empty:
        raise AoiError(f"{name} has no layer {_short(layer)} with polygons; it has {', '.join(layers) or 'none'}")
    if len(chosen) > 1:
        raise AoiError(
            f"{name} has {len(layers)} layers ({', '.join(layers)}); name one, as "
            f"FILE:{layers.iloc[0]}, or export one to a file of its own"
        )
    if table is None:
        raise AoiError(f"{name} holds no polygon")
    _require_known_crs(source, name)
    return _from_shapes(table.geometry, name)


def _from_parquet(path: Path, name: str) -> geopandas.GeoSeries:
    import geopandas

    try:
        return geopandas.read_parquet(path).geometry
    except ImportError as e:
        raise AoiError(f"{name} needs pyarrow; type: {install_hint('pyarrow')}") from e
    except Exception as e:  # pyarrow and geopandas raise many kinds
        raise AoiError(f"cannot read {name}: {_line(e)}; give a GeoJSON, GPKG or Shapefile") from e


def _from_shapes(shapes: geopandas.GeoSeries, name: str) -> GeometryCollection:
    """Shapes that name their coordinate system, in EPSG:4326. Raises AoiError."""
    shapes = shapes[~(shapes.isna() | shapes.is_empty)]
    if shapes.empty:
        raise AoiError(f"{name} holds no polygon")
    if shapes.crs is None:
        raise AoiError(f"{name} has no coordinate system; set one, for example EPSG:4326")
    if shapes.crs.is_geographic:
        lonlat = [_cut(shape) for shape in _in_degrees(shapes, name)]
    else:
        for shape in shapes:
            _require_valid(shape, name)
        lonlat = [_cut(shape, told=False) for shape in _in_degrees(shapes, name)]
        _require_same_size(shapes, lonlat, name)
    for shape in lonlat:
        _require_valid(shape, name)
    return GeometryCollection(lonlat)


def _require_known_crs(source: Path | io.BytesIO, name: str) -> None:
    """Refuse GeoJSON that names a CRS which is not known: GDAL reads its coordinates as degrees then."""
    if isinstance(source, Path) and source.suffix.lower() not in (".geojson", ".json"):
        return
    try:
        content = json.loads(source.read_bytes() if isinstance(source, Path) else source.getvalue())
        crs = content.get("crs")
    except (ValueError, RecursionError, AttributeError):  # GDAL has read it, and is less strict
        return
    try:
        if crs is not None:
            CRS.from_user_input(crs["properties"]["name"])
    except (ProjError, TypeError, KeyError) as e:
        raise AoiError(f"{name} has an unknown coordinate system, {_short(json.dumps(crs))}; give EPSG:4326") from e


def _in_degrees(shapes: geopandas.GeoSeries, name: str) -> geopandas.GeoSeries:
    """Shapes in EPSG:4326; straight edges of a projected CRS become the curves that they are in degrees."""
    if shapes.crs.equals("EPSG:4326", ignore_axis_order=True):
        return shapes
    if not shapes.crs.is_geographic:
        metres = shapes.crs.axis_info[0].unit_conversion_factor
        if np.abs(shapes.total_bounds).max() * metres > _FARTHEST_M:
            raise AoiError(f"{name} has coordinates beyond its coordinate system {shapes.crs.name}")
        shapes = shapes.segmentize(_EDGE_M / metres)
    try:
        moved = shapes.to_crs(4326)
    except ProjError as e:
        raise AoiError(f"{name} cannot be brought to EPSG:4326: {_line(e)}") from e
    if not np.isfinite(moved.total_bounds).all():
        raise AoiError(f"{name} has coordinates beyond its coordinate system {shapes.crs.name}")
    return moved


def _require_same_size(shapes: geopandas.GeoSeries, lonlat: Sequence[BaseGeometry], name: str) -> None:
    """Refuse shapes far from where their CRS holds, or whose surface on the globe is not the one they have in it.

    Each corner's scale of areas tells how much larger than the globe the CRS draws its surroundings.
    """
    if (use := shapes.crs.area_of_use) and not _near(use.bounds, lonlat):
        raise AoiError(
            f"{name} lies far outside {use.name[:80]}, where {shapes.crs.name} holds; set its right coordinate system"
        )
    metres = shapes.crs.axis_info[0].unit_conversion_factor
    drawn = float(shapes.area.sum()) * metres**2 / 1e6
    lon, lat = shapely.get_coordinates(lonlat).T
    step = 1 + len(lon) // _SCALES
    factors = Proj(shapes.crs).get_factors([wrapped(v) for v in lon[::step]], lat[::step], errcheck=False)
    scale = np.abs(np.asarray(factors.areal_scale))
    scale = scale[np.isfinite(scale) & (scale > 0)]
    size = sum(map(_square_km, lonlat))
    if scale.size and drawn and not drawn / scale.max() / _AS_LARGE <= size <= drawn / scale.min() * _AS_LARGE:
        raise AoiError(
            f"{name} has {drawn:,.2f} km2 in {shapes.crs.name} and {size:,.2f} km2 on the globe: its coordinates lie "
            "where that coordinate system does not hold; give it in EPSG:4326"
        )


def _near(use: tuple[float, float, float, float], lonlat: Sequence[BaseGeometry]) -> bool:
    """Whether all shapes lie within _FROM_USE degrees of a box in degrees, which may cross the antimeridian."""
    west, south, east, north = use
    wide = (east - west) % 360 or 360.0
    for lon_0, lat_0, lon_1, lat_1 in (part.bounds for shape in lonlat for part in polygons_of(shape)):
        aside = _FROM_USE / max(math.cos(math.radians(max(abs(lat_0), abs(lat_1)))), 0.1)
        if lat_0 < south - _FROM_USE or lat_1 > north + _FROM_USE:
            return False
        if wide + 2 * aside < 360 and (lon_0 - west + aside) % 360 + lon_1 - lon_0 > wide + 2 * aside:
            return False
    return True


def _cut(geometry: BaseGeometry, told: bool = True) -> BaseGeometry:
    """A geometry in degrees with its polygons cut at the antimeridian; the same one if none crosses it.

    The log tells of a crossing where `told`: an edge over half the globe is not always meant so. Raises AoiError.
    """
    parts = _parts(geometry)
    if not any(part.geom_type == "Polygon" and turns(part) for part in parts):
        return geometry
    made: list[BaseGeometry] = []
    for part in parts:
        made += _halves(part) if part.geom_type == "Polygon" and turns(part) else [part]
    if told:
        around = Box.around(shapely.union_all(made))
        what = "crosses 180 degrees" if around.west > around.east else "has longitudes beyond 180 degrees"
        log.warning("the area %s: read as the part from %g to %g", what, around.west, around.east)
    return GeometryCollection(made)


def _halves(polygon: BaseGeometry) -> list[BaseGeometry]:
    """The parts of a polygon across the antimeridian on each side of it. Raises AoiError."""
    west, south, east, north = polygon.bounds
    if west < -360 or east > 360 or south < -90 or north > 90:
        raise _no_degrees(polygon.bounds)
    shape = followed(polygon)
    if shape is None:
        raise AoiError(
            f"the area goes round a pole, or from {west:g} to {east:g} round more than half the globe; "
            "cut it into parts, also at 180 degrees"
        )
    _require_valid(shape, "the area")
    return polygons_of(GeometryCollection(cut(shape)))


def _require_valid(shape: BaseGeometry, where: str) -> None:
    if not shape.is_valid:
        raise AoiError(f"the polygon of {where} is not valid: {shapely.is_valid_reason(shape)}; repair it first")


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def polygons_of(geometry: BaseGeometry) -> list[BaseGeometry]:
    """The polygons of a geometry and all collections in it; points and lines, left where borders touch, are dropped."""
    return [part for part in _parts(geometry) if part.geom_type == "Polygon"]


def _parts(geometry: BaseGeometry) -> list[BaseGeometry]:
    """The points, lines and polygons of a geometry and all collections in it; empty ones are left out."""
    parts = np.array([geometry])
    while (shapely.get_type_id(parts) > 3).any():  # a collection of some kind
        parts = shapely.get_parts(parts)
    return [g for g in parts if not g.is_empty]


def _square_km(geometry: BaseGeometry) -> float:
    """Geodesic area on WGS 84, whichever way rings go round: pyproj adds a hole that goes round like its shell."""
    return sum(abs(_GEOD.geometry_area_perimeter(orient(p))[0]) for p in polygons_of(geometry)) / 1e6


def _united(geometry: BaseGeometry) -> MultiPolygon:
    return MultiPolygon(polygons_of(shapely.union_all(_parts(geometry))))


def _no_degrees(bounds: tuple[float, float, float, float]) -> AoiError:
    west, south, east, north = bounds
    return AoiError(
        f"the area spans {west:g}..{east:g}, {south:g}..{north:g}, which are not degrees of longitude and "
        "latitude; give it in EPSG:4326, longitude first, or as a GPKG file that names its coordinate system"
    )


def _require_polygons(geometry: BaseGeometry) -> None:
    """Refuse what is no area of interest: not polygons, not in degrees, without a surface, too large."""
    _require_valid(geometry, "the area")
    parts = _parts(geometry)
    others = sorted({g.geom_type for g in parts} - {"Polygon"})
    if others or not parts:
        raise AoiError(f"the area must be a polygon, not {' and '.join(others) or 'empty'}")
    west, south, east, north = shapely.total_bounds(np.array(parts))
    if not all(map(math.isfinite, (west, south, east, north))):
        raise AoiError("the area has coordinates that are not numbers")
    if west < -180 or east > 180 or south < -90 or north > 90:
        raise _no_degrees((west, south, east, north))
    if wide := [p.bounds for p in parts if p.bounds[2] - p.bounds[0] > 180]:
        raise AoiError(
            f"a polygon of the area goes from {wide[0][0]:g} to {wide[0][2]:g}, round more than half the globe; "
            "cut it into parts, also at 180 degrees"
        )
    if south < MIN_LATITUDE or north > MAX_LATITUDE:
        raise AoiError(f"the area reaches latitude {south:g}..{north:g}; UTM grids end at 80 S and 84 N")
    size = _square_km(_united(geometry))
    if not size:
        raise AoiError("the area has no inside: its polygons are lines; give it in degrees, longitude first")
    if size > MAX_AREA_KM2:
        raise AoiError(f"the area has {size:,.0f} km2, more than {MAX_AREA_KM2:,}; cut it into regions")
