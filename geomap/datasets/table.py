"""Reads a user's own labelled series from CSV or Parquet (columns: docs/training-data.md)."""

from __future__ import annotations

import csv
import logging
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from geomap import legends
from geomap.datasets.extras import csv_errors, require_packages
from geomap.datasets.samples import CLIMATE, COVER, Samples
from geomap.datasets.simulated import COVER_LEGENDS, cover_labels
from geomap.errors import DataError, InputError
from geomap.sentinel2 import BANDS, MONTHS
from geomap.simulate import covers
from geomap.text import listed, plain, shown

if TYPE_CHECKING:
    from pandas import DataFrame

log = logging.getLogger(__name__)

SUFFIXES: Final = (".csv", ".parquet")
LABEL_COLUMNS: Final = ("landcover", "landuse", "habitat", "crops", "bioregion")
"""Columns of labels: a class's name, code or id, as `geomap legends show` prints them; empty for no label."""
PLACE: Final = {"lon": 180, "lat": 90}
"""Columns of a place, and the largest size of their degrees."""
MISSING: Final = ("na", "n/a", "nan", "null", "none", "-", "?")
"""What programs and people write for a label that is missing."""
LARGEST_DN: Final = 65535
_BAND_MONTH: Final = re.compile(r"b0*([1-9]\d?a?)[ _.-]+(\d{1,2})", re.IGNORECASE | re.ASCII)
"""What can only be meant for a band and a month, however it is spelt."""
_NO_HEADER: Final = re.compile(r'"?sep=|\s*#', re.IGNORECASE)
"""Beginning of a first line that is for spreadsheets or readers."""
GZIP: Final = b"\x1f\x8b"
"""First bytes of a file that gzip made."""


def read_table(path: Path, name: str | None = None) -> Samples:
    """The samples of a table, one row each, called `name` or by the file's name.

    A month counts if all ten bands have a value above 0.

    Raises:
        InputError: no such file, or pyarrow is not installed.
        DataError: the file is not a table, lacks columns, repeats an id, or has a value that its column does not take.
    """
    table = _frame(path)
    labels = _labels(table, path)
    if not labels:
        raise DataError(f"{path} has no column of labels; add one of {', '.join((*LABEL_COLUMNS, COVER))}")
    dn = _dn(table, path)
    valid: NDArray[np.bool_] = np.asarray((dn > 0).all(-1))
    groups, group_names = _groups(table)
    ids = _ids(table, path)
    numbers = np.array([f"{path.stem}/{i}" for i in range(len(table))])
    return Samples(
        name or path.stem, numbers if ids is None else ids, dn * valid[..., None], valid, labels, groups,
        "the column group", lonlat=_lonlat(table, path), own_ids=ids is not None, group_names=group_names,
    )  # fmt: skip


def _frame(path: Path) -> DataFrame:
    """Read the table; unused columns are logged."""
    import pandas as pd

    if not path.is_file():
        raise InputError(f"no file {path}; give a table of labelled series as docs/training-data.md describes it")
    texts = dict.fromkeys(("id", "group", *LABEL_COLUMNS, COVER, CLIMATE), str)
    known = {*texts, *PLACE, *(_column(b, m) for b in BANDS for m in range(MONTHS))}
    try:
        if path.suffix.casefold() == ".parquet":
            require_packages("a Parquet file", "pyarrow")
            table = pd.read_parquet(path)
            if named := [name for name in table.index.names if name is not None]:
                table = table.reset_index(named)
        else:
            with csv_errors(path):
                table = _from_csv(path, texts, known)
    except (ValueError, OSError) as e:  # errors of pandas and pyarrow derive from the first two
        raise DataError(f"cannot read {path} as a table: {' '.join(str(e).split())}") from e
    if not len(table):
        raise DataError(f"{path} has no rows")
    unread = [str(c) for c in table.columns if c not in known]
    _refuse_misspelt(unread, known, path)
    if unread:
        log.warning("%s: columns that are not read: %s", path, listed(unread, 10))
    return table


