"""Maps from stored embeddings, without scenes or an encoder: new legends, similarity to a place."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from pyproj import Transformer

from geomap import __version__, files, grid, legends
from geomap.encode import weights
from geomap.errors import InputError, WeightsError
from geomap.label.learn import SERIES_FROM
from geomap.lonlat import Box
from geomap.run import check, edges, publish
from geomap.run import log as runlog
from geomap.run.again import words_of
from geomap.run.directory import NOT_STORED, Begun, Quarantined, RunDirectory, open_directory
from geomap.run.from_store import label_stored, mapped, over, require_codes
from geomap.run.identity import finish_of, legends_digests, within_as_json
from geomap.run.label_request import LabelRequest
from geomap.run.learned import Loaded
from geomap.run.learning import base_of, in_store, questions_of, teach, with_taught
from geomap.run.lesson import Lesson, by_points, require_in, taught_legend, taught_legends, told
from geomap.run.map import Result, result
from geomap.run.prepare import Product, competing, elsewhere, latitudes_of, own_grid, require_polygons, with_base
from geomap.run.publish import publish_maps, published
from geomap.run.steady import Reading, run_of, steady
from geomap.run.tile_file import About, Finished, Seen, Task, pack
from geomap.run.wording import warn_of_words
from geomap.store import codec as codes
from geomap.store import store
from geomap.store.codec import Codec
from geomap.store.store import COMPOSITES, EMBEDDINGS, Store
from geomap.types import (
    CLEAR_MONTHS,
    GRID,
    NAME,
    NOT_MAPPED,
    Grid,
    Layers,
    Progress,
    Tile,
    silent,
)
from geomap.write.layer import Layer, layers_of, place_of

log = logging.getLogger(__name__)

SIMILARITY: Final = "similarity"
"""Stem of the similarity map."""
STORE: Final = "embeddings"
"""Key of the request: the digest of the store."""
Maker: TypeAlias = Callable[[Tile, Callable[[int], None]], Layers]
"""(tile, callback with pixels done) -> the tile's layers."""


def label_store(request: LabelRequest, out: Path, progress: Progress = silent) -> Result:
    """Map legends over the stored pixels into `out`; the files are those of `map_area`.

    Raises:
        WeightsError: the embeddings come from another model.
        InputError: no store, no legend, or a legend that does not fit.
        ReadError: the store is damaged.
        RenewedError: the run of the store was made anew meanwhile.
        TemporaryError: another run is writing `out`, or the disk is full.
    """
    with steady(run_of(request.store, EMBEDDINGS)) as reading:
        return _label_store(request, out, reading, progress)


def _label_store(request: LabelRequest, out: Path, reading: Reading, progress: Progress) -> Result:
    kept = store.open_store(request.store, EMBEDDINGS)
    if out.resolve() in (kept.path.resolve(), kept.path.resolve().parent):
        raise InputError(f"{out} holds the embeddings that are labelled; choose another --out")
    loaded = _weights_of(kept, request.weights)
    if not (request.legends or request.learned):
        raise InputError("nothing to map; give --legend or --classes")
    named, lesson, known = taught_legends(request.legends, request.points, request.learned, kept.period, loaded)
    own = legends.with_others(named) if request.others else named
    asked, within = with_base(own, request.within)
    gone = competing(asked, within, request.without, None if request.everywhere else latitudes_of(kept.tiles))
    finish, least = request.finish, request.min_confidence
    codec, series = Codec(kept.basis()), _composites_beside(kept)
    months = () if series is None else kept.period.calendar_months
    warn_of_words(request.legends, loaded)
    if series is None:
        _warn_without_series(kept, lesson, known)
    questions = in_store(questions_of(asked, loaded, least, known, months, finish.layers, gone), codec)
    place, teaching = place_of(request.name, kept.period), None
    if lesson is not None:
        lesson = lesson.without(gone[lesson.legend.name])
        require_polygons(asked, finish, place)
        require_in(lesson.points, shapely.union_all([grid.lonlat_box(tile.grid).polygons for tile in kept.tiles]))
        base = base_of(lesson.legend.name, questions, within)
        progress("learn", 0, 1)
        teaching = teach(lesson, loaded, kept, series, least, base)
        progress("learn", 1, 1)
        questions = with_taught(questions, teaching.question)
    layers = layers_of([q.legend for q in questions], least, finish.layers, place)
    lineage = "Stored embeddings of Sentinel-2 L2A pixel series, compared with text embeddings."
    source = teaching or known
    described = {
        **_described(kept),
        "legends": legends_digests([q.legend for q in questions]),
        "min_confidence": request.min_confidence,
        "within": within_as_json(within),
        **finish_of(finish),
        **told(lesson, known, str(kept.about.get("area", "")), str(kept.period)),
        **({NAME: request.name} if request.name else {}),
        **({GRID: asdict(request.grid)} if request.grid else {}),
    }

    def make(tile: Tile, advance: Callable[[int], None]) -> Layers:
        return label_stored(kept, series, questions, within, tile, finish.smooth, advance)

    def smoothed(run: RunDirectory, tiles: Sequence[Tile]) -> None:
        edges.mend(run, tiles, questions, within, finish.smooth, progress)

    product = replace(
        _product(kept, layers, lineage + by_points(source.record if source else None)),
        told={"command": "label", "period": str(kept.period), **words_of(request), "weights": loaded.card.name},
        card=loaded.card,
        finish=finish,
        report=request.report,
        taught=taught_legend(lesson, known),
        moved=source is not None and source.record.moved,
        places=teaching.places if teaching else (),
        own=own_grid(request.grid, kept.tiles, layers),
        elsewhere=elsewhere(asked, gone, request.without),
    )
    beside = teaching.files if teaching else known.beside() if known else {}
    return _map(kept, reading, product, described, make, out, progress, beside, smoothed)


