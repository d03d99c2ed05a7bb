"""Runs killed at random moments, over and over: nothing half-made is ever called finished, nothing finished is lost."""

import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from pyproj import Transformer

from geomap.run.status import status, verified
from tests.support.archive import PATCH, write_archive
from tests.support.outputs import digests, problems

KILLS = 20
CODE = """
import sys
from pathlib import Path
from geomap.run.map import map_area
from geomap.run.workers import Resources
from geomap.types import Period
from tests.support.requests import request_for, tiles_of

def tell(stage, done, total):
    print(stage, done, total, flush=True)

if __name__ == "__main__":
    items, weights, out, side, workers, stores, box, points, imagery = sys.argv[1:]
    more = {"points": points, "column": "cover"} if points else {}
    more |= {"true_colour": "clearest", "ndvi": True} if imagery == "True" else {}
    request = request_for(
        items, weights, area=box, period=Period(2018, 9, 1), legends=("landcover", "crops"),
        save_composites=stores == "True", save_embeddings=stores == "True",
        **more,
    )
    with tiles_of(int(side)):
        result = map_area(request, Path(out), tell, resources=Resources(workers=int(workers)))
    assert not result.quarantined
"""


@pytest.fixture
def start(archive, untrained, tmp_path):
    """Starts a run as a process: start(out, side of a tile in pixels, workers, stores, items, box, points)."""
    script = tmp_path / "run.py"
    script.write_text(CODE)
    small = archive(dates=9) / "items.json"

    def start(
        out: Path,
        side: int = 16,
        workers: int = 0,
        stores: bool = False,
        items: Path = small,
        box: str = PATCH,
        points: Path | str = "",
        imagery: bool = False,
    ) -> subprocess.Popen[str]:
        given = (script, items, untrained, out, side, workers, stores, box, points, imagery)
        return subprocess.Popen([sys.executable, *map(str, given)], stdout=subprocess.PIPE, text=True)

    return start


def stages(process: subprocess.Popen[str]) -> dict[str, float]:
    """Run to the end; seconds after the first line at which each stage was first told of, and the end."""
    begun: float | None = None
    seen: dict[str, float] = {}
    assert process.stdout is not None
    for line in process.stdout:
        begun = begun or time.monotonic()
        stage, done, total = line.split()
        seen.setdefault("encoded" if stage == "encode" and done == total else stage, time.monotonic() - begun)
    assert process.wait() == 0
    return seen | {"end": time.monotonic() - (begun or time.monotonic())}  # nothing is told of a run that was complete


@pytest.mark.soak
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("workers", "stores", "kills"), [(0, False, KILLS), (2, False, 6), (0, True, 6)])
def test_kills_at_random_moments(start, tmp_path, record_property, workers, stores, kills):
    """Every third one falls into the writing of the maps; the bytes are those of a run that nothing disturbed."""
    rng = random.Random(7)
    took = stages(start(tmp_path / "whole", workers=workers, stores=stores))
    wanted = digests(tmp_path / "whole")
    killed, rounds, done = 0, 0, set()
    while killed < kills:
        out = tmp_path / f"killed-{rounds}"
        process = start(out, workers=workers, stores=stores)
        assert process.stdout is not None
        writing = killed % 3 == 2
        for line in process.stdout:
            stage, n, total = line.split()
            if not writing or (stage == "encode" and n == total):
                break
        span = took["end"] - took["encoded"] if writing else took["end"]
        time.sleep(rng.uniform(0, span))
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        assert process.wait() in (0, -signal.SIGKILL)  # or it ended by itself, and in error
        finished = process.returncode == 0
        for child in children:  # they see that their parent is gone
            child.wait(60)
        if finished:
            assert digests(out) == wanted
            rounds, done = rounds + 1, set()
            continue
        killed += 1
        if not (out / "tiles/request.json").is_file():
            continue
        assert all(
            "did not finish" in line for line in verified(out).problems
        )  # no tile that bears its name is damaged
        kept = {p.name for p in out.glob("tiles/*.npz")}
        assert done <= kept or status(out).state == "finished"  # nothing finished is lost
        done = kept
    last = tmp_path / f"killed-{rounds}"
    stages(start(last, workers=workers, stores=stores))
    assert digests(last) == wanted
    assert problems(last) == ()
    assert not list(last.rglob("*.part*"))
    record_property("kills", killed)
    record_property("runs finished on the way", rounds)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_run_killed_while_it_makes_true_colour_and_ndvi_goes_on_to_the_same_bytes(start, tmp_path):
    stages(start(tmp_path / "whole", 32, imagery=True))
    out, wanted = tmp_path / "killed", digests(tmp_path / "whole")
    assert {"true_colour.tif", "ndvi.tif"} <= wanted.keys()
    for stage, at in (("composite", 1), ("composite", 3), ("write", 1), ("write", 6)):
        process = start(out, 32, imagery=True)
        assert process.stdout is not None
        seen = (line.split() for line in process.stdout)
        assert any(name == stage and int(done) >= at for name, done, _ in seen)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    stages(start(out, 32, imagery=True))
    assert digests(out) == wanted
    assert problems(out) == ()


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_run_killed_while_it_learns_from_points_or_writes_goes_on_to_the_same_bytes(start, tmp_path):
    west, south, east, north = map(float, PATCH.split(","))
    rng, points = random.Random(7), tmp_path / "points.csv"
    rows = [f"{rng.uniform(west, east)},{rng.uniform(south, north)},{('Cropland', 'Water')[i % 2]}" for i in range(60)]
    points.write_text("\n".join(["lon,lat,cover", *rows]))
    stages(start(tmp_path / "whole", points=points))
    out, wanted = tmp_path / "killed", digests(tmp_path / "whole")
    assert {"learned.json", "places.gpkg"} <= wanted.keys()
    for stage, at in (("learn", 1), ("learn", 5), ("write", 1), ("write", 4)):
        process = start(out, points=points)
        assert process.stdout is not None
        assert any(line.split()[:2] == [stage, str(at)] for line in process.stdout)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert status(out).state == "stopped"
        assert all("did not finish" in line for line in verified(out).problems)
    stages(start(out, points=points))
    assert digests(out) == wanted
    assert problems(out) == ()


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_memory_does_not_grow_with_the_area(start, series, tmp_path, record_property):
    """5 km x 5 km, and four times that, in tiles of 256 pixels: the same peak over all processes within 5 %.

    Both hold whole tiles, which a smaller area does not.
    """
    large = write_archive(tmp_path / "large", series.first(9).repeated(16))
    lonlat = Transformer.from_crs(32631, 4326, always_xy=True)
    peaks = []
    for side in (5120, 10240):  # metres
        box = lonlat.transform_bounds(574680, 5622440 - side, 574680 + side, 5622440)
        process = start(tmp_path / str(side), 256, 0, False, large / "items.json", ",".join(map(str, box)))
        peaks.append(0)
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                main = psutil.Process(process.pid)
                peaks[-1] = max(peaks[-1], sum(p.memory_info().rss for p in (main, *main.children(recursive=True))))
            time.sleep(0.1)
        assert process.returncode == 0
    record_property("peak MB", [round(peak / 1e6) for peak in peaks])
    assert peaks[1] <= 1.05 * peaks[0], peaks
    assert max(peaks) <= 2e9, peaks
