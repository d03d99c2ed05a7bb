"""The encoding engine: a tile's monthly composite -> embeddings of its usable pixels, by window.

Pixels with the same number of valid months are encoded together, so a missing month costs nothing. All batches have one
fixed shape, and the last one is padded, so a pixel's embedding depends neither on its neighbours nor on their order.
The months of a pixel are sorted from January to December, so it does not depend on the first month of the period
either. DNs go to the device as uint16; scaling happens there. On a CPU every thread works on its own batches, so the
result does not depend on the number of threads. While the caller uses one window, the next ones are being encoded.

Encoders of patches get the P x P pixels around each pixel, cut for one batch at a time from the rows that hold the
window. As in training (datasets.months.tokens_np), the pixel itself decides which months are valid. A neighbour that
lacks a band in such a month, or lies beyond the composite, has the pixel's own values there.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomap import process
from geomap.encode.folded import Execution
from geomap.encode.model import EncoderConfig, PixelEncoder
from geomap.errors import InputError
from geomap.types import Composite

log = logging.getLogger(__name__)

BATCH_CPU = 256
"""Pixels per batch: larger batches share the weights among more tokens; smaller ones leave less of the last empty."""
BATCH_GPU = 4096
"""Most pixels per batch: 53,000 tokens fill the largest devices."""
WINDOW_CPU = 16_384
"""Pixels planned and yielded together; for each number of valid months, one batch may be partly empty."""
WINDOW_GPU = 64
"""Window size on a GPU, in batches."""
SPAN = 4
"""Most pixels from the first to the last of a window of patches, in windows: its rows are copied with those between."""
AHEAD = 2
"""Number of windows in the queue."""
TRIAL = 8
"""Batches per thread in a round of the speed trial; starting and ending a round is then a few percent of it."""

_speeds: Final[dict[tuple[Any, ...], float]] = {}
"""Pixels per second by all that decides them, as measured in this process."""


@dataclass(frozen=True, slots=True)
class _Window:
    """Pixels that are being encoded."""

    index: NDArray[np.intp]  # (n,) flat, ascending
    dn: Tensor  # (T, C, m) int16, the bits of the uint16 DNs: those of the pixels, or the rows around their patches
    whole: Tensor  # (T, m) bool, pixels with all bands
    place: Tensor  # (n,) index of each pixel in m
    offsets: Tensor  # (P^2,) from a pixel's place to those of its patch
    pattern: Tensor  # (n,) bit i: step order[i] is valid
    calendar: Tensor  # (T,) calendar month of each step
    order: Tensor  # (T,) steps by calendar month
    out: Tensor  # (n, D)


class Engine:
    """An encoder on a device, in bfloat16 if the hardware supports it, otherwise in float32.

    Raises InputError for an unknown device.
    """

    def __init__(
        self,
        encoder: PixelEncoder,
        device: str | torch.device = "auto",
        batch: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
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
            composite: monthly DNs of a tile; for patches, also of the pixels around it, equally many on each side.
            usable: (y, x) pixels of the tile to embed; raises ValueError if one of them has no valid month.
            months: calendar month 0..11 of each step.

        Yields:
            Flat indices into (y, x), ascending, and their (n, D) unit embeddings on the device, one window at a time.
        """
        on_cpu = self.device.type == "cpu"
        size = WINDOW_CPU if on_cpu else WINDOW_GPU * self.batch
        span = usable.size if self.execution.cfg.patch == 1 else SPAN * size
        queue: deque[tuple[_Window, list[Future[None]]]] = deque()
        with process.side_by_side(self.threads if on_cpu else 1, "encode") as pool:
            for index in _runs(np.flatnonzero(usable), size, span):
                queue.append(self._start(pool, composite, index, usable.shape, months))
                if len(queue) > AHEAD:
                    yield _finish(*queue.popleft())
            while queue:
                yield _finish(*queue.popleft())

    def _start(
        self,
        pool: ThreadPoolExecutor,
        composite: Composite,
        index: NDArray[np.intp],
        shape: tuple[int, ...],
        months: Sequence[int],
    ) -> tuple[_Window, list[Future[None]]]:
        """Collect a window's DNs and queue its batches; a batch holds pixels with the same number of valid months."""
        dn, place, offsets = _around(composite, index, shape, self.execution.cfg.patch)
        whole = (dn != 0).all(axis=1)  # (T, m)
        valid = whole[:, place]  # (T, n)
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
            torch.from_numpy(whole).to(self.device),
            torch.from_numpy(place).to(self.device),
            torch.from_numpy(offsets).to(self.device),
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
        """Encode at most `batch` pixels in the shape (batch, k, P^2, C); the last one is repeated to fill the batch."""
        real = len(rows)
        at = torch.from_numpy(np.pad(rows, (0, batch - real), mode="edge")).to(self.device)  # (batch,)
        steps = window.order[_valid_steps(window.pattern[at], len(window.order))[:, :k]]  # (batch, k), by month
        own = window.place[at][:, None, None]
        near, month = own + window.offsets, steps[..., None]  # (batch, 1, P^2), (batch, k, 1)
        taken = torch.where(window.whole[month, near], near, own)  # (batch, k, P^2)
        dn = window.dn[month, :, taken].to(torch.int32) & 0xFFFF  # (batch, k, P^2, C)
        window.out[at[:real]] = self.execution(dn, window.calendar[steps])[:real]

    def pixels_per_second(self, steps: int) -> float:
        """Speed on artificial pixels without gaps, for estimates: measured for about half a second, once a process."""
        sizes = self.execution.cfg, self.device, self.dtype, self.batch, self.threads, steps
        if sizes not in _speeds:
            _speeds[sizes] = self._trial(steps)
        return _speeds[sizes]

    def _trial(self, steps: int) -> float:
        """Pixels per second, on artificial ones."""
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


