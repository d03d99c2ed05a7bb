"""Reads that fail, over real HTTP on loopback: what is waited for, what is left out, what stops a run."""

import gc
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from geomap import aoi, grid, pipeline
from geomap.catalog.search import search
from geomap.errors import DamagedError, ReadError, SourceUnavailableError
from geomap.read import reader
from geomap.read import stack as read
from geomap.read.access import Access
from geomap.read.stack import scene_classes, stack
from geomap.run import tile_file
from geomap.sentinel2 import BANDS, SCL
from geomap.sources import retry_after
from geomap.sources.providers import PROVIDERS
from geomap.types import Composite, Dark, Grid, Missed, Period, Scene, SceneAsset
from tests.support.archive import served, write_items
from tests.support.runner import geomap, refused
from tests.support.server import Answer, Server

AREA = aoi.parse_area("4.0588,50.7434,4.0664,50.7480")
"""Inside the patch."""
PERIOD = Period(2018, 8, 1)
DATES = 4
"""Scenes of August 2018: the first and the third are clear, wholly or in part."""

Archive = Callable[..., Path]


PAGE = Answer(body=b"<html>Down for maintenance</html>")


@pytest.fixture
def server(archive: Archive) -> Iterator[Server]:
    with Server(archive(dates=DATES)) as served:
        yield served


@pytest.fixture(scope="module")
def healthy(archive: Archive) -> Composite:
    """From local files."""
    return compose(found(archive, None))


@pytest.fixture(scope="module")
def without_third(archive: Archive) -> Composite:
    """From local files, of items without the third."""
    return compose(found(archive, None, without=2))


def found(archive: Archive, base: str | None, without: int | None = None, query: str = "") -> tuple[Scene, ...]:
    """The archive's scenes, over HTTP where `base` is given."""
    folder = archive(dates=DATES)
    path = served(folder, base or str(folder.resolve()), folder / "changed.json", query)
    kept = [item for i, item in enumerate(json.loads(path.read_text())["features"]) if i != without]
    write_items(kept, path)
    return search(AREA.geometry, PERIOD, str(path)).scenes


def compose(scenes: tuple[Scene, ...], **options: Any) -> Composite:
    (tile,) = grid.tiles(AREA)
    return pipeline.compose(scenes, tile.grid, PERIOD, **options)


def assert_equal(one: Composite, other: Composite) -> None:
    np.testing.assert_array_equal(one.dn, other.dn)
    np.testing.assert_array_equal(one.clear, other.clear)
    assert one.dark == other.dark


def place(scene: Scene, band: str) -> str:
    """The end of the address of a band."""
    return "/".join(scene.assets[band].href.partition("?")[0].rsplit("/", 2)[-2:])


# --- a server that refuses


def test_no_request_comes_before_the_time_in_retry_after(archive: Archive, server: Server, healthy: Composite) -> None:
    """Nor does a read of another file begin: the one thread that reads waits."""
    scenes = found(archive, server.base)
    end = place(scenes[2], "B04")
    refusal = Answer(429, {"Retry-After": "2"}, b"slow down")
    server.script[end] = [refusal]
    made = compose(scenes)
    first, *rest = server.times(end)
    assert rest
    assert min(rest) - first >= 2
    assert_equal(made, healthy)
    assert made.missed == ()


