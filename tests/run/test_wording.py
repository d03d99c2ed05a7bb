"""Warnings about typed words at the start of a run, and the class "None of these"."""

import json
import logging
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

import geomap
from geomap import legends
from geomap.encode import weights
from geomap.errors import LegendError, OutputError
from geomap.label.classify import with_land
from geomap.run.keys import RequestKeys
from geomap.run.map import map_area
from geomap.run.relabel import LabelRequest, label_store
from geomap.run.request import Request, request_of
from geomap.run.wording import findings, warn_of_words
from geomap.types import Period
from tests.support.requests import request_for, tiles_of
from tests.support.runner import geomap as inside
from tests.support.runner import typed

WORDS = "Weinberg, 4010, maize field, corn field"


@pytest.fixture(scope="module")
def stored(archive, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wording") / "run"
    asked = {"period": Period(2019, 4, 4), "legends": ("landcover",), "min_clear_months": 3, "save_embeddings": True}
    with tiles_of(64):
        map_area(request_for(archive() / "items.json", "default", **asked), out)
    return out


@pytest.fixture
def ask(archive) -> Callable[..., Request]:
    def make(**changes: object) -> Request:
        return request_for(archive() / "items.json", "default", period=Period(2019, 4, 4), **changes)

    return make


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as m:
        return m.read(1)


@pytest.mark.parametrize(
    ("day", "left"),
    [("2019-04-01", "2019-04, 2019-05, 2019-06, 2019-07 are"), ("2019-07-31", "2019-07 is"), ("2019-08-01", "")],
)
def test_a_run_names_the_months_that_are_not_over_and_what_to_type_later(day, left, ask, tmp_path, caplog):
    asked, today = ask(legends="landcover"), date.fromisoformat(day)
    for _ in range(2):  # a finished map is left as it is, without a word
        map_area(asked, tmp_path / "out", day=today)
    said = [r.getMessage() for r in caplog.records if "not over" in r.getMessage()]
    assert len(said) == (1 if left else 0)
    assert all(line.startswith(f"{left} not over: ") and "another --out" in line for line in said)


def test_a_run_says_each_finding_once_and_goes_on(ask, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        map_area(ask(legends=(legends.typed(WORDS), "landcover")), tmp_path / "out")
    said = [r.getMessage() for r in caplog.records if r.name == "geomap.run.wording"]
    assert len(said) == 3, said
    assert "'Weinberg' looks like another language" in said[0]
    assert "'4010' looks like a code" in said[1]
    assert "'maize field' and 'corn field'" in said[2]
    assert (tmp_path / "out/classes.tif").is_file()


def test_the_commands_say_it_on_the_terminal(stored, tmp_path):
    done = typed("label", stored, "--classes", WORDS, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("'Weinberg'") == done.stderr.count("'4010'") == done.stderr.count("'corn field'") == 1
    checked = inside("legends", "check", "--classes", WORDS)
    assert checked.exit_code == 0
    assert all(word in checked.stdout for word in ("'Weinberg'", "'4010'"))


def test_built_in_legends_and_plain_words_are_silent(caplog):
    asked = [legends.typed("vineyard, lake, pine forest"), *map(legends.load, legends.builtin_names())]
    with caplog.at_level(logging.WARNING):
        warn_of_words(asked, weights.load_weights("default"))
    assert not caplog.records


def test_many_doubtful_names_are_one_short_line():
    lines = list(findings(legends.typed(",".join(map(str, range(1000, 1100)))), weights.load_weights("default")))
    assert len(lines[0]) < 500
    assert all(part in lines[0] for part in ("'1000'", "and 92 more"))


def test_none_of_these_takes_pixels_and_changes_no_other(stored, tmp_path):
    own = legends.typed("vineyard, lake")
    label_store(LabelRequest(stored, (own,)), tmp_path / "plain")
    label_store(LabelRequest(stored, (own,), others=True), tmp_path / "others")
    plain, others = pixels(tmp_path / "plain/classes.tif"), pixels(tmp_path / "others/classes.tif")
    taken = others == legends.OTHERS_ID
    assert 0.5 < taken.sum() / (plain > 0).sum() <= 1  # fields without vines or water
    np.testing.assert_array_equal(others[~taken], plain[~taken])
    assert "None of these" in (tmp_path / "others/classes.qml").read_text()
    maps = json.loads((tmp_path / "others/run.json").read_text())["maps"]
    assert str(legends.OTHERS_ID) in maps["classes"]["counts"]
    with rasterio.open(tmp_path / "others/classes.tif") as m:
        assert m.tags(1)["class_254"] == "None of these"
    with pytest.raises(OutputError):
        label_store(LabelRequest(stored, (own,)), tmp_path / "others")  # another request


def test_none_of_these_of_a_run_resumes_and_is_that_of_python(ask, stored, tmp_path):
    asked = ask(legends=(legends.typed("vineyard, lake"),), others=True)
    first = map_area(asked, tmp_path / "out")
    assert legends.OTHERS_ID in first.statistics["classes"].counts
    assert map_area(asked, tmp_path / "out").resumed == first.tiles
    opened = geomap.open_store(stored)["embedding"]
    made = geomap.label(opened, "vineyard, lake", others=True)["classes"].values
    label_store(LabelRequest(stored, (legends.typed("vineyard, lake"),), others=True), tmp_path / "label")
    np.testing.assert_array_equal(made, pixels(tmp_path / "label/classes.tif"))


def test_what_others_cannot_do_is_told(ask, tmp_path):
    with pytest.raises(LegendError, match="built-in legends cover all land"):
        map_area(ask(legends=("landcover",), others=True), tmp_path / "out")
    with pytest.raises(LegendError, match="near every kind"):
        with_land(torch.eye(3), torch.eye(3))


def test_others_is_a_key_of_a_request(ask):
    keys = RequestKeys.model_validate({"classes": ["vineyard", "lake"], "others": True})
    plain = ask()
    assert request_of(keys, plain.area, plain.period, keys.chosen()).others
