"""Labelled monthly series in memory: what readers give, and what training and evaluation take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Samples:
    """n labelled series; month 0 is January whatever the window's start."""

    name: str
    id: NDArray[np.str_]  # (n,) for example a LUCAS point id
    dn: NDArray[np.uint16]  # (n, 12, bands * patch^2), band-major as the encoder takes them, 0 = nodata
    valid: NDArray[np.bool_]  # (n, 12) False where a month is no token
    labels: Mapping[str, NDArray[np.intp]] = field(default_factory=dict)  # legend name -> (n,) class id, 0 = none
    photos: NDArray[np.float32] | None = None  # (n, D) ground photos' mean vector, not normalised; NaN rows have none
    country: NDArray[np.str_] | None = None  # (n,) NUTS 0 codes
    lonlat: NDArray[np.float64] | None = None  # (n, 2) degrees, NaN where unknown

    def __len__(self) -> int:
        return len(self.dn)

    def rows(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> Samples:
        """The samples of some rows."""
        return Samples(
            self.name, self.id[which], self.dn[which], self.valid[which],
            {k: v[which] for k, v in self.labels.items()},
            None if self.photos is None else self.photos[which],
            None if self.country is None else self.country[which],
            None if self.lonlat is None else self.lonlat[which],
        )  # fmt: skip
