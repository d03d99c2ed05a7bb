"""Teachers: encoders of other seeds, whose mean embedding an encoder learns beside the labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from geomap.encode.model import PixelEncoder
from geomap.train.captions.pool import Batch


class Teachers:
    """Encoders that differ in their seed: their mean is steadier than each, and one encoder can learn it.

    Distillation of an ensemble (Hinton, Vinyals and Dean 2015, arXiv:1503.02531), of embeddings in place of class
    probabilities: so that words which no training asked for gain as well.
    """

    def __init__(self, encoders: Sequence[PixelEncoder], weight: float) -> None:
        """`weight`: of the distance beside the caption loss."""
        self._encoders, self._weight = encoders, weight

    @torch.no_grad()
    def mean(self, batch: Batch) -> Tensor:
        """(N, D) unit vectors: the direction of the mean of the encoders' embeddings."""
        made = sum(F.normalize(encoder(batch.dn, batch.valid, batch.months), dim=-1) for encoder in self._encoders)
        return F.normalize(torch.as_tensor(made), dim=-1)

    def loss(self, embeddings: Tensor, batch: Batch) -> Tensor:
        """The mean distance, 1 - cosine, of embeddings (N, D) of a batch from those of the teachers, by weight."""
        return self._weight * (1 - (F.normalize(embeddings, dim=-1) * self.mean(batch)).sum(-1)).mean()
