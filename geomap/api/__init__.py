"""The Python API: the steps of the pipeline over an area, as functions on xarray objects.

    area = "4.42,50.88,4.46,50.91"
    scenes = geomap.search(area, "2023")
    series = geomap.composite(scenes, area)
    embeddings = geomap.embed(series)
    maps = geomap.label(embeddings, "water, forest, maize field")

`geomap` offers these functions lazily. Arrays hold the whole area in memory and carry their CRS (`.rio.crs`). For areas
that do not fit, or work that must survive a crash, use a run: `geomap.map_area` writes the same pixels to a directory.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
import rioxarray  # noqa: F401  gives arrays their `.rio`
import torch
import xarray as xr
from affine import Affine
from numpy.typing import NDArray

from geomap import pipeline
from geomap.aoi import Area
from geomap.api.checks import (
    Pixels,
    box_of,
    checked_embeddings,
    checked_finish,
    checked_flag,
    checked_least,
    checked_legends,
    checked_names,
    checked_path,
    checked_points,
    checked_run,
    checked_series,
    checked_share,
    checked_within,
    class_dimension,
    require_free,
    require_neighbours,
    zone_of,
)
from geomap.catalog import offset_check
from geomap.catalog.offset import OffsetPolicy
from geomap.catalog.over import over
from geomap.catalog.search import Found
from geomap.composite.mask import DEFAULT_MASK, Mask
from geomap.encode.card import locate
from geomap.encode.engine import Engine
from geomap.encode.weights import Weights
from geomap.encode.weights import load_weights as load_weights
from geomap.errors import InputError, NoScenesError, WeightsError
from geomap.grid import RESOLUTION, by_square, inside, mosaic_grid, tiles
from geomap.label.classify import Question, TileLabels
from geomap.label.learn import Examples, learn
from geomap.legends import Legend, with_others
from geomap.read.access import DEADLINE
from geomap.read.header import Headers
from geomap.run import map as runs
from geomap.run import record
from geomap.run.learned import verdict
from geomap.run.learning import MOST, Base, base_of, off, questions_of, rows_of, scatter_of, with_taught
from geomap.run.lesson import Lesson, require_classes, require_in, taught_legends
from geomap.run.pixels import distinct, drawn
from geomap.run.prepare import competing, find_scenes, with_base
from geomap.run.request import Request
from geomap.run.wording import warn_of_words
from geomap.sentinel2 import BANDS, NODATA_DN
from geomap.store import store as stored
from geomap.store.store import COMPOSITES, EMBEDDINGS
from geomap.text import plain, plural, shown
from geomap.types import (
    CLEAR_MONTHS,
    MAX_MISSED,
    NOT_MAPPED,
    PLAIN,
    Composite,
    Grid,
    Missed,
    Period,
    Progress,
    may_miss,
    silent,
)
from geomap.write.layer import Layer, layers_of

__all__ = ["composite", "embed", "label", "load_weights", "map_area", "open_store", "search"]

log = logging.getLogger(__name__)

WINDOW: Final = 32_768
"""Pixels labelled at once."""


def search(
    area: Area | str,
    period: Period | str,
    stac: str = "earth-search",
    *,
    collection: str | None = None,
    max_cloud: float = 100,
    offset: OffsetPolicy = "auto",
    allow_hosts: Collection[str] = (),
    exclude: Collection[str] = (),
    max_missed: float = MAX_MISSED,
) -> Found:
    """Find the Sentinel-2 L2A scenes over an area in a period.

    Args:
        area: `Area`, (west, south, east, north) in degrees, a GeoDataFrame, shapely polygons in degrees, or text:
            "minx,miny,maxx,maxy", WKT, or the path of an area file, FILE:LAYER if it has several layers.
        period: `Period`, or text: "2023", "2023-04", "2022-10/2023-09".
        stac: earth-search, planetary-computer, cdse, the URL of a STAC API, or the path of an item file.
        collection: STAC collection; by default all collections whose conventions are known.
        max_cloud: highest `eo:cloud_cover` of an item, in percent.
        offset: "auto", "applied" or "unapplied", for scenes whose metadata do not say whether the offset is applied.
        allow_hosts: additional hosts and s3 buckets that may be read, besides those of the catalogue.
        exclude: ids of scenes to leave out.
        max_missed: share of the scenes that may be left out for a mistake in their items.

    Returns:
        `.scenes`, in time order, and `.left_out`: the items that are not used, each with its cause.

    Raises:
        NoScenesError: no scenes found.
        InputError: the area, period or catalogue cannot be read.
        CatalogUnavailableError: the catalogue does not answer; try again later.
    """
    asked = Request(
        area=area,
        period=period if isinstance(period, Period) else str(period),
        stac=str(stac),
        collection=collection,
        max_cloud=max_cloud,
        offset=offset,
        allow_hosts=_names(allow_hosts),
        exclude=_names(exclude),
        max_missed=max_missed,
    )
    return find_scenes(asked, silent)


def _names(value: Any) -> Any:
    """A collection as a tuple; text, which is none, and None as they are, for Request to refuse."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else value


