"""Shows on a terminal what a run learned from points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from geomap.cli.console import out_console, say
from geomap.run.learned import DOUBTFUL, FILE, PLACES, LearnedRecord, Scores, read_learned, transferred

METHODS = ("learned", "zero-shot", "forest")
"""Columns of the accuracies, where a method was scored."""


def print_learned(directory: Path, request: Mapping[str, Any] | None = None) -> None:
    """Print what the run in a directory learned, in a few lines; nothing if it learned nothing.

    `request`: that of its run.json, to tell of what another run had learned. Raises InputError for damaged files.
    """
    if request is not None and (elsewhere := transferred(request)) is not None:
        where = "in another place or year: TRANSFERRED, so check it with points of this one" if elsewhere else "here"
        what = (
            "learned from points"
            if request["learned"].get("moved", True)
            else "kept as their words have them, by points"
        )
        say(f"the classes were {what} {where} ({request['learned']['sha256'][:12]})")
    record = read_learned(directory)
    if record is None:
        return
    what = "learned from" if record.moved else "not learned:"
    said = f"{what} {record.points.pixels:,} pixels with points; {record.says}"
    say(said, style=None if record.helps else "yellow")
    for line in record.points.lines:
        say(f"  {line}", style="yellow" if line.startswith("WARNING") else None)
    if record.scores is not None:
        out_console.print(_table(record, record.scores))
        say(_summary(record.scores))
    if (directory / f"{PLACES}.gpkg").is_file():
        say(f"{PLACES}.gpkg and {PLACES}.gpx: where more points would help most; {FILE}: for --learned elsewhere")
        say(f"fill in the empty column of {PLACES}.gpkg, and give it as one more --points")
    if (directory / f"{DOUBTFUL}.gpkg").is_file():
        say(f"{DOUBTFUL}.gpkg: points to look at again, since the others say another class")


def _table(record: LearnedRecord, scores: Scores) -> Table:
    title = f"Cross-validated on {scores.folds} parts of the points"
    table = Table("class", "pixels", "user's", "producer's", "F1", title=title)
    for c in scores.classes:
        table.add_row(escape(c.name), f"{c.pixels:,}", *map(_share, (c.users, c.producers, c.f1)))
    return table


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _summary(scores: Scores) -> str:
    parts = [f"{name} {scores.accuracy[name]:.2f} / {scores.macro_f1[name]:.2f}" for name in METHODS
             if name in scores.accuracy]  # fmt: skip
    error = "" if scores.calibration is None else f"; calibration error {scores.calibration:.2f}"
    return f"accuracy / macro F1: {', '.join(parts)}{error}"
