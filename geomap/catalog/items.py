"""STAC items read as granules by their provider's conventions, and which copies to keep."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import shapely
from shapely.geometry import Polygon, box, shape
from shapely.geometry.base import BaseGeometry

from geomap.catalog.offset import parse_baseline, stated_offset
from geomap.catalog.place import (
    Bounds,
    checked_bounds,
    checked_shape,
    checked_transform,
    contradiction,
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

_BASELINE_SUFFIX: Final = re.compile(r"_N\d{2}\.\d{2}$")
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


@dataclass(frozen=True, slots=True)
class Granule:
    """What an item says about one granule of one acquisition."""

    id: str
    collection: str
    provider: Provider
    time: datetime  # UTC
    platform: str  # lower case
    acquisition: str  # platform and datatake without its baseline, or platform and time to the second
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
    claims: tuple[BaseGeometry, ...] = ()  # where else than at its footprint it may lie, if they contradict each other

    @property
    def missing(self) -> list[str]:
        """Bands, SCL included, for which the item has no asset."""
        return [band for band in self.provider.assets if band not in self.assets]

    @property
    def rank(self) -> tuple[Any, ...]:
        """Greater is better: baseline, then the preferred provider, then the newer file."""
        made = self.generated or _LONG_AGO
        return parse_baseline(self.baseline) or (-1, -1), _ORDER[self.provider.key], made, self.id

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


def _read(item: Mapping[str, Any], provider: Provider) -> Granule:
    name, properties = item["id"], item["properties"]
    if not (isinstance(name, str) and name.isprintable()):
        raise ValueError(f"id {name!r} is not a printable text")
    assets = {band: item["assets"][key] for band, key in provider.assets.items() if key in item["assets"]}
    time = _time(properties.get("datetime") or properties["start_datetime"])
    platform = str(properties.get("platform") or "unknown").lower()
    datatake = properties.get(provider.datatake_property)
    passage = _BASELINE_SUFFIX.sub("", str(datatake)) if datatake else f"{time:%Y%m%dT%H%M%S}"
    tiles = _tiles(properties, provider)
    tile = next(iter(tiles), "")
    baseline = properties.get(provider.baseline_property)
    generated = properties.get(provider.generated_property)
    cloud = properties.get("eo:cloud_cover")
    flag = properties.get(OFFSET_FLAG)
    epsg, footprint = _epsg([properties, *assets.values()], tile), _footprint(item)
    rasters = _rasters(properties, assets)
    codes = [code for fields in (properties, *assets.values()) if (code := _stated_epsg(fields)) is not None]
    odd = contradiction([*tiles, tile_in(name)], codes, rasters, epsg, footprint, _frame(item)) or _shared(assets)
    return Granule(
        id=name,
        collection=str(item.get("collection")),
        provider=provider,
        time=time,
        platform=platform,
        acquisition=f"{platform}_{passage}",
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
        claims=tuple(outline(epsg, bounds) for bounds in rasters) if odd else (),
    )


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
    )


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


def unique(granules: Iterable[Granule]) -> tuple[list[Granule], list[tuple[Granule, Granule]]]:
    """Keep one copy of each granule, of the highest baseline; where datastrips split a granule, keep every part.

    Returns:
        The granules kept, and each dropped granule paired with the best one kept in its place. An item that pages
        repeat is not listed as dropped: it is used.
    """
    copies: dict[tuple[str, str], list[Granule]] = defaultdict(list)
    for granule in granules:
        copies[granule.acquisition, granule.tile].append(granule)
    kept: list[Granule] = []
    dropped: list[tuple[Granule, Granule]] = []
    for group in copies.values():
        covered: BaseGeometry = Polygon()
        names: set[tuple[str, str]] = set()
        best = max(group, key=lambda g: g.rank)
        for granule in sorted(group, key=lambda g: g.rank, reverse=True):
            outside = granule.footprint.difference(covered).area
            if covered.is_empty or outside > SPLIT_SHARE * granule.footprint.area:
                covered = covered.union(granule.footprint)
                kept.append(granule)
            elif (granule.collection, granule.id) not in names:
                dropped.append((granule, best))
            names.add((granule.collection, granule.id))
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
