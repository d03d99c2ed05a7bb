"""run.json: the request, the versions, the scenes and the results.

The bytes of the file depend on these alone.
For every scene it holds what it was used for, the DN offset of each band, the reason for it, and the evidence from the
pixels; for every item that was found but not used, the reason. The numbers of `account` add up to the items found.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydantic import TypeAdapter

from geomap import __version__, files
from geomap.catalog.offset_check import Says, judge
from geomap.errors import InputError, to_type
from geomap.run.account import Account, Fate, Mapped
from geomap.run.directory import read_begun
from geomap.run.tile_file import Reused
from geomap.sentinel2 import BANDS
from geomap.types import GRID, NAME, UPDATE, Dark, LeftOut, Missed, OwnGrid, Period, Scene, zone_of
from geomap.write.layer import Statistics, file_stem, place_of

FILE: Final = files.RUN


@dataclass(frozen=True, slots=True)
class Decision:
    """The DN offset of some bands of a scene."""

    dn: int
    reason: str
    bands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Vegetation:
    """The evidence from a scene's pixels on its offset."""

    values: int  # pixels of clear vegetation
    dark: int  # dark ones among them
    offset: Says


@dataclass(frozen=True, slots=True)
class UsedScene:
    """A scene that was to be read, without addresses, which may be local paths; offsets with reasons and evidence."""

    id: str
    collection: str
    provider: str
    platform: str
    time: str  # ISO 8601
    acquisition: str
    baseline: str | None
    cloud_cover: float | None  # percent
    offsets: tuple[Decision, ...]
    vegetation: Vegetation
    fate: Fate = field(default_factory=Fate)


@dataclass(frozen=True, slots=True)
class MissedScene:
    """A scene left out of some tiles because one of its files could not be read."""

    scene: str  # id
    band: str
    cause: str
    detail: str
    tiles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """What a run reused from an earlier one; the maps are the same as without it."""

    since: str  # months of the earlier run
    months: Mapping[str, int]  # month, as 2023-04 -> number of tiles whose medians were reused
    kept: int  # pixels whose labels were reused
    encoded: int  # pixels that were encoded


@dataclass(frozen=True, slots=True)
class Record:
    """The content of run.json."""

    request: dict[str, Any]  # identity.identity_of
    scenes: tuple[UsedScene, ...]
    left_out: tuple[LeftOut, ...]
    missed: tuple[MissedScene, ...]
    tiles: tuple[str, ...]  # names
    quarantined: dict[str, str]  # tile that was left out -> kind of error
    maps: dict[str, Statistics]  # by layer stem
    asked: dict[str, Any] = field(default_factory=dict)  # the request in words: again.words_of
    vectors: dict[str, str] = field(default_factory=dict)  # legend name -> sha256 of its class vectors
    elsewhere: tuple[str, ...] = ()  # which classes the latitudes leave out: prepare.elsewhere
    update: Update | None = None
    account: Account | None = None  # None if no scene was searched
    mapped: Mapped | None = None
    software: dict[str, str] = field(default_factory=lambda: software())
    files: int = 0  # number of the other files of the run
    seal: str = ""  # files.seal of their sha256: SHA256SUMS must list just these


