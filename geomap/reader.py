"""One file of a scene over a tile's grid: copied where the grids agree, else the nearest pixel; errors that name it.

Bands and SCL of a neighbouring UTM zone are brought over by nearest neighbour: the value of the source pixel in which
the centre of the target pixel lies, found exactly for each pixel. Kernels that mix pixels would mix in clouds: what is
clear is told by SCL, pixel by pixel, after the reading.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio import windows
from rasterio.enums import MaskFlags, Resampling
from rasterio.windows import Window
from stackstac.raster_spec import RasterSpec
from stackstac.rio_env import LayeredEnv

from geomap.errors import GeomapError, HrefError, ReadError, SourceUnavailableError
from geomap.hrefs import redact

DRIVERS: Final = ("GTiff", "JP2OpenJPEG")
"""The only formats opened: a VRT under a .tif name could point anywhere."""

DTYPES: Final = {"uint16": ("uint16",), "uint8": ("uint8", "uint16")}
"""What a file may hold where DNs (uint16) or scene classes (uint8) are read."""


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
    needed: Mapping[str, Window] = field(default_factory=dict)  # by url: the part of the grid that is of use

    def read(self, window: Window, **kwargs: Any) -> NDArray[Any]:
        """(y, x) values of a window of the grid, 0 outside the file and outside the part that is of use.

        Raises:
            HrefError: not a GeoTIFF or JPEG 2000 file.
            ReadError: missing, damaged, refused, or not DNs of one band.
            SourceUnavailableError: the server does not answer.
        """
        values = np.zeros((window.height, window.width), self.dtype)
        part = _common(window, self.needed.get(self.url, window))
        if part is None:
            return values
        try:
            with self.gdal_env.open, rasterio.open(self.url, sharing=False) as dataset:
                self._check(dataset)
                self._fill(values, dataset, window, part)
        except (GeomapError, MemoryError):
            raise
        except Exception as e:  # rasterio lets errors of GDAL through that share no other base
            raise explain(e, self.url) from None
        return values

    def close(self) -> None:
        """Nothing stays open between reads."""

    def _check(self, dataset: Any) -> None:
        if dataset.driver not in DRIVERS:
            raise HrefError(f"{redact(self.url)} is a {dataset.driver} file; only GeoTIFF and JPEG 2000 are read")
        if dataset.count != 1:
            raise ReadError(f"{redact(self.url)} holds {dataset.count} bands; every asset must be one band")
        if dataset.crs is None:
            raise ReadError(f"{redact(self.url)} does not say its coordinate system")
        if (found := dataset.dtypes[0]) not in DTYPES[self.dtype.name]:  # floats, say, would be cut to 0 and 1
            raise ReadError(f"{redact(self.url)} holds {found}, not the {self.dtype} DNs of Sentinel-2 L2A")

    def _fill(self, values: NDArray[Any], dataset: Any, window: Window, part: Window) -> None:
        """Write `part` of the grid into `values`, which cover `window`."""
        shift = self._shift(dataset)
        if shift is None:
            return self._nearest(values, dataset, window, part)
        rows, cols = shift
        moved = Window(part.col_off + cols, part.row_off + rows, part.width, part.height)
        there = _common(moved, Window(0, 0, dataset.width, dataset.height))
        if there is not None:
            back = Window(there.col_off - cols, there.row_off - rows, there.width, there.height)
            _copy(dataset, there, values[_within(window, back)])

    def _nearest(self, values: NDArray[Any], dataset: Any, window: Window, part: Window) -> None:
        """`_fill` from another grid: of each target pixel's centre, the source pixel in which it lies."""
        grid, crs = (self.spec.epsg, self.spec.transform, window), dataset.crs.to_wkt()
        located = _source_pixels(*grid, crs, dataset.transform, dataset.shape)
        rows, cols, found = (v[_within(window, part)] for v in located)
        if found.any():
            top, left = int(rows.min()), int(cols.min())
            width, height = int(cols.max()) - left + 1, int(rows.max()) - top + 1
            source = np.empty((height, width), self.dtype)
            _copy(dataset, Window(left, top, width, height), source)
            values[_within(window, part)] = source.ravel()[(rows - top) * width + (cols - left)] * found

    def _shift(self, dataset: Any) -> tuple[int, int] | None:
        """(rows, columns) from the grid's corner to the same pixel in the file; None where the grids differ."""
        grid, file = self.spec.transform, dataset.transform
        cols, rows = (grid.c - file.c) / grid.a, (grid.f - file.f) / grid.e
        same = file[:2] == grid[:2] and file[3:5] == grid[3:5] and cols == int(cols) and rows == int(rows)
        return (int(rows), int(cols)) if same and dataset.crs.to_epsg() == self.spec.epsg else None


