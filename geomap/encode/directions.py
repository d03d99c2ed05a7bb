"""The directions in which an encoder's embeddings vary; a store keeps these (store/codec.py).

An encoder ends in LayerNorm and one Linear layer, W (g * z + b) + c with z of mean zero. Whatever the input, the output
lies in a subspace of at most `dim` directions, which depends only on these tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from geomap.encode.model import PixelEncoder

Sample = Callable[[], tuple[NDArray[np.uint16], NDArray[np.bool_]]]
"""Makes monthly series: (N, T, C) DNs and (N, T) whether the month is valid."""

_BATCH: Final = 512  # series per forward


def directions(encoder: PixelEncoder, most: int, sample: Sample) -> NDArray[np.float64]:
    """(D, r) orthonormal directions of the embeddings, r <= most.

    If the head can reach at most `most` directions, these are returned, exact; otherwise the `most` directions that
    hold most of the embeddings of the sample's series.
    """
    reach = _reach(encoder)
    return reach if reach.shape[1] <= most else _strongest(_embed(encoder, *sample()), most)


def _reach(encoder: PixelEncoder) -> NDArray[np.float64]:
    """(D, r) orthonormal directions that span every output of the head, r <= dim."""
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
    _, found = np.linalg.eigh(embeddings.T @ embeddings)
    strongest: NDArray[np.float64] = found[:, ::-1][:, :count]
    return strongest


@torch.inference_mode()
def _embed(encoder: PixelEncoder, dn: NDArray[np.uint16], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N, D) embeddings of the series with at least one valid month."""
    some = valid.any(axis=1)
    series, known = torch.from_numpy(dn[some].astype(np.int32)), torch.from_numpy(valid[some])
    device = encoder.position.device
    months = torch.arange(series.shape[1], device=device)
    parts = [
        encoder(series[i : i + _BATCH].to(device), known[i : i + _BATCH].to(device), months).double().cpu()
        for i in range(0, len(series), _BATCH)
    ]
    return torch.cat(parts).numpy()
