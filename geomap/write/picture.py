"""Pictures of maps for documents and catalogues: a PNG with title, legend, scale bar, north and source."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rasterio.enums import Resampling

from geomap import files
from geomap.write.layer import Layer, Statistics
from geomap.write.stac import MapFile

SIDE: Final = 900
"""Most pixels per side of the map in the picture; small maps are enlarged by a whole number."""
COLUMN: Final = 380
"""Pixels of the legend's width."""
MARGIN: Final = 28
MOST_ROWS: Final = 32
"""Most classes named in a legend; the rest is counted."""
INK, QUIET, PAPER, EMPTY = (27, 31, 36), (87, 96, 106), (255, 255, 255), (238, 241, 244)
RAMP: Final = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Five colours of viridis, the ramp of matplotlib (CC0), which the colour-blind can read."""


def write_picture(m: MapFile, statistics: Statistics, when: str) -> Path:
    """Write the picture of a map of classes or scores beside it: `<stem>.png`.

    Args:
        m: a finished map.
        statistics: of the map.
        when: the months mapped, as the title shows them.

    Raises:
        DiskFullError, OutputError: as in files.write_bytes.
    """
    land, metres = _land(m)
    legend = _legend(m.layer, statistics)
    body = max(land.height, legend.height)
    sheet = Image.new("RGB", (land.width + COLUMN + 3 * MARGIN, body + 5 * MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    title = m.layer.legend.title if m.layer.legend else m.layer.description
    pen.text((MARGIN, MARGIN - 8), fitting(f"{title}, {when}", 30, sheet.width - 2 * MARGIN), INK, _font(30))
    top = 2 * MARGIN + 14
    sheet.paste(land, (MARGIN, top))
    sheet.paste(legend, (land.width + 2 * MARGIN, top))
    foot = top + body + 14
    _scale_bar(pen, MARGIN, foot, land.width, metres)
    _north(pen, MARGIN + land.width - 10, foot)
    source = f"Contains modified Copernicus Sentinel data. EPSG:{m.grid.epsg}"
    pen.text((sheet.width - MARGIN, foot + 8), source, QUIET, _font(13), anchor="ra")
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=4)  # 9 takes five times as long for 4 % fewer bytes
    path = m.path.with_suffix(".png")
    files.write_bytes(path, buffer.getvalue())
    return path


def fitting(text: str, size: int, width: int) -> str:
    """The text, cut at its end so that it is at most `width` pixels wide."""
    font = _font(size)
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def bar_metres(longest: float) -> int:
    """The length of a scale bar: 1, 2 or 5 times a power of ten, at most `longest` metres; at least one metre."""
    longest = max(longest, 1)
    power: int = 10 ** math.floor(math.log10(longest))
    return max(step * power for step in (1, 2, 5) if step * power <= longest)


def ramp(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(..., 3) colours of shares 0..1 of a ramp."""
    at = np.linspace(0, 1, len(RAMP))
    return np.stack([np.interp(shares, at, [c[i] for c in RAMP]) for i in range(3)], axis=-1).round().astype(np.uint8)


def _land(m: MapFile) -> tuple[Image.Image, float]:
    """The coloured map, and the metres of one of its pixels."""
    longest = max(m.grid.width, m.grid.height)
    step = math.ceil(longest / SIDE)
    shape = (math.ceil(m.grid.height / step), math.ceil(m.grid.width / step))
    with rasterio.open(m.path.absolute(), driver="GTiff") as source:
        pixels = source.read(1, out_shape=shape, resampling=Resampling.nearest)
    times = max(1, SIDE // longest)
    picture = Image.fromarray(_coloured(pixels, m.layer))
    enlarged = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    return enlarged, m.grid.resolution * step / times


def _coloured(pixels: NDArray[Any], layer: Layer) -> NDArray[np.uint8]:
    if layer.kind == "classes":
        colours = np.full((256, 3), EMPTY, np.uint8)
        for c in layer.classes:
            colours[c.value] = c.rgb
        made: NDArray[np.uint8] = colours[pixels]
        return made
    low, high = layer.range
    shown = ramp((np.nan_to_num(pixels, nan=low).astype(np.float64) - low) / (high - low))
    shown[np.isnan(pixels)] = EMPTY
    return shown


def _legend(layer: Layer, statistics: Statistics) -> Image.Image:
    """The classes that occur, by area, with their share; or the ramp of a score."""
    if layer.kind != "classes":
        return _ramp_legend(layer)
    total = max(statistics.valid, 1)
    counts = statistics.counts
    present = sorted((c for c in layer.classes if counts.get(c.value)), key=lambda c: (-counts[c.value], c.value))
    rest = len(present) - MOST_ROWS
    step = 27
    column = Image.new("RGB", (COLUMN, step * (min(len(present), MOST_ROWS) + 2)), PAPER)
    pen = ImageDraw.Draw(column)
    for row, c in enumerate(present[:MOST_ROWS]):
        y = row * step
        pen.rectangle((0, y, 26, y + 18), c.rgb, QUIET)
        pen.text((38, y - 1), fitting(c.name, 17, COLUMN - 110), INK, _font(17))
        share = f"{100 * counts[c.value] / total:.1f} %"
        pen.text((COLUMN - 1, y - 1), share, INK, _font(17), anchor="ra")
    if rest > 0:
        pen.text((38, MOST_ROWS * step), f"and {rest} more classes", QUIET, _font(15))
    return column


def _ramp_legend(layer: Layer) -> Image.Image:
    column = Image.new("RGB", (COLUMN, 60), PAPER)
    column.paste(Image.fromarray(np.repeat(ramp(np.linspace(0, 1, COLUMN))[None], 24, axis=0)), (0, 0))
    pen = ImageDraw.Draw(column)
    low, high = layer.range
    pen.text((0, 32), f"{low:g}", INK, _font(17))
    pen.text((COLUMN - 1, 32), f"{high:g}", INK, _font(17), anchor="ra")
    return column


def _scale_bar(pen: ImageDraw.ImageDraw, x: int, y: int, width: int, metres: float) -> None:
    length = bar_metres(width * metres / 3)
    pixels = round(length / metres)
    pen.rectangle((x, y + 22, x + pixels, y + 27), INK)
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length} m"
    pen.text((x, y), label, INK, _font(16))


def _north(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    pen.polygon(((x, y), (x - 8, y + 24), (x + 8, y + 24)), INK)
    pen.text((x - 14, y + 2), "N", INK, _font(17), anchor="ra")


def _font(size: int) -> Any:
    """The font inside Pillow: the same picture on every machine."""
    return ImageFont.load_default(size)
