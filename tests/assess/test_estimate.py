"""Estimates of accuracy and area: a published example, textbook formulas, simulations, and strata with few points."""

import math

import numpy as np
import pytest

from geomap.assess.estimate import NORMAL_95, Estimates, Sample, estimate, trust

PUBLISHED = ((66, 0, 5, 4), (0, 55, 8, 12), (1, 0, 153, 11), (2, 1, 9, 313))
"""The example of Olofsson et al. 2014, table 8: points by map (rows) and reference."""
PIXELS = {1: 200_000, 2: 150_000, 3: 3_200_000, 4: 6_450_000}
HECTARES = 30 * 30 / 10_000


def points(table: object, sizes: dict[int, int]) -> Sample:
    """A sample stratified by mapped class, from the points counted by map and reference; ids from 1."""
    counts = np.asarray(table)
    rows, columns = np.indices(counts.shape)
    mapped, reference = (np.repeat(v.ravel() + 1, counts.ravel()) for v in (rows, columns))
    return Sample(mapped, reference, mapped, np.arange(len(mapped)), sizes)


def test_the_published_example_to_the_last_digit() -> None:
    found = estimate(points(PUBLISHED, PIXELS), (1, 2, 3, 4))
    total = sum(PIXELS.values()) * HECTARES
    areas = [(round(a.value * total), round(a.ci95 * total)) for a in found.areas]
    assert areas == [(21_158, 6_158), (11_686, 3_756), (285_770, 15_510), (581_386, 16_282)]
    assert round(found.overall.value, 3) == 0.947
    assert [round(u.value, 2) for u in found.users if u] == [0.88, 0.73, 0.93, 0.96]
    assert [round(p.value, 2) for p in found.producers if p] == [0.75, 0.85, 0.93, 0.96]
    assert found.counts.tolist() == [list(row) for row in PUBLISHED]
    assert found.shares.sum() == pytest.approx(1)
    assert (found.empty, found.single, found.quantile) == ((), (), NORMAL_95)


def test_strata_that_are_the_classes_give_the_published_formulas() -> None:
    """Olofsson et al. 2014, equations 5 to 7 and 10, written out here once more."""
    table, sizes = np.array(PUBLISHED), np.array(list(PIXELS.values()))
    found = estimate(points(PUBLISHED, PIXELS), (1, 2, 3, 4))
    n, w = table.sum(axis=1), sizes / sizes.sum()
    user = np.diag(table) / n
    assert found.overall.error == pytest.approx(math.sqrt((w**2 * user * (1 - user) / (n - 1)).sum()))
    assert [u.error for u in found.users if u] == pytest.approx(np.sqrt(user * (1 - user) / (n - 1)))
    share = table / n[:, None]
    spread = share * (1 - share) / (n - 1)[:, None]
    assert [a.error for a in found.areas] == pytest.approx(np.sqrt((w[:, None] ** 2 * spread).sum(axis=0)))
    for j, producer in enumerate(found.producers):
        total, others = (sizes * share[:, j]).sum(), np.arange(4) != j
        right = sizes[j] * user[j] / total
        own = sizes[j] ** 2 * (1 - right) ** 2 * spread[j, j]
        rest = right**2 * (sizes[others] ** 2 * spread[others, j]).sum()
        assert producer is not None
        assert (producer.value, producer.error) == pytest.approx((right, math.sqrt(own + rest) / total))


def test_other_strata_give_the_formulas_of_stehman() -> None:
    """Strata that cross the classes (Stehman 2014): producer's accuracy of class 1 as a ratio, written out."""
    rng = np.random.default_rng(5)
    stratum, mapped, reference = rng.integers(0, 3, 90), rng.integers(1, 4, 90), rng.integers(1, 4, 90)
    sizes = {0: 5000, 1: 300, 2: 70_000}
    found = estimate(Sample(mapped, reference, stratum, np.arange(90), sizes), (1, 2, 3)).producers[0]
    y, x = ((mapped == 1) & (reference == 1)).astype(float), (reference == 1).astype(float)
    parts = [(size, y[stratum == h], x[stratum == h]) for h, size in sizes.items()]
    total = sum(size * b.mean() for size, _, b in parts)
    ratio = sum(size * a.mean() for size, a, _ in parts) / total
    variance = sum(
        size**2 * (a.var(ddof=1) + ratio**2 * b.var(ddof=1) - 2 * ratio * np.cov(a, b)[0, 1]) / len(a)
        for size, a, b in parts
    )
    assert found is not None
    assert (found.value, found.error) == pytest.approx((ratio, math.sqrt(variance) / total))


def test_a_simple_random_sample_gives_plain_proportions() -> None:
    rng = np.random.default_rng(3)
    mapped, reference = rng.integers(1, 3, 50), rng.integers(1, 3, 50)
    found = estimate(Sample(mapped, reference, np.zeros(50, int), np.arange(50), {0: 10**6}), (1, 2))
    share = (mapped == reference).mean()
    assert (found.overall.value, found.overall.error) == pytest.approx((share, math.sqrt(share * (1 - share) / 49)))
    assert found.areas[0].value == pytest.approx((reference == 1).mean())


