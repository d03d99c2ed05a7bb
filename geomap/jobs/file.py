"""Job files: what to map, regularly, in YAML. docs/jobs.md is the reference; pipelines/ has examples.

Unknown keys and values out of range are errors, found before anything heavy is loaded. Paths are relative to the job
file, so that a job means the same from any directory. A job holds no secrets: credentials come from the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from geomap import aoi, config, legends
from geomap.composite.mask import MOST_PX, Mask
from geomap.config import first_problem
from geomap.errors import ConfigError, GeomapError
from geomap.legends import Legend
from geomap.sentinel2 import SCL_CLASSES, SCL_NOT_CLEAR
from geomap.types import Period

_STRICT = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, allow_inf_nan=False)
PERIOD: Final = "{period}"
"""Stands for the months of a map in `outputs.directory`."""
OWN_BYTES: Final = 2 * 1024**3
"""What the process that leads workers takes: libraries, and the region's maps while they are written."""
KEYS: Final = {
    "--allow-host": "catalogue.allow_hosts",
    "--classes": "classes",
    "--collection": "catalogue.collection",
    "--deadline": "catalogue.deadline",
    "--device": "resources.device",
    "--legend": "legends",
    "--mask-classes": "masks.classes",
    "--mask-dilate": "masks.dilation",
    "--mask-open": "masks.opening",
    "--max-cloud": "catalogue.max_cloud",
    "--max-missed": "catalogue.max_missed",
    "--min-clear-months": "min_clear_months",
    "--min-confidence": "min_confidence",
    "--offset": "catalogue.offset",
    "--out": "outputs.directory",
    "--save-composites": "outputs.save_composites",
    "--save-embeddings": "outputs.save_embeddings",
    "--scheduler": "resources.scheduler",
    "--stac": "catalogue.stac",
    "--weights": "weights.name",
    "--within": "within",
    "--workers": "resources.workers",
    "--update-from": "outputs.update",
    "--year": "period.year",
}
"""Options of the command line that messages name -> the keys that say the same in a job file."""


def _corners(value: Any) -> Any:
    """A list of four numbers as the text of a box."""
    if isinstance(value, list):
        if len(value) != 4 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
            raise ValueError("a box is a list of four numbers: [minx, miny, maxx, maxy], longitude first")
        return ",".join(map(repr, value))
    if not isinstance(value, str):
        raise ValueError("must be a list [minx, miny, maxx, maxy], WKT, or the path of an area file")
    return value


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line without control characters")
    return text


def _address(text: str) -> str:
    """Any text but an address with a user or a query, where passwords and tokens live."""
    try:
        parts = urlsplit(text if "//" in text else f"//{text}")
    except ValueError as e:
        raise ValueError("is not a valid address") from e
    if "@" in parts.netloc or ("//" in text and (parts.query or parts.fragment)):
        raise ValueError("must be an address without user, password or query; credentials come from the environment")
    return text


def _restriction(text: str) -> str:
    if not all(part.strip() for part in text.partition("=")):
        raise ValueError("must be LEGEND=CLASS, for example landcover=Cropland")
    return text


_Line = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_line)]
_Address = Annotated[_Line, AfterValidator(_address)]
_Class = Annotated[_Line, Field(pattern=r"^[^,]+$")]
_Percent = Annotated[float, Field(strict=True, ge=0, le=100)]
_Months = Annotated[int, Field(strict=True, ge=1, le=12)]
_Count = Annotated[int, Field(strict=True, ge=1, le=4096)]
_Pixels = Annotated[int, Field(strict=True, ge=0, le=MOST_PX)]
_Flag = Annotated[bool, Field(strict=True)]


