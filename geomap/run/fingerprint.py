"""What decides a tile's content, as one number: a tile is done only where its file was made from the very same.

Into it goes the request but for how its scenes were searched (so area, period, weights, legends, masks, thresholds and
type of device), the class vectors, the versions of geomap and torch, and of every scene over the tile what is read of
it: where its files are, how they lie and what is added to their DNs. Queries of addresses are left out: tokens change,
pixels do not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from geomap import grid
from geomap.hrefs import redact
from geomap.run.request import UPDATE, Job, described
from geomap.types import Grid, Period, Scene

SEARCH: Final = frozenset({"stac", "collection", "max_cloud", "offset_policy", "bounds"})
"""Keys of a described request that decide which scenes there are, and nothing else."""


def fingerprints(job: Job, scenes: Sequence[Scene]) -> dict[str, str]:
    """By tile name, the sha256 (hexadecimal) of everything that decides the tile's content."""
    shared = _shared(job)
    of_scene = {scene.id: _scene(scene) for scene in scenes}
    return {
        tile.name: _digest(
            [shared, dataclasses.astuple(tile.grid), sorted(of_scene[s.id] for s in over(scenes, tile.grid))]
        )
        for tile in job.tiles
    }


def month_keys(near: Sequence[Scene], tile: Grid, period: Period) -> tuple[str, ...]:
    """For each month, the sha256 of what decides its medians but the mask: two equal ones mean equal pixels.

    `near` are all scenes over the tile.
    """
    place = [dataclasses.astuple(tile), made_in(near, tile)]
    months: list[list[str]] = [[] for _ in range(period.months)]
    for scene in near:
        if (step := period.step(scene.time)) is not None:
            months[step].append(_scene(scene))
    return tuple(_digest([place, sorted(scenes)]) for scenes in months)


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


def _shared(job: Job) -> Mapping[str, Any]:
    """What all tiles have in common."""
    asked = {key: value for key, value in described(job).items() if key not in SEARCH | {UPDATE}}
    return {"request": asked, "vectors": job.vectors, "torch": version("torch")}


def _scene(scene: Scene) -> str:
    """Of one scene: what decides its pixels, its month, and its rank among the granules of one pass."""
    assets = {band: (redact(a.href), a.offset, a.transform, a.shape) for band, a in sorted(scene.assets.items())}
    plain = dataclasses.replace(scene, assets={}, cloud_cover=None)
    return _digest([{**dataclasses.asdict(plain), "time": scene.time.isoformat()}, assets])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
