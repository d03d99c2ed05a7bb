"""Rolling updates: reuse months and labels of an earlier run.

The maps have the same bytes as without it.

A month's medians are reused from the earlier run's store if the same scenes, with the same grids and offsets, made them
there (identity.month_keys) and none of those scenes was missing. The period holds every calendar month once, so a pixel
whose months are all the same, including those without a value, is the same series to the encoder. Such a pixel keeps
its labels from the earlier run's maps. All other pixels are encoded.

The earlier run only saves work. If one of its tiles is damaged, or a worker cannot see its directory, the tile is made
from its scenes, with a warning.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geomap import files
from geomap.errors import InputError, ReadError, UpdateError, to_type
from geomap.legends import UNCLASSIFIED_ID
from geomap.paths import real
from geomap.run import check
from geomap.run.directory import RunDirectory
from geomap.run.identity import SEARCH, month_keys
from geomap.run.prepare import Prepared
from geomap.run.publish import Derived, map_path
from geomap.run.record import Record, read_record
from geomap.run.request import Earlier
from geomap.run.stores import medians, read_made_from
from geomap.run.tile_file import Task
from geomap.store import store
from geomap.store.store import COMPOSITES, EMBEDDINGS, Store
from geomap.text import listed
from geomap.types import GRID, IMAGERY, UPDATE, Composite, Dark, Gave, Grid, Layers, Period, Tile
from geomap.write.changes import matrix_path, transitions_np, write_matrix
from geomap.write.layer import Layer, place_of

log = logging.getLogger(__name__)

MAY_DIFFER: Final = SEARCH - {"bounds"} | {"period", "save", UPDATE, GRID, IMAGERY}
"""Keys in which the two requests may differ: scenes are compared one by one, however they were searched."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Months of a tile that can be reused from the earlier run."""

    steps: Mapping[int, int]  # step of this run -> step of the earlier one
    dark: Mapping[str, Dark]  # scene id -> evidence on its offset
    gave: Mapping[str, Gave]  # scene id -> what it gave the tile


@dataclass(frozen=True, slots=True)
class Known:
    """What the earlier run knows about a tile's pixels."""

    same: NDArray[np.bool_]  # (y, x) pixels with the same input
    layers: Layers  # (y, x) by stem
    codes: NDArray[np.int8] | None = None  # (C, y, x) codes of the embeddings, if they are saved


def earlier(directory: Path) -> Earlier:
    """The run in a directory, as one to update. Raises UpdateError if it kept no composites."""
    try:
        return Earlier(real(directory), store.open_store(directory, COMPOSITES).period)
    except InputError as e:
        raise UpdateError(f"cannot update {directory}: {e}; or map without --update-from") from e


def require(prepared: Prepared, asked: Mapping[str, Any]) -> None:
    """Raise UpdateError unless the earlier run is finished, undamaged, and of the same request and software."""
    if prepared.request.update is None:
        return
    why = _obstacle(prepared, asked, prepared.request.update)
    if why:
        raise UpdateError(f"cannot update {prepared.request.update.directory}: {why}; map without --update-from")
    before, now = prepared.request.update.period, prepared.request.period
    if {*before.calendar_months} != {*now.calendar_months}:
        said = "%s and %s are not of the same months of the year: part of what changes is the season"
        log.log(logging.INFO if prepared.request.update.rolling else logging.WARNING, said, before, now)


def _obstacle(prepared: Prepared, asked: Mapping[str, Any], update: Earlier) -> str | None:
    """Why a run cannot be updated, or None."""
    directory = update.directory
    if not (directory / files.SUMS).is_file():
        return "it holds no finished run"
    try:
        recorded = read_record(directory)
    except InputError:
        return "its run.json is damaged"
    before = recorded.request
    if before.get("period") != str(update.period):
        return f"it is of {before.get('period')}, not of {update.period}"
    now = json.loads(json.dumps(asked))
    differs = differing(before, now)
    if "weights" in differs:
        old, new = (f"{w['name']} {w['sha256'][:12]}" for w in (before["weights"], now["weights"]))
        return f"its maps are of weights {old}, not of {new}; they would differ even where the land did not change"
    if differs:
        why = _left_out(recorded, prepared) if "legends" in differs else ""
        return f"it is a run of another request (differs in: {', '.join(differs)}){why}"
    period = prepared.request.period
    if update.period.months != period.months:
        return f"it is of {update.period.months} months, this run of {period.months}: their maps would differ for that"
    if recorded.software.get("torch") != version("torch") or recorded.vectors != prepared.vectors:
        return "it was made with another version of torch or other class vectors"
    if not (_holds(directory, COMPOSITES) and any((directory / files.RECORDS).glob("*.json"))):
        return "it kept no composites of its own (--save-composites)"
    damaged = check.damaged(directory, stores=False)
    return f"{damaged[0]}: run its command again" if damaged else None


