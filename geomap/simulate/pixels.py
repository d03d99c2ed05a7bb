"""Draws what is fixed for a simulated pixel: its seasons, soil, weather and neighbouring crowns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from geomap.sentinel2 import BANDS
from geomap.simulate.covers import Climate, Cover, layers, table
from geomap.simulate.spectra import SOILS, Array, surface

DAYS = 365.0
NEVER = 9999.0
"""A day that never comes."""

SLOPE = np.array([5, 3, 2.5, 9, 9, 7, 6, 0, 0.5], np.float32)
"""Mean slope (degrees) by land cover id, 0 where a cover has none: estimates. Fields are flat, land that cannot be
ploughed is steeper. Fields of trees and vines: ORCHARD_SLOPE."""
ORCHARD_SLOPE = 5.0
MAX_SLOPE = 35.0
ROUGH, ROUGH_WOODY, ROUGH_WATER = 0.12, 0.22, 0.0
"""Largest share of light lost to shadows of clods, stems and crowns per unit of tan(sun zenith): estimates. With them
evergreen woods of Corsica lose on average a fifth of their reflectance from June to January; a third was measured."""
SOWN_IN_AUTUMN = (-150, 0)
"""First and last day on which winter crops come up."""
PIGMENT = (0.05, 0.30)
"""Share of a closed canopy's green light that pigments other than chlorophyll absorb: the emulator's leaves have none,
and measured canopies are 15 to 20 % darker in B03 than it says."""


@dataclass(frozen=True)
class Pixels:
    """Everything drawn once for n pixels; arrays have n rows, days are days of the year."""

    cover: NDArray[np.intp]  # index in table().cover
    climate: NDArray[np.intp]  # index in the order of table().climate
    shift: Array  # days by which this pixel's year is late
    turn: NDArray[np.bool_]  # whether the same seasons return every year
    upper: dict[str, Array]  # season values (n, seasons)
    under: dict[str, Array]
    fraction: Array  # share of the ground under the upper canopy
    shade: Array
    litter: Array
    withered: Array  # dead leaves in the canopy
    dead: Array  # share of the bare ground under residues
    soil: Array  # (n, 10) reflectance of the dry soil
    bottom: Array  # (n, 10) reflectance of surfaces that are not soil
    hard: Array  # share of the ground with such a surface
    straw: Array  # (n, 10)
    drought: Array  # effect on herbs, 0..1
    dry: Array  # (n, 2) first and last day of drought
    mown: Array  # (n, 6) days of mowing, or NEVER
    cuts: Array  # (n, 3) days between cuts, 0 for none, day of the first, and last day of cutting
    flood: Array  # (n, 2) first and last day of standing water, or NEVER
    flowers: Array  # (n, 3) first and last day, or NEVER, and share of the ground
    pigment: Array  # share of the green light absorbed in a closed canopy
    rough: Array  # share of the light lost to shadows per unit of tan(sun zenith)
    tilt: Array  # gain of light per unit of tan(sun zenith), on slopes towards the sun or away from it
    moist: Array  # how much wetter than usual the soil is


def climates() -> tuple[Climate, ...]:
    """Climates in the order of Pixels.climate."""
    return tuple(table().climate.values())


@dataclass(frozen=True)
class _Draw:
    """Uniform draws between limits set by each pixel's cover or climate."""

    rng: np.random.Generator
    cover: NDArray[np.intp]
    climate: NDArray[np.intp]

    def by_cover(self, limits: Callable[[Cover], tuple[float, float]]) -> Array:
        """(n,) values between the limits of each pixel's cover."""
        return self.between(np.array([limits(c) for c in table().cover])[self.cover])

    def by_climate(self, limits: Callable[[Climate], tuple[float, float]]) -> Array:
        """(n,) values between the limits of each pixel's climate."""
        return self.between(np.array([limits(c) for c in climates()])[self.climate])

    def between(self, limits: Array) -> Array:
        """One draw for every row (low, high)."""
        low, high = limits.T.astype(np.float32)
        drawn: Array = low + (high - low) * self.rng.random(len(low), dtype=np.float32)
        return drawn


