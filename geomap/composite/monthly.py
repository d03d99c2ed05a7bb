"""Monthly medians and clear-observation counts of a tile.

Numpy kernels do the arithmetic; `monthly` applies them to the dask chunks of a stack, one month and band at a time. All
values stay uint16 DN with 0 as nodata: nodata is masked first, then the offset is added, then valid values are floored
at 1. The median of an even count is the mean of the two middle values, rounded down.
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

from geomap.composite.median import clear_count_np, month_median_np, repeated_np
from geomap.sentinel2 import BANDS, BANDS_10M, BANDS_20M
from geomap.types import Composite, Stack


class Watch(Protocol):
    """A callback that sees raw DNs while they are in memory."""

    bands: Sequence[str]

    def see(self, scene: str, rows: slice, cols: slice, dn: NDArray[np.uint16]) -> None:
        """One block of one of `bands`: scene id, its place at 20 m, (y, x) raw DNs; called from several threads."""


def read_classes(classes: da.Array, workers: int | None = None) -> NDArray[np.uint8]:
    """(scene, y, x) SCL, read with `workers` threads."""
    computed: NDArray[np.uint8] = classes.compute(**_threads(workers))
    return computed


def monthly(stack: Stack, months: int, bands: Sequence[str] = BANDS, watch: Watch | None = None) -> da.Array:
    """Lazy monthly medians: one task per month, band and chunk, which holds that month's scenes of one band.

    Args:
        stack: the scenes.
        months: number of months in the period.
        bands: which; those of 20 m alone stay at 20 m, otherwise they are brought to 10 m.
        watch: callback that sees each block it asks for once, before the offset is added.

    Returns:
        (month, band, y, x) uint16, 0 = nodata.
    """
    chunks = (stack.fine if set(bands) & set(BANDS_10M) else stack.coarse).dn.chunks[2:]
    name = f"median-{tokenize(stack.fine.dn.name, stack.coarse.dn.name, months, bands)}"
    where = itertools.product(range(months), range(len(bands)), range(len(chunks[0])), range(len(chunks[1])))
    tasks: dict[Any, Any] = {
        (name, m, b, i, j): _task(stack, m, bands[b], i, j, (chunks[0][i], chunks[1][j]), watch) for m, b, i, j in where
    }
    read: list[Any] = [stack.fine.dn, stack.coarse.dn]
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=read)
    return da.Array(graph, name, chunks=((1,) * months, (1,) * len(bands), *chunks), dtype=np.uint16)


def _task(
    stack: Stack, month: int, band: str, i: int, j: int, shape: tuple[int, int], watch: Watch | None
) -> tuple[Any, ...]:
    """The dask task of one block of (rows, columns); scenes without a clear pixel there are not read."""
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
        shape=shape,
        clear=[stack.clear[s][part] for s in scenes],
        offset=[int(bands.offset[s, number]) for s in scenes],
        acquisition=[stack.acquisition[s] for s in scenes],
    )
    return block, [(bands.dn.name, s, number, i, j) for s in scenes]


def _slice(chunks: Sequence[int], index: int) -> slice:
    start = sum(chunks[:index])
    return slice(start, start + chunks[index])


def compute(
    stack: Stack,
    months: int,
    workers: int | None = None,
    watch: Watch | None = None,
    coarse: NDArray[np.uint16] | None = None,
) -> Composite:
    """Monthly medians and clear counts at 10 m, written block by block into arrays.

    Args:
        stack: the scenes over a tile.
        months: number of months in the period.
        workers: threads (default: dask's own choice).
        watch: callback that sees each block it asks for once, before the offset is added.
        coarse: (month, band, y, x) medians of the bands of 20 m, if these are known; then they are not read.

    Raises:
        ReadError, SourceUnavailableError: a file cannot be read.
    """
    out = np.zeros((months, len(BANDS), *stack.fine.dn.shape[2:]), np.uint16)
    if coarse is not None:
        for month, medians in enumerate(coarse):
            out[month, [BANDS.index(band) for band in BANDS_20M]] = repeated_np(medians)
    bands = BANDS if coarse is None else BANDS_10M
    target: Any = _Into(out, bands)
    da.store(monthly(stack, months, bands, watch), target, lock=False, **_threads(workers))
    if not stack.clear:
        return Composite(out, np.zeros((months, *out.shape[2:]), np.uint8))
    counts = clear_count_np(stack.clear, stack.step, stack.acquisition, months)
    return Composite(out, repeated_np(counts))


def coarse_medians(stack: Stack, months: int, workers: int | None = None, watch: Watch | None = None) -> NDArray[Any]:
    """(month, band, y, x) medians of the bands of 20 m, at 20 m; arguments and errors as `compute`."""
    out = np.zeros((months, len(BANDS_20M), *stack.coarse.dn.shape[2:]), np.uint16)
    da.store(monthly(stack, months, BANDS_20M, watch), out, lock=False, **_threads(workers))
    return out


class _Into:
    """Where the medians of some bands go in an array of all bands, (month, band, y, x)."""

    def __init__(self, out: NDArray[np.uint16], bands: Sequence[str]) -> None:
        self._out, self._at = out, [BANDS.index(band) for band in bands]

    def __setitem__(self, place: tuple[slice, ...], block: NDArray[np.uint16]) -> None:
        month, band, rows, columns = place
        self._out[month, self._at[band], rows, columns] = block


def _threads(workers: int | None) -> dict[str, Any]:
    return {"scheduler": "threads"} | ({"num_workers": workers} if workers else {})


def _median_block(
    dn: Sequence[NDArray[np.uint16]],
    *,
    shape: tuple[int, int],
    clear: Sequence[NDArray[np.bool_]],
    offset: Sequence[int],
    acquisition: Sequence[int],
    looks: Sequence[Callable[[NDArray[np.uint16]], None]],
) -> NDArray[np.uint16]:
    """month_median_np on blocks: (1, 1, y, x), one for each scene -> (1, 1, y, x) at 10 m."""
    for look, seen in zip(looks, dn, strict=False):
        look(seen[0, 0])
    if not dn:
        return np.zeros((1, 1, *shape), np.uint16)
    median = month_median_np([block[0, 0] for block in dn], clear, offset, acquisition)
    return repeated_np(median, shape[0] // median.shape[0])[None, None]