@dataclass(frozen=True, slots=True)
class OffsetGroup:
    """Scenes with the same offset decision."""

    provider: str
    platform: str
    baseline: str | None
    dn: int
    reason: str
    bands: tuple[str, ...]
    first: str  # date of the first scene, YYYY-MM-DD
    last: str
    scenes: int
    pixels_say: Mapping[str, int]  # verdict of offset_check.judge -> number of scenes


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of a run, read from its directory."""

    groups: tuple[OffsetGroup, ...]
    left_out: tuple[LeftOut, ...]
    finished: bool
    missed: tuple[MissedScene, ...] = ()  # this and the rest are known only for a finished run
    odd: tuple[UsedScene, ...] = ()  # scenes that are not used, or in part
    account: Account | None = None
    mapped: Mapped | None = None
    request: Mapping[str, Any] = field(default_factory=dict)  # identity.identity_of
    elsewhere: tuple[str, ...] = ()  # as in Record


_record: Final = TypeAdapter(Record)


def software() -> dict[str, str]:
    """Versions of the software that made the maps."""
    libraries = {name: version(name) for name in ("torch", "rasterio", "stackstac", "dask", "numpy")}
    return {"geomap": __version__, **libraries}


def write_record(directory: Path, record: Record) -> None:
    """Write run.json. Raises DiskFullError, OutputError."""
    content = _record.dump_python(record, mode="json", exclude={"maps": {"__all__": {"std"}}})
    for key in ("asked", "vectors", "elsewhere", "update", "account", "mapped", "files", "seal"):
        if not content[key]:  # left out if the run has none
            del content[key]
    files.write_json(directory / FILE, content)


def add_files(directory: Path, contents: Mapping[str, bytes]) -> None:
    """Put files into a finished run, and list them in SHA256SUMS and in the seal of run.json; all or none.

    The other files keep the sha256 that they have in the list, so damage to them is still found. Raises InputError if
    run.json or the list is damaged, DiskFullError, OutputError.
    """
    known = files.sums(directory)
    digest = known.pop(FILE, "")
    if files.problem(directory, FILE, digest):
        raise InputError(
            f"{directory / FILE} is not what the run wrote; {to_type('verify', directory)} says what to do"
        )
    recorded = files.read_json(directory / FILE, 1 << 30)
    if recorded.get("seal") and recorded["seal"] != files.seal(known):
        raise InputError(
            f"{directory / files.SUMS} is not what the run listed; {to_type('verify', directory)} tells more"
        )
    known |= {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    about = files.json_bytes({**recorded, "files": len(known), "seal": files.seal(known)})
    files.add(directory, {**contents, FILE: about}, {**known, FILE: hashlib.sha256(about).hexdigest()})


def read_record(directory: Path) -> Record:
    """The record of a finished run. Raises InputError if it is missing or damaged."""
    try:
        return _record.validate_json((directory / FILE).read_bytes())
    except OSError:
        raise InputError(files.lacks(directory, "finished run")) from None
    except ValueError as e:
        raise InputError(
            f"{directory / FILE} is damaged or of another version of geomap; map into another --out"
        ) from e


def place_in(request: Mapping[str, Any]) -> str:
    """How the names of a run's files begin, from its identity in run.json; empty without a name."""
    return place_of(request[NAME], Period.parse(request["period"])) if request.get(NAME) else ""


def map_files(record: Record, stem: str) -> list[str]:
    """Names of a map's files in UTM, one for each zone of its run."""
    zones, place = sorted({zone_of(name) for name in record.tiles}), place_in(record.request)
    return [f"{file_stem(stem, place, zone if len(zones) > 1 else None)}.tif" for zone in zones]


def own_name(request: Mapping[str, Any]) -> str:
    """How the names of the maps on a grid of the user's own end, from a request in run.json; empty without one."""
    return OwnGrid(**request[GRID]).name if request.get(GRID) else ""


def inputs(directory: Path) -> Inputs:
    """The inputs of the run in a directory, finished or not. Raises InputError if there is none."""
    if (directory / FILE).is_file():
        found = read_record(directory)
        odd = tuple(scene for scene in found.scenes if scene.fate.use in ("in part", "left out"))
        return Inputs(
            offset_groups(found.scenes),
            found.left_out,
            True,
            found.missed,
            odd,
            found.account,
            found.mapped,
            found.request,
            found.elsewhere,
        )
    begun = read_begun(directory)
    return Inputs(offset_groups(used_scenes(begun.scenes, {})), begun.left_out, False)


