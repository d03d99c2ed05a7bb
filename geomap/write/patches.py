"""Patches of class maps, connected pixels of one class: small ones merged, and all of them as polygons.

Pixels are connected by their edges, not by their corners. A map is read by strips of rows, so memory grows with the
number of patches, not with the area; the exception is `merge_small`, which holds one byte for each pixel.
"""

from __future__ import annotations

import sqlite3
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import geopandas
import numpy as np
import pyogrio
import rasterio
import rasterio.features
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError
from rasterio.windows import Window
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from shapely.geometry import shape

from geomap import files
from geomap.aoi import plainly_placed
from geomap.legends import UNCLASSIFIED_ID
from geomap.types import Grid
from geomap.write.cog import gdal_errors
from geomap.write.layer import Layer

STRIP: Final = 512
"""Rows read at once: a row of TIFF blocks."""
POLYGONS: Final = 20_000
"""Polygons written at once."""
HECTARES: Final = 0.01
"""Of a pixel of 10 m."""
_WHEN: Final = "2000-01-01T00:00:00Z"
"""What a GeoPackage says of its last change, so that the same polygons give the same bytes."""


def merge_small(path: Path, grid: Grid, tiles: Iterable[tuple[Grid, NDArray[np.uint8]]], least: int) -> None:
    """Write a class map in which patches of fewer than `least` pixels have the class of their largest neighbour.

    Nodata and unclassified pixels stay as they are, and are no neighbours. A neighbour that is too small itself passes
    its own largest neighbour on, and so forth; a patch that comes to none of `least` pixels so stays: one among nodata
    alone, or among small ones that lead back to each other. GDAL's sieve filter, over the whole map: the result does
    not depend on how it is cut into tiles.

    Args:
        path: a plain GeoTIFF for `read_window`; files beside it, `<stem>.raw.tif` and `<stem>.mask.tif`, are removed.
        grid: of the whole map.
        tiles: parts of the grid, and their class ids.
        least: pixels.

    Raises:
        DiskFullError, OutputError: it cannot be written.
    """
    raw, mask = path.with_suffix(".raw.tif"), path.with_suffix(".mask.tif")
    with files.disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            rasterio.open(raw.absolute(), "w", **_profile(grid, "uint8")) as out,
            rasterio.open(mask.absolute(), "w", **_profile(grid, "uint8")) as kept,
        ):
            for part, ids in tiles:
                row, column = part.offset_in(grid)
                window = Window(column, row, part.width, part.height)
                out.write(ids, 1, window=window)
                kept.write(((ids != 0) & (ids != UNCLASSIFIED_ID)).astype(np.uint8), 1, window=window)
        with _opened(raw) as source, _opened(mask) as kept:
            merged = rasterio.features.sieve(rasterio.band(source, 1), least, mask=rasterio.band(kept, 1))
            for top in range(0, grid.height, STRIP):
                rows = Window(0, top, grid.width, min(STRIP, grid.height - top))
                strip = merged[top : top + STRIP]
                off = kept.read(1, window=rows) == 0
                strip[off] = source.read(1, window=rows)[off]
        with rasterio.open(path.absolute(), "w", **_profile(grid, "uint8")) as out:
            out.write(merged, 1)
        raw.unlink()
        mask.unlink()


def read_window(path: Path, grid: Grid, part: Grid) -> NDArray[Any]:
    """(y, x) pixels of a part of a grid."""
    row, column = part.offset_in(grid)
    with rasterio.open(path.absolute(), driver="GTiff", sharing=False) as source:
        pixels: NDArray[Any] = source.read(1, window=Window(column, row, part.width, part.height))
    return pixels


@dataclass(frozen=True, slots=True)
class Patches:
    """The patches of a map by id, from 1; index 0 is nodata."""

    value: NDArray[np.uint8]  # (n + 1,) class ids
    pixels: NDArray[np.int64]  # (n + 1,)
    confidence: NDArray[np.float64]  # (n + 1,) mean percent, NaN where there is none


