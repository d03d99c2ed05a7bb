"""Measures weights on a set of labelled series as in the paper (arXiv 2508.11919v3).

The measures are those of sections 4 and 5. A prediction is the class with the highest cosine: it depends on one sample,
the weights and the prompts, and on no statistic of the test set. The published code's second figure is left out: it
divides logits by each class's mean over the test set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from geomap import legends
from geomap.datasets.samples import Samples
from geomap.datasets.series import LENGTHS, embed_samples, some_months
from geomap.encode.engine import pick_device
from geomap.encode.weights import Weights
from geomap.errors import InputError
from geomap.evaluate import compare, metrics, prompt_kinds
from geomap.evaluate.metrics import Ints
from geomap.evaluate.results import MonthsLeft, Retrieval, Scenicness, SetResult
from geomap.evaluate.zero_shot import Embeddings, nearest_class, zero_shot_scores
from geomap.label.classify import Question, score
from geomap.legends import Legend
from geomap.sentinel2 import MONTHS
from geomap.types import Progress, silent

PAPER_LEGENDS: Final = ("landcover", "landuse", "habitat", "crops", "bioregion")
"""Legends in the order of the paper's table 3."""

RECALLS: Final = (1, 5, 10)
MONTHS_LEFT: Final = (12, 6, 3, 1)
VOTERS: Final = (2, 5, 8, 10)
"""Late ensembling counts voters with at least this many prompts (paper, table A.1)."""
QUERIES: Final = 2048  # compared with the gallery at once


@dataclass(frozen=True)
class Options:
    """What to measure and where."""

    kinds: tuple[str, ...] = tuple(prompt_kinds.KINDS)
    draws: int = 5  # random draws of the months to keep; 0 leaves that table out
    device: str = "auto"
    progress: Progress = silent


def measure(weights: Weights, test: Samples, options: Options, train: Samples | None = None) -> SetResult:
    """Measure everything that a set's labels, photos and scores allow.

    Raises:
        InputError: an unknown device, no valid month in any sample, photo vectors of another size than the embeddings,
            nothing to measure.
        WeightsError: the prompts need a text tower that cannot be loaded.
    """
    total, test = len(test), test.usable()
    _check_photos(weights, test)
    known = [legends.load(name) for name in PAPER_LEGENDS if name in test.labelled]
    if not known and test.photos is None and test.scores is None:
        raise InputError(f"no sample of {test.name} has a class, a photo or a score; there is nothing to evaluate")
    vectors = {e.name: {kind: prompt_kinds.vectors(weights, e, kind) for kind in options.kinds} for e in known}
    of_length = {length: _embed(weights, test, length, options) for length in LENGTHS}
    scale = weights.card.logit_scale
    scores = [s for legend in known for s in zero_shot_scores(legend, test, of_length, vectors[legend.name], scale)]
    if train is None:
        how = compare.how_folds(test, known)
        fitted = compare.by_folds(test, known, of_length["monthly"], options.progress)
    else:
        train = train.usable()
        how = compare.HOW_TRAINED.format(name=train.name, n=len(train))
        of_train = _embed(weights, train, "monthly", options)
        fitted = compare.by_training_set(test, train, known, of_length["monthly"], of_train, options.progress)
    return SetResult(
        name=test.name,
        samples=total,
        without_months=total - len(test),
        trained_on=_trained_on(weights, test),
        baselines=how,
        notes=test.notes,
        scores=(*scores, *fitted),
        retrieval=tuple(retrieve(test, of_length, options)),
        scenicness=tuple(scenicness(weights, test, of_length)),
        months=tuple(months_left(weights, known, test, of_length["monthly"], options))
        if options.draws and known
        else (),
    )


def _trained_on(weights: Weights, test: Samples) -> bool:
    """Whether the card names the set as training data, or some of its series."""
    sources = weights.card.training
    kept = {one for source in sources for one in source.series.split()}
    return test.name in {source.name for source in sources} or not kept.isdisjoint(test.prints().tolist())


def retrieve(test: Samples, of_length: Embeddings, options: Options) -> Iterator[Retrieval]:
    """Recall between pixels and ground photos, both ways, for every legend and the country (paper, table 4).

    A hit is an item of the query's class. Queries and gallery are the samples with a photo and a class; the query's own
    place stays in the gallery.
    """
    photos = test.photos
    if photos is None:
        return
    classes: dict[str, Ints] = {name: test.labels[name] for name in PAPER_LEGENDS if name in test.labelled}
    classes |= test.country_class
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


def scenicness(weights: Weights, test: Samples, of_length: Embeddings) -> Iterator[Scenicness]:
    """Correlation of the legend's scores with people's, for early and late ensembling (paper, tables 5 and A.1)."""
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
    """(n, k) indices of the k items of a gallery (m, D) nearest to each query (n, D), nearest first; k at most m."""
    held = gallery.to(device)
    parts = [
        (query[i : i + QUERIES].to(device) @ held.T).topk(min(k, len(held)), dim=1).indices.cpu()
        for i in range(0, len(query), QUERIES)
    ]
    return np.asarray(torch.cat(parts).numpy(), np.intp)


def months_left(
    weights: Weights, known: Sequence[Legend], test: Samples, monthly: Tensor, options: Options
) -> Iterator[MonthsLeft]:
    """Accuracy with at most 12, 6, 3 and 1 of each sample's valid months, drawn at random; prompts of kind D.

    All samples count in every column; those with fewer valid months keep all of them.
    """
    named = {legend.name: prompt_kinds.vectors(weights, legend) for legend in known}
    device = pick_device(options.device)
    for count in MONTHS_LEFT:
        draws = 1 if count == MONTHS else options.draws
        shares: dict[str, list[float]] = {legend.name: [] for legend in known}
        kept = []
        for draw in range(draws):
            valid = some_months(np.random.default_rng([count, draw]), test.valid, count)
            kept.append(valid.sum(1).mean())
            left = replace(test, valid=valid)
            embeddings = monthly if count == MONTHS else embed_samples(weights.encoder, left, device=device)
            for legend in known:
                shares[legend.name].append(_accuracy(legend, test, embeddings, named[legend.name]))
            options.progress(f"{test.name} {count} months", draw + 1, draws)
        for legend in known:
            got = np.array(shares[legend.name])
            n = int((test.labels[legend.name] > 0).sum())
            sd = float(got.std(ddof=1)) if draws > 1 else (0.0 if count == MONTHS else math.nan)
            yield MonthsLeft(legend.name, count, float(np.mean(kept)), n, float(got.mean()), sd)


def _accuracy(legend: Legend, test: Samples, embeddings: Tensor, vectors: Tensor) -> float:
    truth = test.labels[legend.name]
    rows = truth > 0
    return metrics.accuracy(truth[rows], nearest_class(embeddings[rows], vectors, legend))


def _check_photos(weights: Weights, test: Samples) -> None:
    photos, size = test.photos, weights.encoder.cfg.out
    if photos is not None and photos.shape[1] != size:
        raise InputError(
            f"photo vectors of {photos.shape[1]} numbers do not fit embeddings of {size}; --photos takes vectors in "
            f"the space of the weights, {weights.card.text_space}"
        )


def _embed(weights: Weights, test: Samples, length: str, options: Options) -> Tensor:
    device = pick_device(options.device)
    return embed_samples(weights.encoder, test, length, device, options.progress, f"{test.name} {length}")
