"""The keys of a request: type, bounds, default, and for the command line each key's spelling and a sentence of help.

A new option is declared here, once; its field of Request and the line of `request_of` that joins them are in
request.py. Job files, `geomap map --help` and messages follow by themselves. The only other change is the code that
uses it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeAlias,
    cast,
    get_args,
)

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator
from pydantic.fields import FieldInfo

from geomap import config, legends
from geomap.catalog.offset import OffsetPolicy
from geomap.composite.mask import MOST_PX, Mask
from geomap.config import Strict
from geomap.legends import Legend
from geomap.read.access import DEADLINE
from geomap.sentinel2 import SCL_CLASSES, SCL_NOT_CLEAR
from geomap.types import MAX_MISSED, WIDEST, Finish, OwnGrid, Period

YEARS = (2015, 2100)
"""First and last year of a period; the first Sentinel-2 scenes are of 2015."""
DEFAULT_LEGEND = "landcover"
"""The legends mapped by default, if no legends or classes are named."""
NO_PERIOD = "give the time to map as --year 2023, or as --start 2022-10 with --months"
NONE = "none"
"""What `--within` takes to map every legend over every valid pixel, and `--layers` for no more maps."""
CLEAREST = "clearest"
"""What `--true-colour` takes for the clearest month of summer."""
MIN_CLEAR_MONTHS = 3
"""Months with a clear observation that a pixel must have to be mapped, unless the period is shorter."""


@dataclass(frozen=True, slots=True)
class Option:
    """How the command line spells a key."""

    flag: str
    help: str  # a sentence
    metavar: str | None = None
    separated: bool = False  # several values are one text with commas, not the option repeated


Restriction: TypeAlias = tuple[str, str] | tuple[()] | None
"""(legend, class) that the other maps cover; (): all pixels; None: as each legend says."""


# --- types of values


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"{ascii(text)[:80]} must be one line without control or invisible characters")
    return text


def checked_year(year: int) -> int:
    """A year with Sentinel-2 scenes. Raises ValueError."""
    first, last = YEARS
    if not first <= year <= last:
        raise ValueError(f"there is no Sentinel-2 scene in {year}; the first are of {first}")
    return year


def _month(text: str) -> str:
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text, re.ASCII):
        raise ValueError(f"cannot read the month {text!r}; write it as 2023-04")
    checked_year(int(text[:4]))
    return text


def _scheduler(text: str) -> str:
    if not re.fullmatch(r"(tcp|tls)://[^/]+", text):
        raise ValueError("must be the address of a dask scheduler, tcp://host:8786 or tls://host:8786")
    return text


def _scl_class(number: int) -> int:
    if number not in SCL_CLASSES:
        raise ValueError(f"SCL has no class {number}; give numbers of 0..{max(SCL_CLASSES)}")
    return number


def _class(name: str) -> str:
    if "," in name:
        raise ValueError('must be one class without a comma, for example "olive grove"')
    return name


def _place(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}", text, re.ASCII):
        raise ValueError("must be one word of letters, digits, _ and -, at most 61, for example brussels")
    return text


def _restriction(text: str) -> str:
    if text != NONE:
        legends.restriction(text)
    return text


def separated(text: str) -> list[str]:
    """The parts between commas, without spaces around them and empty ones; the text itself if there is none."""
    return [part.strip() for part in text.split(",") if part.strip()] or [text]


def several(value: Any) -> Any:
    """The parts of a list, or a value alone as one part; none of None."""
    return () if value is None else (value,) if isinstance(value, str | Path) else value


def _layers(value: Any) -> Any:
    parts = separated(value) if isinstance(value, str) else value
    if isinstance(parts, list | tuple):
        if [*parts] == [NONE]:
            return ()
        if all(part in get_args(_Extra) for part in parts) and len({*parts}) == len(parts):
            return (*parts,)
    raise ValueError(f"must be of {', '.join(get_args(_Extra))}, each once, or {NONE} alone")


def _crs(text: str) -> str:
    if not re.fullmatch(r"([A-Za-z]{2,20}:)?[0-9]{1,9}", text, re.ASCII):
        raise ValueError(f"{text!r} is not the code of a coordinate system; write EPSG:3035")
    return text


def _shown_month(text: str) -> str:
    return text if text == CLEAREST else _month(text)


def _odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError("must be odd: the window has the pixel in its middle")
    return number


Line = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_line)]
Percent = Annotated[float, Field(strict=True, ge=0, le=100, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Months = Annotated[int, Field(strict=True, ge=1, le=12)]
Flag = Annotated[bool, Field(strict=True)]
Seconds = Annotated[float, Field(strict=True, ge=1, le=86_400, allow_inf_nan=False)]
_Year = Annotated[int, Field(strict=True), AfterValidator(checked_year)]
_Month = Annotated[str, AfterValidator(_month)]
_Pixels = Annotated[int, Field(strict=True, ge=0, le=MOST_PX)]
Class = Annotated[Line, AfterValidator(_class)]
Place = Annotated[str, AfterValidator(_place)]
_SclClass = Annotated[int, Field(strict=True), AfterValidator(_scl_class)]
_Within = Annotated[Line, AfterValidator(_restriction)]
_Window = Annotated[int, Field(strict=True, ge=1, le=WIDEST), AfterValidator(_odd)]
_Hectares = Annotated[float, Field(strict=True, ge=0, le=1_000_000, allow_inf_nan=False)]
Shown = Annotated[str, AfterValidator(_shown_month)]
_Crs = Annotated[Line, AfterValidator(_crs)]
_Side = Annotated[float, Field(strict=True, gt=0, le=1_000_000, allow_inf_nan=False)]
_Extra = Literal["second", "margin", "probabilities"]
_Workers = Annotated[int, Field(strict=True, ge=0, le=4096)]
_Scheduler = Annotated[Line, AfterValidator(_scheduler)]


# --- keys: each option once


class PeriodKeys(Strict):
    """The months to map: `year`, or `start` and `months`."""

    year: Annotated[_Year | None, Option("--year", "A calendar year, for example 2023.")] = None
    start: Annotated[_Month | None, Option("--start", "First month, instead of --year.", "YYYY-MM")] = None
    months: Annotated[Months, Option("--months", "Months from --start on.")] = 12

    @model_validator(mode="after")
    def _one_way(self) -> PeriodKeys:
        if (self.year is None) == (self.start is None):
            raise ValueError(NO_PERIOD)
        if "months" in self.model_fields_set and self.start is None:
            raise ValueError("--months goes with --start, for example --start 2023-04 --months 6")
        return self

    @property
    def period(self) -> Period:
        """The months."""
        year, month = (int(part) for part in (self.start or f"{self.year}-01").split("-"))
        return Period(year, month, self.months)


class CatalogueKeys(Strict):
    """Where scenes come from, and which are taken."""

    stac: Annotated[
        Line,
        Option("--stac", "earth-search, planetary-computer, cdse, the URL of a STAC API, or a local items.json."),
    ] = "earth-search"
    collection: Annotated[
        Line | None, Option("--collection", "STAC collection, where the catalogue has several.")
    ] = None  # fmt: skip
    max_cloud: Annotated[Percent, Option("--max-cloud", "Skip scenes cloudier than this, percent.")] = 100
    offset: Annotated[
        OffsetPolicy,
        Option("--offset", "For scenes whose metadata do not tell their DN offset: is it taken off already?"),
    ] = "auto"
    allow_hosts: Annotated[
        tuple[Line, ...],
        Option("--allow-host", "Also open http(s) addresses on this host; repeat for several."),
    ] = ()
    exclude: Annotated[
        tuple[Line, ...],
        Option("--exclude", "Leave out the scene with this id; repeat for several.", "ID"),
    ] = ()
    max_missed: Annotated[
        Percent,
        Option("--max-missed", "Percent of scenes that may be left out as missing or faulty; above 0, one may."),
    ] = round(100 * MAX_MISSED)
    deadline: Annotated[
        Seconds, Option("--deadline", "Seconds for which a server of pixels may refuse a file.")
    ] = round(DEADLINE)  # fmt: skip


class MaskKeys(Strict):
    """Which observations are clear: mask.Mask."""

    classes: Annotated[
        tuple[_SclClass, ...],
        Option(
            "--mask-classes", "SCL classes that are not clear; 0 never is. docs/ingestion.md has more.", "N,N,...", True
        ),
    ] = SCL_NOT_CLEAR
    opening: Annotated[
        _Pixels, Option("--mask-open", "Take unclear specks under 2N+1 pixels of 20 m in width for clear.")
    ] = 0  # fmt: skip
    dilation: Annotated[_Pixels, Option("--mask-dilate", "Grow what is unclear by so many pixels of 20 m.")] = 0

    @property
    def mask(self) -> Mask:
        """The same as a value."""
        return Mask(self.classes, self.opening, self.dilation)


class WeightsKeys(Strict):
    """Which weights."""

    name: Annotated[Line, Option("--weights", "Name (see `geomap weights list`) or folder of weights.")] = "default"


class PointKeys(Strict):
    """Labelled points of one's own, which teach the legend that knows most of their classes."""

    file: Annotated[
        tuple[Line, ...],
        BeforeValidator(several),
        Option(
            "--points",
            "Labelled points or polygons, from which a legend learns: .gpkg, .geojson, .shp, .parquet, .gpx or .csv; "
            "repeat for several files.",
            "FILE[:LAYER]",
        ),
    ] = ()
    column: Annotated[Line | None, Option("--column", "The column of --points with the classes.", "NAME")] = None
    crs: Annotated[
        Line | None,
        Option("--points-crs", "Coordinate system of --points where the file names none: EPSG:32631.", "CRS"),
    ] = None
    date_column: Annotated[
        Line | None,
        Option("--date-column", "The column of --points with the day or year; points of other years are left out."),
    ] = None
    learned: Annotated[
        Line | None,
        Option("--learned", "Use what another run learned from points: its directory or learned.json.", "DIR|FILE"),
    ] = None

    @model_validator(mode="after")
    def _together(self) -> PointKeys:
        if not self.file and (self.crs or self.date_column):
            raise ValueError(f"{'--points-crs' if self.crs else '--date-column'} goes with --points")
        column = self.column or "" if self.file else self.column  # --again knows the column
        require_points(self.file, column, self.learned)
        return self


