"""Pixels per second of the encoder: the plain module and the engine, beside the device's own matmul rate.

    python benchmarks/encode.py [--rounds 5] [--fit 60] [--device auto] [--json FILE]
    python benchmarks/encode.py --patches 5,9 [--rounds 3] [--side 256]

Two encoders: the paper's (8.17 M parameters) and the default weights. Sides take turns, --rounds times, and rates are
medians. A machine that does other work hits long and short turns, and bfloat16 and float32, unequally: the figures of
each side's best turn are printed too.

    matmul    products of a layer's shapes over the tokens of a batch, the weights of all layers in turn: the better of
              torch's threads together, and each thread on products of its own
    plain     PixelEncoder on 1024 pixels at once, all months valid; in bfloat16 by torch.autocast
    engine    encode.Engine on made-up composites, from uint16 DNs in host memory to unit embeddings

Labels and embeddings are compared with the plain module in float64, on made-up series with months missing and, where
they lie beside the checkout, on the three sets of datasets.worldcereal together. The default weights answer their
five built-in legends of classes; the worst counts. No trained weights of the paper's size are public, and untrained
ones give nearly the same embedding to every pixel, so noise would decide the labels: --fit takes so many steps of
training on half of the Flemish fields (fixed random class vectors, for this comparison only); the other half and the
other sets are compared.

--patches compares encoders of the paper's size that take patches with that of single pixels instead, each in a process
of its own, on the same --side x --side made-up pixels of which a tenth of the months is missing: pixels per second by
the clock (median of the rounds) and by the processor's time, memory beyond the composite, and, for patches, the largest
distance of a unit vector from the plain module's in float32, each patch cut as in training (datasets.months.tokens_np).
Weights are random; `spread` is how far the vectors of neighbouring pixels lie apart.

--json keys: px_per_s, ratio_fp32 (engine over plain fp32), matmul_share (2 x multiply-adds of the reduced algebra x
px/s over the matmul rate of the engine's precision), label_agreement (worst case, of real series where there are any),
for the paper's encoder; and the same with all rates, and with those of the best turns (best_...), per encoder, under
`timesenclip` and `default`.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from geomap import legends, process
from geomap.datasets.months import MASKED, tokens_np
from geomap.datasets.samples import Samples
from geomap.datasets.worldcereal import read_corsica, read_east_africa, read_flanders
from geomap.encode import weights
from geomap.encode.card import Q_HIGH, Q_LOW
from geomap.encode.engine import Engine, pick_device
from geomap.encode.folded import multiply_adds
from geomap.encode.model import CONFIGS, EncoderConfig, PixelEncoder
from geomap.simulate.covers import table
from geomap.types import Composite

DATA = Path(os.environ.get("GEOMAP_SHARED", Path(__file__).parents[2] / "shared")) / "data"
PLAIN = 1024  # pixels at once
MONTHS = range(12)


@dataclass(frozen=True)
class Series:
    """Series to compare on."""

    dn: NDArray[np.uint16]  # (n, 12, 10), month 0 is January
    valid: NDArray[np.bool_]  # (n, 12), a month or more in every row

    @staticmethod
    def of(dn: NDArray[np.uint16]) -> Series:
        """Those of (n, 12, 10) DNs that have a month of all bands."""
        valid = (dn != 0).all(axis=2)
        return Series(dn[valid.any(axis=1)], valid[valid.any(axis=1)])


@dataclass(frozen=True)
class Subject:
    """An encoder, the class vectors it answers with, by legend, and what it is compared on."""

    encoder: PixelEncoder
    vectors: dict[str, Tensor]  # (K, D) unit vectors
    series: dict[str, Series]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--fit", type=int, default=60, help="training steps of the paper-size encoder; 0: none")
    p.add_argument("--device", default="auto")
    p.add_argument("--json", type=Path)
    p.add_argument("--patches", help="sides of patches to compare with single pixels: 5,9")
    p.add_argument("--side", type=int, default=256, help="pixels a side for --patches")
    a = p.parse_args()
    process.keep_freed()  # as the command line does
    if a.patches:
        return patches([1, *map(int, a.patches.split(","))], a)
    device = pick_device(a.device)
    figures: dict[str, Any] = {"device": device_name(device), "threads": torch.get_num_threads()}
    for name, make in (("timesenclip", lambda: paper(a.fit)), ("default", default)):
        subject = make()
        figures[name] = rates(subject.encoder, device, a.rounds) | agreement(subject, a.device)
        print(f"\n{name}, {figures['device']}, {figures['threads']} threads", flush=True)
        for key, value in figures[name].items():
            print(f"{key:>26}: {value:,.4g}" if isinstance(value, float) else f"{key:>26}: {value}", flush=True)
    for key in ("px_per_s", "ratio_fp32", "matmul_share", "label_agreement"):
        figures[key] = figures["timesenclip"][key]
    if a.json:
        a.json.write_text(json.dumps(figures, indent=2) + "\n")


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found = torch.cpu.get_capabilities()
    return f"{found.get('cpu_name', 'CPU')}, {'AMX' if found.get('amx_bf16') else 'no AMX'}"


# Rates ----------------------------------------------------------------------------------------------------------------


def rates(encoder: PixelEncoder, device: torch.device, rounds: int) -> dict[str, Any]:
    engine = Engine(encoder, str(device))
    plain = copy.deepcopy(encoder).to(device)
    rng = np.random.default_rng(0)
    batches = 2 * engine.threads if device.type == "cpu" else 64
    dn = rng.integers(1, 5000, (12, 10, 4 * batches, engine.batch)).astype(np.uint16)
    made = Composite(dn, np.ones((12, *dn.shape[2:]), np.uint8))
    series = torch.from_numpy(dn[:, :, 0, 0][None].repeat(PLAIN, 0).astype(np.int32)).to(device)
    multiplied = 13 * engine.batch
    sides: dict[str, Callable[[], float]] = {
        "matmul_fp32": lambda: matmul(encoder.cfg, multiplied, device, torch.float32),
        "matmul_bf16": lambda: matmul(encoder.cfg, multiplied, device, torch.bfloat16),
        "plain_fp32": lambda: forward(plain, series, torch.float32),
        "plain_bf16": lambda: forward(plain, series, torch.bfloat16),
        "engine": lambda: encode(engine, made),
    }
    found: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(rounds + 1):
        for side, run in sides.items():
            rate = run()
            if turn:  # the first round warms up
                found[side].append(rate)
    median = {side: statistics.median(values) for side, values in found.items()}
    best = {side: max(values) for side, values in found.items()}
    needed = 2 * multiply_adds(encoder)
    precision = "bf16" if engine.dtype == torch.bfloat16 else "fp32"
    return {
        "precision": precision,
        "batch": engine.batch,
        "mflop_per_px": needed / 1e6,
        "matmul_fp32_gflops": median["matmul_fp32"] / 1e9,
        "matmul_bf16_gflops": median["matmul_bf16"] / 1e9,
        "plain_fp32_px_per_s": median["plain_fp32"],
        "plain_bf16_px_per_s": median["plain_bf16"],
        "px_per_s": median["engine"],
        "ratio_fp32": median["engine"] / median["plain_fp32"],
        "matmul_share": needed * median["engine"] / median[f"matmul_{precision}"],
        "best_matmul_gflops": best[f"matmul_{precision}"] / 1e9,
        "best_px_per_s": best["engine"],
        "best_ratio_fp32": best["engine"] / best["plain_fp32"],
        "best_matmul_share": needed * best["engine"] / best[f"matmul_{precision}"],
    }


def matmul(cfg: EncoderConfig, rows: int, device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations per second of products of (rows, in) x (in, out), the layers' weights in turn."""
    shapes = [*[(cfg.dim, cfg.dim)] * 4, (cfg.dim, cfg.mlp), (cfg.mlp, cfg.dim)] * cfg.depth
    factors = [torch.randn(shape, dtype=dtype, device=device) for shape in shapes]
    flop = sum(2 * i * o for i, o in shapes)

    def work(rows: int, seconds: float, done: list[float]) -> None:
        tokens = {i: torch.randn(rows, i, dtype=dtype, device=device) for i, _ in shapes}
        with torch.inference_mode():
            start, count = time.perf_counter(), -1
            while (elapsed := time.perf_counter() - start) < seconds or count < 1:
                for factor in factors:
                    torch.mm(tokens[len(factor)], factor)
                synchronise(device)
                count += 1
                if count == 0:
                    start = time.perf_counter()  # the first turn warms up
            done.append(count * rows * flop / elapsed)

    if device.type != "cpu":
        done: list[float] = []
        work(rows, 0.4, done)
        return done[0]
    together: list[float] = []
    threads = torch.get_num_threads()
    work(rows * threads, 0.4, together)
    apart: list[float] = []

    def alone() -> None:
        torch.set_num_threads(1)
        work(rows, 0.4, apart)

    side_by_side = [threading.Thread(target=alone) for _ in range(threads)]
    for thread in side_by_side:
        thread.start()
    for thread in side_by_side:
        thread.join()
    torch.set_num_threads(threads)
    return max(together[0], sum(apart))


