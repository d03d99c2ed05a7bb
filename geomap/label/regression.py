"""Multinomial regression around given logits: fitted exactly in float64, with folds that keep groups whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

FOLDS: Final = 5
FEW: Final = 40
"""Up to so many points there are ten folds: a fit on nine tenths of few points is nearer to the fit on all of them."""

NULL: Final = 1e-9
"""Directions with less than this share of the features' variance are left out: float32 features hold no more."""

POWER: Final = 0.75
"""Of `balanced`: at 0 rare classes are lost, at 1 one point can outweigh fifty. Chosen with `learn.PENALTY`."""

STEPS: Final = 50
TOLERANCE: Final = 1e-3
"""Least gain of a step, as a share of one point's cross-entropy; and largest slope: too small to change a label."""


@dataclass(frozen=True, slots=True)
class Design:
    """Features (n, F) turned into their own directions, in which the regression is small and well scaled."""

    rows: Floats  # (n, r)
    axes: Floats  # (F, r) orthonormal: rows = features @ axes

    @classmethod
    def of(cls, features: Floats, null: float = NULL) -> Design:
        """A penalty on squared length does not change by the turn, so the fit is that on the features themselves.

        `null`: directions with less than this share of the sum of squares are left out.
        """
        x = torch.from_numpy(features)
        values, axes = torch.linalg.eigh(x.T @ x)
        axes = axes[:, values > null * values.sum()].flip(1)
        return cls((x @ axes).numpy(), axes.numpy())


def fit(rows: Floats, classes: Ints, prior: Floats, penalty: float, share: Floats | None = None) -> Floats:
    """(r, K) weights W that minimise  sum of share * cross-entropy of prior + rows @ W  +  penalty * |W|^2.

    Args:
        rows: (n, r).
        classes: (n,) in 0..K-1.
        prior: (n, K) logits without the rows.
        penalty: above 0.
        share: (n,) how much each point counts; all 1 if not given.

    L-BFGS (Liu and Nocedal 1989) on weights times the root of a bound of their curvature: at most half of the rows'
    squares (Boehning 1992, for a softmax), and the penalty's own.
    """
    counts = np.ones((len(rows), 1)) if share is None else share[:, None]
    stretch = 1 / np.sqrt(0.5 * (counts * rows**2).sum(0) + 2 * penalty)[:, None]  # (r, 1)
    scaled, base, y = torch.from_numpy(rows * stretch.T), torch.from_numpy(prior), torch.from_numpy(classes)[:, None]
    shrink, count = torch.from_numpy(penalty * stretch**2), torch.from_numpy(counts)

    def loss(flat: Floats) -> tuple[float, Floats]:
        v = torch.from_numpy(flat).view(-1, prior.shape[1])
        logp = torch.addmm(base, scaled, v).log_softmax(1)
        value = (shrink * v * v).sum() - (count * logp.gather(1, y)).sum()
        slope = logp.exp_().scatter_add_(1, y, torch.full(y.shape, -1.0, dtype=torch.float64)).mul_(count)
        return value.item(), (scaled.T @ slope + 2 * shrink * v).numpy().ravel()

    first = np.zeros((rows.shape[1], prior.shape[1]))
    from scipy.optimize import minimize  # 20 MB, which a run that learns nothing does not need

    at_start = max(loss(first.ravel())[0], 1.0)
    options = {"maxiter": STEPS, "gtol": TOLERANCE, "ftol": TOLERANCE / at_start, "maxcor": 10}
    done = minimize(loss, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    found: Floats = done.x.reshape(first.shape) * stretch
    return found


def log_softmax(logits: Floats) -> Floats:
    """(n, K) -> (n, K)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def log_loss(logits: Floats, classes: Ints) -> float:
    """Mean cross-entropy of (n, K) logits."""
    return float(-log_softmax(logits)[np.arange(len(classes)), classes].mean())


def balanced(classes: Ints) -> Floats:
    """(n,) how much each point counts, 1 on the mean: by one over a POWER of how many points its class has."""
    share = 1 / np.bincount(classes)[classes] ** POWER
    found: Floats = share / share.mean()
    return found


def temperature(logits: Floats, classes: Ints, scales: Floats) -> float:
    """The one of `scales` (m,) that multiplies (n, K) logits to the least log loss (Guo et al. 2017, section 4.2)."""
    return float(scales[np.argmin([log_loss(s * logits, classes) for s in scales])])


def parted(groups: Ints, classes: Ints) -> Ints:
    """(n,) fold of every point, 0 ...: no group is parted, and folds share out every class as evenly as they can.

    Groups are taken from the largest to the smallest, in the order of their first points; each goes to the fold that
    holds fewest of its classes so far, then fewest points. All one group: one fold.
    """
    first, group, size = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)[1:]
    folds = min(FOLDS if len(classes) > FEW else 2 * FOLDS, len(size))
    counts = np.zeros((len(size), classes.max() + 1), np.intp)
    np.add.at(counts, (group.reshape(-1), classes), 1)
    held = np.zeros((folds, counts.shape[1]), np.intp)
    fold = np.zeros(len(size), np.intp)
    for g in np.lexsort((first, -size)):
        fold[g] = np.lexsort((held.sum(1), held @ counts[g]))[0]
        held[fold[g]] += counts[g]
    return fold[group.reshape(-1)]
