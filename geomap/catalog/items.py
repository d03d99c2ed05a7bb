"""STAC items read as granules by their provider's conventions, and which copies to keep."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

import numpy as np
import shapely
from shapely.geometry import Polygon, box, shape
from shapely.geometry.base import BaseGeometry

from geomap.catalog.offset import parse_baseline, stated_offset
from geomap.catalog.place import (
    Bounds,
    beside,
    checked_bounds,
    checked_shape,
    checked_transform,
    contradiction,
    granule_bounds,
    mgrs_tile,
    raster_bounds,
    tile_in,
)
from geomap.grid import outline
from geomap.lonlat import Box, meet, unwrapped
from geomap.sources.providers import OFFSET_FLAG, PROVIDERS, Provider
from geomap.types import zone_of

SPLIT_SHARE: Final = 0.05
"""A copy of an acquisition is another datastrip if more than this share of its footprint lies outside the copies kept.
Footprints of one granule in two collections are equal (the real items of the tests); datastrips hardly overlap."""

PASS: Final = timedelta(minutes=2)
"""Most time between an item of a pass and the next one, if they do not name their datatake. A granule is seen within
15 s; the next pass over it, by another satellite or on another orbit, is ten minutes away and more."""

DATATAKE: Final = timedelta(hours=1)
"""Most time from the start of a datatake to a granule of it: they last up to half an hour."""

_DATATAKE: Final = re.compile(r"(GS2[A-D]_(\d{8}T\d{6})_\d+)_N\d{2}\.\d{2}", re.IGNORECASE)
_SATELLITE: Final = re.compile(r"(?<![a-z])(?:sentinel[-_ ]?|g?s)(2[a-d])(?![a-z])", re.IGNORECASE)
_EPSG: Final = re.compile(r"EPSG:(\d+)", re.IGNORECASE)
_ORDER: Final = {key: -index for index, key in enumerate(PROVIDERS)}
_MALFORMED: Final = (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
_LONG_AGO: Final = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class GranuleAsset:
    """What an item says about one band."""

    href: object  # as served, unchecked
    stated: int | None  # offset in DN
    transform: tuple[float, ...] | None  # affine coefficients
    shape: tuple[int, int] | None  # (rows, columns)
    content: str | None  # digest of the size and checksum of its file


@dataclass(frozen=True, slots=True)
class Granule:
    """What an item says about one granule of one acquisition."""

    id: str
    collection: str
    provider: Provider
    time: datetime  # UTC
    platform: str  # such as sentinel-2a; in lower case as stated, or "unknown", where no satellite is named
    datatake: str  # its id without the baseline; empty where the item does not name it
    acquisition: str  # platform and datatake, or platform and time to the second: see in_passes
    tile: str  # MGRS, such as 31UES; empty where not stated
    epsg: int
    footprint: BaseGeometry  # degrees; longitudes beyond 180 where it crosses the antimeridian
    assets: Mapping[str, GranuleAsset]  # by band; bands that the item lacks are absent
    link: str | None  # the item's own address
    baseline: str | None
    offset_flag: bool | None  # the catalogue says that it removed the DN offset
    generated: datetime | None  # when the product was made
    cloud_cover: float | None  # percent
    contradiction: str | None = None  # what two of its fields say differently about its place
    claims: tuple[BaseGeometry, ...] = ()  # where else than at its footprint it may lie, as its fields say

    @property
    def missing(self) -> list[str]:
        """Bands, SCL included, for which the item has no asset."""
        return [band for band in self.provider.assets if band not in self.assets]

    @property
    def rank(self) -> tuple[Any, ...]:
        """Greater is better: baseline, preferred provider, newer file; the others decide between equals."""
        made = self.generated or _LONG_AGO
        return parse_baseline(self.baseline) or (-1, -1), _ORDER[self.provider.key], made, self.id, self.time

    @property
    def files(self) -> list[str]:
        """Its addresses, without what may be a signature, in order."""
        return sorted(str(asset.href).partition("?")[0] for asset in self.assets.values())

    @property
    def box(self) -> Box:
        """The box in degrees around all places where it may lie."""
        first, *others = (Box.around(place) for place in (self.footprint, *self.claims))
        return Box.union([first, *others]) if others else first

    def touches(self, area: BaseGeometry) -> bool:
        """Whether it may lie over an area whose longitudes lie within -180..180."""
        return any(meet(area, place) for place in (self.footprint, *self.claims))


def read_granule(item: Mapping[str, Any], provider: Provider) -> Granule:
    """Read an item by the conventions that it follows.

    Raises:
        ValueError: a field that is needed is missing or of the wrong type.
    """
    try:
        return _read(item, provider)
    except (*_MALFORMED, shapely.errors.ShapelyError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def place_and_time(item: Mapping[str, Any]) -> tuple[BaseGeometry | None, datetime | None]:
    """Where and when an item is that `read_granule` refuses; None for what it does not tell."""
    found: list[Any] = []
    for read in (_footprint, _when):
        try:
            found.append(read(item))
        except (ValueError, *_MALFORMED, shapely.errors.ShapelyError):
            found.append(None)
    return found[0], found[1]


def _read(item: Mapping[str, Any], provider: Provider) -> Granule:
    name, properties = item["id"], item["properties"]
    if not (isinstance(name, str) and name.isprintable()):
        raise ValueError(f"id {name!r} is not a printable text")
    assets = {band: item["assets"][key] for band, key in provider.assets.items() if key in item["assets"]}
    time = _when(item)
    datatake, other_time = _datatake(properties, provider, time)
    platform = _platform(datatake, properties.get("platform"), name)
    tiles = _tiles(properties, provider)
    tile = next(iter(tiles), "")
    baseline = properties.get(provider.baseline_property)
    generated = properties.get(provider.generated_property)
    cloud = properties.get("eo:cloud_cover")
    flag = properties.get(OFFSET_FLAG)
    epsg, footprint = _epsg([properties, *assets.values()], tile), _footprint(item)
    rasters = _rasters(properties, assets)
    codes = [code for fields in (properties, *assets.values()) if (code := _stated_epsg(fields)) is not None]
    place = contradiction([*tiles, tile_in(name)], codes, rasters, epsg, footprint, _frame(item))
    odd = place or _shared(assets) or other_time
    granule = granule_bounds(tile) if tile else None
    grounds = [*rasters] or ([granule] if granule else [])
    return Granule(
        id=name,
        collection=str(item.get("collection")),
        provider=provider,
        time=time,
        platform=platform,
        datatake=datatake,
        acquisition=f"{platform}_{datatake or f'{time:%Y%m%dT%H%M%S}'}",
        tile=tile,
        epsg=epsg,
        footprint=footprint,
        assets={band: _asset(asset) for band, asset in assets.items()},
        link=next((str(link["href"]) for link in item.get("links") or [] if link.get("rel") == "self"), None),
        baseline=None if baseline is None else str(baseline),
        offset_flag=flag if isinstance(flag, bool) else None,
        generated=_time(generated) if generated else None,
        cloud_cover=None if cloud is None else _percent(float(cloud)),
        contradiction=odd,
        claims=tuple(outline(epsg, bounds) for bounds in rasters) if odd else beside(grounds, epsg, footprint),
    )


def _datatake(properties: Mapping[str, Any], provider: Provider, time: datetime) -> tuple[str, str | None]:
    """The datatake that an item names, without its baseline, or what is wrong if the item is not of its time.

    Empty for what is no datatake's id. A time of midnight states the day alone.
    """
    match = _DATATAKE.fullmatch(str(properties.get(provider.datatake_property)))
    if match is None:
        return "", None
    began, day_alone = _time(match[2]), time.replace(hour=0, minute=0, second=0, microsecond=0) == time
    if time.date() == began.date() if day_alone else abs(time - began) <= DATATAKE:
        return match[1].upper(), None
    return "", f"its datetime is {time:%Y-%m-%d %H:%M:%S}, but its datatake began at {began:%Y-%m-%d %H:%M:%S}"


def _platform(datatake: str, stated: object, name: str) -> str:
    """The satellite that the datatake, the platform or the id names, in this order; else what is stated."""
    found = (_SATELLITE.search(text) for text in (datatake, str(stated), name))
    match = next(filter(None, found), None)
    return f"sentinel-{match[1].lower()}" if match else str(stated or "unknown").lower()


def _shared(assets: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What is wrong if two bands name one file."""
    bands: dict[str, str] = {}
    for band, asset in assets.items():
        href = asset.get("href")
        if isinstance(href, str) and (other := bands.setdefault(href, band)) != band:
            return f"its {other} and {band} are one file"
    return None


