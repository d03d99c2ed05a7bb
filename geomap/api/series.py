"""The first steps on arrays: `search`, `composite` and `embed`."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import rioxarray  # noqa: F401  gives arrays their `.rio`
import torch
import xarray as xr
from affine import Affine
from numpy.typing import NDArray

from geomap import pipeline
from geomap.aoi import Area, polygons_of
from geomap.api.checks import checked_least, checked_series, require_neighbours
from geomap.catalog import offset_check
from geomap.catalog.offset import OffsetPolicy
from geomap.catalog.over import over
from geomap.catalog.search import Found
from geomap.composite.mask import DEFAULT_MASK, Mask
from geomap.encode.engine import Engine
from geomap.encode.weights import Weights, load_weights
from geomap.errors import InputError, NoScenesError
from geomap.grid import centres, inside, mosaic_grid, tiles
from geomap.read.access import DEADLINE
from geomap.read.header import Headers
from geomap.run.prepare import find_scenes
from geomap.run.request import Request
from geomap.sentinel2 import BANDS, NODATA_DN
from geomap.types import CLEAR_MONTHS, MAX_MISSED, Composite, Grid, Missed, Period, Progress, may_miss, silent

log = logging.getLogger(__name__)

NEAR: Final = 5e-5
"""Degrees, half a pixel of 10 m: an area may reach so far beyond the one searched, by rounded coordinates."""


def search(
    area: Area | str,
    period: Period | str,
    stac: str = "earth-search",
    *,
    collection: str | None = None,
    max_cloud: float = 100,
    offset: OffsetPolicy = "auto",
    allow_hosts: Collection[str] = (),
    exclude: Collection[str] = (),
    max_missed: float = MAX_MISSED,
) -> Found:
    """Find the Sentinel-2 L2A scenes over an area in a period.

    Args:
        area: `Area`, (west, south, east, north) in degrees, a GeoDataFrame, shapely polygons in degrees, or text:
            "minx,miny,maxx,maxy", WKT, or the path of an area file, FILE:LAYER if it has several layers.
        period: `Period`, or text: "2023", "2023-04", "2022-10/2023-09".
        stac: earth-search, planetary-computer, cdse, the URL of a STAC API, or the path of an item file.
        collection: STAC collection; by default all collections whose conventions are known.
        max_cloud: highest `eo:cloud_cover` of an item, in percent.
        offset: "auto", "applied" or "unapplied", for scenes whose metadata do not say whether the offset is applied.
        allow_hosts: additional hosts and s3 buckets that may be read, besides those of the catalogue.
        exclude: ids of scenes to leave out.
        max_missed: share of the scenes that may be left out for a mistake in their items.

    Returns:
        `.scenes`, in time order, and `.left_out`: the items that are not used, each with its cause.

    Raises:
        NoScenesError: no scenes found.
        InputError: the area, period or catalogue cannot be read.
        CatalogUnavailableError: the catalogue does not answer; try again later.
    """
    asked = Request(
        area=area,
        period=period if isinstance(period, Period) else str(period),
        stac=str(stac),
        collection=collection,
        max_cloud=max_cloud,
        offset=offset,
        allow_hosts=_names(allow_hosts),
        exclude=_names(exclude),
        max_missed=max_missed,
    )
    return find_scenes(asked, silent)


def _names(value: Any) -> Any:
    """A collection as a tuple; text, which is none, and None as they are, for Request to refuse."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else value


def composite(
    scenes: Found,
    area: Area | str,
    *,
    mask: Mask | Mapping[str, Any] = DEFAULT_MASK,
    max_missed: float = MAX_MISSED,
    deadline: float = DEADLINE,
    progress: Progress = silent,
) -> xr.DataArray:
    """Read scenes and make the monthly medians of their clear pixels over an area.

    Args:
        scenes: the result of `search`.
        area: that was searched, or one inside it; must lie within one UTM zone.
        mask: which observations are clear: `Mask`, or such as {"classes": [3, 8, 9], "dilation": 2}.
        max_missed: share of the scenes that may be left out because a file is missing or damaged; Python's log names
            each.
        deadline: seconds for which a server may refuse a file.
        progress: callback with ("composite", tiles done, total tiles).

    Returns:
        (month, band, y, x) uint16, reflectance x 10000, 0 = nodata (240 bytes a pixel for twelve months), with the
        coordinates `clear` (month, y, x), number of clear observations, and `inside` (y, x), True in the area.

    Raises:
        InputError: the area spans several UTM zones, or reaches beyond the one that was searched.
        ReadError, SourceUnavailableError: files cannot be read.
        OffsetError: the pixels of a scene contradict its radiometric offset.
    """
    if not isinstance(scenes, Found):
        raise InputError(f"give composite all that geomap.search returned, not {type(scenes).__name__}")
    asked = Request(area=area, period=scenes.period, mask=mask, max_missed=max_missed, deadline=deadline)
    where, period = asked.area, asked.period
    if any(period.step(scene.time) is None for scene in scenes.scenes):
        raise InputError(
            f"not all of these scenes are of {period}; search that period: geomap.search(area, '{period}')"
        )
    _require_searched(scenes, where)
    parts = tiles(where)
    if len(zones := {tile.grid.epsg for tile in parts}) > 1:
        names = ", ".join(f"EPSG:{epsg}" for epsg in sorted(zones))
        raise InputError(f"the area lies in {names}; cut it to one zone, or use geomap.map_area, which maps each zone")
    whole = mosaic_grid(tuple(tile.grid for tile in parts))
    dn = np.zeros((period.months, len(BANDS), *whole.shape), np.uint16)
    clear = np.zeros((period.months, *whole.shape), np.uint8)
    within = np.zeros(whole.shape, bool)
    missed = dict[str, Missed]()
    dark, seen, allowed = offset_check.total([]), False, may_miss(len(scenes.scenes), asked.max_missed)
    with Headers() as kept:
        for done, tile in enumerate(parts, 1):
            near = over(scenes.scenes, tile.grid)
            seen = seen or bool(near)
            made = pipeline.compose(near, tile.grid, period, asked.mask, asked.max_missed, asked.deadline, kept=kept)
            missed |= {m.scene: m for m in made.missed}
            dark = offset_check.total([dark, made.dark])
            offset_check.weigh(scenes.scenes, dark, allowed, so_far=True)
            row, column = tile.grid.offset_in(whole)
            part = (..., slice(row, row + tile.grid.height), slice(column, column + tile.grid.width))
            within[part] = mine = inside(where, tile.grid)
            dn[part], clear[part] = made.dn * mine, made.clear * mine
            progress("composite", done, len(parts))
    for scene, why in sorted(missed.items()):
        log.warning("left out, where it could not be read: %s (%s: %s)", scene, why.band, why.detail)
    if wrong := offset_check.weigh(scenes.scenes, dark, allowed).wrong:
        for evidence in wrong.values():
            log.warning("left out: %s", evidence)
        rest = replace(scenes, scenes=tuple(scene for scene in scenes.scenes if scene.id not in wrong))
        return composite(rest, area, mask=asked.mask, max_missed=max_missed, deadline=deadline, progress=progress)
    if not seen:
        raise NoScenesError("none of these scenes lies over the area; give composite the area that was searched")
    return _composite_array(dn, clear, within, whole, period)


