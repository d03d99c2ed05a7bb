"""Checkpoints: read without running their code, converted to the encoder that they hold, band order found by pixels.

Checkpoints are written here in the published layouts, by torch's own transformer; published weights cannot be had.
"""

import ast
import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from geomap import convert, legends
from geomap import convert as published
from geomap.encode import _checkpoint_child as child
from geomap.encode import checkpoint, weights
from geomap.encode.card import Q_HIGH, Q_LOW
from geomap.errors import ConfigError, TemporaryError, WeightsError
from geomap.label import towers
from geomap.sentinel2 import BANDS
from tests.support.checkpoints import Official, SeededTower, lightning, official
from tests.support.runner import geomap, refused, typed
from tests.support.server import Answer, Server

LOW, HIGH = torch.tensor(Q_LOW), torch.tensor(Q_HIGH)
SWAP = [2, 1, 0, *range(3, 10)]


def converted(state: dict[str, Tensor], order: str = "B02 first", **options: Any) -> Callable[[Tensor], Tensor]:
    """The converted encoder as a function of DNs (N, 12, bands, y, x)."""
    encoder = convert.build(convert.find_encoder(state, Path("x.ckpt"), **options), convert.BAND_ORDERS[order])
    valid = torch.ones(1, 12, dtype=torch.bool)
    return lambda dn: encoder(dn.flatten(2), valid.expand(len(dn), -1), torch.arange(12))


def scaled(dn: Tensor, constants: list[int] | None = None) -> Tensor:
    """The published normalisation of DNs (N, 12, bands, y, x)."""
    low, high = (c[constants or list(range(10))].reshape(-1, 1, 1) for c in (LOW, HIGH))
    return ((dn - low) / high).clamp(0, 1)


def some_dn(patch: int, n: int = 5) -> Tensor:
    return torch.randint(1, 6000, (n, 12, 10, patch, patch), generator=torch.Generator().manual_seed(2)).float()


# ---- reading ----


def test_all_tensors_of_a_lightning_checkpoint_come_back_with_their_names(tmp_path):
    content = lightning(official())
    torch.save(content, tmp_path / "a.ckpt")
    found = checkpoint.read_tensors(tmp_path / "a.ckpt")
    for name, tensor in content["state_dict"].items():
        assert torch.equal(found[f"state_dict.{name}"], tensor)
    moments = content["optimizer_states"][0]["state"]
    assert torch.equal(found["optimizer_states.0.state.3.exp_avg"], moments[3]["exp_avg"])
    tensors_beside = 3 * len(moments) + 1  # step and two moments of each parameter; the callback's score
    assert len(found) == len(content["state_dict"]) + tensors_beside


@pytest.mark.parametrize("name", child.ATTRIBUTE_DICTS)
def test_lightnings_dict_of_hyperparameters_is_read_as_a_dict(tmp_path, monkeypatch, name):
    module, _, attribute = name.rpartition(".")
    kind = type(attribute, (dict,), {"__module__": module})
    with monkeypatch.context() as patch:  # Lightning's modules are there while the file is written, not when it is read
        parts = module.split(".")
        for i in range(len(parts)):
            package = ModuleType(".".join(parts[: i + 1]))
            package.__path__ = []
            patch.setitem(sys.modules, package.__name__, package)
        setattr(sys.modules[module], attribute, kind)
        torch.save({"hyper_parameters": kind(lr=1e-4, probe=torch.ones(2))}, tmp_path / "a.ckpt")
    (read,) = child._load(tmp_path / "a.ckpt").values()
    assert type(read) is dict
    assert read["lr"] == 1e-4


