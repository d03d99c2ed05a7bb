"""The STAC catalogue of a run: valid, relative, true to the files, and right across UTM zones and the antimeridian."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from pyproj import Transformer
from shapely.geometry import Point, shape

from geomap import files
from geomap.legends import Legend, LegendClass, RatedPrompt
from geomap.run.map import map_area
from geomap.types import Grid, Period, Scene
from geomap.write.cog import write_map
from geomap.write.layer import Layer
from geomap.write.stac import MapFile, footprint, write_stac
from tests.support.requests import request_for

PERIOD = Period(2018, 12)
NAMES = ("Maize field", "maize  field!", "森林", 'a "b" <c>')
LEGEND = Legend(
    name="own",
    title="t",
    classes=tuple(
        LegendClass(id=i, name=name, colour="#0a0b0c", prompts=("p",)) for i, name in enumerate(NAMES, start=1)
    ),
)
SCENIC = Legend(
    name="scenicness",
    title="t",
    kind="score",
    range=(1, 10),
    prompts=(RatedPrompt(text="a", rating=1), RatedPrompt(text="b", rating=10)),
)
CLASSES = Layer("own", "Own classes", "classes", LEGEND)
PERCENT = Layer("own_confidence", "Confidence (percent)", "percent")
SCORE = Layer("scenicness", "Scenicness, 1 to 10", "score", SCENIC)
GRIDS = (Grid(32631, 680_000, 5_600_000, 60, 40), Grid(32632, 250_000, 5_600_000, 50, 40))


HOSTILE = '<b onload="x">=1+1'
PLACE = {"epsg": 32631, "bbox": (5, 50, 6, 51), "assets": {}}
SCENES = tuple(
    Scene(name, "c", "cdse", PERIOD.start, "sentinel-2a", "pass", **PLACE, link=link)
    for name, link in (("S2B_31UFS", "https://example.org/1"), (HOSTILE, "https://example.org/0"), ("S2C_31UFS", None))
)


def run(out: Path) -> list[Path]:
    """Maps of two zones and their catalogue."""
    maps = []
    for grid in GRIDS:
        for layer in (CLASSES, PERCENT, SCORE):
            path = out / f"{layer.stem}_{grid.epsg}.tif"
            write_map(path, layer, grid, [(grid, np.ones(grid.shape, layer.dtype))], {})
            maps.append(MapFile(path, layer, grid))
    maps.reverse()  # the order does not matter
    written = write_stac(
        out,
        maps,
        PERIOD,
        software={"geomap": "0.1.0", "GDAL": "3.10.3"},
        lineage="Monthly medians of 53 scenes, encoded and labelled",
        provenance={"weights": "abc", "offsets": {"S2A_x": -1000}},
        scenes={32631: SCENES},
    )
    return list(written)


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_bytes())
    return value


def test_catalogue_can_be_walked_and_every_asset_opened(tmp_path: Path) -> None:
    written = run(tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in written] == [
        "stac/collection.json",
        "stac/geomap-2018-12_2019-11-32631.json",
        "stac/geomap-2018-12_2019-11-32632.json",
    ]
    moved = tmp_path.rename(tmp_path.with_name("moved"))  # links and assets are relative
    collection = pystac.Collection.from_file(str(moved / "stac" / "collection.json"))
    items = list(collection.get_items())
    assert [item.id for item in items] == [p.stem for p in written[1:]]
    for item, grid in zip(items, GRIDS, strict=True):
        assert sorted(item.assets) == ["own", "own_confidence", "scenicness"]
        for asset in item.assets.values():
            href = asset.get_absolute_href()
            assert href is not None
            with rasterio.open(href) as src:
                assert item.properties["proj:code"] == f"EPSG:{src.crs.to_epsg()}" == f"EPSG:{grid.epsg}"
                assert tuple(item.properties["proj:shape"]) == src.shape
                assert tuple(item.properties["proj:transform"]) == tuple(src.transform)[:6]
                assert asset.extra_fields["data_type"] == src.dtypes[0]
                nodata = asset.extra_fields["nodata"]
                assert src.nodata == nodata or (np.isnan(src.nodata) and nodata == "nan")
            assert asset.extra_fields["file:checksum"] == "1220" + files.sha256(Path(href))
            assert asset.extra_fields["file:size"] == Path(href).stat().st_size
            assert asset.media_type == pystac.MediaType.COG
            assert "data" in (asset.roles or [])
    moved.rename(tmp_path)


def test_documents_are_valid_to_pystac(tmp_path: Path) -> None:
    """Core and extensions, by pystac's validator, which finds mistakes made on purpose."""
    pytest.importorskip("jsonschema")
    from pystac import STACObjectType

    from tests.support.stac_schemas import validator

    judge = validator()
    for path in run(tmp_path):
        value = read(path)
        kind = STACObjectType.COLLECTION if path.name == "collection.json" else STACObjectType.ITEM
        extensions, version = value["stac_extensions"], value["stac_version"]
        assert len(extensions) == 4
        judge.validate(value, kind, version, extensions)
        assets = "item_assets" if kind == STACObjectType.COLLECTION else "assets"
        unnamed = {"own": value[assets]["own"] | {"classification:classes": [{"value": 1}]}}
        odd = {"own": value[assets]["own"] | {"file:sum": "1"}}
        for wrong in ({"links": "none"}, {"license": 1}, {assets: unnamed}, {assets: odd}):
            if "license" not in wrong or kind == STACObjectType.COLLECTION:
                with pytest.raises(pystac.STACValidationError):
                    judge.validate(value | wrong, kind, version, extensions)


