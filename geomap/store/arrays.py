"""The arrays of a square of a store: shapes, shards, dimension names, coordinates, CRS, transform.

Sources: CF conventions 1.11, sections 4.4 (time), 5.6 and appendix F (grid_mapping); GDAL's Zarr and netCDF drivers for
`spatial_ref` and `GeoTransform`; the attribute `coordinates` makes xarray read spatial_ref as a coordinate by default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyproj
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from geomap.sentinel2 import BANDS
from geomap.types import Grid, Period

EMBEDDING_CHUNK: Final = 256
"""Pixels per side of a chunk inside a shard: 8 MB with 128 components."""
COMPOSITE_CHUNK: Final = 512
"""Pixels per side of a chunk inside a shard: 0.5 MB, one month and band."""
_ZSTD: Final = ZstdCodec(level=1, checksum=True)  # codes hardly shrink: level 3 took twice the time for 4 % less
_EPOCH: Final = np.datetime64("1970-01-01")


@dataclass(frozen=True, slots=True)
class TiledArray:
    """An array over the whole tiles of a square; the pixels of a tile lie in one file."""

    name: str
    dtype: type[np.integer[Any]]
    dims: tuple[str, ...]  # before y and x
    fill: int
    about: Mapping[str, Any]  # attributes
    chunk: int | None = None  # most pixels per side of a chunk in a tile's shard; None: a tile is one chunk, no shard
    apart: bool = False  # a chunk in a shard holds one index of each of `dims`, not all

    def create(self, group: Any, grid: Grid, side: int, sizes: tuple[int, ...]) -> None:
        """Make it, empty, over whole tiles of `side` pixels; `sizes` are those of `dims`."""
        whole = (*sizes, side, side)  # of a tile
        inner = math.gcd(side, self.chunk) if self.chunk else side
        group.create_array(
            self.name,
            shape=(*sizes, *grid.shape),
            dtype=self.dtype,
            chunks=(*((1,) * len(sizes) if self.apart else sizes), inner, inner),
            shards=whole if self.chunk else None,
            compressors=_ZSTD,
            fill_value=self.fill,
            dimension_names=(*self.dims, "y", "x"),
            attributes={**self.about, "grid_mapping": "spatial_ref", "coordinates": "spatial_ref"},  # for xarray
        )

    def file(self, row: int, column: int) -> str:
        """Where a tile's pixels lie in the square's group (zarr-specs, chunk key encoding "default")."""
        return "/".join((self.name, "c", *"0" * len(self.dims), str(row), str(column)))


EMBEDDING_ARRAYS: Final = (
    TiledArray(
        "embedding", np.int8, ("component",), 0,
        {"long_name": "embedding: coordinates along `basis`, divided by the largest; all 0 where not mapped"},
        EMBEDDING_CHUNK,
    ),
    TiledArray(
        "clear_months", np.uint8, (), 255, {"long_name": "months with a clear observation", "_FillValue": 255}
    ),
)  # fmt: skip
COMPOSITE_ARRAYS: Final = (
    TiledArray(
        "composite", np.uint16, ("month", "band"), 0,
        {"long_name": "monthly median, reflectance x 10000", "bands": list(BANDS), "_FillValue": 0},
        COMPOSITE_CHUNK, apart=True,
    ),
    TiledArray("clear", np.uint8, ("month",), 0, {"long_name": "clear observations"}),
)  # fmt: skip
"""The large array of a store, and the small one, which has a file for each tile written, even where it is empty."""


def georeference(group: Any, grid: Grid) -> None:
    """Coordinates of the pixels' centres, CRS and transform."""
    crs = pyproj.CRS.from_epsg(grid.epsg)
    a, b, c, d, e, f = grid.transform
    mapping = {**crs.to_cf(), "spatial_ref": crs.to_wkt(), "GeoTransform": f"{c} {a} {b} {f} {d} {e}"}
    coordinate(group, "spatial_ref", np.array(0, np.int64), (), mapping)
    for name, start, step, count in (("x", grid.west, a, grid.width), ("y", grid.north, e, grid.height)):
        about = {"standard_name": f"projection_{name}_coordinate", "units": "m", "axis": name.upper()}
        coordinate(group, name, start + (np.arange(count) + 0.5) * step, (name,), about)


def months_and_bands(group: Any, period: Period) -> None:
    """Coordinates of the months and bands of composites."""
    months = np.array([np.datetime64(f"{name}-01") for name in period.month_names])
    time = {"standard_name": "time", "units": "days since 1970-01-01", "calendar": "proleptic_gregorian", "axis": "T"}
    coordinate(group, "month", (months - _EPOCH).astype(np.int32), ("month",), time)
    names = group.create_array("band", shape=(len(BANDS),), dtype=str, dimension_names=("band",))
    names[:] = np.array(BANDS, dtype=object)


def coordinate(group: Any, name: str, values: NDArray[Any], dims: tuple[str, ...], about: Mapping[str, Any]) -> None:
    """A small array, written whole."""
    array = group.create_array(
        name, shape=values.shape, dtype=values.dtype, compressors=None, dimension_names=dims, attributes=dict(about)
    )
    array[...] = values
