"""`geomap status` and `geomap verify` on runs that are going, stopped, finished and damaged."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from geomap import files
from geomap.errors import BusyError, InputError
from geomap.run.map import map_area
from geomap.run.request import Request
from geomap.run.status import status, verified
from tests.support.runner import geomap


@pytest.fixture
def asked(nine_tiles) -> Request:
    return nine_tiles


@contextmanager
def held(asked: Request, out: Path, when: Callable[[str, int], bool]) -> Iterator[None]:
    """A run in another thread that stands still at the first (stage, done) for which `when` holds."""
    there, go = threading.Event(), threading.Event()

    def progress(stage: str, done: int, total: int) -> None:
        if not there.is_set() and when(stage, done):
            there.set()
            assert go.wait(60)

    run = threading.Thread(target=map_area, args=(asked, out, progress))
    run.start()
    assert there.wait(60)
    try:
        yield
    finally:
        go.set()
        run.join()


def interrupt(asked: Request, out: Path, tiles: int) -> None:
    """Run until so many tiles are done."""

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "encode" and len(list(out.glob("tiles/*.npz"))) >= tiles:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_area(asked, out, progress)


def flip(path: Path, where: float) -> None:
    """Change a bit of one byte at a share of the file."""
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1
    path.write_bytes(content)


def test_a_run_that_is_going_says_how_far_it_is_and_keeps_others_out(asked, tmp_path):
    out = tmp_path / "out"
    with held(asked, out, lambda stage, done: len(list(out.glob("tiles/*.npz"))) == 3):
        seen = status(out)
        assert (seen.state, seen.tiles, seen.done) == ("running", 9, 3)
        assert 1 <= len(seen.running) <= 2  # one is encoded, or the next is read as well
        assert seen.pending == 9 - 3 - len(seen.running)
        assert seen.seconds_left is not None
        assert seen.seconds_left > 0
        assert seen.scenes == 5
        assert seen.bytes > 1000
        with pytest.raises(BusyError, match="another run"):
            map_area(asked, out)
    seen = status(out)
    assert (seen.state, seen.done, seen.running, seen.pending, seen.seconds_left) == ("finished", 9, (), 0, 0.0)
    assert seen.scenes == 5


def test_time_to_go_is_unknown_before_the_first_tile(asked, tmp_path):
    with held(asked, tmp_path / "out", lambda stage, done: stage == "composite"):
        seen = status(tmp_path / "out")
    assert (seen.state, seen.done, seen.seconds_left) == ("running", 0, None)


def test_a_stopped_run(asked, tmp_path):
    out = tmp_path / "out"
    interrupt(asked, out, 4)
    seen = status(out)
    assert (seen.state, seen.done, seen.running, seen.pending) == ("stopped", 4, (), 5)
    assert seen.seconds_left is not None  # at the pace that it had
    shown = geomap("status", out)
    assert shown.exit_code == 0
    assert "4 of 9 done, 0 in hand, 5 to come" in shown.stdout
    assert "once it is started again" in shown.stdout
    parsed = json.loads(geomap("status", out, "--json").stdout)
    assert (parsed["state"], parsed["done"], parsed["tiles"]) == ("stopped", 4, 9)


def test_status_writes_nothing_and_refuses_what_is_no_run(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        status(tmp_path)
    with pytest.raises(InputError, match="holds no run"):
        status(tmp_path / "nothing")
    assert not list(tmp_path.iterdir())


def test_a_copy_without_the_state_is_compared_with_its_list(asked, tmp_path):
    out, copy = tmp_path / "out", tmp_path / "copy"
    map_area(asked, out)
    shutil.copytree(out, copy, ignore=shutil.ignore_patterns(files.STATE))
    assert verified(copy).problems == ()
    told, of = status(copy), status(out)
    assert (told.state, told.tiles, told.done, told.scenes) == ("finished", of.tiles, of.done, of.scenes)
    flip(copy / "landcover.tif", 0.5)
    (problem,) = verified(copy).problems
    assert problem.startswith("landcover.tif: changed")


def test_a_flipped_byte_in_a_kept_tile_is_found_and_that_tile_alone_made_again(asked, tmp_path):
    out = tmp_path / "out"
    interrupt(asked, out, 4)
    (unfinished,) = verified(out).problems
    assert unfinished.startswith(f"{files.SUMS}: missing, so the run did not finish; type the run's command again")
    path = sorted(out.glob("tiles/*.npz"))[1]
    whole = path.read_bytes()
    for where in range(0, 100, 9):
        flip(path, where / 100)
        _, found = verified(out).problems
        assert found.startswith(f"tile {path.stem}: {path.name} is changed or cut")
        path.write_bytes(whole)
    flip(path, 0.3)
    assert status(out).done + status(out).pending == 9
    assert map_area(asked, out).resumed == 3
    assert verified(out).problems == ()


def test_a_flipped_byte_in_a_map_is_found_and_the_map_made_again(asked, tmp_path):
    out = tmp_path / "out"
    map_area(asked, out)
    assert verified(out).problems == ()
    before = (out / "landcover.tif").read_bytes()
    flip(out / "landcover.tif", 0.5)
    assert [line.partition(";")[0] for line in verified(out).problems] == ["landcover.tif: changed"]
    shown = geomap("verify", out)
    assert shown.exit_code == 1
    assert "landcover.tif: changed; type the run's command again" in shown.output
    map_area(asked, out)
    assert (out / "landcover.tif").read_bytes() == before
    assert geomap("verify", out).exit_code == 0


def test_files_beside_the_maps_are_checked_too(asked, tmp_path):
    map_area(asked, tmp_path / "out")
    flip(tmp_path / "out/run.json", 0.5)
    (line,) = verified(tmp_path / "out").problems
    assert line.startswith("run.json: changed; if that was not you, remove SHA256SUMS")
