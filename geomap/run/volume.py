"""How many requests and bytes reading takes, by the blocks of the files that lie over the tiles.

The rules are those of reading: neighbouring tiles read SCL and the bands of 20 m together, and each tile its bands of
10 m (pipeline.read_together); of the granules of one pass, the first that covers a tile is enough. A run opens each
file once.
"""

from __future__ import annotations

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
    total, opened = Volume(), dict[str, float]()

    def read(scene: Scene, bands: Sequence[str], where: Grid, likely: float) -> Volume:
        files = (_of(scene, band, where, fetched) for band in bands)
        return sum((_opening(found, opened, likely) for found in files if found), Volume())

    for near in grids.in_pairs(tiles, lambda tile: tile.grid).values():
        parts = [tile.grid for tile in near]
        around = grids.mosaic_grid(tuple(parts))
        for scene in over(scenes, around):
            total += read(scene, (SCL,), around, 1)
        for scene in _first(over(scenes, around), around):
            total += read(scene, BANDS_20M, around, chance(scene))
        for part in parts:
            for scene in _first(over(scenes, part), part):
                total += read(scene, BANDS_10M, part, chance(scene))
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


@dataclass(frozen=True, slots=True)
class _File:
    """What reads of a file take, apart from opening it."""

    href: str
    runs: int  # requests for blocks
    size: float  # bytes of blocks
    whole: bool  # all blocks of the file, of which the header's request fetches a part


def _opening(found: _File, opened: dict[str, float], likely: float) -> Volume:
    """A read of a file, and the share of its opening that is not likely to be done by then, as `opened` notes."""
    first = max(0.0, likely - opened.get(found.href, 0.0))
    opened[found.href] = max(likely, opened.get(found.href, 0.0))
    header = max(0.0, HEADER - found.size) if found.whole else HEADER
    return Volume(found.runs, found.size).times(likely) + Volume(OPENING, header).times(first)


def _of(scene: Scene, band: str, where: Grid, fetched: Mapping[str, Blocks]) -> _File | None:
    """What the blocks of a scene's file over a grid take; None if there are none, or they are not known."""
    resolution = 10 if band in BANDS_10M else 20
    known = fetched.get(kind_of(np.uint8 if band == SCL else np.uint16, resolution), Blocks())
    raster = _raster(scene, band)
    if not known.number or raster is None:
        return None
    there = where if raster.epsg == where.epsg else grids.covering(where, raster.epsg)
    rows, columns = _blocks(raster, there, known.side)
    if not rows * columns:
        return None
    size = rows * columns * known.size / known.number
    all_rows, all_columns = _blocks(raster, raster, known.side)
    whole = (rows, columns) == (all_rows, all_columns)
    runs = 0 if size < HEADER else 1 if columns == all_columns else rows
    return _File(scene.assets[band].href, runs, size, whole)


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
