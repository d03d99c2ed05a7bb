"""Maps by weights that take patches: of a converted checkpoint, in tiles and in one, from the store, and refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from geomap import files, grid, pipeline
from geomap.catalog.search import search
from geomap.datasets.months import MASKED, tokens_np
from geomap.encode import weights
from geomap.encode.engine import Engine
from geomap.errors import NoScenesError
from geomap.label import towers
from geomap.run.map import map_area
from geomap.run.prepare import find_scenes
from geomap.run.record import read_record
from geomap.store.store import COMPOSITES, EMBEDDINGS, open_store
from geomap.types import Period, silent
from tests.support.checkpoints import SeededTower, lightning, official
from tests.support.outputs import problems
from tests.support.requests import request_for, tiles_of
from tests.support.runner import geomap, refused

AREA = "4.0575,50.7425,4.0690,50.7495"
"""The whole patch and some ground around it, of which there is no scene."""
MONTHS = Period(2018, 8, 2)


@pytest.fixture(scope="module")
def nine_by_nine(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights converted from a small checkpoint of 9 x 9 pixels in the published layout."""
    folder = tmp_path_factory.mktemp("converted")
    torch.save(lightning(official(patch=9, depth=1)), folder / "TimeSenCLIP_9x9.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(towers, "TOWERS", {towers.CLIP_SPACE: SeededTower})
        done = geomap("weights", "convert", folder / "TimeSenCLIP_9x9.ckpt", "--out", folder / "w")
    assert done.exit_code == 0, done.output
    return str(folder / "w")


@pytest.fixture(scope="module")
def ask(archive: Callable[..., Path], nine_by_nine: str) -> Callable[..., Any]:
    kept = {"save_embeddings": True, "save_composites": True, "report": False}
    items = archive(dates=9) / "items.json"
    return lambda **changes: request_for(items, nine_by_nine, **({"area": AREA, "period": MONTHS, **kept} | changes))


@pytest.fixture(scope="module")
def tiled(ask: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in tiles of 32 pixels."""
    out = tmp_path_factory.mktemp("tiled") / "run"
    with tiles_of(32):
        assert map_area(ask(), out).tiles > 4
    return out


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        read: np.ndarray = source.read(1)
    return read


def test_a_map_does_not_depend_on_how_the_area_is_cut_into_tiles(ask, tiled, tmp_path):
    """Nor does a bit of an embedding, at the edges of tiles and of the scenes too; and it is the same again."""
    assert problems(tiled) == ()
    few = map_area(ask(save_composites=False), tmp_path / "few")
    parts, whole = open_store(tiled, EMBEDDINGS), open_store(tmp_path / "few", EMBEDDINGS)
    assert few.tiles < len(parts.tiles) / 4
    for tile in parts.tiles:
        holding = whole.holding(tile.grid)
        codes = [store.read("embedding", tile.grid, there) for store, there in ((parts, tile), (whole, holding))]
        np.testing.assert_array_equal(*codes)
    for name in ("landcover.tif", "landcover_confidence.tif", "clear_months.tif"):
        np.testing.assert_array_equal(pixels(tiled / name), pixels(tmp_path / "few" / name))
    map_area(ask(save_composites=False), tmp_path / "again")
    assert (tmp_path / "again" / files.SUMS).read_bytes() == (tmp_path / "few" / files.SUMS).read_bytes()


@torch.inference_mode()
def test_every_pixel_is_encoded_from_the_patch_around_it(ask, nine_by_nine):
    """Of a part of the area: its patches are cut here from a composite of the whole."""
    asked, encoder = ask(), weights.load_weights(nine_by_nine).encoder
    scenes = search(asked.area.geometry, MONTHS, asked.stac).scenes
    area = grid.mosaic_grid(tuple(tile.grid for tile in grid.tiles(asked.area)))
    part = replace(area, west=area.west + 160, north=area.north - 160, width=32, height=32)
    around, made = (pipeline.compose(scenes, where, MONTHS) for where in (part.grown(encoder.cfg.margin), area))
    _, usable = pipeline.usable_pixels(around.inner(encoder.cfg.margin), np.ones(part.shape, bool), 1)
    cut = [tokens_np(made.dn[:, :, y + 12 : y + 21, x + 12 : x + 21], MASKED) for y, x in np.argwhere(usable)]
    tokens, valid = (torch.from_numpy(np.stack(found)) for found in zip(*cut, strict=True))
    wanted = encoder(tokens, valid, torch.tensor(MONTHS.calendar_months)).numpy()
    engine = Engine(encoder, "cpu", dtype=torch.float32)
    ours, alone = (
        np.concatenate([e.numpy() for _, e in pipeline.embed_pixels(engine, dn, usable, MONTHS.calendar_months)])
        for dn in (around, around.inner(encoder.cfg.margin))
    )
    assert len(ours) > 500
    np.testing.assert_allclose(ours, wanted, atol=2e-6)
    assert np.abs(alone - wanted).max() > 1e-3  # without the margin, the edges would differ


def test_scenes_that_show_only_the_ground_around_an_area_are_found(ask, untrained, tmp_path):
    """The area begins 10 m east of all scenes: the patches of its first pixels hold some of what these show."""
    beside = {"area": "4.0678,50.7450,4.0690,50.7480"}
    assert len(find_scenes(ask(**beside), silent, 4).scenes) == 9
    map_area(ask(**beside), tmp_path / "out")
    assert len(read_record(tmp_path / "out").scenes) == 9
    with pytest.raises(NoScenesError):
        map_area(replace(ask(**beside), weights=untrained), tmp_path / "single")


def test_stores_hold_the_pixels_of_the_tiles_alone(tiled, ask, nine_by_nine, tmp_path):
    kept = open_store(tiled, COMPOSITES)
    scenes = search(ask().area.geometry, MONTHS, ask().stac).scenes
    for tile in kept.tiles[:3]:
        made = pipeline.compose(scenes, tile.grid, MONTHS)
        np.testing.assert_array_equal(kept.read("composite", tile.grid, tile), made.dn)
    assert open_store(tiled, EMBEDDINGS).tiles == kept.tiles
    done = geomap("label", tiled, "--legend", "landcover", "--weights", nine_by_nine, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    own, stored = (pixels(folder / "landcover.tif") for folder in (tiled, tmp_path / "out"))
    np.testing.assert_array_equal(own == 0, stored == 0)
    assert (own == stored)[own > 0].mean() > 0.98


@pytest.mark.parametrize("option", ["--from-composites", "--update-from"])
def test_saved_composites_are_refused_in_one_line(option, tiled, nine_by_nine, tmp_path):
    months = ("--start", "2018-08", "--months", "2")
    done = geomap(
        "map",
        AREA,
        *months,
        "--legend",
        "landcover",
        "--weights",
        nine_by_nine,
        option,
        tiled,
        "--out",
        tmp_path / "out",
    )
    refused(done, 2, "patches of 9 x 9 pixels", f"without {option}")
    assert not (tmp_path / "out").exists()


def test_points_on_a_run_are_no_test_set_of_patches(nine_by_nine, tmp_path):
    line = ("--data", tmp_path / "points.gpkg", "--column", "crop", "--run", tmp_path, "--out", tmp_path / "out")
    refused(geomap("evaluate", nine_by_nine, *line), 2, "--run gives single pixels; these weights take 9 x 9")
