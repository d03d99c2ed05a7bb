"""Zarr stores: bytes, order, edges, what other libraries read, and runs that fill them and start from them."""

import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr

from geomap import aoi, files
from geomap.encode import weights
from geomap.encode.card import Q_HIGH, Q_LOW
from geomap.encode.model import EncoderConfig, PixelEncoder
from geomap.errors import InputError, OutputError, ReadError
from geomap.run.map import map_area
from geomap.run.prepare import codec_of
from geomap.run.request import Request
from geomap.sentinel2 import BANDS
from geomap.store import store
from geomap.store.codec import cosines, decode
from geomap.types import Grid, Period, Tile
from tests.support.outputs import problems
from tests.support.requests import request_for, tiles_of
from tests.support.runner import start

PERIOD = Period(2019, 6, 3)
SIDE = 64
WEST, NORTH = 499_980 + 5 * 640, 5_700_000 - 3 * 640  # tiles are counted from the corner of granule 31UES
WHOLE = Tile("whole", Grid(32631, WEST, NORTH, SIDE, SIDE))
RAGGED = Tile("ragged", Grid(32631, WEST + 640, NORTH - 100, 7, 22))
EMPTY = Tile("empty", Grid(32631, WEST, NORTH - 640, SIDE, 10))
TILES = (WHOLE, RAGGED, EMPTY)


def digests(folder: Path) -> dict[str, str]:
    return {str(f): hashlib.sha256((folder / f).read_bytes()).hexdigest() for f in store.store_files(folder)}


def embedded(tile: Tile) -> dict[str, np.ndarray]:
    """Random codes, none where the tile is called empty."""
    rng = np.random.default_rng(len(tile.name))
    code = rng.integers(-127, 128, (12, *tile.grid.shape)).astype(np.int8)
    months = rng.integers(3, 13, tile.grid.shape).astype(np.uint8)
    if tile is EMPTY:
        code[:], months[:] = 0, 255
    return {"embedding": code, "clear_months": months}


@pytest.fixture
def embeddings(tmp_path) -> store.Store:
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(20, 12)))[0].astype(np.float32)
    return store.create(tmp_path / store.EMBEDDINGS, TILES, SIDE, Period(2018, 12), {"weights": {"name": "x"}}, basis)


def test_what_is_written_is_read_whole_tiles_ragged_ones_and_parts(embeddings):
    for tile in TILES:
        embeddings.write(tile, embedded(tile))
    again = store.open_store(embeddings.path, store.EMBEDDINGS)
    assert (again.tiles, again.period, again.about) == (TILES, Period(2018, 12), {"weights": {"name": "x"}})
    np.testing.assert_array_equal(again.basis().T @ again.basis(), embeddings.basis().T @ embeddings.basis())
    for tile in TILES:
        for name, values in embedded(tile).items():
            np.testing.assert_array_equal(again.read(name, tile.grid, tile), values)
    part = Grid(32631, RAGGED.grid.west + 20, RAGGED.grid.north - 50, 3, 4)
    assert again.holding(part) == RAGGED
    values = embedded(RAGGED)["embedding"][:, 5:9, 2:5]
    np.testing.assert_array_equal(again.read("embedding", part, RAGGED), values)
    assert again.holding(Grid(32631, RAGGED.grid.west + 60, RAGGED.grid.north, 2, 2)) is None


def test_bytes_depend_neither_on_order_nor_process_nor_on_a_second_write(embeddings, tmp_path):
    for tile in TILES:
        embeddings.write(tile, embedded(tile))
    other = store.create(
        tmp_path / "b" / store.EMBEDDINGS, TILES, SIDE, Period(2018, 12), embeddings.about, embeddings.basis()
    )
    code = (
        "import sys, numpy as np; from pathlib import Path; from geomap.store import store\n"
        "s = store.open_store(Path(sys.argv[1])); t = s.tiles[1]; f = np.load(sys.argv[2])\n"
        "s.write(t, {k: f[k] for k in f})"
    )
    np.savez(tmp_path / "ragged.npz", **embedded(RAGGED))
    subprocess.run([sys.executable, "-c", code, str(other.path), str(tmp_path / "ragged.npz")], check=True)
    garbage = {name: np.ones_like(values) for name, values in embedded(WHOLE).items()}
    other.write(WHOLE, garbage)  # as a run of other scenes would have left it
    for tile in (EMPTY, WHOLE, WHOLE):
        other.write(tile, embedded(tile))
    assert digests(other.path) == digests(embeddings.path)
    assert all(other.has(tile) for tile in TILES)  # the tile of nothing but nodata too


