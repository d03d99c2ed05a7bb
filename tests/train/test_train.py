"""Training: configuration, batches, a short run that learns and repeats, and the readers of the real sets."""

import itertools
import logging
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from geomap import legends
from geomap.datasets import kinds
from geomap.datasets.measured import LICENCES, READERS
from geomap.datasets.places import read_africa, read_rondonia
from geomap.datasets.samples import Samples
from geomap.datasets.series import embed_samples
from geomap.datasets.sets import read_set
from geomap.datasets.simulated import cover_labels, simulated_samples
from geomap.datasets.worldcereal import B8A_FROM, fill_b8a_np, read_corsica, read_east_africa, read_flanders
from geomap.encode import weights
from geomap.encode.card import CARD_FILE, MODEL_FILE
from geomap.encode.model import PixelEncoder
from geomap.errors import BusyError, ConfigError, DataError, GeomapError, InputError, OutputError
from geomap.evaluate import baselines
from geomap.label import towers
from geomap.sentinel2 import BANDS
from geomap.simulate.covers import cover_index, table
from geomap.train import checkpoints, config
from geomap.train.captions import fits, loop, pool, run, scores
from geomap.train.captions import levels as captions
from geomap.train.captions.loss import OTHER_SHARE, CaptionLoss, origin_bias
from geomap.train.captions.teachers import Teachers
from geomap.train.captions.vocabulary import Vocabulary
from geomap.train.config import Augment, TrainConfig
from geomap.train.scale import MAX_SCALE
from tests.support import REPOSITORY

MINIMAL = "name: tiny\ntitle: Tiny\nlicence: Apache-2.0\n"


class LetterTower:
    """A text tower made of letter counts: no model to load, and different captions differ."""

    space = towers.MINILM_SPACE
    dim = 384

    def encode(self, prompts: list[str]) -> torch.Tensor:
        pairs = [[(ord(a) * 31 + ord(b)) % self.dim for a, b in itertools.pairwise(prompt)] for prompt in prompts]
        vectors = np.stack([np.bincount(np.array(found, int), minlength=self.dim) for found in pairs])
        return torch.nn.functional.normalize(torch.from_numpy(vectors).float() + 0.01, dim=-1)


