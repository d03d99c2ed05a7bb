"""What dask workers run: the tasks of a tile, and the plugin that brings them what all tiles of a job share.

A plugin reaches every worker once, those that join later or are restarted included. Tasks carry the tile and the
scenes over it; the encoder is put on the worker's device when its first tile comes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
from distributed import Semaphore, WorkerPlugin

from geomap.encode import weights
from geomap.encode.engine import Engine
from geomap.errors import ClusterError
from geomap.label.classify import Question
from geomap.run.prepare import Job
from geomap.run.request import Request
from geomap.run.tile_file import Finished
from geomap.run.tiles import Composed, compose_tile, finish_tile
from geomap.sources import leases
from geomap.store.codec import Codec
from geomap.types import Scene, Tile
from geomap.write.layer import Layer

log = logging.getLogger(__name__)

VERSIONED = ("geomap", "torch")
"""Packages whose versions must be equal on all workers, since they decide the bytes of a tile."""


@dataclass(frozen=True, slots=True)
class Shared:
    """A job as it travels: what all tiles have in common, tensors on the CPU."""

    request: Request
    weights: weights.Weights
    questions: tuple[Question, ...]
    layers: tuple[Layer, ...]
    within: tuple[str, int] | None
    device: str  # type of the device that encodes
    dtype: torch.dtype
    threads: int | None  # of torch in each worker; None: as the worker was started
    versions: tuple[str, ...]  # of VERSIONED, where the job was made
    codec: Codec | None = None


def shared(job: Job, threads: int | None) -> Shared:
    """What the workers need of a job."""
    questions = tuple(replace(q, vectors=q.vectors.cpu()) for q in job.questions)
    return Shared(
        request=job.request, weights=job.weights, questions=questions, layers=job.layers, within=job.within,
        device=job.device, dtype=job.dtype, threads=threads, versions=_versions(), codec=job.codec,
    )  # fmt: skip


class JobPlugin(WorkerPlugin):
    """Brings a job to a worker under a key, and the cluster's leases of limited providers."""

    def __init__(self, key: str, job: Shared) -> None:
        self.name = f"geomap-{key}"
        self._key, self._job = key, job

    def setup(self, worker: Any) -> None:
        """Called by dask on every worker, once."""
        _jobs[self._key] = _Ready(self._job, worker.address, worker.name)
        for key, most in leases.limits().items():
            limit = Semaphore(most, name=f"geomap-{key}", scheduler_rpc=worker.scheduler, loop=worker.loop)
            leases.share(key, limit)

    def teardown(self, worker: Any) -> None:
        """Called by dask when the run is over."""
        _jobs.pop(self._key, None)


def compose(key: str, scenes: Sequence[Scene], tile: Tile) -> Composed:
    """A tile's composite, for another worker to finish."""
    return compose_tile(_jobs[key].job(), scenes, tile)


def finish(key: str, composed: Composed) -> Finished:
    """Encode and label a composite."""
    return finish_tile(_jobs[key].job(), composed)


def whole(key: str, scenes: Sequence[Scene], tile: Tile) -> Finished:
    """All of a tile, so that its composite (250 MB) never travels."""
    return finish(key, compose(key, scenes, tile))


class _Ready:
    """A job on a worker; its encoder is made ready once, by the first of the worker's threads."""

    def __init__(self, job: Shared, address: str, name: object) -> None:
        self._shared, self._address, self._name = job, address, str(name)
        self._lock = threading.Lock()
        self._job: Job | None = None

    def job(self) -> Job:
        """Raises ClusterError where the worker has other versions."""
        with self._lock:
            if self._job is None:
                self._job = self._made()
            return self._job

    def _made(self) -> Job:
        s = self._shared
        if (found := _versions()) != s.versions:
            raise ClusterError(
                f"worker {self._address} has {_told(found)}, this is {_told(s.versions)}; install the same there"
            )
        if s.threads is not None:
            torch.set_num_threads(s.threads)
        engine = Engine(s.weights.encoder, self._device(), dtype=s.dtype)
        questions = tuple(replace(q, vectors=q.vectors.to(engine.device)) for q in s.questions)
        return Job(s.request, (), engine, s.device, s.dtype, questions, s.layers, s.weights, s.within, s.codec)

    def _device(self) -> str:
        """The CPU, the GPU that was asked for, or one of several by the worker's number."""
        if self._shared.device == "cpu" or ":" in self._shared.request.device:
            return "cpu" if self._shared.device == "cpu" else self._shared.request.device
        number = int(self._name) if self._name.isdigit() else 0
        return f"cuda:{number % max(1, torch.cuda.device_count())}"


_jobs: dict[str, _Ready] = {}
"""Jobs of this worker by key."""


def _versions() -> tuple[str, ...]:
    return tuple(version(name) for name in VERSIONED)


def _told(versions: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {found}" for name, found in zip(VERSIONED, versions, strict=True))
