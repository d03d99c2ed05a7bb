"""An archive whose files also lie 40 km to the east, and farther: places, of which some can be broken."""

import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import rasterio
from pyproj import Transformer

from geomap import aoi
from geomap.run.request import Request
from geomap.types import Period
from tests.support.requests import request_for

EAST = 40_960  # metres between the places, two tiles of the grid, in two granules
BOX = (574700, 5621820, 575300, 5622420)  # EPSG:32631, inside the patch


def two_places(archive: Path, folder: Path) -> Path:
    """Write items.json of the archive's scenes at both places, and the files of the eastern ones; returns the items."""
    content = json.loads((archive / "items.json").read_text())
    moved = [_moved(item, folder / "east") for item in content["features"]]
    items = folder / "items.json"
    items.write_text(json.dumps(content | {"features": [*content["features"], *moved]}))
    return items


def more_places(archive: Path, folder: Path, count: int, broken: Collection[int]) -> Path:
    """Write items.json of scenes at so many places in a row; files of broken ones are missing. Returns the items."""
    content = json.loads((archive / "items.json").read_text())
    features = []
    for n in range(count):
        for item in content["features"]:
            moved = _moved(item, folder / str(n), n * EAST)
            features.append(moved)
            if n in broken:
                shutil.rmtree(folder / str(n) / moved["id"])
    items = folder / "items.json"
    items.write_text(json.dumps(content | {"features": features}))
    return items


def area(count: int = 2) -> aoi.Area:
    """A box at each place."""
    lonlat = Transformer.from_crs(32631, 4326, always_xy=True).transform
    polygons = []
    for shift in range(0, count * EAST, EAST):
        west, south, east, north = BOX[0] + shift, BOX[1], BOX[2] + shift, BOX[3]
        ring = [lonlat(*p) for p in ((west, south), (east, south), (east, north), (west, north), (west, south))]
        polygons.append("((" + ", ".join(f"{x:.6f} {y:.6f}" for x, y in ring) + "))")
    return aoi.parse_area(f"MULTIPOLYGON ({', '.join(polygons)})")


def request(archive: Callable[..., Path], weights: str, folder: Path) -> Request:
    """Two tiles, 40 km apart, from 9 dates whose items and eastern files are written into a folder."""
    return request_for(two_places(archive(dates=9), folder), weights, area=area(), period=Period(2018, 9, 1))


def remove_east(folder: Path) -> None:
    """The files of the eastern place are not there (yet)."""
    (folder / "east").rename(folder / "east.gone")


def mend_east(folder: Path) -> None:
    """The inverse of remove_east."""
    (folder / "east.gone").rename(folder / "east")


def _moved(item: dict[str, Any], folder: Path, shift: int = EAST) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(item))
    if shift:
        copy["id"] = item["id"].replace("31UES", "31UFS") + (f"_{shift}" if shift > EAST else "")
        copy["properties"]["grid:code"] = "MGRS-31UFS"
    bounds = None
    for key, asset in copy["assets"].items():
        target = folder / copy["id"] / f"{key}.tif"
        target.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(asset["href"]) as f:
            transform = rasterio.Affine.translation(shift, 0) @ f.transform
            with rasterio.open(target, "w", **{**f.profile, "transform": transform}) as moved:
                moved.write(f.read())
                bounds = moved.bounds
        asset["href"] = str(target)
        asset["proj:transform"][2] += shift
    lonlat = Transformer.from_crs(32631, 4326, always_xy=True).transform_bounds(*bounds)
    west, south, east, north = copy["bbox"] = list(lonlat)
    copy["geometry"]["coordinates"] = [[[west, south], [east, south], [east, north], [west, north], [west, south]]]
    return copy