def composite(
    scenes: Found,
    area: Area | str,
    *,
    mask: Mask | Mapping[str, Any] = DEFAULT_MASK,
    max_missed: float = MAX_MISSED,
    deadline: float = DEADLINE,
    progress: Progress = silent,
) -> xr.DataArray:
    """Read scenes and make the monthly medians of their clear pixels over an area.

    Args:
        scenes: the result of `search`.
        area: as for `search`; must lie within one UTM zone.
        mask: which observations are clear: `Mask`, or such as {"classes": [3, 8, 9], "dilation": 2}.
        max_missed: share of the scenes that may be left out because a file is missing or damaged; Python's log names
            each.
        deadline: seconds for which a server may refuse a file.
        progress: callback with ("composite", tiles done, total tiles).

    Returns:
        (month, band, y, x) uint16, reflectance x 10000, 0 = nodata (240 bytes a pixel for twelve months), with the
        coordinates `clear` (month, y, x), number of clear observations, and `inside` (y, x), True in the area.

    Raises:
        InputError: the area spans several UTM zones.
        ReadError, SourceUnavailableError: files cannot be read.
        OffsetError: the pixels of a scene contradict its radiometric offset.
    """
    if not isinstance(scenes, Found):
        raise InputError(f"give composite all that geomap.search returned, not {type(scenes).__name__}")
    asked = Request(area=area, period=scenes.period, mask=mask, max_missed=max_missed, deadline=deadline)
    where, period = asked.area, asked.period
    if any(period.step(scene.time) is None for scene in scenes.scenes):
        raise InputError(
            f"not all of these scenes are of {period}; search that period: geomap.search(area, '{period}')"
        )
    parts = tiles(where)
    if len(zones := {tile.grid.epsg for tile in parts}) > 1:
        names = ", ".join(f"EPSG:{epsg}" for epsg in sorted(zones))
        raise InputError(f"the area lies in {names}; cut it to one zone, or use geomap.map_area, which maps each zone")
    whole = mosaic_grid(tuple(tile.grid for tile in parts))
    dn = np.zeros((period.months, len(BANDS), *whole.shape), np.uint16)
    clear = np.zeros((period.months, *whole.shape), np.uint8)
    within = np.zeros(whole.shape, bool)
    missed = dict[str, Missed]()
    dark, seen, allowed = offset_check.total([]), False, may_miss(len(scenes.scenes), asked.max_missed)
    with Headers() as kept:
        for done, tile in enumerate(parts, 1):
            near = over(scenes.scenes, tile.grid)
            seen = seen or bool(near)
            made = pipeline.compose(near, tile.grid, period, asked.mask, asked.max_missed, asked.deadline, kept=kept)
            missed |= {m.scene: m for m in made.missed}
            dark = offset_check.total([dark, made.dark])
            offset_check.weigh(scenes.scenes, dark, allowed, so_far=True)
            row, column = tile.grid.offset_in(whole)
            part = (..., slice(row, row + tile.grid.height), slice(column, column + tile.grid.width))
            within[part] = mine = inside(where, tile.grid)
            dn[part], clear[part] = made.dn * mine, made.clear * mine
            progress("composite", done, len(parts))
    for scene, why in sorted(missed.items()):
        log.warning("left out, where it could not be read: %s (%s: %s)", scene, why.band, why.detail)
    if wrong := offset_check.weigh(scenes.scenes, dark, allowed).wrong:
        for evidence in wrong.values():
            log.warning("left out: %s", evidence)
        rest = replace(scenes, scenes=tuple(scene for scene in scenes.scenes if scene.id not in wrong))
        return composite(rest, area, mask=asked.mask, max_missed=max_missed, deadline=deadline, progress=progress)
    if not seen:
        raise NoScenesError("none of these scenes lies over the area; give composite the area that was searched")
    return _composite_array(dn, clear, within, whole, period)