@pytest.fixture(autouse=True)
def small_forests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forests of ten trees: how they do is not tested."""
    monkeypatch.setattr(baselines, "TREES", 10)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setattr(towers, "tower", lambda space: LetterTower())
    return TrainConfig(
        name="tiny", title="Tiny", licence="Apache-2.0", simulated=400, steps=25, batch=64, warmup=5, held_out=300
    )


def parse(tmp_path: Path, content: str) -> TrainConfig:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    return config.read_captions(path)


def covers_of(samples: Samples) -> np.ndarray:
    keys = [c.key for c in table().cover]
    return np.array([*keys, *[""] * (len(kinds.members()) - len(keys))])[samples.labels["cover"] - 1]


def test_default_configuration_is_valid() -> None:
    default = config.read_captions(REPOSITORY / "pipelines" / "train_default.yaml")
    assert default.name == "default"
    assert set(default.real) == set(READERS) - {"africa"}
    assert set(default.test) == {"africa"}
    assert default.limits


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    read = parse(tmp_path, MINIMAL + "real:\n  corsica: data/c.parquet\n")
    assert read.real == {"corsica": str(tmp_path / "data" / "c.parquet")}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (MINIMAL + "stepz: 3\n", "stepz"),
        (MINIMAL + "augment:\n  blur: 1\n", "augment.blur"),
        (MINIMAL + "real:\n  atlantis: a.npz\n", "real: atlantis is none of flanders"),
        (MINIMAL + "real_share: 1.5\n", "real_share"),
        (MINIMAL + "real: {all: a.csv}\n", "real: the card calls all sets together `all`"),
        (MINIMAL + "steps: 0\n", "steps"),
        (MINIMAL + "dropout: 1.0\n", "dropout"),
        (MINIMAL + "levels: {cover: .nan}\n", "levels.cover"),
        (MINIMAL + "levels: {crops: -3}\n", "levels.crops"),
        (MINIMAL + "levels: {cover: 0, landcover: 0, crops: 0, landuse: 0, habitat: 0, bioregion: 0}\n", "levels"),
        (MINIMAL + "learning_rate: .inf\n", "learning_rate"),
        (MINIMAL + "seed: -1\n", "seed"),
        (MINIMAL + "version: 2\n", "version: must be a valid string, not 2; put it in quotes"),
        (MINIMAL + "version: 2026-12-01\n", "version: must be a valid string, not a date; put it in quotes"),
        (MINIMAL.replace("tiny", "2024"), "name: must be a valid string, not 2024; put it in quotes"),
        (MINIMAL + "recipe:\n", "recipe: must be a valid string, not None$"),
        ("title: no name\nlicence: x\n", "name"),
        ("- a list\n", "file"),
        (MINIMAL + "seed: !!python/object/apply:os.getcwd []\n", "YAML"),
        ("a: [1, 2\n", "YAML"),
    ],
)
def test_bad_configurations_are_refused_by_name(tmp_path: Path, content: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as e:
        parse(tmp_path, content)
    assert "\n" not in str(e.value)


TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false", dict: "names and paths"}


def keys_of(model: type[BaseModel], prefix: str = "") -> dict[str, tuple[str, str]]:
    """Dotted keys of a configuration -> (type, default), as the reference writes them."""
    found: dict[str, tuple[str, str]] = {}
    for name, field in model.model_fields.items():
        tables = [t for t in (field.annotation, *get_args(field.annotation)) if hasattr(t, "model_fields")]
        if tables:
            found |= keys_of(tables[0], f"{prefix}{name}.")
        else:
            found[prefix + name] = type_of(field), default_of(field)
    return found


def type_of(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        *most, last = map(str, get_args(field.annotation))
        return f"{', '.join(most)} or {last}" if most else last
    bounds = {name: getattr(m, name) for m in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(m, name)}
    kind = TYPES.get(get_origin(field.annotation) or field.annotation, "list of text")
    if not bounds:
        return kind
    low = f"above {bounds['gt']}" if "gt" in bounds else bounds["ge"]
    return f"{kind}, {low} to " + (f"{bounds['le']:,}" if "le" in bounds else f"below {bounds['lt']:,}")


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{Decimal(str(value)).normalize():f}" if isinstance(value, int | float) else str(value or "")


@pytest.mark.parametrize(("method", "model"), [("captions", TrainConfig), ("crossview", config.CrossViewConfig)])
def test_the_reference_names_every_key_its_type_and_its_default(method: str, model: type[BaseModel]) -> None:
    text = (REPOSITORY / "docs/training.md").read_text()
    section = text.partition(f"### Of `{method}`\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| `(\S+)` \| (.*?) \| (.*?) \| (.+) \|$", section, re.MULTILINE)
    assert [(key, kind, default) for key, kind, default, _ in rows] == [(k, *v) for k, v in keys_of(model).items()]


def test_absent_files_are_named(tmp_path: Path, tiny: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="train_default"):
        config.read_captions(tmp_path / "none.yaml")
    lost = tiny.model_copy(update={"real": {"corsica": str(tmp_path / "lost.parquet")}})
    with pytest.raises(ConfigError, match=r"lost\.parquet"):
        run.train_captions(lost, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_short_training_learns_repeats_and_loads(
    tmp_path: Path, tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    with caplog.at_level(logging.INFO, logger="geomap.train.captions.loop"):
        run.train_captions(tiny, tmp_path / "a", lambda stage, done, total: steps.append(done))
    losses = [r.args[3] for r in caplog.records if len(r.args) == 4 and "step %d of" in r.msg]
    assert steps == list(range(1, 26))
    run.train_captions(tiny, tmp_path / "b")
    assert len(losses) == 25
    assert losses[-1] < losses[0] - 0.2  # from about the logarithm of the number of classes
    one, two = ((tmp_path / d / MODEL_FILE).read_bytes() for d in "ab")
    assert one == two
    loaded = weights.load_weights(str(tmp_path / "a"))
    assert loaded.card.metrics["simulated_held_out"]["landcover"]["samples"] > 200
    assert set(loaded.class_vectors) == {legends.load(n).digest for n in legends.builtin_names()}
    assert loaded.anchors is not None
    assert len(loaded.anchors) == sum(len(v.vectors) for v in captions.make_levels(LetterTower()) if v.by == "kind")
    assert [s.kind for s in loaded.card.training] == ["simulated"]


def test_learning_rate_warms_up_and_falls_to_a_rest() -> None:
    rates = [loop.linear_rate(s, 100, 10) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1 - 0.6 * 0.09)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.406)


@pytest.mark.soak
def test_the_encoder_is_the_mean_of_its_later_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against plain means of the weights that the optimiser leaves at every step."""
    seen: list[list[torch.Tensor]] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        out = step(self, *args, **kwargs)
        seen.append([p.detach().clone() for p in self.param_groups[0]["params"]])
        return out

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    short = TrainConfig(name="x", title="x", licence="x", batch=16, warmup=2, simulated=100)
    made_pool = pool.simulated_pool(np.random.default_rng(0), 100)
    levels = captions.make_levels(LetterTower())
    made = loop.fit_encoder(short, made_pool, [], levels, 10)
    for parameter, *steps in zip(made.parameters(), *seen[4:], strict=False):  # the loss has a parameter besides
        torch.testing.assert_close(parameter, torch.stack(steps).mean(0))


def test_an_encoder_learns_the_mean_of_its_teachers(tmp_path: Path) -> None:
    """Of encoders of other seeds, trained on the same series; the one that learns from them has a seed of its own."""
    asked = TrainConfig(
        name="x", title="x", licence="x", batch=32, warmup=2, simulated=200, steps=30,
        teachers=config.Teachers(count=2),
    )  # fmt: skip
    made_pool = pool.simulated_pool(np.random.default_rng(0), 200)
    levels = captions.make_levels(LetterTower())
    told: list[tuple[str, int]] = []
    material, wanted = fits.Material(asked, made_pool, [], levels), fits.fits_of(asked, [])
    found = fits.train_all(material, wanted, tmp_path, 1, lambda stage, done, total: told.append((stage, total)))
    assert Counter(told) == {("train: teacher 1", 30): 30, ("train: teacher 2", 30): 30, ("train", 30): 30}
    made = found["train"]

    def plain(seed: int) -> PixelEncoder:
        return loop.fit_encoder(asked.model_copy(update={"seed": seed}), made_pool, [], levels, 30)

    batch = pool.draw_batch(np.random.default_rng(5), made_pool, [], 64, 0, asked.augment)
    one, two, other = plain(0), plain(1), plain(10)
    with torch.no_grad():
        of_one, of_two, taught, alone = (e(batch.dn, batch.valid, batch.months) for e in (one, two, made, other))
    mean = torch.nn.functional.normalize(of_one + of_two, dim=1)
    teachers = Teachers([one, two], 30.0)
    torch.testing.assert_close(teachers.mean(batch), mean)
    torch.testing.assert_close(teachers.loss(alone, batch), 30 * (1 - (alone * mean).sum(1)).mean())
    assert teachers.loss(taught, batch) < 0.5 * teachers.loss(alone, batch)


