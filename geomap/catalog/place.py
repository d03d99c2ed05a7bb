"""Where an item says that its granule lies, in several ways, and whether these agree."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from shapely.geometry.base import BaseGeometry

from geomap.grid import BANDS, COLUMNS, FALSE_NORTHING, ROWS, SQUARE_M, corner, outline
from geomap.lonlat import agree, shared
from geomap.types import zone_of

SLACK_M: Final = 120
"""Metres by which a raster may reach beyond its granule: two pixels of 60 m."""

GRANULE_M: Final = 109_800
"""Metres of a granule's side: 10,980 pixels of 10 m."""

OUTSIDE: Final = 0.02
"""A footprint reaches out of its raster by at most this share of the raster, where both are right. It is 0.012 in the
real items of the tests, near the pole, where the straight edges of a footprint leave those of its raster."""

_M_PER_DEGREE: Final = 110_900  # of latitude, about
_MOST: Final = 1e8  # metres, and pixels: no granule is beyond
_MGRS: Final = re.compile(r"(?:MGRS-)?(\d{1,2})([C-HJ-NP-X])([A-HJ-NP-Z]{2})")
_MGRS_IN_ID: Final = re.compile(r"_T?(\d{2})([C-HJ-NP-X])([A-HJ-NP-Z]{2})(?=_|$)")

Bounds = tuple[float, float, float, float]
"""(west, south, east, north) in metres of a UTM zone."""


def mgrs_tile(text: object) -> str:
    """The tile that a text names, MGRS-5CAB or 5CAB, as 05CAB; empty for anything else."""
    match = _MGRS.fullmatch(str(text))
    return f"{int(match[1]):02d}{match[2]}{match[3]}" if match else ""


def tile_in(item_id: str) -> str:
    """The MGRS tile that is part of an item's id, such as S2A_31UES_20230604_0_L2A; empty if there is none."""
    match = _MGRS_IN_ID.search(item_id)
    return f"{match[1]}{match[2]}{match[3]}" if match else ""


def granule_bounds(tile: str) -> Bounds | None:
    """The ground of the granule with an MGRS name, in its zone; None if there is no such tile."""
    zone = int(tile[:2])
    columns = COLUMNS[zone % 3]
    if tile[3] not in columns or tile[4] not in ROWS or not 1 <= zone <= 60:
        return None
    west = (columns.index(tile[3]) + 1) * SQUARE_M
    row = (ROWS.index(tile[4]) - (0 if zone % 2 else 5)) % 20
    band = BANDS.index(tile[2])
    middle = (8 * band - 76 + (2 if tile[2] == "X" else 0)) * _M_PER_DEGREE
    south = row * SQUARE_M
    south += 20 * SQUARE_M * round((middle - south - SQUARE_M / 2) / (20 * SQUARE_M))
    left, top = corner(zone_of(tile), west, south + (0 if tile[2] >= "N" else FALSE_NORTHING))
    return left, top - GRANULE_M, left + GRANULE_M, top


def checked_transform(values: Any) -> tuple[float, ...] | None:
    """The six coefficients of `proj:transform`; None where it is not given. Raises ValueError."""
    if not values:
        return None
    found = tuple(float(v) for v in values[:6])
    if len(found) < 6 or not all(math.isfinite(v) and abs(v) < _MOST for v in found):
        raise ValueError(f"proj:transform {list(values)[:9]} is not six finite numbers")
    if not found[0] > 0 > found[4]:
        raise ValueError(f"proj:transform {list(found)} is not north up")
    return found


def checked_shape(values: Any) -> tuple[int, int] | None:
    """The (rows, columns) of `proj:shape`; None where it is not given. Raises ValueError."""
    if not values:
        return None
    rows, columns = int(values[0]), int(values[1])
    if not (0 < rows < _MOST and 0 < columns < _MOST):
        raise ValueError(f"proj:shape {list(values)[:3]} is no size of a raster")
    return rows, columns


def checked_bounds(values: Any) -> Bounds | None:
    """The bounds of `proj:bbox`; None where it is not given. Raises ValueError."""
    if not values:
        return None
    west, south, east, north = (float(v) for v in values)
    if not (all(math.isfinite(v) and abs(v) < _MOST for v in (west, south, east, north)) and west < east):
        raise ValueError(f"proj:bbox {list(values)[:4]} is no box in metres")
    return west, south, east, north


def raster_bounds(transform: Sequence[float], shape: tuple[int, int]) -> Bounds:
    """The ground of a raster that is north up."""
    a, _, west, _, e, north = transform[:6]
    return west, north + e * shape[0], west + a * shape[1], north


def contradiction(
    tiles: Iterable[str],
    codes: Iterable[int],
    rasters: Mapping[Bounds, str],
    epsg: int,
    footprint: BaseGeometry,
    frame: BaseGeometry | None,
) -> str | None:
    """What two of an item's fields say differently about its place, or None.

    Args:
        tiles: the MGRS tiles that it names.
        codes: the EPSG codes that it states.
        rasters: bounds of its rasters, in metres of `epsg`, and the field that states each.
        epsg: the zone in which the granule lies.
        footprint: its geometry in degrees.
        frame: its bbox in degrees, if it has both.
    """
    names, zones = sorted({*tiles} - {""}), sorted({*codes})
    if len(names) > 1:
        return f"it names two MGRS tiles, {' and '.join(names)}"
    if len(zones) > 1:
        return f"it states two coordinate systems, {' and '.join(f'EPSG:{code}' for code in zones)}"
    if names and zones and zones[0] != zone_of(names[0]):
        return f"it states EPSG:{zones[0]}, but its MGRS tile {names[0]} lies in EPSG:{zone_of(names[0])}"
    if frame is not None and not agree(frame, footprint):
        return "its bbox and its geometry are two places"
    granule = granule_bounds(names[0]) if names else None
    for bounds, field in rasters.items():
        if granule is not None and not _holds(granule, bounds):
            return f"its {field} starts at {bounds[0]:g}, {bounds[3]:g}, outside its MGRS tile {names[0]}"
        if not agree(outline(epsg, bounds), footprint):
            return f"its {field} starts at {bounds[0]:g}, {bounds[3]:g} in EPSG:{epsg}, away from its geometry"
    if granule is not None and not agree(outline(epsg, granule), footprint):
        return f"its geometry is not where its MGRS tile {names[0]} lies"
    return None


def beside(grounds: Iterable[Bounds], epsg: int, footprint: BaseGeometry) -> tuple[BaseGeometry, ...]:
    """The grounds, in metres of `epsg`, out of which a footprint reaches, in degrees: one of the two is a bit off."""
    outlines = [outline(epsg, bounds) for bounds in grounds]
    return tuple(one for one in outlines if footprint.area - shared(one, footprint) > OUTSIDE * one.area)


def _holds(granule: Bounds, raster: Bounds) -> bool:
    west, south, east, north = granule
    inside = raster[0] >= west - SLACK_M and raster[1] >= south - SLACK_M
    return inside and raster[2] <= east + SLACK_M and raster[3] <= north + SLACK_M
