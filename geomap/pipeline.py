"""The main path over one grid, without files or state.

    scenes = catalog.search(area, period, stac)            STAC -> Scenes, each with its radiometric offset
    made   = compose(scenes, grid, period)                 Scenes -> monthly medians of the clear pixels
    pixels = embed_pixels(engine, made, usable, period)    every usable pixel's months -> a unit vector
    layers = label_pixels(pixels, questions, ...)          vectors -> class, confidence, score

Runs make their tiles with these functions (run/tiles.py), and the Python API makes its arrays with them (api).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geomap import grid as grids
from geomap import legends
from geomap.catalog import offset_check
from geomap.catalog.offset_check import DarkCount
from geomap.catalog.over import made_in, rank
from geomap.composite.mask import DEFAULT_MASK, Mask, clear_np, first_np
from geomap.composite.monthly import coarse_medians, compute, read_classes
from geomap.encode.engine import Engine, valid_months_np
from geomap.encode.weights import Weights
from geomap.errors import DamagedError, ReadError, SourceUnavailableError
from geomap.label import towers
from geomap.label.choose import Gone
from geomap.label.classify import Question, TileLabels, Within, with_land
from geomap.legends import Legend
from geomap.read import blocks
from geomap.read.access import DEADLINE, Access, gdal_options, threads
from geomap.read.faults import check_missed, missed_scenes
from geomap.read.stack import scene_classes, stack
from geomap.sentinel2 import BANDS, BANDS_10M, BANDS_20M
from geomap.types import MAX_MISSED, NOT_MAPPED, Composite, Dark, Gave, Grid, Layers, Missed, Period, Scene

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
    together: Together | None = None,
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
        together: what was read over this tile and its neighbours; the result is the same without it.

    Raises:
        ReadError: access is denied, or more scenes cannot be read than `max_missed` allows.
        SourceUnavailableError: the pixel server refuses or does not answer.
    """
    zone, wanted = made_in(scenes, grid), [scene for scene in scenes if period.step(scene.time) not in skip]
    missed: dict[str, Missed] = {}
    while True:
        faults: dict[str, DamagedError] = {}
        access = Access(gdal_options(scenes), deadline, faults, kept=together.kept if together else None)
        rest = [scene for scene in wanted if scene.id not in missed]
        try:
            shared = together if together and grid in together.dark and not missed else None
            made = _medians(rest, grid, zone, period, mask, access, shared)
        finally:
            access.stopped.set()  # after an error, other reads may still be waiting for a server
        found = missed_scenes(wanted, faults)
        missed |= found
        check_missed(len(scenes), missed, faults, max_missed)
        if made is not None and not found:
            return replace(made, missed=tuple(missed[scene] for scene in sorted(missed)))


