"""The 10 m pixels of places: inside a polygon, under a point, and their centres."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

POLYGON_PIXELS: Final = 20
"""Most pixels of one polygon: the pixels of a field are alike, so more of them add little."""
EDGE_M: Final = 10.0  # m; one pixel
_EDGE_DEGREES: Final = 0.01  # longest part of an edge: 1 km, straight in degrees and in metres within 0.1 m
_CELLS: Final = 40_000  # candidates looked at at once; for inner pixels in all, so every n-th row and column if more


def inner_pixels(polygon: BaseGeometry, every_pixel: bool = False) -> NDArray[np.float64]:
    """(n, 2) longitude and latitude of pixel centres inside a polygon in degrees, on the 10 m grids of its zones.

    At most POLYGON_PIXELS, spread evenly over it from north to south. Those within EDGE_M of its border are left out if
    others are left. With `every_pixel` all pixels. A polygon without a pixel's centre gives one point inside it.
    """
    import shapely

    bent = shapely.segmentize(polygon, _EDGE_DEGREES)
    codes = np.unique(_zones(shapely.get_coordinates(bent)))
    for edge in (0.0,) if every_pixel else (EDGE_M, 0.0):
        found = np.concatenate([_inside(bent, int(epsg), edge, every_pixel) for epsg in codes])
        if len(codes) > 1:  # each zone has the pixels of its own ground alone
            found = found[_zones(lonlat_of(found)) == found[:, 0]]
        if len(found):
            most = len(found) if every_pixel else POLYGON_PIXELS
            return lonlat_of(found[np.linspace(0, len(found) - 1, min(len(found), most)).round().astype(int)])
    return np.array(polygon.representative_point().coords)


def _zones(lonlat: NDArray[np.float64]) -> NDArray[np.int32]:
    """(n,) EPSG codes of the zones that own places; beyond 80 S and 84 N those of the last latitude that has one."""
    from geomap.grid import zone_epsg

    return zone_epsg(lonlat[:, 0], np.clip(lonlat[:, 1], -80, 84))


def _inside(polygon: BaseGeometry, epsg: int, edge: float, every_pixel: bool) -> NDArray[np.int64]:
    """(n, 3) a zone's pixels, as `pixels` gives them, whose centres lie `edge` m inside a polygon, from the north.

    The polygon is in degrees; of a large one, not every pixel unless asked for.
    """
    import shapely
    from pyproj import Transformer

    from geomap.grid import RESOLUTION

    there = Transformer.from_crs(4326, epsg, always_xy=True)
    drawn = shapely.transform(polygon, lambda xy: np.column_stack(there.transform(xy[:, 0], xy[:, 1])))
    west, south, east, north = drawn.bounds
    if not np.isfinite([west, south, east, north]).all():
        return np.zeros((0, 3), np.int64)
    cells = max(east - west, RESOLUTION) * max(north - south, RESOLUTION) / RESOLUTION**2
    step = RESOLUTION * (1 if every_pixel else max(1, int(np.ceil(np.sqrt(cells / _CELLS)))))
    x = np.arange(west // RESOLUTION * RESOLUTION + RESOLUTION / 2, east, step)
    y = np.arange(north // RESOLUTION * RESOLUTION + RESOLUTION / 2, south, -step)
    found = np.floor(_held(drawn.buffer(-edge) if edge else drawn, x, y) / RESOLUTION).astype(np.int64)
    return np.column_stack([np.full(len(found), epsg), found])


def _held(shape: BaseGeometry, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) those of the places of a grid that a shape holds, row by row; some rows are looked at at once."""
    import shapely

    shapely.prepare(shape)
    rows = max(1, _CELLS // max(len(x), 1))
    parts = [np.zeros((0, 2))]
    for start in range(0, len(y), rows):
        xx, yy = (v.ravel() for v in np.meshgrid(x, y[start : start + rows]))
        held = shapely.contains_xy(shape, xx, yy)
        parts.append(np.column_stack([xx[held], yy[held]]))
    return np.concatenate(parts)


def pixels(lonlat: NDArray[np.float64], zones: NDArray[np.integer[Any]] | None = None) -> NDArray[np.int64]:
    """(n, 3) EPSG code of the zone that owns each place, or of `zones`, and (column, row) of its 10 m pixel.

    Counted from the zone's origin eastward and northward: x = 10 * column, y = 10 * row at the south-west corner.
    """
    from pyproj import Transformer

    from geomap.grid import RESOLUTION, zone_epsg

    codes = zone_epsg(lonlat[:, 0], lonlat[:, 1]) if zones is None else zones
    found = np.zeros((len(lonlat), 3), np.int64)
    for epsg in np.unique(codes):
        mine = codes == epsg
        x, y = Transformer.from_crs(4326, int(epsg), always_xy=True).transform(lonlat[mine, 0], lonlat[mine, 1])
        found[mine, 0] = epsg
        found[mine, 1], found[mine, 2] = np.floor(x / RESOLUTION), np.floor(y / RESOLUTION)
    return found


def in_pixels(
    lonlat: NDArray[np.float64], ids: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """The pixels of n places with classes, each once, in order.

    Returns:
        (m, 3) pixels, as `pixels` gives them; (m,) the first place in each; (n,) the pixel of each place; (m,) whether
        all places in it are of one class.
    """
    found, first, index = np.unique(pixels(lonlat), axis=0, return_index=True, return_inverse=True)
    index = index.reshape(-1)
    return found, first, index, np.bincount(index, ids != ids[first][index], len(first)) == 0


def lonlat_of(place: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 2) longitude and latitude of the centres of pixels (n, 3), as `pixels` gives them."""
    from pyproj import Transformer

    from geomap.grid import RESOLUTION

    found = np.zeros((len(place), 2))
    for epsg in np.unique(place[:, 0]):
        mine = place[:, 0] == epsg
        x, y = ((place[mine, i] + 0.5) * RESOLUTION for i in (1, 2))
        found[mine] = np.column_stack(Transformer.from_crs(int(epsg), 4326, always_xy=True).transform(x, y))
    return found
