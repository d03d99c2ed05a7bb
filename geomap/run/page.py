"""What the report page of a run tells besides its maps: where, when, from which scenes, how good, how to cite it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, Final

from geomap import grid, legends
from geomap.encode.card import Card
from geomap.legends import Legend
from geomap.lonlat import Box
from geomap.run import history, imagery, pictures
from geomap.run.account import GAVE, summary
from geomap.run.learned import LearnedRecord, read_learned
from geomap.run.prepare import Product
from geomap.run.record import FILE, Record, UsedScene
from geomap.run.words import command
from geomap.store.store import Store
from geomap.write.areas import CSV as AREAS_CSV
from geomap.write.layer import Layer
from geomap.write.picture import write_picture
from geomap.write.report import Extras, Picture, write_report, zones_of
from geomap.write.stac import MapFile

HONEST: Final = (
    "These areas are counts of pixels. How wrong they are is not known for this place: only points that were looked at "
    "can tell (geomap sample, geomap assess)."
)
"""What is said beneath areas that were not assessed."""
ESTIMATED: Final = (
    "Hectares are counts of pixels. Estimates are from points that were looked at, with half their interval of 95 % "
    "after ± (? where the points leave none): these are the areas to quote."
)
"""What is said beneath areas that were assessed."""
NOT_BY_CHANCE: Final = (
    "Hectares are counts of pixels. Estimates are from points that are not known to be drawn by chance, with half "
    "their interval of 95 % after ±: they are areas of the map only if these are a random sample of it."
)
"""What is said beneath areas that were assessed with such points."""
OF_PART: Final = (
    "Hectares are counts of pixels. The points that were looked at tell of a part of the map, as is said below, so no "
    "estimates stand beside them."
)
"""What is said beneath areas that were assessed with points of less than 95 % of the map."""
TAUGHT: Final = "“{}” was learned from labelled points: {}"
"""What is said where points moved the classes: the legend, and what learned.json says."""
BY_WORDS: Final = "Points were given for “{}”, but it is mapped by its words alone: {}"
"""What is said where they moved none: the same two."""
TAKEN: Final = (
    "“{}” is mapped by the learned.json of another run: learned from labelled points, of this place or another, or by "
    "its words alone where the points did not beat them. That file tells which, and how well in cross-validation."
)
"""What is said of a legend that another run learned, which only its learned.json knows."""
NOT_ASSESSED: Final = "How good the map is, only a probability sample of it tells (geomap sample, geomap assess)."
"""What the page adds, until the map is assessed, of a legend that was learned from points or is one's own."""
CONFIDENCE: Final = (
    "Confidence says how clearly one class stands out among those of the legend. It does not say how likely the map is "
    "right at that place."
)
NOT_LISTED: Final = (".aux.xml", ".json")
"""Suffixes of files that the page does not list, but for the record of the run."""


def write_page(
    staging: Path,
    maps: Sequence[MapFile],
    product: Product,
    record: Record,
    sums: Mapping[str, str],
    composites: Store | None = None,
) -> None:
    """Write the report page of a run whose other files lie in `staging`.

    Args:
        staging: where the page goes.
        maps: all maps of the run.
        product: what the files say about how they were made.
        record: what run.json will hold.
        sums: by name, the sha256 of the files in `staging`.
        composites: the composites that the run keeps, if it does.

    Raises:
        DiskFullError, OutputError: the page cannot be written.
        ReadError: the composites are damaged.
    """
    maps, product = _asked_first(maps, product)
    seen = pictures.Seen()
    if composites is not None:
        tiles = [tile for tile in product.tiles if tile.name not in record.quarantined]
        seen = pictures.of_composites(composites, tiles, zones_of(maps))
    told = facts(staging, maps, product, record, sums)
    told["sky"] = told["sky"] or list(seen.sky)
    pictured = (*seen.pictures, *_imagery(maps, seen))
    extras = Extras(pictured, seen.curves, told, product.places, product.taught or "")
    write_report(staging, maps, record.maps, title(product), product.period.month_names, extras)


def _asked_first(maps: Sequence[MapFile], product: Product) -> tuple[list[MapFile], Product]:
    """The maps and the product with the legend first that was asked for first, before those within which it lies."""
    asked = product.told.get("legends") or ()
    first = asked[0]["name"] if asked else product.taught

    def later(layer: Layer) -> bool:
        return layer.stem != first and not layer.stem.startswith(f"{first}_")

    return sorted(maps, key=lambda m: later(m.layer)), replace(product, layers=tuple(sorted(product.layers, key=later)))


