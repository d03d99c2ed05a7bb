"""Reads labelled points and polygons of one's own (GPKG, GeoJSON, Shapefile, GeoParquet, GPX, CSV) as places.

A point stands for the pixel that it lies in. A polygon stands for the pixels inside it: at most POLYGON_PIXELS, spread
over it, none within EDGE_M of its border if it is wide enough. The pixels of one polygon are one group, which
cross-validation never parts.
"""

from __future__ import annotations

import csv
import hashlib
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from geomap.errors import InputError
from geomap.legends import LONGEST_TYPED, MAX_CLASSES
from geomap.points.pixels import inner_pixels
from geomap.points.source import MAX_ROWS, TABLES, located, missing, require_rows, shapes_of
from geomap.text import listed, one_line, plain, shown
from geomap.waypoints import is_visit

if TYPE_CHECKING:
    import geopandas
    import pandas as pd
    from shapely.geometry.base import BaseGeometry

_WHOLE: Final = re.compile(r"\d+(\.0+)?")
_EMPTY: Final = ("", "na", "nan", "null", "<na>", "n/a", "#n/a", "-")  # how programs write an empty cell

LON: Final = ("lon", "longitude", "long", "lng", "x")
LAT: Final = ("lat", "latitude", "y")
X: Final = ("x", "easting", "east", "x_coord", "xcoord", *LON)
Y: Final = ("y", "northing", "north", "y_coord", "ycoord", *LAT)
SWAPPED: Final = (
    "longitude and latitude look swapped: exchange the names of a table's two columns, or the coordinates (in QGIS: "
    "Swap X and Y coordinates)"
)
"""What to say of points that lie where they should with their coordinates exchanged."""
GIVE_CRS: Final = "give the system that they are in as --points-crs"


@dataclass(frozen=True, slots=True)
class PointFiles:
    """Files of labelled points as a user names them."""

    files: tuple[str, ...]  # FILE or FILE:LAYER, one or more
    column: str
    crs: str | None = None
    date_column: str | None = None


@dataclass(frozen=True, slots=True)
class Points:
    """n labelled places."""

    paths: tuple[Path, ...]  # the files that they come from
    lonlat: NDArray[np.float64]  # (n, 2) longitude, latitude in degrees; of a polygon: centres of its inner pixels
    name: tuple[str, ...]  # (n,) class as the file writes it, "" where empty
    group: NDArray[np.intp]  # (n,) pixels of one polygon share a number; each point has its own
    when: NDArray[np.datetime64] | None = None  # (n,) day, NaT where unknown; of a year, 1 July
    polygon: NDArray[np.bool_] | None = None  # (n,) True for pixels of a polygon; None: there is none
    nowhere: int = 0  # rows of the files without a place, which are left out

    def __len__(self) -> int:
        return len(self.name)

    @property
    def called(self) -> str:
        """The files that they come from, for messages."""
        return " and ".join(map(shown, self.paths))

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


def read_files(source: PointFiles) -> Points:
    """The labelled points and polygons of one or more files, each of which has the same columns.

    A coordinate system is for tables, and for those of several files that name none. Raises InputError as read_points.
    """
    alone = len(source.files) == 1
    if source.crs is not None:
        _crs(source.crs)  # also where every file names its own
    read = [
        read_points(file, source.column, crs=source.crs, date_column=source.date_column, own_crs=not alone)
        for file in source.files
    ]
    if alone:
        return read[0]
    first = np.cumsum([0, *(points.group.max(initial=-1) + 1 for points in read)])
    polygon = [np.zeros(len(points), bool) if points.polygon is None else points.polygon for points in read]
    days = [points.when for points in read if points.when is not None]
    return Points(
        tuple(path for points in read for path in points.paths),
        np.concatenate([points.lonlat for points in read]),
        tuple(name for points in read for name in points.name),
        np.concatenate([points.group + start for points, start in zip(read, first, strict=False)]),
        np.concatenate(days) if days else None,
        np.concatenate(polygon) if any(points.polygon is not None for points in read) else None,
        sum(points.nowhere for points in read),
    )


