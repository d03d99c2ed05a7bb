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
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from geomap import catalog, files, grid, guard, stacitem, write
from geomap.run import ledger
from geomap.run.request import Job, Request, described, prepare, space_needed
from geomap.run.state import State, open_state
from geomap.run.tiles import composites, label_tile, over
from geomap.sentinel2 import BANDS_10M, BANDS_20M
from geomap.style import Layer, Statistics
from geomap.types import Scene, Tile

__all__ = ["Estimate", "Progress", "Request", "Result", "map_area"]

log = logging.getLogger(__name__)

PIXELS_PER_KM2 = 10_000

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total); stages are "search", "composite" (tiles), "encode" (pixels) and "write" (maps)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, known before it reads a pixel."""

    tiles: int
    scenes: int
    months: int  # with at least one scene
    pixels: int  # inside the area, about
    read_bytes: int  # decoded; compressed files are about half
    encode_seconds: float


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
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage; composite overlaps encode


def map_area(
    request: Request,
    out: Path,
    progress: Progress = lambda stage, done, total: None,
    on_estimate: Callable[[Estimate], None] = lambda estimate: None,
) -> Result:
    """Map an area into `out`: COGs, styles, STAC items, run.json and SHA256SUMS.

    The directory appears only once scenes are found. An unfinished run of the same request is resumed; a finished one
    is left as it is.

    Raises:
        InputError: the request cannot be met (its subclasses say why).
        TemporaryError: the catalogue, the pixels' server or the disk; run again later.
        ReadError: a file of a scene is missing or damaged.
    """
    job = prepare(request)
    asked = described(job)
    state = open_state(out, asked)
    found = _search(request, progress) if state.scenes is None else None
    with state.lock():
        state = open_state(out, asked)  # another run may have come and gone during the search
        files.clean_temporary(out)
        if state.complete:
            damaged = files.damaged_maps(out)
            if not damaged:
                state.finish(asked)
                return _finished(job, state)
            log.warning("%s: %s; mapping again", out, ", ".join(damaged))
            (out / files.SUMS).unlink()
        if not state.scenes:
            files.require_space(out, space_needed(job))
            found = found or _search(request, progress)  # again, for a finished run whose maps are damaged
            state = state.begin(asked, found.scenes, found.left_out)
        seconds: dict[str, float] = {}
        pending = [tile for tile in job.tiles if not state.has(tile, [layer.stem for layer in job.layers])]
        on_estimate(estimate(job, state.scenes or (), pending))
        _map_tiles(job, state, pending, progress, seconds)
        result = _assemble(job, state, asked, progress, seconds)
        state.finish(asked)
        return replace(result, resumed=len(job.tiles) - len(pending), seconds=seconds)


def _search(request: Request, progress: Progress) -> catalog.Found:
    progress("search", 0, 1)
    found = catalog.find(
        request.area.geometry,
        request.period,
        request.stac,
        collection=request.collection,
        max_cloud=request.max_cloud,
        offset_policy=request.offset,
        allow_hosts=request.allow_hosts,
    )
    progress("search", 1, 1)
    return found


def estimate(job: Job, scenes: Sequence[Scene], pending: Sequence[Tile]) -> Estimate:
    """What the pending tiles will take; their pixels from the area's size, the speed from a short trial."""
    share = len(pending) / len(job.tiles)
    pixels = round(share * job.request.area.square_km * PIXELS_PER_KM2)
    per_scene = 2 * len(BANDS_10M) + (2 * len(BANDS_20M) + 1) / 4  # bytes for each 10 m pixel, SCL included
    seen = sum(len(over(scenes, tile.grid)) * tile.grid.width * tile.grid.height for tile in pending)
    months = len({job.request.period.step(s.time) for s in scenes})
    speed = job.engine.pixels_per_second(job.request.period.months) if pending else 1.0
    return Estimate(len(pending), len(scenes), months, pixels, int(seen * per_scene), pixels / speed)


