"""Handles places in degrees at the antimeridian: boxes that may cross it, and polygons that do.

Longitudes lie in -180..180, and a box that crosses has west > east (RFC 7946, section 5.2), unless a docstring says
that longitudes may lie beyond.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, Polygon, box
from shapely.geometry.base import BaseGeometry

_WORLD: Final = box(-180, -90, 180, 90)
_AT_180: Final = 179.999  # degrees; an area that reaches this far on both sides was cut at the antimeridian
_DIGITS: Final = 7  # decimals of degrees, 1 cm; adding 360 changes the last ones of a float

AGREE: Final = 0.8
"""Two outlines show one place if they share this much of the smaller one. Footprints of real granules lie inside their
rasters but for a hundredth (the real items of the tests); of a granule that is 30 km off, 0.73 lies inside."""


@dataclass(frozen=True, slots=True)
class Box:
    """A box in degrees; west > east where it crosses the antimeridian."""

    west: float
    south: float
    east: float
    north: float

    @classmethod
    def around(cls, geometry: BaseGeometry) -> Box:
        """The box around an area cut at the antimeridian, or around a shape with longitudes beyond 180."""
        west, south, east, north = geometry.bounds
        groups = sides(geometry)
        if len(groups) == 2 and west < -_AT_180 and east > _AT_180:
            west, east = min(p.bounds[0] for p in groups[0]), max(p.bounds[2] for p in groups[1])
        return cls(wrapped(west), south, wrapped(east), north)

    @classmethod
    def union(cls, boxes: Iterable[Box]) -> Box:
        """The smallest box around boxes that lie near each other."""
        boxes = tuple(boxes)
        first = boxes[0].west
        wests = [b.west - 360 * round((b.west - first) / 360) for b in boxes]
        west, east = min(wests), max(w + b.width for w, b in zip(wests, boxes, strict=True))
        west, east = (round(wrapped(lon), _DIGITS) if abs(lon) > 180 else lon for lon in (west, east))
        return cls(west, min(b.south for b in boxes), east, max(b.north for b in boxes))

    @property
    def width(self) -> float:
        """Degrees from west to east, 0..360."""
        return 360.0 if self.east - self.west == 360 else (self.east - self.west) % 360

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) with west <= east, beyond 180 where the box crosses the antimeridian."""
        return self.west, self.south, self.east if self.east >= self.west else self.east + 360, self.north

    @property
    def parts(self) -> tuple[Box, ...]:
        """The box, or its two parts if it crosses the antimeridian, that of the eastern hemisphere first."""
        if self.west <= self.east:
            return (self,)
        return Box(self.west, self.south, 180, self.north), Box(-180, self.south, self.east, self.north)

    @property
    def polygons(self) -> MultiPolygon:
        """The box as polygons, cut at the antimeridian."""
        return MultiPolygon([box(*astuple(part)) for part in self.parts])

    def touches(self, other: Box) -> bool:
        """Whether the boxes share a place; touching edges count."""
        if other.south > self.north or other.north < self.south:
            return False
        return (self.west - other.west) % 360 <= other.width or (other.west - self.west) % 360 <= self.width

    def holds(self, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.bool_]:
        """True where a place, of any longitude, lies in the box or on its edge."""
        within: NDArray[np.bool_] = ((lon - self.west) % 360 <= self.width) & (lat >= self.south) & (lat <= self.north)
        return within


def wrapped(lon: float) -> float:
    """A longitude in -180..180."""
    return (lon + 180) % 360 - 180 if abs(lon) > 180 else lon