class PeriodKeys(BaseModel):
    """The months to map: one of `year`, `start` or `last`."""

    model_config = _STRICT
    year: Annotated[int, Field(strict=True, ge=2015, le=2100)] | None = None
    start: Annotated[str, Field(pattern=r"^20\d\d-(0[1-9]|1[0-2])$")] | None = None
    months: _Months = 12  # from `start` on
    last: _Months | None = None  # whole months before the day of the run

    @model_validator(mode="after")
    def _one_way(self) -> PeriodKeys:
        if len({"year", "start", "last"} & self.model_fields_set) != 1:
            raise ValueError("give one of year: 2023, start: 2022-10 with months: 12, or last: 12")
        if "months" in self.model_fields_set and self.start is None:
            raise ValueError("months goes with start")
        return self

    def at(self, today: date) -> Period:
        """The months, counted on `today` (UTC)."""
        if self.last is not None:
            first = today.year * 12 + today.month - 1 - self.last
            return Period(first // 12, first % 12 + 1, self.last)
        year, month = (int(part) for part in (self.start or f"{self.year}-01").split("-"))
        return Period(year, month, self.months)


class CatalogueKeys(BaseModel):
    """Where scenes come from."""

    model_config = _STRICT
    stac: _Address = "earth-search"  # preset, URL of an API, or an item file
    collection: _Line | None = None
    max_cloud: _Percent = 100
    offset: Literal["auto", "applied", "unapplied"] = "auto"
    allow_hosts: tuple[_Address, ...] = ()
    max_missed: _Percent = 10  # of a tile's scenes that may be missing or damaged
    deadline: Annotated[float, Field(strict=True, ge=1, le=86_400)] = 120  # s for which a server may refuse a file


class MaskKeys(BaseModel):
    """Which observations are clear: mask.Mask."""

    model_config = _STRICT
    classes: tuple[Annotated[int, Field(strict=True, ge=0, le=max(SCL_CLASSES))], ...] = SCL_NOT_CLEAR
    opening: _Pixels = 0
    dilation: _Pixels = 0


class WeightsKeys(BaseModel):
    """Which weights, and which version of them."""

    model_config = _STRICT
    name: _Line = "default"  # or a folder
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None  # of card.json, which names its files'


class OutputKeys(BaseModel):
    """Where maps go."""

    model_config = _STRICT
    directory: _Line  # {period} stands for the months
    save_composites: _Flag = False
    save_embeddings: _Flag = False
    update: _Flag = False  # each map from the one before; keeps the composites

    @model_validator(mode="after")
    def _plain(self) -> OutputKeys:
        if self.directory.count(PERIOD) > 1 or re.search(r"[{}]", self.directory.replace(PERIOD, "")):
            raise ValueError(f"directory may hold {PERIOD} once and no other braces")
        if self.directory.startswith("~"):
            raise ValueError("directory must not start with ~: write the path out")
        return self


class ResourceKeys(BaseModel):
    """What a run may use; decides nothing of the maps but by the kind of device."""

    model_config = _STRICT
    device: _Line = "auto"
    workers: _Count | None = None  # processes; without them the run's own process does the work
    threads: _Count = 2  # tiles that a worker has in hand
    memory: Annotated[str, Field(pattern=r"^\d{1,6}(\.\d{1,3})? ?[MGT]i?B$")] | None = None  # of each worker
    scheduler: Annotated[_Address, Field(pattern=r"^(tcp|tls)://[^/]+$")] | None = None  # of a dask cluster

    @model_validator(mode="after")
    def _one_cluster(self) -> ResourceKeys:
        if self.scheduler and (self.workers or self.memory):
            raise ValueError("a scheduler has workers of its own: give it alone, or workers and memory")
        return self

    @property
    def memory_bytes(self) -> int | None:
        """What the whole run may take on this machine: its workers' memory and that of the process they work for."""
        if self.memory is None:
            return None
        number, unit = re.fullmatch(r"([\d.]+) ?(\w+)", self.memory, re.ASCII).groups()  # type: ignore[union-attr]
        each = float(number) * (1024 if "i" in unit else 1000) ** (" MGT".index(unit[0]) + 1)
        return int(each * (self.workers or 1) + (OWN_BYTES if self.workers else 0))


class JobKeys(BaseModel):
    """The keys of a job file."""

    model_config = _STRICT
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,60}$")]  # of its systemd units, too
    area: Annotated[str, BeforeValidator(_corners)]
    period: PeriodKeys
    catalogue: CatalogueKeys = CatalogueKeys()
    legends: tuple[_Line, ...] = ()
    classes: tuple[_Class, ...] = ()
    weights: WeightsKeys = WeightsKeys()
    masks: MaskKeys = MaskKeys()
    min_clear_months: _Months | None = None
    min_confidence: _Percent = 0
    within: Annotated[_Line, AfterValidator(_restriction)] | None = None  # LEGEND=CLASS
    outputs: OutputKeys
    resources: ResourceKeys = ResourceKeys()

    @model_validator(mode="after")
    def _complete(self) -> JobKeys:
        if not (self.legends or self.classes):
            raise ValueError("nothing to map; give legends: [landcover] or classes: [vineyard, olive grove]")
        if self.period.last is not None and PERIOD not in self.outputs.directory:
            raise ValueError(f"outputs.directory must hold {PERIOD}, since period.last is another period every month")
        if self.outputs.update and self.period.last is None:
            raise ValueError("outputs.update goes with period.last: each map is made from the one before")
        return self


@dataclass(frozen=True, slots=True)
class MapJob:
    """A job file that was read: its absolute path, its keys, and what they name."""

    path: Path
    keys: JobKeys
    area: aoi.Area
    legends: tuple[Legend, ...]

    def file(self, text: str) -> Path:
        """A path as the job file means it: relative to the file."""
        return Path(os.path.normpath(self.path.parent / text))

    def directory(self, period: Period) -> Path:
        """Where the maps of a period go."""
        return self.file(self.keys.outputs.directory.replace(PERIOD, str(period)))

    @property
    def mask(self) -> Mask:
        """What is not clear."""
        return Mask(**self.keys.masks.model_dump())

    @property
    def within(self) -> tuple[str, str] | None:
        """(legend, class) that the other maps keep to."""
        if self.keys.within is None:
            return None
        legend, _, name = self.keys.within.partition("=")
        return legend.strip(), name.strip()


def read(path: Path) -> MapJob:
    """Read and check a job file, its area and its legends.

    Raises:
        ConfigError: no such file, not YAML, an unknown key, a value out of range.
        AoiError, LegendError: the area or a legend.
    """
    raw = config.read(path, "job file", "pipelines/rolling_update_monthly.yaml")
    try:
        keys = JobKeys.model_validate(raw)
    except ValidationError as e:
        raise ConfigError(f"{path}: {first_problem(e, JobKeys)}") from e
    path = path.resolve()
    with in_keys(path):
        area = aoi.parse_area(keys.area, path.parent)
        named = [legends.load(str(path.parent / n) if n.endswith(".toml") else n) for n in keys.legends]
        typed = [legends.typed(",".join(keys.classes))] if keys.classes else []
    return MapJob(path, keys, area, (*named, *typed))


@contextmanager
def in_keys(path: Path) -> Iterator[None]:
    """Errors in terms of a job file: its path comes first, and keys take the place of options."""
    try:
        yield
    except GeomapError as e:
        said = re.sub(r"--[a-z][a-z-]*", lambda option: KEYS.get(option[0], option[0]), str(e))
        e.args = (said if said.startswith(str(path)) else f"{path}: {said}",)
        raise
