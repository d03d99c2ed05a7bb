"""The work on one tile: scenes -> composite -> embeddings -> layers, the next composite read ahead."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomap import composite, encode, grid, guard, label, read
from geomap.legend import Legend
from geomap.offset import parse_baseline
from geomap.providers import PROVIDERS
from geomap.run.request import CLEAR_MONTHS, Job
from geomap.run.state import Layers
from geomap.sentinel2 import BANDS
from geomap.types import Composite, Grid, Labels, Period, Scene, Stack, Tile

NOT_MAPPED = 255
"""Nodata of clear months."""
REMOTE_THREADS = 16
"""Reads in flight over a network, where waiting, not decoding, takes the time."""


def composites(
    job: Job, scenes: Sequence[Scene], pending: Sequence[Tile], seconds: dict[str, float]
) -> Iterator[tuple[Tile, NDArray[np.bool_], Composite]]:
    """Composites in the order of the tiles, the next one being read while one is used."""

    def make(tile: Tile) -> tuple[Tile, NDArray[np.bool_], Composite]:
        start = time.perf_counter()
        made = tile, grid.inside(job.request.area, tile.grid), compose(scenes, tile.grid, job.request.period)
        seconds["composite"] = seconds.get("composite", 0.0) + time.perf_counter() - start
        return made

    pool = ThreadPoolExecutor(1, thread_name_prefix="composite")
    try:
        ahead = pool.submit(make, pending[0]) if pending else None
        for following in [*pending[1:], None]:
            if ahead is None:
                return
            current = ahead.result()
            ahead = pool.submit(make, following) if following else None
            yield current
            del current  # or it would be a third composite in memory
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for a server


def compose(scenes: Sequence[Scene], tile: Grid, period: Period) -> Composite:
    """Read the scenes over a tile's grid and make its composite. Raises ReadError, SourceUnavailableError."""
    stack = open_stack(scenes, tile, period)
    if stack is None:
        shape = (period.months, *tile.shape)
        return Composite(np.zeros((period.months, len(BANDS), *tile.shape), np.uint16), np.zeros(shape, np.uint8))
    watch = guard.DarkCount(stack.scl)
    made = composite.compute(stack, period.months, workers=_threads(scenes), watch=watch)
    return replace(made, dark=watch.counts())


def open_stack(scenes: Sequence[Scene], tile: Grid, period: Period) -> Stack | None:
    """The stack over a tile's grid, its SCL read and its DNs lazy, or None where no scene touches the grid."""
    near = sorted(over(scenes, tile), key=_rank)
    if not near:
        return None
    options = _gdal_options(near)
    scl = composite.read_classes(read.scene_classes(near, tile, options), workers=_threads(near))
    stack = read.stack(near, tile, period, options, composite.clear_np(scl))
    return replace(stack, scl={scene.id: classes for scene, classes in zip(near, scl, strict=True)})


def _rank(scene: Scene) -> tuple[Any, ...]:
    """Order of preference where granules of one pass overlap: the newest processing first, then PROVIDERS' order."""
    major, minor = parse_baseline(scene.baseline) or (0, 0)
    return -major, -minor, list(PROVIDERS).index(scene.provider), scene.time, scene.id


def over(scenes: Sequence[Scene], tile: Grid) -> list[Scene]:
    """Scenes whose box in degrees touches the tile's; boxes may cross the antimeridian (west > east)."""
    west, south, east, north = grid.lonlat_box(tile)
    found = []
    for scene in scenes:
        left, bottom, right, top = scene.bbox
        from_left, from_west = (west - left) % 360, (left - west) % 360  # degrees eastward
        if bottom <= north and top >= south and (from_left <= (right - left) % 360 or from_west <= (east - west) % 360):
            found.append(scene)
    return found


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


def label_tile(job: Job, made: Composite, inside: NDArray[np.bool_], advance: Callable[[int], None]) -> Layers:
    """All layers of a tile from one encoding pass."""
    valid = encode.valid_months_np(made.dn).sum(axis=0, dtype=np.uint8)  # (y, x) months
    usable = inside & (valid >= job.request.min_clear_months)
    size = usable.size
    answers = {q.legend.name: label.blank(q.legend, (size,)) for q in job.questions}
    for where, embeddings in job.engine.embed(made, usable, job.request.period.calendar_months):
        for question in job.questions:
            new, old = label.answer(question, embeddings), answers[question.legend.name]
            old.value[where] = new.value
            if old.confidence is not None and new.confidence is not None:
                old.confidence[where] = new.confidence
        advance(int(where[-1]) + 1)
    if job.within is not None:
        _restrict(answers, job.within, {q.legend.name: q.legend for q in job.questions})
    layers: dict[str, NDArray[Any]] = {CLEAR_MONTHS: np.where(inside, valid, np.uint8(NOT_MAPPED))}
    for name, answer in answers.items():
        layers[name] = answer.value.reshape(usable.shape)
        if answer.confidence is not None:
            layers[f"{name}_confidence"] = answer.confidence.reshape(usable.shape)
    return layers


def _restrict(answers: Mapping[str, Labels], within: tuple[str, int], legends: Mapping[str, Legend]) -> None:
    """Blank every other legend's answer where the legend of `within` has another class."""
    base, wanted = within
    outside = answers[base].value != wanted
    for name, answer in answers.items():
        if name != base:
            empty = label.blank(legends[name], (int(outside.sum()),))
            answer.value[outside] = empty.value
            if answer.confidence is not None and empty.confidence is not None:
                answer.confidence[outside] = empty.confidence
