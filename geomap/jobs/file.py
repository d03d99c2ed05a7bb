"""Reads job files: YAML that says what to map regularly.

docs/jobs.md is the reference; pipelines/ has examples. The keys are those of run.keys and some that only jobs have.
Unknown keys and values out of range are errors, reported together before anything heavy is loaded. Paths are relative
to the job file, so a job means the same from any directory. It holds no secrets: credentials come from the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from geomap import aoi, config, legends
from geomap.config import Strict
from geomap.errors import ConfigError, GeomapError, to_type
from geomap.legends import Legend
from geomap.paths import real
from geomap.run.keys import (
    CatalogueKeys,
    Class,
    Flag,
    Line,
    Months,
    OutputKeys,
    PeriodKeys,
    RequestKeys,
    ResourceKeys,
    WeightsKeys,
    declared,
    in_folder,
)
from geomap.sources.hrefs import HrefPolicy, check_url, named
from geomap.types import Period

PERIOD: Final = "{period}"
"""Stands for the months of a map in `outputs.directory`."""
OWN_BYTES: Final = 2 * 1024**3
"""Memory of the process that leads workers: libraries, and the region's maps while they are written."""
KEYS: Final = {d.option.flag: d.key for d in declared()} | {
    "--out": "outputs.directory",
    "--update-from": "outputs.update",
}
"""Options of the command line that messages name -> the same keys of a job file."""
DECIDES: Final = {
    "geomap": "version of geomap", "bounds": "area", "stac": "catalogue.stac", "collection": "catalogue.collection",
    "max_cloud": "catalogue.max_cloud", "offset_policy": "catalogue.offset", "exclude": "catalogue.exclude",
    "mask": "masks", "smooth": "finish.smooth", "min_area": "finish.min_area", "vector": "finish.vector",
    "layers": "finish.layers", "device": "resources.device", "save": "outputs.save_composites or save_embeddings",
    "update": "outputs.update", "name": "outputs.name", "imagery": "outputs.true_colour or ndvi",
    "points": "points.file", "learned": "points.learned",
}  # fmt: skip
"""Keys of a run's identity (run/identity.py) that messages name -> the keys of a job file, where these differ."""
_DIFFERS: Final = re.compile(r"\(differs in: ([^)]*)\)")
_REFUSED: Final = re.compile(f"holds a run of another request {_DIFFERS.pattern}")


def _corners(value: Any) -> Any:
    """A list of four numbers as the text of a box."""
    if isinstance(value, list):
        if len(value) != 4 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
            raise ValueError("a box is a list of four numbers: [minx, miny, maxx, maxy], longitude first")
        return ",".join(map(repr, value))
    if not isinstance(value, str):
        raise ValueError("must be a list [minx, miny, maxx, maxy], WKT, or the path of an area file")
    return value


