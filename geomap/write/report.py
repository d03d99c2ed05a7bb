"""The report page of a run: one HTML file with its maps in it, which needs no server, no network and no library.

The pixels travel in the page as zlib streams in base64, which the browser inflates and colours, so what it shows and
adds up are the maps' own values. A content security policy allows the page's own script and style and nothing else. All
names travel as JSON and are shown as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.warp import transform
from rasterio.windows import Window
from scipy.ndimage import maximum_filter, minimum_filter

from geomap import files
from geomap.grid import zone_epsg
from geomap.write.changes import transitions_np
from geomap.write.layer import Layer, Statistics
from geomap.write.picture import RAMP
from geomap.write.stac import MapFile

MOST_PIXELS: Final = 16_000_000
"""Most pixels of a map in the page; larger maps are shown from their overviews (classes: the commonest of a block).

A canvas of 16.7 million pixels is the largest that Safari on a telephone draws."""
MOST_SIDE: Final = 16_000
"""Most pixels per side; browsers draw no canvas beyond 16,384."""
STEPS: Final = 254
"""Steps in which a score or likeness travels in one byte; 255 is nodata."""
PLACES: Final = 20
"""Places to look at first."""
APART: Final = 20
"""Least distance of two such places, in pixels along either axis: 200 m, another field in most landscapes."""
LEAST_SURE: Final = (
    "Places where “{}” is least sure, class by class and apart from each other. They show where it may fail; "
    "they are no sample from which accuracy can be estimated."
)
WANTED: Final = (
    "Places where more points would help {} most, of places.gpkg: by their own pixels, before any smoothing, they are "
    "uncertain or unlike the points so far. They are no sample from which accuracy can be estimated."
)
_LEAST_SURE: Final = 4096
"""Pixels of each class, the least sure ones, among which places are chosen."""
_DATA: Final = re.compile(rb'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
_ROWS: Final = 512
"""Rows read at a time where a whole map is counted: the height of its blocks."""


@dataclass(frozen=True, slots=True)
class Zone:
    """The pixels of one UTM zone as the page shows them."""

    epsg: int
    west: int
    north: int
    width: int  # of the page's pixels
    height: int
    metres: int  # of the page's pixels
    pixel: int  # metres of the map's own pixels
    reduced: int  # the map's pixels per side of one of the page's


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture over a zone, for example in true colour, as JPEG."""

    stem: str
    title: str
    month: str  # as 2023-06
    epsg: int
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class Curves:
    """The greenness (NDVI) of a zone's pixels by month, one of `step` x `step` of the page's pixels.

    `codes` (T, rows, columns) uint8: 0.01 a step from -0.25 on, 255 where unknown.
    """

    epsg: int
    step: int
    codes: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Extras:
    """What the page shows besides the maps."""

    pictures: Sequence[Picture] = ()
    curves: Sequence[Curves] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # JSON; what the maps were made from
    wanted: Sequence[Mapping[str, Any]] = ()  # `lon`, `lat` where points would help a legend that was learned most
    taught: str = ""  # that legend


def write_report(
    directory: Path,
    maps: Sequence[MapFile],
    statistics: Mapping[str, Statistics],
    title: str,
    months: Sequence[str],
    extras: Extras,
) -> Path:
    """Write the page of the maps in `directory`: index.html. Its bytes depend on the arguments and the maps alone.

    Args:
        directory: holds the finished maps.
        maps: all maps; those of one zone share one grid. Those with named bands are not shown.
        statistics: by layer stem, over all zones.
        title: heading of the page.
        months: the months mapped, as "2023-04".
        extras: pictures, curves and facts.

    Raises:
        DiskFullError, OutputError: as in files.write_bytes.
    """
    maps = [m for m in maps if not m.layer.bands]
    zones = zones_of(maps)
    embedded = [_packed(f"{m.layer.stem}-{m.grid.epsg}", _shown(m, zones[m.grid.epsg].reduced)) for m in maps]
    embedded += [_packed(f"ndvi-{c.epsg}", c.codes) for c in extras.curves]
    embedded += [_embedded(f"{p.stem}-{p.epsg}", "image/jpeg", p.jpeg) for p in extras.pictures]
    layers = list({m.layer.stem: m.layer for m in maps}.values())
    told = [_told(layer, maps, statistics) for layer in sorted(layers, key=_rank)]
    for picture in extras.pictures:
        if picture.stem not in {entry["stem"] for entry in told}:
            told.append({"stem": picture.stem, "title": picture.title, "month": picture.month, "kind": "picture"})
    content = {
        "pixel_m2": maps[0].grid.resolution ** 2,
        "months": list(months),
        "ramp": RAMP,
        "zones": [_described(zone, extras.curves) for zone in zones.values()],
        "maps": told,
        **_looked_at(extras, told, zones, maps),
        "changes": _changes(maps),
        "assessed": {},
        "facts": extras.facts,
    }
    path = directory / files.PAGE
    files.write_bytes(path, page(title, content, embedded))
    return path


