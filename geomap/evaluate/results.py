"""The results of an evaluation as frozen values, one per row of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geomap.evaluate.metrics import Reliability


@dataclass(frozen=True)
class Score:
    """The score of one legend, labelled in one way."""

    legend: str
    method: str  # "encoder", "majority", "random forest" or "linear probe"
    length: str  # length of the series that the method saw
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
    """Recall between photos and pixels; a hit is an item of the query's class."""

    classes: str  # a legend's name, or "country"
    query: str  # "photo" or "pixel"
    length: str
    n: int  # number of queries, and of items in the gallery
    recall: Mapping[int, float]  # k -> recall


@dataclass(frozen=True)
class Scenicness:
    """Correlation of the encoder's scores with people's."""

    ensembling: str  # "early", or "late" with the smallest number of prompts per voter
    length: str
    n: int
    pearson: float
    kendall: float


@dataclass(frozen=True)
class MonthsLeft:
    """Accuracy with few clear months."""

    legend: str
    months: int  # most months kept per sample
    kept: float  # mean months kept per sample
    n: int
    mean: float  # over the draws
    sd: float  # over the draws, n - 1 in the divisor; NaN for a single draw


@dataclass(frozen=True)
class SetResult:
    """Everything measured on one set."""

    name: str
    samples: int
    without_months: int  # samples without a valid month, left out
    trained_on: bool  # the card names this set, or series of it, as training data: it cannot test these weights
    baselines: str  # how the baselines were fitted, in words
    notes: tuple[str, ...]  # what matched how and what was left out when the set was read
    scores: tuple[Score, ...]
    retrieval: tuple[Retrieval, ...] = ()
    scenicness: tuple[Scenicness, ...] = ()
    months: tuple[MonthsLeft, ...] = ()
