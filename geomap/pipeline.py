"""The main path over one grid, without files or state.

    scenes = catalog.search(area, period, stac)            STAC -> Scenes, each with its radiometric offset
    made   = compose(scenes, grid, period)                 Scenes -> monthly medians of the clear pixels
    pixels = embed_pixels(engine, made, usable, period)    every usable pixel's months -> a unit vector
    layers = label_pixels(pixels, questions, ...)          vectors -> class, confidence, score

Runs make their tiles with these functions (run/tiles.py), and the Python API makes its arrays with them (api).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geomap import grid as grids
from geomap import legends
from geomap.catalog.offset_check import DarkCount
from geomap.catalog.over import made_in, rank
from geomap.composite.mask import DEFAULT_MASK, Mask, clear_np
from geomap.composite.monthly import compute, read_classes
from geomap.encode.engine import Engine, valid_months_np
from geomap.encode.weights import Weights
from geomap.errors import DamagedError
from geomap.label import towers
from geomap.label.choose import Gone
from geomap.label.classify import Question, TileLabels, Within, with_land
from geomap.legends import Legend
from geomap.read.access import DEADLINE, Access, gdal_options, threads
from geomap.read.faults import check_missed, missed_scenes
from geomap.read.stack import scene_classes, stack
from geomap.sentinel2 import BANDS
from geomap.types import MAX_MISSED, NOT_MAPPED, Composite, Gave, Grid, Layers, Missed, Period, Scene, Stack

Embedded = Iterator[tuple[NDArray[np.intp], Tensor]]
"""Flat indices (n,) into (y, x), ascending, and their (n, D) unit embeddings; yielded one window at a time."""


def compose(
    scenes: Sequence[Scene],
    grid: Grid,
    period: Period,
    mask: Mask = DEFAULT_MASK,
    max_missed: float = MAX_MISSED,
    deadline: float = DEADLINE,
    skip: Collection[int] = (),
) -> Composite:
    """Read the scenes over a grid and make their monthly medians.

    A scene with a missing or damaged file is left out with all its bands.


    Args:
        scenes: the scenes over the grid (catalog.over.over).
        grid: 10 m, of even size.
        period: the months.
        mask: which observations are clear.
        max_missed: share of the scenes that may be left out; if above 0, at least one may.
        deadline: seconds for which a server may refuse a file.
        skip: steps of the period that are not read and stay empty; the other steps do not change.

    Raises:
        ReadError: access is denied, or more scenes cannot be read than `max_missed` allows.
        SourceUnavailableError: the pixel server refuses or does not answer.
    """
    zone, wanted = made_in(scenes, grid), [scene for scene in scenes if period.step(scene.time) not in skip]
    missed: dict[str, Missed] = {}
    while True:
        faults: dict[str, DamagedError] = {}
        access = Access(gdal_options(scenes), deadline, faults)
        try:
            made = _medians([scene for scene in wanted if scene.id not in missed], grid, zone, period, mask, access)
        finally:
            access.stopped.set()  # after an error, other reads may still be waiting for a server
        found = missed_scenes(wanted, faults)
        missed |= found
        check_missed(len(scenes), missed, faults, max_missed)
        if made is not None and not found:
            return replace(made, missed=tuple(missed[scene] for scene in sorted(missed)))


def usable_pixels(
    made: Composite, inside: NDArray[np.bool_], least: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """(y, x) months with a value in all bands, NOT_MAPPED outside; (y, x) True where they are at least `least`."""
    months = valid_months_np(made.dn).sum(axis=0, dtype=np.uint8)
    return np.where(inside, months, np.uint8(NOT_MAPPED)), inside & (months >= least)


def embed_pixels(engine: Engine, made: Composite, usable: NDArray[np.bool_], months: Sequence[int]) -> Embedded:
    """Encode the usable pixels, each of which has a valid month; `months`: calendar month 0..11 of each step."""
    return engine.embed(made, usable, months)


def questions(
    asked: Sequence[Legend],
    weights: Weights,
    min_confidence: float = 0.0,
    extras: tuple[str, ...] = (),
    gone: Gone = MappingProxyType({}),
) -> tuple[Question, ...]:
    """Legends with their class vectors, which are stored with the weights or made by the weights' text tower.

    `gone`: the classes that do not compete; their vectors are left out. Raises LegendError if too few are left.
    """
    scale = weights.card.logit_scale
    full = (Question(legend, vectors_of(legend, weights), scale, min_confidence, extras) for legend in asked)
    return tuple(question.without(gone.get(question.legend.name, frozenset())) for question in full)


def vectors_of(legend: Legend, weights: Weights) -> Tensor:
    """(K, D) unit vectors, one for each class or rated prompt, in the order of the legend.

    For "None of these", the last class, there are several: land cover classes that are not near the other classes.
    """
    if legend.has_others:
        own = legend.model_copy(update={"classes": legend.classes[:-1]})
        return with_land(vectors_of(own, weights), vectors_of(legends.load("landcover"), weights))
    stored = weights.stored(legend.digest, len(legend.classes) or len(legend.prompts))
    return towers.cached_class_vectors(legend, weights.card.text_space) if stored is None else stored


def label_pixels(
    pixels: Embedded, labels: TileLabels, clear_months: NDArray[np.uint8], within: Within = MappingProxyType({})
) -> Layers:
    """Label the pixels of a grid; returns the layers by stem, including the (y, x) clear months.

    `within`: legend -> (another legend, class id); nodata where that one has another class.
    """
    for where, embeddings in pixels:
        labels.fill(where, embeddings)
    return labels.layers(within, clear_months)


def _medians(
    scenes: Sequence[Scene], grid: Grid, zone: int, period: Period, mask: Mask, access: Access
) -> Composite | None:
    """The composite of scenes over a grid; None if faults would spoil it.

    If all scenes lie in one other zone, the composite is made in that zone and then brought over. Otherwise, 20 m bands
    that are read for the grid's own 20 m pixels would come from up to 14 m further away.
    """
    if zone != grid.epsg:
        there = grids.covering(grid, zone)
        made = _medians(scenes, there, zone, period, mask, access)
        return None if made is None else _under(grid, made, there)
    opened = open_stack(scenes, grid, period, mask, access)
    if access.faults:
        return None
    if opened is None:
        empty = np.zeros((period.months, len(BANDS), *grid.shape), np.uint16)
        return Composite(empty, np.zeros((period.months, *grid.shape), np.uint8))
    watch = DarkCount(opened.scl)
    made = compute(opened, period.months, workers=threads(scenes), watch=watch)
    return replace(made, dark=watch.counts(), gave=opened.gave)


def open_stack(scenes: Sequence[Scene], grid: Grid, period: Period, mask: Mask, access: Access) -> Stack | None:
    """The scenes as a stack, with SCL read and DNs lazy; None if there is no scene."""
    if not scenes:
        return None
    near = sorted(scenes, key=lambda scene: rank(scene, grid))
    margin = mask.reach  # the clear pixels at an edge must not depend on how the area is cut into tiles
    scl = read_classes(scene_classes(near, grid, access, margin), workers=threads(near))
    inner = (slice(None), slice(margin, scl.shape[1] - margin), slice(margin, scl.shape[2] - margin))
    clear = clear_np(scl, mask)[inner]
    opened = stack(near, grid, period, access, clear)
    gave = {scene.id: _gave(*seen) for scene, *seen in zip(near, scl[inner], clear, strict=True)}
    return replace(opened, scl={scene.id: seen for scene, seen in zip(near, scl[inner], strict=True)}, gave=gave)


def _gave(classes: NDArray[np.uint8], clear: NDArray[np.bool_]) -> Gave:
    """What a scene gives a tile, by its (y, x) scene classes."""
    if clear.any():
        return "clear"
    return "unclear" if classes.any() else "nothing"


def _under(grid: Grid, made: Composite, there: Grid) -> Composite:
    """A composite brought from the grid `there` to `grid` inside it: each pixel takes the one under its centre."""
    rows, columns = grids.pixels_under(grid, there)
    return replace(made, dn=made.dn[:, :, rows, columns], clear=made.clear[:, rows, columns])
