"""Computes clear-sky reflectance of simulated pixels for any days, from canopy, ground and sun."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from geomap.sentinel2 import BANDS
from geomap.simulate.covers import table
from geomap.simulate.pixels import DAYS, Pixels, climates
from geomap.simulate.spectra import Array, Emulator, surface

OVERPASS_HOUR_ANGLE = np.float32(np.deg2rad(-22.5))
"""Sentinel-2 passes at 10:30 mean local solar time, an hour and a half before noon."""

SUN_ZENITHS = (25.0, 72.0)
"""Shadows grow between these (degrees): spectra hold for a high sun, and products leave out scenes with a lower sun."""
SLOPE_LIGHT = (0.35, 1.6)
"""Least and most light on a slope, relative to level ground."""
CUT_SHARE = 0.75
"""Share of the leaves that a cut takes: an estimate."""
REGROWTH_DAYS = 24
"""Days in which two thirds of the leaves lost to a cut grow back: an estimate."""
_GREEN = BANDS.index("B03")


@cache
def _emulator() -> Emulator:
    return Emulator.load()


def reflectance(pixels: Pixels, days: Array) -> Array:
    """Reflectance (n, T, 10) of n pixels without atmosphere, noise or snow.

    Args:
        pixels: from draw_pixels.
        days: (n, T) days of the year; days below 1 are in the year before.
    """
    t = days - pixels.shift[:, None]
    around = days % DAYS  # dry season, mowing and sun are the same every year
    sun = sun_zenith(np.array([c.latitude for c in climates()], np.float32)[pixels.climate][:, None], around)
    dry = _gate(around, pixels.dry, 12.0, 15.0) * pixels.drought[:, None]
    cut = np.ones_like(around)
    for day in pixels.mown.T:
        late = around - day[:, None]
        cut *= np.where(late >= 0, 1 - _lost(np.maximum(late, 0)), 1)
    cut *= _cutting(pixels.cuts, around)
    woody = np.array([k.woody for k in table().cover])[pixels.cover][:, None]
    herbs = cut * (1 - dry)
    tall = np.array([k.evergreen for k in table().cover])[pixels.cover]
    lai, canopy, straw = _layer(pixels.upper, t, pixels.turn, sun, np.where(woody, 1, herbs), tall)
    low_lai, low_canopy, low_straw = _layer(pixels.under, t, pixels.turn, sun, np.where(woody, herbs, 1), None)
    emulator = _emulator()
    ground = _ground(pixels, around, dry, np.maximum(low_straw, np.where(woody, 0, 0.25 * dry)))
    low = np.where((low_lai > 0.02)[..., None], _grown(emulator, low_canopy, ground, pixels.pigment), ground)
    shade = (pixels.shade[:, None] * (0.7 + np.clip((sun - 35) / 60, 0, 0.6)))[..., None]
    high = np.where((lai > 0.02)[..., None], _grown(emulator, canopy, low, pixels.pigment), low)
    wither = np.maximum(pixels.withered[:, None], np.maximum(straw, np.where(woody, 0, 0.55 * dry)))[..., None]
    high = high * (1 - wither) + pixels.straw[:, None] * wither
    bloom = (_gate(t, pixels.flowers[:, :2] - pixels.shift[:, None], 4.0, 4.0) * pixels.flowers[:, 2:])[..., None]
    high = high * (1 - bloom) + surface("flowers") * bloom
    f = pixels.fraction[:, None, None]
    seen = f * high * (1 - shade) + (1 - f) * low * (1 - 0.6 * shade)
    out: Array = (seen * light(pixels, sun)[..., None]).astype(np.float32)
    return out


def _cutting(cuts: Array, around: Array) -> Array:
    """Factor (n, T) on the leaves of fields cut every few weeks (cuts (n, 3), as in Pixels) on days (n, T)."""
    every, first, until = cuts.T[..., None]
    late = np.mod(around - first, np.where(every > 0, every, 1))
    factor: Array = np.where((every > 0) & (around < until), 1 - _lost(late), 1)
    return factor


def _lost(days: Array) -> Array:
    """Share of the leaves that is still lacking so many days after a cut."""
    lacking: Array = CUT_SHARE * np.exp(-days / REGROWTH_DAYS)
    return lacking


def light(pixels: Pixels, sun: Array) -> Array:
    """Factor (n, T) on the reflectance at sun zeniths (n, T, degrees): shadows, longer at low sun, and slopes.

    Slopes follow the cosine law of inclined planes, scaled by the share that the terrain correction of level-2A
    products leaves (`pixels.tilt`).
    """
    shadows = np.tan(np.deg2rad(np.clip(sun, *SUN_ZENITHS))) - np.tan(np.deg2rad(SUN_ZENITHS[0]))
    slopes = 1 + pixels.tilt[:, None] * np.tan(np.deg2rad(np.minimum(sun, SUN_ZENITHS[1])))
    factor: Array = ((1 - pixels.rough[:, None] * shadows) * np.clip(slopes, *SLOPE_LIGHT)).astype(np.float32)
    return factor


def _grown(emulator: Emulator, canopy: Array, ground: Array, pigment: Array) -> Array:
    """Reflectance (n, T, 10) of a canopy (n, T, 8) over a ground, minus the green light that pigments (n,) absorb."""
    seen = emulator.reflectance(canopy, ground)
    seen[..., _GREEN] *= 1 - pigment[:, None] * (1 - np.exp(-0.6 * canopy[..., 0]))
    return seen


def sun_zenith(latitude: Array, day: Array) -> Array:
    """Sun zenith angle (degrees) at the satellite's overpass; declination after Cooper (1969)."""
    declination = np.deg2rad(23.45 * np.sin(2 * np.pi * (284 + day) / DAYS))
    phi = np.deg2rad(latitude)
    cosine = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(OVERPASS_HOUR_ANGLE)
    zenith: Array = np.rad2deg(np.arccos(np.clip(cosine, 0.05, 1))).astype(np.float32)
    return zenith


