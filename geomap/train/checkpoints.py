"""The folder beside the weights in which a training keeps what it has finished, held by one run at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from geomap import files

FOLDER: Final = "checkpoints"


@contextmanager
def hold(out: Path) -> Iterator[Path]:
    """Hold the checkpoints of `out`, so that one run at a time trains there; gives their folder.

    At the end the folder is removed if nothing was left in it. Raises BusyError, OutputError, DiskFullError.
    """
    with files.hold(out / FOLDER, out, "training in"):
        yield out / FOLDER