def require_points(points: object, column: str | None, learned: str | None, others: bool = False) -> None:
    """Raise ValueError unless points and their column come together, and not with what they do not go with."""
    if points and column is None:
        raise ValueError("--points needs --column: the column with the classes")
    if not points and column is not None:
        raise ValueError("--column goes with --points: the file that has it")
    if points and learned is not None:
        raise ValueError("give --points or --learned, not both")
    if others and (points or learned):
        raise ValueError("--others does not go with points: give points of the other land, under a name of their own")


class OutputKeys(Strict):
    """What the maps are called, and what is kept beside them."""

    name: Annotated[
        Place | None,
        Option("--name", "A place: files and layers are called PLACE_2023_landcover, with the months mapped.", "PLACE"),
    ] = None
    save_composites: Annotated[
        Flag, Option("--save-composites", "Keep the monthly composites: composites.zarr beside the maps.")
    ] = False  # fmt: skip
    save_embeddings: Annotated[
        Flag,
        Option("--save-embeddings", "Keep the embeddings, 128 bytes a pixel, for `geomap label`: embeddings.zarr."),
    ] = False
    true_colour: Annotated[
        Shown | None,
        Option(
            "--true-colour", "A map in true colour: of a month, or of the clearest one of summer.", "clearest|YYYY-MM"
        ),
    ] = None
    ndvi: Annotated[Flag, Option("--ndvi", "A map of the greenness (NDVI), a band for each month.")] = False
    report: Annotated[
        Flag, Option("--no-report", "Leave out index.html, the page with the maps, and the pictures (.png).")
    ] = True  # fmt: skip


