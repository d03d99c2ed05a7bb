"""The labelled points of a request, matched to the legend that they teach, before a pixel is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from geomap import legends
from geomap.encode.weights import Weights
from geomap.errors import InputError, to_type
from geomap.label.choose import named
from geomap.label.learn import Learned
from geomap.legends import TYPED, Legend
from geomap.points.match import match, with_unknown
from geomap.points.read import SWAPPED, PointFiles, Points, read_files
from geomap.run.learned import LearnedRecord, Loaded, load
from geomap.text import listed, plural, shown
from geomap.types import Period

HALF_YEAR: Final = np.timedelta64(183, "D")


@dataclass(frozen=True, slots=True)
class Lesson:
    """Labelled places that teach a legend."""

    legend: Legend  # with the classes that it lacked
    points: Points  # those that can be used
    ids: NDArray[np.uint8]  # (n,) class of each, never 0
    lines: tuple[str, ...]  # what matched how, and what is left out, for the user
    digest: str  # sha256 of the places and their classes, of those that do not compete too
    column: str = ""  # of the file, with the classes
    added: frozenset[int] = frozenset()  # ids of the classes that the legend lacked

    def without(self, gone: frozenset[int]) -> Lesson:
        """The lesson without the points of classes that do not compete in the map. Raises InputError if one is left."""
        out = np.isin(self.ids, sorted(gone))
        if not out.any():
            return self
        names = listed(named(self.legend, gone & {*self.ids[out].tolist()}))
        count = plural(int(out.sum()), "point")
        line = f"of classes that --without or the latitude leaves out ({names}): {count}, left out"
        require_classes(self.ids[~out], self.legend, self.points.called)
        kept = self.points.rows(~out)
        return replace(self, points=kept, ids=self.ids[~out], lines=(*self.lines, line), added=self.added - gone)

    def says(self, made: Learned) -> str:
        """What the points do for the map, in sentences, and which classes they added to it though nothing was learned.

        `made`: what was learned from the lesson.
        """
        if made.moved or not self.added:
            return made.says
        names = listed(named(self.legend, self.added))
        return f"{made.says} Classes that the points added are mapped by their names alone: {names}."


def lesson_of(source: PointFiles, asked: Sequence[Legend], period: Period | None) -> Lesson:
    """Read labelled points, match their classes to a legend, and leave out those of another time than the period.

    Of the legends asked for, they teach the one that knows the classes of most of them; of equals, as for ids that
    several have, the one named like the column, or the first.

    Raises:
        InputError: the file cannot be used, or too little is left; the message says what to type instead.
    """
    points = read_files(source)
    known = [_knows(points, one) for one in asked]
    best = [one for one, count in zip(asked, known, strict=True) if count == max(known)]
    legend = next((one for one in best if one.name == source.column.casefold()), best[0])
    better = _require_kinship(points, source.column, legend)
    whole, matched = with_unknown(points, legend)
    lines, kept = [*matched.lines, *better], matched.ids > 0
    if points.nowhere:
        lines.append(f"without a place: {points.nowhere:,} rows, left out")
    if points.when is not None and period is not None:
        timely = _timely(points.when, period)
        if count := int((kept & ~timely).sum()):
            lines.append(f"of another time than {period}: {plural(count, 'point')}, left out")
        kept &= timely
    if not kept.any():
        raise InputError(f"no point of {points.called} is of {period}; choose other points or leave --date-column")
    taught = points.rows(kept)
    require_classes(matched.ids[kept], whole, points.called)
    added = frozenset(c.id for c in whole.classes) - {c.id for c in legend.classes}
    return Lesson(whole, taught, matched.ids[kept], tuple(lines), taught.digest, source.column, added)


def taught_legends(
    asked: Sequence[Legend], points: PointFiles | None, learned_from: str | None, period: Period | None, loaded: Weights
) -> tuple[tuple[Legend, ...], Lesson | None, Loaded | None]:
    """The legends of a request with the one that points teach, or taught in another run, as it is then.

    What another run learned comes first, in the place of its legend where that is asked for.

    Raises:
        InputError: the points, or what was learned, cannot be used, or another legend of its name is asked for.
    """
    if points is not None:
        lesson = lesson_of(points, asked, period)
        taught = lesson.legend
        return tuple(taught if legend.name == taught.name else legend for legend in asked), lesson, None
    if learned_from is not None:
        weights = {"name": loaded.card.name, "sha256": loaded.digest}
        known = load(learned_from, weights, loaded.card.config().out)
        for legend in asked:
            _require_same(legend, known, learned_from)
        others = tuple(legend for legend in asked if legend.name != known.legend.name)
        return (known.legend, *others), None, known
    return tuple(asked), None, None


def _require_same(asked: Legend, known: Loaded, learned_from: str) -> None:
    """Raise InputError if a legend has the name of a learned one, and not its classes as they were without points."""
    if asked.name != known.legend.name:
        return
    added = known.record.added
    before = [c for c in known.legend.classes if c.id not in (added or ())]
    own, wanted = ({(c.id, c.name, c.prompts) for c in classes} for classes in (before, asked.classes))
    if wanted != own and not (added is None and wanted < own):
        names = listed([c.name for c in before])
        raise InputError(
            f"{learned_from} has a legend {asked.name!r} of its own ({names}), and yours has other classes; leave out "
            "--legend or --classes to map the learned one (--without leaves classes of it out), or give your legend "
            "another name"
        )


def taught_legend(lesson: Lesson | None, known: Loaded | None) -> str | None:
    """The name of the legend that was learned from points, in this run or in another."""
    source = lesson or known
    return None if source is None else source.legend.name


def by_points(learned: LearnedRecord | None) -> str:
    """What a map's lineage says more if points moved the classes of a legend."""
    if learned is None or not learned.moved:
        return ""
    return f" Legend {learned.legend['name']}: learned from labelled points."


