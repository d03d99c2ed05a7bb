"""Weights: what is saved is loaded, and nothing else is."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from geomap import legends
from geomap.encode import weights
from geomap.errors import WeightsError
from geomap.sentinel2 import BANDS


@pytest.fixture
def folder(untrained, tmp_path) -> Path:
    copy = tmp_path / "w"
    shutil.copytree(untrained, copy)
    return copy


def edit_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | changes))


def test_save_and_load_give_the_same_tensors_and_bytes(folder, tmp_path):
    first = weights.load_weights(str(folder))
    again = tmp_path / "again"
    weights.save(again, first.encoder, first.card, first.class_vectors)
    for file in ("card.json", "model.safetensors", "class_vectors.safetensors"):
        assert (again / file).read_bytes() == (folder / file).read_bytes()
    second = weights.load_weights(str(again))
    assert second.digest == first.digest
    for k, v in first.encoder.state_dict().items():
        assert torch.equal(v, second.encoder.state_dict()[k])
    assert not second.encoder.training


@pytest.mark.parametrize("file", ["model.safetensors", "class_vectors.safetensors"])
def test_a_flipped_byte_is_found(folder, file):
    content = bytearray((folder / file).read_bytes())
    content[-3] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{file} is not the file that its card describes") as e:
        weights.load_weights(str(folder))
    assert e.value.exit_code == 2
    assert "\n" not in str(e.value)


def test_a_missing_file_is_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors is missing"):
        weights.load_weights(str(folder))


def test_tensors_that_do_not_fit_the_card_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["cls"] = torch.zeros(64)
    save_file(tensors, folder / "model.safetensors")
    card = json.loads((folder / "card.json").read_text())
    card["files"]["model.safetensors"] = weights._sha256((folder / "model.safetensors").read_bytes())
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match="do not fit the card's architecture, first cls"):
        weights.load_weights(str(folder))


def test_another_band_order_is_refused(folder):
    edit_card(folder, bands=[*BANDS[::-1]])
    with pytest.raises(WeightsError, match="expect bands B12 B11"):
        weights.load_weights(str(folder))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"colour": "red"}, "colour"),
        ({"logit_scale": -1}, "logit_scale"),
        ({"low": [1.0]}, "low"),
        ({"encoder": {"width": 3}}, "encoder"),
    ],
)
def test_a_broken_card_is_refused(folder, changes, says):
    edit_card(folder, **changes)
    with pytest.raises(WeightsError, match=says):
        weights.load_weights(str(folder))


def test_unknown_weights_name_the_known_ones():
    with pytest.raises(WeightsError, match="use one of default"):
        weights.load_weights("no-such-weights")


def test_the_default_weights_load_and_carry_every_built_in_legend():
    default = weights.load_weights("default")
    for name in legends.builtin_names():
        found = legends.load(name)
        vectors = default.class_vectors[found.digest]  # KeyError: a legend changed; make its vectors again
        assert vectors.shape == (len(found.classes) or len(found.prompts), default.card.config().out)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    assert default.card.training
    assert default.card.limits
    assert default.card.metrics
