"""What is asked for, and the same made ready: weights, class vectors, tiles and layers, before the first pixel."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from geomap import aoi, encode, files, grid, text, weights
from geomap import legend as legends
from geomap.errors import InputError, LegendError
from geomap.hrefs import redact
from geomap.label import Question
from geomap.legend import Legend
from geomap.offset import OffsetPolicy
from geomap.style import Layer
from geomap.types import Period, Tile

CLEAR_MONTHS = "clear_months"
"""Stem of the map of months with a clear observation."""


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


@dataclass(frozen=True, slots=True)
class Job:
    """A request made ready: everything that the tiles share."""

    request: Request
    tiles: tuple[Tile, ...]
    engine: encode.Engine
    questions: tuple[Question, ...]
    layers: tuple[Layer, ...]
    weights: weights.Weights
    within: tuple[str, int] | None  # (legend, class id) that the other maps keep to


def prepare(request: Request) -> Job:
    """Check the request against weights, legends and device; find the tiles."""
    if not request.legends:
        raise InputError("nothing to map; give --legend or --classes")
    if not 1 <= request.min_clear_months <= request.period.months:
        raise InputError(f"--min-clear-months must be 1..{request.period.months}, the months of the period")
    asked, within = _with_base(request)
    layers = _layers(asked, request)
    stems = [layer.stem for layer in layers]
    if len(set(stems)) < len(stems):
        raise LegendError(f"two maps would be called {max(stems, key=stems.count)}.tif; rename one of the legends")
    loaded = weights.load(request.weights)
    engine = encode.Engine(loaded.encoder, request.device)
    questions = tuple(_question(legend, loaded, request, engine) for legend in asked)
    tiles = grid.tiles(request.area)
    return Job(request, tiles, engine, questions, layers, loaded, within)


def _with_base(request: Request) -> tuple[tuple[Legend, ...], tuple[str, int] | None]:
    """The legends to ask, that of `within` added where it was not asked for; and its name with the class's id."""
    if request.within is None:
        return request.legends, None
    name, class_name = request.within
    by_name = {legend.name: legend for legend in request.legends}
    base = by_name.get(name) or legends.load(name)
    if base.kind == "score":
        raise LegendError(f"{base.name} gives scores, not classes; --within needs a legend of classes")
    asked = request.legends if base.name in by_name else (base, *request.legends)
    return asked, (base.name, base.id_of(class_name))


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


def described(job: Job) -> dict[str, Any]:
    """The request as JSON: what decides the maps' content, nothing of the machine."""
    r = job.request
    return {
        "geomap": version("geomap"),
        "area": _sha256(r.area.geometry.wkb),
        "bounds": [round(v, 6) for v in r.area.geometry.bounds],
        "period": str(r.period),
        "stac": _source(r.stac),
        "collection": r.collection,
        "max_cloud": r.max_cloud,
        "offset_policy": r.offset,
        "legends": {q.legend.name: _sha256(q.legend.model_dump_json().encode()) for q in job.questions},
        "weights": {"name": job.weights.card.name, "sha256": job.weights.digest},
        "min_clear_months": r.min_clear_months,
        "min_confidence": r.min_confidence,
        "within": f"{job.within[0]}={job.within[1]}" if job.within else None,
        "device": job.engine.device.type,
    }


def _source(stac: str) -> str:
    """A catalogue without its query, where tokens live; an item file by name and content, wherever it lies."""
    path = Path(stac)
    if path.is_file():
        return f"{path.name} sha256:{files.sha256(path)}"
    return redact(stac)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def space_needed(job: Job) -> int:
    """Bytes on disk that the maps take at most: the largest layer while it is written, and every map."""
    largest = sum(t.grid.width * t.grid.height for t in job.tiles)
    itemsizes = [np.dtype(layer.dtype).itemsize for layer in job.layers]
    return largest * (2 * sum(itemsizes) + 2 * max(itemsizes))
