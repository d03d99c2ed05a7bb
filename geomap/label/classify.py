"""Embeddings x class vectors -> class and confidence; rated prompts -> score.

The label of a pixel depends only on that pixel, the weights and the legend, not on statistics of other pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomap.errors import LegendError
from geomap.label import smooth
from geomap.label.head import Head, SeriesPart
from geomap.legends import UNCLASSIFIED_ID, Legend
from geomap.rowwise import ROWS_CPU, blocks
from geomap.types import CLEAR_MONTHS, Labels, Layers

OTHERS_NEAR: Final = 0.7
"""Cosine above which a class of land cover is near a typed class and does not stand for other land.

Chosen among 0.6, 0.7, 0.8 and none on simulated series and the three sets of the weights' training
(benchmarks/others.py).
"""


EXTRAS: Final = ("second", "margin", "probabilities")
"""What can be kept of a legend of classes besides class and confidence (`--layers`)."""

Within: TypeAlias = Mapping[str, tuple[str, int]]
"""Legend -> (another legend, class id): nodata where the map of that one, restricted itself, has another class."""


def depth(name: str, within: Within) -> int:
    """How many legends restrict a legend, each of them the one before; 0: it is mapped everywhere."""
    return 1 + depth(within[name][0], within) if name in within else 0


@dataclass(frozen=True, slots=True)
class Question:
    """A legend ready for labelling: its class vectors, and the scale that turns cosines into logits."""

    legend: Legend
    vectors: (
        Tensor  # (K, D) unit vectors, one per class or rated prompt, in the legend's order; of others the last rows
    )
    logit_scale: float
    min_confidence: float = 0.0  # 0..1; pixels below it are unclassified
    extras: tuple[str, ...] = ()  # of EXTRAS
    bias: Tensor | None = None  # (K,) of classes that were learned from points
    series: SeriesPart | None = None  # of these: what the monthly series add to the logits
    months: tuple[int, ...] = ()  # calendar month 0..11 of each step of those

    @classmethod
    def learned(cls, legend: Legend, head: Head, min_confidence: float = 0.0, months: tuple[int, ...] = ()) -> Question:
        """The question whose classes were learned from points: its vectors give logits as they are."""
        vectors, bias = torch.from_numpy(head.vectors), torch.from_numpy(head.bias)
        return cls(legend, vectors, 1.0, min_confidence, (), bias, head.series, months)

    def without(self, ids: frozenset[int]) -> Question:
        """The question in which these classes do not compete. Raises LegendError if too few are left."""
        if not ids:
            return self
        rows = [c.id for c in self.legend.classes]
        rows += [rows[-1]] * (len(self.vectors) - len(rows))  # those of "None of these", the last class
        kept = [i for i, number in enumerate(rows) if number not in ids]
        return replace(
            self,
            legend=self.legend.without(ids),
            vectors=self.vectors[kept],
            bias=None if self.bias is None else self.bias[kept],
            series=None if self.series is None else replace(self.series, weights=self.series.weights[kept]),
        )

    @property
    def kept(self) -> tuple[str, ...]:
        """The extras of this legend: none if it gives scores."""
        return () if self.legend.kind == "score" else self.extras


def answers(questions: Sequence[Question], embeddings: Tensor, dn: Tensor | None = None) -> list[Labels]:
    """Labels of (N, D) unit embeddings for every question; all cosines come from one product with all vectors.

    `dn`: (N, T, C) monthly series of the same pixels, for questions that were learned from series too; their steps are
    those of `Question.months`.
    """
    found = [_blank(q, (len(embeddings),)) for q in questions]
    for rows, count, parts in _cosines(questions, embeddings):
        for question, part, labels in zip(questions, parts, found, strict=True):
            _put(labels, rows, _labels(question, part, None if dn is None else dn[rows]), count)
    return found


def _cosines(questions: Sequence[Question], embeddings: Tensor) -> Iterator[tuple[slice, int, Sequence[Tensor]]]:
    """Blocks of embeddings: (slice of rows, their number, for each question the (ROWS, K) cosines of the block)."""
    vectors = torch.cat([q.vectors for q in questions]).to(embeddings.device)
    sizes = [len(q.vectors) for q in questions]
    for rows, block in blocks(embeddings):
        yield rows, rows.stop - rows.start, (block @ vectors.T).split(sizes, dim=1)


def _put(labels: Labels, where: Any, new: Labels, count: int | None = None) -> None:
    """Write the first `count` of some labels, or all, over others."""
    labels.value[where] = new.value[:count]
    if labels.confidence is not None and new.confidence is not None:
        labels.confidence[where] = new.confidence[:count]
    for name, values in labels.extras.items():
        values[..., where] = new.extras[name][..., :count]


def answer(question: Question, embeddings: Tensor) -> Labels:
    """Labels of (N, D) unit embeddings: ids and percent for classes, scores for rated prompts."""
    return answers([question], embeddings)[0]


def classify(embeddings: Tensor, vectors: Tensor, logit_scale: float) -> tuple[Tensor, Tensor]:
    """(N, D) x (K, D) -> index of the nearest class (N,), and its softmax probability over the classes (N,)."""
    return _classes(logit_scale * (embeddings @ vectors.T))


def score(question: Question, embeddings: Tensor) -> Tensor:
    """(N,) float32 scores of (N, D) unit embeddings for a legend of rated prompts."""
    return _scores(question, embeddings @ question.vectors.T)


def _labels(question: Question, cosines: Tensor, dn: Tensor | None = None) -> Labels:
    """Labels of (N, P) products of embeddings with a question's vectors; `dn` may have fewer rows."""
    if question.legend.kind == "score":
        return Labels(_scores(question, cosines).cpu().numpy(), None)
    return _labels_of(question, _logits(question, cosines, dn))


