"""The result of the work on one tile, and the file that keeps it.

Results are plain values, so any worker can send them. A file is a zip: one array for each layer (numpy's npz, no
pickle), compressed where the tile was made, and a JSON file with the rest. The zip's comment is the sha256 of
everything before it, so any changed byte is found.
"""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter

from geomap.types import Dark, Gave, Layers, Missed, Scene, Tile

if TYPE_CHECKING:  # numpy takes 0.15 s to load; `geomap status` reads the JSON alone
    from numpy.typing import NDArray

_LAYER: Final = "layer "
"""Prefix of layers in a file: without it, a legend could have the name of one of numpy's arguments."""
_SUFFIX: Final = ".npy"
_ABOUT: Final = "about.json"
_DIGEST: Final = hashlib.sha256().digest_size
_HEADERS: Final = threading.Lock()
"""Held while a header is read. Numpy reads it as a Python literal, and CPython 3.11 builds the trees of literals of all
threads in one state: where a thread is stopped amid one, as by dask's callback on garbage collection, another raises
SystemError (python/cpython issue 106905)."""
DAMAGED: Final = (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)
"""Exceptions from reading a file that is missing, truncated or changed."""


@dataclass(frozen=True, slots=True)
class Task:
    """A tile to make: the scenes over it, and the fingerprint of everything that decides its content (identity.py)."""

    tile: Tile
    scenes: tuple[Scene, ...] = ()
    fingerprint: str = ""

    @property
    def pixels(self) -> int:
        return self.tile.grid.width * self.tile.grid.height


@dataclass(frozen=True, slots=True)
class Reused:
    """What was reused from an earlier run, and what was encoded."""

    months: tuple[str, ...] = ()  # months whose medians were reused, as 2023-04
    pixels: int = 0  # pixels whose labels were reused
    encoded: int = 0  # pixels that were encoded
    since: str = ""  # months of that run; empty without one


@dataclass(frozen=True, slots=True)
class Seen:
    """How much of the area in a tile is mapped."""

    pixels: int = 0  # inside the area
    mapped: int = 0  # of these, with enough clear months
    months: tuple[str, ...] = ()  # months with a clear observation inside, as 2023-04
    clear: tuple[int, ...] = ()  # pixels that were seen clear in each month of the period; none where that is not known


@dataclass(frozen=True, slots=True)
class About:
    """What is known about a finished tile besides its layers."""

    dark: Mapping[str, Dark] = field(default_factory=dict)  # scene id -> dark vegetation, the evidence on its offset
    missed: tuple[Missed, ...] = ()  # scenes left out because one of their files cannot be read
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage
    reused: Reused = field(default_factory=Reused)
    fingerprint: str = ""  # fingerprint of the task; written with the file
    stored: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # store -> file -> sha256 (store.digests)
    gave: Mapping[str, Gave] = field(default_factory=dict)  # by id of each scene that was read
    seen: Seen = field(default_factory=Seen)


@dataclass(frozen=True, slots=True)
class Finished:
    """The finished work on one tile."""

    layers: bytes  # packed
    about: About = field(default_factory=About)
    kept: Mapping[str, Layers] = field(default_factory=dict)  # store -> arrays (..., y, x) by name; not in the file


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the work on one tile ended."""

    task: Task
    finished: Finished | None  # None if it failed
    error: Exception | None = None


_about: Final = TypeAdapter(About)


def pack(layers: Layers) -> bytes:
    """The layers as a zip of arrays."""
    import numpy as np

    buffer = io.BytesIO()
    arrays = {f"{_LAYER}{stem}": pixels for stem, pixels in layers.items()}
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def encode(layers: bytes, about: About) -> bytes:
    """The bytes of a tile's file."""
    buffer = io.BytesIO(layers)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as z:
        with z.open(_ABOUT, "w") as f:
            f.write(_about.dump_json(about))
        z.comment = bytes(_DIGEST)
    content = buffer.getvalue()[:-_DIGEST]
    return content + hashlib.sha256(content).digest()


def read_layer(path: Path, stem: str) -> NDArray[Any]:
    """(y, x) pixels of one layer. Raises DAMAGED."""
    with zipfile.ZipFile(path) as z:
        return _array(z, f"{_LAYER}{stem}{_SUFFIX}")


def read_layers(path: Path, prefix: str = "") -> dict[str, NDArray[Any]]:
    """The layers whose stems begin so, by stem. Raises DAMAGED."""
    with zipfile.ZipFile(path) as z:
        names = [name for name in z.namelist() if name.startswith(f"{_LAYER}{prefix}")]
        return {name.removeprefix(_LAYER).removesuffix(_SUFFIX): _array(z, name) for name in names}


def _array(z: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """An array of numpy's npy format, version 1.0, in a zip."""
    import numpy as np
    from numpy.lib import format as npy

    with z.open(name) as f:
        with _HEADERS:
            npy.read_magic(f)
            shape, by_column, dtype = npy.read_array_header_1_0(f)
        content = bytearray(f.read())
    return np.frombuffer(content, dtype).reshape(shape, order="F" if by_column else "C")


def read_about(path: Path) -> About:
    """What a file holds besides its layers. Raises DAMAGED."""
    with zipfile.ZipFile(path) as z:
        return _about.validate_json(z.read(_ABOUT))


def intact(path: Path) -> bool:
    """Whether a file exists, byte for byte as it was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-_DIGEST]).digest() == content[-_DIGEST:]


def whole(path: Path, shape: tuple[int, int], stems: Sequence[str]) -> bool:
    """Whether a file is intact and holds these layers of (rows, columns)."""
    try:
        return intact(path) and all(read_layer(path, stem).shape[-2:] == shape for stem in stems)
    except DAMAGED:
        return False
