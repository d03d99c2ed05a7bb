"""Measuring an encoder: zero-shot labels by the legends' prompts, beside majority, forest and probe."""

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
from geomap.datasets.worldcereal import RealSet
from geomap.encode.model import PixelEncoder
from geomap.evaluate import baselines, metrics
from geomap.label import towers
from geomap.simulate.covers import table
from geomap.train import samples
from geomap.train.captions import cover_index

log = logging.getLogger(__name__)

LEGENDS: Final = {"landcover": "landcover", "crops": "crop"}
"""Legends that the real sets are scored by, and the attribute of a cover with the class id."""

TYPED: Final = {
    "winter_wheat": "autumn wheat", "maize": "corn field", "winter_barley": "autumn barley", "potato": "potato ridges",
    "sugar_beet": "beet for the sugar factory", "spring_barley": "barley sown in March", "pasture": "grazing land",
    "vineyard": "vines", "citrus": "clementine trees", "olive_grove": "olives", "dry_grassland": "parched grassland",
    "wooded_pasture": "bushy grazing land", "nut_trees": "almonds and hazelnuts", "evergreen_oak": "holm oak wood",
    "fallow": "a resting field", "vegetables": "vegetable growing", "sorghum": "sorghum for grain",
    "groundnut": "peanut cultivation", "pulses": "bean field", "savanna_trees": "dry savanna wood",
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


def scores(truth: NDArray[np.intp], predicted: NDArray[np.intp]) -> dict[str, float]:
    """Accuracy, and F1 averaged over the classes that occur in `truth`, rounded for a card."""
    matrix = metrics.confusion(truth, predicted, np.union1d(truth, predicted).tolist())
    return {"accuracy": round(metrics.accuracy(truth, predicted), 3), "macro_f1": round(metrics.macro_f1(matrix), 3)}


def _majority(truth: NDArray[np.intp]) -> dict[str, float]:
    nothing = np.empty((len(truth), 0))
    return scores(truth, baselines.majority(nothing, truth, nothing))


def truth_of(cover: NDArray[np.intp], attribute: str) -> NDArray[np.intp]:
    """Class id (n,) of covers in the legend that `attribute` belongs to, 0 where it has none."""
    return np.array([getattr(c, attribute) for c in table().cover], np.intp)[cover]


def zero_shot(embeddings: Tensor, vectors: Tensor, ids: Sequence[int]) -> NDArray[np.intp]:
    """Id (n,) of the nearest of all class vectors (K, D)."""
    nearest: NDArray[np.intp] = np.asarray(ids, np.intp)[(embeddings @ vectors.T).argmax(1).numpy()]
    return nearest


def score(encoder: PixelEncoder, pool: samples.Pool, tower: towers.TextTower) -> dict[str, Any]:
    """Zero-shot scores of a pool at every legend of LEGENDS, the whole legend competing."""
    embeddings = embed(encoder, pool.dn, pool.valid)
    out: dict[str, Any] = {}
    for name, attribute in LEGENDS.items():
        known = legends.load(name)
        truth = truth_of(pool.cover, attribute)
        rows = truth > 0
        if rows.any():
            y = truth[rows]
            found = zero_shot(embeddings[rows], towers.class_vectors(known, tower), [c.id for c in known.classes])
            out[name] = {"samples": len(y), "majority": _majority(y), **scores(y, found)}
    return out


def score_typed(encoder: PixelEncoder, pool: samples.Pool, tower: towers.TextTower) -> dict[str, Any]:
    """Scores with classes typed in words that training did not use; the set's own classes compete."""
    keys = np.array([c.key for c in table().cover])[pool.cover]
    present = [k for k in TYPED if (keys == k).sum() >= MIN_TYPED]
    rows = np.isin(keys, present)
    typed = legends.typed(", ".join(TYPED[k] for k in present))
    truth = np.array([present.index(k) + 1 for k in keys[rows]], np.intp)
    found = zero_shot(
        embed(encoder, pool.dn[rows], pool.valid[rows]),
        towers.class_vectors(typed, tower),
        [c.id for c in typed.classes],
    )
    majority = _majority(truth)
    return {"classes": len(present), "samples": len(truth), "majority": majority, **scores(truth, found)}


@dataclass(frozen=True)
class LeftOut:
    """A real set, the encoder that was trained without it, and what that encoder thinks of its land cover."""

    real: RealSet
    pool: samples.Pool
    encoder: PixelEncoder
    cosines: Tensor  # (n, 8) with land cover's class vectors, of the rows that have a land cover
    truth: Tensor  # (n,) index of the class


def judge(real: RealSet, encoder: PixelEncoder, tower: towers.TextTower) -> LeftOut:
    """A left-out set as `card_metrics` takes it."""
    pool = samples.real_pool(real)
    return LeftOut(real, pool, encoder, *_landcover(encoder, pool, tower))


def _landcover(encoder: PixelEncoder, pool: samples.Pool, tower: towers.TextTower) -> tuple[Tensor, Tensor]:
    """Cosines (n, 8) and truth (n,) of the rows of a pool that have a land cover."""
    known = legends.load("landcover")
    truth = truth_of(pool.cover, "landcover")
    rows = truth > 0
    position = {c.id: i for i, c in enumerate(known.classes)}
    cosines = embed(encoder, pool.dn[rows], pool.valid[rows]) @ towers.class_vectors(known, tower).T
    return cosines, torch.tensor([position[int(t)] for t in truth[rows]])


def fit_scale(judged: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The logit scale with the least cross-entropy over (cosines (n, K), truth (n,)), each set counting the same."""
    scales = np.geomspace(1, 200, 107)
    losses = [np.mean([F.cross_entropy(s * c, y).item() for c, y in judged]) for s in scales]
    return round(float(scales[int(np.argmin(losses))]), 2)


def simulated_scale(encoder: PixelEncoder, pool: samples.Pool, tower: towers.TextTower) -> float:
    """The logit scale of a run without real sets: fitted on held-out simulated series."""
    return fit_scale([_landcover(encoder, pool, tower)])


def card_metrics(left: Sequence[LeftOut], tower: towers.TextTower) -> dict[str, Any]:
    """Scores of every left-out set beside the baselines, calibration, and the logit scale fitted on all of them."""
    out = {
        o.real.name: score(o.encoder, o.pool, tower) | {"typed": score_typed(o.encoder, o.pool, tower)} for o in left
    }
    for o in left:
        others = [v.real for v in left if v is not o]
        for name, attribute in LEGENDS.items():
            out[o.real.name][name] |= _baselines(o, others, attribute)
        log.info("left out %s: %s", o.real.name, out[o.real.name])
    return {
        "left_out": out,
        "calibration": calibration(left),
        "logit_scale": fit_scale([(o.cosines, o.truth) for o in left]),
    }


def _baselines(o: LeftOut, others: Sequence[RealSet], attribute: str) -> dict[str, Any]:
    """What others make of the set: a forest trained on the other sets; forest and linear probe trained inside it."""
    x, y, rows = _table(o.real, attribute)
    out: dict[str, Any] = {}
    if others:
        x_other, y_other, _ = (
            np.concatenate(part) for part in zip(*[_table(r, attribute) for r in others], strict=True)
        )
        out["random_forest_on_other_real_sets"] = scores(y, baselines.forest(x_other, y_other, x))
    field = o.real.field[rows]
    embeddings = embed(o.encoder, o.pool.dn[rows], o.pool.valid[rows]).numpy()
    inside = "_inside_5_folds_of_fields"
    out["random_forest" + inside] = scores(y, baselines.cross_validated(baselines.forest, x, y, field))
    out["linear_probe" + inside] = scores(y, baselines.cross_validated(baselines.probe, embeddings, y, field))
    return out


def _table(real: RealSet, attribute: str) -> tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.bool_]]:
    """Features (n, 120) and class ids (n,) of the rows (of the set) that have a class."""
    truth = truth_of(cover_index(real.cover), attribute)
    rows = truth > 0
    return baselines.series_table(real.dn[rows], real.valid[rows]), truth[rows], rows


def calibration(left: Sequence[LeftOut]) -> dict[str, Any]:
    """Confidence of land cover against accuracy; each set's scale is fitted on the other sets, so that it is unseen."""
    confidence, right = [], []
    errors: dict[str, float] = {}
    for o in left:
        scale = fit_scale([(v.cosines, v.truth) for v in left if v is not o] or [(o.cosines, o.truth)])
        probability, found = torch.softmax(scale * o.cosines, 1).max(1)
        confidence.append(probability.numpy().astype(float))
        right.append((found == o.truth).numpy())
        errors[o.real.name] = round(metrics.reliability(confidence[-1], right[-1]).error, 3)
    bins = metrics.reliability(np.concatenate(confidence), np.concatenate(right))
    return {
        "expected_calibration_error": errors | {"all": round(bins.error, 3)},
        "reliability": {
            "samples": bins.count.tolist(),
            "confidence": [None if np.isnan(v) else round(v, 3) for v in bins.confidence.tolist()],
            "accuracy": [None if np.isnan(v) else round(v, 3) for v in bins.accuracy.tolist()],
        },
    }
