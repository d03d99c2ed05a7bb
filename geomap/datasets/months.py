"""Two ways to make monthly composites from a point's dates, and the encoder's tokens from those.

"masked" is what geomap's maps use. "official" is what the published encoder was trained on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from geomap.catalog.offset import parse_baseline
from geomap.composite.mask import clear_np, first_np
from geomap.composite.median import median_np, shifted_np
from geomap.sentinel2 import BOA_OFFSET_DN, MONTHS, OFFSET_BASELINE

MASKED, OFFICIAL = "masked", "official"

OFFICIAL_CLEAR: Final = range(9)
"""SCL classes that the published input keeps: all below 9, cloud shadow and medium cloud included."""


def masked_np(dn: NDArray[np.uint16], scl: NDArray[np.uint8], scenes: Sequence[str], year: int) -> NDArray[np.uint16]:
    """Monthly medians of clear DNs, as in geomap's maps.

    Args:
        dn: (dates, 10, h, w), 0 = nodata, without the radiometric offset.
        scl: (dates, h, w).
        scenes: scene name of each date; scenes with the same sensing time are one observation, of which the first that
            has data at a pixel counts.
        year: dates of other years are left out.

    Returns:
        (12, 10, h, w), 0 where a month has no clear value.
    """
    times = [time_of(scene) for scene in scenes]
    seen = np.where(first_np(clear_np(scl), scl, times)[:, None], dn, 0)
    passes: dict[str, NDArray[np.uint16]] = {}
    for time, values in zip(times, seen, strict=True):
        passes[time] = np.where(passes[time] == 0, values, passes[time]) if time in passes else values
    months = [[v for t, v in passes.items() if t.startswith(f"{year}{m:02d}")] for m in range(1, MONTHS + 1)]
    return np.stack([median_np(month) if month else np.zeros_like(seen[0]) for month in months])


def official_np(dn: NDArray[np.uint16], scl: NDArray[np.uint8], scenes: Sequence[str], year: int) -> NDArray[np.uint16]:
    """Monthly medians made like the published input (TimeSenCLIP's data loader), oddities included.

    Pixels with SCL of 9 and more are set to 0 and stay in the median. Even counts take the lower middle value
    (torch.median). A month is every scene whose name contains YYYYMM; a month without a scene takes the median over the
    scenes of all months. 1 DN is added, so 1 means that the median was a masked pixel. Arguments: see `masked_np`.
    """
    kept = np.where(np.isin(scl, OFFICIAL_CLEAR)[:, None], dn, 0)
    months = [[i for i, s in enumerate(scenes) if f"{year}{m:02d}" in s] for m in range(1, MONTHS + 1)]
    whole_year = [i for month in months for i in month]
    medians = [_lower_median_np(kept[month or whole_year]) for month in months]
    return (np.minimum(np.stack(medians), 65534) + 1).astype(np.uint16)


COMPOSE: Final = {MASKED: masked_np, OFFICIAL: official_np}


def _lower_median_np(values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Median over the first axis; even counts take the lower of the middle two."""
    middle: NDArray[np.uint16] = np.sort(values, axis=0)[(len(values) - 1) // 2]
    return middle


def tokens_np(image: NDArray[np.uint16], composite: str) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """A point's image (12, 10, h, w) as the encoder takes it: (12, 10 * h * w) band-major, and valid months (12,)."""
    months, bands, h, w = image.shape
    if composite == OFFICIAL:  # 0 occurs if a file was cut without the +1; 0 and 1 both scale to 0
        return np.maximum(image, 1).reshape(months, -1), np.ones(months, bool)
    whole: NDArray[np.bool_] = np.asarray((image > 0).all(axis=1))  # (12, h, w) pixels with all bands
    valid = whole[:, h // 2, w // 2]
    centre = image[:, :, h // 2, w // 2] * valid[:, None]  # (12, 10), 0 in months that are not valid
    filled = np.where((whole & valid[:, None, None])[:, None], image, centre[..., None, None])
    return filled.reshape(months, bands * h * w), valid


def without_offset(dn: NDArray[np.uint16], scenes: Sequence[str]) -> NDArray[np.uint16]:
    """DNs (dates, ...) without the offset of the scenes whose names tell a baseline that adds it (N0400 or later)."""
    found = [re.search(r"_(N\d\d\.?\d\d)(?:_|$)", scene) for scene in scenes]
    baselines = [match and parse_baseline(match[1]) for match in found]
    added = np.array([baseline is not None and baseline >= OFFSET_BASELINE for baseline in baselines], bool)
    out = dn.copy()
    out[added] = shifted_np(dn[added], BOA_OFFSET_DN)
    return out


def whole_dn(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Whole numbers 0..65535 as uint16. Raises ValueError for other values, such as scaled ones."""
    with np.errstate(invalid="ignore"):  # NaN: the comparison below finds it
        dn = values.astype(np.uint16)
    if (odd := values[dn != values]).size:
        raise ValueError(f"values such as {odd[0]:.6g} are no DNs (whole numbers of 0..65535, 0 for a missing one)")
    return dn


def time_of(scene: str) -> str:
    """YYYYMMDD, and THHMMSS where it follows, of the first date in a scene's name. Raises ValueError."""
    match = re.search(r"20\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:T\d{6})?", scene)
    if match is None:
        raise ValueError(f"the scene {scene!r} has no date YYYYMMDD in its name")
    return match[0]