class Touch:
    """An object whose pickle calls a function: here a harmless one that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(("place", "apart"), [("state_dict", False), ("optimizer_states", True)])
def test_code_in_a_checkpoint_is_refused_by_name_and_not_run(tmp_path, place, apart):
    content = lightning(official())
    content[place] = {"x": torch.ones(2), "y": [Touch(tmp_path / "ran")]}
    bad = tmp_path / "bad.ckpt"
    torch.save(content, bad)
    if apart:
        with pytest.raises(WeightsError, match=r"bad\.ckpt asks for posix\.mkdir; geomap reads tensors and plain") as e:
            checkpoint.read_tensors(bad)
        assert "\n" not in str(e.value)
    else:
        assert child_error(bad).startswith("asks for posix.mkdir; geomap reads tensors and plain")
    assert not (tmp_path / "ran").exists()
    torch.load(bad, weights_only=False)  # the code is there, and would have run
    assert (tmp_path / "ran").exists()


class Call:
    """An object whose pickle calls an allowed function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def test_a_file_cannot_take_more_memory_than_its_size_explains(tmp_path):
    torch.save({"a": torch.ones(3), "b": Call(bytearray, 1 << 40)}, tmp_path / "bomb.pt")
    with pytest.raises(WeightsError, match="more memory than a checkpoint of its size needs"):
        checkpoint.read_tensors(tmp_path / "bomb.pt")


def rewritten(path: Path, change: Callable[[bytes], bytes], packing: int = zipfile.ZIP_STORED) -> None:
    """Change the pickle inside a torch.save file."""
    with zipfile.ZipFile(path) as archive:
        records = {m.filename: archive.read(m) for m in archive.infolist()}
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in records.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)


def nested(depth: int) -> list[Any]:
    value: list[Any] = [torch.ones(1)]
    for _ in range(depth):
        value = [value] * 10
    return value


def cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"a": torch.ones(1).expand(10**12)}, "claims tensors larger than the file can hold"),
        (nested(25), "containers within themselves, or more values"),
        (cycle(), "containers within themselves"),
        ({"a": torch.empty(3, device="meta")}, "'a', which is not a plain tensor"),
        ({"a": torch.eye(3).to_sparse()}, "'a', which is not a plain tensor"),
        ({1: {"a": torch.ones(1)}, "1.a": torch.ones(1)}, "two tensors called '1.a'"),
        ({"a": Path("x")}, "asks for pathlib."),
        ({"a": Call(eval, "1")}, "asks for builtins.eval"),
    ],
)
def test_tricks_with_allowed_and_other_values_are_refused(tmp_path, content, says):
    torch.save(content, tmp_path / "a.pt")
    assert says in child_error(tmp_path / "a.pt")


def child_error(path: Path) -> str:
    """What the reading process says of a file; here in this process, to spare the start of one each."""
    folder = path.parent / "answer"
    folder.mkdir()
    child._main(path, folder)
    error: str = json.loads((folder / "answer.json").read_text())["error"]
    assert "\n" not in error
    return error


def test_sizes_that_the_records_do_not_have_are_refused(tmp_path):
    torch.save({"a": torch.ones(1000)}, tmp_path / "a.pt")
    count, lie = b"M" + (1000).to_bytes(2, "little"), b"J" + (2**31 - 1).to_bytes(4, "little")  # as pickle writes them
    rewritten(tmp_path / "a.pt", lambda pickled: pickled.replace(count, lie))
    assert "is damaged or not written by torch.save" in child_error(tmp_path / "a.pt")


def test_packed_records_are_refused_before_they_are_unpacked(tmp_path):
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "a.pt")
    rewritten(tmp_path / "a.pt", lambda pickled: pickled, zipfile.ZIP_DEFLATED)
    assert "packed records" in child_error(tmp_path / "a.pt")


