"""The report page as a file: its pixels, areas, places and bytes; names that would be markup elsewhere."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geomap.legends import Legend, RatedPrompt
from geomap.types import Grid
from geomap.write import report
from geomap.write.layer import Layer
from geomap.write.report import Extras, joint, page, places, quantised, reduction, write_report
from tests.support.pages import FACTS, GRID, HOSTILE, MONTHS, content, known, layers_for, raster, write_maps, write_page


def test_the_page_holds_the_pixels_and_the_areas_of_the_maps(tmp_path: Path) -> None:
    ids, confidence = known()
    made = write_page(tmp_path)
    np.testing.assert_array_equal(raster(made, "landcover-32631").reshape(GRID.shape), ids)
    np.testing.assert_array_equal(raster(made, "landcover_confidence-32631").reshape(GRID.shape), confidence)
    told = content(made)
    (classes,) = [m for m in told["maps"] if m["kind"] == "classes"]
    counts = {c["id"]: c["pixels"] for c in classes["classes"]}
    assert counts == {i: int((ids == i).sum()) for i in (1, 2, 3, 4)}
    assert [c["pixels"] for c in classes["classes"]] == sorted(counts.values(), reverse=True)
    for i in counts:
        assert [sum(classes["table"][str(i)][least:]) for least in (0, 37, 100)] == [
            int(((ids == i) & (confidence >= least)).sum()) for least in (0, 37, 100)
        ]
    (zone,) = told["zones"]
    assert (zone["west"], zone["north"], zone["metres"], zone["reduced"]) == (500_000, 5_600_000, 10, 1)


def test_equal_maps_give_equal_pages_with_nothing_of_time_or_place(tmp_path: Path) -> None:
    one, two = (write_page(tmp_path / name) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert str(tmp_path) not in one.read_text()
    assert one.stat().st_size < 100_000


class Elements(HTMLParser):
    """The elements of a page, with their attributes, and the text of each title."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_no_name_becomes_markup_or_ends_the_data(tmp_path: Path) -> None:
    def elements(made: Path) -> list[tuple[str, dict[str, str | None]]]:
        parser = Elements()
        parser.feed(made.read_text())
        return [(tag, {k: v for k, v in attributes.items() if k != "content"}) for tag, attributes in parser.found]

    hostile = write_page(tmp_path / "hostile")
    harmless = write_page(tmp_path / "harmless", ("a", "b", "c", "d"), limits=["x"], command="y")
    assert elements(hostile) == elements(harmless)
    names = {c["name"] for m in content(hostile)["maps"] for c in m.get("classes", ())}
    assert names == set(HOSTILE)


def test_the_page_asks_for_nothing_and_runs_its_own_script_alone(tmp_path: Path) -> None:
    made = write_page(tmp_path).read_text()
    parser = Elements()
    parser.feed(made)
    assert not [a for _, a in parser.found if {"src", "srcset", "action", "onclick", "onload"} & a.keys()]
    assert [tag for tag, _ in parser.found if tag in ("link", "iframe", "object", "img")] == []
    (policy,) = [a["content"] for tag, a in parser.found if tag == "meta" and "http-equiv" in a]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    script = (Path(report.__file__).parent / "page/report.js").read_text()
    assert set(re.findall(r"https?://[\w.]+", script)) == {"http://www.w3.org", "http://www.topografix.com"}  # names


def test_a_title_of_markup_is_text() -> None:
    made = page('<b>&"{{DATA}}', {"a": "</script>\u2028"}).decode()
    assert "<title>&lt;b&gt;&amp;&quot;{{DATA}}</title>" in made
    assert '{"a":"\\u003c/script\\u003e\\u2028"}' in made


def test_scores_travel_in_a_byte_to_within_half_a_step() -> None:
    values = np.array([1.0, 5.501, 10.0, np.nan, 0.5, 11.0], np.float32)
    codes = quantised(values, 1, 10)
    assert codes[3] == 255
    assert np.abs(1 + codes[:3] * (9 / 254) - values[:3]).max() <= 9 / 254 / 2 + 1e-6
    assert (codes[4], codes[5]) == (0, 254)


