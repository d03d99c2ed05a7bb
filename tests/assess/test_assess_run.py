"""`geomap sample` and `geomap assess` over finished maps: from drawing points to a folder that still verifies."""

import csv
import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely

from geomap import files, legends
from geomap.assess.class_map import class_at, find_map
from geomap.errors import BusyError, InputError
from geomap.points.pixels import pixels
from geomap.points.read import read_points
from geomap.run import check, learned
from geomap.run.assess import assess_map
from geomap.run.design import AssessRequest
from geomap.run.directory import holding
from geomap.run.record import add_files
from geomap.run.sample import SampleRequest, sample_map
from tests.support.maps import finished
from tests.support.runner import geomap, refused

NAMES = {c.id: c.name for c in legends.load("landcover").classes}
RNG = np.random.default_rng(11)
TRUTH = np.repeat(np.repeat(RNG.choice([2, 3, 5, 7], (12, 15), p=[0.5, 0.3, 0.15, 0.05]), 20, 0), 20, 1)
"""(240, 300) pixels of true land cover, in parcels."""
MAP = np.where(RNG.random(TRUTH.shape) < 0.85, TRUTH, RNG.choice([2, 3, 5], TRUTH.shape)) * (TRUTH.cumsum(1) > 9)
"""The same, 85 to 90 % right; nodata at the western edge."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return finished(tmp_path / "run", {"landcover": {32631: MAP}})


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("truth"), {"landcover": {32631: TRUTH}})


def filled(path: Path, truth: Path) -> geopandas.GeoDataFrame:
    """The points of a sample with their true classes."""
    table = geopandas.read_file(path)
    lonlat = np.column_stack([table.geometry.x, table.geometry.y])
    table["class"] = [NAMES[int(c)] for c in class_at(find_map(truth, None), lonlat)]
    return table


def write(table: geopandas.GeoDataFrame, path: Path) -> Path:
    table.to_file(path, driver="GPKG", layer="sample")
    return path


@pytest.fixture
def answered(run: Path, truth: Path, tmp_path: Path) -> Path:
    """A stratified sample of the run, answered."""
    sample_map(run, [tmp_path / "points.gpkg"], SampleRequest(n=300))
    return write(filled(tmp_path / "points.gpkg", truth), tmp_path / "answered.gpkg")


# --- sample


def test_a_sample_is_the_same_again_and_hides_the_mapped_class(run: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        names = [tmp_path / folder / f"points{suffix}" for suffix in (".gpkg", ".csv", ".gpx")]
        made = sample_map(run, names, SampleRequest(n=120))
    for suffix in (".gpkg", ".csv", ".gpx"):
        a, b = ((tmp_path / folder / f"points{suffix}").read_bytes() for folder in ("a", "b"))
        assert a == b
    table = geopandas.read_file(tmp_path / "a/points.gpkg")
    assert (len(table), table.crs.to_epsg()) == (120, 4326)
    assert "mapped" not in table
    assert set(table["class"]) == {""}
    rows = list(csv.DictReader((tmp_path / "a/points.csv").open()))
    assert [row["stratum"] for row in rows] == [str(h) for h in table["stratum"]]
    for row, mapped in zip(rows, made.drawn.mapped.tolist(), strict=True):
        size = int((mapped == MAP).sum())
        assert int(row["stratum_px"]) == size
        assert float(row["probability"]) == pytest.approx(made.points[mapped] / size)
    assert (np.diff(made.drawn.stratum) != 0).sum() > 40  # in random order
    gpx = ET.parse(tmp_path / "a/points.gpx").getroot()
    assert [float(w.get("lon", 0)) for w in gpx] == [float(row["lon"]) for row in rows]
    other = sample_map(run, [tmp_path / "c.csv"], SampleRequest(n=120, seed=2, show_mapped=True))
    assert not np.array_equal(np.sort(other.drawn.lonlat, 0), np.sort(made.drawn.lonlat, 0))
    shown = [row["mapped"] for row in csv.DictReader((tmp_path / "c.csv").open())]
    assert shown == [NAMES[c] for c in other.drawn.mapped.tolist()]


def test_the_size_follows_from_a_standard_error(run: Path, tmp_path: Path) -> None:
    """With one accuracy U everywhere, n = U (1 - U) / se^2, less what a small map saves."""
    made = sample_map(run, [tmp_path / "a.csv"], SampleRequest(standard_error=0.04, design="random", expected_else=0.9))
    assert len(made.drawn.lonlat) == 57  # ceil(56.25 / (1 + 56.25 / 70,000))
    plain = sample_map(run, [tmp_path / "b.csv"], SampleRequest())
    assert plain.drawn.lonlat.shape == (398, 2)
    shares = {c: size / sum(plain.pixels.values()) for c, size in plain.pixels.items()}
    variance = sum(w**2 * 0.8 * 0.2 / plain.points[c] for c, w in shares.items())
    assert plain.standard_error == pytest.approx(variance**0.5)
    assert plain.standard_error > 0.02  # rare classes take points from the common ones
    shares_right = {"CROPLAND": 1.0, "bare_land": 0.8}  # as people write names
    sure = SampleRequest(standard_error=0.02, design="random", expected=shares_right, expected_else=0.8)
    right = shares[2] + 0.8 * (1 - shares[2])
    spread, total = right * (1 - right), sum(plain.pixels.values())
    drawn = sample_map(run, [tmp_path / "c.csv"], sure).drawn.lonlat
    assert len(drawn) == np.ceil(spread / (0.02**2 + spread / total))
    none = sample_map(run, [tmp_path / "d.csv"], SampleRequest(expected_else=1.0))  # none is needed, but for variances
    assert {*none.points.values()} == {2}


def test_a_random_sample_is_told_as_one(run: Path, truth: Path, tmp_path: Path) -> None:
    sample_map(run, [tmp_path / "p.gpkg"], SampleRequest(n=150, design="random"))
    made = assess_map(run, AssessRequest(write(filled(tmp_path / "p.gpkg", truth), tmp_path / "a.gpkg"), "class"))
    assert (made.design, made.probability, made.polygons) == ("random", True, None)
    assert len(made.places.x) == 150


def test_pixels_without_a_class_are_expected_to_be_wrong_as_they_count(tmp_path: Path) -> None:
    doubtful = np.where(np.indices(MAP.shape)[0] < 60, 255, MAP)
    run = finished(tmp_path / "doubtful", {"landcover": {32631: doubtful}})
    made = sample_map(run, [tmp_path / "a.csv"], SampleRequest())
    shares = {c: size / sum(made.pixels.values()) for c, size in made.pixels.items()}
    variance = sum(w**2 * 0.8 * 0.2 / made.points[c] for c, w in shares.items() if c != 255)
    assert made.standard_error == pytest.approx(variance**0.5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--n", "3", "--out", "a.gpkg"], "3 points are too few for 4 classes, which need 2 each; type --n 8 or more"),
        (["--n", "9", "--out", "a.kml"], "a name that ends in .gpkg, .csv or .gpx"),
        (["--n", "9", "--out", "there.gpkg"], "is there already and may hold answers"),
        (["--out", "a.gpkg", "--legend", "crops"], "no map 'crops' of classes; choose --legend from landcover"),
        (["--n", "9", "--out", "a.gpkg", "--expected", "Bog=0.5"], "landcover has no class 'Bog'"),
        (["--n", "9", "--out", "a.gpkg", "--expected", "high"], "write a share: 0.8, or of a class: Cropland=0.9"),
    ],
)  # fmt: skip
def test_a_sample_that_cannot_be_drawn_is_refused_in_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.gpkg").write_text("answers")
    refused(geomap("sample", run, *words), 2, says)
    assert (tmp_path / "there.gpkg").read_text() == "answers"
    assert not (tmp_path / "a.gpkg").exists()


def test_a_sample_that_is_the_whole_map_or_all_of_a_class_says_so(run: Path, tmp_path: Path) -> None:
    rare, name = min((int((c == MAP).sum()), NAMES[c]) for c in (2, 3, 5, 7))
    done = geomap("sample", run, "--n", "100000", "--out", tmp_path / "all.csv")
    assert f"100,000 points were asked for, and the map has {(MAP > 0).sum():,} pixels" in done.stdout
    done = geomap("sample", run, "--n", "100", "--out", tmp_path / "few.csv")
    assert "at least 12 points a class instead of 30 (--min), for 4 classes share the points" in done.stdout
    done = geomap("sample", run, "--n", str(5 * rare), "--allocation", "equal", "--out", tmp_path / "rare.csv")
    assert f"every pixel of these classes is a point, for they have no more: {name} ({rare:,})" in done.stdout


def test_points_spent_on_specks_are_told_with_what_to_type(tmp_path: Path) -> None:
    ids = np.full((100, 100), 2)
    ids[0, :12] = np.repeat([1, 3, 4, 5, 6, 7], 2)
    run = finished(tmp_path / "run", {"landcover": {32631: ids}})
    told = "points go to 6 classes with 0.12 ha together; to draw by area alone, type --design random"
    for words, points in (("40", 12), ("60", None)):
        said = geomap("sample", run, "--n", words, "--out", tmp_path / f"{words}.csv", columns=200).stdout
        assert (f"{points} of {words} {told}" in said) == (points is not None)
    drawn = geomap("sample", run, "--n", "40", "--design", "random", "--out", tmp_path / "random.csv").stdout
    assert "points go to" not in drawn


# --- assess


def test_a_drawn_sample_leads_to_intervals_and_a_folder_that_verifies(run: Path, answered: Path) -> None:
    areas = [
        {"id": c, "name": NAMES[c], "pixels": n, "ha": n / 100, "share": n / (MAP > 0).sum(), "colour": "#aaaaaa"}
        for c in (2, 3, 5, 7)
        for n in [int((c == MAP).sum())]
    ]
    run_areas = "map,id,pixels\n" + "".join(f"landcover,{a['id']},{a['pixels']}\n" for a in areas)
    add_files(run, {"areas.json": files.json_bytes({"landcover": areas}), "areas.csv": run_areas.encode()})
    assert check.check(run).problems == ()
    assert "estimated" not in geomap("areas", run).stdout
    done = geomap("assess", run, "--points", answered, "--column", "class", columns=80)
    assert done.exit_code == 0, done.output
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if "│" in line or "─" in line)
    assert check.check(run).problems == ()
    assert check.check(run).side == ()
    assert check.damaged(run) == ()  # so the run's command leaves the folder as it is
    found = json.loads((run / "assessment.json").read_text())["landcover"]
    assert (found["design"], found["probability_sample"], found["points"]) == ("stratified", True, 300)
    right = ((MAP == TRUTH) & (MAP > 0)).sum() / (MAP > 0).sum()
    overall = found["overall_accuracy"]
    assert abs(overall["value"] - right) < 2 * overall["ci95"] < 0.2
    assert found["area_ha"] == pytest.approx((MAP > 0).sum() / 100)
    assert sum(c["area_ha"]["value"] for c in found["classes"]) == pytest.approx(found["area_ha"], abs=0.05)
    for c in found["classes"]:
        true = ((c["id"] == TRUTH) & (MAP > 0)).sum() / 100
        assert c["area_ha"]["ci95"] is None or abs(c["area_ha"]["value"] - true) <= 2 * c["area_ha"]["ci95"]
    assert (
        found["classes"][3]["area_ha"]["ci95"] is None
    )  # every point agrees on where water is, and the next might not
    assert found["reliability"] == [  # the map states one confidence everywhere
        {
            "points": 300, "confidence": pytest.approx(0.5, abs=1e-6), "area_share": pytest.approx(1),
            "right": overall,
        }
    ]  # fmt: skip
    assert found["calibration_error"] == pytest.approx(abs(overall["value"] - 0.5), abs=2e-6)
    assert "expected calibration error" in done.stdout
    known = json.loads((run / "areas.json").read_text())["landcover"]
    by_id = {c["id"]: c["area_ha"] for c in found["classes"]}
    assert [(a["adjusted_ha"], a["ci95_ha"]) for a in known] == [
        (by_id[i]["value"], by_id[i]["ci95"]) for i in (2, 3, 5, 7)
    ]
    rows = list(csv.DictReader((run / "areas.csv").open()))
    assert [float(row["adjusted_ha"]) for row in rows] == [a["adjusted_ha"] for a in known]
    table = list(csv.DictReader((run / "assessment.csv").open()))
    assert [row["class"] for row in table] == ["", "Cropland", "Woodland", "Grassland", "Water"]
    assert float(table[0]["overall_accuracy"]) == overall["value"]
    assert int(table[1]["points as Cropland"]) == found["confusion_points"][0][0]
    listed = geomap("areas", run, columns=120).stdout
    crops = by_id[2]
    assert f"{crops['value']:,.2f} +-{crops['ci95']:,.2f}" in listed
    assert f"{by_id[7]['value']:,.2f} +-?" in listed
    told = f"landcover was assessed with 300 points: overall accuracy {overall['value']:.2f} +-{overall['ci95']:.2f}"
    assert told in listed
    assert told in geomap("explain", run, columns=120).stdout
    rows = json.loads(geomap("areas", run, "--json").stdout)
    assert {row["id"]: (row["adjusted_ha"], row["ci95_ha"]) for row in rows} == {
        c: (area["value"], area["ci95"]) for c, area in by_id.items()
    }
    assert "*" not in listed
    (run / "assessment.json").unlink()
    plain = write(geopandas.read_file(answered)[["class", "geometry"]], answered.with_name("plain.gpkg"))
    assess_map(run, AssessRequest(plain, "class"))
    listed = geomap("areas", run, columns=120).stdout
    assert len(re.findall(r" \+-[\d.?]+ \*", listed)) == 4
    assert "300 points, which are not known to be drawn by chance" in " ".join(listed.split())
    assert "*: of such points" in listed
    assert "by points that are not known to be drawn by chance" in geomap("areas", run, "--json").stderr


def test_the_same_points_give_the_same_bytes_and_a_lost_file_is_found(run: Path, answered: Path) -> None:
    asked = AssessRequest(answered, "class")
    assess_map(run, asked)
    before = {name: (run / name).read_bytes() for name in ("assessment.json", "assessment.csv", "run.json", files.SUMS)}
    assess_map(run, asked)
    assert {name: (run / name).read_bytes() for name in before} == before
    (run / "assessment.csv").write_text("0 errors")
    assert check.check(run).problems == ("assessment.csv: changed; type the geomap assess command again",)
    assess_map(run, asked)
    assert check.check(run).problems == ()


def test_an_assessment_stopped_at_any_step_is_made_whole_by_the_next(
    run: Path, answered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is written, and then moved to its place: a step each."""
    asked, replace, steps = AssessRequest(answered, "class"), os.replace, list[str]()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with monkeypatch.context() as watched:
        watched.setattr("os.replace", lambda a, b: (steps.append(str(b)), replace(a, b)))
        assess_map(run, asked)
    whole = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert len(steps) >= 10
    for stop in range(len(steps) // 2 - 2, len(steps)):
        for path in run.rglob("*"):
            if path.is_file():
                path.write_bytes(before[path]) if path in before else path.unlink()
        left = iter(range(stop))

        def stopped(a: Path, b: Path, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            replace(a, b)

        with monkeypatch.context() as killed:
            killed.setattr("os.replace", stopped)
            with pytest.raises(KeyboardInterrupt):
                assess_map(run, asked)
        if stop % 2:  # as the run's own command does, typed again
            files.clean_temporary(run)
            assert check.check(run).problems == ()
        assess_map(run, asked)
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == whole
    assert check.check(run).problems == ()


def test_one_assessment_at_a_time_writes_a_folder(run: Path, answered: Path) -> None:
    with holding(run), pytest.raises(BusyError, match=r"is writing .* wait for it"):
        assess_map(run, AssessRequest(answered, "class"))
    assert not (run / "assessment.json").exists()
    assess_map(run, AssessRequest(answered, "class"))
    files.write_bytes(run / files.ADDED / files.SUMS, (run / files.SUMS).read_bytes())  # killed before the last move
    assert check.check(run).problems == (
        "an assessment was stopped while it was put in place; type geomap assess again",
    )
    assess_map(run, AssessRequest(answered, "class"))
    assert check.check(run).problems == ()


def test_a_damaged_map_is_not_assessed(run: Path, answered: Path) -> None:
    content = bytearray((run / "landcover.tif").read_bytes())
    content[-1] ^= 1
    (run / "landcover.tif").write_bytes(content)
    with pytest.raises(InputError, match=r"landcover.tif: changed; geomap verify"):
        assess_map(run, AssessRequest(answered, "class"))


def test_a_run_whose_record_was_changed_is_not_listed_anew(run: Path, answered: Path) -> None:
    (run / "run.json").write_text((run / "run.json").read_text() + " ")
    refused(geomap("assess", run, "--points", answered, "--column", "class"), 2, "run.json is not what the run wrote")
    assert not (run / "assessment.json").exists()


def test_a_run_whose_list_lost_a_line_is_not_listed_anew(run: Path, answered: Path) -> None:
    lines = (run / files.SUMS).read_text().splitlines(keepends=True)
    (run / files.SUMS).write_text("".join(line for line in lines if "landcover.qml" not in line))
    refused(
        geomap("assess", run, "--points", answered, "--column", "class"), 2, "SHA256SUMS is not what the run listed"
    )
    assert not (run / "assessment.json").exists()


@pytest.mark.parametrize("name", ["assessment.json", "areas.json", "areas.csv", "index.html"])
def test_a_file_that_was_changed_is_not_listed_as_if_it_were_right(run: Path, answered: Path, name: str) -> None:
    add_files(run, {"index.html": b"<!doctype html><title>a page</title>"})
    asked = AssessRequest(answered, "class")
    assess_map(run, asked)
    content = (run / name).read_bytes()
    (run / name).write_bytes(content.replace(b"a", b"b", 1))
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(InputError, match=rf"{name}: changed; (geomap verify|remove .*assessment\.json)"):
        assess_map(run, asked)
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    (problem,) = check.check(run).problems
    assert problem.startswith(f"{name}: changed; ")
    if name == "assessment.json":
        assert problem.endswith("remove it, and type the geomap assess command of each map again")
        (run / name).unlink()
        assess_map(run, asked)
        assert (run / name).read_bytes() == content
        assert check.check(run).problems == ()


def test_an_assessment_of_another_form_is_refused_until_it_is_removed(run: Path, answered: Path) -> None:
    add_files(run, {"assessment.json": files.json_bytes({"crops": [1, 2]})})
    asked = AssessRequest(answered, "class")
    with pytest.raises(InputError, match=r"assessment\.json is of another version of geomap; remove it"):
        assess_map(run, asked)
    (run / "assessment.json").unlink()
    assess_map(run, asked)
    assert json.loads((run / "assessment.json").read_text()).keys() == {"landcover"}


def test_a_file_that_no_run_wrote_is_not_taken_for_an_assessment(run: Path, answered: Path) -> None:
    found = '{"crops": {"points": 3, "overall_accuracy": {"value": 1, "ci95": null}, "probability_sample": true}}'
    (run / "assessment.json").write_text(found)
    assert "assessed" not in geomap("areas", run).stdout  # nor what is left of a map that was made again
    assess_map(run, AssessRequest(answered, "class"))
    assert "landcover was assessed with" in geomap("areas", run).stdout
    assert json.loads((run / "assessment.json").read_text()).keys() == {"landcover"}
    assert check.check(run).problems == ()


def test_names_of_classes_are_text(run: Path, answered: Path) -> None:
    table = geopandas.read_file(answered)
    table.loc[:2, "class"] = "[red]Bog[/red]"
    odd = write(table, answered.with_name("odd.gpkg"))
    done = geomap("assess", run, "--points", odd, "--column", "class")
    assert "[red]Bog[/red]" in done.stdout
    assert "[red]Bog[/red] (3)" in done.stderr


def test_names_that_a_spreadsheet_would_run_are_inert_and_case_makes_no_class(run: Path, answered: Path) -> None:
    table = geopandas.read_file(answered)
    table.loc[:5, "class"] = ["=1+1", "Vineyard", "vineyard", "VINEYARD", "=1+1", "=1+1"]
    odd = write(table, answered.with_name("odd.gpkg"))
    made = assess_map(run, AssessRequest(odd, "class"))
    assert "classes that the map does not have, so it is wrong there: =1+1 (3), Vineyard (3)" in made.notes
    assert made.estimates.counts.sum(axis=0)[-2:].tolist() == [3, 3]
    rows = list(csv.DictReader((run / "assessment.csv").open()))
    assert [row["class"] for row in rows[-2:]] == ["'=1+1", "Vineyard"]
    assert list(rows[0])[-2:] == ["points as =1+1", "points as Vineyard"]
    assert [c["name"] for c in json.loads((run / "assessment.json").read_text())["landcover"]["classes"]][-2] == "=1+1"


def taught(run: Path, answered: Path, count: int | None) -> None:
    """Make it known that a map learned from the first points of a file, or from all."""
    place = pixels(read_points(answered, "class").lonlat[:count])
    about = learned.Taught("", len(place), {}, ())
    record = learned.LearnedRecord("0", {}, {}, about, "", "", (), False, True, "", None, settings={"penalty": 0.15})
    no_head = SimpleNamespace(arrays=dict)  # only the pixels are read
    add_files(run, learned.contents(record, no_head, None, place)[1])  # type: ignore[arg-type]


def test_points_that_the_map_learned_from_are_refused_or_told(run: Path, answered: Path) -> None:
    taught(run, answered, 20)
    asked = ("assess", run, "--points", answered, "--column", "class")
    refused(geomap(*asked), 2, "20 of 300 points lie on pixels that the map learned from", "--allow-learned")
    assert not (run / "assessment.json").exists()
    done = geomap(*asked, "--allow-learned")
    assert done.exit_code == 0
    said = "WARNING: 20 of 300 points lie on pixels that the map learned from: the accuracies are too high"
    assert said in done.stderr
    (run / "learned.safetensors").write_bytes(b"")
    refused(geomap(*asked), 2, "learned.safetensors: changed; geomap verify")
    (run / "learned.json").unlink()
    refused(geomap(*asked), 2, "learned.json: missing; geomap verify")


def test_a_few_points_that_a_sample_hits_by_chance_are_left_out(run: Path, answered: Path) -> None:
    taught(run, answered, 7)
    done = geomap("assess", run, "--points", answered, "--column", "class")
    assert done.exit_code == 0
    assert "7 of 300 points lie on pixels that the map learned from; left out" in " ".join(done.stderr.split())
    made = json.loads((run / "assessment.json").read_text())["landcover"]
    assert made["points"] == 293


def test_points_from_which_another_run_learned_the_classes_are_refused(run: Path, answered: Path) -> None:
    content = json.loads((run / "run.json").read_text())
    content["request"]["learned"] = {"points": read_points(answered, "class").digest}
    files.write_json(run / "run.json", content)
    files.write_sums(run)
    asked = ("assess", run, "--points", answered, "--column", "class")
    refused(geomap(*asked), 2, "300 of 300 points lie on pixels that the map learned from")


def test_points_of_unknown_origin_are_told_and_the_user_may_vouch_for_them(run: Path, answered: Path) -> None:
    table = geopandas.read_file(answered)[["class", "geometry"]]
    plain = write(table, answered.with_name("plain.gpkg"))

    def told() -> tuple[Any, str]:
        areas = json.loads((run / "areas.json").read_bytes())["landcover"]
        listed = csv.DictReader((run / "areas.csv").read_text().splitlines())
        return areas[0]["probability_sample"], next(r for r in listed if r["map"] == "landcover")["probability_sample"]

    made = assess_map(run, AssessRequest(plain, "class"))
    assert (made.design, made.probability) == ("random", False)
    assert any(note.startswith("WARNING: the file does not tell that the points were drawn") for note in made.notes)
    assert told() == (False, "False")
    vouched = assess_map(run, AssessRequest(plain, "class", design="stratified"))
    assert vouched.probability
    assert told() == (True, "True")
    assert vouched.estimates.overall == assess_map(run, AssessRequest(answered, "class")).estimates.overall


def test_points_of_unknown_origin_do_not_replace_a_probability_sample(run: Path, answered: Path) -> None:
    assess_map(run, AssessRequest(answered, "class"))
    before = (run / "assessment.json").read_bytes()
    plain = write(geopandas.read_file(answered)[["class", "geometry"]], answered.with_name("plain.gpkg"))
    asked = ("assess", run, "--points", plain, "--column", "class")
    refused(geomap(*asked), 2, "landcover was assessed with 300 points of a probability sample", "add --design random")
    assert (run / "assessment.json").read_bytes() == before
    assert geomap(*asked, "--design", "random").exit_code == 0
    (run / "assessment.json").unlink()
    assert geomap(*asked).exit_code == 0  # as the refusal says
    assert geomap(*asked).exit_code == 0  # one of the same kind is replaced


def test_what_cannot_count_is_left_out_and_told(run: Path, answered: Path) -> None:
    table = geopandas.read_file(answered)
    whole = assess_map(run, AssessRequest(answered, "class"))
    table.loc[:4, "class"] = ""
    table.loc[5, "class"] = "Moon"
    extra = table.iloc[[10]].assign(stratum=np.nan, stratum_px=np.nan, probability=np.nan)
    off = extra.set_geometry([shapely.Point(3.1, 45.0)], crs=4326).assign(**{"class": "Moon"})
    both = pd.concat([table, extra, off]).pipe(geopandas.GeoDataFrame)
    made = assess_map(run, AssessRequest(write(both, answered.with_name("more.gpkg")), "class"))
    assert made.estimates.counts.sum() == 295
    told = " | ".join(made.notes)
    assert "5 points have no class; left out, as if like the others of their stratum" in told
    assert "2 points have no stratum" in told
    assert "1 points lie where nothing is mapped" in told
    assert "classes that the map does not have, so it is wrong there: Moon (1)" in told  # not those off the map
    assert len(made.estimates.classes) == len(whole.estimates.classes) + 1
    assert made.population == whole.population
    table.loc[6:8, "class"] = "unclassified"  # on a map without such pixels
    again = assess_map(run, AssessRequest(write(table, answered.with_name("doubt.gpkg")), "class"))
    assert again.estimates.counts.sum() == made.estimates.counts.sum() - 3


def test_points_without_a_class_have_no_stratum_where_the_sample_has_none(run: Path, answered: Path) -> None:
    table = geopandas.read_file(answered)[["class", "geometry"]]
    table.loc[:4, "class"] = ""
    plain = write(table, answered.with_name("plain.gpkg"))
    notes = assess_map(run, AssessRequest(plain, "class", design="random")).notes
    told = "(where none of the classes is, write a name, such as no crop)"
    assert f"5 points have no class; left out, as if like the others {told}" in notes


def test_a_mapped_class_without_points_is_left_out_of_the_estimates_and_told(run: Path, answered: Path) -> None:
    table = geopandas.read_file(answered)[["class", "geometry"]]
    lonlat = np.column_stack([table.geometry.x, table.geometry.y])
    mapped = class_at(find_map(run, None), lonlat)
    chosen = write(table[mapped != 7], answered.with_name("some.gpkg"))
    made = assess_map(run, AssessRequest(chosen, "class", design="stratified"))
    assert made.population == (MAP > 0).sum() - (MAP == 7).sum()
    assert any(note.startswith("Water (") and "has no point: nothing is known about it" in note for note in made.notes)


@pytest.mark.parametrize("gone", ["rows", "answers"])
def test_a_class_whose_stratum_is_gone_has_no_area_and_the_others_are_for_the_map_without_it(
    run: Path, answered: Path, gone: str
) -> None:
    """The rows of all woodland points deleted, or left without an answer; the rest by equations 9 and 10, once more."""
    areas = [{"id": c, "name": NAMES[c], "pixels": int((c == MAP).sum())} for c in (2, 3, 5, 7)]
    run_areas = "map,id,pixels\n" + "".join(f"landcover,{a['id']},{a['pixels']}\n" for a in areas)
    add_files(run, {"areas.json": files.json_bytes({"landcover": areas}), "areas.csv": run_areas.encode()})
    table = geopandas.read_file(answered)
    mapped = class_at(find_map(run, None), np.column_stack([table.geometry.x, table.geometry.y]))
    if gone == "rows":
        table, mapped = table[mapped != 3], mapped[mapped != 3]
    else:
        table.loc[mapped == 3, "class"] = ""
    made = assess_map(run, AssessRequest(write(table, answered.with_name("some.gpkg")), "class"))
    pixels = {c: int((c == MAP).sum()) for c in (2, 5, 7)}
    total, truth = sum(pixels.values()), table["class"].to_numpy()
    expected, error = dict.fromkeys((2, 5, 7), 0.0), dict.fromkeys((2, 5, 7), 0.0)
    for h, size in pixels.items():
        for c in expected:
            p, n = (truth[mapped == h] == NAMES[c]).mean(), (mapped == h).sum()
            expected[c] += size / total * p
            error[c] += (size / total) ** 2 * p * (1 - p) / (n - 1)
    assert made.population == total
    found = json.loads((run / "assessment.json").read_text())["landcover"]
    assert len(found["sample"]["x"]) == found["points"]  # in parts of the map, the others are known
    assert found["area_ha"] == pytest.approx(total / 100)
    by_id = {c["id"]: c for c in found["classes"]}
    for c in expected:
        assert by_id[c]["area_ha"]["value"] == pytest.approx(expected[c] * total / 100, abs=0.006)
        assert by_id[c]["area_ha"]["ci95"] == pytest.approx(1.96 * error[c] ** 0.5 * total / 100 or None, abs=0.006)
    nothing = ("users_accuracy", "producers_accuracy", "area_share", "area_ha")
    assert [by_id[3][key] for key in nothing] == [None] * 4
    assert by_id[3]["points_reference"] > 0  # woodland is elsewhere too, and says nothing about its whole area
    size = int((MAP == 3).sum())
    told = f"Woodland ({size / 100:,.2f} ha, {size / (total + size):.1%}) has no point: nothing is known about it"
    (note,) = [note for note in made.notes if "has no point" in note]
    assert note == f"{told}, and the estimates are for the map without it"
    known = {a["id"]: a for a in json.loads((run / "areas.json").read_text())["landcover"]}
    assert (known[3]["adjusted_ha"], known[3]["ci95_ha"]) == (None, None)
    rows = {row["id"]: row for row in csv.DictReader((run / "areas.csv").open())}
    assert {row["adjusted_ha"] for row in rows.values()} == {""}  # estimates of a part do not stand beside the whole
    part = f"{total / 100:,.2f} of the map's {(total + size) / 100:,.2f} ha"
    assert f"WARNING: the figures are for {part}: no estimated areas are listed beside those of the map" in made.notes
    said = " ".join(geomap("explain", run).stdout.split())
    assert f"overall accuracy of {total / 100:,.1f} of its {(total + size) / 100:,.1f} ha 0." in said
    assert check.check(run).problems == ()


def test_a_sample_of_a_part_of_the_map_tells_how_much_it_leaves_out(run: Path, truth: Path, tmp_path: Path) -> None:
    """Drawn from a map of the eastern two thirds: the west has all classes, so no class is named."""
    east = np.where(np.indices(MAP.shape)[1] >= 100, MAP, 0)
    part = finished(tmp_path / "part", {"landcover": {32631: east}})
    sample_map(part, [tmp_path / "p.gpkg"], SampleRequest(n=200))
    made = assess_map(run, AssessRequest(write(filled(tmp_path / "p.gpkg", truth), tmp_path / "q.gpkg"), "class"))
    size, total = int((east > 0).sum()), int((MAP > 0).sum())
    assert made.population == size
    told = f"the part of the map in no stratum of the file ({(total - size) / 100:,.2f} ha, {1 - size / total:.1%})"
    assert sum(note.startswith(f"{told} has no point") for note in made.notes) == 1
    assert made.places.x == []  # in the west nothing is known
    assert sum(a.value for a in made.estimates.areas) == pytest.approx(1)


def test_a_sample_of_one_map_assesses_another_whose_classes_are_not_the_strata(
    run: Path, truth: Path, tmp_path: Path
) -> None:
    """Drawn by the classes of a first map; the second is right everywhere it maps, and maps one half."""
    better = finished(tmp_path / "better", {"landcover": {32631: TRUTH * (np.indices(TRUTH.shape)[1] >= 150)}})
    sample_map(run, [tmp_path / "p.gpkg"], SampleRequest(n=200))
    points = write(filled(tmp_path / "p.gpkg", truth), tmp_path / "q.gpkg")
    made = assess_map(better, AssessRequest(points, "class"))
    assert made.estimates.overall.value == 1
    assert made.population == 240 * 150
    assert made.places.x == []
    assert sum(a.value for a in made.estimates.areas) == pytest.approx(1)
    assert any("points lie where nothing is mapped" in note for note in made.notes)


def test_polygons_are_clusters_with_all_their_pixels(run: Path) -> None:
    """Parcels of 20 x 20 pixels, each drawn as a polygon."""
    rows, columns = RNG.integers(0, 12, 30), RNG.integers(1, 15, 30)
    shapes = [
        shapely.box(500_000 + 200 * c, 5_600_000 - 200 * (r + 1), 500_000 + 200 * (c + 1), 5_600_000 - 200 * r)
        for r, c in zip(rows, columns, strict=True)
    ]
    names = [NAMES[int(TRUTH[20 * r, 20 * c])] for r, c in zip(rows, columns, strict=True)]
    table = geopandas.GeoDataFrame({"kind": names}, geometry=shapes, crs=32631).to_crs(4326)
    made = assess_map(run, AssessRequest(write(table, run.parent / "fields.gpkg"), "kind", design="cluster"))
    right = [
        (MAP == TRUTH)[20 * r : 20 * r + 20, 20 * c : 20 * c + 20].mean() for r, c in zip(rows, columns, strict=True)
    ]
    assert made.estimates.counts.sum() == pytest.approx(30 * 400, rel=0.01)  # edges are curved in degrees
    assert made.estimates.overall.value == pytest.approx(np.mean(right), abs=0.005)
    assert made.estimates.overall.error == pytest.approx(np.std(right, ddof=1) / np.sqrt(30), rel=0.1)
    assert made.estimates.quantile == pytest.approx(2.045, abs=1e-3)  # t of 29 degrees of freedom: any table
    assert (made.design, made.places.x, made.polygons) == ("cluster", [], 30)
    told = f"landcover was assessed with {made.polygons} polygons ({made.estimates.counts.sum():,} pixels): overall"
    said = " ".join(geomap("explain", run).stdout.split())
    assert told in said
    assert "its intervals are too narrow for classes with few points: Cropland" in said
    (few,) = [note for note in made.notes if note.startswith("fewer than 50 polygons")]
    assert "Cropland" in few  # of thousands of pixels


def test_a_polygon_counts_with_all_its_pixels_however_large_or_thin(run: Path) -> None:
    """A strip of 2 km from corner to corner, and the whole map: 41,600 pixels by their centres."""
    strip = shapely.LineString([(500_500, 5_599_900), (502_500, 5_597_900)]).buffer(30)
    x, y = np.meshgrid(500_005 + 10.0 * np.arange(300), 5_599_995 - 10.0 * np.arange(240))
    for shape in (strip, shapely.box(500_400, 5_597_600, 503_000, 5_599_200)):
        table = geopandas.GeoDataFrame({"class": ["Cropland"]}, geometry=[shape], crs=32631)
        found = read_points(write(table, run.parent / "one.gpkg"), "class", every_pixel=True)
        assert len(found) == pytest.approx(int(shapely.contains_xy(shape, x, y).sum()), rel=0.002)  # curved in degrees


def test_polygons_drawn_at_random_are_clusters_all_the_same(run: Path) -> None:
    shapes = [shapely.box(x, 5_599_000, x + 40, 5_599_040) for x in range(500_300, 502_700, 120)]
    table = geopandas.GeoDataFrame({"class": ["Cropland"] * len(shapes)}, geometry=shapes, crs=32631)
    points = write(table, run.parent / "fields.gpkg")
    found = [assess_map(run, AssessRequest(points, "class", design=how)) for how in ("cluster", "random")]
    assert found[0].estimates.overall == found[1].estimates.overall
    assert found[1].design == "cluster"
    assert any("are clusters, however they were drawn" in note for note in found[1].notes)


def test_a_large_polygon_that_taught_the_map_is_refused_although_few_of_its_pixels_did(run: Path) -> None:
    """42 fields of 22 x 22 pixels, of each of which 20 were learned from."""
    shapes = [
        shapely.box(500_300 + 240 * c, 5_597_700 + 240 * r, 500_520 + 240 * c, 5_597_920 + 240 * r)
        for r in range(6)
        for c in range(7)
    ]
    table = geopandas.GeoDataFrame({"class": ["Cropland", "Woodland"] * 21}, geometry=shapes, crs=32631).to_crs(4326)
    fields = write(table, run.parent / "fields.gpkg")
    taught(run, fields, None)
    asked = ("assess", run, "--points", fields, "--column", "class", "--design", "cluster")
    refused(geomap(*asked), 2, "points lie on pixels that the map learned from", "--allow-learned")


def test_a_pixel_counts_once_and_not_at_all_in_contradiction(run: Path, answered: Path) -> None:
    table = geopandas.read_file(answered)
    whole = assess_map(run, AssessRequest(answered, "class"))
    many = pd.concat([table] * 3).pipe(geopandas.GeoDataFrame)
    made = assess_map(run, AssessRequest(write(many, answered.with_name("many.gpkg")), "class"))
    assert made.estimates.overall == whole.estimates.overall
    assert "600 points lie on a pixel that counts already, with the same class; left out" in made.notes
    contrary = table.iloc[:2].assign(**{"class": "Moon"})
    both = pd.concat([table, contrary]).pipe(geopandas.GeoDataFrame)
    made = assess_map(run, AssessRequest(write(both, answered.with_name("both.gpkg")), "class"))
    assert made.estimates.counts.sum() == 298
    assert "4 points contradict each other about the class of a pixel; left out" in made.notes


def test_a_sample_of_another_map_is_no_sample_of_all_of_this_one(run: Path, truth: Path, tmp_path: Path) -> None:
    """Drawn on the western two thirds; assessed is a map of the eastern ones, as large: one third is reached."""
    column = np.indices(TRUTH.shape)[1]
    west, east = (finished(tmp_path / n, {"landcover": {32631: TRUTH * on}}) for n, on in
                  (("west", column < 200), ("east", column >= 100)))  # fmt: skip
    sample_map(west, [tmp_path / "p.gpkg"], SampleRequest(n=400))
    made = assess_map(east, AssessRequest(write(filled(tmp_path / "p.gpkg", truth), tmp_path / "q.gpkg"), "class"))
    assert made.population == pytest.approx(240 * 100, rel=0.2)
    assert any(note.startswith("WARNING: the sample reaches about ") for note in made.notes)


def test_two_samples_of_a_map_are_one_by_the_mapped_classes(run: Path, truth: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        sample_map(run, [tmp_path / f"{seed}.gpkg"], SampleRequest(n=150, seed=seed))
    both = pd.concat([filled(tmp_path / f"{seed}.gpkg", truth) for seed in (1, 2)]).pipe(geopandas.GeoDataFrame)
    both.loc[both.index[0], "stratum_px"] += 1  # strata are numbered at random, so they disagree anyway
    points = write(both.reset_index(drop=True), tmp_path / "both.gpkg")
    refused(geomap("assess", run, "--points", points, "--column", "class"), 2, "say --design stratified")
    made = assess_map(run, AssessRequest(points, "class", design="stratified"))
    assert made.estimates.counts.sum() == pytest.approx(300, abs=3)  # a pixel may be in both
    done = geomap("assess", run, "--points", points, "--column", "class", "--design", "random")
    assert "WARNING: the columns stratum and stratum_px say" in " ".join(done.stderr.split())


def test_strata_that_are_no_whole_numbers_are_refused(run: Path, answered: Path) -> None:
    table = geopandas.read_file(answered)
    table["stratum_px"] = [f"{size / 1000:.3f}" for size in table["stratum_px"]]
    changed = write(table, answered.with_name("dots.gpkg"))
    refused(geomap("assess", run, "--points", changed, "--column", "class"), 2, "are not as geomap sample wrote them")


def test_an_accent_makes_no_other_class(run: Path, answered: Path) -> None:
    """Each letter with its accent may be written as one character or as two."""
    table = geopandas.read_file(answered)
    table.loc[:9, "class"] = "For\u00eat"
    table.loc[10:19, "class"] = "Fore\u0302t"
    made = assess_map(run, AssessRequest(write(table, answered.with_name("accents.gpkg")), "class"))
    assert "classes that the map does not have, so it is wrong there: For\u00eat (20)" in made.notes


def test_columns_of_a_sample_that_were_changed_are_refused(run: Path, answered: Path) -> None:
    table = geopandas.read_file(answered)
    table.loc[0, "stratum_px"] += 1
    changed = write(table, answered.with_name("changed.gpkg"))
    refused(geomap("assess", run, "--points", changed, "--column", "class"), 2, "are not as geomap sample wrote them")


def test_points_of_another_legend_are_refused(run: Path, answered: Path) -> None:
    table = geopandas.read_file(answered).assign(crop="Maize")
    crops = write(table, answered.with_name("crops.gpkg"))
    refused(
        geomap("assess", run, "--points", crops, "--column", "crop"), 2, "(Maize) is one of map landcover: Artificial"
    )


def test_a_folder_without_a_finished_map_is_refused(tmp_path: Path) -> None:
    refused(geomap("sample", tmp_path, "--out", tmp_path / "a.gpkg"), 2, "holds no finished map of classes")
    (tmp_path / files.STATE).mkdir()  # a run that was stopped
    for command in (["sample", tmp_path, "--out", tmp_path / "a.gpkg"], ["areas", tmp_path], ["label", tmp_path]):
        refused(geomap(*command), 2, "is not finished; type the run's command again, which resumes it")


def test_a_map_within_a_class_of_another_says_what_is_in_no_figure(tmp_path: Path, truth: Path) -> None:
    names = {c.id: c.name for c in legends.load("crops").classes}
    crops = np.where(MAP == 2, RNG.integers(1, 4, MAP.shape), 0)
    maps = {"landcover": {32631: MAP}, "crops": {32631: crops}}
    both = finished(tmp_path / "both", maps, {"within": {"crops": "landcover=2"}})
    made = sample_map(both, [tmp_path / "land.csv"], SampleRequest(n=200, legend="landcover", design="random"))
    table = pd.read_csv(tmp_path / "land.csv")[["lon", "lat"]]
    table["crop"] = [names[1 + i % 3] for i in range(200)]
    table.loc[made.drawn.mapped == 3, "crop"] = "no crop"  # on mapped woodland, where that is right
    table.loc[200] = [3.1, 45.0, names[1]]  # off the area
    table.to_csv(tmp_path / "points.csv", index=False)
    notes = assess_map(both, AssessRequest(tmp_path / "points.csv", "crop", legend="crops", design="random")).notes
    off = int(((made.drawn.mapped != 2) & (made.drawn.mapped != 3)).sum())
    assert off > 20
    assert (
        f"crops is mapped within Cropland alone ({(MAP == 2).sum() / 100:,.1f} of {(MAP > 0).sum() / 100:,.1f} ha): "
        f"what lies elsewhere is in no figure; points of its classes that lie there: {off}" in notes
    )
    cover = write(filled_at(table.iloc[:200], truth), tmp_path / "cover.gpkg")
    notes = assess_map(both, AssessRequest(cover, "class", legend="landcover", design="random")).notes
    assert not any("is mapped within" in note for note in notes)


def filled_at(table: pd.DataFrame, truth: Path) -> geopandas.GeoDataFrame:
    """Places of a table with their true classes."""
    classes = class_at(find_map(truth, None), table[["lon", "lat"]].to_numpy())
    places = geopandas.points_from_xy(table["lon"], table["lat"])
    return geopandas.GeoDataFrame({"class": [NAMES[int(c)] for c in classes]}, geometry=places, crs=4326)


def test_several_maps_are_assessed_side_by_side(tmp_path: Path, truth: Path) -> None:
    crops = np.where(TRUTH == 2, RNG.integers(1, 4, TRUTH.shape), 0)
    both = finished(tmp_path / "both", {"landcover": {32631: MAP}, "crops": {32631: crops}})
    refused(geomap("sample", both, "--out", tmp_path / "a.gpkg"), 2, "choose one: --legend crops or --legend landcover")
    names = {c.id: c.name for c in legends.load("crops").classes}
    made = sample_map(both, [tmp_path / "crops.csv"], SampleRequest(n=60, legend="crops"))
    text = (tmp_path / "crops.csv").read_text().splitlines()
    rows = [line.replace(",,", f",{names[c]},") for line, c in zip(text[1:], made.drawn.mapped.tolist(), strict=True)]
    (tmp_path / "crops.csv").write_text("\n".join([text[0], *rows]))
    sample_map(both, [tmp_path / "p.gpkg"], SampleRequest(n=60, legend="landcover"))
    points = write(filled(tmp_path / "p.gpkg", truth), tmp_path / "q.gpkg")
    assess_map(both, AssessRequest(points, "class", legend="landcover"))
    assess_map(both, AssessRequest(tmp_path / "crops.csv", "class", legend="crops"))
    found = json.loads((both / "assessment.json").read_text())
    assert sorted(found) == ["crops", "landcover"]
    assert found["crops"]["overall_accuracy"] == {"value": 1.0, "ci95": None}
    assert {row["map"] for row in csv.DictReader((both / "assessment.csv").open())} == {"crops", "landcover"}
    assert check.check(both).problems == ()
