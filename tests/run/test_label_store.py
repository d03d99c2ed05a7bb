"""Maps from stored embeddings beside the maps of the run that stored them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from pyproj import Transformer

from geomap import files, grid, legends
from geomap.encode import weights
from geomap.errors import InputError, LegendError, OutputError, ReadError, WeightsError
from geomap.points.read import PointFiles
from geomap.run.assess import assess_map
from geomap.run.design import AssessRequest
from geomap.run.learned import TAUGHT, learned_pixels
from geomap.run.map import map_area
from geomap.run.record import read_record
from geomap.run.relabel import LabelRequest, label_store, map_similar
from geomap.run.sample import SampleRequest, sample_map
from geomap.run.status import status
from geomap.store import store
from geomap.types import NOT_MAPPED, Grid, Period
from geomap.write.layer import Layer
from tests.support.outputs import problems
from tests.support.requests import request_for, tiles_of
from tests.support.runner import geomap

PLACE = (4.062, 50.746)  # inside the scenes
LEGENDS = ("landcover", "crops", "habitat", "scenicness")


@pytest.fixture(scope="module")
def run(archive, tmp_path_factory) -> Path:
    """The patch by the default weights, in tiles of 64 pixels, with its embeddings; five months."""
    out = tmp_path_factory.mktemp("stored") / "run"
    asked = {
        "period": Period(2019, 4, 5),
        "legends": LEGENDS,
        "min_clear_months": 3,
        "save_embeddings": True,
        "within": "none",
    }
    with tiles_of(64):
        map_area(request_for(archive() / "items.json", "default", **asked), out)
    return out


@pytest.fixture
def ask(run) -> Callable[..., LabelRequest]:
    def make(*names: str, **changes: object) -> LabelRequest:
        fields: dict[str, object] = {"store": run, "legends": tuple(legends.load(name) for name in names)}
        return LabelRequest(**({"within": ()} | fields | changes))

    return make


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as m:
        return m.read(1)


def test_labels_from_the_store_are_those_of_the_run(run, series, ask, tmp_path):
    alike = 0.99 if series.real else 0.98  # share of labels; more simulated pixels lie between two habitats
    result = label_store(ask(*LEGENDS), tmp_path / "out")
    assert problems(tmp_path / "out") == ()
    names = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file() and files.STATE not in p.parts}
    again = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert {name for name in names if not name.startswith("embeddings.zarr")} <= again  # the same files
    for name in ("landcover", "crops", "habitat"):
        with rasterio.open(run / f"{name}.tif") as a, rasterio.open(tmp_path / f"out/{name}.tif") as b:
            assert (a.profile, a.colormap(1)) == (b.profile, b.colormap(1))
            direct, stored = a.read(1), b.read(1)
        np.testing.assert_array_equal(direct == 0, stored == 0)
        assert (direct == stored)[direct > 0].mean() >= alike
        sure, kept = (pixels(d / f"{name}_confidence.tif").astype(int) for d in (run, tmp_path / "out"))
        assert np.abs(sure - kept)[direct > 0].max() <= 2
    np.testing.assert_allclose(pixels(run / "scenicness.tif"), pixels(tmp_path / "out/scenicness.tif"), atol=0.05)
    assert (run / "clear_months.tif").read_bytes() == (tmp_path / "out/clear_months.tif").read_bytes()
    told = json.loads((tmp_path / "out/run.json").read_text())
    assert told["request"]["made"]["weights"]["sha256"] == weights.load_weights("default").digest
    assert result.tiles == len(told["tiles"]) > 1


def test_classes_of_ones_own_that_the_latitudes_leave_out_are_told(ask, tmp_path, caplog):
    """The area lies at 50.7 N. Those of the built-in legends are not told: they are as documented."""
    text = legends.source("landcover").replace('name = "landcover"', 'name = "mine"', 1)
    for name in ("Woodland", "Shrubland"):
        text = text.replace(f'name = "{name}"', f'name = "{name}"\nlatitudes = [-40, 10]')
    mine = legends.parse(text.encode(), "mine.toml")
    asked = ask("crops", without=("Shrubland",))
    label_store(replace(asked, legends=(*asked.legends, mine)), tmp_path / "out")
    said = "legend mine leaves out Woodland, by the latitudes in its file; --everywhere maps all its classes"
    assert [r.getMessage() for r in caplog.records if "latitudes" in r.getMessage() and r.levelname != "INFO"] == [said]
    assert said in " ".join(geomap("explain", tmp_path / "out", columns=200).stdout.split())
    label_store(replace(asked, legends=(mine,), everywhere=True), tmp_path / "all")
    assert "elsewhere" not in json.loads((tmp_path / "all/run.json").read_text())


def test_the_same_question_gives_the_same_bytes_and_is_not_asked_twice(ask, tmp_path):
    asked = ask("landcover", "habitat", min_confidence=0.5, within=("landcover", "Cropland"))
    for name in ("one", "two"):
        label_store(asked, tmp_path / name)
    assert (tmp_path / "one/SHA256SUMS").read_bytes() == (tmp_path / "two/SHA256SUMS").read_bytes()
    before = (tmp_path / "one/landcover.tif").stat().st_mtime_ns
    assert label_store(asked, tmp_path / "one").seconds == {}
    assert (tmp_path / "one/landcover.tif").stat().st_mtime_ns == before
    assert 255 in pixels(tmp_path / "one/landcover.tif")
    with pytest.raises(OutputError, match="another request"):
        label_store(ask("crops"), tmp_path / "one")


def test_typed_classes_and_within(ask, tmp_path):
    typed = legends.typed("maize field, wheat field, grassland, forest")
    label_store(ask(legends=(typed,), within=("landcover", "Cropland")), tmp_path / "out")
    cover, own = pixels(tmp_path / "out/landcover.tif"), pixels(tmp_path / "out/classes.tif")
    np.testing.assert_array_equal(own > 0, cover == legends.load("landcover").id_of("Cropland"))
    assert len(np.unique(own)) > 2


def test_points_that_taught_another_run_do_not_check_the_maps_that_take_it(archive, ask, tmp_path):
    """Whichever of them are given, by `label` and by `map`, here and for other months."""
    label_store(ask("landcover"), tmp_path / "plain")
    sample_map(tmp_path / "plain", [tmp_path / "points.csv"], SampleRequest(n=60, design="random", show_mapped=True))
    table = pd.read_csv(tmp_path / "points.csv", dtype=str)
    names = sorted(set(table["mapped"]))
    turned = dict(zip(names, [*names[1:], names[0]], strict=True))  # no point has the class that its words have
    table.assign(mapped=table["mapped"].map(turned)).to_csv(tmp_path / "points.csv", index=False)
    points = PointFiles((str(tmp_path / "points.csv"),), "mapped")
    label_store(ask("landcover", points=points), tmp_path / "taught")
    for name in ("one", "two"):
        label_store(ask(learned=str(tmp_path / "taught")), tmp_path / name)
    months = {"period": Period(2019, 5, 4), "min_clear_months": 1, "learned": str(tmp_path / "taught")}
    map_area(request_for(archive() / "items.json", "default", **months), tmp_path / "map")
    np.testing.assert_array_equal(learned_pixels(tmp_path / "one"), learned_pixels(tmp_path / "taught"))
    assert (tmp_path / "one/SHA256SUMS").read_bytes() == (tmp_path / "two/SHA256SUMS").read_bytes()
    lines = (tmp_path / "points.csv").read_text().splitlines(keepends=True)
    (tmp_path / "most.csv").write_text("".join(lines[:50]))
    for name in ("taught", "one", "map"):
        assert problems(tmp_path / name) == ()
        with pytest.raises(InputError, match="of 49 points lie on pixels that the map learned from"):
            assess_map(tmp_path / name, AssessRequest(tmp_path / "most.csv", "mapped", legend="landcover"))
    (tmp_path / "one" / TAUGHT).unlink()
    with pytest.raises(InputError, match=rf"{TAUGHT}: missing; geomap verify"):
        assess_map(tmp_path / "one", AssessRequest(tmp_path / "most.csv", "mapped", legend="landcover"))


def test_another_models_embeddings_are_refused(ask, run, untrained, tmp_path):
    with pytest.raises(WeightsError, match=r"embeddings of weights default \w+, not of untrained"):
        label_store(ask("landcover", weights=untrained), tmp_path / "out")
    copy = tmp_path / "copy" / store.EMBEDDINGS
    shutil.copytree(run / store.EMBEDDINGS, copy)
    content = json.loads((copy / "zarr.json").read_text())
    made = content["attributes"]["geomap"]["about"]["weights"]
    for changed, match in (
        ({"sha256": "0" * 64}, "embeddings of weights default 0000"),
        ({"name": "gone"}, "no weights 'gone'.*give their folder as --weights"),
    ):
        content["attributes"]["geomap"]["about"]["weights"] = made | changed
        (copy / "zarr.json").write_text(json.dumps(content))
        with pytest.raises(WeightsError, match=match):
            label_store(ask("landcover", store=copy), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_store_with_a_lost_shard_is_an_error_not_a_hole(ask, run, tmp_path):
    copy = tmp_path / store.EMBEDDINGS
    shutil.copytree(run / store.EMBEDDINGS, copy)
    shards = sorted(copy.glob("embedding/c/0/*/*"), key=lambda p: p.stat().st_size)
    shards[-1].unlink()
    with pytest.raises(ReadError, match="lacks embeddings"):
        label_store(ask("landcover", store=copy), tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {files.STATE}


def test_tiles_that_could_not_be_made_are_nodata(ask, run, tmp_path):
    copy = tmp_path / store.EMBEDDINGS
    shutil.copytree(run / store.EMBEDDINGS, copy)
    kept = store.open_store(copy)
    *_, other, lost = sorted(kept.tiles, key=lambda tile: tile.grid.width * tile.grid.height)
    there = int((kept.read("clear_months", lost.grid, lost) != NOT_MAPPED).sum())
    store.name_missing(copy, {lost.name: 4000})
    made = label_store(ask("landcover", store=copy), tmp_path / "out")
    of_run = read_record(run).mapped
    assert made.mapped is not None
    assert of_run is not None
    assert (made.mapped.pixels, made.mapped.mapped) == (
        of_run.pixels - there + 4000,
        made.statistics["landcover"].valid,
    )
    assert made.quarantined == {lost.name: "not in the store"}
    assert label_store(ask("landcover", store=copy), tmp_path / "out").quarantined == made.quarantined
    shown = status(tmp_path / "out")
    assert (shown.done, shown.quarantined) == (shown.tiles - 1, made.quarantined)
    row, column = np.argwhere(kept.read("embedding", other.grid, other).any(axis=0))[0]
    east, north = other.grid.west + 10 * column + 5, other.grid.north - 10 * row - 5
    lon, lat = Transformer.from_crs(other.grid.epsg, 4326, always_xy=True).transform(east, north)
    for words in (["label", copy, "--within", "none"], ["similar", copy, "--at", f"{lon},{lat}"]):
        told = geomap(*words, "--out", tmp_path / words[0], columns=4000)
        assert told.exit_code == 3, told.output
        assert f"nodata in the maps, which are not in the store: {lost.name}; type the command that" in told.output
    whole, holed = pixels(run / "landcover.tif"), pixels(tmp_path / "out/landcover.tif")
    row, column = lost.grid.offset_in(grid.mosaic_grid(tuple(t.grid for t in store.open_store(copy).tiles)))
    hole = np.zeros(whole.shape, bool)
    hole[row : row + lost.grid.height, column : column + lost.grid.width] = True
    assert whole[hole].any()
    assert not holed[hole].any()
    assert (holed[~hole] == whole[~hole])[whole[~hole] > 0].mean() >= 0.99


def test_likeness_to_a_place(run, tmp_path):
    result = map_similar(run / store.EMBEDDINGS, *PLACE, tmp_path / "out")
    with rasterio.open(tmp_path / "out/similarity.tif") as m:
        assert m.dtypes == ("float32",)
        likeness = m.read(1)
        xs, ys = rasterio.warp.transform(4326, m.crs, *([v] for v in PLACE))
        row, column = m.index(xs[0], ys[0])
    assert likeness[row, column] == 1
    assert np.nanmax(likeness) <= 1.000001
    np.testing.assert_array_equal(np.isnan(likeness), pixels(run / "landcover.tif") == 0)
    assert result.layers == (Layer("similarity", result.layers[0].description, "likeness"),)
    assert 'label="1"' in (tmp_path / "out/similarity.qml").read_text()
    assert problems(tmp_path / "out") == ()
    # cosines of the codes themselves, by numpy
    kept = store.open_store(run, store.EMBEDDINGS)
    x, y = (int(v[0] // 10) * 10 for v in (xs, ys))
    tile = kept.holding(Grid(32631, x, y + 10, 1, 1))
    assert tile is not None
    vectors = kept.read("embedding", tile.grid, tile).astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=0), 1e-9)
    whole = grid.mosaic_grid(tuple(t.grid for t in kept.tiles))
    y, x = (int(at - corner) for at, corner in zip((row, column), tile.grid.offset_in(whole), strict=True))
    assert (0 <= y < tile.grid.height, 0 <= x < tile.grid.width) == (True, True)
    expected = np.tensordot(vectors[:, y, x], vectors, axes=1)
    top, left = tile.grid.offset_in(whole)
    found = likeness[top : top + tile.grid.height, left : left + tile.grid.width]
    np.testing.assert_allclose(found, np.where(vectors.any(axis=0), expected, np.nan), atol=1e-6)


@pytest.mark.parametrize(
    ("place", "match"),
    [
        ((5.0, 50.0), "lies outside .* which covers 4.05"),
        ((4.05852, 50.74312), "not mapped"),
        ((50.7, 4.06), "outside"),
    ],
)
def test_a_place_without_an_embedding_is_one_clear_line(run, tmp_path, place, match):
    with pytest.raises(InputError, match=match):
        map_similar(run, *place, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_store_and_no_legend(ask, run, tmp_path):
    with pytest.raises(InputError, match="make one with: geomap map AOI --save-embeddings"):
        label_store(ask("landcover", store=tmp_path), tmp_path / "out")
    (tmp_path / "SHA256SUMS").touch()  # a finished run: its command again, which needs another folder
    with pytest.raises(InputError, match="type the command that made it once more, with --save-embeddings --out NEW"):
        label_store(ask("landcover", store=tmp_path), tmp_path / "out")
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match="give --legend or --classes"):
        label_store(ask(), tmp_path / "out")
    with pytest.raises(LegendError, match="two maps would be called"):
        label_store(ask("landcover", "landcover"), tmp_path / "out")


def test_the_commands(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = geomap("label", run, "--legend", "landuse", "--out", "use")
    assert done.exit_code == 0, done.output
    assert pixels(tmp_path / "use/landuse.tif").any()
    asked = [legend["name"] for legend in json.loads((run / "run.json").read_text())["asked"]["legends"]]
    done = geomap("label", run, "--layers", "none", "--out", "same")
    assert done.exit_code == 0, done.output
    maps = {path.stem for path in (tmp_path / "same").glob("*.tif")}
    assert {name for name in maps if name != "clear_months" and not name.endswith("_confidence")} == {*asked}
    done = geomap("similar", run / store.EMBEDDINGS, "--at", "-3.7,40.4", "--out", "like")
    assert done.exit_code == 2
    done = geomap("similar", run, "--at", "here", "--out", "like")
    assert done.exit_code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["same", "use"]
