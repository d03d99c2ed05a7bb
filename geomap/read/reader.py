"""Reads one file of a scene over a tile's grid: a copy if the grids agree, else nearest pixels.

Bands and SCL of a neighbouring UTM zone are resampled by nearest neighbour: the value of the source pixel in which the
centre of the target pixel lies, found exactly for each pixel. Kernels that mix pixels would mix in clouds, since SCL
is applied pixel by pixel after reading. Errors name the file.
"""

from __future__ import annotations

import functools
import logging
import math
import random
import re
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import quote, urlsplit

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio import windows
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioIOError
from rasterio.windows import Window
from shapely.errors import ShapelyError
from shapely.geometry import box
from stackstac.raster_spec import RasterSpec
from stackstac.rio_env import LayeredEnv

from geomap.errors import DamagedError, GeomapError, ReadError, SourceUnavailableError
from geomap.grid import outline
from geomap.lonlat import Box, agree
from geomap.read import blocks
from geomap.read.access import STALLED, Access, opened
from geomap.read.blocks import Layout
from geomap.read.header import Header, Place
from geomap.sentinel2 import MOST_BYTES, SCL_CLASSES
from geomap.sources import leases, network, retry_after
from geomap.sources.hrefs import redact, redacted
from geomap.sources.providers import SIGN_AGAIN

log = logging.getLogger(__name__)

DTYPES: Final = {"uint16": ("uint16",), "uint8": ("uint8", "uint16")}
"""Data types that a file may have where DNs (uint16) or scene classes (uint8) are read."""

LONGEST_PAUSE: Final = 15.0
"""Most seconds between two tries; the first pause is a second, and each next one is twice as long."""

LOOKS: Final = 2
"""Tries of a remote file that arrives damaged: perhaps only its bytes were spoiled on the way, or it was replaced."""


@dataclass(frozen=True, slots=True)
class Said:
    """What an item says of the place of a file."""

    epsg: int
    bbox: tuple[float, float, float, float]  # degrees
    transform: tuple[float, ...] | None = None
    shape: tuple[int, int] | None = None


