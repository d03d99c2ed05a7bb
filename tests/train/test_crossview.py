"""Training on series and photos: the loss against a slow loop, maskings, schedule, resuming, several processes."""

import csv
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file

from geomap import legends
from geomap.encode import weights
from geomap.encode.card import CARD_FILE, MODEL_FILE, Q_HIGH, Q_LOW
from geomap.errors import BusyError, ConfigError, GeomapError, InputError, OutputError, WeightsError
from geomap.label import towers
from geomap.sentinel2 import BANDS
from geomap.train import checkpoints, config
from geomap.train.config import CrossViewConfig
from geomap.train.crossview import curves, masking, resume, views
from geomap.train.crossview import loop as crossview
from geomap.train.crossview.contrast import CrossView, Queue, info_nce
from geomap.train.crossview.masking import Masking
from geomap.train.crossview.processes import Group
from tests.support import REPOSITORY
from tests.support.layouts import write_cut, write_photo_dictionary

DIM = towers.OpenClipTower.dim
CPU = torch.device("cpu")
ALONE = Group(0, 1, CPU)
PLAIN = Masking("none", np.ones(12, bool), np.ones(10, bool))


def unit(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return F.normalize(torch.from_numpy(rng.normal(size=shape).astype(np.float32)), dim=-1)


# --- the loss and its queue


def slow_losses(
    satellite: np.ndarray, ids: list[int], ground: np.ndarray, past: list[tuple[int, np.ndarray]], scale: float
) -> list[float]:
    """InfoNCE sample by sample: the own photo, the others of the batch, and past photos of other samples."""
    out = []
    for i, anchor in enumerate(satellite.astype(np.float64)):
        positive = scale * anchor @ ground[i]
        negatives = [scale * anchor @ g for j, g in enumerate(ground) if j != i]
        negatives += [scale * anchor @ g for number, g in past if number != ids[i]]
        out.append(np.log(np.exp([positive, *negatives]).sum()) - positive)
    return out


def test_loss_and_queue_equal_a_slow_loop_while_filling_and_after_wrapping() -> None:
    rng = np.random.default_rng(0)
    queue, past = Queue(7, 16, CPU), []
    for size in (3, 3, 4, 2, 1, 9, 5):  # ragged batches; 9 exceeds the queue; samples come back while queued
        ids = rng.choice(12, size, replace=False).tolist()
        satellite, ground = unit(rng, size, 16), unit(rng, size, 16)
        vectors, samples = queue.entries()
        assert len(vectors) == len(past)
        numbers = torch.tensor(ids)
        scale = torch.tensor(14.0, requires_grad=True)
        found = info_nce(satellite, ground, torch.arange(size), scale, vectors, numbers[:, None] == samples)
        assert torch.autograd.grad(found.sum(), scale)[0].isfinite()
        expected = slow_losses(satellite.numpy(), ids, ground.numpy(), past, 14.0)
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
        queue.push(ground, numbers)
        past = [*past, *zip(ids, ground.numpy(), strict=True)][-7:]
        assert sorted(queue.entries()[1].tolist()) == sorted(i for i, _ in past)


def test_scale_starts_at_the_papers_temperature_and_stops_at_100_without_losing_its_gradient() -> None:
    torch.manual_seed(0)
    model = CrossView(weights.PixelEncoder(SMALL, torch.tensor(Q_LOW), torch.tensor(Q_HIGH)))
    assert model.scale.item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        model.log_scale.fill_(9.0)
    model.limit_scale()
    assert model.scale.item() == pytest.approx(100)
    dn, valid = torch.randint(1, 4000, (4, 12, 10)), torch.ones(4, 12, dtype=torch.bool)
    model(dn, valid, torch.arange(12), unit(np.random.default_rng(1), 4, 32), torch.arange(4)).sum().backward()
    assert model.log_scale.grad is not None
    assert model.log_scale.grad.abs() > 0


SMALL = weights.EncoderConfig(dim=32, depth=1, heads=2, mlp=32, out=32, dropout=0.0)


# --- maskings


def test_half_of_the_batches_are_masked_and_the_three_ways_are_equally_likely() -> None:
    rng = np.random.default_rng(3)
    drawn = [masking.draw(rng, 0.5, spectral=False) for _ in range(6000)]
    kinds = Counter(d.kind for d in drawn)
    assert kinds["none"] / 6000 == pytest.approx(1 / 2, abs=0.03)
    assert all(kinds[k] / 6000 == pytest.approx(1 / 6, abs=0.02) for k in masking.TEMPORAL)
    assert all(d.bands.all() for d in drawn)
    starts = Counter(int(d.months.argmax()) for d in drawn if d.kind == "window")
    assert sorted(starts) == list(range(10))  # does not wrap
    assert max(starts.values()) < 2 * min(starts.values())
    windows = [d.months for d in drawn if d.kind == "window"]
    assert all(m.sum() == 3 and m[m.argmax() :][:3].all() for m in windows)
    sizes = Counter(int(d.months.sum()) for d in drawn if d.kind == "subset")
    assert sorted(sizes) == list(range(1, 12))
    kept = np.mean([d.months for d in drawn if d.kind == "subset"], axis=0)
    assert kept == pytest.approx(0.5, abs=0.08)  # no month is preferred


def test_equal_seeds_draw_equal_maskings() -> None:
    a, b = (np.random.default_rng([4, 9]) for _ in range(2))
    for _ in range(50):
        one, two = masking.draw(a, 0.5, True), masking.draw(b, 0.5, True)
        assert one.kind == two.kind
        np.testing.assert_array_equal(one.months, two.months)
        np.testing.assert_array_equal(one.bands, two.bands)


def test_masked_months_are_no_tokens_and_the_others_keep_their_positions() -> None:
    rng = np.random.default_rng(5)
    dn = rng.integers(1, 5000, (4, 12, 10)).astype(np.uint16)
    valid = np.ones((4, 12), bool)
    valid[1, :6] = False
    valid[2] = np.arange(12) == 11  # December alone: the window would take it away
    window = Masking("window", np.isin(np.arange(12), (2, 3, 4)), np.ones(10, bool))
    masked = masking.apply_np(window, dn, valid)
    np.testing.assert_array_equal(masked.dn, dn)
    np.testing.assert_array_equal(masked.months, np.arange(12))
    np.testing.assert_array_equal(masked.valid[0], window.months)
    np.testing.assert_array_equal(masked.valid[1], valid[1])  # no valid month inside the window
    np.testing.assert_array_equal(masked.valid[2], valid[2])
    # the encoder sees March, April and May as March, April and May
    torch.manual_seed(0)
    encoder = weights.PixelEncoder(SMALL, torch.tensor(Q_LOW), torch.tensor(Q_HIGH)).eval()
    torch.nn.init.normal_(encoder.position)
    whole = encoder(torch.from_numpy(masked.dn[:1]), torch.from_numpy(masked.valid[:1]), torch.arange(12))
    cut = encoder(torch.from_numpy(dn[:1, 2:5]), torch.ones(1, 3, dtype=torch.bool), torch.tensor([2, 3, 4]))
    torch.testing.assert_close(whole, cut)


def test_the_annual_median_is_one_step_over_the_valid_months_in_the_mean_position() -> None:
    rng = np.random.default_rng(6)
    dn = rng.integers(1, 5000, (3, 12, 10)).astype(np.uint16)
    valid = rng.random((3, 12)) < 0.6
    masked = masking.apply_np(Masking("median", np.ones(12, bool), np.ones(10, bool)), dn, valid)
    assert masked.dn.shape == (3, 1, 10)
    assert masked.valid.all()
    for i in range(3):
        np.testing.assert_array_equal(masked.dn[i, 0], np.floor(np.median(dn[i, valid[i]].astype(float), axis=0)))
    np.testing.assert_allclose(masked.months, np.full((1, 12), 1 / 12))


def test_spectral_masking_zeroes_the_input_of_half_of_the_bands_but_never_rgb() -> None:
    rng = np.random.default_rng(7)
    bands = np.array([masking.draw(rng, 0.0, spectral=True).bands for _ in range(2000)])
    rgb = np.isin(BANDS, ("B02", "B03", "B04"))
    assert bands[:, rgb].all()
    assert bands[:, ~rgb].mean(0) == pytest.approx(0.5, abs=0.04)
    dn = rng.integers(1000, 3000, (2, 12, 90)).astype(np.uint16)  # 3 x 3 pixels, band-major
    drawn = Masking("none", np.ones(12, bool), np.isin(BANDS, ("B02", "B03", "B04", "B11")))
    masked = masking.apply_np(drawn, dn, np.ones((2, 12), bool))
    shape = replace(SMALL, patch=3)
    encoder = weights.PixelEncoder(shape, torch.tensor(Q_LOW), torch.tensor(Q_HIGH))
    x = encoder.normalise(torch.from_numpy(masked.dn)).reshape(2, 12, 10, 9)
    for b, kept in enumerate(drawn.bands):
        assert (x[:, :, b] > 0).all() if kept else (x[:, :, b] == 0).all()


def test_the_learning_rate_rises_over_the_warm_up_and_falls_as_a_cosine() -> None:
    steps, warmup = 200, 10  # in epochs of one step, the paper's
    assert [crossview.cosine_rate(s, steps, warmup) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert crossview.cosine_rate(10, steps, warmup) == pytest.approx(1.0)
    assert crossview.cosine_rate(105, steps, warmup) == pytest.approx(0.5)
    assert crossview.cosine_rate(199, steps, warmup) < 1e-3


# --- configuration


def test_the_papers_configuration_is_the_papers() -> None:
    read = config.read_config(REPOSITORY / "pipelines" / "train_timesenclip.yaml")
    assert isinstance(read, CrossViewConfig)
    assert (read.encoder, read.patch, read.dropout) == ("timesenclip", 1, 0.2)
    assert (read.epochs, read.warmup, read.batch, read.queue) == (200, 10, 1024, 2048)
    assert (read.learning_rate, read.weight_decay) == (1e-4, 1e-6)
    assert (read.masking.temporal, read.masking.spectral) == (0.5, False)
    smoke = config.read_config(REPOSITORY / "pipelines" / "train_smoke.yaml")
    assert isinstance(smoke, CrossViewConfig)
    size = {"name", "title", "data", "recipe", "limits", "licence", "epochs", "warmup", "batch", "threads", "queue"}
    assert smoke.model_dump(exclude=size) == read.model_dump(exclude=size)  # shrunk in size alone


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epoch": 3}, "epoch"),
        ({"patch": 3}, "patch"),
        ({"method": "crosview"}, "crossview"),
        ({"masking": {"temporal": 2}}, "masking.temporal"),
        ({"masking": {"windows": 2}}, "masking.windows"),
        ({"data": {"train": "a.h5"}}, "data"),
        ({"queue": 0}, "queue"),
        ({"dropout": 1}, "dropout"),
    ],
)
def test_bad_configurations_are_refused_by_name(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(described() | change))
    with pytest.raises(ConfigError, match=named) as e:
        config.read_config(path)
    first, *lines = str(e.value).splitlines()
    assert first.startswith(str(path))
    assert all(line.startswith("    data.") for line in lines)  # of a table that lacks several keys, each