def test_a_page_of_scores_has_no_places_and_no_classes(tmp_path: Path) -> None:
    prompts = (RatedPrompt(text="a car park", rating=1), RatedPrompt(text="a lake", rating=10))
    legend = Legend(name="scenicness", title="S", kind="score", range=(1, 10), prompts=prompts)
    scenic = Layer("scenicness", "Scenicness", "score", legend)
    pixels = np.linspace(1, 10, GRID.width * GRID.height, dtype=np.float32).reshape(GRID.shape)
    pixels[0, 0] = np.nan
    maps, statistics = write_maps(tmp_path, {scenic: pixels})
    told = content(write_report(tmp_path, maps, statistics, "S", MONTHS, Extras(facts=FACTS)))
    assert told["places"] == []
    assert told["maps"][0]["steps"] == 254
    np.testing.assert_array_equal(raster(tmp_path / "index.html", "scenicness-32631"), quantised(pixels, 1, 10).ravel())


def test_counts_by_class_and_confidence_leave_out_what_has_none() -> None:
    table = joint(np.array([1, 1, 2, 0], np.uint8), np.array([50, 100, 0, 255], np.uint8))
    assert table[1, 50] == table[1, 100] == table[2, 0] == 1
    assert table.sum() == 3


def test_places_are_the_least_sure_of_each_class_inside_its_patches_and_apart() -> None:
    ids, confidence = known(Grid(32631, 0, 6_000_000, 400, 300))
    found = places(ids, confidence)
    assert len(found) == 20
    assert all(len(set(ids[max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2].ravel())) == 1 for r, c in found)
    assert all(max(abs(r - s), abs(c - d)) >= 20 for i, (r, c) in enumerate(found) for s, d in found[:i])
    by_class = [int(ids[place]) for place in found]
    assert {c: by_class.count(c) for c in (1, 2, 3, 4)} == dict.fromkeys((1, 2, 3, 4), 5)
    around = np.pad(ids, 1, mode="edge")
    inner = np.logical_and.reduce([around[i : i + 300, j : j + 400] == ids for i in range(3) for j in range(3)])
    assert confidence[found[0]] == confidence[inner & (ids == by_class[0])].min()
    assert places(np.zeros((5, 5), np.uint8), np.full((5, 5), 255, np.uint8)) == []
    assert places(np.ones((5, 5), np.uint8), np.full((5, 5), 9, np.uint8)) == [(0, 0)]


def test_a_map_too_large_for_the_page_is_shown_by_blocks_and_its_areas_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Grid(32631, 500_000, 5_600_000, 1300, 1100)
    whole = content(write_page(tmp_path / "whole", grid=grid))
    monkeypatch.setattr(report, "MOST_PIXELS", 400_000)
    made = write_page(tmp_path / "reduced", grid=grid)
    told = content(made)
    (zone,) = told["zones"]
    assert (zone["width"], zone["height"], zone["metres"], zone["reduced"]) == (650, 550, 20, 2)
    shown = raster(made, "landcover-32631").reshape(550, 650)
    with rasterio.open(tmp_path / "reduced/landcover.tif", overview_level=0) as source:
        np.testing.assert_array_equal(shown, source.read(1))
    assert set(np.unique(shown)) <= {0, 1, 2, 3, 4}  # no class that is none of the map's
    (one,), (other,) = ([m for m in t["maps"] if m["kind"] == "classes"] for t in (whole, told))
    assert one["table"] == other["table"]
    assert one["classes"] == other["classes"]
    for place in told["places"]:
        row, column = place["row"], place["column"]
        assert names_of(other)[int(shown[row, column])] == place["name"]


def names_of(told: dict[str, list[dict[str, str]]]) -> dict[int, str]:
    return {int(c["id"]): c["name"] for c in told["classes"]}


def test_the_least_reduction_that_fits_is_taken() -> None:
    assert reduction(4000, 4000, ()) == 1
    assert reduction(4001, 4000, (2, 4)) == 2
    assert reduction(40_000, 300, (2, 4, 8)) == 4  # no canvas is wider than 16,384
    assert reduction(10_980, 10_980, (2, 4, 8, 16)) == 4


def test_changes_are_counted_from_and_to(tmp_path: Path) -> None:
    classes, sure = layers_for(("a", "b", "c", "d"))
    ids, confidence = known()
    before, now = (np.zeros(GRID.shape, np.uint8) for _ in range(2))
    before[20:30, :7], now[20:30, :7] = 1, 3
    before[40, 5:9], now[40, 5:9] = 3, 1
    changed = {replace(classes, stem="landcover_from"): before, replace(classes, stem="landcover_to"): now}
    maps, statistics = write_maps(tmp_path, {classes: ids, sure: confidence, **changed})
    told = content(write_report(tmp_path, maps, statistics, "S", MONTHS, Extras(facts=FACTS)))
    assert told["changes"] == [{"title": "Land cover", "rows": [["a", "c", 70], ["c", "a", 4]]}]
