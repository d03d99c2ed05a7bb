"""A request in Python: text for values, defaults and bounds of the command line, errors that name the field."""

import dataclasses
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
import shapely

from geomap import legends
from geomap.aoi import Area, parse_area
from geomap.cli import command
from geomap.composite.mask import Mask
from geomap.errors import AoiError, InputError
from geomap.run.keys import FinishKeys, RequestKeys, declared
from geomap.run.request import Request, request_of
from geomap.types import Period
from tests.support.runner import geomap

BOX = "4.40,50.85,4.45,50.88"


def made(**changes: Any) -> Request:
    return Request(**({"area": BOX, "period": "2023"} | changes))


def test_text_stands_for_values() -> None:
    request = made(period="2022-10/2023-09", legends=("crops", legends.load("landuse")), within="landcover = Cropland")
    assert request.area == parse_area(BOX)
    assert request.period == Period(2022, 10)
    assert [legend.name for legend in request.legends] == ["crops", "landuse"]
    assert request.within == ("landcover", "Cropland")
    assert made(legends="crops").legends == (legends.load("crops"),)
    assert made(period=2023).period == Period(2023, 1)
    assert made(allow_hosts=["a.example"], composites="m/composites.zarr") == made(
        allow_hosts=("a.example",), composites=Path("m/composites.zarr")
    )


def test_a_mask_may_be_its_keys() -> None:
    assert made(mask={"classes": [3, 8], "dilation": 2}).mask == Mask((0, 3, 8), dilation=2)
    assert made(mask={}) == made()


def test_values_that_python_has_for_text_and_numbers_do(tmp_path: Path) -> None:
    """Paths, integers of numpy and coordinate systems of pyproj and rasterio."""
    own = tmp_path / "own.toml"
    own.write_text(
        'name = "own"\ntitle = "Own"\n'
        + "".join(
            f'[[classes]]\nid = {i}\nname = "{n}"\ncolour = "#00000{i}"\nprompts = ["a {n}"]\n'
            for i, n in ((1, "wood"), (2, "lake"))
        )
    )
    request = made(legends=own, stac=tmp_path / "items.json", weights=Path("mine"), min_clear_months=np.int64(2))
    assert (request.stac, request.weights, request.min_clear_months) == (str(tmp_path / "items.json"), "mine", 2)
    assert [c.name for c in request.legends[0].classes] == ["wood", "lake"]
    assert type(request.min_clear_months) is int  # it goes into run.json
    for crs in (pyproj.CRS(32631), rasterio.CRS.from_epsg(32631), "EPSG:32631"):
        assert made(points="a.gpkg", column="crop", points_crs=crs).points_crs == "EPSG:32631"
    assert made(within=["landcover", "Cropland"]).within == ("landcover", "Cropland")
    assert made(within=[]).within == made(within="none").within == ()


def test_layers_are_a_list_or_text_and_a_last_comma_does_no_harm() -> None:
    for said in ("second, margin,", ["second", "margin"], ("second", "margin")):
        assert FinishKeys.model_validate({"layers": said}).layers == ("second", "margin")
    assert FinishKeys.model_validate({"layers": "none"}).layers == ()
    for wrong in ("", ",", ["second", ""]):
        with pytest.raises(ValueError, match="must be of second"):
            FinishKeys.model_validate({"layers": wrong})


