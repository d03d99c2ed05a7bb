"""Chooses places to visit: where more labels would help most, and points whose labels the others contradict."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

PLACES: Final = 20
"""Places that are chosen: about a day in the field."""
MOST_APART: Final = 50.0
"""Most pixels that two places must be apart: 500 m, another field in nearly every landscape."""


MISTRUST: Final = 0.6
"""How much less probable than the likeliest class a point's own must be, to be looked at again.

Of the 100 simulated points of `geomap demo`, 5 of them with a wrong label (20 draws): .5, .6 and .7 list .70, .69 and
.54 of the wrong ones among 9, 6 and 4 points; without a wrong label they list 12, 9 and 4."""


def contradicted(probability: NDArray[np.float64], classes: NDArray[np.intp], count: int = PLACES) -> NDArray[np.intp]:
    """Rows of the points to look at again, the clearest first: wrong labels, wrong places, or land unlike its class.

    Args:
        probability: (n, K) of their classes, 0..1, by points of other groups (out of sample, as in confident learning,
            Northcutt et al. 2021, arXiv:1911.00068).
        classes: (n,) what the points say.
        count: at most so many.
    """
    lost = probability.max(axis=1) - probability[np.arange(len(classes)), classes]
    first: NDArray[np.intp] = np.argsort(-lost, kind="stable")[:count]
    return np.asarray(first[lost[first] >= MISTRUST])


def helpful(
    embeddings: NDArray[np.float32],
    probability: NDArray[np.float32],
    known: NDArray[np.float32],
    at: NDArray[np.int64],
    count: int = PLACES,
) -> NDArray[np.intp]:
    """Rows of the pixels where a label would help most, the most helpful first.

    Chosen one by one: the largest product of doubt, 1 - (p1 - p2) of the two likeliest classes (margin sampling,
    Settles 2009, section 3.1), and distance, 1 - the largest cosine to a known pixel or one chosen before. Equal ones
    in order. None lies near one chosen before on the ground, since the next pixel of a field tells little more: nearer
    than half the spacing of `count` places spread evenly over the candidates' hectares, at most MOST_APART.

    Args:
        embeddings: (n, D) unit vectors of candidates.
        probability: (n, K) of their classes, 0..1.
        known: (m, D) unit vectors of the pixels with labels.
        at: (n, 3) zone, column and row of each candidate, in pixels of 10 m.
        count: how many; fewer where there are fewer candidates.
    """
    best = np.sort(probability, axis=1)[:, -2:]
    doubt = 1 - (best[:, 1] - best[:, 0])
    near = np.full(len(embeddings), -1.0, np.float32)
    for start in range(0, len(known), 1024):
        near = np.maximum(near, (embeddings @ known[start : start + 1024].T).max(axis=1))
    apart, free, chosen = _apart(at, count), np.ones(len(at), bool), list[int]()
    while free.any() and len(chosen) < count:
        gain = np.where(free, doubt * (1 - near), -1)
        chosen.append(int(gain.argmax()))
        near = np.maximum(near, embeddings @ embeddings[chosen[-1]])
        away = at - at[chosen[-1]]
        free &= (away[:, 0] != 0) | (np.hypot(away[:, 1], away[:, 2]) > apart)
    return np.array(chosen, np.intp)


def _apart(at: NDArray[np.int64], count: int) -> float:
    """Least distance of two places, in pixels."""
    hectares = len(np.unique(at // np.array([1, 10, 10]), axis=0))
    return min(math.sqrt(100 * hectares / count) / 2, MOST_APART)
