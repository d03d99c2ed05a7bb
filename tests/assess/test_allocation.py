"""Sizes of samples and of their strata: published numbers, sums, and limits."""

import numpy as np
import pytest

from geomap.assess.allocation import ALLOCATIONS, allocate, points_needed
from geomap.errors import InputError

SIZES = {1: 200_000, 2: 150_000, 3: 3_200_000, 4: 6_450_000}
EXPECTED = {1: 0.7, 2: 0.6, 3: 0.9, 4: 0.95}
"""The example of Olofsson et al. 2014, section 5.1."""


def test_the_published_size_of_a_sample() -> None:
    assert points_needed(SIZES, EXPECTED, 0.01) == 641


def test_published_allocations() -> None:
    assert list(allocate(SIZES, 641, "equal", 30, EXPECTED).values()) == [161, 160, 160, 160]
    assert list(allocate(SIZES, 640, "proportional", 30, EXPECTED).values()) == [13, 9, 205, 413]
    found = list(allocate(SIZES, 640, "olofsson", 75, EXPECTED).values())
    assert found == [75, 75, 162, 328]
    assert found == pytest.approx([75, 75, 165, 325], abs=3)  # as published, rounded to fives


def test_neyman_is_by_size_and_spread() -> None:
    found = allocate(SIZES, 640, "neyman", 2, EXPECTED)
    weight = {h: SIZES[h] * (EXPECTED[h] * (1 - EXPECTED[h])) ** 0.5 for h in SIZES}
    for h in SIZES:
        assert found[h] == pytest.approx(640 * weight[h] / sum(weight.values()), abs=1)


def test_sums_and_limits_hold_whatever_the_sizes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        sizes = {h: int(10 ** rng.uniform(0, 7)) for h in range(1, rng.integers(2, 20))} | {99: 0}
        n = int(rng.integers(2 * len(sizes), 600))
        expected = {h: float(rng.choice([0.5, 0.9, 1.0])) for h in sizes}
        for how in ALLOCATIONS:
            found = allocate(sizes, n, how, 30, expected)  # type: ignore[arg-type]
            assert sum(found.values()) == min(n, sum(sizes.values()))
            assert 99 not in found
            assert all(min(2, sizes[h]) <= points <= sizes[h] for h, points in found.items())


def test_too_few_points_are_refused_with_the_least() -> None:
    with pytest.raises(InputError, match="type --n 8 or more, or --design random"):
        allocate(SIZES, 7, "olofsson", 30, EXPECTED)


def test_a_minimum_that_does_not_fit_is_lowered() -> None:
    assert list(allocate(SIZES, 40, "olofsson", 30, EXPECTED).values()) == [5, 5, 10, 20]