def draw_pixels(rng: np.random.Generator, cover: NDArray[np.intp], climate: NDArray[np.intp] | None = None) -> Pixels:
    """Draw pixels of covers (n,), each in `climate` (n,) or, by default, in one of its cover's climates."""
    n = len(cover)
    if climate is None:
        climate = _climates_of(rng, cover)
    draw = _Draw(rng, cover, climate)
    again = np.array([c.again for c in climates()], np.float32)[climate]
    upper, under = (layer.draw(rng, cover, again) for layer in layers())
    still = _constant(lambda c: c.still)[cover]
    shift = (1 - still) * draw.by_climate(lambda c: c.shift) + rng.normal(0, 6, n).astype(np.float32)
    turn = _constant(lambda c: c.rotation is None)[cover] > 0
    sown = ~turn[:, None] & (upper["up"] > SOWN_IN_AUTUMN[0]) & (upper["up"] < SOWN_IN_AUTUMN[1])
    upper["up"] -= np.where(sown, 2 * shift[:, None], 0)  # early spring: winter crops are sown late
    for layer in (upper, under):  # late spring: autumn is early, by less
        autumn = turn[:, None] & (layer["down"] > 230) & (layer["down"] < 400)
        layer["down"] = layer["down"] - np.where(autumn, 1.4 * shift[:, None], 0)
    bottom, hard = _surfaces(rng, cover)
    pixels = Pixels(
        cover=cover, climate=climate, shift=shift, turn=turn, upper=upper, under=under,
        fraction=draw.by_cover(lambda c: c.fraction or (0.82, 1.0)),
        shade=draw.by_cover(lambda c: c.shade),
        litter=draw.by_cover(lambda c: c.litter),
        withered=np.maximum(draw.by_cover(lambda c: c.withered), 0),
        dead=rng.uniform(0, 0.45, n).astype(np.float32),
        soil=_soils(rng, n), bottom=bottom, hard=hard, straw=_straw(rng, n),
        drought=_constant(lambda c: c.drought)[cover] * np.maximum(draw.by_climate(lambda c: c.drought), 0),
        dry=np.stack([draw.by_climate(lambda c: c.dry_days[0]), draw.by_climate(lambda c: c.dry_days[1])], 1),
        mown=_mowing(rng, cover, shift), cuts=np.zeros((n, 3), np.float32),
        flood=_event(draw, lambda c: c.flood), flowers=_flowering(draw, shift),
        pigment=rng.uniform(*PIGMENT, n).astype(np.float32), rough=_rough(rng, cover), tilt=_tilt(rng, cover),
        moist=rng.normal(0, 0.2, n).astype(np.float32),
    )  # fmt: skip
    adrift = draw.by_cover(lambda c: (-c.drift, c.drift))
    every = draw.by_cover(lambda c: c.cut_every)
    first = every * rng.random(n, dtype=np.float32)
    return replace(
        pixels,
        shift=shift + adrift,
        flood=pixels.flood + adrift[:, None],
        cuts=np.stack([every, first, _constant(lambda c: c.cut_until)[cover]], 1),
    )


def _rough(rng: np.random.Generator, cover: NDArray[np.intp]) -> Array:
    """Share of light (n,) lost to shadows that the ground casts on itself, per unit of tan(sun zenith)."""
    most = _constant(
        lambda c: ROUGH_WATER if c.landcover == 7 else ROUGH_WOODY if c.woody or c.landcover == 1 else ROUGH
    )
    lost: Array = most[cover] * rng.random(len(cover), dtype=np.float32)
    return lost


def _tilt(rng: np.random.Generator, cover: NDArray[np.intp]) -> Array:
    """Gain of light (n,) on slopes per unit of tan(sun zenith); by the cosine law, tan(slope) cos(aspect).

    Level-2A products correct for terrain and leave between a tenth and four fifths of it.
    """
    n = len(cover)
    mean = _constant(lambda c: ORCHARD_SLOPE if c.crop and c.woody else SLOPE[c.landcover])[cover]
    slope = np.deg2rad(np.minimum(rng.exponential(mean), MAX_SLOPE))
    left = rng.uniform(0.1, 0.8, n) * np.tan(slope) * np.cos(rng.uniform(0, 2 * np.pi, n))
    return left.astype(np.float32)


def _constant(value: Callable[[Cover], float]) -> Array:
    """(covers,) one value per cover."""
    return np.array([value(c) for c in table().cover], np.float32)


