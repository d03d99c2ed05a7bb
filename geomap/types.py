"""Frozen values that the stages exchange; imports nothing of geomap but its errors and the names of bands.

Grids are north-up in a UTM zone. Row 0 is the northern edge; coordinates are those of pixel corners, in metres.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from geomap.errors import PeriodError
from geomap.sentinel2 import BANDS, BANDS_10M, BANDS_20M

if TYPE_CHECKING:
    import dask.array as da
    import numpy as np
    from numpy.typing import NDArray


_FINE, _COARSE = ([BANDS.index(band) for band in of] for of in (BANDS_10M, BANDS_20M))
"""Places of the bands of 10 m and of 20 m among all."""
_YEAR = re.compile(r"\d{4}", re.ASCII)
_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])", re.ASCII)
TILE_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
"""Names of tiles: files are called by them, so a name that was read is checked."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A raster grid: EPSG code, north-west corner (m), size in pixels and pixel size (m)."""

    epsg: int
    west: int
    north: int
    width: int
    height: int
    resolution: int = 10

    @property
    def crs(self) -> str:
        """The coordinate system, as "EPSG:32631"."""
        return f"EPSG:{self.epsg}"

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """(west, south, east, north) in metres."""
        return self.west, self.north - self.height * self.resolution, self.east, self.north

    @property
    def east(self) -> int:
        return self.west + self.width * self.resolution

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.height, self.width

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """Affine coefficients (a, b, c, d, e, f) as rasterio and STAC write them."""
        return float(self.resolution), 0.0, float(self.west), 0.0, float(-self.resolution), float(self.north)

    def at(self, resolution: int) -> Grid:
        """The same area in pixels of `resolution` metres. Raises ValueError if they do not fit."""
        width, rest_x = divmod(self.width * self.resolution, resolution)
        height, rest_y = divmod(self.height * self.resolution, resolution)
        if rest_x or rest_y:
            raise ValueError(f"{self} cannot be cut into pixels of {resolution} m")
        return replace(self, width=width, height=height, resolution=resolution)

    def grown(self, pixels: int) -> Grid:
        """The same grid with so many pixels more on each side."""
        step, more = pixels * self.resolution, 2 * pixels
        west, north, width, height = self.west - step, self.north + step, self.width + more, self.height + more
        return replace(self, west=west, north=north, width=width, height=height)

    def offset_in(self, outer: Grid) -> tuple[int, int]:
        """(row, column) of this grid's corner in `outer`, which has the same CRS and pixel size."""
        if (self.epsg, self.resolution) != (outer.epsg, outer.resolution):
            raise ValueError(f"{self} and {outer} are on different grids")
        return (outer.north - self.north) // self.resolution, (self.west - outer.west) // self.resolution


@dataclass(frozen=True, slots=True)
class OwnGrid:
    """A north-up grid of the user's own, in any coordinate system; without a size, as large as the maps need.

    All lengths are in the units of the coordinate system. A grid without a size begins at multiples of its pixels.
    """

    crs: str  # "EPSG:3035", or WKT where it has no code
    unit: str  # "m", "deg", or "" for any other
    step_x: float  # width of a pixel
    step_y: float  # height of a pixel
    west: float = 0.0
    north: float = 0.0
    width: int = 0  # pixels
    height: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.height, self.width

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north)."""
        return (
            self.west,
            self.north - self.height * self.step_y,
            self.west + self.width * self.step_x,
            self.north,
        )

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """Affine coefficients (a, b, c, d, e, f) as rasterio and STAC write them."""
        return self.step_x, 0.0, self.west, 0.0, -self.step_y, self.north

    @property
    def code(self) -> str:
        """The coordinate system if it has a code, "EPSG:3035"; else empty."""
        return self.crs if re.fullmatch(r"[A-Za-z]+:\w+", self.crs) else ""

    @property
    def name(self) -> str:
        """How the names of its maps end: "3035_100m", "4326_0p0001deg", "esri54009_1000m", "own_30m" without a code."""
        system = self.code.replace("EPSG:", "").replace(":", "").lower() or "own"
        sides = [f"{self.step_x:g}", f"{self.step_y:g}"]
        return f"{system}_{'x'.join(sides[: 1 + (sides[0] != sides[1])]).replace('.', 'p')}{self.unit}"

    def part(self, row: int, column: int, height: int, width: int) -> OwnGrid:
        """Some of its pixels, cut where it ends."""
        return replace(
            self,
            west=self.west + column * self.step_x,
            north=self.north - row * self.step_y,
            width=min(width, self.width - column),
            height=min(height, self.height - row),
        )

    def offset_in(self, outer: OwnGrid) -> tuple[int, int]:
        """(row, column) of this part's corner in the grid that it was cut from."""
        row, column = (outer.north - self.north) / self.step_y, (self.west - outer.west) / self.step_x
        return round(row), round(column)


