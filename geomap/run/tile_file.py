"""What the work on one tile gives, and the file that keeps it: plain values, so that they travel from any worker.

A file is a zip of arrays (numpy's npz, no pickle): one for each layer, compressed where the tile was made, and one that
holds the rest as JSON. The zip's comment is the sha256 of all that comes before it, so any changed byte is found.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomap.types import Dark, Layers, Missed, Tile

_LAYER = "layer "
"""Prefix of layers in a file: a legend may be called like an argument of numpy's."""
_ABOUT = "about"
"""Name of the JSON in a file."""
_DIGEST = hashlib.sha256().digest_size
DAMAGED = (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)
"""What reading a file raises that is missing, cut or changed."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What reading a tile showed of its scenes."""

    dark: Mapping[str, Dark] = field(default_factory=dict)  # by scene id, dark vegetation: what it says of the offset
    missed: tuple[Missed, ...] = ()  # scenes left out because a file of theirs cannot be read


@dataclass(frozen=True, slots=True)
class Reused:
    """What was taken over from an earlier run, and what was not."""

    months: tuple[str, ...] = ()  # whose medians were, as 2023-04
    pixels: int = 0  # whose labels were
    encoded: int = 0  # pixels that were encoded


@dataclass(frozen=True, slots=True)
class Finished:
    """The work on one tile, done."""

    layers: bytes  # packed
    evidence: Evidence = field(default_factory=Evidence)
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage
    kept: Mapping[str, Layers] = field(default_factory=dict)  # by store, arrays (..., y, x) by name; not in the file
    reused: Reused = field(default_factory=Reused)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the work on one tile went."""

    tile: Tile
    finished: Finished | None  # None: it failed
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class About:
    """What a file says beside its layers."""

    fingerprint: str  # of everything that decides the layers (fingerprint.py)
    evidence: Evidence
    seconds: Mapping[str, float]
    reused: Reused = field(default_factory=Reused)


def pack(layers: Layers) -> bytes:
    """The layers as a zip of arrays."""
    buffer = io.BytesIO()
    arrays = {f"{_LAYER}{stem}": pixels for stem, pixels in layers.items()}
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def encode(tile: Finished, fingerprint: str) -> bytes:
    """The bytes of a file."""
    about = {
        "fingerprint": fingerprint,
        "dark": {scene: (d.values, d.dark) for scene, d in tile.evidence.dark.items()},
        "missed": [asdict(m) for m in tile.evidence.missed],
        "seconds": dict(tile.seconds),
        "reused": asdict(tile.reused),
    }
    buffer = io.BytesIO(tile.layers)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as z:
        with z.open(f"{_ABOUT}.npy", "w") as f:
            np.lib.format.write_array(f, np.frombuffer(json.dumps(about).encode(), np.uint8))
        z.comment = bytes(_DIGEST)
    content = buffer.getvalue()[:-_DIGEST]
    return content + hashlib.sha256(content).digest()


def read_layer(path: Path, stem: str) -> NDArray[Any]:
    """(y, x) pixels of one layer. Raises DAMAGED."""
    with np.load(path, allow_pickle=False) as f:
        pixels: NDArray[Any] = f[f"{_LAYER}{stem}"]
    return pixels


def read_about(path: Path) -> About:
    """What a file says beside its layers. Raises DAMAGED."""
    with np.load(path, allow_pickle=False) as f:
        about = json.loads(f[_ABOUT].tobytes())
    dark = {scene: Dark(*count) for scene, count in about["dark"].items()}
    evidence = Evidence(dark, tuple(Missed(**m) for m in about["missed"]))
    reused = Reused(**{**about["reused"], "months": tuple(about["reused"]["months"])})
    return About(about["fingerprint"], evidence, about["seconds"], reused)


def intact(path: Path) -> bool:
    """Whether a file is there, byte for byte as it was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-_DIGEST]).digest() == content[-_DIGEST:]


def whole(path: Path, shape: tuple[int, int], stems: Sequence[str]) -> bool:
    """Whether a file is intact and holds these layers of (rows, columns)."""
    try:
        return intact(path) and all(read_layer(path, stem).shape == shape for stem in stems)
    except DAMAGED:
        return False
