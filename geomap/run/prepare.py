"""A request made ready before the first pixel: weights, class vectors, tiles, layers, all checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomap import grid, legends
from geomap.catalog.search import Found, search
from geomap.encode import weights
from geomap.encode.card import _sha256
from geomap.encode.directions import directions
from geomap.encode.engine import Engine
from geomap.encode.model import PixelEncoder
from geomap.errors import InputError, LegendError
from geomap.label import towers
from geomap.label.classify import Question
from geomap.legends import Legend
from geomap.run.request import Request
from geomap.sentinel2 import BANDS
from geomap.store.codec import SIZE, Codec
from geomap.store.store import COMPOSITES, open_store
from geomap.types import Period, Progress, Tile
from geomap.write.layer import Layer, change_layers, layers_of, require_distinct

PIXELS_PER_KM2 = 10_000


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
    engine: Engine
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
    engine = Engine(loaded.encoder, "cpu" if device else request.device)
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


SAMPLE: Final = 4096
"""Simulated series that choose the directions kept of an encoder with more of them than a store takes."""


def codec_of(encoder: PixelEncoder) -> Codec:
    """The coordinates in which an encoder's embeddings are kept: they follow from its weights alone."""
    return Codec.along(directions(encoder, SIZE, simulated_sample))


def simulated_sample() -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """(N, T, C) DNs and (N, T) validity of SAMPLE simulated series, the same ones for every encoder."""
    from geomap.simulate.series import simulate

    series = simulate(np.random.default_rng(0), SAMPLE)
    return series.dn, series.valid


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
    return towers.cached_class_vectors(legend, loaded.card.text_space) if stored is None else stored


def find_scenes(request: Request, progress: Progress) -> Found:
    """The scenes of a request; none are needed where its composites are saved. Raises as catalog.find."""
    if request.composites is not None:
        return Found((), ())
    progress("search", 0, 1)
    found = search(
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


def disk_space(job: Job) -> int:
    """Bytes on disk that a run takes at most: the largest layer while it is written, every map and store."""
    largest = sum(t.grid.width * t.grid.height for t in job.tiles)
    itemsizes = [np.dtype(layer.dtype).itemsize for layer in job.product.layers]
    composite = job.request.period.months * (2 * len(BANDS) + 1) if job.request.save_composites else 0
    code = job.codec.size + 1 if job.codec else 0
    return largest * (2 * sum(itemsizes) + 2 * max(itemsizes) + composite + code)
