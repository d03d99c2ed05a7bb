"""Reads Sen4Map's HDF5 files, and the smaller files cut from them, as labelled samples.

Two layouts, both with one group `Lucas_Point_<POINT_ID>` per point:

    original    B2 ... B12 and SCL, each (dates, 64, 64); attributes Image_ID, lc1, lu1, nuts0 ...
    cut         image (12, 10, h, w): monthly composites of the centre; the same attributes without Image_ID, and,
                where known, Coordinates, EUNIS_L2, bioregion_class_code

Two ways to make months from dates: "masked", as in geomap's maps, and "official", as in the published input. Cut files
of geomap name theirs in the root attribute `composite`; files without it are the published ones.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from geomap import files
from geomap.datasets import lucas
from geomap.datasets.extras import require_packages
from geomap.datasets.months import COMPOSE, MASKED, OFFICIAL, time_of, tokens_np, whole_dn, without_offset
from geomap.datasets.samples import Samples
from geomap.errors import ConfigError, DataError, InputError, OutputError, to_type
from geomap.sentinel2 import BANDS, MONTHS, SCL
from geomap.text import one_line
from geomap.types import Progress, silent

log = logging.getLogger(__name__)

ATTRIBUTES: Final = {
    "landcover": "lc1", "landuse": "lu1", "crops": "lc1", "habitat": "EUNIS_L2", "bioregion": "bioregion_class_code",
}  # fmt: skip
"""Legend -> the attribute of a point that holds its label."""

SIDE: Final = 64
"""Pixels per side of a point in an original file, 10 m each, in all bands."""
PATCHES: Final = (1, 5, 9)
"""Sides of a crop in pixels that the paper's encoders take (table 8)."""
LAYERS: Final = tuple(re.sub(r"^B0", "B", b) for b in BANDS)
"""Names of the band datasets: B2 ... B8, B8A, B11, B12, in geomap's order."""
EXCLUDED: Final = frozenset({"45061526", "45281654", "47501690"})
"""Points that the published training leaves out (list in its data loader)."""
LUCAS_YEAR: Final = 2018
"""The year of the LUCAS survey that Sen4Map uses."""


def read_original(
    path: Path, patch: int = 1, composite: str = MASKED, year: int = LUCAS_YEAR, progress: Progress = silent
) -> Samples:
    """Monthly series of the centre pixels of every point of an original file.

    Args:
        path: Sen4Map's train.h5, val.h5 or test.h5.
        patch: side of the crop, 1, 5 or 9 pixels; its first row and column are SIDE // 2 - patch // 2.
        composite: "masked" or "official"; see geomap.datasets.months.
        year: acquisitions of other years are left out.
        progress: called after every point.

    Returns:
        dn (n, 12, 10 * patch^2) and labels of landcover, landuse and crops. A month is valid where the centre pixel has
        all bands; other pixels of a "masked" month that lack a band take the centre's values. All "official" months
        are valid.

    Raises:
        ConfigError: no such file.
        InputError: another patch or composite.
        DataError: a file or a point that breaks the layout. Points of EXCLUDED that break it are left out.
    """
    _check(patch, composite)
    with _open(path) as f:
        points = _points(f, path, lambda group: _compose(group, patch, composite, year), progress, _reading(path))
        return _samples(path, points, len(f), composite)


def read_cut(path: Path, patch: int | None = None, progress: Progress = silent) -> Samples:
    """Monthly series of a cut file, as from `read_original`; with labels of habitat and bioregion if it has them.

    Args:
        path: a published file (split_wise/1x1_crops/train.h5 ...) or one that `cut_file` wrote.
        patch: side to crop from the centre, in pixels; None: as stored.
        progress: called after every point.

    Raises:
        ConfigError: no such file.
        InputError: another patch, or one larger than the file's.
        DataError: as in `read_original`.
    """
    with _open(path) as f:
        composite = _attribute(f, "composite", OFFICIAL)
        _check(patch or 1, composite)
        points = _points(f, path, lambda group: _stored(group, patch), progress, _reading(path))
        return _samples(path, points, len(f), composite)


