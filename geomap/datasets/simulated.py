"""Simulated series as samples, and the classes that a simulated cover has in each legend."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from geomap.datasets.kinds import class_of
from geomap.datasets.samples import CLIMATE, COVER, Samples
from geomap.simulate.series import simulate

COVER_LEGENDS: Final = {"landcover": "landcover", "crops": "crop"}
"""Legends that a cover decides -> its attribute with the class id. A cover only suggests land use and habitat."""


def cover_labels(cover: NDArray[np.intp], climate: NDArray[np.intp]) -> dict[str, NDArray[np.intp]]:
    """Labels of samples, from their positions (n,) among the kinds of land and the climates; climate -1 is unknown."""
    of_legend = {name: class_of(attribute)[cover] for name, attribute in COVER_LEGENDS.items()}
    return of_legend | {COVER: cover + 1, CLIMATE: climate + 1}


def simulated_samples(rng: np.random.Generator, n: int) -> Samples:
    """Simulate `n` series, labelled by their covers."""
    made = simulate(rng, n)
    ids = np.array([f"simulated/{i}" for i in range(n)])
    return Samples("simulated", ids, made.dn, made.valid, cover_labels(made.cover, made.climate))
