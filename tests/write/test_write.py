"""Maps on disk: bytes, pixels, colours and names as rasterio, GDAL and QGIS see them; full disks, killed writers."""

import ctypes
import functools
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from defusedxml import ElementTree
from numpy.typing import NDArray

from geomap import files
from geomap.errors import DiskFullError, OutputError, ReadError
from geomap.legends import Legend, LegendClass, RatedPrompt, typed
from geomap.types import Grid
from geomap.write.cog import write_map
from geomap.write.layer import Layer, Statistics, plain
from geomap.write.qgis import pam, qml
from tests.support import REPOSITORY
from tests.support.outputs import digests

HOSTILE = (
    "a \"b\" <c> & 'd' ]]>",
    "Forêt 森林 🌲",
    "</Category><Category>x",
    "&amp; &#10; %s {}",
    "no \ufffe character",
)
GRID = Grid(epsg=32631, west=500_000, north=5_000_000, width=1100, height=700)
TAGS = {"TIFFTAG_SOFTWARE": "geomap 0.1.0", "TIFFTAG_DATETIME": "2019:12:01 00:00:00", "GEOMAP_WEIGHTS": "ab & <c> é"}
LANDCOVER = typed("Artificial land, Cropland, Woodland, Water", "landcover")
SCENIC = Legend(
    name="scenicness",
    title="Scenicness",
    kind="score",
    range=(1, 10),
    prompts=(RatedPrompt(text="a car park", rating=1), RatedPrompt(text="a mountain lake", rating=10)),
)
LAYERS = {
    "classes": Layer("landcover", "Land cover class", "classes", LANDCOVER, unclassified=True),
    "percent": Layer("landcover_confidence", "Confidence of the class (percent)", "percent"),
    "score": Layer("scenicness", "Scenicness, 1 to 10", "score", SCENIC),
    "count": Layer("clear_months", "Months with a clear observation", "count"),
}