def described() -> dict[str, Any]:
    data = {"name": "tiny", "kind": "simulated", "licence": "none", "train": "train.h5", "validation": "val.h5"}
    return {
        "method": "crossview", "name": "tiny", "title": "Tiny", "licence": "none",
        "data": data | {"photos": "photos.safetensors"}, "encoder": "small", "dropout": 0.1, "epochs": 10, "warmup": 1,
        "batch": 24, "queue": 40, "learning_rate": 1e-3, "device": "cpu",
    }  # fmt: skip


# --- whole runs, on three kinds of pixels with their own photo vectors


def write_photos(path: Path, vectors: dict[str, np.ndarray]) -> Path:
    """The file of `geomap photos embed`."""
    keys = torch.tensor([list(key.encode()) for key in vectors], dtype=torch.uint8)
    save_file({"keys": keys, "vectors": torch.from_numpy(np.array(list(vectors.values()), np.float32))}, path)
    return path


TRAIN, VAL = 61, 20  # a ragged last batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cut files, photos (of two samples none) and the configuration."""
    out = tmp_path_factory.mktemp("crossview")
    rng = np.random.default_rng(8)
    kinds = rng.integers(200, 3000, (3, 12, 10))
    shown = rng.normal(size=(3, DIM))
    photos = {}
    for name, first, n in (("train", 30000000, TRAIN), ("val", 40000000, VAL)):
        kind = rng.integers(0, 3, n)
        ids = [str(first + i) for i in range(n)]
        image = np.clip(kinds[kind] * rng.normal(1, 0.05, (n, 12, 10)), 1, 9999).astype(np.uint16)
        write_cut(out / f"{name}.h5", ids, image, {"lc1": ["B11"] * n, "nuts0": ["FR"] * n})
        for i, k in list(zip(ids, kind, strict=True))[: -2 if name == "train" else None]:
            for direction in "NESW":
                photos[f"FR_{i}{direction}"] = 5 * (shown[k] + rng.normal(0, 0.5, DIM))
    write_photos(out / "photos.safetensors", photos)
    write_photo_dictionary(out / "photos.pt", photos)
    (out / "c.yaml").write_text(yaml.safe_dump(described()))
    return out


