"""The areas of classes: `areas.json` and `areas.csv` beside the maps, from the pixels of each class map.

A pixel counts as 100 m2. UTM draws areas 0.08 % too small at a zone's middle meridian and up to 0.2 % too large at its
edges on the equator (scale 0.9996 to 1.0010, squared), so the true area differs by no more than that.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from geomap import files
from geomap.write.layer import Entry, Layer

JSON: Final = "areas.json"
CSV: Final = "areas.csv"
HECTARES: Final = 0.01
"""Of a pixel of 10 m."""
COLUMNS: Final = ("id", "name", "pixels", "ha", "share", "colour")


def table(classes: Sequence[Entry], counts: Mapping[int, int]) -> list[dict[str, Any]]:
    """Rows of a class map, by area, largest first: every class that it can hold.

    Args:
        classes: the values of the map.
        counts: value -> number of pixels.

    Returns:
        id, name, pixels, ha, share (of the pixels with a class, 0..1) and colour (#rrggbb) of each class.
    """
    total = sum(counts.get(c.value, 0) for c in classes)
    rows = [
        {
            "id": c.value,
            "name": c.name,
            "pixels": n,
            "ha": round(n * HECTARES, 2),
            "share": round(n / total, 6) if total else 0.0,
            "colour": c.colour,
        }
        for c in classes
        for n in [counts.get(c.value, 0)]
    ]
    return sorted(rows, key=lambda row: (-row["pixels"], row["id"]))


def write_areas(directory: Path, maps: Iterable[tuple[Layer, Mapping[int, int]]]) -> None:
    """Write both files for the class maps of a run: (layer, pixels by class over all zones).

    Raises DiskFullError, OutputError.
    """
    tables = {layer.stem: table(layer.classes, counts) for layer, counts in maps}
    files.write_json(directory / JSON, tables)
    rows = ({"map": stem, **row} for stem, found in sorted(tables.items()) for row in found)
    files.write_bytes(directory / CSV, as_csv(("map", *COLUMNS), rows))


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, or as JSON if the file is called so. Raises DiskFullError, OutputError."""
    if path.suffix == ".json":
        files.write_json(path, rows)
    else:
        files.write_bytes(path, as_csv(columns, rows))


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as CSV in UTF-8 (RFC 4180); a name that a spreadsheet would run as a formula begins with an apostrophe."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\r\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({key: _inert(value) for key, value in row.items()} for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t" and value[:1] else value
