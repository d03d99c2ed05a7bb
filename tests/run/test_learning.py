"""Maps learned from points over a simulated landscape, whose truth is known, and the files that other runs take."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.windows import from_bounds

from geomap import files, legends, simulate, waypoints
from geomap.api import label
from geomap.api import open_store as open_saved
from geomap.demo import write_points
from geomap.encode.weights import load_weights
from geomap.errors import InputError, LegendError, OutputError
from geomap.points.pixels import pixels
from geomap.points.read import PointFiles
from geomap.run import learned, learned_scores, words
from geomap.run.label_request import LabelRequest
from geomap.run.lesson import lesson_of, require_in, taught_legends
from geomap.run.map import map_area
from geomap.run.pixels import distinct, find
from geomap.run.point_samples import samples_at
from geomap.run.record import read_record
from geomap.run.relabel import label_store
from geomap.run.request import Request
from geomap.simulate.archive import Archive
from geomap.store.store import COMPOSITES, EMBEDDINGS, open_store
from geomap.types import Finish, Period
from tests.support.outputs import problems
from tests.support.pages import content
from tests.support.runner import geomap, refused

COVER = legends.load("landcover")


CELL = 8
"""Pixels a side of the cells that keep points together here, where the landscape has 64: many cells, as in an area."""


@pytest.fixture(scope="module", autouse=True)
def small_forests_and_cells() -> Iterator[None]:
    """Forests of ten trees: how they do beside what was learned is not tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned_scores, "TREES", 10)
        patch.setattr("geomap.run.pixels.CELL", CELL)
        yield


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return simulate.write_archive(tmp_path_factory.mktemp("scenes"), size=64)


@pytest.fixture(scope="module")
def points(scenes: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 points of the landscape, as the demonstration has them."""
    path = tmp_path_factory.mktemp("points") / "points.gpkg"
    write_points(path, scenes, 120, seed=1)
    return path


def asking(scenes: Archive, **changes: object) -> Request:
    area = ",".join(map(repr, scenes.bbox))
    fields: dict[str, object] = {"area": area, "period": "2023-04/2023-09", "stac": str(scenes.items), "device": "cpu"}
    return Request(**(fields | changes))


@pytest.fixture(scope="module")
def run(scenes: Archive, points: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a year of the landscape, land cover learned from the points."""
    out = tmp_path_factory.mktemp("learned") / "run"
    map_area(asking(scenes, points=points, column="landcover", legends=("landcover", "crops")), out)
    return out


@pytest.fixture
def ask(run: Path, points: Path):
    def make(column: str = "landcover", path: Path = points, **changes: object) -> LabelRequest:
        fields: dict[str, object] = {"store": run, "legends": (COVER,), "points": PointFiles((str(path),), column)}
        return LabelRequest(**(fields | changes))

    return make


def share_right(mapped: Path, truth: Path) -> float:
    with rasterio.open(truth) as t, rasterio.open(mapped) as m:
        wanted, found = t.read(1), m.read(1, window=from_bounds(*t.bounds, m.transform), boundless=True, fill_value=0)
    known = (wanted > 0) & (found > 0)
    return float((wanted == found)[known].mean())


def test_points_make_the_map_better_and_the_run_says_how_well(scenes, run, tmp_path):
    label_store(LabelRequest(run, (COVER,)), tmp_path / "zero")  # the same store, by the prompts alone
    before, after = (share_right(p / "landcover.tif", scenes.truth_landcover) for p in (tmp_path / "zero", run))
    assert after > before
    record = learned.read_learned(run)
    assert record is not None
    assert record.points.pixels == 120
    assert record.scores is not None
    assert set(record.scores.accuracy) == {"learned", "zero-shot", "forest"}
    assert abs(record.scores.accuracy["zero-shot"] - before) < 0.1  # of 120 random pixels, and of all
    assert abs(record.scores.accuracy["learned"] - after) < 0.1
    assert sum(map(sum, record.scores.confusion)) == 120
    trust = record.scores.reliability  # by confidence; together they are the accuracy and the calibration error
    assert sum(t.pixels for t in trust) == 120
    assert [t.confidence for t in trust] == sorted(t.confidence for t in trust)
    assert sum(t.pixels * t.right for t in trust) / 120 == pytest.approx(record.scores.accuracy["learned"], abs=1e-3)
    error = sum(t.pixels * abs(t.right - t.confidence) for t in trust) / 120
    assert error == pytest.approx(record.scores.calibration, abs=1e-3)
    assert f'"bins":[[{trust[0].pixels},' in (run / "index.html").read_text()
    assert record.helps
    assert problems(run) == ()
    assert {f"{learned.PLACES}.gpkg", f"{learned.PLACES}.gpx", learned.FILE, learned.TENSORS} <= files.sums(run).keys()
    told = json.loads((run / "run.json").read_text())
    assert told["request"]["points"] == {"sha256": record.points.sha256, "column": "landcover"}
    points = f"points {record.points.sha256[:12]}"
    for stem in ("landcover", "landcover_confidence", "landcover_second"):
        assert tags(run / f"{stem}.tif")["GEOMAP_LEARNED"] == points
    assert not any("GEOMAP_LEARNED" in tags(run / f"{stem}.tif") for stem in ("crops", "clear_months"))
    assert (run / COMPOSITES).is_dir()  # for the series: there are 100 points or more
    assert not (tmp_path / "zero" / learned.FILE).exists()


@pytest.mark.parametrize("name", ["places", "doubtful"])
def test_polygons_are_not_called_like_the_lists_of_points(name, scenes, points, ask, tmp_path):
    """One would overwrite the other. Nothing is read or learned before it is said; maps of that name are no harm."""
    own = COVER.model_copy(update={"name": name})
    told = f"the polygons of legend {name} would be called {name}.gpkg, .* leave out --vector"
    with pytest.raises(LegendError, match=told):
        map_area(
            asking(scenes, points=points, column="landcover", legends=own, finish=Finish(vector=True)), tmp_path / "map"
        )
    with pytest.raises(LegendError, match=told):
        label_store(ask(legends=(own,), finish=Finish(vector=True)), tmp_path / "label")
    assert not list(tmp_path.iterdir())
    label_store(ask(legends=(own,), finish=Finish(vector=True), name="farm"), tmp_path / "named")
    assert {"places.gpkg", f"farm_2023-04_2023-09_{name}.gpkg"} <= files.sums(tmp_path / "named").keys()


def test_labels_from_the_runs_stores_are_those_of_the_run_byte_for_byte(run, ask, tmp_path):
    label_store(ask(legends=(COVER, legends.load("crops"))), tmp_path / "a")
    for name in ("landcover.tif", "landcover_confidence.tif", "crops.tif", "clear_months.tif", learned.TENSORS):
        assert (tmp_path / "a" / name).read_bytes() == (run / name).read_bytes(), name
    for name in (learned.FILE, "places.gpkg", "places.gpx"):
        assert (tmp_path / "a" / name).read_bytes() == (run / name).read_bytes(), name
    before = (tmp_path / "a/landcover.tif").stat().st_mtime_ns
    assert label_store(ask(legends=(COVER, legends.load("crops"))), tmp_path / "a").seconds == {}
    assert (tmp_path / "a/landcover.tif").stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="another request"):
        label_store(LabelRequest(run, (COVER,)), tmp_path / "a")


