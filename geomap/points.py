"""Reads labelled points and polygons of one's own (GPKG, GeoJSON, Shapefile, GeoParquet, CSV) as places with a class.

A point stands for the pixel that it lies in. A polygon stands for the pixels inside it: at most POLYGON_PIXELS, spread
over it, none within EDGE_M of its border if it is wide enough. The pixels of one polygon are one group, which
cross-validation never parts.
"""

from __future__ import annotations

import csv
import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from geomap.errors import InputError, install_hint
from geomap.legends import LONGEST_TYPED, MAX_CLASSES, Legend, added
from geomap.paths import own, there

if TYPE_CHECKING:
    import geopandas
    import pandas as pd
    from shapely.geometry.base import BaseGeometry

MAX_ROWS: Final = 100_000
"""Most points and polygons of a file: learning gains nothing from more, and the pixels of all are in memory at once."""
MAX_BYTES: Final = 500_000_000
"""Most bytes of a file."""
POLYGON_PIXELS: Final = 20
"""Most pixels of one polygon: the pixels of a field are alike, so more of them add little."""
EDGE_M: Final = 10.0  # m; one pixel
_EDGE_DEGREES: Final = 0.01  # longest part of an edge: 1 km, straight in degrees and in metres within 0.1 m
_WHOLE: Final = re.compile(r"\d+(\.0+)?")
_EMPTY: Final = ("", "nan", "null", "<na>")  # how programs write an empty cell
_CELLS: Final = 40_000  # candidate pixels looked at in a polygon; of larger polygons every n-th row and column
_SHOWN: Final = 12  # names in a message

LON: Final = ("lon", "longitude", "long", "lng", "x")
LAT: Final = ("lat", "latitude", "y")
X: Final = ("x", "easting", "east", "x_coord", "xcoord", *LON)
Y: Final = ("y", "northing", "north", "y_coord", "ycoord", *LAT)
TABLES: Final = (".csv", ".tsv", ".txt")
PARQUET: Final = (".parquet", ".geoparquet")
_STARTS: Final = {".gpkg": (b"SQLite format 3\0",), ".shp": (b"\0\0\x27\x0a",), ".geojson": (b"{",), ".json": (b"{",)}
"""First bytes by suffix: GDAL goes by content, and some of its formats open other files and addresses."""
SWAPPED: Final = (
    "longitude and latitude look swapped: exchange the names of a table's two columns, or the coordinates (in QGIS: "
    "Swap X and Y coordinates)"
)
"""What to say of points that lie where they should with their coordinates exchanged."""
GIVE_CRS: Final = "give the system that they are in as --points-crs"
KINDS: Final = ".gpkg, .geojson, .shp, .parquet or .csv"


@dataclass(frozen=True, slots=True)
class PointsFile:
    """A file of labelled points as a user names it."""

    file: str  # FILE or FILE:LAYER
    column: str
    crs: str | None = None
    date_column: str | None = None


