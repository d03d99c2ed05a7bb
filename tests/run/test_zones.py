"""Areas in polygons whose edges run through the centres of pixels, and what the points of an assessment say of them."""

import csv
import json
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

from geomap import files, legends
from geomap.assess.class_map import class_at, find_map
from geomap.errors import InputError, ReadError
from geomap.run import check, zones
from geomap.run.assess import assess_map
from geomap.run.design import AssessRequest
from geomap.run.record import add_files
from geomap.run.sample import SampleRequest, sample_map
from tests.support.maps import ZONES, finished
from tests.support.runner import geomap, refused


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
    assert {zones._counted(tmp_path / "m.tif", shapes, moved, i).pixels[1] for i in range(400)} == {100}
    x, y = (v.ravel() for v in np.meshgrid(west + 5 + 10 * np.arange(300), north - 5 - 10 * np.arange(300)))
    points = np.column_stack([np.full(len(x), 32631), x, y, np.full(len(x), 7)])  # one on each pixel
    points = np.concatenate([points, points + np.array([1, 0, 0, 0])])  # and at the same numbers in another zone
    assert all(
        zones._counted(tmp_path / "m.tif", shapes, moved, i, points).points == {(1, 7): 100} for i in range(0, 400, 21)
    )


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
    return [zones._counted(path, shapes, {}, 0).pixels[1] for path in maps]


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


def test_a_column_that_is_wrong_or_not_given_leads_to_those_there_are(run: Path, caplog) -> None:
    words = ("areas", run, "--zones", run.parent / "zones.gpkg", "--json")
    refused(geomap(*words, "--column", "nmae"), 2, "has no column 'nmae'; its columns are: name")
    assert geomap(*words, "--column", "name").exit_code == 0
    assert "--column" not in caplog.text
    assert {row["zone"] for row in json.loads(geomap(*words).stdout)} == {"1", "2", "3", "4"}
    assert "polygons are called by their number; --column takes their names from one of: name" in caplog.text


def test_a_drawing_without_a_place_on_earth_is_refused_in_one_line(tmp_path: Path) -> None:
    local = CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    geopandas.GeoDataFrame({"n": ["a"]}, geometry=[box(0, 0, 100, 100)], crs=local).to_file(tmp_path / "site.gpkg")
    with pytest.raises(InputError, match="no place on Earth"):
        zones.read_zones(str(tmp_path / "site.gpkg"), "n")


# --- estimates by the points of an assessment

NAMES = {c.id: c.name for c in legends.load("landcover").classes}
RNG = np.random.default_rng(23)
TRUTH = {epsg: RNG.choice([2, 3, 5], (120, 160), p=[0.6, 0.3, 0.1]) for epsg in ZONES}
"""True land cover of maps in two zones."""
MAP = {epsg: np.where(RNG.random(ids.shape) < 0.8, ids, RNG.choice([2, 3], ids.shape)) for epsg, ids in TRUTH.items()}
"""The same, about 90 % right."""


def in_zone(epsg: int, left: int, top: int, right: int, bottom: int) -> shapely.Geometry:
    """In degrees, the polygon that holds these columns and rows of a map."""
    west, north = ZONES[epsg]
    shape = box(west + 10 * left, north - 10 * bottom, west + 10 * right, north - 10 * top)
    return geopandas.GeoSeries([shape], crs=epsg).segmentize(100).to_crs(4326)[0]