@dataclass(frozen=True)
class SceneReader:
    """stackstac's reader protocol (stackstac.reader_protocol.Reader): one file over the grid `spec`."""

    url: str
    spec: RasterSpec
    resampling: Resampling  # part of the protocol; nearest
    dtype: np.dtype[Any]
    fill_value: int  # 0
    scale_offset: tuple[float, float]  # (1, 0): offsets are applied in the composite
    gdal_env: LayeredEnv
    errors_as_nodata: tuple[Exception, ...] = ()  # part of the protocol; none
    needed: Mapping[str, Window] = field(default_factory=dict)  # by url: the part of the grid that is needed
    access: Access = field(default_factory=Access)
    said: Mapping[str, Said] = field(default_factory=dict)  # by url; a file that is elsewhere is not read

    def read(self, window: Window, **kwargs: Any) -> NDArray[Any]:
        """(y, x) values of a window of the grid, 0 outside the file and outside the part that is needed.

        If the server refuses, the read is retried until the deadline; if access is denied, the address is signed again
        once; a remote file that arrives damaged is read twice. `access.faults`, if given, records damaged files.

        Raises:
            DamagedError: missing, truncated or corrupt, not a GeoTIFF or JPEG 2000 file, not DNs of one band, or not
                where its item says.
            ReadError: access denied.
            SourceUnavailableError: the server refuses or does not answer until the deadline.
        """
        part = _common(window, self.needed.get(self.url, window))
        if part is None:
            return np.zeros((window.height, window.width), self.dtype)
        try:
            with leases.lease(self.url):
                return self._patiently(window, part)
        except DamagedError as e:
            if self.access.faults is None:
                raise
            self.access.faults.setdefault(self.url, e)
            return np.zeros((window.height, window.width), self.dtype)

    def _patiently(self, window: Window, part: Window) -> NDArray[Any]:
        """`_once`, with retries where they may help."""
        deadline = time.monotonic() + self.access.deadline
        path, pause = self.url, 1.0
        kept = self.access.kept is not None and self.access.kept.get(path) is not None
        looks = LOOKS if kept or urlsplit(self.url).scheme else 1
        while True:
            try:
                return self._once(path, window, part, deadline)
            except SourceUnavailableError as e:
                left = deadline - time.monotonic()
                log.info("%s", e)
                wait = min(left, pause * random.uniform(0.75, 1))  # so that threads do not retry all at once
                if left <= 0 or self.access.stopped.wait(wait):
                    raise SourceUnavailableError(f"{e} (tried for {self.access.deadline:g} s)") from None
                pause = min(2 * pause, LONGEST_PAUSE)
            except _DeniedError:
                if path != self.url or "VSICURL_PC_URL_SIGNING" not in self.access.options:
                    raise
                path = SIGN_AGAIN + quote(self.url, safe="")
            except DamagedError as e:
                looks -= 1
                if not looks or e.cause == "contradiction":
                    raise

    def _once(self, path: str, window: Window, part: Window, deadline: float) -> NDArray[Any]:
        """Open `path` and read. Raises as `read`."""
        values, kept = np.zeros((window.height, window.width), self.dtype), self.access.kept
        known = None if kept is None else kept.get(path)
        found: Header | None = None
        with retry_after.watched(self.url, deadline, self.access.stopped) as heard:
            try:
                with self.gdal_env.open, nullcontext() if known else opened(path, self.url) as dataset:
                    if heard.cut:
                        raise _cut(self.url, heard.cut)
                    place = known.place if known else self._place(dataset)
                    layout = self._fill(values, known.layout if known else dataset, place, window, part)
                    if self.dtype == np.uint8 and values.max(initial=0) > max(SCL_CLASSES):
                        raise self._contradicts(f"holds {values.max()}, which is no scene class")
                if heard.broken:
                    raise RasterioIOError(heard.broken)
                found = Header(place, layout) if layout is not None and layout.kept else known
            except MemoryError:
                raise
            except Exception as e:  # rasterio passes on errors of GDAL that share no other base
                raise self._error(e, heard) from None
            finally:
                if kept is None or found is None:
                    (kept.drop if kept else blocks.forget)(path)
                else:
                    kept.put(path, found)
        return values

    def close(self) -> None:
        """Nothing stays open between reads."""

    def _place(self, dataset: Any) -> Place:
        """Where the file's pixels lie: as it says itself, or as its item says if it does not. Raises DamagedError."""
        if dataset.count != 1:
            raise self._contradicts(f"holds {dataset.count} bands; every asset must be one band")
        if (found := dataset.dtypes[0]) not in DTYPES[self.dtype.name]:  # floats, say, would be cut to 0 and 1
            raise self._contradicts(f"holds {found}, not the {self.dtype} DNs of Sentinel-2 L2A")
        said, transform = self.said.get(self.url), dataset.transform
        if not (all(map(math.isfinite, transform[:6])) and transform.determinant):
            raise self._contradicts(f"has the transform {[*transform[:6]]}, which is no place")
        if dataset.crs is None:
            if said is None:
                raise self._contradicts("does not say its coordinate system")
            if transform == Affine.identity() and said.transform is not None:
                transform = Affine(*said.transform)
            place = Place(said.epsg, transform, dataset.shape)
        else:
            place = Place(dataset.crs.to_epsg() or dataset.crs.to_wkt(), transform, dataset.shape)
        if said is not None and (odd := _elsewhere(place, said)) is not None:
            raise self._contradicts(odd)
        return place

    def _error(self, e: Exception, heard: retry_after.Answers) -> GeomapError:
        """What a failed read means, by its server's answers: a file whose transfer broke off is not damaged."""
        if isinstance(e, GeomapError):
            error = e
        elif heard.status and time.monotonic() - heard.since >= STALLED - 1:
            error = _stalled(self.url)
        else:
            error = read_error(e, self.url, heard.status)
        if (broken := heard.broken or heard.silent) and isinstance(error, DamagedError):
            return read_error(RasterioIOError(broken), self.url)
        return error

    def _contradicts(self, what: str) -> DamagedError:
        text = f"{redact(self.url)} {what}; --exclude leaves its scene out"
        return DamagedError(text, "contradiction", f"the file {what}")

    def _fill(self, values: NDArray[Any], file: Any, place: Place, window: Window, part: Window) -> Layout | None:
        """Write `part` of the grid into `values`, which cover `window`.

        `file` is an open dataset, or the layout that an earlier read found.
        """
        shift = self._shift(place)
        if shift is None:
            return self._nearest(values, file, place, window, part)
        rows, cols = shift
        moved = Window(part.col_off + cols, part.row_off + rows, part.width, part.height)
        there = _common(moved, Window(0, 0, place.shape[1], place.shape[0]))
        if there is None:
            return None
        back = Window(there.col_off - cols, there.row_off - rows, there.width, there.height)
        return self._copy(file, there, values[_within(window, back)])

    def _nearest(self, values: NDArray[Any], file: Any, place: Place, window: Window, part: Window) -> Layout | None:
        """`_fill` from another grid: each target pixel gets the source pixel in which its centre lies."""
        with _locating:  # 100 MB and half a second, and all threads ask for the same at once
            located = _source_pixels(
                self.spec.epsg, self.spec.transform, window, place.crs, place.transform, place.shape
            )
        rows, cols, found = (v[_within(window, part)] for v in located)
        if not found.any():
            return None
        top, left = int(rows.min()), int(cols.min())
        width, height = int(cols.max()) - left + 1, int(rows.max()) - top + 1
        if height * width * self.dtype.itemsize > MOST_BYTES:
            raise self._contradicts(f"has {width} x {height} pixels where the grid has {part.width} x {part.height}")
        source = np.empty((height, width), self.dtype)
        layout = self._copy(file, Window(left, top, width, height), source)
        with blocks.working:
            values[_within(window, part)] = source.ravel()[(rows - top) * width + (cols - left)] * found
        return layout

    def _copy(self, file: Any, window: Window, out: NDArray[Any]) -> Layout | None:
        """Read a window into `out`; pixels that the file masks become 0, whatever its nodata value."""
        layout = file if isinstance(file, Layout) else blocks.layout(file, window) if blocks.checkable(file) else None
        if layout is not None:
            self.access.tally.add(kind_of(self.dtype, self.spec.transform.a), blocks.read(layout, window, out, file))
            return layout
        if file.nodata == 0 or MaskFlags.all_valid in file.mask_flag_enums[0]:
            file.read(1, window=window, out=out)
        else:
            blocks.read_masked(file, window, out)
        return None

    def _shift(self, place: Place) -> tuple[int, int] | None:
        """(rows, columns) from the grid's corner to the same pixel in the file; None where the grids differ."""
        grid, file = self.spec.transform, place.transform
        cols, rows = (grid.c - file.c) / grid.a, (grid.f - file.f) / grid.e
        same = file[:2] == grid[:2] and file[3:5] == grid[3:5] and cols == int(cols) and rows == int(rows)
        return (int(rows), int(cols)) if same and place.crs == self.spec.epsg else None


