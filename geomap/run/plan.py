"""An estimate of what a map would cost and how much clear sky it would find; nothing is written.

The catalogue is searched as for the map. For at most SAMPLE_SCENES scenes the scene classification (SCL) is read over
the area, from a file's overviews if the area is large; for other scenes the stated `eo:cloud_cover` is used.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from geomap import grid, pipeline, process
from geomap.catalog.over import over
from geomap.composite.mask import DEFAULT_MASK, Mask, clear_np
from geomap.encode import weights
from geomap.encode.engine import Engine
from geomap.errors import GeomapError
from geomap.lonlat import Box
from geomap.read import reader
from geomap.read.access import GDAL_OPTIONS, all_local, gdal_options, opened, threads
from geomap.run.prepare import PIXELS_PER_KM2, find_scenes, months_expected, read_bytes
from geomap.run.request import Request
from geomap.run.volume import volume
from geomap.sentinel2 import BANDS, SCL
from geomap.types import Blocks, Grid, Period, Scene, Tile

log = logging.getLogger(__name__)

SAMPLE_SCENES: Final = 60
"""Most scenes whose SCL is read, spread over the months."""

SAMPLE_PX: Final = 256
"""Most pixels per side that are read of each scene in a zone: gives the clear share to within a percent."""

TRIAL_SCENES: Final = 8
"""Most scenes that are read in full over one tile, to time it; each is eleven files, more than there are threads."""

TRIAL_DEADLINE: Final = 10
"""Seconds for which a server may refuse a file of the trial; after that, the time to read is not known."""

EMPTY_BELOW: Final = 0.5
"""Below this many clear observations per pixel and month, most pixels are expected to have none."""


@dataclass(frozen=True, slots=True)
class MonthPlan:
    """What one month is expected to hold. A pass is one overflight of one satellite; its granules count once."""

    year: int
    month: int  # 1..12
    scenes: int
    passes: int
    measured: int  # passes whose SCL was read
    clear: float | None  # mean clear share of the area in a pass, 0..1; None: no pass, or nothing known
    observations: float  # expected clear observations at a pixel; passes without information are not counted

    @property
    def empty(self) -> bool:
        """Whether most pixels are expected to have no clear observation."""
        return self.observations < EMPTY_BELOW and (self.passes == 0 or self.clear is not None)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a map would take."""

    months: tuple[MonthPlan, ...]
    scenes: int
    left_out: Mapping[str, int]  # items found but not used, by cause
    measured: int  # scenes whose SCL was read
    failed: int  # scenes whose SCL could not be read
    failure: str | None  # message of the first failure
    tiles: int
    pixels: int  # inside the area, approximate
    reads: int  # a read is one band of one scene over one tile
    requests: int | None  # HTTP requests; 0 if all files are local; None if no file could be read for a trial
    download_bytes: int | None  # bytes of files, compressed, as the trial has them; None: not known
    read_bytes: int  # decoded
    read_seconds: float | None  # at the speed of a trial: some scenes read over one tile; None if it failed
    encode_seconds: float


def plan_request(request: Request, progress: Callable[[str, int, int], None] = lambda stage, done, total: None) -> Plan:
    """Find the scenes of a request, sample some of them, and add up what the map would take.

    Legends and thresholds of the request do not matter. `progress` is a callback with (stage, done, total), for the
    stages "search" and "scenes".

    Raises:
        InputError: as for the map (the subclasses say why).
        CatalogUnavailableError: the catalogue does not answer. Pixels that cannot be read only count as failed.
    """
    encoder = weights.load_weights(request.weights).encoder
    engine = Engine(encoder, request.device)
    parts = grid.tiles(request.area)
    found = find_scenes(request, progress, encoder.cfg.margin)
    sky = _look(request, parts, found.scenes, progress)
    reads, size = _volume(parts, found.scenes, sky.used)
    trial = _trial(request, parts, [scene for scene in found.scenes if scene.id in sky.shown], progress)
    taken = volume(parts, found.scenes, sky.chance, trial.fetched) if trial and trial.fetched else None
    local = all_local(found.scenes)
    pixels = round(request.area.square_km * PIXELS_PER_KM2)
    return Plan(
        months=_months(request.period, found.scenes, sky),
        scenes=len(found.scenes),
        left_out=Counter(item.cause for item in found.left_out),
        measured=len(sky.measured),
        failed=len(sky.failures),
        failure=sky.failures[0] if sky.failures else None,
        tiles=len(parts),
        pixels=pixels,
        reads=round(reads),
        requests=0 if local else None if taken is None else round(taken.requests),
        download_bytes=None if taken is None else round(taken.size),
        read_bytes=round(size),
        read_seconds=None if trial is None else reads * trial.seconds,
        encode_seconds=pixels / engine.pixels_per_second(months_expected(request.period, found.scenes, sky.clear)),
    )


