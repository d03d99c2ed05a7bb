"""Learns classes from labelled pixels: class vectors moved from their prompts and held near them by a penalty.

A class's vector starts at its prompt's. Labelled pixels move it, and a penalty holds it back (`label/regression.py`),
so a class without points stays as its words have it. From SERIES_FROM points on, the monthly series join the
embeddings. The features are centred and scaled by the points, so that one penalty serves places where the words are
right and places where they are wrong; only with fewer points it goes by how often the words are right for them.
Cross-validation, in which pixels of one group are never parted, tells whether the points help: words are kept unless it
finds the points right more often, or the points are few, apart, and the words mostly wrong. Points in few fields tell
their own classes apart, and nothing of classes without points. A point counts the less the more points its class has
(`regression.balanced`), so that rare classes are not lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from geomap import process
from geomap.label import gain
from geomap.label.head import Head, SeriesPart, scaling, standard
from geomap.label.regression import Design, Floats, balanced, fit, log_loss, log_softmax, parted, temperature
from geomap.label.scatter import Scatter

FEWEST: Final = 5
"""Fewest labelled pixels that move the classes. One to four did harm on the mean of places where words are good."""

SERIES_FROM: Final = 20
"""Fewest labelled pixels from which the series are learned from. With 10 they add nothing, from 20 on 1 to 4 points."""

PENALTY, PLAIN_PENALTY = 0.15, 0.3
"""Penalty on the squared length of what SERIES_FROM or more points add to a class vector; the latter without scatter.

It is for features of the lengths below. Chosen with these, `regression.POWER` and the floors of `scatter` on Corsica,
East Africa, Rondonia and simulated places (benchmarks/RESULTS.md). Cross-validation among penalties was no better at 20
and 100 points and worse at 50 and 300: the least log loss is at a larger penalty than the best macro F1.
"""

BY_WORDS: Final = ((0.8, 3.0), (0.5, 1.0), (0.0, PLAIN_PENALTY))
"""(least share of the points for which the words are right, penalty), for fewer points. Chosen at the same places."""

WORDS_WORTH: Final = 3
"""How many points the words are worth: of what n points add to the logits, the share n / (n + WORDS_WORTH) is taken.

Five points that are mostly of one class add too much alone. Chosen among 2 to 10 on other draws of the same places and
on Africa's crop mask, where the words are better than five points (benchmarks/RESULTS.md).
"""

SCALED: Final = 50
"""Fewest points that can change the scale of the logits, which is that of the confidence: fewer do not tell."""

EMBEDDING, SERIES, CONSTANT = 2.0, 2.0, 0.5
"""Root mean squared length, over the points, of the centred embeddings and of the standardised series; the constant."""

BRIGHTNESS: Final = 0.5
"""Factor of a month's mean over its bands in the regression, without scatter: light and haze change it more than they
change the differences between bands. Chosen at the same places."""

COARSE: Final = 1e-4
"""Share of the features' sum of squares below which cross-validation leaves a direction out; the last fit keeps it."""

SCALES: Final = np.exp(np.linspace(np.log(0.25), np.log(2.0), 31))
"""Factors of the logits that are tried for the confidence; below 1 where answers are less sure than they look."""

LEAST_LENGTH: Final = 1e-6
"""Length below which vectors are all alike."""


@dataclass(frozen=True, slots=True)
class Examples:
    """n labelled pixels."""

    embeddings: NDArray[np.float32]  # (n, D) unit
    classes: NDArray[np.intp]  # (n,) row of the legend's class
    groups: NDArray[np.intp]  # (n,) field or cell: never parted by a fold
    dn: NDArray[np.uint16] | None = None  # (n, T, C) the series, 0 = nodata; None if they are not at hand
    months: tuple[int, ...] = ()  # (T,) calendar month index of each step
    shown: NDArray[np.bool_] | None = None  # (n,) pixels that the map shows; the others teach alone. None: all

    @property
    def judged(self) -> NDArray[np.bool_]:
        """(n,) True for the pixels by which it is judged whether the points help."""
        return np.ones(len(self.classes), bool) if self.shown is None else self.shown