def embed(
    series: xr.DataArray,
    weights: Weights | str = "default",
    *,
    min_clear_months: int | None = None,
    device: str | torch.device = "auto",
    progress: Progress = silent,
) -> xr.DataArray:
    """Encode the months of every pixel into a unit vector in the space of the text embeddings.

    Weights of patches take the pixels beyond the array, or outside the area, as missing; runs read a margin. They need
    every pixel in its place: y falls and x rises by 10 m.

    Args:
        series: (month, band, y, x) from `composite` or `open_store`, or a window of it.
        weights: name or folder, or the result of `load_weights`.
        min_clear_months: pixels with fewer months are NaN; by default 3, or all months of a shorter period.
        device: auto, cpu, cuda, or a torch.device.
        progress: callback with ("encode", pixels done, total pixels).

    Returns:
        (component, y, x) float32 (1.5 kB a pixel with the default weights), NaN where not mapped, with the coordinate
        `clear_months` (y, x): number of months with a value in all bands, 255 outside the area.

    Raises:
        WeightsError: the weights do not exist.
        InputError: the series is not a composite, or the device does not exist.
    """
    loaded = weights if isinstance(weights, Weights) else load_weights(str(weights))
    dn, steps, inside = checked_series(series)
    require_neighbours(series, loaded.encoder.cfg.patch, "these weights take patches of", "embed composites")
    least = checked_least(min_clear_months, len(steps))
    engine = Engine(loaded.encoder, device)
    made = Composite(dn, np.zeros((0, *dn.shape[2:]), np.uint8))
    months, usable = pipeline.usable_pixels(made, inside, least)
    out = np.full((engine.execution.cfg.out, usable.size), np.nan, np.float32)
    for index, vectors in pipeline.embed_pixels(engine, made, usable, steps):
        out[:, index] = vectors.cpu().numpy().T
        progress("encode", int(index[-1]) + 1, usable.size)
    card = loaded.card
    about = {"weights": card.name, "weights_sha256": loaded.digest, "text_space": card.text_space}
    return xr.DataArray(
        out.reshape(-1, *usable.shape),
        dims=("component", "y", "x"),
        coords={**_place(series), CLEAR_MONTHS: (("y", "x"), months)},
        name="embedding",
        attrs={"long_name": "unit embedding", **about},
    )


