"""Measuring an encoder: zero-shot labels by the legends' prompts, beside a majority vote and a random forest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from geomap import legend, text
from geomap.model import PixelEncoder
from geomap.simulate.covers import table
from geomap.train import samples
from geomap.train.captions import cover_index
from geomap.train.real import RealSet

log = logging.getLogger(__name__)

LEGENDS: Final = {"landcover": "landcover", "crops": "crop"}
"""Legends that the real sets are scored by, and the attribute of a cover with the class id."""

TYPED: Final = {
    "winter_wheat": "autumn wheat", "maize": "corn field", "winter_barley": "autumn barley", "potato": "potato ridges",
    "sugar_beet": "beet for the sugar factory", "spring_barley": "barley sown in March", "pasture": "grazing land",
    "vineyard": "vines", "citrus": "clementine trees", "olive_grove": "olives", "dry_grassland": "parched grassland",
    "wooded_pasture": "bushy grazing land", "nut_trees": "almonds and hazelnuts", "evergreen_oak": "holm oak wood",
    "fallow": "a resting field", "vegetables": "vegetable growing", "sorghum": "sorghum crop",
    "groundnut": "peanut crop", "pulses": "bean field", "savanna_trees": "dry savanna wood",
    "cherry_orchard": "peach and cherry orchard",
}  # fmt: skip
"""Typed names in phrases that are no caption of the training, to test how phrasing matters."""

MIN_TYPED = 10
"""Classes of a set with fewer samples are left out of that test."""


@torch.inference_mode()
def embed(encoder: PixelEncoder, dn: NDArray[np.uint16], valid: NDArray[np.bool_], batch: int = 2048) -> Tensor:
    """Unit embeddings (n, D) of series (n, 12, 10), month 0 January."""
    months = torch.arange(12)
    rows = range(0, len(dn), batch)
    parts = [
        encoder(torch.from_numpy(dn[i : i + batch].astype(np.float32)), torch.from_numpy(valid[i : i + batch]), months)
        for i in rows
    ]
    return torch.cat(parts)


def accuracy(truth: NDArray[np.intp], predicted: NDArray[np.intp]) -> dict[str, float]:
    """Accuracy, and F1 averaged over the classes that occur in `truth`."""
    scores = []
    for c in np.unique(truth):
        hit = ((truth == c) & (predicted == c)).sum()
        scores.append(2 * hit / ((truth == c).sum() + (predicted == c).sum()))
    return {"accuracy": round(float((truth == predicted).mean()), 3), "macro_f1": round(float(np.mean(scores)), 3)}


def truth_of(cover: NDArray[np.intp], attribute: str) -> NDArray[np.intp]:
    """Class id (n,) of covers in the legend that `attribute` belongs to, 0 where it has none."""
    return np.array([getattr(c, attribute) for c in table().cover], np.intp)[cover]


def zero_shot(embeddings: Tensor, vectors: Tensor, ids: Sequence[int]) -> NDArray[np.intp]:
    """Id (n,) of the nearest of all class vectors (K, D)."""
    nearest: NDArray[np.intp] = np.asarray(ids, np.intp)[(embeddings @ vectors.T).argmax(1).numpy()]
    return nearest


def score(encoder: PixelEncoder, pool: samples.Pool, tower: text.TextTower) -> dict[str, Any]:
    """Zero-shot scores of a pool at every legend of LEGENDS, the whole legend competing."""
    embeddings = embed(encoder, pool.dn, pool.valid)
    out: dict[str, Any] = {}
    for name, attribute in LEGENDS.items():
        known = legend.load(name)
        truth = truth_of(pool.cover, attribute)
        rows = truth > 0
        if rows.any():
            found = zero_shot(embeddings[rows], text.class_vectors(known, tower), [c.id for c in known.classes])
            majority = np.bincount(truth[rows]).max() / rows.sum()
            out[name] = {"samples": int(rows.sum()), "majority": round(float(majority), 3)} | accuracy(
                truth[rows], found
            )
    return out


def score_typed(encoder: PixelEncoder, pool: samples.Pool, tower: text.TextTower) -> dict[str, Any]:
    """Scores with classes typed in words that training did not use; the set's own classes compete."""
    keys = np.array([c.key for c in table().cover])[pool.cover]
    present = [k for k in TYPED if (keys == k).sum() >= MIN_TYPED]
    rows = np.isin(keys, present)
    typed = legend.typed(", ".join(TYPED[k] for k in present))
    truth = np.array([present.index(k) + 1 for k in keys[rows]], np.intp)
    found = zero_shot(
        embed(encoder, pool.dn[rows], pool.valid[rows]), text.class_vectors(typed, tower), [c.id for c in typed.classes]
    )
    majority = np.bincount(truth).max() / len(truth)
    return {"classes": len(present), "samples": len(truth), "majority": round(float(majority), 3)} | accuracy(
        truth, found
    )