def test_items_link_to_the_scenes_of_their_zone(tmp_path: Path) -> None:
    _, first, second = (read(path) for path in run(tmp_path))
    found = [link for link in first["links"] if link["rel"] == "derived_from"]
    assert found == [
        {"rel": "derived_from", "type": "application/geo+json", "title": name, "href": f"https://example.org/{i}"}
        for i, name in enumerate((HOSTILE, "S2B_31UFS"))
    ]  # by id; a scene of no address has no link
    assert not [link for link in second["links"] if link["rel"] == "derived_from"]


def test_the_collection_tells_whose_data_under_which_terms_and_what_its_items_hold(tmp_path: Path) -> None:
    collection, item, _ = (read(path) for path in run(tmp_path))
    (terms,) = [link for link in collection["links"] if link["rel"] == "license"]
    assert terms["href"].startswith("https://sentinel.esa.int/")
    assert [p["roles"] for p in collection["providers"]] == [["producer", "licensor"], ["processor"]]
    assert collection["providers"][1]["processing:software"] == item["properties"]["processing:software"]
    assert collection["summaries"] == {"gsd": [10], "proj:code": ["EPSG:32631", "EPSG:32632"]}
    assert all(link.get("title") for link in collection["links"])
    assert collection["item_assets"].keys() == item["assets"].keys()
    for key, asset in item["assets"].items():
        own = {name for name in asset if name not in collection["item_assets"][key]}
        assert own == {"href", "file:checksum", "file:size"}
        assert {name: asset[name] for name in asset if name not in own} == collection["item_assets"][key]


def test_properties_and_classes(tmp_path: Path) -> None:
    collection, item, _ = (read(path) for path in run(tmp_path))
    properties = item["properties"]
    assert (properties["datetime"], properties["start_datetime"], properties["end_datetime"]) == (
        "2019-06-01T12:00:00Z",
        "2018-12-01T00:00:00Z",
        "2019-11-30T23:59:59Z",
    )
    assert not {"created", "updated"} & set(properties)
    assert properties["processing:software"] == {"geomap": "0.1.0", "GDAL": "3.10.3"}
    assert properties["processing:lineage"].startswith("Monthly medians")
    assert properties["geomap:offsets"] == {"S2A_x": -1000}
    classes = item["assets"]["own"]["classification:classes"]
    assert [(c["value"], c["name"], c["title"]) for c in classes] == [
        (0, "nodata", "No data"),
        (1, "maize-field", "Maize field"),
        (2, "maize-field-2", "maize  field!"),
        (3, "class", "森林"),
        (4, "a-b-c", 'a "b" <c>'),
    ]
    assert (classes[0]["nodata"], classes[1]["color_hint"]) == (True, "0A0B0C")
    assert "classification:classes" not in item["assets"]["scenicness"]
    west, south, east, north = collection["extent"]["spatial"]["bbox"][0]
    for epsg in (32631, 32632):
        inner = read(tmp_path / "stac" / f"geomap-2018-12_2019-11-{epsg}.json")["bbox"]
        assert west <= inner[0] < inner[2] <= east
        assert south <= inner[1] < inner[3] <= north


def test_bytes_do_not_depend_on_the_place(tmp_path: Path) -> None:
    here, there = run(tmp_path / "a"), run(tmp_path / "b" / "c")
    assert [p.read_bytes() for p in here] == [p.read_bytes() for p in there]
    assert str(tmp_path).encode() not in b"".join(p.read_bytes() for p in here)


