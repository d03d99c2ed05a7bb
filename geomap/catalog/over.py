"""Scenes over a grid: which touch it, the zone they are composed in, and which granule of one pass comes first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from geomap import grid
from geomap.catalog.offset import parse_baseline
from geomap.sources.providers import PROVIDERS
from geomap.types import Grid, Scene


def over(scenes: Sequence[Scene], tile: Grid) -> list[Scene]:
    """Scenes whose box in degrees touches the tile's; boxes may cross the antimeridian (west > east)."""
    west, south, east, north = grid.lonlat_box(tile)
    found = []
    for scene in scenes:
        left, bottom, right, top = scene.bbox
        from_left, from_west = (west - left) % 360, (left - west) % 360  # degrees eastward
        if bottom <= north and top >= south and (from_left <= (right - left) % 360 or from_west <= (east - west) % 360):
            found.append(scene)
    return found


def made_in(near: Sequence[Scene], tile: Grid) -> int:
    """EPSG code of the zone in which a tile's composite is made: its own, unless all scenes lie in one other zone."""
    zones = {scene.epsg for scene in near}
    return zones.pop() if len(zones) == 1 else tile.epsg


def rank(scene: Scene, tile: Grid) -> tuple[Any, ...]:
    """Preference where granules of one pass overlap: newest processing, the tile's own zone, then PROVIDERS' order."""
    major, minor = parse_baseline(scene.baseline) or (0, 0)
    return -major, -minor, scene.epsg != tile.epsg, list(PROVIDERS).index(scene.provider), scene.time, scene.id
