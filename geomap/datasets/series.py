"""Shortens series to quarters or years, leaves months out at random, and embeds series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomap.composite.median import median_np
from geomap.datasets.samples import Samples
from geomap.encode.model import PixelEncoder
from geomap.sentinel2 import MONTHS
from geomap.types import Progress, silent

LENGTHS: Final = {"monthly": 12, "quarterly": 4, "annual": 1}
"""Steps of a series by name (paper, section 4: T = 12, 4 and 1)."""

SERIES_AT_ONCE: Final = 4096
"""Series embedded at once; the activations of the paper's encoder then fit into 2 GB."""
CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class Series:
    """n series of T steps as the encoder takes them."""

    dn: NDArray[np.uint16]  # (n, T, bands * patch^2), 0 = nodata
    valid: NDArray[np.bool_]  # (n, T)
    months: NDArray[np.intp] | NDArray[np.float32]  # (T,) calendar month, or (T, 12) shares of the months in a step

    def __len__(self) -> int:
        return len(self.dn)


def shorten(dn: NDArray[np.uint16], valid: NDArray[np.bool_], length: str) -> Series:
    """Monthly series (n, 12, F) with their valid months (n, 12) in one of LENGTHS.

    A quarter (January to March, ...) or a year is the median of its valid months, value by value. Even counts take the
    mean of the middle two, rounded down, as in the monthly composites. A step without a valid month is not valid.
    """
    if LENGTHS[length] == MONTHS:
        return Series(dn, valid, np.arange(MONTHS))
    return spanning(dn, valid, LENGTHS[length])


def spanning(dn: NDArray[np.uint16], valid: NDArray[np.bool_], steps: int) -> Series:
    """Monthly series as `steps` equal parts of the year, each the median of its valid months (see `shorten`)."""
    known = np.where(valid[..., None], dn, np.uint16(0))
    blocks = np.split(np.arange(MONTHS), steps)
    out = np.stack([median_np([known[:, m] for m in block]) for block in blocks], axis=1)
    shares = np.zeros((steps, MONTHS), np.float32)
    for step, block in enumerate(blocks):
        shares[step, block] = 1 / len(block)
    return Series(out, np.stack([valid[:, block].any(1) for block in blocks], axis=1), shares)


def some_months(rng: np.random.Generator, valid: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Keep `count` random valid months (n, 12) of each row; rows that have fewer keep all."""
    order = np.where(valid, rng.random(valid.shape), 2.0).argsort(1).argsort(1)  # rank of each month, valid ones first
    kept: NDArray[np.bool_] = valid & (order < count)
    return kept


@torch.inference_mode()
def embed_samples(
    encoder: PixelEncoder,
    samples: Samples,
    length: str = "monthly",
    device: torch.device = CPU,
    progress: Progress = silent,
    stage: str = "encode",
) -> Tensor:
    """Unit embeddings (n, D), float32 on the CPU, of samples in one of LENGTHS; every sample needs a valid month.

    Samples whose steps span months are taken as they are.

    Uses the encoder's own forward pass in float32; maps use the faster `encode.engine`.
    """
    encoder = encoder.eval().to(device)
    if samples.steps is None:
        series = shorten(samples.dn, samples.valid, length)
    else:
        series = Series(samples.dn, samples.valid, samples.steps)
    months = torch.from_numpy(series.months).to(device)
    parts = [torch.empty(0, encoder.cfg.out)]
    for start in range(0, len(series), SERIES_AT_ONCE):
        rows = slice(start, start + SERIES_AT_ONCE)
        dn = torch.from_numpy(series.dn[rows]).to(device).float()
        parts.append(encoder(dn, torch.from_numpy(series.valid[rows]).to(device), months).float().cpu())
        progress(stage, min(start + SERIES_AT_ONCE, len(series)), len(series))
    return torch.cat(parts)
