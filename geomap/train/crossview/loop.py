"""Trains as in the paper (arXiv 2508.11919v3): pixel series against frozen ground photo vectors.

The photo vectors are CLIP's. `docs/training.md` says where the paper and the published code disagree and what geomap
does. On one CPU thread a run repeats to the bit, even if it is stopped and resumed.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from geomap import process
from geomap.datasets.extras import require_packages
from geomap.datasets.series import embed_samples
from geomap.encode import weights
from geomap.encode.card import Q_HIGH, Q_LOW, Card, TrainingSource, read_card
from geomap.encode.model import CONFIGS, PixelEncoder
from geomap.errors import ConfigError, GeomapError, WeightsError, to_type
from geomap.label import towers
from geomap.train import checkpoints
from geomap.train.config import PATHS, CrossViewConfig, read_config
from geomap.train.crossview import curves, masking
from geomap.train.crossview.contrast import CrossView, Queue, info_nce
from geomap.train.crossview.curves import Epoch
from geomap.train.crossview.processes import Group, processes
from geomap.train.crossview.resume import TrainingState, load_best, resume, write_state
from geomap.train.crossview.views import Views, digest, read_views
from geomap.types import Progress, silent

log = logging.getLogger(__name__)

BETAS: Final = (0.9, 0.999)
"""Of AdamW (paper section 5.1)."""
RECALL_CHUNK: Final = 2048  # queries compared with every photo vector at once
MAY_CHANGE: Final = frozenset({"device", "threads"})
"""Config keys that may change before a run is resumed. Data paths may change too, the content of the data may not."""


def train_crossview(config: Path | CrossViewConfig, out: Path, progress: Progress = silent) -> Card:
    """Train an encoder on series and photos; save the best epoch in `out`, with checkpoints, metrics and a plot.

    Args:
        config: the run, or the path of its YAML file.
        out: folder of the weights. An unfinished run of the same config and data in it is resumed.
        progress: called after every step; counts the steps of all epochs.

    Under torchrun the processes share each batch; `out` must be a folder that all of them see.

    Raises:
        ConfigError: a bad configuration, missing files, or photo vectors of another space.
        BusyError: another run is training in `out`.
        OutputError: `out` holds another run or weights of another name, or cannot be written.
        InputError: the device does not exist.
    """
    if isinstance(config, Path):
        read = read_config(config)
        if not isinstance(read, CrossViewConfig):
            raise ConfigError(f"{config} is not of method crossview; run it with: {to_type('train', config)}")
        config = read
    require_packages("training of method crossview", "h5py", "matplotlib")
    with process.threads(config.threads), processes(config.device) as group:
        train, val = read_views(config)
        if group.first:
            weights.prepare(out, config.name)
        with checkpoints.hold(out) if group.first else nullcontext():
            _train(config, train, val, out, group, progress)
    return read_card(out)


def _train(config: CrossViewConfig, train: Views, val: Views, out: Path, group: Group, progress: Progress) -> None:
    """Train the epochs that `out` does not have yet, and write the weights there."""
    state = start(config, train.ground.shape[1], group.device)
    same = identity(config, train, val)
    resume(out, state, same)
    stepper: nn.Module = state.model
    if group.size > 1:
        stepper = DistributedDataParallel(state.model, broadcast_buffers=False)
    for epoch in range(len(state.history), config.epochs):
        began = time.perf_counter()
        loss = train_epoch(config, state, stepper, train, epoch, group, progress)
        speed = len(train) / (time.perf_counter() - began)
        if group.first:
            _measure(config, state, val, loss, speed, group.device)
            write_state(out, state, same)
            curves.write_metrics(out, state.history)
        group.wait()
    if group.first:
        load_best(out, state, same)
        _save(config, state, train, val, out)
    group.wait()


def start(config: CrossViewConfig, dim: int, device: torch.device) -> TrainingState:
    """The state of a run before its first step; `dim` is the size of the ground vectors."""
    torch.manual_seed(config.seed)
    shape = replace(CONFIGS[config.encoder], patch=config.patch, out=dim, dropout=config.dropout)
    encoder = PixelEncoder(shape, torch.tensor(Q_LOW), torch.tensor(Q_HIGH))
    bf16 = config.precision == "bf16" or (
        config.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    model = CrossView(encoder, bf16).to(device)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=BETAS, weight_decay=config.weight_decay
    )
    return TrainingState(model, optimiser, Queue(config.queue, dim, device))


def train_epoch(
    config: CrossViewConfig,
    state: TrainingState,
    stepper: nn.Module,
    train: Views,
    epoch: int,
    group: Group,
    progress: Progress = silent,
) -> float:
    """One pass over the samples, in an order set by (seed, epoch); returns the mean loss.

    Every process draws the same batches and maskings and holds all ground vectors. So in-batch negatives and queue are
    those of the whole batch, and the processes exchange only gradients.
    """
    rng = np.random.default_rng([config.seed, epoch])
    torch.manual_seed(int(np.random.default_rng([config.seed, epoch, 1 + group.rank]).integers(2**63)))  # dropout
    order = rng.permutation(len(train))
    batches = [order[i : i + config.batch] for i in range(0, len(order), config.batch)]
    total = torch.zeros((), device=group.device)
    state.model.train()
    for step, rows in enumerate(batches, start=epoch * len(batches)):
        for parameters in state.optimiser.param_groups:
            share = cosine_rate(step, config.epochs * len(batches), config.warmup * len(batches))
            parameters["lr"] = config.learning_rate * share
        drawn = masking.draw(rng, config.masking.temporal, config.masking.spectral)
        loss = train_step(state, stepper, train, rows, drawn, group)
        total += loss.detach() * len(rows)  # read once per epoch, so the device need not wait for the host
        if group.first:
            progress("train", step + 1, config.epochs * len(batches))
    mean = float(group.mean(total)) / len(train)
    if not math.isfinite(mean):
        raise GeomapError(f"the loss of epoch {epoch + 1} is not finite; try a lower learning_rate, or precision: fp32")
    return mean


def cosine_rate(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate at a step: linear warm-up, then a cosine to zero (paper.md section 3)."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train_step(
    state: TrainingState, stepper: nn.Module, train: Views, rows: NDArray[np.intp], drawn: masking.Masking, group: Group
) -> Tensor:
    """One step on the samples `rows` of the whole batch; returns () this process's loss from `batch_loss`."""
    ground = torch.from_numpy(train.ground[rows]).to(group.device, non_blocking=True)
    numbers = torch.from_numpy(rows).to(group.device, non_blocking=True)
    loss = batch_loss(state.queue, stepper, train, rows, ground, numbers, drawn, group)
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    state.optimiser.step()
    state.model.limit_scale()
    state.queue.push(ground, numbers)
    return loss