class FinishKeys(Strict):
    """How the maps are made readable: types.Finish."""

    smooth: Annotated[
        _Window,
        Option(
            "--smooth", "Average log-probabilities over N x N pixels, not across nodata; N odd, 1: not at all.", "N"
        ),
    ] = 1
    min_area: Annotated[
        _Hectares,
        Option("--min-area", "Hectares; smaller patches of a map take the class of their largest neighbour.", "HA"),
    ] = 0  # fmt: skip
    vector: Annotated[
        Flag, Option("--vector", "Polygons of each class map too, with class, area and mean confidence: LEGEND.gpkg.")
    ] = False  # fmt: skip
    layers: Annotated[
        tuple[_Extra, ...],
        Option(
            "--layers",
            "More maps of each legend: second (class), margin, probabilities; or none.",
            "LAYER,LAYER",
            separated=True,
        ),
        BeforeValidator(_layers),
    ] = cast("tuple[_Extra, ...]", Finish().layers)

    @property
    def finish(self) -> Finish:
        """The same as a value."""
        return Finish(self.smooth, self.min_area, self.vector, self.layers)


class GridKeys(Strict):
    """A grid of one's own on which every map is written once more: types.OwnGrid."""

    crs: Annotated[
        _Crs | None, Option("--crs", "Write every map once more in this coordinate system: EPSG:3035.", "EPSG")
    ] = None  # fmt: skip
    resolution: Annotated[
        _Side | None,
        Option("--resolution", "Pixel size of these, in units of --crs: metres or degrees. [default: 10 m]", "SIZE"),
    ] = None
    like: Annotated[
        Line | None, Option("--like", "Write every map once more on the grid of this raster.", "FILE.tif")
    ] = None  # fmt: skip

    @model_validator(mode="after")
    def _one_way(self) -> GridKeys:
        if self.like and (self.crs or self.resolution):
            raise ValueError("give --like, or --crs with --resolution, not both")
        if self.resolution and not self.crs:
            raise ValueError("--resolution goes with --crs, for example --crs EPSG:3035 --resolution 100")
        return self

    def grid(self, folder: Path = Path()) -> OwnGrid | None:
        """The grid; the raster is looked for in a folder. Raises InputError."""
        if self.crs is None and self.like is None:
            return None
        from geomap.write.own_grid import grid_in, grid_like  # loads GDAL

        return grid_in(self.crs, self.resolution) if self.crs else grid_like(folder / str(self.like))


