"""Turns LUCAS ground photos into frozen CLIP vectors, batch by batch, and resumes after a stop.
Photos are `<country>/.../<POINT_ID><direction>.jpg`, as in Eurostat's archive (FR/346/283/34622836N.jpg): the country
is the nearest folder named by a NUTS 0 code; directions are N, E, S and W. Other files, such as the photos of the point
itself (P), are ignored.

Each batch becomes its own file beside the result, named by a digest of its inputs; a second run resumes with the files
that are there and lack no photo. Batches do not depend on interruptions, so neither do the bytes of the result.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save, save_file

from geomap import files
from geomap.datasets.lucas import COUNTRIES
from geomap.encode.engine import pick_device
from geomap.errors import DataError, InputError, OutputError
from geomap.label import towers
from geomap.types import Progress, silent

log = logging.getLogger(__name__)

PHOTO: Final = re.compile(r"(\d{8}[NESW])\.jpe?g", re.IGNORECASE)
PHOTOS_AT_ONCE: Final = 64
KEY_LENGTH: Final = len("FR_34622836N")
MAX_DECODERS: Final = 16  # threads that decode JPEGs; with more, one GPU gets no faster
META: Final = "geomap"  # the only key in the files' metadata: safetensors writes several keys in any order


@dataclass(frozen=True)
class Photo:
    """A photo and its key in the dictionary."""

    key: str  # FR_34622836N
    path: Path
    state: tuple[int, int, int]  # size in bytes; when the content and when the file changed last, in ns


@dataclass(frozen=True)
class Embedded:
    """Counts of one run."""

    photos: int  # embedded
    points: int  # with at least one photo
    unreadable: tuple[str, ...]  # paths relative to the folder, left out


def find_photos(folder: Path) -> list[Photo]:
    """The photos of a folder, sorted by key.

    Raises InputError: no such folder, no photo in it, a photo outside a country's folder, or two photos with one key.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; give the folder of the unpacked LUCAS photos")
    codes = set(COUNTRIES.values())
    found: dict[str, Photo] = {}
    for path in sorted(folder.rglob("*")):
        match = PHOTO.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        above = (folder.resolve().name, *path.relative_to(folder).parent.parts)
        country = next((name for name in reversed(above) if name in codes), None)
        if country is None:
            raise InputError(f"{path} lies in no country's folder; give it one named by its NUTS 0 code, such as FR")
        key = f"{country}_{match[1].upper()}"
        if key in found:
            raise InputError(f"{found[key].path} and {path} show the same view; embed one survey at a time")
        stat = path.stat()
        found[key] = Photo(key, path, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    if not found:
        raise InputError(f"no photo in {folder}; photos are named by point and direction, such as FR/34622836N.jpg")
    return [found[key] for key in sorted(found)]


def embed_photos(
    folder: Path, out: Path, batch: int = PHOTOS_AT_ONCE, device: str = "auto", progress: Progress = silent
) -> Embedded:
    """Embed a folder's photos with CLIP ViT-B/32 (`label.towers.load_clip`) into one safetensors file.

    Args:
        folder: photos in the layout above.
        out: the file to write: keys (n, 12) uint8 ASCII, sorted, and vectors (n, 512) float32, as the model gives them
            (not normalised). `lucas.read_photos` reads it.
        batch: photos per forward pass; a stop loses at most one batch.
        device: auto, cpu or cuda.
        progress: called after every batch.

    Photos that cannot be decoded are logged and left out.

    Raises:
        InputError: see `find_photos`; an unknown device.
        OutputError: `out` exists, or cannot be written; DiskFullError.
        BusyError: another run writes `out`.
        WeightsError: CLIP cannot be loaded.
        DataError: no photo can be decoded.
    """
    _require_new(out)
    photos = find_photos(folder)
    parts = files.parts(out)
    with files.hold(parts, out, "writing"):
        _require_new(out)  # another run may have written it since
        tower = _ImageTower(device)
        done = []
        for i in range(0, len(photos), batch):
            group = photos[i : i + batch]
            path = parts / f"{tower.digest(group)}.safetensors"
            if not _whole(path):
                _write_part(path, *tower.embed(group), folder)
            done.append(path)
            progress("photos", min(i + batch, len(photos)), len(photos))
        result = _join(done, out, tower)
        for path in parts.iterdir():
            if path.name != files.LOCK_FILE:
                files.remove(path)
    return result


def _require_new(out: Path) -> None:
    if out.exists():
        raise OutputError(f"{out} exists already; remove it to embed again, or choose another --out")


class _ImageTower:
    """CLIP's image side on a device."""

    def __init__(self, device: str) -> None:
        import open_clip

        self._device = pick_device(device)
        model = towers.load_clip()
        config = open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
        self._prepare = open_clip.transform.image_transform_v2(config, is_train=False)
        self._model = model.to(self._device)
        self._pool = ThreadPoolExecutor(min(MAX_DECODERS, os.cpu_count() or 1))
        weights = hashlib.sha256()
        for name, tensor in sorted(model.visual.state_dict().items()):
            weights.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        own = {"sha256": weights.hexdigest(), "device": self._device.type, "upright": "by EXIF"}
        self.identity = {"space": towers.CLIP_SPACE, **own}

    def digest(self, photos: Sequence[Photo]) -> str:
        """Digest of all that a batch's vectors depend on: `identity`, and the photos' keys and states."""
        content = [self.identity, [(p.key, p.state) for p in photos]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @torch.inference_mode()
    def embed(self, photos: Sequence[Photo]) -> tuple[list[str], NDArray[np.float32], list[Path]]:
        """Keys and vectors (n, 512) of the photos that can be decoded, and the paths of the others."""
        images = list(self._pool.map(self._decode, photos))
        readable = [p.key for p, image in zip(photos, images, strict=True) if image is not None]
        broken = [p.path for p, image in zip(photos, images, strict=True) if image is None]
        if not readable:
            return [], np.zeros((0, towers.OpenClipTower.dim), np.float32), broken
        stacked = torch.stack([image for image in images if image is not None]).to(self._device)
        return readable, self._model.encode_image(stacked).float().cpu().numpy(), broken

    def _decode(self, photo: Photo) -> torch.Tensor | None:
        """(3, 224, 224) as CLIP takes it; None where the photo cannot be decoded."""
        try:
            with Image.open(photo.path) as image:
                prepared: torch.Tensor = self._prepare(ImageOps.exif_transpose(image))
                return prepared
        except MemoryError:
            raise
        except Exception as e:  # of a damaged file each of Pillow's formats raises what it likes
            log.warning("%s cannot be decoded and is left out: %s", photo.path, e)
            return None


def _join(parts: Sequence[Path], out: Path, tower: _ImageTower) -> Embedded:
    """Write the parts as one file. Raises DataError where they hold no photo."""
    contents = [_read_part(path)[:2] for path in parts]
    keys = np.concatenate([k for k, _ in contents])
    unreadable = tuple(name for _, names in contents for name in names)
    if not len(keys):
        raise DataError(f"none of {len(unreadable)} photos can be decoded, such as {unreadable[0]}; unpack them again")
    vectors = np.empty((len(keys), towers.OpenClipTower.dim), np.float32)
    at = 0
    for path, (part_keys, _) in zip(parts, contents, strict=True):  # only one part in memory beside the result
        vectors[at : at + len(part_keys)] = _read_part(path)[2]
        at += len(part_keys)
    temporary = files.temporary(out)
    with files.disk_errors(out.parent):
        meta = {META: json.dumps(tower.identity, sort_keys=True)}
        save_file({"keys": keys, "vectors": vectors}, temporary, meta)
        temporary.chmod(0o644)  # safetensors makes files that only the owner can read
        files.commit(temporary, out)
    return Embedded(len(keys), len(np.unique(keys[:, :-1], axis=0)), unreadable)


def _write_part(
    path: Path, keys: Sequence[str], vectors: NDArray[np.float32], broken: Sequence[Path], folder: Path
) -> None:
    """Write a batch's file. Keys are one ASCII tensor: one named tensor per photo would exceed the 100 MB header."""
    ascii_keys = np.frombuffer("".join(keys).encode(), np.uint8).reshape(len(keys), KEY_LENGTH)
    left_out = json.dumps([p.relative_to(folder).as_posix() for p in broken])
    files.write_bytes(path, save({"keys": ascii_keys, "vectors": vectors}, {META: left_out}))


def _read_part(path: Path) -> tuple[NDArray[np.uint8], list[str], NDArray[np.float32]]:
    """Keys (n, 12), photos left out, and vectors (n, 512) of a batch's file."""
    with safe_open(path, framework="np") as f:
        return f.get_tensor("keys"), json.loads(f.metadata()[META]), f.get_tensor("vectors")


def _whole(path: Path) -> bool:
    """Whether a part exists, can be read and lacks no photo: one that was left out may be readable now."""
    try:
        return not _read_part(path)[1]
    except (OSError, SafetensorError):
        return False