PARTS = {
    "all": MultiPolygon([in_zone(epsg, -5, -5, 165, 125) for epsg in ZONES]),
    "both": MultiPolygon([in_zone(32631, 80, 0, 160, 120), in_zone(32632, 0, 0, 80, 60)]),
    "few": in_zone(32632, 0, 0, 12, 12),
    "far": box(20, 20, 21, 21),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The maps of two zones, and zones.gpkg beside them."""
    table = geopandas.GeoDataFrame({"name": list(PARTS)}, geometry=list(PARTS.values()), crs=4326)
    table.to_file(tmp_path / "zones.gpkg")
    return finished(tmp_path / "run", {"landcover": MAP})


def drawn(run: Path, asked: SampleRequest) -> geopandas.GeoDataFrame:
    """A sample of a run with its true classes."""
    sample_map(run, [run.parent / "points.gpkg"], asked)
    table = geopandas.read_file(run.parent / "points.gpkg")
    truth = find_map(finished(run.parent / "truth", {"landcover": TRUTH}), None)
    lonlat = np.column_stack([table.geometry.x, table.geometry.y])
    table["class"] = [NAMES[int(c)] for c in class_at(truth, lonlat)]
    return table


def assess(run: Path, table: geopandas.GeoDataFrame, design: str | None = None) -> None:
    table.to_file(run.parent / "answered.gpkg", layer="sample")
    assess_map(run, AssessRequest(run.parent / "answered.gpkg", "class", design=design))  # type: ignore[arg-type]


def estimates(run: Path) -> dict[str, dict[int, tuple[float | None, float | None]]]:
    """By polygon and class: estimated hectares, and half of their interval."""
    found = zones.zonal(run, str(run.parent / "zones.gpkg"), "name")
    return {zone.name: {row["id"]: (row["adjusted_ha"], row["ci95_ha"]) for row in zone.rows} for zone in found}


def test_points_give_areas_of_the_whole_map_and_of_its_parts(run: Path) -> None:
    table = drawn(run, SampleRequest(n=400))
    assess(run, table)
    assert check.check(run).problems == ()
    found = estimates(run)
    whole = json.loads((run / "areas.json").read_text())["landcover"]
    assert found["all"] == {a["id"]: (a["adjusted_ha"], a["ci95_ha"]) for a in whole if a["adjusted_ha"] is not None}
    assert len(found["all"]) == 3
    assert found["far"] == {0: (None, None)}
    inside = table.geometry.within(PARTS["both"]).to_numpy()
    mapped = class_at(find_map(run, None), np.column_stack([table.geometry.x, table.geometry.y]))
    ids = np.concatenate([MAP[32631][:, 80:].ravel(), MAP[32632][:60, :80].ravel()])
    for c in (2, 3, 5):  # Olofsson et al. 2014, equations 9 and 10, with the pixels and the points of the part
        area = variance = 0.0
        for h in (2, 3, 5):
            here = inside & (mapped == h)
            n, size, share = here.sum(), (ids == h).sum() / 100, (table["class"][here] == NAMES[c]).mean()
            area += size * share
            variance += size**2 * share * (1 - share) / (n - 1)
        assert found["both"][c] == pytest.approx((area, 1.96 * variance**0.5), abs=0.006)
    assert 100 < inside.sum() < 300


def test_estimates_are_told_beside_the_counts_and_polygons_with_few_points_are_named(run: Path) -> None:
    words = ("areas", run, "--zones", run.parent / "zones.gpkg", "--column", "name")
    assert "estimated" not in geomap(*words).stdout
    assess(run, drawn(run, SampleRequest(n=400)))
    found = estimates(run)
    assert {*found["few"].values()} == {(None, None)}
    done = geomap(*words)
    assert f"{found['both'][2][0]:,.2f} +-{found['both'][2][1]:,.2f}" in done.stdout
    assert "*" not in done.stdout
    assert "landcover: too few points for an estimate in 1 of 4 polygons; more points of the map help" in done.stderr
    assert "landcover: intervals are too narrow for classes with few points: " in done.stderr
    rows = json.loads(geomap(*words, "--json").stdout)
    assert {(row["zone"], row["id"]): (row["adjusted_ha"], row["ci95_ha"]) for row in rows} == {
        (name, c): told for name, classes in found.items() for c, told in classes.items()
    }
    assert {row["probability_sample"] for row in rows if row["zone"] == "both"} == {True}
    assert geomap(*words, "--out", run.parent / "t.csv").exit_code == 0
    table = list(csv.DictReader((run.parent / "t.csv").open()))
    assert [float(row["adjusted_ha"]) for row in table if row["zone"] == "both"] == [
        row["adjusted_ha"] for row in rows if row["zone"] == "both"
    ]
    few = {(row["adjusted_ha"], row["ci95_ha"], row["probability_sample"]) for row in table if row["zone"] == "few"}
    assert few == {("", "", "")}


def test_a_class_that_is_found_where_it_is_not_mapped_has_a_row(tmp_path: Path) -> None:
    """All is mapped as cropland; a quarter of the random points is woodland, and as many are vineyards."""
    run = finished(tmp_path / "run", {"landcover": {32631: np.full((100, 100), 2)}})
    whole = geopandas.GeoDataFrame(geometry=[in_zone(32631, 0, 0, 100, 100)], crs=4326)
    whole.to_file(tmp_path / "zones.gpkg")
    sample_map(run, [tmp_path / "points.gpkg"], SampleRequest(n=80, design="random"))
    table = geopandas.read_file(tmp_path / "points.gpkg")
    table["class"] = ["Cropland", "Woodland", "Vineyard", "Cropland"] * 20
    assess(run, table, "random")
    (zone,) = zones.zonal(run, str(tmp_path / "zones.gpkg"))
    error = pytest.approx(1.96 * (0.25 * 0.75 / 79) ** 0.5 * 100, abs=0.006)
    assert [(row["name"], row["pixels"], row["adjusted_ha"]) for row in zone.rows] == [
        ("Cropland", 10_000, 50.0),
        ("Woodland", 0, 25.0),
    ]
    assert zone.rows[1]["ci95_ha"] == error


def test_points_of_unknown_origin_are_marked_in_polygons_too(run: Path) -> None:
    assess(run, drawn(run, SampleRequest(n=400, design="random"))[["class", "geometry"]])
    words = ("areas", run, "--zones", run.parent / "zones.gpkg", "--column", "name")
    done = geomap(*words)
    assert done.stdout.count(" *") == 6
    assert "*: of points that are not known to be drawn by chance" in done.stdout
    assert "by points that are not known to be drawn by chance" in geomap(*words, "--json").stderr


def test_clusters_and_strata_of_another_map_give_no_estimates_in_polygons(run: Path) -> None:
    table = drawn(run, SampleRequest(n=400))
    other = table.assign(stratum=np.arange(400) % 2, stratum_px=20_000)
    for points, design in ((table, "cluster"), (other, None)):
        assess(run, points, design)
        assert all(told == (None, None) for part in estimates(run).values() for told in part.values())
        done = geomap("areas", run, "--zones", run.parent / "zones.gpkg")
        assert "landcover: counts of pixels, for such points tell of the whole map alone (geomap areas" in done.stderr
        assert "estimated" not in done.stdout
    assess(run, table, "stratified")
    assert estimates(run)["both"][2] != (None, None)


def test_where_a_mapped_class_has_no_point_the_rest_is_estimated_if_that_is_nearly_all(tmp_path: Path) -> None:
    """Woodland covers 5 % of the map, and 10 % of its western half; the points on it have no answer."""
    ids = np.full((100, 200), 2)
    ids[:, :10] = 3
    run = finished(tmp_path / "run", {"landcover": {32631: ids}})
    shapes = [in_zone(32631, 0, 0, right, 100) for right in (200, 100)]
    geopandas.GeoDataFrame({"name": ["whole", "west"]}, geometry=shapes, crs=4326).to_file(tmp_path / "zones.gpkg")
    sample_map(run, [tmp_path / "points.gpkg"], SampleRequest(n=200, design="random"))
    table = geopandas.read_file(tmp_path / "points.gpkg")
    mapped = class_at(find_map(run, None), np.column_stack([table.geometry.x, table.geometry.y]))
    table["class"] = np.where(mapped == 3, "", "Cropland")
    assess(run, table, "random")
    assert estimates(run) == {
        "whole": {2: (190.0, None), 3: (None, None)},
        "west": {2: (None, None), 3: (None, None)},
    }


def test_an_assessment_of_an_older_version_leaves_counts_and_a_damaged_one_is_named(run: Path) -> None:
    assess(run, drawn(run, SampleRequest(n=400)))
    told = json.loads((run / "assessment.json").read_text())
    kept = told["landcover"].pop("sample")
    add_files(run, {"assessment.json": files.json_bytes(told)})
    words = ("areas", run, "--zones", run.parent / "zones.gpkg")
    done = geomap(*words)
    assert done.exit_code == 0
    assert "landcover: counts of pixels, for an older version assessed it; assess it again" in done.stderr
    assert "landcover was assessed with 400 points" in geomap("areas", run).stdout
    for damage in ({"x": kept["x"][1:]}, {"epsg": [10**30] * 400}, {"y": "north"}):
        told["landcover"]["sample"] = kept | damage
        add_files(run, {"assessment.json": files.json_bytes(told)})
        refused(geomap(*words), 2, "assessment.json is damaged")
