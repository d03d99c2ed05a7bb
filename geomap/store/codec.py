"""Embeddings as bytes: one int8 for each of at most 128 coordinates; all 0 is nodata.

Embeddings of the default weights (dim 128, 384-d) have 128 exact coordinates (encode/directions.py). For encoders with
more directions, the 128 that hold most of the embeddings of simulated series are kept. The coordinates are turned by a
fixed random rotation, so that all have similar size, and divided by the pixel's largest one: an embedding is a unit
vector, so its length need not be kept. docs/stores.md has the measurements, and the codes that did worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomap.rowwise import blocks

SIZE: Final = 128
"""Most bytes per pixel."""
LIMIT: Final = 127
"""Code of a pixel's largest coordinate, or its negative."""


@dataclass(frozen=True, slots=True)
class Codec:
    """The coordinates in which embeddings are stored."""

    basis: NDArray[np.float32]  # (D, C) orthonormal columns, C <= SIZE

    @classmethod
    def along(cls, directions: NDArray[np.float64]) -> Codec:
        """Coordinates along (D, C) orthonormal directions, turned by a fixed random rotation."""
        size = directions.shape[1]
        rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))
        return cls((directions @ rotation).astype(np.float32))

    @property
    def size(self) -> int:
        """Bytes per pixel."""
        return int(self.basis.shape[1])

    def encode(self, embeddings: Tensor) -> Tensor:
        """(N, D) unit embeddings -> (N, C) int8 codes; each contains 127 or -127, so none is all 0."""
        basis = torch.from_numpy(self.basis).to(embeddings.device)
        codes = torch.empty(len(embeddings), self.size, dtype=torch.int8, device=embeddings.device)
        for rows, block in blocks(embeddings.float()):
            y = (block @ basis)[: rows.stop - rows.start]
            codes[rows] = (y * (LIMIT / y.abs().amax(dim=1, keepdim=True))).round().to(torch.int8)
        return codes

    def project(self, vectors: Tensor) -> Tensor:
        """(K, D) vectors -> (K, C) coordinates, whose products with decoded codes are the cosines."""
        return vectors.float().cpu() @ torch.from_numpy(self.basis)


def decode(codes: Tensor) -> Tensor:
    """(N, C) codes, none of them all 0 -> (N, C) float32 unit vectors."""
    y = codes.float()  # a copy
    return y.mul_((y * y).sum(dim=1, keepdim=True).rsqrt())


def cosines(codes: Tensor, code: Tensor) -> Tensor:
    """(N, C) codes x (C,) code -> (N,) float32 cosines, NaN for a code of all 0; exactly 1 for the code itself."""
    y, x = codes.float(), code.float()  # sums of C <= 128 products of int8 stay below 2^24: exact
    product, lengths = (y @ x).double(), (y * y).sum(dim=1).double() * (x @ x).double()
    cosine: Tensor = (product / lengths.sqrt()).float()
    return cosine
