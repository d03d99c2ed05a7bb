"""Reads the DEFLATE blocks of a GeoTIFF, each checked by the checksum that is stored in it (zlib's Adler-32).

GDAL's TIFF library accepts a block that unpacks to more bytes than it should hold and does not look at its checksum
then, so a flipped bit can pass as other pixels. Here the blocks are fetched through GDAL's own file access, unpacked,
and have to match both their size and their checksum. No block is fetched or unpacked twice.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import rasterio._base
from numpy.typing import NDArray
from rasterio.enums import Compression, MaskFlags
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from geomap.read.access import MOST_BYTES
from geomap.types import Blocks

_ENOUGH: Final = 1024
"""Bytes by which a block that cannot be compressed may exceed its pixels, beside a hundredth of them."""


_GAP: Final = 4096
"""Most bytes between two blocks that are read together: COGs repeat the size of a block on both sides of it."""

_WHERE: Final = ("BLOCK_OFFSET", "BLOCK_SIZE")


@dataclass(frozen=True, slots=True)
class Block:
    """Where a block lies in the file, and which pixels it holds."""

    offset: int
    size: int  # bytes, compressed
    window: Window  # its pixels, cut to the file's edge


def checkable(dataset: Any) -> bool:
    """Whether the blocks of an open dataset hold checksums: a GeoTIFF with DEFLATE."""
    return bool(dataset.driver == "GTiff" and dataset.compression == Compression.deflate)


def read(dataset: Any, window: Window, out: NDArray[Any]) -> Blocks:
    """Read a window of a checkable dataset into `out`, pixels that the file masks as 0; returns what was fetched.

    Raises RasterioIOError if a block is damaged or cannot be fetched.
    """
    predictor, nodata = dataset.tags(ns="IMAGE_STRUCTURE").get("PREDICTOR", "1"), dataset.nodata
    plain = (
        "NBITS" not in dataset.tags(1, ns="IMAGE_STRUCTURE")
        and predictor in ("1", "2")
        and (nodata is None or float(nodata).is_integer())
    )
    with _File(dataset.files[0]) as file:
        order = {b"II": "<", b"MM": ">"}.get(file.start(2))
        if not plain or order is None or MaskFlags.per_dataset in dataset.mask_flag_enums[0]:
            found = [block for block, _ in _contents(file, dataset, window)]  # checked; only GDAL knows their layout
            out[:] = dataset.read(1, window=window, out_dtype=out.dtype, masked=True).filled(0)
            return _fetched(dataset, found)
        dtype = np.dtype(dataset.dtypes[0]).newbyteorder(order)
        found = []
        for block, content in _contents(file, dataset, window):
            found.append(block)
            _place(out, window, block, _pixels(dataset, block, content, dtype, predictor == "2"))
    return _fetched(dataset, found)


def _fetched(dataset: Any, found: Sequence[Block]) -> Blocks:
    return Blocks(len(found), sum(block.size for block in found), max(dataset.block_shapes[0]))


def _contents(file: _File, dataset: Any, window: Window) -> Iterator[tuple[Block, NDArray[np.uint8] | None]]:
    """The unpacked bytes of each block that a window touches; None for a block that the file leaves out."""
    height, width = dataset.block_shapes[0]
    bits = int(dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8 * np.dtype(dataset.dtypes[0]).itemsize))
    row = -(-width * bits // 8)
    full = height * row
    if full > MOST_BYTES:
        raise RasterioIOError(f"blocks of {width} x {height} pixels are larger than {MOST_BYTES:,} bytes")
    found = list(_blocks(dataset, window, height, width))
    if any(block.size > full + full // 100 + _ENOUGH for block in found):
        raise RasterioIOError(f"a block is larger than its {full:,} bytes of pixels")
    packed = iter(file.ranges([block for block in found if block.size]))
    for block in found:
        least = block.window.height * row  # the last strip may hold no more
        yield block, _unpack(next(packed), full, least) if block.size else None


def _blocks(dataset: Any, window: Window, height: int, width: int) -> Iterator[Block]:
    rows = range(window.row_off // height, -(-(window.row_off + window.height) // height))
    columns = range(window.col_off // width, -(-(window.col_off + window.width) // width))
    for row, column in itertools.product(rows, columns):
        offset, size = (int(dataset.get_tag_item(f"{what}_{column}_{row}", "TIFF", bidx=1) or 0) for what in _WHERE)
        top, left = row * height, column * width
        inside = Window(left, top, min(width, dataset.width - left), min(height, dataset.height - top))
        yield Block(offset, size, inside)


def _pixels(
    dataset: Any, block: Block, content: NDArray[np.uint8] | None, dtype: np.dtype[Any], differences: bool
) -> NDArray[Any]:
    """(y, x) pixels of a block, cut to the file's edge; those that the file masks are 0."""
    height, width = block.window.height, block.window.width
    if content is None:  # left out: GDAL reads nodata, or 0 without one
        return np.zeros((height, width), dtype)
    pixels = content.view(dtype).reshape(-1, dataset.block_shapes[0][1])[:height]
    if differences:  # TIFF 6.0, section 14: each value is the difference from the one on its left
        pixels = np.add.accumulate(pixels, axis=1, dtype=dtype.newbyteorder("="))
    pixels = pixels[:, :width]
    return np.where(pixels == dataset.nodata, 0, pixels) if dataset.nodata else pixels