def read_points(
    source: str | Path,
    column: str,
    *,
    crs: str | None = None,
    date_column: str | None = None,
    every_pixel: bool = False,
    own_crs: bool = False,
) -> Points:
    """The labelled points and polygons of a file.

    Args:
        source: path of a .gpkg, .geojson, .shp, .parquet, .gpx or .csv file; FILE:LAYER names one of several layers.
        column: the column with the classes.
        crs: coordinate system of a table's x and y, or of a file that names none: "EPSG:32631".
        date_column: the column with the day or the year of each observation.
        every_pixel: of a polygon, all pixels whose centre it holds, not some away from its border.
        own_crs: whether a file that names its system may name another one than `crs`.

    Raises:
        InputError: the file cannot be read or used; the message says what to type instead.
    """
    path, layer = located(str(source))
    if path.suffix.casefold() in TABLES:
        names, shapes, days, nowhere = *_from_csv(path, column, crs, date_column), 0
    else:
        names, shapes, days, nowhere = _from_vector(path, layer, column, crs, date_column, own_crs)
    return replace(_places(path, names, shapes, days, every_pixel), nowhere=nowhere)


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
        _require_once(path, next(csv.reader([header], delimiter=separator), []), {column, date_column or column})
        options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", "index_col": False}
        with warnings.catch_warnings(record=True) as cut:  # rows longer than the header
            warnings.simplefilter("always", pd.errors.ParserWarning)
            table = pd.read_csv(path, sep=separator, nrows=MAX_ROWS + 1, on_bad_lines="error", **options)
        if cut and not _nothing_beyond(path, separator):
            raise InputError(
                f"{shown(path)} has rows with more cells than its first line: name every column there, quote what "
                'holds a comma, as "maize, late", or separate the columns by semicolons'
            )
    except InputError:
        raise
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error, ValueError) as e:
        raise InputError(f"{shown(path)} is no table that can be read: {one_line(e)}; save it as CSV in UTF-8") from e
    table.columns = [str(name).strip() for name in table.columns]
    require_rows(path, len(table))
    _require_columns(path, table.columns, column, date_column)
    x_name, y_name = _coordinates(path, table.columns, crs)
    x, y = (_numbers(path, table, name) for name in (x_name, y_name))
    system = _crs(crs or "EPSG:4326")
    if system.is_geographic and (beyond := np.abs(y) > 90).any():
        raise _swapped(path, x_name, y_name, int(beyond.argmax()), x, y)
    shapes = geopandas.GeoSeries(geopandas.points_from_xy(x, y), crs=system)
    return _names(path, table, column), _in_degrees(path, shapes, GIVE_CRS), _days(path, table, date_column)


def _nothing_beyond(path: Path, separator: str) -> bool:
    """Whether all cells of a table beyond those of its first line are empty."""
    with path.open(encoding="utf-8-sig", newline="") as f:
        rows = csv.reader(f, delimiter=separator)
        width = len(next(rows, []))
        return not any(cell.strip() for row in rows for cell in row[width:])


def _require_once(path: Path, header: Sequence[str], used: Collection[str]) -> None:
    """Raise InputError for a column that is there twice and would be `used`: which is meant?"""
    names = [name.strip() for name in header]
    wanted = [name for name in names if name in used or name.casefold() in (*X, *Y)]
    if twice := next((name for name in wanted if names.count(name) > 1), None):
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
    path: Path, layer: str | None, column: str, crs: str | None, date_column: str | None, own_crs: bool
) -> tuple[list[str], geopandas.GeoSeries, NDArray[np.datetime64] | None, int]:
    """Names, shapes and days of a vector file, and how many of its rows have no place."""
    table = shapes_of(path, layer)
    require_rows(path, len(table))
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
    elif crs is not None and not own_crs and not _crs(crs).equals(shapes.crs, ignore_axis_order=True):
        raise InputError(
            f"{shown(path)} says itself that it is in {shapes.crs.name}: leave --points-crs {shown(crs)} out, or, if "
            "the file is wrong, export it as GPKG in its right system"
        )
    days = _days(path, table, date_column)
    return _names(path, table, column), _in_degrees(path, shapes, wrong), days, int((~kept).sum())


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
    names = ["" if _missing(value) else _composed(plain(value)) for value in values]
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
        raise InputError(
            f"the column {shown(column)} of {shown(path)} is empty in every row; fill in the classes first, or choose "
            "another as --column"
        )
    if len(distinct) > MAX_CLASSES:
        raise InputError(
            f"the column {shown(column)} of {shown(path)} has {len(distinct):,} different classes, more than a legend "
            f"holds ({MAX_CLASSES}); choose another as --column"
        )
    return names


