"""Reads and checks the table of covers and climates (`covers.toml`), and draws pixels' seasons."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from geomap.config import Strict
from geomap.simulate.spectra import SURFACES, Array


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"{pair[0]:g} must not exceed {pair[1]:g}")
    return pair


Pair = Annotated[tuple[float, float], AfterValidator(_ordered)]
MonthlyValues = Annotated[tuple[float, ...], Field(min_length=12, max_length=12)]


class Canopy(Strict):
    """A canopy that grows and declines: limits of uniform draws for each value; days are days of the year."""

    lai: Pair
    up: Pair = (-900, -800)
    rise: Pair = (10, 20)
    down: Pair = (1200, 1300)
    drop: Pair = (10, 20)
    ripe: Pair = (0, 0)
    straw: Pair = (0, 0)
    cab: Pair = (26, 50)
    brown: Pair = (0.0, 0.25)
    water: Pair = (0.008, 0.025)
    matter: Pair = (0.004, 0.01)
    layers: Pair = (1.4, 2.1)
    angle: Pair = (40, 65)


class Season(Canopy):
    """A canopy, its probability, and whether it is sown again after a harvest."""

    p: float = 1.0
    again: bool = False


FIELDS: Final = tuple(Canopy.model_fields)
"""Names of a season's drawn values, in the order of the last axis of CanopyLayer.low and CanopyLayer.high."""


class Climate(Strict):
    """The climate of a pixel: sun, warmth (as a shift of days), cloud, snow and drought."""

    bioregion: int
    latitude: float
    south: Annotated[float, Field(ge=0, le=1)] = 0.0
    shift: Pair
    clear: MonthlyValues
    snow: MonthlyValues
    drought: Pair
    dry_days: tuple[Pair, Pair]
    wet: MonthlyValues
    again: Annotated[float, Field(ge=0, le=1)] = 1.0
    haze: MonthlyValues = (0.08,) * 12
    thin: Annotated[float, Field(ge=0, le=1)] = 0.05
    words: tuple[str, ...]


class Cover(Strict):
    """A kind of land: its classes, names and looks through the year."""

    key: str
    landcover: int
    crop: int
    landuse: int
    habitat: int
    names: tuple[str, ...]
    climates: tuple[str, ...]
    weight: float = 1.0
    upper: tuple[Season, ...]
    under: tuple[Season, ...] = ()
    fraction: Pair | None = None
    withered: Pair = (-0.05, 0.14)
    shade: Pair = (0, 0)
    litter: Pair = (0, 0)
    surface: dict[str, Pair] = Field(default_factory=dict)
    evergreen: bool = False
    drought: float = 0.0
    mowing: tuple[int, int] = (0, 0)
    rotation: Literal["cereal", "summer", "root"] | None = None
    spring: bool = False
    still: float = 0.0
    drift: float = 0.0
    cut_every: Pair = (0, 0)
    cut_until: float = 366
    south: Annotated[float, Field(ge=0, le=1)] | None = None
    flood: tuple[Pair, Pair] | None = None
    flowers: tuple[Pair, Pair, Pair] | None = None

    @property
    def woody(self) -> bool:
        """Whether drought and mowing affect the layer below the canopy (trees, bushes) and not the canopy."""
        return self.fraction is not None


class CoverTable(Strict):
    """The content of `covers.toml`."""

    before: dict[str, tuple[Season, ...]]
    after: dict[str, tuple[Season, ...]]
    climate: dict[str, Climate]
    cover: tuple[Cover, ...]

    @model_validator(mode="after")
    def _known(self) -> CoverTable:
        keys = [c.key for c in self.cover]
        if len(set(keys)) < len(keys):
            raise ValueError("each cover needs its own key")
        for c in self.cover:
            unknown = [n for n in c.climates if n not in self.climate]
            unknown += [n for n in c.surface if n not in SURFACES and n != "soil"]
            if unknown:
                raise ValueError(f"cover {c.key}: unknown climate or surface {unknown[0]}")
        return self

    def index(self, key: str) -> int:
        """Position of the cover `key`. Raises KeyError."""
        for i, c in enumerate(self.cover):
            if c.key == key:
                return i
        raise KeyError(key)


@dataclass(frozen=True)
class CanopyLayer:
    """Seasons of one layer of all covers: limits (covers, seasons, FIELDS), probability and kind (covers, seasons)."""

    low: Array
    high: Array
    p: Array
    again: NDArray[np.bool_]

    def draw(self, rng: np.random.Generator, cover: NDArray[np.intp], again: Array) -> dict[str, Array]:
        """Values (n, seasons) of every field for covers (n,); an absent season has LAI 0.

        `again` (n,) is the share of fields that the climate allows to be sown again after a harvest.
        """
        low, high = self.low[cover], self.high[cover]
        values = low + (high - low) * rng.random(low.shape, dtype=np.float32)
        chance = self.p[cover] * np.where(self.again[cover], again[:, None], 1)
        present = rng.random(low.shape[:2], dtype=np.float32) < chance
        drawn: dict[str, Array] = {name: values[..., i] for i, name in enumerate(FIELDS)}
        drawn["lai"] = drawn["lai"] * present
        return drawn


@cache
def table() -> CoverTable:
    """Read the package's table, once."""
    return CoverTable.model_validate(tomllib.loads(Path(__file__).with_name("covers.toml").read_text("utf-8")))


def cover_index(keys: NDArray[np.str_]) -> NDArray[np.intp]:
    """Positions in the table of the covers with these keys (n,). Raises KeyError."""
    position = {c.key: i for i, c in enumerate(table().cover)}
    return np.array([position[str(k)] for k in keys], np.intp)


@cache
def layers() -> tuple[CanopyLayer, CanopyLayer]:
    """(upper, under) layers of all covers; plants before and after a crop belong to the upper layer."""
    covers = table().cover
    upper = [
        c.upper + (table().before["spring"] if c.spring else ()) + table().after.get(c.rotation or "", ())
        for c in covers
    ]
    return _pad(upper), _pad([c.under for c in covers])


def _pad(rows: list[tuple[Season, ...]]) -> CanopyLayer:
    """Pad the covers' seasons to the same number; the added ones have probability 0."""
    width = max(map(len, rows))
    nothing = Season(lai=(0, 0), p=0)
    grid = [[*row, *[nothing] * (width - len(row))] for row in rows]
    limits = np.array([[[getattr(s, f) for f in FIELDS] for s in row] for row in grid], np.float32)
    chance = np.array([[s.p for s in row] for row in grid], np.float32)
    return CanopyLayer(limits[..., 0], limits[..., 1], chance, np.array([[s.again for s in row] for row in grid]))
