"""The report page and the pictures of a run: listed, checked, left out on request, the same for the same run."""

import csv
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from PIL import Image

from geomap import aoi, files, legends
from geomap.cli import command, options
from geomap.encode import card
from geomap.run import pictures, words
from geomap.run.again import words_of
from geomap.run.assess import assess_map
from geomap.run.design import AssessRequest
from geomap.run.keys import declared
from geomap.run.map import map_area
from geomap.run.page import validation
from geomap.run.pictures import clearest, colour, curve_step, ndvi_codes
from geomap.run.relabel import LabelRequest, label_store
from geomap.run.request import Request, request_of
from geomap.run.status import verified
from geomap.run.words import LONGEST_AREA
from geomap.sentinel2 import BANDS
from geomap.store import store
from geomap.types import Period
from geomap.write.report import Zone
from tests.support.outputs import digests
from tests.support.pages import content, raster
from tests.support.requests import request_for, tiles_of
from tests.support.runner import geomap, refused, typed


@pytest.fixture(scope="module")
def asked(archive: Callable[..., Path], untrained: str) -> Iterator[Request]:
    """Land cover and typed classes of a patch in three tiles, from nine scenes; stores are kept."""
    with tiles_of(48):
        yield request_for(
            archive(dates=9) / "items.json",
            untrained,
            legends=("landcover", legends.typed("wheat, <b>maize</b>")),
            save_composites=True,
            save_embeddings=True,
        )


