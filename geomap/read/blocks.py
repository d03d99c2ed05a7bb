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
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Self, TypeVar

import numpy as np
import rasterio._base
from numpy.typing import NDArray
from rasterio.enums import Compression, MaskFlags
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from geomap import process
from geomap.sentinel2 import MOST_BYTES
from geomap.types import Blocks

T = TypeVar("T")

_ENOUGH: Final = 1024
"""Bytes by which a block that cannot be compressed may exceed its pixels, beside a hundredth of them."""


working: Final = threading.BoundedSemaphore(os.cpu_count() or 1)
"""Held while pixels are unpacked or moved, which takes several times their memory: more threads read than cores."""

_GAP: Final = 4096
"""Most bytes between two blocks that are read together: COGs repeat the size of a block on both sides of it."""

_WHERE: Final = ("BLOCK_OFFSET", "BLOCK_SIZE")

MOST_LISTED: Final = 2048
"""Most blocks of a file all of which are listed when it is opened; a 10 m band of a granule has 484 of 512 pixels."""

MOST_KEPT: Final = 4096
"""Most files whose headers are kept: those of five granules in a year, with 16 bytes a block."""


@dataclass(frozen=True, slots=True)
class Block:
    """Where a block lies in the file, and which pixels it holds."""

    offset: int
    size: int  # bytes, compressed
    window: Window  # its pixels, cut to the file's edge


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file's pixels are written and where its blocks lie: what reading them takes from its header."""

    path: str  # as GDAL opens it
    shape: tuple[int, int]  # (rows, columns)
    side: tuple[int, int]  # (rows, columns) of a block
    dtype: np.dtype[Any]  # in the file's byte order
    bits: int  # of a value
    differences: bool  # each value is stored as the difference from the one on its left (TIFF 6.0, section 14)
    nodata: float | None
    plain: bool  # whether these say all; else only GDAL knows the values
    listed: bool  # whether all blocks are in `where`; else only those under the window that was asked for
    first: tuple[int, int]  # (row, column) of the first block in `where`
    where: NDArray[np.int64]  # (row, column, 2) offset of a block in the file, and its bytes, compressed; 0: left out

    @property
    def kept(self) -> bool:
        """Whether the file need not be opened again."""
        return self.plain and self.listed


def checkable(dataset: Any) -> bool:
    """Whether the blocks of an open dataset hold checksums: a GeoTIFF with DEFLATE."""
    return bool(dataset.driver == "GTiff" and dataset.compression == Compression.deflate)


def layout(dataset: Any, window: Window) -> Layout:
    """The layout of a checkable dataset, with at least the blocks under a window. Raises RasterioIOError."""
    with _File(dataset.files[0]) as file:
        order = {b"II": "<", b"MM": ">"}.get(file.start(2))
    values, nodata, dtype = dataset.tags(1, ns="IMAGE_STRUCTURE"), dataset.nodata, np.dtype(dataset.dtypes[0])
    predictor = dataset.tags(ns="IMAGE_STRUCTURE").get("PREDICTOR", "1")
    side: tuple[int, int] = dataset.block_shapes[0]
    number = -(-dataset.height // side[0]), -(-dataset.width // side[1])
    listed = number[0] * number[1] <= MOST_LISTED
    rows, columns = (range(n) for n in number) if listed else _under(window, side)
    where = np.zeros((len(rows), len(columns), 2), np.int64)
    for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns)):
        where[i, j] = [int(dataset.get_tag_item(f"{what}_{column}_{row}", "TIFF", bidx=1) or 0) for what in _WHERE]
    return Layout(
        dataset.files[0],
        dataset.shape,
        side,
        dtype.newbyteorder(order or "="),
        int(values.get("NBITS", 8 * dtype.itemsize)),
        predictor == "2",
        nodata,
        order is not None
        and "NBITS" not in values
        and predictor in ("1", "2")
        and (nodata is None or float(nodata).is_integer())
        and MaskFlags.per_dataset not in dataset.mask_flag_enums[0],
        listed,
        (rows.start, columns.start),
        where,
    )


