"""Maps made readable: smoothed without seams, small patches merged, polygons, more layers, areas."""

import json
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely.affinity
from pyproj import Transformer
from rasterio.features import rasterize
from rasterio.transform import from_origin
from scipy import ndimage
from shapely import contains_xy
from shapely.geometry import GeometryCollection, LineString, MultiPolygon, Point, Polygon, box

from geomap import files, legends
from geomap.errors import InputError, LegendError
from geomap.label.choose import left_out
from geomap.run import zones
from geomap.run.label_request import LabelRequest
from geomap.run.map import map_area
from geomap.run.prepare import prepare, with_base
from geomap.run.relabel import label_store
from geomap.types import Finish, Grid
from geomap.write.patches import merge_small
from tests.support.outputs import digests, problems
from tests.support.requests import request_for, tiles_of
from tests.support.runner import geomap, refused

LEGENDS = ("landcover", "crops", "scenicness")
TO_ZONE = Transformer.from_crs(4326, 32631, always_xy=True)


@pytest.fixture(scope="module")
def mapped(archive, tmp_path_factory) -> Callable[..., Path]:
    """Runs over the patch by the default weights, two months, in tiles of so many pixels; each is made once."""
    home, made = tmp_path_factory.mktemp("readable"), {}
    stac = archive() / "items.json"

    def run(side: int, **asked: object) -> Path:
        key = repr((side, sorted(asked.items())))
        if key not in made:
            made[key] = home / str(len(made))
            with tiles_of(side):
                map_area(request_for(stac, "default", **({"legends": LEGENDS} | asked)), made[key])
        return made[key]

    return run


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as m:
        return m.read() if m.count > 1 else m.read(1)


@pytest.mark.parametrize("window", [5])
def test_a_smoothed_map_has_the_same_bytes_however_the_area_is_cut(mapped, window: int) -> None:
    finish = Finish(smooth=window, layers=("second", "margin", "probabilities"))
    whole, cut = mapped(1024, finish=finish), mapped(40, finish=finish)
    names = sorted(p.name for p in whole.glob("*.tif"))
    assert len(names) == 12
    for name in names:
        np.testing.assert_array_equal(pixels(whole / name), pixels(cut / name), err_msg=name)
    assert pixels(whole / "crops.tif").any()
    assert (pixels(whole / "landcover.tif") != pixels(mapped(1024) / "landcover.tif")).mean() > 0.01


@pytest.mark.parametrize("folder", ["a;b?c", "farm!1", "q?x;y#100%20&|"])
def test_polygons_are_written_whatever_the_folder_is_called(folder: str, archive, untrained: str, tmp_path) -> None:
    asked = request_for(archive(dates=9) / "items.json", untrained, finish=Finish(vector=True))
    for out in (tmp_path / "plain", tmp_path / folder / "out"):
        map_area(asked, out)
        assert problems(out) == ()
    assert digests(tmp_path / "plain") == digests(tmp_path / folder / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["plain", folder])


def test_labels_of_several_stored_tiles_are_smoothed_without_seams_also_after_a_stop(mapped, tmp_path) -> None:
    finish = Finish(smooth=5, min_area=0.05, layers=("margin",))
    asked = (legends.load("landcover"),)
    whole, cut = (mapped(side, save_embeddings=True) for side in (1024, 64))
    label_store(LabelRequest(whole, asked, finish=finish), tmp_path / "whole")
    label_store(LabelRequest(cut, asked, finish=finish), tmp_path / "cut")
    names = sorted(p.name for p in (tmp_path / "whole").glob("*.tif"))
    assert len(names) == 4
    for name in names:
        np.testing.assert_array_equal(pixels(tmp_path / "whole" / name), pixels(tmp_path / "cut" / name), err_msg=name)
    for stage, at in (("smooth", 2), ("write", 3)):
        with pytest.raises(KeyboardInterrupt):
            label_store(LabelRequest(cut, asked, finish=finish), tmp_path / "stopped", stopping(stage, at))
    label_store(LabelRequest(cut, asked, finish=finish), tmp_path / "stopped")
    assert digests(tmp_path / "stopped") == digests(tmp_path / "cut")


