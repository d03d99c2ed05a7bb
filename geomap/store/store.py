"""Georeferenced Zarr v3 stores of a run's embeddings and monthly composites.

    <store>.zarr/            attributes "geomap": what it holds, from what, and its tiles
      embedding              (component, y, x) int8, all 0 = no data      in embeddings.zarr
      clear_months           (y, x) uint8, 255 outside the area           in embeddings.zarr
      composite              (month, band, y, x) uint16 DN, 0 = no data   in composites.zarr
      clear                  (month, y, x) uint8 clear observations       in composites.zarr
      x y month band         coordinates; spatial_ref: CRS and transform
      basis                  (dimension, component) float32               in embeddings.zarr

This is a store inside one square of 100 km of MGRS: `xarray.open_zarr(PATH)` opens it. Over several squares all but
`basis` lie in groups, one for each square, named like it, 31UES: in each square, tiles are counted from its own corner
(geomap/grid.py).

A tile is one shard of the large arrays and one chunk of the small ones, on the square's own grid of tiles. So any
process can write tiles, in any order, alone or again, and the bytes are the same. CRS and transform follow the CF
conventions (section 5.6, grid_mapping) with GDAL's additions `GeoTransform` and `spatial_ref`, which GDAL, xarray and
rioxarray read. Large arrays are sharded (zarr-specs, codec sharding_indexed), which GDAL reads from 3.13 on.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.errors import ZarrUserWarning

from geomap import files
from geomap import grid as grids
from geomap.errors import GeomapError, InputError, ReadError, to_type
from geomap.sentinel2 import BANDS
from geomap.store.arrays import (
    COMPOSITE_ARRAYS,
    EMBEDDING_ARRAYS,
    coordinate,
    georeference,
    months_and_bands,
)
from geomap.types import TILE_NAME, Grid, Period, Tile

FORMAT: Final = 3
"""Version of the layout above; another one is refused."""
EMBEDDINGS: Final = "embeddings.zarr"
COMPOSITES: Final = "composites.zarr"
MISSING: Final = "missing"
"""Key of the tiles that could not be made, no data: by name, how many pixels of the area lie there."""
MOST_METADATA: Final = 2**26
"""Most bytes of a store's `zarr.json`, which holds 100 for each tile."""

_ARRAYS: Final = {EMBEDDINGS: EMBEDDING_ARRAYS, COMPOSITES: COMPOSITE_ARRAYS}
_UNIT: Final = 1e-3
"""By how much products of directions, stored as float32, may differ from 0 and 1."""


