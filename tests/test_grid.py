"""Areas of interest, tiles, and the zone that owns each pixel."""

import contextlib
import json

import geopandas
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from shapely.geometry import Point, Polygon, box

from geomap import grid
from geomap.errors import AoiError
from geomap.types import Grid

PATCH = "4.0585,50.7431,4.0676,50.7489"  # in Belgium, zone 31


def test_bbox_tiles_lie_on_the_sentinel_grid():
    (tile,) = grid.tiles(grid.parse_area(PATCH))
    g = tile.grid
    assert g.epsg == 32631
    assert g.resolution == 10
    assert all(v % 20 == 0 for v in g.bounds)
    to_utm = Transformer.from_crs(4326, 32631, always_xy=True)
    west, _, _, north = to_utm.transform_bounds(4.0585, 50.7431, 4.0676, 50.7489, densify_pts=50)
    assert g.bounds[0] <= west < g.bounds[0] + 20
    assert g.bounds[3] - 20 < north <= g.bounds[3]


def test_a_tile_keeps_its_name_when_the_area_grows():
    small = {t.name for t in grid.tiles(grid.parse_area(PATCH))}
    large = {t.name for t in grid.tiles(grid.parse_area("4.0,50.7,4.3,50.8"))}
    assert small < large


def test_tiles_of_one_zone_do_not_overlap_and_cover_the_area():
    area = grid.parse_area("4.0,50.7,4.3,50.8")
    tiles = grid.tiles(area)
    boxes = [box(*t.grid.bounds) for t in tiles]
    for i, a in enumerate(boxes):
        assert all(a.intersection(b).area == 0 for b in boxes[i + 1 :])
    hectares = sum(grid.inside(area, t.grid).sum() for t in tiles) / 100
    assert hectares == pytest.approx(area.square_km * 100, rel=2e-3)  # UTM scale at 4 degrees east: 0.9996 .. 1.0002


@pytest.mark.parametrize("formats", ["geojson", "gpkg", "shp"])
def test_area_files_give_the_same_area(tmp_path, formats):
    shape = Polygon([(4.05, 50.74), (4.07, 50.74), (4.06, 50.75)])
    path = tmp_path / f"area.{formats}"
    geopandas.GeoDataFrame(geometry=[shape], crs=4326).to_crs(3035 if formats == "gpkg" else 4326).to_file(path)
    read = grid.parse_area(str(path)).geometry
    assert read.symmetric_difference(shape).area < 1e-9
    wkt = grid.parse_area(shape.wkt).geometry
    assert wkt.symmetric_difference(shape).area == 0


def test_a_file_with_several_polygons_is_one_area(tmp_path):
    path = tmp_path / "two.geojson"
    geopandas.GeoDataFrame(geometry=[box(4, 50, 4.01, 50.01), box(4.02, 50, 4.03, 50.01)], crs=4326).to_file(path)
    area = grid.parse_area(str(path))
    assert len(area.geometry.geoms) == 2


def test_pixels_outside_the_polygon_are_outside():
    area = grid.parse_area("POLYGON ((4.05 50.74, 4.07 50.74, 4.06 50.75, 4.05 50.74))")
    to_lonlat = Transformer.from_crs(32631, 4326, always_xy=True)
    for tile in grid.tiles(area):
        inside = grid.inside(area, tile.grid)
        assert inside.any()
        for row in range(0, tile.grid.height, 7):
            for col in range(0, tile.grid.width, 9):
                centre = tile.grid.west + 10 * col + 5, tile.grid.north - 10 * row - 5
                assert inside[row, col] == area.geometry.contains(Point(*to_lonlat.transform(*centre)))


def test_an_area_over_two_zones_is_split_without_gap_or_overlap():
    area = grid.parse_area("5.99,50.0,6.01,50.01")
    tiles = grid.tiles(area)
    assert {t.grid.epsg for t in tiles} == {32631, 32632}
    owned = sum(grid.inside(area, t.grid).sum() for t in tiles) / 100
    assert owned == pytest.approx(area.square_km * 100, rel=5e-3)
    for tile in tiles:  # nothing of the neighbour's side
        inside = grid.inside(area, tile.grid)
        rows, cols = np.nonzero(inside)
        to_lonlat = Transformer.from_crs(tile.grid.epsg, 4326, always_xy=True)
        lon, _ = to_lonlat.transform(tile.grid.west + 10 * cols + 5, tile.grid.north - 10 * rows - 5)
        assert (np.asarray(lon) < 6).all() if tile.grid.epsg == 32631 else (np.asarray(lon) >= 6).all()


