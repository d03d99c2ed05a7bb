"""Linear classifiers that were learned from points: on embeddings, and on the monthly series themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomap.rowwise import blocks

CLIP: Final = 3.0
"""Bound of a series' values, in standard deviations: a cloud or a shadow that was missed shall not outweigh a year."""

LEAST_SPREAD: Final = 1e-3
"""Standard deviation of log DN below which a value is as good as constant."""


@dataclass(frozen=True, slots=True)
class SeriesPart:
    """What the monthly series add to the logits: weights on standardised logarithms of DNs."""

    weights: NDArray[np.float32]  # (K, T, C)
    mean: NDArray[np.float32]  # (T, C) of log DN
    spread: NDArray[np.float32]  # (T, C) standard deviation of log DN
    months: tuple[int, ...]  # (T,) calendar month index of each step

    def logits(self, dn: Tensor, months: tuple[int, ...] | None = None) -> Tensor:
        """(n, T, C) DNs, 0 = nodata -> (n, K). A month without all its bands adds nothing.

        `months`: calendar month index of each step, if the series have other steps; months that were not learned from
        add nothing.
        """
        steps = self.months if months is None else months
        both = [(steps.index(month), i) for i, month in enumerate(self.months) if month in steps]
        at, own = [a for a, _ in both], [b for _, b in both]
        arrays = (torch.from_numpy(a[own]).to(dn.device) for a in (self.mean, self.spread))
        z = _standard_torch(dn[:, at].float(), *arrays)
        weights = torch.from_numpy(self.weights[:, own]).to(dn.device).flatten(1)
        return torch.cat([block @ weights.T for _, block in blocks(z.flatten(1))])[: len(dn)]


@dataclass(frozen=True, slots=True)
class Head:
    """A linear classifier on embeddings, and on the series if `series` is given."""

    vectors: NDArray[np.float32]  # (K, D), of a length that gives logits
    bias: NDArray[np.float32]  # (K,)
    series: SeriesPart | None = None

    def logits(
        self,
        embeddings: NDArray[np.float32],
        dn: NDArray[np.uint16] | None = None,
        months: tuple[int, ...] | None = None,
    ) -> NDArray[np.float32]:
        """(n, D) embeddings, and (n, T, C) series if the head takes them -> (n, K); a row does not depend on others."""
        vectors = torch.from_numpy(self.vectors)
        parts = [block @ vectors.T for _, block in blocks(torch.from_numpy(embeddings))]
        found: NDArray[np.float32] = torch.cat(parts)[: len(embeddings)].numpy() + self.bias
        if self.series is not None and dn is not None:
            found = found + self.series.logits(torch.from_numpy(dn.astype(np.float32)), months).numpy()
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of the head by name, as a safetensors file keeps it."""
        found: dict[str, NDArray[Any]] = {"vectors": self.vectors, "bias": self.bias}
        if self.series is not None:
            found |= {f"series.{name}": getattr(self.series, name) for name in ("weights", "mean", "spread")}
            found["series.months"] = np.array(self.series.months, np.int32)
        return found

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The head whose `arrays` these are; other names are ignored.

        Raises:
            KeyError: an array is missing.
            ValueError: shapes that do not belong together, or values that are not finite.
        """
        series = None
        if any(name.startswith("series.") for name in arrays):
            weights, mean, spread = (_floats(arrays, f"series.{n}") for n in ("weights", "mean", "spread"))
            series = SeriesPart(weights, mean, spread, tuple(int(m) for m in arrays["series.months"]))
        head = cls(_floats(arrays, "vectors"), _floats(arrays, "bias"), series)
        head._check()
        return head

    def _check(self) -> None:
        fits = self.vectors.ndim == 2 and self.bias.shape == self.vectors.shape[:1]
        if self.series is not None:
            shape = self.series.weights.shape
            fits &= len(shape) == 3 and shape[:2] == (len(self.bias), len(self.series.months))
            fits &= self.series.mean.shape == self.series.spread.shape == shape[1:]
            fits &= all(0 <= m < 12 for m in self.series.months) and bool((self.series.spread > 0).all())
        if not fits:
            raise ValueError("arrays of a head that do not belong together")


def _floats(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float32]:
    found = np.asarray(arrays[name])
    if found.dtype != np.float32 or not np.isfinite(found).all():
        raise ValueError(f"{name} is not finite float32")
    return found


def scaling(dn: NDArray[np.uint16]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(T, C) mean and standard deviation of log DN over the points whose month has all bands; 0 and 1 if none has."""
    whole = (dn > 0).all(axis=2, keepdims=True)
    x = np.log(np.maximum(dn, 1).astype(np.float64))
    count = np.maximum(whole.sum(axis=0), 1)
    mean = (x * whole).sum(axis=0) / count
    spread = np.sqrt((((x - mean) ** 2) * whole).sum(axis=0) / count)
    return mean.astype(np.float32), np.where(spread > LEAST_SPREAD, spread, 1.0).astype(np.float32)


def standard(dn: NDArray[np.uint16], mean: NDArray[np.float32], spread: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, T, C) standardised log DNs, clipped; months without all bands are 0, the mean."""
    arrays = (torch.from_numpy(a) for a in (mean, spread))
    found: NDArray[np.float32] = _standard_torch(torch.from_numpy(dn.astype(np.float32)), *arrays).numpy()
    return found


def _standard_torch(dn: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    whole = (dn > 0).all(dim=2, keepdim=True)
    return ((dn.clamp(min=1).log() - mean) / spread).clamp(-CLIP, CLIP) * whole