def _percent(value: float) -> float:
    if not 0 <= value <= 100:
        raise ValueError(f"eo:cloud_cover {value} is no percentage")
    return value


def _asset(asset: Mapping[str, Any]) -> GranuleAsset:
    return GranuleAsset(
        href=asset.get("href"),
        stated=stated_offset(asset),
        transform=checked_transform(asset.get("proj:transform")),
        shape=checked_shape(asset.get("proj:shape")),
        content=_content(asset),
    )


def _content(asset: Mapping[str, Any]) -> str | None:
    """A digest of what the file extension of STAC states of an asset's bytes, whatever that is; None of nothing."""
    stated = [asset.get("file:checksum"), asset.get("file:size")]
    known = any(value is not None for value in stated)
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest() if known else None


def _rasters(properties: Mapping[str, Any], assets: Mapping[str, Mapping[str, Any]]) -> dict[Bounds, str]:
    """The bounds of all rasters in metres, each with the field that states it."""
    found: dict[Bounds, str] = {}
    for fields in (properties, *assets.values()):
        if (bounds := checked_bounds(fields.get("proj:bbox"))) is not None:
            found.setdefault(bounds, "proj:bbox")
    for asset in assets.values():
        transform, size = checked_transform(asset.get("proj:transform")), checked_shape(asset.get("proj:shape"))
        if transform and size:
            found.setdefault(raster_bounds(transform, size), "proj:transform")
    return found


