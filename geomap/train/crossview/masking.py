"""Masks training series as in the paper (section 3.2): fewer months, annual median, fewer bands.

One draw holds for a whole batch. A masked month keeps its place but is not a token of the encoder, so the others keep
the positions of their own months. Only training masks; evaluation sees series unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from geomap.datasets.series import Series, shorten
from geomap.sentinel2 import BANDS, MONTHS

WINDOW_MONTHS: Final = 3
"""Months of a contiguous window; it starts in January to October and does not wrap."""
RGB: Final = ("B02", "B03", "B04")
"""Bands that spectral masking never zeroes."""
SPECTRAL_CHANCE: Final = 0.5
"""Chance of each other band to be zeroed (paper section 3.2)."""

TemporalKind = Literal["none", "median", "window", "subset"]
TEMPORAL: Final[tuple[TemporalKind, ...]] = ("median", "window", "subset")
"""Temporal maskings, equally likely."""


@dataclass(frozen=True, slots=True)
class Masking:
    """The masking of one batch."""

    kind: TemporalKind
    months: NDArray[np.bool_]  # (12,) kept
    bands: NDArray[np.bool_]  # (10,) kept


def draw(rng: np.random.Generator, temporal: float, spectral: bool) -> Masking:
    """Draw a masking: one of TEMPORAL with chance `temporal`; fewer bands if `spectral`."""
    kind: TemporalKind = TEMPORAL[rng.integers(len(TEMPORAL))] if rng.random() < temporal else "none"
    months = np.ones(MONTHS, np.bool_)
    if kind == "window":
        start = rng.integers(0, MONTHS - WINDOW_MONTHS + 1)
        months[:] = False
        months[start : start + WINDOW_MONTHS] = True
    elif kind == "subset":
        months = rng.permutation(MONTHS) < rng.integers(1, MONTHS)  # 1..11 months
    bands = np.isin(BANDS, RGB) | (rng.random(len(BANDS)) >= SPECTRAL_CHANCE) if spectral else np.ones(10, np.bool_)
    return Masking(kind, months, bands)


def apply_np(masking: Masking, dn: NDArray[np.uint16], valid: NDArray[np.bool_]) -> Series:
    """Masked series of a batch.

    Args:
        masking: the batch's draw.
        dn: (n, 12, bands * patch^2) DNs, band-major.
        valid: (n, 12) months with a value; every row needs one.

    Returns:
        Twelve steps with masked months not valid; a row that would lose all its months keeps them all. The annual
        median is one step: the median of the valid months' composites, at the mean of the twelve positions.
    """
    if not masking.bands.all():  # DN 0 is below every band's low constant, so the encoder's input is exactly 0
        dn = dn * masking.bands.astype(np.uint16).repeat(dn.shape[-1] // len(BANDS))
    if masking.kind == "median":
        return shorten(dn, valid, "annual")
    kept = valid & masking.months
    return Series(dn, np.where(kept.any(1, keepdims=True), kept, valid), np.arange(MONTHS))
