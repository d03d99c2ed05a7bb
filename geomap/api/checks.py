"""What the Python API accepts, and the line that says why anything else is refused."""

from __future__ import annotations

import logging
import math
import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rioxarray  # noqa: F401  gives arrays their `.rio`
import torch
import xarray as xr
from numpy.typing import NDArray
from pydantic import ValidationError
from rasterio.warp import transform_bounds

from geomap import config
from geomap import legends as books
from geomap.composite.median import observed_np
from geomap.errors import InputError, LegendError
from geomap.grid import RESOLUTION
from geomap.legends import Legend
from geomap.lonlat import Box
from geomap.points.read import PointFiles
from geomap.run.keys import DEFAULT_LEGEND, MIN_CLEAR_MONTHS, FinishKeys, Restriction, require_points, several
from geomap.run.request import restriction_of
from geomap.run.workers import GUARD, Resources
from geomap.sentinel2 import BANDS
from geomap.text import shown
from geomap.types import CLEAR_MONTHS, NOT_MAPPED, Finish
from geomap.write.layer import Layer

log = logging.getLogger(__name__)

SERIES = ("month", "band", "y", "x")
EMBEDDING = ("component", "y", "x")
RESERVED = frozenset({"x", "y", "spatial_ref", CLEAR_MONTHS})
"""Names in a Dataset of maps that no legend may have."""
LONGEST = 80
"""Most characters of a value in a message."""
UTM = frozenset({*range(32601, 32661), *range(32701, 32761)})
"""EPSG codes of the UTM zones of WGS 84."""
DARK = 255
"""A largest DN up to this is told of: percent and the bytes of a picture have no more. Of 36,000 points of
points/rondonia_2022 and points/africa_crop_mask_2019, water among them, each reaches 408 or more within its year."""
BRIGHT = 2
"""Reflectances lie below: fresh snow and glint reach somewhat more than 1."""
LENGTH_WITHIN = 0.01
"""Tolerance of an embedding's length; stored embeddings are unit vectors to 1e-6."""


def checked_series(series: xr.DataArray) -> tuple[NDArray[np.uint16], tuple[int, ...], NDArray[np.bool_]]:
    """(T, C, y, x) DNs with bands in sentinel2.BANDS order, the calendar month 0..11 of each step, and (y, x) inside.

    Takes any whole numbers 0..65535, NaN and SATURATED as nodata: arithmetic and files turn a composite into floats.

    Raises InputError.
    """
    _require_dims(series, SERIES, "a composite, as geomap.composite gives it")
    if lost := [name for name in ("band", "month") if name not in series.coords]:
        like = {"band": "list(geomap.sentinel2.BANDS)", "month": 'pandas.date_range("2023-01", periods=12, freq="MS")'}
        raise InputError(f"the composite lacks the coordinate {lost[0]}; add .assign_coords({lost[0]}={like[lost[0]]})")
    if sorted(names := [str(band) for band in series.coords["band"].values]) != sorted(BANDS):
        raise InputError(f"embed needs the bands {', '.join(BANDS)}, each once, not {', '.join(names)}")
    dates = series.coords["month"].values
    if not np.issubdtype(dates.dtype, np.datetime64) or np.isnat(dates).any():
        raise InputError("the coordinate month must hold dates, such as 2023-04-01")
    months = tuple(int(month) % 12 for month in dates.astype("datetime64[M]").astype(int))
    if not months or len(set(months)) < len(months):
        raise InputError("embed needs 1 to 12 months, each calendar month at most once")
    ordered = series.assign_coords(band=names).sel(band=list(BANDS)).transpose(*SERIES)
    inside = np.ones(ordered.shape[2:], bool)
    if "inside" in series.coords:
        inside = _of_pixels(series, "inside", False, np.bool_)
    return _digital_numbers(ordered.values), months, inside


def _beside(series: xr.DataArray | None, embeddings: xr.DataArray) -> tuple[NDArray[np.uint16] | None, tuple[int, ...]]:
    """(T, C, y, x) DNs of the pixels of embeddings, and the calendar month of each step; None and () of no series.

    Raises InputError for the series of other pixels.
    """
    if series is None:
        return None, ()
    dn, months, _ = checked_series(series)
    for axis in ("y", "x"):
        one, other = (np.asarray(array[axis].values) for array in (series, embeddings))
        if one.shape != other.shape or not (one == other).all():
            raise InputError(
                f"series must be of the pixels of the embeddings, and its {axis} are others: select "
                "series.sel(y=embeddings.y, x=embeddings.x)"
            )
    return dn, months


