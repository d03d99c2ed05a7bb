"""Writes a sample as a file to fill in (GPKG, CSV) or to go by (GPX), and the columns that tell how it was drawn."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from geomap import files, waypoints
from geomap.assess.draw import Drawn
from geomap.errors import InputError

CLASS: Final = "class"  # empty, to be filled in
STRATUM: Final = "stratum"
SIZE: Final = "stratum_px"  # pixels of the stratum
PROBABILITY: Final = "probability"  # of each of its pixels to be in the sample
MAPPED: Final = "mapped"  # the class on the map, only if asked for
KINDS: Final = (".gpkg", ".csv", ".gpx")


def require_new(paths: list[Path]) -> None:
    """Raise InputError for a file of another kind, or one that is there: it may hold somebody's answers."""
    for path in paths:
        if path.suffix.lower() not in KINDS:
            raise InputError(f"--out {path}: write a name that ends in {', '.join(KINDS[:-1])} or {KINDS[-1]}")
        if path.exists() or path.is_symlink():
            raise InputError(f"{path} is there already and may hold answers; choose another --out, or remove it")


def write_sample(path: Path, drawn: Drawn, names: Mapping[int, str] | None) -> None:
    """Write a sample by the suffix of its file; the bytes depend on the sample alone.

    Args:
        path: ends in .gpkg, .csv or .gpx. GPX has numbers and places alone.
        drawn: the sample.
        names: class id -> name, to show the mapped class; None hides it.

    Raises:
        DiskFullError, OutputError: it cannot be written.
    """
    rows = list(_rows(drawn, names))
    suffix = path.suffix.lower()
    if suffix == ".gpx":
        content = waypoints.gpx([{"name": row["id"], "lon": row["lon"], "lat": row["lat"]} for row in rows])
    else:
        content = _csv(rows) if suffix == ".csv" else waypoints.gpkg(rows, "sample")
    files.write_bytes(path, content)


def _rows(drawn: Drawn, names: Mapping[int, str] | None) -> Iterator[dict[str, Any]]:
    for i, (lon, lat) in enumerate(drawn.lonlat.tolist()):
        h = int(drawn.stratum[i])
        row = {"id": i + 1, "lon": round(lon, 7), "lat": round(lat, 7), CLASS: "", STRATUM: h}  # 7 decimals: 1 cm
        row |= {SIZE: drawn.sizes[h], PROBABILITY: float(f"{drawn.probability(h):.9g}")}
        yield row | ({MAPPED: names.get(int(drawn.mapped[i]), "")} if names is not None else {})


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
