"""Commands about how good a map is: sample, assess."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from geomap.cli.console import log_to_stderr, out_console, say, warn
from geomap.cli.options import Verbose
from geomap.cli.show import HECTARES_PER_PIXEL
from geomap.cli.state import Directory
from geomap.errors import InputError, to_type
from geomap.text import plural

if TYPE_CHECKING:
    from geomap.assess.estimate import Estimate
    from geomap.run.assess import Assessed
    from geomap.run.sample import Made, SampleRequest

MATRIX = 10
"""Most classes of a confusion matrix that fits a terminal of 80 columns."""
PAIRS = 5  # confusions shown of a larger one
RARE = 0.01  # share of the map below which a class is a speck
MANY = 0.25  # share of the points that specks may take without a word

Stem = Annotated[str | None, typer.Option("--legend", help="The map, where DIR holds several: landcover, crops, ...")]


def sample_command(
    directory: Directory,
    out: Annotated[
        list[Path], typer.Option(help="File to write: .gpkg or .csv to fill in, .gpx to go by. Repeatable.")
    ],
    n: Annotated[
        int | None, typer.Option("--n", min=1, max=100_000, help="Points. Default: from --standard-error.")
    ] = None,
    standard_error: Annotated[
        float,
        typer.Option(min=0.001, max=0.5, help="Wanted of overall accuracy; half of a 95 % interval is twice that."),
    ] = 0.02,
    legend: Stem = None,
    design: Annotated[
        Literal["stratified", "random"], typer.Option(help="By mapped class, or simply at random, by area alone.")
    ] = "stratified",
    allocation: Annotated[
        Literal["olofsson", "neyman", "equal", "proportional"],
        typer.Option(help="Points by class: olofsson = by area, rare classes --min; neyman = by area and spread."),
    ] = "olofsson",
    least: Annotated[int, typer.Option("--min", min=2, help="Fewest points of a class (olofsson, neyman).")] = 30,
    expected: Annotated[
        list[str] | None,
        typer.Option(metavar="P|CLASS=P", help="Expected user's accuracy, 0 to 1; 0.8 if not given. Repeatable."),
    ] = None,
    spread: Annotated[bool, typer.Option("--spread", help="Spread the points evenly over the area.")] = False,
    show_mapped: Annotated[
        bool,
        typer.Option("--show-mapped", help="Add a column with the mapped class. Whoever sees it tends to agree."),
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
    _print_sample(directory, sample.sample_map(directory, out, asked), asked)


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


def _print_sample(directory: Path, made: Made, asked: SampleRequest) -> None:
    total, drawn = sum(made.pixels.values()), len(made.drawn.lonlat)
    table = Table("class", title=escape(f"{made.of.title}: {drawn} points"))
    for name in ("hectares", "percent", "points"):
        table.add_column(name, justify="right")
    for c, pixels in sorted(made.pixels.items(), key=lambda item: -item[1]):
        name = escape(made.of.names.get(c, str(c)))
        table.add_row(name, f"{pixels * HECTARES_PER_PIXEL:,.2f}", f"{pixels / total:.1%}", f"{made.points[c]:,}")
    out_console.print(table)
    if made.least is not None:
        fewest = f"at least {made.least} points a class instead of {asked.least} (--min)"
        say(f"{fewest}, for {len(made.pixels)} classes share the points")
    _tell_of_specks(made)
    if made.standard_error is not None:
        say(f"if accuracies are as --expected, the standard error of the overall one will be {made.standard_error:.3f}")
    whole = [f"{made.of.names.get(c, c)} ({n:,})" for c, n in made.pixels.items() if n and n == made.points[c]]
    if (asked.n or 0) > drawn:
        say(f"{asked.n:,} points were asked for, and the map has {total:,} pixels: each of them is a point")
    elif whole:
        say(f"every pixel of these classes is a point, for they have no more: {', '.join(whole)}")
    for path in made.paths:
        say(str(path))
    if fill := next((path for path in made.paths if path.suffix.lower() != ".gpx"), None):
        legend = ("--legend", asked.legend) if asked.legend else ()
        typed = to_type("assess", directory, "--points", fill, "--column", "class", *legend)
        none = "where none of the classes is, write a name, such as no crop; empty means not seen"
        say(f"fill in the column `class` ({none}), then type: {typed}")


def _tell_of_specks(made: Made) -> None:
    """Say what to type where classes of next to no area take many of the points."""
    total, drawn = sum(made.pixels.values()), sum(made.points.values())
    rare = [c for c, pixels in made.pixels.items() if pixels < RARE * total]
    taken = sum(made.points[c] for c in rare)
    if len(rare) > 1 and taken > MANY * drawn:
        hectares = sum(made.pixels[c] for c in rare) * HECTARES_PER_PIXEL
        spent = f"{taken} of {drawn} points go to {len(rare)} classes with {hectares:,.2f} ha together"
        first = "first map without them (--without CLASS) or without small patches (--min-area 0.1)"
        say(f"{spent}; to draw by area alone, type --design random; or {first}")


def assess_command(
    directory: Directory,
    points: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="Labelled points or polygons: .gpkg, .geojson, .shp, .parquet, .gpx or .csv."
        ),
    ],
    column: Annotated[str, typer.Option(metavar="NAME", help="The column with the class on the ground.")],
    points_crs: Annotated[
        str | None, typer.Option(metavar="CRS", help="Of a table's x and y, or of a file without one: EPSG:32631.")
    ] = None,
    legend: Stem = None,
    design: Annotated[
        Literal["stratified", "random", "cluster"] | None,
        typer.Option(
            help="How the points were drawn, where the file does not tell: by mapped class, simply at random, or as "
            "polygons at random."
        ),
    ] = None,
    allow_learned: Annotated[
        bool, typer.Option("--allow-learned", help="Take points that the map learned from, and say so.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """How often a map is right, and the area of each class, with 95 % intervals.

    By the stratified estimators of Olofsson et al. 2014. The design is read from the columns that `geomap sample`
    wrote. Writes assessment.json and assessment.csv into DIR, and the intervals into areas.json and areas.csv.

    Example: `geomap assess brussels --points points.gpkg --column class`
    """
    log_to_stderr(verbose)
    from geomap.run import assess
    from geomap.run.design import AssessRequest

    asked = AssessRequest(points, column, points_crs, legend, design, allow_learned)
    _print_assessment(directory, assess.assess_map(directory, asked))


def _print_assessment(directory: Path, made: Assessed) -> None:
    from geomap.run.assess import HECTARES

    found, hectares = made.estimates, made.population * HECTARES
    names = {c: escape(made.names.get(c, str(c))) for c in found.classes}
    digits = 0 if hectares > 10_000 else 1
    overall, points = found.overall, int(found.counts.sum())
    title = f"{made.of.title}: {points:,} points, overall accuracy {_share(overall)}"
    table = Table("class", title=escape(title), box=box.SIMPLE_HEAD, padding=(0, 0))
    for name in ("points", "user's", "producer's", "mapped ha", "area ha", "+- ha"):
        table.add_column(name, justify="right", no_wrap=True)
    for i, c in enumerate(found.classes):
        area = found.areas[i]
        table.add_row(
            names[c],
            f"{int(found.counts[i].sum()):,}",
            _share(found.users[i]),
            _share(found.producers[i]),
            f"{made.pixels.get(c, 0) * HECTARES:,.{digits}f}",
            "-" if isnan(area.value) else f"{area.value * hectares:,.{digits}f}",
            "-" if isnan(area.value) else f"{area.ci95 * hectares:,.{digits}f}" if area.error else "?",
        )
    out_console.print(table)
    _print_confusion(made)
    _print_trust(made)
    say(f"+- half of a 95 % interval, {found.quantile:.2f} standard errors; ?: points leave no interval; -: unknown")
    for note in made.notes:
        warn(note, style="bold red" if note.startswith("WARNING") else "yellow")
    say(f"in {directory / 'assessment.json'} and assessment.csv, with the confusion matrix in points and in shares")


def _print_trust(made: Assessed) -> None:
    """How often the map is right by its confidence."""
    from geomap.run.assess import calibration_error

    table = Table(title="How far its confidence can be trusted", box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("mean confidence", "right", "points", "of the area"):
        table.add_column(name, justify="right", no_wrap=True)
    for t in made.trust:
        table.add_row(f"{t.confidence:.2f}", _share(t.right), f"{t.points:,}", f"{t.share:.1%}")
    out_console.print(table)
    say(f"mean distance of the two columns, by area (expected calibration error): {calibration_error(made.trust):.3f}")


def _print_confusion(made: Assessed) -> None:
    """The confusion matrix in points, by the numbers of the classes; of many classes, the commonest confusions."""
    found = made.estimates
    names = [escape(made.names.get(c, str(c))) for c in found.classes]
    if len(names) > MATRIX:
        pairs = sorted(
            ((int(n), i, j) for (i, j), n in _cells(made) if i != j and n), key=lambda pair: (-pair[0], pair[1:])
        )
        for n, i, j in pairs[:PAIRS]:
            wrong, right = (made.names[found.classes[k]] for k in (i, j))
            say(f"mapped as {wrong}, on the ground {right}: {plural(n, 'point')}")
        if (rest := len(pairs) - PAIRS) > 0:
            say(f"and {plural(rest, 'more kind')} of error, in assessment.json")
        return
    table = Table("", "mapped as", title="Points by class: rows the map, columns the ground")
    for i in range(len(names)):
        table.add_column(str(i + 1), justify="right")
    for i, name in enumerate(names):
        table.add_row(str(i + 1), name, *(f"{n:,}" if n else "." for n in found.counts[i].tolist()))
    out_console.print(table)


def _cells(made: Assessed) -> list[tuple[tuple[int, int], int]]:
    counts = made.estimates.counts
    return [((i, j), int(counts[i, j])) for i in range(len(counts)) for j in range(len(counts))]


def _share(e: Estimate | None) -> str:
    """A share with half its interval, such as ".88 +-.07"; "-" where no point bears on it."""
    if e is None:
        return "-"
    return f"{e.value:.2f} +-{e.ci95:.2f}" if e.error else f"{e.value:.2f} +-?"