def test_a_training_that_was_stopped_goes_on_and_equals_one_by_two_threads(
    tmp_path: Path, tiny: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """Two teachers and an encoder that learns from them, and the same without the set: six encoders."""
    mine = write_table(tmp_path / "mine.csv", simulated_samples(np.random.default_rng(4), 90))
    asked = tiny.model_copy(
        update={
            "real": {"mine": str(mine)},
            "teachers": config.Teachers(count=2),
            "evaluation": config.Evaluation(steps=5),
            "steps": 5,
        }
    )
    told: list[str] = []

    def stop(stage: str, done: int, total: int) -> None:
        told.append(stage)
        if stage == "evaluate without mine: teacher 2" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train_captions(asked, tmp_path / "one", stop)
    kept = sorted((tmp_path / "one/checkpoints").glob("*.safetensors"))
    assert len(kept) == 4  # all that were finished
    with checkpoints.hold(tmp_path / "one"), pytest.raises(BusyError, match="another run is training in"):
        run.train_captions(asked, tmp_path / "one")
    kept[0].write_bytes(kept[0].read_bytes()[:500])
    kept[0].with_name(f"{'0' * 24}.safetensors").write_bytes(b"of another configuration")
    told.clear()
    with caplog.at_level(logging.INFO, logger="geomap.train.captions.fits"):
        run.train_captions(asked, tmp_path / "one", lambda stage, done, total: told.append(stage))
    assert "3 of 6 encoders were trained before" in caplog.text
    assert f"{kept[0].name} cannot be read" in caplog.text
    assert set(Counter(told).values()) == {5}  # the damaged one, the one that was stopped, and the last
    assert len(set(told)) == 3
    steps: dict[str, int] = {}
    run.train_captions(asked, tmp_path / "two", lambda stage, done, total: steps.update({stage: done}), workers=2)
    assert [*steps.values()] == [5] * 6
    for file in (MODEL_FILE, CARD_FILE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    assert not (tmp_path / "one/checkpoints").exists()
    changed = tiny.model_copy(update={"learning_rate": 0.002, "steps": 5})
    material = [fits.Material(c, pool.simulated_pool(np.random.default_rng(0), 100), [], []) for c in (tiny, changed)]
    assert len({m.key(fits.fits_of(tiny, [])[0]) for m in material}) == 2  # other settings, other files


BY_LETTERS = """
from geomap.cli import main
from geomap.label import towers
from tests.train.test_train import LetterTower

towers.tower = lambda space: LetterTower()
main()
"""


@pytest.mark.parametrize(
    ("keys", "at", "says"),
    [
        ("steps: 30\nteachers: {count: 2}", "teacher 2: step 0 of", r"kept in .*checkpoints: \d encoders?; to go on: "),
        ("steps: 1000000", "step 0 of", "nothing is finished that could be kept; to begin again: "),
    ],
)
def test_a_training_that_is_terminated_says_what_it_kept_and_what_to_type(
    tmp_path: Path, keys: str, at: str, says: str
) -> None:
    (tmp_path / "my c.yaml").write_text(f"{MINIMAL}simulated: 100\nbatch: 32\nheld_out: 10\n{keys}\n")
    words = ["train", str(tmp_path / "my c.yaml"), "--out", str(tmp_path / "w")]

    def started(*words: str) -> subprocess.Popen[str]:
        environment = os.environ | {"COLUMNS": "999", "PYTHONPATH": str(REPOSITORY)}
        return subprocess.Popen(
            [sys.executable, "-c", BY_LETTERS, *words], stderr=subprocess.PIPE, text=True, env=environment
        )

    with started(*words) as first:
        assert first.stderr
        assert any(at in line for line in first.stderr)
        first.terminate()
        told = first.stderr.read()
    assert first.returncode == 130, told
    (line,) = (line for line in told.splitlines() if re.match(says, line))
    assert shlex.split(line[line.index("geomap train") :])[1:] == words
    if "kept" in says.split()[0]:
        with started(*words) as again:
            assert again.stderr
            assert "of 3 encoders were trained before" in again.stderr.read()
        assert again.returncode == 0


def test_the_first_error_stops_all_encoders_that_are_trained_at_once(tmp_path: Path, tiny: TrainConfig) -> None:
    asked = tiny.model_copy(update={"teachers": config.Teachers(count=3), "steps": 100_000})
    told: list[str] = []

    def stop(stage: str, done: int, total: int) -> None:
        told.append(stage)
        if {*told} == {"train: teacher 1", "train: teacher 2"}:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train_captions(asked, tmp_path / "w", stop, workers=2)
    assert not (tmp_path / "w/checkpoints").exists()  # nothing was finished


def test_loss_is_that_of_a_softmax_over_cosines() -> None:
    loss_of = CaptionLoss()
    loss_of.log_scale.data.fill_(np.log(10.0))
    vectors = {"a": torch.eye(2), "b": torch.eye(2)}
    labels = {"a": torch.tensor([[True, False]]), "b": torch.zeros(1, 2, dtype=torch.bool)}  # no class at level b
    bias = {"a": torch.tensor([[1.0, 0.0]]), "b": torch.zeros(1, 2)}
    got = loss_of(torch.tensor([[0.6, 0.8]]), vectors, labels, {"a": 1.0, "b": 1.0}, bias)
    p = np.exp([7.0, 8.0]) / np.exp([7.0, 8.0]).sum()
    smoothed = -(0.99 * np.log(p[0]) + 0.01 * np.log(p[1]))
    assert got.item() == pytest.approx(smoothed / 2, rel=1e-5)
    loss_of.log_scale.data.fill_(9.0)
    assert loss_of.scale.item() == MAX_SCALE


def test_a_label_of_several_classes_asks_for_their_probability_together() -> None:
    loss_of = CaptionLoss()
    loss_of.log_scale.data.fill_(0.0)
    vectors, bias = {"a": torch.eye(3)}, {"a": torch.zeros(3, 3)}
    e = torch.tensor([[0.6, 0.8, 0.0]]).repeat(3, 1)
    allowed = {"a": torch.tensor([[True, True, False], [False] * 3, [True] * 3])}  # the last two say nothing
    p = np.exp([0.6, 0.8, 0.0]) / np.exp([0.6, 0.8, 0.0]).sum()
    expected = -(0.98 * np.log(p[0] + p[1]) + 0.02 * np.log(p).mean())
    assert loss_of(e, vectors, allowed, {"a": 1.0}, bias).item() == pytest.approx(expected, rel=1e-5)


def test_what_a_real_set_holds_is_told_to_the_loss_and_not_learnt() -> None:
    """Series that say nothing: the loss is least where the embedding says nothing either, whatever the set's shares."""
    common, share = np.array([0.5, 0.3, 0.2]), np.array([0.9, 0.1, 0.0])
    bias = origin_bias([share], common)
    assert bias.shape == (2, 3)
    assert (bias[1] == 0).all()
    expected = (1 - OTHER_SHARE) * share + OTHER_SHARE * common
    told = torch.softmax(torch.tensor(common).log() + bias[0], 0)  # an embedding that knows the simulation's shares
    assert told.numpy() == pytest.approx(expected, abs=1e-3)


def test_levels_count_the_classes_of_a_pool() -> None:
    levels = {v.name: v for v in captions.make_levels(LetterTower())}
    cover = cover_index(np.array(["maize", "maize", "lake", "fallow"]))  # fallow: no land cover
    landcover = levels["landcover"]
    shares = landcover.shares(cover, np.array([0.1, 0.1, 0.3, 0.5]))
    of_cropland, of_water = (int(landcover.allowed[c].nonzero()) for c in (cover[0], cover[2]))
    assert (shares[of_cropland], shares[of_water]) == pytest.approx((0.4, 0.6))
    assert shares.sum() == pytest.approx(1)
    here = levels["bioregion"].shares(np.array([2, 2, 2, 1, -1]), np.full(5, 0.2))
    assert here[1:3] == pytest.approx([0.25, 0.75])
    assert not levels["bioregion"].allowed[-1].any()
    not_crop = kinds.group_index("no_crop")
    assert landcover.allowed[not_crop].sum() == 7
    assert not landcover.allowed[not_crop, of_cropland]
    usual = np.where(np.arange(8) == of_water, 3.0, 1.0)  # water counts for three of the nine parts
    split = landcover.shares(np.array([not_crop]), np.ones(1), usual)
    assert (split[of_water], split[of_cropland]) == pytest.approx((3 / 9, 0))


def test_kinds_of_land_say_what_all_their_covers_are() -> None:
    covers = table().cover
    landcover = kinds.class_of("landcover")
    assert landcover[: len(covers)].tolist() == [c.landcover for c in covers]
    names = ("annual_crop", "no_crop", "low_vegetation", "flooded_vegetation")
    assert [landcover[kinds.group_index(name)] for name in names] == [kinds.CROPLAND, 0, 0, 0]
    annual = {covers[i].key for i in np.flatnonzero(kinds.members()[kinds.group_index("annual_crop")])}
    assert {"maize", "sugarcane", "lucerne"} <= annual
    assert not {"vineyard", "olive_grove", "fallow", "pasture"} & annual
    water = kinds.kind_of_class("landcover", np.array([7, 0, 99]))
    assert landcover[water[0]] == 7
    assert water[1:].tolist() == [-1, -1]
    rice = kinds.kind_of_class("crop", np.array([7]))[0]
    assert {c.key for c, there in zip(covers, kinds.members()[rice], strict=True) if there} == {
        c.key for c in covers if c.crop == 7
    }


def test_series_are_shortened_to_steps_with_their_shares_of_months() -> None:
    rng = np.random.default_rng(1)
    dn = rng.integers(100, 9000, (400, 12, 10)).astype(np.float32)
    valid = rng.random((400, 12)) < 0.6
    valid[:, 3] = True
    out, some, months = pool.span_np(rng, dn, valid, 0.75)
    whole = np.flatnonzero((months == np.eye(12)).all((1, 2)))
    assert 50 < len(whole) < 150
    np.testing.assert_array_equal(out[whole], dn[whole])
    np.testing.assert_array_equal(some[whole], valid[whole])
    seen = set()
    for row in np.setdiff1d(np.arange(400), whole):
        steps = int(months[row].any(1).sum())
        seen.add(steps)
        assert not some[row, steps:].any()
        for step in range(steps):
            at = months[row, step] > 0
            assert months[row, step].sum() == pytest.approx(1)
            assert some[row, step] == valid[row, at].any()
            if some[row, step]:
                expected = np.floor(np.median(dn[row, at & valid[row]], axis=0))
                np.testing.assert_array_equal(out[row, step], expected)
    assert seen == {1, 2, 4}


def test_steps_that_span_months_are_padded_and_encoded_as_they_are() -> None:
    """A set of half-years: a batch holds two steps of it, and its embedding is that of the two alone."""
    rng = np.random.default_rng(0)
    shares = np.repeat(np.eye(2, dtype=np.float32), 6, axis=1) / 6
    dn = rng.integers(100, 9000, (20, 2, 10)).astype(np.uint16)
    crop = cover_labels(np.full(20, kinds.group_index("annual_crop")), np.full(20, -1))
    half = Samples("half", np.arange(20).astype(str), dn, np.ones((20, 2), bool), crop, steps=shares)
    none = Augment(some_months=0, window=0, gain=0, band_gain=0, offset=0, shift=0)
    batch = pool.draw_batch(rng, pool.simulated_pool(rng, 100), [pool.measured_pool(half)], 40, 0.5, none)
    assert batch.valid[:20].sum(1).tolist() == [2] * 20
    assert set(batch.climate[:20].tolist()) == {-1}
    encoder = weights.load_weights("default").encoder
    with torch.no_grad():
        padded = encoder(batch.dn, batch.valid, batch.months)[:20]
    order = [int((half.dn[:, 0] == row[0]).all(1).argmax()) for row in batch.dn[:20].numpy()]
    torch.testing.assert_close(padded, embed_samples(encoder, half)[order], atol=1e-5, rtol=0)


def test_augmentation_keeps_at_least_three_months_and_never_adds_one() -> None:
    rng = np.random.default_rng(0)
    valid = rng.random((2000, 12)) < 0.9
    valid[:, 0] = True
    kept = pool.keep_months_np(rng, valid, Augment(some_months=0.5, window=0.5))
    assert not (kept & ~valid).any()
    assert kept.any(1).all()
    full = pool.keep_months_np(rng, np.ones((2000, 12), bool), Augment(some_months=0.5, window=0.5))
    assert set(np.unique(full.sum(1))) == set(range(3, 12))
    untouched = pool.keep_months_np(rng, valid, Augment(some_months=0.0, window=0.0))
    assert np.array_equal(untouched, valid)


def test_batches_mix_real_and_simulated_series() -> None:
    rng = np.random.default_rng(0)
    simulated = pool.simulated_pool(rng, 300)
    maize = cover_labels(cover_index(np.array(["maize"] * 10)), np.zeros(10, np.intp))
    dn, valid = np.full((10, 12, 10), 1234, np.uint16), np.ones((10, 12), bool)
    known = Samples("toy", np.arange(10).astype(str), dn, valid, maize)
    none = Augment(some_months=0, window=0, gain=0, band_gain=0, offset=0, shift=0)
    batch = pool.draw_batch(rng, simulated, [pool.measured_pool(known)], 100, 0.3, none)
    assert batch.dn.shape == (100, 12, 10)
    assert (batch.dn == 1234).all(dim=2).all(dim=1).sum() == 30
    assert (batch.kind[:30] == table().index("maize")).all()
    assert (batch.months == torch.eye(12)).all()
    assert batch.pool.tolist() == [0] * 30 + [1] * 70


def test_typed_names_are_not_training_captions() -> None:
    seen = {c.casefold() for group in captions.cover_captions() for c in group}
    for name in legends.builtin_names():
        known = legends.load(name)
        seen |= {p.casefold() for c in known.classes for p in (c.name, *c.prompts)}
    assert not {name.casefold() for name in scores.TYPED.values()} & seen
    assert set(scores.TYPED) <= {c.key for c in table().cover}


def test_training_without_measured_sets_needs_no_evaluation_of_them(tmp_path: Path, tiny: TrainConfig) -> None:
    """The default configuration of somebody who has none of the three files."""
    config_ = tiny.model_copy(update={"evaluation": config.Evaluation(steps=5)})
    card = run.train_captions(config_, tmp_path / "w")
    assert "left_out" not in card.metrics
    assert card.logit_scale > 0


def write_table(path: Path, samples: Samples) -> Path:
    """A user's table of samples: cover, climate and the months that are valid."""
    columns = {f"{b}_{m + 1:02d}": samples.dn[:, m, i] for m in range(12) for i, b in enumerate(BANDS)}
    climates = np.array(list(table().climate))
    frame = pd.DataFrame({"cover": covers_of(samples), "climate": climates[samples.labels["climate"] - 1], **columns})
    frame.to_csv(path, index=False)
    return path


@pytest.mark.soak
def test_a_users_table_is_trained_on_as_the_set_that_it_was_written_from(tmp_path: Path, tiny: TrainConfig) -> None:
    made = simulated_samples(np.random.default_rng(4), 90)
    read = pool.read_measured("mine", write_table(tmp_path / "mine.csv", made))
    assert read.name == "mine"
    for name in ("cover", "climate", "landcover", "crops"):
        np.testing.assert_array_equal(read.labels[name], made.labels[name])
    np.testing.assert_array_equal(read.dn, made.dn)
    np.testing.assert_array_equal(read.valid, made.valid)
    other = simulated_samples(np.random.default_rng(5), 80)
    sets = {"mine": str(tmp_path / "mine.csv")}, {"other": str(write_table(tmp_path / "other.csv", other))}
    with_mine = {"real": sets[0], "test": sets[1], "evaluation": config.Evaluation(steps=5), "steps": 5}
    card = run.train_captions(tiny.model_copy(update=with_mine), tmp_path / "w")
    assert card.metrics["left_out"]["mine"]["landcover"]["samples"] == (made.labels["landcover"] > 0).sum()
    assert card.metrics["unseen"]["other"]["landcover"]["samples"] == (other.labels["landcover"] > 0).sum()
    assert [(s.name, s.kind, s.samples) for s in card.training[1:]] == [("mine", "measured", 90)]


def test_a_table_of_land_covers_or_crops_can_be_trained_on(tmp_path: Path) -> None:
    path, series = tmp_path / "t.csv", ",100" * 10
    path.write_text(
        ",".join(("landcover,crops,habitat", *(f"{b}_07" for b in BANDS)))
        + f"\nWater,,{series}\n,Maize,{series}\n,,{series}\n"
    )
    read = pool.read_measured("mine", path)
    landcover, crops = kinds.class_of("landcover"), kinds.class_of("crop")
    kind = pool.kind_of(read)
    assert (landcover[kind[0]], crops[kind[1]]) == (7, legends.load("crops").id_of("Maize"))
    assert len(read) == 2
    assert read.labels["climate"].tolist() == [0, 0]


@pytest.mark.parametrize("legend", ["landcover", "crops"])
def test_a_table_with_one_column_of_labels_is_trained_on_left_out_and_tested(
    tmp_path: Path, tiny: TrainConfig, legend: str
) -> None:
    sets = {}
    for seed, name in ((4, "mine"), (5, "other")):
        made = simulated_samples(np.random.default_rng(seed), 120)
        columns = {f"{b}_{m + 1:02d}": made.dn[:, m, i] for m in range(12) for i, b in enumerate(BANDS)}
        sets[name] = {name: str(tmp_path / f"{name}.csv")}
        frame = pd.DataFrame({legend: made.labels[legend], **columns}).replace(0, "")
        frame.to_csv(sets[name][name], index=False)
    asked = {"steps": 2, "real": sets["mine"], "test": sets["other"], "evaluation": config.Evaluation(steps=2)}
    metrics = run.train_captions(tiny.model_copy(update=asked), tmp_path / "w").metrics
    scored = [metrics["left_out"]["mine"], metrics["unseen"]["other"]]
    assert all(0 <= found[legend]["accuracy"] <= 1 for found in scored)
    assert all({"landcover", "crops"} & set(found) == {legend} for found in scored)


def test_what_is_trained_on_is_no_test_whatever_it_is_called(tmp_path: Path, tiny: TrainConfig) -> None:
    made = simulated_samples(np.random.default_rng(4), 90)
    (tmp_path / "old").mkdir()
    asked = {"steps": 1, "real": {"mine": str(write_table(tmp_path / "mine.csv", made))}}
    some, others = made.rows(np.arange(40, 60)), simulated_samples(np.random.default_rng(5), 30)
    steps: list[int] = []
    again = asked | {"test": {"again": str(write_table(tmp_path / "some.csv", some))}}
    with pytest.raises(ConfigError, match="20 of 20 samples of again are in `real` too"):
        run.train_captions(tiny.model_copy(update=again), tmp_path / "w", lambda stage, done, total: steps.append(done))
    assert steps == []  # before hours of training
    new = asked | {"test": {"mine": str(write_table(tmp_path / "old" / "mine.csv", others))}}  # both have the id mine/0
    assert "unseen" in run.train_captions(tiny.model_copy(update=new), tmp_path / "w").metrics


def test_no_series_is_in_two_sets_of_which_one_is_left_out(tmp_path: Path, tiny: TrainConfig) -> None:
    made = simulated_samples(np.random.default_rng(4), 60)
    paths = {n: str(write_table(tmp_path / f"{n}.csv", made.rows(rows))) for n, rows in (
        ("a", np.arange(40)), ("b", np.arange(30, 60)))}  # fmt: skip
    with pytest.raises(ConfigError, match=r"real: 10 of 40 samples of a are in `real` too, .* in b; take them out"):
        run.train_captions(tiny.model_copy(update={"real": paths}), tmp_path / "w")


@pytest.mark.parametrize("key", ["real", "test"])
@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("group", r"1 group of b \(field 3\) may be in `real` too, .* in a; .* groups that differ different names"),
        ("id", r"20 of 20 samples of b are in `real` too, .* in a; .*, or give samples that differ different ids"),
    ],
)
def test_a_group_or_an_id_is_in_one_of_the_sets(
    tmp_path: Path, tiny: TrainConfig, key: str, column: str, said: str
) -> None:
    paths = {}
    for k, name in enumerate("ba"):
        path = write_table(tmp_path / f"{name}.csv", simulated_samples(np.random.default_rng(k), 20))
        named = [f"field {3 + k * i // 10}" for i in range(20)] if column == "group" else [f"p{i}" for i in range(20)]
        pd.read_csv(path).assign(**{column: named}).to_csv(path, index=False)
        paths[name] = str(path)
    sets = {"real": paths} if key == "real" else {"real": {"a": paths["a"]}, "test": {"b": paths["b"]}}
    scored = tiny.model_copy(update={"steps": 1, "evaluation": config.Evaluation(steps=1), **sets})
    with pytest.raises(ConfigError, match=f"^{key}: {said}"):
        run.train_captions(scored, tmp_path / "w")
    if key == "real":  # none is left out, so fields of two years may be trained on
        run.train_captions(scored.model_copy(update={"evaluation": None}), tmp_path / "w")


