"""The engine against the plain encoder, and labels against plain numpy."""

import copy
import dataclasses
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from geomap import legends
from geomap.datasets import worldcereal as real
from geomap.datasets.months import MASKED, tokens_np
from geomap.encode import engine as encode
from geomap.encode import folded, weights
from geomap.encode.card import Q_HIGH, Q_LOW
from geomap.encode.model import EncoderConfig, PixelEncoder
from geomap.errors import InputError
from geomap.label import classify
from geomap.label.classify import Question
from geomap.types import Composite

MONTHS = tuple(range(12))


CFG = EncoderConfig(dim=32, depth=3, heads=2, mlp=24, out=20)


@pytest.fixture(scope="module")
def encoder() -> PixelEncoder:
    torch.manual_seed(5)
    made = PixelEncoder(CFG, torch.tensor(Q_LOW), torch.tensor(Q_HIGH))
    torch.nn.init.normal_(made.position)
    torch.nn.init.normal_(made.cls)
    return made.eval()


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
    usable = encode.valid_months(composite).sum(axis=0) >= 3
    usable[0, :7] = False
    return usable


@torch.inference_mode()
def exact(encoder: PixelEncoder, composite: Composite, usable: np.ndarray, months=MONTHS) -> np.ndarray:
    """The plain module in float64, months masked."""
    dn = torch.from_numpy(composite.dn[:, :, usable].transpose(2, 0, 1).copy())  # (n, T, C)
    valid = torch.from_numpy((composite.dn[:, :, usable] > 0).all(axis=1).T.copy())
    return copy.deepcopy(encoder).double()(dn, valid, torch.tensor(months)).numpy()


def embedded(engine: encode.Engine, composite: Composite, usable: np.ndarray, months=MONTHS) -> np.ndarray:
    """(pixels, D), NaN where no embedding came."""
    out = np.full((usable.size, engine.execution.cfg.out), np.nan, np.float32)
    seen = []
    for index, embeddings in engine.embed(composite, usable, months):
        assert len(index) == len(embeddings)
        out[index] = embeddings.numpy()
        seen.append(index)
    np.testing.assert_array_equal(np.concatenate(seen), np.flatnonzero(usable))
    return out


@pytest.mark.parametrize("batch", [1, 50, 64, 10_000, None])
def test_batches_equal_the_plain_encoder_with_a_ragged_last_one(encoder, composite, usable, batch):
    engine = encode.Engine(encoder, "cpu", batch, torch.float32)
    made = embedded(engine, composite, usable)[usable.ravel()]
    np.testing.assert_allclose(made, exact(encoder, composite, usable), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)


def test_every_pattern_of_missing_months(encoder):
    """4,095 pixels, each with months of its own."""
    pattern = np.arange(1, 4096)
    valid = (pattern >> np.arange(12)[:, None]) & 1  # (12, n)
    dn = np.random.default_rng(6).integers(1, 6000, (12, 10, 1, 4095)).astype(np.uint16)
    band = np.arange(12) % 10  # one band is enough to make a month invalid
    dn[np.arange(12), band] *= valid[:, None].astype(np.uint16)
    made = Composite(dn, valid[:, None].astype(np.uint8))
    usable = np.ones((1, 4095), bool)
    wanted = exact(encoder, made, usable)
    ours = embedded(encode.Engine(encoder, "cpu", dtype=torch.float32), made, usable)
    np.testing.assert_allclose(ours, wanted, atol=3e-6)
    narrow = embedded(encode.Engine(encoder, "cpu", dtype=torch.bfloat16), made, usable)
    assert np.linalg.norm(narrow - wanted, axis=1).max() < 0.05


