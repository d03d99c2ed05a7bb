"""The encoding engine: a tile's monthly composite -> embeddings of its usable pixels, by window.

Pixels with the same number of valid months are encoded together, so a missing month costs nothing. All batches have one
fixed shape, and the last one is padded, so a pixel's embedding depends neither on its neighbours nor on their order.
The months of a pixel are sorted from January to December, so it does not depend on the first month of the period
either. DNs go to the device as uint16; scaling happens there. On a CPU every thread works on its own batches, so the
result does not depend on the number of threads. While the caller uses one window, the next ones are being encoded.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomap import process
from geomap.encode.folded import Execution
from geomap.encode.model import EncoderConfig, PixelEncoder
from geomap.errors import InputError, WeightsError
from geomap.types import Composite

log = logging.getLogger(__name__)

BATCH_CPU = 256
"""Pixels per batch: larger batches share the weights among more tokens; smaller ones leave less of the last empty."""
BATCH_GPU = 4096
"""Most pixels per batch: 53,000 tokens fill the largest devices."""
WINDOW_CPU = 32_768
"""Pixels planned and yielded together; for each number of valid months, one batch may be partly empty."""
WINDOW_GPU = 64
"""Window size on a GPU, in batches."""
AHEAD = 2
"""Number of windows in the queue."""
TRIAL = 8
"""Batches per thread in a round of the speed trial; starting and ending a round is then a few percent of it."""


@dataclass(frozen=True, slots=True)
class _Window:
    """Pixels that are being encoded."""

    index: NDArray[np.intp]  # (n,) flat, ascending
    dn: Tensor  # (T, C, n) int16, the bits of the uint16 DNs
    pattern: Tensor  # (n,) bit i: step order[i] is valid
    calendar: Tensor  # (T,) calendar month of each step
    order: Tensor  # (T,) steps by calendar month
    out: Tensor  # (n, D)


class Engine:
    """An encoder on a device, in bfloat16 if the hardware supports it, otherwise in float32.

    Raises WeightsError for an encoder that takes patches, InputError for an unknown device.
    """

    def __init__(
        self, encoder: PixelEncoder, device: str = "auto", batch: int | None = None, dtype: torch.dtype | None = None
    ) -> None:
        require_single_pixels(encoder)
        self.device = pick_device(device)
        self.dtype = dtype or pick_dtype(self.device)
        self.execution = Execution(encoder, self.device, self.dtype)
        self.batch = batch or fitting_batch(encoder.cfg, self.device)
        self.threads = torch.get_num_threads()

    def embed(
        self, composite: Composite, usable: NDArray[np.bool_], months: Sequence[int]
    ) -> Iterator[tuple[NDArray[np.intp], Tensor]]:
        """Embed the usable pixels.

        Args:
            composite: monthly DNs of a tile.
            usable: (y, x) pixels to embed; raises ValueError if one of them has no valid month.
            months: calendar month 0..11 of each step.

        Yields:
            Flat indices into (y, x), ascending, and their (n, D) unit embeddings on the device, one window at a time.
        """
        pixels = composite.dn.reshape(*composite.dn.shape[:2], -1)  # (T, C, y * x)
        where = np.flatnonzero(usable)
        on_cpu = self.device.type == "cpu"
        size = WINDOW_CPU if on_cpu else WINDOW_GPU * self.batch
        queue: deque[tuple[_Window, list[Future[None]]]] = deque()
        with process.side_by_side(self.threads if on_cpu else 1, "encode") as pool:
            for start in range(0, len(where), size):
                queue.append(self._start(pool, pixels, where[start : start + size], months))
                if len(queue) > AHEAD:
                    yield _finish(*queue.popleft())
            while queue:
                yield _finish(*queue.popleft())

    def _start(
        self, pool: ThreadPoolExecutor, pixels: NDArray[np.uint16], index: NDArray[np.intp], months: Sequence[int]
    ) -> tuple[_Window, list[Future[None]]]:
        """Collect a window's DNs and queue its batches; a batch holds pixels with the same number of valid months."""
        dn = np.take(pixels, index, axis=2)  # (T, C, n)
        valid = (dn != 0).all(axis=1)  # (T, n)
        count = valid.sum(axis=0, dtype=np.uint8)
        if not count.all():
            raise ValueError("a usable pixel has no valid month")
        order = np.argsort(months, kind="stable")
        pattern = np.left_shift(1, np.arange(len(valid)), dtype=np.int32) @ valid[order]
        bits = torch.from_numpy(dn.view(np.int16))  # uint16 cannot be compared and indexed on every device
        if self.device.type == "cuda":
            bits = bits.pin_memory()
        window = _Window(
            index,
            bits.to(self.device, non_blocking=True),
            torch.from_numpy(pattern).to(self.device),
            torch.tensor(months, device=self.device),
            torch.from_numpy(order).to(self.device),
            torch.empty(len(index), self.execution.cfg.out, device=self.device),
        )
        jobs: list[Future[None]] = []
        for k in np.unique(count).tolist():
            rows = np.flatnonzero(count == k)
            parts = np.split(rows, range(self.batch, len(rows), self.batch))
            jobs += [pool.submit(self._encode, window, part, k) for part in parts]
        return window, jobs

    @torch.inference_mode()
    def _encode(self, window: _Window, rows: NDArray[np.intp], k: int) -> None:
        """Encode pixels with k valid months; if the device runs out of memory, the batch size is halved for good."""
        while len(rows):
            batch = self.batch
            try:
                self._encode_batch(window, rows[:batch], k, batch)
                rows = rows[batch:]
            except torch.OutOfMemoryError:
                if batch == 1:
                    raise
                self.batch = min(self.batch, batch // 2)
                log.warning("out of memory on %s with %d pixels at once; trying %d", self.device, batch, self.batch)
                torch.cuda.empty_cache()  # does nothing on a CPU

    def _encode_batch(self, window: _Window, rows: NDArray[np.intp], k: int, batch: int) -> None:
        """Encode at most `batch` pixels in the shape (batch, k, C); the last pixel is repeated to fill the batch."""
        real = len(rows)
        at = torch.from_numpy(np.pad(rows, (0, batch - real), mode="edge")).to(self.device)  # (batch,)
        steps = window.order[_valid_steps(window.pattern[at], len(window.order))[:, :k]]  # (batch, k), by month
        dn = window.dn[steps, :, at[:, None]].to(torch.int32) & 0xFFFF  # (batch, k, C)
        window.out[at[:real]] = self.execution(dn, window.calendar[steps])[:real]

    def pixels_per_second(self, steps: int) -> float:
        """Speed on artificial pixels without gaps, measured for about half a second, for estimates."""
        rng = np.random.default_rng(0)
        side = TRIAL * self.threads if self.device.type == "cpu" else 16  # batches
        dn = rng.integers(1, 5000, (steps, self.execution.cfg.bands, side, self.batch)).astype(np.uint16)
        self._timed(dn[:, :, : self.threads])  # a warm-up: compilation, memory
        done, elapsed = 0, 0.0
        while elapsed < 0.4:
            elapsed += self._timed(dn)
            done += side * self.batch
        return done / elapsed

    def _timed(self, dn: NDArray[np.uint16]) -> float:
        """Seconds to embed (T, C, y, x) DNs."""
        shape, start = dn.shape[2:], time.perf_counter()
        made = Composite(dn, np.ones((len(dn), *shape), np.uint8))
        for _, embeddings in self.embed(made, np.ones(shape, bool), range(len(dn))):
            embeddings.sum().item()  # .item() waits for the device
        return time.perf_counter() - start


def require_single_pixels(encoder: PixelEncoder) -> None:
    """Raise WeightsError for an encoder that takes patches."""
    if (side := encoder.cfg.patch) != 1:
        raise WeightsError(
            f"these weights take patches of {side} x {side} pixels, and maps are made of single pixels; "
            "use weights of patch 1 (geomap evaluate takes the others)"
        )


def _finish(window: _Window, jobs: list[Future[None]]) -> tuple[NDArray[np.intp], Tensor]:
    for job in jobs:
        job.result()
    return window.index, window.out


def _valid_steps(pattern: Tensor, steps: int) -> Tensor:
    """(N,) bit patterns -> (N, steps): the steps whose bit is set, in ascending order, then the others."""
    missing = 1 - (pattern[:, None] >> torch.arange(steps, device=pattern.device) & 1)
    return missing.argsort(dim=1, stable=True)


def valid_months_np(dn: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """(month, band, y, x) DNs -> (month, y, x) bool: True if every band of the month has a value."""
    return np.stack([(month != 0).all(axis=0) for month in dn])  # by month: all at once would be half of `dn` again


def pick_device(name: str) -> torch.device:
    """The device for a name; `auto` is the first CUDA device, else the CPU. Raises InputError if it does not exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise InputError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:1")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"no CUDA device {name} here; use --device cpu")
    return device


def pick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where its products are faster: CUDA from compute capability 8.0, x86 with AMX (docs/engine.md)."""
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        found: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch: unknown
        fast = bool(found.get("amx_bf16"))
    return torch.bfloat16 if fast else torch.float32


def fitting_batch(cfg: EncoderConfig, device: torch.device) -> int:
    """Pixels per batch: on a GPU, as many as fit in half of its free memory."""
    if device.type == "cpu":
        return BATCH_CPU
    free, _ = torch.cuda.mem_get_info(device)
    pixel = 4 * (cfg.months + 1) * (8 * cfg.dim + cfg.mlp)  # bytes: about eight activations per layer, float32
    return int(max(16, min(BATCH_GPU, free // 2 // pixel)))
