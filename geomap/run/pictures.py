"""True colour and greenness (NDVI) from the composites that a run saves, for its page."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import Resampling

from geomap.sentinel2 import BANDS
from geomap.store.store import Store
from geomap.types import Grid, Period, Tile
from geomap.write.report import Curves, Picture, Zone
from geomap.write.stac import MapFile

COLOURS: Final = ("B04", "B03", "B02")
RED, NIR = BANDS.index("B04"), BANDS.index("B08")
DARK, BRIGHT = 100, 2500
"""DNs that a picture shows as black and as white: water and dry soil lie between; roofs and snow are white."""
GAMMA: Final = 1.6
"""Brightens dark vegetation, which has a reflectance below 0.1 in red, green and blue."""
QUALITY: Final = 80
"""Quality of the JPEG: 0.4 to 0.6 MB for 1,600 x 1,600 pixels of farmland."""
NO_DATA: Final = (238, 241, 244)
"""Colour of pixels without a clear observation: that of the page behind the map."""

SEASONS: Final = ((5, 6), (7, 8))
"""Months of a picture in the north: early summer, when winter crops are ripe and maize is bare soil; high summer, when
it is the other way round. In the south, six months later."""
LEAST_SEEN: Final = 0.2
"""Least share of pixels seen clear in the month of a picture; with less it shows mostly nothing."""
MOST_CODES: Final = 2_000_000
"""Most values of a zone's curves in a page; larger zones have one curve for several pixels."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the composites of a run show."""

    pictures: tuple[Picture, ...] = ()
    curves: tuple[Curves, ...] = ()
    sky: tuple[float, ...] = ()  # for each month, the share of pixels with a clear observation, 0..1


def of_composites(kept: Store, tiles: Sequence[Tile], zones: Mapping[int, Zone]) -> Seen:
    """Pictures and curves of a composites store.

    Args:
        kept: the store.
        tiles: those that it holds.
        zones: by EPSG code, the pixels of the page.

    Raises ReadError if the store is damaged.
    """
    if not tiles:
        return Seen()
    sky = clear_shares(kept, tiles)
    south = tiles[0].grid.epsg >= 32700
    months = [month for season in SEASONS if (month := clearest(kept.period, sky, season, south)) is not None]
    pictures, curves = [], []
    for zone in zones.values():
        own = [tile for tile in tiles if tile.grid.epsg == zone.epsg]
        pictures += [_picture(kept, own, zone, month) for month in months]
        curves.append(_curves(kept, own, zone))
    return Seen(tuple(pictures), tuple(curves), sky)


def clear_shares(kept: Store, tiles: Sequence[Tile]) -> tuple[float, ...]:
    """For each month, the share of the tiles' pixels with a clear observation, 0..1."""
    seen, pixels = np.zeros(kept.period.months, np.int64), 0
    for tile in tiles:
        clear = kept.read("clear", tile.grid, tile)
        seen += (clear > 0).sum(axis=(1, 2))
        pixels += tile.grid.width * tile.grid.height
    return tuple(round(float(share), 4) for share in seen / pixels)


def clearest(period: Period, sky: Sequence[float], season: Sequence[int], south: bool) -> int | None:
    """Index of the clearest month of a season (calendar months 1..12 in the north), or None if it shows too little."""
    wanted = {(month + 5) % 12 + 1 if south else month for month in season}
    found = [i for i, month in enumerate(period.calendar_months) if month + 1 in wanted and sky[i] >= LEAST_SEEN]
    return max(found, key=lambda i: (sky[i], -i), default=None)


