"""Class vectors of a user's words, moved towards the words of training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from geomap import legends, pipeline
from geomap.encode import weights
from geomap.label import anchors, towers


def unit(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return F.normalize(torch.from_numpy(rng.standard_normal(shape)).float(), dim=-1)


def test_vectors_are_mixed_with_the_anchors_that_they_are_near() -> None:
    rng = np.random.default_rng(0)
    known = unit(rng, 7, 16)
    near = F.normalize(known[:3] + 0.3 * unit(rng, 3, 16), dim=1)
    found = anchors.towards(near, known).double().numpy()
    for vector, got in zip(near.double().numpy(), found, strict=True):  # one by one, in plain sums
        weight = np.exp([anchors.SHARPNESS * float(vector @ a) for a in known.double().numpy()])
        mean = sum(w * a for w, a in zip(weight, known.double().numpy(), strict=True))
        mixed = (1 - anchors.SHARE) * vector + anchors.SHARE * mean / np.linalg.norm(mean)
        np.testing.assert_allclose(got, mixed / np.linalg.norm(mixed), atol=1e-6)
        assert (known.double().numpy() @ got).max() > (known.double().numpy() @ vector).max()


def test_words_that_are_near_no_anchor_stay_to_the_bit() -> None:
    known = torch.eye(4)[:2]
    far = F.normalize(torch.tensor([[0.55, 0.1, 0.7, 0.4], [0.1, 0.2, 0.9, 0.1]]), dim=1)
    assert (far @ known.T).max() < anchors.NEAR
    assert torch.equal(anchors.towards(far, known), far)


def test_built_in_classes_have_the_vectors_of_the_weights_and_rated_prompts_stay() -> None:
    rng = np.random.default_rng(1)
    known = unit(rng, 5, 8)
    landcover, scenic = legends.load("landcover"), legends.load("scenicness")
    stored = {landcover.digest: unit(rng, len(landcover.classes), 8)}
    more = legends.added(landcover, ["hop garden"])
    vectors = F.normalize(known[[0] * len(more.classes)] + 0.2 * unit(rng, len(more.classes), 8), dim=1)
    found = anchors.placed(more, vectors, stored, known)
    for c, got, own in zip(more.classes, found, vectors, strict=True):
        same = next((i for i, builtin in enumerate(landcover.classes) if builtin.prompts == c.prompts), None)
        expected = anchors.towards(own[None], known)[0] if same is None else stored[landcover.digest][same]
        assert torch.equal(got, expected)
    rated = unit(rng, len(scenic.prompts), 8)
    assert torch.equal(anchors.placed(scenic, rated, stored, known), rated)


def test_the_default_weights_read_words_of_their_training_and_others() -> None:
    loaded = weights.load_weights("default")
    typed = legends.typed("autumn wheat, burnt land")
    raw = towers.cached_class_vectors(typed, loaded.card.text_space)
    wheat, burnt = pipeline.vectors_of(typed, loaded)
    assert loaded.anchors is not None
    assert float((wheat @ loaded.anchors.T).max()) > float((raw[0] @ loaded.anchors.T).max()) + 0.05
    assert torch.equal(burnt, raw[1])  # new to the encoder
    for name in legends.builtin_names():
        legend = legends.load(name)
        assert torch.equal(pipeline.vectors_of(legend, loaded), loaded.class_vectors[legend.digest])


@pytest.mark.parametrize("threads", [1, 2])
def test_the_bits_do_not_depend_on_threads(threads: int) -> None:
    rng = np.random.default_rng(2)
    known = unit(rng, 227, 384)
    vectors = F.normalize(known[:50] + 0.5 * unit(rng, 50, 384), dim=1)
    expected = anchors.towards(vectors, known)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(anchors.towards(vectors, known), expected)
    finally:
        torch.set_num_threads(before)
