"""STAC items for the tests of the catalogue modules: hand-written ones of each dialect, real ones, changed copies."""

import copy
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from shapely.geometry import box, mapping

from geomap.catalog.place import granule_bounds
from geomap.sentinel2 import BANDS_10M, SCL
from geomap.sources.providers import PROVIDERS
from geomap.types import Period

Item = dict[str, Any]
WORLD = box(-180, -80, 180, 84)

FOOTPRINTS = {
    "13TDE": (-105.37, 39.66, -104.88, 40.65),
    "24XWR": (-39.0, 80.92, -32.0, 81.96),
    "32TPS": (10.29, 45.93, 11.76, 46.95),
    "35MNM": (27.0, -8.23, 27.99, -7.24),
    "36NYH": (34.8, 1.72, 35.79, 2.71),
}
"""Degrees of the MGRS tiles that items may lie in."""
STORES = {
    "earth-search-c1": "https://e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com/sentinel-2-c1-l2a/{}.tif",
    "earth-search-l2a": "https://sentinel-cogs.s3.us-west-2.amazonaws.com/sentinel-s2-l2a-cogs/{}.tif",
    "cdse": "s3://eodata/Sentinel-2/MSI/L2A/{}.jp2",
    "planetary-computer": "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/{}.tif",
}


def granule(provider: str, tile: str, time: str, baseline: str = "05.10", unit: str = "a", cloud: float = 12.5) -> Item:
    """What a catalogue lists of one granule, as far as geomap looks at it.

    Args:
        provider: a key of PROVIDERS.
        tile: a key of FOOTPRINTS.
        time: of the acquisition, as in the item.
        baseline: of the processing, 04.00 or later.
        unit: the satellite: a, b or c.
        cloud: percent.
    """
    known = PROVIDERS[provider]
    stamp = time[:19].replace("-", "").replace(":", "")
    name = f"S2{unit.upper()}_MSIL2A_{stamp}_T{tile}_20240101T000000"
    epsg = int(f"32{7 if tile[2] < 'N' else 6}{tile[:2]}")
    told: Item = {
        "datetime": time, "platform": f"sentinel-2{unit}", "constellation": "sentinel-2", "instruments": ["msi"],
        "eo:cloud_cover": cloud, known.datatake_property: f"GS2{unit.upper()}_{stamp}_027509_N{baseline}",
        known.baseline_property: baseline, known.generated_property: "2024-01-01T00:00:00Z",
    }  # fmt: skip
    if provider == "planetary-computer":
        told |= {"platform": f"Sentinel-2{unit.upper()}", "s2:mgrs_tile": tile, "proj:epsg": epsg}
    else:
        told["grid:code"] = f"MGRS-{tile}"
    if provider.startswith("earth-search"):
        told["proj:epsg"] = epsg
    if provider == "earth-search-l2a":
        told["earthsearch:boa_offset_applied"] = True
    bounds = granule_bounds(tile)
    assert bounds
    assets: Item = {}
    for band, key in known.assets.items():
        size = 10 if band in BANDS_10M else 20
        assets[key] = {
            "href": STORES[provider].format(f"{name}/{key}"), "roles": ["data"], "gsd": size,
            "proj:shape": [109_800 // size] * 2, "proj:transform": [size, 0, bounds[0], 0, -size, bounds[3]],
        }  # fmt: skip
        if provider == "cdse":
            assets[key]["proj:code"] = f"EPSG:{epsg}"
        if band != SCL:
            assets[key] |= _stated(provider)
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": known.collection, "links": [],
        "bbox": list(FOOTPRINTS[tile]), "geometry": json.loads(json.dumps(mapping(box(*FOOTPRINTS[tile])))),
        "properties": told, "assets": assets,
    }  # fmt: skip


def _stated(provider: str) -> Item:
    """Scale and offset of an asset, where the catalogue states them."""
    if provider == "cdse":
        return {"raster:scale": 0.0001, "raster:offset": -0.1, "nodata": 0}
    if provider == "planetary-computer":
        return {}
    return {"raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}]}


def real_items(shared: Path, name: str) -> list[Item]:
    content = json.loads((shared / "data/stac" / f"{name}.json").read_text())
    return list(content.get("features", [content]))


def month_of(item: Item) -> Period:
    time = datetime.fromisoformat(item["properties"]["datetime"])
    return Period(time.year, time.month, 1)


def placeless(item: Item, tile: str | None = None) -> Item:
    """An item that says nothing of its place but its geometry, its zone and, if given, its MGRS tile."""
    other = changed(item, {"grid:code": tile and f"MGRS-{tile}", "s2:mgrs_tile": tile}, id="placeless")
    for asset in other["assets"].values():
        del asset["proj:transform"], asset["proj:shape"]
    return other


def changed(item: Item, properties: dict[str, Any] | None = None, **fields: Any) -> Item:
    other = copy.deepcopy(item) | fields
    other["properties"] |= properties or {}
    return other
