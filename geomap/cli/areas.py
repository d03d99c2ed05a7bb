"""The command that lists areas of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from geomap.cli.console import out_console, progress_bars, say
from geomap.errors import InputError
from geomap.run.totals import read_totals


def areas_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Output directory of a finished run.")],
    zones: Annotated[
        str | None,
        typer.Option(metavar="FILE[:LAYER]", help="Polygons of your own (GPKG, GeoJSON, SHP): a table for each."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of the polygons' names; by default, their number.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a CSV, or JSON if FILE ends so, instead of a table.")
    ] = None,
) -> None:
    """The area of each class: of the whole map, or in polygons of your own.

    A pixel counts for a polygon if its centre lies in it. These are mapped areas: a map has errors, and a class that is
    mapped too often has too large an area.

    Example: `geomap areas brussels --zones districts.gpkg --column name --out districts.csv`
    """
    if out is not None and out.suffix not in (".csv", ".json"):
        raise InputError(f"--out {out} must end in .csv or .json")
    if zones is None:
        _whole(directory, column, out)
        return
    read_totals(directory)
    from geomap.run.zones import write_zones, zonal

    with progress_bars() as progress:
        found = zonal(directory, zones, column, progress)
    if out is not None:
        write_zones(out, found)
        say(f"{len(found):,} polygons in {out}")
    else:
        table = Table("zone", "map", "class", "pixels", "ha", "share")
        for zone in found:
            for row in zone.rows:
                cells = _cells(row["pixels"], row["ha"], row["share"])
                table.add_row(escape(zone.name), row["map"], escape(row["name"]), *cells)
        out_console.print(table)
    if empty := [zone.name for zone in found if not zone.rows]:
        named = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
        say(f"{len(empty):,} polygons hold no mapped pixel: {named}")


def _whole(directory: Path, column: str | None, out: Path | None) -> None:
    if column is not None or out is not None:
        raise InputError(f"--column and --out go with --zones; the areas of the whole map are in {directory}/areas.csv")
    table = Table("map", "class", "pixels", "ha", "share")
    for stem, rows in read_totals(directory).items():
        for row in rows:
            if row.pixels:
                table.add_row(stem, escape(row.name), *_cells(row.pixels, row.ha, row.share))
    out_console.print(table)


def _cells(pixels: int, ha: float, share: float) -> tuple[str, str, str]:
    return f"{pixels:,}", f"{ha:,.2f}", f"{share:.1%}"