def require_neighbours(array: xr.DataArray, size: int, what: str, instead: str, reversible: bool = False) -> None:
    """Refuse, for windows of `size` > 1 pixels, an array in which neighbours are not 10 m apart.

    y falls and x rises from pixel to pixel, or, where `reversible`, either does either. An axis without coordinates is
    taken as it is. `what` takes the windows, and `instead` is what to do, for the message. Raises InputError.
    """
    for axis, step in (("y", -RESOLUTION), ("x", RESOLUTION)):
        if size == 1 or axis not in array.coords:
            continue
        steps = np.diff(array.coords[axis].values)
        if not (np.allclose(steps, step) or (reversible and np.allclose(steps, -step))):
            must = "y and x must go on" if reversible else "y must fall and x rise"
            raise InputError(
                f"{what} {size} x {size} pixels: {must} by {RESOLUTION} m from pixel to pixel, and {axis} does not; "
                f"{instead} as they were made, then select"
            )


def _digital_numbers(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Whole numbers as DNs, 0 where they are NaN or SATURATED. Raises InputError."""
    dn = np.ascontiguousarray(observed_np(values if values.dtype == np.uint16 else _whole(values)))
    if 0 < (most := int(dn.max())) <= DARK:
        log.warning(
            "the largest value of the series is %d, where reflectance x 10000 has some thousand over land; give "
            "series * 100 if these are percent",
            most,
        )
    return dn


def _whole(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Whole numbers 0..65535 of another type as uint16, NaN as 0. Raises InputError."""
    needs = "embed needs reflectance x 10000 as whole numbers 0..65535"
    if values.dtype.kind in "ui" and values.dtype.itemsize == 1:
        raise InputError(f"{needs}, which 8 bits cannot hold; give series as geomap.composite gives it")
    if values.dtype.kind in "uif":  # bool is none of these
        plain = np.nan_to_num(np.asarray(values, np.float64), nan=0.0)
        least, most = plain.min(), plain.max()
        if least < 0:
            raise InputError(f"{needs}, and there is {least:g}; if that is nodata, give series.where(series > 0, 0)")
        if most <= 65535:
            if (plain == np.floor(plain)).all():
                return plain.astype(np.uint16)
            rounded = "(series * 10000).round()" if most < BRIGHT else "series.round()"
            raise InputError(f"{needs}, and these are fractions up to {most:.6g}; give {rounded}")
    raise InputError(f"{needs}, as geomap.composite gives it")


def _of_pixels(array: xr.DataArray, name: str, missing: int, dtype: type[np.generic]) -> NDArray[Any]:
    """(y, x) values of a coordinate, `missing` where reindex or pad left them empty. Raises InputError."""
    found = array.coords[name]
    if sorted(map(str, found.dims)) != ["x", "y"]:
        raise InputError(f"the coordinate {name} must be of (y, x), not of ({', '.join(map(str, found.dims))})")
    try:
        if found.dtype.kind not in "biufO":  # O: whole numbers and the NaN of reindex
            raise ValueError
        placed: NDArray[Any] = found.where(found.notnull(), missing).transpose("y", "x").values.astype(dtype)
    except ValueError as e:
        what = "True and False" if dtype is np.bool_ else "numbers"
        raise InputError(f"the coordinate {name} must hold {what}, as geomap gives it, not {found.dtype}") from e
    return placed


@dataclass(frozen=True, slots=True)
class Pixels:
    """The pixels of a call of `label`."""

    vectors: NDArray[np.float32]  # (D, y, x) unit, NaN where not mapped
    clear_months: NDArray[np.uint8]  # (y, x)
    dn: NDArray[np.uint16] | None  # (T, C, y, x) their series, 0 = nodata; None without
    steps: tuple[int, ...]  # (T,) calendar month 0..11 of each step; () without series

    def series(self, where: NDArray[np.intp]) -> torch.Tensor:
        """(n, T, C) DNs at flat indices (n,) into (y, x)."""
        assert self.dn is not None
        pixels = self.dn.reshape(*self.dn.shape[:2], -1)[:, :, where]
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def checked_embeddings(embeddings: xr.DataArray, dimensions: int, series: xr.DataArray | None = None) -> Pixels:
    """The pixels of embeddings, with their series where it is given. Raises InputError."""
    _require_dims(embeddings, EMBEDDING, "embeddings, as geomap.embed gives them")
    if CLEAR_MONTHS not in embeddings.coords:
        raise InputError(f"the embeddings lack the coordinate {CLEAR_MONTHS}, which geomap.embed gives them")
    vectors = np.array(embeddings.transpose(*EMBEDDING).values, np.float32)
    if len(vectors) != dimensions:
        raise InputError(f"the embeddings have {len(vectors)} components, and their weights {dimensions}")
    length = np.sqrt((vectors * vectors).sum(axis=0))
    vectors[:, ~np.isfinite(length)] = np.nan
    if (np.abs(length[np.isfinite(length)] - 1) > LENGTH_WITHIN).any():
        raise InputError("label needs unit vectors; divide each pixel's vector by its length")
    months = _of_pixels(embeddings, CLEAR_MONTHS, NOT_MAPPED, np.uint8)
    return Pixels(vectors, months, *_beside(series, embeddings))


def _require_dims(array: object, dims: Sequence[str], what: str) -> None:
    if not isinstance(array, xr.DataArray) or sorted(map(str, array.dims)) != sorted(dims):
        found = (
            f"dimensions ({', '.join(map(str, array.dims))})"
            if isinstance(array, xr.DataArray)
            else type(array).__name__
        )
        raise InputError(f"give {what}: an xarray.DataArray of ({', '.join(dims)}), not {found}")
    if 0 in array.shape:
        raise InputError(f"there is no pixel in {what.partition(',')[0]} of shape {array.shape}")
    for axis in ("y", "x"):
        if axis in array.coords and (kind := array.coords[axis].dtype).kind not in "iuf":
            raise InputError(f"the coordinate {axis} must hold metres, not {kind}")


def checked_least(least: int | None, months: int) -> int:
    """Clear months that a pixel needs, 3 unless there are fewer. Raises InputError."""
    if least is None:
        return min(MIN_CLEAR_MONTHS, months)
    if isinstance(least, bool) or not isinstance(least, int | np.integer) or not 1 <= least <= months:
        raise InputError(f"min_clear_months must be a whole number 1..{months}, not {_what(least)}")
    return int(least)


def checked_share(name: str, value: float) -> float:
    """A number 0..1. Raises InputError."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and 0 <= value <= 1):
        raise InputError(f"{name} must be a share 0..1, not {_what(value)}")
    return float(value)


def checked_flag(name: str, value: bool) -> bool:
    """True or False, and not "no", which would count as true. Raises InputError."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} must be True or False, not {_what(value)}")
    return bool(value)


