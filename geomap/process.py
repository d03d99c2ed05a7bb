"""Settings of a whole process: torch's threads, freed memory, compiled loops, a log's level, others' variables.

The command line and the workers of a cluster set them for good; the library puts back what it changes.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
"""Parameters of mallopt (glibc, malloc.h)."""

MAPPED_FROM: Final = 32 * 2**20
"""Bytes from which an array gets its own pages: the most that glibc's adaptation reaches on 64 bits."""

ARENAS: Final = 2
"""Heaps that threads share: each keeps what is freed, and by default every reading thread would have its own."""

SIGNAL_STEP: Final = 0.5
"""Seconds of a wait in one piece: measured, Ctrl-C ended 14 of 17 waits without an end, and 20 of 20 in pieces."""

_DATA: Final[Mapping[str, tuple[str, ...]]] = {
    "PROJ_DATA": ("rasterio/proj_data", "pyogrio/proj_data", "pyproj/proj_dir/share/proj"),
    "PROJ_LIB": ("rasterio/proj_data", "pyogrio/proj_data", "pyproj/proj_dir/share/proj"),
    "GDAL_DATA": ("rasterio/gdal_data", "pyogrio/gdal_data"),
    "GDAL_DRIVER_PATH": ("rasterio/gdal_data", "pyogrio/gdal_data"),
}
"""Variables that name data of PROJ and GDAL, and where the libraries' own data lie in their packages."""

_BENDS: Final = (
    "GTIFF_IGNORE_READ_ERRORS", "COMPRESS_OVERVIEW", "CPL_TMPDIR", "GDAL_TIFF_OVR_BLOCKSIZE",
    "GDAL_TIFF_DEFLATE_SUBCODEC", "GDAL_TIFF_ENDIANNESS", "GDAL_GEOREF_SOURCES", "OGR_SQLITE_JOURNAL",
    "OGR_SQLITE_PRAGMA", "CPL_VSIL_CURL_ALLOWED_EXTENSIONS", "CPL_VSIL_CURL_ALLOWED_FILENAME",
)  # fmt: skip
"""Variables of GDAL by which damaged blocks read as nodata, files get other bytes or lie where no space is left, and
files that are there are called missing."""

NOWHERE: Final = "/dev/null"
"""The home of a user who has none: no folder, so that nobody, root included, can fill caches in it."""


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Drop paths to other programs' data where the libraries bring their own, and options of GDAL that bend results.

    A user without a home gets one. QGIS, conda and PostGIS set PROJ_LIB or PROJ_DATA for themselves: their proj.db is
    often too old for the PROJ in rasterio, which then knows no coordinate system. Where the libraries bring no data,
    the variables stay.
    """
    for name, places in _DATA.items():
        if name in environment and all(map(_brought, places)):
            del environment[name]
    for name in _BENDS:
        if environment.pop(name, None) is not None:
            log.info("the variable %s is ignored", name)
    if not environment.get("HOME") and _user_is_unknown():
        environment["HOME"] = NOWHERE
    if not any(environment.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")) and _user_is_unknown():
        environment["USER"] = str(os.getuid())  # getpass, which torch asks for the name of its cache


def _brought(place: str) -> bool:
    package, _, inside = place.partition("/")
    spec = find_spec(package)
    return any((Path(home) / inside).is_dir() for home in (spec and spec.submodule_search_locations) or ())


def _user_is_unknown() -> bool:
    try:
        import pwd

        pwd.getpwuid(os.getuid())
    except (ImportError, KeyError):
        return True
    return False


def keep_freed() -> None:
    """Let glibc keep as much freed memory from the start as it would after adapting, in ARENAS heaps, for good.

    By default it adapts to the sizes that a process frees, but dask starts its workers with a fixed, low threshold
    (MALLOC_TRIM_THRESHOLD_): every array then comes in fresh pages, which the kernel fills with zeros one by one, and
    an encoder on a CPU takes 1.4 times as long. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MAPPED_FROM)
        mallopt(M_TRIM_THRESHOLD, 2 * MAPPED_FROM)
        mallopt(M_ARENA_MAX, ARENAS)


