"""Labelled monthly series in memory: readers return them, training and evaluation take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from geomap import legends
from geomap.errors import InputError

COVER, CLIMATE = "cover", "climate"
"""Labels that are not of a legend: position among the kinds of land (`datasets.kinds`) and in the simulation's table of
climates, from 1; 0 is unknown."""

CELL: Final = 1.0  # degrees: samples of one cell are in one fold
ARRAYS: Final = ("id", "dn", "valid", "groups", "scores", "photos", "country", "lonlat")


@dataclass(frozen=True)
class Samples:
    """n labelled series of twelve months, or of T steps that span months; month 0 is January whatever the start."""

    name: str
    id: NDArray[np.str_]  # (n,) for example a LUCAS point id
    dn: NDArray[np.uint16]  # (n, T, bands * patch^2), band-major as the encoder takes them, 0 = nodata; T is mostly 12
    valid: NDArray[np.bool_]  # (n, T) False where a month is not a token
    labels: Mapping[str, NDArray[np.intp]] = field(default_factory=dict)  # legend, COVER ... -> (n,) id, 0 = none
    groups: NDArray[np.intp] | None = None  # (n,) that `folds` keeps together; None: by place
    grouped_by: str = "group"  # what a group is, in words
    scores: NDArray[np.float64] | None = None  # (n,) how scenic people find the place; NaN where unknown
    photos: NDArray[np.float32] | None = None  # (n, D) mean vector of ground photos, not normalised; NaN: no photos
    country: NDArray[np.str_] | None = None  # (n,) NUTS 0 codes
    lonlat: NDArray[np.float64] | None = None  # (n, 2) degrees, NaN where unknown
    steps: NDArray[np.float32] | None = None  # (T, 12) share of each month in each step; None: the twelve months

    def __len__(self) -> int:
        return len(self.dn)

    def rows(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> Samples:
        """The samples of the given rows."""
        arrays = {name: array[which] for name in ARRAYS if (array := getattr(self, name)) is not None}
        return replace(self, labels={k: v[which] for k, v in self.labels.items()}, **arrays)

    @property
    def labelled(self) -> tuple[str, ...]:
        """Built-in legends for which at least one sample has a class."""
        known = legends.builtin_names()
        return tuple(name for name, ids in self.labels.items() if name in known and (ids > 0).any())

    @property
    def country_class(self) -> Mapping[str, NDArray[np.intp]]:
        """{"country": (n,) number of each sample's country, 0 = none}, or {} where countries are unknown."""
        if self.country is None:
            return {}
        names, index = np.unique(self.country, return_inverse=True)
        return {"country": np.where(names[index] == "", 0, index + 1)}

    def usable(self) -> Samples:
        """The samples that have a valid month. Raises InputError if none has."""
        some: NDArray[np.bool_] = np.asarray(self.valid.any(1))
        if not some.any():
            raise InputError(f"no sample of {self.name} has a month with all ten bands; there is nothing to evaluate")
        return self if some.all() else self.rows(some)

    def folds(self) -> tuple[NDArray[np.intp], str]:
        """(n,) groups that folds must not split, and what a group is in words.

        The samples' own groups, else cells of one degree; a sample without a place is its own group.
        """
        if self.groups is not None:
            return self.groups, self.grouped_by
        if self.lonlat is None or not (known := np.isfinite(self.lonlat).all(1)).any():
            return np.arange(len(self)), "sample (their places are unknown)"
        cells = np.floor(self.lonlat[known] / CELL).astype(np.intp)
        groups = len(self) + np.arange(len(self))
        groups[known] = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
        return groups, "cells of one degree"

    def refuse_overlap(self, train: Samples) -> None:
        """Raises InputError if a sample is also in the training set."""
        if shared := len(np.intersect1d(self.id, train.id)):
            raise InputError(f"{shared:,} samples of {self.name} are in the training set too; leave --train out")
