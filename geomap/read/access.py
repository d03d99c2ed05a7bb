"""How scene files are opened: GDAL options, drivers, reads in flight, and how many may be missed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from geomap.errors import DamagedError
from geomap.sentinel2 import MOST_BYTES
from geomap.sources import network, retry_after
from geomap.sources.hrefs import redact
from geomap.sources.providers import PROVIDERS
from geomap.types import Blocks, Scene

if TYPE_CHECKING:
    from geomap.read.header import Headers

DRIVERS: Final = {".tif": "GTiff", ".tiff": "GTiff", ".jp2": "JP2OpenJPEG"}
"""Suffix -> the only driver that may open the file. GDAL otherwise picks the format by content, and a VRT under a .tif
name would make it open whatever the VRT names."""

STALLED: Final = 30
"""Seconds after which an answer that brings hardly a byte is given up."""

DEADLINE: Final = 120.0
"""Seconds for which a file is retried while its server refuses or does not answer."""


def driver(href: str) -> str:
    """The GDAL driver for an address or path; GeoTIFF's if the suffix is unknown."""
    return DRIVERS.get(PurePosixPath(urlsplit(href).path).suffix.lower(), "GTiff")


NAMES_FILES: Final = {"OVERVIEWS": "OVERVIEW_FILE", "GEOLOCATION": "X_DATASET"}
"""Metadata of a file (domain -> key) that make GDAL open another file or address, with any driver."""


@contextmanager
def opened(path: str, href: str, overviews: bool = False) -> Iterator[Any]:
    """The dataset of a scene's file, inside a rasterio.Env of GDAL_OPTIONS. Every file of a scene is opened here.

    `path` is `href`, or the same file as GDAL asks a provider for it; `overviews` is whether these may be read, too.
    Raises DamagedError if the file's metadata name other files, which GDAL would open without asking which hosts are
    allowed, or if one of its blocks has more than MOST_BYTES. rasterio's errors are passed on.
    """
    import rasterio  # not at the top: the command line loads this module for its numbers

    if os.path.exists(path) and not os.path.isfile(path):  # a pipe, say, would be waited for
        raise DamagedError(f"{redact(href)} is no regular file; --exclude leaves its scene out", "damaged", "no file")
    small_reads = nullcontext() if driver(href) == "GTiff" else rasterio.Env(VSI_CACHE=True)  # for JPEG 2000
    with small_reads, rasterio.open(path, driver=driver(href), sharing=False) as dataset:
        for domain, key in NAMES_FILES.items():
            if key in dataset.tags(ns=domain):
                raise _refused(href, f"its metadata name another file, {key}")
        _check_blocks(dataset, href)
        for level in range(len(dataset.overviews(1)) if overviews else 0):
            with rasterio.open(path, driver=driver(href), sharing=False, overview_level=level) as smaller:
                _check_blocks(smaller, href)
        yield dataset


def _check_blocks(dataset: Any, href: str) -> None:
    """Raise DamagedError if GDAL would unpack too much at once: a file of 400 bytes can declare a block of 3 GB."""
    import numpy as np  # not at the top, as rasterio above

    for (height, width), dtype in zip(dataset.block_shapes, dataset.dtypes, strict=True):
        if height * width * np.dtype(dtype).itemsize > MOST_BYTES:
            raise _refused(href, f"its blocks of {width} x {height} pixels have over {MOST_BYTES >> 20} MB")


def _refused(href: str, what: str) -> DamagedError:
    return DamagedError(f"{redact(href)} is not opened ({what}); --exclude leaves its scene out", "damaged", what)


class Tally:
    """Counts what is fetched, by kind of file; safe for threads. Only files whose blocks are checked are counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, Blocks] = {}

    def add(self, kind: str, blocks: Blocks) -> None:
        with self._lock:
            self._found[kind] = self._found.get(kind, Blocks()) + blocks

    def found(self) -> dict[str, Blocks]:
        with self._lock:
            return dict(sorted(self._found.items()))


@dataclass(frozen=True)
class Access:
    """How the files of a tile are opened, and what happens if one cannot be read."""

    options: Mapping[str, str] = field(default_factory=dict)  # GDAL options besides GDAL_OPTIONS
    deadline: float = DEADLINE  # seconds
    faults: dict[str, DamagedError] | None = None  # by url, damaged files, read as nodata; None: they are raised
    stopped: threading.Event = field(default_factory=threading.Event)  # set when nobody waits for these reads any more
    tally: Tally = field(default_factory=Tally)
    kept: Headers | None = None  # what was found in files; None: each is opened whenever it is read


GDAL_OPTIONS: Final[dict[str, str | int]] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no requests for sidecar files
    "GDAL_HTTP_MAX_RETRY": 3,  # for a single request, after 0.1, 0.2 and 0.5 s; then reader.SceneReader retries
    "GDAL_HTTP_RETRY_DELAY": "0.1",
    "GDAL_HTTP_TIMEOUT": 600,  # s for one request, however it goes on: a slow file is not damaged
    "GDAL_HTTP_CONNECTTIMEOUT": 10,  # s
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,  # bytes/s ...
    "GDAL_HTTP_LOW_SPEED_TIME": STALLED,  # ... for so long: give up and retry
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,  # a COG's header in one request
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl:/vsis3",  # or any answer, even a refusal, is kept until the process ends
    "VSI_CACHE": "FALSE",  # it would fetch a block in two requests
    "VSI_CACHE_SIZE": 5_000_000,  # bytes per file, of JPEG 2000
    "GTIFF_IGNORE_READ_ERRORS": "NO",  # or blocks of a cut file would read as nodata
    "GDAL_CACHEMAX": 2**20,  # bytes, as rasterio passes it on: each block is decoded once, so none need be kept
    "GDAL_NUM_THREADS": 1,  # dask runs in parallel; with more, truncated JPEG 2000 files read as zeros without an error
    **retry_after.HEADER_OPTIONS,
}
"""GDAL configuration of every read (GDAL configuration options, "Networking options")."""

REMOTE_THREADS = 16
"""Reads in flight over a network, where most of the time is spent waiting, not decoding."""


def gdal_options(scenes: Sequence[Scene]) -> dict[str, str]:
    """GDAL options for the scenes: certificate authorities, and those of providers on whose own storage they are.

    Raises NetworkError if no authorities are where a variable says.
    """
    secure = any(a.href.startswith(("https:", "s3:")) for scene in scenes for a in scene.assets.values())
    options = network.gdal_authorities() if secure else {}
    for scene in scenes:
        provider = PROVIDERS[scene.provider]
        if any(provider.owns(asset.href) for asset in scene.assets.values()):
            options |= provider.gdal_options
    return options


def all_local(scenes: Sequence[Scene]) -> bool:
    """Whether all files are local."""
    return all(asset.href.startswith("/") for scene in scenes for asset in scene.assets.values())


MOST_FUSED: Final = 8
"""Most threads of which each may hold the scenes of a month of a band: 64 MB each (stack.MONTH_BYTES)."""


def at_hand(scenes: Sequence[Scene]) -> bool:
    """Whether reads do not wait, and few threads read: then one may read all scenes of a month of a band."""
    return all_local(scenes) and threads(scenes) <= MOST_FUSED


def threads(scenes: Sequence[Scene]) -> int:
    """Reads in flight: the number of cores for local files, more over a network, at most a provider's limit."""
    if all_local(scenes):
        return os.cpu_count() or 1
    limits = [PROVIDERS[scene.provider].max_connections for scene in scenes]
    return min([REMOTE_THREADS, *(limit for limit in limits if limit is not None)])
