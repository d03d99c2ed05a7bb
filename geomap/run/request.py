"""What is asked for, and the same made ready: weights, class vectors, tiles and layers, before the first pixel."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geomap import aoi, catalog, encode, files, grid, text, weights
from geomap import legend as legends
from geomap.codes import Codec, codec_of
from geomap.errors import InputError, LegendError
from geomap.hrefs import redact
from geomap.label import Question
from geomap.legend import Legend
from geomap.mask import DEFAULT_MASK, Mask
from geomap.offset import OffsetPolicy
from geomap.reader import DEADLINE
from geomap.sentinel2 import BANDS
from geomap.store import COMPOSITES, EMBEDDINGS, open_store, store_files
from geomap.style import Layer
from geomap.types import Period, Tile

PIXELS_PER_KM2 = 10_000

CLEAR_MONTHS = "clear_months"
"""Stem of the map of months with a clear observation."""

NOT_MAPPED = 255
"""Its nodata: pixels outside the area."""

MAX_MISSED = 0.1
"""Share of the scenes over a tile that may be left out, missing or damaged; above 0, one always may."""

UPDATE = "update"
"""Key of a described request, the months of the earlier run: decides what there is beside the maps, not the maps."""

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total); stages are "search", "composite" (tiles), "encode" (pixels) and "write" (maps)."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """A finished run of the same request over other months, with its composites."""

    directory: Path
    period: Period


@dataclass(frozen=True, slots=True)
class Request:
    """What decides the content of the maps."""

    area: aoi.Area
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
    mask: Mask = DEFAULT_MASK
    max_missed: float = MAX_MISSED
    deadline: float = DEADLINE  # seconds for which a server may refuse a file
    save_composites: bool = False  # keep the monthly composites beside the maps, in composites.zarr
    save_embeddings: bool = False  # keep the embeddings, in embeddings.zarr
    composites: Path | None = None  # composites.zarr of an earlier run, read in place of scenes: `stac` does not matter
    update: Earlier | None = None  # take over what has not changed since this run, and map what has


@dataclass(frozen=True, slots=True)
class Product:
    """What the files of a run say of their making, whatever it made them from."""

    tiles: tuple[Tile, ...]
    layers: tuple[Layer, ...]
    period: Period
    weights: str  # name
    weights_sha256: str  # of their card
    lineage: str  # a sentence
    vectors: Mapping[str, str] = field(default_factory=dict)  # by legend, the sha256 of its class vectors


@dataclass(frozen=True, slots=True)
class Job:
    """A request made ready: everything that the tiles share."""

    request: Request
    tiles: tuple[Tile, ...]
    engine: encode.Engine
    device: str  # type of the device that encodes, "cpu" or "cuda", here or on a cluster
    dtype: torch.dtype  # that it encodes in
    questions: tuple[Question, ...]
    layers: tuple[Layer, ...]
    weights: weights.Weights
    within: tuple[str, int] | None  # (legend, class id) that the other maps keep to
    codec: Codec | None = None  # of the embeddings, where they are saved
    changes: tuple[Layer, ...] = ()  # maps of what differs from the earlier run, made of both runs' maps

    @property
    def product(self) -> Product:
        """Its maps, and what their files say of their making."""
        lineage = "Monthly median composites of Sentinel-2 L2A, encoded per pixel and compared with text embeddings."
        card = self.weights.card
        maps = (*self.layers, *self.changes)
        return Product(self.tiles, maps, self.request.period, card.name, self.weights.digest, lineage, self.vectors)

    @property
    def vectors(self) -> dict[str, str]:
        """By legend, the sha256 of its class vectors."""
        return {q.legend.name: _sha256(q.vectors.cpu().numpy().tobytes()) for q in self.questions}


def prepare(request: Request, device: str | None = None) -> Job:
    """Check the request against weights, legends and device; find the tiles.

    `device` is the type of the workers' devices where they encode, on a cluster.
    """
    if not request.legends:
        raise InputError("nothing to map; give --legend or --classes")
    if not 1 <= request.min_clear_months <= request.period.months:
        raise InputError(f"--min-clear-months must be 1..{request.period.months}, the months of the period")
    asked, within = with_base(request.legends, request.within)
    layers = layers_of(asked, request.min_confidence)
    changes = change_layers(layers, request.update.period) if request.update else ()
    require_distinct((*layers, *changes))
    if request.update and request.composites:
        raise InputError("give --update-from or --from-composites, not both")
    loaded = weights.load(request.weights)
    engine = encode.Engine(loaded.encoder, "cpu" if device else request.device)
    questions = tuple(
        Question(legend, vectors_of(legend, loaded).to(engine.device), loaded.card.logit_scale, request.min_confidence)
        for legend in asked
    )
    codec = codec_of(loaded.encoder) if request.save_embeddings else None
    tiles = grid.tiles(request.area)
    if request.composites is not None:
        request = replace(request, composites=_covering(request.composites, tiles, request.period))
    place, dtype = device or engine.device.type, torch.bfloat16 if device == "cuda" else engine.dtype
    return Job(request, tiles, engine, place, dtype, questions, layers, loaded, within, codec, changes)


def _covering(path: Path, tiles: Sequence[Tile], period: Period) -> Path:
    """The composites of a run, by its directory or theirs. Raises InputError where they lack a tile or a month."""
    kept = open_store(path, COMPOSITES)
    if kept.period != period:
        raise InputError(f"{kept.path} is of {kept.period}, not of {period}; ask for that period")
    lacking = [tile.name for tile in tiles if kept.holding(tile.grid) is None]
    if lacking:
        raise InputError(f"{kept.path} does not cover the tile {lacking[0]}; choose an area inside that of its run")
    return kept.path


def with_base(
    asked: tuple[Legend, ...], within: tuple[str, str] | None
) -> tuple[tuple[Legend, ...], tuple[str, int] | None]:
    """The legends to ask, that of `within` added where it was not asked for; and its name with the class's id."""
    if within is None:
        return asked, None
    name, class_name = within
    by_name = {legend.name: legend for legend in asked}
    base = by_name.get(name) or legends.load(name)
    if base.kind == "score":
        raise LegendError(f"{base.name} gives scores, not classes; --within needs a legend of classes")
    return asked if base.name in by_name else (base, *asked), (base.name, base.id_of(class_name))


