"""The command that trains encoders."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from geomap.cli.console import log_to_stderr, progress_bars, say
from geomap.types import silent


def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="Training configuration, for example in pipelines/.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new weights.")] = Path("geomap-weights"),
) -> None:
    """Train an encoder as a configuration says, and write its weights and card.

    The configuration's `method` is captions (class names, no photos needed) or crossview (the paper's: ground photos).
    A crossview run that was stopped resumes when you type the same command again; on several GPUs, start it with
    `torchrun --nproc-per-node 4 -m geomap.cli train CONFIG --out DIR`.
    """
    first = os.environ.get("RANK", "0") == "0"  # torchrun's other processes print nothing
    log_to_stderr(first)
    from geomap.train.config import CrossViewConfig, read_config

    chosen = read_config(config)
    with progress_bars() if first else nullcontext(silent) as progress:
        if isinstance(chosen, CrossViewConfig):
            from geomap.train.crossview.loop import train_crossview

            train_crossview(chosen, out, progress)
        else:
            from geomap.train.captions.loop import train_captions

            train_captions(chosen, out, progress)
    if first:
        say(f"weights in {out}; use them with: geomap map AOI --weights {out}")
