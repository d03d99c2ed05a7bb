"""Scenes + grid -> lazy DN stacks at each band's native resolution, assembled by stackstac.

stackstac never derives a grid here: items are rebuilt from `Scene`, with `proj:epsg` whatever the catalogue wrote, and
CRS, bounds and pixel size are always given. `reader.SceneReader` opens the files. SCL is read first; of each band, only
the rectangle with clear pixels is read. A failed read raises, or is recorded in `Access.faults`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import dask.array as da
import numpy as np
import stackstac
from numpy.typing import NDArray
from rasterio import windows
from rasterio.windows import Window
from shapely.geometry import box
from stackstac.rio_env import LayeredEnv

from geomap.errors import ReadError
from geomap.grid import outline
from geomap.lonlat import Box, shared
from geomap.read.access import GDAL_OPTIONS, Access
from geomap.read.reader import Said, SceneReader
from geomap.sentinel2 import BANDS, BANDS_10M, BANDS_20M, SCL
from geomap.types import BandStack, Grid, Period, Scene, SceneAsset, Stack

CHUNK_PX: Final = 1024
"""Pixels per side of a chunk: a whole tile, or four tiles of 20 m pixels, so that a block of a file is read once."""

MOST_OF: Final = 0.5
"""Share of a scene's box in degrees that its rasters cover at least; the granule is turned in it."""

MONTH_BYTES: Final = 64 * 2**20
"""Most bytes of one month of one band, which is in memory for its median; chunks shrink to stay below it."""

_CACHED: Final = {"CPL_VSIL_CURL_NON_CACHED": ""}
"""GDAL's cache is kept while SceneReader reads a file, which is opened twice, and cleared by it afterwards."""


def scene_classes(scenes: Sequence[Scene], grid: Grid, access: Access, margin: int = 0) -> da.Array:
    """(scene, y, x) lazy SCL values at 20 m over a grid of 10 m pixels; 0 where a scene has none.

    `margin`: number of 20 m pixels that are also read on each side of the grid.
    """
    inner = grid.at(20)
    wide, high = inner.width + 2 * margin, inner.height + 2 * margin
    west, north = inner.west - 20 * margin, inner.north + 20 * margin
    outer = replace(inner, west=west, north=north, width=wide, height=high)
    layers = _layers(scenes, (SCL,), outer, max(outer.shape), np.uint8, access, {})
    classes: da.Array = layers[:, 0]
    return classes


