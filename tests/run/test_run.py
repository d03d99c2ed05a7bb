"""Whole runs: scenes served by a real STAC API and over HTTP, resumed, refused, repeated byte for byte."""

import functools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geomap import aoi, files, grid
from geomap import legends as legend
from geomap.errors import BusyError, DiskFullError, LegendError, NoScenesError, OutputError, ReadError
from geomap.run.identity import identity_of
from geomap.run.map import Result, map_area
from geomap.run.request import Request
from geomap.run.tile_file import Task
from geomap.types import Period
from tests.support.outputs import digests, problems
from tests.support.requests import request_for, tiles_of
from tests.support.runner import start
from tests.support.server import Server

PERIOD = Period(2018, 12)
LEGENDS = ("landcover", "crops")


@pytest.fixture(scope="session")
def asking(asking) -> Callable[..., Request]:
    """Two maps of a year, unless changed."""
    return functools.partial(asking, period=PERIOD, legends=LEGENDS, min_clear_months=3)


@pytest.fixture(scope="module")
def cogs_over_http(archive) -> Iterator[Path]:
    """An archive whose items point to its own COGs on a server on loopback."""
    with Server() as server:
        server.folder = archive(base_url=f"{server.base}/cogs")
        yield server.folder


@pytest.fixture(scope="module")
def spring(archive, asking, tmp_path_factory) -> tuple[Request, Result]:
    """Four months of the patch as one tile: what was asked, and what was made."""
    asked = asking(archive() / "items.json", period=Period(2019, 4, 4))
    return asked, map_area(asked, tmp_path_factory.mktemp("spring") / "out")


def test_maps_from_a_stac_api_lie_on_the_grid_of_the_scenes(cogs_over_http, stac_server, asking, tmp_path):
    result = map_area(asking(stac_server(cogs_over_http)), tmp_path / "api")
    with rasterio.open(tmp_path / "api/landcover.tif") as m, rasterio.open(tmp_path / "api/crops.tif") as c:
        assert m.crs.to_epsg() == 32631
        assert (m.transform.a, m.transform.e) == (10, -10)
        assert (m.transform.c - 574680) % 10 == (m.transform.f - 5622440) % 10 == 0
        assert m.transform == c.transform
        labels = m.read(1)
        row, col = round((m.transform.f - 5622440) / 10), round((574680 - m.transform.c) / 10)
        patch = np.zeros(labels.shape, bool)
        patch[row : row + 64, col : col + 64] = True
        assert not labels[~patch].any()  # no scene there: nodata
        assert (labels[patch] > 0).mean() > 0.95
        assert set(np.unique(labels)) <= {0, *(k.id for k in legend.load("landcover").classes)}
    assert result.statistics["clear_months"].maximum == 12
    assert problems(tmp_path / "api") == ()
    # the same from an item file, byte for byte but for the catalogue's name
    map_area(asking(str(cogs_over_http / "items.json")), tmp_path / "file")
    one, two = digests(tmp_path / "api"), digests(tmp_path / "file")
    assert {k for k in one if one[k] != two[k]} == {"run.json", "index.html", "SHA256SUMS"}


def test_the_same_request_gives_the_same_bytes(spring, tmp_path):
    asked, first = spring
    map_area(asked, tmp_path / "two")
    assert digests(first.directory) == digests(tmp_path / "two")


def test_tiles_do_not_show(spring, tmp_path):
    asked, one = spring
    with tiles_of(32):
        many = map_area(asked, tmp_path / "many")
    assert len(json.loads((many.directory / "run.json").read_text())["tiles"]) > 4
    for name in ("landcover", "crops", "clear_months"):
        with rasterio.open(tmp_path / f"many/{name}.tif") as a, rasterio.open(one.directory / f"{name}.tif") as b:
            assert a.transform == b.transform
            np.testing.assert_array_equal(a.read(1), b.read(1))