@pytest.fixture(scope="module")
def run(asked: Request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "run"
    map_area(asked, out)
    return out


def test_the_page_is_listed_and_a_change_of_it_is_found(run: Path, tmp_path: Path) -> None:
    assert {files.PAGE, "landcover.png", "classes.png"} <= files.sums(run).keys()
    assert verified(run).problems == ()
    before = (run / files.PAGE).read_bytes()
    (run / files.PAGE).write_bytes(before + b" ")
    try:
        (line,) = verified(run).problems
        assert line.startswith("index.html: changed; ")
    finally:
        (run / files.PAGE).write_bytes(before)


def test_the_page_tells_the_clear_sky_of_each_month_without_composites(
    run: Path, asked: Request, tmp_path: Path
) -> None:
    kept = store.open_store(run, store.COMPOSITES)
    seen, pixels = np.zeros(kept.period.months, int), 0
    with rasterio.open(run / "clear_months.tif") as source:
        months, whole = source.read(1), source.transform
    for tile in kept.tiles:
        row, column = round((whole.f - tile.grid.north) / 10), round((tile.grid.west - whole.c) / 10)
        inside = months[row : row + tile.grid.height, column : column + tile.grid.width] != 255
        seen += (inside & (kept.read("clear", tile.grid, tile) > 0)).sum(axis=(1, 2))
        pixels += inside.sum()
    wanted = [round(float(share), 4) for share in seen / pixels]
    assert sum(wanted) > 0
    map_area(replace(asked, save_composites=False, save_embeddings=False), tmp_path / "bare")
    for made in (run, tmp_path / "bare"):
        assert content(made / files.PAGE)["facts"]["sky"] == wanted


def test_without_the_page_all_else_is_the_same(run: Path, asked: Request, tmp_path: Path) -> None:
    map_area(replace(asked, report=False), tmp_path / "bare")
    one, other = digests(run), digests(tmp_path / "bare")
    assert one.keys() - other.keys() == {files.PAGE, "landcover.png", "classes.png"}
    differ = {name for name in other if one[name] != other[name]}
    item = next(name for name in other if name.startswith("stac/geomap-"))
    assert differ == {"run.json", files.SUMS, item, "stac/collection.json"}  # the number of files; the pictures
    assert verified(tmp_path / "bare").problems == ()
    refused(geomap("view", tmp_path / "bare"), 2, "--no-report")


def test_the_page_shows_the_maps_areas_and_scenes_of_the_run(run: Path) -> None:
    told = content(run / files.PAGE)
    record = json.loads((run / "run.json").read_text())
    for stem in ("landcover", "classes"):
        with rasterio.open(run / f"{stem}.tif") as source:
            shown = raster(run / files.PAGE, f"{stem}-32631").reshape(source.shape)
            np.testing.assert_array_equal(shown, source.read(1))
        (entry,) = [m for m in told["maps"] if m["stem"] == stem]
        assert {str(c["id"]): c["pixels"] for c in entry["classes"]} == record["maps"][stem]["counts"]
        rows = [row for row in csv.DictReader((run / "areas.csv").open(newline="")) if row["map"] == stem]
        areas = [(row["id"], int(row["pixels"]), row["ha"]) for row in rows if row["pixels"] != "0"]
        assert [(str(c["id"]), c["pixels"], str(round(c["pixels"] / 100, 2))) for c in entry["classes"]] == areas
        assert entry["confidence"] == f"{stem}_confidence"
    facts = told["facts"]
    assert [s["id"] for s in facts["scenes"]] == [s["id"] for s in record["scenes"]]
    assert sum(s["use"] == "used" for s in facts["scenes"]) == record["account"]["used"]
    listed = {name: (size, digest) for name, size, digest in facts["files"]}
    assert {"landcover.tif", "composites.zarr/", "embeddings.zarr/", "run.json", "areas.csv"} <= listed.keys()
    known = {name: (size, digest) for name, (size, digest) in listed.items() if digest}
    assert {"landcover.tif", "classes.png", "maps.qlr"} <= known.keys()
    sums = files.sums(run)
    assert known == {name: ((run / name).stat().st_size, sums[name]) for name in known}
    assert listed["areas.csv"] == (None, "")  # geomap assess writes it again
    assert any("classes of your own" in of["says"] for of in facts["validation"])


def test_curves_and_pictures_are_those_of_the_stored_composites(run: Path) -> None:
    told = content(run / files.PAGE)
    (zone,) = told["zones"]
    kept = store.open_store(run, store.COMPOSITES)
    codes = raster(run / files.PAGE, "ndvi-32631").reshape(2, zone["ndvi"]["height"], zone["ndvi"]["width"])
    assert zone["ndvi"]["step"] == 1
    for tile in kept.tiles:
        row = (zone["north"] - tile.grid.north) // 10
        column = (tile.grid.west - zone["west"]) // 10
        place = (slice(row, row + tile.grid.height), slice(column, column + tile.grid.width))
        for month in range(2):
            dn = kept.read("composite", tile.grid, tile, month).astype(float)
            red, nir = dn[BANDS.index("B04")], dn[BANDS.index("B08")]
            known = (red > 0) & (nir > 0)
            shown = codes[month][place]
            assert (shown[~known] == 255).all()
            wanted = ((nir - red) / np.maximum(nir + red, 1))[known]
            assert np.abs(shown[known] / 100 - 0.25 - wanted).max() <= 0.0051
    assert [m["stem"] for m in told["maps"] if m["kind"] == "picture"] == ["true_colour_2018_08"]
    assert len(told["facts"]["sky"]) == 2


def test_maps_from_a_store_have_a_page_with_their_command(run: Path, untrained: str, tmp_path: Path) -> None:
    chosen = (legends.load("crops"),)
    label_store(LabelRequest(run, chosen, untrained), tmp_path / "a")
    told = content(tmp_path / "a" / files.PAGE)  # opens on crops, though land cover is mapped before them
    assert told["maps"][0]["stem"] == "crops"
    assert "<title>Crops, Land cover" in (tmp_path / "a" / files.PAGE).read_text()
    assert {place["stem"] for place in told["places"]} <= {"crops"}
    assert told["places_are"].startswith("Places where “Crops” is least sure")
    assert content(tmp_path / "a" / files.PAGE)["facts"]["command"] == "geomap label DIR --legend crops --out labels"
    label_store(LabelRequest(run, chosen, untrained, report=False), tmp_path / "b")
    assert not (tmp_path / "b" / files.PAGE).exists()


def test_an_assessment_goes_into_the_page(run: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(run, tmp_path / "run"))
    with rasterio.open(out / "landcover.tif") as source:
        ids = source.read(1)
        rows, columns = (axis[::40] for axis in np.nonzero(ids))
        east, north = source.xy(rows, columns)
    names = {c.id: c.name for c in legends.load("landcover").classes}
    lines = [f"{x},{y},{names[int(i)]}" for x, y, i in zip(east, north, ids[rows, columns], strict=True)]
    (tmp_path / "points.csv").write_text("\n".join(["x,y,class", *lines]))
    assess_map(out, AssessRequest(tmp_path / "points.csv", "class", "EPSG:32631", "landcover", "random"))
    told = content(out / files.PAGE)
    assessed = json.loads((out / "assessment.json").read_text())
    assert (
        len(assessed["landcover"].pop("sample")["x"]) == assessed["landcover"]["points"]
    )  # places are not on the page
    assert told["assessed"] == assessed
    assert told["assessed"]["landcover"]["overall_accuracy"]["value"] == 1
    assert {**told, "assessed": {}} == content(run / files.PAGE)
    assert verified(out).problems == ()


def test_pictures_have_the_colours_of_the_map_and_are_its_thumbnail(run: Path) -> None:
    with Image.open(run / "landcover.png") as picture, rasterio.open(run / "landcover.tif") as source:
        found = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or ()}
        present = set(np.unique(source.read(1))) - {0}
    legend = legends.load("landcover")
    assert {tuple(bytes.fromhex(c.colour[1:])) for c in legend.classes if c.id in present} <= found
    (item,) = pystac.Collection.from_file(str(run / "stac/collection.json")).get_items(recursive=True)
    thumbnail = item.assets["thumbnail"]
    assert (run / "stac" / thumbnail.href).resolve() == (run / "landcover.png").resolve()
    assert thumbnail.media_type == "image/png"


