"""The Python API: the steps of the pipeline over an area, as functions on xarray objects.

    area = "4.42,50.88,4.46,50.91"
    scenes = geomap.search(area, "2023")
    series = geomap.composite(scenes, area)
    embeddings = geomap.embed(series)
    maps = geomap.label(embeddings, "water, forest, maize field")

`geomap` offers these functions lazily. Arrays hold the whole area in memory and carry their CRS (`.rio.crs`). For areas
that do not fit, or work that must survive a crash, use a run: `geomap.map_area` writes the same pixels to a directory.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from geomap.api.checks import checked_run
from geomap.api.labels import label as label
from geomap.api.series import composite as composite
from geomap.api.series import embed as embed
from geomap.api.series import search as search
from geomap.api.stores import open_store as open_store
from geomap.encode.weights import load_weights as load_weights
from geomap.run import map as runs

__all__ = ["composite", "embed", "label", "load_weights", "map_area", "open_store", "search"]


@wraps(runs.map_area, assigned=("__doc__", "__annotations__"))
def map_area(*asked: Any, **options: Any) -> runs.Result:
    """`geomap.run.map.map_area`, with its docstring; options that it would only miss late are checked."""
    return runs.map_area(*asked, **checked_run(options))