def map_similar(path: Path, lon: float, lat: float, out: Path, progress: Progress = silent) -> Result:
    """Map the cosine between every stored pixel and the pixel at a place, as float32 in similarity.tif.

    Args:
        path: embeddings.zarr, or the directory of the run that made it.
        lon, lat: position of the place in degrees.
        out: output directory.
        progress: callback for pixels and maps done.

    Raises:
        InputError: no store, or the place is not one of its mapped pixels.
        ReadError, RenewedError, TemporaryError: as in label_store.
    """
    with steady(run_of(path, EMBEDDINGS)) as reading:
        return _map_similar(path, lon, lat, out, reading, progress)


def _map_similar(path: Path, lon: float, lat: float, out: Path, reading: Reading, progress: Progress) -> Result:
    kept = store.open_store(path, EMBEDDINGS)
    wanted = _code_at(kept, lon, lat)
    layer = Layer(SIMILARITY, f"Likeness to the place at {lon:g}, {lat:g} (cosine of embeddings)", "likeness")
    lineage = "Stored embeddings of Sentinel-2 L2A pixel series, compared with that of one place."

    def make(tile: Tile, advance: Callable[[int], None]) -> Layers:
        kept.check(tile)
        usable = mapped(kept, kept.read(CLEAR_MONTHS, tile.grid, tile))
        likeness = np.full(usable.size, np.nan, np.float32)

        def fill(where: NDArray[np.intp], block: torch.Tensor) -> None:
            cosines = codes.cosines(block, wanted)
            require_codes(kept, tile, cosines)
            likeness[where] = cosines.numpy()

        over(kept, tile, usable, fill, advance)
        return {SIMILARITY: likeness.reshape(usable.shape)}

    words = {"command": "similar", "period": str(kept.period), "at": [lon, lat]}
    product = replace(_product(kept, (layer,), lineage), told=words)
    return _map(kept, reading, product, {**_described(kept), "at": [lon, lat]}, make, out, progress)


def _weights_of(kept: Store, name: str | None) -> weights.Weights:
    """The weights that made the embeddings. Raises WeightsError if others are named."""
    of = kept.about["weights"]
    try:
        loaded = weights.load_weights(name or of["name"])
    except WeightsError as e:
        if name is not None:
            raise
        raise WeightsError(f"{e}; {kept.path} was made with them: give their folder as --weights") from e
    if loaded.digest != of["sha256"]:
        raise WeightsError(
            f"{kept.path} holds embeddings of weights {of['name']} {of['sha256'][:12]}, not of {loaded.card.name} "
            f"{loaded.digest[:12]}; give those as --weights, or map the area again with these"
        )
    return loaded


def _composites_beside(kept: Store) -> Store | None:
    """The composites that the run of a store of embeddings kept too; None if it kept none."""
    if not (kept.path.parent / COMPOSITES).is_dir():
        return None
    found = store.open_store(kept.path.parent, COMPOSITES)
    return found if (found.tiles, found.period) == (kept.tiles, kept.period) else None


def _warn_without_series(kept: Store, lesson: Lesson | None, known: Loaded | None) -> None:
    """Say that classes are learned, or were, with monthly series that the run of a store did not keep."""
    mend = f"{kept.path.parent} kept no composites: map it with --save-composites for a better map"
    if known is not None and known.full is not None:
        log.warning("what was learned with the monthly series maps by the embeddings alone, for %s", mend)
    if lesson is not None and len(lesson.points) >= SERIES_FROM:
        log.warning("classes are learned from the embeddings alone, without the monthly series, for %s", mend)


def _described(kept: Store) -> dict[str, Any]:
    """What maps from a store are made from, as run.json holds it."""
    return {
        "geomap": __version__,
        STORE: store.digest_of(kept.path),
        "made": dict(kept.about),
        "period": str(kept.period),
    }


