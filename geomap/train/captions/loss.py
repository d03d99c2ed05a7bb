"""The caption loss: at every level, a softmax over cosines of embeddings and class vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from geomap.train.scale import INITIAL_SCALE, MAX_SCALE

SMOOTHING = 0.02
"""Share of every label that is spread over all classes (Szegedy et al. 2016, arXiv:1512.00567)."""

OTHER_SHARE = 0.1
"""Weight of the simulation's class shares when they are mixed into those of a real set."""


def origin_bias(shares: Sequence[NDArray[np.float64]], common: NDArray[np.float64]) -> Tensor:
    """(sets + 1, K) logits: how common a class is in each real set, relative to the simulation (last row, zeros).

    A real set holds few classes. The bias says which, so the encoder need not learn that from the look of real series:
    it learns to tell the set's classes apart, not that others occur nowhere (logit adjustment: Menon et al. 2021,
    arXiv:2007.07314).

    Args:
        shares: class shares (K,) of each real set.
        common: class shares (K,) of the simulation.
    """
    usual = common + 1e-4
    usual = usual / usual.sum()
    rows = [np.log(((1 - OTHER_SHARE) * share + OTHER_SHARE * usual) / usual) for share in shares]
    return torch.from_numpy(np.stack([*rows, np.zeros_like(usual)]).astype(np.float32))


class CaptionLoss(nn.Module):
    """Cross-entropy over cosines, with one learned logit scale for all levels."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(INITIAL_SCALE).log())

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def forward(
        self,
        embeddings: Tensor,
        vectors: Mapping[str, Tensor],
        allowed: Mapping[str, Tensor],
        weights: Mapping[str, float],
        bias: Mapping[str, Tensor],
    ) -> Tensor:
        """Each level's mean loss over the rows that have a class there, averaged over the levels by weight.

        A row with several possible classes is asked for their probability together.

        Args:
            embeddings: (N, D) unit vectors.
            vectors: level -> (K, D) unit class vectors.
            allowed: level -> (N, K) bool, the classes that a row may have; none: the level says nothing of it.
            weights: level -> weight.
            bias: level -> (N, K) added to the logits (`origin_bias`).
        """
        total = embeddings.new_zeros(())
        for level, v in vectors.items():
            rows = (allowed[level].any(1) & ~allowed[level].all(1)).nonzero()[:, 0]
            if not weights[level] or not len(rows):
                continue
            log_p = F.log_softmax(self.scale * embeddings[rows] @ v.T + bias[level][rows], dim=1)
            right = log_p.masked_fill(~allowed[level][rows], -torch.inf).logsumexp(1)
            total = total - weights[level] * ((1 - SMOOTHING) * right + SMOOTHING * log_p.mean(1)).mean()
        return total / sum(weights[level] for level in vectors)
