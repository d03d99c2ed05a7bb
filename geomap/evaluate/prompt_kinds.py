"""The paper's three kinds of class prompts for the text tower, and their class vectors."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from geomap.encode.weights import Weights
from geomap.errors import InputError
from geomap.legends import Legend
from geomap.pipeline import vectors_of

KINDS: Final = {"C": "class names", "G": "generic templates", "D": "descriptive prompts"}
"""Kinds of prompts by the paper's letters (table 3): the bare name, templates with the name, the legend's prompts."""

GENERIC: Final = ("a satellite image of {}", "{} in a picture taken from space", "a photo of a place with {}")
"""Templates of kind G, averaged; our own words, like the paper's "a centered satellite image of {name}"."""


def kinds(letters: str) -> tuple[str, ...]:
    """Kinds of prompts from their letters, in the order of KINDS. Raises InputError."""
    if not letters or set(letters) - set(KINDS):
        raise InputError(f"unknown prompts {letters!r}; use letters of {''.join(KINDS)}, for example --prompts D")
    return tuple(kind for kind in KINDS if kind in letters)


def asked(legend: Legend, kind: str) -> Legend:
    """The legend with the prompts of one of KINDS."""
    if kind == "D":
        return legend
    templates = GENERIC if kind == "G" else ("{}",)
    classes = tuple(
        c.model_copy(update={"prompts": tuple(t.format(c.name) for t in templates)}) for c in legend.classes
    )
    return legend.model_copy(update={"classes": classes})


def vectors(weights: Weights, legend: Legend, kind: str = "D") -> Tensor:
    """(K, D) unit vectors of a legend's classes (or rated prompts), stored with the weights or made by the tower."""
    return vectors_of(asked(legend, kind), weights)
