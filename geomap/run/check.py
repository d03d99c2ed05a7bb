"""What a finished run must hold: its files against SHA256SUMS, and the list itself against run.json.

Files that GDAL or QGIS write beside a map (statistics, a style) are told apart from data. Loads neither GDAL nor Zarr.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from geomap import files
from geomap.errors import InputError
from geomap.run.record import FILE, Record, map_files, own_name, place_in, read_record
from geomap.write.layer import file_stem

RERUN: Final = "type the run's command again: it remakes the maps, from kept tiles if there are any"
RESUME: Final = "type the run's command again: it resumes from the finished tiles"
AGAIN: Final = "type the geomap assess command again"
ANEW: Final = "remove it, and type the geomap assess command of each map again"
UNDO: Final = f"if that was not you, remove {files.SUMS} and type the run's command again"
MOVE: Final = "it is no part of the run: remove it, or move it elsewhere"

_RASTERS: Final = frozenset([
    ".tif", ".tiff", ".vrt", ".ovr", ".msk", ".aux", ".xml", ".img", ".rrd", ".jp2", ".png", ".jpg", ".asc", ".nc",
    ".tfw", ".tifw", ".wld", ".prj", ".rpb", ".imd", ".zarr",
])  # fmt: skip
"""Suffixes of files that GDAL or QGIS may take for a map, or read together with one."""
_FOLDERS: Final = ("stac", "zones", files.RECORDS)
"""Folders of a run besides stores; users have no files there."""

_STATISTICS: Final = frozenset([
    "PAMDataset", "PAMRasterBand", "Metadata", "MDI", "CategoryNames", "Category", "Histograms", "HistItem", "HistMin",
    "HistMax", "BucketCount", "IncludeOutOfRange", "Approximate", "HistCounts", "GDALRasterAttributeTable", "FieldDefn",
    "Name", "Type", "Usage", "Row", "F", "Description", "UnitType",
])  # fmt: skip
"""Elements of a GDAL side file that say nothing of where the map lies or which pixels it has."""
_MOST: Final = 2**26
"""Bytes of a side file or of metadata that is read."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The files of a run, compared with what it wrote."""

    problems: tuple[str, ...]  # one line for each, with what to do
    side: tuple[str, ...] = ()  # files of other programs and of the user, one line for each


def check(directory: Path) -> Checked:
    """Compare the files of a finished run with SHA256SUMS, and SHA256SUMS with run.json."""
    if not (directory / files.SUMS).is_file():
        return Checked((f"{files.SUMS}: missing, so the run did not finish; {RESUME}",))
    if (directory / files.ADDED / files.SUMS).is_file():
        return Checked(("an assessment was stopped while it was put in place; type geomap assess again",))
    known = files.sums(directory)
    trusted = FILE not in known or not files.problem(directory, FILE, known[FILE])
    problems, side = list(_guard(directory, known)) if trusted else [], []
    for name, digest in known.items():
        for line in files.problem(directory, name, digest):
            if _of_other_programs(directory, name, known) and line.endswith(": changed"):
                side.append(f"{name}: changed by another program, such as statistics or a style; the map is as it was")
            else:
                problems.append(f"{line}{_tile(directory, name)}; {_remedy(name, line)}")
    for name in files.present(directory):
        if name in known:
            continue
        if _of_other_programs(directory, name, known):
            side.append(f"{name}: written by another program beside the map, which is as it was")
        elif _misleads(name, known):
            problems.append(f"{name}: not listed in {files.SUMS}{_tile(directory, name)}; {MOVE}")
        else:
            side.append(f"{name}: no part of the run")
    return Checked(tuple(dict.fromkeys(problems)), tuple(side))


def damaged(directory: Path, stores: bool = True) -> tuple[str, ...]:
    """What makes a finished run unfinished: maps, stores and records that are missing or changed, or a list with gaps.

    Edited styles and metadata, and added files, are not damage. Chunks of stores are checked if `stores`.
    """
    known = files.sums(directory)
    data = {name: digest for name, digest in known.items() if _is_data(name, stores)}
    lines = (line for name, digest in data.items() for line in files.problem(directory, name, digest))
    return tuple(dict.fromkeys((*(line.partition(";")[0] for line in _guard(directory, known)), *lines)))


def _is_data(name: str, stores: bool) -> bool:
    chunk = ".zarr/" in name and not name.endswith(".json")
    return name.endswith(".tif") or name.startswith(f"{files.RECORDS}/") or (stores and chunk)


def _guard(directory: Path, known: Mapping[str, str]) -> Iterator[str]:
    """What run.json says must be listed and is not."""
    try:
        record = read_record(directory)
    except InputError:
        if FILE not in known or files.problem(directory, FILE, known[FILE]):  # else as a version of geomap wrote it
            yield f"{FILE}: missing or not readable; {RERUN}"
        return
    for name in _required(record):
        if name not in known:
            there = f"not listed in {files.SUMS}" if (directory / name).is_file() else "missing"
            yield f"{name}: {there}; {RERUN}"
    listed = {name: digest for name, digest in known.items() if name != FILE}
    if record.seal and files.seal(listed) != record.seal:
        yield f"{files.SUMS}: it is not the list of {record.files} files that the run wrote; {RERUN}"


