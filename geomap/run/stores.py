"""A run's stores: made in its state directory, filled tile by tile, published beside the maps, read again later."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from geomap import files, grid
from geomap.catalog.over import over
from geomap.errors import InputError, ReadError
from geomap.run.directory import State
from geomap.run.identity import month_keys, saved_kinds
from geomap.run.prepare import Job
from geomap.run.tile_file import Evidence
from geomap.store import store
from geomap.store.store import COMPOSITES, EMBEDDINGS, Store
from geomap.types import UPDATE, Composite, Grid, Period, Scene, Tile

MADE_FROM: Final = files.RECORDS
"""Folder beside a store of composites: of each tile, `<name>.json`, what decided its months and what its scenes showed.

    months    by month, as 2023-04, the month_keys of fingerprint.py; null where a scene of the month could not be read
    dark      by scene, values and dark ones (types.Dark)
"""
_UNTOLD: Final = frozenset({"bounds", "stac", "max_cloud", "offset_policy", "save", UPDATE})
"""Keys of a described request that a store does not repeat: where scenes were searched, which run.json tells."""
_LABELS: Final = frozenset({"legends", "min_confidence", "within"})
"""Keys that decide the maps alone."""
_EMBEDS: Final = frozenset({"weights", "min_clear_months", "device"})
"""Keys that do not decide a composite."""


def attach(job: Job, asked: Mapping[str, Any], state: State) -> State:
    """The state with the stores that the job fills: those of an earlier run of the same request, or empty ones.

    Raises DiskFullError, OutputError.
    """
    return replace(state, stores=tuple(_ready(job, asked, state.home / kind) for kind in saved_kinds(job.request)))


def link(stores: Iterable[Store], staging: Path, missing: Collection[str]) -> None:
    """Put the files of the stores among those to be published; the state keeps its own names for them.

    `missing` names the tiles in quarantine, which the stores hold no data of.
    """
    with files.disk_errors(staging):
        for kept in stores:
            for name in store.store_files(kept.path):
                target = staging / kept.kind / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(kept.path / name, target)
                except OSError:  # a disk without hard links
                    shutil.copy2(kept.path / name, target)
            if missing:
                store.name_missing(staging / kept.kind, missing)


def record(
    staging: Path, tiles: Iterable[Tile], scenes: Sequence[Scene], period: Period, evidence: Mapping[str, Evidence]
) -> None:
    """Write down what the composites of tiles were made from, for runs that take months over.

    Raises DiskFullError, OutputError.
    """
    for tile in tiles:
        near, seen = over(scenes, tile.grid), evidence[tile.name]
        lost = {m.scene for m in seen.missed}
        gaps = {period.step(scene.time) for scene in near if scene.id in lost}
        keys = month_keys(near, tile.grid, period)
        content = {
            "months": {name: None if i in gaps else keys[i] for i, name in enumerate(period.month_names)},
            "dark": {scene: [d.values, d.dark] for scene, d in seen.dark.items()},
        }
        files.write_json(staging / MADE_FROM / f"{tile.name}.json", content)


def composite_over(kept: Store, tile: Tile) -> Composite:
    """A tile's composite from a store that covers it. Raises ReadError."""
    holding = kept.holding(tile.grid)
    if holding is None or holding.name in kept.missing:
        raise ReadError(f"{kept.path} holds no composite of {tile.name}: its scenes could not be read then")
    return Composite(*medians(kept, tile.grid, holding))


def medians(
    kept: Store, where: Grid, tile: Tile, step: int | None = None
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """DNs (month, band, y, x) and clear counts (month, y, x) over a part of a stored tile, or those of one month.

    Raises ReadError where the store is damaged.
    """
    dn, clear = (kept.read(name, where, tile, step) for name in ("composite", "clear"))
    if clear.any() and not dn.any():
        raise store.damaged(kept.path, f"tile {tile.name} has clear observations and no composite")
    return dn, clear


def _ready(job: Job, asked: Mapping[str, Any], path: Path) -> Store:
    about = _about(job, asked, path.name)
    kept = _existing(path)
    like = (grid.TILE_PX, job.tiles, job.request.period, about)
    if kept is not None and (kept.side, kept.tiles, kept.period, kept.about) == like:
        return kept
    basis = job.codec.basis if path.name == EMBEDDINGS and job.codec else None
    return store.create(path, job.tiles, grid.TILE_PX, job.request.period, about, basis)


def _existing(path: Path) -> Store | None:
    try:
        return store.open_store(path)
    except InputError:
        return None


def _about(job: Job, asked: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """What a store says of itself, as JSON values."""
    left = _UNTOLD | _LABELS | (_EMBEDS if kind == COMPOSITES else frozenset())
    about = {key: value for key, value in asked.items() if key not in left}
    if kind == EMBEDDINGS:
        card = job.weights.card
        about |= {"logit_scale": card.logit_scale, "text_space": card.text_space}
    plain: dict[str, Any] = json.loads(json.dumps(about))
    return plain
