"""The command line: parsing and printing only."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from geomap import __version__
from geomap.errors import GeomapError, InputError

if TYPE_CHECKING:
    from geomap import run
    from geomap.style import Layer, Statistics
    from geomap.types import Period

app = typer.Typer(
    name="geomap",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From an area of interest to labelled Sentinel-2 maps.\n\n"
    "Try `geomap demo` first: it needs no network. Then map a place of your own:\n\n"
    '`geomap map "4.40,50.85,4.45,50.88" --year 2023 --stac earth-search --out brussels`',
)
legends_app = typer.Typer(no_args_is_help=True, help="Legends that come with geomap, and how to write one.")
weights_app = typer.Typer(no_args_is_help=True, help="Weights that come with geomap: what they are and how good.")
app.add_typer(legends_app, name="legends")
app.add_typer(weights_app, name="weights")

out_console = Console()
err_console = Console(stderr=True)

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
# ^ click's UsageError: typer carries its own copy of click, which it does not export

HECTARES_PER_PIXEL = 0.01  # 10 m x 10 m
MANY_CLASSES = 12  # rows of a summary; the rest is added up


class Offset(StrEnum):
    """What to do with scenes whose metadata do not tell their DN offset."""

    auto = "auto"
    applied = "applied"
    unapplied = "unapplied"


@app.command("map")
def map_command(
    area: Annotated[
        str,
        typer.Argument(
            metavar="AOI",
            help='"minx,miny,maxx,maxy" in degrees (longitude first), WKT, or a .geojson, .gpkg or .shp file.',
        ),
    ],
    stac: Annotated[
        str,
        typer.Option(help="earth-search, planetary-computer, cdse, the URL of a STAC API, or a local items.json."),
    ] = "earth-search",
    year: Annotated[int | None, typer.Option(help="A calendar year, for example 2023.")] = None,
    start: Annotated[str | None, typer.Option(metavar="YYYY-MM", help="First month, instead of --year.")] = None,
    months: Annotated[int, typer.Option(min=1, max=12, help="Months from --start on.")] = 12,
    legend: Annotated[
        list[str] | None,
        typer.Option(help="A built-in legend (see `geomap legends list`) or a .toml file; repeat for several."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help='Your own classes: "vineyard, olive grove, maize field". Map: classes.tif.')
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory of the maps; the same command again resumes.")] = Path(
        "geomap-out"
    ),
    weights: Annotated[str, typer.Option(help="Name (see `geomap weights list`) or folder of weights.")] = "default",
    collection: Annotated[str | None, typer.Option(help="STAC collection, where the catalogue has several.")] = None,
    max_cloud: Annotated[float, typer.Option(min=0, max=100, help="Skip scenes cloudier than this, percent.")] = 100,
    min_clear_months: Annotated[
        int | None, typer.Option(min=1, max=12, help="Pixels with fewer clear months are not mapped. [default: 3]")
    ] = None,
    min_confidence: Annotated[
        float, typer.Option(min=0, max=100, help="Percent; pixels below become class 255, Unclassified.")
    ] = 0,
    within: Annotated[
        str | None,
        typer.Option(metavar="LEGEND=CLASS", help='Map the other legends only there: "landcover=Cropland".'),
    ] = None,
    offset: Annotated[
        Offset, typer.Option(help="For scenes whose metadata do not tell their DN offset: is it taken off already?")
    ] = Offset.auto,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Also open http(s) addresses on this host; repeat for several.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what each stage decides.")] = False,
) -> None:
    """Map an area: search, composite, encode, label and write.

    Writes LEGEND.tif and LEGEND_confidence.tif for each legend, clear_months.tif, a QGIS style beside each map,
    run.json, STAC items and SHA256SUMS into --out. Open the .tif files in QGIS.

    Examples:
    `geomap map "4.40,50.85,4.45,50.88" --year 2023 --legend landcover --legend crops --out brussels`

    `geomap map farm.geojson --start 2022-10 --classes "vineyard, olive grove, maize field" --out farm`
    """
    _log_to_stderr(verbose)
    with _errors_to_exit_code():
        from geomap import aoi
        from geomap import legend as legends

        chosen = [legends.load(name) for name in legend or ([] if classes else ["landcover"])]
        typed = [legends.typed(classes)] if classes is not None else []
        place, period, base = aoi.parse_area(area), _period(year, start, months), _within(within)
        from geomap import run  # torch and GDAL take seconds to import: only once the input is sound

        request = run.Request(
            area=place,
            period=period,
            stac=stac,
            legends=(*chosen, *typed),
            weights=weights,
            collection=collection,
            max_cloud=max_cloud,
            offset=offset.value,
            allow_hosts=tuple(allow_host or ()),
            min_clear_months=min(3, months) if min_clear_months is None else min_clear_months,
            min_confidence=min_confidence / 100,
            within=base,
            device=device,
        )
        with _progress() as progress:
            result = run.map_area(request, out, progress, _print_estimate)
        _print_result(result)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Directory of the scenes and maps.")] = Path("geomap-demo"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Simulate a small landscape with known classes, map it, and compare: no network needed.

    The scenes are simulated, with clouds, shadows and a month without any; the maps are made by the same command that
    maps real scenes. Agreement with the simulated truth says that the pipeline works, not how well real places are
    mapped: for that see `geomap weights show default`.
    """
    _log_to_stderr(False)
    with _errors_to_exit_code():
        from geomap import demo as landscape

        with _progress() as progress:
            result, agreements = landscape.run_demo(out, device, progress, _print_estimate)
        _print_result(result)
        table = Table("map", "class", "pixels", "mapped as such", title="Agreement with the simulated truth")
        for a in agreements:
            table.add_row(
                a.legend, a.class_name or "all", f"{a.pixels:,}", f"{a.share:.1%}", end_section=not a.class_name
            )
        out_console.print(table)