def label(
    embeddings: xr.DataArray,
    classes: str | Sequence[str] | None = None,
    *,
    legends: Legend | str | Sequence[Legend | str] = (),
    weights: Weights | str | None = None,
    min_confidence: float = 0.0,
    within: tuple[str, str] | str | None = None,
    others: bool = False,
    without: str | Sequence[str] = (),
    everywhere: bool = False,
    smooth: int = 1,
    layers: str | Sequence[str] = PLAIN.layers,
    points: Path | str | Sequence[Path | str] | None = None,
    column: str | None = None,
    points_crs: object = None,
    learned: Path | str | None = None,
    series: xr.DataArray | None = None,
) -> xr.Dataset:
    """Map each embedding to the class whose prompts are nearest, or that labelled points taught.

    Args:
        embeddings: (component, y, x) from `embed` or `open_store`, or a window of them.
        classes: names of your own in English, "vineyard, olive grove" or a list; their map is called `classes`.
        legends: built-in legends by name, .toml files or `Legend`s; by default land cover, if no classes are given.
        weights: the weights that made the embeddings, if they do not come with geomap.
        min_confidence: 0..1; pixels below it get class 255, unclassified.
        within: (legend, class), such as ("landcover", "Cropland"): the other maps cover only this class; "none": all
            pixels. By default as each legend says: crops are mapped on cropland, with a map of land cover beside them.
        others: whether `classes` and legends of your own get one more class, 254, "None of these".
        without: classes to leave out, by name or code, or "LEGEND=CLASS".
        everywhere: whether to keep classes that their legend says do not occur at these latitudes.
        smooth: log-probabilities are averaged over so many pixels a side, odd, not across nodata.
        layers: more maps of each legend of classes, of "second", "margin" and "probabilities"; or "none".
        points: file of labelled points or polygons, or several, which teach the legend that knows most of their
            classes.
        column: its column with the classes.
        points_crs: its coordinate system, where it names none: "EPSG:32631", or a CRS.
        learned: run directory or learned.json: what another run learned.
        series: (month, band, y, x), the composite of the same pixels: with 20 points or more, and for `learned`, the
            monthly series join the embeddings, as in a run. Without it the embeddings alone are learned from.

    Returns:
        For each legend of classes, `<legend>` (y, x) uint8 ids, 0 = nodata, and `<legend>_confidence` in percent, 255 =
        nodata; by `layers`, `<legend>_second` ids, `<legend>_margin` percent, and `<legend>_probabilities` percent
        (`<legend>_class`, y, x). For a legend of scores, `<legend>` float32, NaN = nodata. Also `clear_months`. The
        attributes `flag_values`, `flag_meanings`, `class_names` and `class_colours` describe the classes; `comment`, of
        the legend that points taught, says what they do for the map and which were left out, or what they did where
        `learned` comes from.

    Raises:
        LegendError: the legend does not exist, or two classes have the same name.
        WeightsError: the embeddings come from another model.
        InputError: the points, or what was learned, cannot be used.
    """
    loaded = _weights_of(embeddings, weights)
    chosen = checked_legends(classes, legends, default=learned is None)
    others = checked_flag("others", others)
    source = checked_points(points, column, points_crs, learned, others)
    named, lesson, known = taught_legends(chosen, source, None if learned is None else str(learned), None, loaded)
    asked, base = with_base(with_others(named) if others else named, checked_within(within))
    least = checked_share("min_confidence", min_confidence)
    pixels = checked_embeddings(embeddings, loaded.card.config().out, series)
    warn_of_words(chosen, loaded)
    finish = checked_finish(smooth, layers)
    require_neighbours(embeddings, finish.smooth, f"smooth={finish.smooth} takes", "label embeddings", reversible=True)
    everywhere, names = checked_flag("everywhere", everywhere), checked_names("without", without)
    gone = competing(asked, base, names, None if everywhere else _latitudes(embeddings, asked))
    questions = questions_of(asked, loaded, least, known, pixels.steps, finish.layers, gone)
    comments = {} if known is None else {known.legend.name: f"As {learned} has it: {known.record.verdict}"}
    if lesson is not None:
        lesson = lesson.without(gone[lesson.legend.name])
        taught, comments[lesson.legend.name] = _learned(
            lesson, pixels, embeddings, loaded, least, base_of(lesson.legend.name, questions, base)
        )
        questions = with_taught(questions, taught)
    wanted = layers_of([q.legend for q in questions], least, finish.layers)
    require_free(wanted)
    months = pixels.clear_months
    labels = TileLabels(questions, months.shape, smooth, None if pixels.dn is None else pixels.series)
    made = pipeline.label_pixels(_windows(pixels.vectors), labels, months, base)
    maps = xr.Dataset({layer.stem: _map_array(made[layer.stem], layer, _place(embeddings)) for layer in wanted})
    for name, comment in comments.items():
        maps[name].attrs["comment"] = comment
    return maps