def _imagery(maps: Sequence[MapFile], seen: pictures.Seen) -> list[Picture]:
    """The maps in true colour as pictures of the page, but for months that it shows already."""
    zones, shown = zones_of(maps), {(p.epsg, p.month) for p in seen.pictures}
    found = [(m, imagery.month_of(m.layer)) for m in maps if m.layer.kind == "colour"]
    return [pictures.of_map(m, zones[m.grid.epsg], month) for m, month in found if (m.grid.epsg, month) not in shown]


def write_pictures(maps: Sequence[MapFile], product: Product, record: Record) -> list[Path]:
    """Write a picture of each map of classes or scores, but for maps of changes. Raises DiskFullError, OutputError."""
    period, names = product.period, product.period.month_names
    when = f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0]
    when = str(period.year) if (period.month, period.months) == (1, 12) else when
    shown = [m for m in maps if m.layer.kind == "score" or f"{m.layer.stem}_confidence" in record.maps]
    return [write_picture(m, record.maps[m.layer.stem], when) for m in shown]


def title(product: Product) -> str:
    """The heading of the page: the titles of the legends."""
    named = (layer for layer in product.layers if layer.kind in ("classes", "score", "likeness"))
    titles = list(dict.fromkeys(layer.legend.title if layer.legend else layer.description for layer in named)) or [
        "Map"
    ]
    return ", ".join(titles[:3]) + (f" and {len(titles) - 3} more" if len(titles) > 3 else "")


def facts(
    directory: Path, maps: Sequence[MapFile], product: Product, record: Record, sums: Mapping[str, str]
) -> dict[str, Any]:
    """The facts of a run, as JSON that the page takes."""
    words, learned = command(product.told), read_learned(directory)
    taught = learned.legend["name"] if learned else None
    return {
        "place": place(maps, record),
        "warning": record.mapped.note if record.mapped else "",
        "sky": list(record.mapped.sky) if record.mapped else [],
        "honest": HONEST,
        "estimated": ESTIMATED,
        "of_part": OF_PART,
        "not_by_chance": NOT_BY_CHANCE,
        "validation": validations(product, learned),
        "confidence": CONFIDENCE if any(layer.legend for layer in product.layers) else "",
        "trust": _trust(learned),
        "before": history.before(product.earlier, record, product.layers, taught),
        "limits": list(product.card.limits) if product.card else [],
        "cite": cite(product),
        "account": summary(record.account) if record.account else "",
        "scenes": [_scene(scene) for scene in record.scenes],
        "left_out": [[item.id, item.cause, item.detail] for item in record.left_out],
        "missed": [[m.scene, m.band, m.cause, m.detail] for m in record.missed],
        "quarantined": [list(entry) for entry in sorted(record.quarantined.items())],
        "command": words.command,
        "needs": " ".join(words.needs),
        "made": _made(product, record),
        "software": [list(entry) for entry in record.software.items()],
        "files": _files(directory, sums),
    }


def _trust(record: LearnedRecord | None) -> dict[str, Any] | None:
    """How often a legend was right at its points, by its confidence, as JSON; None if none was scored.

    By what was learned from other points, or by the words where these are `kept`.
    """
    if record is None or record.scores is None or not record.scores.reliability:
        return None
    scores = record.scores
    bins = [[trust.pixels, trust.confidence, trust.right] for trust in scores.reliability]
    about = {"title": record.legend["title"], "folds": scores.folds, "kept": not record.moved}
    return {**about, "error": scores.calibration, "bins": bins}


def place(maps: Sequence[MapFile], record: Record) -> str:
    """Where the maps lie: latitudes, longitudes and, where it is known, the area."""
    box = Box.union(grid.lonlat_box(m.grid) for m in {m.grid.epsg: m for m in maps}.values())
    west, south, east, north = astuple(box)
    said = f"{_degrees(south, 'N', 'S')} to {_degrees(north, 'N', 'S')}, {_degrees(west, 'E', 'W')} to "
    said += _degrees(east, "E", "W")
    pixels = record.mapped.pixels if record.mapped else 0
    return said + (f" ({pixels / 1e4:,.1f} km²)" if pixels else "")  # 10 m pixels: 10,000 a square kilometre


def _degrees(value: float, positive: str, negative: str) -> str:
    return f"{abs(value):.2f}° {positive if value >= 0 else negative}"


def validations(product: Product, learned: LearnedRecord | None) -> list[dict[str, str]]:
    """How each legend was validated: its map's `stem`, what the page `says`, and what is `open` until it is assessed.

    `learned`: what the run learned from points of its own.
    """
    asked = {layer.legend.name: layer.legend for layer in product.layers if layer.legend is not None}
    told = []
    for legend in asked.values():
        taught = legend.name == product.taught
        says = _taught(legend, product.card, learned) if taught else validation(legend, product.card)
        unknown = (taught and (learned is None or learned.moved)) or not _is_builtin(legend)
        told.append({"stem": legend.name, "says": says, "open": NOT_ASSESSED if unknown else ""})
    return told