def cut_file(
    original: Path,
    out: Path,
    patch: int = 1,
    composite: str = MASKED,
    year: int = LUCAS_YEAR,
    progress: Progress = silent,
) -> int:
    """Write the monthly composites of an original file's centres as a cut file; returns the number of points.

    Images are uint16 (12, 10, patch, patch), 0 = missing; all attributes but Image_ID are kept. The file appears whole
    or not at all. Arguments and errors as in `read_original`; also raises DiskFullError, OutputError, and BusyError if
    another run writes `out`.
    """
    _check(patch, composite)
    parts = files.parts(out)
    part = parts / "cut.h5"
    with _open(original) as f, files.disk_errors(out.parent):
        if out.exists() and out.samefile(original):
            raise OutputError(f"{out} is the file to cut from; choose another --out")
        with files.hold(parts, out, "writing"):
            try:
                points = _points(f, original, lambda g: _compose(g, patch, composite, year), progress, "points")
                n = _write(part, points, composite)
                if not n:
                    raise _no_point(original)
                files.commit(part, out)
            finally:
                part.unlink(missing_ok=True)
    return n


def _write(path: Path, points: Iterator[_Point], composite: str) -> int:
    """Write points as a cut file; returns their number. Raises OSError."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["composite"] = composite
        for point in points:
            group = file.create_group(f"Lucas_Point_{point.id}")
            group.create_dataset("image", data=point.image)
            for key, value in point.attributes.items():
                if key != "Image_ID":
                    group.attrs.create(key, value, dtype=_text_type(value))
        return len(file)


@dataclass(frozen=True)
class _Point:
    id: str
    image: NDArray[np.uint16]  # (12, 10, h, w)
    attributes: Mapping[str, Any]


def _points(
    file: Any, path: Path, image_of: Callable[[Any], NDArray[np.uint16]], progress: Progress, stage: str
) -> Iterator[_Point]:
    """The points of a file, one group in memory at a time, in the file's order."""
    total, seen = len(file), set[str]()
    for done, name in enumerate(file, start=1):
        try:
            (id_,) = lucas.point_ids([name])
            if id_ in seen:
                raise DataError(f"{path} has the point {id_} twice; delete one of its two groups, such as {name}")
            seen.add(id_)
            group = file[name]
            yield _Point(id_, image_of(group), dict(group.attrs))
        except (KeyError, ValueError, TypeError, OSError, RuntimeError) as e:  # what h5py and numpy raise
            reason = e.args[0] if isinstance(e, KeyError) and e.args else e
            if name.removeprefix("Lucas_Point_") not in EXCLUDED:
                raise DataError(f"{path}: {name} cannot be read: {reason}; docs/training-data.md has the layout") from e
            log.warning("%s: %s is left out, as in the published training (%s)", path, name, reason)
        progress(stage, done, total)


def _compose(group: Any, patch: int, composite: str, year: int) -> NDArray[np.uint16]:
    """(12, 10, patch, patch) of an original group. Raises ValueError."""
    scenes = [s.decode() if isinstance(s, bytes) else str(s) for s in np.atleast_1d(group.attrs["Image_ID"])]
    if not any(time_of(s).startswith(str(year)) for s in scenes):
        raise ValueError(f"none of its {len(scenes)} scenes is of {year}")
    dn = np.stack([_centre(group[layer], len(scenes), patch) for layer in LAYERS], axis=1)
    scl = np.minimum(_centre(group[SCL], len(scenes), patch), 255).astype(np.uint8)
    return COMPOSE[composite](without_offset(dn, scenes), scl, scenes, year)


def _centre(layer: Any, dates: int, patch: int) -> NDArray[np.uint16]:
    """(dates, patch, patch) from the middle of (dates, SIDE, SIDE). Raises ValueError."""
    if layer.shape != (dates, SIDE, SIDE):
        raise ValueError(f"{layer.name} is {layer.shape}, not ({dates}, {SIDE}, {SIDE})")
    start = SIDE // 2 - patch // 2
    return whole_dn(layer[:, start : start + patch, start : start + patch])


