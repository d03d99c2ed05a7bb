"""A request in words: as run.json tells it, and read from there to repeat the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

import shapely

from geomap import __version__, files
from geomap.composite.mask import Mask
from geomap.encode.card import weight_names
from geomap.errors import InputError
from geomap.legends import Legend
from geomap.run.directory import read_begun
from geomap.run.record import read_record
from geomap.run.request import Earlier, Request
from geomap.sources.hrefs import redact
from geomap.types import Period

_FILES: Final = ("stac", "weights", "composites", "update")
"""Fields of a request that may name a file or folder of this machine."""


def words_of(request: Request) -> dict[str, Any]:
    """A request as run.json tells it: area (WKT), months, legends with their prompts, and every option that is set.

    Files and folders are named without the folders above them, addresses without what may be secret.
    """
    told: dict[str, Any] = {}
    for name, value in _values(request).items():
        if value is None or value == ():
            continue
        told[name] = _word(name, value)
    return told


def _values(request: Request) -> dict[str, Any]:
    return {field.name: getattr(request, field.name) for field in fields(request)}


def _word(name: str, value: Any) -> Any:
    if name == "area":
        return shapely.to_wkt(value.geometry, rounding_precision=-1)
    if name == "legends":
        return told_legends(value)
    if name == "stac":
        return source(value)
    if isinstance(value, Earlier):
        return str(value.period)
    if isinstance(value, Mask):
        return asdict(value)
    if isinstance(value, Path) or name == "weights":
        return Path(value).name
    if isinstance(value, Period):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def told_legends(asked: Sequence[Legend]) -> list[dict[str, Any]]:
    """Legends as run.json tells them: what their TOML says."""
    return [legend.model_dump(mode="json", exclude_defaults=True) for legend in asked]


def source(stac: str) -> str:
    """A catalogue without its query string, which may hold tokens; an item file by name and content, not by folder."""
    path = Path(stac)
    if path.is_file():
        return f"{path.name} sha256:{files.sha256(path)}"
    return redact(stac)


def places_of(request: Request) -> dict[str, str]:
    """Where the files and folders that a request names lie on this machine; nothing of this is published."""
    values = _values(request)
    found = {name: value for name, value in values.items() if isinstance(value, Path)}
    if request.update:
        found["update"] = request.update.directory
    if Path(request.stac).is_file():
        found["stac"] = Path(request.stac)
    if request.weights not in weight_names():
        found["weights"] = Path(request.weights)
    return {name: str(path.absolute()) for name, path in found.items()}


def read_again(directory: Path, stac: str | None = None, weights: str | None = None) -> Request:
    """The request of the finished run in a directory, to be asked again.

    Args:
        directory: output directory of `geomap map` or of a job.
        stac, weights: where the catalogue and the weights are now; None: where they were.

    Raises:
        InputError: no finished run of this version that was made from scenes or composites, or a file is gone.
    """
    record = read_record(directory)
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
    places = read_begun(directory).places | {k: v for k, v in (("stac", stac), ("weights", weights)) if v}
    given = {name: _value(name, word) for name, word in asked.items()}
    given |= {name: _place(directory, name, asked[name], places) for name in _FILES if name in asked}
    if "update" in asked:
        given["update"] = Earlier(given["update"], Period.parse(asked["update"]))
    given |= {name: Path(places[name]) for name in places.keys() & asked.keys() - {*_FILES}}
    return Request(**given)


def _value(name: str, word: Any) -> Any:
    """A field of a request from its word."""
    if name == "area":
        return shapely.from_wkt(word)
    if name == "legends":
        return tuple(Legend(**legend) for legend in word)
    if name == "mask":
        return Mask(**{key: tuple(v) if isinstance(v, list) else v for key, v in word.items()})
    return tuple(word) if isinstance(word, list) else word


def _place(directory: Path, name: str, word: str, places: Mapping[str, str]) -> Any:
    """What a field that may be a file names today. Raises InputError if that is not what the run read."""
    known = places.get(name)
    if known is None:
        if name in ("composites", "update") or " sha256:" in word:
            raise InputError(f"{directory} does not tell where {word} lies; {_remedy(name)}")
        return word
    path = Path(known)
    if name in ("composites", "update") and not path.exists():
        raise InputError(f"{known} is gone, from which {directory} was made; {_remedy(name)}")
    if " sha256:" in word and source(known) != f"{path.name} sha256:{word.partition(' sha256:')[2]}":
        raise InputError(f"{known} is gone or changed since {directory} was made; {_remedy(name)}")
    return path if name in ("composites", "update") else known


def _remedy(name: str) -> str:
    return "give the same file as --stac" if name == "stac" else "bring it back, or type the command"


def compared(directory: Path, out: Path) -> tuple[str, ...]:
    """Names of the maps of two runs that differ, or that only one of them has."""
    one, two = ({n: d for n, d in files.sums(path).items() if n.endswith(".tif")} for path in (directory, out))
    return tuple(sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name)))