def test_clusters_give_the_ratio_of_their_totals() -> None:
    """Cochran 1977, equation 9A.1: three polygons of 2, 3 and 5 pixels with 2, 1 and 5 right ones."""
    size, right = np.array([2, 3, 5]), np.array([2, 1, 5])
    cluster = np.repeat(np.arange(3), size)
    reference = np.concatenate([np.arange(m) >= k for m, k in zip(size, right, strict=True)]) + 1
    found = estimate(Sample(np.ones(10, int), reference, np.zeros(10, int), cluster, {0: 10}), (1, 2))
    ratio = right.sum() / size.sum()
    variance = ((right - ratio * size) ** 2).sum() / 2 / 3 / size.mean() ** 2
    assert (found.overall.value, found.overall.error) == pytest.approx((ratio, math.sqrt(variance)))
    assert found.quantile == pytest.approx(4.3027, abs=1e-4)  # Student's t of 2 degrees of freedom: any table


# --- strata with few points


def test_a_stratum_without_points_is_left_out_and_named() -> None:
    with_it = estimate(points(PUBLISHED, PIXELS | {7: 1000, 8: 0}), (1, 2, 3, 4, 7, 8))
    without = estimate(points(PUBLISHED, PIXELS), (1, 2, 3, 4))
    assert with_it.empty == (7,)
    assert with_it.overall == without.overall
    assert with_it.users[4:] == with_it.producers[4:] == (None, None)
    assert [a.value for a in with_it.areas[4:]] == [0, 0]


@pytest.mark.parametrize("right", [True, False])
def test_a_stratum_of_one_point_widens_the_intervals_and_is_named(right: bool) -> None:
    table = [[1, 0], [4, 46]] if right else [[0, 1], [4, 46]]
    found = estimate(points(table, {1: 5000, 2: 5000}), (1, 2))
    pair = estimate(points([[2 * v for v in table[0]], table[1]], {1: 5000, 2: 5000}), (1, 2))
    assert found.single == (1,)
    assert pair.single == ()
    assert found.overall.value == pytest.approx(pair.overall.value)
    assert found.overall.error > pair.overall.error  # two points of one kind seem sure; one does not
    assert all(np.isfinite([a.ci95 for a in found.areas]))


def test_every_number_is_finite_or_none() -> None:
    rng = np.random.default_rng(1)
    for n in (1, 2, 3, 8):
        for _ in range(50):
            mapped, reference, stratum = rng.integers(0, 5, n), rng.integers(1, 5, n), rng.integers(0, 3, n)
            mapped[0] = 1
            made = Sample(mapped, reference, stratum, rng.integers(0, 4, n), {0: 10, 1: 20, 2: 30, 3: 40})
            found = estimate(made, (1, 2, 3, 4))
            every = [found.overall, *found.users, *found.producers, *found.areas]
            assert np.isfinite([[e.value, e.error, e.ci95] for e in every if e]).all()
            assert len(found.areas) == 4


def test_confidence_is_compared_with_the_share_of_right_area() -> None:
    """Of a stratum of 900 pixels four points, of one of 100 five; steps of ten percent, 20 and 21 in two of them."""
    mapped = np.array([1, 1, 1, 1, 2, 2, 2, 2, 2])
    reference = np.array([1, 1, 2, 1, 2, 1, 1, 2, 2])
    confidence = np.array([95, 91, 92, 20, 97, 93, 21, 255, 100])  # 255: the map states none
    sample = Sample(mapped, reference, mapped, np.arange(9), {1: 900, 2: 100})
    low, middle, high = trust(sample, confidence)
    assert [(t.points, t.right.value) for t in (low, middle)] == [(1, 1.0), (1, 0.0)]
    assert [t.confidence for t in (low, middle)] == pytest.approx([0.2, 0.21])
    assert high.points == 6
    assert high.confidence == pytest.approx((225 * (0.95 + 0.91 + 0.92) + 20 * (0.97 + 0.93 + 1)) / 735)
    assert high.right.value == pytest.approx((225 * 2 + 20 * 2) / 735)
    assert [t.share for t in (low, middle, high)] == pytest.approx([225 / 980, 20 / 980, 735 / 980])
    ratio = high.right.value  # the ratio of totals over both strata, written out
    one = 225 * np.array([1 - ratio, 1 - ratio, -ratio, 0])
    two = 20 * np.array([1 - ratio, -ratio, 0, 0, 1 - ratio])
    variance = 4 * one.var(ddof=1) + 5 * two.var(ddof=1)
    assert high.right.error == pytest.approx(math.sqrt(variance) / 735)
    assert high.right.ci95 == pytest.approx(NORMAL_95 * high.right.error)


def test_points_off_the_map_are_no_part_of_the_estimates() -> None:
    """A sample drawn for another map: here the half of it that this map covers, by a stratified domain estimator."""
    rng = np.random.default_rng(2)
    mapped, reference = rng.integers(1, 3, 400), rng.integers(1, 3, 400)
    mapped[::2] = 0
    found = estimate(Sample(mapped, reference, np.zeros(400, int), np.arange(400), {0: 10**5}), (1, 2))
    on = mapped > 0
    assert found.overall.value == pytest.approx((mapped == reference)[on].mean())
    assert sum(a.value for a in found.areas) == pytest.approx(1)
    assert found.counts.sum() == on.sum()


