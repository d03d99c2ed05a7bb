"""How far the simulation is from measured series, and from itself: two forests that tell series apart.

    OMP_NUM_THREADS=1 python benchmarks/simulated.py [--measured] [--within] [--balance] [--alone] [--series 2000]

`--measured`: for one kind of land at a time, the area under the curve (mean of 5 folds) of a forest that tells
simulated from measured series: 0.5 is no difference. Both sides have the same months: each series takes the gaps of a
series of the other side as well, and gaps are filled in a straight line, as Rondonia's were at their source.
`--within`: accuracy and confusion of a forest (half of the series, judged on the other half) among the simulated crops
of one climate. `--alone`: accuracy / macro F1 of a forest of simulated series alone
(--series 30000) on the measured sets, for two draws of the series: a meter of the simulation that takes minutes, where
encoders take hours and differ by seed. `--balance`: chance of every land cover, climate, and of each crop in its
climate.
Needs GEOMAP_SHARED (the measured series).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from geomap.datasets.measured import READERS
from geomap.datasets.simulated import COVER_LEGENDS, simulated_samples
from geomap.sentinel2 import BANDS, MONTHS
from geomap.simulate import series
from geomap.simulate.covers import table
from geomap.train.captions.pool import read_measured
from geomap.train.captions.scores import accuracy_and_f1

DATA: Final = Path(os.environ.get("GEOMAP_SHARED", Path(__file__).parents[2] / "shared")) / "data"
FILES: Final = {
    "flanders": "patch_belgium_2019/series.npz",
    "corsica": "points/corsica_2022.parquet",
    "east_africa": "points/east_africa_2017.parquet",
}
ALONE: Final = FILES | {"rondonia": "points/rondonia_2022.npz"}
CLIMATES: Final = {
    "flanders": ("atlantic",), "corsica": ("mediterranean",), "east_africa": ("tropical", "sahel"),
    "rondonia": ("tropical", "equatorial", "monsoon"),
}  # fmt: skip
MEASURED: Final = (
    ("flanders", ("winter_wheat",)), ("flanders", ("maize",)), ("flanders", ("pasture",)),
    ("corsica", ("dry_grassland",)), ("corsica", ("vineyard",)), ("corsica", ("fallow",)),
    ("east_africa", ("sorghum", "millet_sahel")), ("east_africa", ("maize_tropical", "maize")),
    ("rondonia", ("tropical_forest",)), ("rondonia", ("lake", "river", "muddy_water", "algal_water")),
    ("rondonia", ("marsh", "flooded_savanna", "tropical_marsh")),
)  # fmt: skip
"""Sets and the covers of one kind of land; covers that the table lacks are passed over."""
RONDONIA: Final = {
    "tropical_forest": ("Forest", "Riparian_Forest", "Mountainside_Forest"), "lake": ("Water",), "marsh": ("Wetland",),
}  # fmt: skip
"""Labels of Rondonia by the first cover of a kind of land."""
CROPS: Final = {
    "subtropical": (6, 15, 16, 7, 17, 9), "arid": (1, 6, 7, 16, 26), "monsoon": (1, 6, 7, 9, 16, 19),
    "tropical": (6, 7, 9, 12, 15, 16, 17),
}  # fmt: skip
"""Ids of crops of a climate that a forest is to tell apart."""
TREES: Final = 150
RATIOS: Final = (
    ("B08", "B04"), ("B08", "B11"), ("B11", "B12"), ("B03", "B04"), ("B02", "B03"),
    ("B05", "B04"), ("B07", "B05"), ("B08", "B07"), ("B06", "B05"),
)  # fmt: skip
"""Pairs of bands whose ratio tells vigour, water, dead plants and soil, pigments, and the red edge."""
LIGHT, OFFSET = 0.06, 45.0
"""As in training: spread of the light of a series and of its bands (log), and of what is added to a band (DN)."""


def drawn(rng: np.random.Generator, keys: tuple[str, ...], climates: tuple[str, ...], n: int, south: float | None):
    """Series (m, 12, 10), valid (m, 12) and covers (m,) of up to `n` simulated pixels of these covers and climates."""
    known = [c.key for c in table().cover]
    names = list(table().climate)
    options = [
        (known.index(k), c) for k in keys if k in known for c in table().cover[known.index(k)].climates if c in climates
    ]
    if not options:
        raise SystemExit(f"none of {keys} in {climates}")
    moved = tuple(c if south is None else c.model_copy(update={"south": south}) for c in table().climate.values())
    x, valid, cover = [], [], []
    wanted = np.array([known.index(k) for k in dict.fromkeys(keys) if k in known])
    while sum(map(len, cover)) < n:
        with mock.patch.object(series, "climates", return_value=moved):
            s = series.simulate(rng, 2 * n, rng.choice(wanted, 2 * n))
        rows = np.isin(s.climate, [names.index(c) for c in climates if c in names])
        x.append(s.dn[rows])
        valid.append(s.valid[rows])
        cover.append(s.cover[rows])
    return tuple(np.concatenate(a)[:n] for a in (x, valid, cover))


def rondonia(labels: tuple[str, ...]) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Series (n, 12, 10) and valid (n, 12) of the points with these labels; February is missing."""
    with np.load(DATA / "points/rondonia_2022.npz", allow_pickle=False) as f:
        rows = np.isin(f["label"], labels)
        x, month = f["x"][rows], f["month"][rows]
    dn = np.zeros((len(x), MONTHS, x.shape[-1]), np.uint16)
    np.put_along_axis(dn, (month[..., None] - 1).astype(np.intp), x, axis=1)
    return dn, (dn > 0).all(-1)


