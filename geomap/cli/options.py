"""Arguments and options that several commands share, and how their text becomes values."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from geomap.errors import InputError

if TYPE_CHECKING:
    from geomap.types import Period


class Offset(StrEnum):
    """What to do with scenes whose metadata do not tell their DN offset."""

    auto = "auto"
    applied = "applied"
    unapplied = "unapplied"


Area = Annotated[
    str,
    typer.Argument(
        metavar="AOI",
        help='"minx,miny,maxx,maxy" in degrees (longitude first), WKT, or a .geojson, .gpkg or .shp file.',
    ),
]
Stac = Annotated[
    str, typer.Option(help="earth-search, planetary-computer, cdse, the URL of a STAC API, or a local items.json.")
]
Year = Annotated[int | None, typer.Option(help="A calendar year, for example 2023.")]
Start = Annotated[str | None, typer.Option(metavar="YYYY-MM", help="First month, instead of --year.")]
Months = Annotated[int, typer.Option(min=1, max=12, help="Months from --start on.")]
Weights = Annotated[str, typer.Option(help="Name (see `geomap weights list`) or folder of weights.")]
Collection = Annotated[str | None, typer.Option(help="STAC collection, where the catalogue has several.")]
MaxCloud = Annotated[float, typer.Option(min=0, max=100, help="Skip scenes cloudier than this, percent.")]
OffsetOption = Annotated[
    Offset, typer.Option(help="For scenes whose metadata do not tell their DN offset: is it taken off already?")
]
AllowHost = Annotated[
    list[str] | None, typer.Option(help="Also open http(s) addresses on this host; repeat for several.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what each stage decides.")]


def period_of(year: int | None, start: str | None, months: int) -> Period:
    """The months that --year, or --start and --months, name. Raises InputError."""
    from geomap.types import Period

    if (year is None) == (start is None):
        raise InputError("give the time to map as --year 2023, or as --start 2022-10 with --months")
    if start is None:
        if months != 12:
            raise InputError("--months goes with --start, for example --start 2023-04 --months 6")
        start = f"{year:04d}-01"
    try:
        y, m = (int(part) for part in start.split("-"))
        period = Period(y, m, months)
    except ValueError as e:
        raise InputError(f"cannot read the month {start!r}; write it as 2023-04") from e
    if not 2015 <= period.year <= 2100:
        raise InputError(f"there is no Sentinel-2 scene in {period.year}; the first are of 2015")
    return period
