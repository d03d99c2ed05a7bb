"""A stored tile's pixels passed to a function, strip by strip, and labelled."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from geomap import process
from geomap.label.classify import Question, TileLabels, Within
from geomap.store import codec as codes
from geomap.store import store
from geomap.store.store import Store
from geomap.types import CLEAR_MONTHS, NOT_MAPPED, Grid, Layers, Tile

STRIP: Final = 256
"""Rows read at once: one row of chunks."""
LABELLED_AT_ONCE: Final = 4096
"""Pixels labelled at once: their coordinates (2 MB) stay in a core's cache."""

MAX_STRIPS: Final = 8
"""Most strips in memory at once, each of 34 MB for a tile's width of 1024 pixels."""

Use: TypeAlias = Callable[[NDArray[np.intp], torch.Tensor], None]
"""Callback with flat indices (n,) of pixels and their codes (n, C), called from several threads."""


def label_stored(
    kept: Store,
    composites: Store | None,
    questions: Sequence[Question],
    within: Within,
    tile: Tile,
    window: int = 1,
    advance: Callable[[int], None] = lambda pixels: None,
) -> Layers:
    """All layers of a stored tile.

    Args:
        kept: the embeddings.
        composites: the series of the same tiles, where a question was learned from series too.
        questions: legends with their vectors in the store's coordinates.
        within: legend -> (another legend, class id); nodata where that one has another class.
        tile: one of the store's.
        window: pixels a side over which log-probabilities are averaged.
        advance: callback with the pixels done.

    Raises ReadError if a store is damaged.
    """
    kept.check(tile)
    months = kept.read(CLEAR_MONTHS, tile.grid, tile)
    series = None if composites is None else _Series(composites, tile).at
    labels = TileLabels(questions, tile.grid.shape, window, series)

    def fill(where: NDArray[np.intp], block: torch.Tensor) -> None:
        embeddings = codes.decode(block)
        require_codes(kept, tile, embeddings[:, 0])
        labels.fill(where, embeddings)

    over(kept, tile, mapped(kept, months), fill, advance)
    return labels.layers(within, months)


class _Series:
    """The monthly series of a tile's pixels, read in rows of chunks."""

    def __init__(self, composites: Store, tile: Tile) -> None:
        composites.check(tile)
        self._kept, self._tile, self._lock = composites, tile, Lock()
        self._strips: OrderedDict[int, NDArray[np.uint16]] = OrderedDict()

    def at(self, where: NDArray[np.intp]) -> torch.Tensor:
        """(n, T, C) DNs at flat indices (n,) of one strip."""
        width = self._tile.grid.width
        strip = int(where[0]) // width // STRIP
        pixels = self._strip(strip)[:, :, where - strip * STRIP * width]
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def _strip(self, strip: int) -> NDArray[np.uint16]:
        with self._lock:
            if strip not in self._strips:
                bottom = min((strip + 1) * STRIP, self._tile.grid.height)
                found = self._kept.read("composite", rows_of(self._tile.grid, strip * STRIP, bottom), self._tile)
                self._strips[strip] = found.reshape(*found.shape[:2], -1)
                while len(self._strips) > MAX_STRIPS:
                    self._strips.popitem(last=False)
            return self._strips[strip]


def mapped(kept: Store, months: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(y, x) pixels that have an embedding: inside the area, with enough clear months."""
    found: NDArray[np.bool_] = (months != NOT_MAPPED) & (months >= kept.about["min_clear_months"])
    return found


def over(kept: Store, tile: Tile, usable: NDArray[np.bool_], use: Use, advance: Callable[[int], None]) -> None:
    """Pass the codes of a tile's usable pixels to `use`, in strips of rows that run in parallel.

    Each core works on its own strip: a strip is too little work to share. Raises ReadError.
    """

    def do(top: int) -> int:
        bottom = min(top + STRIP, tile.grid.height)
        where = np.flatnonzero(usable[top:bottom])
        if len(where):
            rows = rows_of(tile.grid, top, bottom)
            strip = kept.read("embedding", rows, tile).reshape(-1, rows.width * rows.height)
            strip = strip if len(where) == strip.shape[1] else strip[:, where]
            for i in range(0, len(where), LABELLED_AT_ONCE):
                use(
                    where[i : i + LABELLED_AT_ONCE] + top * rows.width,
                    torch.from_numpy(strip[:, i : i + LABELLED_AT_ONCE]).T,
                )
        return bottom * tile.grid.width

    with process.side_by_side(min(torch.get_num_threads(), MAX_STRIPS), "label") as pool:
        for done in pool.map(do, range(0, tile.grid.height, STRIP)):
            advance(done)


def require_codes(kept: Store, tile: Tile, values: torch.Tensor) -> None:
    """Raise ReadError if a mapped pixel has the code of nodata."""
    if values.isnan().any():
        raise store.damaged(kept.path, f"tile {tile.name} lacks embeddings")


def rows_of(whole: Grid, top: int, bottom: int) -> Grid:
    """The rows `top` to `bottom` of a grid."""
    return Grid(whole.epsg, whole.west, whole.north - top * whole.resolution, whole.width, bottom - top)
