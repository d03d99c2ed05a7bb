"""Scenes + grid -> lazy DN stacks at each band's native resolution, read by stackstac.

The adapter never lets stackstac derive a grid: items are rebuilt from `Scene`, with `proj:epsg` in place whatever the
catalogue wrote, and CRS, bounds and pixel size are always given. Pixels on the tile's own grid come back unchanged;
those of another UTM zone are warped with nearest neighbour. A read that fails raises; it never becomes nodata.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import dask.array as da
import numpy as np
import stackstac
from rasterio.enums import Resampling
from stackstac.rio_env import LayeredEnv
from stackstac.rio_reader import AutoParallelRioReader

from geomap.errors import GeomapError, HrefError, ReadError, SourceUnavailableError
from geomap.hrefs import redact
from geomap.sentinel2 import BANDS_10M, BANDS_20M, SCL
from geomap.types import BandStack, Grid, Period, Scene, Stack

GDAL_OPTIONS: Final[dict[str, str | int]] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no requests for sidecar files
    "GDAL_HTTP_MAX_RETRY": 6,  # GDAL's default is none; six waits of 0.5, 1, 2 ... s are 32 s in all
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_TIMEOUT": 60,  # s
    "GDAL_HTTP_CONNECTTIMEOUT": 10,  # s
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,  # bytes/s ...
    "GDAL_HTTP_LOW_SPEED_TIME": 30,  # ... for 30 s: give up and retry
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,  # a COG's header in one request
    "VSI_CACHE": "TRUE",
    "VSI_CACHE_SIZE": 5_000_000,  # bytes per file
    "GDAL_CACHEMAX": 256,  # MB; the default is 5 % of the memory per process
    "GDAL_NUM_THREADS": 1,  # dask supplies the parallelism
}
"""GDAL configuration of every read (GDAL configuration options, "Networking options")."""

DRIVERS: Final = ("GTiff", "JP2OpenJPEG")
"""The only formats opened: a VRT under a .tif name could point anywhere."""

DTYPES: Final = {"uint16": ("uint16",), "uint8": ("uint8", "uint16")}
"""What a file may hold where DNs (uint16) or scene classes (uint8) are read."""

CHUNK_BYTES: Final = 64 * 2**20
"""Upper bound of one chunk: all scenes of one band over a square."""


def stack(scenes: Sequence[Scene], grid: Grid, period: Period, gdal_options: Mapping[str, str]) -> Stack:
    """The scenes over a tile of 10 m pixels, lazily.

    Args:
        scenes: those that touch the tile, each inside the period; the order decides which granule of one pass wins.
        grid: 10 m, of even size.
        period: the months that `Stack.step` counts.
        gdal_options: added to GDAL_OPTIONS; a provider's access settings.

    Raises:
        ValueError: no scenes, or a scene outside the period.
    """
    steps = [period.step(scene.time) for scene in scenes]
    if not scenes or None in steps:
        raise ValueError("stack needs at least one scene, and every scene inside the period")
    options = {**GDAL_OPTIONS, **gdal_options}
    chunk = chunk_px(len(scenes))
    coarse = grid.at(20)
    passes = {key: number for number, key in enumerate(dict.fromkeys(s.acquisition for s in scenes))}
    return Stack(
        fine=_bands(scenes, BANDS_10M, grid, chunk, options),
        coarse=_bands(scenes, BANDS_20M, coarse, chunk // 2, options),
        scl=_layers(scenes, (SCL,), coarse, chunk // 2, np.uint8, options)[:, 0],
        step=tuple(step for step in steps if step is not None),
        acquisition=tuple(passes[s.acquisition] for s in scenes),
    )


def chunk_px(scenes: int) -> int:
    """Pixels per side of a 10 m chunk: 512, or less where many scenes would overflow CHUNK_BYTES."""
    side = 512
    while side > 64 and 2 * scenes * side**2 > CHUNK_BYTES:
        side //= 2
    return side


def _bands(
    scenes: Sequence[Scene], bands: Sequence[str], grid: Grid, chunk: int, options: Mapping[str, Any]
) -> BandStack:
    offset = np.array([[scene.assets[band].offset for band in bands] for scene in scenes], np.int32)
    return BandStack(_layers(scenes, bands, grid, chunk, np.uint16, options), offset)


def _layers(
    scenes: Sequence[Scene],
    bands: Sequence[str],
    grid: Grid,
    chunk: int,
    dtype: type[np.unsignedinteger[Any]],
    options: Mapping[str, Any],
) -> da.Array:
    """(scene, band, y, x) raw values, 0 where a scene has none."""
    cube = stackstac.stack(
        [_item(scene, bands) for scene in scenes],
        assets=list(bands),
        epsg=grid.epsg,
        resolution=grid.resolution,
        bounds=grid.bounds,
        snap_bounds=False,
        dtype=np.dtype(dtype),
        fill_value=dtype(0),
        rescale=False,  # offsets are decided in the catalogue stage and applied in the composite
        resampling=Resampling.nearest,
        chunksize=(-1, 1, chunk, chunk),
        sortby_date=False,
        xy_coords=False,
        properties=False,
        band_coords=False,
        gdal_env=LayeredEnv(always=dict(options)),
        errors_as_nodata=(),
        reader=SceneReader,
    )
    wanted = (len(scenes), len(bands), *grid.shape)
    if not cube.sizes["time"]:  # boxes in degrees touched, rasters do not: nothing here
        nothing: da.Array = da.zeros(wanted, dtype=dtype, chunks=(-1, 1, chunk, chunk))
        return nothing
    return _all_scenes(cube.data, [str(i) for i in cube.coords["id"].values], scenes, wanted)


def _all_scenes(cube: da.Array, ids: list[str], scenes: Sequence[Scene], wanted: tuple[int, ...]) -> da.Array:
    """Put back, as nodata, the scenes that stackstac dropped because they miss the grid."""
    if cube.shape == wanted:
        return cube
    if cube.shape[1:] != wanted[1:]:
        raise ReadError(f"stackstac returned {cube.shape} where {wanted} was asked for")
    empty = da.zeros((1, *cube.shape[1:]), dtype=cube.dtype, chunks=(1, *cube.chunks[1:]))
    row = {scene_id: i for i, scene_id in enumerate(ids)}
    parts = [cube[row[s.id] : row[s.id] + 1] if s.id in row else empty for s in scenes]
    whole: da.Array = da.concatenate(parts).rechunk({0: -1})
    return whole


def _item(scene: Scene, bands: Sequence[str]) -> dict[str, Any]:
    """The scene as the STAC item that stackstac understands."""
    assets: dict[str, dict[str, Any]] = {}
    for band in bands:
        asset = scene.assets[band]
        assets[band] = {"href": asset.href, "type": "image/tiff"}
        if asset.transform and asset.shape:
            assets[band] |= {"proj:transform": list(asset.transform), "proj:shape": list(asset.shape)}
    west, south, east, north = scene.bbox
    return {
        "type": "Feature",
        "id": scene.id,
        "bbox": [west, south, east if east >= west else east + 360, north],
        "properties": {"datetime": scene.time.isoformat(), "proj:epsg": scene.epsg},
        "assets": assets,
    }


class SceneReader(AutoParallelRioReader):  # type: ignore[misc]
    """stackstac's reader, with errors that name the file and the cause, and never a signed address."""

    def _open(self) -> Any:
        try:
            dataset = super()._open()
        except RuntimeError as e:
            raise explain(e, self.url) from None
        driver = getattr(dataset, "_driver", None) or dataset.ds.driver
        if driver not in DRIVERS:
            raise HrefError(f"{redact(self.url)} is a {driver} file; only GeoTIFF and JPEG 2000 are read")
        found = (getattr(dataset, "ds", None) or dataset.dataset).dtypes[0]
        if found not in DTYPES[self.dtype.name]:  # reflectance as floats, say, would be cut to 0 and 1
            raise ReadError(f"{redact(self.url)} holds {found}, not the {self.dtype} DNs of Sentinel-2 L2A")
        return dataset

    def read(self, window: Any, **kwargs: Any) -> Any:
        try:
            return super().read(window, **kwargs)
        except RuntimeError as e:
            raise explain(e, self.url) from None


