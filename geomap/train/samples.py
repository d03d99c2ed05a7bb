"""Training samples: a pool of simulated series and the real sets, drawn into augmented batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomap.datasets.worldcereal import RealSet
from geomap.sentinel2 import BANDS, MONTHS
from geomap.simulate import series
from geomap.simulate.covers import table
from geomap.train.captions import cover_index
from geomap.train.config import Augment

MAX_DN = 20_000.0
MIN_MONTHS = 3
"""Fewest months left by augmentation; maps ask for as many (min_clear_months)."""


@dataclass(frozen=True)
class Pool:
    """Series of one origin with their covers and climates, and the chance of each to be drawn."""

    dn: NDArray[np.uint16]  # (n, 12, 10)
    valid: NDArray[np.bool_]
    cover: NDArray[np.intp]
    climate: NDArray[np.intp]
    chance: NDArray[np.float64]
    real: bool


@dataclass(frozen=True)
class Batch:
    """Series as the encoder takes them, with the index of their cover, climate and pool."""

    dn: Tensor  # (N, 12, 10) float32
    valid: Tensor  # (N, 12) bool
    cover: Tensor  # (N,)
    climate: Tensor  # (N,)
    pool: Tensor  # (N,) 0.. for the real sets in turn, then the simulated one


def simulated_pool(rng: np.random.Generator, n: int) -> Pool:
    """A pool of n simulated series, each as likely as the others."""
    s = series.simulate(rng, n)
    return Pool(s.dn, s.valid, s.cover, s.climate, np.full(n, 1 / n), real=False)


def real_pool(real: RealSet) -> Pool:
    """A real set; a class is drawn by the square root of its size, so that the small ones are met."""
    cover = cover_index(real.cover)
    _, inverse, count = np.unique(cover, return_inverse=True, return_counts=True)
    chance = 1 / np.sqrt(count[inverse])
    climate = np.full(len(real), list(table().climate).index(real.climate))
    return Pool(real.dn, real.valid, cover, climate, chance / chance.sum(), real=True)


def draw_batch(
    rng: np.random.Generator, simulated: Pool, real: Sequence[Pool], size: int, real_share: float, augment: Augment
) -> Batch:
    """A batch: `real_share` of it from the real sets in equal parts, the rest simulated."""
    each = round(size * real_share / len(real)) if real else 0
    parts = [_pick(rng, pool, each, augment) for pool in real]
    parts.append(_pick(rng, simulated, size - each * len(real), augment))
    dn, valid, cover, climate = (np.concatenate([p[i] for p in parts]) for i in range(4))
    origin = np.repeat(np.arange(len(parts)), [len(p[0]) for p in parts])
    return Batch(*map(torch.from_numpy, (dn, valid, cover, climate, origin)))


def _pick(
    rng: np.random.Generator, pool: Pool, n: int, augment: Augment
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.intp], NDArray[np.intp]]:
    i = rng.choice(len(pool.dn), n, p=pool.chance)
    dn, valid = pool.dn[i].astype(np.float32), pool.valid[i]
    if pool.real:
        dn = _shift_np(rng, dn, valid, augment.shift)
    gain = np.exp(rng.normal(0, augment.gain, (n, 1, 1)) + rng.normal(0, augment.band_gain, (n, 1, len(BANDS))))
    dn = np.clip(dn * gain + rng.normal(0, augment.offset, (n, 1, len(BANDS))), 1, MAX_DN).astype(np.float32)
    return dn, keep_months_np(rng, valid, augment), pool.cover[i], pool.climate[i]


def _shift_np(
    rng: np.random.Generator, dn: NDArray[np.float32], valid: NDArray[np.bool_], chance: float
) -> NDArray[np.float32]:
    """Series moved by up to half a month: each month mixed with its neighbour where both are valid."""
    n = len(dn)
    step = np.where(rng.random(n) < 0.5, 1, -1)
    neighbour = (np.arange(MONTHS) + step[:, None]) % MONTHS
    rows = np.arange(n)[:, None]
    share = np.where(rng.random(n) < chance, rng.uniform(0, 0.5, n), 0)[:, None] * valid[rows, neighbour]
    out: NDArray[np.float32] = (dn * (1 - share[..., None]) + dn[rows, neighbour] * share[..., None]).astype(np.float32)
    return out


def keep_months_np(rng: np.random.Generator, valid: NDArray[np.bool_], augment: Augment) -> NDArray[np.bool_]:
    """Months left (n, 12): all, a random subset or a run of them; series that would keep none keep what they have."""
    n = len(valid)
    count = rng.integers(MIN_MONTHS, MONTHS, (n, 1))
    subset = rng.permuted(np.tile(np.arange(MONTHS), (n, 1)), axis=1) < count
    start = rng.integers(0, MONTHS, (n, 1))
    window = (np.arange(MONTHS) - start) % MONTHS < count
    u = rng.random((n, 1))
    keep = np.where(u < augment.some_months, subset, np.where(u < augment.some_months + augment.window, window, True))
    kept = valid & keep
    out: NDArray[np.bool_] = np.where(kept.any(1, keepdims=True), kept, valid)
    return out