def fit_scale(encoders: Sequence[tuple[PixelEncoder, samples.Pool]], tower: text.TextTower) -> float:
    """The logit scale with the least cross-entropy over land cover, each pool counting the same."""
    known = legend.load("landcover")
    vectors = text.class_vectors(known, tower)
    cosines, labels = [], []
    for encoder, pool in encoders:
        truth = truth_of(pool.cover, "landcover")
        cosines.append(embed(encoder, pool.dn[truth > 0], pool.valid[truth > 0]) @ vectors.T)
        position = {c.id: i for i, c in enumerate(known.classes)}
        labels.append(torch.tensor([position[int(t)] for t in truth[truth > 0]]))
    scales = np.geomspace(1, 200, 107)
    losses = [np.mean([F.cross_entropy(s * c, y).item() for c, y in zip(cosines, labels, strict=True)]) for s in scales]
    return round(float(scales[int(np.argmin(losses))]), 2)


def leave_one_out(
    real: Sequence[RealSet],
    fit_without: Callable[[str, Sequence[RealSet]], PixelEncoder],
    tower: text.TextTower,
) -> dict[str, Any]:
    """Scores of every real set by an encoder that was trained without it, and the logit scale fitted on all of them."""
    out: dict[str, Any] = {}
    fitted = []
    for left in real:
        others = [r for r in real if r is not left]
        encoder = fit_without(left.name, others)
        pool = samples.real_pool(left)
        out[left.name] = score(encoder, pool, tower) | {"typed": score_typed(encoder, pool, tower)}
        for name, attribute in LEGENDS.items():
            out[left.name][name]["random_forest_on_other_real_sets"] = random_forest(others, left, attribute)
        log.info("left out %s: %s", left.name, out[left.name])
        fitted.append((encoder, pool))
    return {"left_out": out, "logit_scale": fit_scale(fitted, tower)}


def random_forest(train: Sequence[RealSet], test: RealSet, attribute: str) -> dict[str, float]:
    """Scores of a forest of 300 trees on the bands of all months (a missing month takes the series' mean)."""
    from sklearn.ensemble import RandomForestClassifier  # in the extra `train`

    x, y = (np.concatenate(part) for part in zip(*[_table(r, attribute) for r in train], strict=True))
    forest = RandomForestClassifier(300, random_state=0, class_weight="balanced_subsample").fit(x, y)
    features, truth = _table(test, attribute)
    return accuracy(truth, forest.predict(features))


def _table(real: RealSet, attribute: str) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    truth = truth_of(cover_index(real.cover), attribute)
    rows = truth > 0
    weight = real.valid[rows][..., None]
    x = real.dn[rows].astype(np.float32)
    mean = (x * weight).sum(1, keepdims=True) / np.maximum(weight.sum(1, keepdims=True), 1)
    return np.where(weight, x, mean).reshape(len(x), -1).astype(np.float32), truth[rows]