def test_a_smoothed_run_that_was_stopped_goes_on_to_the_same_bytes(mapped, archive, tmp_path) -> None:
    finish = Finish(smooth=5, layers=("second", "margin", "probabilities"))
    asked = request_for(archive() / "items.json", "default", legends=LEGENDS, finish=finish)
    with tiles_of(40):
        with pytest.raises(KeyboardInterrupt):
            map_area(asked, tmp_path / "stopped", stopping("smooth", 2))
        map_area(asked, tmp_path / "stopped")
    assert digests(tmp_path / "stopped") == digests(mapped(40, finish=finish))


def stopping(stage: str, at: int) -> Callable[[str, int, int], None]:
    """A progress callback that stops a run as Ctrl-C does, once so much of a stage is done."""

    def tell(now: str, done: int, total: int) -> None:
        if now == stage and done >= at:
            raise KeyboardInterrupt

    return tell


def merged_np(classes: np.ndarray, least: int) -> np.ndarray:
    """Which pixels of (y, x) classes lie in patches of fewer than `least` pixels."""
    small = np.zeros(classes.shape, bool)
    for value in np.unique(classes[(classes > 0) & (classes < 255)]):
        ids, _ = ndimage.label(classes == value)
        small |= (ids > 0) & (np.bincount(ids.ravel())[ids] < least)
    return small


def test_small_patches_are_merged_across_tiles(mapped) -> None:
    plain = pixels(mapped(1024) / "landcover.tif")
    whole, cut = (mapped(side, finish=Finish(min_area=0.055, vector=True)) for side in (1024, 40))
    found = pixels(whole / "landcover.tif")
    np.testing.assert_array_equal(found, pixels(cut / "landcover.tif"))
    np.testing.assert_array_equal(found == 0, plain == 0)
    was, now = merged_np(plain, 6), merged_np(found, 6)
    assert was.sum() > 50
    assert now.sum() < was.sum() / 20  # only patches among nodata alone
    np.testing.assert_array_equal(found[~was], plain[~was])
    assert problems(cut) == ()


def test_polygons_have_the_area_and_the_mean_confidence_of_their_pixels(mapped) -> None:
    run = mapped(40, finish=Finish(min_area=0.055, vector=True))
    table = geopandas.read_file(run / "landcover.gpkg", layer="landcover")
    classes, sure = pixels(run / "landcover.tif"), pixels(run / "landcover_confidence.tif")
    assert table.crs.to_epsg() == 32631
    assert table.geometry.is_valid.all()
    np.testing.assert_allclose(table.area / 1e4, table.area_ha, atol=1e-6)
    assert table.area_ha.sum() == pytest.approx((classes > 0).sum() / 100)
    with rasterio.open(run / "landcover.tif") as m:
        painted = rasterize(zip(table.geometry, range(1, len(table) + 1), strict=True), m.shape, transform=m.transform)
    np.testing.assert_array_equal(painted > 0, classes > 0)
    np.testing.assert_array_equal(np.append(0, table["class"])[painted], classes)
    means = ndimage.mean(sure, painted, np.arange(1, len(table) + 1))
    np.testing.assert_allclose(table.confidence, means, atol=0.051)
    names = {c.id: c.name for c in legends.load("landcover").classes}
    assert [names[c] for c in table["class"]] == list(table.name)


