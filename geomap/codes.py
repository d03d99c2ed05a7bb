"""Embeddings as bytes: one int8 for each of at most 128 coordinates, all 0 = no data.

An encoder ends in LayerNorm and one Linear layer, W (g * z + b) + c with z of mean zero: whatever it reads, its output
lies in a subspace of at most `dim` directions that these tensors alone decide. Embeddings of the default weights
(dim 128, 384-d) thus have 128 exact coordinates. Encoders with more keep the 128 directions that hold most of what they
say about simulated series. The coordinates are turned by a fixed random rotation, so that all are of like size, and
divided by the largest of the pixel: an embedding is a unit vector, its length need not be kept. docs/stores.md has the
measurements, and the codes that did worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomap.blocks import blocks
from geomap.model import PixelEncoder

SIZE: Final = 128
"""Most bytes for a pixel."""
LIMIT: Final = 127
"""Code of a pixel's largest coordinate, or its negative."""

_SAMPLE: Final = 4096
"""Simulated series that choose the directions of an encoder with more than SIZE of them."""
_BATCH: Final = 512


@dataclass(frozen=True, slots=True)
class Codec:
    """The coordinates in which embeddings are kept."""

    basis: NDArray[np.float32]  # (D, C) orthonormal columns, C <= SIZE

    @property
    def size(self) -> int:
        """Bytes for a pixel."""
        return int(self.basis.shape[1])

    def encode(self, embeddings: Tensor) -> Tensor:
        """(N, D) unit embeddings -> (N, C) int8 codes; each holds 127 or -127, so none is all 0."""
        basis = torch.from_numpy(self.basis).to(embeddings.device)
        codes = torch.empty(len(embeddings), self.size, dtype=torch.int8, device=embeddings.device)
        for rows, block in blocks(embeddings.float()):
            y = (block @ basis)[: rows.stop - rows.start]
            codes[rows] = (y * (LIMIT / y.abs().amax(dim=1, keepdim=True))).round().to(torch.int8)
        return codes

    def project(self, vectors: Tensor) -> Tensor:
        """(K, D) vectors -> (K, C) coordinates: their products with decoded codes are the cosines."""
        return vectors.float().cpu() @ torch.from_numpy(self.basis)


def decode(codes: Tensor) -> Tensor:
    """(N, C) codes, none all 0 -> (N, C) float32 unit vectors."""
    y = codes.float()  # a copy
    return y.mul_((y * y).sum(dim=1, keepdim=True).rsqrt())


def cosines(codes: Tensor, code: Tensor) -> Tensor:
    """(N, C) codes x (C,) code -> (N,) float32 cosines, NaN for a code of all 0; exactly 1 for the code itself."""
    y, x = codes.float(), code.float()  # sums of C <= 128 products of int8 stay below 2^24: exact
    product, lengths = (y @ x).double(), (y * y).sum(dim=1).double() * (x @ x).double()
    cosine: Tensor = (product / lengths.sqrt()).float()
    return cosine


def codec_of(encoder: PixelEncoder) -> Codec:
    """The coordinates for an encoder's embeddings: they follow from its weights alone."""
    directions = _reach(encoder)
    if directions.shape[1] > SIZE:
        directions = _strongest(_embed_simulated(encoder), SIZE)
    size = directions.shape[1]
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))
    return Codec((directions @ rotation).astype(np.float32))


def _reach(encoder: PixelEncoder) -> NDArray[np.float64]:
    """(D, r) orthonormal directions that hold every output of the head, r <= dim."""
    norm, linear = encoder.head
    assert isinstance(norm, torch.nn.LayerNorm)
    assert isinstance(linear, torch.nn.Linear)
    g, b, w, c = (t.detach().cpu().double().numpy() for t in (norm.weight, norm.bias, linear.weight, linear.bias))
    centred = (w * g) @ (np.eye(len(g)) - 1 / len(g))  # z has mean zero
    left, strength, _ = np.linalg.svd(np.column_stack([centred, w @ b + c]), full_matrices=False)
    reach: NDArray[np.float64] = left[:, strength > 1e-9 * strength[0]]
    return reach


def _strongest(embeddings: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(D, count) principal directions of (N, D) embeddings, uncentred."""
    _, directions = np.linalg.eigh(embeddings.T @ embeddings)
    strongest: NDArray[np.float64] = directions[:, ::-1][:, :count]
    return strongest


@torch.inference_mode()
def _embed_simulated(encoder: PixelEncoder) -> NDArray[np.float64]:
    """(N, D) embeddings of simulated series, the same ones for every encoder."""
    from geomap.simulate.series import simulate

    series = simulate(np.random.default_rng(0), _SAMPLE)
    some = series.valid.any(axis=1)
    dn, valid = torch.from_numpy(series.dn[some].astype(np.int32)), torch.from_numpy(series.valid[some])
    device = encoder.position.device
    months = torch.arange(dn.shape[1], device=device)
    parts = [
        encoder(dn[i : i + _BATCH].to(device), valid[i : i + _BATCH].to(device), months).double().cpu()
        for i in range(0, len(dn), _BATCH)
    ]
    return torch.cat(parts).numpy()
