"""Estimates for parts of a map: which points suffice, textbook formulas, and whether intervals cover the truth."""

import math

import numpy as np
import pytest

from geomap.assess.estimate import Sample, estimate
from geomap.assess.part import LEAST, estimate_part

PIXELS = {1: 600, 2: 350, 3: 50}
POINTS = {(1, 1): 18, (1, 2): 2, (2, 2): 12, (2, 3): 3, (3, 3): 4}


def test_a_part_is_estimated_from_its_own_pixels_and_points() -> None:
    """The stratified estimator (Olofsson et al. 2014, equations 9 and 10) with the part's pixels, written out."""
    found = estimate_part(PIXELS, POINTS)
    assert found is not None
    expected = [600 * 0.9, 600 * 0.1 + 350 * 0.8, 350 * 0.2 + 50]
    assert [a.value * 1000 for a in found.areas] == pytest.approx(expected)
    first = 0.6**2 * 0.9 * 0.1 / 19
    assert found.areas[0].ci95 == pytest.approx(1.96 * math.sqrt(first))
    assert found.areas[1].ci95 == pytest.approx(1.96 * math.sqrt(first + 0.35**2 * 0.8 * 0.2 / 14))


def test_a_class_of_the_points_that_the_map_lacks_takes_its_area_from_the_others() -> None:
    found = estimate_part({1: 1000}, {(1, 1): 30, (1, 1000): 10})
    assert found is not None
    assert [(c, a.value) for c, a in zip(found.classes, found.areas, strict=True)] == [(1, 0.75), (1000, 0.25)]


@pytest.mark.parametrize(
    ("points", "unseen", "enough"),
    [
        (LEAST - 1, 0, False),
        (LEAST, 0, True),
        (LEAST, 50, True),  # 5 % of the pixels are of a class without a point
        (LEAST, 51, False),
        (0, 0, False),
    ],
)
def test_few_points_or_many_pixels_without_any_give_no_estimate(points: int, unseen: int, enough: bool) -> None:
    found = estimate_part({1: 1000 - unseen, 2: unseen}, {(1, 1): points} if points else {})
    assert (found is not None) == enough
    if found and unseen:
        assert found.empty == (2,)
        assert found.areas[0].value == 1  # of the part without class 2


def test_a_part_without_a_pixel_has_no_estimate() -> None:
    assert estimate_part({}, {}) is None


WHOLE = np.array(
    [
        [[9_000, 500, 500], [300, 2_000, 200], [100, 100, 800]],
        [[2_500, 400, 100], [1_000, 8_000, 1_500], [200, 300, 1_500]],
        [[1_000, 200, 300], [100, 900, 100], [1_500, 1_000, 12_000]],
        [[6_000, 2_000, 0], [0, 5_000, 1_000], [300, 0, 2_000]],
    ]
)
"""Pixels of a known map in four parts: part, mapped, true."""


@pytest.mark.parametrize("design", ["stratified", "random"])
def test_intervals_of_parts_cover_the_truth_though_the_sample_is_drawn_for_the_whole_map(design: str) -> None:
    """1,000 samples of 1,200 points, of which a part holds as many as fall into it."""
    rng = np.random.default_rng(20261201)
    hits = np.zeros((4, 3))
    for _ in range(1000):
        if design == "random":
            drawn = rng.multivariate_hypergeometric(WHOLE.ravel(), 1200).reshape(WHOLE.shape)
        else:
            by_class = [rng.multivariate_hypergeometric(WHOLE[:, m].ravel(), 400).reshape(4, 3) for m in range(3)]
            drawn = np.stack(by_class, axis=1)
        for part in range(4):
            points = {(m + 1, r + 1): int(n) for (m, r), n in np.ndenumerate(drawn[part]) if n}
            found = estimate_part({m + 1: int(n) for m, n in enumerate(WHOLE[part].sum(1))}, points)
            assert found is not None
            truth = WHOLE[part].sum(0) / WHOLE[part].sum()
            hits[part] += [abs(a.value - t) <= a.ci95 for a, t in zip(found.areas, truth, strict=True)]
    assert ((hits >= 925) & (hits <= 970)).all(), hits


def test_the_whole_map_as_a_part_is_the_stratified_estimate_of_it() -> None:
    rng = np.random.default_rng(3)
    mapped, reference = rng.integers(1, 4, 200), rng.integers(1, 4, 200)
    pairs, counts = np.unique(np.column_stack([mapped, reference]), axis=0, return_counts=True)
    points = {(m, r): n for (m, r), n in zip(pairs.tolist(), counts.tolist(), strict=True)}
    whole = estimate(Sample(mapped, reference, mapped, np.arange(200), PIXELS), (1, 2, 3))
    found = estimate_part(PIXELS, points)
    assert found is not None
    for mine, theirs in zip(found.areas, whole.areas, strict=True):
        assert (mine.value, mine.ci95) == pytest.approx((theirs.value, theirs.ci95), rel=1e-12)
