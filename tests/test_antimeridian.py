"""Areas across 180 degrees and far from where their coordinate system holds: cut, or refused in one line."""

import json
from pathlib import Path

import geopandas
import pytest
import shapely
from pyproj import Transformer
from shapely.geometry import box, mapping

from geomap import grid
from geomap.aoi import Area
from geomap.errors import AoiError

SOUTH, NORTH = -16.8, -16.796
RING = box(-179.998, SOUTH, 179.998, NORTH)  # its long edges are meant the short way, across 180
TRUE = Area("179.998,-16.8,-179.998,-16.796")


def geojson(shape: shapely.Geometry, epsg: int | None = None) -> str:
    content = dict(mapping(shape))
    if epsg:
        content["crs"] = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{epsg}"}}
    return json.dumps(content)


def small(area: Area) -> None:
    """The area is one small place on both sides of 180 degrees."""
    assert area.geometry.is_valid
    assert [max(p.bounds[2] - p.bounds[0], 0) < 0.01 for p in area.geometry.geoms] == [True, True]
    assert len(grid.tiles(area)) <= 4


@pytest.mark.parametrize("epsg", [3460, 32701, 32760, 3832, 3857, 3994, 3413])
@pytest.mark.parametrize("way", ["text", "geojson", "gpkg"])
def test_a_projected_area_across_180_is_cut_there(epsg: int, way: str, tmp_path: Path) -> None:
    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(180, 70 if epsg == 3413 else -16.8)
    shape = box(x - 220, y - 220, x + 220, y + 220).difference(box(x - 20, y - 20, x + 20, y + 20))
    if way == "text":
        area = Area(geojson(shape, epsg))
    else:
        path = tmp_path / f"area.{way}"
        geopandas.GeoSeries([shape], crs=epsg).to_file(path)
        area = Area(path)
    small(area)
    back = shapely.transform(
        area.geometry, lambda xy: xy + [[360, 0]] * (xy[:, :1] < 0)
    )  # one piece again, beyond 180: it is where it was drawn
    there = Transformer.from_crs(4326, epsg, always_xy=True).transform(*shapely.get_coordinates(back).T)
    for drawn, found in zip((x, y), there, strict=True):
        assert max(abs(v - drawn) % 40_075_000 for v in found) == pytest.approx(220, abs=1) or epsg == 3857


@pytest.mark.parametrize(
    "given",
    [
        RING,
        RING.wkt,
        f"SRID=4326;{RING.wkt}",
        geojson(RING),
        geojson(RING, 4167),
        shapely.MultiPolygon([RING]),
        box(179.998, SOUTH, 180.002, NORTH),
        box(-180.002, SOUTH, -179.998, NORTH),
        f"GEOMETRYCOLLECTION({RING.wkt})",
    ],
)
def test_an_uncut_ring_across_180_is_cut_and_the_log_says_so(given: object, caplog: pytest.LogCaptureFixture) -> None:
    area = Area(given)  # type: ignore[arg-type]
    small(area)
    assert area.square_km == pytest.approx(TRUE.square_km, rel=1e-6)
    assert grid.tiles(area) == grid.tiles(TRUE)
    assert "crosses 180 degrees: read as the part from 179.998 to -179.998" in caplog.text


def test_longitudes_beyond_180_that_cross_nothing_are_told_as_such(caplog: pytest.LogCaptureFixture) -> None:
    area = Area(box(290, -33, 290.1, -32.9))
    assert area.geometry.bounds == pytest.approx((-70, -33, -69.9, -32.9))
    assert "the area has longitudes beyond 180 degrees: read as the part from -70 to -69.9" in caplog.text
    assert "crosses" not in caplog.text


def test_an_area_cut_at_180_in_its_projected_file_stays_so(tmp_path: Path) -> None:
    there = Transformer.from_crs(4326, 3832, always_xy=True)
    shape = shapely.transform(box(179.99, -17, 180, -16.9), lambda xy: [list(there.transform(*p)) for p in xy])
    area = Area(geojson(shape, 3832))
    assert {tile.grid.epsg for tile in grid.tiles(area)} == {32760}
    assert area.square_km == pytest.approx(Area("179.99,-17,180,-16.9").square_km, rel=1e-4)


@pytest.mark.parametrize("area", [TRUE.geometry, Area("4,50,5,51").geometry, Area("-180,66,-179,67").geometry])
def test_an_area_that_needs_no_cut_stays_as_it_is(area: shapely.MultiPolygon, caplog: pytest.LogCaptureFixture) -> None:
    assert Area(area).geometry is area
    assert not caplog.text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("-179.998,-16.8,179.998,-16.796", "type 179.998,-16.8,-179.998,-16.796"),
        ("179.9,-16.8,180.1,-16.7", "did you mean 179.9,-16.8,-179.9,-16.7"),
        (box(-180, -1, 180, 1), "half the globe"),
        (shapely.segmentize(box(-170, 0, 170, 0.001), 1), "half the globe"),
        (geojson(box(-1e5, -1e5, 1e5, 1e5), 3413), "round a pole"),
        (geojson(box(-1e6, -1e6, 1e6, 1e6).difference(box(-8e5, -8e5, 8e5, 8e5)), 3413), "round a pole"),
        (geojson(box(9.5e6, 1e6, 9.5e6 + 300, 1e6 + 300), 32631), "far outside"),
        (geojson(box(7e5, 2.6e7, 7e5 + 300, 2.6e7 + 300), 2154), "far outside"),
        (geojson(box(1.7e7, 3e6, 1.7e7 + 300, 3e6 + 300), 3035), "far outside"),
        ("GEOMETRYCOLLECTION(" * 20_000 + RING.wkt + ")" * 20_000, "levels"),
        ("", "minx,miny,maxx,maxy"),
    ],
)
def test_what_cannot_be_right_is_refused_in_one_line(given: object, says: str) -> None:
    with pytest.raises(AoiError) as e:
        Area(given)  # type: ignore[arg-type]
    assert says in str(e.value)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 400


def test_a_size_that_the_change_of_crs_does_not_keep_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = geojson(box(574_700, 5_621_820, 575_300, 5_622_420), 32631)
    assert Area(drawn).square_km == pytest.approx(0.36, rel=1e-2)
    monkeypatch.setattr("geomap.aoi._square_km", lambda _: 100.0)
    with pytest.raises(AoiError, match=r"0\.36 km2 in WGS 84 / UTM zone 31N and 100\.00 km2 on the globe"):
        Area(drawn)


@pytest.mark.parametrize(
    ("crs", "known"),
    [
        ({"type": "name", "properties": {"name": "EPSG:99999"}}, False),
        ({"type": "name", "properties": {"name": "Lambert"}}, False),
        ({"type": "link", "properties": {"href": "http://localhost/crs"}}, False),
        ("EPSG:4326", False),
        ({"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}, True),
        ({"type": "name", "properties": {"name": "EPSG:4326"}}, True),
        (None, True),
    ],
)
def test_geojson_of_an_unknown_coordinate_system_is_not_taken_for_degrees(
    crs: object, known: bool, tmp_path: Path
) -> None:
    content = json.loads(geojson(box(4, 50, 4.1, 50.1), 4326)) | {"crs": crs}
    (tmp_path / "area.geojson").write_text(json.dumps(content))
    for given_ in (json.dumps(content), tmp_path / "area.geojson"):
        if known:
            assert Area(given_).square_km == pytest.approx(79.5, rel=1e-2)
        else:
            with pytest.raises(AoiError, match="unknown coordinate system"):
                Area(given_)
