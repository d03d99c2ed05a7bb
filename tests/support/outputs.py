"""The files that a run leaves."""

import hashlib
from pathlib import Path

from geomap import files
from geomap.run import check


def digests(folder: Path) -> dict[str, str]:
    """Every file of a run but its state."""
    found = (p for p in folder.rglob("*") if p.is_file() and files.STATE not in p.parts)
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def problems(folder: Path) -> tuple[str, ...]:
    """What `geomap verify` finds wrong with a run, one line for each; empty for one that is finished and whole."""
    return check.check(folder).problems
