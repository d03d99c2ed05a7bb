"""Monthly composites of one tile: geomap beside plain decoding and beside stackstac and odc-stac as their pages show.

    python benchmarks/composite.py [--archive DIR] [--repeat 3] [--sides ...] [--tiles 1,4,16] [--json FILE]

The archive is the real Belgian series enlarged 16 x 16: 53 scenes from December 2018 to November 2019, 10 bands and
SCL, 1024 x 1024 pixels of 10 m in local COGs. It is made with the tool that lies beside the data unless --archive names
one.

Every side makes twelve medians of the clear pixels of ten bands, in a process of its own that keeps freed memory as the
command line does, with two threads on two cores. Imports, compiled code's too, and the search for items are not timed.

    geomap     read.scene_classes -> composite.read_classes -> read.stack -> composite.compute; each band at its own
               resolution, as it is held
    decode     rasterio.open and read of every band, whole, at its own resolution; the same median kernel
    stackstac  stackstac.stack of the bands and of SCL at 10 m, .where(clear), .groupby("time.month").median()
    odc        odc.stac.load in the same way

geomap and decode take turns, --repeat times, and their seconds are medians; stackstac and odc, ten times as long, run
once. On a machine that does other work, compare the seconds of the cores.

--json keys: seconds (of the clock) and cpu_seconds (user + system) per side; ratio_stackstac, ratio_odc: their seconds
over geomap's; ratio_decode: geomap's seconds over those of decode; cpu_ratio_*: the same of the cores' seconds;
peak_gb: of geomap's process, peaks_gb: of every side's; equal: every side's medians are geomap's, bit for bit, float
medians of even counts rounded down; tiles_peak_gb: of processes that composite so many tiles one after another, each
moved by 20 m.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from run import make_archive

from geomap import process
from geomap.errors import install_hint
from geomap.types import Composite

EPSG, WEST, NORTH, TILE = 32631, 574680, 5622440, 1024  # the enlarged patch
ASSETS = ["blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22"]
FINE = {"blue", "green", "red", "nir"}
NOT_CLEAR = [0, 1, 3, 8, 9, 10, 11]
THREADS = 2
MONTHS = [(2018, 12), *((2019, month) for month in range(1, 12))]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--archive", type=Path, help="folder of make_archive.py --mosaic 16")
    p.add_argument("--repeat", type=int, default=3, help="runs of geomap and of decode")
    p.add_argument("--sides", default="stackstac,odc", help="beside geomap and decode")
    p.add_argument("--tiles", default="1,4,16", help="numbers of tiles for the peak memory; empty: none")
    p.add_argument("--json", type=Path)
    p.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # the process of one side
    p.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.side:
        print(json.dumps(one_side(a.side, a.archive, a.repeat, a.out)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        archive = a.archive or make_archive(Path(scratch) / "archive")
        figures = measure(archive, Path(scratch), a.repeat, listed(a.sides), [int(n) for n in listed(a.tiles)])
    for key, value in figures.items():
        print(f"{key:>17}: {value:.2f}" if isinstance(value, float) else f"{key:>17}: {value}")
    if a.json:
        a.json.write_text(json.dumps(figures, indent=2) + "\n")


def listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def measure(archive: Path, scratch: Path, repeat: int, others: list[str], tiles: list[int]) -> dict[str, Any]:
    runs: dict[str, list[dict[str, float]]] = {}

    def run(name: str, side: str, count: int = 1) -> None:
        command = [sys.executable, "-W", "ignore", __file__, "--archive", str(archive), "--out", str(scratch / name)]
        command += ["--side", side, "--repeat", str(count)]
        limits = {"OMP_NUM_THREADS": "1", "DASK_NUM_WORKERS": str(THREADS)}
        done = subprocess.run(command, env=os.environ | limits, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{name} failed")
        figure: dict[str, float] = json.loads(done.stdout)
        shown = "{seconds:.2f} s, {cpu:.2f} s of the cores, {peak:.2f} GB".format(**figure)
        print(f"{name:>17}: {shown}", flush=True)
        runs.setdefault(name, []).append(figure)

    for _ in range(repeat):
        run("geomap", "geomap")
        run("decode", "decode")
    for side in others:
        run(side, side)
    sides = ["geomap", "decode", *others]
    for count in tiles:
        run(str(count), "geomap", count)

    def median(name: str, key: str) -> float:
        return statistics.median(figure[key] for figure in runs[name])

    figures: dict[str, Any] = {}
    for prefix, key in (("", "seconds"), ("cpu_", "cpu")):
        figures[f"{prefix}seconds"] = {name: round(median(name, key), 2) for name in sides}
        figures[f"{prefix}ratio_decode"] = median("geomap", key) / median("decode", key)
        figures |= {f"{prefix}ratio_{side}": median(side, key) / median("geomap", key) for side in others}
    figures["peaks_gb"] = {name: round(median(name, "peak"), 2) for name in sides}
    figures["peak_gb"] = max(figure["peak"] for figure in runs["geomap"])
    figures["equal"] = all(equal(scratch, name) for name in sides)
    figures["tiles_peak_gb"] = {str(count): round(median(str(count), "peak"), 3) for count in tiles}
    return figures


def equal(scratch: Path, name: str) -> bool:
    """Whether a side's medians are those of geomap."""
    made, ours = (np.load(scratch / f"{side}.npy", mmap_mode="r") for side in (name, "geomap"))
    return bool(np.array_equal(made, ours))


