"""The last step on arrays: `label`, by words, by points or by what was learned elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import rioxarray  # noqa: F401  gives arrays their `.rio`
import torch
import xarray as xr
from numpy.typing import NDArray

from geomap import pipeline
from geomap.api.checks import (
    Pixels,
    box_of,
    checked_embeddings,
    checked_finish,
    checked_flag,
    checked_legends,
    checked_names,
    checked_points,
    checked_share,
    checked_within,
    class_dimension,
    require_free,
    require_neighbours,
    zone_of,
)
from geomap.api.series import place_of
from geomap.encode.card import locate
from geomap.encode.weights import Weights, load_weights
from geomap.errors import InputError, WeightsError
from geomap.grid import RESOLUTION
from geomap.label.classify import Question, TileLabels
from geomap.label.learn import Examples, learn
from geomap.legends import Legend, with_others
from geomap.run.learned import Loaded, verdict
from geomap.run.learning import MOST, Base, base_of, off, questions_of, rows_of, scatter_of, with_taught
from geomap.run.lesson import Lesson, require_classes, require_in, taught_legends
from geomap.run.pixels import distinct, drawn
from geomap.run.prepare import competing, with_base
from geomap.run.wording import warn_of_words
from geomap.text import plural, shown
from geomap.types import PLAIN
from geomap.write.layer import Layer, layers_of

log = logging.getLogger(__name__)

WINDOW: Final = 32_768
"""Pixels labelled at once."""


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
            monthly series join the embeddings, as in a run. Without it the embeddings alone count; where another
            run learned with the series, the log warns.

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
    comments = {} if known is None else {known.legend.name: _taken(known, str(learned), pixels.steps)}
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
    maps = xr.Dataset({layer.stem: _map_array(made[layer.stem], layer, place_of(embeddings)) for layer in wanted})
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


def _taken(known: Loaded, learned: str, steps: tuple[int, ...]) -> str:
    """What to say of a map by what another run learned. Where it had months that are not at hand, the log warns."""
    said = f"As {learned} has it: {known.record.verdict}"
    lost = [month + 1 for month in known.record.months if month not in steps]
    if known.full is None or not lost:
        return said
    if not steps:
        lacks, instead = "the monthly series", "give series=, the composite of the same pixels"
    else:
        lacks = f"{plural(len(lost), 'month')} of the series ({', '.join(map(str, lost))})"
        instead = "give the series of all its months, if you have them"
    log.warning("%s learned with %s, which this map goes without; %s", learned, lacks, instead)
    return f"{said}\nThis map goes without {lacks}, which was at hand there, so these figures are not its own."


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
