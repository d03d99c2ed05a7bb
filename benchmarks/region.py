"""A region of 64 tiles, in this process and with workers: rate, overhead, memory; and what that means for more.

    python benchmarks/region.py [--workers 0 1 2] [--tiles 64] [--side 64] [--months 6] [--rounds 1] [--json FILE]
    python benchmarks/region.py --project FILE [--scenes 53] [--gpu-px-per-s 1.5e6] ...

The scenes are simulated: a landscape of 64 x 64 pixels, a date in each month, repeated over 8 x 8 neighbouring tiles of
1024 x 1024 pixels. One COG a date and band covers the region, as a granule does, its blocks (512 pixels) not aligned
with the tiles. The area is a square of --side pixels in every tile, so that a tile is read and composited whole, but
only the square is encoded: reading is lighter than a real year's (6 scenes, easily decoded), encoding by far. What is
measured is what workers cost, not how fast a country is; --project (projection.py) puts measured parts together.

A slot is a thread of a worker, which has one tile in hand. The first tiles also wait for libraries and the encoder, so
rates are taken from the arrival of the first tile of each slot to that of the last tile. By number of workers:

    tiles_per_min   rate                              core_s    seconds of the cores, all processes, of a tile
    stage_s         composite and encode, of a tile   beyond_s  seconds of a slot beyond those, start included
    overhead_s      core_s beyond that of 0 workers   own_s     core seconds of the run's own process, of a tile
    start_s         until the first tile is there     write_s   for the maps, of a tile
    worker_mb       peak of the largest worker        own_mb    peak of the run's own process (resident; 10 Hz)

--json keys: runs (medians, by workers), same_bytes, px_per_core_s (of the engine here, by encoder), full_tile_s (core
seconds in which a full tile of two legends is packed, kept, and written into the maps), tiles, side, scenes,
read_gb (decoded), processor, cores, load (before).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from projection import ASSUMED, projection

from geomap.encode.card import Q_HIGH, Q_LOW

TILE = 1024
EPSG, COLUMN, ROW = 32631, 46, 547  # the region's north-western tile
MARGIN = 200  # pixels of the granule around the region
THREADS = 2  # of a worker
LEGENDS = ("landcover", "crops")
YEAR, FIRST = 2023, 4  # and the first month


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="0: in the run's own process")
    p.add_argument("--tiles", type=int, default=64, help="a square number")
    p.add_argument("--side", type=int, default=64, help="pixels of each tile that are encoded, a side; even")
    p.add_argument("--months", type=int, default=6, help="of a date each, from April on; at most 9")
    p.add_argument("--rounds", type=int, default=1, help="runs of each; medians are told")
    p.add_argument("--json", type=Path)
    p.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # workers, archive, output
    p.add_argument("--project", type=Path, metavar="FILE", help="print what the figures in FILE (of --json) mean")
    for name, (value, meaning) in ASSUMED.items():
        p.add_argument(f"--{name}", type=float, default=value, help=f"{meaning} (%(default)g)")
    a = p.parse_args()
    if a.project:
        given = {name: getattr(a, name.replace("-", "_")) for name in ASSUMED}
        print(projection(json.loads(a.project.read_text()), given))
    elif a.one:
        workers, archive, out = a.one
        print(json.dumps(one(int(workers), Path(archive), Path(out), a.tiles, a.side, a.months)))
    else:
        figures = measure(a.workers, a.tiles, a.side, a.months, a.rounds)
        if a.json:
            a.json.write_text(json.dumps(figures, indent=2) + "\n")


# Measuring ------------------------------------------------------------------------------------------------------------


def measure(workers: list[int], tiles: int, side: int, months: int, rounds: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"processor": processor(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    figures |= {"tiles": tiles, "side": side}
    runs: dict[int, list[dict[str, Any]]] = {n: [] for n in workers}
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        figures["scenes"] = write_scenes(Path(scratch) / "archive", math.isqrt(tiles), months)
        took = time.perf_counter() - start
        print(f"{figures['scenes']} simulated scenes over {tiles} tiles, written in {took:.0f} s", flush=True)
        for turn in range(rounds):
            for n in workers:
                out = Path(scratch) / f"{n}-{turn}"
                command = [sys.executable, __file__, f"--tiles={tiles}", f"--side={side}", f"--months={months}"]
                command += ["--one", str(n), str(Path(scratch) / "archive"), str(out)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                runs[n].append(json.loads(done.splitlines()[-1]))
                told = ", ".join(f"{k} {v:.4g}" for k, v in runs[n][-1].items() if k != "sums")
                print(f"{n} workers: {told}", flush=True)
    sums = [set(run.pop("sums").splitlines()) for found in runs.values() for run in found]
    differ = sorted({line.split()[-1] for line in set.union(*sums) - set.intersection(*sums)})
    figures["same_bytes"] = not differ
    figures["runs"] = {
        n: {k: statistics.median(run[k] for run in found) for k in found[0]} for n, found in runs.items()
    }
    figures["read_gb"] = figures["runs"][workers[0]].pop("read_gb")
    for n, run in figures["runs"].items():
        run.pop("read_gb", None)
        if n and 0 in figures["runs"]:
            run["overhead_s"] = run["core_s"] - figures["runs"][0]["core_s"]
            print(f"{n} workers: overhead {run['overhead_s']:.3f} core seconds a tile")
    figures["px_per_core_s"] = engines()
    figures["full_tile_s"] = full_tile_seconds()
    if differ:
        print("files that differ:", *differ)
    for key in ("same_bytes", "px_per_core_s", "full_tile_s"):
        print(f"{key}: {figures[key]}")
    return figures


def one(workers: int, archive: Path, out: Path, tiles: int, side: int, months: int) -> dict[str, Any]:
    """Map the region once; what it took."""
    from geomap import files, legends
    from geomap.run.map import map_area
    from geomap.run.request import Request
    from geomap.run.workers import Resources
    from geomap.types import Period

    usage = Usage()
    slots = max(1, workers * THREADS)
    marks: dict[int, Usage.Mark] = {}
    bytes_read: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "composite" and done not in marks:
            marks[done] = usage.mark()

    chosen = tuple(legends.load(name) for name in LEGENDS)
    request = Request(
        area_of(math.isqrt(tiles), side), Period(YEAR, FIRST, months), str(archive / "items.json"), chosen, device="cpu"
    )
    resources = Resources(workers=workers, threads=THREADS)
    with usage:
        result = map_area(request, out, progress, lambda e: bytes_read.append(e.read_bytes), resources=resources)
    assert result.tiles == tiles, f"{result.tiles} tiles, not {tiles}"
    begun = min(slots, tiles // 2)
    first, last, count = marks[begun], marks[tiles], tiles - begun
    wall = last.time - first.time
    stage = (result.seconds["composite"] + result.seconds["encode"]) / tiles
    return {
        "tiles_per_min": 60 * count / wall,
        "core_s": (last.all - first.all) / count,
        "own_s": (last.own - first.own) / count,
        "stage_s": stage,
        "beyond_s": slots * (last.time - marks[0].time) / tiles - stage if workers else 0.0,  # else stages overlap
        "start_s": marks[1].time - marks[0].time,
        "write_s": result.seconds["write"] / tiles,
        "worker_mb": max(usage.peaks.values(), default=0.0),
        "own_mb": usage.own_peak,
        "read_gb": bytes_read[0] / 1e9,
        "sums": (out / files.SUMS).read_text(),
    }


class Usage:
    """Memory and seconds of this process and of those it started, as a context that samples them."""

    @dataclass(frozen=True)
    class Mark:
        """Where things stand."""

        time: float
        all: float  # seconds of the cores, all processes
        own: float  # of this process

    def __init__(self) -> None:
        import psutil

        self._me = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._spent: dict[int, float] = {}  # core seconds by process
        self.peaks: dict[int, float] = {}  # MB by process of a worker
        self.own_peak = 0.0  # MB

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def mark(self) -> Mark:
        own = self._look()
        return self.Mark(time.perf_counter(), sum(self._spent.values()) + own, own)

    def _sample(self) -> None:
        while not self._stop.wait(0.1):
            self._look()

    def _look(self) -> float:
        """Notes every process; returns the core seconds of this one."""
        import psutil

        self.own_peak = max(self.own_peak, self._me.memory_info().rss / 1e6)
        for child in self._me.children(recursive=True):
            try:
                spent, resident = child.cpu_times(), child.memory_info().rss / 1e6
            except psutil.NoSuchProcess:
                continue
            self._spent[child.pid] = spent.user + spent.system
            self.peaks[child.pid] = max(self.peaks.get(child.pid, 0.0), resident)
        mine = self._me.cpu_times()
        return float(mine.user + mine.system)


def engines() -> dict[str, float]:
    """Pixels of twelve valid months that a core encodes in a second, by encoder; the paper's is untrained."""
    import torch

    from geomap import process
    from geomap.encode import weights
    from geomap.encode.engine import Engine
    from geomap.encode.model import CONFIGS, PixelEncoder
    from geomap.types import Composite

    paper = PixelEncoder(CONFIGS["timesenclip"], torch.tensor(Q_LOW), torch.tensor(Q_HIGH)).eval()
    process.keep_freed()  # as the command line does
    rates = {}
    for name, encoder in (("default", weights.load_weights("default").encoder), ("timesenclip", paper)):
        engine = Engine(encoder, "cpu")
        shape = (8 * engine.threads, engine.batch)
        dn = np.random.default_rng(0).integers(1, 5000, (12, 10, *shape)).astype(np.uint16)
        made, usable = Composite(dn, np.ones((12, *shape), np.uint8)), np.ones(shape, bool)
        spent = []
        for _ in range(4):  # the first one warms up
            start = time.process_time()
            for _ in engine.embed(made, usable, range(12)):
                pass
            spent.append(time.process_time() - start)
        rates[name] = usable.size / statistics.median(spent[1:])
    return rates


