"""Arguments and options that several commands share, and how their text becomes values."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geomap.errors import InputError

if TYPE_CHECKING:
    from geomap.composite.mask import Mask
    from geomap.legends import Legend
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
LegendOption = Annotated[
    list[str] | None,
    typer.Option(help="A built-in legend (see `geomap legends list`) or a .toml file; repeat for several."),
]
Classes = Annotated[
    str | None, typer.Option(help='Your own classes: "vineyard, olive grove, maize field". Map: classes.tif.')
]
MinConfidence = Annotated[
    float, typer.Option(min=0, max=100, help="Percent; pixels below become class 255, Unclassified.")
]
Within = Annotated[
    str | None, typer.Option(metavar="LEGEND=CLASS", help='Map the other legends only there: "landcover=Cropland".')
]
SaveComposites = Annotated[
    bool, typer.Option("--save-composites", help="Keep the monthly composites: composites.zarr beside the maps.")
]
SaveEmbeddings = Annotated[
    bool,
    typer.Option(
        "--save-embeddings", help="Keep the embeddings, 128 bytes a pixel, for `geomap label`: embeddings.zarr."
    ),
]
FromComposites = Annotated[
    Path | None,
    typer.Option(metavar="DIR|STORE", help="Take the composites that a run saved: no catalogue, and its period."),
]
UpdateFrom = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="A finished run over other months, saved with its composites: read and encode only what has changed, "
        "and map the changes.",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what each stage decides.")]

Workers = Annotated[
    int, typer.Option(min=0, help="Processes of this machine that share the tiles; 0: this process alone.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="tcp://HOST:PORT", help="A dask scheduler whose workers do the tiles, or tls://."),
]
RetryQuarantined = Annotated[bool, typer.Option("--retry-quarantined", help="Try again the tiles that failed twice.")]

MaskClasses = Annotated[
    str, typer.Option(metavar="N,N,...", help="SCL classes that are not clear; 0 never is. docs/ingestion.md has more.")
]
MaskOpen = Annotated[
    int, typer.Option(min=0, max=50, help="Take unclear specks under 2N+1 pixels of 20 m in width for clear.")
]
MaskDilate = Annotated[int, typer.Option(min=0, max=50, help="Grow what is unclear by so many pixels of 20 m.")]
MaxMissed = Annotated[
    float,
    typer.Option(min=0, max=100, help="Percent of a tile's scenes that may be missing or damaged; above 0, one may."),
]
Deadline = Annotated[float, typer.Option(min=1, help="Seconds for which a server of pixels may refuse a file.")]

CLEAR_CLASSES = "0,1,3,8,9,10,11"
"""SCL classes that are not clear, by default: mask.Mask()."""


def mask_of(classes: str, opening: int, dilation: int) -> Mask:
    """What --mask-classes, --mask-open and --mask-dilate name. Raises InputError."""
    from geomap.composite.mask import Mask

    try:
        numbers = tuple(int(part) for part in classes.split(","))
    except ValueError as e:
        raise InputError(f"cannot read --mask-classes {classes!r}; write numbers of SCL classes: 0,1,3,8,9,10") from e
    return Mask(numbers, opening, dilation)


def within_of(text: str | None) -> tuple[str, str] | None:
    """The legend and class that --within names. Raises InputError."""
    if text is None:
        return None
    legend, sep, name = text.partition("=")
    if not (sep and legend.strip() and name.strip()):
        raise InputError(f"cannot read --within {text!r}; write LEGEND=CLASS, for example landcover=Cropland")
    return legend.strip(), name.strip()


def legends_of(names: list[str] | None, classes: str | None) -> tuple[Legend, ...]:
    """The legends that --legend names and --classes types; land cover where there are neither. Raises InputError."""
    from geomap import legends as legend

    chosen = [legend.load(name) for name in names or ([] if classes else ["landcover"])]
    return (*chosen, *([legend.typed(classes)] if classes is not None else []))


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
