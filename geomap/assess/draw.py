"""Draws a probability sample of a map's pixels, in two passes over its blocks: one counts, one picks.

Pixels are numbered within each stratum in the order of the blocks. A simple random sample draws numbers; one that is
spread takes numbers at equal distances from a random start on. The order goes quadrant by quadrant, so that neighbours
in it are neighbours on the ground (the idea of Stevens and Olsen 2004, doi:10.1198/016214504000000250).
Either way each pixel of a stratum has the same probability, n_h / N_h.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from geomap.assess.class_map import Block

RESOLUTION = 10  # m, of a map's pixels


@dataclass(frozen=True, slots=True)
class Drawn:
    """The pixels of a sample, in random order."""

    lonlat: NDArray[np.float64]  # (n, 2) of pixel centres, degrees
    mapped: NDArray[np.uint8]  # (n,) class id
    stratum: NDArray[np.intp]  # (n,)
    sizes: Mapping[int, int]  # stratum -> its pixels
    drawn: Mapping[int, int]  # stratum -> points drawn from it

    def probability(self, stratum: int) -> float:
        """Inclusion probability of each pixel of a stratum."""
        return self.drawn[stratum] / self.sizes[stratum]


def count(blocks: Iterable[Block]) -> dict[int, int]:
    """Class id -> pixels, without nodata."""
    total = np.zeros(256, np.int64)
    for block in blocks:
        total += np.bincount(block.values, minlength=256)
    return {int(v): int(total[v]) for v in np.flatnonzero(total) if v}


def draw(
    blocks: Iterable[Block],
    stratum_of: Mapping[int, int],
    sizes: Mapping[int, int],
    wanted: Mapping[int, int],
    rng: np.random.Generator,
    spread: bool = False,
) -> Drawn:
    """A sample of so many pixels of each stratum.

    Args:
        blocks: the whole map.
        stratum_of: class id -> stratum, from 1; classes without one are not drawn.
        sizes: stratum -> its pixels.
        wanted: stratum -> points, at most its pixels.
        rng: decides which pixels, and their order.
        spread: over the area, instead of simply at random.
    """
    ranks = {h: _ranks(sizes[h], n, rng, spread) for h, n in sorted(wanted.items()) if n}
    lookup = np.zeros(256, np.uint8)
    lookup[list(stratum_of)] = list(stratum_of.values())
    seen = dict.fromkeys(ranks, 0)
    found: list[tuple[NDArray[Any], ...]] = []  # zone, x, y, class and stratum of some pixels
    for block in blocks:
        strata = lookup[block.values]
        here = np.bincount(strata, minlength=256)
        for h in (h for h in ranks if here[h]):
            first, last = np.searchsorted(ranks[h], [seen[h], seen[h] + here[h]])
            if first < last:
                at = np.flatnonzero(strata == h)[ranks[h][first:last] - seen[h]]
                x = block.west + RESOLUTION * (block.columns[at] + 0.5)
                y = block.north - RESOLUTION * (block.rows[at] + 0.5)
                found.append((np.full(len(at), block.epsg), x, y, block.values[at], np.full(len(at), h)))
            seen[h] += int(here[h])
    epsg, x, y, mapped, stratum = (np.concatenate(part) for part in zip(*found, strict=True))
    order = rng.permutation(len(x))
    drawn = {h: len(r) for h, r in ranks.items()}
    return Drawn(_degrees(epsg, x, y)[order], mapped[order], stratum[order], dict(sizes), drawn)


def _ranks(size: int, n: int, rng: np.random.Generator, spread: bool) -> NDArray[np.int64]:
    """N different numbers of 0 .. size - 1, ascending."""
    if spread:
        return np.minimum(((rng.random() + np.arange(n)) * (size / n)).astype(np.int64), size - 1)
    return np.sort(rng.choice(size, n, replace=False, shuffle=False))


def _degrees(epsg: NDArray[np.intp], x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """(n, 2) longitude and latitude of places in their zones, (n,) each."""
    lonlat = np.zeros((len(x), 2))
    for zone in np.unique(epsg):
        mine = epsg == zone
        to_degrees = Transformer.from_crs(int(zone), 4326, always_xy=True)
        lonlat[mine] = np.column_stack(to_degrees.transform(x[mine], y[mine]))
    return lonlat