def test_areas_are_those_of_the_pixels(mapped) -> None:
    run = mapped(1024)
    told = json.loads((run / "areas.json").read_text())
    assert set(told) == {"landcover", "crops"}
    for stem, rows in told.items():
        classes = pixels(run / f"{stem}.tif")
        assert [row["pixels"] for row in rows] == sorted((row["pixels"] for row in rows), reverse=True)
        assert {row["id"]: row["pixels"] for row in rows if row["pixels"]} == {
            int(v): int((classes == v).sum()) for v in np.unique(classes[classes > 0])
        }
        assert sum(row["share"] for row in rows) == pytest.approx(1, abs=1e-4)
        assert all(row["ha"] == pytest.approx(row["pixels"] / 100) for row in rows)
    lines = (run / "areas.csv").read_text().splitlines()
    assert lines[0] == "map,id,name,pixels,ha,share,colour"
    assert len(lines) == 1 + sum(map(len, told.values()))
    assert {"areas.json", "areas.csv"} <= set(files.sums(run))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("1223333333", "3333333333"),  # 1 leads to 2, which leads to 3
        ("1112243333333", "1112233333333"),  # 1 and 2 lead to each other
        ("1112203333333", "1112203333333"),  # nodata around them
    ],
)
def test_small_patches_follow_their_largest_neighbours_to_a_large_one_or_stay(tmp_path, before, after) -> None:
    ids = np.array([[int(c) for c in before]], np.uint8)
    grid = Grid(32631, 500_000, 5_600_000, ids.shape[1], 1)
    merge_small(tmp_path / "m.tif", grid, [(grid, ids)], 5)
    assert "".join(map(str, pixels(tmp_path / "m.tif")[0])) == after


def test_areas_in_polygons_count_the_pixels_whose_centres_lie_inside(mapped, tmp_path) -> None:
    run = mapped(1024)
    with rasterio.open(run / "landcover.tif") as m:
        classes, (west, south, east, north) = m.read(1), m.bounds
    shapes = {
        "north-east, turned": Polygon([(west + 300, north), (east, north - 13), (east - 51, south + 204)]),
        "=all": box(west - 500, south - 500, east + 500, north + 500),
        "far away": box(west + 1e5, south, east + 1e5, north),
    }
    wide = box(-10, 50.7455, 20, 50.93)  # in degrees: its southern edge, a parallel, is bent on the map
    table = geopandas.GeoDataFrame({"name": list(shapes)}, geometry=list(shapes.values()), crs=32631)
    table = pd.concat([table.to_crs(4326), geopandas.GeoDataFrame({"name": ["wide"]}, geometry=[wide], crs=4326)])
    table.to_file(tmp_path / "own.gpkg", layer="parts")
    done = geomap(
        "areas", run, "--zones", f"{tmp_path}/own.gpkg:parts", "--column", "name", "--out", tmp_path / "a.json"
    )
    assert done.exit_code == 0, done.output
    assert "without a mapped pixel: 1 of 4 polygons: far away" in done.output
    rows = [row for row in json.loads((tmp_path / "a.json").read_text()) if row["map"] == "landcover"]
    x, y = np.meshgrid(west + 10 * np.arange(classes.shape[1]) + 5, north - 10 * np.arange(classes.shape[0]) - 5)
    shapes["wide"] = shapely.transform(
        wide.segmentize(0.001), lambda xy: np.column_stack(TO_ZONE.transform(xy[:, 0], xy[:, 1]))
    )
    (nothing,) = [row for row in rows if row["zone"] == "far away"]
    assert (nothing["name"], nothing["pixels"]) == ("not mapped", 0)
    for name in ("north-east, turned", "=all", "wide"):
        polygon = shapes[name]
        inside = classes[contains_xy(polygon, x, y)]
        expected = {int(v): int((inside == v).sum()) for v in np.unique(inside[inside > 0])}
        assert {row["id"]: row["pixels"] for row in rows if row["zone"] == name} == expected
    assert geomap("areas", run, "--zones", tmp_path / "own.gpkg", "--out", tmp_path / "a.csv").exit_code == 0
    assert (tmp_path / "a.csv").read_text().splitlines()[1].startswith("1,crops,")
    assert "Cropland" in geomap("areas", run).output


SPIKE = Polygon([(4.4, 50.80), (4.5, 50.80), (4.5, 50.9), (4.9, 50.9), (4.5, 50.9), (4.5, 51.0), (4.4, 51.0)])


