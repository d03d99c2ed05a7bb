"""A request in words: as run.json tells it, and read from there to repeat the run."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

import shapely

from geomap import __version__, files
from geomap.composite.mask import Mask
from geomap.encode.card import CARD_FILE, locate, weight_names
from geomap.errors import GeomapError, InputError, LegendError, WeightsError
from geomap.legends import Legend
from geomap.paths import there
from geomap.points.read import PointFiles
from geomap.run.label_request import LabelRequest
from geomap.run.learned import digest_of
from geomap.run.lesson import lesson_of
from geomap.run.record import FILE, Record, read_record
from geomap.run.request import Earlier, Request, point_files
from geomap.sources.hrefs import redact
from geomap.text import listed, shown
from geomap.types import Finish, OwnGrid, Period

_OPTIONS: Final = {
    "weights": "--weights", "composites": "--from-composites", "update": "--update-from", "points": "--points",
    "learned": "--learned",
}  # fmt: skip
"""Fields of a request that name a file or folder, and how to give it."""


def words_of(request: Request | LabelRequest) -> dict[str, Any]:
    """A request as run.json tells it: area (WKT), months, legends with their prompts, and every option that is set.

    Files and folders are named without the folders above them, addresses without what may be secret.
    """
    told: dict[str, Any] = {}
    for name, value in _values(request).items():
        if value is None or (value == () and name not in ("legends", "within")):
            continue
        told[name] = _word(name, value)
    return told


def _values(request: Request | LabelRequest) -> dict[str, Any]:
    values = {field.name: getattr(request, field.name) for field in fields(request) if field.name != "store"}
    if isinstance(points := values["points"], PointFiles):
        own = {"column": points.column, "points_crs": points.crs, "date_column": points.date_column}
        values |= {"points": points.files, **own}
    return values


def _word(name: str, value: Any) -> Any:
    if name == "area":
        return shapely.to_wkt(value.geometry, rounding_precision=-1)
    if name == "legends":
        return [legend.model_dump(mode="json", exclude_defaults=True) for legend in value]
    if name == "stac":
        return source(value)
    if isinstance(value, Earlier):
        return str(value.period)
    if isinstance(value, Mask | Finish | OwnGrid):
        return asdict(value)
    if name == "points":
        return [Path(file).name for file in value]
    if isinstance(value, Path) or name in _OPTIONS:
        return Path(value).name
    if isinstance(value, Period):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def source(stac: str) -> str:
    """A catalogue without its query string, which may hold tokens; an item file by name and content, not by folder."""
    path = Path(stac)
    if path.is_file():
        return f"{path.name} sha256:{files.sha256(path)}"
    return redact(stac)


def read_again(directory: Path, **places: str | Path | tuple[str, ...] | Earlier | None) -> Request:
    """The request of the finished run in a directory, to be asked again.

    Args:
        directory: output directory of `geomap map` or of a job.
        places: fields of the request that run.json cannot tell, since no folder or secret is written: `stac`, `points`
            and `learned` (files that are looked for beside the run and where the command is typed), `weights` (if they
            are not geomap's), `composites`, `update`. Other fields take the place of what run.json tells.

    Raises:
        InputError: no finished run of this version that was made from scenes or composites, or a file is not at hand
            or not the one that the run read, or a legend of it is refused now.
        WeightsError: no such weights, or not those of the run.
    """
    record = read_record(directory)
    if not (directory / files.SUMS).is_file():
        raise InputError(files.unfinished(directory))
    asked = dict(record.asked)
    if asked.pop("command", None) != "map":
        raise InputError(
            f"{directory} is of geomap label, geomap similar or an earlier version; type its command again"
        )
    if record.software.get("geomap") != __version__:
        raise InputError(
            f"{directory} is of geomap {record.software.get('geomap')}, this is {__version__}: the maps would differ; "
            "install that version, or type the command"
        )
    try:
        given, unknown = {name: _value(name, word) for name, word in asked.items()}, []
    except LegendError as e:
        raise LegendError(f"{_refused(directory, e)}, and type the command of the map without --again") from e
    given |= {name: place for name, place in places.items() if place is not None}
    for name in sorted({*_OPTIONS, "stac"} & asked.keys()):
        try:
            given[name] = places.get(name) or _place(directory, name, asked[name])
        except InputError as e:
            unknown.append(str(e))
    if unknown:
        raise InputError("; ".join(unknown))
    if " sha256:" in asked["stac"]:
        given["stac"] = _same(given["stac"], directory, asked["stac"])
    request = Request(**given)
    _require_weights(request, directory, record)
    _require_points(request, directory, record)
    return request


def _require_weights(request: Request, directory: Path, record: Record) -> None:
    """Raise unless the weights, and the composites if it was made from these, are those of a run.

    Raises WeightsError, InputError.
    """
    of = record.request.get("weights")
    if of and (digest := files.sha256(locate(request.weights) / CARD_FILE)) != of["sha256"]:
        raise WeightsError(
            f"{shown(request.weights)} holds weights {digest[:12]}, and {directory} was made with {of['name']} "
            f"{of['sha256'][:12]}; give those as --weights"
        )
    if request.composites is None or "composites" not in record.request:
        return
    from geomap.store.store import COMPOSITES, digest_of  # loads zarr

    path = request.composites
    if digest_of(path / COMPOSITES if (path / COMPOSITES).is_dir() else path) != record.request["composites"]:
        raise InputError(
            f"{shown(path)} does not hold the composites that {directory} was made from, or was made anew since; give "
            "those as --from-composites, or type the command of the map without --again"
        )


def _require_points(request: Request, directory: Path, record: Record) -> None:
    """Raise InputError unless the points, or what was learned, are those of a run."""
    told = {name: record.request[name]["sha256"] for name in ("points", "learned") if name in record.request}
    source = point_files(request)
    if (
        source is not None
        and "points" in told
        and lesson_of(source, request.legends, request.period).digest != told["points"]
    ):
        raise InputError(
            f"the places or classes of {listed(shown(Path(file)) for file in source.files)} are not those that "
            f"{directory} learned from; give what it learned from as --points, in the same order"
        )
    if request.learned is not None and "learned" in told and digest_of(request.learned) != told["learned"]:
        raise InputError(
            f"{shown(request.learned)} is not what {directory} was made with; give that file or folder as --learned"
        )


def mapped_legends(store: Path) -> tuple[Legend, ...]:
    """The legends that a run, or the run of a store, was mapped with; none where run.json does not tell.

    Raises LegendError for one that an earlier version took and this one refuses.
    """
    directory = store if (store / FILE).is_file() else store.parent
    try:
        told = read_record(directory).asked.get("legends", [])
        return tuple(_value("legends", told))
    except LegendError as e:
        raise LegendError(f"{_refused(directory, e)}, and give that as --legend") from e
    except (GeomapError, ValueError, TypeError):
        return ()


def _refused(directory: Path, error: LegendError) -> str:
    return f"{directory} was made with a legend that is refused now ({error}): mend its file"


def _value(name: str, word: Any) -> Any:
    """A field of a request from its word."""
    if name == "area":
        return shapely.from_wkt(word)
    if name == "legends":
        return tuple(Legend(**legend) for legend in word)
    if name == "mask":
        return Mask(tuple(word["classes"]), word["opening"], word["dilation"])
    return tuple(word) if isinstance(word, list) else word


def _place(directory: Path, name: str, word: Any) -> Any:
    """What a field names that may be a file or folder. Raises InputError if run.json cannot tell where that is."""
    if isinstance(word, list):
        return [_place(directory, name, one) for one in word]
    if name in ("points", "learned") or (name == "stac" and " sha256:" in word):
        file = word.partition(" sha256:")[0]
        beside = (folder / file for folder in (Path(), directory, directory.parent))
        found = next(filter(_is_file, beside), None)
        if found is None:
            what = "the item file " if name == "stac" else ""
            raise InputError(f"{directory} does not tell where {what}{file} lies; give it as --{name}")
        return str(found)
    if name in _OPTIONS and (name != "weights" or word not in weight_names()):
        raise InputError(f"{directory} does not tell where {word} lies; give it as {_OPTIONS[name]}")
    return word


def _is_file(path: Path) -> bool:
    """Whether there is a file or folder, or the file of FILE:LAYER."""
    file = path.with_name(path.name.rpartition(":")[0] or path.name)
    return there(path) or there(file)


def _same(stac: str, directory: Path, word: str) -> str:
    """An item file. Raises InputError unless it is the one that the run read."""
    if not Path(stac).is_file() or source(stac).partition(" ")[2] != word.partition(" ")[2]:
        file = word.partition(" sha256:")[0]
        raise InputError(f"{stac} is not the item file {file} that {directory} was made from; give that as --stac")
    return stac


def compared(directory: Path, out: Path) -> tuple[str, ...]:
    """Names of the maps of two runs that differ, or that only one of them has."""
    one, two = ({n: d for n, d in files.sums(path).items() if n.endswith(".tif")} for path in (directory, out))
    return tuple(sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name)))