def kind_of(dtype: np.dtype[Any] | type, resolution: float) -> str:
    """How `access.Tally` calls the files of a data type and a pixel size in metres: "uint16 10", "uint8 20"."""
    return f"{np.dtype(dtype).name} {resolution:g}"


@functools.lru_cache(maxsize=4096)
def _elsewhere(place: Place, said: Said) -> str | None:
    """How a file's place differs from what its item says, or None."""
    if isinstance(place.crs, int) and place.crs != said.epsg:
        return f"lies in EPSG:{place.crs}, but its item says EPSG:{said.epsg}"
    if said.transform is not None and isinstance(place.crs, int):
        stated = Place(said.epsg, Affine(*said.transform), said.shape or place.shape)
        apart = np.abs(np.subtract(place.corners, stated.corners)).max()
        if apart <= abs(place.transform.a) / 2:
            return None
        return f"covers {_shown(place)}, but its item says {_shown(stated)} (metres of EPSG:{said.epsg})"
    try:
        same = agree(outline(place.crs, place.bounds), box(*Box(*said.bbox).bounds))
    except (ValueError, ProjError, ShapelyError):
        same = False
    return None if same else f"covers {_shown(place)} of its coordinate system, away from its item's bbox"


def _shown(place: Place) -> str:
    (west, north), _, (east, south), _ = place.corners
    return f"{west:.0f}, {north:.0f} to {east:.0f}, {south:.0f}"


_locating: Final = threading.Lock()


