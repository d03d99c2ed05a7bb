"""Labelled points of real files, written by geopandas and by hand: places, classes, days, a line for what is bad."""

import os
import subprocess
import sys
import time
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
from pyproj import Transformer
from shapely import unary_union
from shapely.affinity import translate
from shapely.geometry import LineString, MultiPoint, Point, Polygon, box

from geomap import legends
from geomap.errors import InputError, LegendError
from geomap.grid import zone_epsg
from geomap.points.match import match, with_unknown
from geomap.points.pixels import lonlat_of, pixels
from geomap.points.read import read_points
from geomap.points.source import MAX_ROWS
from geomap.waypoints import gpx

LON, LAT = 4.41, 50.9


@pytest.fixture
def table() -> geopandas.GeoDataFrame:
    """Two points and a field of about 700 m x 550 m, in degrees."""
    shapes = [Point(LON, LAT), Point(4.42, LAT), box(4.43, LAT, 4.44, 50.905)]
    columns = {"crop": ["Maize", "barley", "B11"], "n": [1, 2, 3], "seen": ["2023", "2023-05-06", None]}
    return geopandas.GeoDataFrame(columns, geometry=shapes, crs=4326)


def csv(folder: Path, text: str, name: str = "points.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["p.gpkg", "p.geojson", "p.parquet", "odd;name!.gpkg"])
@pytest.mark.parametrize("epsg", [4326, 32631, 3035])
def test_every_format_and_system_gives_the_same_places(table, tmp_path, name, epsg):
    if name.endswith(".geojson") and epsg != 4326:
        pytest.skip("GeoJSON is in degrees")
    moved, plain = table.to_crs(epsg), tmp_path / f"plain{Path(name).suffix}"
    (moved.to_parquet if name.endswith("parquet") else moved.to_file)(plain)
    plain.rename(tmp_path / name)
    points = read_points(tmp_path / name, "crop", date_column="seen")
    np.testing.assert_allclose(points.lonlat[:2], [[LON, LAT], [4.42, LAT]], atol=1e-7)
    assert points.name == ("Maize", "barley", *["B11"] * 20)
    assert points.group.tolist() == [0, 1, *[2] * 20]
    assert points.polygon is not None
    assert points.polygon.tolist() == [False, False, *[True] * 20]
    assert points.when is not None
    assert [str(day) for day in points.when[:3]] == ["2023-07-01", "2023-05-06", "NaT"]


def test_pixels_of_a_polygon_lie_on_the_zones_grid_well_inside(table, tmp_path):
    table.to_file(tmp_path / "p.gpkg")
    inner = read_points(tmp_path / "p.gpkg", "crop").lonlat[2:]
    to_zone = Transformer.from_crs(4326, 32631, always_xy=True)
    x, y = to_zone.transform(*inner.T)
    np.testing.assert_allclose(np.column_stack([x, y]) % 10, 5, atol=1e-4)  # centres
    field = table.to_crs(32631).geometry[2]
    assert all(
        Point(a, b).distance(field.exterior) >= 10 - 0.1 and field.contains(Point(a, b))
        for a, b in zip(x, y, strict=True)
    )
    assert y.max() - y.min() > 400
    assert x.max() - x.min() > 500


def test_a_small_polygon_gives_its_pixel_and_a_huge_one_is_bounded(tmp_path):
    shapes = [box(LON, LAT, LON + 2e-5, LAT + 2e-5), box(0, 45, 6, 55), MultiPoint([(4.4, 50.9), (4.5, 50.9)])]
    geopandas.GeoDataFrame({"c": ["a", "b", "c"]}, geometry=shapes, crs=4326).to_file(tmp_path / "p.gpkg")
    start = time.perf_counter()
    points = read_points(tmp_path / "p.gpkg", "c")
    assert time.perf_counter() - start < 2
    assert [points.name.count(name) for name in "abc"] == [1, 20, 2]
    assert shapes[0].distance(Point(points.lonlat[0])) < 1e-4


@pytest.mark.parametrize(("lon", "lat"), [(6.0, 50.9), (180.0, -17.0)])
def test_every_pixel_of_a_polygon_over_two_zones_is_that_of_its_zone(tmp_path, lon, lat):
    """Counted beside: the centres of each zone's own grid, of those places that it owns."""
    side = 0.002
    geopandas.GeoDataFrame({"c": ["a"]}, geometry=[box(lon - side, lat, lon + side, lat + side)], crs=4326).to_file(
        tmp_path / "p.gpkg"
    )
    found = read_points(tmp_path / "p.gpkg", "c", every_pixel=True).lonlat
    wanted = 0
    for there in {
        int(code) for code in zone_epsg(np.array([lon - side, lon + side - 360 * (lon > 90)]), np.full(2, lat))
    }:
        to_zone = Transformer.from_crs(4326, there, always_xy=True)
        x, y = to_zone.transform([lon - side, lon + side] * 2, [lat, lat, lat + side, lat + side])
        grid = np.meshgrid(*(np.arange(np.floor(min(v) / 10) * 10 - 45, max(v) + 50, 10) for v in (x, y)))
        a, b = to_zone.transform(*map(np.ravel, grid), direction="INVERSE")
        inside = (np.abs((a - lon + 180) % 360 - 180) < side) & (b > lat) & (b < lat + side)
        wanted += int((inside & (zone_epsg(a, b) == there)).sum())
    assert len(found) == len(np.unique(pixels(found), axis=0)) == wanted > 500


def test_shapes_across_180_are_those_that_are_cut_there(tmp_path):
    """With longitudes beyond 180, and with an edge that goes the short way round, as GPS tracks are closed."""
    whole = box(179.999, -17, 180.001, -16.999)
    cut = unary_union([box(179.999, -17, 180, -16.999), box(-180, -17, -179.999, -16.999)])
    short = Polygon([(179.999, -17), (-179.999, -17), (-179.999, -16.999), (179.999, -16.999)])
    below = translate(whole, -360)
    shapes = [cut, whole, short, below, Point(180.0005, -17), Point(-179.9995, -17)]
    geopandas.GeoDataFrame({"c": list("abcdef")}, geometry=shapes, crs=4326).to_file(tmp_path / "p.geojson")
    points = read_points(tmp_path / "p.geojson", "c", every_pixel=True)
    of = {name: points.lonlat[[n == name for n in points.name]] for name in "abcdef"}
    assert len(of["a"]) > 200
    for name in "bcd":
        np.testing.assert_allclose(of[name], of["a"], atol=1e-9)
    np.testing.assert_allclose(of["e"], of["f"], atol=1e-9)
    geopandas.GeoDataFrame({"c": ["a"]}, geometry=[Polygon([(0, 80), (120, 80), (-120, 80)])], crs=4326).to_file(
        tmp_path / "pole.geojson"
    )
    with pytest.raises(InputError, match="goes round a pole or over half the globe; cut it at 180"):
        read_points(tmp_path / "pole.geojson", "c")


def test_places_and_pixels_are_those_of_the_zones(tmp_path):
    lonlat = np.array([[4.41, 50.9], [6.5, 50.9], [-60.1, -3.2], [5.0, 60.0]])
    place = pixels(lonlat)
    assert place[:, 0].tolist() == zone_epsg(*lonlat.T).tolist() == [32631, 32632, 32720, 32632]
    x, y = Transformer.from_crs(4326, 32631, always_xy=True).transform(4.41, 50.9)
    assert place[0, 1:].tolist() == [int(x // 10), int(y // 10)]
    assert np.abs(lonlat_of(place) - lonlat).max() < 2e-4
    np.testing.assert_array_equal(pixels(lonlat_of(place)), place)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (f"lon,lat,c\n{LON},{LAT},Maize\n", {}),
        (f"\ufeffLongitude;Latitude;c\n{str(LON).replace('.', ',')};{str(LAT).replace('.', ',')};Maize\n", {}),
        (f"x\ty\tc\n{LON}\t{LAT}\tMaize\n", {"crs": "EPSG:4326"}),
        ("x,y,c\n599161.3,5639660.7,Maize\n", {"crs": "EPSG:32631"}),
    ],
)
def test_tables_in_degrees_or_metres(tmp_path, text, options):
    points = read_points(csv(tmp_path, text), "c", **options)
    assert points.name == ("Maize",)
    np.testing.assert_allclose(points.lonlat, [[LON, LAT]], atol=5e-3)


def test_a_layer_is_named_where_there_are_several(table, tmp_path):
    table.to_file(tmp_path / "p.gpkg", layer="fields")
    table.to_file(tmp_path / "p.gpkg", layer="old")
    assert read_points(f"{tmp_path}/p.gpkg:old", "n").name[:2] == ("1", "2")
    with pytest.raises(InputError, match=r"several layers; name one: p\.gpkg:fields, p\.gpkg:old$"):
        read_points(tmp_path / "p.gpkg", "n")
    with pytest.raises(InputError, match="no layer new with shapes; it has fields, old"):
        read_points(f"{tmp_path}/p.gpkg:new", "n")


def test_a_layer_may_have_a_colon_in_its_name(table, tmp_path):
    table.to_file(tmp_path / "p.gpkg", layer="my points: a b")
    table.to_file(tmp_path / "p.gpkg", layer="old")
    assert read_points(f"{tmp_path}/p.gpkg:my points: a b", "n").name[:2] == ("1", "2")


def test_the_waypoints_of_a_phone_are_points(tmp_path):
    rows = [{"lon": LON, "lat": LAT, "name": "Maize"}, {"lon": 4.42, "lat": LAT, "name": "barley"}]
    (tmp_path / "phone.gpx").write_bytes(gpx(rows))
    found = read_points(tmp_path / "phone.gpx", "name")
    assert found.name == ("Maize", "barley")
    np.testing.assert_allclose(found.lonlat, [[LON, LAT], [4.42, LAT]], atol=1e-7)
    with pytest.raises(InputError, match="holds no points"):
        read_points(f"{tmp_path / 'phone.gpx'}:tracks", "name")
    with pytest.raises(InputError, match=r"no column class; choose --column from .*name, cmt, desc"):
        read_points(tmp_path / "phone.gpx", "class")


def test_each_point_of_a_multipoint_is_a_point(tmp_path):
    """In QGIS, dissolved points are MultiPoints: 60 of one class are 60 points, each its own group."""
    many = MultiPoint([(LON + i / 1000, LAT) for i in range(60)])
    shapes = [many, box(4.43, LAT, 4.44, 50.905), Point(LON, 50.91)]
    geopandas.GeoDataFrame({"c": ["a", "b", "c"]}, geometry=shapes, crs=4326).to_file(tmp_path / "p.gpkg")
    points = read_points(tmp_path / "p.gpkg", "c")
    assert points.name == (*["a"] * 60, *["b"] * 20, "c")
    assert points.group.tolist() == [*range(60), *[60] * 20, 61]
    crowd = MultiPoint(np.random.default_rng(0).uniform(4, 5, (MAX_ROWS + 2, 2)))
    geopandas.GeoDataFrame({"c": ["a"]}, geometry=[crowd], crs=4326).to_file(tmp_path / "crowd.gpkg")
    with pytest.raises(InputError, match="at most"):
        read_points(tmp_path / "crowd.gpkg", "c")


def test_ids_and_empty_cells_as_tables_write_them(tmp_path):
    text = (
        f"lon,lat,c\n{LON},{LAT},10.0\n{LON},{LAT},nan\n{LON},{LAT},\n{LON},{LAT},2\n{LON},{LAT},NULL\n{LON},{LAT},NA\n"
    )
    assert read_points(csv(tmp_path, text), "c").name == ("10", "", "", "2", "", "")


@pytest.mark.parametrize(
    ("values", "dtype", "names"),
    [
        (["Maize", None, "Barley"], "string", ("Maize", "", "Barley")),
        (["Maize", None, "Barley"], "string[pyarrow]", ("Maize", "", "Barley")),
        ([1, None, 3], "Int64", ("1", "", "3")),
        ([1.0, None, 3.0], "Float64", ("1", "", "3")),
        ([True, None, False], "boolean", ("True", "", "False")),
    ],
)
def test_a_missing_value_of_any_kind_of_column_is_an_empty_cell(tmp_path, values, dtype, names):
    pytest.importorskip("pyarrow")
    columns = {"c": pd.array(values, dtype=dtype), "year": pd.array([2019, None, 2020], dtype="Int64")}
    geopandas.GeoDataFrame(columns, geometry=[Point(LON, LAT)] * 3, crs=4326).to_parquet(tmp_path / "p.parquet")
    found = read_points(tmp_path / "p.parquet", "c", date_column="year")
    assert found.name == names
    assert [str(day) for day in found.when] == ["2019-07-01", "NaT", "2020-07-01"]


def test_years_beside_an_empty_cell_and_accents_of_either_form_are_read(tmp_path):
    text = f"lon,lat,c,year\n{LON},{LAT},For\u00eat,2019.0\n{LON},{LAT},Fore\u0302t,\n{LON},{LAT},N/A,2020\n"
    found = read_points(csv(tmp_path, text), "c", date_column="year")
    assert found.name == ("For\u00eat", "For\u00eat", "")
    assert [str(day) for day in found.when] == ["2019-07-01", "NaT", "2020-07-01"]


def test_spellings_of_one_unknown_name_are_one_class(table, tmp_path):
    rows = pd.concat([table.iloc[[0]]] * 4).assign(crop=["Foo bar", "foo-bar", "Maize", "FOO_BAR"])
    rows.to_file(tmp_path / "p.gpkg")
    legend, matched = with_unknown(read_points(tmp_path / "p.gpkg", "crop"), legends.load("crops"))
    assert len(legend.classes) == len(legends.load("crops").classes) + 1
    assert legend.classes[-1].name == "Foo bar"
    assert len(set(matched.ids[[0, 1, 3]].tolist())) == 1


def test_tables_with_empty_cells_at_the_end_or_an_unused_column_twice_are_read(tmp_path):
    for text in (f"lon,lat,c\n{LON},{LAT},maize,,\n", f"lon,lat,c,note,note\n{LON},{LAT},maize,a,b\n"):
        assert read_points(csv(tmp_path, text), "c").name == ("maize",)


BAD_TABLES = {
    "text": (f"lon,lat,c\n{LON},{LAT},a\neast,{LAT},b\n", {}, r"line 3: lon is east, no number \(1 lines so\)"),
    "swapped": (f"lon,lat,c\n{LAT},{LON + 100},a\n", {}, "longitude and latitude look swapped"),
    "metres": ("lon,lat,c\n599161,5639660,a\n", {}, "for metres name their system: --points-crs"),
    "x and y": (f"x,y,c\n{LON},{LAT},a\n", {}, "say what they are: --points-crs EPSG:4326"),
    "no place": ("a,b,c\n1,2,3\n", {}, "needs the columns lon and lat.*it has a, b, c"),
    "wrong column": (f"lon,lat,c\n{LON},{LAT},a\n", {"column": "crop"}, "no column crop; choose --column from lon"),
    "wrong dates": (f"lon,lat,c\n{LON},{LAT},a\n", {"date_column": "d"}, "no column d; choose --date-column"),
    "a cell too many": (f"lon,lat,c\n{LON},{LAT},a, late\n", {}, "more cells than its first line: name every column"),
    "decimal commas": ("lon,lat,c\n4,41,50,9,a\n", {}, "or separate the columns by semicolons"),
    "twice": (f"lon,lat,c,c\n{LON},{LAT},a,b\n", {}, "has the column c twice; rename one"),
    "today": (f"lon,lat,c,d\n{LON},{LAT},a,today\n", {"date_column": "d"}, "d is today, no day; write 2023"),
    "bad date": (f"lon,lat,c,d\n{LON},{LAT},a,spring\n", {"date_column": "d"}, "d is spring, no day; write 2023"),
    "unknown system": (f"x,y,c\n{LON},{LAT},a\n", {"crs": "EPSG:999999"}, "unknown coordinate system EPSG:999999"),
    "empty": ("", {}, "is empty; export the points again"),
    "header alone": ("lon,lat,c\n", {}, "holds no points"),
    "no class": (f"lon,lat,c\n{LON},{LAT},\n", {}, "column c of .* is empty in every row; fill in the classes first"),
    "control": (f"lon,lat,c\n{LON},{LAT},a\x1b[31mb\n", {}, r"row 1: no class can be called a\\x1b\[31mb"),
    "long": (f"lon,lat,c\n{LON},{LAT},{'a' * 300}\n", {}, "row 1.*300 characters.*at most 281 printable"),
    "numbers": ("lon,lat,c\n" + "".join(f"{LON},{LAT},{i}\n" for i in range(300)), {}, "300 different classes"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_TABLES)
def test_a_bad_table_is_one_clear_line(tmp_path, what):
    text, options, says = BAD_TABLES[what]
    with pytest.raises(InputError, match=says) as caught:
        read_points(csv(tmp_path, text), **({"column": "c"} | options))
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_bad_vector_files_are_one_clear_line(table, tmp_path):
    geopandas.GeoDataFrame(table.drop(columns="geometry"), geometry=table.geometry.to_list()).to_file(
        tmp_path / "no.gpkg"
    )
    lines = geopandas.GeoDataFrame({"c": ["a"]}, geometry=[LineString([(0, 50), (1, 51)])], crs=4326)
    lines.to_file(tmp_path / "lines.gpkg")
    beyond = geopandas.GeoDataFrame({"c": ["a"]}, geometry=[Point(400, 50)], crs=4326)
    beyond.to_file(tmp_path / "beyond.gpkg")
    (tmp_path / "text.gpkg").write_text("hello")
    (tmp_path / "vrt.geojson").write_text("<OGRVRTDataSource><OGRVRTLayer name='a'/></OGRVRTDataSource>")
    (tmp_path / "odd.geojson").write_text('{"a": 1}')
    (tmp_path / "text.parquet").write_text("hello")
    (tmp_path / "bytes.csv").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    for name, says in {
        "no.gpkg": "has no coordinate system; say which: --points-crs",
        "lines.gpkg": "holds LineString shapes; give points or polygons",
        "beyond.gpkg": "coordinates 400..400, 50..50, which lie outside WGS 84",
        "text.gpkg": "not what its name says",
        "vrt.geojson": "not what its name says",
        "odd.geojson": "cannot be read",
        "text.parquet": "no GeoParquet file",
        "bytes.csv": "save it as CSV in UTF-8",
        "photo.jpg": "export it as .gpkg",
        "none.gpkg": "no file",
    }.items():
        with pytest.raises(InputError, match=says) as caught:
            read_points(tmp_path / name, "c" if name != "no.gpkg" else "crop")
        assert "\n" not in str(caught.value), name
    assert len(read_points(tmp_path / "no.gpkg", "crop", crs="EPSG:4326")) == 22
    table.set_geometry([Point(), Point(float("nan"), LAT), Point(LON, LAT)]).to_file(tmp_path / "nan.gpkg")
    points = read_points(tmp_path / "nan.gpkg", "crop")
    assert (len(points), points.nowhere, points.name) == (1, 2, ("B11",))
    table.to_file(tmp_path / "own.gpkg")
    assert len(read_points(tmp_path / "own.gpkg", "crop", crs="EPSG:4326")) == 22  # the file's own
    with pytest.raises(InputError, match=r"itself that it is in WGS 84: leave --points-crs EPSG:32631 out"):
        read_points(tmp_path / "own.gpkg", "crop", crs="EPSG:32631")


def test_a_million_points_are_refused_at_once_and_in_little_memory(tmp_path):
    rows = 1_000_000
    many = csv(tmp_path, "lon,lat,c\n" + f"{LON},{LAT},a\n" * rows, "many.csv")
    frame = pd.DataFrame({"c": ["a"] * (MAX_ROWS + 1)})
    where = geopandas.points_from_xy(np.full(len(frame), LON), np.full(len(frame), LAT))
    geopandas.GeoDataFrame(frame, geometry=where, crs=4326).to_file(tmp_path / "many.gpkg")
    for path in (many, tmp_path / "many.gpkg"):
        start = time.perf_counter()
        with pytest.raises(InputError, match=f"at most {MAX_ROWS:,} are read: give a sample of them"):
            read_points(path, "c")
        assert time.perf_counter() - start < 5


def test_names_match_by_name_code_and_synonym_whatever_their_case(tmp_path):
    names = ["Woodland", "woodland", "FOREST", "B", "built-up", "Heath", ""]
    path = csv(tmp_path, "lon,lat,c\n" + "".join(f"{LON},{LAT},{name}\n" for name in names))
    cover = legends.load("landcover")
    found = match(read_points(path, "c"), cover)
    assert found.ids.tolist() == [3, 3, 3, 2, 1, 0, 0]
    assert found.unknown == ("Heath",)
    assert found.lines == (
        "1 of 6 names are those of legend landcover",
        "woodland (1): Woodland, by name",
        "FOREST (1): Woodland, by synonym",
        "B (1): Cropland, by code",
        "built-up (1): Artificial land, by synonym",
        "without a class: 1, left out",
    )


def test_names_that_differ_by_words_that_tell_nothing_are_one_class(tmp_path):
    names = ["maize", "Potatoes", "barley", "grass", "rye field", "other crops"]
    path = csv(tmp_path, "lon,lat,c\n" + "".join(f"{LON},{LAT},{name}\n" for name in names))
    typed = legends.typed("maize field, a field of potatoes, winter barley, grass land, field of grass, rye")
    found = match(read_points(path, "c"), typed)
    assert found.ids.tolist() == [1, 2, 0, 0, 6, 0]
    assert found.lines[1] == "Potatoes (1): a field of potatoes, by its words"
    assert found.unknown == ("barley", "grass", "other crops")  # grass may be either of two


def test_the_longest_name_that_is_read_can_be_added_to_a_legend(tmp_path):
    name = "a" * legends.LONGEST_TYPED
    points = read_points(csv(tmp_path, f"lon,lat,c\n{LON},{LAT},{name}\n"), "c")
    whole, _ = with_unknown(points, legends.load("landcover"))
    assert whole.classes[-1].name == name
    with pytest.raises(LegendError, match=r"has 282 characters, at most 281 are taken; type a shorter one"):
        legends.typed(f"vineyard, {name}a")


def test_ids_count_only_where_every_name_is_one(tmp_path):
    cover = legends.load("landcover")
    rows = [f"{LON},{LAT},{name}\n" for name in ("2", "8", "2.1")]
    assert match(read_points(csv(tmp_path, "lon,lat,c\n" + rows[0] + rows[1]), "c"), cover).ids.tolist() == [2, 8]
    mixed = match(read_points(csv(tmp_path, "lon,lat,c\n" + "".join(rows)), "c"), cover)
    assert mixed.unknown == ("2", "8", "2.1")


def test_ids_are_ids_also_where_a_class_is_called_by_another_ones_number(tmp_path):
    typed = legends.typed("winter wheat, 1, 2024, rye")
    rows = [f"{LON},{LAT},{name}\n" for name in ("1", "2", "3", "4")]
    assert match(read_points(csv(tmp_path, "lon,lat,c\n" + "".join(rows)), "c"), typed).ids.tolist() == [1, 2, 3, 4]
    named = csv(tmp_path, f"lon,lat,c\n{LON},{LAT},1\n{LON},{LAT},2024\n")
    assert match(read_points(named, "c"), typed).ids.tolist() == [2, 3]


def test_classes_that_a_legend_lacks_are_added_with_an_id_and_a_colour_of_their_own(tmp_path):
    cover = legends.load("landcover")
    rows = "".join(f"{LON},{LAT},{name}\n" for name in ("Water", "<b>solar park</b>", "=quarry"))
    whole, found = with_unknown(read_points(csv(tmp_path, "lon,lat,c\n" + rows), "c"), cover)
    assert [(c.id, c.name) for c in whole.classes[8:]] == [(9, "<b>solar park</b>"), (10, "=quarry")]
    assert whole.classes[8].prompts[1] == "land covered by <b>solar park</b>"
    assert len({c.colour.casefold() for c in whole.classes}) == len(whole.classes)
    assert found.ids.tolist() == [7, 9, 10]
    assert found.lines[-1] == "added to legend landcover: <b>solar park</b>, =quarry"
    with pytest.raises(LegendError, match="no room for 300 more"):
        legends.added(cover, [f"c{i}" for i in range(300)])
    with pytest.raises(InputError, match="gives scores, not classes"):
        match(read_points(csv(tmp_path, "lon,lat,c\n" + rows), "c"), legends.load("scenicness"))


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("Barly", "Barley"),
        ("sugar beats", "Sugar beet"),
        ("citrus", "Other citrus fruit"),
        ("Quarry", ""),
        ("Flint", ""),
        ("hemp", "Other fibre and oleaginous crops"),  # by its prompts
        ("Rop", ""),  # within "crops"
    ],
)
def test_a_slip_in_a_name_is_warned_of(slip, meant, tmp_path):
    path = csv(tmp_path, f"lon,lat,c\n{LON},{LAT},{slip}\n{LON},{LAT},Barley\n")
    lines = with_unknown(read_points(path, "c"), legends.load("crops"))[1].lines
    warned = [line for line in lines if line.startswith(f"WARNING: {slip} (1) is mapped as a class of its own")]
    assert [f"if {meant} is meant, write that" in line for line in warned] == ([True] if meant else [])


