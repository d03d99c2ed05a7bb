"""The loss: at every level, a softmax over the cosines of an embedding with the class vectors of one caption draw."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_SCALE = 1 / 0.07
"""Initial logit scale (paper section 3: temperature 0.07)."""
MAX_SCALE = 100.0
"""The learned logit scale never exceeds this (paper section 3)."""


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
    ) -> Tensor:
        """Weighted mean over the levels of the mean loss over the rows that have a class there.

        Args:
            embeddings: (N, D) unit vectors.
            vectors: level -> (K, D) unit class vectors.
            labels: level -> (N,) class index, -1 where the level has no class for the row.
            weights: level -> weight.
        """
        total = embeddings.new_zeros(())
        for level, v in vectors.items():
            y = labels[level]
            if weights[level] and bool((y >= 0).any()):
                logits = self.scale * embeddings @ v.T
                total = total + weights[level] * F.cross_entropy(logits, y, ignore_index=-1, label_smoothing=0.02)
        return total / sum(weights[level] for level in vectors)
