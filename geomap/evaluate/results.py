"""What evaluation finds, as frozen values: one per row of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geomap.evaluate.metrics import Reliability


@dataclass(frozen=True)
class Score:
    """One legend labelled in one way."""

    legend: str
    method: str  # "encoder", "majority", "random forest" or "linear probe"
    length: str  # of the series that the method saw
    prompts: str  # kind of prompts, "" for baselines
    n: int
    top1: float
    top5: float | None
    macro_f1: float
    balanced_accuracy: float
    confusion: NDArray[np.intp]  # (K, K) rows: truth, columns: predicted, in the legend's order
    reliability: Reliability | None


@dataclass(frozen=True)
class Retrieval:
    """Recall of items of the query's class."""

    classes: str  # a legend's name, or "country"
    query: str  # "photo" or "pixel"
    length: str
    n: int  # queries, and as many items in the gallery
    recall: Mapping[int, float]  # by k


@dataclass(frozen=True)
class Scenicness:
    """Correlation of scores with people's."""

    ensembling: str  # "early", or "late" with the fewest prompts of a voter
    length: str
    n: int
    pearson: float
    kendall: float


@dataclass(frozen=True)
class MonthsLeft:
    """Accuracy with few clear months."""

    legend: str
    months: int  # at most
    kept: float  # mean months of a sample
    n: int
    mean: float  # over the draws
    sd: float  # over the draws, n - 1 in the divisor; NaN for a single draw


@dataclass(frozen=True)
class SetResult:
    """All that was measured on a set."""

    name: str
    samples: int
    without_months: int  # samples without a valid month, left out
    trained_on: bool  # the card says that the weights were trained on this set: no test of them
    baselines: str  # how the baselines were fitted, in words
    scores: tuple[Score, ...]
    retrieval: tuple[Retrieval, ...] = ()
    scenicness: tuple[Scenicness, ...] = ()
    months: tuple[MonthsLeft, ...] = ()
