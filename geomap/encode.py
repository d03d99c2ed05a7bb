"""The tiling engine: a tile's monthly composite -> embeddings of its usable pixels, batch by batch.

Batches have one fixed shape, the last one padded, so a pixel's embedding does not depend on how many pixels its tile
holds. DNs go to the device as uint16; scaling happens there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomap.errors import InputError, WeightsError
from geomap.model import PixelEncoder
from geomap.types import Composite

BATCH_CPU = 1024  # pixels; the activations of a small encoder stay in the cache
BATCH_GPU = 65_536


class Engine:
    """An encoder on a device. Raises WeightsError for one that takes patches, InputError for an unknown device."""

    def __init__(self, encoder: PixelEncoder, device: str = "auto", batch: int | None = None) -> None:
        if (side := encoder.cfg.patch) != 1:
            raise WeightsError(
                f"these weights take patches of {side} x {side} pixels, and maps are made of single pixels; "
                "use weights of patch 1 (geomap evaluate takes the others)"
            )
        self.device = pick_device(device)
        self.batch = batch or (BATCH_CPU if self.device.type == "cpu" else BATCH_GPU)
        self.encoder = encoder.eval().to(self.device)

    def embed(
        self, composite: Composite, usable: NDArray[np.bool_], months: Sequence[int]
    ) -> Iterator[tuple[NDArray[np.intp], Tensor]]:
        """Embed the usable pixels.

        Args:
            composite: monthly DNs of a tile.
            usable: (y, x) pixels to embed; each needs a valid month.
            months: calendar month 0..11 of each step.

        Yields:
            Flat indices into (y, x), ascending, and their (n, D) unit embeddings on the device, at most a batch each.
        """
        steps, bands = composite.dn.shape[:2]
        pixels = composite.dn.reshape(steps * bands, -1)
        where = np.flatnonzero(usable)
        calendar = torch.tensor(months, device=self.device)
        for start in range(0, len(where), self.batch):
            index = where[start : start + self.batch]
            dn = np.zeros((self.batch, steps, bands), np.uint16)
            dn[: len(index)] = pixels[:, index].T.reshape(-1, steps, bands)  # (n, T, C)
            yield index, self._forward(torch.from_numpy(dn), calendar)[: len(index)]

    @torch.inference_mode()
    def _forward(self, dn: Tensor, months: Tensor) -> Tensor:
        """(batch, T, C) uint16 DNs -> (batch, D); padding rows count as one valid month."""
        dn = dn.to(self.device, non_blocking=True).to(torch.int32)  # uint16 has no comparison on some devices
        valid = valid_months(dn)
        valid[:, 0] |= ~valid.any(dim=1)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            out: Tensor = self.encoder(dn, valid, months)
        return out.float()

    def pixels_per_second(self, steps: int) -> float:
        """Speed on made-up pixels, measured over about a fifth of a second, for estimates."""
        rng = np.random.default_rng(0)
        dn = torch.from_numpy(rng.integers(1, 5000, (self.batch, steps, self.encoder.cfg.bands)).astype(np.uint16))
        months = torch.arange(steps, device=self.device)
        self._forward(dn, months)
        done, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < 0.2:
            self._forward(dn, months).sum().item()  # .item() waits for the device
            done += self.batch
        return done / elapsed


def valid_months(dn: Tensor) -> Tensor:
    """(N, T, C) DNs -> (N, T) bool: every band of the month has a value."""
    return (dn != 0).all(dim=-1)


def valid_months_np(dn: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """(month, band, y, x) DNs -> (month, y, x) bool: every band of the month has a value."""
    valid: NDArray[np.bool_] = (dn != 0).all(axis=1)
    return valid


def pick_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, else the CPU. Raises InputError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise InputError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:1")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"no CUDA device {name} here; use --device cpu")
    return device
