"""The main path over one grid, without files or state.

    scenes = catalog.search(area, period, stac)            STAC -> Scenes, each with its radiometric offset
    made   = compose(scenes, grid, period)                 Scenes -> monthly medians of the clear pixels
    pixels = embed_pixels(engine, made, usable, period)    every usable pixel's months -> a unit vector
    layers = label_pixels(pixels, questions, ...)          vectors -> class, confidence, score

Runs make their tiles with these functions (run/tiles.py), and the Python API makes its arrays with them (api).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geomap import grid as grids
from geomap import legends
from geomap.catalog import offset_check
from geomap.catalog.offset_check import VEGETATION, DarkCount
from geomap.catalog.over import made_in, rank
from geomap.composite.mask import DEFAULT_MASK, Mask, clear_np, first_np
from geomap.composite.monthly import coarse_medians, common, compute, read_classes
from geomap.encode.engine import Engine, valid_months
from geomap.encode.weights import Weights
from geomap.errors import DamagedError, ReadError, SourceUnavailableError
from geomap.label import towers
from geomap.label.anchors import placed
from geomap.label.choose import Gone
from geomap.label.classify import Question, TileLabels, Within, with_land
from geomap.legends import Legend
from geomap.read.access import DEADLINE, Access, at_hand, gdal_options, threads
from geomap.read.faults import check_missed, missed_scenes
from geomap.read.header import Headers
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
    kept: Headers | None = None,
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
        kept: the headers of files that were read before, for tiles that follow each other.

    Raises:
        ReadError: access is denied, or more scenes cannot be read than `max_missed` allows.
        SourceUnavailableError: the pixel server refuses or does not answer.
    """
    zone, wanted = made_in(scenes, grid), [scene for scene in scenes if period.step(scene.time) not in skip]
    missed: dict[str, Missed] = {}
    while True:
        faults: dict[str, DamagedError] = {}
        access = Access(gdal_options(scenes), deadline, faults, kept=kept)
        rest = [scene for scene in wanted if scene.id not in missed]
        try:
            shared = together if together and grid in together.parts and not missed else None
            made = _medians(rest, grid, zone, period, mask, access, shared)
        finally:
            access.stopped.set()  # after an error, other reads may still be waiting for a server
        found = missed_scenes(wanted, faults)
        missed |= found
        check_missed(scenes, missed, faults, max_missed)
        if made is not None and not found:
            return replace(made, missed=tuple(missed[scene] for scene in sorted(missed)))


@dataclass(frozen=True, slots=True)
class Part:
    """What a tile gets of what is read together."""

    coarse: NDArray[np.uint16]  # (month, band, y, x) medians of the bands of 20 m, at 20 m
    dark: Mapping[str, Dark]  # the evidence of these bands
    gave: Mapping[str, Gave]