_TRANSIENT = re.compile(
    r"HTTP response code: (?:429|5\d\d)|HTTP error code : (?:429|5\d\d)|timed? ?out|CURL error"
    r"|Could not resolve|Could ?n[o']t connect|Connection (?:refused|reset)|Failed to connect|Empty reply",
    re.IGNORECASE,
)
_HTTP_CODE = re.compile(r"HTTP (?:response|error) code ?: (\d{3})")


def explain(error: BaseException, href: str) -> GeomapError:
    """The geomap error for a failed read: temporary where the server refuses or does not answer."""
    causes = _chain(error)
    code = _HTTP_CODE.search(causes)
    what = f"HTTP {code[1]}" if code else _last_line(causes.replace(href, redact(href)))
    if _TRANSIENT.search(causes):
        return SourceUnavailableError(f"{redact(href)} cannot be read now ({what}); run the same command again later")
    if code and code[1] in ("401", "403"):
        return ReadError(
            f"{redact(href)} may not be read ({what}); the server wants credentials, or the token has expired: "
            "set them in the environment (cdse: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and run again"
        )
    return ReadError(
        f"{redact(href)} cannot be read ({what}); the file is missing or damaged: try again later, or map "
        "from an item file without this scene"
    )


def _chain(error: BaseException | None) -> str:
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"\?\S+", "", lines[-1])[:200] if lines else "unknown cause"
