"""Metrics on plain arrays: classification, calibration, retrieval, correlation.

All but correlation need only numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

BINS: Final = 15
"""Equal-width bins of confidence (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 3)."""

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]


def accuracy(truth: Ints, predicted: Ints) -> float:
    """Share of equal entries of two (n,) arrays of class ids."""
    return float((truth == predicted).mean())


def top_k(truth: Ints, scores: NDArray[np.floating], k: int) -> float:
    """Share of rows whose class is among the k highest scores.

    Args:
        truth: (n,) column of the row's class in `scores`.
        scores: (n, K). Among equal scores the first columns count as higher, as in `argmax`; k may exceed K.
        k: 1 or more.
    """
    own = np.take_along_axis(scores, truth[:, None], axis=1)  # (n, 1)
    before = np.arange(scores.shape[1]) < truth[:, None]
    rank = ((scores > own) | ((scores == own) & before)).sum(1)  # columns ranked above the row's own class
    return float((rank < k).mean())


def confusion(truth: Ints, predicted: Ints, classes: Sequence[int]) -> Ints:
    """Counts (K, K), in the order of `classes`: row = class in `truth`, column = class in `predicted`, both (n,) ids.

    Raises ValueError for an id that is not in `classes`.
    """
    ids = np.asarray(classes)
    order = np.argsort(ids)
    row, column = (order[np.searchsorted(ids[order], v).clip(max=len(ids) - 1)] for v in (truth, predicted))
    if (ids[row] != truth).any() or (ids[column] != predicted).any():
        raise ValueError(f"class ids outside {ids.tolist()}")
    return np.bincount(row * len(ids) + column, minlength=len(ids) ** 2).reshape(len(ids), len(ids))


def class_f1(matrix: Ints) -> Floats:
    """F1 (K,) of every class of a confusion matrix (K, K); NaN for classes that do not occur in the truth."""
    hits, present = np.diag(matrix), matrix.sum(1)
    f1 = 2 * hits / np.maximum(present + matrix.sum(0), 1)
    return np.where(present > 0, f1, np.nan)


def macro_f1(matrix: Ints) -> float:
    """Mean F1 over the classes that occur in the truth of a confusion matrix (K, K)."""
    return float(np.nanmean(class_f1(matrix)))


def balanced_accuracy(matrix: Ints) -> float:
    """Mean recall over the classes that occur in the truth of a confusion matrix (K, K)."""
    present = matrix.sum(1)
    return float((np.diag(matrix)[present > 0] / present[present > 0]).mean())


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy in equal-width bins of (0, 1]; empty bins hold NaN."""

    count: Ints  # (bins,)
    confidence: Floats  # (bins,) mean confidence
    accuracy: Floats  # (bins,) share of right answers

    @property
    def error(self) -> float:
        """Expected calibration error: mean of |accuracy - confidence| over the bins, weighted by count."""
        gap = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(gap * self.count) / self.count.sum())


def reliability(confidence: NDArray[np.floating], right: NDArray[np.bool_], bins: int = BINS) -> Reliability:
    """Bin (n,) confidences in 0..1 with whether each answer was right. Bin m holds ((m - 1) / bins, m / bins]."""
    index = (np.ceil(confidence * bins).astype(np.intp) - 1).clip(0, bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, confidence, bins) / count
        share = np.bincount(index, right, bins) / count
    return Reliability(count, mean, share)


def recall_at(query: Ints, found: Ints, k: int) -> float:
    """Share of queries with a hit among their k nearest: an item of the query's class (paper, table 4).

    Args:
        query: (n,) class of each query.
        found: (n, M) classes of the retrieved items, nearest first; M at least k, or the whole gallery.
        k: 1 or more.
    """
    return float((found[:, :k] == query[:, None]).any(1).mean())


def pearson(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Pearson's R of two (n,) arrays; NaN if one of them is constant or n < 2."""
    return _correlation("pearsonr", a, b)


def kendall(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Kendall's tau-b of two (n,) arrays; NaN if one of them is constant or n < 2."""
    return _correlation("kendalltau", a, b)


def _correlation(name: str, a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    from scipy import stats

    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(getattr(stats, name)(a, b).statistic)
