"""Baselines for the encoder: majority class, random forest on series, linear probe on embeddings.

Each takes plain arrays and returns predictions: for a test set, fitted on a training set; or for every sample of one
set, by k folds that keep groups whole, so that no sample is predicted by a model that saw its group.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from geomap.evaluate.metrics import Ints

Features = NDArray[np.floating]
Method = Callable[[Features, Ints, Features], Ints]
"""(x (n, F), y (n,), x of the test set (m, F)) -> class ids (m,)."""

TREES: Final = 300
FOLDS: Final = 5
MAX_ITERATIONS: Final = 1000


def series_table(dn: NDArray[np.uint16], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Features (n, 12 * F): DNs (n, 12, F) of all months; months that are not valid (n, 12) take the series' mean."""
    x = dn.astype(np.float32)
    weight = valid[..., None]
    mean = (x * weight).sum(1, keepdims=True) / np.maximum(weight.sum(1, keepdims=True), 1)
    return np.where(weight, x, mean).reshape(len(x), -1).astype(np.float32)


def majority(x: Features, y: Ints, x_test: Features) -> Ints:
    """The commonest class of `y`; ties go to the lowest id."""
    return np.full(len(x_test), np.bincount(y).argmax(), np.intp)


def forest(x: Features, y: Ints, x_test: Features, trees: int | None = None, jobs: int = -1) -> Ints:
    """A random forest, classes weighted by their inverse size in every bootstrap; seeded.

    `trees`: TREES if not given. `jobs`: -1 is all cores.
    """
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(trees or TREES, random_state=0, class_weight="balanced_subsample", n_jobs=jobs)
    return np.asarray(model.fit(x, y).predict(x_test), np.intp)


def linear_probe(x: Features, y: Ints, x_test: Features) -> Ints:
    """Logistic regression (L2, C = 1) on standardised features; if `y` has only one class, that class."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if (y == y[0]).all():
        return majority(x, y, x_test)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_ITERATIONS))
    return np.asarray(model.fit(x, y).predict(x_test), np.intp)


def fold_count(groups: NDArray[np.generic], folds: int = FOLDS) -> int:
    """Number of folds that keep the groups whole: fewer than asked if there are fewer groups."""
    return min(folds, len(np.unique(groups)))


def cross_validated(method: Method, x: Features, y: Ints, groups: NDArray[np.generic], folds: int = FOLDS) -> Ints:
    """Predictions (n,) for one set by k folds that keep its groups whole; seeded.

    Args:
        method: `majority`, `forest` or `linear_probe`.
        x: (n, F).
        y: (n,) class ids.
        groups: (n,) samples with the same value are never split between fitting and prediction.
        folds: number of folds; fewer if there are fewer groups.

    Raises:
        ValueError: fewer than two groups.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    count = fold_count(groups, folds)
    if count < 2:
        raise ValueError("folds need two groups or more")
    stratified = np.unique(y, return_counts=True)[1].max() >= count
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=0) if stratified else GroupKFold(count)
    predicted = np.zeros(len(y), np.intp)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # some folds then lack it
        warnings.filterwarnings("ignore", message="The number of unique classes")  # ids are not quantities
        for fit, test in splitter.split(x, y, groups):
            if len(test):
                predicted[test] = method(x[fit], y[fit], x[test])
    return predicted
