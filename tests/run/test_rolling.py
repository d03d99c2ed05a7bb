"""Rolling updates: the same bytes as a run from scratch, and nothing read or encoded that had been before.

Scenes, one or none a month; in November of both years part of the patch is cloudy, so some pixels keep their input.
"""

import csv
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from distributed import LocalCluster

from geomap import aoi, files, legends
from geomap.encode import weights
from geomap.encode.engine import Engine
from geomap.errors import UpdateError
from geomap.jobs.file import MapJob, read_job
from geomap.label.classify import Question, answers
from geomap.run.map import Result, map_area
from geomap.run.request import Earlier, Request
from geomap.run.tile_file import Task
from geomap.run.update import changes_np, earlier, same_month_np, shared
from geomap.run.update import differing as differing_keys
from geomap.run.workers import Resources
from geomap.store import store
from geomap.types import Composite, Finish, Period
from geomap.write.changes import transitions_np, write_matrix
from geomap.write.layer import Layer
from tests.support.outputs import problems
from tests.support.requests import request_for, tiles_of
from tests.support.runner import geomap, refused

PART = "4.0605,50.7440,4.0660,50.7475"
OLDER, BEFORE, NOW = Period(2018, 10, 12), Period(2018, 11, 12), Period(2018, 12, 12)
OLD = ("20181102", "20181212", "20190121", "20190215", "20190317", "20190401",
       "20190511", "20190620", "20190705", "20190824", "20190918", "20191013")  # fmt: skip
NEW, LATE = "20191117", "20190322"
LEGENDS = ("landcover", "crops", "scenicness")


class World:
    """A catalogue that grows, with files of its own."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.folder, self.items = folder, folder / "items.json"
        self._all = json.loads((archive / "items.json").read_text())
        self.cogs = folder / "cogs"
        for item in self._features((*OLD, NEW, LATE)):
            for asset in item["assets"].values():
                place = self.cogs / item["id"] / Path(asset["href"]).name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(asset["href"], place)
                asset["href"] = str(place)

    def _features(self, days: tuple[str, ...]) -> list:
        return [item for item in self._all["features"] if any(f"_{day}" in item["id"] for day in days)]

    def show(self, *days: str) -> None:
        """The catalogue has the scenes of these days."""
        self.items.write_text(json.dumps(self._all | {"features": self._features(days)}))

    def hide_files(self, *days: str) -> None:
        """Whoever opens the files of these days finds none."""
        (self.folder / "hidden").mkdir(exist_ok=True)
        for item in self._features(days):
            if (self.cogs / item["id"]).is_dir():
                (self.cogs / item["id"]).rename(self.folder / "hidden" / item["id"])

    def give_back(self) -> None:
        for place in (self.folder / "hidden").glob("*"):
            place.rename(self.cogs / place.name)

    def request(self, period: Period, **changes: object) -> Request:
        kept = {"legends": LEGENDS, "min_clear_months": 3, "save_composites": True, "save_embeddings": True}
        return request_for(self.items, **({"weights": "default", "area": PART, "period": period} | kept | changes))


@pytest.fixture(scope="module", autouse=True)
def small_tiles() -> Iterator[None]:
    """Tiles of 64 pixels: of each, the stores keep a whole one."""
    with tiles_of(256):  # one tile
        yield


@pytest.fixture(scope="module")
def world(archive, tmp_path_factory) -> World:
    return World(archive(), tmp_path_factory.mktemp("world"))


@pytest.fixture
def whole(world: World) -> Iterator[World]:
    """With the scenes of both periods."""
    world.show(*OLD, NEW)
    yield world
    world.give_back()


@pytest.fixture(scope="module")
def before(world: World) -> Path:
    world.show(*OLD)
    map_area(world.request(BEFORE), world.folder / "before")
    return world.folder / "before"


@pytest.fixture(scope="module")
def scratch(world: World, before: Path) -> Path:
    """The second period mapped without the first."""
    world.show(*OLD, NEW)
    map_area(world.request(NOW), world.folder / "scratch")
    return world.folder / "scratch"


@pytest.fixture(scope="module")
def updated(world: World, before: Path, scratch: Path) -> Result:
    """The second period mapped from the first, the files of all scenes but the new one being gone."""
    world.show(*OLD, NEW)
    world.hide_files(*OLD)
    try:
        return map_area(world.request(NOW, update=earlier(before)), world.folder / "updated")
    finally:
        world.give_back()


def differing(one: Path, other: Path) -> set[str]:
    """Files of the first run that the second lacks or that have other bytes."""
    names = (p.relative_to(one) for p in one.rglob("*") if p.is_file() and files.STATE not in p.relative_to(one).parts)
    return {str(n) for n in names if not (other / n).is_file() or (one / n).read_bytes() != (other / n).read_bytes()}


TOLD = {
    "run.json", "index.html", "maps.qlr", "SHA256SUMS", "stac/collection.json",
    "stac/geomap-2018-12_2019-11-32631.json",
}  # fmt: skip
"""Files that say what was made beside the maps, and which maps there are."""


def pixels(folder: Path, stem: str) -> np.ndarray:
    with rasterio.open(folder / f"{stem}.tif") as m:
        return m.read(1)


def months(folder: Path) -> dict[int, np.ndarray]:
    """By calendar month, the DNs of a run's composites where all bands have one, else 0."""
    kept = store.open_store(folder, store.COMPOSITES)
    (tile,) = kept.tiles
    dn = kept.read("composite", tile.grid, tile)
    dn = dn * (dn > 0).all(axis=1, keepdims=True)
    return dict(zip(kept.period.calendar_months, dn, strict=True))