@functools.lru_cache(maxsize=8)  # 9 MB for 1024 x 1024 pixels; granules of one place share a transform and a shape
def _source_pixels(
    epsg: int, transform: Affine, window: Window, crs: int | str, source: Affine, shape: tuple[int, int]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    """File rows and columns of the pixel centres of a grid's window, the nearest if outside; and whether inside."""
    east = transform.c + transform.a * (window.col_off + np.arange(window.width) + 0.5)
    north = transform.f + transform.e * (window.row_off + np.arange(window.height) + 0.5)
    x, y = Transformer.from_crs(epsg, crs, always_xy=True).transform(*np.meshgrid(east, north))
    to_pixel = ~source
    col = np.floor(to_pixel.a * x + to_pixel.b * y + to_pixel.c)
    row = np.floor(to_pixel.d * x + to_pixel.e * y + to_pixel.f)
    inside = (row >= 0) & (row < shape[0]) & (col >= 0) & (col < shape[1])
    return np.clip(row, 0, shape[0] - 1).astype(np.int32), np.clip(col, 0, shape[1] - 1).astype(np.int32), inside


def _common(one: Window, other: Window) -> Window | None:
    """The pixels that lie in both windows."""
    return windows.intersection(one, other) if windows.intersect(one, other) else None


def _within(outer: Window, inner: Window) -> tuple[slice, slice]:
    """The slices for `inner` in an array that covers `outer`."""
    top, left = inner.row_off - outer.row_off, inner.col_off - outer.col_off
    return slice(top, top + inner.height), slice(left, left + inner.width)


class _DeniedError(ReadError):
    """A server requires other credentials."""


_TRANSIENT = re.compile(
    r"timed? ?out|CURL error|Could not resolve|Could ?n[o']t connect|Connection (?:refused|reset)|Failed to connect"
    r"|Empty reply|Operation too slow|transfer broke off",
    re.IGNORECASE,
)
_OURS = re.compile(r"out of memory|cannot allocate|too many open files|no space left|permission denied", re.IGNORECASE)
"""Errors of this machine, not of the file."""
_GONE = re.compile(r"no such file|does not exist", re.IGNORECASE)
_HTTP_CODE = re.compile(r"HTTP (?:response|error) code ?: (\d{3})")
_DENIED = frozenset({401, 403, 409})  # 409: Azure, public access is not permitted
_SIGNED = re.compile(r"(?:^|[&_-])(?:sig|signature|token|credential)=", re.IGNORECASE)
"""In the query of an address that somebody signed (Azure, S3, Google)."""
_MISSING = frozenset({404, 410})


def read_error(error: BaseException, href: str, status: int = 0) -> GeomapError:
    """The geomap error for a failed read: temporary if the server refuses or does not answer.

    Args:
        error: of GDAL, as rasterio raises it.
        href: what was read.
        status: of the last HTTP response; 0 where it is not known.
    """
    causes = _chain(error)
    if status < 400 and (told := _HTTP_CODE.search(causes)):
        status = int(told[1])
    name = redact(href)
    if lasting := network.lasting(causes, href):
        return lasting
    what = f"HTTP {status}" if status >= 400 else _last_line(_without_address(causes, href))
    if status in retry_after.TEMPORARY or (status < 400 and _TRANSIENT.search(causes)):
        proxy = network.of_proxy(causes, href)
        at_last = ", or --exclude its scene if that stays so" if "broke off" in causes else ""
        return SourceUnavailableError(
            f"{name} cannot be read now{proxy} ({what}); run the same command again later{at_last}"
        )
    if status in _DENIED and _SIGNED.search(urlsplit(href).query):
        return _DeniedError(
            f"{name} may not be read ({what}); its address holds a signature or a token, which may have expired: sign "
            "the items anew and run the same command again"
        )
    if status in _DENIED:
        return _DeniedError(
            f"{name} may not be read ({what}); the server wants credentials, or the token has expired: "
            "set them in the environment (cdse: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and run again"
        )
    if _OURS.search(causes):
        return ReadError(f"{name} cannot be read on this machine ({what}); see to that and run again")
    gone = status in _MISSING or bool(_GONE.search(causes))
    return DamagedError(
        f"{name} cannot be read ({what}); the file is {'missing' if gone else 'damaged'}: try again later, or "
        "--exclude its scene",
        "missing" if gone else "damaged",
        what,
    )


def _cut(href: str, warning: str) -> DamagedError:
    """The error for a file of whose header GDAL read only a part."""
    what = _last_line(_without_address(warning, href))
    return DamagedError(
        f"{redact(href)} cannot be read ({what}); its header is cut off: try again later, or --exclude its scene",
        "damaged",
        what,
    )


def _stalled(href: str) -> SourceUnavailableError:
    return SourceUnavailableError(
        f"{redact(href)} cannot be read now (its server sends too slowly); run the same command again later"
    )


def _without_address(text: str, href: str) -> str:
    """`text` with a file's name in place of its address, which may hold a secret or a local path."""
    return text.replace(href, PurePosixPath(urlsplit(redact(href)).path).name)


def _chain(error: BaseException | None) -> str:
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return redacted(lines[-1])[:200] if lines else "unknown cause"
