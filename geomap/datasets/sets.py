"""Finds a set of labelled samples by the name or file that evaluation and training are given."""

from __future__ import annotations

import csv
import logging
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from geomap.datasets import lucas, sen4map, table
from geomap.datasets.extras import csv_errors
from geomap.datasets.measured import READERS
from geomap.datasets.samples import Samples
from geomap.errors import DataError, InputError
from geomap.text import shown
from geomap.types import Progress, silent

log = logging.getLogger(__name__)

PACKED: Final = (".gz", ".zip")
_SHAPES: Final = re.compile(r"\.(gpkg|geojson|json|shp)(:|$)", re.IGNORECASE)
"""Ends of files of points and polygons; the name of a layer may follow."""


def read_set(
    source: str,
    patch: int,
    photos: Path | None = None,
    labels: Path | None = None,
    scenicness: Path | None = None,
    progress: Progress = silent,
) -> Samples:
    """Samples by their source: FILE.h5, FILE.csv, FILE.parquet, or NAME=PATH of a measured set.

    Args:
        source: as the user typed it.
        patch: pixels per side that the weights take.
        photos: file of ground photo vectors by point (`geomap.datasets.lucas`).
        labels: file of more labels by point, in the layout of the published CSV files.
        scenicness: CSV with the columns id and score.
        progress: called while points are read.

    Raises:
        InputError: an unknown source, points or polygons, a patch that the file lacks, steps that span months, a file
            that is missing or breaks its format.
        DataError: a table, an HDF5 file or photo vectors that break their layout.
    """
    kind, sep, path = source.partition("=")
    if sep and "/" not in kind:
        if kind not in READERS:
            raise InputError(
                f"unknown set {kind!r}; use FILE.h5, FILE.csv, or one of {', '.join(READERS)} as {kind}=PATH"
            )
        samples = read_pixels(kind, Path(path), patch)
        if samples.steps is not None:
            raise InputError(f"{kind} has {len(samples.steps)} steps a year; evaluation takes monthly series")
    elif Path(source).suffix.casefold() in table.SUFFIXES:
        samples = read_pixels("", Path(source), patch)
    elif Path(source).suffix.casefold() in PACKED:
        raise InputError(f"{shown(Path(source).name)} is compressed; unpack it, and give the file that is in it")
    elif _SHAPES.search(source):
        raise InputError(
            f"{shown(source)} holds places without series; as --data they need --run DIR, for their series, and "
            "--column NAME, for their classes"
        )
    else:
        samples = sen4map.read_cut(Path(source), patch, progress)
    if labels is not None:
        samples = lucas.with_labels(samples, lucas.read_label_csv(labels))
    if photos is not None:
        samples = lucas.with_photos(samples, photos)
    if scenicness is not None:
        samples = replace(samples, scores=_scores(scenicness, samples))
    return samples


def read_pixels(name: str, path: Path, patch: int = 1) -> Samples:
    """A set of single pixels: a measured set if `name` is in READERS, else a user's table with that name.

    Raises InputError, ConfigError, DataError.
    """
    if patch != 1:
        raise InputError(f"{name or path} holds single pixels; these weights take {patch} x {patch}")
    if name not in READERS:
        return table.read_table(path, name or None)
    try:
        return READERS[name](path)
    except DataError as e:
        if path.suffix.casefold() in table.SUFFIXES:
            raise DataError(f"{e}; {name} is the name of a known set: give a table of your own another name") from e
        raise


def _scores(path: Path, samples: Samples) -> NDArray[np.float64] | None:
    """(n,) score of each sample, found by its id, NaN where the file has none; None, with a warning, if it has none.

    Raises InputError, DataError.
    """
    of: dict[str, float] = {}
    if not path.is_file():
        raise InputError(f"no file {path} with scenicness scores")
    with path.open(encoding="utf-8-sig", newline="") as f, csv_errors(path):
        lines = csv.DictReader(f)
        if not {"id", "score"} <= set(lines.fieldnames or ()):
            raise InputError(f"{path} needs the columns id and score in its first line")
        for line in lines:
            where, name = f"{path}, line {lines.line_num}", (line["id"] or "").strip()
            if name in of:
                raise InputError(f"{where}: the id {shown(name)} has a score already; keep one of the two")
            of[name] = _score(line["score"], where)
    ids = samples.id.tolist()
    if of.keys().isdisjoint(ids):
        log.warning("%s: no id of %s is among its %d; that set has ids such as %s", path, samples.name, len(of), ids[0])
        return None
    return np.array([of.get(i, math.nan) for i in ids])


def _score(text: str | None, where: str) -> float:
    try:
        score = float(text or "")
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise InputError(f"{where}: the score {text!r} is no number")
    return score
