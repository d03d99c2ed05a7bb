"""A finished map against points: accuracies and class areas with intervals, kept beside the map."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from geomap import files, legends
from geomap.assess.class_map import ClassMap, blocks, class_at, classes_and_zones, confidence_at, find_map
from geomap.assess.draw import RESOLUTION, count
from geomap.assess.estimate import NORMAL_95, UNKNOWN, Estimate, Estimates, Sample, Trust, estimate, trust
from geomap.errors import InputError, to_type
from geomap.legends import Legend, LegendClass, name_key
from geomap.points.match import match
from geomap.points.pixels import in_pixels, pixels
from geomap.points.read import Points, read_points
from geomap.run import learned, record
from geomap.run.design import NOWHERE, AssessRequest, Design, Drawn, Labelled, design_of, even, reach, tell
from geomap.run.directory import holding
from geomap.run.record import Record
from geomap.run.steady import steady
from geomap.run.totals import ASSESSED, ESTIMATED, WHOLE, Places
from geomap.text import listed, shown
from geomap.write.areas import CSV as AREAS_CSV
from geomap.write.areas import JSON as AREAS
from geomap.write.areas import as_csv
from geomap.write.layer import UNCLASSIFIED
from geomap.write.report import assessed

JSON: Final = ASSESSED
CSV: Final = "assessment.csv"
_RENEWED: Final = (AREAS, AREAS_CSV, files.PAGE)
"""Files of a run that get the intervals."""
HECTARES: Final = RESOLUTION**2 / 10_000
FEW: Final = 50
"""Points of a mapped class below which intervals are called too narrow (simulated: docs/assessment.md)."""
_MOST_JSON: Final = 256 << 20
_MANY: Final = 5  # names in a note

SAMPLE: Final = "sample"
"""Key of the points by pixel, for estimates in polygons (run/zones.py); not on the page."""
MOST_POINTS: Final = 100_000
"""Most points that are kept so: 7 MB of JSON."""

BY_CHANCE: Final = 0.05
"""Share of points on pixels that the map learned from up to which these are left out; more are refused."""

LEARNED, REPEATED = -1, -2
"""Classes of those points, and of points on a pixel that counts already; 0 is that of points without a class."""


@dataclass(frozen=True, slots=True)
class Assessed:
    """A map's assessment."""

    of: ClassMap
    names: Mapping[int, str]  # id -> name, of the map's classes and of others that points have
    pixels: Mapping[int, int]  # id -> pixels of the map
    population: int  # pixels that the estimates are about
    polygons: int | None  # that were drawn, and whose pixels count; None: points were
    few: tuple[str, ...]  # classes with fewer than FEW points, or polygons
    estimates: Estimates
    trust: tuple[Trust, ...]  # how often it is right, by its confidence
    design: Design
    probability: bool  # whether the points were drawn by probability, as the file or the user says
    digest: str  # sha256 of the points
    notes: tuple[str, ...]  # what is assumed or was left out, one line each
    places: Places  # of the points, where estimates for parts of the map follow from them


def assess_map(directory: Path, asked: AssessRequest) -> Assessed:
    """Compare a run's map with labelled points; write assessment.json and .csv, and intervals into areas and page.

    The run's list of files (SHA256SUMS, and its seal in run.json) is renewed, so that the folder still verifies.

    Args:
        directory: output directory of a finished run.
        asked: the points and how they were drawn.

    Raises:
        InputError: no such map, points that cannot be read or used, that the map learned from, or that were drawn
            nobody knows how where a probability sample has assessed it; a damaged folder.
        BusyError: a run, or another assessment, is writing the directory.
        RenewedError: a run has written it since its map was found.
        ReadError, DiskFullError, OutputError: the map cannot be read, or the files cannot be written.
    """
    with steady(directory) as reading:
        of = find_map(directory, asked.legend)
    with holding(directory):
        reading.require()
        return _assess(directory, of, asked)


