"""Files of a few hundred bytes that declare gigabytes: nothing is unpacked, and the scene is left out."""

import resource
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from geomap.catalog.search import search
from geomap.errors import DamagedError
from geomap.read.access import GDAL_OPTIONS, MOST_BYTES, opened
from geomap.run import plan
from geomap.sentinel2 import SCL
from geomap.types import Grid, Scene
from tests.read.test_faults import AREA, PERIOD, Archive

WHERE: dict[str, Any] = {"crs": "EPSG:32631", "transform": rasterio.Affine(20, 0, 574680, 0, -20, 5622440)}
SIDE = 40_000
GRID = Grid(32631, 574680, 5622440, 100, 100, 80)


def declared(path: Path, compress: str, side: int = SIDE, block: int = SIDE) -> Path:
    """A GeoTIFF with one block of a side, of which nothing is stored."""
    how = {"compress": compress, "blockysize": block, "SPARSE_OK": True}
    with rasterio.open(path, "w", "GTiff", side, side, 1, dtype="uint16", **WHERE, **how):
        pass
    return path


def overviews(path: Path) -> Path:
    """A GeoTIFF with small blocks, whose overview has one block of 450 MB: two files, joined by a link."""
    large = declared(path.with_name("large.tif"), "lzw", 15_000, 15_000).read_bytes()
    with rasterio.open(path, "w", "GTiff", 30_000, 30_000, 1, dtype="uint16", tiled=True, SPARSE_OK=True, **WHERE):
        pass
    content = bytearray(path.read_bytes())
    content += bytes(len(content) % 2)
    shift = len(content)
    content += large
    (directory,) = struct.unpack_from("<I", large, 4)
    (count,) = struct.unpack_from("<H", large, directory)
    entries = [struct.pack("<HHII", 254, 4, 1, 1)]  # NewSubfileType: an overview
    for at in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind, number, value = struct.unpack_from("<HHII", large, at)
        outside = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 12: 8}[kind] * number > 4  # the value is a place in the file
        entries.append(struct.pack("<HHII", tag, kind, number, value + shift * outside))
    (first,) = struct.unpack_from("<I", content, 4)
    (before,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * before, len(content) + len(content) % 2)
    content += bytes(len(content) % 2) + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    path.write_bytes(content)
    return path


def scene(archive: Archive, path: Path) -> Scene:
    """A scene whose SCL is a file."""
    first = search(AREA.geometry, PERIOD, str(archive(dates=2) / "items.json")).scenes[0]
    return replace(first, assets={SCL: replace(first.assets[SCL], href=str(path))})


@pytest.mark.parametrize("compress", ["deflate", "lzw", "zstd"])
def test_a_block_of_gigabytes_is_not_unpacked(archive: Archive, tmp_path: Path, compress: str) -> None:
    path = declared(tmp_path / "scl.tif", compress)
    assert path.stat().st_size < 1000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamagedError, match=r"scl\.tif is not opened \(its blocks of 40000 x 40000 pixels"):
        plan.clear_sky(scene(archive, path), GRID)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_the_largest_block_of_a_granule_is_read(tmp_path: Path) -> None:
    path = declared(tmp_path / "b.tif", "lzw", 10_980, 10_980)
    assert MOST_BYTES > 2 * 10_980**2
    with rasterio.Env(**GDAL_OPTIONS), opened(str(path), str(path)) as dataset:
        assert dataset.block_shapes == [(10_980, 10_980)]


def test_an_overview_of_gigabytes_is_not_unpacked(archive: Archive, tmp_path: Path) -> None:
    path = overviews(tmp_path / "scl.tif")
    with rasterio.open(path) as dataset:
        assert dataset.overviews(1)
    with pytest.raises(DamagedError, match=r"its blocks of 15000 x 15000 pixels have over 256 MB"):
        plan.clear_sky(scene(archive, path), GRID)


def test_a_jpeg_2000_of_gigabytes_ends_in_an_error(tmp_path: Path) -> None:
    """GDAL reads parts of large tiles; what is declared and not there is an error within bounded memory."""
    path = tmp_path / "a.jp2"
    how = {"QUALITY": "100", "REVERSIBLE": "YES", "BLOCKXSIZE": 1024, "BLOCKYSIZE": 1024}
    with rasterio.open(path, "w", "JP2OpenJPEG", 1024, 1024, 1, dtype="uint16", **WHERE, **how) as target:
        target.write(np.ones((1, 1024, 1024), np.uint16))
    content = bytearray(path.read_bytes())
    struct.pack_into(">II", content, content.index(b"ihdr") + 4, 60_000, 60_000)
    size = content.index(b"\xff\x51")  # the codestream's SIZ: the image, then its tiles
    struct.pack_into(">II", content, size + 6, 60_000, 60_000)
    struct.pack_into(">II", content, size + 22, 60_000, 60_000)
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    name = str(path)
    with (
        rasterio.Env(**GDAL_OPTIONS),
        opened(name, name) as dataset,
        pytest.raises(rasterio.errors.RasterioIOError),
    ):
        dataset.read(1, window=Window(0, 0, 64, 64))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # kB
