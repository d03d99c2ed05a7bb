"""What a few labelled points of a place are worth: classes learned from them, beside the words alone and other methods.

    python benchmarks/points.py --train encoders [--steps 300]       encoders that lack one measured set each
    python benchmarks/points.py --encoders encoders [--data ../shared/data] [--draws 10] [--json FILE]

On real places that the encoder has not seen. By the default weights: the African crop mask (crop or not, by region,
2019; two half-year medians). By encoders trained without the place: Rondonia (nine classes, 2022; half of its cells,
the constants of the learner were chosen on the others), and Flanders, Corsica and East Africa, land cover and crops,
with all classes of the legend competing. Points are drawn at random, or as many of each class
that occurs, from half of the groups (cells of 0.1 degree, fields; points without coordinates are groups of their own);
the points of the other half are scored. Figures are the mean over the draws and its standard error; so is the
difference of macro F1 from that of the words in the same draws, which the JSON has.

    zero-shot     the words alone
    learned       geomap.label.learn on the embeddings, and on the series from 20 points on
    forest        300 trees on the series
    logistic, series; logistic, embeddings      logistic regression, C = 1, on standardised features

The constants of the learner were chosen on simulated places, on the other half of Rondonia, on Corsica and East Africa,
and on the Sahel and southern Africa (RESULTS.md); Flanders had a part in when words are kept and in what points of few
fields tell (on other draws, the same fields), the other regions had none.
"""

from __future__ import annotations

import argparse
import itertools
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from geomap import legends, pipeline, process
from geomap.datasets.measured import READERS
from geomap.datasets.places import by_month_np
from geomap.datasets.samples import Samples
from geomap.datasets.series import embed_samples
from geomap.datasets.worldcereal import fill_b8a_np
from geomap.encode import weights
from geomap.evaluate import baselines, metrics
from geomap.label import towers
from geomap.label.anchors import towards
from geomap.label.learn import Examples, learn
from geomap.label.scatter import Scatter
from geomap.run.learning import scatter_of
from geomap.sentinel2 import BANDS, MONTHS
from geomap.train.captions.run import train_captions
from geomap.train.config import read_captions

COUNTS = (5, 10, 20, 50, 100, 300)
RONDONIA = {
    "Forest": ("forest", "dense rainforest", "tropical forest"),
    "Riparian_Forest": ("riparian forest", "forest along a river", "gallery forest"),
    "Mountainside_Forest": ("mountain forest", "forest on a mountain slope", "hill forest"),
    "Clear_Cut_Bare_Soil": ("bare soil", "cleared land with bare soil", "deforested bare ground"),
    "Clear_Cut_Burned_Area": ("burnt land", "burned clearing", "land after a fire"),
    "Clear_Cut_Vegetation": ("pasture", "cleared land with low vegetation", "regrowth after clearing"),
    "Seasonally_Flooded": ("flooded grassland", "seasonally flooded land", "flood plain"),
    "Wetland": ("wetland", "marsh", "swamp"),
    "Water": ("water", "river", "lake"),
}
"""Prompts of the classes, written before the first figure was seen."""
CROP_MASK = (("natural vegetation, bare land or water", "savanna", "forest", "desert"), ("cropland", "crop field"))
REGION_LEAST = 2000  # points of a region that is scored


@dataclass(frozen=True)
class Place:
    """A labelled set: embeddings and series of n points, and the zero-shot class vectors."""

    name: str
    embeddings: NDArray[np.float32]  # (n, D)
    dn: NDArray[np.uint16]  # (n, 12, 10), 0 where missing
    classes: NDArray[np.intp]
    groups: NDArray[np.intp]
    prompts: NDArray[np.float32]  # (K, D)
    scatter: Scatter | None  # of the weights


def place(
    name: str, loaded: weights.Weights, made: Samples, classes: NDArray[np.intp], prompts: NDArray[np.float32]
) -> Place:
    rows = np.flatnonzero(made.valid.any(1))
    made = made.rows(rows)
    dn = np.where(made.valid[..., None], made.dn, np.uint16(0))
    groups = np.arange(len(rows)) if made.groups is None else made.groups
    vectors = embed_samples(loaded.encoder, made).numpy()
    return Place(name, vectors, dn, classes[rows], groups, prompts, scatter_of(loaded))


