"""Simulates monthly pixel series as the composite stage would return them, with their covers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from geomap.sentinel2 import BANDS, MONTHS, REFLECTANCE_SCALE
from geomap.simulate.covers import table
from geomap.simulate.growth import reflectance
from geomap.simulate.pixels import DAYS, Pixels, climates, draw_pixels
from geomap.simulate.spectra import Array, surface

LOOKS_A_MONTH = 3
"""Observations per month before clouds: one per dekad."""

CHUNK = 4096
"""Pixels simulated at once; bounds the memory (about 300 MB)."""

_WATER_FILM = np.array([b.startswith("B1") for b in BANDS], np.float32)
"""Bands that rain, dew and rime on leaves and soil darken: the two in the SWIR."""


@dataclass(frozen=True)
class SimulatedSeries:
    """Monthly DNs of n pixels; month 0 is January."""

    dn: NDArray[np.uint16]  # (n, 12, 10), 0 where a month has no clear observation
    valid: NDArray[np.bool_]  # (n, 12)
    cover: NDArray[np.intp]  # (n,) index in table().cover
    climate: NDArray[np.intp]  # (n,) index in table().climate

    def __len__(self) -> int:
        return len(self.dn)


def simulate(rng: np.random.Generator, n: int, cover: NDArray[np.intp] | None = None) -> SimulatedSeries:
    """Simulate series of the given covers (n,), or of n covers drawn by land cover and weight."""
    if cover is None:
        cover = draw_covers(rng, n)
    parts = [_simulate(rng, cover[i : i + CHUNK]) for i in range(0, n, CHUNK)]
    return SimulatedSeries(
        *(np.concatenate([getattr(p, f) for p in parts]) for f in ("dn", "valid", "cover", "climate"))
    )


def draw_covers(rng: np.random.Generator, n: int) -> NDArray[np.intp]:
    """Draw (n,) covers by weight; land cover totals, cropland's above all, are tempered so that each occurs often."""
    covers = table().cover
    weight = np.array([c.weight for c in covers])
    total = np.bincount([c.landcover for c in covers], weight)
    weight /= np.sqrt(total)[[c.landcover for c in covers]]
    return rng.choice(len(covers), n, p=weight / weight.sum())