def test_what_was_learned_maps_other_places_and_is_marked_as_transferred(scenes, run, tmp_path):
    west, south, east, north = scenes.bbox
    half = f"{west},{south},{(west + east) / 2},{north}"
    line = ("map", half, "--start", "2023-04", "--months", "6", "--stac", scenes.items, "--device", "cpu")
    done = geomap(*line, "--learned", run, "--out", tmp_path / "half")
    assert "in another place or year: TRANSFERRED, so check it with points of this one" in done.stdout, done.stderr
    assert (
        json.loads(geomap(*line, "--learned", run, "--out", tmp_path / "half", "--json").stdout)["learned"]
        == (json.loads((tmp_path / "half/run.json").read_text())["request"]["learned"])
    )
    taken = json.loads((tmp_path / "half/run.json").read_text())["request"]["learned"]
    assert taken["transferred"] is True
    assert taken["points"] == learned.read_learned(run).points.sha256
    assert tags(tmp_path / "half/landcover.tif")["GEOMAP_LEARNED"] == f"transferred {taken['sha256'][:12]}"
    with rasterio.open(tmp_path / "half/landcover.tif") as a, rasterio.open(run / "landcover.tif") as b:
        found = a.read(1)
        there = b.read(1, window=from_bounds(*a.bounds, b.transform), boundless=True, fill_value=0)
    both = (found > 0) & (there > 0)
    assert both.sum() > 1000
    assert (found == there)[both].mean() >= 0.99  # the run's are from stored embeddings
    shown = geomap("explain", tmp_path / "half")
    assert "TRANSFERRED" in shown.stdout
    other = legends.typed("forest, town").model_copy(update={"name": "landcover"})
    for asked in (other, COVER.without(frozenset({1}))):
        with pytest.raises(InputError, match=r"has a legend 'landcover' of its own .* and yours has other classes"):
            label_store(LabelRequest(run, (asked,), learned=str(run)), tmp_path / "other")
    label_store(LabelRequest(run, (), learned=str(run / learned.FILE)), tmp_path / "same")
    told = json.loads((tmp_path / "same/run.json").read_text())["request"]["learned"]
    assert told["transferred"] is False
    assert (tmp_path / "same/landcover.tif").read_bytes() == (run / "landcover.tif").read_bytes()


def test_fewer_than_five_points_leave_the_map_and_have_no_figures(run, points, ask, tmp_path):
    geopandas.read_file(points)[:4].to_file(tmp_path / "four.gpkg")
    label_store(ask(path=tmp_path / "four.gpkg"), tmp_path / "four")
    found = learned.read_learned(tmp_path / "four")
    assert not found.moved
    assert found.scores is None
    assert "Give 5 or more" in found.says


