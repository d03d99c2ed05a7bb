"""Commands that train encoders and measure them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomap.cli.console import errors_to_exit_code, log_to_stderr, out_console, progress_bars


def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="Training configuration, for example in pipelines/.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new weights.")] = Path("geomap-weights"),
) -> None:
    """Train an encoder as a configuration says, and write its weights and card."""
    log_to_stderr(True)
    with errors_to_exit_code():
        from geomap.train import loop

        with progress_bars() as progress:
            loop.train(config, out, progress)
        out_console.print(f"weights in {out}; use them with: geomap map AOI --weights {out}", markup=False)
