"""Places to visit as files whose bytes depend on the places alone: GPX for a phone, GeoPackage for a map."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, Final

_EPOCH: Final = "1970-01-01T00:00:00.000Z"


_VISIT: Final = re.compile(r"geomap \d+")


def visit(rank: int) -> str:
    """What a place to visit is called, until somebody has been there and writes what it is."""
    return f"geomap {rank}"


def is_visit(name: str) -> bool:
    """Whether a name is that of a place where nobody has been."""
    return _VISIT.fullmatch(name) is not None


def gpx(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """GPX 1.1 (topografix.com/GPX/1/1): a waypoint for each row, with its `lon`, `lat` (degrees) and `name`."""
    root = ET.Element("gpx", version="1.1", creator="geomap", xmlns="http://www.topografix.com/GPX/1/1")
    for row in rows:
        point = ET.SubElement(root, "wpt", lat=f"{row['lat']:.7f}", lon=f"{row['lon']:.7f}")  # 7 decimals: 1 cm
        ET.SubElement(point, "name").text = str(row["name"])
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def gpkg(rows: Sequence[Mapping[str, Any]], layer: str) -> bytes:
    """A GeoPackage with one layer of points: the rows as they are, at their `lon` and `lat` (degrees)."""
    import geopandas
    import pyogrio

    points = geopandas.points_from_xy([row["lon"] for row in rows], [row["lat"] for row in rows], crs=4326)
    table = geopandas.GeoDataFrame([dict(row) for row in rows], geometry=points)
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": _EPOCH})  # else the file holds the time
    try:
        made = BytesIO()  # in memory: where a disk is full, GDAL may leave out the index without a word
        table.to_file(made, layer=layer, driver="GPKG", engine="pyogrio")
        return made.getvalue()
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})
