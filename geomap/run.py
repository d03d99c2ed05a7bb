"""From a request to finished maps: the only module that knows several stages.

    search -> for each tile: composite -> encode -> label -> state on disk -> one COG per layer and zone -> metadata

The next tile's composite is read while the current tile is encoded; at most two tiles are in memory, so memory does
not grow with the area. A run that dies keeps its finished tiles; the same call goes on from them to the same bytes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomap import catalog, composite, encode, files, grid, label, ledger, read, stacitem, text, weights, write
from geomap import legend as legends
from geomap.errors import InputError, LegendError
from geomap.label import Question
from geomap.legend import Legend
from geomap.offset import OffsetPolicy
from geomap.providers import PROVIDERS
from geomap.sentinel2 import BANDS, BANDS_10M, BANDS_20M
from geomap.state import Layers, State, open_state
from geomap.style import Layer, Statistics
from geomap.types import Composite, Grid, Period, Scene, Stack, Tile

log = logging.getLogger(__name__)

CLEAR_MONTHS = "clear_months"
NOT_MAPPED = 255
"""Nodata of confidence and of clear months."""
REMOTE_THREADS = 16
"""Reads in flight over a network, where waiting, not decoding, takes the time."""

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total); stages are "search", "composite", "encode" (pixels) and "write"."""


@dataclass(frozen=True, slots=True)
class Request:
    """What decides the content of the maps."""

    area: grid.Area
    period: Period
    stac: str  # preset, URL or item file
    legends: tuple[Legend, ...]
    weights: str = "default"
    collection: str | None = None
    max_cloud: float = 100  # percent of a scene
    offset: OffsetPolicy = "auto"
    allow_hosts: tuple[str, ...] = ()
    min_clear_months: int = 3
    min_confidence: float = 0.0  # 0..1
    within: tuple[str, str] | None = None  # (legend, class): the other maps cover this class alone
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, known before it reads a pixel."""

    tiles: int
    scenes: int
    months: int  # with at least one scene
    pixels: int  # inside the area
    read_bytes: int  # decoded; compressed files are about half
    encode_seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run."""

    directory: Path
    statistics: Mapping[str, Statistics]  # by layer stem, over all zones
    layers: tuple[Layer, ...]
    paths: tuple[Path, ...]  # of the maps
    scenes: tuple[Scene, ...]
    resumed: int  # tiles that an earlier run had finished
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage; composite overlaps encode


@dataclass(frozen=True, slots=True)
class _Job:
    """A request made ready: everything that the tiles share."""

    request: Request
    tiles: tuple[Tile, ...]
    engine: encode.Engine
    questions: tuple[Question, ...]
    layers: tuple[Layer, ...]
    weights: weights.Weights


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
    job = _prepare(request)
    state = open_state(out, _described(job))
    if state.scenes is None:
        progress("search", 0, 1)
        state = replace(state, scenes=_search(request))
        progress("search", 1, 1)
        new = True
    else:
        new = False
    scenes = state.scenes or ()
    with state.lock():
        files.clean_temporary(out)
        if new:
            files.require_space(out, _space(job))
            state = state.begin(_described(job), scenes)
        if state.complete and not files.verify(out):
            log.info("%s is complete", out)
            return _finished(job, state)
        (out / files.SUMS).unlink(missing_ok=True)
        seconds: dict[str, float] = {}
        pending = [tile for tile in job.tiles if not state.has(tile, [layer.stem for layer in job.layers])]
        on_estimate(_estimate(job, scenes, pending))
        _map_tiles(job, state, pending, progress, seconds)
        result = _assemble(job, state, progress, seconds)
        state.drop_tiles()
        return replace(result, resumed=len(job.tiles) - len(pending), seconds=seconds)


# --- before the first pixel


def _prepare(request: Request) -> _Job:
    """Check the request against weights, legends and device; find the tiles."""
    if not request.legends:
        raise InputError("nothing to map; give --legend or --classes")
    if not 1 <= request.min_clear_months <= request.period.months:
        raise InputError(f"--min-clear-months must be 1..{request.period.months}, the months of the period")
    asked = _with_base(request)
    names = [legend.name for legend in asked]
    if len(set(names)) < len(names):
        raise LegendError(f"two legends are called {max(names, key=names.count)!r}; each needs its own name")
    loaded = weights.load(request.weights)
    engine = encode.Engine(loaded.encoder, request.device)
    questions = tuple(_question(legend, loaded, request, engine) for legend in asked)
    tiles = grid.tiles(request.area)
    return _Job(request, tiles, engine, questions, _layers(asked, request), loaded)