def vectors_of(legend: Legend, loaded: weights.Weights) -> Tensor:
    """(K, D) class vectors: those stored beside the weights, or made by their text tower."""
    stored = loaded.class_vectors.get(legend.digest)
    return text.cached_class_vectors(legend, loaded.card.text_space) if stored is None else stored


def layers_of(asked: Sequence[Legend], min_confidence: float) -> tuple[Layer, ...]:
    """The maps of some legends. Raises LegendError where two would have one name."""
    layers = []
    for legend in asked:
        if legend.kind == "score":
            layers.append(Layer(legend.name, legend.title, "score", legend))
            continue
        layers.append(Layer(legend.name, legend.title, "classes", legend, unclassified=min_confidence > 0))
        layers.append(Layer(f"{legend.name}_confidence", f"{legend.title}: confidence, percent", "percent"))
    layers.append(Layer(CLEAR_MONTHS, "Months with a clear observation", "count"))
    require_distinct(layers)
    return tuple(layers)


def change_layers(layers: Sequence[Layer], since: Period) -> tuple[Layer, ...]:
    """For each map of classes: the class before and the class now, where it changed, and the confidence in percent."""
    changes = []
    for layer in layers:
        if layer.kind == "classes":
            legend, stem, title = layer.legend, layer.stem, layer.description
            changes += [
                Layer(f"{stem}_from", f"{title}: class in {since}, where it changed", "classes", legend),
                Layer(f"{stem}_to", f"{title}: class now, where it is not that of {since}", "classes", legend),
                Layer(f"{stem}_change_confidence", f"{title}: lower of both confidences, percent", "percent"),
            ]
    return tuple(changes)


def require_distinct(layers: Sequence[Layer]) -> None:
    """Raise LegendError where two maps would have one name."""
    stems = [layer.stem for layer in layers]
    if len(set(stems)) < len(stems):
        raise LegendError(f"two maps would be called {max(stems, key=stems.count)}.tif; rename one of the legends")


def search(request: Request, progress: Progress) -> catalog.Found:
    """The scenes of a request; none are needed where its composites are saved. Raises as catalog.find."""
    if request.composites is not None:
        return catalog.Found((), ())
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


def described(job: Job) -> dict[str, Any]:
    """The request as JSON: what decides the maps' content, nothing of the machine."""
    r = job.request
    return {
        "geomap": version("geomap"),
        "area": _sha256(r.area.geometry.wkb),
        "bounds": [round(v, 6) for v in r.area.geometry.bounds],
        "period": str(r.period),
        **_input(r),
        "legends": legends_digests([q.legend for q in job.questions]),
        "weights": {"name": job.weights.card.name, "sha256": job.weights.digest},
        "min_clear_months": r.min_clear_months,
        "min_confidence": r.min_confidence,
        "within": f"{job.within[0]}={job.within[1]}" if job.within else None,
        "device": f"{job.device} {job.dtype}",  # a CPU without bfloat16 gives other last bits
        **({"save": kinds} if (kinds := saved_kinds(r)) else {}),
        **({UPDATE: str(r.update.period)} if r.update else {}),
    }


def _input(r: Request) -> dict[str, Any]:
    """What composites are made from, or which are taken."""
    if r.composites is not None:
        return {"composites": store_digest(r.composites)}
    return {
        "stac": _source(r.stac),
        "collection": r.collection,
        "max_cloud": r.max_cloud,
        "offset_policy": r.offset,
        "mask": asdict(r.mask),
    }


def _source(stac: str) -> str:
    """A catalogue without its query, where tokens live; an item file by name and content, wherever it lies."""
    path = Path(stac)
    if path.is_file():
        return f"{path.name} sha256:{files.sha256(path)}"
    return redact(stac)


def legends_digests(asked: Sequence[Legend]) -> dict[str, str]:
    """By name, the sha256 of all that a legend says."""
    return {legend.name: _sha256(legend.model_dump_json().encode()) for legend in asked}


def saved_kinds(request: Request) -> list[str]:
    """Names of the stores that a request fills."""
    wanted = {COMPOSITES: request.save_composites, EMBEDDINGS: request.save_embeddings}
    return [kind for kind, asked in wanted.items() if asked]


def store_digest(path: Path) -> str:
    """sha256 over the names and contents of a store's files; of a finished run they are read from its SHA256SUMS."""
    listed = files.listed_sums(path.parent, path.name)
    known = listed or {f"{path.name}/{name}": files.sha256(path / name) for name in store_files(path)}
    return _sha256(json.dumps(sorted(known.items())).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def space_needed(job: Job) -> int:
    """Bytes on disk that a run takes at most: the largest layer while it is written, every map and store."""
    largest = sum(t.grid.width * t.grid.height for t in job.tiles)
    itemsizes = [np.dtype(layer.dtype).itemsize for layer in job.product.layers]
    composite = job.request.period.months * (2 * len(BANDS) + 1) if job.request.save_composites else 0
    code = job.codec.size + 1 if job.codec else 0
    return largest * (2 * sum(itemsizes) + 2 * max(itemsizes) + composite + code)
