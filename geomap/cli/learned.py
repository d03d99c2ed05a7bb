"""Shows on a terminal what a run learned from points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from geomap.cli.console import out_console, say
from geomap.run.learned import FILE, PLACES, LearnedRecord, Scores, read_learned, transferred
from geomap.text import plural

METHODS = ("learned", "zero-shot", "forest")
"""Columns of the accuracies, where a method was scored."""


def print_learned(directory: Path, request: Mapping[str, Any] | None = None) -> None:
    """Print what the run in a directory learned, in a few lines; nothing if it learned nothing.

    `request`: that of its run.json, to tell of what another run had learned. Raises InputError for damaged files.
    """
    if request is not None and (elsewhere := transferred(request)) is not None:
        _print_taken(request["learned"], elsewhere)
    record = read_learned(directory)
    if record is None:
        return
    say("the points:")
    for line in record.points.lines:
        say(f"  {line}", style="yellow" if line.startswith("WARNING") else None)
    if record.scores is not None:
        out_console.print(_table(record, record.scores))
        say(_summary(record, record.scores))
    if (directory / f"{PLACES}.gpkg").is_file():
        where = f"the {plural(record.places, 'place')}" if record.places else "places"
        say(f"{PLACES}.gpkg and {PLACES}.gpx: {where} where more points would help most")
        say(f"fill in the empty column of {PLACES}.gpkg, and give it as one more --points")
    if record.moved:
        say(f"{FILE}: for --learned elsewhere")
    say(record.verdict, style=None if record.helps else "yellow")


def _print_taken(told: Mapping[str, Any], elsewhere: bool) -> None:
    """Print what the run that --learned names had learned; `told` is what run.json says of it."""
    digest = told["sha256"][:12]
    if not told.get("moved", True):
        say(f"--learned {digest}: nothing was learned there; the map is by the words alone", style="yellow")
        return
    where = "in another place or year: TRANSFERRED, so check it with points of this one" if elsewhere else "here"
    say(f"the classes were learned from points {where} ({digest})")


def _table(record: LearnedRecord, scores: Scores) -> Table:
    folds = f"Cross-validated on {scores.folds} parts of the points"
    title = folds if record.moved else "The words alone, which are kept, at the points"
    table = Table("class", "pixels", "user's", "producer's", "F1", title=title)
    for c in scores.classes:
        table.add_row(escape(c.name), f"{c.pixels:,}", *map(_share, (c.users, c.producers, c.f1)))
    return table


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _summary(record: LearnedRecord, scores: Scores) -> str:
    rejected = {} if record.moved else {METHODS[0]: " (rejected: the words are kept)"}
    parts = [f"{name} {scores.accuracy[name]:.2f} / {scores.macro_f1[name]:.2f}{rejected.get(name, '')}"
             for name in METHODS if name in scores.accuracy]  # fmt: skip
    whose = "" if record.moved else " of the words"
    error = "" if scores.calibration is None else f"; calibration error{whose} {scores.calibration:.2f}"
    return f"accuracy / macro F1: {', '.join(parts)}{error}"