def _product(kept: Store, layers: tuple[Layer, ...], lineage: str) -> Product:
    of = kept.about["weights"]
    return Product(kept.tiles, layers, kept.period, of["name"], of["sha256"], lineage)


def _map(
    kept: Store,
    reading: Reading,
    product: Product,
    asked: Mapping[str, Any],
    make: Maker,
    out: Path,
    progress: Progress,
    beside: Mapping[str, bytes] = MappingProxyType({}),
    smoothed: Callable[[RunDirectory, Sequence[Tile]], None] | None = None,
) -> Result:
    """Make the layers of every stored tile and publish the maps; resumes a run that was stopped."""
    tasks = [Task(tile, fingerprint=asked[STORE]) for tile in kept.tiles]
    missing = dict.fromkeys(kept.missing, NOT_STORED)
    run = open_directory(out, asked, _renews)
    with run.lock(), runlog.kept(out):
        run = open_directory(out, asked, _renews)
        files.clean_temporary(out)
        if run.complete and not check.damaged(out):
            return result(product, run, published(product, out), len(tasks), {})
        if (out / files.SUMS).is_file():
            files.unmark(out)  # its list tells which files of another period are to go
        run = run.begin(asked, (), (), tasks)
        run.quarantine({name: Quarantined(why, asked[STORE]) for name, why in missing.items()})
        if missing:
            log.warning("%s lacks %d tiles, which could not be made: nodata in the maps", kept.path, len(missing))
        start = time.perf_counter()
        ready = [task for task in tasks if task.tile.name not in missing]
        resumed = _make(kept, reading, run, ready, [layer.stem for layer in product.layers], make, progress)
        if smoothed is not None:
            smoothed(run, [task.tile for task in ready])
        labelled = time.perf_counter()
        merged = publish.merged(product, run, [task.tile for task in ready], progress)
        beside_maps = partial(files.write_all, beside)
        maps = publish_maps(
            product, run, tasks, asked, missing, progress, merged, kept.missing, beside_maps, reading.require
        )
        run.finish(asked, tasks)
        log.info("finished: %d maps", len(maps.paths))
        seconds = {"label": labelled - start, "write": time.perf_counter() - labelled}
        return result(product, run, maps, resumed, seconds)


def _renews(key: str, before: Begun) -> bool:
    """Whether a key of the request may differ from that of the run before: an unfinished one whose store was renewed.

    Its tiles count by their fingerprints, which are the store's digest.
    """
    return not before.finished and key in (STORE, "made", "period")


def _make(
    kept: Store,
    reading: Reading,
    run: RunDirectory,
    tasks: Sequence[Task],
    stems: Sequence[str],
    make: Maker,
    progress: Progress,
) -> int:
    """Make the tiles that are not finished; returns how many already were. Raises RenewedError."""
    pending = [task for task in tasks if not run.has(task, stems)]
    done, total = 0, sum(task.pixels for task in pending)

    def advance(pixels: int) -> None:
        progress("label", done + pixels, total)

    for task in pending:
        layers = make(task.tile, advance)
        about = About(fingerprint=task.fingerprint, seen=_seen(kept, task.tile))
        reading.require()
        run.save(task, Finished(pack(layers), about))
        done += task.pixels
        progress("label", done, total)
    return len(tasks) - len(pending)


def _seen(kept: Store, tile: Tile) -> Seen:
    """How much of the area in a tile has an embedding; in which months it was seen, the store does not tell."""
    months = kept.read(CLEAR_MONTHS, tile.grid, tile)
    return Seen(int((months != NOT_MAPPED).sum()), int(mapped(kept, months).sum()))


def _code_at(kept: Store, lon: float, lat: float) -> torch.Tensor:
    """(C,) code of the pixel at a place. Raises InputError if it is not stored or not mapped."""
    place = f"--at {lon:g},{lat:g}"
    if not (-180 <= lon <= 180 and -80 <= lat <= 84):
        raise InputError(f"{place} cannot be mapped; write longitude,latitude in degrees")
    epsg = int(grid.zone_epsg(np.array([lon]), np.array([lat]))[0])
    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
    pixel = Grid(epsg, int(x // 10) * 10, int(y // 10) * 10 + 10, 1, 1)
    tile = kept.holding(pixel)
    if tile is None or tile.name in kept.missing:
        raise InputError(f"{place} lies outside {kept.path}, which covers {_covered(kept)}")
    kept.check(tile)
    months = kept.read(CLEAR_MONTHS, pixel, tile)
    if not mapped(kept, months)[0, 0]:
        least = kept.about["min_clear_months"]
        raise InputError(f"{place} is not mapped: outside the area, or fewer than {least} clear months; try nearby")
    return torch.from_numpy(kept.read("embedding", pixel, tile)[:, 0, 0])


def _covered(kept: Store) -> str:
    return ",".join(f"{v:.4f}" for v in astuple(Box.union(grid.lonlat_box(tile.grid) for tile in kept.tiles)))