def test_view_opens_the_page_or_names_it(run: Path, tmp_path: Path) -> None:
    address = (run / files.PAGE).resolve().as_uri()
    opened = typed("view", run, BROWSER=f"{sys.executable} -c 'print(\"seen\")' %s")
    assert opened.returncode == 0
    assert f"opened {address}" in opened.stdout
    nothing = typed("view", run, BROWSER="/nonexistent/browser", PATH="")
    assert address in nothing.stdout
    assert nothing.returncode == 0
    refused(geomap("view", run / "tiles"), 2, "index.html")
    shutil.copytree(run, tmp_path / "half")
    (tmp_path / "half/SHA256SUMS").unlink()
    half = typed("view", tmp_path / "half", BROWSER=f"{sys.executable} -c 'print(\"seen\")' %s")
    assert "is not finished: the page may be of other maps" in " ".join(half.stderr.split())
    assert "is not finished" not in opened.stderr


# --- the command that asks for the same


def read_back(text: str) -> Request:
    """The request that the command line makes of a command's words, by its own parser."""
    context = command("map").make_context("map", shlex.split(text)[2:])
    names = {d.option.flag.removeprefix("--").replace("-", "_"): d for d in declared()}
    typed_ = {name: d for name, d in names.items() if options._is_typed(context, name)}
    keys = options.keys_of({d.key: options._value(d, context.params[name]) for name, d in typed_.items()})
    return request_of(keys, aoi.parse_area(context.params["area"]), options.period_of(keys), keys.chosen())


WKT = "POLYGON ((4.4 50.8, 4.5 50.8, 4.45 50.9, 4.4 50.8))"
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "months": {"period": Period(2022, 10, 7), "min_clear_months": 2},
    "outline": {"area": WKT, "legends": ("crops", "landcover"), "within": ("landcover", "Cropland")},
    "typed": {"legends": legends.typed("o'clock && $HOME, `id`, maize"), "others": True, "min_confidence": 0.355},
    "scenes": {"max_cloud": 35.5, "exclude": ("a b", "-c"), "offset": "applied", "collection": "x", "max_missed": 0},
    "points": {"points": "points.gpkg:may", "column": "the class", "points_crs": "EPSG:4326", "date_column": "day"},
    "learned": {"learned": "farm-learned", "legends": ()},
    "readable": {
        "finish": {"smooth": 3, "min_area": 0.5, "vector": True, "layers": ("second", "margin")},
        "without": ("Maize", "crops=Barley"),
        "everywhere": True,
        "within": "none",
    },
    "bare": {"finish": {"layers": ()}},
    "kept": {"save_composites": True, "save_embeddings": True, "report": False, "allow_hosts": ("a.example",)},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_command_asks_for_the_same(name: str) -> None:
    fields = {"area": "4.4,50.85,4.45,50.88", "period": "2023"} | REQUESTS[name]
    request = Request(**fields)
    found = words.command({"command": "map", **words_of(request)})
    assert len(found.needs) == (name in ("points", "learned"))
    again = read_back(found.command)
    assert again.area.geometry.equals(request.area.geometry)
    one, other = ({k: v for k, v in vars(r).items() if k != "area"} for r in (again, request))
    assert one == other


