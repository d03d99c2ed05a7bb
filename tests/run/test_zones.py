"""Areas in polygons whose edges run through the centres of pixels."""

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from pyproj import CRS
from rasterio.transform import from_origin
from shapely.geometry import box

from geomap.errors import InputError
from geomap.run import zones


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


def test_a_drawing_without_a_place_on_earth_is_refused_in_one_line(tmp_path: Path) -> None:
    local = CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    geopandas.GeoDataFrame({"n": ["a"]}, geometry=[box(0, 0, 100, 100)], crs=local).to_file(tmp_path / "site.gpkg")
    with pytest.raises(InputError, match="no place on Earth"):
        zones.read_zones(str(tmp_path / "site.gpkg"), "n")
