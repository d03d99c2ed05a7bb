"""The progress of a run and the state of its files, read from its directory at any moment."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from geomap import files
from geomap.run.check import Checked, check
from geomap.run.directory import (
    Listed,
    held,
    read_begun,
    read_quarantine,
    read_running,
)
from geomap.run.record import read_record
from geomap.run.tile_file import DAMAGED, intact, read_about


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a run, read from its directory."""

    directory: str
    state: Literal["running", "stopped", "finished"]  # running: a process holds the directory
    tiles: int
    done: int
    running: tuple[str, ...]  # tiles being made
    failed: Mapping[str, str]  # tiles that failed once and will be retried -> cause
    quarantined: Mapping[str, str]  # tiles that failed twice -> cause
    pending: int  # all other tiles
    seconds_left: float | None  # at the speed of this run, or of the last one; None: no tile finished yet
    scenes: int
    bytes: int  # on disk


def status(directory: Path) -> Status:
    """The progress of a run. Raises InputError if there is none."""
    if _copied(directory):
        return _finished(directory, read_record(directory).quarantined)
    begun = read_begun(directory)
    tiles, busy = begun.tiles, held(directory)
    quarantined = {name: q.cause for name, q in read_quarantine(directory).items() if name in tiles}
    if begun.finished and (directory / files.SUMS).is_file() and not busy:
        return _finished(directory, quarantined)
    now = read_running(directory)
    home = directory / files.STATE
    done = {name for name, tile in tiles.items() if _print(home / f"{name}.npz") == tile.fingerprint}
    in_hand = tuple(name for name in now.running if busy and name not in done)
    failed = {name: cause for name, cause in now.failed.items() if busy and name not in quarantined}
    rest = tiles.keys() - done - quarantined.keys()
    return Status(
        directory=str(directory),
        state="running" if busy else "stopped",
        tiles=len(tiles),
        done=len(done),
        running=in_hand,
        failed=failed,
        quarantined=quarantined,
        pending=len(rest - set(in_hand) - failed.keys()),
        seconds_left=_seconds_left(home, tiles, done, rest, now.started, busy),
        scenes=len(begun.scenes),
        bytes=_size(directory),
    )


def verified(directory: Path) -> Checked:
    """Compare a run's files with their checksums: one line for each difference, with what to do about it.

    Maps and the files beside them are checked against SHA256SUMS, kept tiles against their own checksums. Raises
    InputError if there is no run.
    """
    if _copied(directory):
        return check(directory)
    begun, checked = read_begun(directory), check(directory)
    found = list(checked.problems)
    for name, tile in begun.tiles.items():
        path = directory / files.STATE / f"{name}.npz"
        if not path.is_file():
            continue
        if not intact(path):
            found.append(f"tile {name}: {path.name} is changed or cut; type the run's command again to remake it")
        elif _print(path) != tile.fingerprint:
            found.append(f"tile {name}: made from other scenes or settings; type the run's command again to remake it")
    return Checked(tuple(found), checked.side)


def _finished(directory: Path, quarantined: Mapping[str, str]) -> Status:
    """The state of a finished run."""
    record, size = read_record(directory), _size(directory)
    tiles = len(record.tiles)
    made = tiles - len(quarantined)
    return Status(str(directory), "finished", tiles, made, (), {}, quarantined, 0, 0.0, len(record.scenes), size)


def _copied(directory: Path) -> bool:
    """Whether a directory holds a finished run without its state, which is no part of the result: a copy."""
    return not (directory / files.STATE).exists() and (directory / files.SUMS).is_file()


def _print(path: Path) -> str | None:
    """The fingerprint in a tile's file; None if the file is missing or incomplete."""
    try:
        return read_about(path).fingerprint
    except DAMAGED:
        return None


def _seconds_left(
    home: Path, tiles: Mapping[str, Listed], done: set[str], rest: set[str], started: float | None, held: bool
) -> float | None:
    """Remaining pixels divided by the pixels that the run finished per second since it started."""
    ends = {name: end for name in done if started and (end := _modified(home / f"{name}.npz")) >= started}
    if not rest:
        return 0.0
    if not ends or started is None:
        return None
    end = time.time() if held else max(ends.values())
    pace = sum(tiles[name].pixels for name in ends) / max(end - started, 1e-3)  # pixels per second
    return sum(tiles[name].pixels for name in rest) / pace


def _modified(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _size(directory: Path) -> int:
    return sum(_sizes(directory))


def _sizes(directory: Path) -> Iterator[int]:
    for path in directory.rglob("*"):
        with suppress(OSError):  # deleted meanwhile
            if path.is_file():
                yield path.stat().st_size
