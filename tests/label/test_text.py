"""Text towers: real all-MiniLM-L6-v2, and open_clip's real ViT-B/32 code on weights made here."""

import json
import threading

import numpy as np
import pytest
import torch

from geomap import legends
from geomap.encode import weights
from geomap.errors import WeightsError
from geomap.label import towers
from geomap.train.captions.levels import cover_captions

SMALL = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "patch_size": 32, "layers": 1, "width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "layers": 1, "width": 64, "heads": 2},
}


@pytest.fixture(scope="module")
def minilm() -> towers.TextTower:
    return towers.tower(towers.MINILM_SPACE)


def test_minilm_gives_unit_vectors_that_know_meaning(minilm):
    v = minilm.encode(["a vineyard", "rows of grapevines", "a harbour with ships"])
    assert v.shape == (3, 384)
    torch.testing.assert_close(v.norm(dim=1), torch.ones(3))
    assert v[0] @ v[1] > v[0] @ v[2] + 0.2


@pytest.mark.parametrize("shown", [(True, True), (True, False), (False, True), (False, False)])
def test_the_loader_s_bars_and_notices_are_put_back(shown):
    """As the user had those of transformers and of the hub, of which each can be turned off."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as hf

    def set_(bars: bool, of_hub: bool) -> None:
        (hf.enable_progress_bar if bars else hf.disable_progress_bar)()
        (enable_progress_bars if of_hub else disable_progress_bars)()

    before, level = (hf.is_progress_bar_enabled(), not are_progress_bars_disabled()), hf.get_verbosity()
    try:
        set_(*shown)
        hf.set_verbosity_info()
        with towers._quiet():
            assert (hf.is_progress_bar_enabled(), hf.get_verbosity()) == (False, hf.ERROR)
        assert (hf.is_progress_bar_enabled(), not are_progress_bars_disabled()) == shown
        assert hf.get_verbosity() == hf.INFO
    finally:
        set_(*before)
        hf.set_verbosity(level)


def test_towers_loaded_at_the_same_time_put_the_notices_back():
    from transformers.utils import logging as hf

    before = hf.get_verbosity(), hf.is_progress_bar_enabled()
    first, last = threading.Event(), threading.Event()

    def load(inside: threading.Event, until: threading.Event) -> None:
        with towers._quiet():
            inside.set()
            until.wait(0.2)

    one = threading.Thread(target=load, args=(first, last))
    other = threading.Thread(target=load, args=(last, threading.Event()))
    one.start()
    first.wait(10)
    other.start()
    one.join()
    other.join()
    assert (hf.get_verbosity(), hf.is_progress_bar_enabled()) == before


def test_a_class_vector_is_the_normalised_mean_of_its_prompts(minilm):
    found = legends.typed("vineyard, olive grove")
    vectors = towers.class_vectors(found, minilm)
    for c, vector in zip(found.classes, vectors, strict=True):
        mean = np.mean([minilm.encode([p])[0].numpy() for p in c.prompts], axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)


def test_the_stored_vectors_of_the_default_weights_are_those_of_the_legends_and_of_training(minilm):
    default = weights.load_weights("default")
    assert default.card.text_space == minilm.space
    for name in ("landcover", "scenicness"):
        found = legends.load(name)
        expected = towers.class_vectors(found, minilm)
        torch.testing.assert_close(default.class_vectors[found.digest], expected, atol=1e-5, rtol=0)
    captions = cover_captions()
    longest = max(map(len, captions))
    for cover in (0, 70, len(captions) - 1):  # all of them take a minute
        own = minilm.encode(captions[cover])
        mean = own[torch.arange(longest) % len(own)].mean(0)  # as levels repeat short lists
        torch.testing.assert_close(default.anchors[cover], mean / mean.norm(), atol=1e-5, rtol=0)


def test_vectors_are_cached_by_content(monkeypatch, tmp_path, minilm):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = legends.typed("lake, river")
    first = towers.cached_class_vectors(found, towers.MINILM_SPACE)
    (cached,) = (tmp_path / "geomap" / "class_vectors").iterdir()
    monkeypatch.setattr(towers, "TOWERS", {})  # no tower: only the cache can answer
    torch.testing.assert_close(towers.cached_class_vectors(found, towers.MINILM_SPACE), first)
    with pytest.raises(WeightsError, match="no text tower"):
        towers.cached_class_vectors(legends.typed("lake, pond"), towers.MINILM_SPACE)
    monkeypatch.setattr(towers, "TOWERS", {towers.MINILM_SPACE: lambda: minilm})
    cached.write_bytes(b"torn")  # a damaged cache costs time, not the map
    torch.testing.assert_close(towers.cached_class_vectors(found, towers.MINILM_SPACE), first)


def test_cached_vectors_are_of_the_file_that_stands_for_clip(monkeypatch, tmp_path):
    import open_clip

    (tmp_path / "small_text.json").write_text(json.dumps(SMALL))
    open_clip.add_model_config(tmp_path / "small_text.json")
    monkeypatch.setattr(towers, "CLIP_MODEL", "small_text")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found, made = legends.typed("lake, river"), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = open_clip.create_model("small_text", pretrained=None)
        torch.save(model.state_dict(), tmp_path / f"{seed}.pt")
        monkeypatch.setenv(towers.CLIP_FILE_VARIABLE, str(tmp_path / f"{seed}.pt"))
        own = towers.OpenClipTower()
        torch.testing.assert_close(
            towers.cached_class_vectors(found, towers.CLIP_SPACE), towers.class_vectors(found, own)
        )
        torch.testing.assert_close(towers.cached_texts(["lake"], towers.CLIP_SPACE), own.encode(["lake"]))
        made.append(towers.cached_class_vectors(found, towers.CLIP_SPACE))
    assert not torch.allclose(*made)
    (tmp_path / "1.pt").rename(tmp_path / "moved.pt")
    monkeypatch.setenv(towers.CLIP_FILE_VARIABLE, str(tmp_path / "moved.pt"))
    monkeypatch.setattr(towers, "TOWERS", {})  # the same content elsewhere: the cache answers
    torch.testing.assert_close(towers.cached_class_vectors(found, towers.CLIP_SPACE), made[1])


def test_open_clip_reads_a_local_file(tmp_path):
    """The weights are made here (CLIP's own cannot be shipped); the code path is the one that CLIP's take."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None)
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    tower = towers.OpenClipTower(str(tmp_path / "clip.pt"))
    v = tower.encode(["a vineyard", "an olive grove"])
    assert v.shape == (2, 512)
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer("ViT-B-32-quickgelu")(["a vineyard", "an olive grove"])
        expected = model.eval().encode_text(tokens, normalize=True)
    torch.testing.assert_close(v, expected, atol=1e-5, rtol=1e-4)


def test_clip_that_cannot_be_had_says_how_to_give_it(monkeypatch, tmp_path):
    monkeypatch.setenv(towers.CLIP_FILE_VARIABLE, str(tmp_path / "missing.pt"))
    with pytest.raises(WeightsError, match="set GEOMAP_CLIP_FILE"):
        towers.tower(towers.CLIP_SPACE)


def test_an_unknown_space_is_refused():
    with pytest.raises(WeightsError, match="no text tower for the space"):
        towers.tower("elsewhere/model")