def _runs(where: NDArray[np.intp], most: int, span: int) -> Iterator[NDArray[np.intp]]:
    """Ascending numbers in runs of at most `most`, which differ by less than `span`."""
    start = 0
    while start < len(where):
        end = min(start + most, int(np.searchsorted(where, where[start] + span)))
        yield where[start:end]
        start = end


def _around(
    composite: Composite, index: NDArray[np.intp], shape: tuple[int, ...], patch: int
) -> tuple[NDArray[np.uint16], NDArray[np.intp], NDArray[np.intp]]:
    """The DNs of some pixels' patches, without a copy for each patch; 0 beyond the composite.

    Args:
        composite: of (y + 2 m, x + 2 m) pixels, with a margin of m.
        index: (n,) flat indices into (y, x), ascending.
        shape: (y, x).
        patch: P; a patch begins P // 2 pixels before its own, as crops of the training data do.

    Returns:
        (T, C, m) DNs: single pixels, or the rows from the first to the last patch; (n,) the place of each pixel in m;
        (P^2,) offsets from there to the pixels of its patch, in rows from the north.
    """
    margin, before = (composite.shape[0] - shape[0]) // 2, patch // 2
    lack = max(before - margin, 0)  # rows and columns of nodata to add
    rows, columns = (at + margin + lack for at in np.divmod(index, shape[1]))
    if patch == 1:
        return composite.series(rows, columns), np.arange(len(index)), np.zeros(1, np.intp)
    width = composite.shape[1] + 2 * lack
    first, last = rows[0] - before - lack, rows[-1] - before - lack + patch  # of the composite
    held = composite.rows(max(first, 0), min(last, composite.shape[0]))
    missing = max(-first, 0), max(last - composite.shape[0], 0)
    dn = np.pad(held, ((0, 0), (0, 0), missing, (lack, lack))).reshape(*held.shape[:2], -1)
    steps = np.arange(patch) - before
    return dn, (rows - rows[0] + before) * width + columns, np.add.outer(steps * width, steps).ravel()


def _finish(window: _Window, jobs: list[Future[None]]) -> tuple[NDArray[np.intp], Tensor]:
    for job in jobs:
        job.result()
    return window.index, window.out


def _valid_steps(pattern: Tensor, steps: int) -> Tensor:
    """(N,) bit patterns -> (N, steps): the steps whose bit is set, in ascending order, then the others."""
    missing = 1 - (pattern[:, None] >> torch.arange(steps, device=pattern.device) & 1)
    return missing.argsort(dim=1, stable=True)


def valid_months(composite: Composite) -> NDArray[np.bool_]:
    """(month, y, x) bool: True if every band of the month has a value."""
    return np.stack([(composite.month(step) != 0).all(axis=0) for step in range(len(composite.held))])


def pick_device(name: str | torch.device) -> torch.device:
    """The device for a name; `auto` is the first CUDA device, else the CPU. Raises InputError if it does not exist."""
    name = str(name)
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
    numbers = 8 * cfg.dim + cfg.mlp + 6 * cfg.features  # about eight activations per layer; copies of the DNs
    pixel = 4 * (cfg.months + 1) * numbers  # bytes, float32
    return int(max(16, min(BATCH_GPU, free // 2 // pixel)))
