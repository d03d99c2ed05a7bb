"""A run's state is known by its content and never reached through links; what holds tokens is its owner's alone."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from geomap import files, simulate
from geomap.demo import run_demo
from geomap.errors import BusyError, InputError, OutputError
from geomap.run.directory import MARK, open_directory, read_begun
from geomap.run.map import map_area
from geomap.store import store
from tests.support.outputs import problems
from tests.support.requests import request_for
from tests.support.runner import start

ASKED = {"area": "here"}


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def begun(out: Path) -> None:
    """A run that stopped before its first tile."""
    run = open_directory(out, ASKED)
    with run.lock():
        run.begin(ASKED, ())


# --- folders of other people


@pytest.mark.parametrize(
    "names",
    [
        ("a.npz", "b.zarr/x", "maps/y.tif"),
        ("lock",),
        ("lock", "request.json"),
        ("request.json",),
        ("quarantine.json", ".x.part"),
        ("embeddings.zarr/zarr.json",),
    ],
)
def test_a_folder_called_tiles_that_no_run_made_is_refused_and_stays(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / "tiles" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tiles" / name).write_text('{"mine": 1}')
    before = content(tmp_path)
    with pytest.raises(OutputError, match=r"is not of a run of geomap .*choose another --out"):
        open_directory(tmp_path, ASKED)
    with pytest.raises(OutputError, match="not of a run"):
        begun(tmp_path)
    assert content(tmp_path) == before


def test_the_demonstration_removes_no_maps_that_are_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate, "write_archive", lambda *a, **k: pytest.fail("the folder is not looked at first"))
    (tmp_path / "maps/tiles").mkdir(parents=True)
    (tmp_path / "maps/tiles/mine.txt").write_text("x")
    with pytest.raises(OutputError, match="not of a run"):
        run_demo(tmp_path, "cpu", lambda *a: None, lambda e: None)
    assert (tmp_path / "maps/tiles/mine.txt").exists()


@pytest.mark.parametrize("left", [(), ("lock",)])
def test_a_run_that_was_killed_as_it_made_its_folder_goes_on(tmp_path: Path, left: tuple[str, ...]) -> None:
    (tmp_path / "tiles").mkdir()
    for name in left:
        (tmp_path / "tiles" / name).touch()
    begun(tmp_path)
    assert (tmp_path / "tiles/lock").read_bytes() == MARK
    begun(tmp_path)


def test_what_a_user_adds_to_the_state_of_a_run_is_not_removed_with_it(
    archive: Callable[..., Path], untrained: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    begun_again = request_for(archive(dates=4) / "items.json", untrained)
    (out / "tiles").mkdir(parents=True)
    (out / "tiles/lock").write_bytes(MARK)
    for name in ("notes.npz", "other.zarr/x"):
        (out / "tiles" / name).parent.mkdir(exist_ok=True)
        (out / "tiles" / name).write_text("mine")
    map_area(begun_again, out)
    assert sorted(content(out / "tiles")) == ["lock", "notes.npz", "other.zarr/x", "request.json", "run.log"]


# --- links


@pytest.mark.parametrize(
    "name", ["lock", "request.json", "quarantine.json", "t.npz", "maps", "composites.zarr", ".request.json.part"]
)
def test_a_link_in_the_state_is_refused_and_its_target_stays(tmp_path: Path, name: str) -> None:
    begun(tmp_path / "out")
    target = tmp_path / "target"
    if name in ("maps", "composites.zarr"):
        (target / "deep").mkdir(parents=True)
        (target / "deep/file").write_text("mine")
    else:
        target.write_text("mine")
    link = tmp_path / "out/tiles" / name
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    with pytest.raises(OutputError, match="is a link, which no run makes"):
        begun(tmp_path / "out")
    assert (target / "deep/file" if target.is_dir() else target).read_text() == "mine"


def test_the_state_itself_as_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/tiles").symlink_to(tmp_path / "mine")
    with pytest.raises(OutputError, match="is a link"):
        begun(tmp_path / "out")
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("text", ["", "mine"])
def test_a_hard_link_as_the_lock_is_refused_and_not_written(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine").write_text(text)
    (tmp_path / "out/tiles").mkdir(parents=True)
    os.link(tmp_path / "mine", tmp_path / "out/tiles/lock")
    with pytest.raises(OutputError, match=r"not of a run|not the lock file"):
        begun(tmp_path / "out")
    assert (tmp_path / "mine").read_text() == text


def test_maps_are_never_published_through_a_linked_folder(tmp_path: Path) -> None:
    staging, out, mine = tmp_path / "staging", tmp_path / "out", tmp_path / "mine"
    for folder in (staging / "stac/items", out / "stac", mine):
        folder.mkdir(parents=True)
    (staging / "stac/items/a.json").write_text("new")
    (staging / "a.tif").write_text("new")
    (mine / "kept.tif").write_text("mine")
    (out / "stac/items").symlink_to(mine)
    (out / "a.tif").symlink_to(mine / "kept.tif")
    files.write_sums(staging)
    with pytest.raises(OutputError, match=r"stac/items is a link, and the run writes there"):
        files.publish(staging, out)
    (out / "stac/items").unlink()
    files.publish(staging, out)
    assert content(mine) == {"kept.tif": b"mine"}
    assert (out / "a.tif").read_text() == "new"
    assert not (out / "a.tif").is_symlink()  # replaced


def test_what_is_removed_is_the_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "mine/deep").mkdir(parents=True)
    (tmp_path / "mine/deep/file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link").symlink_to(tmp_path / "mine")
    for name in ("link", "folder", "nothing"):
        files.remove(tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]
    assert (tmp_path / "mine/deep/file").exists()


# --- names


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "a/b", "..", "a\\b", "a\n", ""])
def test_names_of_tiles_that_were_read_are_no_paths(tmp_path: Path, name: str) -> None:
    begun(tmp_path)
    path = tmp_path / "tiles/request.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tiles": {name: {"pixels": 1, "fingerprint": "x"}}}))
    with pytest.raises(InputError, match="is damaged or of another version"):
        read_begun(tmp_path)


@pytest.mark.parametrize(
    "tiles",
    [
        {"../../x": [32631, 0, 0, 640, 640]},
        {"/x": [32631, 0, 0, 640, 640]},
        {"x": ["../../y", 0, 0, 640, 640]},
        {"x": [True, 0, 0, 640, 640]},
    ],
)
def test_names_and_zones_in_a_store_are_no_paths(tmp_path: Path, tiles: dict[str, list[object]]) -> None:
    about = {"format": store.FORMAT, "kind": "embeddings", "side": 64, "period": [2023, 1, 12], "about": {}}
    meta = {"zarr_format": 3, "node_type": "group", "attributes": {"geomap": about | {"tiles": tiles}}}
    (tmp_path / "embeddings.zarr").mkdir()
    (tmp_path / "embeddings.zarr/zarr.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match=r"is no tile"):
        store.open_store(tmp_path / "embeddings.zarr")


# --- tokens


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_a_request_with_tokens_is_never_readable_by_others(
    tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while it is written either: its mode is looked at before it has its name, and before it has content."""
    run = open_directory(tmp_path, ASKED)
    modes: list[int] = []
    commit = files.commit

    def look(part: Path, path: Path) -> None:
        modes.append(part.stat().st_mode & 0o777)
        commit(part, path)

    opened = files._private

    def first(name: str, flags: int) -> int:
        fd = opened(name, flags)
        modes.append(os.fstat(fd).st_mode & 0o777)
        assert os.fstat(fd).st_size == 0
        return fd

    monkeypatch.setattr(files, "commit", look)
    monkeypatch.setattr(files, "_private", first)
    with run.lock():
        before = os.umask(umask)
        try:
            run.begin(ASKED, ())
        finally:
            os.umask(before)
    assert modes == [0o600, 0o600]
    assert (tmp_path / "tiles/request.json").stat().st_mode & 0o777 == 0o600