def _map_array(pixels: NDArray[Any], layer: Layer, place: dict[str, Any]) -> xr.DataArray:
    """A map as an array, with a dimension for its bands if it has several."""
    if not layer.bands:
        return xr.DataArray(pixels, dims=("y", "x"), coords=place, attrs=_layer_attrs(layer))
    name = class_dimension(layer)
    bands = {name: list(layer.bands)}
    return xr.DataArray(pixels, dims=(name, "y", "x"), coords=place | bands, attrs=_layer_attrs(layer))


@wraps(runs.map_area, assigned=("__doc__", "__annotations__"))
def map_area(*asked: Any, **options: Any) -> runs.Result:
    """`geomap.run.map.map_area`, with its docstring; options that it would only miss late are checked."""
    return runs.map_area(*asked, **checked_run(options))


def open_store(path: Path | str, epsg: int | None = None) -> xr.Dataset:
    """Open what a run saved with `save_composites` and `save_embeddings`: lazily, cut to the bounds of the area.

    Args:
        path: the run's directory, or one of its stores.
        epsg: the UTM zone, for an area over several zones.

    Returns:
        For embeddings: `embedding` (component, y, x) float32 like the result of `embed`, but rounded to bytes, with the
        coordinate `clear_months`. For composites: `composite` (month, band, y, x) uint16, 0 = nodata, with the
        coordinate `clear` (month, y, x).

    Raises:
        InputError: no store, a store of another version or without all of its files, or several zones without `epsg`.

    The arrays are read when they are used. Zarr's own checksums then find changed bytes in a chunk, but not a chunk
    that was exchanged for another; `geomap verify DIR` compares every file with its sha256.
    """
    folder = checked_path("open_store", path, "the directory of a run, or a store")
    kinds = [kind for kind in (COMPOSITES, EMBEDDINGS) if (folder / kind).is_dir()]
    stores = [stored.open_store(folder, kind) for kind in kinds] or [stored.open_store(folder)]
    for kept in stores:
        if lost := kept.lost():
            raise InputError(f"{kept.path} lacks {lost}; copy the whole store again, or type its run's command again")
    opened = [_opened(kept, epsg, folder) for kept in stores]
    return xr.merge(opened, compat="override", combine_attrs="drop_conflicts").unify_chunks()


def _opened(kept: stored.Store, epsg: int | None, run: Path) -> xr.Dataset:
    """One zone of a store as arrays like those of `composite` and `embed`."""
    zones = sorted({tile.grid.epsg for tile in kept.tiles})
    if epsg is None and len(zones) > 1:
        raise InputError(f"{kept.path} has the zones {', '.join(map(str, zones))}; give one of them as epsg=")
    asked = plain(zones[0] if epsg is None else epsg)
    zone = next((zone for zone in zones if str(zone) == asked), None)
    if zone is None:
        raise InputError(f"{kept.path} has no zone {shown(asked)}; give one of {', '.join(map(str, zones))}")
    where = mosaic_grid(tuple(tile.grid for tile in kept.tiles if tile.grid.epsg == zone))
    parts = [_square(kept, square, part) for square, part in by_square(where).items()]
    found: Any = xr.combine_by_coords(parts, combine_attrs="override")
    if kept.kind == COMPOSITES:
        composites: xr.Dataset = found.drop_attrs(deep=False).assign_coords(clear=found["clear"])
        inside = _inside(run, zone, where)
        return composites if inside is None else composites.assign_coords(inside=(("y", "x"), inside))
    codes = found["embedding"].astype(np.float32)
    length = np.sqrt((codes * codes).sum("component"))
    basis = xr.DataArray(kept.basis(), dims=("dimension", "component"))
    vectors = xr.dot(codes / length.where(length > 0), basis, dim="component").rename(dimension="component")
    of = kept.about["weights"]
    about = {"weights": of["name"], "weights_sha256": of["sha256"], "text_space": kept.about["text_space"]}
    placed = vectors.transpose("component", "y", "x").assign_coords({CLEAR_MONTHS: found[CLEAR_MONTHS]})
    opened: xr.Dataset = placed.assign_attrs(long_name="unit embedding", **about).to_dataset(name="embedding")
    return opened


