"""A tile is done only if its file was made from what the request and the catalogue say now."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from geomap import aoi, grid, legends
from geomap.catalog.search import search
from geomap.errors import OutputError
from geomap.run.identity import tasks
from geomap.run.map import _renewal, map_area
from geomap.run.prepare import Prepared, prepare
from geomap.run.request import Request
from geomap.types import Period, Scene
from tests.support import places
from tests.support.outputs import digests, problems


@pytest.fixture
def asked(archive, untrained, tmp_path) -> Request:
    """Two tiles, 20 km apart."""
    return places.request(archive, untrained, tmp_path)


def without(items: Path, scene: str) -> str:
    """The items but those whose id starts so; returns what to write back."""
    whole = items.read_text()
    content = json.loads(whole)
    kept = [item for item in content["features"] if not item["id"].startswith(scene)]
    assert len(kept) < len(content["features"])
    items.write_text(json.dumps(content | {"features": kept}))
    return whole


def test_a_new_scene_makes_only_the_tiles_anew_that_it_touches(asked, tmp_path):
    items, out = Path(asked.stac), tmp_path / "out"
    later = without(items, "S2A_31UFS_20180923") if "S2A_31UFS_20180923" in items.read_text() else None
    later = later or without(items, "S2B_31UFS_20180923")
    map_area(asked, out, refresh=True)
    west, east = (out / f"tiles/{tile.name}.npz" for tile in grid.tiles(asked.area))
    made = {p: p.stat().st_mtime_ns for p in (west, east, out / "landcover.tif")}
    same = map_area(asked, out, refresh=True)
    assert (same.resumed, same.renewed) == (2, "searched again; nothing changed, it is left as it is")
    assert {p: p.stat().st_mtime_ns for p in made} == made

    items.write_text(later)
    with pytest.raises(OutputError, match=r"another request \(differs in: stac\)"):
        map_area(asked, out)  # without being told to look again, the finished map stays
    again = map_area(asked, out, refresh=True)
    assert (again.resumed, again.tiles, again.renewed) == (1, 2, "made anew: 1 scene new, 0 gone")
    assert west.stat().st_mtime_ns == made[west]
    assert east.stat().st_mtime_ns != made[east]
    map_area(asked, tmp_path / "fresh")
    assert digests(out) == digests(tmp_path / "fresh")


def test_what_goes_with_the_old_maps_is_told():
    def record(scenes: str, missed: str) -> Any:
        left_out = [SimpleNamespace(scene=s) for s in missed]
        return SimpleNamespace(scenes=[SimpleNamespace(id=s) for s in scenes], missed=left_out, quarantined={})

    told = _renewal(record("abe", "ae"), record("bcde", ""), True)
    lost = "; the assessment of the old maps is removed: type geomap assess again"
    assert told == f"made anew: 2 scenes new, 1 gone, 1 read that could not be read before{lost}"
    assert _renewal(record("ab", ""), record("ab", ""), False) == "made anew: the same scenes"
    assert _renewal(None, record("a", ""), True) == f"made anew{lost}"
    assert _renewal(None, record("a", ""), False) == ""


def test_a_file_that_its_item_says_was_written_anew_makes_its_tile_anew(asked, tmp_path):
    items, out = Path(asked.stac), tmp_path / "out"
    map_area(asked, out, refresh=True)
    content = json.loads(items.read_text())
    blue = next(item["assets"] for item in content["features"] if "_31UES_20180923" in item["id"])["blue"]
    made = []
    for stated in ({"file:checksum": "1220" + "ab" * 32}, {"file:size": 1234}, {"file:size": 1235}, {}):
        blue |= stated
        items.write_text(json.dumps(content))
        again = map_area(asked, out, refresh=True)
        made.append((again.resumed, again.renewed))
    anew = (1, "made anew: the same scenes")  # one of two tiles
    assert made == [anew, anew, anew, (2, "searched again; nothing changed, it is left as it is")]


def test_maps_stay_whole_while_new_ones_are_made_and_layers_that_are_gone_go(asked, tmp_path):
    out = tmp_path / "out"
    both = replace(asked, legends=(legends.load("landcover"), legends.load("crops")))
    map_area(both, out, refresh=True)
    before = digests(out)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_area(asked, out, stop, refresh=True)
    assert digests(out) == before
    assert problems(out) == ()
    assert map_area(asked, out, refresh=True).resumed == 2  # the tiles were done
    assert not (out / "crops.tif").exists()
    assert problems(out) == ()
    map_area(asked, tmp_path / "fresh")
    assert digests(out) == digests(tmp_path / "fresh")


def test_a_stopped_run_goes_on_where_its_item_file_was_rewritten(asked, tmp_path):
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "write":
            raise KeyboardInterrupt

    items, out = Path(asked.stac), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        map_area(asked, out, stop)
    content = json.loads(items.read_text())
    items.write_text(json.dumps(content | {"features": content["features"][::-1]}))
    with pytest.raises(KeyboardInterrupt):
        map_area(asked, out, stop)
    west = next(item["id"] for item in content["features"] if "_31UES_20180923" in item["id"])
    without(items, west)
    shutil.copy(items, tmp_path / "others.json")
    with pytest.raises(OutputError, match=r"another request \(differs in: stac\)"):
        map_area(replace(asked, stac=str(tmp_path / "others.json")), out)
    assert map_area(asked, out).resumed == 1
    map_area(asked, tmp_path / "fresh")
    assert digests(out) == digests(tmp_path / "fresh")


def test_another_area_is_refused_even_where_all_else_may_change(asked, tmp_path):
    map_area(asked, tmp_path / "out", refresh=True)
    other = replace(asked, area=aoi.parse_area("4.0585,50.7431,4.0676,50.7489"))
    with pytest.raises(OutputError, match="another request"):
        map_area(other, tmp_path / "out", refresh=True)


@pytest.fixture
def made(asked) -> tuple[Prepared, tuple[Scene, ...]]:
    """The request made ready, and its scenes."""
    return prepare(asked), search(asked.area.geometry, asked.period, asked.stac).scenes


def fingerprints(prepared: Prepared, scenes: tuple[Scene, ...]) -> dict[str, str]:
    return {task.tile.name: task.fingerprint for task in tasks(prepared, scenes)}


def asset(scene: Scene, **changes: object) -> Scene:
    return replace(scene, assets={**scene.assets, "B02": replace(scene.assets["B02"], **changes)})


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        (lambda s: asset(s, href=s.assets["B02"].href + ".new.tif"), True),
        (lambda s: asset(s, offset=-1000), True),
        (lambda s: asset(s, transform=(10.0, 0.0, 0.0, 0.0, -10.0, 0.0)), True),
        (lambda s: replace(s, generated="2024-01-01T00:00:00+00:00"), True),  # processed again: other pixels
        (lambda s: asset(s, content="0123"), True),  # its file was written anew
        (lambda s: replace(s, baseline="05.10"), True),  # decides which granule of a pass comes first
        (lambda s: replace(s, acquisition="other"), True),
        (lambda s: asset(s, reason="otherwise"), False),
        (lambda s: replace(s, cloud_cover=12.0), False),
    ],
)
def test_what_of_a_scene_matters(made, change, matters):
    job, scenes = made
    before = fingerprints(job, scenes)
    changed = fingerprints(job, (change(scenes[0]), *scenes[1:]))
    differs = [name for name in before if before[name] != changed[name]]
    assert len(differs) == (1 if matters else 0)  # never the tile that the scene does not touch
    assert fingerprints(job, scenes[::-1]) == before


def test_tokens_do_not_matter(made):
    job, scenes = made
    web = tuple(asset(s, href=f"https://h/{s.id}.tif") for s in scenes)
    signed = tuple(asset(s, href=f"https://h/{s.id}.tif?sig={n}") for n, s in enumerate(scenes))
    assert fingerprints(job, web) == fingerprints(job, signed)


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        ({"min_confidence": 0.5}, True),
        ({"legends": (legends.load("crops"),)}, True),
        ({"weights": "default"}, True),
        ({"period": Period(2018, 9, 2)}, True),
        ({"max_cloud": 50.0}, False),  # decides which scenes there are, and these are given
        ({"offset": "applied"}, False),
    ],
)
def test_what_of_a_request_matters(made, asked, change, matters):
    job, scenes = made
    before, changed = fingerprints(job, scenes), fingerprints(prepare(replace(asked, **change)), scenes)
    assert all((before[name] != changed[name]) == matters for name in before)
