"""Where a run stands, told to whom it concerns: the caller's progress, and `running.json` for `geomap status`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from geomap import files
from geomap.run.directory import RUNNING_FILE, State
from geomap.types import Progress, Tile


class Tracker:
    """Counts tiles and pixels of one run. Its methods are called by one thread."""

    def __init__(self, state: State, pending: Sequence[Tile], progress: Progress) -> None:
        self._path = state.home / RUNNING_FILE
        self._progress = progress
        self._started = time.time()
        self._running: dict[str, float] = {}  # tile name -> when it was begun, seconds since 1970
        self._failed: dict[str, str] = {}  # tile name -> cause; they are tried again
        self._tiles = len(pending)
        self._pixels = sum(_size(tile) for tile in pending)
        self._composed = self._encoded = 0
        progress("composite", 0, self._tiles)
        self._write()

    def begin(self, tile: Tile) -> None:
        """The work on a tile begins."""
        self._running[tile.name] = time.time()
        self._failed.pop(tile.name, None)
        self._write()

    def composed(self) -> None:
        """A tile has been read."""
        self._composed += 1
        self._progress("composite", min(self._composed, self._tiles), self._tiles)  # failed tiles are read twice

    def encoded(self, pixels: int) -> None:
        """So many pixels of the current tile are encoded."""
        self._progress("encode", self._encoded + pixels, self._pixels)

    def done(self, tile: Tile) -> None:
        """A tile is finished and kept."""
        self._running.pop(tile.name, None)
        self._write()
        self._encoded += _size(tile)
        self._progress("encode", self._encoded, self._pixels)

    def failed(self, tile: Tile, cause: str) -> None:
        """A tile has failed."""
        self._running.pop(tile.name, None)
        self._failed[tile.name] = cause
        self._write()

    def _write(self) -> None:
        files.write_json(self._path, {"started": self._started, "running": self._running, "failed": self._failed})


def _size(tile: Tile) -> int:
    return tile.grid.width * tile.grid.height