def told(lesson: Lesson | None, known: Loaded | None, area: str, period: str) -> dict[str, Any]:
    """What a run's identity says of points: keys for run.json. `area` is the sha256 of its area."""
    if lesson is not None:
        return {"points": {"sha256": lesson.digest, "column": lesson.column}}
    return {"learned": known.told(area, period)} if known is not None else {}


def require_classes(ids: NDArray[np.uint8], legend: Legend, files: str) -> None:
    """Raise InputError if the points of some files have fewer than two classes: there is nothing to tell apart."""
    if len(found := np.unique(ids)) < 2:
        one = "".join(f", {shown(c.name)}" for c in legend.classes if c.id in found)
        raise InputError(
            f"the points of {files} have {'one class only' if one else 'no class that is mapped'}{one}; learning "
            "needs two or more: add points of what it is not"
        )


def require_in(points: Points, area: BaseGeometry) -> None:
    """Raise InputError if no point lies in an area in degrees, or if most would with their coordinates exchanged."""
    shapely.prepare(area)
    lon, lat = points.lonlat.T
    inside, swapped = (int(shapely.contains_xy(area, x, y).sum()) for x, y in ((lon, lat), (lat, lon)))
    most = swapped > max(inside, len(lon) / 2)
    if inside and not most:
        return
    west, south, east, north = area.bounds
    few = f"{inside:,} of {len(lon):,} points lie" if inside else "no point lies"
    raise InputError(
        f"{few} in the area of {west:.3f}..{east:.3f}, {south:.3f}..{north:.3f}: those of {points.called} are at "
        f"{lon.min():.3f}..{lon.max():.3f}, {lat.min():.3f}..{lat.max():.3f}; "
        f"{SWAPPED if swapped else 'give points inside it'}"
    )


def counted(ids: NDArray[np.uint8], legend: Legend) -> Mapping[str, int]:
    """Class name -> number of points, in the order of the legend; classes without points are left out."""
    counts = Counter(ids.tolist())
    return {c.name: counts[c.id] for c in legend.classes if counts[c.id]}


def _knows(points: Points, legend: Legend) -> int:
    """Of how many points a legend has the class; -1 for one of scores, which points cannot teach."""
    return int((match(points, legend).ids > 0).sum()) if legend.classes else -1


def _require_kinship(points: Points, column: str, legend: Legend) -> tuple[str, ...]:
    """Refuse points of which no class is in the legend: they were meant for another one.

    Returns what to say if another legend has the classes of more of them.
    """
    found = match(points, legend)
    if not found.unknown:
        return ()
    known, names = int((found.ids > 0).sum()), [name for name in dict.fromkeys(points.name) if name]
    if not known and all(name.isdecimal() for name in names):
        raise InputError(
            f"the column {shown(column)} of {points.called} holds numbers ({listed(names)}) that are not all ids "
            f"of legend {legend.name} ({_ranges(c.id for c in legend.classes)}); choose a column with names as "
            f"--column, or write the ids that `{to_type('legends', 'show', legend.name)}` lists"
        )
    if known and (numbers := [name for name in found.unknown if name.isdecimal()]):
        raise InputError(
            f"the column {shown(column)} of {points.called} holds numbers ({listed(numbers)}) beside names of legend "
            f"{legend.name}; write names in every row, and leave those without one empty"
        )
    others = {name: _knows(points, legends.load(name)) for name in legends.builtin_names() if name != legend.name}
    best = max(others, key=lambda name: others[name])
    if known:
        few = f"{others[best]:,} of {len(points.name):,}"
        place = "--classes" if legend.name == TYPED else f"legend {legend.name}"
        more = f"legend {best} has the classes of more points, {few}"
        hint = f"{more}: if it is meant, type --legend {best} in place of {place}"
        return (hint,) if others[best] > known else ()
    hint = f"type --legend {best}, or " if others[best] > 0 else ""
    plain = len(names) > 1 and not any(set(name) & set(',;"') for name in names)
    typed = f'--classes "{listed(names, len(names))}"' if plain else "--classes"
    raise InputError(
        f"no class of {points.called} ({listed(names)}) is in legend {legend.name}; {hint}write the names that "
        f"`{to_type('legends', 'show', legend.name)}` lists, or, for classes of your own in English, type {typed}"
    )


def _ranges(ids: Iterable[int]) -> str:
    """Numbers as ranges: 1..4, 7."""
    found = sorted(ids)
    starts = [i for i in found if i - 1 not in found]
    ends = [i for i in found if i + 1 not in found]
    return ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in zip(starts, ends, strict=True))


def _timely(when: NDArray[np.datetime64], period: Period) -> NDArray[np.bool_]:
    """(n,) True for days within half a year of the middle of a period, and for those that are not known."""
    start, end = np.datetime64(period.start.date(), "D"), np.datetime64(period.end.date(), "D")
    middle = start + (end - start) // 2
    timely: NDArray[np.bool_] = np.isnat(when) | (np.abs(when - middle) <= HALF_YEAR)
    return timely
