"""The engine against the plain encoder, and labels against plain numpy."""

import numpy as np
import pytest
import torch

from geomap import encode, label, legend, weights
from geomap.errors import InputError, WeightsError
from geomap.label import Question
from geomap.model import EncoderConfig, PixelEncoder
from geomap.types import Composite

MONTHS = tuple(range(12))


@pytest.fixture(scope="module")
def loaded(untrained):
    return weights.load(untrained)


@pytest.fixture(scope="module")
def composite() -> Composite:
    """19 x 23 pixels; months missing at random, in single bands too."""
    rng = np.random.default_rng(0)
    dn = rng.integers(1, 6000, (12, 10, 19, 23)).astype(np.uint16)
    dn *= rng.random((12, 1, 19, 23)) > 0.3
    dn[4, 7, 3, 3] = 0
    return Composite(dn, (dn[:, 0] > 0).astype(np.uint8))


@pytest.fixture(scope="module")
def usable(composite) -> np.ndarray:
    usable = encode.valid_months_np(composite.dn).sum(axis=0) >= 3
    usable[0, :7] = False
    return usable


def plain(encoder, composite: Composite, usable: np.ndarray) -> np.ndarray:
    """One pixel at a time, no batches."""
    out = []
    with torch.inference_mode():
        for y, x in zip(*np.nonzero(usable), strict=True):
            dn = torch.from_numpy(composite.dn[None, :, :, y, x])
            valid = torch.tensor([[bool((composite.dn[m, :, y, x] > 0).all()) for m in MONTHS]])
            out.append(encoder(dn, valid, torch.arange(12))[0].numpy())
    return np.stack(out)


@pytest.mark.parametrize("batch", [1, 50, 64, 10_000])
def test_batches_equal_the_plain_encoder_with_a_ragged_last_one(loaded, composite, usable, batch):
    engine = encode.Engine(loaded.encoder, "cpu", batch)
    parts = list(engine.embed(composite, usable, MONTHS))
    where = np.concatenate([index for index, _ in parts])
    np.testing.assert_array_equal(where, np.flatnonzero(usable))
    embeddings = torch.cat([e for _, e in parts]).numpy()
    np.testing.assert_allclose(embeddings, plain(loaded.encoder, composite, usable), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_a_pixel_alone_gets_the_bytes_it_gets_in_company(loaded, composite, usable):
    engine = encode.Engine(loaded.encoder, "cpu", 64)
    together = torch.cat([e for _, e in engine.embed(composite, usable, MONTHS)])
    alone = np.zeros_like(usable)
    position = 40
    alone.flat[np.flatnonzero(usable)[position]] = True
    ((index, single),) = engine.embed(composite, alone, MONTHS)
    assert len(index) == 1
    torch.testing.assert_close(single[0], together[position], rtol=0, atol=2e-7)


def test_no_usable_pixel_gives_no_batch(loaded, composite, usable):
    assert list(encode.Engine(loaded.encoder, "cpu").embed(composite, np.zeros_like(usable), MONTHS)) == []


def test_devices_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="unknown device"):
        encode.pick_device("toaster")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device cpu"):
            encode.pick_device("cuda")
    assert encode.pick_device("cpu").type == "cpu"


def unit(rng: np.random.Generator, n: int, d: int = 16) -> np.ndarray:
    v = rng.normal(size=(n, d))
    return (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)


def test_labels_equal_a_plain_softmax():
    rng = np.random.default_rng(1)
    found = legend.load("landcover")
    vectors, embeddings = unit(rng, 8), unit(rng, 301)
    made = label.answer(Question(found, torch.from_numpy(vectors), 12.0), torch.from_numpy(embeddings))
    logits = 12.0 * embeddings.astype(np.float64) @ vectors.T.astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = np.array([c.id for c in found.classes])
    np.testing.assert_array_equal(made.value, ids[p.argmax(axis=1)])
    assert made.value.dtype == made.confidence.dtype == np.uint8
    assert np.abs(made.confidence - 100 * p.max(axis=1)).max() <= 0.51


def test_low_confidence_is_unclassified():
    rng = np.random.default_rng(2)
    vectors, embeddings = torch.from_numpy(unit(rng, 8)), torch.from_numpy(unit(rng, 200))
    free = label.answer(Question(legend.load("landcover"), vectors, 12.0), embeddings)
    strict = label.answer(Question(legend.load("landcover"), vectors, 12.0, min_confidence=0.5), embeddings)
    np.testing.assert_array_equal(strict.confidence, free.confidence)
    assert set(strict.value[strict.confidence < 50]) == {255}
    sure = strict.confidence > 50
    assert sure.any()
    np.testing.assert_array_equal(strict.value[sure], free.value[sure])


def test_scores_are_ratings_weighted_by_nearness():
    rng = np.random.default_rng(3)
    found = legend.load("scenicness")
    vectors, embeddings = unit(rng, len(found.prompts)), unit(rng, 50)
    made = label.answer(Question(found, torch.from_numpy(vectors), 100.0), torch.from_numpy(embeddings))
    logits = 100.0 * embeddings.astype(np.float64) @ vectors.T.astype(np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = (p / p.sum(axis=1, keepdims=True)) @ [prompt.rating for prompt in found.prompts]
    np.testing.assert_allclose(made.value, expected, atol=1e-3)
    assert made.confidence is None
    assert ((made.value >= 1) & (made.value <= 10)).all()


def test_blank_labels_are_nodata():
    classes, score = label.blank(legend.load("crops"), (2, 3)), label.blank(legend.load("scenicness"), (4,))
    assert (classes.value == 0).all()
    assert (classes.confidence == 255).all()
    assert np.isnan(score.value).all()


def test_encoders_of_patches_are_refused_in_one_line():
    tiny = EncoderConfig(dim=8, depth=1, heads=2, mlp=8, out=8, patch=5)
    encoder = PixelEncoder(tiny, torch.zeros(10), torch.ones(10))
    with pytest.raises(WeightsError, match="patches of 5 x 5 pixels"):
        encode.Engine(encoder)