def batch_loss(
    queue: Queue,
    stepper: nn.Module,
    train: Views,
    rows: NDArray[np.intp],
    ground: Tensor,
    numbers: Tensor,
    drawn: masking.Masking,
    group: Group,
) -> Tensor:
    """() loss of this process's share of a batch, scaled so that the mean over the processes is the batch's mean.

    Args:
        queue: past ground vectors, without those of this batch.
        stepper: the CrossView, bare or wrapped in DistributedDataParallel.
        train: the training set.
        rows: (N,) samples of the whole batch.
        ground: (N, D) their unit vectors.
        numbers: (N,) `rows` on the device.
        drawn: the batch's masking.
        group: the processes.
    """
    positive = np.arange(len(rows))[group.rank :: group.size]
    share = len(positive) * group.size / len(rows)
    if not len(positive):  # last batch smaller than the group: join the exchange with weight 0
        positive = np.zeros(1, np.intp)
    picked = rows[positive]
    masked = masking.apply_np(drawn, train.samples.dn[picked], train.samples.valid[picked])
    dn, valid, months, own = (
        torch.from_numpy(a).to(group.device, non_blocking=True)
        for a in (masked.dn, masked.valid, masked.months, positive)
    )
    vectors, samples = queue.entries()
    same = numbers[own, None] == samples
    losses: Tensor = stepper(dn, valid, months, ground, own, vectors, same)
    return losses.mean() * share