def in_passes(granules: Sequence[Granule]) -> list[Granule]:
    """The granules, in order of time; those that name no datatake get the acquisition of the pass that they belong to.

    A pass are granules of one satellite of which each is within PASS of the next. Items that name no satellite belong
    to the only one that is named there.
    """
    order = sorted(granules, key=lambda granule: granule.time)
    gaps = [n for n, (one, other) in enumerate(pairwise(order), 1) if other.time - one.time > PASS]
    made: list[Granule] = []
    for first, end in pairwise([0, *gaps, len(order)]):
        near = order[first:end]
        named = {granule.platform for granule in near if _SATELLITE.fullmatch(granule.platform)}
        default = next(iter(named)) if len(named) == 1 else "unknown"
        passes: dict[str, list[Granule]] = defaultdict(list)
        for granule in near:
            passes[granule.platform if granule.platform in named else default].append(granule)
        made += (g if g.datatake else _of_pass(g, satellite, own) for satellite, own in passes.items() for g in own)
    return made


def _of_pass(granule: Granule, satellite: str, near: Sequence[Granule]) -> Granule:
    """A granule with the acquisition of its pass: that of the nearest datatake, or the satellite and the first second.

    `near`: the granules of the pass, in order of time.
    """
    taken = [other for other in near if other.datatake]
    if taken:
        nearest = min(taken, key=lambda other: (abs(other.time - granule.time), other.acquisition))
        return replace(granule, acquisition=nearest.acquisition)
    return replace(granule, acquisition=f"{satellite}_{near[0].time:%Y%m%dT%H%M%S}")


