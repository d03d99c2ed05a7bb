"""Peak memory of writing one map from its tiles, for maps of more and more tiles: it should not grow with the area.

    python benchmarks/mosaic.py [--tiles 4,16,64,256] [--json FILE]

Each map is written by a process of its own from simulated tiles of 1024 x 1024 pixels, one of which is in memory at a
time. `classes` are ids of one byte, `score` floats of four. The peaks are of the whole process: `alone` with what
geomap.write.cog needs, `run` with what a run has loaded besides (torch above all).

--json keys: peak_mb: by kind, company and number of tiles; seconds: of `alone`; slope: growth of the peak of `run` from
4 to 64 tiles, as a share; slope_large: the same of `alone` from 64 to the largest map.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 1024
KINDS = {"classes": "landcover", "score": "scenicness"}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tiles", default="4,16,64,256", help="numbers of tiles, each a square number")
    p.add_argument("--json", type=Path)
    p.add_argument("--one", nargs=3, metavar=("KIND", "COMPANY", "TILES"), help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one:
        print(json.dumps(one(a.one[0], a.one[1] == "run", int(a.one[2]))))
        return
    numbers = [int(n) for n in a.tiles.split(",")]
    peaks: dict[str, dict[str, dict[int, float]]] = {k: {"alone": {}, "run": {}} for k in KINDS}
    seconds: dict[str, dict[int, float]] = {k: {} for k in KINDS}
    for kind in KINDS:
        for n in numbers:
            for company in ("alone", "run"):
                if company == "run" and n not in (4, 64):
                    continue
                command = [sys.executable, __file__, "--one", kind, company, str(n)]
                done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                peaks[kind][company][n] = done["peak_mb"]
                if company == "alone":
                    seconds[kind][n] = done["seconds"]
                print(f"{kind:8} {company:6} {n:4} tiles {done['peak_mb']:6.0f} MB {done['seconds']:6.1f} s")
    figures: dict[str, Any] = {"peak_mb": peaks, "seconds": seconds}
    if {4, 64} <= set(numbers):
        figures["slope"] = {k: round(v["run"][64] / v["run"][4] - 1, 3) for k, v in peaks.items()}
        print("growth of a run's process from 4 to 64 tiles:", figures["slope"])
    if 64 in numbers and max(numbers) > 64:
        largest = max(numbers)
        figures["slope_large"] = {k: round(v["alone"][largest] / v["alone"][64] - 1, 3) for k, v in peaks.items()}
        print(f"growth alone from 64 to {largest} tiles:", figures["slope_large"])
    if a.json:
        a.json.write_text(json.dumps(figures, indent=2) + "\n")


def one(kind: str, company: bool, count: int) -> dict[str, float]:
    """Write one map; what it took."""
    from geomap import legends
    from geomap.types import Grid
    from geomap.write.cog import write_map
    from geomap.write.layer import Layer

    if company:
        import geomap.run.map  # noqa: F401
    side = math.isqrt(count)
    layer = Layer("map", "simulated", "classes" if kind == "classes" else "score", legends.load(KINDS[kind]))
    whole = Grid(32631, 500_000, 5_600_000, side * SIDE, side * SIDE)

    def tiles() -> Iterator[tuple[Grid, Any]]:
        rng = np.random.default_rng(0)
        for row in range(side):
            for column in range(side):
                part = Grid(32631, whole.west + 10 * SIDE * column, whole.north - 10 * SIDE * row, SIDE, SIDE)
                yield part, rng.integers(0, 9, (SIDE // 8,) * 2).astype(layer.dtype).repeat(8, 0).repeat(8, 1)

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        write_map(Path(folder) / "map.tif", layer, whole, tiles(), {})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak_mb": round(peak, 1), "seconds": round(time.perf_counter() - start, 2)}


if __name__ == "__main__":
    main()
