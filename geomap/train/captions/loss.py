"""The caption loss: at every level, a softmax over cosines of embeddings and class vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from geomap.train.scale import INITIAL_SCALE, MAX_SCALE

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
        labels: Mapping[str, Tensor],
        weights: Mapping[str, float],
        bias: Mapping[str, Tensor],
    ) -> Tensor:
        """Each level's mean loss over the rows that have a class there, averaged over the levels by weight.

        Args:
            embeddings: (N, D) unit vectors.
            vectors: level -> (K, D) unit class vectors.
            labels: level -> (N,) class index, -1 where the level has no class for the row.
            weights: level -> weight.
            bias: level -> (N, K) added to the logits (`origin_bias`).
        """
        total = embeddings.new_zeros(())
        for level, v in vectors.items():
            y = labels[level]
            if weights[level] and bool((y >= 0).any()):
                logits = self.scale * embeddings @ v.T + bias[level]
                total = total + weights[level] * F.cross_entropy(logits, y, ignore_index=-1, label_smoothing=0.02)
        return total / sum(weights[level] for level in vectors)
