"""A finished run without scenes: class maps of given pixels, with all the files that a run has beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from geomap import files, legends
from geomap.legends import Legend
from geomap.run.record import FILE, Record, merge, write_record
from geomap.types import Grid, Period
from geomap.write.areas import write_areas
from geomap.write.cog import write_map
from geomap.write.layer import Layer
from geomap.write.stac import MapFile, write_stac

ZONES = {32631: (500_000, 5_600_000), 32632: (300_000, 5_600_000)}
"""North-west corners of test maps, inside their zones."""


def finished(
    folder: Path, pixels: Mapping[str | Legend, Mapping[int, Any]], request: Mapping[str, Any] | None = None
) -> Path:
    """Write a run whose maps hold these pixels: legend -> EPSG code -> (y, x) class ids. Returns its folder.

    `request`: what its run.json says more of what was asked for.
    """
    maps, statistics, tables = [], {}, []
    zones = sorted({epsg for by_zone in pixels.values() for epsg in by_zone})
    for of, by_zone in pixels.items():
        legend = of if isinstance(of, Legend) else legends.load(of)
        name = legend.name
        layers = (Layer(name, legend.title, "classes", legend), Layer(f"{name}_confidence", "confidence", "percent"))
        for layer in layers:
            parts = []
            for epsg, values in by_zone.items():
                ids = np.asarray(values, np.uint8)
                content = ids if layer.kind == "classes" else np.where(ids > 0, 50, 255).astype(np.uint8)
                grid = Grid(epsg, *ZONES[epsg], ids.shape[1], ids.shape[0])
                path = folder / f"{layer.stem}{f'_{epsg}' if len(zones) > 1 else ''}.tif"
                parts.append(write_map(path, layer, grid, [(grid, content)], {}))
                maps.append(MapFile(path, layer, grid))
            statistics[layer.stem] = merge(parts)
        tables.append((layers[0], statistics[name].counts))
    write_areas(folder, tables)
    write_stac(folder, maps, Period(2023, 1), software={}, lineage="test", provenance={})
    tiles = tuple(f"{epsg % 100}UDS_00_00" for epsg in zones)
    sums = files.digests(folder)
    sealed = {"files": len(sums), "seal": files.seal(sums)}
    asked = {"period": "2023-01_2023-12", **(request or {})}
    write_record(folder, Record(asked, (), (), (), tiles, {}, statistics, **sealed))
    files.write_sums(folder, {**sums, FILE: files.sha256(folder / FILE)})
    return folder
