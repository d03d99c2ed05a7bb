"""One layer over the maps of several UTM zones, as a GDAL virtual raster (VRT).

    <stem>.vrt                     the file to open: the home zone's map unchanged, above the others
    zones/<stem>_<epsg>.vrt        another zone's map seen from the home zone, warped when it is read
    zones/<stem>_<epsg>_beside.vrt that map moved by one pixel to each side, in its own zone
    zones/<stem>_<epsg>_seam.vrt   this seen from the home zone, in a strip along the border of the other zone

The CRS is that of the home zone, the one that holds most of the area. No pixel is stored twice. All paths are relative,
so the directory can be moved. A VRT can have several sources but a warped VRT only one, so each other zone has its own
warped VRT. EPSG:4326 would be 360 degrees wide across the antimeridian.

A pixel of another zone takes the value of the map pixel that contains its centre. The pixels of two zones do not line
up at the seam: a centre may lie in a pixel of one zone that belongs to the other. Such holes show the value of a
neighbour: beneath the views lie copies of their maps, moved by one pixel to each side, and of these only the pixels
that the border crosses and that belong to another zone. So nodata stays nodata, but for pixels of the home zone that
touch the border.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import shapely
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from geomap import files
from geomap.grid import covering, mosaic_grid, territory
from geomap.types import Grid
from geomap.write.layer import Layer, Statistics, file_stem, plain
from geomap.write.qgis import colormap, qml
from geomap.write.stac import MapFile

FOLDER: Final = "zones"
"""Folder of the warped views, in the directory of the maps."""

VRT_BLOCK: Final = 512
"""Pixels per side of a block of the warped views, as in the maps."""

_MOVES: Final = ((0, -1), (0, 1), (-1, 0), (1, 0))
"""(rows, columns) by which the copies beneath a view are moved, to fill holes at a seam."""

_REACH: Final = 0.75
"""Pixels to which a pixel that the border crosses reaches from it at most, by its centre: half a diagonal, and some."""

_STEP: Final = 0.02
"""Degrees between the points of a border, straight in longitude and latitude and curved in UTM: to 0.1 m."""

_TYPES: Final = {"uint8": "Byte", "int16": "Int16", "float32": "Float32"}


def write_vrts(
    directory: Path, maps: Sequence[MapFile], statistics: Mapping[str, Statistics] = MappingProxyType({})
) -> tuple[Path, ...]:
    """Write a virtual raster for each layer that has maps in several zones, in the order of the layers.

    Args:
        directory: where the maps lie.
        maps: all of one pixel size, one for each layer and zone.
        statistics: by layer stem, over all zones; the styles list the classes that occur.

    Raises:
        DiskFullError, OutputError: as in files.write_bytes.
    """
    layers: dict[str, list[MapFile]] = {}
    for m in maps:
        layers.setdefault(m.layer.stem, []).append(m)
    several = {stem: members for stem, members in layers.items() if len(members) > 1}
    return tuple(_write(directory, members, statistics.get(stem)) for stem, members in several.items())


def _write(directory: Path, maps: Sequence[MapFile], found: Statistics | None) -> Path:
    """Write `<stem>.vrt` over the maps of one layer, with its style and the warped views it needs."""
    layer = maps[0].layer
    home, *others = sorted(maps, key=lambda m: (-m.grid.width * m.grid.height, m.grid.epsg))
    views: list[tuple[str, Grid]] = []
    beneath: list[tuple[str, Grid]] = []
    for m in sorted(others, key=lambda m: (-_apart(m.grid, home.grid), m.grid.epsg)):  # the nearest zone on top
        name, seen = f"{FOLDER}/{file_stem(layer.stem, layer.place, m.grid.epsg)}.vrt", covering(m.grid, home.grid.epsg)
        files.write_bytes(directory / name, _bytes(_warped(layer, f"../{m.path.name}", m.grid, seen)))
        views.append((name, seen))
        beneath += _write_seam(directory, m, seen)
    whole = mosaic_grid((home.grid, *(seen for _, seen in views)))
    path = directory / f"{layer.name}.vrt"
    files.write_bytes(path.with_suffix(".qml"), qml(layer, found.counts if found else {}))
    files.write_bytes(path, _bytes(_mosaic(layer, whole, [*beneath, *views, (home.path.name, home.grid)])))
    return path


def _write_seam(directory: Path, one: MapFile, seen: Grid) -> list[tuple[str, Grid]]:
    """Write what fills the holes at the border of a map's zone: (file, its grid), if any.

    The grid is `seen`, that of the map's view: both are warped in the same blocks, and GDAL errs alike in both.
    """
    layer, strip = one.layer, _seam(one.grid)
    if strip.is_empty:
        return []
    stem = file_stem(layer.stem, layer.place, one.grid.epsg)
    around = _around(strip, one.grid)  # not the whole map, which a view from afar would read
    moved = [(f"../{one.path.name}", _moved(one.grid, *move)) for move in _MOVES]
    beside, seam = f"{FOLDER}/{stem}_beside.vrt", f"{FOLDER}/{stem}_seam.vrt"
    files.write_bytes(directory / beside, _bytes(_mosaic(layer, around, moved)))
    files.write_bytes(directory / seam, _bytes(_warped(layer, Path(beside).name, around, seen, strip)))
    return [(seam, seen)]


def _seam(grid: Grid) -> BaseGeometry:
    """Where pixels that the border of a grid's zone crosses have their centres outside the zone, near the grid."""
    to_zone = Transformer.from_crs(4326, grid.epsg, always_xy=True)
    border = shapely.segmentize(territory(grid.epsg), _STEP)
    zone = shapely.transform(border, lambda xy: np.column_stack(to_zone.transform(xy[:, 0], xy[:, 1])))
    near = shapely.intersection(zone.boundary, shapely.box(*grid.grown(3).bounds))
    strip = near.buffer(_REACH * grid.resolution, cap_style="flat", join_style="mitre")
    return strip.difference(zone.buffer(-0.1))


