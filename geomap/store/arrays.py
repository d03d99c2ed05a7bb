"""The arrays of a store's zone: shapes, shards, names of dimensions, coordinates, CRS and transform (store.py).

Sources: CF conventions 1.11, sections 4.4 (time), 5.6 and appendix F (grid_mapping); GDAL's Zarr and netCDF drivers for
`spatial_ref` and `GeoTransform`; the attribute `coordinates` lets xarray take spatial_ref for a coordinate unasked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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


def georeference(group: Any, grid: Grid) -> None:
    """Coordinates of the pixels' centres, CRS and transform."""
    crs = pyproj.CRS.from_epsg(grid.epsg)
    a, b, c, d, e, f = grid.transform
    mapping = {**crs.to_cf(), "spatial_ref": crs.to_wkt(), "GeoTransform": f"{c} {a} {b} {f} {d} {e}"}
    coordinate(group, "spatial_ref", np.array(0, np.int64), (), mapping)
    for name, start, step, count in (("x", grid.west, a, grid.width), ("y", grid.north, e, grid.height)):
        about = {"standard_name": f"projection_{name}_coordinate", "units": "m", "axis": name.upper()}
        coordinate(group, name, start + (np.arange(count) + 0.5) * step, (name,), about)


def embedding_arrays(group: Any, grid: Grid, side: int, size: int) -> None:
    """Codes of `size` components, and clear months, over whole tiles of `side` pixels."""
    about = {"long_name": "embedding: coordinates along `basis`, divided by the largest; all 0 where not mapped"}
    _array(group, "embedding", np.int8, ("component",), (size,), grid, side, 0, about, math.gcd(side, EMBEDDING_CHUNK))
    months = {"long_name": "months with a clear observation", "_FillValue": 255}
    _array(group, "clear_months", np.uint8, (), (), grid, side, 255, months)


def composite_arrays(group: Any, grid: Grid, side: int, period: Period) -> None:
    """Monthly composites and counts of clear observations, over whole tiles of `side` pixels."""
    months = np.array([np.datetime64(f"{name}-01") for name in period.month_names])
    time = {"standard_name": "time", "units": "days since 1970-01-01", "calendar": "proleptic_gregorian", "axis": "T"}
    coordinate(group, "month", (months - _EPOCH).astype(np.int32), ("month",), time)
    names = group.create_array("band", shape=(len(BANDS),), dtype=str, dimension_names=("band",))
    names[:] = np.array(BANDS, dtype=object)
    about = {"long_name": "monthly median, reflectance x 10000", "bands": list(BANDS), "_FillValue": 0}
    lead, chunk = (period.months, len(BANDS)), math.gcd(side, COMPOSITE_CHUNK)
    _array(group, "composite", np.uint16, ("month", "band"), lead, grid, side, 0, about, chunk)
    _array(group, "clear", np.uint8, ("month",), lead[:1], grid, side, 0, {"long_name": "clear observations"})


def _array(
    group: Any,
    name: str,
    dtype: Any,
    dims: tuple[str, ...],
    lead: tuple[int, ...],
    grid: Grid,
    side: int,
    fill: int,
    about: Mapping[str, Any],
    chunk: int | None = None,
) -> None:
    """An array of a zone, one shard of chunks for each tile or, without `chunk`, one chunk for each."""
    inner = lead if name == "embedding" else (1,) * len(lead)  # all components together; a month and band by itself
    group.create_array(
        name,
        shape=(*lead, *grid.shape),
        dtype=dtype,
        chunks=(*inner, chunk, chunk) if chunk else (*lead, side, side),
        shards=(*lead, side, side) if chunk else None,
        compressors=_ZSTD,
        fill_value=fill,
        dimension_names=(*dims, "y", "x"),
        attributes={**about, "grid_mapping": "spatial_ref", "coordinates": "spatial_ref"},  # the latter for xarray
    )


def coordinate(group: Any, name: str, values: NDArray[Any], dims: tuple[str, ...], about: Mapping[str, Any]) -> None:
    """A small array, written whole."""
    array = group.create_array(
        name, shape=values.shape, dtype=values.dtype, compressors=None, dimension_names=dims, attributes=dict(about)
    )
    array[...] = values