def _logits(question: Question, cosines: Tensor, dn: Tensor | None = None) -> Tensor:
    """(N, K) logits of classes from the cosines of vectors; `dn` may have fewer rows."""
    logits = question.logit_scale * _of_classes(question.legend, cosines)
    if question.bias is not None:
        logits = logits + question.bias.to(logits.device)
    if question.series is not None and dn is not None:
        logits[: len(dn)] += question.series.logits(dn, question.months).to(logits.device)
    return logits


def _labels_of(question: Question, logits: Tensor) -> Labels:
    """Labels of pixels by their (N, K) logits."""
    index, probability = _classes(logits)
    own = torch.tensor([c.id for c in question.legend.classes], dtype=torch.uint8, device=index.device)
    ids = own[index]
    if question.min_confidence > 0:
        ids[probability < question.min_confidence] = UNCLASSIFIED_ID
    extras: dict[str, NDArray[np.uint8]] = {}
    if question.kept:
        others = logits.scatter(1, index[:, None], -torch.inf)
        next_best, second = others.max(dim=1)
        margin = probability - torch.exp(next_best - logits.logsumexp(dim=1))
        made = {"second": own[second], "margin": _percent(margin), "probabilities": _percent(logits.softmax(dim=1).T)}
        extras = {name: made[name].cpu().numpy() for name in question.kept}
    return Labels(ids.cpu().numpy(), _percent(probability).cpu().numpy(), extras)


def _percent(share: Tensor) -> Tensor:
    return (100 * share).round().to(torch.uint8)


def with_land(own: Tensor, land: Tensor) -> Tensor:
    """Class vectors (K, D), followed by those of land (M, D) that are not near any of them: what "others" look like.

    Raises LegendError if none is left.
    """
    far = land[(land @ own.T).amax(dim=1) <= OTHERS_NEAR]
    if not len(far):
        raise LegendError("--others: these classes are near every kind of land cover already; leave it out")
    return torch.cat([own, far])


def _of_classes(legend: Legend, cosines: Tensor) -> Tensor:
    """(N, K) cosines of classes from those of vectors; "None of these" has the cosine of the nearest of its vectors."""
    if not legend.has_others:
        return cosines
    own = len(legend.classes) - 1
    return torch.cat([cosines[:, :own], cosines[:, own:].amax(dim=1, keepdim=True)], dim=1)


def _classes(logits: Tensor) -> tuple[Tensor, Tensor]:
    best, index = logits.max(dim=1)  # for equal logits, the first class in the legend's order
    return index, torch.exp(best - logits.logsumexp(dim=1))


def _scores(question: Question, cosines: Tensor) -> Tensor:
    """The mean over ballots of the ratings, weighted by a softmax over the ballot's prompts.

    Early ensembling has one ballot with all prompts, late ensembling one per voter (paper A.1.3).
    """
    ratings = torch.tensor([p.rating for p in question.legend.prompts], device=cosines.device)
    logits = question.logit_scale * cosines  # (N, P)
    ballots = [torch.tensor(ballot, device=cosines.device) for ballot in question.legend.ballots]
    scores = [torch.softmax(logits[:, b], dim=1, dtype=torch.float32) @ ratings[b] for b in ballots]  # each (N,)
    return torch.stack(scores).mean(dim=0)


def blank(legend: Legend, shape: tuple[int, ...]) -> Labels:
    """Labels of unmapped pixels: id 0 with confidence 255, or NaN scores."""
    if legend.kind == "score":
        return Labels(np.full(shape, np.nan, np.float32), None)
    return Labels(np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8))


def _blank(question: Question, shape: tuple[int, ...]) -> Labels:
    """Labels of unmapped pixels, with the extras of a question: id 0 in `second`, 255 in the others."""
    sizes = {"second": shape, "margin": shape, "probabilities": (len(question.legend.classes), *shape)}
    extras = {name: np.full(sizes[name], 0 if name == "second" else 255, np.uint8) for name in question.kept}
    return replace(blank(question.legend, shape), extras=extras)