@pytest.fixture(autouse=True)
def no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLIP is not to be had: no test may look for it on its hub."""

    def none(space: str) -> towers.TextTower:
        raise WeightsError(f"no {space} here")

    monkeypatch.setattr(towers, "tower", none)
    monkeypatch.setenv(towers.CLIP_FILE_VARIABLE, "/nonexistent/clip.safetensors")  # of processes that tests start


class Noise:
    """A text tower in CLIP's place: a fixed random vector for each prompt."""

    space, dim = towers.CLIP_SPACE, DIM

    def encode(self, prompts: Sequence[str]) -> torch.Tensor:
        return torch.cat([unit(np.random.default_rng(list(p.encode())), 1, DIM) for p in prompts])


@pytest.fixture(scope="module")
def tiny(folder: Path) -> CrossViewConfig:
    read = config.read_config(folder / "c.yaml")
    assert isinstance(read, CrossViewConfig)
    return read


def metrics(out: Path) -> list[dict[str, str]]:
    """Lines of metrics.csv without the speed."""
    with (out / curves.METRICS_FILE).open() as f:
        return [{k: v for k, v in line.items() if k != "samples_per_s"} for line in csv.DictReader(f)]


def stop_at(step: int) -> Callable[[str, int, int], None]:
    def progress(stage: str, done: int, total: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


def test_a_run_learns_and_leaves_honest_weights(
    tiny: CrossViewConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(towers, "tower", lambda space: Noise())
    calls = []
    run = tiny.model_copy(update={"epochs": 20})
    card = crossview.train_crossview(run, tmp_path, lambda *step: calls.append(step))
    assert calls == [("train", i, 60) for i in range(1, 61)]  # 59 samples in batches of 24: three a epoch
    lines = metrics(tmp_path)
    assert [int(line["epoch"]) for line in lines] == list(range(1, 21))
    assert float(lines[-1]["val_loss"]) < 0.8 * float(lines[0]["val_loss"])
    assert float(lines[-1]["val_recall_at_1"]) > 2 / VAL  # own photo among those of one kind; chance is 1 / VAL
    assert (tmp_path / curves.PLOT_FILE).read_bytes().startswith(b"\x89PNG")
    loaded = weights.load_weights(str(tmp_path))
    assert loaded.card == card
    assert card.text_space == towers.CLIP_SPACE
    assert card.encoder["out"] == DIM
    assert card.training[0].kind == "simulated"
    assert card.training[0].samples == TRAIN - 2
    assert "2 samples without photos" in card.training[0].note
    best = min(lines, key=lambda line: float(line["val_loss"]))
    assert card.metrics["best_epoch"] == int(best["epoch"])
    known = [legends.load(name) for name in legends.builtin_names()]
    assert set(loaded.class_vectors) == {k.digest for k in known}
    torch.testing.assert_close(
        crossview.validate(run, CrossView(loaded.encoder), views.read_views(run)[1], CPU)[1],
        float(best["val_recall_at_1"]),
    )


def test_stopped_and_resumed_runs_equal_a_whole_one_to_the_bit(tiny: CrossViewConfig, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    crossview.train_crossview(tiny, whole)
    for step in (17, 18):  # in the middle of the sixth epoch, then before anything of it is written
        with pytest.raises(KeyboardInterrupt):
            crossview.train_crossview(tiny, parts, stop_at(step))
        assert len(metrics(parts)) == 5
        assert not (parts / CARD_FILE).exists()
    crossview.train_crossview(tiny, parts)
    assert metrics(parts) == metrics(whole)
    assert weights.load_weights(str(parts)).class_vectors == {}  # without CLIP there are none to store
    for file in (MODEL_FILE, CARD_FILE, f"{checkpoints.FOLDER}/{resume.BEST}"):
        assert (parts / file).read_bytes() == (whole / file).read_bytes(), file
    before = (parts / curves.METRICS_FILE).read_bytes()
    crossview.train_crossview(tiny, parts)  # finished: nothing is trained again
    assert (parts / curves.METRICS_FILE).read_bytes() == before


def test_another_configuration_or_other_data_are_refused(tiny: CrossViewConfig, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        crossview.train_crossview(tiny, tmp_path, stop_at(5))
    with pytest.raises(OutputError, match="batch"):
        crossview.train_crossview(tiny.model_copy(update={"batch": 25}), tmp_path)
    swapped = tiny.data.model_copy(update={"train": tiny.data.validation, "validation": tiny.data.train})
    with pytest.raises(OutputError, match="samples"):
        crossview.train_crossview(tiny.model_copy(update={"data": swapped}), tmp_path)
    last = tmp_path / checkpoints.FOLDER / resume.LAST
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(OutputError, match="cannot read the checkpoint"):
        crossview.train_crossview(tiny, tmp_path)


def test_one_run_at_a_time_trains_in_a_folder(tiny: CrossViewConfig, tmp_path: Path) -> None:
    with checkpoints.hold(tmp_path), pytest.raises(BusyError, match="another run is training in"):
        crossview.train_crossview(tiny, tmp_path)
    assert not (tmp_path / CARD_FILE).exists()
    crossview.train_crossview(tiny.model_copy(update={"epochs": 1}), tmp_path)
    with pytest.raises(OutputError, match="holds the weights tiny, not other"):
        crossview.train_crossview(tiny.model_copy(update={"epochs": 1, "name": "other"}), tmp_path)


def test_the_best_epoch_is_of_the_run_that_the_card_describes(tiny: CrossViewConfig, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for out, seed in ((one, 0), (two, 1)):
        with pytest.raises(KeyboardInterrupt):
            crossview.train_crossview(tiny.model_copy(update={"epochs": 2, "seed": seed}), out, stop_at(4))
    best = f"{checkpoints.FOLDER}/{resume.BEST}"
    (one / best).write_bytes((two / best).read_bytes())
    same = crossview.identity(tiny.model_copy(update={"epochs": 2}), *views.read_views(tiny))
    state = crossview.start(tiny, DIM, CPU)
    resume.resume(two, state, same | {"seed": 1})
    with pytest.raises(OutputError, match=r"another configuration or data \(seed\)"):
        resume.load_best(one, state, same)
    resume.load_best(two, state, same | {"seed": 1})
    state.history.append(replace(state.history[-1], epoch=9, val_loss=-1.0))
    with pytest.raises(OutputError, match=r"is of epoch \d, and epoch 9 was the best; remove"):
        resume.load_best(two, state, same | {"seed": 1})


def test_training_masks_and_validation_does_not(
    tiny: CrossViewConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = masking.apply_np

    def spy(drawn: Masking, dn: np.ndarray, valid: np.ndarray) -> Any:
        seen.append((drawn.kind, len(dn)))
        return real(drawn, dn, valid)

    monkeypatch.setattr(masking, "apply_np", spy)
    crossview.train_crossview(tiny.model_copy(update={"epochs": 2}), tmp_path)
    assert [n for _, n in seen] == [24, 24, 11] * 2  # the training batches, and nothing of the validation set


def test_what_cannot_be_trained_is_said(tiny: CrossViewConfig, folder: Path, tmp_path: Path) -> None:
    def with_data(**change: str) -> CrossViewConfig:
        return tiny.model_copy(update={"data": tiny.data.model_copy(update=change)})

    with pytest.raises(ConfigError, match="nowhere"):
        crossview.train_crossview(with_data(train="/nowhere/train.h5"), tmp_path)
    other = write_photos(folder / "other.safetensors", {"FR_99999999N": np.ones(DIM)})
    with pytest.raises(ConfigError, match="0 samples with photos"):
        crossview.train_crossview(with_data(photos=str(other)), tmp_path)
    ids = [f"FR_{i}N" for i in (*range(30000000, 30000000 + TRAIN), *range(40000000, 40000000 + VAL))]
    with pytest.raises(ConfigError, match="61 points are in"):
        crossview.train_crossview(with_data(validation=tiny.data.train), tmp_path)
    short = write_photos(folder / "short.safetensors", {i: np.ones(384) for i in ids})
    with pytest.raises(ConfigError, match="384"):
        crossview.train_crossview(with_data(photos=str(short)), tmp_path)
    with pytest.raises(InputError, match="device"):
        crossview.train_crossview(tiny.model_copy(update={"device": "tpu"}), tmp_path)
    with pytest.raises(InputError, match="9"):
        crossview.train_crossview(tiny.model_copy(update={"patch": 9}), tmp_path)


def test_the_published_dictionary_of_photos_gives_the_same(tiny: CrossViewConfig, folder: Path) -> None:
    data = tiny.data.model_copy(update={"photos": str(folder / "photos.pt")})
    for one, two in zip(views.read_views(tiny), views.read_views(tiny.model_copy(update={"data": data})), strict=True):
        np.testing.assert_allclose(one.ground, two.ground, rtol=1e-5, atol=1e-7)
        assert (one.left_out, two.left_out) in {(2, 2), (0, 0)}
        np.testing.assert_allclose(np.linalg.norm(one.ground, axis=1), 1, rtol=1e-5)


def test_patches_and_masked_bands_train_too(tiny: CrossViewConfig, tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    for name, first in (("train", 30000000), ("val", 40000000)):
        image = rng.integers(1, 5000, (5, 12, 10, 9, 9)).astype(np.uint16)
        write_cut(tmp_path / f"{name}.h5", [str(first + i) for i in range(5)], image, {"lc1": ["B11"] * 5})
    points = [*range(30000000, 30000005), *range(40000000, 40000005)]
    write_photos(tmp_path / "photos.safetensors", {f"FR_{i}N": rng.normal(size=DIM) for i in points})
    changed = {"patch": 5, "epochs": 2, "masking": {"spectral": True}, "precision": "bf16"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(described() | changed))
    card = crossview.train_crossview(tmp_path / "c.yaml", tmp_path / "out")
    assert card.encoder["patch"] == 5
    assert weights.load_weights(str(tmp_path / "out")).encoder.embed.in_features == 250


def test_bf16_gives_nearly_the_loss_of_fp32(tiny: CrossViewConfig) -> None:
    train, _ = views.read_views(tiny)
    losses = []
    for precision in ("fp32", "bf16"):
        begun = crossview.start(tiny.model_copy(update={"precision": precision, "dropout": 0.0}), DIM, CPU)
        losses.append(crossview.train_step(begun, begun.model, train, np.arange(24), PLAIN, ALONE).item())
        assert begun.model.encoder.embed.weight.dtype == torch.float32
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_loss_that_is_not_finite_ends_the_run(tiny: CrossViewConfig) -> None:
    train, _ = views.read_views(tiny)
    begun = crossview.start(tiny, DIM, CPU)
    with torch.no_grad():
        begun.model.log_scale.fill_(torch.nan)
    with pytest.raises(GeomapError, match="epoch 3 is not finite"):
        crossview.train_epoch(tiny, begun, begun.model, train, 2, ALONE)


# --- several processes


@pytest.mark.parametrize(("size", "rows"), [(2, 24), (2, 11), (4, 3)])
def test_shares_of_a_batch_give_the_gradients_of_the_whole(tiny: CrossViewConfig, size: int, rows: int) -> None:
    train, _ = views.read_views(tiny)
    rng = np.random.default_rng(9)
    picked = rng.permutation(len(train))[:rows]
    queue = Queue(40, DIM, CPU)
    past = rng.permutation(len(train))[:30]
    queue.push(torch.from_numpy(train.ground[past]), torch.from_numpy(past))

    def gradients(group: Group) -> tuple[float, list[torch.Tensor]]:
        model = crossview.start(tiny.model_copy(update={"dropout": 0.0}), DIM, CPU).model
        ground, numbers = torch.from_numpy(train.ground[picked]), torch.from_numpy(picked)
        loss = crossview.batch_loss(queue, model, train, picked, ground, numbers, PLAIN, group)
        loss.backward()
        return loss.item(), [p.grad for p in model.parameters() if p.grad is not None]

    loss, whole = gradients(ALONE)
    parts = [gradients(Group(rank, size, CPU)) for rank in range(size)]
    assert np.mean([part for part, _ in parts]) == pytest.approx(loss, rel=1e-5)
    for one, *several in zip(whole, *(g for _, g in parts), strict=True):
        torch.testing.assert_close(torch.stack(several).mean(0), one, rtol=1e-4, atol=1e-6)


@pytest.mark.soak
def test_two_processes_train_as_one_does(tiny: CrossViewConfig, folder: Path, tmp_path: Path) -> None:
    run = described() | {"dropout": 0.0, "epochs": 3}
    path = folder / "two.yaml"
    path.write_text(yaml.safe_dump(run))
    alone = config.read_config(path)
    assert isinstance(alone, CrossViewConfig)
    crossview.train_crossview(alone, tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "geomap.cli", "train", str(path), "--out", str(tmp_path / "two")]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("weights in") == 1
    for one, two in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert [float(v) for v in two.values()] == pytest.approx([float(v) for v in one.values()], rel=1e-3)