def test_the_sets_of_the_default_weights_share_nothing(shared: Path) -> None:
    asked = config.read_captions(REPOSITORY / "pipelines/train_default.yaml")
    real, test = (
        [pool.read_measured(name, shared / path.partition("/shared/")[2]) for name, path in of.items()]
        for of in (asked.real, asked.test)
    )
    run._refuse_seen(real, [samples.usable() for samples in test], left_out=True)


@pytest.mark.parametrize(("share", "batch", "sets"), [(0.01, 32, 1), (0.0, 64, 1), (1.0, 8, 9)])
def test_a_batch_has_room_for_every_set_that_the_card_names(
    tmp_path: Path, tiny: TrainConfig, share: float, batch: int, sets: int
) -> None:
    asked = {"real_share": share, "batch": batch, "real": {f"m{i}": "none.csv" for i in range(sets)}}
    with pytest.raises(ConfigError, match=rf"real_share: .* none of {sets} sets in `real`; raise real_share or batch"):
        run.train_captions(tiny.model_copy(update=asked), tmp_path / "w")


def test_a_batch_may_be_of_measured_series_alone() -> None:
    """170.67 of 512 series for each of three sets: rounded up, they would be one too many."""
    rng = np.random.default_rng(0)
    sets = [pool.measured_pool(simulated_samples(np.random.default_rng(i), 20)) for i in range(3)]
    batch = pool.draw_batch(rng, pool.simulated_pool(rng, 100), sets, 512, 1.0, Augment())
    assert np.bincount(batch.pool).tolist() == [170, 170, 170, 2]
    assert pool.series_of_each(512, 0.3, 4) == 38  # the default's


