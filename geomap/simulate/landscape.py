"""Draws a small landscape with known truth: parcels, forest, river, lake, town and road."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from geomap.simulate.covers import table
from geomap.simulate.pixels import Pixels, draw_pixels
from geomap.simulate.spectra import Array
from geomap.types import Grid

SIDE: Final = 256
GRID: Final = Grid(epsg=32631, west=600_000, north=5_640_000, width=SIDE, height=SIDE)
"""2.56 km in UTM zone 31 north, near 50.9 N 4.4 E; the landscape itself is invented."""

CLIMATE: Final = "atlantic"

PARCELS: Final = (
    "winter_wheat", "winter_barley", "maize", "pasture", "winter_wheat", "sugar_beet", "rapeseed", "meadow", "maize",
    "potato", "bare_soil", "winter_wheat", "spring_barley", "pasture", "winter_barley", "fruit_orchard", "maize",
    "meadow",
)  # fmt: skip
"""Covers given to parcels in turn; all occur in a landscape with at least this many parcels."""

WOODS: Final = ("broadleaved_forest", "mixed_forest", "coniferous_forest")
VARIANTS: Final = 16
"""Number of individual stands, houses or waters in a patch."""


@dataclass(frozen=True)
class Landscape:
    """The cover of every pixel of `grid`."""

    grid: Grid
    cover: NDArray[np.intp]  # (y, x) index in table().cover
    unit: NDArray[np.intp]  # (y, x) row of `pixels`: one parcel, stand or house
    pixels: Pixels

    def ids(self, attribute: str) -> NDArray[np.uint8]:
        """(y, x) class ids of `landcover`, `crop`, `landuse` or `habitat`; 0 where that legend has no class."""
        of_cover = np.array([getattr(c, attribute) for c in table().cover], np.uint8)
        return of_cover[self.cover]


def landscape(seed: int = 0, size: int = SIDE) -> Landscape:
    """Draw a landscape of `size` x `size` pixels (an even number, 64 or more)."""
    if size < 64 or size % 2:
        raise ValueError(f"size must be even and 64 or more, not {size}")
    rng = np.random.default_rng([seed, 1])
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    kind, parcel = _parcels(rng, size)
    unit = parcel.copy()

    def put(where: NDArray[np.bool_], key: str, patch: int) -> None:
        """Give the pixels `where` the cover `key`, in patches of `patch` pixels that look different."""
        index = table().index(key)
        stand = rng.integers(0, VARIANTS, (size // patch + 1,) * 2).repeat(patch, 0).repeat(patch, 1)[:size, :size]
        kind[where] = index
        unit[where] = (1000 + 100 * index + stand)[where]

    edge = 0.30 * noise(rng, size, 5) + y * 0.9 + 0.35 * x
    for key, limit in zip(WOODS, (0.42, 0.27, 0.17), strict=True):
        put(edge < limit, key, 6)
    lake = (x - 0.80) ** 2 + 1.8 * (y - 0.30) ** 2 < (0.085 + 0.02 * noise(rng, size, 4)) ** 2
    put(lake, "lake", size)
    course = (
        0.62 + 0.07 * np.sin(2 * np.pi * (x * 1.3 + rng.random())) + 0.03 * np.sin(2 * np.pi * (x * 3.1 + rng.random()))
    )
    bank = np.abs(y - course) * size
    put(bank < 9, "pasture", 12)
    put(bank < 2.6, "river", size)
    town = (x - 0.33) ** 2 + (y - 0.80) ** 2 < (0.14 + 0.03 * noise(rng, size, 6)) ** 2
    put(town & (bank > 4), "town", 3)
    put((np.abs(x - 0.55) < 0.05) & (np.abs(y - 0.86) < 0.045), "industry", 4)
    put((np.abs(y - 0.93 + 0.25 * (x - 0.5)) * size < 1.0) & (bank > 4), "road", size)
    _, rows, dense = np.unique(unit, return_index=True, return_inverse=True)
    cover = kind.ravel()[rows]
    climate = np.full(len(cover), list(table().climate).index(CLIMATE))
    pixels = draw_pixels(rng, cover, climate)
    pixels = replace(pixels, shift=pixels.shift * 0.5)  # spring varies less within one landscape
    return Landscape(replace(GRID, width=size, height=size), kind, dense.reshape(size, size), pixels)


def noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Smooth noise (size, size), about -1..1: random values on a coarse grid and on one twice as fine."""
    total = np.zeros((size, size), np.float32)
    for octave, n in enumerate((cells, 2 * cells)):
        grid = rng.uniform(-1, 1, (n + 2, n + 2)).astype(np.float32)
        at = np.linspace(0, n, size, endpoint=False, dtype=np.float32)
        i = at.astype(int)
        f = (at - i) ** 2 * (3 - 2 * (at - i))  # smooth step
        rows = grid[i] * (1 - f)[:, None] + grid[i + 1] * f[:, None]
        total += (rows[:, i] * (1 - f) + rows[:, i + 1] * f) / 2**octave
    return total / 1.2


def _parcels(rng: np.random.Generator, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(cover, parcel number), both (size, size): rectangles cut from a rotated sheet."""
    angle = rng.uniform(0.15, 0.5)
    y, x = np.mgrid[0:size, 0:size]
    u = (x * np.cos(angle) + y * np.sin(angle)).astype(int)
    v = (y * np.cos(angle) - x * np.sin(angle)).astype(int) + size
    sheet = np.zeros((u.max() + 1, v.max() + 1), np.intp)
    _cut(rng, sheet, [0])
    parcel = sheet[u, v]
    numbers, parcel = np.unique(parcel, return_inverse=True)
    order = [table().index(PARCELS[i % len(PARCELS)]) for i in rng.permutation(len(numbers))]
    parcel = parcel.reshape(size, size)
    return np.array(order, np.intp)[parcel], parcel.astype(np.intp)


def _cut(rng: np.random.Generator, part: NDArray[np.intp], count: list[int]) -> None:
    """Number the parcels of a sheet in place; parts longer than a field (16 to 44 pixels) are halved."""
    axis = 0 if part.shape[0] >= part.shape[1] else 1
    if part.shape[axis] < rng.integers(16, 44):
        part[:] = count[0]
        count[0] += 1
        return
    at = int(part.shape[axis] * rng.uniform(0.35, 0.65))
    for half in (part[:at], part[at:]) if axis == 0 else (part[:, :at], part[:, at:]):
        _cut(rng, half, count)
