"""Estimates from a sample of a map's pixels: accuracies and class areas, each with its standard error.

One estimator serves every design: a ratio of two totals, each added over strata, with the variance between the sampling
units of a stratum. It is

    R = Y / X,    Y = sum of w y,    X = sum of w x,    w = N_h / n_h for the points of stratum h,
    V(R) = 1/X^2 * sum over h of [ m_h / (m_h - 1) * sum over units u of h of (z_u - mean of z in h)^2 ],
    z_u = sum of w (y - R x) over the points of unit u,

with N_h pixels, n_h points and m_h units in stratum h. A unit is a point, or a polygon with all its points (a cluster).

- Strata that are the mapped classes: Olofsson et al. 2014 (doi:10.1016/j.rse.2014.02.015), equations 5 (overall), 6
  (user's), 7 (producer's accuracy) and 10 (areas), which are this formula with y and x of `_indicators`.
- Strata of another kind: Stehman 2014 (doi:10.1080/01431161.2014.930207), equations 24 to 28.
- Simple random: the same with one stratum.
- One-stage clusters, drawn with equal probability: the ratio of cluster totals, Cochran 1977 (Sampling Techniques, 3rd
  edition), section 9A.1.

No finite population correction is made, as in Olofsson et al.: where a large part of a stratum's pixels is in the
sample, the intervals are too wide, never too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

NORMAL_95: Final = 1.96
"""Standard errors in half a 95 % interval: the 97.5 % quantile of the standard normal distribution, rounded as in
Olofsson et al. 2014."""
BINS: Final = 10
"""Steps of confidence, of ten percent each: fewer than the 15 of evaluate.metrics, for some hundred points."""
_NOTHING: Final = 1e-12
"""Standard errors below it are 0 but for rounding: all points of each stratum agree."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Points of a sample: what the map and the reference say at each, and how they were drawn."""

    mapped: NDArray[np.intp]  # (n,) class id in the map; 0: not mapped there, so no part of what is estimated
    reference: NDArray[np.intp]  # (n,) class id on the ground
    stratum: NDArray[np.intp]  # (n,) key of `sizes`
    cluster: NDArray[np.intp]  # (n,) points of one sampling unit share a number; each of a sample of points has its own
    sizes: Mapping[int, int]  # stratum -> its pixels; also of strata without points


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated number with its standard error, and half the width of its 95 % confidence interval."""

    value: float
    error: float
    ci95: float


UNKNOWN: Final = Estimate(math.nan, math.nan, math.nan)
"""The area of a class of which nothing is known (run/assess.py)."""


@dataclass(frozen=True, slots=True)
class Estimates:
    """What a sample says about a map. Accuracies and areas are shares, 0..1, of the pixels in the sampled strata.

    An accuracy is None where no point bears on it: a class that is mapped at no point (user's), or is the reference of
    none (producer's).
    """

    classes: tuple[int, ...]  # (K,) ids
    counts: NDArray[np.intp]  # (K, K) points; rows: map, columns: reference
    shares: NDArray[np.float64]  # (K, K) the same as estimated shares of the area; sum 1
    overall: Estimate
    users: tuple[Estimate | None, ...]  # (K,) of what is mapped as the class, the share that is the class
    producers: tuple[Estimate | None, ...]  # (K,) of what is the class, the share that is mapped as it
    areas: tuple[Estimate, ...]  # (K,) share of the area that is the class
    quantile: float  # standard errors in half an interval
    empty: tuple[int, ...]  # strata without points, of which nothing is known
    single: tuple[int, ...]  # strata with one sampling unit: its deviation from the whole stands for their variance


@dataclass(frozen=True, slots=True)
class Trust:
    """Points whose confidence lies in one step."""

    points: int
    confidence: float  # 0..1, their mean by area
    right: Estimate  # share of their area that is of the mapped class
    share: float  # of the map's area


def estimate(sample: Sample, classes: Sequence[int]) -> Estimates:
    """Accuracies and areas of the classes.

    Strata without points are left out: the estimates hold for the others. A stratum with one unit has no variance of
    its own; the square of the unit's deviation from the whole map's estimate is taken instead, which is too large on
    average (the choice "adjust" of the R package survey, Lumley 2010). Intervals are the estimate +- 1.96 standard
    errors; for clusters +- the quantile of Student's t with as many degrees of freedom as clusters less strata.

    Args:
        sample: the points.
        classes: ids that the map or the reference can have.

    Raises:
        ValueError: no point lies on the map, or a point's stratum has no size.
    """
    ids, drawn = np.asarray(classes), _Drawn.of(sample)
    made = drawn.ratios(*_indicators(sample, ids))
    overall, k = made[0], len(ids)
    assert overall is not None  # some point lies on the map
    alone = np.bincount(drawn.units) == 1
    return Estimates(
        classes=tuple(int(i) for i in ids),
        counts=_table(sample, ids, np.ones(len(drawn.weight))).round().astype(np.intp),
        shares=_table(sample, ids, drawn.weight) / drawn.weight[sample.mapped > 0].sum(),
        overall=overall,
        users=tuple(made[1 : 1 + k]),
        producers=tuple(made[1 + k : 1 + 2 * k]),
        areas=tuple(a for a in made[1 + 2 * k :] if a is not None),
        quantile=drawn.quantile,
        empty=tuple(sorted(h for h, size in sample.sizes.items() if size and h not in drawn.strata)),
        single=tuple(int(h) for h in drawn.strata[alone]),
    )


def trust(sample: Sample, confidence: NDArray[np.intp]) -> tuple[Trust, ...]:
    """How often the map is right by its confidence, in BINS steps of equal width; steps without points are left out.

    Args:
        sample: the points.
        confidence: (n,) percent that the map states at each point; the same in every step's limits as in
            evaluate.metrics. Points off the map, or whose confidence is not 0..100, do not count.

    Raises:
        ValueError: as estimate.
    """
    drawn, known = _Drawn.of(sample), (sample.mapped > 0) & (confidence >= 0) & (confidence <= 100)
    step = (-(-confidence * BINS // 100) - 1).clip(0, BINS - 1)
    inside = (step[:, None] == np.arange(BINS)) & known[:, None]
    right = drawn.ratios(inside & (sample.mapped == sample.reference)[:, None], inside)
    area = inside.T @ drawn.weight
    mean = inside.T @ (drawn.weight * confidence / 100) / np.where(area > 0, area, 1)
    points = inside.sum(axis=0).tolist()
    return tuple(
        Trust(n, float(mean[i]), found, float(area[i] / area.sum()))
        for i, (n, found) in enumerate(zip(points, right, strict=True))
        if n and found is not None
    )


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What the design of a sample makes of its points."""

    weight: NDArray[np.float64]  # (n,) pixels for which a point stands
    order: NDArray[np.intp]  # (n,) in which the points of a unit lie together, by stratum
    first: NDArray[np.intp]  # (units,) where each unit starts in it
    units: NDArray[np.intp]  # (units,) index of the unit's stratum, ascending
    strata: NDArray[np.intp]  # their keys
    quantile: float

    @classmethod
    def of(cls, sample: Sample) -> _Drawn:
        strata, index, points = np.unique(sample.stratum, return_inverse=True, return_counts=True)
        sizes = np.array([sample.sizes.get(int(h), 0) for h in strata], np.float64)
        if not (sample.mapped > 0).any() or (sizes <= 0).any():
            raise ValueError("a sample needs points on the map, and the size of each point's stratum")
        order, first = _units(index, sample.cluster)
        quantile = _quantile(len(first), len(points), clustered=len(first) < len(index))
        return cls((sizes / points)[index], order, first, index[order][first], strata, quantile)

    def ratios(self, y: NDArray[np.bool_], x: NDArray[np.bool_]) -> list[Estimate | None]:
        """Each column of y over that of x, (n, M) of the points; None where no point counts."""
        above, below = (indicator[self.order] * self.weight[self.order, None] for indicator in (y, x))
        value, error = _ratios(above, below, self.first, self.units)
        every = zip(value.tolist(), error.tolist(), strict=True)
        return [None if np.isnan(v) else Estimate(v, e, self.quantile * e) for v, e in every]


def _indicators(sample: Sample, ids: NDArray[np.intp]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n, 1 + 3 K) y and x of the ratios: overall, then user's, producer's accuracy and area of each class."""
    inside = sample.mapped[:, None] > 0
    mapped, truth = sample.mapped[:, None] == ids, (sample.reference[:, None] == ids) & inside
    right = (sample.mapped == sample.reference)[:, None] & inside
    every = np.broadcast_to(inside, truth.shape)
    both = mapped & truth
    return np.hstack([right, both, both, truth]), np.hstack([inside, mapped, truth, every])


def _units(stratum: NDArray[np.intp], cluster: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """An order of the points in which those of a unit lie together, by stratum; and where each unit starts in it."""
    order = np.lexsort([cluster, stratum])
    changes = (np.diff(stratum[order]) != 0) | (np.diff(cluster[order]) != 0)
    return order, np.append(0, np.flatnonzero(changes) + 1)


def _ratios(
    y: NDArray[np.float64], x: NDArray[np.float64], first: NDArray[np.intp], stratum: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ratios and their standard errors, (M,) each; NaN where the denominator is 0.

    `y`, `x`: (n, M) weighted, by unit; `first`: (units,) where each unit starts; `stratum`: (units,) ascending.
    """
    total = x.sum(axis=0)
    below = np.where(total > 0, total, 1)
    ratio = np.where(total > 0, y.sum(axis=0) / below, np.nan)
    z = np.add.reduceat(y - ratio * x, first)
    variance = np.zeros(y.shape[1])
    for part in np.split(z, np.flatnonzero(np.diff(stratum)) + 1):
        m = len(part)
        variance += part[0] ** 2 if m == 1 else m * part.var(axis=0, ddof=1)
    error = np.sqrt(variance) / below
    return ratio, np.where(error < _NOTHING, 0, error)


def _table(sample: Sample, ids: NDArray[np.intp], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, K) weights added by mapped class and reference class, over points on the map."""
    rows, columns = (values[:, None] == ids for values in (sample.mapped, sample.reference))
    table: NDArray[np.float64] = (rows * weight[:, None]).T @ columns
    return table


def _quantile(units: int, strata: int, clustered: bool) -> float:
    """Standard errors in half a 95 % interval."""
    if not clustered:
        return NORMAL_95
    from scipy.stats import t

    return float(t.ppf(0.975, max(units - strata, 1)))
