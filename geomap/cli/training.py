"""The command that trains encoders."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from geomap import process
from geomap.cli.console import log_to_stderr, progress_bars, say, warn
from geomap.errors import InputError, to_type
from geomap.text import plural
from geomap.types import Progress, silent

MOST_WORKERS = 64


def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="Training configuration, for example in pipelines/.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new weights.")] = Path("geomap-weights"),
    workers: Annotated[
        int,
        typer.Option(min=1, max=MOST_WORKERS, help="Encoders trained at once, by captions."),
    ] = 1,
) -> None:
    """Train an encoder as a configuration says, and write its weights and card.

    The configuration's `method` is captions (class names, no photos needed) or crossview (the paper's: ground photos).
    A run that was stopped, by Ctrl-C or SIGTERM, resumes when you type the same command again. With teachers or an
    evaluation, captions trains several encoders: `--workers 2` makes two at once, the same to the bit. On several GPUs,
    start crossview with `torchrun --nproc-per-node 4 -m geomap.cli train CONFIG --out DIR`.
    """
    alone = "RANK" not in os.environ
    first = os.environ.get("RANK", "0") == "0"  # torchrun's other processes print nothing
    log_to_stderr(first)
    shown = progress_bars() if first else nullcontext(silent)
    try:
        with process.terminable() if alone else nullcontext(), shown as progress:
            _train(config, out, workers, progress)
    except KeyboardInterrupt:
        if alone:
            _tell_kept(out, to_type("train", config, "--out", out, *(["--workers", workers] if workers > 1 else [])))
        raise
    if first:
        say(f"weights in {out}; use them with: {to_type('map', 'AOI', '--weights', out)}")


def _train(config: Path, out: Path, workers: int, progress: Progress) -> None:
    from geomap.train.config import CrossViewConfig, read_config

    chosen = read_config(config)
    if isinstance(chosen, CrossViewConfig):
        if workers > 1:
            raise InputError("--workers is for method captions; for crossview use torchrun (geomap train --help)")
        from geomap.train.crossview.loop import train_crossview

        train_crossview(chosen, out, progress)
    else:
        from geomap.train.captions.run import train_captions

        train_captions(chosen, out, progress, workers)


def _tell_kept(out: Path, command: str) -> None:
    """Say what a training that was stopped has kept, and how to go on."""
    from geomap.train.checkpoints import FOLDER

    kept = [path.name for path in (out / FOLDER).glob("*.safetensors")]
    if not kept:
        warn(f"nothing is finished that could be kept; to begin again: {command}")
        return
    from geomap.train.crossview.resume import LAST  # loads torch

    what = "all epochs that are complete" if LAST in kept else plural(len(kept), "encoder")
    warn(f"kept in {out / FOLDER}: {what}; to go on: {command}")