KILLED = """
import sys
from pathlib import Path
from geomap.run.map import map_area
from geomap.types import Period
from tests.support.requests import request_for, tiles_of

items, weights, out = sys.argv[1:]
with tiles_of(32):
    request = request_for(items, weights, period=Period(2019, 4, 3), legends=("landcover", "crops"))
    map_area(request, Path(out))
"""


def test_a_killed_run_resumes_to_the_same_bytes(archive, untrained, tmp_path):
    """SIGKILL a real process after its first tiles, and after all of them; then run the same request again, here."""
    given = (archive() / "items.json", untrained)
    out = tmp_path / "killed"
    for tiles in (2, 4):
        process = start(KILLED, *given, out)
        while len(list(out.glob("tiles/*.npz"))) < tiles:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert {p.name for p in out.iterdir()} == {files.STATE}  # nothing that looks finished
        assert any("did not finish" in line for line in problems(out))
    with tiles_of(32):
        asked = request_for(*given, period=Period(2019, 4, 3), legends=LEGENDS)
        assert map_area(asked, out).resumed >= 4
        map_area(asked, tmp_path / "whole")
    assert digests(out) == digests(tmp_path / "whole")
    assert not list(out.rglob("*.part*"))


def test_a_finished_run_is_left_as_it_is_and_another_request_is_refused(archive, asking, tmp_path):
    items, out = archive() / "items.json", tmp_path / "out"
    asked = asking(items, period=Period(2019, 6, 3), legends=(legend.load("landcover"),))
    first = map_area(asked, out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.tif")}
    again = map_area(asked, out)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.tif")} == before
    assert {k: v.counts for k, v in again.statistics.items()} == {k: v.counts for k, v in first.statistics.items()}
    renamed = [c.model_copy(update={"name": f"my {c.name}"}) for c in legend.load("landcover").classes]
    mine = legend.load("landcover").model_copy(update={"classes": tuple(renamed)})
    for legends in ((legend.load("landcover"), legend.load("crops")), (mine,)):
        with pytest.raises(OutputError, match=r"another request \(differs in: legends(, within)?\)"):
            map_area(asking(items, period=Period(2019, 6, 3), legends=legends), out)
    # so is one with an edited style, or with a map that somebody put there
    style = out / "landcover.qml"
    style.write_text(style.read_text().replace("Cropland", "Bois"))
    shutil.copy(out / "landcover.tif", out / "copy.tif")
    map_area(asked, out)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("landcover*.tif")}.items() <= before.items()
    assert "Bois" in style.read_text()
    (out / "copy.tif").unlink()
    # a damaged map is found and made again
    content = bytearray((out / "landcover.tif").read_bytes())
    content[-1] ^= 1
    (out / "landcover.tif").write_bytes(content)
    map_area(asked, out)
    assert problems(out) == ()


