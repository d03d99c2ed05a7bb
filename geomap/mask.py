"""Which observations count as clear: classes of the scene classification (SCL), opened and grown."""

from __future__ import annotations

from dataclasses import dataclass

from geomap.errors import ConfigError
from geomap.sentinel2 import NODATA_DN, SCL_CLASSES, SCL_NOT_CLEAR

MOST_PX = 50
"""Pixels of 20 m that a mask may be opened or grown by: 1 km."""


@dataclass(frozen=True, slots=True)
class Mask:
    """What is not clear, and by how many pixels of 20 m it is opened, then grown. Raises ConfigError.

    Opening takes unclear specks narrower than 2 x `opening` + 1 pixels for clear (bright roofs, for example); dilation
    adds the pixels within `dilation` of what is unclear (edges of clouds). Class 0, no data, is never clear and is
    neither opened nor grown: the edge of a granule is no cloud.
    """

    classes: tuple[int, ...] = SCL_NOT_CLEAR  # in order, with 0
    opening: int = 0
    dilation: int = 0

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.classes) - SCL_CLASSES.keys()):
            raise ConfigError(f"SCL has no class {unknown[0]}; give numbers of 0..{max(SCL_CLASSES)} to --mask-classes")
        for name in ("opening", "dilation"):
            if not 0 <= getattr(self, name) <= MOST_PX:
                raise ConfigError(f"the {name} of a mask must be 0..{MOST_PX} pixels, not {getattr(self, name)}")
        object.__setattr__(self, "classes", tuple(sorted({NODATA_DN, *self.classes})))

    @property
    def reach(self) -> int:
        """Pixels of 20 m from a pixel to the farthest that can decide whether it is clear."""
        return 2 * self.opening + self.dilation


DEFAULT_MASK = Mask()