def pixels(layer: Layer, grid: Grid = GRID) -> NDArray[Any]:
    """Plausible values: patches with some noise, and a corner without data."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[: grid.height, : grid.width]
    if layer.kind == "score":
        values = (1 + 9 * y / grid.height + rng.integers(0, 3, grid.shape) / 4).clip(1, 10)
    else:
        highest = {"classes": 4, "percent": 101, "count": 13}[layer.kind]
        values = (x // 40 + y // 30 + rng.integers(0, 2, grid.shape)) % highest + (layer.kind == "classes")
        if layer.unclassified:
            values[300:340, 500:620] = 255
    values[:90, :200] = layer.nodata
    return np.asarray(values, layer.dtype)


def cut(values: NDArray[Any], size: int, grid: Grid = GRID) -> list[tuple[Grid, NDArray[Any]]]:
    """Square tiles of `size` pixels, smaller along the eastern and southern edges."""
    step, tiles = grid.resolution, []
    for row in range(0, grid.height, size):
        for column in range(0, grid.width, size):
            part = values[row : row + size, column : column + size]
            height, width = part.shape
            west, north = grid.west + column * step, grid.north - row * step
            tiles.append((Grid(grid.epsg, west, north, width, height, step), part))
    return tiles


def write(path: Path, layer: Layer, grid: Grid = GRID, size: int = 400) -> Statistics:
    return write_map(path, layer, grid, cut(pixels(layer, grid), size, grid), TAGS)


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> Layer:
    return LAYERS[request.param]


def test_bytes_do_not_depend_on_tiles_or_place(tmp_path: Path, layer: Layer) -> None:
    write(tmp_path / "a" / "map.tif", layer)
    values = pixels(layer)
    for i, size in enumerate((333, 5000)):
        tiles = cut(values, size)
        random.Random(i).shuffle(tiles)
        write_map(tmp_path / str(i) / "map.tif", layer, GRID, iter(tiles), dict(reversed(TAGS.items())))
        for name in ("map.tif", "map.qml", "map.tif.aux.xml"):
            assert (tmp_path / str(i) / name).read_bytes() == (tmp_path / "a" / name).read_bytes(), (size, name)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["map.qml", "map.tif", "map.tif.aux.xml"]


def test_pixels_and_statistics(tmp_path: Path, layer: Layer) -> None:
    values = pixels(layer)
    left_out = 4  # this tile's area must come out as nodata
    tiles = [tile for i, tile in enumerate(cut(values, 400)) if i != left_out]
    statistics = write_map(tmp_path / "map.tif", layer, GRID, tiles, TAGS)
    expected = values.copy()
    expected[400:700, 400:800] = layer.nodata
    with rasterio.open(tmp_path / "map.tif") as src:
        np.testing.assert_array_equal(src.read(1), expected)
        assert src.nodata == layer.nodata or (np.isnan(src.nodata) and np.isnan(layer.nodata))
        assert (src.dtypes, src.count, src.crs.to_epsg()) == ((layer.dtype,), 1, 32631)
        assert (*src.bounds,) == GRID.bounds
        assert tuple(src.transform)[:6] == GRID.transform
    valid = expected[~np.isnan(expected)] if layer.kind == "score" else expected[expected != layer.nodata]
    assert statistics.valid == valid.size
    assert (statistics.minimum, statistics.maximum) == (valid.min(), valid.max())
    assert statistics.mean == pytest.approx(valid.astype(np.float64).mean(), rel=1e-9)
    assert statistics.std == pytest.approx(valid.astype(np.float64).std(), rel=1e-6)
    if layer.kind != "score":
        assert statistics.counts == dict(zip(*(v.tolist() for v in np.unique(valid, return_counts=True)), strict=True))


def test_a_map_without_tiles_is_all_nodata(tmp_path: Path, layer: Layer) -> None:
    assert write_map(tmp_path / "map.tif", layer, GRID, [], {}).valid == 0
    with rasterio.open(tmp_path / "map.tif") as src:
        assert not src.read_masks(1).any()


def test_layout_colours_and_tags(tmp_path: Path, layer: Layer) -> None:
    write(tmp_path / "map.tif", layer)
    with rasterio.open(tmp_path / "map.tif") as src:
        structure = src.tags(ns="IMAGE_STRUCTURE")
        assert (structure["LAYOUT"], structure["COMPRESSION"]) == ("COG", "DEFLATE")
        assert src.block_shapes == [(512, 512)]
        assert src.overviews(1) == [2, 4]  # 1100 x 700: the second fits one block
        assert src.descriptions == (layer.description,)
        assert {k: v for k, v in src.tags().items() if k in TAGS} == TAGS
        if layer.kind == "classes":
            assert src.colorinterp == (rasterio.enums.ColorInterp.palette,)
            table = src.colormap(1)
            assert table[0][3] == 0  # nodata: transparent
            for c in LANDCOVER.classes:
                assert table[c.id] == (*bytes.fromhex(c.colour[1:]), 255)
            assert table[255][3] == 255
            assert src.tags(1)["class_2"] == "Cropland"
        else:
            assert src.colorinterp == (rasterio.enums.ColorInterp.gray,)
    small = Grid(32631, 500_000, 5_000_000, 300, 200)
    write(tmp_path / "small.tif", layer, small)
    with rasterio.open(tmp_path / "small.tif") as src:
        assert src.overviews(1) == []
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_overviews_keep_the_commonest_class_and_average_percents(tmp_path: Path) -> None:
    grid = Grid(32631, 500_000, 5_000_000, 1024, 1024)
    for kind, cell, expected in (
        ("classes", [[2, 4], [4, 1]], 4),  # the commonest: neither the mean nor a corner
        ("percent", [[10, 255], [40, 100]], 50),  # the mean of those that are not nodata
    ):
        values = np.tile(np.array(cell, "u1"), (512, 512))
        write_map(tmp_path / "map.tif", LAYERS[kind], grid, cut(values, 512, grid), {})
        with rasterio.open(tmp_path / "map.tif", overview_level=0) as src:
            assert src.shape == (512, 512)
            assert (src.read(1) == expected).all(), kind


def test_characters_that_xml_cannot_hold() -> None:
    bad = "bell\x07 nul\x00 escape\x1b \udcff \ufffe \uffff"
    assert plain(bad) == "bell� nul� escape� � � �"
    assert plain("tab\tline\n森林 🌲") == "tab\tline\n森林 🌲"


def hostile_layer() -> Layer:
    legend = Legend(
        name="own",
        title="t",
        classes=tuple(
            LegendClass(id=i, name=name, colour=f"#{i:02X}40c0", prompts=("p",))
            for i, name in zip((3, 1, 40, 7, 120), HOSTILE, strict=True)
        ),
    )
    return Layer("own", plain(HOSTILE[0]), "classes", legend, unclassified=True)


def hostile_pixels() -> NDArray[Any]:
    """Every class, and nodata, in patches of 60 x 50 pixels."""
    y, x = np.mgrid[: GRID.height, : GRID.width]
    values: NDArray[Any] = np.array([0, 1, 3, 7, 40, 120, 255], "u1")[(x // 60 + y // 50) % 7]
    return values


def test_hostile_class_names_survive_in_every_side_file(tmp_path: Path) -> None:
    layer, path = hostile_layer(), tmp_path / "own.tif"
    assert layer.legend is not None
    statistics = write_map(path, layer, GRID, cut(hostile_pixels(), 512), TAGS)
    expected = {c.id: plain(c.name) for c in layer.legend.classes} | {255: "Unclassified"}
    entries = ElementTree.parse(path.with_suffix(".qml")).findall(".//paletteEntry")
    assert {int(e.attrib["value"]): e.attrib["label"] for e in entries} == expected
    band = ElementTree.parse(f"{path}.aux.xml").find("PAMRasterBand")
    categories = [e.text or "" for e in band.findall("CategoryNames/Category")]
    assert categories == ["No data" if i == 0 else expected.get(i, "") for i in range(256)]
    columns = [f.findtext("Name") for f in band.findall("GDALRasterAttributeTable/FieldDefn")]
    assert columns == ["Value", "Count", "Class", "Red", "Green", "Blue", "Alpha"]
    rows = [[f.text for f in row] for row in band.findall("GDALRasterAttributeTable/Row")]
    assert [row[0] for row in rows] == ["1", "3", "7", "40", "120", "255"]
    assert {int(row[0]): int(row[1]) for row in rows} == statistics.counts
    assert rows[0][2:] == [expected[1], "1", "64", "192", "255"]
    with rasterio.open(path) as src:
        assert src.tags(1)["class_3"] == expected[3]
        assert src.descriptions == (layer.description,)


def gdal_category_names(path: Path) -> list[str]:
    """Category names through rasterio's own GDAL, by its C interface: rasterio itself has no call for them."""
    libraries = sorted(Path(rasterio.__file__).parents[1].glob("rasterio.libs/libgdal*.so*"))
    if not libraries:
        pytest.skip("rasterio's GDAL is not the wheel's")
    gdal = ctypes.CDLL(str(libraries[0]))
    for name, returns in (
        ("GDALOpen", ctypes.c_void_p),
        ("GDALGetRasterBand", ctypes.c_void_p),
        ("GDALGetMetadata", ctypes.c_void_p),
        ("GDALGetRasterCategoryNames", ctypes.POINTER(ctypes.c_char_p)),
    ):
        getattr(gdal, name).restype = returns
    gdal.GDALAllRegister()
    dataset = ctypes.c_void_p(gdal.GDALOpen(os.fsencode(path), 0))
    band = ctypes.c_void_p(gdal.GDALGetRasterBand(dataset, 1))
    gdal.GDALGetMetadata(band, None)  # GDAL loads side files with the metadata, not before
    names = gdal.GDALGetRasterCategoryNames(band)
    found: list[str] = []
    while names and names[len(found)] is not None:
        found.append(names[len(found)].decode())
    gdal.GDALClose(dataset)
    return found


