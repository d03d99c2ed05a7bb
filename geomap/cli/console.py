"""What every command shares: consoles, progress bars, the log, and errors as exit codes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from geomap.errors import GeomapError
from geomap.sources.hrefs import redacted

out_console = Console()
err_console = Console(stderr=True)


@contextmanager
def errors_to_exit_code() -> Iterator[None]:
    """GeomapError -> one line and its exit code; Ctrl-C -> one line and 130."""
    try:
        yield
    except GeomapError as e:
        say(str(e))
        raise typer.Exit(e.exit_code) from e
    except KeyboardInterrupt as e:
        say("stopped; the same command resumes")
        raise typer.Exit(130) from e
    except OSError as e:
        say(f"{e.strerror or e}{f': {e.filename}' if e.filename else ''}")
        raise typer.Exit(1) from e


def say(message: str) -> None:
    """One line on stderr, as geomap says what went wrong."""
    err_console.print(
        f"geomap: {' '.join(message.split())}", style="red", markup=False, highlight=False, soft_wrap=True
    )


def log_to_stderr(verbose: bool) -> None:
    """Geomap's own log; with --verbose also what GDAL says of each retry. Addresses lose their queries (tokens)."""
    handler = logging.StreamHandler()
    handler.setFormatter(Redacted("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("geomap").setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("rasterio").setLevel(logging.WARNING if verbose else logging.CRITICAL)


class Redacted(logging.Formatter):
    """A formatter that cuts what may be secret off every address."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Bars per stage on stderr, as a callable."""
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err_console, transient=False) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield report
