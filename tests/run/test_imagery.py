"""True colour and NDVI as maps of a run, against the composites that the same run keeps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from defusedxml import ElementTree

from geomap.errors import InputError
from geomap.run import check, imagery
from geomap.run.map import map_area
from geomap.run.request import Request
from geomap.sentinel2 import BANDS
from geomap.store.store import COMPOSITES, open_store
from geomap.types import Grid, Period, Tile
from tests.support.archive import PATCH
from tests.support.outputs import digests
from tests.support.requests import tiles_of
from tests.support.runner import geomap, refused

MONTHS = ("2018-07", "2018-08", "2018-09")


@pytest.fixture(scope="module")
def ask(archive: Callable[..., Path], asking: Callable[..., Request]) -> Callable[..., Request]:
    asked = {"period": Period(2018, 7, 3), "true_colour": "clearest", "ndvi": True}

    def make(**changes: Any) -> Request:
        return asking(archive(dates=12) / "items.json", **(asked | changes))

    return make


@pytest.fixture(scope="module")
def run(ask: Callable[..., Request], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of several tiles that keeps its composites."""
    with tiles_of(32):
        return map_area(ask(save_composites=True), tmp_path_factory.mktemp("seen") / "out").directory


def composite(run: Path) -> tuple[np.ndarray, Any]:
    """(T, bands, y, x) DNs of the whole map, and its grid as rasterio reads it."""
    kept = open_store(run, COMPOSITES)
    with rasterio.open(run / "clear_months.tif") as source:
        whole = np.zeros((3, len(BANDS), *source.shape), np.uint16)
        for tile in kept.tiles:
            row = int(source.transform.f - tile.grid.north) // 10
            column = int(tile.grid.west - source.transform.c) // 10
            here = ..., slice(row, row + tile.grid.height), slice(column, column + tile.grid.width)
            whole[here] = kept.read("composite", tile.grid, tile)
        outside = source.read(1) == 255
    whole[..., outside] = 0
    return whole, outside


def test_ndvi_is_that_of_each_month_of_the_composite(run: Path) -> None:
    dn, _ = composite(run)
    red, nir = (dn[:, BANDS.index(b)].astype(float) for b in ("B04", "B08"))
    with rasterio.open(run / "ndvi.tif") as source:
        values, names, scales = source.read(), source.descriptions, source.scales
        assert (source.dtypes[0], source.nodata, source.profile["compress"]) == ("int16", -32768, "deflate")
    assert names == MONTHS
    assert set(scales) == {1e-4}
    known = (red > 0) & (nir > 0)
    assert 0.2 < known.mean() < 1
    np.testing.assert_array_equal(values == -32768, ~known)
    np.testing.assert_allclose(values[known] * 1e-4, ((nir - red)[known] / (nir + red)[known]), atol=5.1e-5)


def test_true_colour_is_the_clearest_summer_month_with_one_stretch(run: Path) -> None:
    dn, _ = composite(run)
    seen = [(month[[2, 1, 0]] > 0).all(axis=0) for month in dn[:2]]  # July and August; B02, B03, B04 lead the bands
    best = int(np.argmax([s.sum() for s in seen]))
    with rasterio.open(run / "true_colour.tif") as source:
        rgb, tags = source.read(), source.tags()
        assert [c.name for c in source.colorinterp] == ["red", "green", "blue"]
        assert (source.nodata, source.dtypes) == (0, ("uint8",) * 3)
    assert tags["GEOMAP_MONTH"] == MONTHS[best]
    assert "(DN - 100) / 2400" in tags["GEOMAP_STRETCH"]
    share = np.clip((dn[best][[2, 1, 0]] - 100.0) / 2400, 0, 1)
    np.testing.assert_allclose(rgb[:, seen[best]], np.maximum(255 * share ** (1 / 1.6), 1)[:, seen[best]], atol=0.51)
    assert (rgb[:, ~seen[best]] == 0).all()


