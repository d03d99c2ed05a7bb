"""Writes a map: tiles -> one cloud-optimised GeoTIFF, with its QGIS style and GDAL side file.

The bytes of a map depend only on its pixels and tags, not on the order of its tiles. The tiles are first collected in a
plain tiled GeoTIFF, whose bytes do depend on the order; then GDAL's COG driver writes the map from it in one pass.
GDAL and rasterio can lose a failed write without an error (measured on a full disk, GDAL 3.10.3: closing a truncated
file and copying to one both succeed), so every tile is read back from the finished file and compared.
"""

from __future__ import annotations

import glob
import logging
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # raised by rasterio.shutil.copy; it has no public name
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.windows import Window

from geomap import files
from geomap.errors import OutputError
from geomap.types import Grid, OwnGrid
from geomap.write.layer import Layer, Statistics, plain
from geomap.write.qgis import colormap, pam, qml

BLOCK: Final = 512
"""Pixels per side of a TIFF block (the COG driver's default)."""

CACHE_BYTES: Final = 8 << 20
"""GDAL's block cache while a map is written; rasterio takes bytes. The default, 5 % of memory, would grow with large
maps (0.87 GB at 21,960 pixels per side)."""

_COG: Final = {
    "driver": "COG",
    "COMPRESS": "DEFLATE",  # half the size of LZW on class maps, and readable everywhere
    "LEVEL": 6,  # on class maps 9 took 5 times the time for 13 % fewer bytes
    "PREDICTOR": "NO",
    "BLOCKSIZE": BLOCK,
    "BIGTIFF": "IF_SAFER",  # IF_NEEDED cannot predict the compressed size
    "STATISTICS": "NO",
    "NUM_THREADS": 1,  # the bytes do not depend on it; a second thread saves a quarter of the time, for 40 MB
}

G = TypeVar("G", Grid, OwnGrid)
"""The grid of a map, and of its tiles."""

log = logging.getLogger(__name__)


class _Written(NamedTuple):
    """A tile that was written: where, the CRC-32 of its bytes, and how many pixels are not nodata."""

    window: Window
    crc: int
    valid: int


def write_map(
    path: Path, layer: Layer, grid: G, tiles: Iterable[tuple[G, NDArray[Any]]], tags: Mapping[str, str]
) -> Statistics:
    """Write a map with its side files `<stem>.qml` and `<name>.aux.xml`; the final name appears only on success.

    Args:
        path: ends in .tif; its directory is created if missing.
        layer: what the values mean.
        grid: the grid of the whole map. Pixels that no tile covers are nodata.
        tiles: (part of the grid, pixels of the layer's dtype and the part's shape), disjoint, in any order. Only one is
            held in memory at a time.
        tags: metadata of the file, such as TIFFTAG_SOFTWARE; must not differ between two runs.

    Returns:
        Counts or statistics of the valid pixels, of all bands together, computed from the finished file.

    Raises:
        DiskFullError: no space left.
        OutputError: the directory cannot be written, or the pixels read back differ from those written.
        ValueError: a tile is not part of the grid, or has another shape or type than its part.
    """
    tiled, part = files.temporary(path, "tiles"), files.temporary(path)
    needed = space_needed(layer, grid)
    try:
        with files.disk_errors(path.parent, needed):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove(tiled, part)
        with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
            written = _gather(tiled, layer, grid, tiles, tags)
            with gdal_errors(path.parent, needed):
                resampling = "MODE" if layer.kind == "classes" else "AVERAGE"
                rasterio.shutil.copy(tiled.absolute(), part.absolute(), OVERVIEW_RESAMPLING=resampling, **_COG)
                statistics = _read_back(part, layer, grid, written)
        # side files first, so that a map under its final name always has them
        files.write_bytes(path.with_suffix(".qml"), qml(layer, statistics.counts))
        files.write_bytes(path.with_name(f"{path.name}.aux.xml"), pam(layer, statistics))
        with files.disk_errors(path.parent, needed):
            files.commit(part, path)
    finally:
        with suppress(OSError):  # clean_temporary removes what is left at the next start
            _remove(tiled, part)
    log.info("wrote %s, %d valid pixels of %d", path, statistics.valid, grid.width * grid.height)
    return statistics


def space_needed(layer: Layer, grid: Grid | OwnGrid) -> int:
    """Most bytes that writing a map takes: collected tiles, the map, and its overviews twice, all uncompressed."""
    return math.ceil(math.prod(layer.shape(grid)) * np.dtype(layer.dtype).itemsize * (1 + 1 + 2 / 3)) + (1 << 20)


def _gather(
    path: Path, layer: Layer, grid: G, tiles: Iterable[tuple[G, NDArray[Any]]], tags: Mapping[str, str]
) -> list[_Written]:
    """Write the tiles into a plain tiled GeoTIFF. Errors of GDAL are translated, errors of `tiles` are not."""
    needed = space_needed(layer, grid)
    written: list[_Written] = []
    with gdal_errors(path.parent, needed):
        target = rasterio.open(path.absolute(), "w", **_profile(layer, grid))
    try:
        with gdal_errors(path.parent, needed):
            _describe(target, layer, tags)
        for part, pixels in tiles:
            window = _window(part, pixels, layer, grid)
            with gdal_errors(path.parent, needed):
                target.write(pixels, None if layer.bands else 1, window=window)
            written.append(_Written(window, _crc(pixels), int(_is_valid(pixels, layer).sum())))
    finally:
        with gdal_errors(path.parent, needed):
            target.close()
    return written


