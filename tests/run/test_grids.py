"""Maps once more on a grid of the user's own, as a run, a job and `geomap label` write them."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from defusedxml import ElementTree

from geomap import files
from geomap.errors import InputError, LegendError
from geomap.run import check
from geomap.run.again import read_again, words_of
from geomap.run.map import map_area
from geomap.run.request import Request
from geomap.run.words import command
from tests.support.archive import PATCH
from tests.support.outputs import digests
from tests.support.runner import geomap, refused

STEMS = ("landcover", "landcover_confidence", "landcover_second", "clear_months")


@pytest.fixture(scope="module")
def first(archive: Callable[..., Path], untrained: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a grid by the command line; its embeddings are kept."""
    folder = tmp_path_factory.mktemp("grids")
    words = ["map", PATCH, "--start", "2018-08", "--months", "2", "--stac", archive(dates=9) / "items.json"]
    words += ["--min-clear-months", "1", "--save-embeddings", "--crs", "EPSG:3035", "--resolution", "100"]
    done = geomap(*words, "--weights", untrained, "--device", "cpu", "--out", folder / "out")
    assert done.exit_code == 0, done.stderr
    return folder / "out"


def test_every_map_lies_there_once_more_and_belongs_to_the_run(first: Path, tmp_path: Path) -> None:
    assert {p.name for p in first.glob("*_3035_100m.tif")} == {f"{stem}_3035_100m.tif" for stem in STEMS}
    assert check.check(first) == check.Checked(())
    with rasterio.open(first / "landcover_3035_100m.tif") as made, rasterio.open(first / "landcover.tif") as native:
        assert (made.crs.to_epsg(), made.res) == (3035, (100, 100))
        assert made.bounds.left % 100 == made.bounds.top % 100 == 0
        assert made.colormap(1) == native.colormap(1)
        assert made.profile["compress"] == "deflate"
        assert made.tags()["GEOMAP_RESAMPLING"] == "commonest class"
        share = np.isin(made.read(1), np.unique(native.read(1))).mean()
    assert share == 1
    for side in ("landcover_3035_100m.qml", "landcover_3035_100m.tif.aux.xml"):
        assert (first / side).is_file()
    group = ElementTree.parse(first / "maps.qlr").getroot()
    assert "./landcover_3035_100m.tif" in [found.text for found in group.iter("datasource")]
    item = json.loads((first / "stac/geomap-2018-08_2018-09-3035_100m.json").read_text())
    assert item["properties"]["proj:code"] == "EPSG:3035"
    assert item["assets"]["landcover"]["file:checksum"].endswith(files.sha256(first / "landcover_3035_100m.tif"))
    collection = json.loads((first / "stac/collection.json").read_text())
    assert collection["summaries"]["proj:code"] == ["EPSG:3035", "EPSG:32631"]
    shutil.copytree(first, tmp_path / "copy")
    (tmp_path / "copy/landcover_3035_100m.tif").unlink()
    assert "landcover_3035_100m.tif: missing" in check.damaged(tmp_path / "copy")


def test_the_maps_of_the_zone_are_those_of_a_run_without_a_grid(
    first: Path, archive: Callable[..., Path], asking: Callable[..., Request], tmp_path: Path
) -> None:
    plain = map_area(asking(archive(dates=9) / "items.json", save_embeddings=True), tmp_path / "plain").directory
    mine, other = digests(first), digests(plain)
    same = [n for n in other if n.endswith((".tif", ".qml", ".png")) or ".zarr/" in n]
    assert {n: mine[n] for n in same} == {n: other[n] for n in same}


def test_a_run_with_a_grid_is_repeated_to_the_same_bytes(
    first: Path, archive: Callable[..., Path], untrained: str, tmp_path: Path
) -> None:
    items = archive(dates=9) / "items.json"
    done = geomap("map", "--again", first, "--stac", items, "--weights", untrained, "--out", tmp_path / "again")
    assert done.exit_code == 0, done.stderr
    assert digests(tmp_path / "again") == digests(first)
    request = read_again(first, stac=str(items), weights=untrained)
    told = {"command": "map", **words_of(request)}
    assert "--crs EPSG:3035 --resolution 100" in command(told).command