@dataclass(frozen=True, slots=True)
class Strengths:
    """How strongly the points move the classes."""

    penalty: float  # on what the points add; infinite: they add nothing
    scale: float  # the logits are multiplied by it, so that the confidence fits how often the answers were right


@dataclass(frozen=True, slots=True)
class Validated:
    """Answers for every labelled pixel by heads that did not see its group."""

    fold: NDArray[np.intp]  # (n,)
    strengths: Strengths
    probability: NDArray[np.float64]  # (n, K); where the words are kept, by these
    loss: float  # mean log loss of the pixels that the map shows; NaN if it shows none
    rejected: NDArray[np.float64] | None = None  # (n, K) what the points reached, where the words are kept for that


@dataclass(frozen=True, slots=True)
class Learned:
    """Heads learned from points, and how they did in cross-validation."""

    head: Head  # on embeddings alone
    with_series: Head | None  # on the series too, where these are at hand and help
    validated: Validated  # of `with_series` where there is one, else of `head`
    zero_shot: NDArray[np.float64]  # (n, K) probabilities by the prompts alone
    helps: bool
    says: str  # one or two sentences: what the points do for the map, or why they do not help

    @property
    def moved(self) -> bool:
        """Whether the points move the classes; else the map is by the words alone."""
        return math.isfinite(self.validated.strengths.penalty)


def learn(
    examples: Examples, prompts: NDArray[np.float32], logit_scale: float, scatter: Scatter | None = None
) -> Learned:
    """Learn classes from labelled pixels.

    Args:
        examples: n labelled pixels, of one class or more.
        prompts: (K, D) class vectors; for a class without words, the mean of its points.
        logit_scale: of the weights; prompts times it times embeddings are the zero-shot logits.
        scatter: of the weights, in the coordinates of the embeddings; without it, all directions count alike.

    Same input gives the same bits. Arithmetic is float64, with no draw of chance.
    """
    with process.threads(1):  # the fits are small, and sums do not depend on the number of cores
        return _learn(examples, prompts, logit_scale, scatter)


def _learn(examples: Examples, prompts: NDArray[np.float32], logit_scale: float, scatter: Scatter | None) -> Learned:
    vectors = logit_scale * prompts.astype(np.float64)
    prior = examples.embeddings.astype(np.float64) @ vectors.T
    fold = parted(examples.groups, examples.classes)
    plain, full = replace(examples, dn=None), None
    if examples.dn is not None and len(fold) >= SERIES_FROM and (examples.dn > 0).any():
        full, best = _fitted(examples, vectors, prior, fold, scatter)
        head, _ = _fitted(plain, vectors, prior, fold, scatter, kept=math.isinf(best.strengths.penalty))
    else:
        head, best = _fitted(plain, vectors, prior, fold, scatter)
    zero = np.exp(log_softmax(prior))
    return Learned(head, full, best, zero, *_helps(examples, best, zero))


def _fitted(
    examples: Examples,
    vectors: Floats,
    prior: Floats,
    fold: NDArray[np.intp],
    scatter: Scatter | None,
    kept: bool | None = None,
) -> tuple[Head, Validated]:
    """The head fitted on all points, and what heads without a fold say of it.

    `vectors`: (K, D) of the prompts, of a length that gives logits; `prior`: (n, K) logits by these alone; `kept`:
    whether the words are kept, where the head on the series has decided that for both.
    """
    features = _Features.of(examples, scatter)
    rows = features.rows(examples)
    best = _validate(examples, rows, prior, fold, features.penalty, kept)
    moved = np.zeros((rows.shape[1], len(vectors)))
    if math.isfinite(best.strengths.penalty):
        design, every = Design.of(rows), np.ones(len(rows), bool)
        moved = design.axes @ _added(examples, design.rows, prior, best.strengths.penalty, every)
    return features.head(vectors, moved, best.strengths.scale, examples.months), best