def updated(request: Mapping[str, Any], tiles: Iterable[Reused]) -> Update | None:
    """What a request reused, added over its tiles; None if it asks for no update.

    Tiles that stayed from an update of other months, which was stopped, took nothing over from this earlier run.
    """
    if UPDATE not in request:
        return None
    made = tuple(tiles)
    reused = [tile for tile in made if tile.since == request[UPDATE]]
    months = Counter(month for tile in reused for month in tile.months)
    kept, encoded = sum(tile.pixels for tile in reused), sum(tile.encoded for tile in made)
    return Update(request[UPDATE], dict(sorted(months.items())), kept, encoded)


def merge(parts: Sequence[Statistics]) -> Statistics:
    """Statistics of one layer over all zones; the spread within zones is not kept."""
    if len(parts) == 1:
        return parts[0]
    filled = [p for p in parts if p.valid]
    if not filled:
        return Statistics(0)
    counts: dict[int, int] = {}
    for part in filled:
        for value, pixels in part.counts.items():
            counts[value] = counts.get(value, 0) + pixels
    valid = sum(p.valid for p in filled)
    return Statistics(
        valid=valid,
        counts=counts,
        minimum=min(p.minimum for p in filled if p.minimum is not None),
        maximum=max(p.maximum for p in filled if p.maximum is not None),
        mean=sum(p.mean * p.valid for p in filled if p.mean is not None) / valid,
    )


def used_scenes(
    scenes: Sequence[Scene], dark: Mapping[str, Dark], fates: Mapping[str, Fate] = MappingProxyType({})
) -> tuple[UsedScene, ...]:
    """Scenes as run.json holds them; `dark` maps scene ids to the evidence from the pixels of all tiles."""
    return tuple(_used(scene, dark.get(scene.id, Dark()), fates.get(scene.id, Fate())) for scene in scenes)


def _used(scene: Scene, dark: Dark, fate: Fate) -> UsedScene:
    decisions: dict[tuple[int, str], list[str]] = {}
    for band in BANDS:
        asset = scene.assets[band]
        decisions.setdefault((asset.offset, asset.reason), []).append(band)
    return UsedScene(
        id=scene.id,
        collection=scene.collection,
        provider=scene.provider,
        platform=scene.platform,
        time=scene.time.isoformat(),
        acquisition=scene.acquisition,
        baseline=scene.baseline,
        cloud_cover=scene.cloud_cover,
        offsets=tuple(Decision(dn, reason, tuple(bands)) for (dn, reason), bands in decisions.items()),
        vegetation=Vegetation(dark.values, dark.dark, judge(scene, dark)),
        fate=fate,
    )


def missed_by_scene(by_tile: Mapping[str, Sequence[Missed]]) -> tuple[MissedScene, ...]:
    """Missed scenes by tile name -> missed scenes with their tiles."""
    tiles: dict[tuple[str, str, str, str], list[str]] = {}
    for name, missed in sorted(by_tile.items()):
        for m in missed:
            tiles.setdefault((m.scene, m.band, m.cause, m.detail), []).append(name)
    return tuple(MissedScene(*key, tuple(names)) for key, names in sorted(tiles.items()))


def offset_groups(scenes: Iterable[UsedScene]) -> tuple[OffsetGroup, ...]:
    """Scenes grouped by provider, platform, baseline and decision, in that order."""
    members: dict[tuple[Any, ...], list[UsedScene]] = {}
    for scene in scenes:
        for o in scene.offsets:
            key = scene.provider, scene.platform, scene.baseline, o.dn, o.reason, o.bands
            members.setdefault(key, []).append(scene)
    groups = []
    for key, found in sorted(members.items(), key=lambda entry: [str(part) for part in entry[0]]):
        days = sorted(scene.time[:10] for scene in found)
        says = Counter(scene.vegetation.offset for scene in found)
        groups.append(OffsetGroup(*key, days[0], days[-1], len(found), dict(sorted(says.items()))))
    return tuple(groups)
