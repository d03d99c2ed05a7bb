"""The encoder's forward arranged for speed: the same weights and function, fewer operations.

`model.PixelEncoder` is the reference; in exact arithmetic the results are equal. Here the weights are folded once, in
float64:

- The first layer depends on few numbers per token: the DNs and the month; for the class token on nothing, so it is the
  same for every pixel. Embedding, positions, input normalisation and projections are folded into small matrices over
  these features, and the first layer's attention works on the features. Only the clamp remains, applied to the DNs.
  A month of a patch has too many numbers for that: it is embedded first, with the normalisation folded in, and the
  first layer is then like the middle ones.
- The last layer is computed only for the class token, the only one that is read. Its single query is multiplied by the
  key weights, and the weighted sum of tokens by the value weights, so no token is projected.
- Biases that shift all scores of a query equally are left out. Output biases of attention and MLP are added by the
  preceding LayerNorm and subtracted again by what reads its result, so both projections add to the residual in place.
- On a CPU, the compiled loops of `kernels` do everything between the products. The columns of queries, keys and values
  are in the order that these loops need. With bfloat16 products, the residual is float16.
- Every token is a valid month: there is no mask and no padding. The caller groups pixels by number of months.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from geomap.encode import kernels
from geomap.encode.model import PixelEncoder


@dataclass(frozen=True, slots=True)
class _Rest:
    """The part of a layer after the attention. Weights are (in, out), as torch.mm takes them."""

    norm1: tuple[Tensor, Tensor]  # (D,) weight, bias
    w1: Tensor  # (D, mlp)
    b1: Tensor  # (mlp,)
    w2: Tensor  # (mlp, D)
    norm2: tuple[Tensor, Tensor]
    compiled: bool  # with the loops of `kernels`

    def __call__(self, attended: Tensor, out: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(R, A) attention result, (A, D) output projection and (R, D) residual -> (R, D) output and residual."""
        x, residual = self._add_norm(attended, out, residual, self.norm1)
        if self.compiled:
            hidden = kernels.relu_(torch.mm(x, self.w1), self.b1)
        else:
            hidden = torch.addmm(self.b1, x, self.w1).relu_()
        return self._add_norm(hidden, self.w2, residual, self.norm2)

    def _add_norm(
        self, x: Tensor, weight: Tensor, residual: Tensor, norm: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """LayerNorm of residual + x @ weight, once as input of the next product and once as the next residual."""
        if self.compiled:
            return kernels.norm_(torch.mm(x, weight), residual, *norm), residual
        x = F.layer_norm(residual.addmm_(x, weight), residual.shape[-1:], *norm)
        return x, x


@dataclass(frozen=True, slots=True)
class _First:
    """The first layer, over (N, S, F) features of months; zeros for the class token, whose share is in the biases."""

    rest: _Rest
    heads: int
    residual: Tensor  # (F, D)
    residual_bias: Tensor  # (D,)
    query: Tensor  # (F, H * F): features -> queries, already multiplied by the key weights and scaled
    out: Tensor  # (H * F, D): weighted features -> value and output projections
    query_bias: Tensor  # (H * F,)
    by_channel: bool  # H * F is ordered F * H, as `kernels` needs it
    kept: torch.dtype  # dtype of the residual

    def __call__(self, u: Tensor, class_only: bool) -> tuple[Tensor, Tensor]:
        """(N, S, F) -> output and residual, (N * S, D), or (N, D) of the class token."""
        n, s, f = u.shape
        rows = (u[:, 0] if class_only else u).reshape(-1, f)
        if self.by_channel:
            weighted = kernels.attend_(torch.mm(rows, self.query), rows, rows, self.heads, s, self.query_bias)
        else:
            q = torch.mm(rows, self.query).add_(self.query_bias).view(n, -1, f)  # (N, S * H, F)
            weighted = _mix(q, u).reshape(len(rows), -1)  # (N * S, H * F)
        residual = torch.addmm(self.residual_bias, rows, self.residual)
        return self.rest(weighted, self.out, residual.to(self.kept))


@dataclass(frozen=True, slots=True)
class _Embedding:
    """Features of months of patches -> tokens, for a first layer like the middle ones."""

    weight: Tensor  # (F, D)
    bias: Tensor  # (D,) the class token, whose features are zeros
    kept: torch.dtype  # dtype of the residual

    def __call__(self, u: Tensor, class_only: bool) -> tuple[Tensor, Tensor]:
        """(N, S, F) -> tokens and residual, (N * S, D); never of the class token alone."""
        x = torch.addmm(self.bias, u.view(-1, u.shape[2]), self.weight)
        return x, x.to(self.kept)


@dataclass(frozen=True, slots=True)
class _Middle:
    """A layer over all tokens. Keys need no bias."""

    rest: _Rest
    heads: int
    qkv: Tensor  # (D, 3 * D), queries scaled
    qkv_bias: Tensor  # (3 * D,)
    out: Tensor  # (D, D)

    def __call__(self, x: Tensor, residual: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """(N * tokens, D), residual -> the same."""
        if self.rest.compiled:
            q, k, v = torch.mm(x, self.qkv).chunk(3, dim=1)
            q_bias, _, v_bias = self.qkv_bias.chunk(3)
            mixed = kernels.attend_(q, k, v, self.heads, tokens, q_bias, v_bias)
        else:
            qkv = torch.addmm(self.qkv_bias, x, self.qkv).unflatten(1, (3, self.heads, -1))  # (N * S, 3, H, D / H)
            q, k, v = qkv.unflatten(0, (-1, tokens)).permute(2, 0, 3, 1, 4)  # (N, H, S, D / H)
            mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).reshape(x.shape)
        return self.rest(mixed, self.out, residual)


@dataclass(frozen=True, slots=True)
class _Last:
    """The last layer, only for the class token."""

    rest: _Rest
    q: Tensor  # (D, D), scaled
    k: Tensor  # (H, D / H, D)
    v: Tensor  # (H, D, D / H)
    out: Tensor  # (D, D)
    q_bias: Tensor
    v_bias: Tensor

    def __call__(self, x: Tensor, residual: Tensor, tokens: int) -> Tensor:
        """(N * tokens, D), residual -> (N, D)."""
        rows, x = x, x.view(-1, tokens, x.shape[1])
        n, _, d = x.shape
        heads = self.k.shape[0]
        first = x[:, 0].contiguous()  # (N, D)
        q = torch.mm(first, self.q).add_(self.q_bias).view(n, heads, -1).transpose(0, 1)  # (H, N, D / H)
        q = torch.bmm(q, self.k).transpose(0, 1).contiguous()  # (N, H, D)
        if self.rest.compiled:  # each head's query is one of H queries, and tokens are both keys and values
            weighted = kernels.attend_(q.view(-1, d), rows, rows, 1, tokens).view(q.shape)
        else:
            weighted = _mix(q, x)
        weighted = weighted.transpose(0, 1)  # (H, N, D)
        values = torch.bmm(weighted, self.v).transpose(0, 1).reshape(n, d).add_(self.v_bias)
        return self.rest(values, self.out, residual.view(x.shape)[:, 0].contiguous())[0]


class Execution:
    """A frozen copy of an encoder's weights on a device, in float32 or bfloat16, and its forward.

    LayerNorm, softmax and sums of products are always float32. Inputs and outputs of products are `dtype`. So is the
    residual, except with bfloat16 and compiled loops, where it is float16. DNs enter as two bfloat16 parts of 8 bits
    each, so they are not rounded.
    """

    def __init__(self, encoder: PixelEncoder, device: torch.device, dtype: torch.dtype) -> None:
        cfg = encoder.cfg
        self.cfg, self.device, self.dtype = cfg, device, dtype
        self.parts = 2 if dtype == torch.bfloat16 else 1  # parts of each DN
        self.low = encoder.low.detach().flatten().to(device, torch.float32)  # (C,)
        self.top = (encoder.low + encoder.high).detach().flatten().to(device, torch.float32)
        fold = _Fold(encoder, device, dtype, self.parts)
        self.one_hot = torch.eye(cfg.months, cfg.months + fold.padding, device=device, dtype=dtype)
        whole = 1 if cfg.patch == 1 else 0  # layers that are done with the embedding
        self.first = fold.first() if whole else fold.embedding()
        self.middle = tuple(fold.middle(i) for i in range(whole, cfg.depth - 1))
        self.last = fold.last(cfg.depth - 1) if cfg.depth > whole else None
        self.head_norm, self.head_weight, self.head_bias = fold.head()

    def __call__(self, dn: Tensor, months: Tensor) -> Tensor:
        """Embed series without gaps; the result is that of PixelEncoder with all months valid.

        Args:
            dn: (N, T, C) DNs on the device, of any dtype, T >= 1; of patches (N, T, P^2, C), pixels in rows from north.
            months: (N, T) calendar month 0..11 of each step.

        Returns:
            (N, out) float32 unit vectors.
        """
        features = self.features(dn, months)
        tokens = features.shape[1]
        x, residual = self.first(features, class_only=self.last is None)  # (N * tokens, D), or (N, D) if it is the last
        for layer in self.middle:
            x, residual = layer(x, residual, tokens)
        row = self.last(x, residual, tokens) if self.last is not None else x  # (N, D)
        row = F.layer_norm(row, row.shape[-1:], *self.head_norm)
        return F.normalize(torch.addmm(self.head_bias, row, self.head_weight).float(), dim=-1)

    def features(self, dn: Tensor, months: Tensor) -> Tensor:
        """(N, 1 + T, F) in `dtype`: clamped DNs in parts, the month as 0 and 1, padding; zeros for the class token."""
        value = torch.clamp(dn.float(), self.low, self.top).flatten(2)
        high = value.to(self.dtype)
        rest = [(value - high.float()).to(self.dtype)] if self.parts == 2 else []
        return F.pad(torch.cat([high, *rest, self.one_hot[months.long()]], dim=-1), (0, 0, 1, 0))


def multiply_adds(encoder: PixelEncoder, months: int = 12) -> int:
    """Multiply-adds of Execution for one pixel with this many valid months, without padding and second parts of DNs."""
    cfg = encoder.cfg
    s, d, h, f = months + 1, cfg.dim, cfg.heads, cfg.bands + cfg.months
    mlp = 2 * d * cfg.mlp
    tokens = 1 if cfg.depth == 1 else s
    first = tokens * (f * h * f + 2 * s * h * f + h * f * d + f * d + mlp)
    middle = s * (4 * d * d + 2 * s * d + mlp)
    last = 4 * d * d + 2 * s * h * d + mlp
    if cfg.patch > 1:
        return s * (cfg.features + cfg.months) * d + (cfg.depth - 1) * middle + last + d * cfg.out
    return first + max(cfg.depth - 2, 0) * middle + (last if cfg.depth > 1 else 0) + d * cfg.out


def _mix(q: Tensor, x: Tensor) -> Tensor:
    """Attention of (N, Q, F) queries over (N, S, F) tokens, which are both keys and values -> (N, Q, F)."""
    scores = torch.bmm(x, q.transpose(1, 2))  # (N, S, Q): the softmax runs along the middle axis, over whole vectors
    weights = torch.softmax(scores, dim=1, dtype=torch.float32).to(x.dtype)
    return torch.bmm(weights.transpose(1, 2), x)


class _Fold:
    """An encoder's weights in float64, and the layers of Execution made from them."""

    def __init__(self, encoder: PixelEncoder, device: torch.device, dtype: torch.dtype, parts: int) -> None:
        self.cfg, self.device, self.dtype, self.parts = encoder.cfg, device, dtype, parts
        self.weights = {k: v.detach().cpu().double() for k, v in encoder.state_dict().items()}
        self.low = encoder.low.detach().flatten().cpu().double()
        self.high = encoder.high.detach().flatten().cpu().double()
        self.scale = 1 / math.sqrt(self.cfg.dim // self.cfg.heads)
        heads = self.cfg.heads
        self.compiled = device.type == "cpu" and kernels.fits(heads, self.cfg.dim, self.cfg.mlp)
        features = self.cfg.features * parts + self.cfg.months
        self.padding = -features % (kernels.LANES // heads) if self.compiled else 0
        self.kept = torch.float16 if self.compiled and dtype == torch.bfloat16 else dtype  # dtype of the residual

    def to(self, weight: Tensor) -> Tensor:
        return weight.to(self.device, self.dtype).contiguous()

    def added(self, bias: Tensor) -> Tensor:
        """A bias, or a weight of LayerNorm: float32 for the compiled loops, `dtype` for torch (it needs one dtype)."""
        return bias.to(self.device, torch.float32 if self.compiled else self.dtype).contiguous()

    def by_channel(self, rows: Tensor) -> Tensor:
        """Rows by head -> rows as the compiled loops need them: channel 0 of all heads, channel 1 of all, ..."""
        return rows.unflatten(0, (self.cfg.heads, -1)).transpose(0, 1).flatten(0, 1) if self.compiled else rows

    def norm(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return self.added(weight), self.added(bias)

    def head(self) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """LayerNorm, (D, out) weight and (out,) bias of the head."""
        w = self.weights
        norm = self.norm(w["head.0.weight"], w["head.0.bias"])
        return norm, self.to(w["head.1.weight"].T), self.to(w["head.1.bias"])

    def tokens(self) -> Tensor:
        """(D, F): a token is cls + this @ features."""
        w = self.weights["embed.weight"].unflatten(1, (self.cfg.bands, -1)) / self.high[:, None]  # (D, C, P^2)
        month = self.weights["position"] + self.weights["embed.bias"] - w.sum(2) @ self.low - self.weights["cls"]
        embed = w.transpose(1, 2).flatten(1)  # (D, P^2 * C)
        return F.pad(torch.cat([embed] * self.parts + [month.T], dim=1), (0, self.padding))

    def embedding(self) -> _Embedding:
        bias = self.weights["cls"] + self._of(0, "self_attn.out_proj.bias")  # as a LayerNorm before the layer would add
        weight = self.tokens()
        return _Embedding(self.to(weight.T), self.to(bias), self.kept)

    def first(self) -> _First:
        cls, x = self.weights["cls"], self.tokens()  # (D,), (D, F)
        q, k, v, q_bias, v_bias, out, out_bias = self._attention(0)
        heads = (self.cfg.heads, -1)  # rows of projections by head
        qx, kx, vx = ((w @ x).unflatten(0, heads) for w in (q, k, v))  # (H, D / H, F)
        query = torch.einsum("hdk,hdf->hkf", kx, qx).flatten(0, 1)  # (H * F, F)
        query_bias = torch.einsum("hdk,hd->hk", kx, (q @ cls + q_bias).unflatten(0, heads)).flatten()
        mixed = torch.einsum("ohd,hdf->hfo", out.unflatten(1, heads), vx).flatten(0, 1)
        constant = cls + out @ (v @ cls + v_bias) + out_bias
        by_channel = self.compiled and self.cfg.depth > 1
        if by_channel:
            query, query_bias, mixed = (self.by_channel(t) for t in (query, query_bias, mixed))
        residual, constant, query, mixed = (self.to(t) for t in (x.T, constant, query.T, mixed))
        bias = self.added(query_bias)
        return _First(self._rest(0), self.cfg.heads, residual, constant, query, mixed, bias, by_channel, self.kept)

    def middle(self, i: int) -> _Middle:
        q, k, v, q_bias, v_bias, out, out_bias = self._attention(i)
        biases = q_bias - q @ out_bias, torch.zeros_like(q_bias), v_bias - v @ out_bias
        qkv, qkv_bias = (torch.cat([self.by_channel(t) for t in three]) for three in ((q, k, v), biases))
        out = self.to(self.by_channel(out.T))
        return _Middle(self._rest(i), self.cfg.heads, self.to(qkv.T), self.added(qkv_bias), out)

    def last(self, i: int) -> _Last:
        q, k, v, q_bias, v_bias, out, out_bias = self._attention(i)
        heads = (self.cfg.heads, -1)
        by_head = k.unflatten(0, heads), v.unflatten(0, heads).transpose(1, 2)
        folded = (self.to(t) for t in (q.T, *by_head, out.T, q_bias - q @ out_bias, v_bias - v @ out_bias))
        return _Last(self._rest(i), *folded)

    def _attention(self, i: int) -> tuple[Tensor, ...]:
        """Weights of queries (scaled), keys and values; their biases, without that of keys; output weight and bias."""
        q, k, v = self._of(i, "self_attn.in_proj_weight").chunk(3)
        q_bias, _, v_bias = self._of(i, "self_attn.in_proj_bias").chunk(3)
        out, out_bias = self._of(i, "self_attn.out_proj.weight"), self._of(i, "self_attn.out_proj.bias")
        return q * self.scale, k, v, q_bias * self.scale, v_bias, out, out_bias

    def _rest(self, i: int) -> _Rest:
        w1, b1, w2, b2 = (self._of(i, f"linear{j}.{part}") for j in (1, 2) for part in ("weight", "bias"))
        following = self._of(i + 1, "self_attn.out_proj.bias") if i + 1 < self.cfg.depth else 0.0
        norm1 = self.norm(self._of(i, "norm1.weight"), self._of(i, "norm1.bias") + b2)
        norm2 = self.norm(self._of(i, "norm2.weight"), self._of(i, "norm2.bias") + following)
        return _Rest(norm1, self.to(w1.T), self.added(b1 - w1 @ b2), self.to(w2.T), norm2, self.compiled)

    def _of(self, i: int, name: str) -> Tensor:
        found: Tensor = self.weights[f"layers.{i}.{name}"]
        return found
