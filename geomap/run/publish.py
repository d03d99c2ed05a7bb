"""Finished tiles -> maps: one COG per layer and zone, made in staging, then moved into place."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from numpy.typing import NDArray

from geomap import __version__, files, grid
from geomap.catalog import offset_check
from geomap.errors import ReadError
from geomap.run import account, page, stores
from geomap.run.account import Account, Mapped
from geomap.run.directory import RunDirectory
from geomap.run.learned import transferred
from geomap.run.prepare import Product
from geomap.run.record import (
    FILE,
    Record,
    Update,
    merge,
    missed_by_scene,
    offset_groups,
    read_record,
    updated,
    used_scenes,
    write_record,
)
from geomap.run.tile_file import About, Task
from geomap.store.store import COMPOSITES
from geomap.types import Progress, Scene, Tile
from geomap.write import patches, vrt
from geomap.write.areas import write_areas
from geomap.write.cog import write_map
from geomap.write.layer import Layer, Statistics, file_stem, months_of
from geomap.write.qgis import Shown, definition
from geomap.write.regrid import own_path, write_own
from geomap.write.stac import MapFile, OwnMap, write_stac

Derived: TypeAlias = Mapping[str, Callable[[Tile], NDArray[Any]]]
"""Layer stem -> function that computes a tile's pixels from other layers."""

