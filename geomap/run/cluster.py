"""Makes tiles on dask.distributed: local workers, or those of an existing scheduler.

Each tile is its own graph: one task, or two if there are workers for encoding (dask resource GPU). What neighbouring
tiles share is a task of its own; dask gives their tasks to the worker that has its result, or sends it. Only slightly
more tasks are submitted than there are threads to run them, so neither scheduler nor workers hold more than that.
Finished tiles, a few MB each, come back to this process, which alone writes; the cluster keeps no state of a run.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import torch

from geomap import __version__, grid, process
from geomap.encode.engine import pick_device, pick_dtype
from geomap.errors import ClusterError, InputError, WorkerLostError
from geomap.run.prepare import Prepared
from geomap.run.progress import Tracker
from geomap.run.tile_file import Finished, Outcome, Task
from geomap.run.tiles import neighbours
from geomap.run.workers import GUARD, Resources

if TYPE_CHECKING:
    from distributed import Client, Future
    from distributed.security import Security

    from geomap.pipeline import Together

log = logging.getLogger(__name__)

CONNECT_S: Final = 30
"""Seconds that a scheduler has to answer."""

PATIENCE_S: Final = 120
"""Seconds that a run waits while there is no worker."""

POLL_S: Final = 5
"""Seconds between checks for workers."""

ASKED: Final = 10
"""Times that a scheduler is asked for its workers: the client's own periodic update, which asks for none of them
(distributed 2026.8), may take the place of the answer.
"""

GPU: Final = "GPU"
"""The dask resource of workers that encode: `dask worker ... --resources GPU=1`."""

LOCAL_CONFIG: Final = {
    "distributed.scheduler.allowed-failures": 1,  # workers that may die on a task before it counts as failed
    "distributed.admin.large-graph-warning-threshold": "1 GB",
    "distributed.scheduler.http.routes": [],  # its pages would need no certificate
    "distributed.worker.http.routes": [],
}
"""Dask configuration for local workers."""


@dataclass(frozen=True, slots=True)
class _Shared:
    """What neighbouring tiles share, being read by the workers."""

    at: tuple[int, ...]  # grid.pair of the tiles
    future: Future[Together | None]
    readers: frozenset[str]  # addresses of the workers that may read it; empty: any


@dataclass(frozen=True, slots=True)
class _Flight:
    """A tile that was submitted to the workers."""

    task: Task
    readers: frozenset[str] = frozenset()  # addresses of the workers that may read it and what it shares; empty: any
    gpu: bool = False  # it needs a worker with the resource GPU


class Cluster:
    """Dask workers as a context manager (workers.Workers); local workers start with the first tile."""

    device: torch.device
    dtype: torch.dtype

    def __init__(self, resources: Resources, device: str) -> None:
        self._resources, self._asked = resources, device
        self._exit = ExitStack()
        self._client: Client | None = None
        self._key = ""
        self._last_seen = time.monotonic()  # when a worker was last seen
        self._together: _Shared | None = None

    def __enter__(self) -> Self:
        """Raises ClusterError if the scheduler does not answer, InputError for a missing device or certificate."""
        if self._resources.scheduler:
            self._client = self._connect(self._resources.scheduler)
            gpu = self._asked.startswith("cuda") or (self._asked == "auto" and self._gpu_workers())
            self.device = torch.device("cuda" if gpu else "cpu")
            self.dtype = (
                torch.bfloat16 if gpu else pick_dtype(self.device)
            )  # the capabilities of remote GPUs are not known here
        else:
            self.device = pick_device(self._asked)
            self.dtype = pick_dtype(self.device)
        return self

    def __exit__(self, *error: Any) -> None:
        self._exit.close()

    def speed(self, prepared: Prepared, months: int) -> None:
        """Not known."""

    def work(self, prepared: Prepared, tasks: Sequence[Task], tracker: Tracker, alone: bool) -> Generator[Outcome]:
        """Make the tiles; yields outcomes as they finish. Raises ClusterError."""
        queue = deque(tasks)
        flying: dict[Future[Finished], _Flight] = {}
        near = {} if alone else neighbours(tasks)
        try:
            with _errors(self._name):
                client = self._ready(prepared)
            while queue or flying:
                with _errors(self._name):
                    room = 1 if alone else self._room(client)
                    while queue and len(flying) < room:
                        task = queue.popleft()
                        tracker.begin(task)
                        future, flight = self._submit(client, task, near.get(grid.pair(task.tile.grid), []))
                        flying[future] = flight
                    outcomes = [_outcome(flying.pop(done).task, done) for done in self._some(client, flying)]
                    queue += self._stranded(client, flying)
                while outcomes:
                    tracker.composed()
                    yield outcomes.pop()
        finally:
            with suppress(Exception):  # the cluster may be gone
                for future in flying:
                    future.cancel()
                self._together = None

    @property
    def _name(self) -> str:
        return self._resources.scheduler or "the workers of this machine"

    def _connect(self, address: str, security: Security | None = None) -> Client:
        """A client; `security` is that of this run's own workers. Raises ClusterError, InputError."""
        from distributed import Client
        from distributed.security import Security

        own = security or Security()  # as dask is configured
        if address.startswith("tls://") and own.get_connection_args("client").get("ssl_context") is None:
            raise InputError(
                f"dask has no certificate here for {address}; set distributed.comm.tls ca-file, client.cert and "
                "client.key, as docs/cluster.md shows"
            )
        with _errors(address):
            client: Client = Client(address, timeout=CONNECT_S, set_as_default=False, security=own)
            self._exit.enter_context(client)
        return client

    def _ready(self, prepared: Prepared) -> Client:
        """The client, after the prepared request has been sent to the workers."""
        from geomap.run import worker

        client = self._client = self._client or self._start()
        if not self._key:
            self._key = uuid.uuid4().hex
            cores = os.cpu_count() or 1
            threads = None if self._resources.scheduler else max(1, cores // self._resources.workers)
            plugin = worker.PreparedPlugin(self._key, prepared, threads)
            self._exit.callback(_forget, client, plugin.name)
            try:
                client.register_plugin(plugin)
            except OSError as e:  # also of distributed: the worker's end of the connection is gone
                raise ClusterError(
                    f"{self._name}: workers die before they have loaded the request ({type(e).__name__}), most likely "
                    "of too little memory; give each at least 2 GB, or fewer workers, and run the same command again"
                ) from e
            except Exception as e:  # any error from importing geomap on a worker
                raise ClusterError(
                    f"{self._name}: workers cannot load the request ({type(e).__name__}: {e}); install geomap "
                    f"{__version__} and its dependencies on scheduler and workers, and run the same command again"
                ) from e
        return client

    def _start(self) -> Client:
        """Start workers on this machine, reachable only by this user. Raises ClusterError."""
        import dask
        from distributed import LocalCluster
        from distributed.security import Security
        from distributed.system import MEMORY_LIMIT

        r = self._resources
        security = Security.temporary()  # a certificate for this run; its key stays in memory
        try:
            spill = self._exit.enter_context(tempfile.TemporaryDirectory(prefix="geomap-"))  # for this user alone
            # a new process of Python runs no re.py that lies in the folder of the command
            self._exit.enter_context(process.variable("PYTHONSAFEPATH", "1"))
            with dask.config.set(LOCAL_CONFIG):
                cluster = LocalCluster(
                    n_workers=r.workers,
                    threads_per_worker=r.threads,
                    processes=True,
                    host="tls://127.0.0.1",
                    security=security,
                    dashboard_address="127.0.0.1:0",  # port 8787 may be taken
                    scheduler_kwargs={"dashboard": False},
                    memory_limit=r.memory or MEMORY_LIMIT // r.workers,
                    local_directory=spill,
                    silence_logs=logging.CRITICAL,  # geomap reports failures itself
                )
            self._exit.enter_context(cluster)
        except (RuntimeError, OSError, TimeoutError) as e:
            raise ClusterError(
                f"{self._name} do not start ({_line(e)}); give fewer --workers or more memory, or leave --workers out; "
                f"a script of Python must call map_area under {GUARD}"
            ) from e
        return self._connect(cluster.scheduler_address, security)

    def _gpu_workers(self) -> list[str]:
        """Addresses of the workers that have the resource GPU."""
        assert self._client is not None
        workers: Mapping[str, Any] = {}
        for _ in range(ASKED):
            workers = self._client.scheduler_info()["workers"]
            if workers or not self._client.nthreads():
                break
        return [address for address, w in workers.items() if w["resources"].get(GPU)]

    def _room(self, client: Client) -> int:
        """Tiles submitted at once: one per thread, plus one per worker so that none is idle."""
        threads: dict[str, int] = client.nthreads()
        return max(1, sum(threads.values()) + len(threads))

    def _submit(self, client: Client, task: Task, near: Sequence[Task]) -> tuple[Future[Finished], _Flight]:
        """`near`: the tasks with which it shares what is read."""
        from geomap.run import worker

        name = f"{task.tile.name}-{self._key}-{time.monotonic_ns()}"  # every attempt is a new task
        gpus = self._gpu_workers() if self._resources.scheduler else []
        readers = [address for address in client.nthreads() if address not in gpus] if gpus else []
        only: Any = {"workers": readers or None, "pure": False}
        shared = None
        if len(near) > 1:
            found = self._shared(client, near, only)
            shared, readers = found.future, [address for address in readers if address in found.readers]
        if not gpus:
            made = client.submit(worker.make_task, self._key, task, shared, key=f"tile-{name}", pure=False)
            return made, _Flight(task)
        composed = client.submit(worker.compose_task, self._key, task, shared, key=f"composite-{name}", **only)
        done = client.submit(
            worker.finish_task, self._key, composed, key=f"tile-{name}", pure=False, resources={GPU: 1}
        )
        return done, _Flight(task, frozenset(readers), gpu=True)

    def _shared(self, client: Client, near: Sequence[Task], only: Mapping[str, Any]) -> _Shared:
        """What the tiles share, submitted with the first of them; anew when others come, or its readers are gone."""
        from geomap.run import worker

        at, readers, known = grid.pair(near[0].tile.grid), frozenset(only["workers"] or ()), self._together
        if known is None or known.at != at or not (known.readers & readers or known.readers == readers):
            name = f"shared-{near[0].tile.name}-{self._key}-{time.monotonic_ns()}"
            future = client.submit(worker.shared_task, self._key, near, key=name, **only)
            known = self._together = _Shared(at, future, readers)
        return known

    def _some(self, client: Client, flying: Mapping[Future[Finished], _Flight]) -> list[Future[Finished]]:
        """The futures that are done; none after a timeout. Raises ClusterError after too long without workers."""
        from distributed import wait

        done: set[Future[Finished]] = set()
        with suppress(TimeoutError), client.as_current():
            done = wait(list(flying), timeout=POLL_S, return_when="FIRST_COMPLETED").done
        now = time.monotonic()
        gpu = any(flight.gpu for flight in flying.values())
        if done or (self._gpu_workers() if gpu else client.nthreads()):
            self._last_seen = now
        elif now - self._last_seen > PATIENCE_S:
            kind = f"worker with the resource {GPU}" if gpu else "worker"
            raise ClusterError(
                f"{self._name}: no {kind} for {PATIENCE_S} s; start workers and run the same command again"
            )
        return sorted(done, key=lambda future: str(future.key))

    def _stranded(self, client: Client, flying: dict[Future[Finished], _Flight]) -> list[Task]:
        """Take back the tiles whose readers are all gone: restarted workers get new addresses."""
        alive = client.nthreads().keys()
        lost = [future for future, flight in flying.items() if flight.readers and not flight.readers & alive]
        for future in lost:
            future.cancel()
        return [flying.pop(future).task for future in lost]


def _outcome(task: Task, future: Future[Finished]) -> Outcome:
    """The outcome of a tile's task. Raises ClusterError if the tile is not to blame."""
    from distributed import KilledWorker

    error = future.exception()
    if error is None:
        return Outcome(task, future.result())
    if isinstance(error, RuntimeError) and "deserialization of the task graph" in str(error):  # dask's wording
        raise ClusterError(
            f"the scheduler cannot read geomap's tasks ({error.__cause__ or error}); install geomap "
            f"{__version__} and its dependencies where it runs, and run the same command again"
        )
    if isinstance(error, KilledWorker):
        error = WorkerLostError(
            "workers die on this tile, of too little memory or a crash in a library; look into their logs, or give "
            "them more memory"
        )
    return Outcome(task, None, error if isinstance(error, Exception) else WorkerLostError(repr(error)))


@contextmanager
def _errors(where: str) -> Iterator[None]:
    """Turn dask's exceptions for a lost or silent scheduler into ClusterError."""
    from distributed.client import FutureCancelledError
    from distributed.comm.core import CommClosedError

    try:
        yield
    except (OSError, CommClosedError, FutureCancelledError, TimeoutError) as e:
        raise ClusterError(f"{where} does not answer ({_line(e)}); run the same command again") from e


def _line(error: BaseException) -> str:
    """What an error says and what caused it, on one line."""
    return " ".join(f"{error} {error.__cause__ or ''}".split())[:200]


def _forget(client: Client, plugin: str) -> None:
    if client.status == "running":
        with suppress(Exception):  # the cluster may be gone
            client.unregister_worker_plugin(plugin)