def test_an_area_over_the_antimeridian_stays_small():
    area = grid.parse_area("179.95,-17.0,-179.95,-16.95")
    assert area.square_km == pytest.approx(59, rel=0.02)
    tiles = grid.tiles(area)
    assert {t.grid.epsg for t in tiles} == {32760, 32701}
    assert sum(grid.inside(area, t.grid).sum() for t in tiles) / 1e4 == pytest.approx(area.square_km, rel=5e-3)


def test_the_equator_parts_the_hemispheres():
    assert {t.grid.epsg for t in grid.tiles(grid.parse_area("36.70,-0.01,36.72,0.01"))} == {32637, 32737}


@pytest.mark.parametrize(
    ("lon", "lat", "epsg"),
    [
        (4.06, 50.74, 32631),
        (5.3, 60.4, 32632),  # Bergen: zone 32 is widened over Norway
        (2.9, 60.4, 32631),
        (15.6, 78.2, 32633),  # Longyearbyen: zones 31, 33, 35, 37 only
        (8.9, 78.2, 32631),
        (21.0, 78.2, 32635),
        (34.0, 78.2, 32637),
        (-180.0, 10.0, 32601),
        (179.99, -10.0, 32760),
    ],
)
def test_zones_follow_mgrs(lon, lat, epsg):
    assert grid.zone_epsg(np.array([lon]), np.array([lat]))[0] == epsg


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("50.7431,400,50.7489,401", "longitude first"),
        ("4.0585,95,4.0676,96", "did you mean 95,4.0585"),
        ("4.07,50.74,4.05,50.75", "minx 4.07 is east"),
        ("4.05,50.75,4.07,50.74", "empty"),
        ("1,2,3", "cannot read"),
        ("nowhere.geojson", "cannot read"),
        ("POLYGON ((0 0, 1 1, 0 1, 1 0, 0 0))", "Self-intersection"),
        ("POLYGON EMPTY", "polygon"),
        ("POLYGON ((0 0, 1 1", "WKT"),
        ("POINT (4 50)", "cannot read"),
        ("10,85,11,86", "UTM"),
        ("-100,-60,100,60", "cut it into regions"),
        ("POLYGON ((500000 5600000, 500100 5600000, 500100 5600100, 500000 5600000))", "EPSG:4326"),
    ],
)
def test_a_bad_area_is_refused_in_one_clear_line(text, says):
    with pytest.raises(AoiError, match=says) as e:
        grid.parse_area(text)
    assert "\n" not in str(e.value)
    assert e.value.exit_code == 2


def test_a_file_without_a_coordinate_system_or_polygon_is_refused(tmp_path):
    blank = tmp_path / "blank.gpkg"
    with pytest.warns(UserWarning, match="crs"):
        geopandas.GeoDataFrame(geometry=[box(0, 0, 1, 1)]).to_file(blank)
    with pytest.raises(AoiError, match="coordinate system"):
        grid.parse_area(str(blank))
    text = tmp_path / "notes.geojson"
    text.write_text("not json")
    with pytest.raises(AoiError, match=r"notes\.geojson"):
        grid.parse_area(str(text))
    point = tmp_path / "point.geojson"
    point.write_text(
        json.dumps({"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [4, 50]}})
    )
    with pytest.raises(AoiError, match="must be a polygon"):
        grid.parse_area(str(point))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_an_area_or_an_aoi_error(text):
    with contextlib.suppress(AoiError):
        grid.parse_area(text)


def test_grids_know_their_place():
    outer = Grid(32631, 500000, 5600000, 100, 80)
    part = Grid(32631, 500100, 5599800, 10, 10)
    assert part.offset_in(outer) == (20, 10)
    assert outer.at(20).shape == (40, 50)
    assert outer.bounds == outer.at(20).bounds
    with pytest.raises(ValueError, match="20 m"):
        Grid(32631, 0, 0, 5, 4).at(20)
    with pytest.raises(ValueError, match="different grids"):
        part.offset_in(Grid(32632, 0, 0, 9, 9))
    assert grid.mosaic_grid((part, Grid(32631, 500300, 5599900, 4, 4))) == Grid(32631, 500100, 5599900, 24, 20)
