"""Files and layers carry the place and the months where a run has a name; one group opens them all in QGIS."""

import json
import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geomap import files, legends
from geomap.errors import OutputError
from geomap.jobs.file import read_job
from geomap.run import check
from geomap.run.map import map_area
from geomap.run.request import Request
from geomap.run.update import earlier
from geomap.types import Period
from tests.support.archive import PATCH
from tests.support.outputs import digests
from tests.support.runner import geomap, refused

USES = legends.load("landuse")
HOSTILE = USES.model_copy(
    update={
        "name": "own",
        "classes": tuple(c.model_copy(update={"name": f"=1+{c.id} <b> & 'more'"}) for c in USES.classes),
    }
)
PLACE = "wallonie_2018-08_2018-09"
OPENED = """
import json, sys
from qgis.core import QgsApplication, QgsLayerDefinition, QgsProject
app = QgsApplication([], False)
app.initQgis()
project = QgsProject.instance()
ok, error = QgsLayerDefinition.loadLayerDefinition(sys.argv[1], project, project.layerTreeRoot())
(group,) = project.layerTreeRoot().children()
found = []
for node in group.children():
    layer = node.layer()
    classes = layer.renderer().classes() if hasattr(layer.renderer(), "classes") else []
    found.append([node.name(), layer.isValid(), layer.crs().authid(), node.isVisible(), [c.label for c in classes]])
print(json.dumps({"ok": ok, "error": error, "group": group.name(), "layers": found}))
"""


@pytest.fixture(scope="module")
def ask(archive: Callable[..., Path], asking: Callable[..., Request]) -> Callable[..., Request]:
    """Two maps of two months, whose composites and embeddings are kept."""
    kept = {"save_composites": True, "save_embeddings": True, "legends": ("landcover", HOSTILE)}

    def make(**changes: Any) -> Request:
        return asking(archive(dates=9) / "items.json", **(kept | {"period": Period(2018, 8, 2)} | changes))

    return make


@pytest.fixture(scope="module")
def named(ask: Callable[..., Request], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a name."""
    return map_area(ask(name="wallonie"), tmp_path_factory.mktemp("named") / "out").directory


def test_files_carry_place_and_months(named: Path) -> None:
    maps = {p.name for p in named.glob("*.tif")}
    of_each = ("", "_confidence", "_second")
    kinds = [*(f"{name}{kind}" for name in ("landcover", "own") for kind in of_each), "clear_months"]
    assert maps == {f"{PLACE}_{kind}.tif" for kind in kinds}
    assert (named / f"{PLACE}.qlr").is_file()
    assert check.check(named) == check.Checked(())
    item = json.loads(next((named / "stac").glob("geomap-*.json")).read_text())
    assert item["assets"]["landcover"]["href"] == f"../{PLACE}_landcover.tif"


def test_a_named_map_that_is_gone_is_found(named: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(named, out)
    gone = f"{PLACE}_landcover.tif"
    (out / gone).unlink()
    assert f"{gone}: missing" in check.damaged(out)
    sums = [line for line in (out / files.SUMS).read_text().splitlines() if gone not in line]
    (out / files.SUMS).write_text("\n".join(sums) + "\n")
    assert any(line.startswith(f"{gone}: missing") for line in check.check(out).problems)


def test_the_name_changes_no_pixel_and_belongs_to_the_request(
    named: Path, ask: Callable[..., Request], tmp_path: Path
) -> None:
    plain = map_area(ask(), tmp_path / "plain").directory
    mine, other = digests(plain), digests(named)
    assert {mine[n] for n in mine if n.endswith(".tif")} == {other[n] for n in other if n.endswith(".tif")}
    assert (plain / "landcover.tif").is_file()
    assert (plain / "maps.qlr").is_file()
    with pytest.raises(OutputError, match=r"differs in: name"):
        map_area(ask(), named)


def test_label_and_update_take_a_name(
    named: Path, ask: Callable[..., Request], untrained: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("--weights", untrained, "--out", tmp_path / "label")
    done = geomap("label", named, "--legend", "landuse", "--name", "uses", *words)
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "label/uses_2018-08_2018-09_landuse.tif").is_file()
    assert check.check(tmp_path / "label").problems == ()
    update = map_area(ask(period=Period(2018, 9, 2), name="wallonie", update=earlier(named)), tmp_path / "update")
    said = (
        "2018-08_2018-09 and 2018-09_2018-10 are not of the same months of the year: part of what changes is the season"
    )
    assert said in caplog.text
    assert update.update is not None
    assert update.update.months == {"2018-09": 1}
    assert {p.name for p in update.paths} >= {f"wallonie_2018-09_2018-10_landcover{s}.tif" for s in ("", "_from")}


def test_a_name_must_be_a_word(tmp_path: Path) -> None:
    for name in ("../up", "a b", ".hidden", "=1", "é"):
        said = refused(geomap("map", PATCH, "--year", "2023", "--name", name, "--out", tmp_path / "x"), 2, "--name")
        assert "letters, digits" in said


def test_a_job_gives_its_own_name_where_asked(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    text = "name: brussels\narea: [4.3, 50.8, 4.4, 50.9]\nperiod: {year: 2023}\nlegends: [landcover]\n"
    for outputs, name in (("", None), (", name: true", "brussels"), (", name: city", "city")):
        job.write_text(f"{text}outputs: {{directory: m{outputs}}}\n")
        assert read_job(job).keys.outputs.name == name


def test_styles_list_the_classes_that_occur_with_their_codes(named: Path) -> None:
    counts = json.loads((named / "run.json").read_text())["maps"]["landcover"]["counts"]
    style = ET.parse(named / f"{PLACE}_landcover.qml")
    shown = {e.attrib["value"]: e.attrib["label"] for e in style.findall(".//paletteEntry")}
    of = {str(c.id): f"{c.code} {c.name}" for c in legends.load("landcover").classes}
    assert 0 < len(shown) == len(counts) < len(of)
    assert shown == {value: of[value] for value in counts}


def test_qgis_opens_the_group_with_names_and_styles_also_elsewhere(
    named: Path, qgis: Callable[[Path], Any], tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(named, moved)
    env = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    command = ["/usr/bin/python3", "-c", OPENED, str(moved / f"{PLACE}.qlr")]
    report = json.loads(subprocess.run(command, env=env, capture_output=True, text=True, timeout=120).stdout)
    assert (report["ok"], report["group"]) == (True, "wallonie 2018-08 2018-09")
    names, valid, systems, visible, classes = zip(*report["layers"], strict=True)
    assert set(names) == {p.stem for p in moved.glob("*.tif")}
    assert all(valid)
    assert set(systems) == {"EPSG:32631"}
    assert visible == (True, *([False] * (len(names) - 1)))
    labels = set(dict(zip(names, classes, strict=True))[f"{PLACE}_own"])
    assert labels
    assert labels <= {f"{c.code or ''} {c.name}".strip() for c in HOSTILE.classes}
    assert check.check(moved).problems == ()