@dataclass(frozen=True, slots=True)
class Together:
    """What neighbouring tiles share: blocks of bands of 20 m, and of SCL, reach over several tiles."""

    grid: Grid  # 10 m, around the tiles
    scenes: tuple[Scene, ...]  # by rank
    scl: NDArray[np.uint8]  # (scene, y, x) at 20 m
    clear: NDArray[np.uint8]  # (scene, y, x / 8) at 20 m, packed: numpy.packbits
    coarse: NDArray[np.uint16]  # (month, band, y, x) medians of the bands of 20 m, at 20 m
    dark: Mapping[Grid, Mapping[str, Dark]]  # by tile, the evidence of the bands of 20 m
    kept: set[str] = field(default_factory=set)  # files that the next tile may read on, until `forget`

    def forget(self) -> None:
        """Let GDAL drop what it keeps of the files."""
        while self.kept:
            blocks.forget(self.kept.pop())

    def over(self, grid: Grid, scenes: Sequence[Scene]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """(scene, y, x) SCL and clear pixels of some scenes over a tile, both at 20 m."""
        row = {scene.id: i for i, scene in enumerate(self.scenes)}
        rows, (down, across) = [row[scene.id] for scene in scenes], _part(self.grid, grid)
        clear = np.unpackbits(self.clear[rows, down], axis=2, count=self.scl.shape[2])
        return self.scl[rows, down, across], clear[:, :, across].astype(bool)


def read_together(
    tiles: Sequence[tuple[Grid, Sequence[Scene], Collection[int]]],
    period: Period,
    mask: Mask = DEFAULT_MASK,
    deadline: float = DEADLINE,
) -> Together | None:
    """Read once what neighbouring tiles share.

    None where there is nothing to share, or where a file cannot be read: then each tile is read alone, so that what is
    left out of one does not depend on its neighbours.

    Args:
        tiles: of one zone, each with the scenes over it and the steps of the period that it skips, as for `compose`.
        period, mask, deadline: as for `compose`.

    Raises SourceUnavailableError: the pixel server refuses or does not answer.
    """
    own = [tile for tile in tiles if made_in(tile[1], tile[0]) == tile[0].epsg]
    wanted = {s.id: s for _, scenes, skip in own for s in scenes if period.step(s.time) not in skip}
    if len(own) < 2 or not wanted:
        return None
    grid = grids.mosaic_grid(tuple(tile[0] for tile in own))
    access = Access(gdal_options([*wanted.values()]), deadline, {})
    try:
        near = sorted(wanted.values(), key=lambda scene: rank(scene, grid))
        scl, clear = _look(near, grid, mask, access)
        first = first_np(clear, [scene.acquisition for scene in near])
        opened = stack(near, grid, period, access, first, BANDS_20M)
        parts = {tile[0]: (slice(None), *_part(grid, tile[0])) for tile in own}
        counts = {where: DarkCount(_vegetation(near, scl[part], first[part])) for where, part in parts.items()}
        made = coarse_medians(opened, period.months, threads(near), _Each(grid, counts))
    except SourceUnavailableError:
        raise
    except ReadError:
        return None  # each tile says so itself
    finally:
        access.stopped.set()
    dark = {where: count.counts() for where, count in counts.items()}
    return None if access.faults else Together(grid, tuple(near), scl, np.packbits(clear, axis=2), made, dark)


class _Each:
    """Passes what is read over several tiles to the counts of each (composite.monthly.Watch)."""

    bands: Sequence[str] = DarkCount.bands

    def __init__(self, grid: Grid, counts: Mapping[Grid, DarkCount]) -> None:
        """Args: grid: around the tiles; counts: by tile."""
        self._counts = [(_part(grid, where), count) for where, count in counts.items()]

    def see(self, scene: str, rows: slice, cols: slice, dn: NDArray[np.uint16]) -> None:
        for (down, across), count in self._counts:
            mine_down, there_down = _shared(rows, down)
            mine_across, there_across = _shared(cols, across)
            if dn[there_down, there_across].size:
                count.see(scene, mine_down, mine_across, dn[there_down, there_across])


def _shared(seen: slice, part: slice) -> tuple[slice, slice]:
    """What two ranges of rows have in common: counted from the start of `part`, and from that of `seen`."""
    first, last = max(seen.start, part.start), max(min(seen.stop, part.stop), seen.start, part.start)
    return slice(first - part.start, last - part.start), slice(first - seen.start, last - seen.start)


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
    scenes: Sequence[Scene],
    grid: Grid,
    zone: int,
    period: Period,
    mask: Mask,
    access: Access,
    together: Together | None = None,
) -> Composite | None:
    """The composite of scenes over a grid; None if faults would spoil it.

    If all scenes lie in one other zone, the composite is made in that zone and then brought over. Otherwise, 20 m bands
    that are read for the grid's own 20 m pixels would come from up to 14 m further away.
    """
    if zone != grid.epsg:
        there = grids.covering(grid, zone)
        made = _medians(scenes, there, zone, period, mask, access)
        return None if made is None else _under(grid, made, there)
    if not scenes:
        empty = np.zeros((period.months, len(BANDS), *grid.shape), np.uint16)
        return Composite(empty, np.zeros((period.months, *grid.shape), np.uint8))
    near = sorted(scenes, key=lambda scene: rank(scene, grid))
    scl, clear = _look(near, grid, mask, access) if together is None else together.over(grid, near)
    first = first_np(clear, [scene.acquisition for scene in near])
    opened = stack(near, grid, period, access, first, BANDS if together is None else BANDS_10M)
    if access.faults:
        return None
    watch, coarse = DarkCount(_vegetation(near, scl, first)), None
    if together is not None:
        coarse = together.coarse[:, :, *_part(together.grid, grid)].copy()
        read = {period.step(scene.time) for scene in near}
        coarse[[step for step in range(period.months) if step not in read]] = 0
    made = compute(opened, period.months, threads(near), watch, coarse)
    coarse_dark = together.dark[grid] if together else {}
    own = {scene.id: coarse_dark[scene.id] for scene in near if scene.id in coarse_dark}
    dark = offset_check.total([watch.counts(), own])
    gave = {scene.id: _gave(*seen) for scene, *seen in zip(near, scl, clear, strict=True)}
    return replace(made, dark={name: dark[name] for name in sorted(dark)}, gave=gave, fetched=access.tally.found())


def _look(near: Sequence[Scene], grid: Grid, mask: Mask, access: Access) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """(scene, y, x) SCL, and where it is clear, both at 20 m, over a grid of 10 m pixels."""
    margin = mask.reach  # the clear pixels at an edge must not depend on how the area is cut into tiles
    scl = read_classes(scene_classes(near, grid, access, margin), workers=threads(near))
    inner = (slice(None), slice(margin, scl.shape[1] - margin), slice(margin, scl.shape[2] - margin))
    return scl[inner], clear_np(scl, mask)[inner]


def _part(outer: Grid, grid: Grid) -> tuple[slice, slice]:
    """The (rows, columns) of 20 m of a grid inside another one, both of 10 m pixels."""
    row, column = (v // 2 for v in grid.offset_in(outer))
    return slice(row, row + grid.height // 2), slice(column, column + grid.width // 2)


def _vegetation(
    near: Sequence[Scene], scl: NDArray[np.uint8], clear: NDArray[np.bool_]
) -> dict[str, NDArray[np.uint8]]:
    """By scene, (y, x) SCL, 0 where a scene is not clear or not needed."""
    return {scene.id: seen * sure for scene, seen, sure in zip(near, scl, clear, strict=True)}


def _gave(classes: NDArray[np.uint8], clear: NDArray[np.bool_]) -> Gave:
    """What a scene gives a tile, by its (y, x) scene classes."""
    if clear.any():
        return "clear"
    return "unclear" if classes.any() else "nothing"


def _under(grid: Grid, made: Composite, there: Grid) -> Composite:
    """A composite brought from the grid `there` to `grid` inside it: each pixel takes the one under its centre."""
    rows, columns = grids.pixels_under(grid, there)
    return replace(made, dn=made.dn[:, :, rows, columns], clear=made.clear[:, rows, columns])
