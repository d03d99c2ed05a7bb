"""What dask workers run: the tasks of a tile, and the plugin that brings the prepared request.

The plugin reaches every worker once, including workers that join later or restart. Tasks carry the tile and the scenes
over it; the encoder is loaded on the worker's device for its first tile.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from distributed import Semaphore, WorkerPlugin

from geomap import __version__, process
from geomap.encode.engine import Engine
from geomap.errors import ClusterError
from geomap.pipeline import Together
from geomap.read.header import Headers
from geomap.run.prepare import Prepared
from geomap.run.tile_file import Finished, Task
from geomap.run.tiles import Composed, compose_shared, compose_tile, finish_tile
from geomap.sources import leases

VERSIONED = ("geomap", "torch")
"""Packages whose versions must be equal on all workers, since they decide the bytes of a tile."""


class PreparedPlugin(WorkerPlugin):
    """Sends a worker a prepared request under a key, and the cluster's leases for limited providers."""

    def __init__(
        self, key: str, prepared: Prepared, threads: int | None, versions: tuple[str, ...] | None = None
    ) -> None:
        """Args: threads: torch threads in each worker, None: unchanged; versions: of VERSIONED, by default ours."""
        self.name = f"geomap-{key}"
        self._key, self._prepared, self._threads = key, prepared, threads
        self._versions = versions or installed()

    def setup(self, worker: Any) -> None:
        """Called by dask on every worker, once."""
        process.keep_freed()
        _runs[self._key] = _Run(self._prepared, self._threads, self._versions, worker.address, str(worker.name))
        for key, most in leases.limits().items():
            limit = Semaphore(most, name=f"geomap-{key}", scheduler_rpc=worker.scheduler, loop=worker.loop)
            leases.share(key, limit)

    def teardown(self, worker: Any) -> None:
        """Called by dask when the run ends."""
        if (run := _runs.pop(self._key, None)) is not None:
            run.kept.forget()


def shared_task(key: str, tasks: Sequence[Task]) -> Together | None:
    """What neighbouring tiles share, for their tasks: dask prefers the worker that has it."""
    run = _runs[key]
    return compose_shared(run.checked(), tasks, run.kept)


def compose_task(key: str, task: Task, together: Together | None = None) -> Composed:
    """A tile's composite, for another worker to finish."""
    run = _runs[key]
    return compose_tile(run.checked(), task, together, run.kept)


def finish_task(key: str, composed: Composed) -> Finished:
    """Encode and label a composite."""
    run = _runs[key]
    return finish_tile(run.checked(), run.engine(), composed)


def make_task(key: str, task: Task, together: Together | None = None) -> Finished:
    """Compose, encode and label a tile in one task, so that its composite (140 MB) is never sent."""
    return finish_task(key, compose_task(key, task, together))


class _Run:
    """A prepared request on a worker; its encoder is loaded once, by the first thread that needs it."""

    def __init__(
        self, prepared: Prepared, threads: int | None, versions: tuple[str, ...], address: str, name: str
    ) -> None:
        self._prepared, self._threads, self._versions = prepared, threads, versions
        self._address, self._name = address, name
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self.kept = Headers()  # of files that this worker has read

    def checked(self) -> Prepared:
        """The prepared request. Raises ClusterError if the worker has other versions."""
        if (found := installed()) != self._versions:
            raise ClusterError(
                f"worker {self._address} has {_told(found)}, this is {_told(self._versions)}; install the same there"
            )
        return self._prepared

    def engine(self) -> Engine:
        with self._lock:
            if self._engine is None:
                if self._threads is not None:
                    process.set_threads(self._threads)
                self._engine = Engine(self._prepared.weights.encoder, self._device(), dtype=self._prepared.dtype)
            return self._engine

    def _device(self) -> str:
        """The CPU, the requested GPU, or one of several GPUs chosen by the worker's number."""
        asked = self._prepared.request.device
        if self._prepared.device == "cpu":
            return "cpu"
        if ":" in asked:
            return asked
        number = int(self._name) if self._name.isdigit() else 0
        return f"cuda:{number % max(1, torch.cuda.device_count())}"


_runs: dict[str, _Run] = {}
"""Prepared requests of this worker, by key."""


def installed() -> tuple[str, ...]:
    """Versions of VERSIONED in this process."""
    return __version__, version("torch")


def _told(versions: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {found}" for name, found in zip(VERSIONED, versions, strict=True))
