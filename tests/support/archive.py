"""STAC archives of COGs from one Belgian patch, 64 x 64 pixels at 72 dates, in the dialects of four catalogues.

The patch is measured where `../shared` lies beside the checkout, and simulated elsewhere: same place, same dates,
about the same share of clear pixels at each date, so that the same tests hold on both.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds

from geomap.sentinel2 import BANDS, BANDS_10M, REFLECTANCE_SCALE, SCL
from geomap.simulate import landscape
from geomap.simulate.growth import reflectance
from geomap.simulate.landscape import noise
from geomap.simulate.spectra import surface
from geomap.sources.providers import PROVIDERS

PATCH = "4.0585,50.7431,4.0676,50.7489"
"""Most of the patch, in degrees."""
SIDE = 64  # pixels of 10 m
COLLECTIONS = {"earth-search-c1": "sentinel-2-c1-l2a"}  # of the others: sentinel-2-l2a

# Days after 2018-08-04 and the clear share, in tenths, of the measured dates.
DATES = (
    "0:10 10:0 15:6 20:0 35:0 40:0 45:10 50:0 55:0 60:0 65:0 70:10 75:10 85:0 90:6 100:0 105:10 110:9 115:0 120:0 "
    "125:0 130:10 135:10 140:8 150:0 160:0 170:10 190:0 195:10 200:0 205:10 215:9 225:4 230:10 235:0 240:10 250:9 "
    "255:10 260:10 265:7 270:0 275:10 280:10 285:10 310:9 315:1 320:10 325:0 330:10 335:10 340:0 350:10 355:10 360:10 "
    "365:0 375:2 380:2 385:10 390:0 400:7 405:3 410:9 420:0 435:10 440:10 445:0 450:10 455:6 465:10 470:3 475:10 480:0"
)


@dataclass(frozen=True)
class Series:
    """Raw DNs of products before baseline 04.00: without an offset, 0 is nodata."""

    times: NDArray[np.datetime64]  # (t,) seconds
    layers: dict[str, NDArray[Any]]  # band or SCL -> (t, y, x) at its own resolution
    epsg: int = 32631
    west: int = 574_680  # metres
    north: int = 5_622_440
    tile: str = "31UES"
    real: bool = False  # measured by a satellite

    def first(self, dates: int | None) -> "Series":
        """The first so many dates; None: all."""
        return replace(self, times=self.times[:dates], layers={n: v[:dates] for n, v in self.layers.items()})

    def repeated(self, times: int) -> "Series":
        """`times` x `times` copies side by side, mirrored so that edges meet."""
        row = {n: np.concatenate([v[:, :, :: (-1) ** i] for i in range(times)], axis=2) for n, v in self.layers.items()}
        return replace(
            self, layers={n: np.concatenate([v[:, :: (-1) ** i] for i in range(times)], axis=1) for n, v in row.items()}
        )


def measured(path: Path) -> Series:
    """The real patch, from its series.npz."""
    with np.load(path, allow_pickle=False) as f:
        where = (int(f["epsg"]), int(f["west"]), int(f["north"]), str(f["tile"]))
        return Series(f["time"].astype("datetime64[s]"), {name: f[name] for name in (*BANDS, SCL)}, *where, real=True)


def simulated() -> Series:
    """A landscape with parcels, woods, water and houses, under clouds with their shadows."""
    rng = np.random.default_rng(12)
    land = landscape(4, SIDE)
    pairs = [tuple(map(int, word.split(":"))) for word in DATES.split()]
    times = np.array([np.datetime64("2018-08-04T10:50:22") + np.timedelta64(day, "D") for day, _ in pairs])
    days = np.array([time.astype(datetime).timetuple().tm_yday for time in times], np.float32)
    clean = reflectance(land.pixels, np.tile(days, (len(land.pixels.cover), 1)))[land.unit]  # (y, x, t, 10)
    looks = [_look(rng, clean[:, :, t], clear / 10) for t, (_, clear) in enumerate(pairs)]
    dn = np.stack([look for look, _ in looks]).transpose(3, 0, 1, 2)  # (10, t, y, x)
    layers = {name: dn[b] if name in BANDS_10M else dn[b, :, ::2, ::2] for b, name in enumerate(BANDS)}
    return Series(times, layers | {SCL: np.stack([scl for _, scl in looks])})


def _look(rng: np.random.Generator, clean: NDArray[Any], clear: float) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """One date: DNs (y, x, 10) and scene classes (y / 2, x / 2), of which a share is clear."""
    field = noise(rng, SIDE, 4)
    field = field[::2, ::2].repeat(2, 0).repeat(2, 1)
    limit = np.quantile(field, clear)
    cloud = (field > limit) if clear < 1 else np.zeros(field.shape, bool)
    seen = clean * (1 + 0.02 * rng.standard_normal(clean.shape))
    seen = np.where(cloud[..., None], 0.3 * seen + 0.7 * surface("cloud") * rng.uniform(0.9, 1.1), seen)
    dn = np.clip(np.round(seen * REFLECTANCE_SCALE), 1, 65_535).astype(np.uint16)
    red, nir = (clean[::2, ::2, BANDS.index(band)] for band in ("B04", "B08"))
    ground = np.where(nir > 1.8 * red, 4, 5)
    return dn, np.where(cloud[::2, ::2], 9, ground).astype(np.uint8)


def write_archive(
    folder: Path, series: Series, provider: str = "earth-search", baseline: str = "02.12", base_url: str | None = None
) -> Path:
    """Write items.json, collection.json and cogs/<item>/<asset>.tif; hrefs are absolute paths or start with `base_url`.

    Args:
        folder: made where absent.
        series: what the pixels show.
        provider: earth-search, earth-search-c1, planetary-computer or cdse.
        baseline: from 04.00 on the files hold +1000 DN, but for earth-search, which takes them off.
        base_url: in place of the path of cogs/.
    """
    cogs = (folder / "cogs").resolve()
    places = [Product(series, t, provider, baseline, base_url or str(cogs)) for t in range(len(series.times))]
    with ThreadPoolExecutor(2) as pool:  # GDAL compresses outside Python's lock
        list(pool.map(lambda place: place.write(cogs), places))
    features = [place.item() for place in places]
    write_items(features, folder / "items.json")
    days = [features[i]["properties"]["datetime"] for i in (0, -1)]
    extent = {"spatial": {"bbox": [features[0]["bbox"]]}, "temporal": {"interval": [days]}}
    described = {"description": "Sentinel-2 Level-2A", "license": "other", "links": [], "extent": extent}
    collection = {"type": "Collection", "stac_version": "1.0.0", "id": features[0]["collection"]} | described
    (folder / "collection.json").write_text(json.dumps(collection))
    return folder


def items_of(folder: Path) -> list[dict[str, Any]]:
    """The items of an archive."""
    items: list[dict[str, Any]] = json.loads((folder / "items.json").read_text())["features"]
    return items


def write_items(items: list[dict[str, Any]], path: Path) -> Path:
    """An item file."""
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return path


def served(folder: Path, base: str, path: Path, query: str = "") -> Path:
    """The items of an archive whose files are at `base`, each address with a query."""
    items = items_of(folder)
    for item in items:
        for asset in item["assets"].values():
            asset["href"] = asset["href"].replace(str(folder.resolve()), base) + query
    return write_items(items, path)


@dataclass(frozen=True)
class Product:
    """One date of a series as an item of a catalogue."""

    series: Series
    date: int
    provider: str
    baseline: str
    base: str

    @property
    def id(self) -> str:
        day = str(self.series.times[self.date])[:10].replace("-", "")
        return f"S2A_{self.series.tile}_{day}_{self.date}_L2A"

    @property
    def keys(self) -> dict[str, str]:
        """Band -> key of its asset."""
        return dict(PROVIDERS[{"earth-search": "earth-search-l2a"}.get(self.provider, self.provider)].assets)

    @property
    def offset(self) -> int:
        """What the files hold more than the series, DN."""
        return 1000 if float(self.baseline) >= 4 and self.provider != "earth-search" else 0

    def write(self, cogs: Path) -> None:
        (cogs / self.id).mkdir(parents=True, exist_ok=True)
        for band, key in self.keys.items():
            data = self.series.layers[band][self.date]
            if band != SCL:
                data = np.where(data > 0, np.minimum(data.astype(np.int32) + self.offset, 65_535), 0).astype(np.uint16)
            resolution = 10 if band in BANDS_10M else 20
            with rasterio.open(
                cogs / self.id / f"{key}.tif", "w", driver="COG", height=data.shape[0], width=data.shape[1], count=1,
                dtype=data.dtype, crs=self.series.epsg, nodata=0, compress="DEFLATE", predictor=2, blocksize=512,
                transform=from_origin(self.series.west, self.series.north, resolution, resolution), overviews="NONE",
            ) as out:  # fmt: skip
                out.write(data, 1)

    def item(self) -> dict[str, Any]:
        height, width = self.series.layers["B02"].shape[1:]
        bounds = (self.series.west, self.series.north - 10 * height, self.series.west + 10 * width, self.series.north)
        west, south, east, north = transform_bounds(self.series.epsg, 4326, *bounds)
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        return {
            "type": "Feature", "stac_version": "1.1.0" if self.provider == "cdse" else "1.0.0", "stac_extensions": [],
            "id": self.id, "collection": COLLECTIONS.get(self.provider, "sentinel-2-l2a"), "links": [],
            "bbox": [west, south, east, north], "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": self._properties(), "assets": {key: self._asset(band) for band, key in self.keys.items()},
        }  # fmt: skip

    def _properties(self) -> dict[str, Any]:
        cloudy = np.isin(self.series.layers[SCL][self.date], (3, 8, 9, 10)).mean()
        told: dict[str, Any] = {
            "datetime": f"{self.series.times[self.date]}Z", "platform": "sentinel-2a", "instruments": ["msi"],
            "constellation": "sentinel-2", "eo:cloud_cover": round(100 * float(cloudy), 2),
            "grid:code": f"MGRS-{self.series.tile}",
        }  # fmt: skip
        if self.provider == "cdse":
            return told | {"processing:version": self.baseline, "proj:code": f"EPSG:{self.series.epsg}"}
        if self.provider == "earth-search":
            told["earthsearch:boa_offset_applied"] = float(self.baseline) >= 4
        return told | {"s2:processing_baseline": self.baseline, "proj:epsg": self.series.epsg}

    def _asset(self, band: str) -> dict[str, Any]:
        resolution = 10 if band in BANDS_10M else 20
        asset: dict[str, Any] = {
            "href": f"{self.base.rstrip('/')}/{self.id}/{self.keys[band]}.tif", "roles": ["data"],
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "proj:shape": list(self.series.layers[band].shape[1:]),
            "proj:transform": [resolution, 0, self.series.west, 0, -resolution, self.series.north],
        }  # fmt: skip
        if band == SCL or self.provider == "planetary-computer":  # which states nothing, as served
            return asset
        if self.provider == "cdse":
            return asset | {"raster:scale": 0.0001, "raster:offset": -self.offset / 10_000, "nodata": 0}
        stated = -0.1 if float(self.baseline) >= 4 else 0  # earth-search says so though it has taken the offset off
        return asset | {"raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": stated}]}
