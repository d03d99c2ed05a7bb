"""Monthly medians and clear-observation counts of a tile.

Kernels in numpy carry the arithmetic; `monthly` lifts them over the dask chunks of a stack. All values stay uint16 DN
with 0 as nodata: nodata is masked first, then the offset is added, then valid values are floored at 1. The median of an
even count is the mean of the two middle values, rounded down.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from geomap.sentinel2 import BANDS, BANDS_10M, BANDS_20M, SCL_NOT_CLEAR
from geomap.types import BandStack, Composite, Stack

UPSAMPLE = 2  # 20 m pixels to 10 m pixels, nearest: each value is repeated
STRIP_BYTES = 64 * 2**10  # rows of one slice sorted at a time, so that a month's slices stay in the second-level cache


def monthly(stack: Stack, months: int, not_clear: Sequence[int] = SCL_NOT_CLEAR) -> tuple[da.Array, da.Array]:
    """Lazy monthly medians and clear counts at 10 m.

    Args:
        stack: scenes over a tile.
        months: steps of the period.
        not_clear: SCL classes that do not count as clear.

    Returns:
        (month, band, y, x) uint16 in sentinel2.BANDS order with 0 = nodata, and (month, y, x) uint8 counts of clear
        acquisitions, saturated at 255.
    """
    plan = {"step": stack.step, "acquisition": stack.acquisition, "months": months, "not_clear": tuple(not_clear)}
    fine = _lift(stack.fine, stack.scl, scale=UPSAMPLE, **plan)
    coarse = _repeat(_lift(stack.coarse, stack.scl, scale=1, **plan), axes=(2, 3))
    layers = dict(zip(BANDS_10M, fine.transpose(1, 0, 2, 3), strict=True))
    layers |= dict(zip(BANDS_20M, coarse.transpose(1, 0, 2, 3), strict=True))
    clear = da.map_blocks(_count_block, stack.scl, **plan, dtype=np.uint8, chunks=((months,), *stack.scl.chunks[1:]))
    return da.stack([layers[band] for band in BANDS], axis=1), _repeat(clear, axes=(1, 2))


def compute(
    stack: Stack, months: int, not_clear: Sequence[int] = SCL_NOT_CLEAR, workers: int | None = None
) -> Composite:
    """`monthly`, computed chunk by chunk straight into two arrays; `workers` threads (default: dask's own choice)."""
    dn, clear = monthly(stack, months, not_clear)
    out = Composite(np.zeros(dn.shape, np.uint16), np.zeros(clear.shape, np.uint8))
    threads: dict[str, Any] = {"scheduler": "threads"} | ({"num_workers": workers} if workers else {})
    da.store([dn, clear], [out.dn, out.clear], lock=False, **threads)
    return out


def clear_np(scl: NDArray[np.uint8], not_clear: Sequence[int] = SCL_NOT_CLEAR) -> NDArray[np.bool_]:
    """True where the scene classification is a clear observation; same shape. Values above 11 are not clear."""
    table = np.zeros(256, bool)
    table[:12] = True
    table[list(not_clear)] = False
    clear: NDArray[np.bool_] = table[scl]
    return clear


def shifted_np(dn: NDArray[np.uint16], offset: int) -> NDArray[np.uint16]:
    """DNs with the offset added to every valid one, floored at 1; 0 stays 0."""
    if offset == 0:
        return dn
    moved = np.clip(dn.astype(np.int32) + offset, 1, 65535).astype(np.uint16)
    moved[dn == 0] = 0
    return moved


def monthly_median_np(
    dn: NDArray[np.uint16],
    clear: NDArray[np.bool_],
    offset: NDArray[np.int32],
    step: Sequence[int],
    acquisition: Sequence[int],
    months: int,
) -> NDArray[np.uint16]:
    """Median of the clear DNs of each month.

    Args:
        dn: (scene, y, x) raw DNs of one band, 0 = nodata.
        clear: (scene, y, x).
        offset: (scene,) DN to add.
        step: month index of each scene.
        acquisition: pass number of each scene; of scenes with the same number the first clear value counts.
        months: number of steps.

    Returns:
        (month, y, x) DNs, 0 where a month has no clear value.
    """
    out = np.zeros((months, *dn.shape[1:]), np.uint16)
    rows = max(1, STRIP_BYTES // (2 * dn.shape[2]))
    for top in range(0, dn.shape[1], rows):
        part = np.s_[top : top + rows]
        for month in range(months):
            slices = _passes(dn, clear, offset, step, acquisition, month, part)
            if slices:
                out[month, part] = median_np(slices)
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
    clear: NDArray[np.bool_], step: Sequence[int], acquisition: Sequence[int], months: int
) -> NDArray[np.uint8]:
    """(scene, y, x) -> (month, y, x): clear acquisitions of each month, at most 255."""
    out = np.zeros((months, *clear.shape[1:]), np.uint8)
    for month in range(months):
        total = np.zeros(clear.shape[1:], np.uint16)
        for scenes in _by_pass(step, acquisition, month):
            total += clear[scenes].any(axis=0)
        out[month] = np.minimum(total, 255)
    return out


def _by_pass(step: Sequence[int], acquisition: Sequence[int], month: int) -> list[list[int]]:
    """Scene indices of a month, grouped by pass."""
    groups: dict[int, list[int]] = {}
    for scene, (s, a) in enumerate(zip(step, acquisition, strict=True)):
        if s == month:
            groups.setdefault(a, []).append(scene)
    return list(groups.values())


def _passes(
    dn: NDArray[np.uint16],
    clear: NDArray[np.bool_],
    offset: NDArray[np.int32],
    step: Sequence[int],
    acquisition: Sequence[int],
    month: int,
    part: slice,
) -> list[NDArray[np.uint16]]:
    """One slice of clear, shifted DNs for each pass of a month."""
    slices = []
    for scenes in _by_pass(step, acquisition, month):
        merged: NDArray[np.uint16] | None = None
        for scene in scenes:
            values = shifted_np(dn[scene, part], int(offset[scene])) * clear[scene, part]
            merged = values if merged is None else np.where(merged == 0, values, merged)
        if merged is not None and merged.any():
            slices.append(merged)
    return slices


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


def _lift(bands: BandStack, scl: da.Array, scale: int, **plan: Any) -> da.Array:
    """monthly_median_np over chunks: (scene, band, y, x) with its block of (scene, y, x) SCL -> (month, band, y, x)."""
    lifted: da.Array = da.blockwise(
        _median_block,
        "mbyx",
        bands.dn,
        "sbyx",
        scl,
        "syx",
        da.from_array(bands.offset, chunks=(-1, 1)),
        "sb",
        scale=scale,
        new_axes={"m": plan["months"]},
        align_arrays=False,  # blocks of SCL and of 10 m bands cover the same ground with different pixel counts
        concatenate=True,
        dtype=np.uint16,
        **plan,
    )
    return lifted


def _median_block(
    dn: NDArray[np.uint16],
    scl: NDArray[np.uint8],
    offset: NDArray[np.int32],
    *,
    scale: int,
    step: Sequence[int],
    acquisition: Sequence[int],
    months: int,
    not_clear: Sequence[int],
) -> NDArray[np.uint16]:
    clear = clear_np(scl, not_clear)
    if scale > 1:
        clear = clear.repeat(scale, axis=1).repeat(scale, axis=2)
    parts = [
        monthly_median_np(dn[:, band], clear, offset[:, band], step, acquisition, months) for band in range(dn.shape[1])
    ]
    return np.stack(parts, axis=1)


def _count_block(
    scl: NDArray[np.uint8], *, step: Sequence[int], acquisition: Sequence[int], months: int, not_clear: Sequence[int]
) -> NDArray[np.uint8]:
    return clear_count_np(clear_np(scl, not_clear), step, acquisition, months)


def _repeat(array: da.Array, axes: tuple[int, int]) -> da.Array:
    """20 m -> 10 m, nearest."""
    chunks = tuple(
        tuple(UPSAMPLE * c for c in sizes) if axis in axes else sizes for axis, sizes in enumerate(array.chunks)
    )
    repeated: da.Array = da.map_blocks(_repeat_block, array, axes, dtype=array.dtype, chunks=chunks)
    return repeated


def _repeat_block(block: NDArray[Any], axes: tuple[int, int]) -> NDArray[Any]:
    return block.repeat(UPSAMPLE, axes[0]).repeat(UPSAMPLE, axes[1])
