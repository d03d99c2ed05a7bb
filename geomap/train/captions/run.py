"""`train_captions`: from a configuration to weights and their card."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geomap import process
from geomap.datasets.extras import require_packages
from geomap.datasets.measured import LICENCES, READERS
from geomap.datasets.samples import CLIMATE, COVER, Samples
from geomap.datasets.series import embed_samples
from geomap.datasets.simulated import simulated_samples
from geomap.encode import weights
from geomap.encode.card import CARD_FILE, Card, TrainingSource
from geomap.encode.model import PixelEncoder
from geomap.errors import ConfigError
from geomap.label import towers
from geomap.label.scatter import Scatter
from geomap.text import listed, plural
from geomap.train import checkpoints
from geomap.train.captions import scores
from geomap.train.captions.fits import ALL, Fit, Material, fits_of, forget, train_all
from geomap.train.captions.levels import make_levels
from geomap.train.captions.pool import (
    read_measured,
    series_of_each,
    simulated_pool,
)
from geomap.train.captions.vocabulary import Vocabulary
from geomap.train.config import TrainConfig, read_captions
from geomap.types import Progress, silent

log = logging.getLogger(__name__)


def train_captions(config: Path | TrainConfig, out: Path, progress: Progress = silent, workers: int = 1) -> Card:
    """Train an encoder and save it in `out`, with class vectors of the built-in legends.

    Args:
        config: the run, or the path of its YAML file.
        out: folder of the weights, made before training and written at the end; it may hold those of the same name.
        progress: called after every step.
        workers: threads that train encoders side by side, where there are several: teachers, and those for the card.

    Results repeat to the bit on the same machine with the same number of threads, for any number of workers. With
    `evaluation` in the config, extra encoders are trained, each without one measured set; the logit scale is fitted on
    the left-out sets. The sets of `test` are scored with the encoder itself, which has not seen them. What is trained
    is kept in `out/checkpoints` until the weights are written: a run that was stopped goes on with it.

    Raises:
        BusyError: another run is training in `out`.
        ConfigError: an unknown key, a value out of range, a measured set whose file is missing, sets that no batch has
            room for, or a set of `real` or `test` that shares samples or groups with one of `real`.
        GeomapError: the loss is not finite.
        OutputError: `out` cannot be written, or holds weights of another name.
        InputError: a package is not installed.
        DataError: a measured set breaks its format.
        WeightsError: an unknown text space.
    """
    if isinstance(config, Path):
        config = read_captions(config)
    if config.evaluation and config.real:
        require_packages("training with `evaluation` in its configuration", "sklearn")
    with process.threads(config.threads):
        return _train(config, out, progress, workers)


def _train(config: TrainConfig, out: Path, progress: Progress, workers: int) -> Card:
    _refuse_undrawn(config)
    measured = [read_measured(name, Path(path)) for name, path in config.real.items()]
    unseen = [read_measured(name, Path(path)).usable() for name, path in config.test.items()]
    _refuse_seen(measured, unseen, left_out=config.evaluation is not None)
    weights.prepare(out, config.name)
    with checkpoints.hold(out) as folder:
        if (out / CARD_FILE).exists():
            log.warning("%s holds finished weights, which are replaced at the end", out)
        log.info("simulating %d series and encoding the captions", config.simulated)
        tower = towers.tower(config.text_space)
        levels = make_levels(tower)
        words = Vocabulary.of(levels, tower)
        pool = simulated_pool(np.random.default_rng(config.seed), config.simulated)
        material, fits = Material(config, pool, measured, levels), fits_of(config, measured)
        made = train_all(material, fits, folder, workers, progress)
        metrics = _left_out(fits, made, measured, words)
        card = _save(config, out, made[ALL], words, measured, unseen, metrics)
        forget(folder)
    return card


def _left_out(
    fits: Sequence[Fit], made: Mapping[str, PixelEncoder], measured: Sequence[Samples], words: Vocabulary
) -> dict[str, Any]:
    """Scores for the card: of every measured set, by an encoder that has not seen it."""
    teachers = {teacher for fit in fits for teacher in fit.taught}
    held = [
        scores.held_out(measured[fit.without], made[fit.stage], words)
        for fit in fits
        if fit.without is not None and fit not in teachers
    ]
    return scores.card_metrics(held, words) if held else {}


def _save(
    config: TrainConfig,
    out: Path,
    encoder: PixelEncoder,
    words: Vocabulary,
    measured: Sequence[Samples],
    unseen: Sequence[Samples],
    metrics: dict[str, Any],
) -> Card:
    """Score an encoder and write it with its card. `metrics`: of the sets left out."""
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


def _refuse_seen(measured: Sequence[Samples], tests: Sequence[Samples], left_out: bool) -> None:
    """Raise ConfigError if a series is in two sets, or its id or group where one is scored without the other.

    `left_out`: whether each measured set is scored by an encoder of the others.
    """
    pairs = [*((one, other, "test", True) for one in tests for other in measured)]
    pairs += [(one, other, "real", left_out) for one, other in combinations(measured, 2)]
    for one, other, key, scored in pairs:
        if common := int((one.common(other) if scored else one.shared(other)).sum()):
            by_id = "" if one.shared(other).any() else ", or give samples that differ different ids"
            raise ConfigError(
                f"{key}: {common:,} of {len(one):,} samples of {one.name} are in `real` too, which is trained on: in "
                f"{other.name}; take them out of one of the two{by_id}"
            )
        if scored and (groups := one.common_groups(other)):
            raise ConfigError(
                f"{key}: {plural(len(groups), 'group')} of {one.name} ({listed(groups, 3)}) may be in `real` too, "
                f"which is trained on: in {other.name}; take them out of one of the two, or give groups that differ "
                "different names"
            )


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
