"""The areas of classes that a finished run lists, read from its areas.json. Loads neither numpy nor GDAL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, StringConstraints, TypeAdapter

from geomap import files
from geomap.errors import InputError

FILE: Final = "areas.json"


@dataclass(frozen=True, slots=True)
class Row:
    """One class of a map."""

    id: Annotated[int, Field(ge=1, le=255)]
    name: str
    pixels: int
    ha: float
    share: float  # of the pixels with a class
    colour: str


_totals: Final = TypeAdapter(dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,60}$")], list[Row]])


def read_totals(directory: Path) -> dict[str, list[Row]]:
    """The rows of each class map, by area, largest first. Raises InputError."""
    if not (directory / files.SUMS).is_file():
        raise InputError(f"{directory} holds no finished run; type the directory given to --out")
    try:
        return _totals.validate_json((directory / FILE).read_bytes())
    except OSError:
        raise InputError(f"{directory} has no {FILE}; map the area again with this version") from None
    except ValueError as e:
        raise InputError(f"{directory / FILE} is damaged; geomap verify {directory} tells more") from e
