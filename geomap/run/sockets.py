"""Dask's scheduler and local workers on Unix sockets that only this user reaches: no port is open.

Dask runs any code that reaches its scheduler, and every user of a machine reaches its ports on 127.0.0.1. The kernel
lets nobody but the owner (and root) into a folder of mode 0700, so nobody else reaches a socket in it. An address is
`unix://<folder>:<number>`; importing this module teaches dask such addresses, in this process and in each worker.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from distributed import Nanny, Scheduler, Worker
from distributed.comm.addressing import parse_host_port, unparse_host_port
from distributed.comm.core import Comm, CommClosedError
from distributed.comm.registry import backends
from distributed.comm.tcp import (
    MAX_BUFFER_SIZE,
    TCP,
    BaseTCPBackend,
    BaseTCPConnector,
    BaseTCPListener,
)
from distributed.http.routing import RoutingApplication
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, StreamClosedError
from tornado.netutil import bind_unix_socket
from tornado.tcpserver import TCPServer

from geomap import files

PROTOCOL: Final = "unix"
LONGEST: Final = 80
"""Most bytes of a folder's path: systems allow about 104 for that of a socket."""
BACKLOG: Final = 2048
"""Connections that may wait to be accepted, as dask's own listeners have it."""


@contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder that only this user can enter; it is removed at the end. Raises OutputError, DiskFullError."""
    usual = tempfile.gettempdir()
    place = usual if len(usual) <= LONGEST - 20 and ":" not in usual else "/tmp"
    with files.disk_errors(Path(place)):
        folder = Path(tempfile.mkdtemp(prefix="geomap-", dir=place))  # mode 0700
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Comm(TCP):
    """A connection over a Unix socket."""

    def __init__(self, stream: IOStream, local: str, peer: str, deserialize: bool = True) -> None:
        """As dask's for TCP, without the timeouts that only TCP has: the kernel tells at once that an end is gone."""
        self._closed = False
        Comm.__init__(self, deserialize=deserialize)
        self._local_addr, self._peer_addr, self.stream, self._extra = local, peer, stream, {}
        self._finalizer = weakref.finalize(self, self._get_finalizer())  # type: ignore[no-untyped-call]
        self._finalizer.atexit = False
        stream.set_close_callback(partial(_closed, weakref.ref(self)))


class _Connector(BaseTCPConnector):
    prefix = f"{PROTOCOL}://"
    comm_class = _Comm
    encrypted = False

    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> _Comm:
        stream = IOStream(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), max_buffer_size=int(MAX_BUFFER_SIZE))
        try:
            await stream.connect(str(_socket(address)))
        except (OSError, StreamClosedError) as e:
            stream.close()
            raise CommClosedError(f"nobody listens at {self.prefix}{address}: {e}") from e
        return _Comm(stream, self.prefix, self.prefix + address, deserialize)


class _Listener(BaseTCPListener):
    prefix = f"{PROTOCOL}://"
    comm_class = _Comm
    encrypted = False

    def _get_server_args(self, **connection_args: Any) -> dict[str, Any]:
        return {}

    async def _prepare_stream(self, stream: IOStream, address: str) -> IOStream:
        return stream

    async def start(self) -> None:
        self.port = self.port or secrets.randbelow(10**9) + 1
        self.bound_address = (self.ip, self.port)
        self.tcp_server = TCPServer(max_buffer_size=int(MAX_BUFFER_SIZE))
        self.tcp_server.handle_stream = self._handle_stream  # type: ignore[method-assign]
        self.tcp_server.add_socket(bind_unix_socket(str(_socket(self.listen_address)), mode=0o600, backlog=BACKLOG))

    async def _handle_stream(self, stream: IOStream, address: Any) -> None:
        """As dask's for TCP; the other end of a Unix socket has no address."""
        if self.tcp_server is None:
            stream.close()
            return
        comm = _Comm(stream, self.listen_address, self.prefix, self.deserialize)
        comm.allow_offload = self.allow_offload
        try:
            await self.on_connection(comm)
        except CommClosedError:
            return
        await self.comm_handler(comm)


class _Backend(BaseTCPBackend):
    _connector_class = _Connector
    _listener_class = _Listener

    def get_address_host(self, loc: str) -> str:
        return loc.rpartition(":")[0] or loc

    def resolve_address(self, loc: str) -> str:
        return loc

    def get_local_address_for(self, loc: str) -> str:
        return unparse_host_port(self.get_address_host(loc), 0)


class _Silent:
    """A dask server without its HTTP pages: they would open a port."""

    services: dict[str, Any]

    def start_http_server(self, routes: Any, *args: Any, **kwargs: Any) -> None:
        self.http_application = RoutingApplication(routes)
        self.http_server = HTTPServer(self.http_application)  # listens nowhere


class LocalScheduler(_Silent, Scheduler):
    """A scheduler that only its sockets reach."""


class LocalWorker(_Silent, Worker):
    """A worker that only its sockets reach. Its process knows the addresses once it has imported this module."""


class LocalNanny(Nanny):
    """Starts a LocalWorker in a process of its own, and again if it dies."""


def specification(folder: Path, workers: int, threads: int, memory: int | str, quiet: int) -> dict[str, Any]:
    """The arguments of distributed.SpecCluster for a scheduler and workers on sockets in `folder`."""
    common = {"host": str(folder), "protocol": f"{PROTOCOL}://"}
    worker = {
        "cls": LocalNanny,
        "options": {
            **common,
            "worker_class": LocalWorker,
            "nthreads": threads,
            "memory_limit": memory,
            "local_directory": str(folder),  # not below a folder in /tmp that another user may have made
            "silence_logs": quiet,
        },
    }
    scheduler = {"cls": LocalScheduler, "options": {**common, "port": 0, "dashboard": False}}
    return {
        "scheduler": scheduler,
        "workers": dict.fromkeys(range(workers), worker),
        "worker": worker,
        "silence_logs": quiet,
    }


def _closed(reference: weakref.ref[_Comm]) -> None:
    if comm := reference():
        comm._closed = True


def _socket(address: str) -> Path:
    folder, number = parse_host_port(address)
    return Path(folder) / str(number)


backends[PROTOCOL] = _Backend()