def test_a_name_of_ones_own_legend_that_its_prompts_tell_is_warned_of_with_the_synonym_to_add(tmp_path):
    """Names in Dutch, prompts and points in English."""
    prompts = {"Suikerbiet": ("a sugar beet field",), "Tarwe": ("wheat stubble",)}
    about = enumerate(prompts.items(), start=1)
    classes = [{"id": i, "name": name, "colour": f"#00000{i}", "prompts": own} for i, (name, own) in about]
    own = legends.Legend(name="agri", title="Agri", classes=classes)
    table = csv(tmp_path, f"lon,lat,c\n{LON},{LAT},sugar beets\n{LON},{LAT},Tarwe\n{LON},{LAT},rye\n")
    (warned,) = [line for line in with_unknown(read_points(table, "c"), own)[1].lines if "WARNING" in line]
    assert warned.startswith("WARNING: sugar beets (1) is mapped as a class of its own; if Suikerbiet is meant, ")
    assert warned.endswith('write that, or add synonyms = ["sugar beets"] to it in the file of agri')
    typed = legends.typed("winter barley, rye")
    table = csv(tmp_path, f"lon,lat,c\n{LON},{LAT},barley\n{LON},{LAT},rye\n")
    assert with_unknown(read_points(table, "c"), typed)[1].lines[-1].endswith("if winter barley is meant, write that")


