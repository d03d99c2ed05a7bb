"""Writes a simulated landscape's year as a STAC archive of COGs, laid out like Earth Search.

The layout is that of its Collection 1 (sentinel-2-c1-l2a). The pixels are simulated and every item says so. Baseline
05.09: DNs carry +1000, and the metadata say so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.warp import transform_bounds

from geomap.sentinel2 import BAND_TABLE, BANDS, BOA_OFFSET_DN, REFLECTANCE_SCALE, SCL, Band
from geomap.simulate.growth import reflectance, sun_zenith
from geomap.simulate.landscape import Landscape, landscape, noise
from geomap.simulate.pixels import climates
from geomap.simulate.spectra import Array, surface
from geomap.types import Grid

COLLECTION: Final = "sentinel-2-c1-l2a"
BASELINE: Final = "05.09"
TILE: Final = "31UFS"
ASSETS: Final = (
    "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22", "scl",
)  # fmt: skip
"""Asset keys of the collection, in sentinel2.BANDS order, then SCL."""

WATER: Final = 7
"""Land cover id of water: the scene classification takes water from the land cover, not from the spectrum."""


@dataclass(frozen=True)
class Archive:
    """Paths of a simulated year's files."""

    items: Path  # items.json, an ItemCollection with relative hrefs
    truth_landcover: Path  # GeoTIFF of class ids of the legend landcover
    truth_crops: Path  # GeoTIFF of class ids of the legend crops, 0 where no crop grows
    bbox: tuple[float, float, float, float]  # degrees
    dates: tuple[datetime, ...]


@dataclass(frozen=True)
class _Look:
    """One acquisition: reflectance (10, y, x) and scene classes (y / 2, x / 2) at 20 m; edge is nodata."""

    when: datetime
    platform: str
    reflectance: Array
    scl: NDArray[np.uint8]
    edge: NDArray[np.bool_]  # (y, x) outside the swath


def write_archive(
    folder: Path,
    *,
    seed: int = 0,
    year: int = 2023,
    size: int = 256,
    missing: Sequence[int] = (11,),
    overcast: Sequence[int] = (2,),
) -> Archive:
    """Write items.json, cogs/<item>/<asset>.tif and the truth rasters; the same bytes for the same arguments.

    Args:
        folder: created if it does not exist.
        seed: seed of landscape and weather.
        year: year of the acquisitions.
        size: pixels per side, even, 64 or more.
        missing: months (1..12) without any scene.
        overcast: months whose scenes are all cloud.
    """
    land = landscape(seed, size)
    rng = np.random.default_rng([seed, 2])
    clean = reflectance(land.pixels, np.tile(np.arange(1, 366, dtype=np.float32), (len(land.pixels.cover), 1)))
    texture = np.stack([noise(rng, size, 24) for _ in range(2)])
    features, dates = [], []
    for number, when in enumerate(acquisition_times(rng, year, missing)):
        look = _look(rng, land, clean, texture, when, number, when.month in overcast)
        features.append(_write_item(folder, land.grid, look))
        dates.append(when)
    for name, attribute in (("truth_landcover", "landcover"), ("truth_crops", "crop")):
        _write(folder / f"{name}.tif", land.ids(attribute), land.grid)
    items = folder / "items.json"
    items.write_text(json.dumps({"type": "FeatureCollection", "features": features}, indent=1) + "\n", encoding="utf-8")
    return Archive(items, folder / "truth_landcover.tif", folder / "truth_crops.tif", _bbox(land.grid), tuple(dates))


def acquisition_times(rng: np.random.Generator, year: int, missing: Sequence[int]) -> list[datetime]:
    """Every fifth day at 10:56 UTC; one in four is left out as too cloudy, but each month keeps four or more."""
    first = datetime(year, 1, 2, 10, 56, 21, tzinfo=UTC)
    every = [first + timedelta(days=5 * k) for k in range(73)]
    out = []
    for month in range(1, 13):
        looks = [t for t in every if t.month == month and t.year == year]
        keep = int(rng.integers(4, 6))
        dropped = set(rng.permutation(len(looks))[keep:].tolist())
        if month not in missing:
            out += [t for i, t in enumerate(looks) if i not in dropped]
    return out


def _look(
    rng: np.random.Generator, land: Landscape, clean: Array, texture: Array, when: datetime, number: int, overcast: bool
) -> _Look:
    """Simulate what the sensor sees on one date."""
    size = land.grid.width
    day = when.timetuple().tm_yday
    r = clean[:, min(day, 365) - 1][land.unit]  # (y, x, 10)
    r = r * (1 + 0.04 * texture[0] + 0.03 * texture[1] * np.sin(day / 58))[..., None]
    speckle = rng.standard_normal((2, *r.shape), dtype=np.float32)
    r = r * (1 + 0.015 * speckle[0]) + 0.002 * speckle[1]
    field = noise(rng, size, 3) + 0.35 * noise(rng, size, 12)
    cover = (
        1.0
        if overcast
        else float(rng.choice([0.0, rng.uniform(0.03, 0.3), rng.uniform(0.3, 0.85)], p=[0.35, 0.4, 0.25]))
    )
    limit = np.quantile(field, 1 - cover) if cover else np.inf
    thick = np.clip((field - limit) / 0.25 + 0.3, 0, 0.95) if not overcast else np.clip(0.6 + 0.3 * field, 0.4, 0.95)
    thick = np.where(field > limit, thick, 0) if not overcast else thick
    shadow = np.roll(thick, (-14, 9), (0, 1)) if cover else thick  # the sun stands in the south-east
    shade = np.where(thick < 0.05, 1 - 0.65 * shadow, 1.0)
    r = r * shade[..., None] + surface("haze") * max(0.0, rng.normal(0.05, 0.15))
    r = r * (1 - thick[..., None]) + surface("cloud") * (1.15 * thick)[..., None]
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    edge = (x + 3 * y < 0.35 * size) if number % 3 == 1 else np.zeros((size, size), bool)  # the other orbit's edge
    scl = _classify(r, thick, 1 - shade, land.ids("landcover") == WATER, edge)
    return _Look(when, "sentinel-2" + "ab"[number % 2], r.transpose(2, 0, 1).astype(np.float32), scl, edge)