def page(title: str, content: Any, embedded: Sequence[str] = ()) -> bytes:
    """The page: the template with its style and script, the content as JSON, and the pixels as elements."""
    style, script = _template("report.css"), _template("report.js")
    parts = {
        "POLICY": f"default-src 'none'; script-src 'sha256-{_digest(script)}'; style-src 'sha256-{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'",
        "TITLE": html.escape(title),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": in_script(content),
        "RASTERS": "\n".join(embedded),
    }
    made = re.sub(r"\{\{([A-Z]+)\}\}", lambda found: parts[found[1]], _template("report.html"))
    return made.encode("utf-8", "backslashreplace")


def in_script(content: Any) -> str:
    """JSON that can stand in a script element: ASCII, without the characters that could end it or begin markup."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def assessed(content: bytes, assessments: Mapping[str, Any]) -> bytes:
    """A page with other assessments.

    Args:
        content: a page.
        assessments: by map stem, as `geomap assess` writes them to assessment.json.

    Returns:
        The page, which shows them; the content as it is if it is no page of this form.
    """
    found = _DATA.search(content)
    try:
        told = json.loads(found[1]) if found else None
    except ValueError:
        return content
    if found is None or not isinstance(told, dict):
        return content
    return content[: found.start(1)] + in_script({**told, "assessed": assessments}).encode() + content[found.end(1) :]


def joint(ids: NDArray[np.uint8], confidence: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(256, 101) pixels by class id and confidence in percent; pixels without a confidence are left out."""
    known = confidence <= 100
    codes = ids[known].astype(np.intp) * 101 + confidence[known]
    return np.bincount(codes, minlength=256 * 101).reshape(256, 101)


def places(ids: NDArray[np.uint8], confidence: NDArray[np.uint8], most: int = PLACES) -> list[tuple[int, int]]:
    """Places where a map is least sure, class by class: (row, column), the largest class first, then in turn.

    Args:
        ids: (y, x) classes, 0 nodata.
        confidence: (y, x) percent, 255 nodata.
        most: number of places.

    Returns:
        Pixels whose eight neighbours have their class, at least APART pixels from each other along one axis.
    """
    inner = (minimum_filter(ids, 3) == maximum_filter(ids, 3)) & (ids > 0) & (confidence <= 100)
    counts = np.bincount(ids[inner], minlength=256)
    classes = [int(c) for c in np.argsort(-counts, kind="stable") if counts[c]]
    queues = [_least_sure(inner & (ids == c), confidence) for c in classes]
    chosen: list[tuple[int, int]] = []
    while queues and len(chosen) < most:
        queues = [queue for queue in queues if len(chosen) >= most or _take(queue, chosen)]
    return chosen


