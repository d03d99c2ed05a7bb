"""LUCAS survey points: codes to class ids, the published label table, vectors of ground photos.
A POINT_ID of eight digits says where the point is: kilometres east and north on the LUCAS grid (EPSG:3035). The ids of
legends start at 1 in the order of LUCAS and of the published lists; 0 is "no label".
"""

from __future__ import annotations

import csv
import functools
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from geomap import legends
from geomap.datasets.extras import csv_errors
from geomap.datasets.samples import Samples
from geomap.errors import ConfigError, DataError

log = logging.getLogger(__name__)

POINT: Final = re.compile(r"(?:Lucas_Point_)?(\d{8})")
"""A point as the published files name it."""
PHOTO_KEY: Final = re.compile(r"([A-Z]{2})_(\d{8})([NESW])")
"""A photo in the published dictionary: NUTS 0 code, point and direction, as in FR_34622836N."""
NO_LABEL: Final = frozenset({"", "8", "na", "nan", "none", "notrelevant"})
"""Values that mean "no label" (8 is LUCAS' "not relevant"), in lower case, letters and digits only."""

EXTENT: Final = (-11.0, 34.4, 34.7, 71.5)
"""West, south, east and north of LUCAS (degrees): the EU without its Atlantic islands."""

COUNTRIES: Final = {
    "Austria": "AT", "Belgium": "BE", "Bulgaria": "BG", "Cyprus": "CY", "Czech Republic": "CZ", "Germany": "DE",
    "Denmark": "DK", "Estonia": "EE", "Greece": "EL", "Spain": "ES", "Finland": "FI", "France": "FR", "Croatia": "HR",
    "Hungary": "HU", "Ireland": "IE", "Italy": "IT", "Lithuania": "LT", "Luxembourg": "LU", "Latvia": "LV",
    "Malta": "MT", "Netherlands": "NL", "Poland": "PL", "Portugal": "PT", "Romania": "RO", "Sweden": "SE",
    "Slovenia": "SI", "Slovakia": "SK", "United Kingdom": "UK",
}  # fmt: skip
"""NUTS 0 code by the country's name in the label table."""

CSV_LABELS: Final = {
    "landcover": "lc_label", "landuse": "lu_label", "crops": "crop_label", "habitat": "eunis_class",
    "bioregion": "bioregion_class",
}  # fmt: skip
"""Column of the label table by legend."""


def label_ids(name: str, values: Sequence[Any], where: str) -> NDArray[np.intp]:
    """Class ids (n,) in a built-in legend of LUCAS codes, names or 0-based indices; 0 where there is no label.

    Args:
        name: landcover, landuse and crops take codes (lc1, lu1) or names; habitat and bioregion take names, EUNIS
            codes, or indices of the published lists, which are in the legends' order.
        values: as read from a file; bytes and numbers are fine.
        where: the file, for messages.

    Values that are not in the legend are logged and count as no label. Case, spaces and hyphens of names do not matter:
    the published code itself spells "Bare Land" and "Bareland".

    Raises:
        DataError: there are labels, and none of them is in the legend.
    """
    keys = [_text(v) for v in values]
    found = {k: _id_of(name, k) for k in set(keys)}
    unknown = Counter(k for k in keys if found[k] is None)
    if unknown:
        listed = ", ".join(f"{k!r} ({n})" for k, n in unknown.most_common(5))
        if not any(i or (i == 0 and _plain(k) not in NO_LABEL) for k, i in found.items()):
            raise DataError(f"{where}: no label is known to the legend {name}, for example {listed}; check the column")
        log.warning("%s: %d labels are unknown to the legend %s: %s", where, unknown.total(), name, listed)
    return np.array([found[k] or 0 for k in keys], np.intp)


def point_ids(names: Sequence[str]) -> list[str]:
    """POINT_IDs of "Lucas_Point_34622836" or "34622836". Raises ValueError for another name."""
    matches = [POINT.fullmatch(n) for n in names]
    odd = next((n for n, m in zip(names, matches, strict=True) if m is None), None)
    if odd is not None:
        raise ValueError(f"{odd!r} is no LUCAS point; points are named as Lucas_Point_34622836")
    return [m[1] for m in matches if m]


def places(ids: Sequence[str]) -> NDArray[np.float64]:
    """Longitude and latitude (n, 2) in degrees, computed from POINT_IDs (within a metre of the published places)."""
    from pyproj import Transformer

    east_north = np.array([(int(i[:4]), int(i[4:])) for i in ids], np.float64).reshape(-1, 2) * 1000
    to_degrees = Transformer.from_crs("EPSG:3035", "EPSG:4326", always_xy=True)
    return np.stack(to_degrees.transform(*east_north.T), axis=1)