def filled(dn: NDArray[np.uint16], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Logarithms of reflectance (n, 120), months without one filled in a straight line."""
    months = np.arange(MONTHS)
    out = np.log(np.maximum(dn, 1).astype(np.float32))
    for row, known in zip(out, valid, strict=True):
        if not known.all() and known.any():
            for band in row.T:
                band[~known] = np.interp(months[~known], months[known], band[known])
    return out.reshape(len(out), -1)


def area(rng: np.random.Generator, real, made) -> float:
    """Area under the curve of a forest that tells the two (dn, valid) apart."""
    n, m = len(real[0]), len(made[0])
    here = np.where((both := real[1] & made[1][rng.integers(0, m, n)]).any(1)[:, None], both, real[1])
    there = np.where((both := made[1] & real[1][rng.integers(0, n, m)]).any(1)[:, None], both, made[1])
    x = np.concatenate([filled(real[0], here), filled(made[0], there)])
    y = np.repeat([0, 1], [n, m])
    scores = []
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(x, y):
        model = RandomForestClassifier(TREES, random_state=0, class_weight="balanced_subsample").fit(x[train], y[train])
        scores.append(roc_auc_score(y[test], model.predict_proba(x[test])[:, 1]))
    return float(np.mean(scores))


def measured(n: int) -> None:
    sets = {name: READERS[name](DATA / file) for name, file in FILES.items()}
    keys = np.array([c.key for c in table().cover])
    for place, covers in MEASURED:
        rng = np.random.default_rng(0)
        if place == "rondonia":
            real = rondonia(RONDONIA[covers[0]])
        else:
            s = sets[place]
            rows = np.isin(keys[s.labels["cover"] - 1], covers)
            real = s.dn[rows], s.valid[rows]
        chosen = rng.permutation(len(real[0]))[:n]
        made = drawn(rng, covers, CLIMATES[place], n, float(place == "rondonia"))[:2]
        print(f"{place:12} {covers[0]:16} {len(chosen):5} {area(rng, (real[0][chosen], real[1][chosen]), made):.3f}")


def within(n: int) -> None:
    for climate, crops in CROPS.items():
        rng = np.random.default_rng(0)
        x, y = [], []
        for crop in crops:
            keys = tuple(c.key for c in table().cover if c.crop == crop and climate in c.climates)
            if not keys:
                print(f"{climate}: no crop {crop}")
                continue
            dn, valid, _ = drawn(rng, keys, (climate,), n // 4, None)
            x.append(filled(dn, valid))
            y += [crop] * len(dn)
        features, truth = np.concatenate(x), np.array(y)
        half = rng.permutation(len(truth)) % 2 == 0
        model = RandomForestClassifier(TREES, random_state=0).fit(features[half], truth[half])
        found = model.predict(features[~half])
        print(f"{climate}: accuracy {np.mean(found == truth[~half]):.3f}; crop, then where its series went (%)")
        for a in np.unique(truth):
            row = found[truth[~half] == a]
            print(f"  {a:3} " + "  ".join(f"{b}: {100 * np.mean(row == b):3.0f}" for b in np.unique(truth)))


def ratios(dn: NDArray[np.uint16], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Logarithms (n, 228) of the bands, months without one filled in a straight line, and of RATIOS."""
    logs = filled(dn, valid).reshape(len(dn), MONTHS, -1)
    pairs = [logs[..., BANDS.index(a)] - logs[..., BANDS.index(b)] for a, b in RATIOS]
    return np.concatenate([logs, np.stack(pairs, -1)], -1).reshape(len(dn), -1)


def alone(n: int) -> None:
    sets = {name: read_measured(name, DATA / file) for name, file in ALONE.items()}
    asked = {name: ratios(s.dn, s.valid) for name, s in sets.items()}
    for seed in (0, 1):
        rng = np.random.default_rng(100 + seed)
        made = simulated_samples(rng, n)
        light = np.exp(rng.normal(0, LIGHT, (n, 1, 1)) + rng.normal(0, LIGHT, (n, 1, len(BANDS))))
        dn = np.clip(made.dn * light + rng.normal(0, OFFSET, (n, 1, len(BANDS))), 1, 20_000)
        x, scores = ratios(dn, made.valid), []
        for legend in COVER_LEGENDS:
            known = made.labels[legend] > 0
            forest = ExtraTreesClassifier(
                100, min_samples_leaf=3, max_features=0.15, class_weight="balanced", random_state=0
            )
            forest.fit(x[known], made.labels[legend][known])
            for name, s in sets.items():
                rows = s.labels[legend] > 0
                truth = s.labels[legend][rows]
                if len(np.unique(truth)) > 1:
                    found = accuracy_and_f1(truth, forest.predict(asked[name][rows]))
                    scores.append((found["accuracy"], found["macro_f1"]))
                    print(f"{seed} {legend:10} {name:12} {found['accuracy']:.3f} / {found['macro_f1']:.3f}", flush=True)
        print(seed, "mean", "{:.3f} / {:.3f}".format(*np.mean(scores, axis=0)))


def balance() -> None:
    covers = table().cover
    chance = np.bincount(series.draw_covers(np.random.default_rng(0), 400_000), minlength=len(covers)) / 400_000
    print("land cover", np.bincount([c.landcover for c in covers], chance).round(3))
    for climate in table().climate:
        share = {c.key: p * c.climates.count(climate) / len(c.climates) for c, p in zip(covers, chance, strict=True)}
        crops = sorted(((share[c.key], c.key) for c in covers if c.crop and share[c.key]), reverse=True)
        told = ", ".join(f"{key} {1000 * p:.1f}" for p, key in crops)
        print(f"{climate}: {sum(share.values()):.3f}; crops, per mille: {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("measured", "within", "balance", "alone"):
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("--series", type=int, default=2000)
    args = parser.parse_args()
    if args.balance:
        balance()
    if args.measured:
        measured(args.series)
    if args.within:
        within(args.series)
    if args.alone:
        alone(args.series)


if __name__ == "__main__":
    main()
