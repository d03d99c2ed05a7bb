"""How much labelled points tell: of how many fields they are, and whether they do better than the words alone."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

TRUSTED: Final = 0.5
"""Share of fewer than DECISIVE points, not CLUMPED, for which kept words must be right, by over a standard error.

Where they are wrong for most, points help even if cross-validation cannot show that yet.
"""

DECISIVE: Final = 50
"""Fewest points by which cross-validation decides alone whether words are kept, however often they are right."""

CLUMPED: Final = 2
"""Points for each group from which cross-validation decides so with fewer points too: they tell of few fields."""

MANY_GROUPS: Final = 20
"""Fewest groups of points in which a gain in cross-validation is taken as it is. In fewer, points must be right more
often than words by a standard error, or the words are kept; and of classes without points they say nothing.

Log losses would favour the points: the words' confidence fits no single place. This and DECISIVE were chosen on draws
of the measured sets that are not those of the figures (benchmarks/RESULTS.md).
"""

ONE_ERROR: Final = 0.8413
"""Share of a normal distribution below one standard error."""


def decides(words: NDArray[np.bool_], groups: NDArray[np.intp]) -> bool:
    """Whether cross-validation decides if words are kept, of (n,) points for which they are right or not."""
    n = len(words)
    return n >= DECISIVE or n >= CLUMPED * len(np.unique(groups)) or trusted(n, float(words.mean()))


def few_fields(groups: NDArray[np.intp]) -> bool:
    """Whether points of (n,) groups tell of few fields: that a class has no point then says little of the others."""
    count = len(np.unique(groups))
    return count < MANY_GROUPS and count < len(groups)


def trusted(n: int, right: float) -> bool:
    """Whether the words are right for more than TRUSTED of the points, by more than a standard error."""
    return right - math.sqrt(right * (1 - right) / n) > TRUSTED


def gains(own: NDArray[np.bool_], words: NDArray[np.bool_], groups: NDArray[np.intp]) -> bool:
    """Whether (n,) held-out answers are right more often than the words, in few groups by more than chance."""
    found, error = lead(own, words, groups)
    return found > (0 if len(np.unique(groups)) >= MANY_GROUPS else error)


def lead(own: NDArray[np.bool_], words: NDArray[np.bool_], groups: NDArray[np.intp]) -> tuple[int, float]:
    """For how many more points (n,) held-out answers are right than the words; and half an interval of 68 % of that.

    Points of one group are right or wrong together, so groups are counted: the standard error is the root of the sum
    of their squared differences (the cluster-robust variance of a sum, Liang and Zeger 1986), times G / (G - 1) for G
    groups. Where few groups make the difference, Student's t stands for the normal distribution, with as many degrees
    of freedom as groups count: the square of the sum of squares over the sum of fourth powers.
    """
    from scipy.special import stdtrit

    number = np.unique(groups, return_inverse=True)[1].reshape(-1)
    of_group = np.bincount(number, own.astype(np.float64) - words)
    count, squares, found = len(of_group), of_group**2, round(float(of_group.sum()))
    if count < 2 or not squares.any():
        return found, 0.0 if count > 1 else math.inf
    effective = max(float(squares.sum() ** 2 / (squares**2).sum()), 1.0)
    return found, math.sqrt(float(squares.sum()) * count / (count - 1)) * float(stdtrit(effective, ONE_ERROR))
