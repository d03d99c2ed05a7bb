"""The contrastive loss of pixel series and ground photos: InfoNCE with a queue of negatives.

The loss runs from the satellite to the ground. The positive is the sample's own ground vector; the negatives are the
other ground vectors of the batch and a queue of past ones (paper section 3.3: K = 2048, learned temperature from 0.07).
The ground side is frozen, so the queue's vectors never age and no momentum encoder is needed.
"""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geomap.encode.model import PixelEncoder
from geomap.train.scale import INITIAL_SCALE, MAX_SCALE

NOBODY: Final = -1
"""Sample number of a queue slot that is still empty."""


def info_nce(
    satellite: Tensor, ground: Tensor, positive: Tensor, scale: Tensor, queue: Tensor | None = None,
    same: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Cross-entropy of every satellite vector over its positive and its negatives.

    Args:
        satellite: (n, D) unit vectors.
        ground: (N, D) unit vectors of the batch, the positives among them.
        positive: (n,) row of `ground` that belongs to each satellite vector; the other rows are negatives.
        scale: () logit scale, 1 / temperature.
        queue: (Q, D) further negatives.
        same: (n, Q) True where a queue entry is the sample's own vector from an earlier epoch, so not a negative.

    Returns:
        (n,) losses.
    """
    logits = scale * (satellite @ ground.T)
    if queue is not None and len(queue):
        past = scale * (satellite @ queue.T)  # masked after scaling: 0 x inf would make the scale's gradient NaN
        logits = torch.cat([logits, past if same is None else past.masked_fill(same, -math.inf)], dim=1)
    return F.cross_entropy(logits, positive, reduction="none")


class Queue:
    """The last K ground vectors and the numbers of their samples; starts empty, and only filled slots count."""

    def __init__(self, size: int, dim: int, device: torch.device) -> None:
        self.vectors = torch.zeros(size, dim, device=device)
        self.samples = torch.full((size,), NOBODY, device=device)
        self.next = 0  # next slot to write
        self.filled = 0

    def push(self, vectors: Tensor, samples: Tensor) -> None:
        """Add (n, D) unit vectors in order in place of the oldest; of more than K, the last K are kept."""
        size = len(self.vectors)
        vectors, samples = vectors[-size:], samples[-size:]
        slots = (torch.arange(len(vectors), device=self.vectors.device) + self.next) % size
        self.vectors[slots], self.samples[slots] = vectors, samples
        self.next = (self.next + len(vectors)) % size
        self.filled = min(size, self.filled + len(vectors))

    def entries(self) -> tuple[Tensor, Tensor]:
        """Filled slots: (Q, D) vectors and (Q,) sample numbers."""
        return self.vectors[: self.filled], self.samples[: self.filled]  # slots fill from 0


class CrossView(nn.Module):
    """The encoder with its learned logit scale; forward returns the losses of some rows of a batch."""

    def __init__(self, encoder: PixelEncoder, bf16: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.log_scale = nn.Parameter(torch.tensor(INITIAL_SCALE).log())
        self.bf16 = bf16  # autocast of the encoder; the contrast itself is float32

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp()

    @torch.no_grad()
    def limit_scale(self) -> None:
        """Clamp the logit scale to 100: after each step, so that its gradient never vanishes."""
        self.log_scale.clamp_(max=math.log(MAX_SCALE))

    def embed(self, dn: Tensor, valid: Tensor, months: Tensor) -> Tensor:
        """(n, out) float32 unit embeddings; arguments as PixelEncoder.forward."""
        with torch.autocast(dn.device.type, torch.bfloat16, enabled=self.bf16):
            out: Tensor = self.encoder(dn, valid, months)
        return out.float()

    def forward(
        self, dn: Tensor, valid: Tensor, months: Tensor, ground: Tensor, positive: Tensor,
        queue: Tensor | None = None, same: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """(n,) losses of n series; arguments as PixelEncoder.forward and `info_nce`."""
        return info_nce(self.embed(dn, valid, months), ground, positive, self.scale, queue, same)