@dataclass(frozen=True, slots=True)
class Store:
    """A store on the disk."""

    path: Path
    kind: str  # EMBEDDINGS or COMPOSITES
    side: int  # pixels per side of a tile that is not cut
    tiles: tuple[Tile, ...]
    squares: Mapping[str, Grid]  # by name: the whole tiles of a square of 100 km, which its arrays cover
    period: Period
    about: Mapping[str, Any]  # what the run says about it: weights, masks ...
    missing: Mapping[str, int] = field(default_factory=dict)  # name of a tile that could not be made -> its pixels
    listed: Mapping[str, str] = field(default_factory=dict)  # file -> sha256, as its run's SHA256SUMS has it, if any

    def group(self, square: str) -> str | None:
        """The Zarr group that holds a square's arrays; None: the root."""
        return square if len(self.squares) > 1 else None

    def write(self, tile: Tile, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a tile's arrays (..., y, x) and flush them to the disk. Raises DiskFullError, OutputError."""
        row, column = self._place(tile)
        rows, columns = tile.grid.offset_in(grids.whole(tile.grid, self.side))
        with files.disk_errors(self.path.parent, sum(pixels.nbytes for pixels in arrays.values())):
            for name, pixels in arrays.items():
                array = self._open(square_of(tile.grid), name, "r+")
                if pixels.shape[-2:] != tile.grid.shape or pixels.dtype != array.dtype:
                    raise ValueError(f"{name} of {tile.name} is {pixels.dtype} {pixels.shape}, its tile {tile.grid}")
                y, x = row * self.side, column * self.side
                shard = _padded(pixels, self.side, rows, columns, array.fill_value)
                array[..., y : y + self.side, x : x + self.side] = shard
                if (file := self._file(tile, name)).is_file():  # a shard of only the fill value has no file
                    files.flush(file)

    def read(
        self, name: str, grid: Grid, tile: Tile, first: int | tuple[int | slice, ...] | None = None
    ) -> NDArray[Any]:
        """(..., y, x) of an array over a grid inside a stored tile; with `first`, of those months, or months and bands.

        Raises ReadError if it is damaged.
        """
        if not self.has(tile):
            raise damaged(self.path, f"it lacks the tile {tile.name}")
        row, column = grid.offset_in(self.squares[square_of(grid)])
        with _reading(self.path):
            array = self._open(square_of(grid), name, "r")
            place = (..., slice(row, row + grid.height), slice(column, column + grid.width))
            leading = () if first is None else (first,) if isinstance(first, int) else first
            pixels: NDArray[Any] = array[(*leading, *place)]
        return pixels

    def has(self, tile: Tile) -> bool:
        """Whether the tile was written."""
        _, small = _ARRAYS[self.kind]
        return self._file(tile, small.name).is_file()

    def places(self, tile: Tile) -> tuple[str, ...]:
        """The files that may hold a tile, by path in the store."""
        return tuple(self._file(tile, a.name).relative_to(self.path).as_posix() for a in _ARRAYS[self.kind])

    def digests(self, tile: Tile) -> dict[str, str]:
        """sha256 of the files that hold a tile, by path in the store; empty where there is none, as for only nodata."""
        with _reading(self.path):
            return {n: files.sha256(self.path / n) if (self.path / n).is_file() else "" for n in self.places(tile)}

    def check(self, tile: Tile) -> None:
        """Raise ReadError if a tile is not what the run's SHA256SUMS lists; a store that lies alone has no list."""
        if self.listed:
            for name, digest in self.digests(tile).items():
                if digest != self.listed.get(name, ""):
                    raise damaged(self.path, f"{name} of tile {tile.name} is not the file that {files.SUMS} lists")

    def lost(self) -> str | None:
        """A file that the run's SHA256SUMS lists and that is gone, or None."""
        return next((name for name in self.listed if not (self.path / name).is_file()), None)

    def holding(self, grid: Grid) -> Tile | None:
        """The stored tile that a grid lies in, or None."""
        for tile in self.tiles:
            if tile.grid.epsg == grid.epsg:
                row, column = grid.offset_in(tile.grid)
                if 0 <= row <= tile.grid.height - grid.height and 0 <= column <= tile.grid.width - grid.width:
                    return tile
        return None

    def basis(self) -> NDArray[np.float32]:
        """(D, C) orthonormal directions of the components of an embedding. Raises ReadError."""
        with _reading(self.path):
            basis: NDArray[np.float32] = zarr.open_array(self.path / "basis", mode="r")[:]  # type: ignore[assignment]
        if not np.allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=_UNIT):  # zeros where its file is gone
            raise damaged(self.path, "its basis is no set of directions")
        return basis

    def _place(self, tile: Tile) -> tuple[int, int]:
        """(row, column) of a tile among the whole tiles of its square."""
        row, column = tile.grid.offset_in(self.squares[square_of(tile.grid)])
        return row // self.side, column // self.side

    def _file(self, tile: Tile, name: str) -> Path:
        """Where the pixels of a tile lie."""
        array = next(a for a in _ARRAYS[self.kind] if a.name == name)
        return self.path / (self.group(square_of(tile.grid)) or "") / array.file(*self._place(tile))

    def _open(self, square: str, name: str, mode: Any) -> Any:
        _, small = _ARRAYS[self.kind]  # its files show which tiles were written, empty ones too
        array = zarr.open_array(self.path / (self.group(square) or "") / name, mode=mode)
        return array.with_config({"write_empty_chunks": name == small.name})


def create(
    path: Path,
    tiles: Sequence[Tile],
    side: int,
    period: Period,
    about: Mapping[str, Any],
    basis: NDArray[np.float32] | None = None,
) -> Store:
    """Make an empty store, replacing what is there; it appears whole or not at all.

    Args:
        path: its name is EMBEDDINGS or COMPOSITES, and decides which it is.
        tiles: those that will be written.
        side: pixels per side of a tile that is not cut (grid.TILE_PX).
        period: the months.
        about: JSON values.
        basis: (D, C) directions of the components, of embeddings.

    Raises:
        DiskFullError, OutputError: it cannot be written.
        ValueError: a path of another name, or a basis that is missing or does not belong.
    """
    kind, part = path.name, files.temporary(path)
    if kind not in _ARRAYS or (kind == EMBEDDINGS) != (basis is not None):
        raise ValueError(f"{path} must be called {COMPOSITES}, or {EMBEDDINGS} and have a basis")
    content = _content(kind, tiles, side, period, about)
    with files.disk_errors(path.parent):
        _make(part, kind, tiles, side, period, content, basis)
        files.remove(path)
        os.replace(part, path)
    return open_store(path)