def test_the_command_knows_every_option_that_decides_a_map() -> None:
    """A new option needs its line in geomap/run/words.py, or its place among those that decide nothing."""
    code = Path(words.__file__).read_text()
    nothing = {"--device", "--workers", "--scheduler", "--deadline"}
    assert {d.option.flag for d in declared() if f'"{d.option.flag}"' not in code} == nothing


def test_what_does_not_fit_a_command_is_named(tmp_path: Path) -> None:
    around = [f"{4 + np.cos(t) / 50:.6f} {50 + np.sin(t) / 50:.6f}" for t in np.linspace(0, 2 * np.pi, 90)]
    own = legends.load("crops").model_copy(update={"name": "mine"})
    request = Request(area=f"POLYGON (({', '.join([*around[:-1], around[0]])}))", period="2023", legends=own)
    found = words.command({"command": "map", **words_of(request), "stac": "items.json sha256:abc", "weights": "theirs"})
    assert len(found.command) < LONGEST_AREA
    assert "--stac items.json --legend mine.toml --weights theirs" in found.command
    for named in ("area.geojson", "sha256 is abc", "mine.toml", "theirs"):
        assert any(named in need for need in found.needs), named
    asked = LabelRequest(Path("x"), (own,), min_confidence=0.5, others=True, report=False)
    labels = words.command({"command": "label", **words_of(asked)})
    assert labels.command.endswith("--min-confidence 50 --others --no-report --out labels")


# --- what the page says


def test_a_legend_is_said_to_be_validated_only_where_it_was_measured() -> None:
    known = card.read_card(card.locate("default"))
    assert "in each place by an encoder trained without it" in validation(legends.load("landcover"), known)
    for name in ("habitat", "landuse", "bioregion", "scenicness"):
        assert "was not validated" in validation(legends.load(name), known)
    here = legends.load("habitat")
    assert "was not validated" in validation(here.without(frozenset({17, 24})), known)  # as in Flanders
    other = here.model_copy(update={"classes": (*here.classes[:-1], legends.load("landcover").classes[0])})
    assert "of your own" in validation(other, known)
    assert "not validated" in validation(legends.load("landcover"), None)
    assert "of your own" in validation(legends.typed("a, b"), known)
    odd = known.model_copy(update={"metrics": {"left_out": 1}})
    assert "not validated" in validation(legends.load("landcover"), odd)


def test_seasons_are_six_months_later_in_the_south() -> None:
    sky = [0.5] * 4 + [0.6, 0.7, 0.1, 0.3] + [0.9] * 4
    year = Period(2023, 1)
    assert [clearest(year, sky, season, False) for season in pictures.SEASONS] == [5, 7]  # June, August
    assert [clearest(year, sky, season, True) for season in pictures.SEASONS] == [10, 0]  # November, January
    assert clearest(Period(2023, 1, 3), sky[:3], (5, 6), False) is None
    assert clearest(year, [0.1] * 12, (5, 6), False) is None


def test_colours_and_codes_of_known_dns() -> None:
    dn = np.array([[[100, 2500, 0]], [[100, 9000, 500]], [[50, 2500, 500]]], np.uint16)
    np.testing.assert_array_equal(colour(dn), [[[1, 1, 1], [255, 255, 255], pictures.NO_DATA]])  # 0: nodata
    red, nir = np.array([[500, 1000, 0, 3000]], np.uint16), np.array([[4500, 1000, 800, 1]], np.uint16)
    np.testing.assert_array_equal(ndvi_codes(red, nir), [[105, 25, 255, 0]])


def test_large_zones_have_a_curve_for_several_pixels() -> None:
    assert curve_step(Zone(32631, 0, 0, 268, 268, 10, 10, 1), 12) == 1
    step = curve_step(Zone(32631, 0, 0, 1600, 1600, 10, 10, 1), 12)
    assert step == 4
    for first, length, every in ((0, 100, 1), (7, 50, 4), (2, 3, 8), (9, 40, 8)):
        source, target = pictures._every(first, length, every)
        where = [first + i for i in range(length)][source]
        assert [w % every for w in where] == [every // 2] * len(where)
        assert [w // every for w in where] == list(range(target.start, target.stop))