@pytest.mark.parametrize("months", [(3, 4, 5, 6, 7), (10, 11, 0, 1), (8,), (11, *range(11))])
def test_windows_start_in_any_month_and_may_be_short(encoder, composite, months):
    part = Composite(composite.dn[: len(months)], composite.clear[: len(months)])
    usable = encode.valid_months(part).any(axis=0)
    made = embedded(encode.Engine(encoder, "cpu", dtype=torch.float32), part, usable, months)[usable.ravel()]
    np.testing.assert_allclose(made, exact(encoder, part, usable, months), atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neighbours_order_and_threads_do_not_change_a_bit(encoder, composite, usable, dtype):
    together = embedded(encode.Engine(encoder, "cpu", 64, dtype), composite, usable)
    rng = np.random.default_rng(7)
    order = rng.permutation(usable.size)
    shuffled = Composite(composite.dn.reshape(12, 10, -1)[:, :, order].reshape(composite.dn.shape), composite.clear)
    moved = embedded(encode.Engine(encoder, "cpu", 64, dtype), shuffled, usable.ravel()[order].reshape(usable.shape))
    np.testing.assert_array_equal(moved, together[order])
    for few in (1, 40):
        alone = np.zeros_like(usable)
        alone.flat[rng.choice(np.flatnonzero(usable), few, replace=False)] = True
        apart = embedded(encode.Engine(encoder, "cpu", 64, dtype), composite, alone)
        np.testing.assert_array_equal(apart[alone.ravel()], together[alone.ravel()])
    threads = torch.get_num_threads()
    for count in (1, 3):
        try:
            torch.set_num_threads(count)
            engine = encode.Engine(encoder, "cpu", 64, dtype)
            np.testing.assert_array_equal(embedded(engine, composite, usable), together)
            assert torch.get_num_threads() == count
        finally:
            torch.set_num_threads(threads)


def test_windows_change_nothing(encoder, composite, usable, monkeypatch):
    engine = encode.Engine(encoder, "cpu", 32)
    whole = embedded(engine, composite, usable)
    monkeypatch.setattr(encode, "WINDOW_CPU", 50)
    assert len(list(engine.embed(composite, usable, MONTHS))) == -(-usable.sum() // 50)
    np.testing.assert_array_equal(embedded(engine, composite, usable), whole)


def test_no_usable_pixel_gives_no_batch(encoder, composite, usable):
    assert list(encode.Engine(encoder, "cpu").embed(composite, np.zeros_like(usable), MONTHS)) == []
    blank = Composite(np.zeros_like(composite.dn), composite.clear)
    with pytest.raises(ValueError, match="no valid month"):
        list(encode.Engine(encoder, "cpu").embed(blank, usable, MONTHS))


def small_memory(engine: encode.Engine, limit: int, monkeypatch) -> list[int]:
    """The real execution, except that more than `limit` pixels at once do not fit. No GPU is needed."""
    sizes, real = [], engine.execution

    class Device:
        cfg = real.cfg

        def __call__(self, dn, months):
            sizes.append(len(dn))
            if len(dn) > limit:
                raise torch.OutOfMemoryError("out of memory")
            return real(dn, months)

    monkeypatch.setattr(engine, "execution", Device())
    return sizes


def test_out_of_memory_halves_the_batch_and_keeps_the_labels(encoder, composite, usable, monkeypatch, caplog):
    wanted = embedded(encode.Engine(encoder, "cpu", 64, torch.float32), composite, usable)
    engine = encode.Engine(encoder, "cpu", 64, torch.float32)
    sizes = small_memory(engine, 20, monkeypatch)
    made = embedded(engine, composite, usable)
    np.testing.assert_allclose(made, wanted, atol=1e-6)
    question = Question(legends.load("landcover"), torch.from_numpy(unit(np.random.default_rng(8), 8, CFG.out)), 20.0)
    some = usable.ravel()
    labels = [classify.answer(question, torch.from_numpy(e[some])).value for e in (made, wanted)]
    np.testing.assert_array_equal(*labels)
    assert engine.batch == 16
    assert {64, 32, 16} == set(sizes)
    assert "out of memory on cpu with 64 pixels at once; trying 32" in caplog.text


def test_out_of_memory_with_one_pixel_is_an_error(encoder, composite, usable, monkeypatch):
    engine = encode.Engine(encoder, "cpu", 4)
    small_memory(engine, 0, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        list(engine.embed(composite, usable, MONTHS))


def test_a_caller_that_stops_early_leaves_no_threads(encoder, composite, usable, monkeypatch):
    monkeypatch.setattr(encode, "WINDOW_CPU", 50)
    running = encode.Engine(encoder, "cpu", 8).embed(composite, usable, MONTHS)
    next(running)
    assert any(thread.name.startswith("encode") for thread in threading.enumerate())
    running.close()
    assert not any(thread.name.startswith("encode") for thread in threading.enumerate())


def test_speed_is_that_of_the_rounds_after_the_warm_up(encoder, monkeypatch):
    """By a clock on which the first round takes a minute, and every other an eighth of a second."""
    engine, now, pixels = encode.Engine(encoder, "cpu"), [0.0], []
    embed = engine.embed
    monkeypatch.setattr(encode, "_speeds", {})

    def counted(made, usable, months):
        yield from embed(made, usable, months)
        now[0] += 0.125 if pixels else 60
        pixels.append(usable.size)

    monkeypatch.setattr(engine, "embed", counted)
    monkeypatch.setattr(encode.time, "perf_counter", lambda: now[0])
    assert engine.pixels_per_second(12) == 8 * pixels[1]
    assert len(pixels) == 5  # the warm-up, and rounds until 0.4 s are over
    assert encode.Engine(encoder, "cpu").pixels_per_second(12) == 8 * pixels[1]
    assert len(pixels) == 5  # measured once


@pytest.mark.parametrize(
    ("found", "wanted"),
    [({"amx_bf16": True}, torch.bfloat16), ({"amx_bf16": False}, torch.float32), ({}, torch.float32)],
)
def test_bfloat16_is_chosen_where_the_processor_multiplies_it(monkeypatch, found, wanted):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert encode.pick_dtype(torch.device("cpu")) == wanted


@pytest.mark.soak
def test_bfloat16_gives_the_default_weights_labels_on_real_series(shared):
    loaded = weights.load_weights("default")
    series = real.read_flanders(shared / "data/patch_belgium_2019/series.npz")
    made = Composite(series.dn.transpose(1, 2, 0)[:, :, None], np.zeros((12, 1, len(series)), np.uint8))
    usable = np.ones((1, len(series)), bool)
    narrow = torch.from_numpy(embedded(encode.Engine(loaded.encoder, "cpu", dtype=torch.bfloat16), made, usable))
    wanted = torch.from_numpy(exact(loaded.encoder, made, usable)).float()
    least = dict.fromkeys(("landcover", "crops", "landuse", "habitat"), 0.995)
    for name, share in {**least, "bioregion": 0.985}.items():  # Atlantic and Continental are hardly told apart here
        found = legends.load(name)
        question = Question(found, loaded.class_vectors[found.digest], loaded.card.logit_scale)
        ours, plain = classify.answer(question, narrow), classify.answer(question, wanted)
        assert (ours.value == plain.value).mean() >= share
        assert np.abs(ours.confidence.astype(int) - plain.confidence).max() <= 3  # percent
        assert abs(ours.confidence.mean() - plain.confidence.mean()) < 0.1


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
    found = legends.load("landcover")
    vectors, embeddings = unit(rng, 8), unit(rng, 301)
    made = classify.answer(Question(found, torch.from_numpy(vectors), 12.0), torch.from_numpy(embeddings))
    logits = 12.0 * embeddings.astype(np.float64) @ vectors.T.astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = np.array([c.id for c in found.classes])
    np.testing.assert_array_equal(made.value, ids[p.argmax(axis=1)])
    assert made.value.dtype == made.confidence.dtype == np.uint8
    assert np.abs(made.confidence - 100 * p.max(axis=1)).max() <= 0.51


def test_low_confidence_is_unclassified():
    rng = np.random.default_rng(2)
    vectors, embeddings = torch.from_numpy(unit(rng, 8)), torch.from_numpy(unit(rng, 200))
    free = classify.answer(Question(legends.load("landcover"), vectors, 12.0), embeddings)
    strict = classify.answer(Question(legends.load("landcover"), vectors, 12.0, min_confidence=0.5), embeddings)
    np.testing.assert_array_equal(strict.confidence, free.confidence)
    assert set(strict.value[strict.confidence < 50]) == {255}
    sure = strict.confidence > 50
    assert sure.any()
    np.testing.assert_array_equal(strict.value[sure], free.value[sure])


def test_scores_are_ratings_weighted_by_nearness():
    rng = np.random.default_rng(3)
    found = legends.load("scenicness")
    vectors, embeddings = unit(rng, len(found.prompts)), unit(rng, 50)
    made = classify.answer(Question(found, torch.from_numpy(vectors), 100.0), torch.from_numpy(embeddings))
    logits = 100.0 * embeddings.astype(np.float64) @ vectors.T.astype(np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = (p / p.sum(axis=1, keepdims=True)) @ [prompt.rating for prompt in found.prompts]
    np.testing.assert_allclose(made.value, expected, atol=1e-3)
    assert made.confidence is None
    assert ((made.value >= 1) & (made.value <= 10)).all()


def test_all_legends_from_one_product_answer_as_each_alone():
    rng = np.random.default_rng(9)
    embeddings = torch.from_numpy(unit(rng, 500))
    questions = []
    for name in ("landcover", "scenicness", "crops"):
        found = legends.load(name)
        count = len(found.classes) or len(found.prompts)
        questions.append(Question(found, torch.from_numpy(unit(rng, count)), 12.0, min_confidence=0.1))
    for question, together in zip(questions, classify.answers(questions, embeddings), strict=True):
        alone = classify.answer(question, embeddings)
        np.testing.assert_allclose(together.value, alone.value, atol=1e-5)
        if alone.confidence is not None:
            np.testing.assert_array_equal(together.confidence, alone.confidence)
        assert together.value.dtype == alone.value.dtype


def test_blank_labels_are_nodata():
    classes, score = classify.blank(legends.load("crops"), (2, 3)), classify.blank(legends.load("scenicness"), (4,))
    assert (classes.value == 0).all()
    assert (classes.confidence == 255).all()
    assert np.isnan(score.value).all()


@pytest.fixture(scope="module", params=[4, 5, 9])
def of_patches(request) -> PixelEncoder:
    torch.manual_seed(6)
    made = PixelEncoder(dataclasses.replace(CFG, patch=request.param), torch.tensor(Q_LOW), torch.tensor(Q_HIGH))
    torch.nn.init.normal_(made.position)
    torch.nn.init.normal_(made.cls)
    return made.eval()


@torch.inference_mode()
def from_cut_patches(encoder: PixelEncoder, composite: Composite, usable: np.ndarray) -> np.ndarray:
    """The plain module in float64 on every patch, cut and filled by the code of the training data."""
    before = encoder.cfg.patch // 2
    sides = (before, encoder.cfg.patch - 1 - before)
    dn = np.pad(composite.dn, ((0, 0), (0, 0), sides, sides))
    cut = [dn[:, :, y : y + encoder.cfg.patch, x : x + encoder.cfg.patch] for y, x in np.argwhere(usable)]
    tokens, valid = (np.stack(part) for part in zip(*(tokens_np(image, MASKED) for image in cut), strict=True))
    exact = copy.deepcopy(encoder).double()
    return exact(torch.from_numpy(tokens), torch.from_numpy(valid), torch.tensor(MONTHS)).numpy()


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled loops", "torch"])
def test_patches_equal_the_plain_encoder_on_every_cut_patch(of_patches, composite, usable, compiled, monkeypatch):
    """With months missing, nodata at the edges, and a ragged last batch."""
    if not compiled:  # what other devices run
        monkeypatch.setattr(folded.kernels, "fits", lambda *_: False)
    made = embedded(encode.Engine(of_patches, "cpu", 50, torch.float32), composite, usable)[usable.ravel()]
    wanted = from_cut_patches(of_patches, composite, usable)
    np.testing.assert_allclose(made, wanted, atol=2e-6)
    narrow = embedded(encode.Engine(of_patches, "cpu", 50, torch.bfloat16), composite, usable)[usable.ravel()]
    assert np.linalg.norm(narrow - wanted, axis=1).max() < 0.05


def test_patches_do_not_depend_on_where_a_tile_or_a_window_ends(of_patches, composite, usable, monkeypatch):
    """A tile with its margin gives the pixels of the whole, bit for bit; rows between few pixels are not copied."""
    engine = encode.Engine(of_patches, "cpu", 32)
    whole = embedded(engine, composite, usable).reshape(*usable.shape, -1)
    margin = of_patches.cfg.margin
    for least in (0, margin + 1):  # the first reaches beyond the composite in the south and east
        rows, columns = (slice(least + margin, size - margin) for size in composite.shape)
        around = tuple(slice(part.start - margin, part.stop + margin) for part in (rows, columns))
        tile = Composite(composite.dn[:, :, *around], composite.clear[:, *around])
        part = embedded(engine, tile, usable[rows, columns])
        np.testing.assert_array_equal(part.reshape(whole[rows, columns].shape), whole[rows, columns])
    few = np.zeros_like(usable)
    few[[0, 18], [11, 11]] = usable[[0, 18], [11, 11]] = True
    monkeypatch.setattr(encode, "WINDOW_CPU", 50)
    assert [len(index) for index, _ in engine.embed(composite, few, MONTHS)] == [1, 1]
    np.testing.assert_array_equal(embedded(engine, composite, usable), whole.reshape(usable.size, -1))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_activations_reuse_their_memory_in_workers_of_dask_too():
    code = """
import resource
import numpy as np, torch
from geomap import process
from geomap.encode.engine import Engine
from geomap.encode.model import CONFIGS, PixelEncoder
from geomap.types import Composite

process.keep_freed()  # as the command line and workers do
encoder = PixelEncoder(CONFIGS["small"], torch.zeros(10), torch.full((10,), 3000.0)).eval()
engine = Engine(encoder, "cpu", batch=256)
made = Composite(np.full((12, 10, 16, 256), 700, np.uint16), np.ones((12, 16, 256), np.uint8))
usable = np.ones((16, 256), bool)
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in engine.embed(made, usable, range(12)):
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 16)
"""
    threshold = {"MALLOC_TRIM_THRESHOLD_": "65536"}  # distributed.nanny.pre-spawn-environ
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **threshold}, capture_output=True, text=True)
    assert float(done.stdout) < 1000, done.stderr  # pages a batch; those of its activations are 4,000 and more