# --- the same bytes, less work


def test_maps_and_stores_equal_those_from_scratch_though_only_the_new_month_can_be_read(updated, scratch):
    assert not differing(scratch, updated.directory) - TOLD
    assert (updated.missed, problems(updated.directory)) == (0, ())
    assert "embeddings.zarr/embedding/zarr.json" in (updated.directory / files.SUMS).read_text()
    told, fresh = (json.loads((d / "run.json").read_text()) for d in (updated.directory, scratch))
    update = told.pop("update")
    assert update["since"] == "2018-11_2019-10"
    assert update["months"] == {f"{y}-{m:02d}": 1 for y, m in NOW.year_months[:-1]}
    assert told["request"].pop("update") == told["asked"].pop("update") == update["since"]
    told["maps"] = {stem: s for stem, s in told["maps"].items() if stem in fresh["maps"]}
    for key in ("files", "seal"):  # the change layers are more files
        assert told.pop(key) != fresh.pop(key)
    assert told == fresh  # what the pixels say of every scene's offset included


def test_only_pixels_whose_input_changed_are_encoded(updated, before, scratch):
    old, new = months(before), months(scratch)
    changed = np.zeros(new[0].shape[1:], bool)
    for month in range(12):
        changed |= (old[month] != new[month]).any(axis=0)
    mapped = pixels(scratch, "landcover") > 0
    assert 0.1 < changed[mapped].mean() < 0.9
    assert updated.update is not None
    assert updated.update.encoded == (changed & mapped).sum()
    assert updated.update.kept == (~changed & mapped).sum()


def test_the_engine_is_given_those_pixels_alone_and_a_killed_update_goes_on_to_the_same_bytes(
    whole, before, updated, tmp_path, monkeypatch
):
    given = []
    embed = Engine.embed

    def seen(self, composite, usable, calendar):
        given.append(int(usable.sum()))
        return embed(self, composite, usable, calendar)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "write" and done == 2:
            raise KeyboardInterrupt

    request = whole.request(NOW, update=earlier(before))
    monkeypatch.setattr(Engine, "pixels_per_second", lambda self, steps: 1.0)  # it embeds, too
    monkeypatch.setattr(Engine, "embed", seen)
    with pytest.raises(KeyboardInterrupt):
        map_area(request, tmp_path / "out", stop)
    assert map_area(request, tmp_path / "out").resumed == 1
    assert given == [updated.update.encoded]
    assert not differing(updated.directory, tmp_path / "out")