def _required(record: Record) -> Iterator[str]:
    """Files that every run has: its maps, one for each zone and one on a grid of its own, and its record."""
    place, own = place_in(record.request), own_name(record.request)
    for stem in record.maps:
        yield from ([f"{file_stem(stem, place, own)}.tif"] if own else [])
        yield from map_files(record, stem)
    yield FILE


def _remedy(name: str, line: str) -> str:
    if line.startswith(f"{files.SUMS}:") or name.endswith(".tif") or _is_data(name, stores=True):
        return RERUN
    if name.startswith("assessment."):
        return ANEW if name.endswith(".json") and line.endswith(": changed") else AGAIN
    return UNDO


def _of_other_programs(directory: Path, name: str, known: Mapping[str, str]) -> bool:
    """Whether GDAL or QGIS write such a file beside a map: statistics alone, a style, layer metadata."""
    path = PurePosixPath(name)
    if name.endswith(".aux.xml"):
        of = name.removesuffix(".aux.xml")
        return of in known and _only_statistics(directory / name, _classes(directory, of))
    if path.suffix in (".gpkg-wal", ".gpkg-shm"):  # SQLite, while a program has the polygons open
        return str(path.with_suffix(".gpkg")) in known
    maps = (str(path.with_suffix(suffix)) for suffix in (".tif", ".vrt"))
    return path.suffix in (".qml", ".qmd") and any(name in known for name in maps)


def _only_statistics(path: Path, classes: Mapping[str, str]) -> bool:
    """Whether a GDAL side file holds statistics and the names of `classes` alone: no other place, mask or scale."""
    try:
        content = path.read_bytes()
        if path.is_symlink() or len(content) > _MOST or b"<!" in content:
            return False
        root = ET.fromstring(content)  # without declarations, so without entities
        elements = list(root.iter())
    except (OSError, ET.ParseError, RecursionError):
        return False
    known = all(element.tag in _STATISTICS and "domain" not in element.attrib for element in elements)
    keys = (element.get("key", "") for element in elements if element.tag == "MDI")
    named = [(str(value), c.text) for value, c in enumerate(root.iter("Category"))]
    named += [(row[0].text or "", row[2].text) for row in root.iter("Row") if len(row) > 2]  # value, count, class
    return (
        known
        and all(key.startswith("STATISTICS_") or key == "LAYER_TYPE" for key in keys)
        and all(not name or name == classes.get(value) for value, name in named)
    )


def _classes(directory: Path, name: str) -> dict[str, str]:
    """The classes of a map, value -> name, as its STAC item has them; empty if it has none."""
    for path in sorted((directory / "stac").rglob("*.json")):
        try:
            for asset in files.read_json(path, _MOST).get("assets", {}).values():
                if PurePosixPath(asset["href"]).name == name:
                    return {str(c["value"]): str(c["title"]) for c in asset.get("classification:classes", ())}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return {}


def _misleads(name: str, known: Mapping[str, str]) -> bool:
    """Whether a file that is not listed could be taken for part of the maps: by its place, its suffix or its name."""
    path = PurePosixPath(name)
    inside = path.parts[0] in _FOLDERS or any(part.endswith(".zarr") for part in path.parts[:-1])
    stems = {PurePosixPath(other).stem.lower() for other in known if other.endswith((".tif", ".vrt"))}
    return inside or path.suffix.lower() in _RASTERS or path.name.lower().partition(".")[0] in stems


def _tile(directory: Path, name: str) -> str:
    """The tile that a file of a store or of the records belongs to, in brackets; empty if it is none's."""
    path = PurePosixPath(name)
    if path.parts[0] == files.RECORDS:
        return f" (tile {path.stem})"
    if path.parts[0].endswith(".zarr") and "c" in path.parts[1:-2]:
        try:
            content = files.read_json(directory / path.parts[0] / "zarr.json", _MOST)["attributes"]["geomap"]
            tile = _holding(content, path)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ZeroDivisionError):
            return ""
        return f" (tile {tile})" if tile else ""
    return ""


def _holding(content: Any, path: PurePosixPath) -> str | None:
    """The tile of a store that a chunk belongs to: `[<epsg>/]<array>/c/.../<row>/<column>`."""
    row, column = (int(part) for part in path.parts[-2:])
    step, tiles = content["side"] * 10, content["tiles"]
    zones = {bounds[0] for bounds in tiles.values()}
    zone = zones.pop() if len(zones) == 1 else int(path.parts[1])
    own = {name: bounds[1:] for name, bounds in tiles.items() if bounds[0] == zone}
    west = min(bounds[0] for bounds in own.values()) // step
    north = max(-(-bounds[3] // step) for bounds in own.values())
    for name, bounds in own.items():
        if (north - -(-bounds[3] // step), bounds[0] // step - west) == (row, column):
            return str(name)
    return None
