"""How the points of an assessment were drawn: by strata, simply at random, or as polygons."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from geomap.assess import sample_file
from geomap.assess.class_map import ClassMap, class_at
from geomap.assess.estimate import Sample
from geomap.errors import InputError
from geomap.points.read import SWAPPED, Points, read_points

Design = Literal["stratified", "random", "cluster"]

NOWHERE: Final = -1
"""Stratum of points without one, and of pixels in no stratum of the file; NOWHERE - c if they are those of class c."""

NONE: Final = " (where none of the classes is, write a name, such as no crop)"
"""What else to say of points without a class."""


@dataclass(frozen=True, slots=True)
class AssessRequest:
    """What to compare a map with."""

    points: str | Path
    column: str
    crs: str | None = None  # of a table's x and y
    legend: str | None = None  # stem of the map; None: the only one
    design: Design | None = None  # None: as the file's columns say
    allow_learned: bool = False


@dataclass(frozen=True, slots=True)
class Labelled:
    """Points with classes: what of a file can be used."""

    of: ClassMap
    points: Points
    mapped: NDArray[np.intp]  # (n,) class id on the map, 0 off it
    reference: NDArray[np.intp]  # (n,) class id; from 1000 on for classes that the map lacks


@dataclass(frozen=True, slots=True)
class Drawn:
    """The points that count, and how they were drawn."""

    sample: Sample
    kept: NDArray[np.bool_]  # (n,) which of the file's points they are
    design: Design
    known: bool  # whether the file or the user says so
    classes: Mapping[int, int]  # stratum -> the one class mapped in it; without strata of several
    notes: list[str]  # what to say


def design_of(labelled: Labelled, asked: AssessRequest, whole: Mapping[int, int]) -> Drawn:
    """The points that count, and how they were drawn. Raises InputError if none lies on the map."""
    points, notes = labelled.points, list[str]()
    polygons = len(set(points.group.tolist())) < len(points)
    given = None if asked.design == "cluster" else _given(asked)
    columns = None if given is None or asked.design == "random" else _columns(given, asked)
    if given is not None and asked.design == "random":
        notes.append(
            f"WARNING: the columns {sample_file.STRATUM} and {sample_file.SIZE} say that the points were drawn by "
            "stratum; without them the areas of classes are wrong: leave --design out, or say --design stratified"
        )
    if columns is not None:
        stratum, sizes = columns
        seen = set(labelled.mapped[stratum >= 0].tolist())
        rest = {NOWHERE - c: size for c, size in _rest(whole, sizes, seen).items()}
        sizes |= rest
        classes = _one_class(stratum, labelled.mapped) | {h: NOWHERE - h for h in rest if h != NOWHERE}
        kept = (labelled.reference > 0) & (stratum >= 0)
        design: Design = "stratified" if len(sizes) > 1 else "random"  # as the file of a random sample says
        tell(notes, stratum < 0, "points have no stratum, so they are not of the sample; left out")
    else:
        design = asked.design or ("cluster" if polygons else "random")
        if polygons and design == "random":
            design = "cluster"
            notes.append("polygons of several pixels are clusters, however they were drawn: pixels of one are alike")
        by_class = design == "stratified"
        stratum = labelled.mapped if by_class else np.zeros(len(points), np.intp)
        sizes = dict(whole) if by_class else {0: sum(whole.values())}
        classes = {c: c for c in whole} if by_class else _one_class(stratum, labelled.mapped)
        kept = (labelled.reference > 0) & (labelled.mapped > 0)
    others = "the others of their stratum" if design == "stratified" else "the others"
    tell(notes, labelled.reference == 0, f"points have no class; left out, as if like {others}{NONE}")
    off = (labelled.mapped == 0) & (labelled.reference > 0)
    tell(notes, off, "points lie where nothing is mapped; left out")
    if not (kept & (labelled.mapped > 0)).any():
        turned = class_at(labelled.of, points.lonlat[:, ::-1]).any()
        hint = SWAPPED if turned else "check --points-crs and --column"
        raise InputError(f"no point of {points.called} with a class lies on the map; {hint}")
    known = columns is not None or asked.design is not None
    if not known:
        what = "polygons" if polygons else "points"
        notes.append(
            f"WARNING: the file does not tell that the {what} were drawn by probability: the figures describe these "
            f"{what}, and the map only if they are a random sample of it; --design says so"
        )
    if polygons and columns is not None:
        notes.append(
            "WARNING: polygons of several pixels count by their pixels, where geomap sample drew points: give the "
            "points of the sample with their classes"
        )
    made = Sample(labelled.mapped[kept], labelled.reference[kept], stratum[kept], points.group[kept], sizes)
    return Drawn(made, kept, design, known, classes, notes)


def even(drawn: Drawn, whole: Mapping[int, int]) -> bool:
    """Whether all pixels of a mapped class were as likely as each other to be drawn, one by one.

    So it is in a random sample, and in one whose strata are the classes of this map, with all their pixels. `whole`:
    class id -> pixels of the map.
    """
    sizes, cluster = drawn.sample.sizes, drawn.sample.cluster
    one_by_one = len(np.unique(cluster)) == len(cluster)
    if drawn.design == "stratified":
        by_class = {drawn.classes.get(h, 0): size for h, size in sizes.items()}
        return len(sizes) == len(whole) and by_class == whole and one_by_one
    return drawn.design == "random" and one_by_one


def reach(sample: Sample) -> tuple[float, float]:
    """Pixels of the map in the strata of a sample, by the share of its points on the map; and the standard error."""
    total = variance = 0.0
    for h, size in sample.sizes.items():
        on = sample.mapped[sample.stratum == h] > 0
        if len(on):
            share = float(on.mean())
            total += size * share
            variance += size**2 * share * (1 - share) / max(len(on) - 1, 1)
    return total, math.sqrt(variance)


def _rest(whole: Mapping[int, int], sizes: Mapping[int, int], seen: Collection[int]) -> dict[int, int]:
    """Class id -> pixels of the map beyond the strata of a file: the classes not `seen` at its points if they have so
    many, as where the rows of a stratum were deleted; else under 0.
    """
    missing = sum(whole.values()) - sum(sizes.values())
    unseen = {c: size for c, size in whole.items() if c not in seen}
    if missing <= 0:
        return {}
    return unseen if sum(unseen.values()) == missing else {0: missing}


def _one_class(stratum: NDArray[np.intp], mapped: NDArray[np.intp]) -> dict[int, int]:
    """Stratum -> the class mapped at its points; without strata of several."""
    pairs = {(h, c) for h, c in zip(stratum.tolist(), mapped.tolist(), strict=True) if h > NOWHERE and c}
    several = Counter(h for h, _ in pairs)
    return {h: c for h, c in pairs if several[h] == 1}


def _given(asked: AssessRequest) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """What the two columns that `geomap sample` writes hold at each point; None without them."""
    columns = (sample_file.STRATUM, sample_file.SIZE)
    try:
        stratum, size = (read_points(asked.points, c, crs=asked.crs, every_pixel=True).name for c in columns)
    except InputError:
        return None
    return stratum, size


def _columns(
    given: tuple[tuple[str, ...], tuple[str, ...]], asked: AssessRequest
) -> tuple[NDArray[np.intp], dict[int, int]] | None:
    """(n,) strata (-1: none) and their pixels, of what the columns hold.

    None if they contradict themselves and the mapped classes are said to be the strata. Raises InputError otherwise.
    """
    try:
        strata = np.array([_whole(text) if text else -1 for text in given[0]], np.intp)
        sizes = {h: _whole(text) for h, text in zip(strata.tolist(), given[1], strict=True) if h >= 0}
        again = all(sizes[h] == _whole(text) for h, text in zip(strata.tolist(), given[1], strict=True) if h >= 0)
        if not again or any(size <= 0 for size in sizes.values()):
            raise ValueError("a stratum has two sizes, or none")
    except (ValueError, OverflowError) as e:
        if asked.design == "stratified":  # by the mapped classes, as where two samples of one map are put together
            return None
        raise InputError(
            f"the columns {sample_file.STRATUM} and {sample_file.SIZE} of {asked.points} are not as geomap sample "
            "wrote them; take them from its file again, or, if the mapped classes were the strata, say --design "
            "stratified"
        ) from e
    return strata, sizes


def _whole(text: str) -> int:
    """The number that a text says. Raises ValueError, OverflowError for one that is not whole."""
    value = float(text)
    if value != int(value):
        raise ValueError(f"{text} is not whole")
    return int(value)


def tell(notes: list[str], which: NDArray[np.bool_], what: str) -> None:
    """Add a note of how many points are of a kind, if there are any."""
    if n := int(which.sum()):
        notes.append(f"{n} {what}")