def _least_sure(where: NDArray[np.bool_], confidence: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    flat = np.flatnonzero(where)
    order = np.argsort(confidence.ravel()[flat], kind="stable")[:_LEAST_SURE]
    rows, columns = np.unravel_index(flat[order], confidence.shape)
    return iter(list(zip(rows.tolist(), columns.tolist(), strict=True)))


def _take(queue: Iterator[tuple[int, int]], chosen: list[tuple[int, int]]) -> bool:
    """Append the queue's next place that is far enough from those chosen; False if there is none."""
    for row, column in queue:
        if all(abs(row - r) >= APART or abs(column - c) >= APART for r, c in chosen):
            chosen.append((row, column))
            return True
    return False


def quantised(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Scores in STEPS steps from `low` to `high`, 255 where they are NaN."""
    steps = np.round((np.nan_to_num(values, nan=low) - low) * (STEPS / (high - low)))
    return np.where(np.isnan(values), 255, np.clip(steps, 0, STEPS)).astype(np.uint8)


def reduction(width: int, height: int, overviews: Sequence[int]) -> int:
    """By how much a map is reduced: 1, or the least factor of its overviews that the page can hold."""
    for factor in (1, *overviews):
        wide, high = math.ceil(width / factor), math.ceil(height / factor)
        if wide * high <= MOST_PIXELS and max(wide, high) <= MOST_SIDE:
            return factor
    return overviews[-1] if overviews else 1


def zones_of(maps: Sequence[MapFile]) -> dict[int, Zone]:
    """By EPSG code, the pixels of the page; its maps are finished files."""
    zones: dict[int, Zone] = {}
    for m in maps:
        if m.grid.epsg not in zones:
            g = m.grid
            with rasterio.open(m.path.absolute(), driver="GTiff") as source:
                factor = reduction(g.width, g.height, source.overviews(1))
            wide, high = math.ceil(g.width / factor), math.ceil(g.height / factor)
            zones[g.epsg] = Zone(g.epsg, g.west, g.north, wide, high, g.resolution * factor, g.resolution, factor)
    return zones


def _shown(m: MapFile, reduced: int) -> NDArray[np.uint8]:
    """A map's pixels as bytes, from its overviews where they are reduced."""
    level = {} if reduced == 1 else {"overview_level": reduced.bit_length() - 2}  # the overviews are 2, 4, 8 ...
    with rasterio.open(m.path.absolute(), driver="GTiff", **level) as source:
        pixels = source.read(1)
    return pixels if m.layer.dtype == "uint8" else quantised(pixels, *m.layer.range)


def _described(zone: Zone, curves: Sequence[Curves]) -> dict[str, Any]:
    described = asdict(zone)
    for c in curves:
        if c.epsg == zone.epsg:
            _, rows, columns = c.codes.shape
            described["ndvi"] = {"step": c.step, "width": columns, "height": rows}
    return described


def _rank(layer: Layer) -> int:
    """Maps of classes and scores first, then what belongs to them."""
    return {"classes": 0, "score": 0, "likeness": 1, "percent": 2, "count": 3}[layer.kind]


def _told(layer: Layer, maps: Sequence[MapFile], statistics: Mapping[str, Statistics]) -> dict[str, Any]:
    """What the page is told of a layer, as JSON."""
    found = statistics[layer.stem]
    told: dict[str, Any] = {
        "stem": layer.stem, "title": layer.description, "kind": layer.kind, "range": list(layer.range),
        "mean": found.mean, "low": found.minimum, "top": found.maximum,
    }  # fmt: skip
    if layer.dtype != "uint8":
        told["steps"] = STEPS
    if layer.kind != "classes":
        return told
    sure = f"{layer.stem}_confidence"
    counted = _counted(layer.stem, sure, maps) if sure in statistics else None
    codes = {c.id: c.code for c in layer.legend.classes} if layer.legend else {}
    present = [c for c in layer.classes if found.counts.get(c.value)]
    told["confidence"] = sure if counted is not None else None
    told["known"] = [{"id": c.value, "name": c.name} for c in layer.classes]
    told["classes"] = [
        {"id": c.value, "name": c.name, "colour": c.colour, "pixels": found.counts[c.value], "code": codes.get(c.value)}
        for c in sorted(present, key=lambda c: (-found.counts[c.value], c.value))
    ]
    told["table"] = {
        c.value: [found.counts[c.value]] if counted is None else counted[c.value].tolist() for c in present
    }
    return told


def _counted(stem: str, confidence: str, maps: Sequence[MapFile]) -> NDArray[np.int64]:
    """(256, 101) pixels by class and confidence over all zones, from the whole maps."""
    return sum((joint(ids, sure) for ids, sure in _both(stem, confidence, maps)), np.zeros((256, 101), np.int64))


def _both(one: str, other: str, maps: Sequence[MapFile]) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """The pixels of two maps over all zones, some rows at a time."""
    by_zone = {(m.layer.stem, m.grid.epsg): m for m in maps}
    for m in (m for m in maps if m.layer.stem == one):
        beside = by_zone[other, m.grid.epsg]
        with (
            rasterio.open(m.path.absolute(), driver="GTiff") as first,
            rasterio.open(beside.path.absolute(), driver="GTiff") as second,
        ):
            for top in range(0, m.grid.height, _ROWS):
                window = Window(0, top, m.grid.width, min(_ROWS, m.grid.height - top))
                yield first.read(1, window=window), second.read(1, window=window)


def _changes(maps: Sequence[MapFile]) -> list[dict[str, Any]]:
    """For each map of changes, [class before, class now, pixels], most first; as JSON."""
    layers = {m.layer.stem: m.layer for m in maps}
    made = []
    for stem, layer in layers.items():
        before, now = f"{stem}_from", f"{stem}_to"
        if before in layers and now in layers:
            counts = sum((transitions_np(a, b) for a, b in _both(before, now, maps)), np.zeros((256, 256), np.int64))
            names = {c.value: c.name for c in layer.classes}
            pairs = sorted(np.argwhere(counts).tolist(), key=lambda pair: -counts[tuple(pair)])
            rows = [[names.get(a, ""), names.get(b, ""), int(counts[a, b])] for a, b in pairs]
            made.append({"title": layer.description, "rows": rows})
    return made


def _looked_at(
    extras: Extras, told: Sequence[Mapping[str, Any]], zones: Mapping[int, Zone], maps: Sequence[MapFile]
) -> dict[str, Any]:
    """The places to look at first, and what they are: where points would help, or of the first map of classes."""
    if extras.wanted:
        return {"places": _wanted(extras, zones, maps), "places_are": WANTED.format(extras.taught)}
    if (first := next((entry for entry in told if entry.get("confidence")), None)) is None:
        return {"places": [], "places_are": ""}
    return {"places": _places(first["stem"], zones, maps), "places_are": LEAST_SURE.format(first["title"])}


def _places(stem: str, zones: Mapping[int, Zone], maps: Sequence[MapFile]) -> list[dict[str, Any]]:
    """The places where a map of classes is least sure, over all zones; as JSON."""
    made: list[dict[str, Any]] = []
    for zone in zones.values():
        seen = _Seen.of(stem, zone, maps)
        for row, column in places(seen.ids, seen.sure, math.ceil(PLACES / len(zones))):
            east, north = zone.west + (column + 0.5) * zone.metres, zone.north - (row + 0.5) * zone.metres
            (lon,), (lat,) = transform(f"EPSG:{zone.epsg}", "EPSG:4326", [east], [north])
            made.append(seen.place(lon, lat, row, column))
    return made


def _wanted(extras: Extras, zones: Mapping[int, Zone], maps: Sequence[MapFile]) -> list[dict[str, Any]]:
    """The places where points would help most, in their order, with what the map has there; as JSON.

    Those that the map leaves out, smoothed as it is, are left out.
    """
    seen = {epsg: _Seen.of(extras.taught, zone, maps) for epsg, zone in zones.items()}
    made = []
    for lon, lat in ((wanted["lon"], wanted["lat"]) for wanted in extras.wanted):
        epsg = int(zone_epsg(np.array(lon), np.array(lat)))
        (east,), (north,) = transform("EPSG:4326", f"EPSG:{epsg}", [lon], [lat])
        zone = zones[epsg]
        row, column = int((zone.north - north) // zone.metres), int((east - zone.west) // zone.metres)
        if seen[epsg].covers(east, north):
            made.append(seen[epsg].place(lon, lat, row, column))
    return made


@dataclass(frozen=True, slots=True)
class _Seen:
    """A class map and its confidence in a zone, as the page shows them."""

    map: MapFile
    zone: Zone
    ids: NDArray[np.uint8]  # (y, x)
    sure: NDArray[np.uint8]  # (y, x) percent

    @classmethod
    def of(cls, stem: str, zone: Zone, maps: Sequence[MapFile]) -> _Seen:
        by_stem = {m.layer.stem: m for m in maps if m.grid.epsg == zone.epsg}
        ids, sure = (_shown(by_stem[name], zone.reduced) for name in (stem, f"{stem}_confidence"))
        return cls(by_stem[stem], zone, ids, sure)

    def covers(self, east: float, north: float) -> bool:
        """Whether the map itself, not reduced, has a class at a place in its coordinate system."""
        with rasterio.open(self.map.path.absolute(), driver="GTiff", sharing=False) as source:
            return bool(next(source.sample([(east, north)]))[0])

    def place(self, lon: float, lat: float, row: int, column: int) -> dict[str, Any]:
        """A place to look at, with the class and the confidence that the map has there."""
        names = {c.value: c.name for c in self.map.layer.classes}
        return {
            "lon": round(lon, 6), "lat": round(lat, 6), "epsg": self.zone.epsg, "row": row, "column": column,
            "stem": self.map.layer.stem, "name": names.get(int(self.ids[row, column]), "not mapped"),
            "confidence": int(self.sure[row, column]),
        }  # fmt: skip


def _packed(name: str, pixels: NDArray[np.uint8]) -> str:
    return _embedded(name, "application/zlib", zlib.compress(pixels.tobytes(), 6))


def _embedded(name: str, kind: str, content: bytes) -> str:
    text = base64.b64encode(content).decode()
    return f'<script type="{kind}" id="{html.escape(name)}" data-raster>{text}</script>'


def _template(name: str) -> str:
    return (resources.files("geomap.write") / "page" / name).read_text("utf-8")


def _digest(text: str) -> str:
    """A script's or style's sha256, as a content security policy names it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
