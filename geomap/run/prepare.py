"""A request prepared and checked before the first pixel: weights, class vectors, tiles, layers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from geomap import grid, legends
from geomap.catalog.search import Found, search
from geomap.encode import weights
from geomap.encode.card import Card
from geomap.encode.directions import directions
from geomap.encode.engine import pick_device, pick_dtype
from geomap.encode.model import PixelEncoder
from geomap.errors import InputError, LegendError
from geomap.label import choose
from geomap.label.classify import Question, Within, depth
from geomap.label.learn import SERIES_FROM
from geomap.legends import TYPED, Legend, restriction
from geomap.lonlat import grown
from geomap.run.again import words_of
from geomap.run.imagery import candidates, imagery_layers
from geomap.run.keys import Restriction
from geomap.run.learned import DOUBTFUL, PLACES, Loaded
from geomap.run.learning import questions_of
from geomap.run.lesson import Lesson, by_points, require_in, taught_legend, taught_legends
from geomap.run.request import Request, point_files
from geomap.sentinel2 import BANDS, BANDS_10M, BANDS_20M
from geomap.store.codec import SIZE, Codec
from geomap.store.store import COMPOSITES, open_store
from geomap.text import listed
from geomap.types import PLAIN, Finish, Grid, OwnGrid, Period, Progress, Scene, Tile
from geomap.write.layer import Layer, change_layers, file_stem, layers_of, place_of, require_distinct
from geomap.write.own_grid import placed

PIXELS_PER_KM2 = 10_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Product:
    """What the output files say about how they were made, from scenes or from a store."""

    tiles: tuple[Tile, ...]
    layers: tuple[Layer, ...]
    period: Period
    weights: str  # name
    weights_sha256: str  # sha256 of their card
    lineage: str  # one sentence on how the maps were made
    vectors: Mapping[str, str] = field(default_factory=dict)  # legend name -> sha256 of its class vectors
    told: Mapping[str, Any] = field(default_factory=dict)  # the request in words
    finish: Finish = PLAIN
    card: Card | None = None  # of the weights; None if no text was compared
    report: bool = True  # write the report page
    taught: str | None = None  # the legend that was learned from points
    moved: bool = False  # whether the points moved its classes; else it is by its words alone
    places: tuple[Mapping[str, Any], ...] = ()  # where more of these would help most
    own: OwnGrid | None = None  # the maps are written once more on this grid, which has a size
    earlier: tuple[Path, ...] = ()  # finished runs whose areas the page shows
    elsewhere: tuple[str, ...] = ()  # what `elsewhere` says


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared request: everything its tiles share, as plain values and CPU tensors, so it can be sent to workers."""

    request: Request
    tiles: tuple[Tile, ...]
    device: str  # device type that encodes, "cpu" or "cuda", here or on a cluster
    dtype: torch.dtype  # data type of the encoding
    weights: weights.Weights
    questions: tuple[Question, ...]
    layers: tuple[Layer, ...]
    within: Within  # legend -> (another legend, class id): mapped only there
    codec: Codec | None = None  # for the embeddings, if they are saved
    changes: tuple[Layer, ...] = ()  # change maps, made from the maps of this run and of the earlier run
    told: Mapping[str, Any] = field(default_factory=dict)  # the request in words
    lesson: Lesson | None = None  # the points that teach a legend, once all tiles are made
    known: Loaded | None = None  # what another run learned from points
    own: OwnGrid | None = None  # the grid of the user's own, with its size
    imagery: tuple[Layer, ...] = ()  # true colour and NDVI
    elsewhere: tuple[str, ...] = ()  # what `elsewhere` says

    @property
    def margin(self) -> int:
        """Pixels around each tile that are read for the patches of its own; 0 for weights of single pixels."""
        return self.weights.encoder.cfg.margin

    @property
    def product(self) -> Product:
        """The maps, and what their files say about how they were made."""
        lineage = "Monthly median composites of Sentinel-2 L2A, encoded per pixel and compared with text embeddings."
        card = self.weights.card
        maps = (*self.layers, *self.changes, *self.imagery)
        of, asked = self.request.period, self.request
        return Product(
            self.tiles,
            maps,
            of,
            card.name,
            self.weights.digest,
            lineage + by_points(self.known.record if self.known else None),
            self.vectors,
            self.told,
            asked.finish,
            card,
            report=asked.report,
            taught=taught_legend(self.lesson, self.known),
            moved=self.known is not None and self.known.record.moved,
            own=self.own,
            elsewhere=self.elsewhere,
        )

    @property
    def vectors(self) -> dict[str, str]:
        """Legend name -> sha256 of its class vectors."""
        return {q.legend.name: hashlib.sha256(q.vectors.numpy().tobytes()).hexdigest() for q in self.questions}


