"""run.json: what was asked, with what, from which scenes, and what came out. Its bytes depend on these alone.

Of every scene it holds the DN offset of each band, why it was decided, and what the pixels said of it; of every item
that was found and not used, why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from geomap import __version__, files
from geomap.catalog.offset_check import Says, judge
from geomap.errors import InputError
from geomap.run.directory import read_begun
from geomap.run.tile_file import Reused
from geomap.sentinel2 import BANDS
from geomap.types import UPDATE, Dark, LeftOut, Missed, Scene
from geomap.write.layer import Statistics

FILE: Final = "run.json"


@dataclass(frozen=True, slots=True)
class Decision:
    """The DN offset of some bands of a scene."""

    dn: int
    reason: str
    bands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Vegetation:
    """What a scene's pixels say of its offset."""

    values: int  # of clear vegetation
    dark: int  # of them
    offset: Says


@dataclass(frozen=True, slots=True)
class UsedScene:
    """A scene that was read: no addresses, which may be local paths; offsets with reasons and evidence."""

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


@dataclass(frozen=True, slots=True)
class MissedScene:
    """A scene that some tiles were made without, because one of its files could not be read."""

    scene: str  # id
    band: str
    cause: str
    detail: str
    tiles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """What a run took over from an earlier one; its maps are the same as if it had not."""

    since: str  # months of the earlier run
    months: Mapping[str, int]  # month, as 2023-04 -> tiles whose medians were taken over
    kept: int  # pixels whose labels were
    encoded: int  # pixels that were not


@dataclass(frozen=True, slots=True)
class Record:
    """The content of run.json."""

    request: dict[str, Any]  # identity.identity_of
    scenes: tuple[UsedScene, ...]
    left_out: tuple[LeftOut, ...]
    missed: tuple[MissedScene, ...]
    tiles: tuple[str, ...]  # names
    quarantined: dict[str, str]  # tile left out -> kind of error
    maps: dict[str, Statistics]  # by layer stem
    vectors: dict[str, str] = field(default_factory=dict)  # by legend, the sha256 of its class vectors
    update: Update | None = None
    software: dict[str, str] = field(default_factory=lambda: software())


@dataclass(frozen=True, slots=True)
class OffsetGroup:
    """Scenes whose offset was decided alike."""

    provider: str
    platform: str
    baseline: str | None
    dn: int
    reason: str
    bands: tuple[str, ...]
    first: str  # date of the first scene, YYYY-MM-DD
    last: str
    scenes: int
    pixels_say: Mapping[str, int]  # scenes by what offset_check.judge says of them


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run reads, from its directory."""

    groups: tuple[OffsetGroup, ...]
    left_out: tuple[LeftOut, ...]
    finished: bool
    missed: tuple[MissedScene, ...] = ()  # known of a finished run


_record: Final = TypeAdapter(Record)


def software() -> dict[str, str]:
    """Versions of what made the maps."""
    libraries = {name: version(name) for name in ("torch", "rasterio", "stackstac", "dask", "numpy")}
    return {"geomap": __version__, **libraries}


def write_record(directory: Path, record: Record) -> None:
    """Write run.json. Raises DiskFullError, OutputError."""
    content = _record.dump_python(record, mode="json", exclude={"maps": {"__all__": {"std"}}})
    for key in ("vectors", "update"):
        if not content[key]:  # of runs that have none
            del content[key]
    files.write_json(directory / FILE, content)


def read_record(directory: Path) -> Record:
    """The record of a finished run. Raises InputError where there is none, or it is damaged."""
    try:
        return _record.validate_json((directory / FILE).read_bytes())
    except OSError:
        raise InputError(f"{directory} holds no finished run; type the directory given to --out") from None
    except ValueError as e:
        raise InputError(
            f"{directory / FILE} is damaged or of another version of geomap; map into another --out"
        ) from e


def inputs(directory: Path) -> Inputs:
    """What the run in a directory reads, finished or not. Raises InputError where there is none."""
    if (directory / FILE).is_file():
        found = read_record(directory)
        return Inputs(offset_groups(found.scenes), found.left_out, True, found.missed)
    begun = read_begun(directory)
    return Inputs(offset_groups(used_scenes(begun.scenes, {})), begun.left_out, False)


def updated(request: Mapping[str, Any], tiles: Iterable[Reused]) -> Update | None:
    """What a request took over in its tiles; None where it asks for no update."""
    if UPDATE not in request:
        return None
    reused = tuple(tiles)
    months = Counter(month for tile in reused for month in tile.months)
    kept, encoded = sum(tile.pixels for tile in reused), sum(tile.encoded for tile in reused)
    return Update(request[UPDATE], dict(sorted(months.items())), kept, encoded)


def merge(parts: Sequence[Statistics]) -> Statistics:
    """Statistics over the zones of one layer; the spread within zones is not kept."""
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


def used_scenes(scenes: Sequence[Scene], dark: Mapping[str, Dark]) -> tuple[UsedScene, ...]:
    """Scenes as run.json holds them; `dark` holds what the pixels of all tiles say, by scene id."""
    return tuple(_used(scene, dark.get(scene.id, Dark())) for scene in scenes)


def _used(scene: Scene, dark: Dark) -> UsedScene:
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
    )


def missed_by_scene(by_tile: Mapping[str, Sequence[Missed]]) -> tuple[MissedScene, ...]:
    """What the tiles, by name, were made without; by scene."""
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
