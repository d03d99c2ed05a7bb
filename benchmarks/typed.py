"""What typed words are worth: phrases that are no captions, beside the captions' own names, with and without anchors.

    python benchmarks/typed.py [--weights default] [--encoders DIR] [--sweep] [--data ../shared/data] [--json FILE]

    phrases     simulated series of kinds of land that have one of PHRASES; all of these compete
    land cover  four ways to word the eight classes of land cover (WORDINGS), on simulated and on measured series
    typed       measured series, in the words of train.captions.scores.TYPED

The constants of label/anchors.py were chosen by the first two on simulated series; --sweep prints what was compared.
The default weights were trained on the measured sets; --encoders names a folder with an encoder for each that has not
seen it (benchmarks/points.py --train), which is scored on that set. Accuracy / macro F1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomap import legends, process
from geomap.datasets.kinds import members
from geomap.datasets.measured import READERS
from geomap.datasets.samples import Samples
from geomap.datasets.series import embed_samples
from geomap.datasets.simulated import simulated_samples
from geomap.encode import weights
from geomap.encode.model import PixelEncoder
from geomap.label import anchors, towers
from geomap.simulate.covers import table
from geomap.train.captions.pool import kind_of
from geomap.train.captions.scores import MIN_TYPED, TYPED, accuracy_and_f1
from geomap.train.config import read_captions

PHRASES = {
    "winter_wheat": "bread wheat", "spring_barley": "brewers' barley sown after the frost", "rye": "rye for bread",
    "oats": "oats for porridge", "maize": "sweetcorn and feed corn", "rice": "inundated rice terraces and paddies",
    "rapeseed": "yellow rape flowers for oil", "sunflower": "sunflower heads for oil", "soya": "tofu beans",
    "potato": "spuds", "sugar_beet": "roots for sugar", "cassava": "manioc",
    "cotton": "white cotton bolls ready for picking", "sugarcane": "tall cane for sugar mills",
    "tobacco": "smoking leaf", "tomatoes": "ketchup tomatoes", "vegetables": "cabbage patch",
    "strawberries": "berries under tunnels", "lucerne": "lucerne hay", "clover": "clover ley",
    "vineyard": "wine growing", "olive_grove": "trees for olive oil", "fruit_orchard": "rows of fruit trees",
    "citrus": "lemons and oranges", "banana": "banana growing", "oil_palm": "palms for oil",
    "date_palms": "palm trees of an oasis", "rubber": "latex trees", "broadleaved_forest": "beech wood",
    "coniferous_forest": "fir and spruce trees", "eucalyptus": "gum trees", "tropical_forest": "Amazon jungle",
    "savanna_trees": "trees scattered in savannah", "maquis": "Mediterranean brushwood", "heath": "purple heather",
    "meadow": "grass cut for hay", "pasture": "land where cattle graze", "bare_soil": "naked earth",
    "rock": "stony mountainside", "sand": "dunes by the shore", "quarry": "opencast mining", "town": "housing estate",
    "industry": "factories", "greenhouse": "glasshouse cultivation", "lake": "pond", "river": "stream bed with water",
    "sea": "the ocean", "snow": "ice sheet", "peat_bog": "boggy peat", "marsh": "reeds in a swamp",
    "salt_flat": "dried salt lake", "mangrove": "mangrove swamp", "larch_forest": "larches",
    "alpine_grass": "high mountain grass", "almond_orchard": "almond growing", "sorghum_grain": "sorghum plants",
    "millet_sahel": "millet fields of farmers", "groundnut": "monkey nuts",
}  # fmt: skip
"""Covers and phrases for them, written before the first figure was seen; none is a caption."""

WORDINGS = (
    ("buildings", "cropland", "forest", "bushes", "grassland", "bare ground", "water", "wetland"),
    ("houses and streets", "arable fields", "woods", "scrub", "grassy land", "barren land", "lakes and rivers",
     "marshes and bogs"),
    ("towns", "farmland with crops", "trees", "shrubs", "meadows and pastures", "rocks and sand", "water bodies",
     "swamps"),
    ("built-up area", "fields", "woodland", "heath and scrub", "pasture", "bare soil", "open water", "reeds and mire"),
)  # fmt: skip
"""Words for the classes of land cover, by their ids 1..8."""

SIMULATED = 4000
SWEEP = tuple(product((20.0, 40.0, 60.0), (0.3, 0.5, 0.6, 0.7), (0.0, 0.6, 0.65)))
CHOSEN = anchors.SHARPNESS, anchors.SHARE, anchors.NEAR
Place = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Question:
    """Embedded series (n, D), the class of each, and the vectors (K, D) of the words for the classes 0..K-1."""

    name: str
    embeddings: Tensor
    truth: NDArray[np.intp]
    words: Tensor

    def score(self, place: Place) -> tuple[float, float]:
        found = (self.embeddings @ place(self.words).T).argmax(1).numpy()
        return tuple(accuracy_and_f1(self.truth, found).values())  # type: ignore[return-value]


def vectors(words: Sequence[str], tower: towers.TextTower) -> Tensor:
    return towers.class_vectors(legends.typed(", ".join(words)), tower)


def by_cover(
    name: str, encoder: PixelEncoder, samples: Samples, of: dict[str, str], least: int, tower: towers.TextTower
) -> Iterator[Question]:
    """The phrases of covers; and, as "names", the first name of each cover."""
    covers = {c.key: c.names[0] for c in table().cover}
    keys = np.array([*covers, *[""] * (len(members()) - len(covers) + 1)])[kind_of(samples)]
    present = [key for key in of if (keys == key).sum() >= least]
    if len(present) < 2:
        return
    rows = np.isin(keys, present)
    truth = np.array([present.index(key) for key in keys[rows].tolist()], np.intp)
    embeddings = embed_samples(encoder, samples.rows(rows))
    for what, words in (("", of), (", names", covers)):
        own = torch.cat([vectors((words[key], "water"), tower)[:1] for key in present])  # names may be the same
        yield Question(f"{name}{what}", embeddings, truth, own)


def by_landcover(
    name: str, encoder: PixelEncoder, samples: Samples, tower: towers.TextTower, every: bool
) -> Iterator[Question]:
    """Each of WORDINGS; of a measured set, only the classes that it has compete."""
    rows = samples.labels["landcover"] > 0
    ids = samples.labels["landcover"][rows]
    present = np.arange(1, 9) if every else np.unique(ids)
    embeddings = embed_samples(encoder, samples.rows(rows))
    for number, words in enumerate(WORDINGS, start=1):
        truth = np.searchsorted(present, ids)
        yield Question(f"{name}, wording {number}", embeddings, truth, vectors(words, tower)[present - 1])


def questions(
    label: str, encoder: PixelEncoder, sets: Sequence[Samples], tower: towers.TextTower, made: Samples
) -> Iterator[Question]:
    yield from by_cover(f"{label}: phrases", encoder, made, PHRASES, 5, tower)
    yield from by_landcover(f"{label}: simulated", encoder, made, tower, every=True)
    for samples in sets:
        yield from by_landcover(f"{label}: {samples.name}", encoder, samples, tower, every=False)
        yield from by_cover(f"{label}: {samples.name}, typed", encoder, samples, TYPED, MIN_TYPED, tower)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--encoders", type=Path, help="a folder for each measured set, with weights that lack it")
    parser.add_argument("--sweep", action="store_true", help="other constants as well, on simulated series")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    real = read_captions(Path(__file__).parents[1] / "pipelines/train_default.yaml").real
    sets = {n: READERS[n](args.data / path.partition("data/")[2]).usable() for n, path in real.items()}
    loaded = weights.load_weights(args.weights)
    tower, known = towers.tower(loaded.card.text_space), loaded.anchors
    if known is None:
        raise SystemExit(f"the weights {args.weights} have no anchors")
    made = simulated_samples(np.random.default_rng([5, 1]), SIMULATED)
    result: dict[str, dict[str, tuple[float, float]]] = {}
    with process.threads(1):
        asked = [*questions(args.weights, loaded.encoder, [*sets.values()], tower, made)]
        for name in (n for n in sets if args.encoders and (args.encoders / n).is_dir()):
            encoder = weights.load_weights(str(args.encoders / name)).encoder
            asked += questions(f"without {name}", encoder, [sets[name]], tower, made)
        for q in asked:
            ways = {"words": q.score(lambda v: v), "with anchors": q.score(lambda v: anchors.towards(v, known))}
            if args.sweep and ("phrases" in q.name or "simulated" in q.name):
                for anchors.SHARPNESS, anchors.SHARE, anchors.NEAR in SWEEP:
                    key = f"sharpness {anchors.SHARPNESS:g}, share {anchors.SHARE}, near {anchors.NEAR}"
                    ways[key] = q.score(lambda v: anchors.towards(v, known))
                anchors.SHARPNESS, anchors.SHARE, anchors.NEAR = CHOSEN
            result[q.name] = ways
            print(q.name, *(f"{way} {a:.3f} / {f:.3f}" for way, (a, f) in ways.items()), sep="; ", flush=True)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
