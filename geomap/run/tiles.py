"""The work on one tile: scenes -> composite -> embeddings -> layers, the next composite read ahead."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from geomap import grid
from geomap.catalog.over import over
from geomap.encode.engine import valid_months_np
from geomap.errors import ReadError
from geomap.label.classify import TileLabels
from geomap.pipeline import compose
from geomap.run.prepare import Job
from geomap.run.progress import Tracker
from geomap.run.request import Earlier, Request
from geomap.run.stores import composite_over
from geomap.run.tile_file import Evidence, Finished, Outcome, Reused, pack
from geomap.run.update import Known, shared, take_over
from geomap.store.store import COMPOSITES, EMBEDDINGS, open_store
from geomap.types import CLEAR_MONTHS, NOT_MAPPED, Composite, Layers, Scene, Tile

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Composed:
    """A tile's composite and what else its labels need."""

    inside: NDArray[np.bool_]  # (y, x) pixels of the area
    made: Composite
    seconds: float  # that the composite took
    months: tuple[str, ...] = ()  # taken over from an earlier run
    known: Known | None = None  # what that run says of the pixels


@dataclass(frozen=True, slots=True)
class Labelled:
    """What encoding a tile gives."""

    layers: Layers
    codes: NDArray[np.int8] | None  # (C, y, x) of its embeddings, where they are saved
    kept: int  # pixels that were known
    encoded: int


def work(
    job: Job, scenes: Sequence[Scene], pending: Sequence[Tile], tracker: Tracker, alone: bool
) -> Generator[Outcome]:
    """The work on tiles in this process, in their order; errors are part of the outcomes (attempts.Execute).

    The next composite is read while one is encoded, unless each tile is to be `alone`.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="composite")

    def read(tile: Tile) -> Future[Composed]:
        tracker.begin(tile)
        return pool.submit(compose_tile, job, scenes, tile)

    try:
        ahead: Future[Composed] | None = None
        for tile, following in itertools.zip_longest(pending, pending[1:]):
            reading = ahead or read(tile)
            ahead = None
            try:
                composed = reading.result()
                tracker.composed()
                ahead = read(following) if following and not alone else None
                outcome = Outcome(tile, finish_tile(job, composed, tracker.encoded))
                del composed  # or it would be a third composite in memory
            except Exception as e:
                outcome = Outcome(tile, None, e)
            yield outcome
            del outcome
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for a server


def compose_tile(job: Job, scenes: Sequence[Scene], tile: Tile) -> Composed:
    """Read a tile. Raises as compose."""
    start = time.perf_counter()
    asked = job.request
    months: tuple[str, ...] = ()
    known: Known | None = None
    if asked.composites is not None:
        made = composite_over(open_store(asked.composites), tile)
    elif asked.update is not None:
        made, months, known = _updated(job, scenes, tile, asked.update)
    else:
        made = _from_scenes(asked, scenes, tile)
    return Composed(grid.inside(job.request.area, tile.grid), made, time.perf_counter() - start, months, known)


def _from_scenes(asked: Request, scenes: Sequence[Scene], tile: Tile, skip: Collection[int] = ()) -> Composite:
    return compose(scenes, tile.grid, asked.period, asked.mask, asked.max_missed, asked.deadline, skip)


def _updated(
    job: Job, scenes: Sequence[Scene], tile: Tile, update: Earlier
) -> tuple[Composite, tuple[str, ...], Known | None]:
    """A composite whose months come from an earlier run where they can; those months; what else that run says."""
    asked = job.request
    found = shared(update, tile, over(scenes, tile.grid), asked.period)
    if found is None:
        return _from_scenes(asked, scenes, tile), (), None
    made = _from_scenes(asked, scenes, tile, found.steps.keys())
    try:
        known = take_over(job, tile, made, found)
    except ReadError as e:
        log.warning("tile %s is made from all its scenes: %s", tile.name, e)
        return _from_scenes(asked, scenes, tile), (), None
    names = asked.period.month_names
    return replace(made, dark={**made.dark, **found.dark}), tuple(names[step] for step in sorted(found.steps)), known


def finish_tile(job: Job, composed: Composed, advance: Callable[[int], None] = lambda pixels: None) -> Finished:
    """Encode and label a tile that was read."""
    start = time.perf_counter()
    made = composed.made
    labelled = label_tile(job, made, composed.inside, advance, composed.known)
    layers, codes = labelled.layers, labelled.codes
    kept: dict[str, Layers] = {}
    if job.request.save_composites:
        kept[COMPOSITES] = {"composite": made.dn, "clear": made.clear}
    if codes is not None:
        kept[EMBEDDINGS] = {"embedding": codes, CLEAR_MONTHS: layers[CLEAR_MONTHS]}
    seconds = {"composite": composed.seconds, "encode": time.perf_counter() - start}
    reused = Reused(composed.months, labelled.kept, labelled.encoded)
    return Finished(pack(layers), Evidence(made.dark, made.missed), seconds, kept, reused)


def label_tile(
    job: Job,
    made: Composite,
    inside: NDArray[np.bool_],
    advance: Callable[[int], None],
    known: Known | None = None,
) -> Labelled:
    """All layers of a tile from one encoding pass, over the pixels that are not known."""
    valid = valid_months_np(made.dn).sum(axis=0, dtype=np.uint8)  # (y, x) months
    usable = inside & (valid >= job.request.min_clear_months)
    sheet = TileLabels(job.questions, usable.shape)
    codes = None if job.codec is None else np.zeros((job.codec.size, usable.size), np.int8)
    kept = np.flatnonzero(usable & known.same & (known.layers[CLEAR_MONTHS] == valid)) if known else np.arange(0)
    if known is not None:
        usable.ravel()[kept] = False
        sheet.keep(kept, known.layers)
        if codes is not None and known.codes is not None:
            codes[:, kept] = known.codes.reshape(len(codes), -1)[:, kept]
    for where, embeddings in job.engine.embed(made, usable, job.request.period.calendar_months):
        sheet.fill(where, embeddings)
        if codes is not None and job.codec is not None:
            codes[:, where] = job.codec.encode(embeddings).cpu().numpy().T
        advance(int(where[-1]) + 1)
    layers = sheet.layers(job.within, np.where(inside, valid, np.uint8(NOT_MAPPED)))
    shaped = None if codes is None else codes.reshape(-1, *usable.shape)
    return Labelled(layers, shaped, len(kept), int(usable.sum()))