def _square(kept: stored.Store, square: str, part: Grid) -> xr.Dataset:
    """The arrays of a square of 100 km, cut to a grid inside it."""
    row, column = part.offset_in(kept.squares[square])
    cut = {"y": slice(row, row + part.height), "x": slice(column, column + part.width)}
    found: xr.Dataset = xr.open_zarr(kept.path, group=kept.group(square), mask_and_scale=False, consolidated=False)
    return found.isel(cut)


def _inside(run: Path, zone: int, where: Grid) -> NDArray[np.bool_] | None:
    """(y, x) pixels of the area, as the run's map of clear months tells; None of a store without its run."""
    names = record.map_files(record.read_record(run), CLEAR_MONTHS) if (run / record.FILE).is_file() else []
    for path in (run / name for name in names if len(names) == 1 or name.endswith(f"_{zone}.tif")):
        with rasterio.open(path, driver="GTiff", sharing=False) as source:
            months: NDArray[np.uint8] = source.read(1)
        return months != NOT_MAPPED if months.shape == where.shape else None
    return None


def _weights_of(embeddings: xr.DataArray, weights: Weights | str | None) -> Weights:
    """The weights that made the embeddings. Raises WeightsError if others are given."""
    about = getattr(embeddings, "attrs", {})
    name, digest = about.get("weights"), about.get("weights_sha256")
    if name is None or digest is None:
        raise WeightsError("these embeddings do not name their weights; keep the attributes that embed sets")
    if weights is None:
        _require_named(str(name))
    loaded = weights if isinstance(weights, Weights) else load_weights(str(weights or name))
    if loaded.digest != digest:
        raise WeightsError(
            f"these are embeddings of weights {name} {digest[:12]}, not of {loaded.card.name} {loaded.digest[:12]}; "
            "give those as weights="
        )
    return loaded


def _require_named(name: str) -> None:
    """Raise WeightsError if the weights that made embeddings are not found by their name."""
    try:
        locate(name)
    except WeightsError as e:
        raise WeightsError(
            f"these are embeddings of weights {shown(name)}, which do not come with geomap; give their folder, or what "
            "load_weights gave, as weights="
        ) from e


def _latitudes(embeddings: xr.DataArray, asked: Sequence[Legend]) -> tuple[float, float] | None:
    """(south, north) of embeddings in degrees. Where they do not tell, a warning names the legends that ask for it."""
    box = box_of(embeddings)
    bounded = [legend.name for legend in asked if any(c.latitudes is not None for c in legend.classes)]
    if box is None and bounded:
        log.warning(
            "the embeddings name no coordinate system, so classes of %s that do not occur at their latitudes compete "
            "too; keep spatial_ref, x and y, or give everywhere=True",
            ", ".join(bounded),
        )
    return None if box is None else (box.south, box.north)


def _learned(
    lesson: Lesson,
    pixels: Pixels,
    embeddings: xr.DataArray,
    loaded: Weights,
    min_confidence: float,
    base: Base | None,
) -> tuple[Question, str]:
    """The question whose classes points taught, and what to say of it.

    `base`: the class on which alone the legend is mapped.

    Raises InputError for too few points.
    """
    place, ids, groups, lines = distinct(lesson.points, lesson.ids)
    zone = zone_of(embeddings)
    if (box := box_of(embeddings)) is not None:
        require_in(lesson.points, box.polygons)
    columns, rows = (_index(embeddings[axis].values, place[:, i]) for axis, i in (("x", 1), ("y", 2)))
    here = (place[:, 0] == zone) & (columns >= 0) & (rows >= 0)
    here[here] = ~np.isnan(pixels.vectors[0, rows[here], columns[here]])
    if not here.any():
        raise InputError(f"no point of {lesson.points.called} is on a pixel with an embedding; give points inside them")
    require_classes(ids[here], lesson.legend, lesson.points.called)
    prompts = pipeline.vectors_of(lesson.legend, loaded).numpy()
    if outside := int((~here).sum()):
        lines = (*lines, f"not on a pixel with an embedding: {plural(outside, 'pixel')}, left out")
    chosen, said = drawn(int(here.sum()), MOST)
    taught, lines = np.flatnonzero(here)[chosen], (*lines, *said)
    ids, groups, rows, columns = ids[taught], groups[taught], rows[taught], columns[taught]
    found = np.ascontiguousarray(pixels.vectors[:, rows, columns].T)
    shown = None if base is None else base.holds(found)
    dn = None if pixels.dn is None else pixels.dn[:, :, rows, columns].transpose(2, 0, 1)
    examples = Examples(found, rows_of(lesson.legend, ids), groups, dn, pixels.steps, shown)
    made = learn(examples, prompts, loaded.card.logit_scale, scatter_of(loaded))
    lines = (*lesson.lines, *lines, *off(base, shown, ids, lesson.legend, made.moved))
    for warning in (line for line in lines if line.startswith("WARNING")):
        log.warning("%s", warning)
    told = verdict(made.moved, len(ids), lesson.says(made))
    comment = "\n".join((told[0].upper() + told[1:], *lines))
    log.info("%s", told)
    return Question.learned(lesson.legend, made.with_series or made.head, min_confidence, pixels.steps), comment