def prepare(request: Request, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Prepared:
    """Check a request against weights and legends, and find its tiles, before the first pixel is read.

    `device` and `dtype` are those of the encoding, which may be on a cluster; by default those of this process.

    Raises:
        InputError: the request cannot be met (the subclasses say why).
    """
    device = device or pick_device(request.device)
    dtype = dtype or pick_dtype(device)
    if not (request.legends or request.learned):
        raise InputError("nothing to map; give --legend or --classes")
    if not 1 <= request.min_clear_months <= request.period.months:
        raise InputError(f"--min-clear-months must be 1..{request.period.months}, the months of the period")
    if request.update and request.composites:
        raise InputError("give --update-from or --from-composites, not both")
    if request.update and request.points:
        raise InputError("--points does not go with --update-from; give what an earlier run learned as --learned")
    loaded = weights.load_weights(request.weights)
    _require_around(request, loaded.encoder.cfg.patch)
    points = point_files(request)
    named, lesson, known = taught_legends(request.legends, points, request.learned, request.period, loaded)
    own = legends.with_others(named) if request.others else named
    asked, within = with_base(own, request.within)
    tiles = grid.tiles(request.area)
    gone = competing(asked, within, request.without, None if request.everywhere else latitudes_of(tiles))
    extras = request.finish.layers
    months = request.period.calendar_months
    questions = questions_of(asked, loaded, request.min_confidence, known, months, extras, gone)
    place = place_of(request.name, request.period)
    layers = layers_of([q.legend for q in questions], request.min_confidence, extras, place)
    changes = change_layers(layers, request.update.period) if request.update else ()
    seen = imagery_layers(request, place)
    target = own_grid(request.grid, tiles, (*layers, *changes, *seen))
    require_distinct((*layers, *changes, *seen))
    if request.composites is not None:
        request = replace(request, composites=_covering(request.composites, tiles, request.period))
    if lesson is not None:
        lesson = lesson.without(gone[lesson.legend.name])
        require_polygons(asked, request.finish, place)
        require_in(lesson.points, request.area.geometry)
        kept = request.save_composites or (len(lesson.points) >= SERIES_FROM and request.composites is None)
        request = replace(request, save_embeddings=True, save_composites=kept)
    return Prepared(
        request,
        tiles,
        device.type,
        dtype,
        loaded,
        questions,
        layers,
        within,
        codec_of(loaded.encoder) if request.save_embeddings else None,
        changes,
        {"command": "map", **words_of(request), "weights": loaded.card.name, "device": device.type},
        lesson,
        known,
        target,
        seen,
        elsewhere(asked, gone, request.without),
    )


def own_grid(asked: OwnGrid | None, tiles: Sequence[Tile], layers: Sequence[Layer]) -> OwnGrid | None:
    """The grid that was asked for, with its size around the tiles.

    Raises InputError if it does not touch them, LegendError if its maps would have the name of others.
    """
    if asked is None:
        return None
    stems = {layer.stem for layer in layers}
    if taken := sorted(stem for stem in stems if f"{stem}_{asked.name}" in stems):
        raise LegendError(f"two maps would be called {taken[0]}_{asked.name}.tif; rename one of the legends")
    return placed(asked, [grid.mosaic_grid(tuple(found)) for found in grid.by_zone(tiles)])


def require_polygons(asked: Sequence[Legend], finish: Finish, place: str) -> None:
    """Raise LegendError if the polygons of a legend would have the name of a list of points beside what is learned."""
    stems = (file_stem(legend.name, place) for legend in asked if legend.classes)
    if finish.vector and (taken := [stem for stem in stems if stem in (PLACES, DOUBTFUL)]):
        raise LegendError(
            f"the polygons of legend {taken[0]} would be called {taken[0]}.gpkg, as a list of points is that --points "
            "gives; rename the legend, or leave out --vector"
        )


SAMPLE: Final = 4096
"""Number of simulated series that choose the directions to keep, for encoders with more than a store takes."""


def codec_of(encoder: PixelEncoder) -> Codec:
    """The coordinates in which an encoder's embeddings are stored; they depend only on its weights."""
    return Codec.along(directions(encoder, SIZE, partial(simulated_sample, encoder.cfg.patch)))


def simulated_sample(patch: int = 1) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """(N, T, C * patch^2) DNs and (N, T) validity of SAMPLE simulated series, each the same over its whole patch."""
    from geomap.simulate.series import simulate

    series = simulate(np.random.default_rng(0), SAMPLE)
    return series.dn.repeat(patch**2, axis=-1), series.valid  # band-major


def _require_around(request: Request, patch: int) -> None:
    """Raise InputError for patches of saved composites: these end at the edges of the area."""
    option = "--from-composites" if request.composites else "--update-from" if request.update else None
    if patch > 1 and option:
        raise InputError(
            f"these weights take patches of {patch} x {patch} pixels, which reach beyond the composites that a run "
            f"saves; map from the scenes, without {option}, or with weights of single pixels"
        )


def _covering(path: Path, tiles: Sequence[Tile], period: Period) -> Path:
    """The composites store of a run, from its path or the run's. Raises InputError if a tile or month is missing."""
    kept = open_store(path, COMPOSITES)
    if kept.period != period:
        raise InputError(f"{kept.path} is of {kept.period}, not of {period}; ask for that period")
    lacking = [tile.name for tile in tiles if kept.holding(tile.grid) is None]
    if lacking:
        raise InputError(
            f"{kept.path} does not cover the tile {lacking[0]}; choose an area inside that of its run, which its "
            "run.json tells (asked, area)"
        )
    return kept.path


def with_base(asked: tuple[Legend, ...], within: Restriction) -> tuple[tuple[Legend, ...], dict[str, tuple[str, int]]]:
    """The legends to map, those that restrict others included; and legend -> (the one that restricts it, class id).

    `within` restricts all legends but the one that it names, and those that restrict that one: these stay as they say
    themselves; (): none; None: each as it says itself, and so those that are added. Raises LegendError.
    """
    known = {legend.name: legend for legend in asked}
    found: dict[str, tuple[str, int]] = {}
    every, chain = list(asked), _bases(within, known) if within else ()
    bases = {legend.name for legend in chain}
    if within and all(legend.name in bases for legend in asked):
        chain[0].id_of(within[1])  # a class that is there
        raise LegendError(f"--within {'='.join(within)} restricts other legends, and none is asked for; add a --legend")
    for legend in every:  # also those that are added below
        wanted = within
        if within is None or legend.name in bases:
            wanted = restriction(legend.within) if legend.within else ()
        if not wanted:
            continue
        of, class_name = wanted
        base = known.get(of) or _restricting(of, _written(legend))  # that of --within is one of bases
        if base.kind == "score":
            raise LegendError(f"{base.name} gives scores, not classes; --within needs a legend of classes")
        if base.name not in known:
            known[base.name] = base
            every.append(base)
        found[legend.name] = base.name, known[base.name].id_of(class_name)
        _require_end(legend.name, found)
    added = sorted(every[len(asked) :], key=lambda legend: depth(legend.name, found))
    return (*added, *asked), found


def _bases(within: tuple[str, str], known: Mapping[str, Legend]) -> tuple[Legend, ...]:
    """The legend of --within, the one that restricts it, and so on. Raises LegendError."""
    found = dict[str, Legend]()
    name, why = within[0], f"--within {'='.join(within)}"
    while name not in found:
        legend = known.get(name) or _restricting(name, why)
        found[legend.name] = legend
        if not legend.within:
            break
        name, why = restriction(legend.within)[0], _written(legend)
    return tuple(found.values())


def _written(legend: Legend) -> str:
    return f"legend {legend.name} has within = {legend.within!r}"


def _restricting(name: str, why: str) -> Legend:
    """A legend that restricts another and is not asked for. Raises LegendError; `why`: what needs it."""
    if name in legends.builtin_names() or name.endswith(".toml"):
        return legends.load(name)
    known = f"the file of that legend as one more --legend (built-in are {', '.join(legends.builtin_names())})"
    give = "that class and others as --classes" if name == TYPED else known
    raise LegendError(f"{why}, and no legend {name!r} is asked for; give {give}, or --within none")


def _require_end(name: str, within: Within) -> None:
    """Raise LegendError if a legend is mapped only on a class of itself, by way of others or not."""
    chain = [name]
    while chain[-1] in within:
        chain.append(within[chain[-1]][0])
        if chain[-1] == name:
            raise LegendError(
                f"legend {' is mapped only within '.join(chain)}: change `within` in one of them, or add --within none"
            )


def latitudes_of(tiles: Sequence[Tile]) -> tuple[float, float]:
    """(south, north) of tiles, degrees."""
    boxes = [grid.lonlat_box(tile.grid) for tile in tiles]
    return min(box.south for box in boxes), max(box.north for box in boxes)


def competing(
    asked: Sequence[Legend], within: Within, without: Sequence[str], latitudes: tuple[float, float] | None
) -> dict[str, frozenset[int]]:
    """The classes of each legend that do not compete: left out by name, or for the latitudes of the area.

    Classes left out for their latitudes are logged, with a warning for those of a user's own. Raises LegendError for a
    name that no legend has, a class to which other legends are restricted, or latitudes that leave fewer than two
    classes.
    """
    gone, by_name = choose.left_out(asked, without, latitudes), choose.left_out(asked, without, None)
    for name, (base, number) in within.items():
        if number in gone[base]:
            why = "--without leaves out" if number in by_name[base] else "the latitudes of the area leave out"
            raise LegendError(f"{why} the class of {base} to which {name} is restricted; add --within none")
    for legend in asked:
        if names := choose.named(legend, choose.left_out([legend], (), latitudes)[legend.name]):
            _require_two(legend, gone[legend.name], by_name[legend.name])
            log.info("legend %s without %s, which do not occur at these latitudes", legend.name, ", ".join(names))
    for line in elsewhere(asked, gone, without):
        log.warning("%s", line)
    return gone


def elsewhere(asked: Sequence[Legend], gone: Mapping[str, frozenset[int]], without: Sequence[str]) -> tuple[str, ...]:
    """A line for each legend of which classes of a user's own do not compete, for the latitudes of the area alone.

    `gone`: as `competing` gives them. Classes that come with the package are not told.
    """
    by_name = choose.left_out(asked, without, None)
    known = {(c.name, c.latitudes) for name in legends.builtin_names() for c in legends.load(name).classes}
    lines = []
    for legend in asked:
        own = frozenset(c.id for c in legend.classes if (c.name, c.latitudes) not in known)
        if names := choose.named(legend, own & (gone[legend.name] - by_name[legend.name])):
            lines.append(
                f"legend {legend.name} leaves out {listed(names, len(names))}, by the latitudes in its file; "
                "--everywhere maps all its classes"
            )
    return tuple(lines)


def _require_two(legend: Legend, gone: frozenset[int], by_name: frozenset[int]) -> None:
    """Raise LegendError if the latitudes leave fewer than two classes of those that are not left out by name."""
    if len(legend.classes) - len(gone) < 2 <= len(legend.classes) - len(by_name):
        names = listed(choose.named(legend, gone - by_name))
        raise LegendError(
            f"the latitudes of the area leave fewer than two classes of legend {legend.name}, without {names}; add "
            "--everywhere (everywhere=True in Python) to keep these"
        )


def find_scenes(request: Request, progress: Progress, margin: int = 0) -> Found:
    """The scenes of a request; none if it reads saved composites. Raises as catalog.search.

    `margin`: pixels around the area that weights of patches see.
    """
    if request.composites is not None:
        return Found((), (), request.period)
    progress("search", 0, 1)
    outline = request.area.geometry
    found = search(
        grown(outline, grid.RESOLUTION * (margin + 1)) if margin else outline,
        request.period,
        request.stac,
        collection=request.collection,
        max_cloud=request.max_cloud,
        offset_policy=request.offset,
        allow_hosts=request.allow_hosts,
        exclude=request.exclude,
        max_missed=request.max_missed,
    )
    progress("search", 1, 1)
    return found


def months_expected(period: Period, scenes: Sequence[Scene], clear: Mapping[str, float | None] | None = None) -> int:
    """Months in which a pixel is expected to have a clear observation; all of them if saved composites are read.

    Args:
        period: the months.
        scenes: the scenes found.
        clear: clear share by pass; what is not in it comes from the items' cloud cover, clear if they state none.
    """
    missed: dict[tuple[int | None, str], float] = {}  # by month and pass: the chance that it shows nothing
    for scene in scenes:
        known = (clear or {}).get(scene.acquisition)
        cloud = (scene.cloud_cover or 0.0) / 100 if known is None else 1 - known
        key = period.step(scene.time), scene.acquisition
        missed[key] = min(cloud, missed.get(key, 1.0))
    months: dict[int | None, float] = {}
    for (step, _), cloud in missed.items():
        months[step] = months.get(step, 1.0) * cloud
    return max(1, round(sum(1 - cloud for cloud in months.values()))) if scenes else period.months


def disk_space(prepared: Prepared) -> int:
    """Most bytes on disk that a run takes: the largest layer while it is written, every map and every store."""
    largest = sum(t.grid.width * t.grid.height for t in prepared.tiles)
    if prepared.own is not None:
        largest += prepared.own.width * prepared.own.height
    itemsizes = [np.dtype(layer.dtype).itemsize * (len(layer.bands) or 1) for layer in prepared.product.layers]
    composite = prepared.request.period.months * (2 * len(BANDS) + 1) if prepared.request.save_composites else 0
    code = prepared.codec.size + 1 if prepared.codec else 0
    months = 3 * len(candidates(prepared.request)) if prepared.request.true_colour else 0  # kept until one is chosen
    return largest * (2 * sum(itemsizes) + 2 * max(itemsizes) + composite + code + months)


def read_bytes(where: Grid, scenes: int, used: float = 1.0) -> float:
    """Decoded bytes read over a grid of 10 m pixels: SCL of every scene, all bands of the fraction `used`.

    A 10 m band has two bytes a pixel. A 20 m band has a quarter of the pixels; SCL has one byte for each of those.
    """
    of_bands = 2 * len(BANDS_10M) + 2 * len(BANDS_20M) / 4
    return scenes * where.width * where.height * (1 / 4 + used * of_bands)
