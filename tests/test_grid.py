"""Areas of interest, tiles, and the zone that owns each pixel."""

import contextlib
import json
import os
import sqlite3
import warnings

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from shapely.geometry import MultiPolygon, Point, Polygon, box, mapping

from geomap import aoi, grid
from geomap.catalog.place import granule_bounds, mgrs_tile, tile_in
from geomap.errors import AoiError
from geomap.types import Grid, zone_of
from tests.support.archive import PATCH
from tests.support.stac_items import real_items


def test_bbox_tiles_lie_on_the_sentinel_grid():
    (tile,) = grid.tiles(aoi.parse_area(PATCH))
    g = tile.grid
    assert g.epsg == 32631
    assert g.resolution == 10
    assert all(v % 20 == 0 for v in g.bounds)
    to_utm = Transformer.from_crs(4326, 32631, always_xy=True)
    west, _, _, north = to_utm.transform_bounds(4.0585, 50.7431, 4.0676, 50.7489, densify_pts=50)
    assert g.bounds[0] <= west < g.bounds[0] + 20
    assert g.bounds[3] - 20 < north <= g.bounds[3]


def test_a_tile_keeps_its_name_when_the_area_grows():
    small = {t.name for t in grid.tiles(aoi.parse_area(PATCH))}
    large = {t.name for t in grid.tiles(aoi.parse_area("4.0,50.7,4.3,50.8"))}
    assert small < large


def test_tiles_of_one_zone_do_not_overlap_and_cover_the_area():
    area = aoi.parse_area("4.0,50.7,4.3,50.8")
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
    drawn = shape.segmentize(1e-4) if formats == "gpkg" else shape  # edges straight in degrees are curved in EPSG:3035
    geopandas.GeoDataFrame(geometry=[drawn], crs=4326).to_crs(3035 if formats == "gpkg" else 4326).to_file(path)
    read = aoi.parse_area(str(path)).geometry
    assert read.symmetric_difference(shape).area < 1e-9
    wkt = aoi.parse_area(shape.wkt).geometry
    assert wkt.symmetric_difference(shape).area == 0


def test_a_file_with_several_polygons_is_one_area(tmp_path):
    path = tmp_path / "two.geojson"
    geopandas.GeoDataFrame(geometry=[box(4, 50, 4.01, 50.01), box(4.02, 50, 4.03, 50.01)], crs=4326).to_file(path)
    area = aoi.parse_area(str(path))
    assert len(area.geometry.geoms) == 2


@pytest.mark.parametrize("turn", [1, -1])
def test_a_hole_is_no_area_whichever_way_its_ring_goes_round(tmp_path, turn):
    """4 km2 with a hole of 2.56 km2; zone 31 draws them 0.05 % too small here."""
    shell = box(602000, 5638000, 604000, 5640000).exterior.coords
    shape = Polygon(shell, [box(602200, 5638200, 603800, 5639800).exterior.coords[::turn]])
    series, path = geopandas.GeoSeries([shape], crs=32631), tmp_path / "hole.gpkg"
    series.to_file(path)
    for source in (path, series, series.to_crs(4326), series.to_crs(4326).iloc[0].wkt):
        assert aoi.Area(source).square_km == pytest.approx(1.44, rel=1e-3)


def test_what_gdal_says_of_geojson_is_told_in_our_words_or_not_at_all(tmp_path):
    ring = [[4.40, 50.85], [4.41, 50.85], [4.41, 50.86], [4.40, 50.85]]
    path = tmp_path / "area.geojson"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for corners in (ring[:-1], ring[:2]):
            text = json.dumps({"type": "Polygon", "coordinates": [corners]})
            path.write_text(text)
            for source in (text, str(path)):
                with pytest.raises(AoiError, match="has a ring that is not closed; repeat its first corner"):
                    aoi.parse_area(source)
        measured = {"type": "Polygon", "coordinates": [[[*corner, 5, 6] for corner in ring]]}
        read = aoi.parse_area(json.dumps(measured)).geometry
    assert read.symmetric_difference(Polygon(ring)).area < 1e-12


