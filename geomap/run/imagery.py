"""True colour and monthly greenness (NDVI) as maps of a run, made with its tiles from their composites.

A tile keeps the months that may be shown in true colour. Which is shown is decided once all tiles are there, by what
was seen in all of them, so that tiles show the same month however often the run was stopped: the summer month in which
the most pixels were seen, or that of all months if summer shows less than half as many. The stretch is the same for
every tile, so no seams show. Months without a clear observation are nodata.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from geomap.run.directory import RunDirectory
from geomap.run.keys import CLEAREST
from geomap.run.pictures import BRIGHT, COLOURS, DARK, GAMMA, NIR, RED, stretched
from geomap.run.request import Request
from geomap.sentinel2 import BANDS
from geomap.types import Composite, Layers, Period, Tile
from geomap.write.layer import Layer

log = logging.getLogger(__name__)

TRUE_COLOUR: Final = "true_colour"
NDVI: Final = "ndvi"
SUMMER: Final = (6, 7, 8)
"""Calendar months of summer in the north; in the south, six months later."""
MONTH: Final = "GEOMAP_MONTH"
"""Metadata of a map in true colour: its month."""
STRETCH: Final = f"1..255 = 255 * ((DN - {DARK}) / {BRIGHT - DARK}) ** (1 / {GAMMA}), of bands B04, B03, B02; 0 nodata"
_MOST: Final = 10_000
"""NDVI of 1 as it is stored."""


def imagery_layers(asked: Request, place: str) -> tuple[Layer, ...]:
    """The maps that a request asks for; the months that they show are not yet chosen."""
    names = asked.period.month_names
    made = []
    if asked.true_colour:
        tags = (("GEOMAP_STRETCH", STRETCH),)
        made.append(Layer(TRUE_COLOUR, "True colour", "colour", bands=("red", "green", "blue"), place=place, tags=tags))
    if asked.ndvi:
        made.append(Layer(NDVI, "NDVI by month", "ndvi", bands=names, place=place))
    return tuple(made)


def summer(period: Period, tiles: Sequence[Tile]) -> tuple[int, ...]:
    """Indices of the summer months of a period where the tiles lie; of all its months if it has none."""
    south = tiles[0].grid.epsg >= 32700
    wanted = {(month + 5) % 12 + 1 if south else month for month in SUMMER}
    found = tuple(i for i, (_, month) in enumerate(period.year_months) if month in wanted)
    return found or tuple(range(period.months))


def candidates(asked: Request) -> tuple[int, ...]:
    """Indices of the months of which one is shown in true colour: all, as a summer may turn out to be clouded."""
    if asked.true_colour == CLEAREST:
        return tuple(range(asked.period.months))
    return (asked.period.month_names.index(str(asked.true_colour)),)


def of_tile(asked: Request, made: Composite, inside: NDArray[np.bool_]) -> Layers:
    """The layers of a tile: (3 x months, y, x) true colour of every candidate, (month, y, x) NDVI.

    Args:
        asked: the request.
        made: the tile's composite.
        inside: (y, x) pixels of the area.
    """
    layers: dict[str, NDArray[Any]] = {}
    if asked.true_colour:
        bands = [BANDS.index(band) for band in COLOURS]
        shown = [stretched(made.month(month)[bands]) for month in candidates(asked)]
        layers[TRUE_COLOUR] = np.where(inside, np.concatenate(shown), np.uint8(0))
    if asked.ndvi:
        layers[NDVI] = np.stack(
            [ndvi_np(month[RED], month[NIR]) for month in map(made.month, range(asked.period.months))]
        )
        layers[NDVI][:, ~inside] = Layer(NDVI, "", "ndvi").nodata
    return layers


def ndvi_np(red: NDArray[np.uint16], nir: NDArray[np.uint16]) -> NDArray[np.int16]:
    """NDVI = (nir - red) / (nir + red) (Rouse et al. 1974) x 10,000 of DNs; -32768 where a band is 0."""
    r, n = red.astype(np.float64), nir.astype(np.float64)
    ndvi = np.round(_MOST * (n - r) / np.maximum(n + r, 1))
    return np.where((red > 0) & (nir > 0), ndvi, Layer(NDVI, "", "ndvi").nodata).astype(np.int16)


def resolved(
    layers: Sequence[Layer], asked: Request, all_tiles: Sequence[Tile], run: RunDirectory, ready: Sequence[Tile]
) -> tuple[tuple[Layer, ...], Mapping[str, Callable[[Tile], NDArray[Any]]]]:
    """The layers with the months that they show, and how tiles in true colour are taken from those that the run keeps.

    Args:
        layers: those of the run.
        asked: the request.
        all_tiles: all tiles of the run.
        run: holds the finished tiles.
        ready: these.
    """
    known = {layer.stem: layer for layer in layers}
    views: dict[str, Callable[[Tile], NDArray[Any]]] = {}
    if asked.true_colour:
        among = candidates(asked)
        seen = _seen(len(among), (run.load(tile, TRUE_COLOUR)[::3] > 0 for tile in ready))
        index = clearest(seen, summer(asked.period, all_tiles)) if len(among) > 1 else 0
        month, plain = asked.period.month_names[among[index]], known[TRUE_COLOUR]
        if not seen[index]:
            log.warning("true colour shows nothing: no pixel was seen clear in %s", month)
        known[TRUE_COLOUR] = replace(plain, description=f"True colour, {month}", tags=(*plain.tags, (MONTH, month)))
        views[TRUE_COLOUR] = partial(_shown, run, index)
    if asked.ndvi:
        seen = _seen(asked.period.months, (run.load(tile, NDVI) != known[NDVI].nodata for tile in ready))
        known[NDVI] = replace(known[NDVI], band=clearest(seen, summer(asked.period, all_tiles)) + 1)
        if not seen.any():
            log.warning("NDVI shows nothing: no pixel was seen clear in any month")
    return tuple(known.values()), views


def clearest(seen: NDArray[np.int64], warm: Sequence[int]) -> int:
    """Index of the month to show: that of summer in which the most pixels were seen, of equal ones the first.

    If summer is clouded, so that its best month shows less than half as many as the best of all, this one.

    Args:
        seen: (months,) pixels that were seen.
        warm: indices of the months of summer.
    """
    best = max(warm, key=lambda month: seen[month])
    return best if 2 * seen[best] >= seen.max() else int(seen.argmax())


def _seen(months: int, tiles: Iterable[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """(months,) pixels that were seen, of tiles (month, y, x)."""
    seen = np.zeros(months, np.int64)
    for tile in tiles:
        seen += tile.sum(axis=(1, 2))
    return seen


def _shown(run: RunDirectory, index: int, tile: Tile) -> NDArray[Any]:
    """(3, y, x) of a tile in one of its months."""
    return run.load(tile, TRUE_COLOUR)[3 * index : 3 * index + 3]


def month_of(layer: Layer) -> str:
    """The month of a map in true colour, as 2023-07."""
    return dict(layer.tags).get(MONTH, "")
