"""Learns classes from labelled pixels: class vectors moved from their prompts and held near them by a penalty.

A class's vector starts at its prompt's. Labelled pixels move it, and a penalty holds it back (`label/regression.py`);
a class without points stays as its words have it. From SERIES_FROM points on, the monthly series join the embeddings.
The strengths are those with the least log loss in cross-validation, which never parts a group of pixels. The prompts
alone are among the choices: points that teach nothing change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomap import process
from geomap.label.regression import Design, Floats, fit, log_loss, log_softmax, parted, temperature
from geomap.rowwise import blocks

SERIES_FROM: Final = 100
"""Fewest labelled pixels from which the series are tried. In Rondonia fewer would have wanted them (benchmarks)."""

CLIP: Final = 3.0
"""Bound of a series' values, in standard deviations: a cloud or a shadow that was missed shall not outweigh a year."""

PENALTIES: Final = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""Penalties that are tried on the squared length of what the points add to a class vector times the logit scale."""

LEAST_PENALTY: Final = 3.0
"""Over the number of points: the smallest penalty that is tried. Of few points cross-validation tells little: on
simulated places 5 to 20 points needed a penalty of 0.3 to 1, 100 one of 0.03, and weaker ones cost up to 5 points of
macro F1."""

TRUSTED: Final = 50
"""Fewest points that can lower the trust in the prompts or change the scale of the logits: fewer do not tell."""

TRUST: Final = (0.5, 0.25)
"""Shares of the prompts' logits that are tried, with the points' part on top, beside 1: the words as they are."""

SERIES_WEIGHTS: Final = (0.7,)
"""Length of the series' features that is tried beside embeddings of length 1, and 0: without the series."""

COARSE: Final = 1e-4
"""Share of the features' sum of squares below which cross-validation leaves a direction out; the last fit keeps it."""

SCALES: Final = np.exp(np.linspace(np.log(0.25), np.log(2.0), 31))
"""Factors of the logits that are tried for the confidence; below 1 where answers are less sure than they look."""

LEAST_SPREAD: Final = 1e-3
"""Standard deviation of log DN below which a value is as good as constant."""


@dataclass(frozen=True, slots=True)
class Examples:
    """n labelled pixels."""

    embeddings: NDArray[np.float32]  # (n, D) unit
    classes: NDArray[np.intp]  # (n,) row of the legend's class
    groups: NDArray[np.intp]  # (n,) field or cell: never parted by a fold
    dn: NDArray[np.uint16] | None = None  # (n, T, C) the series, 0 = nodata; None if they are not at hand
    months: tuple[int, ...] = ()  # (T,) calendar month index of each step


@dataclass(frozen=True, slots=True)
class SeriesPart:
    """What the monthly series add to the logits: weights on standardised logarithms of DNs."""

    weights: NDArray[np.float32]  # (K, T, C)
    mean: NDArray[np.float32]  # (T, C) of log DN
    spread: NDArray[np.float32]  # (T, C) standard deviation of log DN
    months: tuple[int, ...]  # (T,) calendar month index of each step

    def logits(self, dn: Tensor, months: tuple[int, ...] | None = None) -> Tensor:
        """(n, T, C) DNs, 0 = nodata -> (n, K). A month without all its bands adds nothing.

        `months`: calendar month index of each step, if the series have other steps; months that were not learned from
        add nothing.
        """
        steps = self.months if months is None else months
        both = [(steps.index(month), i) for i, month in enumerate(self.months) if month in steps]
        at, own = [a for a, _ in both], [b for _, b in both]
        arrays = (torch.from_numpy(a[own]).to(dn.device) for a in (self.mean, self.spread))
        z = _standard_torch(dn[:, at].float(), *arrays)
        weights = torch.from_numpy(self.weights[:, own]).to(dn.device).flatten(1)
        return torch.cat([block @ weights.T for _, block in blocks(z.flatten(1))])[: len(dn)]


