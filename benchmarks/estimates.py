"""How true the estimates are: what `geomap plan` and the first line of a map say, and what the map then takes.

The archive is the real Belgian series enlarged 16 x 16 (1024 x 1024 pixels, 53 scenes), read from the disk and from a
server with a delay; each time in a new process. `ratio` is the estimate over what followed. A map overlaps reading and
encoding; both stages count their own seconds.

    python benchmarks/estimates.py [--archive DIR] [--ms 80] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from run import BOX, make_archive, served

PORT = 8097


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--archive", type=Path, help="folder of make_archive.py --mosaic 16")
    p.add_argument("--ms", type=int, default=80, help="delay of the server; 0: local files alone")
    p.add_argument("--json", type=Path)
    p.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one:
        print(json.dumps(measure(a.one)))
        return
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        archive = a.archive or make_archive(Path(scratch) / "archive")
        rows["local"] = apart(archive / "items.json")
        if a.ms:
            rows[f"{a.ms} ms"] = far_away(archive, Path(scratch), a.ms)
    for place, row in rows.items():
        print(place, *(f"{key} {value:.2f}" for key, value in row.items()), sep="\n    ")
    if a.json:
        a.json.write_text(json.dumps(rows, indent=2) + "\n")


def far_away(archive: Path, scratch: Path, ms: int) -> dict[str, float]:
    items = scratch / "remote.json"
    items.write_text((archive / "items.json").read_text().replace(str(archive), f"http://127.0.0.1:{PORT}"))
    with served(archive, PORT, str(ms), 400):
        return apart(items)


def apart(items: Path) -> dict[str, float]:
    """`measure` in a process of its own."""
    child = [sys.executable, __file__, "--one", str(items)]
    return dict(json.loads(subprocess.run(child, check=True, capture_output=True, text=True).stdout))


def measure(items: Path) -> dict[str, float]:
    import pyproj
    from shapely.geometry import box
    from shapely.ops import transform

    from geomap import aoi
    from geomap.run.map import Estimate, map_area
    from geomap.run.plan import plan_request
    from geomap.run.request import Request

    to_lonlat = pyproj.Transformer.from_crs(32631, 4326, always_xy=True)
    area = aoi.parse_area(transform(to_lonlat.transform, box(*BOX).segmentize(500)).wkt)
    request = Request(area, "2018-12/2019-11", str(items), allow_hosts=("127.0.0.1",))
    start = time.perf_counter()
    plan = plan_request(request)
    took = time.perf_counter() - start
    said: list[Estimate] = []
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        result = map_area(request, Path(out) / "maps", on_estimate=said.append)
        wall = time.perf_counter() - start
    read, encoded = result.seconds["composite"], result.seconds["encode"]
    return {
        "plan_s": took,
        "plan_read_s": plan.read_seconds or float("nan"),
        "read_s": read,
        "ratio_read": (plan.read_seconds or float("nan")) / read,
        "plan_encode_s": plan.encode_seconds,
        "map_encode_s": said[0].encode_seconds or float("nan"),
        "encode_s": encoded,
        "ratio_encode_plan": plan.encode_seconds / encoded,
        "ratio_encode_map": (said[0].encode_seconds or float("nan")) / encoded,
        "wall_s": wall,
    }


if __name__ == "__main__":
    main()
