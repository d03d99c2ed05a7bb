"""What to say at the start of a run: words of classes that a user typed or wrote, and months that are not over."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Final

from geomap import legends
from geomap.encode.weights import Weights
from geomap.errors import WeightsError
from geomap.label.check import close_pairs
from geomap.label.towers import cached_class_vectors
from geomap.label.words import LOOKS, check_words
from geomap.legends import Legend
from geomap.text import listed
from geomap.types import Period

log = logging.getLogger(__name__)

MOST: Final = 8
"""Most names or pairs in one line."""


def warn_of_words(asked: Sequence[Legend], weights: Weights) -> None:
    """Log a warning for each finding about legends whose class vectors do not come with the weights."""
    for legend in asked:
        if legend.digest not in weights.class_vectors:
            for line in findings(legend, weights):
                log.warning("%s", line)


def warn_of_months(period: Period, day: date, refreshed_by: str | None) -> None:
    """Log a warning if months of a period are not over on a day. `refreshed_by`: the command that adds what comes."""
    if left := period.open_on(day):
        again = f"type {refreshed_by}" if refreshed_by else "map again with another --out (in Python: refresh=True)"
        log.warning(
            "%s %s not over: this map will lack what is still to come, and counts as finished; some days after %s, %s",
            listed(left), "is" if len(left) == 1 else "are", left[-1], again,
        )  # fmt: skip


def findings(legend: Legend, weights: Weights) -> Iterator[str]:
    """One line for each: classes that are hardly land in English, by what they look like; pairs that are close."""
    yield from doubts(legend, weights.card.text_space)
    if legend.kind == "classes":
        typed = legend.model_copy(update={"classes": legend.classes[:-1]}) if legend.has_others else legend
        names, vectors = [c.name for c in typed.classes], cached_class_vectors(typed, weights.card.text_space)
        if close := close_pairs(names, vectors, weights.card.logit_scale):
            told = _some([f"{a!r} and {b!r} (cosine {cosine:.2f})" for a, b, cosine in close])
            yield f"{legend.title}: words can hardly tell apart {told}; type one of them, or say what the other lacks"


def doubts(legend: Legend, space: str) -> Iterator[str]:
    """The lines about words alone."""
    try:
        found = check_words(legend, land_names(), space)
    except WeightsError as e:
        yield f"{legend.title}: the words were not checked: {e}"
        return
    for reads, looks in LOOKS.items():
        if names := [repr(doubt.name) for doubt in found if doubt.reads == reads]:
            verb = "looks" if len(names) == 1 else "look"
            yield (
                f"{legend.title}: {_some(names)} {verb} like {looks}; the text model reads English names of land, and "
                "a map of other words is a guess: type what covers the ground, such as 'vineyard' or 'oak forest'"
            )


def land_names() -> tuple[str, ...]:
    """Names of land that the encoder was trained with: of the simulation's covers, and of the built-in classes."""
    from geomap.simulate.covers import table

    names = [name for cover in table().cover for name in cover.names]
    names += [c.name for legend in map(legends.load, legends.builtin_names()) for c in legend.classes]
    return tuple(dict.fromkeys(names))


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - MOST} more" if len(items) > MOST else ""
    return ", ".join(items[:MOST]) + more
