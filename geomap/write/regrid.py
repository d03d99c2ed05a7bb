"""Maps once more on a grid of the user's own: nearest pixels, or the commonest class and the means of coarser cells.

Cells up to NEAREST metres a side take the map pixel that contains their centre. Larger cells take all map pixels whose
centres lie in them: the commonest class, or the mean of numbers. A pixel counts in the zone that owns its centre, so
over a border of zones each place counts once. Nothing is interpolated. A large cell is nodata where fewer than half of
its pixels have a value, so maps neither grow at their edges nor, as crops within cropland do, over what they leave out.

GDAL's mode and average take the pixels of a box around a cell, from one raster in one zone; here cells are exact.
Work goes in blocks, so memory grows neither with the area nor with the grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.windows import Window
from scipy.ndimage import maximum_filter, minimum_filter

from geomap.grid import FALSE_NORTHING, SQUARE_M, zone_epsg
from geomap.types import Grid, OwnGrid
from geomap.write.cog import BLOCK, write_map
from geomap.write.layer import Layer, Statistics, file_stem
from geomap.write.own_grid import window
from geomap.write.stac import MapFile, OwnMap

NEAREST: Final = 15.0
"""Metres; cells whose shorter side is longer than this always contain a pixel's centre (10 m x sqrt 2 = 14.2 m)."""
CELLS: Final = 256
"""Cells per side of the part of a grid that is made at once."""
PIXELS: Final = 512
"""Map pixels per side that are read at once."""
_NODES: Final = 32
"""Pixels between the places whose coordinates are computed; those between are interpolated: 320 m of a curve that
deviates from a straight line by s^2 / 8R, 2 mm."""
_FAR: Final = -1e18
"""Coordinate of places that the other coordinate system cannot hold: outside every map."""
_LEFT: Final = 1e-6
"""Pixels by which a centre on a border is moved, so that rounding does not decide to which side it belongs."""
_TIE: Final = 1e-8
"""Weight that decides between classes of the same number of pixels: of their places in the cell."""


@dataclass(frozen=True, slots=True)
class _Source:
    """An open map of a zone, and the way from its coordinates to the grid's."""

    file: Any
    layer: Layer
    grid: Grid
    to: Transformer


def own_path(directory: Path, layer: Layer, own: OwnGrid) -> Path:
    """Path of a map on a grid of the user's own, for example landcover_3035_100m.tif."""
    return directory / f"{file_stem(layer.stem, layer.place, own.name)}.tif"


def write_own(
    directory: Path, maps: Sequence[MapFile], own: OwnGrid, found: Statistics, tags: Mapping[str, str]
) -> OwnMap:
    """Write the maps of one layer, one of each zone, once more as one map.

    Args:
        directory: where it goes.
        maps: finished files.
        own: a grid with a size.
        found: statistics of the layer over all zones.
        tags: metadata of the file.

    Raises:
        DiskFullError, OutputError, ValueError: as in cog.write_map.
    """
    layer = maps[0].layer
    path = own_path(directory, layer, own)
    near = shortest_side(own, maps[0].grid) <= NEAREST
    how = "nearest pixel" if near else "commonest class" if layer.kind == "classes" else "mean"
    write_map(path, layer, own, regridded(maps, own, found, near), {**tags, "GEOMAP_RESAMPLING": how})
    return OwnMap(path, layer, own)


def shortest_side(own: OwnGrid, zone: Grid) -> float:
    """The shorter side of a cell in metres of a zone, in the middle of the zone's map."""
    west, south, east, north = zone.bounds
    to = Transformer.from_crs(own.crs, zone.epsg, always_xy=True)
    x, y = to.transform((west + east) / 2, (south + north) / 2, direction="INVERSE")
    xs, ys = to.transform([x, x + own.step_x, x], [y, y, y + own.step_y])
    return min(math.hypot(xs[i] - xs[0], ys[i] - ys[0]) for i in (1, 2))


