"""What a run keeps on disk so that it can stop at any moment and go on: `tiles/` in the output directory.

`request.json` holds what was asked for and the scenes that were found, so that a resumed run sees the same scenes;
`<tile>.npz` holds the finished layers of one tile and bears its name only once it is whole. One run at a time holds
the lock.
"""

from __future__ import annotations

import dataclasses
import fcntl
import io
import json
import logging
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomap import files
from geomap.errors import BusyError, OutputError
from geomap.types import Dark, LeftOut, Scene, SceneAsset, Tile

log = logging.getLogger(__name__)

REQUEST_FILE = "request.json"
_KEY = "layer "
"""Prefix of layers in a tile's file: a legend may be called like an argument of numpy's."""
_DARK = "dark"
"""Key of a tile's dark vegetation: JSON, by scene id the two counts of types.Dark."""

Layers = Mapping[str, NDArray[Any]]
"""Layer stem -> (y, x) pixels of a tile."""


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """The state of a run in `directory`."""

    directory: Path
    scenes: tuple[Scene, ...] | None  # None: a new run, nothing on disk yet
    left_out: tuple[LeftOut, ...] = ()

    @property
    def home(self) -> Path:
        return self.directory / files.STATE

    @property
    def complete(self) -> bool:
        """Whether the run has finished: its checksums are written last."""
        return (self.directory / files.SUMS).is_file()

    def begin(self, request: Mapping[str, Any], scenes: Sequence[Scene], left_out: Sequence[LeftOut] = ()) -> State:
        """Write down the request and what was found for it. Raises DiskFullError, OutputError."""
        path = self.home / REQUEST_FILE
        unused = [dataclasses.asdict(item) for item in left_out]
        content = {"request": request, "scenes": [scene_to_json(s) for s in scenes], "left_out": unused}
        files.write_json(path, content)
        path.chmod(0o600)  # addresses of a catalogue's own may carry tokens, until `finish` drops them
        return dataclasses.replace(self, scenes=tuple(scenes), left_out=tuple(left_out))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory; OutputError where another run holds it."""
        with files.disk_errors(self.directory):
            self.home.mkdir(parents=True, exist_ok=True)
            f = (self.home / "lock").open("w")
        with f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                raise BusyError(f"another run is writing {self.directory}; wait for it or choose another --out") from e
            yield

    def save(self, tile: Tile, layers: Layers, dark: Mapping[str, Dark] | None = None) -> None:
        """Keep a tile's layers and what its pixels say of the scenes' offsets. Raises DiskFullError, OutputError."""
        counts = json.dumps({scene: (d.values, d.dark) for scene, d in (dark or {}).items()}).encode()
        arrays = {f"{_KEY}{stem}": pixels for stem, pixels in layers.items()} | {_DARK: np.frombuffer(counts, np.uint8)}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        files.write_bytes(self._file(tile), buffer.getvalue())

    def has(self, tile: Tile, stems: Sequence[str]) -> bool:
        """Whether the tile is finished and readable."""
        try:
            self.load_dark(tile)
            return all(self.load(tile, stem).shape == tile.grid.shape for stem in stems)
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
            return False

    def load(self, tile: Tile, stem: str) -> NDArray[Any]:
        """One layer of a finished tile."""
        with np.load(self._file(tile), allow_pickle=False) as f:
            pixels: NDArray[Any] = f[f"{_KEY}{stem}"]
        return pixels

    def load_dark(self, tile: Tile) -> dict[str, Dark]:
        """By scene id, the dark vegetation of a finished tile."""
        with np.load(self._file(tile), allow_pickle=False) as f:
            counts = json.loads(f[_DARK].tobytes())
        return {scene: Dark(*count) for scene, count in counts.items()}

    def staging(self) -> Path:
        """An empty directory for the maps while they are made."""
        path = self.home / "maps"
        with files.disk_errors(self.directory):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        return path

    def finish(self, request: Mapping[str, Any]) -> None:
        """Remove what a finished run no longer needs: its tiles, and its scenes' addresses."""
        with files.disk_errors(self.directory):
            for path in self.home.glob("*.npz"):
                path.unlink()
        shutil.rmtree(self.home / "maps", ignore_errors=True)
        files.write_json(self.home / REQUEST_FILE, {"request": request, "scenes": [], "left_out": []})

    def _file(self, tile: Tile) -> Path:
        return self.home / f"{tile.name}.npz"


def open_state(directory: Path, request: Mapping[str, Any]) -> State:
    """The state of `request` in a directory: new, unfinished or complete.

    A run that stopped before its first tile is new: it searches again, whatever it was asked before.

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
    except (ValueError, KeyError, TypeError) as e:
        raise OutputError(f"{path} is damaged; remove {directory} or choose another --out") from e
    now = json.loads(json.dumps(request))
    differs = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    if differs:
        raise OutputError(
            f"{directory} holds a run of another request (differs in: {', '.join(differs)}); choose another --out"
        )
    return State(directory, scenes, left_out)


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
