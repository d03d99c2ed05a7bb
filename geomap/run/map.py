"""From a request to finished maps in a directory.

    search -> for each tile: composite -> encode -> label -> state on disk -> one COG per layer and zone -> published

The maps are made in the state directory and are moved to the output together, once all of them are complete. A run that
dies leaves finished tiles and no maps; the same call resumes from those tiles and gives the same bytes. The next tile's
composite is read while the current tile is encoded; at most two tiles are in memory, so memory does not grow with the
area.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Final

from geomap import files, grid
from geomap.catalog import offset_check
from geomap.catalog.search import Found
from geomap.errors import InputError
from geomap.label.classify import Question
from geomap.run import check, edges, imagery, publish, stores, update
from geomap.run import log as runlog
from geomap.run.account import Account, Mapped
from geomap.run.directory import SOURCE, Begun, RunDirectory, differing, open_directory, read_begun, require_run
from geomap.run.from_store import label_stored
from geomap.run.identity import identity_of, tasks
from geomap.run.learned import LearnedRecord
from geomap.run.learning import base_of, in_store, teach, with_taught
from geomap.run.lesson import by_points
from geomap.run.prepare import (
    PIXELS_PER_KM2,
    Prepared,
    Product,
    disk_space,
    find_scenes,
    months_expected,
    prepare,
    read_bytes,
)
from geomap.run.progress import Tracker
from geomap.run.publish import Maps, publish_maps, published
from geomap.run.record import Record, Update, read_record
from geomap.run.request import Request
from geomap.run.retries import Make, may_leave_out, try_tiles
from geomap.run.steady import Reading, run_of, steady
from geomap.run.tile_file import Outcome, Task
from geomap.run.tiles import Here
from geomap.run.totals import ASSESSED
from geomap.run.wording import warn_of_months, warn_of_words
from geomap.run.workers import Resources, Workers
from geomap.store.store import COMPOSITES, EMBEDDINGS, open_store
from geomap.text import plural
from geomap.types import EXCLUDE, UPDATE, LeftOut, Progress, Scene, Tile, silent, today
from geomap.write.layer import Layer, Statistics

log = logging.getLogger(__name__)

UNFINISHED: Final = frozenset({EXCLUDE, UPDATE, "composites", "geomap"})
"""Request keys that may differ from those of an unfinished run, whose tiles count by their fingerprints alone."""
FIXED: Final = frozenset({"area", "bounds"})
"""Request keys that must stay the same whatever is redone."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, estimated before it reads a pixel."""

    tiles: int
    scenes: int
    months: int  # months with at least one scene
    pixels: int  # inside the area, approximate
    read_bytes: int  # decoded; compressed files have about half
    encode_seconds: float | None  # None on a cluster, whose speed is not known


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run."""

    directory: Path
    layers: tuple[Layer, ...]
    tiles: int
    resumed: int  # tiles finished by an earlier run; all of them if that run was complete
    paths: tuple[Path, ...]  # of the maps
    statistics: Mapping[str, Statistics]  # by layer stem, over all zones
    scenes: tuple[Scene, ...] = ()  # empty if an earlier run was complete
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage, added over tiles; stages overlap
    quarantined: Mapping[str, str] = field(default_factory=dict)  # tiles that failed twice -> cause; nodata in the maps
    missed: int = 0  # scenes left out of at least one tile because a file is missing or damaged
    update: Update | None = None  # what was reused from an earlier run
    account: Account | None = None  # what became of the scenes; None if none were searched
    mapped: Mapped | None = None  # how much of the area; None of runs of earlier versions
    own: str = ""  # how the names of the maps on a grid of the user's own end; empty without one
    renewed: str = ""  # how a finished run that was made again differs from what it was, in words; empty of others

    def __repr__(self) -> str:
        return f"Result({str(self.directory)!r}: {', '.join(self.statistics)})"


@dataclass(frozen=True, slots=True)
class Again:
    """Which parts of a finished run are redone; by default none."""

    refresh: bool = False  # search again, and redo the tiles whose scenes or settings changed, or that missed a scene
    retry: bool = False  # retry the quarantined tiles

    def __bool__(self) -> bool:
        return self.refresh or self.retry

    def renews(self, asked: Mapping[str, Any], key: str, before: Begun) -> bool:
        """Whether a key of a request may differ from that of the previous run."""
        if self.refresh:
            return key not in FIXED
        goes_on = key in UNFINISHED or (key in SOURCE and _rewritten(asked, before.request))
        return (self.retry and key in SOURCE) or (not before.finished and goes_on)


def map_area(
    request: Request,
    out: Path | str,
    progress: Progress = silent,
    on_estimate: Callable[[Estimate], None] = lambda estimate: None,
    *,
    resources: Resources = Resources(),  # noqa: B008
    refresh: bool = False,
    retry_quarantined: bool = False,
    earlier: Sequence[Path] = (),
    keep_items: bool = False,
    day: date | None = None,
    refreshed_by: str | None = None,
) -> Result:
    """Map an area into `out`: COGs, styles, STAC items, run.json and SHA256SUMS.

    The directory is created only once scenes are found. An unfinished run of the same request is resumed; a finished
    run is left as it is.

    Args:
        request: everything that decides the content of the maps.
        out: output directory.
        progress: callback for tiles, pixels and maps done.
        on_estimate: callback with the estimate of the run, called before a pixel is read.
        resources: where the tiles are made; by default in this process.
        refresh: for a finished run, search again and redo the tiles whose scenes (or weights, legends, version:
            anything but the area) have changed, or in which a scene could not be read; the tiles are kept for the next
            refresh.
        retry_quarantined: retry the tiles that failed twice; for a finished run, search again.
        earlier: finished runs of the same place, whose areas the page shows beside those of this one.
        keep_items: go by what was read of an item file that was rewritten since, unless a search is asked for.
        day: the day (UTC) by which a month is over or not, of which a warning tells; today by default.
        refreshed_by: the command that refreshes this run, for that warning.

    Raises:
        InputError: the request cannot be met (the subclasses say why).
        RenewedError: a run that this one takes composites or labels from was made anew meanwhile.
        TemporaryError: a failure of the catalogue, the pixel server, the cluster or the disk; run again later.
        ReadError: no tile could be read, because files of scenes are missing or damaged.
    """
    if not (isinstance(request, Request) and isinstance(out, str | Path)):
        raise InputError("give map_area a geomap.Request and the path of the directory for the maps")
    out, again = Path(out), Again(refresh, retry_quarantined)
    with steady(*_runs_read(request)) as reading, _crew(resources, request.device) as crew:
        prepared = prepare(request, crew.device, crew.dtype)
        warn_of_words(request.legends, prepared.weights)
        asked = identity_of(prepared)
        if keep_items and not again:
            prepared, asked = _as_read(out, prepared, asked)
        open_run = partial(open_directory, out, asked, partial(again.renews, asked))
        run = open_run()
        if again or not run.complete:
            update.require(prepared, asked)
        search = run.scenes is None and (again or not run.complete)
        found = find_scenes(request, progress, prepared.margin) if search else None
        with run.lock(), runlog.kept(out):
            run = open_run()  # another run may have started and ended during the search
            files.clean_temporary(out)
            run = _unmark_damaged(prepared, run)
            if run.complete and not again:
                return _finished(prepared.product, run)
            run = stores.attach(prepared, asked, run)
            if run.scenes is None:
                files.require_space(out, disk_space(prepared))
                found = found or find_scenes(request, progress, prepared.margin)
            found = found or Found(run.scenes or (), run.left_out, request.period, run.searched)
            all_tasks = tasks(prepared, found.scenes)
            pending = _pending(prepared, run, all_tasks, retry_quarantined)
            gaps = _with_gaps(run, all_tasks, pending) if refresh else []
            pending += gaps
            if run.complete and not pending:
                done = _finished(prepared.product, run)
                return (
                    replace(done, renewed="searched again; nothing changed, it is left as it is") if refresh else done
                )
            listed = files.sums(out)
            before = _record_of(out) if listed else None
            assessed = ASSESSED in (listed or files.sums_before(out))
            run = run.begin(asked, found.scenes, found.left_out, all_tasks, found.searched)
            if request.composites is None:
                warn_of_months(request.period, day or today(), refreshed_by)
            on_estimate(estimate(prepared, crew, found.scenes, pending))
            resumed = len(all_tasks) - len(pending)
            log.info("%d scenes; %d of %d tiles to make", len(found.scenes), len(pending), len(all_tasks))
            make = _steadily(reading, partial(crew.work, prepared))
            made = _made(prepared, asked, run, all_tasks, pending, make, progress, {task.tile.name for task in gaps})
            start = time.perf_counter()
            product, maps = _publish(prepared, asked, made, reading, earlier, progress)
            made.run.finish(asked, made.tasks, keep=refresh or bool(made.missing))
            seconds = {**made.seconds, "write": time.perf_counter() - start}
            log.info("finished: %d maps; seconds by stage: %s", len(maps.paths), _rounded(seconds))
            done = result(product, made.run, maps, resumed, seconds)
            return replace(done, renewed=_renewal(before, _record_of(out), assessed))


def _record_of(directory: Path) -> Record | None:
    """The record of a finished run; None of a run of another version, whose record cannot be read."""
    try:
        return read_record(directory)
    except InputError:
        return None


def _renewal(before: Record | None, now: Record | None, assessed: bool) -> str:
    """How the scenes of a run that was made again differ from those that it had, and what is gone with its old maps.

    Empty where there were no finished maps; where these were damaged, or not all in place, scenes are not compared.
    """
    lost = "; the assessment of the old maps is removed: type geomap assess again" if assessed else ""
    if before is None or now is None:
        return lost and f"made anew{lost}"
    had, has = ({scene.id for scene in record.scenes} for record in (before, now))
    was, still = ({missed.scene for missed in record.missed} for record in (before, now))
    mended = (was - still) & has if not now.quarantined else ()  # a tile that is left out misses no scene
    told = "the same scenes" if had == has else f"{plural(len(has - had), 'scene')} new, {len(had - has)} gone"
    read = f", {len(mended)} read that could not be read before" if mended else ""
    return f"made anew: {told}{read}{lost}"


@dataclass(frozen=True, slots=True)
class _Made:
    """The tiles of a run, made or not."""

    run: RunDirectory
    tasks: tuple[Task, ...]
    missing: Mapping[str, str]  # tile that failed twice -> kind of error
    seconds: Mapping[str, float]  # by stage


def _made(
    prepared: Prepared,
    asked: Mapping[str, Any],
    run: RunDirectory,
    all_tasks: tuple[Task, ...],
    pending: Sequence[Task],
    make: Make,
    progress: Progress,
    kept: Collection[str],
) -> _Made:
    """Make the pending tiles; if a scene's pixels contradict its offset, unlike the others', make its tiles without it.

    Arguments and exceptions as `try_tiles`.
    """
    limit, seconds = prepared.request.max_missed, Counter[str]()
    while True:
        tried = try_tiles(run, all_tasks, pending, make, progress, limit, kept)
        seconds.update(tried.seconds)
        missing = {name: q.kind for name, q in tried.quarantined.items()}
        dark = offset_check.total(run.about(task.tile).dark for task in all_tasks if task.tile.name not in missing)
        wrong = offset_check.weigh(run.scenes or (), dark, may_leave_out(run, limit)).wrong
        if not wrong:
            return _Made(run, all_tasks, missing, seconds)
        for evidence in wrong.values():
            log.warning("left out: %s", evidence)
        scenes = [scene for scene in run.scenes or () if scene.id not in wrong]
        left_out = (*run.left_out, *(LeftOut(name, "contradiction", text) for name, text in sorted(wrong.items())))
        all_tasks = tasks(prepared, scenes)
        pending = _pending(prepared, run, all_tasks, False)
        run = run.begin(asked, scenes, left_out, all_tasks, run.searched)


def _publish(
    prepared: Prepared,
    asked: Mapping[str, Any],
    made: _Made,
    reading: Reading,
    earlier: Sequence[Path],
    progress: Progress,
) -> tuple[Product, Maps]:
    """Write the maps of the tiles that were made: learned from points, smoothed across tiles, compared with an update.

    Other arguments as `map_area`; raises as `teach`, and RenewedError.
    """
    run, request = made.run, prepared.request
    ready = [task.tile for task in made.tasks if task.tile.name not in made.missing]
    taught = _taught(prepared, run, ready, progress)
    edges.mend(run, ready, taught.questions, prepared.within, request.finish.smooth, progress)
    merged = publish.merged(prepared.product, run, ready, progress)
    shown, views = imagery.resolved(prepared.product.layers, request, prepared.tiles, run, ready)
    derived = {**merged, **update.changes(prepared, run, merged), **views}
    lost = {name: _inside(request, task) for task in made.tasks if (name := task.tile.name) in made.missing}
    beside = partial(_write_beside, prepared, taught.files)
    past = (*earlier, *([request.update.directory] if request.update else []))
    product = replace(
        prepared.product,
        lineage=prepared.product.lineage + by_points(taught.record),
        moved=prepared.product.moved if taught.record is None else taught.record.moved,
        places=taught.places,
        layers=shown,
        earlier=tuple(dict.fromkeys(past)),
    )
    return product, publish_maps(
        product, run, made.tasks, asked, made.missing, progress, derived, lost, beside, reading.require
    )


def _rounded(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items())


@dataclass(frozen=True, slots=True)
class _Taught:
    """The legends of a run after points have taught one."""

    questions: tuple[Question, ...]
    places: tuple[Mapping[str, Any], ...] = ()  # where more points would help most
    files: Mapping[str, bytes] = field(default_factory=dict)  # beside the maps
    record: LearnedRecord | None = None


def _taught(prepared: Prepared, run: RunDirectory, tiles: Sequence[Tile], progress: Progress) -> _Taught:
    """Learn from the run's stores, if points were given, and label the tiles again from these. Raises as teach."""
    lesson, asked = prepared.lesson, prepared.request
    if lesson is None or prepared.codec is None:
        return _Taught(prepared.questions, files=prepared.known.beside() if prepared.known else {})
    kept = next(s for s in run.stores if s.kind == EMBEDDINGS)
    series = next((s for s in run.stores if s.kind == COMPOSITES), None)
    if asked.composites is not None:
        series = open_store(asked.composites)
    stored = in_store(prepared.questions, prepared.codec)
    base = base_of(lesson.legend.name, stored, prepared.within)
    progress("learn", 0, len(tiles))
    teaching = teach(lesson, prepared.weights, kept, series, asked.min_confidence, base)
    questions = with_taught(stored, teaching.question)
    for done, tile in enumerate(tiles, start=1):
        seen = {layer.stem: run.load(tile, layer.stem) for layer in prepared.imagery}
        made = label_stored(kept, series, questions, prepared.within, tile, asked.finish.smooth)
        run.mend(tile, {**made, **seen})
        progress("learn", done, len(tiles))
    return _Taught(questions, teaching.places, teaching.files, teaching.record)


