"""The stored pixels at labelled points: their embeddings, their series and their neighbours, each pixel once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from geomap.points.pixels import in_pixels
from geomap.points.read import Points
from geomap.run.lesson import Lesson
from geomap.sentinel2 import BANDS
from geomap.store import codec
from geomap.store.store import Store
from geomap.text import plural
from geomap.types import CLEAR_MONTHS, NOT_MAPPED, Grid, Tile

CELL: Final = 50
"""Pixels per side of the cells that keep points together in cross-validation: 500 m, a few fields."""
BLOCK: Final = 256
"""Pixels per side of what is read at once: a chunk of the embeddings."""
BLOCKS: Final = 64
"""Most such parts from which candidates for a visit are drawn: 0.5 GB are read."""
CANDIDATES: Final = 8192
"""Most candidates for a visit."""
AROUND: Final = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))
MIDDLE: Final = len(AROUND) // 2


@dataclass(frozen=True, slots=True)
class Found:
    """n stored pixels with a class, in the order of their places."""

    place: NDArray[np.int64]  # (n, 3) EPSG code, column, row (points.pixels)
    ids: NDArray[np.uint8]  # (n,) class
    groups: NDArray[np.intp]  # (n,) cell of CELL pixels, polygons whole: never parted by a fold
    codes: NDArray[np.int8]  # (n, C) stored embedding
    around: NDArray[np.int8]  # (n, 9, C) those of the 3 x 3 pixels, all 0 where not mapped
    dn: NDArray[np.uint16] | None  # (n, T, bands) monthly medians, 0 = nodata; None without composites
    lines: tuple[str, ...]  # what was left out, for the user

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """(n, C) unit vectors."""
        return decoded(self.codes)


def decoded(codes: NDArray[np.int8]) -> NDArray[np.float32]:
    """(n, C) codes -> (n, C) unit vectors."""
    vectors: NDArray[np.float32] = codec.decode(torch.from_numpy(codes)).numpy()
    return vectors


def find(lesson: Lesson, embeddings: Store, composites: Store | None) -> Found:
    """The stored pixels of a lesson's points; those outside the area, on nodata, or in contradiction are left out.

    Raises ReadError if a store is damaged.
    """
    place, ids, groups, lines = distinct(lesson.points, lesson.ids)
    n, size = len(ids), embeddings.basis().shape[1]
    codes, around = np.zeros((n, size), np.int8), np.zeros((n, 9, size), np.int8)
    steps = 0 if composites is None else composites.period.months
    dn = np.zeros((n, steps, len(BANDS)), np.uint16)
    outside, empty = np.ones(n, bool), np.zeros(n, bool)
    for tile, rows, at in by_tile(embeddings, place):
        months = embeddings.read(CLEAR_MONTHS, tile.grid, tile)[at[:, 0], at[:, 1]]
        outside[rows] = months == NOT_MAPPED
        empty[rows] = ~outside[rows] & (months < embeddings.about["min_clear_months"])
        for mine, where, local in by_block(tile, at):
            whole = embeddings.read("embedding", where, tile)
            around[rows[mine]] = _around(whole, local)
            codes[rows[mine]] = whole[:, local[:, 0], local[:, 1]].T
            if composites is not None and (held := composites.holding(where)) is not None:
                dn[rows[mine]] = composites.read("composite", where, held)[:, :, local[:, 0], local[:, 1]].transpose(
                    2, 0, 1
                )
    for what, mask in (("outside the area", outside), ("on pixels without data", empty)):
        if count := int(mask.sum()):
            lines = (*lines, f"{what}: {plural(count, 'pixel')}, left out")
    kept = ~outside & ~empty & codes.any(axis=1)
    series = None if composites is None else dn[kept]
    return Found(place[kept], ids[kept], groups[kept], codes[kept], around[kept], series, lines)


def distinct(
    points: Points, ids: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.intp], tuple[str, ...]]:
    """The pixels of points, each once, in the order of their places: (place, class, group, what is left out).

    Points of one class in a pixel count once. Pixels with points of two classes are left out. A group is a cell of CELL
    pixels, with all of the polygons that begin in it.
    """
    place, first, index, agreed = in_pixels(points.lonlat, ids)
    again = int(agreed[index].sum() - agreed.sum())
    lines = [f"more than once in a pixel: {plural(again, 'point')}, counted once"] if again else []
    if disputed := int((~agreed).sum()):
        held = int((~agreed)[index].sum())
        lines.append(
            f"in contradiction: {plural(held, 'point')} in {plural(disputed, 'pixel')} with two classes, left out"
        )
    cells = np.column_stack([place[:, 0], place[:, 1] // CELL, place[:, 2] // CELL])
    cell = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
    numbers, start = np.unique(points.group, return_index=True)  # a polygon lies in the cell of its first pixel
    groups = cell[index[start]][np.searchsorted(numbers, points.group[first])]
    return place[agreed], ids[first][agreed], groups[agreed].astype(np.intp), tuple(lines)


def at_most(found: Found, most: int) -> Found:
    """At most so many of the pixels, drawn at random, the same ones each time."""
    rows, lines = drawn(len(found), most)
    return Found(
        found.place[rows],
        found.ids[rows],
        found.groups[rows],
        found.codes[rows],
        found.around[rows],
        None if found.dn is None else found.dn[rows],
        (*found.lines, *lines),
    )


def drawn(count: int, most: int) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """At most so many of a count of rows, drawn at random, the same ones each time; and what to say of it."""
    if count <= most:
        return np.arange(count), ()
    rows = np.sort(np.random.default_rng(0).permutation(count)[:most])
    return rows, (f"more than {most:,} pixels: {most:,} of {count:,} are drawn at random to learn from",)


def candidates(kept: Store, known: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Mapped pixels drawn at random from the store, the same ones each time: (n, 3) places, (n, 9, C) codes of 3 x 3.

    At most BLOCKS parts are read. `known` are places (m, 3) that are left out.
    """
    rng = np.random.default_rng(0)
    tiles = [tile for tile in kept.tiles if tile.name not in kept.missing and kept.has(tile)]
    parts = [(tile, block) for tile in tiles for block in _blocks(tile)]
    chosen = [parts[i] for i in sorted(rng.permutation(len(parts))[:BLOCKS])]
    places, codes = [np.zeros((0, 3), np.int64)], [np.zeros((0, 9, kept.basis().shape[1]), np.int8)]
    for tile, where in chosen:
        kept.check(tile)
        whole = kept.read("embedding", where, tile)
        row, column = np.nonzero(whole.any(axis=0))
        some = np.sort(rng.permutation(len(row))[: CANDIDATES // len(chosen)])
        row, column = row[some], column[some]
        step = where.resolution
        epsg = np.full(len(row), where.epsg)
        places.append(np.column_stack([epsg, where.west // step + column, where.north // step - 1 - row]))
        codes.append(_around(whole, np.column_stack([row, column])))
    place, code = np.concatenate(places), np.concatenate(codes)
    taken = {tuple(p) for p in known.tolist()}
    free = np.array([tuple(p) not in taken for p in place.tolist()], bool)
    return place[free], code[free]


def _blocks(tile: Tile) -> Iterator[Grid]:
    """The parts of a tile that are read at once."""
    height, width = tile.grid.shape
    step = tile.grid.resolution
    for top in range(0, height, BLOCK):
        for left in range(0, width, BLOCK):
            west, north = tile.grid.west + left * step, tile.grid.north - top * step
            yield Grid(tile.grid.epsg, west, north, min(BLOCK, width - left), min(BLOCK, height - top), step)


def by_tile(kept: Store, place: NDArray[np.int64]) -> Iterator[tuple[Tile, NDArray[np.intp], NDArray[np.intp]]]:
    """Each stored tile that holds places: (tile, their rows (m,), (m, 2) row and column of each in the tile)."""
    for tile in kept.tiles:
        if tile.name in kept.missing:
            continue
        step = tile.grid.resolution
        row = tile.grid.north // step - 1 - place[:, 2]
        column = place[:, 1] - tile.grid.west // step
        height, width = tile.grid.shape
        here = (place[:, 0] == tile.grid.epsg) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        rows = np.flatnonzero(here)
        if len(rows) and kept.has(tile):
            kept.check(tile)
            yield tile, rows, np.column_stack([row[rows], column[rows]]).astype(np.intp)


def by_block(tile: Tile, at: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.intp], Grid, NDArray[np.intp]]]:
    """Parts of a tile that hold pixels: (which pixels (m,), the part with a margin of a pixel, (m, 2) place in it)."""
    height, width = tile.grid.shape
    for block in np.unique(at // BLOCK, axis=0):
        mine = np.flatnonzero((at // BLOCK == block).all(axis=1))
        top, left = (max(int(v) * BLOCK - 1, 0) for v in block)
        bottom = min((int(block[0]) + 1) * BLOCK + 1, height)
        right = min((int(block[1]) + 1) * BLOCK + 1, width)
        step = tile.grid.resolution
        west, north = tile.grid.west + left * step, tile.grid.north - top * step
        yield (
            mine,
            Grid(tile.grid.epsg, west, north, right - left, bottom - top, step),
            at[mine] - np.array([top, left]),
        )


def _around(whole: NDArray[np.int8], at: NDArray[np.intp]) -> NDArray[np.int8]:
    """(n, 9, C) codes of the 3 x 3 pixels around places in (C, y, x); all 0 beyond the edge."""
    padded = np.pad(whole, ((0, 0), (1, 1), (1, 1)))
    rows, columns = (at[:, i, None] + 1 + np.array(AROUND)[:, i] for i in (0, 1))
    return padded[:, rows, columns].transpose(1, 2, 0)
