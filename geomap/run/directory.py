"""The files of a run that let it stop at any moment and resume: `tiles/` in the output directory.

`request.json` holds the request and the scenes that were found, so that a resumed run uses the same scenes.
`<tile>.npz` holds the finished layers of one tile and the fingerprint of its inputs; it gets this name only once it is
complete. `<kind>.zarr` are the stores of composites and embeddings. `quarantine.json` names the tiles that failed
twice. `running.json` is for `geomap status`. `SHA256SUMS.before` lists the files of a finished run while others take
their place (files.publish). One run at a time holds the lock.

The first line of `lock` says that a run made the directory: a folder called `tiles` without it, and without a request,
is somebody else's. A run makes no links, so a directory that holds one is refused.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import StringConstraints, TypeAdapter

from geomap import files
from geomap.errors import InputError, OutputError, ReadError
from geomap.run.tile_file import (
    DAMAGED,
    About,
    Finished,
    Task,
    encode,
    pack,
    read_about,
    read_layer,
    read_layers,
    whole,
)
from geomap.text import shown
from geomap.types import TILE_NAME, Layers, LeftOut, Scene, Searched, Tile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geomap.store.store import Store

log = logging.getLogger(__name__)

REQUEST_FILE: Final = "request.json"
QUARANTINE_FILE: Final = "quarantine.json"
RUNNING_FILE: Final = "running.json"
LOCK_FILE: Final = "lock"

NOT_STORED: Final = "not in the store"
"""Why a tile of maps from a store is left out: the run of the store could not make it."""

SOURCE: Final = frozenset({"stac"})
"""Request keys that may differ when quarantined tiles are retried: the item file may have been corrected."""

MARK: Final = b"state of a run of geomap\n"
"""What the lock file says."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A tile as request.json lists it."""

    pixels: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Begun:
    """request.json: a run that has started."""

    request: dict[str, Any]  # identity.identity_of
    tiles: dict[Annotated[str, StringConstraints(pattern=rf"^{TILE_NAME.pattern}$")], Listed]  # by name
    scenes: tuple[Scene, ...] = ()  # with their addresses, until the run is finished
    left_out: tuple[LeftOut, ...] = ()
    finished: bool = False
    searched: Searched = field(default_factory=Searched)


