"""Checks the words of classes: whether the text tower reads them as land, in English. No pixel is used.

A class is doubtful if its words are nearer to words that are no land in English (`other_words.toml`) than to names of
land that the encoder knows. How often that is right is measured by benchmarks/words.py.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from geomap.label import towers
from geomap.legends import TYPED_TEMPLATES, Legend, LegendClass

Reads = Literal["language", "latin", "code", "thing", "far"]

MARGIN: Final[Mapping[str, float]] = {towers.MINILM_SPACE: 0.05}
"""By text space: least lead (as a cosine) of the nearest name of land over the nearest other word."""
NEAR: Final = 0.35
"""Least cosine to the nearest name of land."""

LOOKS: Final[Mapping[Reads, str]] = {
    "language": "another language than English",
    "latin": "a Latin name",
    "code": "a code or no word",
    "thing": "no kind of land that can be seen from above",
    "far": "nothing that the encoder was trained with",
}
"""What a doubtful class looks like, in words."""

_WORD: Final = re.compile(r"(?<![^\W_])[^\W\d_]{3,}(?![^\W_])")
"""A word of three or more letters with no digit: a name has at least one, a code has none."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A class whose words the text tower hardly reads as land in English."""

    name: str
    reads: Reads


def check_words(legend: Legend, land: Sequence[str], space: str) -> tuple[Doubt, ...]:
    """The doubtful classes (or rated prompts) of a legend, in its order; `land` are names that the encoder knows.

    Scripts and codes are found for every tower, words that are far from land only for those with a MARGIN.
    Raises WeightsError if the tower is not there.
    """
    texts = dict(_texts(legend))
    found: dict[str, Reads] = {name: reads for name, of in texts.items() if (reads := spelled(of))}
    rest = {name: of for name, of in texts.items() if name not in found}
    if rest and space in MARGIN:
        found |= _far(rest, land, space)
    return tuple(Doubt(name, found[name]) for name in texts if name in found)


def spelled(texts: Sequence[str]) -> Reads | None:
    """What the letters alone say: another script, or a code. None if all texts may be English."""
    letters = [c for text in texts for c in text if c.isalpha()]
    if any(not unicodedata.name(c, "").startswith("LATIN") for c in letters):
        return "language"
    return None if all(_WORD.search(text) for text in texts) else "code"


def _far(texts: Mapping[str, Sequence[str]], land: Sequence[str], space: str) -> Iterator[tuple[str, Reads]]:
    """The names whose texts are, on average, not nearer to land than to other words; and what they are nearest to."""
    kinds = [kind for kind, words in other_words().items() for _ in words]
    known = towers.cached_texts([*land, *(w for words in other_words().values() for w in words)], space)
    asked = towers.cached_texts([text for of in texts.values() for text in of], space)
    for name, vectors in zip(texts, asked.split([len(of) for of in texts.values()]), strict=True):
        near, other = _nearest(vectors, known[: len(land)]), _nearest(vectors, known[len(land) :])
        if near - other < MARGIN[space]:
            yield name, kinds[int((F.normalize(vectors.mean(0), dim=0) @ known[len(land) :].T).argmax())]
        elif near < NEAR:
            yield name, "far"


def _nearest(vectors: Tensor, known: Tensor) -> float:
    """Mean over the (n, D) vectors of the cosine to the nearest of (m, D)."""
    return float(torch.amax(vectors @ known.T, dim=1).mean())


def _texts(legend: Legend) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The words that decide: the name of a typed class, all prompts of another one, the text of a rated prompt."""
    for c in legend.classes:
        yield c.name, (c.name,) if _is_typed(c) else c.prompts
    for p in legend.prompts:
        yield p.text, (p.text,)


def _is_typed(c: LegendClass) -> bool:
    return c.prompts == tuple(template.format(c.name) for template in TYPED_TEMPLATES)


@cache
def other_words() -> Mapping[Reads, tuple[str, ...]]:
    """Words that are no land in English, by what they are."""
    text = (resources.files("geomap.label") / "other_words.toml").read_text("utf-8")
    return {kind: tuple(words) for kind, words in tomllib.loads(text).items()}  # type: ignore[misc]
