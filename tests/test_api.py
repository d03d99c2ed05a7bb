"""The Python API: its arrays are the pixels of a run, they carry their place and meaning, and wrong input is told."""

import itertools
import json
import multiprocessing
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import torch
import xarray as xr
from pyproj import CRS, Transformer

import geomap
from geomap import legends, simulate
from geomap.api import checks
from geomap.composite.mask import Mask
from geomap.encode.card import Q_HIGH, Q_LOW
from geomap.encode.model import PixelEncoder
from geomap.encode.weights import Weights
from geomap.errors import GeomapError, InputError, LegendError, NoScenesError, WeightsError
from geomap.run.workers import Resources
from geomap.simulate import Archive
from tests.support import REPOSITORY

LEGENDS = ("landcover", "crops", "scenicness")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return simulate.write_archive(tmp_path_factory.mktemp("scenes"), size=64)


@pytest.fixture(scope="module")
def area(scenes: Archive) -> str:
    """The western two thirds of the scenes, so that some pixels of the grid lie outside the area."""
    west, south, east, north = scenes.bbox
    corners = (west, south), (east, south), (east - (east - west) / 3, north), (west, north), (west, south)
    return f"POLYGON (({', '.join(f'{x} {y}' for x, y in corners)}))"


@pytest.fixture(scope="module")
def series(scenes: Archive, area: str) -> xr.DataArray:
    return geomap.composite(geomap.search(area, "2023", str(scenes.items)), area)


@pytest.fixture(scope="module")
def embeddings(series: xr.DataArray) -> xr.DataArray:
    return geomap.embed(series, device="cpu")