def one_side(side: str, archive: Path, count: int, out: Path) -> dict[str, float]:
    """Seconds, of the clock and of the cores, and peak memory of `count` composites in this process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    process.keep_freed()
    work = SIDES[side](archive)
    start, cores = time.perf_counter(), time.process_time()
    for number in range(count):
        made = work(number)
        if number < count - 1:
            del made
    seconds, cpu = time.perf_counter() - start, time.process_time() - cores
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kB on Linux
    dn = made.dn if isinstance(made, Composite) else np.floor(np.nan_to_num(made)).astype(np.uint16)
    np.save(out.with_suffix(".npy"), dn)
    return {"seconds": seconds, "cpu": cpu, "peak": peak}


def geomap(archive: Path) -> Callable[[int], Composite]:
    from pyproj import Transformer
    from shapely.geometry import box

    from geomap.catalog.search import search
    from geomap.composite.mask import clear_np
    from geomap.composite.monthly import compute, read_classes
    from geomap.read.access import Access
    from geomap.read.blocks import add_up_
    from geomap.read.stack import scene_classes, stack
    from geomap.types import Grid, Period

    for dtype in (np.uint8, np.uint16):
        add_up_(np.zeros((1, 1), dtype))
    period = Period(2018, 12)
    corners = Transformer.from_crs(EPSG, 4326, always_xy=True).transform_bounds(
        WEST, NORTH - 10 * TILE, WEST + 10 * TILE, NORTH
    )
    scenes = search(box(*corners), period, str(archive / "items.json")).scenes

    def work(number: int) -> Composite:
        tile = Grid(EPSG, WEST - 20 * number, NORTH, TILE, TILE)
        clear = clear_np(read_classes(scene_classes(scenes, tile, Access()), workers=THREADS))
        return compute(stack(scenes, tile, period, Access(), clear), 12, workers=THREADS, fused=True)

    return work


def decode(archive: Path) -> Callable[[int], Composite]:
    import rasterio

    from geomap.composite.mask import clear_np
    from geomap.composite.median import month_median_np
    from geomap.read.access import GDAL_OPTIONS

    features = items_of(archive)
    months = [MONTHS.index(when(f).timetuple()[:2]) for f in features]

    def pixels(feature: dict[str, Any], asset: str) -> np.ndarray:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(feature["assets"][asset]["href"]) as source:
            return source.read(1)

    def band(asset: str, clear: list[np.ndarray]) -> np.ndarray:
        dn = [pixels(feature, asset) for feature in features]
        medians = np.zeros((12, *dn[0].shape), np.uint16)
        for month in range(12):
            scenes = [i for i, m in enumerate(months) if m == month]
            chosen = [dn[i] for i in scenes], [clear[i] for i in scenes]
            medians[month] = month_median_np(*chosen, [0] * len(scenes), scenes)
        return medians

    def work(number: int) -> Composite:
        with ThreadPoolExecutor(THREADS) as pool:
            clear = [clear_np(scl) for scl in pool.map(lambda f: pixels(f, "scl"), features)]
            made = dict(zip(ASSETS, pool.map(lambda asset: band(asset, clear), ASSETS), strict=True))
        fine, coarse = (np.stack([m for a, m in made.items() if (a in FINE) == of], 1) for of in (True, False))
        return Composite(fine, np.zeros((12, TILE, TILE), np.uint8), coarse)

    return work


def stackstac(archive: Path) -> Callable[[int], np.ndarray]:
    import dask
    import stackstac

    items = items_of(archive)
    grid = {"epsg": EPSG, "resolution": 10, "bounds": (WEST, NORTH - 10 * TILE, WEST + 10 * TILE, NORTH)}

    def work(number: int) -> np.ndarray:
        bands = stackstac.stack(items, assets=ASSETS, rescale=False, **grid)
        scl = stackstac.stack(items, assets=["scl"], rescale=False, **grid).isel(band=0)
        monthly = bands.where(~scl.isin(NOT_CLEAR)).groupby("time.month").median()
        with dask.config.set(scheduler="threads", num_workers=THREADS):
            return in_order(monthly).transpose("month", "band", "y", "x").values

    return work


def odc(archive: Path) -> Callable[[int], np.ndarray]:
    import dask
    import pystac

    try:
        from odc.geo.geobox import GeoBox
        from odc.stac import load
    except ImportError:
        sys.exit(f"odc-stac is not installed; type: {install_hint('odc-stac')}; or leave it out with --sides stackstac")

    items = [pystac.Item.from_dict(item) for item in items_of(archive)]
    grid = GeoBox.from_bbox((WEST, NORTH - 10 * TILE, WEST + 10 * TILE, NORTH), f"EPSG:{EPSG}", resolution=10)
    assets = {"*": {"data_type": "uint16", "nodata": 0}, "scl": {"data_type": "uint8", "nodata": 0}}

    def work(number: int) -> np.ndarray:
        loaded = load(
            items, [*ASSETS, "scl"], geobox=grid, chunks={"x": 1024, "y": 1024}, stac_cfg={"*": {"assets": assets}}
        )
        bands = loaded[ASSETS]
        monthly = bands.where((bands != 0) & ~loaded.scl.isin(NOT_CLEAR)).groupby("time.month").median()
        with dask.config.set(scheduler="threads", num_workers=THREADS):
            return in_order(monthly).to_array("band").transpose("month", "band", "y", "x").values

    return work


def in_order(monthly: Any) -> Any:
    """Calendar months in the order of the period."""
    return monthly.sel(month=[month for _, month in MONTHS])


def items_of(archive: Path) -> list[dict[str, Any]]:
    """The items of the twelve months."""
    features = json.loads((archive / "items.json").read_text())["features"]
    return [f for f in features if when(f).timetuple()[:2] in MONTHS]


def when(feature: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(feature["properties"]["datetime"])


SIDES: dict[str, Callable[[Path], Callable[[int], Any]]] = {
    "geomap": geomap,
    "decode": decode,
    "stackstac": stackstac,
    "odc": odc,
}


if __name__ == "__main__":
    main()
