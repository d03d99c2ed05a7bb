"""Areas in polygons whose edges run through the centres of pixels."""

from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from pyproj import CRS, Transformer
from rasterio.transform import from_origin
from shapely.geometry import MultiPolygon, Polygon, box

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
    moved: dict[int, object] = {}
    assert {zones._counted(tmp_path / "m.tif", shapes, moved, i)[1] for i in range(400)} == {100}


CUT = [box(179.9, -17.1, 180, -16.9), box(-180, -17.1, -179.9, -16.9)]


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Maps of one class across 180 in the zones on both sides, and one at 4.44 E, 50.9 N; 80 x 80 pixels."""
    folder, made = tmp_path_factory.mktemp("maps"), []
    for epsg, lon, lat in ((32760, 179.9995, -17), (32701, -179.9995, -17), (32631, 4.44, 50.9)):
        x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
        place = from_origin(round(x) - 400, round(y) + 400, 10, 10)
        size = {"width": 80, "height": 80, "count": 1, "dtype": "uint8", "crs": epsg, "transform": place}
        made.append(folder / f"{epsg}.tif")
        with rasterio.open(made[-1], "w", driver="GTiff", **size) as file:
            file.write(np.ones((1, 80, 80), np.uint8))
    return made


def counts(maps: list[Path], shape: shapely.Geometry, crs: object = 4326) -> list[int]:
    shapes = geopandas.GeoSeries([zones._surface(shape)], crs=crs)
    return [zones._counted(path, shapes, {}, 0)[1] for path in maps]


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        (MultiPolygon(CUT), (1, 1, 0)),
        (box(179.9, -17.1, 180.1, -16.9), (1, 1, 0)),
        (box(-180.1, -17.1, -179.9, -16.9), (1, 1, 0)),
        (MultiPolygon([*CUT, box(80, -5, 100, 5)]), (1, 1, 0)),  # a part half the globe away
        (MultiPolygon([*CUT, box(4, 50, 5, 51)]), (1, 1, 1)),
        (box(-180, -90, 180, 90), (1, 1, 1)),
        (box(0, -90, 360, 90), (1, 1, 1)),
        (box(-180, -60, 180, 0), (1, 1, 0)),
        (box(364, 50, 365, 51), (0, 0, 1)),
    ],
)
def test_polygons_beside_round_and_beyond_180_are_counted_whole(
    maps: list[Path], shape: shapely.Geometry, wanted: tuple[int, ...]
) -> None:
    assert counts(maps, shape) == [6400 * n for n in wanted]


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:4167", "EPSG:3832", "EPSG:3857"])
def test_a_polygon_across_180_has_the_same_pixels_in_any_system(maps: list[Path], crs: str) -> None:
    """Those whose centres lie in it by pyproj and shapely."""
    parts = [box(179.999, -17.002, 180, -16.999), box(-180, -17.002, -179.998, -16.999)]
    wanted = []
    for path in maps:
        with rasterio.open(path) as f:
            x, y = f.transform @ (np.arange(80) + 0.5, np.arange(80) + 0.5)
            lonlat = Transformer.from_crs(f.crs, 4326, always_xy=True).transform(*np.meshgrid(x, y))
        wanted.append(int(sum(shapely.contains_xy(part, *lonlat).sum() for part in parts)))
    drawn = geopandas.GeoSeries([MultiPolygon(parts)], crs=4326).segmentize(0.0005).to_crs(crs)
    assert counts(maps, drawn[0], crs) == wanted
    assert 0 < wanted[0] < 6400


@pytest.mark.parametrize("crs", [3857, 6933])
def test_a_polygon_round_the_globe_in_a_system_that_is_cut_at_180(maps: list[Path], crs: int) -> None:
    west, east = Transformer.from_crs(4326, crs, always_xy=True).transform([-180, 180], [0, 0])[0]
    assert counts(maps, box(west, -8e6, east, 0), crs) == [6400, 6400, 0]


def test_polygons_at_the_edge_of_an_elliptic_world_are_refused_in_one_line(maps: list[Path]) -> None:
    parts = [box(179.999, -17.002, 180, -16.999), box(-180, -17.002, -179.998, -16.999)]
    drawn = geopandas.GeoSeries([MultiPolygon(parts)], crs=4326).segmentize(0.0005).to_crs("ESRI:54009")
    with pytest.raises(InputError, match="edge of the world in World_Mollweide; give them in EPSG:4326"):
        counts(maps, drawn[0], "ESRI:54009")


def test_an_edge_over_half_the_globe_is_refused_for_it_may_be_meant_the_other_way(tmp_path: Path) -> None:
    ring = Polygon([(179.9, -17.1), (-179.9, -17.1), (-179.9, -16.9), (179.9, -16.9)])
    table = geopandas.GeoDataFrame({"n": ["a", "b"]}, geometry=[box(4, 50, 5, 51), ring], crs=4326)
    table.to_file(tmp_path / "zones.gpkg")
    with pytest.raises(InputError, match=r"edges over half the globe \(b\).* cut these polygons at 180 degrees"):
        zones.read_zones(str(tmp_path / "zones.gpkg"), "n")
    table.to_crs(3832).to_file(tmp_path / "there.gpkg")
    assert zones.read_zones(str(tmp_path / "there.gpkg"), "n")[1] == ["a", "b"]


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
