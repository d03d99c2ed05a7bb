"""All tiles of a run: each is tried, tried again if it fails, then left out; what is finished is kept at once."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, TypeAlias

from geomap.catalog import offset_check
from geomap.errors import GeomapError, TemporaryError
from geomap.run.directory import Quarantined, RunDirectory
from geomap.run.progress import Tracker
from geomap.run.tile_file import Outcome, Task
from geomap.sources.hrefs import redacted
from geomap.types import Dark, Progress

log = logging.getLogger(__name__)

ATTEMPTS: Final = 2
"""Times that a tile is tried; the second time comes after all others, and with no other beside it."""

HOPELESS: Final = 8
"""Tiles that fail before any is finished; then the cause is no tile's own (credentials, say), and the run stops."""

Make: TypeAlias = Callable[[Sequence[Task], Tracker, bool], Generator[Outcome]]
"""(tasks, tracker, one at a time) -> how the work on each went, in any order (workers.Workers.work)."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What `try_tiles` did."""

    quarantined: Mapping[str, Quarantined]  # by tile name
    seconds: Mapping[str, float]  # by stage, added up over this run's tiles


def try_tiles(
    run: RunDirectory, all_tasks: Sequence[Task], pending: Sequence[Task], make: Make, progress: Progress
) -> Tried:
    """Make the pending tiles and keep each as it is finished; the tiles that fail twice are quarantined.

    Args:
        run: where the tiles are kept; its scenes are found.
        all_tasks: those of the whole run; the ones that are not pending are finished, or in quarantine.
        pending: tiles to make.
        make: makes them.
        progress: called with tiles read and pixels encoded.

    Raises:
        TemporaryError: of the first tile that meets one; run again later.
        OffsetError: the pixels of a scene contradict its offset.
        Exception: of the first tile, where none could be made.
    """
    tracker = Tracker(run, pending, progress)
    left_out, ready = _before(run, all_tasks, pending)
    dark = offset_check.total(run.about(task.tile).dark for task in ready)
    seconds: Counter[str] = Counter()
    done, again = len(ready), list(pending)
    for attempt in range(1, ATTEMPTS + 1):
        failed: list[tuple[Task, Exception]] = []
        with closing(make(again, tracker, attempt > 1)) as outcomes:
            for outcome in outcomes:
                if outcome.finished is None:
                    failed.append((outcome.task, _failure(outcome, attempt)))
                    tracker.failed(outcome.task, cause(failed[-1][1]))
                    if not done and len(failed) >= HOPELESS:
                        raise failed[0][1]
                    continue
                dark = _checked(run, dark, outcome.finished.about.dark)
                run.save(outcome.task, outcome.finished)
                tracker.done(outcome.task)
                done += 1
                seconds.update(outcome.finished.about.seconds)
                del outcome  # the next but one is being read already
        again = [task for task, _ in failed]
    if failed and not done:
        raise failed[0][1]
    left_out |= {task.tile.name: Quarantined(cause(error), task.fingerprint) for task, error in failed}
    run.quarantine(left_out)
    return Tried(left_out, seconds)


def _before(
    run: RunDirectory, all_tasks: Sequence[Task], pending: Sequence[Task]
) -> tuple[dict[str, Quarantined], list[Task]]:
    """The tiles that stay in quarantine, and those that are finished."""
    prints = {task.tile.name: task.fingerprint for task in all_tasks}
    todo = {task.tile.name for task in pending}
    before = run.quarantined().items()
    left_out = {name: q for name, q in before if name not in todo and q.fingerprint == prints.get(name)}
    return left_out, [task for task in all_tasks if task.tile.name not in todo | left_out.keys()]


def _checked(run: RunDirectory, before: Mapping[str, Dark], new: Mapping[str, Dark]) -> dict[str, Dark]:
    """The evidence of all tiles so far. Raises OffsetError."""
    total = offset_check.total([before, new])
    offset_check.check(run.scenes or (), total)
    return total


def _failure(outcome: Outcome, attempt: int) -> Exception:
    """The error of a tile that failed. Raises it where it is temporary."""
    error = outcome.error or GeomapError("failed without a cause")
    if isinstance(error, TemporaryError):
        raise error
    bug = None if isinstance(error, GeomapError) else error  # with its traceback
    log.warning(
        "tile %s failed (attempt %d of %d): %s", outcome.task.tile.name, attempt, ATTEMPTS, cause(error), exc_info=bug
    )
    traceback.clear_frames(error.__traceback__)  # they hold the tile's arrays
    return error


def cause(error: Exception) -> str:
    """Kind and message in one line, without what may be secret in addresses."""
    return f"{type(error).__name__}: {redacted(' '.join(str(error).split()))}"
