"""Styles (.qml) and GDAL side files (.tif.aux.xml) beside each map, and all maps of a run as a QGIS group (.qlr).

QGIS 3.22 reads class names from a .qml of the same stem. GDAL and the programs built on it read them from the side
file, which holds category names and a raster attribute table (RAT). Users type class names, so all XML is built with a
library, never pasted together.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeAlias

from geomap.legends import NODATA_ID
from geomap.write.layer import Kind, Layer, Statistics, file_stem, plain

Counts: TypeAlias = Mapping[int, int]
"""Value of a map -> number of its pixels."""

_UNITS: Final[dict[Kind, str]] = {"percent": " %", "count": " months"}

_RAMPS: Final[dict[Kind, tuple[str, ...]]] = {
    "percent": ("#f6f0c4", "#b9dca0", "#6bbd9b", "#2c8f94", "#1f4e79"),
    "score": ("#43285a", "#8a4a78", "#d07f68", "#efc06c", "#f8f4c8"),
    "count": ("#f1f1ee", "#b6cde4", "#6fa3cf", "#2f74b0", "#0b3c6f"),
    "likeness": ("#f7f4ec", "#f3d39a", "#e08f5c", "#b3444c", "#5c1a3f"),
    "ndvi": ("#f7f1e3", "#dccb93", "#a3b765", "#4f8a45", "#123f2a"),
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


def qml(layer: Layer, counts: Counts = MappingProxyType({})) -> bytes:
    """QGIS layer style: the classes with codes, names and colours, or a colour ramp over the layer's range.

    `counts`, value -> pixels, says which classes occur; the style lists these. Empty: all.
    """
    root = ET.Element("qgis", version="3.22", styleCategories="Symbology")
    root.append(_pipe(layer, counts))
    return _serialise(root)


def _pipe(layer: Layer, counts: Counts) -> ET.Element:
    """How QGIS draws a layer."""
    pipe = ET.Element("pipe")
    common = {"band": str(layer.band), "opacity": "1", "alphaBand": "-1", "nodataColor": ""}
    if layer.kind == "colour":  # as it is: without a stretch, neighbouring maps look alike
        bands = {"redBand": "1", "greenBand": "2", "blueBand": "3"}
        ET.SubElement(pipe, "rasterrenderer", {"type": "multibandcolor", **common, **bands})
    elif layer.classes:
        renderer = ET.SubElement(pipe, "rasterrenderer", {"type": "paletted", **common})
        palette = ET.SubElement(renderer, "colorPalette")
        for c in [c for c in layer.classes if counts.get(c.value)] or layer.classes:
            ET.SubElement(palette, "paletteEntry", value=str(c.value), label=c.label, color=c.colour, alpha="255")
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
            label = f"{value:g}{_UNITS.get(layer.kind, '')}"
            ET.SubElement(shader, "item", value=f"{value:g}", label=label, color=colour, alpha="255")
    return pipe


@dataclass(frozen=True, slots=True)
class Shown:
    """A file that QGIS shows as a layer."""

    file: str  # relative to the layer definition
    layer: Layer
    crs: str  # "EPSG:32631"; empty: QGIS takes that of the file
    counts: Counts = field(default_factory=dict)
    suffix: str = ""  # ends the layer's name, where a layer of that name is there already

    @property
    def name(self) -> str:
        """What the layer is called."""
        return file_stem(self.layer.name, zone=self.suffix)


def definition(title: str, shown: Sequence[Shown]) -> bytes:
    """QGIS layer definition (.qlr): a group of layers with their styles; the first is visible, the others are off.

    Files are named relative to the definition, so that the folder can be moved.
    """
    root = ET.Element("qlr")
    tree = ET.SubElement(root, "layer-tree-group", name="", checked="Qt::Checked", expanded="1")
    group = ET.SubElement(tree, "layer-tree-group", name=plain(title), checked="Qt::Checked", expanded="1")
    layers = ET.SubElement(root, "maplayers")
    for number, one in enumerate(shown):
        layer, ident, source = one.layer, re.sub(r"\W", "_", one.file), f"./{one.file}"
        state = {"checked": "Qt::Unchecked" if number else "Qt::Checked", "expanded": "0" if number else "1"}
        ET.SubElement(
            group,
            "layer-tree-layer",
            {"id": ident, "name": one.name, "source": source, "providerKey": "gdal"} | state,
        )
        made = ET.SubElement(layers, "maplayer", type="raster")
        for tag, text in (("id", ident), ("datasource", source), ("layername", one.name), ("provider", "gdal")):
            ET.SubElement(made, tag).text = text
        if one.crs:
            system = ET.SubElement(ET.SubElement(made, "srs"), "spatialrefsys")
            ET.SubElement(system, "authid").text = one.crs
        about = ET.SubElement(made, "resourceMetadata")
        for tag, text in (("title", one.name), ("abstract", plain(layer.description))):
            ET.SubElement(about, tag).text = text
        made.append(_pipe(layer, one.counts))
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