def unique(granules: Iterable[Granule]) -> tuple[list[Granule], list[tuple[Granule, Granule]]]:
    """Keep one copy of each granule, of the highest baseline; where datastrips split a granule, keep every part.

    Returns:
        The granules kept, and each dropped granule paired with the best one kept in its place. An item that pages
        repeat with the same files is not listed as dropped: it is used. With other files, it may be one to which those
        of another granule were copied, so one with files of its own is better.
    """
    copies: dict[tuple[str, str], list[Granule]] = defaultdict(list)
    owners: dict[str, tuple[str, str]] = {}  # of each file: the first granule
    shared: set[str] = set()  # files of several granules
    for granule in granules:
        copies[place := (granule.acquisition, granule.tile)].append(granule)
        shared.update(file for file in granule.files if owners.setdefault(file, place) != place)

    def order(one: Granule) -> tuple[Any, ...]:
        hrefs = sorted(str(asset.href) for asset in one.assets.values())  # decide between equals
        return one.rank, shared.isdisjoint(one.files), hrefs

    kept: list[Granule] = []
    dropped: list[tuple[Granule, Granule]] = []
    for group in copies.values():
        covered: BaseGeometry = Polygon()
        names: set[tuple[str, ...]] = set()
        best, *_ = ordered = sorted(group, key=order, reverse=True)
        for granule in ordered:
            name = granule.collection, granule.id, *granule.files
            outside = granule.footprint.difference(covered).area
            if covered.is_empty or outside > SPLIT_SHARE * granule.footprint.area:
                covered = covered.union(granule.footprint)
                kept.append(granule)
            elif name not in names:
                dropped.append((granule, best))
            names.add(name)
    return kept, dropped


def _footprint(item: Mapping[str, Any]) -> BaseGeometry:
    """The item's geometry, or its bbox where it has none."""
    found = _on_globe(shapely.force_2d(shape(item["geometry"]))) if item.get("geometry") else _box(item["bbox"])
    return found if found.is_valid else shapely.make_valid(found)


def _frame(item: Mapping[str, Any]) -> BaseGeometry | None:
    """The item's bbox, if it has a geometry as well."""
    return _box(item["bbox"]) if item.get("geometry") and item.get("bbox") else None


def _box(bbox: Any) -> BaseGeometry:
    corners = [float(v) for v in bbox]
    west, south, east, north = corners[:2] + corners[len(corners) // 2 :][:2]
    return _on_globe(box(*Box(west, south, east, north).bounds))


def _on_globe(found: BaseGeometry) -> BaseGeometry:
    """An outline, with longitudes 0..360 if it crosses the antimeridian. Raises ValueError if it cannot be a place."""
    if found.is_empty or not np.isfinite(found.bounds).all():
        raise ValueError("empty or infinite geometry")
    west, south, east, north = found.bounds
    if west < -360 or east > 540 or south < -90.01 or north > 90.01:
        raise ValueError(f"a geometry of longitude {west:g} to {east:g}, latitude {south:g} to {north:g}")
    return unwrapped(found)  # no granule is wider than half the globe


def _when(item: Mapping[str, Any]) -> datetime:
    properties = item["properties"]
    return _time(properties.get("datetime") or properties["start_datetime"])


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _tiles(properties: Mapping[str, Any], provider: Provider) -> list[str]:
    """The MGRS tiles that the properties name, the provider's own first; more than one only by mistake."""
    parts = [str(properties.get(f"mgrs:{part}", "")) for part in ("utm_zone", "latitude_band", "grid_square")]
    found = (mgrs_tile(text) for text in (*(properties.get(name) for name in provider.tile_properties), "".join(parts)))
    return list(dict.fromkeys(tile for tile in found if tile))


def _epsg(stated: Iterable[Mapping[str, Any]], tile: str) -> int:
    """The first code stated (projection extension 2: proj:code; 1: proj:epsg), or the UTM zone of the MGRS tile."""
    code = next((code for fields in stated if (code := _stated_epsg(fields)) is not None), None)
    if code is None and tile:
        code = zone_of(tile)
    if code is None or not (code // 100 in (326, 327) and 1 <= code % 100 <= 60):
        raise ValueError(f"EPSG code {code} is no UTM zone, in which every Level-2A product lies")
    return code


def _stated_epsg(fields: Mapping[str, Any]) -> int | None:
    if match := _EPSG.fullmatch(str(fields.get("proj:code"))):
        return int(match[1])
    return None if fields.get("proj:epsg") is None else int(fields["proj:epsg"])
