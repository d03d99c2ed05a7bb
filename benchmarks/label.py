"""Maps from stored embeddings: pixels a second, bytes a pixel, and how many labels equal the encoder's.

    python benchmarks/label.py [--weights default] [--side 1024] [--repeat 3] [--codes] [--json FILE]

Embeddings are of real series: all pixels of the Flemish patch (64 x 64, December 2018 to November 2019), parcels of
Corsica (2022) and points of East Africa (2017), those of three clear months or more. The legends are the built-in ones
and five lists of typed classes.

Agreement: the share of pixels whose label from the code is the one from the encoder's own embedding, by set and legend.

Speed: a store of --side x --side pixels, the Flemish embeddings repeated at random, is written to the temporary
directory and put out of the page cache; then `geomap label`, one legend at a time, on two cores: reading, decoding,
labelling, keeping the tile. Writing the COGs is not in it.

--codes measures other codes too, each at its bytes a pixel.

On a machine that does other work, look at the seconds of the cores: they count the loading of the weights too.

--json keys: px_per_s_per_legend: of the slowest legend, the median of --repeat runs; px_per_s: by legend;
core_s_per_mpx: seconds of the cores for a million pixels, of the slowest legend;
bytes_per_pixel: in memory; bytes_on_disk: of the store's shards; label_agreement: the mean over all sets and legends;
agreement_lowest; agreement: by set and legend; codes: by name, bytes, mean and lowest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SHARED = Path(os.environ.get("GEOMAP_SHARED", Path(__file__).parents[2] / "shared"))
TYPED = (
    "vineyard, olive grove, maize field",
    "wheat, barley, maize, potato, sugar beet, grassland",
    "forest, water, town, bare soil, grass",
    "solar park, golf course, motorway, quarry, orchard, greenhouse, heath, wetland",
    "irrigated field, dry field, fallow land, pasture, hay meadow",
)
TIMED = ("landcover", "crops", "landuse", "habitat", "bioregion")
CORES = 2


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--weights", default="default")
    p.add_argument("--side", type=int, default=1024, help="pixels per side of the store that is timed")
    p.add_argument("--repeat", type=int, default=3, help="runs of each legend")
    p.add_argument("--codes", action="store_true", help="measure other codes too")
    p.add_argument("--json", type=Path)
    a = p.parse_args()
    if not (SHARED / "data").is_dir():
        sys.exit(f"no {SHARED / 'data'}; set GEOMAP_SHARED")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    figures = measure(a.weights, a.side, a.repeat, a.codes)
    for key, value in figures.items():
        if not isinstance(value, dict):
            print(f"{key:>22}: {value:,.4f}" if isinstance(value, float) else f"{key:>22}: {value:,}")
    for name, row in figures.get("codes", {}).items():
        print(f"{name:>44}: {row['bytes']:4} B  mean {row['mean']:.4f}  lowest {row['lowest']:.4f}")
    if a.json:
        a.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(weights_name: str, side: int, repeat: int, others: bool) -> dict[str, Any]:
    import torch

    from geomap.encode import weights
    from geomap.run.prepare import codec_of

    torch.set_num_threads(CORES)
    loaded = weights.load_weights(weights_name)
    codec = codec_of(loaded.encoder)
    embeddings = embed(loaded.encoder)
    vectors = vectors_of(loaded)
    agreement = agreements(embeddings, vectors, kept(codec))
    figures: dict[str, Any] = {
        "pixels": {name: len(e) for name, e in embeddings.items()},
        **summary(agreement),
        "bytes_per_pixel": codec.size,
        "agreement": agreement,
    }
    figures |= timed(loaded, weights_name, codec, embeddings["flanders"], side, repeat)
    if others:
        figures["codes"] = {
            f"{name}": {"bytes": size, **table_row(agreements(embeddings, vectors, code))}
            for name, size, code in other_codes(loaded.encoder, codec)
        }
    return figures


def embed(encoder: Any) -> dict[str, Any]:
    """By set, (N, D) embeddings of its series with three clear months or more."""
    import torch

    from geomap.datasets.worldcereal import read_corsica, read_east_africa

    data = SHARED / "data"
    sets = {"corsica": read_corsica(data / "points/corsica_2022.parquet")}
    sets["east_africa"] = read_east_africa(data / "points/east_africa_2017.parquet")
    series = {"flanders": flemish(data / "patch_belgium_2019/series.npz")}
    series |= {name: (s.dn, s.valid) for name, s in sets.items()}
    found = {}
    for name, (dn, valid) in series.items():
        some = valid.sum(axis=1) >= 3
        with torch.inference_mode():
            parts = [
                encoder(torch.from_numpy(d.astype(np.int32)), torch.from_numpy(v), torch.arange(12))
                for d, v in zip(batches(dn[some]), batches(valid[some]), strict=True)
            ]
        found[name] = torch.cat(parts)
    return found


def flemish(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(4096, 12, 10) DNs and (4096, 12) valid months of every pixel of the patch, labelled or not."""
    from geomap.composite.mask import clear_np
    from geomap.composite.median import median_np
    from geomap.sentinel2 import BANDS, BANDS_10M, SCL

    with np.load(path, allow_pickle=False) as f:
        month = f["time"].astype("datetime64[s]").astype("datetime64[M]").astype(int)
        bands = [f[b] if b in BANDS_10M else f[b].repeat(2, 1).repeat(2, 2) for b in BANDS]
        clear = clear_np(f[SCL]).repeat(2, 1).repeat(2, 2)
    dn = np.zeros((12, len(BANDS), *clear.shape[1:]), np.uint16)
    for m in range(np.datetime64("2018-12").astype(int), np.datetime64("2019-12").astype(int)):
        looks = np.flatnonzero(month == m)
        dn[m % 12] = [median_np([np.where(clear[k], band[k], 0).astype(np.uint16) for k in looks]) for band in bands]
    series = dn.transpose(2, 3, 0, 1).reshape(-1, 12, len(BANDS))
    return series, (series > 0).all(-1)


