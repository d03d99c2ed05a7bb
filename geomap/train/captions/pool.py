"""Pools of simulated and measured series, and the augmented batches drawn from them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomap.datasets.samples import CLIMATE, COVER, Samples
from geomap.datasets.sets import read_pixels
from geomap.datasets.simulated import simulated_samples
from geomap.datasets.worldcereal import READERS
from geomap.errors import ConfigError
from geomap.sentinel2 import BANDS, MONTHS
from geomap.train.config import Augment

log = logging.getLogger(__name__)

MAX_DN = 20_000.0
FEWEST_MONTHS = 3
"""Fewest months that augmentation keeps; maps need as many (min_clear_months)."""


@dataclass(frozen=True)
class Pool:
    """Samples of one origin, and the chance of each to be drawn into a batch."""

    samples: Samples
    chance: NDArray[np.float64]  # (n,)
    measured: bool

    @property
    def cover(self) -> NDArray[np.intp]:
        """(n,) positions in the table of covers."""
        return self.samples.labels[COVER] - 1

    @property
    def climate(self) -> NDArray[np.intp]:
        """(n,) positions in the table of climates."""
        return self.samples.labels[CLIMATE] - 1


@dataclass(frozen=True)
class Batch:
    """Series as the encoder takes them, with the index of their cover, climate and pool."""

    dn: Tensor  # (N, 12, 10) float32
    valid: Tensor  # (N, 12) bool
    cover: Tensor  # (N,)
    climate: Tensor  # (N,)
    pool: Tensor  # (N,) measured sets from 0 in their order, then the simulated one


def simulated_pool(rng: np.random.Generator, n: int) -> Pool:
    """A pool of n simulated series, all equally likely."""
    return Pool(simulated_samples(rng, n), np.full(n, 1 / n), measured=False)


def measured_pool(samples: Samples) -> Pool:
    """A pool of a measured set; covers are drawn by the square root of their size, so that small ones occur."""
    _, inverse, count = np.unique(samples.labels[COVER], return_inverse=True, return_counts=True)
    chance = 1 / np.sqrt(count[inverse])
    return Pool(samples, chance / chance.sum(), measured=True)


def read_measured(name: str, path: Path) -> Samples:
    """A measured set unchanged, or those samples of a user's table that have a cover, a climate and a valid month.

    Raises ConfigError if no sample has them, and the errors of `sets.read_pixels`.
    """
    samples = read_pixels(name, path)
    if name in READERS:  # kept whole: the default weights saw Corsica's two parcels without a month
        return samples
    nothing = np.zeros(len(samples), np.intp)
    known = (samples.labels.get(COVER, nothing) > 0) & (samples.labels.get(CLIMATE, nothing) > 0)
    use: NDArray[np.bool_] = known & samples.valid.any(1)
    if not use.any():
        raise ConfigError(f"{path}: no row has a cover, a climate and a month; docs/training-data.md names the columns")
    if not use.all():
        log.info("%s: %d samples without a cover, a climate or a month are left out", path, (~use).sum())
    return samples.rows(use)


def draw_batch(
    rng: np.random.Generator, simulated: Pool, measured: Sequence[Pool], size: int, share: float, augment: Augment
) -> Batch:
    """Draw a batch: `share` of it from the measured sets in equal parts, the rest simulated."""
    each = round(size * share / len(measured)) if measured else 0
    parts = [_pick(rng, pool, each, augment) for pool in measured]
    parts.append(_pick(rng, simulated, size - each * len(measured), augment))
    dn, valid, cover, climate = (np.concatenate([p[i] for p in parts]) for i in range(4))
    origin = np.repeat(np.arange(len(parts)), [len(p[0]) for p in parts])
    return Batch(*map(torch.from_numpy, (dn, valid, cover, climate, origin)))


def _pick(
    rng: np.random.Generator, pool: Pool, n: int, augment: Augment
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.intp], NDArray[np.intp]]:
    i = rng.choice(len(pool.samples), n, p=pool.chance)
    dn, valid = pool.samples.dn[i].astype(np.float32), pool.samples.valid[i]
    if pool.measured:
        dn = _shift_np(rng, dn, valid, augment.shift)
    gain = np.exp(rng.normal(0, augment.gain, (n, 1, 1)) + rng.normal(0, augment.band_gain, (n, 1, len(BANDS))))
    dn = np.clip(dn * gain + rng.normal(0, augment.offset, (n, 1, len(BANDS))), 1, MAX_DN).astype(np.float32)
    return dn, keep_months_np(rng, valid, augment), pool.cover[i], pool.climate[i]


def _shift_np(
    rng: np.random.Generator, dn: NDArray[np.float32], valid: NDArray[np.bool_], chance: float
) -> NDArray[np.float32]:
    """Move series by up to half a month: mix each month with its neighbour where both are valid."""
    n = len(dn)
    step = np.where(rng.random(n) < 0.5, 1, -1)
    neighbour = (np.arange(MONTHS) + step[:, None]) % MONTHS
    rows = np.arange(n)[:, None]
    share = np.where(rng.random(n) < chance, rng.uniform(0, 0.5, n), 0)[:, None] * valid[rows, neighbour]
    out: NDArray[np.float32] = (dn * (1 - share[..., None]) + dn[rows, neighbour] * share[..., None]).astype(np.float32)
    return out


def keep_months_np(rng: np.random.Generator, valid: NDArray[np.bool_], augment: Augment) -> NDArray[np.bool_]:
    """Months kept (n, 12): all, a random subset or months in a row. A series that would lose all months keeps all."""
    n = len(valid)
    count = rng.integers(FEWEST_MONTHS, MONTHS, (n, 1))
    subset = rng.permuted(np.tile(np.arange(MONTHS), (n, 1)), axis=1) < count
    start = rng.integers(0, MONTHS, (n, 1))
    window = (np.arange(MONTHS) - start) % MONTHS < count
    u = rng.random((n, 1))
    keep = np.where(u < augment.some_months, subset, np.where(u < augment.some_months + augment.window, window, True))
    kept = valid & keep
    out: NDArray[np.bool_] = np.where(kept.any(1, keepdims=True), kept, valid)
    return out
