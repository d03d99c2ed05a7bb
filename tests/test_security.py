"""Hostile catalogues, files and names: nothing is opened, asked or written that the user did not mean.

The threats are those of docs/security.md. Other modules show: addresses (test_hrefs), links and redirects of a
catalogue (test_stac), pickles in checkpoints (test_checkpoint), YAML (test_jobs), names in styles (test_write), lists
of files (test_files).
"""

import ast
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from shapely.geometry import box

from geomap import aoi, config, grid, pipeline
from geomap.catalog.search import search
from geomap.errors import DamagedError, HrefError, ReadError
from geomap.run import plan as plans
from geomap.run.map import map_area
from geomap.sentinel2 import SCL
from geomap.types import Grid, Period
from tests.support import REPOSITORY
from tests.support.archive import PATCH, items_of, served
from tests.support.outputs import problems
from tests.support.requests import request_for
from tests.support.runner import geomap, typed
from tests.support.server import Answer, Server

PACKAGE = REPOSITORY / "geomap"
PERIOD = Period(2018, 8, 3)
DATES = 10
CANARY = "c4n4ry-s1gn4ture"

Archive = Callable[..., Path]


# --- files that are not what their name says


def items_with(folder: Path, change: Callable[[int, dict[str, Any]], None]) -> Path:
    """A copy of an archive's items, each changed in place."""
    content = json.loads((folder / "items.json").read_text())
    for number, item in enumerate(content["features"]):
        change(number, item)
    (folder / "changed.json").write_text(json.dumps(content))
    return folder / "changed.json"


def lies(subclass: str, source: str) -> str:
    """A virtual raster that shows another file: as soon as it is opened (warped), or when it is read (plain)."""
    place = "<SRS>EPSG:32631</SRS><GeoTransform>574680,10,0,5622440,0,-10</GeoTransform>"
    if subclass == "warped":
        return (
            f'<VRTDataset rasterXSize="64" rasterYSize="64" subClass="VRTWarpedDataset">{place}'
            '<VRTRasterBand dataType="UInt16" band="1" subClass="VRTWarpedRasterBand"/><GDALWarpOptions>'
            f'<SourceDataset relativeToVRT="0">{source}</SourceDataset></GDALWarpOptions></VRTDataset>'
        )
    return (
        f'<VRTDataset rasterXSize="64" rasterYSize="64">{place}<VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        f"<SourceFilename>{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )


@pytest.mark.parametrize("subclass", ["plain", "warped"])
@pytest.mark.parametrize("target", ["local file", "another host"])
def test_a_tif_over_http_that_is_a_virtual_raster_is_not_opened(
    archive: Archive, tmp_path: Path, subclass: str, target: str
) -> None:
    """The server's file names a file of this machine, or an address inside the network: neither is touched."""
    folder = archive(dates=DATES)
    secret = next((folder / "cogs").rglob("*.tif"))
    (tmp_path / "web").mkdir()
    area = aoi.parse_area(PATCH)
    with Server(secret.parent) as inside, Server(tmp_path / "web") as server:
        source = str(secret) if target == "local file" else f"/vsicurl/{inside.base}/{secret.name}"
        (tmp_path / "web/blue.tif").write_text(lies(subclass, source))

        def point(number: int, item: dict[str, Any]) -> None:
            item["assets"]["blue"]["href"] = f"{server.base}/blue.tif?{number}"

        scenes = search(area.geometry, PERIOD, str(items_with(folder, point))).scenes
        with pytest.raises(ReadError, match=r"blue\.tif cannot be read .*not recognized"):
            pipeline.compose(scenes, grid.tiles(area)[0].grid, PERIOD, max_missed=0)
        assert server.times("/blue.tif")
        assert inside.seen == []


SIDES = ("scl.tif.ovr", "scl.tif.msk", "scl.tif.aux.xml", "scl.ovr", "scl.aux.xml", "scl.tfw", "scl.prj", "scl.rpb")


@pytest.mark.parametrize("nodata", [None, 0, 255])
@pytest.mark.parametrize("names", ["nothing", "local overviews", "overviews of a host", "overviews beside", "places"])
def test_a_tif_whose_metadata_name_another_file_opens_nothing_else(
    archive: Archive, tmp_path: Path, names: str, nodata: int | None
) -> None:
    """A plan reads overviews, but asks no other host for them, opens no local path and looks for no side file."""
    (tmp_path / "web").mkdir()
    (tmp_path / "inside").mkdir()
    secret = tmp_path / "inside/secret.tif"
    write_scl(secret, 256, 4, None, {})
    for side in SIDES:
        (tmp_path / "web" / side).write_bytes(secret.read_bytes())
    with Server(secret.parent) as inside, Server(tmp_path / "web") as server:
        there = f"/vsicurl/{inside.base}/{secret.name}"
        found = {
            "nothing": {},
            "local overviews": {"OVERVIEWS": {"OVERVIEW_FILE": str(secret)}},
            "overviews of a host": {"OVERVIEWS": {"OVERVIEW_FILE": there}},
            "overviews beside": {"OVERVIEWS": {"OVERVIEW_FILE": ":::BASE:::scl.tif.ovr"}},
            "places": {"GEOLOCATION": {"X_DATASET": there, "Y_DATASET": there, "X_BAND": "1", "Y_BAND": "1"}},
        }[names]
        write_scl(tmp_path / "web/scl.tif", 512, 9, nodata, found)
        scenes = search(aoi.parse_area(PATCH).geometry, PERIOD, str(archive(dates=DATES) / "items.json")).scenes
        asset = replace(scenes[0].assets[SCL], href=f"{server.base}/scl.tif?{names.replace(' ', '-')}{nodata}")
        hostile = replace(scenes[0], assets={SCL: asset})
        coarse = Grid(32631, 574680, 5622440, 100, 100, 80)
        if names == "nothing":
            assert not plans.clear_sky(hostile, coarse).any()
        else:
            with pytest.raises(DamagedError, match=r"scl\.tif is not opened \(its metadata name another file"):
                plans.clear_sky(hostile, coarse)
        assert inside.seen == []
        assert {path.partition("?")[0] for path in server.paths()} == {"/scl.tif"}


def write_scl(path: Path, side: int, value: int, nodata: int | None, names: dict[str, dict[str, str]]) -> None:
    """A tiled GeoTIFF of one class at 20 m, without overviews, whose metadata may name other files."""
    where = {"crs": "EPSG:32631", "transform": rasterio.Affine(20, 0, 574680, 0, -20, 5622440)}
    how = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "nodata": nodata}
    with rasterio.open(path, "w", "GTiff", side, side, 1, dtype="uint8", **where, **how) as target:
        target.write(np.full((1, side, side), value, np.uint8))
        for domain, tags in names.items():
            target.update_tags(ns=domain, **tags)