def test_reading_leaves_the_log_of_rasterio_as_a_notebook_has_set_it(
    archive: Archive, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """GDAL's debug messages, headers of every response, are read from that log, and shown to nobody."""
    log = logging.getLogger("rasterio._env")
    before = log.level, list(log.filters)
    scenes = found(archive, server.base, query="?sig=secret-token")
    server.script["scl.tif"] = [Answer(503, {"Retry-After": "0"}, b"")] * 6
    with caplog.at_level(logging.INFO, "rasterio"):
        compose(scenes)
    assert (log.level, log.filters) == before
    told = [record.getMessage() for record in caplog.records if record.name.startswith("rasterio")]
    assert any("503" in text for text in told)  # GDAL's own warnings of a retry
    assert not any("secret-token" in text or "HEADER_IN" in text for text in told)
    assert all(record.levelno >= logging.INFO for record in caplog.records if record.name.startswith("rasterio"))


def test_a_host_that_asks_for_time_gets_it_from_every_read(archive: Archive, server: Server) -> None:
    scene = found(archive, server.base)[0]
    (tile,) = grid.tiles(AREA)
    server.script["scl.tif"] = [Answer(503, {"Retry-After": "1"}, b"")]
    scene_classes([scene], tile.grid, Access()).compute(scheduler="sync")
    refused, again = server.times("scl.tif")[:2]
    assert again - refused >= 1
    retry_after._hold[server.base.removeprefix("http://")] = time.monotonic() + 0.5
    start = time.monotonic()
    other = found(archive, server.base)[1]
    scene_classes([other], tile.grid, Access()).compute(scheduler="sync")
    assert server.times(place(other, SCL))[0] - start >= 0.5


@pytest.mark.parametrize(
    ("said", "low", "high"),
    [
        ("120", 120, 120),
        ("0", 0, 0),
        ("Wed, 01 Jan 2014 00:00:00 GMT", 0, 0),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 1e9, 1e10),
        ("soon", 0, 0),
        ("-5", 0, 0),
    ],
)
def test_what_retry_after_says(said: str, low: float, high: float) -> None:
    assert low <= retry_after.seconds(said) <= high


@pytest.mark.parametrize(("status", "times"), [(503, 2), (429, 2), (500, 2), (503, 6)])  # GDAL itself asks four times
def test_a_server_that_comes_back_leaves_no_trace(
    archive: Archive, server: Server, healthy: Composite, status: int, times: int
) -> None:
    scenes = found(archive, server.base)
    for band in ("B02", "B11", SCL) if times == 2 else ("B02",):
        server.script[place(scenes[0], band)] = [Answer(status, body=b"")] * times
    made = compose(scenes)
    assert_equal(made, healthy)
    assert made.missed == ()
    assert not any(server.script.values())


def test_a_server_that_never_answers_well_is_given_up_at_the_deadline(archive: Archive, server: Server) -> None:
    """Not when it says: that would be longer than a test may take."""
    scenes = found(archive, server.base, query="?sig=secret-token")
    server.always[".tif"] = Answer(503, {"Retry-After": "86400"}, b"")
    with pytest.raises(SourceUnavailableError, match=r"scl\.tif cannot be read now \(HTTP 503\).*tried for 1 s") as e:
        compose(scenes, deadline=1)
    assert e.value.exit_code == 75
    assert "secret-token" not in str(e.value)


def test_a_read_that_nobody_waits_for_any_more_ends_long_before_its_deadline(archive: Archive, server: Server) -> None:
    scene = found(archive, server.base)[0]
    (tile,) = grid.tiles(AREA)
    server.always[".tif"] = Answer(503, {"Retry-After": "86400"}, b"")
    access = Access(deadline=86_400)
    refused = server.answer

    def answer(path: str, query: str) -> Answer:
        access.stopped.set()
        return refused(path, query)

    server.answer = answer  # type: ignore[method-assign]
    with pytest.raises(SourceUnavailableError, match=r"HTTP 503.*tried for 86400 s"):
        scene_classes([scene], tile.grid, access).compute(scheduler="sync")


def test_a_refused_connection_is_temporary_and_not_a_missing_file(archive: Archive, healthy: Composite) -> None:
    """GDAL keeps the refusal and would say "does not exist" from then on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    scenes = found(archive, f"http://127.0.0.1:{port}")
    for _ in range(2):
        with pytest.raises(SourceUnavailableError, match="run the same command again later"):
            compose(scenes, deadline=0.2)
    late: list[Server] = []
    threading.Timer(0.5, lambda: late.append(Server(archive(dates=DATES), port=port))).start()
    made = compose(scenes, deadline=60)
    assert_equal(made, healthy)
    assert made.missed == ()
    late[0].close()


# --- a server that wants another token


def test_a_refused_token_is_replaced_once(
    archive: Archive, server: Server, healthy: Composite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service signs each address with a token that the server knows no more, and the collection with a good one."""
    scenes = found(archive, server.base)
    server.token = "sig=good-token"
    server.sign = lambda path: "sig=stale-token" if path.startswith("/sign") else "sig=good-token"
    options = dict(PROVIDERS["planetary-computer"].gdal_options) | {
        "VSICURL_PC_SAS_SIGN_HREF_URL": f"{server.base}/sign?href=",
        "VSICURL_PC_SAS_TOKEN_URL": f"{server.base}/token/",
    }
    monkeypatch.setattr(pipeline, "gdal_options", lambda scenes: options)  # the host is not the provider's
    made = compose(scenes)
    assert_equal(made, healthy)
    assert len([path for path in server.paths() if path.startswith("/token/sentinel-2-l2a")]) == 1

    server.token = "sig=of-tomorrow"
    server.seen.clear()
    end = place(scenes[0], SCL)
    with pytest.raises(ReadError, match=r"may not be read \(HTTP 403\)") as e:
        compose(scenes)
    assert not isinstance(e.value, DamagedError)
    assert "token=" not in str(e.value)
    assert "sig=" not in str(e.value)
    assert len(server.times(end)) <= 4  # each of two tries asks twice