def test_two_grids_in_a_zone_and_no_maps(tmp_path: Path) -> None:
    other = Grid(32631, 680_000, 5_600_000, 60, 41)
    maps = [MapFile(tmp_path / "a.tif", CLASSES, GRIDS[0]), MapFile(tmp_path / "b.tif", PERCENT, other)]
    for wrong in (maps, []):
        with pytest.raises(ValueError, match="one grid"):
            write_stac(tmp_path, wrong, PERIOD, software={}, lineage="", provenance={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "grid",
    [
        Grid(32631, 400_000, 5_600_000, 20_000, 10_000),
        Grid(32733, 250_000, 6_300_000, 5_000, 8_000),
        Grid(32632, 200_000, 7_800_000, 60_000, 10_000),  # 600 km wide at 70 degrees north: a bent outline
    ],
)
def test_footprint_is_the_grid(grid: Grid) -> None:
    geometry, bbox = footprint(grid)
    polygon = shape(geometry)
    to_degrees = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    west, south, east, north = grid.bounds
    margin = 0.005 * (east - west)
    for share in np.linspace(0, 1, 37):
        x, y = west + share * (east - west), south + share * (north - south)
        for px, py, dx, dy in ((x, south, 0, -1), (x, north, 0, 1), (west, y, -1, 0), (east, y, 1, 0)):
            assert not polygon.contains(Point(to_degrees.transform(px + dx * margin, py + dy * margin)))
    for px, py in (
        (west, south),
        (east, south),
        (west, north),
        (east, north),
        ((west + east) / 2, (south + north) / 2),
    ):
        lon, lat = to_degrees.transform(px, py)
        assert polygon.distance(Point(lon, lat)) < 2e-5
        assert bbox[0] - 1e-6 <= lon <= bbox[2] + 1e-6
        assert bbox[1] - 1e-6 <= lat <= bbox[3] + 1e-6
    assert polygon.exterior.is_ccw


def test_footprint_across_the_antimeridian() -> None:
    grid = Grid(32601, 100_000, 200_000, 10_000, 10_000)  # north of the equator, from 179.4 E to 179.7 W
    geometry, bbox = footprint(grid)
    assert geometry["type"] == "MultiPolygon"
    assert bbox[0] > 179 > -179 > bbox[2]
    parts = shape(geometry)
    assert parts.is_valid
    to_degrees = Transformer.from_crs(32601, 4326, always_xy=True)
    for x in np.linspace(grid.west + 50, grid.east - 50, 15):
        lon, lat = to_degrees.transform(x, grid.north - 50_000)
        assert parts.contains(Point(lon, lat))
    assert not parts.contains(Point(0, parts.centroid.y))
    assert parts.area < 1.1


def test_collection_across_the_antimeridian(tmp_path: Path) -> None:
    """Zones 60 and 1 are neighbours: the bbox goes the short way round."""
    maps = []
    for grid in (Grid(32601, 300_000, 200_000, 500, 400), Grid(32660, 700_000, 200_000, 500, 400)):
        path = tmp_path / f"own_{grid.epsg}.tif"
        write_map(path, CLASSES, grid, [], {})
        maps.append(MapFile(path, CLASSES, grid))
    collection = read(write_stac(tmp_path, maps, PERIOD, software={}, lineage="-", provenance={})[0])
    west, _, east, _ = collection["extent"]["spatial"]["bbox"][0]
    assert 178 < west < 180
    assert -180 < east < -178


def test_a_map_is_derived_from_the_scenes_that_it_used(
    archive: Callable[..., Path], untrained: str, tmp_path: Path
) -> None:
    items = json.loads((archive(dates=8) / "items.json").read_text())
    for number, item in enumerate(items["features"]):
        if number:  # the first has no address
            href = f"https://example.org/items/{item['id']}?token=SECRET"
            item["links"] = [{"rel": "self", "href": href}]
    (tmp_path / "items.json").write_text(json.dumps(items))
    request = request_for(tmp_path / "items.json", untrained, period=Period(2018, 8, 3), min_clear_months=1)
    map_area(request, tmp_path / "out")
    recorded = read(tmp_path / "out/run.json")
    used = sorted(s["id"] for s in recorded["scenes"] if s["fate"]["use"] == "used")
    assert 1 < len(used) <= len(items["features"])
    (item,) = (read(path) for path in (tmp_path / "out/stac").glob("geomap-*.json"))
    found = {link["title"]: link["href"] for link in item["links"] if link["rel"] == "derived_from"}
    assert found == {name: f"https://example.org/items/{name}" for name in used if name != items["features"][0]["id"]}
    assert b"SECRET" not in b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*.json"))
