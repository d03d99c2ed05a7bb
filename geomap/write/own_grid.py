"""Grids of the user's own: from a coordinate system and a pixel size, or like a raster; and their place around maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import rasterio
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError
from rasterio.errors import RasterioError

from geomap.errors import InputError
from geomap.grid import lonlat_box
from geomap.types import Grid, OwnGrid

FINEST: Final = 1.0
"""Least pixel in metres: a tenth of a map's own."""
MOST_PIXELS: Final = 2**32
"""Most pixels of a grid: 65,536 a side. A run writes all of them."""
_METRES_A_DEGREE: Final = 111_320.0
"""Of latitude, and of longitude on the equator."""
_HAIR: Final = 1e-7
"""Degrees, 1 cm."""
_EXAMPLE: Final = "EPSG:3035, EPSG:4326 or ESRI:54009"


def grid_in(crs: str, resolution: float | None) -> OwnGrid:
    """A grid without a size. Raises InputError.

    Args:
        crs: "EPSG:3035", "ESRI:54009", or the digits of an EPSG code.
        resolution: side of a pixel in the units of the coordinate system; by default 10 m.
    """
    name = f"EPSG:{crs}" if crs.isdecimal() else crs.upper()
    try:
        system = CRS.from_user_input(name)
    except CRSError:
        raise InputError(f"--crs: no coordinate system {crs!r} is known; give a code such as {_EXAMPLE}") from None
    unit = _unit(system, name)
    if resolution is None and unit != "m":
        counts = "degrees: give --resolution in degrees, for example 0.0001, about 10 m"
        other = f"{system.axis_info[0].unit_name}: give --resolution in that unit"
        raise InputError(f"--crs: {name} counts in {counts if unit == 'deg' else other}")
    step = 10.0 if resolution is None else float(resolution)
    if unit == "deg" and step >= 10:
        raise InputError(f"--resolution: {name} counts in degrees, and {step:g} is too many; 0.0001 is about 10 m")
    return _checked(OwnGrid(name, unit, step, step), "--resolution")


def grid_like(path: Path) -> OwnGrid:
    """The grid of a raster: its coordinate system, transform and size. Raises InputError."""
    if not path.is_file():
        raise InputError(f"--like: no file {path}")
    try:
        with rasterio.open(path.absolute()) as source:
            crs, t, size = source.crs, source.transform, (source.width, source.height)
    except RasterioError as e:
        raise InputError(f"--like: cannot read {path} as a raster: {' '.join(str(e).split())[:200]}") from e
    if crs is None:
        raise InputError(f"--like: {path} has no coordinate system; give a raster with one, or --crs and --resolution")
    if t.b or t.d or t.a <= 0 or t.e >= 0:
        raise InputError(
            f"--like: {path} is rotated or not north-up; give one whose rows run from west to east, north first"
        )
    authority = crs.to_authority(confidence_threshold=100)
    name = ":".join(authority) if authority else crs.to_wkt()
    unit = _unit(CRS.from_user_input(name), str(path))
    return _checked(OwnGrid(name, unit, t.a, -t.e, t.c, t.f, *size), f"--like: {path}")


def _unit(system: CRS, name: str) -> str:
    """The unit, for OwnGrid. Raises InputError unless the system is of a map: projected, or longitude and latitude."""
    if not (system.is_projected or system.is_geographic) or len(system.axis_info) != 2:
        raise InputError(f"{name} is not a coordinate system of flat maps; give one such as {_EXAMPLE}")
    return {"metre": "m", "degree": "deg"}.get(system.axis_info[0].unit_name, "")


def _checked(grid: OwnGrid, name: str) -> OwnGrid:
    """The grid. Raises InputError if its pixels are too small, or too many."""
    least = FINEST / (_METRES_A_DEGREE if grid.unit == "deg" else 1)
    if min(grid.step_x, grid.step_y) < least * (1 - 1e-9):
        raise InputError(f"{name}: pixels of {min(grid.step_x, grid.step_y):g} are too small; the maps' own have 10 m")
    if grid.width * grid.height > MOST_PIXELS:
        raise InputError(f"{name}: {grid.width} x {grid.height} pixels are too many; cut it to the area")
    return grid


def placed(own: OwnGrid, maps: Sequence[Grid]) -> OwnGrid:
    """The grid with its size: its own, or the least that covers the maps. Raises InputError if it misses them.

    Args:
        own: with or without a size.
        maps: the whole grid of each zone.
    """
    west, south, east, north = _bounds(own, maps)
    if own.width:
        left, bottom, right, top = own.bounds
        if west >= right or east <= left or south >= top or north <= bottom:
            here = ", ".join(f"{v:.10g}" for v in (west, south, east, north))
            raise InputError(f"--like: the raster does not touch the area, which lies at {here} in its coordinates")
        return own
    column, row = math.floor(west / own.step_x + 1e-6), math.ceil(north / own.step_y - 1e-6)
    width = max(1, math.ceil(east / own.step_x - 1e-6) - column)
    height = max(1, row - math.floor(south / own.step_y + 1e-6))
    made = replace(own, west=column * own.step_x, north=row * own.step_y, width=width, height=height)
    return _checked(made, "--resolution")


def window(own: OwnGrid, of: Grid) -> tuple[int, int, int, int]:
    """(first row, first column, last row + 1, last column + 1) of the pixels of a placed grid that a map may touch."""
    west, south, east, north = _bounds(own, [of])
    top, bottom = (own.north - north) / own.step_y, (own.north - south) / own.step_y
    left, right = (west - own.west) / own.step_x, (east - own.west) / own.step_x
    rows = max(0, math.floor(top) - 1), min(own.height, math.ceil(bottom) + 1)
    columns = max(0, math.floor(left) - 1), min(own.width, math.ceil(right) + 1)
    return rows[0], columns[0], rows[1], columns[1]


def _bounds(own: OwnGrid, maps: Sequence[Grid]) -> tuple[float, float, float, float]:
    """The box around maps in the coordinates of a grid. Raises InputError if there is none."""
    name = own.crs if len(own.crs) < 40 else "its coordinate system"
    boxes = []
    for m in maps:
        to = Transformer.from_crs(m.epsg, own.crs, always_xy=True)
        boxes.append(to.transform_bounds(*m.bounds, densify_pts=21))
    west, south = (min(box[i] for box in boxes) for i in (0, 1))
    east, north = (max(box[i] for box in boxes) for i in (2, 3))
    if not all(math.isfinite(v) for box in boxes for v in box):
        raise InputError(f"{name} does not reach the area; choose one that holds there")
    if _across_180(maps) and _cut_at_180(own):
        raise InputError(
            f"the area lies on both sides of the antimeridian, where {name} is cut; choose another, such as EPSG:3832"
        )
    return west, south, east, north


def _across_180(maps: Sequence[Grid]) -> bool:
    """Whether maps lie on both sides of the antimeridian, and not of Greenwich alone."""
    boxes = [lonlat_box(m) for m in maps]
    return any(b.west > b.east for b in boxes) or max(b.east for b in boxes) - min(b.west for b in boxes) > 180


def _cut_at_180(own: OwnGrid) -> bool:
    """Whether places a hair's breadth apart, on both sides of the antimeridian, lie far apart in a grid's system."""
    to = Transformer.from_crs(4326, own.crs, always_xy=True)
    x, y = to.transform([180 - _HAIR, _HAIR - 180], [0, 0])
    return math.hypot(x[1] - x[0], y[1] - y[0]) > 1