def test_training_that_diverges_is_told_and_writes_nothing(tmp_path: Path, tiny: TrainConfig) -> None:
    wild = tiny.model_copy(update={"learning_rate": 1e30, "warmup": 0})
    with pytest.raises(GeomapError, match=r"not finite at step .*; try a lower learning_rate"):
        run.train_captions(wild, tmp_path / "w")
    assert not any((tmp_path / "w").iterdir())


def test_a_folder_that_cannot_be_written_shows_before_training(tmp_path: Path, tiny: TrainConfig) -> None:
    (tmp_path / "file").touch()
    steps: list[int] = []
    for out in (tmp_path / "file", tmp_path / "file" / "w"):
        with pytest.raises(OutputError, match="choose another output"):
            run.train_captions(tiny, out, lambda stage, done, total: steps.append(done))
    assert steps == []


def test_embeddings_are_of_the_size_of_the_text_tower(tiny: TrainConfig) -> None:
    class Wide(LetterTower):
        dim = 512

    small = pool.simulated_pool(np.random.default_rng(0), 100)
    made = loop.fit_encoder(tiny.model_copy(update={"batch": 8}), small, [], captions.make_levels(Wide()), 1)
    assert (made.cfg.out, made.cfg.dim) == (512, 128)


def test_a_set_of_one_group_has_no_folds() -> None:
    made = simulated_samples(np.random.default_rng(3), 30)
    words = Vocabulary.of(captions.make_levels(LetterTower()), LetterTower())
    one = replace(made, groups=np.zeros(30, np.intp))
    held = scores.held_out(one, weights.load_weights("default").encoder, words)
    assert scores._baselines(held, [], "landcover") == {}