def test_a_tile_that_was_not_written_or_a_cut_or_changed_shard_is_never_nodata(embeddings):
    embeddings.write(WHOLE, embedded(WHOLE))
    assert not embeddings.has(RAGGED)
    with pytest.raises(ReadError, match="lacks the tile ragged"):
        embeddings.read("embedding", RAGGED.grid, RAGGED)
    shard = next(embeddings.path.glob("embedding/c/0/*/*"))
    content = bytearray(shard.read_bytes())
    for damaged in (content[: len(content) // 2], content[:200] + b"\xff" + content[201:]):
        shard.write_bytes(damaged)
        with pytest.raises(ReadError, match="damaged"):
            embeddings.read("embedding", WHOLE.grid, WHOLE)


def test_other_directories_and_other_stores_are_refused_in_one_line(embeddings, tmp_path):
    for path, kind in ((tmp_path / "nowhere", None), (tmp_path, store.COMPOSITES), (embeddings.path, store.COMPOSITES)):
        with pytest.raises(InputError, match="geomap map AOI --save-"):
            store.open_store(path, kind)
    (embeddings.path.parent / "tiles").mkdir()  # the folder of a run, without the list of its files
    with pytest.raises(InputError, match="is not finished; type the run's command again"):
        store.open_store(embeddings.path)
    (embeddings.path.parent / "tiles").rmdir()
    meta = embeddings.path / "zarr.json"
    for old, new, match in (
        (
            '"format": 3',
            '"format": 1',
            r"another version of geomap \(format 1.*geomap map AOI --save-embeddings --out NEW",
        ),
        ('"side"', '"sides"', "make it again"),
    ):
        text = meta.read_text()
        meta.write_text(text.replace(old, new))
        with pytest.raises(InputError, match=match):
            store.open_store(embeddings.path)
        meta.write_text(text)


def test_xarray_opens_a_store_of_one_zone_by_its_path(embeddings, tmp_path):
    """With names, coordinates, CRS, transform, and no warning of metadata that it misses."""
    import rioxarray  # noqa: F401

    embeddings.write(RAGGED, embedded(RAGGED))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zone = xr.open_zarr(embeddings.path)
    assert zone.attrs["geomap"]["kind"] == "embeddings"
    np.testing.assert_array_equal(zone.basis.values, embeddings.basis())
    assert zone.rio.crs.to_epsg() == zone.embedding.rio.crs.to_epsg() == 32631
    assert zone.embedding.dims == ("component", "y", "x")
    a = zone.embedding.rio.transform()
    assert (a.a, a.e, a.c, a.f) == (10, -10, WEST, NORTH)  # whole tiles, from the granule's corner
    g = RAGGED.grid
    cut = zone.sel(x=slice(g.west, g.east), y=slice(g.north, g.bounds[1]))
    np.testing.assert_array_equal(cut.embedding.values, embedded(RAGGED)["embedding"])
    np.testing.assert_array_equal(cut.clear_months.values, embedded(RAGGED)["clear_months"])
    assert np.isnan(zone.clear_months.values[-1, -1])
    made = store.create(tmp_path / store.COMPOSITES, TILES, SIDE, Period(2018, 12), {})
    dn = np.random.default_rng(1).integers(1, 9000, (12, 10, *RAGGED.grid.shape)).astype(np.uint16)
    made.write(RAGGED, {"composite": dn, "clear": np.full((12, *RAGGED.grid.shape), 3, np.uint8)})
    zone = xr.open_zarr(made.path, mask_and_scale=False)
    cut = zone.sel(x=slice(g.west, g.east), y=slice(g.north, g.bounds[1]))
    band = cut.composite.sel(month="2019-04", band="B8A").squeeze()
    np.testing.assert_array_equal(band.values, dn[4, BANDS.index("B8A")])
    assert cut.composite.rio.crs.to_epsg() == 32631
    assert (cut.clear.values == 3).all()


def test_a_store_of_two_squares_has_a_group_for_each(tmp_path):
    import rioxarray  # noqa: F401

    east = Tile("east", Grid(32632, 399_960 + 640, NORTH, SIDE, SIDE))
    made = store.create(tmp_path / store.COMPOSITES, (RAGGED, east), SIDE, Period(2018, 12), {})
    values = {t: np.full((12, 10, *t.grid.shape), value, np.uint16) for t, value in ((RAGGED, 700), (east, 900))}
    for tile, dn in values.items():
        made.write(tile, {"composite": dn, "clear": np.full((12, *tile.grid.shape), 3, np.uint8)})
    kept = store.open_store(made.path)
    assert [kept.group(square) for square in kept.squares] == ["31UES", "32UMB"]
    for tile, dn in values.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            zone = xr.open_zarr(made.path, group=store.square_of(tile.grid), mask_and_scale=False)
        assert zone.rio.crs.to_epsg() == tile.grid.epsg
        g = tile.grid
        cut = zone.sel(x=slice(g.west, g.east), y=slice(g.north, g.bounds[1]))
        np.testing.assert_array_equal(cut.composite.values, dn)
        np.testing.assert_array_equal(kept.read("composite", g, tile), dn)
    assert not xr.open_zarr(made.path).data_vars  # what the zones share: attributes alone


def test_metadata_of_equal_stores_are_equal_bytes(embeddings, tmp_path):
    other = store.create(
        tmp_path / "b" / store.EMBEDDINGS, TILES, SIDE, Period(2018, 12), embeddings.about, embeddings.basis()
    )
    assert digests(other.path) == digests(embeddings.path)
    assert embeddings.group("31UES") is None


@pytest.mark.skipif(
    tuple(int(n) for n in rasterio.__gdal_version__.split(".")[:2]) < (3, 13), reason="GDAL reads shards from 3.13 on"
)
def test_gdal_reads_crs_transform_and_pixels(embeddings):
    embeddings.write(WHOLE, embedded(WHOLE))
    with rasterio.open(f'ZARR:"{embeddings.path}":/embedding') as source:
        assert source.crs.to_epsg() == 32631
        assert (source.transform.c, source.transform.f) == (57 * 640, 100 * 640)
        np.testing.assert_array_equal(source.read()[:, :SIDE, :SIDE], embedded(WHOLE)["embedding"])


def test_codes_keep_cosines_and_their_own_pixel(untrained):
    encoder = weights.load_weights(untrained).encoder
    codec = codec_of(encoder)
    assert codec.size == 32  # as many as the encoder is wide
    np.testing.assert_allclose(codec.basis.T @ codec.basis, np.eye(32), atol=1e-5)
    torch.manual_seed(0)
    with torch.inference_mode():
        dn = torch.randint(1, 6000, (500, 12, 10))
        plain = encoder(dn, torch.rand(500, 12) > 0.3, torch.arange(12))
    other = torch.nn.functional.normalize(torch.randn(7, 384), dim=1)
    there = torch.from_numpy(codec.basis)
    torch.testing.assert_close(plain @ there @ there.T, plain, atol=1e-5, rtol=0)  # nothing lies outside
    kept = codec.encode(plain)
    assert kept.dtype == torch.int8
    assert (kept.abs().amax(dim=1) == 127).all()  # never all 0, which is no data
    torch.testing.assert_close(decode(kept) @ codec.project(other).T, plain @ other.T, atol=0.01, rtol=0)
    assert cosines(kept, kept[3])[3] == 1
    assert cosines(torch.zeros(1, 32), kept[3]).isnan().all()


@pytest.mark.parametrize("patch", [1, 5])
def test_an_encoder_of_more_directions_keeps_the_128_strongest(patch):
    torch.manual_seed(1)
    encoder = PixelEncoder(
        EncoderConfig(dim=160, depth=1, heads=2, mlp=8, out=200, patch=patch),
        torch.tensor(Q_LOW),
        torch.tensor(Q_HIGH),
    ).eval()
    codec = codec_of(encoder)
    assert codec.basis.shape == (200, 128)
    np.testing.assert_allclose(codec.basis.T @ codec.basis, np.eye(128), atol=1e-5)
    np.testing.assert_array_equal(codec.basis, codec_of(encoder).basis)


@pytest.fixture
def asking(archive, asking) -> Callable[..., Request]:
    """Two maps of three months, unless changed."""
    items = archive() / "items.json"
    return functools.partial(asking, items, period=PERIOD, legends=("landcover", "crops"), min_clear_months=3)


@pytest.fixture
def small_tiles() -> Iterator[None]:
    """Tiles of 64 pixels: the patch becomes several, cut at its edges."""
    with tiles_of(64):
        yield


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as m:
        return m.read(1)


def test_maps_from_saved_composites_are_those_of_the_run_that_saved_them(asking, tmp_path, small_tiles):
    result = map_area(asking(save_composites=True), tmp_path / "one")
    assert problems(tmp_path / "one") == ()
    assert "composites.zarr/composite/zarr.json" in (tmp_path / "one/SHA256SUMS").read_text()
    assert not list((tmp_path / "one/tiles").glob("*.zarr"))
    map_area(asking(composites=tmp_path / "one"), tmp_path / "two")
    for path in result.paths:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    kept = store.open_store(tmp_path / "one", store.COMPOSITES)
    tile = kept.tiles[len(kept.tiles) // 2]
    clear = kept.read("clear", tile.grid, tile)
    valid = (kept.read("composite", tile.grid, tile) > 0).all(axis=1)
    assert valid.any()
    assert not (valid & (clear == 0)).any()
    asked = json.loads((tmp_path / "two/run.json").read_text())["request"]
    assert len(asked["composites"]) == 64
    # a part of the area will do; more, or another period, will not
    part = aoi.parse_area("4.0600,50.7440,4.0630,50.7460")
    map_area(asking(composites=tmp_path / "one", area=part), tmp_path / "part")
    assert pixels(tmp_path / "part/landcover.tif").any()
    more = aoi.parse_area("4.0585,50.7431,4.0676,50.7600")
    for changed in ({"area": more}, {"period": Period(2019, 7, 3)}):
        with pytest.raises(InputError, match=r"composites\.zarr (does not cover|is of 2019-06_2019-08)"):
            map_area(asking(composites=tmp_path / "one", **changed), tmp_path / "not")
    assert not (tmp_path / "not").exists()


def test_saving_changes_no_map_and_is_part_of_the_request(asking, tmp_path):
    plain = map_area(asking(), tmp_path / "plain")
    map_area(asking(save_embeddings=True), tmp_path / "kept")
    for path in plain.paths:
        assert path.read_bytes() == (tmp_path / "kept" / path.name).read_bytes()
    with pytest.raises(OutputError, match="differs in: save"):
        map_area(asking(save_embeddings=True), tmp_path / "plain")
    # a lost shard of a finished run is noticed, and made again to the same bytes
    before = digests(tmp_path / "kept/embeddings.zarr")
    next((tmp_path / "kept/embeddings.zarr/embedding").glob("c/0/*/*")).unlink()
    map_area(asking(save_embeddings=True), tmp_path / "kept")
    assert digests(tmp_path / "kept/embeddings.zarr") == before
    assert problems(tmp_path / "kept") == ()


KILLED = """
import sys
from pathlib import Path
from geomap.run.map import map_area
from geomap.types import Period
from tests.support.requests import request_for, tiles_of

items, weights, out = sys.argv[1:]
with tiles_of(64):
    request = request_for(items, weights, period=Period(2019, 4, 2), save_composites=True, save_embeddings=True)
    map_area(request, Path(out))
"""


def test_a_run_killed_while_it_fills_its_stores_resumes_to_the_same_bytes(archive, untrained, tmp_path):
    given = (archive() / "items.json", untrained)
    out = tmp_path / "killed"
    process = start(KILLED, *given, out)
    while len(list(out.glob("tiles/embeddings.zarr/embedding/c/0/*/*"))) < 2:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert {p.name for p in out.iterdir()} == {files.STATE}
    finished = len(list(out.glob("tiles/*.npz")))
    shard = max(out.glob("tiles/embeddings.zarr/embedding/c/0/*/*"), key=os.path.getmtime)
    (shard.parent / f"{shard.name}.0123.partial").write_bytes(b"torn")  # what zarr leaves when killed in a write
    with tiles_of(64):
        request = request_for(*given, period=Period(2019, 4, 2), save_composites=True, save_embeddings=True)
        assert map_area(request, out).resumed == finished
        map_area(request, tmp_path / "whole")
    for name in (store.EMBEDDINGS, store.COMPOSITES):
        assert digests(out / name) == digests(tmp_path / "whole" / name)
    assert (out / files.SUMS).read_bytes() == (tmp_path / "whole" / files.SUMS).read_bytes()
    assert not list(out.rglob("*.partial"))
