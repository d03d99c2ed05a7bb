"""Reading far away: geomap beside stackstac and odc-stac, over a server with a delay and a limited bandwidth.

    python benchmarks/remote.py [--block 1024] [--ms 0,40,80] [--mbit 400] [--sides ...] [--json FILE]

The archive is the real Belgian series enlarged 16 x 16: 53 scenes, ten bands and SCL, 1024 x 1024 pixels of 10 m that
lie as a granule's blocks lie (inside 31UES). Each side runs in a process of its own, on two cores:

    geomap     the area's tiles one after another, as a run reads them: pixels and monthly medians
    stackstac  stackstac.stack of the bands and of SCL, chunks as the files' blocks, 16 threads: pixels alone
    odc        odc.stac.load of the same, chunks as the files' blocks, 16 threads: pixels alone

The peers' medians are made afterwards with geomap's kernel, untimed, to compare them (xarray's own takes a minute).
Keys: seconds; requests and bytes as the server counts them; files and window_bytes: what the files of the scenes hold;
peak_gb; equal: whether the medians are the same, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from composite import ASSETS, MONTHS, NOT_CLEAR, items_of, when
from run import SHARED, served

from geomap.errors import install_hint

EPSG, WEST, NORTH, SIDE = 32631, 540940, 5679520, 1024
PORT, THREADS = 8096, 16
Medians = np.ndarray
"""(month, band, y, x) uint16."""


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--block", default="1024", help="side of the files' blocks, 512 or 1024, or both with a comma")
    p.add_argument("--ms", default="0,40,80", help="delays of the server")
    p.add_argument("--mbit", type=int, default=400)
    p.add_argument("--sides", default=",".join(SIDES))
    p.add_argument("--json", type=Path)
    p.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # the process of one side
    p.add_argument("--items", type=Path, help=argparse.SUPPRESS)
    p.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.side:
        print(json.dumps(one_side(a.side, a.items, int(a.block), a.out)))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for block in a.block.split(","):
            archive = make_archive(Path(scratch) / f"archive{block}", block)
            for ms in a.ms.split(","):
                rows += over(archive, Path(scratch), block, ms, a.mbit, a.sides.split(","))
    if a.json:
        a.json.write_text(json.dumps(rows, indent=2) + "\n")


def make_archive(folder: Path, block: str) -> Path:
    tool, series = SHARED / "tools/make_archive.py", SHARED / "data/patch_belgium_2019/series.npz"
    if not tool.is_file():
        sys.exit(f"no {tool}; set GEOMAP_SHARED")
    place = ["--mosaic", "16", "--origin", str(WEST), str(NORTH), "--block", block]
    place += ["--base-url", f"http://127.0.0.1:{PORT}/cogs"]
    subprocess.run([sys.executable, str(tool), str(series), str(folder), *place], check=True)
    return folder


def over(archive: Path, scratch: Path, block: str, ms: str, mbit: int, sides: list[str]) -> list[dict[str, Any]]:
    """A row for each side, over one server."""
    hrefs = [f["assets"][key]["href"] for f in items_of(archive) for key in (*ASSETS, "scl")]
    sizes = [(archive / href.partition(f":{PORT}/")[2]).stat().st_size for href in hrefs]
    rows, first = [], None
    for side in sides:
        out = scratch / f"{side}.npy"
        with served(archive, PORT, ms, mbit):
            child = [sys.executable, "-W", "ignore", __file__, "--side", side, "--block", block]
            child += ["--items", str(archive), "--out", str(out)]
            done = subprocess.run(child, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                sys.exit(f"{side} failed")
            seen = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{PORT}/stat").read())
        made = np.load(out)
        first = made if first is None else first
        row = {"side": side, "block": int(block), "ms": float(ms), **json.loads(done.stdout)}
        row |= {"requests": seen["requests"], "bytes": seen["bytes"]}
        row |= {"files": len(sizes), "window_bytes": sum(sizes), "equal": bool(np.array_equal(made, first))}
        print(
            f"{side:>9} block {block:>4} {ms:>3} ms: {row['seconds']:6.1f} s, {row['requests']:>6,} requests "
            f"({row['requests'] / len(sizes):.2f} a file), {row['bytes'] / 1e6:,.0f} MB "
            f"({row['bytes'] / sum(sizes):.2f} of the files), peak {row['peak_gb']:.2f} GB, equal {row['equal']}",
            flush=True,
        )
        rows.append(row)
    return rows


def one_side(side: str, archive: Path, block: int, out: Path) -> dict[str, float]:
    """Seconds and peak memory of one side in this process; its medians are saved."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    work = SIDES[side](archive, block)
    start = time.perf_counter()
    finish = work()
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    np.save(out, finish())
    return {"seconds": seconds, "peak_gb": peak}


Work = Callable[[], Callable[[], Medians]]
"""The timed part; it returns the untimed rest, which gives the medians."""


