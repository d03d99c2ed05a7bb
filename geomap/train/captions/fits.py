"""The encoders of a training: which there are, in what order, and how threads share them.

Each is kept in a file as soon as it is trained. Its name is a digest of all that decides it, so a run that was stopped
goes on with those that it has, and one that was changed trains others.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from geomap import __version__, files, process
from geomap.datasets.samples import Samples
from geomap.encode.model import PixelEncoder
from geomap.train.captions.levels import Level
from geomap.train.captions.loop import fit_encoder, new_encoder
from geomap.train.captions.pool import Pool
from geomap.train.captions.teachers import Teachers
from geomap.train.config import MOST_TEACHERS, TrainConfig
from geomap.types import Progress

log = logging.getLogger(__name__)

_DIGITS: Final = 24
_SUFFIX: Final = ".safetensors"
ALL: Final = "train"
"""The encoder that sees all measured sets."""
_IN_OTHER_WORDS: Final = {
    "name", "title", "version", "licence", "recipe", "limits", "real", "test", "steps", "evaluation", "held_out",
    "seed", "teachers",
}  # fmt: skip
"""Keys of a config that decide no encoder, or do so by a Fit or by the series."""


@dataclass(frozen=True, slots=True)
class Fit:
    """An encoder to train."""

    stage: str  # as progress names it
    seed: int
    steps: int
    without: int | None = None  # the place among the measured sets of the one that it does not see
    taught: tuple[Fit, ...] = ()  # encoders that it learns from
    weight: float = 0.0  # of these (config.Teachers)


@dataclass(frozen=True)
class Material:
    """What the encoders of a run are trained with."""

    config: TrainConfig
    pool: Pool
    measured: Sequence[Samples]
    levels: Sequence[Level]

    def key(self, fit: Fit) -> str:
        """A digest of all that decides an encoder, on one kind of machine."""
        told = [self._digest, fit.without, {k: v for k, v in asdict(fit).items() if k != "taught"}]
        told += [self.key(teacher) for teacher in fit.taught]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:_DIGITS]

    @cached_property
    def _digest(self) -> str:
        found = hashlib.sha256(f"{__version__} {torch.__version__}".encode())
        found.update(self.config.model_dump_json(exclude=_IN_OTHER_WORDS).encode())
        for samples in (self.pool.samples, *self.measured):
            found.update(samples.dn.tobytes() + samples.valid.tobytes())
            for name, ids in sorted(samples.labels.items()):
                found.update(name.encode() + ids.tobytes())
        for level in self.levels:
            found.update(level.vectors.numpy().tobytes())
        return found.hexdigest()

    def train(self, fit: Fit, teachers: Sequence[PixelEncoder], folder: Path, progress: Progress) -> PixelEncoder:
        """Train an encoder and keep it in a folder."""
        seen = [samples for i, samples in enumerate(self.measured) if i != fit.without]
        seeded = self.config.model_copy(update={"seed": fit.seed})
        taught = Teachers(teachers, fit.weight) if teachers else None
        made = fit_encoder(seeded, self.pool, seen, self.levels, fit.steps, progress, fit.stage, taught)
        files.write_bytes(self.file(fit, folder), save(made.state_dict()))
        return made

    def file(self, fit: Fit, folder: Path) -> Path:
        """Where a folder keeps an encoder."""
        return folder / f"{self.key(fit)}{_SUFFIX}"

    def kept(self, fit: Fit, folder: Path) -> PixelEncoder | None:
        """The encoder that a folder keeps; None if it is not there or damaged."""
        path, encoder = self.file(fit, folder), new_encoder(self.config, self.levels)
        try:
            encoder.load_state_dict(load(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, RuntimeError, KeyError) as e:
            log.warning("trained again: %s cannot be read: %s", path, e)
            return None
        return encoder.eval()


def forget(folder: Path) -> None:
    """Remove what a folder keeps, also of other configurations."""
    for path in _files(folder):
        path.unlink()


def _files(folder: Path) -> list[Path]:
    return [*folder.glob("[0-9a-f]" * _DIGITS + _SUFFIX)]


def fits_of(config: TrainConfig, measured: Sequence[Samples]) -> list[Fit]:
    """The encoders of a run, each after its teachers: the one that is wanted, then those for the card's figures."""
    made = [*_with_teachers(config, ALL, None, config.steps)]
    for i, samples in enumerate(measured if config.evaluation else ()):
        assert config.evaluation is not None
        made += _with_teachers(config, f"evaluate without {samples.name}", i, config.evaluation.steps)
    return made


def _with_teachers(config: TrainConfig, stage: str, without: int | None, steps: int) -> Iterator[Fit]:
    if (asked := config.teachers) is None:
        yield Fit(stage, config.seed, steps, without)
        return
    teachers = tuple(Fit(f"{stage}: teacher {n + 1}", config.seed + n, steps, without) for n in range(asked.count))
    yield from teachers
    yield Fit(stage, config.seed + MOST_TEACHERS, steps, without, teachers, asked.weight)


def train_all(
    material: Material, fits: Sequence[Fit], folder: Path, workers: int, progress: Progress
) -> Mapping[str, PixelEncoder]:
    """The encoders by stage, in eval mode: read from a folder, or trained and kept there.

    `workers`: threads that train; every encoder is the same to the bit for any number.
    """
    made = {fit: encoder for fit in fits if (encoder := material.kept(fit, folder)) is not None}
    if made:
        log.info("%d of %d encoders were trained before, and are kept in %s", len(made), len(fits), folder)
    if others := len({*_files(folder)} - {material.file(fit, folder) for fit in fits}):
        log.warning("%d encoders in %s are of another configuration, data or version, and are not used", others, folder)
    if workers > 1 and (material.config.threads > 1 or material.config.dropout):
        log.warning("one encoder is trained at a time: several at once need threads: 1 and dropout: 0")
        workers = 1
    missing = [fit for fit in fits if fit not in made]
    if workers > 1:
        _side_by_side(material, missing, made, folder, workers, progress)
    else:
        for fit in missing:
            made[fit] = material.train(fit, [made[t] for t in fit.taught], folder, progress)
    return {fit.stage: encoder for fit, encoder in made.items()}


def _side_by_side(
    material: Material,
    waiting: list[Fit],
    made: dict[Fit, PixelEncoder],
    folder: Path,
    workers: int,
    progress: Progress,
) -> None:
    """Train encoders in threads, teachers first; torch computes without Python's lock. The first error stops all."""
    stop, one_at_a_time = threading.Event(), threading.Lock()
    running = dict[Future[PixelEncoder], Fit]()

    def told(stage: str, done: int, total: int) -> None:
        if stop.is_set():
            raise CancelledError
        with one_at_a_time:
            progress(stage, done, total)

    with process.side_by_side(workers, "train") as threads:
        try:
            while waiting or running:
                ready = [fit for fit in waiting if made.keys() >= {*fit.taught}]
                for fit in ready[: workers - len(running)]:
                    waiting.remove(fit)
                    teachers = [made[t] for t in fit.taught]
                    running[threads.submit(material.train, fit, teachers, folder, told)] = fit
                for future in wait(running, process.SIGNAL_STEP, FIRST_COMPLETED).done:
                    made[running.pop(future)] = future.result()
        finally:
            stop.set()
