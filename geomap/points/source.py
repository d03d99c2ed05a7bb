"""Opens the file that places come from: which file and layer is meant, whether it is what its name says, its rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from geomap.errors import InputError, install_hint
from geomap.paths import PARQUET, file_and_layer, there
from geomap.text import listed, one_line, shown

if TYPE_CHECKING:
    import geopandas

MAX_ROWS: Final = 100_000
"""Most points and polygons of a file: learning gains nothing from more, and the pixels of all are in memory at once."""
MAX_ZONES: Final = 1_000_000
"""Most polygons in which areas are counted, one after another."""
MAX_BYTES: Final = 500_000_000
"""Most bytes of a file."""
GPX: Final = ".gpx"
WAYPOINTS: Final = "waypoints"
"""The layer of points in a GPX file, of five that GDAL always lists."""
TABLES: Final = (".csv", ".tsv", ".txt")
_STARTS: Final = {
    ".gpkg": (b"SQLite format 3\0",),
    ".shp": (b"\0\0\x27\x0a",),
    ".geojson": (b"{",),
    ".json": (b"{",),
    GPX: (b"<",),
}
"""First bytes by suffix: GDAL goes by content, and some of its formats open other files and addresses."""
KINDS: Final = ".gpkg, .geojson, .shp, .parquet, .gpx or .csv"


def located(source: str) -> tuple[Path, str | None]:
    """The file, and the layer of FILE:LAYER. Raises InputError, also for a file that is not what its name says."""
    path, layer = file_and_layer(source)
    if not there(path):
        raise InputError(f"no file {shown(source)}; give a {KINDS} file")
    if not path.is_file():
        raise InputError(f"{shown(source)} is no file; give a {KINDS} file")
    if path.suffix.casefold() not in (*TABLES, *PARQUET, *_STARTS):
        raise InputError(f"{shown(source)} is no file of shapes that can be read; export it as {KINDS}")
    try:
        size = path.stat().st_size
        with path.open("rb") as f:
            start = f.read(64)
    except OSError as e:
        raise InputError(f"{shown(source)} cannot be read: {e.strerror}") from e
    if not size:
        raise InputError(f"{shown(source)} is empty; export the points again")
    if size > MAX_BYTES:
        raise InputError(f"{shown(source)} has {size >> 20:,} MB; at most {MAX_BYTES >> 20} MB of points are read")
    _require_kind(path, start)
    return path, layer


def _require_kind(path: Path, start: bytes) -> None:
    wanted = _STARTS.get(path.suffix.casefold())
    if wanted and not start.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").startswith(wanted):
        raise InputError(f"{shown(path)} is not what its name says, a {path.suffix} file; export the points again")


def read_shapes(source: str) -> geopandas.GeoDataFrame:
    """The rows of a vector file, or of FILE:LAYER, with their shapes. Raises InputError."""
    path, layer = located(source)
    if path.suffix.casefold() in TABLES:
        raise InputError(f"{shown(source)} is a table without shapes; give a {KINDS.partition(' or ')[0]} file")
    return shapes_of(path, layer, MAX_ZONES)


def shapes_of(path: Path, layer: str | None, most: int = MAX_ROWS) -> geopandas.GeoDataFrame:
    """The rows of a vector file's layer, with their shapes. Raises InputError."""
    return _read_parquet(path, most) if path.suffix.casefold() in PARQUET else _read_layer(path, layer, most)


def _read_parquet(path: Path, most: int) -> geopandas.GeoDataFrame:
    import geopandas

    try:
        from pyarrow import parquet
    except ImportError as e:
        raise InputError(f"{shown(path)} needs pyarrow; type: {install_hint('pyarrow')}") from e
    try:
        require_rows(path, parquet.read_metadata(path).num_rows, most)
        return geopandas.read_parquet(path)
    except InputError:
        raise
    except Exception as e:  # pyarrow and geopandas raise many kinds
        raise InputError(f"{shown(path)} is no GeoParquet file that can be read: {one_line(e)}") from e


def _read_layer(path: Path, layer: str | None, most: int) -> geopandas.GeoDataFrame:
    """The one layer of a vector file with shapes, or the one named. Raises InputError."""
    import geopandas
    import pyogrio

    from geomap.aoi import plainly_named

    try:
        with warnings.catch_warnings(), plainly_named(path) as plain:
            warnings.simplefilter("ignore")  # what GDAL says is in the error
            layers = [str(name) for name, kind in pyogrio.list_layers(plain) if kind is not None]
            chosen = _layer(path, layers, layer)
            require_rows(path, pyogrio.read_info(plain, layer=chosen)["features"], most)
            table = geopandas.read_file(plain, layer=chosen, rows=most + 1)
    except InputError:
        raise
    except Exception as e:  # pyogrio and GDAL raise many kinds
        raise InputError(f"{shown(path)} cannot be read: {one_line(e)}; export the points again as {KINDS}") from e
    if not isinstance(table, geopandas.GeoDataFrame):
        raise InputError(f"{shown(path)} holds no points or polygons; export them with their geometry")
    return table


def _layer(path: Path, layers: Sequence[str], asked: str | None) -> str:
    if asked is not None and asked not in layers:
        raise InputError(f"{shown(path)} has no layer {shown(asked)} with shapes; it has {listed(layers)}")
    if not layers:
        raise InputError(f"{shown(path)} holds no points or polygons; export them with their geometry")
    if asked is None and path.suffix.casefold() == GPX:
        return WAYPOINTS
    if asked is None and len(layers) > 1:
        named = listed(f"{path.name}:{one}" for one in layers)
        raise InputError(f"{shown(path)} has several layers; name one: {named}")
    return asked or layers[0]


def missing(value: object) -> bool:
    """Whether a cell of a table holds nothing: None, NaN, or what pandas has for it, of which NA has no truth value."""
    return type(value).__name__ in ("NoneType", "NAType", "NaTType") or value != value


def require_rows(path: Path, rows: int, most: int = MAX_ROWS) -> None:
    """Raise InputError for no row, or for more than `most`."""
    if not rows:
        raise InputError(f"{shown(path)} holds no points; export them again")
    if rows > most:
        count = f"{rows:,}" if rows > most + 1 else f"more than {most:,}"
        raise InputError(f"{shown(path)} has {count} rows; at most {most:,} are read: give a sample of them")