def label_np(classes: NDArray[np.uint8]) -> tuple[NDArray[np.int32], int]:
    """(y, x) class ids -> (y, x) numbers of patches from 1, 0 where the class is 0; and how many there are."""
    ids, found = np.zeros(classes.shape, np.int32), 0
    for value in np.unique(classes[classes > 0]):
        numbered, n = ndimage.label(classes == value)
        np.add(numbered, found, out=ids, where=numbered > 0)
        found += n
    return ids, found


def write_polygons(path: Path, name: str, layer: Layer, classes: Path, confidence: Path, grid: Grid) -> int:
    """Write the patches of a class map as polygons: class, name, area_ha, confidence (mean, percent).

    Args:
        path: a GeoPackage; a layer is added if it is there. The same maps give the same bytes.
        name: of the layer.
        layer: of the class map.
        classes, confidence: the finished maps.
        grid: their grid.

    Returns:
        How many there are.

    Raises:
        DiskFullError, OutputError: it cannot be written.
    """
    ids = path.with_name(f".{path.name}.ids.part")
    needed = 8 * grid.width * grid.height  # two rasters of numbers, uncompressed
    with gdal_errors(path.parent, needed, DataSourceError, DataLayerError, FeatureError, sqlite3.Error):
        try:
            patches = _number(classes, confidence, grid, ids)
            with _opened(ids) as source, plainly_placed(path) as plain:
                _write(plain, name, layer, patches, _polygons(source), grid)
            _require_index(path, name)
        finally:
            ids.unlink(missing_ok=True)
    return len(patches.value) - 1


def _require_index(path: Path, name: str) -> None:
    """Raise sqlite3.Error if a layer lacks its spatial index: GDAL leaves it out in silence where the disk is full."""
    with closing(sqlite3.connect(path)) as database:
        asked = "SELECT count(*) FROM gpkg_extensions WHERE table_name = ? AND extension_name = 'gpkg_rtree_index'"
        if database.execute(asked, (name,)).fetchone() == (0,):
            raise sqlite3.OperationalError(f"{path.name} lacks its spatial index")


def _number(classes: Path, confidence: Path, grid: Grid, out: Path) -> Patches:
    """Write a raster of the patches' numbers; returns what is known of them."""
    first = out.with_name(f"{out.name}.first.part")
    value, total, pairs = [np.zeros(1, np.uint8)], 0, []
    above: NDArray[np.int32] | None = None
    with (
        _opened(classes) as source,
        rasterio.open(first.absolute(), "w", **_profile(grid, "int32")) as target,
    ):
        for window in _strips(grid):
            strip = source.read(1, window=window)
            ids, n = label_np(strip)
            ids[ids > 0] += total
            of = np.zeros(n, np.uint8)
            of[ids[ids > 0] - total - 1] = strip[ids > 0]
            value.append(of)
            if above is not None:
                same = (above > 0) & (ids[0] > 0) & (np.concatenate(value)[above] == strip[0])
                pairs.append(np.unique(np.column_stack([above[same], ids[0][same]]), axis=0))
            above, total = ids[-1], total + n
            target.write(ids, 1, window=window)
    final = _joined(total, pairs)
    count = int(final.max()) + 1
    pixels, sums = np.zeros(count, np.int64), np.zeros(count, np.float64)
    with (
        _opened(first) as source,
        _opened(confidence) as sure,
        rasterio.open(out.absolute(), "w", **_profile(grid, "int32")) as target,
    ):
        for window in _strips(grid):
            ids = final[source.read(1, window=window)]
            target.write(ids, 1, window=window)
            pixels += np.bincount(ids.ravel(), minlength=count)
            sums += np.bincount(ids.ravel(), sure.read(1, window=window).ravel(), minlength=count)
    first.unlink()
    of_final = np.zeros(count, np.uint8)
    of_final[final] = np.concatenate(value)
    return Patches(of_final, pixels, sums / np.maximum(pixels, 1))