def test_maps_made_readable_are_updated_to_the_bytes_from_scratch(whole, tmp_path):
    finish = Finish(smooth=3, min_area=0.05, vector=True, layers=("second", "probabilities"))
    asked = {"finish": finish, "legends": "landcover", "save_embeddings": False}
    map_area(whole.request(BEFORE, **asked), tmp_path / "before")
    map_area(whole.request(NOW, **asked), tmp_path / "scratch")
    whole.hide_files(*OLD)
    made = map_area(whole.request(NOW, update=earlier(tmp_path / "before"), **asked), tmp_path / "updated")
    assert len(made.update.months) == 11
    assert not differing(tmp_path / "scratch", made.directory) - TOLD
    assert {"landcover_to.tif", "landcover_probabilities.tif"} <= {path.name for path in made.paths}
    assert problems(made.directory) == ()


def test_a_resumed_update_counts_nothing_taken_over_from_another_map_than_it_names(whole, before, scratch, tmp_path):
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "write":
            raise KeyboardInterrupt

    map_area(whole.request(OLDER), tmp_path / "older")
    with pytest.raises(KeyboardInterrupt):
        map_area(whole.request(NOW, update=earlier(before)), tmp_path / "out", stop)
    made = map_area(whole.request(NOW, update=earlier(tmp_path / "older")), tmp_path / "out")
    assert made.resumed == 1
    assert (made.update.since, made.update.months, made.update.kept) == (str(OLDER), {}, 0)
    assert made.update.encoded > 0
    assert not differing(scratch, made.directory) - TOLD


def test_workers_make_the_same_bytes(whole, before, updated, tmp_path):
    whole.hide_files(*OLD)
    request = whole.request(NOW, update=earlier(before))
    with LocalCluster(1, 1, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=None) as cluster:
        map_area(request, tmp_path / "out", resources=Resources(scheduler=cluster.scheduler_address))
    assert not differing(updated.directory, tmp_path / "out")


def test_a_late_scene_makes_its_month_anew(whole, before, tmp_path):
    whole.show(*OLD, NEW, LATE)
    map_area(whole.request(NOW), tmp_path / "scratch")
    whole.hide_files(*(day for day in OLD if day != "20190317"))
    result = map_area(whole.request(NOW, update=earlier(before)), tmp_path / "updated")
    assert not differing(tmp_path / "scratch", tmp_path / "updated") - TOLD
    assert "2019-03" not in result.update.months
    assert len(result.update.months) == 10
    assert differing(tmp_path / "scratch" / "composites.zarr", before / "composites.zarr")


def test_a_month_in_which_a_file_was_missing_is_made_anew_when_it_is_there(whole, scratch, tmp_path):
    whole.show(*OLD, LATE)
    whole.hide_files(LATE)
    assert map_area(whole.request(BEFORE, save_embeddings=False), tmp_path / "gap").missed == 1
    whole.give_back()
    whole.show(*OLD, NEW, LATE)
    result = map_area(whole.request(NOW, update=earlier(tmp_path / "gap")), tmp_path / "updated")
    assert result.missed == 0
    assert "2019-03" not in result.update.months
    assert (result.update.kept, result.update.encoded > 0) == (0, True)  # without the old embeddings, all are made
    assert differing(scratch, tmp_path / "updated") > {"landcover_confidence.tif"}