def regridded(
    maps: Sequence[MapFile], own: OwnGrid, found: Statistics, near: bool
) -> Iterator[tuple[OwnGrid, NDArray[Any]]]:
    """The parts of a grid that the maps of a layer touch, and their pixels: (y, x), or (band, y, x).

    Args:
        maps: one of each zone.
        own: a grid with a size.
        found: which classes occur.
        near: nearest pixels, not the commonest class or the mean.
    """
    with ExitStack() as stack:
        sources = [
            _Source(
                stack.enter_context(rasterio.open(m.path.absolute(), driver="GTiff", sharing=False)),
                m.layer,
                m.grid,
                Transformer.from_crs(m.grid.epsg, own.crs, always_xy=True),
            )
            for m in maps
        ]
        for part in _parts(own, [m.grid for m in maps]):
            made = _nearest(sources, part) if near else _gathered(sources, part, found)
            if made is not None:
                yield part, made


def _parts(own: OwnGrid, maps: Sequence[Grid]) -> Iterator[OwnGrid]:
    """The parts that maps may touch, block by block of the file, and of these only the cells around the maps.

    Maps may lie far apart, and a cell may be larger than a map: cells beyond them would cost their pixels for nothing.
    """
    windows = [window(own, m) for m in maps]
    first, start, last, end = _around(windows)
    for row, column in itertools.product(_starts(first, last, BLOCK), _starts(start, end, BLOCK)):
        for r, c in itertools.product(range(row, row + BLOCK, CELLS), range(column, column + BLOCK, CELLS)):
            met = [(max(r, w[0]), max(c, w[1]), min(r + CELLS, w[2]), min(c + CELLS, w[3])) for w in windows]
            met = [box for box in met if box[0] < box[2] and box[1] < box[3]]
            if met:
                top, left, bottom, right = _around(met)
                yield own.part(top, left, bottom - top, right - left)