def continuous(lon: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) longitudes of points near each other, each within 180 degrees of the first, maybe beyond 180."""
    near: NDArray[np.float64] = lon - 360 * np.round((lon - lon[0]) / 360)
    return near


def unwrapped(geometry: BaseGeometry) -> BaseGeometry:
    """Give longitudes 0..360 to a shape wider than half the globe: it is taken to cross the antimeridian."""
    west, _, east, _ = geometry.bounds

    def turn(lonlat: NDArray[np.float64]) -> NDArray[np.float64]:
        return lonlat + np.where(lonlat[:, :1] < 0, [360.0, 0.0], 0.0)

    return shapely.transform(geometry, turn) if east - west > 180 else geometry


def shared(one: BaseGeometry, other: BaseGeometry) -> float:
    """The area, in square degrees, that two outlines share, wherever their longitudes begin."""
    (west, _, east, _), (left, _, right, _) = one.bounds, other.bounds
    near = translate(other, 360 * round((west + east - left - right) / 720))
    return float(one.intersection(near).area)


def agree(one: BaseGeometry, other: BaseGeometry) -> bool:
    """Whether two outlines in degrees show one place: see AGREE."""
    smaller = float(min(one.area, other.area))
    return smaller == 0 or shared(one, other) >= AGREE * smaller


def turns(polygon: BaseGeometry) -> bool:
    """Whether a polygon in degrees crosses the antimeridian uncut: an edge over half the globe, or longitudes over 180.

    Such an edge stands for the shorter way round (RFC 7946, section 3.1.9, has it cut). Infinite ones do not count.
    """
    rings = [lon for lon in map(_longitudes, _rings(polygon)) if np.isfinite(lon).all()]
    return any(lon.size and (np.abs(lon).max() > 180 or np.abs(np.diff(lon)).max() > 180) for lon in rings)


def followed(polygon: BaseGeometry) -> BaseGeometry | None:
    """A polygon whose edges all go the shorter way round the globe, in 2D; its longitudes may lie beyond 180.

    None if a ring does not close that way, because it goes round a pole, or if it is wider than half the globe.
    """
    shell, *holes = ((_unrolled(_longitudes(ring)), shapely.get_coordinates(ring)[:, 1]) for ring in _rings(polygon))
    if any(lon[0] != lon[-1] for lon, _ in (shell, *holes)) or not 0 < np.ptp(shell[0]) <= 180:
        return None
    made = []
    for lon, lat in (shell, *holes):
        away = 360 * np.round((np.median(lon) - np.median(shell[0])) / 360)
        made.append(np.column_stack([lon - away, lat]))
    return Polygon(made[0], made[1:])


def _rings(polygon: BaseGeometry) -> list[BaseGeometry]:
    return [polygon.exterior, *polygon.interiors]


def _longitudes(ring: BaseGeometry) -> NDArray[np.float64]:
    lon: NDArray[np.float64] = shapely.get_coordinates(ring)[:, 0]
    return lon


def _unrolled(lon: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) longitudes along a line, each within 180 degrees of the one before, maybe beyond 180."""
    rounds: NDArray[np.float64] = np.cumsum(np.round(np.diff(lon, prepend=lon[:1]) / 360))
    return lon - 360 * rounds


def cut(polygon: BaseGeometry) -> list[BaseGeometry]:
    """The parts of a polygon, whose longitudes may lie beyond 180, on each side of the antimeridian, west first."""
    parts = (translate(polygon, turn).intersection(_WORLD) for turn in (-360, 0, 360))
    return [part for part in parts if part.area > 0]


def grown(area: BaseGeometry, metres: float) -> BaseGeometry:
    """An area cut at the antimeridian with all ground within `metres` of it, and a little more; cut again."""
    south, north = area.bounds[1] - 0.01, area.bounds[3] + 0.01
    degrees = metres / 110_000 / np.cos(np.radians(min(max(abs(south), abs(north)), 89.0)))
    wide = area.buffer(degrees, join_style="mitre")
    return shapely.union_all(cut(wide))


def sides(area: BaseGeometry) -> list[list[BaseGeometry]]:
    """The polygons of an area cut at the antimeridian: those east of Greenwich and those west of it, or all in one."""
    parts = list(getattr(area, "geoms", [area]))
    west, _, east, _ = area.bounds
    if east - west <= 180:
        return [parts]
    groups = [p for p in parts if p.bounds[0] >= 0], [p for p in parts if p.bounds[0] < 0]
    return [group for group in groups if group]


def meet(area: BaseGeometry, shape: BaseGeometry) -> bool:
    """Whether an area and a shape share a place; only the longitudes of the shape may lie beyond 180."""
    return any(area.intersects(translate(shape, turn)) for turn in (0, -360, 360))
