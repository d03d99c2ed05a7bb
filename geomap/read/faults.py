"""Scenes that cannot be read: which are left out of a composite, and how many may be."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from geomap.errors import DamagedError, ReadError
from geomap.sentinel2 import BANDS, SCL
from geomap.types import Missed, Scene, may_miss

log = logging.getLogger(__name__)


def missed_scenes(scenes: Sequence[Scene], faults: Mapping[str, DamagedError]) -> dict[str, Missed]:
    """Scene id -> the fault of a scene with a missing or damaged file; `faults` is keyed by address (access.Access)."""
    missed = {}
    for scene in scenes:
        for band in (SCL, *BANDS):
            fault = faults.get(scene.assets[band].href)
            if fault is not None:
                log.info("left out: %s", fault)
                missed[scene.id] = Missed(scene.id, band, fault.cause, fault.detail + _instead(scene))
                break
    return missed


def _instead(scene: Scene) -> str:
    """What to type to use another item of a scene; empty if there is none."""
    return f"; --exclude {scene.id} uses its copy {scene.copy}" if scene.copy else ""


def check_missed(
    scenes: Sequence[Scene], missed: Mapping[str, Missed], faults: Mapping[str, DamagedError], limit: float
) -> None:
    """Raise ReadError if more of the `scenes` over one grid are missed than allowed.

    `limit` is the allowed share; if it is above 0, one scene may always be missed, but never all of them.
    """
    allowed = may_miss(len(scenes), limit)
    if missed and (len(missed) > allowed or len(missed) == len(scenes)):
        first = next(iter(faults.values()))
        ids = sorted(scene.id for scene in scenes if scene.id in missed and scene.copy)
        copies = f"; {len(ids)} have a copy, which is used with --exclude {' --exclude '.join(ids)}" if ids else ""
        raise ReadError(
            f"{len(missed)} of {len(scenes)} scenes over one tile cannot be read, {allowed} may be missed "
            f"(--max-missed {100 * limit:g}): {', '.join(sorted(missed))}{copies}; the first: {first}"
        )
