"""The pixel-series encoder of TimeSenCLIP (arXiv 2508.11919v3, section 3): one file, torch only.

The monthly series of one pixel becomes one token per month. A transformer mixes the tokens with a class token, and the
class token's output, projected and normalised, is the embedding, in the space of a frozen text tower. Post-norm layers,
ReLU and a head of LayerNorm + one Linear follow the published code where it differs from the paper's text: the
parameter counts of the paper's Table 8 (8.17 M for 1 x 1 pixel) confirm them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Sizes of an encoder. The defaults are the paper's: 8,169,472 parameters."""

    bands: int = 10
    patch: int = 1  # pixels per side of the input patch; 1 = a single pixel
    dim: int = 512
    depth: int = 6
    heads: int = 8
    mlp: int = 256
    out: int = 512  # dimension of the text tower's space
    months: int = 12
    dropout: float = 0.2

    @property
    def features(self) -> int:
        """Values per month: bands x patch x patch."""
        return self.bands * self.patch**2

    @property
    def margin(self) -> int:
        """Pixels of 10 m that a tile needs on each side for its patches, in whole pixels of 20 m."""
        return (self.patch // 2 + 1) // 2 * 2


CONFIGS = {
    "timesenclip": EncoderConfig(),
    "small": EncoderConfig(dim=128, depth=3, heads=4, mlp=256, out=384, dropout=0.1),
}
"""Named configurations: the paper's, and one that maps a square kilometre in about a second on a CPU."""


class Attention(nn.Module):
    """Multi-head self-attention with the parameter names and layout of torch.nn.MultiheadAttention."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.heads, self.dropout = cfg.heads, cfg.dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * cfg.dim, cfg.dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * cfg.dim))
        self.out_proj = nn.Linear(cfg.dim, cfg.dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, asking: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """What tokens (N, Q, D) learn from all tokens (N, S, D), those of `mask` (N, 1, 1, S)."""
        d = x.shape[-1]
        if asking is x:
            q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).split(d, dim=-1)
        else:
            q = F.linear(asking, self.in_proj_weight[:d], self.in_proj_bias[:d])
            k, v = F.linear(x, self.in_proj_weight[d:], self.in_proj_bias[d:]).split(d, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))  # each (N, heads, S, D/heads)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        out: Tensor = self.out_proj(y.transpose(1, 2).flatten(-2))
        return out


class EncoderLayer(nn.Module):
    """A post-norm transformer layer with the parameter names of torch.nn.TransformerEncoderLayer."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.self_attn = Attention(cfg)
        self.linear1 = nn.Linear(cfg.dim, cfg.mlp)
        self.linear2 = nn.Linear(cfg.mlp, cfg.dim)
        self.norm1 = nn.LayerNorm(cfg.dim)
        self.norm2 = nn.LayerNorm(cfg.dim)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x: Tensor, mask: Tensor, first: bool = False) -> Tensor:
        """Tokens (N, S, D) -> (N, S, D); `first`: of the first token alone, (N, 1, D)."""
        asking = x[:, :1] if first else x
        x = self.norm1(asking + self.dropout(self.self_attn(asking, x, mask)))
        hidden = self.dropout(F.relu(self.linear1(x)))  # (N, S, mlp)
        out: Tensor = self.norm2(x + self.dropout(self.linear2(hidden)))
        return out


class PixelEncoder(nn.Module):
    """Monthly DNs of pixels -> unit embeddings.

    `low` and `high` are the band constants of the input normalisation, (DN - low) / high clamped to [0, 1]
    (paper.md section 3). They belong to the weights, are checked against their card, and are not learned.
    """

    low: Tensor
    high: Tensor

    def __init__(self, cfg: EncoderConfig, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.cfg = cfg
        self.register_buffer("low", low.reshape(cfg.bands, 1).float(), persistent=False)
        self.register_buffer("high", high.reshape(cfg.bands, 1).float(), persistent=False)
        self.embed = nn.Linear(cfg.features, cfg.dim)
        self.position = nn.Parameter(torch.zeros(cfg.months, cfg.dim))
        self.cls = nn.Parameter(torch.zeros(cfg.dim))
        self.layers = nn.ModuleList(EncoderLayer(cfg) for _ in range(cfg.depth))
        self.head = nn.Sequential(nn.LayerNorm(cfg.dim), nn.Linear(cfg.dim, cfg.out))

    def normalise(self, dn: Tensor) -> Tensor:
        """DNs (N, T, bands * patch^2), band-major, any dtype -> [0, 1] of the same shape, float32."""
        x = dn.float().reshape(*dn.shape[:-1], self.cfg.bands, -1)
        unit: Tensor = ((x - self.low) / self.high).clamp(0, 1)
        return unit.flatten(-2)

    def forward(self, dn: Tensor, valid: Tensor, months: Tensor) -> Tensor:
        """Embed pixel series.

        Args:
            dn: (N, T, bands * patch^2) DNs (reflectance x 10000), band-major; values of invalid months are ignored.
            valid: (N, T) bool, False if a month has no clear observation; every row needs at least one True.
            months: (T,) or (N, T) calendar month 0..11 of each step. For steps that span several months (quarters, a
                year): (T, 12) float, each step's shares of the months; its position is then the mean of theirs.

        Returns:
            (N, out) unit vectors.
        """
        position = months @ self.position if months.is_floating_point() else self.position[months]
        x = self.embed(self.normalise(dn)) + position  # (N, T, D)
        x = torch.cat([self.cls.expand(len(x), 1, -1), x], dim=1)  # (N, 1 + T, D); the class token has no position
        mask = F.pad(valid, (1, 0), value=True)[:, None, None, :]  # (N, 1, 1, 1 + T), broadcast over heads and queries
        *before, last = self.layers
        for layer in before:
            x = layer(x, mask)
        x = last(x, mask, first=True)  # only the class token is asked for
        return F.normalize(self.head(x[:, 0]), dim=-1)
