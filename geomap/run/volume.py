"""How many requests and bytes reading takes, by the blocks of the files that lie over the tiles.

The rules are those of reading: neighbouring tiles read SCL and the bands of 20 m together, and each tile its bands of
10 m (pipeline.read_together); of the granules of one pass, the first that covers a tile is enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from geomap import grid as grids
from geomap.catalog.over import over, rank
from geomap.read.access import GDAL_OPTIONS
from geomap.read.reader import kind_of
from geomap.sentinel2 import BANDS_10M, BANDS_20M, SCL
from geomap.types import Blocks, Grid, Scene, Tile

OPENING: Final = 2
"""Requests to open a file: for its size, and for its header."""

HEADER: Final = int(GDAL_OPTIONS["GDAL_INGESTED_BYTES_AT_OPEN"])
"""Bytes that the second of them asks for."""

Chance = Callable[[Scene], float]
"""How likely a scene has a clear pixel over the area, so that its bands are read."""


@dataclass(frozen=True, slots=True)
class Volume:
    """What reading takes from a server."""

    requests: float = 0.0
    size: float = 0.0  # bytes

    def __add__(self, other: Volume) -> Volume:
        return Volume(self.requests + other.requests, self.size + other.size)

    def times(self, share: float) -> Volume:
        return Volume(share * self.requests, share * self.size)


def volume(tiles: Sequence[Tile], scenes: Sequence[Scene], chance: Chance, fetched: Mapping[str, Blocks]) -> Volume:
    """What the scenes over tiles take.

    Args:
        tiles: all of the area.
        scenes: those that were found.
        chance: see `Chance`.
        fetched: blocks of a few of the files, by kind (Composite.fetched): how large they are.
    """
    total = Volume()
    for _, near in itertools.groupby(tiles, key=lambda tile: grids.pair(tile.grid)):
        parts = [tile.grid for tile in near]
        around = grids.mosaic_grid(tuple(parts))
        for scene in over(scenes, around):
            total += _of(scene, (SCL,), around, fetched)
        for scene in _first(over(scenes, around), around):
            total += _of(scene, BANDS_20M, around, fetched).times(chance(scene))
        for part in parts:
            for scene in _first(over(scenes, part), part):
                total += _of(scene, BANDS_10M, part, fetched).times(chance(scene))
    return total


def _first(scenes: Sequence[Scene], where: Grid) -> Iterator[Scene]:
    """The scenes whose bands may be read: of each pass, all up to the first that covers the grid."""
    covered: set[str] = set()
    for scene in sorted(scenes, key=lambda scene: rank(scene, where)):
        if scene.acquisition not in covered:
            yield scene
            if _covers(scene, where):
                covered.add(scene.acquisition)


def _covers(scene: Scene, where: Grid) -> bool:
    raster = _raster(scene, BANDS_10M[0])
    return raster is not None and raster.epsg == where.epsg and _common(raster, where) == where.bounds


def _of(scene: Scene, bands: Sequence[str], where: Grid, fetched: Mapping[str, Blocks]) -> Volume:
    """What the blocks of a scene's files over a grid take."""
    total = Volume()
    for band in bands:
        resolution = 10 if band in BANDS_10M else 20
        known = fetched.get(kind_of(np.uint8 if band == SCL else np.uint16, resolution), Blocks())
        raster = _raster(scene, band)
        if not known.number or raster is None:
            continue
        there = where if raster.epsg == where.epsg else grids.covering(where, raster.epsg)
        rows, columns = _blocks(raster, there, known.side)
        if rows * columns:
            size = rows * columns * known.size / known.number
            all_rows, all_columns = _blocks(raster, raster, known.side)
            whole = (rows, columns) == (all_rows, all_columns)  # the header's request fetches a part of it
            runs = 0 if size < HEADER else 1 if columns == all_columns else rows
            total += Volume(OPENING + runs, max(HEADER, size) if whole else HEADER + size)
    return total


def _raster(scene: Scene, band: str) -> Grid | None:
    """The pixels of a file, as its item states them."""
    asset = scene.assets[band]
    if asset.transform is None or asset.shape is None:
        return None
    (rows, columns), (step, _, west, _, _, north) = asset.shape, asset.transform[:6]
    return Grid(scene.epsg, int(west), int(north), columns, rows, int(step))


def _common(raster: Grid, where: Grid) -> tuple[int, int, int, int]:
    """(west, south, east, north) of what two grids of one zone share."""
    one, other = raster.bounds, where.bounds
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def _blocks(raster: Grid, where: Grid, side: int) -> tuple[int, int]:
    """(rows, columns) of the blocks of a file under a grid."""
    west, south, east, north = _common(raster, where)
    if west >= east or south >= north:
        return 0, 0
    step = side * raster.resolution
    columns = -(-(east - raster.west) // step) - (west - raster.west) // step
    rows = -(-(raster.north - south) // step) - (raster.north - north) // step
    return rows, columns