def lonlat_of(pairs: NDArray[np.float64], where: str) -> NDArray[np.float64]:
    """Longitude and latitude (n, 2) of pairs in either order. All pairs have one order; the extent of LUCAS decides it.

    Rows of NaN stay NaN. Raises DataError if both orders or neither put every point into the extent.
    """
    known = pairs[np.isfinite(pairs).all(1)]
    west, south, east, north = EXTENT

    def inside(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> bool:
        return bool(((west <= lon) & (lon <= east) & (south <= lat) & (lat <= north)).all())

    straight, swapped = inside(known[:, 0], known[:, 1]), inside(known[:, 1], known[:, 0])
    if len(known) and straight == swapped:
        order = "either order" if straight else "neither order"
        raise DataError(
            f"{where}: coordinates lie in the extent of LUCAS {EXTENT} in {order} of the axes; correct them"
        )
    if swapped and len(known):
        log.info("%s: the first coordinate is the latitude; taken as such", where)
        return pairs[:, ::-1].copy()
    return pairs


@dataclass(frozen=True)
class LabelTable:
    """Labels of points, without imagery."""

    id: NDArray[np.str_]  # (n,) POINT_ID
    lonlat: NDArray[np.float64]  # (n, 2) degrees
    labels: Mapping[str, NDArray[np.intp]]  # legend name -> (n,) class id, 0 = none
    country: NDArray[np.str_]  # (n,) NUTS 0 codes, "" where unknown


def read_label_csv(path: Path) -> LabelTable:
    """Read the published table of labels, one row per point: im_id, lat, lon, lc_label, lu_label, crop_label ...

    Its column `lat` holds the longitude and `lon` the latitude. A corrected copy works too (see `lonlat_of`).

    Raises:
        ConfigError: no such file.
        DataError: a missing column, a name that is not a point, a repeated point, coordinates outside LUCAS.
    """
    if not path.is_file():
        raise ConfigError(f"no label table {path}; give the path of Sen4Map_Test_all_labels.csv or one in its layout")
    with path.open(newline="", encoding="utf-8-sig") as f, csv_errors(path):
        reader = csv.DictReader(f)
        missing = {"im_id", "lat", "lon", "nuts_label", *CSV_LABELS.values()} - set(reader.fieldnames or ())
        if missing:
            raise DataError(f"{path} has no column {', '.join(sorted(missing))}; see docs/training-data.md")
        rows = list(reader)
    if not rows:
        raise DataError(f"{path} has no rows; it may have been cut short, so fetch it again")
    try:
        ids = np.array(point_ids([r["im_id"] for r in rows]), np.str_)
        pairs = np.array([(float(r["lon"]), float(r["lat"])) for r in rows], np.float64).reshape(-1, 2)
    except (ValueError, TypeError) as e:
        raise DataError(f"{path}: {e}") from e
    if len(np.unique(ids)) < len(ids):
        twice = Counter(ids.tolist()).most_common(1)[0][0]
        raise DataError(f"{path} has point {twice} twice; keep one of its rows")
    labels = {name: label_ids(name, [r[column] for r in rows], str(path)) for name, column in CSV_LABELS.items()}
    return LabelTable(ids, lonlat_of(pairs, str(path)), labels, country_codes([r["nuts_label"] for r in rows]))


def country_codes(names: Sequence[Any]) -> NDArray[np.str_]:
    """NUTS 0 codes (n,) from codes or from the label table's country names; "" for anything else."""
    codes = set(COUNTRIES.values())
    texts = map(_text, names)
    return np.array([t if t in codes else COUNTRIES.get(t, "") for t in texts], np.dtype("<U2"))


def with_labels(samples: Samples, table: LabelTable) -> Samples:
    """Fill gaps of the samples from the table, point by point; their own labels, places and countries are kept."""
    row = {i: k for k, i in enumerate(table.id.tolist())}
    at = np.array([row.get(i, -1) for i in samples.id.tolist()], np.intp)
    joined = at >= 0
    log.info("%s: %d of %d samples are in the label table", samples.name, joined.sum(), len(samples))
    labels = dict(samples.labels)
    for name, ids in table.labels.items():
        old = labels.get(name, np.zeros(len(samples), np.intp))
        labels[name] = np.where((old == 0) & joined, ids[at], old)
    lonlat = samples.lonlat if samples.lonlat is not None else np.full((len(samples), 2), math.nan)
    lonlat = np.where(np.isnan(lonlat) & joined[:, None], table.lonlat[at], lonlat)
    country = samples.country if samples.country is not None else np.full(len(samples), "", "<U2")
    country = np.where((country == "") & joined, table.country[at], country)
    return replace(samples, labels=labels, lonlat=lonlat, country=country)


def read_photos(path: Path, ids: Sequence[str]) -> NDArray[np.float32]:
    """Mean vector (n, D) of each point's photos, over the directions that exist, not normalised; NaN without photos.

    The mean is of the raw vectors, as the paper's code takes it (section 3.2, table A.4: the average of the photos in
    the four directions).

    Args:
        path: the published torch.save dictionary (FR_34622836N -> (1, 512)), or the file of `geomap photos embed`.
        ids: POINT_IDs, in the order of the rows to return.

    Raises:
        WeightsError: the file cannot be read.
        DataError: no photo key in the file, vectors of different lengths, or more than four photos of a point.
    """
    row = {i: k for k, i in enumerate(dict.fromkeys(map(str, ids)))}
    sums: NDArray[np.float32] | None = None
    count = np.zeros(len(row), np.intp)
    for key, vector in _vectors(path):
        match = PHOTO_KEY.fullmatch(key)
        if match is None:
            continue
        if sums is None:
            sums = np.zeros((len(row), vector.size), np.float32)
        if vector.size != sums.shape[1]:
            raise DataError(f"{path}: {key} has {vector.size} values, others have {sums.shape[1]}")
        if (k := row.get(match[2])) is not None:
            sums[k] += vector
            count[k] += 1
    if sums is None:
        raise DataError(f"{path} holds no photo; its keys must look like FR_34622836N")
    if count.max(initial=0) > 4:
        raise DataError(f"{path} has more than four photos of point {list(row)[int(count.argmax())]}")
    log.info("%s: photos of %d of %d points", path, (count > 0).sum(), len(row))
    mean = sums / np.where(count > 0, count, math.nan).astype(np.float32)[:, None]  # 0 / NaN is NaN
    return mean[[row[str(i)] for i in ids]]


def with_photos(samples: Samples, path: Path) -> Samples:
    """Add the mean vector of each point's photos to the samples; see `read_photos`."""
    return replace(samples, photos=read_photos(path, samples.id.tolist()))


def _vectors(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """(key, vector) of every photo; reads both layouts."""
    from geomap.encode.checkpoint import read_tensors

    tensors = read_tensors(path)
    if set(tensors) == {"keys", "vectors"}:  # written by `geomap photos embed`
        for key, vector in zip(tensors["keys"].numpy(), tensors["vectors"].numpy(), strict=True):
            yield key.tobytes().decode(), vector
    else:
        for name, tensor in tensors.items():
            yield name, tensor.float().reshape(-1).numpy()


def _text(value: Any) -> str:
    """A file's value as text: bytes decoded, whole numbers without a decimal point, one-value arrays unpacked."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.item() if value.size == 1 else str(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()


def _plain(text: str) -> str:
    """Letters and digits only, in lower case."""
    return re.sub(r"[^0-9a-z]", "", text.casefold())


def _id_of(name: str, text: str) -> int | None:
    """Class id; 0 for no label; None for a value that is not in the legend."""
    codes, names, size = _lookup(name)
    if name in _INDEXED and re.fullmatch(r"-?\d+", text):
        return int(text) + 1 if -1 <= int(text) < size else None  # -1: outside every region
    if _plain(text) in NO_LABEL:
        return 0
    code = _CODE.get(name, str.upper)(text)
    return codes.get(code, 0 if code == _OTHER else names.get(_plain(text)))


@functools.cache
def _lookup(name: str) -> tuple[dict[str, int], dict[str, int], int]:
    """Ids by code and by plain name, and the number of classes."""
    classes = legends.load(name).classes
    return {c.code: c.id for c in classes if c.code}, {_plain(c.name): c.id for c in classes}, len(classes)


_INDEXED: Final = ("habitat", "bioregion")
_OTHER: Final = "other"  # a valid code without a class in the legend
_LC1: Final = re.compile(r"[A-H](?:\d\d|X[12]|XX[1-9A-E])")  # B11, BX1 (photo-interpreted), CXX1 (forest type)


def _landcover_code(text: str) -> str:
    """LUCAS lc1 -> its letter. Temporary grassland (B55) is cropland in LUCAS, and roads (A22) are artificial land."""
    return text[0] if _LC1.fullmatch(text) else ""


def _landuse_code(text: str) -> str:
    """LUCAS lu1 -> the second level: U112 -> U110."""
    return f"{text[:3]}0" if re.fullmatch(r"U\d{3}", text) else ""


def _crop_code(text: str) -> str:
    """LUCAS lc1 -> the same code if it is a crop. Other land covers and groups of crops (B10, BX1) are not crops."""
    is_crop = text in _lookup("crops")[0]
    return text if is_crop or not _LC1.fullmatch(text) else _OTHER


_CODE: Final[dict[str, Callable[[str], str]]] = {
    "landcover": _landcover_code, "landuse": _landuse_code, "crops": _crop_code,
}  # fmt: skip