def mend(kept: Store, basis: NDArray[np.float32] | None) -> None:
    """Make metadata and coordinates as they were created, and remove files that are not the store's.

    Tiles are left as they are. Raises DiskFullError, OutputError.
    """
    path, part = kept.path, files.temporary(kept.path, "fresh")
    content = _content(kept.kind, kept.tiles, kept.side, kept.period, kept.about)
    with files.disk_errors(path.parent):
        _make(part, kept.kind, kept.tiles, kept.side, kept.period, content, basis)
        fresh = set(store_files(part))
        tiles = {Path(name) for tile in kept.tiles for name in kept.places(tile)}
        for name in set(store_files(path)) - fresh - tiles:
            (path / name).unlink()
        for name in fresh:
            if not (path / name).is_file() or (path / name).read_bytes() != (part / name).read_bytes():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(part / name, path / name)
        files.remove(part)


def _content(kind: str, tiles: Sequence[Tile], side: int, period: Period, about: Mapping[str, Any]) -> dict[str, Any]:
    """What the root's attributes say of the store."""
    return {
        "format": FORMAT,
        "kind": kind.removesuffix(".zarr"),
        "side": side,
        "period": [period.year, period.month, period.months],
        "tiles": {tile.name: [tile.grid.epsg, *tile.grid.bounds] for tile in tiles},
        "about": dict(about),
    }


def _make(
    part: Path,
    kind: str,
    tiles: Sequence[Tile],
    side: int,
    period: Period,
    content: Mapping[str, Any],
    basis: NDArray[np.float32] | None,
) -> None:
    """An empty store at a temporary place."""
    files.remove(part)
    root = zarr.create_group(part, attributes={"geomap": dict(content)})
    if basis is not None:
        coordinate(root, "basis", basis, ("dimension", "component"), {"long_name": "directions of the components"})
    squares = _squares(tiles, side)
    sizes = (period.months, len(BANDS)) if basis is None else basis.shape[1:]
    for square, whole in squares.items():
        group = root.create_group(square) if len(squares) > 1 else root
        georeference(group, whole)
        if basis is None:
            months_and_bands(group, period)
        for array in _ARRAYS[kind]:
            array.create(group, whole, side, sizes[: len(array.dims)])
    _consolidate(root)


def open_store(path: Path, kind: str | None = None) -> Store:
    """Open a store by its directory, or (with `kind`, EMBEDDINGS or COMPOSITES) by that of the run that made it.

    Raises:
        InputError: no store of that kind there, or one of another version.
    """
    if kind is not None and (path / kind).is_dir():
        path = path / kind
    flag = f"--save-{kind.removesuffix('.zarr')}" if kind else "--save-embeddings"
    if not (path / "zarr.json").is_file():
        ran = (path / files.SUMS).is_file()
        if not ran and (path / files.STATE).is_dir():
            raise InputError(files.unfinished(path))
        make = "type the command that made it once more, with" if ran else "make one with: geomap map AOI"
        raise InputError(f"{path} holds no {kind or 'store'}; {make} {flag} --out NEW")
    try:
        if (path / "zarr.json").stat().st_size > MOST_METADATA:
            raise ValueError(f"zarr.json has over {MOST_METADATA >> 20} MB")
        content: Any = dict(zarr.open_group(path, mode="r").attrs)["geomap"]
        if content["format"] != FORMAT:
            raise InputError(
                f"{path} is of another version of geomap (format {content['format']}, this one reads {FORMAT}); "
                f"make it again into another directory: {to_type('map', 'AOI', flag)} --out NEW"
            )
        found = f"{content['kind']}.zarr"
        if found not in _ARRAYS or (kind or found) != found:
            raise InputError(
                f"{path} holds {content['kind']}; make what you ask for with: {to_type('map', 'AOI', flag)}"
            )
        tiles = tuple(_tile(name, *place) for name, place in content["tiles"].items())
        missing = _missing(content.get(MISSING, {}), tiles)
        side, period = content["side"], Period(*content["period"])
        kept = Store(path, found, side, tiles, _squares(tiles, side), period, content["about"], missing, _listed(path))
    except GeomapError:
        raise
    except Exception as e:  # whatever zarr raises for broken metadata
        raise InputError(f"{path} is damaged or no store of geomap ({type(e).__name__}: {e}); make it again") from e
    shards = {name for tile in kept.tiles for name in kept.places(tile)} if kept.listed else set()
    for name in kept.listed.keys() - shards:
        if not (path / name).is_file() or files.sha256(path / name) != kept.listed[name]:
            raise InputError(f"{path} is damaged ({name} is not the file that {files.SUMS} lists); make it again")
    return kept


