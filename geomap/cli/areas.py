"""The command that lists areas of classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from geomap.cli import options
from geomap.cli.console import number, out_console, progress_bars, say, say_json, warn
from geomap.cli.show import print_quality
from geomap.errors import InputError
from geomap.run import history
from geomap.run.history import Areas
from geomap.run.totals import Quality, Row, read_quality
from geomap.text import plural
from geomap.write.areas import write_rows

LEAST_COLUMNS = 3  # runs side by side, however narrow the terminal is


def areas_command(
    directories: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...|JOB.yaml", help="Finished runs, or a job file: all its finished maps."),
    ],
    zones: Annotated[
        str | None,
        typer.Option(metavar="FILE[:LAYER]", help="Polygons of your own (GPKG, GeoJSON, SHP): a table for each."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of the polygons' names; by default, their number.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a CSV, or JSON if FILE ends so, instead of a table.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """The area of each class: of whole maps, side by side if several, or in polygons of your own.

    A pixel counts for a polygon if its centre lies in it. These are mapped areas: a map has errors, and a class that is
    mapped too often has too large an area. Of a map that `geomap assess` has compared with points, the area that these
    estimate stands beside them, for whole maps.

    Example: `geomap areas brussels --zones districts.gpkg --column name --out districts.csv`
    """
    if out is not None and out.suffix not in (".csv", ".json"):
        raise InputError(f"--out {out} must end in .csv or .json")
    if out is not None and as_json:
        raise InputError("give --json or --out, not both")
    if zones is not None:
        _in_zones(directories, zones, column, out, as_json)
        return
    if column is not None:
        raise InputError("--column goes with --zones")
    runs = [history.read_areas(directory) for directory in _runs(directories)]
    _warn_of_gaps(runs)
    if as_json or out is not None:
        _warn_of_points(runs)
    if as_json:
        say_json(history.rows(runs))
    elif out is not None:
        write_rows(out, history.COLUMNS, history.rows(runs))
        say(f"{plural(len(runs), 'run')} in {out}")
    elif len(runs) == 1:
        _whole(runs[0])
    else:
        _beside(runs)


def _runs(directories: list[Path]) -> list[Path]:
    """The directories, with the finished maps of a job in the place of its file, oldest first. Raises InputError."""
    found: list[Path] = []
    for path in directories:
        if path.suffix not in (".yaml", ".yml"):
            found.append(path)
            continue
        from geomap.jobs import catalog, file

        job = file.read_job(path)
        directory = job.keys.outputs.directory
        if file.PERIOD not in directory:
            raise InputError(f"{path} makes one map, so name its directory: geomap areas {job.file(directory)}")
        if not (maps := [made for _, made in catalog.finished(job)]):
            raise InputError(f"{path} has no finished map yet; make one: geomap run {path}")
        found += maps
    return found


def _in_zones(directories: list[Path], zones: str, column: str | None, out: Path | None, as_json: bool) -> None:
    if len(directories) > 1 or directories[0].suffix in (".yaml", ".yml"):
        raise InputError("--zones takes one run: name one directory")
    _warn_of_gaps([history.read_areas(directories[0])])
    from geomap.run.zones import COLUMNS, zonal

    with progress_bars() as progress:
        found = zonal(directories[0], zones, column, progress)
    rows = [row for zone in found for row in zone.rows]
    if out is not None:
        write_rows(out, COLUMNS, rows)
        say(f"{plural(len(found), 'polygon')} in {out}")
    elif as_json:
        say_json(rows)
    else:
        table = Table("zone", "map", "class", number("pixels"), number("ha"), number("share"))
        for zone in found:
            for row in zone.rows:
                cells = _cells(row["pixels"], row["ha"], row["share"])
                table.add_row(escape(zone.name), row["map"], escape(row["name"]), *cells)
        out_console.print(table)
        if read_quality(directories[0]):
            say(f"counts of pixels: the assessed intervals are of the whole map (geomap areas {directories[0]})")
    if empty := [zone.name for zone in found if zone.empty]:
        named = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
        warn(f"without a mapped pixel: {len(empty):,} of {len(found):,} polygons: {named}")


def _whole(run: Areas) -> None:
    quality = read_quality(run.directory)
    doubtful = _doubtful(quality)
    table = Table("map", "class", number("pixels"), number("ha"), number("share"))
    if quality:
        table.add_column("estimated ha", justify="right")
    for stem, rows in run.maps.items():
        for row in rows:
            if row.pixels or row.adjusted_ha:
                estimated = [_estimated(row, stem in doubtful) if stem in quality else ""] if quality else []
                table.add_row(stem, escape(row.name), *_cells(row.pixels, row.ha, row.share), *estimated)
    out_console.print(table)
    if run.mapped is not None:
        say(f"{run.mapped.mapped:,} of the area's {run.mapped.pixels:,} pixels are mapped ({run.mapped.share:.1%})")
    print_quality(quality)
    if doubtful:
        say("*: of such points; estimates for the map only if they are a random sample of it")


def _doubtful(quality: Mapping[str, Quality]) -> list[str]:
    """The maps that were assessed with points of which nobody knows how they were drawn."""
    return [stem for stem, found in quality.items() if not found.probability_sample]


def _warn_of_gaps(runs: list[Areas]) -> None:
    """Say on stderr which runs lack tiles, whose areas are those of the rest."""
    for run in runs:
        if run.gap:
            warn(f"warning: {run.gap}: the areas are those of the rest", style="yellow")


def _warn_of_points(runs: list[Areas]) -> None:
    """Say on stderr which estimated areas are of points of which nobody knows how they were drawn."""
    for run in runs:
        if stems := _doubtful(read_quality(run.directory)):
            what = f"adjusted_ha of {', '.join(stems)} in {run.directory}"
            warn(f"{what}: by points that are not known to be drawn by chance", style="yellow")


def _estimated(row: Row, doubtful: bool) -> str:
    """The area by points with half its interval of 95 %; ?: they leave none; *: they may not be drawn by chance."""
    if row.adjusted_ha is None:
        return ""
    mark = " *" if doubtful else ""
    return f"{row.adjusted_ha:,.2f} +-{'?' if row.ci95_ha is None else f'{row.ci95_ha:,.2f}'}{mark}"


def _beside(runs: list[Areas]) -> None:
    """A table for each map: hectares of its classes, a column for each run; the last runs if not all fit."""
    shown = runs[-max(LEAST_COLUMNS, (out_console.width - 30) // 13) :]
    several = len({run.period for run in shown}) < len(shown)
    heads = [
        run.directory.name if several else "\n".join(run.period.month_names[:: max(1, run.period.months - 1)])
        for run in shown
    ]
    mapped = [run.mapped for run in shown]
    part = mapped if history.unlike(mapped) else []
    for stem in dict.fromkeys(stem for run in shown for stem in run.maps):
        hectares = [{row.name: row.ha for row in run.maps.get(stem, ())} for run in shown]
        most = {name: max(of.get(name, 0.0) for of in hectares) for found in hectares for name in found}
        table = Table("class", *map(number, map(escape, heads)), title=f"{stem}: hectares")
        for name in sorted(filter(most.get, most), key=lambda n: (-most[n], n)):
            table.add_row(escape(name), *(f"{of[name]:,.2f}" if name in of else "" for of in hectares))
        if part:
            table.add_section()
            table.add_row("mapped share of the area", *("" if m is None else f"{m.share:.1%}" for m in part))
        out_console.print(table)
        if differs := history.differing(run.made_by[stem] for run in shown if stem in run.maps):
            say(f"{stem} was made in different ways (differs in: {', '.join(differs)})")
    if len(shown) < len(runs):
        say(f"the last {len(shown)} of {len(runs)} runs; --out areas.csv or --json gives all")


def _cells(pixels: int, ha: float, share: float) -> tuple[str, str, str]:
    return f"{pixels:,}", f"{ha:,.2f}", f"{share:.1%}"
