"""Reads two larger measured sets: points of Rondonia in 2022, and the crop mask of all Africa in 2019."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from geomap.datasets.kinds import group_index
from geomap.datasets.samples import Samples
from geomap.datasets.simulated import cover_labels
from geomap.datasets.worldcereal import arrays, fill_b8a_np
from geomap.sentinel2 import BANDS, MONTHS
from geomap.simulate.covers import table

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

    Groups are cells of 0.1 degree; the climate is left unknown. Raises ConfigError (no such file), DataError.
    """
    made = arrays(path, "x", "month", "label", "lon", "lat", "group")
    known = np.isin(made["label"], list(RONDONIA))
    made = {name: array[known] for name, array in made.items()}
    dn, valid = by_month_np(made["x"], made["month"])
    labels = _labels([RONDONIA[label] for label in made["label"].tolist()])
    return Samples(
        "rondonia_2022", _ids("rondonia", len(dn)), dn, valid, labels,
        np.unique(made["group"], return_inverse=True)[1].reshape(-1), "cell of 0.1 degree",
        lonlat=np.stack([made["lon"], made["lat"]], 1).astype(np.float64), own_ids=False,
    )  # fmt: skip


def read_africa(path: Path) -> Samples:
    """30,065 points of Africa, crop or not (points/africa_crop_mask_2019.npz): two steps, the halves of 2019.

    B8A is filled from other bands. Groups are the set's eight regions (in the order of their names): points have no
    coordinates. Raises ConfigError (no such file), DataError.
    """
    made = arrays(path, "x", "crop", "region")
    dn = fill_b8a_np(made["x"].astype(np.float64)).round().clip(0, 65534).astype(np.uint16)
    valid = np.asarray((dn > 0).all(-1))
    steps = np.repeat(np.eye(2, dtype=np.float32), MONTHS // 2, axis=1) / np.float32(MONTHS // 2)
    labels = _labels([AFRICA[crop] for crop in made["crop"].tolist()])
    return Samples(
        "africa_2019", _ids("africa", len(dn)), dn * valid[..., None], valid, labels,
        np.unique(made["region"], return_inverse=True)[1].reshape(-1), "region", steps=steps, own_ids=False,
    )  # fmt: skip


def by_month_np(x: NDArray[Any], month: NDArray[Any]) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """DNs (n, 12, 10) and valid (n, 12) of series x (n, T, 10) by the month (n, T), 1 to 12, of each step.

    A month without all bands, or without a step, is 0 and not valid.
    """
    dn = np.zeros((len(x), MONTHS, len(BANDS)), np.uint16)
    dn[np.arange(len(x))[:, None], month - 1] = x
    valid: NDArray[np.bool_] = np.asarray((dn > 0).all(-1))
    return dn * valid[..., None], valid


def _labels(kinds: list[str]) -> dict[str, NDArray[np.intp]]:
    """Labels (n,) of kinds of land by the key of a cover or the name of a group; the climate is unknown."""
    covers = {c.key: i for i, c in enumerate(table().cover)}
    at = {k: covers[k] if k in covers else group_index(k) for k in set(kinds)}
    return cover_labels(np.array([at[k] for k in kinds], np.intp), np.full(len(kinds), -1))


def _ids(name: str, n: int) -> NDArray[np.str_]:
    return np.array([f"{name}/{i}" for i in range(n)])
