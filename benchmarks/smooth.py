"""What averaging log-probabilities over N x N pixels (`--smooth`) gives and costs.

    python benchmarks/smooth.py [--data ../shared/data] [--json FILE]

    landscape  the simulated landscape of `geomap demo` (256 x 256 pixels, clouds, a month without a view), by the
               default weights, against its truth: land cover, and crops within cropland. Its simulator also made
               training series.
    flanders   the labelled pixels of a measured patch (64 x 64), by the default weights, which were trained with it:
               land cover and crops. Unlabelled pixels are left out of the windows.

Both say what smoothing adds for pixels whose labels are this good already, not how good maps of other places are.
`speed` is that of the averaging alone on one core, in pixels of a legend of 8 classes a second.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.windows import from_bounds

from geomap import aoi, legends, pipeline, simulate
from geomap.datasets.series import embed_samples
from geomap.datasets.worldcereal import read_flanders
from geomap.encode.weights import load_weights
from geomap.label.classify import TileLabels
from geomap.label.smooth import smooth_np
from geomap.run.map import map_area
from geomap.run.relabel import LabelRequest, label_store
from geomap.run.request import Request
from geomap.types import Finish, Period

WINDOWS = (1, 3, 5, 7)
NAMES = ("landcover", "crops")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = {"landscape": landscape(), "speed": {str(n): speed(n) for n in WINDOWS[1:]}}
    patch = args.data / "patch_belgium_2019/series.npz"
    if patch.is_file():
        found["flanders"] = flanders(patch)
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def landscape() -> dict[str, dict[str, float]]:
    """Accuracy by legend and window."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        archive = simulate.write_archive(home / "scenes", year=2023)
        area = aoi.parse_area(",".join(map(repr, archive.bbox)))
        request = Request(area=area, period=Period(2023, 1), stac=str(archive.items), save_embeddings=True)
        map_area(request, home / "maps")
        truths = {"landcover": archive.truth_landcover, "crops": archive.truth_crops}
        scores: dict[str, dict[str, float]] = {name: {} for name in NAMES}
        for n in WINDOWS:
            asked = LabelRequest(home / "maps", tuple(map(legends.load, NAMES)), finish=Finish(smooth=n))
            label_store(asked, home / str(n))
            for name, truth in truths.items():
                scores[name][str(n)] = accuracy(truth, home / f"{n}/{name}.tif")
    return scores


def accuracy(truth: Path, mapped: Path) -> float:
    """Share of the pixels that have a true class and are mapped with it; one that is not mapped counts as wrong."""
    with rasterio.open(truth) as t, rasterio.open(mapped) as m:
        wanted = t.read(1)
        found = m.read(1, window=from_bounds(*t.bounds, m.transform), boundless=True, fill_value=0)
    return round(float((wanted == found)[wanted > 0].mean()), 4)


def flanders(path: Path) -> dict[str, dict[str, float]]:
    """Accuracy by legend and window."""
    samples, loaded = read_flanders(path), load_weights("default")
    with np.load(path) as f:
        where = np.flatnonzero(f["CT"].ravel() > 0)
        shape = f["CT"].shape
    assert len(where) == len(samples.dn)
    embeddings = torch.as_tensor(embed_samples(loaded.encoder, samples))
    scores: dict[str, dict[str, float]] = {}
    for name in NAMES:
        question = pipeline.questions([legends.load(name)], loaded)
        wanted = samples.labels[name]
        known = wanted > 0
        scores[name] = {}
        for n in WINDOWS:
            labels = TileLabels(question, shape, n)
            labels.fill(where, embeddings)
            made = labels.layers({}, np.zeros(shape, np.uint8))[name].ravel()[where]
            scores[name][str(n)] = round(float((made == wanted)[known].mean()), 4)
    return scores


def speed(n: int) -> float:
    """Pixels a second of windows of n x n: the median of three."""
    values: NDArray[np.float32] = np.random.default_rng(0).normal(size=(8, 1024, 1024)).astype(np.float32)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        smooth_np(values, n)
        seconds.append(time.perf_counter() - start)
    return round(1024 * 1024 / float(np.median(seconds)))


if __name__ == "__main__":
    main()