def _profile(layer: Layer, grid: Grid | OwnGrid) -> dict[str, Any]:
    return {
        "driver": "GTiff",
        "width": grid.width,
        "height": grid.height,
        "count": len(layer.bands) or 1,
        "dtype": layer.dtype,
        "nodata": layer.nodata,
        "crs": grid.crs,
        "transform": rasterio.Affine(*grid.transform),
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "interleave": "band",
        "compress": "DEFLATE",
        "zlevel": 1,
        "SPARSE_OK": "TRUE",  # blocks that no tile touches take no space and read as nodata
        "BIGTIFF": "IF_SAFER",
    }


def _describe(target: Any, layer: Layer, tags: Mapping[str, str]) -> None:
    for number, name in enumerate(layer.bands or (plain(layer.description),), start=1):
        target.set_band_description(number, name)
    target.update_tags(**{key: plain(value) for key, value in {**tags, **dict(layer.tags)}.items()})
    if layer.kind == "colour":
        target.colorinterp = ColorInterp.red, ColorInterp.green, ColorInterp.blue
    if layer.scale != 1:
        target.scales = (layer.scale,) * target.count
    if layer.classes:
        target.write_colormap(1, colormap(layer))
        target.update_tags(1, **{f"class_{c.value}": c.name for c in layer.classes})


def _window(part: G, pixels: NDArray[Any], layer: Layer, grid: G) -> Window:
    row, column = part.offset_in(grid)
    if row < 0 or column < 0 or row + part.height > grid.height or column + part.width > grid.width:
        raise ValueError(f"tile {part} reaches beyond the map's {grid}")
    if pixels.shape != layer.shape(part) or pixels.dtype != layer.dtype:
        wanted = f"{layer.dtype} {layer.shape(part)}"
        raise ValueError(f"tile of {layer.stem} is {pixels.dtype} {pixels.shape}; its grid requires {wanted}")
    return Window(column, row, part.width, part.height)


def _read_back(path: Path, layer: Layer, grid: Grid | OwnGrid, written: list[_Written]) -> Statistics:
    """Statistics of the file. Raises RasterioIOError if its pixels differ from those written."""
    with rasterio.open(path.absolute(), driver="GTiff") as source:
        if source.shape != grid.shape:
            raise RasterioIOError(f"{source.shape} pixels were written of {grid.shape}")
        if source.crs is None or not source.transform.almost_equals(rasterio.Affine(*grid.transform)):
            raise RasterioIOError("the file does not tell where it lies (GDAL is told to write that elsewhere)")
        if any(_crc(_read(source, layer, w.window)) != w.crc for w in written):
            raise RasterioIOError("pixels read back differ from those written (a failing disk, or tiles that overlap)")
        blocks = (_read(source, layer, window) for _, window in source.block_windows(1))
        statistics = _statistics(blocks, layer)
    if statistics.valid != sum(w.valid for w in written):
        raise RasterioIOError("pixels that no tile covers are not nodata (a failing disk, or tiles that overlap)")
    return statistics


def _read(source: Any, layer: Layer, window: Window) -> NDArray[Any]:
    """Pixels of a window: (y, x), or (band, y, x)."""
    pixels: NDArray[Any] = source.read(None if layer.bands else 1, window=window)
    return pixels


def _statistics(blocks: Iterator[NDArray[Any]], layer: Layer) -> Statistics:
    """Statistics over blocks: integers by histogram, scores by count, extremes, sum and sum of squares."""
    if layer.dtype != "uint8":
        valid = (block[_is_valid(block, layer)].astype(np.float64) for block in blocks)
        sums = [(len(v), v.min(), v.max(), v.sum(), (v * v).sum()) for v in valid if len(v)]
        if not sums:
            return Statistics(0)
        n, low, high, total, squares = (np.array(column) for column in zip(*sums, strict=True))
        return _summary(int(n.sum()), {}, low.min(), high.max(), total.sum(), squares.sum())
    histogram = np.zeros(256, np.int64)
    for block in blocks:
        histogram += np.bincount(block.ravel(), minlength=256)
    histogram[int(layer.nodata)] = 0
    present = np.flatnonzero(histogram)  # sorted values
    if not len(present):
        return Statistics(0)
    pixels = histogram[present]
    counts = dict(zip(present.tolist(), pixels.tolist(), strict=True))
    low, high = present[[0, -1]]
    return _summary(int(pixels.sum()), counts, low, high, int(pixels @ present), int(pixels @ present**2))


def _summary(n: int, counts: dict[int, int], low: float, high: float, total: float, squares: float) -> Statistics:
    mean = float(total) / n
    return Statistics(n, counts, float(low), float(high), mean, math.sqrt(max(0.0, float(squares) / n - mean * mean)))


def _is_valid(pixels: NDArray[Any], layer: Layer) -> NDArray[np.bool_]:
    valid: NDArray[np.bool_] = ~np.isnan(pixels) if math.isnan(layer.nodata) else pixels != layer.nodata
    return valid


def _crc(pixels: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(pixels).data)


def _remove(*paths: Path) -> None:
    """Remove temporary files, and those that GDAL's COG driver leaves beside them (`.<name>.part.ovr.tmp`)."""
    for path in paths:
        for left in (path, *path.parent.glob(f"{glob.escape(path.name)}.*")):
            left.unlink(missing_ok=True)


@contextmanager
def gdal_errors(directory: Path, needed: int, *more: type[Exception]) -> Iterator[None]:
    """Translate GDAL's write errors, and `more`, which lack the cause, by asking the disk for the cause."""
    with files.disk_errors(directory, needed):
        try:
            yield
        except (RasterioError, CPLE_BaseError, *more) as e:
            files.probe(directory, needed)
            raise OutputError(f"cannot write to {directory}: {e}; choose another output directory") from e
