"""What is asked for, and the same made ready: weights, class vectors, tiles and layers, before the first pixel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geomap import aoi
from geomap.catalog.offset import OffsetPolicy
from geomap.composite.mask import DEFAULT_MASK, Mask
from geomap.legends import Legend
from geomap.read.access import DEADLINE, MAX_MISSED
from geomap.types import Period


@dataclass(frozen=True, slots=True)
class Earlier:
    """A finished run of the same request over other months, with its composites."""

    directory: Path
    period: Period


@dataclass(frozen=True, slots=True)
class Request:
    """What decides the content of the maps."""

    area: aoi.Area
    period: Period
    stac: str  # preset, URL or item file
    legends: tuple[Legend, ...]
    weights: str = "default"
    collection: str | None = None
    max_cloud: float = 100  # percent of a scene
    offset: OffsetPolicy = "auto"
    allow_hosts: tuple[str, ...] = ()
    min_clear_months: int = 3
    min_confidence: float = 0.0  # 0..1
    within: tuple[str, str] | None = None  # (legend, class): the other maps cover this class alone
    device: str = "auto"
    mask: Mask = DEFAULT_MASK
    max_missed: float = MAX_MISSED
    deadline: float = DEADLINE  # seconds for which a server may refuse a file
    save_composites: bool = False  # keep the monthly composites beside the maps, in composites.zarr
    save_embeddings: bool = False  # keep the embeddings, in embeddings.zarr
    composites: Path | None = None  # composites.zarr of an earlier run, read in place of scenes: `stac` does not matter
    update: Earlier | None = None  # take over what has not changed since this run, and map what has
