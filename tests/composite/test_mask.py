"""Masks: what opening and dilation do to the scene classification, and that tiles do not show."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from geomap import aoi, grid, pipeline
from geomap.catalog.search import search
from geomap.composite.mask import Mask, clear_np
from geomap.errors import ConfigError
from geomap.run.identity import identity_of
from geomap.run.prepare import prepare
from geomap.sentinel2 import SCL_NOT_CLEAR
from geomap.types import Period
from tests.support.requests import request_for
from tests.support.runner import geomap, refused

AREA = aoi.parse_area("4.0588,50.7434,4.0664,50.7480")
PERIOD = Period(2018, 8, 1)


def within(pixels: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """True within `radius` of a True pixel, pixel by pixel."""
    found = np.zeros_like(pixels)
    for (i, j), (k, m) in itertools.product(np.ndindex(pixels.shape), np.argwhere(pixels)):
        found[i, j] |= (i - k) ** 2 + (j - m) ** 2 <= radius**2
    return found


def opened(pixels: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """What disks of `radius` cover that hold True pixels alone; nothing beyond the edge is True."""
    wide = np.pad(pixels, radius)
    centres = ~within(~np.pad(wide, radius), radius)[radius:-radius, radius:-radius] if radius else wide
    return within(centres, radius)[radius : len(wide) - radius, radius : len(wide[0]) - radius]


@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2), st.integers(0, 3))
def test_opening_and_dilation_are_those_of_disks(seed: int, opening: int, dilation: int) -> None:
    rng = np.random.default_rng(seed)
    scl = rng.choice(np.array([0, 4, 5, 8, 9, 3], np.uint8), (2, 10, 12), p=[0.1, 0.2, 0.2, 0.2, 0.2, 0.1])
    clear = clear_np(scl, Mask(opening=opening, dilation=dilation))
    for classes, got in zip(scl, clear, strict=True):
        unclear = within(opened(np.isin(classes, [3, 8, 9]), opening), dilation)
        np.testing.assert_array_equal(got, ~unclear & (classes != 0))


def test_a_scene_without_pixels_is_not_grown() -> None:
    scl = np.full((9, 9), 4, np.uint8)
    scl[:, :3] = 0
    np.testing.assert_array_equal(clear_np(scl, Mask(dilation=3)), scl != 0)


def test_classes_are_in_order_and_no_data_is_never_clear() -> None:
    assert Mask((9, 3, 9)).classes == (0, 3, 9)
    assert Mask().classes == SCL_NOT_CLEAR
    assert np.flatnonzero(clear_np(np.arange(13, dtype=np.uint8), Mask((9,)))).tolist() == [*range(1, 9), 10, 11]


@pytest.mark.parametrize("wrong", [{"classes": (12,)}, {"classes": (-1,)}, {"dilation": -1}, {"opening": 51}])
def test_a_mask_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Mask(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("mask", [Mask(dilation=3), Mask(opening=1, dilation=2), Mask((8, 9), opening=2)])
def test_tiles_do_not_show(archive: Callable[..., Path], mask: Mask) -> None:
    """Four tiles give the pixels of one: what is clear at an edge is told by the classes beyond it."""
    scenes = search(AREA.geometry, PERIOD, str(archive(dates=4) / "items.json")).scenes
    (tile,) = grid.tiles(AREA)
    whole = pipeline.compose(scenes, tile.grid, PERIOD, mask)
    assert (whole.clear != pipeline.compose(scenes, tile.grid, PERIOD).clear).any()
    width, height = tile.grid.width // 4 * 2, tile.grid.height // 4 * 2
    for cols, rows in itertools.product(
        ((0, width), (width, tile.grid.width)), ((0, height), (height, tile.grid.height))
    ):
        part = replace(
            tile.grid,
            west=tile.grid.west + 10 * cols[0],
            north=tile.grid.north - 10 * rows[0],
            width=cols[1] - cols[0],
            height=rows[1] - rows[0],
        )
        made = pipeline.compose(scenes, part, PERIOD, mask)
        np.testing.assert_array_equal(made.dn, whole.dn[..., slice(*rows), slice(*cols)])
        np.testing.assert_array_equal(made.clear, whole.clear[..., slice(*rows), slice(*cols)])


def test_the_mask_is_part_of_the_request(untrained: str) -> None:
    """What the maps are made from decides whether a run can be resumed; a deadline does not change them."""
    plain = request_for("items.json", untrained, area=AREA, period=PERIOD)
    grown = replace(plain, mask=Mask((3, 8, 9), dilation=2), deadline=5, max_missed=0.5)
    one, other = identity_of(prepare(plain)), identity_of(prepare(grown))
    assert {key for key in one if one[key] != other[key]} == {"mask"}
    assert other["mask"] == {"classes": (0, 3, 8, 9), "opening": 0, "dilation": 2}


@pytest.mark.parametrize(
    ("classes", "said"), [("0,12", "no class 12"), ("cloud", "write numbers, for example 0,1,3,8")]
)
def test_mask_classes_that_are_none_are_bad_input(classes: str, said: str, tmp_path: Path) -> None:
    command = ["map", "4.05,50.74,4.06,50.75", "--year", "2019", "--out", str(tmp_path / "out")]
    refused(geomap(*command, "--mask-classes", classes), 2, said)
    assert not (tmp_path / "out").exists()
