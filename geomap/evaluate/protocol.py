"""What is measured on a set of labelled series, in the paper's manner (arXiv 2508.11919v3, sections 4 and 5).

A prediction is the class with the highest cosine: a function of one sample, the weights and the prompts. No statistic
of the test set enters; the published code's second figure, logits over each class's mean in the test set, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from geomap import legends
from geomap.datasets.series import LENGTHS, Progress, Series, embed, shorten, some_months
from geomap.datasets.sets import LabelledSet
from geomap.encode.engine import pick_device
from geomap.encode.weights import Weights
from geomap.errors import InputError
from geomap.evaluate import compare, metrics, prompt_kinds
from geomap.evaluate.results import MonthsLeft, Result, Retrieval, Scenicness, Score
from geomap.label.classify import Question, classify, score
from geomap.legends import Legend
from geomap.sentinel2 import MONTHS

LEGENDS: Final = ("landcover", "landuse", "habitat", "crops", "bioregion")
"""Legends in the order of the paper's table 3."""

RECALLS: Final = (1, 5, 10)
CLEAR_MONTHS: Final = (12, 6, 3, 1)
VOTERS: Final = (2, 5, 8, 10)
"""Late ensembling counts voters with at least so many prompts (paper, table A.1)."""
QUERIES: Final = 2048  # retrieved at a time

Ints = NDArray[np.intp]
Embeddings = Mapping[str, Tensor]
"""(n, D) unit embeddings of a set by the length of its series."""


@dataclass(frozen=True)
class Options:
    """What to measure and where."""

    kinds: tuple[str, ...] = tuple(prompt_kinds.KINDS)
    draws: int = 5  # of the months that are left; 0 leaves that table out
    device: str = "auto"
    progress: Progress = field(default=lambda stage, done, total: None)


def evaluate(weights: Weights, test: LabelledSet, options: Options, train: LabelledSet | None = None) -> Result:
    """Everything that a set's labels, photos and scores allow.

    Raises:
        InputError: an unknown device, no valid month in any sample, photo vectors of another size than the embeddings.
        WeightsError: the prompts need a text tower that cannot be loaded.
    """
    total, test = len(test.samples), test.usable()
    _check_photos(weights, test)
    known = [legends.load(name) for name in LEGENDS if name in test.labelled]
    vectors = {e.name: {kind: prompt_kinds.vectors(weights, e, kind) for kind in options.kinds} for e in known}
    of_length = {length: _embed(weights, test, length, options) for length in LENGTHS}
    scale = weights.card.logit_scale
    scores = [s for legend in known for s in zero_shot(legend, test, of_length, vectors[legend.name], scale)]
    if train is None:
        how = compare.HOW_FOLDS.format(grouped_by=test.grouped_by)
        fitted = compare.inside(test, known, of_length["monthly"], options.progress)
    else:
        train = train.usable()
        how = compare.HOW_TRAINED.format(name=train.name, n=len(train.samples))
        of_train = _embed(weights, train, "monthly", options)
        fitted = compare.across(test, train, known, of_length["monthly"], of_train, options.progress)
    return Result(
        name=test.name,
        samples=total,
        without_months=total - len(test.samples),
        trained_on=test.name in {source.name for source in weights.card.training},
        baselines=how,
        scores=(*scores, *fitted),
        retrieval=tuple(retrieve(test, of_length, options)),
        scenicness=tuple(scenicness(weights, test, of_length)),
        months=tuple(months_left(weights, known, test, of_length["monthly"], options))
        if options.draws and known
        else (),
    )


def zero_shot(
    legend: Legend, test: LabelledSet, of_length: Embeddings, of_kind: Mapping[str, Tensor], logit_scale: float
) -> Iterator[Score]:
    """Scores of the samples that have a class of the legend, by length and kind of prompts; all its classes compete.

    `of_kind`: (K, D) class vectors by kind of prompts.
    """
    truth = test.samples.labels[legend.name]
    rows = truth > 0
    for length, embeddings in of_length.items():
        for kind, vectors in of_kind.items():
            yield score_cosines(legend, truth[rows], embeddings[rows], vectors, logit_scale, length, kind)


