"""What a class "None of these" costs and what it catches: ways to make one, on simulated and real labelled series.

    python benchmarks/others.py [--data ../shared/data] [--json FILE]

Two or three of a set's kinds of land are typed (all choices, or 60 at random); the other kinds are the land that nobody
typed. Figures are means over the choices:

    lost     of the pixels that are labelled right without the class, the share that becomes "none of these"
    caught   of the pixels of kinds that were not typed, the share that becomes "none of these"
    wrong    of all pixels that are labelled wrong without the class, the share that becomes "none of these"

Ways: the nearest of a list of other vectors wins over the typed classes (vectors nearer to a typed class than a cosine
are left out), or the best cosine is below a threshold. The default weights were trained with simulated series and on
Flanders, Corsica and East Africa, by which the way was chosen; Rondonia is a place that they never saw, and it chose
nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from geomap import legends
from geomap.datasets.measured import READERS
from geomap.datasets.samples import COVER, Samples
from geomap.datasets.series import embed_samples
from geomap.datasets.simulated import simulated_samples
from geomap.encode import weights
from geomap.label import anchors, towers
from geomap.simulate.covers import table

FILES = {
    "flanders": "patch_belgium_2019/series.npz",
    "corsica": "points/corsica_2022.parquet",
    "east_africa": "points/east_africa_2017.parquet",
}
RONDONIA = {
    "Riparian_Forest": "forest",
    "Forest": "forest",
    "Mountainside_Forest": "forest",
    "Clear_Cut_Bare_Soil": "bare soil",
    "Clear_Cut_Burned_Area": "burnt land",
    "Clear_Cut_Vegetation": "pasture",
    "Seasonally_Flooded": "flooded grassland",
    "Wetland": "wetland",
    "Water": "water",
}
LEAST = 10  # samples of a kind that is typed
CHOICES = 60
GENERIC = ("something else", "another kind of land", "other land cover", "none of these")


@dataclass(frozen=True)
class Labelled:
    """Embedded series of one set, the name of each one's kind of land, and the choices of kinds that are typed."""

    embeddings: Tensor
    truth: NDArray[np.str_]
    choices: tuple[tuple[str, ...], ...]


def labelled(encoder: torch.nn.Module, samples: Samples, truth: NDArray[np.str_]) -> Labelled:
    some = samples.valid.any(1)
    kinds, counts = np.unique(truth[some], return_counts=True)
    names = [str(kind) for kind in kinds[counts >= LEAST]]
    choices = list(combinations(names, 3 if len(names) > 5 else 2))
    if len(choices) > CHOICES:
        rng = np.random.default_rng(1)
        choices = [tuple(map(str, rng.choice(names, 3, replace=False))) for _ in range(CHOICES)]
    return Labelled(embed_samples(encoder, samples.rows(some)), truth[some], tuple(choices))  # type: ignore[arg-type]


def read_rondonia(path: Path) -> tuple[Samples, NDArray[np.str_]]:
    with np.load(path) as made:
        x, month, label = made["x"], made["month"], made["label"]
    dn, valid = np.zeros((len(x), 12, 10), np.uint16), np.zeros((len(x), 12), bool)
    for step in range(x.shape[1]):
        rows = np.flatnonzero((x[:, step] > 0).all(1))
        at = month[rows, step] - 1
        dn[rows, at], valid[rows, at] = x[rows, step], True
    ids = np.array([f"rondonia/{i}" for i in range(len(x))])
    return Samples("rondonia", ids, dn, valid), np.array([RONDONIA[str(name)] for name in label])


def read_sets(encoder: torch.nn.Module, data: Path) -> dict[str, Labelled]:
    first = np.array([cover.names[0] for cover in table().cover])
    read = {"simulated": simulated_samples(np.random.default_rng(7), 12_000)}
    read |= {name: READERS[name](data / file) for name, file in FILES.items()}
    sets = {name: labelled(encoder, samples, first[samples.labels[COVER] - 1]) for name, samples in read.items()}
    return sets | {"rondonia": labelled(encoder, *read_rondonia(data / "points/rondonia_2022.npz"))}


def typed_vectors(names: list[str], tower: towers.TextTower, known: Tensor | None) -> Tensor:
    raw = torch.cat([towers.class_vectors(legends.typed(f"{name},water body"), tower)[:1] for name in names])
    return raw if known is None else anchors.towards(raw, known)


def tried(found: Labelled, of: Mapping[str, Tensor], land: Tensor | None, bound: float) -> dict[str, float]:
    figures = []
    near_land = None if land is None else found.embeddings @ land.T
    for choice in found.choices:
        own = torch.stack([of[name] for name in choice])
        best, index = (found.embeddings @ own.T).max(1)
        right = np.array(choice)[index.numpy()] == found.truth
        if land is None or near_land is None:
            others = (best < bound).numpy()
        else:
            far = (land @ own.T).amax(1) <= bound
            others = (near_land[:, far].amax(1) > best).numpy() if far.any() else np.zeros(len(right), bool)
        untyped = ~np.isin(found.truth, choice)
        figures.append([others[rows].mean() if rows.any() else np.nan for rows in (right, untyped, ~right)])
    return dict(zip(("lost", "caught", "wrong"), np.nanmean(figures, axis=0).round(3).tolist(), strict=True))


def ways(tower: towers.TextTower, stored: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor | None, float]]:
    land = stored[legends.load("landcover").digest]
    crops = stored[legends.load("crops").digest]
    covers = torch.stack(
        [F.normalize(tower.encode(list(cover.names)).mean(0), dim=0) for cover in table().cover]
    )  # fmt: skip
    generic = F.normalize(tower.encode(list(GENERIC)).mean(0, keepdim=True), dim=-1)
    for bound in (0.6, 0.7, 0.8, 1.1):
        yield f"land cover, cosine up to {bound}", land, bound
    for bound in (0.6, 0.7):
        yield f"land cover and crops, cosine up to {bound}", torch.cat([land, crops]), bound
        yield f"{len(covers)} covers, cosine up to {bound}", covers, bound
    yield "generic words", generic, 1.1
    for bound in (0.10, 0.15):
        yield f"best cosine below {bound}", None, bound


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    loaded = weights.load_weights("default")
    tower = towers.tower(loaded.card.text_space)
    sets = read_sets(loaded.encoder, args.data)
    names = sorted({name for found in sets.values() for choice in found.choices for name in choice})
    of = dict(zip(names, typed_vectors(names, tower, loaded.anchors), strict=True))
    result = {}
    for name, land, bound in ways(tower, loaded.class_vectors):
        result[name] = {key: tried(found, of, land, bound) for key, found in sets.items()}
        print(name, result[name], flush=True)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