def _assess(directory: Path, of: ClassMap, asked: AssessRequest) -> Assessed:
    files.finish_added(directory)
    _require_whole(directory)
    recorded = record.read_record(directory)
    points = read_points(asked.points, asked.column, crs=asked.crs, every_pixel=True)
    names, reference, notes = _classes_of(points, of)
    if points.nowhere:
        notes.append(f"{points.nowhere} rows of the file have no place; left out, as if like the others")
    taught, told = _learned_from(directory, recorded.request, points, asked.allow_learned)
    again, repeated = _repeated(points, reference)
    reference[taught] = LEARNED
    reference[again] = REPEATED
    notes += [*told, *repeated]
    whole = count(blocks(of))
    mapped, zone = classes_and_zones(of, points.lonlat)
    labelled = Labelled(of, points, mapped, reference)
    notes += _foreign(names, labelled)
    drawn = design_of(labelled, asked, whole)
    if not drawn.known:
        _require_unknown(directory, of.stem, points.called)
    sample = drawn.sample
    sure = np.where(sample.mapped == legends.UNCLASSIFIED_ID, -1, confidence_at(of, points.lonlat, zone)[drawn.kept])
    present = sorted({*whole, *(int(r) for r in sample.reference)})
    found = _without_unseen(estimate(sample, present), drawn.classes)
    population, part = _population(sample, found, sum(whole.values()))
    few = _few(drawn, found, names)
    notes += [*part, *_elsewhere(directory, recorded, labelled, whole), *drawn.notes, *_notes(drawn, found, names, few)]
    made = Assessed(
        of,
        names,
        whole,
        population,
        _polygons(drawn),
        few,
        found,
        trust(sample, sure),
        drawn.design,
        drawn.known,
        points.digest,
        tuple(notes),
        _places(drawn, points.lonlat, zone, whole),
    )
    _write(directory, made)
    return made


def _polygons(drawn: Drawn) -> int | None:
    """How many polygons the points are the pixels of, if these were drawn; else None."""
    sample = drawn.sample
    return len(np.unique(sample.cluster[sample.mapped > 0])) if drawn.design == "cluster" else None