# --- a store that was being made

STOPPED = """
import os, resource, signal, sys
from pathlib import Path
from geomap.run.directory import open_directory
from geomap.store import store
from geomap.types import Grid, Period, Tile

def stop(root):
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    create(root)

create, store._consolidate = store._consolidate, stop
with open_directory(Path(sys.argv[1]), {}).lock():
    tile = Tile("t", Grid(32631, 57 * 640, 100 * 640, 64, 64))
    store.create(Path(sys.argv[1], "tiles", store.COMPOSITES), (tile,), 64, Period(2023, 1), {})
"""


@pytest.mark.parametrize("how", ["killed", "limit"])
def test_a_run_stopped_while_it_makes_an_empty_store_goes_on(
    archive: Callable[..., Path], untrained: str, tmp_path: Path, how: str
) -> None:
    out = tmp_path / "out"
    process = start(STOPPED, out, how)
    process.communicate(timeout=100)
    assert process.returncode == (-signal.SIGKILL if how == "killed" else 1)
    assert (out / "tiles/.composites.zarr.part").is_dir()
    if how == "limit":  # what is left is the same: removing it is enough
        files.clean_temporary(out)
        assert sorted(content(out)) == ["tiles/lock"]
        return
    map_area(request_for(archive(dates=4) / "items.json", untrained, save_composites=True), out)
    assert problems(out) == ()
    assert (out / "composites.zarr/zarr.json").is_file()


def test_a_store_whose_removal_was_stopped_does_not_look_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "composites.zarr"
    (kept / "composite").mkdir(parents=True)
    (kept / "zarr.json").write_text("{}")

    def stopped(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.shutil, "rmtree", stopped)
    with pytest.raises(KeyboardInterrupt):
        files.remove(kept)
    assert not kept.exists()
    monkeypatch.undo()
    files.clean_temporary(tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- the lock


def test_a_lock_is_held_by_one_run_and_a_killed_run_lets_go(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from geomap.run.directory import open_directory\n"
        "with open_directory(Path(sys.argv[1]), {}).lock(): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match="another run is writing"):
            begun(tmp_path)
        other.kill()
    begun(tmp_path)


def test_a_path_of_bytes_that_are_not_utf_8_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"caf\\udce9/out is no path in UTF-8; choose another --out"):
        open_directory(Path(os.fsdecode(b"caf\xe9"), "out"), ASKED)


def test_a_disk_without_locks_is_not_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(fd: int, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(OutputError, match=r"cannot lock files \(No locks available\); choose another --out"):
        begun(tmp_path)