def _around(windows: Sequence[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    """The window around several, (first row, first column, last row + 1, last column + 1)."""
    tops, lefts, bottoms, rights = zip(*windows, strict=True)
    return min(tops), min(lefts), max(bottoms), max(rights)


def _starts(first: int, end: int, side: int) -> range:
    return range(first // side * side, end, side)


# --- nearest pixels


def _nearest(sources: Sequence[_Source], part: OwnGrid) -> NDArray[Any] | None:
    """The pixels that contain the centres of cells; None if none has a value.

    At a border of zones, a centre can lie in a pixel that belongs to the other zone, in both of them. There the cell
    takes a pixel of the other zone, else a neighbour. Where the pixel belongs to its own zone, nodata stays nodata.
    """
    made = _empty(sources[0].layer, part)
    places = [_pixels_at(s, part) for s in sources]
    if len(sources) == 1:
        return made if _take(made, sources[0], *places[0], np.ones(part.shape, bool)) else None
    owner, border = _owners(part, sources)
    taken = [_take(made, s, *at, owner == s.grid.epsg) for s, at in zip(sources, places, strict=True)]
    if not border.any():
        return made if any(taken) else None
    for s, (row, column) in zip(sources, places, strict=True):
        inside = border & (owner == s.grid.epsg)
        border[inside] = ~_own(s, row[inside], column[inside])
    for rows, columns in ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)):
        for s, (row, column) in zip(sources, places, strict=True):
            taken.append(_take(made, s, row + rows, column + columns, border & ~_valid(made, s.layer)))
    return made if any(taken) else None


def _own(source: _Source, row: NDArray[np.intp], column: NDArray[np.intp]) -> NDArray[np.bool_]:
    """(n,) whether pixels of a zone's grid belong to the zone: their centres lie in it."""
    where = source.grid
    x, y = where.west + (column + 0.5) * where.resolution, where.north - (row + 0.5) * where.resolution
    to = Transformer.from_crs(where.epsg, 4326, always_xy=True)
    own: NDArray[np.bool_] = zone_epsg(*to.transform(x, y)) == where.epsg
    return own


def _pixels_at(source: _Source, part: OwnGrid) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(rows, columns) of the map pixels that contain the centres of cells."""
    x, y = centres(part.transform, part.shape, source.to, inverse=True)
    where = source.grid
    row, column = (where.north - y) / where.resolution, (x - where.west) / where.resolution
    return np.floor(row + _LEFT).astype(np.intp), np.floor(column + _LEFT).astype(np.intp)


def _take(
    made: NDArray[Any], source: _Source, row: NDArray[np.intp], column: NDArray[np.intp], wanted: NDArray[np.bool_]
) -> bool:
    """Take the wanted pixels of a map, in place; whether there are any."""
    height, width = source.grid.shape
    held = wanted & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    if not held.any():
        return False
    rows, columns = row[held], column[held]
    top, left = int(rows.min()), int(columns.min())
    values = _read(source, top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)
    made[..., held] = values[..., rows - top, columns - left]
    return True


def _owners(part: OwnGrid, sources: Sequence[_Source]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """The zone that owns each cell, and whether another zone lies within a map pixel of it."""
    reach = math.ceil(sources[0].grid.resolution / min(shortest_side(part, sources[0].grid), 10.0)) + 1
    grown = replace(
        part,
        west=part.west - reach * part.step_x,
        north=part.north + reach * part.step_y,
        width=part.width + 2 * reach,
        height=part.height + 2 * reach,
    )
    owner = owners(grown.transform, grown.shape, grown.crs)
    side = 2 * reach + 1
    border = maximum_filter(owner, side) != minimum_filter(owner, side)
    inner = slice(reach, -reach), slice(reach, -reach)
    return owner[inner], border[inner]


# --- the commonest class and means


def _gathered(sources: Sequence[_Source], part: OwnGrid, found: Statistics) -> NDArray[Any] | None:
    """The commonest class, or the means, of the pixels in each cell; None if no pixel has a value."""
    layer = sources[0].layer
    present = np.array(sorted(found.counts), np.uint8) if layer.kind == "classes" else None
    cells = part.width * part.height
    votes = np.zeros(cells * len(present)) if present is not None else np.zeros((len(layer.bands) or 1, cells))
    held, total = np.zeros((1 if present is not None else len(votes), cells), np.int64), np.zeros(cells, np.int64)
    for cell, weight, values in _pixels_of(sources, part):
        total += np.bincount(cell, minlength=cells)
        if values is None:
            continue
        for band, pixels in enumerate(values):
            known = _known(pixels, layer)
            at = cell[known]
            held[band] += np.bincount(at, minlength=cells)
            if present is not None:
                index = at * len(present) + np.searchsorted(present, pixels[known])
                votes += np.bincount(index, weight[known], minlength=votes.size)
            else:
                votes[band] += np.bincount(at, pixels[known], minlength=cells)
    if not held.any():
        return None
    enough = (held > 0) & (2 * held >= total)
    if present is not None:
        value = present[votes.reshape(cells, -1).argmax(axis=1)][None]
    else:
        value = votes / np.maximum(held, 1)
        value = np.floor(value + 0.5) if np.dtype(layer.dtype).kind in "iu" else value
    made: NDArray[Any] = np.where(enough, value, layer.nodata).astype(layer.dtype)
    return made.reshape(layer.shape(part))


def _pixels_of(
    sources: Sequence[_Source], part: OwnGrid
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64], NDArray[Any] | None]]:
    """The map pixels whose centres lie in a part, some at a time, also those beyond the edges of the maps.

    Yields the cell of each pixel (n,), its weight (n,), and its values (bands, n), or None beyond the map.
    """
    for s in sources:
        west, south, east, north = s.to.transform_bounds(*part.bounds, densify_pts=21, direction="INVERSE")
        if len(sources) > 1:  # those that the zone owns: a part around another map may lie half the globe away
            west, south = max(west, SQUARE_M), max(south, 0)
            east, north = min(east, 9 * SQUARE_M), min(north, FALSE_NORTHING)
        if not (math.isfinite(west) and math.isfinite(east)):  # beyond the edge of a world that is an ellipse
            continue
        step = s.grid.resolution
        top, bottom = math.floor((s.grid.north - north) / step) - 1, math.ceil((s.grid.north - south) / step) + 1
        left, right = math.floor((west - s.grid.west) / step) - 1, math.ceil((east - s.grid.west) / step) + 1
        for row, column in itertools.product(range(top, bottom, PIXELS), range(left, right, PIXELS)):
            shape = min(PIXELS, bottom - row), min(PIXELS, right - column)
            place = step, 0.0, s.grid.west + column * step, 0.0, -step, s.grid.north - row * step
            x, y = centres(place, shape, s.to)
            across, down = (x - part.west) / part.step_x + _LEFT, (part.north - y) / part.step_y + _LEFT
            i, j = np.floor(down).astype(np.intp), np.floor(across).astype(np.intp)
            mine = (i >= 0) & (i < part.height) & (j >= 0) & (j < part.width)
            if len(sources) > 1 and mine.any():
                mine &= owners(place, shape, s.grid.crs) == s.grid.epsg
            if mine.any():
                weight = 1 + _TIE * (1 - (down - i)[mine]) * (2 - (across - j)[mine])
                # ^ of classes with the same number of pixels, the one further to the north-west: it favours no class
                values = _padded(s, row, column, shape)
                yield (i * part.width + j)[mine], weight, None if values is None else values[..., mine]


def _padded(source: _Source, row: int, column: int, shape: tuple[int, int]) -> NDArray[Any] | None:
    """(bands, y, x) of a window that may reach beyond the map, where it is nodata; None if it lies outside."""
    height, width = source.grid.shape
    top, left = max(row, 0), max(column, 0)
    rows, columns = min(row + shape[0], height) - top, min(column + shape[1], width) - left
    if rows <= 0 or columns <= 0:
        return None
    values = _read(source, top, left, rows, columns)
    around = ((0, 0), (top - row, row + shape[0] - top - rows), (left - column, column + shape[1] - left - columns))
    return np.pad(values.reshape(-1, rows, columns), around, constant_values=source.layer.nodata)


# --- places


def centres(
    transform: Sequence[float], shape: tuple[int, int], to: Transformer, inverse: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(x, y), each (rows, columns): the centres of a raster's pixels in other coordinates.

    Args:
        transform: affine coefficients of a north-up raster.
        shape: (rows, columns).
        to: from the raster's coordinates to the others; with `inverse`, the other way round.
    """
    a, _, c, _, e, f = transform
    down, across = (_nodes(length) for length in shape)
    direction = "INVERSE" if inverse else "FORWARD"
    x, y = to.transform(*np.meshgrid(c + a * (across + 0.5), f + e * (down + 0.5)), direction=direction)
    with np.errstate(invalid="ignore"):
        xs, ys = (_between(_between(v, down, shape[0]).T, across, shape[1]).T for v in (x, y))
    lost = ~(np.isfinite(xs) & np.isfinite(ys))
    if lost.any():
        xs[lost] = ys[lost] = _FAR
    return xs, ys


def _nodes(length: int) -> NDArray[np.float64]:
    """The pixels of a row or column whose coordinates are computed."""
    return np.append(np.arange(0, length - 1, _NODES), length - 1).astype(np.float64)


def _between(values: NDArray[np.float64], nodes: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """(length, n) values along the first axis, linear between those at the nodes, (nodes, n)."""
    at = np.arange(length)
    first = np.minimum(at // _NODES, max(len(nodes) - 2, 0))
    last = np.minimum(first + 1, len(nodes) - 1)
    share = ((at - nodes[first]) / np.maximum(nodes[last] - nodes[first], 1))[:, None]
    made: NDArray[np.float64] = values[first] * (1 - share) + values[last] * share
    return made


def owners(transform: Sequence[float], shape: tuple[int, int], crs: str) -> NDArray[np.int32]:
    """(rows, columns) EPSG code of the zone that owns each pixel's centre."""
    a, _, c, _, e, f = transform
    to = Transformer.from_crs(crs, 4326, always_xy=True)
    down, across = (_nodes(length) for length in shape)
    few = zone_epsg(*to.transform(*np.meshgrid(c + a * (across + 0.5), f + e * (down + 0.5))))
    if (few == few.flat[0]).all():
        return np.full(shape, few.flat[0], np.int32)
    x, y = np.meshgrid(c + a * (np.arange(shape[1]) + 0.5), f + e * (np.arange(shape[0]) + 0.5))
    return zone_epsg(*to.transform(x, y))


# --- pixels


def _empty(layer: Layer, part: OwnGrid) -> NDArray[Any]:
    return np.full(layer.shape(part), layer.nodata, layer.dtype)


def _read(source: _Source, row: int, column: int, height: int, width: int) -> NDArray[Any]:
    """(y, x), or (band, y, x) of a layer with bands."""
    where = Window(column, row, width, height)
    values: NDArray[Any] = source.file.read(None if source.layer.bands else 1, window=where)
    return values


def _known(pixels: NDArray[Any], layer: Layer) -> NDArray[np.bool_]:
    known: NDArray[np.bool_] = ~np.isnan(pixels) if math.isnan(layer.nodata) else pixels != layer.nodata
    return known


def _valid(made: NDArray[Any], layer: Layer) -> NDArray[np.bool_]:
    """(y, x) cells that have a value in any band."""
    known = _known(made, layer)
    made_of: NDArray[np.bool_] = np.any(known, axis=0) if layer.bands else known
    return made_of
