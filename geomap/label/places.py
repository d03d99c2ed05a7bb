"""Chooses the places where more labels would help most: uncertain, and unlike the points so far and each other."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

PLACES: Final = 20
"""Places that are chosen: about a day in the field."""


def helpful(
    embeddings: NDArray[np.float32],
    probability: NDArray[np.float32],
    known: NDArray[np.float32],
    count: int = PLACES,
) -> NDArray[np.intp]:
    """Rows of the pixels where a label would help most, the most helpful first.

    Chosen one by one: the largest product of doubt, 1 - (p1 - p2) of the two likeliest classes (margin sampling,
    Settles 2009, section 3.1), and distance, 1 - the largest cosine to a known pixel or one chosen before. Equal ones
    in order.

    Args:
        embeddings: (n, D) unit vectors of candidates.
        probability: (n, K) of their classes, 0..1.
        known: (m, D) unit vectors of the pixels with labels.
        count: how many; fewer where there are fewer candidates.
    """
    best = np.sort(probability, axis=1)[:, -2:]
    doubt = 1 - (best[:, 1] - best[:, 0])
    near = np.full(len(embeddings), -1.0, np.float32)
    for start in range(0, len(known), 1024):
        near = np.maximum(near, (embeddings @ known[start : start + 1024].T).max(axis=1))
    chosen: list[int] = []
    for _ in range(min(count, len(embeddings))):
        gain = doubt * (1 - near)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        near = np.maximum(near, embeddings @ embeddings[chosen[-1]])
    return np.array(chosen, np.intp)
