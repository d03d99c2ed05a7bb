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
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) of a raster that is north up."""
        t = self.transform
        return t.c, t.f + t.e * self.shape[0], t.c + t.a * self.shape[1], t.f


@dataclass(frozen=True, slots=True)
class Header:
    """What an open file told."""

    place: Place
    layout: Layout


Headers = Kept[Header]
"""The headers of the files that a run reads."""
