"""The command that lists areas of classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from geomap.cli import options
from geomap.cli.console import number, out_console, progress_bars, say, say_json, warn
from geomap.cli.show import print_quality
from geomap.errors import InputError, to_type
from geomap.run import history
from geomap.run.history import Areas
from geomap.run.totals import Quality, read_quality
from geomap.text import plural
from geomap.write.areas import write_rows

if TYPE_CHECKING:
    from geomap.run.zones import Zone

LEAST_COLUMNS = 3  # runs side by side, however narrow the terminal is
ESTIMATED_HA = "estimated ha"


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
    estimate stands beside them, with half its interval of 95 %; in polygons too, where enough of the points lie.

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
            raise InputError(f"{path} makes one map, so name its directory: {to_type('areas', job.file(directory))}")
        if not (maps := [made for _, made in catalog.finished(job)]):
            raise InputError(f"{path} has no finished map yet; make one: {to_type('run', path)}")
        found += maps
    return found


def _in_zones(directories: list[Path], zones: str, column: str | None, out: Path | None, as_json: bool) -> None:
    if len(directories) > 1 or directories[0].suffix in (".yaml", ".yml"):
        raise InputError("--zones takes one run: name one directory")
    directory = directories[0]
    whole = history.read_areas(directory)
    _warn_of_gaps([whole])
    from geomap.run.zones import COLUMNS, zonal

    with progress_bars() as progress:
        found = zonal(directory, zones, column, progress)
    rows = [row for zone in found for row in zone.rows]
    if any(row["adjusted_ha"] is not None for row in rows) and (as_json or out is not None):
        _warn_of_points([whole])
    if out is not None:
        write_rows(out, COLUMNS, rows)
        say(f"{plural(len(found), 'polygon')} in {out}")
    elif as_json:
        say_json(rows)
    else:
        _print_zones(rows)
    quality = read_quality(directory)
    for line in (*_without(directory, quality, found), *_narrow(quality, rows)):
        warn(line)
    if empty := [zone.name for zone in found if zone.empty]:
        named = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
        warn(f"without a mapped pixel: {len(empty):,} of {len(found):,} polygons: {named}")


def _print_zones(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table("zone", "map", "class", number("pixels"), number("ha"), number("share"))
    any_estimated = any(row["adjusted_ha"] is not None for row in rows)
    if any_estimated:
        table.add_column(ESTIMATED_HA, justify="right")
    for row in rows:
        cells = _cells(row["pixels"], row["ha"], row["share"])
        doubtful = row["probability_sample"] is False
        estimated = [_estimated(row["adjusted_ha"], row["ci95_ha"], doubtful)] if any_estimated else []
        table.add_row(escape(row["zone"]), row["map"], escape(row["name"]), *cells, *estimated)
    out_console.print(table)
    if any(row["probability_sample"] is False for row in rows):
        say("*: of points that are not known to be drawn by chance; estimates only if a random sample of the map")


def _without(directory: Path, assessed: Mapping[str, Quality], found: Sequence[Zone]) -> Iterator[str]:
    """What to say of polygons without an estimate, though their map was assessed."""
    for stem, quality in assessed.items():
        few = sum(stem in zone.few for zone in found)
        if quality.sample is None:
            yield f"{stem}: counts of pixels, for an older version assessed it; assess it again for estimates here"
        elif not quality.sample.x:
            whole = to_type("areas", directory)
            yield f"{stem}: counts of pixels, for such points tell of the whole map alone ({whole})"
        elif few:
            yield (
                f"{stem}: too few points for an estimate in {few:,} of {plural(len(found), 'polygon')}; more points of "
                f"the map help ({to_type('sample', directory)})"
            )


def _narrow(assessed: Mapping[str, Quality], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Which classes have too narrow intervals in polygons, since few points of the whole map are of them."""
    for stem, quality in assessed.items():
        if quality.narrow and any(row["map"] == stem and row["adjusted_ha"] is not None for row in rows):
            yield f"{stem}: {quality.narrow}"


def _whole(run: Areas) -> None:
    quality = read_quality(run.directory)
    doubtful = _doubtful(quality)
    table = Table("map", "class", number("pixels"), number("ha"), number("share"))
    if quality:
        table.add_column(ESTIMATED_HA, justify="right")
    for stem, rows in run.maps.items():
        for row in rows:
            if row.pixels or row.adjusted_ha:
                by_points = _estimated(row.adjusted_ha, row.ci95_ha, stem in doubtful) if stem in quality else ""
                estimated = [by_points] if quality else []
                table.add_row(stem, escape(row.name), *_cells(row.pixels, row.ha, row.share), *estimated)
    out_console.print(table)
    if run.mapped is not None:
        say(run.mapped.says)
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


def _estimated(hectares: float | None, ci95: float | None, doubtful: bool) -> str:
    """The area by points with half its interval of 95 %; ?: they leave none; *: they may not be drawn by chance."""
    if hectares is None:
        return ""
    mark = " *" if doubtful else ""
    return f"{hectares:,.2f} +-{'?' if ci95 is None else f'{ci95:,.2f}'}{mark}"


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
    if any(read_quality(run.directory) for run in shown):
        say("counts of pixels; --out areas.csv or --json gives what assessments estimate too")
    if len(shown) < len(runs):
        say(f"the last {len(shown)} of {len(runs)} runs; --out areas.csv or --json gives all")


def _cells(pixels: int, ha: float, share: float) -> tuple[str, str, str]:
    return f"{pixels:,}", f"{ha:,.2f}", f"{share:.1%}"
