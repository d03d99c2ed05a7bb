"""Finished tiles -> maps: one COG per layer and zone with its metadata, made in staging, then moved into place."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from numpy.typing import NDArray

from geomap import files, grid
from geomap.catalog import offset_check
from geomap.run import record, stores
from geomap.run.directory import State
from geomap.run.prepare import Product
from geomap.store.store import COMPOSITES
from geomap.types import Progress, Tile
from geomap.write import vrt
from geomap.write.cog import write_map
from geomap.write.layer import Layer, Statistics
from geomap.write.stac import MapFile, write_stac

Derived: TypeAlias = Mapping[str, Callable[[Tile], NDArray[Any]]]
"""By stem, how the pixels of a tile are made of layers that there are."""

WRITERS: Final = 4
"""Maps written at a time, at most; each takes up to 50 MB."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Maps:
    """The maps of a run, in their place."""

    paths: tuple[Path, ...]
    statistics: Mapping[str, Statistics]  # by layer stem, over all zones
    missed: int = 0  # scenes that some tile was made without, a file of theirs being missing or damaged
    update: record.Update | None = None  # what was taken over from an earlier run


def assemble(
    product: Product,
    state: State,
    asked: Mapping[str, Any],
    missing: Mapping[str, str],
    progress: Progress,
    derived: Derived = MappingProxyType({}),
) -> Maps:
    """Tiles -> one COG per layer and zone and their metadata, all in staging; then everything moves into place.

    Args:
        product: what the files say of their making.
        state: holds every tile of the product but the missing ones.
        asked: the request as run.json keeps it.
        missing: tiles in quarantine, which are nodata in the maps, and the kind of error; by name.
        progress: told of maps written.
        derived: the layers of the product that the state does not hold.

    Raises:
        DiskFullError, OutputError: the maps cannot be written.
        OffsetError: the pixels of a scene contradict its offset.
    """
    ready = [tile for tile in product.tiles if tile.name not in missing]
    staging = state.staging()
    zones = sorted({tile.grid.epsg for tile in product.tiles})
    maps: list[MapFile] = []
    for epsg in zones:
        whole = grid.mosaic_grid(tuple(tile.grid for tile in product.tiles if tile.grid.epsg == epsg))
        maps += [MapFile(map_path(staging, m, epsg, zones), m, whole) for m in product.layers]
    merged = _write_maps(maps, ready, state, _tags(product), progress, derived)
    vrt.write_vrts(staging, maps)
    scenes = state.scenes or ()
    abouts = {tile.name: state.about(tile) for tile in ready}
    evidence = {name: about.evidence for name, about in abouts.items()}
    dark = offset_check.total(e.dark for e in evidence.values())
    missed = record.missed_scenes({name: e.missed for name, e in evidence.items()})
    scenes_missed = len({m.scene for m in missed})
    for doubt in offset_check.check(scenes, dark).values():
        log.warning("the offset is doubtful: %s", doubt)
    offsets = record.offset_groups(record.scenes_json(scenes, dark))
    write_stac(
        staging,
        maps,
        product.period,
        software=record.software(),
        lineage=product.lineage,
        provenance={
            "weights": product.weights,
            "weights_sha256": product.weights_sha256,
            "scenes": len(scenes),
            "scenes_missed": scenes_missed,
            "offsets": [asdict(group) for group in offsets],
            **({"tiles_missing": len(missing)} if missing else {}),
        },
    )
    names = [tile.name for tile in product.tiles]
    update = record.update(asked, [about.reused for about in abouts.values()])
    record.write(staging, asked, names, scenes, state.left_out, dark, merged, missing, missed, product.vectors, update)
    if scenes and any(kept.kind == COMPOSITES for kept in state.stores):
        stores.record(staging, ready, scenes, product.period, evidence)
    stores.link(state.stores, staging, missing)
    files.write_sums(staging)
    files.publish(staging, state.directory)
    return Maps(tuple(state.directory / m.path.name for m in maps), merged, scenes_missed, update)


def _write_maps(
    maps: Sequence[MapFile],
    tiles: Sequence[Tile],
    state: State,
    tags: Mapping[str, str],
    progress: Progress,
    derived: Derived,
) -> dict[str, Statistics]:
    """Write several maps at a time, each from the tiles of its zone. Returns statistics by layer stem."""

    def written(m: MapFile) -> Statistics:
        load = derived.get(m.layer.stem) or partial(_load, state, m.layer)
        pixels = ((tile.grid, load(tile)) for tile in tiles if tile.grid.epsg == m.grid.epsg)
        return write_map(m.path, m.layer, m.grid, pixels, tags)

    statistics: dict[str, list[Statistics]] = {m.layer.stem: [] for m in maps}
    pool = ThreadPoolExecutor(min(WRITERS, os.cpu_count() or 1), "write")
    try:
        for done, (m, found) in enumerate(zip(maps, pool.map(written, maps), strict=True), 1):
            statistics[m.layer.stem].append(found)
            progress("write", done, len(maps))
    finally:
        pool.shutdown(cancel_futures=True)
    return {stem: record.merge(parts) for stem, parts in statistics.items()}


def published(product: Product, directory: Path) -> Maps:
    """The maps of a run that is finished."""
    zones = sorted({tile.grid.epsg for tile in product.tiles})
    paths = tuple(map_path(directory, layer, epsg, zones) for epsg in zones for layer in product.layers)
    missed = {m.scene for m in record.inputs(directory).missed}
    return Maps(paths, record.read_statistics(directory), len(missed), record.read_update(directory))


def _load(state: State, layer: Layer, tile: Tile) -> NDArray[Any]:
    return state.load(tile, layer.stem)


def map_path(directory: Path, layer: Layer, epsg: int, zones: Sequence[int]) -> Path:
    """Where a map lies: `<stem>.tif`, or `<stem>_<epsg>.tif` where the area spans zones."""
    return directory / (f"{layer.stem}.tif" if len(zones) == 1 else f"{layer.stem}_{epsg}.tif")


def _tags(product: Product) -> dict[str, str]:
    """TIFF metadata: nothing that differs between two runs of one request."""
    return {
        "TIFFTAG_SOFTWARE": f"geomap {version('geomap')}",
        "TIFFTAG_DATETIME": product.period.end.strftime("%Y:%m:%d %H:%M:%S"),
        "TIFFTAG_COPYRIGHT": "Contains modified Copernicus Sentinel data",
        "GEOMAP_PERIOD": str(product.period),
        "GEOMAP_WEIGHTS": f"{product.weights} {product.weights_sha256}",
    }
