"""Samples of pixels: each pixel as likely as it should be, spread where asked, and little memory whatever the size."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pyproj import Transformer

from geomap.assess.class_map import BLOCK, Block, blocks, class_at, find_map
from geomap.assess.draw import Drawn, count, draw
from tests.support.maps import ZONES, finished

WEST, NORTH = ZONES[32631]
TO_ZONE = Transformer.from_crs(4326, 32631, always_xy=True)


def places(drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) of the pixels of a sample in zone 31."""
    x, y = TO_ZONE.transform(*drawn.lonlat.T)
    return np.floor((NORTH - y) / 10).astype(int), np.floor((x - WEST) / 10).astype(int)


def parts_of(values: np.ndarray, side: int) -> list[Block]:
    """A map in blocks of a few rows."""
    rows, columns = np.indices(values.shape)
    cuts = [slice(top, top + side) for top in range(0, len(values), side)]
    return [
        Block(32631, WEST, NORTH, *(v[cut].ravel() for v in (rows, columns, values.astype(np.uint8)))) for cut in cuts
    ]


@pytest.mark.parametrize("spread", [False, True])
def test_each_pixel_of_a_stratum_is_as_likely_as_any_other(spread: bool) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 3, (9, 7))
    parts, times = parts_of(values, 4), np.zeros((9, 7))
    sizes = count(parts)
    assert sizes == {1: (values == 1).sum(), 2: (values == 2).sum()}
    for _ in range(1000):
        found = draw(parts, {1: 1, 2: 2}, sizes, {1: 3, 2: 6}, rng, spread)
        rows, columns = places(found)
        assert (values[rows, columns] == found.mapped).all()
        np.add.at(times, (rows, columns), 1)
    for h, n in ((1, 3), (2, 6)):
        expected = 1000 * n / sizes[h]
        assert np.abs(times[values == h] - expected).max() < 4.5 * np.sqrt(expected * (1 - n / sizes[h]))
        assert times.max() <= 1000
    assert not times[values == 0].any()


def test_a_spread_sample_has_points_everywhere(tmp_path: Path) -> None:
    of = find_map(finished(tmp_path / "run", {"landcover": {32631: np.full((640, 640), 3)}}), None)
    sizes, rng = count(blocks(of)), np.random.default_rng(4)
    per_cell = {}
    for spread in (False, True):
        rows, columns = places(draw(blocks(of), {3: 1}, {1: sizes[3]}, {1: 100}, rng, spread))
        per_cell[spread] = np.histogram2d(rows, columns, bins=5, range=[[0, 640], [0, 640]])[0]
    assert per_cell[True].min() >= 2
    assert per_cell[True].std() < 0.6 * per_cell[False].std()


def test_a_map_of_two_zones_with_edges_is_drawn_and_read_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    pixels = {32631: rng.integers(0, 9, (600, 530)), 32632: rng.integers(0, 9, (40, 1100))}
    of = find_map(finished(tmp_path / "run", {"landcover": pixels}), "landcover")
    sizes = count(blocks(of))
    assert sizes == {c: sum(int((v == c).sum()) for v in pixels.values()) for c in range(1, 9)}
    found = draw(blocks(of), {c: c for c in sizes}, sizes, dict.fromkeys(sizes, 200), rng)
    assert (class_at(of, found.lonlat) == found.mapped).all()
    assert {31, 32} == {int(v) for v in np.unique((found.lonlat[:, 0] + 180) // 6 + 1)}
    assert class_at(of, np.array([[0.0, 0.0], [3.0, 89.0], [179.0, -79.0], [-177, 50]])).tolist() == [0, 0, 0, 0]


def test_memory_does_not_grow_with_the_map() -> None:
    peaks = []
    rows, columns = np.indices((BLOCK, BLOCK))
    one = Block(32631, WEST, NORTH, rows.ravel(), columns.ravel(), np.full(BLOCK * BLOCK, 3, np.uint8))
    for times in (4, 64):
        size, rng = times * BLOCK * BLOCK, np.random.default_rng(0)
        tracemalloc.start()
        draw((one for _ in range(times)), {3: 1}, {1: size}, {1: 300}, rng)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0] < 50e6
