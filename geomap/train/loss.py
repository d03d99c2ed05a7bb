"""The loss: at every level, a softmax over the cosines of an embedding with the class vectors of one caption draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

INITIAL_SCALE = 1 / 0.07
"""Initial logit scale (paper section 3: temperature 0.07)."""
MAX_SCALE = 100.0
"""The learned logit scale never exceeds this (paper section 3)."""

OTHER_SHARE = 0.1
"""Share of a real set's classes that are taken to be as common as in the simulation, whatever the set holds."""


def origin_bias(shares: Sequence[NDArray[np.float64]], common: NDArray[np.float64]) -> Tensor:
    """(sets + 1, K) logits that say how common a class is in each real set, beside the simulation; last, zeros for it.

    A real set holds few classes. Told beforehand which, the encoder need not learn them from the look of real series,
    and a set teaches to tell its own classes apart, not that others occur nowhere (logit adjustment: Menon et al. 2021,
    arXiv:2007.07314).

    Args:
        shares: of the classes (K,) in each real set.
        common: of the classes (K,) in the simulation.
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
        """Weighted mean over the levels of the mean loss over the rows that have a class there.

        Args:
            embeddings: (N, D) unit vectors.
            vectors: level -> (K, D) unit class vectors.
            labels: level -> (N,) class index, -1 where the level has no class for the row.
            weights: level -> weight.
            bias: level -> (N, K) what is added to the logits (`origin_bias`).
        """
        total = embeddings.new_zeros(())
        for level, v in vectors.items():
            y = labels[level]
            if weights[level] and bool((y >= 0).any()):
                logits = self.scale * embeddings @ v.T + bias[level]
                total = total + weights[level] * F.cross_entropy(logits, y, ignore_index=-1, label_smoothing=0.02)
        return total / sum(weights[level] for level in vectors)