def test_a_table_that_is_trained_on_is_known_by_its_series(tmp_path: Path, tiny: TrainConfig) -> None:
    made = simulated_samples(np.random.default_rng(4), 90)
    read = pool.read_measured("mine", write_table(tmp_path / "mine.csv", made))
    simulated, mine = run.sources(tiny.model_copy(update={"real": {"mine": "mine.csv"}}), [read])
    assert (simulated.series, mine.series) == ("", made.sketch())
    assert run.sources(tiny.model_copy(update={"real": {"corsica": "c.parquet"}}), [read])[1].series == ""


def test_a_table_without_a_label_of_land_cannot_be_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(",".join(("bioregion", *(f"{b}_07" for b in BANDS))) + "\nAlpine" + ",100" * 10 + "\n")
    with pytest.raises(ConfigError, match="no row has a month and a cover"):
        pool.read_measured("mine", path)


def test_scores_by_hand() -> None:
    got = scores.accuracy_and_f1(np.array([1, 1, 1, 2]), np.array([1, 1, 2, 2]))
    assert got == {"accuracy": 0.75, "macro_f1": pytest.approx((0.8 + 2 / 3) / 2, abs=1e-3)}


def test_readers_give_months_from_january_in_one_layout(shared: Path) -> None:
    flanders = read_flanders(shared / "data" / "patch_belgium_2019" / "series.npz")
    corsica = read_corsica(shared / "data" / "points" / "corsica_2022.parquet")
    africa = read_east_africa(shared / "data" / "points" / "east_africa_2017.parquet")
    assert Counter(covers_of(flanders).tolist()) == {
        "pasture": 1387, "winter_wheat": 1378, "maize": 413, "winter_barley": 294, "sugar_beet": 154,
        "spring_barley": 72, "potato": 27,
    }  # fmt: skip
    assert Counter(covers_of(corsica).tolist())["vineyard"] == 47
    assert Counter(covers_of(africa).tolist())["sorghum"] == 306
    for r in (flanders, corsica, africa):
        assert r.dn.shape == (len(r), 12, len(BANDS))
        assert r.dn.dtype == np.uint16
        assert (r.dn[r.valid] > 0).all()
        assert (r.labels["cover"] > 0).all()
        assert r.labels["climate"].min() == r.labels["climate"].max() > 0
        landcover = np.array([c.landcover for c in table().cover])[r.labels["cover"] - 1]
        np.testing.assert_array_equal(r.labels["landcover"], landcover)
    red, nir = BANDS.index("B04"), BANDS.index("B08")

    def ndvi(r: Samples, key: str) -> np.ndarray:
        x = np.median(r.dn[covers_of(r) == key].astype(float), axis=0)
        return (x[:, nir] - x[:, red]) / (x[:, nir] + x[:, red])

    assert ndvi(flanders, "maize").argmax() + 1 in (7, 8)
    assert ndvi(flanders, "winter_wheat")[:7].argmax() + 1 in (4, 5)
    assert ndvi(africa, "sorghum").argmax() + 1 in (8, 9)
    assert ndvi(corsica, "dry_grassland").argmin() + 1 in (7, 8, 9)