def test_straight_edges_of_a_projected_file_stay_where_they_are(tmp_path):
    path, square = tmp_path / "tile.gpkg", box(600000, 5590200, 709800, 5700000)
    geopandas.GeoDataFrame(geometry=[square], crs=32631).to_file(path)
    to_utm = Transformer.from_crs(4326, 32631, always_xy=True)
    read = aoi.parse_area(str(path)).geometry.segmentize(0.001)
    back = shapely.transform(read, lambda xy: np.column_stack(to_utm.transform(xy[:, 0], xy[:, 1])))
    assert back.symmetric_difference(square).area < 1e-5 * square.area


def test_a_projected_file_far_off_the_earth_is_refused(tmp_path):
    path = tmp_path / "far.gpkg"
    geopandas.GeoDataFrame(geometry=[box(0, 0, 1e15, 1e15)], crs=32631).to_file(path)
    with pytest.raises(AoiError, match="beyond its coordinate system"):
        aoi.parse_area(str(path))


@pytest.mark.parametrize("crs", [3035, 4326])
def test_shapes_that_are_all_empty_hold_no_polygon(crs):
    shapes = geopandas.GeoDataFrame(geometry=[Polygon(), None], crs=crs)
    with pytest.raises(AoiError, match="holds no polygon"):
        aoi.Area(shapes)
    place = geopandas.GeoSeries([Polygon(), box(4, 50, 4.01, 50.01)], crs=4326).to_crs(crs)
    assert aoi.Area(place).square_km == pytest.approx(0.797, rel=1e-3)


def test_a_file_with_several_layers_is_refused_and_plain_tables_are_passed_over(tmp_path):
    path = tmp_path / "layers.gpkg"
    place = geopandas.GeoDataFrame(geometry=[box(4, 50, 4.01, 50.01)], crs=4326)
    place.to_file(path, layer="fields")
    with contextlib.closing(sqlite3.connect(path)) as db, db:  # as QGIS keeps its styles
        db.execute("CREATE TABLE layer_styles (id INTEGER PRIMARY KEY, style TEXT)")
        db.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier) VALUES (?, ?, ?)",
            ("layer_styles", "attributes", "layer_styles"),
        )
    assert aoi.parse_area(str(path)).geometry.bounds == (4, 50, 4.01, 50.01)
    place.to_file(path, layer="roads")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AoiError, match=r"2 layers \(fields, roads\); name one, as FILE:fields, or export one"):
            aoi.parse_area(str(path))


def test_a_layer_of_a_file_is_an_area(tmp_path):
    path, squares = tmp_path / "l.gpkg", {"fields": box(4, 50, 4.01, 50.01), "b: c d": box(4.02, 50, 4.03, 50.01)}
    for name, square in squares.items():
        geopandas.GeoDataFrame(geometry=[square], crs=4326).to_file(path, layer=name)
    for name, square in squares.items():
        aoi.require_area(f"l.gpkg:{name}", tmp_path)
        assert aoi.parse_area(f"l.gpkg:{name}", tmp_path) == aoi.parse_area(f"{path}:{name}") == aoi.Area(square)
    with pytest.raises(AoiError, match="no layer 'roads' with polygons; it has fields, b: c d"):
        aoi.parse_area(f"{path}:roads")
    with pytest.raises(AoiError, match=r"there is no file 'no\.gpkg:fields'"):
        aoi.require_area("no.gpkg:fields", tmp_path)
    with pytest.raises(AoiError, match="cannot read the area"):
        aoi.require_area("a:" * 100_000, tmp_path)