@app.command()
def verify(directory: Annotated[Path, typer.Argument(metavar="DIR", help="Output directory of a run.")]) -> None:
    """Check every file of a finished run against its SHA256SUMS."""
    with _errors_to_exit_code():
        from geomap import files

        if not directory.is_dir():
            raise InputError(f"no directory {directory}")
        problems = files.verify(directory)
        for problem in problems:
            err_console.print(problem, style="red", markup=False, highlight=False)
        if problems:
            raise GeomapError(f"{len(problems)} problems in {directory}; remove it and run its command again")
        out_console.print(f"{directory}: every file is as it was written")


@app.command()
def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="Training configuration, for example in pipelines/.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new weights.")] = Path("geomap-weights"),
) -> None:
    """Train an encoder as a configuration says, and write its weights and card."""
    _log_to_stderr(True)
    with _errors_to_exit_code():
        from geomap.train import loop

        with _progress() as progress:
            loop.train(config, out, progress)
        out_console.print(f"weights in {out}; use them with: geomap map AOI --weights {out}", markup=False)


@legends_app.command("list")
def legends_list() -> None:
    """Name, kind and size of each built-in legend."""
    from geomap import legend as legends

    table = Table("legend", "title", "classes")
    for name in legends.builtin_names():
        found = legends.load(name)
        size = f"{len(found.classes)}" if found.kind == "classes" else f"score from {len(found.prompts)} rated prompts"
        table.add_row(name, found.title, size)
    out_console.print(table)


@legends_app.command("show")
def legends_show(
    name: Annotated[str, typer.Argument(help="Built-in legend or .toml file.")],
    toml: Annotated[bool, typer.Option(help="Print the file itself: the start of a legend of your own.")] = False,
) -> None:
    """Classes, colours and prompts of a legend.

    To make your own: `geomap legends show landcover --toml > mine.toml`, edit it, then `map AOI --legend mine.toml`.
    """
    with _errors_to_exit_code():
        from geomap import legend as legends

        if toml:
            print(legends.source(name), end="")
            return
        found = legends.load(name)
        table = Table("id", "", "class", "prompts", title=escape(found.title))
        for c in found.classes:
            table.add_row(str(c.id), f"[on {c.colour}]  [/]", escape(c.name), escape("; ".join(c.prompts)))
        for p in found.prompts:
            table.add_row(f"{p.rating:g}", "", "", escape(p.text))
        out_console.print(table)


@weights_app.command("list")
def weights_list() -> None:
    """Name and title of the weights that come with geomap."""
    from geomap import weights as store

    table = Table("weights", "title", "text tower")
    for name in store.names():
        card = store.read_card(store.locate(name))
        table.add_row(name, escape(card.title), card.text_space)
    out_console.print(table)


@weights_app.command("show")
def weights_show(name: Annotated[str, typer.Argument(help="Name or folder of weights.")] = "default") -> None:
    """The card of some weights: training data, measured quality, and where they fail."""
    with _errors_to_exit_code():
        from geomap import weights as store

        out_console.print_json(store.read_card(store.locate(name)).model_dump_json())


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Options of geomap itself."""
    if version:
        out_console.print(f"geomap {__version__}", highlight=False)
        raise typer.Exit


def main() -> None:
    """Entry point: every foreseen error is one line on stderr and its exit code."""
    code: int | None
    try:
        code = app(_negative_numbers(sys.argv[1:]), standalone_mode=False)
    except _UsageError as e:
        context = getattr(e, "ctx", None)
        if _usage(e):  # none where no command was given: its help has been printed
            _say(f"{_usage(e)}; see {context.command_path if context else 'geomap'} --help")
        code = InputError.exit_code
    except typer.Abort:
        _say("stopped")
        code = 130
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)  # reads that still wait for a server must not hold the exit; what is on disk is whole


def _negative_numbers(args: list[str]) -> list[str]:
    """Let an area in the west, "-3.70,40.40,-3.69,40.41", pass for an argument, not for an option called -3."""
    return [f" {arg}" if re.match(r"-[\d.]", arg) else arg for arg in args]


def _usage(error: Exception) -> str:
    """Click's own words for a misspelt option, a missing argument or a value out of range, without the full stop."""
    message: str = getattr(error, "format_message", error.__str__)()
    return message.rstrip(".")


