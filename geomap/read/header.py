"""What the header of a scene's file tells: where its pixels lie, and how they are written.

A run keeps the headers of the files that it reads, so that each is opened once.
"""

from __future__ import annotations

from dataclasses import dataclass

from affine import Affine

from geomap.read.blocks import Kept, Layout


@dataclass(frozen=True, slots=True)
class Place:
    """Where the pixels of an open file lie."""

    crs: int | str  # EPSG code, or WKT if it has none
    transform: Affine
    shape: tuple[int, int]

    @property
    def corners(self) -> tuple[tuple[float, float], ...]:
        """(x, y) of the corners, from that of the first pixel on clockwise in the raster."""
        rows, columns = self.shape
        return tuple(self.transform @ corner for corner in ((0, 0), (columns, 0), (columns, rows), (0, rows)))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) of the box around the corners."""
        x, y = zip(*self.corners, strict=True)
        return min(x), min(y), max(x), max(y)


@dataclass(frozen=True, slots=True)
class Header:
    """What an open file told."""

    place: Place
    layout: Layout


Headers = Kept[Header]
"""The headers of the files that a run reads."""
