"""The maps of a run as a static STAC catalogue: `stac/collection.json`, one item per UTM zone, one per own grid.

STAC 1.1 with the extensions projection, classification, file and processing. Links within the catalogue and assets are
relative, so the directory can be moved or served as it is. An item links to the scenes that it is derived from, where
these have public addresses. The bytes do not depend on when or where the files were written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pystac
from pystac.layout import TemplateLayoutStrategy
from rasterio.warp import transform
from shapely.geometry import MultiPolygon, Polygon, mapping
from shapely.geometry.polygon import orient

from geomap import files, lonlat
from geomap.lonlat import Box
from geomap.types import Grid, OwnGrid, Period, Scene
from geomap.write.layer import Layer, plain

_EXTENSIONS: Final = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("projection/v2.0.0", "classification/v2.0.0", "file/v2.1.0", "processing/v1.2.0")
)
_SHA256_MULTIHASH: Final = "1220"
"""Prefix of a sha256 in the file extension: function code 0x12, length 0x20 (multiformats.io/multihash)."""
_CLASSES: Final = "classification:classes"
_LEGAL_NOTICE: Final = "https://sentinel.esa.int/documents/247904/690755/Sentinel_Data_Legal_Notice"
"""Terms of the scenes, which hold for maps made from them: legal notice on the use of Copernicus Sentinel data."""
_COPERNICUS: Final = pystac.Provider(
    name="European Union, Copernicus programme, and ESA",
    description="Sentinel-2 Level-2A scenes. The maps contain modified Copernicus Sentinel data.",
    roles=[pystac.ProviderRole.PRODUCER, pystac.ProviderRole.LICENSOR],
    url="https://dataspace.copernicus.eu",
)
_OF_ONE_FILE: Final = ("file:checksum", "file:size")
"""Fields of an asset that a collection's `item_assets` do not have."""
_EDGE_POINTS: Final = 21
"""Points along each edge of a footprint: UTM edges are curves in degrees."""
_DIGITS: Final = 7  # decimals of degrees, 1 cm
_SIMPLIFY: Final = 1e-5
"""Tolerance in degrees, about 1 m, within which a footprint is simplified."""
_ROLES: Final = {
    "classes": ["data"], "score": ["data"], "percent": ["data", "confidence"], "count": ["data", "count"],
    "likeness": ["data"], "colour": ["visual"], "ndvi": ["data"],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MapFile:
    """A finished map: its path, layer and grid."""

    path: Path
    layer: Layer
    grid: Grid


@dataclass(frozen=True, slots=True)
class OwnMap:
    """A finished map on a grid of the user's own."""

    path: Path
    layer: Layer
    grid: OwnGrid


def write_stac(
    directory: Path,
    maps: Sequence[MapFile],
    period: Period,
    *,
    software: Mapping[str, str],
    lineage: str,
    provenance: Mapping[str, Any],
    scenes: Mapping[int, Sequence[Scene]] = MappingProxyType({}),
    licence: str = "other",
    pictures: Sequence[Path] = (),
    own: Sequence[OwnMap] = (),
) -> tuple[Path, ...]:
    """Describe the maps in `directory` with a collection and one item per zone.

    Args:
        directory: the run's output directory, which holds the maps.
        maps: all maps; those of one zone share one grid.
        period: the months that were mapped.
        software: name -> version of the software that made the maps.
        lineage: one sentence on how the maps were made.
        provenance: JSON values, stored as the item's properties `geomap:<key>`.
        scenes: by zone (EPSG code), the scenes whose pixels are in its maps.
        licence: SPDX identifier, or "other".
        pictures: PNG files beside the maps, of the same stems; the first of a zone is its thumbnail.
        own: the maps on a grid of the user's own: one more item.

    Returns:
        The files written, collection first.

    Raises:
        DiskFullError, OutputError: as in files.write_bytes.
        ValueError: no maps, or two grids in one zone.
    """
    zones: dict[int, list[MapFile]] = {}
    for m in maps:
        zones.setdefault(m.grid.epsg, []).append(m)
    if not zones or any(len({m.grid for m in members}) > 1 for members in zones.values()):
        raise ValueError("a STAC catalogue needs maps, and one grid for the maps of a zone")
    shared = {
        "processing:software": dict(software),
        "processing:lineage": lineage,
        **{f"geomap:{key}": value for key, value in provenance.items()},
    }
    name = f"geomap-{period}"
    home = directory / "stac"
    items = {epsg: _item(f"{name}-{epsg}", members[0].grid, period, shared) for epsg, members in sorted(zones.items())}
    for epsg, item in items.items():
        for m in sorted(zones[epsg], key=lambda m: m.layer.stem):
            item.add_asset(m.layer.stem, _asset(m, home))
        for key, asset in _shown(zones[epsg], pictures, home).items():
            item.add_asset(key, asset)
        item.add_links(_sources(scenes.get(epsg, ())))
    made = [*items.values(), *([_own_item(name, own, period, shared, home)] if own else [])]
    collection = _collection(name, made, period, software, lineage, licence)
    written = [home / "collection.json"]
    for item in made:
        link = collection.add_item(item, strategy=TemplateLayoutStrategy(item_template=""))  # /<id>.json
        link.title = item.properties["title"]
        written.append(home / f"{item.id}.json")
        files.write_json(written[-1], item.to_dict(include_self_link=False))
    files.write_json(written[0], collection.to_dict(include_self_link=False))
    return tuple(written)


def _collection(
    name: str,
    items: Sequence[pystac.Item],
    period: Period,
    software: Mapping[str, str],
    lineage: str,
    licence: str,
) -> pystac.Collection:
    """The collection of a run's items, which are not yet added to it."""
    processor = pystac.Provider(
        name="geomap",
        description=lineage,
        roles=[pystac.ProviderRole.PROCESSOR],
        extra_fields={"processing:software": dict(software)},
    )
    assets = {key: asset for item in items for key, asset in item.assets.items()}
    collection = pystac.Collection(
        id=name,
        title=f"Maps by geomap, {period}",
        description=lineage,
        license=licence,
        keywords=["Sentinel-2", "land", *sorted(key for key, a in assets.items() if _CLASSES in a.extra_fields)],
        providers=[_COPERNICUS, processor],
        extent=pystac.Extent(
            pystac.SpatialExtent([[*astuple(Box.union(Box(*item.bbox) for item in items if item.bbox))]]),
            pystac.TemporalExtent([[period.start, _last(period)]]),
        ),
        summaries=pystac.Summaries({key: _values(items, key) for key in ("gsd", "proj:code")}),
        stac_extensions=list(_EXTENSIONS),
        extra_fields={"item_assets": {key: _definition(asset) for key, asset in sorted(assets.items())}},
        href="/collection.json",  # the real path does not matter: links are written relative
        catalog_type=pystac.CatalogType.SELF_CONTAINED,
    )
    collection.add_link(
        pystac.Link(
            pystac.RelType.LICENSE,
            _LEGAL_NOTICE,
            pystac.MediaType.PDF,
            "Legal notice on the use of Copernicus Sentinel data",
        )
    )
    return collection


def _values(items: Sequence[pystac.Item], key: str) -> list[Any]:
    """The values of a property, each once, without null."""
    return sorted({i.properties[key] for i in items if i.properties.get(key) is not None})


def _definition(asset: pystac.Asset) -> dict[str, Any]:
    """What the assets of all items have in common, as `item_assets` of a collection."""
    return {key: value for key, value in asset.to_dict().items() if key not in ("href", *_OF_ONE_FILE)}


def _sources(scenes: Sequence[Scene]) -> list[pystac.Link]:
    """Links to the items of scenes, by id; a scene without a public address has none."""
    return [
        pystac.Link(pystac.RelType.DERIVED_FROM, scene.link, pystac.MediaType.GEOJSON, plain(scene.id))
        for scene in sorted(scenes, key=lambda scene: scene.id)
        if scene.link is not None
    ]


def footprint(grid: Grid | OwnGrid) -> tuple[dict[str, Any], list[float]]:
    """The grid's outline in degrees (EPSG:4326): GeoJSON geometry and bbox.

    Across the antimeridian the geometry is cut there and the bbox has west > east (RFC 7946, sections 3.1.9 and 5.2).
    """
    west, south, east, north = grid.bounds
    x, y = np.linspace(west, east, _EDGE_POINTS), np.linspace(south, north, _EDGE_POINTS)
    xs = np.concatenate([x, np.full_like(y, east), x[::-1], np.full_like(y, west)])
    ys = np.concatenate([np.full_like(x, south), y, np.full_like(x, north), y[::-1]])
    lon, lat = (np.array(v) for v in transform(grid.crs, "EPSG:4326", xs, ys))
    outline = Polygon(np.round(np.column_stack([lonlat.continuous(lon), lat]), _DIGITS))
    parts = [orient(part) for part in lonlat.cut(outline.simplify(_SIMPLIFY))]
    geometry: dict[str, Any] = mapping(parts[0] if len(parts) == 1 else MultiPolygon(parts))
    return geometry, [round(v, _DIGITS) for v in astuple(Box.around(outline))]


def _own_item(name: str, own: Sequence[OwnMap], period: Period, shared: Mapping[str, Any], home: Path) -> pystac.Item:
    """The item of the maps on a grid of the user's own; the scenes are linked from those of the zones."""
    grid = own[0].grid
    item = _item(f"{name}-{grid.name}", grid, period, shared)
    for m in sorted(own, key=lambda m: m.layer.stem):
        item.add_asset(m.layer.stem, _asset(m, home))
    return item


def _item(name: str, grid: Grid | OwnGrid, period: Period, shared: Mapping[str, Any]) -> pystac.Item:
    geometry, bbox = footprint(grid)
    coded = isinstance(grid, Grid) or grid.code
    place = {"proj:code": grid.crs} if coded else {"proj:code": None, "proj:wkt2": grid.crs}
    return pystac.Item(
        id=name,
        geometry=geometry,
        bbox=bbox,
        datetime=period.start + (period.end - period.start) / 2,  # clients sort and search by it
        start_datetime=period.start,
        end_datetime=_last(period),
        properties={
            "title": f"Maps by geomap, {period}, {grid.crs if isinstance(grid, Grid) else grid.name}",
            **({"gsd": _metres(grid)} if _metres(grid) else {}),
            **place,
            "proj:shape": list(grid.shape),
            "proj:transform": list(grid.transform),
            **shared,
        },
        stac_extensions=list(_EXTENSIONS),
    )


def _metres(grid: Grid | OwnGrid) -> float | None:
    """The side of a pixel in metres; None if it is not counted in these."""
    if isinstance(grid, Grid):
        return grid.resolution
    return grid.step_x if grid.unit == "m" else None


def _asset(m: MapFile | OwnMap, home: Path) -> pystac.Asset:
    layer = m.layer
    nodata = "nan" if np.isnan(layer.nodata) else int(layer.nodata)
    fields: dict[str, Any] = {
        "file:checksum": _SHA256_MULTIHASH + files.sha256(m.path),
        "file:size": m.path.stat().st_size,
        "data_type": layer.dtype,
        "nodata": nodata,
        "bands": _bands(layer),
    }
    if layer.classes:
        fields[_CLASSES] = _classes(layer)
    return pystac.Asset(
        href=os.path.relpath(m.path, home),
        title=layer.description,
        media_type=pystac.MediaType.COG,
        roles=_ROLES[layer.kind],
        extra_fields=fields,
    )


def _bands(layer: Layer) -> list[dict[str, str]]:
    """The bands of a map: one called like the map, or several with the names of what they show."""
    if not layer.bands:
        return [{"name": layer.stem, "description": layer.description}]
    return [{"name": f"{layer.stem}_{i}", "description": name} for i, name in enumerate(layer.bands, start=1)]


def _shown(maps: Sequence[MapFile], pictures: Sequence[Path], home: Path) -> dict[str, pystac.Asset]:
    """The pictures of a zone's maps, which hold a legend too: the first one as thumbnail."""
    titles = {m.path.with_suffix(".png"): m.layer for m in maps}
    own = [picture for picture in pictures if picture in titles]
    return {
        f"{titles[p].stem}_picture" if i else "thumbnail": pystac.Asset(
            href=os.path.relpath(p, home),
            title=f"{titles[p].description}: picture with legend",
            media_type=pystac.MediaType.PNG,
            roles=["graphic"] if i else ["thumbnail", "graphic"],
            extra_fields={"file:checksum": _SHA256_MULTIHASH + files.sha256(p), "file:size": p.stat().st_size},
        )
        for i, p in enumerate(own)
    }


def _classes(layer: Layer) -> list[dict[str, Any]]:
    """Classes for the classification extension: `title` as typed, `name` with only letters, digits, - and _."""
    classes: list[dict[str, Any]] = [{"value": int(layer.nodata), "name": "nodata", "title": "No data", "nodata": True}]
    taken = {"nodata"}
    for c in layer.classes:
        name = re.sub(r"[^a-z0-9]+", "-", c.name.lower()).strip("-") or "class"
        name = f"{name}-{c.value}" if name in taken else name
        taken.add(name)
        classes.append({"value": c.value, "name": name, "title": c.name, "color_hint": c.colour[1:].upper()})
    return classes


def _last(period: Period) -> datetime:
    """Last second of the period: in STAC the end is part of the interval."""
    return period.end - timedelta(seconds=1)
