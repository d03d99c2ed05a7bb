"""How the C library keeps memory that was freed, for arrays that are made and dropped by the thousand."""

from __future__ import annotations

import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
"""Parameters of mallopt (glibc, malloc.h)."""

MAPPED_FROM: Final = 32 * 2**20
"""Bytes from which an array gets pages of its own: the most that glibc's own adaptation comes to on 64 bits."""


def keep_freed() -> None:
    """Let glibc keep freed memory of this process up to what its own adaptation would, from the start.

    By default it adapts to the sizes that a process frees, but dask starts its workers with a fixed, low threshold
    (MALLOC_TRIM_THRESHOLD_): every array then comes in fresh pages, which the kernel fills with zeros one by one, and
    an encoder on a CPU takes 1.4 times as long. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MAPPED_FROM)
        mallopt(M_TRIM_THRESHOLD, 2 * MAPPED_FROM)