def _require_searched(scenes: Found, area: Area) -> None:
    """Raise InputError if an area reaches beyond the one that was searched: scenes of the rest would be lacking."""
    if scenes.area is None:
        return
    searched = scenes.area.buffer(NEAR, join_style="mitre")
    if not all(searched.covers(part) for part in polygons_of(area.geometry)):
        raise InputError(
            "the area reaches beyond the one that was searched; give composite the area that was searched, or one "
            f"inside it, or search this one: geomap.search(area, '{scenes.period}')"
        )


def embed(
    series: xr.DataArray,
    weights: Weights | str = "default",
    *,
    min_clear_months: int | None = None,
    device: str | torch.device = "auto",
    progress: Progress = silent,
) -> xr.DataArray:
    """Encode the months of every pixel into a unit vector in the space of the text embeddings.

    Weights of patches take the pixels beyond the array, or outside the area, as missing; runs read a margin. They need
    every pixel in its place: y falls and x rises by 10 m.

    Args:
        series: (month, band, y, x) from `composite` or `open_store`, or a window of it.
        weights: name or folder, or the result of `load_weights`.
        min_clear_months: pixels with fewer months are NaN; by default 3, or all months of a shorter period.
        device: auto, cpu, cuda, or a torch.device.
        progress: callback with ("encode", pixels done, total pixels).

    Returns:
        (component, y, x) float32 (1.5 kB a pixel with the default weights), NaN where not mapped, with the coordinate
        `clear_months` (y, x): number of months with a value in all bands, 255 outside the area.

    Raises:
        WeightsError: the weights do not exist.
        InputError: the series is not a composite, or the device does not exist.
    """
    loaded = weights if isinstance(weights, Weights) else load_weights(str(weights))
    dn, steps, inside = checked_series(series)
    require_neighbours(series, loaded.encoder.cfg.patch, "these weights take patches of", "embed composites")
    least = checked_least(min_clear_months, len(steps))
    engine = Engine(loaded.encoder, device)
    made = Composite(dn, np.zeros((0, *dn.shape[2:]), np.uint8))
    months, usable = pipeline.usable_pixels(made, inside, least)
    out = np.full((engine.execution.cfg.out, usable.size), np.nan, np.float32)
    for index, vectors in pipeline.embed_pixels(engine, made, usable, steps):
        out[:, index] = vectors.cpu().numpy().T
        progress("encode", int(index[-1]) + 1, usable.size)
    card = loaded.card
    about = {"weights": card.name, "weights_sha256": loaded.digest, "text_space": card.text_space}
    return xr.DataArray(
        out.reshape(-1, *usable.shape),
        dims=("component", "y", "x"),
        coords={**place_of(series), CLEAR_MONTHS: (("y", "x"), months)},
        name="embedding",
        attrs={"long_name": "unit embedding", **about},
    )


def _composite_array(
    dn: NDArray[np.uint16], clear: NDArray[np.uint8], within: NDArray[np.bool_], where: Grid, period: Period
) -> xr.DataArray:
    months = np.array([f"{name}-01" for name in period.month_names], "datetime64[ns]")
    x, y = centres(where)
    found = xr.DataArray(
        dn,
        dims=("month", "band", "y", "x"),
        coords={
            "month": months,
            "band": list(BANDS),
            "y": y,
            "x": x,
            "clear": (("month", "y", "x"), clear),
            "inside": (("y", "x"), within),
        },
        name="composite",
        attrs={"long_name": "monthly median, reflectance x 10000", "_FillValue": NODATA_DN},
    )
    placed: xr.DataArray = found.rio.write_crs(where.epsg).rio.write_transform(Affine(*where.transform))
    return placed


def place_of(array: xr.DataArray) -> dict[str, Any]:
    """The coordinates of an array's pixels, and its CRS, whatever the coordinate that holds it is called."""
    found: dict[str, Any] = {name: array.coords[name] for name in ("y", "x") if name in array.coords}
    if (crs := array.rio.crs) is None:
        return found
    name = array.rio.grid_mapping
    kept = array.coords if name in array.coords else xr.DataArray(0).rio.write_crs(crs, name).coords
    return found | {"spatial_ref": kept[name].variable}
