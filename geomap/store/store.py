"""Georeferenced Zarr v3 stores of what a run computes on its way to the maps: embeddings and monthly composites.

    <store>.zarr/            attributes "geomap": what it holds, from what, and its tiles
      <EPSG code>/           one group for each UTM zone
        embedding            (component, y, x) int8, all 0 = no data      in embeddings.zarr
        clear_months         (y, x) uint8, 255 outside the area           in embeddings.zarr
        composite            (month, band, y, x) uint16 DN, 0 = no data   in composites.zarr
        clear                (month, y, x) uint8 clear observations       in composites.zarr
        x y month band       coordinates; spatial_ref: CRS and transform
      basis                  (dimension, component) float32               in embeddings.zarr

A tile is one shard of the large arrays and one chunk of the small ones, on the zone's own grid of tiles, so tiles are
written by any process, in any order, alone or again, and give the same bytes. CRS and transform follow the CF
conventions (section 5.6, grid_mapping) with GDAL's additions `GeoTransform` and `spatial_ref`, which GDAL, xarray and
rioxarray read. Large arrays are sharded (zarr-specs, codec sharding_indexed), which GDAL reads from 3.13 on.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray

from geomap import files
from geomap.errors import GeomapError, InputError, ReadError
from geomap.store.arrays import composite_arrays, coordinate, embedding_arrays, georeference
from geomap.types import Grid, Period, Tile

FORMAT: Final = 1
"""Version of the layout above; another one is refused."""
EMBEDDINGS: Final = "embeddings.zarr"
COMPOSITES: Final = "composites.zarr"
MISSING: Final = "missing"
"""Key of the names of tiles that could not be made."""

_SMALL: Final = {EMBEDDINGS: "clear_months", COMPOSITES: "clear"}
"""The small array; a tile without its chunk was never written."""


@dataclass(frozen=True, slots=True)
class Store:
    """A store that is there."""

    path: Path
    kind: str  # EMBEDDINGS or COMPOSITES
    side: int  # pixels per side of a tile that is not cut
    tiles: tuple[Tile, ...]
    period: Period
    about: Mapping[str, Any]  # what the run says of it: weights, masks ...
    missing: frozenset[str] = frozenset()  # names of tiles that could not be made: no data

    def zone(self, epsg: int) -> Grid:
        """The whole tiles of a zone, which its arrays cover."""
        return _whole([tile.grid for tile in self.tiles if tile.grid.epsg == epsg], self.side)

    def group(self, epsg: int) -> str | None:
        """The Zarr group that holds a zone's arrays; None: the root."""
        return str(epsg)

    def write(self, tile: Tile, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a tile's arrays (..., y, x) and flush them to the disk. Raises DiskFullError, OutputError."""
        row, column = (n // self.side for n in tile.grid.offset_in(self.zone(tile.grid.epsg)))
        rows, columns = tile.grid.offset_in(_whole([tile.grid], self.side))
        with files.disk_errors(self.path.parent, sum(pixels.nbytes for pixels in arrays.values())):
            for name, pixels in arrays.items():
                array = self._array(tile.grid.epsg, name, "r+")
                if pixels.shape[-2:] != tile.grid.shape or pixels.dtype != array.dtype:
                    raise ValueError(f"{name} of {tile.name} is {pixels.dtype} {pixels.shape}, its tile {tile.grid}")
                y, x = row * self.side, column * self.side
                shard = _padded(pixels, self.side, rows, columns, array.fill_value)
                array[..., y : y + self.side, x : x + self.side] = shard
                lead = (0,) * (len(array.shape) - 2)
                _flush(self.path / str(tile.grid.epsg) / name / array.metadata.encode_chunk_key((*lead, row, column)))

    def read(self, name: str, grid: Grid, tile: Tile, first: int | None = None) -> NDArray[Any]:
        """(..., y, x) of an array over a grid that lies in a stored tile, or of it at one `first` index (a month).

        Raises ReadError where it is damaged.
        """
        if not self.has(tile):
            raise damaged(self.path, f"it lacks the tile {tile.name}")
        row, column = grid.offset_in(self.zone(grid.epsg))
        with _reading(self.path):
            array = self._array(grid.epsg, name, "r")
            place = (..., slice(row, row + grid.height), slice(column, column + grid.width))
            pixels: NDArray[Any] = array[place if first is None else (first, *place)]
        return pixels

    def has(self, tile: Tile) -> bool:
        """Whether the tile was written."""
        row, column = (n // self.side for n in tile.grid.offset_in(self.zone(tile.grid.epsg)))
        name = _SMALL[self.kind]
        lead = "" if self.kind == EMBEDDINGS else "0/"  # a chunk of `clear` holds all months
        return (self.path / f"{tile.grid.epsg}/{name}/c/{lead}{row}/{column}").is_file()

    def holding(self, grid: Grid) -> Tile | None:
        """The stored tile that a grid lies in, or None."""
        for tile in self.tiles:
            if tile.grid.epsg == grid.epsg:
                row, column = grid.offset_in(tile.grid)
                if 0 <= row <= tile.grid.height - grid.height and 0 <= column <= tile.grid.width - grid.width:
                    return tile
        return None

    def basis(self) -> NDArray[np.float32]:
        """(D, C) directions of the components of an embedding. Raises ReadError."""
        with _reading(self.path):
            basis: NDArray[np.float32] = zarr.open_array(self.path / "basis", mode="r")[:]  # type: ignore[assignment]
        return basis

    def _array(self, epsg: int, name: str, mode: Any) -> Any:
        empty = name == _SMALL[self.kind]  # its chunks say which tiles were written: those of nothing too
        return zarr.open_array(self.path / str(epsg) / name, mode=mode).with_config({"write_empty_chunks": empty})


def create(
    path: Path,
    tiles: Sequence[Tile],
    side: int,
    period: Period,
    about: Mapping[str, Any],
    basis: NDArray[np.float32] | None = None,
) -> Store:
    """Make an empty store, in place of what may lie there; it appears whole or not at all.

    Args:
        path: its name is EMBEDDINGS or COMPOSITES, and decides which it is.
        tiles: that will be written.
        side: pixels per side of a tile that is not cut (grid.TILE_PX).
        period: the months.
        about: JSON values.
        basis: (D, C) directions of the components, of embeddings.

    Raises:
        DiskFullError, OutputError: it cannot be written.
        ValueError: a path of another name, or a basis too many or missing.
    """
    kind, part = path.name, files.temporary(path)
    if kind not in _SMALL or (kind == EMBEDDINGS) != (basis is not None):
        raise ValueError(f"{path} must be called {COMPOSITES}, or {EMBEDDINGS} and have a basis")
    names = {tile.name: [tile.grid.epsg, *tile.grid.bounds] for tile in tiles}
    content = {
        "format": FORMAT,
        "kind": kind.removesuffix(".zarr"),
        "side": side,
        "period": [period.year, period.month, period.months],
        "tiles": names,
        "about": dict(about),
    }
    with files.disk_errors(path.parent):
        shutil.rmtree(part, ignore_errors=True)
        root = zarr.create_group(part, attributes={"geomap": content})
        if basis is not None:
            coordinate(root, "basis", basis, ("dimension", "component"), {"long_name": "directions of the components"})
        for epsg in sorted({tile.grid.epsg for tile in tiles}):
            whole = _whole([tile.grid for tile in tiles if tile.grid.epsg == epsg], side)
            group = root.create_group(str(epsg))
            georeference(group, whole)
            if basis is not None:
                embedding_arrays(group, whole, side, basis.shape[1])
            else:
                composite_arrays(group, whole, side, period)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(part, path)
    return open_store(path)


def open_store(path: Path, kind: str | None = None) -> Store:
    """A store by its directory, or (with `kind`, EMBEDDINGS or COMPOSITES) by that of the run that made it.

    Raises:
        InputError: no store of that kind there, or one of another version.
    """
    if kind is not None and (path / kind).is_dir():
        path = path / kind
    flag = f"--save-{kind.removesuffix('.zarr')}" if kind else "--save-embeddings"
    if not (path / "zarr.json").is_file():
        raise InputError(f"{path} holds no {kind or 'store'}; make one with: geomap map AOI {flag}")
    try:
        content: Any = dict(zarr.open_group(path, mode="r").attrs)["geomap"]
        if content["format"] != FORMAT:
            raise InputError(f"{path} is of another version of geomap (format {content['format']}); make it again")
        found = f"{content['kind']}.zarr"
        if found not in _SMALL or (kind or found) != found:
            raise InputError(f"{path} holds {content['kind']}; make what you ask for with: geomap map AOI {flag}")
        tiles = tuple(Tile(name, _grid(*place)) for name, place in content["tiles"].items())
        missing = frozenset(content.get(MISSING, ()))
        return Store(path, found, content["side"], tiles, Period(*content["period"]), content["about"], missing)
    except GeomapError:
        raise
    except Exception as e:  # whatever zarr raises for broken metadata
        raise InputError(f"{path} is damaged or no store of geomap ({type(e).__name__}: {e}); make it again") from e


def name_missing(path: Path, tiles: Collection[str]) -> None:
    """Write into a store's attributes which tiles could not be made. Raises DiskFullError, OutputError."""
    content = json.loads((path / "zarr.json").read_bytes())
    content["attributes"]["geomap"][MISSING] = sorted(tiles)
    files.write_json(path / "zarr.json", content)  # under a new inode: the state's own file stays as it is


def damaged(path: Path, what: str) -> ReadError:
    """The error of a store that does not hold what it should."""
    return ReadError(f"{path} is damaged ({what}); copy the whole store again, or make it again")


def store_files(path: Path) -> Iterator[Path]:
    """The files of a store, relative to it, without what an interrupted write left (zarr: `<name>.<hex>.partial`)."""
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.suffix != ".partial":
            yield file.relative_to(path)


def _grid(epsg: int, west: int, south: int, east: int, north: int) -> Grid:
    return Grid(epsg, west, north, (east - west) // 10, (north - south) // 10)


def _whole(grids: Iterable[Grid], side: int) -> Grid:
    """The grid of whole tiles, counted from the zone's origin, that hold the grids of one zone."""
    bounds = np.array([grid.bounds for grid in grids])
    first = next(iter(grids))
    step = side * first.resolution
    west, south = (int(math.floor(v / step) * step) for v in bounds[:, :2].min(axis=0))
    east, north = (int(math.ceil(v / step) * step) for v in bounds[:, 2:].max(axis=0))
    return _grid(first.epsg, west, south, east, north)


def _padded(pixels: NDArray[Any], side: int, row: int, column: int, fill: Any) -> NDArray[Any]:
    """Pixels (..., y, x) at (row, column) of a whole tile."""
    if pixels.shape[-2:] == (side, side):
        return pixels
    shard = np.full((*pixels.shape[:-2], side, side), fill, pixels.dtype)
    shard[..., row : row + pixels.shape[-2], column : column + pixels.shape[-1]] = pixels
    return shard


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (GeomapError, MemoryError):
        raise
    except Exception as e:  # zarr's codecs raise what their libraries raise
        raise damaged(path, f"{type(e).__name__}: {e}") from e


def _flush(path: Path) -> None:
    """A shard of nothing but the fill value has no file."""
    if path.is_file():
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
