"""The command line as users meet it: bad input is one clear line, its exit code, no traceback and no file."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import rasterio

from geomap import __version__, legends
from geomap.cli import console
from geomap.encode.card import weight_names
from tests.support.archive import PATCH, served
from tests.support.runner import PROGRAM, geomap, refused, typed

REAL = ["--start", "2018-08", "--months", "2", "--min-clear-months", "1"]  # of archives of nine dates


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The folder in which commands of this process are typed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["map", PATCH, "--year", "2019", "--legend", "landcvoer"], ["unknown legend 'landcvoer'", "landcover"]),
        (["map", PATCH, "--year", "2019", "--legnd", "landcover"], ["--legnd", "--legend", "geomap map --help"]),
        (["map", PATCH], ["--year 2023"]),
        (["map", PATCH, "--year", "1999"], ["no Sentinel-2 scene"]),
        (["map", PATCH, "--start", "April"], ["'April'", "2023-04"]),
        (["map", PATCH, "--year", "2019", "--months", "3"], ["--months goes with --start"]),
        (["map", PATCH, "--start", "2019-01", "--months", "13"], ["--months"]),
        (
            ["map", PATCH, "--start", "2019-01", "--months", "3", "--min-clear-months", "9"],
            ["--min-clear-months", "1..3"],
        ),
        (["map", "50.7431,104.0585,50.7489,104.0676", "--year", "2019"], ["longitude first"]),
        (["map", "POLYGON EMPTY", "--year", "2019"], ["polygon"]),
        (["map", "POLYGON ((0 0, 1 1, 0 1, 1 0, 0 0))", "--year", "2019"], ["Self-intersection", "repair"]),
        (["map", "nowhere.gpkg", "--year", "2019"], ["nowhere.gpkg"]),
        (["map", PATCH, "--year", "2019", "--classes", "vineyard"], ["two or more"]),
        (["map", PATCH, "--year", "2019", "--within", "landcover"], ["landcover=Cropland"]),
        (["map", PATCH, "--year", "2019", "--within", "landcover=Forests"], ["Woodland"]),
        (["map", PATCH, "--year", "2019", "--weights", "nothing"], ["no weights 'nothing'", "default"]),
        (["map", PATCH, "--year", "2019", "--device", "toaster"], ["toaster", "cpu"]),
        (["map", PATCH, "--year", "2019", "--stac", "missing.json"], ["missing.json"]),
        (["mapp"], ["mapp", "map"]),
        (["verify", "nowhere"], ["nowhere"]),
        (["legends", "show", "nothing"], ["nothing", "landcover"]),
        (["train", "nothing.yaml"], ["nothing.yaml"]),
        (["evaluate", "default", "--data", "nothing.csv"], ["nothing.csv"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(here, args, says):
    refused(geomap(*args), 2, *says)
    assert list(here.iterdir()) == []


def test_an_unreachable_catalogue_is_a_temporary_failure(here):
    refused(geomap("map", PATCH, "--year", "2019", "--stac", "http://127.0.0.1:9"), 75, "http://127.0.0.1:9")
    assert list(here.iterdir()) == []


def test_an_area_in_the_west_is_no_option(archive, tmp_path):
    items = archive(dates=9) / "items.json"
    refused(typed("map", "-3.70,40.40,-3.69,40.41", *REAL, "--stac", items, cwd=tmp_path), 2, "no Sentinel-2 scene")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["map", PATCH, "--year", "2023", "--year", "2024"], "--year was given twice; give it once"),
        (["label", "m", "--points", "a.gpkg", "--column", "b", "--column", "c"], "--column was given twice"),
        (["label", "none", "--legend", "crops", "--legend", "landcover"], "none"),  # these may be repeated
    ],
)
def test_an_option_given_twice_is_refused_unless_it_may_be_repeated(words: list[str], says: str) -> None:
    told = refused(geomap(*words), 2, says)
    assert ("twice" in told) == ("twice" in says)


def test_verbose_log_lines_have_times_and_tokens_reach_neither_terminal_nor_log(archive, tmp_path):
    """A port where nobody listens: reading fails, and the address is shown without its query."""
    items = served(archive(dates=9), "http://127.0.0.1:9", tmp_path / "items.json", "?sig=SECRET")
    command = ["map", PATCH, *REAL, "--stac", items, "--out", "m", "--verbose", "--deadline", "1"]
    done = typed(*command, cwd=tmp_path)
    refused(done, 75, "127.0.0.1:9", "again later")
    assert "SECRET" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if " INFO geomap." in line]
    assert lines
    for line in lines:
        (told,) = re.findall(r"(\d{4}-\S+) INFO", line)  # a thread may write while a bar is drawn
        stamp = datetime.strptime(told, "%Y-%m-%dT%H:%M:%S%z")
        assert abs((datetime.now(UTC) - stamp).total_seconds()) < 3600
    what = "HTTP error code: 503 - https://a.example/b.tif?sig=SECRET&x=1. Retrying"
    record = logging.LogRecord("rasterio._env", logging.WARNING, "", 0, what, None, None)
    assert console.Redacted("%(message)s").format(record) == "HTTP error code: 503 - https://a.example/b.tif. Retrying"


def test_a_shell_completes_commands_and_their_options():
    for words, at, offered in (
        ("geomap sched", 1, {"schedule"}),
        ("geomap map --max", 2, {"--max-cloud", "--max-missed"}),
    ):
        done = typed(_GEOMAP_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(at))
        assert set(done.stdout.split()) == offered
    assert all(option in geomap("--help").stdout for option in ("--install-completion", "--show-completion"))


def test_several_problems_of_options_are_told_at_once(here):
    told = refused(geomap("map", PATCH, "--year", "1999", "--within", "landcover", "--scheduler", "http://a"), 2)
    for option in ("--year: ", "; --within: ", "; --scheduler: "):
        assert option in told


def test_swapped_coordinates_find_no_scene_and_say_so(archive, here):
    swapped = "50.7431,4.0585,50.7489,4.0676"
    refused(geomap("map", swapped, *REAL, "--stac", archive(dates=9) / "items.json"), 2, PATCH)
    assert list(here.iterdir()) == []


def test_altered_weights_are_refused(archive, untrained, here):
    folder = here / "w"
    folder.mkdir()
    for path in Path(untrained).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with (folder / "model.safetensors").open("r+b") as f:
        f.seek(-1, os.SEEK_END)
        f.write(b"\x7f")
    done = geomap("map", PATCH, *REAL, "--stac", archive(dates=9) / "items.json", "--weights", "w")
    refused(done, 2, "sha256 differs")
    assert {p.name for p in here.iterdir()} == {"w"}


def test_a_legend_file_with_a_misspelt_key_is_refused(tmp_path):
    (tmp_path / "mine.toml").write_text('name = "mine"\ntitel = "Mine"\n')
    done = typed("map", PATCH, *REAL, "--legend", "mine.toml", cwd=tmp_path)
    refused(done, 2, "mine.toml", "titel")


def test_maps_of_real_scenes_with_a_legend_of_ones_own(archive, tmp_path):
    """The whole command on the default weights, with bars, estimate, summary and files; then verify finds a flip."""
    (tmp_path / "fields.toml").write_text(
        'name = "fields"\ntitle = "Fields"\n'
        '[[classes]]\nid = 3\nname = "Grain & straw"\ncolour = "#ffcc00"\nprompts = ["a field of winter wheat"]\n'
        '[[classes]]\nid = 7\nname = "Grass"\ncolour = "#00cc66"\nprompts = ["a green pasture", "a meadow"]\n'
    )
    items = archive(dates=9) / "items.json"
    command = ["map", PATCH, *REAL, "--stac", items, "--legend", "landcover", "--legend", "fields.toml", "--out", "m"]
    done = typed(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("scenes in 2 months", "search", "composite", "encode", "write"):
        assert text in done.stderr
    for text in ("hectares", "Grain & straw", "mean confidence", "clear_months", "m/landcover.tif", "m/fields.tif"):
        assert text in done.stdout
    with rasterio.open(tmp_path / "m/fields.tif") as m:
        assert m.colormap(1)[3] == (255, 204, 0, 255)
        counts = {int(v): int((m.read(1) == v).sum()) for v in (3, 7)}
    run = json.loads((tmp_path / "m/run.json").read_text())
    assert {int(k): v for k, v in run["maps"]["fields"]["counts"].items()} == {k: v for k, v in counts.items() if v}
    assert geomap("verify", tmp_path / "m").exit_code == 0
    with (tmp_path / "m/fields.tif").open("r+b") as f:
        f.seek(300)
        f.write(b"\xff")
    done = geomap("verify", tmp_path / "m")
    refused(done, 1)
    assert "fields.tif: changed" in done.stderr


def test_ctrl_c_stops_at_once_and_resumes(tmp_path, archive):
    """A server that never answers must not hold the exit."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        served(archive(), f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path / "items.json")
        command = [PROGRAM, "map", PATCH, "--start", "2019-04", "--months", "4", "--stac", "items.json", "--out", "m"]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell in the background ignores it
        )
        held, _ = silent.accept()
        assert held.recv(1)  # the first read has begun
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
        held.close()
    assert process.returncode == 130
    assert "geomap: stopped; the same command resumes" in told
    assert "Traceback" not in told


