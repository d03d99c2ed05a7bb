"""Reads the class maps of a finished run: names of classes, pixels block by block, and the class at places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geomap import files
from geomap.errors import InputError, ReadError, to_type
from geomap.grid import zone_epsg
from geomap.paths import real

BLOCK: Final = 512
"""Pixels per side of a block that is read at a time: a block of the maps' files. A power of two, for `_order`."""
CACHE_BYTES: Final = 16 << 20
"""GDAL's block cache while a map is read; by default it would take 5 % of the machine's memory."""
_MOST_JSON: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class ClassMap:
    """A map of classes: one file for each UTM zone."""

    stem: str
    title: str
    names: Mapping[int, str]  # id -> name, without nodata
    colours: Mapping[int, str]  # id -> #rrggbb
    paths: Mapping[int, Path]  # EPSG code -> file
    sure: Mapping[int, Path]  # the same of its confidence


class Block(NamedTuple):
    """Part of a map, as a list of pixels in an order that keeps neighbours together."""

    epsg: int
    west: float  # m, of the block's north-west corner
    north: float
    rows: NDArray[np.intp]  # (BLOCK * BLOCK,)
    columns: NDArray[np.intp]
    values: NDArray[np.uint8]  # (BLOCK * BLOCK,) class ids; 0 beyond the map's edge


def find_map(directory: Path, stem: str | None) -> ClassMap:
    """The class map of a run, from its STAC items. Raises InputError if there is none, or several and none is named."""
    found: dict[str, ClassMap] = {}
    for path in sorted((directory / "stac").glob("*.json")):
        assets, epsg = _assets(path), _zone(path)
        for name, asset in assets.items():
            classes = asset.get("classification:classes")
            if epsg is None or not classes or f"{name}_confidence" not in assets:  # a map of changes has none
                continue
            before = found.get(name, ClassMap(name, str(asset.get("title", name)), *_classes(classes), {}, {}))
            paths = {**before.paths, epsg: _file(directory, path, asset)}
            sure = {**before.sure, epsg: _file(directory, path, assets[f"{name}_confidence"])}
            found[name] = replace(before, paths=paths, sure=sure)
    if not found:
        raise InputError(files.lacks(directory, "finished map of classes"))
    if stem is None and len(found) > 1:
        raise InputError(f"{directory} holds several maps; choose one: --legend {' or --legend '.join(sorted(found))}")
    if stem is not None and stem not in found:
        raise InputError(f"{directory} holds no map {stem!r} of classes; choose --legend from {', '.join(found)}")
    chosen = found[stem] if stem is not None else next(iter(found.values()))
    _require_whole(directory, chosen)
    return chosen