def checked_path(function: str, path: Path | str, what: str) -> Path:
    """A path. Raises InputError."""
    if not isinstance(path, str | Path):
        raise InputError(f"give {function} the path of {what}, not {_what(path)}")
    return Path(path)


def _what(value: object) -> str:
    """A value that is refused, for a message: a table or an array, which take many lines, by its type."""
    said = repr(value)
    short = type(value).__module__ == "builtins" or (said.isprintable() and len(said) <= LONGEST)
    return shown(said) if short else type(value).__name__


def checked_names(name: str, value: str | Sequence[str]) -> tuple[str, ...]:
    """Names in their order: one text, or a list. Raises InputError, for sets too, which have no order."""
    found = (value,) if isinstance(value, str) else value
    if isinstance(found, list | tuple | np.ndarray) and all(isinstance(one, str) for one in found):
        return tuple(str(one) for one in found)
    raise InputError(f"{name} must be a list of names, such as ['maize', 'grass'], not {_what(value)}")


def checked_within(within: str | Restriction) -> Restriction:
    """(legend, class), from text as the command takes it too. Raises InputError."""
    try:
        return restriction_of(within)
    except ValueError as e:
        raise InputError(f"within: {e}") from e


def checked_finish(smooth: int | np.integer[Any], layers: str | Sequence[str]) -> Finish:
    """A window and more layers, as the command takes them. Raises InputError."""
    smooth = int(smooth) if isinstance(smooth, np.integer) else smooth
    try:
        return FinishKeys.model_validate({"smooth": smooth, "layers": layers}).finish
    except ValidationError as e:
        raise InputError("; ".join(config.problems(e, FinishKeys))) from e


def box_of(embeddings: xr.DataArray) -> Box | None:
    """The box in degrees around the pixels of an array; None if it does not tell where it lies."""
    if not {"x", "y"} <= set(embeddings.coords) or (crs := embeddings.rio.crs) is None:
        return None
    alone = RESOLUTION if crs.is_projected else 0.0
    (west, east), (south, north) = (_ends(embeddings[axis].values, alone) for axis in ("x", "y"))
    return Box(*transform_bounds(crs, "EPSG:4326", west, south, east, north))


def _ends(centres: NDArray[np.float64], alone: float) -> tuple[float, float]:
    """The outer edges of pixels along an axis, in its units: half a step beyond their centres, in whatever order.

    `alone`: the step of a single pixel, which does not tell its own.
    """
    known = np.unique(centres[~np.isnan(centres)])
    half = (np.diff(known).min() if len(known) > 1 else alone) / 2
    return float(known[0] - half), float(known[-1] + half)


