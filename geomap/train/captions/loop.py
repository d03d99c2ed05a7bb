"""The training loop (AdamW, averaged weights), and `train_captions`, from config to weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from geomap import process
from geomap.datasets.extras import require_packages
from geomap.datasets.measured import LICENCES, READERS
from geomap.datasets.samples import CLIMATE, COVER, Samples
from geomap.datasets.series import embed_samples
from geomap.datasets.simulated import simulated_samples
from geomap.encode import weights
from geomap.encode.card import Q_HIGH, Q_LOW, Card, TrainingSource
from geomap.encode.model import CONFIGS, PixelEncoder
from geomap.errors import ConfigError, GeomapError
from geomap.label import towers
from geomap.label.scatter import Scatter
from geomap.train.captions import scores
from geomap.train.captions.levels import Level, make_levels
from geomap.train.captions.loss import CaptionLoss, origin_bias
from geomap.train.captions.pool import (
    Batch,
    Pool,
    draw_batch,
    measured_pool,
    read_measured,
    series_of_each,
    simulated_pool,
)
from geomap.train.captions.teachers import Teachers
from geomap.train.captions.vocabulary import Vocabulary
from geomap.train.config import MOST_TEACHERS, TrainConfig, read_captions
from geomap.types import Progress, silent

log = logging.getLogger(__name__)

MAX_GRADIENT = 1.0
LOG_EVERY = 50  # steps

AVERAGED_FROM = 0.4
"""Share of the steps after which every step's weights enter the mean that is kept.

