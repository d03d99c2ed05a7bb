"""Areas in polygons whose edges run through the centres of pixels."""

from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
from pyproj import CRS
from rasterio.transform import from_origin
from shapely.geometry import box

from geomap import legends
from geomap.errors import InputError, ReadError
from geomap.run import zones
from tests.support.maps import ZONES, finished


@pytest.mark.parametrize("shift", [0, 5])
def test_each_pixel_lies_in_one_of_the_cells_that_cover_it(tmp_path: Path, shift: int) -> None:
    """400 cells of 100 m whose edges run between the pixels, or through their centres, hold 40,000 pixels together."""
    west, north = 500_000, 5_600_000
    place = {"crs": "EPSG:32631", "transform": from_origin(west, north, 10, 10), "width": 300, "height": 300}
    with rasterio.open(tmp_path / "m.tif", "w", driver="GTiff", count=1, dtype="uint8", **place) as made:
        made.write(np.ones((1, 300, 300), np.uint8))
    corners = [(west + 300 + shift + 100 * i, north - 300 - shift - 100 * j) for i in range(20) for j in range(20)]
    shapes = geopandas.GeoSeries([box(x, y - 100, x + 100, y) for x, y in corners], crs=32631)
    assert {zones._counted(tmp_path / "m.tif", shapes, {}, i)[1] for i in range(400)} == {100}


def test_a_legend_called_like_the_zone_of_another_is_not_counted_with_it(tmp_path: Path) -> None:
    other = legends.typed("grove, vineyard, orchard", name="landcover_32631")
    cover, own = np.full((20, 30), 2), np.full((20, 30), 3)
    cover[:5], own[:10] = 7, 1
    run = finished(tmp_path / "run", {"landcover": {32631: cover}, other: {32631: own}})
    west, north = ZONES[32631]
    whole = geopandas.GeoDataFrame({"n": [pd.NA]}, geometry=[box(west, north - 200, west + 300, north)], crs=32631)
    whole.astype({"n": "string"}).to_parquet(tmp_path / "zone.parquet")
    (zone,) = zones.zonal(run, str(tmp_path / "zone.parquet"), "n")
    assert zone.name == "row 1"
    assert [(row["map"], row["id"], row["pixels"]) for row in zone.rows] == [
        ("landcover", 2, 450),
        ("landcover", 7, 150),
        ("landcover_32631", 1, 300),
        ("landcover_32631", 3, 300),
    ]
    (run / "landcover.tif").unlink()
    with pytest.raises(ReadError, match=r"landcover\.tif is missing; geomap verify"):
        zones.zonal(run, str(tmp_path / "zone.parquet"))


def test_a_drawing_without_a_place_on_earth_is_refused_in_one_line(tmp_path: Path) -> None:
    local = CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    geopandas.GeoDataFrame({"n": ["a"]}, geometry=[box(0, 0, 100, 100)], crs=local).to_file(tmp_path / "site.gpkg")
    with pytest.raises(InputError, match="no place on Earth"):
        zones.read_zones(str(tmp_path / "site.gpkg"), "n")
