"""Scenes over a grid: which touch it, in which zone they are composed, which granule comes first."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from geomap import grid
from geomap.catalog.offset import parse_baseline
from geomap.lonlat import Box
from geomap.sentinel2 import BANDS_10M
from geomap.sources.providers import PROVIDERS
from geomap.types import Grid, Scene

_box = functools.lru_cache(maxsize=1 << 16)(Box)  # every tile asks for the box of every scene


def over(scenes: Sequence[Scene], tile: Grid) -> list[Scene]:
    """Scenes whose box in degrees touches the tile's."""
    box = grid.lonlat_box(tile)
    return [scene for scene in scenes if box.touches(_box(*scene.bbox))]


def made_in(near: Sequence[Scene], tile: Grid) -> int:
    """EPSG code of the zone of a tile's composite: the tile's own, unless all scenes lie in one other zone."""
    zones = {scene.epsg for scene in near}
    return zones.pop() if len(zones) == 1 else tile.epsg


def rank(scene: Scene, tile: Grid) -> tuple[Any, ...]:
    """Preference where granules of one pass overlap.

    Newest processing, the tile's own zone, the granule whose blocks are the tile's, then PROVIDERS' order.
    """
    major, minor = parse_baseline(scene.baseline) or (0, 0)
    apart = scene.epsg != tile.epsg, not _aligned(scene, tile)
    return -major, -minor, *apart, list(PROVIDERS).index(scene.provider), scene.time, scene.id


def _aligned(scene: Scene, tile: Grid) -> bool:
    """Whether the blocks of a scene's files, as its item states them, lie as the tiles of a tile's square do."""
    stated = scene.assets[BANDS_10M[0]].transform
    if stated is None:
        return False
    west, north = grid.corner(tile.epsg, tile.west, tile.north - 1)
    side = grid.TILE_PX * grid.RESOLUTION
    return (stated[2] - west) % side == 0 and (stated[5] - north) % side == 0
