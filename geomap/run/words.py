"""The command that asks for what run.json tells of a request, and what must lie at hand for it.

Files are named without their folders, which say nothing elsewhere; addresses come without what may be secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import shapely
from shapely.geometry import MultiPolygon, box

from geomap import legends
from geomap.composite.mask import DEFAULT_MASK
from geomap.encode.card import weight_names
from geomap.errors import LegendError, to_type
from geomap.legends import Legend
from geomap.run.keys import MIN_CLEAR_MONTHS, NONE, several
from geomap.types import PLAIN, OwnGrid, Period

LONGEST_AREA: Final = 600
"""Most characters of an area in a command; a longer one is named as a file."""


@dataclass(frozen=True, slots=True)
class Words:
    """A command and what it needs besides geomap."""

    command: str = ""
    needs: tuple[str, ...] = ()  # sentences


def command(told: Mapping[str, Any]) -> Words:
    """The command that asks for what run.json tells (again.words_of); none for what no command asks for by options."""
    needs: list[str] = []
    if told.get("command") == "map":
        words = ["map", _area(shapely.from_wkt(told["area"]), needs), *_period(Period.parse(told["period"]))]
        words += [*_source(told, needs), *_mask(told), *_labels(told, needs), *_weights(told["weights"], needs)]
        least = min(MIN_CLEAR_MONTHS, Period.parse(told["period"]).months)
        words += _given("--min-clear-months", told["min_clear_months"], least)
    elif told.get("command") == "label":
        needs.append("DIR is the run that holds the embeddings.")
        words = ["label", "DIR", *_labels(told, needs)]
    else:
        return Words()
    words += [*_shared(told), *_taught(told, needs), *_grid(told, needs), *_kept(told), "--out", f"{told['command']}s"]
    return Words(to_type(*words), tuple(needs))


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


def _source(told: Mapping[str, Any], needs: list[str]) -> Iterator[str]:
    """Where the composites come from, and which scenes are taken."""
    if "composites" in told:
        needs.append("DIR is the run that saved the composites.")
        yield from ("--from-composites", "DIR")
        return
    name, _, digest = told["stac"].partition(" sha256:")
    if digest:
        needs.append(f"{name} is the item file whose sha256 is {digest}.")
    yield from ("--stac", name)
    yield from _given("--collection", told.get("collection"), None)
    yield from _given("--max-cloud", told["max_cloud"], 100)
    yield from _given("--offset", told["offset"], "auto")
    yield from _each("--allow-host", told.get("allow_hosts", ()))
    yield from _each("--exclude", told.get("exclude", ()))
    yield from _given("--max-missed", round(100 * told["max_missed"], 6), 10)
    if "update" in told:
        needs.append(f"DIR is the run of {told['update']}.")
        yield from ("--update-from", "DIR")


def _mask(told: Mapping[str, Any]) -> Iterator[str]:
    mask, plain = told["mask"], DEFAULT_MASK
    if tuple(mask["classes"]) != plain.classes:
        yield from ("--mask-classes", ",".join(map(str, mask["classes"])))
    yield from _given("--mask-open", mask["opening"], plain.opening)
    yield from _given("--mask-dilate", mask["dilation"], plain.dilation)


def _labels(told: Mapping[str, Any], needs: list[str]) -> Iterator[str]:
    builtin = set(legends.builtin_names())
    for legend in (Legend(**fields) for fields in told["legends"]):
        if legend.name in builtin and legend == legends.load(legend.name):
            yield from ("--legend", legend.name)
        elif _is_typed(legend):
            yield from ("--classes", ", ".join(c.name for c in legend.classes))
        else:
            needs.append(f"{legend.name}.toml is the file of the legend {legend.name}.")
            yield from ("--legend", f"{legend.name}.toml")


def _weights(name: str, needs: list[str]) -> tuple[str, ...]:
    if name in weight_names():
        return _given("--weights", name, "default")
    needs.append(f"The folder {name} holds the weights.")
    return "--weights", name


def _is_typed(legend: Legend) -> bool:
    """Whether --classes makes this legend."""
    try:
        return legend == legends.typed(",".join(c.name for c in legend.classes))
    except LegendError:
        return False


def _taught(told: Mapping[str, Any], needs: list[str]) -> Iterator[str]:
    """The points that teach a legend, or what another run learned."""
    for name, flag, what in (
        ("points", "--points", "a file of points"),
        ("learned", "--learned", "what another run learned"),
    ):
        for file in several(told.get(name)):
            needs.append(f"{file} is {what}.")
            yield from (flag, file)
    for name, flag in (("column", "--column"), ("points_crs", "--points-crs"), ("date_column", "--date-column")):
        yield from _given(flag, told.get(name), None)


def _grid(told: Mapping[str, Any], needs: list[str]) -> Iterator[str]:
    """The grid on which the maps are written once more."""
    if "grid" not in told:
        return
    grid = OwnGrid(**told["grid"])
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


def _shared(told: Mapping[str, Any]) -> Iterator[str]:
    """What is asked of the labels alone, whether they come from scenes or from a store."""
    yield from _given("--min-confidence", round(100 * told["min_confidence"], 6), 0)
    if "within" in told:
        yield from ("--within", "=".join(told["within"]) or NONE)
    yield from _each("--without", told.get("without", ()))
    yield from _given("--name", told.get("name"), None)
    finish = told["finish"]
    yield from _given("--smooth", finish["smooth"], PLAIN.smooth)
    yield from _given("--min-area", finish["min_area"], PLAIN.min_area)
    yield from _given("--layers", ",".join(finish["layers"]) or NONE, ",".join(PLAIN.layers))
    flags = (("--others", told["others"]), ("--everywhere", told["everywhere"]), ("--vector", finish["vector"]))
    yield from (flag for flag, on in flags if on)


def _kept(told: Mapping[str, Any]) -> Iterator[str]:
    """What is written and kept beside the maps."""
    yield from _given("--true-colour", told.get("true_colour"), None)
    flags = (("--ndvi", "ndvi"), ("--save-composites", "save_composites"), ("--save-embeddings", "save_embeddings"))
    yield from (flag for flag, name in flags if told.get(name))
    if not told["report"]:
        yield "--no-report"


def _given(flag: str, value: Any, default: Any) -> tuple[str, ...]:
    """An option, unless it has its default."""
    if value == default:
        return ()
    return flag, f"{value:g}" if isinstance(value, float) else str(value)


def _each(flag: str, values: Iterable[str]) -> Iterator[str]:
    for value in values:
        yield from (flag, value)