def _with_base(request: Request) -> tuple[Legend, ...]:
    """The legends to ask, with that of `within` added where it was not asked for."""
    if request.within is None:
        return request.legends
    name, class_name = request.within
    by_name = {legend.name: legend for legend in request.legends}
    base = by_name.get(name) or legends.load(name)
    base.id_of(class_name)  # raises LegendError where there is no such class
    return request.legends if name in by_name else (base, *request.legends)


def _question(legend: Legend, loaded: weights.Weights, request: Request, engine: encode.Engine) -> Question:
    stored = loaded.class_vectors.get(legend.digest)
    vectors = text.cached_class_vectors(legend, loaded.card.text_space) if stored is None else stored
    return Question(legend, vectors.to(engine.device), loaded.card.logit_scale, request.min_confidence)


def _layers(asked: Sequence[Legend], request: Request) -> tuple[Layer, ...]:
    layers = []
    for legend in asked:
        if legend.kind == "score":
            layers.append(Layer(legend.name, legend.title, "score", legend))
            continue
        layers.append(Layer(legend.name, legend.title, "classes", legend, unclassified=request.min_confidence > 0))
        layers.append(Layer(f"{legend.name}_confidence", f"{legend.title}: confidence, percent", "percent"))
    return (*layers, Layer(CLEAR_MONTHS, "Months with a clear observation", "count"))


def _search(request: Request) -> tuple[Scene, ...]:
    return catalog.search(
        request.area.geometry,
        request.period,
        request.stac,
        collection=request.collection,
        max_cloud=request.max_cloud,
        offset_policy=request.offset,
        allow_hosts=request.allow_hosts,
    )


def _described(job: _Job) -> dict[str, Any]:
    """The request as JSON: what decides the maps' content, nothing of the machine."""
    r = job.request
    return {
        "geomap": version("geomap"),
        "area": hashlib.sha256(r.area.geometry.wkb).hexdigest(),
        "bounds": [round(v, 6) for v in r.area.geometry.bounds],
        "period": str(r.period),
        "stac": r.stac,
        "collection": r.collection,
        "max_cloud": r.max_cloud,
        "offset_policy": r.offset,
        "legends": {q.legend.name: q.legend.digest for q in job.questions},
        "weights": {"name": job.weights.card.name, "sha256": job.weights.digest},
        "min_clear_months": r.min_clear_months,
        "min_confidence": r.min_confidence,
        "within": "=".join(r.within) if r.within else None,
        "device": job.engine.device.type,
    }


def _estimate(job: _Job, scenes: Sequence[Scene], pending: Sequence[Tile]) -> Estimate:
    pixels = sum(int(grid.inside(job.request.area, tile.grid).sum()) for tile in pending)
    per_scene = 2 * len(BANDS_10M) + (2 * len(BANDS_20M) + 1) / 4  # bytes for each 10 m pixel, SCL included
    seen = sum(len(_over(scenes, tile)) * tile.grid.width * tile.grid.height for tile in pending)
    months = len({job.request.period.step(s.time) for s in scenes})
    speed = job.engine.pixels_per_second(job.request.period.months) if pending else 1.0
    return Estimate(len(pending), len(scenes), months, pixels, int(seen * per_scene), pixels / speed)


def _space(job: _Job) -> int:
    """Bytes on disk that the maps take at most: the largest layer while it is written, and every map."""
    largest = sum(t.grid.width * t.grid.height for t in job.tiles)
    itemsizes = [np.dtype(layer.dtype).itemsize for layer in job.layers]
    return largest * (2 * sum(itemsizes) + 2 * max(itemsizes))


# --- tiles


def _map_tiles(job: _Job, state: State, pending: Sequence[Tile], progress: Progress, seconds: dict[str, float]) -> None:
    """Composite, encode and label each tile, and keep its layers."""
    total = sum(tile.grid.width * tile.grid.height for tile in pending)
    done = 0
    for number, (tile, inside, made) in enumerate(_composites(job, state.scenes or (), pending, seconds), start=1):
        progress("composite", number, len(pending))
        start = time.perf_counter()
        layers = _label_tile(job, made, inside, _shifted(progress, done, total))
        seconds["encode"] = seconds.get("encode", 0.0) + time.perf_counter() - start
        state.save(tile, layers)
        done += tile.grid.width * tile.grid.height
        progress("encode", done, total)