def geomap(archive: Path, block: int) -> Work:
    import pyproj
    from shapely.geometry import box
    from shapely.ops import transform

    from geomap import aoi, grid, pipeline
    from geomap.catalog.over import over as scenes_over
    from geomap.catalog.search import search
    from geomap.read.header import Headers
    from geomap.types import Grid, Period

    period = Period(2018, 12)
    to_lonlat = pyproj.Transformer.from_crs(EPSG, 4326, always_xy=True).transform
    frame = box(WEST, NORTH - 10 * SIDE, WEST + 10 * SIDE, NORTH)
    area = aoi.parse_area(transform(to_lonlat, frame.segmentize(500)).wkt)
    hosts = ["127.0.0.1"]
    scenes = search(area.geometry, period, str(archive / "items.json"), allow_hosts=hosts).scenes
    whole = np.zeros((12, len(ASSETS), SIDE, SIDE), np.uint16)

    def work() -> Callable[[], Medians]:
        with Headers() as kept:
            for near in grid.in_pairs(grid.tiles(area), lambda tile: tile.grid).values():
                parts = [(tile.grid, scenes_over(scenes, tile.grid), ()) for tile in near]
                together = pipeline.read_together(parts, period, kept=kept)
                for where, over_tile, _ in parts:
                    put(where, pipeline.compose(over_tile, where, period, together=together, kept=kept).dn)
        return lambda: whole

    def put(where: Grid, dn: np.ndarray) -> None:
        row, col = (NORTH - where.north) // 10, (where.west - WEST) // 10
        rows, cols = (slice(max(v, 0), min(v + n, SIDE)) for v, n in ((row, dn.shape[2]), (col, dn.shape[3])))
        whole[:, :, rows, cols] = dn[:, :, rows.start - row : rows.stop - row, cols.start - col : cols.stop - col]

    return work


def stackstac(archive: Path, block: int) -> Work:
    import dask
    import stackstac

    items = items_of(archive)
    grid = {"epsg": EPSG, "bounds": (WEST, NORTH - 10 * SIDE, WEST + 10 * SIDE, NORTH), "rescale": False}
    grid |= {"resolution": 10, "chunksize": block, "dtype": "uint16", "fill_value": np.uint16(0)}

    def work() -> Callable[[], Medians]:
        with dask.config.set(scheduler="threads", num_workers=THREADS):
            pixels = stackstac.stack(items, assets=[*ASSETS, "scl"], **grid).values  # (time, band, y, x)
        return lambda: medians(items, {asset: pixels[:, i] for i, asset in enumerate([*ASSETS, "scl"])})

    return work


def odc(archive: Path, block: int) -> Work:
    import dask
    import pystac

    try:
        from odc.geo.geobox import GeoBox
        from odc.stac import configure_rio, load
    except ImportError:
        sys.exit(f"odc-stac is not installed; type: {install_hint('odc-stac')}; or leave it out with --sides geomap")

    features = items_of(archive)
    items = [pystac.Item.from_dict(item) for item in features]
    grid = GeoBox.from_bbox((WEST, NORTH - 10 * SIDE, WEST + 10 * SIDE, NORTH), f"EPSG:{EPSG}", resolution=10)
    assets = {"*": {"data_type": "uint16", "nodata": 0}, "scl": {"data_type": "uint8", "nodata": 0}}
    configure_rio(cloud_defaults=True)  # its documentation's advice for files far away

    def work() -> Callable[[], Medians]:
        chunks = {"x": block, "y": block}
        with dask.config.set(scheduler="threads", num_workers=THREADS):
            loaded = load(
                items, [*ASSETS, "scl"], geobox=grid, chunks=chunks, stac_cfg={"*": {"assets": assets}}, groupby="id"
            ).load()
        order = [list(loaded.time.values.astype("datetime64[s]")).index(np.datetime64(when(f), "s")) for f in features]
        return lambda: medians(features, {asset: loaded[asset].values[order] for asset in [*ASSETS, "scl"]})

    return work


def medians(features: list[dict[str, Any]], pixels: dict[str, np.ndarray]) -> Medians:
    """By geomap's kernel, from (scene, y, x) pixels of each asset at 10 m."""
    from geomap.composite.median import month_median_np

    months = [MONTHS.index(when(f).timetuple()[:2]) for f in features]
    clear = ~np.isin(pixels["scl"], NOT_CLEAR)
    made = np.zeros((12, len(ASSETS), SIDE, SIDE), np.uint16)
    for number, asset in enumerate(ASSETS):
        for month in range(12):
            rows = [i for i, m in enumerate(months) if m == month]
            if rows:
                chosen = [pixels[asset][i].astype(np.uint16) for i in rows], [clear[i] for i in rows]
                made[month, number] = month_median_np(*chosen, [0] * len(rows), rows)
    return made


SIDES: dict[str, Callable[[Path, int], Work]] = {"geomap": geomap, "stackstac": stackstac, "odc": odc}


if __name__ == "__main__":
    main()