def _from_csv(path: Path, texts: Mapping[str, type[str]], known: Collection[str]) -> DataFrame:
    """A table with commas, semicolons or tabs between its columns, those of `texts` as text.

    Raises DataError for a first line that names no columns or one of `known` twice, for cells beyond those of the first
    line, and what pandas raises.
    """
    import pandas as pd

    first = _first_line(path)
    separator = max((",", ";", "\t"), key=first.count)
    header = next(csv.reader([first], delimiter=separator), [])
    if len(header) == 1:
        raise DataError(
            f"{path} has one column, {shown(header[0].strip())!r}; separate columns by commas, semicolons or tabs"
        )
    if twice := next((name for name in header if name in known and header.count(name) > 1), None):
        raise DataError(f"{path} has the column {twice} twice; rename one")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", pd.errors.ParserWarning)
        table = pd.read_csv(  # where semicolons separate, numbers may have commas; those with points are read as well
            path, sep=separator, decimal="," if separator == ";" else ".", index_col=False, dtype=dict(texts),
            keep_default_na=False, na_values=[""], encoding="utf-8-sig",
        )  # fmt: skip
    cut = any(issubclass(w.category, pd.errors.ParserWarning) for w in said)  # rows longer than the first line
    if cut and not _nothing_beyond(path, separator):
        raise DataError(
            f"{path} has rows with more cells than its first line; name every column there, and quote what holds a "
            f'separator, as "maize{separator} late"'
        )
    return table


def _first_line(path: Path) -> str:
    """The line that names the columns. Raises DataError if it is for other programs or packed."""
    with path.open("rb") as packed:
        if packed.read(2) == GZIP:
            raise DataError(f"{path} is compressed (gzip); unpack it, and give the file that is in it")
    with path.open(encoding="utf-8-sig", newline="") as f:
        first = next(filter(str.strip, f), "")  # pandas skips empty lines
    if _NO_HEADER.match(first):
        raise DataError(f"{path} begins with {shown(first.strip())!r}; remove that line: the first one names columns")
    return first


def _nothing_beyond(path: Path, separator: str) -> bool:
    """Whether all cells of a table beyond those of its first line are empty."""
    with path.open(encoding="utf-8-sig", newline="") as f:
        rows = filter(None, csv.reader(f, delimiter=separator))  # pandas skips empty lines
        width = len(next(rows, []))
        return not any(cell.strip() for row in rows for cell in row[width:])


def _column(band: str, month: int) -> str:
    """Name of a band's column in a month: B02_01 is January."""
    return f"{band}_{month + 1:02d}"


def _refuse_misspelt(columns: Iterable[str], known: Iterable[str], path: Path) -> None:
    """Raise DataError for a column that is not read but spelt nearly as one that is, such as ID and B02_1."""
    folded = {name.casefold(): name for name in known}
    bands = {band[1:].lstrip("0"): band for band in BANDS}
    for column in columns:
        if name := folded.get(column.strip().casefold()):
            raise DataError(f"{path} has the column {shown(column)!r}, which is not read; write {name} or leave it out")
        match = _BAND_MONTH.fullmatch(column.strip())
        band, month = (bands.get(match[1].upper()), int(match[2])) if match else (None, 0)
        if band and month <= MONTHS:
            meant = f"write {_column(band, month - 1)}" if month else f"months count from {_column(band, 0)}, January"
            raise DataError(f"{path} has the column {shown(column)!r}, which is not read; {meant}")


def _dn(table: DataFrame, path: Path) -> NDArray[np.uint16]:
    """(n, 12, 10) DNs, 0 where a cell is empty or a month has no columns."""
    dn = np.zeros((len(table), MONTHS, len(BANDS)), np.uint16)
    there = [m for m in range(MONTHS) if any(_column(b, m) in table for b in BANDS)]
    if not there:
        raise DataError(f"{path} has no column of series, such as {_column('B02', 0)} (band B02 of January)")
    for month in there:
        columns = [_column(b, month) for b in BANDS]
        if lacking := [c for c in columns if c not in table]:
            raise DataError(f"{path} has no column {lacking[0]}; a month needs all ten bands, {', '.join(BANDS)}")
        values = np.nan_to_num(_numbers(table, columns, path), nan=0.0)
        odd = (values != np.round(values)) | (values < 0) | (values > LARGEST_DN)
        if odd.any():
            row, column = np.argwhere(odd)[0]
            raise DataError(
                f"{path}, row {row + 1}: {columns[column]} = {values[row, column]:g} is no DN "
                f"(reflectance x 10000, a whole number of 0..{LARGEST_DN})"
            )
        dn[:, month] = values
    return dn


def _numbers(table: DataFrame, columns: Sequence[str], path: Path) -> NDArray[np.float64]:
    """(n, columns), NaN where a cell is empty."""
    cells = table[list(columns)]
    try:
        values: NDArray[np.float64] = cells.to_numpy(np.float64, na_value=np.nan)
    except (ValueError, TypeError) as e:
        raise DataError(f"{path}, {_no_number(cells)}") from e
    return values