def _shifted(progress: Progress, base: int, total: int) -> Callable[[int], None]:
    return lambda n: progress("encode", base + n, total)


def _composites(
    job: _Job, scenes: Sequence[Scene], pending: Sequence[Tile], seconds: dict[str, float]
) -> Iterator[tuple[Tile, NDArray[np.bool_], Composite]]:
    """Composites in the order of the tiles, the next one being read while one is used."""

    def make(tile: Tile) -> tuple[Tile, NDArray[np.bool_], Composite]:
        start = time.perf_counter()
        made = tile, grid.inside(job.request.area, tile.grid), compose(scenes, tile.grid, job.request.period)
        seconds["composite"] = seconds.get("composite", 0.0) + time.perf_counter() - start
        return made

    with ThreadPoolExecutor(1, thread_name_prefix="composite") as pool:
        ahead = pool.submit(make, pending[0]) if pending else None
        for following in [*pending[1:], None]:
            if ahead is None:
                return
            current = ahead.result()
            ahead = pool.submit(make, following) if following else None
            yield current
            del current  # or it would be a third composite in memory


def compose(scenes: Sequence[Scene], tile: Grid, period: Period) -> Composite:
    """Read the scenes over a tile's grid and make its composite. Raises ReadError, SourceUnavailableError."""
    stack = open_stack(scenes, tile, period)
    if stack is None:
        shape = (period.months, *tile.shape)
        return Composite(np.zeros((period.months, len(BANDS), *tile.shape), np.uint16), np.zeros(shape, np.uint8))
    return composite.compute(stack, period.months, workers=_threads(scenes))


def open_stack(scenes: Sequence[Scene], tile: Grid, period: Period) -> Stack | None:
    """The lazy stack over a tile's grid, or None where no scene touches it."""
    over = [scene for scene in scenes if _touches(scene, tile)]
    return read.stack(over, tile, period, _gdal_options(over)) if over else None


def _over(scenes: Sequence[Scene], tile: Tile) -> list[Scene]:
    return [scene for scene in scenes if _touches(scene, tile.grid)]


def _touches(scene: Scene, tile: Grid) -> bool:
    west, south, east, north = grid.lonlat_box(tile)
    left, bottom, right, top = scene.bbox
    if bottom > north or top < south:
        return False
    width = (right - left) % 360 or (360 if right != left else 0)
    return (west - left) % 360 <= width or (left - west) % 360 <= (east - west) % 360


def _gdal_options(scenes: Sequence[Scene]) -> dict[str, str]:
    """Access settings of the providers whose own storage holds the scenes."""
    options: dict[str, str] = {}
    for scene in scenes:
        provider = PROVIDERS[scene.provider]
        if any(provider.owns(asset.href) for asset in scene.assets.values()):
            options |= provider.gdal_options
    return options


def _threads(scenes: Sequence[Scene]) -> int:
    """Reads in flight: the cores for local files, more over a network, no more than a provider allows."""
    if all(asset.href.startswith("/") for scene in scenes for asset in scene.assets.values()):
        return os.cpu_count() or 1
    limits = [PROVIDERS[scene.provider].max_connections for scene in scenes]
    return min([REMOTE_THREADS, *(limit for limit in limits if limit is not None)])


def _label_tile(job: _Job, made: Composite, inside: NDArray[np.bool_], advance: Callable[[int], None]) -> Layers:
    """All layers of a tile from one encoding pass."""
    valid = encode.valid_months_np(made.dn).sum(axis=0, dtype=np.uint8)  # (y, x) months
    usable = inside & (valid >= job.request.min_clear_months)
    size = usable.size
    answers = {q.legend.name: label.blank(q.legend, (size,)) for q in job.questions}
    for where, embeddings in job.engine.embed(made, usable, job.request.period.calendar_months):
        for question in job.questions:
            new, old = label.answer(question, embeddings), answers[question.legend.name]
            old.value[where] = new.value
            if old.confidence is not None and new.confidence is not None:
                old.confidence[where] = new.confidence
        advance(int(where[-1]) + 1)
    if job.request.within is not None:
        _restrict(job, answers)
    layers: dict[str, NDArray[Any]] = {CLEAR_MONTHS: np.where(inside, valid, np.uint8(NOT_MAPPED))}
    for name, answer in answers.items():
        layers[name] = answer.value.reshape(usable.shape)
        if answer.confidence is not None:
            layers[f"{name}_confidence"] = answer.confidence.reshape(usable.shape)
    return layers


