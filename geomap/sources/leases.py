"""Limits how many files of one provider are open at once, where the provider sets a limit.

A read of a limited provider holds one of its leases. By default the leases belong to this process; on a cluster all
workers and all runs share them (run/worker.py).
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from geomap.sources.providers import PROVIDERS

Lease = AbstractContextManager[Any]
"""Entered before a file is opened, left when it is closed; entering waits for a free lease."""

_leases: dict[str, Lease] = {
    key: threading.BoundedSemaphore(p.max_connections) for key, p in PROVIDERS.items() if p.max_connections is not None
}


def lease(href: str) -> Lease:
    """The lease that reading `href` takes; an empty one if `href` belongs to no limited provider."""
    return next((held for key, held in _leases.items() if PROVIDERS[key].owns(href)), nullcontext())


def limits() -> dict[str, int]:
    """Most files open at once, by provider that has a limit."""
    return {key: p.max_connections for key, p in PROVIDERS.items() if p.max_connections is not None}


def share(key: str, leases: Lease) -> None:
    """For provider `key`, use leases that other processes share in place of this process's own."""
    _leases[key] = leases
