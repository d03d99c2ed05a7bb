"""The folder beside the weights in which a training keeps what it has finished, held by one run at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from geomap import files

FOLDER: Final = "checkpoints"
LOCK_FILE: Final = "lock"


@contextmanager
def hold(out: Path) -> Iterator[Path]:
    """Hold the checkpoints of `out`, so that one run at a time trains there; gives their folder.

    At the end the folder is removed if nothing was left in it. Raises BusyError, OutputError, DiskFullError.
    """
    folder = out / FOLDER
    fd = _opened(out)
    try:
        yield folder
    finally:
        with suppress(OSError):
            if os.listdir(folder) == [LOCK_FILE]:
                (folder / LOCK_FILE).unlink()
                folder.rmdir()
        os.close(fd)  # releases the lock


def _opened(out: Path) -> int:
    """The locked file of a folder; again if another run removed it, as it ended, before it was locked."""
    path = out / FOLDER / LOCK_FILE
    while True:
        with files.disk_errors(out):
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            files.lock(fd, out, "training in")
            if path.exists() and os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