@dataclass(frozen=True, slots=True)
class Head:
    """A linear classifier on embeddings, and on the series if `series` is given."""

    vectors: NDArray[np.float32]  # (K, D), of a length that gives logits
    bias: NDArray[np.float32]  # (K,)
    series: SeriesPart | None = None

    def logits(
        self,
        embeddings: NDArray[np.float32],
        dn: NDArray[np.uint16] | None = None,
        months: tuple[int, ...] | None = None,
    ) -> NDArray[np.float32]:
        """(n, D) embeddings, and (n, T, C) series if the head takes them -> (n, K); a row does not depend on others."""
        vectors = torch.from_numpy(self.vectors)
        parts = [block @ vectors.T for _, block in blocks(torch.from_numpy(embeddings))]
        found: NDArray[np.float32] = torch.cat(parts)[: len(embeddings)].numpy() + self.bias
        if self.series is not None and dn is not None:
            found = found + self.series.logits(torch.from_numpy(dn.astype(np.float32)), months).numpy()
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of the head by name, as a safetensors file keeps it."""
        found: dict[str, NDArray[Any]] = {"vectors": self.vectors, "bias": self.bias}
        if self.series is not None:
            found |= {f"series.{name}": getattr(self.series, name) for name in ("weights", "mean", "spread")}
            found["series.months"] = np.array(self.series.months, np.int32)
        return found

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The head whose `arrays` these are; other names are ignored.

        Raises:
            KeyError: an array is missing.
            ValueError: shapes that do not belong together, or values that are not finite.
        """
        series = None
        if any(name.startswith("series.") for name in arrays):
            weights, mean, spread = (_floats(arrays, f"series.{n}") for n in ("weights", "mean", "spread"))
            series = SeriesPart(weights, mean, spread, tuple(int(m) for m in arrays["series.months"]))
        head = cls(_floats(arrays, "vectors"), _floats(arrays, "bias"), series)
        head._check()
        return head

    def _check(self) -> None:
        fits = self.vectors.ndim == 2 and self.bias.shape == self.vectors.shape[:1]
        if self.series is not None:
            shape = self.series.weights.shape
            fits &= len(shape) == 3 and shape[:2] == (len(self.bias), len(self.series.months))
            fits &= self.series.mean.shape == self.series.spread.shape == shape[1:]
            fits &= all(0 <= m < 12 for m in self.series.months) and bool((self.series.spread > 0).all())
        if not fits:
            raise ValueError("arrays of a head that do not belong together")


def _floats(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float32]:
    found = np.asarray(arrays[name])
    if found.dtype != np.float32 or not np.isfinite(found).all():
        raise ValueError(f"{name} is not finite float32")
    return found


@dataclass(frozen=True, slots=True)
class Strengths:
    """What cross-validation chose."""

    penalty: float  # on what the points add; infinite: they add nothing
    trust: float  # 0..1 share of the prompts' logits
    series: float  # length of the series' features; 0: without
    scale: float  # the logits are multiplied by it, so that the confidence fits how often the answers were right


@dataclass(frozen=True, slots=True)
class Validated:
    """Answers for every labelled pixel by heads that did not see its group."""

    fold: NDArray[np.intp]  # (n,)
    strengths: Strengths
    probability: NDArray[np.float64]  # (n, K)
    loss: float  # mean log loss


@dataclass(frozen=True, slots=True)
class Learned:
    """Heads learned from points, and how they did in cross-validation."""

    head: Head  # on embeddings alone
    with_series: Head | None  # on the series too, where these are at hand and help
    validated: Validated  # of `with_series` where there is one, else of `head`
    zero_shot: NDArray[np.float64]  # (n, K) probabilities by the prompts alone
    helps: bool
    says: str  # one sentence: what the points do for the map, or why they do not help