def blocks(of: ClassMap) -> Iterator[Block]:
    """The map block by block; one is in memory at a time. Raises ReadError."""
    rows, columns = _order(BLOCK)
    for epsg, path in sorted(of.paths.items()):
        with _opened(path) as f:
            down, across = (-(-size // BLOCK) for size in f.shape)
            side = 1 << (max(down, across) - 1).bit_length()
            for i, j in zip(*(v.tolist() for v in _order(side)), strict=True):
                if i >= down or j >= across:
                    continue
                window = Window(j * BLOCK, i * BLOCK, BLOCK, BLOCK)
                read = f.read(1, window=window.intersection(Window(0, 0, f.width, f.height)))
                values = np.zeros((BLOCK, BLOCK), np.uint8)
                values[: read.shape[0], : read.shape[1]] = read
                west, north = f.transform.c + j * BLOCK * f.transform.a, f.transform.f + i * BLOCK * f.transform.e
                yield Block(epsg, west, north, rows, columns, values[rows, columns])


def class_at(of: ClassMap, lonlat: NDArray[np.float64]) -> NDArray[np.intp]:
    """(n,) class id of the pixel that holds each place, (n, 2) in degrees; 0 off the map. Raises ReadError.

    Beside the border of two zones, the map of the place's own zone comes first: pixels there overlap by parts.
    """
    return classes_and_zones(of, lonlat)[0]


def confidence_at(of: ClassMap, lonlat: NDArray[np.float64], zone: NDArray[np.intp]) -> NDArray[np.intp]:
    """(n,) percent that the map states for its class there, or more than 100 where it states none; 0 off the map.

    `zone` (n,): as classes_and_zones found it. Raises ReadError.
    """
    sure = np.zeros_like(zone)
    for epsg, path in of.sure.items():
        here = np.flatnonzero(zone == epsg)
        if len(here):
            sure[here] = _values_at(epsg, path, lonlat[here])
    return sure


def classes_and_zones(of: ClassMap, lonlat: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(n,) class ids as class_at gives them, and (n,) EPSG codes of the files that have them; 0 off the map."""
    found, zone = np.zeros(len(lonlat), np.intp), np.zeros(len(lonlat), np.intp)
    own = zone_epsg(lonlat[:, 0], lonlat[:, 1])
    for mine in (True, False):
        for epsg, path in sorted(of.paths.items()):
            asked = np.flatnonzero((found == 0) & ((own == epsg) == mine))
            if len(asked):
                found[asked], zone[asked] = _values_at(epsg, path, lonlat[asked]), epsg
    return found, np.where(found > 0, zone, 0)


def _values_at(epsg: int, path: Path, lonlat: NDArray[np.float64]) -> NDArray[np.intp]:
    """(n,) values of a file's pixels at places, read block by block; 0 outside the file."""
    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lonlat[:, 0], lonlat[:, 1])
    values = np.zeros(len(lonlat), np.intp)
    with _opened(path) as f:
        columns, rows = (np.floor(v) for v in ~f.transform @ (np.asarray(x), np.asarray(y)))
        inside = (columns >= 0) & (columns < f.width) & (rows >= 0) & (rows < f.height)  # False for infinite ones
        at = np.flatnonzero(inside)
        row, column = rows[at].astype(np.intp), columns[at].astype(np.intp)
        block = row // BLOCK * (f.width // BLOCK + 1) + column // BLOCK
        for number in np.unique(block):
            here = np.flatnonzero(block == number)
            top, left = row[here[0]] // BLOCK * BLOCK, column[here[0]] // BLOCK * BLOCK
            window = Window(left, top, min(BLOCK, f.width - left), min(BLOCK, f.height - top))
            values[at[here]] = f.read(1, window=window)[row[here] - top, column[here] - left]
    return values


@cache
def _order(side: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(rows, columns) of a square of cells, quadrant by quadrant (Z-order, Morton 1966); side: a power of two."""
    code = np.arange(side * side)
    rows, columns = np.zeros_like(code), np.zeros_like(code)
    for bit in range(side.bit_length()):
        columns |= (code >> (2 * bit) & 1) << bit
        rows |= (code >> (2 * bit + 1) & 1) << bit
    return rows, columns


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A map's file, opened as a GeoTIFF and nothing else. Raises ReadError."""
    try:
        with (
            rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
            rasterio.open(path.absolute(), driver="GTiff") as f,
        ):
            yield f
    except RasterioError as e:
        raise ReadError(f"{path} cannot be read; {to_type('verify', path.parent)} says what is wrong") from e


def _item(path: Path) -> dict[str, Any]:
    try:
        content = files.read_json(path, _MOST_JSON)
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read: {e}; {to_type('verify', path.parents[1])} says what is wrong") from e
    return content if isinstance(content, dict) else {}


def _assets(path: Path) -> dict[str, dict[str, Any]]:
    assets = _item(path).get("assets", {})
    return {k: v for k, v in assets.items() if isinstance(v, dict)} if isinstance(assets, dict) else {}


def _zone(path: Path) -> int | None:
    """EPSG code of the UTM zone of an item's maps; None of maps on a grid of the user's own, which repeat them.

    Only the items of zones are called by a code alone; that of a grid has the size of its pixels behind it.
    """
    properties = _item(path).get("properties")
    code = str(properties.get("proj:code", "")) if isinstance(properties, dict) else ""
    number = code.removeprefix("EPSG:")
    return int(number) if number.isascii() and number.isdigit() and path.stem.endswith(f"-{number}") else None


def _classes(content: Any) -> tuple[dict[int, str], dict[int, str]]:
    """Names and colours by id, from the entries of the classification extension."""
    names, colours = {}, {}
    for entry in content:
        if not entry.get("nodata"):
            names[int(entry["value"])] = str(entry["title"])
            colours[int(entry["value"])] = f"#{str(entry.get('color_hint', '808080')).lower()}"
    return names, colours


def _file(directory: Path, item: Path, asset: Mapping[str, Any]) -> Path:
    path = real(item.parent / str(asset.get("href", "")))
    if not path.is_relative_to(real(directory)):
        raise InputError(f"{item} names a map outside {directory}; {to_type('verify', directory)} says what is wrong")
    return path


def _require_whole(directory: Path, chosen: ClassMap) -> None:
    """Raise InputError if a file of the map is not what the run wrote."""
    listed = files.sums(directory)
    if not listed:
        raise InputError(files.unfinished(directory))
    for path in (*chosen.paths.values(), *chosen.sure.values()):
        name = path.relative_to(real(directory)).as_posix()
        for line in files.problem(directory, name, listed.get(name, "")):
            raise InputError(f"{directory}: {line}; {to_type('verify', directory)} says what to do")