def _stored(group: Any, patch: int | None) -> NDArray[np.uint16]:
    """(12, 10, h, w) of a cut group. Raises KeyError, ValueError, InputError."""
    try:
        image = group["image"]
    except KeyError as e:
        if SCL not in group:
            raise
        path = Path(group.file.filename)
        line = to_type("samples", "cut", path, "--out", f"{path.stem}_cut.h5", "--patch", patch or 1)
        raise DataError(f"{path} is an original Sen4Map file; cut it first: {line}") from e
    if image.ndim != 4 or image.shape[:2] != (MONTHS, len(BANDS)) or image.shape[2] != image.shape[3]:
        raise ValueError(f"image is {image.shape}, not ({MONTHS}, {len(BANDS)}, h, h)")
    side = image.shape[2]
    patch = patch or side
    if patch > side:
        raise InputError(f"{group.file.filename} holds {side} x {side} pixels of a point, not {patch} x {patch}")
    start = side // 2 - patch // 2
    return whole_dn(image[:, :, start : start + patch, start : start + patch])


def _samples(path: Path, points: Iterator[_Point], size: int, composite: str) -> Samples:
    """Samples of at most `size` points."""
    ids: list[str] = []
    attributes: dict[str, list[Any]] = {k: [] for k in {*ATTRIBUTES.values(), "nuts0"}}
    dn = valid = None
    for k, point in enumerate(points):
        tokens, known = tokens_np(point.image, composite)
        if dn is None or valid is None:
            dn, valid = np.zeros((size, *tokens.shape), np.uint16), np.zeros((size, MONTHS), bool)
        if tokens.shape != dn.shape[1:]:
            raise DataError(f"{path}: the patch of point {point.id} differs in size from others; give a --patch")
        dn[k], valid[k] = tokens, known
        ids.append(point.id)
        for key, values in attributes.items():
            values.append(point.attributes.get(key))
    if dn is None or valid is None:
        raise _no_point(path)
    n = len(ids)
    labels = {
        legend: lucas.label_ids(legend, attributes[key], f"{path}, attribute {key}")
        for legend, key in ATTRIBUTES.items()
        if any(v is not None for v in attributes[key])
    }
    return Samples(
        path.stem, np.array(ids), dn[:n], valid[:n], labels,
        country=lucas.country_codes(attributes["nuts0"]), lonlat=lucas.places(ids),
    )  # fmt: skip


def _no_point(path: Path) -> DataError:
    return DataError(f"{path} holds no point; its groups must be named as Lucas_Point_34622836")


def _reading(path: Path) -> str:
    """Name of the progress stage while a file is read."""
    return f"{path.stem} read"


def _check(patch: int, composite: str) -> None:
    if patch not in PATCHES:
        raise InputError(f"patches are of 1, 5 or 9 pixels a side, not {patch}")
    if composite not in COMPOSE:
        raise InputError(f"unknown composite {composite!r}; use {MASKED} or {OFFICIAL}")


def _text_type(value: Any) -> Any:
    """The HDF5 type that h5py needs for an array of strings; None for types that it knows."""
    import h5py

    return h5py.string_dtype() if isinstance(value, np.ndarray) and value.dtype == object else None


def _attribute(file: Any, name: str, default: str) -> str:
    value = file.attrs.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """An HDF5 file for reading. Raises ConfigError, DataError."""
    require_packages("an HDF5 file", "h5py")
    import h5py

    if not path.is_file():
        raise ConfigError(f"no file {path}; docs/training-data.md says where the data come from")
    try:
        file = h5py.File(path, "r")
    except OSError as e:
        raise DataError(f"{path} is no HDF5 file, or is cut short: {e}") from e
    with file:
        try:
            list(file), dict(file.attrs)
        except (KeyError, ValueError, TypeError, OSError, RuntimeError) as e:  # what h5py raises
            raise DataError(f"{path} is damaged; fetch it again ({one_line(e)})") from e
        yield file
