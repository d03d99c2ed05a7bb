"""Tiles on dask.distributed: workers of this machine, or an existing scheduler's.

Each tile is a graph of its own: one task, or two where there are workers for encoding (dask resource GPU). Tasks are
handed out a few more than there are threads to run them, so neither scheduler nor workers hold more than that. Finished
tiles, a few MB, come back to this process, which alone writes; nothing of a run lives on the cluster.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import torch

from geomap import __version__
from geomap.encode.engine import pick_device, pick_dtype
from geomap.errors import ClusterError, InputError, WorkerLostError
from geomap.run.prepare import Prepared
from geomap.run.progress import Tracker
from geomap.run.tile_file import Finished, Outcome, Task
from geomap.run.workers import Resources

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

CONNECT_S: Final = 10
"""Seconds in which a scheduler must answer."""

PATIENCE_S: Final = 120
"""Seconds that a run waits for a worker while there is none."""

POLL_S: Final = 5
"""Seconds between looks at whether there are workers."""

GPU: Final = "GPU"
"""The dask resource of workers that encode: `dask worker ... --resources GPU=1`."""

LOCAL_CONFIG: Final = {
    "distributed.scheduler.allowed-failures": 1,  # deaths of a worker that a task may see before it counts as failed
    "distributed.admin.large-graph-warning-threshold": "1 GB",
}
"""Dask's configuration of the workers started here."""


@dataclass(frozen=True, slots=True)
class _Flight:
    """A tile in the hands of the workers."""

    task: Task
    readers: frozenset[str] = frozenset()  # addresses of the workers that may read it; none: any
    gpu: bool = False  # it waits for a worker with that resource


