"""Numpy kernels of the composite: medians of a month, and counts of clear observations."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

UPSAMPLE = 2  # 20 m pixels to 10 m pixels, nearest: each value is repeated

STRIP_BYTES = 128 * 2**10  # size of the rows sorted at a time, so that a month's slices stay in the second-level cache


SATURATED = 65535
"""DN of a detector at its limit, which is no measurement (Sentinel-2 Product Specification, special values)."""


def observed_np(dn: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """DNs with SATURATED as nodata, 0."""
    return np.where(dn == SATURATED, np.uint16(0), dn) if dn.size and dn.max() == SATURATED else dn


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
        dn: per scene, at least one, (y, x) raw DNs; 0 and SATURATED are nodata.
        clear: per scene, (y, x), or half as many rows and columns if its pixels are twice as large.
        offset: DN to add, per scene.
        acquisition: pass number per scene; of scenes with the same number, the first value counts where both are clear.

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
    """Median over slices of equal shape, ignoring 0; even counts average the middle two, rounded down; 0 if none.

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
    """(y, x) per scene, at least one -> (month, y, x): clear acquisitions of each month, at most 255."""
    out = np.zeros((months, *clear[0].shape), np.uint8)
    for month in range(months):
        scenes = [s for s, m in enumerate(step) if m == month]
        total = np.zeros(clear[0].shape, np.uint16)
        for group in _by_pass([acquisition[s] for s in scenes]):
            total += np.logical_or.reduce([clear[scenes[s]] for s in group])
        out[month] = np.minimum(total, 255)
    return out


def _by_pass(acquisition: Sequence[int]) -> list[list[int]]:
    """Scene indices grouped by pass."""
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
    """Some rows of each pass: one slice of clear DNs with the offset added; none if nothing is clear."""
    slices: list[NDArray[np.uint16]] = []
    for scenes in _by_pass(acquisition):
        merged: NDArray[np.uint16] | None = None
        for scene in scenes:
            mask = clear[scene][rows.start // scale : rows.stop // scale]
            values = _masked_np(shifted_np(observed_np(dn[scene][rows]), offset[scene]), mask)
            merged = values if merged is None else np.where(merged == 0, values, merged)
        if merged is not None and merged.any():
            slices.append(merged)
    return slices


def _masked_np(dn: NDArray[np.uint16], clear: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """DNs where clear, else 0; (y, x) DNs, and a mask of the same shape or of pixels twice as large."""
    if dn.shape == clear.shape:
        return dn & -clear.astype(np.uint16)
    pairs = np.ascontiguousarray(dn).view(np.uint32)  # two neighbours in a row, which share a 20 m pixel
    both = pairs.reshape(-1, UPSAMPLE, clear.shape[1]) & -clear.astype(np.uint32)[:, None]
    masked: NDArray[np.uint16] = both.view(np.uint16).reshape(dn.shape)
    return masked


def repeated_np(pixels: NDArray[Any], times: int = UPSAMPLE) -> NDArray[Any]:
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