def batches(values: np.ndarray) -> list[np.ndarray]:
    return [values[i : i + 1024] for i in range(0, len(values), 1024)]


def vectors_of(loaded: Any) -> dict[str, Any]:
    """By legend, (K, D) class vectors: the built-in legends of classes, and typed ones where the tower is here."""
    from geomap import legends as legend
    from geomap.pipeline import vectors_of

    asked = [legend.load(name) for name in legend.builtin_names()]
    asked = [found for found in asked if found.kind == "classes"]
    asked += [legend.typed(classes, f"typed_{i}") for i, classes in enumerate(TYPED, start=1)]
    return {found.name: vectors_of(found, loaded).float() for found in asked}


Code = Callable[[Any], Callable[[Any], Any]]
"""(N, D) embeddings -> (K, D) vectors -> (N, K) scores"""


def kept(codec: Any) -> Code:
    """The code of geomap's own stores."""
    from geomap.store.codec import decode

    def code(embeddings: Any) -> Callable[[Any], Any]:
        decoded = decode(codec.encode(embeddings))
        return lambda v: decoded @ codec.project(v).T

    return code


def agreements(embeddings: dict[str, Any], vectors: dict[str, Any], code: Code) -> dict[str, dict[str, float]]:
    """By set and legend, the share of equal labels; `code` turns embeddings into a score of every class vector."""
    import torch

    found: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        for name, plain in embeddings.items():
            score = code(plain)
            found[name] = {
                legend: ((plain @ v.T).argmax(1) == score(v).argmax(1)).float().mean().item()
                for legend, v in vectors.items()
            }
    return found


def summary(agreement: dict[str, dict[str, float]]) -> dict[str, float]:
    row = table_row(agreement)
    return {"label_agreement": row["mean"], "agreement_lowest": row["lowest"]}


def table_row(agreement: dict[str, dict[str, float]]) -> dict[str, float]:
    values = [share for by_legend in agreement.values() for share in by_legend.values()]
    return {"mean": statistics.mean(values), "lowest": min(values)}


