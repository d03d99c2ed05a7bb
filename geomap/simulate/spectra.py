"""Ten-band reflectance of canopies (a PROSAIL emulator) and of surfaces without leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
"""Reflectances and days: float32 where memory counts."""

EMULATOR: Final = Path(__file__).with_name("emulator.npz")
"""The fitted network; `build_emulator` makes it."""


class Range(NamedTuple):
    """Limits of a parameter within which the emulator is valid."""

    low: float
    high: float


PARAMETERS: Final = {
    "lai": Range(0.0, 8.0),  # leaf area, m2 / m2
    "cab": Range(2.0, 80.0),  # chlorophyll a + b, ug / cm2
    "brown": Range(0.0, 1.2),  # brown matter, PROSPECT's own unit
    "water": Range(0.001, 0.06),  # equivalent water thickness, cm
    "matter": Range(0.002, 0.02),  # dry matter, g / cm2
    "layers": Range(1.1, 2.4),  # leaf structure N
    "angle": Range(20.0, 78.0),  # mean leaf inclination, degrees
    "sun": Range(15.0, 80.0),  # sun zenith, degrees
}
"""Canopy parameters in the emulator's order. Ranges: those of PROSAIL's common inversions (Jacquemoud et al. 2009)."""


@dataclass(frozen=True)
class Emulator:
    """PROSAIL in ten bands, as a network of two hidden layers: canopy -> a, b, c of R = a + b r / (1 - c r)."""

    arrays: dict[str, Array]

    @classmethod
    def load(cls, path: Path = EMULATOR) -> Emulator:
        with np.load(path, allow_pickle=False) as f:
            return cls({name: f[name] for name in f.files})

    def reflectance(self, canopy: Array, ground: Array | np.float32) -> Array:
        """Reflectance (..., 10) of canopies (..., 8), in PARAMETERS' order, over a ground (..., 10)."""
        w = self.arrays
        x: Array = np.clip(2 * (canopy - w["low"]) / (w["high"] - w["low"]) - 1, -1, 1).astype(np.float32)
        x = np.tanh(x @ w["w0"].T + w["b0"])
        x = np.tanh(x @ w["w1"].T + w["b1"])
        x = (x @ w["w2"].T + w["b2"]) * w["scale"] + w["mean"]
        a, b, c = np.split(x, 3, axis=-1)
        over: Array = np.maximum(a + b * ground / np.maximum(1 - c * ground, 0.05), 0.001)
        return over


