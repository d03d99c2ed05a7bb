"""Areas of classes in several finished runs, such as those of a job.

Loads neither numpy nor GDAL.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from geomap.errors import InputError, PeriodError, to_type
from geomap.run.account import Mapped
from geomap.run.learned import read_learned
from geomap.run.record import Record, read_record
from geomap.run.totals import ESTIMATED, Row, read_totals
from geomap.text import plural
from geomap.types import EXCLUDE, Period
from geomap.write.layer import Layer

MOST: Final = 36
"""Most earlier runs that a page shows: three years of months."""
DECIDE: Final = (
    "area", "weights", "min_clear_months", "mask", "max_cloud", "offset_policy", EXCLUDE, "points", "min_confidence",
    "smooth", "min_area",
)  # fmt: skip
"""Keys of a request that decide areas of one landscape, besides its legends and how many months it has."""
_IF_ASKED: Final = (EXCLUDE, "points", "smooth", "min_area")
"""Those that run.json tells only if they were asked for. Others that it lacks are not known: the run was by a store."""
_OF_STORE: Final = ("area", "weights", "min_clear_months", "mask", EXCLUDE)
"""Those that a run by stored embeddings has from the run that made them."""
COLUMNS: Final = ("directory", "period", "map", "id", "name", "pixels", "ha", "share", "mapped_share", *ESTIMATED)
SAME_SHARE: Final = 0.02
"""Difference between the mapped shares of an area up to which its hectares are compared without a remark."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Areas:
    """The areas of one run."""

    directory: Path
    period: Period
    maps: Mapping[str, Sequence[Row]]  # by map stem
    made_by: Mapping[str, Mapping[str, str]]  # by map stem: what decides its areas besides the land, each as JSON
    mapped: Mapped | None  # how much of the area is mapped; None of runs of earlier versions
    tiles: int
    missing: int  # of these, nodata because they could not be made

    @property
    def gap(self) -> str:
        """What the maps lack, in words; empty if all tiles were made."""
        if not self.missing:
            return ""
        part = "" if self.mapped is None else f", and {self.mapped.share:.1%} of the area is mapped"
        return f"{self.directory} lacks {self.missing} of {plural(self.tiles, 'tile')}{part}"


def read_areas(directory: Path) -> Areas:
    """The areas of a finished run. Raises InputError."""
    maps, record = read_totals(directory), read_record(directory)
    try:
        period = _period(record)
    except PeriodError as e:
        raise InputError(f"{directory}/run.json names no months; {to_type('verify', directory)} tells more") from e
    taught = _taught(directory)
    made_by = {stem: _made_by(record, stem, taught) for stem in maps}
    return Areas(directory, period, maps, made_by, record.mapped, len(record.tiles), len(record.quarantined))


def unlike(mapped: Iterable[Mapped | None]) -> bool:
    """Whether runs of one area map so different shares of it that their hectares differ for that."""
    shares = [one.share for one in mapped if one is not None]
    return bool(shares) and max(shares) - min(shares) > SAME_SHARE


def differing(made_by: Iterable[Mapping[str, str]]) -> list[str]:
    """The keys in which the ways that maps were made differ; what a run does not tell differs from nothing."""
    told: dict[str, set[str]] = {}
    for made in made_by:
        for key, value in made.items():
            told.setdefault(key, set()).add(value)
    return [key for key, values in told.items() if len(values) > 1]


def before(
    directories: Iterable[Path], made: Record, layers: Sequence[Layer], taught: str | None
) -> list[dict[str, Any]]:
    """The areas of earlier runs as the page takes them, oldest first, of at most MOST runs.

    Args:
        directories: finished runs; one that cannot be read is logged and left out.
        made: the record of the run whose page it is.
        layers: its layers; a map of an earlier run with other classes is left out.
        taught: the legend that its own points taught, if they did.

    Returns:
        For each run `months` (first, last), by map stem `pixels` (class id -> pixels), and `other`: the stems of maps
        that were made in another way (DECIDE), or of another share of the area.
    """
    names = {layer.stem: {c.value: c.name for c in layer.classes} for layer in layers if layer.of_legend}
    told = []
    for areas in sorted(_readable(directories), key=lambda a: (a.period.end, a.period.start))[-MOST:]:
        part = unlike([areas.mapped, made.mapped])
        same = [stem for stem, rows in areas.maps.items() if names.get(stem) == {row.id: row.name for row in rows}]
        told.append(
            {
                "months": [areas.period.month_names[0], areas.period.month_names[-1]],
                "pixels": {stem: {str(row.id): row.pixels for row in areas.maps[stem]} for stem in same},
                "other": [
                    stem for stem in same if part or differing([areas.made_by[stem], _made_by(made, stem, taught)])
                ],
            }
        )
    return told


def rows(runs: Sequence[Areas]) -> list[dict[str, Any]]:
    """A row for each class of each map of each run, with the keys of COLUMNS."""
    return [
        {"directory": str(run.directory), "period": str(run.period), "map": stem, "id": row.id, "name": row.name,
         "pixels": row.pixels, "ha": row.ha, "share": row.share,
         "mapped_share": None if run.mapped is None else run.mapped.share,
         **{key: getattr(row, key) for key in ESTIMATED}}
        for run in runs for stem, found in run.maps.items() for row in found
    ]  # fmt: skip


def _readable(directories: Iterable[Path]) -> Iterable[Areas]:
    for directory in directories:
        try:
            yield read_areas(directory)
        except InputError as e:
            log.warning("the page does not show the areas of an earlier run: %s", e)


def _period(record: Record) -> Period:
    """Raises PeriodError."""
    return Period.parse(str(record.request.get("period")))


def _taught(directory: Path) -> str | None:
    """The legend that a run's own points taught; None if none, or if learned.json is damaged."""
    try:
        learned = read_learned(directory)
    except InputError:
        return None
    return learned.legend["name"] if learned else None


def _made_by(record: Record, stem: str, taught: str | None) -> dict[str, str]:
    """What decides the areas of a map, by key, as far as run.json tells; points decide those of the legend they taught.

    Raises PeriodError.
    """
    stored = record.request.get("made", {})
    asked = {**{key: stored[key] for key in _OF_STORE if key in stored}, **record.request}
    bases = _bases(asked.get("within") or {}, stem)
    decides: dict[str, Any] = {"months": _period(record).months}
    decides |= {key: asked.get(key) for key in DECIDE if key in asked or key in _IF_ASKED}
    decides["learned"] = (asked.get("learned") or {}).get("sha256")
    if taught not in (None, *bases):
        decides["points"] = None
    decides["within"] = bases
    decides |= {f"legend {name}": asked.get("legends", {}).get(name) for name in bases}
    decides |= {f"class vectors of {name}": record.vectors[name] for name in bases if name in record.vectors}
    return {key: json.dumps(value, sort_keys=True) for key, value in decides.items()}


def _bases(within: Mapping[str, str], stem: str) -> dict[str, str | None]:
    """A legend, that to a class of which it is restricted, and so on -> its restriction, as LEGEND=ID."""
    chain = dict[str, str | None]()
    while stem not in chain:
        chain[stem] = within.get(stem)
        stem = (chain[stem] or stem).partition("=")[0]
    return chain
