"""Monthly medians and clear-observation counts of a tile.

Numpy kernels do the arithmetic; `monthly` applies them to the dask chunks of a stack, one month and band at a time. All
values stay uint16 DN with 0 as nodata: nodata is masked first, then the offset is added, then valid values are floored
at 1. The median of an even count is the mean of the two middle values, rounded down.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import dask.array as da
import numpy as np
from dask import threaded
from dask.base import tokenize
from dask.core import get
from dask.highlevelgraph import HighLevelGraph
from dask.optimization import cull
from dask.utils import ensure_dict
from numpy.typing import NDArray

from geomap.composite.median import clear_count_np, month_median_np, repeated_np
from geomap.sentinel2 import BANDS_10M, BANDS_20M
from geomap.types import BandStack, Composite, Stack


class Watch(Protocol):
    """A callback that sees raw DNs while they are in memory."""

    bands: Sequence[str]

    def see(self, scene: str, rows: slice, cols: slice, dn: NDArray[np.uint16]) -> None:
        """One block of one of `bands`: scene id, its place at 20 m, (y, x) raw DNs; called from several threads."""


def read_classes(classes: da.Array, workers: int | None = None) -> NDArray[np.uint8]:
    """(scene, y, x) SCL, read with `workers` threads."""
    computed: NDArray[np.uint8] = classes.compute(**_threads(workers))
    return computed


def monthly(
    stack: Stack, months: int, bands: Sequence[str], watch: Watch | None = None, fused: bool = False
) -> da.Array:
    """Lazy monthly medians: one task per month, band and chunk, which holds that month's scenes of one band.

    Args:
        stack: the scenes.
        months: number of months in the period.
        bands: BANDS_10M or BANDS_20M.
        watch: callback that sees each block it asks for once, before the offset is added.
        fused: whether a median's task reads its scenes itself, one after another: a tenth faster where reads do not
            wait, since dask's work between tasks holds the interpreter's lock. Each thread holds a month of a band.

    Returns:
        (month, band, y, x) uint16 at the bands' resolution, 0 = nodata.
    """
    read = stack.fine if bands == BANDS_10M else stack.coarse
    rows, columns = read.dn.chunks[2:]
    name = f"median-{tokenize(read.dn.name, months)}"
    where = itertools.product(range(months), range(len(bands)), range(len(rows)), range(len(columns)))
    tasks: dict[Any, Any] = {
        (name, m, b, i, j): _task(stack, read, m, b, i, j, watch if watch and bands[b] in watch.bands else None)
        for m, b, i, j in where
    }
    needed: list[Any] = [] if fused else [read.dn]
    if fused:
        reads = ensure_dict(read.dn.__dask_graph__())
        tasks = {key: (_Fused(block, cull(reads, dn)[0], dn),) for key, (block, dn) in tasks.items()}
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=needed)
    return da.Array(graph, name, chunks=((1,) * months, (1,) * len(bands), rows, columns), dtype=np.uint16)


def _task(stack: Stack, read: BandStack, month: int, band: int, i: int, j: int, watch: Watch | None) -> tuple[Any, ...]:
    """The dask task of one block; scenes without a clear pixel there are not read."""
    part = tuple(_slice(stack.coarse.dn.chunks[axis], index) for axis, index in ((2, i), (3, j)))
    scenes = [s for s, step in enumerate(stack.step) if step == month and stack.clear[s][part].any()]
    rows, cols = part
    block = functools.partial(
        _median_block,
        looks=[functools.partial(watch.see, stack.id[s], rows, cols) for s in scenes] if watch else [],
        shape=(read.dn.chunks[2][i], read.dn.chunks[3][j]),
        clear=[stack.clear[s][part] for s in scenes],
        offset=[int(read.offset[s, band]) for s in scenes],
        acquisition=[stack.acquisition[s] for s in scenes],
    )
    return block, [(read.dn.name, s, band, i, j) for s in scenes]


@dataclass(frozen=True, slots=True)
class _Fused:
    """Makes a median and, before it, runs the tasks `reads` that it takes, whose keys are `dn`."""

    block: Callable[[Sequence[NDArray[np.uint16]]], NDArray[np.uint16]]
    reads: Mapping[Any, Any]
    dn: list[Any]

    def __call__(self) -> NDArray[np.uint16]:
        return self.block(get(self.reads, self.dn))


def _slice(chunks: Sequence[int], index: int) -> slice:
    start = sum(chunks[:index])
    return slice(start, start + chunks[index])


def compute(
    stack: Stack,
    months: int,
    workers: int | None = None,
    watch: Watch | None = None,
    coarse: NDArray[np.uint16] | None = None,
    fused: bool = False,
) -> Composite:
    """Monthly medians, and clear counts at 10 m, written block by block into arrays.

    Args:
        stack: the scenes over a tile.
        months: number of months in the period.
        workers: threads (default: dask's own choice).
        watch: callback that sees each block it asks for once, before the offset is added.
        coarse: (month, band, y, x) medians of the bands of 20 m, if these are known; then they are not read.
        fused: as for `monthly`.

    Raises:
        ReadError, SourceUnavailableError: a file cannot be read.
    """
    lazy = {BANDS_10M: monthly(stack, months, BANDS_10M, watch, fused)}
    if coarse is None:
        lazy[BANDS_20M] = monthly(stack, months, BANDS_20M, watch, fused)
    made = {bands: np.zeros(medians.shape, np.uint16) for bands, medians in lazy.items()}
    da.store([*lazy.values()], [*made.values()], lock=False, **_threads(workers))
    fine = made[BANDS_10M]
    clear = np.zeros((months, *fine.shape[2:]), np.uint8)
    if stack.clear:
        clear = repeated_np(clear_count_np(stack.clear, stack.step, stack.acquisition, months))
    return Composite(fine, clear, made.get(BANDS_20M, coarse))


def coarse_medians(
    stack: Stack,
    months: int,
    parts: Sequence[tuple[slice, slice]],
    workers: int | None = None,
    watch: Watch | None = None,
    fused: bool = False,
) -> list[NDArray[np.uint16]]:
    """(month, band, y, x) medians of the bands of 20 m, at 20 m, of parts of the stack; other arguments as `compute`.

    `parts`: rows and columns of each at 20 m.
    """
    lazy = monthly(stack, months, BANDS_20M, watch, fused)
    sizes = [[axis.stop - axis.start for axis in part] for part in parts]
    out = [np.zeros((*lazy.shape[:2], *size), np.uint16) for size in sizes]
    target: Any = _Parts(parts, out)
    da.store(lazy, target, lock=False, **_threads(workers))
    return out


class _Parts:
    """Where the blocks of a (month, band, y, x) array go, of which only parts are held."""

    def __init__(self, parts: Sequence[tuple[slice, slice]], out: Sequence[NDArray[np.uint16]]) -> None:
        self._parts = [*zip(parts, out, strict=True)]

    def __setitem__(self, place: tuple[slice, ...], block: NDArray[np.uint16]) -> None:
        month, band, rows, columns = place
        for (down, across), out in self._parts:
            (mine_down, there_down), (mine_across, there_across) = common(rows, down), common(columns, across)
            out[month, band, mine_down, mine_across] = block[:, :, there_down, there_across]


def common(seen: slice, part: slice) -> tuple[slice, slice]:
    """What two ranges of rows have in common: counted from the start of `part`, and from that of `seen`."""
    first, last = max(seen.start, part.start), max(min(seen.stop, part.stop), seen.start, part.start)
    return slice(first - part.start, last - part.start), slice(first - seen.start, last - seen.start)


def _forget_pools() -> None:
    """Let a forked process make pools of its own: those of dask came without their threads, and tasks would wait."""
    threaded.default_pool = None
    threaded.pools.clear()
    threaded.pools_lock = threading.Lock()  # another thread may have held it
    threaded.main_thread = threading.current_thread()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)


def _threads(workers: int | None) -> dict[str, Any]:
    """The scheduler itself: asked for it by name, dask imports all of distributed first, a quarter of a second."""
    return {"scheduler": threaded.get} | ({"num_workers": workers} if workers else {})


def _median_block(
    dn: Sequence[NDArray[np.uint16]],
    *,
    shape: tuple[int, int],
    clear: Sequence[NDArray[np.bool_]],
    offset: Sequence[int],
    acquisition: Sequence[int],
    looks: Sequence[Callable[[NDArray[np.uint16]], None]],
) -> NDArray[np.uint16]:
    """month_median_np on blocks: (1, 1, y, x), one for each scene -> (1, 1, y, x)."""
    for look, seen in zip(looks, dn, strict=False):
        look(seen[0, 0])
    if not dn:
        return np.zeros((1, 1, *shape), np.uint16)
    return month_median_np([block[0, 0] for block in dn], clear, offset, acquisition)[None, None]