def _restrict(job: _Job, answers: dict[str, Any]) -> None:
    """Blank every other legend outside the class of `within`."""
    assert job.request.within is not None
    base, class_name = job.request.within
    wanted = next(q.legend for q in job.questions if q.legend.name == base).id_of(class_name)
    outside = answers[base].value != wanted
    for question in job.questions:
        if question.legend.name != base:
            empty = label.blank(question.legend, (int(outside.sum()),))
            answer = answers[question.legend.name]
            answer.value[outside] = empty.value
            if answer.confidence is not None:
                answer.confidence[outside] = empty.confidence


# --- maps


def _assemble(job: _Job, state: State, progress: Progress, seconds: dict[str, float]) -> Result:
    """Tiles -> one COG per layer and zone, then metadata, then the checksums that mark the run as finished."""
    start = time.perf_counter()
    zones = sorted({tile.grid.epsg for tile in job.tiles})
    statistics: dict[str, list[Statistics]] = {layer.stem: [] for layer in job.layers}
    maps: list[stacitem.MapFile] = []
    for epsg in zones:
        members = [tile for tile in job.tiles if tile.grid.epsg == epsg]
        whole = grid.mosaic_grid(tuple(tile.grid for tile in members))
        for layer in job.layers:
            path = map_path(state.directory, layer, epsg, zones)
            pixels = ((tile.grid, state.load(tile, layer.stem)) for tile in members)
            statistics[layer.stem].append(write.write_map(path, layer, whole, pixels, _tags(job)))
            maps.append(stacitem.MapFile(path, layer, whole))
            progress("write", len(maps), len(zones) * len(job.layers))
    merged = {stem: ledger.merge(parts) for stem, parts in statistics.items()}
    scenes = state.scenes or ()
    stacitem.write_stac(
        state.directory,
        maps,
        job.request.period,
        software=ledger.software(),
        lineage="Monthly median composites of Sentinel-2 L2A, encoded per pixel and compared with text embeddings.",
        provenance={"weights": job.weights.card.name, "weights_sha256": job.weights.digest, "scenes": len(scenes)},
    )
    ledger.write(state.directory, _described(job), [tile.name for tile in job.tiles], scenes, merged)
    files.write_sums(state.directory)
    seconds["write"] = time.perf_counter() - start
    return Result(state.directory, merged, job.layers, tuple(m.path for m in maps), scenes, 0)


def map_path(directory: Path, layer: Layer, epsg: int, zones: Sequence[int]) -> Path:
    """Where a map lies: `<stem>.tif`, or `<stem>_<epsg>.tif` where the area spans zones."""
    return directory / (f"{layer.stem}.tif" if len(zones) == 1 else f"{layer.stem}_{epsg}.tif")


def _tags(job: _Job) -> dict[str, str]:
    """TIFF metadata: nothing that differs between two runs of one request."""
    return {
        "TIFFTAG_SOFTWARE": f"geomap {version('geomap')}",
        "TIFFTAG_DATETIME": job.request.period.end.strftime("%Y:%m:%d %H:%M:%S"),
        "TIFFTAG_COPYRIGHT": "Contains modified Copernicus Sentinel data",
        "GEOMAP_PERIOD": str(job.request.period),
        "GEOMAP_WEIGHTS": f"{job.weights.card.name} {job.weights.digest}",
    }


def _finished(job: _Job, state: State) -> Result:
    """The result of a run that was complete before."""
    zones = sorted({tile.grid.epsg for tile in job.tiles})
    paths = tuple(map_path(state.directory, layer, epsg, zones) for epsg in zones for layer in job.layers)
    statistics = ledger.read_statistics(state.directory)
    return Result(state.directory, statistics, job.layers, paths, state.scenes or (), len(job.tiles))