def test_points_that_move_no_class_are_told_on_the_page(run, points, ask, tmp_path):
    table = geopandas.read_file(points)
    places = pixels(np.column_stack([table.geometry.x, table.geometry.y]))
    cells, cell = np.unique(np.column_stack([places[:, :1], places[:, 1:] // CELL]), axis=0, return_inverse=True)
    most = np.bincount(cell.reshape(-1), minlength=len(cells)).argmax()
    table[cell.reshape(-1) == most].to_file(tmp_path / "near.gpkg")
    near_at = tmp_path / "near"
    label_store(ask(path=tmp_path / "near.gpkg"), near_at)
    near, far = (learned.read_learned(directory) for directory in (tmp_path / "near", run))
    assert "penalty" not in near.settings  # all points lie in one group
    told = content(tmp_path / "near/index.html")["facts"]["validation"][0]["says"]
    assert told.startswith("Points were given for “Land cover”, but it is mapped by its words alone: ")
    assert f"{near.says} “Land cover” was right for" in told
    told = content(run / "index.html")["facts"]["validation"][0]["says"]
    assert told.startswith(f"“Land cover” was learned from labelled points: {far.says}")
    label_store(LabelRequest(run, (), learned=str(tmp_path / "near")), tmp_path / "same")
    told = content(tmp_path / "same/index.html")["facts"]["validation"][0]["says"]
    assert "is mapped by the learned.json of another run" in told  # which was not looked into
    shown = " ".join(geomap("explain", tmp_path / "same", columns=200).stdout.split())  # long paths wrap
    assert "made from the embeddings that another run kept (2023-04_2023-09); geomap explain with" in shown
    assert "nothing was learned there; the map is by the words alone" in shown
    assert "0 scenes" not in shown
    assert "left out" not in shown
    said = {
        name: lineage(directory) for name, directory in (("far", run), ("near", near_at), ("same", tmp_path / "same"))
    }
    assert said["far"].endswith("Legend landcover: learned from labelled points.")
    assert "points" not in said["near"] + said["same"]
    for directory in (near_at, tmp_path / "same"):  # nothing was learned, so these points may tell how good it is
        line = ("assess", directory, "--points", tmp_path / "near.gpkg", "--column", "landcover", "--design", "random")
        assert "learned from" not in (done := geomap(*line)).stdout + done.stderr
        assert done.exit_code == 0
    refused(geomap("assess", run, *line[2:], "--legend", "landcover"), 2, "the map learned from")


def test_points_that_do_not_beat_the_words_are_told_beside_them(run, points, ask, tmp_path):
    """Labels as the words have them, but for some by chance, of a class that the legend lacks."""
    label_store(LabelRequest(run, (COVER,)), tmp_path / "words")
    table = geopandas.read_file(points)
    names = {c.id: c.name for c in COVER.classes}
    with rasterio.open(tmp_path / "words/landcover.tif") as m:
        at = [(p.x, p.y) for p in table.to_crs(m.crs).geometry]
        table["landcover"] = [names[int(v[0])] for v in m.sample(at)]
    table.loc[::10, "landcover"] = "solar park"
    table.to_file(tmp_path / "p.gpkg")
    asked = ("--points", tmp_path / "p.gpkg", "--column", "landcover")
    done = geomap("label", run, *asked, "--out", tmp_path / "out")
    record = learned.read_learned(tmp_path / "out")
    accuracy, table = record.scores.accuracy, np.array(record.scores.confusion)
    assert not record.moved
    assert accuracy["learned"] < accuracy["zero-shot"]
    assert f"{accuracy['learned']:.0%} of 120 points are right, {accuracy['zero-shot']:.0%} by the words" in record.says
    assert np.trace(table) / 120 == pytest.approx(accuracy["zero-shot"], abs=1e-3)  # the table is of what the map is by
    right = sum(t.pixels * t.right for t in record.scores.reliability) / 120
    assert right == pytest.approx(accuracy["zero-shot"], abs=1e-3)
    assert content(tmp_path / "out/index.html")["facts"]["trust"]["kept"] is True
    lines = done.stdout.splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith("not learned: ")]
    assert lines[at] == f"not learned: {record.says}"
    assert lines[at + 1].startswith("to look at the maps")
    assert lines[at].endswith("Classes that the points added are mapped by their names alone: solar park.")
    assert (
        f"learned {accuracy['learned']:.2f} / {record.scores.macro_f1['learned']:.2f} (rejected: the words"
        in done.stdout
    )
    assert "The words alone, which are kept, at the points" in done.stdout
    assert "--learned" not in done.stdout
    made = label(open_saved(run)["embedding"], legends="landcover", points=asked[1], column="landcover")
    assert made["landcover"].attrs["comment"].splitlines()[0].startswith("Not learned: in cross-validation ")
    same = label(open_saved(run)["embedding"], learned=tmp_path / "out")["landcover"]
    assert same.attrs["comment"].startswith(f"As {tmp_path / 'out'} has it: not learned: in cross-validation ")
    np.testing.assert_array_equal(same, made["landcover"])
    taken = geomap("label", run, "--learned", tmp_path / "out", "--out", tmp_path / "taken")
    assert "nothing was learned there; the map is by the words alone" in taken.stdout, taken.stderr
    for directory in (tmp_path / "out", tmp_path / "taken"):
        assert "GEOMAP_LEARNED" not in tags(directory / "landcover.tif")


def tags(path):
    with rasterio.open(path) as source:
        return source.tags()


def lineage(directory):
    return json.loads((directory / "stac/collection.json").read_text())["description"]


def test_a_run_with_points_is_repeated_from_its_folder_and_the_file_of_points(scenes, points, tmp_path, monkeypatch):
    table = geopandas.read_file(points).assign(day="2023-06-01")
    table.loc[:40, "day"] = "2020-06-01"
    table.drop(columns=["geometry"]).rename(columns={"lon": "x", "lat": "y"}).to_csv(tmp_path / "seen.csv")
    west, south, east, north = scenes.bbox
    half = f"{west},{south},{(west + east) / 2},{north}"
    line = ("map", half, "--start", "2023-06", "--months", "2", "--stac", scenes.items, "--device", "cpu")
    asked = ("--no-report", "--points-crs", "EPSG:4326", "--column", "landcover", "--date-column", "day")
    done = geomap(*line, "--points", tmp_path / "seen.csv", *asked, "--out", tmp_path / "one")
    assert done.exit_code == 0, done.stderr
    monkeypatch.chdir(scenes.items.parent)  # where the item file lies
    done = geomap("map", "--again", tmp_path / "one", "--out", tmp_path / "two")  # the points lie beside the run
    assert f"the maps are those of {tmp_path / 'one'}, byte for byte" in done.stdout, done.stderr
    (tmp_path / "seen.csv").rename(tmp_path / "moved.csv")
    again = ("map", "--again", tmp_path / "one", "--out", tmp_path / "three")
    refused(geomap(*again), 2, "does not tell where seen.csv lies; give it as --points")
    text = (tmp_path / "moved.csv").read_text().splitlines()
    (tmp_path / "seen.csv").write_text("\n".join(text[:-1]))
    refused(geomap(*again), 2, "seen.csv are not those that", "learned from; give what it learned from as --points")
    assert not (tmp_path / "three").exists()
    done = geomap(*again, "--points", tmp_path / "moved.csv")
    assert "byte for byte" in done.stdout, done.stderr


def test_damaged_or_foreign_files_of_what_was_learned_are_refused(run, ask, tmp_path):
    taking = {"store": run, "legends": ()}
    with pytest.raises(InputError, match=r"nowhere does not exist; give the directory of a run"):
        label_store(LabelRequest(**taking, learned=str(tmp_path / "nowhere")), tmp_path / "out")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (learned.FILE, learned.TENSORS):
        shutil.copy(run / name, copy)
    content = json.loads((copy / learned.FILE).read_text())
    tensors = (copy / learned.TENSORS).read_bytes()
    (copy / learned.TENSORS).write_bytes(tensors[:-4] + b"\0\0\xc0\x7f")
    with pytest.raises(InputError, match=r"is not the file that learned\.json names"):
        label_store(LabelRequest(**taking, learned=str(copy)), tmp_path / "out")
    (copy / learned.TENSORS).write_bytes(tensors)
    for change, says in (
        (
            {"weights": {"name": "other", "sha256": "0" * 64}},
            "learned with weights other 0{12}, not with default",
        ),
        ({"format": 99}, "has format 99"),
        ({"legend": {"name": "x"}}, "refused now, or damaged .*learn from the points again"),
        (
            {"legend": content["legend"] | {"classes": [c | {"code": "A"} for c in content["legend"]["classes"]]}},
            "refused now, or damaged .*'A' is a code of .* mend the file of that legend, and learn from the points",
        ),
        ({"months": "all"}, "damaged or of another version"),
    ):
        (copy / learned.FILE).write_text(json.dumps(content | change))
        with pytest.raises(InputError, match=says):
            label_store(LabelRequest(**taking, learned=str(copy)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_duplicates_contradictions_nodata_and_points_outside_are_counted(scenes, run, points, tmp_path):
    table = geopandas.read_file(points)[["landcover", "geometry"]]
    other = table.iloc[[0]].assign(landcover=["Water" if table.landcover[0] != "Water" else "Cropland"])
    outside = table.iloc[[2]].set_geometry(table.geometry.iloc[[2]].translate(0.5))
    geopandas.pd.concat([table, other, table.iloc[[1, 1]], outside]).to_file(tmp_path / "p.gpkg")
    lesson = lesson_of(PointFiles((str(tmp_path / "p.gpkg"),), "landcover"), (COVER,), Period(2023, 4, 6))
    found = find(lesson, open_store(run, EMBEDDINGS), open_store(run, COMPOSITES))
    assert found.lines == (
        "more than once in a pixel: 2 points, counted once",
        "in contradiction: 2 points in 1 pixel with two classes, left out",
        "outside the area: 1 pixel, left out",
    )
    assert len(found) == 119
    assert found.dn.shape == (119, 6, 10)
    place, ids, groups, _ = distinct(lesson.points, lesson.ids)
    assert len(place) == len(ids) == len(groups) == 120
    with rasterio.open(scenes.truth_landcover) as t:  # each pixel has the class of the truth there
        rows, columns = (
            t.height - 1 - (found.place[:, 2] - t.bounds.bottom // 10),
            found.place[:, 1] - t.bounds.left // 10,
        )
        assert (t.read(1)[rows.astype(int), columns.astype(int)] == found.ids).all()
    kept = open_store(run, COMPOSITES)  # and the series of that pixel
    for tile in kept.tiles:
        whole = kept.read("composite", tile.grid, tile)
        row, column = tile.grid.north // 10 - 1 - found.place[:, 2], found.place[:, 1] - tile.grid.west // 10
        here = (row >= 0) & (row < tile.grid.height) & (column >= 0) & (column < tile.grid.width)
        np.testing.assert_array_equal(found.dn[here], whole[:, :, row[here], column[here]].transpose(2, 0, 1))


def test_points_teach_the_legend_that_knows_most_of_their_classes(points, tmp_path):
    """Grassland alone is in landcover; the crops are not to be added to it where a map of crops is asked for."""
    table = geopandas.read_file(points)
    table["kind"] = (["Grassland", "Maize", "Potatoes", "wheat", "Barley"] * 24)[: len(table)]
    table.to_file(tmp_path / "kinds.gpkg")
    source, crops = PointFiles((str(tmp_path / "kinds.gpkg"),), "kind"), legends.load("crops")
    for asked in ((COVER, crops), (crops, COVER)):
        named, lesson, _ = taught_legends(asked, source, None, Period(2023, 4, 6), load_weights("default"))
        assert [legend.name for legend in named] == [legend.name for legend in asked]
        assert lesson.legend.name == "crops"
        assert named[0 if asked[0] is COVER else 1] == COVER
    for one, place in ((COVER, "legend landcover"), (legends.typed("Grassland, quarry"), "--classes")):
        hint = "legend crops has the classes of more points, 96 of 120: if it is meant, type --legend crops in place of"
        assert lesson_of(source, (one,), Period(2023, 4, 6)).lines[-1] == f"{hint} {place}"
    assert lesson_of(PointFiles((str(points),), "landcover"), (COVER, crops), None).legend == COVER
    ids = {c.name: str(c.id) for c in COVER.classes}
    table.assign(landcover=table.landcover.map(ids), number=table.landcover.map(ids)).to_file(tmp_path / "ids.gpkg")
    for column, legend in (("landcover", COVER), ("number", crops)):
        assert lesson_of(PointFiles((str(tmp_path / "ids.gpkg"),), column), (crops, COVER), None).legend == legend


def test_fields_are_never_parted_and_points_of_other_years_are_left_out(points, tmp_path):
    table = geopandas.read_file(points)[["landcover", "geometry"]].to_crs(32631)
    table["geometry"] = table.buffer(25)
    table["year"] = [2023, 2021] * 60
    table.to_file(tmp_path / "fields.gpkg")
    source = PointFiles((str(tmp_path / "fields.gpkg"),), "landcover", date_column="year")
    lesson = lesson_of(source, (COVER,), Period(2023, 4, 6))
    assert set(lesson.points.group) == set(range(0, 120, 2))
    assert lesson.lines[-1].startswith("of another time than 2023-04")
    place, _, groups, _ = distinct(lesson.points, lesson.ids)
    assert len(np.unique(groups)) <= 60 < len(place)
    field = {tuple(p): g for p, g in zip(pixels(lesson.points.lonlat).tolist(), lesson.points.group, strict=True)}
    of = np.array([field[tuple(p)] for p in place.tolist()])
    assert all(len(set(groups[of == f])) == 1 for f in np.unique(of))


def test_small_fields_of_a_cell_are_one_group_as_points_are(points, tmp_path):
    """The same pixels as points and as squares of 8 m are parted alike."""
    table = geopandas.read_file(points)[["landcover", "geometry"]].to_crs(32631)
    table.assign(geometry=table.buffer(4, cap_style="square")).to_file(tmp_path / "squares.gpkg")
    parted = []
    for path in (points, tmp_path / "squares.gpkg"):
        lesson = lesson_of(PointFiles((str(path),), "landcover"), (COVER,), Period(2023, 4, 6))
        place, _, groups, _ = distinct(lesson.points, lesson.ids)
        parted.append((place, np.unique(groups, return_inverse=True)[1].reshape(-1)))
    np.testing.assert_array_equal(parted[0][0], parted[1][0])
    pairs = set(zip(parted[0][1].tolist(), parted[1][1].tolist(), strict=True))
    assert len(pairs) == len(set(parted[0][1])) == len(set(parted[1][1])) < len(parted[0][0])


def test_points_that_cannot_teach_are_one_clear_line(scenes, run, points, ask, tmp_path):
    table = geopandas.read_file(points)
    table[table.landcover == "Woodland"].to_file(tmp_path / "one.gpkg")
    with pytest.raises(InputError, match="have one class only, Woodland; learning needs two or more"):
        label_store(ask(path=tmp_path / "one.gpkg"), tmp_path / "out")
    moved = table.set_geometry(table.geometry.translate(10, 3))
    moved.to_file(tmp_path / "far.gpkg")
    with pytest.raises(InputError, match=r"no point lies in the area.* are at 14"):
        label_store(ask(path=tmp_path / "far.gpkg"), tmp_path / "out")
    far = lesson_of(PointFiles((str(tmp_path / "far.gpkg"),), "landcover"), (COVER,), Period(2023, 1))
    with pytest.raises(InputError, match=r"lies in the area of .* are at 14\.\d+.*give points inside it"):
        require_in(far.points, asking(scenes).area.geometry)
    swapped = table.set_geometry(geopandas.points_from_xy(table.lat, table.lon, crs=4326))
    swapped.to_file(tmp_path / "swapped.gpkg")
    with pytest.raises(InputError, match="longitude and latitude look swapped"):
        map_area(asking(scenes, points=tmp_path / "swapped.gpkg", column="landcover"), tmp_path / "out")
    rows = table.assign(lon=table.lat, lat=table.lon)  # all but five
    rows.loc[:4, ["lon", "lat"]] = table.loc[:4, ["lon", "lat"]]
    rows.drop(columns="geometry").to_csv(tmp_path / "swapped.csv")
    with pytest.raises(InputError, match=r"5 of 120 points lie in the area.* look swapped"):
        label_store(ask(path=tmp_path / "swapped.csv"), tmp_path / "out")
    table.assign(cover=[2, 99] * 60).to_file(tmp_path / "ids.gpkg")
    with pytest.raises(InputError, match=r"numbers \(2, 99\) that are not all ids of legend landcover \(1\.\.8\)"):
        label_store(ask("cover", tmp_path / "ids.gpkg"), tmp_path / "out")
    with pytest.raises(
        InputError, match=r"is in legend landcover; type --legend crops, or write .* English, type --classes"
    ):
        lesson_of(PointFiles((str(points),), "crop"), (COVER,), Period(2023, 1))
    with pytest.raises(InputError, match="--points needs --column"):
        asking(scenes, points=points)
    with pytest.raises(InputError, match="--others does not go with points"):
        ask(others=True)
    assert not (tmp_path / "out").exists()


def test_typed_classes_added_classes_and_classes_without_points(run, points, ask, tmp_path):
    table = geopandas.read_file(points)
    table["own"] = table.landcover.replace({"Woodland": "forest", "Cropland": "ploughed land"})
    table.to_file(tmp_path / "own.gpkg")
    typed = legends.typed("forest, grassland, desert, water, artificial land")
    label_store(ask("own", tmp_path / "own.gpkg", legends=(typed,)), tmp_path / "out")
    record = learned.read_learned(tmp_path / "out")
    names = [c["name"] for c in record.legend["classes"]]
    assert names[:5] == ["forest", "grassland", "desert", "water", "artificial land"]
    assert "ploughed land" in names[5:]  # added
    assert "desert" not in record.points.classes  # kept by its prompts
    with rasterio.open(tmp_path / "out/classes.tif") as m:
        assert record.legend["classes"][names.index("ploughed land")]["id"] in m.read(1)


def test_points_of_classes_left_out_and_off_cropland_are_counted_and_places_lie_where_crops_are_mapped(
    scenes, run, points, tmp_path
):
    table = geopandas.read_file(points)
    table["crop"] = table.crop.where(table.crop.notna() & (table.crop != ""), None)
    table.loc[table.landcover == "Woodland", "crop"] = "Barley"  # where no crop is mapped
    table.to_file(tmp_path / "p.gpkg")
    wheat, woods = (table.crop == "Common wheat").sum(), (table.landcover == "Woodland").sum()
    line = ("label", run, "--legend", "crops", "--points", tmp_path / "p.gpkg", "--column", "crop")
    done = geomap(*line, "--without", "Common wheat", "--out", tmp_path / "out")
    assert f"leaves out (Common wheat): {wheat} points, left out" in done.stdout, done.stderr
    (off,) = [text for text in done.stdout.splitlines() if "outside Cropland of Land cover" in text]
    places = geopandas.read_file(tmp_path / "p.gpkg").query("crop.notna() and crop != 'Common wheat'").geometry
    with rasterio.open(tmp_path / "out/landcover.tif") as cover:
        at = [(p.x, p.y) for p in places.to_crs(cover.crs)]
        count = sum(int(v[0]) != COVER.id_of("Cropland") for v in cover.sample(at))
        assert count >= woods / 2 > 5
        assert f"{count} of {len(places)} pixels; they teach but do not count in the figures; to map crops" in off
        assert off.endswith("everywhere, type --within none; to correct landcover itself, give points of its classes: "
                            "--legend landcover")  # fmt: skip
        assert "so the map will show little of Barley" in done.stdout
        visit = geopandas.read_file(tmp_path / "out/places.gpkg").to_crs(cover.crs)
        assert {int(v[0]) for v in cover.sample([(p.x, p.y) for p in visit.geometry])} == {COVER.id_of("Cropland")}
    page = (tmp_path / "out/index.html").read_text()
    listed = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])["places"]
    assert [(p["lon"], p["lat"]) for p in listed] == [(round(p.lon, 6), round(p.lat, 6)) for p in visit.itertuples()]
    with rasterio.open(tmp_path / "out/crops.tif") as crops:
        names = {c.id: c.name for c in legends.load("crops").classes}
        shown = [names[int(v[0])] for v in crops.sample([(p.x, p.y) for p in visit.geometry])]
    assert [p["name"] for p in listed] == shown
    assert "outside Cropland" not in geomap(*line, "--within", "none", "--out", tmp_path / "all").stdout
    others = set(table.crop.dropna()) - {"Barley"}
    one = [word for name in others for word in ("--without", name)]
    refused(geomap(*line, *one, "--out", tmp_path / "one"), 2, "have one class only, Barley")


def test_the_command_learns_and_says_so(run, points, tmp_path):
    done = geomap("label", run, "--points", points, "--column", "landcover", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    for text in ("user's", "accuracy / macro F1: learned", "places.gpx: the 20 places", "learned.json: for --learned"):
        assert text in done.stdout
    verdict, last = done.stdout.splitlines()[-2:]
    assert verdict.startswith("learned from 120 pixels with points: in cross-validation ")
    assert last.startswith("to look at the maps")
    assert "learned from 120 pixels" in geomap("explain", tmp_path / "out").stdout
    places = geopandas.read_file(tmp_path / "out/places.gpkg")
    assert len(places) == 20
    with rasterio.open(tmp_path / "out/landcover.tif") as mapped:
        at = [mapped.index(p.x, p.y) for p in places.to_crs(mapped.crs).geometry]
        pixels = mapped.read(1)
    alike = [len(np.unique(pixels[row - 1 : row + 2, column - 1 : column + 2])) == 1 for row, column in at]
    assert np.mean(alike) > 0.6  # inside a patch, by the embeddings; the map goes by the series too
    assert places["landcover"].fillna("").eq("").all()  # to be filled in
    assert (tmp_path / "out/places.gpx").read_text().count("<wpt ") == 20
    refused(geomap("label", run, "--points", points, "--out", tmp_path / "b"), 2, "--points needs --column")
    line = ("label", run, "--points", points, "--column", "cover", "--out", tmp_path / "b")
    refused(geomap(*line), 2, "no column cover; choose --column from name, lon, lat, landcover, crop")
    both = ("label", run, "--points", points, "--column", "landcover", "--learned", run, "--out", tmp_path / "b")
    refused(geomap(*both), 2, "give --points or --learned, not both")


def test_places_that_were_visited_are_learned_from_beside_the_points(scenes, run, points, tmp_path):
    done = geomap("label", run, "--points", points, "--column", "landcover", "--out", tmp_path / "first")
    assert "places.gpkg, and give it as one more --points" in done.stdout
    visited = geopandas.read_file(tmp_path / "first/places.gpkg")
    with rasterio.open(scenes.truth_landcover) as truth:
        at = [(p.x, p.y) for p in visited.to_crs(truth.crs).geometry]
        visited["landcover"] = [{c.id: c.name for c in COVER.classes}.get(int(v[0]), "") for v in truth.sample(at)]
    visited.to_file(tmp_path / "visited.gpkg")
    count = int(visited.landcover.ne("").sum())
    assert count > 10
    both = ("--points", points, "--points", tmp_path / "visited.gpkg", "--column", "landcover")
    done = geomap("label", run, *both, "--out", tmp_path / "second")
    assert f"learned from {120 + count} pixels" in done.stdout
    one = geopandas.pd.concat([geopandas.read_file(points), visited.to_crs(4326)])
    one[["landcover", "geometry"]].to_file(tmp_path / "one.gpkg")
    asked = LabelRequest(run, (COVER,), points=PointFiles((str(tmp_path / "one.gpkg"),), "landcover"))
    label_store(asked, tmp_path / "one")
    for name in (learned.TENSORS, "landcover.tif"):
        assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    told = words.command(read_record(tmp_path / "second").asked)
    assert "--points points.gpkg --points visited.gpkg" in told.command
    files_of_both = [points, tmp_path / "visited.gpkg"]
    made = label(open_saved(run)["embedding"], legends="landcover", points=files_of_both, column="landcover")
    assert f"of {120 + count} points" in made["landcover"].attrs["comment"]


def test_wrong_labels_are_among_the_points_to_look_at_again(run, points, tmp_path):
    table = geopandas.read_file(points)
    known = np.flatnonzero(table.landcover.isin(["Cropland", "Woodland"]))
    wrong = known[::10]
    table.loc[wrong, "landcover"] = table.landcover[wrong].map({"Cropland": "Woodland", "Woodland": "Cropland"})
    table.to_file(tmp_path / "p.gpkg")
    done = geomap("label", run, "--points", tmp_path / "p.gpkg", "--column", "landcover", "--out", tmp_path / "out")
    told = geopandas.read_file(tmp_path / "out/doubtful.gpkg")
    assert f"contradicted by the other points: {len(told)} pixels, kept; look again: doubtful.gpkg" in done.stdout
    assert 0 < len(told) <= 20
    metres = told.to_crs(32631).geometry
    near = [metres.distance(p).min() < 10 for p in table.geometry[wrong].to_crs(32631)]
    assert sum(near) >= 0.5 * len(wrong) > 2
    assert (told.landcover != told.likeliest).all()


def test_waypoints_are_learned_from_and_those_not_visited_are_no_class(scenes, run, points, tmp_path):
    table = geopandas.read_file(points)
    visited = [{"lon": p.x, "lat": p.y, "name": c} for p, c in zip(table.geometry, table.landcover, strict=True)]
    (tmp_path / "v.gpx").write_bytes(waypoints.gpx(visited))
    line = ("label", run, "--legend", "landcover", "--points", tmp_path / "v.gpx", "--column", "name")
    done = geomap(*line, "--out", tmp_path / "first")
    assert done.exit_code == 0, done.stderr
    places = geopandas.read_file(tmp_path / "first/places.gpkg")
    assert places["name"].fillna("").eq("").all()  # the column of the points, to be filled in
    assert places["geomap_name"].tolist()[:2] == ["geomap 1", "geomap 2"]
    phone = (tmp_path / "first/places.gpx").read_text().replace(">geomap 1<", ">Woodland<")
    (tmp_path / "phone.gpx").write_text(phone)
    done = geomap(*line, "--points", tmp_path / "phone.gpx", "--out", tmp_path / "again")
    assert "without a class: 19, left out" in done.stdout, done.stderr
    table.assign(landcover="3").iloc[:2].to_file(tmp_path / "ids.gpkg")
    both = ("--points", points, "--points", tmp_path / "ids.gpkg", "--column", "landcover")
    done = geomap("label", run, "--legend", "landcover", *both, "--out", tmp_path / "third")
    refused(done, 2, "holds numbers (3) beside names of legend landcover; write names in every row")


def test_points_are_a_test_set_with_the_series_of_a_run(run, points, tmp_path, caplog):
    samples = samples_at(PointFiles((str(points),), "landcover"), run)
    assert samples.labelled == ("landcover",)
    assert len(samples) == 120
    assert samples.valid[:, :3].sum() == 0  # the run is of April to September
    lesson = lesson_of(PointFiles((str(points),), "landcover"), (COVER,), Period(2023, 4, 6))
    found = find(lesson, open_store(run, EMBEDDINGS), open_store(run, COMPOSITES))
    np.testing.assert_array_equal(samples.dn[:, 3:9], found.dn)
    np.testing.assert_array_equal(samples.labels["landcover"], found.ids)
    line = ("evaluate", "default", "--data", points, "--out", tmp_path / "out", "--column", "landcover")
    refused(geomap(*line), 2, "labelled points need --run DIR")
    done = geomap(*line, "--run", run, "--prompts", "D", "--draws", "0", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert "landcover" in (tmp_path / "out/results.md").read_text()
    assert not caplog.messages
    for option in ("--photos", "--labels", "--scenicness"):
        done = geomap(*line, "--run", run, option, tmp_path / "none")
        refused(done, 2, f"{option} go by ids, which points of --run do not have; leave them out")


def test_an_evaluation_tells_what_became_of_its_points(run, points, tmp_path, caplog):
    table = geopandas.read_file(points)
    named = table.assign(landcover=table.landcover.where(table.index >= 5, "Fallow of mine"))
    parts = {
        "away": table.iloc[40:47].assign(geometry=table.geometry.iloc[40:47].translate(1, 0)),
        "empty": table.iloc[50:53].assign(landcover=None),
        "again": table.iloc[60:64],
        "other": table.iloc[70:72].assign(
            landcover=["Woodland" if name != "Woodland" else "Water" for name in table.landcover.iloc[70:72]]
        ),
        "words": table.iloc[80:81].assign(landcover="a field of cropland"),
        "nowhere": table.iloc[90:92].assign(geometry=None),
    }
    whole = geopandas.GeoDataFrame(pd.concat([named.drop(index=80), *parts.values()], ignore_index=True), crs=table.crs)
    whole.to_file(tmp_path / "p.gpkg", layer="all of/mine")
    table.to_file(tmp_path / "p.gpkg", layer="plain")
    sources = ("--data", tmp_path / "p.gpkg:all of/mine", "--data", tmp_path / "p.gpkg:plain")
    line = ("evaluate", "default", *sources, "--run", run, "--column", "landcover", "--out", tmp_path / "out")
    done = geomap(*line, "--prompts", "D", "--draws", "0", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    first, plain = json.loads((tmp_path / "out/results.json").read_text())["sets"]
    assert (first["name"], first["samples"]) == ("p_all_of_mine", 120 - 5 - 2)
    assert (plain["name"], plain["samples"]) == ("p_plain", 120)
    assert len(plain["notes"]) == 1
    said = [
        "a field of cropland (1): Cropland, by its words",
        "without a class: 3, left out",
        "unknown to legend landcover (Fallow of mine): 5 points, left out",
        "without a place: 2 rows, left out",
        "more than once in a pixel: 4 points, counted once",
        "in contradiction: 4 points in 2 pixels with two classes, left out",
        "outside the area, or on pixels without data: 7 pixels, left out",
    ]
    assert first["notes"][1:] == said
    report = (tmp_path / "out/results.md").read_text()
    for note in said:
        assert f"- {note}\n" in report
        assert f"- {note}\n" in done.stdout
        assert f"p_all_of_mine: {note}" in caplog.messages


def test_a_store_without_the_series_of_what_was_learned_is_told(run, points, tmp_path, caplog):
    alone = tmp_path / "alone"
    shutil.copytree(run / EMBEDDINGS, alone / EMBEDDINGS)
    label_store(LabelRequest(alone, (), learned=str(run)), tmp_path / "taken")
    label_store(LabelRequest(alone, (COVER,), points=PointFiles((str(points),), "landcover")), tmp_path / "taught")
    kept = f"{alone} kept no composites: map it with --save-composites for a better map"
    assert f"what was learned with the monthly series maps by the embeddings alone, for {kept}" in caplog.text
    assert f"classes are learned from the embeddings alone, without the monthly series, for {kept}" in caplog.text


def test_arrays_without_the_series_of_what_was_learned_are_told(run, caplog):
    """The figures are of a map with the series: without them, or some of their months, it is another one."""
    embeddings, series = open_saved(run)["embedding"], open_saved(run)["composite"]
    figures = learned.read_learned(run).verdict
    for given, lacks, instead in (
        (None, "the monthly series", "give series="),
        (series[1:], "1 month of the series (4)", "give the series of all its months"),
        (series[2:5], "3 months of the series (4, 5, 9)", "give the series of all its months"),
    ):
        caplog.clear()
        comment = label(embeddings, learned=run, series=given)["landcover"].attrs["comment"]
        assert comment.startswith(f"As {run} has it: {figures}\nThis map goes without {lacks}, ")
        assert f"learned with {lacks}, which this map goes without; {instead}" in caplog.text
    caplog.clear()
    assert label(embeddings, learned=run, series=series)["landcover"].attrs["comment"].endswith(figures)
    assert not caplog.text


def test_arrays_in_python_learn_from_the_same_points(run, points):
    embeddings = open_saved(run)["embedding"]
    made = label(embeddings, legends="landcover", points=points, column="landcover")
    with rasterio.open(run / "landcover.tif") as m:
        there = m.read(1)
    found = made["landcover"].values
    np.testing.assert_array_equal(found > 0, there > 0)
    assert (found == there)[there > 0].mean() > 0.9  # the run may learn from the series too
    series = open_saved(run)["composite"]
    both = label(embeddings, legends="landcover", points=points, column="landcover", series=series)["landcover"]
    assert (both.values == there)[there > 0].mean() > max((found == there)[there > 0].mean(), 0.98)
    taken = label(embeddings, learned=run, series=series)["landcover"].values
    np.testing.assert_array_equal(taken, there)  # with the series, what the run learned is what the run mapped
    part = label(embeddings[:, 5:20], learned=run, series=series.isel(y=slice(5, 20)))["landcover"].values
    np.testing.assert_array_equal(part, there[5:20])
    with pytest.raises(InputError, match=r"its y are others: select series\.sel"):
        label(embeddings[:, 5:20], learned=run, series=series)
    with pytest.raises(InputError, match="--points needs --column"):
        label(embeddings, points=points)
