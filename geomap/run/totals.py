"""The areas of classes that a finished run lists, and what an assessment found. Loads neither numpy nor GDAL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, StringConstraints, TypeAdapter

from geomap import files
from geomap.errors import InputError, to_type
from geomap.text import listed, plural
from geomap.write.areas import JSON as FILE

ASSESSED: Final = "assessment.json"
ESTIMATED: Final = ("adjusted_ha", "ci95_ha", "probability_sample")
"""Keys of an area that an assessment adds."""

WHOLE: Final = 0.95
"""Share of a map from which on figures of a part of it count as those of the whole, as in polygons (assess/part.py)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One class of a map."""

    id: Annotated[int, Field(ge=1, le=255)]
    name: str
    pixels: int
    ha: float
    share: float  # of the pixels with a class
    colour: str
    adjusted_ha: float | None = None  # estimated from points, where the map was assessed
    ci95_ha: float | None = None  # half its interval of 95 %; None: the points leave none
    probability_sample: bool | None = None  # whether these points were drawn by chance, as their file or the user says


@dataclass(frozen=True, slots=True)
class Estimate:
    """An accuracy, 0..1, with half its interval of 95 %; None: the points leave none."""

    value: float
    ci95: float | None


_Metres = Annotated[int, Field(ge=-(10**8), le=10**8)]
_Id = Annotated[int, Field(ge=1, le=10**6)]


@dataclass(frozen=True, slots=True)
class Places:
    """Points by pixel, for estimates in parts of a map; none where the sample allows none (run/assess.py)."""

    epsg: list[_Id]  # (n,) of the map's file that holds the pixel
    x: list[_Metres]  # (n,) of the pixel's centre
    y: list[_Metres]
    reference: list[_Id]  # (n,) class on the ground; from 1000 on for classes that the map lacks

    def __post_init__(self) -> None:
        if len({len(self.epsg), len(self.x), len(self.y), len(self.reference)}) > 1:
            raise ValueError("the columns of the points differ in length")


@dataclass(frozen=True, slots=True)
class Quality:
    """What the assessment of a map found."""

    points: int
    overall_accuracy: Estimate
    probability_sample: bool
    sample: Places | None = None  # None: an older version kept none
    few: tuple[str, ...] = ()  # classes with so few points that their intervals are too narrow
    polygons: int | None = None  # that the points are the pixels of, where these were drawn
    area_ha: float | None = None  # that the figures are about; None: an older version
    map_ha: float | None = None  # of the whole map

    @property
    def by(self) -> str:
        """By how many points the map was assessed, in words."""
        if self.polygons is None:
            return plural(self.points, "point")
        return f"{plural(self.polygons, 'polygon')} ({plural(self.points, 'pixel')})"

    @property
    def narrow(self) -> str:
        """Which of its intervals are too narrow, in words; empty if none is known to be."""
        return f"intervals are too narrow for classes with few points: {listed(self.few)}" if self.few else ""

    @property
    def part(self) -> str:
        """Of which part of the map the figures are, in words; empty if of all of it."""
        if self.area_ha is None or self.map_ha is None or self.area_ha >= WHOLE * self.map_ha:
            return ""
        return f"{self.area_ha:,.1f} of its {self.map_ha:,.1f} ha"


_Stem = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,60}$")]
_totals: Final = TypeAdapter(dict[_Stem, list[Row]])
_qualities: Final = TypeAdapter(dict[_Stem, Quality])


def read_totals(directory: Path) -> dict[str, list[Row]]:
    """The rows of each class map, by area, largest first. Raises InputError."""
    if not (directory / files.SUMS).is_file():
        raise InputError(files.lacks(directory, "finished run"))
    try:
        return _totals.validate_json((directory / FILE).read_bytes())
    except OSError:
        raise InputError(f"{directory} has no {FILE}; map the area again with this version") from None
    except ValueError as e:
        raise InputError(f"{directory / FILE} is damaged; {to_type('verify', directory)} tells more") from e


def read_quality(directory: Path) -> dict[str, Quality]:
    """What `geomap assess` found, by map stem; empty if no map was assessed since it was made. Raises InputError."""
    path = directory / ASSESSED
    if ASSESSED not in files.sums(directory):
        return {}
    try:
        return _qualities.validate_json(path.read_bytes())
    except (OSError, ValueError) as e:
        raise InputError(f"{path} is damaged; {to_type('verify', directory)} tells more") from e