def learn(examples: Examples, prompts: NDArray[np.float32], logit_scale: float) -> Learned:
    """Learn classes from labelled pixels.

    Args:
        examples: n labelled pixels, of one class or more.
        prompts: (K, D) class vectors; for a class without words, the mean of its points.
        logit_scale: of the weights; prompts times it times embeddings are the zero-shot logits.

    Same input gives the same bits. Arithmetic is float64, with no draw of chance.
    """
    with process.threads(1):  # the fits are small, and sums do not depend on the number of cores
        return _learn(examples, prompts, logit_scale)


def _learn(examples: Examples, prompts: NDArray[np.float32], logit_scale: float) -> Learned:
    prior = logit_scale * (examples.embeddings.astype(np.float64) @ prompts.astype(np.float64).T)
    fold = parted(examples.groups, examples.classes)
    plain = _validate(examples, prior, fold, None)
    head = _head(examples, prompts, logit_scale, plain.strengths)
    best, full = plain, None
    if examples.dn is not None and len(examples.classes) >= SERIES_FROM:
        found = _validate(examples, prior, fold, plain.strengths)
        if found.strengths.series > 0:
            best = found
            full = _head(examples, prompts, logit_scale, found.strengths)
    zero = np.exp(log_softmax(prior))
    return Learned(head, full, best, zero, *_helps(examples, best, zero))


WORDS: Final = Strengths(math.inf, 1.0, 0.0, 1.0)
"""The prompts alone."""


@dataclass(frozen=True, slots=True)
class _Trial:
    loss: float
    strengths: Strengths
    logits: Floats  # (n, K)


@dataclass(frozen=True, slots=True)
class _Problem:
    """What every fit of one cross-validation shares."""

    prior: Floats  # (n, K) zero-shot logits
    classes: NDArray[np.intp]  # (n,)
    fold: NDArray[np.intp]  # (n,)

    def trials(self, rows: Floats, penalties: tuple[float, ...], trust: float, series: float) -> list[_Trial]:
        """Logits of every point by fits without its fold, for each penalty, from the strongest on. `rows`: (n, r)."""
        found = [np.empty_like(self.prior) for _ in penalties]
        for f in range(self.fold.max() + 1):
            out, start = self.fold == f, None
            for logits, penalty in zip(found, penalties, strict=True):
                start = fit(rows[~out], self.classes[~out], trust * self.prior[~out], penalty, start)
                logits[out] = trust * self.prior[out] + rows[out] @ start
        strengths = [Strengths(penalty, trust, series, 1.0) for penalty in penalties]
        return [_Trial(log_loss(z, self.classes), s, z) for s, z in zip(strengths, found, strict=True)]


def _validate(examples: Examples, prior: Floats, fold: NDArray[np.intp], known: Strengths | None) -> Validated:
    """The strengths of the least log loss: without series, or with them if those without are `known`.

    First the penalties, then the other choice at the best penalty and its neighbours.
    """
    problem, n = _Problem(prior, examples.classes, fold), len(fold)
    tried = [_Trial(log_loss(prior, examples.classes), WORDS, prior)]
    if fold.max() > 0 and known is None:
        rows = Design.of(_features(examples, 0.0), COARSE).rows
        tried += problem.trials(rows, _penalties(n), 1.0, 0.0)
        near = _near(min(tried, key=lambda t: t.loss).strengths.penalty, n)
        tried += [trial for trust in TRUST if n >= TRUSTED for trial in problem.trials(rows, near, trust, 0.0)]
    elif fold.max() > 0 and known is not None:
        for weight in SERIES_WEIGHTS:
            rows = Design.of(_features(examples, weight), COARSE).rows
            tried += problem.trials(rows, _near(known.penalty, n), known.trust, weight)
    best = min(tried, key=lambda t: t.loss)
    scale = temperature(best.logits, examples.classes, SCALES) if n >= TRUSTED else 1.0
    logits = scale * best.logits
    strengths = replace(best.strengths, scale=scale)
    return Validated(fold, strengths, np.exp(log_softmax(logits)), log_loss(logits, examples.classes))


def _penalties(n: int) -> tuple[float, ...]:
    """The penalties that so many points may choose from."""
    return tuple(p for p in PENALTIES if p >= min(LEAST_PENALTY / n, PENALTIES[0]))