def test_a_cut_file_and_a_zip_of_something_else_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:-700])
    assert "damaged or cut short" in child_error(tmp_path / "cut.pt")
    (tmp_path / "other").mkdir()
    with zipfile.ZipFile(tmp_path / "other/a.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    assert "not one of torch.save" in child_error(tmp_path / "other/a.zip")


def test_the_reading_program_imports_torch_and_safetensors_alone():
    nodes = list(ast.walk(ast.parse(Path(child.__file__).read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} - sys.stdlib_module_names == {"torch", "safetensors"}


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00.", b"not a checkpoint"])
def test_other_formats_are_refused_with_a_hint(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"neither a \.safetensors file nor a zip archive of torch.save"):
        checkpoint.read_tensors(tmp_path / "a.pt")
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=r"a\.safetensors is not a safetensors file"):
        checkpoint.read_tensors(tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="no checkpoint file"):
        checkpoint.read_tensors(tmp_path / "missing.ckpt")


def test_parts_of_the_answer_join_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "PART_TENSORS", 3)
    table = torch.randn(10, 4)
    named = [(f"FR_{i}N", row) for i, row in enumerate(table)]  # views of one tensor
    answer = child._write_parts(iter(named), tmp_path, 10**6)
    assert answer == {"names": [n for n, _ in named], "parts": 4}
    parts = [checkpoint._load_part(tmp_path / f"{i}.safetensors") for i in range(4)]
    back = {int(k): v for part in parts for k, v in part.items()}
    assert torch.equal(torch.stack([back[i] for i in range(10)]), table)


# ---- converting ----


@pytest.mark.parametrize(
    ("prefix", "token", "patch"),
    [
        ("state_dict.learner.ts_encoder.", "time_token", 1),
        ("state_dict.learner.TS_ViT.", "class_token", 5),
        ("state_dict.module.learner.ts_encoder.", "class_token", 1),
        ("learner.ts_encoder.", "time_token", 1),
        ("", "time_token", 9),
    ],
)
def test_every_layout_gives_the_embeddings_of_torchs_own_transformer(prefix, token, patch):
    module = official(patch=patch)
    state = {prefix + n.replace("time_token", token): v for n, v in module.state_dict().items()}
    dn = some_dn(patch)
    with torch.inference_mode():
        torch.testing.assert_close(converted(state)(dn), module(scaled(dn)), atol=1e-5, rtol=0)


def test_the_published_size_has_the_papers_number_of_parameters():
    module = official(dim=512, depth=6, mlp=256)
    encoder = convert.build(convert.find_encoder(module.state_dict(), Path("x")), convert.BAND_ORDERS["B02 first"])
    assert sum(p.numel() for p in encoder.parameters()) == 8_169_472
    dn = some_dn(1, n=3)
    with torch.inference_mode():
        torch.testing.assert_close(converted(module.state_dict())(dn), module(scaled(dn)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("patch", [1, 5])
def test_band_orders_are_realised_in_the_weights(patch):
    """However the module was fed, the converted encoder takes B02 .. B12."""
    module, dn = official(patch=patch), some_dn(patch)
    seen = {
        "B02 first": scaled(dn),
        "B02 first, constants of B02 and B04 swapped": scaled(dn, SWAP),
        "B04 first": scaled(dn)[:, :, SWAP],
    }
    with torch.inference_mode():
        for order, x in seen.items():
            torch.testing.assert_close(converted(module.state_dict(), order)(dn), module(x), atol=1e-5, rtol=0)
        assert not torch.allclose(module(seen["B02 first"]), module(seen["B04 first"]), atol=1e-3)


def test_the_learners_encoder_is_taken_not_the_copy_of_the_last_validation():
    module = official()
    state = {f"learner.ts_encoder.{n}": v for n, v in module.state_dict().items()}
    state |= {f"ts_encoder.{n}": v + 1 for n, v in module.state_dict().items()}
    found = convert.find_encoder(state, Path("x"))
    assert torch.equal(found.tensors["embed.weight"], module.spectral_embedding[1].weight)
    with pytest.raises(WeightsError, match="holds 2 TimeSenCLIP encoders"):
        convert.find_encoder({k.replace("learner", "other"): v for k, v in state.items()}, Path("x"))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("transformer.layers.1.norm2.bias", None, r"x\.ckpt: tensor a\.transformer\.layers\.1\.norm2\.bias is missing"),
        ("time_token", None, r"a\.time_token is missing"),
        ("spectral_embedding.1.weight", None, "holds 0 TimeSenCLIP encoders"),
        ("class_token", torch.zeros(1, 1, 32), r"a\.class_token is none of a TimeSenCLIP encoder's"),
        ("transformer.norm.weight", torch.zeros(32), r"a\.transformer\.norm\.weight is none of"),
        ("mlp_head.0.bias", torch.zeros(31), r"a\.mlp_head\.0\.bias has 31 values, not 32"),
        ("mlp_head.0.bias", torch.full((32,), torch.nan), r"a\.mlp_head\.0\.bias holds values that are not finite"),
        ("spectral_embedding.1.weight", torch.zeros(32, 30), "30 values a month: no square patch of 10 bands"),
        ("spectral_embedding.1.weight", torch.zeros(30, 10), "30 values a token cannot be split among 8 heads"),
        ("time_pos_encoding", torch.zeros(1, 1, 32), "positions for 1 steps"),
        ("mlp_head.1.weight", torch.zeros(1024, 32), "vectors of 1024 values; the space of CLIP ViT-B/32 has 512"),
        ("mlp_head.0.bias", torch.zeros(32, dtype=torch.int8), r"a\.mlp_head\.0\.bias is of int8, not of floating"),
        (
            "mlp_head.0.bias",
            torch.zeros(32, dtype=torch.cfloat),
            r"bias is of complex64, not of floating-point numbers",
        ),
        ("mlp_head.1.weight", torch.zeros(512), r"a\.mlp_head\.1\.weight is missing or not of two dimensions"),
    ],
)
def test_an_encoder_that_does_not_fit_is_one_error_that_names_what(name, value, says):
    state = {f"a.{n}": v for n, v in official().state_dict().items()}
    state[f"a.{name}"] = value
    with pytest.raises(WeightsError, match=says):
        convert.find_encoder({n: v for n, v in state.items() if v is not None}, Path("x.ckpt"))


def test_the_logit_scale_is_the_exp_of_the_learned_one_or_clips():
    state = {f"learner.ts_encoder.{n}": v for n, v in official().state_dict().items()}
    clip = {"clip_model.logit_scale": torch.tensor(1.0)}
    assert convert.find_encoder(state | clip, Path("x")).logit_scale == 100
    found = convert.find_encoder({**clip, "logit_scale": torch.tensor(3.2), **state}, Path("x"))
    assert (found.logit_scale, found.scale_name) == (pytest.approx(np.exp(3.2), abs=1e-3), "logit_scale")
    with pytest.raises(WeightsError, match="logit_scale = 50 is no logarithm"):
        convert.find_encoder({**state, "logit_scale": torch.tensor(50.0)}, Path("x"))


@pytest.fixture
def no_clip(monkeypatch) -> None:
    """No text tower can be loaded."""
    monkeypatch.setattr(towers, "TOWERS", {})


@pytest.mark.usefixtures("no_clip")
def test_the_command_converts_a_lightning_checkpoint_without_clip(tmp_path):
    module = official()
    torch.save(lightning(module), tmp_path / "Time Sen.ckpt")
    done = geomap("weights", "convert", tmp_path / "Time Sen.ckpt", "--out", tmp_path / "w", "--licence", "MIT")
    assert done.exit_code == 0, done.output
    assert "band order: B02 first" in done.stdout
    made = weights.load_weights(str(tmp_path / "w"))
    assert (made.card.name, made.card.licence, made.card.logit_scale) == ("time-sen", "MIT", pytest.approx(24.5325))
    digest = hashlib.sha256((tmp_path / "Time Sen.ckpt").read_bytes()).hexdigest()
    assert digest in made.card.recipe
    assert "state_dict.learner.ts_encoder.*, logit scale exp(state_dict.logit_scale)" in made.card.recipe
    assert made.card.metrics["band_order"] == {"chosen": "B02 first", "tested_on": None}
    assert any("band order is untested" in limit for limit in made.card.limits)
    assert made.class_vectors == {}
    assert any("made at first use" in limit for limit in made.card.limits)
    dn, valid = some_dn(1), torch.ones(5, 12, dtype=torch.bool)
    with torch.inference_mode():
        embeddings = made.encoder(dn.flatten(2), valid, torch.arange(12))
        torch.testing.assert_close(embeddings, module(scaled(dn)), atol=1e-5, rtol=0)


def fitted(order: str, labelled: Any) -> Official:
    """An encoder that names the land cover of real pixels if it is fed as `order` says, and water if fed otherwise.

    The transformer is random; the head's linear layer is the ridge regression of class vectors on its features.
    """
    known = legends.load("landcover")
    vectors = towers.class_vectors(known, SeededTower())
    ids = [c.id for c in known.classes]
    truth = labelled.labels["landcover"]
    rows = np.flatnonzero(truth > 0)[::8]
    dn = torch.from_numpy(labelled.dn[rows].astype(np.float32))[..., None, None]
    feeds = {
        "B02 first": scaled(dn),
        "B02 first, constants of B02 and B04 swapped": scaled(dn, SWAP),
        "B04 first": scaled(dn)[:, :, SWAP],
    }
    torch.manual_seed(0)
    module = Official(dim=64, depth=1, mlp=32).eval()
    nn.init.normal_(module.spectral_embedding[1].weight)
    features, targets = [], []
    for name, x in feeds.items():
        with torch.inference_mode():
            tokens = module.spectral_embedding(x) + module.time_pos_encoding
            tokens = module.transformer(torch.cat([module.time_token.expand(len(x), 1, -1), tokens], dim=1))
            features.append(F.pad(module.mlp_head[0](tokens[:, 0]), (0, 1), value=1.0))
        right = [ids.index(t) if name == order else known.id_of("Water") - 1 for t in truth[rows]]
        targets.append(vectors[right])
    a, b = torch.cat(features), torch.cat(targets)
    solution = torch.linalg.solve(a.T @ a + 1e-3 * torch.eye(a.shape[1]), a.T @ b)
    state = module.state_dict()
    module.load_state_dict(state | {"mlp_head.1.weight": solution[:-1].T, "mlp_head.1.bias": solution[-1]})
    return module


@pytest.mark.parametrize("order", convert.BAND_ORDERS)
def test_labelled_pixels_find_the_band_order(order, shared, tmp_path, monkeypatch):
    monkeypatch.setattr(towers, "TOWERS", {towers.CLIP_SPACE: SeededTower})
    labelled = convert.read_labelled(f"flanders={shared / 'data/patch_belgium_2019/series.npz'}")
    save_file({k: v.contiguous() for k, v in fitted(order, labelled).state_dict().items()}, tmp_path / "e.safetensors")
    card = convert.convert(tmp_path / "e.safetensors", tmp_path / "w", "none", labelled=labelled)
    decision = card.metrics["band_order"]
    assert decision["chosen"] == order
    assert decision["accuracy"][order] == max(decision["accuracy"].values()) > 0.7
    assert sorted(decision["accuracy"].values())[1] < 0.2
    assert (decision["tested_on"], decision["samples"], decision["beyond_chance"]) == ("flanders_2019", 3725, True)
    made = weights.load_weights(str(tmp_path / "w"))
    swapped = "swapped" in order
    assert made.card.low[0] == Q_LOW[2 if swapped else 0]
    assert made.card.bands == BANDS
    assert set(made.class_vectors) == {legends.load(n).digest for n in legends.builtin_names()}


def test_a_choice_that_may_be_chance_is_called_so(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(towers, "TOWERS", {towers.CLIP_SPACE: SeededTower})
    labelled = convert.read_labelled(f"east_africa={shared / 'data/points/east_africa_2017.parquet'}")
    state = official().state_dict()
    state["spectral_embedding.1.weight"][:, [0, 2]] = 0  # blind to what the orders exchange
    save_file(state, tmp_path / "e.safetensors")
    card = convert.convert(tmp_path / "e.safetensors", tmp_path / "w", "none", labelled=labelled)
    assert card.metrics["band_order"]["chosen"] == "B02 first"
    assert card.metrics["band_order"]["beyond_chance"] is False
    assert any("may be chance" in limit for limit in card.limits)


@pytest.mark.usefixtures("no_clip")
def test_labelled_pixels_need_clip_a_known_set_and_its_file(tmp_path):
    save_file(official().state_dict(), tmp_path / "e.safetensors")
    with pytest.raises(WeightsError, match="no text tower"):
        convert.convert(tmp_path / "e.safetensors", tmp_path / "w", "none", labelled=object())  # type: ignore[arg-type]
    assert not (tmp_path / "w").exists()
    for setting in ("flanders", "atlantis=x.npz", ""):
        with pytest.raises(WeightsError, match="one of flanders, corsica, east_africa"):
            convert.read_labelled(setting)
    with pytest.raises(ConfigError, match=r"no file nowhere\.npz"):
        convert.read_labelled("flanders=nowhere.npz")


@pytest.mark.usefixtures("no_clip")
def test_a_name_that_no_card_may_have_is_refused(tmp_path):
    save_file(official().state_dict(), tmp_path / "e.safetensors")
    with pytest.raises(WeightsError, match=r"e\.safetensors: name: "):
        convert.convert(tmp_path / "e.safetensors", tmp_path / "w", "none", name="Not a name")


# ---- fetching ----


PUBLISHED = "/pallavijainpj/TimeSenCLIP/resolve/main/TimeSenCLIP_1x1.ckpt"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Server]:
    """A hub on loopback, which gives what `always` holds for PUBLISHED."""
    from huggingface_hub import constants

    with Server() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.base)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)  # both: of HF_ENDPOINT at import
        monkeypatch.setattr(constants, "ENDPOINT", server.base)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
        yield server