@pytest.mark.parametrize(
    ("epsg", "at", "shape"),
    [
        (32701, (-179.8, -17.0), box(179.5, -17.5, 181, -16.5)),  # as GeoJSON over the antimeridian is often drawn
        (32760, (179.8, -17.0), box(-181, -17.5, -180.05, -16.5)),
        (32631, (4.42, 50.91), box(364.3, 50.7, 364.6, 51)),
        (32631, (4.42, 50.91), box(-20, 50.7, 30, 51)),
        (32631, (4.42, 50.91), SPIKE),  # made valid, it is a polygon with a line, which holds no pixel's centre
    ],
)
def test_longitudes_beyond_180_and_wide_polygons_hold_their_pixels(tmp_path, epsg, at, shape) -> None:
    west, north = (v // 10 * 10 for v in Transformer.from_crs(4326, epsg, always_xy=True).transform(*at))
    place = {"crs": f"EPSG:{epsg}", "transform": from_origin(west, north, 10, 10), "width": 100, "height": 100}
    with rasterio.open(tmp_path / "m.tif", "w", driver="GTiff", count=1, dtype="uint8", **place) as made:
        made.write(np.ones((1, 100, 100), np.uint8))
    shapes = zones._polygons(geopandas.GeoSeries([shape], crs=4326).make_valid())
    assert zones._counted(tmp_path / "m.tif", shapes, {}, 0).pixels == {1: 10_000}
    far = geopandas.GeoSeries([shapely.affinity.translate(shape, 0, 5)], crs=4326)
    assert not zones._counted(tmp_path / "m.tif", far, {}, 0).pixels


def test_polygons_of_collections_count_and_rows_without_one_are_named(tmp_path, caplog) -> None:
    place = {"crs": "EPSG:32631", "transform": from_origin(500_000, 5_600_000, 10, 10), "width": 100, "height": 100}
    with rasterio.open(tmp_path / "m.tif", "w", driver="GTiff", count=1, dtype="uint8", **place) as made:
        made.write(np.ones((1, 100, 100), np.uint8))

    def square(row: int, column: int, side: int) -> Polygon:
        west, north = 500_000 + 10 * column, 5_600_000 - 10 * row
        return box(west, north - 10 * side, west + 10 * side, north)

    line = LineString([(500_000, 5_600_000), (501_000, 5_599_000)])
    inner = GeometryCollection([square(5, 5, 10), line.centroid])
    rows = {
        "a": (square(0, 0, 3), 9),
        "line": (line, None),
        "": (square(10, 10, 2), 4),
        "collection": (GeometryCollection([square(0, 0, 10), line, inner]), 100 + 100 - 25),
        "overlap": (MultiPolygon([square(20, 20, 10), square(25, 25, 10)]), 100 + 100 - 25),
        "flat": (Polygon([(500_000, 5_600_000), (500_500, 5_599_500), (501_000, 5_599_000)]), 0),
        "none": (None, None),
        "collected": (GeometryCollection([line, Point(500_100, 5_599_900)]), None),
    }
    table = geopandas.GeoDataFrame({"name": list(rows)}, geometry=[shape for shape, _ in rows.values()], crs=32631)
    table.to_file(tmp_path / "own.gpkg")
    shapes, names = zones.read_zones(str(tmp_path / "own.gpkg"), "name")
    assert names == ["a", "row 3", "collection", "overlap", "flat"]
    counts = [zones._counted(tmp_path / "m.tif", shapes, {}, i).pixels[1] for i in range(len(names))]
    assert counts == [n for _, n in rows.values() if n is not None]
    assert "own.gpkg: 3 rows without a polygon, left out: line, none, collected" in caplog.text
    assert zones.read_zones(str(tmp_path / "own.gpkg"), None)[1] == ["1", "3", "4", "5", "6"]
    assert "left out: 2, 7, 8" in caplog.text
    odd = Polygon([(500_000, 5_600_000), (500_500, np.inf), (501_000, 5_599_000)])
    geopandas.GeoDataFrame({"name": ["odd"]}, geometry=[odd], crs=32631).to_file(tmp_path / "odd.gpkg")
    with pytest.raises(InputError, match=r"no finite numbers \(odd\)"):
        zones.read_zones(str(tmp_path / "odd.gpkg"), "name")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--zones", "none.gpkg"), "no file none.gpkg"),
        (("--zones", "README.md"), "export it as .gpkg"),
        (("--zones", "a.gpkg", "--out", "a.xlsx"), "must end in .csv or .json"),
    ],
)
def test_zones_that_cannot_be_read_are_one_line(mapped, words: tuple[str, ...], says: str) -> None:
    refused(geomap("areas", mapped(1024), *words), 2, says)


