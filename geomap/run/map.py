"""From a request to finished maps: the only package that knows several stages.

    search -> for each tile: composite -> encode -> label -> state on disk -> one COG per layer and zone -> published

Maps are made in the state directory and move to their place together, once all are whole, so a run that dies leaves no
map behind, only its finished tiles; the same call goes on from them to the same bytes. The next tile's composite is
read while the current tile is encoded; at most two tiles are in memory, so memory does not grow with the area.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from geomap import files
from geomap.catalog.over import over
from geomap.run import record, stores
from geomap.run.cluster import Cluster, Resources
from geomap.run.directory import Quarantined, State, open_state
from geomap.run.identity import fingerprints, identity_of
from geomap.run.prepare import PIXELS_PER_KM2, Job, disk_space, find_scenes, prepare
from geomap.run.publish import Maps, assemble, published
from geomap.run.request import Earlier, Request
from geomap.run.retries import map_tiles
from geomap.run.tiles import work
from geomap.run.update import changes, earlier, require, shared
from geomap.sentinel2 import BANDS_10M, BANDS_20M
from geomap.types import UPDATE, Progress, Scene, Tile
from geomap.write.layer import Layer, Statistics

__all__ = ["Earlier", "Estimate", "Progress", "Request", "Resources", "Result", "earlier", "map_area"]

log = logging.getLogger(__name__)

SOURCE: Final = frozenset({"stac"})
"""What may differ in a request that tries quarantined tiles again: an item file may have been mended."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, known before it reads a pixel."""

    tiles: int
    scenes: int
    months: int  # with at least one scene
    pixels: int  # inside the area, about
    read_bytes: int  # decoded; compressed files are about half
    encode_seconds: float | None  # None: on a cluster, whose speed is not known


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run."""

    directory: Path
    statistics: Mapping[str, Statistics]  # by layer stem, over all zones
    layers: tuple[Layer, ...]
    paths: tuple[Path, ...]  # of the maps
    scenes: tuple[Scene, ...]  # empty where an earlier run was complete
    resumed: int  # tiles that an earlier run had finished; all of them where it was complete
    tiles: int
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage, added over tiles; stages overlap
    quarantined: Mapping[str, str] = field(default_factory=dict)  # tiles that failed twice -> cause; nodata in the maps
    missed: int = 0  # scenes that some tile was made without, a file of theirs being missing or damaged
    update: record.Update | None = None  # what was taken over from an earlier run


def map_area(
    request: Request,
    out: Path,
    progress: Progress = lambda stage, done, total: None,
    on_estimate: Callable[[Estimate], None] = lambda estimate: None,
    *,
    resources: Resources = Resources(),  # noqa: B008
    refresh: bool = False,
    retry_quarantined: bool = False,
) -> Result:
    """Map an area into `out`: COGs, styles, STAC items, run.json and SHA256SUMS.

    The directory appears only once scenes are found. An unfinished run of the same request is resumed; a finished one
    is left as it is.

    Args:
        request: what decides the maps.
        out: their directory.
        progress: told of tiles, pixels and maps done.
        on_estimate: told what the run will take, before it reads a pixel.
        resources: who does the tiles; this process unless told otherwise.
        refresh: of a finished run, search again and make anew the tiles whose scenes (or weights, legends, version: all
            but the area) have changed; the tiles are kept for the next time.
        retry_quarantined: try again the tiles that failed twice; of a finished run, search again.

    Raises:
        InputError: the request cannot be met (its subclasses say why).
        TemporaryError: the catalogue, the pixels' server, the cluster or the disk; run again later.
        ReadError: no tile could be read; files of scenes are missing or damaged.
    """
    with Cluster(resources, request.device) as cluster:
        job = prepare(request, cluster.device)
        asked = identity_of(job)
        refreshed = frozenset(asked) - {"area", "bounds"} | {UPDATE}
        renew = refreshed if refresh else SOURCE if retry_quarantined else frozenset()
        again = refresh or retry_quarantined
        state = open_state(out, asked, renew)
        if again or not state.complete:
            require(job, asked)
        needed = state.scenes is None and (again or not state.complete)
        found = find_scenes(request, progress) if needed else None
        with state.lock():
            state = open_state(out, asked, renew)  # another run may have come and gone during the search
            files.clean_temporary(out)
            damaged = files.damaged_maps(out) if state.complete else ()
            if damaged:
                require(job, asked)
                log.warning("%s: %s; mapping again", out, ", ".join(damaged))
                (out / files.SUMS).unlink()
            if state.complete and not again:
                return _finished(job, state)
            state = stores.attach(job, asked, state)
            if state.scenes is None:
                files.require_space(out, disk_space(job))
                found = found or find_scenes(request, progress)
            scenes, left_out = (found.scenes, found.left_out) if found else (state.scenes or (), state.left_out)
            todo = _todo(job, state, scenes, retry_quarantined)
            if state.complete and not todo.tiles:
                return _finished(job, state)
            state = state.begin(asked, scenes, left_out, job.tiles, todo.prints)
            on_estimate(estimate(job, scenes, todo.tiles, cluster.device))
            execute = partial(cluster.work if cluster.device else work, job, scenes)
            done = map_tiles(job, state, todo.tiles, todo.prints, execute, progress)
            start = time.perf_counter()
            missing = {name: q.kind for name, q in done.quarantined.items()}
            maps = assemble(job.product, state, asked, missing, progress, changes(job, state))
            state.finish(asked, job.tiles, todo.prints, keep=refresh or bool(missing))
            seconds = {**done.seconds, "write": time.perf_counter() - start}
            return _result(job, state, maps, len(job.tiles) - len(todo.tiles), seconds, done.quarantined)


@dataclass(frozen=True, slots=True)
class _Todo:
    """Tiles that are not done, and the fingerprint of every tile by its name."""

    tiles: tuple[Tile, ...]
    prints: Mapping[str, str]


def _todo(job: Job, state: State, scenes: Sequence[Scene], retry: bool) -> _Todo:
    """The tiles that are not finished, nor in quarantine unless those are tried again."""
    prints = fingerprints(job, scenes)
    stems = [layer.stem for layer in job.layers]
    left = {} if retry else state.quarantined()
    tiles = (
        tile
        for tile in job.tiles
        if not (tile.name in left and left[tile.name].fingerprint == prints[tile.name])
        and not state.has(tile, stems, prints[tile.name])
    )
    return _Todo(tuple(tiles), prints)


def _result(
    job: Job, state: State, maps: Maps, resumed: int, seconds: Mapping[str, float], left: Mapping[str, Quarantined]
) -> Result:
    causes = {name: q.cause for name, q in left.items()}
    scenes = state.scenes or ()
    return Result(
        state.directory,
        maps.statistics,
        job.product.layers,
        maps.paths,
        scenes,
        resumed,
        len(job.tiles),
        seconds,
        causes,
        maps.missed,
        maps.update,
    )


def estimate(job: Job, scenes: Sequence[Scene], pending: Sequence[Tile], device: str | None = None) -> Estimate:
    """What the pending tiles will take; their pixels from the area's size, the speed from a short trial here."""
    share = len(pending) / len(job.tiles)
    pixels = round(share * job.request.area.square_km * PIXELS_PER_KM2)
    per_scene = 2 * len(BANDS_10M) + (2 * len(BANDS_20M) + 1) / 4  # bytes for each 10 m pixel, SCL included
    seen = sum(_to_read(job, scenes, tile) * tile.grid.width * tile.grid.height for tile in pending)
    months = len({job.request.period.step(s.time) for s in scenes})
    seconds = None
    if device is None:
        seconds = pixels / job.engine.pixels_per_second(job.request.period.months) if pending else 0.0
    return Estimate(len(pending), len(scenes), months, pixels, int(seen * per_scene), seconds)


def _to_read(job: Job, scenes: Sequence[Scene], tile: Tile) -> int:
    """Scenes over a tile that no earlier run saves reading."""
    near, period, update = over(scenes, tile.grid), job.request.period, job.request.update
    found = shared(update, tile, near, period) if update else None
    return sum(found is None or period.step(scene.time) not in found.steps for scene in near)


def _finished(job: Job, state: State) -> Result:
    """The result of a run that was complete before."""
    maps = published(job.product, state.directory)
    return _result(job, state, maps, len(job.tiles), {}, state.quarantined())