def test_a_directory_of_other_files_is_refused(archive, asking, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        map_area(asking(archive() / "items.json"), tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_two_runs_on_one_directory_the_second_is_refused(archive, asking, tmp_path):
    from geomap.run.directory import open_directory

    asked = asking(archive() / "items.json")
    with open_directory(tmp_path / "out", {}).lock(), pytest.raises(BusyError, match="another run"):
        map_area(asked, tmp_path / "out")


def test_two_maps_of_one_name_are_refused(archive, asking, tmp_path):
    named = {"classes": legend.load("landcover").classes, "title": "mine"}
    for legends in (
        (legend.load("landcover"), legend.load("landcover")),
        (legend.Legend(name="clear_months", **named),),
        (legend.load("landcover"), legend.Legend(name="landcover_confidence", **named)),
    ):
        with pytest.raises(LegendError, match="two maps would be called"):
            map_area(asking(archive() / "items.json", legends=legends), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_within_takes_a_legend_file_and_refuses_scores(archive, asking, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(legend.source("landcover").replace('name = "landcover"', 'name = "cover"'))
    asked = asking(
        archive() / "items.json",
        period=Period(2019, 6, 2),
        min_clear_months=1,
        legends=(legend.load("crops"),),
        within=(str(file), "Cropland"),
        weights="default",
    )
    result = map_area(asked, tmp_path / "out")
    assert [layer.stem for layer in result.layers][:1] == ["cover"]
    with pytest.raises(LegendError, match="scores, not classes"):
        map_area(asking(asked.stac, within=("scenicness", "x")), tmp_path / "other")


def test_a_failed_run_without_tiles_takes_a_corrected_item_file(archive, asking, tmp_path):
    """Nothing was finished, so nothing ties the directory to the scenes that failed."""
    content = json.loads((archive() / "items.json").read_text())
    broken = json.loads(json.dumps(content))
    for item in broken["features"]:
        item["assets"]["nir"]["href"] = str(tmp_path / f"{item['id']}_missing.tif")
    items = tmp_path / "items.json"
    items.write_text(json.dumps(broken))
    asked = asking(items, period=Period(2019, 6, 2), min_clear_months=1)
    with pytest.raises(ReadError, match=r"missing\.tif"):
        map_area(asked, tmp_path / "out")
    items.write_text(json.dumps(content))
    map_area(asked, tmp_path / "out")
    assert problems(tmp_path / "out") == ()


def test_a_torn_tile_is_made_again_and_names_of_legends_are_free(archive, asking, tmp_path):
    from geomap.run.directory import open_directory
    from geomap.run.prepare import prepare
    from geomap.run.tile_file import Finished, pack

    named = legend.Legend(name="file", title="mine", classes=legend.load("landcover").classes)
    asked = asking(archive() / "items.json", period=Period(2019, 6, 2), min_clear_months=1, legends=(named,))
    job = prepare(asked)
    out = tmp_path / "out"
    state = open_directory(out, identity_of(job))
    (tile,) = job.tiles
    task = Task(tile)
    with state.lock():  # which marks the folder as a run's
        state.save(task, Finished(pack({"file": np.ones(tile.grid.shape, np.uint8)})))
    assert state.has(task, ["file"])
    for content in (b"", b"PK\x03\x04torn"):
        (out / f"tiles/{tile.name}.npz").write_bytes(content)
        assert not state.has(task, ["file"])
    map_area(asked, out)
    assert (out / "file.tif").is_file()


def test_tokens_do_not_outlive_the_run(cogs_over_http, asking, tmp_path):
    content = json.loads((cogs_over_http / "items.json").read_text())
    for item in content["features"]:
        for asset in item["assets"].values():
            asset["href"] += "?sig=SECRET"
    items = tmp_path / "items.json"
    items.write_text(json.dumps(content))
    asked = asking(items, period=Period(2019, 6, 2), min_clear_months=1)
    map_area(asked, tmp_path / "out")
    kept = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert not any(b"SECRET" in p.read_bytes() for p in kept)


def test_a_tile_that_touches_boxes_but_no_raster_is_nodata(archive, asking, tmp_path):
    """A raster's box in degrees is larger than the raster: here only the box is met."""
    area = aoi.parse_area("4.05846,50.74310,4.0590,50.74316")
    map_area(asking(archive() / "items.json", area=area, period=Period(2019, 6, 3)), tmp_path / "out")
    with rasterio.open(tmp_path / "out/landcover.tif") as m:
        assert not m.read(1).any()


def test_no_scenes_no_directory(archive, asking, tmp_path):
    items = archive() / "items.json"
    swapped = aoi.parse_area("50.7431,4.0585,50.7489,4.0676")
    with pytest.raises(NoScenesError, match=r"4\.0585,50\.7431"):
        map_area(asking(items, area=swapped), tmp_path / "out")
    with pytest.raises(NoScenesError):
        map_area(asking(items, period=Period(2023, 1)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pixels_with_too_few_months_are_nodata(archive, asking, tmp_path):
    items = archive() / "items.json"
    asked = asking(items, period=Period(2018, 12, 3), min_clear_months=3)
    map_area(asked, tmp_path / "out")
    with rasterio.open(tmp_path / "out/clear_months.tif") as m, rasterio.open(tmp_path / "out/landcover.tif") as c:
        months, labels = m.read(1), c.read(1)
    with rasterio.open(tmp_path / "out/landcover_confidence.tif") as p:
        confidence = p.read(1)
    inside = months != 255
    np.testing.assert_array_equal(inside, grid.inside(asked.area, grid.tiles(asked.area)[0].grid))
    np.testing.assert_array_equal(labels > 0, inside & (months >= 3))
    np.testing.assert_array_equal(confidence == 255, labels == 0)
    assert (inside & (months < 3)).any()


def test_within_keeps_the_other_maps_to_one_class(asking, spring, tmp_path):
    every, free = spring
    counts = free.statistics["landcover"].counts
    wanted = max(counts, key=lambda k: counts[k])
    name = next(c.name for c in legend.load("landcover").classes if c.id == wanted)
    asked = asking(every.stac, period=every.period, legends=(legend.load("crops"),), within=("landcover", name))
    map_area(asked, tmp_path / "within")  # landcover is mapped although only crops were asked for
    with rasterio.open(tmp_path / "within/landcover.tif") as base, rasterio.open(tmp_path / "within/crops.tif") as m:
        crops, cover = m.read(1), base.read(1)
    with rasterio.open(free.directory / "crops.tif") as m:
        everywhere = m.read(1)
    np.testing.assert_array_equal(crops, np.where(cover == wanted, everywhere, 0))


def test_typed_classes_need_no_stored_vectors(archive, asking, tmp_path):
    asked = asking(
        archive() / "items.json",
        period=Period(2019, 6, 1),
        min_clear_months=1,
        legends=(legend.typed("vineyard, maize field"),),
    )
    map_area(asked, tmp_path / "out")
    with rasterio.open(tmp_path / "out/classes.tif") as m:
        assert m.tags(1) == {"class_1": "vineyard", "class_2": "maize field"}


def test_an_area_over_two_zones_gives_a_map_for_each(archive, asking, tmp_path):
    """The scenes lie far from the border; tiles without scenes are nodata, and each zone has its own file."""
    area = aoi.parse_area("MULTIPOLYGON (((4.06 50.744, 4.062 50.744, 4.062 50.746, 4.06 50.746, 4.06 50.744)), "
                           "((6.01 50.744, 6.012 50.744, 6.012 50.746, 6.01 50.746, 6.01 50.744)))")  # fmt: skip
    result = map_area(asking(archive() / "items.json", area=area, period=Period(2019, 6, 3)), tmp_path / "out")
    names = {p.name for p in result.paths}
    assert {"landcover_32631.tif", "landcover_32632.tif", "clear_months_32632.tif"} <= names
    with rasterio.open(tmp_path / "out/landcover_32632.tif") as m:
        assert m.crs.to_epsg() == 32632
        assert not m.read(1).any()
    assert problems(tmp_path / "out") == ()


def test_the_ledger_tells_every_offset_and_no_path(archive, asking, tmp_path):
    source = archive("earth-search-c1", "05.10", dates=30)
    map_area(asking(source / "items.json", period=Period(2018, 12, 1), min_clear_months=1), tmp_path / "out")
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert len(run["scenes"]) > 2
    for scene in run["scenes"]:
        assert [d["dn"] for d in scene["offsets"]] == [-1000]
        assert len(scene["offsets"][0]["bands"]) == 10
        assert scene["offsets"][0]["reason"]
    everything = [p.read_text() for p in (tmp_path / "out").rglob("*.json")]
    assert not any(str(source) in text for text in everything)  # not even in what a finished run keeps of its state


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting a small disk needs root")
@pytest.mark.parametrize("size", ["40k", "120k"])  # full at the start; full while the maps are written
def test_a_full_disk_is_one_clear_error_and_leaves_no_map(archive, asking, tmp_path, size):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("mount is not allowed here")
    asked = asking(archive() / "items.json", period=Period(2019, 4, 3))
    try:
        with pytest.raises(DiskFullError, match="free space and run the same command again"):
            map_area(asked, disk / "out")
        assert {p.name for p in (disk / "out").iterdir()} <= {files.STATE}
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        map_area(asked, disk / "out")
        assert problems(disk / "out") == ()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
