"""Scores baselines on a test set, fitted on a training set or by folds inside the test set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geomap.datasets.samples import Samples
from geomap.evaluate import baselines, metrics
from geomap.evaluate.metrics import Ints
from geomap.evaluate.results import Score
from geomap.legends import Legend
from geomap.types import Progress

METHODS: Final[Mapping[str, baselines.Method]] = {
    "majority": baselines.majority,
    "random forest": baselines.forest,
    "linear probe": baselines.linear_probe,
}
"""Baselines by name. The probe takes the encoder's embeddings, the others the series."""

HOW_TRAINED: Final = "fitted on {name} ({n:,} samples)"
"""How the baselines were fitted on a training set, in words."""


def how_folds(test: Samples, known: Sequence[Legend]) -> str:
    """How `by_folds` fits the baselines, in words: legends whose labels lie in fewer groups have fewer folds."""
    groups, grouped_by = test.folds()
    counts = {baselines.fold_count(groups[_labelled(test, legend)[1]]) for legend in known}
    if not counts - {1}:
        return f"the commonest class alone, as folds need two groups; these are {grouped_by}"
    few, most = min(counts), max(counts)
    some = "" if few == most else f", {'none' if few == 1 else f'as few as {few}'} for some legends"
    return f"{most} folds inside the test set{some}, parted by {grouped_by}"


def by_folds(test: Samples, known: Sequence[Legend], embeddings: Tensor, progress: Progress) -> Iterator[Score]:
    """Scores by folds inside the test set, except the majority class: the whole set's. `embeddings`: (n, D)."""
    features, (parted, _) = _features(test, embeddings), test.folds()
    for done, legend in enumerate(known):
        y, rows = _labelled(test, legend)
        groups = parted[rows]
        for name, method in METHODS.items():
            x = features[name][rows]
            if name == "majority":
                yield _score(legend, name, y, method(x, y, x))
            elif baselines.fold_count(groups) > 1:
                yield _score(legend, name, y, baselines.cross_validated(method, x, y, groups))
            progress(f"{test.name} baselines", done + 1, len(known))


def by_training_set(
    test: Samples,
    train: Samples,
    known: Sequence[Legend],
    of_test: Tensor,
    of_train: Tensor,
    progress: Progress,
) -> Iterator[Score]:
    """Scores of baselines fitted on a training set; legends without labels there are left out."""
    features, seen = _features(test, of_test), _features(train, of_train)
    for done, legend in enumerate(known):
        if legend.name in train.labelled:
            (y, rows), (y_train, rows_train) = _labelled(test, legend), _labelled(train, legend)
            for name, method in METHODS.items():
                predicted = method(seen[name][rows_train], y_train, features[name][rows])
                yield _score(legend, name, y, predicted)
        progress(f"{test.name} baselines", done + 1, len(known))


def _features(test: Samples, embeddings: Tensor) -> dict[str, NDArray[np.float32]]:
    table = baselines.series_table(test.dn, test.valid)
    return {"majority": table, "random forest": table, "linear probe": embeddings.numpy()}


def _labelled(test: Samples, legend: Legend) -> tuple[Ints, NDArray[np.bool_]]:
    rows = test.labels[legend.name] > 0
    return test.labels[legend.name][rows], rows


def _score(legend: Legend, name: str, truth: Ints, predicted: Ints) -> Score:
    matrix = metrics.confusion(truth, predicted, [c.id for c in legend.classes])
    return Score(
        legend=legend.name,
        method=name,
        length="monthly",
        prompts="",
        n=len(truth),
        top1=metrics.accuracy(truth, predicted),
        top5=None,
        macro_f1=metrics.macro_f1(matrix),
        balanced_accuracy=metrics.balanced_accuracy(matrix),
        confusion=matrix,
        reliability=None,
    )
