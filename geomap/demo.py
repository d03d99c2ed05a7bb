"""The demonstration: simulated scenes of a known landscape, mapped and compared with the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.windows import from_bounds

from geomap import aoi, files, legends, simulate, waypoints
from geomap.encode.engine import pick_device
from geomap.run.directory import require_run
from geomap.run.map import Estimate, Result, map_area
from geomap.run.request import Request
from geomap.types import Period, Progress

YEAR = 2023
LEGENDS = ("landcover", "crops", "scenicness")
POINTS = 100
"""Simulated points to learn from, in fields, in points.gpkg: about three days of visits."""
CHECKS = 300
"""Simulated points to assess the map with, in check.gpkg: a simple random sample of the area."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Share of a class's true pixels that were mapped as that class; the class None stands for the whole map."""

    legend: str
    class_name: str | None
    pixels: int  # true pixels that were mapped
    share: float  # 0..1


def run_demo(
    out: Path, device: str, progress: Progress, on_estimate: Callable[[Estimate], None]
) -> tuple[Result, tuple[Agreement, ...]]:
    """Simulate scenes into `out`/scenes, map them into `out`/maps, and compare. Raises as run.map.map_area.

    Maps of an earlier demonstration are removed, because another version may have made them.
    """
    pick_device(device)
    if require_run(out / "maps"):
        with files.disk_errors(out):
            files.remove(out / "maps")
    progress("simulate", 0, 1)
    archive = simulate.write_archive(out / "scenes", year=YEAR)
    write_points(out / "points.gpkg", archive, POINTS, seed=1, in_fields=True)
    write_points(out / "check.gpkg", archive, CHECKS, seed=2, no_crop="no crop")
    progress("simulate", 1, 1)
    request = Request(
        area=aoi.parse_area(",".join(map(repr, archive.bbox))),
        period=Period(YEAR, 1),
        stac=str(archive.items),
        legends=tuple(legends.load(name) for name in LEGENDS),
        device=device,
        save_embeddings=True,
        save_composites=True,  # the page then shows true colour and curves
    )
    result = map_area(request, out / "maps", progress, on_estimate)
    pairs = (("landcover", archive.truth_landcover), ("crops", archive.truth_crops))
    return result, tuple(a for name, truth in pairs for a in agreement(name, truth, out / "maps" / f"{name}.tif"))


def write_points(
    path: Path, archive: simulate.Archive, count: int, seed: int, in_fields: bool = False, no_crop: str = ""
) -> None:
    """Write a simple random sample of a simulated landscape's pixels with their true classes, as a visit would find.

    Args:
        path: a .gpkg; its columns are name, lon, lat, landcover and crop.
        archive: the landscape.
        count: number of points.
        seed: of the draw.
        in_fields: whether only pixels are drawn where a crop grows.
        no_crop: what the column crop says where none grows; a map of crops is wrong there (docs/assessment.md).

    Raises DiskFullError, OutputError.
    """
    with (
        rasterio.open(archive.truth_landcover, driver="GTiff") as cover,
        rasterio.open(archive.truth_crops, driver="GTiff") as crops,
    ):
        ids, grown, transform, epsg = cover.read(1), crops.read(1), cover.transform, cover.crs
    names, of_crops = ({c.id: c.name for c in legends.load(name).classes} for name in ("landcover", "crops"))
    open_to = np.flatnonzero(grown if in_fields else ids)
    chosen = np.random.default_rng(seed).permutation(open_to)[:count]
    row, column = np.unravel_index(chosen, ids.shape)
    x, y = transform @ (column + 0.5, row + 0.5)
    lon, lat = Transformer.from_crs(epsg, 4326, always_xy=True).transform(x, y)
    rows = [
        {
            "name": str(i + 1),
            "lon": round(float(lon[i]), 7),
            "lat": round(float(lat[i]), 7),
            "landcover": names[int(ids[row[i], column[i]])],
            "crop": of_crops.get(int(grown[row[i], column[i]]), no_crop),
        }
        for i in range(len(chosen))
    ]
    files.write_bytes(path, waypoints.gpkg(rows, "simulated"))


def agreement(name: str, truth: Path, mapped: Path) -> tuple[Agreement, ...]:
    """Agreement of a map with a truth raster on the same 10 m grid: for the whole map, then by class."""
    with rasterio.open(truth, driver="GTiff") as t, rasterio.open(mapped, driver="GTiff") as m:
        wanted = t.read(1)
        found = m.read(1, window=from_bounds(*t.bounds, m.transform), boundless=True, fill_value=0)
    known = (wanted > 0) & (found > 0)
    rows = [Agreement(name, None, int(known.sum()), _share(wanted, found, known))]
    for c in legends.load(name).classes:
        here = known & (wanted == c.id)
        if here.any():
            rows.append(Agreement(name, c.name, int(here.sum()), _share(wanted, found, here)))
    return tuple(rows)


def _share(wanted: NDArray[np.uint8], found: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    return float((wanted == found)[where].mean()) if where.any() else 0.0