def test_a_month_of_winter_and_of_the_south() -> None:
    north = (Tile("a", Grid(32631, 0, 0, 2, 2)),)
    south = (Tile("a", Grid(32736, 0, 0, 2, 2)),)
    assert imagery.summer(Period(2022, 10), north) == (8, 9, 10)  # June to August 2023
    assert imagery.summer(Period(2022, 10), south) == (2, 3, 4)  # December to February
    assert imagery.summer(Period(2022, 11, 2), north) == (0, 1)


def test_a_clouded_summer_gives_way_to_the_clearest_of_all_months() -> None:
    warm = (5, 6, 7)
    monsoon = np.array([80, 100, 90, 70, 40, 10, 0, 0, 20, 60, 100, 90])
    assert imagery.clearest(monsoon, warm) == 1  # of equal ones the first
    monsoon[6] = 50  # half as many are enough
    assert imagery.clearest(monsoon, warm) == 6
    monsoon[6] = 49
    assert imagery.clearest(monsoon, warm) == 1
    assert imagery.clearest(np.zeros(12, np.int64), warm) == 5
    assert imagery.clearest(np.array([3, 7, 7]), (0, 1, 2)) == 1


@pytest.fixture(scope="module")
def clouded(archive: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive without a scene of July and August."""
    found = json.loads((archive(dates=12) / "items.json").read_text())
    kept = [f for f in found["features"] if f["properties"]["datetime"][:7] not in MONTHS[:2]]
    assert 0 < len(kept) < len(found["features"])
    path = tmp_path_factory.mktemp("clouded") / "items.json"
    path.write_text(json.dumps(found | {"features": kept}))
    return path


def test_without_a_clear_summer_both_show_the_clearest_month(
    clouded: Path, asking: Callable[..., Request], tmp_path: Path
) -> None:
    """In one tile, in several, and after a stop."""

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "composite" and done == 3:
            raise KeyboardInterrupt

    asked = asking(clouded, period=Period(2018, 7, 3), true_colour="clearest", ndvi=True)
    one = map_area(asked, tmp_path / "one").directory
    with tiles_of(32):
        with pytest.raises(KeyboardInterrupt):
            map_area(asked, tmp_path / "several", stop)
        done = map_area(asked, tmp_path / "several")
    assert done.resumed > 0
    for folder in (one, done.directory):
        with rasterio.open(folder / "true_colour.tif") as source:
            assert source.tags()["GEOMAP_MONTH"] == "2018-09"
            shown = source.read()
        assert (shown > 0).any()
        drawn = ElementTree.parse(folder / "ndvi.qml").getroot().find(".//rasterrenderer")
        assert drawn is not None
        assert drawn.get("band") == "3"
        with rasterio.open(folder / "ndvi.tif") as source:
            np.testing.assert_array_equal((source.read(3) > -32768) & (shown > 0).all(0), (shown > 0).all(0))
    with rasterio.open(one / "true_colour.tif") as a, rasterio.open(done.directory / "true_colour.tif") as b:
        np.testing.assert_array_equal(a.read(), b.read())


def test_a_map_that_shows_nothing_is_told(
    clouded: Path, asking: Callable[..., Request], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asking(clouded, period=Period(2018, 7, 3), true_colour="2018-07")
    map_area(asked, tmp_path / "out")
    assert "true colour shows nothing: no pixel was seen clear in 2018-07" in caplog.text


def test_both_belong_to_the_run_and_change_no_map(run: Path, ask: Callable[..., Request], tmp_path: Path) -> None:
    assert check.check(run) == check.Checked(())
    item = json.loads((run / "stac/geomap-2018-07_2018-09-32631.json").read_text())
    assert item["assets"]["true_colour"]["roles"] == ["visual"]
    assert item["assets"]["ndvi"]["roles"] == ["data"]
    assert [b["description"] for b in item["assets"]["ndvi"]["bands"]] == [*MONTHS]
    group = ElementTree.parse(run / "maps.qlr").getroot()
    drawn = {r.get("type"): r for r in group.iter("rasterrenderer")}
    assert drawn["multibandcolor"].get("blueBand") == "3"
    with tiles_of(32):
        plain = map_area(ask(true_colour=None, ndvi=False, save_composites=True), tmp_path / "plain").directory
    mine, other = digests(run), digests(plain)
    same = [n for n in other if n.endswith((".tif", ".qml", ".csv")) or ".zarr/" in n]
    assert {n: mine[n] for n in same} == {n: other[n] for n in same}


def test_a_stopped_run_gives_the_same_bytes_and_so_do_composites_and_other_tiles(
    run: Path, ask: Callable[..., Request], tmp_path: Path
) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "composite" and done == 3:
            raise KeyboardInterrupt

    maps = ("ndvi.tif", "true_colour.tif")
    with tiles_of(32):
        with pytest.raises(KeyboardInterrupt):
            map_area(ask(save_composites=True), tmp_path / "again", stop)
        done = map_area(ask(save_composites=True), tmp_path / "again")
        other = map_area(ask(composites=run), tmp_path / "kept").directory
    assert done.resumed > 0
    assert digests(done.directory) == digests(run)
    assert {n: digests(other)[n] for n in maps} == {n: digests(run)[n] for n in maps}
    page = (other / "index.html").read_text()
    assert "true_colour_2018_0" in page  # no composites are kept here: the picture is that of the map


@pytest.mark.parametrize(
    "option", [["--mask-dilate", "3"], ["--mask-classes", "0,1"], ["--exclude", "S2A"], ["--max-cloud", "10"]]
)
def test_saved_composites_refuse_options_that_say_what_is_read_of_scenes(
    run: Path, untrained: str, tmp_path: Path, option: list[str]
) -> None:
    words = ("map", PATCH, "--from-composites", run, "--weights", untrained, "--out", tmp_path / "out")
    refused(geomap(*words, *option), 2, f"{option[0]} says what is read of scenes")


def test_a_month_can_be_named_and_options_lead_there(
    archive: Callable[..., Path], untrained: str, tmp_path: Path
) -> None:
    words = ("map", PATCH, "--start", "2018-07", "--months", "3", "--stac", archive(dates=12) / "items.json")
    words += ("--min-clear-months", "1", "--weights", untrained, "--device", "cpu", "--out", tmp_path / "out")
    refused(geomap(*words, "--true-colour", "2019-07"), 2, "2019-07 is not mapped", "2018-07 to 2018-09")
    refused(geomap(*words, "--true-colour", "July"), 2, "--true-colour: cannot read the month 'July'")
    done = geomap(*words, "--true-colour", "2018-09", "--ndvi", "--crs", "3035", "--resolution", "50")
    assert done.exit_code == 0, done.stderr
    with rasterio.open(tmp_path / "out/true_colour_3035_50m.tif") as source:
        assert (source.tags()["GEOMAP_MONTH"], source.count) == ("2018-09", 3)
        assert (source.read() > 0).any()
    with rasterio.open(tmp_path / "out/ndvi_3035_50m.tif") as source:
        assert source.descriptions == MONTHS
    asked = json.loads((tmp_path / "out/run.json").read_text())["asked"]
    assert (asked["true_colour"], asked["ndvi"]) == ("2018-09", True)
    with pytest.raises(InputError, match=r"true_colour: 2020-01 is not mapped"):
        Request(area=PATCH, period="2018", true_colour="2020-01")


def test_qgis_shows_both_at_a_double_click(run: Path, qgis: Callable[[Path], dict[str, Any]]) -> None:
    colour, green = (qgis(run / name) for name in ("true_colour.tif", "ndvi.tif"))
    assert (colour["renderer"], green["renderer"]) == ("multibandcolor", "singlebandpseudocolor")
    assert len(colour["distinct_colours"]) > 20
    assert len(green["distinct_colours"]) > 5
    assert check.check(run).problems == ()
