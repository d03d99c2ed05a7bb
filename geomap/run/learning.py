"""Learns a legend from the stored pixels at labelled points, and says how well and where more would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from geomap import __version__, pipeline, waypoints
from geomap.encode.weights import Weights
from geomap.errors import InputError
from geomap.label.choose import Gone
from geomap.label.classify import Question, Within, answer
from geomap.label.head import Head
from geomap.label.learn import SERIES_FROM, Examples, Learned, learn
from geomap.label.places import PLACES, contradicted, helpful
from geomap.label.scatter import Scatter
from geomap.legends import Legend
from geomap.points.pixels import lonlat_of
from geomap.run import learned
from geomap.run.learned import LearnedRecord, Loaded
from geomap.run.learned_scores import scores
from geomap.run.lesson import Lesson, counted, require_classes
from geomap.run.pixels import AROUND, MIDDLE, Found, at_most, candidates, decoded, find
from geomap.store.codec import Codec
from geomap.store.store import Store
from geomap.text import listed, plural

ALIKE: Final = 6
"""Of the 3 x 3 pixels at a point, how many must have the class of the middle one; else the pixel is called mixed."""


MOST: Final = 10_000
"""Most pixels that are learned from; of more, so many are drawn."""


MOSTLY = 0.5
"""Share of a class's points outside the class to which a map is restricted, above which the class is named."""


_TAKEN: Final = ("", "fid", "geom", "geometry", "lon", "lat")
"""What the points' column cannot be called in places.gpkg and doubtful.gpkg."""


@dataclass(frozen=True, slots=True)
class Teaching:
    """A legend learned from stored pixels."""

    question: Question  # with vectors in the store's coordinates
    record: LearnedRecord
    places: tuple[Mapping[str, Any], ...]  # where more points would help most: rows of places.gpkg
    files: Mapping[str, bytes]  # name -> content, to lie beside the maps


