"""How pixels of one kind of land differ among themselves: what tells little about classes, and is weighed less.

Light, haze, sowing dates and soils make pixels of one kind unlike each other in some directions more than in others. A
few labelled points cannot show which; many series of known kinds can (the within-class scatter of Fisher 1936,
doi:10.1111/j.1469-1809.1936.tb02137.x). Dividing by its root makes a penalty on length one on what tells kinds apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EMBEDDING_FLOOR, SERIES_FLOOR = 8e-4, 2.5e-3
"""Share of the whole variance that is added to that of every direction, of embeddings and of series.

Chosen with `learn.PENALTY` among shares four times smaller and larger (benchmarks/RESULTS.md).
"""

LEAST: Final = 5
"""Fewest series of a kind that tell how these differ."""


@dataclass(frozen=True, slots=True)
class Scatter:
    """Mean covariance within a kind of land."""

    embeddings: Floats  # (D, D)
    series: Floats  # (M * C, M * C) of log DN of M calendar months and C bands, months without data left at the mean

    @classmethod
    def of(cls, embeddings: NDArray[np.float32], dn: NDArray[np.uint16], kinds: NDArray[Any]) -> Self:
        """From n pixels: (n, D) unit embeddings, (n, M, C) DNs with 0 = nodata, (n,) kinds of land."""
        return cls(_within(embeddings.astype(np.float64), kinds), _within(_logs(dn), kinds))

    def projected(self, basis: NDArray[np.floating[Any]]) -> Self:
        """That of the coordinates of embeddings along (D, E) orthonormal columns."""
        b = basis.astype(np.float64)
        return replace(self, embeddings=b.T @ self.embeddings @ b)

    def embedding_turn(self) -> Floats:
        """(D, D) symmetric: differences times it count the less, the more a kind differs that way in itself."""
        return _root(self.embeddings, EMBEDDING_FLOOR)

    def series_turn(self, months: tuple[int, ...], bands: int) -> Floats:
        """(T * C, T * C) the same for the log DN of these calendar months 0..11."""
        rows = (np.array(months)[:, None] * bands + np.arange(bands)).ravel()
        return _root(self.series[np.ix_(rows, rows)], SERIES_FLOOR)


def _logs(dn: NDArray[np.uint16]) -> Floats:
    """(n, M * C) log DN less its mean; 0 where a month lacks a band."""
    whole = (dn > 0).all(axis=2, keepdims=True)
    x = np.log(np.maximum(dn, 1).astype(np.float64)) * whole
    centred: Floats = (x - x.sum(axis=0) / np.maximum(whole.sum(axis=0), 1)) * whole
    return centred.reshape(len(dn), -1)


def _within(x: Floats, kinds: NDArray[Any]) -> Floats:
    """(F, F) covariance of (n, F) values around the means of their kinds, of kinds with LEAST or more."""
    _, kind, count = np.unique(kinds, return_inverse=True, return_counts=True)
    kind = kind.reshape(-1)
    mean = np.zeros((len(count), x.shape[1]))
    np.add.at(mean, kind, x)
    apart = (x - (mean / count[:, None])[kind])[count[kind] >= LEAST]
    found: Floats = apart.T @ apart / max(len(apart), 1)
    return found


def _root(covariance: Floats, floor: float) -> Floats:
    """(F, F) the inverse root of a covariance, `floor` of its trace added to every variance."""
    values, axes = np.linalg.eigh(covariance)
    values = np.maximum(values, 0)
    found: Floats = (axes / np.sqrt(values / (float(values.sum()) or 1.0) + floor)) @ axes.T
    return found
