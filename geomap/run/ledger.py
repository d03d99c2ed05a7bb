"""run.json: what was asked, with what, from which scenes, and what came out. Its bytes depend on these alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from geomap import files
from geomap.sentinel2 import BANDS
from geomap.style import Statistics
from geomap.types import Scene

FILE = "run.json"


def software() -> dict[str, str]:
    """Versions of what made the maps."""
    return {name: version(name) for name in ("geomap", "torch", "rasterio", "stackstac", "dask", "numpy")}


def write(
    directory: Path,
    request: Mapping[str, Any],
    tiles: Sequence[str],
    scenes: Sequence[Scene],
    statistics: Mapping[str, Statistics],
) -> None:
    """Write run.json. Raises DiskFullError, OutputError."""
    content = {
        "request": request,
        "software": software(),
        "scenes": [_scene(scene) for scene in scenes],
        "tiles": list(tiles),
        "maps": {stem: _statistics(s) for stem, s in statistics.items()},
    }
    files.write_json(directory / FILE, content)


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


def _scene(scene: Scene) -> dict[str, Any]:
    """A scene without addresses, which may be local paths, and with the offset applied to each band and why."""
    decisions: dict[tuple[int, str], list[str]] = {}
    for band in BANDS:
        asset = scene.assets[band]
        decisions.setdefault((asset.offset, asset.reason), []).append(band)
    return {
        "id": scene.id,
        "collection": scene.collection,
        "provider": scene.provider,
        "time": scene.time.isoformat(),
        "acquisition": scene.acquisition,
        "baseline": scene.baseline,
        "cloud_cover": scene.cloud_cover,
        "offsets": [{"dn": dn, "reason": reason, "bands": bands} for (dn, reason), bands in decisions.items()],
    }


def _statistics(s: Statistics) -> dict[str, Any]:
    counts = {str(value): pixels for value, pixels in sorted(s.counts.items())}
    return {"valid": s.valid, "counts": counts, "minimum": s.minimum, "maximum": s.maximum, "mean": s.mean}
