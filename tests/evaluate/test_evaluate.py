"""Evaluation: metrics against sklearn and plain loops, the protocol on cases counted by hand, the whole command."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from geomap import legends
from geomap.datasets.samples import Samples
from geomap.datasets.series import embed_samples, shorten, some_months
from geomap.datasets.sets import read_set
from geomap.datasets.worldcereal import read_flanders
from geomap.encode import weights
from geomap.encode.card import TrainingSource
from geomap.encode.weights import Weights
from geomap.errors import InputError
from geomap.evaluate import baselines, compare, metrics, plots, prompt_kinds, protocol, report, tables, zero_shot
from geomap.label import towers
from geomap.points.read import Points
from geomap.run.point_samples import nearest_legend
from geomap.simulate import covers
from tests.support.layouts import write_cut, write_label_csv, write_photo_dictionary
from tests.support.runner import geomap

CPU = torch.device("cpu")
QUIET = protocol.Options(device="cpu", kinds=("D",), draws=2)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forests of 10 trees and coarse figures: what is tested here needs no more."""
    monkeypatch.setattr(baselines, "TREES", 10)
    monkeypatch.setattr(plots, "DPI", 25)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.fixture(scope="module")
def loaded(untrained: str) -> Weights:
    return weights.load_weights(untrained)


def made(rng: np.random.Generator, n: int, labels: dict[str, Any], **more: Any) -> Samples:
    """n random series, about a quarter of their months missing, the first month always there."""
    dn = rng.integers(1, 6000, (n, 12, 10)).astype(np.uint16)
    valid = rng.random((n, 12)) > 0.25
    valid[:, 0] = True
    dn[~valid] = 0
    ids = np.array([str(i) for i in range(n)])
    return Samples("made", ids, dn, valid, {k: np.asarray(v) for k, v in labels.items()}, **more)


# ---- metrics


def test_classification_metrics_equal_sklearns(rng: np.random.Generator) -> None:
    truth, classes = rng.choice([2, 5, 9, 11], 200), [11, 2, 5, 7, 9]  # 7 never occurs, the order is not ascending
    predicted = np.where(rng.random(200) < 0.5, truth, rng.choice(classes, 200))
    matrix = metrics.confusion(truth, predicted, classes)
    present = np.unique(truth)
    assert metrics.accuracy(truth, predicted) == sk.accuracy_score(truth, predicted)
    assert (matrix == sk.confusion_matrix(truth, predicted, labels=classes)).all()
    assert metrics.macro_f1(matrix) == pytest.approx(sk.f1_score(truth, predicted, labels=present, average="macro"))
    assert metrics.balanced_accuracy(matrix) == pytest.approx(
        np.mean([(predicted[truth == c] == c).mean() for c in present])
    )
    f1 = metrics.class_f1(matrix)
    assert np.isnan(f1[3])
    kept = [0, 1, 2, 4]
    assert f1[kept] == pytest.approx(sk.f1_score(truth, predicted, labels=np.array(classes)[kept], average=None))
    with pytest.raises(ValueError, match="outside"):
        metrics.confusion(np.array([3]), np.array([2]), classes)


def test_top_k_equals_sklearns_and_counts_ties_as_argmax(rng: np.random.Generator) -> None:
    scores, truth = rng.normal(size=(300, 7)), rng.integers(0, 7, 300)
    for k in (1, 3, 5):
        expected = sk.top_k_accuracy_score(truth, scores, k=k, labels=range(7))
        assert metrics.top_k(truth, scores, k) == pytest.approx(expected)
    tied = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    assert metrics.top_k(np.array([0, 1]), tied, 1) == 0.5
    assert metrics.top_k(np.array([0, 1]), tied, 2) == 1
    assert metrics.top_k(np.array([2, 2]), tied, 5) == 1


def test_calibration_error_equals_a_plain_loop(rng: np.random.Generator) -> None:
    confidence, right = rng.random(500), rng.random(500) < 0.6
    total = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            total += inside.sum() / 500 * abs(right[inside].mean() - confidence[inside].mean())
    bins = metrics.reliability(confidence, right)
    assert bins.error == pytest.approx(total)
    assert bins.count.sum() == 500


