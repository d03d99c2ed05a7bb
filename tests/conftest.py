"""Fixtures that several test modules use."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from geomap.encode.card import Q_HIGH, Q_LOW, Card
from geomap.errors import install_hint
from geomap.run.request import Request
from geomap.types import Period
from tests.support import REPOSITORY
from tests.support.archive import Series, measured, simulated, write_archive
from tests.support.requests import request_for, tiles_of
from tests.support.stac_items import WORLD, granule, month_of

# The same examples in every run, so that a failure is of the change at hand; `make soak` draws new ones.
settings.register_profile("geomap", deadline=None, derandomize=True)
settings.register_profile("fuzz", deadline=None, print_blob=True)
settings.load_profile("geomap")

SHARED = Path(os.environ.get("GEOMAP_SHARED", REPOSITORY.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real Sentinel-2 data and tools that lies beside a developer's checkout."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real Sentinel-2 data at {SHARED} (set GEOMAP_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def series() -> Series:
    """The patch at its 72 dates: measured where `shared` is there, simulated elsewhere."""
    path = SHARED / "data/patch_belgium_2019/series.npz"
    return measured(path) if path.is_file() else simulated()


@pytest.fixture(scope="session")
def archive(series: Series, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes STAC archives of the patch: a folder with items.json, collection.json and cogs/, made once per request.

    archive(provider="earth-search", baseline="02.12", base_url=None, dates=None); providers: earth-search,
    earth-search-c1, planetary-computer, cdse. Hrefs are absolute paths, or start with `base_url`. `dates` keeps the
    first so many of the 72 dates (about 0.2 s each).
    """
    made: dict[tuple[object, ...], Path] = {}

    def make(
        provider: str = "earth-search", baseline: str = "02.12", base_url: str | None = None, dates: int | None = None
    ) -> Path:
        key = (provider, baseline, base_url, dates)
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{provider}_{baseline}")
            made[key] = write_archive(folder, series.first(dates), provider, baseline, base_url)
        return made[key]

    return make


@pytest.fixture(scope="session")
def qgis(shared: Path) -> Callable[[Path], dict[str, Any]]:
    """Open and render a map in real QGIS, without a screen; the picture lies beside the report."""
    script = shared / "tools" / "qgis_render.py"
    if not script.is_file():
        pytest.skip(f"no {script}")
    known = subprocess.run(["/usr/bin/python3", "-c", "import qgis.core"], capture_output=True)
    if known.returncode:
        pytest.skip("QGIS is not installed: apt-get install --no-install-recommends python3-qgis qgis-providers")

    def render(path: Path) -> dict[str, Any]:
        out = path.parent.parent / "rendered"
        out.mkdir(mode=0o700, exist_ok=True)
        env = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "XDG_RUNTIME_DIR": str(out), "HOME": str(out)}
        report = out / f"{path.stem}.json"
        command: list[str | Path] = [
            "/usr/bin/python3",
            script,
            path,
            out / f"{path.stem}.png",
            "--json",
            report,
            "--size",
            "300",
        ]
        subprocess.run(command, env=env, check=True, capture_output=True, timeout=120)
        found: dict[str, Any] = json.loads(report.read_text())
        return found

    return render


@pytest.fixture(scope="session")
def stac_server() -> Iterator[Callable[[Path], str]]:
    """Serves a folder's collection.json and items.json as a real STAC API on loopback; returns its URL."""
    program = Path(sys.executable).with_name("rustac")
    running: dict[Path, tuple[subprocess.Popen[bytes], str]] = {}

    def serve(folder: Path) -> str:
        if not program.exists():
            pytest.skip(f"rustac is not installed; type: {install_hint('rustac')}")
        if folder not in running:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                address = f"127.0.0.1:{probe.getsockname()[1]}"
            command = [
                str(program),
                "serve",
                "-a",
                address,
                *(str(folder / n) for n in ("collection.json", "items.json")),
            ]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            running[folder] = process, f"http://{address}"
            for _ in range(200):
                try:
                    urllib.request.urlopen(f"http://{address}/", timeout=5).close()
                    break
                except urllib.error.URLError:
                    time.sleep(0.05)
            else:
                raise RuntimeError(f"rustac serve {folder} does not answer")
        return running[folder][1]

    yield serve
    for process, _ in running.values():
        process.terminate()
        process.wait()


@pytest.fixture
def find(tmp_path: Path) -> Callable[..., Any]:
    """Searches STAC items by writing them to a file: find(items, area=the world, period=the first item's month)."""
    from geomap.catalog.search import search

    def find(items: list[dict[str, Any]], area: Any = WORLD, period: Any = None, **options: Any) -> Any:
        path = tmp_path / "items.json"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
        return search(area, period or month_of(items[0]), str(path), **options).scenes

    return find


@pytest.fixture
def pc() -> dict[str, Any]:
    """An item of the Planetary Computer, baseline 04.00."""
    return granule("planetary-computer", "24XWR", "2022-06-12T18:29:19.024000Z", "04.00", "b", cloud=30.5)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of tiny untrained weights, with class vectors for every built-in legend: for how, not for how well."""
    import torch

    from geomap import legends
    from geomap.encode import weights
    from geomap.encode.model import EncoderConfig, PixelEncoder
    from geomap.label import towers

    torch.manual_seed(5)
    cfg = EncoderConfig(dim=32, depth=1, heads=2, mlp=32, out=384)
    encoder = PixelEncoder(cfg, torch.tensor(Q_LOW), torch.tensor(Q_HIGH))
    torch.nn.init.normal_(encoder.position)
    vectors = {}
    for found in map(legends.load, legends.builtin_names()):
        count = len(found.classes) or len(found.prompts)
        vectors[found.digest] = torch.nn.functional.normalize(torch.randn(count, cfg.out), dim=1)
    card = Card(
        name="untrained",
        title="for tests",
        version="0",
        licence="none",
        encoder=weights.card_fields(cfg),
        text_space=towers.MINILM_SPACE,
        logit_scale=30,
        training=(),
        recipe="none",
        metrics={},
        limits=("everything",),
    )
    folder = tmp_path_factory.mktemp("weights") / "untrained"
    weights.save(folder, encoder, card, vectors)
    return str(folder)


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consoles wide enough that no path or cell is broken: rich reads COLUMNS once, when they are made."""
    from geomap.cli import console

    for made in (console.out_console, console.err_console):
        monkeypatch.setattr(made, "width", 240)


@pytest.fixture(scope="session")
def asking(untrained: str) -> Callable[..., Request]:
    """Requests by untrained weights: asking(items, period=..., ...), see tests.support.requests."""

    def make(stac: str | Path, **changes: Any) -> Request:
        return request_for(stac, **({"weights": untrained} | changes))

    return make


@pytest.fixture
def small_tiles() -> Iterator[None]:
    """Tiles of 32 pixels: the patch becomes several."""
    with tiles_of(32):
        yield


@pytest.fixture
def nine_tiles(archive: Callable[..., Path], untrained: str, small_tiles: None) -> Request:
    """A request for nine dates of the patch, in nine tiles."""
    return request_for(archive(dates=9) / "items.json", untrained, period=Period(2018, 9, 1))
