"""Atomic files, checksums and the errors of a full or read-only disk, on real file systems."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from geomap import files
from geomap.catalog import stac
from geomap.encode import card
from geomap.errors import BusyError, DiskFullError, InputError, OutputError, ReadError, WeightsError
from geomap.store import store


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 200 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def finished_run(out: Path) -> Path:
    files.write_bytes(out / "landcover.tif", b"not really a map" * 100)
    files.write_bytes(out / "landcover.qml", b"<qgis/>\n")
    files.write_json(out / "stac" / "collection.json", {"id": "x"})
    files.write_bytes(out / "tiles" / "state.bin", b"1")
    (out / ".landcover.tif.part").write_bytes(b"left over")
    files.write_sums(out)
    return out


def test_json_bytes_depend_on_the_value_alone(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": {"é": None}})
    files.write_json(tmp_path / "b.json", {"a": {"é": None}, "b": [1, 2.5]})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")
    assert "é" in (tmp_path / "a.json").read_text("utf-8")
    files.write_json(tmp_path / "c.json", {"name": "\udcff.tif"})  # how Python shows a file name that is not UTF-8
    assert json.loads((tmp_path / "c.json").read_bytes()) == {"name": "\udcff.tif"}
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "d.json", {"metric": float("nan")})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json", "c.json"]


def test_replacing_a_file_never_follows_a_planted_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    out = tmp_path / "out"
    out.mkdir()
    files.temporary(out / "run.json").symlink_to(victim)
    files.write_bytes(out / "run.json", b"{}")
    assert victim.read_bytes() == b"precious"
    assert (out / "run.json").read_bytes() == b"{}"
    assert not (out / "run.json").is_symlink()


def test_full_disk_keeps_the_old_file_and_says_what_to_do(small_disk: Path) -> None:
    files.write_bytes(small_disk / "run.json", b"old")
    with pytest.raises(DiskFullError, match=r"no space left in .*disk .*300\.0 kB needed.*free space and run the same"):
        files.write_bytes(small_disk / "run.json", bytes(300_000))
    assert (small_disk / "run.json").read_bytes() == b"old"
    assert os.listdir(small_disk) == ["run.json"]
    files.write_bytes(small_disk / "run.json", bytes(100_000))
    assert (small_disk / "run.json").stat().st_size == 100_000


def test_probe_tells_full_from_sound(small_disk: Path, tmp_path: Path) -> None:
    with pytest.raises(DiskFullError):
        files.probe(small_disk, 0)
    assert os.listdir(small_disk) == []
    files.probe(tmp_path, 1000)
    with pytest.raises(DiskFullError):
        files.probe(tmp_path, 10**18)


def test_read_only_disk(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OutputError, match=r"cannot write to .*Read-only file system; .*another output directory"):
        files.write_bytes(small_disk / "run.json", b"{}")
    with pytest.raises(OutputError, match="Read-only"):
        files.probe(small_disk, 0)


def test_output_directory_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to"):
        files.write_bytes(tmp_path / "file" / "run.json", b"{}")


def test_require_space_looks_at_the_disk_of_a_directory_to_come(small_disk: Path) -> None:
    files.require_space(small_disk / "not" / "yet", 150_000)
    with pytest.raises(DiskFullError, match=r"204\.8 kB free"):
        files.require_space(small_disk / "not" / "yet", 250_000)


def test_clean_temporary_removes_only_temporary_files(tmp_path: Path) -> None:
    left = [".a.tif.part", ".a.tif.tiles.part", ".a.tif.part.ovr.tmp", "tiles/.t1.npz.part", "stac/.i.json.part"]
    kept = ["a.tif", "a.part", ".hidden", ".lock", "tiles/t1.npz"]
    for name in left + kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    files.clean_temporary(tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)


def test_one_run_at_a_time_holds_a_folder_which_goes_when_it_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "a.h5"
    parts = files.parts(out)
    lock = files.lock

    def late(fd: int, of: Path, doing: str) -> None:
        """Lock a file that another run has removed since it was opened."""
        monkeypatch.setattr(files, "lock", lock)
        shutil.rmtree(parts)
        lock(fd, of, doing)

    monkeypatch.setattr(files, "lock", late)
    with files.hold(parts, out, "writing"):
        assert [p.name for p in parts.iterdir()] == [files.LOCK_FILE]
        with pytest.raises(BusyError, match=r"another run is writing .*a\.h5"), files.hold(parts, out, "writing"):
            pass
    assert not parts.exists()
    with files.hold(parts, out, "writing"):
        (parts / "kept").touch()
    with files.hold(parts, out, "writing"):
        assert (parts / "kept").exists()
    nowhere = tmp_path / "nowhere"
    nowhere.symlink_to(tmp_path / "gone")
    with pytest.raises(OutputError, match="cannot write to"), files.hold(nowhere, out, "writing"):
        pass


def test_sums_are_those_of_sha256sum(tmp_path: Path) -> None:
    out = finished_run(tmp_path / "out")
    lines = (out / "SHA256SUMS").read_text().splitlines()
    assert [line[66:] for line in lines] == ["landcover.qml", "landcover.tif", "stac/collection.json"]
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=out, check=True, capture_output=True)
    before = (out / "SHA256SUMS").read_bytes()
    files.write_sums(out)
    assert (out / "SHA256SUMS").read_bytes() == before


def wrong(out: Path) -> list[str]:
    return [line for name, digest in files.sums(out).items() for line in files.problem(out, name, digest)]


def test_each_listed_file_that_is_not_as_listed_is_named(tmp_path: Path) -> None:
    out = finished_run(tmp_path / "out")
    assert wrong(out) == []
    data = bytearray((out / "landcover.tif").read_bytes())
    data[700] ^= 1
    (out / "landcover.tif").write_bytes(data)
    (out / "landcover.qml").unlink()
    (out / "notes.txt").write_text("the user's own")
    assert wrong(out) == ["landcover.qml: missing", "landcover.tif: changed"]
    (out / "SHA256SUMS").write_bytes(b"deadbeef  x.tif\n\xff\xfe\n")
    assert wrong(out) == [f"SHA256SUMS: line {n} is not a sha256 and a name" for n in (1, 2)]


def staged(out: Path, *names: str) -> Path:
    """A complete run in the staging directory: each file holds its own name."""
    staging = out / "tiles/maps"
    for name in names:
        files.write_bytes(staging / name, name.encode())
    files.write_sums(staging)
    return staging


def published(out: Path) -> list[str]:
    """Files and folders outside the state."""
    return sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.relative_to(out).parts[0] != files.STATE)


def test_files_that_are_gone_go_with_their_empty_folders(tmp_path: Path) -> None:
    files.publish(staged(tmp_path, "a.tif", "b.tif", "c.zarr/x/c/0", "stac/item.json"), tmp_path)
    (tmp_path / "stac/mine.txt").write_text("the user's own")
    files.publish(staged(tmp_path, "a.tif"), tmp_path)
    assert published(tmp_path) == ["SHA256SUMS", "a.tif", "stac", "stac/mine.txt"]
    assert wrong(tmp_path) == []
    assert not (tmp_path / files.BEFORE).exists()


@pytest.mark.parametrize("last", [("a.tif", "c.tif"), ("a.tif", "d.tif")], ids=["resumed", "another"])
@pytest.mark.parametrize("moment", ["b.tif goes", "a.tif comes", "c.tif comes", "SHA256SUMS comes"])
def test_what_a_publication_was_stopped_in_leaves_nothing_of_an_earlier_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, last: tuple[str, ...]
) -> None:
    files.publish(staged(tmp_path, "a.tif", "b.tif"), tmp_path)
    staging, (name, what) = staged(tmp_path, "a.tif", "c.tif"), moment.split()
    remove, replace = Path.unlink, os.replace

    def stopped_removal(path: Path, missing_ok: bool = False) -> None:
        if what == "goes" and path.name == name:
            raise KeyboardInterrupt
        remove(path, missing_ok)

    def stopped_move(source: Path, target: Path) -> None:
        if what == "comes" and source == staging / name:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stopped_removal)
        patch.setattr(os, "replace", stopped_move)
        with pytest.raises(KeyboardInterrupt):
            files.publish(staging, tmp_path)
    assert not (tmp_path / "SHA256SUMS").exists()
    files.remove(staging)
    files.publish(staged(tmp_path, *last), tmp_path)
    assert published(tmp_path) == ["SHA256SUMS", *last]
    assert wrong(tmp_path) == []


def test_a_run_that_is_made_unfinished_still_tells_which_files_it_has(tmp_path: Path) -> None:
    files.publish(staged(tmp_path, "a.tif", "b.tif"), tmp_path)
    files.unmark(tmp_path)
    files.publish(staged(tmp_path, "a.tif"), tmp_path)
    assert published(tmp_path) == ["SHA256SUMS", "a.tif"]


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "link", "stac/../../secret"])
def test_a_list_cannot_lead_outside(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    (out / "stac").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"s")
    (out / "link").symlink_to(tmp_path / "secret")
    (out / "SHA256SUMS").write_text(f"{files.sha256(tmp_path / 'secret')}  {name}\n")
    assert wrong(out) == [f"{name}: outside the directory, not read"]


def test_links_out_of_the_directory_are_not_part_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "a.tif").symlink_to("/etc/hostname")
    with pytest.raises(OutputError, match=r"a\.tif"):
        files.write_sums(tmp_path)
    assert not (tmp_path / "SHA256SUMS").exists()


@pytest.mark.parametrize("text", ["[" * 65 + "]" * 65, "[" * 300_000, '{"a":' * 65 + "1" + "}" * 65, '{"a":' * 100_000])
def test_json_is_bounded_in_depth(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="more than 64 levels"):
        files.parse_json(text)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="more than"):
        files.read_json(tmp_path / "a.json", 10**6)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        files.read_json(tmp_path / "a.json", 100)


def test_json_within_its_limits_is_what_it_was(tmp_path: Path) -> None:
    value = {"a": [1, -2.5, None, True, "[[[{"], "é": {"b": 10**300}}
    (tmp_path / "a.json").write_bytes(json.dumps(value).encode("utf-8-sig"))
    assert files.read_json(tmp_path / "a.json", 1000) == files.parse_json(json.dumps(value)) == value
    assert files.parse_json("[" * 64 + "]" * 64) == json.loads("[" * 64 + "]" * 64)


def test_a_number_of_many_digits_does_not_spoil_the_rest() -> None:
    long = "9" * 5_000
    assert files.parse_json(f"[{long}, -{long}, 1]") == [float("inf"), float("-inf"), 1]


def test_metadata_have_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for where, name in ((card, "MOST_BYTES"), (store, "MOST_METADATA"), (stac, "MAX_FILE")):
        monkeypatch.setattr(where, name, 1000)
    for name in ("card.json", "zarr.json", "items.json"):
        (tmp_path / name).write_bytes(b" " * 2000 + b"{}")
    with pytest.raises(WeightsError, match=r"card\.json has over 0 MB, which is no card of weights"):
        card.read_card(tmp_path)
    with pytest.raises(InputError, match=r"is damaged or no store of geomap \(ValueError: zarr\.json has over 0 MB"):
        store.open_store(tmp_path)
    with pytest.raises(InputError, match=r"items\.json is not JSON \(more than 1\.0 kB\)"):
        stac.read_items(tmp_path / "items.json")


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5_000, "[]", "null", "{}", ""])
def test_a_store_whose_metadata_are_none_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "zarr.json").write_text(text)
    with pytest.raises(ReadError, match="is damaged"):
        store.name_missing(tmp_path, ["a"])
