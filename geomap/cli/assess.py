"""Commands about how good a map is: sample, assess."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from geomap.cli.console import log_to_stderr, out_console, say
from geomap.cli.options import Verbose
from geomap.cli.show import HECTARES_PER_PIXEL
from geomap.cli.state import Directory
from geomap.errors import InputError

if TYPE_CHECKING:
    from geomap.run.sample import Made

Stem = Annotated[str | None, typer.Option("--legend", help="The map, where DIR holds several: landcover, crops, ...")]


def sample_command(
    directory: Directory,
    out: Annotated[list[Path], typer.Option(help="File to write: .gpkg or .csv to fill in, .gpx to go by. Repeatable.")],
    n: Annotated[int | None, typer.Option("--n", min=1, max=100_000, help="Points. Default: from --standard-error.")] = None,
    standard_error: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Wanted standard error of overall accuracy; half of a 95 % interval is twice that.")
    ] = 0.02,
    legend: Stem = None,
    design: Annotated[
        Literal["stratified", "random"], typer.Option(help="By mapped class, or simply at random.")
    ] = "stratified",
    allocation: Annotated[
        Literal["olofsson", "neyman", "equal", "proportional"],
        typer.Option(help="Points of each class: olofsson = --min for rare ones, the rest by area; neyman = by area and spread."),
    ] = "olofsson",
    least: Annotated[int, typer.Option("--min", min=2, help="Fewest points of a class (olofsson, neyman).")] = 30,
    expected: Annotated[
        list[str] | None,
        typer.Option(metavar="P|CLASS=P", help="User's accuracy that you expect, 0 to 1; 0.8 if not given. Repeatable."),
    ] = None,
    spread: Annotated[bool, typer.Option("--spread", help="Spread the points evenly over the area.")] = False,
    show_mapped: Annotated[
        bool, typer.Option("--show-mapped", help="Add a column with the mapped class. Whoever sees it tends to agree with it.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other points.")] = 1,
    verbose: Verbose = False,
) -> None:
    """Draw a probability sample of a map's pixels, to visit or to interpret.

    Fill in the column `class` of the file, then type `geomap assess DIR --points FILE --column class`. The columns
    `stratum`, `stratum_px` and `probability` tell how the points were drawn: leave them as they are. A point stands for
    its pixel of 10 m.

    Example: `geomap sample brussels --n 200 --out points.gpkg --out points.gpx`
    """
    log_to_stderr(verbose)
    each, otherwise = _expected(expected or [])
    from geomap.run import sample

    asked = sample.SampleRequest(
        n, standard_error, legend, design, allocation, least, spread, seed, each, otherwise, show_mapped
    )
    _print_sample(sample.sample_map(directory, out, asked))


def _expected(texts: list[str]) -> tuple[dict[str, float], float]:
    """Accuracies by class, and that of all others, from "0.8" and "Cropland=0.9". Raises InputError."""
    each, otherwise = dict[str, float](), 0.8
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise InputError(f"cannot read --expected {text!r}; write a share: 0.8, or of a class: Cropland=0.9")
        if name:
            each[name.strip()] = value
        else:
            otherwise = value
    return each, otherwise


def _print_sample(made: Made) -> None:
    total = sum(made.pixels.values())
    table = Table("class", title=escape(f"{made.of.title}: {len(made.drawn.lonlat)} points"))
    for name in ("hectares", "percent", "points"):
        table.add_column(name, justify="right")
    for c, pixels in sorted(made.pixels.items(), key=lambda item: -item[1]):
        name = escape(made.of.names.get(c, str(c)))
        table.add_row(name, f"{pixels * HECTARES_PER_PIXEL:,.2f}", f"{pixels / total:.1%}", f"{made.points[c]:,}")
    out_console.print(table)
    for path in made.paths:
        say(str(path))
    say("fill in the column `class`, then type: geomap assess DIR --points FILE --column class")
