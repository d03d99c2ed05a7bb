"""Commands that make maps and check them: map, demo, verify."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from geomap.cli.console import err_console, errors_to_exit_code, log_to_stderr, out_console, progress_bars
from geomap.cli.show import print_estimate, print_result
from geomap.errors import GeomapError, InputError

if TYPE_CHECKING:
    from geomap.types import Period


class Offset(StrEnum):
    """What to do with scenes whose metadata do not tell their DN offset."""

    auto = "auto"
    applied = "applied"
    unapplied = "unapplied"


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
    log_to_stderr(verbose)
    with errors_to_exit_code():
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
        with progress_bars() as progress:
            result = run.map_area(request, out, progress, print_estimate)
        print_result(result)


def demo(
    out: Annotated[Path, typer.Option(help="Directory of the scenes and maps.")] = Path("geomap-demo"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Simulate a small landscape with known classes, map it, and compare: no network needed.

    The scenes are simulated, with clouds, shadows and a month without any; the maps are made by the same command that
    maps real scenes. Agreement with the simulated truth says that the pipeline works, not how well real places are
    mapped: for that see `geomap weights show default`.
    """
    log_to_stderr(False)
    with errors_to_exit_code():
        from geomap import demo as landscape

        with progress_bars() as progress:
            result, agreements = landscape.run_demo(out, device, progress, print_estimate)
        print_result(result)
        table = Table("map", "class", "pixels", "mapped as such", title="Agreement with the simulated truth")
        for a in agreements:
            table.add_row(
                a.legend, a.class_name or "all", f"{a.pixels:,}", f"{a.share:.1%}", end_section=not a.class_name
            )
        out_console.print(table)


def verify(directory: Annotated[Path, typer.Argument(metavar="DIR", help="Output directory of a run.")]) -> None:
    """Check every file of a finished run against its SHA256SUMS."""
    with errors_to_exit_code():
        from geomap import files

        if not directory.is_dir():
            raise InputError(f"no directory {directory}")
        problems = files.verify(directory)
        for problem in problems:
            err_console.print(problem, style="red", markup=False, highlight=False)
        if problems:
            raise GeomapError(f"{len(problems)} problems in {directory}; remove it and run its command again")
        out_console.print(f"{directory}: every file is as it was written")


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
