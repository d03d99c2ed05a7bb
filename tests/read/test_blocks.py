"""The checked DEFLATE blocks: the same pixels as GDAL's, and no changed bit becomes a pixel."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from geomap import aoi, grid, pipeline
from geomap.catalog.search import search
from geomap.read import blocks
from geomap.types import Period
from tests.support.archive import served
from tests.support.server import Server

LAYOUTS: dict[str, dict[str, Any]] = {
    "tiles": {"tiled": True, "blockxsize": 128, "blockysize": 64},
    "differences": {"tiled": True, "blockxsize": 64, "blockysize": 64, "predictor": 2},
    "strips": {"blockysize": 48, "predictor": 2},
    "one strip": {"blockysize": 300},
    "big TIFF": {"tiled": True, "blockxsize": 64, "blockysize": 64, "BIGTIFF": "YES"},
    "most significant byte first": {"ENDIANNESS": "BIG", "predictor": 2},
    "sparse": {"tiled": True, "blockxsize": 32, "blockysize": 32, "SPARSE_OK": True, "nodata": 0},
    "another nodata": {"tiled": True, "blockxsize": 64, "blockysize": 64, "nodata": 65_535},
    "no nodata": {"nodata": None},
    "15 bits": {"NBITS": 15},
}
WINDOWS = (Window(0, 0, 211, 300), Window(50, 70, 100, 33), Window(210, 299, 1, 1))


def pixels_of(shape: tuple[int, int]) -> NDArray[np.uint16]:
    rng = np.random.default_rng(4)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    pixels = 900 + 3 * rows + 5 * columns + rng.integers(0, 60, shape)
    pixels[: shape[0] // 3] = 0
    return pixels.astype(np.uint16)


def write(path: Path, pixels: NDArray[Any], **options: Any) -> None:
    form = {"driver": "GTiff", "count": 1, "dtype": pixels.dtype, "compress": "deflate", "nodata": 0, "crs": 32631}
    place = rasterio.Affine(10, 0, 574_680, 0, -10, 5_622_440)
    height, width = pixels.shape
    with rasterio.open(path, "w", width=width, height=height, transform=place, **{**form, **options}) as out:
        out.write(pixels, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("libdeflate", [True, False])
def test_pixels_are_those_of_gdal(
    layout: str, libdeflate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not libdeflate:
        monkeypatch.setattr(blocks, "_inflate", blocks._inflate_zlib)
    path = tmp_path / "b.tif"
    write(path, pixels_of((300, 211)), **LAYOUTS[layout])
    with rasterio.open(path) as dataset:
        assert blocks.checkable(dataset)
        for window in WINDOWS:
            out = np.full((window.height, window.width), 7, np.uint16)
            blocks.read(blocks.layout(dataset, window), window, out, dataset)
            np.testing.assert_array_equal(out, dataset.read(1, window=window, masked=True).filled(0))


def test_classes_in_two_bytes_are_clamped_as_gdal_does(tmp_path: Path) -> None:
    write(tmp_path / "scl.tif", np.array([[3, 255, 256, 4000]], np.uint16))
    out = np.zeros((1, 4), np.uint8)
    with rasterio.open(tmp_path / "scl.tif") as dataset:
        window = Window(0, 0, 4, 1)
        blocks.read(blocks.layout(dataset, window), window, out, dataset)
    assert out.tolist() == [[3, 255, 255, 255]]


@pytest.mark.parametrize("predictor", [1, 2])
def test_no_flipped_bit_of_a_block_is_read_as_a_pixel(predictor: int, tmp_path: Path) -> None:
    """GDAL reads some of them as other pixels, without an error."""
    path, truth = tmp_path / "b.tif", pixels_of((512, 512))
    write(path, truth, tiled=True, blockxsize=512, blockysize=512, predictor=predictor)
    with rasterio.open(path) as dataset:
        start, size = (int(dataset.get_tag_item(f"BLOCK_{what}_0_0", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
    whole, silent, window = path.read_bytes(), 0, Window(0, 0, 512, 512)
    for bit in np.random.default_rng(1).integers(0, 8 * size, 100):
        content = bytearray(whole)
        content[start + bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        out = np.zeros_like(truth)
        with rasterio.open(path) as dataset:
            try:
                blocks.read(blocks.layout(dataset, window), window, out, dataset)
            except RasterioIOError:
                pass
            else:
                np.testing.assert_array_equal(out, truth)
            silent += misread(dataset, truth)
    assert silent > 0  # or GDAL needs no help any more


def misread(dataset: Any, truth: NDArray[Any]) -> bool:
    try:
        return not np.array_equal(dataset.read(1), truth)
    except RasterioIOError:
        return False


def test_a_scene_with_a_flipped_bit_on_a_server_is_left_out_and_named(
    archive: Callable[..., Path], tmp_path: Path
) -> None:
    area = aoi.parse_area("4.0588,50.7434,4.0664,50.7480")
    (tile,), period = grid.tiles(area), Period(2018, 8, 1)
    folder = archive(dates=4)
    path = served(folder, str(folder.resolve()), tmp_path / "items.json", "")
    scene = search(area.geometry, period, str(path)).scenes[2]
    file = Path(scene.assets["B08"].href)
    damaged = unseen_flip(file)
    with Server(folder) as server:
        name = "/".join(file.parts[-2:])
        address = served(folder, server.base, tmp_path / "far.json", "")
        server.folder = mirror(folder, tmp_path / "mirror", name, damaged)
        far = search(area.geometry, period, str(address)).scenes
        made = pipeline.compose(far, tile.grid, period)
    assert [(missed.scene, missed.band, missed.cause) for missed in made.missed] == [(scene.id, "B08", "damaged")]
    assert "checksum" in made.missed[0].detail
    kept = [item for item in json.loads(path.read_text())["features"] if item["id"] != scene.id]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": kept}))
    without = pipeline.compose(search(area.geometry, period, str(path)).scenes, tile.grid, period)
    np.testing.assert_array_equal(made.dn, without.dn)


def unseen_flip(file: Path) -> bytes:
    """The file with one bit flipped so that GDAL reads other pixels without an error."""
    with rasterio.open(file) as dataset:
        truth = dataset.read(1)
        start, size = (int(dataset.get_tag_item(f"BLOCK_{what}_0_0", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
    whole = file.read_bytes()
    for bit in range(8 * 20, 8 * size, 5):
        content = bytearray(whole)
        content[start + bit // 8] ^= 1 << bit % 8
        with rasterio.MemoryFile(bytes(content)) as memory, memory.open() as dataset:
            if misread(dataset, truth):
                return bytes(content)
    raise AssertionError("every flip was seen")


def mirror(folder: Path, to: Path, name: str, content: bytes) -> Path:
    """A copy of a folder by links, but for one file, named by its end."""
    for file in folder.rglob("*"):
        if file.is_file():
            target = to / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            if str(file).endswith(name):
                target.write_bytes(content)
            else:
                target.symlink_to(file.resolve())
    return to