def test_a_class_left_out_by_name_or_by_latitude_cannot_win(mapped) -> None:
    run = mapped(1024, without=("cropland", "B16"), within="none")
    assert 2 not in pixels(run / "landcover.tif")
    maize = legends.load("crops").id_of("Maize")
    assert maize not in pixels(run / "crops.tif")
    with rasterio.open(run / "landcover.tif") as m:
        assert m.tags(1).get("class_2") is None
    habitat = legends.load("habitat")
    gone = left_out([habitat], (), (50.8, 50.9))["habitat"]
    assert {c.code for c in habitat.classes if c.id in gone} == {"F5", "F6", "F7", "D3", "F1"}
    assert left_out([habitat], (), (46.9, 50.9))["habitat"] == habitat.ids_called("D3") | habitat.ids_called("F1")
    assert left_out([habitat], (), None)["habitat"] == frozenset()
    crops, regions = legends.load("crops"), legends.load("bioregion")
    named = {"Cotton", "Oranges", "Other citrus fruit", "Olive groves"}
    assert {c.name for c in crops.classes if c.id in left_out([crops], (), (50.8, 50.9))["crops"]} == named
    assert left_out([crops], (), (42.0, 42.3))["crops"] == frozenset()  # Corsica
    flanders = left_out([regions], (), (50.8, 50.9))["bioregion"]
    assert {c.name for c in regions.classes if c.id not in flanders} >= {"Atlantic", "Continental", "Alpine"}
    assert regions.ids_called("Mediterranean") | regions.ids_called("Arctic") <= flanders


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"without": ("olive",)}, "no class 'olive'"),
        ({"without": ("landcover=Cropland",)}, "to which crops is restricted; add --within none"),
        ({"without": tuple(c.name for c in legends.load("landcover").classes[1:]), "within": "none"}, "fewer than two"),
    ],
)
def test_classes_that_cannot_be_left_out_are_one_line(archive, asked: dict, says: str) -> None:
    with pytest.raises(LegendError, match=says):
        prepare(request_for("earth-search", "default", legends=LEGENDS, **asked))


def test_crops_are_mapped_on_cropland_unless_they_are_asked_for_everywhere(mapped) -> None:
    run, everywhere = mapped(1024), mapped(1024, within="none", legends="crops")
    base, crops = pixels(run / "landcover.tif"), pixels(run / "crops.tif")
    np.testing.assert_array_equal(crops > 0, base == 2)
    every = pixels(everywhere / "crops.tif")
    np.testing.assert_array_equal(every > 0, base > 0)
    np.testing.assert_array_equal(crops[crops > 0], every[crops > 0])
    assert not (everywhere / "landcover.tif").exists()


def restricted(name: str, within: str | None) -> legends.Legend:
    """Land use under another name, mapped within a class of another legend."""
    return legends.load("landuse").model_copy(update={"name": name, "within": within})


def test_stored_pixels_are_restricted_by_what_is_restricted_itself_also_where_tiles_meet(mapped, tmp_path) -> None:
    run = mapped(64, save_embeddings=True)
    ids, counts = np.unique(pixels(run / "crops.tif"), return_counts=True)
    number = ids[1:][counts[1:].argmax()]  # the commonest crop; id 0 is nodata
    name = next(c.name for c in legends.load("crops").classes if c.id == number)
    own, last = restricted("own", f"crops={name}"), restricted("last", "own=Agriculture")
    asked = LabelRequest(run, (last, own), finish=Finish(smooth=5, layers=("margin",)), report=False)
    label_store(asked, tmp_path / "out")
    landcover, crops, found, inner, margin = (
        pixels(tmp_path / "out" / f"{stem}.tif") for stem in ("landcover", "crops", "own", "last", "last_margin")
    )
    np.testing.assert_array_equal(crops > 0, landcover == 2)
    np.testing.assert_array_equal(found > 0, crops == number)
    np.testing.assert_array_equal(inner > 0, found == own.id_of("Agriculture"))
    np.testing.assert_array_equal(margin == 255, inner == 0)
    assert 0 < (inner > 0).sum() < (crops > 0).sum()


