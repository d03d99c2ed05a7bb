"""Writes small files in the layouts of the published training data, for tests.

Layouts: Sen4Map's HDF5 (one group per point, B2 ... B12 and SCL of (dates, 64, 64)), TimeSenCLIP's cut files (`image`
of (12, 10, h, w)), its dictionary of photo vectors and its label table. Arrays come from the caller.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

ORIGINAL_BANDS = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
CSV_COLUMNS = (
    "im_id", "lat", "lon", "lc_label", "lu_label", "crop_label", "nuts_label", "bioregion_class", "eunis_class",
)  # fmt: skip
SIDE = 64


def image_ids(dates: Sequence[str], tile: str = "T31UFS") -> list[str]:
    """Scene ids as Earth Engine writes them, from dates YYYYMMDD."""
    return [f"{d}T103421_{d}T103420_{tile}" for d in dates]


def write_original(
    path: Path,
    ids: Sequence[str],
    scenes: Sequence[Sequence[str]],
    dn: Sequence[np.ndarray],
    scl: Sequence[np.ndarray],
    attributes: Mapping[str, Sequence[Any]] | None = None,
) -> Path:
    """A Sen4Map file. Lists have one entry per point.

    ids: POINT_ID ("34622836"); scenes: Image_ID of each date; dn: (dates, 10, 64, 64) or (dates, 10), which fills the
    image; scl: (dates, 64, 64) or (dates,); attributes: lc1, lu1, nuts0 ... -> a value per point.
    """
    with h5py.File(path, "w") as f:
        for i, point in enumerate(ids):
            group = f.create_group(f"Lucas_Point_{point}")
            for b, name in enumerate(ORIGINAL_BANDS):
                group.create_dataset(name, data=_filled(dn[i][:, b], np.uint16), compression="gzip")
            group.create_dataset("SCL", data=_filled(scl[i], np.uint8), compression="gzip")
            group.attrs["Image_ID"] = np.array(scenes[i], dtype=h5py.string_dtype())
            for key, values in (attributes or {}).items():
                group.attrs[key] = values[i]
    return path


def write_cut(
    path: Path,
    ids: Sequence[str],
    image: np.ndarray,
    attributes: Mapping[str, Sequence[Any]] | None = None,
    composite: str | None = None,
) -> Path:
    """A cut file.

    image: (n, 12, 10, h, w) or (n, 12, 10) DNs; attributes: lc1, lc1_label, lu1, nuts0, Coordinates, EUNIS_L2,
    bioregion_class_code -> a value per point; composite: the root attribute of geomap's own cut files.
    """
    image = np.asarray(image)
    image = image[..., None, None] if image.ndim == 3 else image
    with h5py.File(path, "w") as f:
        if composite:
            f.attrs["composite"] = composite
        for i, point in enumerate(ids):
            group = f.create_group(f"Lucas_Point_{point}")
            group.create_dataset("image", data=image[i])
            for key, values in (attributes or {}).items():
                group.attrs[key] = values[i]
    return path


def write_photo_dictionary(path: Path, vectors: Mapping[str, np.ndarray]) -> Path:
    """The torch.save dictionary: key "FR_34622836N" -> (512,) stored as a (1, 512) float32 tensor."""
    import torch

    torch.save({k: torch.as_tensor(np.asarray(v, np.float32)).reshape(1, -1) for k, v in vectors.items()}, path)
    return path


def write_label_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """The label table; rows by column name, NA where absent. As published, `lat` is to hold the longitude."""
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, CSV_COLUMNS, restval="NA")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _filled(values: np.ndarray, dtype: Any) -> np.ndarray:
    """(dates, 64, 64) from as much, or from one value per date."""
    values = np.asarray(values, dtype)
    return values if values.ndim == 3 else np.broadcast_to(values[:, None, None], (len(values), SIDE, SIDE))
