"""Tiles that fail are tried twice, then left out; the others are finished, and whatever is missing is told."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import rasterio

from geomap import files, grid, legends
from geomap.errors import OutputError, ReadError, SourceUnavailableError
from geomap.run import history, retries
from geomap.run.map import map_area
from geomap.run.record import read_record
from geomap.run.request import Request
from geomap.types import Period
from geomap.write.layer import Layer
from tests.support import places
from tests.support.outputs import digests, problems
from tests.support.requests import request_for
from tests.support.runner import geomap
from tests.support.server import Server

LANDCOVER = Layer("landcover", "Land cover", "classes", legends.load("landcover"))


@pytest.fixture
def asked(archive, untrained, tmp_path) -> Request:
    """Two tiles, 20 km apart."""
    return places.request(archive, untrained, tmp_path)


def test_a_tile_that_cannot_be_read_is_left_out_and_tried_again_on_request(asked, tmp_path, caplog):
    west, east = (tile.name for tile in grid.tiles(asked.area))
    map_area(asked, tmp_path / "whole")
    places.remove_east(tmp_path)
    out = tmp_path / "out"
    result = map_area(asked, out)
    assert list(result.quarantined) == [east]
    assert result.quarantined[east].startswith("ReadError: ")
    assert [r.args[:2] for r in caplog.records if "failed" in r.msg] == [(east, 1), (east, 2)]
    assert json.loads((out / "tiles/quarantine.json").read_text())[east]["cause"] == result.quarantined[east]
    assert json.loads((out / "run.json").read_text())["quarantined"] == {east: "ReadError"}
    assert problems(out) == ()
    with rasterio.open(out / "landcover.tif") as m, rasterio.open(tmp_path / "whole/landcover.tif") as w:
        half = m.width // 2
        assert (m.read(1)[:, :half] == w.read(1)[:, :half]).all()
        assert m.read(1)[:, :half].any()
        assert not m.read(1)[:, half:].any()
        assert w.read(1)[:, half:].any()

    places.mend_east(tmp_path)
    before = digests(out)
    again = map_area(asked, out)  # skips it: what failed is not tried unless asked for
    assert again.quarantined == result.quarantined
    assert digests(out) == before
    last = map_area(asked, out, retry_quarantined=True)
    assert (last.resumed, last.quarantined) == (1, {})
    assert digests(out) == digests(tmp_path / "whole")
    assert not list((out / "tiles").glob("*.npz"))
    assert not (out / "tiles/quarantine.json").exists()
    assert west != east


def test_an_unfinished_run_skips_what_is_in_quarantine_until_its_scenes_change(asked, tmp_path, caplog):
    places.remove_east(tmp_path)
    map_area(asked, tmp_path / "out")
    (tmp_path / "out/landcover.tif").unlink()  # so that the run goes on
    caplog.clear()
    assert map_area(asked, tmp_path / "out").quarantined
    assert not [r for r in caplog.records if "failed" in r.msg]
    places.mend_east(tmp_path)
    content = json.loads(Path(asked.stac).read_text())
    renamed = json.dumps(content).replace(str(tmp_path / "east"), str(tmp_path / "moved"))
    (tmp_path / "east").rename(tmp_path / "moved")
    Path(asked.stac).write_text(renamed)
    assert not map_area(asked, tmp_path / "out", refresh=True).quarantined


def test_a_refresh_for_a_missing_scene_loses_no_scene_that_the_tile_has(asked, tmp_path, caplog):
    """The tile was made with one scene missing; when it is tried again, others cannot be read, or all of them."""
    out, east = tmp_path / "out", sorted((tmp_path / "east").glob("*_201809*"))
    asked, away = replace(asked, max_missed=0.5), tmp_path / "away"
    away.mkdir()
    east[0].rename(away / east[0].name)
    map_area(asked, out, refresh=True)
    before = digests(out)

    away_now = [away / path.name for path in east]
    east[1].rename(away_now[1])  # another one now, and the first
    again = map_area(asked, out, refresh=True)
    assert (again.quarantined, again.missed, digests(out)) == ({}, 1, before)
    assert f"stays as it was: {east[1].name} cannot be read now" in caplog.text
    for path, gone in zip(east[2:], away_now[2:], strict=True):
        path.rename(gone)
    content = json.loads(Path(asked.stac).read_text())
    western = next(item for item in content["features"] if "31UES_20180923" in item["id"])
    western["assets"]["blue"]["file:size"] = 1  # so its tile is made anew
    Path(asked.stac).write_text(json.dumps(content))
    again = map_area(asked, out, refresh=True)
    assert (again.resumed, again.quarantined, again.missed) == (0, {}, 1)
    maps = (out / "landcover.tif").read_bytes()
    for path, gone in zip(east[1:], away_now[1:], strict=True):
        gone.rename(path)
    assert map_area(asked, out, refresh=True).missed == 1  # the first is still missing
    assert (out / "landcover.tif").read_bytes() == maps
    away_now[0].rename(east[0])
    assert map_area(asked, out, refresh=True).missed == 0
    map_area(asked, tmp_path / "fresh")
    assert digests(out) == digests(tmp_path / "fresh")


@pytest.mark.parametrize("broken", [{0}, {1}, {2}, {0, 1}, {0, 2}], ids=str)
def test_tiles_that_fail_stop_no_other_whichever_they_are(broken, archive, untrained, tmp_path):
    items = places.more_places(archive(dates=3), tmp_path, 3, broken)
    where = places.area(3)
    asked = request_for(items, untrained, area=where, period=Period(2018, 8, 1), min_clear_months=1)
    names = [tile.name for tile in grid.tiles(where)]
    result = map_area(asked, tmp_path / "out")
    assert set(result.quarantined) == {names[n] for n in broken}
    with rasterio.open(tmp_path / "out/landcover.tif") as m:
        mapped = m.read(1).any(axis=0)
    thirds = (len(mapped) // 3 * n for n in range(3))
    assert [mapped[start : start + len(mapped) // 3].any() for start in thirds] == [n not in broken for n in range(3)]


def test_where_no_tile_can_be_read_there_is_no_map(asked, tmp_path, monkeypatch):
    places.remove_east(tmp_path)
    content = json.loads(Path(asked.stac).read_text())
    items = tmp_path / "none.json"
    items.write_text(json.dumps(content).replace("cogs/S2", "cogs/missing/S2"))
    with pytest.raises(ReadError, match="cannot be read"):
        map_area(replace(asked, stac=str(items)), tmp_path / "out")
    assert os.listdir(tmp_path / "out") == [files.STATE]
    assert not (tmp_path / "out/tiles/quarantine.json").exists()
    # and it is not waited for when many tiles in a row have failed
    monkeypatch.setattr(retries, "HOPELESS", 1)
    tried: list[str] = []
    with pytest.raises(ReadError):
        map_area(replace(asked, stac=str(items)), tmp_path / "out", lambda stage, *_: tried.append(stage))
    assert tried.count("composite") == 1  # told at the start; no tile came after


def test_a_server_that_does_not_answer_stops_the_run_and_what_is_done_is_kept(asked, tmp_path):
    content = Path(asked.stac).read_text()
    items = tmp_path / "refused.json"
    items.write_text(content.replace(str(tmp_path / "east"), "http://127.0.0.1:9"))  # nobody listens there
    with pytest.raises(SourceUnavailableError):
        map_area(replace(asked, stac=str(items), deadline=1), tmp_path / "out")
    west, _ = (tile.name for tile in grid.tiles(asked.area))
    assert [p.stem for p in (tmp_path / "out/tiles").glob("*.npz")] == [west]
    assert os.listdir(tmp_path / "out") == [files.STATE]


def test_the_command_line_says_which_tile_is_missing_and_exits_with_3(asked, tmp_path, untrained):
    places.remove_east(tmp_path)
    (tmp_path / "area.wkt").write_text(asked.area.geometry.wkt)
    asking = ["map", asked.area.geometry.wkt, "--start", "2018-09", "--months", "1", "--min-clear-months", "1"]
    asking += ["--stac", asked.stac, "--weights", untrained, "--device", "cpu", "--out", str(tmp_path / "out")]
    _, east = (tile.name for tile in grid.tiles(asked.area))
    done = geomap(*asking, columns=4000)
    assert done.exit_code == 3
    assert f"lacks 1 of 2 tiles, nodata in the maps, which failed twice: {east}; the first: ReadError" in done.output
    assert "--retry-quarantined" in done.output
    assert geomap(*asking, columns=4000).exit_code == 3  # still
    shown = geomap("status", tmp_path / "out", "--json")
    assert json.loads(shown.stdout)["quarantined"][east].startswith("ReadError")
    places.mend_east(tmp_path)
    whole = tmp_path / "whole"
    assert geomap(*asking[:-1], whole).exit_code == 0
    share, gap = read_record(tmp_path / "out").mapped.share, f"{tmp_path / 'out'} lacks 1 of 2 tiles, and"
    beside = geomap("areas", whole, tmp_path / "out", columns=200)
    assert f"{gap} {share:.1%} of the area is mapped: the areas are those of the rest" in beside.stderr
    (line,) = [line for line in beside.stdout.splitlines() if "mapped share of the area" in line]
    assert [*re.findall(r"[\d.]+%", line)] == [f"{read_record(whole).mapped.share:.1%}", f"{share:.1%}"]
    one = geomap("areas", tmp_path / "out", "--json", columns=200)
    assert gap in one.stderr
    assert {row["mapped_share"] for row in json.loads(one.stdout)} == {share}
    assert [run["other"] for run in history.before([whole], read_record(tmp_path / "out"), [LANDCOVER], None)] == [
        ["landcover"]
    ]
    assert geomap(*asking, "--retry-quarantined").exit_code == 0


def test_items_signed_anew_make_the_tiles_that_were_denied(asked, tmp_path, archive, caplog):
    """The address of the eastern place has a signature that the server knows no more."""
    out, items, east = tmp_path / "out", Path(asked.stac), sorted(grid.tiles(asked.area), key=lambda t: t.name)[1].name
    map_area(asked, tmp_path / "whole")
    local = items.read_text()
    with Server(tmp_path) as server:
        server.token = "sig=new"

        def sign(token: str) -> None:
            content = local.replace(str(tmp_path / "east"), f"{server.base}/east")
            content = re.sub(rf"({server.base}/east[^\"]*\.tif)", rf"\1?sig={token}", content)
            items.write_text(content)

        sign("old")
        result = map_area(asked, out)
        assert list(result.quarantined) == [east]
        assert result.quarantined[east].startswith("ReadError: http")
        assert "_" not in "".join(
            record.args[3].partition(":")[0] for record in caplog.records if "failed" in record.msg
        )
        sign("new")
        with pytest.raises(
            OutputError, match=r"differs in: stac\); type --retry-quarantined to make its missing tiles"
        ):
            map_area(asked, out)
        assert map_area(asked, out, retry_quarantined=True).quarantined == {}
    with rasterio.open(out / "landcover.tif") as m, rasterio.open(tmp_path / "whole/landcover.tif") as w:
        assert (m.read(1) == w.read(1)).all()