def _place(out: NDArray[Any], window: Window, block: Block, pixels: NDArray[Any]) -> None:
    """Copy the pixels of a block that lie in the window."""
    top, left = block.window.row_off - window.row_off, block.window.col_off - window.col_off
    rows = slice(max(top, 0), min(top + block.window.height, window.height))
    columns = slice(max(left, 0), min(left + block.window.width, window.width))
    part = pixels[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    most = np.iinfo(out.dtype).max
    out[rows, columns] = np.minimum(part, most) if np.iinfo(part.dtype).max > most else part  # as GDAL does


# --- unpacking


def _unpack(packed: NDArray[np.uint8], full: int, least: int) -> NDArray[np.uint8]:
    """The bytes of a block: `full`, or at least `least` in the last one. Raises RasterioIOError."""
    content = np.empty(full, np.uint8)
    found = _inflate(packed, content)
    if found not in (full, least):
        raise RasterioIOError("a block does not agree with its size or its checksum")
    return content[:found]


def _inflate(packed: NDArray[np.uint8], content: NDArray[np.uint8]) -> int | None:
    """Unpack zlib data into `content`: the number of bytes; None if they are damaged or more than `content` holds."""
    gdal = _gdal()
    if not hasattr(gdal, "libdeflate_zlib_decompress"):  # a GDAL without libdeflate
        return _inflate_zlib(packed, content)
    unpacker, made = gdal.libdeflate_alloc_decompressor(), ctypes.c_size_t()
    source, target = packed.ctypes.data, content.ctypes.data
    failed = gdal.libdeflate_zlib_decompress(unpacker, source, packed.size, target, content.size, ctypes.byref(made))
    gdal.libdeflate_free_decompressor(unpacker)
    return None if failed else made.value


def _inflate_zlib(packed: NDArray[np.uint8], content: NDArray[np.uint8]) -> int | None:
    """`_inflate` by Python's zlib, which takes three times as long."""
    unpacker = zlib.decompressobj()
    try:
        made = unpacker.decompress(packed.tobytes(), content.size + 1)
    except zlib.error:
        return None
    if not unpacker.eof or len(made) > content.size:
        return None
    content[: len(made)] = np.frombuffer(made, np.uint8)
    return len(made)


# --- GDAL's file access


def forget(path: str) -> None:
    """Drop what GDAL keeps of a remote file: its bytes, and what the server said of it, refusals included."""
    scheme, separator, rest = path.partition("://")
    if separator and not path.startswith("/"):
        path = f"/vsis3/{rest}" if scheme == "s3" else f"/vsicurl/{path}"
    if path.startswith("/vsi"):
        _gdal().VSICurlPartialClearCache(os.fsencode(path))


def _runs(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Blocks in the order of the file, in groups with little between them."""
    group: list[Block] = []
    for block in blocks:
        if group and not 0 <= block.offset - group[-1].offset - group[-1].size <= _GAP:
            yield group
            group = []
        group.append(block)
    if group:
        yield group


class _File:
    """A file opened by GDAL's own access, in the place and with the options of the dataset that is open."""

    def __init__(self, path: str) -> None:
        self._gdal = _gdal()
        self._gdal.CPLErrorReset()
        self._handle = self._gdal.VSIFOpenL(os.fsencode(path), b"rb")
        if not self._handle:
            raise self._error()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._gdal.VSIFCloseL(self._handle)
        self._gdal.CPLErrorReset()  # or rasterio might blame its next call for it

    def start(self, size: int) -> bytes:
        """The first bytes of the file."""
        return self._read(0, size).tobytes()

    def ranges(self, blocks: Sequence[Block]) -> list[NDArray[np.uint8]]:
        """The bytes of the blocks; neighbours in the file come by one read."""
        found: dict[int, NDArray[np.uint8]] = {}
        for run in _runs(sorted(blocks, key=lambda block: block.offset)):
            first, last = run[0], run[-1]
            content = self._read(first.offset, last.offset + last.size - first.offset)
            for block in run:
                start = block.offset - first.offset
                found[block.offset] = content[start : start + block.size]
        return [found[block.offset] for block in blocks]

    def _read(self, offset: int, size: int) -> NDArray[np.uint8]:
        content = np.empty(size, np.uint8)
        self._gdal.VSIFSeekL(self._handle, offset, os.SEEK_SET)
        if self._gdal.VSIFReadL(content.ctypes.data, 1, size, self._handle) != size:
            raise self._error()
        return content

    def _error(self) -> RasterioIOError:
        text = self._gdal.CPLGetLastErrorMsg() or b""
        return RasterioIOError(text.decode("utf-8", "replace") or "blocks cannot be read: the file is cut short")


@functools.cache
def _gdal() -> ctypes.CDLL:
    """The functions of the GDAL that rasterio has loaded, and of its libdeflate, under their C names."""
    gdal = ctypes.CDLL(rasterio._base.__file__)  # the linker looks in what this library needs, too
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for name, result, arguments in (
        ("VSIFOpenL", pointer, (ctypes.c_char_p, ctypes.c_char_p)),
        ("VSIFCloseL", ctypes.c_int, (pointer,)),
        ("VSIFReadL", size, (pointer, size, size, pointer)),
        ("VSIFSeekL", ctypes.c_int, (pointer, ctypes.c_uint64, ctypes.c_int)),
        ("VSICurlPartialClearCache", None, (ctypes.c_char_p,)),
        ("CPLErrorReset", None, ()),
        ("CPLGetLastErrorMsg", ctypes.c_char_p, ()),
        ("libdeflate_alloc_decompressor", pointer, ()),
        ("libdeflate_zlib_decompress", ctypes.c_int, (pointer, pointer, size, pointer, size, pointer)),
        ("libdeflate_free_decompressor", None, (pointer,)),
    ):
        if not name.startswith("libdeflate") or hasattr(gdal, name):
            function = getattr(gdal, name)
            function.restype, function.argtypes = result, arguments
    return gdal
