"""Moves the vectors of a user's classes towards the words that the encoder was trained with, its anchors.

The text tower places a phrase by all that it may mean; the encoder has learned where pixels lie only for the words of
its training. A class is therefore mixed with the anchors that its words are near. Words that are near none, such as
"burnt land", are new to the encoder and stay as they are, and so do the classes of built-in legends, with whose words
it was trained.

The constants were chosen on simulated series, with phrases that are no captions (benchmarks/typed.py).
"""

from __future__ import annotations

from functools import cache
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from geomap import legends
from geomap.label import towers
from geomap.legends import Legend

SHARE: Final = 0.5
"""Share of the anchors in a class vector."""

SHARPNESS: Final = 40.0
"""Factor of the cosines in the softmax that weighs the anchors: one that is nearer by .1 weighs 55 times as much."""

NEAR: Final = 0.6
"""Least cosine of the nearest anchor; below it, the words are new to the encoder."""


def class_vectors(legend: Legend, space: str, anchors: Tensor | None) -> Tensor:
    """(K, D) unit vectors of a legend, one for each class or rated prompt, from the tower of `space`.

    `anchors` are those of the weights (A, D), if they have any. Raises WeightsError if the tower is not there.
    """
    vectors = towers.cached_class_vectors(legend, space)
    return vectors if anchors is None else placed(legend, vectors, anchors)


def placed(legend: Legend, vectors: Tensor, anchors: Tensor) -> Tensor:
    """The class vectors (K, D) of a legend, those of the user's own words moved; rated prompts stay."""
    own = torch.tensor([c.prompts not in _builtin() for c in legend.classes])
    return torch.where(own[:, None], towards(vectors, anchors), vectors) if own.any() else vectors


def towards(vectors: Tensor, anchors: Tensor) -> Tensor:
    """(K, D) unit vectors, mixed with the (A, D) anchors that they are near. In float64: the bits name the classes."""
    own, known = vectors.double(), anchors.double()
    cosines = own @ known.T
    mean = F.normalize(torch.softmax(SHARPNESS * cosines, dim=1) @ known, dim=1)
    moved = F.normalize((1 - SHARE) * own + SHARE * mean, dim=1)
    return torch.where(cosines.amax(dim=1, keepdim=True) >= NEAR, moved, own).float()


@cache
def _builtin() -> frozenset[tuple[str, ...]]:
    """The prompts of each class of the built-in legends."""
    return frozenset(c.prompts for name in legends.builtin_names() for c in legends.load(name).classes)