def read_rondonia(path: Path) -> tuple[Samples, NDArray[np.intp]]:
    with np.load(path) as made:
        x, month, label, group = made["x"], made["month"], made["label"], made["group"]
    dn, valid = by_month_np(x, month)
    names = list(RONDONIA)
    ids = np.array([f"rondonia/{i}" for i in range(len(x))])
    groups = np.unique(group, return_inverse=True)[1].reshape(-1)
    return Samples("rondonia", ids, dn, valid, groups=groups), np.array([names.index(n) for n in label.tolist()])


def unseen(samples: Samples) -> NDArray[np.intp]:
    """Rows of the half of the groups by which no constant of the learner was chosen."""
    assert samples.groups is not None
    groups = np.unique(samples.groups)
    chosen = np.random.default_rng(2022).permutation(groups)[: len(groups) // 2]
    return np.flatnonzero(~np.isin(samples.groups, chosen))


def read_crop_mask(path: Path) -> tuple[Samples, NDArray[np.intp], NDArray[np.str_]]:
    """Each half-year's median stands in its middle month's neighbours: February to May, August to November."""
    with np.load(path) as made:
        x, crop, region = made["x"].astype(np.float64), made["crop"].astype(np.intp), made["region"]
    x = fill_b8a_np(x)
    dn, valid = np.zeros((len(x), MONTHS, len(BANDS)), np.uint16), np.zeros((len(x), MONTHS), bool)
    for half, months in enumerate((range(1, 5), range(7, 11))):
        for m in months:
            dn[:, m] = x[:, half].clip(0, 65534).round()
            valid[:, m] = (x[:, half] > 0).all(1)
    return Samples("crop_mask", np.array([f"crop/{i}" for i in range(len(x))]), dn, valid), crop, region


def train(out: Path, data: Path, steps: int) -> None:
    """Encoders like the default one, each without one measured set, in `out`/<set>: shorter, of fewer series."""
    config = read_captions(Path(__file__).parents[1] / "pipelines/train_default.yaml")
    for left in config.real:
        real = {name: str(data / path.partition("data/")[2]) for name, path in config.real.items() if name != left}
        small = {"real": real, "steps": steps, "simulated": 100 * steps, "evaluation": None, "test": {}}
        train_captions(config.model_copy(update=small), out / left)


def left_out(encoders: Path, data: Path) -> Iterator[Place]:
    """The measured sets for which `encoders` holds an encoder that was trained without them."""
    config = read_captions(Path(__file__).parents[1] / "pipelines/train_default.yaml")
    for name in (name for name in config.real if (encoders / name).is_dir()):
        path, loaded = config.real[name], weights.load_weights(str(encoders / name))
        if name == "rondonia":
            yield rondonia(loaded, data)
            continue
        samples = READERS[name](data / path.partition("data/")[2])
        for legend in (legends.load(known) for known in samples.labelled):
            ids = np.array([c.id for c in legend.classes])
            some = np.flatnonzero(np.isin(samples.labels[legend.name], ids))
            row = np.argsort(ids)[np.searchsorted(np.sort(ids), samples.labels[legend.name][some])]
            prompts = pipeline.vectors_of(legend, loaded).numpy()
            yield place(f"{name} {legend.name}", loaded, samples.rows(some), row, prompts)


def class_vectors(loaded: weights.Weights, prompts: tuple[tuple[str, ...], ...]) -> NDArray[np.float32]:
    """(K, D) mean vectors of the prompts of K classes."""
    tower = towers.tower(loaded.card.text_space)
    of = [F.normalize(tower.encode(list(p)).mean(0), dim=0) for p in prompts]
    vectors = torch.stack(of)
    return (vectors if loaded.anchors is None else towards(vectors, loaded.anchors)).numpy()


def rondonia(loaded: weights.Weights, data: Path) -> Place:
    """The unseen half of Rondonia, with all nine of its labels."""
    samples, classes = read_rondonia(data / "points/rondonia_2022.npz")
    rows, vectors = unseen(samples), class_vectors(loaded, tuple(RONDONIA.values()))
    return place("rondonia", loaded, samples.rows(rows), classes[rows], vectors)


def places(loaded: weights.Weights, data: Path) -> Iterator[Place]:
    """Those that the default weights have not seen."""
    samples, crop, region = read_crop_mask(data / "points/africa_crop_mask_2019.npz")
    rng = np.random.default_rng(0)
    for name in np.unique(region).tolist():
        rows = np.flatnonzero(region == name)
        if len(rows) >= REGION_LEAST:
            rows = np.sort(rng.choice(rows, REGION_LEAST, replace=False))
            yield place(f"crops {name}", loaded, samples.rows(rows), crop[rows], class_vectors(loaded, CROP_MASK))


def drawn(
    rng: np.random.Generator, found: Place, count: int, by_class: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows to learn from, and rows to score: the points of other groups."""
    groups = np.unique(found.groups)
    half = np.isin(found.groups, rng.permutation(groups)[: len(groups) // 2])
    rows, rest = rng.permutation(np.flatnonzero(half)), np.flatnonzero(~half)
    if not by_class:
        return rows[:count], rest
    each = max(count // len(np.unique(found.classes)), 1)
    parts = [rows[found.classes[rows] == k][:each] for k in range(len(found.prompts))]
    return np.concatenate(parts), rest


def answers(found: Place, rows: NDArray[np.intp], rest: NDArray[np.intp], scale: float) -> Iterator[tuple[str, Any]]:
    """(method, class of each of `rest`, confidence or None)."""
    zero = scale * found.embeddings[rest] @ found.prompts.T
    yield "zero-shot", zero
    y, months = found.classes[rows], tuple(range(MONTHS))
    examples = Examples(found.embeddings[rows], y, found.groups[rows], found.dn[rows], months)
    made = learn(examples, found.prompts, scale, found.scatter)
    yield "learned", (made.with_series or made.head).logits(found.embeddings[rest], found.dn[rest])
    table = baselines.series_table(found.dn, (found.dn > 0).all(2))
    yield "forest", baselines.forest(table[rows], y, table[rest])
    yield "logistic, series", baselines.linear_probe(table[rows], y, table[rest])
    yield "logistic, embeddings", baselines.linear_probe(found.embeddings[rows], y, found.embeddings[rest])


def figures(truth: NDArray[np.intp], answer: NDArray[Any], k: int) -> tuple[float, float, float]:
    """Accuracy, macro F1, calibration error (NaN without confidence)."""
    error = float("nan")
    if answer.ndim == 2:
        e = np.exp(answer - answer.max(1, keepdims=True))
        answer, confidence = answer.argmax(1), (e / e.sum(1, keepdims=True)).max(1)
        error = metrics.reliability(confidence, answer == truth).error
    return metrics.accuracy(truth, answer), metrics.macro_f1(metrics.confusion(truth, answer, list(range(k)))), error


def measure(found: Place, scale: float, draws: int, counts: list[int]) -> Iterator[dict[str, Any]]:
    for by_class in (False, True):
        for count in counts:
            values: dict[str, list[tuple[float, float, float]]] = {}
            for draw in range(draws):
                rng = np.random.default_rng([draw, count])
                rows, rest = drawn(rng, found, count, by_class)
                for method, answer in answers(found, rows, rest, scale):
                    values.setdefault(method, []).append(figures(found.classes[rest], answer, len(found.prompts)))
            words = np.array(values["zero-shot"])[:, 1:2]
            for method, v in values.items():
                drawn_ones = np.hstack([v, np.array(v)[:, 1:2] - words])
                mean, error = drawn_ones.mean(axis=0), drawn_ones.std(axis=0, ddof=1) / np.sqrt(len(v))
                names = ("accuracy", "macro_f1", "calibration_error", "macro_f1_above_words")
                of = zip(names, mean, error, strict=True)
                line: dict[str, Any] = {"place": found.name, "points": count, "by_class": by_class, "method": method}
                yield line | {k: [round(float(m), 4), round(float(s), 4)] for k, m, s in of}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--train", type=Path, help="train the encoders without each measured set there, and stop")
    parser.add_argument("--steps", type=int, default=300, help="of each of these")
    parser.add_argument("--encoders", type=Path, help="where they are: measure Flanders, Corsica and East Africa too")
    parser.add_argument("--draws", type=int, default=10, help="of two or more")
    parser.add_argument("--place", action="append", help="a place by its name; all if not given; repeatable")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="numbers of points")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if args.train:
        train(args.train, args.data.resolve(), args.steps)
        return
    loaded, result = weights.load_weights("default"), []
    measured = left_out(args.encoders, args.data) if args.encoders else ()
    with process.threads(1):
        for one in itertools.chain(measured, places(loaded, args.data)):
            if args.place and one.name not in args.place:
                continue
            for line in measure(one, loaded.card.logit_scale, args.draws, args.counts):
                print(*line.values(), flush=True)
                result.append(line)
                if args.json:
                    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
