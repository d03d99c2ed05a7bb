"""Moves the vectors of a user's classes towards the words that the encoder was trained with, its anchors.

The text tower places a phrase by all that it may mean; the encoder has learned where pixels lie only for the words of
its training. A class is therefore mixed with the anchors that its words are near. Words that are near none, such as
"burnt land", are new to the encoder and stay as they are. Classes of built-in legends have vectors in the weights.

The constants were chosen on simulated series, with phrases that are no captions (benchmarks/typed.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from geomap import legends
from geomap.legends import Legend

SHARE: Final = 0.5
"""Share of the anchors in a class vector."""

SHARPNESS: Final = 40.0
"""Factor of the cosines in the softmax that weighs the anchors: one that is nearer by .1 weighs 55 times as much."""

NEAR: Final = 0.6
"""Least cosine of the nearest anchor; below it, the words are new to the encoder."""


def placed(legend: Legend, vectors: Tensor, stored: Mapping[str, Tensor], anchors: Tensor) -> Tensor:
    """The vectors of a legend (K, D), of which the weights have none.

    Args:
        legend: classes, or rated prompts, which stay as they are.
        vectors: (K, D) from the text tower.
        stored: of the weights, by the digest of a built-in legend: classes with the same prompts have these vectors.
        anchors: (A, D) of the weights; all other classes are moved towards them.
    """
    if not legend.classes:
        return vectors
    known = dict[tuple[str, ...], Tensor]()
    for builtin in map(legends.load, legends.builtin_names()):
        if builtin.digest in stored:
            known |= zip((c.prompts for c in builtin.classes), stored[builtin.digest], strict=False)
    moved = towards(vectors, anchors)
    return torch.stack([known.get(c.prompts, own) for c, own in zip(legend.classes, moved, strict=True)])


def towards(vectors: Tensor, anchors: Tensor) -> Tensor:
    """(K, D) unit vectors, mixed with the (A, D) anchors that they are near. In float64: the bits name the classes."""
    own, known = vectors.double(), anchors.double()
    cosines = own @ known.T
    mean = F.normalize(torch.softmax(SHARPNESS * cosines, dim=1) @ known, dim=1)
    moved = F.normalize((1 - SHARE) * own + SHARE * mean, dim=1)
    return torch.where(cosines.amax(dim=1, keepdim=True) >= NEAR, moved, own).float()