def test_a_name_with_the_words_of_a_class_and_more_is_warned_of(tmp_path):
    typed = legends.typed("wheat field, field, other land, rye")
    table = csv(tmp_path, f"lon,lat,c\n{LON},{LAT},Common wheat\n{LON},{LAT},rye\n{LON},{LAT},quarry\n")
    (warned,) = [line for line in with_unknown(read_points(table, "c"), typed)[1].lines if "WARNING" in line]
    assert warned.startswith("WARNING: Common wheat (1) is mapped as a class of its own; if wheat field is meant")


def test_plurals_in_oes_are_the_same_words(tmp_path):
    names = ["Potatoes", "tomatoes", "sloes", "canoes"]
    typed = legends.typed("potato field, tomato field, sloe, canoe")
    table = csv(tmp_path, "lon,lat,c\n" + "".join(f"{LON},{LAT},{name}\n" for name in names))
    found = match(read_points(table, "c"), typed)
    assert (found.ids.tolist(), found.unknown) == ([1, 2, 3, 4], ())


def test_synonyms_are_unique_within_a_built_in_legend():
    for name in legends.builtin_names():
        names = [text.casefold() for c in legends.load(name).classes for text in (c.name, *c.synonyms)]
        assert sorted(set(names)) == sorted(names), name


def test_reading_points_loads_geopandas_only_when_used():
    code = "import sys, geomap.points.read; print(sorted({'geopandas', 'pyogrio', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip() == "[]"