@dataclass(frozen=True, slots=True)
class _Sky:
    """How clear the passes are over the area."""

    clear: Mapping[str, float | None]  # acquisition -> clear share of the area, measured or stated
    looked: frozenset[str]  # acquisitions that were measured
    used: float  # share of measured scenes with a clear pixel; no band is read of the others
    shown: frozenset[str]  # ids of measured scenes with a clear pixel
    measured: frozenset[str]  # ids
    failures: tuple[str, ...]

    def chance(self, scene: Scene) -> float:
        """How likely a scene has a clear pixel."""
        return float(scene.id in self.shown) if scene.id in self.measured else self.used


def _look(
    request: Request, parts: Sequence[Tile], scenes: Sequence[Scene], progress: Callable[[str, int, int], None]
) -> _Sky:
    """Read the SCL of a sample of passes; take the others from their metadata."""
    places = tuple((where, grid.inside(request.area, where)) for where in sample_grids(parts))
    passes = _passes(scenes)
    chosen = [scene for name in choose(passes, SAMPLE_SCENES) for scene in passes[name]]
    masks, failures = {}, {}
    with ThreadPoolExecutor(threads(scenes), thread_name_prefix="plan") as pool:
        jobs = {scene.id: pool.submit(_seen, scene, places, request.mask) for scene in chosen}
        for done, (name, job) in enumerate(jobs.items(), start=1):
            try:
                masks[name] = process.result(job)
            except GeomapError as e:
                log.info("not measured: %s", e)
                failures[name] = str(e)
            progress("scenes", done, len(jobs))
    clear: dict[str, float | None] = {}
    for name, members in passes.items():
        if all(scene.id in masks for scene in members):
            union = np.logical_or.reduce([masks[scene.id] for scene in members])
            clear[name] = float(union.sum() / max(1, union.size))
    looked = frozenset(clear)
    lon, lat = (np.concatenate(v) for v in zip(*(_lonlat(*place) for place in places), strict=True))
    for name in passes.keys() - looked:
        clear[name] = stated_clear(passes[name], lon, lat)
    shown = frozenset(name for name, mask in masks.items() if mask.any())
    return _Sky(
        clear,
        looked,
        used=len(shown) / len(masks) if masks else 1.0,
        shown=shown,
        measured=frozenset(masks),
        failures=tuple(failures.values()),
    )


@dataclass(frozen=True, slots=True)
class _Trial:
    """Some scenes read over one tile."""

    seconds: float  # per read
    fetched: Mapping[str, Blocks]  # by kind of file


def _trial(
    request: Request, parts: Sequence[Tile], scenes: Sequence[Scene], progress: Callable[[str, int, int], None]
) -> _Trial | None:
    """Some scenes read and composed as the map will, over the tile with most of them.

    None if there is no such scene, or they cannot be read.
    """
    over_tile = {tile.name: over(scenes, tile.grid) for tile in parts}
    tile = max(parts, key=lambda part: len(over_tile[part.name]) * part.grid.width * part.grid.height)
    passes = _passes(over_tile[tile.name])
    if not passes:
        return None
    chosen = [scene for name in choose(passes, TRIAL_SCENES) for scene in passes[name]]
    progress("trial", 0, 1)
    start = time.perf_counter()
    try:
        made = pipeline.compose(chosen, tile.grid, request.period, request.mask, deadline=TRIAL_DEADLINE)
    except GeomapError as e:
        log.info("no trial: %s", e)
        return None
    progress("trial", 1, 1)
    seconds = time.perf_counter() - start
    bands = sum(gave == "clear" for gave in made.gave.values()) * len(BANDS)
    return _Trial(seconds / (len(chosen) + bands), made.fetched)


