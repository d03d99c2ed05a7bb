"""The pixels along the edges of tiles, made again from the strips of neighbouring tiles, where labels are smoothed.

A tile is smoothed without its neighbours, so the pixels within reach of its edges lack a part of their windows. Once
all tiles are there, these pixels are made from the strips that every tile keeps (label/smooth.py), with the same
operations in the same order as inside a tile: the map has the same bytes however the area is cut. The strips hold
unsmoothed values and stay as they are, so a tile can be mended again: after a stop, or when a neighbour was made anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomap.label import smooth
from geomap.label.classify import Question, TileLabels, Within
from geomap.run.directory import RunDirectory
from geomap.types import CLEAR_MONTHS, Grid, Layers, Progress, Tile

STAGE = "smooth"
"""Stage of the progress callback."""
NEAR = 9
"""Tiles whose strips are held: a tile and its neighbours. Each has 16 (N - 1) kB for each class and windows of N."""


def mend(
    run: RunDirectory,
    tiles: Sequence[Tile],
    questions: Sequence[Question],
    within: Within,
    window: int,
    progress: Progress,
) -> None:
    """Make the edge pixels of finished tiles again, with their neighbours in view.

    Args:
        run: holds these tiles.
        tiles: all finished tiles; others are nodata in the maps.
        questions: the legends of the maps.
        within: legend -> (another legend, class id); mapped only there.
        window: pixels per side.
        progress: callback with ("smooth", tiles done, total).

    Raises:
        DiskFullError, OutputError: a tile cannot be written.
    """
    r = smooth.reach(window)

    @lru_cache(maxsize=NEAR)
    def strips(tile: Tile) -> Layers:
        return run.load_all(tile, smooth.EDGE)

    for done, tile in enumerate(tiles if r else (), start=1):
        near = [other for other in tiles if _meet(_grown(tile.grid, r), other.grid)]
        if len(near) > 1:
            parts = [(other.grid, strips(other)) for other in near]
            run.mend(tile, _mended(run.load_all(tile, ""), tile.grid, parts, questions, within, window))
        progress(STAGE, done, len(tiles))


def _mended(
    layers: dict[str, NDArray[Any]],
    grid: Grid,
    parts: Sequence[tuple[Grid, Layers]],
    questions: Sequence[Question],
    within: Within,
    window: int,
) -> Layers:
    """The layers of a tile with their edge pixels made again from its strips and its neighbours', in place."""
    r = smooth.reach(window)
    for side in _sides(grid, r):
        canvas = _grown(side, r)
        if not any(other != grid and _meet(canvas, other) for other, _ in parts):
            continue
        labels = TileLabels(questions, canvas.shape, window)
        for question in questions:
            labels.hold(question.legend.name, _gathered(parts, question, canvas, window))
        made = labels.layers(within, np.zeros(canvas.shape, np.uint8))
        for stem, pixels in made.items():
            if stem != CLEAR_MONTHS and not stem.startswith(smooth.EDGE):
                layers[stem][(..., *_slices(side, grid))] = pixels[(..., *_slices(side, canvas))]
    return layers


def _gathered(
    parts: Sequence[tuple[Grid, Layers]], question: Question, canvas: Grid, window: int
) -> NDArray[np.float32]:
    """(K, y, x) unsmoothed values of a legend over a canvas, from the strips of tiles; NaN where there is none."""
    values = np.full((len(question.legend.classes) or 1, *canvas.shape), np.nan, np.float32)
    for grid, layers in parts:
        for number, (rows, columns) in enumerate(smooth.strips(grid.shape, window)):
            part = _part(grid, rows, columns)
            if _meet(part, canvas):
                strip = layers[smooth.strip_name(question.legend.name, number)]
                shared = _shared(part, canvas)
                values[(..., *_slices(shared, canvas))] = strip[(..., *_slices(shared, part))]
    return values


def _sides(grid: Grid, r: int) -> Iterator[Grid]:
    """The pixels within r of the edges of a grid: four strips."""
    rows, columns = grid.shape
    every = slice(0, max(rows, columns))
    for part in (
        (slice(0, r), every),
        (slice(max(0, rows - r), rows), every),
        (every, slice(0, r)),
        (every, slice(max(0, columns - r), columns)),
    ):
        yield _part(grid, *part)


def _part(grid: Grid, rows: slice, columns: slice) -> Grid:
    """A part of a grid, by its rows and columns."""
    top, bottom, _ = rows.indices(grid.height)
    left, right, _ = columns.indices(grid.width)
    step = grid.resolution
    return replace(
        grid, west=grid.west + left * step, north=grid.north - top * step, width=right - left, height=bottom - top
    )


def _grown(grid: Grid, r: int) -> Grid:
    """A grid with r more pixels on each side."""
    step = r * grid.resolution
    return replace(
        grid, west=grid.west - step, north=grid.north + step, width=grid.width + 2 * r, height=grid.height + 2 * r
    )


def _meet(one: Grid, other: Grid) -> bool:
    """Whether two grids of one pixel size share a pixel."""
    (west, south, east, north), (left, bottom, right, top) = one.bounds, other.bounds
    return one.epsg == other.epsg and west < right and left < east and south < top and bottom < north


def _shared(one: Grid, other: Grid) -> Grid:
    """The pixels that two grids share."""
    (west, south, east, north), (left, bottom, right, top) = one.bounds, other.bounds
    step, corner = one.resolution, (max(west, left), min(north, top))
    size = (min(east, right) - corner[0]) // step, (corner[1] - max(south, bottom)) // step
    return Grid(one.epsg, *corner, *size, step)


def _slices(part: Grid, whole: Grid) -> tuple[slice, slice]:
    """(rows, columns) of a part in the grid that holds it."""
    row, column = part.offset_in(whole)
    return slice(row, row + part.height), slice(column, column + part.width)
