"""run.json: what was asked, with what, from which scenes, and what came out. Its bytes depend on these alone.

Of every scene it holds the DN offset of each band, why it was decided, and what the pixels said of it; of every item
that was found and not used, why.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from geomap import files
from geomap.catalog.offset_check import judge
from geomap.errors import InputError
from geomap.run.directory import REQUEST_FILE, scene_from_json
from geomap.run.tile_file import Reused
from geomap.sentinel2 import BANDS
from geomap.types import UPDATE, Dark, LeftOut, Missed, Scene
from geomap.write.layer import Statistics

FILE = "run.json"


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
    pixels_say: Mapping[str, int]  # scenes by what guard.judge says of them


@dataclass(frozen=True, slots=True)
class MissedScene:
    """A scene that some tiles were made without, because a file of its could not be read."""

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
class Inputs:
    """What a run reads, from its directory."""

    groups: tuple[OffsetGroup, ...]
    left_out: tuple[LeftOut, ...]
    finished: bool
    missed: tuple[MissedScene, ...] = ()  # known of a finished run


def software() -> dict[str, str]:
    """Versions of what made the maps."""
    return {name: version(name) for name in ("geomap", "torch", "rasterio", "stackstac", "dask", "numpy")}


def write(
    directory: Path,
    request: Mapping[str, Any],
    tiles: Sequence[str],
    scenes: Sequence[Scene],
    left_out: Sequence[LeftOut],
    dark: Mapping[str, Dark],
    statistics: Mapping[str, Statistics],
    quarantined: Mapping[str, str],
    missed: Sequence[MissedScene] = (),
    vectors: Mapping[str, str] = MappingProxyType({}),
    update: Update | None = None,
) -> None:
    """Write run.json. Raises DiskFullError, OutputError.

    `dark` holds what the pixels of all tiles say, by scene id; `quarantined` the kind of error by tile left out;
    `vectors` the sha256 of each legend's class vectors.
    """
    content = {
        "request": request,
        "software": software(),
        "scenes": scenes_json(scenes, dark),
        "left_out": [asdict(item) for item in left_out],
        "missed": [asdict(scene) for scene in missed],
        "tiles": list(tiles),
        "quarantined": dict(quarantined),
        "maps": {stem: _statistics(s) for stem, s in statistics.items()},
        **({"vectors": dict(vectors)} if vectors else {}),
        **({"update": asdict(update)} if update else {}),
    }
    files.write_json(directory / FILE, content)


def update(request: Mapping[str, Any], tiles: Sequence[Reused]) -> Update | None:
    """What a request took over in its tiles; None where it asks for no update."""
    if UPDATE not in request:
        return None
    months = Counter(month for tile in tiles for month in tile.months)
    kept, encoded = sum(tile.pixels for tile in tiles), sum(tile.encoded for tile in tiles)
    return Update(request[UPDATE], dict(sorted(months.items())), kept, encoded)


def read_update(directory: Path) -> Update | None:
    """What a finished run took over from an earlier one."""
    content = json.loads((directory / FILE).read_bytes()).get("update")
    return Update(**content) if content else None


def read_statistics(directory: Path) -> dict[str, Statistics]:
    """What the maps of a finished run hold, by layer stem."""
    content = json.loads((directory / FILE).read_bytes())
    return {
        stem: Statistics(
            valid=s["valid"],
            counts={int(value): pixels for value, pixels in s["counts"].items()},
            minimum=s["minimum"],
            maximum=s["maximum"],
            mean=s["mean"],
        )
        for stem, s in content["maps"].items()
    }


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


def scenes_json(scenes: Sequence[Scene], dark: Mapping[str, Dark]) -> list[dict[str, Any]]:
    """Scenes as run.json holds them: no addresses, which may be local paths; offsets with reasons and evidence."""
    return [_scene(scene, dark.get(scene.id, Dark())) for scene in scenes]


def _scene(scene: Scene, dark: Dark) -> dict[str, Any]:
    decisions: dict[tuple[int, str], list[str]] = {}
    for band in BANDS:
        asset = scene.assets[band]
        decisions.setdefault((asset.offset, asset.reason), []).append(band)
    return {
        "id": scene.id,
        "collection": scene.collection,
        "provider": scene.provider,
        "platform": scene.platform,
        "time": scene.time.isoformat(),
        "acquisition": scene.acquisition,
        "baseline": scene.baseline,
        "cloud_cover": scene.cloud_cover,
        "offsets": [{"dn": dn, "reason": reason, "bands": bands} for (dn, reason), bands in decisions.items()],
        "vegetation": {"values": dark.values, "dark": dark.dark, "offset": judge(scene, dark)},
    }


def missed_scenes(by_tile: Mapping[str, Sequence[Missed]]) -> tuple[MissedScene, ...]:
    """What the tiles, by name, were made without; by scene."""
    tiles: dict[tuple[str, str, str, str], list[str]] = {}
    for name, missed in sorted(by_tile.items()):
        for m in missed:
            tiles.setdefault((m.scene, m.band, m.cause, m.detail), []).append(name)
    return tuple(MissedScene(*key, tuple(names)) for key, names in sorted(tiles.items()))


def offset_groups(scenes: Iterable[Mapping[str, Any]]) -> tuple[OffsetGroup, ...]:
    """Scenes of run.json, grouped by provider, platform, baseline and decision, in that order."""
    members: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for scene in scenes:
        for o in scene["offsets"]:
            key = scene["provider"], scene["platform"], scene["baseline"], o["dn"], o["reason"], tuple(o["bands"])
            members.setdefault(key, []).append(scene)
    groups = []
    for key, found in sorted(members.items(), key=lambda entry: [str(part) for part in entry[0]]):
        days = sorted(scene["time"][:10] for scene in found)
        says = [scene["vegetation"]["offset"] for scene in found]
        groups.append(OffsetGroup(*key, days[0], days[-1], len(found), {s: says.count(s) for s in sorted(set(says))}))
    return tuple(groups)


def inputs(directory: Path) -> Inputs:
    """What the run in a directory reads, finished or not.

    Raises:
        InputError: no run there.
    """
    finished = (directory / FILE).is_file()
    path = directory / FILE if finished else directory / files.STATE / REQUEST_FILE
    try:
        content = json.loads(path.read_bytes())
        scenes = content["scenes"] if finished else scenes_json([scene_from_json(s) for s in content["scenes"]], {})
        left_out = tuple(LeftOut(**item) for item in content["left_out"])
        missed = tuple(MissedScene(**{**m, "tiles": tuple(m["tiles"])}) for m in content.get("missed", ()))
        return Inputs(offset_groups(scenes), left_out, finished, missed)
    except OSError:
        raise InputError(f"{directory} holds no run of geomap map; type the directory given to --out") from None
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(f"{path} is damaged or of another version of geomap; map into another --out") from e


def _statistics(s: Statistics) -> dict[str, Any]:
    counts = {str(value): pixels for value, pixels in sorted(s.counts.items())}
    return {"valid": s.valid, "counts": counts, "minimum": s.minimum, "maximum": s.maximum, "mean": s.mean}
