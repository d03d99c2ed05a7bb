"""Output of all commands: consoles, plain lines, progress bars and the log."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.status import Status
from rich.table import Column
from rich.text import Text

from geomap.run.log import EARLY, FORM, TIME, Redacted


class Lenient(io.TextIOWrapper):
    """A stream to a disk that may be full or a pipe that may be closed: a finished map is not failed by its report."""

    lost: OSError | None = None  # the last error

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as e:
            self.lost = e
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as e:
            self.lost = e


def lenient_streams() -> Lenient:
    """Make stdout and stderr lenient, and write characters that they cannot encode as escapes. Returns stdout."""
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:  # a closed one: else the next file opened would be stdout
        os.set_inheritable(null, True)
    os.close(null)
    sys.stdout, sys.stderr = (
        Lenient(
            os.fdopen(number, "wb", closefd=False),
            encoding=getattr(stream, "encoding", "utf-8"),
            errors="backslashreplace",
            line_buffering=True,
        )
        for number, stream in ((1, sys.stdout), (2, sys.stderr))
    )
    return sys.stdout


out_console = Console(emoji=False)
err_console = Console(stderr=True, emoji=False)


def say(text: str, style: str | None = None) -> None:
    """A plain line on stdout, not broken at the terminal's width."""
    out_console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def tell(text: str) -> None:
    """A sentence on stdout, broken between words at the terminal's width."""
    out_console.print(text, markup=False, highlight=False)


def say_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2, allow_nan=False))  # not by rich, which changes what it takes for emoji


def number(header: str) -> Column:
    """A column of numbers, aligned right."""
    return Column(header, justify="right")


def warn(text: str, style: str | None = None) -> None:
    """A plain line on stderr."""
    err_console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def fail(message: str) -> None:
    """An error on stderr in geomap's form: one line, and one more for each of several problems."""
    first, *rest = message.splitlines() or [""]
    for line in (f"geomap: {' '.join(first.split())}", *rest):
        warn(line, style="red")


class AboveBars(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at that moment: while bars are drawn, rich puts lines above them."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def log_to_stderr(verbose: bool) -> None:
    """Geomap's own log; with --verbose also times, what libraries say, and what GDAL says about each retry.

    Addresses lose their queries. What is not shown goes into the log of the run (run/log.py).
    """
    handler = AboveBars()
    handler.setFormatter(Redacted(FORM if verbose else "%(levelname)s: %(message)s", TIME))
    handler.addFilter(lambda record: verbose or _own(record))
    logging.basicConfig(level=logging.WARNING, handlers=[handler, EARLY])
    logging.captureWarnings(True)
    logging.getLogger("geomap").setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("rasterio").setLevel(logging.WARNING)


def _own(record: logging.LogRecord) -> bool:
    """Whether a record is a warning of geomap's own."""
    return record.levelno >= logging.WARNING and record.name.partition(".")[0] == "geomap"


def starting() -> Status:
    """A sign of life on a terminal while torch and GDAL load, which takes seconds; elsewhere nothing."""
    return err_console.status("starting")


class Remaining(ProgressColumn):
    """Time left at the mean speed so far: tiles end one by one, often minutes apart, so no recent speed is known."""

    def render(self, task: Task) -> Text:
        new = task.completed - task.fields["first"]  # since the clock of this bar began
        if new <= 0 or task.total is None or task.elapsed is None:
            return Text("-:--:--")
        return Text(str(timedelta(seconds=round(task.elapsed * (task.total - task.completed) / new))))


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A progress callback that shows a bar per stage on stderr."""
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        Remaining(),
    )
    with Progress(*columns, console=err_console, transient=False) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, first=done)
            bars.update(tasks[stage], completed=done, total=total)

        yield report
