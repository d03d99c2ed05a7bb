"""The work on one tile: scenes -> composite -> embeddings -> layers; the next tile is read ahead."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from geomap import grid, pipeline, process
from geomap.encode.engine import Engine, pick_device, pick_dtype
from geomap.errors import ReadError
from geomap.label.classify import TileLabels
from geomap.pipeline import Together
from geomap.read.header import Headers
from geomap.run import imagery, update
from geomap.run.prepare import Prepared
from geomap.run.progress import Tracker
from geomap.run.request import Earlier, Request
from geomap.run.stores import composite_over
from geomap.run.tile_file import About, Finished, Outcome, Reused, Seen, Task, pack
from geomap.run.update import Known
from geomap.store.store import COMPOSITES, EMBEDDINGS, open_store
from geomap.types import CLEAR_MONTHS, Composite, Layers

log = logging.getLogger(__name__)

WAIT: Final = "wait"
"""Stage in which a run only waits for pixels; composites are made while the tile before is encoded."""


@dataclass(frozen=True, slots=True)
class Composed:
    """A tile's composite and what else is needed to label it."""

    task: Task
    inside: NDArray[np.bool_]  # (y, x) pixels of the area
    made: Composite  # with a margin of Prepared.margin pixels
    seconds: float  # time for the composite
    months: tuple[str, ...] = ()  # months reused from an earlier run
    known: Known | None = None  # what that run knows about the pixels
    waited: float = 0.0  # seconds in which nothing was encoded, since it was not read yet


class Here:
    """Makes the tiles in this process."""

    device: torch.device
    dtype: torch.dtype

    def __init__(self, device: str) -> None:
        self._asked = device
        self._engine: Engine | None = None

    def __enter__(self) -> Self:
        """Raises InputError for a device that does not exist."""
        self.device = pick_device(self._asked)
        self.dtype = pick_dtype(self.device)
        return self

    def __exit__(self, *error: Any) -> None:
        self._engine = None

    def speed(self, prepared: Prepared, months: int) -> float:
        """Pixels of so many months encoded per second, measured in a short trial."""
        return self._ready(prepared).pixels_per_second(months)

    def work(self, prepared: Prepared, tasks: Sequence[Task], tracker: Tracker, alone: bool) -> Generator[Outcome]:
        return _work(prepared, self._ready(prepared), tasks, tracker, alone)

    def _ready(self, prepared: Prepared) -> Engine:
        if self._engine is None:
            self._engine = Engine(prepared.weights.encoder, self._asked, dtype=prepared.dtype)
        return self._engine