def stretched(dn: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """(3, y, x) 1..255 of (3, y, x) DNs of red, green and blue; 0 where a band is 0. The same for every place."""
    light = np.clip((dn.astype(np.float32) - DARK) / (BRIGHT - DARK), 0, 1) ** np.float32(1 / GAMMA)
    return np.where((dn == 0).any(axis=0), 0, np.maximum(np.round(255 * light), 1)).astype(np.uint8)


def colour(dn: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """(y, x, 3) bytes of (3, y, x) DNs of red, green and blue; NO_DATA where a band is 0."""
    return _on_paper(stretched(dn))


def _on_paper(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(y, x, 3) of (3, y, x), with NO_DATA where there is none."""
    made = rgb.transpose(1, 2, 0).copy()
    made[(rgb == 0).all(axis=0)] = NO_DATA
    return made


def ndvi_codes(red: NDArray[np.uint16], nir: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """NDVI = (nir - red) / (nir + red) (Rouse et al. 1974), 0.01 a step from -0.25 on; 255 where a band is 0."""
    r, n = red.astype(np.float32), nir.astype(np.float32)
    ndvi = (n - r) / np.maximum(n + r, 1)
    codes = np.clip(np.round((ndvi + 0.25) * 100), 0, 254)
    return np.where((red > 0) & (nir > 0), codes, 255).astype(np.uint8)


def _picture(kept: Store, tiles: Sequence[Tile], zone: Zone, month: int) -> Picture:
    made = np.empty((zone.height, zone.width, 3), np.uint8)
    made[:] = NO_DATA
    bands = [BANDS.index(band) for band in COLOURS]
    for tile, source, target in _parts(tiles, zone, 1):
        dn = kept.read("composite", tile.grid, tile, (month, slice(max(bands) + 1)))
        made[target] = colour(dn[(bands, *source)])
    return _as_picture(made, zone.epsg, kept.period.month_names[month])


def _as_picture(rgb: NDArray[np.uint8], epsg: int, month: str) -> Picture:
    """A picture of (y, x, 3) bytes in true colour."""
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=QUALITY)
    return Picture(f"true_colour_{month.replace('-', '_')}", "True colour", month, epsg, file.getvalue())


def of_map(m: MapFile, zone: Zone, month: str) -> Picture:
    """The picture of a finished map in true colour, by the middle pixel of every block of the page's pixels."""
    with rasterio.open(m.path.absolute(), driver="GTiff") as source:
        rgb = source.read(out_shape=(3, zone.height, zone.width), resampling=Resampling.nearest)
    return _as_picture(_on_paper(rgb), zone.epsg, month)


def _curves(kept: Store, tiles: Sequence[Tile], zone: Zone) -> Curves:
    step = curve_step(zone, kept.period.months)
    shape = (kept.period.months, math.ceil(zone.height / step), math.ceil(zone.width / step))
    codes = np.full(shape, 255, np.uint8)
    for tile, source, target in _parts(tiles, zone, step):
        every = slice(None)  # months
        red, nir = (kept.read("composite", tile.grid, tile, (every, band))[(every, *source)] for band in (RED, NIR))
        codes[(every, *target)] = ndvi_codes(red, nir)
    return Curves(zone.epsg, step, codes)


def curve_step(zone: Zone, months: int) -> int:
    """The page's pixels per side of one curve: the least that keeps a zone's curves to MOST_CODES values."""
    return max(1, math.ceil(math.sqrt(months * zone.width * zone.height / MOST_CODES)))


def _parts(
    tiles: Sequence[Tile], zone: Zone, step: int
) -> Iterator[tuple[Tile, tuple[slice, slice], tuple[slice, slice]]]:
    """For each tile, which of its pixels are shown, and where: the middle one of every block of the page's pixels."""
    every = step * zone.reduced
    whole = Grid(zone.epsg, zone.west, zone.north, zone.width * zone.reduced, zone.height * zone.reduced, zone.pixel)
    for tile in tiles:
        corner = tile.grid.offset_in(whole)
        sides = [_every(first, length, every) for first, length in zip(corner, tile.grid.shape, strict=True)]
        yield tile, (sides[0][0], sides[1][0]), (sides[0][1], sides[1][1])


def _every(first: int, length: int, every: int) -> tuple[slice, slice]:
    """Along one axis, of a tile that begins at `first` of the zone: its middle pixels of blocks, and those blocks."""
    start = (every // 2 - first) % every
    count = len(range(start, length, every))
    block = (first + start) // every
    return slice(start, None, every), slice(block, block + count)