def _near(penalty: float, n: int) -> tuple[float, ...]:
    """A penalty and its neighbours among those that n points may choose from."""
    known = _penalties(n)
    at = known.index(penalty) if penalty in known else 0
    return known[max(at - 1, 0) : at + 2]


def _features(examples: Examples, series: float) -> Floats:
    """(n, D + 1), or (n, D + 1 + T * C): embeddings, a constant for the bias, and the series at a mean length."""
    parts = [examples.embeddings.astype(np.float64), np.ones((len(examples.classes), 1))]
    if series and examples.dn is not None:
        z = _standard(examples.dn, *_scaling(examples.dn)).reshape(len(examples.classes), -1)
        parts.append(series / math.sqrt(z.shape[1]) * z.astype(np.float64))
    return np.concatenate(parts, axis=1)


def _head(examples: Examples, prompts: NDArray[np.float32], logit_scale: float, chosen: Strengths) -> Head:
    """The head fitted on all points."""
    vectors = chosen.trust * logit_scale * prompts.astype(np.float64)
    k, d = vectors.shape
    moved = np.zeros((d + 1, k))
    series = None
    if math.isfinite(chosen.penalty):
        prior = examples.embeddings.astype(np.float64) @ vectors.T
        design = Design.of(_features(examples, chosen.series))
        moved = design.axes @ fit(design.rows, examples.classes, prior, chosen.penalty)
    if chosen.series and examples.dn is not None:
        mean, spread = _scaling(examples.dn)
        weights = chosen.scale * chosen.series / math.sqrt(mean.size) * moved[d + 1 :].T.reshape(k, *mean.shape)
        series = SeriesPart(weights.astype(np.float32), mean, spread, examples.months)
    vectors = chosen.scale * (vectors + moved[:d].T)
    return Head(vectors.astype(np.float32), (chosen.scale * moved[d]).astype(np.float32), series)


def _scaling(dn: NDArray[np.uint16]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(T, C) mean and standard deviation of log DN over the points whose month has all bands; 0 and 1 if none has."""
    whole = (dn > 0).all(axis=2, keepdims=True)
    x = np.log(np.maximum(dn, 1).astype(np.float64))
    count = np.maximum(whole.sum(axis=0), 1)
    mean = (x * whole).sum(axis=0) / count
    spread = np.sqrt((((x - mean) ** 2) * whole).sum(axis=0) / count)
    return mean.astype(np.float32), np.where(spread > LEAST_SPREAD, spread, 1.0).astype(np.float32)


def _standard(dn: NDArray[np.uint16], mean: NDArray[np.float32], spread: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, T, C) standardised log DNs, clipped; months without all bands are 0, the mean."""
    arrays = (torch.from_numpy(a) for a in (mean, spread))
    found: NDArray[np.float32] = _standard_torch(torch.from_numpy(dn.astype(np.float32)), *arrays).numpy()
    return found


def _standard_torch(dn: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    whole = (dn > 0).all(dim=2, keepdim=True)
    return ((dn.clamp(min=1).log() - mean) / spread).clamp(-CLIP, CLIP) * whole


def _helps(examples: Examples, best: Validated, zero: Floats) -> tuple[bool, str]:
    """Whether the points help the map, and a sentence that says how much or why not."""
    n, found = len(examples.classes), np.unique(examples.classes)
    if best.fold.max() == 0:
        return (
            False,
            "All points lie in one group: nothing could be tested, and the classes stay as their words have them.",
        )
    if math.isinf(best.strengths.penalty):
        return False, f"Nothing learned from these {n} points was better than the words alone, which are kept."
    own, words = ((p.argmax(axis=1) == examples.classes).mean() for p in (best.probability, zero))
    says = f"In cross-validation {own:.0%} of {n} points are right, {words:.0%} by the words alone."
    if len(found) < 2:
        return True, f"{says} All are of one class: points of others are wanted."
    return bool(own >= words), says
