"""What runs saved, as arrays: `open_store`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
import xarray as xr
from numpy.typing import NDArray

from geomap.api.checks import checked_path
from geomap.errors import InputError
from geomap.grid import by_square, centres, mosaic_grid
from geomap.run import record
from geomap.sentinel2 import BANDS
from geomap.store import store as stored
from geomap.store.store import COMPOSITES, EMBEDDINGS
from geomap.text import plain, shown
from geomap.types import CLEAR_MONTHS, NOT_MAPPED, Grid

CHUNK: Final = 256
"""Pixels a side of the chunks of arrays: embeddings of 384 dimensions have 100 MB in one."""


def open_store(path: Path | str, epsg: int | None = None) -> xr.Dataset:
    """Open what a run saved with `save_composites` and `save_embeddings`: lazily, cut to the bounds of the area.

    Args:
        path: the run's directory, or one of its stores.
        epsg: the UTM zone, for an area over several zones.

    Returns:
        For embeddings: `embedding` (component, y, x) float32 like the result of `embed`, but rounded to bytes, with the
        coordinate `clear_months`. For composites: `composite` (month, band, y, x) uint16, 0 = nodata, with the
        coordinate `clear` (month, y, x).

    Raises:
        InputError: no store, a store of another version or without all of its files, or several zones without `epsg`.
        ReadError: its coordinates, or the directions of its embeddings, are damaged.

    The arrays are read when they are used. Zarr's own checksums then find changed bytes in a chunk, but not a chunk
    that was exchanged for another; `geomap verify DIR` compares every file with its sha256.
    """
    folder = checked_path("open_store", path, "the directory of a run, or a store")
    kinds = [kind for kind in (COMPOSITES, EMBEDDINGS) if (folder / kind).is_dir()]
    stores = [stored.open_store(folder, kind) for kind in kinds] or [stored.open_store(folder)]
    for kept in stores:
        if lost := kept.lost():
            raise InputError(f"{kept.path} lacks {lost}; copy the whole store again, or type its run's command again")
    opened = [_opened(kept, epsg, folder) for kept in stores]
    merged = xr.merge(opened, compat="override", combine_attrs="drop_conflicts")
    return _evenly(merged.drop_encoding())  # Zarr takes even chunks, and none that differ from an encoding


def _evenly(arrays: Any) -> xr.Dataset:
    """A Dataset in chunks of CHUNK x CHUNK pixels, whole along other dimensions."""
    found: xr.Dataset = arrays.chunk({dim: CHUNK if dim in ("y", "x") else -1 for dim in arrays.dims})
    return found


def _opened(kept: stored.Store, epsg: int | None, run: Path) -> xr.Dataset:
    """One zone of a store as arrays like those of `composite` and `embed`."""
    zones = sorted({tile.grid.epsg for tile in kept.tiles})
    if epsg is None and len(zones) > 1:
        raise InputError(f"{kept.path} has the zones {', '.join(map(str, zones))}; give one of them as epsg=")
    asked = plain(zones[0] if epsg is None else epsg)
    zone = next((zone for zone in zones if str(zone) == asked), None)
    if zone is None:
        raise InputError(f"{kept.path} has no zone {shown(asked)}; give one of {', '.join(map(str, zones))}")
    where = mosaic_grid(tuple(tile.grid for tile in kept.tiles if tile.grid.epsg == zone))
    parts = [_square(kept, square, part) for square, part in by_square(where).items()]
    found: Any = _evenly(xr.combine_by_coords(parts, combine_attrs="override"))
    if kept.kind == COMPOSITES:
        composites: xr.Dataset = found.drop_attrs(deep=False).assign_coords(clear=found["clear"])
        inside = _inside(run, zone, where)
        return composites if inside is None else composites.assign_coords(inside=(("y", "x"), inside))
    codes = found["embedding"].astype(np.float32)
    length = np.sqrt((codes * codes).sum("component"))
    basis = xr.DataArray(kept.basis(), dims=("dimension", "component"))
    vectors = xr.dot(codes / length.where(length > 0), basis, dim="component").rename(dimension="component")
    of = kept.about["weights"]
    about = {"weights": of["name"], "weights_sha256": of["sha256"], "text_space": kept.about["text_space"]}
    placed = vectors.transpose("component", "y", "x").assign_coords({CLEAR_MONTHS: found[CLEAR_MONTHS]})
    opened: xr.Dataset = placed.assign_attrs(long_name="unit embedding", **about).to_dataset(name="embedding")
    return opened


def _square(kept: stored.Store, square: str, part: Grid) -> xr.Dataset:
    """The arrays of a square of 100 km, cut to a grid inside it."""
    row, column = part.offset_in(kept.squares[square])
    cut = {"y": slice(row, row + part.height), "x": slice(column, column + part.width)}
    found: xr.Dataset = xr.open_zarr(kept.path, group=kept.group(square), mask_and_scale=False, consolidated=False)
    cutout = found.isel(cut)
    wanted: dict[str, Any] = dict(zip(("x", "y"), centres(part), strict=True))
    if kept.kind == COMPOSITES:
        months = [f"{name}-01" for name in kept.period.month_names]
        wanted |= {"month": np.array(months, "datetime64[ns]"), "band": np.array(BANDS)}
    for name, values in wanted.items():  # zarr fills a coordinate whose file is gone
        if not np.array_equal(cutout[name].values, values):
            raise stored.damaged(kept.path, f"the coordinate {name} is not that of its tiles")
    return cutout


def _inside(run: Path, zone: int, where: Grid) -> NDArray[np.bool_] | None:
    """(y, x) pixels of the area, as the run's map of clear months tells; None of a store without its run."""
    names = record.map_files(record.read_record(run), CLEAR_MONTHS) if (run / record.FILE).is_file() else []
    for path in (run / name for name in names if len(names) == 1 or name.endswith(f"_{zone}.tif")):
        with rasterio.open(path, driver="GTiff", sharing=False) as source:
            months: NDArray[np.uint8] = source.read(1)
        return months != NOT_MAPPED if months.shape == where.shape else None
    return None