@dataclass(frozen=True, slots=True)
class Points:
    """n labelled places."""

    path: Path
    lonlat: NDArray[np.float64]  # (n, 2) longitude, latitude in degrees; of a polygon: centres of its inner pixels
    name: tuple[str, ...]  # (n,) class as the file writes it, "" where empty
    group: NDArray[np.intp]  # (n,) pixels of one polygon share a number; each point has its own
    when: NDArray[np.datetime64] | None = None  # (n,) day, NaT where unknown; of a year, 1 July
    polygon: NDArray[np.bool_] | None = None  # (n,) True for pixels of a polygon; None: there is none
    nowhere: int = 0  # rows of the file without a place, which are left out

    def __len__(self) -> int:
        return len(self.name)

    @property
    def digest(self) -> str:
        """sha256 of the places, names, groups and days, whatever file they come from."""
        found = hashlib.sha256(np.ascontiguousarray(self.lonlat).tobytes())
        found.update("\n".join(self.name).encode())
        found.update(self.group.astype(np.int64).tobytes())
        found.update(b"" if self.when is None else self.when.astype(np.int64).tobytes())
        return found.hexdigest()

    def rows(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> Points:
        """The places of the given rows."""
        index = np.flatnonzero(which) if which.dtype == bool else which
        return replace(
            self,
            lonlat=self.lonlat[index],
            name=tuple(self.name[i] for i in index),
            group=self.group[index],
            when=None if self.when is None else self.when[index],
            polygon=None if self.polygon is None else self.polygon[index],
        )


@dataclass(frozen=True, slots=True)
class Matched:
    """The classes of points in a legend."""

    ids: NDArray[np.uint8]  # (n,) class id, 0 where the legend has none
    lines: tuple[str, ...]  # what matched how, for the user
    unknown: tuple[str, ...]  # names that the legend lacks, in order of appearance


# --- reading


def read_points(
    source: str | Path,
    column: str,
    *,
    crs: str | None = None,
    date_column: str | None = None,
    every_pixel: bool = False,
) -> Points:
    """The labelled points and polygons of a file.

    Args:
        source: path of a .gpkg, .geojson, .shp, .parquet or .csv file; FILE:LAYER names one of several layers.
        column: the column with the classes.
        crs: coordinate system of a table's x and y, or of a file that names none: "EPSG:32631".
        date_column: the column with the day or the year of each observation.
        every_pixel: of a polygon, all pixels whose centre it holds, not some away from its border.

    Raises:
        InputError: the file cannot be read or used; the message says what to type instead.
    """
    path, layer = _located(str(source))
    if path.suffix.casefold() in TABLES:
        names, shapes, days, nowhere = *_from_csv(path, column, crs, date_column), 0
    else:
        names, shapes, days, nowhere = _from_vector(path, layer, column, crs, date_column)
    return replace(_places(path, names, shapes, days, every_pixel), nowhere=nowhere)


def _located(source: str) -> tuple[Path, str | None]:
    """The file, and the layer of FILE:LAYER. Raises InputError."""
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


def file_and_layer(source: str) -> tuple[Path, str | None]:
    """FILE, or FILE:LAYER, whose layer may hold colons too; the file may not exist."""
    parts = source.split(":")
    for i in range(1, len(parts)):
        file = own(":".join(parts[:i]))
        if not there(own(source)) and file.name and there(file) and not file.is_dir():
            return file, ":".join(parts[i:])
    return own(source), None


def _require_kind(path: Path, start: bytes) -> None:
    wanted = _STARTS.get(path.suffix.casefold())
    if wanted and not start.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").startswith(wanted):
        raise InputError(f"{shown(path)} is not what its name says, a {path.suffix} file; export the points again")


def _from_csv(
    path: Path, column: str, crs: str | None, date_column: str | None
) -> tuple[list[str], geopandas.GeoSeries, NDArray[np.datetime64] | None]:
    """Names, places and days of a table with one line for each point."""
    import geopandas
    import pandas as pd

    try:
        with path.open(encoding="utf-8-sig", newline="") as f:
            header = f.readline(100_000)
        separator = _separator(header)
        _require_once(path, next(csv.reader([header], delimiter=separator), []))
        options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", "index_col": False}
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header would be cut off
            table = pd.read_csv(path, sep=separator, nrows=MAX_ROWS + 1, on_bad_lines="error", **options)
    except InputError:
        raise
    except pd.errors.ParserWarning as e:
        raise InputError(
            f"{shown(path)} has rows with more cells than its first line: quote what holds a comma, as "
            f'"maize, late", or separate the columns by semicolons'
        ) from e
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error, ValueError) as e:
        raise InputError(f"{shown(path)} is no table that can be read: {_line(e)}; save it as CSV in UTF-8") from e
    table.columns = [str(name).strip() for name in table.columns]
    _require_rows(path, len(table))
    _require_columns(path, table.columns, column, date_column)
    x_name, y_name = _coordinates(path, table.columns, crs)
    x, y = (_numbers(path, table, name) for name in (x_name, y_name))
    system = _crs(crs or "EPSG:4326")
    if system.is_geographic and (beyond := np.abs(y) > 90).any():
        raise _swapped(path, x_name, y_name, int(beyond.argmax()), x, y)
    shapes = geopandas.GeoSeries(geopandas.points_from_xy(x, y), crs=system)
    return _names(path, table, column), _in_degrees(path, shapes, GIVE_CRS), _days(path, table, date_column)