def _composed(text: str) -> str:
    """Text on one line, each letter with its accent as one character: macOS writes them as two."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def _missing(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().casefold() in _EMPTY or is_visit(value.strip())
    return missing(value)


def _days(path: Path, table: pd.DataFrame, column: str | None) -> NDArray[np.datetime64] | None:
    """(n,) days of a column with dates or years; NaT where it is empty. Raises InputError."""
    if column is None:
        return None
    import pandas as pd

    values = pd.Series(["" if _missing(v) else plain(v).strip() for v in table[column]], dtype=object)
    years = values.str.extract(r"^((?:19|20)\d\d)(?:\.0*)?$", expand=False)  # 2019.0 beside an empty cell
    text = (years + "-07-01").fillna(values).replace("", None)
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
        raise InputError(f"{shown(path)} cannot be brought to degrees: {one_line(e)}; check --points-crs") from e
    west, south, east, north = bounds = moved.total_bounds
    if not np.isfinite(bounds).all() or west < -360 or east > 360 or south < -90 or north > 90:
        swapped = np.abs(drawn[[0, 2]]).max() <= 90 and np.abs(drawn).max() <= 180
        hint = SWAPPED if swapped else wrong
        raise InputError(
            f"{shown(path)} has coordinates {drawn[0]:g}..{drawn[2]:g}, {drawn[1]:g}..{drawn[3]:g}, which lie outside "
            f"{shapes.crs.name}; {hint}"
        )
    edges = moved.bounds
    odd = (edges.minx < -180) | (edges.maxx > 180) | (edges.maxx - edges.minx > 180)
    moved[odd] = moved[odd].map(lambda shape: _on_the_globe(path, shape))
    return moved


def _on_the_globe(path: Path, shape: BaseGeometry) -> BaseGeometry:
    """Points with longitudes in -180..180; polygons the shorter way round, cut there. Raises InputError."""
    import shapely

    from geomap.lonlat import cut, followed, turns, wrapped

    if not shape.geom_type.endswith("Polygon"):
        return shapely.transform(shape, lambda xy: np.column_stack([[wrapped(lon) for lon in xy[:, 0]], xy[:, 1]]))
    whole = [followed(part) if turns(part) else part for part in shapely.get_parts(shape)]
    if None in whole:
        raise InputError(
            f"{shown(path)} holds a polygon that goes round a pole or over half the globe; cut it at 180 degrees"
        )
    return shapely.union_all([side for part in whole for side in cut(part)])


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


def _places(
    path: Path,
    names: Sequence[str],
    shapes: geopandas.GeoSeries,
    days: NDArray[np.datetime64] | None,
    every_pixel: bool,
) -> Points:
    """The pixels of shapes in degrees. Raises InputError for lines."""
    import shapely

    kinds = Counter(str(kind) for kind in shapes.geom_type)
    others = sorted(set(kinds) - {"Point", "MultiPoint", "Polygon", "MultiPolygon"})
    if others:
        raise InputError(f"{shown(path)} holds {' and '.join(others)} shapes; give points or polygons")
    areal = np.array([kind.endswith("Polygon") for kind in shapes.geom_type], bool)
    require_rows(path, int(areal.sum() + shapely.get_num_coordinates(shapes[~areal]).sum()))
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
        (path,),
        np.concatenate(places),
        tuple(names[row] for row in rows),
        np.array(groups, np.intp),
        None if days is None else days[which],
        drawn if drawn.any() else None,
    )