@pytest.mark.parametrize(
    "gone",
    [
        None,
        pytest.param("composites.zarr/composite/c/*/*/*/*", marks=pytest.mark.soak),  # as None: no old composites
        "embeddings.zarr/embedding/c/*/*/*",
    ],
)
def test_damage_to_the_earlier_stores_costs_time_and_not_the_map(whole, before, scratch, tmp_path, caplog, gone):
    shutil.copytree(before, tmp_path / "before")
    (victim,) = (tmp_path / "before").glob(gone or "composites.zarr/composite/c/*/*/*/*")
    content = bytearray(victim.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = b"!" * 40
    victim.unlink() if gone else victim.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        result = map_area(whole.request(NOW, update=earlier(tmp_path / "before")), tmp_path / "updated")
    assert "is made from all its scenes" in caplog.text
    assert not differing(scratch, tmp_path / "updated") - TOLD
    assert not result.update.months


def test_a_worker_that_does_not_see_the_earlier_run_says_so(whole, before, tmp_path, caplog):
    (tile,) = store.open_store(before, store.COMPOSITES).tiles
    with caplog.at_level(logging.WARNING):
        assert shared(Earlier(tmp_path / "elsewhere", BEFORE), Task(tile), NOW) is None
    assert f"made from all its scenes: {tmp_path / 'elsewhere'} does not exist here" in caplog.text


# --- what has changed


def test_change_layers_equal_a_comparison_of_the_two_maps(updated, before, scratch):
    for name in ("landcover", "crops"):
        old, new = pixels(before, name), pixels(scratch, name)
        sure, surer = (pixels(d, f"{name}_confidence") for d in (before, scratch))
        moved = (old != new) & (old > 0) & (new > 0)
        for stem, expected in (
            (f"{name}_from", np.where(moved, old, 0)),
            (f"{name}_to", np.where(moved, new, 0)),
            (f"{name}_change_confidence", np.where(moved, np.minimum(sure, surer), 255)),
        ):
            np.testing.assert_array_equal(pixels(updated.directory, stem), expected)
        with rasterio.open(updated.directory / f"{name}_to.tif") as m, rasterio.open(scratch / f"{name}.tif") as plain:
            assert m.colormap(1) == plain.colormap(1)
            assert m.nodata == 0
    assert updated.statistics["crops_to"].valid > 0
    assert not list(updated.directory.glob("scenicness_*.tif"))


def test_the_change_matrix_counts_every_pixel_of_a_known_class_once(updated, before, scratch):
    for name in ("landcover", "crops"):
        old, new = pixels(before, name), pixels(scratch, name)
        path = updated.directory / f"{name}_changes.csv"
        rows = list(csv.DictReader(path.read_text().splitlines()))
        names = {str(c.id): c.name for c in legends.load(name).classes}
        expected = Counter(zip(old.ravel().tolist(), new.ravel().tolist(), strict=True))
        known = {pair: n for pair, n in expected.items() if 0 not in pair}
        assert {(int(r["from_id"]), int(r["to_id"])): int(r["pixels"]) for r in rows} == known
        assert all((names[r["from_id"]], names[r["to_id"]]) == (r["from"], r["to"]) for r in rows)
        assert all(float(r["ha"]) == round(int(r["pixels"]) / 100, 2) for r in rows)
        moved = sum(int(r["pixels"]) for r in rows if r["from_id"] != r["to_id"])
        assert moved == updated.statistics[f"{name}_to"].valid > 0
        assert files.sums(updated.directory)[path.name] == files.sha256(path)
    assert not list(updated.directory.glob("scenicness_*.csv"))
    assert not list(scratch.glob("*_changes.csv"))


def test_verify_knows_the_change_matrix(updated, tmp_path):
    shutil.copytree(updated.directory, tmp_path / "out")
    assert geomap("verify", tmp_path / "out").exit_code == 0
    (tmp_path / "out/crops_changes.csv").write_text("mine")
    (tmp_path / "out/landcover_changes.csv").unlink()
    done = geomap("verify", tmp_path / "out")
    assert done.exit_code == 1
    assert "crops_changes.csv: changed" in done.output
    assert "landcover_changes.csv: missing" in done.output


def test_names_of_classes_stay_text_in_the_change_matrix(tmp_path):
    names = ("=HYPERLINK(1)", '@x, "y"', "-1+1", "<b>maize</b>")
    legend = legends.Legend(
        name="own",
        title="t",
        classes=tuple(
            legends.LegendClass(id=i, name=name, colour="#0a0b0c", prompts=("p",)) for i, name in enumerate(names, 1)
        ),
    )
    old, new = np.array([[1, 2, 3, 4, 0, 255]], np.uint8), np.array([[2, 2, 1, 4, 1, 2]], np.uint8)
    write_matrix(tmp_path / "m.csv", Layer("own", "t", "classes", legend), transitions_np(old, new))
    assert list(csv.reader((tmp_path / "m.csv").read_text().splitlines())) == [
        ["from_id", "from", "to_id", "to", "pixels", "ha"],
        ["1", "'=HYPERLINK(1)", "2", '\'@x, "y"', "1", "0.01"],
        ["2", '\'@x, "y"', "2", '\'@x, "y"', "1", "0.01"],
        ["3", "'-1+1", "1", "'=HYPERLINK(1)", "1", "0.01"],
        ["4", "<b>maize</b>", "4", "<b>maize</b>", "1", "0.01"],
    ]


def test_no_data_and_unclassified_are_no_change():
    old, new = np.array([[1, 1, 0, 2, 255, 3]], np.uint8), np.array([[1, 2, 2, 0, 3, 255]], np.uint8)
    sure = np.array([[90, 80, 255, 70, 20, 60]], np.uint8)
    was, now, sureness = changes_np(old, new, sure, sure - 10)
    assert (was.tolist(), now.tolist()) == ([[0, 1, 0, 0, 0, 0]], [[0, 2, 0, 0, 0, 0]])
    assert sureness.tolist() == [[255, 70, 255, 255, 255, 255]]


def test_a_month_counts_only_with_all_bands():
    full, half, none = (np.array(v, np.uint16).reshape(2, 1, 1) for v in ((5, 6), (5, 0), (0, 0)))
    other = full + np.uint16(1)
    for new, old, same in (
        (full, full, True), (full, other, False), (half, none, True), (half, full, False), (full, None, False),
        (None, half, True), (None, full, False),
    ):  # fmt: skip
        assert same_month_np(new, old)[0, 0] == same


# --- what makes it exact


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_month_in_which_a_period_starts_does_not_change_a_bit(dtype):
    rng = np.random.default_rng(0)
    dn = rng.integers(1, 6000, (12, 10, 8, 40)).astype(np.uint16) * (rng.random((12, 1, 8, 40)) > 0.3)
    engine = Engine(weights.load_weights("default").encoder, "cpu", dtype=dtype)
    usable = np.ones(dn.shape[2:], bool)

    def embedded(first: int) -> torch.Tensor:
        order = np.roll(np.arange(12), -first)
        made = Composite(dn[order].astype(np.uint16), np.ones((12, 8, 40), np.uint8))
        return torch.cat([found for _, found in engine.embed(made, usable, order.tolist())])

    for first in (1, 7):
        assert torch.equal(embedded(first), embedded(0))


def test_a_label_does_not_depend_on_how_many_pixels_are_labelled_together():
    loaded = weights.load_weights("default")
    torch.manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(5000, 384), dim=1)
    questions = []
    for name in LEGENDS:
        found = legends.load(name)
        questions.append(Question(found, loaded.class_vectors[found.digest], loaded.card.logit_scale))
    together = answers(questions, embeddings)
    for count in (1, 2, 7, 100, 4097):
        some = torch.randperm(5000)[:count]
        for part, all_of_them in zip(answers(questions, embeddings[some]), together, strict=True):
            np.testing.assert_array_equal(part.value, all_of_them.value[some])
            if part.confidence is not None:
                np.testing.assert_array_equal(part.confidence, all_of_them.confidence[some])