def test_class_names_are_shown_as_typed(archive, here):
    names = "wood [/x] & [red]field[/red], água"
    command = ["map", PATCH, *REAL, "--stac", archive(dates=9) / "items.json", "--classes", names, "--out", "m"]
    done = geomap(*command)
    assert done.exit_code == 0, done.stderr
    counts = json.loads((here / "m/run.json").read_text())["maps"]["classes"]["counts"]
    met = [name for number, name in enumerate(names.split(", "), 1) if str(number) in counts]
    assert met
    assert all(name in done.stdout for name in met)
    again = geomap(*command)
    assert "complete already" in again.stderr
    assert "Classes typed by the user" in again.stdout


def test_a_legend_of_ones_own_starts_from_a_built_in_one(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(geomap("legends", "show", "landcover", "--toml").stdout)
    assert legends.load(str(mine)) == legends.load("landcover")


def test_python_starts_the_command_too(tmp_path):
    done = subprocess.run([sys.executable, "-m", "geomap", "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == typed("--version").stdout == f"geomap {__version__}\n"


def test_help_and_lists_teach():
    assert "geomap demo" in geomap("--help").stdout
    assert "--classes" in geomap("map", "--help").stdout
    table = geomap("legends", "list").stdout
    assert all(name in table for name in legends.builtin_names())
    assert all(name in geomap("weights", "list").stdout for name in weight_names())
    card = json.loads(geomap("weights", "show", "default", "--json").stdout)
    assert card["name"] == "default"
    assert "Wetlands" in geomap("legends", "show", "landcover").stdout
    assert geomap("--version").stdout.startswith("geomap ")
