"""How well a legend was learned: cross-validated scores beside the prompts alone and a forest on the same folds."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

import numpy as np
from numpy.typing import NDArray

from geomap.evaluate import metrics
from geomap.evaluate.baselines import forest
from geomap.label.learn import Examples, Learned, testable
from geomap.legends import Legend
from geomap.run.learned import ClassScore, Scores, Trust

TREES: Final = 100
"""Trees of the forest beside: a third of benchmarks/points.py, for a fraction of a second."""
MOST_FOREST: Final = 2000
"""Most pixels for which the forest is fitted: it takes seconds then."""
LEARNED, ZERO_SHOT, FOREST = "learned", "zero-shot", "forest"


def scores(made: Learned, examples: Examples, legend: Legend) -> Scores | None:
    """The scores of the pixels that the map shows; None if there is none, they are few, or all lie in one group.

    Where the words are kept, the accuracies tell what the points reached too; the rest is of the words, as the map is.
    The forest takes the series where they are at hand, else the embeddings; it needs scikit-learn.
    """
    fold, judged = made.validated.fold, examples.judged
    if not testable(fold, judged):
        return None
    truth, probability = examples.classes[judged], made.validated.probability[judged]
    reached = probability if made.validated.rejected is None else made.validated.rejected[judged]
    found = {LEARNED: reached.argmax(axis=1), ZERO_SHOT: made.zero_shot.argmax(axis=1)[judged]}
    if find_spec("sklearn") is not None and len(fold) <= MOST_FOREST:
        found[FOREST] = _forest(examples, fold)[judged]
    rows = range(len(legend.classes))
    tables = {name: metrics.confusion(truth, predicted, rows) for name, predicted in found.items()}
    own = tables[LEARNED if made.moved else ZERO_SHOT]
    trust = metrics.reliability(probability.max(axis=1), probability.argmax(axis=1) == truth)
    return Scores(
        folds=int(fold.max()) + 1,
        classes=tuple(_class(c.name, own, i) for i, c in enumerate(legend.classes) if own[i].any() or own[:, i].any()),
        confusion=tuple(tuple(int(n) for n in row) for row in own),
        accuracy={name: _rounded(metrics.accuracy(truth, predicted)) for name, predicted in found.items()},
        macro_f1={name: _rounded(metrics.macro_f1(table)) for name, table in tables.items()},
        calibration=_rounded(trust.error),
        reliability=tuple(
            Trust(int(n), _rounded(sure), _rounded(right))
            for n, sure, right in zip(trust.count, trust.confidence, trust.accuracy, strict=True)
            if n
        ),
    )


def _class(name: str, table: NDArray[np.intp], i: int) -> ClassScore:
    hits, called, true = int(table[i, i]), int(table[:, i].sum()), int(table[i].sum())
    return ClassScore(
        name,
        true,
        _rounded(hits / called) if called else None,
        _rounded(hits / true) if true else None,
        _rounded(2 * hits / (called + true)),
    )


def _rounded(value: float) -> float:
    return round(float(value), 4)  # so that last bits of a library do not decide the bytes of the file


def _forest(examples: Examples, fold: NDArray[np.intp]) -> NDArray[np.intp]:
    """(n,) classes by a forest that did not see the pixel's fold; of one class, that class."""
    series = examples.dn
    x = examples.embeddings if series is None else series.reshape(len(series), -1).astype(np.float32)
    predicted = np.zeros(len(fold), np.intp)
    for f in range(int(fold.max()) + 1):
        out = fold == f
        predicted[out] = forest(x[~out], examples.classes[~out], x[out], TREES, jobs=1)
    return predicted