def _left_out(recorded: Record, prepared: Prepared) -> str:
    """What to say of the classes that --without leaves out of legends that differ; nothing if these are the same."""
    before, now = recorded.asked.get("without", ()), prepared.request.without
    same = set(before) == set(now)
    return "" if same else f"; --without left out {listed(before)} then, and {listed(now)} now"


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Keys in which two requests differ, but for those in which they may, and the year that points were learned in."""
    one, other = ({**asked, "learned": {**asked.get("learned", {}), "transferred": None}} for asked in (before, now))
    return sorted(k for k in (one.keys() | other.keys()) - MAY_DIFFER if one.get(k) != other.get(k))


def shared(update: Earlier, task: Task, period: Period) -> Shared | None:
    """The months of a tile that can be reused; None if the earlier run lacks the tile."""
    tile, near = task.tile, task.scenes
    try:
        made = read_made_from(update.directory, tile)
    except FileNotFoundError:
        if not update.directory.is_dir():  # otherwise the tile was quarantined
            log.warning("tile %s is made from all its scenes: %s does not exist here", tile.name, update.directory)
        return None
    except (OSError, ValueError) as e:
        log.warning("tile %s is made from all its scenes: %s (%s)", tile.name, update.directory, e)
        return None
    before = {month: i for i, month in enumerate(update.period.month_names)}
    steps = {}
    for i, (month, key) in enumerate(zip(period.month_names, month_keys(near, tile.grid, period), strict=True)):
        if month in before and made.months.get(month) == key:
            steps[i] = before[month]
    ids = {scene.id for scene in near if period.step(scene.time) in steps}
    dark = {name: Dark(*values) for name, values in made.dark.items() if name in ids}
    return Shared(steps, dark, {name: gave for name, gave in made.gave.items() if name in ids})


def take_over(prepared: Prepared, tile: Tile, made: Composite, found: Shared) -> Known | None:
    """Copy the shared months into a composite that lacks them; return what else the earlier run knows of the tile.

    None where labels depend on more than the pixel's own series. Raises ReadError if the earlier run is damaged.
    """
    update = prepared.request.update
    assert update is not None
    kept = _open(update.directory, COMPOSITES)
    kept.check(tile)
    for step, before in found.steps.items():
        made.dn[step], made.clear[step] = medians(kept, tile.grid, tile, before)
    if not prepared.request.finish.plain:
        return None
    same = _same_input(made, prepared.request.period, kept, tile, found)
    name = prepared.request.name
    maps = {layer.stem: _path(update.directory, layer, tile, kept, name) for layer in prepared.layers}
    layers = {stem: _pixels(path, tile.grid) for stem, path in maps.items()}
    codes = None
    if prepared.codec is not None:
        if not _holds(update.directory, EMBEDDINGS):
            same[:] = False  # so all embeddings are computed
        else:
            embeddings = _open(update.directory, EMBEDDINGS)
            embeddings.check(tile)
            codes = embeddings.read("embedding", tile.grid, tile)
    return Known(same, layers, codes)


def _same_input(made: Composite, period: Period, kept: Store, tile: Tile, found: Shared) -> NDArray[np.bool_]:
    """(y, x) pixels whose twelve calendar months equal the earlier run's: the same ten DNs, or no valid ones."""
    now = {month: i for i, month in enumerate(period.calendar_months)}
    then = {month: i for i, month in enumerate(kept.period.calendar_months)}
    same = np.ones(made.shape, bool)
    for month in now.keys() | then.keys():
        step, before = now.get(month), then.get(month)
        if step is not None and found.steps.get(step, -1) == before:
            continue
        new = None if step is None else made.dn[step]
        old = None if before is None else kept.read("composite", tile.grid, tile, before)
        same &= same_month_np(new, old)
    return same


def same_month_np(new: NDArray[np.uint16] | None, old: NDArray[np.uint16] | None) -> NDArray[np.bool_]:
    """(band, y, x) DNs of a month, None if the period lacks it -> (y, x) True if the encoder sees no difference.

    A month counts only if all bands have a value.
    """
    if new is None or old is None:
        one = new if old is None else old
        assert one is not None
        lacks: NDArray[np.bool_] = (one == 0).any(axis=0)
        return lacks
    equal: NDArray[np.bool_] = (new == old).all(axis=0) | ((new == 0).any(axis=0) & (old == 0).any(axis=0))
    return equal