def test_what_may_not_be_read_is_no_missing_observation(archive: Archive, server: Server) -> None:
    scenes = found(archive, server.base)
    server.always[place(scenes[2], "B12")] = Answer(403, body=b"")
    with pytest.raises(ReadError, match=r"swir22\.tif may not be read \(HTTP 403\)"):
        compose(scenes, max_missed=1)


def test_an_address_with_an_old_signature_says_to_sign_the_items_anew(archive: Archive, server: Server) -> None:
    scenes = found(archive, server.base, query="?se=2020&sig=of-yesterday")
    server.token = "se=2999&sig=of-today"
    with pytest.raises(ReadError, match="sign the items anew and run the same command again") as e:
        compose(scenes)
    assert "environment" not in str(e.value)
    assert "yesterday" not in str(e.value)


# --- a file that is missing or damaged


def flipped(file: Path) -> Answer:
    """One bit of its pixels is another."""
    content = bytearray(file.read_bytes())
    with rasterio.open(file) as dataset:
        content[int(dataset.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1)) + 50] ^= 0x10
    return Answer(body=bytes(content))


FAULTS: dict[str, Callable[[Path], Answer]] = {
    "404": lambda file: Answer(404, body=b"not here"),
    "truncated": lambda file: Answer(body=file.read_bytes()[: file.stat().st_size // 2]),
    "only a header": lambda file: Answer(body=b"II*\x00" + bytes(200)),
    "empty": lambda file: Answer(body=b""),
    "flipped bit": flipped,
    "html page": lambda file: PAGE,
    "wrong length": lambda file: Answer(head=0.6),
}


@pytest.mark.parametrize("band", [SCL, "B04"])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_observation_at_fault_is_left_out_as_if_it_were_not_there(
    archive: Archive, server: Server, healthy: Composite, without_third: Composite, fault: str, band: str
) -> None:
    scenes = found(archive, server.base)
    bad = scenes[2]
    end = place(bad, band)
    server.always[end] = FAULTS[fault](archive(dates=DATES) / "cogs" / end)
    made = compose(scenes)
    (missed,) = made.missed
    assert (missed.scene, missed.band) == (bad.id, band)
    assert missed.cause == ("missing" if fault == "404" else "damaged")
    assert "127.0.0.1" not in missed.detail
    assert str(archive(dates=DATES)) not in missed.detail
    assert_equal(made, without_third)
    assert (made.dn != healthy.dn).any()


JPEG_2000 = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
LZW = {"driver": "GTiff", "compress": "lzw", "tiled": True}


def written(path: Path, values: np.ndarray[Any, Any], creation: dict[str, Any]) -> tuple[Scene, Grid]:
    """A scene whose bands are all one file, written here, and the grid of that file."""
    profile = {"count": 1, "dtype": "uint16", "width": 512, "height": 512, "crs": "EPSG:32631"}
    lies = rasterio.transform.from_origin(600000, 5500000, 10, 10)
    with rasterio.open(path, "w", **profile, transform=lies, **creation, blockxsize=256, blockysize=256) as out:
        out.write(values, 1)
    assets = {band: SceneAsset(band, str(path), 0, "as it is") for band in BANDS}
    box = (4.3, 49.5, 4.5, 49.7)
    scene = Scene("made", "c", "cdse", PERIOD.start, "sentinel-2a", "pass", 32631, box, assets)
    return scene, Grid(32631, 600000, 5500000, 512, 512)


def blue(scene: Scene, tile: Grid, access: Access) -> Any:
    return stack([scene], tile, PERIOD, access, np.ones((1, 256, 256), bool)).fine.dn[0, 0].compute()


BROKEN = {
    "connection closed": Answer(sent=0.6),
    "no answer": Answer(none=True),
    "half a range": Answer(part=0.5),
    "half a range, as it says": Answer(part=0.5, told=True),
}


@pytest.mark.parametrize("band", [SCL, "B04"])
@pytest.mark.parametrize("how", BROKEN)
def test_a_transfer_that_breaks_off_is_tried_again_and_no_damage(
    archive: Archive, server: Server, healthy: Composite, how: str, band: str
) -> None:
    """However often: here more often than a damaged file is looked at."""
    scenes = found(archive, server.base)
    end = place(scenes[2], band)
    gets = 2 if BROKEN[how].none else 1  # then curl asks again by itself
    server.script[end] = 3 * [Answer(), *gets * [BROKEN[how]]]  # each HEAD is whole
    made = compose(scenes)
    assert not server.script[end]
    assert made.missed == ()
    assert_equal(made, healthy)
    server.always[end] = BROKEN[how]
    with pytest.raises(
        SourceUnavailableError, match=r"\((the transfer broke off|.*Empty reply).*tried for 0\.5 s"
    ) as e:
        compose(scenes, deadline=0.5)
    assert e.value.exit_code == 75


@pytest.mark.parametrize("name", ["B02.jp2", "B02.tif"])
def test_a_transfer_of_pixels_without_checksums_that_breaks_off_is_no_damage(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).integers(1, 3000, (512, 512)).astype(np.uint16)
    scene, tile = written(tmp_path / name, values, LZW if name.endswith("tif") else JPEG_2000)
    with Server(tmp_path) as server:
        assets = {band: SceneAsset(band, f"{server.base}/{name}", 0, "as it is") for band in BANDS}
        far = replace(scene, assets=assets)
        server.script[name] = [Answer(), Answer(), *[Answer(sent=0.5)] * 2]  # HEAD and the header are whole
        np.testing.assert_array_equal(blue(far, tile, Access()), values)
        assert not server.script[name]
        server.always[name] = Answer(sent=0.9)
        faults: dict[str, DamagedError] = {}
        with pytest.raises(SourceUnavailableError, match="the transfer broke off"):
            blue(far, tile, Access(deadline=0.1, faults=faults))
        assert not faults


def test_a_file_whose_server_states_too_many_bytes_is_given_up_at_the_deadline(
    archive: Archive, server: Server
) -> None:
    scenes = found(archive, server.base)
    end = place(scenes[2], "B04")
    content = (archive(dates=DATES) / "cogs" / end).read_bytes()
    server.always[end] = Answer(body=content[: len(content) // 2], head=2)
    with pytest.raises(
        SourceUnavailableError, match=r"the transfer broke off.*again later, or --exclude its scene .*tried for 0\.5 s"
    ):
        compose(scenes, deadline=0.5)


@pytest.mark.parametrize("size", range(300, 800, 50))
def test_a_header_that_is_cut_anywhere_is_damaged_or_read_again(
    archive: Archive, server: Server, healthy: Composite, without_third: Composite, size: int
) -> None:
    """GDAL only warns of parts of a header that it cannot read: the file would lie nowhere, or its nodata be pixels."""
    scenes = found(archive, server.base)
    end = place(scenes[2], SCL)
    whole = (archive(dates=DATES) / "cogs" / end).read_bytes()
    server.script[end] = [Answer(), Answer(sent=size / len(whole))]
    made = compose(scenes)
    assert made.missed == ()
    assert_equal(made, healthy)
    server.always[end] = Answer(body=whole[:size])
    made = compose(scenes)
    assert [(m.scene, m.band, m.cause) for m in made.missed] == [(scenes[2].id, SCL, "damaged")]
    assert_equal(made, without_third)


def test_a_server_that_sends_hardly_a_byte_is_a_temporary_failure_and_no_damage(
    archive: Archive, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(read.GDAL_OPTIONS, "GDAL_HTTP_LOW_SPEED_TIME", 2)
    monkeypatch.setattr(reader, "STALLED", 2)
    scenes = found(archive, server.base)
    server.always[place(scenes[2], "B04")] = Answer(rate=50)
    with pytest.raises(SourceUnavailableError, match="sends too slowly") as e:
        compose(scenes, deadline=0.1)
    assert e.value.exit_code == 75


def test_a_slow_file_that_goes_on_is_healthy(
    archive: Archive, server: Server, healthy: Composite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(read.GDAL_OPTIONS, "GDAL_HTTP_LOW_SPEED_TIME", 1)
    scenes = found(archive, server.base)
    server.always[place(scenes[2], "B04")] = Answer(rate=4000)
    made = compose(scenes, deadline=0.1)
    assert made.missed == ()
    assert_equal(made, healthy)


@pytest.mark.soak
def test_a_file_that_takes_more_than_a_minute_is_healthy(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1, 60_000, (256, 256)).astype(np.uint16)
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint16", "width": 256, "height": 256, "crs": "EPSG:32631"}
    lies = rasterio.transform.from_origin(600000, 5500000, 10, 10)
    with rasterio.open(tmp_path / "B02.tif", "w", **profile, transform=lies, blockysize=256) as out:
        out.write(values, 1)
    tile = Grid(32631, 600000, 5500000, 256, 256)
    with Server(tmp_path) as server:
        server.always["B02.tif"] = Answer(rate=1500)
        assets = {band: SceneAsset(band, f"{server.base}/B02.tif", 0, "as it is") for band in BANDS}
        scene = Scene("made", "c", "cdse", PERIOD.start, "s2a", "pass", 32631, (4.3, 49.5, 4.5, 49.7), assets)
        start = time.monotonic()
        clear = np.ones((1, 128, 128), bool)
        made = stack([scene], tile, PERIOD, Access(deadline=1), clear).fine.dn[0, 0].compute()
    assert time.monotonic() - start > 65
    np.testing.assert_array_equal(made, values)


@pytest.mark.parametrize(
    ("name", "creation", "cut"),
    [("B02.jp2", JPEG_2000, 0.99), ("B02.jp2", JPEG_2000, 0.7), ("B02.jp2", JPEG_2000, 0.3), ("B02.tif", LZW, 0.7)],
)
def test_what_is_cut_is_no_nodata(
    tmp_path: Path, name: str, creation: dict[str, Any], cut: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL decodes JPEG 2000 in threads of its own unless told not to, and loses their errors: zeros would come back.

    A user's variable has it read damaged blocks of GeoTIFFs as zeros.
    """
    monkeypatch.setenv("GTIFF_IGNORE_READ_ERRORS", "YES")
    values = np.random.default_rng(0).integers(1, 3000, (512, 512)).astype(np.uint16)
    path = tmp_path / name
    scene, tile = written(path, values, creation)
    np.testing.assert_array_equal(blue(scene, tile, Access()), values)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    with pytest.raises(DamagedError, match=rf"{name} cannot be read"):
        blue(scene, tile, Access())
    faults: dict[str, DamagedError] = {}
    assert not blue(scene, tile, Access(faults=faults)).any()
    assert list(faults) == [str(path)]


def test_a_local_file_that_is_gone_is_left_out_and_its_folder_is_not_told(archive: Archive, tmp_path: Path) -> None:
    scenes = found(archive, str(tmp_path))
    (tmp_path / "cogs").symlink_to(archive(dates=DATES) / "cogs")
    copy = tmp_path / "copy"
    copy.mkdir()
    first = scenes[0]
    lost = {band: SceneAsset(band, str(copy / f"{band}.tif"), a.offset, a.reason) for band, a in first.assets.items()}
    scenes = (Scene(**{**{f: getattr(first, f) for f in first.__slots__}, "assets": lost}), *scenes[1:])
    made = compose(scenes)
    (missed,) = made.missed
    assert (missed.scene, missed.band, missed.cause) == (first.id, SCL, "missing")
    assert str(tmp_path) not in missed.detail
    assert_equal(made, compose(found(archive, None, without=0)))


def test_more_than_may_be_missed_stops_the_tile_and_names_the_scenes(archive: Archive, server: Server) -> None:
    scenes = found(archive, server.base)
    for scene, band in ((scenes[0], "B04"), (scenes[2], "B8A")):
        server.always[place(scene, band)] = PAGE
    names = f"{scenes[0].id}, {scenes[2].id}"
    with pytest.raises(ReadError, match=rf"2 of 4 scenes .* 1 may be missed \(--max-missed 10\): {names}; the first: "):
        compose(scenes)
    assert [m.band for m in compose(scenes, max_missed=0.5).missed] == ["B04", "B8A"]
    del server.always[place(scenes[2], "B8A")]
    assert len(compose(scenes).missed) == 1
    with pytest.raises(ReadError, match=rf"0 may be missed .*: {scenes[0].id}; "):
        compose(scenes, max_missed=0)
    server.always = {".tif": Answer(404, body=b"")}
    with pytest.raises(ReadError, match="4 of 4 scenes"):
        compose(scenes, max_missed=1)


# --- what a run tells


def test_a_finished_tile_remembers_what_it_missed(tmp_path: Path) -> None:
    reused = tile_file.Reused(("2023-04",), 5, 6)
    missed = (Missed("b", "B04", "missing", "HTTP 404"),)
    about = tile_file.About({"a": Dark(4, 2)}, missed, {"encode": 0.25}, reused, "print")
    (tmp_path / "tile.npz").write_bytes(tile_file.encode(tile_file.pack({}), about))
    assert tile_file.read_about(tmp_path / "tile.npz") == about


def test_threads_read_layers_while_python_code_runs_on_garbage_collection(tmp_path: Path) -> None:
    """As dask's callback does. CPython 3.11 raised SystemError out of numpy (tile_file._HEADERS)."""
    path, pixels = tmp_path / "tile.npz", np.arange(20, dtype=np.uint8).reshape(4, 5)
    path.write_bytes(tile_file.encode(tile_file.pack({"a": pixels, "b": pixels.T}), tile_file.About()))
    often, generations = sys.getswitchinterval(), gc.get_threshold()
    gc.callbacks.append(pause := lambda *_: time.sleep(0))
    try:
        sys.setswitchinterval(1e-6)
        gc.set_threshold(5)
        with ThreadPoolExecutor(4) as pool:
            read = list(pool.map(lambda _: tile_file.read_layers(path), range(2000)))
    finally:
        sys.setswitchinterval(often)
        gc.set_threshold(*generations)
        gc.callbacks.remove(pause)
    assert all((r["a"] == pixels).all() and (r["b"] == pixels.T).all() for r in read)


def test_run_json_the_item_and_explain_name_what_was_missed(
    archive: Archive, server: Server, untrained: str, tmp_path: Path
) -> None:
    scenes = found(archive, server.base)
    server.always[place(scenes[2], "B11")] = PAGE
    items = archive(dates=DATES) / "changed.json"
    area = ",".join(map(str, AREA.geometry.bounds))
    command = ["map", area, "--start", "2018-08", "--months", "1", "--stac", str(items), "--weights", untrained]
    command += ["--min-clear-months", "1", "--out", str(tmp_path / "out")]
    done = geomap(*command)
    assert done.exit_code == 0, done.stderr
    assert "warning: 1 scene is left out of some tile, missing or damaged" in done.stderr
    assert "to read them again choose another --out (a job: --refresh)" in done.stderr
    run = json.loads((tmp_path / "out/run.json").read_text())
    (missed,) = run["missed"]
    assert missed | {"detail": ""} == {
        "scene": scenes[2].id,
        "band": "B11",
        "cause": "damaged",
        "detail": "",
        "tiles": run["tiles"],
    }
    (item,) = (tmp_path / "out/stac").glob("geomap-*.json")
    assert json.loads(item.read_text())["properties"]["geomap:scenes_missed"] == 1
    told = geomap("explain", tmp_path / "out")
    assert "missing or damaged: 1 scenes" in told.stdout
    assert scenes[2].id in told.stdout
    refused(geomap(*command[:-1], tmp_path / "other", "--max-missed", "0"), 1, scenes[2].id)
    assert not list(tmp_path.glob("other/*.tif"))
