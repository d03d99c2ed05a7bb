"""Kinds of land that a label can name: a cover of the simulation, or several where a label does not say which.

A sample's label `cover` is the position of its kind, from 1. The first kinds are the covers in the table's order; then
follow one for every land cover class, one for every crop, and GROUPS.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from geomap.simulate.covers import Cover, table

CROPLAND: Final = 2
PERMANENT_CROPS: Final = range(30, 41)
"""Ids in the legend `crops` of what stands for years: orchards, vines, nurseries, plantations."""

GROUPS: Final[dict[str, Callable[[Cover], bool]]] = {
    "annual_crop": lambda c: c.landcover == CROPLAND and c.crop > 0 and c.crop not in PERMANENT_CROPS,
    "no_crop": lambda c: c.landcover not in (0, CROPLAND),
    "low_vegetation": lambda c: c.landcover in (4, 5),  # shrubland or grassland
    "flooded_vegetation": lambda c: c.landcover in (5, 8),  # grassland or wetland
}
"""Groups of covers by name, for labels of measured sets that mean several land covers."""


@cache
def members() -> NDArray[np.bool_]:
    """(kinds, covers) whether a cover belongs to a kind."""
    covers = table().cover
    landcovers = sorted({c.landcover for c in covers} - {0})
    crops = sorted({c.crop for c in covers} - {0})
    rows = [[c.landcover == i for c in covers] for i in landcovers]
    rows += [[c.crop == i for c in covers] for i in crops]
    rows += [[belongs(c) for c in covers] for belongs in GROUPS.values()]
    return np.concatenate([np.eye(len(covers), dtype=bool), np.array(rows)])


def group_index(name: str) -> int:
    """Position among the kinds of a group of GROUPS. Raises ValueError."""
    return len(members()) - len(GROUPS) + list(GROUPS).index(name)


def class_of(attribute: str) -> NDArray[np.intp]:
    """(kinds,) class id that all covers of a kind have in the legend of `attribute` (landcover, crop); else 0."""
    ids = np.array([getattr(c, attribute) for c in table().cover], np.intp)
    low = np.where(members(), ids, ids.max()).min(1)
    return np.where(low == np.where(members(), ids, 0).max(1), low, 0)


def kind_of_class(attribute: str, ids: NDArray[np.intp]) -> NDArray[np.intp]:
    """(n,) positions of the kinds that mean exactly the classes `ids` (n,) of a legend; -1: no cover has the class."""
    of_cover = np.array([getattr(c, attribute) for c in table().cover], np.intp)
    known = {row.tobytes(): i for i, row in enumerate(members())}
    position = {int(i): known[(of_cover == i).tobytes()] for i in np.unique(of_cover) if i}
    return np.array([position.get(int(i), -1) for i in ids], np.intp)
