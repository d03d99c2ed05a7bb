"""The demonstration: simulated scenes of a known landscape, mapped and compared with the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import from_bounds

from geomap import aoi, files, legends, simulate
from geomap.encode.engine import pick_device
from geomap.run.directory import require_run
from geomap.run.map import Estimate, Result, map_area
from geomap.run.request import Request
from geomap.types import Period, Progress

YEAR = 2023
LEGENDS = ("landcover", "crops", "scenicness")


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
    progress("simulate", 1, 1)
    request = Request(
        area=aoi.parse_area(",".join(map(repr, archive.bbox))),
        period=Period(YEAR, 1),
        stac=str(archive.items),
        legends=tuple(legends.load(name) for name in LEGENDS),
        device=device,
        save_composites=True,  # the page then shows true colour and curves
    )
    result = map_area(request, out / "maps", progress, on_estimate)
    pairs = (("landcover", archive.truth_landcover), ("crops", archive.truth_crops))
    return result, tuple(a for name, truth in pairs for a in agreement(name, truth, out / "maps" / f"{name}.tif"))


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