def _places(drawn: Drawn, lonlat: NDArray[np.float64], zone: NDArray[np.intp], whole: Mapping[int, int]) -> Places:
    """The pixels of the points on the map, if all pixels of a class were as likely to be drawn; else none.

    `lonlat` (n, 2) and `zone` (n,): of all points of the file.
    """
    here = zone[drawn.kept] > 0
    if not even(drawn, whole) or here.sum() > MOST_POINTS:
        return Places([], [], [], [])
    epsg, column, row = pixels(lonlat[drawn.kept][here], zone[drawn.kept][here]).T
    x, y = (RESOLUTION * at + RESOLUTION // 2 for at in (column, row))
    return Places(epsg.tolist(), x.tolist(), y.tolist(), drawn.sample.reference[here].tolist())


def _require_unknown(directory: Path, stem: str, called: str) -> None:
    """Raise InputError if a probability sample has assessed a map: points of unknown origin shall not replace it."""
    before = _read(directory / JSON).get(stem)
    if isinstance(before, dict) and before.get("probability_sample"):
        raise InputError(
            f"{stem} was assessed with {before.get('points')} points of a probability sample, and nobody knows how "
            f"those of {called} were drawn: if by chance, add --design random (or stratified, or cluster); to replace "
            f"the assessment all the same, remove {directory / JSON} first"
        )


def _population(sample: Sample, found: Estimates, mapped: int) -> tuple[int, list[str]]:
    """How many pixels the estimates are about, of those `mapped`, and what to say if it is a part of them."""
    sampled = sum(size for h, size in sample.sizes.items() if h not in found.empty)
    most = min(sampled, mapped)  # strata of another map may reach beyond this one
    reached, error = reach(sample)
    lists = "no estimated areas are listed beside those of the map"
    if reached + NORMAL_95 * error >= most:
        of = f"{most * HECTARES:,.2f} of the map's {mapped * HECTARES:,.2f} ha"
        return most, [] if most >= WHOLE * mapped else [f"WARNING: the figures are for {of}: {lists}"]
    part = (
        f"about {reached * HECTARES:,.0f} of {most * HECTARES:,.0f} ha of the map, as where it was drawn from another"
    )
    figures = (
        f"the figures are for that part, and {lists}" if reached < WHOLE * mapped else "the figures are for that part"
    )
    return round(reached), [f"WARNING: the sample reaches {part} one: {figures}"]


def _elsewhere(directory: Path, recorded: Record, labelled: Labelled, whole: Mapping[int, int]) -> Iterator[str]:
    """What to say of a map that is restricted to a class of another one: how much is in no figure."""
    within, of = recorded.request.get("within") or {}, labelled.of
    if of.stem not in within:
        return
    stem, _, number = within[of.stem].partition("=")
    base = find_map(directory, stem)
    name = base.names.get(int(number), number)
    while base.stem in within:
        base = find_map(directory, within[base.stem].partition("=")[0])
    mapped, total = sum(whole.values()) * HECTARES, recorded.maps[base.stem].valid * HECTARES
    known = (labelled.mapped == 0) & (labelled.reference > 0) & (labelled.reference <= legends.MAX_CLASSES)
    points = int((class_at(base, labelled.points.lonlat[known]) > 0).sum())
    lie = f"; points of its classes that lie there: {points:,}" if points else ""
    yield (
        f"{of.stem} is mapped within {name} alone ({mapped:,.1f} of {total:,.1f} ha): what lies elsewhere is in no "
        f"figure{lie}"
    )


# --- points


def _classes_of(points: Points, of: ClassMap) -> tuple[dict[int, str], NDArray[np.intp], list[str]]:
    """Names by id, (n,) ids of the points' classes (0: none), and what to say about them."""
    matched = match(points, _legend(of))
    if not matched.ids.any():
        known = listed([name for c, name in of.names.items() if c <= legends.MAX_CLASSES])
        digits = any(name.isdecimal() for name in matched.unknown)
        only = "numbers count as ids only where all classes are ids of the map; beside other words, write its names"
        hint = f" ({only}; empty cells are no class)" if digits else ""
        raise InputError(
            f"no class of {points.called} ({listed(matched.unknown)}) is one of map {of.stem}: {known}{hint}; "
            "choose another --legend or --column"
        )
    names, reference = dict(of.names), matched.ids.astype(np.intp)
    numbers = dict[str, int]()
    for name in matched.unknown:
        if name_key(name) == name_key(UNCLASSIFIED):
            continue  # nothing is known of the place
        number = numbers.setdefault(name_key(name), 1000 + len(numbers))
        names.setdefault(number, name)
        reference[[called == name for called in points.name]] = number
    notes = [line for line in matched.lines if ", by " in line]
    return names, reference, notes


def _foreign(names: Mapping[int, str], labelled: Labelled) -> list[str]:
    """What to say of points on the map whose class it does not have."""
    there = labelled.reference[labelled.mapped > 0]
    counts = {c: int((there == c).sum()) for c in names if c > legends.UNCLASSIFIED_ID}
    others = [f"{shown(names[c])} ({n})" for c, n in counts.items() if n]
    return [f"classes that the map does not have, so it is wrong there: {_some(others)}"] if others else []


def _legend(of: ClassMap) -> Legend:
    """The map's classes as a legend; those of a legend that comes with geomap bring their codes and synonyms."""
    known = {}
    if of.stem in legends.builtin_names():
        known = {(c.id, c.name): c for c in legends.load(of.stem).classes}
    classes = []
    for c, name in of.names.items():
        if c <= legends.MAX_CLASSES:
            plain = LegendClass(id=c, name=name, colour=of.colours[c], prompts=(name,))
            classes.append(known.get((c, name), plain))
    return Legend(name=of.stem, title=of.title, classes=tuple(classes))


def _learned_from(
    directory: Path, request: Mapping[str, Any], points: Points, allowed: bool
) -> tuple[NDArray[np.bool_], list[str]]:
    """(n,) points to leave out because the map learned from them, and what to say. Raises InputError if they are many.

    A sample of the map hits a few of them by chance. If they are `allowed`, none is left out. `request`: of run.json.
    """
    known = learned.learned_pixels(directory)
    if known is None:  # an older version kept no pixels where another run had learned the classes
        taken = request.get("learned", {})
        on = np.full(len(points), taken.get("moved", True) and taken.get("points") == points.digest)
    else:
        taught = {tuple(pixel) for pixel in known.tolist()}
        on = np.array([tuple(pixel) in taught for pixel in pixels(points.lonlat).tolist()], bool)
        on = np.isin(points.group, points.group[on])  # polygons whole: of large ones, some pixels were learned from
    same, none = int(on.sum()), np.zeros(len(points), bool)
    if not same:
        return none, []
    said = f"{same} of {len(points)} points lie on pixels that the map learned from"
    if allowed:
        return none, [f"WARNING: {said}: the accuracies are too high"]
    if same > BY_CHANCE * len(points):
        raise InputError(
            f"{said}, so they say nothing about the rest of it; give other points ({to_type('sample', directory)}), or "
            "add --allow-learned"
        )
    return on, [f"{said}; left out, as if like the others"]


def _repeated(points: Points, reference: NDArray[np.intp]) -> tuple[NDArray[np.bool_], list[str]]:
    """(n,) points to leave out since a pixel counts once, and not at all if two classes are given; and what to say.

    Polygons may overlap: pixels count in each of them.
    """
    lone = reference > 0 if points.polygon is None else (reference > 0) & ~points.polygon
    rows, out = np.flatnonzero(lone), np.zeros(len(points), bool)
    _, first, index, agreed = in_pixels(points.lonlat[rows], reference[rows])
    contrary, later = ~agreed[index], agreed[index]
    later[first] = False
    out[rows] = contrary | later
    notes = list[str]()
    tell(notes, later, "points lie on a pixel that counts already, with the same class; left out")
    tell(notes, contrary, "points contradict each other about the class of a pixel; left out")
    return out, notes


def _without_unseen(found: Estimates, classes: Mapping[int, int]) -> Estimates:
    """Estimates without the area and producer's accuracy of classes that are mapped in strata without points alone."""
    empty = {classes[h] for h in found.empty if h in classes}
    unseen = [c in empty and not n for c, n in zip(found.classes, found.counts.sum(axis=1), strict=True)]
    producers = tuple(None if gone else p for gone, p in zip(unseen, found.producers, strict=True))
    areas = tuple(UNKNOWN if gone else area for gone, area in zip(unseen, found.areas, strict=True))
    return replace(found, producers=producers, areas=areas)


def _notes(drawn: Drawn, found: Estimates, names: Mapping[int, str], few: Sequence[str]) -> list[str]:
    """What is assumed where a stratum or a class has few points."""
    sizes, unknown = drawn.sample.sizes, "nothing is known about it, and the estimates are for the map without it"
    total = sum(sizes.values())
    notes = [
        f"{_called(h, drawn, names)} ({sizes[h] * HECTARES:,.2f} ha, {sizes[h] / total:.1%}) has no point: {unknown}"
        for h in found.empty
    ]
    alone = "has one point: its distance from the map's estimate stands for its variance"
    notes += [f"{_called(h, drawn, names)} {alone}" for h in found.single]
    rows, columns = found.counts.sum(axis=1), found.counts.sum(axis=0)
    doubtful = sum(n for c, n in zip(found.classes, rows.tolist(), strict=True) if c == legends.UNCLASSIFIED_ID)
    if doubtful:
        notes.append(f"{doubtful} points lie on unclassified pixels, which count as wrong in the overall accuracy")
    real = [c != legends.UNCLASSIFIED_ID for c in found.classes]
    if few:
        units = "polygons" if drawn.design == "cluster" else "points"
        notes.append(f"fewer than {FEW} {units}, which makes intervals too narrow: {_some(few)}")
    sure = [
        names.get(c, str(c))
        for c, n, user, is_real in zip(found.classes, rows.tolist(), found.users, real, strict=True)
        if n and user is not None and user.error == 0 and is_real
    ]
    if sure:
        notes.append(
            f"all points right, or all wrong, which leaves no interval though the next might differ: {_some(sure)}"
        )
    never = [
        names.get(c, str(c))
        for c, n, area, is_real in zip(found.classes, columns.tolist(), found.areas, real, strict=True)
        if not n and area is not UNKNOWN and is_real
    ]
    if never:
        notes.append(f"the class of no point, so its area is estimated as 0, without an interval: {_some(never)}")
    return notes


def _few(drawn: Drawn, found: Estimates, names: Mapping[int, str]) -> tuple[str, ...]:
    """Names of the mapped classes with fewer than FEW points, or polygons, but some."""
    cluster, mapped = drawn.sample.cluster, drawn.sample.mapped
    few = (c for c in found.classes if 0 < len(np.unique(cluster[mapped == c])) < FEW)
    return tuple(names.get(c, str(c)) for c in few)


def _called(stratum: int, drawn: Drawn, names: Mapping[int, str]) -> str:
    """What to call a stratum: the one class that is mapped in it, or its number."""
    if stratum in drawn.classes:
        name = names.get(drawn.classes[stratum], str(drawn.classes[stratum]))
        several = list(drawn.classes.values()).count(drawn.classes[stratum]) > 1  # strata of another map
        return f"stratum {stratum} (mapped {name})" if several else name
    return "the part of the map in no stratum of the file" if stratum == NOWHERE else f"stratum {stratum}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return ", ".join(names[:_MANY]) + more


# --- files


def _require_whole(directory: Path) -> None:
    """Raise InputError if a listed file that is read here is not what was written: it would be listed anew.

    Without an assessment or areas (removed, or never made) the rest goes on.
    """
    sums, taught = files.sums(directory), (learned.FILE, learned.TENSORS, learned.TAUGHT)
    for name in (JSON, *_RENEWED, *taught):
        if name not in sums or not (name in taught or (directory / name).exists()):
            continue
        for line in files.problem(directory, name, sums[name]):
            anew = f"remove {directory / JSON}, and assess each map again"
            raise InputError(
                f"{directory}: {line}; {anew if name == JSON else to_type('verify', directory) + ' tells more'}"
            )


def _write(directory: Path, made: Assessed) -> None:
    """Write the assessment beside those of other maps, and list it. Raises as record.add_files."""
    sums = files.sums(directory)
    there = {name for name in (JSON, *_RENEWED) if name in sums and (directory / name).is_file()}
    before = _read(directory / JSON) if JSON in there else {}
    content = {**before, made.of.stem: as_json(made)}
    try:
        out = {JSON: files.json_bytes(content), CSV: _table(content)}
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise InputError(
            f"{directory / JSON} is of another version of geomap; remove it, and assess each map again"
        ) from e
    areas = _read(directory / AREAS) if AREAS in there else {}
    if isinstance(areas.get(made.of.stem), list):
        _add_intervals(areas[made.of.stem], made)
        out[AREAS] = files.json_bytes(areas)
        if AREAS_CSV in there:
            out[AREAS_CSV] = _with_intervals((directory / AREAS_CSV).read_bytes(), areas)
    if files.PAGE in there:
        told = {stem: {k: v for k, v in found.items() if k != SAMPLE} for stem, found in content.items()}
        out[files.PAGE] = assessed((directory / files.PAGE).read_bytes(), told)
    record.add_files(directory, out)


def as_json(made: Assessed) -> dict[str, Any]:
    """An assessment as plain data; accuracies and shares 0..1, areas in hectares."""
    found, hectares = made.estimates, made.population * HECTARES
    rows, columns = found.counts.sum(axis=1).tolist(), found.counts.sum(axis=0).tolist()
    classes = [
        {
            "id": c if c <= legends.UNCLASSIFIED_ID else None,  # None: a class of the points that the map lacks
            "name": made.names.get(c, str(c)),
            "mapped_px": made.pixels.get(c, 0),
            "mapped_ha": round(made.pixels.get(c, 0) * HECTARES, 2),
            "points_mapped": rows[i],
            "points_reference": columns[i],
            "users_accuracy": _numbers(found.users[i]),
            "producers_accuracy": _numbers(found.producers[i]),
            "area_share": _numbers(found.areas[i]),
            "area_ha": _numbers(_area(made, i), 2),
        }
        for i, c in enumerate(found.classes)
    ]
    return {
        "design": made.design,
        "probability_sample": made.probability,
        "points": int(found.counts.sum()),
        "polygons": made.polygons,
        "few": list(made.few),
        "points_sha256": made.digest,
        "area_ha": round(hectares, 2),
        "map_ha": round(sum(made.pixels.values()) * HECTARES, 2),
        "overall_accuracy": _numbers(found.overall),
        "reliability": [
            {
                "points": t.points,
                "confidence": round(t.confidence, 6),
                "right": _numbers(t.right),
                "area_share": round(t.share, 6),
            }
            for t in made.trust
        ],
        "calibration_error": round(calibration_error(made.trust), 6),
        "standard_errors_in_half_an_interval": round(found.quantile, 6),
        "classes": classes,
        "confusion_points": found.counts.tolist(),  # rows: map, columns: reference, in the order of classes
        "confusion_shares": [[round(v, 9) for v in row] for row in found.shares.tolist()],
        "notes": list(made.notes),
        SAMPLE: asdict(made.places),
    }


def calibration_error(found: Sequence[Trust]) -> float:
    """Expected calibration error: mean distance of confidence and share of right pixels, by area, 0..1."""
    return sum(t.share * abs(t.right.value - t.confidence) for t in found)


def _area(made: Assessed, i: int) -> Estimate:
    """The area of the i-th class in hectares."""
    share, hectares = made.estimates.areas[i], made.population * HECTARES
    return Estimate(share.value * hectares, share.error * hectares, share.ci95 * hectares)


def _numbers(e: Estimate | None, digits: int = 6) -> dict[str, float | None] | None:
    """An estimate as JSON, None if unknown; an interval of no width is none, since it stands for too few points."""
    if e is None or e.value != e.value:
        return None
    return {"value": round(e.value, digits), "ci95": round(e.ci95, digits) if e.error else None}


def _table(content: Mapping[str, Any]) -> bytes:
    """assessment.csv: a row for each map, and one for each of its classes with its row of the confusion matrix."""
    rows: list[dict[str, Any]] = []
    for stem, found in content.items():
        overall = found["overall_accuracy"]
        whole = {"map": stem, "class": "", "points_mapped": found["points"]}
        rows.append({**whole, "overall_accuracy": overall["value"], "overall_accuracy_ci95": overall["ci95"]})
        for c, counts in zip(found["classes"], found["confusion_points"], strict=True):
            row = {"map": stem, "id": c["id"], "class": c["name"]}
            row |= {key: c[key] for key in ("mapped_px", "mapped_ha", "points_mapped", "points_reference")}
            for key in ("users_accuracy", "producers_accuracy", "area_share", "area_ha"):
                row |= {key: (c[key] or {}).get("value"), f"{key}_ci95": (c[key] or {}).get("ci95")}
            row |= {f"points as {other['name']}": n for other, n in zip(found["classes"], counts, strict=True)}
            rows.append(row)
    first = ("map", "id", "class", "overall_accuracy", "overall_accuracy_ci95")
    fields = dict.fromkeys([*first, *(key for row in rows for key in row)])
    return as_csv(list(fields), rows)


def _add_intervals(entries: list[Any], made: Assessed) -> None:
    """Add the estimated area and half its interval, in hectares, to the entries of areas.json, and of which points.

    Of points that tell of a part of the map there is none: it would stand beside the pixels of the whole.
    """
    whole = made.population >= WHOLE * sum(made.pixels.values())
    place = {c: i for i, c in enumerate(made.estimates.classes)}
    for entry in entries:
        area = _numbers(_area(made, place[entry["id"]]), 2) if whole and entry.get("id") in place else None
        told = (area["value"], area["ci95"], made.probability) if area else (None, None, None)
        entry |= dict(zip(ESTIMATED, told, strict=True))


def _with_intervals(content: bytes, areas: Mapping[str, Any]) -> bytes:
    """areas.csv with the intervals of areas.json, by map and class id."""
    by_class = {(stem, str(e["id"])): e for stem, entries in areas.items() for e in entries}
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    for row in rows:
        entry = by_class.get((row.get("map", ""), row.get("id", "")), {})
        row |= {key: entry.get(key, "") for key in ESTIMATED}
    return as_csv([*rows[0]], rows) if rows else content


def _read(path: Path) -> dict[str, Any]:
    """JSON of an earlier assessment or of a run's areas; empty if there is none that can be read."""
    try:
        content = files.read_json(path, _MOST_JSON)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
