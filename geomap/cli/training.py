"""The command that trains encoders."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from geomap.cli.console import log_to_stderr, progress_bars, say
from geomap.errors import InputError, to_type
from geomap.types import silent

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
    A run that was stopped resumes when you type the same command again. With teachers or an evaluation, captions trains
    several encoders: `--workers 2` makes two at once, the same to the bit. On several GPUs, start crossview with
    `torchrun --nproc-per-node 4 -m geomap.cli train CONFIG --out DIR`.
    """
    first = os.environ.get("RANK", "0") == "0"  # torchrun's other processes print nothing
    log_to_stderr(first)
    from geomap.train.config import CrossViewConfig, read_config

    chosen = read_config(config)
    with progress_bars() if first else nullcontext(silent) as progress:
        if isinstance(chosen, CrossViewConfig):
            if workers > 1:
                raise InputError("--workers is for method captions; for crossview use torchrun (geomap train --help)")
            from geomap.train.crossview.loop import train_crossview

            train_crossview(chosen, out, progress)
        else:
            from geomap.train.captions.run import train_captions

            train_captions(chosen, out, progress, workers)
    if first:
        say(f"weights in {out}; use them with: {to_type('map', 'AOI', '--weights', out)}")