def read(file: Layout, window: Window, out: NDArray[Any], dataset: Any = None) -> Blocks:
    """Read a window of a file into `out`, pixels that the file masks as 0; returns what was fetched.

    `dataset` is the file, open, unless its layout is `plain`. Raises RasterioIOError if a block is damaged or cannot be
    fetched.
    """
    height, width = file.side
    row = -(-width * file.bits // 8)
    full = height * row
    if full > MOST_BYTES:
        raise RasterioIOError(f"blocks of {width} x {height} pixels are larger than {MOST_BYTES:,} bytes")
    found = [_block(file, *place) for place in itertools.product(*_under(window, file.side))]
    if any(block.size > full + full // 100 + _ENOUGH for block in found):
        raise RasterioIOError(f"a block is larger than its {full:,} bytes of pixels")
    with _File(file.path) as opened:
        packed = iter(opened.ranges([block for block in found if block.size]))
    for block in found:
        least = block.window.height * row  # the last strip may hold no more
        with working:
            content = _unpack(next(packed), full, least) if block.size else None
            if file.plain:
                _place(out, window, block, _pixels(file, block, content))
            del content  # before the next
    if not file.plain:  # its blocks are sound
        read_masked(dataset, window, out)
    return Blocks(len(found), sum(block.size for block in found), max(file.side))


def read_masked(dataset: Any, window: Window, out: NDArray[Any]) -> None:
    """Read a window of an open dataset by GDAL into `out`, pixels that the file masks as 0.

    In the file's own type first: its nodata value may be none of `out`'s.
    """
    out[:] = _limited(dataset.read(1, window=window, masked=True).filled(0), out.dtype)


def _limited(pixels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values no larger than a data type holds, as GDAL makes them."""
    most = np.iinfo(dtype).max
    return np.minimum(pixels, most) if np.iinfo(pixels.dtype).max > most else pixels


def _under(window: Window, side: tuple[int, int]) -> tuple[range, range]:
    """Rows and columns of the blocks that a window touches."""
    rows = range(window.row_off // side[0], -(-(window.row_off + window.height) // side[0]))
    return rows, range(window.col_off // side[1], -(-(window.col_off + window.width) // side[1]))


def _block(file: Layout, row: int, column: int) -> Block:
    (height, width), (rows, columns) = file.side, file.shape
    top, left = row * height, column * width
    inside = Window(left, top, min(width, columns - left), min(height, rows - top))
    offset, size = file.where[row - file.first[0], column - file.first[1]].tolist()
    return Block(offset, size, inside)


def _pixels(file: Layout, block: Block, content: NDArray[np.uint8] | None) -> NDArray[Any]:
    """(y, x) pixels of a block, cut to the file's edge; those that the file masks are 0. `content`: None: left out."""
    height, width = block.window.height, block.window.width
    if content is None:  # GDAL reads nodata, or 0 without one
        return np.zeros((height, width), file.dtype)
    pixels = content.view(file.dtype).reshape(-1, file.side[1])[:height]
    if file.differences:
        pixels = pixels.astype(file.dtype.newbyteorder("="), copy=False)
        add_up_(pixels)
    pixels = pixels[:, :width]
    return np.where(pixels == file.nodata, 0, pixels) if file.nodata else pixels


def add_up_(rows: NDArray[Any]) -> None:
    """(y, x) differences from the left neighbour -> values, in place; integers wrap around, as they did when written.

    Compiled: numpy's `add.accumulate` takes seven times as long, which is two thirds of the time of unpacking.
    """
    _adder()(rows)


@functools.cache
def _adder() -> Callable[..., None]:
    """Compiled when the first block is read: numba takes 60 MB, and plans read headers alone."""

    def add_up(rows: NDArray[Any]) -> None:
        for y in range(rows.shape[0]):
            for x in range(1, rows.shape[1]):
                rows[y, x] += rows[y, x - 1]

    return process.compiled(add_up)


def _place(out: NDArray[Any], window: Window, block: Block, pixels: NDArray[Any]) -> None:
    """Copy the pixels of a block that lie in the window."""
    top, left = block.window.row_off - window.row_off, block.window.col_off - window.col_off
    rows = slice(max(top, 0), min(top + block.window.height, window.height))
    columns = slice(max(left, 0), min(left + block.window.width, window.width))
    part = pixels[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    out[rows, columns] = _limited(part, out.dtype)


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


class Kept(Generic[T]):
    """What was found in files when they were opened, so that a run opens each once; safe for threads.

    GDAL keeps what it was told of them, their size for one, until they are dropped or `forget` is called.
    """

    def __init__(self, most: int = MOST_KEPT) -> None:
        """Args: most: files; then the one that was not read for the longest time is dropped."""
        self._lock, self._most = threading.Lock(), most
        self._found: OrderedDict[str, T] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.forget()

    def get(self, path: str) -> T | None:
        with self._lock:
            if path in self._found:
                self._found.move_to_end(path)
            return self._found.get(path)

    def put(self, path: str, found: T) -> None:
        with self._lock:
            self._found[path] = found
            oldest = self._found.popitem(last=False)[0] if len(self._found) > self._most else None
        if oldest is not None:
            forget(oldest)

    def drop(self, path: str) -> None:
        """Open it again next time."""
        with self._lock:
            self._found.pop(path, None)
        forget(path)

    def forget(self) -> None:
        """Drop all."""
        for path in [*self._found]:
            self.drop(path)


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
        self._remote = path.startswith("/vsi")
        self._handle = self._gdal.VSIFOpenL(os.fsencode(path), b"rb")
        if not self._handle:
            raise self._error("the file cannot be opened")

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
        found = self._gdal.VSIFReadL(content.ctypes.data, 1, size, self._handle)
        if found == size:
            return content
        if self._remote and offset + size <= self._size():
            raise self._error(f"the transfer broke off after {found} of {size} bytes")
        raise self._error("blocks cannot be read: the file is cut short")

    def _size(self) -> int:
        """Bytes of the file, as its server says."""
        self._gdal.VSIFSeekL(self._handle, 0, os.SEEK_END)
        return int(self._gdal.VSIFTellL(self._handle))

    def _error(self, otherwise: str) -> RasterioIOError:
        """GDAL's last error, or another text if it has none."""
        text = self._gdal.CPLGetLastErrorMsg() or b""
        return RasterioIOError(text.decode("utf-8", "replace") or otherwise)


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
        ("VSIFTellL", ctypes.c_uint64, (pointer,)),
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