def zone_of(embeddings: xr.DataArray) -> int:
    """The EPSG code of the UTM zone of an array, which has its coordinates. Raises InputError."""
    if lost := [axis for axis in ("x", "y") if axis not in embeddings.coords]:
        raise InputError(f"points go by the coordinates of the embeddings, which lack {lost[0]}; keep those of embed")
    if (crs := embeddings.rio.crs) is None:
        raise InputError("the embeddings name no coordinate system; keep the coordinate spatial_ref that embed sets")
    if not (code := crs.to_epsg()) or code not in UTM:
        named = f"EPSG:{code}" if code else shown(crs.to_string())
        raise InputError(
            f"points go by UTM zones of WGS 84, and the embeddings are in {named}; keep the system that embed gave "
            "them, such as EPSG:32631"
        )
    return int(code)


def checked_legends(
    classes: str | Sequence[str] | None, legends: Legend | str | Sequence[Legend | str], default: bool = True
) -> tuple[Legend, ...]:
    """The legends of a call of `label`; land cover if none is named, by `default`. Raises InputError, LegendError."""
    named = [legends] if isinstance(legends, Legend) or not isinstance(legends, list | tuple) else list(legends)
    if odd := [one for one in named if not isinstance(one, Legend | str | Path)]:
        raise InputError(f"legends must be names, .toml files or Legends, not {_what(odd[0])}")
    found = [one if isinstance(one, Legend) else books.load(str(one)) for one in named]
    if classes is not None:
        names = classes.split(",") if isinstance(classes, str) else checked_names("classes", classes)
        if several := [name for name in names if "," in name]:
            raise LegendError(f"classes must be names without a comma, not {several[0]!r}")
        found.append(books.typed(",".join(names)))
    if taken := sorted({legend.name for legend in found} & RESERVED):
        raise LegendError(f"a legend may not be called {taken[0]}: maps have a coordinate of that name; rename it")
    return tuple(found) or ((books.load(DEFAULT_LEGEND),) if default else ())


def require_free(layers: Sequence[Layer]) -> None:
    """Refuse a map with the name of the dimension of another one's bands, which would replace it.

    Raises LegendError.
    """
    dimensions = {class_dimension(layer): layer.stem for layer in layers if layer.bands}
    if taken := sorted(dimensions.keys() & {layer.stem for layer in layers}):
        raise LegendError(f"a dimension of {dimensions[taken[0]]} is called {taken[0]} already; rename that legend")


def class_dimension(layer: Layer) -> str:
    """The dimension of a map with a band for each class."""
    return f"{layer.stem.removesuffix('_probabilities')}_class"


def checked_points(
    points: Path | str | Sequence[Path | str] | None,
    column: str | None,
    crs: object,
    learned: Path | str | None,
    others: bool,
) -> PointFiles | None:
    """The labelled points of a call of `label`. Raises InputError."""
    named = several(points)
    if not isinstance(named, list | tuple) or not all(isinstance(file, str | Path) for file in named):
        raise InputError(
            f'points must be the path of a file, or several, not {_what(points)}; write one: .to_file("points.gpkg")'
        )
    if not isinstance(learned, str | Path | None):
        raise InputError(f"learned must be the path of a run or of its learned.json, not {_what(learned)}")
    if crs is not None and not named:
        raise InputError("points_crs: it goes with points")
    try:
        require_points(named, column, None if learned is None else str(learned), others)
    except ValueError as e:
        raise InputError(str(e)) from e
    system = None if crs is None else str(crs)
    return PointFiles(tuple(map(str, named)), column, system) if named and column is not None else None


def checked_run(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run by name, with paths for text. Raises InputError."""
    found = dict(options)
    for name in {"refresh", "retry_quarantined", "keep_items"} & found.keys():
        found[name] = checked_flag(name, found[name])
    if not isinstance(resources := found.get("resources", Resources()), Resources):
        raise InputError(f"resources must be such as geomap.run.workers.Resources(workers=2), not {_what(resources)}")
    if resources.workers:
        _require_parent()
    if "earlier" in found:
        named = several(found["earlier"])
        if not isinstance(named, list | tuple) or not all(isinstance(run, str | Path) for run in named):
            raise InputError(f"earlier must be directories of runs, not {_what(found['earlier'])}")
        found["earlier"] = tuple(map(Path, named))
    return found


def _require_parent() -> None:
    """Raise InputError in a process that cannot start workers."""
    me = multiprocessing.current_process()
    if getattr(me, "_inheriting", False):  # it is still importing the script, as multiprocessing itself checks too
        raise InputError(
            f"each worker runs the script that starts it, and would start workers too; put map_area under {GUARD}"
        )
    if me.daemon:
        raise InputError(
            "workers cannot start from a process of multiprocessing.Pool, which may start none; use "
            "concurrent.futures.ProcessPoolExecutor, or leave resources out"
        )