Averages over the path of training lie in flatter minima and generalise better to unseen places (Izmailov et al. 2018,
arXiv:1803.05407; averaging every step, for other domains: Cha et al. 2021, arXiv:2102.08405)."""
LAST_RATE = 0.4
"""Share of the learning rate at the last step: it stays high, so that the averaged weights differ."""


def train_captions(config: Path | TrainConfig, out: Path, progress: Progress = silent) -> Card:
    """Train an encoder and save it in `out`, with class vectors of the built-in legends.

    Args:
        config: the run, or the path of its YAML file.
        out: folder of the weights, made before training and written at the end; it may hold those of the same name.
        progress: called after every step.

    Results repeat to the bit on the same machine with the same number of threads. With `evaluation` in the config,
    extra encoders are trained first, each without one measured set; the logit scale is fitted on the left-out sets.
    The sets of `test` are scored with the encoder itself, which has not seen them.

    Raises:
        ConfigError: an unknown key, a value out of range, a measured set whose file is missing, sets that no batch has
            room for, or a set of `real` or `test` that shares samples with one of `real`.
        GeomapError: the loss is not finite.
        OutputError: `out` cannot be written, or holds weights of another name.
        InputError: a package is not installed.
        ReadError: a measured set breaks its format.
        WeightsError: an unknown text space.
    """
    if isinstance(config, Path):
        config = read_captions(config)
    if config.evaluation and config.real:
        require_packages("training with `evaluation` in its configuration", "sklearn")
    with process.threads(config.threads):
        return _train(config, out, progress)


def _train(config: TrainConfig, out: Path, progress: Progress) -> Card:
    _refuse_undrawn(config)
    measured = [read_measured(name, Path(path)) for name, path in config.real.items()]
    unseen = [read_measured(name, Path(path)).usable() for name, path in config.test.items()]
    _refuse_seen(measured, unseen)
    weights.prepare(out, config.name)
    tower = towers.tower(config.text_space)
    levels = make_levels(tower)
    words = Vocabulary.of(levels, tower)
    pool = simulated_pool(np.random.default_rng(config.seed), config.simulated)
    metrics: dict[str, Any] = {}
    if config.evaluation and measured:
        metrics = _left_out(config, pool, measured, levels, words, progress)
    encoder = fit(config, pool, measured, levels, config.steps, progress)
    held = simulated_samples(np.random.default_rng([config.seed, 1]), config.held_out)
    metrics["simulated_held_out"] = scores.score_samples(encoder, held, words)
    if unseen:
        metrics["unseen"] = {s.name: scores.score_samples(encoder, s, words) for s in unseen}
    scale = metrics.pop("logit_scale", None) or scores.simulated_scale(encoder, held, words)
    card = Card(
        name=config.name, title=config.title, version=config.version, licence=config.licence,
        encoder=weights.card_fields(encoder.cfg), text_space=config.text_space, logit_scale=scale,
        training=sources(config, measured), recipe=config.recipe, metrics=metrics, limits=config.limits,
    )  # fmt: skip
    return weights.save(out, encoder, card, words.stored, words.anchors, scatter(encoder, held))


def scatter(encoder: PixelEncoder, simulated: Samples) -> tuple[Tensor, Tensor]:
    """How simulated series of one cover and climate differ, as embeddings and as log DN (label/scatter.py)."""
    dn = np.where(simulated.valid[..., None], simulated.dn, np.uint16(0))
    kinds = simulated.labels[COVER] * (simulated.labels[CLIMATE].max() + 1) + simulated.labels[CLIMATE]
    found = Scatter.of(embed_samples(encoder, simulated).numpy(), dn, kinds)
    return torch.from_numpy(found.embeddings).float(), torch.from_numpy(found.series).float()


def _refuse_undrawn(config: TrainConfig) -> None:
    """Raise ConfigError if a batch has no room for the measured sets, which the card would call training data."""
    sets = len(config.real)
    if sets and not series_of_each(config.batch, config.real_share, sets):
        raise ConfigError(
            f"real_share: {config.real_share:g} of a batch of {config.batch:,} has none of {sets} sets in `real`; "
            "raise real_share or batch, or move sets to `test`"
        )


def _refuse_seen(measured: Sequence[Samples], tests: Sequence[Samples]) -> None:
    """Raise ConfigError if a series is in two sets of which one is scored without the other, whatever its id."""
    pairs = [*((one, other, "test") for one in tests for other in measured)]
    pairs += [(one, other, "real") for one, other in combinations(measured, 2)]
    for one, other, key in pairs:
        if shared := int(one.shared(other).sum()):
            raise ConfigError(
                f"{key}: {shared:,} of {len(one):,} samples of {one.name} are in `real` too, which is trained on: in "
                f"{other.name}; take them out of one of the two"
            )


def _left_out(
    config: TrainConfig,
    pool: Pool,
    measured: Sequence[Samples],
    levels: Sequence[Level],
    words: Vocabulary,
    progress: Progress,
) -> dict[str, Any]:
    """Scores for the card: of every measured set, by an encoder that has not seen it."""
    steps = config.evaluation.steps if config.evaluation else config.steps
    held = []
    for samples in measured:
        others = [o for o in measured if o is not samples]
        encoder = fit(config, pool, others, levels, steps, progress, f"evaluate without {samples.name}")
        held.append(scores.held_out(samples, encoder, words))
    return scores.card_metrics(held, words)


def sources(config: TrainConfig, measured: Sequence[Samples]) -> tuple[TrainingSource, ...]:
    """The card's entries about the training samples."""
    simulated = TrainingSource(
        name="geomap.simulate", kind="simulated", samples=config.simulated, licence="Apache-2.0",
        note="PROSAIL canopies and surface spectra on estimated calendars, calibrated to class medians of the measured"
        " sets",
    )  # fmt: skip
    licences = [LICENCES.get(name, "unknown: a file of those who trained") for name in config.real]
    return simulated, *(
        TrainingSource(
            name=m.name, kind="measured", samples=len(m), licence=licence, series="" if name in READERS else m.sketch()
        )
        for name, m, licence in zip(config.real, measured, licences, strict=True)
    )


def fit(
    config: TrainConfig,
    pool: Pool,
    measured: Sequence[Samples],
    levels: Sequence[Level],
    steps: int,
    progress: Progress,
    stage: str = "train",
) -> PixelEncoder:
    """Train an encoder as `fit_encoder` does; with `teachers` in the config, after these and from them too."""
    if (asked := config.teachers) is None:
        return fit_encoder(config, pool, measured, levels, steps, progress, stage)
    made = []
    for n in range(asked.count):
        seeded = config.model_copy(update={"seed": config.seed + n})
        made.append(fit_encoder(seeded, pool, measured, levels, asked.steps, progress, f"{stage}: teacher {n + 1}"))
    seeded = config.model_copy(update={"seed": config.seed + MOST_TEACHERS})
    return fit_encoder(seeded, pool, measured, levels, steps, progress, stage, Teachers(made, asked.weight))


