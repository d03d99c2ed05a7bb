"""Reads that fail over real HTTP: the cause is named, no token is shown, nothing becomes nodata."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Transformer

from geomap import aoi, grid, pipeline
from geomap.catalog.search import search
from geomap.errors import ReadError, SourceUnavailableError
from geomap.read import stack as read
from geomap.read.access import Access
from geomap.sentinel2 import BANDS_10M, BANDS_20M
from geomap.sources import hrefs
from geomap.sources.providers import PROVIDERS
from geomap.types import Grid, Period, Scene, SceneAsset
from tests.support.archive import PATCH, items_of, served, write_items
from tests.support.server import Answer, Server

PERIOD = Period(2018, 12, 1)


@pytest.fixture
def server(archive, monkeypatch) -> Iterator[Server]:
    """The archive over HTTP on loopback."""
    monkeypatch.setitem(read.GDAL_OPTIONS, "GDAL_HTTP_MAX_RETRY", 1)
    monkeypatch.setitem(read.GDAL_OPTIONS, "GDAL_HTTP_RETRY_DELAY", "0.05")
    with Server(archive()) as server:
        yield server


def scenes_over_http(archive, base: str, tmp_path, query: str = ""):
    items = served(archive(), base, tmp_path / "items.json", query)
    area = aoi.parse_area(PATCH)
    return search(area.geometry, PERIOD, str(items)).scenes, grid.tiles(area)[0].grid


def test_http_gives_the_same_pixels_as_local_files(archive, server, tmp_path):
    scenes, tile = scenes_over_http(archive, server.base, tmp_path)
    area = aoi.parse_area(PATCH)
    local = search(area.geometry, PERIOD, str(archive() / "items.json")).scenes
    remote, plain = pipeline.compose(scenes, tile, PERIOD), pipeline.compose(local, tile, PERIOD)
    np.testing.assert_array_equal(remote.dn, plain.dn)
    assert plain.dn.any()


def test_planetary_computer_addresses_are_signed_when_they_are_read(archive, server, tmp_path, monkeypatch):
    """GDAL asks the signing service for each address; the server gives pixels to signed requests alone."""
    server.sign = lambda path: "sig=secret-token"
    server.token = "sig=secret-token"
    scenes, tile = scenes_over_http(archive, server.base, tmp_path)
    options = dict(PROVIDERS["planetary-computer"].gdal_options)
    signing = {"VSICURL_PC_SAS_SIGN_HREF_URL": f"{server.base}/sign?href="}
    monkeypatch.setattr(pipeline, "gdal_options", lambda scenes: options | signing)  # the host is not the provider's
    made = pipeline.compose(scenes, tile, PERIOD)
    assert made.dn.any()
    assert any(path.startswith("/sign?href=") for path in server.paths())
    assert all("sig=secret-token" in path for path in server.paths() if not path.startswith("/sign"))


def test_a_server_that_wants_credentials_is_no_damaged_file(archive, server, tmp_path):
    scenes, tile = scenes_over_http(archive, server.base, tmp_path)
    server.always["/swir16.tif"] = Answer(403)
    with pytest.raises(ReadError, match=r"swir16\.tif may not be read \(HTTP 403\)"):
        pipeline.compose(scenes, tile, PERIOD)


@pytest.mark.parametrize("status", [503, 429, 500])
def test_a_server_that_refuses_is_a_temporary_failure(archive, server, tmp_path, status):
    scenes, tile = scenes_over_http(archive, server.base, tmp_path, query="?sig=secret-token")
    server.always["/red.tif"] = Answer(status)
    with pytest.raises(SourceUnavailableError, match=r"red\.tif cannot be read now") as e:
        pipeline.compose(scenes, tile, PERIOD, deadline=0.5)
    assert e.value.exit_code == 75
    assert "secret-token" not in str(e.value)
    assert "\n" not in str(e.value)


def test_a_missing_file_is_an_error_and_never_nodata(archive, server, tmp_path):
    scenes, tile = scenes_over_http(archive, server.base, tmp_path)
    server.always["/nir.tif"] = Answer(404)
    with pytest.raises(ReadError, match=r"nir\.tif cannot be read \(HTTP 404\)"):
        pipeline.compose(scenes, tile, PERIOD)


@pytest.mark.parametrize("content", [b"<html>sorry</html>", b"II*\x00" + bytes(200)], ids=["html", "truncated"])
def test_a_file_that_is_not_what_it_says_is_an_error(archive, server, tmp_path, content):
    scenes, tile = scenes_over_http(archive, server.base, tmp_path)
    server.always["/scl.tif"] = Answer(body=content)
    with pytest.raises(ReadError, match=r"scl\.tif cannot be read"):
        pipeline.compose(scenes, tile, PERIOD)


def copied(file: Path, folder: Path) -> str:
    """Each scene has a file of its own."""
    folder.mkdir()
    return str(shutil.copy(file, folder / file.name))


def test_a_vrt_under_a_tif_name_is_refused(archive, tmp_path):
    items = items_of(archive())
    vrt = tmp_path / "blue.tif"
    source = items[0]["assets"]["blue"]["href"]
    vrt.write_text(
        '<VRTDataset rasterXSize="64" rasterYSize="64"><SRS>EPSG:32631</SRS><GeoTransform>574680,10,0,5622440,0,-10'
        '</GeoTransform><VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename>'
        f"{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    for item in items:
        item["assets"]["blue"]["href"] = copied(vrt, tmp_path / item["id"])
    area = aoi.parse_area(PATCH)
    scenes = search(area.geometry, PERIOD, str(write_items(items, tmp_path / "items.json"))).scenes
    with pytest.raises(ReadError, match=r"blue\.tif cannot be read .*not recognized as being in a supported"):
        pipeline.compose(scenes, grid.tiles(area)[0].grid, PERIOD)


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint8"])
def test_files_of_another_type_are_refused(archive, tmp_path, dtype):
    """Reflectance as floats, say, would otherwise be cut to 0 and 1."""
    items = items_of(archive())
    with rasterio.open(items[0]["assets"]["red"]["href"]) as source:
        profile = source.profile | {"dtype": dtype, "driver": "GTiff", "predictor": 1}
        with rasterio.open(tmp_path / "red.tif", "w", **profile) as target:
            target.write((source.read(1) / 40).astype(dtype), 1)
    for item in items:
        item["assets"]["red"]["href"] = copied(tmp_path / "red.tif", tmp_path / item["id"])
    area = aoi.parse_area(PATCH)
    scenes = search(area.geometry, PERIOD, str(write_items(items, tmp_path / "items.json"))).scenes
    with pytest.raises(ReadError, match=f"holds {dtype}, not the uint16"):
        pipeline.compose(scenes, grid.tiles(area)[0].grid, PERIOD)


SIDE = 60  # 10 m pixels of a made scene
CORNER = (600000, 5500020)  # its west and north in zone 31, as granules lie


def made_scene(folder: Path, pixels: np.ndarray, nodata: int | None = 0, epsg: int = 32631) -> Scene:
    """A scene whose 10 m bands all hold `pixels` (y, x) and whose 20 m bands every second of them."""
    assets = {}
    for name, step in (("fine", 10), ("coarse", 20)):
        values = pixels[:: step // 10, :: step // 10]
        profile = {"driver": "GTiff", "count": 1, "dtype": "uint16", "height": len(values), "width": len(values[0])}
        profile |= {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate", "nodata": nodata}
        place = rasterio.transform.from_origin(*CORNER, step, step)
        with rasterio.open(folder / f"{name}.tif", "w", crs=epsg, transform=place, **profile) as target:
            target.write(values, 1)
        for band in BANDS_10M if step == 10 else BANDS_20M:
            assets[band] = SceneAsset(band, str(folder / f"{name}.tif"), 0, "as it is")
    when = PERIOD.start
    return Scene("made", "c", "earth-search", when, "sentinel-2a", "pass", epsg, (4.3, 49.6, 4.5, 49.7), assets)


def read_values(scene: Scene, tile: Grid, clear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    stack = read.stack([scene], tile, PERIOD, Access(), clear[None])
    return stack.fine.dn.compute()[0, 0], stack.coarse.dn.compute()[0, 0]


@pytest.mark.parametrize("seed", range(12))
def test_clear_pixels_are_copied_wherever_the_tile_lies(tmp_path, seed):
    """Tiles larger, smaller and beside the file; values at clear pixels equal the file's, and 0 outside it."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(1, 9000, (SIDE, SIDE)).astype(np.uint16)
    scene = made_scene(tmp_path, pixels)
    left, top = (2 * int(v) for v in rng.integers(-12, 24, 2))  # of the tile, in pixels of the file
    width, height = (2 * int(v) for v in rng.integers(1, 30, 2))
    tile = Grid(32631, CORNER[0] + 10 * left, CORNER[1] - 10 * top, width, height)
    clear = rng.random((height // 2, width // 2)) < rng.choice([0.02, 0.5, 1])
    clear[rng.integers(len(clear))] = True
    fine, coarse = read_values(scene, tile, clear)
    frame = np.zeros((SIDE + 200, SIDE + 200), np.uint16)
    frame[100:-100, 100:-100] = pixels
    wanted = frame[100 + top : 100 + top + height, 100 + left : 100 + left + width]
    large = clear.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(fine[large], wanted[large])
    np.testing.assert_array_equal(coarse[clear], wanted[::2, ::2][clear])
    rows, cols = np.flatnonzero(large.any(1)), np.flatnonzero(large.any(0))
    fine[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] = 0
    assert not fine.any()  # outside the rectangle of clear pixels nothing is read


@pytest.mark.parametrize("nodata", [None, 0, 65535])
def test_what_a_file_calls_nodata_is_zero(tmp_path, nodata):
    pixels = np.full((SIDE, SIDE), 700, np.uint16)
    pixels[10:20] = nodata or 0
    scene = made_scene(tmp_path, pixels, nodata)
    fine, _ = read_values(scene, Grid(32631, *CORNER, SIDE, SIDE), np.ones((SIDE // 2, SIDE // 2), bool))
    assert not fine[10:20].any()
    assert (np.delete(fine, range(10, 20), axis=0) == 700).all()


@pytest.mark.parametrize("chunk", [1024, 16])
def test_a_scene_of_the_neighbouring_zone_gives_the_nearest_pixel(tmp_path, monkeypatch, chunk):
    """Each value is the one of the source pixel under the target pixel's centre, whatever the chunks and the mask."""
    rng = np.random.default_rng(3)
    pixels = rng.integers(1, 9000, (SIDE, SIDE)).astype(np.uint16)
    scene = made_scene(tmp_path, pixels)
    to_zone_32, back = (Transformer.from_crs(*pair, always_xy=True) for pair in ((32631, 32632), (32632, 32631)))
    x, y = to_zone_32.transform(CORNER[0] + 300, CORNER[1] - 300)
    tile = Grid(32632, round(x / 20) * 20 - 200, round(y / 20) * 20 + 200, 60, 56)  # some of it outside the file
    monkeypatch.setattr(read, "chunk_px", lambda scenes: chunk)
    clear = rng.random((28, 30)) < 0.4
    fine, coarse = read_values(scene, tile, clear)
    for got, step, mask in ((fine, 10, clear.repeat(2, 0).repeat(2, 1)), (coarse, 20, clear)):
        for row, col in zip(*np.nonzero(mask), strict=True):
            east, north = back.transform(tile.west + step * (col + 0.5), tile.north - step * (row + 0.5))
            i, j = int((CORNER[1] - north) // step), int((east - CORNER[0]) // step)
            inside = 0 <= i < SIDE * 10 // step and 0 <= j < SIDE * 10 // step
            assert got[row, col] == (pixels[:: step // 10, :: step // 10][i, j] if inside else 0)
        assert (got[mask] > 0).any()
        assert (got[mask] == 0).any()


def test_a_file_without_a_coordinate_system_has_that_of_its_item(tmp_path):
    pixels = np.random.default_rng(1).integers(1, 9000, (SIDE, SIDE)).astype(np.uint16)
    scene = replace(made_scene(tmp_path, pixels, epsg=None), epsg=32631)
    fine, _ = read_values(scene, Grid(32631, *CORNER, SIDE, SIDE), np.ones((SIDE // 2, SIDE // 2), bool))
    np.testing.assert_array_equal(fine, pixels)


def test_addresses_lose_their_query():
    assert hrefs.redact("https://a.example/b/c.tif?sig=1&se=2#x") == "https://a.example/b/c.tif"
    assert hrefs.redact("/data/c.tif") == "/data/c.tif"


def test_chunks_shrink_with_the_scenes_of_a_month():
    assert read.chunk_px(8) == 1024  # a whole tile
    assert 2 * 400 * read.chunk_px(400) ** 2 <= read.MONTH_BYTES


def test_a_scene_outside_the_period_is_a_mistake_of_the_caller(archive):
    area = aoi.parse_area(PATCH)
    scenes = search(area.geometry, Period(2019, 1, 1), str(archive() / "items.json")).scenes
    with pytest.raises(ValueError, match="inside the period"):
        read.stack(scenes, grid.tiles(area)[0].grid, PERIOD, Access(), np.ones((len(scenes), 34, 34), bool))
