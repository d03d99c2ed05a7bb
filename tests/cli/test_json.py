"""--json gives one document; tables fit 80 columns; a run keeps a log, and libraries say nothing on stderr."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geomap import files
from geomap.encode.card import locate, read_card
from geomap.run import check
from geomap.run.log import FILE, MOST
from tests.support.archive import PATCH
from tests.support.runner import geomap, refused, typed

PLACE = [PATCH, "--start", "2018-08", "--months", "2"]


@pytest.fixture(scope="module")
def made(archive: Callable[..., Path], untrained: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run by a process of its own, and what it said."""
    out = tmp_path_factory.mktemp("json") / "out"
    words = ["map", *PLACE, "--stac", archive(dates=9) / "items.json", "--weights", untrained, "--save-embeddings"]
    return out, typed(*words, "--min-clear-months", "1", "--out", out, "--json")


def test_map_says_one_document(made: tuple[Path, Any]) -> None:
    out, done = made
    told = json.loads(done.stdout)
    assert done.returncode == 0
    assert (told["directory"], told["tiles"], told["quarantined"]) == (str(out), 1, {})
    cover = told["maps"][0]
    assert (cover["layer"], cover["files"], cover["kind"]) == ("landcover", [str(out / "landcover.tif")], "classes")
    assert sum(c["pixels"] for c in cover["classes"]) == cover["pixels"] == told["mapped"]["mapped"]
    assert {c["ha"] for c in cover["classes"]} == {round(c["pixels"] / 100, 2) for c in cover["classes"]}
    assert all(re.fullmatch("[A-H](00)?", c["code"]) for c in cover["classes"])


def test_other_commands_say_one_document(made: tuple[Path, Any], untrained: str, tmp_path: Path) -> None:
    out, _ = made
    explained = json.loads(geomap("explain", out, "--json").stdout)
    assert explained["finished"]
    assert sum(g["scenes"] for g in explained["groups"]) == explained["account"]["items"]
    again = json.loads(geomap("label", out, "--weights", untrained, "--out", tmp_path / "l", "--json").stdout)
    assert again["maps"][0]["classes"] == json.loads(made[1].stdout)["maps"][0]["classes"]
    assert json.loads(geomap("status", out, "--json").stdout)["state"] == "finished"
    assert json.loads(geomap("verify", out, "--json").stdout) == {
        "directory": str(out), "whole": True, "problems": [], "side": [],
    }  # fmt: skip
    (tmp_path / "l" / "landcover.tif").write_bytes(b"")
    done = geomap("verify", tmp_path / "l", "--json")
    refused(done, 1, "1 problem in")
    assert json.loads(done.stdout)["problems"][0].startswith("landcover.tif: changed")


def test_plan_and_run_say_one_document(archive: Callable[..., Path], untrained: str, tmp_path: Path) -> None:
    items = archive(dates=9) / "items.json"
    plan = json.loads(geomap("plan", *PLACE, "--stac", items, "--weights", untrained, "--json").stdout)
    assert (plan["tiles"], len(plan["months"])) == (1, 2)
    job = tmp_path / "job.yaml"
    job.write_text(
        f"name: two\narea: [{PATCH}]\nperiod: {{start: 2018-08, months: 2}}\nlegends: [landcover]\n"
        f"catalogue: {{stac: {items}}}\nweights: {{name: {untrained}}}\nmin_clear_months: 1\n"
        "outputs: {directory: out, name: true}\n"
    )
    told = json.loads(geomap("run", job, "--json").stdout)
    (result,) = told["results"]
    assert (told["job"], result["directory"]) == (str(job), str(tmp_path / "out"))
    assert result["maps"][0]["files"] == [str(tmp_path / "out/two_2018-08_2018-09_landcover.tif")]


@pytest.mark.parametrize("words", [["explain"], ["weights", "show"], ["verify"], ["status"]])
def test_text_fits_80_columns(words: list[str], made: tuple[Path, Any]) -> None:
    done = typed(*words, *([] if "weights" in words else [Path("out")]), cwd=made[0].parent, columns=80)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "…" not in done.stdout


def flanders() -> dict[str, float]:
    """Scores of land cover in Flanders by encoders of the default weights that had not seen it."""
    found: dict[str, float] = read_card(locate("default")).metrics["left_out"]["flanders_2019"]["landcover"]
    return found


def test_weights_are_shown_to_people() -> None:
    shown = " ".join(geomap("weights", "show").stdout.split())
    scored = f"{flanders()['accuracy']:.3f}"
    for text in ("Where they fail", "Measured on four places only", "Training data", "commonest class", scored):
        assert text in shown
    assert "{" not in shown


def test_weights_are_shown_side_by_side(untrained: str) -> None:
    done = typed("weights", "show", "default", untrained, columns=400)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    scored = f"{flanders()['accuracy']:.3f} / {flanders()['macro_f1']:.3f}"
    assert ["left out, flanders_2019, landcover", "3,725", scored, ""] in rows
    assert ["version", "", read_card(locate("default")).version, read_card(Path(untrained)).version] in rows
    both = json.loads(geomap("weights", "show", "default", untrained, "--json").stdout)
    assert both["default"] == json.loads(geomap("weights", "show", "--json").stdout)
    assert both[untrained]["metrics"] == {}


# --- the log of a run


def test_a_run_keeps_a_log_with_times(made: tuple[Path, Any]) -> None:
    out, _ = made
    lines = (out / files.STATE / FILE).read_text().splitlines()
    stamped = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} (INFO|WARNING|ERROR) [\w.]+: .+"
    assert all(re.fullmatch(stamped, line) for line in lines)
    assert any("1 of 1 tiles to make" in line for line in lines)
    assert "finished: 4 maps" in lines[-1]
    assert check.check(out) == check.Checked(())  # it is no part of the result


LIBRARIES = """
import logging, sys, warnings
from pathlib import Path
from geomap.cli.console import log_to_stderr
from geomap.run.log import kept
log_to_stderr(False)
logging.getLogger("geomap.search").warning("before the run")
with kept(Path(sys.argv[1])):
    logging.getLogger("zarr").error("noise of a library at https://a.example/x?sig=SECRET")
    warnings.warn("noise by warnings")
    logging.getLogger("geomap.run").info("detail")
    logging.getLogger("geomap.run").warning("mine")
    raise ValueError("at https://b.example/x?sig=SECRET")
"""


def test_libraries_log_into_the_file_alone_and_errors_end_it(tmp_path: Path) -> None:
    (tmp_path / files.STATE).mkdir()
    done = subprocess.run([sys.executable, "-c", LIBRARIES, tmp_path], capture_output=True, text=True, timeout=100)
    assert [line for line in done.stderr.splitlines() if "noise" in line and "File" not in line] == []
    assert "WARNING: mine" in done.stderr
    text = (tmp_path / files.STATE / FILE).read_text()
    for said in ("before the run", "noise of a library at https://a.example/x", "noise by warnings", "detail", "mine"):
        assert said in text
    assert text.splitlines()[-1].endswith("ERROR geomap.run.log: stopped: ValueError: at https://b.example/x")
    assert "SECRET" not in text


def test_a_log_that_cannot_be_written_fails_no_run_and_a_large_one_begins_anew(tmp_path: Path) -> None:
    from geomap.run.log import kept

    with kept(tmp_path / "nowhere"):
        pass
    (tmp_path / files.STATE).mkdir()
    path = tmp_path / files.STATE / FILE
    path.write_text("x" * (MOST + 1))
    with kept(tmp_path):
        pass
    assert path.stat().st_size < 1000
