"""Commands that make maps: map, demo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from geomap import __version__, legends
from geomap.cli import options
from geomap.cli.console import log_to_stderr, number, out_console, progress_bars, say, starting, warn
from geomap.cli.show import print_estimate, print_result, refuse_gaps, show_result
from geomap.errors import InputError
from geomap.run.keys import DEFAULT_LEGEND, RequestKeys
from geomap.run.request import Earlier, Request, request_of
from geomap.run.workers import Resources

if TYPE_CHECKING:
    from geomap.types import Period


@options.asking()
def map_command(
    area: options.MaybeArea = None,
    *,
    out: Annotated[Path, typer.Option(help="Directory of the maps; the same command again resumes.")] = Path(
        "geomap-out"
    ),
    keys: RequestKeys,
    from_composites: Annotated[
        Path | None,
        typer.Option(metavar="DIR|STORE", help="Take the composites that a run saved: no catalogue, and its period."),
    ] = None,
    update_from: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A finished run over other months, saved with its composites: read and encode only what has changed, "
            "and map the changes.",
        ),
    ] = None,
    again: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Repeat the finished run in this folder: give --out, and --stac, --points, ... where it read files.",
        ),
    ] = None,
    retry_quarantined: options.RetryQuarantined = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """Map an area: search, composite, encode, label and write.

    Writes LEGEND.tif, LEGEND_confidence.tif and LEGEND_second.tif (second class) for each legend, clear_months.tif, a
    QGIS style beside each map, run.json, STAC items and SHA256SUMS into --out. Open the .tif files in QGIS.

    Examples:
    `geomap map "4.40,50.85,4.45,50.88" --year 2023 --legend crops --save-embeddings --out brussels`

    `geomap map farm.geojson --start 2022-10 --classes "vineyard, olive grove, maize field" --out vines`

    `geomap map farm.geojson --year 2023 --legend crops --points visited.gpkg --column crop --out farm`
    """
    log_to_stderr(verbose)
    if again:
        request = _again(keys, again, area, out, from_composites, update_from)
    elif area is None:
        raise InputError('name an area: geomap map "4.40,50.85,4.45,50.88" --year 2023; see geomap map --help')
    else:
        request = _request(keys, area, out, from_composites)
    with starting():  # only after the input is checked
        from geomap.run import map

    if update_from and not again:
        request = replace(request, update=_earlier(update_from))
    who = Resources(keys.resources.scheduler, keys.resources.workers)
    with progress_bars() as progress:
        result = map.map_area(
            request, out, progress, print_estimate, resources=who, retry_quarantined=retry_quarantined
        )
    show_result(result, as_json)
    if again:
        _tell_compared(again, out, warn if as_json else say)
    refuse_gaps([result])


WITH_AGAIN = (
    "--stac", "--allow-host", "--weights", "--points", "--column", "--learned", "--device", "--workers", "--scheduler",
)  # fmt: skip
"""Options that go with --again: where things are now, and who does the work."""


def _earlier(directory: Path) -> Earlier:
    """A finished run, as one to update."""
    from geomap.run.update import earlier

    return earlier(directory)


def _again(
    keys: RequestKeys, directory: Path, area: str | None, out: Path, composites: Path | None, update: Path | None
) -> Request:
    """The request of a finished run. Raises InputError."""
    typed = [*options.typed_options(keys)]
    if others := [*(["AOI"] if area else []), *(option for option in typed if option not in WITH_AGAIN)]:
        raise InputError(f"--again repeats the run as it was: leave {others[0]} out")
    if out.resolve() == directory.resolve():
        raise InputError("--again leaves the run as it is: give another folder as --out")
    _refuse_foreign(out)
    from geomap.run.again import read_again

    stac = keys.catalogue.stac if "--stac" in typed else None
    weights = keys.weights.name if "--weights" in typed else None
    earlier = _earlier(update) if update else None
    taught = {"points": keys.points.file or None, "column": keys.points.column, "learned": keys.points.learned}
    request = read_again(directory, stac=stac, weights=weights, composites=composites, update=earlier, **taught)
    if "--allow-host" in typed:
        request = replace(request, allow_hosts=keys.catalogue.allow_hosts)
    return replace(request, device=keys.resources.device) if "--device" in typed else request


def _tell_compared(directory: Path, out: Path, tell: Callable[[str], None]) -> None:
    """Say whether a run was repeated to the byte."""
    from geomap.run.again import compared

    differ = compared(directory, out)
    if differ:
        warn(f"{len(differ)} maps are not those of {directory}: {', '.join(differ)}; the scenes may be others now")
    else:
        tell(f"the maps are those of {directory}, byte for byte")


def _request(keys: RequestKeys, area: str, out: Path, composites: Path | None) -> Request:
    """The typed options as a request; an area file is opened last, since that loads GDAL. Raises InputError."""
    from geomap import aoi
    from geomap.encode.card import locate

    asked = keys.chosen() or (() if keys.points.learned else (legends.load(DEFAULT_LEGEND),))
    aoi.require_area(area)
    options.checked_points(keys)
    locate(keys.weights.name)
    if composites is not None:
        _refuse_of_scenes(keys)
    _refuse_foreign(out)
    period = options.period_of(keys) if composites is None else _saved_period(composites, keys)
    with options.in_options():
        return request_of(keys, aoi.parse_area(area), period, asked, composites)


def _refuse_of_scenes(keys: RequestKeys) -> None:
    """Refuse options that say which observations count: saved composites are made. Raises InputError."""
    typed = [*options.typed_options(keys.catalogue, "catalogue."), *options.typed_options(keys.masks, "masks.")]
    if found := [option for option in typed if option != "--stac"]:
        raise InputError(
            f"{found[0]} says what is read of scenes, and --from-composites reads none; leave one of them out"
        )


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder that is not a run's, or a run of another version: `map_area` would too, but takes 3 s."""
    from geomap.run.directory import open_directory, read_begun, require_run

    if require_run(out):
        open_directory(out, read_begun(out).request | {"geomap": __version__})


def _saved_period(composites: Path, keys: RequestKeys) -> Period:
    """The period of saved composites; the keys may not name another one. Raises InputError."""
    from geomap.store.store import COMPOSITES, open_store

    saved = open_store(composites, COMPOSITES)
    if keys.period and keys.period.period != saved.period:
        raise InputError(f"{saved.path} is of {saved.period}; leave --year, --start and --months out")
    return saved.period


@options.asking("resources.device")
def demo(
    *,
    keys: RequestKeys,
    out: Annotated[Path, typer.Option(help="Directory of the scenes and maps.")] = Path("geomap-demo"),
) -> None:
    """Simulate a small landscape with known classes, map it, and compare.

    Needs no network. The scenes are simulated, with clouds, shadows and a month without any; the maps are made by the
    same command that maps real scenes. Agreement with the simulated truth says that the pipeline works, not how well
    real places are mapped: for that see `geomap weights show default`. Beside the maps lie two files of simulated
    points, points.gpkg to learn from and check.gpkg to assess with: docs/points.md leads through them.
    """
    log_to_stderr(False)
    with starting():
        from geomap.demo import run_demo

    with progress_bars() as progress:
        result, agreements = run_demo(out, keys.resources.device, progress, print_estimate)
    print_result(result)
    table = Table(
        "map", "class", number("pixels"), number("mapped as such"), title="Agreement with the simulated truth"
    )
    for a in agreements:
        table.add_row(a.legend, a.class_name or "all", f"{a.pixels:,}", f"{a.share:.1%}", end_section=not a.class_name)
    out_console.print(table)