def _simulate(rng: np.random.Generator, cover: NDArray[np.intp]) -> SimulatedSeries:
    n = len(cover)
    pixels = draw_pixels(rng, cover)
    south = rng.random(n) < southern(pixels)
    pixels = replace(pixels, turn=pixels.turn | south)  # a southern calendar year holds parts of two summers
    days = observation_days(rng, south)
    clean = mixed(rng, pixels, reflectance(pixels, days))
    seen, clear = observe(rng, clean, days, pixels.climate)
    dn, valid = monthly_median_np(seen, clear)
    for monthly in (dn, valid):
        monthly[south] = np.roll(monthly[south], MONTHS // 2, axis=1)
    return SimulatedSeries(dn, valid, cover, pixels.climate)


def southern(pixels: Pixels) -> Array:
    """(n,) chance that a pixel lies in the south: its cover's, or its climate's."""
    of_cover = np.array([np.nan if c.south is None else c.south for c in table().cover])[pixels.cover]
    chance: Array = np.where(np.isnan(of_cover), np.array([c.south for c in climates()])[pixels.climate], of_cover)
    return chance


def observation_days(rng: np.random.Generator, south: NDArray[np.bool_]) -> Array:
    """(n, 36) days, three per month from January; months before a window's start are in the window's next year.

    Half of the windows are calendar years; the others start in September to December of the year before. In the south
    the days are those with the same sun in the north, half a year away.
    """
    n = len(south)
    looks = MONTHS * LOOKS_A_MONTH
    days = (np.arange(looks, dtype=np.float32) + 0.5) * (DAYS / looks) + rng.uniform(-4, 4, (n, looks)).astype(
        np.float32
    )
    start = np.where(rng.random(n) < 0.5, MONTHS, rng.integers(8, MONTHS, n)) - np.where(south, MONTHS // 2, 0)
    month = np.arange(looks) // LOOKS_A_MONTH
    return (days - DAYS * (month[None] >= start[:, None])).astype(np.float32)


def mixed(rng: np.random.Generator, pixels: Pixels, clean: Array) -> Array:
    """Mix 5-35 % of a neighbour in the same climate into a fifth of the pixels."""
    other = np.arange(len(clean))
    for c in np.unique(pixels.climate):
        rows = np.flatnonzero(pixels.climate == c)
        other[rows] = rng.permutation(rows)
    share = np.where(rng.random(len(clean)) < 0.2, rng.uniform(0.05, 0.35, len(clean)), 0).astype(np.float32)
    out: Array = clean * (1 - share[:, None, None]) + clean[other] * share[:, None, None]
    return out


def observe(
    rng: np.random.Generator, clean: Array, days: Array, climate: NDArray[np.intp]
) -> tuple[Array, NDArray[np.bool_]]:
    """Reflectance (n, T, 10) as in the sensor's product, and which looks are clear (n, T).

    Adds sun and view gain, haze, thin cloud and shadow missed by the cloud mask, snow, dew, and noise.
    """
    n, looks = clean.shape[:2]
    month = np.minimum((days % DAYS / (DAYS / MONTHS)).astype(int), MONTHS - 1)
    chance = np.array([c.clear for c in climates()])[climate[:, None], month]
    luck = np.clip(rng.normal(1, 0.2, (n, 1)), 0.5, 1.6)  # some places see less sky
    clear = rng.random((n, looks)) < np.clip(chance * luck, 0.02, 0.98)
    clear[np.arange(n), rng.integers(0, looks, n)] = True
    snow = rng.random((n, looks)) < np.array([c.snow for c in climates()])[climate[:, None], month]
    clear &= ~snow | (rng.random((n, looks)) < 0.25)  # most snow is masked, some is mistaken for ground
    covered = np.where(snow & clear, rng.uniform(0, 1, (n, looks)) ** 2, 0)[..., None]
    r = clean * (1 - 0.9 * covered) + surface("snow") * 0.9 * covered
    film = np.array([c.wet for c in climates()])[climate[:, None], month] * rng.uniform(0, 0.22, (n, looks))
    r = r * (1 - film[..., None] * _WATER_FILM)
    gain = (
        rng.lognormal(0, 0.05, (n, 1, 1))
        * rng.lognormal(0, 0.06, (n, looks, 1))
        * rng.lognormal(0, 0.02, (n, 1, len(BANDS)))
    )
    depth = np.array([c.haze for c in climates()])[climate[:, None], month]
    haze = np.maximum(rng.normal(0.0, 0.22, (n, looks, 1)), -0.25) + rng.exponential(depth)[..., None]
    left = np.array([c.thin for c in climates()])[climate][:, None, None]
    thin = np.where(rng.random((n, looks, 1)) < left, rng.uniform(0.02, 0.3, (n, looks, 1)), 0)
    shadow = np.where(rng.random((n, looks, 1)) < 0.06, rng.uniform(0.45, 0.9, (n, looks, 1)), 1)
    r = r * gain * shadow + surface("haze") * haze
    r = r * (1 - thin) + surface("cloud") * thin
    r = r * rng.lognormal(0, 0.025, r.shape) + rng.normal(0, 0.0025, r.shape)
    return r.astype(np.float32), clear


def monthly_median_np(seen: Array, clear: NDArray[np.bool_]) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Medians of the clear looks of each month: DN (n, 12, 10) and valid (n, 12)."""
    n = len(seen)
    x = np.where(clear[..., None], seen, np.inf).reshape(n, MONTHS, LOOKS_A_MONTH, -1)
    x = np.sort(x, axis=2)
    count = clear.reshape(n, MONTHS, LOOKS_A_MONTH).sum(2)
    one, two, three = x[:, :, 0], (x[:, :, 0] + x[:, :, 1]) / 2, x[:, :, 1]
    median = np.select([(count == k)[..., None] for k in (1, 2, 3)], [one, two, three], 0.0)
    dn = np.clip(np.round(median * REFLECTANCE_SCALE), 1, 20_000)
    valid = count > 0
    return np.where(valid[..., None], dn, 0).astype(np.uint16), valid