def _pattern(regex: str, says: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(regex, text, re.ASCII):
            raise ValueError(f"must be {says}")
        return text

    return AfterValidator(check)


_Name = Annotated[str, _pattern("[a-z0-9][a-z0-9_-]{0,60}", "lower-case letters, digits, _ and -, at most 61")]
_Sum = Annotated[str, _pattern("[0-9a-f]{64}", "a sha256: 64 digits of 0-9 and a-f, as sha256sum writes it")]
_Variable = Annotated[str, _pattern("[A-Za-z_][A-Za-z0-9_]{0,99}", "the name of an environment variable")]
_Memory = Annotated[str, _pattern(r"\d{1,6}(\.\d{1,3})? ?[MGT]i?B", "bytes with their unit, for example 8 GB")]


class JobPeriod(PeriodKeys):
    """The months to map: one of `year`, `start` or `last`."""

    last: Months | None = None  # whole months before the day of the run

    @model_validator(mode="after")
    def _one_way(self) -> JobPeriod:
        if len({"year", "start", "last"} & self.model_fields_set) != 1:
            raise ValueError("give one of year: 2023, start: 2022-10 with months: 12, or last: 12")
        if "months" in self.model_fields_set and self.start is None:
            raise ValueError("months goes with start")
        return self

    def at(self, today: date) -> Period:
        """The months, counted on `today` (UTC)."""
        if self.last is None:
            return self.period
        first = today.year * 12 + today.month - 1 - self.last
        return Period(first // 12, first % 12 + 1, self.last)


class JobCatalogue(CatalogueKeys):
    """Where scenes come from, without secrets."""

    @field_validator("stac", "allow_hosts")
    @classmethod
    def _open(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for text in (value,) if isinstance(value, str) else value:
            _refuse_secrets(text)
        return value


class JobWeights(WeightsKeys):
    """Which weights, and which version of them."""

    sha256: _Sum | None = None  # of card.json, which holds those of its files


class JobOutputs(OutputKeys):
    """Where maps go, and what is kept beside them."""

    directory: Line  # {period} stands for the months
    update: Flag = False  # make each map from the one before; keeps the composites

    @model_validator(mode="after")
    def _plain(self) -> JobOutputs:
        if self.directory.count(PERIOD) > 1 or re.search(r"[{}]", self.directory.replace(PERIOD, "")):
            raise ValueError(f"directory may hold {PERIOD} once and no other braces")
        if self.directory.startswith("~"):
            raise ValueError("directory must not start with ~: write the path out")
        return self


class JobResources(ResourceKeys):
    """What a run may use."""

    threads: Annotated[int, Field(strict=True, ge=1, le=4096)] = 2  # tiles that a worker processes at once
    memory: _Memory | None = None  # of each worker

    @field_validator("scheduler")
    @classmethod
    def _open(cls, value: str | None) -> str | None:
        return None if value is None else _refuse_secrets(value)

    @model_validator(mode="after")
    def _own_memory(self) -> JobResources:
        if self.scheduler and self.memory:
            raise ValueError("a scheduler has workers of its own: give it alone, or workers and memory")
        return self

    @property
    def memory_bytes(self) -> int | None:
        """Memory of the whole run on this machine: that of its workers and of the process that leads them."""
        if self.memory is None:
            return None
        number, unit = re.fullmatch(r"([\d.]+) ?(\w+)", self.memory, re.ASCII).groups()  # type: ignore[union-attr]
        each = float(number) * (1024 if "i" in unit else 1000) ** (" MGT".index(unit[0]) + 1)
        return int(each * (self.workers or 1) + (OWN_BYTES if self.workers else 0))


def notice_address(url: str) -> str:
    """The address if a notice may be sent there: http or https, at any host, without user. Raises ValueError."""
    try:
        check_url(url, HrefPolicy(named=named([url], ("https", "http"))))
    except GeomapError:
        raise ValueError("must be an http or https address without a user: https://example.org/hook") from None
    return url


class JobNotice(Strict):
    """Whom to tell of one kind of end, and how."""

    url: Annotated[Line, AfterValidator(notice_address)] | None = None  # gets JSON by POST
    url_from: _Variable | None = None  # the environment variable that holds such an address, if it is secret
    command: Annotated[tuple[Line, ...], Field(max_length=50)] = ()  # a program and its arguments; reads JSON

    @field_validator("url")
    @classmethod
    def _open(cls, value: str | None) -> str | None:
        return None if value is None else _refuse_secrets(value)


class JobNotify(Strict):
    """What is told of the end of a run."""

    failure: JobNotice = JobNotice()  # exit codes 1, 2 and 3
    success: JobNotice = JobNotice()  # a map was finished
    temporary: Flag = False  # tell of failures that are tried again (75), too


def _refuse_secrets(text: str) -> str:
    """Return the text unless it is an address with a user or a query, where passwords and tokens stand."""
    try:
        parts = urlsplit(text if "//" in text else f"//{text}")
    except ValueError as e:
        raise ValueError("is not a valid address") from e
    if "@" in parts.netloc or ("//" in text and (parts.query or parts.fragment)):
        raise ValueError("must be an address without user, password or query; credentials come from the environment")
    return text


@contextmanager
def _as_problem() -> Iterator[None]:
    """Pass errors of geomap to pydantic, to be reported with all others."""
    try:
        yield
    except GeomapError as e:
        raise ValueError(_keys_for_options(str(e))) from e


def _area(text: str, info: ValidationInfo) -> str:
    with _as_problem():
        aoi.require_area(text, info.context or Path())
    return text


def _legend(name: str, info: ValidationInfo) -> str:
    with _as_problem():
        legends.load(in_folder(name, info.context or Path()))
    return name


def _classes(names: tuple[str, ...]) -> tuple[str, ...]:
    with _as_problem():
        legends.typed(",".join(names))
    return names


class JobKeys(RequestKeys):
    """The keys of a job file, validated with its folder as context, where area and legends are looked for."""

    name: _Name  # of its systemd units, too
    area: Annotated[str, BeforeValidator(_corners), AfterValidator(_area)]
    period: JobPeriod
    catalogue: JobCatalogue = JobCatalogue()
    legends: tuple[Annotated[Line, AfterValidator(_legend)], ...] = ()
    classes: Annotated[tuple[Class, ...], AfterValidator(_classes)] = ()
    weights: JobWeights = JobWeights()
    outputs: JobOutputs
    resources: JobResources = JobResources()
    notify: JobNotify = JobNotify()

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        """`outputs: {name: true}` stands for the name of the job."""
        outputs = given.get("outputs") if isinstance(given, dict) else None
        if isinstance(outputs, dict) and outputs.get("name") is True:
            return given | {"outputs": outputs | {"name": given.get("name")}}
        return given

    @model_validator(mode="after")
    def _complete(self) -> JobKeys:
        if not (self.legends or self.classes or self.points.learned):
            raise ValueError("nothing to map; give legends: [landcover] or classes: [vineyard, olive grove]")
        if self.points.file and not self.points.column:
            raise ValueError("points.file needs points.column: the column with the classes")
        if self.period.last is not None and PERIOD not in self.outputs.directory:
            raise ValueError(f"outputs.directory must hold {PERIOD}, since period.last is another period every month")
        if self.outputs.update and self.period.last is None:
            raise ValueError("outputs.update goes with period.last: each map is made from the one before")
        if self.outputs.update and self.points.file:
            raise ValueError(
                "outputs.update does not go with points.file: learn once, by `geomap label DIR --points FILE --column "
                "NAME --out learned`, and write points: {learned: learned}"
            )
        return self


@dataclass(frozen=True)
class MapJob:
    """A job file that was read: its absolute path, its keys, and what they name."""

    path: Path
    keys: JobKeys
    legends: tuple[Legend, ...]

    @cached_property
    def area(self) -> aoi.Area:
        """The area, read from its file if it is one. Raises AoiError."""
        with in_keys(self.path):
            return aoi.parse_area(self.keys.area, self.path.parent)

    def file(self, text: str) -> Path:
        """A path of the job file, which is relative to the file."""
        return Path(os.path.normpath(self.path.parent / text))

    def directory(self, period: Period) -> Path:
        """Where the maps of a period go."""
        return self.file(self.keys.outputs.directory.replace(PERIOD, str(period)))


def read_job(path: Path) -> MapJob:
    """Read and check a job file, its legends and its area, but not the content of an area file.

    Raises:
        ConfigError: no such file, not YAML, unknown keys, values out of range, an impossible area or legend: all
            problems at once.
    """
    raw = config.read_yaml(path, "job file", "pipelines/rolling_update_monthly.yaml")
    folder = real(path).parent
    try:
        keys = JobKeys.model_validate(raw, context=folder)
    except ValidationError as e:
        found = [_keys_for_options(problem) for problem in config.problems(e, JobKeys)]
        raise ConfigError(config.listed(path, found)) from e
    return MapJob(real(path), keys, keys.chosen(folder))


@contextmanager
def in_keys(path: Path) -> Iterator[None]:
    """Word errors for a job file: its path comes first, and keys replace options and keys of a run's identity."""
    try:
        yield
    except GeomapError as e:
        said = _DIFFERS.sub(_in_job, _keys_for_options(str(e)))
        if (refused := _REFUSED.search(said)) and "area" not in refused[1].split(", ") and "--refresh" not in said:
            said += f", or make this one again in place: {to_type('run', path, '--refresh')}"
        e.args = (said if said.startswith(str(path)) else f"{path}: {said}",)
        raise


def _in_job(differs: re.Match[str]) -> str:
    keys = (DECIDES.get(key, key) for key in differs[1].split(", "))
    return f"(differs in: {', '.join(dict.fromkeys(keys))})"


def _keys_for_options(message: str) -> str:
    return re.sub(r"`geomap [^`]*`|--[a-z][a-z-]*", lambda found: KEYS.get(found[0], found[0]), message)