@dataclass(frozen=True, slots=True)
class Running:
    """running.json: what a run is doing, or was doing when it died."""

    started: float | None = None  # seconds since 1970
    running: dict[str, float] = field(default_factory=dict)  # tile name -> start time
    failed: dict[str, str] = field(default_factory=dict)  # tile name -> cause; to be retried


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A tile that is left out because it failed twice, or is NOT_STORED."""

    cause: str  # kind of error and its message, one line, without tokens
    fingerprint: str  # of the tile that failed; with another fingerprint the tile is tried

    @property
    def kind(self) -> str:
        """The kind of error alone, such as ReadError."""
        return self.cause.partition(":")[0]


_begun: Final = TypeAdapter(Begun)
_running: Final = TypeAdapter(Running)
_quarantine: Final = TypeAdapter(dict[str, Quarantined])


def read_begun(directory: Path) -> Begun:
    """The run in a directory, finished or not. Raises InputError if there is none."""
    path = directory / files.STATE / REQUEST_FILE
    try:
        return _begun.validate_json(path.read_bytes())
    except OSError:
        raise InputError(f"{directory} holds no run of geomap; type the directory given to --out") from None
    except ValueError as e:
        raise InputError(f"{path} is damaged or of another version of geomap; map into another --out") from e


def read_running(directory: Path) -> Running:
    """What the run in a directory is doing; empty if that is not known."""
    try:
        return _running.validate_json((directory / files.STATE / RUNNING_FILE).read_bytes())
    except (OSError, ValueError):
        return Running()


def write_running(directory: Path, now: Running) -> None:
    """Write what a run is doing. Raises DiskFullError, OutputError."""
    files.write_json(directory / files.STATE / RUNNING_FILE, _running.dump_python(now, mode="json"))


def read_quarantine(directory: Path) -> dict[str, Quarantined]:
    """Tiles that failed twice, by name. Raises OutputError."""
    path = directory / files.STATE / QUARANTINE_FILE
    try:
        return _quarantine.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        raise OutputError(f"{path} is damaged; remove it to retry the tiles that it named") from e


def held(directory: Path) -> bool:
    """Whether a run holds the directory. The check itself holds the lock for a moment; a starting run waits for it.

    The file is opened for reading alone, which must be enough to see a run's progress.
    """
    try:
        with (directory / files.STATE / LOCK_FILE).open() as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:  # a disk without locks, or a loop of links
        return False
    return False


@contextmanager
def holding(directory: Path) -> Iterator[None]:
    """Hold a finished run's directory while files are added to it: its lock, or, where it has none, the folder.

    Raises BusyError if a run, or another one that adds files, holds it; OutputError.
    """
    lock = directory / files.STATE / LOCK_FILE
    with files.disk_errors(directory):
        fd = os.open(lock if lock.is_file() else directory, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        files.lock(fd, directory, "writing")
        yield
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The directory of a run: what is known about the run, and the tiles that it keeps."""

    path: Path
    scenes: tuple[Scene, ...] | None  # of an unfinished run of this request; None: search
    left_out: tuple[LeftOut, ...] = ()
    finished: bool = False  # of this request
    stores: tuple[Store, ...] = ()  # stores that tiles are also written to
    searched: Searched = field(default_factory=Searched)

    @property
    def home(self) -> Path:
        """The state directory."""
        return self.path / files.STATE

    @property
    def complete(self) -> bool:
        """Whether the run has finished and its maps are published: their checksums are written last."""
        return self.finished and (self.path / files.SUMS).is_file()

    def begin(
        self,
        request: Mapping[str, Any],
        scenes: Sequence[Scene],
        left_out: Sequence[LeftOut] = (),
        tasks: Sequence[Task] = (),
        searched: Searched = Searched(),  # noqa: B008
    ) -> RunDirectory:
        """Write the request, its tiles and the scenes found. Raises DiskFullError, OutputError."""
        begun = Begun(dict(request), _listed(tasks), tuple(scenes), tuple(left_out), searched=searched)
        self._write(begun, private=True)  # addresses may contain tokens, until `finish` removes them
        return replace(self, scenes=tuple(scenes), left_out=tuple(left_out), finished=False, searched=searched)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the directory. Raises BusyError if another run holds it, OutputError if it is not of a run."""
        with files.disk_errors(self.path):
            _require_own(self.home)
            self.home.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.home / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            files.lock(fd, self.path, "writing")
            with files.disk_errors(self.path):
                _mark(fd, self.home / LOCK_FILE)
            yield
        finally:
            os.close(fd)  # releases the lock

    def save(self, task: Task, finished: Finished) -> None:
        """Keep a tile; its own file, which makes it count, is written last. Raises DiskFullError, OutputError."""
        for store in self.stores:
            store.write(task.tile, finished.kept[store.kind])
        about = replace(finished.about, stored={store.kind: store.digests(task.tile) for store in self.stores})
        files.write_bytes(self._file(task.tile), encode(finished.layers, about))

    def has(self, task: Task, stems: Sequence[str]) -> bool:
        """Whether the tile is finished with this fingerprint, readable, and in every store as it was written."""
        try:
            about = self.about(task.tile)
            same = about.fingerprint == task.fingerprint and all(store.has(task.tile) for store in self.stores)
            return (
                same
                and whole(self._file(task.tile), task.tile.grid.shape, stems)
                and all(store.digests(task.tile) == about.stored.get(store.kind) for store in self.stores)
            )
        except (*DAMAGED, ReadError):
            return False

    def load(self, tile: Tile, stem: str) -> NDArray[Any]:
        """One layer of a finished tile."""
        return read_layer(self._file(tile), stem)

    def load_all(self, tile: Tile, prefix: str) -> dict[str, NDArray[Any]]:
        """The layers of a finished tile whose stems begin so, by stem."""
        return read_layers(self._file(tile), prefix)

    def mend(self, tile: Tile, layers: Layers) -> None:
        """Write other layers for a finished tile. Raises DiskFullError, OutputError."""
        files.write_bytes(self._file(tile), encode(pack(layers), self.about(tile)))

    def about(self, tile: Tile) -> About:
        """What is known about a finished tile besides its layers."""
        return read_about(self._file(tile))

    def sieved(self) -> Path:
        """Where class maps lie whose small patches are merged, until they are published."""
        return self.home / "sieved"

    def staging(self) -> Path:
        """An empty directory in which the maps are made."""
        path = self.home / "maps"
        with files.disk_errors(self.path):
            files.remove(path)
            path.mkdir()
        return path

    def quarantined(self) -> dict[str, Quarantined]:
        """Tiles that failed twice, by name. Raises OutputError."""
        return read_quarantine(self.path)

    def quarantine(self, tiles: Mapping[str, Quarantined]) -> None:
        """Write which tiles failed twice. Raises DiskFullError, OutputError."""
        path = self.home / QUARANTINE_FILE
        if tiles:
            files.write_json(path, _quarantine.dump_python(dict(tiles), mode="json"))
        else:
            path.unlink(missing_ok=True)

    def finish(self, request: Mapping[str, Any], tasks: Sequence[Task] = (), keep: bool = False) -> None:
        """Remove what a finished run no longer needs: the scenes' addresses, and the tiles unless `keep` is set."""
        from geomap.store.store import COMPOSITES, EMBEDDINGS  # loads zarr

        tiles = (
            () if keep else (*(self._file(task.tile) for task in tasks), self.home / COMPOSITES, self.home / EMBEDDINGS)
        )
        with files.disk_errors(self.path):
            for path in (*tiles, self.home / RUNNING_FILE, self.home / "maps", self.sieved()):
                files.remove(path)
        self._write(Begun(dict(request), _listed(tasks), finished=True))

    def _write(self, begun: Begun, private: bool = False) -> None:
        files.write_json(self.home / REQUEST_FILE, _begun.dump_python(begun, mode="json"), private)

    def _file(self, tile: Tile) -> Path:
        return self.home / f"{tile.name}.npz"