def zone_of(square: str) -> int:
    """EPSG code of the UTM zone of what is called after a square of MGRS, such as 31UES or the tile 31UES_03_02."""
    return (32600 if square[2] >= "N" else 32700) + int(square[:2])


@dataclass(frozen=True, slots=True)
class Tile:
    """A unit of work and of resume: a stable name and its part of the zone's grid (10 m, even size)."""

    name: str
    grid: Grid


def _short(numbers: tuple[int, ...]) -> str:
    return ", ".join(str(v) if abs(v) < 10**9 else "a larger number" for v in numbers)


@dataclass(frozen=True, slots=True)
class Period:
    """A run of at most twelve calendar months, so that each calendar month occurs at most once."""

    year: int
    month: int  # 1..12, the first month
    months: int = 12

    def __post_init__(self) -> None:
        given = (self.year, self.month, self.months)
        if any(isinstance(v, bool) or not hasattr(v, "__index__") for v in given):
            raise PeriodError(f"a period is whole numbers, Period(2023, 4, 12), not {str(given)[:80]}")
        if not (1 <= self.year <= 9998 and 1 <= self.month <= 12 and 1 <= self.months <= 12):
            raise PeriodError(f"year must be 1..9998, month 1..12 and months 1..12, not {_short(given)}")

    @classmethod
    def parse(cls, text: str) -> Period:
        """A year "2023", a month "2023-04", or months "2022-10/2023-09", both included; also what str() writes.

        Raises PeriodError, with what to write.
        """
        if not isinstance(text, str):
            raise PeriodError(f"a period is text such as 2023 or 2022-10/2023-09, not {type(text).__name__}")
        months = [part.strip() for part in re.split("[/_]", text)]
        if len(months) == 1 and _YEAR.fullmatch(months[0]):
            return cls(int(months[0]), 1)
        if len(months) > 2 or not all(map(_MONTH.fullmatch, months)):
            raise PeriodError(f"cannot read the period {text!r}; write 2023, 2023-04 or 2022-10/2023-09")
        first, last = (int(m[:4]) * 12 + int(m[5:]) - 1 for m in (months[0], months[-1]))
        if not 0 <= last - first < 12:
            raise PeriodError(f"the period {text!r} must be 1 to 12 months from the first to the last: 2022-10/2023-09")
        return cls(first // 12, first % 12 + 1, last - first + 1)

    @property
    def year_months(self) -> tuple[tuple[int, int], ...]:
        """((year, month), ...) in time order, month 1..12."""
        first = self.year * 12 + self.month - 1
        return tuple((m // 12, m % 12 + 1) for m in range(first, first + self.months))

    @property
    def month_names(self) -> tuple[str, ...]:
        """The months as "2023-04", in time order."""
        return tuple(f"{year:04d}-{month:02d}" for year, month in self.year_months)

    @property
    def calendar_months(self) -> tuple[int, ...]:
        """Calendar month index 0..11 of every step: the encoder's month positions."""
        return tuple(month - 1 for _, month in self.year_months)

    @property
    def start(self) -> datetime:
        """First instant (UTC)."""
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """First instant after the period (UTC)."""
        last = self.year * 12 + self.month - 1 + self.months
        return datetime(last // 12, last % 12 + 1, 1, tzinfo=UTC)

    def open_on(self, day: date) -> tuple[str, ...]:
        """The months that are not over on a day (UTC), as "2023-04", in time order."""
        months = zip(self.month_names, self.year_months, strict=True)
        return tuple(name for name, month in months if month >= (day.year, day.month))

    def step(self, when: datetime) -> int | None:
        """Index of the step that holds `when`, or None outside the period."""
        index = (when.year - self.year) * 12 + when.month - self.month
        return index if 0 <= index < self.months else None

    def __str__(self) -> str:
        names = self.month_names
        return names[0] if self.months == 1 else f"{names[0]}_{names[-1]}"


def today() -> date:
    """The day from which periods are counted (UTC, as scenes are dated)."""
    return datetime.now(UTC).date()


@dataclass(frozen=True, slots=True)
class SceneAsset:
    """One band of a scene: where it is, its grid, and the offset to add to its DNs."""

    band: str
    href: str  # unsigned
    offset: int  # DN to add to every valid pixel: 0 or -1000 (0 for SCL)
    reason: str  # why this offset was chosen
    transform: tuple[float, ...] | None = None  # affine coefficients in the scene's CRS
    shape: tuple[int, int] | None = None  # (rows, columns)
    content: str | None = None  # digest of what the item states of its bytes, if it does; another one: other pixels


@dataclass(frozen=True, slots=True)
class Scene:
    """One granule of one acquisition."""

    id: str
    collection: str
    provider: str  # key of sources.providers.PROVIDERS whose conventions the item follows
    time: datetime  # UTC
    platform: str
    acquisition: str  # equal for granules seen in the same pass of one satellite
    epsg: int
    bbox: tuple[float, float, float, float]  # degrees; west > east across the antimeridian
    assets: Mapping[str, SceneAsset]  # by band name, SCL included
    baseline: str | None = None
    cloud_cover: float | None = None  # percent
    link: str | None = None  # the item's own public https address, without secrets
    generated: str | None = None  # when its product was made, as its item says; another time means other pixels
    copy: str | None = None  # id of another item of it, which is used if this one is excluded


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An item that the catalogue found for the request but no map uses."""

    id: str
    cause: str  # "copy", "cloudy", "excluded" or "foreign"; or one of FAULTS
    detail: str


FAULTS = ("contradiction", "incomplete", "invalid", "undecided", "unopenable")
"""Causes of items left out that are mistakes; --max-missed limits them.

Two of its fields disagree on its place or time, another item has its id or file, or its pixels disagree with its DN
offset; a band has no asset; a field cannot
be read; its DN offset cannot be decided; an address is refused or not given.
"""


@dataclass(frozen=True, slots=True)
class Searched:
    """How many items a search was given. The scenes found, the items left out and these are all of them."""

    items: int = 0
    elsewhere: int = 0  # outside the area
    other_days: int = 0  # over the area, outside the period
    repeated: int = 0  # the same item again


@dataclass(frozen=True, slots=True)
class Missed:
    """A scene left out of a tile, with all its bands, because one of its files cannot be read."""

    scene: str  # id
    band: str  # the first unreadable one, in the order SCL, then the bands
    cause: str  # "missing", "damaged", or "contradiction" where the file is not what its item says
    detail: str


MAX_MISSED = 0.1
"""Share of scenes that may be left out for a fault, of a search or over a tile; if above 0, at least one may."""


def may_miss(scenes: int, limit: float) -> int:
    """How many of so many scenes may be left out for a fault, if `limit` is the allowed share."""
    return max(1, math.floor(limit * scenes + 1e-9)) if limit > 0 else 0


Gave = Literal["clear", "unclear", "nothing"]
"""What a scene gave a tile: clear pixels; pixels, but none of them clear; no pixel at all."""


@dataclass(frozen=True, slots=True)
class Dark:
    """Clear vegetation of one scene in the bands of offset_check.GUARD_BANDS: number of values, and of dark ones."""

    values: int = 0
    dark: int = 0

    def __add__(self, other: Dark) -> Dark:
        return Dark(self.values + other.values, self.dark + other.dark)

    @property
    def share(self) -> float:
        """0..1."""
        return self.dark / self.values if self.values else 0.0


@dataclass(frozen=True, slots=True)
class BandStack:
    """Raw lazy DNs of several bands at one resolution, one slice per scene; a chunk holds one scene and one band."""

    dn: da.Array  # (scene, band, y, x) uint16, 0 = nodata, offset not yet applied
    offset: NDArray[np.int32]  # (scene, band) DN to add to valid pixels


@dataclass(frozen=True, slots=True)
class Stack:
    """The scenes over a tile that have clear pixels; DNs are lazy. `fine` and `coarse` chunks cover the same ground."""

    fine: BandStack  # bands at 10 m
    coarse: BandStack  # bands at 20 m
    clear: tuple[NDArray[np.bool_], ...]  # per scene, (y, x) at 20 m; DNs that are not clear may be missing
    id: tuple[str, ...]  # id of each scene
    step: tuple[int, ...]  # month index of each scene
    acquisition: tuple[int, ...]  # scenes with the same number belong to one pass and count once


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of files that were fetched: how many, their bytes, and the pixels on a side of one."""

    number: int = 0
    size: int = 0  # bytes, compressed
    side: int = 0

    def __add__(self, other: Blocks) -> Blocks:
        return Blocks(self.number + other.number, self.size + other.size, max(self.side, other.side))


@dataclass(frozen=True, slots=True)
class Composite:
    """Monthly medians of a tile in memory, 0 = nodata; the bands of 20 m stay at 20 m where they lie on its pixels."""

    held: NDArray[np.uint16]  # (month, band, y, x) of sentinel2.BANDS; with `coarse`, of BANDS_10M alone
    clear: NDArray[np.uint8]  # (month, y, x), number of clear observations, at most 255
    coarse: NDArray[np.uint16] | None = None  # (month, band, y / 2, x / 2) of BANDS_20M
    dark: Mapping[str, Dark] = field(default_factory=dict)  # scene id -> evidence on its offset
    missed: tuple[Missed, ...] = ()  # by scene id
    gave: Mapping[str, Gave] = field(default_factory=dict)  # by id of each scene that was read
    fetched: Mapping[str, Blocks] = field(default_factory=dict)  # by kind of file (read.reader.kind_of)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.held.shape[2], self.held.shape[3]

    @property
    def dn(self) -> NDArray[np.uint16]:
        """(month, band, y, x) of all bands at 10 m: 21 MB a month for 1024 x 1024 pixels, twice what is held."""
        return self.rows(0, self.shape[0])

    def month(self, step: int) -> NDArray[np.uint16]:
        """(band, y, x) of one month, all bands at 10 m."""
        only: NDArray[np.uint16] = self.rows(0, self.shape[0], slice(step, step + 1))[0]
        return only

    def rows(self, first: int, last: int, months: slice = slice(None)) -> NDArray[np.uint16]:
        """(month, band, y, x) of the rows from `first` up to `last`, all bands at 10 m."""
        if self.coarse is None:
            held: NDArray[np.uint16] = self.held[months, :, first:last]
            return held
        import numpy as np  # where there are pixels

        top, bottom = first - first % 2, last + last % 2
        fine, coarse = self.held[months, :, top:bottom], self.coarse[months, :, top // 2 : bottom // 2]
        out = np.empty((len(fine), len(BANDS), *fine.shape[2:]), np.uint16)
        for month, own, rough in zip(out, fine, coarse, strict=True):
            month[_FINE], month[_COARSE] = own, rough.repeat(2, axis=1).repeat(2, axis=2)
        wanted: NDArray[np.uint16] = out[:, :, first - top : last - top]
        return wanted

    def series(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.uint16]:
        """(month, band, n) of the pixels in these rows and columns, (n,) each."""
        import numpy as np

        held = self.held[:, :, rows, columns]
        if self.coarse is None:
            return np.ascontiguousarray(held)
        out = np.empty((len(held), len(BANDS), len(rows)), np.uint16)
        out[:, _FINE], out[:, _COARSE] = held, self.coarse[:, :, rows // 2, columns // 2]
        return out

    def inner(self, margin: int) -> Composite:
        """The composite without so many pixels on each side: an even number."""
        rows, columns = (slice(margin, size - margin) for size in self.shape)
        half = tuple(slice(part.start // 2, part.stop // 2) for part in (rows, columns))
        coarse = None if self.coarse is None else self.coarse[:, :, *half]
        return replace(self, held=self.held[:, :, rows, columns], clear=self.clear[:, rows, columns], coarse=coarse)


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of one legend for some pixels. Classes: uint8 ids and percent; scores: float32, no confidence."""

    value: NDArray[np.uint8] | NDArray[np.float32]  # (N,) or (y, x); ids with nodata 0, or scores with nodata NaN
    confidence: NDArray[np.uint8] | None  # percent, nodata 255
    extras: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    # ^ where asked for: `second` ids (N,), `margin` percent (N,), `probabilities` percent (K, N)


WIDEST = 15
"""Most pixels per side of a window of `Finish.smooth`: 150 m, more than most fields are wide."""


@dataclass(frozen=True, slots=True)
class Finish:
    """How maps are made readable, once each pixel has been compared with the classes."""

    smooth: int = 1  # pixels a side of the window over which log-probabilities are averaged; odd
    min_area: float = 0.0  # hectares; smaller patches take the class of their largest neighbour
    vector: bool = False  # polygons beside each class map
    layers: tuple[str, ...] = ("second",)  # of label.classify.EXTRAS; the page tells the second class of a pixel

    @property
    def plain(self) -> bool:
        """Whether a pixel's layers are those of its own series alone, and each is one band."""
        return self.smooth == 1 and not self.min_area and "probabilities" not in self.layers

    @property
    def least_pixels(self) -> int:
        """Pixels of 10 m of the smallest patch that stays as it is."""
        return math.ceil(100 * self.min_area - 1e-9)


PLAIN = Finish()
"""Maps as they are by default."""

CLEAR_MONTHS = "clear_months"
"""Stem of the map that counts months with a clear observation."""

NOT_MAPPED = 255
"""Its nodata value: pixels outside the area."""

EXCLUDE = "exclude"
"""Request key for the scenes to leave out; an unfinished run may go on with other ones."""

NAME = "name"
"""Request key for the place in the names of files; it changes no pixel."""

GRID = "grid"
"""Request key for the grid on which the maps are written once more; it changes no pixel of the others."""

IMAGERY = "imagery"
"""Request key for true colour and NDVI beside the maps; they change no pixel of the others."""

UPDATE = "update"
"""Request key for the period of the earlier run; it decides which files accompany the maps, not the maps."""

Progress = Callable[[str, int, int], None]
"""Callback with (stage, done, total). Stages: "search", "composite" (tiles), "encode" (pixels), "write" (maps)."""

Layers: TypeAlias = "Mapping[str, NDArray[Any]]"
"""Layer stem -> (y, x) pixels of a tile."""


def silent(stage: str, done: int, total: int) -> None:
    """A progress callback that does nothing."""