def changes(prepared: Prepared, run: RunDirectory, merged: Derived) -> Derived:
    """How the change maps are made: from the tiles of this run and the maps of the earlier one.

    `merged`: how tiles are made of class maps whose small patches are merged.
    """
    update = prepared.request.update
    if update is None:
        return {}
    kept = _open(update.directory, COMPOSITES)
    made: dict[str, Callable[[Tile], NDArray[Any]]] = {}

    def part(stem: str, index: int) -> Callable[[Tile], NDArray[Any]]:
        def pixels(tile: Tile) -> NDArray[Any]:
            maps = (_path(update.directory, by_stem[s], tile, kept, name) for s in pair(stem))
            before, sure = (_pixels(path, tile.grid) for path in maps)
            after, surer = (merged[s](tile) if s in merged else run.load(tile, s) for s in pair(stem))
            return changes_np(before, after, sure, surer)[index]

        return pixels

    by_stem, name = {layer.stem: layer for layer in prepared.layers}, prepared.request.name
    for layer in prepared.layers:
        if layer.of_legend:
            for index, suffix in enumerate(("from", "to", "change_confidence")):
                made[f"{layer.stem}_{suffix}"] = part(layer.stem, index)
    return made


def write_matrices(prepared: Prepared, staging: Path) -> None:
    """Beside the maps in staging, `<legend>_changes.csv`: hectares from each class of the earlier maps to each class.

    Raises ReadError, DiskFullError, OutputError.
    """
    update = prepared.request.update
    if update is None:
        return
    kept = _open(update.directory, COMPOSITES)
    zones = sorted({tile.grid.epsg for tile in prepared.tiles})
    for layer in (layer for layer in prepared.layers if layer.of_legend):
        pixels = np.zeros((256, 256), np.int64)
        for tile in prepared.tiles:
            before = _pixels(_path(update.directory, layer, tile, kept, prepared.request.name), tile.grid)
            after = _pixels(map_path(staging, layer, tile.grid.epsg, zones), tile.grid)
            pixels += transitions_np(before, after)
        write_matrix(matrix_path(staging, layer), layer, pixels)


def pair(stem: str) -> tuple[str, str]:
    """Stems of a class map and of its confidence."""
    return stem, f"{stem}_confidence"


def changes_np(
    before: NDArray[np.uint8], after: NDArray[np.uint8], sure: NDArray[np.uint8], surer: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Class ids and confidences (percent) before and after, all (y, x) -> the same, only where the class changed.

    Returns:
        Class before and class after, 0 where nothing changed; the lower confidence, 255 where nothing changed. Nodata
        or "unclassified" on either side is no change, since one of the two classes is not known.
    """
    changed = (before != after) & (before != 0) & (after != 0)
    changed &= (before != UNCLASSIFIED_ID) & (after != UNCLASSIFIED_ID)
    return before * changed, after * changed, np.where(changed, np.minimum(sure, surer), np.uint8(255))


def _holds(directory: Path, kind: str) -> bool:
    """Whether a run holds a store of a kind, and not only its empty folder."""
    return (directory / kind / "zarr.json").is_file()


def _open(directory: Path, kind: str) -> Store:
    """A store of the earlier run. Raises ReadError."""
    try:
        return store.open_store(directory, kind)
    except InputError as e:
        raise ReadError(str(e)) from e


def _path(directory: Path, layer: Layer, tile: Tile, kept: Store, name: str | None) -> Path:
    """The map of an earlier run, which has the same name and other months."""
    place = place_of(name, kept.period)
    return map_path(directory, replace(layer, place=place), tile.grid.epsg, sorted({t.grid.epsg for t in kept.tiles}))


def _pixels(path: Path, where: Grid) -> NDArray[Any]:
    """(y, x) pixels of a finished map. Raises ReadError if it cannot be read or does not cover the grid."""
    try:
        with rasterio.open(path, driver="GTiff", sharing=False) as source:
            whole = Grid(where.epsg, round(source.transform.c), round(source.transform.f), source.width, source.height)
            row, column = where.offset_in(whole)
            pixels: NDArray[Any] = source.read(1, window=Window(column, row, where.width, where.height))
    except RasterioError as e:
        raise ReadError(f"cannot read {path}: {e}; {to_type('verify', path.parent)} tells more") from e
    if pixels.shape != where.shape:
        raise ReadError(f"{path} does not cover the tile; {to_type('verify', path.parent)} tells more")
    return pixels
