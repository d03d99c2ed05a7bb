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
"""Points for each field from which cross-validation decides so with fewer points too: they tell of few fields."""

MANY: Final = 20
"""Fewest fields in which a gain in cross-validation is taken as it is. In fewer, it must be SURE, or words are kept.

Also the fewest groups of clumped points that tell of classes without points. Log losses would favour the points: the
words' confidence fits no single place. This, DECISIVE and SURE were chosen on draws of the measured sets that are not
those of the figures, and on the landscape of `geomap demo` (benchmarks/RESULTS.md).
"""

SURE: Final = 0.9
"""Probability that points of few fields are better than words, by which their gain counts."""


def fields_of(groups: NDArray[np.intp], classes: NDArray[np.intp]) -> NDArray[np.intp]:
    """(n,) number of each point's field: points of one class in one group, whose pixels are right or wrong together."""
    return np.unique(np.column_stack([groups, classes]), axis=0, return_inverse=True)[1].reshape(-1)


def few_groups(groups: NDArray[np.intp]) -> bool:
    """Whether points of (n,) groups tell of few places: that a class has no point says little of other places."""
    count = len(np.unique(groups))
    return count < MANY and count < len(groups)


def decides(words: NDArray[np.bool_], fields: NDArray[np.intp]) -> bool:
    """Whether cross-validation decides if words are kept, of (n,) points for which they are right or not."""
    n = len(words)
    return n >= DECISIVE or n >= CLUMPED * len(np.unique(fields)) or trusted(n, float(words.mean()))


def trusted(n: int, right: float) -> bool:
    """Whether the words are right for more than TRUSTED of the points, by more than a standard error."""
    return right - math.sqrt(right * (1 - right) / n) > TRUSTED


def gains(own: NDArray[np.bool_], words: NDArray[np.bool_], fields: NDArray[np.intp]) -> bool:
    """Whether (n,) held-out answers are right more often than the words, in few fields by more than chance."""
    found, chance = lead(own, words, fields)
    return found > (0 if len(np.unique(fields)) >= MANY else chance)


def lead(own: NDArray[np.bool_], words: NDArray[np.bool_], fields: NDArray[np.intp]) -> tuple[int, float]:
    """For how many more points (n,) held-out answers are right than the words; and the lead that chance leaves SURE.

    Points of one field are right or wrong together, so fields are counted: the standard error is the root of the sum
    of their squared differences (the cluster-robust variance of a sum, Liang and Zeger 1986), times G / (G - 1) for G
    fields. Where few fields make the difference, Student's t stands for the normal distribution, with as many degrees
    of freedom as fields count: the square of the sum of squares over the sum of fourth powers.
    """
    from scipy.special import stdtrit

    number = np.unique(fields, return_inverse=True)[1].reshape(-1)
    of_field = np.bincount(number, own.astype(np.float64) - words)
    count, squares, found = len(of_field), of_field**2, round(float(of_field.sum()))
    if count < 2 or not squares.any():
        return found, 0.0 if count > 1 else math.inf
    effective = max(float(squares.sum() ** 2 / (squares**2).sum()), 1.0)
    return found, math.sqrt(float(squares.sum()) * count / (count - 1)) * float(stdtrit(effective, SURE))
