"""Labelled monthly series in memory: readers return them, training and evaluation take them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geomap import legends
from geomap.errors import InputError
from geomap.text import listed, plural

COVER, CLIMATE = "cover", "climate"
"""Labels that are not of a legend: position among the kinds of land (`datasets.kinds`) and in the simulation's table of
climates, from 1; 0 is unknown."""

CELL: Final = 1.0  # degrees: samples of one cell are in one fold
PRINT: Final = 16  # digits of a series' digest: 64 bits
SKETCH: Final = 64  # digests that a card keeps of a set: a part of a tenth lacks them all once in 850 times
ARRAYS: Final = ("id", "dn", "valid", "groups", "group_names", "scores", "photos", "country", "lonlat")


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
    own_ids: bool = True  # False: ids are numbers of rows, and say nothing beside another set's
    group_names: NDArray[np.str_] | None = None  # (n,) names of `groups` in a user's table, "" for none
    notes: tuple[str, ...] = ()  # what matched how and what was left out when it was read, for the user

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

        The samples' own groups, else cells of one degree; a sample without a place is its own group. Groups that share
        a series are one: a pixel that was sampled twice is no test of what learned from it.
        """
        if self.groups is not None:
            return self._joined(self.groups), self.grouped_by
        if self.lonlat is None or not (known := np.isfinite(self.lonlat).all(1)).any():
            return self._joined(np.arange(len(self))), "sample (their places are unknown)"
        cells = np.floor(self.lonlat[known] / CELL).astype(np.intp)
        groups = len(self) + np.arange(len(self))
        groups[known] = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
        return self._joined(groups), "cells of one degree"

    def _joined(self, groups: NDArray[np.intp]) -> NDArray[np.intp]:
        """(n,) the groups, of which those that share a series are one."""
        prints = self.prints()
        known = np.flatnonzero(prints != "")
        _, group = np.unique(groups, return_inverse=True)
        _, series = np.unique(prints[known], return_inverse=True)
        nodes = len(self) + len(known)  # groups, then series
        links = coo_array((np.ones(len(known), bool), (group[known], len(self) + series)), (nodes, nodes))
        found: NDArray[np.intp] = connected_components(links, directed=False)[1][group]
        return found

    def prints(self) -> NDArray[np.str_]:
        """(n,) a digest of what each sample's valid months hold; "" for a sample without one."""
        known = np.where(self.valid[..., None], self.dn, self.dn.dtype.type(0))
        made = [hashlib.sha256(series.tobytes()).hexdigest()[:PRINT] if series.any() else "" for series in known]
        return np.array(made, np.dtype(f"<U{PRINT}"))

    def sketch(self) -> str:
        """The SKETCH lowest digests of the series, separated by spaces.

        A set holds one of them if it shares many series with this one: all of them if this one is part of it, and a
        share like its own if it is part of this one.
        """
        return " ".join(sorted(set(self.prints().tolist()) - {""})[:SKETCH])

    def shared(self, other: Samples) -> NDArray[np.bool_]:
        """(n,) whether a sample has the series of one of another set, whatever their ids."""
        mine = self.prints()
        both: NDArray[np.bool_] = np.isin(mine, other.prints()) & (mine != "")
        return both

    def common(self, other: Samples) -> NDArray[np.bool_]:
        """(n,) whether a sample has the series of one of another set, or its id where both sets name their samples."""
        both = self.shared(other)
        return both | np.isin(self.id, other.id) if self.own_ids and other.own_ids else both

    def common_groups(self, other: Samples) -> list[str]:
        """Names of groups that are in both sets."""
        if self.group_names is None or other.group_names is None:
            return []
        return sorted(set(self.group_names.tolist()) & set(other.group_names.tolist()) - {""})

    def refuse_overlap(self, train: Samples) -> None:
        """Raises InputError if a sample's series, its own id or its named group is also in the training set."""
        if both := int(self.common(train).sum()):
            by_id = "" if self.shared(train).any() else ", by their ids"
            other = ", or give samples that differ different ids" if by_id else ""
            raise InputError(
                f"{both:,} samples of {self.name} are in the training set too{by_id}; leave --train out{other}"
            )
        if groups := self.common_groups(train):
            raise InputError(
                f"{plural(len(groups), 'group')} of {self.name} ({listed(groups, 3)}) may be in the training set too; "
                "leave --train out, or give groups that differ different names"
            )
