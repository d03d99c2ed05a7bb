"""Means over windows of pixels, which leave nodata out and do not depend on how an area is cut into tiles.

`--smooth N` averages the log-probabilities of the classes over N x N pixels. The log-probability of a class is its
logit less a number that all classes of the pixel share, so the mean logits have the same order of classes, and their
softmax is the softmax of the mean log-probabilities: logits are averaged.

A tile holds only its own pixels. It keeps strips of its unsmoothed values along its edges (`strips`), 2 r pixels wide
for windows that reach r pixels, from which its edge pixels can be made again once its neighbours are there
(run/edges.py).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray


def reach(size: int) -> int:
    """How many pixels a window of size x size reaches from its middle."""
    return size // 2


def smooth_np(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """(K, y, x) values, NaN in all K where there is no data -> their means over windows of size x size pixels.

    The size is odd. Pixels without data do not count, and stay NaN. The sums are added in one order, by column and then
    by row, so a mean has the same bits in every array that holds its window.
    """
    valid = ~np.isnan(values[0])
    count = _window_sum(valid.astype(np.float32), size)
    means = np.full_like(values, np.nan)
    for plane, mean in zip(values, means, strict=True):
        np.divide(_window_sum(np.where(valid, plane, np.float32(0)), size), count, out=mean, where=valid)
    return means


def _window_sum(plane: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """(y, x) sums over windows; outside the array there are zeros."""
    r, (rows, columns) = reach(size), plane.shape
    padded = np.pad(plane, r)
    across = padded[:, :columns].copy()
    for shift in range(1, size):
        across += padded[:, shift : shift + columns]
    total = across[:rows].copy()
    for shift in range(1, size):
        total += across[shift : shift + rows]
    return total


def strips(shape: tuple[int, int], size: int) -> tuple[tuple[slice, slice], ...]:
    """(rows, columns) of the four strips along the edges of a tile: north, south, west, east."""
    rows, columns = shape
    deep = 2 * reach(size)
    every = slice(None)
    return (
        (slice(0, deep), every),
        (slice(max(0, rows - deep), rows), every),
        (every, slice(0, deep)),
        (every, slice(max(0, columns - deep), columns)),
    )


EDGE: Final = "edge/"
"""Beginning of the names of strips among the layers of a tile; no layer has a slash in its name."""


def strip_name(legend: str, side: int) -> str:
    """Name of a strip among the layers of a tile."""
    return f"{EDGE}{legend}/{side}"


def strip_layers(legend: str, values: NDArray[Any], size: int) -> dict[str, NDArray[Any]]:
    """The strips of a legend's (K, y, x) values, by name."""
    parts = enumerate(strips(values.shape[1:], size))
    return {strip_name(legend, side): values[:, rows, columns].copy() for side, (rows, columns) in parts}