def test_every_file_of_a_scene_is_opened_in_one_place() -> None:
    """Elsewhere rasterio opens only geomap's own maps, and the raster that a user names as --like."""
    opens = {"access.py", "own_grid.py"}
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        for part in text.split("rasterio.open(")[1:]:
            call = part[: part.index(":\n")] if ":\n" in part else part
            assert 'driver="GTiff"' in call or '"w"' in call or path.name in opens, f"{path}: {call}"
        assert ("driver=driver(" in text) == (path.name == "access.py")


@pytest.mark.parametrize(
    "href",
    [
        "vrt:///etc/hostname",
        '<VRTDataset rasterXSize="1" rasterYSize="1"/>',
        "GTIFF_DIR:1:/etc/hostname.tif",
        "MEM:::DATAPOINTER=1,PIXELS=1,LINES=1.tif",
        "/vsisubfile/0_100,/etc/hostname.tif",
        "/vsicurl/http://169.254.169.254/a.tif",
        "http://169.254.169.254/latest/meta-data/a.tif",
    ],
)
def test_a_map_of_a_hostile_item_is_refused_before_a_file_is_made(
    archive: Archive, untrained: str, tmp_path: Path, href: str
) -> None:
    def point(number: int, item: dict[str, Any]) -> None:
        if number == 0:
            item["assets"]["red"]["href"] = href

    items = items_with(archive(dates=DATES), point)
    asked = request_for(items, untrained, period=PERIOD, max_missed=0)
    with pytest.raises(HrefError, match="refuse to open"):
        map_area(asked, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# --- names


HOSTILE_IDS = [
    "../../escaped",
    "/tmp/geomap-escaped",
    "a\x00b",
    "x" * 300,
    "..",
    "a/b\\c",
    "~/escaped",
    "%2e%2e%2fescaped",
]


def test_ids_of_items_never_become_paths(archive: Archive, untrained: str, tmp_path: Path) -> None:
    def rename(number: int, item: dict[str, Any]) -> None:
        item["id"] = HOSTILE_IDS[number % len(HOSTILE_IDS)] + "+" * (number // len(HOSTILE_IDS))
        item["properties"] = {k: v for k, v in item["properties"].items() if "datatake" not in k and "product" not in k}
        item["assets"] = {**item["assets"], "../../escaped": dict(item["assets"]["blue"])}

    items = items_with(archive(dates=DATES), rename)
    home = tmp_path / "a/b/c"
    home.mkdir(parents=True)
    asked = request_for(items, untrained, period=PERIOD)
    map_area(asked, home / "out")
    assert [p for p in tmp_path.rglob("*") if p.is_file() and home / "out" not in p.parents] == []
    assert not Path("/tmp/geomap-escaped").exists()
    made = {p.relative_to(home / "out").as_posix() for p in (home / "out").rglob("*")}
    assert not any("escaped" in name or "xxx" in name for name in made)
    assert problems(home / "out") == ()
    run = json.loads((home / "out/run.json").read_text())
    assert {s["id"] for s in run["scenes"]} >= {"../../escaped", "x" * 300}  # data, as any other text
    assert [item["cause"] for item in run["left_out"] if item["id"] != "x" * 300] == ["invalid"]  # the one with NUL


# --- what a catalogue answers


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:{port}/",
        "http://[::1]:{port}/",
        "file:///etc/passwd",
    ],
)
@pytest.mark.parametrize("status", [302, 307])
def test_a_catalogue_may_not_redirect_into_the_network(target: str, status: int) -> None:
    """The catalogue is 127.0.0.2, which the user typed; 127.0.0.1 is this machine, with a service that listens."""
    with Server() as inside, Server(host="127.0.0.2") as catalogue:
        catalogue.replies = [Answer(status, {"Location": target.format(port=inside.port)})]
        with pytest.raises(HrefError, match="refuse to open"):
            search(box(4, 50, 5, 51), PERIOD, catalogue.base)
        assert inside.seen == []