class ResourceKeys(Strict):
    """What a run may use; only the kind of device affects the maps."""

    device: Annotated[Line, Option("--device", "auto, cpu or cuda.")] = "auto"
    workers: Annotated[
        _Workers,
        Option("--workers", "Processes of this machine that share the tiles; 0: this process alone."),
    ] = 0
    scheduler: Annotated[
        _Scheduler | None,
        Option("--scheduler", "A dask scheduler whose workers do the tiles, or tls://.", "tcp://HOST:PORT"),
    ] = None

    @model_validator(mode="after")
    def _one_cluster(self) -> ResourceKeys:
        if self.scheduler and self.workers:
            raise ValueError("give --workers or --scheduler, not both: a scheduler has workers of its own")
        return self


class RequestKeys(Strict):
    """All keys of a request."""

    period: PeriodKeys | None = None
    legends: Annotated[
        tuple[Line, ...],
        Option("--legend", "A built-in legend (see `geomap legends list`) or a .toml file; repeat for several."),
    ] = ()
    classes: Annotated[
        tuple[Class, ...],
        Option(
            "--classes",
            'Your own classes, in English: "vineyard, olive grove, maize field". Map: classes.tif.',
            separated=True,
        ),
    ] = ()
    others: Annotated[
        Flag,
        Option("--others", "Add a class 254, None of these, to --classes and to legends of your own."),
    ] = False
    catalogue: CatalogueKeys = CatalogueKeys()
    weights: WeightsKeys = WeightsKeys()
    masks: MaskKeys = MaskKeys()
    min_clear_months: Annotated[
        Months | None,
        Option(
            "--min-clear-months",
            "Pixels with fewer clear months are not mapped. [default: 3, or all months of a shorter period]",
        ),
    ] = None  # 3, or all months of a shorter period
    min_confidence: Annotated[
        Percent, Option("--min-confidence", "Percent; pixels below become class 255, Unclassified.")
    ] = 0  # fmt: skip
    within: Annotated[
        _Within | None,
        Option(
            "--within",
            'Map the other legends only there: "landcover=Cropland"; none: everywhere. By default as each legend says: '
            "crops on cropland.",
            "LEGEND=CLASS",
        ),
    ] = None
    without: Annotated[
        tuple[Line, ...],
        Option("--without", "Leave out a class, by name or code, or LEGEND=CLASS; repeat for several.", "CLASS"),
    ] = ()
    everywhere: Annotated[
        Flag,
        Option("--everywhere", "Keep classes that their legend says do not occur at these latitudes."),
    ] = False
    finish: FinishKeys = FinishKeys()
    points: PointKeys = PointKeys()
    grid: GridKeys = GridKeys()
    outputs: OutputKeys = OutputKeys()
    resources: ResourceKeys = ResourceKeys()

    def chosen(self, folder: Path = Path()) -> tuple[Legend, ...]:
        """The legends named (files relative to `folder`), and the one of typed classes. Raises LegendError."""
        named = [legends.load(in_folder(name, folder)) for name in self.legends]
        return (*named, *([legends.typed(",".join(self.classes))] if self.classes else []))


def in_folder(legend: str, folder: Path) -> str:
    """A legend as `legends.load` takes it: a built-in one by name, or a file with its path relative to `folder`."""
    return str(folder / legend) if legend.endswith(".toml") else legend


class Declared(NamedTuple):
    """A key that is also an option of the command line."""

    key: str  # with dots, as messages about job files write it
    option: Option
    field: FieldInfo


def declared(model: type[BaseModel] = RequestKeys, prefix: str = "") -> Iterator[Declared]:
    """Every key with an option, in the order of the declaration."""
    for name, field in model.model_fields.items():
        if (inner := config.model_in(field.annotation)) is not None:
            yield from declared(inner, f"{prefix}{name}.")
        for option in field.metadata:
            if isinstance(option, Option):
                yield Declared(prefix + name, option, field)