def validate(config: CrossViewConfig, model: CrossView, val: Views, device: torch.device) -> tuple[float, float]:
    """(loss, recall@1) of unmasked series: loss against their batch without the queue, recall among all photos."""
    found = embed_samples(model.encoder, val.samples, device=device)
    ground = torch.from_numpy(val.ground)
    losses = [
        info_nce(a, b, torch.arange(len(a)), model.scale.detach().cpu())
        for a, b in zip(found.split(config.batch), ground.split(config.batch), strict=True)
    ]
    nearest = torch.cat([(part @ ground.T).argmax(1) for part in found.split(RECALL_CHUNK)])
    return float(torch.cat(losses).mean()), float((nearest == torch.arange(len(val))).float().mean())


def identity(config: CrossViewConfig, train: Views, val: Views) -> dict[str, Any]:
    """What must match to resume a run: the config except MAY_CHANGE, and the content of the data."""
    asked = config.model_dump(mode="json", exclude=set(MAY_CHANGE))
    asked["data"] = {k: v for k, v in asked["data"].items() if k not in PATHS}
    return asked | {"samples": digest((train, val))}


def _measure(
    config: CrossViewConfig, state: TrainingState, val: Views, loss: float, speed: float, device: torch.device
) -> None:
    """Measure the epoch that has just ended and add it to the history."""
    val_loss, recall = validate(config, state.model, val, device)
    epoch = Epoch(
        len(state.history) + 1, loss, state.model.scale.item(), state.optimiser.param_groups[0]["lr"], val_loss,
        recall, round(speed, 1),
    )  # fmt: skip
    log.info(
        "epoch %d of %d: loss %.3f, validation %.3f, recall@1 %.3f", epoch.epoch, config.epochs, loss, val_loss, recall
    )
    state.history.append(epoch)


def _save(config: CrossViewConfig, state: TrainingState, train: Views, val: Views, out: Path) -> None:
    """Write the weights of the best epoch, whose parameters the state has."""
    best = state.best
    data = config.data
    source = TrainingSource(
        name=data.name, kind=data.kind, samples=len(train), licence=data.licence,
        note=f"{data.note} {train.left_out} samples without photos or without a clear month were left out.".strip(),
    )  # fmt: skip
    encoder = state.model.encoder.cpu()
    card = Card(
        name=config.name, title=config.title, version=config.version, licence=config.licence,
        encoder=weights.card_fields(encoder.cfg), text_space=towers.CLIP_SPACE, logit_scale=round(best.scale, 2),
        training=(source,), recipe=config.recipe, limits=config.limits,
        metrics={
            "epochs": config.epochs,
            "best_epoch": best.epoch,
            "train_loss": round(best.loss, 4),
            "validation": {
                "samples": len(val),
                "left_out": val.left_out,
                "loss": round(best.val_loss, 4),
                "own_photo_recall_at_1": round(best.val_recall_at_1, 4),
            },
            "logit_scale": "as learned in training; the confidence is not calibrated",
        },
    )  # fmt: skip
    weights.save(out, encoder, card, _class_vectors())
    curves.write_plot(out, state.history)


def _class_vectors() -> dict[str, Tensor]:
    """Digest -> vectors of the built-in legends; empty if CLIP cannot be loaded: maps then make them at first use."""
    try:
        tower = towers.tower(towers.CLIP_SPACE)
    except WeightsError as e:
        log.warning("no class vectors are stored with the weights: %s", e)
        return {}
    return towers.builtin_vectors(tower)
