"""Reads two larger measured sets: points of Rondonia in 2022, and the crop mask of all Africa in 2019."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from geomap.datasets.kinds import group_index
from geomap.datasets.months import whole_dn
from geomap.datasets.samples import Samples
from geomap.datasets.simulated import cover_labels
from geomap.datasets.worldcereal import arrays, fill_b8a_np
from geomap.errors import DataError
from geomap.sentinel2 import BANDS, MONTHS
from geomap.simulate.covers import table
from geomap.text import listed

RONDONIA: Final = {
    "Forest": "tropical_forest", "Riparian_Forest": "tropical_forest", "Mountainside_Forest": "tropical_forest",
    "Wetland": "marsh", "Seasonally_Flooded": "flooded_vegetation", "Water": "river",
}  # fmt: skip
"""Kind of land of each label. The three labels of clearings are left out: they tell what happened in the year (forest
until about July), not what land it is."""

AFRICA: Final = ("no_crop", "annual_crop")
"""Kinds of land of the labels 0 and 1. The mask counts tree crops as no crop; so few occur that `no_crop` leaves them
out."""


def read_rondonia(path: Path) -> Samples:
    """3,477 points of Rondonia in eleven steps of 32 days of 2022 (points/rondonia_2022.npz); February has none.

    Groups are cells of 0.1 degree; the climate is left unknown. The file holds x (n, T, 10) and month (n, T), see
    `by_month_np`, and label, lon, lat and group (n,). Raises ConfigError (no such file), DataError.
    """
    made = arrays(path, "x", "month", "label", "lon", "lat", "group")
    with _layout(path):
        _require_rows(made, "label", "lon", "lat", "group")
        known = np.isin(made["label"], list(RONDONIA))
        if not known.any():
            found = listed(np.unique(made["label"]).tolist(), 3)
            raise ValueError(f"no label is known; labels are text such as {listed(RONDONIA, 3)}, not {found}")
        dn, valid = by_month_np(made["x"], made["month"])
    made = {name: array[known] for name, array in made.items()}
    labels = _labels([RONDONIA[label] for label in made["label"].tolist()])
    return Samples(
        "rondonia_2022", _ids("rondonia", int(known.sum())), dn[known], valid[known], labels,
        np.unique(made["group"], return_inverse=True)[1].reshape(-1), "cell of 0.1 degree",
        lonlat=np.stack([made["lon"], made["lat"]], 1).astype(np.float64), own_ids=False,
    )  # fmt: skip


def read_africa(path: Path) -> Samples:
    """30,065 points of Africa, crop or not (points/africa_crop_mask_2019.npz): two steps, the halves of 2019.

    B8A is filled from other bands. Groups are the set's eight regions (in the order of their names): points have no
    coordinates. The file holds x (n, 2, 10), and crop and region (n,). Raises ConfigError (no such file), DataError.
    """
    made = arrays(path, "x", "crop", "region")
    with _layout(path):
        _require_rows(made, "crop", "region")
        if made["x"].shape[1:] != (2, len(BANDS)):
            raise ValueError(f"x is {made['x'].shape}, not (n, 2, {len(BANDS)})")
        if not np.isin(made["crop"], range(len(AFRICA))).all():
            raise ValueError("crop has other values than 0 and 1")
        x = whole_dn(made["x"])
    dn = fill_b8a_np(x).round().clip(0, 65534).astype(np.uint16)
    valid = np.asarray((dn > 0).all(-1))
    steps = np.repeat(np.eye(2, dtype=np.float32), MONTHS // 2, axis=1) / np.float32(MONTHS // 2)
    labels = _labels([AFRICA[crop] for crop in made["crop"].astype(int).tolist()])
    return Samples(
        "africa_2019", _ids("africa", len(dn)), dn * valid[..., None], valid, labels,
        np.unique(made["region"], return_inverse=True)[1].reshape(-1), "region", steps=steps, own_ids=False,
    )  # fmt: skip


def by_month_np(x: NDArray[Any], month: NDArray[Any]) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """DNs (n, 12, 10) and valid (n, 12) of series x (n, T, 10) by the month (n, T), 1 to 12, of each step.

    A month without all bands, or without a step, is 0 and not valid. Raises ValueError for other shapes, months or DNs.
    """
    if x.ndim != 3 or x.shape[2] != len(BANDS) or month.shape != x.shape[:2]:
        raise ValueError(f"x is {x.shape} and month {month.shape}, not (n, T, {len(BANDS)}) and (n, T)")
    if not (right := np.isin(month, range(1, MONTHS + 1))).all():
        raise ValueError(f"month has {month[~right][0]}; write whole months, 1 for January to {MONTHS} for December")
    dn = np.zeros((len(x), MONTHS, len(BANDS)), np.uint16)
    dn[np.arange(len(x))[:, None], month.astype(np.intp) - 1] = whole_dn(x)
    valid: NDArray[np.bool_] = np.asarray((dn > 0).all(-1))
    return dn * valid[..., None], valid


@contextmanager
def _layout(path: Path) -> Iterator[None]:
    """Raise DataError, which names the file, where its arrays do not have their shapes and values."""
    try:
        yield
    except (TypeError, ValueError) as e:
        raise DataError(f"{path}: {e}; docs/training-data.md has the layout") from e


def _require_rows(made: Mapping[str, NDArray[Any]], *names: str) -> None:
    """Raise ValueError for an array that is not one value for each row of x."""
    for name in names:
        if made[name].shape != made["x"].shape[:1]:
            raise ValueError(f"{name} is {made[name].shape} and x {made['x'].shape}; each row of x has one {name}")


def _labels(kinds: list[str]) -> dict[str, NDArray[np.intp]]:
    """Labels (n,) of kinds of land by the key of a cover or the name of a group; the climate is unknown."""
    covers = {c.key: i for i, c in enumerate(table().cover)}
    at = {k: covers[k] if k in covers else group_index(k) for k in set(kinds)}
    return cover_labels(np.array([at[k] for k in kinds], np.intp), np.full(len(kinds), -1))


def _ids(name: str, n: int) -> NDArray[np.str_]:
    return np.array([f"{name}/{i}" for i in range(n)])
