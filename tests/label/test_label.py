"""Scores by early and late ensembling, against loops written out; and that a run knows which one it was asked for."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geomap import aoi, legends
from geomap.errors import OutputError
from geomap.label.classify import Question, TileLabels, answer, score
from geomap.legends import Legend, RatedPrompt
from geomap.run.directory import open_directory
from geomap.run.identity import identity_of
from geomap.run.learning import base_of
from geomap.run.prepare import prepare
from geomap.run.request import Request
from geomap.types import Period

SCALE = 20.0


def unit(rng: np.random.Generator, n: int, d: int = 16) -> np.ndarray:
    x = rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def rated(*votes: tuple[str | None, float], ensembling: str = "early", min_prompts: int = 2) -> Legend:
    prompts = tuple(RatedPrompt(text=f"scene {i}", rating=r, voter=v) for i, (v, r) in enumerate(votes))
    return Legend(
        name="view",
        title="View",
        kind="score",
        range=(1, 10),
        prompts=prompts,
        ensembling=ensembling,
        min_prompts=min_prompts,
    )


def written_out(found: Legend, vectors: np.ndarray, pixel: np.ndarray) -> float:
    """One pixel's score with plain loops, in float64: the formulas of paper A.1.3."""
    voters: dict[str | None, list[int]] = {}
    for i, p in enumerate(found.prompts):
        voters.setdefault(p.voter if found.ensembling == "late" else None, []).append(i)
    scores = []
    for members in voters.values():
        if found.ensembling == "late" and len(members) < found.min_prompts:
            continue
        total = weighted = 0.0
        for i in members:
            cosine = sum(float(a) * float(b) for a, b in zip(pixel, vectors[i], strict=True))
            total += math.exp(SCALE * cosine)
            weighted += math.exp(SCALE * cosine) * found.prompts[i].rating
        scores.append(weighted / total)
    return sum(scores) / len(scores)


VOTES = [("ann", 1), ("bob", 9), ("ann", 10), ("cid", 4), ("bob", 2), ("ann", 5), ("dee", 7), ("dee", 3)]


@pytest.mark.parametrize(("ensembling", "min_prompts"), [("early", 2), ("late", 1), ("late", 2), ("late", 3)])
def test_scores_are_those_of_the_formulas(ensembling: str, min_prompts: int) -> None:
    rng = np.random.default_rng(11)
    found = rated(*VOTES, ensembling=ensembling, min_prompts=min_prompts)
    vectors, pixels = unit(rng, len(VOTES)), unit(rng, 40)
    made = answer(Question(found, torch.from_numpy(vectors), SCALE), torch.from_numpy(pixels))
    expected = [written_out(found, vectors, pixel) for pixel in pixels]
    np.testing.assert_allclose(made.value, expected, atol=2e-5)
    assert made.value.dtype == np.float32
    assert made.confidence is None


@pytest.mark.parametrize("ensembling", ["early", "late"])
def test_a_pixel_s_score_does_not_depend_on_its_batch(ensembling: str) -> None:
    rng = np.random.default_rng(12)
    found = legends.load("scenicness").model_copy(update={"ensembling": ensembling})
    question = Question(found, torch.from_numpy(unit(rng, len(found.prompts), 384)), 100.0)
    pixels = torch.from_numpy(unit(rng, 333, 384))
    whole = score(question, pixels)
    parts = torch.cat([score(question, part) for part in pixels.split(50)])
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=0)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(score(question, pixels[order]), whole[order], atol=1e-4, rtol=0)
    assert ((whole >= 1) & (whole <= 10)).all()
    assert len(torch.unique(whole)) > 300  # a number on the scale, not one of the ratings


def test_a_voter_with_many_prompts_outweighs_the_others_only_early() -> None:
    """Nine prompts of one voter against one prompt each of two others, all equally near to the pixel."""
    votes = [("many", 10.0)] * 9 + [("one", 1.0), ("other", 1.0)]
    vectors, pixel = torch.eye(1, 4).repeat(11, 1), torch.eye(1, 4)
    early = score(Question(rated(*votes), vectors, SCALE), pixel)
    late = score(Question(rated(*votes, ensembling="late", min_prompts=1), vectors, SCALE), pixel)
    assert early.item() == pytest.approx((9 * 10 + 2) / 11, abs=1e-5)
    assert late.item() == pytest.approx((10 + 1 + 1) / 3, abs=1e-5)


def of_two(name: str) -> Legend:
    classes = [{"id": i, "name": f"{name} {i}", "colour": "#000000", "prompts": [name]} for i in (1, 2)]
    return Legend(name=name, title=name, classes=classes)


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_a_restricted_class_holds_only_where_its_map_has_it(order: tuple[str, ...]) -> None:
    """Of three legends, c lies on class 2 of b, and b on class 1 of a, in whatever order they are asked for."""
    rng, within = np.random.default_rng(4), {"c": ("b", 2), "b": ("a", 1)}
    vectors = {name: unit(rng, 2) for name in "abc"}
    pixels = unit(rng, 200)
    first, second, third = (1 + (pixels @ vectors[name].T).argmax(axis=1) for name in "abc")
    questions = [Question(of_two(name), torch.from_numpy(vectors[name]), SCALE) for name in order]
    labels = TileLabels(questions, (10, 20))
    labels.fill(np.arange(200), torch.from_numpy(pixels))
    made = labels.layers({name: within[name] for name in order if name in within}, np.zeros((10, 20), np.uint8))
    np.testing.assert_array_equal(made["a"].ravel(), first)
    np.testing.assert_array_equal(made["b"].ravel(), np.where(first == 1, second, 0))
    here = (first == 1) & (second == 2)
    np.testing.assert_array_equal(made["c"].ravel(), np.where(here, third, 0))
    np.testing.assert_array_equal(made["c_confidence"].ravel() == 255, ~here)
    assert here.any()
    base = base_of("c", questions, within)
    assert base is not None
    np.testing.assert_array_equal(base.holds(pixels), here)  # where points of c are learned from


@pytest.mark.parametrize("change", [{"ensembling": "late"}, {"min_prompts": 3}])
def test_a_run_with_another_ensembling_is_another_request(untrained: str, tmp_path: Path, change: dict) -> None:
    early = legends.load("scenicness")
    request = Request(aoi.parse_area("4.40,50.85,4.41,50.86"), Period(2023, 1), "earth-search", (early,), untrained)
    asked = identity_of(prepare(request))
    state = open_directory(tmp_path / "out", asked)
    with state.lock():
        state = state.begin(asked, ())
        (state.home / "tile.npz").touch()  # a run that has finished its first tile
    assert open_directory(tmp_path / "out", asked).scenes == ()
    other = replace(request, legends=(early.model_copy(update=change),))  # with the same class vectors
    with pytest.raises(OutputError, match=r"another request \(differs in: legends\)"):
        open_directory(tmp_path / "out", identity_of(prepare(other)))