def sample_grids(parts: Sequence[Tile]) -> tuple[Grid, ...]:
    """Coarse grids, one over each zone's tiles, all with one pixel size (a multiple of 20 m): places weigh the same."""
    zones = sorted({tile.grid.epsg for tile in parts})
    whole = [grid.mosaic_grid(tuple(t.grid for t in parts if t.grid.epsg == epsg)).at(20) for epsg in zones]
    step = -(-max(max(g.shape) for g in whole) // SAMPLE_PX)
    return tuple(
        replace(g, width=-(-g.width // step), height=-(-g.height // step), resolution=20 * step) for g in whole
    )


def _seen(scene: Scene, places: Sequence[tuple[Grid, NDArray[np.bool_]]], mask: Mask) -> NDArray[np.bool_]:
    """(N,) True where the scene is clear, for the pixels inside each grid in turn. Raises as clear_sky."""
    seen = (
        clear_sky(scene, where, mask)[inside] if over([scene], where) else np.zeros(int(inside.sum()), bool)
        for where, inside in places
    )
    return np.concatenate(list(seen))


def choose(passes: Mapping[str, Sequence[Scene]], limit: int) -> list[str]:
    """Passes of at most `limit` scenes together (at least one), spread evenly over the months; deterministic."""
    months: dict[tuple[int, int], list[str]] = {}
    for name, members in passes.items():
        months.setdefault((members[0].time.year, members[0].time.month), []).append(name)
    rng = np.random.default_rng(0)
    decks = [[deck[i] for i in rng.permutation(len(deck))] for deck in months.values()]
    drawn = [deck[turn] for turn in range(max(map(len, decks))) for deck in decks if turn < len(deck)]
    total = np.cumsum([len(passes[name]) for name in drawn])
    return drawn[: max(1, int(np.searchsorted(total, limit, side="right")))]


def clear_sky(scene: Scene, where: Grid, mask: Mask = DEFAULT_MASK) -> NDArray[np.bool_]:
    """(y, x) True where the scene is clear, from the nearest pixels of the file or its overviews; False outside it.

    The mask's opening and dilation are rounded to pixels of `where`.

    Raises:
        ReadError, SourceUnavailableError: it cannot be read; the read is retried only once.
    """
    href = scene.assets[SCL].href
    step = where.resolution // 20
    fine = replace(where, width=where.width * step, height=where.height * step, resolution=20)
    options: dict[str, Any] = {**GDAL_OPTIONS, **gdal_options([scene]), "GDAL_HTTP_MAX_RETRY": 1}
    lies = {"crs": f"EPSG:{fine.epsg}", "transform": rasterio.Affine(*fine.transform)}
    size = {"width": fine.width, "height": fine.height}
    try:
        with (
            rasterio.Env(**options),
            opened(href, href, overviews=True) as source,
            WarpedVRT(source, src_nodata=0, nodata=0, resampling=Resampling.nearest, **lies, **size) as warped,
        ):
            classes = warped.read(1, out_shape=where.shape, resampling=Resampling.nearest)
    except (GeomapError, MemoryError):
        raise
    except Exception as e:  # rasterio passes on errors of GDAL that share no other base
        raise reader.read_error(e, href) from None
    opening, dilation = (round(px * 20 / where.resolution) for px in (mask.opening, mask.dilation))
    return clear_np(classes.astype(np.uint8), Mask(mask.classes, opening, dilation))


def stated_clear(members: Sequence[Scene], lon: NDArray[np.float64], lat: NDArray[np.float64]) -> float | None:
    """Share of places that a pass sees clear, by its scenes' boxes and `eo:cloud_cover`; None if one states none."""
    best = np.zeros(len(lon))
    for scene in members:
        if scene.cloud_cover is None:
            return None
        best = np.maximum(best, Box(*scene.bbox).holds(lon, lat) * (1 - scene.cloud_cover / 100))
    return float(best.mean()) if len(best) else 0.0


def _months(period: Period, scenes: Sequence[Scene], sky: _Sky) -> tuple[MonthPlan, ...]:
    months = []
    for step, (year, month) in enumerate(period.year_months):
        members = [scene for scene in scenes if period.step(scene.time) == step]
        names = sorted({scene.acquisition for scene in members})
        known = [share for name in names if (share := sky.clear[name]) is not None]
        months.append(
            MonthPlan(
                year,
                month,
                scenes=len(members),
                passes=len(names),
                measured=len(sky.looked.intersection(names)),
                clear=sum(known) / len(known) if known else None,
                observations=sum(known),
            )
        )
    return tuple(months)


def _volume(parts: Sequence[Tile], scenes: Sequence[Scene], used: float) -> tuple[float, float]:
    """(reads, decoded bytes): SCL of every scene over each tile, and the bands of the fraction `used`."""
    reads = size = 0.0
    for tile in parts:
        near = len(over(scenes, tile.grid))
        reads += near * (1 + used * len(BANDS))
        size += read_bytes(tile.grid, near, used)
    return reads, size


def _passes(scenes: Sequence[Scene]) -> dict[str, list[Scene]]:
    passes: dict[str, list[Scene]] = {}
    for scene in scenes:
        passes.setdefault(scene.acquisition, []).append(scene)
    return passes


def _lonlat(where: Grid, inside: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitude and latitude of the centres of the pixels inside the area."""
    rows, cols = np.nonzero(inside)
    x, y = where.west + (cols + 0.5) * where.resolution, where.north - (rows + 0.5) * where.resolution
    lon, lat = Transformer.from_crs(where.epsg, 4326, always_xy=True).transform(x, y)
    return np.asarray(lon), np.asarray(lat)
