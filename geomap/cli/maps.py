"""Commands that make maps: map, demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from geomap.cli import options
from geomap.cli.console import errors_to_exit_code, log_to_stderr, out_console, progress_bars
from geomap.cli.options import CLEAR_CLASSES, Offset, mask_of, period_of, within_of
from geomap.cli.show import print_estimate, print_result, refuse_gaps
from geomap.errors import InputError
from geomap.run.request import Request
from geomap.run.workers import Resources

if TYPE_CHECKING:
    from geomap.types import Period


def map_command(
    area: options.Area,
    stac: options.Stac = "earth-search",
    year: options.Year = None,
    start: options.Start = None,
    months: options.Months = 12,
    legend: options.LegendOption = None,
    classes: options.Classes = None,
    out: Annotated[Path, typer.Option(help="Directory of the maps; the same command again resumes.")] = Path(
        "geomap-out"
    ),
    weights: options.Weights = "default",
    collection: options.Collection = None,
    max_cloud: options.MaxCloud = 100,
    min_clear_months: Annotated[
        int | None, typer.Option(min=1, max=12, help="Pixels with fewer clear months are not mapped. [default: 3]")
    ] = None,
    min_confidence: options.MinConfidence = 0,
    within: options.Within = None,
    save_composites: options.SaveComposites = False,
    save_embeddings: options.SaveEmbeddings = False,
    from_composites: options.FromComposites = None,
    update_from: options.UpdateFrom = None,
    mask_classes: options.MaskClasses = CLEAR_CLASSES,
    mask_open: options.MaskOpen = 0,
    mask_dilate: options.MaskDilate = 0,
    max_missed: options.MaxMissed = 10,
    deadline: options.Deadline = 120,
    offset: options.OffsetOption = Offset.auto,
    allow_host: options.AllowHost = None,
    device: options.Device = "auto",
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
    retry_quarantined: options.RetryQuarantined = False,
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

        chosen = options.legends_of(legend, classes)
        place, period, base = aoi.parse_area(area), _period(from_composites, year, start, months), within_of(within)
        mask = mask_of(mask_classes, mask_open, mask_dilate)
        from geomap.run import map  # torch and GDAL take seconds to import: only once the input is sound
        from geomap.run.update import earlier

        request = Request(
            area=place,
            period=period,
            stac=stac,
            legends=chosen,
            weights=weights,
            collection=collection,
            max_cloud=max_cloud,
            offset=offset.value,
            allow_hosts=tuple(allow_host or ()),
            min_clear_months=min(3, period.months) if min_clear_months is None else min_clear_months,
            min_confidence=min_confidence / 100,
            within=base,
            device=device,
            mask=mask,
            max_missed=max_missed / 100,
            deadline=deadline,
            save_composites=save_composites,
            save_embeddings=save_embeddings,
            composites=from_composites,
            update=earlier(update_from) if update_from else None,
        )
        with progress_bars() as progress:
            who = Resources(scheduler, workers)
            result = map.map_area(
                request, out, progress, print_estimate, resources=who, retry_quarantined=retry_quarantined
            )
        print_result(result)
        refuse_gaps([result])


def _period(composites: Path | None, year: int | None, start: str | None, months: int) -> Period:
    """The period asked for, or that of the composites, of which it may name no other. Raises InputError."""
    if composites is None:
        return period_of(year, start, months)
    from geomap.store.store import COMPOSITES, open_store

    saved = open_store(composites, COMPOSITES)
    if (year or start) and period_of(year, start, months) != saved.period:
        raise InputError(f"{saved.path} is of {saved.period}; leave --year, --start and --months out")
    return saved.period


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
        from geomap.demo import run_demo

        with progress_bars() as progress:
            result, agreements = run_demo(out, device, progress, print_estimate)
        print_result(result)
        table = Table("map", "class", "pixels", "mapped as such", title="Agreement with the simulated truth")
        for a in agreements:
            table.add_row(
                a.legend, a.class_name or "all", f"{a.pixels:,}", f"{a.share:.1%}", end_section=not a.class_name
            )
        out_console.print(table)
