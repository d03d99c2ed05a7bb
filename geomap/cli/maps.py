"""Commands that make maps and check them: map, demo, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from geomap.cli import options
from geomap.cli.console import err_console, errors_to_exit_code, log_to_stderr, out_console, progress_bars
from geomap.cli.options import Offset, period_of
from geomap.cli.show import print_estimate, print_result
from geomap.errors import GeomapError, InputError


def map_command(
    area: options.Area,
    stac: options.Stac = "earth-search",
    year: options.Year = None,
    start: options.Start = None,
    months: options.Months = 12,
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
    weights: options.Weights = "default",
    collection: options.Collection = None,
    max_cloud: options.MaxCloud = 100,
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
    offset: options.OffsetOption = Offset.auto,
    allow_host: options.AllowHost = None,
    device: options.Device = "auto",
    verbose: options.Verbose = False,
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
        place, period, base = aoi.parse_area(area), period_of(year, start, months), _within(within)
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


def _within(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    legend, sep, name = text.partition("=")
    if not (sep and legend.strip() and name.strip()):
        raise InputError(f"cannot read --within {text!r}; write LEGEND=CLASS, for example landcover=Cropland")
    return legend.strip(), name.strip()