def _index(centres: NDArray[np.float64], wanted: NDArray[np.int64]) -> NDArray[np.intp]:
    """(n,) where the pixels of these numbers, counted from the zone's origin, lie on an axis; -1: they do not.

    The axis, the centres of its pixels in metres, may have any order and step.
    """
    numbers = np.floor(centres / RESOLUTION).astype(np.int64)
    order = np.argsort(numbers, kind="stable")
    found = order[np.searchsorted(numbers, wanted, sorter=order).clip(max=len(order) - 1)]
    return np.where(numbers[found] == wanted, found, -1)


def _windows(vectors: NDArray[np.float32]) -> pipeline.Embedded:
    """The embedded pixels of (D, y, x) vectors, a window at a time."""
    pixels = vectors.reshape(len(vectors), -1)
    where = np.flatnonzero(~np.isnan(pixels[0]))
    for start in range(0, len(where), WINDOW):
        index = where[start : start + WINDOW]
        yield index, torch.from_numpy(np.ascontiguousarray(pixels[:, index].T))


def _composite_array(
    dn: NDArray[np.uint16], clear: NDArray[np.uint8], within: NDArray[np.bool_], where: Grid, period: Period
) -> xr.DataArray:
    months = np.array([f"{name}-01" for name in period.month_names], "datetime64[ns]")
    step = where.resolution
    found = xr.DataArray(
        dn,
        dims=("month", "band", "y", "x"),
        coords={
            "month": months,
            "band": list(BANDS),
            "y": where.north - step * (np.arange(where.height) + 0.5),
            "x": where.west + step * (np.arange(where.width) + 0.5),
            "clear": (("month", "y", "x"), clear),
            "inside": (("y", "x"), within),
        },
        name="composite",
        attrs={"long_name": "monthly median, reflectance x 10000", "_FillValue": NODATA_DN},
    )
    placed: xr.DataArray = found.rio.write_crs(where.epsg).rio.write_transform(Affine(*where.transform))
    return placed


def _place(array: xr.DataArray) -> dict[str, Any]:
    """The coordinates of an array's pixels, and its CRS, whatever the coordinate that holds it is called."""
    found: dict[str, Any] = {name: array.coords[name] for name in ("y", "x") if name in array.coords}
    if (crs := array.rio.crs) is None:
        return found
    name = array.rio.grid_mapping
    kept = array.coords if name in array.coords else xr.DataArray(0).rio.write_crs(crs, name).coords
    return found | {"spatial_ref": kept[name].variable}


def _layer_attrs(layer: Layer) -> dict[str, Any]:
    """The meaning of a map's values; flags follow CF conventions 1.11, section 3.5."""
    attrs: dict[str, Any] = {"long_name": layer.description, "_FillValue": layer.nodata}
    if layer.classes:
        attrs |= {
            "flag_values": [c.value for c in layer.classes],
            "flag_meanings": " ".join(c.name.replace(" ", "_") for c in layer.classes),
            "class_names": [c.name for c in layer.classes],
            "class_colours": [c.colour for c in layer.classes],
        }
    return attrs
