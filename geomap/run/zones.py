"""Areas of classes in polygons of the user's own, from the maps of a finished run.

A pixel counts for a polygon if its centre lies in it. Each polygon is counted by itself: a pixel in two overlapping
polygons counts for both. Maps are read by blocks, and one polygon at a time, so memory does not grow with the area.
Where a map was assessed, its points in a polygon, by the same rule, give estimates for it (assess/part.py).
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.warp import transform_bounds
from rasterio.windows import Window, from_bounds
from shapely import MultiPolygon, get_coordinates, make_valid, union_all

from geomap.aoi import polygons_of
from geomap.assess.estimate import Estimates
from geomap.assess.part import estimate_part
from geomap.errors import InputError, ReadError, to_type
from geomap.points.source import missing, read_shapes
from geomap.run.record import Record, map_files, read_record
from geomap.run.steady import steady
from geomap.run.totals import ESTIMATED, Quality, Row, read_quality, read_totals
from geomap.text import listed, plain, plural, shown
from geomap.types import Progress, silent
from geomap.write.areas import HECTARES

log = logging.getLogger(__name__)

PARTS: Final = 1000
"""Parts of an edge as long as a map, at least: of 100 km, each is within a millimetre of a straight line."""
LONGEST_DEGREES, LONGEST_M = 0.01, 1000.0
"""Longest part of an edge: within 0.1 m of a straight line."""
BLOCK: Final = 2048
"""Pixels per side of the part of a map that is held at once."""
BESIDE: Final = Affine.translation(1e-6, 1e-6)
"""Moves centres by a millionth of a pixel: of two polygons whose common edge runs through them, GDAL counts both."""
GLOBE: Final = "EPSG:4326"
COLUMNS: Final = ("zone", "map", "id", "name", "pixels", "ha", "share", *ESTIMATED)
UNKNOWN: Final[dict[str, Any]] = dict.fromkeys(ESTIMATED)
NOTHING: Final = {"id": 0, "name": "not mapped", "pixels": 0, "ha": 0.0, "share": 0.0, **UNKNOWN}
"""The row of a map without a pixel in a polygon, so that no polygon is lost where tables are joined."""


@dataclass(frozen=True, slots=True)
class Zone:
    """One polygon: its name, and the rows of its classes."""

    name: str
    rows: tuple[Mapping[str, Any], ...]  # COLUMNS; classes that occur, by map and area; of none, NOTHING
    few: tuple[str, ...] = ()  # maps whose points could give estimates, but too few lie in it

    @property
    def empty(self) -> bool:
        """Whether no pixel of any map lies in it."""
        return not any(row["pixels"] for row in self.rows)


@dataclass(frozen=True, slots=True)
class Counted:
    """What lies in a polygon."""

    pixels: Counter[int]  # by class id on the map
    points: Counter[tuple[int, int]]  # by class id on the map, and on the ground

    def __add__(self, other: Counted) -> Counted:
        return Counted(self.pixels + other.pixels, self.points + other.points)


def zonal(directory: Path, source: str, column: str | None = None, progress: Progress = silent) -> tuple[Zone, ...]:
    """The areas of classes in each polygon of a file, in the file's order, with estimates by the points in it.

    Args:
        directory: of a finished run.
        source: a vector file, or FILE:LAYER, with a coordinate system.
        column: of the polygons' names; by default they are numbered from 1.
        progress: callback with ("zones", polygons done, total).

    Raises:
        InputError: no finished run, no such file, layer or column, no polygon.
        RenewedError: the run was made anew meanwhile.
        ReadError: a map cannot be read.
    """
    with steady(directory) as reading:
        totals, record, assessed = read_totals(directory), read_record(directory), read_quality(directory)
        shapes, names = read_zones(source, column)
        paths = {stem: _paths(directory, record, stem) for stem in totals}
        points = {stem: _points(assessed.get(stem)) for stem in totals}
        moved: dict[int, Any] = {}
        zones = []
        for i, name in enumerate(names):
            rows, few = list[Mapping[str, Any]](), list[str]()
            for stem, classes in totals.items():
                found = Counted(Counter(), Counter())
                for path in paths[stem]:
                    found += _counted(path, shapes, moved, i, points[stem])
                made = estimate_part(found.pixels, found.points)
                by_points = _by_points(made, found.pixels, assessed[stem]) if made else {}
                rows += [{"zone": name, "map": stem, **area} for area in _areas(classes, found.pixels, by_points)]
                if found.pixels and len(points[stem]) and not made:
                    few.append(stem)
            zones.append(Zone(name, tuple(rows), tuple(few)))
            progress("zones", i + 1, len(names))
        reading.require()
    return tuple(zones)


def _areas(
    classes: Sequence[Row], counts: Counter[int], by_points: Mapping[int, dict[str, Any]]
) -> list[Mapping[str, Any]]:
    """The classes of a map that occur in a polygon, mapped or by points, by mapped area, largest first; of none,
    NOTHING.
    """
    total = sum(counts.values())
    here = (row for row in classes if counts[row.id] or row.id in by_points)
    areas: list[Mapping[str, Any]] = [
        {"id": row.id, "name": row.name, "pixels": n, "ha": round(n * HECTARES, 2), "share": round(n / total, 6)}
        | by_points.get(row.id, UNKNOWN)
        for row in sorted(here, key=lambda row: (-counts[row.id], row.id))
        for n in [counts[row.id]]
    ]
    return areas if total else [NOTHING]


def _points(found: Quality | None) -> NDArray[np.int64]:
    """(n, 4) the points of an assessment: EPSG code, x and y of the pixel's centre, class; none if it kept none."""
    kept = found.sample if found else None
    return np.array([kept.epsg, kept.x, kept.y, kept.reference] if kept else [[]] * 4, np.int64).T


