"""The training loop: AdamW, averaged weights, seeded; and `train`, from a configuration to a folder of weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from geomap import legends, process
from geomap.datasets.worldcereal import READERS, RealSet
from geomap.encode import weights
from geomap.encode.card import Q_HIGH, Q_LOW, Card, TrainingSource
from geomap.encode.model import CONFIGS, PixelEncoder
from geomap.label import towers
from geomap.train import captions, evaluate, samples
from geomap.train.config import TrainConfig
from geomap.train.config import read as read_config
from geomap.train.loss import CaptionLoss, origin_bias

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with (stage, steps done, steps in all)."""

MAX_GRADIENT = 1.0
LOG_EVERY = 50  # steps

AVERAGED_FROM = 0.4
"""Share of the steps after which the weights of every step enter the mean that is kept.

Averages over the path of training lie in flatter minima and hold better at places unlike those seen (Izmailov et al.
2018, arXiv:1803.05407; of every step, for other domains: Cha et al. 2021, arXiv:2102.08405)."""
LAST_RATE = 0.4
"""Share of the learning rate at the last step: it stays high, so that the averaged weights differ."""


def train(config: Path | TrainConfig, out: Path, progress: Progress | None = None) -> Card:
    """Train an encoder as configured and save it, with class vectors of the built-in legends, in `out`.

    Args:
        config: the run, or the path of its YAML file.
        out: folder of the weights, made where absent; written to at the end only.
        progress: called after every step.

    Results repeat to the bit on the same machine and number of threads. With `evaluation` in the configuration, an
    encoder is trained without each real set first, and the logit scale is the one that suits those left-out sets.

    Raises:
        ConfigError: an unknown key, a value out of range, or a real set whose file is missing.
        WeightsError: an unknown text space.
    """
    if isinstance(config, Path):
        config = read_config(config)
    with process.threads(config.threads):
        return _train(config, out, progress)


def _train(config: TrainConfig, out: Path, progress: Progress | None) -> Card:
    real = [READERS[name](Path(path)) for name, path in config.real.items()]
    tower = towers.tower(config.text_space)
    levels = captions.make_levels(tower)
    pool = samples.simulated_pool(np.random.default_rng(config.seed), config.simulated)
    metrics: dict[str, Any] = {}
    if config.evaluation:
        metrics = _left_out(config, pool, real, levels, tower, progress)
    encoder = fit(config, pool, real, levels, config.steps, _named("train", progress))
    held = samples.simulated_pool(np.random.default_rng([config.seed, 1]), config.held_out)
    metrics["simulated_held_out"] = evaluate.score(encoder, held, tower)
    scale = metrics.pop("logit_scale", None) or evaluate.simulated_scale(encoder, held, tower)
    card = Card(
        name=config.name, title=config.title, version=config.version, licence=config.licence,
        encoder=weights.card_fields(encoder.cfg), text_space=config.text_space, logit_scale=scale,
        training=sources(config, real), recipe=config.recipe, metrics=metrics, limits=config.limits,
    )  # fmt: skip
    known = [legends.load(name) for name in legends.builtin_names()]
    return weights.save(out, encoder, card, {k.digest: towers.class_vectors(k, tower) for k in known})


def _left_out(
    config: TrainConfig,
    pool: samples.Pool,
    real: Sequence[RealSet],
    levels: Sequence[captions.Level],
    tower: towers.TextTower,
    progress: Progress | None,
) -> dict[str, Any]:
    """Scores of every real set by an encoder that has not seen it, for the card."""
    steps = config.evaluation.steps if config.evaluation else config.steps
    left = []
    for r in real:
        others = [o for o in real if o is not r]
        encoder = fit(config, pool, others, levels, steps, _named(f"evaluate without {r.name}", progress))
        left.append(evaluate.judge(r, encoder, tower))
    return evaluate.card_metrics(left, tower)


def _named(stage: str, progress: Progress | None) -> Callable[[int, int], None]:
    return (lambda done, total: progress(stage, done, total)) if progress else (lambda done, total: None)


def sources(config: TrainConfig, real: Sequence[RealSet]) -> tuple[TrainingSource, ...]:
    """What the card says about the samples."""
    simulated = TrainingSource(
        name="geomap.simulate", kind="simulated", samples=config.simulated, licence="Apache-2.0",
        note="PROSAIL canopies and surface spectra on estimated calendars, calibrated to class medians of the measured"
        " sets",
    )  # fmt: skip
    licence = "MIT (WorldCereal repository); contains modified Copernicus Sentinel-2 data"
    measured = [TrainingSource(name=r.name, kind="measured", samples=len(r), licence=licence) for r in real]
    return simulated, *measured


def fit(
    config: TrainConfig,
    pool: samples.Pool,
    real: Sequence[RealSet],
    levels: Sequence[captions.Level],
    steps: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PixelEncoder:
    """An encoder trained for `steps` on a simulated pool and real sets, in eval mode: the mean of its later steps."""
    torch.manual_seed(config.seed)
    rng = np.random.default_rng([config.seed, 7])
    encoder = PixelEncoder(
        replace(CONFIGS[config.encoder], dropout=config.dropout),
        torch.tensor(Q_LOW),
        torch.tensor(Q_HIGH),
    ).train()
    torch.nn.init.normal_(encoder.position, std=0.02)
    torch.nn.init.normal_(encoder.cls, std=0.02)
    loss_of = CaptionLoss()
    optimiser = torch.optim.AdamW(
        [*encoder.parameters(), *loss_of.parameters()], lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step, steps, config.warmup))
    mean = AveragedModel(encoder)
    real_pools = [samples.real_pool(r) for r in real]
    biases = {v.name: _bias(v, real_pools, pool) for v in levels}
    months = torch.arange(12)
    smooth = math.nan
    for step in range(steps):
        batch = samples.draw_batch(rng, pool, real_pools, config.batch, config.real_share, config.augment)
        vectors, labels = _targets(rng, batch, levels)
        bias = {name: b[batch.pool] for name, b in biases.items()}
        loss = loss_of(encoder(batch.dn, batch.valid, months), vectors, labels, config.levels.model_dump(), bias)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), MAX_GRADIENT)
        optimiser.step()
        schedule.step()
        if step >= AVERAGED_FROM * steps:
            mean.update_parameters(encoder)
        smooth = loss.item() if math.isnan(smooth) else 0.95 * smooth + 0.05 * loss.item()
        if step % LOG_EVERY == 0:
            log.info("step %d of %d: loss %.3f", step, steps, smooth)
        progress(step + 1, steps)
    log.info("trained %d steps: loss %.3f, logit scale %.1f", steps, smooth, loss_of.scale.item())
    encoder.load_state_dict(mean.module.state_dict())
    return encoder.eval()


def rate(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate at a step: linear warm-up, under a line from one to LAST_RATE."""
    return min(1.0, (step + 1) / warmup if warmup else 1.0) * (1 - (1 - LAST_RATE) * step / steps)


def _bias(level: captions.Level, real: Sequence[samples.Pool], simulated: samples.Pool) -> Tensor:
    """(pools, K) how common the level's classes are in each pool, beside the simulated one, as logits."""
    *shares, common = [level.shares(p.cover, p.climate, p.chance) for p in (*real, simulated)]
    return origin_bias(shares, common)


def _targets(
    rng: np.random.Generator, batch: samples.Batch, levels: Sequence[captions.Level]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Class vectors of a fresh caption draw and the class of every row, by level."""
    of = {"cover": batch.cover, "climate": batch.climate}
    return {v.name: v.draw(rng) for v in levels}, {v.name: v.index[of[v.by]] for v in levels}