def _write_beside(prepared: Prepared, learned: Mapping[str, bytes], directory: Path) -> None:
    """Write what lies beside the maps: the matrices of an update, and what was learned from points."""
    update.write_matrices(prepared, directory)
    files.write_all(learned, directory)


def _inside(request: Request, task: Task) -> int:
    """Pixels of the area in a tile."""
    return int(grid.inside(request.area, task.tile.grid).sum())


def _runs_read(request: Request) -> tuple[Path, ...]:
    """The directories of the runs whose pixels a request takes."""
    composites = () if request.composites is None else (run_of(request.composites, COMPOSITES),)
    return composites if request.update is None else (*composites, request.update.directory)


def _steadily(reading: Reading, make: Make) -> Make:
    """A function that makes tiles and gives no outcome if a run that they are made from is another now."""

    def made(tasks: Sequence[Task], tracker: Tracker, alone: bool) -> Generator[Outcome]:
        with closing(make(tasks, tracker, alone)) as outcomes:
            for outcome in outcomes:
                reading.require()
                yield outcome
                del outcome  # the tile after next is already being read

    return made


def _crew(resources: Resources, device: str) -> Workers:
    """The workers that make the tiles; `device` is auto, cpu or cuda, optionally with a number."""
    if resources.scheduler or resources.workers:
        from geomap.run.cluster import Cluster  # loads dask.distributed

        return Cluster(resources, device)
    return Here(device)