def _around(shape: BaseGeometry, grid: Grid) -> Grid:
    """The smallest grid with the pixels of `grid` that covers a shape in metres."""
    step = grid.resolution
    west, south, east, north = shape.bounds
    left, right = math.floor((west - grid.west) / step), math.ceil((east - grid.west) / step)
    top, bottom = math.floor((grid.north - north) / step), math.ceil((grid.north - south) / step)
    return replace(_moved(grid, top, left), width=right - left, height=bottom - top)


def _apart(one: Grid, other: Grid) -> int:
    """Number of zones between two grids, 0..30."""
    return abs((one.epsg % 100 - other.epsg % 100 + 30) % 60 - 30)


def _moved(grid: Grid, rows: int, columns: int) -> Grid:
    step = grid.resolution
    return replace(grid, west=grid.west + columns * step, north=grid.north - rows * step)


def _mosaic(layer: Layer, whole: Grid, sources: Sequence[tuple[str, Grid]]) -> ET.Element:
    """A virtual raster of (file, its grid), later ones above earlier ones; anything outside `whole` is not shown."""
    root, bands = _raster(layer, whole)
    for number, band in enumerate(bands, start=1):
        for name, part in sources:
            row, column = part.offset_in(whole)
            source = ET.SubElement(band, "ComplexSource")
            ET.SubElement(source, "SourceFilename", relativeToVRT="1").text = name
            ET.SubElement(source, "SourceBand").text = str(number)
            size = {"RasterXSize": str(part.width), "RasterYSize": str(part.height)}
            block = {"BlockXSize": str(VRT_BLOCK), "BlockYSize": str(VRT_BLOCK)}
            ET.SubElement(source, "SourceProperties", size | {"DataType": _TYPES[layer.dtype]} | block)
            for tag, x, y in (("SrcRect", 0, 0), ("DstRect", column, row)):
                ET.SubElement(source, tag, xOff=str(x), yOff=str(y), xSize=str(part.width), ySize=str(part.height))
            ET.SubElement(source, "NODATA").text = f"{layer.nodata:g}"
    return root