class Cluster:
    """Workers as a context (workers.Workers); those of this machine are started when the first tile is to be made."""

    device: torch.device
    dtype: torch.dtype

    def __init__(self, resources: Resources, device: str) -> None:
        self._resources, self._asked = resources, device
        self._exit = ExitStack()
        self._client: Client | None = None
        self._key = ""
        self._last_seen = time.monotonic()  # a worker

    def __enter__(self) -> Self:
        """Raises ClusterError where the scheduler does not answer, InputError for a missing device or certificate."""
        if self._resources.scheduler:
            self._client = self._connect(self._resources.scheduler)
            gpu = self._asked.startswith("cuda") or (self._asked == "auto" and self._gpu_workers())
            self.device = torch.device("cuda" if gpu else "cpu")
            self.dtype = (
                torch.bfloat16 if gpu else pick_dtype(self.device)
            )  # what a GPU elsewhere has is not known here
        else:
            self.device = pick_device(self._asked)
            self.dtype = pick_dtype(self.device)
        return self

    def __exit__(self, *error: Any) -> None:
        self._exit.close()

    def speed(self, prepared: Prepared) -> None:
        """Not known."""

    def work(self, prepared: Prepared, tasks: Sequence[Task], tracker: Tracker, alone: bool) -> Generator[Outcome]:
        """Make the tiles, in the order in which they are done. Raises ClusterError."""
        queue = deque(tasks)
        flying: dict[Future[Finished], _Flight] = {}
        try:
            with _errors(self._name):
                client = self._ready(prepared)
            while queue or flying:
                with _errors(self._name):
                    room = 1 if alone else self._room(client)
                    while queue and len(flying) < room:
                        task = queue.popleft()
                        tracker.begin(task)
                        future, flight = self._submit(client, task)
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

    @property
    def _name(self) -> str:
        return self._resources.scheduler or "the workers of this machine"

    def _connect(self, address: str) -> Client:
        from distributed import Client
        from distributed.security import Security

        if address.startswith("tls://") and Security().get_connection_args("client").get("ssl_context") is None:
            raise InputError(
                f"dask has no certificate here for {address}; set distributed.comm.tls ca-file, client.cert and "
                "client.key, as docs/cluster.md shows"
            )
        with _errors(address):
            client: Client = self._exit.enter_context(Client(address, timeout=CONNECT_S, set_as_default=False))
        return client

    def _ready(self, prepared: Prepared) -> Client:
        """The client, once the job's shared values are on their way to the workers."""
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
            except Exception as e:  # whatever importing geomap raises there
                raise ClusterError(
                    f"{self._name}: cannot take up the work ({type(e).__name__}: {e}); install geomap "
                    f"{__version__} with all it needs for scheduler and workers, and run the same command again"
                ) from e
        return client

    def _start(self) -> Client:
        """Workers on this machine, reached by this machine alone."""
        import dask
        from distributed import LocalCluster
        from distributed.system import MEMORY_LIMIT

        r = self._resources
        with dask.config.set(LOCAL_CONFIG):
            cluster = LocalCluster(
                n_workers=r.workers,
                threads_per_worker=r.threads,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",  # of dask's own HTTP routes; port 8787 may be another's
                scheduler_kwargs={"dashboard": False},
                memory_limit=r.memory or MEMORY_LIMIT // r.workers,
                silence_logs=logging.CRITICAL,  # what fails is told by geomap
            )
        self._exit.enter_context(cluster)
        return self._connect(cluster.scheduler_address)

    def _gpu_workers(self) -> list[str]:
        """Addresses of the workers that have the resource GPU."""
        assert self._client is not None
        workers = self._client.scheduler_info()["workers"]
        return [address for address, w in workers.items() if w["resources"].get(GPU)]

    def _room(self, client: Client) -> int:
        """Tiles in hand at once: one for each thread, and one more for each worker so that none waits."""
        threads: dict[str, int] = client.nthreads()
        return max(1, sum(threads.values()) + len(threads))

    def _submit(self, client: Client, task: Task) -> tuple[Future[Finished], _Flight]:
        from geomap.run import worker

        name = f"{task.tile.name}-{self._key}-{time.monotonic_ns()}"  # another attempt is another task
        gpus = self._gpu_workers() if self._resources.scheduler else []
        if not gpus:
            return client.submit(worker.whole, self._key, task, key=f"tile-{name}", pure=False), _Flight(task)
        readers = [address for address in client.nthreads() if address not in gpus]
        composed = client.submit(
            worker.compose, self._key, task, key=f"composite-{name}", pure=False, workers=readers or None
        )
        done = client.submit(worker.finish, self._key, composed, key=f"tile-{name}", pure=False, resources={GPU: 1})
        return done, _Flight(task, frozenset(readers), gpu=True)

    def _some(self, client: Client, flying: Mapping[Future[Finished], _Flight]) -> list[Future[Finished]]:
        """Those that are done; after a while none. Raises ClusterError where workers have been missing for long."""
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
        """Take back the tiles whose readers are all gone: restarted workers have other addresses."""
        alive = client.nthreads().keys()
        lost = [future for future, flight in flying.items() if flight.readers and not flight.readers & alive]
        for future in lost:
            future.cancel()
        return [flying.pop(future).task for future in lost]


def _outcome(task: Task, future: Future[Finished]) -> Outcome:
    """What became of a tile's task. Raises ClusterError where it is not the tile's fault."""
    from distributed import KilledWorker

    error = future.exception()
    if error is None:
        return Outcome(task, future.result())
    if isinstance(error, RuntimeError) and "deserialization of the task graph" in str(error):  # dask's own words
        raise ClusterError(
            f"the scheduler cannot read geomap's tasks ({error.__cause__ or error}); install geomap "
            f"{__version__} with all it needs where it runs, and run the same command again"
        )
    if isinstance(error, KilledWorker):
        error = WorkerLostError(
            "workers die on this tile, of too little memory or a crash in a library; look into their logs, or give "
            "them more memory"
        )
    return Outcome(task, None, error if isinstance(error, Exception) else WorkerLostError(repr(error)))


@contextmanager
def _errors(where: str) -> Iterator[None]:
    """What dask raises where the scheduler does not answer or is gone, as ClusterError."""
    from distributed.client import FutureCancelledError
    from distributed.comm.core import CommClosedError

    try:
        yield
    except (OSError, CommClosedError, FutureCancelledError, TimeoutError) as e:
        raise ClusterError(
            f"{where} does not answer ({' '.join(str(e).split())[:200]}); run the same command again"
        ) from e


def _forget(client: Client, plugin: str) -> None:
    if client.status == "running":
        with suppress(Exception):  # the cluster may be gone
            client.unregister_worker_plugin(plugin)