@pytest.mark.usefixtures("no_clip")
def test_a_published_checkpoint_is_fetched_and_converted(hub, tmp_path):
    module = official()
    torch.save(lightning(module), tmp_path / "a.ckpt")
    told = {"ETag": '"1"', "X-Repo-Commit": "c" * 40}
    hub.always[PUBLISHED] = Answer(headers=told, body=(tmp_path / "a.ckpt").read_bytes())
    done = geomap("weights", "fetch", "timesenclip", "--out", tmp_path / "w")
    assert done.exit_code == 0, done.output
    made = weights.load_weights(str(tmp_path / "w"))
    assert made.card.name == "timesenclip"
    assert "see the model page, huggingface.co/pallavijainpj/TimeSenCLIP" in made.card.licence
    assert torch.equal(made.encoder.embed.weight, module.spectral_embedding[1].weight)


def test_without_network_the_command_says_how_to_convert_by_hand(tmp_path):
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = typed("weights", "fetch", "timesenclip", "--out", tmp_path / "w", **offline)
    line = refused(done, 75, "try again later", "geomap weights convert TimeSenCLIP_1x1.ckpt --out DIR")
    assert done.stderr.splitlines() == [line]
    assert not (tmp_path / "w").exists()


def test_a_hub_that_refuses_and_one_that_does_not_answer_are_told_apart(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the hub's client waits longer before each retry
    hub.always[PUBLISHED] = Answer(401)
    with pytest.raises(WeightsError, match=r"does not give TimeSenCLIP_1x1\.ckpt \(HTTP 401\)"):
        published.fetch("timesenclip")
    hub.always[PUBLISHED] = Answer(503)
    with pytest.raises(TemporaryError, match="cannot be fetched"):
        published.fetch("timesenclip")
    hub.close()  # from here on, connections are refused
    with pytest.raises(TemporaryError, match="cannot be fetched") as e:
        published.fetch("timesenclip")
    assert e.value.exit_code == 75
    with pytest.raises(WeightsError, match="known are timesenclip"):
        published.fetch("senclip")