@pytest.mark.parametrize("mapped", [[0, 0], [1, 1]])
def test_a_sample_without_a_point_on_the_map_or_without_sizes_is_refused(mapped: list[int]) -> None:
    with pytest.raises(ValueError, match="needs points"):
        estimate(Sample(np.array(mapped), np.array([1, 1]), np.array([0, 0]), np.arange(2), {5: 9}), (1,))


# --- simulations: do intervals cover the truth?

DRAWS = 1000  # a true 95 % shows as 93.6 to 96.4 % (two standard errors)
TRUTH = np.array([[8_500, 700, 800], [600, 14_000, 1_400], [2_500, 3_500, 68_000]])
"""Pixels of a known map: rows mapped, columns true."""


def truths(table: np.ndarray) -> list[float]:
    """Overall, user's and producer's accuracies and areas of a whole map."""
    right = np.diag(table)
    return [right.sum() / table.sum(), *right / table.sum(1), *right / table.sum(0), *table.sum(0) / table.sum()]


def covered(found: Estimates, wanted: list[float]) -> list[bool]:
    every = [found.overall, *found.users, *found.producers, *found.areas]
    return [e is not None and abs(e.value - t) <= e.ci95 for e, t in zip(every, wanted, strict=True)]


def test_intervals_of_a_sample_by_mapped_class_cover_the_truth() -> None:
    rng = np.random.default_rng(20140215)
    sizes = dict(enumerate(TRUTH.sum(1).tolist(), 1))
    hits = np.zeros(10)
    for _ in range(DRAWS):
        table = [rng.multivariate_hypergeometric(row, n) for row, n in zip(TRUTH, (400, 400, 700), strict=True)]
        hits += covered(estimate(points(table, sizes), (1, 2, 3)), truths(TRUTH))
    assert ((hits >= 930) & (hits <= 970)).all(), hits


def test_intervals_of_a_simple_random_sample_cover_the_truth() -> None:
    rng = np.random.default_rng(1977)
    hits = np.zeros(10)
    for _ in range(DRAWS):
        drawn = points(rng.multivariate_hypergeometric(TRUTH.ravel(), 2000).reshape(3, 3), {})
        whole = Sample(drawn.mapped, drawn.reference, np.zeros(2000, int), drawn.cluster, {0: int(TRUTH.sum())})
        hits += covered(estimate(whole, (1, 2, 3)), truths(TRUTH))
    assert ((hits >= 930) & (hits <= 970)).all(), hits


def test_intervals_with_strata_that_are_not_the_classes_cover_the_truth() -> None:
    """The sample was drawn by the classes of an earlier map, which agrees with this one on four pixels of five."""
    rng = np.random.default_rng(2014)
    mapped, reference = (np.repeat(v.ravel() + 1, TRUTH.ravel()) for v in np.indices((3, 3)))
    before = np.where(rng.random(len(mapped)) < 0.8, mapped, rng.integers(1, 4, len(mapped)))
    places = {h: np.flatnonzero(before == h) for h in (1, 2, 3)}
    sizes = {h: len(where) for h, where in places.items()}
    hits = np.zeros(10)
    for _ in range(DRAWS):
        drawn = np.concatenate([rng.choice(places[h], n, False) for h, n in ((1, 400), (2, 400), (3, 700))])
        made = Sample(mapped[drawn], reference[drawn], before[drawn], np.arange(1500), sizes)
        hits += covered(estimate(made, (1, 2, 3)), truths(TRUTH))
    assert ((hits >= 930) & (hits <= 970)).all(), hits


def test_intervals_of_a_sample_of_polygons_cover_the_truth() -> None:
    """5,000 fields of 2 to 12 pixels; a field is mapped as one class for the most part, so its pixels are alike."""
    rng = np.random.default_rng(9)
    size = rng.integers(2, 13, 5000)
    field = np.repeat(np.arange(5000), size)
    true = rng.choice([1, 2, 3], 5000, p=[0.3, 0.3, 0.4])
    seen = np.where(rng.random(5000) < 0.85, true, rng.integers(1, 4, 5000))
    mapped = np.where(rng.random(len(field)) < 0.9, seen[field], rng.integers(1, 4, len(field)))
    table = np.array([[((mapped == i) & (true[field] == j)).sum() for j in (1, 2, 3)] for i in (1, 2, 3)])
    starts, hits = np.append(0, np.cumsum(size)), np.zeros(10)
    for _ in range(DRAWS):
        fields = rng.choice(5000, 500, False)
        at = np.concatenate([np.arange(starts[f], starts[f + 1]) for f in fields])
        whole = Sample(mapped[at], true[field[at]], np.zeros(len(at), int), field[at], {0: int(size.sum())})
        hits += covered(estimate(whole, (1, 2, 3)), truths(table))
    assert ((hits >= 930) & (hits <= 970)).all(), hits