def test_a_restriction_to_a_legend_that_is_not_asked_for_says_who_asks_for_it() -> None:
    of_typed, of_theirs = restricted("kind", "classes=wheat field"), restricted("kind", "theirs=Crops")
    said = "legend kind has within = 'classes=wheat field', and no legend 'classes' is asked for; give .* as --classes"
    with pytest.raises(LegendError, match=said):
        with_base((of_typed,), None)
    found, within = with_base((of_typed, legends.typed("rye, wheat field")), None)
    assert ([legend.name for legend in found], within) == (["kind", "classes"], {"kind": ("classes", 2)})
    with pytest.raises(LegendError, match=r"within = 'theirs=Crops', .* file of that legend as one more --legend"):
        with_base((of_theirs,), None)
    with pytest.raises(LegendError, match=r"^--within landcvoer=Cropland, and no legend 'landcvoer' .* landcover"):
        with_base((of_theirs,), ("landcvoer", "Cropland"))
    with pytest.raises(LegendError, match=said):
        with_base((of_typed, restricted("use", None)), ("kind", "Agriculture"))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"a": "b=Agriculture", "b": "c=Agriculture", "c": "a=Agriculture"}, "c is mapped only within a is mapped"),
        ({"a": "a=Agriculture"}, "a is mapped only within a: change"),
    ],
)
def test_legends_that_restrict_each_other_are_one_line(asked: dict[str, str], says: str) -> None:
    own = tuple(restricted(name, within) for name, within in asked.items())
    with pytest.raises(LegendError, match=says) as e:
        with_base(own, None)
    assert "\n" not in str(e.value)
    assert with_base(own, ()) == (own, {})


def test_bases_of_bases_are_added_before_what_they_restrict() -> None:
    own = restricted("own", "crops=Maize")
    cropland, maize = ("landcover", 2), ("crops", legends.load("crops").id_of("Maize"))
    found, within = with_base((own,), None)
    assert [legend.name for legend in found] == ["landcover", "crops", "own"]
    assert within == {"own": maize, "crops": cropland}
    plain = own.model_copy(update={"within": None})
    for one in (own, plain):  # what is typed holds for others, and crops stay on cropland
        assert with_base((one,), ("crops", "Maize"))[1] == {"own": maize, "crops": cropland}
    both = (legends.load("crops"), plain)
    assert with_base(both, ("crops", "Maize"))[1] == {"own": maize, "crops": cropland}
    with pytest.raises(LegendError, match="--within crops=Maize restricts other legends, and none is asked for"):
        with_base(both[:1], ("crops", "Maize"))


def test_second_class_margin_and_probabilities_agree(mapped) -> None:
    run = mapped(1024, finish=Finish(smooth=5, layers=("second", "margin", "probabilities")))
    first, sure, second, margin, every = (
        pixels(run / f"landcover{part}.tif") for part in ("", "_confidence", "_second", "_margin", "_probabilities")
    )
    on = first > 0
    assert every.shape == (8, *first.shape)
    assert [set(np.unique(a[..., ~on])) for a in (every, margin, second)] == [{255}, {255}, {0}]
    ranked = np.sort(every[:, on].astype(int), axis=0)
    np.testing.assert_array_equal(np.take_along_axis(every, first[None].astype(int) - 1, 0)[0][on], sure[on])
    assert np.abs(ranked[-1] - ranked[-2] - margin[on]).max() <= 1
    assert (second != first)[on].all()
    assert np.abs(every[:, on].astype(int).sum(axis=0) - 100).max() <= 4  # eight numbers, each rounded
    with rasterio.open(run / "landcover_probabilities.tif") as m:
        assert m.descriptions == tuple(c.name for c in legends.load("landcover").classes)
