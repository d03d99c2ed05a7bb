"""Shows the result of a run on a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from geomap import files
from geomap.cli.console import number, out_console, say, say_json, tell, warn
from geomap.cli.learned import print_learned
from geomap.errors import NothingMappedError, QuarantineError, to_type
from geomap.run.account import summary
from geomap.run.directory import NOT_STORED
from geomap.run.record import read_record
from geomap.text import plural

if TYPE_CHECKING:
    from geomap.run import map, record
    from geomap.run.totals import Quality
    from geomap.write.layer import Layer, Statistics

HECTARES_PER_PIXEL = 0.01  # 10 m x 10 m
MANY_TILES = 5  # in quarantine; more are not named
MANY_CLASSES = 12  # rows of a summary; the rest is added up


def print_estimate(e: map.Estimate) -> None:
    """Print on stderr what a run will cost."""
    tiles = "1 tile" if e.tiles == 1 else f"{e.tiles} tiles"
    speed = "" if e.encode_seconds is None else f"; encoding takes about {duration(e.encode_seconds)}"
    warn(
        f"{tiles}, {e.pixels * HECTARES_PER_PIXEL / 100:,.2f} km2 ({e.pixels:,} pixels); {e.scenes} scenes "
        f"in {e.months} months, up to {decimal(e.read_bytes)} of pixels to read{speed}"
    )


def print_result(result: map.Result) -> None:
    """Classes by area, scores, and the paths of the maps."""
    _warn_of_reuse(result)
    for layer in result.layers:
        if layer.kind == "classes" and f"{layer.stem}_confidence" in result.statistics:  # not a map of changes
            out_console.print(_class_table(layer, result.statistics))
    table = Table("map", number("mean"), number("range"), title="Other maps")
    for layer in result.layers:
        s = result.statistics[layer.stem]
        if layer.kind not in ("classes", "colour") and s.mean is not None:
            unit = {"percent": " %", "count": " months"}.get(layer.kind, "")
            mean, low, top = (f"{v * layer.scale:.{1 if layer.scale == 1 else 2}f}" for v in _range(s))
            table.add_row(layer.stem, f"{mean}{unit}", f"{low} .. {top}{unit}")
    out_console.print(table)
    if result.update:
        _print_update(result, result.update)
    polygons = [result.directory / f"{layer.name}.gpkg" for layer in result.layers]  # of --vector
    for path in (*result.paths, *(path for path in polygons if path.is_file())):
        say(str(path))
    names = "a .qlr that opens all maps in QGIS, run.json, stac/ and SHA256SUMS"
    say(f"with a .qml style beside each map, {names} in {result.directory}")
    if result.account is not None:
        say(f"{summary(result.account)}; {to_type('explain', result.directory)} names those of the area and period")
    if bound := bound_by(result.seconds):
        say(bound)
    print_learned(result.directory, read_record(result.directory).request)
    if (result.directory / files.PAGE).is_file():
        say(f"to look at the maps: {to_type('view', result.directory)}")
    warn_of_holes(result)


def result_json(result: map.Result) -> dict[str, Any]:
    """A result as JSON: maps with areas by class or their range, scenes, what is missing, what --learned gave."""
    return {
        "directory": str(result.directory),
        "tiles": result.tiles,
        "resumed": result.resumed,
        "quarantined": dict(result.quarantined),
        "scenes_missed": result.missed,
        "maps": [_layer_json(layer, result) for layer in result.layers],
        "account": asdict(result.account) if result.account else None,
        "mapped": asdict(result.mapped) if result.mapped else None,
        "update": asdict(result.update) if result.update else None,
        "learned": read_record(result.directory).request.get("learned"),
        "seconds": {stage: round(value, 3) for stage, value in result.seconds.items()},
    }


def bound_by(seconds: Mapping[str, float]) -> str:
    """What took a run's time, in words: reading, where encoding waited for it, or encoding; empty if neither ran."""
    encode, wait = seconds.get("encode", 0.0), seconds.get("wait", 0.0)
    if not encode:
        return ""
    most = "reading" if wait > encode else "encoding"
    return f"bounded by {most}: {duration(encode)} of encoding, and {duration(wait)} in which it waited for pixels"


def _layer_json(layer: Layer, result: map.Result) -> dict[str, Any]:
    s = result.statistics[layer.stem]
    told: dict[str, Any] = {"layer": layer.stem, "name": layer.name, "title": layer.description, "kind": layer.kind}
    own = f"|_{re.escape(result.own)}" if result.own else ""
    zones = rf"{re.escape(layer.name)}(_\d{{5}}{own})?"
    told["files"] = [str(path) for path in result.paths if re.fullmatch(zones, path.stem)]
    told["pixels"] = s.valid
    if layer.kind == "classes":
        told["classes"] = [
            {"id": c.value, "name": c.name, "code": c.code, "colour": c.colour, "pixels": n,
             "ha": round(n * HECTARES_PER_PIXEL, 2), "share": round(n / s.valid, 6)}
            for c in layer.classes if (n := s.counts.get(c.value, 0))
        ]  # fmt: skip
    else:
        told |= {"mean": s.mean, "minimum": s.minimum, "maximum": s.maximum}
        told |= {"scale": layer.scale} if layer.scale != 1 else {}
    return told


def _range(s: Statistics) -> tuple[float, float, float]:
    """Mean, minimum and maximum of a map that holds a value."""
    return s.mean or 0.0, s.minimum or 0.0, s.maximum or 0.0


def show_result(result: map.Result, as_json: bool) -> None:
    """Print a result as tables, or as one JSON document with the warnings on stderr."""
    if as_json:
        _warn_of_reuse(result)
        warn_of_holes(result)
        say_json(result_json(result))
    else:
        print_result(result)


