"""Rows in blocks of one shape, so that a row's result does not depend on the number of rows.

A matrix library picks its kernel by shape, and kernels add in different orders: measured with MKL on a CPU, the cosines
of 7 pixels differed in the last bit from those of the same pixels among 32,768.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch.nn.functional as F
from torch import Tensor

ROWS_CPU: Final = 4096
ROWS_GPU: Final = 65_536


def blocks(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(N, D) rows -> (slice of rows, (ROWS, D) block of them); the last block is padded with zeros."""
    size = ROWS_CPU if rows.device.type == "cpu" else ROWS_GPU
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        yield slice(start, start + len(block)), F.pad(block, (0, 0, 0, size - len(block)))