def _no_number(cells: DataFrame) -> str:
    """The first cell that is no number, and what to do; one with a decimal comma only where there is no other."""
    rows = zip(cells.itertuples(index=False), cells.isna().to_numpy(), strict=True)
    found = [
        (not _is_number(str(cell).replace(",", ".", 1)), f"row {row}: {column} = {shown(cell)!r} is no number; ", cell)
        for row, (values, empty) in enumerate(rows, start=1)
        for column, cell, gone in zip(cells, values, empty, strict=True)
        if not gone and not _is_number(cell)
    ]
    text, said, cell = max(found, key=lambda of: of[0])
    return said + ("leave it empty where a value is missing" if text else f"write {str(cell).replace(',', '.')}")


def _is_number(cell: object) -> bool:
    try:
        float(cell)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return False
    return True


def _lonlat(table: DataFrame, path: Path) -> NDArray[np.float64] | None:
    """(n, 2) degrees, NaN where a cell is empty; None without both columns. Raises DataError for other units."""
    if not set(PLACE) <= set(table):
        return None
    lonlat = _numbers(table, tuple(PLACE), path)
    beyond = np.abs(lonlat) > list(PLACE.values())
    if beyond.any():
        row, column = np.argwhere(beyond)[0]
        name, most = list(PLACE.items())[column]
        raise DataError(
            f"{path}, row {row + 1}: {name} = {lonlat[row, column]:.10g} is not in degrees (-{most}..{most}); "
            "write lon and lat in decimal degrees, such as 4.35 and 50.85"
        )
    return lonlat


def _groups(table: DataFrame) -> tuple[NDArray[np.intp] | None, NDArray[np.str_] | None]:
    """(n,) number of each sample's group, of its own where the cell is empty, and (n,) name; None where no group is."""
    names = np.array(_texts(table, "group") if "group" in table else [""])
    if not names.any():
        return None, None
    groups: NDArray[np.intp] = np.unique(names, return_inverse=True)[1].reshape(-1)
    return np.where(names == "", len(names) + np.arange(len(names)), groups), names


def _ids(table: DataFrame, path: Path) -> NDArray[np.str_] | None:
    """Ids of the samples; None if the table has none. Raises DataError for one that is empty or there twice."""
    ids = np.array(_texts(table, "id") if "id" in table else [""])
    if not ids.any():
        return None
    if not (ids != "").all():
        row = int((ids == "").argmax()) + 1
        raise DataError(f"{path}, row {row}: the id is empty; give each sample its own, or none of them one")
    names, count = np.unique(ids, return_counts=True)
    if len(names) < len(ids):
        raise DataError(f"{path} has the id {shown(names[count.argmax()])} twice; give each sample its own")
    return ids


def _labels(table: DataFrame, path: Path) -> dict[str, NDArray[np.intp]]:
    """Labels by legend, from their own columns; land cover and crops without a column follow from `cover`."""
    labels = {}
    if COVER in table:
        places = {c.key: i for i, c in enumerate(covers.table().cover, start=1)}
        climates = {key: i for i, key in enumerate(covers.table().climate, start=1)}
        cover = _looked_up(table, COVER, places, path)
        climate = _looked_up(table, CLIMATE, climates, path) if CLIMATE in table else np.zeros(len(table), np.intp)
        labels = cover_labels(cover - 1, climate - 1)
        for name in COVER_LEGENDS:
            labels[name] = np.where(cover > 0, labels[name], 0)
    for name in LABEL_COLUMNS:
        if name in table:
            classes = legends.load(name).classes
            by_code = {c.code: c.id for c in classes if c.code}
            by_code |= {f"{c.id}{end}": c.id for c in classes for end in (".0", "")}  # 2.0: as ids beside empty cells
            labels[name] = _looked_up(table, name, by_code | {c.name: c.id for c in classes}, path)
    return labels


def _looked_up(table: DataFrame, column: str, ids: Mapping[str, int], path: Path) -> NDArray[np.intp]:
    """(n,) ids of a column's values, ignoring case; 0 where a cell is empty. Raises DataError."""
    known = {key.casefold(): value for key, value in ids.items()} | {"": 0}
    texts = [text.casefold() for text in _texts(table, column)]
    for row, text in enumerate(texts, start=1):
        if text not in known:
            last = ", ".join(list(ids)[-4:])
            empty = "; leave it empty where a label is missing" if text in MISSING else ""
            raise DataError(f"{path}, row {row}: {column} has no {text!r}; it takes values such as {last}{empty}")
    return np.array([known[t] for t in texts], np.intp)


def _texts(table: DataFrame, column: str) -> list[str]:
    """(n,) cells of a column as text: whole numbers without a decimal point, "" for an empty cell."""
    cells, empty = table[column], table[column].isna()
    return ["" if gone else _text(cell).strip() for cell, gone in zip(cells, empty, strict=True)]


def _text(cell: object) -> str:
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else plain(cell)