def _warped(layer: Layer, name: str, grid: Grid, seen: Grid, within: BaseGeometry | None = None) -> ET.Element:
    """A virtual raster that warps the map `name` on `grid` to the grid `seen` (GDAL's VRTWarpedDataset).

    Of the map, it shows the pixels whose centres lie `within` a shape, in metres.
    """
    root, bands = _raster(layer, seen, "Warped")
    for axis in "XY":
        ET.SubElement(root, f"Block{axis}Size").text = str(VRT_BLOCK)
    options = ET.SubElement(root, "GDALWarpOptions")
    ET.SubElement(options, "ResampleAlg").text = "NearestNeighbour"
    ET.SubElement(options, "WorkingDataType").text = _TYPES[layer.dtype]
    for key, value in (("INIT_DEST", "NO_DATA"), ("UNIFIED_SRC_NODATA", "YES")):
        ET.SubElement(options, "Option", name=key).text = value
    ET.SubElement(options, "SourceDataset", relativeToVRT="1").text = name
    approximate = ET.SubElement(ET.SubElement(options, "Transformer"), "ApproxTransformer")
    ET.SubElement(approximate, "MaxError").text = "0.125"  # pixels; GDAL's default
    transformer = ET.SubElement(ET.SubElement(approximate, "BaseTransformer"), "GenImgProjTransformer")
    for tag, g in (("Src", grid), ("Dst", seen)):
        ET.SubElement(transformer, f"{tag}GeoTransform").text = _geotransform(g)
        ET.SubElement(transformer, f"{tag}InvGeoTransform").text = _inverse(g)
    project = ET.SubElement(ET.SubElement(transformer, "ReprojectTransformer"), "ReprojectionTransformer")
    ET.SubElement(project, "SourceSRS").text = f"EPSG:{grid.epsg}"
    ET.SubElement(project, "TargetSRS").text = f"EPSG:{seen.epsg}"
    listed = ET.SubElement(options, "BandList")
    for number in range(1, len(bands) + 1):
        mapping = ET.SubElement(listed, "BandMapping", src=str(number), dst=str(number))
        for side in ("Src", "Dst"):
            ET.SubElement(mapping, f"{side}NoDataReal").text = f"{layer.nodata:g}"
            ET.SubElement(mapping, f"{side}NoDataImag").text = "0"
    if within is not None:
        corner, step = (grid.west, grid.north), (grid.resolution, -grid.resolution)
        cut = shapely.transform(within, lambda xy: (xy - corner) / step)  # columns and rows of the map
        ET.SubElement(options, "Cutline").text = shapely.to_wkt(cut, rounding_precision=3)
    return root


def _raster(layer: Layer, grid: Grid, kind: str = "") -> tuple[ET.Element, list[ET.Element]]:
    """(dataset, its bands) with the layer's colours and names."""
    root = ET.Element("VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height))
    ET.SubElement(root, "SRS", dataAxisToSRSAxisMapping="1,2").text = f"EPSG:{grid.epsg}"
    ET.SubElement(root, "GeoTransform").text = _geotransform(grid)
    if kind:
        root.set("subClass", f"VRT{kind}Dataset")
    names = layer.bands or (plain(layer.description),)
    return root, [_band(root, layer, number, name, kind) for number, name in enumerate(names, start=1)]


def _band(root: ET.Element, layer: Layer, number: int, name: str, kind: str) -> ET.Element:
    band = ET.SubElement(root, "VRTRasterBand", dataType=_TYPES[layer.dtype], band=str(number))
    if kind:
        band.set("subClass", f"VRT{kind}RasterBand")
    ET.SubElement(band, "Description").text = name
    ET.SubElement(band, "NoDataValue").text = f"{layer.nodata:g}"
    if layer.scale != 1:
        ET.SubElement(band, "Scale").text = f"{layer.scale:g}"
    if layer.kind == "colour":
        ET.SubElement(band, "ColorInterp").text = ("Red", "Green", "Blue")[number - 1]
    if layer.classes:
        ET.SubElement(band, "ColorInterp").text = "Palette"
        colours = colormap(layer)
        names = {c.value: c.name for c in layer.classes}
        categories, table = ET.SubElement(band, "CategoryNames"), ET.SubElement(band, "ColorTable")
        for value in range(max(colours) + 1):  # the n-th entry belongs to value n
            ET.SubElement(categories, "Category").text = names.get(value, "")
            r, g, b, a = colours.get(value, (0, 0, 0, 0))
            ET.SubElement(table, "Entry", c1=str(r), c2=str(g), c3=str(b), c4=str(a))
    return band


def _geotransform(grid: Grid) -> str:
    return f"{grid.west},{grid.resolution},0,{grid.north},0,-{grid.resolution}"


def _inverse(grid: Grid) -> str:
    step = grid.resolution
    return f"{-grid.west / step!r},{1 / step!r},0,{grid.north / step!r},0,{-1 / step!r}"


def _bytes(root: ET.Element) -> bytes:
    ET.indent(root)
    return ET.tostring(root, encoding="unicode").encode() + b"\n"
