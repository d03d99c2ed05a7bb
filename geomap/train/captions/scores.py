"""Computes a card's figures: zero-shot labels beside the majority, forest and probe baselines."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from geomap import legends
from geomap.datasets.kinds import CROPLAND, members
from geomap.datasets.samples import Samples
from geomap.datasets.series import embed_samples
from geomap.datasets.simulated import COVER_LEGENDS
from geomap.encode.model import PixelEncoder
from geomap.evaluate import baselines, metrics
from geomap.evaluate.zero_shot import nearest_class
from geomap.simulate.covers import table
from geomap.train.captions.pool import kind_of
from geomap.train.captions.vocabulary import Vocabulary

log = logging.getLogger(__name__)

TYPED: Final = {
    "winter_wheat": "autumn wheat", "maize": "corn field", "winter_barley": "autumn barley", "potato": "potato ridges",
    "sugar_beet": "beet for the sugar factory", "spring_barley": "barley sown in March",
    "pasture": "fields for cows and sheep",
    "vineyard": "vines", "citrus": "clementine trees", "olive_grove": "olives", "dry_grassland": "parched grassland",
    "wooded_pasture": "bushy grazing land", "nut_trees": "almonds and hazelnuts", "evergreen_oak": "holm oak wood",
    "fallow": "a resting field", "vegetables": "vegetable growing", "sorghum": "sorghum for grain",
    "groundnut": "peanut cultivation", "pulses": "bean field", "savanna_trees": "dry savanna wood",
    "cherry_orchard": "peach and cherry orchard",
}  # fmt: skip
"""Typed names in phrases that training did not use as captions, to test how much phrasing matters."""

MIN_TYPED = 10
"""Classes of a set with fewer samples are left out of that test."""


def accuracy_and_f1(truth: NDArray[np.intp], predicted: NDArray[np.intp]) -> dict[str, float]:
    """Accuracy, and F1 averaged over the classes that occur in `truth`, rounded for a card."""
    matrix = metrics.confusion(truth, predicted, np.union1d(truth, predicted).tolist())
    return {"accuracy": round(metrics.accuracy(truth, predicted), 3), "macro_f1": round(metrics.macro_f1(matrix), 3)}


def _majority(truth: NDArray[np.intp]) -> dict[str, float]:
    nothing = np.empty((len(truth), 0))
    return accuracy_and_f1(truth, baselines.majority(nothing, truth, nothing))


def score_samples(encoder: PixelEncoder, samples: Samples, words: Vocabulary) -> dict[str, Any]:
    """Zero-shot scores of samples in the legends that kinds of land decide, where a set has two classes of these.

    All classes of a legend compete. `cropland` asks of the land cover found only whether it is cropland.
    """
    embeddings = embed_samples(encoder, samples)
    out: dict[str, Any] = {}
    for name in COVER_LEGENDS:
        known = legends.load(name)
        rows = samples.labels[name] > 0
        y = samples.labels[name][rows]
        if len(np.unique(y)) > 1:
            found = nearest_class(embeddings[rows], words.vectors(known), known)
            out[name] = {"samples": len(y), "majority": _majority(y), **accuracy_and_f1(y, found)}
    return out | _cropland(embeddings, samples, words)


def _cropland(embeddings: Tensor, samples: Samples, words: Vocabulary) -> dict[str, Any]:
    """{"cropland": scores}, by region too where the set's groups are regions; {} for a set without both answers."""
    crop = is_cropland(samples)
    rows = crop >= 0
    truth = crop[rows]
    if len(np.unique(truth)) < 2:
        return {}
    known = legends.load("landcover")
    landcover = nearest_class(embeddings[rows], words.vectors(known), known)
    found = (landcover == CROPLAND).astype(np.intp)
    out: dict[str, Any] = {"samples": len(truth), "majority": _majority(truth), **accuracy_and_f1(truth, found)}
    if samples.grouped_by == "region" and samples.groups is not None:
        of = [samples.groups[rows] == g for g in np.unique(samples.groups)]
        out["regions"] = [accuracy_and_f1(truth[r], found[r]) for r in of]
    return {"cropland": out}


def is_cropland(samples: Samples) -> NDArray[np.intp]:
    """(n,) 1: every cover of the sample's kind is cropland; 0: none is; -1: unknown, or neither."""
    landcover = np.array([c.landcover for c in table().cover])
    of_kind = members()
    crop = np.where(of_kind, landcover == CROPLAND, True).all(1)
    none = np.where(of_kind, (landcover != CROPLAND) & (landcover > 0), True).all(1)
    return np.append(np.where(crop, 1, np.where(none, 0, -1)), -1)[kind_of(samples)]


def score_typed(encoder: PixelEncoder, samples: Samples, words: Vocabulary) -> dict[str, Any]:
    """Scores with class names typed in words that training did not use; only the set's classes compete."""
    kinds = [c.key for c in table().cover]
    keys = np.array([*kinds, *[""] * (len(members()) - len(kinds) + 1)])[kind_of(samples)]  # the last: unknown
    present = [k for k in TYPED if (keys == k).sum() >= MIN_TYPED]
    if not present:
        return {"classes": 0, "samples": 0}
    rows = np.isin(keys, present)
    typed = legends.typed(", ".join(TYPED[k] for k in present))
    truth = np.array([present.index(k) + 1 for k in keys[rows]], np.intp)
    embeddings = embed_samples(encoder, samples.rows(rows))
    found = nearest_class(embeddings, words.vectors(typed), typed)
    return {
        "classes": len(present), "samples": len(truth), "majority": _majority(truth), **accuracy_and_f1(truth, found),
    }  # fmt: skip