def test_gdal_reads_the_category_names(tmp_path: Path) -> None:
    layer = hostile_layer()
    write_map(tmp_path / "own.tif", layer, GRID, cut(hostile_pixels(), 512), TAGS)
    names = gdal_category_names(tmp_path / "own.tif")
    assert len(names) == 256
    assert {i: n for i, n in enumerate(names) if n} == {0: "No data"} | {c.value: c.name for c in layer.classes}


def test_side_files_of_other_layers(tmp_path: Path) -> None:
    for kind, low, high, first in (
        ("percent", 0, 100, "0 %"),
        ("score", 1, 10, "1"),
        ("count", 0, 12, "0 months"),
    ):
        layer = LAYERS[kind]
        write(tmp_path / "map.tif", layer)
        shader = ElementTree.parse(tmp_path / "map.qml").find(".//colorrampshader")
        items = [float(item.attrib["value"]) for item in shader]
        assert (items[0], items[-1], shader[0].attrib["label"]) == (low, high, first)
        assert items == sorted(items)
        with rasterio.open(tmp_path / "map.tif") as src:  # GDAL takes the statistics from the side file
            valid = np.ma.masked_invalid(src.read(1, masked=True))
            assert float(src.tags(1)["STATISTICS_MEAN"]) == pytest.approx(valid.mean(), rel=1e-5)
            assert float(src.tags(1)["STATISTICS_MAXIMUM"]) == pytest.approx(valid.max(), rel=1e-6)
    assert b"STATISTICS" not in pam(LAYERS["percent"], Statistics(0))