WRITERS: Final = 4
"""Most maps written at a time; each takes up to 50 MB."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Maps:
    """The published maps of a run."""

    paths: tuple[Path, ...]
    statistics: Mapping[str, Statistics]  # by layer stem, over all zones
    missed: int = 0  # scenes left out of at least one tile because a file is missing or damaged
    update: Update | None = None  # what was reused from an earlier run
    account: Account | None = None  # what became of the scenes; None if none were searched
    mapped: Mapped | None = None  # None of runs of earlier versions


def publish_maps(
    product: Product,
    run: RunDirectory,
    tasks: Sequence[Task],
    asked: Mapping[str, Any],
    missing: Mapping[str, str],
    progress: Progress,
    derived: Derived = MappingProxyType({}),
    not_made: Mapping[str, int] = MappingProxyType({}),
    beside: Callable[[Path], None] = lambda staging: None,
    require: Callable[[], None] = lambda: None,
) -> Maps:
    """Write one COG per layer and zone and the metadata, all in staging; then move everything into place.

    Args:
        product: what the files say about how they were made.
        run: holds every tile of the product except the missing ones.
        tasks: the tiles of the product.
        asked: the request as run.json keeps it.
        missing: tile name -> kind of error, for tiles that are nodata in the maps.
        progress: callback for maps written.
        derived: layers of the product that are computed, not kept by the run.
        not_made: tile name -> pixels of the area, for the same tiles.
        beside: writes further files beside the finished maps, given their directory.
        require: raises if the maps are not to take their place: what they were made from may be another now.

    Raises:
        DiskFullError, OutputError: the maps cannot be written.
        OffsetError: the pixels of a scene contradict its offset.
        ReadError: a store changed after a tile was written to it.
    """
    ready = [task for task in tasks if task.tile.name not in missing]
    staging, product = run.staging(), _with_learned(product, asked)
    maps = _files(product, staging)
    statistics = _write_maps(maps, [task.tile for task in ready], run, _tags(product), progress, derived)
    beside(staging)
    own = [m for m in maps if m.layer.of_legend]
    write_areas(staging, ((layer, statistics[layer.stem].counts) for layer in product.layers if layer.of_legend))
    if product.finish.vector:
        _write_vectors(own, progress)
    vrt.write_vrts(staging, maps, statistics)
    owned = _write_own(staging, maps, product, statistics, progress)
    _write_group(staging, maps, owned, product, statistics)
    abouts = {task.tile.name: run.about(task.tile) for task in ready}
    recorded = replace(_recorded(product, run, tasks, asked, missing, abouts), maps=statistics)
    least = asked.get("min_clear_months")
    lost = sum(not_made.values())
    seen = account.mapped((a.seen for a in abouts.values()), lost, product.period, least, recorded.account)
    recorded = replace(recorded, mapped=seen)
    pictures = page.write_pictures(maps, product, recorded) if product.report else []
    _write_stac(staging, maps, owned, product, recorded, _used(tasks, recorded), pictures)
    if run.scenes and any(kept.kind == COMPOSITES for kept in run.stores):
        stores.write_made_from(staging, ready, product.period, abouts)
    stores.link(run.stores, staging, not_made)
    sums = files.digests(staging)
    if product.report:
        composites = next((kept for kept in run.stores if kept.kind == COMPOSITES), None)
        page.write_page(staging, maps, product, recorded, sums, composites)
        sums[files.PAGE] = files.sha256(staging / files.PAGE)
    _check_stores(run, ready, abouts, sums)
    write_record(staging, replace(recorded, files=len(sums), seal=files.seal(sums)))
    files.write_sums(staging, {**sums, FILE: files.sha256(staging / FILE)})
    require()
    files.publish(staging, run.path)
    return _maps(product, run.path, recorded)


def _check_stores(
    run: RunDirectory, tasks: Sequence[Task], abouts: Mapping[str, About], sums: Mapping[str, str]
) -> None:
    """Raise ReadError if a tile in a store is no longer what was written."""
    for task in tasks:
        for kept in run.stores:
            for file, digest in abouts[task.tile.name].stored[kept.kind].items():
                if sums.get(f"{kept.kind}/{file}", "") != digest:
                    raise ReadError(
                        f"{kept.path / file} changed after tile {task.tile.name} was written; type the run's command "
                        "again: that tile is made again"
                    )


def published(product: Product, directory: Path) -> Maps:
    """The maps of a finished run. Raises InputError if its record is damaged."""
    return _maps(product, directory, read_record(directory))


def _files(product: Product, directory: Path) -> list[MapFile]:
    """The maps of every zone, with the grid of each."""
    zones = sorted({tile.grid.epsg for tile in product.tiles})
    maps: list[MapFile] = []
    for epsg in zones:
        whole = grid.mosaic_grid(tuple(tile.grid for tile in product.tiles if tile.grid.epsg == epsg))
        maps += [MapFile(map_path(directory, layer, epsg, zones), layer, whole) for layer in product.layers]
    return maps


def _recorded(
    product: Product,
    run: RunDirectory,
    tasks: Sequence[Task],
    asked: Mapping[str, Any],
    missing: Mapping[str, str],
    abouts: Mapping[str, About],
) -> Record:
    """The content of run.json but for its pixels. Raises OffsetError; warns about offsets that are doubtful."""
    scenes = run.scenes or ()
    dark = offset_check.total(about.dark for about in abouts.values())
    for doubt in offset_check.check(scenes, dark).values():
        log.warning("the offset is doubtful: %s", doubt)
    fates = account.fates(scenes, tasks, abouts, product.period)
    return Record(
        request=dict(asked),
        scenes=used_scenes(scenes, dark, fates),
        left_out=run.left_out,
        missed=missed_by_scene({name: about.missed for name, about in abouts.items()}),
        tiles=tuple(tile.name for tile in product.tiles),
        quarantined=dict(missing),
        maps={},
        asked=dict(product.told),
        vectors=dict(product.vectors),
        elsewhere=product.elsewhere,
        update=updated(asked, (about.reused for about in abouts.values())),
        account=account.account(run.searched, run.left_out, fates) if run.searched.items else None,
    )


def _write_group(
    staging: Path,
    maps: Sequence[MapFile],
    owned: Sequence[OwnMap],
    product: Product,
    statistics: Mapping[str, Statistics],
) -> None:
    """Write the layer definition that opens all maps in QGIS: `maps.qlr`, or `<place>.qlr` if the maps have a name."""
    of: dict[str, MapFile] = {}  # by layer: its map, or the largest of its zones, which its virtual raster begins with
    for m in sorted(maps, key=lambda m: (-m.grid.width * m.grid.height, m.grid.epsg)):
        of.setdefault(m.layer.stem, m)
    several = len(maps) > len(of)
    shown = []
    for layer in product.layers:
        m = of[layer.stem]
        file = f"{layer.name}.vrt" if several else m.path.name
        shown.append(Shown(file, layer, m.grid.crs, statistics[layer.stem].counts))
    shown += [
        Shown(one.path.name, one.layer, one.grid.code, statistics[one.layer.stem].counts, one.grid.name)
        for one in owned
    ]
    place = product.layers[0].place
    title = place.replace("_", " ") or f"geomap {months_of(product.period)}"
    files.write_bytes(staging / f"{place or 'maps'}.qlr", definition(title, shown))


def _used(tasks: Sequence[Task], recorded: Record) -> dict[int, list[Scene]]:
    """By zone, the scenes over its tiles that the maps were made from."""
    used = {scene.id for scene in recorded.scenes if scene.fate.use in ("used", "in part")}
    zones: dict[int, dict[str, Scene]] = {}
    for task in tasks:
        zone = zones.setdefault(task.tile.grid.epsg, {})
        zone.update((scene.id, scene) for scene in task.scenes if scene.id in used)
    return {epsg: [*found.values()] for epsg, found in zones.items()}


def _write_stac(
    staging: Path,
    maps: Sequence[MapFile],
    owned: Sequence[OwnMap],
    product: Product,
    recorded: Record,
    scenes: Mapping[int, Sequence[Scene]],
    pictures: Sequence[Path],
) -> None:
    write_stac(
        staging,
        maps,
        product.period,
        software=recorded.software,
        lineage=product.lineage,
        provenance={
            "weights": product.weights,
            "weights_sha256": product.weights_sha256,
            "scenes": len(recorded.scenes),
            "scenes_missed": _missed(recorded),
            "offsets": [asdict(group) for group in offset_groups(recorded.scenes)],
            **({"tiles_missing": len(recorded.quarantined)} if recorded.quarantined else {}),
        },
        scenes=scenes,
        pictures=pictures,
        own=owned,
    )


def _maps(product: Product, directory: Path, recorded: Record) -> Maps:
    paths = [m.path for m in _files(product, directory)]
    paths += [own_path(directory, layer, product.own) for layer in product.layers] if product.own else []
    return Maps(tuple(paths), recorded.maps, _missed(recorded), recorded.update, recorded.account, recorded.mapped)


def _missed(recorded: Record) -> int:
    """Number of scenes left out of at least one tile."""
    return len({m.scene for m in recorded.missed})


def _write_maps(
    maps: Sequence[MapFile],
    tiles: Sequence[Tile],
    run: RunDirectory,
    tags: Mapping[str, str],
    progress: Progress,
    derived: Derived,
) -> dict[str, Statistics]:
    """Write several maps at a time, each from the tiles of its zone. Returns statistics by layer stem."""

    def written(m: MapFile) -> Statistics:
        load = derived.get(m.layer.stem) or partial(_load, run, m.layer)
        pixels = ((tile.grid, load(tile)) for tile in tiles if tile.grid.epsg == m.grid.epsg)
        return write_map(m.path, m.layer, m.grid, pixels, tags)

    statistics: dict[str, list[Statistics]] = {m.layer.stem: [] for m in maps}
    alone = {m: written(m) for m in maps if m.layer.bands}  # its blocks fill GDAL's cache, which all writers share
    pool = ThreadPoolExecutor(min(WRITERS, os.cpu_count() or 1), "write")
    try:
        others = pool.map(written, [m for m in maps if m not in alone])
        for done, m in enumerate(maps, 1):
            found = alone[m] if m in alone else next(others)
            statistics[m.layer.stem].append(found)
            progress("write", done, len(maps))
    finally:
        pool.shutdown(cancel_futures=True)
    return {stem: merge(parts) for stem, parts in statistics.items()}


def _write_own(
    staging: Path,
    maps: Sequence[MapFile],
    product: Product,
    statistics: Mapping[str, Statistics],
    progress: Progress,
) -> list[OwnMap]:
    """Write the maps of every layer once more on the grid that was asked for, several at a time; none without one."""
    if product.own is None:
        return []
    own, tags = product.own, _tags(product)

    def written(layer: Layer) -> OwnMap:
        members = [m for m in maps if m.layer.stem == layer.stem]
        return write_own(staging, members, own, statistics[layer.stem], tags)

    owned: list[OwnMap] = []
    with ThreadPoolExecutor(min(WRITERS, os.cpu_count() or 1), "regrid") as pool:
        for one in pool.map(written, product.layers):
            owned.append(one)
            progress("regrid", len(owned), len(product.layers))
    return owned


def _write_vectors(maps: Sequence[MapFile], progress: Progress) -> None:
    """The polygons of each class map: a GeoPackage for each legend, with a layer for each zone."""
    for done, m in enumerate(maps, start=1):
        zone = m.path.stem.removeprefix(m.layer.name)
        sure = m.path.with_name(f"{file_stem(f'{m.layer.stem}_confidence', m.layer.place)}{zone}.tif")
        path = m.path.with_name(f"{m.layer.name}.gpkg")
        patches.write_polygons(path, m.path.stem, m.layer, m.path, sure, m.grid)
        progress("vector", done, len(maps))


def merged(product: Product, run: RunDirectory, tiles: Sequence[Tile], progress: Progress) -> Derived:
    """How the tiles of class maps are made in which small patches are merged; nothing if that is not asked for.

    Raises DiskFullError, OutputError.
    """
    least, home = product.finish.least_pixels, run.sieved()
    if least <= 1:
        return {}
    maps = [m for m in _files(product, home) if m.layer.of_legend]
    for done, m in enumerate(maps, start=1):
        own = [tile for tile in tiles if tile.grid.epsg == m.grid.epsg]
        patches.merge_small(m.path, m.grid, ((t.grid, run.load(t, m.layer.stem)) for t in own), least)
        progress("merge", done, len(maps))
    by_place = {(m.layer.stem, m.grid.epsg): m for m in maps}

    def load(stem: str, tile: Tile) -> NDArray[Any]:
        found = by_place[stem, tile.grid.epsg]
        return patches.read_window(found.path, found.grid, tile.grid)

    return {m.layer.stem: partial(load, m.layer.stem) for m in maps}


def _load(run: RunDirectory, layer: Layer, tile: Tile) -> NDArray[Any]:
    return run.load(tile, layer.stem)


def map_path(directory: Path, layer: Layer, epsg: int, zones: Sequence[int]) -> Path:
    """Path of a map: `<name>.tif`, or `<name>_<epsg>.tif` if the area spans zones."""
    return directory / f"{file_stem(layer.stem, layer.place, epsg if len(zones) > 1 else None)}.tif"


def _with_learned(product: Product, asked: Mapping[str, Any]) -> Product:
    """A product whose maps of a legend that points moved say so in their metadata, by digests of `asked`."""
    name, taken = product.taught, asked.get("learned")
    if name is None or not product.moved:
        return product
    how = "transferred" if transferred(asked) else "points"
    digest = asked["points"]["sha256"] if taken is None else taken["sha256" if how == "transferred" else "points"]
    own = {name, f"{name}_confidence", *(f"{name}_{extra}" for extra in product.finish.layers)}
    tag = ("GEOMAP_LEARNED", f"{how} {digest[:12]}")
    layers = (replace(m, tags=(*m.tags, tag)) if m.stem in own else m for m in product.layers)
    return replace(product, layers=tuple(layers))


def _tags(product: Product) -> dict[str, str]:
    """TIFF metadata: nothing that differs between two runs of one request."""
    return {
        "TIFFTAG_SOFTWARE": f"geomap {__version__}",
        "TIFFTAG_DATETIME": product.period.end.strftime("%Y:%m:%d %H:%M:%S"),
        "TIFFTAG_COPYRIGHT": "Contains modified Copernicus Sentinel data",
        "GEOMAP_PERIOD": str(product.period),
        "GEOMAP_WEIGHTS": f"{product.weights} {product.weights_sha256}",
    }
