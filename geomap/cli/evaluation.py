"""The command that measures an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from geomap import files
from geomap.cli import options
from geomap.cli.console import log_to_stderr, out_console, progress_bars, say
from geomap.errors import InputError
from geomap.points.read import PointFiles
from geomap.run.keys import RequestKeys

if TYPE_CHECKING:
    from geomap.datasets.samples import Samples
    from geomap.evaluate.tables import TextTable


@options.asking("resources.device")
def evaluate(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="Name or folder of weights.")],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="FILE|NAME=PATH",
            help="Test set: a table of your own (.csv, .parquet), a cut HDF5 file, or NAME=PATH of flanders,"
            " corsica, east_africa or rondonia; with --run, labelled points; repeat for several.",
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A run with --save-composites: --data are points, their series come from it."),
    ] = None,
    column: Annotated[str | None, typer.Option(metavar="NAME", help="The column of points with the classes.")] = None,
    points_crs: Annotated[
        str | None, typer.Option(metavar="CRS", help="Coordinate system of points where the file names none.")
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(metavar="FILE|NAME=PATH", help="Training set of the baselines; without it they are k-fold."),
    ] = None,
    photos: Annotated[Path | None, typer.Option(help="Vectors of ground photos by point, for retrieval.")] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV of labels by point, in the published layout.")] = None,
    scenicness: Annotated[Path | None, typer.Option(help="CSV with columns id and score: people's ratings.")] = None,
    prompts: Annotated[
        str, typer.Option(metavar="LETTERS", help="C class names, G generic templates, D the legends' prompts.")
    ] = "CGD",
    draws: Annotated[
        int, typer.Option(min=0, max=100, help="Draws of the months that are left; 0: no such table.")
    ] = 5,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("geomap-evaluation"),
    *,
    keys: RequestKeys,
    verbose: options.Verbose = False,
) -> None:
    """Measure weights on labelled series, beside baselines and published figures.

    Writes results.md, results.json, confusion matrices (CSV, PNG), reliability diagrams and accuracy by clear months
    into --out. docs/evaluation.md says how each figure is made.

    Examples: `geomap evaluate default --data mine.csv --out evaluation`

    `geomap evaluate default --data points.gpkg --column crop --run brussels --out evaluation`
    """
    log_to_stderr(verbose)
    by_point = {"--photos": photos, "--labels": None if train else labels, "--scenicness": scenicness}
    _require_kinds(run, column, points_crs, [option for option, file in by_point.items() if file is not None])
    from geomap.datasets.extras import require_packages
    from geomap.datasets.sets import read_set
    from geomap.encode.weights import load_weights
    from geomap.evaluate import prompt_kinds, protocol, report, tables

    require_packages("evaluation", "sklearn", "matplotlib")
    asked = prompt_kinds.kinds(prompts)
    loaded = load_weights(weights)
    patch = loaded.card.config().patch
    if run is not None and patch > 1:
        raise InputError(f"--run gives single pixels; these weights take {patch} x {patch}: use --data with a cut file")
    with progress_bars() as progress:
        if run is None:
            tests = [read_set(source, patch, photos, labels, scenicness, progress) for source in data]
        else:
            from geomap.run.point_samples import samples_at

            tests = [samples_at(PointFiles((source,), str(column), points_crs), run) for source in data]
        fitted = read_set(train, patch, labels=labels, progress=progress) if train else None
        _check(tests, fitted)
        with files.disk_errors(out):
            out.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written shows before minutes of measuring
        how = protocol.Options(asked, draws, keys.resources.device, progress)
        results = [protocol.measure(loaded, test, how, fitted) for test in tests]
    paths = report.write_report(out, loaded, results)
    for result in results:
        out_console.rule(escape(result.name))
        say(report.remarks(result))
        for table in filter(lambda t: t.printed, tables.tables(result)):
            _print(table)
    say(report.notes(loaded))
    for path in paths:
        say(str(path))


def _require_kinds(run: Path | None, column: str | None, crs: str | None, by_point: Sequence[str]) -> None:
    """Raise InputError for options of labelled points without a run, and for those `by_point` of LUCAS with one."""
    if (run is None) != (column is None):
        raise InputError("labelled points need --run DIR, for their series, and --column NAME, for their classes")
    if run is None and crs is not None:
        raise InputError("--points-crs is for labelled points; give their --run DIR and --column NAME too, or leave it")
    if run is not None and by_point:
        raise InputError(
            f"{' and '.join(by_point)} go by ids, which points of --run do not have; leave them out, or give a table "
            "or a cut file as --data, without --run"
        )


def _check(tests: Sequence[Samples], train: Samples | None) -> None:
    names = [t.name for t in tests]
    if len(set(names)) < len(names):
        raise InputError(f"two test sets are called {max(names, key=names.count)}; rename one of the files")
    for test in tests:
        if train is not None:
            test.refuse_overlap(train)


def _print(table: TextTable) -> None:
    """Print a table; one with legends in parts, one for each legend, to fit a terminal."""
    say(f"\n{table.title}", style="bold")
    parted = table.columns[0] == "legend"
    for value in dict.fromkeys(row[0] for row in table.rows) if parted else (None,):
        found = Table(*table.columns[parted:], title=value and escape(value), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for row in table.rows:
            if value in (None, row[0]):
                found.add_row(*map(escape, row[parted:]))
        out_console.print(found)
