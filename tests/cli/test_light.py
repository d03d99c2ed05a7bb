"""Commands that read files of text, and what `geomap map` refuses, load nothing heavy."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HEAVY = {"torch", "dask", "distributed", "rasterio", "osgeo", "stackstac", "xarray", "geopandas", "pandas", "numba"}
BOX = "4.40,50.85,4.45,50.88"
CODE = """
import json, sys
from geomap.cli import app
for words in json.loads(sys.argv[1]):
    try:
        app(words)
    except SystemExit as e:
        print("LOADED", e.code, *sorted(sys.modules), file=sys.stderr)
"""


def each(*commands: list[str], cwd: Path) -> list[tuple[int, set[str], str]]:
    """(exit code, the heavy modules loaded so far, what it says on stderr) of commands, one after the other.

    They share a process: the first that loads something heavy, and all after it, show it.
    """
    command = [sys.executable, "-c", CODE, json.dumps(commands)]
    environment = os.environ | {"COLUMNS": "1000", "NO_COLOR": "1", "BROWSER": f"{sys.executable} -c pass %s"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=100)
    told, said = [], ""
    for line in done.stderr.splitlines(keepends=True):
        before, mark, modules = line.partition("LOADED ")
        said += before
        if mark:
            code, *names = modules.split()
            assert {"geomap", "typer"} <= set(names)  # the list is one of modules
            told.append((int(code), HEAVY & set(names), said))
            said = ""
    assert (len(told), said) == (len(commands), "")
    return told


def loaded(*args: str | Path, cwd: Path) -> tuple[int, set[str], str]:
    """The same of one command."""
    (told,) = each([str(arg) for arg in args], cwd=cwd)
    return told


@pytest.fixture(scope="module")
def run(archive: Callable[..., Path], untrained: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over real scenes."""
    from geomap.run.map import map_area
    from geomap.run.request import Request

    out = tmp_path_factory.mktemp("light") / "m"
    items = str(archive(dates=8) / "items.json")
    map_area(Request("4.0585,50.7431,4.0676,50.7489", "2018-08/2018-10", items, weights=untrained), out)
    return out


def test_commands_about_a_run_are_light(run: Path, tmp_path: Path) -> None:
    commands = [["status"], ["status", "--json"], ["explain"], ["verify"], ["view"]]
    assert each(*([*words, str(run)] for words in commands), cwd=tmp_path) == [(0, set(), "")] * len(commands)


def test_help_and_lists_are_light(tmp_path: Path) -> None:
    commands = [
        ["--help"],
        ["--version"],
        ["map", "--help"],
        ["legends", "list"],
        ["legends", "show", "crops"],
        ["weights", "list"],
    ]
    assert each(*commands, cwd=tmp_path) == [(0, set(), "")] * len(commands)


@pytest.mark.parametrize("area", [[4.40, 50.85, 4.45, 50.88], "farm.geojson"])
def test_a_schedule_is_light_and_opens_no_area_file(area: object, tmp_path: Path) -> None:
    (tmp_path / "farm.geojson").write_text("not looked into")
    job = {"name": "j", "area": area, "period": {"last": 12}, "legends": ["crops"]}
    (tmp_path / "job.yaml").write_text(json.dumps(job | {"outputs": {"directory": "m/{period}"}}))
    assert loaded("schedule", "job.yaml", "--monthly", "--user", cwd=tmp_path) == (0, set(), "")
    assert (tmp_path / "geomap-schedule/geomap-j.timer").is_file()
    (tmp_path / "farm.geojson").unlink()
    code, heavy, said = loaded("schedule", "job.yaml", "--monthly", "--user", cwd=tmp_path)
    assert (code, heavy) == ((0, set()) if isinstance(area, list) else (2, set()))
    assert isinstance(area, list) or "farm.geojson" in said


REFUSED = [
    ([BOX, "--yaer", "2019"], "--year"),
    ([BOX, "--year", "2019", "--max-cloud", "101"], "--max-cloud"),
    ([BOX], "--year 2023"),
    (["nowhere.gpkg", "--year", "2019"], "nowhere.gpkg"),
    (["50.85,104.40,50.88,104.45", "--year", "2019"], "longitude first"),
    ([BOX, "--year", "2014"], "2015"),
    ([BOX, "--year", "2019", "--legend", "landcvoer"], "landcover"),
    ([BOX, "--year", "2019", "--classes", "vineyard"], "two or more"),
    ([BOX, "--year", "2019", "--weights", "none"], "no weights"),
    ([BOX, "--start", "2019-01", "--months", "3", "--min-clear-months", "9"], "--min-clear-months: must be 1..3"),
    ([BOX, "--year", "2019", "--out", "foreign"], "holds other files, such as a.txt; choose another --out"),
    (["farm.geojson", "--year", "2019", "--out", "foreign"], "holds other files"),
]
"""Words after `map`, and what is said of them."""


def test_map_refuses_bad_input_before_it_loads_anything_heavy(tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/a.txt").write_text("mine")
    (tmp_path / "farm.geojson").write_text("not looked into")
    told = each(*(["map", *words] for words, _ in REFUSED), cwd=tmp_path)
    for (code, heavy, said), (words, says) in zip(told, REFUSED, strict=True):
        assert (code, heavy) == (2, set()), words
        assert says in said
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.txt", "farm.geojson", "foreign"]


def test_map_refuses_a_run_of_another_version_before_it_loads_anything_heavy(run: Path, tmp_path: Path) -> None:
    path = run / "tiles/request.json"
    before = path.read_bytes()
    content = json.loads(before)
    content["request"]["geomap"] = "0.0.1"
    try:
        path.write_text(json.dumps(content))
        code, heavy, said = loaded("map", BOX, "--year", "2019", "--out", run, cwd=tmp_path)
    finally:
        path.write_bytes(before)
    assert (code, heavy) == (2, set())
    assert "differs in: geomap" in said


def test_a_map_on_this_machine_does_not_load_the_cluster(
    archive: Callable[..., Path], untrained: str, tmp_path: Path
) -> None:
    area = ["4.0585,50.7431,4.0676,50.7489", "--start", "2018-08", "--months", "3", "--min-clear-months", "1"]
    items = archive(dates=8) / "items.json"
    code, heavy, said = loaded("map", *area, "--stac", items, "--weights", untrained, "--out", "m", cwd=tmp_path)
    assert code == 0, said
    assert {"dask", "rasterio", "torch"} <= heavy
    assert "distributed" not in heavy  # dask imports all of it when a scheduler is asked for by name
