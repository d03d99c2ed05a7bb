"""Pools of simulated and measured series, and the augmented batches drawn from them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomap.datasets.kinds import kind_of_class
from geomap.datasets.measured import READERS
from geomap.datasets.samples import CLIMATE, COVER, Samples
from geomap.datasets.series import spanning
from geomap.datasets.sets import read_pixels
from geomap.datasets.simulated import COVER_LEGENDS, simulated_samples
from geomap.errors import ConfigError
from geomap.sentinel2 import BANDS, MONTHS
from geomap.train.config import Augment

log = logging.getLogger(__name__)

MAX_DN = 20_000.0
FEWEST_MONTHS = 3
"""Fewest months that augmentation keeps; maps need as many (min_clear_months)."""
SPANS = (1, 2, 4)
"""Steps of a series that is shortened in training: a year, half-years, quarters."""


@dataclass(frozen=True)
class Pool:
    """Samples of one origin, and the chance of each to be drawn into a batch."""

    samples: Samples
    chance: NDArray[np.float64]  # (n,)
    measured: bool

    @cached_property
    def kind(self) -> NDArray[np.intp]:
        """(n,) positions among the kinds of land; -1 where unknown. Every batch asks for some."""
        return kind_of(self.samples)

    @property
    def climate(self) -> NDArray[np.intp]:
        """(n,) positions in the table of climates; -1 where unknown."""
        return self.samples.labels[CLIMATE] - 1

    def of(self, by: Literal["kind", "climate"]) -> NDArray[np.intp]:
        """What determines the class of a series at a level (levels.Level.by)."""
        return self.kind if by == "kind" else self.climate


@dataclass(frozen=True)
class Batch:
    """Series as the encoder takes them, with the index of their kind of land, climate and pool."""

    dn: Tensor  # (N, 12, 10) float32; series of fewer steps have the rest not valid
    valid: Tensor  # (N, 12) bool
    months: Tensor  # (N, 12, 12) float32, share of each month in each step
    kind: Tensor  # (N,) -1: unknown
    climate: Tensor  # (N,) -1: unknown
    pool: Tensor  # (N,) measured sets from 0 in their order, then the simulated one


def simulated_pool(rng: np.random.Generator, n: int) -> Pool:
    """A pool of n simulated series, all equally likely."""
    return Pool(simulated_samples(rng, n), np.full(n, 1 / n), measured=False)


def measured_pool(samples: Samples) -> Pool:
    """A pool of a measured set; kinds of land are drawn by the square root of their size, so that small ones occur."""
    _, inverse, count = np.unique(kind_of(samples), return_inverse=True, return_counts=True)
    chance = 1 / np.sqrt(count[inverse])
    return Pool(samples, chance / chance.sum(), measured=True)


def kind_of(samples: Samples) -> NDArray[np.intp]:
    """(n,) positions among the kinds of land, by the sample's cover, else its crop, else its land cover; -1: none."""
    nothing = np.zeros(len(samples), np.intp)
    kind = samples.labels.get(COVER, nothing) - 1
    for legend, attribute in (("crops", "crop"), ("landcover", "landcover")):
        kind = np.where(kind < 0, kind_of_class(attribute, samples.labels.get(legend, nothing)), kind)
    return kind


def read_measured(name: str, path: Path) -> Samples:
    """A measured set unchanged, or those samples of a user's table that have a label and a valid month.

    Labels are a cover, a crop or a land cover; a climate is not needed. Raises ConfigError if no sample has one, and
    the errors of `sets.read_pixels`.
    """
    samples = read_pixels(name, path)
    if name in READERS:  # kept whole: the default weights saw Corsica's two parcels without a month
        return samples
    use: NDArray[np.bool_] = (kind_of(samples) >= 0) & samples.valid.any(1)
    if not use.any():
        raise ConfigError(
            f"{path}: no row has a month and a cover, crop or land cover; docs/training-data.md names the columns"
        )
    if not use.all():
        log.info("%s: %d samples without a label or a month are left out", path, (~use).sum())
    nothing = np.zeros(len(samples), np.intp)
    return replace(samples, labels={**dict.fromkeys((CLIMATE, *COVER_LEGENDS), nothing), **samples.labels}).rows(use)


def series_of_each(size: int, share: float, sets: int) -> int:
    """Series of a batch that come from each of the measured sets."""
    return min(round(size * share / sets), size // sets) if sets else 0


def draw_batch(
    rng: np.random.Generator, simulated: Pool, measured: Sequence[Pool], size: int, share: float, augment: Augment
) -> Batch:
    """Draw a batch: `share` of it from the measured sets in equal parts, the rest simulated."""
    each = series_of_each(size, share, len(measured))
    parts = [_pick(rng, pool, each, augment) for pool in measured]
    parts.append(_pick(rng, simulated, size - each * len(measured), augment))
    dn, valid, months, kind, climate = (np.concatenate([p[i] for p in parts]) for i in range(5))
    origin = np.repeat(np.arange(len(parts)), [len(p[0]) for p in parts])
    return Batch(*map(torch.from_numpy, (dn, valid, months, kind, climate, origin)))


def _pick(rng: np.random.Generator, pool: Pool, n: int, augment: Augment) -> tuple[NDArray[Any], ...]:
    """The fields of a Batch, pool left out, of n series of one pool."""
    i = rng.choice(len(pool.samples), n, p=pool.chance)
    picked = pool.samples.rows(i)
    if picked.steps is None:
        dn = picked.dn.astype(np.float32)
        if pool.measured:
            dn = _shift_np(rng, dn, picked.valid, augment.shift)
        dn, valid, months = span_np(rng, dn, keep_months_np(rng, picked.valid, augment), augment.spans)
    else:
        dn, valid, months = _padded_np(picked)
    gain = np.exp(rng.normal(0, augment.gain, (n, 1, 1)) + rng.normal(0, augment.band_gain, (n, 1, len(BANDS))))
    dn = np.clip(dn * gain + rng.normal(0, augment.offset, (n, 1, len(BANDS))), 1, MAX_DN).astype(np.float32)
    return dn, valid, months, pool.kind[i], pool.climate[i]


def _padded_np(samples: Samples) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
    """DNs (n, 12, 10), valid (n, 12) and months (n, 12, 12) of series of T steps; steps after those are not valid."""
    assert samples.steps is not None
    fill = MONTHS - len(samples.steps)
    dn = np.pad(samples.dn.astype(np.float32), ((0, 0), (0, fill), (0, 0)))
    months = np.tile(np.pad(samples.steps, ((0, fill), (0, 0))), (len(samples), 1, 1))
    return dn, np.pad(samples.valid, ((0, 0), (0, fill))), months


def span_np(
    rng: np.random.Generator, dn: NDArray[np.float32], valid: NDArray[np.bool_], chance: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
    """Shorten a share of the series to quarters, half-years or a year: medians of their valid months (`shorten`).

    Returns:
        DNs (n, 12, 10) and valid (n, 12), steps first and the rest not valid; months (n, 12, 12), shares of each step.
    """
    dn, valid = dn.copy(), valid.copy()
    months = np.tile(np.eye(MONTHS, dtype=np.float32), (len(dn), 1, 1))
    length = np.where(rng.random(len(dn)) < chance, rng.choice(SPANS, len(dn)), MONTHS)
    for steps in SPANS:
        rows = np.flatnonzero(length == steps)
        made = spanning(dn[rows].astype(np.uint16), valid[rows], steps)
        dn[rows, :steps], valid[rows, :steps], valid[rows, steps:] = made.dn, made.valid, False
        months[rows, :steps], months[rows, steps:] = made.months, 0
    return dn, valid, months


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
