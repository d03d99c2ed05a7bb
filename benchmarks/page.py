"""What the report page costs: bytes and processor seconds for a map of many classes, with its picture.

    python benchmarks/page.py [--side 1600] [--classes 24]

Blobs of 24 classes with speckled edges, so that the maps pack badly, their second class, confidence and clear months.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from geomap.legends import Legend, LegendClass
from geomap.types import Grid
from geomap.write.cog import write_map
from geomap.write.layer import Layer
from geomap.write.picture import write_picture
from geomap.write.report import Extras, write_report
from geomap.write.stac import MapFile

MONTHS = tuple(f"2023-{month:02d}" for month in range(1, 13))


def simulated(side: int, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Class ids from 1, those of the second class, and confidence in percent, (side, side) each."""
    rng = np.random.default_rng(0)
    best, second = np.full((2, side, side), -np.inf, np.float32)
    ids, next_ids = np.zeros((2, side, side), np.uint8)
    for i in range(1, classes + 1):
        smooth = gaussian_filter(rng.standard_normal((side, side), np.float32), 6)
        score = smooth / smooth.std() + 0.15 * rng.standard_normal((side, side), np.float32)
        next_ids = np.where(score > best, ids, np.where(score > second, np.uint8(i), next_ids))
        second = np.maximum(second, np.minimum(best, score))
        ids[score > best] = i
        best = np.maximum(best, score)
    return ids, next_ids, np.clip(25 + 60 * (best - second), 4, 100).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=1600)
    parser.add_argument("--classes", type=int, default=24)
    asked = parser.parse_args()
    ids, second, confidence = simulated(asked.side, asked.classes)
    colours = [f"#{i * 600_001:06x}" for i in range(asked.classes + 1)]
    known = tuple(
        LegendClass(id=i, name=f"class {i}", colour=colours[i], prompts=(f"land {i}",))
        for i in range(1, asked.classes + 1)
    )
    legend = Legend(name="landcover", title="Land cover", classes=known)
    layers = {
        Layer("landcover", "Land cover", "classes", legend): ids,
        Layer("landcover_second", "Second class", "classes", legend): second,
        Layer("landcover_confidence", "Confidence", "percent"): confidence,
        Layer("clear_months", "Months", "count"): np.full_like(ids, 9),
    }
    grid = Grid(epsg=32631, west=500_000, north=5_600_000, width=asked.side, height=asked.side)
    with tempfile.TemporaryDirectory() as folder:
        maps = [MapFile(Path(folder) / f"{layer.stem}.tif", layer, grid) for layer in layers]
        written = {m.layer.stem: write_map(m.path, m.layer, grid, [(grid, layers[m.layer])], {}) for m in maps}
        start = time.process_time()
        page = write_report(Path(folder), maps, written, "Land cover", MONTHS, Extras())
        made = time.process_time()
        write_picture(maps[0], written["landcover"], "2023")
        print(f"page {page.stat().st_size:,} bytes, {made - start:.2f} s; picture {time.process_time() - made:.2f} s")


if __name__ == "__main__":
    main()
