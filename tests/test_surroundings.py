"""Settings of other programs, homes that are not there, and names that users give their files."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

import geomap
from geomap import aoi, legends, process
from geomap.catalog.search import search
from geomap.encode.card import locate
from geomap.errors import GeomapError, HrefError, LegendError, PeriodError
from geomap.jobs.file import read_job
from geomap.run.map import map_area
from geomap.run.record import inputs
from geomap.run.status import status as look
from geomap.run.status import verified
from geomap.run.update import earlier
from geomap.sources.hrefs import HrefPolicy, check_href
from geomap.store.store import open_store
from geomap.types import Period
from tests.support import REPOSITORY
from tests.support.requests import request_for
from tests.support.server import Server

NAMES = [
    "a:b", "zip:a!b", "a!b", "a b", "a#b", "a?b", "a%20b", "-a", "~a", "é", "\udcff", "{a", "http:a", "POLYGON ((a",
    "a|b&c;d", "a.geojson|layername=x",
]  # fmt: skip
"""File names that mean something to a shell, a URL or GDAL."""
TRIANGLE = '{"type": "Polygon", "coordinates": [[[4, 50], [4.01, 50], [4.01, 50.01], [4, 50]]]}'


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_file_of_the_user_may_have_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    area, legend, raster = (tmp_path / f"{name}.{end}" for end in ("geojson", "toml", "tif"))
    area.write_text(TRIANGLE)
    legend.write_text(legends.source("landcover"))
    raster.write_bytes(b"II")
    for text in (str(area), area.name):
        aoi.require_area(text)
        assert aoi.parse_area(text) == aoi.Area(TRIANGLE)
    assert legends.load(legend.name) == legends.load(str(legend)) == legends.load("landcover")
    policy = HrefPolicy(folder=tmp_path)
    assert check_href(raster.name, policy) == str(raster)
    assert check_href(f"../{tmp_path.name}/{raster.name}", policy) == str(raster)
    with pytest.raises(HrefError):  # a catalogue may not name local files, whatever they are called
        check_href(raster.name, HrefPolicy())


@pytest.mark.parametrize("host", ["", "localhost"])
def test_file_addresses_and_percent_signs_are_paths(host: str, tmp_path: Path) -> None:
    path = tmp_path / "my field.geojson"
    path.write_text(TRIANGLE)
    (tmp_path / "my file.tif").write_bytes(b"II")
    address = f"file://{host}{str(path).replace(' ', '%20')}"
    assert aoi.parse_area(address) == aoi.Area(TRIANGLE)
    tif = f"file://{host}{tmp_path}/my%20file.tif"
    assert check_href(tif, HrefPolicy(folder=tmp_path)) == str(tmp_path / "my file.tif")
    assert check_href("my%20file.tif", HrefPolicy(folder=tmp_path)) == str(tmp_path / "my file.tif")


def test_an_item_file_with_an_odd_name_is_searched(archive: Callable[..., Path], tmp_path: Path) -> None:
    content = (archive(dates=9) / "items.json").read_text()
    path = tmp_path / "my:items!? #1.json"
    path.write_text(content)
    area = aoi.parse_area("4.0585,50.7431,4.0676,50.7489").geometry
    assert search(area, Period(2018, 9, 1), str(path)).scenes
    assert search(area, Period(2018, 9, 1), f"file://{str(path).replace(' ', '%20').replace('?', '%3F')}").scenes


def old_proj(folder: Path) -> Path:
    """A proj.db as an old program brings it: of a layout that PROJ now refuses."""
    folder.mkdir()
    with sqlite3.connect(folder / "proj.db") as db:
        db.execute("CREATE TABLE metadata (key TEXT, value TEXT)")
        db.execute("INSERT INTO metadata VALUES ('DATABASE.LAYOUT.VERSION.MAJOR', '1')")
        db.execute("INSERT INTO metadata VALUES ('DATABASE.LAYOUT.VERSION.MINOR', '0')")
    return folder


@pytest.mark.parametrize("there", [True, False])
def test_settings_of_another_program_do_no_harm(there: bool, tmp_path: Path) -> None:
    other = str(old_proj(tmp_path / "other") if there else tmp_path / "gone")
    code = (
        "import geomap, rasterio, pyogrio, pyproj; from rasterio.crs import CRS; from geomap import aoi;"
        "print(CRS.from_epsg(32631).to_epsg(), pyproj.CRS(3460).name, aoi.Area(open('a.geojson').read()).square_km)"
    )
    (tmp_path / "a.geojson").write_text(TRIANGLE)
    names = ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA", "GDAL_DRIVER_PATH")
    env = os.environ | dict.fromkeys(names, other) | {"PYTHONPATH": str(REPOSITORY), "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("32631 Fiji 1986 / Fiji Map Grid 0.39")


def test_variables_stay_where_the_libraries_bring_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "find_spec", lambda name: None)
    environment = {"PROJ_DATA": "/opt/proj", "HOME": "/root"}
    process.settle(environment)
    assert environment["PROJ_DATA"] == "/opt/proj"


def test_a_user_whom_the_machine_does_not_know_gets_a_home_that_nobody_can_fill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process.os, "getuid", lambda: 987_654)
    environment: dict[str, str] = {}
    process.settle(environment)
    assert environment == {"HOME": process.NOWHERE, "USER": "987654"}
    kept = {"HOME": "/h", "USER": "me"}
    process.settle(kept)
    assert kept == {"HOME": "/h", "USER": "me"}


def test_options_of_gdal_that_change_the_bytes_of_maps_are_dropped(tmp_path: Path) -> None:
    code = (
        "import sys; import numpy as np; from pathlib import Path; from geomap import legends;"
        "from geomap.types import Grid; from geomap.write.cog import write_map;"
        "from geomap.write.layer import layers_of;"
        "layer = layers_of([legends.load('landcover')], 0, ())[0]; where = Grid(32631, 600000, 5500000, 700, 700);"
        "pixels = np.random.default_rng(0).integers(1, 6, (700, 700)).astype(np.uint8);"
        "write_map(Path(sys.argv[1]), layer, where, [(where, pixels)], {})"
    )
    bends = {"COMPRESS_OVERVIEW": "JPEG", "CPL_TMPDIR": str(tmp_path / "gone"), "GDAL_TIFF_OVR_BLOCKSIZE": "64"}
    bends |= {"GDAL_GEOREF_SOURCES": "NONE", "GDAL_TIFF_ENDIANNESS": "BIG"}
    for name, variables in (("a.tif", dict[str, str]()), ("b.tif", bends)):
        env = os.environ | variables | {"PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run([sys.executable, "-c", code, tmp_path / name], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_a_variable_that_names_the_files_gdal_may_open_hides_none(tmp_path: Path) -> None:
    """Of others GDAL would say that they do not exist, without a request."""
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint16", "width": 16, "height": 16, "crs": "EPSG:32631"}
    lies = rasterio.transform.from_origin(600000, 5500000, 10, 10)
    with rasterio.open(tmp_path / "B02.tif", "w", **profile, transform=lies) as out:
        out.write(np.ones((16, 16), np.uint16), 1)
    code = (
        "import sys, geomap, rasterio; from geomap.read.access import GDAL_OPTIONS\n"
        "with rasterio.Env(**GDAL_OPTIONS): print(rasterio.open(sys.argv[1]).shape)"
    )
    env = os.environ | {"CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".jp2", "PYTHONPATH": str(REPOSITORY)}
    with Server(tmp_path) as server:
        command = [sys.executable, "-c", code, f"{server.base}/B02.tif"]
        done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "(16, 16)", done.stderr[-2000:]


@pytest.mark.soak
def test_typed_classes_work_without_a_home_and_a_name(tmp_path: Path) -> None:
    code = (
        "import os; os.getuid = lambda: 987654;"
        "from geomap import legends; from geomap.label import towers;"
        "print(towers.cached_class_vectors(legends.typed('forest, water'), towers.MINILM_SPACE).shape)"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "TMPDIR")}
    env["PYTHONPATH"] = str(REPOSITORY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "torch.Size([2, 384])" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_legend_from_python_raises_the_errors_of_geomap() -> None:
    with pytest.raises(LegendError, match="title: Field required"):
        geomap.Legend(name="x")
    with pytest.raises(LegendError, match="two or more"):
        geomap.Legend(name="x", title="X")
    assert legends.parse(legends.source("landcover").encode(), "x") == legends.load("landcover")


@pytest.mark.parametrize("months", [(2023, 13), (2023, 0), (2023, 1, 0), (2023, 1, 13), ("2023", 1), (2023, 1.5)])
def test_a_period_from_python_raises_the_errors_of_geomap(months: tuple[int, int]) -> None:
    with pytest.raises(PeriodError):
        geomap.Period(*months)


@pytest.mark.parametrize("text", ["202", "2023-13", None, 2023, "2022-01/2023-01"])
def test_text_that_is_no_period_raises_the_errors_of_geomap(text: str) -> None:
    with pytest.raises(PeriodError):
        geomap.Period.parse(text)


@pytest.mark.parametrize(
    "toml",
    [
        b"a = " + b"[" * 100_000 + b"]" * 100_000,
        b"a = " + b"{a=" * 100_000 + b"1" + b"}" * 100_000,
        b"a = " + b"9" * 5_000,
        b"a = 2023-02-31",
        b"\xff",
        b"#" * 5_000_000,
    ],
    ids=["lists", "tables", "number", "date", "bytes", "size"],
)
def test_a_malformed_legend_is_one_line(toml: bytes) -> None:
    with pytest.raises(LegendError) as e:
        legends.parse(toml, "mine.toml")
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 300


@pytest.mark.parametrize("suffix", ["geojson", "gpkg", "json", "toml", "yaml"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(suffix: str, tmp_path: Path) -> None:
    pipe = tmp_path / f"pipe.{suffix}"
    os.mkfifo(pipe)
    readers: dict[str, Callable[[], object]] = {
        "json": lambda: search(aoi.Area(TRIANGLE).geometry, Period(2023, 1), str(pipe)),
        "toml": lambda: legends.load(str(pipe)),
        "yaml": lambda: read_job(pipe),
    }
    with pytest.raises(GeomapError):
        readers.get(suffix, lambda: aoi.parse_area(str(pipe)))()


def test_a_loop_of_links_is_one_line(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    run = tmp_path / "run"
    (run / "tiles").mkdir(parents=True)
    (run / "tiles/request.json").write_text('{"request": {}, "tiles": {}}')
    (run / "SHA256SUMS").write_text(f"{'0' * 64}  x.tif\n")
    (run / "x.tif").symlink_to("x.tif")
    assert any("x.tif" in line for line in verified(run).problems)
    readers: list[Callable[[], object]] = [
        lambda: verified(loop).problems, lambda: look(loop), lambda: inputs(loop), lambda: earlier(loop),
        lambda: read_job(loop), lambda: locate(str(loop)), lambda: legends.load(f"{loop}.toml"),
        lambda: aoi.parse_area(str(loop)), lambda: open_store(loop),
        lambda: search(aoi.Area(TRIANGLE).geometry, Period(2023, 1), str(loop)),
    ]  # fmt: skip
    for read in readers:
        with pytest.raises(GeomapError) as e:
            read()
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["zip:x.zip!y#z?e%20 f|g", "http:x", "-~a"])
def test_maps_go_into_a_folder_of_any_name(
    name: str, archive: Callable[..., Path], untrained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / f"{name} weights"
    shutil.copytree(untrained, weights)
    items = archive(dates=9) / "items.json"
    map_area(request_for(items, weights.name, period=Period(2018, 9, 1)), Path(name))
    assert verified(Path(name)).problems == ()
    with rasterio.open(tmp_path / name / "landcover.tif") as made:
        assert made.read(1).any()
