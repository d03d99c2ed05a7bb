"""Matches the names of labelled points to the classes of a legend, and adds those that it lacks."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Final

import numpy as np
from numpy.typing import NDArray

from geomap.errors import InputError
from geomap.legends import TYPED, Legend, added, builtin_names, name_key, telling_words
from geomap.points.read import Points
from geomap.text import listed, shown

ALIKE: Final = 0.8
"""How alike two names are, 0..1 (difflib), from which one may be a slip of the other: Barly is Barley to .91."""

LONG: Final = 4
"""Letters of a name from which it may be the beginning of a word."""


@dataclass(frozen=True, slots=True)
class Matched:
    """The classes of points in a legend."""

    ids: NDArray[np.uint8]  # (n,) class id, 0 where the legend has none
    lines: tuple[str, ...]  # what matched how, for the user
    unknown: tuple[str, ...]  # names that the legend lacks, in order of appearance


def match(points: Points, legend: Legend) -> Matched:
    """The classes of points in a legend, whatever the case; by id if all names are ids.

    By name, code or synonym; else by the words that tell classes apart: "maize" is "maize field", if no other class is.

    Raises:
        InputError: the legend has no classes.
    """
    if not legend.classes:
        raise InputError(f"legend {legend.name} gives scores, not classes; points teach a legend of classes")
    counts = Counter(points.name)
    named = [name for name in counts if name]
    ways, worded = _ways(legend, named), _worded(legend)
    ids, lines, unknown = dict[str, int](), list[str](), list[str]()
    for name in named:
        found = next(((how, known[name_key(name)]) for how, known in ways if name_key(name) in known), None)
        found = found or next((("its words", c) for c in worded.get(telling_words(name), ())), None)
        if found is None:
            unknown.append(name)
            continue
        how, (ids[name], called) = found
        if name != called:
            lines.append(f"{name} ({counts[name]:,}): {called}, by {how}")
    if exact := sum(name in ids for name in named) - len(lines):
        lines.insert(0, f"{exact} of {len(named)} names are those of legend {legend.name}")
    if counts[""]:
        lines.append(f"without a class: {counts['']:,}, left out")
    return Matched(np.array([ids.get(name, 0) for name in points.name], np.uint8), tuple(lines), tuple(unknown))


def _ways(legend: Legend, named: Sequence[str]) -> list[tuple[str, dict[str, tuple[int, str]]]]:
    """How names may be found, the surest way first: (what it is, key -> (id, name of the class))."""
    ways: list[tuple[str, dict[str, tuple[int, str]]]] = []
    for how, of in (
        ("name", lambda c: [c.name]),
        ("code", lambda c: [c.code] if c.code else []),
        ("synonym", lambda c: c.synonyms),
    ):
        ways.append((how, {name_key(text): (c.id, c.name) for c in reversed(legend.classes) for text in of(c)}))
    by_id = {str(c.id): (c.id, c.name) for c in legend.classes}
    if not set(named) <= by_id.keys():
        return ways
    by_name = ways[0][1]
    return [*ways, ("id", by_id)] if all(name_key(name) in by_name for name in named) else [("id", by_id), *ways]


def _worded(legend: Legend) -> dict[frozenset[str], list[tuple[int, str]]]:
    """Telling words -> (id, name) of the one class whose name has these; not of names that say "other"."""
    found = dict[frozenset[str], list[tuple[int, str]]]()
    for c in legend.classes:
        if (words := telling_words(c.name)) and "other" not in name_key(c.name):
            found.setdefault(words, []).append((c.id, c.name))
    return {words: classes for words, classes in found.items() if len(classes) == 1}


def _near(name: str, legend: Legend) -> list[str]:
    """Classes that a name may stand for: those with such a word or whose words it has, or that are written nearly so.

    Or else those whose prompts have its words: of a legend in another language, these alone are in English.
    """
    key = name_key(name)
    written = {name_key(text): c.name for c in legend.classes for text in (c.name, *c.synonyms)}
    alike = get_close_matches(key, written, n=1, cutoff=ALIKE)
    part = re.compile(r"\b" + re.escape(key) + ("" if len(key) >= LONG else r"\b"))
    words = telling_words(name)
    found = [c.name for c in legend.classes if part.search(name_key(c.name)) or _within(telling_words(c.name), words)]
    near = list(dict.fromkeys((*found, *(written[text] for text in alike))))
    return near or [c.name for c in legend.classes if words and any(words <= telling_words(p) for p in c.prompts)]


def _within(some: frozenset[str], words: frozenset[str]) -> bool:
    return bool(some) and some <= words


def with_unknown(points: Points, legend: Legend) -> tuple[Legend, Matched]:
    """A legend with the classes of points that it lacks, and the classes of all points in it.

    New classes take the free ids from the highest id on, colours of their own, and the prompts of typed classes.
    Raises InputError, LegendError.
    """
    first = match(points, legend)
    if not first.unknown:
        return legend, first
    whole = added(legend, list({name_key(name): name for name in reversed(first.unknown)}.values())[::-1])
    again = match(points, whole)
    lines = [f"added to legend {legend.name}: {listed(first.unknown)}"]
    counts = Counter(points.name)
    lines += [
        f"WARNING: {shown(name)} ({counts[name]:,}) is mapped as a class of its own; if {listed(near)} is meant, write "
        f"that{_or_synonym(name, legend)}"
        for name in first.unknown
        if (near := _near(name, legend))
    ]
    return whole, replace(again, lines=(*first.lines, *lines))


def _or_synonym(name: str, legend: Legend) -> str:
    """What to add to a legend of one's own file instead; nothing for one that has no file to edit."""
    if legend.name in builtin_names() or legend.name == TYPED:
        return ""
    return f", or add synonyms = [{json.dumps(shown(name), ensure_ascii=False)}] to it in the file of {legend.name}"