def test_layers_need_the_legend_of_their_kind() -> None:
    for kind, legend in (("classes", None), ("classes", SCENIC), ("score", LANDCOVER)):
        with pytest.raises(ValueError, match="needs a legend"):
            Layer("x", "x", kind, legend)  # type: ignore[arg-type]
    assert b"Unclassified" not in qml(Layer("x", "x", "classes", LANDCOVER))


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (Grid(32631, 500_000, 5_000_000, 10, 10), np.ones((10, 10), "u2"), "uint16"),
        (Grid(32631, 500_000, 5_000_000, 10, 10), np.ones((10, 9), "u1"), r"\(10, 9\)"),
        (Grid(32631, 510_950, 5_000_000, 10, 10), np.ones((10, 10), "u1"), "beyond the map"),
        (Grid(32631, 499_990, 5_000_000, 10, 10), np.ones((10, 10), "u1"), "beyond the map"),
        (Grid(32632, 500_000, 5_000_000, 10, 10), np.ones((10, 10), "u1"), "different grids"),
    ],
)
def test_tiles_that_do_not_fit(tmp_path: Path, part: Grid, values: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_map(tmp_path / "map.tif", LAYERS["classes"], GRID, [(part, values)], TAGS)
    assert list(tmp_path.iterdir()) == []


def test_overlapping_tiles_are_noticed(tmp_path: Path) -> None:
    tiles = cut(pixels(LAYERS["classes"]), 400)
    part, values = tiles[4]
    for again in (values, np.full_like(values, 3)):
        with pytest.raises(OutputError, match="overlap"):
            write_map(tmp_path / "map.tif", LAYERS["classes"], GRID, [*tiles, (part, again)], TAGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [ReadError("scene X is truncated"), OSError(28, "of the source"), KeyboardInterrupt()]
)
def test_what_stops_the_tiles_is_passed_on_and_the_old_map_kept(tmp_path: Path, error: BaseException) -> None:
    write(tmp_path / "map.tif", LAYERS["classes"])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def failing() -> Iterator[tuple[Grid, NDArray[Any]]]:
        yield from cut(pixels(LAYERS["classes"]), 400)[:2]
        raise error

    with pytest.raises(type(error)) as caught:
        write_map(tmp_path / "map.tif", LAYERS["classes"], GRID, failing(), TAGS)
    assert caught.value is error
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount, or resize, a real small file system."""
    place = tmp_path / "disk"
    place.mkdir()

    def resize(options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot mount a small tmpfs: {done.stderr.strip()}")
        return place

    yield resize
    if place.is_mount():
        subprocess.run(["umount", place], check=True)


NOISY = Grid(32631, 500_000, 5_000_000, 900, 700)


def noise() -> list[tuple[Grid, NDArray[Any]]]:
    """Classes that do not compress well: 230 kB gathered, 250 kB as a map."""
    return cut(np.random.default_rng(0).integers(0, 5, NOISY.shape).astype("u1"), 300, NOISY)


@functools.cache
def noisy_map(layer: str, folder: Path) -> bytes:
    write_map(folder / "reference.tif", LAYERS[layer], NOISY, noise(), TAGS)
    return (folder / "reference.tif").read_bytes()


@pytest.mark.parametrize("size", ["40k", "300k", "440k", "520k"])
def test_full_disk(disk: Callable[[str], Path], tmp_path: Path, size: str) -> None:
    """Full while tiles are gathered, while GDAL makes the map, and where GDAL says that it made it (from 400k)."""
    reference = noisy_map("classes", tmp_path)
    place = disk(f"size={size}")
    with pytest.raises(DiskFullError, match=r"no space left in .*disk .*free space and run the same command again"):
        write_map(place / "map.tif", LAYERS["classes"], NOISY, noise(), TAGS)
    assert os.listdir(place) == []
    disk("remount,size=8m")
    write_map(place / "map.tif", LAYERS["classes"], NOISY, noise(), TAGS)
    assert (place / "map.tif").read_bytes() == reference


def test_read_only_disk(disk: Callable[[str], Path]) -> None:
    place = disk("size=8m")
    disk("remount,ro")
    with pytest.raises(OutputError, match="Read-only file system"):
        write(place / "map.tif", LAYERS["classes"])


ENDLESS = """
import sys, itertools
from pathlib import Path
from tests.write import test_write as t
for i in itertools.count():
    t.write_map(Path(sys.argv[1]) / f"{i % 5}.tif", t.LAYERS["classes"], t.NOISY, t.noise(), t.TAGS)
    print("one more", flush=True)
"""


def test_killed_writers_leave_no_false_map(tmp_path: Path) -> None:
    """kill -9 at any moment: what bears a final name is whole, and the rest can be cleaned away."""
    reference = noisy_map("classes", tmp_path)
    out, moments = tmp_path / "out", random.Random(3)
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(out)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "one more\n"
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(moments.uniform(0, 0.5))
        writer.kill()
        writer.communicate()
        assert writer.returncode == -9
        maps = sorted(out.glob("*.tif"))
        assert maps
        for path in maps:
            assert path.read_bytes() == reference
            assert path.with_suffix(".qml").is_file()
            assert path.with_name(f"{path.name}.aux.xml").is_file()
    assert not (out / files.SUMS).exists()
    files.clean_temporary(out)
    assert not [p for p in out.iterdir() if p.name.startswith(".")]
    write_map(out / "0.tif", LAYERS["classes"], NOISY, noise(), TAGS)
    assert (out / "0.tif").read_bytes() == reference


def test_memory_does_not_grow_with_the_map() -> None:
    """Peaks of whole processes: 32 tiles more hold 128 MB more pixels (benchmarks/mosaic.py has larger maps)."""
    script = REPOSITORY / "benchmarks/mosaic.py"
    peaks = []
    for tiles in ("4", "36"):
        command = [sys.executable, str(script), "--one", "score", "alone", tiles]
        peaks.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["peak_mb"])
    assert peaks[1] - peaks[0] < 32


def test_qgis_shows_classes_with_their_names_and_colours(tmp_path: Path, qgis: Callable[..., dict[str, Any]]) -> None:
    layer, out = hostile_layer(), tmp_path / "out"
    write_map(out / "own.tif", layer, GRID, cut(hostile_pixels(), 512), TAGS)
    before = digests(out)
    report = qgis(out / "own.tif")
    assert report["renderer"] == "paletted"
    shown = [(c["value"], c["label"], c["color"]) for c in report["classes"]]
    assert shown == [(c.value, c.label, c.colour) for c in layer.classes]
    assert set(report["distinct_colours"]) == {c.colour for c in layer.classes} | {"#ff00ff"}  # nodata: the background
    assert (report["has_nodata"], report["nodata"], report["crs"]) == (True, 0, "EPSG:32631")
    assert report["bands"] == [f"Band 1: {layer.description}"]
    assert [level for level, there in report["pyramids"] if there] == [2, 4]
    assert digests(out) == before  # QGIS had no reason to write statistics beside the map


@pytest.mark.parametrize("kind", ["percent", "score"])
def test_qgis_shows_ramps(tmp_path: Path, qgis: Callable[..., dict[str, Any]], kind: str) -> None:
    layer, out = LAYERS[kind], tmp_path / "out"
    write(out / f"{layer.stem}.tif", layer)
    before = digests(out)
    report = qgis(out / f"{layer.stem}.tif")
    assert report["renderer"] == "singlebandpseudocolor"
    assert len(report["distinct_colours"]) > 10
    assert digests(out) == before