# --- secrets


def test_a_token_is_shown_nowhere_and_kept_nowhere(archive: Archive, untrained: str, tmp_path: Path) -> None:
    """The whole command with -v, one file refused at first and one missing; then what tells of the run."""
    folder = archive(dates=DATES)
    with Server(folder) as server:
        items = served(folder, server.base, folder / "signed.json", f"?sv=1&sig={CANARY}")
        names = [item["id"] for item in items_of(folder)]
        server.script[f"{names[1]}/scl.tif"] = [Answer(503)]
        server.always[f"{names[4]}/scl.tif"] = Answer(404)
        request = ["map", PATCH, "--start", "2018-08", "--months", "3", "--stac", str(items), "--weights", untrained]
        options = [
            "--legend",
            "landcover",
            "--min-clear-months",
            "1",
            "--max-missed",
            "50",
            "--out",
            "out",
            "--verbose",
        ]
        told: list[Any] = [typed(*request, *options, cwd=tmp_path, OMP_NUM_THREADS="1")]
        assert told[0].returncode == 0, told[0].stderr
        assert any(CANARY in path for path in server.paths())  # it was used
        assert f"{names[4]}/scl.tif" in told[0].stderr + (tmp_path / "out/run.json").read_text()
        assert not any(server.script.values())
        told += [geomap(command, tmp_path / "out") for command in ("explain", "status", "verify")]
        server.always["scl.tif"] = Answer(404)
        told.append(typed(*request, *options[:-2], "bad", "--verbose", cwd=tmp_path, OMP_NUM_THREADS="1"))
        assert told[-1].returncode == 1, told[-1].stderr
    for done in told:
        assert CANARY not in done.stdout + done.stderr
    kept = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert len(kept) > 8
    assert not any(CANARY.encode() in p.read_bytes() for p in kept)
    for path in (tmp_path / "bad").rglob("*"):  # an unfinished run: what it resumes from is its owner's alone
        if path.is_file() and CANARY.encode() in path.read_bytes():
            assert path.name == "request.json"
            assert path.stat().st_mode & 0o077 == 0


# --- code in data


def test_no_code_is_read_from_data() -> None:
    """No pickle, marshal or joblib; numpy without pickles; torch.load of tensors alone; PyYAML's safe loader."""
    imported: dict[str, set[str]] = {}
    called: list[tuple[str, str]] = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                imported.setdefault(name.partition(".")[0], set()).add(path.name)
            if isinstance(node, ast.Call) and "load" in ast.unparse(node.func).rpartition(".")[2]:
                called.append((path.name, ast.unparse(node)))
    assert not imported.keys() & {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    assert imported["yaml"] == {"config.py"}
    loads = [(name, text) for name, text in called if text.startswith(("np.load(", "torch.load(", "yaml."))]
    safe = {"np.load(": "allow_pickle=False", "torch.load(": "weights_only=True", "yaml.load(": "Loader=_Loader"}
    assert len(loads) >= 5
    for name, text in loads:
        assert safe[text[: text.index("(") + 1]] in text, (name, text)
    assert issubclass(config._Loader, yaml.SafeLoader | getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    assert not any("trust_remote_code=True" in path.read_text() for path in PACKAGE.rglob("*.py"))