# --- what is refused


def emptied(folder: Path) -> None:
    """Remove the files of a folder, but not its folders."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


def spoiled(spoil: Callable[[Path], None], before: Path, folder: Path) -> Path:
    shutil.copytree(before, folder)
    spoil(folder)
    return folder


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda d: (d / files.SUMS).unlink(), "is not finished"),
        (lambda d: shutil.rmtree(d / "composites_from"), "no composites of its own"),
        (lambda d: emptied(d / "composites_from"), "no composites of its own"),
        (lambda d: next((d / "composites_from").glob("*")).write_text("{}"), r"composites_from/.*\.json: changed"),
        (lambda d: (d / "crops.tif").write_bytes(b"II*"), r"crops\.tif: changed"),
        (lambda d: (d / "run.json").write_text("{"), r"run\.json is damaged"),
    ],
)
def test_a_run_that_cannot_be_updated_is_refused_in_one_line(whole, before, tmp_path, spoil, says):
    other = spoiled(spoil, before, tmp_path / "before")
    with pytest.raises(UpdateError, match=f"cannot update .*{says}.*without --update-from") as refusal:
        map_area(whole.request(NOW, update=earlier(other)), tmp_path / "out")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_an_emptied_store_is_no_store(whole, before, scratch, tmp_path):
    other = spoiled(lambda d: emptied(d / store.COMPOSITES), before, tmp_path / "before")
    with pytest.raises(UpdateError, match="no composites of its own"):
        map_area(whole.request(NOW, update=Earlier(other, BEFORE)), tmp_path / "out")
    shutil.rmtree(other)
    other = spoiled(lambda d: emptied(d / store.EMBEDDINGS), before, other)
    made = map_area(whole.request(NOW, update=earlier(other)), tmp_path / "out")
    assert (made.update.kept, len(made.update.months)) == (0, 11)  # as where no embeddings were kept
    assert not differing(scratch, made.directory) - TOLD


def test_other_weights_and_other_requests_are_refused(whole, before, untrained, tmp_path):
    for changed, says in (
        ({"weights": untrained}, "maps are of weights .*, not of untrained"),
        ({"min_clear_months": 5}, r"differs in: min_clear_months\); map without"),
        (
            {"without": ("landcover=Shrubland",)},
            r"differs in: legends\); --without left out none then, and landcover=Shrubland now; map without --update",
        ),
        ({"area": aoi.parse_area("4.0610,50.7445,4.0630,50.7460")}, "differs in: area, bounds"),
        ({"period": replace(NOW, months=NOW.months - 1)}, "it is of 12 months, this run of 11"),
    ):
        with pytest.raises(UpdateError, match=says):
            map_area(replace(whole.request(NOW, update=earlier(before)), **changed), tmp_path / "out")
    for folder in (tmp_path, whole.cogs):
        with pytest.raises(UpdateError, match="--save-composites --out NEW; or map without --update-from"):
            earlier(folder)
    assert not (tmp_path / "out").exists()


# --- commands


def test_what_was_learned_elsewhere_may_be_updated_whatever_the_year() -> None:
    """The first map after the year in which points were learned is by transfer, the one before was not."""
    learned = {"sha256": "a", "points": "b"}
    before, now = ({"learned": {**learned, "transferred": moved}, "weights": 1} for moved in (False, True))
    assert differing_keys(before, now) == []
    assert differing_keys(before, now | {"learned": {**learned, "sha256": "c", "transferred": True}}) == ["learned"]
    assert differing_keys({"weights": 1}, now) == ["learned"]
    assert differing_keys(before, now | {"weights": 2, "period": "2024"}) == ["weights"]


def test_the_command_line_updates_and_says_what_it_took_over(whole, before, updated, tmp_path):
    asked = ["map", PART, "--start", "2018-12", "--stac", whole.items, "--out", tmp_path / "out", "--device", "cpu"]
    for name in LEGENDS:
        asked += ["--legend", name]
    done = geomap(*asked, "--save-composites", "--save-embeddings", "--update-from", before)
    assert done.exit_code == 0, done.stderr
    assert "11 months taken over from 2018-11_2019-10" in done.stdout
    assert f"{updated.update.encoded:,} of " in done.stdout
    assert "crops: " in done.stdout
    assert differing(updated.directory, tmp_path / "out") <= {"run.json", "SHA256SUMS"}  # max_cloud 100 and 100.0
    refused(geomap(*asked, "--update-from", tmp_path), 2, "cannot update")


def test_a_rolling_job_updates_the_map_before_by_itself(whole, untrained, tmp_path, caplog):
    from geomap.jobs.due import run_job

    keys = {
        "name": "patch",
        "area": [float(v) for v in PART.split(",")],
        "period": {"last": 12},
        "catalogue": {"stac": str(whole.items), "max_cloud": 100},
        "legends": ["landcover"],
        "weights": {"name": untrained},
        "outputs": {"directory": "maps/{period}", "update": True},
        "resources": {"device": "cpu"},
    }

    def run(day: str, **changes: object) -> list[Result]:
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(keys | changes))
        return list(run_job(read_job(path), date.fromisoformat(day)))

    assert run("2019-11-05")[0].update is None
    second = run("2019-12-05")[0]
    assert second.update.since == "2018-11_2019-10"
    assert len(second.update.months) == 11
    assert (second.directory / "landcover_to.tif").is_file()
    shutil.rmtree(tmp_path / "maps/2018-11_2019-10")  # a finished map needs it no more
    assert run("2019-12-06")[0].resumed == 1
    assert run("2020-01-05")[0].update.since == "2018-12_2019-11"
    with caplog.at_level(logging.WARNING):  # of other weights there is nothing to update: from scratch
        other = run("2020-02-05", weights={"name": "default"})[0]
    assert "maps are of weights untrained" in caplog.text
    assert "outputs.update" in caplog.text
    assert other.update is None
    assert not list(other.directory.glob("*_to.tif"))
    assert run("2020-02-06", weights={"name": "default"})[0].resumed == 1


def rolling(world: World, weights: str, folder: Path) -> MapJob:
    """A job that updates the map of the month before."""
    keys = {
        "name": "patch",
        "area": [float(v) for v in PART.split(",")],
        "period": {"last": 12},
        "catalogue": {"stac": str(world.items)},
        "legends": ["landcover"],
        "weights": {"name": weights},
        "outputs": {"directory": "maps/{period}", "update": True},
        "resources": {"device": "cpu"},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(keys))
    return read_job(folder / "job.yaml")


@pytest.fixture(scope="module")
def stopped(world: World, untrained: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a job that was stopped once the tile of its second map was made."""
    from geomap.jobs.due import run_job

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "write":
            raise KeyboardInterrupt

    world.show(*OLD, NEW)
    folder = tmp_path_factory.mktemp("stopped")
    job = rolling(world, untrained, folder)
    list(run_job(job, date(2019, 11, 5)))
    with pytest.raises(KeyboardInterrupt):
        list(run_job(job, date(2019, 12, 5), stop))
    return folder