def compiled(function: Callable[..., None], **options: Any) -> Callable[..., None]:
    """`function`, which raises nothing, as numba compiles it at its first call, without the interpreter's lock.

    It is kept on disk if there is a writable folder (numba's NUMBA_CACHE_DIR). Where that is full or damaged, the
    function is compiled without it: numba's own errors would be taken for those of whoever called. `options` are those
    of numba.njit.
    """
    from numba import njit

    plain: Callable[..., None] = njit(nogil=True, **options)(function)
    try:
        made: Callable[..., None] = njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:  # no such folder
        return plain

    @wraps(function)
    def run(*arrays: Any) -> None:
        nonlocal made
        try:
            made(*arrays)
        except Exception as e:
            if made is plain:
                raise
            log.warning("the cache of compiled code is not used (%r); NUMBA_CACHE_DIR may name another folder", e)
            made = plain
            plain(*arrays)

    return run


def give_back() -> None:
    """Give freed memory back to the system: what was read in many small pieces leaves gaps that nothing else fills."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def set_threads(count: int) -> None:
    """Let torch use `count` threads of the CPU from now on; one in a process forked from one that had loaded it."""
    import torch

    torch.set_num_threads(1 if _forked else count)


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable inside, for libraries and processes that read it, and as it was afterwards."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads of the CPU inside, and as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    set_threads(count)
    try:
        yield
    finally:
        set_threads(before)


_pools_lock = threading.Lock()
_before: list[int] = []  # torch's threads before the first of the pools that are in use, once for each of these


@contextmanager
def side_by_side(workers: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads, in each of which torch uses one thread; jobs still queued at the end are dropped.

    The threads of a pool change what later threads start with. So callers at the same time put back what the first of
    them found: a thread of a caller that started meanwhile would find the 1 of the pools.
    """
    import torch

    with _pools_lock:
        before = _before[0] if _before else torch.get_num_threads()
        _before.append(before)
    pool = ThreadPoolExecutor(workers, name, set_threads, (1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        with _pools_lock:
            _before.pop()
            set_threads(before)


_forked = False  # from a process that had loaded torch


def _settle_fork() -> None:
    """Let torch use one thread in a forked process: its pool came without its threads, and work would wait for ever."""
    global _forked, _pools_lock
    _pools_lock = threading.Lock()  # another thread may have held it
    if "torch" in sys.modules:
        _forked = True
        set_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_settle_fork)


@contextmanager
def terminable() -> Iterator[None]:
    """What SIGTERM ends inside, as a cluster or a service sends it, ends as by Ctrl-C. Main thread only."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def result(job: Future[T]) -> T:
    """What a job gives, waited for in pieces, so that Ctrl-C ends the wait. Raises what the job raises."""
    while not wait([job], SIGNAL_STEP).done:
        pass
    return job.result()


class Overhearing(logging.Filter):
    """Reads a log, its debug messages too where wanted; others see the log at its own level as before.

    Any number of threads may read. The log's level is put back when the last one leaves.
    """

    def __init__(self, log: str, note: Callable[[logging.LogRecord], bool]) -> None:
        """`note` is called with every record, may change it, and returns whether others may see it."""
        super().__init__()
        self._log, self._note = logging.getLogger(log), note
        self._lock = threading.Lock()
        self._wanted: list[int] = []  # the level from which each of those inside reads
        self._own = self._shown = logging.NOTSET  # levels of the log: set on it, and in effect

    @contextmanager
    def at(self, level: int) -> Iterator[None]:
        """Read the records of a level and above inside."""
        with self._lock:
            if not self._wanted:
                self._own, self._shown = self._log.level, self._log.getEffectiveLevel()
                self._log.addFilter(self)
            self._wanted.append(level)
            self._set()
        try:
            yield
        finally:
            with self._lock:
                self._wanted.remove(level)
                self._set()
                if not self._wanted:
                    self._log.removeFilter(self)

    def _set(self) -> None:
        """Set the log's level to the lowest that is wanted."""
        lowest = min([self._shown, *self._wanted])
        level = self._own if lowest == self._shown else lowest
        if level != self._log.level:  # to set it empties the caches of all logs
            self._log.setLevel(level)

    def filter(self, record: logging.LogRecord) -> bool:
        return self._note(record) and record.levelno >= self._shown