def _require_once(path: Path, header: Sequence[str]) -> None:
    """Raise InputError for a column that is there twice: which is meant?"""
    names = [name.strip() for name in header]
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise InputError(f"{shown(path)} has the column {shown(twice)} twice; rename one")


def _separator(header: str) -> str:
    """The character between the columns: a comma, a semicolon or a tab, whichever the first line has most of."""
    return max((",", ";", "\t"), key=header.count)


def _coordinates(path: Path, columns: Iterable[Any], crs: str | None) -> tuple[str, str]:
    """The columns of a table that hold x and y, or longitude and latitude. Raises InputError."""
    known = {str(name).casefold(): str(name) for name in columns}
    pair = [next((known[n] for n in names if n in known), None) for names in ((X, Y) if crs else (LON, LAT))]
    if crs is None and pair == [known.get("x"), known.get("y")] and pair[0]:
        raise InputError(
            f"{shown(path)} has the columns x and y; say what they are: --points-crs EPSG:4326, or another"
        )
    if pair[0] is None or pair[1] is None:
        raise InputError(
            f"{shown(path)} needs the columns lon and lat (degrees), or x and y with --points-crs; "
            f"it has {listed(known.values())}"
        )
    return pair[0], pair[1]


def _numbers(path: Path, table: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """(n,) coordinates of a table's column. Raises InputError that names the first that is no number."""
    import pandas as pd

    plain = table[name].str.replace(",", ".", regex=False)  # 4,35 as some countries write it
    values: NDArray[np.float64] = pd.to_numeric(plain, errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        text = str(table[name].iloc[bad[0]])
        raise InputError(
            f"{shown(path)}, line {bad[0] + 2}: {name} is {shown(text)}, no number ({len(bad):,} lines so); "
            "write decimal degrees, such as 4.35, or metres"
        )
    return values


def _from_vector(
    path: Path, layer: str | None, column: str, crs: str | None, date_column: str | None
) -> tuple[list[str], geopandas.GeoSeries, NDArray[np.datetime64] | None, int]:
    """Names, shapes and days of a vector file, and how many of its rows have no place."""
    table = _read_shapes(path, layer)
    _require_rows(path, len(table))
    plain = [name for name in table.columns if name != table.geometry.name]
    _require_columns(path, plain, column, date_column)
    kept = table.geometry.bounds.notna().all(axis=1)  # those of no shape, an empty one, or NaN are NaN
    if not kept.any():
        raise InputError(f"{shown(path)} holds no points or polygons; export them with their geometry")
    table = table[kept].reset_index(drop=True)
    shapes = table.geometry
    wrong = GIVE_CRS if shapes.crs is None else "export it as GPKG in its right system"
    if shapes.crs is None:
        if crs is None:
            metres = bool((shapes.bounds.abs() > 360).to_numpy().any())
            like = "EPSG:32631, or that of your metres" if metres else "EPSG:4326, or another"
            raise InputError(f"{shown(path)} has no coordinate system; say which: --points-crs {like}")
        shapes = shapes.set_crs(_crs(crs))
    elif crs is not None and not _crs(crs).equals(shapes.crs, ignore_axis_order=True):
        raise InputError(
            f"{shown(path)} says itself that it is in {shapes.crs.name}: leave --points-crs {shown(crs)} out, or, if "
            "the file is wrong, export it as GPKG in its right system"
        )
    days = _days(path, table, date_column)
    return _names(path, table, column), _in_degrees(path, shapes, wrong), days, int((~kept).sum())


def read_shapes(source: str) -> geopandas.GeoDataFrame:
    """The rows of a vector file, or of FILE:LAYER, with their shapes. Raises InputError."""
    path, layer = _located(source)
    if path.suffix.casefold() in TABLES:
        raise InputError(f"{shown(source)} is a table without shapes; give a {KINDS.partition(' or ')[0]} file")
    return _read_shapes(path, layer)


def _read_shapes(path: Path, layer: str | None) -> geopandas.GeoDataFrame:
    return _read_parquet(path) if path.suffix.casefold() in PARQUET else _read_layer(path, layer)


def _read_parquet(path: Path) -> geopandas.GeoDataFrame:
    import geopandas

    try:
        from pyarrow import parquet
    except ImportError as e:
        raise InputError(f"{shown(path)} needs pyarrow; type: {install_hint('pyarrow')}") from e
    try:
        _require_rows(path, parquet.read_metadata(path).num_rows)
        return geopandas.read_parquet(path)
    except InputError:
        raise
    except Exception as e:  # pyarrow and geopandas raise many kinds
        raise InputError(f"{shown(path)} is no GeoParquet file that can be read: {_line(e)}") from e


def _read_layer(path: Path, layer: str | None) -> geopandas.GeoDataFrame:
    """The one layer of a vector file with shapes, or the one named. Raises InputError."""
    import geopandas
    import pyogrio

    from geomap.aoi import plainly_named

    try:
        with warnings.catch_warnings(), plainly_named(path) as plain:
            warnings.simplefilter("ignore")  # what GDAL says is in the error
            layers = [str(name) for name, kind in pyogrio.list_layers(plain) if kind is not None]
            chosen = _layer(path, layers, layer)
            _require_rows(path, pyogrio.read_info(plain, layer=chosen)["features"])
            table = geopandas.read_file(plain, layer=chosen, rows=MAX_ROWS + 1)
    except InputError:
        raise
    except Exception as e:  # pyogrio and GDAL raise many kinds
        raise InputError(f"{shown(path)} cannot be read: {_line(e)}; export the points again as {KINDS}") from e
    if not isinstance(table, geopandas.GeoDataFrame):
        raise InputError(f"{shown(path)} holds no points or polygons; export them with their geometry")
    return table


def _layer(path: Path, layers: Sequence[str], asked: str | None) -> str:
    if asked is not None and asked not in layers:
        raise InputError(f"{shown(path)} has no layer {shown(asked)} with shapes; it has {listed(layers)}")
    if not layers:
        raise InputError(f"{shown(path)} holds no points or polygons; export them with their geometry")
    if asked is None and len(layers) > 1:
        raise InputError(f"{shown(path)} has several layers: {listed(layers)}; name one as {path.name}:{layers[0]}")
    return asked or layers[0]


def _require_rows(path: Path, rows: int) -> None:
    if not rows:
        raise InputError(f"{shown(path)} holds no points; export them again")
    if rows > MAX_ROWS:
        count = f"{rows:,}" if rows > MAX_ROWS + 1 else f"more than {MAX_ROWS:,}"
        raise InputError(f"{shown(path)} has {count} rows; at most {MAX_ROWS:,} are read: give a sample of them")


def _require_columns(path: Path, columns: Iterable[Any], column: str, date_column: str | None) -> None:
    known = [str(name) for name in columns]
    for name, option in ((column, "--column"), (date_column, "--date-column")):
        if name is not None and name not in known:
            raise InputError(f"{shown(path)} has no column {shown(name)}; choose {option} from {listed(known)}")


def _names(path: Path, table: pd.DataFrame, column: str) -> list[str]:
    """(n,) names of classes as text; "" where there is none. Raises InputError for what no class can be called."""
    values = table[column]
    if getattr(values, "ndim", 1) != 1:
        raise InputError(f"{shown(path)} has the column {shown(column)} twice; rename one")
    if any(isinstance(value, list | dict | np.ndarray) for value in values):
        raise InputError(
            f"{shown(path)} has lists in the column {shown(column)}, not names; choose another as --column"
        )
    names = ["" if _missing(value) else " ".join(_text(value).split()) for value in values]
    if all(_WHOLE.fullmatch(name) for name in names if name):  # as tables write ids beside an empty cell
        names = [name.partition(".")[0] for name in names]
    for row, name in enumerate(names):
        if not name.isprintable() or len(name) > LONGEST_TYPED:
            raise InputError(
                f"{shown(path)}, row {row + 1}: no class can be called {shown(name)} ({len(name)} characters); names "
                f"are at most {LONGEST_TYPED} printable characters: write a shorter one, or choose another as --column"
            )
    distinct = set(names) - {""}
    if not distinct:
        raise InputError(f"{shown(path)} has no class in the column {shown(column)}; choose another as --column")
    if len(distinct) > MAX_CLASSES:
        raise InputError(
            f"the column {shown(column)} of {shown(path)} has {len(distinct):,} different classes, more than a legend "
            f"holds ({MAX_CLASSES}); choose another as --column"
        )
    return names


def _missing(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().casefold() in _EMPTY
    return value is None or value != value or type(value).__name__ in ("NAType", "NaTType")


def _text(value: object) -> str:
    """A value as a class is called: 3 for 3.0, which is how a whole number looks beside an empty field."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _days(path: Path, table: pd.DataFrame, column: str | None) -> NDArray[np.datetime64] | None:
    """(n,) days of a column with dates or years; NaT where it is empty. Raises InputError."""
    if column is None:
        return None
    import pandas as pd

    values = pd.Series(["" if _missing(v) else _text(v).strip() for v in table[column]], dtype=object)
    text = values.where(~values.str.fullmatch(r"(19|20)\d\d"), values + "-07-01").replace("", None)
    dated = text.where(values.str.match(r"\d"))  # not "today", which pandas knows
    days = pd.to_datetime(dated, errors="coerce", utc=True, format="ISO8601")
    bad = np.flatnonzero((days.isna() & text.notna()).to_numpy())
    if len(bad):
        raise InputError(
            f"{shown(path)}, row {bad[0] + 1}: {shown(column)} is {shown(str(values.iloc[bad[0]]))}, no day; "
            "write 2023-06-15, or a year: 2023"
        )
    found: NDArray[np.datetime64] = days.dt.tz_localize(None).to_numpy().astype("datetime64[D]")
    return found


def _crs(text: str) -> Any:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        return CRS.from_user_input(text)
    except CRSError as e:
        raise InputError(f"unknown coordinate system {shown(text)}; write --points-crs EPSG:4326, or another") from e


def _in_degrees(path: Path, shapes: geopandas.GeoSeries, wrong: str) -> geopandas.GeoSeries:
    """Shapes in EPSG:4326. Raises InputError for coordinates that are no places on Earth that can be mapped.

    `wrong` says what to do where their system cannot be the right one.
    """
    from pyproj.exceptions import ProjError

    drawn = shapes.total_bounds
    try:
        moved = shapes.to_crs(4326)
    except ProjError as e:
        raise InputError(f"{shown(path)} cannot be brought to degrees: {_line(e)}; check --points-crs") from e
    west, south, east, north = bounds = moved.total_bounds
    if not np.isfinite(bounds).all() or west < -180 or east > 180 or south < -90 or north > 90:
        swapped = np.abs(drawn[[0, 2]]).max() <= 90 and np.abs(drawn).max() <= 180
        hint = SWAPPED if swapped else wrong
        raise InputError(
            f"{shown(path)} has coordinates {drawn[0]:g}..{drawn[2]:g}, {drawn[1]:g}..{drawn[3]:g}, which lie outside "
            f"{shapes.crs.name}; {hint}"
        )
    return moved


def _swapped(
    path: Path, x_name: str, y_name: str, row: int, x: NDArray[np.float64], y: NDArray[np.float64]
) -> InputError:
    if np.abs(x).max() <= 90:
        what = "longitude and latitude look swapped: exchange the names of the two columns"
    else:
        what = "for metres name their system: --points-crs EPSG:32631, or another"
    return InputError(
        f"{shown(path)}, line {row + 2}: {y_name} is {y[row]:g}, no latitude; {what} ({x_name}, {y_name})"
    )


# --- shapes -> pixels


def _places(
    path: Path,
    names: Sequence[str],
    shapes: geopandas.GeoSeries,
    days: NDArray[np.datetime64] | None,
    every_pixel: bool,
) -> Points:
    """The pixels of shapes in degrees. Raises InputError for lines."""
    kinds = Counter(str(kind) for kind in shapes.geom_type)
    others = sorted(set(kinds) - {"Point", "MultiPoint", "Polygon", "MultiPolygon"})
    if others:
        raise InputError(f"{shown(path)} holds {' and '.join(others)} shapes; give points or polygons")
    import shapely

    areal = np.array([kind.endswith("Polygon") for kind in shapes.geom_type], bool)
    _require_rows(path, int(areal.sum() + shapely.get_num_coordinates(shapes[~areal]).sum()))
    places, rows, groups = [], list[int](), list[int]()
    for row, shape in enumerate(shapes):
        found = inner_pixels(shape, every_pixel) if areal[row] else shapely.get_coordinates(shape)
        first, number = groups[-1] + 1 if groups else 0, len(found)
        places.append(found)
        rows += [row] * number
        groups += [first] * number if areal[row] else range(first, first + number)
    which = np.array(rows, np.intp)
    drawn = areal[which]
    return Points(
        path,
        np.concatenate(places),
        tuple(names[row] for row in rows),
        np.array(groups, np.intp),
        None if days is None else days[which],
        drawn if drawn.any() else None,
    )


def inner_pixels(polygon: BaseGeometry, every_pixel: bool = False) -> NDArray[np.float64]:
    """(n, 2) longitude and latitude of pixel centres inside a polygon in degrees, on its zone's 10 m grid.

    At most POLYGON_PIXELS, spread evenly over it from north to south. Those within EDGE_M of its border are left out if
    others are left. With `every_pixel` all pixels, in a grid of _CELLS at most. A polygon without a pixel's centre
    gives one point inside it.
    """
    import shapely
    from pyproj import Transformer

    from geomap.grid import RESOLUTION, zone_epsg

    inside = polygon.representative_point()
    epsg = int(zone_epsg(np.array(inside.x), np.array(np.clip(inside.y, -80, 84))))
    there, back = (Transformer.from_crs(*pair, always_xy=True) for pair in ((4326, epsg), (epsg, 4326)))
    bent = shapely.segmentize(polygon, _EDGE_DEGREES)
    drawn = shapely.transform(bent, lambda xy: np.column_stack(there.transform(xy[:, 0], xy[:, 1])))
    west, south, east, north = drawn.bounds
    if not np.isfinite([west, south, east, north]).all():
        return np.array([[inside.x, inside.y]])
    cells = max(east - west, RESOLUTION) * max(north - south, RESOLUTION) / RESOLUTION**2
    step = RESOLUTION * max(1, int(np.ceil(np.sqrt(cells / _CELLS))))
    x = np.arange(west // RESOLUTION * RESOLUTION + RESOLUTION / 2, east, step)
    y = np.arange(north // RESOLUTION * RESOLUTION + RESOLUTION / 2, south, -step)
    xx, yy = (v.ravel() for v in np.meshgrid(x, y))
    most = len(xx) if every_pixel else POLYGON_PIXELS
    for shape in (drawn,) if every_pixel else (drawn.buffer(-EDGE_M), drawn):
        where = np.flatnonzero(shapely.contains_xy(shape, xx, yy))
        if len(where):
            chosen = where[np.linspace(0, len(where) - 1, min(len(where), most)).round().astype(int)]
            return np.column_stack(back.transform(xx[chosen], yy[chosen]))
    return np.array([[inside.x, inside.y]])


def pixels(lonlat: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n, 3) EPSG code of the zone that owns each place, and (column, row) of its 10 m pixel.

    Counted from the zone's origin eastward and northward: x = 10 * column, y = 10 * row at the south-west corner.
    """
    from pyproj import Transformer

    from geomap.grid import RESOLUTION, zone_epsg

    codes = zone_epsg(lonlat[:, 0], lonlat[:, 1])
    found = np.zeros((len(lonlat), 3), np.int64)
    for epsg in np.unique(codes):
        mine = codes == epsg
        x, y = Transformer.from_crs(4326, int(epsg), always_xy=True).transform(lonlat[mine, 0], lonlat[mine, 1])
        found[mine, 0] = epsg
        found[mine, 1], found[mine, 2] = np.floor(x / RESOLUTION), np.floor(y / RESOLUTION)
    return found


def lonlat_of(place: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 2) longitude and latitude of the centres of pixels (n, 3), as `pixels` gives them."""
    from pyproj import Transformer

    from geomap.grid import RESOLUTION

    found = np.zeros((len(place), 2))
    for epsg in np.unique(place[:, 0]):
        mine = place[:, 0] == epsg
        x, y = ((place[mine, i] + 0.5) * RESOLUTION for i in (1, 2))
        found[mine] = np.column_stack(Transformer.from_crs(int(epsg), 4326, always_xy=True).transform(x, y))
    return found


# --- names -> classes of a legend


def match(points: Points, legend: Legend) -> Matched:
    """The classes of points in a legend: by name, code or synonym, whatever the case; by id if all names are ids.

    Raises:
        InputError: the legend has no classes.
    """
    if not legend.classes:
        raise InputError(f"legend {legend.name} gives scores, not classes; points teach a legend of classes")
    counts = Counter(points.name)
    named = [name for name in counts if name]
    ways = _ways(legend, named)
    ids, lines, unknown = dict[str, int](), list[str](), list[str]()
    for name in named:
        found = next(((how, known[_key(name)]) for how, known in ways if _key(name) in known), None)
        if found is None:
            unknown.append(name)
            continue
        how, (ids[name], called) = found
        if name != called:
            lines.append(f"{name} ({counts[name]:,}): {called}, by {how}")
    if exact := sum(name in ids for name in named) - len(lines):
        lines.insert(0, f"{exact} of {len(named)} names are those of legend {legend.name}")
    if counts[""]:
        lines.append(f"without a class: {counts['']:,}, left out")
    return Matched(np.array([ids.get(name, 0) for name in points.name], np.uint8), tuple(lines), tuple(unknown))


def _ways(legend: Legend, named: Sequence[str]) -> list[tuple[str, dict[str, tuple[int, str]]]]:
    """How names may be found, the surest way first: (what it is, key -> (id, name of the class))."""
    ways: list[tuple[str, dict[str, tuple[int, str]]]] = []
    for how, of in (
        ("name", lambda c: [c.name]),
        ("code", lambda c: [c.code] if c.code else []),
        ("synonym", lambda c: c.synonyms),
    ):
        ways.append((how, {_key(text): (c.id, c.name) for c in reversed(legend.classes) for text in of(c)}))
    by_id = {str(c.id): (c.id, c.name) for c in legend.classes}
    return [*ways, ("id", by_id)] if set(named) <= by_id.keys() else ways


def _key(name: str) -> str:
    """A name without case, and with spaces for its underscores and hyphens."""
    return " ".join(re.sub(r"[_\-\s]+", " ", name).split()).casefold()


def with_unknown(points: Points, legend: Legend) -> tuple[Legend, Matched]:
    """A legend with the classes of points that it lacks, and the classes of all points in it.

    New classes take the free ids from the highest id on, colours of their own, and the prompts of typed classes.
    Raises InputError, LegendError.
    """
    first = match(points, legend)
    if not first.unknown:
        return legend, first
    whole = added(legend, list({_key(name): name for name in reversed(first.unknown)}.values())[::-1])
    again = match(points, whole)
    lines = [f"added to legend {legend.name}: {listed(first.unknown)}"]
    near = {name: [c.name for c in legend.classes if _key(name) in _key(c.name)] for name in first.unknown}
    lines += [
        f"{shown(name)} is a class of its own; if {listed(found)} is meant, write that"
        for name, found in near.items()
        if found
    ]
    return whole, replace(again, lines=(*first.lines, *lines))


def shown(text: object) -> str:
    """Text of a user as one short line, with what does not print escaped."""
    plain = str(text).encode("utf-8", "backslashreplace").decode()
    plain = plain if plain.isprintable() else ascii(plain)[1:-1]
    return plain if len(plain) <= 80 else f"{plain[:77]}..."


def plural(count: int, what: str) -> str:
    """A number and what it counts: 1 pixel, 2 pixels."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def listed(names: Iterable[Hashable], most: int = _SHOWN) -> str:
    """Names of a user in a message: the first of them, and how many more there are."""
    found = [shown(name) for name in names]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more if found else "none"


def _line(error: Exception) -> str:
    return shown(" ".join(str(error).split()))
