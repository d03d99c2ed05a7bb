"""Small maps with known pixels, and the report page over them."""

import base64
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomap.legends import Legend, LegendClass
from geomap.types import Grid
from geomap.write.cog import write_map
from geomap.write.layer import Layer, Statistics
from geomap.write.report import Extras, write_report
from geomap.write.stac import MapFile

GRID = Grid(epsg=32631, west=500_000, north=5_600_000, width=120, height=90)
HOSTILE = (
    "</script><script>alert(1)</script>",
    '=HYPERLINK("http://x")',
    "<img src=x onerror=alert(2)>",
    "Forêt 森林 & {{DATA}} {{SCRIPT}}",
)
MONTHS = tuple(f"2023-{month:02d}" for month in range(1, 13))
FACTS: dict[str, Any] = {
    "place": "50.54° N to 50.55° N, 3.00° E to 3.02° E", "warning": "", "honest": "Counts of pixels.",
    "validation": [{"stem": "landcover", "says": "Never.", "open": "Only a sample tells."}],
    "confidence": "Not likelihood.",
    "limits": [HOSTILE[0]], "cite": ["Copernicus"], "account": "",
    "scenes": [],
    "left_out": [], "missed": [], "sky": [], "quarantined": [], "estimated": "Estimates.",
    "not_by_chance": "Of some points.", "of_part": "Of a part.",
    "before": [], "command": f"geomap map --classes '{HOSTILE[0]}'", "needs": "", "made": [], "software": [],
    "files": [["a b#c.tif", 1234, "5e" * 32]],
}  # fmt: skip


def legend(names: Sequence[str], name: str = "landcover") -> Legend:
    colours = ("#e31a1c", "#f2d94e", "#1b6b2f", "#2a7fd4", "#a5d96a", "#b8ada0")
    classes = [
        LegendClass(id=i, name=n, colour=colours[i % len(colours)], prompts=(n[:100],)) for i, n in enumerate(names, 1)
    ]
    return Legend(name=name, title="Land cover", classes=tuple(classes))


def known(grid: Grid = GRID, classes: int = 4) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Blocks of 15 x 20 pixels of classes 1.., with a nodata corner; and the confidence of each pixel."""
    y, x = np.mgrid[: grid.height, : grid.width]
    ids = ((x // 20 + 2 * (y // 15)) % classes + 1).astype(np.uint8)
    confidence = ((7 * x + 13 * y) % 101).astype(np.uint8)
    ids[:10, :12], confidence[:10, :12] = 0, 255
    return ids, confidence


def write_maps(
    folder: Path, layers: Mapping[Layer, NDArray[Any]], grid: Grid = GRID
) -> tuple[list[MapFile], dict[str, Statistics]]:
    maps = [MapFile(folder / f"{layer.stem}.tif", layer, grid) for layer in layers]
    return maps, {
        m.layer.stem: write_map(m.path, m.layer, grid, [(grid, pixels)], {})
        for m, pixels in zip(maps, layers.values(), strict=True)
    }


def layers_for(names: Sequence[str], stem: str = "landcover") -> tuple[Layer, Layer]:
    classes = Layer(stem, "Land cover", "classes", legend(names, stem))
    return classes, Layer(f"{stem}_confidence", "Land cover: confidence, percent", "percent")


def write_page(folder: Path, names: Sequence[str] = HOSTILE, grid: Grid = GRID, **facts: Any) -> Path:
    """A page over one map of the classes `names`, its confidence and its clear months."""
    classes, sure = layers_for(names)
    ids, confidence = known(grid, len(names))
    months = Layer("clear_months", "Months with a clear observation", "count")
    counts = np.where(ids > 0, 9, 255).astype(np.uint8)
    maps, statistics = write_maps(folder, {classes: ids, sure: confidence, months: counts}, grid)
    return write_report(folder, maps, statistics, "Land cover", MONTHS, Extras(facts=FACTS | facts))


def content(page: Path) -> Any:
    """The JSON in a page."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())
    return json.loads(found)


def raster(page: Path, name: str) -> NDArray[np.uint8]:
    """The pixels of a map in a page, flat."""
    (found,) = re.findall(rf'id="{name}" data-raster>([^<]*)</script>', page.read_text())
    return np.frombuffer(zlib.decompress(base64.b64decode(found)), np.uint8)