def fit_encoder(
    config: TrainConfig,
    pool: Pool,
    measured: Sequence[Samples],
    levels: Sequence[Level],
    steps: int,
    progress: Progress = silent,
    stage: str = "train",
    taught: Teachers | None = None,
) -> PixelEncoder:
    """Train an encoder for `steps` on simulated and measured series; returns the mean of later steps, in eval mode.

    Its embeddings are of the size of the levels' vectors. `taught`: encoders that it learns from beside the labels.
    Raises GeomapError where training diverges.
    """
    torch.manual_seed(config.seed)
    rng = np.random.default_rng([config.seed, 7])
    encoder = PixelEncoder(
        replace(CONFIGS[config.encoder], dropout=config.dropout, out=levels[0].vectors.shape[-1]),
        torch.tensor(Q_LOW),
        torch.tensor(Q_HIGH),
    ).train()
    torch.nn.init.normal_(encoder.position, std=0.02)
    torch.nn.init.normal_(encoder.cls, std=0.02)
    loss_of = CaptionLoss()
    optimiser = torch.optim.AdamW(
        [*encoder.parameters(), *loss_of.parameters()], lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: linear_rate(step, steps, config.warmup))
    mean = AveragedModel(encoder)
    measured_pools = [measured_pool(m) for m in measured]
    biases = {v.name: _bias(v, measured_pools, pool) for v in levels}
    smooth = math.nan
    for step in range(steps):
        batch = draw_batch(rng, pool, measured_pools, config.batch, config.real_share, config.augment)
        vectors, allowed = _targets(rng, batch, levels)
        bias = {name: b[batch.pool] for name, b in biases.items()}
        embeddings = encoder(batch.dn, batch.valid, batch.months)
        loss = loss_of(embeddings, vectors, allowed, config.levels.model_dump(), bias)
        if taught is not None:
            loss = loss + taught.loss(embeddings, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), MAX_GRADIENT)
        optimiser.step()
        schedule.step()
        if step >= AVERAGED_FROM * steps:
            mean.update_parameters(encoder)
        if not math.isfinite(now := loss.item()):
            raise _diverged(stage, step)
        smooth = now if step == 0 else 0.95 * smooth + 0.05 * now
        if step % LOG_EVERY == 0:
            log.info("step %d of %d: loss %.3f", step, steps, smooth)
        progress(stage, step + 1, steps)
    log.info("trained %d steps: loss %.3f, logit scale %.1f", steps, smooth, loss_of.scale.item())
    encoder.load_state_dict(mean.module.state_dict())
    if not all(tensor.isfinite().all() for tensor in encoder.state_dict().values()):
        raise _diverged(stage, steps - 1)
    return encoder.eval()


def _diverged(stage: str, step: int) -> GeomapError:
    return GeomapError(f"{stage}: the loss is not finite at step {step + 1}; try a lower learning_rate")


def linear_rate(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate at a step: linear warm-up times a linear fall from one to LAST_RATE."""
    return min(1.0, (step + 1) / warmup if warmup else 1.0) * (1 - (1 - LAST_RATE) * step / steps)


def _bias(level: Level, measured: Sequence[Pool], simulated: Pool) -> Tensor:
    """(pools, K) logits: how common the level's classes are in each pool, relative to the simulated one."""
    common = level.shares(simulated.of(level.by), simulated.chance)
    return origin_bias([level.shares(p.of(level.by), p.chance, common) for p in measured], common)


def _targets(
    rng: np.random.Generator, batch: Batch, levels: Sequence[Level]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """By level: class vectors from newly drawn captions, and the classes that every row may have."""
    of = {"kind": batch.kind, "climate": batch.climate}
    return {v.name: v.draw(rng) for v in levels}, {v.name: v.allowed[of[v.by]] for v in levels}
