"""Where the tiles of a run are made: in this process, in local workers, or on a dask cluster."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from geomap.errors import InputError

if TYPE_CHECKING:
    import torch

    from geomap.run.prepare import Prepared
    from geomap.run.progress import Tracker
    from geomap.run.tile_file import Outcome, Task


GUARD: Final = 'if __name__ == "__main__":'
"""Under it stands what the processes that a script starts shall not do too."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Where the tiles are made; by default in this process."""

    scheduler: str | None = None  # address of a dask scheduler, tcp:// or tls://
    workers: int = 0  # processes to start on this machine
    threads: int = 2  # tiles per worker at a time: one is read while another is encoded
    memory: str | None = None  # memory limit of each, such as "4 GB"; None: an equal share of the machine's

    def __post_init__(self) -> None:
        if self.scheduler and self.workers:
            raise InputError("give --workers or --scheduler, not both: a scheduler has workers of its own")
        if self.scheduler and not self.scheduler.startswith(("tcp://", "tls://")):
            raise InputError(f"cannot use scheduler {self.scheduler!r}; write tcp://host:8786 or tls://host:8786")
        if self.workers < 0 or self.threads < 1:
            raise InputError(f"cannot start {self.workers} workers of {self.threads} threads; give 1 or more")


class Workers(Protocol):
    """Makes tiles, as a context manager; `device` and `dtype` of the encoding are known inside it."""

    device: torch.device
    dtype: torch.dtype

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: Any) -> None: ...

    def speed(self, prepared: Prepared, months: int) -> float | None:
        """Pixels with so many months encoded per second; None if that is not known."""

    def work(self, prepared: Prepared, tasks: Sequence[Task], tracker: Tracker, alone: bool) -> Generator[Outcome]:
        """Make the tiles in any order, one at a time if `alone`; a tile's error is part of its outcome."""
