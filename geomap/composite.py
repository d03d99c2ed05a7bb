"""Monthly medians and clear-observation counts of a tile.

Kernels in numpy carry the arithmetic; `monthly` lifts them over the dask chunks of a stack, a month of one band at a
time. All values stay uint16 DN with 0 as nodata: nodata is masked first, then the offset is added, then valid values
are floored at 1. The median of an even count is the mean of the two middle values, rounded down.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from geomap.mask import DEFAULT_MASK, Mask
from geomap.sentinel2 import BANDS, BANDS_10M, BANDS_20M, NODATA_DN, SCL_CLASSES
from geomap.types import Composite, Stack

UPSAMPLE = 2  # 20 m pixels to 10 m pixels, nearest: each value is repeated
STRIP_BYTES = 128 * 2**10  # rows of one slice sorted at a time, so that a month's slices stay in the second-level cache


class Watch(Protocol):
    """Looks at raw DNs while they are in memory."""

    bands: Sequence[str]

    def see(self, scene: str, rows: slice, cols: slice, dn: NDArray[np.uint16]) -> None:
        """A block of one of `bands`: scene id, its place at 20 m, (y, x) raw DNs; called by several threads."""


def read_classes(classes: da.Array, workers: int | None = None) -> NDArray[np.uint8]:
    """(scene, y, x) SCL, read by `workers` threads."""
    computed: NDArray[np.uint8] = classes.compute(**_threads(workers))
    return computed


def monthly(stack: Stack, months: int, watch: Watch | None = None) -> da.Array:
    """Lazy monthly medians at 10 m, one task for each month, band and chunk: it holds the month's scenes of one band.

    Returns:
        (month, band, y, x) uint16 in sentinel2.BANDS order, 0 = nodata.
    """
    rows, cols = stack.fine.dn.chunks[2:]
    name = f"median-{tokenize(stack.fine.dn.name, stack.coarse.dn.name, months)}"
    where = list(itertools.product(range(months), range(len(BANDS)), range(len(rows)), range(len(cols))))
    tasks: dict[Any, Any] = {(name, m, b, i, j): _task(stack, m, BANDS[b], i, j, watch) for m, b, i, j in where}
    read: list[Any] = [stack.fine.dn, stack.coarse.dn]
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=read)
    return da.Array(graph, name, chunks=((1,) * months, (1,) * len(BANDS), rows, cols), dtype=np.uint16)


def _task(stack: Stack, month: int, band: str, i: int, j: int, watch: Watch | None) -> tuple[Any, ...]:
    """The dask task of one block: scenes with nothing clear there are not asked for."""
    fine = band in BANDS_10M
    bands, names = (stack.fine, BANDS_10M) if fine else (stack.coarse, BANDS_20M)
    part = tuple(_slice(stack.coarse.dn.chunks[axis], index) for axis, index in ((2, i), (3, j)))
    number = names.index(band)
    scenes = [s for s, step in enumerate(stack.step) if step == month and stack.clear[s][part].any()]
    rows, cols = part
    looks = (
        [functools.partial(watch.see, stack.id[s], rows, cols) for s in scenes] if watch and band in watch.bands else []
    )
    block = functools.partial(
        _median_block,
        looks=looks,
        shape=(stack.fine.dn.chunks[2][i], stack.fine.dn.chunks[3][j]),
        clear=[stack.clear[s][part] for s in scenes],
        offset=[int(bands.offset[s, number]) for s in scenes],
        acquisition=[stack.acquisition[s] for s in scenes],
    )
    return block, [(bands.dn.name, s, number, i, j) for s in scenes]


def _slice(chunks: Sequence[int], index: int) -> slice:
    start = sum(chunks[:index])
    return slice(start, start + chunks[index])


def compute(stack: Stack, months: int, workers: int | None = None, watch: Watch | None = None) -> Composite:
    """Monthly medians and clear counts at 10 m, block by block straight into arrays.

    Args:
        stack: scenes over a tile.
        months: steps of the period.
        workers: threads (default: dask's own choice).
        watch: sees each block that it asks for once, before the offset is added.

    Raises:
        ReadError, SourceUnavailableError: a file cannot be read.
    """
    dn = monthly(stack, months, watch)
    out = np.zeros(dn.shape, np.uint16)
    da.store(dn, out, lock=False, **_threads(workers))
    if not stack.clear:
        return Composite(out, np.zeros((months, *dn.shape[2:]), np.uint8))
    counts = clear_count_np(stack.clear, stack.step, stack.acquisition, months)
    return Composite(out, _repeated_np(counts))


def _threads(workers: int | None) -> dict[str, Any]:
    return {"scheduler": "threads"} | ({"num_workers": workers} if workers else {})


def clear_np(scl: NDArray[np.uint8], mask: Mask = DEFAULT_MASK) -> NDArray[np.bool_]:
    """True where the scene classification, (..., y, x), is a clear observation; same shape.

    Values above 11 are not clear. Within `mask.reach` of an edge the result depends on what lies beyond it.
    """
    table = np.zeros(256, bool)
    table[: len(SCL_CLASSES)] = True
    table[list(mask.classes)] = False
    clear: NDArray[np.bool_] = table[scl]
    if not mask.reach:
        return clear
    from scipy import ndimage  # only where it is asked for

    unclear = ~clear & (scl != NODATA_DN)
    for change, radius in ((ndimage.binary_opening, mask.opening), (ndimage.binary_dilation, mask.dilation)):
        if radius:
            unclear = change(unclear, _disk_np(radius).reshape((1,) * (scl.ndim - 2) + (2 * radius + 1,) * 2))
    grown: NDArray[np.bool_] = ~unclear & (scl != NODATA_DN)
    return grown


def _disk_np(radius: int) -> NDArray[np.bool_]:
    """(2 radius + 1, 2 radius + 1) True within `radius` of the middle."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk: NDArray[np.bool_] = y**2 + x**2 <= radius**2
    return disk


def shifted_np(dn: NDArray[np.uint16], offset: int) -> NDArray[np.uint16]:
    """DNs with the offset added to every valid one, floored at 1; 0 stays 0."""
    if offset == 0:
        return dn
    one, size = np.uint16(1), np.uint16(abs(offset))
    moved = np.maximum(dn, size + one) - size if offset < 0 else np.minimum(dn, np.uint16(65535) - size) + size
    return moved * np.minimum(dn, one)


def month_median_np(
    dn: Sequence[NDArray[np.uint16]],
    clear: Sequence[NDArray[np.bool_]],
    offset: Sequence[int],
    acquisition: Sequence[int],
) -> NDArray[np.uint16]:
    """Median of the clear DNs of one band in one month.

    Args:
        dn: of each scene, one at least, (y, x) raw DNs, 0 = nodata.
        clear: of each scene, (y, x), or half as many rows and columns where its pixels are twice as large.
        offset: DN to add to each scene.
        acquisition: pass number of each scene; of scenes with the same number the first clear value counts.

    Returns:
        (y, x) DNs, 0 where there is no clear value.
    """
    height, width = dn[0].shape
    out = np.zeros((height, width), np.uint16)
    scale = height // clear[0].shape[0]
    rows = max(1, STRIP_BYTES // (2 * scale * width)) * scale
    for top in range(0, height, rows):
        part = slice(top, top + rows)
        slices = _passes(dn, clear, offset, acquisition, part, scale)
        if slices:
            out[part] = median_np(slices)
    return out


def median_np(slices: Sequence[NDArray[np.uint16]]) -> NDArray[np.uint16]:
    """Median over equally shaped slices, ignoring 0; even counts average the middle two, rounded down; 0 if none.

    A sorting network runs over whole slices: each step is one vectorised minimum and maximum.
    """
    n = len(slices)
    if n == 1:
        return slices[0]
    count = np.zeros(slices[0].shape, np.uint8 if n < 256 else np.uint16)
    for s in slices:
        count += s != 0
    ranked = [s - np.uint16(1) for s in slices]  # 0 wraps to 65535: nodata sorts last
    spare = np.empty_like(ranked[0])
    for i, j in _network(n):
        np.minimum(ranked[i], ranked[j], out=spare)
        np.maximum(ranked[i], ranked[j], out=ranked[j])
        ranked[i], spare = spare, ranked[i]
    out = np.zeros_like(ranked[0])
    for k in range(1, n + 1):
        low, high = ranked[(k - 1) // 2], ranked[k // 2]
        middle = (low & high) + ((low ^ high) >> np.uint16(1)) + np.uint16(1)  # floor of the mean, without overflow
        np.copyto(out, middle, where=count == k)
    return out


def clear_count_np(
    clear: Sequence[NDArray[np.bool_]], step: Sequence[int], acquisition: Sequence[int], months: int
) -> NDArray[np.uint8]:
    """Of each scene, one at least, (y, x) -> (month, y, x): clear acquisitions of each month, at most 255."""
    out = np.zeros((months, *clear[0].shape), np.uint8)
    for month in range(months):
        scenes = [s for s, m in enumerate(step) if m == month]
        total = np.zeros(clear[0].shape, np.uint16)
        for group in _by_pass([acquisition[s] for s in scenes]):
            total += np.logical_or.reduce([clear[scenes[s]] for s in group])
        out[month] = np.minimum(total, 255)
    return out


def _by_pass(acquisition: Sequence[int]) -> list[list[int]]:
    """Scene indices, grouped by pass."""
    groups: dict[int, list[int]] = {}
    for scene, number in enumerate(acquisition):
        groups.setdefault(number, []).append(scene)
    return list(groups.values())


def _passes(
    dn: Sequence[NDArray[np.uint16]],
    clear: Sequence[NDArray[np.bool_]],
    offset: Sequence[int],
    acquisition: Sequence[int],
    rows: slice,
    scale: int,
) -> list[NDArray[np.uint16]]:
    """Some rows of each pass: one slice of clear, shifted DNs; none where nothing is clear."""
    slices: list[NDArray[np.uint16]] = []
    for scenes in _by_pass(acquisition):
        merged: NDArray[np.uint16] | None = None
        for scene in scenes:
            mask = clear[scene][rows.start // scale : rows.stop // scale]
            values = _masked_np(shifted_np(dn[scene][rows], offset[scene]), mask)
            merged = values if merged is None else np.where(merged == 0, values, merged)
        if merged is not None and merged.any():
            slices.append(merged)
    return slices


def _masked_np(dn: NDArray[np.uint16], clear: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """DNs where clear, else 0; (y, x) DNs, and a mask of that shape or of pixels twice as large."""
    if dn.shape == clear.shape:
        return dn & -clear.astype(np.uint16)
    pairs = np.ascontiguousarray(dn).view(np.uint32)  # two neighbours in a row, which share a pixel of 20 m
    both = pairs.reshape(-1, UPSAMPLE, clear.shape[1]) & -clear.astype(np.uint32)[:, None]
    masked: NDArray[np.uint16] = both.view(np.uint16).reshape(dn.shape)
    return masked


def _repeated_np(pixels: NDArray[Any], times: int = UPSAMPLE) -> NDArray[Any]:
    """(..., y, x) -> each pixel `times` x `times`: 20 m to 10 m, nearest."""
    return pixels if times == 1 else pixels.repeat(times, -2).repeat(times, -1)


@functools.cache
def _network(n: int) -> tuple[tuple[int, int], ...]:
    """Comparators (i, j), i < j, that sort n values: Batcher's merge exchange (Knuth, TAOCP 3, 5.2.2 algorithm M)."""
    pairs = []
    p = top = 1 << ((n - 1).bit_length() - 1)
    while p > 0:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return tuple(pairs)


def _median_block(
    dn: Sequence[NDArray[np.uint16]],
    *,
    shape: tuple[int, int],
    clear: Sequence[NDArray[np.bool_]],
    offset: Sequence[int],
    acquisition: Sequence[int],
    looks: Sequence[Callable[[NDArray[np.uint16]], None]],
) -> NDArray[np.uint16]:
    """month_median_np of blocks (1, 1, y, x), one for each scene -> (1, 1, y, x) at 10 m."""
    for look, seen in zip(looks, dn, strict=False):
        look(seen[0, 0])
    if not dn:
        return np.zeros((1, 1, *shape), np.uint16)
    median = month_median_np([block[0, 0] for block in dn], clear, offset, acquisition)
    return _repeated_np(median, shape[0] // median.shape[0])[None, None]
