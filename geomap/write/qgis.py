"""Styles and side files beside each map: QGIS styles (.qml) and GDAL side files (.tif.aux.xml).

QGIS 3.22 reads class names from a .qml of the same stem. GDAL and the programs built on it read them from the side
file, which holds category names and a raster attribute table (RAT). Users type class names, so all XML is built with a
library, never pasted together.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Final

from geomap.legends import NODATA_ID
from geomap.write.layer import Kind, Layer, Statistics

_UNITS: Final[dict[Kind, str]] = {"classes": "", "percent": " %", "score": "", "count": " months", "likeness": ""}

_RAMPS: Final[dict[Kind, tuple[str, ...]]] = {
    "percent": ("#f6f0c4", "#b9dca0", "#6bbd9b", "#2c8f94", "#1f4e79"),
    "score": ("#43285a", "#8a4a78", "#d07f68", "#efc06c", "#f8f4c8"),
    "count": ("#f1f1ee", "#b6cde4", "#6fa3cf", "#2f74b0", "#0b3c6f"),
    "likeness": ("#f7f4ec", "#f3d39a", "#e08f5c", "#b3444c", "#5c1a3f"),
}
"""Equally spaced colours, lightness monotonic so that the order survives print and colour blindness."""


# GDALRATFieldType and GDALRATFieldUsage (gdal.h): (column, type, usage). Counts are real, as integers have 32 bits.
_RAT_COLUMNS: Final = (
    ("Value", 0, 5),
    ("Count", 1, 1),
    ("Class", 2, 2),
    ("Red", 0, 6),
    ("Green", 0, 7),
    ("Blue", 0, 8),
    ("Alpha", 0, 9),
)


def colormap(layer: Layer) -> dict[int, tuple[int, int, int, int]]:
    """Colour table of a class map: value -> (red, green, blue, alpha); nodata is transparent."""
    return {NODATA_ID: (0, 0, 0, 0)} | {c.value: (*c.rgb, 255) for c in layer.classes}


def qml(layer: Layer) -> bytes:
    """QGIS layer style: the classes with names and colours, or a colour ramp over the layer's range."""
    root = ET.Element("qgis", version="3.22", styleCategories="Symbology")
    pipe = ET.SubElement(root, "pipe")
    common = {"band": "1", "opacity": "1", "alphaBand": "-1", "nodataColor": ""}
    if layer.classes:
        renderer = ET.SubElement(pipe, "rasterrenderer", {"type": "paletted", **common})
        palette = ET.SubElement(renderer, "colorPalette")
        for c in layer.classes:
            ET.SubElement(palette, "paletteEntry", value=str(c.value), label=c.name, color=c.colour, alpha="255")
    else:
        low, high = (f"{v:g}" for v in layer.range)
        limits = {"classificationMin": low, "classificationMax": high}
        renderer = ET.SubElement(pipe, "rasterrenderer", {"type": "singlebandpseudocolor", **common, **limits})
        # ^ fixed limits, so that QGIS need not read the whole map for them, nor write statistics beside it
        shader = ET.SubElement(
            ET.SubElement(renderer, "rastershader"),
            "colorrampshader",
            {"colorRampType": "INTERPOLATED", "classificationMode": "1", "clip": "0"}
            | {"minimumValue": low, "maximumValue": high, "labelPrecision": "2"},
        )
        for value, colour in _ramp(layer):
            label = f"{value:g}{_UNITS[layer.kind]}"
            ET.SubElement(shader, "item", value=f"{value:g}", label=label, color=colour, alpha="255")
    return _serialise(root)


def pam(layer: Layer, statistics: Statistics) -> bytes:
    """GDAL side file: category names and attribute table of a class map, statistics of any other.

    Source: GDAL's Persistent Auxiliary Metadata as gcore/gdalpamrasterband.cpp and gdal_rat.cpp read it.
    """
    root = ET.Element("PAMDataset")
    band = ET.SubElement(root, "PAMRasterBand", band="1")
    if layer.classes:
        names = {NODATA_ID: "No data"} | {c.value: c.name for c in layer.classes}
        categories = ET.SubElement(band, "CategoryNames")
        for value in range(max(names) + 1):  # the n-th name belongs to value n, so unused ids get an empty name
            ET.SubElement(categories, "Category").text = names.get(value, "")
        _attribute_table(band, layer, statistics)
    elif statistics.valid and not layer.bands:
        metadata = ET.SubElement(band, "Metadata")
        for key in ("minimum", "maximum", "mean", "std"):
            name = "STATISTICS_" + {"std": "STDDEV"}.get(key, key.upper())
            ET.SubElement(metadata, "MDI", key=name).text = f"{getattr(statistics, key):.9g}"
    return _serialise(root)


def _attribute_table(band: ET.Element, layer: Layer, statistics: Statistics) -> None:
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, dtype, usage) in enumerate(_RAT_COLUMNS):
        column = ET.SubElement(table, "FieldDefn", index=str(index))
        for tag, value in (("Name", name), ("Type", dtype), ("Usage", usage)):
            ET.SubElement(column, tag).text = str(value)
    for index, c in enumerate(layer.classes):
        row = ET.SubElement(table, "Row", index=str(index))
        for value in (c.value, statistics.counts.get(c.value, 0), c.name, *c.rgb, 255):
            ET.SubElement(row, "F").text = str(value)


def _ramp(layer: Layer) -> list[tuple[float, str]]:
    (low, high), colours = layer.range, _RAMPS[layer.kind]
    return [(low + (high - low) * i / (len(colours) - 1), colour) for i, colour in enumerate(colours)]


def _serialise(root: ET.Element) -> bytes:
    """UTF-8 without an XML declaration: GDAL (3.6, 3.10) silently ignores a side file that begins with one."""
    ET.indent(root)
    return ET.tostring(root, encoding="unicode").encode() + b"\n"