def _joined(total: int, pairs: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    """(total + 1,) new numbers of patches, of which each pair is one; in the order of their first pixels."""
    rows, columns = np.concatenate(pairs).T if pairs else np.zeros((2, 0), np.int32)
    graph = coo_array((np.ones(len(rows), np.uint8), (rows, columns)), shape=(total + 1, total + 1))
    _, groups = connected_components(graph, directed=False)
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    numbers: NDArray[np.int32] = rank[inverse]
    return numbers


def _polygons(ids: Any) -> Iterator[tuple[int, Any]]:
    """(number, polygon) of every patch."""
    for geometry, number in rasterio.features.shapes(rasterio.band(ids, 1), connectivity=4, transform=ids.transform):
        if number > 0:
            yield int(number), shape(geometry)


def _write(
    path: Path, name: str, layer: Layer, patches: Patches, polygons: Iterator[tuple[int, Any]], grid: Grid
) -> None:
    names = {c.value: c.name for c in layer.classes}
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": _WHEN})
    try:
        empty, first = True, not path.exists()
        while (part := list(islice(polygons, POLYGONS))) or empty:
            number = np.array([n for n, _ in part], np.int64)
            table = geopandas.GeoDataFrame(
                {
                    "class": patches.value[number].astype(np.int32),
                    "name": [names.get(int(v), "") for v in patches.value[number]],
                    "area_ha": np.round(patches.pixels[number] * HECTARES, 2),
                    "confidence": np.round(patches.confidence[number], 1),
                },
                geometry=list(shapely.multipolygons([[p] for _, p in part]) if part else []),
                crs=f"EPSG:{grid.epsg}",
            )
            mode = "w" if first and empty else "a"
            table.to_file(path, driver="GPKG", layer=name, mode=mode, engine="pyogrio", geometry_type="MultiPolygon")
            empty = False
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})
    _style(path, name, layer)


def _style(path: Path, name: str, layer: Layer) -> None:
    """Add the colours of the classes to a GeoPackage, in the table where QGIS keeps styles of layers."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, "
            "f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256), "
            "styleName TEXT(30), styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30), "
            "ui TEXT(30), update_time DATETIME)"
        )
        values = ("", "", name, "geom", "classes", qml(layer), "", 1, "", "", None, _WHEN)
        database.execute(f"INSERT INTO layer_styles VALUES (NULL, {', '.join('?' * len(values))})", values)


def qml(layer: Layer) -> str:
    """QGIS style of polygons: a fill for each class."""
    root = ET.Element("qgis", version="3.22", styleCategories="Symbology")
    renderer = ET.SubElement(root, "renderer-v2", type="categorizedSymbol", attr="class", symbollevels="0")
    categories, symbols = ET.SubElement(renderer, "categories"), ET.SubElement(renderer, "symbols")
    for number, c in enumerate(layer.classes):
        ET.SubElement(categories, "category", value=str(c.value), label=c.name, symbol=str(number), render="true")
        symbol = ET.SubElement(symbols, "symbol", name=str(number), type="fill", alpha="1", clip_to_extent="1")
        fill = ET.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"})
        options = ET.SubElement(fill, "Option", type="Map")
        for key, value in (
            ("color", ",".join(map(str, (*c.rgb, 255)))),
            ("outline_color", "60,60,60,255"),
            ("outline_width", "0.1"),
            ("style", "solid"),
        ):
            ET.SubElement(options, "Option", name=key, type="QString", value=value)
    return ET.tostring(root, encoding="unicode")


def _strips(grid: Grid) -> Iterator[Window]:
    for top in range(0, grid.height, STRIP):
        yield Window(0, top, grid.width, min(STRIP, grid.height - top))


def _opened(path: Path) -> Any:
    """A GeoTIFF to read, whatever its folder is called."""
    return rasterio.open(path.absolute(), driver="GTiff")


def _profile(grid: Grid, dtype: str) -> dict[str, Any]:
    return {
        "driver": "GTiff",
        "width": grid.width,
        "height": grid.height,
        "count": 1,
        "dtype": dtype,
        "crs": f"EPSG:{grid.epsg}",
        "transform": rasterio.Affine(*grid.transform),
        "tiled": True,
        "blockxsize": STRIP,
        "blockysize": STRIP,
        "compress": "DEFLATE",
        "zlevel": 1,
        "BIGTIFF": "IF_SAFER",
    }
