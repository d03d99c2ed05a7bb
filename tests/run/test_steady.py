"""A run that is made anew while it is read: one state of it is read, or a line says so and the command goes again."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas
import pandas as pd
import pytest
from shapely.geometry import box

from geomap import files, legends
from geomap.errors import RenewedError
from geomap.points.read import PointFiles
from geomap.run import assess, from_store, relabel, sample, update, zones
from geomap.run import map as mapping
from geomap.run.assess import assess_map
from geomap.run.design import AssessRequest
from geomap.run.directory import RunDirectory
from geomap.run.label_request import LabelRequest
from geomap.run.map import map_area
from geomap.run.point_samples import samples_at
from geomap.run.relabel import label_store
from geomap.run.request import Request
from geomap.run.sample import SampleRequest, sample_map
from geomap.run.update import earlier
from geomap.run.workers import Resources
from geomap.store.store import Store
from geomap.types import Period
from tests.support.outputs import digests, problems
from tests.support.requests import request_for, tiles_of
from tests.support.runner import geomap, refused

PART = "4.0605,50.7440,4.0660,50.7475"
PLACE = 4.063, 50.7455
PERIOD, NEXT = Period(2018, 8, 2), Period(2018, 9, 2)


@dataclass(frozen=True)
class Run:
    """A finished run that another process makes anew when told to."""

    path: Path
    old: Path  # its state
    new: Path  # its next one
    request: Request

    def renew(self) -> None:
        """What a refresh does at its end."""
        staging = self.path / files.STATE / "maps"
        shutil.rmtree(staging, ignore_errors=True)
        shutil.copytree(self.new, staging, ignore=shutil.ignore_patterns(files.STATE))
        files.publish(staging, self.path)


@pytest.fixture(scope="module")
def states(archive: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Request]:
    """Two runs of one request, over all scenes and without every third one; several tiles, both stores."""
    folder = tmp_path_factory.mktemp("states")
    content = json.loads((archive(dates=9) / "items.json").read_text())
    some = {**content, "features": [item for i, item in enumerate(content["features"]) if i % 3]}
    for name, one in (("all", content), ("some", some)):
        (folder / name).mkdir()
        (folder / name / "items.json").write_text(json.dumps(one))
    kept = {"area": PART, "period": PERIOD, "save_composites": True, "save_embeddings": True}
    asked = request_for(folder / "all/items.json", "default", **kept)
    with tiles_of(32):
        map_area(asked, folder / "old")
        map_area(replace(asked, stac=str(folder / "some/items.json")), folder / "new")
    assert len(list((folder / "old" / files.RECORDS).iterdir())) > 1
    return folder / "old", folder / "new", asked


@pytest.fixture
def run(states: tuple[Path, Path, Request], tmp_path: Path) -> Run:
    old, new, asked = states
    shutil.copytree(old, tmp_path / "run")
    return Run(tmp_path / "run", old, new, asked)


@pytest.fixture
def when(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Does something once, before or after the first time that a function is called."""

    def hook(owner: Any, name: str, do: Callable[[], object], after: bool = False) -> None:
        own, left = getattr(owner, name), [do]

        def called(*args: Any, **options: Any) -> Any:
            if left and not after:
                left.pop()()
            result = own(*args, **options)
            if left and after:
                left.pop()()
            return result

        monkeypatch.setattr(owner, name, called)

    return hook


def test_labels_of_a_store_that_was_made_anew_are_refused_and_come_when_typed_again(
    run: Run, when: Callable[..., None], tmp_path: Path
) -> None:
    asked = LabelRequest(store=run.path, legends=(legends.load("landcover"),))
    when(from_store, "over", run.renew)  # the first tile is checked, and its clear months are read
    with pytest.raises(RenewedError, match=r"run was made anew while it was read; type the command again"):
        relabel.label_store(asked, tmp_path / "out")
    assert not (tmp_path / "out" / files.SUMS).exists()
    relabel.label_store(asked, tmp_path / "out")
    relabel.label_store(replace(asked, store=run.new), tmp_path / "wanted")
    assert digests(tmp_path / "out") == digests(tmp_path / "wanted")


def test_tiles_that_were_labelled_before_the_store_was_made_anew_are_labelled_again(
    run: Run, when: Callable[..., None], tmp_path: Path
) -> None:
    when(relabel, "publish_maps", run.renew)  # all tiles are labelled
    with pytest.raises(RenewedError):
        relabel.map_similar(run.path, *PLACE, tmp_path / "out")
    relabel.map_similar(run.path, *PLACE, tmp_path / "out")
    relabel.map_similar(run.new, *PLACE, tmp_path / "wanted")
    assert digests(tmp_path / "out") == digests(tmp_path / "wanted")