def _validate(
    examples: Examples, rows: Floats, prior: Floats, fold: NDArray[np.intp], penalty: float, kept: bool | None = None
) -> Validated:
    """Answers for points whose group was not learned from, and how strongly all points are to move the classes.

    Words are kept unless the points gain, if these are many or clumped, or the words trusted; points that the map does
    not show have no say in that. Where points are fewer than FEWEST, all in one group, or the map shows none, nothing
    can be tested, and the prompts are kept. `penalty`: for SERIES_FROM or more points. `kept`: whether the words are,
    if that is decided.
    """
    judged, classes = examples.judged, examples.classes
    by_words = _validated(prior, fold, examples, Strengths(math.inf, 1.0))
    if kept or not testable(fold, judged):
        return by_words
    words = prior.argmax(axis=1) == classes
    if len(fold) < SERIES_FROM:
        penalty = next(few for least, few in BY_WORDS if words.mean() >= least)
    logits = _held_out(examples, Design.of(rows, COARSE).rows, prior, fold, penalty)
    own = logits.argmax(axis=1) == classes
    fields = gain.fields_of(examples.groups, classes)[judged]
    decides = kept is None and gain.decides(words[judged], fields)
    if decides and not gain.gains(own[judged], words[judged], fields):
        return replace(by_words, rejected=np.exp(log_softmax(logits)))
    scale = temperature(logits[judged], classes[judged], SCALES) if len(fields) >= SCALED else 1.0
    return _validated(scale * logits, fold, examples, Strengths(penalty, scale))


def testable(fold: NDArray[np.intp], judged: NDArray[np.bool_]) -> bool:
    """Whether cross-validation over (n,) folds can tell anything of the points that are judged."""
    return len(fold) >= FEWEST and fold.max() > 0 and bool(judged.any())


def _validated(logits: Floats, fold: NDArray[np.intp], examples: Examples, strengths: Strengths) -> Validated:
    judged = examples.judged
    loss = log_loss(logits[judged], examples.classes[judged]) if judged.any() else math.nan
    return Validated(fold, strengths, np.exp(log_softmax(logits)), loss)


def _held_out(examples: Examples, rows: Floats, prior: Floats, fold: NDArray[np.intp], penalty: float) -> Floats:
    """(n, K) logits of every point by a fit without its fold."""
    found = np.empty_like(prior)
    for f in range(fold.max() + 1):
        out = fold == f
        found[out] = prior[out] + rows[out] @ _added(examples, rows, prior, penalty, ~out)
    return found


def _added(examples: Examples, rows: Floats, prior: Floats, penalty: float, use: NDArray[np.bool_]) -> Floats:
    """(r, K) weights: what those points that are used add to the logits, times (n, r) rows.

    Where points lie in few groups, classes without points are not fitted, and keep the share of pixels that their words
    give them: such points tell their own classes apart, and nothing of the others.
    """
    classes, share = examples.classes[use], balanced(examples.classes)[use]
    there = np.unique(classes) if gain.few_groups(examples.groups) else np.arange(prior.shape[1])
    found = np.zeros((rows.shape[1], prior.shape[1]))
    numbers = np.searchsorted(there, classes)
    found[:, there] = fit(rows[use], numbers, np.ascontiguousarray(prior[use][:, there]), penalty, share)
    return found * (len(rows) / (len(rows) + WORDS_WORTH))


