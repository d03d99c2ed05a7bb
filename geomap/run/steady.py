"""What is read of a finished run is of one state of it, or an error: another process may make the run anew meanwhile.

Readers take no lock: a folder may be another user's, a disk without locks or a copy, and a refresh shall not wait for
them. `SHA256SUMS` goes before the first file of a new state takes its place, and comes back last (`files.publish`). So
whoever finds the same list before the first file is read and after the last one has read one state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from geomap import files
from geomap.errors import RenewedError
from geomap.run.record import FILE
from geomap.run.totals import ASSESSED
from geomap.write.areas import CSV as AREAS_CSV
from geomap.write.areas import JSON as AREAS

BY_ASSESSMENT: Final = frozenset({FILE, AREAS, AREAS_CSV, files.PAGE, ASSESSED, "assessment.csv"})
"""Files that an assessment writes anew in a finished run; those that are read stay as they are."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Runs that are read, and the state in which each was found."""

    states: tuple[tuple[Path, str], ...]

    def require(self) -> None:
        """Raise RenewedError if a run is not what it was: call it after the last read, before its result counts."""
        for directory, state in self.states:
            if _state(directory) != state:
                raise RenewedError(f"{directory} was made anew while it was read; type the command again")


@contextmanager
def steady(*directories: Path) -> Iterator[Reading]:
    """Read finished runs: an error that arises since one of them is made anew is a RenewedError."""
    reading = Reading(tuple((directory, _state(directory)) for directory in directories))
    try:
        yield reading
    except Exception as e:
        try:
            reading.require()
        except RenewedError as renewed:
            raise renewed from e
        raise


def run_of(path: Path, kind: str) -> Path:
    """The directory of a run, where a user named that or its store of a kind."""
    return path if (path / kind).is_dir() else path.parent


def _state(directory: Path) -> str:
    """A digest of a run's list of files but for those of an assessment; that of no list if there is none."""
    try:
        listed = files.sums(directory)
    except FileNotFoundError:  # it went after it was seen
        listed = {}
    return files.seal({name: digest for name, digest in listed.items() if name not in BY_ASSESSMENT})
