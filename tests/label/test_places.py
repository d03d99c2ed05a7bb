"""Places to visit: uncertain, unlike the points, and never two of one field."""

import numpy as np

from geomap.label.places import contradicted, helpful


def test_places_are_doubtful_unlike_the_points_and_apart() -> None:
    rng = np.random.default_rng(0)
    n, side = 2000, 200  # pixels of 2 km x 2 km
    at = np.column_stack([np.full(n, 32631), rng.integers(0, side, (n, 2))])
    vectors = rng.normal(size=(n, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    sure = np.where(at[:, 1] < 100, 0.99, rng.uniform(0.5, 0.6, n))  # the west is certain
    probability = np.column_stack([sure, 1 - sure]).astype(np.float32)
    rows = helpful(vectors, probability, vectors[:5], at, 20)
    assert len(rows) == len(set(rows.tolist())) == 20
    assert not set(rows.tolist()) & set(range(5))
    assert (at[rows, 1] >= 100).mean() > 0.9
    x = at[rows, 1:]
    distance = np.hypot(*(x[:, None] - x[None]).T)[np.triu_indices(20, 1)]
    assert distance.min() > np.sqrt(side**2 / 20) / 2 * 0.9
    elsewhere = at.copy()
    elsewhere[::2, 0] = 32632  # the same numbers in another zone are another place
    assert len(helpful(vectors, probability, vectors[:5], elsewhere, 20)) == 20


def test_a_few_candidates_in_one_place_give_fewer_places() -> None:
    vectors = np.eye(4, dtype=np.float32)
    at = np.array([[32631, 7, 7], [32631, 7, 7], [32631, 9, 7], [32631, 400, 7]])
    rows = helpful(vectors, np.full((4, 2), 0.5, np.float32), vectors[:0], at, 20)
    assert rows.tolist() == [0, 2, 3]


def test_points_that_the_others_contradict_come_with_the_clearest_first() -> None:
    probability = np.array([[0.9, 0.1, 0.0], [0.15, 0.85, 0.0], [0.0, 0.05, 0.95], [0.6, 0.4, 0.0]])
    assert contradicted(probability, np.array([0, 0, 0, 1])).tolist() == [2, 1]  # .95 - 0, .85 - .15; not .6 - .4
    assert contradicted(probability, np.array([0, 0, 0, 1]), 1).tolist() == [2]
    assert contradicted(probability, np.array([0, 1, 2, 0])).tolist() == []
