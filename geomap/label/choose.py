"""Which classes of the legends compete in a map: all but those left out by name, or by where the place lies.

A class with `latitudes` is left out where the whole area lies north or south of them. Such a rule can only say where a
class surely does not occur; within its latitudes a class competes, whether it occurs there or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from geomap.errors import LegendError
from geomap.legends import Legend

Gone: TypeAlias = Mapping[str, frozenset[int]]
"""Legend -> ids of its classes that do not compete."""


def left_out(
    asked: Sequence[Legend], without: Iterable[str], latitudes: tuple[float, float] | None
) -> dict[str, frozenset[int]]:
    """The classes of each legend that do not compete.

    Args:
        asked: the legends to map.
        without: names or codes of classes, in any case; "LEGEND=CLASS" for one legend alone.
        latitudes: (south, north) of the area in degrees; None: classes compete everywhere.

    Raises:
        LegendError: a name that no legend has.
    """
    gone = {legend.name: _elsewhere(legend, latitudes) for legend in asked}
    for name in without:
        found = {legend.name: ids for legend in asked if (ids := _called(legend, name))}
        if not found:
            names = "; ".join(f"{q.name}: {', '.join(c.name for c in q.classes)}" for q in asked if q.classes)
            raise LegendError(f"--without: no class {name!r} in the legends to map ({names or 'they have no classes'})")
        for legend, ids in found.items():
            gone[legend] |= ids
    return gone


def named(legend: Legend, ids: frozenset[int]) -> tuple[str, ...]:
    """The names of classes by id, in the legend's order."""
    return tuple(c.name for c in legend.classes if c.id in ids)


def _called(legend: Legend, name: str) -> frozenset[int]:
    of, _, alone = (part.strip() for part in name.partition("="))
    return legend.ids_called(name) or (legend.ids_called(alone) if of == legend.name else frozenset())


def _elsewhere(legend: Legend, latitudes: tuple[float, float] | None) -> frozenset[int]:
    """The classes whose latitudes the area does not touch."""
    if latitudes is None:
        return frozenset()
    south, north = latitudes
    banded = ((c.id, c.latitudes) for c in legend.classes if c.latitudes is not None)
    return frozenset(number for number, (low, high) in banded if north < low or south > high)