def _taught(legend: Legend, card: Card | None, learned: LearnedRecord | None) -> str:
    """How a legend that points were given for was validated."""
    if learned is None:
        return TAKEN.format(legend.title)
    if learned.moved:
        return TAUGHT.format(legend.title, learned.says)
    return f"{BY_WORDS.format(legend.title, learned.says)} {validation(legend, card)}"


def validation(legend: Legend, card: Card | None) -> str:
    """How a legend was compared with the ground: the card's figures, in each place by an encoder without it."""
    name = f"“{legend.title}”"
    if not _is_builtin(legend):
        return f"{name} has classes of your own: no figures of other places tell how well they are mapped."
    measured = dict(_measured(legend.name, card.metrics if card else {}))
    if not measured:
        return f"{name} was not validated: these weights were never compared with measurements of it."
    shares = (f"{100 * share:.0f} % of {samples:,} samples in {where}" for where, (share, samples) in measured.items())
    said = ", ".join(shares)
    by = "in each place by an encoder trained without it; these weights were trained on all of them"
    return f"{name} was right for {said}: {by}. Another place can differ as much."


def _is_builtin(legend: Legend) -> bool:
    """Whether a legend comes with the package, whole or without some classes."""
    if legend.name not in legends.builtin_names():
        return False
    whole = legends.load(legend.name)
    return legend == whole.without(frozenset(c.id for c in whole.classes) - {c.id for c in legend.classes})


def _measured(legend: str, metrics: Mapping[str, Any]) -> Iterable[tuple[str, tuple[float, int]]]:
    """(place, (accuracy, samples)) of a card's figures, as far as they have the form that this program writes."""
    left_out = metrics.get("left_out")
    for where, by_legend in left_out.items() if isinstance(left_out, dict) else ():
        found = by_legend.get(legend) if isinstance(by_legend, dict) else None
        if isinstance(found, dict) and {"accuracy", "samples"} <= found.keys():
            yield " ".join(str(where).split("_")).title(), (float(found["accuracy"]), int(found["samples"]))


def cite(product: Product) -> list[str]:
    """Lines that name the sources, as their licences ask."""
    years = sorted({year for year, _ in product.period.year_months})
    when = f"{years[0]}" if len(years) == 1 else f"{years[0]} and {years[-1]}"
    lines = [f"Contains modified Copernicus Sentinel data {when}."]
    if product.card:
        card = product.card
        lines.append(f"Weights: {card.title} ({card.name}, version {card.version}, {card.licence}).")
    return lines


def _scene(scene: UsedScene) -> dict[str, Any]:
    offsets = "; ".join(f"{o.dn} ({o.reason})" for o in scene.offsets)
    used = scene.fate.use if not scene.fate.why else f"{scene.fate.use}: {scene.fate.why}"
    return {
        "id": scene.id, "time": scene.time, "month": scene.time[:7], "platform": scene.platform,
        "baseline": scene.baseline, "offset": offsets, "use": used, "clear": any(g in scene.fate.tiles for g in GAVE),
    }  # fmt: skip


def _made(product: Product, record: Record) -> list[list[str]]:
    """Names and digests of what the maps were made from."""
    made = [
        ["Method", product.lineage],
        ["Weights", f"{product.weights}, sha256 {product.weights_sha256}"],
        *([f"Class vectors of {name}", f"sha256 {digest}"] for name, digest in sorted(product.vectors.items())),
    ]
    asked = record.request
    made += [[key.capitalize(), str(asked[key])] for key in ("period", "device", "composites") if key in asked]
    if record.mapped:
        made.append(["Mapped", f"{record.mapped.mapped:,} of {record.mapped.pixels:,} pixels of the area"])
    return made


def _files(directory: Path, sums: Mapping[str, str]) -> list[list[Any]]:
    """[name, bytes, sha256] of a run's files; stores are one line, without sha256.

    The record of the run is written last, and `geomap assess` writes areas.csv again: their bytes are not known yet.
    """
    found: dict[str, tuple[int | None, str]] = {}
    for name in sorted(sums):
        if name.endswith(NOT_LISTED):
            continue
        top = name.partition("/")[0]
        size = (directory / name).stat().st_size
        if top == name:
            found[name] = (None, "") if name == AREAS_CSV else (size, sums[name])
        else:
            found[f"{top}/"] = ((found.get(f"{top}/", (0, ""))[0] or 0) + size, "")
    return [*([name, *told] for name, told in found.items()), [FILE, None, ""], ["stac/collection.json", None, ""]]