def _by_points(made: Estimates, counts: Counter[int], found: Quality) -> dict[int, dict[str, Any]]:
    """Class id -> ESTIMATED in a polygon, as run/assess.py gives them of a whole map."""
    hectares = sum(n for c, n in counts.items() if c not in made.empty) * HECTARES
    return {
        c: {
            "adjusted_ha": round(area.value * hectares, 2),
            "ci95_ha": round(area.ci95 * hectares, 2) if area.error else None,
            "probability_sample": found.probability_sample,
        }
        for c, area in zip(made.classes, made.areas, strict=True)
        if c not in made.empty
    }


def read_zones(source: str, column: str | None) -> tuple[Any, list[str]]:
    """The polygons of a file as a GeoSeries, and their names; rows without one are warned of. Raises InputError."""
    table = read_shapes(source)
    known = [str(name) for name in table.columns if name != table.geometry.name]
    if column is not None and column not in known:
        raise InputError(f"{source} has no column {column!r}; its columns are: {', '.join(known) or 'none'}")
    if column is None and known:
        log.warning("polygons are called by their number; --column takes their names from one of: %s", listed(known))
    numbers = range(1, len(table) + 1)
    names = [str(i) for i in numbers] if column is None else list(map(_name, numbers, table[column]))
    if odd := [name for name, shape in zip(names, table.geometry, strict=True) if not _finite(shape)]:
        raise InputError(
            f"{source} has coordinates that are no finite numbers ({listed(odd)}); mend or delete these rows"
        )
    surfaces = [_surface(shape) for shape in table.geometry]
    kept = [surface is not None for surface in surfaces]
    if not any(kept):
        raise InputError(f"{source} holds no polygon; areas are counted in polygons")
    if table.crs is None:
        raise InputError(f"{source} has no coordinate system; set one, for example EPSG:4326")
    round_it = (_over_half(shape) for shape in table.geometry) if table.crs.is_geographic else ()
    if odd := list(itertools.compress(names, round_it)):
        raise InputError(
            f"{source} has edges over half the globe ({listed(odd)}), which may be meant the other way round; cut "
            "these polygons at 180 degrees, or give the edges more corners"
        )
    if not (table.crs.is_geographic or table.crs.is_projected):
        raise InputError(f"{source} is in {table.crs.name}, which has no place on Earth; export it in a known system")
    if without := [name for name, polygon in zip(names, kept, strict=True) if not polygon]:
        log.warning(
            "%s: %s without a polygon, left out: %s", shown(Path(source)), plural(len(without), "row"), listed(without)
        )
    shapes = type(table.geometry)([surface for surface in surfaces if surface is not None], crs=table.crs)
    return shapes, [name for name, polygon in zip(names, kept, strict=True) if polygon]


def _name(row: int, value: Any) -> str:
    """What to call the polygon of a row, from its cell in the column of names."""
    return ("" if missing(value) else " ".join(plain(value).split())) or f"row {row}"


def _finite(shape: Any) -> bool:
    return shape is None or bool(np.isfinite(get_coordinates(shape)).all())


def _over_half(shape: Any) -> bool:
    """Whether an edge of its polygons goes over more than half the globe in degrees, and not all round it."""
    rings = [ring for p in polygons_of(shape) for ring in (p.exterior, *p.interiors)] if shape is not None else []
    steps = (np.abs(np.diff(get_coordinates(ring)[:, 0])) for ring in rings)
    return any(((step > 180) & (step < 360)).any() for step in steps)


def _surface(shape: Any) -> MultiPolygon | None:
    """The polygons of a shape, and of all collections in it, as one valid surface, which of a flat polygon is empty;
    None if there are none.
    """
    parts = [] if shape is None else polygons_of(shape)
    whole = MultiPolygon(parts)
    if not whole.is_valid:
        whole = MultiPolygon(polygons_of(union_all(make_valid(parts))))
    return whole if parts else None


def _paths(directory: Path, record: Record, stem: str) -> list[Path]:
    """The maps of a layer, one for each zone. Raises ReadError if one is missing."""
    paths = [directory / name for name in map_files(record, stem)]
    if lost := next((path for path in paths if not path.is_file()), None):
        raise ReadError(f"{lost} is missing; {to_type('verify', directory)} tells more")
    return paths