def open_directory(
    directory: Path, request: Mapping[str, Any], renews: Callable[[str, Begun], bool] = lambda key, before: False
) -> RunDirectory:
    """The run of `request` in a directory: new, unfinished or complete. Nothing is written.

    A run that stopped before its first tile counts as new: it searches again, whatever its request was. If the request
    differs from the previous one only in keys of which `renews` (key, that run) is true, the run
    searches again and its tiles are checked.

    Raises:
        OutputError: the directory holds the run of another request or unrelated files, cannot be read, or has a path of
            bytes that are not UTF-8, where GDAL cannot write.
    """
    try:
        str(directory.absolute()).encode()
    except UnicodeEncodeError:
        raise OutputError(f"{shown(directory)} is no path in UTF-8; choose another --out") from None
    if not require_run(directory):
        return RunDirectory(directory, None)
    try:
        before = read_begun(directory)
    except InputError as e:
        path = directory / files.STATE / REQUEST_FILE
        raise OutputError(f"{path} is damaged; remove {directory} or choose another --out") from e
    differs = differing(before.request, request)
    if not all(renews(key, before) for key in differs):
        again = (
            "type --retry-quarantined to make its missing tiles from these items, or " if {*differs} <= SOURCE else ""
        )
        raise OutputError(
            f"{directory} holds a run of another request (differs in: {', '.join(differs)}); "
            f"{again if read_quarantine(directory) else ''}choose another --out"
        )
    if before.finished or differs:
        return RunDirectory(directory, None, finished=before.finished and not differs)
    return RunDirectory(directory, before.scenes, before.left_out, searched=before.searched)


def differing(before: Mapping[str, Any], request: Mapping[str, Any]) -> list[str]:
    """The keys in which a request differs from that of request.json, sorted."""
    now = json.loads(json.dumps(request))
    return sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))


def require_run(directory: Path) -> bool:
    """Whether a directory holds a run with a finished tile or maps.

    Raises OutputError if the directory holds unrelated files or links, or cannot be read.
    """
    path = directory / files.STATE / REQUEST_FILE
    try:
        _require_own(directory / files.STATE)
        left = [p.name for p in directory.iterdir() if p.name != files.STATE] if directory.exists() else []
        begun = path.is_file() and bool(left or any(path.parent.glob("*.npz")))
    except OSError as e:
        raise OutputError(f"cannot use {directory}: {e.strerror}; choose another --out") from e
    if left and not path.is_file():
        raise OutputError(f"{directory} holds other files, such as {left[0]}; choose another --out")
    return begun


def _listed(tasks: Sequence[Task]) -> dict[str, Listed]:
    """Tiles as request.json lists them, for readers that do not have the request."""
    return {task.tile.name: Listed(task.pixels, task.fingerprint) for task in tasks}


def _require_own(home: Path) -> None:
    """Raise OutputError if a state directory is not of a run, or holds a link. One that is not there is no fault."""
    if home.is_symlink():
        raise OutputError(f"{home} is a link, which no run makes; remove it or choose another --out")
    if not home.exists():
        return
    names = sorted(p.name for p in home.iterdir())
    for path in files.links(home):
        raise OutputError(f"{path} is a link, which no run makes; remove it or choose another --out")
    if names and not _own(home, names):
        other = next((name for name in names if name != LOCK_FILE), LOCK_FILE)
        raise OutputError(f"{home} is not of a run of geomap (it holds {other}); move it or choose another --out")


def _own(home: Path, names: Sequence[str]) -> bool:
    """Whether a run made a directory: its lock file says so, or its request does, or it stopped before either."""
    lock, request = home / LOCK_FILE, home / REQUEST_FILE
    if lock.is_file():
        with lock.open("rb") as f:
            start = f.read(len(MARK))
        if start == MARK or (not start and len(names) == 1):
            return True
    try:
        return request.is_file() and bool(_begun.validate_json(request.read_bytes()))
    except ValueError:
        return False


def _mark(fd: int, path: Path) -> None:
    """Write into a new lock file what it is. Nothing is ever written over. Raises OutputError, OSError."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise OutputError(f"{path} is not the lock file of a run; remove it or choose another --out")
    if not found.st_size:
        os.write(fd, MARK)
