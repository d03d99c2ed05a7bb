"""Maps made readable: smoothed without seams, small patches merged, polygons, more layers, areas."""

import json
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize
from scipy import ndimage

from geomap import files, legends
from geomap.encode.weights import load_weights
from geomap.run.map import map_area
from geomap.run.relabel import LabelRequest, label_store
from geomap.types import Finish, Period
from tests.support.requests import request_for, tiles_of

LEGENDS = ("landcover", "crops", "scenicness")


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
    assert was.sum() > 100
    assert now.sum() < was.sum() / 20  # only patches among nodata alone
    np.testing.assert_array_equal(found[~was], plain[~was])
    assert files.verify(cut) == ()


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