def _as_read(out: Path, prepared: Prepared, asked: dict[str, Any]) -> tuple[Prepared, dict[str, Any]]:
    """The request and its identity as the run in `out` has them, if nothing but its item file was rewritten since.

    The file is not read again: that run is finished and whole, or keeps the scenes that were found in it.
    """
    try:
        if not require_run(out):
            return prepared, asked
        begun = read_begun(out)
    except InputError:
        return prepared, asked  # `open_directory` tells
    rewritten = _rewritten(asked, begun.request) and differing(begun.request, asked) == ["stac"]
    if not rewritten or not (begun.scenes or (begun.finished and files.sums(out) and not check.damaged(out))):
        return prepared, asked
    stac = begun.request["stac"]
    log.info("%s was rewritten since %s read it, and is not read again", stac.partition(" sha256:")[0], out)
    return replace(prepared, told={**prepared.told, "stac": stac}), {**asked, "stac": stac}


def _rewritten(asked: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether two requests are of item files of one name, as `again.source` writes them."""
    (name, now, _), (old, then, _) = (str(of.get("stac")).partition(" sha256:") for of in (asked, before))
    return bool(now and then) and name == old


def _unmark_damaged(prepared: Prepared, run: RunDirectory) -> RunDirectory:
    """Treat a finished run as unfinished if maps are missing or changed. Raises UpdateError."""
    damaged = check.damaged(run.path) if run.complete else ()
    if damaged:
        update.require(prepared, identity_of(prepared))
        log.warning("%s: %s; mapping again", run.path, ", ".join(damaged))
        files.unmark(run.path)
    return run


def _pending(prepared: Prepared, run: RunDirectory, all_tasks: Sequence[Task], retry: bool) -> list[Task]:
    """The tiles that are not finished, and of the quarantined ones all or, unless `retry` is set, none."""
    stems = [layer.stem for layer in (*prepared.layers, *prepared.imagery)]
    failed = _failed(run, all_tasks)
    return [task for task in all_tasks if (retry if task.tile.name in failed else not run.has(task, stems))]


def _with_gaps(run: RunDirectory, all_tasks: Sequence[Task], pending: Sequence[Task]) -> list[Task]:
    """The finished tiles, neither pending nor quarantined, in which a scene could not be read: it may be there now."""
    others = {task.tile.name for task in pending} | _failed(run, all_tasks)
    return [task for task in all_tasks if task.tile.name not in others and run.about(task.tile).missed]


def _failed(run: RunDirectory, all_tasks: Sequence[Task]) -> set[str]:
    """Names of the quarantined tiles whose fingerprint is still that of the tile that failed."""
    failed = {(name, q.fingerprint) for name, q in run.quarantined().items()}
    return {task.tile.name for task in all_tasks if (task.tile.name, task.fingerprint) in failed}


def estimate(prepared: Prepared, crew: Workers, scenes: Sequence[Scene], pending: Sequence[Task]) -> Estimate:
    """What the pending tiles will take: pixels from the size of the area, speed from a short trial here."""
    asked = prepared.request
    pixels = round(len(pending) / len(prepared.tiles) * asked.area.square_km * PIXELS_PER_KM2)
    months = len({asked.period.step(scene.time) for scene in scenes})
    seen = sum(read_bytes(task.tile.grid, _to_read(asked, task)) for task in pending)
    speed = crew.speed(prepared, months_expected(asked.period, scenes)) if pending else 1.0
    seconds = None if speed is None else pixels / speed
    return Estimate(len(pending), len(scenes), months, pixels, int(seen), seconds)


def _to_read(asked: Request, task: Task) -> int:
    """How many scenes over a tile must be read because no earlier run has their month."""
    found = update.shared(asked.update, task, asked.period) if asked.update else None
    return sum(found is None or asked.period.step(scene.time) not in found.steps for scene in task.scenes)


def _finished(product: Product, run: RunDirectory) -> Result:
    """The result of a run that was already complete."""
    return result(product, run, published(product, run.path), len(product.tiles), {})


def result(product: Product, run: RunDirectory, maps: Maps, resumed: int, seconds: Mapping[str, float]) -> Result:
    """The result of a run whose maps are published."""
    return Result(
        directory=run.path,
        layers=product.layers,
        tiles=len(product.tiles),
        resumed=resumed,
        paths=maps.paths,
        statistics=maps.statistics,
        scenes=run.scenes or (),
        seconds=seconds,
        quarantined={name: q.cause for name, q in run.quarantined().items()},
        missed=maps.missed,
        update=maps.update,
        account=maps.account,
        mapped=maps.mapped,
        own=product.own.name if product.own else "",
    )