def test_an_interrupted_update_is_made_from_scratch_if_the_map_before_is_lost(
    whole, stopped, tmp_path, caplog, monkeypatch
):
    from geomap.jobs.due import run_job

    made = {}
    for lost, resumed in (("gone", 1), ("of another version", 0)):
        folder = tmp_path / lost
        shutil.copytree(stopped, folder)
        if lost == "gone":
            shutil.rmtree(folder / "maps/2018-11_2019-10")
        else:
            monkeypatch.setattr("geomap.run.identity.__version__", "99.0")
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            (result,) = run_job(read_job(folder / "job.yaml"), date(2019, 12, 6))
        assert "so that is done now" in caplog.text
        assert (result.update, result.resumed) == (None, resumed)
        assert not list(result.directory.glob("landcover_to*"))
        assert problems(result.directory) == ()
        made[lost] = result.directory
    (again,) = run_job(read_job(folder / "job.yaml"), date(2019, 12, 7))
    assert again.seconds == {}  # finished, and left as it is
    gone, scratch = made.values()
    for name in ("landcover.tif", "landcover_confidence.tif", "clear_months.tif"):
        assert (gone / name).read_bytes() == (scratch / name).read_bytes()


def test_a_finished_update_that_was_damaged_names_refresh_if_the_map_before_is_gone(whole, stopped, tmp_path):
    from geomap.jobs.due import run_job

    shutil.copytree(stopped, tmp_path / "job")
    job = read_job(tmp_path / "job/job.yaml")
    (made,) = run_job(job, date(2019, 12, 6))
    assert made.update.since == "2018-11_2019-10"
    shutil.rmtree(tmp_path / "job/maps/2018-11_2019-10")
    (made.directory / "landcover.tif").write_bytes(b"II*")
    with pytest.raises(UpdateError, match=r"holds no finished run.* geomap run .*job\.yaml --refresh$"):
        list(run_job(job, date(2019, 12, 7)))
    (again,) = run_job(job, date(2019, 12, 7), refresh=True)
    assert (again.update, problems(again.directory)) == (None, ())
