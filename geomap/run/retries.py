"""Makes all tiles of a run: a tile that fails is retried once, then left out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, TypeAlias

from geomap.catalog import offset_check
from geomap.errors import GeomapError, TemporaryError
from geomap.run.directory import Quarantined, RunDirectory
from geomap.run.progress import Tracker
from geomap.run.tile_file import Finished, Outcome, Task
from geomap.sources.hrefs import redacted
from geomap.types import FAULTS, MAX_MISSED, Progress, may_miss

log = logging.getLogger(__name__)

ATTEMPTS: Final = 2
"""Attempts per tile; the second comes after all other tiles, and one tile at a time."""

HOPELESS: Final = 8
"""If this many tiles fail before one succeeds, the cause is general (credentials, say), and the run stops."""

Make: TypeAlias = Callable[[Sequence[Task], Tracker, bool], Generator[Outcome]]
"""(tasks, tracker, one at a time) -> the outcome of each task, in any order (workers.Workers.work)."""


@dataclass(frozen=True, slots=True)
class Tried:
    """The result of `try_tiles`."""

    quarantined: Mapping[str, Quarantined]  # by tile name
    seconds: Mapping[str, float]  # by stage, added over the tiles of this run


def try_tiles(
    run: RunDirectory,
    all_tasks: Sequence[Task],
    pending: Sequence[Task],
    make: Make,
    progress: Progress,
    max_missed: float = MAX_MISSED,
    kept: Collection[str] = (),
) -> Tried:
    """Make the pending tiles and keep each one as soon as it is finished; quarantine the tiles that fail twice.

    Args:
        run: where the tiles are kept; its scenes are known.
        all_tasks: all tasks of the run; those that are not pending are finished or quarantined.
        pending: tasks to do.
        make: does the tasks.
        progress: callback for tiles read and pixels encoded.
        max_missed: share of the scenes that may be left out for a fault.
        kept: names of pending tiles that are finished and lack a scene, which may be readable now; they stay as they
            are if a scene that they have cannot be read any more.

    Raises:
        TemporaryError: raised by the first tile that meets one; run again later.
        OffsetError: the pixels of more scenes than may be left out contradict their offsets.
        Exception: the error of the first tile, if no tile could be made.
    """
    tracker = Tracker(run, pending, progress)
    left_out, ready = _before(run, all_tasks, pending)
    dark = offset_check.total(run.about(task.tile).dark for task in ready)
    seconds: Counter[str] = Counter()
    done, again = len(ready), list(pending)
    for attempt in range(1, ATTEMPTS + 1):
        failed: list[tuple[Task, Exception]] = []
        missing = {task.tile.name for task in again}
        with closing(make(again, tracker, attempt > 1)) as outcomes:
            for outcome in outcomes:
                missing.remove(outcome.task.tile.name)
                if outcome.finished is None:
                    failed.append((outcome.task, _failure(outcome, attempt)))
                    tracker.failed(outcome.task, cause(failed[-1][1]))
                    if not done and len(failed) >= HOPELESS:
                        raise failed[0][1]
                    continue
                if outcome.task.tile.name in kept and (lost := _lost(run, outcome.task, outcome.finished)):
                    log.warning("tile %s stays as it was: %s cannot be read now", outcome.task.tile.name, lost)
                else:
                    dark = offset_check.total([dark, outcome.finished.about.dark])
                    offset_check.weigh(run.scenes or (), dark, may_leave_out(run, max_missed), so_far=True)
                    run.save(outcome.task, outcome.finished)
                    log.info("tile %s is made", outcome.task.tile.name)
                    seconds.update(outcome.finished.about.seconds)
                tracker.done(outcome.task)
                done += 1
                del outcome  # the tile after next is already being read
        if missing:
            raise GeomapError(f"{len(missing)} tiles were not tried, such as {min(missing)}; the same command resumes")
        again = [task for task, _ in failed]
    if failed and not done:
        raise failed[0][1]
    for task, error in failed:
        if task.tile.name in kept:
            log.warning("tile %s stays as it was: %s", task.tile.name, cause(error))
        else:
            left_out[task.tile.name] = Quarantined(cause(error), task.fingerprint)
    run.quarantine(left_out)
    return Tried(left_out, seconds)


def _before(
    run: RunDirectory, all_tasks: Sequence[Task], pending: Sequence[Task]
) -> tuple[dict[str, Quarantined], list[Task]]:
    """The tiles that stay quarantined, and the tasks that are finished."""
    prints = {task.tile.name: task.fingerprint for task in all_tasks}
    todo = {task.tile.name for task in pending}
    before = run.quarantined().items()
    left_out = {name: q for name, q in before if name not in todo and q.fingerprint == prints.get(name)}
    return left_out, [task for task in all_tasks if task.tile.name not in todo | left_out.keys()]


def _lost(run: RunDirectory, task: Task, made: Finished) -> str:
    """The ids of the scenes that a kept tile has and that could not be read for it now; empty if there is none."""
    before = {missed.scene for missed in run.about(task.tile).missed}
    return ", ".join(sorted({missed.scene for missed in made.about.missed} - before))


def may_leave_out(run: RunDirectory, limit: float) -> int:
    """How many more scenes of a run may be left out for a fault, if `limit` is the allowed share."""
    faults = sum(item.cause in FAULTS for item in run.left_out)
    return max(0, may_miss(len(run.scenes or ()) + faults, limit) - faults)


def _failure(outcome: Outcome, attempt: int) -> Exception:
    """The error of a tile that failed; raised here if it is temporary."""
    error = outcome.error or GeomapError("failed without a cause")
    if isinstance(error, TemporaryError):
        raise error
    bug = None if isinstance(error, GeomapError) else error  # with its traceback
    log.warning(
        "tile %s failed (attempt %d of %d): %s", outcome.task.tile.name, attempt, ATTEMPTS, cause(error), exc_info=bug
    )
    _forget_frames(error)
    return error


def _forget_frames(error: BaseException) -> None:
    """Drop the tracebacks of an error and its causes: they hold the tile's arrays."""
    cause: BaseException | None = error
    while cause is not None and cause.__traceback__ is not None:  # causes may form a ring
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__


def cause(error: Exception) -> str:
    """Kind and message in one line, without the secret parts of addresses."""
    kind = next(kind for kind in type(error).__mro__ if not kind.__name__.startswith("_"))
    return f"{kind.__name__}: {redacted(' '.join(str(error).split()))}"
