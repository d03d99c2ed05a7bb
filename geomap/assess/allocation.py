"""How many points a sample needs, and how they are shared among strata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from geomap.errors import InputError

Allocation = Literal["olofsson", "neyman", "equal", "proportional"]
ALLOCATIONS: Final[tuple[str, ...]] = get_args(Allocation)

LEAST: Final = 2
"""Fewest points of a stratum: one alone has no variance."""


def points_needed(sizes: Mapping[int, int], expected: Mapping[int, float], standard_error: float) -> int:
    """Points for a wanted standard error of overall accuracy.

        n = (sum of W_h S_h)^2 / (S(O)^2 + (1/N) sum of W_h S_h^2),   S_h = sqrt(U_h (1 - U_h))

    Olofsson et al. 2014 (doi:10.1016/j.rse.2014.02.015), equation 13, which is Cochran 1977, equation 5.25.

    Args:
        sizes: stratum -> its pixels N_h; W_h = N_h / N.
        expected: stratum -> the user's accuracy U_h expected there, 0..1.
        standard_error: S(O), the wanted standard error of overall accuracy, such as 0.01.
    """
    total = sum(sizes.values())
    spread = {h: math.sqrt(expected[h] * (1 - expected[h])) for h in sizes}
    above = sum(size / total * spread[h] for h, size in sizes.items()) ** 2
    below = standard_error**2 + sum(size / total * spread[h] ** 2 for h, size in sizes.items()) / total
    return max(math.ceil(round(above / below, 6)), 1)


def points_at_random(sizes: Mapping[int, int], expected: Mapping[int, float], standard_error: float) -> int:
    """Points of a simple random sample for a wanted standard error of overall accuracy; arguments as `points_needed`.

    n = p (1 - p) / (S(O)^2 + p (1 - p) / N),   p = sum of W_h U_h   (Cochran 1977, equation 4.2)
    """
    total = sum(sizes.values())
    right = sum(size / total * expected[h] for h, size in sizes.items())
    spread = right * (1 - right)
    return max(math.ceil(round(spread / (standard_error**2 + spread / total), 6)), 1)


def expected_error(sizes: Mapping[int, int], points: Mapping[int, int], expected: Mapping[int, float]) -> float:
    """The standard error of overall accuracy that a stratified sample will have if its accuracies are as expected.

    The root of the sum of W_h^2 U_h (1 - U_h) / n_h (Olofsson et al. 2014, equation 5), over strata with points.
    """
    total = sum(sizes.values())
    parts = (
        (size / total) ** 2 * expected[h] * (1 - expected[h]) / points[h] for h, size in sizes.items() if points[h]
    )
    return math.sqrt(sum(parts))


def allocate(
    sizes: Mapping[int, int], n: int, how: Allocation, least: int, expected: Mapping[int, float]
) -> dict[int, int]:
    """Points of each stratum; together n, or every pixel where there are fewer.

    - proportional: to N_h.
    - olofsson: rare strata, whose share would be below `least`, get `least`; the rest is shared in proportion to N_h
      (Olofsson et al. 2014, section 5.1.2).
    - neyman: to N_h S_h, S_h = sqrt(U_h (1 - U_h)) (Cochran 1977, equation 5.26), none below `least`.
    - equal: the same for each.

    No stratum gets more points than it has pixels, nor fewer than two (LEAST) if it has them. `least` is lowered so
    that it takes no more than half of n (`fewest`); LEAST alone holds for `equal` and `proportional`.

    Raises:
        InputError: n is less than two for each stratum.
    """
    strata = [h for h, size in sorted(sizes.items()) if size]
    size = np.array([sizes[h] for h in strata], np.float64)
    wanted = min(n, int(size.sum()))
    floor = fewest(wanted, len(strata), least) if how in ("olofsson", "neyman") else LEAST
    low = np.minimum(size, floor)
    if low.sum() > wanted:
        raise InputError(
            f"{n} points are too few for {len(strata)} classes, which need {LEAST} each; "
            f"type --n {LEAST * len(strata)} or more, or --design random"
        )
    weight = size
    if how == "neyman":
        weight = size * np.sqrt([expected[h] * (1 - expected[h]) for h in strata])
    elif how == "equal":
        weight = np.ones_like(size)
    shares = _shared(wanted, weight, low, size)
    return dict(zip(strata, (int(v) for v in _whole(shares, wanted)), strict=True))


def fewest(n: int, strata: int, least: int) -> int:
    """Fewest points of a stratum: `least`, or what leaves half of n points to be shared by area."""
    return max(min(least, n // (2 * strata)), LEAST)


def _shared(
    n: int, weight: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(H,) shares of n within low..high, the others in proportion to their weight.

    The factor is found by bisection: the shares grow with it.
    """
    weight = np.where(weight > 0, weight, weight.max(initial=1) * 1e-9)
    below, above = 0.0, float(high.max() / weight.min()) + 1
    for _ in range(200):
        middle = (below + above) / 2
        if np.clip(middle * weight, low, high).sum() < n:
            below = middle
        else:
            above = middle
    return np.clip(above * weight, low, high)


def _whole(shares: NDArray[np.float64], n: int) -> NDArray[np.intp]:
    """Whole numbers that add up to n: the largest remainders are rounded up."""
    shares = np.round(shares, 6)
    down = np.floor(shares).astype(np.intp)
    up = np.argsort(down - shares, kind="stable")[: n - int(down.sum())]
    down[up] += 1
    return down