def test_readers_of_the_larger_sets(shared: Path) -> None:
    rondonia = read_rondonia(shared / "data" / "points" / "rondonia_2022.npz")
    africa = read_africa(shared / "data" / "points" / "africa_crop_mask_2019.npz")
    assert Counter(covers_of(rondonia).tolist()) == {"tropical_forest": 2422, "": 731, "marsh": 215, "river": 109}
    assert rondonia.valid.sum(0).tolist() == [len(rondonia), 0, *[len(rondonia)] * 10]  # no step lies in February
    assert Counter(rondonia.labels["landcover"].tolist()) == {3: 2422, 0: 731, 8: 215, 7: 109}
    assert rondonia.groups is not None
    assert len(np.unique(rondonia.groups)) > 50
    assert (len(africa), africa.dn.shape[1:]) == (30_065, (2, 10))
    assert africa.steps is not None
    np.testing.assert_allclose(africa.steps.sum(1), 1)
    assert (
        scores.is_cropland(africa).tolist()
        == np.load(shared / "data/points/africa_crop_mask_2019.npz")["crop"].tolist()
    )
    assert set(np.unique(africa.labels["climate"])) == set(np.unique(rondonia.labels["climate"])) == {0}
    assert set(LICENCES) == set(READERS)
    with pytest.raises(InputError, match="2 steps a year"):
        read_set(f"africa={shared / 'data' / 'points' / 'africa_crop_mask_2019.npz'}", patch=1)
    with pytest.raises(DataError, match="needs the arrays"):
        read_africa(shared / "data" / "points" / "rondonia_2022.npz")