def _map_tiles(job: Job, state: State, pending: Sequence[Tile], progress: Progress, seconds: dict[str, float]) -> None:
    """Composite, encode and label each tile, and keep its layers."""
    total = sum(tile.grid.width * tile.grid.height for tile in pending)
    done = 0
    dark = guard.total(state.load_dark(tile) for tile in job.tiles if tile not in pending)
    progress("composite", 0, len(pending))
    for number, (tile, inside, made) in enumerate(composites(job, state.scenes or (), pending, seconds), start=1):
        progress("composite", number, len(pending))
        dark = guard.total([dark, made.dark])
        guard.check(state.scenes or (), dark)
        start = time.perf_counter()
        layers = label_tile(job, made, inside, _shifted(progress, done, total))
        seconds["encode"] = seconds.get("encode", 0.0) + time.perf_counter() - start
        state.save(tile, layers, made.dark)
        del made, layers  # the next but one is being read already
        done += tile.grid.width * tile.grid.height
        progress("encode", done, total)


def _shifted(progress: Progress, base: int, total: int) -> Callable[[int], None]:
    return lambda n: progress("encode", base + n, total)


def _assemble(
    job: Job, state: State, asked: Mapping[str, Any], progress: Progress, seconds: dict[str, float]
) -> Result:
    """Tiles -> one COG per layer and zone and their metadata, all in staging; then everything moves into place."""
    start = time.perf_counter()
    staging = state.staging()
    zones = sorted({tile.grid.epsg for tile in job.tiles})
    statistics: dict[str, list[Statistics]] = {layer.stem: [] for layer in job.layers}
    maps: list[stacitem.MapFile] = []
    for epsg in zones:
        members = [tile for tile in job.tiles if tile.grid.epsg == epsg]
        whole = grid.mosaic_grid(tuple(tile.grid for tile in members))
        for layer in job.layers:
            path = map_path(staging, layer, epsg, zones)
            pixels = ((tile.grid, state.load(tile, layer.stem)) for tile in members)
            statistics[layer.stem].append(write.write_map(path, layer, whole, pixels, _tags(job)))
            maps.append(stacitem.MapFile(path, layer, whole))
            progress("write", len(maps), len(zones) * len(job.layers))
    merged = {stem: ledger.merge(parts) for stem, parts in statistics.items()}
    scenes = state.scenes or ()
    dark = guard.total(state.load_dark(tile) for tile in job.tiles)
    for doubt in guard.check(scenes, dark).values():
        log.warning("the offset is doubtful: %s", doubt)
    offsets = ledger.offset_groups(ledger.described(scenes, dark))
    stacitem.write_stac(
        staging,
        maps,
        job.request.period,
        software=ledger.software(),
        lineage="Monthly median composites of Sentinel-2 L2A, encoded per pixel and compared with text embeddings.",
        provenance={
            "weights": job.weights.card.name,
            "weights_sha256": job.weights.digest,
            "scenes": len(scenes),
            "offsets": [asdict(group) for group in offsets],
        },
    )
    ledger.write(staging, asked, [tile.name for tile in job.tiles], scenes, state.left_out, dark, merged)
    files.write_sums(staging)
    files.publish(staging, state.directory)
    seconds["write"] = time.perf_counter() - start
    paths = tuple(state.directory / m.path.name for m in maps)
    return Result(state.directory, merged, job.layers, paths, scenes, 0, len(job.tiles))


def map_path(directory: Path, layer: Layer, epsg: int, zones: Sequence[int]) -> Path:
    """Where a map lies: `<stem>.tif`, or `<stem>_<epsg>.tif` where the area spans zones."""
    return directory / (f"{layer.stem}.tif" if len(zones) == 1 else f"{layer.stem}_{epsg}.tif")


def _tags(job: Job) -> dict[str, str]:
    """TIFF metadata: nothing that differs between two runs of one request."""
    return {
        "TIFFTAG_SOFTWARE": f"geomap {version('geomap')}",
        "TIFFTAG_DATETIME": job.request.period.end.strftime("%Y:%m:%d %H:%M:%S"),
        "TIFFTAG_COPYRIGHT": "Contains modified Copernicus Sentinel data",
        "GEOMAP_PERIOD": str(job.request.period),
        "GEOMAP_WEIGHTS": f"{job.weights.card.name} {job.weights.digest}",
    }


def _finished(job: Job, state: State) -> Result:
    """The result of a run that was complete before."""
    zones = sorted({tile.grid.epsg for tile in job.tiles})
    paths = tuple(map_path(state.directory, layer, epsg, zones) for epsg in zones for layer in job.layers)
    statistics = ledger.read_statistics(state.directory)
    return Result(state.directory, statistics, job.layers, paths, (), len(job.tiles), len(job.tiles))
