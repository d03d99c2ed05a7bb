"""Samples per second of a whole training step with the paper's encoder (method crossview), fp32 and bf16.

Data are made up; the speed does not depend on them. The paper's table 8 gives 19,530 samples/s at batch 1024 for
inference; it has no figure for training.

    python benchmarks/train.py [--batch 64] [--steps 6] [--patch 1] [--device auto] [--threads N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

PRECISIONS = ("fp32", "bf16")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--batch", type=int, help="samples a step (CPU: 64, GPU: 1024, the paper's)")
    p.add_argument("--steps", type=int, default=6, help="measured steps of each precision, in turn")
    p.add_argument("--patch", type=int, choices=(1, 5, 9), default=1)
    p.add_argument("--device", default="auto")
    p.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    p.add_argument("--json", type=Path)
    a = p.parse_args()
    figures = measure(a.batch, a.steps, a.patch, a.device, a.threads)
    for key, value in figures.items():
        print(f"{key:>20}: {value:,.1f}" if isinstance(value, float) else f"{key:>20}: {value}")
    if a.json:
        a.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(batch: int | None, steps: int, patch: int, device: str, threads: int) -> dict[str, float | str | int]:
    import numpy as np
    import torch

    from geomap.datasets.samples import Samples
    from geomap.encode.engine import pick_device
    from geomap.label.towers import OpenClipTower
    from geomap.train.config import CrossViewConfig
    from geomap.train.crossview import loop as crossview
    from geomap.train.crossview.masking import draw
    from geomap.train.crossview.processes import Group
    from geomap.train.crossview.views import views_of

    torch.set_num_threads(threads)
    group = Group(0, 1, pick_device(device))
    cuda = group.device.type == "cuda"
    batch = batch or (1024 if cuda else 64)
    rng = np.random.default_rng(0)
    n = 4 * batch
    dn = rng.integers(1, 5000, (n, 12, 10 * patch**2)).astype(np.uint16)
    photos = rng.normal(size=(n, OpenClipTower.dim)).astype(np.float32)
    train = views_of(Samples("made up", np.arange(n).astype(str), dn, rng.random((n, 12)) < 0.9, photos=photos))
    data = {"name": "-", "licence": "-", "train": "-", "validation": "-", "photos": "-"}
    base = {"method": "crossview", "name": "benchmark", "title": "-", "licence": "-", "data": data, "patch": patch}
    states, seconds = {}, {}
    for precision in PRECISIONS:
        config = CrossViewConfig.model_validate(base | {"precision": precision})
        states[precision], seconds[precision] = crossview.start(config, OpenClipTower.dim, group.device), []
        states[precision].model.train()
    for step in range(steps + 2):  # two to warm up
        rows = rng.permutation(len(train))[:batch]
        drawn = draw(np.random.default_rng(step), 0.0, spectral=False)  # twelve months, the most expensive
        for precision, state in states.items():
            started = time.perf_counter()
            crossview.train_step(state, state.model, train, rows, drawn, group)
            if cuda:
                torch.cuda.synchronize()
            seconds[precision].append(time.perf_counter() - started)
    return {
        "processor": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "threads": threads,
        "batch": batch,
        "patch": patch,
        **{f"{k}_samples_per_s": batch / statistics.median(s[2:]) for k, s in seconds.items()},
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0,
    }


if __name__ == "__main__":
    main()