def stack(
    scenes: Sequence[Scene],
    grid: Grid,
    period: Period,
    access: Access,
    clear: NDArray[np.bool_],
    bands: Collection[str] = BANDS,
) -> Stack:
    """Lazy DNs of the scenes over a grid of 10 m pixels; scenes without a clear pixel are left out.

    Args:
        scenes: those that touch the tile, all inside the period; earlier granules of a pass take precedence.
        grid: 10 m, of even size.
        period: the period whose months `Stack.step` counts.
        access: how the files are opened.
        clear: (scene, y, x) at 20 m; pixels outside the bounding rectangle of a scene's clear ones read as nodata.
        bands: those that are wanted; with those of 20 m alone, chunks cover four times the ground.

    Raises:
        ValueError: no scenes, or a scene outside the period.
    """
    steps = [period.step(scene.time) for scene in scenes]
    if not scenes or None in steps:
        raise ValueError("stack needs at least one scene, and every scene inside the period")
    passes = {key: number for number, key in enumerate(dict.fromkeys(s.acquisition for s in scenes))}
    used = [(scene, step, row) for scene, step, row in zip(scenes, steps, clear, strict=True) if row.any()]
    kept = [scene for scene, _, _ in used]
    fine, coarse = ([band for band in of if band in bands] for of in (BANDS_10M, BANDS_20M))
    most = max(Counter(step for _, step, _ in used).values(), default=1)
    chunk = chunk_px(most) if fine else 2 * chunk_px(most)
    needed = [_extent(row) for _, _, row in used]
    return Stack(
        fine=_bands(kept, fine, grid, chunk, access, needed),
        coarse=_bands(kept, coarse, grid.at(20), chunk // 2, access, needed),
        clear=tuple(row for _, _, row in used),
        id=tuple(scene.id for scene in kept),
        step=tuple(step for _, step, _ in used if step is not None),
        acquisition=tuple(passes[scene.acquisition] for scene in kept),
    )


def chunk_px(scenes: int) -> int:
    """Pixels per side of a 10 m chunk: CHUNK_PX, or fewer if a month with this many scenes would exceed MONTH_BYTES."""
    side = CHUNK_PX
    while side > 64 and 2 * scenes * side**2 > MONTH_BYTES:
        side //= 2
    return side


def _extent(clear: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(first row, row after the last, first column, column after the last) of the True pixels; there must be some."""
    rows, cols = np.flatnonzero(clear.any(axis=1)), np.flatnonzero(clear.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1


def _bands(
    scenes: Sequence[Scene],
    bands: Sequence[str],
    grid: Grid,
    chunk: int,
    access: Access,
    needed: Sequence[tuple[int, int, int, int]],
) -> BandStack:
    scale = 20 // grid.resolution
    parts: dict[str, Window] = {}
    for scene, extent in zip(scenes, needed, strict=True):
        top, bottom, left, right = (scale * v for v in extent)
        part = Window(left, top, right - left, bottom - top)
        for band in bands:
            href = scene.assets[band].href
            parts[href] = windows.union(parts[href], part) if href in parts else part
    offset = np.array([[scene.assets[band].offset for band in bands] for scene in scenes], np.int32)
    dn = _layers(scenes, bands, grid, chunk, np.uint16, access, parts)
    return BandStack(dn, offset.reshape(len(scenes), len(bands)))


def _layers(
    scenes: Sequence[Scene],
    bands: Sequence[str],
    grid: Grid,
    chunk: int,
    dtype: type[np.unsignedinteger[Any]],
    access: Access,
    needed: Mapping[str, Window],
) -> da.Array:
    """(scene, band, y, x) raw values, 0 where a scene has none or none are needed."""
    wanted = (len(scenes), len(bands), *grid.shape)
    nothing: da.Array = da.zeros(wanted, dtype=dtype, chunks=(1, 1, chunk, chunk))
    if not (scenes and bands):
        return nothing
    cube = stackstac.stack(
        [_item(scene, bands) for scene in scenes],
        assets=list(bands),
        epsg=grid.epsg,
        resolution=grid.resolution,
        bounds=grid.bounds,
        snap_bounds=False,
        dtype=np.dtype(dtype),
        fill_value=dtype(0),
        rescale=False,  # offsets are decided in the catalogue stage and applied in the composite
        chunksize=(1, 1, chunk, chunk),
        sortby_date=False,
        xy_coords=False,
        properties=False,
        band_coords=False,
        gdal_env=LayeredEnv(always={**GDAL_OPTIONS, **_CACHED, **access.options}),
        errors_as_nodata=(),
        reader=functools.partial(SceneReader, needed=needed, access=access, said=_said(scenes, bands)),
    )
    if not cube.sizes["time"]:  # the boxes in degrees overlap but the rasters do not
        return nothing
    return _all_scenes(cube.data, [str(i) for i in cube.coords["id"].values], scenes, wanted)


def _all_scenes(cube: da.Array, ids: list[str], scenes: Sequence[Scene], wanted: tuple[int, ...]) -> da.Array:
    """Put back, as nodata, the scenes that stackstac dropped because they miss the grid."""
    if cube.shape == wanted:
        return cube
    if cube.shape[1:] != wanted[1:]:
        raise ReadError(f"stackstac returned {cube.shape} where {wanted} was asked for")
    empty = da.zeros((1, *cube.shape[1:]), dtype=cube.dtype, chunks=(1, *cube.chunks[1:]))
    row = {scene_id: i for i, scene_id in enumerate(ids)}
    whole: da.Array = da.concatenate([cube[row[s.id] : row[s.id] + 1] if s.id in row else empty for s in scenes])
    return whole


def _said(scenes: Sequence[Scene], bands: Sequence[str]) -> dict[str, Said]:
    """By address, what the items say of the places of their files."""
    found = ((scene, scene.assets[band]) for scene in scenes for band in bands)
    return {a.href: Said(scene.epsg, scene.bbox, a.transform, a.shape) for scene, a in found}


def _fills(scene: Scene, asset: SceneAsset) -> bool:
    """Whether a raster covers most of its scene, as its item states it.

    If not, stackstac gets the scene's box alone, so that the file is opened wherever the scene is said to lie, and is
    found to be smaller or not.
    """
    assert asset.transform
    assert asset.shape
    (rows, columns), (a, _, west, _, e, north) = asset.shape, asset.transform[:6]
    return _covers(scene.epsg, (west, north + e * rows, west + a * columns, north), scene.bbox)


@functools.lru_cache(maxsize=4096)
def _covers(epsg: int, raster: tuple[float, float, float, float], bbox: tuple[float, float, float, float]) -> bool:
    """Whether a raster in metres covers most of a box in degrees."""
    whole = box(*Box(*bbox).bounds)
    return shared(outline(epsg, raster), whole) >= MOST_OF * float(whole.area)


def _item(scene: Scene, bands: Sequence[str]) -> dict[str, Any]:
    """The scene as a STAC item for stackstac."""
    assets: dict[str, dict[str, Any]] = {}
    for band in bands:
        asset = scene.assets[band]
        assets[band] = {"href": asset.href, "type": "image/tiff"}
        if asset.transform and asset.shape and _fills(scene, asset):
            assets[band] |= {"proj:transform": list(asset.transform), "proj:shape": list(asset.shape)}
    return {
        "type": "Feature",
        "id": scene.id,
        "bbox": [*Box(*scene.bbox).bounds],
        "properties": {"datetime": scene.time.isoformat(), "proj:epsg": scene.epsg},
        "assets": assets,
    }
