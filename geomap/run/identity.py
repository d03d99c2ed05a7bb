"""The fingerprint of a tile: one hash of everything that decides its content.

A tile counts as done only if its file was made with the same fingerprint. The fingerprint covers the request without
its search options (so area, period, weights, legends, masks, thresholds and device type), the class vectors, the
versions of geomap and torch, and what is read of every scene over the tile: where its files are, their grids, and the
offset added to their DNs, and what items state of the files' bytes (`file:checksum`, `file:size`). Query strings of
addresses are not included: tokens change, pixels do not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final

from geomap import __version__
from geomap.catalog.over import made_in, over
from geomap.label.classify import Within
from geomap.legends import Legend
from geomap.run.again import source
from geomap.run.lesson import told
from geomap.run.prepare import Prepared
from geomap.run.request import Request
from geomap.run.tile_file import Task
from geomap.sources.hrefs import redact
from geomap.store.store import COMPOSITES, EMBEDDINGS, digest_of
from geomap.types import EXCLUDE, GRID, IMAGERY, NAME, UPDATE, Finish, Grid, Period, Scene

SEARCH: Final = frozenset({"stac", "collection", "max_cloud", "offset_policy", "bounds", EXCLUDE})
"""Keys of a request's identity that decide only which scenes are found."""


FINISH: Final = tuple(field.name for field in dataclasses.fields(Finish))
"""Keys that say how the maps are made readable."""


def tasks(prepared: Prepared, scenes: Sequence[Scene]) -> tuple[Task, ...]:
    """Every tile of a request, with its scenes and its fingerprint."""
    shared = _shared(prepared)
    of_scene = {scene.id: _scene(scene) for scene in scenes}
    made = []
    for tile in prepared.tiles:
        near = tuple(over(scenes, tile.grid.grown(prepared.margin)))
        decides = [shared, dataclasses.astuple(tile.grid), sorted(of_scene[scene.id] for scene in near)]
        made.append(Task(tile, near, _digest(decides)))
    return tuple(made)


def month_keys(near: Sequence[Scene], tile: Grid, period: Period) -> tuple[str, ...]:
    """For each month, the sha256 of everything but the mask that decides its medians: equal hashes mean equal pixels.

    `near` holds all scenes over the tile.
    """
    place = [dataclasses.astuple(tile), made_in(near, tile)]
    months: list[list[str]] = [[] for _ in range(period.months)]
    for scene in near:
        if (step := period.step(scene.time)) is not None:
            months[step].append(_scene(scene))
    return tuple(_digest([place, sorted(scenes)]) for scenes in months)


def _shared(prepared: Prepared) -> Mapping[str, Any]:
    """The inputs that all tiles have in common."""
    asked = {key: value for key, value in identity_of(prepared).items() if key not in SEARCH | {UPDATE, NAME, GRID}}
    return {"request": asked, "vectors": prepared.vectors, "torch": version("torch")}


def _scene(scene: Scene) -> str:
    """Hash of one scene: what decides its pixels, its month, and its rank among the granules of one pass."""
    assets = {
        band: (redact(a.href), a.offset, a.transform, a.shape, *([a.content] if a.content else []))
        for band, a in sorted(scene.assets.items())
    }
    plain = dataclasses.asdict(dataclasses.replace(scene, assets={}, cloud_cover=None))
    del plain["link"], plain["copy"]
    return _digest([{**plain, "time": scene.time.isoformat()}, assets])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def identity_of(prepared: Prepared) -> dict[str, Any]:
    """The request as JSON: everything that decides the content of the maps, nothing about the machine."""
    r = prepared.request
    return {
        "geomap": __version__,
        "area": _sha256(r.area.geometry.wkb),
        "bounds": [round(v, 6) for v in r.area.geometry.bounds],
        "period": str(r.period),
        **_input(r),
        "legends": legends_digests([q.legend for q in prepared.questions]),
        "weights": {"name": prepared.weights.card.name, "sha256": prepared.weights.digest},
        "min_clear_months": r.min_clear_months,
        "min_confidence": r.min_confidence,
        "within": within_as_json(prepared.within),
        **finish_of(r.finish),
        "device": f"{prepared.device} {prepared.dtype}",  # a CPU without bfloat16 gives other last bits
        **({"save": kinds} if (kinds := saved_kinds(r)) else {}),
        **({UPDATE: str(r.update.period)} if r.update else {}),
        **({NAME: r.name} if r.name else {}),
        **({GRID: asdict(r.grid)} if r.grid else {}),
        **({IMAGERY: {"true_colour": r.true_colour, "ndvi": r.ndvi}} if r.true_colour or r.ndvi else {}),
        **told(prepared.lesson, prepared.known, _sha256(r.area.geometry.wkb), str(r.period)),
    }


def _input(r: Request) -> dict[str, Any]:
    """Where the composites come from: a search, or an earlier run's store."""
    if r.composites is not None:
        return {"composites": digest_of(r.composites)}
    return {
        "stac": source(r.stac),
        "collection": r.collection,
        "max_cloud": r.max_cloud,
        "offset_policy": r.offset,
        "mask": asdict(r.mask),
        **({EXCLUDE: sorted(r.exclude)} if r.exclude else {}),
    }


def legends_digests(asked: Sequence[Legend]) -> dict[str, str]:
    """Legend name -> sha256 of the whole legend, but for synonyms, which only decide how points are read."""
    left = {"classes": {"__all__": {"synonyms"}}}
    return {legend.name: _sha256(legend.model_dump_json(exclude=left).encode()) for legend in asked}


def within_as_json(within: Within) -> dict[str, str] | None:
    """Legend -> LEGEND=ID to which it is restricted; None if none is."""
    return {name: f"{base}={number}" for name, (base, number) in sorted(within.items())} or None


def finish_of(finish: Finish) -> dict[str, Any]:
    """What is asked for to make the maps readable; keys of FINISH, without those that ask for nothing."""
    asked, plain = asdict(finish), asdict(Finish(layers=()))
    return {key: list(v) if isinstance(v := asked[key], tuple) else v for key in FINISH if asked[key] != plain[key]}


def saved_kinds(request: Request) -> list[str]:
    """Names of the stores that a request fills."""
    wanted = {COMPOSITES: request.save_composites, EMBEDDINGS: request.save_embeddings}
    return [kind for kind, asked in wanted.items() if asked]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