def _climates_of(rng: np.random.Generator, cover: NDArray[np.intp]) -> NDArray[np.intp]:
    """(n,) climate of every pixel, drawn from its cover's climates."""
    names = list(table().climate)
    many = np.array([len(k.climates) for k in table().cover])
    start = np.cumsum(many) - many
    options = np.array([names.index(c) for k in table().cover for c in k.climates])
    chosen: NDArray[np.intp] = options[start[cover] + (rng.random(len(cover)) * many[cover]).astype(np.intp)]
    return chosen


def _event(draw: _Draw, days: Callable[[Cover], tuple[tuple[float, float], ...] | None]) -> Array:
    """(n, 2) first and last day of an event that only some covers have; NEVER for the others."""
    known = [days(c) or ((NEVER, NEVER),) * 2 for c in table().cover]
    limits = np.array([k[:2] for k in known])[draw.cover]  # (n, 2 days, 2 limits)
    return np.stack([draw.between(limits[:, i]) for i in (0, 1)], 1)


def _flowering(draw: _Draw, shift: Array) -> Array:
    """(n, 3) first and last day of flowering, shifted with the season, and the share of ground that flowers hide."""
    days = _event(draw, lambda c: c.flowers) + shift[:, None]
    share = draw.by_cover(lambda c: c.flowers[2] if c.flowers else (0, 0))
    return np.concatenate([days, share[:, None]], 1)


def _mowing(rng: np.random.Generator, cover: NDArray[np.intp], shift: Array) -> Array:
    """(n, 6) days of mowing, between early May and late October."""
    low, high = np.array([c.mowing for c in table().cover])[cover].T
    cuts = rng.integers(low, high + 1)
    days = np.sort(rng.uniform(125, 295, (len(cover), 6)) + shift[:, None] / 2, axis=1)
    chosen = rng.permuted(np.tile(np.arange(6), (len(cover), 1)), axis=1) < cuts[:, None]
    return np.where(chosen, days, NEVER).astype(np.float32)


def _straw(rng: np.random.Generator, n: int) -> Array:
    """Dead plants (n, 10), between dead grass and straw, of varied brightness."""
    share = rng.random((n, 1))
    mixed = (share * surface("straw") + (1 - share) * surface("dead_grass")) * rng.lognormal(0, 0.13, (n, 1))
    return mixed.astype(np.float32)


def _soils(rng: np.random.Generator, n: int) -> Array:
    """Dry soils (n, 10): random mixtures of two of the table's, of varied brightness and spectral slope."""
    basis = np.stack([surface(s) for s in SOILS])
    a, b = basis[rng.integers(0, len(basis), (2, n))]
    share = rng.random((n, 1), dtype=np.float32)
    tilt = rng.normal(0.02, 0.07, (n, 1)) * np.linspace(-1, 1, len(BANDS))
    bright = rng.lognormal(0.06, 0.22, (n, 1))
    mixed: Array = (share * a + (1 - share) * b) * bright * (1 + tilt)
    return np.clip(mixed, 0.015, 0.65).astype(np.float32)


def _surfaces(rng: np.random.Generator, cover: NDArray[np.intp]) -> tuple[Array, Array]:
    """Ground that is not soil: its mean reflectance (n, 10) and its share of the ground (n,)."""
    bottom = np.zeros((len(cover), len(BANDS)), np.float32)
    hard = np.zeros(len(cover), np.float32)
    for i, kind in enumerate(table().cover):
        rows = np.flatnonzero(cover == i)
        if not kind.surface or not len(rows):
            continue
        low, high = np.array(list(kind.surface.values())).T
        share = low + (high - low) * rng.random((len(rows), len(low)))
        share /= share.sum(1, keepdims=True)
        spectra = np.stack([np.zeros(len(BANDS)) if s == "soil" else surface(s) for s in kind.surface])
        varied = spectra * rng.lognormal(0, 0.18, (len(rows), *spectra.shape[:1], 1))
        solid = share * [s != "soil" for s in kind.surface]
        hard[rows] = solid.sum(1)
        bottom[rows] = (solid[..., None] * varied).sum(1) / np.maximum(solid.sum(1, keepdims=True), 1e-6)
    return bottom, hard
