"""One static STAC catalogue over the finished maps of a job whose directory holds {period}."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pystac

from geomap import files
from geomap.errors import PeriodError
from geomap.jobs.file import PERIOD, MapJob
from geomap.types import Period

CATALOG_FILE: Final = "catalog.json"
_COLLECTION: Final = "stac/collection.json"
_MOST: Final = 2**20
"""Bytes of a catalogue that is there already; larger ones are another program's."""


def write_catalog(job: MapJob) -> Path | None:
    """List the finished maps of a job, by period, in `catalog.json` above their directories; links are relative.

    The bytes depend on the job's name and on the periods that are there. If the folder has another `catalog.json`
    already, the name is `<job>_catalog.json`.

    Returns:
        The file; None if there is no finished map, or the job's directory does not hold {period}: one map needs none.

    Raises:
        DiskFullError, OutputError: as in files.write_bytes.
        OSError: the folder cannot be read.
    """
    runs = finished(job)
    if not runs:
        return None
    folder = _above(job)
    name = f"geomap-{job.keys.name}"
    path = folder / CATALOG_FILE
    if path.exists() and not _is_own(path, name):
        path = folder / f"{job.keys.name}_{CATALOG_FILE}"
    content = _catalog(name, job.keys.name, path, [(period, d.relative_to(folder)) for period, d in runs])
    files.write_json(path, content)
    return path


def _catalog(name: str, job: str, path: Path, runs: list[tuple[Period, Path]]) -> dict[str, Any]:
    """The catalogue as JSON: directories relative to its folder."""
    title = f"Maps of the job {job} by geomap"
    own = {"rel": "root", "href": f"./{path.name}", "type": "application/json", "title": title}
    children = [
        {
            "rel": "child",
            "href": f"./{directory.as_posix()}/{_COLLECTION}",
            "type": "application/json",
            "title": f"Maps by geomap, {period}",
        }
        for period, directory in runs
    ]
    return {
        "type": "Catalog",
        "stac_version": pystac.get_stac_version(),
        "id": name,
        "title": title,
        "description": "A collection for each period, with one item per UTM zone.",
        "links": [own, *children],
    }


def _above(job: MapJob) -> Path:
    """The folder above the part of the job's directory that holds {period}."""
    pattern = job.file(job.keys.outputs.directory)
    return next(folder.parent for folder in (pattern, *pattern.parents) if PERIOD in folder.name)


def finished(job: MapJob) -> list[tuple[Period, Path]]:
    """Periods of which the job has a finished map, and its directory, oldest first; none without {period} in its name.

    Raises OSError if the folder cannot be read.
    """
    found = _finished(job) if PERIOD in job.keys.outputs.directory else ()
    return sorted(found, key=lambda run: (run[0].start, run[0].months))


def _finished(job: MapJob) -> Iterator[tuple[Period, Path]]:
    above = _above(job)
    part = job.file(job.keys.outputs.directory).relative_to(above).parts[0]
    before, after = (re.escape(text) for text in part.split(PERIOD))
    for folder in above.iterdir() if above.is_dir() else ():
        if found := re.fullmatch(f"{before}(.+){after}", folder.name, re.ASCII):
            try:
                period = Period.parse(found[1])
            except PeriodError:
                continue
            directory = job.directory(period)
            if str(period) == found[1] and (directory / files.SUMS).is_file() and (directory / _COLLECTION).is_file():
                yield period, directory


def _is_own(path: Path, name: str) -> bool:
    """Whether a catalogue is that of the job of this name."""
    try:
        content = files.read_json(path, _MOST)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("type") == "Catalog" and content.get("id") == name
