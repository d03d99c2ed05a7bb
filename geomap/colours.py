"""Colours of typed classes: that of the known class whose words fit best, doubles varied in lightness."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

_EMPTY: Final = frozenset([
    "a", "an", "and", "area", "at", "covered", "field", "from", "in", "land", "of", "on", "or", "other", "place",
    "seen", "the", "to", "with", "countryside", "above",
])  # fmt: skip
"""Words that tell no class from another."""
_STEPS: Final = (0.14, -0.14, 0.26, -0.24, 0.07, -0.07, 0.2, -0.19)
"""Changes of lightness, 0..1, for a colour that is taken: far from it first."""


class Known(NamedTuple):
    """A class with a colour of its own."""

    name: str
    prompts: tuple[str, ...]
    colour: str  # #rrggbb


def colours_of(names: Sequence[str], known: Sequence[Known], used: Sequence[str] = ()) -> tuple[str, ...]:
    """A colour for each name, all different: of the best match in `known`, else one of a series of distinct colours.

    None of those `used` (#rrggbb) is given.

    A name matches by words, without regard to case and plural: the name of a known class, then words of its prompts.
    """
    words = [(_words(k.name), [_words(p) for p in k.prompts], k.colour.lower()) for k in known]
    taken = [*used]
    for number, name in enumerate(names, start=1):
        base = _best(_ordered(name), words) or _series(number)
        taken.append(next(c for c in _variants(base) if c not in taken))
    return tuple(taken[len(used) :])


def _best(typed: list[str], known: Iterable[tuple[frozenset[str], list[frozenset[str]], str]]) -> str | None:
    """The colour of the class that fits best, the first of several; None if none does."""
    if not typed:
        return None
    ranked = [(rank, colour) for name, prompts, colour in known if (rank := _rank(typed, name, prompts)) is not None]
    return min(ranked, key=lambda entry: entry[0])[1] if ranked else None


def _rank(typed: list[str], name: frozenset[str], prompts: list[frozenset[str]]) -> tuple[int, int] | None:
    """How well typed words fit a class, lower is better; None if not: (kind of match, words that do not match)."""
    asked, head = frozenset(typed), typed[-1]
    apart = len(asked ^ name)
    if asked == name:
        return 0, 0
    if name and (asked < name or name < asked):
        return 1, apart
    if said := [len(p - asked) for p in prompts if asked <= p]:
        return 2, min(said)
    if head in name:
        return 3, apart
    return (4, apart) if any(head in p for p in prompts) else None


def _words(text: str) -> frozenset[str]:
    return frozenset(_ordered(text))


def _ordered(text: str) -> list[str]:
    """The words of a text that tell classes apart, in the singular, in order."""
    found = (_singular(word) for word in re.findall(r"[^\W\d_]+", text.casefold()))
    return [word for word in found if word not in _EMPTY]


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _variants(colour: str) -> Iterator[str]:
    """A colour, and then the same hue lighter and darker; at last any others, without end."""
    yield colour
    r, g, b = (channel / 255 for channel in bytes.fromhex(colour[1:]))
    hue, light, strength = colorsys.rgb_to_hls(r, g, b)
    for step in _STEPS:
        if 0.12 <= light + step <= 0.92:
            yield _hex(hue, light + step, strength)
    number = 1000
    while True:
        number += 1
        yield _series(number)


def _series(i: int) -> str:
    """The i-th of a series of distinct colours: hues a golden ratio apart, with three lightnesses in turn."""
    return _hex((0.13 + i * 0.618034) % 1, (0.45, 0.62, 0.32)[i % 3], 0.65)


def _hex(hue: float, light: float, strength: float) -> str:
    r, g, b = colorsys.hls_to_rgb(hue, light, strength)
    return f"#{round(r * 255):02x}{round(g * 255):02x}{round(b * 255):02x}"