def _classify(
    r: Array, thick: Array, shadow: Array, water: NDArray[np.bool_], edge: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Scene classes (y / 2, x / 2) from the simulated cloud, shadow, water and edge."""
    nir, red = _halve(r[..., 6]), _halve(r[..., 2])
    cloud, dark = _halve(thick), _halve(shadow)
    scl = np.where((nir - red) > 0.35 * (nir + red), 4, 5)
    scl = np.where(_halve(water.astype(np.float32)) > 0.5, 6, scl)
    scl = np.select(
        [_halve(edge.astype(np.float32)) > 0, cloud > 0.6, cloud > 0.3, cloud > 0.02, dark > 0.02],
        [0, 9, 8, 10, 3],
        scl,
    )
    return scl.astype(np.uint8)


def _halve(x: NDArray[Any]) -> Array:
    """(y, x) -> means of 2 x 2 pixels."""
    mean: Array = ((x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / np.float32(4)).astype(np.float32)
    return mean


def _write_item(folder: Path, grid: Grid, look: _Look) -> dict[str, Any]:
    """Write the assets of one acquisition; returns its STAC item."""
    stamp = look.when.strftime("%Y%m%dT%H%M%S")
    unit = look.platform[-2:].upper()
    item_id = f"S{unit}_T{TILE}_{stamp}_L2A"
    hrefs = {key: f"cogs/{item_id}/{key}.tif" for key in ASSETS}
    bands = dict(zip(ASSETS, (*BAND_TABLE, Band(SCL, 0, 20)), strict=True))
    with ThreadPoolExecutor(2) as pool:  # GDAL compresses outside Python's lock
        jobs = [
            pool.submit(_write, folder / hrefs[k], _digital_numbers(look, b), grid.at(b.resolution))
            for k, b in bands.items()
        ]
        for job in jobs:
            job.result()
    assets = {k: _asset(hrefs[k], b.name, grid.at(b.resolution)) for k, b in bands.items()}
    west, south, east, north = _bbox(grid)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    sun = float(sun_zenith(*np.array([[climates()[0].latitude], [look.when.timetuple().tm_yday]]))[0])
    properties = {
        "datetime": look.when.strftime("%Y-%m-%dT%H:%M:%SZ"), "platform": look.platform, "constellation": "sentinel-2",
        "instruments": ["msi"], "eo:cloud_cover": round(100 * float(np.isin(look.scl, (8, 9, 10)).mean()), 2),
        "proj:epsg": grid.epsg, "grid:code": f"MGRS-{TILE}", "view:sun_elevation": round(90 - sun, 2),
        "s2:processing_baseline": BASELINE, "s2:product_type": "S2MSI2A",
        "s2:datatake_id": f"GS{unit}_{stamp}_000000_N{BASELINE}",
        "s2:generation_time": (look.when + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "geomap:simulated": True,
    }  # fmt: skip
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": item_id, "collection": COLLECTION, "stac_extensions": [],
        "bbox": [west, south, east, north], "geometry": {"type": "Polygon", "coordinates": [ring]},
        "links": [], "properties": properties, "assets": assets,
    }  # fmt: skip


def _digital_numbers(look: _Look, band: Band) -> NDArray[Any]:
    """Content of a band's file: DNs with the offset, 0 outside the swath; or the scene classes."""
    if band.name == SCL:
        return look.scl
    layer, edge = look.reflectance[BANDS.index(band.name)], look.edge
    if band.resolution == 20:
        layer, edge = _halve(layer), _halve(edge.astype(np.float32)) > 0
    dn = np.clip(np.round(layer * REFLECTANCE_SCALE) - BOA_OFFSET_DN, 1, 65535)
    return np.where(edge, 0, dn).astype(np.uint16)


def _asset(href: str, band: str, grid: Grid) -> dict[str, Any]:
    described: dict[str, Any] = {"nodata": 0, "data_type": "uint8", "spatial_resolution": grid.resolution}
    if band != SCL:
        described |= {
            "data_type": "uint16",
            "scale": 1 / REFLECTANCE_SCALE,
            "offset": BOA_OFFSET_DN / REFLECTANCE_SCALE,
        }
    return {
        "href": href, "type": "image/tiff; application=geotiff; profile=cloud-optimized", "roles": ["data"],
        "gsd": grid.resolution, "eo:bands": [{"name": band}], "proj:shape": list(grid.shape),
        "proj:transform": [int(v) for v in grid.transform], "raster:bands": [described],
    }  # fmt: skip


def _write(path: Path, data: NDArray[Any], grid: Grid) -> None:
    """Write a COG without overviews; its bytes depend only on the arguments."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="COG", height=data.shape[0], width=data.shape[1], count=1, dtype=data.dtype, crs=grid.epsg,
        transform=rasterio.Affine(*grid.transform), nodata=0, compress="DEFLATE", level=1, predictor=2, blocksize=256,
        overviews="NONE",
    ) as out:  # fmt: skip
        out.write(data, 1)


def _bbox(grid: Grid) -> tuple[float, float, float, float]:
    west, south, east, north = transform_bounds(grid.epsg, 4326, *grid.bounds)
    return round(west, 7), round(south, 7), round(east, 7), round(north, 7)