def timed(loaded: Any, name: str, codec: Any, embeddings: Any, side: int, repeat: int) -> dict[str, Any]:
    """Pixels a second of `geomap label`, one legend at a time, and the store's bytes."""
    from geomap import grid
    from geomap import legends as legend
    from geomap.run import relabel
    from geomap.store import store
    from geomap.types import Grid, Period, Tile

    rng = np.random.default_rng(0)
    tile = Tile("31UES_02_03", Grid(32631, 499_980 + 2 * 10240, 5_700_000 - 3 * 10240, side, side))
    with tempfile.TemporaryDirectory() as scratch:
        about = {"weights": {"name": name, "sha256": loaded.digest}, "min_clear_months": 3}
        made = store.create(
            Path(scratch) / store.EMBEDDINGS, [tile], max(side, grid.TILE_PX), Period(2018, 12), about, codec.basis
        )
        pixels = codec.encode(embeddings).numpy()[rng.integers(0, len(embeddings), side * side)].T
        months = np.full(tile.grid.shape, 12, np.uint8)
        made.write(tile, {"embedding": pixels.reshape(-1, side, side).copy(), "clear_months": months})
        shards = [made.path / f for f in store.store_files(made.path) if "embedding/c" in str(f)]
        seconds: dict[str, list[float]] = {}
        cores: dict[str, list[float]] = {}
        for turn in range(repeat):
            for found in map(legend.load, TIMED):
                for shard in shards:
                    forget(shard)
                request = relabel.LabelRequest(made.path, (found,), name)
                start, labelled = time.process_time(), [0.0]

                def watch(stage: str, done: int, total: int, labelled: list[float] = labelled) -> None:
                    if stage == "label":
                        labelled[0] = time.process_time()

                result = relabel.label_store(request, Path(scratch) / f"{found.name}{turn}", watch)
                cores.setdefault(found.name, []).append(labelled[0] - start)
                seconds.setdefault(found.name, []).append(result.seconds["label"])
        speed = {legend: side * side / statistics.median(s) for legend, s in seconds.items()}
        return {
            "px_per_s_per_legend": min(speed.values()),
            "px_per_s": speed,
            "core_s_per_mpx": max(statistics.median(s) for s in cores.values()) / side**2 * 1e6,
            "bytes_on_disk": sum(shard.stat().st_size for shard in shards) / side**2,
        }


def forget(path: Path) -> None:
    """Put a file out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def other_codes(encoder: Any, codec: Any) -> list[tuple[str, int, Code]]:
    """(name, bytes a pixel, code) of geomap's code and of what was tried beside it."""
    import torch

    from geomap.encode.directions import _embed, _reach, _strongest
    from geomap.run.prepare import simulated_sample
    from geomap.store.codec import SIZE, decode

    rng = np.random.default_rng(0)
    reach = _reach(encoder)
    dim, size = reach.shape
    principal = _strongest(_embed(encoder, *simulated_sample()), min(size, SIZE))

    def turned(basis: np.ndarray) -> Any:
        return basis @ np.linalg.qr(rng.standard_normal((basis.shape[1],) * 2))[0]

    def of(basis: np.ndarray, quantise: Callable[[Any], Any]) -> Code:
        b = torch.from_numpy(basis.astype(np.float32))

        def code(embeddings: Any) -> Callable[[Any], Any]:
            decoded = decode(quantise(embeddings.float() @ b))
            return lambda v: decoded @ (v.float() @ b).T

        return code

    def bits(count: int) -> Callable[[Any], Any]:
        """The largest coordinate of a pixel becomes the largest number of so many bits."""
        top = 2 ** (count - 1) - 1
        return lambda y: (y * (top / y.abs().amax(dim=1, keepdim=True))).round()

    def fixed(largest: float) -> Callable[[Any], Any]:
        return lambda y: (y * (127 / largest)).round().clamp(-127, 127)

    def rescored(first: Code, second: Code) -> Code:
        """Of the five classes that the first code finds nearest, the one that the second does."""

        def code(embeddings: Any) -> Callable[[Any], Any]:
            one, two = first(embeddings), second(embeddings)

            def score(v: Any) -> Any:
                best = one(v).topk(min(5, len(v)), dim=1).indices
                return torch.full((len(embeddings), len(v)), -torch.inf).scatter(1, best, two(v).gather(1, best))

            return score

        return code

    signs, nibbles = of(rng.standard_normal((dim, 512)), torch.sign), of(turned(reach), bits(4))
    rows = [
        ("int8, reachable directions, turned (geomap)", codec.size, kept(codec)),
        ("int8, reachable directions, not turned", size, of(reach, bits(8))),
        ("int8 in steps of 1/127", size, of(reach, fixed(1.0))),
        ("int8 in steps of 0.5/127, clipped", size, of(reach, fixed(0.5))),
        ("int8 of the embedding itself", dim, of(np.eye(dim), bits(8))),
        ("4 bits, reachable directions, turned", size // 2, nibbles),
        ("2 bits, reachable directions, turned", size // 4, of(turned(reach), bits(2))),
        ("sign, reachable directions, turned", size // 8, of(turned(reach), torch.sign)),
        ("sign along 1024 random directions", 128, of(rng.standard_normal((dim, 1024)), torch.sign)),
        ("sign along 512, its best 5 rescored by 4 bits", 64 + size // 2, rescored(signs, nibbles)),
    ]
    fewer = [k for k in (96, 64, 48, 32) if k < principal.shape[1]]
    return rows + [(f"int8, {k} directions of a PCA, turned", k, of(turned(principal[:, :k]), bits(8))) for k in fewer]


if __name__ == "__main__":
    main()