SURFACES: Final = {
    # Reflectance in sentinel2.BANDS order. Soils "prosail_*" are the two that come with PROSAIL (Jacquemoud et al.
    # 2009), averaged over the bands; those named after a place, and straw and dead_grass, follow the medians of
    # unvegetated months in the measured series (datasets.worldcereal); the others are the project's estimates of common
    # materials, with the shapes of the ECOSTRESS library (Meerdink et al. 2019).
    "prosail_dry": (0.232, 0.263, 0.318, 0.338, 0.359, 0.379, 0.400, 0.413, 0.509, 0.493),
    "prosail_wet": (0.025, 0.029, 0.038, 0.043, 0.051, 0.057, 0.067, 0.072, 0.158, 0.113),
    "loess_flanders": (0.099, 0.129, 0.160, 0.188, 0.206, 0.219, 0.235, 0.248, 0.275, 0.235),
    "field_corsica": (0.098, 0.125, 0.160, 0.184, 0.207, 0.219, 0.231, 0.243, 0.285, 0.250),
    "field_south_sudan": (0.075, 0.108, 0.154, 0.181, 0.201, 0.212, 0.225, 0.237, 0.322, 0.252),
    "red_field_uganda": (0.087, 0.137, 0.196, 0.217, 0.233, 0.246, 0.261, 0.276, 0.406, 0.366),
    "black_earth": (0.040, 0.050, 0.065, 0.078, 0.092, 0.100, 0.110, 0.120, 0.180, 0.150),
    "sandy_soil": (0.120, 0.165, 0.215, 0.245, 0.262, 0.275, 0.290, 0.302, 0.370, 0.340),
    "chalky_soil": (0.160, 0.210, 0.255, 0.280, 0.295, 0.308, 0.322, 0.332, 0.380, 0.330),
    "straw": (0.095, 0.140, 0.190, 0.218, 0.240, 0.255, 0.270, 0.282, 0.345, 0.285),
    "dead_grass": (0.070, 0.103, 0.148, 0.178, 0.210, 0.228, 0.248, 0.266, 0.355, 0.262),
    "litter": (0.035, 0.050, 0.072, 0.095, 0.118, 0.132, 0.150, 0.168, 0.240, 0.170),
    "flowers": (0.050, 0.150, 0.150, 0.185, 0.280, 0.335, 0.370, 0.380, 0.225, 0.125),
    "asphalt": (0.085, 0.098, 0.108, 0.114, 0.120, 0.126, 0.132, 0.137, 0.165, 0.158),
    "concrete": (0.190, 0.230, 0.262, 0.276, 0.286, 0.293, 0.300, 0.306, 0.340, 0.318),
    "tiles": (0.075, 0.108, 0.188, 0.215, 0.240, 0.258, 0.268, 0.282, 0.350, 0.330),
    "slate": (0.058, 0.064, 0.069, 0.073, 0.077, 0.081, 0.085, 0.090, 0.118, 0.115),
    "metal": (0.360, 0.385, 0.400, 0.405, 0.405, 0.405, 0.405, 0.405, 0.395, 0.355),
    "foil": (0.300, 0.320, 0.335, 0.350, 0.370, 0.385, 0.400, 0.410, 0.380, 0.310),
    "rock": (0.140, 0.170, 0.198, 0.212, 0.222, 0.232, 0.240, 0.247, 0.300, 0.270),
    "sand": (0.185, 0.255, 0.325, 0.352, 0.370, 0.385, 0.400, 0.412, 0.475, 0.440),
    "salt": (0.400, 0.440, 0.475, 0.490, 0.500, 0.505, 0.510, 0.510, 0.420, 0.320),
    "dune_sand": (0.130, 0.205, 0.310, 0.355, 0.380, 0.395, 0.410, 0.422, 0.520, 0.490),
    "basalt": (0.065, 0.074, 0.085, 0.090, 0.094, 0.097, 0.100, 0.103, 0.130, 0.120),
    "peat": (0.030, 0.040, 0.052, 0.064, 0.076, 0.084, 0.092, 0.100, 0.105, 0.072),
    "wet_mud": (0.070, 0.088, 0.102, 0.110, 0.114, 0.117, 0.120, 0.122, 0.085, 0.062),
    "clear_water": (0.030, 0.024, 0.014, 0.013, 0.012, 0.011, 0.011, 0.010, 0.006, 0.005),
    "turbid_water": (0.055, 0.082, 0.075, 0.062, 0.036, 0.034, 0.026, 0.024, 0.010, 0.008),
    "green_water": (0.034, 0.056, 0.036, 0.040, 0.026, 0.026, 0.022, 0.021, 0.009, 0.007),
    "silty_water": (0.060, 0.092, 0.105, 0.104, 0.066, 0.064, 0.052, 0.042, 0.014, 0.010),
    "algal_water": (0.030, 0.060, 0.036, 0.066, 0.058, 0.060, 0.046, 0.036, 0.010, 0.007),
    "snow": (0.780, 0.780, 0.775, 0.765, 0.755, 0.740, 0.720, 0.700, 0.110, 0.095),
    "cloud": (0.500, 0.490, 0.490, 0.500, 0.510, 0.515, 0.520, 0.520, 0.390, 0.290),
    "haze": (0.060, 0.045, 0.036, 0.032, 0.029, 0.026, 0.023, 0.021, 0.007, 0.004),
}
"""Reflectance of surfaces without leaves, and of cloud and haze. Estimates where no source is named."""

SOILS: Final = (
    "prosail_dry", "prosail_wet", "loess_flanders", "field_corsica", "field_south_sudan", "red_field_uganda",
    "black_earth", "sandy_soil", "chalky_soil",
)  # fmt: skip
"""The soils from which a pixel's own soil is mixed."""


def surface(name: str) -> Array:
    """Reflectance (10,) of a surface in the table."""
    return np.array(SURFACES[name], np.float32)
