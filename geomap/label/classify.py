"""Embeddings x class vectors -> class and confidence; rated prompts -> score.

The label of a pixel depends only on that pixel, the weights and the legend, not on statistics of other pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomap.errors import LegendError
from geomap.label.learn import Head, SeriesPart
from geomap.legends import UNCLASSIFIED_ID, Legend
from geomap.rowwise import blocks
from geomap.types import CLEAR_MONTHS, Labels, Layers

OTHERS_NEAR: Final = 0.7
"""Cosine above which a class of land cover is near a typed class and does not stand for other land.

Chosen among 0.6, 0.7, 0.8 and none on simulated series and the three sets of the weights' training
(benchmarks/others.py).
"""


@dataclass(frozen=True, slots=True)
class Question:
    """A legend ready for labelling: its class vectors, and the scale that turns cosines into logits."""

    legend: Legend
    vectors: (
        Tensor  # (K, D) unit vectors, one per class or rated prompt, in the legend's order; of others the last rows
    )
    logit_scale: float
    min_confidence: float = 0.0  # 0..1; pixels below it are unclassified
    bias: Tensor | None = None  # (K,) of classes that were learned from points
    series: SeriesPart | None = None  # of these: what the monthly series add to the logits
    months: tuple[int, ...] = ()  # calendar month 0..11 of each step of those

    @classmethod
    def learned(cls, legend: Legend, head: Head, min_confidence: float = 0.0, months: tuple[int, ...] = ()) -> Question:
        """The question whose classes were learned from points: its vectors give logits as they are."""
        vectors, bias = torch.from_numpy(head.vectors), torch.from_numpy(head.bias)
        return cls(legend, vectors, 1.0, min_confidence, bias, head.series, months)


def answers(questions: Sequence[Question], embeddings: Tensor, dn: Tensor | None = None) -> list[Labels]:
    """Labels of (N, D) unit embeddings for every question; all cosines come from one product with all vectors.

    `dn`: (N, T, C) monthly series of the same pixels, for questions that were learned from series too; their steps are
    those of `Question.months`.
    """
    vectors = torch.cat([q.vectors for q in questions]).to(embeddings.device)
    sizes = [len(q.vectors) for q in questions]
    found = [blank(q.legend, (len(embeddings),)) for q in questions]
    for rows, block in blocks(embeddings):
        count = rows.stop - rows.start
        parts = (block @ vectors.T).split(sizes, dim=1)
        for question, part, labels in zip(questions, parts, found, strict=True):
            new = _labels(question, part, None if dn is None else dn[rows])
            labels.value[rows] = new.value[:count]
            if labels.confidence is not None and new.confidence is not None:
                labels.confidence[rows] = new.confidence[:count]
    return found


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
    logits = question.logit_scale * _of_classes(question.legend, cosines)
    if question.bias is not None:
        logits = logits + question.bias.to(logits.device)
    if question.series is not None and dn is not None:
        logits[: len(dn)] += question.series.logits(dn, question.months).to(logits.device)
    index, probability = _classes(logits)
    ids = torch.tensor([c.id for c in question.legend.classes], dtype=torch.uint8, device=index.device)[index]
    if question.min_confidence > 0:
        ids[probability < question.min_confidence] = UNCLASSIFIED_ID
    percent = (100 * probability).round().to(torch.uint8)
    return Labels(ids.cpu().numpy(), percent.cpu().numpy())


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


class TileLabels:
    """Labels for all questions over (rows, columns); nodata until filled."""

    def __init__(
        self,
        questions: Sequence[Question],
        shape: tuple[int, int],
        series: Callable[[NDArray[np.intp]], Tensor] | None = None,
    ) -> None:
        """`series` gives the (n, T, C) monthly series of pixels by flat index, where a question takes them."""
        self._questions, self._shape = questions, shape
        self._series = series if any(q.series is not None for q in questions) else None
        self._answers = {q.legend.name: blank(q.legend, (shape[0] * shape[1],)) for q in questions}

    def fill(self, where: NDArray[np.intp], embeddings: Tensor) -> None:
        """Label the pixels at flat indices (n,) by their (n, D) unit embeddings."""
        dn = None if self._series is None else self._series(where)
        for question, new in zip(self._questions, answers(self._questions, embeddings, dn), strict=True):
            old = self._answers[question.legend.name]
            old.value[where] = new.value
            if old.confidence is not None and new.confidence is not None:
                old.confidence[where] = new.confidence

    def keep(self, where: NDArray[np.intp], layers: Layers) -> None:
        """Copy the labels at flat indices (n,) from (y, x) layers of an earlier run."""
        for name, answer in self._answers.items():
            answer.value[where] = layers[name].ravel()[where]
            if answer.confidence is not None:
                answer.confidence[where] = layers[f"{name}_confidence"].ravel()[where]

    def layers(self, within: tuple[str, int] | None, clear_months: NDArray[np.uint8]) -> Layers:
        """(y, x) pixels by layer stem; other legends are nodata where the legend of `within` has another class."""
        if within is not None:
            self._restrict(*within)
        layers: dict[str, NDArray[Any]] = {CLEAR_MONTHS: clear_months}
        for name, answer in self._answers.items():
            layers[name] = answer.value.reshape(self._shape)
            if answer.confidence is not None:
                layers[f"{name}_confidence"] = answer.confidence.reshape(self._shape)
        return layers

    def _restrict(self, base: str, wanted: int) -> None:
        outside = self._answers[base].value != wanted
        for question in self._questions:
            name = question.legend.name
            if name != base:
                answer, empty = self._answers[name], blank(question.legend, (int(outside.sum()),))
                answer.value[outside] = empty.value
                if answer.confidence is not None and empty.confidence is not None:
                    answer.confidence[outside] = empty.confidence