def test_calibration_error_by_hand() -> None:
    # two answers at 0.9, one right; one at 1.0, right: 2/3 |0.5 - 0.9| + 1/3 |1 - 1|
    bins = metrics.reliability(np.array([0.9, 0.9, 1.0]), np.array([True, False, True]))
    assert bins.error == pytest.approx(2 / 3 * 0.4)
    assert bins.count[[13, 14]].tolist() == [2, 1]
    assert np.isnan(bins.accuracy[0])


def test_recall_by_hand() -> None:
    query, found = np.array([1, 2, 3]), np.array([[1, 2, 9], [9, 2, 2], [9, 9, 9]])
    assert [metrics.recall_at(query, found, k) for k in (1, 2, 10)] == [pytest.approx(v) for v in (1 / 3, 2 / 3, 2 / 3)]


def test_correlations_equal_their_definitions(rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 6, 40).astype(float), rng.integers(0, 6, 40).astype(float)  # with ties
    assert metrics.pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    i, j = np.triu_indices(40, 1)
    s, t = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
    assert metrics.kendall(a, b) == pytest.approx((s * t).sum() / math.sqrt((s != 0).sum() * (t != 0).sum()))
    assert math.isnan(metrics.pearson(a, np.ones(40)))


# ---- series


@pytest.mark.parametrize(("length", "steps"), [("quarterly", 4), ("annual", 1)])
def test_short_series_are_medians_of_valid_months(rng: np.random.Generator, length: str, steps: int) -> None:
    test = made(rng, 60, {})
    dn, valid = test.dn, test.valid
    dn[~valid] = 7  # values of months that are not valid do not matter
    short = shorten(dn, valid, length)
    known = np.where(valid[..., None], dn.astype(float), np.nan).reshape(60, steps, 12 // steps, 10)
    for row in range(60):
        for step in range(steps):
            some = valid.reshape(60, steps, -1)[row, step].any()
            assert short.valid[row, step] == some
            if some:
                expected = np.floor(np.nanmedian(known[row, step], axis=0))
                assert (short.dn[row, step] == expected).all()
    assert short.months.shape == (steps, 12)
    assert short.months.sum(1) == pytest.approx(1)
    assert (np.flatnonzero(short.months[-1]) == np.arange(12 - 12 // steps, 12)).all()


def test_months_left_are_some_of_the_valid_ones(rng: np.random.Generator) -> None:
    valid = rng.random((400, 12)) > 0.5
    for count in (1, 3, 12):
        kept = some_months(rng, valid, count)
        assert not (kept & ~valid).any()
        assert (kept.sum(1) == np.minimum(valid.sum(1), count)).all()
    assert (some_months(rng, np.ones((4000, 12), bool), 1).mean(0) > 0.05).all()  # every month is drawn


def test_embeddings_of_batches_equal_the_encoders(
    loaded: Weights, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = made(rng, 20, {})
    monkeypatch.setattr("geomap.datasets.series.SERIES_AT_ONCE", 7)
    for length in ("monthly", "quarterly", "annual"):
        s = shorten(test.dn, test.valid, length)
        with torch.inference_mode():
            whole = loaded.encoder(
                torch.from_numpy(s.dn.astype(np.float32)), torch.from_numpy(s.valid), torch.from_numpy(s.months)
            )
        assert torch.allclose(embed_samples(loaded.encoder, test, length), whole, atol=1e-5)


# ---- prompts


def test_kinds_of_prompts() -> None:
    known = legends.load("landcover")
    assert prompt_kinds.asked(known, "D") is known
    assert prompt_kinds.asked(known, "C").classes[1].prompts == ("Cropland",)
    generic = prompt_kinds.asked(known, "G").classes[1].prompts
    assert len(generic) == len(prompt_kinds.GENERIC)
    assert all("Cropland" in p and p != "Cropland" for p in generic)
    assert prompt_kinds.kinds("DC") == ("C", "D")
    for letters in ("X", "", "CX"):
        with pytest.raises(InputError, match="unknown prompts"):
            prompt_kinds.kinds(letters)


def test_names_are_asked_of_the_tower(loaded: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in tower of one number per letter: no model to load."""
    asked: list[str] = []

    class Letters:
        space, dim = towers.MINILM_SPACE, 384

        def encode(self, names: list[str]) -> torch.Tensor:
            asked.extend(names)
            counts = torch.tensor([[n.count(chr(i)) + 0.01 for i in range(self.dim)] for n in names])
            return torch.nn.functional.normalize(counts, dim=1)

    monkeypatch.setattr(towers, "tower", lambda space: Letters())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    known = legends.load("landcover")
    assert torch.equal(
        prompt_kinds.vectors(loaded, known), loaded.class_vectors[known.digest]
    )  # stored with the weights
    assert asked == []
    assert torch.allclose(prompt_kinds.vectors(loaded, known, "C"), Letters().encode([c.name for c in known.classes]))
    assert prompt_kinds.vectors(loaded, known, "G").shape == (8, 384)
    assert "a satellite image of Cropland" in asked


# ---- protocol


def test_top_1_and_top_5_counted_by_hand() -> None:
    known = legends.load("landcover")  # 8 classes, ids 1..8
    vectors = torch.eye(8)
    cosines = torch.tensor(
        [
            [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2],  # truth 1: first
            [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2],  # truth 5: fifth
            [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2],  # truth 6: sixth
            [0.1, 0.2, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0],  # truth 3: first
        ]
    )
    score = zero_shot.score_cosines(known, np.array([1, 5, 6, 3]), cosines, vectors, 1.0, "monthly", "D")
    assert (score.top1, score.top5) == (2 / 4, 3 / 4)
    assert score.balanced_accuracy == 2 / 4
    assert score.macro_f1 == pytest.approx((2 * 1 / (1 + 3) + 0 + 0 + 1) / 4)
    assert score.reliability is not None
    assert score.reliability.count.sum() == 4


def test_a_prediction_does_not_depend_on_other_samples(loaded: Weights, rng: np.random.Generator) -> None:
    test = made(rng, 90, {"crops": rng.integers(0, 41, 90)})
    known = legends.load("crops")

    def counts(part: Samples) -> np.ndarray:
        embeddings = embed_samples(loaded.encoder, part)
        (score,) = zero_shot.zero_shot_scores(
            known, part, {"monthly": embeddings}, {"D": prompt_kinds.vectors(loaded, known)}, 30.0
        )
        return score.confusion

    first = np.arange(90) < 30
    assert (counts(test.rows(first)) + counts(test.rows(~first)) == counts(test)).all()
    assert counts(test).sum() == (test.labels["crops"] > 0).sum()


def test_retrieval_counted_by_hand(rng: np.random.Generator) -> None:
    east, north = [1.0, 0.0], [0.0, 1.0]
    pixels = torch.tensor([east, [0.8, 0.6], north, north, east])
    photos = np.array([[2, 0], [0, 3], [0, 5], [math.nan] * 2, [0.8, 0.6]], np.float32)  # lengths do not matter
    # the fourth has no photo, the fifth no class: neither is query or gallery
    test = made(rng, 5, {"landcover": [1, 1, 2, 2, 0]}, photos=photos, country=np.array(["BE", "", "BE", "FR", "BE"]))
    found = {(r.classes, r.query): r for r in protocol.retrieve(test, {"monthly": pixels}, QUIET)}
    # photo queries: 1 -> pixel 1 (class 1, hit); 2 (north) -> pixel 3 (class 2, miss), then pixel 2; 3 -> pixel 3 (hit)
    assert found["landcover", "photo"].recall == {1: pytest.approx(2 / 3), 5: 1, 10: 1}
    # pixel queries: 1 -> photo 1 (hit); 2 (0.8, 0.6) -> photo 1 (hit); 3 -> photo 2 or 3, equal cosines
    assert found["landcover", "pixel"].recall[1] in (pytest.approx(2 / 3), pytest.approx(1))
    assert found["landcover", "pixel"].n == 3
    assert found["country", "photo"].n == 3  # 1, 3 and 5, all of Belgium
    assert found["country", "photo"].recall[1] == 1


def test_nearest_comes_first_in_every_batch(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "QUERIES", 6)
    query, gallery = rng.normal(size=(20, 4)), rng.normal(size=(9, 4))
    found = protocol.nearest(torch.from_numpy(query), torch.from_numpy(gallery), 10, CPU)
    assert (found == (-(query @ gallery.T)).argsort(1)).all()


def test_photos_of_another_space_are_refused(loaded: Weights, rng: np.random.Generator) -> None:
    test = made(rng, 3, {"landcover": [1, 1, 2]}, photos=np.ones((3, 5), np.float32))
    with pytest.raises(InputError, match="5 numbers do not fit embeddings of 384"):
        protocol.measure(loaded, test, QUIET)


def test_scenicness_early_and_late(loaded: Weights, rng: np.random.Generator) -> None:
    people = rng.uniform(1, 10, 50)
    people[7] = math.nan
    test = made(rng, 50, {}, scores=people)
    embeddings = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(50, 384)).astype(np.float32)), dim=1)
    found = {s.ensembling: s for s in protocol.scenicness(loaded, test, {"monthly": embeddings})}
    rated = legends.load("scenicness").prompts
    ratings = np.array([p.rating for p in rated])
    logits = loaded.card.logit_scale * (embeddings @ loaded.class_vectors[legends.load("scenicness").digest].T).numpy()

    def weighed(columns: Any) -> np.ndarray:
        e = np.exp(logits[:, columns] - logits[:, columns].max(1, keepdims=True))
        return (e / e.sum(1, keepdims=True)) @ ratings[columns]

    of_voter = {v: np.array([i for i, p in enumerate(rated) if p.voter == v]) for v in {p.voter for p in rated}}
    late = np.mean([weighed(i) for i in of_voter.values() if len(i) >= 8], axis=0)
    known = np.isfinite(people)
    for name, score in (("early", weighed(np.arange(len(rated)))), ("late, 8 prompts or more", late)):
        assert found[name].n == 49
        assert found[name].pearson == pytest.approx(np.corrcoef(score[known], people[known])[0, 1], abs=1e-5)


def test_months_left(loaded: Weights, rng: np.random.Generator) -> None:
    test = made(rng, 80, {"landcover": rng.integers(0, 9, 80)})
    result = protocol.measure(loaded, test, QUIET)
    rows = {m.months: m for m in result.months}
    (own,) = [s for s in result.scores if (s.method, s.length) == ("encoder", "monthly")]
    assert rows[12].mean == own.top1
    assert rows[12].kept == pytest.approx(test.valid.sum(1).mean())
    truth, shares = test.labels["landcover"], []
    for draw in range(2):
        valid = some_months(np.random.default_rng([1, draw]), test.valid, 1)
        e = embed_samples(loaded.encoder, replace(test, valid=valid))
        nearest = (e @ loaded.class_vectors[legends.load("landcover").digest].T).argmax(1).numpy() + 1
        shares.append((nearest == truth)[truth > 0].mean())
    assert rows[1].mean == pytest.approx(np.mean(shares))
    assert rows[1].sd == pytest.approx(abs(shares[0] - shares[1]) / math.sqrt(2))
    assert rows[1].kept == 1


def test_samples_without_a_month_are_left_out_and_counted(loaded: Weights, rng: np.random.Generator) -> None:
    test = made(rng, 30, {"landcover": np.full(30, 2)})
    test.valid[:4] = False
    result = protocol.measure(loaded, test, replace(QUIET, draws=0))
    assert (result.samples, result.without_months) == (30, 4)
    assert {s.n for s in result.scores} == {26}
    test.valid[:] = False
    with pytest.raises(InputError, match="no sample of made"):
        protocol.measure(loaded, test, QUIET)


# ---- baselines


def test_missing_months_take_the_mean_of_the_series() -> None:
    dn = np.zeros((1, 12, 2), np.uint16)
    valid = np.zeros((1, 12), bool)
    dn[0, 3], dn[0, 8], valid[0, [3, 8]] = [10, 40], [20, 60], True
    expected = np.tile([15.0, 50.0], (12, 1))
    expected[3], expected[8] = [10, 40], [20, 60]
    assert (baselines.series_table(dn, valid) == expected.reshape(1, -1)).all()


def test_folds_part_groups(rng: np.random.Generator) -> None:
    groups, y = rng.integers(0, 12, 100), rng.integers(1, 4, 100)

    def seen(x: np.ndarray, y: np.ndarray, x_test: np.ndarray) -> np.ndarray:
        return np.isin(x_test[:, 0], x[:, 0]).astype(np.intp) + 1

    found = baselines.cross_validated(seen, groups[:, None].astype(float), y, groups)
    assert (found == 1).all()  # predicted, and never by a model that saw the group
    alone = baselines.cross_validated(seen, groups[:, None].astype(float), y, np.arange(100))
    assert (alone == 2).any()
    few = baselines.cross_validated(seen, groups[:, None].astype(float), y, groups % 2)
    assert (few == 1).all()
    with pytest.raises(ValueError, match="two groups"):
        baselines.cross_validated(seen, groups[:, None].astype(float), y, np.zeros(100, int))


def test_folds_never_part_a_series_that_occurs_twice(rng: np.random.Generator) -> None:
    once = made(rng, 30, {"landcover": np.full(30, 2)})
    blank = replace(once.rows(np.arange(2)), valid=np.zeros((2, 12), bool))
    sets = [once, once.rows(np.arange(20)), blank]
    twice = replace(once, **{name: np.concatenate([getattr(s, name) for s in sets]) for name in ("id", "dn", "valid")})
    alone, _ = twice.folds()
    assert (alone[30:50] == alone[:20]).all()
    assert len(set(alone.tolist())) == 32  # series without a month have nothing in common
    fields, _ = replace(twice, groups=np.arange(52) // 10).folds()
    assert len(set(fields[:50].tolist())) == 3  # 0 to 9 with 30 to 39, 10 to 19 with 40 to 49, and 20 to 29
    assert (fields[:20] == fields[30:50]).all()


def test_a_set_without_classes_photos_and_scores_is_refused(loaded: Weights, rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="no sample of made has a class, a photo or a score; there is nothing to"):
        protocol.measure(loaded, made(rng, 5, {"landcover": np.zeros(5, int)}), QUIET)


@pytest.mark.parametrize("name", ["random forest", "linear probe"])
def test_fitted_baselines_learn(name: str, rng: np.random.Generator) -> None:
    y = rng.choice([3, 8], 120)
    x = rng.normal(size=(120, 4)) + 4 * (y == 3)[:, None]
    method = compare.METHODS[name]
    assert (method(x[:80], y[:80], x[80:]) == y[80:]).mean() > 0.95
    assert (method(x, np.full(120, 3), x) == 3).all()


@pytest.mark.parametrize(
    ("labelled", "said"),
    [
        ([8, 8], "5 folds inside the test set, parted by group"),
        ([2, 2], "2 folds inside"),
        ([3, 8], "5 folds inside the test set, as few as 3 for some legends, parted by group"),
        ([1, 8], "5 folds inside the test set, none for some legends, parted by group"),
        ([1, 1], "the commonest class alone, as folds need two groups"),
    ],
)
def test_as_many_folds_are_told_as_there_are(
    loaded: Weights, rng: np.random.Generator, labelled: list[int], said: str
) -> None:
    groups = np.arange(40) % 8
    of = {
        name: np.where(groups < n, 1 + np.arange(40) % 3, 0)
        for name, n in zip(("landcover", "crops"), labelled, strict=True)
    }
    result = protocol.measure(loaded, made(rng, 40, of, groups=groups), replace(QUIET, draws=0))
    assert result.baselines.startswith(said)
    fitted = {s.legend for s in result.scores if s.method == "random forest"}
    assert fitted == {name for name, n in zip(of, labelled, strict=True) if n > 1}


def test_a_set_that_was_trained_on_is_known_by_its_series(loaded: Weights, rng: np.random.Generator) -> None:
    seen, other = (made(rng, 300, {"landcover": np.full(300, 2)}) for _ in range(2))
    source = TrainingSource(name="mine", kind="measured", samples=300, licence="none", series=seen.sketch())
    trained = replace(loaded, card=loaded.card.model_copy(update={"training": (source,)}))
    assert len(source.series.split()) == 64
    for test, known in (
        (seen, True),
        (other, False),
        (seen.rows(rng.permutation(300)[:60]), True),
        (
            replace(
                other,
                dn=np.concatenate([other.dn[:250], seen.dn[:50]]),
                valid=np.concatenate([other.valid[:250], seen.valid[:50]]),
            ),
            True,
        ),
        (replace(other, name="mine"), True),
    ):
        assert protocol.measure(trained, test, replace(QUIET, draws=0)).trained_on == known


def test_majority() -> None:
    assert baselines.majority(np.zeros((4, 1)), np.array([5, 2, 5, 2]), np.zeros((3, 1))).tolist() == [2, 2, 2]


def test_baselines_of_a_training_set(loaded: Weights, rng: np.random.Generator) -> None:
    truth = rng.integers(1, 9, 60)
    test = made(rng, 60, {"landcover": truth, "crops": rng.integers(0, 41, 60)})
    train = made(rng, 50, {"landcover": np.where(np.arange(50) < 30, 4, 7)})
    result = protocol.measure(loaded, test, replace(QUIET, draws=0), train)
    fitted = {(s.legend, s.method): s for s in result.scores if s.method != "encoder"}
    assert set(fitted) == {("landcover", m) for m in compare.METHODS}  # no labels of crops to fit
    assert fitted["landcover", "majority"].top1 == (truth == 4).mean()
    assert fitted["landcover", "random forest"].confusion.sum(0).nonzero()[0].tolist() in ([3], [6], [3, 6])
    assert "50 samples" in result.baselines


# ---- sets


def points(n: int) -> list[str]:
    """POINT_IDs in Belgium and France, 40 km apart."""
    return [f"{3800 + 40 * (i // 6):04d}{2900 + 40 * (i % 6):04d}" for i in range(n)]


@pytest.fixture
def cut(tmp_path: Path, rng: np.random.Generator) -> dict[str, Any]:
    """A published cut file of 36 points with all labels, photos of 384 numbers, and people's scores of 20 points."""
    n, ids = 36, points(36)
    attributes = {
        "lc1": rng.choice(["B11", "B16", "C10", "E20"], n).tolist(),
        "lu1": rng.choice(["U111", "U120"], n).tolist(),
        "nuts0": rng.choice(["BE", "FR"], n).tolist(),
        "EUNIS_L2": rng.integers(0, 44, n).tolist(),
    }
    image = rng.integers(1, 6000, (n, 12, 10))
    path = write_cut(tmp_path / "test.h5", ids, image, attributes)
    vectors = {f"{c}_{i}{d}": rng.normal(size=384) for c, i in zip(attributes["nuts0"], ids, strict=True) for d in "NE"}
    write_photo_dictionary(tmp_path / "photos.pt", vectors)
    row = {"im_id": f"Lucas_Point_{ids[0]}", "lat": 5.0, "lon": 50.0, "bioregion_class": "Atlantic"}
    rows = [{**row, "im_id": f"Lucas_Point_{i}"} for i in ids]
    write_label_csv(tmp_path / "labels.csv", rows)
    with (tmp_path / "scores.csv").open("w", newline="") as f:
        csv.writer(f).writerows([("id", "score"), *((i, 1 + k % 9) for k, i in enumerate(ids[:20]))])
    return {"path": path, "image": image, "attributes": attributes, "ids": ids, "vectors": vectors}


def test_a_cut_file_becomes_a_set(tmp_path: Path, cut: dict[str, Any]) -> None:
    test = read_set(str(cut["path"]), 1, None, tmp_path / "labels.csv", tmp_path / "scores.csv")
    assert set(test.labelled) == set(protocol.PAPER_LEGENDS)
    assert (test.labels["landcover"] == [" ABCDEFGH".index(c[0]) for c in cut["attributes"]["lc1"]]).all()
    assert test.scores is not None
    assert np.isfinite(test.scores).sum() == 20
    groups, grouped_by = test.folds()
    assert grouped_by == "cells of one degree"
    assert test.lonlat is not None
    cells = [tuple(c) for c in np.floor(test.lonlat).tolist()]
    assert all((cells[i] == cells[j]) == (groups[i] == groups[j]) for i in range(36) for j in range(36))
    with pytest.raises(InputError, match="36 samples of test"):
        test.refuse_overlap(test)


@pytest.mark.parametrize(
    ("content", "message"),
    [("point,score\n1,2\n", "columns id and score"), ("id,score\n1,nice\n", "line 2: the score 'nice'")],
)
def test_broken_scores_are_refused(tmp_path: Path, cut: dict[str, Any], content: str, message: str) -> None:
    (tmp_path / "broken.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_set(str(cut["path"]), 1, scenicness=tmp_path / "broken.csv")


def test_unknown_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown set 'wallonia'"):
        read_set("wallonia=x.npz", 1)
    with pytest.raises(InputError, match="these weights take 9 x 9"):
        read_set("flanders=x.npz", 9)
    with pytest.raises(InputError, match=r"no file x\.npz"):
        read_set("flanders=x.npz", 1)


def places(*names: str) -> Points:
    return Points((Path("points.csv"),), np.zeros((len(names), 2)), names, np.arange(len(names)))


def test_the_legend_of_points_is_that_of_their_names_or_of_the_column_of_ids() -> None:
    assert nearest_legend(places("Maize", "common wheat", "Water"), "landcover").name == "crops"
    assert nearest_legend(places("2", "", "7"), "LandCover").name == "landcover"
    assert nearest_legend(places("2", "7"), "crops").name == "crops"
    assert nearest_legend(places("2", "44"), "class").name == "habitat"  # the only legend with so many classes
    with pytest.raises(InputError, match=r"column class .* fit bioregion, crops, habitat, landuse; write the names"):
        nearest_legend(places("2", "12"), "class")
    with pytest.raises(InputError, match="no class of"):
        nearest_legend(places("2", "99"), "landcover")


# ---- the report


def test_papers_figures_are_consistent() -> None:
    found = tables.paper()
    for row in found["zero_shot"]["values"].values():
        for kind in prompt_kinds.KINDS:
            assert row["overall"][kind] == pytest.approx(
                np.mean([row[n][kind] for n in protocol.PAPER_LEGENDS]), abs=0.006
            )
    for row in found["retrieval"]["values"].values():
        for query in ("photo", "pixel"):
            mean = np.mean([row[n][query] for n in (*protocol.PAPER_LEGENDS, "country")])
            assert row["overall"][query] == pytest.approx(mean, abs=0.0015)
    supervised = found["supervised"]["values"]
    assert supervised["overall"] == pytest.approx(np.mean([supervised[n] for n in protocol.PAPER_LEGENDS]), abs=0.05)


def parse(markdown: str, title: str) -> list[dict[str, str]]:
    """Rows of the first Markdown table under a heading that starts with `title`."""
    lines = iter(markdown.split(f"### {title}", 1)[1].splitlines())
    table: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            break
    assert all(len(row) == len(table[0]) for row in table)
    return [dict(zip(table[0], row, strict=True)) for row in table[2:]]


def command(*arguments: str) -> Any:
    return geomap("evaluate", *arguments, columns=120)


def test_command_on_a_cut_file(tmp_path: Path, cut: dict[str, Any], untrained: str, loaded: Weights) -> None:
    out = tmp_path / "report"
    done = command(
        untrained, "--data", str(cut["path"]), "--photos", str(tmp_path / "photos.pt"), "--prompts", "D",
        "--labels", str(tmp_path / "labels.csv"), "--scenicness", str(tmp_path / "scores.csv"), "--out", str(out),
        "--draws", "1",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (found,) = json.loads((out / "results.json").read_text())["sets"]
    dn = torch.from_numpy(cut["image"].astype(np.float32))
    with torch.inference_mode():
        e = loaded.encoder(dn, torch.ones(36, 12, dtype=torch.bool), torch.arange(12))
    truth = np.array([" ABCDEFGH".index(c[0]) for c in cut["attributes"]["lc1"]])
    right = (e @ loaded.class_vectors[legends.load("landcover").digest].T).argmax(1).numpy() + 1 == truth
    own = {(s["legend"], s["length"]): s for s in found["scores"] if s["method"] == "encoder"}
    assert own["landcover", "monthly"]["top1"] == right.mean()
    raw = torch.tensor(np.array([(cut["vectors"][f"{c}_{i}N"] + cut["vectors"][f"{c}_{i}E"]) / 2
                                 for c, i in zip(cut["attributes"]["nuts0"], cut["ids"], strict=True)]))  # fmt: skip
    cosine = torch.nn.functional.normalize(raw, dim=1).float() @ e.T
    hits = truth[cosine.argmax(1).numpy()] == truth
    recalls = {(r["classes"], r["query"], r["length"]): r["recall"]["1"] for r in found["retrieval"]}
    assert recalls["landcover", "photo", "monthly"] == pytest.approx(hits.mean())
    text_ = (out / "results.md").read_text()
    rows = parse(text_, "Accuracy, percent (")
    overall = [r for r in rows if (r["legend"], r["method"]) == ("overall", "encoder, monthly")]
    mean = np.mean([own[name, "monthly"]["top1"] for name in protocol.PAPER_LEGENDS])
    assert [(r["top-1"], r["paper"]) for r in overall] == [(f"{100 * mean:.1f}", "47.35")]
    assert {r["paper tau"] for r in parse(text_, "Scenicness") if r["series"] == "annual"} >= {"0.223", "0.231"}
    assert len(parse(text_, "Retrieval")) == (6 + 1) * 2 * 3
    for name in ("confusion_habitat.png", "confusion_crops.csv", "reliability.png", "months.png"):
        assert (out / f"test_{name}").stat().st_size > 0


def test_command_refuses_the_test_set_as_training_set(tmp_path: Path, cut: dict[str, Any], untrained: str) -> None:
    source = str(cut["path"])
    done = command(untrained, "--data", source, "--train", source, "--out", str(tmp_path / "o"))
    assert done.exit_code == 2
    assert "in the training set too" in done.output


@pytest.fixture(scope="module")
def few_fields(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Flemish series with every fifth label of every fifth row: 149 pixels that do not touch."""
    path = tmp_path_factory.mktemp("flanders") / "series.npz"
    with np.load(shared / "data/patch_belgium_2019/series.npz") as f:
        layers = dict(f)
    kept = np.zeros_like(layers["CT"])
    kept[::5, ::5] = layers["CT"][::5, ::5]
    np.savez(path, **{**layers, "CT": kept})
    return path


def test_command_on_the_flemish_series(few_fields: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    done = command("default", "--data", f"flanders={few_fields}", "--out", str(out), "--draws", "1", "--prompts", "D")
    assert done.exit_code == 0, done.output
    assert "trained on this set" in " ".join(done.output.split())
    default, series = weights.load_weights("default"), read_flanders(few_fields)
    with torch.inference_mode():
        dn = torch.from_numpy(series.dn.astype(np.float32))
        e = default.encoder(dn, torch.from_numpy(series.valid), torch.arange(12))
    rows = parse((out / "results.md").read_text(), "Accuracy, percent (")
    (stored,) = json.loads((out / "results.json").read_text())["sets"]
    for name, attribute in (("landcover", "landcover"), ("crops", "crop")):
        known = legends.load(name)
        truth = np.array([0, *(getattr(c, attribute) for c in covers.table().cover)])[series.labels["cover"]]
        ids = np.array([c.id for c in known.classes])
        vectors = default.class_vectors.get(known.digest)
        if vectors is None:  # a legend that was changed after the training
            vectors = towers.class_vectors(known, towers.tower(towers.MINILM_SPACE))
        predicted = ids[(e @ vectors.T).argmax(1).numpy()][truth > 0]
        truth = truth[truth > 0]
        way = {"legend": name, "method": "encoder", "length": "monthly", "prompts": "D"}
        (score,) = [s for s in stored["scores"] if way.items() <= s.items()]
        assert score["n"] == len(truth)
        assert score["top1"] == pytest.approx((predicted == truth).mean())
        assert score["macro_f1"] == pytest.approx(
            sk.f1_score(truth, predicted, labels=np.unique(truth), average="macro")
        )
        (row,) = [r for r in rows if (r["legend"], r["method"], r["prompts"]) == (name, "encoder, monthly", "D")]
        assert row["top-1"] == f"{100 * score['top1']:.1f}"
        with (out / f"flanders_2019_confusion_{name}.csv").open() as f:
            table = list(csv.reader(f))
        counts = np.array([line[1:] for line in table[1:]], int)
        assert (counts == sk.confusion_matrix(truth, predicted, labels=ids)).all()
        assert table[0][1:] == [c.name for c in known.classes]
        assert (out / f"flanders_2019_confusion_{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_report_is_valid_json_where_figures_are_missing(
    tmp_path: Path, loaded: Weights, rng: np.random.Generator
) -> None:
    test = made(rng, 12, {"landcover": np.full(12, 3)}, scores=np.full(12, 5.0))  # constant: no correlation
    result = protocol.measure(loaded, test, replace(QUIET, draws=0))
    report.write_report(tmp_path, loaded, [result])
    (found,) = json.loads((tmp_path / "results.json").read_text())["sets"]
    assert found["scenicness"][0]["pearson"] is None
    assert list(found["scores"][0]["class_f1"]) == ["Woodland"]
