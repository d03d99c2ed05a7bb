"""The work on one tile: scenes -> composite -> embeddings -> layers, the next composite read ahead."""

from __future__ import annotations

import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomap import composite, encode, grid, guard, read
from geomap.errors import DamagedError, ReadError
from geomap.mask import DEFAULT_MASK, Mask
from geomap.offset import parse_baseline
from geomap.providers import PROVIDERS
from geomap.reader import DEADLINE, Access
from geomap.run import rolling
from geomap.run.fingerprint import made_in, over
from geomap.run.finished import Evidence, Finished, Layers, Outcome, Reused
from geomap.run.request import CLEAR_MONTHS, MAX_MISSED, Earlier, Job, Request
from geomap.run.rolling import Known
from geomap.run.sheet import Sheet
from geomap.run.stores import composite_over
from geomap.run.tracker import Tracker
from geomap.sentinel2 import BANDS, SCL
from geomap.store import COMPOSITES, EMBEDDINGS, open_store
from geomap.types import Composite, Grid, Missed, Period, Scene, Stack, Tile

log = logging.getLogger(__name__)

NOT_MAPPED = 255
"""Nodata of clear months."""
REMOTE_THREADS = 16
"""Reads in flight over a network, where waiting, not decoding, takes the time."""


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
    found = rolling.shared(update, tile, over(scenes, tile.grid), asked.period)
    if found is None:
        return _from_scenes(asked, scenes, tile), (), None
    made = _from_scenes(asked, scenes, tile, found.steps.keys())
    try:
        known = rolling.take_over(job, tile, made, found)
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
    return Finished(layers, Evidence(made.dark, made.missed), seconds, kept, reused)


def compose(
    scenes: Sequence[Scene],
    tile: Grid,
    period: Period,
    mask: Mask = DEFAULT_MASK,
    max_missed: float = MAX_MISSED,
    deadline: float = DEADLINE,
    skip: Collection[int] = (),
) -> Composite:
    """Read the scenes over a tile's grid and make its composite.

    A scene of which a file is missing or damaged is left out, all its bands, as if it were not there.

    Args:
        scenes: others than those over the tile do not matter.
        tile: its grid.
        period: the months.
        mask: which observations are clear.
        max_missed: share of the scenes over the tile that may be left out; above 0, one always may.
        deadline: seconds for which a server may refuse a file.
        skip: steps of the period that are not read and stay empty; those that are read come out as without it.

    Raises:
        ReadError: access is denied, or more scenes cannot be read than may be missed.
        SourceUnavailableError: the pixels' server refuses or does not answer.
    """
    near = over(scenes, tile)
    zone, wanted = made_in(near, tile), [scene for scene in near if period.step(scene.time) not in skip]
    missed: dict[str, Missed] = {}
    while True:
        faults: dict[str, DamagedError] = {}
        access = Access(_gdal_options(near), deadline, faults)
        try:
            made = _composed([scene for scene in wanted if scene.id not in missed], tile, zone, period, mask, access)
        finally:
            access.stopped.set()  # after an error other reads may still be waiting for a server
        found = _missed_scenes(wanted, faults)
        missed |= found
        _check_missed(near, missed, faults, max_missed)
        if made is not None and not found:
            return replace(made, missed=tuple(missed[scene] for scene in sorted(missed)))


def _composed(
    near: Sequence[Scene], tile: Grid, zone: int, period: Period, mask: Mask, access: Access
) -> Composite | None:
    """The composite of scenes that are over the tile; None where that is known to be wasted: there are faults.

    Where all scenes lie in one other zone, it is made there and brought over: bands of 20 m, read for the tile's own
    pixels of 20 m, would come from up to 14 m further away.
    """
    if zone != tile.epsg:
        there = grid.covering(tile, zone)
        made = _composed(near, there, zone, period, mask, access)
        return None if made is None else _under(tile, made, there)
    stack = open_stack(near, tile, period, mask, access)
    if access.faults:
        return None
    if stack is None:
        shape = (period.months, *tile.shape)
        return Composite(np.zeros((period.months, len(BANDS), *tile.shape), np.uint16), np.zeros(shape, np.uint8))
    watch = guard.DarkCount(stack.scl)
    made = composite.compute(stack, period.months, workers=_threads(near), watch=watch)
    return replace(made, dark=watch.counts())


def _under(tile: Grid, made: Composite, there: Grid) -> Composite:
    """A composite on the grid `there`, which covers the tile, as the tile's: of each centre, the pixel it lies in."""
    rows, columns = grid.pixels_under(tile, there)
    return replace(made, dn=made.dn[:, :, rows, columns], clear=made.clear[:, rows, columns])


def _missed_scenes(scenes: Sequence[Scene], faults: Mapping[str, DamagedError]) -> dict[str, Missed]:
    """By id, the scenes of which a file is at fault."""
    missed = {}
    for scene in scenes:
        for band in (SCL, *BANDS):
            fault = faults.get(scene.assets[band].href)
            if fault is not None:
                missed[scene.id] = Missed(scene.id, band, fault.cause, fault.detail)
                break
    return missed


def _check_missed(
    near: Sequence[Scene], missed: Mapping[str, Missed], faults: Mapping[str, DamagedError], limit: float
) -> None:
    """Raise ReadError where more scenes are missed than may be."""
    for fault in faults.values():
        log.info("left out: %s", fault)
    allowed = max(1, math.floor(limit * len(near) + 1e-9)) if limit > 0 else 0
    if missed and (len(missed) > allowed or len(missed) == len(near)):
        first = next(iter(faults.values()))
        raise ReadError(
            f"{len(missed)} of {len(near)} scenes over one tile cannot be read, {allowed} may be missed (--max-missed "
            f"{100 * limit:g}): {', '.join(sorted(missed))}; the first: {first}"
        )


def open_stack(
    scenes: Sequence[Scene],
    tile: Grid,
    period: Period,
    mask: Mask = DEFAULT_MASK,
    access: Access | None = None,
) -> Stack | None:
    """The stack over a tile's grid, its SCL read and its DNs lazy, or None where no scene touches the grid."""
    near = sorted(over(scenes, tile), key=lambda scene: _rank(scene, tile))
    if not near:
        return None
    access = access or Access(_gdal_options(near))
    margin = mask.reach  # what is clear at an edge must not depend on how the area is cut into tiles
    scl = composite.read_classes(read.scene_classes(near, tile, access, margin), workers=_threads(near))
    inner = (slice(None), slice(margin, scl.shape[1] - margin), slice(margin, scl.shape[2] - margin))
    stack = read.stack(near, tile, period, access, composite.clear_np(scl, mask)[inner])
    return replace(stack, scl={scene.id: classes for scene, classes in zip(near, scl[inner], strict=True)})


def _rank(scene: Scene, tile: Grid) -> tuple[Any, ...]:
    """Preference where granules of one pass overlap: newest processing, the tile's own zone, then PROVIDERS' order."""
    major, minor = parse_baseline(scene.baseline) or (0, 0)
    return -major, -minor, scene.epsg != tile.epsg, list(PROVIDERS).index(scene.provider), scene.time, scene.id


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


def label_tile(
    job: Job,
    made: Composite,
    inside: NDArray[np.bool_],
    advance: Callable[[int], None],
    known: Known | None = None,
) -> Labelled:
    """All layers of a tile from one encoding pass, over the pixels that are not known."""
    valid = encode.valid_months_np(made.dn).sum(axis=0, dtype=np.uint8)  # (y, x) months
    usable = inside & (valid >= job.request.min_clear_months)
    sheet = Sheet(job.questions, usable.shape)
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