def test_geoparquet_is_an_area(tmp_path):
    shapes = geopandas.GeoSeries([box(600000, 5590200, 601000, 5591000)], crs=32631)
    for name in ("a.parquet", "b.GeoParquet", "c.gpkg"):
        table = geopandas.GeoDataFrame(geometry=shapes)
        table.to_file(tmp_path / name) if name == "c.gpkg" else table.to_parquet(tmp_path / name)
        assert aoi.parse_area(name, tmp_path) == aoi.Area(shapes)
    (tmp_path / "d.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(AoiError, match="cannot read the area file"):
        aoi.parse_area("d.parquet", tmp_path)


def test_geojson_text_is_an_area():
    west, east = box(4, 50, 4.01, 50.01), box(4.02, 50, 4.03, 50.01)
    both = MultiPolygon([west, east])
    feature = {"type": "Feature", "properties": {}, "geometry": mapping(west)}
    other = feature | {"geometry": mapping(east)}
    for value, shape in [
        (mapping(west), west),
        (mapping(both), both),
        (feature, west),
        ({"type": "FeatureCollection", "features": [feature, other]}, both),
    ]:
        text = f" {json.dumps(value, indent=1)}\n"
        assert aoi.parse_area(text).geometry.symmetric_difference(shape).area == 0


def test_collections_are_the_union_of_their_polygons_however_deep():
    a, b = "((4 50, 4.2 50, 4.2 50.2, 4 50.2, 4 50))", "((4.1 50, 4.3 50, 4.3 50.2, 4.1 50.2, 4.1 50))"
    c = "((5 50, 5.1 50, 5.1 50.1, 5 50.1, 5 50))"
    text = f"GEOMETRYCOLLECTION (POLYGON {a}, GEOMETRYCOLLECTION (MULTIPOLYGON ({b}, {c}), POINT EMPTY))"
    expected = MultiPolygon([box(4, 50, 4.3, 50.2), box(5, 50, 5.1, 50.1)])
    for prefix in ("", "SRID=4326;", "srid=4326; "):
        assert aoi.parse_area(prefix + text).geometry.symmetric_difference(expected).area < 1e-12


def named(epsg: int, x: float, y: float) -> str:
    """Name of the tile of a place: its square of MGRS, and blocks of 1024 pixels from the corner of that granule."""
    square = grid.square_name(epsg, x, y)
    west, _, _, north = granule_bounds(square)
    return f"{square}_{int(x - west) // 10240:02d}_{int(north - 1 - y) // 10240:02d}"


@pytest.mark.parametrize(
    ("bbox", "codes"),
    [
        ("5.97,50.0,6.03,50.03", (32631, 32632)),
        ("2.95,59.98,3.05,60.02", (32631, 32632)),  # west of Bergen: zone 32 begins at 3 E
        ("4.9,55.98,5.1,56.02", (32631, 32632)),  # and only from 56 N
        ("20.9,78.19,21.1,78.23", (32633, 32634, 32635)),  # Svalbard: no zone 34
        ("8.9,71.98,9.1,72.02", (32631, 32632, 32633)),  # zones 31 and 33 meet at 9 E from 72 N, 32 lies to the south
    ],
)
def test_tiles_are_those_of_a_search_through_all_pixels(bbox, codes):
    area = aoi.parse_area(bbox)
    expected = set()
    for epsg in codes:
        to_utm = Transformer.from_crs(4326, epsg, always_xy=True)
        west, south, east, north = to_utm.transform_bounds(*area.geometry.bounds, densify_pts=50)
        xs = np.arange(west // 10 - 1, east // 10 + 2) * 10 + 5
        ys = np.arange(south // 10 - 1, north // 10 + 2) * 10 + 5
        x, y = (v.ravel() for v in np.meshgrid(xs, ys))
        lon, lat = to_utm.transform(x, y, direction="INVERSE")
        mine = (grid.zone_epsg(lon, lat) == epsg) & shapely.contains_xy(area.geometry, lon, lat)
        expected |= {named(epsg, *place) for place in {*zip(x[mine] // 20 * 20, y[mine] // 20 * 20, strict=True)}}
    tiles = grid.tiles(area)
    assert {t.name for t in tiles} == expected
    assert all(grid.inside(area, t.grid).any() for t in tiles)


def test_a_grid_over_a_zone_border_is_wholly_inside_only_where_one_zone_owns_it():
    area = aoi.parse_area("4,59,13,61")
    to_utm = Transformer.from_crs(4326, 32632, always_xy=True)
    for lon, whole in [(5.999, True), (11.9, True), (12.0, False)]:  # 6 E is no border at 60 N, 12 E is
        x, y = (int(v // 20 * 20) for v in to_utm.transform(lon, 60.0))
        patch = Grid(32632, x - 500, y + 500, 100, 100)
        assert grid.inside(area, patch).all() == whole
        assert grid.inside(area, patch).any()


def test_pixels_outside_the_polygon_are_outside():
    area = aoi.parse_area("POLYGON ((4.05 50.74, 4.07 50.74, 4.06 50.75, 4.05 50.74))")
    to_lonlat = Transformer.from_crs(32631, 4326, always_xy=True)
    for tile in grid.tiles(area):
        inside = grid.inside(area, tile.grid)
        assert inside.any()
        for row in range(0, tile.grid.height, 7):
            for col in range(0, tile.grid.width, 9):
                centre = tile.grid.west + 10 * col + 5, tile.grid.north - 10 * row - 5
                assert inside[row, col] == area.geometry.contains(Point(*to_lonlat.transform(*centre)))


def test_an_area_over_two_zones_is_split_without_gap_or_overlap():
    area = aoi.parse_area("5.99,50.0,6.01,50.01")
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
    area = aoi.parse_area("179.95,-17.0,-179.95,-16.95")
    assert area.square_km == pytest.approx(59, rel=0.02)
    tiles = grid.tiles(area)
    assert {t.grid.epsg for t in tiles} == {32760, 32701}
    assert sum(grid.inside(area, t.grid).sum() for t in tiles) / 1e4 == pytest.approx(area.square_km, rel=5e-3)


def test_the_equator_parts_the_hemispheres():
    assert {t.grid.epsg for t in grid.tiles(aoi.parse_area("36.70,-0.01,36.72,0.01"))} == {32637, 32737}


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
        ("590000,5630000,592000,5632000", "590000,5630000,592000,5632000 looks like metres; give degrees"),
        ("4.07,50.74,4.05,50.75", "minx 4.07 is east"),
        ("4.05,50.75,4.07,50.74", "empty"),
        ("1,2,3", "cannot read"),
        ("nowhere.geojson", "there is no file"),
        ("POLYGON ((0 0, 1 1, 0 1, 1 0, 0 0))", "Self-intersection"),
        ("POLYGON EMPTY", "polygon"),
        ("POLYGON ((0 0, 1 1", "WKT"),
        ("POINT (4 50)", "cannot read"),
        ("10,85,11,86", "UTM"),
        ("LINESTRING (" + "4 50, " * 2000 + "4 51)", "File name too long"),
        ("{" + "4 50, " * 2000, "not valid GeoJSON"),
        ('{"type": "Topology"}', "GeoJSON of type 'Topology'"),
        ('{"type": "Polygon"}', "cannot read the GeoJSON area"),
        ('{"type": "Point", "coordinates": [4, 50]}', "GeoJSON of type 'Point'"),
        ('{"type": "FeatureCollection", "features": []}', "holds no polygon"),
        ("SRID=3857;POLYGON ((4 50, 5 50, 5 51, 4 50))", "SRID 3857"),
        ("GEOMETRYCOLLECTION (POLYGON ((4 50, 5 50, 5 51, 4 50)), POINT (4 50))", "not Point"),
        ("GEOMETRYCOLLECTION (MULTIPOLYGON (((4 50, 5 50, 5 51, 4 50))), LINESTRING (4 50, 5 51))", "not LineString"),
        ("-100,-60,100,60", "cut it into regions"),
        ("POLYGON ((500000 5600000, 500100 5600000, 500100 5600100, 500000 5600000))", "EPSG:4326"),
    ],
)
def test_a_bad_area_is_refused_in_one_clear_line(text, says):
    with pytest.raises(AoiError, match=says) as e:
        aoi.parse_area(text)
    assert "\n" not in str(e.value)
    assert e.value.exit_code == 2


def test_a_file_without_a_coordinate_system_or_polygon_is_refused(tmp_path):
    blank = tmp_path / "blank.gpkg"
    with pytest.warns(UserWarning, match="crs"):
        geopandas.GeoDataFrame(geometry=[box(0, 0, 1, 1)]).to_file(blank)
    with pytest.raises(AoiError, match="coordinate system"):
        aoi.parse_area(str(blank))
    text = tmp_path / "notes.geojson"
    text.write_text("not json")
    with pytest.raises(AoiError, match=r"notes\.geojson"):
        aoi.parse_area(str(text))
    point = tmp_path / "point.geojson"
    point.write_text(
        json.dumps({"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [4, 50]}})
    )
    with pytest.raises(AoiError, match="must be a polygon"):
        aoi.parse_area(str(point))


@settings(max_examples=200)
@given(st.text(max_size=60))
def test_any_text_is_an_area_or_an_aoi_error(text):
    with contextlib.suppress(AoiError):
        aoi.parse_area(text)


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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_closed_to_the_reader_is_refused(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "area.geojson").write_text("{}")
    for locked in (folder / "area.geojson", folder):
        locked.chmod(0)
        with pytest.raises(AoiError, match="cannot read"):
            aoi.parse_area(str(folder / "area.geojson"))
    folder.chmod(0o700)


@pytest.mark.parametrize(
    ("name", "epsg", "west", "north"),
    [
        ("31UES", 32631, 499_980, 5_700_000),  # as the transforms of real items have them
        ("13TDE", 32613, 399_960, 4_500_000),
        ("35MNM", 32735, 499_980, 9_200_020),
        ("24XWR", 32624, 499_980, 9_100_020),
    ],
)
def test_granules_start_where_real_items_do(name, epsg, west, north):
    assert grid.square_name(epsg, west + 100, north - 100) == name
    assert grid.corner(epsg, west + 100, north - 100) == (west, north)


def test_every_granule_starts_at_the_corner_of_its_square_and_has_its_name(shared):
    """All corners and names of real items, of both hemispheres, by the items' own transforms."""
    seen = 0
    for item in (item for path in (shared / "data/stac").glob("*.json") for item in real_items(shared, path.stem)):
        name = tile_in(item["id"]) or mgrs_tile(item["properties"].get("grid:code"))
        corners = {
            (a["proj:transform"][2], a["proj:transform"][5])
            for a in item["assets"].values()
            if a.get("proj:shape") == [10980, 10980] and a.get("proj:transform")
        }
        for west, north in corners:
            inside = west + 50_000, north - 50_000
            assert grid.corner(zone_of(name), *inside) == (west, north)
            assert grid.square_name(zone_of(name), *inside) == name
            seen += 1
    assert seen > 20


@given(st.sampled_from([*range(32601, 32661), *range(32701, 32761)]), st.integers(1, 8), st.integers(0, 92))
def test_names_and_corners_of_squares_belong_together(epsg, column, row):
    x, y = column * grid.SQUARE_M, (row if epsg < 32700 else 99 - row) * grid.SQUARE_M
    name = grid.square_name(epsg, x, y)
    west, _, _, north = granule_bounds(name)
    assert (west, north) == grid.corner(epsg, x, y) == grid.corner(epsg, x + 99_999, y + 99_999)
    assert x - 60 < west <= x
    assert y + grid.SQUARE_M <= north < y + grid.SQUARE_M + 60
    assert zone_of(name) == epsg


@pytest.mark.parametrize(
    "bbox", ["4.35,50.40,4.55,50.55", "36.9,-0.2,37.1,0.1", "5.9,50.0,6.1,50.1", "20.9,71.9,21.3,72.1"]
)
def test_tiles_over_squares_and_zones_hold_each_pixel_once_and_lie_on_blocks(bbox):
    area = aoi.parse_area(bbox)
    tiles = grid.tiles(area)
    assert len({t.name for t in tiles}) == len(tiles)
    for epsg in {t.grid.epsg for t in tiles}:
        boxes = [box(*t.grid.bounds) for t in tiles if t.grid.epsg == epsg]
        assert shapely.union_all(boxes).area == sum(b.area for b in boxes)
    owned = sum(grid.inside(area, t.grid).sum() for t in tiles) / 1e4
    assert owned == pytest.approx(area.square_km, rel=2e-3)
    for tile in tiles:
        west, north = grid.corner(tile.grid.epsg, tile.grid.west, tile.grid.north - 1)
        for low, high in (
            (tile.grid.west - west, tile.grid.east - west),
            (north - tile.grid.north, north - tile.grid.bounds[1]),
        ):
            assert low // 10240 == (high - 1) // 10240  # inside one block of 1024 pixels
        whole = grid.whole(tile.grid, grid.TILE_PX)
        assert (whole.width, whole.height) == (1024, 1024)
    order = [grid.pair(t.grid) for t in tiles]
    assert len({*order}) == sum(one != other for one, other in zip(order, [None, *order], strict=False))