def test_b8a_of_other_bands_is_the_fit_that_it_says(shared: Path) -> None:
    """Least squares of the relative error, 5,000 months of each set that has the band, found again."""
    data, b8a = shared / "data", BANDS.index("B8A")
    sets = [
        read_flanders(data / "patch_belgium_2019" / "series.npz"),
        read_east_africa(data / "points" / "east_africa_2017.parquet"),
        read_rondonia(data / "points" / "rondonia_2022.npz"),
    ]
    months = [r.dn[r.valid].astype(float) for r in sets]
    rows = np.concatenate([m[:: max(1, len(m) // 5000)] for m in months])
    share = 1 / np.maximum(rows[:, b8a], 200)
    x = rows[:, [BANDS.index(b) for b in B8A_FROM]]
    fitted = np.linalg.lstsq(x * share[:, None], rows[:, b8a] * share, rcond=None)[0]
    assert list(B8A_FROM.values()) == pytest.approx(fitted, abs=0.02)
    for m in months:
        assert np.median(np.abs(fill_b8a_np(m)[:, b8a] / m[:, b8a] - 1)) < 0.036


def test_a_set_without_crops_is_no_baseline_for_crops() -> None:
    made = simulated_samples(np.random.default_rng(3), 60)
    woods = made.rows(made.labels["landcover"] == 3)
    assert len(woods) > 2
    held = scores.held_out(
        made, weights.load_weights("default").encoder, Vocabulary.of(captions.make_levels(LetterTower()), LetterTower())
    )
    crops, landcover = (scores._baselines(held, [woods], name) for name in ("crops", "landcover"))
    assert "random_forest_on_other_real_sets" not in crops
    share = (made.labels["landcover"] == 3).sum() / (made.labels["landcover"] > 0).sum()
    assert landcover["random_forest_on_other_real_sets"]["accuracy"] == pytest.approx(share, abs=1e-3)
