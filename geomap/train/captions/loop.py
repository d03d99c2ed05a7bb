"""The training loop: AdamW, and the mean of the weights of its later steps."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from geomap.datasets.samples import Samples
from geomap.encode.card import Q_HIGH, Q_LOW
from geomap.encode.model import CONFIGS, PixelEncoder
from geomap.errors import GeomapError
from geomap.train.captions.levels import Level
from geomap.train.captions.loss import CaptionLoss, origin_bias
from geomap.train.captions.pool import Batch, Pool, draw_batch, measured_pool
from geomap.train.captions.teachers import Teachers
from geomap.train.config import TrainConfig
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
_SEEDED: Final = threading.RLock()
"""Held while an encoder draws its first values: torch has one generator for all threads."""


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
    rng = np.random.default_rng([config.seed, 7])
    with _SEEDED:
        torch.manual_seed(config.seed)
        encoder = new_encoder(config, levels).train()
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
            log.info("%s: step %d of %d: loss %.3f", stage, step, steps, smooth)
        progress(stage, step + 1, steps)
    log.info("%s: trained %d steps: loss %.3f, logit scale %.1f", stage, steps, smooth, loss_of.scale.item())
    encoder.load_state_dict(mean.module.state_dict())
    if not all(tensor.isfinite().all() for tensor in encoder.state_dict().values()):
        raise _diverged(stage, steps - 1)
    return encoder.eval()


def new_encoder(config: TrainConfig, levels: Sequence[Level]) -> PixelEncoder:
    """An encoder that nothing has trained, with embeddings of the size of the levels' vectors."""
    shape = replace(CONFIGS[config.encoder], dropout=config.dropout, out=levels[0].vectors.shape[-1])
    with _SEEDED:
        return PixelEncoder(shape, torch.tensor(Q_LOW), torch.tensor(Q_HIGH))


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