class TileLabels:
    """Labels for all questions over (rows, columns); nodata until filled.

    With a `window` above 1, log-probabilities are averaged over windows of so many pixels a side, not across nodata:
    logits (scores as they are) are held until all pixels are filled, 4 bytes for each class of each pixel.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        shape: tuple[int, int],
        window: int = 1,
        series: Callable[[NDArray[np.intp]], Tensor] | None = None,
    ) -> None:
        """`series` gives the (n, T, C) monthly series of pixels by flat index, where a question takes them."""
        self._questions, self._shape, self._smooth = questions, shape, window
        self._series = series if any(q.series is not None for q in questions) else None
        size = shape[0] * shape[1]
        self._answers = {q.legend.name: _blank(q, (size,)) for q in questions}
        depths = {q.legend.name: len(q.legend.classes) or 1 for q in questions} if window > 1 else {}
        self._held = {name: np.full((k, size), np.nan, np.float32) for name, k in depths.items()}

    def fill(self, where: NDArray[np.intp], embeddings: Tensor) -> None:
        """Label the pixels at flat indices (n,) by their (n, D) unit embeddings."""
        dn = None if self._series is None else self._series(where)
        if self._smooth > 1:
            self._hold(where, embeddings, dn)
            return
        for question, new in zip(self._questions, answers(self._questions, embeddings, dn), strict=True):
            _put(self._answers[question.legend.name], where, new)

    def hold(self, name: str, values: NDArray[np.float32]) -> None:
        """Take a legend's (K, y, x) logits, or scores (1, y, x), NaN where there are none."""
        self._held[name] = values.reshape(len(values), -1)

    def keep(self, where: NDArray[np.intp], layers: Layers) -> None:
        """Copy the labels at flat indices (n,) from (y, x) layers of an earlier run, which smoothed nothing."""
        for name, answer in self._answers.items():
            answer.value[where] = layers[name].ravel()[where]
            if answer.confidence is not None:
                answer.confidence[where] = layers[f"{name}_confidence"].ravel()[where]
            for extra, values in answer.extras.items():
                values[where] = layers[f"{name}_{extra}"].ravel()[where]

    def layers(self, within: Within, clear_months: NDArray[np.uint8]) -> Layers:
        """(y, x) pixels by layer stem, and the strips along the edges where labels are smoothed."""
        layers: dict[str, NDArray[Any]] = {CLEAR_MONTHS: clear_months}
        for question in self._questions if self._smooth > 1 else ():
            layers |= self._finish(question)
        self._restrict(within)
        for name, answer in self._answers.items():
            layers[name] = answer.value.reshape(self._shape)
            if answer.confidence is not None:
                layers[f"{name}_confidence"] = answer.confidence.reshape(self._shape)
            for extra, values in answer.extras.items():
                layers[f"{name}_{extra}"] = values.reshape(*values.shape[:-1], *self._shape)
        return layers

    def _hold(self, where: NDArray[np.intp], embeddings: Tensor, dn: Tensor | None) -> None:
        for rows, count, parts in _cosines(self._questions, embeddings):
            series = None if dn is None else dn[rows]
            for question, part in zip(self._questions, parts, strict=True):
                of_scores = question.legend.kind == "score"
                values = _scores(question, part)[:, None] if of_scores else _logits(question, part, series)
                self._held[question.legend.name][:, where[rows]] = values[:count].T.cpu().numpy()

    def _finish(self, question: Question) -> Layers:
        """Label all pixels from what is held of a legend; returns its strips."""
        values = self._held.pop(question.legend.name).reshape(-1, *self._shape)
        edges = smooth.strip_layers(question.legend.name, values, self._smooth)
        answer = self._answers[question.legend.name]
        if question.legend.kind == "score":
            answer.value[:] = values.ravel()
            return edges
        means = smooth.smooth_np(values, self._smooth).reshape(len(values), -1)
        where = np.flatnonzero(~np.isnan(means[0]))
        for start in range(0, len(where), ROWS_CPU):
            part = where[start : start + ROWS_CPU]
            for _, block in blocks(torch.from_numpy(np.ascontiguousarray(means[:, part].T))):
                _put(answer, part, _labels_of(question, block), len(part))
        return edges

    def _restrict(self, within: Within) -> None:
        """Blank each legend where the map of its base has another class, the bases first."""
        restricted = [q for q in self._questions if q.legend.name in within]
        for question in sorted(restricted, key=lambda q: depth(q.legend.name, within)):
            base, number = within[question.legend.name]
            off = self._answers[base].value != number
            _put(self._answers[question.legend.name], off, _blank(question, (int(off.sum()),)))
