"""How far the run in a directory is, and whether what it keeps is whole: read from its files alone, at any moment."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from geomap import files
from geomap.errors import InputError
from geomap.run import record
from geomap.run.directory import LOCK_FILE, QUARANTINE_FILE, REQUEST_FILE, RUNNING_FILE
from geomap.run.tile_file import DAMAGED, intact, read_about


@dataclass(frozen=True, slots=True)
class Status:
    """A run as its directory shows it."""

    directory: str
    state: Literal["running", "stopped", "finished"]  # running: a process holds the directory
    tiles: int
    done: int
    running: tuple[str, ...]  # tiles in hand
    failed: Mapping[str, str]  # tiles that failed once, to be tried again -> cause
    quarantined: Mapping[str, str]  # tiles that failed twice -> cause
    pending: int  # none of these
    seconds_left: float | None  # at the pace of this run, or of the last one; None: no tile finished yet
    scenes: int
    bytes: int  # on disk


def status(directory: Path) -> Status:
    """How far a run is. Raises InputError where there is none."""
    content = _content(directory)
    tiles: Mapping[str, Any] = content["tiles"]
    home = directory / files.STATE
    quarantined = {name: q["cause"] for name, q in _json(home / QUARANTINE_FILE).items() if name in tiles}
    held = _held(home / LOCK_FILE)
    if content["finished"] and (directory / files.SUMS).is_file() and not held:
        left = len(tiles) - len(quarantined)
        scenes = len(_json(directory / record.FILE).get("scenes", []))
        size = _size(directory)
        return Status(str(directory), "finished", len(tiles), left, (), {}, quarantined, 0, 0.0, scenes, size)
    now = _json(home / RUNNING_FILE)
    done = {name for name, tile in tiles.items() if _print(home / f"{name}.npz") == tile["fingerprint"]}
    in_hand = tuple(name for name in now.get("running", {}) if held and name not in done)
    failed = {name: cause for name, cause in now.get("failed", {}).items() if held and name not in quarantined}
    rest = tiles.keys() - done - quarantined.keys()
    return Status(
        directory=str(directory),
        state="running" if held else "stopped",
        tiles=len(tiles),
        done=len(done),
        running=in_hand,
        failed=failed,
        quarantined=quarantined,
        pending=len(rest - set(in_hand) - failed.keys()),
        seconds_left=_seconds_left(home, tiles, done, rest, now.get("started"), held),
        scenes=len(content["scenes"]),
        bytes=_size(directory),
    )


def problems(directory: Path) -> tuple[str, ...]:
    """Compare what a run has written with what it wrote down: a line for each difference, with what to do.

    Maps and what lies beside them by SHA256SUMS, kept tiles by their own checksums. Raises InputError: no run there.
    """
    content = _content(directory)
    found = [f"{line}; {_remedy(line)}" for line in files.verify(directory)]
    for name, tile in content["tiles"].items():
        path = directory / files.STATE / f"{name}.npz"
        if not path.is_file():
            continue
        if not intact(path):
            found.append(f"tile {name}: {path.name} is changed or cut; the run's command makes this tile again")
        elif _print(path) != tile["fingerprint"]:
            found.append(f"tile {name}: of other scenes or settings; the run's command makes this tile again")
    return tuple(found)


def _remedy(line: str) -> str:
    """What to do about a line of files.verify."""
    if line.startswith(f"{files.SUMS}:"):
        return "type the run's command again: it goes on from the tiles that are done"
    if line.partition(":")[0].endswith(".tif") and "not listed" not in line:
        return "type the run's command again: it makes the maps again, from kept tiles where there are any"
    return f"if that was not you, remove {files.SUMS} and type the run's command again"


def _content(directory: Path) -> dict[str, Any]:
    """What request.json says of a run. Raises InputError."""
    path = directory / files.STATE / REQUEST_FILE
    try:
        content = json.loads(path.read_bytes())
        return {key: content[key] for key in ("tiles", "finished", "scenes")}
    except OSError:
        raise InputError(f"{directory} holds no run of geomap; type the directory given to --out") from None
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(f"{path} is damaged or of another version of geomap; map into another --out") from e


def _json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is none yet."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_bytes())
        if isinstance(content, dict):
            return content
    return {}


def _held(lock: Path) -> bool:
    """Whether a run holds the directory. Holds it for a moment itself, for which runs wait."""
    try:
        with lock.open() as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _print(path: Path) -> str | None:
    """The fingerprint in a tile's file; None where there is no whole file."""
    try:
        return read_about(path).fingerprint
    except DAMAGED:
        return None


def _seconds_left(
    home: Path, tiles: Mapping[str, Any], done: set[str], rest: set[str], started: float | None, held: bool
) -> float | None:
    """Pixels that are left, over those that the run finished in each second since it started."""
    ends = {name: end for name in done if started and (end := _modified(home / f"{name}.npz")) >= started}
    if not rest:
        return 0.0
    if not ends or started is None:
        return None
    end = time.time() if held else max(ends.values())
    pace = sum(int(tiles[name]["pixels"]) for name in ends) / max(end - started, 1e-3)  # pixels per second
    return sum(int(tiles[name]["pixels"]) for name in rest) / pace


def _modified(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _size(directory: Path) -> int:
    return sum(_sizes(directory))


def _sizes(directory: Path) -> Iterator[int]:
    for path in directory.rglob("*"):
        with suppress(OSError):  # gone since
            if path.is_file():
                yield path.stat().st_size