def test_labels_of_another_period_leave_no_map_of_the_one_before(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first were stopped after their maps had taken their place; then the store was made anew for other months."""
    asked, out = LabelRequest(run.path, (legends.load("landcover"),), name="mine"), tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            label_store(asked, out)
    shutil.rmtree(run.path)
    with tiles_of(32):
        map_area(replace(run.request, period=NEXT), run.path)
    label_store(asked, out)
    label_store(asked, tmp_path / "fresh")
    assert digests(out) == digests(tmp_path / "fresh")
    assert problems(out) == ()


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


def test_labels_go_on_where_the_run_is_assessed_meanwhile(run: Run, when: Callable[..., None], tmp_path: Path) -> None:
    when(from_store, "over", lambda: _assess(run.path, tmp_path))
    relabel.label_store(LabelRequest(store=run.path, legends=(legends.load("landcover"),)), tmp_path / "out")
    assert (run.path / "assessment.json").is_file()
    assert problems(tmp_path / "out") == ()


def test_maps_from_composites_that_were_made_anew_are_refused_and_come_when_typed_again(
    run: Run, when: Callable[..., None], tmp_path: Path
) -> None:
    asked = replace(run.request, composites=run.path, save_composites=False, save_embeddings=False)
    when(mapping, "tasks", run.renew)
    with tiles_of(32), pytest.raises(RenewedError, match="run was made anew"):
        map_area(asked, tmp_path / "out")
    with tiles_of(32):
        map_area(asked, tmp_path / "out")
        map_area(replace(asked, composites=run.new), tmp_path / "wanted")
    assert digests(tmp_path / "out") == digests(tmp_path / "wanted")
    shutil.copytree(tmp_path / "out", tmp_path / "first")
    Run(run.path, run.old, run.old, run.request).renew()
    again = ("map", "--again", tmp_path / "first", "--from-composites", run.path, "--out", tmp_path / "again")
    refused(
        geomap(*again, "--stac", run.request.stac),
        2,
        "does not hold the composites that",
        "give those as --from-composites",
    )
    assert not (tmp_path / "again").exists()


def test_workers_read_no_composites_that_were_made_anew(run: Run, when: Callable[..., None], tmp_path: Path) -> None:
    asked = replace(run.request, composites=run.path, save_composites=False, save_embeddings=False)
    when(mapping, "tasks", run.renew)
    with tiles_of(32), pytest.raises(RenewedError):
        map_area(asked, tmp_path / "out", resources=Resources(workers=1))


def test_a_tile_of_composites_that_were_made_anew_after_its_check_does_not_count(
    run: Run, when: Callable[..., None], tmp_path: Path
) -> None:
    when(Store, "check", run.renew, after=True)
    asked = replace(run.request, composites=run.path, save_composites=False, save_embeddings=False)
    with tiles_of(32), pytest.raises(RenewedError):
        map_area(asked, tmp_path / "out")
    assert not list((tmp_path / "out" / files.STATE).glob("*.npz"))


@pytest.mark.parametrize("where", ["medians", "changes"])
def test_an_update_of_a_run_that_was_made_anew_is_refused_and_comes_when_typed_again(
    run: Run, when: Callable[..., None], tmp_path: Path, where: str
) -> None:
    asked = replace(run.request, period=NEXT)
    with tiles_of(32):
        since = earlier(run.path)
        when(update, where, run.renew, after=True)
        with pytest.raises(RenewedError, match="run was made anew"):
            map_area(replace(asked, update=since), tmp_path / "out")
        assert not (tmp_path / "out" / files.SUMS).exists()
        map_area(replace(asked, update=since), tmp_path / "out")
        map_area(replace(asked, update=earlier(run.new)), tmp_path / "wanted")
    out, wanted = (files.sums(tmp_path / name) for name in ("out", "wanted"))
    maps = [name for name in wanted if name.endswith((".tif", "_changes.csv"))]
    assert {name: out[name] for name in maps} == {name: wanted[name] for name in maps}


def test_no_sample_of_two_maps_is_written(run: Run, when: Callable[..., None], tmp_path: Path) -> None:
    when(sample, "count", run.renew, after=True)
    refused(geomap("sample", run.path, "--n", "40", "--out", tmp_path / "points.csv"), 75, "run was made anew")
    assert not (tmp_path / "points.csv").exists()
    assert geomap("sample", run.path, "--n", "40", "--out", tmp_path / "points.csv").exit_code == 0


def test_no_table_of_two_maps_is_made(run: Run, when: Callable[..., None], tmp_path: Path) -> None:
    cells = [box(4.06, 50.74, 4.067, 50.75)] * 2
    geopandas.GeoDataFrame({"name": ["a", "b"]}, geometry=cells, crs=4326).to_file(tmp_path / "cells.gpkg")
    when(zones, "_counted", run.renew, after=True)
    words = ("areas", run.path, "--zones", tmp_path / "cells.gpkg", "--column", "name", "--out", tmp_path / "t.csv")
    refused(geomap(*words), 75, "run was made anew")
    assert not (tmp_path / "t.csv").exists()
    assert geomap(*words).exit_code == 0
    table = pd.read_csv(tmp_path / "t.csv").groupby("zone").pixels.sum()
    assert table["a"] == table["b"]


def test_no_map_is_assessed_by_the_classes_of_another(run: Run, when: Callable[..., None], tmp_path: Path) -> None:
    when(assess, "find_map", run.renew, after=True)
    with pytest.raises(RenewedError):
        _assess(run.path, tmp_path)
    assert not (run.path / "assessment.json").exists()


def test_no_samples_are_taken_from_two_states(run: Run, when: Callable[..., None], tmp_path: Path) -> None:
    points = _points(run.path, tmp_path)
    when(Store, "check", run.renew, after=True)
    with pytest.raises(RenewedError):
        samples_at(points, run.path)
    assert len(samples_at(points, run.path)) > 0


def _points(run: Path, folder: Path) -> PointFiles:
    """A sample of a map, each point of the class that it has there."""
    (path := folder / "points.csv").unlink(missing_ok=True)
    sample_map(run, [path], SampleRequest(n=40, show_mapped=True))
    table = pd.read_csv(path)
    table.assign(**{"class": table["mapped"]}).to_csv(path, index=False)
    return PointFiles((str(path),), "class")


def _assess(run: Path, folder: Path) -> None:
    points = _points(run, folder)
    assess_map(run, AssessRequest(points=points.files[0], column="class"))
