"""All tiles of a run: each is tried, tried again if it fails, then left out; what is done is kept at once."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, TypeAlias

from geomap.catalog import offset_check
from geomap.errors import GeomapError, TemporaryError
from geomap.run.directory import Quarantined, State
from geomap.run.prepare import Job
from geomap.run.progress import Tracker
from geomap.run.tile_file import Outcome
from geomap.types import Dark, Progress, Tile

log = logging.getLogger(__name__)

ATTEMPTS: Final = 2
"""Times that a tile is tried; the second time comes after all others, and with no other beside it."""

HOPELESS: Final = 8
"""Tiles that fail before any is finished; then the cause is no tile's own (credentials, say), and the run stops."""

Execute: TypeAlias = Callable[[Sequence[Tile], Tracker, bool], Generator[Outcome]]
"""(tiles, tracker, one at a time) -> how the work on each went, in any order."""


@dataclass(frozen=True, slots=True)
class Done:
    """What `map_tiles` did."""

    quarantined: Mapping[str, Quarantined]  # by tile name
    seconds: Mapping[str, float]  # by stage, added up over this run's tiles


def map_tiles(
    job: Job, state: State, pending: Sequence[Tile], prints: Mapping[str, str], execute: Execute, progress: Progress
) -> Done:
    """Do the pending tiles and keep each as it is finished; the tiles that fail twice are quarantined.

    Args:
        job: the request made ready.
        state: where the tiles are kept; its scenes are found.
        pending: tiles to do; the others of the job are finished, or in quarantine.
        prints: fingerprint of each tile, by name.
        execute: does the work.
        progress: told of tiles read and pixels encoded.

    Raises:
        TemporaryError: of the first tile that meets one; run again later.
        OffsetError: the pixels of a scene contradict its offset.
        Exception: of the first tile, where none could be done.
    """
    tracker = Tracker(state, pending, progress)
    todo = {tile.name for tile in pending}
    before = state.quarantined().items()
    left_out = {name: q for name, q in before if name not in todo and q.fingerprint == prints.get(name)}
    ready = [tile for tile in job.tiles if tile.name not in todo | left_out.keys()]
    dark = offset_check.total(state.about(tile).evidence.dark for tile in ready)
    seconds: dict[str, float] = {}
    done = len(ready)
    for attempt in range(1, ATTEMPTS + 1):
        failed: list[tuple[Tile, Exception]] = []
        with closing(execute(pending, tracker, attempt > 1)) as outcomes:
            for outcome in outcomes:
                if outcome.finished is None:
                    failed.append((outcome.tile, _failure(outcome, attempt)))
                    tracker.failed(outcome.tile, cause(failed[-1][1]))
                    if not done and len(failed) >= HOPELESS:
                        raise failed[0][1]
                    continue
                dark = _checked(state, dark, outcome.finished.evidence.dark)
                state.save(outcome.tile, outcome.finished, prints[outcome.tile.name])
                tracker.done(outcome.tile)
                done += 1
                for stage, spent in outcome.finished.seconds.items():
                    seconds[stage] = seconds.get(stage, 0.0) + spent
                del outcome  # the next but one is being read already
        pending = [tile for tile, _ in failed]
    if failed and not done:
        raise failed[0][1]
    left_out |= {tile.name: Quarantined(cause(error), prints[tile.name]) for tile, error in failed}
    state.quarantine(left_out)
    return Done(left_out, seconds)


def _checked(state: State, before: Mapping[str, Dark], new: Mapping[str, Dark]) -> dict[str, Dark]:
    """The evidence of all tiles so far. Raises OffsetError."""
    total = offset_check.total([before, new])
    offset_check.check(state.scenes or (), total)
    return total


def _failure(outcome: Outcome, attempt: int) -> Exception:
    """The error of a tile that failed. Raises it where it is temporary."""
    error = outcome.error or GeomapError("failed without a cause")
    if isinstance(error, TemporaryError):
        raise error
    bug = None if isinstance(error, GeomapError) else error  # with its traceback
    log.warning(
        "tile %s failed (attempt %d of %d): %s", outcome.tile.name, attempt, ATTEMPTS, cause(error), exc_info=bug
    )
    traceback.clear_frames(error.__traceback__)  # they hold the tile's arrays
    return error


def cause(error: Exception) -> str:
    """Kind and message in one line, addresses without their queries, where tokens live."""
    message = re.sub(r"(\w+://[^\s?]*)\?\S*", r"\1", " ".join(str(error).split()))
    return f"{type(error).__name__}: {message}"