def _work(
    prepared: Prepared, engine: Engine, tasks: Sequence[Task], tracker: Tracker, alone: bool
) -> Generator[Outcome]:
    """Make tiles in this process, in order; errors are returned in the outcomes.

    The next composite is read while the current one is encoded, unless `alone` is set.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="composite")
    reader = _Reader(prepared, () if alone else tasks)

    def read(task: Task) -> Future[Composed]:
        tracker.begin(task)
        return pool.submit(reader.compose, task)

    try:
        ahead: Future[Composed] | None = None
        for task, following in itertools.zip_longest(tasks, tasks[1:]):
            reading = ahead or read(task)
            ahead = None
            try:
                start = time.perf_counter()
                composed = process.result(reading)
                composed = replace(composed, waited=time.perf_counter() - start)
                tracker.composed()
                tracker.encoded(0)
                ahead = read(following) if following and not alone else None
                outcome = Outcome(task, finish_tile(prepared, engine, composed, tracker.encoded))
                del composed  # otherwise a third composite would stay in memory
            except Exception as e:
                outcome = Outcome(task, None, e)
            yield outcome
            del outcome
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # so that Ctrl-C does not wait for a server
        reader.close()


class _Reader:
    """Composes tiles, one at a time; what neighbours share stays in memory until the next ones begin."""

    def __init__(self, prepared: Prepared, tasks: Sequence[Task]) -> None:
        self._prepared = prepared
        self._near = neighbours(tasks)
        self._at: tuple[int, ...] | None = None
        self._together: Together | None = None
        self._kept = Headers()

    def compose(self, task: Task) -> Composed:
        """Raises as pipeline.compose."""
        at = grid.pair(task.tile.grid)
        if at != self._at:
            self._together = None  # before the next ones are read
            self._together = compose_shared(self._prepared, self._near.get(at, ()), self._kept)
            self._at = at
        made = compose_tile(self._prepared, task, self._together, self._kept)
        process.give_back()
        return made

    def close(self) -> None:
        """Drop what the last tiles shared, and what is known of files."""
        self._together = None
        self._kept.forget()


def neighbours(tasks: Sequence[Task]) -> dict[tuple[int, int, int], list[Task]]:
    """The tasks by what is read together (grid.pair)."""
    return grid.in_pairs(tasks, lambda task: task.tile.grid)


def compose_shared(prepared: Prepared, tasks: Sequence[Task], kept: Headers) -> Together | None:
    """Read what neighbouring tiles share; `kept`: headers that the run knows. Raises as pipeline.read_together."""
    asked = prepared.request
    if asked.composites is not None or prepared.margin or len(tasks) < 2:
        return None  # patches reach beyond the tiles, which are read alone
    wanted = [(task.tile.grid, task.scenes, _reused(asked, task)) for task in tasks]
    return pipeline.read_together(wanted, asked.period, asked.mask, asked.deadline, kept)


def _reused(asked: Request, task: Task) -> Collection[int]:
    """The steps of a tile whose medians an earlier run has."""
    found = update.shared(asked.update, task, asked.period) if asked.update else None
    return () if found is None else found.steps.keys()


def compose_tile(prepared: Prepared, task: Task, together: Together | None, kept: Headers) -> Composed:
    """Read a tile and make its composite. Raises as pipeline.compose."""
    start = time.perf_counter()
    asked = prepared.request
    months: tuple[str, ...] = ()
    known: Known | None = None
    if asked.composites is not None:
        made = composite_over(open_store(asked.composites), task.tile)
    elif asked.update is not None:
        made, months, known = _updated(prepared, task, asked.update, together, kept)
    else:
        made = _from_scenes(asked, task, together, kept, margin=prepared.margin)
    inside = grid.inside(asked.area, task.tile.grid)
    return Composed(task, inside, made, time.perf_counter() - start, months, known)


def _from_scenes(
    asked: Request, task: Task, together: Together | None, kept: Headers, skip: Collection[int] = (), margin: int = 0
) -> Composite:
    where, limits = task.tile.grid.grown(margin), (asked.max_missed, asked.deadline)
    return pipeline.compose(task.scenes, where, asked.period, asked.mask, *limits, skip, together, kept)


def _updated(
    prepared: Prepared, task: Task, earlier: Earlier, together: Together | None, kept: Headers
) -> tuple[Composite, tuple[str, ...], Known | None]:
    """A composite that reuses months of an earlier run; the reused months; what that run knows about the pixels."""
    asked = prepared.request
    found = update.shared(earlier, task, asked.period)
    if found is None:
        return _from_scenes(asked, task, together, kept), (), None
    made = _from_scenes(asked, task, together, kept, found.steps.keys())
    made = replace(made, held=made.dn, coarse=None)  # a stored month may come from another zone: not of 20 m pixels
    try:
        known = update.take_over(prepared, task.tile, made, found)
    except ReadError as e:
        log.warning("tile %s is made from all its scenes: %s", task.tile.name, e)
        return _from_scenes(asked, task, None, kept), (), None
    names = asked.period.month_names
    made = replace(made, dark={**made.dark, **found.dark}, gave={**made.gave, **found.gave})
    return made, tuple(names[step] for step in sorted(found.steps)), known


def finish_tile(
    prepared: Prepared, engine: Engine, composed: Composed, advance: Callable[[int], None] = lambda pixels: None
) -> Finished:
    """Encode and label a tile that was read; `advance` is a callback with the pixels done so far."""
    start = time.perf_counter()
    made, asked = composed.made.inner(prepared.margin), prepared.request
    labelled = label_tile(prepared, engine, composed.made, composed.inside, advance, composed.known)
    layers = {**labelled.layers, **imagery.of_tile(asked, made, composed.inside)}
    codes = labelled.codes
    kept: dict[str, Layers] = {}
    if asked.save_composites:
        kept[COMPOSITES] = {"composite": made.dn, "clear": made.clear}
    if codes is not None:
        kept[EMBEDDINGS] = {"embedding": codes, CLEAR_MONTHS: layers[CLEAR_MONTHS]}
    seconds = {"composite": composed.seconds, "encode": time.perf_counter() - start, WAIT: composed.waited}
    since = str(asked.update.period) if asked.update else ""
    reused = Reused(composed.months, labelled.kept, labelled.encoded, since)
    seen = _seen(asked, made, composed.inside, layers[CLEAR_MONTHS])
    about = About(made.dark, made.missed, seconds, reused, composed.task.fingerprint, gave=made.gave, seen=seen)
    return Finished(pack(layers), about, kept)


def _seen(asked: Request, made: Composite, inside: NDArray[np.bool_], months: NDArray[np.uint8]) -> Seen:
    """How much of the area in a tile is mapped; `months` are its (y, x) clear months."""
    names = asked.period.month_names
    clear = tuple(int(np.count_nonzero(inside & (seen > 0))) for seen in made.clear)
    held = tuple(name for name, count in zip(names, clear, strict=True) if count)
    mapped = int(np.count_nonzero(inside & (months >= asked.min_clear_months)))
    return Seen(int(np.count_nonzero(inside)), mapped, held, clear)


@dataclass(frozen=True, slots=True)
class TileResult:
    """The result of encoding a tile."""

    layers: Layers
    codes: NDArray[np.int8] | None  # (C, y, x) codes of the embeddings, if they are saved
    kept: int  # pixels whose labels were reused
    encoded: int


def label_tile(
    prepared: Prepared,
    engine: Engine,
    made: Composite,
    inside: NDArray[np.bool_],
    advance: Callable[[int], None] = lambda pixels: None,
    known: Known | None = None,
) -> TileResult:
    """All layers of a tile from one encoding pass over the pixels whose labels are not known yet.

    `made` has a margin of Prepared.margin pixels.
    """
    asked, codec = prepared.request, prepared.codec
    own = made.inner(prepared.margin)
    months, usable = pipeline.usable_pixels(own, inside, asked.min_clear_months)
    labels = TileLabels(prepared.questions, usable.shape, asked.finish.smooth, partial(series_at, own))
    codes = None if codec is None else np.zeros((codec.size, usable.size), np.int8)
    kept = np.flatnonzero(usable & known.same & (known.layers[CLEAR_MONTHS] == months)) if known else np.arange(0)
    if known is not None:
        usable.ravel()[kept] = False
        labels.keep(kept, known.layers)
        if codes is not None and known.codes is not None:
            codes[:, kept] = known.codes.reshape(len(codes), -1)[:, kept]

    def pixels() -> pipeline.Embedded:
        for where, embeddings in pipeline.embed_pixels(engine, made, usable, asked.period.calendar_months):
            yield where, embeddings
            if codes is not None and codec is not None:
                codes[:, where] = codec.encode(embeddings).cpu().numpy().T
            advance(int(where[-1]) + 1)

    layers = pipeline.label_pixels(pixels(), labels, months, prepared.within)
    shaped = None if codes is None else codes.reshape(-1, *usable.shape)
    return TileResult(layers, shaped, len(kept), int(usable.sum()))


def series_at(made: Composite, where: NDArray[np.intp]) -> torch.Tensor:
    """(n, T, C) series of the pixels at flat indices (n,) of a composite of T months."""
    series = made.series(*np.divmod(where, made.shape[1]))
    return torch.from_numpy(np.ascontiguousarray(series.transpose(2, 0, 1)))