def _counted(
    path: Path, shapes: Any, moved: dict[int, Any], index: int, points: NDArray[np.int64] | None = None
) -> Counted:
    """The pixels of a map whose centres lie in a polygon, and the points (n, 4) on them."""
    counts, found = np.zeros(256, np.int64), Counter[tuple[int, int]]()
    try:
        with rasterio.open(path.absolute(), driver="GTiff", sharing=False) as source:
            epsg = source.crs.to_epsg()
            if epsg not in moved:
                moved[epsg] = _bent(shapes, source)
            polygon = moved[epsg].iloc[index]
            here = None if points is None else points[points[:, 0] == epsg, 1:]
            for window in _blocks(source, polygon.bounds):
                size, place = (window.height, window.width), source.window_transform(window)
                inside = rasterize([(polygon, 1)], size, transform=place @ BESIDE, dtype="uint8")
                if inside.any():
                    ids = source.read(1, window=window) * inside
                    counts += np.bincount(ids.ravel(), minlength=256)
                    found += _on(ids, place, here) if here is not None and len(here) else Counter()
    except RasterioError as e:
        raise ReadError(f"cannot read {path}: {e}; {to_type('verify', path.parent)} tells more") from e
    counts[0] = 0
    return Counted(Counter({int(v): int(counts[v]) for v in np.flatnonzero(counts)}), found)


def _on(ids: NDArray[np.uint8], place: Affine, points: NDArray[np.int64]) -> Counter[tuple[int, int]]:
    """(class id on the map, class on the ground) -> points, (n, 3) x, y and class, on the pixels that have one."""
    columns, rows = (np.floor(v).astype(np.intp) for v in ~place @ (points[:, 0], points[:, 1]))
    held = (rows >= 0) & (rows < ids.shape[0]) & (columns >= 0) & (columns < ids.shape[1])
    mapped = ids[rows[held], columns[held]]
    return Counter((m, r) for m, r in zip(mapped.tolist(), points[held, 2].tolist(), strict=True) if m)


def _bent(shapes: Any, source: Any) -> Any:
    """Polygons in a map's system: cut to its place, their edges in so many parts that these are straight there too.

    A parallel is no straight line of a map. Moved by its corners alone, an edge of 300 km is 3 km off.
    """
    longest, pieces = LONGEST_DEGREES if shapes.crs.is_geographic else LONGEST_M, []
    for west, south, east, north in _places(source, shapes):
        size = max(east - west, north - south)
        margin = size / 10
        cut = _polygons(shapes.clip_by_rect(west - margin, south - margin, east + margin, north + margin).make_valid())
        pieces.append(cut.segmentize(min(longest, size / PARTS)).to_crs(source.crs))
    if not all(np.isfinite(get_coordinates(piece)).all() for piece in pieces):
        raise InputError(
            f"the polygons reach the edge of the world in {shapes.crs.name}; give them in EPSG:4326, cut at 180 degrees"
        )
    if len(pieces) > 1:
        pieces = [_polygons(piece.make_valid()) for piece in pieces]
    return functools.reduce(lambda one, other: one.union(other, align=False), pieces)


def _places(source: Any, shapes: Any) -> list[tuple[float, float, float, float]]:
    """Where a map lies in the system of polygons, (west, south, east, north): more than once where that goes round.

    Longitudes may be 181 or 364, and a projected system may be cut at 180 degrees.
    """
    degrees = shapes.crs.is_geographic
    west, south, east, north = transform_bounds(
        source.crs, shapes.crs if degrees else GLOBE, *source.bounds, densify_pts=100
    )
    if degrees:
        east += 360 * (west > east)
        drawn = shapes.total_bounds
        turns = [turn for turn in (-360, 0, 360) if drawn[0] <= east + turn + 1 and drawn[2] >= west + turn - 1]
        return [(west + turn, south, east + turn, north) for turn in turns or [0]]
    if west <= east:
        return [transform_bounds(source.crs, shapes.crs, *source.bounds, densify_pts=100)]
    halves = (west, south, 180, north), (-180, south, east, north)
    return [transform_bounds(GLOBE, shapes.crs, *half, densify_pts=100) for half in halves]


def _polygons(shapes: Any) -> Any:
    """A GeoSeries without the lines and points that `make_valid` leaves beside polygons: they hold no centre."""
    return type(shapes)([MultiPolygon(polygons_of(s)) for s in shapes], index=shapes.index, crs=shapes.crs)


def _blocks(source: Any, bounds: Sequence[float]) -> Iterator[Window]:
    """Windows of a map that cover the part inside bounds."""
    if not np.isfinite(bounds).all():  # beyond what the map's coordinate system can describe
        return
    found = from_bounds(*bounds, source.transform)
    top, left = max(0, int(found.row_off)), max(0, int(found.col_off))
    bottom = min(source.height, int(np.ceil(found.row_off + found.height)))
    right = min(source.width, int(np.ceil(found.col_off + found.width)))
    for row in range(top, bottom, BLOCK):
        for column in range(left, right, BLOCK):
            yield Window(column, row, min(BLOCK, right - column), min(BLOCK, bottom - row))