def _layer(
    s: dict[str, Array],
    t: Array,
    turn: NDArray[np.bool_],
    sun: Array,
    herbs: Array,
    evergreen: NDArray[np.bool_] | None,
) -> tuple[Array, Array, Array]:
    """LAI (n, T), the emulator's parameters (n, T, 8) and the share of straw (n, T) of one layer."""
    years = (0.0, DAYS, -DAYS)
    lai = np.zeros((*t.shape, s["lai"].shape[1]), np.float32)
    decline = np.zeros_like(lai)
    straw = np.zeros_like(t)
    for year in years:
        here = turn[:, None, None] | (year == 0.0)
        day = t[..., None] + year
        up = _sigmoid((day - s["up"][:, None]) / (s["rise"][:, None] / 2))
        down = _sigmoid((day - s["down"][:, None]) / (s["drop"][:, None] / 2))
        part = np.where(here, s["lai"][:, None] * up * (1 - down), 0)
        decline = np.where(part > lai, down, decline)
        lai = np.maximum(lai, part)
        until = _sigmoid((s["down"][:, None] + s["straw"][:, None] - day) / 3.0)
        standing = np.where(here, s["ripe"][:, None] * np.minimum(s["lai"][:, None] / 1.5, 1) * down * up * until, 0)
        straw = np.maximum(straw, standing.max(-1))
    if evergreen is not None:  # summer drought of herbs spares the first season of evergreens
        herbs = np.where(evergreen[:, None], 1, herbs)
    lai = lai * herbs[..., None]
    total = lai.sum(-1)
    weight = lai / np.maximum(total, 1e-6)[..., None]
    mean = {k: (weight * s[k][:, None]).sum(-1) for k in ("cab", "brown", "water", "matter", "layers", "angle")}
    old = (weight * decline).sum(-1)
    cab = mean["cab"] * (1 - 0.65 * old)
    brown = mean["brown"] + 0.7 * old
    water = mean["water"] * (1 - 0.5 * old)
    canopy = np.stack([total, cab, brown, water, mean["matter"], mean["layers"], mean["angle"], sun], -1)
    return total, canopy.astype(np.float32), straw


def _ground(pixels: Pixels, around: Array, dry: Array, straw: Array) -> Array:
    """Ground reflectance (n, T, 10): soil (moist, with residues), leaf litter, hard surfaces, standing water."""
    month = np.minimum((around / 30.44).astype(int), 11)
    wet = np.array([c.wet for c in climates()], np.float32)[pixels.climate[:, None], month]
    wet = np.clip(wet + pixels.moist[:, None], 0, 1)[..., None]
    darker = np.linspace(0.40, 0.55, len(BANDS), dtype=np.float32)  # water in the soil absorbs most in the SWIR
    soil = pixels.soil[:, None] * (1 - darker * wet)
    dead = np.clip(pixels.dead[:, None] * (0.6 + dry), 0, 0.7)[..., None] * (1 - 0.25 * wet)
    soil = soil * (1 - dead) + pixels.straw[:, None] * dead
    litter = pixels.litter[:, None, None]
    soil = soil * (1 - litter) + surface("litter") * litter
    cover = straw[..., None]
    soil = soil * (1 - cover) + pixels.straw[:, None] * cover
    hard = pixels.hard[:, None, None]
    ground = soil * (1 - hard) + pixels.bottom[:, None] * hard
    under_water = (0.85 * _gate(around, pixels.flood, 3.0, 4.0))[..., None]
    mixed: Array = ground * (1 - under_water) + surface("turbid_water") * under_water
    return mixed.astype(np.float32)


def _gate(t: Array, days: Array, rise: float, drop: float) -> Array:
    """(n, T) between 0 and 1: on from days[:, 0] to days[:, 1], and one year before and after."""
    start, end = days[:, 0, None], days[:, 1, None]
    on = [_sigmoid((t - start - y) / rise) * _sigmoid((end + y - t) / drop) for y in (0.0, DAYS, -DAYS)]
    gate: Array = np.maximum.reduce(on)
    return gate


def _sigmoid(x: Array) -> Array:
    return (1 / (1 + np.exp(-np.clip(x, -30, 30)))).astype(np.float32)
