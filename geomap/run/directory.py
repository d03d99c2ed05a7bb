"""What a run keeps on disk so that it can stop at any moment and go on: `tiles/` in the output directory.

`request.json` holds what was asked for and the scenes that were found, so that a resumed run sees the same scenes;
`<tile>.npz` holds the finished layers of one tile and the fingerprint of what they were made from, and bears its name
only once it is whole; `<kind>.zarr` are the stores of composites and embeddings; `quarantine.json` names the tiles that
failed twice; `running.json` is for `geomap status`. One run at a time holds the lock.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import logging
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from geomap import files
from geomap.errors import BusyError, OutputError
from geomap.run.tile_file import DAMAGED, About, Finished, encode, read_about, read_layer, whole
from geomap.store.store import Store
from geomap.types import LeftOut, Scene, SceneAsset, Tile

log = logging.getLogger(__name__)

REQUEST_FILE = "request.json"
QUARANTINE_FILE = "quarantine.json"
RUNNING_FILE = "running.json"
LOCK_FILE = "lock"

LOOKS, LOOK_S = 5, 0.05
"""Times that a lock is asked for, and seconds between them: `geomap status` holds it for a moment."""


@dataclasses.dataclass(frozen=True, slots=True)
class Quarantined:
    """A tile that is left out because it failed twice."""

    cause: str  # kind of error and its message, one line, without tokens
    fingerprint: str  # of the tile that failed; another one is tried

    @property
    def kind(self) -> str:
        """The kind of error alone, such as ReadError."""
        return self.cause.partition(":")[0]


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """The state of a run in `directory`."""

    directory: Path
    scenes: tuple[Scene, ...] | None  # of an unfinished run of this request; None: search
    left_out: tuple[LeftOut, ...] = ()
    finished: bool = False  # of this request, or of one that `renew` takes for it
    stores: tuple[Store, ...] = ()  # that tiles are kept in too

    @property
    def home(self) -> Path:
        return self.directory / files.STATE

    @property
    def complete(self) -> bool:
        """Whether the run has finished and its maps are in place: their checksums are written last."""
        return self.finished and (self.directory / files.SUMS).is_file()

    def begin(
        self,
        request: Mapping[str, Any],
        scenes: Sequence[Scene],
        left_out: Sequence[LeftOut] = (),
        tiles: Sequence[Tile] = (),
        prints: Mapping[str, str] | None = None,
    ) -> State:
        """Write down the request, its tiles and what was found for it. Raises DiskFullError, OutputError."""
        path = self.home / REQUEST_FILE
        content = {
            "request": request,
            "scenes": [scene_to_json(s) for s in scenes],
            "left_out": [dataclasses.asdict(item) for item in left_out],
            "tiles": _described(tiles, prints or {}),
            "finished": False,
        }
        files.write_json(path, content)
        path.chmod(0o600)  # addresses of a catalogue's own may carry tokens, until `finish` drops them
        return State(self.directory, tuple(scenes), tuple(left_out), stores=self.stores)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory; BusyError where another run holds it."""
        with files.disk_errors(self.directory):
            self.home.mkdir(parents=True, exist_ok=True)
            f = (self.home / LOCK_FILE).open("w")
        with f:
            for left in reversed(range(LOOKS)):
                try:
                    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as e:
                    if not left:
                        message = f"another run is writing {self.directory}; wait for it or choose another --out"
                        raise BusyError(message) from e
                    time.sleep(LOOK_S)
            yield

    def save(self, tile: Tile, finished: Finished, fingerprint: str = "") -> None:
        """Keep a tile's work; its own file, which makes it count, comes last. Raises DiskFullError, OutputError."""
        for store in self.stores:
            store.write(tile, finished.kept[store.kind])
        files.write_bytes(self._file(tile), encode(finished, fingerprint))

    def has(self, tile: Tile, stems: Sequence[str], fingerprint: str = "") -> bool:
        """Whether the tile is finished, of this fingerprint and readable, and in every store."""
        if not all(store.has(tile) for store in self.stores):
            return False
        try:
            return self.about(tile).fingerprint == fingerprint and whole(self._file(tile), tile.grid.shape, stems)
        except DAMAGED:
            return False

    def load(self, tile: Tile, stem: str) -> NDArray[Any]:
        """One layer of a finished tile."""
        return read_layer(self._file(tile), stem)

    def about(self, tile: Tile) -> About:
        """What is known of a finished tile beside its layers."""
        return read_about(self._file(tile))

    def staging(self) -> Path:
        """An empty directory for the maps while they are made."""
        path = self.home / "maps"
        with files.disk_errors(self.directory):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        return path

    def quarantined(self) -> dict[str, Quarantined]:
        """Tiles that failed twice, by name. Raises OutputError."""
        path = self.home / QUARANTINE_FILE
        try:
            return {name: Quarantined(**q) for name, q in json.loads(path.read_bytes()).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as e:
            raise OutputError(f"{path} is damaged; remove it, and the tiles that it named are tried again") from e

    def quarantine(self, tiles: Mapping[str, Quarantined]) -> None:
        """Write down which tiles failed twice. Raises DiskFullError, OutputError."""
        path = self.home / QUARANTINE_FILE
        if tiles:
            files.write_json(path, {name: dataclasses.asdict(q) for name, q in tiles.items()})
        else:
            path.unlink(missing_ok=True)

    def finish(
        self,
        request: Mapping[str, Any],
        tiles: Sequence[Tile] = (),
        prints: Mapping[str, str] | None = None,
        keep: bool = False,
    ) -> None:
        """Remove what a finished run no longer needs: its scenes' addresses, and its tiles unless told to keep them."""
        with files.disk_errors(self.directory):
            for path in () if keep else self.home.glob("*.npz"):
                path.unlink()
            for path in () if keep else self.home.glob("*.zarr"):
                shutil.rmtree(path)
            (self.home / RUNNING_FILE).unlink(missing_ok=True)
        shutil.rmtree(self.home / "maps", ignore_errors=True)
        described = _described(tiles, prints or {})
        content = {"request": request, "scenes": [], "left_out": [], "tiles": described, "finished": True}
        files.write_json(self.home / REQUEST_FILE, content)

    def _file(self, tile: Tile) -> Path:
        return self.home / f"{tile.name}.npz"


def open_state(directory: Path, request: Mapping[str, Any], renew: Collection[str] = ()) -> State:
    """The state of `request` in a directory: new, unfinished or complete.

    A run that stopped before its first tile is new: it searches again, whatever it was asked before. Where the request
    differs from the one before in keys of `renew` alone, its tiles are looked at again.

    Raises:
        OutputError: the directory holds another request's run, or files that are no run's, or cannot be read.
    """
    path = directory / files.STATE / REQUEST_FILE
    try:
        left = [p.name for p in directory.iterdir() if p.name != files.STATE] if directory.exists() else []
        begun = path.is_file() and (left or any(path.parent.glob("*.npz")))
    except OSError as e:
        raise OutputError(f"cannot use {directory}: {e.strerror}; choose another --out") from e
    if left and not path.is_file():
        raise OutputError(f"{directory} holds other files, such as {left[0]}; choose another --out")
    if not begun:
        return State(directory, None)
    try:
        content = json.loads(path.read_bytes())
        before, scenes = content["request"], tuple(scene_from_json(s) for s in content["scenes"])
        left_out = tuple(LeftOut(**item) for item in content["left_out"])
        finished = bool(content["finished"])
    except (ValueError, KeyError, TypeError) as e:
        raise OutputError(f"{path} is damaged; remove {directory} or choose another --out") from e
    now = json.loads(json.dumps(request))
    differs = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    if set(differs) - set(renew):
        raise OutputError(
            f"{directory} holds a run of another request (differs in: {', '.join(differs)}); choose another --out"
        )
    if finished or differs:
        return State(directory, None, finished=finished and not differs)
    return State(directory, scenes, left_out)


def _described(tiles: Sequence[Tile], prints: Mapping[str, str]) -> dict[str, Any]:
    """Tiles as request.json lists them, for those who have no request at hand."""
    return {t.name: {"pixels": t.grid.width * t.grid.height, "fingerprint": prints.get(t.name, "")} for t in tiles}


def scene_to_json(scene: Scene) -> dict[str, Any]:
    """A scene as JSON values."""
    plain = dataclasses.asdict(dataclasses.replace(scene, assets={}))
    plain["time"] = scene.time.isoformat()
    plain["assets"] = {band: dataclasses.asdict(asset) for band, asset in scene.assets.items()}
    return plain


def scene_from_json(plain: Mapping[str, Any]) -> Scene:
    """The inverse of scene_to_json. Raises KeyError, TypeError or ValueError on anything else."""
    assets = {}
    for band, a in plain["assets"].items():
        transform = tuple(a["transform"]) if a["transform"] else None
        shape = tuple(a["shape"]) if a["shape"] else None
        assets[band] = SceneAsset(**{**a, "transform": transform, "shape": shape})
    time = datetime.fromisoformat(plain["time"])
    return Scene(**{**plain, "time": time, "bbox": tuple(plain["bbox"]), "assets": assets})