def score_cosines(
    legend: Legend, truth: Ints, embeddings: Tensor, vectors: Tensor, logit_scale: float, length: str, kind: str
) -> Score:
    """Scores of (n, D) unit embeddings and (K, D) class vectors for `truth` (n,) class ids of the legend.

    Confidence is that of maps: the softmax over the legend's classes of `logit_scale` x cosine.
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


def retrieve(test: LabelledSet, of_length: Embeddings, options: Options) -> Iterator[Retrieval]:
    """Recalls both ways between pixels and ground photos, for every legend and the country (paper, table 4).

    A hit is an item of the query's class. Queries and gallery are the samples that have both a photo and a class; the
    query's own place stays in the gallery.
    """
    photos = test.samples.photos
    if photos is None:
        return
    classes: dict[str, Ints] = {name: test.samples.labels[name] for name in LEGENDS if name in test.labelled}
    classes |= test.country_class()
    device = pick_device(options.device)
    unit = F.normalize(torch.from_numpy(photos), dim=-1)  # NaN rows stay NaN and are left out
    seen = np.isfinite(photos).all(1)
    for step, (length, embeddings) in enumerate(of_length.items()):
        found: dict[bytes, tuple[Ints, Ints]] = {}  # most legends have the same samples: search once
        for name, label in classes.items():
            rows = seen & (label > 0)
            if not rows.any():
                continue
            if (key := rows.tobytes()) not in found:
                pixel, photo = embeddings[rows], unit[rows]
                found[key] = nearest(photo, pixel, max(RECALLS), device), nearest(pixel, photo, max(RECALLS), device)
            of = label[rows]
            for query, index in zip(("photo", "pixel"), found[key], strict=True):
                recall = {k: metrics.recall_at(of, of[index], k) for k in RECALLS}
                yield Retrieval(name, query, length, int(rows.sum()), recall)
        options.progress(f"{test.name} retrieval", step + 1, len(of_length))


def scenicness(weights: Weights, test: LabelledSet, of_length: Embeddings) -> Iterator[Scenicness]:
    """Correlations of the legend's scores with people's, by early and late ensembling (paper, tables 5 and A.1)."""
    if test.scores is None:
        return
    rows = np.isfinite(test.scores)
    base = legends.load("scenicness")
    vectors = prompt_kinds.vectors(weights, base)
    ways = {"early": base.model_copy(update={"ensembling": "early"})}
    for least in VOTERS:
        late = base.model_copy(update={"ensembling": "late", "min_prompts": least})
        if all(p.voter for p in late.prompts) and late.ballots:
            ways[f"late, {least} prompts or more"] = late
    for length, embeddings in of_length.items():
        for name, legend in ways.items():
            found = score(Question(legend, vectors, weights.card.logit_scale), embeddings[rows]).numpy()
            people = test.scores[rows]
            yield Scenicness(name, length, len(people), metrics.pearson(found, people), metrics.kendall(found, people))


@torch.inference_mode()
def nearest(query: Tensor, gallery: Tensor, k: int, device: torch.device) -> Ints:
    """(n, k) indices into the gallery (m, D) of the highest cosines of queries (n, D), highest first; k at most m."""
    held = gallery.to(device)
    parts = [
        (query[i : i + QUERIES].to(device) @ held.T).topk(min(k, len(held)), dim=1).indices.cpu()
        for i in range(0, len(query), QUERIES)
    ]
    return np.asarray(torch.cat(parts).numpy(), np.intp)


def months_left(
    weights: Weights, known: Sequence[Legend], test: LabelledSet, monthly: Tensor, options: Options
) -> Iterator[MonthsLeft]:
    """Accuracy with at most 12, 6, 3 and 1 of each sample's valid months, drawn at random; prompts of kind D.

    All samples count in every column; those with fewer valid months keep what they have.
    """
    named = {legend.name: prompt_kinds.vectors(weights, legend) for legend in known}
    device = pick_device(options.device)
    for count in CLEAR_MONTHS:
        draws = 1 if count == MONTHS else options.draws
        shares: dict[str, list[float]] = {legend.name: [] for legend in known}
        kept = []
        for draw in range(draws):
            valid = some_months(np.random.default_rng([count, draw]), test.samples.valid, count)
            kept.append(valid.sum(1).mean())
            series = Series(test.samples.dn, valid, np.arange(MONTHS))
            embeddings = monthly if count == MONTHS else embed(weights.encoder, series, device)
            for legend in known:
                shares[legend.name].append(_accuracy(legend, test, embeddings, named[legend.name]))
            options.progress(f"{test.name} {count} months", draw + 1, draws)
        for legend in known:
            got = np.array(shares[legend.name])
            n = int((test.samples.labels[legend.name] > 0).sum())
            sd = float(got.std(ddof=1)) if draws > 1 else (0.0 if count == MONTHS else math.nan)
            yield MonthsLeft(legend.name, count, float(np.mean(kept)), n, float(got.mean()), sd)


def _accuracy(legend: Legend, test: LabelledSet, embeddings: Tensor, vectors: Tensor) -> float:
    truth = test.samples.labels[legend.name]
    rows = truth > 0
    ids = np.array([c.id for c in legend.classes])
    return metrics.accuracy(truth[rows], ids[(embeddings[rows] @ vectors.T).argmax(1).numpy()])


def _check_photos(weights: Weights, test: LabelledSet) -> None:
    photos, size = test.samples.photos, weights.encoder.cfg.out
    if photos is not None and photos.shape[1] != size:
        raise InputError(
            f"photo vectors of {photos.shape[1]} numbers do not fit embeddings of {size}; --photos takes vectors in "
            f"the space of the weights, {weights.card.text_space}"
        )


def _embed(weights: Weights, test: LabelledSet, length: str, options: Options) -> Tensor:
    series = shorten(test.samples.dn, test.samples.valid, length)
    return embed(weights.encoder, series, pick_device(options.device), options.progress, f"{test.name} {length}")