def _listed(path: Path) -> dict[str, str]:
    """By file in the store, the sha256 that the run's SHA256SUMS lists; empty if the store lies alone.

    Raises InputError in the folder of a run without that list, or a copy of one: its files may be of two states.
    """
    listed, whole = files.listed_sums(path.parent, path.name), (path.parent / files.SUMS).is_file()
    if not whole and (path.parent / files.STATE).is_dir():
        raise InputError(files.unfinished(path.parent))
    if not whole and (path.parent / files.RUN).is_file():
        raise InputError(
            f"{path.parent} holds the {files.RUN} of a run without its {files.SUMS}: it is not finished, or not all of "
            "it was copied; copy the finished run again, or its store into a folder of its own"
        )
    if not listed and whole:
        raise InputError(
            f"{path} is not listed in the {files.SUMS} beside it; {to_type('verify', path.parent)} tells more, or copy "
            "the store into a folder of its own"
        )
    return {name.removeprefix(f"{path.name}/"): digest for name, digest in listed.items()}


def _missing(named: Mapping[str, int] | Sequence[str], tiles: Sequence[Tile]) -> dict[str, int]:
    """The tiles that could not be made; stores of earlier versions name them alone: then all of a tile counts."""
    if isinstance(named, Mapping):
        return {name: int(pixels) for name, pixels in named.items()}
    return {tile.name: tile.grid.width * tile.grid.height for tile in tiles if tile.name in named}


def name_missing(path: Path, tiles: Mapping[str, int]) -> None:
    """Write the tiles that could not be made, and their pixels of the area, into a store's attributes.

    Raises DiskFullError, OutputError, ReadError.
    """
    try:
        content = files.read_json(path / "zarr.json", MOST_METADATA)
        content["attributes"]["geomap"][MISSING] = dict(tiles)
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise damaged(path, f"zarr.json: {e}") from None
    files.write_json(path / "zarr.json", content)  # under a new inode: the state's own file stays as it is


def damaged(path: Path, what: str) -> ReadError:
    """The error for a store whose content is not what it should be."""
    return ReadError(f"{path} is damaged ({what}); copy the whole store again, or make it again")


def digest_of(path: Path) -> str:
    """sha256 over the names and contents of a store's files, taken from SHA256SUMS if its run is finished."""
    listed = files.listed_sums(path.parent, path.name)
    known = listed or {f"{path.name}/{name}": files.sha256(path / name) for name in store_files(path)}
    return hashlib.sha256(json.dumps(sorted(known.items())).encode()).hexdigest()


def store_files(path: Path) -> Iterator[Path]:
    """The files of a store, relative to it, without what an interrupted write left (zarr: `<name>.<hex>.partial`)."""
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.suffix != ".partial":
            yield file.relative_to(path)


def _tile(name: str, *place: int) -> Tile:
    """A tile from a store's attributes. Raises ValueError for a name or an EPSG code that could become another path."""
    if not TILE_NAME.fullmatch(name) or not all(type(v) is int for v in place):
        raise ValueError(f"{name!r} is no tile")
    if not grids.in_zone(*place[1:]):
        raise ValueError(f"{name!r} lies outside a UTM zone")
    return Tile(name, _grid(*place))


def _grid(epsg: int, west: int, south: int, east: int, north: int) -> Grid:
    return Grid(epsg, west, north, (east - west) // 10, (north - south) // 10)


def _squares(tiles: Sequence[Tile], side: int) -> dict[str, Grid]:
    """By square of 100 km, the whole tiles that the arrays cover: those of the rectangle around a zone's tiles."""
    found: dict[str, Grid] = {}
    for of_zone in grids.by_zone(tiles):
        around = grids.mosaic_grid(tuple(of_zone))
        found |= {square: grids.whole(part, side) for square, part in grids.by_square(around).items()}
    return found


def square_of(grid: Grid) -> str:
    """The name of the square of 100 km in which a grid lies."""
    return grids.square_name(grid.epsg, grid.west, grid.north - 1)


def _consolidate(root: Any) -> None:
    """Copy the metadata of all arrays into the root's own, where xarray looks for them; other readers ignore it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)  # "not in the specification yet"
        zarr.consolidate_metadata(root.store)


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
