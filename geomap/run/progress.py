"""The progress of a run: for the caller's callback and, in `running.json`, for `geomap status`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from geomap.run.directory import RunDirectory, Running, write_running
from geomap.run.tile_file import Task
from geomap.types import Progress


class Tracker:
    """Counts tiles and pixels of one run. Its methods are called from one thread."""

    def __init__(self, run: RunDirectory, pending: Sequence[Task], progress: Progress) -> None:
        self._directory = run.path
        self._progress = progress
        self._started = time.time()
        self._running: dict[str, float] = {}  # tile name -> start time, seconds since 1970
        self._failed: dict[str, str] = {}  # tile name -> cause; they are retried
        self._tiles = len(pending)
        self._pixels = sum(task.pixels for task in pending)
        self._composed = self._encoded = 0
        progress("composite", 0, self._tiles)
        self._write()

    def begin(self, task: Task) -> None:
        """Work on a tile starts."""
        self._running[task.tile.name] = time.time()
        self._failed.pop(task.tile.name, None)
        self._write()

    def composed(self) -> None:
        """A tile has been read."""
        self._composed += 1
        self._progress("composite", min(self._composed, self._tiles), self._tiles)  # tiles that fail are read twice

    def encoded(self, pixels: int) -> None:
        """The current tile has this many pixels encoded."""
        self._progress("encode", self._encoded + pixels, self._pixels)

    def done(self, task: Task) -> None:
        """A tile is finished and saved."""
        self._running.pop(task.tile.name, None)
        self._write()
        self._encoded += task.pixels
        self._progress("encode", self._encoded, self._pixels)

    def failed(self, task: Task, cause: str) -> None:
        """A tile has failed."""
        self._running.pop(task.tile.name, None)
        self._failed[task.tile.name] = cause
        self._write()

    def _write(self) -> None:
        write_running(self._directory, Running(self._started, self._running, self._failed))