@dataclass(frozen=True, slots=True)
class Together:
    """What neighbouring tiles share: blocks of bands of 20 m, and of SCL, reach over several tiles."""

    grid: Grid  # 10 m, around the tiles
    scenes: tuple[Scene, ...]  # by rank
    first: NDArray[np.uint8]  # (scene, y, x / 8) at 20 m: first_np, packed (numpy.packbits)
    vegetation: NDArray[np.uint8]  # the same of _Seen.vegetation
    parts: Mapping[Grid, Part]  # by tile

    def over(self, grid: Grid, scenes: Sequence[Scene]) -> _Seen:
        """What SCL says of some of the scenes over a tile."""
        row = {scene.id: i for i, scene in enumerate(self.scenes)}
        rows, (down, across) = [row[scene.id] for scene in scenes], _part(self.grid, grid)
        first, vegetation = (
            np.unpackbits(masks[rows, down], axis=2, count=self.grid.width // 2)[:, :, across].astype(bool)
            for masks in (self.first, self.vegetation)
        )
        return _Seen(first, vegetation, {scene.id: self.parts[grid].gave[scene.id] for scene in scenes})


@dataclass(frozen=True, slots=True)
class _Seen:
    """What SCL says of scenes over a grid; (scene, y, x) at 20 m."""

    first: NDArray[np.bool_]  # clear, and no earlier scene of the same pass has data there (first_np)
    vegetation: NDArray[np.bool_]  # of these, vegetation
    gave: Mapping[str, Gave]  # by id


def read_together(
    tiles: Sequence[tuple[Grid, Sequence[Scene], Collection[int]]],
    period: Period,
    mask: Mask = DEFAULT_MASK,
    deadline: float = DEADLINE,
    kept: Headers | None = None,
) -> Together | None:
    """Read once what neighbouring tiles share.

    None where there is nothing to share, or where a file cannot be read: then each tile is read alone, so that what is
    left out of one does not depend on its neighbours.

    Args:
        tiles: of one zone, each with the scenes over it and the steps of the period that it skips, as for `compose`.
        period, mask, deadline, kept: as for `compose`.

    Raises SourceUnavailableError: the pixel server refuses or does not answer.
    """
    own = [tile for tile in tiles if made_in(tile[1], tile[0]) == tile[0].epsg]
    wanted = {s.id: s for _, scenes, skip in own for s in scenes if period.step(s.time) not in skip}
    if len(own) < 2 or not wanted:
        return None
    grid = grids.mosaic_grid(tuple(tile[0] for tile in own))
    parts = {tile[0]: _part(grid, tile[0]) for tile in own}
    access = Access(gdal_options([*wanted.values()]), deadline, {}, kept=kept)
    try:
        near = sorted(wanted.values(), key=lambda scene: rank(scene, grid))
        seen, gave = _look(near, grid, mask, access, parts)
        opened = stack(near, grid, period, access, seen.first, BANDS_20M)
        counts = {where: DarkCount(_by_scene(near, seen.vegetation[:, *part])) for where, part in parts.items()}
        made = coarse_medians(
            opened, period.months, [*parts.values()], threads(near), _Each(parts, counts), at_hand(near)
        )
    except SourceUnavailableError:
        raise
    except ReadError:
        return None  # each tile says so itself
    finally:
        access.stopped.set()
    if access.faults:
        return None
    shared = {w: Part(dn, counts[w].counts(), gave[w]) for w, dn in zip(parts, made, strict=True)}
    first, vegetation = (np.packbits(masks, axis=2) for masks in (seen.first, seen.vegetation))
    return Together(grid, tuple(near), first, vegetation, shared)


class _Each:
    """Passes what is read over several tiles to the counts of each (composite.monthly.Watch)."""

    bands: Sequence[str] = DarkCount.bands

    def __init__(self, parts: Mapping[Grid, tuple[slice, slice]], counts: Mapping[Grid, DarkCount]) -> None:
        """Args: parts: rows and columns of each tile; counts: by tile."""
        self._counts = [(parts[where], count) for where, count in counts.items()]

    def see(self, scene: str, rows: slice, cols: slice, dn: NDArray[np.uint16]) -> None:
        for (down, across), count in self._counts:
            mine_down, there_down = common(rows, down)
            mine_across, there_across = common(cols, across)
            if dn[there_down, there_across].size:
                count.see(scene, mine_down, mine_across, dn[there_down, there_across])


def usable_pixels(
    made: Composite, inside: NDArray[np.bool_], least: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """(y, x) months with a value in all bands, NOT_MAPPED outside; (y, x) True where they are at least `least`."""
    months = valid_months(made).sum(axis=0, dtype=np.uint8)
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
    if stored is not None:
        return stored
    vectors = towers.cached_class_vectors(legend, weights.card.text_space)
    return vectors if weights.anchors is None else placed(legend, vectors, weights.class_vectors, weights.anchors)


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
    seen = _look(near, grid, mask, access)[0] if together is None else together.over(grid, near)
    opened = stack(near, grid, period, access, seen.first, BANDS if together is None else BANDS_10M)
    if access.faults:
        return None
    watch, coarse = DarkCount(_by_scene(near, seen.vegetation)), None
    shared: Mapping[str, Dark] = {}
    if together is not None:
        coarse, shared = together.parts[grid].coarse, together.parts[grid].dark
        if unread := set(range(period.months)) - {period.step(scene.time) for scene in near}:
            coarse = coarse.copy()
            coarse[[*unread]] = 0
    made = compute(opened, period.months, threads(near), watch, coarse, at_hand(near))
    dark = offset_check.total([watch.counts(), {s.id: shared[s.id] for s in near if s.id in shared}])
    dark = {name: dark[name] for name in sorted(dark)}
    return replace(made, dark=dark, gave=seen.gave, fetched=access.tally.found())


def _look(
    near: Sequence[Scene],
    grid: Grid,
    mask: Mask,
    access: Access,
    parts: Mapping[Grid, tuple[slice, slice]] | None = None,
) -> tuple[_Seen, dict[Grid, dict[str, Gave]]]:
    """Read SCL over a grid of 10 m pixels: what it says there, and what the scenes give each of its parts.

    `parts`: rows and columns of 20 m.
    """
    margin = mask.reach  # the clear pixels at an edge must not depend on how the area is cut into tiles
    scl = read_classes(scene_classes(near, grid, access, margin), workers=threads(near))
    inner = (slice(None), slice(margin, scl.shape[1] - margin), slice(margin, scl.shape[2] - margin))
    scl, clear = scl[inner], clear_np(scl, mask)[inner]
    gave = {
        where: {scene.id: _gave(there[part], sure[part]) for scene, there, sure in zip(near, scl, clear, strict=True)}
        for where, part in (parts or {grid: (slice(None), slice(None))}).items()
    }
    first = first_np(clear, scl, [scene.acquisition for scene in near])
    return _Seen(first, (scl == VEGETATION) & first, gave[grid] if parts is None else {}), gave


def _part(outer: Grid, grid: Grid) -> tuple[slice, slice]:
    """The (rows, columns) of 20 m of a grid inside another one, both of 10 m pixels."""
    row, column = (v // 2 for v in grid.offset_in(outer))
    return slice(row, row + grid.height // 2), slice(column, column + grid.width // 2)


def _by_scene(near: Sequence[Scene], masks: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """(scene, y, x) masks by the scenes' ids."""
    return {scene.id: mask for scene, mask in zip(near, masks, strict=True)}


def _gave(classes: NDArray[np.uint8], clear: NDArray[np.bool_]) -> Gave:
    """What a scene gives a tile, by its (y, x) scene classes."""
    if clear.any():
        return "clear"
    return "unclear" if classes.any() else "nothing"


def _under(grid: Grid, made: Composite, there: Grid) -> Composite:
    """A composite brought from the grid `there` to `grid` inside it: each pixel takes the one under its centre."""
    rows, columns = grids.pixels_under(grid, there)
    return replace(made, held=made.dn[:, :, rows, columns], clear=made.clear[:, rows, columns], coarse=None)
