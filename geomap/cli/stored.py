"""Commands that use stored embeddings: label, similar."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomap import legends
from geomap.cli import options
from geomap.cli.console import log_to_stderr, progress_bars, starting
from geomap.cli.show import print_result, refuse_gaps, show_result
from geomap.errors import InputError
from geomap.run.keys import DEFAULT_LEGEND, RequestKeys
from geomap.run.request import class_of

Stored = Annotated[
    Path,
    typer.Argument(metavar="DIR|STORE", help="Output directory of `geomap map --save-embeddings`, or its store."),
]


@options.asking(
    "legends",
    "classes",
    "others",
    "min_confidence",
    "within",
    "without",
    "everywhere",
    "finish",
    "points",
    "grid",
    "outputs.report",
    "outputs.name",
)
def label_command(
    store: Stored,
    *,
    keys: RequestKeys,
    out: Annotated[Path, typer.Option(help="Directory of the maps.")] = Path("geomap-label"),
    weights: Annotated[
        str | None, typer.Option(help="Folder of the weights that made the embeddings, where they are not geomap's.")
    ] = None,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """Map other legends, or classes of your own, from stored embeddings.

    `geomap map --save-embeddings` keeps them. Takes seconds: no scene is read, no encoder runs. Writes the same files
    as `geomap map` over the pixels that the store holds. Without --legend and --classes, the legends are those of DIR.
    With --points, labelled points teach one of them; docs/points.md leads through it.

    Examples: `geomap label brussels --classes "allotment garden, park, sports field" --out brussels-green`

    `geomap label brussels --legend crops --points visited.gpkg --column crop --out brussels-learned`
    """
    log_to_stderr(verbose)
    chosen = keys.chosen() or (() if keys.points.learned else _those_of(store))
    base = None if keys.within is None else class_of(keys.within)
    points = options.checked_points(keys)
    with starting():
        from geomap.run import relabel
        from geomap.run.label_request import LabelRequest

    learned, report = keys.points.learned, keys.outputs.report
    with options.in_options():
        asked = LabelRequest(
            store,
            chosen,
            weights,
            keys.min_confidence / 100,
            base,
            keys.others,
            keys.without,
            keys.everywhere,
            keys.finish.finish,
            points,
            learned,
            report,
            keys.outputs.name,
            keys.grid.grid(),
        )
    with progress_bars() as progress:
        result = relabel.label_store(asked, out, progress)
    show_result(result, as_json)
    refuse_gaps([result])


def _those_of(store: Path) -> tuple[legends.Legend, ...]:
    """The legends that the run of a store was mapped with; land cover where that is not known."""
    from geomap.run.again import mapped_legends

    return mapped_legends(store) or (legends.load(DEFAULT_LEGEND),)


def similar_command(
    store: Stored,
    at: Annotated[str, typer.Option(metavar="LON,LAT", help="The place, in degrees: longitude first.")],
    out: Annotated[Path, typer.Option(help="Directory of the map.")] = Path("geomap-similar"),
    verbose: options.Verbose = False,
) -> None:
    """Map how much every stored pixel's year looks like that of one place.

    Writes similarity.tif: the cosine, 1 = alike.

    Example: `geomap similar brussels --at 4.42,50.86 --out like-this-field`
    """
    log_to_stderr(verbose)
    try:
        lon, lat = (float(part) for part in at.split(","))
    except ValueError as e:
        raise InputError(f"cannot read the place {at!r}; write --at longitude,latitude: --at 4.42,50.86") from e
    from geomap.run import relabel

    with progress_bars() as progress:
        result = relabel.map_similar(store, lon, lat, out, progress)
    print_result(result)
    refuse_gaps([result])
