"""How many files of one provider are open at once, where the provider sets a limit: in this process, or on a cluster.

A read of a limited provider holds one of its leases. By default the leases are this process's own; on a cluster each
worker is given leases that all of its workers, and all runs on it, share (run/worker.py).
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
    """The lease that reading `href` takes; none where no limited provider owns it."""
    return next((held for key, held in _leases.items() if PROVIDERS[key].owns(href)), nullcontext())


def limits() -> dict[str, int]:
    """Files open at once by provider, where there is a limit."""
    return {key: p.max_connections for key, p in PROVIDERS.items() if p.max_connections is not None}


def share(key: str, leases: Lease) -> None:
    """Take leases of provider `key` that other processes take too, in place of this process's own."""
    _leases[key] = leases