def forward(plain: PixelEncoder, series: Tensor, dtype: torch.dtype) -> float:
    """Pixels per second of the plain module."""
    valid, months = torch.ones(series.shape[:2], dtype=torch.bool, device=series.device), torch.arange(12)
    narrow = torch.autocast(series.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
    start = time.perf_counter()
    with torch.inference_mode(), narrow:
        plain(series, valid, months.to(series.device))
    synchronise(series.device)
    return len(series) / (time.perf_counter() - start)


def encode(engine: Engine, made: Composite) -> float:
    """Pixels per second of the engine."""
    usable = np.ones(made.shape, bool)
    start = time.perf_counter()
    for _ in engine.embed(made, usable, MONTHS):
        pass
    synchronise(engine.device)
    return usable.size / (time.perf_counter() - start)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# Patches --------------------------------------------------------------------------------------------------------------


def patches(sizes: list[int], a: argparse.Namespace) -> None:
    """Encoders of patches beside that of single pixels; the processes take turns."""
    pools = {size: ProcessPoolExecutor(1, mp_context=get_context("spawn")) for size in sizes}
    turns: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for _ in range(a.rounds):
        for size, pool in pools.items():
            turns[size].append(pool.submit(slide, size, a.side, a.device).result())
    figures = {}
    for size, found in turns.items():
        figures[size] = {key: statistics.median(turn[key] for turn in found) for key in found[0]}
        if size > 1:
            figures[size] |= pools[size].submit(plainly, size).result()
        print(f"{size} x {size}: " + ", ".join(f"{k} {v:,.4g}" for k, v in figures[size].items()), flush=True)
    if a.json:
        a.json.write_text(json.dumps(figures, indent=2) + "\n")


made_last: NDArray[np.float32]  # (y * x, D) of `slide`, for `plainly` in the same process


def slide(patch: int, side: int, device: str) -> dict[str, float]:
    """Embed the pixels once."""
    global made_last
    process.keep_freed()
    engine = Engine(random(patch), device)
    list(engine.embed(gappy(16), np.ones((16, 16), bool), MONTHS))  # compilation
    made, before, usable = gappy(side), peak(), np.ones((side, side), bool)
    made_last = np.empty((side**2, engine.execution.cfg.out), np.float32)
    start, worked = time.perf_counter(), time.process_time()
    for index, embeddings in engine.embed(made, usable, MONTHS):
        made_last[index] = embeddings.cpu().numpy()
    wall, cpu = time.perf_counter() - start, time.process_time() - worked
    return {"px_per_s": side**2 / wall, "px_per_cpu_s": side**2 / cpu, "mb": peak() - before - made_last.nbytes / 1e6}


@torch.inference_mode()
def plainly(patch: int) -> dict[str, float]:
    """Compare the last vectors with those of the plain module on cut patches."""
    encoder, dn = random(patch), gappy(int(len(made_last) ** 0.5)).dn
    reach, rows, furthest = patch // 2, dn.shape[2], 0.0
    around = np.pad(dn, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    for row in range(rows):
        cut = [tokens_np(around[:, :, row : row + patch, x : x + patch], MASKED) for x in range(dn.shape[3])]
        tokens, valid = (torch.from_numpy(np.stack(part)) for part in zip(*cut, strict=True))
        wanted = encoder(tokens, valid, torch.arange(12)).numpy()
        ours = made_last[row * len(cut) : (row + 1) * len(cut)]
        furthest = max(furthest, float(np.linalg.norm(ours - wanted, axis=1).max()))
    spread = np.linalg.norm(made_last[1:] - made_last[:-1], axis=1).mean()
    return {"furthest": furthest, "spread": float(spread), "pixels": float(len(made_last))}


def random(patch: int) -> PixelEncoder:
    torch.manual_seed(0)
    encoder = PixelEncoder(replace(CONFIGS["timesenclip"], patch=patch), torch.tensor(Q_LOW), torch.tensor(Q_HIGH))
    torch.nn.init.normal_(encoder.position, std=0.5)
    return encoder.eval()


def gappy(side: int) -> Composite:
    """(12, 10, side, side) random DNs; every pixel lacks about a tenth of its months, never June."""
    rng = np.random.default_rng(1)
    dn = rng.integers(1, 5000, (12, 10, side, side), dtype=np.uint16)
    kept = rng.random((12, 1, side, side)) < 0.9
    kept[5] = True
    dn *= kept
    return Composite(dn, kept[:, 0].astype(np.uint8))


def peak() -> float:
    """Most memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


# Agreement ------------------------------------------------------------------------------------------------------------


def agreement(subject: Subject, device: str) -> dict[str, Any]:
    """Labels that equal those of float64, and the embeddings' distance from float64's, both of unit vectors."""
    engine = Engine(subject.encoder, device)
    figures: dict[str, Any] = {}
    for name, series in subject.series.items():
        made = Composite(series.dn.transpose(1, 2, 0)[:, :, None], np.zeros((12, 1, len(series.dn)), np.uint8))
        parts = engine.embed(made, np.ones((1, len(series.dn)), bool), MONTHS)
        ours = torch.cat([part for _, part in parts]).cpu().double()
        exact = float64(subject.encoder, series)
        distance = (ours - exact).norm(dim=1)
        figures |= {f"error_mean_{name}": distance.mean().item(), f"error_max_{name}": distance.max().item()}
        shares = {}
        for asked, vectors in subject.vectors.items():
            labels = [(e @ vectors.double().T).argmax(dim=1) for e in (ours, exact)]
            shares[asked] = (labels[0] == labels[1]).double().mean().item()
        figures |= {f"agreement_{name}_{asked}": share for asked, share in shares.items()}
        figures["label_agreement"] = min(shares.values())  # of the last, the real series where there are any
    return figures


@torch.inference_mode()
def float64(encoder: PixelEncoder, series: Series) -> Tensor:
    exact = copy.deepcopy(encoder).cpu().double()
    pairs = zip(torch.from_numpy(series.dn).split(256), torch.from_numpy(series.valid).split(256), strict=True)
    return torch.cat([exact(dn, valid, torch.arange(12)) for dn, valid in pairs])


def made_up(n: int = 1024) -> Series:
    rng = np.random.default_rng(1)
    valid = rng.random((n, 12)) < 0.8
    valid[:, 5] = True
    return Series(rng.integers(1, 6000, (n, 12, 10)).astype(np.uint16) * valid[..., None], valid)


def compared(measured: list[NDArray[np.uint16]]) -> dict[str, Series]:
    real_ones = {"real": Series.of(np.concatenate(measured))} if measured else {}
    return {"random": made_up(), **real_ones}


def measured() -> Iterator[tuple[str, Samples]]:
    """The real sets that lie beside the checkout."""
    readers = {
        "flanders": (read_flanders, "patch_belgium_2019/series.npz"),
        "corsica": (read_corsica, "points/corsica_2022.parquet"),
        "east_africa": (read_east_africa, "points/east_africa_2017.parquet"),
    }
    for name, (read, path) in readers.items():
        if (DATA / path).is_file():
            yield name, read(DATA / path)


def default() -> Subject:
    loaded = weights.load_weights("default")
    found = [legends.load(name) for name in legends.builtin_names()]
    vectors = {each.name: loaded.class_vectors[each.digest] for each in found if each.kind != "score"}
    return Subject(loaded.encoder, vectors, compared([each.dn for _, each in measured()]))


def paper(steps: int) -> Subject:
    torch.manual_seed(0)
    cfg = CONFIGS["timesenclip"]
    encoder = PixelEncoder(cfg, torch.tensor(Q_LOW), torch.tensor(Q_HIGH))
    torch.nn.init.normal_(encoder.position, std=0.5)
    sets = dict(measured())
    vectors = {f"{k}_classes": F.normalize(torch.randn(k, cfg.out), dim=1) for k in (8, 40)}
    kept = [each.dn for name, each in sets.items() if name != "flanders"]
    if steps and "flanders" in sets:
        flanders = sets["flanders"]
        covers = np.array([c.key for c in table().cover])
        learnt = flanders.folds()[0] % 2 == 0
        names, label = np.unique(covers[flanders.labels["cover"] - 1], return_inverse=True)
        vectors["fitted"] = F.normalize(torch.randn(len(names), cfg.out), dim=1)
        fit(encoder, Series(flanders.dn[learnt], flanders.valid[learnt]), label[learnt], vectors["fitted"], steps)
        kept.append(np.random.default_rng(2).permutation(flanders.dn[~learnt])[:1000])
    return Subject(encoder.eval(), vectors, compared(kept))


def fit(encoder: PixelEncoder, series: Series, label: NDArray[np.intp], vectors: Tensor, steps: int) -> None:
    """A short training: the embeddings of unlike series come to differ. Months drop out at random."""
    rng = np.random.default_rng(3)
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=3e-4)
    for _ in range(steps):
        rows = rng.integers(len(label), size=96)
        valid = series.valid[rows] & (rng.random((96, 12)) < 0.8)
        valid[~valid.any(axis=1)] = series.valid[rows][~valid.any(axis=1)]
        with torch.autocast("cpu", torch.bfloat16):
            made = encoder(torch.from_numpy(series.dn[rows]), torch.from_numpy(valid), torch.arange(12))
        loss = F.cross_entropy(20 * made.float() @ vectors.T, torch.from_numpy(label[rows]))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()


if __name__ == "__main__":
    main()
