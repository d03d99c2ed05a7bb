"""Estimates for a part of a map, such as a district, from the points of the map's sample that lie in it.

A part is a domain of which the map tells the pixels of each class, and its points are stratified by mapped class with
these pixels as the sizes: post-stratification within the domain, conditional on how many points fell into each class
there (Cochran 1977, Sampling Techniques, 3rd edition, section 5A.8; Saerndal, Swensson and Wretman 1992, Model Assisted
Survey Sampling, chapter 10). It holds for samples in which all pixels of a mapped class are as likely as each other to
be drawn, one by one: random ones, and those stratified by the classes of this map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from geomap.assess.estimate import Estimates, Sample, estimate

LEAST: Final = 30
"""Fewest points of a part. With 30 in a simulated one, 95 % intervals of classes of more than a tenth of it cover the
truth in 92 %, and half of one is a tenth of the part wide; with fewer it is wider (docs/assessment.md)."""
UNSEEN: Final = 0.05
"""Largest share of a part's pixels in classes without a point there. Estimates are for the part without them; what
these leave out is less than half an interval with LEAST points, which is a tenth of the part."""


def estimate_part(pixels: Mapping[int, int], points: Mapping[tuple[int, int], int]) -> Estimates | None:
    """Accuracies and areas in a part of a map; None if its points are too few.

    Classes that are mapped there without a point are `empty`: nothing is known about them, and shares are of the
    others' pixels.

    Args:
        pixels: mapped class -> its pixels in the part, 1 or more.
        points: (mapped class, class on the ground) -> points in the part; the mapped ones are of `pixels`.
    """
    pairs = np.array([*points], np.intp).reshape(-1, 2)
    mapped, reference = np.repeat(pairs, [*points.values()], axis=0).T
    unseen = sum(size for c, size in pixels.items() if c not in pairs[:, 0])
    if len(mapped) < LEAST or unseen > UNSEEN * sum(pixels.values()):
        return None
    sample = Sample(mapped, reference, mapped, np.arange(len(mapped)), pixels)
    return estimate(sample, sorted({*pixels, *pairs[:, 1].tolist()}))
