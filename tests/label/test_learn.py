"""Classes learned from labelled pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax as scipy_log_softmax
from scipy.stats import t as student_t
from sklearn.linear_model import LogisticRegression

from geomap.label import gain
from geomap.label.head import Head, standard
from geomap.label.learn import Examples, _Features, learn
from geomap.label.regression import Design, balanced, fit, log_loss, log_softmax, parted
from geomap.label.scatter import SERIES_FLOOR, Scatter

SCALE = 20.0
MONTHS = tuple(range(12))


def unit(x: NDArray[np.float64]) -> NDArray[np.float32]:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def place(
    n: int, seed: int = 0, away: float = 1.0, classes: int = 4, size: int = 32, noise: float = 1.5
) -> tuple[Examples, NDArray[np.float32]]:
    """Pixels of classes whose centres lie `away` from their prompts, with series that tell classes apart in April."""
    rng = np.random.default_rng(seed)
    prompts = rng.normal(size=(classes, size))
    centres = prompts + away * np.random.default_rng(99).normal(size=prompts.shape)
    y = rng.integers(0, classes, n)
    embeddings = unit(centres[y] + noise * rng.normal(size=(n, size)))
    dn = rng.integers(1500, 2500, (n, 12, 10)).astype(np.uint16)
    dn[:, 3] += (700 * y[:, None]).astype(np.uint16)
    return Examples(embeddings, y, np.arange(n) // 3, dn, MONTHS), unit(prompts)


@pytest.mark.parametrize("alike", [True, False])
def test_the_fit_is_that_of_sklearn(alike: bool) -> None:
    examples, _ = place(200)
    x = examples.embeddings.astype(np.float64)
    share = None if alike else np.linspace(0.1, 3, 200)
    own = fit(x, examples.classes, np.zeros((200, 4)), 0.5, share=share)
    model = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-8, max_iter=1000).fit(x, examples.classes, share)
    theirs = model.coef_.T
    assert np.abs((own - own.mean(1, keepdims=True)) - (theirs - theirs.mean(1, keepdims=True))).max() < 0.02
    assert log_loss(x @ own, examples.classes) == pytest.approx(log_loss(x @ theirs, examples.classes), abs=1e-3)


def test_points_of_a_common_class_count_less() -> None:
    share = balanced(np.array([0, 0, 0, 0, 2]))
    assert share.mean() == pytest.approx(1)
    assert share[4] == pytest.approx(4**0.75 * share[0])  # one over that power of 4 points, and of 1


def test_turned_features_give_the_same_fit() -> None:
    examples, _ = place(60)
    x = np.concatenate([examples.embeddings, examples.embeddings[:, :5]], axis=1).astype(np.float64)
    design = Design.of(x)
    assert design.rows.shape[1] == 32  # the repeated columns are no directions of their own
    turned = x @ design.axes @ fit(design.rows, examples.classes, np.zeros((60, 4)), 0.1)
    assert np.abs(turned - x @ fit(x, examples.classes, np.zeros((60, 4)), 0.1)).max() < 0.05


def test_log_softmax_of_large_logits() -> None:
    logits = np.array([[1000.0, 0.0, -1000.0], [1.0, 2.0, 3.0]])
    assert np.allclose(log_softmax(logits), scipy_log_softmax(logits, axis=1))


@pytest.mark.parametrize("n", [7, 40, 300])
def test_folds_keep_groups_whole_and_share_out_classes(n: int) -> None:
    rng = np.random.default_rng(n)
    groups, classes = rng.integers(0, max(n // 3, 3), n), rng.integers(0, 3, n)
    fold = parted(groups, classes)
    assert all(len(np.unique(fold[groups == g])) == 1 for g in np.unique(groups))
    assert set(fold) == set(range(fold.max() + 1))
    if n == 300:
        counts = np.array([np.bincount(classes[fold == f], minlength=3) for f in range(5)])
        assert counts.max() - counts.min() <= 8


def test_points_mend_prompts_that_are_off() -> None:
    examples, prompts = place(80, away=3.0)
    test, _ = place(2000, seed=0, away=3.0)
    made = learn(examples, prompts, SCALE)
    learned = (made.head.logits(test.embeddings).argmax(1) == test.classes).mean()
    words = ((test.embeddings @ prompts.T).argmax(1) == test.classes).mean()
    assert made.helps
    assert learned > words + 0.15
    assert "%" in made.says


def test_prompts_that_are_right_are_kept_with_few_points() -> None:
    for seed in range(4):
        examples, prompts = place(4, seed=seed, away=0.0)
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 4, 1000)
        embeddings = unit(SCALE * prompts[truth] / 3 + 1.5 * rng.normal(size=(1000, 32)))
        made = learn(examples, prompts, SCALE)
        learned = (made.head.logits(embeddings).argmax(1) == truth).mean()
        assert learned >= ((embeddings @ prompts.T).argmax(1) == truth).mean() - 0.02


def test_good_words_are_kept_where_points_do_not_beat_them_in_cross_validation() -> None:
    kept = []
    for seed in range(6):
        made_up, prompts = place(24, seed=seed, away=0.0, noise=1.2)
        rng = np.random.default_rng(seed)
        classes = np.where(rng.random(24) < 0.3, rng.integers(0, 4, 24), made_up.classes)
        dn = rng.integers(1500, 2500, (24, 12, 10)).astype(np.uint16)  # they tell nothing
        examples = replace(made_up, classes=classes, dn=dn)
        made = learn(examples, prompts, SCALE)
        words = SCALE * examples.embeddings @ prompts.T
        own, zero = (log_loss(np.log(p), classes) for p in (made.validated.probability, made.zero_shot))
        assert own <= zero + 1e-9
        if np.isinf(made.validated.strengths.penalty):
            assert made.with_series is not None
            assert np.allclose(made.with_series.logits(examples.embeddings, dn), words, atol=1e-4)
            assert not made.helps
            assert "the words alone are kept" in made.says
            assert made.validated.rejected is not None  # what the points reached is told beside the words
            reached = (made.validated.rejected.argmax(1) == classes).mean()
            right = (words.argmax(1) == classes).mean()
            assert f"{reached:.0%} of 24 points are right, {right:.0%} by the words alone. " in made.says
            assert ("That is no gain" in made.says) == (reached <= right)  # else it is within chance, in 8 fields
        kept.append(own == pytest.approx(zero))
    assert all(kept)


def test_a_class_without_points_can_still_be_found() -> None:
    examples, prompts = place(60, away=0.3)
    rows = examples.classes != 2
    some = Examples(examples.embeddings[rows], examples.classes[rows], examples.groups[rows])
    found = learn(some, prompts, SCALE).head.logits(examples.embeddings[~rows]).argmax(1)
    assert (found == 2).mean() > 0.8


def test_series_join_where_they_help_and_missing_months_add_nothing() -> None:
    examples, prompts = place(240, away=2.0, noise=5.0)
    assert examples.dn is not None
    examples.dn[::4, 6] = 0
    made = learn(examples, prompts, SCALE)
    assert made.with_series is not None
    assert made.with_series.series is not None
    full = made.with_series
    test, _ = place(1000, seed=0, away=2.0, noise=5.0)
    assert test.dn is not None
    gain = (full.logits(test.embeddings, test.dn).argmax(1) == test.classes).mean()
    assert gain > (made.head.logits(test.embeddings).argmax(1) == test.classes).mean()
    empty = np.zeros((1, 12, 10), np.uint16)
    assert np.array_equal(full.series.logits(torch.from_numpy(empty.astype(np.float32))).numpy(), np.zeros((1, 4)))
    order = [3, 0, 7]  # other steps, in another order
    few = full.logits(test.embeddings, test.dn[:, order], tuple(order))
    rest = test.dn.copy()
    rest[:, [m for m in MONTHS if m not in order]] = 0
    assert np.allclose(few, full.logits(test.embeddings, rest), atol=1e-4)


def test_the_head_takes_series_as_they_are_though_a_months_brightness_counts_half() -> None:
    examples, prompts = place(100, away=2.0)
    assert examples.dn is not None
    features = _Features.of(examples, None)
    rows = features.rows(examples)
    values = standard(examples.dn, features.mean, features.spread).astype(np.float64)
    halved = (values - 0.5 * values.mean(axis=2, keepdims=True)).reshape(100, -1)
    assert np.allclose(rows[:, 33:], 2.0 * halved / np.sqrt((halved**2).sum(axis=1).mean()))
    moved = np.random.default_rng(0).normal(size=(rows.shape[1], 4))
    prior = SCALE * prompts.astype(np.float64)
    head = features.head(prior, moved, 1.0, MONTHS)
    expected = examples.embeddings @ prior.T + rows @ moved
    assert np.allclose(head.logits(examples.embeddings, examples.dn), expected, atol=1e-4)


def test_words_are_kept_only_where_they_are_right_beyond_chance() -> None:
    assert not gain.trusted(20, 0.6)  # a standard error is 0.11
    assert gain.trusted(20, 0.65)
    assert gain.trusted(300, 0.54)
    assert not gain.trusted(5, 0.6)


@pytest.mark.parametrize(
    ("differences", "error"),
    [
        ([1, -1, 1, 1], np.sqrt(4 * 4 / 3) * student_t.ppf(0.9, 4)),  # four fields that differ by a point each
        ([7, -1, 0, 0], np.sqrt(50 * 4 / 3) * student_t.ppf(0.9, 50**2 / (7**4 + 1))),  # nearly all in one of four
        ([1] * 5 + [-1] * 3 + [0] * 92, np.sqrt(8 * 100 / 99) * student_t.ppf(0.9, 8)),
        ([0, 0], 0),
        ([3], np.inf),  # of one field nothing is known
    ],
)
def test_points_of_a_field_are_right_or_wrong_together_and_few_fields_tell_little(
    differences: list[int], error: float
) -> None:
    groups = np.repeat(np.arange(len(differences)), 10)
    own, words = np.zeros(len(groups), bool), np.zeros(len(groups), bool)
    for field, more in enumerate(differences):
        (own if more > 0 else words)[10 * field : 10 * field + abs(more)] = True
    assert gain.lead(own, words, groups) == (sum(differences), pytest.approx(error))
    assert gain.gains(own, words, groups) == (sum(differences) > (error if len(differences) < 20 else 0))


def test_few_points_of_few_fields_that_gain_nothing_leave_words_that_are_not_trusted() -> None:
    """Labels that the pixels know nothing of: of four fields of a class each words are kept, of 24 places points take
    over."""
    made_up, prompts = place(24, seed=2, away=0.0)
    classes = np.arange(24) // 6
    for groups, kept in ((classes, True), (np.arange(24), False)):
        made = learn(replace(made_up, classes=classes, groups=groups, dn=None), prompts, SCALE)
        assert np.isinf(made.validated.strengths.penalty) == kept


@pytest.mark.parametrize("wrong", [0.3, 0.8])
def test_many_points_that_gain_nothing_leave_the_words_whether_these_are_trusted_or_not(wrong: float) -> None:
    """Labels by chance: nothing can be learned from them."""
    made_up, prompts = place(60, seed=1, away=0.0)
    rng = np.random.default_rng(0)
    classes = np.where(rng.random(60) < wrong, rng.integers(0, 4, 60), made_up.classes)
    made = learn(replace(made_up, classes=classes, dn=None), prompts, SCALE)
    assert np.isinf(made.validated.strengths.penalty)
    assert not made.helps


def test_points_of_one_class_in_one_cell_are_a_field() -> None:
    fields = gain.fields_of(np.array([7, 7, 7, 3, 3, 7]), np.array([0, 1, 0, 0, 0, 1]))
    assert len(np.unique(fields)) == 3
    assert [fields[0], fields[1], fields[3]] == [fields[2], fields[5], fields[4]]


def test_fewer_than_five_points_leave_the_words() -> None:
    examples, prompts = place(5, away=4.0)
    wrong = prompts[::-1].copy()
    assert learn(replace(examples, groups=np.arange(5)), wrong, SCALE).moved
    made = learn(Examples(examples.embeddings[:4], examples.classes[:4], np.arange(4)), wrong, SCALE)
    assert not made.moved
    assert made.says == "4 pixels with points tell too little: the words alone are kept. Give 5 or more."


@pytest.mark.parametrize("fields", [12, 36])
def test_points_of_few_fields_tell_their_own_classes_apart_and_leave_the_others(fields: int) -> None:
    """A third class, of no point, lies where its words say: of points in many fields it loses pixels."""
    made_up, prompts = place(600, seed=3, away=3.0)
    shown, rest = np.flatnonzero(made_up.classes < 2)[:36], np.arange(300, 600)
    examples = Examples(made_up.embeddings[shown], made_up.classes[shown], np.arange(36) * fields // 36)
    made = learn(examples, prompts, SCALE)
    assert made.moved
    added = made.head.logits(made_up.embeddings[rest]) - SCALE * made_up.embeddings[rest] @ prompts.T
    assert (np.abs(added[:, :2].sum(1)) < 1e-3).all() == (fields < 20)  # what one of the two gains, the other loses
    assert (np.abs(added[:, 2:]) < 1e-3).all() == (fields < 20)
    assert np.abs(added[:, :2]).max() > 1


def test_a_row_does_not_depend_on_others_and_learning_repeats() -> None:
    examples, prompts = place(110, away=4.0)
    made, again = learn(examples, prompts, SCALE), learn(examples, prompts, SCALE)
    head = made.with_series or made.head
    assert {k: v.tobytes() for k, v in head.arrays().items()} == {
        k: v.tobytes() for k, v in (again.with_series or again.head).arrays().items()
    }
    assert examples.dn is not None
    whole = head.logits(examples.embeddings, examples.dn)
    assert np.array_equal(head.logits(examples.embeddings[7:9], examples.dn[7:9]), whole[7:9])


def test_arrays_make_the_head_again_and_bad_ones_are_refused() -> None:
    examples, prompts = place(150, away=4.0)
    made = learn(examples, prompts, SCALE)
    head = made.with_series or made.head
    arrays = head.arrays()
    assert np.array_equal(Head.of(arrays).logits(examples.embeddings, examples.dn), head.logits(
        examples.embeddings, examples.dn))  # fmt: skip
    with pytest.raises(ValueError, match="finite"):
        Head.of(arrays | {"bias": np.full(4, np.nan, np.float32)})
    with pytest.raises(ValueError, match="belong"):
        Head.of(arrays | {"bias": np.zeros(3, np.float32)})
    with pytest.raises(KeyError):
        Head.of({"vectors": arrays["vectors"]})


def test_one_group_cannot_be_tested_and_says_so() -> None:
    examples, prompts = place(6)
    one = Examples(examples.embeddings, examples.classes, np.zeros(6, np.intp))
    made = learn(one, prompts, SCALE)
    assert not made.helps
    assert "one group" in made.says
    assert np.allclose(made.head.logits(one.embeddings), SCALE * one.embeddings @ prompts.T, atol=1e-4)


def test_out_of_fold_answers_are_probabilities() -> None:
    examples, prompts = place(90, away=2.0)
    made = learn(examples, prompts, SCALE)
    assert np.allclose(made.validated.probability.sum(1), 1)
    assert np.allclose(made.zero_shot.sum(1), 1)
    assert made.validated.loss == pytest.approx(log_loss(np.log(made.validated.probability), examples.classes))


def test_points_that_the_map_does_not_show_teach_but_have_no_say() -> None:
    examples, prompts = place(120, away=0.0, noise=0.8)
    rng = np.random.default_rng(5)
    hidden = np.arange(120) % 2 == 0
    other = rng.normal(size=32) * 3  # a kind of land beside the classes, whose words are wrong there
    embeddings = np.where(hidden[:, None], unit(other + rng.normal(size=(120, 32))), examples.embeddings)
    classes = np.where(hidden, 3, examples.classes)
    whole = replace(examples, embeddings=embeddings.astype(np.float32), classes=classes, dn=None)
    everywhere, shown = learn(whole, prompts, SCALE), learn(replace(whole, shown=~hidden), prompts, SCALE)
    assert everywhere.helps  # by the hidden half
    assert "60 points that the map shows" in shown.says
    assert np.isinf(shown.validated.strengths.penalty)  # of the other half, the words are right as often
    none = learn(replace(whole, shown=np.zeros(120, bool)), prompts, SCALE)
    assert not none.helps
    assert "no point lies where the map shows these classes" in none.says
    assert np.allclose(none.head.logits(whole.embeddings), SCALE * whole.embeddings @ prompts.T, atol=1e-4)


def pixels_of_kinds(rng: np.random.Generator, n: int, size: int = 8) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """(n, size) values of 20 kinds, each ten times as wide in the first direction as in the others; and the kinds."""
    kinds = rng.integers(0, 20, n)
    means = np.random.default_rng(3).normal(size=(20, size))
    return means[kinds] + rng.normal(size=(n, size)) * np.r_[10.0, np.ones(size - 1)], kinds


def test_scatter_is_the_covariance_within_kinds_whatever_these_are() -> None:
    x, kinds = pixels_of_kinds(np.random.default_rng(0), 4000)
    dn = np.exp(7 + 0.1 * x).reshape(4000, 4, 2).round().astype(np.uint16)
    dn[:50, 2] = 0  # a month without data
    found = Scatter.of(x.astype(np.float32), dn, kinds)
    each = [np.cov(x[kinds == k].T, bias=True) * (kinds == k).sum() for k in range(20)]
    assert np.allclose(found.embeddings, sum(each) / 4000, atol=1e-4)
    assert np.allclose(np.sqrt(np.diag(found.series))[[0, 1, 6]], [1.0, 0.1, 0.1], rtol=0.05)
    turn = found.embedding_turn()
    assert np.allclose(turn, turn.T)
    lengths = np.linalg.norm(np.eye(8) @ turn, axis=1)
    assert lengths[0] < 0.2 * lengths[1:].min()
    rows = [2, 3, 6, 7]  # of months 1 and 3
    series, turn = found.series[np.ix_(rows, rows)], found.series_turn((1, 3), bands=2)
    assert np.allclose(np.linalg.inv(turn @ turn), series / np.trace(series) + SERIES_FLOOR * np.eye(4))
    few = Scatter.of(x[:30].astype(np.float32), dn[:30], np.arange(30))  # no kind has two
    assert np.isfinite(few.embedding_turn()).all()


def test_scatter_helps_where_pixels_of_a_class_are_unlike_in_a_way_that_tells_nothing() -> None:
    right = {True: 0.0, False: 0.0}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        size, noise = 16, np.r_[np.full(8, 4.0), np.full(8, 0.5)]
        means = np.random.default_rng(7).normal(size=(4, size))
        y, truth = rng.integers(0, 4, 60), rng.integers(0, 4, 2000)
        x, test = (unit(means[k] + rng.normal(size=(len(k), size)) * noise) for k in (y, truth))
        prompts = unit(np.random.default_rng(8).normal(size=(4, size)))  # words that tell nothing
        kinds = rng.integers(0, 50, 5000)
        many = unit(np.random.default_rng(9).normal(size=(50, size))[kinds] + rng.normal(size=(5000, size)) * noise)
        scatter = Scatter.of(many, np.ones((5000, 12, 10), np.uint16), kinds)
        for given in (True, False):
            examples = Examples(x, y, np.arange(60))
            made = learn(examples, prompts, SCALE, scatter if given else None)
            right[given] += (made.head.logits(test).argmax(1) == truth).mean() / 6
    assert right[True] > right[False] + 0.05


def test_the_head_of_turned_features_is_the_regression_that_was_fitted() -> None:
    examples, prompts = place(120, away=3.0)
    assert examples.dn is not None
    kinds = np.random.default_rng(1).integers(0, 10, 120)
    scatter = Scatter.of(examples.embeddings, examples.dn, kinds)
    made = learn(examples, prompts, SCALE, scatter)
    features = _Features.of(examples, scatter)
    rows, strengths = features.rows(examples), made.validated.strengths
    prior = SCALE * examples.embeddings.astype(np.float64) @ prompts.T.astype(np.float64)
    fitted = fit(rows, examples.classes, prior, strengths.penalty, share=balanced(examples.classes))
    assert made.with_series is not None
    logits = made.with_series.logits(examples.embeddings, examples.dn)
    assert np.abs(logits - strengths.scale * (prior + rows @ fitted)).max() < 0.2
    some = examples.dn.copy()
    some[:, 5:] = 0  # months without data add nothing
    alone = replace(examples, dn=some[:, :5], months=MONTHS[:5])
    part = made.with_series.series
    assert part is not None
    assert np.allclose(
        part.logits(torch.from_numpy(some)), part.logits(torch.from_numpy(alone.dn), MONTHS[:5]), atol=1e-4
    )


def test_the_heads_with_and_without_series_keep_the_words_or_both_move() -> None:
    both = set()
    for seed in range(12):
        examples, prompts = place(60, seed=seed, away=1.2, noise=2.0)
        assert examples.dn is not None
        if seed % 2:
            rng = np.random.default_rng(seed)
            examples = replace(examples, dn=rng.integers(1500, 2500, examples.dn.shape).astype(np.uint16))
        made = learn(examples, prompts, SCALE)
        kept = np.allclose(made.head.vectors, SCALE * prompts, atol=1e-5)
        assert kept == np.isinf(made.validated.strengths.penalty)
        assert made.with_series is not None
        assert kept == np.allclose(made.with_series.vectors, SCALE * prompts, atol=1e-5)
        both.add(bool(kept))
    assert both == {True, False}