def test_values_stay_as_they_are_when_copied() -> None:
    request = made(legends="crops", mask=Mask((0, 3), 1, 2), min_confidence=0.4, update=None)
    assert pickle.loads(pickle.dumps(request)) == request
    assert dataclasses.replace(request, device="cpu") == made(
        legends="crops", mask=Mask((0, 3), 1, 2), min_confidence=0.4, device="cpu"
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.device = "cuda"  # type: ignore[misc]


def test_the_defaults_are_those_of_the_command_line() -> None:
    asked = (legends.load("landcover"),)
    assert request_of(RequestKeys(), parse_area(BOX), Period(2023, 1), asked) == made()


@pytest.mark.parametrize(("months", "least"), [(1, 1), (2, 2), (3, 3), (12, 3)])
def test_a_short_period_needs_fewer_clear_months(months: int, least: int) -> None:
    assert made(period=Period(2023, 1, months)).min_clear_months == least


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"area": "1,2"}, "minx,miny,maxx,maxy"),
        ({"area": "nowhere.gpkg"}, "nowhere.gpkg"),
        ({"period": "23"}, "write 2023, 2023-04 or 2022-10/2023-09"),
        ({"period": "2014"}, "no Sentinel-2 scene in 2014"),
        ({"legends": ("landcvoer",)}, "landcover"),
        ({"within": "landcover"}, "landcover=Cropland"),
        ({"max_cloud": 101}, "less than or equal to 100"),
        ({"max_cloud": "80"}, "number"),
        ({"min_confidence": 40}, "less than or equal to 1"),
        ({"max_missed": float("nan")}, "finite"),
        ({"deadline": 0}, "greater than or equal to 1"),
        ({"offset": "maybe"}, "'unapplied'"),
        ({"allow_hosts": "a.example"}, "must be a list"),
        ({"legends": ["landcover", 5]}, "must be names"),
        ({"legends": 5}, "must be names, .toml files or Legends, not 5"),
        ({"legends": None}, "must be names, .toml files or Legends, not None"),
        ({"legends": Path("nowhere.toml")}, "no legend file nowhere.toml"),
        ({"within": 5}, "must be (legend, class)"),
        ({"within": ("landcover",)}, "must be (legend, class)"),
        ({"within": ("landcover", "Cropland", "crops")}, "must be (legend, class)"),
        ({"within": ("landcover", 3)}, "must be (legend, class)"),
        ({"grid": 5}, "EPSG:3035"),
        ({"points_crs": "EPSG:32631"}, "goes with points"),
        ({"min_clear_months": 0}, "1..12"),
        ({"min_clear_months": True}, "1..12"),
        ({"min_clear_months": 3.0}, "1..12"),
        ({"period": "2023-04", "min_clear_months": 2}, "1..1"),
        ({"mask": (0, 1)}, "Mask"),
        ({"mask": {"dilate": 2}}, "dilate: unknown key; did you mean dilation?"),
        ({"mask": {"classes": [12]}}, "SCL has no class 12"),
        ({"mask": {"dilation": 51}}, "less than or equal to 50"),
        ({"save_composites": "yes"}, "boolean"),
        ({"stac": ""}, "must not be empty"),
    ],
)
def test_a_wrong_value_is_an_input_error_that_names_the_field(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as error:
        made(**change)
    assert str(error.value).startswith(f"{[*change][-1]}: ")
    assert says in str(error.value)


def test_every_declared_option_is_one_of_map_with_its_default_and_bounds() -> None:
    options = {option: p for p in command("map").params for option in p.opts}
    for key, option, field in declared():
        shown = options[option.flag]
        assert option.help == shown.help, key
        default = field.default
        if isinstance(default, tuple):
            default = ",".join(map(str, default)) or None
        assert shown.default == (default is not True and default), key  # a flag of what is on takes it away
    help_ = geomap("map", "--help", columns=200).stdout
    for flag, bounds in (("max-cloud", "0<=x<=100"), ("min-clear-months", "1<=x<=12"), ("mask-open", "0<=x<=50")):
        assert re.search(rf"--{flag} .*\[{bounds}\]", help_)


# --- areas and periods


def test_an_area_is_made_of_text_of_a_file_and_of_a_polygon(tmp_path: Path) -> None:
    polygon = shapely.box(4.4, 50.85, 4.45, 50.88)
    (tmp_path / "farm.geojson").write_text(shapely.to_geojson(polygon))
    for given in (BOX, polygon.wkt, polygon, tmp_path / "farm.geojson", str(tmp_path / "farm.geojson")):
        assert Area(given).geometry.equals(polygon)
        assert Area(given).geometry.geom_type == "MultiPolygon"
    assert Area(BOX) == parse_area(BOX)
    kept = parse_area(BOX).geometry
    assert Area(kept).geometry is kept


@pytest.mark.parametrize(
    ("geometry", "says"),
    [
        (shapely.Point(4, 50), "must be a polygon"),
        (shapely.Polygon([(0, 0), (1, 1), (0, 1), (1, 0)]), "Self-intersection"),
        (shapely.box(400_000, 5_600_000, 410_000, 5_610_000), "not degrees"),
        (shapely.MultiPolygon([shapely.box(4, 85, 5, 86)]), "UTM"),
        (shapely.MultiPolygon(), "empty"),
    ],
)
def test_a_geometry_that_is_no_area_is_refused(geometry: shapely.Geometry, says: str) -> None:
    with pytest.raises(AoiError, match=says):
        Area(geometry)


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("2023", Period(2023, 1)),
        ("2023-04", Period(2023, 4, 1)),
        ("2022-10/2023-09", Period(2022, 10)),
        (" 2022-11 / 2023-02 ", Period(2022, 11, 4)),
        ("2022-10_2023-09", Period(2022, 10)),
        ("2023-05/2023-05", Period(2023, 5, 1)),
    ],
)
def test_a_period_is_read_from_text(text: str, period: Period) -> None:
    assert Period.parse(text) == period


def test_a_period_is_read_from_what_it_prints() -> None:
    for months in range(1, 13):
        for month in range(1, 13):
            period = Period(2020, month, months)
            assert Period.parse(str(period)) == period


@pytest.mark.parametrize(
    "text", ["", "23", "2023-13", "2023-4", "2023-01-01", "2023/2024", "2022-01/2023-01", "2023-02/2023-01", "2023-0٣"]
)
def test_what_is_no_period_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"2022-10/2023-09"):
        Period.parse(text)