def test_samples_and_assessments_go_by_the_maps_of_the_zones(first: Path, untrained: str, tmp_path: Path) -> None:
    """A grid of another system, and one of the zone's own, change neither the points nor the accuracies."""
    own: dict[str, tuple[str, ...]] = {
        "plain": (),
        "3035": ("--crs", "3035", "--resolution", "50"),
        "32631": ("--crs", "32631", "--resolution", "20"),
    }
    for name, grid in own.items():
        words = ("--weights", untrained, "--legend", "landcover", "--out", tmp_path / name)
        done = geomap("label", first, *words, *grid)
        assert done.exit_code == 0, done.stderr
    points: dict[str, bytes] = {}
    told: dict[str, Any] = {}
    for name in own:
        run, drawn = tmp_path / name, tmp_path / f"{name}.csv"
        done = geomap("sample", run, "--n", "60", "--show-mapped", "--out", drawn)
        assert done.exit_code == 0, done.stderr
        points[name] = drawn.read_bytes()
        rows = list(csv.DictReader(drawn.open()))
        with drawn.open("w", newline="") as out:
            (writer := csv.DictWriter(out, rows[0])).writeheader()
            writer.writerows(row | {"class": row["mapped"]} for row in rows)
        done = geomap("assess", run, "--points", drawn, "--column", "class")
        assert done.exit_code == 0, done.stderr
        told[name] = json.loads((run / "assessment.json").read_text())["landcover"]
    assert len(set(points.values())) == 1
    assert told["3035"] == told["32631"] == told["plain"]
    assert told["plain"]["overall_accuracy"]["value"] == 1
    with rasterio.open(first / "landcover.tif") as f:
        assert told["plain"]["area_ha"] == pytest.approx((f.read(1) > 0).sum() / 100)


def test_label_and_a_job_write_on_the_grid_of_a_raster(
    first: Path, archive: Callable[..., Path], untrained: str, tmp_path: Path
) -> None:
    like = first / "landcover_3035_100m.tif"
    words = ("--weights", untrained, "--legend", "landuse", "--out", tmp_path / "label")
    done = geomap("label", first, *words, "--like", like, "--json")
    assert done.exit_code == 0, done.stderr
    shown = {m["layer"]: [Path(f).name for f in m["files"]] for m in json.loads(done.stdout)["maps"]}
    assert shown["landuse"] == ["landuse.tif", "landuse_3035_100m.tif"]
    assert check.check(tmp_path / "label").problems == ()
    shutil.copyfile(like, tmp_path / "like.tif")
    job: dict[str, Any] = {
        "name": "grids", "area": PATCH, "period": {"start": "2018-08", "months": 2}, "legends": ["landcover"],
        "catalogue": {"stac": str(archive(dates=9) / "items.json")}, "weights": {"name": untrained},
        "min_clear_months": 1, "grid": {"like": "like.tif"}, "outputs": {"directory": "maps"},
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    done = geomap("run", tmp_path / "job.yaml")
    assert done.exit_code == 0, done.stderr
    found = (tmp_path / "maps/landcover_3035_100m.tif").read_bytes()
    assert found == like.read_bytes()  # the same bytes from the grid's values as from its name
    with rasterio.open(tmp_path / "label/landuse_3035_100m.tif") as made, rasterio.open(like) as wanted:
        assert (made.crs, made.transform, made.shape) == (wanted.crs, wanted.transform, wanted.shape)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--crs", "EPSG:99999"), "--crs: no coordinate system"),
        (("--crs", "+proj=utm +zone=31"), "--crs: '+proj=utm +zone=31' is not the code of a coordinate system"),
        (("--crs", "4326"), "give --resolution in degrees"),
        (("--resolution", "100"), "--resolution goes with --crs"),
        (("--like", "none.tif"), "--like: no file none.tif"),
        (("--like", "none.tif", "--crs", "3035"), "not both"),
    ],
)
def test_what_is_no_grid_is_told_before_anything_is_written(
    words: tuple[str, ...], says: str, untrained: str, tmp_path: Path
) -> None:
    given = ("--year", "2018", "--stac", "items.json", "--weights", untrained, "--out", tmp_path / "out")
    refused(geomap("map", PATCH, *given, *words), 2, says)
    assert not (tmp_path / "out").exists()


def test_a_grid_elsewhere_and_a_name_that_is_taken_are_refused(asking: Callable[..., Request], tmp_path: Path) -> None:
    far = {
        "crs": "EPSG:32631",
        "unit": "m",
        "step_x": 10,
        "step_y": 10,
        "west": 0,
        "north": 10,
        "width": 9,
        "height": 9,
    }
    with pytest.raises(InputError, match="does not touch the area"):
        map_area(asking("items.json", grid=far), tmp_path / "out")
    from geomap import legends

    taken = legends.load("landuse").model_copy(update={"name": "landcover_3035_10m"})
    with pytest.raises(LegendError, match=r"two maps would be called landcover_3035_10m\.tif"):
        map_area(asking("items.json", legends=("landcover", taken), grid={"crs": "3035"}), tmp_path / "out")
    with pytest.raises(InputError, match="grid: resolution: "):
        asking("items.json", grid={"crs": "3035", "resolution": -1})
