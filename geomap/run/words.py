"""A request in words: the command that asks for the same maps, and what must lie at hand for it.

Files are named without their folders, which say nothing elsewhere; addresses come without what may be secret.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shapely.geometry import MultiPolygon, box

from geomap import legends
from geomap.composite.mask import DEFAULT_MASK
from geomap.encode.card import weight_names
from geomap.errors import LegendError
from geomap.legends import Legend
from geomap.points import PointsFile
from geomap.run.request import MIN_CLEAR_MONTHS, Request
from geomap.types import PLAIN, OwnGrid, Period

if TYPE_CHECKING:
    from geomap.run.relabel import LabelRequest

LONGEST_AREA: Final = 600
"""Most characters of an area in a command; a longer one is named as a file."""


@dataclass(frozen=True, slots=True)
class Words:
    """A command and what it needs besides geomap."""

    command: str = ""
    needs: tuple[str, ...] = ()  # sentences


def map_words(request: Request, asked: Mapping[str, Any], weights: str) -> Words:
    """The `geomap map` command of a request.

    Args:
        request: what to map.
        asked: the request as run.json keeps it.
        weights: name of the weights.
    """
    needs: list[str] = []
    words = ["geomap", "map", _area(request.area.geometry, needs), *_period(request.period)]
    words += [*_source(request, asked, needs), *_mask(request), *_labels(request.legends, needs)]
    if weights in weight_names():
        words += _given("--weights", weights, "default")
    else:
        words += ["--weights", weights]
        needs.append(f"The folder {weights} holds the weights.")
    least = min(MIN_CLEAR_MONTHS, request.period.months)
    words += _given("--min-clear-months", request.min_clear_months, least)
    words += _shared(request)
    if request.points is not None:
        points = PointsFile(request.points, str(request.column), request.points_crs, request.date_column)
        words += _taught(points, None, needs)
    words += _taught(None, request.learned, needs)
    words += [*_grid(request.grid, needs), *_given("--true-colour", request.true_colour, None)]
    words += [
        flag
        for flag, on in (
            ("--ndvi", request.ndvi),
            ("--save-composites", request.save_composites),
            ("--save-embeddings", request.save_embeddings),
            ("--no-report", not request.report),
        )
        if on
    ]
    return Words(shlex.join([*words, "--out", "maps"]), tuple(needs))


def label_words(request: LabelRequest) -> Words:
    """The `geomap label` command of a request; the store is named as DIR."""
    needs = ["DIR is the run that holds the embeddings."]
    words = ["geomap", "label", "DIR", *_labels(request.legends, needs), *_shared(request)]
    words += [*_taught(request.points, request.learned, needs), *_grid(request.grid, needs)]
    words += [*([] if request.report else ["--no-report"])]
    return Words(shlex.join([*words, "--out", "labels"]), tuple(needs))


def _area(geometry: MultiPolygon, needs: list[str]) -> str:
    if geometry.equals(box(*geometry.bounds)):
        return ",".join(map(repr, geometry.bounds))
    parts = list(geometry.geoms)
    text = str((parts[0] if len(parts) == 1 else geometry).wkt)
    if len(text) <= LONGEST_AREA:
        return text
    needs.append("area.geojson is the file of the area; its outline is too long for a command.")
    return "area.geojson"


def _period(period: Period) -> list[str]:
    if (period.month, period.months) == (1, 12):
        return ["--year", str(period.year)]
    return ["--start", period.month_names[0], *_given("--months", period.months, 12)]


def _source(request: Request, asked: Mapping[str, Any], needs: list[str]) -> Iterator[str]:
    """Where the composites come from, and which scenes are taken."""
    if request.composites is not None:
        needs.append("DIR is the run that saved the composites.")
        yield from ("--from-composites", "DIR")
        return
    name, _, digest = str(asked["stac"]).partition(" sha256:")
    if digest:
        needs.append(f"{name} is the item file whose sha256 is {digest}.")
    yield from ("--stac", name)
    yield from _given("--collection", request.collection, None)
    yield from _given("--max-cloud", request.max_cloud, 100)
    yield from _given("--offset", request.offset, "auto")
    yield from _each("--allow-host", request.allow_hosts)
    yield from _each("--exclude", request.exclude)
    yield from _given("--max-missed", round(100 * request.max_missed, 6), 10)
    if request.update:
        needs.append(f"DIR is the run of {request.update.period}.")
        yield from ("--update-from", "DIR")


def _mask(request: Request) -> Iterator[str]:
    mask = request.mask
    if mask.classes != DEFAULT_MASK.classes:
        yield from ("--mask-classes", ",".join(map(str, mask.classes)))
    yield from _given("--mask-open", mask.opening, DEFAULT_MASK.opening)
    yield from _given("--mask-dilate", mask.dilation, DEFAULT_MASK.dilation)


def _labels(asked: Sequence[Legend], needs: list[str]) -> Iterator[str]:
    builtin = set(legends.builtin_names())
    for legend in asked:
        if legend.name in builtin and legend == legends.load(legend.name):
            yield from ("--legend", legend.name)
        elif _is_typed(legend):
            yield from ("--classes", ", ".join(c.name for c in legend.classes))
        else:
            needs.append(f"{legend.name}.toml is the file of the legend {legend.name}.")
            yield from ("--legend", f"{legend.name}.toml")


def _is_typed(legend: Legend) -> bool:
    """Whether --classes makes this legend."""
    try:
        return legend == legends.typed(",".join(c.name for c in legend.classes))
    except LegendError:
        return False


def _taught(points: PointsFile | None, learned: str | None, needs: list[str]) -> Iterator[str]:
    """The points that teach the first legend, or what another run learned."""
    if points is not None:
        name = Path(points.file).name
        needs.append(f"{name} is the file of the points.")
        yield from ("--points", name, "--column", points.column)
        yield from _given("--points-crs", points.crs, None)
        yield from _given("--date-column", points.date_column, None)
    if learned is not None:
        name = Path(learned).name
        needs.append(f"{name} is what another run learned.")
        yield from ("--learned", name)


def _grid(grid: OwnGrid | None, needs: list[str]) -> Iterator[str]:
    """The grid on which the maps are written once more."""
    if grid is None:
        return
    if not grid.width:
        default = 10 if grid.unit == "m" else None
        yield from ("--crs", grid.crs, *_given("--resolution", grid.step_x, default))
        return
    corner = f"{grid.west!r}, {grid.north!r}"
    needs.append(
        f"grid.tif is a raster of {grid.width} x {grid.height} pixels of {grid.step_x!r} x {grid.step_y!r}, with its "
        f"north-west corner at {corner}, in {grid.code or 'the coordinate system of the maps on its grid'}."
    )
    yield from ("--like", "grid.tif")


def _shared(request: Request | LabelRequest) -> Iterator[str]:
    """What is asked of the labels alone, whether they come from scenes or from a store."""
    yield from _given("--min-confidence", round(100 * request.min_confidence, 6), 0)
    if request.within is not None:
        yield from ("--within", "=".join(request.within) or "none")
    yield from _each("--without", request.without)
    yield from _given("--name", request.name, None)
    finish = request.finish
    yield from _given("--smooth", finish.smooth, PLAIN.smooth)
    yield from _given("--min-area", finish.min_area, PLAIN.min_area)
    yield from _given("--layers", ",".join(finish.layers), "")
    flags = (("--others", request.others), ("--everywhere", request.everywhere), ("--vector", finish.vector))
    yield from (flag for flag, on in flags if on)


def _given(flag: str, value: Any, default: Any) -> tuple[str, ...]:
    """An option, unless it has its default."""
    if value == default:
        return ()
    return flag, f"{value:g}" if isinstance(value, float) else str(value)


def _each(flag: str, values: Iterable[str]) -> Iterator[str]:
    for value in values:
        yield from (flag, value)