@pytest.fixture(scope="module")
def run(scenes: Archive, area: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same map, made by `map_area`, with its stores."""
    request = geomap.Request(
        area=geomap.Area(area),
        period=geomap.Period(2023, 1),
        stac=str(scenes.items),
        legends=tuple(legends.load(name) for name in LEGENDS),
        min_confidence=0.4,
        within=("landcover", "Cropland"),
        device="cpu",
        save_composites=True,
        save_embeddings=True,
    )
    out = tmp_path_factory.mktemp("run") / "out"
    geomap.map_area(request, out)
    return out


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its stores over more pixels than a chunk of theirs has, in three months."""
    folder = tmp_path_factory.mktemp("wide")
    scenes = simulate.write_archive(folder / "scenes", size=280)
    west, south, east, north = scenes.bbox
    request = geomap.Request(
        area=(west + 0.0005, south, east, north - 0.0003),
        period="2023-06/2023-08",
        stac=str(scenes.items),
        device="cpu",
        save_composites=True,
        save_embeddings=True,
    )
    geomap.map_area(request, folder / "run")
    return folder / "run"


def mapped(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    for file in sorted(path.glob("*.tif")):
        with rasterio.open(file) as source:
            yield file.stem, source.read(1)


def test_the_arrays_are_the_pixels_of_a_run(run: Path, embeddings: xr.DataArray) -> None:
    maps = geomap.label(embeddings, legends=LEGENDS, min_confidence=0.4, within=("landcover", "Cropland"))
    files = dict(mapped(run))
    assert set(maps.data_vars) == set(files)
    for stem, pixels in files.items():
        np.testing.assert_array_equal(maps[stem].values, pixels, err_msg=stem)
    assert (files["clear_months"] == 255).any()  # pixels outside the area
    assert (files["landcover"] == 255).any()  # pixels of little confidence


def test_arrays_carry_place_and_meaning(run: Path, series: xr.DataArray, embeddings: xr.DataArray) -> None:
    assert (series.dims, series.dtype) == (("month", "band", "y", "x"), np.uint16)
    assert series.sel(month="2023-07", band="B08").max() > 0
    assert not series.sel(month="2023-11").any()  # no scene in November
    assert (series.coords["clear"].sel(month="2023-11") == 0).all()
    maps = geomap.label(embeddings, legends="landcover")
    with rasterio.open(run / "landcover.tif") as source:
        for array in (series, embeddings, maps["landcover"]):
            assert array.rio.crs == source.crs
            assert array.rio.bounds() == pytest.approx(tuple(source.bounds))
        assert maps["landcover"].rio.nodata == source.nodata
    attrs = maps["landcover"].attrs
    assert dict(zip(attrs["flag_values"], attrs["class_names"], strict=True))[2] == "Cropland"


def test_a_map_can_be_written_and_opened(embeddings: xr.DataArray, tmp_path: Path) -> None:
    maps = geomap.label(embeddings, "maize field, meadow, wood")
    maps["classes"].rio.to_raster(tmp_path / "classes.tif")
    with rasterio.open(tmp_path / "classes.tif") as source:
        np.testing.assert_array_equal(source.read(1), maps["classes"].values)
        assert source.nodata == 0
    assert maps["classes"].attrs["class_names"] == ["maize field", "meadow", "wood"]


def test_a_window_gives_the_pixels_of_the_whole(series: xr.DataArray, embeddings: xr.DataArray) -> None:
    part = {"y": slice(20, 41), "x": slice(7, 38)}
    np.testing.assert_array_equal(geomap.embed(series.isel(part), device="cpu"), embeddings.isel(part))
    whole, window = (geomap.label(e, legends="landcover")["landcover"] for e in (embeddings, embeddings.isel(part)))
    np.testing.assert_array_equal(window, whole.isel(part))


def test_pixels_of_few_months_and_outside_the_area_are_not_embedded(series: xr.DataArray) -> None:
    found = geomap.embed(series, min_clear_months=11, device="cpu")
    few = (series != 0).all("band").sum("month") < 11
    assert few.any()
    np.testing.assert_array_equal(np.isnan(found).all("component"), few)


def test_legends_of_ones_own(embeddings: xr.DataArray) -> None:
    classes = [
        {"id": 7, "name": "Green", "colour": "#4c9f50", "prompts": ["a wood", "a meadow"]},
        {"id": 9, "name": "Other", "colour": "#b0a090", "prompts": ["a town", "bare soil"]},
    ]
    legend = geomap.Legend(name="green", title="Green", classes=classes)
    maps = geomap.label(embeddings, ["maize", "grass"], legends=[legend, "landcover"])
    assert {"green", "landcover", "classes"} < set(maps.data_vars)
    assert set(np.unique(maps["green"])) == {0, 7, 9}


def test_layers_are_text_or_a_list(embeddings: xr.DataArray) -> None:
    def names(layers: str | list[str]) -> set[str]:
        return {str(name) for name in geomap.label(embeddings, "maize, grass", layers=layers).data_vars}

    assert names("second, margin") == names(["second", "margin"]) > names("second") > names("none") == names([])


def test_stores_open_lazily_and_label_as_the_command_does(run: Path, series: xr.DataArray, tmp_path: Path) -> None:
    from geomap.run.label_request import LabelRequest
    from geomap.run.relabel import label_store

    store = geomap.open_store(run)
    assert all(store[name].chunks is not None for name in ("composite", "embedding"))
    assert sum(store.chunks["month"]) == 12  # one chunking for all arrays: xarray raises where they differ
    assert store.rio.crs == series.rio.crs
    np.testing.assert_array_equal(store["composite"].where(series.inside, 0), series)
    label_store(LabelRequest(run, (legends.load("crops"),)), tmp_path / "crops")
    maps = geomap.label(store["embedding"], legends="crops")
    for stem, pixels in mapped(tmp_path / "crops"):
        assert (maps[stem].values == pixels).mean() > 0.999, stem  # cosines in 384 dimensions and in 128
        if stem.endswith("confidence"):
            assert np.abs(maps[stem].values.astype(int) - pixels).max() <= 1


@pytest.mark.parametrize("names", [["composite"], ["embedding"], ["composite", "embedding"]])
def test_arrays_of_a_store_can_be_written_to_zarr(tmp_path: Path, wide: Path, names: list[str]) -> None:
    """The area begins in the midst of the store's chunks, and the arrays have several."""
    store = geomap.open_store(wide)
    assert all(len(store.chunks[axis]) > 1 for axis in ("y", "x"))
    part = store[names]
    part.to_zarr(tmp_path / "copy.zarr", consolidated=False)
    again = xr.open_zarr(tmp_path / "copy.zarr", decode_coords="all", consolidated=False)
    assert again.rio.crs == store.rio.crs
    for name in {*names, "clear", "clear_months"} & set(again.variables):
        np.testing.assert_array_equal(again[name].fillna(0), part[name].where(again[name].notnull(), 0), err_msg=name)
    few = {"y": slice(250, 262), "x": slice(250, 262)}
    if "composite" in names:
        made, wanted = (geomap.embed(a["composite"].isel(few), device="cpu") for a in (again, store))
        np.testing.assert_array_equal(made, wanted)
        np.testing.assert_array_equal(made.clear_months, wanted.clear_months)
    if "embedding" in names:
        np.testing.assert_array_equal(*(geomap.label(a["embedding"].isel(few)).landcover for a in (again, store)))


def test_composites_of_a_store_are_embedded_as_those_of_scenes(run: Path, embeddings: xr.DataArray) -> None:
    again = geomap.embed(geomap.open_store(run)["composite"], device="cpu")
    np.testing.assert_array_equal(again, embeddings)  # pixels outside the area included
    np.testing.assert_array_equal(again.clear_months, embeddings.clear_months)


@pytest.mark.parametrize(
    ("kind", "gone", "said"),
    [
        ("embeddings.zarr", "x", "the coordinate x is not"),
        ("embeddings.zarr", "basis", "its basis is no set of directions"),
        ("composites.zarr", "month", "the coordinate month is not"),
        ("composites.zarr", "band", "the coordinate band is not"),
    ],
)
def test_a_store_without_its_run_that_lacks_a_small_file_is_damaged(
    run: Path, tmp_path: Path, kind: str, gone: str, said: str
) -> None:
    """Zarr takes an array without its file for zeros."""
    shutil.copytree(run / kind, tmp_path / kind)
    assert geomap.open_store(tmp_path / kind).sizes
    for lost in [*(tmp_path / kind).rglob(f"{gone}/c")]:  # of each square
        shutil.rmtree(lost)
    with pytest.raises(GeomapError, match=f"is damaged .{said}"):
        geomap.open_store(tmp_path / kind)


def test_the_area_of_a_store_is_that_of_the_map_of_clear_months_whatever_other_maps_are_called(
    run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    named = tmp_path / "run/a_clear_months.tif"  # of a legend called so: no pixel is 255
    with rasterio.open(run / "clear_months.tif") as source, rasterio.open(named, "w", **source.profile) as other:
        other.write(np.ones(source.shape, np.uint8), 1)
    inside = geomap.open_store(run)["composite"].inside
    assert not inside.all()
    np.testing.assert_array_equal(geomap.open_store(tmp_path / "run")["composite"].inside, inside)


def test_a_scene_that_cannot_be_read_is_named_by_the_log(
    scenes: Archive, series: xr.DataArray, area: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    features = json.loads(scenes.items.read_text())["features"]
    for feature in features:
        for asset in feature["assets"].values():
            asset["href"] = str((scenes.items.parent / asset["href"]).resolve())
    lost = min(features, key=lambda f: f["properties"]["eo:cloud_cover"])
    lost["assets"]["red"]["href"] += ".gone.tif"
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    made = geomap.composite(geomap.search(area, "2023", str(tmp_path / "items.json")), area)
    (said,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert said.startswith(f"left out, where it could not be read: {lost['id']} (B04: ")
    assert int(made.clear.sum()) < int(series.clear.sum())


def test_what_cannot_be_is_told(
    scenes: Archive, series: xr.DataArray, embeddings: xr.DataArray, untrained: str, tmp_path: Path
) -> None:
    with pytest.raises(NoScenesError):
        geomap.search("20,50,20.01,50.01", "2023", str(scenes.items))
    with pytest.raises(InputError, match="2023-04"):
        geomap.search("20,50,20.01,50.01", "last year", str(scenes.items))
    with pytest.raises(WeightsError, match="weights="):
        geomap.label(embeddings, "maize, grass", weights=untrained)
    with pytest.raises(WeightsError, match="attributes"):
        geomap.label(embeddings.drop_attrs(), "maize, grass")
    with pytest.raises(LegendError):
        geomap.label(embeddings, legends="landcovr")
    with pytest.raises(InputError, match="geomap map AOI --save-"):
        geomap.open_store(tmp_path)


def test_embeddings_of_weights_of_ones_own_ask_for_these(series: xr.DataArray, untrained: str) -> None:
    made = geomap.embed(series.isel(y=slice(20, 30), x=slice(20, 30)), untrained, device="cpu")
    with pytest.raises(WeightsError, match=r"weights untrained, which do not come with geomap; give .* as weights=$"):
        geomap.label(made, legends="landcover")
    assert geomap.label(made, legends="landcover", weights=untrained).landcover.any()


def banded(name: str, *latitudes: tuple[float, float] | None) -> geomap.Legend:
    """Land cover under another name, the first classes with latitudes."""
    found = legends.load("landcover").model_dump()["classes"]
    classes = [{**c, "latitudes": band} for c, band in itertools.zip_longest(found, latitudes)]
    return geomap.Legend(name=name, title=name, classes=classes)


@pytest.mark.parametrize("name", ["crs", "other"])
def test_the_coordinate_system_may_have_any_name(series: xr.DataArray, name: str) -> None:
    """The results are where `.rio.crs` says, whatever else lies beside it."""
    part = series.isel(y=slice(20, 24), x=slice(20, 24))
    code = 32631 if name == "crs" else 32632  # of the one beside it, which does not count
    named = (part.drop_vars("spatial_ref") if name == "crs" else part).rio.write_crs(code, name)
    made = geomap.embed(named, device="cpu")
    maps = geomap.label(made, legends=banded("farm", (-10, 10)))
    for found in (named, made, maps.farm, maps):
        assert found.rio.crs.to_epsg() == code
        assert found.rio.bounds() == part.rio.bounds()
    again = made.drop_vars("spatial_ref").rio.write_crs(code, name)
    found = geomap.label(again, legends=banded("farm", (-10, 10)))
    assert found.rio.crs.to_epsg() == code
    assert len(maps.farm.attrs["class_names"]) == len(found.farm.attrs["class_names"]) == 7
    by_attribute = part.drop_vars("spatial_ref").assign_attrs(crs=f"EPSG:{code}")
    assert geomap.embed(by_attribute, device="cpu").rio.crs.to_epsg() == code


def test_latitudes_are_those_of_the_pixels_in_any_order(embeddings: xr.DataArray) -> None:
    box = checks.box_of(embeddings.isel(y=[30, 2, 50, 49], x=[9, 40, 1, 8]))
    assert box is not None
    ends = checks.box_of(embeddings.isel(y=[2, 3, 50], x=[1, 40, 39]))
    assert box == ends


def test_latitudes_of_pixels_in_degrees_are_their_own(embeddings: xr.DataArray) -> None:
    """The edges lie half a step of the array away, and not 5 degrees, half the metres of a pixel."""
    step = 0.0001
    x, y = 4.42 + step * np.arange(embeddings.sizes["x"]), 50.9 - step * np.arange(embeddings.sizes["y"])
    there = embeddings.assign_coords(x=x, y=y).rio.write_crs(4326)
    for part, beyond in ((there, step / 2), (there.isel(x=[0], y=[0]), 0)):
        box, (x, y) = checks.box_of(part), (part.x.values, part.y.values)
        edges = x[0] - beyond, y[-1] - beyond, x[-1] + beyond, y[0] + beyond
        assert box is not None
        np.testing.assert_allclose((box.west, box.south, box.east, box.north), edges, rtol=0, atol=1e-9)
    made = geomap.label(there, legends=banded("farm", (-10, 47), (55, 70), (47, 55)))
    assert len(made.farm.attrs["class_names"]) == 6


def test_latitudes_that_leave_too_few_classes_are_named(embeddings: xr.DataArray) -> None:
    tropical = banded("farm", *[(-10.0, 10.0)] * 7)
    names = [c.name for c in tropical.classes]
    with pytest.raises(LegendError, match=r"latitudes of the area .* of legend farm, .*; add --everywhere") as e:
        geomap.label(embeddings, legends=tropical)
    assert ", ".join(names[:7]) in str(e.value)
    assert "--without" not in str(e.value)
    assert geomap.label(embeddings, legends=tropical, everywhere=True).farm.attrs["class_names"] == names
    with pytest.raises(LegendError, match="--without leaves fewer than two classes"):
        geomap.label(embeddings, legends=tropical, without=names[1:])
    tropical = tropical.model_copy(update={"name": "fields", "within": "farm=Cropland"})
    with pytest.raises(LegendError, match="the latitudes of the area leave out the class of farm to which fields is"):
        geomap.label(embeddings, legends=[banded("farm", None, (-10, 10)), tropical])


def test_embeddings_that_do_not_tell_where_they_lie_keep_all_classes_and_say_so(
    embeddings: xr.DataArray, caplog: pytest.LogCaptureFixture
) -> None:
    part = embeddings.isel(y=slice(20, 30), x=slice(20, 30))
    nowhere, legend = part.drop_vars("spatial_ref"), banded("farm", (-10, 10))
    said = "name no coordinate system, so classes of farm that do not occur at their latitudes compete too"
    assert len(geomap.label(part, legends=legend).farm.attrs["class_names"]) == 7
    for quiet in ({"legends": "landcover"}, {"legends": legend, "everywhere": True}):
        geomap.label(nowhere, **quiet)
    assert said not in caplog.text
    found = geomap.label(nowhere, legends=["landcover", legend])
    assert len(found.farm.attrs["class_names"]) == 8
    assert said in caplog.text


def test_a_legend_may_not_have_the_name_of_a_dimension(embeddings: xr.DataArray) -> None:
    asked = ["landcover", banded("landcover_class")]
    with pytest.raises(LegendError, match="dimension of landcover_probabilities is called landcover_class alr") as e:
        geomap.label(embeddings, legends=asked, layers="probabilities")
    assert "\n" not in str(e.value)
    assert geomap.label(embeddings, legends=asked, layers="second").landcover_class.any()


def test_a_restricted_legend_lies_on_the_map_of_one_that_is_restricted_too(embeddings: xr.DataArray) -> None:
    own = banded("own")
    every = geomap.label(embeddings, legends=["landcover", "crops", own], within="none")
    cropland, crops = every.landcover.values == 2, every.crops.values
    on, off = (np.bincount(crops[mask], minlength=256) for mask in (cropland, ~cropland))
    crop = int(np.minimum(on, off)[1:].argmax()) + 1  # a crop that lies on cropland, and elsewhere too
    here = (every.landcover == 2) & (every.crops == crop)
    assert 0 < int(here.sum()) < int((every.crops == crop).sum())
    name = next(c.name for c in legends.load("crops").classes if c.id == crop)
    own = own.model_copy(update={"within": f"crops={name}"})
    for asked in (["crops", own], [own, "crops"], [own]):
        maps = geomap.label(embeddings, legends=asked)
        np.testing.assert_array_equal(maps.own, every.own.where(here, 0))
        np.testing.assert_array_equal(maps.own_confidence, every.own_confidence.where(here, 255))
        np.testing.assert_array_equal(maps.crops, every.crops.where(every.landcover == 2, 0))
        np.testing.assert_array_equal(maps.landcover, every.landcover)


@pytest.fixture(scope="module")
def points(embeddings: xr.DataArray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A point on every fifth pixel, of two classes that follow from the first component of its embedding."""
    pixels = np.argwhere(embeddings.notnull().all("component").transpose("y", "x").values)[::5]
    to_degrees = Transformer.from_crs(embeddings.rio.crs, 4326, always_xy=True)
    lon, lat = to_degrees.transform(embeddings.x.values[pixels[:, 1]], embeddings.y.values[pixels[:, 0]])
    first = embeddings.transpose("component", "y", "x").values[0, pixels[:, 0], pixels[:, 1]]
    names = np.where(first > np.median(first), "Maize", "Potatoes")
    path = tmp_path_factory.mktemp("points") / "points.csv"
    pd.DataFrame({"lon": lon, "lat": lat, "crop": names}).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    "part",
    [
        {"x": slice(0, None, 2)},
        {"x": slice(1, None, 2), "y": slice(0, None, 3)},
        {"y": slice(None, None, -1)},
        {"x": slice(None, None, -1), "y": slice(None, None, -2)},
        {"x": slice(10, None), "y": slice(8, None)},
        {"x": [40, 3, 4, 30, 31, 20, 12, 7, 6, 5, 1, 21, 22, 23]},
    ],
)
def test_points_teach_by_the_coordinates_of_an_array(
    embeddings: xr.DataArray, points: Path, part: dict[str, Any]
) -> None:
    """Thinned, reversed or shuffled, an array teaches what the same pixels teach in their place."""
    options: dict[str, Any] = {"legends": "crops", "within": "none", "points": points, "column": "crop"}
    window = embeddings.isel(part)
    here = embeddings.x.isin(window.x) & embeddings.y.isin(window.y)
    masked = embeddings.where(here).assign_attrs(embeddings.attrs)
    made, wanted = geomap.label(window, **options), geomap.label(masked, **options).sel(x=window.x, y=window.y)
    for name in ("crops", "crops_confidence"):
        np.testing.assert_array_equal(made[name], wanted[name])
    comment = made.crops.attrs["comment"]
    assert comment == wanted.crops.attrs["comment"]
    assert re.match(r"(Learned from \d+ pixels with points|Not learned): in cross-validation ", comment)
    outside = len(pd.read_csv(points)) - int(re.search(r"(\d+) points are right", comment)[1])
    assert f"embedding: {outside} pixel" in comment or not outside
    assert "comment" not in geomap.label(window, "maize, grass").classes.attrs
    if "x" in part and part["x"] == slice(0, None, 2):
        with pytest.raises(InputError, match="spatial_ref"):
            geomap.label(window.drop_vars("spatial_ref"), **options)


def test_points_that_cannot_be_placed_are_told(embeddings: xr.DataArray, points: Path, tmp_path: Path) -> None:
    part = embeddings.isel(y=slice(10, 40), x=slice(5, 35))
    swapped = pd.read_csv(points).rename(columns={"lon": "lat", "lat": "lon"})
    swapped.to_csv(tmp_path / "swapped.csv", index=False)
    unnamed = "+proj=utm +zone=31 +ellps=GRS80 +units=m"
    for odd, file, why in (
        (part, tmp_path / "swapped.csv", "no point lies in the area of .*longitude and latitude look swapped"),
        (part.drop_vars("x"), points, "which lack x; keep those of embed"),
        (part.drop_vars("spatial_ref"), points, "name no coordinate system; keep the coordinate spatial_ref"),
        (
            part.rio.write_crs(unnamed),
            points,
            "UTM zones of WGS 84, and the embeddings are in .*; keep the system that",
        ),
        (part.rio.write_crs(25831), points, "the embeddings are in EPSG:25831; keep the system that embed gave them"),
        (part.assign_coords(x=part.x.astype(str)), points, "the coordinate x must hold metres, not <U"),
    ):
        with pytest.raises(InputError, match=why) as e:
            geomap.label(odd, legends="crops", within="none", points=file, column="crop")
        assert "\n" not in str(e.value)


def test_of_many_pixels_some_are_learned_from_as_in_a_run(
    embeddings: xr.DataArray, points: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that a run draws (run.pixels.at_most), in the order of its pixels: by column, then from the south."""
    table = pd.read_csv(points)
    to_metres = Transformer.from_crs(4326, embeddings.rio.crs, always_xy=True)
    x, y = to_metres.transform(table.lon, table.lat)
    table = table.iloc[np.lexsort([np.floor(y / 10), np.floor(x / 10)])]
    rows = np.sort(np.random.default_rng(0).permutation(len(table))[:60])
    table.iloc[rows].to_csv(tmp_path / "some.csv", index=False)
    options: dict[str, Any] = {"legends": "crops", "within": "none", "column": "crop"}
    wanted = geomap.label(embeddings, points=tmp_path / "some.csv", **options)
    monkeypatch.setattr(geomap.api.labels, "MOST", 60)
    made = geomap.label(embeddings, points=points, points_crs=CRS(4326), **options)
    np.testing.assert_array_equal(made.crops, wanted.crops)
    np.testing.assert_array_equal(made.crops_confidence, wanted.crops_confidence)
    line = f"\nmore than 60 pixels: 60 of {len(table):,} are drawn at random to learn from"
    assert made.crops.attrs["comment"] == wanted.crops.attrs["comment"] + line


def test_windows_need_every_pixel_beside_its_neighbours(embeddings: xr.DataArray) -> None:
    """An axis may be reversed; an array that is thinned or shuffled has other neighbours."""
    part = embeddings.isel(y=slice(20, 40), x=slice(10, 30))
    smooth = geomap.label(part, legends="landcover", smooth=3)
    for steps in ({"y": slice(None, None, -1)}, {"x": slice(None, None, -1)}):
        turned = geomap.label(part.isel(steps), legends="landcover", smooth=3)
        xr.testing.assert_equal(turned.landcover.sel(y=part.y, x=part.x), smooth.landcover)
    bare = geomap.label(part.drop_vars(["x", "y"]), legends="landcover", smooth=3, everywhere=True)
    np.testing.assert_array_equal(bare.landcover, smooth.landcover)
    for axis, taken in (("x", slice(None, None, 2)), ("y", [3, 1, 2, 5]), ("y", [0, 1, 3])):
        odd = part.isel({axis: taken})
        with pytest.raises(
            InputError, match=f"smooth=3 takes 3 x 3 pixels: y and x must go on by 10 m .*, and {axis} d"
        ):
            geomap.label(odd, legends="landcover", smooth=3)
        geomap.label(odd, legends="landcover")


def test_the_recipe_of_embeddings_at_points_gives_each_its_pixel(
    embeddings: xr.DataArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines of docs/python.md, on points outside, in pairs, without a place, and on an index with equal numbers."""
    page = (REPOSITORY / "docs/python.md").read_text()
    (code,) = re.findall(r"^## Embeddings at points\n+```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    x, y = (embeddings[axis].values for axis in ("x", "y"))
    inside = shapely.MultiPoint([(x[3] + 4, y[20] - 4), (x[9], y[30])])
    far = shapely.Point(x[-1] + 6, y[20])
    table = geopandas.GeoDataFrame(
        {"name": ["far", "pair", "none", "empty", "one"]},
        geometry=[far, inside, None, shapely.Point(), shapely.Point(x[12] - 4, y[8] + 4)],
        crs=embeddings.rio.crs,
        index=[7, 7, 8, 8, 7],
    )
    table.to_crs(4326).to_parquet(tmp_path / "visited.parquet", index=True)
    monkeypatch.chdir(tmp_path)
    exec(code.replace('read_file("visited.gpkg")', 'read_parquet("visited.parquet")'), {"embeddings": embeddings})
    made = geopandas.read_parquet("visited_embeddings.parquet")
    assert made.name.tolist() == ["pair", "pair", "one"]
    wanted = embeddings.values[:, [20, 30, 8], [3, 9, 12]].T
    np.testing.assert_array_equal(made.filter(regex=r"^e\d+$").to_numpy(), wanted)


def test_the_recipe_of_a_picture_draws_each_pixel_in_the_colour_of_its_class(
    embeddings: xr.DataArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    page = (REPOSITORY / "docs/python.md").read_text()
    (code,) = re.findall(r"^## A picture\n.*?```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    shown = geomap.label(embeddings, legends="landcover")["landcover"]
    monkeypatch.chdir(tmp_path)
    exec(code, {"maps": {"landcover": shown}})
    (mesh,) = plt.gca().collections
    drawn = (255 * mesh.to_rgba(mesh.get_array())).round().astype(np.uint8).reshape(*shown.shape, 4)
    for c in legends.load("landcover").classes:
        assert (drawn[shown.values == c.id] == [*bytes.fromhex(c.colour[1:]), 255]).all()
    assert (drawn[shown.values == 0][:, 3] == 0).all()
    named = [text.get_text() for text in plt.gca().get_legend().get_texts()]
    assert named == [c.name for c in legends.load("landcover").classes if (shown == c.id).any()]
    assert (tmp_path / "landcover.png").is_file()
    plt.close("all")


def test_bands_go_by_name_months_by_date_and_nodata_may_be_nan(series: xr.DataArray, embeddings: xr.DataArray) -> None:
    """What arithmetic, files and selections make of a composite is the same input, or is refused."""
    part = {"y": slice(20, 30), "x": slice(20, 40)}
    window, wanted = series.isel(part), embeddings.isel(part)
    for same in (
        window.isel(band=slice(None, None, -1)),
        window.sortby("month", ascending=False),
        window.transpose("x", "y", "month", "band"),
        window.where(window > 0),  # float32 with NaN, as a file read back has
        window.chunk({"y": 5}),
    ):
        np.testing.assert_array_equal(geomap.embed(same, device="cpu"), wanted)
    summer = window.sel(month=window.month.dt.month.isin([4, 6, 9]))
    masked = window.where(window.month.dt.month.isin([4, 6, 9]), 0)
    few, rest = (geomap.embed(s, min_clear_months=1, device="cpu") for s in (summer, masked))
    np.testing.assert_array_equal(few, rest)
    for odd, why in (
        (window / 10_000, r"fractions up to 0\.\d+; give \(series \* 10000\)\.round\(\)$"),
        (window.astype("float32") / 10_000 * 1.1, r"give \(series \* 10000\)\.round\(\)$"),
        (window.astype("float32") + 0.01, r"fractions up to \d{4,}\.?\d*; give series\.round\(\)$"),
        (window.astype("int32") + 70_000, "whole numbers 0..65535"),
        ((window / 100).round().astype("uint8"), "8 bits cannot hold; give series as geomap.composite gives it"),
        ((window / 100).round().astype("int8"), "8 bits cannot hold"),
        (window.isel(band=[0, 1, 2]), "needs the bands"),
        (window.isel(month=[0, 0]), "each calendar month at most once"),
        (window.isel(month=0), "of \\(month, band, y, x\\)"),
        (window.values, "not ndarray"),
        (window > 0, "whole numbers 0..65535"),
        (window.isel(month=[0, 1]).assign_coords(month=[window.month.values[0], np.datetime64("NaT")]), "hold dates"),
        (window.drop_vars("band"), r"lacks the coordinate band; add \.assign_coords\(band=list\(geomap\.sent"),
        (window.drop_vars("month"), r"lacks the coordinate month; add \.assign_coords\(month=pandas\.date_range"),
        (window.astype("int16").where(window > 0, -9999), r"there is -9999; if that is nodata, .*series\.where\("),
        (window.assign_coords(inside=window.inside.astype(str)), "inside must hold True and False, as geomap gives it"),
        (
            window.assign_coords(inside=window.inside.expand_dims(month=window.month)),
            r"inside must be of \(y, x\), not",
        ),
    ):
        with pytest.raises(InputError, match=why):
            geomap.embed(odd, device="cpu")


def test_percent_and_bytes_are_told_from_reflectance_x_10000(
    series: xr.DataArray, caplog: pytest.LogCaptureFixture
) -> None:
    window = series.isel(y=slice(20, 30), x=slice(20, 40))
    for dim in ((window / 100).round(), (window / 100).round().astype("uint16"), window * 0 + 255):
        caplog.clear()
        assert geomap.embed(dim, device="cpu").notnull().any()
        (said,) = caplog.messages
        assert f"largest value of the series is {int(dim.max())}, where reflectance x 10000" in said
    caplog.clear()
    for well in (window, window * 0, window * 0 + 256, window.where(window > 0)):
        geomap.embed(well, device="cpu")
    assert not caplog.messages


def test_saturated_values_are_nodata_as_in_a_composite(series: xr.DataArray) -> None:
    spoilt, without = (series.isel(y=slice(20, 30), x=slice(20, 40)).copy(deep=True) for _ in range(2))
    assert spoilt[6, :, 3:5].all()
    spoilt[6, 2, 3:5], without[6, 2, 3:5] = 65535, 0
    for same in (spoilt, spoilt.astype(np.float32)):
        made, wanted = geomap.embed(same, device="cpu"), geomap.embed(without, device="cpu")
        np.testing.assert_array_equal(made, wanted)
        np.testing.assert_array_equal(made.clear_months, wanted.clear_months)


def test_pixels_that_reindex_and_pad_add_lie_outside_the_area(series: xr.DataArray, embeddings: xr.DataArray) -> None:
    wider = np.append(series.x.values, series.x.values[-1] + 10)
    for wide in (series.reindex(x=wider), series.pad(x=(0, 1), constant_values=0)):
        made = geomap.embed(wide, device="cpu")
        assert (made.clear_months[:, -1] == 255).all()
        np.testing.assert_array_equal(made[..., :-1], embeddings)
        np.testing.assert_array_equal(made.clear_months[:, :-1], embeddings.clear_months)
    plain, wide = (geomap.label(e, "maize, grass") for e in (embeddings, embeddings.reindex(x=wider)))
    assert (wide.clear_months[:, -1] == 255).all()
    for name in plain:
        np.testing.assert_array_equal(wide[name][:, :-1], plain[name])
    with pytest.raises(InputError, match="the coordinate clear_months must hold numbers, as geomap gives it, not <U"):
        geomap.label(embeddings.assign_coords(clear_months=embeddings.clear_months.astype(str)), "maize, grass")
    months = embeddings.clear_months.expand_dims(component=len(embeddings))
    with pytest.raises(InputError, match=r"clear_months must be of \(y, x\), not of \(component, y, x\)"):
        geomap.label(embeddings.assign_coords(clear_months=months), "maize, grass")


@pytest.fixture(scope="module")
def of_patches(untrained: str) -> Weights:
    """Untrained weights of 3 x 3 pixels."""
    plain = geomap.load_weights(untrained)
    torch.manual_seed(6)
    encoder = PixelEncoder(replace(plain.encoder.cfg, patch=3), torch.tensor(Q_LOW), torch.tensor(Q_HIGH))
    return replace(plain, encoder=encoder.eval())


def test_patches_need_every_pixel_in_its_place(series: xr.DataArray, of_patches: Weights) -> None:
    """Neighbours are taken by position, so an array that is reversed or thinned would give the wrong ones."""
    window = series.isel(y=slice(20, 32), x=slice(20, 40))
    whole = geomap.embed(window, of_patches, device="cpu")
    inner = geomap.embed(window.isel(y=slice(2, 9), x=slice(3, 12)), of_patches, device="cpu")
    np.testing.assert_array_equal(inner[:, 1:-1, 1:-1], whole[:, 3:8, 4:11])
    for axis, steps in (
        ("y", slice(None, None, -1)),
        ("x", slice(None, None, -1)),
        ("x", slice(None, None, 2)),
        ("y", [0, 1, 3]),
    ):
        part = window.isel({axis: steps})
        with pytest.raises(InputError, match=f"patches of 3 x 3 pixels: y must fall and x rise .*, and {axis} does"):
            geomap.embed(part, of_patches, device="cpu")
        geomap.embed(part, device="cpu")  # single pixels have no neighbours
    bare = window.drop_vars(["y", "x"])
    np.testing.assert_array_equal(geomap.embed(bare, of_patches, device="cpu"), whole)


def test_only_whole_unit_vectors_are_labelled(embeddings: xr.DataArray) -> None:
    part = embeddings.isel(y=slice(20, 30), x=slice(20, 30))
    plain = geomap.label(part, "maize, grass")
    spoilt = part.copy(deep=True)
    spoilt[5, 3, 4] = np.nan
    maps = geomap.label(spoilt, "maize, grass")
    assert (maps["classes"][3, 4], maps["classes_confidence"][3, 4]) == (0, 255)
    assert ((maps["classes"] != plain["classes"]).sum()) == 1
    with pytest.raises(InputError, match="unit vectors"):
        geomap.label((2 * part).assign_attrs(part.attrs), "maize, grass")
    with pytest.raises(InputError, match="components"):
        geomap.label(part.isel(component=slice(0, 9)), "maize, grass")


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ({"min_confidence": 50}, "share 0..1"),
        ({"min_confidence": float("nan")}, "share 0..1"),
        ({"within": "landcover"}, "LEGEND=CLASS"),
        ({"within": 3}, r"within: must be \(legend, class\), such as .*, not 3$"),
        ({"points_crs": "EPSG:4326"}, "points_crs: it goes with points"),
        ({"classes": ["water, deep", "forest"]}, "without a comma"),
        ({"classes": [1, 2]}, "must be a list of names"),
        ({"classes": {"maize", "grass"}}, "must be a list of names"),
        ({"without": None}, "without must be a list"),
        ({"others": "no"}, "others must be True or False"),
        ({"everywhere": 1}, "everywhere must be True or False"),
        ({"min_confidence": None}, "share 0..1"),
        ({"legends": [3]}, "legends must be names, .toml files or Legends, not 3"),
        ({"legends": None}, "legends must be names, .toml files or Legends, not None"),
        ({"classes": pd.Series(["maize", "grass"])}, "not Series$"),
        (
            {"points": geopandas.GeoDataFrame({"a": [1, 2]}), "column": "a"},
            "path of a file, or several, not GeoDataFrame; write",
        ),
        ({"learned": pd.Series(["a", "b"])}, "not Series$"),
        ({"layers": "second, third"}, "must be of second"),
        ({"layers": ["second", "second"]}, "each once"),
        ({"layers": [["second"]]}, "must be of second"),
        ({"layers": None}, "must be of second"),
        ({"smooth": 2}, "must be odd"),
        ({"smooth": np.int64(2)}, "must be odd"),
        ({"smooth": True}, "smooth"),
    ],
)
def test_wrong_words_to_label_are_told(embeddings: xr.DataArray, call: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why) as e:
        geomap.label(embeddings, **{"classes": "maize, grass"} | call)
    assert "\n" not in str(e.value)


def test_an_integer_of_numpy_is_a_number(embeddings: xr.DataArray) -> None:
    part = embeddings.isel(y=slice(20, 30), x=slice(20, 30))
    made, wanted = (geomap.label(part, "maize, grass", smooth=n) for n in (np.int64(3), 3))
    np.testing.assert_array_equal(made["classes"], wanted["classes"])


def test_zones_runs_and_directories_that_are_none_are_told(run: Path, scenes: Archive) -> None:
    for zone in ("foo", 32632, [32631]):
        with pytest.raises(InputError, match=r"has no zone .*; give one of 32631"):
            geomap.open_store(run, zone)
    assert geomap.open_store(run, np.int64(32631)).sizes == geomap.open_store(run, "32631").sizes
    with pytest.raises(InputError, match="give open_store the path of the directory of a run, or a store, not 5"):
        geomap.open_store(5)
    for request, out in ((5, run), (geomap.Request("4.42,50.88,4.46,50.91", "2023"), 5)):
        with pytest.raises(InputError, match=r"give map_area a geomap\.Request and the path of the directory"):
            geomap.map_area(request, out)


def test_areas_are_corners_and_tables_too(scenes: Archive) -> None:
    corners = tuple(float(v) for v in scenes.bbox)
    wanted = [scene.id for scene in geomap.search(",".join(map(str, corners)), "2023", scenes.items).scenes]
    table = geopandas.GeoDataFrame(geometry=[shapely.box(*corners)], crs=4326)
    for area in (corners, list(corners), np.array(corners), table, table.geometry):
        assert [scene.id for scene in geomap.search(area, "2023", scenes.items).scenes] == wanted
    for odd, why in (
        (shapely.geometry.mapping(table.geometry[0]), r"from dict: give \(west, south, east, north\)"),
        (corners[:3], "from tuple: give"),
        ((corners[0], *corners[2:], float("nan")), "from tuple: give"),
        (table.set_crs(None, allow_override=True), "has no coordinate system"),
        (table[:0], "holds no polygon"),
        (pd.DataFrame({"a": [1]}), "from DataFrame: give"),
        (None, "from NoneType: give"),
    ):
        with pytest.raises(InputError, match=why) as e:
            geomap.search(odd, "2023", scenes.items)
        assert "\n" not in str(e.value)


def test_wrong_words_to_search_and_composite_are_told(scenes: Archive, area: str, series: xr.DataArray) -> None:
    for wrong in (
        {"offset": "Applied"},
        {"max_cloud": float("nan")},
        {"allow_hosts": "example.org"},
        {"allow_hosts": None},
        {"exclude": None},
    ):
        with pytest.raises(InputError, match=next(iter(wrong))):
            geomap.search(area, "2023", scenes.items, **wrong)
    found = geomap.search(area, 2023, scenes.items)  # a path and a number will do
    with pytest.raises(NoScenesError, match="the area that was searched"):
        geomap.composite(replace(found, area=shapely.box(0, 40, 20, 60)), "10,50.9,10.002,50.902")
    with pytest.raises(InputError, match=r"all that geomap\.search returned"):
        geomap.composite(found.scenes, area)
    with pytest.raises(InputError, match=r"not all of these scenes are of 2023-04_2023-06; search that period"):
        geomap.composite(replace(found, period=geomap.Period(2023, 4, 3)), area)
    with pytest.raises(InputError, match="mask: dilate: unknown key; did you mean dilation"):
        geomap.composite(found, area, mask={"dilate": 2})
    with pytest.raises(InputError, match=r"whole number 1..12"):
        geomap.embed(series, min_clear_months=13)
    for device in (None, 0, "gpu"):
        with pytest.raises(InputError, match=f"unknown device '{device}'; use auto, cpu"):
            geomap.embed(series, device=device)


def test_an_area_beyond_the_one_searched_is_refused(scenes: Archive) -> None:
    """Scenes that lie over its rest alone were never searched for."""
    west, south, east, north = scenes.bbox
    middle = (west + east) / 2
    found = geomap.search((west, south, middle, north), "2023-07", scenes.items)
    whole = geomap.composite(found, (west, south, middle, north))
    again = pickle.loads(pickle.dumps(found))
    rounded = (west - 4e-5, south - 4e-5, middle + 4e-5, north + 4e-5)
    for inside in (rounded, f"{west},{south},{(west + middle) / 2},{north}"):
        assert geomap.composite(again, inside).any()
    assert whole.any()
    for beyond in ((west, south, middle + 2e-4, north), "10,50.9,10.002,50.902", scenes.bbox):
        with pytest.raises(
            InputError, match=r"beyond the one that was searched; .* geomap\.search\(area, '(.*)'\)"
        ) as e:
            geomap.composite(found, beyond)
        named = re.search("'(.*)'", str(e.value))
        assert named
        assert geomap.Request(area=scenes.bbox, period=named[1], stac=str(scenes.items)).period == found.period


def test_areas_across_the_antimeridian_are_inside_themselves(scenes: Archive) -> None:
    found = geomap.search(scenes.bbox, "2023-07", scenes.items)
    wide = replace(found, area=geomap.Area("179.9,-17,-179.9,-16.9").geometry)
    for area, why in (
        ("179.95,-17,180,-16.9", "none of these scenes lies over"),
        ("179.8,-17,180,-16.9", "reaches beyond"),
    ):
        with pytest.raises(InputError, match=why):
            geomap.composite(wide, area)


def test_a_mask_may_be_its_keys_and_a_device_that_of_torch(
    scenes: Archive, area: str, series: xr.DataArray, embeddings: xr.DataArray
) -> None:
    found = geomap.search(area, "2023-07", scenes.items)
    plain, keys, value = (geomap.composite(found, area, mask=m) for m in ({}, {"dilation": 2}, Mask(dilation=2)))
    xr.testing.assert_identical(keys, value)
    xr.testing.assert_identical(plain, geomap.composite(found, area))
    assert (keys.clear <= plain.clear).all()
    assert (keys.clear < plain.clear).any()
    part = {"y": slice(20, 24), "x": slice(20, 24)}
    np.testing.assert_array_equal(geomap.embed(series.isel(part), device=torch.device("cpu")), embeddings.isel(part))


def test_earlier_runs_may_be_text_and_other_options_of_a_run_are_checked_first(
    run: Path, area: str, tmp_path: Path
) -> None:
    request = geomap.Request(area=area, period="2023", composites=run, device="cpu")
    for wrong in (
        {"earlier": [3]},
        {"earlier": 3},
        {"resources": None},
        {"resources": 4},
        {"refresh": "no"},
        {"retry_quarantined": 1},
        {"keep_items": None},
    ):
        (name,) = wrong
        with pytest.raises(InputError, match=f"^{name} must be ") as e:
            geomap.map_area(request, tmp_path / "out", **wrong)
        assert "\n" not in str(e.value)
    assert not (tmp_path / "out").exists()
    geomap.map_area(request, tmp_path / "out", earlier=[str(run)])
    assert '"before":[{' in (tmp_path / "out/index.html").read_text().replace(" ", "")
    for one in (run, str(run)):
        assert checks.checked_run({"earlier": one}) == {"earlier": (run,)}


def test_workers_of_a_script_without_a_guard_are_told(run: Path, area: str, tmp_path: Path) -> None:
    """Each of them runs the script first, up to its own map_area."""
    script = tmp_path / "script.py"
    lines = (
        "import geomap",
        "from geomap.run.workers import Resources",
        f"request = geomap.Request(area={area!r}, period='2023', composites={str(run)!r}, device='cpu')",
        "print('once more')",
        "geomap.map_area(request, 'out', resources=Resources(workers=1))",
    )
    script.write_text("\n".join(lines))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    guard = 'if __name__ == "__main__":'
    assert f"each worker runs the script that starts it, and would start workers too; put map_area under {guard}" in (
        done.stderr
    )
    assert done.stderr.rstrip().endswith(f"a script of Python must call map_area under {guard}")
    script.write_text("\n".join((*lines[:-1], guard, f"    {lines[-1]}")))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/landcover.tif").exists()


def test_workers_of_a_process_that_may_have_none_are_told(run: Path, area: str, tmp_path: Path) -> None:
    request = geomap.Request(area=area, period="2023", composites=run, device="cpu")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        job = pool.apply_async(geomap.map_area, (request, tmp_path / "out"), {"resources": Resources(workers=1)})
        with pytest.raises(InputError, match=r"may start none; use concurrent\.futures\.ProcessPoolExecutor"):
            job.get(timeout=100)


def test_an_area_over_two_zones_is_for_a_run(scenes: Archive) -> None:
    west, south, _, north = scenes.bbox
    wide = f"{west},{south},6.01,{north}"
    with pytest.raises(InputError, match=r"EPSG:32631, EPSG:32632; cut it to one zone, or use geomap\.map_area"):
        geomap.composite(geomap.search(wide, "2023", str(scenes.items)), wide)


def test_the_door_is_light_and_complete() -> None:
    heavy = ["torch", "dask", "rasterio", "stackstac", "geopandas", "xarray", "numpy"]
    code = (
        "import sys, geomap; geomap.label, geomap.composite\n"
        f"assert not set(sys.modules) & set({heavy}), sorted(set(sys.modules) & set({heavy}))\n"
        "assert set(geomap.__all__) <= set(dir(geomap))\n"
        "import geomap.composite.median as median, geomap.label.classify\n"
        "assert median.median_np\n"
        "import pickle; assert pickle.loads(pickle.dumps(geomap.label)) is geomap.label\n"
        "assert pickle.loads(pickle.dumps(geomap.map_area)) is geomap.map_area\n"
        "assert all(callable(getattr(geomap, name)) for name in geomap.__all__)\n"
        "import pydoc; page = pydoc.render_doc(geomap.label, renderer=pydoc.plaintext)\n"
        "assert geomap.label.__doc__ == geomap.api.label.__doc__, geomap.label.__doc__\n"
        "assert geomap.composite.__doc__ == geomap.api.composite.__doc__\n"
        "assert 'geomap.label - Map each embedding to the class' in page and 'embeddings: (component, y, x)' in page\n"
        "import geomap.run.map as run; assert geomap.map_area.__doc__ == run.map_area.__doc__\n"
        "import inspect; assert inspect.signature(geomap.map_area) == inspect.signature(run.map_area)\n"
        "print(*inspect.signature(geomap.composite).parameters)\n"
        "try: geomap.nothing\n"
        "except AttributeError as e: print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith("scenes area mask")
    assert done.stdout.splitlines()[1] == "module 'geomap' has no attribute 'nothing'"
