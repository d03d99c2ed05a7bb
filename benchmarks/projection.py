"""What measured figures mean for a country and a continent, under stated assumptions; docs/scaling.md explains it.

Used by region.py (--project). Nothing here measures.
"""

from __future__ import annotations

import statistics
from typing import Any

TILE = 1024
PX_PER_KM2 = 10_000
AREAS = {"France": 549_000, "Europe": 10_000_000}  # km2
FLEETS = (1, 8, 64)  # GPUs
VCPUS = (16, 64)  # without a GPU

ASSUMED = {
    "gpu-px-per-s": (1.5e6, "pixels that a GPU encodes and labels in a second: the design's goal, not measured"),
    "vcpus-per-gpu": (16, "vCPUs that read and composite, for each GPU; one is taken for a core measured here"),
    "gbit-per-gpu": (10, "network from the store, Gbit/s for each GPU"),
    "writers": (4, "maps that a run writes at a time, on as many vCPUs of its own"),
    "runs": (1, "runs that share the area, each a process of its own"),
    "scenes": (53, "scenes over a tile in twelve months"),
    "used": (42 / 53, "share of them with a clear pixel, whose bands are read"),
    "core-s": (6.2, "core seconds of a tile's composite of 53 scenes whose blocks lie as the tile (composite.py)"),
    "decode-share": (0.55, "share of those that is decoding, which grows with what is read"),
    "overread": (1.09, "bytes fetched for each byte of the blocks under the tiles: headers, neighbouring granules"),
    "compressed": (0.5, "bytes of files for each byte decoded"),
    "price-gpu-hour": (2.5, "price of a GPU-hour"),
    "price-vcpu-hour": (0.04, "price of a vCPU-hour"),
}
"""Parameters of a projection: default and meaning."""


def projection(measured: dict[str, Any], given: dict[str, float]) -> str:
    """Tables of hours, bytes and cost, as Markdown, from the figures of region.py and from assumptions."""
    tile, rate = per_tile(measured, given), given["gpu-px-per-s"] / TILE**2  # tiles a second
    told = (
        f"A full tile takes {tile['core_s']:.1f} core seconds to read, composite and pack, {tile['bytes'] / 1e9:.2f} "
        f"GB from the store, and in the run's own process {tile['keep_s']:.2f} s to keep and {tile['maps_s']:.2f} s in "
        "maps. "
        f"A GPU of {rate:.2f} tiles a second is fed by {rate * tile['core_s']:.0f} vCPUs and "
        f"{rate * tile['bytes'] * 8 / 1e9:.1f} Gbit/s; a run's own process keeps the tiles of "
        f"{1 / tile['keep_s'] / rate:.1f} such GPUs."
    )
    lines = [
        told,
        "",
        "| area | GPUs | vCPUs | encoding h | reading h | network h | keeping h | maps h | hours | TB | cost |",
    ]
    lines.append("|---" * 11 + "|")
    lines += [on_gpus(name, gpus, tile, given) for name in AREAS for gpus in FLEETS]
    lines += [
        "",
        "| area, without a GPU | vCPUs | default weights h | cost | paper's size h | cost |",
        "|---" * 6 + "|",
    ]
    lines += [on_cpus(name, vcpus, tile, measured, given) for name in AREAS for vcpus in VCPUS]
    return "\n".join(lines)


def on_gpus(name: str, gpus: int, tile: dict[str, float], given: dict[str, float]) -> str:
    """A row: hours of each part by itself. They overlap, and the longest, in bold, decides; the maps come after."""
    pixels = AREAS[name] * PX_PER_KM2
    tiles, vcpus = pixels / TILE**2, gpus * given["vcpus-per-gpu"]
    hours = [
        pixels / (gpus * given["gpu-px-per-s"]) / 3600,
        tiles * tile["core_s"] / vcpus / 3600,
        tiles * tile["bytes"] * 8 / (gpus * given["gbit-per-gpu"] * 1e9) / 3600,
        tiles * tile["keep_s"] / given["runs"] / 3600,
    ]
    longest, maps = max(hours), tiles * tile["maps_s"] / given["writers"] / given["runs"] / 3600
    parts = " | ".join(f"**{h:.2f}**" if h == longest else f"{h:.2f}" for h in hours)
    whole, size = longest + maps, tiles * tile["bytes"] / 1e12
    cost = whole * (gpus * given["price-gpu-hour"] + vcpus * given["price-vcpu-hour"])
    return f"| {name} | {gpus} | {vcpus:.0f} | {parts} | {maps:.2f} | {whole:.2f} | {size:.1f} | {cost:,.0f} |"


def on_cpus(name: str, vcpus: int, tile: dict[str, float], measured: dict[str, Any], given: dict[str, float]) -> str:
    """A row: hours and cost where the same vCPUs read and encode, at the speed of the cores measured."""
    row = f"| {name} | {vcpus} |"
    for encoder in ("default", "timesenclip"):
        of_core = measured["px_per_core_s"][encoder]
        hours = AREAS[name] * PX_PER_KM2 * (tile["core_s"] / TILE**2 + 1 / of_core) / vcpus / 3600
        row += f" {hours:,.1f} | {hours * vcpus * given['price-vcpu-hour']:,.0f} |"
    return row


def per_tile(measured: dict[str, Any], given: dict[str, float]) -> dict[str, float]:
    """Of a full tile: core seconds to read, composite and pack it, bytes from the store, seconds of the run's own."""
    blocks = given["overread"]
    decoded = given["scenes"] * TILE**2 * (1 / 4 + given["used"] * (2 * 4 + 2 * 6 / 4))  # as geomap plan counts
    medians = given["core-s"] * given["scenes"] / 53 * (1 + given["decode-share"] * (blocks - 1))
    runs = [run for workers, run in measured["runs"].items() if int(workers)]
    overhead = max(0.0, statistics.median(run["overhead_s"] for run in runs))
    keep = statistics.median(run["own_s"] for run in runs) + measured["full_tile_s"]["keep"]
    return {
        "core_s": medians + overhead + measured["full_tile_s"]["pack"],
        "bytes": decoded * given["compressed"] * blocks,
        "keep_s": keep,
        "maps_s": measured["full_tile_s"]["maps"],
    }
