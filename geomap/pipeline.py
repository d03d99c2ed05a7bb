"""Scenes over a tile -> its composite: scenes of which a file is missing or damaged are left out, counted and named."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from geomap import grid
from geomap.catalog import offset_check
from geomap.catalog.over import made_in, over, rank
from geomap.composite.mask import DEFAULT_MASK, Mask, clear_np
from geomap.composite.monthly import compute, read_classes
from geomap.errors import DamagedError, ReadError
from geomap.read import stack as read
from geomap.read.access import DEADLINE, MAX_MISSED, Access, gdal_options, threads
from geomap.sentinel2 import BANDS, SCL
from geomap.types import Composite, Grid, Missed, Period, Scene, Stack

log = logging.getLogger(__name__)


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
        access = Access(gdal_options(near), deadline, faults)
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
    watch = offset_check.DarkCount(stack.scl)
    made = compute(stack, period.months, workers=threads(near), watch=watch)
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
    near = sorted(over(scenes, tile), key=lambda scene: rank(scene, tile))
    if not near:
        return None
    access = access or Access(gdal_options(near))
    margin = mask.reach  # what is clear at an edge must not depend on how the area is cut into tiles
    scl = read_classes(read.scene_classes(near, tile, access, margin), workers=threads(near))
    inner = (slice(None), slice(margin, scl.shape[1] - margin), slice(margin, scl.shape[2] - margin))
    stack = read.stack(near, tile, period, access, clear_np(scl, mask)[inner])
    return replace(stack, scl={scene.id: classes for scene, classes in zip(near, scl[inner], strict=True)})
