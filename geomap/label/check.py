"""Checks the prompts of a legend: which classes the text tower can tell apart. No pixel is used.

Telling classes apart in words is necessary, not sufficient: a pixel's year may look the same for classes whose prompts
differ, and the encoder may never have learned a word that the tower knows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from geomap.label import classify, towers
from geomap.legends import Legend

CLEAR: Final = 0.99
"""Two classes are close if an embedding equal to one class vector gets less confidence than this against the other.

Measured by benchmarks/words.py on typed names of geomap.simulate's covers with the default weights (all-MiniLM-L6-v2,
scale 23.31), for which it means a cosine above 0.80: 67 % of the pairs of names this close name one cover; of all
pairs, 1.3 % do. A bound of 0.6 (cosine above 0.98) finds little except repeated words. The figure compares wordings and
does not predict a map: embeddings of pixels are far from every class vector (cosine 0.1 to 0.3).
"""


@dataclass(frozen=True, slots=True)
class ClassCheck:
    """A class and the other class whose vector is nearest to its own."""

    name: str
    nearest: str
    cosine: float
    confidence: float  # 0..1, of an embedding equal to the class vector, if these two were the whole legend
    kept: int | None  # prompts nearest to their own class when left out of its vector; None if there is only one prompt
    prompts: int


@dataclass(frozen=True, slots=True)
class Stray:
    """A prompt that is nearer to another class than to its own, when left out of its class vector."""

    prompt: str
    name: str  # name of its class
    nearest: str
    lead: float  # how much nearer the other class is, as a cosine


@dataclass(frozen=True, slots=True)
class ClassesCheck:
    """How well the prompts of a legend tell its classes apart."""

    classes: tuple[ClassCheck, ...]  # in the legend's order
    close: tuple[tuple[str, str, float], ...]  # pairs with a confidence below CLEAR and their cosine, closest first
    strays: tuple[Stray, ...]  # furthest astray first


@dataclass(frozen=True, slots=True)
class RatingCheck:
    """A rated prompt and the score that the other prompts give it."""

    prompt: str
    rating: float
    score: float


def check_classes(legend: Legend, tower: towers.TextTower, logit_scale: float) -> ClassesCheck:
    """Compare the classes of a legend by pairs, and each prompt with all classes; its own class is made without it."""
    names = [c.name for c in legend.classes]
    sizes = [len(c.prompts) for c in legend.classes]
    owner = torch.arange(len(names)).repeat_interleave(torch.tensor(sizes))  # (P,) class of each prompt
    prompts = [p for c in legend.classes for p in c.prompts]
    vectors = tower.encode(prompts)  # (P, D)
    sums = torch.zeros(len(names), vectors.shape[1]).index_add(0, owner, vectors)
    means = F.normalize(sums, dim=-1)  # (K, D) the class vectors
    near = vectors @ means.T
    rows = torch.arange(len(prompts))
    near[rows, owner] = (vectors * F.normalize(sums[owner] - vectors, dim=-1)).sum(dim=1)  # class without the prompt
    astray = near.argmax(dim=1) != owner
    between = means @ means.T
    between.fill_diagonal_(-math.inf)
    classes = []
    for k, (nearest, size) in enumerate(zip(between.argmax(dim=1).tolist(), sizes, strict=True)):
        cosine = float(between[k, nearest])
        kept = int((~astray[owner == k]).sum()) if size > 1 else None
        classes.append(ClassCheck(names[k], names[nearest], cosine, _confidence(cosine, logit_scale), kept, size))
    strays = []
    for p in torch.nonzero(astray).flatten().tolist():
        k, nearest = int(owner[p]), int(near[p].argmax())
        if sizes[k] > 1:
            strays.append(Stray(prompts[p], names[k], names[nearest], float(near[p, nearest] - near[p, k])))
    return ClassesCheck(
        tuple(classes),
        close_pairs(names, means, logit_scale),
        tuple(sorted(strays, key=lambda stray: -stray.lead)),
    )


def close_pairs(names: Sequence[str], vectors: Tensor, logit_scale: float) -> tuple[tuple[str, str, float], ...]:
    """Pairs of names whose (K, D) class vectors are close (CLEAR), and their cosine, closest first."""
    between = vectors @ vectors.T
    pairs = [(names[a], names[b], float(between[a, b])) for a, b in combinations(range(len(names)), 2)]
    close = [pair for pair in pairs if _confidence(pair[2], logit_scale) < CLEAR]
    return tuple(sorted(close, key=lambda pair: -pair[2]))


def check_ratings(legend: Legend, tower: towers.TextTower, logit_scale: float) -> tuple[RatingCheck, ...]:
    """Score each prompt of a score legend by the other prompts, in the legend's order.

    All other prompts go into one softmax, whatever the legend's ensembling: a voter with few prompts could give no
    score without one of them.
    """
    vectors = towers.class_vectors(legend, tower)
    early = legend.model_copy(update={"ensembling": "early"})
    checks = []
    for i, prompt in enumerate(legend.prompts):
        others = [k for k in range(len(legend.prompts)) if k != i]
        rest = early.model_copy(update={"prompts": tuple(legend.prompts[k] for k in others)})
        score = classify.score(classify.Question(rest, vectors[others], logit_scale), vectors[i : i + 1])
        checks.append(RatingCheck(prompt.text, prompt.rating, score.item()))
    return tuple(checks)


def _confidence(cosine: float, logit_scale: float) -> float:
    """Softmax over two classes for an embedding equal to one class vector, at `cosine` from the other."""
    return 1 / (1 + math.exp(-logit_scale * (1 - cosine)))
