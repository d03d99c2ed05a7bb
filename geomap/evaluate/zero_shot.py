"""Labels samples with the class of highest cosine, and scores how often that is right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor

from geomap.datasets.samples import Samples
from geomap.evaluate import metrics
from geomap.evaluate.metrics import Ints
from geomap.evaluate.results import Score
from geomap.label.classify import classify
from geomap.legends import Legend

Embeddings = Mapping[str, Tensor]
"""(n, D) unit embeddings of a set by the length of its series."""


def nearest_class(embeddings: Tensor, vectors: Tensor, legend: Legend) -> Ints:
    """Ids (n,) of the class nearest to each embedding (n, D); class vectors (K, D) are in the legend's order."""
    ids = np.array([c.id for c in legend.classes], np.intp)
    nearest: Ints = ids[(embeddings @ vectors.T).argmax(1).numpy()]
    return nearest


def zero_shot_scores(
    legend: Legend, test: Samples, of_length: Embeddings, of_kind: Mapping[str, Tensor], logit_scale: float
) -> Iterator[Score]:
    """Scores of the samples with a class of the legend, by length and kind of prompts; all its classes compete.

    `of_kind`: kind of prompts -> (K, D) class vectors.
    """
    truth = test.labels[legend.name]
    rows = truth > 0
    for length, embeddings in of_length.items():
        for kind, vectors in of_kind.items():
            yield score_cosines(legend, truth[rows], embeddings[rows], vectors, logit_scale, length, kind)


def score_cosines(
    legend: Legend, truth: Ints, embeddings: Tensor, vectors: Tensor, logit_scale: float, length: str, kind: str
) -> Score:
    """Score (n, D) unit embeddings and (K, D) class vectors against `truth`, (n,) class ids of the legend.

    Confidence is computed as in maps: softmax over the legend's classes of `logit_scale` x cosine.
    """
    ids = np.array([c.id for c in legend.classes])
    index, confidence = classify(embeddings, vectors, logit_scale)
    predicted = ids[index.numpy()]
    matrix = metrics.confusion(truth, predicted, ids.tolist())
    return Score(
        legend=legend.name,
        method="encoder",
        length=length,
        prompts=kind,
        n=len(truth),
        top1=metrics.accuracy(truth, predicted),
        top5=metrics.top_k((truth[:, None] == ids).argmax(1), (embeddings @ vectors.T).numpy(), 5),
        macro_f1=metrics.macro_f1(matrix),
        balanced_accuracy=metrics.balanced_accuracy(matrix),
        confusion=matrix,
        reliability=metrics.reliability(confidence.numpy(), predicted == truth),
    )
