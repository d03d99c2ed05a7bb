"""A run's stores: created in its state directory, filled by tile, published, read by later runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from geomap import files, grid
from geomap.errors import InputError, ReadError
from geomap.run.directory import RunDirectory
from geomap.run.identity import FINISH, month_keys, saved_kinds
from geomap.run.prepare import Prepared
from geomap.run.tile_file import About, Task
from geomap.store import store
from geomap.store.store import COMPOSITES, EMBEDDINGS, Store
from geomap.types import GRID, IMAGERY, UPDATE, Composite, Gave, Grid, Period, Tile

_UNTOLD: Final = frozenset({"bounds", "stac", "max_cloud", "offset_policy", "save", UPDATE, GRID, IMAGERY})
"""Identity keys that a store does not repeat: how scenes were searched, which run.json holds."""
_LABELS: Final = frozenset({"legends", "min_confidence", "within", *FINISH})
"""Identity keys that decide only the maps."""
_EMBEDS: Final = frozenset({"weights", "min_clear_months", "device"})
"""Identity keys that do not decide a composite."""


def attach(prepared: Prepared, asked: Mapping[str, Any], run: RunDirectory) -> RunDirectory:
    """The run with the stores it fills: existing ones of an earlier run of the same request, or empty ones.

    Raises DiskFullError, OutputError.
    """
    kinds = saved_kinds(prepared.request)
    return replace(run, stores=tuple(_ready(prepared, asked, run.home / kind) for kind in kinds))


def link(stores: Iterable[Store], staging: Path, missing: Mapping[str, int]) -> None:
    """Link the files of the stores into the staging directory; the state directory keeps its own names for them.

    `missing`: by name of the quarantined tiles, for which the stores hold no data, their pixels of the area.
    """
    with files.disk_errors(staging):
        for kept in stores:
            for name in store.store_files(kept.path):
                target = staging / kept.kind / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(kept.path / name, target)
                except OSError:  # the disk has no hard links
                    shutil.copy2(kept.path / name, target)
            if missing:
                store.name_missing(staging / kept.kind, missing)


@dataclass(frozen=True, slots=True)
class MadeFrom:
    """The inputs of a tile's composites."""

    months: dict[str, str | None]  # month, as 2023-04 -> identity.month_keys; None: a scene was unreadable
    dark: dict[str, tuple[int, int]]  # scene id -> values and dark ones (types.Dark)
    gave: dict[str, Gave] = field(default_factory=dict)  # scene id -> what it gave the tile


_made_from: Final = TypeAdapter(MadeFrom)


def write_made_from(staging: Path, tasks: Iterable[Task], period: Period, abouts: Mapping[str, About]) -> None:
    """Write the inputs of the tiles' composites, for later runs that reuse months.

    `abouts` is keyed by tile name. Raises DiskFullError, OutputError.
    """
    for task in tasks:
        seen = abouts[task.tile.name]
        lost = {m.scene for m in seen.missed}
        gaps = {period.step(scene.time) for scene in task.scenes if scene.id in lost}
        keys = month_keys(task.scenes, task.tile.grid, period)
        made = MadeFrom(
            {name: None if i in gaps else keys[i] for i, name in enumerate(period.month_names)},
            {scene: (d.values, d.dark) for scene, d in seen.dark.items()},
            dict(sorted(seen.gave.items())),
        )
        files.write_json(_made_from_file(staging, task.tile), _made_from.dump_python(made, mode="json"))


def read_made_from(directory: Path, tile: Tile) -> MadeFrom:
    """The inputs that a run wrote for a tile. Raises FileNotFoundError, OSError or ValueError."""
    return _made_from.validate_json(_made_from_file(directory, tile).read_bytes())


def _made_from_file(directory: Path, tile: Tile) -> Path:
    return directory / files.RECORDS / f"{tile.name}.json"


def composite_over(kept: Store, tile: Tile) -> Composite:
    """A tile's composite from a store that covers it. Raises ReadError."""
    holding = kept.holding(tile.grid)
    if holding is None or holding.name in kept.missing:
        raise ReadError(f"{kept.path} holds no composite of {tile.name}: its scenes could not be read in that run")
    kept.check(holding)
    return Composite(*medians(kept, tile.grid, holding))


def medians(
    kept: Store, where: Grid, tile: Tile, step: int | None = None
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """DNs (month, band, y, x) and clear counts (month, y, x) over part of a stored tile; with `step`, of one month.

    Raises ReadError if the store is damaged.
    """
    dn, clear = (kept.read(name, where, tile, step) for name in ("composite", "clear"))
    if clear.any() and not dn.any():
        raise store.damaged(kept.path, f"tile {tile.name} has clear observations but no composite")
    return dn, clear


def _ready(prepared: Prepared, asked: Mapping[str, Any], path: Path) -> Store:
    about = _about(prepared, asked, path.name)
    kept = _existing(path)
    like = (grid.TILE_PX, prepared.tiles, prepared.request.period, about)
    basis = prepared.codec.basis if path.name == EMBEDDINGS and prepared.codec else None
    if kept is not None and (kept.side, kept.tiles, kept.period, kept.about) == like:
        store.mend(kept, basis)
        return kept
    return store.create(path, prepared.tiles, grid.TILE_PX, prepared.request.period, about, basis)


def _existing(path: Path) -> Store | None:
    try:
        return store.open_store(path)
    except InputError:
        return None


def _about(prepared: Prepared, asked: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """What a store says about itself, as JSON values."""
    left = _UNTOLD | _LABELS | (_EMBEDS if kind == COMPOSITES else frozenset())
    about = {key: value for key, value in asked.items() if key not in left}
    if kind == EMBEDDINGS:
        card = prepared.weights.card
        about |= {"logit_scale": card.logit_scale, "text_space": card.text_space}
    plain: dict[str, Any] = json.loads(json.dumps(about))
    return plain