def full_tile_seconds(side: int = 2) -> dict[str, float]:
    """Core seconds of a full tile of two legends: packing it where it is made; keeping it and writing it into the maps.

    Ids are those of patches of 8 x 8 pixels, confidences random by 4 percent points in 2 x 2: harder than most land.
    """
    from geomap import legends
    from geomap.run import tile_file
    from geomap.types import Grid
    from geomap.write.cog import write_map
    from geomap.write.layer import Layer

    rng = np.random.default_rng(0)
    layers = {"clear_months": np.full((TILE, TILE), 12, np.uint8)}
    for name in LEGENDS:
        ids = rng.integers(1, 9, (TILE // 8,) * 2, np.uint8)
        layers[name] = ids.repeat(8, 0).repeat(8, 1)
        layers[f"{name}_confidence"] = (4 * rng.integers(5, 25, (TILE // 2,) * 2, np.uint8)).repeat(2, 0).repeat(2, 1)
    start = time.process_time()
    travelled = pickle.dumps(tile_file.Finished(tile_file.pack(layers)), protocol=5)
    packed = time.process_time() - start
    land = Layer("map", "simulated", "classes", legends.load("landcover"))
    whole = Grid(EPSG, COLUMN * TILE * 10, ROW * TILE * 10, side * TILE, side * TILE)
    step = TILE * 10
    corners = [(whole.west + step * column, whole.north - step * row) for row in range(side) for column in range(side)]
    parts = [Grid(EPSG, west, north, TILE, TILE) for west, north in corners]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tile.npz"
        start = time.process_time()
        for _ in parts:
            path.write_bytes(tile_file.encode(pickle.loads(travelled), ""))
        kept = time.process_time()
        for stem in layers:
            tiles = ((part, tile_file.read_layer(path, stem)) for part in parts)
            write_map(Path(folder) / "map.tif", land, whole, tiles, {})
        done = time.process_time()
    return {"pack": packed, "keep": (kept - start) / len(parts), "maps": (done - kept) / len(parts)}


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


# The region -----------------------------------------------------------------------------------------------------------


def area_of(n: int, side: int) -> Any:
    """A square of `side` pixels in each of n x n tiles; the outer squares at the outer edges, so no tile is cut."""
    import pyproj
    import shapely

    from geomap import aoi

    squares = []
    for row in range(n):
        for column in range(n):
            right, down = (10 * round(k * (TILE - side) / max(1, n - 1)) for k in (column, row))
            west, north = 10 * TILE * (COLUMN + column) + right, 10 * TILE * (ROW - row) - down
            squares.append(shapely.box(west + 1, north - 10 * side + 1, west + 10 * side - 1, north - 1))
    to_lonlat = pyproj.Transformer.from_crs(EPSG, 4326, always_xy=True)
    degrees = shapely.transform(shapely.MultiPolygon(squares), lambda xy: np.column_stack(to_lonlat.transform(*xy.T)))
    return aoi.parse_area(degrees.wkt)


def write_scenes(folder: Path, n: int, months: int) -> int:
    """A granule over n x n tiles for each month; how many."""
    from rasterio.warp import transform_bounds

    from geomap import simulate
    from geomap.types import Grid

    wanted = range(FIRST, FIRST + months)
    others = [month for month in range(1, 13) if month not in wanted]
    small = folder / "small"
    made = simulate.write_archive(small, year=YEAR, size=64, missing=others, overcast=())
    clearest: dict[str, Any] = {}
    for item in sorted(json.loads(made.items.read_text())["features"], key=cloud):
        clearest.setdefault(item["properties"]["datetime"][:7], item)
    size = n * TILE + 2 * MARGIN
    whole = Grid(EPSG, 10 * (TILE * COLUMN - MARGIN), 10 * (TILE * ROW + MARGIN), size, size)
    west, south, east, north = transform_bounds(EPSG, 4326, *whole.bounds)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    jobs = []
    for item in clearest.values():
        item |= {"bbox": [west, south, east, north], "geometry": {"type": "Polygon", "coordinates": [ring]}}
        item["properties"]["proj:epsg"] = EPSG
        for asset in item["assets"].values():
            part = whole.at(int(asset["gsd"]))
            asset |= {"proj:shape": list(part.shape), "proj:transform": [int(v) for v in part.transform]}
            jobs.append((small / asset["href"], folder / asset["href"], part))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda job: enlarge(*job), jobs))
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": list(clearest.values())}))
    return len(clearest)


def cloud(item: dict[str, Any]) -> float:
    return float(item["properties"]["eo:cloud_cover"])


def enlarge(small: Path, path: Path, grid: Any) -> None:
    """Repeat the pixels of a file over a grid, in blocks of 512 pixels, 5 MB at a time."""
    import rasterio

    with rasterio.open(small) as source:
        pixels = source.read(1)
    stripe = np.tile(pixels, (-(-512 // pixels.shape[0]), -(-grid.width // pixels.shape[1])))[:512, : grid.width]
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff",
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "compress": "DEFLATE",
        "zlevel": 1,
    }
    profile |= {
        "height": grid.height,
        "width": grid.width,
        "count": 1,
        "dtype": pixels.dtype,
        "crs": grid.epsg,
        "nodata": 0,
    }
    with rasterio.open(path, "w", **profile, predictor=2, transform=rasterio.Affine(*grid.transform)) as out:
        for top in range(0, grid.height, 512):
            rows = min(512, grid.height - top)
            out.write(stripe[:rows], 1, window=((top, top + rows), (0, grid.width)))


if __name__ == "__main__":
    main()
