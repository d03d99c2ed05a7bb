"""Labelled points as samples: their series from the composites of a run, their classes by the legend that fits."""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomap import legends
from geomap.datasets.samples import Samples
from geomap.errors import InputError
from geomap.legends import Legend
from geomap.points.match import Matched, match
from geomap.points.pixels import lonlat_of
from geomap.points.read import PointFiles, Points, read_files
from geomap.points.source import located
from geomap.run.pixels import by_block, by_tile, distinct
from geomap.run.steady import run_of, steady
from geomap.sentinel2 import BANDS, MONTHS
from geomap.store.store import COMPOSITES, open_store
from geomap.text import listed, plural, shown

log = logging.getLogger(__name__)


def samples_at(source: PointFiles, run: Path) -> Samples:
    """The series of a run's composites at labelled points, one for each pixel; polygons and cells of 500 m are groups.

    What matches otherwise than by its name, and what is left out, is logged and in the notes of the samples.

    Args:
        source: the points; their classes are those of the built-in legend that knows most of their names, or, if these
            are ids of several legends, of the one that is named like the column.
        run: directory of a run with --save-composites, or its composites.zarr.

    Raises:
        InputError: the points cannot be read, no legend knows their classes, ids fit several, or no point lies on a
            pixel with data.
        RenewedError: the run was made anew meanwhile.
        ReadError: the store is damaged.
    """
    points = read_files(source)
    with steady(run_of(run, COMPOSITES)) as reading:
        kept = open_store(run, COMPOSITES)
        legend = nearest_legend(points, source.column)
        matched = match(points, legend)
        known = matched.ids > 0
        place, ids, groups, lines = distinct(points.rows(known), matched.ids[known])
        dn = np.zeros((len(place), MONTHS, len(BANDS)), np.uint16)
        for tile, rows, at in by_tile(kept, place):
            for mine, where, local in by_block(tile, at):
                series = kept.read("composite", where, tile)[:, :, local[:, 0], local[:, 1]]
                dn[np.ix_(rows[mine], np.array(kept.period.calendar_months))] = series.transpose(2, 0, 1)
        reading.require()
    valid: NDArray[np.bool_] = np.asarray((dn > 0).all(axis=2))
    some: NDArray[np.bool_] = np.asarray(valid.any(axis=1))
    if not some.any():
        raise InputError(f"no point of {points.called} lies on a pixel of {kept.path} with data")
    if count := int((~some).sum()):
        lines = (*lines, f"outside the area, or on pixels without data: {plural(count, 'pixel')}, left out")
    name = _called(source)
    names = np.array([f"{epsg}_{column}_{row}" for epsg, column, row in place.tolist()])
    return Samples(
        name=name,
        id=names[some],
        dn=dn[some],
        valid=valid[some],
        labels={legend.name: ids[some].astype(np.intp)},
        groups=groups[some],
        grouped_by="fields, or cells of 500 m",
        lonlat=lonlat_of(place[some]),
        notes=_told(name, points, legend, matched, lines),
    )


def _called(source: PointFiles) -> str:
    """The name of a set: that of its file, and of the layer where one is named, for the names of files."""
    path, layer = located(source.files[0])
    return path.stem if layer is None else re.sub(r"[^\w.-]", "_", f"{path.stem}_{layer}")


def _told(called: str, points: Points, legend: Legend, matched: Matched, lines: tuple[str, ...]) -> tuple[str, ...]:
    """What matched how, and what is left out; logged too, but for how many names are the legend's own."""
    notes = list(matched.lines)
    if matched.unknown:
        counts = Counter(points.name)
        lost = plural(sum(counts[name] for name in matched.unknown), "point")
        notes.append(f"unknown to legend {legend.name} ({listed(matched.unknown)}): {lost}, left out")
    if points.nowhere:
        notes.append(f"without a place: {plural(points.nowhere, 'row')}, left out")
    notes += lines
    for note in notes:
        exact = note.endswith(f"names are those of legend {legend.name}")
        log.log(logging.INFO if exact else logging.WARNING, "%s: %s", called, note)
    return tuple(notes)


def nearest_legend(points: Points, column: str) -> Legend:
    """The built-in legend that knows most of the points' names; of those that know them all as ids, the column's.

    Raises InputError if none knows any, or if ids fit several legends and the column is called like none of these.
    """
    known = [legend for name in legends.builtin_names() if (legend := legends.load(name)).classes]
    written = set(points.name) - {""}
    fitting = {legend.name: legend for legend in known if written <= {str(c.id) for c in legend.classes}}
    if len(fitting) > 1:
        if column.casefold() not in fitting:
            raise InputError(
                f"the ids in the column {shown(column)} of {points.called} fit {listed(fitting)}; write the names "
                f"of the classes, or call the column after the legend, such as {next(iter(fitting))}"
            )
        return fitting[column.casefold()]
    best = max(known, key=lambda legend: int((match(points, legend).ids > 0).sum()))
    if not (match(points, best).ids > 0).any():
        names = listed(legend.name for legend in known)
        raise InputError(f"no class of {points.called} is in a built-in legend ({names})")
    return best
