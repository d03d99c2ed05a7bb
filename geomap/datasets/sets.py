"""Sets of labelled series as evaluation takes them: HDF5 files in the published layout, and the small real sets."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from geomap.datasets.samples import Samples
from geomap.datasets.series import Progress
from geomap.errors import InputError

CELL: Final = 1.0  # degrees: samples of one cell are in one fold
REAL_LEGENDS: Final = {"landcover": "landcover", "crops": "crop"}
"""Legends that the real sets have labels of, and the attribute of a cover with the class id."""


@dataclass(frozen=True)
class LabelledSet:
    """Labelled samples, the groups that folds must not part, and people's scores of the places."""

    samples: Samples
    groups: NDArray[np.intp]  # (n,)
    grouped_by: str  # what a group is, in words
    scores: NDArray[np.float64] | None = None  # (n,) how scenic people find the place; NaN where unknown

    @property
    def name(self) -> str:
        return self.samples.name

    @property
    def labelled(self) -> tuple[str, ...]:
        """Legends that some sample has a class of."""
        return tuple(name for name, ids in self.samples.labels.items() if (ids > 0).any())

    def rows(self, which: NDArray[np.bool_]) -> LabelledSet:
        """The samples of some rows."""
        scores = None if self.scores is None else self.scores[which]
        return LabelledSet(self.samples.rows(which), self.groups[which], self.grouped_by, scores)

    def usable(self) -> LabelledSet:
        """The samples that have a valid month. Raises InputError where none has."""
        some: NDArray[np.bool_] = np.asarray(self.samples.valid.any(1))
        if not some.any():
            raise InputError(f"no sample of {self.name} has a month with all ten bands; there is nothing to evaluate")
        return self if some.all() else self.rows(some)

    def refuse_overlap(self, train: LabelledSet) -> None:
        """Raises InputError where a sample is in the training set too."""
        if shared := len(np.intersect1d(self.samples.id, train.samples.id)):
            raise InputError(f"{shared:,} samples of {self.name} are in the training set too; leave --train out")

    def country_class(self) -> Mapping[str, NDArray[np.intp]]:
        """{"country": (n,) number of each sample's country, 0 = none}, or {} where countries are unknown."""
        if self.samples.country is None:
            return {}
        names, index = np.unique(self.samples.country, return_inverse=True)
        return {"country": np.where(names[index] == "", 0, index + 1)}


def read(
    source: str,
    patch: int,
    photos: Path | None = None,
    labels: Path | None = None,
    scenicness: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> LabelledSet:
    """A set by its source: FILE.h5, or flanders=PATH, corsica=PATH, east_africa=PATH.

    Args:
        source: as typed.
        patch: pixels per side that the weights take.
        photos: ground photos' vectors by point (`geomap.datasets.lucas`).
        labels: more labels by point, in the layout of the published CSV files.
        scenicness: CSV with the columns id and score.
        progress: called while points are read.

    Raises:
        InputError: an unknown source, a patch that the file does not hold, a file that is missing or breaks its format.
        ReadError: an HDF5 file or photo vectors that break their layout.
    """
    kind, sep, path = source.partition("=")
    if sep and "/" not in kind:
        test = _real_set(kind, Path(path), patch)
    else:
        test = _cut(Path(source), patch, photos, labels, progress)
    return test if scenicness is None else replace(test, scores=_scores(scenicness, test.samples))


def grouped(samples: Samples) -> LabelledSet:
    """Groups by place: cells of a degree; where places are unknown every sample is a group of its own."""
    if samples.lonlat is None or not np.isfinite(samples.lonlat).all():
        return LabelledSet(samples, np.arange(len(samples)), "sample (their places are unknown)")
    cells = np.floor(samples.lonlat / CELL).astype(np.intp)
    return LabelledSet(samples, np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1), "cells of one degree")


def _cut(path: Path, patch: int, photos: Path | None, labels: Path | None, progress: Progress) -> LabelledSet:
    from geomap.datasets import lucas, sen4map

    samples = sen4map.read_cut(path, patch, lambda done, total: progress(f"{path.stem} read", done, total))
    if labels is not None:
        samples = lucas.with_labels(samples, lucas.read_label_csv(labels))
    return grouped(samples if photos is None else lucas.with_photos(samples, photos))


def _real_set(kind: str, path: Path, patch: int) -> LabelledSet:
    from geomap.datasets.worldcereal import READERS
    from geomap.simulate.covers import table
    from geomap.train.captions import cover_index

    if kind not in READERS:
        raise InputError(f"unknown set {kind!r}; use FILE.h5, or one of {', '.join(READERS)} as in {kind}=PATH")
    if patch != 1:
        raise InputError(f"{kind} holds single pixels; these weights take {patch} x {patch}")
    if not path.is_file():
        raise InputError(f"no file {path}; give the file of the set as {kind}=PATH")
    real = READERS[kind](path)
    cover = cover_index(real.cover)
    of = {name: np.array([getattr(c, a) for c in table().cover], np.intp)[cover] for name, a in REAL_LEGENDS.items()}
    samples = Samples(real.name, np.array([f"{real.name}/{i}" for i in range(len(real))]), real.dn, real.valid, of)
    return LabelledSet(samples, real.field, "field")


def _scores(path: Path, samples: Samples) -> NDArray[np.float64]:
    """(n,) score of each sample by its id, NaN where the file has none."""
    of: dict[str, float] = {}
    if not path.is_file():
        raise InputError(f"no file {path} with scenicness scores")
    with path.open(encoding="utf-8-sig", newline="") as f:
        lines = csv.DictReader(f)
        if not {"id", "score"} <= set(lines.fieldnames or ()):
            raise InputError(f"{path} needs the columns id and score in its first line")
        for line in lines:
            try:
                of[line["id"].strip()] = float(line["score"])
            except (ValueError, AttributeError) as e:
                raise InputError(f"{path}, line {lines.line_num}: the score {line['score']!r} is no number") from e
    return np.array([of.get(str(i), math.nan) for i in samples.id])
