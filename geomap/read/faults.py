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
                missed[scene.id] = Missed(scene.id, band, fault.cause, fault.detail)
                break
    return missed


def check_missed(scenes: int, missed: Mapping[str, Missed], faults: Mapping[str, DamagedError], limit: float) -> None:
    """Raise ReadError if more of the `scenes` over one grid are missed than allowed.

    `limit` is the allowed share; if it is above 0, one scene may always be missed, but never all of them.
    """
    allowed = may_miss(scenes, limit)
    if missed and (len(missed) > allowed or len(missed) == scenes):
        first = next(iter(faults.values()))
        raise ReadError(
            f"{len(missed)} of {scenes} scenes over one tile cannot be read, {allowed} may be missed (--max-missed "
            f"{100 * limit:g}): {', '.join(sorted(missed))}; the first: {first}"
        )