@dataclass(frozen=True)
class HeldOut:
    """A measured set, an encoder trained without it, and that encoder's cosines for land cover."""

    samples: Samples
    encoder: PixelEncoder
    cosines: Tensor  # (n, 8) with the class vectors of land cover; rows that have a land cover
    truth: Tensor  # (n,) index of the class


def held_out(samples: Samples, encoder: PixelEncoder, words: Vocabulary) -> HeldOut:
    """Prepare a set that the encoder has not seen for `card_metrics`."""
    return HeldOut(samples, encoder, *_landcover(encoder, samples, words))


def _landcover(encoder: PixelEncoder, samples: Samples, words: Vocabulary) -> tuple[Tensor, Tensor]:
    """Cosines (n, 8) and truth (n,) of the samples that have a land cover."""
    known = legends.load("landcover")
    samples = samples.rows(samples.labels["landcover"] > 0)
    position = {c.id: i for i, c in enumerate(known.classes)}
    cosines = embed_samples(encoder, samples) @ words.vectors(known).T
    return cosines, torch.tensor([position[int(t)] for t in samples.labels["landcover"]])


def fit_scale(judged: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The logit scale with the lowest cross-entropy over sets of (cosines (n, K), truth (n,)), weighted equally."""
    scales = np.geomspace(1, 200, 107)
    losses = [np.mean([F.cross_entropy(s * c, y).item() for c, y in judged]) for s in scales]
    return round(float(scales[int(np.argmin(losses))]), 2)


def simulated_scale(encoder: PixelEncoder, samples: Samples, words: Vocabulary) -> float:
    """The logit scale for a run without measured sets, fitted on held-out simulated series."""
    return fit_scale([_landcover(encoder, samples, words)])


def card_metrics(held: Sequence[HeldOut], words: Vocabulary) -> dict[str, Any]:
    """Scores of every held-out set beside the baselines, calibration, and the logit scale fitted on all of them."""
    out = {
        h.samples.name: score_samples(h.encoder, h.samples, words) | {"typed": score_typed(h.encoder, h.samples, words)}
        for h in held
    }
    for h in held:
        others = [o.samples for o in held if o is not h and h.samples.steps is None and o.samples.steps is None]
        for name in COVER_LEGENDS:
            if name in out[h.samples.name]:
                out[h.samples.name][name] |= _baselines(h, others, name)
        told = {
            legend: (found["accuracy"], found["macro_f1"])
            for legend, found in out[h.samples.name].items()
            if found["samples"]
        }
        log.info("left out %s: accuracy, macro F1: %s", h.samples.name, told)
    judged = [h for h in held if "landcover" in out[h.samples.name]]
    if not judged:
        return {"left_out": out}
    return {
        "left_out": out,
        "calibration": calibration(judged),
        "logit_scale": fit_scale([(h.cosines, h.truth) for h in judged]),
    }


def _baselines(held: HeldOut, others: Sequence[Samples], legend: str) -> dict[str, Any]:
    """Baseline scores of a set: a forest trained on the other sets; forest and linear probe trained inside it."""
    samples = held.samples.rows(held.samples.labels[legend] > 0)
    x, y = _features(samples), samples.labels[legend]
    out: dict[str, Any] = {}
    if known := [o.rows(o.labels[legend] > 0) for o in others if (o.labels[legend] > 0).any()]:
        x_other = np.concatenate([_features(o) for o in known])
        y_other = np.concatenate([o.labels[legend] for o in known])
        out["random_forest_on_other_real_sets"] = accuracy_and_f1(y, baselines.forest(x_other, y_other, x))
    groups, _ = samples.folds()
    if baselines.fold_count(groups) < 2:
        return out
    embeddings = embed_samples(held.encoder, samples).numpy()
    inside = "_inside_5_folds_of_fields"
    out["random_forest" + inside] = accuracy_and_f1(y, baselines.cross_validated(baselines.forest, x, y, groups))
    out["linear_probe" + inside] = accuracy_and_f1(
        y, baselines.cross_validated(baselines.linear_probe, embeddings, y, groups)
    )
    return out


def _features(samples: Samples) -> NDArray[np.float32]:
    """Features (n, 120)."""
    return baselines.series_table(samples.dn, samples.valid)


def calibration(held: Sequence[HeldOut]) -> dict[str, Any]:
    """Confidence of land cover beside accuracy; each set's scale is fitted on the other sets only."""
    confidence, right = [], []
    errors: dict[str, float] = {}
    for h in held:
        scale = fit_scale([(o.cosines, o.truth) for o in held if o is not h] or [(h.cosines, h.truth)])
        probability, found = torch.softmax(scale * h.cosines, 1).max(1)
        confidence.append(probability.numpy().astype(float))
        right.append((found == h.truth).numpy())
        errors[h.samples.name] = round(metrics.reliability(confidence[-1], right[-1]).error, 3)
    bins = metrics.reliability(np.concatenate(confidence), np.concatenate(right))
    return {
        "expected_calibration_error": errors | {"all": round(bins.error, 3)},
        "reliability": {
            "samples": bins.count.tolist(),
            "confidence": [None if np.isnan(v) else round(v, 3) for v in bins.confidence.tolist()],
            "accuracy": [None if np.isnan(v) else round(v, 3) for v in bins.accuracy.tolist()],
        },
    }
