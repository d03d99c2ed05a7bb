"""The STAC catalogue over the maps of a job: what it lists, where it lies, and that a browser's library can walk it."""

import csv
import datetime
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import yaml

from geomap.jobs.catalog import write_catalog
from geomap.jobs.due import run_job
from geomap.jobs.file import MapJob, read_job
from geomap.run import history
from geomap.run.learned import LearnedRecord, Taught
from tests.support.archive import PATCH
from tests.support.maps import finished as run_of
from tests.support.pages import content
from tests.support.runner import geomap, refused


def job_in(folder: Path, directory: str, **changes: Any) -> MapJob:
    content: dict[str, Any] = {
        "name": "patch",
        "area": [float(v) for v in PATCH.split(",")],
        "period": {"last": 1},
        "legends": ["landcover"],
        "outputs": {"directory": directory},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return read_job(path)


def finished(directory: Path) -> None:
    """The two files that say that a map is there."""
    (directory / "stac").mkdir(parents=True)
    (directory / "stac/collection.json").write_text("{}")
    (directory / "SHA256SUMS").write_text("")


def children(path: Path) -> list[str]:
    return [link["href"] for link in json.loads(path.read_text())["links"] if link["rel"] == "child"]


def test_the_maps_of_a_job_can_be_walked_from_one_file(
    archive: Callable[..., Path], untrained: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("jsonschema")
    from tests.support.stac_schemas import validator

    stac = {"stac": str(archive(dates=20) / "items.json")}
    job = job_in(tmp_path, "out/{period}", catalogue=stac, weights={"name": untrained}, min_clear_months=1)
    for day in (datetime.date(2018, 10, 5), datetime.date(2018, 11, 5)):
        list(run_job(job, day))
    path = tmp_path / "out/catalog.json"
    before = path.read_bytes()
    assert children(path) == ["./2018-09/stac/collection.json", "./2018-10/stac/collection.json"]
    catalog = pystac.Catalog.from_file(str(path))
    validator().validate(catalog.to_dict(), pystac.STACObjectType.CATALOG, "1.1.0", [])
    items = list(catalog.get_items(recursive=True))
    assert [item.id for item in items] == ["geomap-2018-09-32631", "geomap-2018-10-32631"]
    assert all(Path(str(a.get_absolute_href())).is_file() for item in items for a in item.assets.values())
    list(run_job(job, datetime.date(2018, 11, 6)))  # nothing is due
    assert path.read_bytes() == before
    shutil.rmtree(tmp_path / "out/2018-09")
    list(run_job(job, datetime.date(2018, 11, 6)))
    assert children(path) == ["./2018-10/stac/collection.json"]
    for name in ("catalog.json", "patch_catalog.json"):
        (tmp_path / "out" / name).unlink(missing_ok=True)
        (tmp_path / "out" / name).mkdir()
    with caplog.at_level(logging.WARNING):  # a run does not fail by it
        assert len(list(run_job(job, datetime.date(2018, 11, 6)))) == 1
    assert "is not written" in caplog.text


@pytest.mark.parametrize(
    ("directory", "file", "listed"),
    [
        ("{period}", "catalog.json", "./2023-01_2023-12/stac/collection.json"),
        ("maps/a.b ({period})/x/y", "maps/catalog.json", "./a.b (2023-01_2023-12)/x/y/stac/collection.json"),
        ("../maps/{period}", "../maps/catalog.json", "./2023-01_2023-12/stac/collection.json"),
    ],
)
def test_it_lies_above_the_period_and_lists_finished_maps_of_the_job_alone(
    tmp_path: Path, directory: str, file: str, listed: str
) -> None:
    (tmp_path / "here").mkdir()
    job = job_in(tmp_path / "here", directory)
    assert write_catalog(job) is None
    for period in ("2023-01_2023-12", "2023", "2023-13", "notes", "2023-01_2025-12"):
        finished(job.file(directory.replace("{period}", period)))
    job.file(directory.replace("{period}", "2022-01_2022-12")).mkdir(parents=True)  # not finished
    path = write_catalog(job)
    assert path is not None
    assert path.resolve() == (tmp_path / "here" / file).resolve()
    assert children(path) == [listed]


def test_one_map_needs_no_list(tmp_path: Path) -> None:
    job = job_in(tmp_path, "maps", period={"year": 2023})
    finished(tmp_path / "maps")
    assert write_catalog(job) is None
    assert not list(tmp_path.rglob("*catalog.json"))
    refused(geomap("areas", job.path), 2, f"name its directory: geomap areas {tmp_path / 'maps'}")


def test_the_areas_of_a_job_lie_side_by_side(
    archive: Callable[..., Path], untrained: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the page of each map, whose bytes do not depend on later ones, and by `geomap areas`."""
    stac = {"stac": str(archive(dates=20) / "items.json")}
    keys: dict[str, Any] = {"catalogue": stac, "weights": {"name": untrained}, "min_clear_months": 1}
    days = [datetime.date(2018, month, 5) for month in (9, 10, 11)]
    job = job_in(tmp_path, "out/{period}", **keys)
    refused(geomap("areas", job.path), 2, f"no finished map yet; make one: geomap run {job.path}")
    made = [next(run_job(job, day)).directory for day in days[:2]]
    first = (made[0] / "index.html").read_bytes()
    made += [next(run_job(job_in(tmp_path, "out/{period}", **keys, min_confidence=1), days[2])).directory]
    assert (made[0] / "index.html").read_bytes() == first
    areas = [json.loads((run / "areas.json").read_text())["landcover"] for run in made]
    pixels = [{str(row["id"]): row["pixels"] for row in found} for found in areas]
    assert [content(run / "index.html")["facts"]["before"] for run in made[:2]] == [
        [],
        [{"months": ["2018-08", "2018-08"], "pixels": {"landcover": pixels[0]}, "other": []}],
    ]
    last = content(made[2] / "index.html")["facts"]["before"]  # its class 255 is not among those before
    assert [run["pixels"] for run in last] == [{}, {}]

    found = json.loads(geomap("areas", job.path, "--json").stdout)
    assert [(row["period"], row["id"], row["pixels"], row["ha"]) for row in found] == [
        (period, row["id"], row["pixels"], row["ha"])
        for period, rows in zip(("2018-08", "2018-09", "2018-10"), areas, strict=True)
        for row in rows
    ]
    out = tmp_path / "a.csv"
    assert geomap("areas", *made, "--out", out).exit_code == 0
    assert [row["pixels"] for row in csv.DictReader(out.open(newline=""))] == [str(row["pixels"]) for row in found]
    table = geomap("areas", *made).stdout
    assert all(month in table for month in ("2018-08", "2018-09", "2018-10", "(differs in: min_confidence)"))
    assert f"{areas[0][0]['ha']:,.2f}" in table
    refused(geomap("areas", *made, "--zones", "x.gpkg"), 2, "name one directory")
    recorded = json.loads((made[0] / "run.json").read_text())["request"]
    assert set(history.DECIDE) - recorded.keys() == {"points", "exclude", "smooth", "min_area"} == {*history._IF_ASKED}
    (made[0] / "areas.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        (again,) = run_job(job_in(tmp_path, "out/{period}", **keys), datetime.date(2018, 12, 5))
    assert "does not show the areas of an earlier run" in caplog.text
    assert [run["months"][0] for run in content(again.directory / "index.html")["facts"]["before"]] == [
        "2018-09",
        "2018-10",
    ]


ASKED: dict[str, Any] = {
    "legends": {"landcover": "a", "crops": "b"}, "within": {"crops": "landcover=2"}, "weights": {"sha256": "c"},
    "max_cloud": 100.0, "offset_policy": "auto",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({}, {}),
        ({"max_cloud": 20.0}, {"landcover": ["max_cloud"], "crops": ["max_cloud"]}),
        ({"offset_policy": "harmonised"}, {"landcover": ["offset_policy"], "crops": ["offset_policy"]}),
        ({"exclude": ["S2A_1"]}, {"landcover": ["exclude"], "crops": ["exclude"]}),
        ({"within": None}, {"crops": ["within"]}),
        ({"within": {"crops": "landcover=5"}}, {"crops": ["within"]}),
        ({"legends": {"landcover": "a", "crops": "d"}}, {"crops": ["legend crops"]}),
        (
            {"legends": {"landcover": "d", "crops": "b"}},
            {"landcover": ["legend landcover"], "crops": ["legend landcover"]},
        ),
        ({"legends": {"landcover": "a", "crops": "b", "habitat": "d"}}, {}),
        ({"points": {"sha256": "e"}}, {"landcover": ["points"], "crops": ["points"]}),  # whichever they taught
    ],
)
def test_maps_made_in_different_ways_are_those_whose_areas_that_decides(
    tmp_path: Path, change: dict[str, Any], differs: dict[str, list[str]]
) -> None:
    pixels = {name: {32631: np.full((9, 9), 2)} for name in ("landcover", "crops")}
    a, b = (
        history.read_areas(run_of(tmp_path / name, pixels, asked)).made_by
        for name, asked in (("a", ASKED), ("b", {**ASKED, **change}))
    )
    found = {stem: history.differing([a[stem], b[stem]]) for stem in a}
    assert {stem: keys for stem, keys in found.items() if keys} == differs


def test_labelled_maps_are_made_in_different_ways_where_their_embeddings_are(tmp_path: Path) -> None:
    pixels = {"landcover": {32631: np.full((9, 9), 2)}}
    made = {"area": "a", "weights": {"sha256": "b"}, "min_clear_months": 3, "points": {"sha256": "of that run"}}
    changes = ({}, {"weights": {"sha256": "c"}}, {"min_clear_months": 1}, {"points": None})
    runs = [
        run_of(tmp_path / str(i), pixels, {"embeddings": str(i), "made": {**made, **change}})
        for i, change in enumerate(changes)
    ]
    first, *rest = (history.read_areas(run).made_by["landcover"] for run in runs)
    assert [history.differing([first, other]) for other in rest] == [["weights"], ["min_clear_months"], []]


def test_a_map_is_as_one_by_its_embeddings_but_for_what_points_taught(tmp_path: Path) -> None:
    """The search is not told with embeddings, so it differs from none; points of crops decide no land cover."""
    pixels = {name: {32631: np.full((9, 9), 2)} for name in ("landcover", "crops")}
    told = {key: ASKED[key] for key in ("legends", "within")}
    labelled = {**told, "made": {"weights": ASKED["weights"]}, "points": {"sha256": "e"}}
    one, other = (run_of(tmp_path / f"{len(asked)}", pixels, asked) for asked in (ASKED, labelled))
    about = Taught("e", 2, {}, ())
    record = LearnedRecord("0", {"name": "crops"}, {}, about, "", "", (), False, True, "", None)
    (other / "learned.json").write_text(json.dumps(asdict(record)))
    table = geomap("areas", one, other, columns=120).stdout
    assert "crops was made in different ways (differs in: points)" in table
    assert "landcover was made" not in table


@pytest.mark.parametrize("text", ['{"type": "Catalog", "id": "mine"}', "[]", "{", "[" * 100_000])
def test_a_catalogue_of_somebody_else_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "catalog.json").write_text(text)
    finished(tmp_path / "2023-01")
    for _ in range(2):
        assert write_catalog(job_in(tmp_path, "{period}")) == tmp_path / "patch_catalog.json"
    assert (tmp_path / "catalog.json").read_text() == text
    assert json.loads((tmp_path / "patch_catalog.json").read_text())["links"][0]["href"] == "./patch_catalog.json"