def _warn_of_reuse(result: map.Result) -> None:
    """Say on stderr what is of an earlier run."""
    if not result.seconds and result.renewed:
        warn(f"{result.directory}: {result.renewed}")
    elif not result.seconds:
        lacks = f", without {plural(result.missed, 'scene')} that could not be read" if result.missed else ""
        tried = "new scenes, and to try those again," if result.missed else "new scenes"
        note = f"was complete already and is left as it is{lacks}; for {tried} choose another --out (a job: --refresh)"
        warn(f"{result.directory} {note}")
    elif result.renewed:
        kept = f"; {result.resumed} of {result.tiles} tiles stay as they were" if result.resumed else ""
        warn(f"{result.directory}: {result.renewed}{kept}")
    elif result.resumed:
        warn(f"{result.resumed} of {result.tiles} tiles were finished by an earlier run")


def warn_of_holes(result: map.Result) -> None:
    """Say if scenes could not be read now; loudly if little of the area is mapped, or a map of classes is empty."""
    if result.missed and result.seconds:  # of a run that was complete, `_warn_of_reuse` tells
        scenes = "1 scene is" if result.missed == 1 else f"{result.missed} scenes are"
        note = f"{scenes} left out of some tile, missing or damaged; {to_type('explain', result.directory)} names them"
        note += ", and copies where there are some; to read them again choose another --out (a job: --refresh)"
        warn(f"warning: {note}", style="yellow")
    if result.mapped is not None and result.mapped.note:
        warn(f"WARNING: {result.directory}: {result.mapped.note}", style="bold red")
    elif result.mapped is not None:
        for layer in result.layers:
            if layer.of_legend and not result.statistics[layer.stem].valid:
                why = "it is mapped within a class of another legend that is nowhere; --within none maps it everywhere"
                warn(f"WARNING: {layer.name}.tif has no pixel: {why}", style="bold red")


def _print_update(result: map.Result, update: record.Update) -> None:
    """Print what was copied from an earlier run, and how much has changed since."""
    pixels = update.kept + update.encoded
    taken = f"{len(update.months)} months taken over from {update.since}"
    say(f"{taken}; {update.encoded:,} of {pixels:,} pixels encoded")
    for layer in result.layers:
        if f"{layer.stem}_to" in result.statistics:
            changed, mapped = (result.statistics[stem].valid for stem in (f"{layer.stem}_to", layer.stem))
            area = f"{changed * HECTARES_PER_PIXEL:,.2f} hectares ({changed / (mapped or 1):.1%})"
            say(f"{layer.stem}: {area} of another class than in {update.since}, as {layer.name}_changes.csv lists")


def refuse_gaps(results: Sequence[map.Result]) -> None:
    """Raise QuarantineError if maps lack tiles that failed twice, NothingMappedError if they hold nothing."""
    for result in results:
        if result.quarantined:
            lost = [*result.quarantined]
            named = ", ".join(lost[:MANY_TILES]) + (", ..." if len(lost) > MANY_TILES else "")
            lacks = f"{result.directory} lacks {len(lost)} of {result.tiles} tiles, nodata in the maps"
            if (why := result.quarantined[lost[0]]) == NOT_STORED:
                raise QuarantineError(
                    f"{lacks}, which are {why}: {named}; type the command that made the store once more, with "
                    "--retry-quarantined, and then this one, with another --out"
                )
            raise QuarantineError(
                f"{lacks}, which failed twice: {named}; the first: {why}; once that is mended, type the same command "
                "with --retry-quarantined"
            )
        if result.mapped is not None and not result.mapped.mapped:
            raise NothingMappedError(
                f"{result.directory}: {result.mapped.note}; the maps are written and hold nothing but nodata; "
                f"{to_type('explain', result.directory)} tells what became of each scene"
            )


def _class_table(layer: Layer, statistics: Mapping[str, Statistics]) -> Table:
    counts = statistics[layer.stem].counts
    total = sum(counts.values()) or 1
    confidence = statistics[f"{layer.stem}_confidence"].mean
    title = escape(layer.description) + ("" if confidence is None else f" (mean confidence {confidence:.0f} %)")
    table = Table(number("id"), "", "class", number("hectares"), number("percent"), title=title)
    table.min_width = min(len(title), out_console.width)  # or a short table breaks its title
    present = sorted((c for c in layer.classes if counts.get(c.value)), key=lambda c: -counts[c.value])
    shown = len(present) if len(present) == MANY_CLASSES + 1 else MANY_CLASSES  # a line for one would hide its name
    for c in present[:shown]:
        n = counts[c.value]
        row = (f"{n * HECTARES_PER_PIXEL:,.2f}", f"{n / total:.1%}")
        table.add_row(str(c.value), f"[on {c.colour}]  [/]", escape(c.name), *row)
    rest = sum(counts[c.value] for c in present[shown:])
    if rest:
        others = f"{len(present) - shown} more classes"
        table.add_row("", "", others, f"{rest * HECTARES_PER_PIXEL:,.2f}", f"{rest / total:.1%}")
    return table


def duration(seconds: float) -> str:
    """Seconds in s, min or h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def print_quality(found: Mapping[str, Quality]) -> None:
    """How good points found each map that was assessed."""
    for stem, quality in found.items():
        overall = quality.overall_accuracy
        interval = "?" if overall.ci95 is None else f"{overall.ci95:.2f}"
        drawn = "" if quality.probability_sample else ", which are not known to be drawn by chance"
        of = f" of {quality.part}" if quality.part else ""
        tell(
            f"{stem} was assessed with {quality.by}{drawn}: overall accuracy{of} {overall.value:.2f} +-{interval} "
            "(assessment.json)"
        )
        if quality.narrow:
            tell(f"its {quality.narrow}")