@dataclass(frozen=True, slots=True)
class Base:
    """A class of another legend, on whose pixels alone a legend is mapped."""

    question: Question  # with vectors in the coordinates of the embeddings that are asked
    number: int  # id of the class
    base: Base | None = None  # the class on which alone this one is mapped

    @property
    def called(self) -> str:
        """The class and its legend in words."""
        legend = self.question.legend
        return f"{next(c.name for c in legend.classes if c.id == self.number)} of {legend.title}"

    def holds(self, embeddings: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(n,) True for (n, C) unit vectors of the class, each by itself: maps that are smoothed may differ."""
        found: NDArray[np.bool_] = answer(self.question, torch.from_numpy(embeddings)).value == self.number
        return found if self.base is None else found & self.base.holds(embeddings)


def base_of(name: str, questions: Sequence[Question], within: Within) -> Base | None:
    """The class to which a legend is restricted; None if it is mapped everywhere.

    `questions`: with vectors in the coordinates of the embeddings that are asked.
    """
    if name not in within:
        return None
    of, number = within[name]
    question = next(q for q in questions if q.legend.name == of)
    return Base(question, number, base_of(of, questions, within))


def teach(
    lesson: Lesson,
    weights: Weights,
    embeddings: Store,
    composites: Store | None,
    min_confidence: float = 0.0,
    base: Base | None = None,
) -> Teaching:
    """Learn a lesson's legend from a store.

    Args:
        lesson: the points and the legend.
        weights: those that made the embeddings.
        embeddings, composites: the stores of one run; without composites, the series are not learned from.
        min_confidence: 0..1; pixels below it are unclassified.
        base: the class on which alone the legend is mapped.

    Raises:
        InputError: too few points lie on mapped pixels.
        ReadError: a store is damaged.
    """
    codec = Codec(embeddings.basis())
    found = find(lesson, embeddings, composites)
    require_enough(found, lesson)
    found = at_most(found, MOST)
    months = embeddings.period.calendar_months
    series = found.dn if len(found) >= SERIES_FROM else None
    rows = rows_of(lesson.legend, found.ids)
    shown = None if base is None else base.holds(found.embeddings)
    examples = Examples(found.embeddings, rows, found.groups, series, months, shown)
    prompts, scatter = codec.project(pipeline.vectors_of(lesson.legend, weights)).numpy(), scatter_of(weights)
    scatter = None if scatter is None else scatter.projected(embeddings.basis())
    made = learn(examples, prompts, weights.card.logit_scale, scatter)
    head = made.head if made.with_series is None else made.with_series
    doubtful = _doubtful(made, examples, found, lesson)
    lines = (*lesson.lines, *found.lines, *_mixed(made.head, found))
    lines = (*lines, *off(base, shown, found.ids, lesson.legend, made.moved))
    if doubtful:
        others, again = "the other points" if made.moved else "the words", f"{learned.DOUBTFUL}.gpkg"
        lines = (*lines, f"contradicted by {others}: {plural(len(doubtful), 'pixel')}, kept; look again: {again}")
    places = tuple(wanted(made.head, found, embeddings, lesson, base))
    record = LearnedRecord(
        geomap=__version__,
        legend=lesson.legend.model_dump(mode="json"),
        weights=dict(embeddings.about["weights"]),
        points=learned.Taught(lesson.digest, len(found), counted(found.ids, lesson.legend), lines),
        area=str(embeddings.about.get("area", "")),
        period=str(embeddings.period),
        months=months,
        series=head.series is not None,
        helps=made.helps,
        says=lesson.says(made),
        scores=scores(made, examples, lesson.legend),
        settings=_settings(made),
        places=len(places),
        added=tuple(sorted(lesson.added)),
    )
    full = None if made.with_series is None else _whole(made.with_series, codec)
    record, files = learned.contents(record, _whole(made.head, codec), full, found.place)
    question = Question.learned(lesson.legend, head, min_confidence, months)
    return Teaching(question, record, places, files | place_files(places, doubtful))


def scatter_of(weights: Weights) -> Scatter | None:
    """How pixels of one kind differ among themselves, by the weights' own training; None if they do not tell."""
    return None if weights.scatter is None else Scatter(*(t.double().numpy() for t in weights.scatter))


def _whole(head: Head, codec: Codec) -> Head:
    """A head for embeddings as the encoder gives them, from one for their coordinates in a store."""
    return replace(head, vectors=np.ascontiguousarray(head.vectors @ codec.basis.T))


def questions_of(
    asked: Sequence[Legend],
    loaded: Weights,
    min_confidence: float,
    known: Loaded | None,
    months: tuple[int, ...],
    extras: tuple[str, ...] = (),
    gone: Gone = MappingProxyType({}),
) -> tuple[Question, ...]:
    """Legends as questions: by their prompts, or by what another run learned.

    `months`: calendar month 0..11 of each step of the series; empty if there are none. `extras`, `gone`: as
    pipeline.questions.
    """
    made: list[Question] = []
    for legend in asked:
        if known is not None and legend == known.legend:
            learned = Question.learned(legend, known.head(bool(months)), min_confidence, months)
            made.append(replace(learned, extras=extras).without(gone.get(legend.name, frozenset())))
        else:
            made += pipeline.questions([legend], loaded, min_confidence, extras, gone)
    return tuple(made)


def in_store(questions: Sequence[Question], codec: Codec) -> tuple[Question, ...]:
    """Questions with their vectors in the coordinates of a store."""
    return tuple(replace(q, vectors=codec.project(q.vectors)) for q in questions)


def with_taught(questions: Sequence[Question], taught: Question) -> tuple[Question, ...]:
    """Questions, that of a legend that was learned replaced: with its extras, without what does not compete in it."""

    def replaced(old: Question) -> Question:
        if old.legend.name != taught.legend.name:
            return old
        left = {c.id for c in taught.legend.classes} - {c.id for c in old.legend.classes}
        return replace(taught, extras=old.extras).without(frozenset(left))

    return tuple(map(replaced, questions))


def require_enough(found: Found, lesson: Lesson) -> None:
    """Raise InputError unless pixels of two classes are left."""
    if not len(found):
        raise InputError(
            f"no point of {lesson.points.called} is left to learn from ({'; '.join(found.lines)}); give points "
            "inside the area, of one class in a pixel"
        )
    require_classes(found.ids, lesson.legend, lesson.points.called)


def rows_of(legend: Legend, ids: NDArray[np.uint8]) -> NDArray[np.intp]:
    """(n,) row of each class id in a legend."""
    row = np.zeros(256, np.intp)
    for i, c in enumerate(legend.classes):
        row[c.id] = i
    return row[ids]


def _mixed(head: Head, found: Found) -> tuple[str, ...]:
    """What to say about points on pixels whose 3 x 3 neighbours are of other classes."""
    count = int(_on_edges(head, found.around, ALIKE).sum())
    line = f"on edges, where the 3 x 3 pixels are of several classes: {plural(count, 'pixel')}, kept"
    return (line,) if count else ()


def _on_edges(head: Head, around: NDArray[np.int8], least: int) -> NDArray[np.bool_]:
    """(n,) of (n, 9, C) codes of 3 x 3 pixels, 0 where not mapped: fewer than `least` are of the middle one's class."""
    middle = head.logits(decoded(around[:, MIDDLE])).argmax(axis=1)
    known: NDArray[np.bool_] = np.asarray(around.any(axis=2))
    alike = np.zeros(len(around), np.intp)
    for i in range(around.shape[1]):
        rows = np.flatnonzero(known[:, i])
        if len(rows):
            alike[rows] += head.logits(decoded(around[rows, i])).argmax(axis=1) == middle[rows]
    edges: NDArray[np.bool_] = alike < np.minimum(least, known.sum(axis=1))
    return edges


def off(
    base: Base | None, shown: NDArray[np.bool_] | None, ids: NDArray[np.uint8], legend: Legend, moved: bool
) -> tuple[str, ...]:
    """What to say about points where the legend is not mapped, since another legend's map has another class there.

    `shown`: (n,) pixels of the base's class; `ids`: (n,) class of each; `moved`: whether the points teach.
    """
    if base is None or shown is None or shown.all():
        return ()
    of = base.question.legend.name
    line = (
        f"outside {base.called}, where {legend.name} is nodata: {int((~shown).sum()):,} of {len(shown):,} pixels; they "
        f"{'teach but ' if moved else ''}do not count in the figures; to map {legend.name} everywhere, type --within "
        f"none; to correct {of} itself, give points of its classes: --legend {of}"
    )
    mostly = [c.name for c in legend.classes if (of := ids == c.id).any() and (~shown)[of].mean() > MOSTLY]
    return (line, f"so the map will show little of {listed(mostly)}") if mostly else (line,)


def _settings(made: Learned) -> dict[str, float]:
    """The strengths that cross-validation chose; an infinite penalty, the prompts alone, is left out."""
    found = {name: float(getattr(made.validated.strengths, name)) for name in ("penalty", "scale")}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def wanted(
    head: Head, found: Found, embeddings: Store, lesson: Lesson, base: Base | None = None
) -> list[dict[str, Any]]:
    """The places where more points would help most, as rows with `lon`, `lat`, `name`, the two likeliest classes.

    They lie where the legend is mapped and, if there are enough, in the middle of 3 x 3 pixels of one class: a phone's
    position is some metres off, and mixed pixels teach little. The points' own column is there to be filled in.
    """
    place, around = candidates(embeddings, found.place)
    if base is not None:
        mapped = base.holds(decoded(around[:, MIDDLE]))
        place, around = place[mapped], around[mapped]
    if not len(place):
        return []
    inside = ~_on_edges(head, around, len(AROUND))
    if inside.sum() >= PLACES:
        place, around = place[inside], around[inside]
    vectors = decoded(around[:, MIDDLE])
    probability = torch.softmax(torch.from_numpy(head.logits(vectors)), dim=1).numpy()
    rows = helpful(vectors, probability, found.embeddings, place)
    return _rows(lesson, place[rows], [""] * len(rows), probability[rows])


def _doubtful(made: Learned, examples: Examples, found: Found, lesson: Lesson) -> list[dict[str, Any]]:
    """The points that the others contradict in cross-validation, of those that the map shows, as `wanted`.

    Where the words are kept, those that these contradict.
    """
    if made.validated.fold.max() == 0:
        return []
    rows = np.flatnonzero(examples.judged)
    rows = rows[contradicted(made.validated.probability[rows], examples.classes[rows])]
    names = [lesson.legend.classes[c].name for c in examples.classes[rows]]
    return _rows(lesson, found.place[rows], names, made.validated.probability[rows])


def _rows(
    lesson: Lesson, place: NDArray[np.int64], names: Sequence[str], probability: NDArray[Any]
) -> list[dict[str, Any]]:
    """Pixels (n, 3) as rows of a file of points, with the points' own column: their class, "" where it is asked for."""
    classes, rows = lesson.legend.classes, list[dict[str, Any]]()
    column = "class" if lesson.column.casefold() in _TAKEN else lesson.column
    for rank, (lon, lat) in enumerate(lonlat_of(place).tolist()):
        first, second = np.argsort(-probability[rank], kind="stable")[:2]
        told = {
            "name": waypoints.visit(rank + 1),
            "lon": round(lon, 7),
            "lat": round(lat, 7),
            "likeliest": classes[first].name,
            "second": classes[second].name,
            "confidence": round(100 * float(probability[rank, first])),
        }
        own = {f"geomap_{key}" if key == column.casefold() else key: value for key, value in told.items()}
        rows.append({column: names[rank], **own})
    return rows


def place_files(places: Sequence[Mapping[str, Any]], doubtful: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """The files of places to visit, and of points to look at again; none where there is none."""
    found = {}
    for stem, rows in ((learned.PLACES, places), (learned.DOUBTFUL, doubtful)):
        if rows:
            found[f"{stem}.gpkg"] = waypoints.gpkg(rows, stem)
    visits = [{**row, "name": waypoints.visit(rank)} for rank, row in enumerate(places, start=1)]
    return found | ({f"{learned.PLACES}.gpx": waypoints.gpx(visits)} if places else {})
