"""The two views of a training sample: a pixel's series from above, and its ground photos."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomap.datasets import lucas, sen4map
from geomap.datasets.samples import Samples
from geomap.errors import ConfigError
from geomap.label.towers import OpenClipTower
from geomap.train.config import CrossViewConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Views:
    """Series that have photos, with the unit vector of each sample's photos."""

    samples: Samples
    ground: NDArray[np.float32]  # (n, D)
    left_out: int  # samples of the file without photos or without a valid month

    def __len__(self) -> int:
        return len(self.samples)


def read_views(config: CrossViewConfig) -> tuple[Views, Views]:
    """Read the training and validation set. Raises ConfigError, and the readers' errors."""
    files = (config.data.train, config.data.validation)
    train, val = (sen4map.read_cut(Path(path), config.patch) for path in files)
    both = set(train.id.tolist()) & set(val.id.tolist())
    if both:
        raise ConfigError(f"{len(both)} points are in {files[0]} and in {files[1]}, {min(both)} for one; part them")
    photos = lucas.read_photos(Path(config.data.photos), [*train.id.tolist(), *val.id.tolist()])
    if photos.shape[1] != OpenClipTower.dim:
        raise ConfigError(
            f"{config.data.photos} holds vectors of {photos.shape[1]} values, CLIP ViT-B/32 gives {OpenClipTower.dim}; "
            "give photos embedded by that model"
        )
    sets = (
        views_of(replace(train, photos=photos[: len(train)])),
        views_of(replace(val, photos=photos[len(train) :])),
    )
    for path, views in zip(files, sets, strict=True):
        log.info("%s: %d samples with photos, %d left out", path, len(views), views.left_out)
        if len(views) < 2:
            raise ConfigError(f"{path} has {len(views)} samples with photos in {config.data.photos}; two are the least")
    return sets


def views_of(samples: Samples) -> Views:
    """The samples that have photos and a valid month. Photos: the mean of the raw vectors, then normalised.

    Raises ValueError if no photos were read for the samples.
    """
    if samples.photos is None:
        raise ValueError(f"{samples.name} carries no photos")
    length = np.linalg.norm(samples.photos, axis=1)
    use = np.isfinite(length) & (length > 0) & samples.valid.any(1)
    return Views(samples.rows(use), samples.photos[use] / length[use, None], int((~use).sum()))


def digest(sets: tuple[Views, ...]) -> str:
    """sha256 of everything that training reads from the sets."""
    found = hashlib.sha256()
    for views in sets:
        found.update("\n".join(views.samples.id).encode())
        for array in (views.samples.dn, views.samples.valid, views.ground):
            found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()