@contextmanager
def _errors_to_exit_code() -> Iterator[None]:
    """GeomapError -> one line and its exit code; Ctrl-C -> one line and 130."""
    try:
        yield
    except GeomapError as e:
        _say(str(e))
        raise typer.Exit(e.exit_code) from e
    except KeyboardInterrupt as e:
        _say("stopped; the same command resumes")
        raise typer.Exit(130) from e
    except OSError as e:
        _say(f"{e.strerror or e}{f': {e.filename}' if e.filename else ''}")
        raise typer.Exit(1) from e


def _say(message: str) -> None:
    err_console.print(
        f"geomap: {' '.join(message.split())}", style="red", markup=False, highlight=False, soft_wrap=True
    )


def _period(year: int | None, start: str | None, months: int) -> Period:
    from geomap.types import Period

    if (year is None) == (start is None):
        raise InputError("give the time to map as --year 2023, or as --start 2022-10 with --months")
    if start is None:
        if months != 12:
            raise InputError("--months goes with --start, for example --start 2023-04 --months 6")
        start = f"{year:04d}-01"
    try:
        y, m = (int(part) for part in start.split("-"))
        period = Period(y, m, months)
    except ValueError as e:
        raise InputError(f"cannot read the month {start!r}; write it as 2023-04") from e
    if not 2015 <= period.year <= 2100:
        raise InputError(f"there is no Sentinel-2 scene in {period.year}; the first are of 2015")
    return period


def _within(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    legend, sep, name = text.partition("=")
    if not (sep and legend.strip() and name.strip()):
        raise InputError(f"cannot read --within {text!r}; write LEGEND=CLASS, for example landcover=Cropland")
    return legend.strip(), name.strip()


def _log_to_stderr(verbose: bool) -> None:
    """Geomap's own log; with --verbose also what GDAL says of each retry. Addresses lose their queries (tokens)."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Redacted("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("geomap").setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("rasterio").setLevel(logging.WARNING if verbose else logging.CRITICAL)


class _Redacted(logging.Formatter):
    """A formatter that cuts the query off every address."""

    def format(self, record: logging.LogRecord) -> str:
        return re.sub(r"(\w+://[^\s?]*)\?\S*", r"\1", super().format(record))


@contextmanager
def _progress() -> Iterator[run.Progress]:
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


def _print_estimate(e: run.Estimate) -> None:
    tiles = "1 tile" if e.tiles == 1 else f"{e.tiles} tiles"
    err_console.print(
        f"{tiles}, {e.pixels * HECTARES_PER_PIXEL / 100:,.2f} km2 ({e.pixels:,} pixels); {e.scenes} scenes "
        f"in {e.months} months, up to {_size(e.read_bytes)} of pixels to read; "
        f"encoding takes about {_time(e.encode_seconds)}",
        highlight=False,
    )


def _print_result(result: run.Result) -> None:
    if not result.seconds:
        note = "was complete already and is left as it is; choose another --out to look for new scenes"
        err_console.print(f"{result.directory} {note}", markup=False, highlight=False, soft_wrap=True)
    elif result.resumed:
        err_console.print(f"{result.resumed} of {result.tiles} tiles were finished by an earlier run", highlight=False)
    for layer in result.layers:
        if layer.kind == "classes":
            out_console.print(_class_table(layer, result.statistics))
    table = Table("map", "mean", "range", title="Confidence, scores and clear months")
    for layer in result.layers:
        s = result.statistics[layer.stem]
        if layer.kind != "classes" and s.mean is not None:
            unit = {"percent": " %", "count": " months"}.get(layer.kind, "")
            table.add_row(layer.stem, f"{s.mean:.1f}{unit}", f"{s.minimum:.1f} .. {s.maximum:.1f}{unit}")
    out_console.print(table)
    for path in result.paths:
        out_console.print(str(path), markup=False, highlight=False, soft_wrap=True)
    names = "run.json, stac/ and SHA256SUMS"
    out_console.print(f"with a .qml style beside each map, {names} in {result.directory}", markup=False, soft_wrap=True)


def _class_table(layer: Layer, statistics: Mapping[str, Statistics]) -> Table:
    counts = statistics[layer.stem].counts
    total = sum(counts.values()) or 1
    confidence = statistics[f"{layer.stem}_confidence"].mean
    title = escape(layer.description) + ("" if confidence is None else f" (mean confidence {confidence:.0f} %)")
    table = Table("id", "", "class", "hectares", "percent", title=title)
    present = sorted((c for c in layer.classes if counts.get(c.value)), key=lambda c: -counts[c.value])
    for c in present[:MANY_CLASSES]:
        n = counts[c.value]
        row = (f"{n * HECTARES_PER_PIXEL:,.2f}", f"{n / total:.1%}")
        table.add_row(str(c.value), f"[on {c.colour}]  [/]", escape(c.name), *row)
    rest = sum(counts[c.value] for c in present[MANY_CLASSES:])
    if rest:
        others = f"{len(present) - MANY_CLASSES} more classes"
        table.add_row("", "", others, f"{rest * HECTARES_PER_PIXEL:,.2f}", f"{rest / total:.1%}")
    return table


def _size(n: float) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    main()