@dataclass(frozen=True, slots=True)
class _Features:
    """How pixels become rows of a regression: centred and scaled by the points, turned by the scatter within kinds."""

    middle: Floats  # (D,) mean embedding
    turn: Floats  # (D, D) symmetric, with the factor of centred embeddings
    mean: NDArray[np.float32]  # (T, C) of log DN
    spread: NDArray[np.float32]  # (T, C) standard deviation of log DN
    series: Floats  # (T * C, T * C) of standardised series, with their factor; of no series, (0, 0)
    penalty: float  # that fits them

    @classmethod
    def of(cls, examples: Examples, scatter: Scatter | None) -> Self:
        """By all points, as their classes do not enter."""
        middle = examples.embeddings.astype(np.float64).mean(axis=0)
        turn = np.eye(len(middle)) if scatter is None else scatter.embedding_turn()
        penalty = PLAIN_PENALTY if scatter is None else PENALTY
        turn = turn * (EMBEDDING / _length((examples.embeddings - middle) @ turn))
        if examples.dn is None:
            none = np.zeros((0, 0), np.float32)
            return cls(middle, turn, none, none, np.zeros((0, 0)), penalty)
        mean, spread = scaling(examples.dn)
        bands = mean.shape[1]
        if scatter is None:
            series = _dimming(*mean.shape)
        else:
            series = spread.astype(np.float64).reshape(-1, 1) * scatter.series_turn(examples.months, bands)
        length = _length(_flat(standard(examples.dn, mean, spread)) @ series)
        return cls(middle, turn, mean, spread, series * (SERIES / length), penalty)

    def rows(self, examples: Examples) -> Floats:
        """(n, D + 1) or (n, D + 1 + T * C): embeddings, a constant for the bias, and the series."""
        n = len(examples.classes)
        parts = [(examples.embeddings - self.middle) @ self.turn, np.full((n, 1), CONSTANT)]
        if examples.dn is not None:
            parts.append(_flat(standard(examples.dn, self.mean, self.spread)) @ self.series)
        return np.concatenate(parts, axis=1)

    def head(self, prior: Floats, moved: Floats, scale: float, months: tuple[int, ...]) -> Head:
        """The head of (K, D) vectors of the prompts and (D + 1 + T * C, K) weights of the rows."""
        k, d = prior.shape
        added = moved[:d].T @ self.turn  # (K, D)
        bias = CONSTANT * moved[d] - added @ self.middle
        part = None
        if self.series.size:
            weights = scale * (self.series @ moved[d + 1 :]).T.reshape(k, *self.mean.shape)
            part = SeriesPart(weights.astype(np.float32, order="C"), self.mean, self.spread, months)
        return Head((scale * (prior + added)).astype(np.float32), (scale * bias).astype(np.float32), part)


def _flat(series: NDArray[Any]) -> Floats:
    """(n, T, C) -> (n, T * C)."""
    found: Floats = series.astype(np.float64).reshape(len(series), -1)
    return found


def _dimming(steps: int, bands: int) -> Floats:
    """(T * C, T * C) symmetric: each value less 1 - BRIGHTNESS of its month's mean over the bands."""
    return np.kron(np.eye(steps), np.eye(bands) - (1 - BRIGHTNESS) / bands).astype(np.float64)


def _length(vectors: NDArray[Any]) -> float:
    """Root mean squared length of (n, ...) vectors; 1 if all are 0."""
    found = math.sqrt(float((vectors.astype(np.float64) ** 2).sum()) / len(vectors))
    return found if found > LEAST_LENGTH else 1.0


def _helps(examples: Examples, best: Validated, zero: Floats) -> tuple[bool, str]:
    """Whether the points help the map, and a sentence that says how much or why not."""
    judged, found = examples.judged, np.unique(examples.classes)
    n = int(judged.sum())
    if len(judged) < FEWEST:
        return (
            False,
            f"{len(judged)} pixels with points tell too little: the words alone are kept. Give {FEWEST} or more.",
        )
    if best.fold.max() == 0 or not n:
        why = "all points lie in one group" if n else "no point lies where the map shows these classes"
        return False, f"{why}, so nothing could be tested, and the words alone are kept."
    reached = best.probability if best.rejected is None else best.rejected
    own, words = (p.argmax(axis=1)[judged] == examples.classes[judged] for p in (reached, zero))
    of = f"{n} points" if n == len(judged) else f"the {n} points that the map shows"
    says = f"in cross-validation {own.mean():.0%} of {of} are right, {words.mean():.0%} by the words alone."
    ahead, error = gain.lead(own, words, gain.fields_of(examples.groups, examples.classes)[judged])
    if best.rejected is not None:
        why = "Of so few places, that gain is within chance" if ahead > 0 else "That is no gain"
        return False, f"{says} {why}: the words alone are kept. Give more points, in other places."
    if ahead < 0:
        if -ahead > error:
            return False, f"{says} They do not help, and the map is made from them: give others, or map without them."
        return (
            False,
            f"{says} That is within chance: more points, or an independent sample, would tell whether they help.",
        )
    return True, f"{says} All are of one class: points of others are wanted." if len(found) < 2 else says
