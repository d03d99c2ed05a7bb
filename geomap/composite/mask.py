"""Which observations count as clear: classes of the scene classification (SCL), opened and grown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geomap.errors import ConfigError
from geomap.sentinel2 import DEFECTIVE, NODATA_DN, SCL_CLASSES, SCL_NOT_CLEAR

if TYPE_CHECKING:
    import numpy as np  # loaded where there are pixels: a Mask is part of every request
    from numpy.typing import NDArray

MOST_PX = 50
"""Most pixels of 20 m by which a mask may be opened or grown: 1 km."""


@dataclass(frozen=True, slots=True)
class Mask:
    """Which SCL classes are unclear, and by how many pixels of 20 m they are opened, then grown. Raises ConfigError.

    Opening removes unclear specks narrower than 2 x `opening` + 1 pixels (bright roofs, for example); dilation adds the
    pixels within `dilation` of unclear ones (edges of clouds). Class 0, no data, is never clear and is neither opened
    nor grown, because the edge of a granule is not a cloud.
    """

    classes: tuple[int, ...] = SCL_NOT_CLEAR  # sorted, including 0
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
        """Distance in 20 m pixels to the farthest pixel that can decide whether a pixel is clear."""
        return 2 * self.opening + self.dilation


DEFAULT_MASK = Mask()


def clear_np(scl: NDArray[np.uint8], mask: Mask = DEFAULT_MASK) -> NDArray[np.bool_]:
    """True where the scene classification, (..., y, x), is a clear observation; same shape.

    Values above 11 are not clear. Within `mask.reach` of an edge, the result depends on pixels beyond the edge.
    """
    import numpy as np

    table = np.zeros(256, bool)
    table[: len(SCL_CLASSES)] = True
    table[list(mask.classes)] = False
    clear: NDArray[np.bool_] = table[scl]
    if not mask.reach:
        return clear
    from scipy import ndimage  # only loaded when needed

    unclear = ~clear & (scl != NODATA_DN)
    for change, radius in ((ndimage.binary_opening, mask.opening), (ndimage.binary_dilation, mask.dilation)):
        if radius:
            unclear = change(unclear, _disk_np(radius).reshape((1,) * (scl.ndim - 2) + (2 * radius + 1,) * 2))
    grown: NDArray[np.bool_] = ~unclear & (scl != NODATA_DN)
    return grown


def first_np(clear: NDArray[np.bool_], scl: NDArray[np.uint8], passes: Sequence[str]) -> NDArray[np.bool_]:
    """(scene, y, x) clear pixels that no earlier scene of the same pass has seen: the others need not be read.

    Granules of a pass show the same look. So the first of them that has data at a pixel decides whether it is clear;
    another one would be read for the rims of clouds alone, which differ by the resampling. Defective pixels are no
    data: they lie along the edges of datastrips.

    Args:
        clear: (scene, y, x) clear observations; it is changed, since it may be large.
        scl: (scene, y, x) scene classes.
        passes: of each scene.
    """
    seen: dict[str, NDArray[np.bool_]] = {}
    for row, name in enumerate(passes):
        has_data = scl[row] > DEFECTIVE
        if name in seen:
            clear[row] &= ~seen[name]
            has_data |= seen[name]
        seen[name] = has_data
    return clear


def _disk_np(radius: int) -> NDArray[np.bool_]:
    """(2 radius + 1, 2 radius + 1) True within `radius` of the middle."""
    import numpy as np

    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk: NDArray[np.bool_] = y**2 + x**2 <= radius**2
    return disk