@functools.lru_cache(maxsize=8)  # 9 MB for 1024 x 1024 pixels; granules of one place share a transform and a shape
def _source_pixels(
    epsg: int, transform: Affine, window: Window, crs: str, source: Affine, shape: tuple[int, int]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    """Where the pixel centres of a grid's window lie in a file: rows and columns, the nearest where outside; inside."""
    east = transform.c + transform.a * (window.col_off + np.arange(window.width) + 0.5)
    north = transform.f + transform.e * (window.row_off + np.arange(window.height) + 0.5)
    x, y = Transformer.from_crs(epsg, crs, always_xy=True).transform(*np.meshgrid(east, north))
    to_pixel = ~source
    col = np.floor(to_pixel.a * x + to_pixel.b * y + to_pixel.c)
    row = np.floor(to_pixel.d * x + to_pixel.e * y + to_pixel.f)
    inside = (row >= 0) & (row < shape[0]) & (col >= 0) & (col < shape[1])
    return np.clip(row, 0, shape[0] - 1).astype(np.int32), np.clip(col, 0, shape[1] - 1).astype(np.int32), inside


def _copy(dataset: Any, window: Window, out: NDArray[Any]) -> None:
    """Read a window into `out`; values that the file masks by another value than 0 become 0."""
    if dataset.nodata == 0 or MaskFlags.all_valid in dataset.mask_flag_enums[0]:
        dataset.read(1, window=window, out=out)
    else:
        out[:] = dataset.read(1, window=window, out_dtype=out.dtype, masked=True).filled(0)


def _common(one: Window, other: Window) -> Window | None:
    """The pixels that both windows hold."""
    return windows.intersection(one, other) if windows.intersect(one, other) else None


def _within(outer: Window, inner: Window) -> tuple[slice, slice]:
    """The slices of `inner` in an array that covers `outer`."""
    top, left = inner.row_off - outer.row_off, inner.col_off - outer.col_off
    return slice(top, top + inner.height), slice(left, left + inner.width)


_TRANSIENT = re.compile(
    r"HTTP response code: (?:429|5\d\d)|HTTP error code : (?:429|5\d\d)|timed? ?out|CURL error"
    r"|Could not resolve|Could ?n[o']t connect|Connection (?:refused|reset)|Failed to connect|Empty reply",
    re.IGNORECASE,
)
_HTTP_CODE = re.compile(r"HTTP (?:response|error) code ?: (\d{3})")


def explain(error: BaseException, href: str) -> GeomapError:
    """The geomap error for a failed read: temporary where the server refuses or does not answer."""
    causes = _chain(error)
    code = _HTTP_CODE.search(causes)
    what = f"HTTP {code[1]}" if code else _last_line(causes.replace(href, redact(href)))
    if _TRANSIENT.search(causes):
        return SourceUnavailableError(f"{redact(href)} cannot be read now ({what}); run the same command again later")
    if code and code[1] in ("401", "403"):
        return ReadError(
            f"{redact(href)} may not be read ({what}); the server wants credentials, or the token has expired: "
            "set them in the environment (cdse: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and run again"
        )
    return ReadError(
        f"{redact(href)} cannot be read ({what}); the file is missing or damaged: try again later, or map "
        "from an item file without this scene"
    )


def _chain(error: BaseException | None) -> str:
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"\?\S+", "", lines[-1])[:200] if lines else "unknown cause"
