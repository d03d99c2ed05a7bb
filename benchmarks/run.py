"""Seconds per stage and peak memory of a whole run over 10 km x 10 km of real scenes.

The archive is the real Belgian series enlarged 16 x 16 (1024 x 1024 pixels, 53 scenes from December 2018 to November
2019), made with the tool that lies beside the data unless --archive names one. Scenes are local files, so `composite`
is decoding and medians without a network. Composites are read ahead while tiles are encoded: the stages overlap.

    python benchmarks/run.py [--archive DIR] [--weights default] [--legend landcover ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHARED = Path(os.environ.get("GEOMAP_SHARED", Path(__file__).parents[2] / "shared"))
BOX = (574680, 5612200, 584920, 5622440)  # EPSG:32631, the enlarged patch


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--archive", type=Path, help="folder of make_archive.py --mosaic 16")
    p.add_argument("--weights", default="default")
    p.add_argument("--legend", action="append")
    p.add_argument("--json", type=Path)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        archive = a.archive or make_archive(Path(scratch) / "archive")
        figures = measure(archive, Path(scratch) / "maps", a.weights, a.legend or ["landcover", "crops"])
    for key, value in figures.items():
        print(f"{key:>22}: {value:,.2f}" if isinstance(value, float) else f"{key:>22}: {value}")
    if a.json:
        a.json.write_text(json.dumps(figures, indent=2) + "\n")


def make_archive(folder: Path) -> Path:
    tool, series = SHARED / "tools/make_archive.py", SHARED / "data/patch_belgium_2019/series.npz"
    if not tool.is_file():
        sys.exit(f"no {tool}; give --archive, or set GEOMAP_SHARED")
    subprocess.run([sys.executable, str(tool), str(series), str(folder), "--mosaic", "16"], check=True)
    return folder


@contextmanager
def served(folder: Path, port: int, ms: str, mbit: int) -> Iterator[None]:
    """A folder behind a range server on loopback with a delay and a limited bandwidth; GET /stat counts."""
    tool = SHARED / "tools/slow_server.py"
    command = [sys.executable, str(tool), str(folder), str(port), "--ms", ms, "--mbit", str(mbit)]
    server = subprocess.Popen(command)
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/stat").close()
                break
            except OSError:
                time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait()


def measure(archive: Path, out: Path, weights: str, legends: list[str]) -> dict[str, float | str | int]:
    import pyproj
    import torch
    from shapely.geometry import box
    from shapely.ops import transform

    from geomap import aoi
    from geomap.legends import load
    from geomap.run.map import map_area
    from geomap.run.request import Request
    from geomap.types import Period

    started = time.perf_counter()
    to_lonlat = pyproj.Transformer.from_crs(32631, 4326, always_xy=True)
    area = aoi.parse_area(transform(to_lonlat.transform, box(*BOX).segmentize(500)).wkt)
    chosen = tuple(load(name) for name in legends)
    result = map_area(Request(area, Period(2018, 12), str(archive / "items.json"), chosen, weights), out)
    wall = time.perf_counter() - started
    pixels = result.statistics["clear_months"].valid
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "weights": weights,
        "legends": " ".join(legends),
        "scenes": len(result.scenes),
        "pixels": pixels,
        **{f"{stage}_s": seconds for stage, seconds in result.seconds.items()},
        "wall_s": wall,
        "px_per_s": pixels / wall,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,  # kB on Linux
    }


if __name__ == "__main__":
    main()
